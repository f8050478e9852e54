"""Rotation-invariant priors: sums of their draws are brought back along the radius."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import betainc, gammainc

from otgen.ot.check import as_count, require_positive
from otgen.ot.latent import great_circle
from otgen.ot.latent.priors import Prior, law, parameter, set_fields
from otgen.ot.latent.tabulated import NODES
from otgen.types import Array, Key

_DRAWS = 2**20  # random draws that a table is made of


@law("event_ndim")
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

    def __post_init__(self):
        set_fields(self, event_ndim=as_count("event_ndim", self.event_ndim))
        if self.radius is not None:
            set_fields(self, radius=parameter("radius", self.radius, positive=True))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuse latents of fewer axes than a vector has."""
        if len(shape) < self.event_ndim:
            raise ValueError(f"latents of shape {shape} on a sphere: vectors have {self.event_ndim} axes, the last.")
        super().check_shape(shape)

    def _draw(self, key: Key, shape: tuple[int, ...]) -> Array:
        return self._project(jax.random.normal(key, shape))

    def match(self, weights: Array, y: Array) -> Array:
        return self._project(y)

    def unfold(self, y: Array, z: Array) -> Array:
        """Return y; where latents cancel, as opposite ones do half-way, a direction at right angles to the first."""
        _, zero = great_circle.unit(y, self.event_ndim)
        return jnp.where(zero, great_circle.orthogonal(z, self.event_ndim), y)

    def _project(self, y: Array) -> Array:
        radius = math.sqrt(math.prod(y.shape[-self.event_ndim :])) if self.radius is None else self.radius
        return radius * great_circle.unit(y, self.event_ndim)[0]


