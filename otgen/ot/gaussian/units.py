"""Units in which numbers are of order one, so that their squares neither overflow nor underflow in float32.

A unit is a power of two, so that dividing by it and multiplying by it again rounds nothing. Differentiation treats it
as a constant, which is right for functions that are homogeneous in their arguments.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.types import Array


def unit(size: ArrayLike) -> Array:
    """Return the largest power of two that is no larger than the size; 1 for zero and for what is not finite.

    Args:
      size: [...], not negative.

    Returns:
      [...], of the same type.

    Example:
      >>> from otgen.ot.gaussian.units import unit
      >>> print(unit(jnp.array([0.75, 1.0, 1000.0, 0.0, jnp.inf])))
      [0.5 1. 512. 1. 1.]
    """
    size = jax.lax.stop_gradient(jnp.asarray(size))
    legal = jnp.isfinite(size) & (size >= jnp.finfo(size.dtype).tiny)
    _, exponent = jnp.frexp(jnp.where(legal, size, 1.0))
    return jnp.ldexp(jnp.ones_like(size), exponent - 1)


def sizes(matrices: Array) -> Array:
    """Return the largest magnitude in each of the matrices [..., p, q], shape [..., 1, 1]."""
    return jnp.max(jnp.abs(jax.lax.stop_gradient(matrices)), (-2, -1), keepdims=True)


def of_lengths(covs: Array) -> Array:
    """Return the unit of length of each of the covariances [..., d, d], shape [..., 1, 1].

    Its square is the unit of the covariances.

    Example:
      >>> from otgen.ot.gaussian.units import of_lengths
      >>> print(of_lengths(jnp.array([[1e6]])))  # of lengths of 1000
      [[512.]]
    """
    return unit(jnp.sqrt(sizes(covs)))
