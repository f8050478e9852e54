"""The loop behind `sinkhorn.run`: Sinkhorn's iteration while it is fast, Newton's where it is slow.

Sinkhorn contracts by a factor that tends to 1 as epsilon falls. Newton's method on the same dual, with its linear
system solved by conjugate gradients, pays the same price for a step, one product with the kernel K and one with its
transpose, and needs a fraction of the steps. Both run on K = exp((f + g - c) / epsilon) for potentials f, g that were
absorbed, so a step takes no exponential when K is in memory.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from otgen.ot.costs import Cost
from otgen.ot.sinkhorn import annealing
from otgen.ot.sinkhorn.absorption import (
    CAP,
    Kernel,
    Problem,
    absorb,
    at_rest,
    average,
    balance,
    damped,
    mass_at,
    motion,
    pmax,
    rate,
    share,
    summed,
    total,
    totals,
)
from otgen.types import Array

__all__ = [
    "HUGE",
    "SAFE",
    "TINY",
    "Problem",
    "at_rest",
    "balance",
    "damped",
    "iterate",
    "motion",
    "pmax",
    "rate",
    "share",
    "solve",
    "summed",
    "total",
]

WIDE = 60.0  # largest |log scaling| before potentials are absorbed: exp(60) is far from overflow
SLOW = 0.4  # Sinkhorn is left for Newton when it keeps more than this share of the error
TINY, HUGE = 1e-37, 1e37  # bounds of a sum of the kernel: a relaxed problem may leave far points nothing
RADIUS = 10.0  # largest Newton step in a log scaling
INNER = 100  # most conjugate gradients in a Newton step
TRIES = 3  # step lengths 1, 1/4, 1/16, then Sinkhorn's step, which always improves
CHUNK = 8  # iterations between absorptions where their number is fixed: each moves a scaling by log(1 / weight) at most
SAFE, SAFER = 0.9, 0.6  # share of tol to stop at, balanced and relaxed: the recomputed error differs a little
REST = 10  # iterations without progress after which the error is at rest: rounding is in the way
RATIO, LOOSE = 0.25, 0.01  # annealing: the factor between temperatures, the error to leave one at


class Loop(NamedTuple):
    """Where an iteration stands.

    Attributes:
      log_u, log_v: log scalings of the absorbed kernel, v solved for u.
      shift: of f against g, over epsilon, solved for u as well: f = kernel.f + epsilon (log_u + shift), and
        g = kernel.g + epsilon (log_v - tau_b shift). Zero where a marginal is met exactly on both sides.
      rows, columns: K (b v), with what the shift makes of it, and K'(a u).
      error, previous: of the row marginal, now and one step ago.
      wide: the largest |log scaling| of a point with mass; where a marginal is relaxed, the largest log scaling.
      off: the same where a marginal is relaxed, as the largest change of a scaling in the next iteration.
      mark: the error when it last made progress.
      idle: iterations since then.
      num_steps: products with K and its transpose.
    """

    log_u: Array
    log_v: Array
    shift: Array
    rows: Array
    columns: Array
    error: Array
    off: Array
    wide: Array
    previous: Array
    mark: Array
    idle: Array
    num_steps: Array


def _scaling(sums: Array, potential: Array, tau: Array | None, epsilon: Array) -> Array:
    """Sinkhorn's log scaling for the sums of the other side: -log(sums) where the marginal is met exactly."""
    if tau is None:
        return -jnp.log(sums)
    return -tau * jnp.log(sums) - (1 - tau) * potential / epsilon


def sums_of(values: Array) -> Array:
    """Return sums of the kernel, bounded where they under- or overflowed."""
    return jnp.clip(values, TINY, HUGE)


def _target(kernel: Kernel, log_u: Array, shift: Array, problem: Problem, epsilon: Array) -> Array:
    """Return the row marginal that f asks for: a, or a exp(-f / rho) where it is relaxed."""
    if problem.balanced:
        return problem.a
    return mass_at(problem.a, -rate(problem.tau_a) * (kernel.f / epsilon + log_u + shift))


