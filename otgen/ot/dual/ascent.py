"""Concave maximisation for smoothed duals: L-BFGS in bursts of steps, with a look at the duality gap after each burst.

Reference: Liu and Nocedal (1989), On the limited memory BFGS method for large scale optimization.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from otgen.ot.check import require_positive, require_whole
from otgen.types import Array

CHUNK = 20, 100  # L-BFGS steps in a burst, at first and later; its memory starts afresh with each burst
MEMORY = 20  # pairs of changes that L-BFGS remembers
PATIENCE = 5  # after so many looks in a row without progress the ascent is at rest
PROGRESS = 0.01, 1e-4  # progress is a fall of the gap by this share, or a rise of the bound by this share of tol


class Info(NamedTuple):
    """How well the potentials solve the problem, recomputed at the end.

    Attributes:
      gap: primal_value - dual_value; neither value is farther than this from the optimum W.
      dual_value: the dual at the potentials, a lower bound of W.
      primal_value: the objective of a plan with the exact marginals, an upper bound of W.
      error: L1 distance of the marginals of the density, before they are repaired, from the weights.
      num_steps: L-BFGS steps.
      status: CONVERGED if and only if gap < tol * scale; STALLED where rounding keeps the gap above it; INFEASIBLE
        where every plan would have mass on forbidden pairs.
      scale: how much the cost varies; tol is relative to it.

    Example:
      >>> _, info = og.dual.run(jnp.array([[0.0, 1.0], [1.0, 0.0]]), epsilon=0.1)
      >>> print(info.gap < 1e-5, info.dual_value, info.primal_value)  # W lies between the two
      True 0.0693 0.0693
    """

    gap: Array
    dual_value: Array
    primal_value: Array
    error: Array
    num_steps: Array
    status: Array
    scale: ArrayLike = float("nan")  # the default is for what version 0.1 saved


def unit_of(scale: Array) -> Array:
    """Return a power of two near a positive number; a division by it rounds nothing."""
    return jnp.ldexp(jnp.ones_like(scale), jnp.frexp(scale)[1])


def climb(
    function: Callable[[Array], Array], f: Array, weights: Array, num_steps: ArrayLike, unit: ArrayLike = 1.0
) -> Array:
    """Maximise a concave function of f by `num_steps` steps of L-BFGS in the variables sqrt(weights) f.

    In these variables the curvature of a semi-dual is alike in heavy and light points; points of weight zero do not
    move. A semi-dual does not change when a constant is added to f. Rounding would let such a constant grow until it
    swamps the potentials, so that the function gets, and the caller receives, f - sum(weights f). The weights sum to 1.
    The search runs in units of `unit`, so that its steps do not depend on the units of the cost.
    """
    scale = jnp.where(weights > 0, 1 / jnp.sqrt(jnp.where(weights > 0, weights, 1)), 0)
    optimiser = optax.lbfgs(memory_size=MEMORY)

    def moved(move: Array) -> Array:
        found = f + unit * scale * move
        return found - jnp.sum(weights * found)

    def loss(move: Array) -> Array:
        return -function(moved(move)) / unit

    def body(_: Array, carry: tuple) -> tuple:
        move, memory = carry
        loss_value, slope = optax.value_and_grad_from_state(loss)(move, state=memory)
        update, memory = optimiser.update(slope, memory, move, value=loss_value, grad=slope, value_fn=loss)
        return move + update, memory

    start = jnp.zeros_like(f)
    move, _ = jax.lax.fori_loop(0, num_steps, body, (start, optimiser.init(start)))
    return moved(move)


def iterate(
    advance: Callable[..., Any], state: Any, tol: ArrayLike, max_steps: ArrayLike
) -> tuple[Any, Any, Array, Array]:
    """Call `advance(state, num) -> (state, (gap, lower, ...))` until the gap is below `tol`, at first with num = 0.

    Each call takes as many steps as were taken so far, at least and at most as CHUNK says, and no more than the limit
    leaves. The ascent is given up when the gap and the lower bound did not get better over PATIENCE calls in a row.

    Returns:
      The state, the gap and the rest from the last call, the number of steps, and whether the ascent came to rest.
    """
    max_steps = jnp.asarray(max_steps, jnp.int32)

    def body(carry: tuple) -> tuple:
        state, _, step, calls, (least, best, idle) = carry
        num = jnp.where(calls > 0, jnp.minimum(jnp.clip(step, *CHUNK), max_steps - step), 0)
        state, seen = advance(state, num)
        gap, lower = seen[:2]
        rounding = 8 * jnp.finfo(lower.dtype).eps * jnp.abs(lower)
        moving = (gap < (1 - PROGRESS[0]) * least) | (lower > best + jnp.maximum(PROGRESS[1] * tol, rounding))
        idle = jnp.where(moving, 0, idle + 1)
        return state, seen, step + num, calls + 1, (jnp.minimum(gap, least), jnp.maximum(lower, best), idle)

    def unfinished(carry: tuple) -> Array:
        _, (gap, *_), step, calls, (*_, idle) = carry
        return (calls == 0) | ((gap >= tol) & (step < max_steps) & (idle < PATIENCE))

    unseen = jax.tree.map(lambda of: jnp.zeros(of.shape, of.dtype), jax.eval_shape(advance, state, jnp.int32(0))[1])
    record = jnp.full_like(unseen[0], jnp.inf), jnp.full_like(unseen[1], -jnp.inf), jnp.int32(0)
    carry = (state, unseen, jnp.int32(0), jnp.int32(0), record)
    state, seen, step, _, (*_, idle) = jax.lax.while_loop(unfinished, body, carry)
    return state, seen, step, (idle >= PATIENCE) & (step < max_steps)


def check_loop(tol: ArrayLike, max_steps: ArrayLike) -> None:
    """Raise ValueError (outside jit) for a tolerance that is not positive or a negative number of steps."""
    require_positive("tol", tol)
    require_whole("max_steps", max_steps)
