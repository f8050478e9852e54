"""Flow matching with optimal-transport couplings: few steps from noise to data, along straight paths.

Minimises E w |v(t, x_t, label) - (x1 - x0)|^2 over the velocity field v, x_t = (1 - t) x0 + t x1, t in [0, 1], over
pairs of noise x0 and data x1 that a coupling of `og.coupling` draws, with its weights w. Samples follow dx/dt = v(t, x)
from noise at t = 0. Where noise and data are paired by optimal transport, paths do not cross, and a step or four do.

`training` has the configuration, the loss and the step, `pairs` what they are given, `fitting` the fit that assembles
them; `paths` has sampling, encoding and decoding, `density` the log-likelihood, the score and the straightness.

Reference: Lipman, Chen, Ben-Hamu, Nickel and Le (2023), arXiv 2210.02747; Tong et al. (2024), arXiv 2302.00482;
Mousavi-Hosseini et al. (2025), arXiv 2509.25519 (semi-discrete coupling).
"""

from otgen.models.flow.density import log_prob, score, straightness
from otgen.models.flow.fitting import fit
from otgen.models.flow.paths import decode, encode, move, sample, velocity
from otgen.models.flow.training import COUPLINGS, METHODS, Config, Flow, init, loss, make_step

__all__ = [
    "COUPLINGS",
    "METHODS",
    "Config",
    "Flow",
    "decode",
    "encode",
    "fit",
    "init",
    "log_prob",
    "loss",
    "make_step",
    "move",
    "sample",
    "score",
    "straightness",
    "velocity",
]