def _evaluate(
    kernel: Kernel, at: Loop, log_u: Array, problem: Problem, epsilon: Array
) -> tuple[tuple[Array, ...], Array]:
    """Solve the columns for u, and measure what is left in the rows: log_v, shift, rows, columns, error, off, wide.

    Returned is also by how much the dual is higher there than at a state with its columns solved, over epsilon, the
    shift being that of the state: from differences, for float32.
    """
    a, b, tau_a, tau_b = problem.a, problem.b, problem.tau_a, problem.tau_b
    mass = mass_at(a, log_u)
    columns = sums_of(kernel.transposed(mass))
    log_v = _scaling(columns, kernel.g, tau_b, epsilon)
    if problem.balanced:
        rows = sums_of(kernel.times(mass_at(b, log_v)))
        wide_u, wide_v = (jnp.where(mass > 0, jnp.abs(log), 0.0) for mass, log in ((a, log_u), (b, log_v)))
        parts = jnp.abs(a - mass * rows), jnp.where(a > 0, a * (log_u - at.log_u), 0.0)
        error, gain, wide = totals(parts, wide_u, problem.axis_name)
        more, wide_v = totals((jnp.where(b > 0, b * (log_v - at.log_v), 0.0),), wide_v, None)
        none = jnp.zeros_like(error)
        return (log_v, none, rows, columns, error, none, jnp.maximum(wide, wide_v)), gain + more
    shift = balance(
        a,
        rate(tau_a) * (kernel.f / epsilon + log_u),
        b,
        rate(tau_b) * (kernel.g / epsilon + log_v),
        rate(tau_a) + (1 - tau_b),
        problem.axis_name,
    )
    rows = sums_of(kernel.times(mass_at(b, log_v)) * jnp.exp((1 - tau_b) * shift))
    miss = jnp.abs(_target(kernel, log_u, shift, problem, epsilon) - mass * rows)
    error = total(miss, problem.axis_name)
    moved = jnp.where(a > 0, jnp.abs(_plain(kernel, rows, shift, problem, epsilon) - log_u), 0.0)
    off = pmax(jnp.max(motion(moved, kernel.f / epsilon + log_u + shift, tau_a)), problem.axis_name)
    off = jnp.where(problem.relaxed, off * total(a, problem.axis_name), 0.0)
    # a relaxed problem may take a point's mass away, and its scaling with it
    wide_u, wide_v = (
        jnp.max(jnp.where(mass > 0, jnp.where(problem.relaxed, log, jnp.abs(log)), 0.0))
        for mass, log in ((a, log_u), (b, log_v))
    )
    wide = jnp.maximum(pmax(wide_u, problem.axis_name), wide_v)
    return (log_v, shift, rows, columns, error, off, wide), _gain(at, log_u, log_v, kernel, problem, epsilon)


def _plain(kernel: Kernel, rows: Array, shift: Array, problem: Problem, epsilon: Array) -> Array:
    """Sinkhorn's scaling for v, the shift left to its own maximisation."""
    tau = problem.tau_a
    plain = _scaling(rows, kernel.f, tau, epsilon)
    return plain if tau is None else plain - (1 - tau) * shift


def _gain(at: Loop, log_u: Array, log_v: Array, kernel: Kernel, problem: Problem, epsilon: Array) -> Array:
    """How much higher the dual is, as `_evaluate` returns it, where a marginal is relaxed."""

    def rise(target: Array, step: Array, relaxed: Array) -> Array:
        step = jnp.where(target > 0, step, 0.0)
        curved = -jnp.expm1(-relaxed * step) / jnp.where(relaxed > 0, relaxed, 1.0)
        return target * jnp.where(relaxed > 0, curved, step)

    relaxed = rate(problem.tau_b)
    potential = kernel.g / epsilon + at.log_v - problem.tau_b * at.shift
    columns = rise(mass_at(problem.b, -relaxed * potential), log_v - at.log_v, relaxed)
    target = _target(kernel, at.log_u, at.shift, problem, epsilon)
    rows = rise(target, log_u - at.log_u, rate(problem.tau_a))
    return total(rows, problem.axis_name) + (1 + relaxed) * jnp.sum(columns)


