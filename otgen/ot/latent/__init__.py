"""Operations on latents that keep their prior: interpolate, average, analogy, vicinity, walk, loop.

Averaging latents leaves the prior: the midpoint of two Gaussian latents is too short by sqrt 2, and generators draw
blurred images from it. Each operation here forms the intuitive combination y = sum_i w_i z_i and moves it to the
prior by the Monge map of the law of y, the change that is smallest in mean square among all that restore the prior.

The prior is kept as a law over random inputs: the result for random latents follows it. The result for one fixed pair
of latents may still lie anywhere.

`operations` has the operations and `combination` the weighted sum that all of them compute. The laws are in `priors`
(stable laws and the uniform one), `tabulated` (laws whose sums are matched by a table, which `sums` makes) and `radial`
(rotation-invariant laws); `great_circle` has functions of directions. Every law is also a source of `og.semidiscrete`
(`sampler=`). `Learned` is offered here too, and defined beside the solver that it needs, in `otgen.ot.semidiscrete`,
whose sources are laws of this package.

Reference: Agustsson, Sage, Timofte and Van Gool (2019), arXiv 1711.01970; for `lol`, Bodin et al. (2024).
"""

import importlib

from otgen.ot.latent.operations import (
    STANDARD,
    analogy,
    bilinear,
    centroid,
    combine,
    grid,
    lerp,
    lol,
    loop,
    raw,
    slerp,
    subspace,
    vicinity,
    walk,
)
from otgen.ot.latent.priors import Cauchy, Normal, Prior, Stable, Uniform
from otgen.ot.latent.radial import Ball, MultivariateT, Sphere
from otgen.ot.latent.tabulated import CustomPrior, Empirical, MixturePrior, StudentT, TruncatedNormal

__all__ = [
    "STANDARD",
    "Ball",
    "Cauchy",
    "CustomPrior",
    "Empirical",
    "Learned",
    "MixturePrior",
    "MultivariateT",
    "Normal",
    "Prior",
    "Sphere",
    "Stable",
    "StudentT",
    "TruncatedNormal",
    "Uniform",
    "analogy",
    "bilinear",
    "centroid",
    "combine",
    "grid",
    "lerp",
    "lol",
    "loop",
    "raw",
    "slerp",
    "subspace",
    "vicinity",
    "walk",
]
_BEFORE = {"Custom": CustomPrior, "Mixture": MixturePrior}  # names of version 0.1


def __getattr__(name: str):
    """Import `Learned`, the one law that needs a solver, when it is first named; find classes by their names of 0.1."""
    if name == "Learned":
        return importlib.import_module("otgen.ot.semidiscrete.learned").Learned
    if name in _BEFORE:
        return _BEFORE[name]
    raise AttributeError(f"module 'otgen.ot.latent' has no attribute {name!r}")
