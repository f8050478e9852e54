"""Entropic optimal transport, balanced and unbalanced: State, Info, init, step, run, and what its plan is good for."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float

from otgen.ot import newton
from otgen.ot.check import as_mass, is_traced, require_positive
from otgen.ot.costs import Cost, DenseCost, along
from otgen.types import Array, Status, status_of

DENSE = 2**25  # up to this many entries `run` keeps the matrix: 128 MiB, and as much for the kernel


class State(NamedTuple):
    """Potentials: the plan is a_i b_j exp((f_i + g_j - c_ij) / epsilon).

    Attributes:
      f: potential of the source points [n], in units of the cost.
      g: potential of the target points [m].
    """

    f: Array
    g: Array


class Info(NamedTuple):
    """What a reader wants to know of a run.

    Attributes:
      error: marginal error |P1 - a|_1 + |P'1 - b|_1, recomputed from the potentials returned; where a marginal is
        relaxed, the largest change of a potential over epsilon in one more iteration.
      dual_value: the dual objective there, a lower bound of `value` and as close to it as the square of the error.
      num_steps: products with the kernel and its transpose, which is what an iteration of Sinkhorn costs.
      status: CONVERGED if and only if error < tol; see `otgen.explain`.
    """

    error: Array
    dual_value: Array
    num_steps: Array
    status: Array


def _masses(
    cost: Cost, a: ArrayLike | None, b: ArrayLike | None, tau_a: ArrayLike, tau_b: ArrayLike
) -> tuple[Array, Array]:
    """Check the weights of both sides; balanced, they must have one total."""
    if not hasattr(cost, "map_blocks"):
        raise ValueError(
            f"cost is a {type(cost).__name__}: give DenseCost(matrix) or PairwiseCost(x, y), or any class with shape "
            "and map_blocks."
        )
    n, m = cost.shape
    dtype = getattr(cost, "dtype", jnp.float32)
    a, b = as_mass("a", a, n, dtype), as_mass("b", b, m, dtype)
    for name, tau in (("tau_a", tau_a), ("tau_b", tau_b)):
        require_positive(name, tau)
        if not is_traced(tau) and tau > 1:
            raise ValueError(f"{name} = {tau}: tau = rho / (rho + epsilon) lies in (0, 1], 1 meets the marginal exactly.")
    if not is_traced(a, b, tau_a, tau_b) and tau_a == 1 and tau_b == 1:
        left, right = float(a.sum()), float(b.sum())
        if abs(left - right) > 1e-4 * max(left, right):
            raise ValueError(
                f"a sums to {left:.6g} and b to {right:.6g}: balanced transport needs equal totals. Divide each by its "
                "sum, or relax the marginals with tau_a, tau_b < 1."
            )
    return a, b


def _numbers(cost: Cost, **numbers: ArrayLike) -> tuple[Array, ...]:
    """Check that numbers are positive and give them the type of the cost."""
    for name, number in numbers.items():
        require_positive(name, number)
    return tuple(jnp.asarray(number, getattr(cost, "dtype", jnp.float32)) for number in numbers.values())


def init(cost: Cost) -> State:
    """Return zero potentials for a cost."""
    dtype = getattr(cost, "dtype", jnp.float32)
    return State(jnp.zeros(cost.shape[0], dtype), jnp.zeros(cost.shape[1], dtype))


def _log(weights: Array) -> Array:
    positive = weights > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, weights, 1.0)), -jnp.inf)


def _soft_columns(cost: Cost, f: Array, log_a: Array, epsilon: Array, axis_name: str | None) -> Array:
    """The softmin over the source points of all devices."""
    g = cost.map_blocks(lambda block: _negative_lse((f[:, None] - block) / epsilon + log_a[:, None], 0), axis=0)
    if axis_name is not None:
        top = jax.lax.pmin(jax.lax.stop_gradient(g), axis_name)
        g = top - jnp.log(jax.lax.psum(jnp.exp(top - g), axis_name))
    return epsilon * g


def _negative_lse(scores: Array, axis: int) -> Array:
    top = jax.lax.stop_gradient(jnp.max(scores, axis))
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    return -(jnp.log(jnp.sum(jnp.exp(scores - along(top, 1 - axis)), axis)) + top)


def step(
    state: State,
    cost: Cost,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike,
    tau_a: ArrayLike = 1.0,
    tau_b: ArrayLike = 1.0,
    axis_name: str | None = None,
) -> State:
    """Do one iteration of Sinkhorn's in the log domain: f from g, then g from the new f.

    f_i = -tau_a epsilon log sum_j b_j exp((g_j - c_ij) / epsilon), and g likewise: exact maximisation of the dual in one
    potential at a time. Streams, and differentiates as it is written.

    Args:
      state: potentials; only g is read.
      cost: ground cost n x m.
      a: weights of the source points [n]; uniform for None.
      b: weights of the target points [m]; uniform for None.
      epsilon: temperature, in units of the cost.
      tau_a: rho_a / (rho_a + epsilon), 1 where the marginal is met exactly.
      tau_b: the same for the target side.
      axis_name: of a mapped axis over which the source points are spread (a then sums to 1 over all devices). Static.

    Returns:
      The next state, not centred.

    Raises:
      ValueError: outside jit, as in `run`.

    Reference: Cuturi (2013), arXiv 1306.0895; Chizat et al. (2018), arXiv 1607.05816.
    """
    a, b = _masses(cost, a, b, tau_a, tau_b)
    (epsilon,) = _numbers(cost, epsilon=epsilon)
    f = tau_a * cost.map_blocks(lambda block: epsilon * _negative_lse((state.g - block) / epsilon + _log(b), 1))
    g = tau_b * _soft_columns(cost, f, _log(a), epsilon, axis_name)
    return State(f, g)


def _plan_block(block: Array, f: Array, g: Array, epsilon: Array) -> Array:
    return jnp.exp((f[:, None] + g - block) / epsilon)


def marginals(
    cost: Cost,
    state: State,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike,
    axis_name: str | None = None,
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    """Return the marginals P1 [n] and P'1 [m] of the plan of a state, streamed."""
    a, b = _masses(cost, a, b, 1.0, 0.5)
    (epsilon,) = _numbers(cost, epsilon=epsilon)
    f, g = state
    rows = cost.map_blocks(lambda block, fi: jnp.sum(b * _plan_block(block, fi, g, epsilon), 1), f)
    columns = cost.map_blocks(lambda block, gj: jnp.sum(a[:, None] * _plan_block(block, f, gj, epsilon), 0), g, axis=0)
    if axis_name is not None:
        columns = jax.lax.psum(columns, axis_name)
    return a * rows, b * columns


