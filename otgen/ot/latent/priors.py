"""Laws of latents, each with the Monge map that brings a weighted sum of its draws back to it.

A prior is a frozen dataclass with `sample(key, shape)`, `match(weights, y)` and, for laws of independent coordinates,
`cdf`, `ppf` and (where it has a closed form) `log_prob`. `match` is that map: T = F^-1(F_Q(y)) for independent
coordinates, where F_Q is the distribution function of the sum, and the same along the radius for rotation-invariant
laws.

A prior is also a law of the source (`otgen.types.Sampler`): it is called as `prior(key, num, dim)`, and laws with
quantiles map uniform points of the unit cube to their draws by `from_cube`. As a static argument it stands for its
content: laws of one class with equal parameters are equal and have one hash, arrays among the parameters included.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr, ndtr, ndtri

from otgen.ot.check import (
    as_array,
    as_count,
    as_key,
    is_traced,
    native,
    require_between,
    require_finite,
    smallest_and_sum,
)
from otgen.ot.latent import sums
from otgen.ot.products import product
from otgen.types import Array, Key, as_pytree

LEAST = 2.0**-24  # smallest coordinate of random points of the unit cube, so that quantiles are finite


def law(*static: str):
    """Make a class a frozen dataclass and a pytree whose fields are leaves, but for the static ones.

    Instances are equal, and have one hash, if their fields are equal in type and value, arrays to the bit.
    """

    def decorate(cls: type) -> type:
        cls.__eq__, cls.__hash__ = _equal, _hash
        return as_pytree(dataclasses.dataclass(frozen=True, eq=False)(cls), static=static)

    return decorate


def _equal(one: Prior, other: Any) -> Any:
    if type(other) is not type(one):
        return NotImplemented
    return one is other or _content(one) == _content(other)


def _hash(prior: Prior) -> int:
    """Return the hash of class and content. Traced parameters have no values, and raise TypeError."""
    return hash((type(prior), _content(prior)))


def _content(prior: Prior) -> tuple:
    """Return the fields of a law, its arrays as shape, type and bytes. They are read from the device once."""
    if "_content" not in vars(prior):
        set_fields(prior, _content=tuple(_plain(getattr(prior, it.name)) for it in dataclasses.fields(prior)))
    return prior._content


def _plain(value: Any) -> Any:
    if not isinstance(value, jax.Array | np.ndarray):
        return value
    array = np.asarray(value)
    return array.shape, str(array.dtype), array.tobytes()


def parameter(name: str, value: Any, *, positive: bool = False, shape: tuple[int | None, ...] | None = None) -> Any:
    """Return a parameter of a law, a number or an array, as a float or an array of float32 at least.

    Raises:
      ValueError: outside jit, if it is not finite or, where it must be, not positive; for another shape.
    """
    if isinstance(value, bool | int | float) and shape is None:
        require_finite(name, value)
        if positive and not value > 0:
            raise ValueError(f"{name} = {value}: give a positive number.")
        return float(value)
    value = as_array(name, value, shape)
    if positive and value.size and not is_traced(value) and not smallest_and_sum(value)[0] > 0:
        raise ValueError(f"{name} has a smallest entry of {smallest_and_sum(value)[0]:g}: all must be positive.")
    return value


def set_fields(prior: Any, **values: Any) -> None:
    """Set fields of a frozen law while it is made."""
    for name, value in values.items():
        object.__setattr__(prior, name, value)


def placed(prior: Any) -> dict[str, Any]:
    """Return the position and the width of a law, checked."""
    return {"loc": parameter("loc", prior.loc), "scale": parameter("scale", prior.scale, positive=True)}


def one_number(name: str, value: Any) -> Any:
    """Refuse what is not one finite number."""
    value = native(name, value)
    if value.ndim:
        raise ValueError(f"{name} has shape {value.shape}: give one number.")
    require_finite(name, value)
    return value


def require_order(low: Any, high: Any) -> None:
    """Refuse an interval whose ends are not in order."""
    if not (np.asarray(low) < np.asarray(high)).all():
        raise ValueError(f"low = {low} is not below high = {high}: exchange them.")


class Prior:
    """A law of latents, and of the source of a semi-discrete map. Sub-classes give `sample` and `match`.

    A law whose map for sums takes much work splits `match` into `prepare`, which does not need the sums and runs once
    in a walk, and `finish`. Register sub-classes as pytrees, or every call outside jit is traced again.

    Example:
      >>> print(isinstance(og.latent.Uniform(), og.latent.Prior), og.latent.Uniform().support)
      True (-1.0, 1.0)
      >>> print(isinstance(og.latent.Uniform(), og.types.Sampler), og.latent.Uniform()(jax.random.key(0), 4, 3).shape)
      True (4, 3)
      >>> print(og.latent.Uniform(-0.5, 0.5) == og.source.uniform_cube, og.latent.Normal() == og.source.gaussian)
      True True
    """

    support: tuple[float, float] | None = None  # of every coordinate, if it is bounded
    on_host: bool = False  # whether `prepare` must run outside of jitted functions

    def sample(self, key: Key, shape: tuple[int, ...]) -> Array:
        """Draw latents of a shape.

        Raises:
          ValueError: for what is no key or no shape, or a shape that does not suit the parameters.
        """
        if not isinstance(shape, tuple | list):
            raise ValueError(f"shape = {shape}: give a tuple of whole numbers.")
        shape = tuple(as_count("a side of shape", side, least=0) for side in shape)
        self.check_shape(shape)
        return self._draw(as_key(key), shape)

    def __call__(self, key: Key, num: int, dim: int) -> Array:
        """Draw `num` independent points [num, dim]: the law as a `Sampler`.

        A law that has `from_cube` draws by it, so that independent and quasi-random points come from one map; for one
        key these are other draws than those of `sample`.

        Raises:
          ValueError: for what is no key or no size, or a dimension that does not suit the parameters.
        """
        shape = as_count("num", num, 0), as_count("dim", dim)
        self.check_shape(shape)
        if not hasattr(self, "from_cube"):
            return self._draw(as_key(key), shape)
        return self.from_cube(jax.random.uniform(as_key(key), shape, minval=LEAST))

    def _draw(self, key: Key, shape: tuple[int, ...]) -> Array:
        raise TypeError(f"{type(self).__name__} cannot be sampled.")

    def match(self, weights: Array, y: Array) -> Array:
        """Map y = sum_i w_i z_i, z_i independent draws of this law, to this law at the least mean squared cost."""
        raise TypeError(f"{type(self).__name__} has no map for sums of its draws.")

    def draws(self, num: int, shape: tuple[int, ...]) -> Any:
        """Return random numbers, or None, by which sums of `num` latents are matched; one draw serves many weights."""
        return None

    def prepare(self, weights: Array, shape: tuple[int, ...], draws: Any = None) -> Any:
        """Return what the map of sums of these weights needs, from the shape of the latents and perhaps `draws`."""
        return weights

    def finish(self, prepared: Any, y: Array) -> Array:
        """Map sums y, given what `prepare` has returned for their weights."""
        return self.match(prepared, y)

    def unfold(self, y: Array, z: Array) -> Array:
        """Return sums y, with those moved for which the map is not defined; z is the first of the latents."""
        return y

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuse latents of a shape that does not suit the parameters.

        Raises:
          ValueError: which names both shapes.
        """
        for leaf in jax.tree.leaves(self):
            require_broadcast(type(self).__name__, leaf, shape)


