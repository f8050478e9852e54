"""Exact transport between any weights: the linear program as a function of JAX."""

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

MAX_ENTRIES = 4_000_000  # entries of the cost, for which the linear program takes minutes and some GiB


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

    HiGHS's dual simplex method solves it on the host, in about .01 s for 64 x 64 points and 1 s for 500 x 500. Inside
    jit a callback does so, under vmap for one problem after another. For n equal points on both sides `assignment` is
    quicker.

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
      forbidden pairs; all is NaN if the cost or the weights are not legal, or if HiGHS gives up.

    Raises:
      ValueError: for more than 4 million entries, weights that are no probabilities, or (outside jit) a cost with NaN
        or -inf, or if every plan has mass on forbidden pairs.

    Example:
      >>> found = og.exact.plan(jnp.array([[0.0, 2.0], [2.0, 0.0]]), jnp.array([0.75, 0.25]), jnp.array([0.5, 0.5]))
      >>> print(found.plan.tolist(), found.value)  # a quarter has to move
      [[0.5, 0.25], [0., 0.25]] 0.5
      >>> print(found.f @ jnp.array([0.75, 0.25]) + found.g @ jnp.array([0.5, 0.5]))
      0.5
      >>> print(og.exact.plan(jnp.array([[jnp.inf, 2.0], [2.0, 0.0]])).plan.tolist())
      [[0., 0.5], [0.5, 0.]]

    Reference: Peyre and Cuturi (2019), arXiv 1803.00567, section 3; Huangfu and Hall (2018), Parallelizing the dual
    revised simplex method.
    """
    cost = as_cost(cost)
    (n, m), dtype = cost.shape, cost.dtype
    if n * m > MAX_ENTRIES:
        raise ValueError(
            f"cost is {n} x {m}, a linear program of {n * m} unknowns: at most {MAX_ENTRIES} are taken. "
            "Use sinkhorn.run or dual.run, or assignment for equal weights."
        )
    a, b = probability("a", a, n, dtype), probability("b", b, m, dtype)
    matrix = matrix_of(weighed(cost, a, b))
    return _plan(matrix, *(weights.astype(matrix.dtype) for weights in (a, b)))


@jax.custom_jvp
def _plan(matrix: Array, a: Array, b: Array) -> Plan:
    if is_traced(matrix, a, b):
        shapes = tuple(jax.ShapeDtypeStruct(shape, matrix.dtype) for shape in (matrix.shape, a.shape, b.shape, ()))
        return Plan(*called_back(program.solve, shapes, matrix, a, b))
    found = program.solve(*map(np.asarray, (matrix, a, b)))
    if np.isposinf(found.value):
        raise ValueError(INFEASIBLE.format("no plan with these weights"))
    return Plan(*map(jnp.asarray, found))


@_plan.defjvp
def _plan_jvp(primals: tuple, tangents: tuple) -> tuple[Plan, Plan]:
    dmatrix, da, db = tangents
    found = _plan(*primals)
    along = jnp.where(found.plan == 0, 0, found.plan * dmatrix)  # a pair without mass adds nothing
    dvalue = jnp.sum(along) + jnp.sum(found.f * da) + jnp.sum(found.g * db)
    return found, Plan(*map(jnp.zeros_like, found[:3]), dvalue)