class _Radial(Prior):
    """A rotation-invariant law on the last axis, known by the law of its radius."""

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuse latents without an axis."""
        if not shape:
            raise ValueError(f"{type(self).__name__} is a law of vectors: give latents [..., d].")
        super().check_shape(shape)

    def match(self, weights: Array, y: Array) -> Array:
        return self.finish(self.prepare(weights, y.shape), y)

    def draws(self, num: int, shape: tuple[int, ...]) -> Any:
        """Return norms [num, DRAWS] in units of the width, and cosines of angles between vectors [num - 1, DRAWS]."""
        key, dim = jax.random.key(7), shape[-1]
        keys = [jax.random.split(jax.random.fold_in(key, i)) for i in range(num)]
        radii = [self.radii(radius_key, (_DRAWS,), dim) / self.unit for radius_key, _ in keys]
        return radii, [2 * _half_beta(angle_key, dim) - 1 for _, angle_key in keys[1:]]

    def prepare(self, weights: Array, shape: tuple[int, ...], draws: Any = None) -> Any:
        """Return the table."""
        return self.table(weights, shape[-1], draws)

    def finish(self, prepared: Any, y: Array) -> Array:
        """Map sums by their table."""
        return self.apply(prepared, y)

    def table(self, weights: Array, dim: int, draws: Any = None) -> Array:
        """Return the sorted norms of sums of draws, by the radius of each draw and its angle to the sum so far."""
        radii, cosines = self.draws(weights.shape[0], (dim,)) if draws is None else draws
        square = (jnp.abs(weights[0]) * radii[0]) ** 2
        for weight, radius, cosine in zip(weights[1:], radii[1:], cosines, strict=True):
            radius = jnp.abs(weight) * radius
            square = jnp.maximum(square + radius**2 + 2 * jnp.sqrt(square) * radius * cosine, 0.0)
        return self.unit * jnp.sort(jnp.sqrt(square))

    def apply(self, table: Array, y: Array) -> Array:
        """Match sums whose sorted norms are in the table."""
        levels = (jnp.arange(_DRAWS) + 0.5) / _DRAWS
        level = jnp.interp(great_circle.norm(y), table, levels)
        return great_circle.unit(y)[0] * self.radius_ppf(level, y.shape[-1])

    def _draw(self, key: Key, shape: tuple[int, ...]) -> Array:
        direction_key, radius_key = jax.random.split(key)
        direction = great_circle.unit(jax.random.normal(direction_key, shape))[0]
        return direction * self.radii(radius_key, (*shape[:-1], 1), shape[-1])


def _half_beta(key: Key, dim: int) -> Array:
    """Return draws of (1 + cos)/2 for the angle between random directions, which has the law Beta((d-1)/2, (d-1)/2)."""
    if dim == 1:
        return jax.random.bernoulli(key, 0.5, (_DRAWS,)).astype(jnp.result_type(float))
    first, second = jax.random.split(key)
    a = jax.random.gamma(first, (dim - 1) / 2, (_DRAWS,))
    return a / (a + jax.random.gamma(second, (dim - 1) / 2, (_DRAWS,)))


@law()
class Ball(_Radial):
    """Uniform in the ball of a radius (along the last axis).

    Attributes:
      radius: of the ball.

    Example:
      >>> z = og.latent.Ball(radius=2.0).sample(jax.random.key(0), (1000, 3))
      >>> print(bool(jnp.linalg.norm(z, axis=-1).max() <= 2.0))
      True
    """

    radius: Any = 1.0

    def __post_init__(self):
        require_positive("radius", self.radius)

    @property
    def unit(self) -> Any:
        """The unit of length."""
        return self.radius

    def radii(self, key: Key, shape: tuple[int, ...], dim: int) -> Array:
        """Return draws of the norm."""
        return self.radius_ppf(jax.random.uniform(key, shape), dim)

    def radius_ppf(self, q: Array, dim: int) -> Array:
        """Return the quantile function of the norm."""
        return self.radius * q ** (1 / dim)

    def from_cube(self, u: Array) -> Array:
        """Map points u [n, d] of the unit cube to the ball: Gaussian vectors whose norms become those of the ball.

        The chi2 distribution function of a Gaussian vector's squared norm is uniform, as (norm / radius)^d is in the
        ball.
        """
        dim, z = u.shape[-1], jax.scipy.special.ndtri(u)
        square = jnp.sum(z**2, -1, keepdims=True)
        norm = gammainc(dim / 2.0, square / 2.0) ** (1.0 / dim)
        return self.radius * (z * norm / jnp.sqrt(jnp.maximum(square, 1e-30)))


@law()
class MultivariateT(_Radial):
    """Multivariate Student-t along the last axis: a Gaussian vector divided by one sqrt(chi2_df / df).

    Example:
      >>> prior = og.latent.MultivariateT(df=5.0)
      >>> print(prior.sample(jax.random.key(0), (4, 3)).shape)
      (4, 3)
    """

    df: Any
    scale: Any = 1.0

    def __post_init__(self):
        require_positive("df", self.df)
        require_positive("scale", self.scale)

    @property
    def unit(self) -> Any:
        """The unit of length."""
        return self.scale

    def radii(self, key: Key, shape: tuple[int, ...], dim: int) -> Array:
        """Return draws of the norm."""
        above, below = jax.random.split(key)
        gaussian = jnp.sqrt(2 * jax.random.gamma(above, dim / 2, shape))
        return self.scale * gaussian / jnp.sqrt(2 * jax.random.gamma(below, self.df / 2.0, shape) / self.df)

    def radius_ppf(self, q: Array, dim: int) -> Array:
        """Return the quantile function of the norm: r^2 / d follows Fisher's law with (d, df) degrees of freedom."""
        nodes = jnp.linspace(-14.0, 14.0, NODES)  # values of log(r^2 / df); r^2 / (r^2 + df) has a beta law
        share = jax.nn.sigmoid(nodes)
        below = betainc(dim / 2.0, self.df / 2.0, share)
        above = betainc(self.df / 2.0, dim / 2.0, jax.nn.sigmoid(-nodes))
        logit = jnp.log(jnp.maximum(below, 1e-37)) - jnp.log(jnp.maximum(above, 1e-37))
        wanted = jnp.log(jnp.maximum(q, 1e-37)) - jnp.log(jnp.maximum(1 - q, 1e-7))
        return self.scale * jnp.sqrt(self.df * jnp.exp(jnp.interp(wanted, logit, nodes)))
