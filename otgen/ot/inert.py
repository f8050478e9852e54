"""Arithmetic in which points without weight, padding, and forbidden pairs have no part: no overflow, no NaN."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.types import Array

CAP = 60.0  # largest exponent of a kernel, reached by points without mass alone: exp(60) times weight zero is zero
GROUPS = 64  # of points, whose means are sorted to find the middle of a cloud


def gibbs(block: Array, f: ArrayLike, g: ArrayLike, epsilon: ArrayLike, cap: float = CAP) -> Array:
    """Return exp((f_i + g_j - c_ij) / epsilon) in a block of a cost: a plan's density over its marginals' product.

    Zero, with derivatives zero, where a pair is forbidden (an infinite cost) and where a potential is minus infinity.

    Args:
      block: costs [n, m].
      f: potential of the rows [n].
      g: potential of the columns [m].
      epsilon: temperature, in units of the cost.
      cap: what larger exponents are taken for. Static.

    Example:
      >>> print(og.ot.inert.gibbs(jnp.array([[1.0, jnp.inf]]), jnp.array([1.0]), jnp.zeros(2), 0.5))
      [[1. 0.]]
    """
    f, g = jnp.asarray(f)[:, None], jnp.asarray(g)
    none = (block == jnp.inf) | (f == -jnp.inf) | (g == -jnp.inf)
    f, g = (jnp.where(potential == -jnp.inf, 0.0, potential) for potential in (f, g))
    exponent = (f + g - jnp.where(none, 0.0, block)) / epsilon  # no infinity in it, or derivatives would be NaN
    return jnp.where(none, 0.0, jnp.exp(jnp.minimum(exponent, cap)))


def carried(potential: ArrayLike, mass: ArrayLike) -> Array:
    """Return a potential that is minus infinity at points without mass, which leaves them out of `gibbs`.

    Example:
      >>> print(og.ot.inert.carried(jnp.array([1.0, 1e30]), jnp.array([0.5, 0.0])))
      [  1. -inf]
    """
    return jnp.where(mass > 0, potential, -jnp.inf)


def tiles(rows: Array, size: int, **fill: Any) -> Array:
    """Return rows [n, ...] in tiles [ceil(n / size), size, ...], the last of them filled up.

    Args:
      rows: of any kind, one or more.
      size: rows in a tile. Static.
      **fill: with what, as `jnp.pad` takes it; zeros if nothing is said.

    Example:
      >>> print(og.ot.inert.tiles(jnp.array([1, 2, 3]), 2))
      [[1 2]
       [3 0]]
    """
    num = rows.shape[0]
    padded = jnp.pad(rows, [(0, -num % size)] + [(0, 0)] * (rows.ndim - 1), **fill)
    return padded.reshape(-(-num // size), size, *rows.shape[1:])


@jax.jit
def middle(x: Array, y: Array, a: ArrayLike | None = None, b: ArrayLike | None = None) -> Array:
    """Return a point amid two clouds [d]: the median of the means of groups of their points, coordinate by coordinate.

    Points without weight do not count and outliers, unless they are many, do not move it: squared distances are taken
    from here, and lose digits to all that is far. Constant to differentiation.

    Args:
      x: points [n, d].
      y: points [m, d].
      a: weights of x [n], of which only the sign is read; None for positive ones.
      b: weights of y [m].

    Example:
      >>> x = jnp.array([[0.0], [1.0], [2.0], [1e6], [1e30]])
      >>> a = jnp.array([1.0, 1.0, 1.0, 1.0, 0.0])
      >>> print(og.ot.inert.middle(x, x, a, a))
      [1.5]
    """
    sums = jnp.concatenate([_sums_of_groups(x, a), _sums_of_groups(y, b)])
    counts = sums[:, -1:]
    means = sums[:, :-1] / jnp.where(counts > 0, counts, jnp.nan)
    ordered = jnp.sort(means, 0)  # groups without a point are NaN, and last
    num = jnp.sum(counts > 0)
    return jax.lax.stop_gradient(0.5 * (ordered[jnp.maximum(num - 1, 0) // 2] + ordered[num // 2]))


def _sums_of_groups(points: Array, weights: ArrayLike | None) -> Array:
    """Return sums of every k-th point, and how many there are: [k, d + 1]."""
    num = points.shape[0]
    points = jnp.concatenate([jax.lax.stop_gradient(points), jnp.ones((num, 1), points.dtype)], 1)
    if weights is not None:
        points = jnp.where(jnp.asarray(weights)[:, None] > 0, points, 0.0)
    return tiles(points, min(num, GROUPS)).sum(0)
