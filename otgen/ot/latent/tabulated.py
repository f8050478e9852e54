"""Priors of independent coordinates whose sums are brought back by a table of their law."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betainc, ndtr, ndtri

from otgen.ot.check import as_array, is_traced, require_positive, smallest_and_sum
from otgen.ot.latent import sums
from otgen.ot.latent.priors import (
    LEAST,
    Coordinates,
    law,
    one_number,
    parameter,
    placed,
    require_broadcast,
    require_order,
    set_fields,
)
from otgen.types import Array, Key

NODES = 4096  # nodes of a tabulated quantile function


class _Tabulated(Coordinates):
    """Independent coordinates of a law known by `cdf`, `quantile(below, above)` and `reach()`."""

    def match(self, weights: Array, y: Array) -> Array:
        return self.finish(self.prepare(weights, jnp.shape(y)), y)

    def prepare(self, weights: Array, shape: tuple[int, ...], draws: Any = None) -> Any:
        """Return whether the sum is one of the latents itself, and the table of the sum's law."""
        untouched = (jnp.sum(weights != 0) == 1) & (jnp.max(weights) == 1)  # at the ends of a path
        return untouched, self.table(weights)

    def finish(self, prepared: Any, y: Array) -> Array:
        """Map sums by their table."""
        untouched, table = prepared
        return jnp.where(untouched, y, self.apply(table, y))

    def table(self, weights: Array) -> sums.Table:
        """Return the law of the sum as a table, which `apply` uses for all sums of the same weights."""
        return sums.table(self.cdf, self.reach(), weights)

    def apply(self, table: sums.Table, y: Array) -> Array:
        """Match sums y whose law is in the table."""
        matched = self.quantile(*sums.tails(table, y))
        return jnp.where(jnp.isnan(y), jnp.nan, matched)

    def _draw(self, key: Key, shape: tuple[int, ...]) -> Array:
        return self.ppf(jax.random.uniform(key, shape, minval=LEAST))

    def ppf(self, q: Array) -> Array:
        """Return the quantile function."""
        return self.quantile(q, 1 - q)


@law()
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

    def __post_init__(self):
        set_fields(self, low=parameter("low", self.low), high=parameter("high", self.high), **placed(self))
        if not is_traced(self.low, self.high):
            require_order(self.low, self.high)

    def cdf(self, z: Array) -> Array:
        """Return distribution function."""
        u = jnp.clip((z - self.loc) / self.scale, self.low, self.high)
        return (ndtr(u) - ndtr(self.low)) / (ndtr(self.high) - ndtr(self.low))

    def quantile(self, below: Array, above: Array) -> Array:
        """Return the quantile from both tail probabilities."""
        low, mass = ndtr(self.low), ndtr(self.high) - ndtr(self.low)
        left = ndtri(low + below * mass)
        right = -ndtri(ndtr(-jnp.asarray(self.high)) + above * mass)
        u = jnp.clip(jnp.where(below < above, left, right), self.low, self.high)
        return self.loc + self.scale * u

    def reach(self) -> Array:
        """Return the largest absolute value."""
        return jnp.abs(self.loc) + self.scale * jnp.maximum(jnp.abs(self.low), jnp.abs(self.high))

    def log_prob(self, z: Array) -> Array:
        """Log-density, -inf outside the interval."""
        u = (z - self.loc) / self.scale
        inside = (u >= self.low) & (u <= self.high)
        mass = jnp.log(ndtr(self.high) - ndtr(self.low))
        return jnp.where(inside, -0.5 * u**2 - 0.5 * math.log(2 * math.pi) - jnp.log(self.scale) - mass, -jnp.inf)


