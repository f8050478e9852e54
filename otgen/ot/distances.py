"""The cost of one pair: squared Euclidean, Euclidean, p-norm, cosine, scaled features, or a function of yours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Float

from otgen.types import Array, as_pytree

UNROLL = 8  # up to this dimension differences are taken one by one: exact, and XLA fuses them with what follows


class CostFn:
    """A cost of two vectors: `cost(x, y)` for one pair, `cost.pairwise(x, y)` for all, parameters as pytree leaves.

    `invariant` says that moving both points by one vector changes nothing, which lets clouds be centred.

    Example:
      >>> class Manhattan(og.distances.CostFn):
      ...     invariant = True
      ...     def __call__(self, x, y):
      ...         return jnp.sum(jnp.abs(x - y))
      >>> print(Manhattan().pairwise(jnp.zeros((1, 2)), jnp.array([[1.0, 2.0], [3.0, 4.0]])))
      [[3. 7.]]
    """

    invariant: ClassVar[bool] = False

    def __call__(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Float[Array, ""]:
        """Return the cost of one pair."""
        raise TypeError(f"{type(self).__name__} must define __call__(x, y): subclass CostFn and give it.")

    def pairwise(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        """Return the costs of all pairs."""
        return jax.vmap(lambda xi: jax.vmap(lambda yj: self(xi, yj))(y))(x)


@as_pytree
@dataclass(frozen=True)
class SqEuclidean(CostFn):
    """|x - y|^2, not halved.

    Example:
      >>> print(og.distances.SqEuclidean()(jnp.zeros(2), jnp.array([3.0, 4.0])))
      25.0
    """

    invariant: ClassVar[bool] = True

    def __call__(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Float[Array, ""]:
        """Return |x - y|^2."""
        return jnp.sum((x - y) ** 2)

    def pairwise(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        """Return |x_i - y_j|^2, by differences in few dimensions and by one matrix product in many."""
        if x.shape[1] <= UNROLL:
            return sum((x[:, k, None] - y[None, :, k]) ** 2 for k in range(x.shape[1]))
        cross = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
        return jnp.maximum(jnp.sum(x**2, 1)[:, None] + jnp.sum(y**2, 1) - 2 * cross, 0.0)


@as_pytree
@dataclass(frozen=True)
class Euclidean(CostFn):
    """|x - y|, with gradient zero where the points meet.

    Example:
      >>> print(og.distances.Euclidean()(jnp.zeros(2), jnp.array([3.0, 4.0])))
      5.0
      >>> print(jax.grad(og.distances.Euclidean())(jnp.zeros(2), jnp.zeros(2)))  # not NaN
      [0. 0.]
    """

    invariant: ClassVar[bool] = True

    def __call__(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Float[Array, ""]:
        """Return |x - y|."""
        return _root(jnp.sum((x - y) ** 2))

    def pairwise(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        """Return |x_i - y_j|."""
        return _root(SqEuclidean().pairwise(x, y))


@as_pytree
@dataclass(frozen=True)
class PNorm(CostFn):
    """The p-norm (sum_k |x_k - y_k|^p)^(1/p), p >= 1 static, with gradient zero where the points meet.

    Example:
      >>> print(og.distances.PNorm(1.0)(jnp.zeros(2), jnp.array([3.0, 4.0])))
      7.0
    """

    p: float = field(default=2.0, metadata={"static": True})
    invariant: ClassVar[bool] = True

    def __post_init__(self):
        if not 1 <= self.p < float("inf"):
            raise ValueError(f"p = {self.p}: the p-norm is a distance for finite p >= 1 only.")

    def __call__(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Float[Array, ""]:
        """Return the p-norm of the difference."""
        gap = jnp.abs(x - y)
        largest = jax.lax.stop_gradient(jnp.max(gap))
        scale = jnp.where(largest > 0, largest, 1.0)
        total = jnp.sum((gap / scale) ** self.p)
        return jnp.where(largest > 0, scale * jnp.where(largest > 0, total, 1.0) ** (1 / self.p), 0.0)


@as_pytree
@dataclass(frozen=True)
class Cosine(CostFn):
    """1 - cos(x, y), between 0 and 2; a zero vector is at distance 1 from everything.

    Example:
      >>> print(og.distances.Cosine()(jnp.array([1.0, 0.0]), jnp.array([0.0, 5.0])))
      1.0
    """

    def __call__(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Float[Array, ""]:
        """Return 1 - cos(x, y)."""
        return 1 - _unit(x) @ _unit(y)

    def pairwise(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        """Return 1 - cos(x_i, y_j)."""
        return 1 - jnp.matmul(jax.vmap(_unit)(x), jax.vmap(_unit)(y).T, precision=jax.lax.Precision.HIGHEST)


@as_pytree
@dataclass(frozen=True)
class Scaled(CostFn):
    """A cost after each feature is multiplied by its scale [d]: scales can be learned, they are pytree leaves.

    Example:
      >>> print(og.distances.Scaled(jnp.array([1.0, 10.0]))(jnp.zeros(2), jnp.ones(2)))  # 1 + 10^2
      101.0
    """

    scales: Array
    base: CostFn = SqEuclidean()

    @property
    def invariant(self) -> bool:
        """Whether the cost that is scaled is translation-invariant."""
        return self.base.invariant

    def __call__(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Float[Array, ""]:
        """Return base(scales x, scales y)."""
        return self.base(x * self.scales, y * self.scales)

    def pairwise(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        """Return base(scales x_i, scales y_j)."""
        return self.base.pairwise(x * self.scales, y * self.scales)


class Custom(CostFn):
    """A plain function of two vectors as a cost; the function is static.

    Example:
      >>> def hamming(x, y):
      ...     return jnp.sum(x != y)
      >>> print(og.distances.Custom(hamming)(jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 0.0, 0.0])))
      2.0
    """

    def __init__(self, function: Callable[..., Any]):
        self.function = function

    def __call__(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Float[Array, ""]:
        """Return function(x, y), as float32 at least."""
        cost = jnp.asarray(self.function(x, y))
        return cost.astype(jnp.promote_types(cost.dtype, jnp.float32))

    def __repr__(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))


jax.tree_util.register_pytree_node(Custom, lambda it: ((), it.function), lambda function, _: Custom(function))


def as_cost_fn(cost_fn: Any) -> CostFn:
    """Return a cost of two vectors as a CostFn.

    Raises:
      ValueError: if it cannot be called.

    Example:
      >>> print(og.distances.as_cost_fn(jnp.dot)(jnp.ones(3), jnp.ones(3)))
      3.0
      >>> print(og.distances.as_cost_fn(og.distances.Cosine()))
      Cosine()
    """
    if isinstance(cost_fn, CostFn):
        return cost_fn
    if not callable(cost_fn):
        raise ValueError(f"cost_fn = {cost_fn!r}: give a CostFn such as Euclidean() or a function of two vectors.")
    return Custom(cost_fn)


def _root(square: Array) -> Array:
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def _unit(x: Array) -> Array:
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x)))
    x = x / jnp.where(largest > 0, largest, 1.0)  # or squares under- or overflow
    return x / jnp.where(largest > 0, _root(jnp.sum(x**2)), 1.0)
