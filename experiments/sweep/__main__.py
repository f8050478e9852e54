"""Run a sweep."""

from experiments.sweep.launch import cli

cli()