def _dual(state: State, rows: Array, problem: newton.Problem, epsilon: Array) -> Array:
    """The dual objective, given the row marginal of the plan for its mass; defined for tau = 1 and below."""

    def side(mass: Array, potential: Array, tau: Array, axis_name: str | None) -> Array:
        rho = epsilon * tau / jnp.where(tau < 1, 1 - tau, 1.0)
        relaxed = -rho * jnp.expm1(-potential / rho)
        return newton.total(mass * jnp.where(tau < 1, relaxed, potential), axis_name)

    a, b, tau_a, tau_b, axis_name = problem.a, problem.b, problem.tau_a, problem.tau_b, problem.axis_name
    product = newton.total(a, axis_name) * jnp.sum(b)
    surplus = newton.total(rows, axis_name) - product
    return side(a, state.f, tau_a, axis_name) + side(b, state.g, tau_b, None) - epsilon * surplus


def _centre(state: State, problem: newton.Problem) -> State:
    """Give f the mean zero where a shift between f and g changes nothing, which is the balanced problem."""
    axis_name = problem.axis_name
    mean = newton.total(problem.a * state.f, axis_name) / newton.total(problem.a, axis_name)
    mean = jnp.where((problem.tau_a == 1) & (problem.tau_b == 1), mean, 0.0)
    return State(state.f - mean, state.g + mean)


def _info(
    cost: Cost, state: State, problem: newton.Problem, epsilon: Array, tol: Array, num_steps: Array
) -> Info:
    """Recompute the error of a state from its potentials, and the dual value with it."""
    a, b, tau_a, tau_b, axis_name = problem.a, problem.b, problem.tau_a, problem.tau_b, problem.axis_name
    rows, columns = marginals(cost, state, a, b, epsilon=epsilon, axis_name=axis_name)
    balanced = newton.total(jnp.abs(rows - a), axis_name) + jnp.sum(jnp.abs(columns - b))

    def change(sums: Array, mass: Array, potential: Array, tau: Array) -> Array:
        # one more iteration gives tau (f - epsilon log(sums / mass)): its distance from f, over epsilon
        ratio = jnp.where(mass > 0, sums, 1.0) / jnp.where(mass > 0, mass, 1.0)
        moved = jnp.where(mass > 0, tau * jnp.log(ratio) + (1 - tau) * potential / epsilon, 0.0)
        return jnp.max(jnp.abs(moved))

    left = change(rows, a, state.f, tau_a)
    if axis_name is not None:
        left = jax.lax.pmax(left, axis_name)
    relaxed = jnp.maximum(left, change(columns, b, state.g, tau_b))
    error = jnp.where((tau_a == 1) & (tau_b == 1), balanced, relaxed)
    finite = jnp.all(jnp.isfinite(state.f)) & jnp.all(jnp.isfinite(state.g)) & (epsilon > 0)
    error = jnp.where(finite, error, jnp.nan)
    return Info(error, _dual(state, rows, problem, epsilon), num_steps, status_of(error, tol))


def in_memory(cost: Cost, dense: bool | None) -> Cost:
    """Return the cost as a matrix where that is asked for, or None is and it is small enough."""
    if isinstance(cost, DenseCost):
        return cost
    small = cost.shape[0] * cost.shape[1] <= DENSE
    if (small if dense is None else dense) and hasattr(cost, "matrix"):
        made = object.__new__(DenseCost)
        made.values = cost.matrix()
        return made
    return cost


