"""The loop behind `sinkhorn.run`: Sinkhorn's iteration while it is fast, Newton's where it is slow.

Sinkhorn contracts by a factor that tends to 1 as epsilon falls. Newton's method on the same dual, with its linear
system solved by conjugate gradients, pays the same price for a step, one product with the kernel K and one with its
transpose, and needs a fraction of the steps. Both run on K = exp((f + g - c) / epsilon) for potentials f, g that were
absorbed, so a step takes no exponential when K is in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp

from otgen.ot.costs import Cost, DenseCost, carried, gibbs, product
from otgen.types import Array, Held, as_pytree

LIMIT = 30.0  # largest |log scaling| before potentials are absorbed: exp(60) is far from overflow
SLOW = 0.4  # Sinkhorn is left for Newton when it keeps more than this share of the error
TINY = 1e-37  # least sum of the kernel: a relaxed problem may leave far points nothing
RADIUS = 10.0  # largest Newton step in a log scaling
INNER = 100  # most conjugate gradients in a Newton step
TRIES = 3  # step lengths 1, 1/4, 1/16, then Sinkhorn's step, which always improves
CHUNK = 8  # iterations between absorptions where their number is fixed: each moves a scaling by log(1 / weight) at most
SAFE = 0.9  # share of tol to stop at: rounding of the potentials adds to the error
ABSORB = 40  # more absorptions than this without success mean that rounding is in the way
START, RATIO, LOOSE = 0.05, 0.25, 0.03  # annealing: first epsilon over the mean cost, its factor, the error to leave at


@as_pytree
@dataclass(frozen=True)
class Problem:
    """The marginals and their relaxation: tau = rho / (rho + epsilon), 1 where a marginal is met exactly."""

    a: Held
    b: Held
    tau_a: Held
    tau_b: Held
    axis_name: str | None = field(default=None, metadata={"static": True})


class Kernel(NamedTuple):
    """K = exp((f + g - c) / epsilon) at absorbed potentials, seen through its products."""

    f: Array
    g: Array
    times: Callable[[Array], Array]
    transposed: Callable[[Array], Array]


class Loop(NamedTuple):
    """Log scalings u, v of the absorbed kernel, v solved for u; K (b v) and K'(a u); the error now and one step ago."""

    log_u: Array
    log_v: Array
    rows: Array
    columns: Array
    error: Array
    previous: Array
    num_steps: Array


def _psum(values: Array, axis_name: str | None) -> Array:
    return values if axis_name is None else jax.lax.psum(values, axis_name)


def pmax(values: Array, axis_name: str | None) -> Array:
    """The maximum over devices."""
    return values if axis_name is None else jax.lax.pmax(values, axis_name)


def total(values: Array, axis_name: str | None) -> Array:
    """Sum over the source points of all devices."""
    return _psum(jnp.sum(values, 0), axis_name)


def at_rest(potential: Array, mass: Array) -> Array:
    """Give points without mass that have no finite potential, as their pairs are all forbidden, the potential zero."""
    return jnp.where((mass > 0) | jnp.isfinite(potential), potential, 0.0)


def mass_at(mass: Array, log: Array) -> Array:
    """Return mass exp(log), zero where there is no mass, however large the log."""
    return mass * jnp.exp(jnp.where(mass > 0, log, 0.0))


