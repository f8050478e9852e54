"""The plan of a pair of potentials, a_i b_j exp((f_i + g_j - c_ij) / epsilon): its marginals, products, value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from otgen.ot.check import (
    SAME,
    as_array,
    as_mass,
    is_traced,
    native,
    now,
    poison,
    require_choice,
    require_positive,
    smallest_and_sum,
)
from otgen.ot.costs import Cost, DenseCost, product
from otgen.ot.costs.ground import as_cost
from otgen.ot.costs.potentials import State
from otgen.ot.inert import CAP, carried, gibbs
from otgen.ot.sinkhorn import scaling
from otgen.types import Array, Held

DENSE = 2**25  # up to this many entries the matrix is kept: 128 MiB in float32, and as much for the kernel


def as_masses(
    cost: Cost,
    a: ArrayLike | None,
    b: ArrayLike | None,
    tau_a: ArrayLike,
    tau_b: ArrayLike,
    axis_name: str | None = None,
) -> tuple[Held, Held]:
    """Check the weights of both sides; balanced, they must have one total."""
    spread, uniform = a is None and axis_name is not None, a is None and b is None
    a, b = as_mass("a", a, cost.shape[0], cost.dtype), as_mass("b", b, cost.shape[1], cost.dtype)
    if spread:
        a = a / jax.lax.psum(1, axis_name)  # uniform over the source points of all devices
    # Comparisons of JAX arrays, known or not, would be traced where something is: NumPy's are not.
    tau_a, tau_b = (tau if is_traced(tau) else np.asarray(tau) for tau in (tau_a, tau_b))
    for name, tau in (("tau_a", tau_a), ("tau_b", tau_b)):
        require_positive(name, tau)
        if not is_traced(tau) and tau > 1:
            raise ValueError(
                f"{name} = {tau}: tau = rho / (rho + epsilon) lies in (0, 1], 1 meets the marginal exactly."
            )
    if axis_name is None and not is_traced(a, b, tau_a, tau_b):
        return (a, b) if uniform or tau_a < 1 or tau_b < 1 else (a, _of_one_total(a, b))
    left, right = scaling.total(jnp.asarray(a), axis_name), jnp.sum(b)
    balanced = (tau_a == 1) & (tau_b == 1)
    equal = jnp.abs(left - right) <= _rounding(a, b) * jnp.maximum(left, right)
    legal = (tau_a > 0) & (tau_a <= 1) & (tau_b > 0) & (tau_b <= 1) & jnp.all(a >= 0) & jnp.all(b >= 0)
    b = b * jax.lax.stop_gradient(jnp.where(balanced & equal & (right > 0), left / right, 1.0))
    if axis_name is None:
        legal &= equal | ~balanced
    return poison(a, legal), b


def _rounding(a: Held, b: Held) -> float:
    """How far two totals that are the same may lie apart, relative: what summing in float32 loses."""
    return max(SAME, float(np.finfo(np.float32).eps) * max(a.shape[0], b.shape[0]))


def _of_one_total(a: Held, b: Held) -> Held:
    """Return b with the total of a, which it must have up to rounding: an error below that could not be reached."""
    left, right = smallest_and_sum(a)[1], smallest_and_sum(b)[1]
    if abs(left - right) > _rounding(a, b) * max(left, right):
        raise ValueError(
            f"a sums to {left:.8g} and b to {right:.8g}: balanced transport needs equal totals. Divide each by its "
            "sum, or relax the marginals with tau_a, tau_b < 1."
        )
    return b if left == right else b * np.asarray(left / right, b.dtype)


@jax.jit
def _stranded(values: Array, a: Array, b: Array) -> Array:
    allowed = values < jnp.inf
    rows, columns = jnp.any(allowed & (b > 0), 1), jnp.any(allowed & (a[:, None] > 0), 0)
    return jnp.stack([jnp.sum(~rows & (a > 0)), jnp.sum(~columns & (b > 0))])


def require_partners(cost: Cost, a: Held, b: Held) -> None:
    """Refuse points with mass all of whose pairs are forbidden, outside jit; inside, their potentials are infinite."""
    if not isinstance(cost, DenseCost) or is_traced(cost.values, a, b):
        return
    rows, columns = np.asarray(now(_stranded, cost.values, a, b))
    if rows or columns:
        raise ValueError(
            f"{rows} row(s) and {columns} column(s) with mass have an infinite cost everywhere, so that their mass "
            "cannot go anywhere: allow a pair, or give them weight zero."
        )


def as_state(cost: Cost, state: State) -> State:
    """Return potentials that fit a cost, on a device."""
    try:
        f, g = state
    except (TypeError, ValueError):
        raise ValueError(f"state is a {type(state).__name__}: give State(f, g), as sinkhorn.run returns it.") from None
    f, g = native("state.f", f), native("state.g", g)
    if (f.shape, g.shape) != ((cost.shape[0],), (cost.shape[1],)):
        raise ValueError(f"state has potentials {f.shape} and {g.shape}: a cost {cost.shape} needs one per point.")
    return State(f.astype(cost.dtype), g.astype(cost.dtype))


def as_numbers(cost: Cost, **numbers: ArrayLike) -> tuple[Held, ...]:
    """Check that numbers are positive and give them the type of the cost."""
    for name, number in numbers.items():
        require_positive(name, number)
    return tuple(
        poison(number.astype(cost.dtype), number > 0)
        if isinstance(number, jax.Array)
        else np.asarray(number, cost.dtype)
        for number in numbers.values()
    )


def in_memory(cost: Cost, dense: bool | None) -> Cost:
    """Return the cost as a matrix where that is asked for, or None is and it is small enough."""
    if isinstance(cost, DenseCost):
        return cost
    small = cost.shape[0] * cost.shape[1] <= DENSE
    if small if dense is None else dense:
        made = object.__new__(DenseCost)
        made.values = jax.lax.optimization_barrier(cost.matrix())  # or XLA computes it again for every use
        return made
    return cost


def _log(weights: Held) -> Array:
    positive = weights > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, weights, 1.0)), -jnp.inf)


def soft_rows(cost: Cost, g: Held, b: Held, epsilon: ArrayLike) -> Array:
    """What the target potentials say of the source points, -epsilon log sum_j b_j exp((g_j - c_ij) / epsilon)."""
    return cost.softmin(epsilon, jnp.where(b > 0, g, 0.0), _log(b))


def soft_columns(cost: Cost, f: Held, a: Held, epsilon: ArrayLike, axis_name: str | None) -> Array:
    """What the source potentials of all devices say of the target points."""
    g = cost.softmin(epsilon, jnp.where(a > 0, f, 0.0), _log(a), axis=0)
    if axis_name is None:
        return g
    top = jax.lax.pmin(jax.lax.stop_gradient(g), axis_name)
    return top - epsilon * jnp.log(jax.lax.psum(jnp.exp((top - g) / epsilon), axis_name))


class Read(NamedTuple):
    """What a read-out of the plan needs, checked: potentials are minus infinity at points without mass."""

    cost: Cost
    f: Array
    g: Array
    a: Array
    b: Array
    epsilon: Array

    def rows(self, function: Callable[[Array, Array], Array]) -> Array:
        """Return function(costs, density) of each block of rows of the plan over a b'."""
        whole = lambda block, f: function(block, gibbs(block, f, self.g, self.epsilon, jnp.inf))  # noqa: E731
        return self.cost.map_blocks(whole, self.f)

    def columns(self, function: Callable[[Array, Array], Array]) -> Array:
        """Return function(costs, density) of each block of columns."""
        whole = lambda block, g: function(block, gibbs(block, self.f, g, self.epsilon, jnp.inf))  # noqa: E731
        return self.cost.map_blocks(whole, self.g, axis=0)


