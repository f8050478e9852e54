"""The ground cost of a cloud to itself in which no point may stay where it is: `MaskedDiagonal`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.ot.costs.ground import Cost, along, indices
from otgen.types import Array, Float, as_pytree


@as_pytree
@dataclasses.dataclass(frozen=True, eq=False)
class MaskedDiagonal(Cost):
    """A ground cost between n points and the same n points, with the pairs (i, i) forbidden: they cost +inf.

    Nothing is stored that the cost does not store: the diagonal is masked block by block. Balanced, no point may have
    more than half of all mass, or no plan exists.

    Args:
      cost: ground cost n x n of a cloud to itself, n >= 2.

    Raises:
      ValueError: if it is no cost, not square, or of one point.

    Example:
      >>> x = jnp.array([[0.0], [1.0], [3.0]])
      >>> print(og.costs.MaskedDiagonal(og.PairwiseCost(x, x)).matrix())
      [[inf  1.  9.]
       [ 1. inf  4.]
       [ 9.  4. inf]]
    """

    cost: Cost

    def __post_init__(self) -> None:
        if not isinstance(self.cost, Cost):
            raise ValueError(f"cost is a {type(self.cost).__name__}: give a ground cost such as PairwiseCost(x, x).")
        n, m = self.cost.shape
        if n != m or n < 2:
            raise ValueError(
                f"cost is {n} x {m}: pairs (i, i) are forbidden between a cloud of two points or more and itself."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Points on either side, (n, n)."""
        return self.cost.shape

    @property
    def dtype(self) -> Any:
        """The type of the costs."""
        return self.cost.dtype

    def weighed(self, a: ArrayLike, b: ArrayLike) -> MaskedDiagonal:
        """Return the same cost, with points of weight zero made harmless; see `PairwiseCost.weighed`."""
        return dataclasses.replace(self, cost=self.cost.weighed(a, b))

    def map_blocks(self, function: Callable[..., Any], *ours: Array, axis: int = 1) -> Any:
        """Return function(block, *ours), one result for each point of one side; see `PairwiseCost.map_blocks`."""
        everyone = jnp.arange(self.shape[0])

        def masked(block: Array, here: Array, *ours: Array) -> Any:
            same = along(here, 1 - axis) == along(everyone, axis)
            return function(jnp.where(same, jnp.inf, block), *ours)

        return self.cost.map_blocks(masked, everyone, *ours, axis=axis)

    def pairs(self, i: Array, j: Array) -> Float[Array, " k"]:
        """Return the costs of the pairs (i_k, j_k)."""
        return jnp.where(indices("i", i) == indices("j", j), jnp.inf, self.cost.pairs(i, j))

    def row(self, i: Array) -> Float[Array, " m"]:
        """Return the costs from one point to all."""
        return jnp.where(jnp.arange(self.shape[0]) == indices("i", i), jnp.inf, self.cost.row(i))
