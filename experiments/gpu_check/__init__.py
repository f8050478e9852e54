"""Checks of an accelerator: `python -m experiments.gpu_check`."""