@law()
class StudentT(_Tabulated):
    """Independent Student-t coordinates with `df` >= 2 degrees of freedom (1 is the Cauchy law, which is exact).

    Example:
      >>> print(og.latent.StudentT(df=3.0).cdf(jnp.array([0.0, 3.182])))  # 3.182: the 97.5 % point of tables
      [0.5 0.975]
    """

    df: Any
    loc: Any = 0.0
    scale: Any = 1.0

    def __post_init__(self):
        set_fields(self, df=parameter("df", self.df), **placed(self))
        if not is_traced(self.df) and not smallest_and_sum(np.asarray(self.df))[0] >= 2:
            raise ValueError(f"df = {self.df}: give 2 or more degrees of freedom; 1 is og.latent.Cauchy().")

    def cdf(self, z: Array) -> Array:
        """Return distribution function."""
        u = (z - self.loc) / self.scale
        return jnp.where(u < 0, self._tail(u), 1 - self._tail(u))

    def _tail(self, u: Array) -> Array:
        return 0.5 * betainc(self.df / 2.0, 0.5, self.df / (self.df + u**2))

    def quantile(self, below: Array, above: Array) -> Array:
        """Return the quantile from both tail probabilities, by a table of the logarithm of the tail."""
        nodes = jnp.sinh(jnp.linspace(0.0, jnp.arcsinh(self._far()), NODES))
        tail = jnp.maximum(jnp.minimum(below, above), jnp.finfo(jnp.result_type(float)).tiny)
        size = jnp.interp(-jnp.log(tail), -jnp.log(self._tail(nodes)), nodes)
        return self.loc + self.scale * jnp.where(below < above, -size, size)

    def _far(self) -> Array:
        # For large x the tail is a constant times x^-df, and the constant is below 1 for df >= 2.
        return 10.0 ** (7.0 / self.df) * jnp.sqrt(self.df) + 3.0

    def reach(self) -> Array:
        """Return the absolute value that is exceeded with a probability of about 1e-7 at most."""
        return jnp.abs(self.loc) + self.scale * self._far()

    def log_prob(self, z: Array) -> Array:
        """Log-density."""
        return jax.scipy.stats.t.logpdf(z, self.df, self.loc, self.scale)


@law()
class MixturePrior(_Tabulated):
    """Independent coordinates, each of a mixture of Gaussians.

    Attributes:
      weights, locs, scales: of the components [k].

    Example:
      >>> weights, locs = jnp.array([0.25, 0.75]), jnp.array([-9.0, 9.0])
      >>> prior = og.latent.MixturePrior(weights, locs, scales=jnp.ones(2))
      >>> print(prior.cdf(jnp.array(0.0)))  # one quarter lies around -9
      0.25
    """

    weights: Any
    locs: Any
    scales: Any

    def __post_init__(self):
        weights = parameter("weights", self.weights, shape=(None,))
        shape = weights.shape
        locs, scales = parameter("locs", self.locs, shape=shape), parameter("scales", self.scales, shape=shape)
        set_fields(self, weights=weights, locs=locs, scales=scales)
        if not is_traced(scales) and not smallest_and_sum(scales)[0] > 0:
            raise ValueError(f"scales has a smallest entry of {smallest_and_sum(scales)[0]:g}: all must be positive.")
        if not is_traced(weights):
            least, total = smallest_and_sum(weights)
            if least < 0 or abs(total - 1) > 1e-4:
                raise ValueError(f"weights are {least:g} at least and sum to {total:.6g}: give shares that sum to 1.")

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """The law of one coordinate suits latents of any shape."""

    def _parts(self) -> tuple[Array, Array, Array]:
        return tuple(jnp.asarray(part, jnp.result_type(float)) for part in (self.weights, self.locs, self.scales))

    def cdf(self, z: Array) -> Array:
        """Return distribution function."""
        weights, locs, scales = self._parts()
        return sum(w * ndtr((z - m) / s) for w, m, s in zip(weights, locs, scales, strict=True))

    def quantile(self, below: Array, above: Array) -> Array:
        """Return the quantile from both tail probabilities, by a table refined by Newton steps."""
        nodes = jnp.linspace(-self.reach(), self.reach(), 4 * NODES)
        z = jnp.interp(below, self.cdf(nodes), nodes)
        unit = jnp.max(self._parts()[2])
        for _ in range(2):
            density = jnp.maximum(jnp.exp(self.log_prob(z) + jnp.log(unit)), 1e-6)  # per unit of length
            step = jnp.clip((self.cdf(z) - below) / density, -0.1, 0.1)
            z = z - unit * step * (jnp.minimum(below, above) > 1e-4)
        return z

    def reach(self) -> Array:
        """Return the absolute value that is exceeded with a probability below 1e-7."""
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

    def _draw(self, key: Key, shape: tuple[int, ...]) -> Array:
        weights, locs, scales = self._parts()
        part_key, noise_key = jax.random.split(key)
        part = jax.random.choice(part_key, len(locs), shape, p=weights)
        return locs[part] + scales[part] * jax.random.normal(noise_key, shape)


