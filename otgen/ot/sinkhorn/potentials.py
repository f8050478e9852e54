"""Potentials as a solve moves them: the dual value, iterations in the log domain, how far they are from rest."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.ot.costs import Cost
from otgen.ot.costs.potentials import State
from otgen.ot.inert import CAP
from otgen.ot.sinkhorn import loop
from otgen.types import Array, Held


def _log(weights: Held) -> Array:
    positive = weights > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, weights, 1.0)), -jnp.inf)


def soft_rows(cost: Cost, g: Held, b: Held, epsilon: ArrayLike) -> Array:
    """What the target potentials say of the source points, -epsilon log sum_j b_j exp((g_j - c_ij) / epsilon)."""
    return cost.softmin(epsilon, jnp.where(b > 0, g, 0.0), _log(b))


def soft_columns(cost: Cost, f: Held, a: Held, epsilon: ArrayLike, axis_name: str | None) -> Array:
    """Return what the source potentials of all devices say of the target points."""
    g = cost.softmin(epsilon, jnp.where(a > 0, f, 0.0), _log(a), axis=0)
    if axis_name is None:
        return g
    top = jax.lax.pmin(jax.lax.stop_gradient(g), axis_name)
    return top - epsilon * jnp.log(jax.lax.psum(jnp.exp((top - g) / epsilon), axis_name))


def dual_value(state: State, rows: Array, problem: loop.Problem, epsilon: Held) -> Array:
    """Return the dual objective, given the row marginal of the plan for its mass; defined for tau = 1 and below."""

    def side(mass: Array, potential: Array, tau: Array, axis_name: str | None) -> Array:
        rho = epsilon * tau / jnp.where(tau < 1, 1 - tau, 1.0)
        relaxed = -rho * jnp.expm1(jnp.minimum(-potential / rho, CAP))  # beyond it are points without mass alone
        return loop.total(mass * jnp.where(tau < 1, relaxed, potential), axis_name)

    a, b, tau_a, tau_b, axis_name = problem.a, problem.b, problem.tau_a, problem.tau_b, problem.axis_name
    mass = loop.total(a, axis_name)
    if problem.balanced:
        return loop.summed(a * state.f - epsilon * rows, b * state.g, axis_name) + epsilon * mass**2
    surplus = loop.total(rows, axis_name) - mass * jnp.sum(b)
    return side(a, state.f, tau_a, axis_name) + side(b, state.g, tau_b, None) - epsilon * surplus


def solve(
    cost: Cost,
    problem: loop.Problem,
    state: State | None,
    *,
    epsilon: Held,
    tol: Held,
    max_steps: Held,
    anneal: bool,
) -> tuple[State, Array, Array]:
    """Return the optimal potentials, centred in the balanced problem, the number of steps, and, relaxed, `change`."""
    g = None if state is None else state.g
    f, g, num_steps = loop.solve(cost, problem, g, epsilon=epsilon, tol=tol, max_steps=max_steps, anneal=anneal)
    if problem.balanced:
        return centre(State(f, g), problem, epsilon), num_steps, jnp.zeros_like(f[0])
    state, moved, num_steps = jax.lax.cond(
        problem.relaxed,
        lambda *it: _settle(cost, problem, *it, epsilon, tol, max_steps),
        lambda state, num_steps: (state, jnp.zeros((), state.f.dtype), num_steps),
        State(f, g),
        num_steps,
    )
    return centre(state, problem, epsilon), num_steps, moved


def iteration(cost: Cost, problem: loop.Problem, g: Held, epsilon: Held) -> State:
    """Sinkhorn's iteration in the log domain."""
    f = loop.damped(soft_rows(cost, g, problem.b, epsilon), problem.tau_a)
    g = loop.damped(soft_columns(cost, f, problem.a, epsilon, problem.axis_name), problem.tau_b)
    return State(loop.at_rest(f, problem.a), loop.at_rest(g, problem.b))


