"""The polar factor by matrix products alone, which batch well and may stand in a loop (see `factors.after`)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from otgen.ot.gaussian.units import sizes, unit
from otgen.ot.products import product
from otgen.types import Array, Float

# Coefficients of x (a + b x^2 + c x^4). GROW multiplies small singular values by 3.4, keeps large ones in (.68, 1.13).
GROW = (3.4445, -4.7750, 2.0315)
SETTLE = (1.875, -1.25, 0.375)  # converges to 1 with third order


def polar(x: Float[Array, "*batch p q"]) -> Float[Array, "*batch p q"]:
    """Return the nearest partial isometry U V' of matrices X = U S V' by Newton-Schulz iterations.

    Singular values at the rounding level of the largest may end anywhere between 0 and 1. There is no derivative.

    Args:
      x: [..., p, q].

    Returns:
      [..., p, q], with orthonormal rows (or columns, if there are fewer) where X has full rank.

    Reference: Higham (2008), Functions of Matrices, section 8.3; the coefficients of the first phase are Jordan's
    (2024), for the Muon optimiser.
    """
    x = jax.lax.stop_gradient(x)
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT
    x = x / unit(sizes(x))  # squares of very large or small numbers would leave float32
    size = jnp.sqrt(jnp.sum(x**2, (-2, -1), keepdims=True))
    x = x / jnp.where(size > 0, size, 1.0)

    def step(x: Array, coefficients: tuple[float, float, float]) -> Array:
        first, third, fifth = coefficients
        gram = product(x, x.mT)
        return first * x + product(third * gram + fifth * product(gram, gram), x)

    growths = 14 if x.dtype == jnp.float32 else 30  # 3.4^14 > 1e7, 3.4^30 > 1e15
    x = jax.lax.fori_loop(0, growths, lambda _, x: step(x, GROW), x)
    x = jax.lax.fori_loop(0, 5, lambda _, x: step(x, SETTLE), x)
    return x if wide else x.mT
