"""Entropic transport of points that a solve has not seen: their potentials, and where they go."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.ot.check import as_array, as_points, require_choice
from otgen.ot.costs import Cost, PairwiseCost, product
from otgen.ot.inert import carried, gibbs
from otgen.ot.sinkhorn.potentials import soft_columns, soft_rows
from otgen.types import Array, Held


def cost_to(cost: Cost, new: Cost | ArrayLike, axis: int) -> Cost:
    """Return the cost between new points of one side and the points of the other, which are summed over."""
    require_choice("axis", axis, (0, 1))
    if isinstance(new, Cost):
        made = new
    elif isinstance(cost, PairwiseCost):
        new, own = as_points("new", new, least=1), (cost.x, cost.y)[1 - axis]
        if new.shape[1] != own.shape[1]:
            raise ValueError(f"new has {new.shape[1]} columns: the points of the solve have {own.shape[1]}.")
        pair = (new, cost.y) if axis == 1 else (cost.x, new)
        made = PairwiseCost(*pair, cost.cost_fn, block=cost.block)
    else:
        raise ValueError(
            f"the solve is of a {type(cost).__name__}, which has no points: give the cost from the new points, a "
            "DenseCost or PairwiseCost."
        )
    if made.shape[axis] != cost.shape[axis]:
        raise ValueError(
            f"new is a cost {made.shape}: its axis {axis} has the points of the solve, {cost.shape[axis]} of them."
        )
    return made


@partial(jax.jit, static_argnames="axis")
def potential(cost: Cost, other: Array, weights: Held, epsilon: Held, axis: int) -> Array:
    """Return the potentials of new points, the softmin of the other side's."""
    ones = jnp.ones(cost.shape[1 - axis], cost.dtype)
    if axis == 1:
        return soft_rows(cost.weighed(ones, weights), other, weights, epsilon)
    return soft_columns(cost.weighed(weights, ones), other, weights, epsilon, None)


def values_of(cost: Cost, values: ArrayLike | None, axis: int) -> Array:
    """Return what is averaged over the points of one side: the points themselves for None."""
    if values is None:
        if not isinstance(cost, PairwiseCost):
            raise ValueError(f"a {type(cost).__name__} has no points to average: give values, one row for each.")
        return jnp.asarray((cost.x, cost.y)[axis])
    values = as_array("values", values, finite=False)
    if values.ndim not in (1, 2) or values.shape[0] != cost.shape[axis]:
        num = cost.shape[axis]
        raise ValueError(f"values have shape {values.shape}: [{num}] or [{num}, k] are needed, a row for each point.")
    return values.astype(cost.dtype)


@partial(jax.jit, static_argnames="axis")
def average(cost: Cost, other: Array, weights: Held, epsilon: Held, values: Array, axis: int) -> Array:
    """Return the mean of values over the conditional plan of every new point."""
    f = potential(cost, other, weights, epsilon, axis)
    ones = jnp.ones(cost.shape[1 - axis], cost.dtype)
    cost = cost.weighed(*((ones, weights) if axis == 1 else (weights, ones)))
    other, flat = carried(other, weights), values.reshape(values.shape[0], -1)
    columns = jnp.where(weights[:, None] > 0, weights[:, None] * flat, 0.0)
    columns = jnp.concatenate([columns, jnp.asarray(weights)[:, None]], 1)

    def rows(block: Array, f: Array) -> Array:
        return product(gibbs(block, f, other, epsilon, jnp.inf), columns)

    def sides(block: Array, f: Array) -> Array:
        return product(gibbs(block, other, f, epsilon, jnp.inf).T, columns)

    sums = cost.map_blocks(rows if axis == 1 else sides, f, axis=axis)
    return (sums[:, :-1] / sums[:, -1:]).reshape(-1, *values.shape[1:])
