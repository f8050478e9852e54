"""Conversions from and to OTT-JAX: its geometries as ground costs of otgen, and ground costs as its geometries."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from otgen import optional
from otgen.ot.check import require_positive
from otgen.ot.costs.distances import Cosine, CostFn, Euclidean, SqEuclidean
from otgen.ot.costs.ground import Cost, DenseCost
from otgen.ot.costs.pairwise import PairwiseCost

if TYPE_CHECKING:
    from ott.geometry.geometry import Geometry


def from_ott(geometry: Any) -> DenseCost | PairwiseCost:
    """Return the ground cost of an OTT-JAX geometry; its epsilon and its scale of the cost are dropped.

    A PointCloud becomes a PairwiseCost, streamed, unless it rescales its cost; everything else becomes its cost matrix.
    Potentials differ: OTT's contain the logarithms of the weights, f_ott = f + epsilon log a; those of otgen do not.

    Args:
      geometry: an ott.geometry.geometry.Geometry or subclass of it.

    Raises:
      ValueError: if it is no OTT geometry.

    Example:
      >>> from ott.geometry import pointcloud
      >>> geometry = pointcloud.PointCloud(jnp.array([[0.0], [1.0]]), jnp.array([[3.0]]), epsilon=0.1)
      >>> print(og.from_ott(geometry).matrix().T)
      [[9. 4.]]
    """
    with optional.imports():
        from ott.geometry import costs, pointcloud
        from ott.geometry import geometry as base

    if not isinstance(geometry, base.Geometry):
        raise ValueError(f"geometry is a {type(geometry).__name__}: give an ott.geometry.geometry.Geometry.")
    if not isinstance(geometry, pointcloud.PointCloud) or geometry._scale_cost != 1.0:
        return DenseCost(geometry.cost_matrix)
    known = {costs.SqEuclidean: SqEuclidean, costs.Euclidean: Euclidean, costs.Cosine: Cosine}
    found = known.get(type(geometry.cost_fn))
    return PairwiseCost(geometry.x, geometry.y, found() if found else geometry.cost_fn)


def to_ott(cost: Cost, epsilon: float | None = None) -> Geometry:
    """Return an OTT-JAX geometry of a ground cost.

    Args:
      cost: a PairwiseCost becomes a PointCloud, any other cost a Geometry of its matrix.
      epsilon: temperature, as in OTT-JAX, where None means its own default.

    Raises:
      ValueError: if it is no cost, or epsilon is not positive.

    Example:
      >>> geometry = og.to_ott(og.PairwiseCost(jnp.array([[0.0], [1.0]]), jnp.array([[3.0]])), epsilon=0.1)
      >>> print(type(geometry).__name__, geometry.epsilon, geometry.cost_matrix.T)
      PointCloud 0.1 [[9. 4.]]
    """
    with optional.imports():
        from ott.geometry import costs, geometry, pointcloud

    if not isinstance(cost, Cost):
        raise ValueError(f"cost is a {type(cost).__name__}: give DenseCost(matrix) or PairwiseCost(x, y).")
    if epsilon is not None:
        require_positive("epsilon", epsilon)
    if not isinstance(cost, PairwiseCost):
        return geometry.Geometry(cost_matrix=cost.matrix(), epsilon=epsilon)
    known = {SqEuclidean: costs.SqEuclidean, Euclidean: costs.Euclidean, Cosine: costs.Cosine}
    theirs = known[type(cost.cost_fn)]() if type(cost.cost_fn) in known else _ours()(cost.cost_fn)
    return pointcloud.PointCloud(cost.x, cost.y, cost_fn=theirs, epsilon=epsilon)


@functools.cache
def _ours() -> type:
    """Return the class of OTT's costs that call a cost of otgen. It is made once, so that jit compiles once."""
    import jax
    from ott.geometry import costs

    @jax.tree_util.register_pytree_node_class
    class Ours(costs.CostFn):
        """A cost of otgen, as OTT-JAX calls it."""

        def __init__(self, cost_fn: CostFn):
            super().__init__()
            self.cost_fn = cost_fn

        def __call__(self, x, y):
            """Return the cost of one pair."""
            return self.cost_fn(x, y)

        def tree_flatten(self):
            """Return the cost, whose parameters are leaves."""
            return (self.cost_fn,), None

        @classmethod
        def tree_unflatten(cls, aux, children):
            """Return the cost made of its parts."""
            return cls(*children)

    return Ours