def absorb(cost: Cost, f: Array, g: Array, epsilon: Array, problem: Problem) -> Kernel:
    """Move f and g to the largest potentials with f_i + g_j <= c_ij, and make the kernel there.

    Every row and every column of K then has the entry 1 and, among points with mass, none above: whatever the epsilon
    and however far the potentials were from consistent, no sum of K under- or overflows. The potentials are constants
    to differentiation: what is computed with the kernel does not depend on them.
    """
    masked = carried(g, problem.b)
    f = jax.lax.stop_gradient(cost.map_blocks(lambda block: jnp.min(block - masked, 1)))
    masked = carried(f, problem.a)
    g = jax.lax.stop_gradient(cost.map_blocks(lambda block: jnp.min(block - masked[:, None], 0), axis=0))
    if problem.axis_name is not None:
        g = jax.lax.pmin(g, problem.axis_name)
    f, g = at_rest(f, problem.a), at_rest(g, problem.b)

    def part(block: Array, f: Array, g: Array) -> Array:
        return gibbs(block, f, g, epsilon)

    if isinstance(cost, DenseCost):
        kernel = part(cost.values, f, g)
        return Kernel(f, g, lambda v: product(kernel, v), lambda u: _psum(product(u, kernel), problem.axis_name))

    def times(v: Array) -> Array:
        return cost.map_blocks(lambda block, f: product(part(block, f, g), v), f)

    def transposed(u: Array) -> Array:
        out = cost.map_blocks(lambda block, g: product(u, part(block, f, g)), g, axis=0)
        return _psum(out, problem.axis_name)

    return Kernel(f, g, times, transposed)


def _scaling(sums: Array, potential: Array, tau: Array, epsilon: Array) -> Array:
    """Sinkhorn's log scaling for the sums of the other side: -log(sums) where the marginal is met exactly."""
    return -tau * jnp.log(sums) - (1 - tau) * potential / epsilon


def _target(kernel: Kernel, log_u: Array, problem: Problem, epsilon: Array) -> Array:
    """The row marginal that f asks for: a, or a exp(-f / rho) where it is relaxed."""
    relaxed = (1 - problem.tau_a) / problem.tau_a
    return mass_at(problem.a, -relaxed * (kernel.f / epsilon + log_u))


def _evaluate(kernel: Kernel, log_u: Array, problem: Problem, epsilon: Array) -> tuple[Array, Array, Array, Array]:
    """Solve the columns for u, and measure what is left in the rows: log_v, rows, columns, error."""
    a, b = problem.a, problem.b
    columns = jnp.maximum(kernel.transposed(mass_at(a, log_u)), TINY)
    log_v = _scaling(columns, kernel.g, problem.tau_b, epsilon)
    rows = jnp.maximum(kernel.times(mass_at(b, log_v)), TINY)
    miss = jnp.abs(_target(kernel, log_u, problem, epsilon) - mass_at(a, log_u) * rows)
    return log_v, rows, columns, total(miss, problem.axis_name)


def _gain(at: Loop, trial: Loop, kernel: Kernel, problem: Problem, epsilon: Array) -> Array:
    """How much higher the dual is at the trial, over epsilon, columns solved in both; from differences, for float32."""

    def rise(target: Array, step: Array, tau: Array) -> Array:
        relaxed = (1 - tau) / tau
        step = jnp.where(target > 0, step, 0.0)
        curved = -jnp.expm1(-relaxed * step) / jnp.where(relaxed > 0, relaxed, 1.0)
        return target * jnp.where(relaxed > 0, curved, step)

    relaxed = (1 - problem.tau_b) / problem.tau_b
    columns = rise(
        mass_at(problem.b, -relaxed * (kernel.g / epsilon + at.log_v)), trial.log_v - at.log_v, problem.tau_b
    )
    rows = rise(_target(kernel, at.log_u, problem, epsilon), trial.log_u - at.log_u, problem.tau_a)
    return total(rows, problem.axis_name) + (1 + relaxed) * jnp.sum(columns)


