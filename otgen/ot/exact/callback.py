"""The cost matrix that the host's solvers are given, and calls of them from inside jit."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from otgen.ot.check import require_costs
from otgen.ot.costs import Cost, DenseCost
from otgen.types import Array

INFEASIBLE = "{} avoids the forbidden pairs, those of cost +inf: allow some of them at a high finite cost."

# A thread of XLA's pool waits in a callback for its arguments, which another one copies: on one core there is none.
if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) == 1:
    os.environ.setdefault("PJRT_NPROC", "2")  # read when JAX first meets its devices


def matrix_of(cost: Cost) -> Array:
    """Return the cost matrix, refusing NaN and minus infinity outside jit."""
    matrix = cost.values if isinstance(cost, DenseCost) else _written(cost)
    require_costs("the cost matrix", matrix)
    return matrix


@jax.jit
def _written(cost: Cost) -> Array:
    return cost.matrix()


def called_back(host: Callable, shapes: tuple, *given: Array) -> list[Array]:
    """Call a host function of arrays of one type."""
    dtype = given[0].dtype
    like = tuple(of.shape for of in given)

    def words(of: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        # as 32-bit words, because under the context jax.enable_x64 a callback would round float64
        return jax.ShapeDtypeStruct(of.shape + ((2,) if of.dtype.itemsize == 8 else ()), jnp.uint32)

    def called(*given: Any) -> tuple[np.ndarray, ...]:
        given = (np.ascontiguousarray(of).view(dtype).reshape(to) for of, to in zip(given, like, strict=True))
        found = zip(host(*given), shapes, strict=True)
        return tuple(np.ascontiguousarray(of).reshape(-1).view(np.uint32).reshape(words(to).shape) for of, to in found)

    given = (jax.lax.bitcast_convert_type(of, jnp.uint32) for of in given)
    found = jax.pure_callback(called, tuple(map(words, shapes)), *given, vmap_method="sequential")
    return [jax.lax.bitcast_convert_type(of, to.dtype) for of, to in zip(found, shapes, strict=True)]