def _newton(kernel: Kernel, at: Loop, problem: Problem, epsilon: Array, tol: Array) -> tuple[Array, Array]:
    """Solve the Newton system of log u, v and the shift eliminated, by preconditioned conjugate gradients.

    H d = diag(p + kappa t) d - P diag(tau_b / q) P' d - w (w'd) / (1'w) = t - p with the plan P, its marginals p, q,
    the target t, kappa = epsilon / rho_a, and w = H 1 without its last term, 0 where both marginals are met exactly.
    H is positive semi-definite; its null space is the constants, of which t - p has none.
    """
    sum_ = lambda values: total(values, problem.axis_name)  # noqa: E731
    mass = mass_at(problem.a, at.log_u)
    rows, target = mass * at.rows, _target(kernel, at.log_u, at.shift, problem, epsilon)
    if problem.balanced:
        diagonal, weight = rows, mass_at(problem.b, at.log_v) / at.columns
    else:
        diagonal = rows + rate(problem.tau_a) * target
        weight = problem.tau_b * mass_at(problem.b, at.log_v + (1 - problem.tau_b) * at.shift) / at.columns
        slope = (1 - problem.tau_b) * rows + rate(problem.tau_a) * target
        curvature = sum_(slope)
        along = jnp.where(curvature > 0, slope / jnp.where(curvature > 0, curvature, 1.0), 0.0)
    inverse = jnp.where(diagonal > 0, 1 / jnp.where(diagonal > 0, diagonal, 1.0), 0.0)

    residual = target - rows
    share = jnp.sqrt(at.error / sum_(problem.a))
    enough = jnp.maximum(jnp.minimum(0.3, share) * at.error, 0.3 * tol)

    def go_on(carry: tuple) -> Array:
        *_, gain, left, largest, steps = carry
        return (left > enough) & (steps < INNER) & (gain > 0) & (largest < RADIUS)

    def iterate(carry: tuple) -> tuple:
        step, residual, direction, gain, _, _, steps = carry
        image = diagonal * direction - mass * kernel.times(weight * kernel.transposed(mass * direction))
        if not problem.balanced:
            image = image - along * sum_(slope * direction)
        curved, _ = totals((direction * image,), jnp.abs(direction), problem.axis_name)
        length = gain / curved
        step, residual = step + length * direction, residual - length * image
        scaled = inverse * residual
        new_gain, left, largest = totals((residual * scaled, jnp.abs(residual)), jnp.abs(step), problem.axis_name)
        return step, residual, scaled + new_gain / gain * direction, new_gain, left, largest, steps + 1

    first, none = inverse * residual, jnp.zeros_like(residual)
    gain, left, largest = totals((residual * first, jnp.abs(residual)), none, problem.axis_name)
    start = (none, residual, first, gain, left, largest, jnp.zeros((), jnp.int32))
    step, *_, largest, steps = jax.lax.while_loop(go_on, iterate, start)
    return step * jnp.minimum(1.0, RADIUS / jnp.maximum(largest, 1e-30)), steps