def _newton(kernel: Kernel, at: Loop, problem: Problem, epsilon: Array, tol: Array) -> tuple[Array, Array]:
    """Solve the Newton system of log u, v eliminated, by preconditioned conjugate gradients.

    H d = diag(p + kappa t) d - P diag(tau_b / q) P' d = t - p with the plan P, its marginals p, q, the target t and
    kappa = (1 - tau_a) / tau_a. H is positive semi-definite; balanced, its null space is the constants: t - p has none.
    """
    sum_ = lambda values: total(values, problem.axis_name)  # noqa: E731
    mass = mass_at(problem.a, at.log_u)
    rows, target = mass * at.rows, _target(kernel, at.log_u, problem, epsilon)
    diagonal = rows + (1 - problem.tau_a) / problem.tau_a * target
    inverse = jnp.where(diagonal > 0, 1 / jnp.where(diagonal > 0, diagonal, 1.0), 0.0)
    weight = problem.tau_b * mass_at(problem.b, at.log_v) / at.columns

    def largest(step: Array) -> Array:
        return pmax(jnp.max(jnp.abs(step)), problem.axis_name)

    residual = target - rows
    share = jnp.sqrt(at.error / sum_(problem.a))
    enough = jnp.maximum(jnp.minimum(0.3, share) * at.error, 0.3 * tol)

    def go_on(carry: tuple) -> Array:
        step, residual, _, gain, steps = carry
        return (sum_(jnp.abs(residual)) > enough) & (steps < INNER) & (gain > 0) & (largest(step) < RADIUS)

    def iterate(carry: tuple) -> tuple:
        step, residual, direction, gain, steps = carry
        image = diagonal * direction - mass * kernel.times(weight * kernel.transposed(mass * direction))
        length = gain / sum_(direction * image)
        step, residual = step + length * direction, residual - length * image
        scaled = inverse * residual
        new_gain = sum_(residual * scaled)
        return step, residual, scaled + new_gain / gain * direction, new_gain, steps + 1

    first = inverse * residual
    start = (jnp.zeros_like(first), residual, first, sum_(residual * first), jnp.zeros((), jnp.int32))
    step, _, _, _, steps = jax.lax.while_loop(go_on, iterate, start)
    return step * jnp.minimum(1.0, RADIUS / jnp.maximum(largest(step), 1e-30)), steps


def _advance(kernel: Kernel, at: Loop, problem: Problem, epsilon: Array, tol: Array) -> Loop:
    """One step: Sinkhorn's, or Newton's where the last step kept most of the error, shortened until the error falls."""
    plain = _scaling(at.rows, kernel.f, problem.tau_a, epsilon) - at.log_u
    newton = at.error > SLOW * at.previous
    mass = total(problem.a, problem.axis_name)
    step, inner = jax.lax.cond(
        newton, lambda: _newton(kernel, at, problem, epsilon, tol), lambda: (plain, jnp.zeros((), jnp.int32))
    )
    step = jnp.where(jnp.all(jnp.isfinite(step) | (problem.a == 0)), step, plain)

    def worse(carry: tuple) -> Array:
        trial, tries = carry
        better = (trial.error < 0.95 * at.error) | (_gain(at, trial, kernel, problem, epsilon) > 1e-6 * mass)
        return newton & ~better & (tries <= TRIES)

    def shorten(carry: tuple) -> tuple:
        trial, tries = carry
        length = jnp.where(tries == TRIES, plain, jnp.asarray(0.25, step.dtype) ** tries * step)
        log_u = at.log_u + length
        found = _evaluate(kernel, log_u, problem, epsilon)
        return Loop(log_u, *found, at.error, trial.num_steps + 1), tries + 1

    first = shorten((at._replace(num_steps=at.num_steps + inner), jnp.zeros((), jnp.int32)))
    trial, _ = jax.lax.while_loop(worse, shorten, first)
    # After a Newton step one of Sinkhorn's smooths what the conjugate gradients left, and its ratio decides the next.
    return trial._replace(previous=jnp.where(newton, jnp.inf, at.error))


def _enter(cost: Cost, problem: Problem, f: Array, g: Array, epsilon: Array) -> tuple[Kernel, Loop]:
    """Absorb potentials, and begin where they were as far as that is near."""
    kernel = absorb(cost, f, g, epsilon, problem)
    log_u = jnp.clip((f - kernel.f) / epsilon, -LIMIT, LIMIT)
    found = _evaluate(kernel, log_u, problem, epsilon)
    return kernel, Loop(log_u, *found, jnp.full_like(found[-1], jnp.inf), jnp.zeros((), jnp.int32))


