"""Experiments: one script per system, run as `python -m experiments.NAME`."""
