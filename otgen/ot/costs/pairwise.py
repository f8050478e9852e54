"""The ground cost of two clouds, computed block by block and never stored as a matrix: `PairwiseCost`."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen import sizes
from otgen.ot.check import as_count, as_points, require_choice
from otgen.ot.costs.distances import CostFn, SqEuclidean, as_cost_fn
from otgen.ot.costs.ground import Cost, indices
from otgen.ot.inert import middle
from otgen.ot.products import product
from otgen.types import Array, Float, as_pytree


class PairwiseCost(Cost):
    """A ground cost between two clouds, computed where it is needed and never stored.

    Args:
      x: source points [n, d].
      y: target points [m, d].
      cost_fn: a cost of `otgen.ot.costs.distances` or any function of two vectors [d]; |x - y|^2, not halved, by
        default. Functions with the same code and closure count as one; functions with other arrays in the closure
        compile anew.
      block: entries of the matrix in memory at a time; None for what suits the device, see `otgen.sizes`: about a
        million on a CPU. Static.

    For a translation-invariant cost both clouds are first moved to a common middle, so that a shift of both changes no
    digit. In transport of weighted clouds, points of weight zero do not count for this middle. The cost is
    differentiable in x, y and the parameters of cost_fn.

    Raises:
      ValueError: for other shapes, different dimensions, an empty side, or (outside jit) non-finite points.

    Example:
      >>> cost = og.PairwiseCost(jnp.array([[0.0, 0.0], [1.0, 0.0]]), jnp.array([[0.0, 2.0], [1.0, 2.0]]))
      >>> print(cost.matrix())
      [[4. 5.]
       [5. 4.]]
      >>> print(og.PairwiseCost(cost.x, cost.y, lambda x, y: jnp.abs(x - y).sum()).matrix())
      [[2. 3.]
       [3. 2.]]
    """

    x: Array
    y: Array
    cost_fn: CostFn
    block: int | None
    centred: bool

    def __init__(self, x: ArrayLike, y: ArrayLike, cost_fn: Any = None, *, block: int | None = None):
        self.x, self.y = as_points("x", x, least=1), as_points("y", y, least=1)
        if self.x.shape[1] != self.y.shape[1]:
            raise ValueError(
                f"x has {self.x.shape[1]} columns and y {self.y.shape[1]}: both clouds must live in the same space."
            )
        if self.x.dtype != self.y.dtype:
            dtype = jnp.promote_types(self.x.dtype, self.y.dtype)
            self.x, self.y = self.x.astype(dtype), self.y.astype(dtype)
        self.cost_fn = SqEuclidean() if cost_fn is None else as_cost_fn(cost_fn)
        self.cost_fn.require_dim(self.x.shape[1])
        self.block, self.centred = None if block is None else as_count("block", block), False

    @property
    def shape(self) -> tuple[int, int]:
        """Points on either side, (n, m)."""
        return self.x.shape[0], self.y.shape[0]

    @property
    def dtype(self) -> Any:
        """The type of the costs."""
        return self.x.dtype

    def weighed(self, a: ArrayLike, b: ArrayLike) -> PairwiseCost:
        """Return the same cost, with points of weight zero made harmless.

        They do not count for the middle, and those so far away that their costs would overflow are moved nearer.

        Args:
          a: weights of the source points [n].
          b: weights of the target points [m].
        """
        made = copy.copy(self)
        made.centred = True
        shift = jnp.zeros(self.x.shape[1], self.dtype)
        if self.cost_fn.invariant and not self.centred:
            shift = middle(self.x, self.y, a, b)
        far = float(jnp.finfo(self.dtype).max) ** 0.4
        made.x, made.y = (
            jnp.where((mass > 0)[:, None], points - shift, jnp.clip(points - shift, -far, far))
            for points, mass in ((self.x, jnp.asarray(a)), (self.y, jnp.asarray(b)))
        )
        return made

    def softmin(
        self,
        epsilon: ArrayLike,
        potential: ArrayLike,
        log_weights: ArrayLike | None = None,
        axis: int = 1,
    ) -> Float[Array, " _"]:
        """Return the smoothed minimum over one side; see `Cost.softmin`."""
        epsilon, potential, weights = self._checked(epsilon, potential, log_weights, axis)
        return _softmin_of_pairs(self, epsilon, potential, weights, axis)

    def matrix(self) -> Float[Array, "n m"]:
        """Return the cost matrix itself, n x m in memory."""
        return _matrix_of_pairs(self)

    @property
    def factored(self) -> bool:
        """Whether the cost is |x - y|^2, whose matrix has rank d + 2."""
        return isinstance(self.cost_fn, SqEuclidean)

    def _times(self, columns: Array, axis: int) -> Array:
        if not self.factored:
            return super()._times(columns, axis)
        ours, others = self._centred() if axis == 1 else self._centred()[::-1]
        squares = [jnp.sum(points**2, axis=1) for points in (ours, others)]
        crossed = product(ours, product(others.T, columns))
        return squares[0][:, None] * jnp.sum(columns, axis=0) + product(squares[1], columns) - 2 * crossed

    def pairs(self, i: Array, j: Array) -> Float[Array, " k"]:
        """Return the costs of the pairs (i_k, j_k), without the others."""
        i, j = indices("i", i), indices("j", j)
        if i.shape != j.shape or i.ndim != 1:
            raise ValueError(
                f"i has shape {i.shape} and j {j.shape}: give one index of each for every pair, shape [k]."
            )
        x, y = self._centred()
        return jax.vmap(self.cost_fn)(x[i], y[j]).astype(self.dtype)

    def row(self, i: Array) -> Float[Array, " m"]:
        """Return the costs from one source point to all target points, without the others."""
        i = indices("i", i)
        if i.ndim != 0:
            raise ValueError(f"i has shape {i.shape}: give the index of one source point, and vmap over several.")
        x, y = self._centred()
        return self.cost_fn.pairwise(x[i][None], y)[0].astype(self.dtype)

    def _centred(self) -> tuple[Array, Array]:
        if self.centred or not self.cost_fn.invariant:
            return self.x, self.y
        shift = middle(self.x, self.y)
        return self.x - shift, self.y - shift

    def map_blocks(self, function: Callable[..., Any], *ours: Array, axis: int = 1) -> Any:
        """Return function(block, *ours), one result for each point of one side, a block of its points at a time.

        The backward pass computes the blocks again, so it needs no more memory than the forward one.

        Args:
          function: takes a block [k, m] for axis 1, [n, k] for axis 0, and returns arrays that begin with k.
          *ours: arrays of which the function takes the rows that go with the block, [n, ...] or [m, ...].
          axis: the axis that the function reduces. Static.
        """
        require_choice("axis", axis, (0, 1))
        ours = tuple(jnp.asarray(our) for our in ours)
        x, y = self._centred()
        if axis == 1:
            points, pairwise = x, lambda part: self.cost_fn.pairwise(part, y).astype(self.dtype)
        else:
            points, pairwise = y, lambda part: self.cost_fn.pairwise(x, part).astype(self.dtype)
        num, other = points.shape[0], self.shape[axis]
        size = max(1, min(num, (sizes.here().block if self.block is None else self.block) // other))
        if size == num:
            return function(pairwise(points), *ours)
        # All blocks are whole: the last one is filled up with copies of the last row, whose results are cut off.
        count = math.ceil(num / size)
        index = jnp.minimum(jnp.arange(count * size), num - 1).reshape(count, size)

        @jax.checkpoint
        def body(index: Array) -> Any:
            return function(pairwise(points[index]), *(our[index] for our in ours))

        blocks = jax.lax.map(body, index)
        return jax.tree.map(lambda out: out.reshape(count * size, *out.shape[2:])[:num], blocks)

    def __repr__(self) -> str:
        return f"PairwiseCost({self.shape[0]} x {self.shape[1]}, {self.cost_fn})"


as_pytree(PairwiseCost, ("x", "y", "cost_fn"), ("block", "centred"))


# This is compiled once for a shape; an eager loop over blocks would be compiled in every call.
@jax.jit
def _matrix_of_pairs(cost: PairwiseCost) -> Array:
    return cost.map_blocks(lambda block: block)


@jax.jit(static_argnames="axis")
def _softmin_of_pairs(cost: PairwiseCost, epsilon: Array, potential: Array, log_weights: Array, axis: int) -> Array:
    return cost._softmin(epsilon, potential, log_weights, axis)
