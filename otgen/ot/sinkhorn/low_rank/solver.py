"""The solver of low-rank transport: init, step, run, by mirror descent in both factors and the masses of the parts."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.ot.check import as_array, as_count, as_key, require_finite
from otgen.ot.costs import Cost, DenseCost
from otgen.ot.costs.ground import as_cost
from otgen.ot.inert import CAP
from otgen.ot.products import product
from otgen.ot.sinkhorn.inputs import as_masses, as_numbers
from otgen.ot.sinkhorn.low_rank.solution import Solution, State, masses_of
from otgen.ot.sinkhorn.sampling import passed
from otgen.ot.sinkhorn.solver import count
from otgen.types import Array, Held, Key, status_of

STEP = 4.0  # of mirror descent: e-folds that an entry of a factor gains where its cost is one `_spread` below others
_FEW = 64  # points of a side by which costs are measured
SOFT = 4.0  # costs over so many spreads are differences of the shares at the start
SWEEPS = 3  # of a projection onto the constraints, from where that of the last step ended


class Info(NamedTuple):
    """What a reader wants to know of a run.

    Attributes:
      error: marginal error (|P1 - a|_1 + |P'1 - b|_1) / sum a of the plan returned, or the share of the mass that
        changed its part in the last step, of either side, whichever is larger.
      primal_cost: <C, P>, an upper bound of the cost of transport once the marginals are met.
      num_steps: steps of mirror descent.
      status: CONVERGED if and only if error < tol; see `otgen.explain`.

    Example:
      >>> x = jnp.arange(6.0)[:, None]
      >>> _, info = og.low_rank.run(jax.random.key(0), og.PairwiseCost(x, x + 1), rank=2, epsilon=0.1)
      >>> print(bool(info.error < 1e-3), og.Status(int(info.status)).name)
      True CONVERGED
    """

    error: Array
    primal_cost: Array
    num_steps: Array
    status: Array


def init(
    key: Key, cost: Cost | ArrayLike, a: ArrayLike | None = None, b: ArrayLike | None = None, *, rank: int
) -> State:
    """Return shares of every point in the parts, from which a descent may start: equal ones would be a saddle.

    A part gets a random target point. Source points belong to the parts by their costs to these points, softly, and
    target points by their mean costs to the source points of the parts.

    Args:
      key: PRNG key, consumed.
      cost: ground cost n x m, or a matrix [n, m].
      a: weights of the source points [n]; uniform for None.
      b: weights of the target points [m]; uniform for None.
      rank: parts, at least 1 and at most min(n, m). Static.

    Raises:
      ValueError: for another rank, and as `run`.

    Example:
      >>> state = og.low_rank.init(jax.random.key(0), jnp.ones((5, 4)), rank=2)
      >>> print(state.q.shape, state.r.shape, jnp.exp(state.g))
      (5, 2) (4, 2) [0.5 0.5]
    """
    cost = _allowed(as_cost(cost))
    a, b = as_masses(cost, a, b, 1.0, 1.0)
    return _drawn(as_key(key), cost, a, b, _rank(cost, rank))


def _rank(cost: Cost, rank: int) -> int:
    rank = as_count("rank", rank)
    if rank > min(cost.shape):
        raise ValueError(f"rank = {rank}: a cost {cost.shape} has plans of rank {min(cost.shape)} at most.")
    return rank


@jax.jit(static_argnames="rank")
def _drawn(key: Key, cost: Cost, a: Array, b: Array, rank: int) -> State:
    """Give source points to parts by their costs to random target points, and target points to the parts of these."""
    cost = cost.weighed(a, b)
    spread = SOFT * _spread(cost, a, b)
    keys = jax.random.split(key)
    chosen = jax.random.choice(keys[0], cost.shape[1], (rank,), replace=False, p=b / jnp.sum(b))

    def shares(costs: Array, mass: Array) -> Array:
        """Parts whose costs are all larger are no worse: only differences between points count."""
        return jax.nn.log_softmax((product(mass, costs) / jnp.sum(mass) - costs) / spread)

    costs = cost._times(jax.nn.one_hot(chosen, cost.shape[1], dtype=cost.dtype, axis=0), 1)
    q = shares(costs + 0.1 * spread * jax.random.normal(keys[1], costs.shape, costs.dtype), a)  # of equal points too
    source = a[:, None] * jnp.exp(q)
    r = shares(cost._times(source / jnp.sum(source, 0), 0), b)
    return State(q, r, jnp.full(rank, jnp.log(jnp.sum(a) / rank)), jnp.zeros((2, rank), cost.dtype))


def step(
    state: State,
    cost: Cost | ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike,
) -> State:
    """Do one step of mirror descent on the objective of `run`.

    The factors are multiplied by exp(-gamma slope), gamma a few over the spread of the costs, and then projected in
    relative entropy onto Q1 = a, R1 = b, Q'1 = R'1 = g. The projection maximises a dual, in closed form in the rows,
    and in the columns and g together: with column sums p and p' at exact rows, before their own factors, and g' what
    the step made of g, g = (g' p p')^(1/3). Its sweeps start from the potentials that the last step's ended with, so
    that a few are enough: at rest they have nothing left to do. Columns are met exactly, rows as these sweeps leave
    them.

    Args:
      state: of `init`, or of a step before.
      cost: ground cost n x m, or a matrix [n, m].
      a: weights of the source points [n]; uniform for None.
      b: weights of the target points [m]; uniform for None.
      epsilon: temperature, in units of the cost.

    Raises:
      ValueError: outside jit, as in `run`.

    Example:
      >>> x = jnp.arange(6.0)[:, None]
      >>> state = og.low_rank.init(jax.random.key(0), og.PairwiseCost(x, x), rank=2)
      >>> for _ in range(100):
      ...     state = og.low_rank.step(state, og.PairwiseCost(x, x), epsilon=0.1)
      >>> print(jnp.exp(state.q[:, :1] - state.q[:1, :1]).T)  # the part that holds the first point
      [[1. 1. 1. 0. 0. 0.]]
    """
    cost = _allowed(as_cost(cost))
    a, b = as_masses(cost, a, b, 1.0, 1.0)
    (epsilon,) = as_numbers(cost, epsilon=epsilon)
    return _step(cost, _fitting(cost, state), a, b, epsilon)


def run(
    key: Key,
    cost: Cost | ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    rank: int,
    epsilon: ArrayLike,
    tol: ArrayLike = 1e-3,
    max_steps: ArrayLike = 1000,
    state: State | None = None,
) -> tuple[Solution, Info]:
    """Solve transport by plans of low rank, P = Q diag(1/g) R' with Q [n, r], R [m, r] and g [r].

    Minimises <C, P> + epsilon (KL(Q | a g') + KL(R | b g')) over Q, R >= 0 with Q1 = a, R1 = b and Q'1 = R'1 = g: every
    part k has mass g_k and goes from Q's column to R's. Not convex: what is found depends on the start a little. For
    |x - y|^2 no cost is stored and none computed for a pair; for other costs of points a step streams all pairs.

    The temperature blurs what part a point belongs to, where `sinkhorn.run` blurs where it goes: .01 of the mean cost
    (`og.epsilon`) costs little, and smaller ones need more steps. Derivatives of `solution.primal_cost()` in the cost
    are those at fixed factors, which are those of the objective by the envelope theorem.

    Args:
      key: PRNG key, consumed: of the start.
      cost: ground cost n x m, or a matrix [n, m], finite.
      a: weights of the source points [n], zeros allowed; uniform with total 1 for None.
      b: weights of the target points [m]; the same.
      rank: parts r, at least 1 and at most min(n, m). Static.
      epsilon: temperature, in units of the cost. Traced.
      tol: on the error, see `Info`.
      max_steps: limit of steps.
      state: `solution.state` of an earlier run of the same rank to go on from; the key is not used then.

    Returns:
      Solution and Info; NONFINITE where a cost that is no matrix forbids a pair.

    Raises:
      ValueError: outside jit, for a rank that is not between 1 and min(n, m), a matrix with infinite costs, weights
        that are negative or of other totals, an epsilon or tol that is not positive, or a state of another shape.

    Example:
      >>> x = jax.random.normal(jax.random.key(0), (500, 2))
      >>> cost = og.PairwiseCost(x, x + 3)
      >>> solution, info = og.low_rank.run(jax.random.key(1), cost, rank=50, epsilon=0.01)
      >>> print(solution.q.shape, bool(info.primal_cost < 18.3))  # 18 for the translation, which has rank 500
      (500, 50) True

    Reference: Scetbon, Cuturi and Peyre (2021), arXiv 2103.04737, section 3; Bregman (1967) for the projections.
    """
    cost = _allowed(as_cost(cost))
    a, b = as_masses(cost, a, b, 1.0, 1.0)
    epsilon, tol = as_numbers(cost, epsilon=epsilon, tol=tol)
    key, rank = as_key(key), _rank(cost, rank)
    state = init(key, cost, a, b, rank=rank) if state is None else _fitting(cost, state, rank)
    found, info = _run(*jax.lax.stop_gradient((cost, state, a, b, epsilon, tol)), count(max_steps))
    return Solution(found, cost, a, b, epsilon), info


def _allowed(cost: Cost) -> Cost:
    if isinstance(cost, DenseCost):
        require_finite("the cost matrix", cost.values)
    return cost


def _fitting(cost: Cost, state: State, rank: int | None = None) -> State:
    try:
        q, r, g, h = (as_array(f"state.{name}", it) for name, it in zip(State._fields, state, strict=True))
    except TypeError:
        raise ValueError(f"state is a {type(state).__name__}: give what `init` or a run returns.") from None
    (n, m), rank = cost.shape, (g.shape[0] if g.ndim else 0) if rank is None else rank
    wanted = ((n, rank), (m, rank), (rank,), (2, rank))
    if rank < 1 or tuple(it.shape for it in (q, r, g, h)) != wanted:
        raise ValueError(
            f"state has shapes {q.shape}, {r.shape}, {g.shape}, {h.shape}: a cost {cost.shape} needs {wanted}."
        )
    return State(*(it.astype(cost.dtype) for it in (q, r, g, h)))


def _moved(cost: Cost, state: State, a: Array, b: Array, epsilon: Array, rate: Array) -> State:
    q, r, g, h = state
    source, target = a[:, None] * jnp.exp(q - g), b[:, None] * jnp.exp(r - g)  # of a part, each of total one
    slopes = cost._times(target, 1), cost._times(source, 0)
    within = jnp.sum(source * slopes[0], 0)  # mean cost of a part
    slopes = tuple(slope + epsilon * (log - g) for slope, log in zip(slopes, (q, r), strict=True))
    shares = jax.nn.softmax(g)
    slopes = tuple(slope - product(slope, shares)[:, None] for slope in slopes)
    return projected(q - rate * slopes[0], r - rate * slopes[1], g + rate * within, h, a, b)


def _rate(cost: Cost, a: Array, b: Array, epsilon: Array) -> Array:
    """Return how far a step goes: no further than halfway to what the entropy alone would have of the slope."""
    return jnp.minimum(STEP / _spread(cost, a, b), 0.5 / epsilon)


@jax.jit
def _step(cost: Cost, state: State, a: Array, b: Array, epsilon: Array) -> State:
    cost = cost.weighed(a, b)
    return _moved(cost, state, a, b, epsilon, _rate(cost, a, b, epsilon))


def _spread(cost: Cost, a: Array, b: Array) -> Array:
    """Return the root mean square of costs without what rows and columns add to all, among a few pairs."""
    i, j = (passed(mass, (jnp.arange(_FEW) + 0.5) / _FEW) for mass in (a, b))
    costs = cost.pairs(jnp.repeat(i, _FEW), jnp.tile(j, _FEW)).reshape(_FEW, _FEW)
    rest = costs - jnp.mean(costs, 0) - jnp.mean(costs, 1, keepdims=True) + jnp.mean(costs)
    return jnp.maximum(jnp.sqrt(jnp.mean(rest**2)), jnp.finfo(costs.dtype).tiny)


def projected(q: Array, r: Array, g: Array, h: Array, a: Array, b: Array) -> State:
    """Return the nearest factors in relative entropy that meet the constraints, the last ones exactly."""
    logs = q + h[0], r + h[1]
    tops = tuple(jnp.max(log, 1, keepdims=True) for log in logs)
    kernels = tuple(jnp.exp(log - top) for log, top in zip(logs, tops, strict=True))
    total, least = jnp.log(jnp.sum(a)), jnp.finfo(g.dtype).tiny

    def sweep(more: Array) -> tuple[list[Array], Array, Array]:
        rows = [product(kernel, jnp.exp(one)) for kernel, one in zip(kernels, more, strict=True)]
        sums = [product(mass / row, kernel) for kernel, mass, row in zip(kernels, (a, b), rows, strict=True)]
        sums = jnp.log(jnp.maximum(jnp.stack(sums), least))
        made = jax.nn.log_softmax((g + jnp.sum(sums - h, 0)) / 3) + total
        return rows, jnp.minimum(made - sums, CAP), made  # the part of a mass that underflows stays without it

    more = jax.lax.fori_loop(1, SWEEPS, lambda _, more: sweep(more)[1], jnp.zeros_like(h))
    rows, more, g = sweep(more)
    q, r = (log - top - jnp.log(row)[:, None] + one for log, top, row, one in zip(logs, tops, rows, more, strict=True))
    return State(q, r, g, h + more)


@jax.jit
def _run(
    cost: Cost, state: State, a: Array, b: Array, epsilon: Array, tol: Array, max_steps: Held
) -> tuple[State, Info]:
    cost = cost.weighed(a, b)
    total, rate = jnp.sum(a), _rate(cost, a, b, epsilon)

    def off(before: State, state: State) -> Array:
        moves = (
            product(mass, jnp.sum(jnp.abs(jnp.exp(new) - jnp.exp(old)), 1)) / (2 * total)
            for mass, new, old in zip((a, b), state[:2], before[:2], strict=True)
        )
        rows, columns = masses_of(state, a, b)
        missed = (jnp.sum(jnp.abs(rows - a)) + jnp.sum(jnp.abs(columns - b))) / total
        return jnp.maximum(missed, jnp.maximum(*moves))

    def body(carry: tuple) -> tuple:
        num, before, _ = carry
        state = _moved(cost, before, a, b, epsilon, rate)
        return num + 1, state, off(before, state)

    def unfinished(carry: tuple) -> Array:
        num, _, error = carry
        return (num < max_steps) & ~(error < tol) & ~jnp.isnan(error)

    num, state, error = jax.lax.while_loop(unfinished, body, (jnp.int32(0), state, jnp.asarray(jnp.inf, cost.dtype)))
    worth = Solution(state, cost, a, b, epsilon).primal_cost()
    error = jnp.where(num == 0, jnp.asarray(jnp.finfo(cost.dtype).max), error)  # nothing known, and nothing infinite
    return state, Info(error, worth, num, status_of(error, tol))
