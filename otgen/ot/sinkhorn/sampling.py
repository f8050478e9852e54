"""Pairs drawn from a transport plan: a permutation of the batch, one partner for each point, or independent draws."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen import sizes
from otgen.ot.check import as_count, as_key, is_traced, now, require_choice
from otgen.ot.costs import Cost
from otgen.ot.costs.ground import as_cost
from otgen.ot.costs.potentials import State
from otgen.ot.inert import gibbs
from otgen.ot.products import product
from otgen.ot.sinkhorn.inputs import Potentials, as_masses, as_numbers, as_state
from otgen.ot.sinkhorn.plans import reading
from otgen.types import Array, Int, Key

PAIRINGS = ("permutation", "stratified", "iid")


def sample_plan(
    key: Key,
    cost: Cost | ArrayLike,
    state: Potentials,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike,
    num: int | None = None,
    pairing: str = "permutation",
    num_sweeps: int = 64,
) -> tuple[Int[Array, " num"], Int[Array, " num"]]:
    """Draw pairs (i, j) of points from the plan of a state, without the plan.

    * permutation: every source and every target point exactly once, so that a batch keeps all its points. A random
      matching sigma of the law proportional to the product of P[i, sigma(i)], approached by `num_sweeps` rounds of
      Metropolis swaps from a matching made without replacement. Needs n = m and uniform weights.
    * stratified: source points in proportion to their weights with the least spread (each exactly once if uniform and
      num = n), and for each a target point j with probability P(j | i).
    * iid: independent pairs from P / sum P.

    Args:
      key: PRNG key, consumed.
      cost: ground cost n x m, or a matrix [n, m].
      state: potentials.
      a: weights of the source points; uniform for None.
      b: weights of the target points; uniform for None.
      epsilon: temperature of the potentials.
      num: number of pairs; n for None, and n in a permutation. Static.
      pairing: "permutation", "stratified" or "iid". Static.
      num_sweeps: rounds of swaps in a permutation. Static.

    Returns:
      Indices i and j [num], in the order of the source points (in random order for "iid").

    Raises:
      ValueError: for another name, or a permutation of unequal sides or weights; outside jit, as in `sinkhorn.run`.

    Example:
      >>> cost = og.PairwiseCost(jnp.array([[0.0], [1.0], [2.0]]), jnp.array([[2.1], [0.1], [1.1]]))
      >>> state, _ = og.sinkhorn.run(cost, epsilon=0.05)
      >>> i, j = og.sinkhorn.sample_plan(jax.random.key(0), cost, state, epsilon=0.05)
      >>> print(i, j)  # each point once, and with its neighbour
      [0 1 2] [1 2 0]
    """
    cost, uniform = as_cost(cost), a is None
    a, b = as_masses(cost, a, b, 1.0, 0.5)
    (epsilon,) = as_numbers(cost, epsilon=epsilon)
    n, m = cost.shape
    require_choice("pairing", pairing, PAIRINGS)
    if pairing == "permutation":
        if n != m or num not in (None, n):
            raise ValueError(
                f"a permutation pairs all of {n} source with all of {m} target points, num = {num}: it needs "
                "n = m = num. Use pairing='stratified'."
            )
        for name, weights in (("a", a), ("b", b)):
            if not is_traced(weights) and float(now(_spread, weights)) > 1e-6 / n:
                raise ValueError(f"a permutation gives every point the same weight, {name} does not: use 'stratified'.")
    num, num_sweeps = n if num is None else as_count("num", num), as_count("num_sweeps", num_sweeps, 0)
    return _sample(as_key(key), cost, as_state(cost, state), a, b, epsilon, num, pairing, num_sweeps, uniform)


_spread = jax.jit(jnp.ptp)


@jax.jit(static_argnames=("num", "pairing", "num_sweeps", "uniform"))
def _sample(
    key: Key,
    cost: Cost,
    state: State,
    a: Array,
    b: Array,
    epsilon: Array,
    num: int,
    pairing: str,
    num_sweeps: int,
    uniform: bool,
) -> tuple[Array, Array]:
    first, second = jax.random.split(key)
    cost, f, g, a, b, epsilon = reading(cost, *state, a, b, epsilon)
    log_b = jnp.log(jnp.where(b > 0, b, 1.0))  # where there is no mass, g is minus infinity

    if pairing == "permutation":
        greedy = _without_replacement(first, cost, g, epsilon)
        return jnp.arange(num), _swap(second, cost, epsilon, greedy, num_sweeps)

    if pairing == "stratified" and uniform and num == cost.shape[0]:
        i = jnp.arange(num)
    elif pairing == "stratified":
        steps = (jnp.arange(num) + jax.random.uniform(first)) / num
        i = passed(a, steps)
    else:
        rows = cost.map_blocks(lambda block, f: product(gibbs(block, f, g, epsilon, jnp.inf), b), f)
        i = passed(a * rows, jax.random.uniform(first, (num,)))
    keys = jax.random.split(second, num)

    def partner(key: Key, i: Array) -> Array:
        return jax.random.categorical(key, (g - cost.row(i)) / epsilon + log_b)

    together = max(1, min(num, sizes.here().block // cost.shape[1]))
    return i, jax.lax.map(lambda it: partner(*it), (keys, i), batch_size=together)


def passed(weights: Array, uniforms: Array) -> Array:
    """Return the points at which the cumulated weights pass uniform numbers; never one without weight."""
    cumulated = jnp.cumsum(weights)
    found = jnp.searchsorted(cumulated, uniforms * cumulated[-1], side="right")
    last = weights.shape[0] - 1 - jnp.argmax(weights[::-1] > 0)  # rounding may step over the end
    return jnp.minimum(found, last)


def _without_replacement(key: Key, cost: Cost, g: Array, epsilon: Array) -> Array:
    """Return partners: in random order each source point draws one from its row of the plan among those still free.

    Not one after the other: of a block of points all ask for the best that no earlier one asks for, until none asks for
    another, which is when all have what they would have had in turn. That takes few rounds, since wishes differ where
    the plan gives every partner its mass.
    """
    n = cost.shape[0]
    order_key, draw_key = jax.random.split(key)
    size = max(1, min(n, sizes.here().block // n))
    place = jnp.arange(size)

    def scores(i: Array) -> Array:
        noise = jax.random.gumbel(jax.random.fold_in(draw_key, i), (n,), g.dtype)
        return jnp.maximum((g - cost.row(i)) / epsilon + noise, jnp.finfo(g.dtype).min)  # a forbidden one is free too

    def settle(carry: tuple[Array, Array], rows: Array) -> tuple[tuple[Array, Array], None]:
        free, partner = carry
        worth = jnp.where(free, jax.vmap(scores)(rows), -jnp.inf)

        def ask(known: tuple[Array, Array]) -> tuple[Array, Array]:
            first, _ = known  # place of the first point that has asked for each partner
            wish = jnp.argmax(jnp.where(first >= place[:, None], worth, -jnp.inf), 1)
            asked = first.at[jnp.where(rows < n, wish, n)].min(place, mode="drop")
            return asked, jnp.any(asked != first)

        first, _ = jax.lax.while_loop(lambda known: known[1], ask, (jnp.full(n, size), jnp.array(True)))
        taken = first < size
        winner = jnp.where(taken, rows[jnp.minimum(first, size - 1)], n)
        return (free & ~taken, partner.at[winner].set(jnp.arange(n), mode="drop")), None

    order = jax.random.permutation(order_key, n)
    blocks = jnp.pad(order, (0, -n % size), constant_values=n).reshape(-1, size)  # the last is filled with no points
    return jax.lax.scan(settle, (jnp.ones(n, bool), jnp.zeros(n, jnp.int32)), blocks)[0][1]


def _swap(key: Key, cost: Cost, epsilon: Array, partner: Array, num_sweeps: int) -> Array:
    """Metropolis swaps of the partners of disjoint random pairs, stationary at prod_i P[i, partner(i)].

    A swap that makes fewer pairs forbidden, of infinite cost, is always taken, and one that makes more never.
    """
    half = partner.shape[0] // 2

    def priced(one: tuple[Array, Array], two: tuple[Array, Array]) -> tuple[Array, Array]:
        """Return the finite cost of two lists of pairs, and how many of each two are forbidden."""
        costs = jnp.stack([cost.pairs(*one), cost.pairs(*two)])
        forbidden = costs == jnp.inf
        return jnp.where(forbidden, 0.0, costs).sum(0), forbidden.sum(0)

    def drawn(key: Key) -> tuple[Array, Array]:
        """Return what a sweep is told by chance: an order of the points, and numbers that a swap must exceed."""
        pair_key, accept_key = jax.random.split(key)
        order = jax.random.permutation(pair_key, partner.shape[0])
        return order, jnp.log(jax.random.uniform(accept_key, (half,)))

    def sweep(partner: Array, chance: tuple[Array, Array]) -> tuple[Array, None]:
        order, least = chance
        one, two = order[:half], order[half : 2 * half]
        now, worse = priced((one, partner[one]), (two, partner[two]))
        then, bad = priced((one, partner[two]), (two, partner[one]))
        taken = least < (now - then) / epsilon
        taken = jnp.where(bad == worse, taken, bad < worse)
        left, right = jnp.where(taken, partner[two], partner[one]), jnp.where(taken, partner[one], partner[two])
        return partner.at[one].set(left).at[two].set(right), None

    return jax.lax.scan(sweep, partner, jax.vmap(drawn)(jax.random.split(key, num_sweeps)))[0]
