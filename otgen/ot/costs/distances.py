"""The cost of one pair: squared Euclidean, Euclidean, p-norm, cosine, scaled features, or a function of yours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.ot.check import as_array
from otgen.ot.costs.functions import key_of, warn_of_kinds
from otgen.ot.products import product
from otgen.types import Array, Float, as_pytree

UNROLL = 8  # up to this dimension differences are taken one by one: they are exact, and XLA fuses them
NEAR = 2.0**-8  # below this share of |x|^2 + |y|^2 a squared distance from products has lost digits


class CostFn:
    """A cost of two vectors: `cost(x, y)` for one pair, `cost.pairwise(x, y)` for all, parameters as pytree leaves.

    `invariant` says that moving both points by one vector does not change the cost, so that clouds can be centred;
    `negative_type` that it is symmetric and sum_ij w_i w_j c(x_i, x_j) <= 0 for weights w of total 0, so that
    exp(-c / epsilon) is a positive definite kernel: transport of a cloud to itself is then found in a few steps.

    Example:
      >>> class Manhattan(og.distances.CostFn):
      ...     invariant = True
      ...     def __call__(self, x, y):
      ...         return jnp.sum(jnp.abs(x - y))
      >>> print(Manhattan().pairwise(jnp.zeros((1, 2)), jnp.array([[1.0, 2.0], [3.0, 4.0]])))
      [[3. 7.]]
    """

    invariant: ClassVar[bool] = False
    negative_type: ClassVar[bool] = False

    def __call__(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Float[Array, ""]:
        """Return the cost of one pair."""
        raise TypeError(f"{type(self).__name__} must define __call__(x, y): subclass CostFn and give it.")

    def pairwise(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        """Return the costs of all pairs."""
        x, y = _clouds(x, y)
        return jax.vmap(lambda xi: jax.vmap(lambda yj: self(xi, yj))(y))(x)

    def require_dim(self, dim: int) -> None:
        """Refuse points of a dimension that does not go with the cost's parameters, by a ValueError."""


