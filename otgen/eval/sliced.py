"""The sliced Wasserstein distance: transport of the shadows of two samples on random lines, which sorting solves."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen import sizes
from otgen.eval.intervals import Estimate, mean_of
from otgen.eval.samples import as_samples
from otgen.ot.check import as_count, as_key, as_mass
from otgen.ot.inert import middle
from otgen.ot.products import product
from otgen.types import Array, Key


def sliced_w2_sq(
    key: Key,
    x: ArrayLike,
    y: ArrayLike,
    num: int = 256,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    orthogonal: bool = True,
) -> Estimate:
    """Return the squared sliced 2-Wasserstein distance, the mean over directions of squared distances on the line.

    SW^2 = E_u W2^2(<u, x>, <u, y>), u uniform on the sphere; for laws that differ by a shift s it is |s|^2 / d. Points
    weigh the same within a sample unless weights are given; samples are coupled by their quantiles, exactly. The error
    is that of taking `num` directions for all of them, for these samples: both samples are held fixed, and the value is
    biased upwards by their size, as all transport distances between samples are.

    Args:
      key: PRNG key of the directions.
      x: features [n, d].
      y: features [m, d].
      num: directions, at least 16. Static.
      a: weights of x [n], of any total; uniform for None. Zero leaves a point out.
      b: weights of y [m]; the same.
      orthogonal: whether directions are drawn in orthonormal sets, no more than num / 8 at a time, num rounded up to
        whole sets; as unbiased as independent ones. For 256 directions between clouds that differ in three means and
        all variances, the variance was 26 times less at d = 8, 58 at d = 32, 1.7 at d = 84, 1.2 at d = 512. Static.

    Returns:
      Estimate in squared units of the features; its error is taken between independent (sets of) directions.

    Raises:
      ValueError: for other shapes, different dimensions, fewer than 16 directions, or (outside jit) non-finite
        features, or weights that are negative or all zero.

    Example:
      >>> x = jax.random.normal(jax.random.key(0), (50, 2))
      >>> print(og.eval.sliced_w2_sq(jax.random.key(1), x, x + jnp.array([3.0, 0.0])).value)  # |s|^2 / d
      4.5

    Reference: Bonneel et al. (2015), Sliced and Radon Wasserstein barycenters of measures; Rowland et al. (2019),
    Orthogonal estimation of Wasserstein distances, arXiv 1903.03784.
    """
    x, y = as_samples(1, x=x, y=y)
    num = as_count("num", num, 16)  # as many as a standard error needs; 256 are usual
    size = min(x.shape[1], num // 8) if orthogonal else 1
    directions = _directions(as_key(key), -(-num // size), size, x.shape[1]).astype(x.dtype)
    return mean_of(projected_w2_sq(x, y, directions, a, b).reshape(-1, size).mean(1))


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _directions(key: Key, sets: int, size: int, d: int) -> Array:
    """Return unit vectors [sets * size, d], orthonormal within a set; each is uniform on the sphere."""
    normal = jax.random.normal(key, (sets, d, size))
    if size == 1:
        return (normal / jnp.linalg.norm(normal, axis=1, keepdims=True))[..., 0]
    q, r = jnp.linalg.qr(normal)
    q = q * jnp.sign(jnp.diagonal(r, axis1=1, axis2=2))[:, None]  # signs of QR are LAPACK's choice
    return q.transpose(0, 2, 1).reshape(-1, d)


def projected_w2_sq(
    x: ArrayLike, y: ArrayLike, directions: ArrayLike, a: ArrayLike | None = None, b: ArrayLike | None = None
) -> Array:
    """Return the squared 2-Wasserstein distances [k] of samples [n, d], [m, d] projected on directions [k, d].

    Args:
      x: points [n, d].
      y: points [m, d].
      directions: unit vectors [k, d].
      a: weights of x [n], of any total; uniform for None.
      b: weights of y [m]; the same.

    Raises:
      ValueError: as in `sliced_w2_sq`.

    Example:
      >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([[2.0]])
      >>> print(og.eval.sliced.projected_w2_sq(x, y, jnp.array([[1.0]]), a=jnp.array([0.25, 0.75])))  # (4 + 3 x 1) / 4
      [1.75]
    """
    x, y, directions = as_samples(1, x=x, y=y, directions=directions)
    if a is None and b is None:
        return _projected(x, y, directions)
    a, b = (as_mass(name, mass, points.shape[0], x.dtype) for name, mass, points in (("a", a, x), ("b", b, y)))
    return _projected_weighted(x, y, directions, a, b)


@jax.jit
def _projected(x: Array, y: Array, directions: Array) -> Array:
    shift = middle(x, y)
    x, y = x - shift, y - shift
    i, j, mass = _quantiles(x.shape[0], y.shape[0])
    mass = mass.astype(x.dtype)

    def on_line(u: Array) -> Array:
        gap = jnp.sort(product(x, u))[i] - jnp.sort(product(y, u))[j]
        return jnp.sum(mass * gap**2)

    return _each(on_line, x, y, directions)


@jax.jit
def _projected_weighted(x: Array, y: Array, directions: Array, a: Array, b: Array) -> Array:
    shift = middle(x, y, a, b)
    # Points without weight move to where they cannot overflow, and share in no quantile.
    x, y = (jnp.where(mass[:, None] > 0, points - shift, 0.0) for points, mass in ((x, a), (y, b)))

    def ordered(points: Array, mass: Array, u: Array) -> tuple[Array, Array]:
        shadow = product(points, u)
        order = jnp.argsort(shadow)
        cumulated = jnp.cumsum(mass[order])
        return shadow[order], cumulated / cumulated[-1]

    def on_line(u: Array) -> Array:
        (shadow_x, levels_x), (shadow_y, levels_y) = ordered(x, a, u), ordered(y, b, u)
        levels = jnp.sort(jnp.concatenate([levels_x, levels_y]))
        start = jnp.concatenate([jnp.zeros(1, levels.dtype), levels[:-1]])
        amid = 0.5 * (start + levels)
        gap = _at(levels_x, shadow_x, amid) - _at(levels_y, shadow_y, amid)
        return jnp.sum((levels - start) * gap**2)

    return _each(on_line, x, y, directions)


def _at(levels: Array, shadow: Array, amid: Array) -> Array:
    """Return the quantiles of a weighted sample on the line at levels between its own."""
    return shadow[jnp.minimum(jnp.searchsorted(levels, amid), shadow.shape[0] - 1)]


def _each(on_line: Callable[[Array], Array], x: Array, y: Array, directions: Array) -> Array:
    block = max(1, sizes.here().alive // (x.shape[0] + y.shape[0]))
    return jax.lax.map(on_line, directions, batch_size=min(block, directions.shape[0]))


def _quantiles(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranks that the optimal plan on the line joins, and their masses, for n and m equal weights; in whole numbers."""
    levels = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)  # in units of 1 / (n m)
    start = np.concatenate([[0], levels[:-1]])
    return start // m, start // n, (levels - start) / (n * m)
