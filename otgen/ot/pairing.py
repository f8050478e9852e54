"""Pairs drawn from a transport plan: a permutation of the batch, one partner for each point, or independent draws."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Int

from otgen.ot.check import is_traced
from otgen.ot.costs import Cost
from otgen.ot.entropic import State, as_masses, as_numbers
from otgen.types import Array, Key

PAIRINGS = ("permutation", "stratified", "iid")


def sample_plan(
    key: Key,
    cost: Cost,
    state: State,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike,
    num: int | None = None,
    pairing: str = "permutation",
    sweeps: int = 64,
) -> tuple[Int[Array, " num"], Int[Array, " num"]]:
    """Draw pairs (i, j) of points from the plan of a state, without the plan.

    * permutation: every source and every target point exactly once, so that a batch keeps all its points. A random
      matching sigma of the law proportional to the product of P[i, sigma(i)], approached by `sweeps` rounds of
      Metropolis swaps from a matching made without replacement. Needs n = m and uniform weights.
    * stratified: source points in proportion to their weights with the least spread (each exactly once if uniform and
      num = n), and for each a target point j with probability P(j | i).
    * iid: independent pairs from P / sum P.

    Args:
      key: PRNG key, consumed.
      cost: ground cost n x m.
      state: potentials.
      a: weights of the source points; uniform for None.
      b: weights of the target points; uniform for None.
      epsilon: temperature of the potentials.
      num: number of pairs; n for None, and n in a permutation. Static.
      pairing: "permutation", "stratified" or "iid". Static.
      sweeps: rounds of swaps in a permutation. Static.

    Returns:
      Indices i and j [num], in the order of the source points (in random order for "iid").

    Raises:
      ValueError: for another name, or a permutation of unequal sides or weights.

    Example:
      >>> cost = og.PairwiseCost(jnp.array([[0.0], [1.0], [2.0]]), jnp.array([[2.1], [0.1], [1.1]]))
      >>> state, _ = og.sinkhorn.run(cost, epsilon=0.05)
      >>> i, j = og.sinkhorn.sample_plan(jax.random.key(0), cost, state, epsilon=0.05)
      >>> print(i, j)  # each point once, and with its neighbour
      [0 1 2] [1 2 0]
    """
    n, m = cost.shape
    if pairing not in PAIRINGS:
        raise ValueError(f"pairing = {pairing!r}: choose one of {', '.join(PAIRINGS)}.")
    if pairing == "permutation":
        if n != m or num not in (None, n):
            raise ValueError(
                f"a permutation pairs all of {n} source with all of {m} target points, num = {num}: it needs "
                "n = m = num. Use pairing='stratified'."
            )
        for name, weights in (("a", a), ("b", b)):
            if weights is not None and not is_traced(weights) and jnp.ptp(jnp.asarray(weights)) > 1e-6 / n:
                raise ValueError(f"a permutation gives every point the same weight, {name} does not: use 'stratified'.")
    uniform = a is None
    a, b = as_masses(cost, a, b, 1.0, 0.5)
    (epsilon,) = as_numbers(cost, epsilon=epsilon)
    num = n if num is None else num
    if num < 1:
        raise ValueError(f"num = {num}: ask for at least one pair.")
    return _sample(key, cost, state, a, b, epsilon, num, pairing, sweeps, uniform)


@jax.jit(static_argnames=("num", "pairing", "sweeps", "uniform"))
def _sample(
    key: Key,
    cost: Cost,
    state: State,
    a: Array,
    b: Array,
    epsilon: Array,
    num: int,
    pairing: str,
    sweeps: int,
    uniform: bool,
) -> tuple[Array, Array]:
    first, second = jax.random.split(key)
    f, g = state
    log_b = jnp.where(b > 0, jnp.log(jnp.where(b > 0, b, 1.0)), -jnp.inf)

    if pairing == "permutation":
        greedy = _without_replacement(first, cost, g, epsilon)
        return jnp.arange(num), _swap(second, cost, epsilon, greedy, sweeps)

    if pairing == "stratified" and uniform and num == cost.shape[0]:
        i = jnp.arange(num)
    elif pairing == "stratified":
        steps = (jnp.arange(num) + jax.random.uniform(first)) / num
        i = _inverse(a, steps)
    else:
        rows = cost.map_blocks(lambda block, f: jnp.sum(b * jnp.exp((f[:, None] + g - block) / epsilon), 1), f)
        i = _inverse(a * rows, jax.random.uniform(first, (num,)))
    keys = jax.random.split(second, num)

    def partner(key: Key, i: Array) -> Array:
        return jax.random.categorical(key, (g - cost.row(i)) / epsilon + log_b)

    return i, jax.lax.map(lambda it: partner(*it), (keys, i), batch_size=max(1, min(num, 2**20 // cost.shape[1])))


def _inverse(weights: Array, uniforms: Array) -> Array:
    """The points at which the cumulated weights pass uniform numbers; never one without weight."""
    cumulated = jnp.cumsum(weights)
    found = jnp.searchsorted(cumulated, uniforms * cumulated[-1], side="right")
    last = weights.shape[0] - 1 - jnp.argmax(weights[::-1] > 0)  # rounding may step over the end
    return jnp.minimum(found, last)


def _without_replacement(key: Key, cost: Cost, g: Array, epsilon: Array) -> Array:
    """Each source point in random order draws a partner from its row of the plan among those still free."""
    n = cost.shape[0]
    order_key, draw_key = jax.random.split(key)

    def draw(carry: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], None]:
        free, partner = carry
        noise = jax.random.gumbel(jax.random.fold_in(draw_key, i), (n,), g.dtype)
        j = jnp.argmax(jnp.where(free, (g - cost.row(i)) / epsilon + noise, -jnp.inf))
        return (free.at[j].set(False), partner.at[i].set(j)), None

    start = (jnp.ones(n, bool), jnp.zeros(n, jnp.int32))
    return jax.lax.scan(draw, start, jax.random.permutation(order_key, n))[0][1]


def _swap(key: Key, cost: Cost, epsilon: Array, partner: Array, sweeps: int) -> Array:
    """Metropolis swaps of the partners of disjoint random pairs, stationary at prod_i P[i, partner(i)]."""
    half = partner.shape[0] // 2

    def sweep(partner: Array, key: Key) -> tuple[Array, None]:
        pair_key, accept_key = jax.random.split(key)
        order = jax.random.permutation(pair_key, partner.shape[0])
        one, two = order[:half], order[half : 2 * half]
        now = cost.pairs(one, partner[one]) + cost.pairs(two, partner[two])
        then = cost.pairs(one, partner[two]) + cost.pairs(two, partner[one])
        taken = jnp.log(jax.random.uniform(accept_key, (half,))) < (now - then) / epsilon
        left, right = jnp.where(taken, partner[two], partner[one]), jnp.where(taken, partner[one], partner[two])
        return partner.at[one].set(left).at[two].set(right), None

    return jax.lax.scan(sweep, partner, jax.random.split(key, sweeps))[0]
