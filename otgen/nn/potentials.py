"""Potentials as networks: any function of a point, or a convex one whose gradient is a transport map."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.ot.products import product
from otgen.types import Array, Float


class Potential(nn.Module):
    """A dense network x [n, d] -> [n], zero before training.

    Attributes:
      hidden: widths of the hidden layers.

    Example:
      >>> x = jnp.ones((5, 3))
      >>> print(og.nn.potentials.Potential(hidden=(8,)).init_with_output(jax.random.key(0), x)[0])
      [0. 0. 0. 0. 0.]
    """

    hidden: Sequence[int] = (128, 128, 128)

    @nn.compact
    def __call__(self, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        """Return values [n]."""
        for width in self.hidden:
            x = nn.silu(nn.Dense(width)(x))
        return nn.Dense(1, kernel_init=nn.initializers.zeros)(x)[:, 0]


class Displacement(nn.Module):
    """A dense network x [n, d] -> x + v(x) [n, d], the identity before training.

    Attributes:
      hidden: widths of the hidden layers.

    Example:
      >>> x = jnp.ones((2, 3))
      >>> print(og.nn.potentials.Displacement(hidden=(8,)).init_with_output(jax.random.key(0), x)[0])
      [[1. 1. 1.]
       [1. 1. 1.]]
    """

    hidden: Sequence[int] = (256, 256)

    @nn.compact
    def __call__(self, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Moved points [n, d]."""
        h = x
        for width in self.hidden:
            h = nn.silu(nn.Dense(width)(h))
        return x + nn.Dense(x.shape[1], kernel_init=nn.initializers.zeros)(h)


class Convex(nn.Module):
    """An input-convex network psi(x) [n, d] -> [n]: |L x|^2 / 2 + <b, x> + layers fed with convex quadratics of x.

    Every unit of layer k reads sum_r <a_r, x>^2 + <w, x> + c; the layers are joined by non-negative weights and CELU,
    which is convex and increasing, so that psi is convex for any parameters. L starts as the identity and the weights
    of the last layer near zero: grad psi is the identity up to `start` before training. Products run at the highest
    precision.

    With a `sharpness` every unit of a joined layer has a sharpness s of its own, celu(s u) / s, which is learned as the
    softplus of a number. A map that tears its source apart has a potential with creases; without it a crease needs many
    large weights, which gradients reach slowly. Learned by its logarithm s would run away, and with it the curvature
    that an inverse has to find its way in.

    Attributes:
      hidden: widths of the layers.
      rank: squares that each unit sums.
      start: weight of every unit of the last layer before training.
      sharpness: largest logarithm of s before training, at which the units of a layer are spread from 0 on; None for
        s = 1, not learned.

    Example:
      >>> net, x = og.nn.potentials.Convex(hidden=(8,)), jnp.array([[1.0, 2.0], [3.0, 0.0], [2.0, 1.0]])
      >>> left, right, middle = net.init_with_output(jax.random.key(0), x)[0]
      >>> print(bool(middle <= (left + right) / 2))
      True

    Reference: Amos, Xu and Kolter (2017), arXiv 1609.07152; Korotin et al. (2021), arXiv 1909.13082, appendix B.
    """

    hidden: Sequence[int] = (64, 64, 32)
    rank: int = 1
    start: float = 0.01
    sharpness: float | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        """Return values [n]."""
        scale = x.shape[1] ** -0.5
        root = self.param("root", lambda _, size: jnp.eye(size, dtype=x.dtype), x.shape[1])
        shift = self.param("shift", nn.initializers.zeros, x.shape[1:], x.dtype)
        z = self._quadratic(0, self.hidden[0], scale, x)
        for k, width in enumerate(self.hidden[1:], 1):
            raw = self.param(f"joint_{k}", _around(-1.0, 0.1), (z.shape[1], width), x.dtype)
            z = self._bent(k, product(z, nn.softplus(raw) / z.shape[1]) + self._quadratic(k, width, scale, x))
        last = nn.softplus(self.param("last", _around(_raw(self.start), 0.0), (z.shape[1],), x.dtype))
        return product(z, last) + 0.5 * jnp.sum(product(x, root) ** 2, axis=1) + product(x, shift)

    def _bent(self, k: int, z: Array) -> Array:
        if self.sharpness is None:
            return nn.celu(z)
        spread = jnp.exp(jnp.linspace(0.0, self.sharpness, z.shape[1], dtype=z.dtype))
        sharp = nn.softplus(self.param(f"sharpness_{k}", lambda _: _raw(spread)))
        return nn.celu(sharp * z) / sharp

    def _quadratic(self, k: int, width: int, scale: float, x: Array) -> Array:
        normal = nn.initializers.normal
        factors = self.param(f"square_{k}", normal(0.5 * scale), (x.shape[1], self.rank * width), x.dtype)
        slope = self.param(f"slope_{k}", normal(scale), (x.shape[1], width), x.dtype)
        offset = self.param(f"offset_{k}", nn.initializers.zeros, (width,), x.dtype)
        squares = (product(x, factors) ** 2).reshape(x.shape[0], self.rank, width).sum(1)
        return squares + product(x, slope) + offset


def _around(centre: ArrayLike, deviation: float):
    return lambda key, shape, dtype: centre + deviation * jax.random.normal(key, shape, dtype)


def _raw(positive: ArrayLike) -> Array:
    """Return the numbers whose softplus these are; the exponential of a large one would overflow."""
    return positive + jnp.log(-jnp.expm1(-positive))