def run(
    cost: Cost,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike,
    tau_a: ArrayLike = 1.0,
    tau_b: ArrayLike = 1.0,
    tol: ArrayLike = 1e-3,
    max_steps: ArrayLike = 2000,
    state: State | None = None,
    anneal: bool | None = None,
    dense: bool | None = None,
    num_iterations: int | None = None,
    axis_name: str | None = None,
) -> tuple[State, Info]:
    """Solve entropic optimal transport between two weighted clouds.

    Minimises <C, P> + epsilon KL(P | a b') + rho_a KL(P1 | a) + rho_b KL(P'1 | b) over plans P >= 0, where KL has its mass
    terms and rho = epsilon tau / (1 - tau); tau = 1 meets a marginal exactly. Sinkhorn's iteration is used while it
    contracts fast and Newton's with conjugate gradients where it does not, on a stabilised kernel, at falling
    temperatures when epsilon is small against the mean cost.

    Args:
      cost: ground cost n x m: DenseCost or PairwiseCost.
      a: weights of the source points [n], zeros allowed; uniform with total 1 for None.
      b: weights of the target points [m]; the same.
      epsilon: temperature, in units of the cost. Traced: a sweep does not retrace.
      tau_a: rho_a / (rho_a + epsilon) in (0, 1].
      tau_b: the same for the target side.
      tol: on the error, see `Info`.
      max_steps: limit on products with the kernel and its transpose.
      state: potentials to start from, for a problem nearby; no annealing then, unless asked for.
      anneal: whether to come from larger temperatures; None where that pays. Static.
      dense: whether to hold the cost matrix and the kernel in memory; None up to 2**25 entries. Otherwise everything is
        streamed, in blocks. Static.
      num_iterations: do just so many of Sinkhorn's iterations instead, in lockstep: what vmap over many small
        problems and differentiation through the iterations want. Static.
      axis_name: of a mapped axis over which the source points are spread. Static.

    Returns:
      The state, centred (sum_i a_i f_i = 0) if balanced, and Info.

    Raises:
      ValueError: outside jit: epsilon, tol or tau out of range or NaN, weights of another shape, negative, or, balanced,
        of different totals.

    Reference: Cuturi (2013), arXiv 1306.0895; Schmitzer (2019), arXiv 1610.06519 (stabilised kernels, scaling of
    epsilon); Brauer et al. (2017), arXiv 1710.06635 (Newton).
    """
    a, b = _masses(cost, a, b, tau_a, tau_b)
    epsilon, tol, tau_a, tau_b = _numbers(cost, epsilon=epsilon, tol=tol, tau_a=tau_a, tau_b=tau_b)
    if state is not None and (state.f.shape, state.g.shape) != ((cost.shape[0],), (cost.shape[1],)):
        raise ValueError(
            f"state has potentials {state.f.shape} and {state.g.shape}: a cost {cost.shape} needs one per point."
        )
    if num_iterations is not None and num_iterations < 1:
        raise ValueError(f"num_iterations = {num_iterations}: at least 1 is needed, or None to stop at tol.")
    problem = newton.Problem(a, b, tau_a, tau_b, axis_name)
    anneal = (state is None) if anneal is None else anneal
    state = init(cost) if state is None else State(*state)
    if num_iterations is not None:
        return _fixed(cost, problem, state, epsilon, tol, num_iterations, dense)
    return _solve(cost, problem, state, epsilon, tol, jnp.asarray(max_steps, jnp.int32), anneal, dense)


@jax.jit(static_argnames=("anneal", "dense"))
def _solve(
    cost: Cost,
    problem: newton.Problem,
    state: State,
    epsilon: Array,
    tol: Array,
    max_steps: Array,
    anneal: bool,
    dense: bool | None,
) -> tuple[State, Info]:
    cost = in_memory(cost, dense)
    f, g, num_steps = newton.solve(cost, problem, *state, epsilon=epsilon, tol=tol, max_steps=max_steps, anneal=anneal)
    return _finish(cost, State(f, g), problem, epsilon, tol, num_steps)


@jax.jit(static_argnames=("num_iterations", "dense"))
def _fixed(
    cost: Cost,
    problem: newton.Problem,
    state: State,
    epsilon: Array,
    tol: Array,
    num_iterations: int,
    dense: bool | None,
) -> tuple[State, Info]:
    cost = in_memory(cost, dense)
    f, g = newton.iterate(cost, problem, *state, epsilon=epsilon, num_iterations=num_iterations)
    return _finish(cost, State(f, g), problem, epsilon, tol, jnp.asarray(num_iterations, jnp.int32))


def _finish(
    cost: Cost, state: State, problem: newton.Problem, epsilon: Array, tol: Array, num_steps: Array
) -> tuple[State, Info]:
    state = _centre(state, problem)
    return state, _info(cost, state, problem, epsilon, tol, num_steps)
