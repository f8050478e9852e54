"""The base class of ground costs, `Cost`, and the cost that is a matrix, `DenseCost`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.ot.check import (
    as_array,
    as_mass,
    at_least_float32,
    native,
    require_choice,
    require_costs,
    require_positive,
    to_device,
)
from otgen.ot.products import product
from otgen.types import Array, Float, as_pytree


class Cost:
    """A ground cost between n source and m target points, in units of the caller's choice.

    Subclass it with `shape`, `dtype` and `map_blocks` (and register it as a pytree) to bring a cost of your own.

    Example:
      >>> cost = og.PairwiseCost(jnp.array([[0.0], [2.0]]), jnp.array([[1.0]]))
      >>> print(isinstance(cost, og.costs.Cost), cost.shape, cost.mean())  # both points are at squared distance 1
      True (2, 1) 1.0
    """

    @property
    def shape(self) -> tuple[int, int]:
        """Points on either side, (n, m)."""
        raise TypeError(f"{type(self).__name__} must define shape, (n, m).")

    @property
    def dtype(self) -> Any:
        """The type of the costs, float32 at least."""
        return jnp.float32

    def map_blocks(self, function: Callable[..., Any], *ours: Array, axis: int = 1) -> Any:
        """Return function(block, *ours), one result for each point of one side; see `PairwiseCost.map_blocks`."""
        raise TypeError(f"{type(self).__name__} must define map_blocks(function, *ours, axis=1).")

    def weighed(self, a: ArrayLike, b: ArrayLike) -> Cost:
        """Return the same cost, with points of weight zero made harmless if it has points; see `PairwiseCost`."""
        return self

    def matrix(self) -> Float[Array, "n m"]:
        """Return the cost matrix itself, n x m in memory."""
        return self.map_blocks(lambda block: block)

    def softmin(
        self,
        epsilon: ArrayLike,
        potential: ArrayLike,
        log_weights: ArrayLike | None = None,
        axis: int = 1,
    ) -> Float[Array, " _"]:
        """Return the smoothed minimum over one side, -epsilon log sum_j w_j exp((g_j - c_ij) / epsilon).

        It is computed and differentiated in blocks: n x m numbers are never stored unless the cost is a matrix.

        Args:
          epsilon: temperature, in units of the cost; traced.
          potential: of the side that is summed over, [m] for axis 1 and [n] for axis 0.
          log_weights: of the same side and shape; minus infinity leaves a point out. None is weight one.
          axis: the side that is summed over. Static.

        Returns:
          One number per point of the other side, in units of the cost; infinite where every point is left out.

        Example:
          >>> cost = og.DenseCost(jnp.array([[0.0, 1.0, 4.0], [4.0, 1.0, 0.0]]))
          >>> print(cost.softmin(0.01, jnp.zeros(3)))  # the minimum of each row
          [0. 0.]
          >>> print(cost.softmin(0.01, jnp.zeros(2), axis=0))  # of each column; -.01 log 2 where it is met twice
          [0. 0.993 0.]

        Reference: Peyre and Cuturi (2019), arXiv 1803.00567, section 4.4.
        """
        epsilon, potential, weights = self._checked(epsilon, potential, log_weights, axis)
        return self._softmin(epsilon, potential, weights, axis)

    def _softmin(self, epsilon: ArrayLike, potential: ArrayLike, log_weights: ArrayLike, axis: int) -> Array:
        return self.map_blocks(lambda block: _softmin(block, epsilon, potential, log_weights, axis), axis=axis)

    def _checked(
        self, epsilon: ArrayLike, potential: ArrayLike, log_weights: ArrayLike | None, axis: int
    ) -> tuple[ArrayLike, Array, Array]:
        """Return the arguments of a softmin as arrays, checked; None for weights stands for weights of one."""
        require_choice("axis", axis, (0, 1))
        require_positive("epsilon", epsilon)
        names = (
            {"potential": potential} if log_weights is None else {"potential": potential, "log_weights": log_weights}
        )
        given = []
        for name, array in names.items():
            array = native(name, array)
            if array.shape != (self.shape[axis],):
                raise ValueError(
                    f"{name} has shape {array.shape}: a cost {self.shape} has {self.shape[axis]} points on axis "
                    f"{axis}, give one number for each."
                )
            given.append(to_device(array, at_least_float32(array.dtype)))
        return epsilon, given[0], jnp.zeros_like(given[0]) if log_weights is None else given[1]

    def mean(self, a: ArrayLike | None = None, b: ArrayLike | None = None) -> Float[Array, ""]:
        """Return the mean cost sum_ij a_i b_j c_ij of independent points, uniform for None. It may be infinite."""
        n, m = self.shape
        a, b = (as_mass(name, mass, num, self.dtype) for name, mass, num in (("a", a, n), ("b", b, m)))
        return _mean(self.weighed(a, b), a, b)

    def times(self, vectors: ArrayLike, *, axis: int = 1) -> Float[Array, "_ ..."]:
        """Return the cost matrix times vectors, block by block; |x - y|^2 of clouds without any entry of the matrix.

        Args:
          vectors: numbers of the side that is summed over, [m] or [m, k] for axis 1, [n] or [n, k] for axis 0.
          axis: the side that is summed over: 1 for C v, 0 for C' v. Static.

        Returns:
          C v [n] or [n, k], or C' v [m] or [m, k]. NaN or infinite where an infinite cost is summed.

        Raises:
          ValueError: for another axis or number of rows, or (outside jit) entries that are not finite.

        Example:
          >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([[0.0], [2.0], [3.0]])
          >>> print(og.PairwiseCost(x, y).times(jnp.array([1.0, 1.0, 0.0])))  # the first two columns
          [4. 2.]
        """
        vectors = as_vectors(vectors, self, axis, finite=True)
        columns = vectors if vectors.ndim == 2 else vectors[:, None]
        return _times(self, columns, axis).reshape(-1, *vectors.shape[1:])

    @property
    def factored(self) -> bool:
        """Whether `times` needs no entries of the matrix, which has a small rank and no infinite ones."""
        return False

    def _times(self, columns: Array, axis: int) -> Array:
        return self.map_blocks(lambda block: product(block if axis == 1 else block.T, columns), axis=axis)

    def pairs(self, i: Array, j: Array) -> Float[Array, " k"]:
        """Return the costs of the pairs (i_k, j_k)."""
        return self.matrix()[i, j]

    def row(self, i: Array) -> Float[Array, " m"]:
        """Return the costs from one source point to all target points."""
        return self.matrix()[i]


def indices(name: str, index: Any) -> Array:
    """Return indices of points as an array; refuse what are no whole numbers."""
    index = native(name, index)
    if not jnp.issubdtype(index.dtype, jnp.integer):
        raise ValueError(f"{name} has entries of type {index.dtype}: give whole numbers.")
    return jnp.asarray(index)


def as_cost(cost: Cost | ArrayLike) -> Cost:
    """Return a ground cost as it is and a matrix [n, m] as a DenseCost."""
    return cost if isinstance(cost, Cost) else DenseCost(cost)


def as_vectors(vectors: ArrayLike, cost: Cost, axis: int, *, finite: bool = False) -> Array:
    """Return numbers of the side of a cost that is summed over, one row for each of its points; refuse others."""
    require_choice("axis", axis, (0, 1))
    vectors, num = as_array("vectors", vectors, finite=finite), cost.shape[axis]
    if vectors.ndim not in (1, 2) or vectors.shape[0] != num:
        raise ValueError(
            f"vectors have shape {vectors.shape}: summing over axis {axis} of a cost {cost.shape} needs [{num}] or "
            f"[{num}, k]."
        )
    return vectors


def weighed(cost: Cost, a: Array, b: Array) -> Cost:
    """Return the same cost, with points of weight zero made harmless; see `PairwiseCost.weighed`."""
    return cost if type(cost).weighed is Cost.weighed else _weighed(cost, a, b)


@jax.jit
def _weighed(cost: Cost, a: Array, b: Array) -> Cost:
    return cost.weighed(a, b)


def along(values: Array, axis: int) -> Array:
    """Give a vector the shape in which it runs along one axis of a block.

    Example:
      >>> print(og.costs.along(jnp.arange(3), 1).shape, og.costs.along(jnp.arange(3), 0).shape)
      (1, 3) (3, 1)
    """
    return values[None, :] if axis == 1 else values[:, None]


@jax.jit(static_argnames="axis")
def _times(cost: Cost, columns: Array, axis: int) -> Array:
    return cost._times(columns, axis)


@jax.jit
def _mean(cost: Cost, a: Array, b: Array) -> Array:
    if cost.factored:
        return product(a, cost._times(b[:, None], 1))[0]

    def row(block: Array, a: Array) -> Array:
        counts = (block < jnp.inf) | ((a[:, None] > 0) & (b > 0))  # infinite costs of pairs without mass do not count
        return product(jnp.where(counts, block, 0.0), b)

    return jnp.sum(a * cost.map_blocks(row, a))


def _softmin(block: Array, epsilon: ArrayLike, potential: Array, log_weights: Array, axis: int) -> Array:
    none = block == jnp.inf  # kept out of the arithmetic, as derivatives would be NaN otherwise
    scores = (along(potential, axis) - jnp.where(none, 0.0, block)) / epsilon + along(log_weights, axis)
    scores = jnp.where(none, -jnp.inf, scores)
    top = jax.lax.stop_gradient(jnp.max(scores, axis))
    top = jnp.where(jnp.isfinite(top), top, 0.0)  # for a row of minus infinities, whose result is log 0 and not NaN
    return -epsilon * (jnp.log(jnp.sum(jnp.exp(scores - along(top, 1 - axis)), axis)) + top)


class DenseCost(Cost):
    """A ground cost given as a matrix.

    Args:
      values: cost matrix [n, m], in any unit; epsilon and potentials then have the same. +inf forbids a pair.

    Raises:
      ValueError: if it is not a matrix with two sides, or (outside jit) has entries that are NaN or -inf.

    Example:
      >>> cost = og.DenseCost(jnp.array([[0, 2], [3, 1], [1, 1]]))
      >>> print(cost, cost.dtype, cost.mean())
      DenseCost(3 x 2) float32 1.3333
    """

    values: Array

    def __init__(self, values: ArrayLike):
        values = native("the cost matrix", values)
        if values.ndim != 2 or 0 in values.shape:
            raise ValueError(
                f"a cost matrix of shape {values.shape}: give [n, m] with at least one point on each side."
            )
        require_costs("the cost matrix", values)
        self.values = to_device(values, at_least_float32(values.dtype))

    @property
    def shape(self) -> tuple[int, int]:
        """Points on either side, (n, m)."""
        return self.values.shape

    @property
    def dtype(self) -> Any:
        """The type of the costs."""
        return self.values.dtype

    def matrix(self) -> Float[Array, "n m"]:
        """Return the cost matrix."""
        return self.values

    def map_blocks(self, function: Callable[..., Any], *ours: Array, axis: int = 1) -> Any:
        """Return function(matrix, *ours): the whole matrix is one block."""
        return function(self.values, *ours)

    def __repr__(self) -> str:
        return f"DenseCost({self.shape[0]} x {self.shape[1]})"


as_pytree(DenseCost, ("values",))
