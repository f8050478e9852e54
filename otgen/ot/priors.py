"""Laws of latents, each with the Monge map that brings a weighted sum of its draws back to it.

A prior is a frozen pytree with `sample(key, shape)`, `match(weights, y)` and, for laws of independent coordinates,
`cdf`, `ppf` and (where it has a closed form) `log_prob`. `match` is the whole of the method: T = F^-1(F_Q(y)) for
independent coordinates, with F_Q the law of the sum, and the same along the radius for rotation-invariant laws.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import betainc, log_ndtr, ndtr, ndtri

from otgen.ot import sums
from otgen.types import Array, Key, as_pytree

_NODES = 4096  # of a tabulated quantile function
_DRAWS = 2**20  # draws behind a tabulated radial law


def _pytree(*static: str):
    """Make a class a frozen dataclass and a pytree whose fields are leaves, but for the static ones."""

    def decorate(cls: type) -> type:
        return as_pytree(dataclasses.dataclass(frozen=True)(cls), static=static)

    return decorate


class Prior:
    """A law of latents. Sub-classes give `sample` and `match`.

    Example:
      >>> print(isinstance(og.latent.Uniform(), og.latent.Prior), og.latent.Uniform().support)
      True (-1.0, 1.0)
    """

    support: tuple[float, float] | None = None  # of every coordinate, where it is bounded

    def sample(self, key: Key, shape: tuple[int, ...]) -> Array:
        """Draw latents of a shape."""
        raise TypeError(f"{type(self).__name__} cannot be sampled.")

    def match(self, weights: Array, y: Array) -> Array:
        """Map y = sum_i w_i z_i, z_i independent draws of this law, to this law at the least mean squared cost."""
        raise TypeError(f"{type(self).__name__} has no map for sums of its draws.")


@_pytree()
class Normal(Prior):
    """Gaussian latents; `y -> mu + (y - (sum w) mu) / |w|_2`.

    Attributes:
      loc: mean, broadcast against the latent.
      scale: standard deviation, broadcast against the latent; or, if `tril` is given, unused.
      tril: lower-triangular factor [d, d] of the covariance of the last axis; None for independent coordinates.

    Example:
      >>> prior, half = og.latent.Normal(loc=1.0, scale=2.0), jnp.array([0.5, 0.5])
      >>> print(prior.cdf(jnp.array(1.0)), prior.ppf(jnp.array(0.5)))
      0.5 1.0
      >>> print(prior.match(half, jnp.array(3.0)), 1 + 2 * np.sqrt(2))  # a mean of two draws that is 2 above loc
      3.8284 3.8284
    """

    loc: Any = 0.0
    scale: Any = 1.0
    tril: Any = None

    def sample(self, key: Key, shape: tuple[int, ...]) -> Array:
        z = jax.random.normal(key, shape)
        return self.loc + (self.scale * z if self.tril is None else z @ jnp.asarray(self.tril).T)

    def match(self, weights: Array, y: Array) -> Array:
        length = jnp.sqrt(jnp.sum(weights**2))
        return self.loc + (y - weights.sum() * self.loc) / length

    def cdf(self, z: Array) -> Array:
        """Distribution function of the coordinates (of the marginals, for a full covariance)."""
        return ndtr((z - self.loc) / self._deviation())

    def ppf(self, q: Array) -> Array:
        """Quantile function of the coordinates."""
        return self.loc + self._deviation() * ndtri(q)

    def log_prob(self, z: Array) -> Array:
        """Log-density of the coordinates; for a full covariance, of the vectors along the last axis."""
        if self.tril is None:
            return -0.5 * ((z - self.loc) / self.scale) ** 2 - jnp.log(self.scale) - 0.5 * math.log(2 * math.pi)
        white = jax.scipy.linalg.solve_triangular(self.tril, jnp.moveaxis(z - self.loc, -1, 0), lower=True)
        determinant = jnp.sum(jnp.log(jnp.abs(jnp.diag(self.tril))))
        return -0.5 * jnp.sum(white**2, 0) - determinant - 0.5 * len(self.tril) * math.log(2 * math.pi)

    def _deviation(self) -> Any:
        return self.scale if self.tril is None else jnp.sqrt(jnp.sum(jnp.asarray(self.tril) ** 2, axis=1))


@_pytree()
class Stable(Prior):
    """Symmetric alpha-stable coordinates; `y -> y / (sum |w|^alpha)^(1/alpha)` in units of the scale.

    Attributes:
      alpha: stability in (0, 2]; 2 is a Gaussian of variance 2, 1 the Cauchy law.
      loc, scale: position and width.

    Example:
      >>> prior = og.latent.Stable(alpha=1.0)
      >>> print(prior.match(jnp.array([1.0, 1.0]), jnp.array(3.0)))  # of two Cauchy draws: half their sum
      1.5
    """

    alpha: Any
    loc: Any = 0.0
    scale: Any = 1.0

    def sample(self, key: Key, shape: tuple[int, ...]) -> Array:
        """Draw by the method of Chambers, Mallows and Stuck (1976)."""
        angle_key, size_key = jax.random.split(key)
        angle = jnp.pi * (jax.random.uniform(angle_key, shape, minval=2.0**-24) - 0.5)
        size = jax.random.exponential(size_key, shape)
        tail = (jnp.cos((1 - self.alpha) * angle) / size) ** ((1 - self.alpha) / self.alpha)
        return self.loc + self.scale * tail * jnp.sin(self.alpha * angle) / jnp.cos(angle) ** (1 / self.alpha)

    def match(self, weights: Array, y: Array) -> Array:
        length = jnp.sum(jnp.abs(weights) ** self.alpha) ** (1 / self.alpha)
        return self.loc + (y - weights.sum() * self.loc) / length


@_pytree()
class Cauchy(Prior):
    """Cauchy coordinates; `y -> y / sum |w|` in units of the scale, so interpolation needs no change.

    Example:
      >>> print(og.latent.lerp(0.5, jnp.array([1.0]), jnp.array([2.0]), og.latent.Cauchy()))  # the mean itself
      [1.5]
    """

    loc: Any = 0.0
    scale: Any = 1.0

    def sample(self, key: Key, shape: tuple[int, ...]) -> Array:
        return self.loc + self.scale * jax.random.cauchy(key, shape)

    def match(self, weights: Array, y: Array) -> Array:
        return self.loc + (y - weights.sum() * self.loc) / jnp.sum(jnp.abs(weights))

    def cdf(self, z: Array) -> Array:
        """Distribution function."""
        return 0.5 + jnp.arctan((z - self.loc) / self.scale) / jnp.pi

    def ppf(self, q: Array) -> Array:
        """Quantile function."""
        return self.loc + self.scale * jnp.tan(jnp.pi * (q - 0.5))

    def log_prob(self, z: Array) -> Array:
        """Log-density."""
        return -jnp.log(jnp.pi * self.scale) - jnp.log1p(((z - self.loc) / self.scale) ** 2)


@_pytree("low", "high")
class Uniform(Prior):
    """Uniform coordinates on [low, high]; `y -> 2 F_Q(y) - 1` in units of the half width (`sums.uniform_match`).

    Example:
      >>> prior = og.latent.Uniform(0.0, 1.0)
      >>> print(prior.match(jnp.array([0.5, 0.5]), jnp.array(0.25)))  # means have a triangular law: P(mean < 1/4) = 1/8
      0.125
    """

    low: float = -1.0
    high: float = 1.0

    @property
    def support(self) -> tuple[float, float]:
        """The interval."""
        return self.low, self.high

    def sample(self, key: Key, shape: tuple[int, ...]) -> Array:
        return jax.random.uniform(key, shape, minval=self.low, maxval=self.high)

    def match(self, weights: Array, y: Array) -> Array:
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        return middle + half * sums.uniform_match(weights, (y - weights.sum() * middle) / half)

    def cdf(self, z: Array) -> Array:
        """Distribution function."""
        return jnp.clip((z - self.low) / (self.high - self.low), 0, 1)

    def ppf(self, q: Array) -> Array:
        """Quantile function."""
        return self.low + (self.high - self.low) * q

    def log_prob(self, z: Array) -> Array:
        """Log-density, -inf outside the interval."""
        return jnp.where((z >= self.low) & (z <= self.high), -math.log(self.high - self.low), -jnp.inf)


class _Tabulated(Prior):
    """Independent coordinates of a law known by `cdf`, `quantile(below, above)` and `reach()`."""

    def match(self, weights: Array, y: Array) -> Array:
        untouched = (jnp.sum(weights != 0) == 1) & (jnp.max(weights) == 1)  # exact at the ends of a path
        return jnp.where(untouched, y, self.apply(self.table(weights), y))

    def table(self, weights: Array) -> sums.Table:
        """The law of the sum, to be used again by `apply` for other sums of the same weights."""
        return sums.table(self.cdf, self.reach(), weights)

    def apply(self, table: sums.Table, y: Array) -> Array:
        """Match sums y whose law is in the table."""
        matched = self.quantile(*sums.tails(table, y))
        return jnp.where(jnp.isnan(y), jnp.nan, matched)

    def sample(self, key: Key, shape: tuple[int, ...]) -> Array:
        return self.ppf(jax.random.uniform(key, shape, minval=2.0**-24))

    def ppf(self, q: Array) -> Array:
        """Quantile function."""
        return self.quantile(q, 1 - q)


@_pytree()
class TruncatedNormal(_Tabulated):
    """A Gaussian restricted to [low, high] standard deviations around `loc` (the truncation trick).

    Example:
      >>> prior = og.latent.TruncatedNormal(-1.5, 1.5)
      >>> print(jnp.abs(prior.sample(jax.random.key(0), (1000,))).max() <= 1.5, prior.cdf(jnp.array(0.0)))
      True 0.5
    """

    low: Any = -2.0
    high: Any = 2.0
    loc: Any = 0.0
    scale: Any = 1.0

    def cdf(self, z: Array) -> Array:
        """Distribution function."""
        u = jnp.clip((z - self.loc) / self.scale, self.low, self.high)
        return (ndtr(u) - ndtr(self.low)) / (ndtr(self.high) - ndtr(self.low))

    def quantile(self, below: Array, above: Array) -> Array:
        """Quantile from both tail probabilities."""
        low, mass = ndtr(self.low), ndtr(self.high) - ndtr(self.low)
        left = ndtri(low + below * mass)
        right = -ndtri(ndtr(-jnp.asarray(self.high)) + above * mass)
        u = jnp.clip(jnp.where(below < above, left, right), self.low, self.high)
        return self.loc + self.scale * u

    def reach(self) -> Array:
        """Largest absolute value."""
        return jnp.abs(self.loc) + self.scale * jnp.maximum(jnp.abs(self.low), jnp.abs(self.high))

    def log_prob(self, z: Array) -> Array:
        """Log-density, -inf outside the interval."""
        u = (z - self.loc) / self.scale
        inside = (u >= self.low) & (u <= self.high)
        mass = jnp.log(ndtr(self.high) - ndtr(self.low))
        return jnp.where(inside, -0.5 * u**2 - 0.5 * math.log(2 * math.pi) - jnp.log(self.scale) - mass, -jnp.inf)


@_pytree()
class StudentT(_Tabulated):
    """Independent Student-t coordinates with `df` >= 2 degrees of freedom (1 is the Cauchy law, which is exact).

    Example:
      >>> print(og.latent.StudentT(df=3.0).cdf(jnp.array([0.0, 3.182])))  # 3.182: the 97.5 % point of tables
      [0.5 0.975]
    """

    df: Any
    loc: Any = 0.0
    scale: Any = 1.0

    def cdf(self, z: Array) -> Array:
        """Distribution function."""
        u = (z - self.loc) / self.scale
        return jnp.where(u < 0, self._tail(u), 1 - self._tail(u))

    def _tail(self, u: Array) -> Array:
        return 0.5 * betainc(self.df / 2.0, 0.5, self.df / (self.df + u**2))

    def quantile(self, below: Array, above: Array) -> Array:
        """Quantile from both tail probabilities, by a table of the logarithm of the tail."""
        nodes = jnp.sinh(jnp.linspace(0.0, jnp.arcsinh(self._far()), _NODES))
        tail = jnp.maximum(jnp.minimum(below, above), jnp.finfo(jnp.result_type(float)).tiny)
        size = jnp.interp(-jnp.log(tail), -jnp.log(self._tail(nodes)), nodes)
        return self.loc + self.scale * jnp.where(below < above, -size, size)

    def _far(self) -> Array:
        # The tail falls as x^-df, with a constant below 1 for df >= 2 once x is large.
        return 10.0 ** (7.0 / self.df) * jnp.sqrt(self.df) + 3.0

    def reach(self) -> Array:
        """Beyond this lies less than about 1e-7."""
        return jnp.abs(self.loc) + self.scale * self._far()

    def log_prob(self, z: Array) -> Array:
        """Log-density."""
        return jax.scipy.stats.t.logpdf(z, self.df, self.loc, self.scale)


@_pytree()
class Mixture(_Tabulated):
    """Independent coordinates, each of a mixture of Gaussians.

    Attributes:
      weights, locs, scales: of the components [k].

    Example:
      >>> prior = og.latent.Mixture(weights=jnp.array([0.25, 0.75]), locs=jnp.array([-9.0, 9.0]), scales=jnp.ones(2))
      >>> print(prior.cdf(jnp.array(0.0)))  # one quarter lies around -9
      0.25
    """

    weights: Any
    locs: Any
    scales: Any

    def _parts(self) -> tuple[Array, Array, Array]:
        return tuple(jnp.asarray(part, jnp.result_type(float)) for part in (self.weights, self.locs, self.scales))

    def cdf(self, z: Array) -> Array:
        """Distribution function."""
        weights, locs, scales = self._parts()
        return sum(w * ndtr((z - m) / s) for w, m, s in zip(weights, locs, scales, strict=True))

    def quantile(self, below: Array, above: Array) -> Array:
        """Quantile from both tail probabilities, by a table refined by Newton steps."""
        nodes = jnp.linspace(-self.reach(), self.reach(), 4 * _NODES)
        z = jnp.interp(below, self.cdf(nodes), nodes)
        for _ in range(2):
            density = jnp.maximum(jnp.exp(self.log_prob(z)), 1e-6)
            z = z - jnp.clip((self.cdf(z) - below) / density, -0.1, 0.1) * (jnp.minimum(below, above) > 1e-4)
        return z

    def reach(self) -> Array:
        """Beyond this lies less than 1e-7."""
        _, locs, scales = self._parts()
        return jnp.max(jnp.abs(locs) + 5.5 * scales)

    def log_prob(self, z: Array) -> Array:
        """Log-density."""
        weights, locs, scales = self._parts()
        each = [
            jnp.log(w) - 0.5 * ((z - m) / s) ** 2 - jnp.log(s) - 0.5 * math.log(2 * math.pi)
            for w, m, s in zip(weights, locs, scales, strict=True)
        ]
        return functools.reduce(jnp.logaddexp, each)

    def sample(self, key: Key, shape: tuple[int, ...]) -> Array:
        weights, locs, scales = self._parts()
        part_key, noise_key = jax.random.split(key)
        part = jax.random.choice(part_key, len(locs), shape, p=weights)
        return locs[part] + scales[part] * jax.random.normal(noise_key, shape)


@_pytree()
class Empirical(_Tabulated):
    """Independent coordinates, each of the law of given values.

    Attributes:
      values: observations [m] shared by all coordinates, or [m, d] with a column for each coordinate of the last axis.

    Example:
      >>> prior = og.latent.Empirical(jax.random.exponential(jax.random.key(0), (10_000,)))
      >>> print(jnp.abs(prior.cdf(jnp.array(1.0)) - (1 - jnp.exp(-1.0))) < 0.02)
      True
    """

    values: Any

    def _sorted(self) -> Array:
        return jnp.sort(jnp.asarray(self.values, jnp.result_type(float)), axis=0)

    def _levels(self) -> Array:
        num = jnp.shape(self.values)[0]
        return (jnp.arange(num) + 0.5) / num

    def cdf(self, z: Array) -> Array:
        """Distribution function: the empirical one, joined linearly between observations."""
        values, levels = self._sorted(), self._levels()
        if values.ndim == 1:
            return jnp.interp(z, values, levels, left=0.0, right=1.0)
        every = jax.vmap(lambda z, v: jnp.interp(z, v, levels, left=0.0, right=1.0), (-1, 1), -1)
        return every(z, values)

    def quantile(self, below: Array, above: Array) -> Array:
        """Quantile from both tail probabilities."""
        values, levels = self._sorted(), self._levels()
        if values.ndim == 1:
            return jnp.interp(below, levels, values)
        return jax.vmap(lambda q, v: jnp.interp(q, levels, v), (-1, 1), -1)(below, values)

    def reach(self) -> Array:
        """Largest absolute value."""
        return jnp.max(jnp.abs(self.values))

    def match(self, weights: Array, y: Array) -> Array:
        if jnp.ndim(self.values) == 1:
            return super().match(weights, y)

        def column(values: Array, y: Array) -> Array:
            return Empirical(values).match(weights, y)

        # One column at a time: a table of 131,072 cells each.
        moved = jax.lax.map(lambda pair: column(*pair), (jnp.asarray(self.values).T, jnp.moveaxis(y, -1, 0)))
        return jnp.moveaxis(moved, 0, -1)


@_pytree("cdf", "inverse", "bound")
class Custom(_Tabulated):
    """Independent coordinates of any law.

    Attributes:
      cdf: elementwise distribution function, defined at module level (it is static).
      inverse: elementwise quantile function (static).
      bound: |z| stays below this, but for a probability of about 1e-7 (static).

    Example:
      >>> logistic = og.latent.Custom(cdf=jax.nn.sigmoid, inverse=jax.scipy.special.logit, bound=16.0)
      >>> print(logistic.cdf(jnp.array(0.0)), logistic.ppf(jnp.array(0.75)), np.log(3))
      0.5 1.0986 1.0986
    """

    cdf: Callable[[Array], Array]
    inverse: Callable[[Array], Array]
    bound: float

    def quantile(self, below: Array, above: Array) -> Array:
        """Quantile from both tail probabilities."""
        return self.inverse(below)

    def reach(self) -> float:
        """The bound."""
        return self.bound


def gaussianise(prior: Any, z: Array) -> Array:
    """Map coordinates of a prior to standard normal ones, Phi^-1(F(z))."""
    below = prior.cdf(z)
    return ndtri(jnp.clip(below, 1e-7, 1 - 1e-7))


def degaussianise(prior: Any, z: Array) -> Array:
    """Map standard normal coordinates to those of a prior, F^-1(Phi(z))."""
    if hasattr(prior, "quantile"):
        return prior.quantile(ndtr(z), jnp.exp(log_ndtr(-z)))
    return prior.ppf(ndtr(z))
