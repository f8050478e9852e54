"""A temperature as a share of what the cost is like, so that it means the same in any unit."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.ot.check import as_mass, is_traced, require_choice, require_positive
from otgen.ot.costs.ground import Cost, as_cost
from otgen.ot.products import product
from otgen.types import Array, Float

LEVELS = ("mean", "std", "median", "max")
_PAIRS = 2**20  # of a larger cost the median is that of so many pairs


def epsilon(
    cost: Cost | ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    share: ArrayLike = 0.05,
    of: str = "mean",
) -> Float[Array, ""]:
    """Return a temperature for entropic transport: a share of the cost's mean, deviation, median or maximum.

    Multiplying the cost by a number multiplies it likewise, and the plan stays what it is. Forbidden pairs, those of
    cost +inf, and pairs without mass do not count. It streams, and it is a constant to differentiation; where epsilon
    is to follow the points, give `share * cost.mean()`.

    Args:
      cost: ground cost n x m: DenseCost, PairwiseCost, or a matrix [n, m].
      a: weights of the source points [n], of any total; uniform for None.
      b: weights of the target points [m]; the same.
      share: of the level; .05 of the mean is a plan that blurs little.
      of: "mean", or "std", the standard deviation, of independent pairs; "median", of pairs with mass, counted alike,
        among more than 2**20 pairs of a random sample of as many; or "max". Static.

    Returns:
      epsilon, in units of the cost, as `sinkhorn.run` takes it. Zero where all costs are.

    Raises:
      ValueError: for an unknown level, and outside jit for shares that are not positive and weights that cannot be.

    Example:
      >>> x, y = jax.random.normal(jax.random.key(0), (2, 100, 3))
      >>> cost = og.PairwiseCost(x, y)
      >>> solution, info = og.sinkhorn.run(cost, epsilon=og.epsilon(cost, share=0.05))
      >>> print(og.epsilon(og.DenseCost(jnp.array([[0.0, 2.0], [4.0, jnp.inf]])), share=0.1))
      0.2
    """
    cost = as_cost(cost)
    require_choice("of", of, LEVELS)
    require_positive("share", share)
    n, m = cost.shape
    a, b = (as_mass(name, mass, num, cost.dtype) for name, mass, num in (("a", a, n), ("b", b, m)))
    found = jax.lax.stop_gradient(_level(cost.weighed(a, b), a, b, of))
    return (share if is_traced(share) else jnp.asarray(share, found.dtype)) * found


@partial(jax.jit, static_argnames="of")
def _level(cost: Cost, a: Array, b: Array, of: str) -> Array:
    if of == "median":
        return _median(cost, a, b)
    if of == "max":
        return jnp.max(cost.map_blocks(lambda block, a: _largest(block, a, b), a))
    if of == "mean" and cost.factored:
        return product(a, cost._times(b[:, None], 1))[0] / (jnp.sum(a) * jnp.sum(b))
    mean = _mean(cost, a, b, 0.0, 1)
    return mean if of == "mean" else jnp.sqrt(_mean(cost, a, b, mean, 2))


def _counted(block: Array, a: Array, b: Array) -> Array:
    return (block < jnp.inf) & (a[:, None] > 0) & (b > 0)


def _largest(block: Array, a: Array, b: Array) -> Array:
    return jnp.max(jnp.where(_counted(block, a, b), block, -jnp.inf), 1)


def _mean(cost: Cost, a: Array, b: Array, level: ArrayLike, power: int) -> Array:
    """Return the mean of (c_ij - level)^power over independent pairs that are allowed."""

    def row(block: Array, a: Array) -> tuple[Array, Array]:
        counted = _counted(block, a, b)
        values = jnp.where(counted, (block - level) ** power, 0.0)
        return jnp.sum(values * b, 1), jnp.sum(jnp.where(counted, b, 0.0), 1)

    sums, masses = cost.map_blocks(row, a)
    return jnp.sum(a * sums) / jnp.sum(a * masses)


def _median(cost: Cost, a: Array, b: Array) -> Array:
    n, m = cost.shape
    if n * m <= _PAIRS:
        values, counted = cost.matrix(), _counted(cost.matrix(), a, b)
    else:
        left, right = jax.random.split(jax.random.key(0))
        i = jax.random.choice(left, n, (_PAIRS,), p=(a > 0).astype(a.dtype))
        j = jax.random.choice(right, m, (_PAIRS,), p=(b > 0).astype(b.dtype))
        values = cost.pairs(i, j)
        counted = values < jnp.inf
    return jnp.nanmedian(jnp.where(counted, values, jnp.nan))