def _leave(kernel: Kernel, at: Loop, problem: Problem, epsilon: Array) -> tuple[Array, Array]:
    """Return the potentials; points without mass get those that the other side's give them."""
    plain = _scaling(at.rows, kernel.f, problem.tau_a, epsilon)
    return kernel.f + epsilon * jnp.where(problem.a > 0, at.log_u, plain), kernel.g + epsilon * at.log_v


def solve(
    cost: Cost,
    problem: Problem,
    f: Array,
    g: Array,
    *,
    epsilon: Array,
    tol: Array,
    max_steps: Array,
    anneal: bool,
) -> tuple[Array, Array, Array]:
    """Solve at falling temperatures, START x mean cost, its RATIO, ... epsilon, each from the potentials before.

    Returns f, g, not centred, and the number of steps, each one product with K and one with its transpose.
    """
    mass = total(problem.a, problem.axis_name)
    relaxed = (problem.tau_a < 1) | (problem.tau_b < 1)
    start = epsilon
    if anneal:
        rows = cost.map_blocks(lambda block: product(jnp.where(block < jnp.inf, block, 0.0), problem.b))
        start = START * total(problem.a * rows, problem.axis_name) / (mass * jnp.sum(problem.b))

    def stage(carry: tuple) -> tuple:
        f, g, now, num_steps, absorptions, _ = carry
        last = now <= epsilon
        goal = mass * jnp.where(last, SAFE * tol, jnp.maximum(tol, LOOSE))
        kernel, at = _enter(cost, problem, f, g, now)

        def go_on(at: Loop) -> Array:
            # a relaxed problem may take a point's mass away, and its scaling with it
            log_u, log_v = (
                jnp.where(mass > 0, jnp.where(relaxed, log, jnp.abs(log)), 0.0)
                for mass, log in ((problem.a, at.log_u), (problem.b, at.log_v))
            )
            wide = jnp.maximum(jnp.max(log_u), jnp.max(log_v))
            near = pmax(wide, problem.axis_name) < 2 * LIMIT
            return (at.error >= goal) & near & (at.num_steps < max_steps)

        at = at._replace(num_steps=num_steps + 1)
        at = jax.lax.while_loop(go_on, lambda at: _advance(kernel, at, problem, now, goal), at)
        f, g = _leave(kernel, at, problem, now)
        solved = at.error < goal
        done = (last & solved) | (at.num_steps >= max_steps) | ~jnp.isfinite(at.error) | (absorptions >= ABSORB)
        # A stage that did not finish is absorbed and goes on; one that did hands over to the next temperature.
        return f, g, jnp.where(solved, jnp.maximum(now * RATIO, epsilon), now), at.num_steps, absorptions + 1, done

    zero = jnp.zeros((), jnp.int32)
    carry = (f, g, jnp.maximum(start, epsilon), zero, zero, jnp.zeros((), bool))
    f, g, _, num_steps, _, _ = jax.lax.while_loop(lambda carry: ~carry[-1], stage, carry)
    return f, g, num_steps


def iterate(
    cost: Cost, problem: Problem, f: Array, g: Array, *, epsilon: Array, num_iterations: int
) -> tuple[Array, Array]:
    """Do a fixed number of Sinkhorn's iterations, absorbing every CHUNK of them; differentiable as it is written."""

    def chunk(carry: tuple[Array, Array], length: int) -> tuple[tuple[Array, Array], None]:
        kernel, at = _enter(cost, problem, *carry, epsilon)

        def one(at: Loop, _: None) -> tuple[Loop, None]:
            log_u = _scaling(at.rows, kernel.f, problem.tau_a, epsilon)
            return Loop(log_u, *_evaluate(kernel, log_u, problem, epsilon), at.error, at.num_steps), None

        at, _ = jax.lax.scan(one, at, length=length)
        return _leave(kernel, at, problem, epsilon), None

    whole, rest = divmod(num_iterations, CHUNK)
    carry, _ = jax.lax.scan(lambda carry, _: chunk(carry, CHUNK), (f, g), length=whole)
    return chunk(carry, rest)[0] if rest else carry