def _advance(kernel: Kernel, at: Loop, problem: Problem, epsilon: Array, tol: Array) -> Loop:
    """One step: Sinkhorn's, or Newton's where the last step kept most of the error, shortened until the error falls."""
    plain = jnp.where(problem.a > 0, _plain(kernel, at.rows, at.shift, problem, epsilon) - at.log_u, 0.0)
    newton = at.error > SLOW * at.previous
    mass = total(problem.a, problem.axis_name)
    step, inner = jax.lax.cond(
        newton, lambda: _newton(kernel, at, problem, epsilon, tol), lambda: (plain, jnp.zeros((), jnp.int32))
    )

    def worse(carry: tuple) -> Array:
        trial, gain, tries = carry
        better = (trial.error < 0.95 * at.error) | (gain > 1e-6 * mass)
        return (tries == 0) | (newton & ~better & (tries <= TRIES))  # a step that is not finite is worse too

    def shorten(carry: tuple) -> tuple:
        trial, _, tries = carry
        share = jnp.where(tries == 0, 1.0, jnp.where(tries == 1, 1 / 4, 1 / 16)).astype(step.dtype)
        log_u = at.log_u + jnp.where(tries == TRIES, plain, share * step)
        found, gain = _evaluate(kernel, at, log_u, problem, epsilon)
        return Loop(log_u, *found, at.error, at.mark, at.idle, trial.num_steps + 1), gain, tries + 1

    zero = jnp.zeros((), jnp.int32)
    first = at._replace(num_steps=at.num_steps + inner), jnp.zeros_like(at.error), zero
    trial, gain, _ = jax.lax.while_loop(worse, shorten, first)
    rounding = 16 * jnp.finfo(gain.dtype).eps
    worst = jnp.maximum(trial.error, trial.off)
    progress = (worst < 0.95 * at.mark) | (gain > rounding * mass)
    return trial._replace(
        # After a Newton step one of Sinkhorn's smooths what the conjugate gradients left, and its ratio decides the
        # next.
        previous=jnp.where(newton, jnp.inf, at.error),
        mark=jnp.where(progress, jnp.minimum(worst, at.mark), at.mark),
        idle=jnp.where(progress, 0, at.idle + 1),
    )


def _absorbed(cost: Cost, g: Array, epsilon: Array, problem: Problem) -> tuple[Kernel, Array]:
    """Return the kernel near g, and the scaling that makes g of its potential."""
    kernel = absorb(cost, g, epsilon, problem)
    return kernel, jnp.minimum(jnp.where(problem.b > 0, (g - kernel.g) / epsilon, 0.0), CAP)


def _enter(cost: Cost, problem: Problem, g: Array, epsilon: Array, num_steps: Array) -> tuple[Kernel, Loop]:
    """Absorb potentials: the next step from here is Sinkhorn's, and measures the first error."""
    kernel, log_v = _absorbed(cost, g, epsilon, problem)
    rows = sums_of(kernel.times(mass_at(problem.b, log_v)))
    far, shift = jnp.full_like(epsilon, jnp.inf), jnp.zeros_like(epsilon)
    log_u, columns, idle = jnp.zeros_like(rows), jnp.ones_like(log_v), jnp.zeros_like(num_steps)
    return kernel, Loop(log_u, log_v, shift, rows, columns, far, far, shift, far, far, idle, num_steps)


def _leave(kernel: Kernel, at: Loop, problem: Problem, epsilon: Array) -> tuple[Array, Array]:
    """Return the potentials; points without mass get those that the other side's give them."""
    log_u = jnp.where(problem.a > 0, at.log_u, _plain(kernel, at.rows, at.shift, problem, epsilon))
    if problem.balanced:
        return kernel.f + epsilon * log_u, kernel.g + epsilon * at.log_v
    return kernel.f + epsilon * (log_u + at.shift), kernel.g + epsilon * (at.log_v - problem.tau_b * at.shift)


def _within(kernel: Kernel, problem: Problem, epsilon: Array, tol: Array) -> Array:
    """The error to stop at: with what rounding of the potentials adds, independent of it, it is to be below tol."""
    size = average(jnp.abs(kernel.f), problem.a, problem.axis_name) + average(jnp.abs(kernel.g), problem.b, None)
    rounding = jnp.finfo(size.dtype).eps * size / epsilon
    safe = SAFE if problem.balanced else jnp.where(problem.relaxed, SAFER, SAFE)
    return safe * jnp.sqrt(jnp.maximum(tol**2 - rounding**2, (0.3 * tol) ** 2))


