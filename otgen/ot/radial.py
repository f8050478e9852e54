"""Rotation-invariant priors: sums of their draws are brought back along the radius."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import betainc

from otgen.ot.priors import _DRAWS, _NODES, Prior, _pytree
from otgen.types import Array, Key


def _axes(event_ndim: int) -> tuple[int, ...]:
    return tuple(range(-event_ndim, 0))


def _norm(y: Array, event_ndim: int) -> Array:
    return jnp.sqrt(jnp.sum(y**2, _axes(event_ndim), keepdims=True))


@_pytree("event_ndim")
class Sphere(Prior):
    """Uniform on a sphere; `y -> radius y / |y|`.

    Attributes:
      radius: of the sphere; None for sqrt(d), the norm of Gaussian latents.
      event_ndim: how many trailing axes form one vector: 1 for a sphere per token, more for one of the whole latent.

    Example:
      >>> z0, z1 = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
      >>> print(og.latent.lerp(0.5, z0, z1, og.latent.Sphere(radius=1.0)), np.sqrt(0.5))
      [0.707 0.707] 0.707
    """

    radius: Any = None
    event_ndim: int = 1

    def _radius(self, shape: tuple[int, ...]) -> Any:
        return jnp.sqrt(float(jnp.prod(jnp.array(shape[-self.event_ndim :])))) if self.radius is None else self.radius

    def sample(self, key: Key, shape: tuple[int, ...]) -> Array:
        return self._project(jax.random.normal(key, shape))

    def match(self, weights: Array, y: Array) -> Array:
        return self._project(y)

    def _project(self, y: Array) -> Array:
        return self._radius(y.shape) * y / _norm(y, self.event_ndim)


class _Radial(Prior):
    """A rotation-invariant law on the last axis, known by the law of its radius."""

    def match(self, weights: Array, y: Array) -> Array:
        return self.apply(self.table(weights, y.shape[-1]), y)

    def table(self, weights: Array, dim: int) -> Array:
        """Sorted norms of sums of draws, from radii and angles alone: the angle to a random direction is one number."""
        key = jax.random.key(7)
        square, first = 0.0, True
        for i in range(weights.shape[0]):
            radius_key, angle_key = jax.random.split(jax.random.fold_in(key, i))
            radius = jnp.abs(weights[i]) * self.radii(radius_key, (_DRAWS,), dim)
            if first:
                square, first = radius**2, False
                continue
            cosine = 2 * _half_beta(angle_key, dim) - 1
            square = jnp.maximum(square + radius**2 + 2 * jnp.sqrt(square) * radius * cosine, 0.0)
        return jnp.sort(jnp.sqrt(square))

    def apply(self, table: Array, y: Array) -> Array:
        """Match sums whose sorted norms are in the table."""
        norm = _norm(y, 1)
        levels = (jnp.arange(_DRAWS) + 0.5) / _DRAWS
        level = jnp.interp(norm, table, levels)
        return y / jnp.where(norm > 0, norm, 1.0) * self.radius_ppf(level, y.shape[-1])

    def sample(self, key: Key, shape: tuple[int, ...]) -> Array:
        direction_key, radius_key = jax.random.split(key)
        direction = jax.random.normal(direction_key, shape)
        return direction / _norm(direction, 1) * self.radii(radius_key, (*shape[:-1], 1), shape[-1])


def _half_beta(key: Key, dim: int) -> Array:
    """Draws of (1 + cos)/2 for the angle between random directions: Beta((d-1)/2, (d-1)/2)."""
    if dim == 1:
        return jax.random.bernoulli(key, 0.5, (_DRAWS,)).astype(jnp.result_type(float))
    first, second = jax.random.split(key)
    a = jax.random.gamma(first, (dim - 1) / 2, (_DRAWS,))
    return a / (a + jax.random.gamma(second, (dim - 1) / 2, (_DRAWS,)))


@_pytree()
class Ball(_Radial):
    """Uniform in the ball of a radius (along the last axis).

    Example:
      >>> z = og.latent.Ball(radius=2.0).sample(jax.random.key(0), (1000, 3))
      >>> print(bool(jnp.linalg.norm(z, axis=-1).max() <= 2.0))
      True
    """

    radius: Any = 1.0

    def radii(self, key: Key, shape: tuple[int, ...], dim: int) -> Array:
        """Draws of the norm."""
        return self.radius_ppf(jax.random.uniform(key, shape), dim)

    def radius_ppf(self, q: Array, dim: int) -> Array:
        """Quantile function of the norm."""
        return self.radius * q ** (1 / dim)


@_pytree()
class MultivariateT(_Radial):
    """Multivariate Student-t along the last axis: a Gaussian vector divided by one sqrt(chi2_df / df).

    Example:
      >>> prior = og.latent.MultivariateT(df=5.0)
      >>> print(prior.sample(jax.random.key(0), (4, 3)).shape)
      (4, 3)
    """

    df: Any
    scale: Any = 1.0

    def radii(self, key: Key, shape: tuple[int, ...], dim: int) -> Array:
        """Draws of the norm."""
        above, below = jax.random.split(key)
        gaussian = jnp.sqrt(2 * jax.random.gamma(above, dim / 2, shape))
        return self.scale * gaussian / jnp.sqrt(2 * jax.random.gamma(below, self.df / 2.0, shape) / self.df)

    def radius_ppf(self, q: Array, dim: int) -> Array:
        """Quantile function of the norm: r^2 / d follows Fisher's law with (d, df) degrees of freedom."""
        nodes = jnp.linspace(-14.0, 14.0, _NODES)  # of log(r^2 / df), over which the law is a beta law
        share = jax.nn.sigmoid(nodes)
        below = betainc(dim / 2.0, self.df / 2.0, share)
        above = betainc(self.df / 2.0, dim / 2.0, jax.nn.sigmoid(-nodes))
        logit = jnp.log(jnp.maximum(below, 1e-37)) - jnp.log(jnp.maximum(above, 1e-37))
        wanted = jnp.log(jnp.maximum(q, 1e-37)) - jnp.log(jnp.maximum(1 - q, 1e-7))
        return self.scale * jnp.sqrt(self.df * jnp.exp(jnp.interp(wanted, logit, nodes)))