def read(
    cost: Cost | ArrayLike,
    state: State,
    a: ArrayLike | None,
    b: ArrayLike | None,
    epsilon: ArrayLike,
    axis_name: str | None = None,
) -> tuple:
    """Check what a read-out was given. Where points carry nothing, what their potentials are does not matter."""
    cost = as_cost(cost)
    a, b = as_masses(cost, a, b, 1.0, 0.5, axis_name)
    (epsilon,) = as_numbers(cost, epsilon=epsilon)
    f, g = as_state(cost, state)
    return cost, f, g, a, b, epsilon


def reading(cost: Cost, f: Array, g: Array, a: Array, b: Array, epsilon: Array) -> Read:
    """Take points without mass out of the plan, inside jit."""
    return Read(cost.weighed(a, b), carried(f, a), carried(g, b), a, b, epsilon)


def marginals(
    cost: Cost | ArrayLike,
    state: State,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike,
    axis_name: str | None = None,
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    """Return the marginals P1 [n] and P'1 [m] of the plan of a state, streamed.

    Args:
      cost: ground cost n x m, or a matrix [n, m].
      state: potentials.
      a: weights of the source points; uniform for None.
      b: weights of the target points; uniform for None.
      epsilon: temperature of the potentials.
      axis_name: of a mapped axis over which the source points are spread. Static.

    Raises:
      ValueError: outside jit, for weights or an epsilon that cannot be.

    Example:
      >>> x, a, b = np.array([[0.0], [1.0]]), np.array([0.3, 0.7]), np.array([0.6, 0.4])
      >>> cost = og.PairwiseCost(x, x)
      >>> state, _ = og.sinkhorn.run(cost, a, b, epsilon=0.5, tol=1e-5)
      >>> rows, columns = og.sinkhorn.marginals(cost, state, a, b, epsilon=0.5)
      >>> print(rows, columns)
      [0.3 0.7] [0.6 0.4]
    """
    return _marginals(*read(cost, state, a, b, epsilon, axis_name), axis_name=axis_name)


def marginals_of(
    cost: Cost, f: Array, g: Array, a: Array, b: Array, epsilon: Array, axis_name: str | None
) -> tuple[Array, Array]:
    """The marginals of a plan, unchecked, inside jit."""
    it = reading(cost, f, g, a, b, epsilon)
    if isinstance(it.cost, DenseCost):
        kernel = jax.lax.optimization_barrier(gibbs(it.cost.values, it.f, it.g, it.epsilon, jnp.inf))
        rows, columns = product(kernel, it.b), product(it.a, kernel)
    else:
        rows = it.rows(lambda _, kernel: product(kernel, it.b))
        columns = it.columns(lambda _, kernel: product(it.a, kernel))
    if axis_name is not None:
        columns = jax.lax.psum(columns, axis_name)
    return it.a * rows, it.b * columns


_marginals = jax.jit(marginals_of, static_argnames="axis_name")


def plan(
    cost: Cost | ArrayLike,
    state: State,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike,
) -> Float[Array, "n m"]:
    """Return the transport plan of a state as a matrix, n x m in memory.

    Args:
      cost: ground cost n x m, or a matrix [n, m].
      state: potentials.
      a: weights of the source points; uniform for None.
      b: weights of the target points; uniform for None.
      epsilon: temperature of the potentials.

    Raises:
      ValueError: outside jit, for weights or an epsilon that cannot be.

    Example:
      >>> x, a, b = np.array([[0.0], [1.0]]), np.array([0.3, 0.7]), np.array([0.6, 0.4])
      >>> cost = og.PairwiseCost(x, x)
      >>> state, _ = og.sinkhorn.run(cost, a, b, epsilon=0.02, tol=1e-5)
      >>> print(og.sinkhorn.plan(cost, state, a, b, epsilon=0.02))  # .3 has to move
      [[0.3 0.]
       [0.3 0.4]]
    """
    return _plan(*read(cost, state, a, b, epsilon))


@jax.jit
def _plan(*given: Any) -> Array:
    cost, f, g, a, b, epsilon = reading(*given)
    # In this order: a b' alone, of constants, would be an n x m constant of the caller's program.
    return (a[:, None] * gibbs(cost.matrix(), f, g, epsilon, jnp.inf)) * b


def apply_plan(
    cost: Cost | ArrayLike,
    state: State,
    vectors: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike,
    axis: int = 1,
) -> Float[Array, "_ ..."]:
    """Return the plan times vectors, without the plan.

    The barycentric map of the source points is `apply_plan(cost, state, y, ...) / P1`, with P1 = `apply_plan` of ones
    or simply a where the marginals are met.

    Args:
      cost: ground cost n x m, or a matrix [n, m].
      state: potentials.
      vectors: [m] or [m, k] for axis 1; [n] or [n, k] for axis 0.
      a: weights of the source points; uniform for None.
      b: weights of the target points; uniform for None.
      epsilon: temperature of the potentials.
      axis: the side that is summed over, 1 for P v and 0 for P' v. Static.

    Returns:
      One row per point of the other side.

    Raises:
      ValueError: for vectors of another length, and as in `plan`.

    Example:
      >>> cost = og.PairwiseCost(jnp.array([[0.0], [1.0]]), jnp.array([[5.0], [7.0]]))
      >>> state, _ = og.sinkhorn.run(cost, epsilon=0.01, tol=1e-5)
      >>> moved = 2 * og.sinkhorn.apply_plan(cost, state, jnp.array([[5.0], [7.0]]), epsilon=0.01)
      >>> print(moved.T.round(2))  # where 0 and 1 go
      [[5. 7.]]
    """
    cost, *_ = given = read(cost, state, a, b, epsilon)
    require_choice("axis", axis, (0, 1))
    vectors = as_array("vectors", vectors, finite=False)
    if vectors.ndim not in (1, 2) or vectors.shape[0] != cost.shape[axis]:
        raise ValueError(
            f"vectors have shape {vectors.shape}: summing over axis {axis} of a cost {cost.shape} needs "
            f"[{cost.shape[axis]}] or [{cost.shape[axis]}, k]."
        )
    return _apply(given, vectors.astype(cost.dtype), axis)


@jax.jit(static_argnums=2)
def _apply(given: tuple, vectors: Array, axis: int) -> Array:
    it = reading(*given)
    ours, theirs = (it.b, it.a) if axis == 1 else (it.a, it.b)
    columns = ours[:, None] * jnp.where(ours[:, None] > 0, vectors.reshape(vectors.shape[0], -1), 0.0)
    if axis == 1:
        out = it.rows(lambda _, kernel: product(kernel, columns))
    else:
        out = it.columns(lambda _, kernel: product(kernel.T, columns))
    return (theirs[:, None] * out).reshape(-1, *vectors.shape[1:])


def primal_cost(
    cost: Cost | ArrayLike,
    state: State,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike,
) -> Float[Array, ""]:
    """Return what the plan of a state costs, <C, P>, without its entropy; streamed.

    Args:
      cost: ground cost n x m, or a matrix [n, m].
      state: potentials.
      a: weights of the source points; uniform for None.
      b: weights of the target points; uniform for None.
      epsilon: temperature of the potentials.

    Raises:
      ValueError: as in `plan`.

    Example:
      >>> cost = og.PairwiseCost(jnp.array([[0.0], [1.0]]), jnp.array([[0.0], [3.0]]))
      >>> state, _ = og.sinkhorn.run(cost, epsilon=0.01, tol=1e-5)
      >>> print(og.sinkhorn.primal_cost(cost, state, epsilon=0.01))  # (0 + 4) / 2
      2.0
    """
    return _primal_cost(*read(cost, state, a, b, epsilon))


@jax.jit
def _primal_cost(*given: Any) -> Array:
    it = reading(*given)
    return it.a @ it.rows(lambda block, kernel: product(jnp.where(kernel > 0, block, 0.0) * kernel, it.b))


def dual_value(state: State, rows: Array, problem: scaling.Problem, epsilon: Held) -> Array:
    """The dual objective, given the row marginal of the plan for its mass; defined for tau = 1 and below."""

    def side(mass: Array, potential: Array, tau: Array, axis_name: str | None) -> Array:
        rho = epsilon * tau / jnp.where(tau < 1, 1 - tau, 1.0)
        relaxed = -rho * jnp.expm1(jnp.minimum(-potential / rho, CAP))  # beyond it are points without mass alone
        return scaling.total(mass * jnp.where(tau < 1, relaxed, potential), axis_name)

    a, b, tau_a, tau_b, axis_name = problem.a, problem.b, problem.tau_a, problem.tau_b, problem.axis_name
    product = scaling.total(a, axis_name) * jnp.sum(b)
    surplus = scaling.total(rows, axis_name) - product
    return side(a, state.f, tau_a, axis_name) + side(b, state.g, tau_b, None) - epsilon * surplus


def solve(
    cost: Cost,
    problem: scaling.Problem,
    state: State,
    *,
    epsilon: Held,
    tol: Held,
    max_steps: Held,
    anneal: bool,
) -> tuple[State, Array, Array]:
    """Return the optimal potentials, centred in the balanced problem, the number of steps, and, relaxed, `change`."""
    f, g, num_steps = scaling.solve(cost, problem, *state, epsilon=epsilon, tol=tol, max_steps=max_steps, anneal=anneal)
    relaxed = (problem.tau_a < 1) | (problem.tau_b < 1)
    state, moved, num_steps = jax.lax.cond(
        relaxed,
        lambda *it: _settle(cost, problem, *it, epsilon, tol, max_steps),
        lambda state, num_steps: (state, jnp.zeros((), state.f.dtype), num_steps),
        State(f, g),
        num_steps,
    )
    return centre(state, problem, epsilon), num_steps, moved


def iteration(cost: Cost, problem: scaling.Problem, g: Held, epsilon: Held) -> State:
    """Sinkhorn's iteration in the log domain."""
    f = problem.tau_a * soft_rows(cost, g, problem.b, epsilon)
    g = problem.tau_b * soft_columns(cost, f, problem.a, epsilon, problem.axis_name)
    return State(scaling.at_rest(f, problem.a), scaling.at_rest(g, problem.b))


def invariant(cost: Cost, problem: scaling.Problem, g: Held, epsilon: Held) -> State:
    """Sinkhorn's iteration with the best shift of f against g in each half, which relaxed marginals determine."""
    a, b, tau_a, tau_b, axis_name = problem.a, problem.b, problem.tau_a, problem.tau_b, problem.axis_name
    rate_a, rate_b = scaling.rate(tau_a), scaling.rate(tau_b)
    f = soft_rows(cost, g, b, epsilon) / epsilon
    both = scaling.balance(a, (1 - tau_a) * f, b, rate_b * g / epsilon, (1 - tau_a) + rate_b, axis_name)
    f = tau_a * (f + both)
    g = soft_columns(cost, epsilon * f, a, epsilon, axis_name) / epsilon
    both = scaling.balance(a, rate_a * f, b, (1 - tau_b) * g, rate_a + (1 - tau_b), axis_name)
    f, g = epsilon * (f + both), epsilon * tau_b * (g - both)
    return State(scaling.at_rest(f, a), scaling.at_rest(g, b))


def change(one: State, two: State, problem: scaling.Problem, epsilon: Held) -> tuple[Array, Array]:
    """The largest `scaling.motion` of a potential at points with mass, and whether all are no more than rounding."""

    def side(mass: Array, before: Array, after: Array, tau: Array) -> tuple[Array, Array]:
        moved = jnp.where(mass > 0, jnp.abs(before - after), 0.0)
        fine = jnp.finfo(moved.dtype).eps * jnp.abs(after)
        return jnp.max(scaling.motion(moved / epsilon, after / epsilon, tau)), jnp.max(moved - 4 * fine)

    left, rough = side(problem.a, one.f, two.f, problem.tau_a)
    right, coarse = side(problem.b, one.g, two.g, problem.tau_b)
    left, rough = (scaling.pmax(it, problem.axis_name) for it in (left, rough))
    return jnp.maximum(left, right), jnp.maximum(rough, coarse) <= 0


def _settle(
    cost: Cost,
    problem: scaling.Problem,
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
    finite = scaling.total((~jnp.isfinite(state.f)).astype(state.f.dtype), problem.axis_name) == 0
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


def centre(state: State, problem: scaling.Problem, epsilon: Held) -> State:
    """Give f the mean zero where a shift between f and g changes nothing, which is the balanced problem.

    Not where a few points are so far that their potentials make up the mean, and all others would lose digits to it
    that matter at this epsilon. A few points whose own potential has no digits of the size of epsilon are rounded down:
    up, the plan would have exp(rounding / epsilon) of their mass.
    """
    axis_name = problem.axis_name
    mass = scaling.total(problem.a, axis_name)
    mean = scaling.total(problem.a * state.f, axis_name) / mass
    alike = scaling.total(jnp.where(jnp.abs(state.f) > jnp.abs(mean) / 64, problem.a, 0.0), axis_name)
    far = (jnp.finfo(mean.dtype).eps * jnp.abs(mean) > 1e-4 * epsilon) & (alike < 0.25 * mass)
    balanced = (problem.tau_a == 1) & (problem.tau_b == 1)
    mean = jnp.where(balanced & ~far, mean, 0.0)

    def down(potential: Array, weights: Held, axis_name: str | None) -> Array:
        fine = jnp.finfo(potential.dtype).eps * jnp.abs(potential)
        coarse = (fine > epsilon) & (weights > 0)
        few = scaling.total(jnp.where(coarse, weights, 0.0), axis_name) < 0.25 * scaling.total(weights, axis_name)
        return potential - jnp.where(balanced & coarse & few, 4 * fine, 0.0)

    return State(down(state.f - mean, problem.a, axis_name), down(state.g + mean, problem.b, None))