class Coordinates(Prior):
    """A law of independent coordinates with a quantile function `ppf`."""

    def from_cube(self, u: Array) -> Array:
        """Map points u [n, d] of the unit cube, uniform there, to points [n, d] of this law.

        Raises:
          ValueError: for a dimension that does not suit the parameters.
        """
        self.check_shape(u.shape)
        return self.ppf(u)


def as_prior(prior: Any) -> Prior:
    """Return a law of latents as it is.

    Raises:
      ValueError: for what is none, a function that only draws among them.
    """
    if not isinstance(prior, Prior):
        raise ValueError(f"prior = {prior!r}: give a law of latents, such as og.latent.Normal() or og.source.gaussian.")
    return prior


def require_broadcast(name: str, leaf: Any, shape: tuple[int, ...]) -> None:
    """Refuse parameters that do not broadcast against latents of a shape."""
    own = np.shape(leaf) if hasattr(leaf, "ndim") else ()
    try:
        fits = np.broadcast_shapes(own, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"{name} has parameters of shape {own}, the latents {shape}: they do not go together.")


@law()
class Normal(Coordinates):
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

    def __post_init__(self):
        set_fields(self, loc=parameter("loc", self.loc), scale=parameter("scale", self.scale, positive=True))
        if self.tril is not None:
            set_fields(self, tril=parameter("tril", self.tril, shape=(None, None)))
            self._check_factor()

    def _check_factor(self) -> None:
        if self.tril.shape[0] != self.tril.shape[1]:
            raise ValueError(f"tril has shape {self.tril.shape}: give a factor [d, d] of the covariance.")
        if not is_traced(self.tril):
            factor = np.asarray(self.tril)
            if np.triu(factor, 1).any() or not np.diagonal(factor).all():
                raise ValueError(
                    "tril is not lower-triangular with a diagonal without zeros: give jnp.linalg.cholesky(covariance)."
                )

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuse latents that do not suit loc, scale or tril."""
        if self.tril is None:
            return super().check_shape(shape)
        require_broadcast("Normal", self.loc, shape)
        return require_broadcast("Normal", self.tril[0], shape)

    def _draw(self, key: Key, shape: tuple[int, ...]) -> Array:
        z = jax.random.normal(key, shape)
        return self.loc + (self.scale * z if self.tril is None else product(z, jnp.asarray(self.tril).T))

    def match(self, weights: Array, y: Array) -> Array:
        length = jnp.sqrt(jnp.sum(weights**2))
        return self.loc + (y - weights.sum() * self.loc) / length

    def cdf(self, z: Array) -> Array:
        """Return distribution function of the coordinates (of the marginals, for a full covariance)."""
        return ndtr((z - self.loc) / self._deviation())

    def ppf(self, q: Array) -> Array:
        """Return the quantile function of the coordinates."""
        return self.loc + self._deviation() * ndtri(q)

    def log_prob(self, z: Array) -> Array:
        """Log-density of the coordinates; for a full covariance, of the vectors along the last axis."""
        if self.tril is None:
            return -0.5 * ((z - self.loc) / self.scale) ** 2 - jnp.log(self.scale) - 0.5 * math.log(2 * math.pi)
        white = jax.scipy.linalg.solve_triangular(self.tril, jnp.moveaxis(z - self.loc, -1, 0), lower=True)
        determinant = jnp.sum(jnp.log(jnp.abs(jnp.diag(self.tril))))
        return -0.5 * jnp.sum(white**2, 0) - determinant - 0.5 * len(self.tril) * math.log(2 * math.pi)

    def from_cube(self, u: Array) -> Array:
        """Map points u [n, d] of the unit cube to points [n, d] of this law, for a full covariance too."""
        self.check_shape(u.shape)
        return self.ppf(u) if self.tril is None else self.loc + product(ndtri(u), jnp.asarray(self.tril).T)

    def _deviation(self) -> Any:
        return self.scale if self.tril is None else jnp.sqrt(jnp.sum(jnp.asarray(self.tril) ** 2, axis=1))


@law()
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

    def __post_init__(self):
        require_between("alpha", self.alpha, 0.0, 2.0)
        set_fields(self, alpha=parameter("alpha", self.alpha, positive=True), **placed(self))

    def _draw(self, key: Key, shape: tuple[int, ...]) -> Array:
        """Draw by the method of Chambers, Mallows and Stuck (1976)."""
        angle_key, size_key = jax.random.split(key)
        angle = jnp.pi * (jax.random.uniform(angle_key, shape, minval=2.0**-24) - 0.5)
        size = jax.random.exponential(size_key, shape)
        tail = (jnp.cos((1 - self.alpha) * angle) / size) ** ((1 - self.alpha) / self.alpha)
        return self.loc + self.scale * tail * jnp.sin(self.alpha * angle) / jnp.cos(angle) ** (1 / self.alpha)

    def match(self, weights: Array, y: Array) -> Array:
        length = jnp.sum(jnp.abs(weights) ** self.alpha) ** (1 / self.alpha)
        return self.loc + (y - weights.sum() * self.loc) / length


@law()
class Cauchy(Coordinates):
    """Cauchy coordinates; `y -> y / sum |w|` in units of the scale, so interpolation needs no change.

    Example:
      >>> print(og.latent.lerp(0.5, jnp.array([1.0]), jnp.array([2.0]), og.latent.Cauchy()))  # the mean itself
      [1.5]
    """

    loc: Any = 0.0
    scale: Any = 1.0

    def __post_init__(self):
        set_fields(self, **placed(self))

    def _draw(self, key: Key, shape: tuple[int, ...]) -> Array:
        return self.loc + self.scale * jax.random.cauchy(key, shape)

    def match(self, weights: Array, y: Array) -> Array:
        return self.loc + (y - weights.sum() * self.loc) / jnp.sum(jnp.abs(weights))

    def cdf(self, z: Array) -> Array:
        """Return distribution function."""
        return 0.5 + jnp.arctan((z - self.loc) / self.scale) / jnp.pi

    def ppf(self, q: Array) -> Array:
        """Return the quantile function."""
        return self.loc + self.scale * jnp.tan(jnp.pi * (q - 0.5))

    def log_prob(self, z: Array) -> Array:
        """Log-density."""
        return -jnp.log(jnp.pi * self.scale) - jnp.log1p(((z - self.loc) / self.scale) ** 2)


@law("low", "high")
class Uniform(Coordinates):
    """Uniform coordinates on [low, high]; `y -> 2 F_Q(y) - 1` in units of the half width (`sums.uniform_match`).

    Example:
      >>> prior = og.latent.Uniform(0.0, 1.0)
      >>> print(prior.match(jnp.array([0.5, 0.5]), jnp.array(0.25)))  # means have a triangular law: P(mean < 1/4) = 1/8
      0.125
    """

    low: Any = -1.0
    high: Any = 1.0

    def __post_init__(self):
        if is_traced(self.low, self.high):
            raise ValueError("low and high of Uniform are static: give Python numbers.")
        set_fields(self, low=float(one_number("low", self.low)), high=float(one_number("high", self.high)))
        require_order(self.low, self.high)

    @property
    def support(self) -> tuple[float, float]:
        """The interval."""
        return self.low, self.high

    def _draw(self, key: Key, shape: tuple[int, ...]) -> Array:
        return jax.random.uniform(key, shape, minval=self.low, maxval=self.high)

    def match(self, weights: Array, y: Array) -> Array:
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        return middle + half * sums.uniform_match(weights, (y - weights.sum() * middle) / half)

    def cdf(self, z: Array) -> Array:
        """Return distribution function."""
        return jnp.clip((z - self.low) / (self.high - self.low), 0, 1)

    def ppf(self, q: Array) -> Array:
        """Return the quantile function."""
        return self.low + (self.high - self.low) * q

    def log_prob(self, z: Array) -> Array:
        """Log-density, -inf outside the interval."""
        return jnp.where((z >= self.low) & (z <= self.high), -math.log(self.high - self.low), -jnp.inf)


def gaussianise(prior: Any, z: Array) -> Array:
    """Map coordinates of a prior to standard normal ones, Phi^-1(F(z))."""
    below = prior.cdf(z)
    return ndtri(jnp.clip(below, 1e-7, 1 - 1e-7))


def degaussianise(prior: Any, z: Array) -> Array:
    """Map standard normal coordinates to those of a prior, F^-1(Phi(z))."""
    if hasattr(prior, "quantile"):
        return prior.quantile(ndtr(z), jnp.exp(log_ndtr(-z)))
    return prior.ppf(ndtr(z))
