"""The solver of entropic transport: init, step, run, value."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen.ot.check import as_count, require_choice, require_whole
from otgen.ot.costs import Cost
from otgen.ot.costs.ground import as_cost
from otgen.ot.costs.potentials import State
from otgen.ot.sinkhorn import implicit, loop
from otgen.ot.sinkhorn.inputs import (
    Potentials,
    as_masses,
    as_numbers,
    as_relaxation,
    as_state,
    in_memory,
    relaxations,
    require_partners,
)
from otgen.ot.sinkhorn.plans import marginals_of
from otgen.ot.sinkhorn.potentials import centre, change, dual_value, invariant, iteration, solve
from otgen.ot.sinkhorn.solution import Solution
from otgen.types import Array, Float, Held, status_of

LARGE = 2**20  # from this many entries the cost matrix is made in a call of its own: one large buffer less at a time


class Info(NamedTuple):
    """What a reader wants to know of a run.

    Attributes:
      error: marginal error (|P1 - a|_1 + |P'1 - b|_1) / sum a, recomputed from the potentials returned; where a
        marginal is relaxed, the largest change of a potential over epsilon in one more iteration, the best shift of f
        against g included; at points that keep none of their mass, relative to the potential.
      dual_value: the dual objective there, a lower bound of `value` and as close to it as the square of the error.
      num_steps: products with the kernel and its transpose, which is what an iteration of Sinkhorn costs.
      status: CONVERGED if and only if error < tol, STALLED if rounding keeps it above; see `otgen.explain`.

    Example:
      >>> _, info = og.sinkhorn.run(og.DenseCost(jnp.array([[0.0, 1.0], [1.0, 0.0]])), epsilon=1.0)
      >>> print(bool(info.error < 1e-3), info.status, info.dual_value)
      True 0 0.38
    """

    error: Array
    dual_value: Array
    num_steps: Array
    status: Array


def init(cost: Cost | ArrayLike) -> State:
    """Return zero potentials for a cost.

    Example:
      >>> print(og.sinkhorn.init(og.DenseCost(jnp.array([[0.0, 1.0, 4.0]]))))
      State(f=array([0.], dtype=float32), g=array([0., 0., 0.], dtype=float32))
    """
    cost = as_cost(cost)
    # NumPy: putting them on a device is for the jitted call that takes them.
    return State(np.zeros(cost.shape[0], cost.dtype), np.zeros(cost.shape[1], cost.dtype))


def step(
    state: Potentials,
    cost: Cost | ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike,
    tau_a: ArrayLike = 1.0,
    tau_b: ArrayLike = 1.0,
    rho_a: ArrayLike | None = None,
    rho_b: ArrayLike | None = None,
    axis_name: str | None = None,
) -> State:
    """Do one iteration of Sinkhorn's in the log domain: f from g, then g from the new f.

    f_i = -tau_a epsilon log sum_j b_j exp((g_j - c_ij) / epsilon), and g likewise: exact maximisation of the dual in
    one potential at a time. Streams, and differentiates as it is written.

    Args:
      state: potentials; only g is read.
      cost: ground cost n x m, or a matrix [n, m].
      a: weights of the source points [n]; uniform for None.
      b: weights of the target points [m]; uniform for None.
      epsilon: temperature, in units of the cost.
      tau_a: rho_a / (rho_a + epsilon), 1 where the marginal is met exactly.
      tau_b: the same for the target side.
      rho_a: price of mass that the source side misses, in units of the cost, instead of tau_a.
      rho_b: the same for the target side.
      axis_name: of a mapped axis over which the source points are spread (a then sums to 1 over all devices). Static.

    Returns:
      The next state, not centred.

    Raises:
      ValueError: outside jit, as in `run`.

    Example:
      >>> cost = og.DenseCost(jnp.array([[0.0, 1.0], [1.0, 0.0]]))
      >>> state = og.sinkhorn.step(og.sinkhorn.init(cost), cost, epsilon=1.0)
      >>> print(state.f, -np.log((1 + np.exp(-1.0)) / 2))  # -log mean_j exp(-c_ij)
      [0.38 0.38] 0.38

    Reference: Cuturi (2013), arXiv 1306.0895; Chizat et al. (2018), arXiv 1607.05816.
    """
    cost = as_cost(cost)
    tau_a, tau_b = relaxations(epsilon, tau_a, tau_b, rho_a, rho_b)
    a, b = as_masses(cost, a, b, tau_a, tau_b, axis_name)
    (epsilon,), (tau_a, tau_b) = as_numbers(cost, epsilon=epsilon), as_relaxation(cost, tau_a, tau_b)
    return _step(cost, loop.Problem(a, b, tau_a, tau_b, axis_name), as_state(cost, state).g, epsilon)


@jax.jit
def _step(cost: Cost, problem: loop.Problem, g: Array, epsilon: Array) -> State:
    return iteration(cost.weighed(problem.a, problem.b), problem, g, epsilon)


def _info(
    cost: Cost,
    state: State,
    problem: loop.Problem,
    epsilon: Array,
    tol: Array,
    num_steps: Array,
    gave_up: Array | bool = False,
    moved: Array | None = None,
) -> Info:
    """Recompute the error of a state from its potentials, or take what is known of it, and the dual value."""
    a, b, axis_name = problem.a, problem.b, problem.axis_name
    rows, columns = marginals_of(cost, *state, a, b, epsilon, axis_name)
    error = loop.summed(jnp.abs(rows - a), jnp.abs(columns - b), axis_name) / loop.total(a, axis_name)
    dual = dual_value(state, rows, problem, epsilon)
    finite = jnp.isfinite(dual)  # no potential is NaN or infinite then, where marginals are met exactly
    if not problem.balanced:
        if moved is None:
            moved = jax.lax.cond(
                problem.relaxed,
                lambda: change(state, invariant(cost, problem, state.g, epsilon), problem, epsilon)[0],
                lambda: jnp.zeros_like(epsilon),
            )
        error = jnp.where(problem.relaxed, moved, error)
        finite = jnp.all(jnp.isfinite(state.f)) & jnp.all(jnp.isfinite(state.g))
    error = jnp.where(finite & (epsilon > 0), error, jnp.nan)
    return Info(error, dual, num_steps, status_of(error, tol, gave_up))


def run(
    cost: Cost | ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike,
    tau_a: ArrayLike = 1.0,
    tau_b: ArrayLike = 1.0,
    rho_a: ArrayLike | None = None,
    rho_b: ArrayLike | None = None,
    tol: ArrayLike = 1e-3,
    max_steps: ArrayLike = 2000,
    state: Potentials | None = None,
    anneal: bool | None = None,
    dense: bool | None = None,
    num_iterations: int | None = None,
    axis_name: str | None = None,
) -> tuple[Solution, Info]:
    """Solve entropic optimal transport between two weighted clouds.

    Minimises <C, P> + epsilon KL(P | a b') + rho_a KL(P1 | a) + rho_b KL(P'1 | b) over plans P >= 0, where KL has its
    mass terms and rho = epsilon tau / (1 - tau); tau = 1 meets a marginal exactly. Sinkhorn's iteration is used while
    it contracts fast and Newton's with conjugate gradients where it does not, on a stabilised kernel, at falling
    temperatures when epsilon is small against the mean cost.

    There is no callback: the loop is one program of the device, which the host does not see before it ends, and a loop
    on the host would be a second solver. What it would be told of is seen in pieces, each going on from the potentials
    before it, with `info.error` after each; a few more steps are taken, as a piece begins anew what speeds up later
    ones, and only the first is annealed:

        state, info = None, None
        while info is None or info.status == og.Status.MAX_STEPS:
            state, info = og.sinkhorn.run(cost, epsilon=epsilon, max_steps=20, state=state)
            print(info.num_steps, info.error)

    Args:
      cost: ground cost n x m: DenseCost, PairwiseCost, or a matrix [n, m].
      a: weights of the source points [n], zeros allowed; uniform with total 1 for None.
      b: weights of the target points [m]; the same.
      epsilon: temperature, in units of the cost. Traced: a sweep does not retrace.
      tau_a: rho_a / (rho_a + epsilon) in (0, 1].
      tau_b: the same for the target side.
      rho_a: price of mass that the source side misses, in units of the cost, instead of tau_a.
      rho_b: the same for the target side.
      tol: on the error, see `Info`.
      max_steps: limit on products with the kernel and its transpose.
      state: potentials to start from, or the Solution of a problem nearby; no annealing then, unless asked for.
      anneal: whether to come from larger temperatures; None where that pays. Static.
      dense: whether to hold the cost matrix and the kernel in memory; None where the device has room, on a CPU up to
        2**25 entries, see `otgen.sizes`. Otherwise everything is streamed, in blocks. Static.
      num_iterations: do just so many of Sinkhorn's iterations instead, in lockstep, at epsilon alone and whatever
        max_steps: what vmap over many small problems and differentiation through the iterations want. Static.
      axis_name: of a mapped axis over which the source points are spread. Static.

    Returns:
      The Solution, potentials (centred, sum_i a_i f_i = 0, if balanced) with their problem, and Info.

    Raises:
      ValueError: outside jit: epsilon, tol or tau out of range or NaN, weights of another shape, negative, or,
        balanced, of different totals.

    Example:
      >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([[0.0], [2.0]])
      >>> solution, info = og.sinkhorn.run(og.PairwiseCost(x, y), epsilon=0.1, tol=1e-4)
      >>> print(solution.plan())  # 0 goes to 0, and 1 to 2
      [[0.5 0.]
       [0. 0.5]]
      >>> print(og.explain(info))
      CONVERGED: converged: the error recomputed at the end is below tol.

    Reference: Cuturi (2013), arXiv 1306.0895; Schmitzer (2019), arXiv 1610.06519 (stabilised kernels, scaling of
    epsilon); Brauer et al. (2017), arXiv 1710.06635 (Newton).
    """
    held = cost = as_cost(cost)
    tau_a, tau_b = relaxations(epsilon, tau_a, tau_b, rho_a, rho_b)
    problem, state, epsilon, tol, anneal = _prepare(cost, a, b, epsilon, tau_a, tau_b, tol, state, anneal, axis_name)
    require_choice("dense", dense, (None, True, False))
    if cost.shape[0] * cost.shape[1] >= LARGE:
        held = _held(cost, problem.a, problem.b, dense)
    if num_iterations is None:
        found, info = _solve(held, problem, state, epsilon, tol, count(max_steps), anneal, dense)
    else:
        num = as_count("num_iterations", num_iterations)
        found, info = _fixed(held, problem, state, epsilon, tol, num, dense)
    return Solution(*found, cost, problem.a, problem.b, epsilon), info


def value(
    cost: Cost | ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike,
    tau_a: ArrayLike = 1.0,
    tau_b: ArrayLike = 1.0,
    rho_a: ArrayLike | None = None,
    rho_b: ArrayLike | None = None,
    tol: ArrayLike = 1e-4,
    max_steps: ArrayLike = 2000,
    state: Potentials | None = None,
    anneal: bool | None = None,
    dense: bool | None = None,
    return_info: bool = False,
) -> Float[Array, ""] | tuple[Float[Array, ""], Info]:
    """Return the value of entropic optimal transport, differentiable in x, y, a, b, epsilon, tau and the cost.

    min_P <C, P> + epsilon KL(P | a b') + rho_a KL(P1 | a) + rho_b KL(P'1 | b), computed as the dual objective at the
    potentials of `run`: a lower bound, off by the square of the error. Gradients are those of the envelope theorem,
    whose own error is that of the plan; Hessian-vector products solve the linearised marginal equations. Both stream.
    The gradient in a is f, defined up to a constant in the balanced problem, where the totals must stay equal.

    Args:
      cost: as in `run`, with all other arguments.
      a: weights of the source points [n].
      b: weights of the target points [m].
      epsilon: temperature, in units of the cost.
      tau_a: rho_a / (rho_a + epsilon).
      tau_b: the same for the target side.
      rho_a: price of mass that the source side misses, in units of the cost, instead of tau_a.
      rho_b: the same for the target side.
      tol: on the error, which is that of gradients too; for values alone 1e-3 is enough.
      max_steps: limit on products with the kernel, and on the conjugate gradients of second derivatives, which are NaN
        where these fail.
      state: potentials to start from.
      anneal: whether to come from larger temperatures. Static.
      dense: whether to hold n x m in memory; None as in `run`. Static.
      return_info: whether to return Info too: whether the solver converged, and with what error. Static.

    Returns:
      The value, in units of the cost; NaN where the inputs were not finite. With `return_info` also Info.

    Raises:
      ValueError: outside jit, as in `run`.

    Example:
      >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([[0.0], [3.0]])
      >>> value = lambda x: og.sinkhorn.value(og.PairwiseCost(x, y), epsilon=0.01, tol=1e-5)
      >>> print(value(x))  # (0 + 4) / 2, and epsilon log 2 for the entropy
      2.007
      >>> print(jax.grad(value)(x))  # 2 (x - T(x)) / 2
      [[0.]
       [-2.]]

    Reference: Peyre and Cuturi (2019), arXiv 1803.00567, section 9.1; Danskin's theorem.
    """
    tau_a, tau_b = relaxations(epsilon, tau_a, tau_b, rho_a, rho_b)
    options = {"epsilon": epsilon, "tau_a": tau_a, "tau_b": tau_b, "tol": tol, "max_steps": max_steps, "state": state}
    found = solved(as_cost(cost), a, b, **options, anneal=anneal, dense=dense, return_info=return_info)
    return found[:2] if return_info else found


def solved(
    cost: Cost,
    a: ArrayLike | None,
    b: ArrayLike | None,
    *,
    epsilon: ArrayLike,
    tau_a: ArrayLike,
    tau_b: ArrayLike,
    tol: ArrayLike,
    max_steps: ArrayLike,
    state: Potentials | None,
    dense: bool | None,
    return_info: bool,
    anneal: bool | None = None,
) -> Float[Array, ""] | tuple[Float[Array, ""], Info, State]:
    """Return `value`, with `return_info` also Info and the potentials; arguments as there."""
    problem, state, epsilon, tol, anneal = _prepare(cost, a, b, epsilon, tau_a, tau_b, tol, state, anneal, None)
    inputs = implicit.Inputs(cost, problem.a, problem.b, epsilon, problem.tau_a, problem.tau_b)
    solver = implicit.Solver(state, tol, count(max_steps))
    require_choice("dense", dense, (None, True, False))
    return _value(implicit.How(bool(anneal), dense), inputs, solver, bool(return_info))


def own_value(
    cost: Cost,
    a: ArrayLike | None = None,
    *,
    epsilon: ArrayLike,
    tol: ArrayLike,
    max_steps: ArrayLike,
    state: Potentials | None,
    dense: bool | None,
    return_info: bool,
) -> Float[Array, ""] | tuple[Float[Array, ""], Info, State]:
    """Return `solved` of a cost of negative type between a cloud and itself, by one potential; arguments as there."""
    problem, state, epsilon, tol, _ = _prepare(cost, a, a, epsilon, 1.0, 1.0, tol, state, False, None)
    inputs = implicit.Inputs(cost, problem.a, problem.b, epsilon, problem.tau_a, problem.tau_b)
    require_choice("dense", dense, (None, True, False))
    how = implicit.How(anneal=False, dense=dense, symmetric=True)
    return _value(how, inputs, implicit.Solver(state, tol, count(max_steps)), bool(return_info))


@jax.jit(static_argnums=(0, 3))
def _value(how: implicit.How, inputs: implicit.Inputs, solver: implicit.Solver, return_info: bool) -> Any:
    inputs = inputs._replace(cost=inputs.cost.weighed(inputs.a, inputs.b))
    value, state, num_steps = implicit.value(how, inputs, solver)
    if not return_info:
        return value
    inputs = jax.lax.stop_gradient(inputs)
    problem = loop.Problem(inputs.a, inputs.b, inputs.tau_a, inputs.tau_b)
    cost, num_steps = in_memory(inputs.cost, how.dense), num_steps.astype(jnp.int32)
    gave_up = num_steps < solver.max_steps
    return value, _info(cost, state, problem, inputs.epsilon, solver.tol, num_steps, gave_up), state


@jax.jit(static_argnames="dense")
def _held(cost: Cost, a: Array, b: Array, dense: bool | None) -> Cost:
    return in_memory(cost.weighed(a, b), dense)


def count(steps: ArrayLike) -> Held:
    """Return a limit on steps as a whole number, traced."""
    require_whole("max_steps", steps)
    return steps.astype(jnp.int32) if isinstance(steps, jax.Array) else np.asarray(steps, np.int32)


def _prepare(
    cost: Cost,
    a: ArrayLike | None,
    b: ArrayLike | None,
    epsilon: ArrayLike,
    tau_a: ArrayLike,
    tau_b: ArrayLike,
    tol: ArrayLike,
    state: Potentials | None,
    anneal: bool | None,
    axis_name: str | None,
) -> tuple[loop.Problem, State | None, Held, Held, bool]:
    """Check and complete what a solver was given."""
    a, b = as_masses(cost, a, b, tau_a, tau_b, axis_name)
    epsilon, tol = as_numbers(cost, epsilon=epsilon, tol=tol)
    tau_a, tau_b = as_relaxation(cost, tau_a, tau_b)
    require_partners(cost, a, b)
    anneal = (state is None) if anneal is None else anneal
    state = None if state is None else as_state(cost, state)
    return loop.Problem(a, b, tau_a, tau_b, axis_name), state, epsilon, tol, anneal


@jax.jit(static_argnames=("anneal", "dense"))
def _solve(
    cost: Cost,
    problem: loop.Problem,
    state: State | None,
    epsilon: Array,
    tol: Array,
    max_steps: Array,
    anneal: bool,
    dense: bool | None,
) -> tuple[State, Info]:
    cost = in_memory(cost.weighed(problem.a, problem.b), dense)
    state, num_steps, moved = solve(cost, problem, state, epsilon=epsilon, tol=tol, max_steps=max_steps, anneal=anneal)
    return state, _info(cost, state, problem, epsilon, tol, num_steps, num_steps < max_steps, moved)


@jax.jit(static_argnames=("num_iterations", "dense"))
def _fixed(
    cost: Cost,
    problem: loop.Problem,
    state: State | None,
    epsilon: Array,
    tol: Array,
    num_iterations: int,
    dense: bool | None,
) -> tuple[State, Info]:
    cost = in_memory(cost.weighed(problem.a, problem.b), dense)
    state = State(*map(jnp.zeros_like, (problem.a, problem.b))) if state is None else state
    f, g = loop.iterate(cost, problem, *state, epsilon=epsilon, num_iterations=num_iterations)
    state = centre(State(f, g), problem, epsilon)
    return state, _info(cost, state, problem, epsilon, tol, jnp.asarray(num_iterations, jnp.int32))
