"""Where a semi-discrete solve starts: heights that are exact for affine images of the source."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from otgen.ot.products import product
from otgen.ot.semidiscrete.descent import lying_out, shifted
from otgen.ot.semidiscrete.scores import TILE, top_scores
from otgen.ot.semidiscrete.source import draw
from otgen.types import Array, Float, Key, Sampler

_TOUCHING = 4 * TILE  # samples at which a new plane may touch the potential
_PER_CLUSTER = 32  # points that the centres of clusters are found from, for each
_LLOYD = 8  # iterations; the centres need not be the best


@functools.partial(jax.jit, static_argnames="sampler")
def start(key: Key, y: Float[Array, "N d"], weights: Float[Array, " N"], sampler: Sampler) -> Float[Array, " N"]:
    """Return heights of centred points: exact in one dimension, those of the optimal affine map elsewhere.

    Points of weight zero are to lie at 0, as `descent.centred` puts them; their heights mean nothing.
    """
    if y.shape[1] == 1 and hasattr(sampler, "from_cube"):
        return _exact_on_the_line(y, weights, sampler)
    return _affine(draw(key, sampler, 0, TILE, y.shape[1], y.dtype), y, weights)


@functools.partial(jax.jit, static_argnames="sampler")
def conjugate(
    key: Key, h: Float[Array, " M"], old: Float[Array, "M d"], y: Float[Array, "N d"], sampler: Sampler
) -> Float[Array, " N"]:
    """Return heights of points y from heights of old points, by the conjugate of the potential: h(y) = -u*(y).

    u*(y) = max_x <y, x> - u(x), over some samples of the source: the plane of a new point is the highest of its slope
    that touches the potential from below. (To hand the potential 2 h + |y|^2 of the nearest old point on instead is far
    worse: in 64 dimensions a few points then win nearly everything.)
    """
    x = draw(key, sampler, 0, _TOUCHING, y.shape[1], y.dtype)
    centre = jnp.mean(old, 0, where=~lying_out(h)[:, None])
    value, _ = top_scores(x, *shifted(old, h))
    return -top_scores(y - centre, x, -value[:, 0])[0][:, 0]


@functools.partial(jax.jit, static_argnames="num")
def clusters(
    key: Key, y: Float[Array, "N d"], weights: Float[Array, " N"], num: int
) -> tuple[Float[Array, "{num} d"], Float[Array, " {num}"]]:
    """Return centres of `num` clusters and their masses, by Lloyd's iterations; a cluster may be left without mass."""
    choice, start = jax.random.split(key)
    size = min(_PER_CLUSTER * num, y.shape[0])
    some = jax.random.choice(choice, y.shape[0], (size,), replace=False, p=weights)
    centres = y[some][jax.random.permutation(start, size)[:num]]

    def nearest(points, centres):
        return top_scores(points, centres, -0.5 * jnp.sum(centres**2, 1))[1][:, 0]

    def update(points, mass, centres):
        label = nearest(points, centres)
        total = jnp.zeros(num, y.dtype).at[label].add(mass)
        sums = jnp.zeros_like(centres).at[label].add(mass[:, None] * points)
        return jnp.where(total[:, None] > 0, sums / jnp.maximum(total, 1e-30)[:, None], centres), total

    sample, equal = y[some], jnp.full(size, 1 / size, y.dtype)
    centres = jax.lax.fori_loop(0, _LLOYD, lambda _, centres: update(sample, equal, centres)[0], centres)
    return update(y, weights, centres)


def _exact_on_the_line(y: Array, weights: Array, sampler: Sampler) -> Array:
    """Neighbouring cells meet at the quantile of the mass below: h_{i+1} = h_i - quantile (y_{i+1} - y_i)."""
    order = jnp.argsort(y[:, 0])
    points = y[order, 0]
    level = jnp.clip(jnp.cumsum(weights[order])[:-1], 2.0**-24, 1 - 2.0**-24)
    quantile = sampler.from_cube(level[:, None])[:, 0]
    heights = jnp.concatenate([jnp.zeros(1), jnp.cumsum(-quantile * jnp.diff(points))])
    return jnp.zeros_like(heights).at[order].set(heights)


def _affine(x: Array, y: Array, weights: Array) -> Array:
    """Return heights of the optimal affine map between the first two moments of source and target.

    If T(x) = A (x - m) with A symmetric positive then u*(y) = <y, A^-1 y>/2 + <m, y> and h = -u*. The covariance of the
    source is taken as s^2 I, so A^-1 = s Cov(y)^(-1/2), pseudo-inverted where y is flat.
    """
    mean = x.mean(0)
    deviation = jnp.sqrt(jnp.mean((x - mean) ** 2))
    variance, axes = jnp.linalg.eigh(product((y * weights[:, None]).T, y))
    inverse_root = jnp.where(variance > 1e-6 * variance[-1], variance, jnp.inf) ** -0.5
    return -0.5 * deviation * jnp.sum(product(y, axes) ** 2 * inverse_root, axis=1) - product(y, mean)
