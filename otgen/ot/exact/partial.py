"""Exact partial transport: the part of the mass that is cheapest to move, by a dummy point on either side."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.ot.check import as_mass, is_traced, poison, require_nonnegative, smallest_and_sum, to_device
from otgen.ot.costs import Cost
from otgen.ot.costs.ground import as_cost, weighed
from otgen.ot.exact.callback import matrix_of
from otgen.ot.exact.plans import plan
from otgen.types import Array


class Partial(NamedTuple):
    """The optimum of partial transport.

    Attributes:
      plan: [n, m], of the total that was asked for; its marginals are no larger than the weights.
      value: sum_ij plan_ij c_ij.

    Example:
      >>> found = og.exact.partial_plan(jnp.array([[0.0, 9.0], [9.0, 4.0]]), mass=0.75)
      >>> print(found.plan.tolist(), found.value)
      [[0.5, 0.], [0., 0.25]] 1.
    """

    plan: Array
    value: Array


def partial_plan(
    cost: Cost | ArrayLike, a: ArrayLike | None = None, b: ArrayLike | None = None, *, mass: ArrayLike
) -> Partial:
    """Return the cheapest plan of a given total mass whose marginals are at most the weights a and b.

    What is not moved goes to a dummy point on the other side, at no cost; `exact.plan` solves the balanced problem with
    both dummies, with its limits of size and its derivatives. For whole points, see `num` of `exact.assignment`.

    Args:
      cost: ground cost of n rows and m columns, or a matrix [n, m]. A pair of cost +inf is forbidden.
      a, b: weights [n], [m] of any total; uniform with total 1 for None.
      mass: to be moved, above 0 and at most the smaller total.

    Returns:
      Partial. Inside jit as `exact.plan`, and NaN for a mass that cannot be moved.

    Raises:
      ValueError: outside jit for a mass out of range, and as `exact.plan`.

    Example:
      >>> x, y = jnp.array([[0.0], [1.0], [5.0]]), jnp.array([[0.5], [1.5], [-4.0]])
      >>> found = og.exact.partial_plan(og.PairwiseCost(x, y), mass=2 / 3)  # without the far ones
      >>> print(found.plan.sum(1), found.value)
      [0.3333 0.3333 0.] 0.1667

    Reference: Chapel, Alaya and Gasso (2020), arXiv 2002.08276; Caffarelli and McCann (2010), Free boundaries in
    optimal transport and Monge-Ampere obstacle problems.
    """
    cost = as_cost(cost)
    (n, m), dtype = cost.shape, cost.dtype
    a, b = (to_device(as_mass(*it, dtype), dtype) for it in (("a", a, n), ("b", b, m)))
    require_nonnegative("mass", mass)
    if not is_traced(a, b, mass):
        least = min(smallest_and_sum(it)[1] for it in (a, b))
        if not 0 < mass <= least * (1 + 1e-6):
            raise ValueError(f"mass = {mass}: give what is to be moved, above 0 and at most {least:.6g}.")
    matrix = matrix_of(weighed(cost, a, b))
    left, right = jnp.sum(a), jnp.sum(b)
    mass = poison(jnp.asarray(mass, dtype), (mass > 0) & (mass <= jnp.minimum(left, right) * (1 + 1e-6)))
    corner = jnp.full((1, 1), jnp.inf, matrix.dtype)
    padded = jnp.block([[matrix, jnp.zeros((n, 1), matrix.dtype)], [jnp.zeros((1, m), matrix.dtype), corner]])
    sides = (jnp.append(it, jnp.maximum(rest, 0)) for it, rest in ((a, right - mass), (b, left - mass)))
    total = left + jnp.maximum(right - mass, 0)
    found = plan(padded, *(it / jnp.sum(it) for it in sides))
    return Partial(total * found.plan[:-1, :-1], total * found.value)
