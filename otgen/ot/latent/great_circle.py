"""Directions of vectors of any size, and the way along the great circle between two of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from otgen.types import Array


def norm(z: Array, event_ndim: int = 1) -> Array:
    """Return the norms over the trailing axes, which stay as axes of length 1. No square over- or underflows.

    The gradient at zero is zero.
    """
    largest, zero = _largest(z, event_ndim)
    square = jnp.sum((z / largest) ** 2, _axes(event_ndim), keepdims=True)
    return jnp.where(zero, 0.0, largest * jnp.sqrt(jnp.where(zero, 1.0, square)))


def unit(z: Array, event_ndim: int = 1) -> tuple[Array, Array]:
    """Return vectors over their norms, zero for vectors that vanish, and which of them vanish [..., 1]."""
    largest, zero = _largest(z, event_ndim)
    z = z / largest
    square = jnp.sum(z**2, _axes(event_ndim), keepdims=True)
    return z / jnp.sqrt(jnp.where(zero, 1.0, square)), zero


def _axes(event_ndim: int) -> tuple[int, ...]:
    return tuple(range(-event_ndim, 0))


def _largest(z: Array, event_ndim: int) -> tuple[Array, Array]:
    """Return the largest entry of every vector, 1 for vectors that vanish, and which of them vanish."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(z), _axes(event_ndim), keepdims=True))
    zero = largest == 0
    return jnp.where(zero, 1.0, largest), zero


def orthogonal(z: Array, event_ndim: int = 1) -> Array:
    """Return unit vectors at right angles to z: the axis farthest from z, less its projection on z, over its norm.

    In one dimension there is no such vector, and the axis itself is returned; so it is for vectors that vanish.
    """
    flat = z.reshape(*z.shape[: z.ndim - event_ndim], -1)
    u, _ = unit(jax.lax.stop_gradient(flat))
    dim = flat.shape[-1]
    axis = jax.nn.one_hot(jnp.argmin(jnp.abs(u), -1), dim, dtype=u.dtype)
    rest = axis if dim == 1 else axis - u * jnp.sum(axis * u, -1, keepdims=True)
    return unit(rest)[0].reshape(z.shape)


def _sinc(x: Array) -> Array:
    """Return sin(x) / x, by its series where the derivative of the quotient would be mere rounding."""
    small = jnp.abs(x) < 0.1
    safe, square = jnp.where(small, 1.0, x), jnp.where(small, x, 0.0) ** 2
    series = 1 - square / 6 * (1 - square / 20 * (1 - square / 42 * (1 - square / 72)))
    return jnp.where(small, series, jnp.sin(safe) / safe)


def slerp(t: Array, z0: Array, z1: Array) -> Array:
    """Interpolate along great circles of the last axis: (sin((1 - t) angle) z0 + sin(t angle) z1) / sin(angle).

    Between opposite vectors all great circles are equally short. The one taken here passes through `orthogonal(z0)`,
    and its norms are those of the straight line between the two norms.

    Args:
      t: [...], whose axes lead. z0, z1: [..., d].
    """
    t = t.reshape(*t.shape, *(1,) * z0.ndim)
    (u0, _), (u1, _) = unit(z0), unit(z1)
    apart, together = norm(u0 - u1), norm(u0 + u1)
    angle = 2 * jnp.arctan2(apart, together)  # right for small angles too, where the cosine is flat
    opposite = together <= 32 * jnp.finfo(u0.dtype).eps
    near = apart * together / (2 * jnp.maximum(angle, 1.0))  # keeps its digits close to pi
    sinc = jnp.where(together < 1e-2, near, _sinc(angle))
    sinc = jnp.where(opposite, 1.0, sinc)
    first, second = (s * (_sinc(s * angle) / sinc) for s in (1 - t, t))  # exactly 1 at the ends
    between = first * z0 + second * z1
    size = (1 - t) * norm(z0) + t * norm(z1)
    around = size * (jnp.cos(jnp.pi * t) * u0 + jnp.sin(jnp.pi * t) * orthogonal(z0))
    return jnp.where(opposite, around, between)
