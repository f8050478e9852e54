"""Concave maximisation for smoothed duals: L-BFGS in bursts, and a look at the duality gap after each.

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

CHUNK = 20, 100  # L-BFGS steps between two looks at the duality gap, at first and later; its memory then starts afresh
MEMORY = 20  # pairs of L-BFGS
PATIENCE = 5  # looks in a row that saw neither a smaller gap nor a better bound, after which the ascent is at rest
PROGRESS = 0.01, 1e-4  # what counts: a fall of the gap by this share, a rise of the bound by this share of tol


class Info(NamedTuple):
    """What a reader wants to know about the potentials, recomputed at the end.

    Attributes:
      gap: primal_value - dual_value, at least the distance of either to the optimum W.
      dual_value: the dual at the potentials, a lower bound of W.
      primal_value: the objective of a plan with the exact marginals, an upper bound of W.
      error: L1 distance of the marginals of the density, before they are repaired, from the weights.
      num_steps: L-BFGS steps.
      status: CONVERGED if and only if gap < tol * scale; STALLED where rounding keeps the gap above it; INFEASIBLE
        where every plan would have mass on forbidden pairs.
      scale: how much the cost varies, what tol is relative to.

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
    scale: ArrayLike = float("nan")  # of what version 0.1 saved


def unit_of(scale: Array) -> Array:
    """Return a power of two near a positive number: what is divided by it changes by no rounding."""
    return jnp.ldexp(jnp.ones_like(scale), jnp.frexp(scale)[1])


def climb(
    function: Callable[[Array], Array], f: Array, weights: Array, num_steps: ArrayLike, unit: ArrayLike = 1.0
) -> Array:
    """Maximise a concave function of f by `num_steps` steps of L-BFGS in the variables sqrt(weights) f.

    That scale makes the curvature of a semi-dual alike in heavy and light points; points of weight zero stay where they
    are. A semi-dual does not see a shift of f, which rounding lets grow until sums of potentials are rounded away: the
    function is given f - sum(weights f), and so is the caller. The weights sum to 1. The search is done in units of
    `unit`, so that its steps do not depend on those of the cost.
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

    Each call takes as many steps as were taken so far, within CHUNK and the limit. The ascent is given up when several
    looks in a row saw neither a smaller gap nor a better lower bound.

    Returns:
      The state, what the last call saw, the number of steps, and whether the ascent came to rest.
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
