"""Where a semi-discrete solve starts: heights that are exact for affine images of the source."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Float

from otgen.ot.scores import TILE
from otgen.ot.source import draw
from otgen.types import Array, Key, Sampler


@functools.partial(jax.jit, static_argnames="sampler")
def start(key: Key, y: Float[Array, "N d"], weights: Float[Array, " N"], sampler: Sampler) -> Float[Array, " N"]:
    """Return heights of centred points: exact in one dimension, those of the optimal affine map elsewhere."""
    if y.shape[1] == 1 and hasattr(sampler, "from_cube"):
        return _exact_on_the_line(y, weights, sampler)
    return _affine(draw(key, sampler, 0, TILE, y.shape[1]), y, weights)


def _exact_on_the_line(y: Array, weights: Array, sampler: Sampler) -> Array:
    """Neighbouring cells meet at the quantile of the mass below: h_{i+1} = h_i - quantile (y_{i+1} - y_i)."""
    order = jnp.argsort(y[:, 0])
    points = y[order, 0]
    level = jnp.clip(jnp.cumsum(weights[order])[:-1], 2.0**-24, 1 - 2.0**-24)
    quantile = sampler.from_cube(level[:, None])[:, 0]
    heights = jnp.concatenate([jnp.zeros(1), jnp.cumsum(-quantile * jnp.diff(points))])
    return jnp.zeros_like(heights).at[order].set(heights)


def _affine(x: Array, y: Array, weights: Array) -> Array:
    """Heights of the optimal affine map between the first two moments of source and target.

    If T(x) = A (x - m) with A symmetric positive then u*(y) = <y, A^-1 y>/2 + <m, y> and h = -u*. The covariance of the
    source is taken as s^2 I, so A^-1 = s Cov(y)^(-1/2), pseudo-inverted where y is flat.
    """
    mean = x.mean(0)
    deviation = jnp.sqrt(jnp.mean((x - mean) ** 2))
    variance, axes = jnp.linalg.eigh((y * weights[:, None]).T @ y)
    inverse_root = jnp.where(variance > 1e-6 * variance[-1], variance, jnp.inf) ** -0.5
    return -0.5 * deviation * jnp.sum((y @ axes) ** 2 * inverse_root, axis=1) - y @ mean
