"""Where the solver of entropic transport begins: a first temperature and potentials, from a few rows of the cost.

Adding alpha_i + beta_j to the cost changes neither the plan nor how hard it is to find, and a point far away, or pairs
made impossible by a huge cost, change it little. The mean cost follows all of them. What is used instead is the spread
of the cost after a robust level of each row and column is taken off.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from otgen.ot.costs import Cost
from otgen.ot.sinkhorn.absorption import Problem, rate, total
from otgen.types import Array

SAMPLE = 16  # rows and columns looked at
START = 0.1  # first temperature over the spread


def typical(weights: Array) -> Array:
    """Indices of SAMPLE points, as many of each region as it has weight; points without weight are never among them.

    A race that the point of largest weight / u_i wins, with u of a golden-ratio sequence in [0, 1): among many points
    the odds are as the weights, whatever their order. Quantiles of the weights would need sums, slow to compile.
    """
    steps = jnp.arange(weights.shape[0], dtype=jnp.uint32) * jnp.uint32(0x9E3779B9)  # 2^32 times the golden ratio
    starts = jnp.arange(SAMPLE, dtype=jnp.uint32) * jnp.uint32(2**32 // SAMPLE)
    u = ((steps + starts[:, None]) >> 8).astype(weights.dtype) + 1
    return jnp.argmax(weights / u, 1)


def _middle(values: Array) -> Array:
    """Return a robust level along the first axis, SAMPLE long: the largest of the minima of four parts.

    As the median it has a place in the middle, which neither a few values far below nor a third far above move; it
    needs no sorting, which is slow to compile.
    """
    return jnp.max(jnp.min(values.reshape(4, SAMPLE // 4, *values.shape[1:]), 1), 0)


def level(potential: Array, columns: Array) -> Array:
    """Return the middle of a potential over typical points."""
    return _middle(potential[columns])


def begin(cost: Cost, problem: Problem, columns: Array, epsilon: Array) -> tuple[Array, Array]:
    """Return a first temperature and a potential g, which follow a change of the cost by alpha_i + beta_j exactly.

    Where both marginals are relaxed, points further away than rho need a temperature of rho: below, their potentials
    come to rest slowly.
    """
    rows = jax.lax.stop_gradient(jax.vmap(cost.row)(typical(problem.a)))  # [SAMPLE, m]
    largest = jnp.max(jnp.where(jnp.isfinite(rows), rows, -jnp.inf))
    rows = jnp.where(jnp.isfinite(rows), rows, largest)
    block = rows[:, columns]
    # differences between columns: what is added to a row is not in them
    start = jnp.zeros_like(block[:, 0]), _middle(block - block[:, :1])

    def polish(_: Array, levels: tuple[Array, Array]) -> tuple[Array, Array]:
        f = _middle((block - levels[1]).T)
        return f, _middle(block - f[:, None])

    f, _ = jax.lax.fori_loop(0, 2, polish, start)
    seed = _middle(rows - f[:, None])
    seed = seed - level(seed, columns)
    # How far rows are from taking part in the columns that the seed would have them take: if it favours a few columns
    # by much, a temperature as high is needed, or their potentials take epsilon a step to come down.
    reduced = rows - jnp.where(problem.b > 0, seed, -jnp.inf)
    reduced = reduced[:, columns] - jnp.min(reduced, 1)[:, None]
    spread = jnp.max(_middle(reduced.T))
    if problem.axis_name is not None:
        mass, everything = jnp.sum(problem.a), total(problem.a, problem.axis_name)
        share = jnp.where(mass > 0, mass / everything, 0.0)
        seed, spread = (total(jnp.where(mass > 0, share * it, 0.0)[None], problem.axis_name) for it in (seed, spread))

    if problem.balanced:
        return START * spread, seed
    rho = epsilon / jnp.maximum(rate(problem.tau_a), rate(problem.tau_b))

    def furthest() -> Array:
        near = cost.map_blocks(lambda block: jnp.min(jnp.where(problem.b > 0, block, jnp.inf), 1))
        return jnp.max(jnp.where((problem.a > 0) & jnp.isfinite(near), near, 0.0))

    relaxed = jnp.isfinite(rho)
    far = jax.lax.cond(relaxed, furthest, lambda: jnp.zeros((), rows.dtype))
    if problem.axis_name is not None:
        far = jax.lax.pmax(far, problem.axis_name)
    return jnp.maximum(START * spread, jnp.minimum(rho, far)), jnp.where(relaxed, 0.0, seed)
