"""Exact transport between any weights: the network simplex method as a function of JAX."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen.ot.check import is_traced, probability
from otgen.ot.costs import Cost
from otgen.ot.costs.ground import as_cost, weighed
from otgen.ot.exact import program
from otgen.ot.exact.callback import INFEASIBLE, called_back, matrix_of
from otgen.types import Array

MAX_ENTRIES = 25_000_000  # entries of the cost, of which the network simplex needs 1 GiB


class Plan(NamedTuple):
    """The optimum of the transport linear program and of its dual.

    Attributes:
      plan: [n, m], at most n + m - 1 positive entries; its marginals are the weights.
      f: potentials of the rows [n], centred: sum a_i f_i = 0. f_i + g_j <= c_ij, with equality where the plan is
        positive.
      g: potentials of the columns [m].
      value: sum_ij plan_ij c_ij.

    Example:
      >>> found = og.exact.plan(jnp.array([[0.0, 1.0], [3.0, 5.0]]))
      >>> print(found.plan.tolist(), found.value)
      [[0., 0.5], [0.5, 0.]] 2.
    """

    plan: Array
    f: Array
    g: Array
    value: Array


def plan(cost: Cost | ArrayLike, a: ArrayLike | None = None, b: ArrayLike | None = None) -> Plan:
    """Return the exact optimal plan between weights a and b, a vertex of the polytope of plans, and its potentials.

    POT's network simplex method solves it on the host in float64, in seconds for 2,000 x 2,000 points and some 20 for
    5,000 x 5,000, with 40 bytes of memory an entry of the cost, 60 inside jit. There a callback does so, under vmap for
    one problem after another. The first call imports POT, which takes a second or more. For n equal points on both
    sides, `assignment` may be twice as fast.

    The value is differentiable once, in the cost, where the plan is its gradient, and in the weights, where f and g
    are. Where potentials are not unique, as for equal weights, the derivative in the weights is a subgradient. The plan
    and the potentials themselves have derivative zero.

    Args:
      cost: ground cost of n rows and m columns, or a matrix [n, m]. A pair of cost +inf is forbidden; mass within twice
        the rounding of the weights that only forbidden pairs could carry is left out.
      a, b: weights [n], [m] that sum to 1, zeros allowed; uniform for None. What the cost is at points of weight zero
        changes nothing but their own potentials.

    Returns:
      Plan. Inside jit, where nothing can be raised: the value is +inf and the rest NaN if every plan has mass on
      forbidden pairs; all is NaN if the cost or the weights are not legal, or if the method stops at its limit of 1,000
      pivots for each point, where some ten are usual.

    Raises:
      ValueError: for more than 25 million entries, weights that are no probabilities, or (outside jit) a cost with NaN
        or -inf, if every plan has mass on forbidden pairs, or at the limit of pivots.

    Example:
      >>> found = og.exact.plan(jnp.array([[0.0, 2.0], [2.0, 0.0]]), jnp.array([0.75, 0.25]), jnp.array([0.5, 0.5]))
      >>> print(found.plan.tolist(), found.value)  # a quarter has to move
      [[0.5, 0.25], [0., 0.25]] 0.5
      >>> print(found.f @ jnp.array([0.75, 0.25]) + found.g @ jnp.array([0.5, 0.5]))
      0.5
      >>> print(og.exact.plan(jnp.array([[jnp.inf, 2.0], [2.0, 0.0]])).plan.tolist())
      [[0., 0.5], [0.5, 0.]]

    Reference: Peyre and Cuturi (2019), arXiv 1803.00567, section 3.5; Bonneel, van de Panne, Paris and Heidrich (2011),
    Displacement interpolation using Lagrangian mass transport; Flamary et al. (2021), POT (JMLR 22(78)).
    """
    cost = as_cost(cost)
    (n, m), dtype = cost.shape, cost.dtype
    if n * m > MAX_ENTRIES:
        raise ValueError(
            f"cost is {n} x {m}, a linear program of {n * m} unknowns: at most {MAX_ENTRIES} are taken. "
            "Use sinkhorn.run or dual.run, or a subset of the points."
        )
    a, b = probability("a", a, n, dtype), probability("b", b, m, dtype)
    matrix = matrix_of(weighed(cost, a, b))
    given = matrix, a.astype(matrix.dtype), b.astype(matrix.dtype)
    return _plan(*given) if is_traced(*given) else _now(*given)


def _now(matrix: Array, a: Array, b: Array) -> Plan:
    found = program.solve(*map(np.asarray, (matrix, a, b)))
    if np.isposinf(found.value):
        raise ValueError(INFEASIBLE.format("no plan with these weights"))
    if np.isnan(found.value):
        raise ValueError(
            "the network simplex method came to its limit of pivots: perturb costs or weights that have many ties a "
            "little, or use sinkhorn.run or dual.run."
        )
    return Plan(*jax.device_put(found))


@jax.custom_jvp
def _plan(matrix: Array, a: Array, b: Array) -> Plan:
    if not is_traced(matrix, a, b):
        return _now(matrix, a, b)
    shapes = tuple(jax.ShapeDtypeStruct(shape, matrix.dtype) for shape in (matrix.shape, a.shape, b.shape, ()))
    return Plan(*called_back(program.solve, shapes, matrix, a, b))


@_plan.defjvp
def _plan_jvp(primals: tuple, tangents: tuple) -> tuple[Plan, Plan]:
    dmatrix, da, db = tangents
    found = _plan(*primals)
    along = jnp.where(found.plan == 0, 0, found.plan * dmatrix)  # a pair without mass adds nothing
    dvalue = jnp.sum(along) + jnp.sum(found.f * da) + jnp.sum(found.g * db)
    return found, Plan(*map(jnp.zeros_like, found[:3]), dvalue)
