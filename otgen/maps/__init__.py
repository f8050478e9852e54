"""Learned transport maps from samples: one interface, several solvers, and a map put into one network.

`neural_map` has the interface (fit a map by the name of its solver, ask what it does); `c_transform`, `lp` and `icnn`
are the solvers, `training` is what they share, `calibration` keeps the noise of updates small, `distil` makes one
network of a map.
"""

from otgen.maps import distil, neural_map

__all__ = ["distil", "neural_map"]
