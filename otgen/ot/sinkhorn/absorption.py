"""The kernel K = exp((f + g - c) / epsilon) of absorbed potentials, and the problem whose marginals it is to meet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp

from otgen.ot.costs import Cost, DenseCost
from otgen.ot.inert import carried, gibbs, tiles
from otgen.ot.products import product
from otgen.types import Array, Held, as_pytree

CAP = 80.0  # largest exponent of the kernel, which points without mass reach, or points of a weight below exp(-CAP)
GROUP = 512  # numbers that `totals` adds one after the other


@as_pytree
@dataclass(frozen=True)
class Problem:
    """The marginals and their relaxation: tau = rho / (rho + epsilon), 1 where a marginal is met exactly.

    Both are None where both are known to be 1 when the program is made: it then has nothing in it about relaxed
    marginals, which are half of it, to be compiled.
    """

    a: Held
    b: Held
    tau_a: Held | None
    tau_b: Held | None
    axis_name: str | None = field(default=None, metadata={"static": True})

    def at(self, ratio: Array) -> Problem:
        """Return the same problem, rho as it is, at `ratio` times the temperature."""
        if self.balanced:
            return self
        tau_a, tau_b = (tau / (tau + (1 - tau) * ratio) for tau in (self.tau_a, self.tau_b))
        return Problem(self.a, self.b, tau_a, tau_b, self.axis_name)

    @property
    def balanced(self) -> bool:
        """Whether both marginals are known to be met exactly."""
        return self.tau_a is None

    @property
    def relaxed(self) -> Array | bool:
        """Whether one of the marginals is relaxed."""
        return False if self.balanced else (self.tau_a < 1) | (self.tau_b < 1)


class Kernel(NamedTuple):
    """K = exp((f + g - c) / epsilon) at absorbed potentials, seen through its products."""

    f: Array
    g: Array
    times: Callable[[Array], Array]
    transposed: Callable[[Array], Array]


def _psum(values: Array, axis_name: str | None) -> Array:
    return values if axis_name is None else jax.lax.psum(values, axis_name)


def pmax(values: Array, axis_name: str | None) -> Array:
    """Return the maximum over devices."""
    return values if axis_name is None else jax.lax.pmax(values, axis_name)


def total(values: Array, axis_name: str | None) -> Array:
    """Return the sum over the source points of all devices."""
    return _psum(jnp.sum(values, 0), axis_name)


def totals(values: tuple[Array, ...], largest: Array, axis_name: str | None) -> tuple[Array, ...]:
    """Return sums over the source points of all devices, and the maximum of what is not negative, in one reduction.

    It is one kernel to compile, where XLA makes three of every sum on its own. Such a kernel adds one number after the
    other, which float32 bears for some hundred: more are added in groups first. Not to be differentiated.
    """

    def both(one: tuple[Array, ...], two: tuple[Array, ...]) -> tuple[Array, ...]:
        return *(x + y for x, y in zip(one[:-1], two[:-1], strict=True)), jnp.maximum(one[-1], two[-1])

    parts = (*values, largest)
    zeros = tuple(jnp.zeros((), part.dtype) for part in parts)
    if largest.shape[0] > GROUP:
        parts = jax.lax.reduce(tuple(tiles(part, GROUP) for part in parts), zeros, both, (1,))
    *sums, most = jax.lax.reduce(parts, zeros, both, (0,))
    return *(_psum(part, axis_name) for part in sums), pmax(most, axis_name)


def share(where: Array, mass: Array, axis_name: str | None) -> Array:
    """Return the share of the mass that is where; constant to differentiation."""
    return average(*jax.lax.stop_gradient((where.astype(mass.dtype), mass)), axis_name)


def summed(rows: Array, columns: Array, axis_name: str | None) -> Array:
    """Return the sum over both sides, over the source points of all devices."""
    if axis_name is not None:
        columns = columns / jax.lax.psum(1, axis_name)  # every device has all of them
    # The barrier keeps XLA from taking it apart again: two reductions take twice as long to compile.
    return total(jax.lax.optimization_barrier(jnp.concatenate([rows, columns])), axis_name)


def average(values: Array, mass: Array, axis_name: str | None) -> Array:
    """Return the mean over the mass of the source points of all devices, by `totals`."""
    both, weight, _ = totals((mass * values, mass), mass, axis_name)
    return both / weight


def damped(potential: Array, tau: Array | None) -> Array:
    """Return tau times a potential."""
    return potential if tau is None else tau * potential


def rate(tau: Array) -> Array:
    """Return epsilon / rho: how fast a relaxed marginal falls with its potential over epsilon; 0 where it is exact."""
    return (1 - tau) / tau


def motion(moved: Array, potential: Array, tau: Array) -> Array:
    """How much a change of a potential matters, both over epsilon: as it is, but less where a point keeps no mass.

    Such a point counts by the change relative to its potential, and by what it keeps: rounding of a potential much
    larger than epsilon changes neither the plan nor the value there.
    """
    kept = jnp.exp(-rate(tau) * jnp.maximum(potential, 0.0))
    return jnp.minimum(moved, moved / jnp.maximum(jnp.abs(potential), 1.0) + kept * moved)


def balance(a: Array, x: Array, b: Array, y: Array, rate: Array, axis_name: str | None) -> Array:
    """The shift t of f against g that is best for the dual, (log sum a exp(-x) - log sum b exp(-y)) / rate, or 0.

    x and y are the potentials in units that make a exp(-x), b exp(-y) the marginals asked for. A shift changes no other
    term of the dual, and Sinkhorn's iteration needs rho / epsilon steps to find it. Zero where the marginals have one
    total to rounding, which leaves it undetermined by as much as rounding of the weights does.

    Reference: Sejourne et al. (2022), arXiv 2201.00730.
    """
    low_a = -pmax(jnp.max(carried(-x, a)), axis_name)
    low_b = -jnp.max(carried(-y, b))
    left, right = total(mass_at(a, low_a - x), axis_name), jnp.sum(mass_at(b, low_b - y))
    odds = jnp.log(left / right) + (low_b - low_a)
    clear = jnp.abs(odds) > 4 * jnp.finfo(odds.dtype).eps * (1 + jnp.abs(low_a) + jnp.abs(low_b))
    return jnp.where((rate > 0) & clear, odds / jnp.where(rate > 0, rate, 1.0), 0.0)


def at_rest(potential: Array, mass: Array) -> Array:
    """Give points without mass that have no finite potential, as their pairs are all forbidden, the potential zero."""
    return jnp.where((mass > 0) | jnp.isfinite(potential), potential, 0.0)


def mass_at(mass: Array, log: Array) -> Array:
    """Return mass exp(log), zero where there is no mass, however large the log."""
    return mass * jnp.exp(jnp.where(mass > 0, log, 0.0))


def absorb(cost: Cost, g: Array, epsilon: Array, problem: Problem) -> Kernel:
    """Take one iteration of Sinkhorn's from g with minima for sums, and make the kernel there.

    Every sum over the plan a K b then has a term as large as the marginal: whatever the epsilon, the weights and
    however far the potentials were from consistent, no sum under- or overflows. Where a marginal is relaxed its
    potentials are, so that points that keep no mass fade and no other does. The potentials are constants to
    differentiation: what is computed with the kernel does not depend on them.
    """

    def seen(potential: Array, mass: Array) -> Array:
        return carried(potential + epsilon * jnp.log(jnp.where(mass > 0, mass, 1.0)), mass)

    there = seen(g, problem.b)
    f = jax.lax.stop_gradient(damped(cost.map_blocks(lambda block: jnp.min(block - there, 1)), problem.tau_a))
    here = seen(f, problem.a)
    g = jax.lax.stop_gradient(cost.map_blocks(lambda block: jnp.min(block - here[:, None], 0), axis=0))
    if problem.axis_name is not None:
        g = jax.lax.pmin(g, problem.axis_name)
    f, g = at_rest(f, problem.a), at_rest(damped(g, problem.tau_b), problem.b)

    def part(block: Array, f: Array, g: Array) -> Array:
        return gibbs(block, f, g, epsilon, CAP)

    if isinstance(cost, DenseCost):
        kernel = part(cost.values, f, g)
        return Kernel(f, g, lambda v: product(kernel, v), lambda u: _psum(product(u, kernel), problem.axis_name))

    def times(v: Array) -> Array:
        return cost.map_blocks(lambda block, f: product(part(block, f, g), v), f)

    def transposed(u: Array) -> Array:
        out = cost.map_blocks(lambda block, g: product(u, part(block, f, g)), g, axis=0)
        return _psum(out, problem.axis_name)

    return Kernel(f, g, times, transposed)
