"""Ratios against named peers on the same problem in the same run, written to `benchmarks/`."""