@as_pytree
@dataclass(frozen=True)
class SqEuclidean(CostFn):
    """|x - y|^2, not halved.

    Example:
      >>> print(og.distances.SqEuclidean()(jnp.zeros(2), jnp.array([3.0, 4.0])))
      25.0
    """

    invariant: ClassVar[bool] = True
    negative_type: ClassVar[bool] = True

    def __call__(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Float[Array, ""]:
        """Return |x - y|^2."""
        x, y = _vectors(x, y)
        return jnp.sum((x - y) ** 2)

    def pairwise(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        """Return |x_i - y_j|^2, by differences in few dimensions and by one matrix product in many."""
        x, y = _clouds(x, y)
        if x.shape[1] <= UNROLL:
            return sum((x[:, k, None] - y[None, :, k]) ** 2 for k in range(x.shape[1]))
        return jnp.maximum(_by_products(x, y), 0.0)

    def exact(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        """Return |x_i - y_j|^2 as `pairwise`, but by differences for points so near that products cancel.

        Square roots of the result need it: the distance of a point from itself is then 0, not the root of a rounding
        error. It takes one more pass over the matrix, and where points are near one pass for each near point that a
        row has, d at most.
        """
        x, y = _clouds(x, y)
        if x.shape[1] <= UNROLL:
            return self.pairwise(x, y)
        square = _by_products(x, y)
        value = _mended(*jax.lax.stop_gradient((square, x, y)))
        return value + (square - jax.lax.stop_gradient(square))  # the derivatives are those of the products


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
    negative_type: ClassVar[bool] = True

    def __call__(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Float[Array, ""]:
        """Return |x - y|."""
        x, y = _vectors(x, y)
        return _root(jnp.sum((x - y) ** 2))

    def pairwise(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        """Return |x_i - y_j|."""
        return _root(SqEuclidean().exact(x, y))


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
        if not isinstance(self.p, int | float) or not 1 <= self.p < float("inf"):
            raise ValueError(f"p = {self.p!r}: the p-norm is a distance for finite p >= 1 only, give a Python number.")

    @property
    def negative_type(self) -> bool:
        """Whether the cost is of negative type: for p <= 2."""
        return self.p <= 2

    def __call__(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Float[Array, ""]:
        """Return the p-norm of the difference."""
        x, y = _vectors(x, y)
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

    negative_type: ClassVar[bool] = True

    def __call__(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Float[Array, ""]:
        """Return 1 - cos(x, y)."""
        x, y = _vectors(x, y)
        return self.pairwise(x[None], y[None])[0, 0]

    def pairwise(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        """Return 1 - cos(x_i, y_j), half the squared distance of the directions, which is exact where they are near."""
        x, y = (jax.vmap(_unit)(points) for points in _clouds(x, y))
        zero = jnp.all(x == 0, 1)[:, None] | jnp.all(y == 0, 1)
        return jnp.where(zero, 1.0, 0.5 * SqEuclidean().exact(x, y))


@as_pytree
@dataclass(frozen=True)
class Scaled(CostFn):
    """A cost after each feature is multiplied by its scale [d]: scales can be learned, they are pytree leaves.

    Example:
      >>> print(og.distances.Scaled(jnp.array([1.0, 10.0]))(jnp.zeros(2), jnp.ones(2)))  # 1 + 10^2
      101.0
    """

    scales: ArrayLike
    base: CostFn = SqEuclidean()

    def __post_init__(self):
        object.__setattr__(self, "scales", as_array("scales", self.scales))
        object.__setattr__(self, "base", as_cost_fn(self.base))

    @property
    def invariant(self) -> bool:
        """Whether the base cost is translation-invariant."""
        return self.base.invariant

    @property
    def negative_type(self) -> bool:
        """Whether the base cost is of negative type."""
        return self.base.negative_type

    def require_dim(self, dim: int) -> None:
        """Refuse scales that are not one per coordinate."""
        if jnp.shape(self.scales) not in ((), (dim,)):
            raise ValueError(f"scales have shape {jnp.shape(self.scales)}: give one per coordinate, shape ({dim},).")
        self.base.require_dim(dim)

    def __call__(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Float[Array, ""]:
        """Return base(scales x, scales y)."""
        x, y = _vectors(x, y)
        self.require_dim(x.shape[0])
        return self.base(x * self.scales, y * self.scales)

    def pairwise(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        """Return base(scales x_i, scales y_j)."""
        x, y = _clouds(x, y)
        self.require_dim(x.shape[1])
        return self.base.pairwise(x * self.scales, y * self.scales)


class CustomCost(CostFn):
    """A plain function of two vectors as a cost; the function is static.

    Two functions count as one if their code, their defaults and their closures are the same, so that a lambda written
    in a loop, or a `functools.partial`, compiles once. Numbers in closures are compared by value, arrays and other
    objects by identity. A warning is given if functions of the same code keep coming with other closures.

    Example:
      >>> def hamming(x, y):
      ...     return jnp.sum(x != y)
      >>> print(og.distances.CustomCost(hamming)(jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 0.0, 0.0])))
      2.0
      >>> def inner(scale):
      ...     return og.distances.CustomCost(lambda x, y: scale * (x @ y))
      >>> print(inner(2.0) == inner(2.0), inner(2.0) == inner(3.0))
      True False
    """

    def __init__(self, function: Callable[..., Any]):
        if not callable(function):
            raise ValueError(f"function = {function!r}: give a function of two vectors that returns one number.")
        self.function = function
        self.key = key_of(function)
        warn_of_kinds(function, self.key)

    def __call__(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Float[Array, ""]:
        """Return function(x, y), as float32 at least."""
        cost = jnp.asarray(self.function(x, y))
        if cost.shape != ():
            raise ValueError(
                f"cost_fn {self} returned an array of shape {cost.shape}: return one number for two points."
            )
        return cost.astype(jnp.promote_types(cost.dtype, jnp.float32))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CustomCost) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))


jax.tree_util.register_pytree_node(CustomCost, lambda it: ((), it), lambda it, _: it)
Custom = CustomCost  # the name of version 0.1


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
        if jax.tree_util.all_leaves([cost_fn]):  # its class is no pytree: it is static, and equal to itself alone
            jax.tree_util.register_pytree_node(type(cost_fn), lambda it: ((), it), lambda it, _: it)
        return cost_fn
    if not callable(cost_fn) or isinstance(cost_fn, type):
        raise ValueError(f"cost_fn = {cost_fn!r}: give a CostFn such as Euclidean() or a function of two vectors.")
    return CustomCost(cost_fn)


def _vectors(x: Any, y: Any) -> tuple[Array, Array]:
    """Return two vectors of one dimension as arrays of float32 at least."""
    x, y = as_array("x", x, (None,), finite=False), as_array("y", y, (None,), finite=False)
    if x.shape != y.shape:
        raise ValueError(f"x has {x.shape[0]} entries and y {y.shape[0]}: both points must live in the same space.")
    return x, y


def _clouds(x: Any, y: Any) -> tuple[Array, Array]:
    """Return two clouds of one dimension as arrays of float32 at least."""
    x, y = as_array("x", x, (None, None), finite=False), as_array("y", y, (None, None), finite=False)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x has {x.shape[1]} columns and y {y.shape[1]}: both clouds must live in the same space.")
    return x, y


def _by_products(x: Array, y: Array) -> Array:
    cross = product(x, y.T)
    return jnp.sum(x**2, 1)[:, None] + jnp.sum(y**2, 1) - 2 * cross


def _mended(square: Array, x: Array, y: Array) -> Array:
    """Return squared distances by products, with those of near points replaced by differences."""
    d, rows = x.shape[1], jnp.arange(x.shape[0])
    limits = NEAR * jnp.sum(x**2, 1)[:, None], NEAR * jnp.sum(y**2, 1)
    wanted = jnp.any(square < sum(limits))

    def one_of_each_row(carry: tuple) -> tuple:
        near, square = carry
        j = jnp.argmax(near, 1)
        gap = jnp.where(near[rows, j], jnp.sum((x - y[j]) ** 2, 1), square[rows, j])
        return near.at[rows, j].set(False), square.at[rows, j].set(gap)

    def one_coordinate(carry: tuple) -> tuple:
        k, total = carry
        return k + 1, total + (x[:, k][:, None] - y[:, k]) ** 2

    def mend(carry: tuple) -> tuple:
        _, square = carry
        near = square < sum(limits)
        few = jnp.max(jnp.sum(near, 1)) <= d
        left, square = jax.lax.while_loop(lambda it: few & jnp.any(it[0]), one_of_each_row, (near, square))
        _, total = jax.lax.while_loop(lambda it: ~few & (it[0] < d), one_coordinate, (0, jnp.zeros_like(square)))
        return jnp.zeros((), bool), jnp.where(left, total, square)

    # These loops run once or not at all. Branches in their place would be taken by all under vmap.
    return jnp.maximum(jax.lax.while_loop(lambda it: it[0], mend, (wanted, square))[1], 0.0)


def _root(square: Array) -> Array:
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def _unit(x: Array) -> Array:
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x)))
    x = x / jnp.where(largest > 0, largest, 1.0)  # without this, squares under- or overflow
    return x / jnp.where(largest > 0, _root(jnp.sum(x**2)), 1.0)
