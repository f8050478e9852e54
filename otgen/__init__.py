"""otgen: optimal-transport generative modelling in JAX.

The names a notebook types; everything else lives in the modules they come from. Heavy parts (models, plots) load when
they are first used, with them `save` and `load` of trained models.

Examples in docstrings take `og`, `jax`, `jnp` and `np` for imported (`import otgen as og`, ...) and `data_dir` for the
folder of the data; the numbers that they show are rounded.
"""

import importlib

from otgen.ot import barycenter as barycenter
from otgen.ot import costs as costs
from otgen.ot import coupling as coupling
from otgen.ot import dual as dual
from otgen.ot import exact as exact
from otgen.ot import gaussian as gaussian
from otgen.ot import latent as latent
from otgen.ot import semidiscrete as semidiscrete
from otgen.ot import sinkhorn as sinkhorn
from otgen.ot import structured as structured
from otgen.ot.costs import DenseCost as DenseCost
from otgen.ot.costs import PairwiseCost as PairwiseCost
from otgen.ot.costs import adapters as adapters
from otgen.ot.costs import distances as distances
from otgen.ot.costs.adapters import from_ott as from_ott
from otgen.ot.costs.adapters import to_ott as to_ott
from otgen.ot.costs.padding import pad_clouds as pad_clouds
from otgen.ot.costs.relative import epsilon as epsilon
from otgen.ot.dual import smoothing as smoothing
from otgen.ot.gaussian import mixture as mixture
from otgen.ot.semidiscrete import extension as extension
from otgen.ot.semidiscrete import source as source
from otgen.ot.sinkhorn import low_rank as low_rank
from otgen.ot.sinkhorn.divergence import sinkhorn_divergence as sinkhorn_divergence
from otgen.ot.sinkhorn.drift import drift as drift
from otgen.ot.structured import perturbed as perturbed
from otgen.types import Status as Status
from otgen.types import explain as explain

__version__ = "0.2.0"
_LAZY = ("data", "eval", "maps", "models", "nn", "plot", "store", "theory", "train")
_FUNCTIONS = {"load": "otgen.store", "save": "otgen.store"}


def __getattr__(name: str):
    """Import a part of the library when it is first named."""
    if name in _LAZY:
        return importlib.import_module(f"otgen.{name}")
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    raise AttributeError(f"module 'otgen' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *_FUNCTIONS})