def solve(
    cost: Cost,
    problem: Problem,
    g: Array | None,
    *,
    epsilon: Array,
    tol: Array,
    max_steps: Array,
    anneal: bool,
) -> tuple[Array, Array, Array]:
    """Solve at falling temperatures, each from the potentials before, down to epsilon; from g, or from nothing.

    Returns f, g, not centred, and the number of steps, each one product with K and one with its transpose: fewer than
    max_steps where the error is below tol as far as the kernel tells, or has come to rest above it.
    """
    mass = total(problem.a, problem.axis_name)
    columns = annealing.typical(problem.b)
    start = epsilon
    if anneal:
        start, seed = annealing.begin(cost, problem, columns, epsilon)
        g = seed if g is None else g
    g = jnp.zeros_like(problem.b) if g is None else g

    def stage(carry: tuple) -> tuple:
        _, g, now, num_steps, best, rests, _ = carry
        last = now <= epsilon
        here = problem.at(now / epsilon)
        # a constant moved from f to g changes nothing, unless it is so large that the others' digits are lost
        g = jnp.where(problem.relaxed, g, g - annealing.level(g, columns))
        kernel, at = _enter(cost, here, g, now, num_steps)
        goal = mass * jnp.where(last, _within(kernel, problem, epsilon, tol), jnp.maximum(tol, LOOSE))

        def go_on(at: Loop) -> Array:
            allowed = (at.wide < WIDE) & (at.num_steps < max_steps) & (at.idle < REST)
            return ((jnp.maximum(at.error, at.off) >= goal) & allowed) | (at.num_steps == num_steps)

        at = jax.lax.while_loop(go_on, lambda at: _advance(kernel, at, here, now, goal), at)
        f, g = _leave(kernel, at, here, now)
        worst = jnp.maximum(at.error, at.off)
        solved, idle = worst < goal, at.idle >= REST
        # A stage at rest is absorbed once more, and twice if that helped; one that left the window goes on.
        rests = jnp.where(worst < 0.9 * best, 0, rests) + idle
        best = jnp.minimum(best, worst)
        over = solved | (rests >= 2)
        out = at.num_steps >= max_steps  # then one iteration at epsilon still makes a plan of the potentials
        done = (last & (over | out)) | ~jnp.isfinite(at.error)
        following = jnp.where(out, epsilon, jnp.where(over, jnp.maximum(now * RATIO, epsilon), now))
        best, rests = jnp.where(over, jnp.inf, best), jnp.where(over, 0, rests)
        return f, g, following, at.num_steps, best, rests, done

    zero, far = jnp.zeros((), jnp.int32), jnp.full_like(mass, jnp.inf)
    carry = (jnp.zeros_like(problem.a), g, jnp.maximum(start, epsilon), zero, far, zero, jnp.zeros((), bool))
    f, g, _, num_steps, *_ = jax.lax.while_loop(lambda carry: ~carry[-1], stage, carry)
    return f, g, num_steps


def iterate(
    cost: Cost, problem: Problem, f: Array, g: Array, *, epsilon: Array, num_iterations: int
) -> tuple[Array, Array]:
    """Do a fixed number of Sinkhorn's iterations from g, absorbing every CHUNK; differentiable as it is written."""

    def chunk(carry: tuple[Array, Array], length: int) -> tuple[tuple[Array, Array], None]:
        kernel, log_v = _absorbed(cost, carry[1], epsilon, problem)

        def one(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
            rows = sums_of(kernel.times(mass_at(problem.b, carry[1])))
            log_u = _scaling(rows, kernel.f, problem.tau_a, epsilon)
            columns = sums_of(kernel.transposed(mass_at(problem.a, log_u)))
            return (log_u, _scaling(columns, kernel.g, problem.tau_b, epsilon)), None

        (log_u, log_v), _ = jax.lax.scan(one, (jnp.zeros_like(kernel.f), log_v), length=length)
        return (kernel.f + epsilon * log_u, kernel.g + epsilon * log_v), None

    whole, rest = divmod(num_iterations, CHUNK)
    carry, _ = jax.lax.scan(lambda carry, _: chunk(carry, CHUNK), (f, g), length=whole)
    return chunk(carry, rest)[0] if rest else carry