def invariant(cost: Cost, problem: loop.Problem, g: Held, epsilon: Held) -> State:
    """Sinkhorn's iteration with the best shift of f against g in each half, which relaxed marginals determine."""
    a, b, tau_a, tau_b, axis_name = problem.a, problem.b, problem.tau_a, problem.tau_b, problem.axis_name
    rate_a, rate_b = loop.rate(tau_a), loop.rate(tau_b)
    f = soft_rows(cost, g, b, epsilon) / epsilon
    both = loop.balance(a, (1 - tau_a) * f, b, rate_b * g / epsilon, (1 - tau_a) + rate_b, axis_name)
    f = tau_a * (f + both)
    g = soft_columns(cost, epsilon * f, a, epsilon, axis_name) / epsilon
    both = loop.balance(a, rate_a * f, b, (1 - tau_b) * g, rate_a + (1 - tau_b), axis_name)
    f, g = epsilon * (f + both), epsilon * tau_b * (g - both)
    return State(loop.at_rest(f, a), loop.at_rest(g, b))


def change(one: State, two: State, problem: loop.Problem, epsilon: Held) -> tuple[Array, Array]:
    """The largest `loop.motion` of a potential at points with mass, and whether all are no more than rounding."""

    def side(mass: Array, before: Array, after: Array, tau: Array) -> tuple[Array, Array]:
        moved = jnp.where(mass > 0, jnp.abs(before - after), 0.0)
        fine = jnp.finfo(moved.dtype).eps * jnp.abs(after)
        return jnp.max(loop.motion(moved / epsilon, after / epsilon, tau)), jnp.max(moved - 4 * fine)

    left, rough = side(problem.a, one.f, two.f, problem.tau_a)
    right, coarse = side(problem.b, one.g, two.g, problem.tau_b)
    left, rough = (loop.pmax(it, problem.axis_name) for it in (left, rough))
    return jnp.maximum(left, right), jnp.maximum(rough, coarse) <= 0


def _settle(
    cost: Cost,
    problem: loop.Problem,
    state: State,
    num_steps: Array,
    epsilon: Held,
    tol: Held,
    max_steps: Held,
) -> tuple[State, Array, Array]:
    """Iterate a relaxed problem in the log domain until the potentials rest; how far they would move is returned too.

    The kernel cannot see a point that is too far to keep mass; here it gets its potential. For all others there is
    little left to do.
    """
    finite = loop.total((~jnp.isfinite(state.f)).astype(state.f.dtype), problem.axis_name) == 0
    state = jax.tree.map(lambda part: jnp.where(finite & jnp.all(jnp.isfinite(state.g)), part, 0.0), state)

    def step(carry: tuple) -> tuple:
        state, _, steps, _ = carry
        following = invariant(cost, problem, state.g, epsilon)
        moved, rests = change(state, following, problem, epsilon)
        done = ~(moved >= tol) | rests | (steps + 1 >= max_steps)
        state = jax.tree.map(lambda here, there: jnp.where(done, here, there), state, following)
        return state, moved, steps + 1, done

    start = state, jnp.zeros((), state.f.dtype), num_steps, jnp.zeros((), bool)
    state, moved, num_steps, _ = jax.lax.while_loop(lambda carry: ~carry[-1], step, start)
    return state, moved, num_steps


def centre(state: State, problem: loop.Problem, epsilon: Held) -> State:
    """Give f the mean zero where a shift between f and g changes nothing, which is the balanced problem.

    Not where a few points are so far that their potentials make up the mean, and all others would lose digits to it
    that matter at this epsilon. A few points whose own potential has no digits of the size of epsilon are rounded down:
    up, the plan would have exp(rounding / epsilon) of their mass.
    """
    axis_name = problem.axis_name
    mean = loop.total(problem.a * state.f, axis_name) / loop.total(problem.a, axis_name)
    alike = loop.share(jnp.abs(state.f) > jnp.abs(mean) / 64, problem.a, axis_name)
    far = (jnp.finfo(mean.dtype).eps * jnp.abs(mean) > 1e-4 * epsilon) & (alike < 0.25)
    balanced = jnp.logical_not(problem.relaxed)
    mean = jnp.where(balanced & ~far, mean, 0.0)
    f, g = state.f - mean, state.g + mean
    fine_f, fine_g = (jnp.finfo(mean.dtype).eps * jnp.abs(potential) for potential in (f, g))
    coarse_f, coarse_g = (fine_f > epsilon) & (problem.a > 0), (fine_g > epsilon) & (problem.b > 0)
    few = loop.share(coarse_f, problem.a, axis_name) + loop.share(coarse_g, problem.b, None) < 0.25
    few = balanced & few
    return State(f - jnp.where(few & coarse_f, 4 * fine_f, 0.0), g - jnp.where(few & coarse_g, 4 * fine_g, 0.0))
