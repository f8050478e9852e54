"""Many runs of an experiment, seeds by settings: `python -m experiments.sweep`."""
