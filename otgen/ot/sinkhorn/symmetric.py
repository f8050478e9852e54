"""Entropic transport of a weighted cloud to itself: one potential, found by averaged steps with momentum.

The plan is symmetric, f = g. Near the solution a step from f to its softmin takes an error e to - A e, with the
conditional plan A. For a cost of negative type, such as |x - y|^2 and |x - y|, the kernel is positive definite: the
eigenvalues of A lie in [0, 1] and those of I + A, by which f and its softmin differ, in [1, 2], at any temperature.
Relaxed steps with momentum then keep (sqrt 2 - 1) / (sqrt 2 + 1) = .17 of the error, for one product with the kernel.

Reference: Feydy et al. (2019), arXiv 1810.08278 (averaged updates); Polyak (1964) (momentum).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from otgen.ot.costs import Cost, DenseCost
from otgen.ot.costs.potentials import State
from otgen.ot.inert import gibbs
from otgen.ot.products import product
from otgen.ot.sinkhorn import loop
from otgen.ot.sinkhorn.absorption import CAP, mass_at
from otgen.ot.sinkhorn.potentials import soft_rows
from otgen.types import Array, Held

STEP = 4 / (1 + 2**0.5) ** 2  # share of the way to the softmin that a step goes: best for eigenvalues in [1, 2]
MOMENTUM = ((2**0.5 - 1) / (2**0.5 + 1)) ** 2
REST = 20  # products without progress after which rounding is in the way


class Loop(NamedTuple):
    """Where the iteration stands: log scalings of the kernel now and a step ago, log sums, and how the error fell."""

    log_u: Array
    before: Array
    sums: Array
    error: Array
    best: Array
    idle: Array
    num: Array


def solve(
    cost: Cost, problem: loop.Problem, state: State | None = None, *, epsilon: Held, tol: Held, max_steps: Held
) -> tuple[State, Array]:
    """Return the potentials f = g of a cloud's plan to itself, and the number of products in pairs, as of `loop.solve`.

    Args:
      cost: symmetric cost of negative type, n x n.
      problem: with both weights a, and marginals met exactly.
      state: potentials to start from, of which f is read; None for zeros.
      epsilon: temperature.
      tol: marginal error to stop at, of both sides.
      max_steps: limit on pairs of products.
    """
    a = problem.a
    # Half way to the softmin: no entry of the kernel is then above 1 / sqrt(a_i a_j), and, from zeros, none on its
    # diagonal below 1. A point without mass, which has no part in its own sum, goes all the way.
    first = jnp.zeros_like(a) if state is None else state.f
    start = soft_rows(cost, first, a, epsilon)
    start = jax.lax.stop_gradient(jnp.where(a > 0, 0.5 * (first + start), start))
    if isinstance(cost, DenseCost):
        kernel = gibbs(cost.values, start, start, epsilon, CAP)
        times = lambda v: product(kernel, v)  # noqa: E731
    else:
        part = lambda block, f: gibbs(block, f, start, epsilon, CAP)  # noqa: E731
        times = lambda v: cost.map_blocks(lambda block, f: product(part(block, f), v), start)  # noqa: E731

    def measured(log_u: Array) -> tuple[Array, Array]:
        sums = jnp.log(loop.sums_of(times(mass_at(a, log_u))))
        miss = jnp.where(a > 0, a * jnp.abs(jnp.expm1(log_u + sums)), 0.0)
        return sums, 2 * jnp.sum(miss) / jnp.sum(a)

    def step(at: Loop) -> Loop:
        relaxed = at.log_u - STEP * (at.log_u + at.sums) + MOMENTUM * (at.log_u - at.before)
        log_u = jnp.where(a > 0, relaxed, -at.sums)
        sums, error = measured(log_u)
        idle = jnp.where(error < 0.95 * at.best, 0, at.idle + 1)
        return Loop(log_u, at.log_u, sums, error, jnp.minimum(error, at.best), idle, at.num + 1)

    def go_on(at: Loop) -> Array:
        return (at.error >= loop.SAFE * tol) & (at.num < 2 * max_steps) & (at.idle < REST)

    log_u = jnp.zeros_like(start)
    sums, error = measured(log_u)
    first = Loop(log_u, log_u, sums, error, error, jnp.zeros((), jnp.int32), jnp.ones((), jnp.int32))
    at = jax.lax.while_loop(go_on, step, first)
    f = start + epsilon * jnp.where(a > 0, at.log_u, -at.sums)
    return State(f, f), (at.num + 1) // 2