@law()
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

    def __post_init__(self):
        values = as_array("values", self.values)
        if values.ndim not in (1, 2) or values.shape[0] < 2 or not values.size:
            raise ValueError(f"values has shape {values.shape}: give at least 2 observations, [m] or [m, d].")
        set_fields(self, values=values)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuse latents of another number of coordinates than there are columns."""
        if jnp.ndim(self.values) == 2:
            require_broadcast("Empirical", self.values[0], shape)

    def _sorted(self) -> Array:
        return jnp.sort(jnp.asarray(self.values, jnp.result_type(float)), axis=0)

    def _levels(self) -> Array:
        num = jnp.shape(self.values)[0]
        return (jnp.arange(num) + 0.5) / num

    def cdf(self, z: Array) -> Array:
        """Return distribution function: the empirical one, joined linearly between observations."""
        values, levels = self._sorted(), self._levels()
        if values.ndim == 1:
            return jnp.interp(z, values, levels, left=0.0, right=1.0)
        every = jax.vmap(lambda z, v: jnp.interp(z, v, levels, left=0.0, right=1.0), (-1, 1), -1)
        return every(z, values)

    def quantile(self, below: Array, above: Array) -> Array:
        """Return the quantile from both tail probabilities."""
        values, levels = self._sorted(), self._levels()
        if values.ndim == 1:
            return jnp.interp(below, levels, values)
        return jax.vmap(lambda q, v: jnp.interp(q, levels, v), (-1, 1), -1)(below, values)

    def reach(self) -> Array:
        """Return the largest absolute value."""
        return jnp.max(jnp.abs(self.values))

    def prepare(self, weights: Array, shape: tuple[int, ...], draws: Any = None) -> Any:
        # Each column has a table of its own, of 131,072 cells, which is made one at a time, when it is needed.
        return weights if jnp.ndim(self.values) == 2 else super().prepare(weights, shape, draws)

    def finish(self, prepared: Any, y: Array) -> Array:
        if jnp.ndim(self.values) == 1:
            return super().finish(prepared, y)
        return _match_columns(self.values, prepared, y)


@jax.jit  # without it every call outside jit would compile its loop again
def _match_columns(values: Array, weights: Array, y: Array) -> Array:
    def column(pair: tuple[Array, Array]) -> Array:
        prior, y = Empirical(pair[0]), pair[1]
        return prior.finish(prior.prepare(weights, y.shape), y)

    return jnp.moveaxis(jax.lax.map(column, (values.T, jnp.moveaxis(y, -1, 0))), 0, -1)


@law("cdf", "inverse", "bound")
class CustomPrior(_Tabulated):
    """Independent coordinates of any law.

    Attributes:
      cdf: elementwise distribution function, defined at module level (it is static).
      inverse: elementwise quantile function (static).
      bound: the absolute value that is exceeded with a probability of about 1e-7 at most (static).

    Example:
      >>> logistic = og.latent.CustomPrior(cdf=jax.nn.sigmoid, inverse=jax.scipy.special.logit, bound=16.0)
      >>> print(logistic.cdf(jnp.array(0.0)), logistic.ppf(jnp.array(0.75)), np.log(3))
      0.5 1.0986 1.0986
    """

    cdf: Callable[[Array], Array]
    inverse: Callable[[Array], Array]
    bound: float

    def __post_init__(self):
        if not (callable(self.cdf) and callable(self.inverse)):
            raise ValueError("cdf and inverse of CustomPrior must be functions, defined once at module level.")
        set_fields(self, bound=float(one_number("bound", self.bound)))
        require_positive("bound", self.bound)

    def quantile(self, below: Array, above: Array) -> Array:
        """Return the quantile from both tail probabilities."""
        return self.inverse(below)

    def reach(self) -> float:
        """Return the bound."""
        return self.bound


Mixture, Custom = MixturePrior, CustomPrior  # the names of version 0.1
