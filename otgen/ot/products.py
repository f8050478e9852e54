"""Products of arrays at the highest precision, for all that must be accurate.

By default an accelerator rounds the factors of a product in float32: to ten bits on a GPU of NVIDIA (TF32), to seven on
a TPU (bfloat16). A transport that is solved by such products is wrong in its fourth digit or its third, and its status
cannot tell. All mathematics of this package multiplies by the functions here, and so do their derivatives, since those
of a product have its precision; networks, and costs that a user writes, multiply as they say themselves.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.ot.check import native
from otgen.types import Array

_HIGHEST = jax.lax.Precision.HIGHEST


def product(left: ArrayLike, right: ArrayLike) -> Array:
    """Return left @ right at the highest precision.

    Example:
      >>> print(og.costs.product(jnp.array([[1.0, 2.0]]), jnp.array([3.0, 4.0])))
      [11.]
    """
    left, right = jnp.asarray(native("left", left)), jnp.asarray(native("right", right))
    if not left.ndim or not right.ndim or left.shape[-1] != right.shape[max(0, right.ndim - 2)]:
        raise ValueError(f"left has shape {left.shape} and right {right.shape}: inner dimensions must be the same.")
    return jnp.matmul(left, right, precision=_HIGHEST)


def contract(indices: str, *arrays: ArrayLike) -> Array:
    """Return the sum of products that `jax.numpy.einsum` knows by these indices, at the highest precision.

    Example:
      >>> from otgen.ot.products import contract
      >>> print(contract("k,kd->d", jnp.array([1.0, 2.0]), jnp.eye(2)))
      [1. 2.]
    """
    return jnp.einsum(indices, *arrays, precision=_HIGHEST)
