"""Derivatives of the transport value (envelope theorem) and of its potentials (linearised marginal equations).

The first derivative of the value needs the plan alone; the second needs how the potentials move, which solves one
linear system. Nothing is differentiated through the iterations, and nothing stores n x m if the cost is not a matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.ot.costs import Cost, DenseCost
from otgen.ot.costs.potentials import State
from otgen.ot.inert import gibbs
from otgen.ot.products import product
from otgen.ot.sinkhorn import loop, symmetric
from otgen.ot.sinkhorn.inputs import in_memory
from otgen.ot.sinkhorn.potentials import dual_value, solve
from otgen.types import Array, Held


class Inputs(NamedTuple):
    """What the value is a function of."""

    cost: Cost
    a: Held
    b: Held
    epsilon: Held
    tau_a: Held | None
    tau_b: Held | None


class Solver(NamedTuple):
    """How to solve: nothing the value depends on."""

    state: State | None
    tol: Held
    max_steps: Held


class How(NamedTuple):
    """The static side of how to solve."""

    anneal: bool
    dense: bool | None
    symmetric: bool = False  # a cloud to itself, at a cost of negative type: `symmetric.solve`


def _problem(inputs: Inputs) -> loop.Problem:
    return loop.Problem(inputs.a, inputs.b, inputs.tau_a, inputs.tau_b)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def potentials(how: How, inputs: Inputs, solver: Solver) -> tuple[State, Array]:
    """Solve for the optimal potentials, and count steps; differentiable through the linearised marginal equations."""
    cost, problem = in_memory(inputs.cost, how.dense), _problem(inputs)
    options = {"epsilon": inputs.epsilon, "tol": solver.tol, "max_steps": solver.max_steps}
    if how.symmetric:
        state, num_steps = symmetric.solve(cost, problem, solver.state, **options)
    else:
        state, num_steps, _ = solve(cost, problem, solver.state, anneal=how.anneal, **options)
    return state, num_steps.astype(state.f.dtype)  # a float, as only floats have tangents


def _rows(inputs: Inputs, state: State) -> Array:
    """Return what g says of f, tau_a times the softmin over the targets, as a function of the inputs near this state.

    The sum is taken relative to f itself, with the weights outside the exponential: a weight of zero then has the right
    derivatives of every order, which it has not as a logarithm.
    """
    epsilon, f = inputs.epsilon, _undamped(state.f, inputs.tau_a)
    sums = inputs.cost.map_blocks(lambda block, f: product(gibbs(block, f, state.g, epsilon), inputs.b), f)
    return loop.damped(f - epsilon * _log(sums), inputs.tau_a)


def _columns(inputs: Inputs, state: State) -> Array:
    """Return what f says of g, as `_rows`."""
    epsilon, g = inputs.epsilon, _undamped(state.g, inputs.tau_b)
    sums = inputs.cost.map_blocks(lambda block, g: product(inputs.a, gibbs(block, state.f, g, epsilon)), g, axis=0)
    return loop.damped(g - epsilon * _log(sums), inputs.tau_b)


def _undamped(potential: Array, tau: Array | None) -> Array:
    return jax.lax.stop_gradient(potential if tau is None else potential / tau)


def _log(sums: Array) -> Array:
    return jnp.log(_or_one(sums))


def _or_one(sums: Array) -> Array:
    """Return sums of the kernel, one where they vanish: at points without mass all of whose pairs are forbidden."""
    return jnp.where(sums == 0, 1.0, sums)


def _conditionals(inputs: Inputs, state: State) -> tuple[Any, Any, Array]:
    """Return products with the conditional plans P(j | i) and P(i | j), and the row marginal, at given potentials."""
    a, b, epsilon, (f, g) = inputs.a, inputs.b, inputs.epsilon, state

    if isinstance(inputs.cost, DenseCost):
        kernel = jax.lax.optimization_barrier(gibbs(inputs.cost.values, f, g, epsilon))
        times, transposed = lambda v: product(kernel, v), lambda u: product(u, kernel)
    else:
        times = lambda v: inputs.cost.map_blocks(lambda block, f: product(gibbs(block, f, g, epsilon), v), f)  # noqa: E731
        transposed = lambda u: inputs.cost.map_blocks(  # noqa: E731
            lambda block, g: product(u, gibbs(block, f, g, epsilon)), g, axis=0
        )
    rows, columns = times(b), transposed(a)
    return lambda v: times(b * v) / _or_one(rows), lambda u: transposed(a * u) / _or_one(columns), a * rows


@potentials.defjvp
def _potentials_jvp(how: How, primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    # f = T(g), g = S(f) hold for every input, so df = T_inputs - tau_a A dg and dg = S_inputs - tau_b B df with the
    # conditional plans A, B. In units of the square root of the row marginal p, I - tau_a tau_b A B is symmetric and
    # positive semi-definite; balanced, its null space is sqrt(p), the shift of f against g, and is filled up.
    inputs, solver = primals
    state, num_steps = potentials(how, inputs, solver)
    _, rows = jax.jvp(lambda inputs: _rows(inputs, state), (inputs,), (tangents[0],))
    _, columns = jax.jvp(lambda inputs: _columns(inputs, state), (inputs,), (tangents[0],))
    held = inputs._replace(cost=in_memory(inputs.cost, how.dense))
    forward, backward, marginal = _conditionals(*jax.lax.stop_gradient((held, state)))
    tau_a, tau_b = jax.lax.stop_gradient((inputs.tau_a, inputs.tau_b))
    root = jnp.sqrt(jax.lax.stop_gradient(marginal))
    inverse = jnp.where(root > 0, 1 / jnp.where(root > 0, root, 1.0), 0.0)
    null = jnp.where(jnp.logical_not(_problem(inputs).relaxed), root / jnp.linalg.norm(root), 0.0)

    def system(scaled: Array) -> Array:
        image = loop.damped(loop.damped(forward(backward(inverse * scaled)), tau_b), tau_a)
        return scaled - root * image + null * product(null, scaled)

    right = root * (rows - loop.damped(forward(columns), tau_a))
    by_gradients = partial(conjugate_gradients, max_steps=jax.lax.stop_gradient(solver.max_steps))
    df = inverse * jax.lax.custom_linear_solve(system, right, by_gradients, symmetric=True)
    dg = columns - loop.damped(backward(df), tau_b)
    return (state, num_steps), (State(rows - loop.damped(forward(dg), tau_a), dg), jnp.zeros_like(num_steps))


def conjugate_gradients(system: Callable[[Array], Array], right: Array, *, max_steps: ArrayLike) -> Array:
    """Solve a positive definite system; NaN where that failed, as a derivative that is wrong cannot be told from one.

    Steps end when the residual has the norm of rounding, or at the limit. Solved is a system whose residual, computed
    anew, is below the root of the machine's precision, relative to the right side.
    """
    rounding = jnp.finfo(right.dtype).eps
    size = product(right, right)

    def go_on(carry: tuple) -> Array:
        _, _, _, square, steps = carry
        return (square > (10 * rounding) ** 2 * size) & (steps < max_steps)

    def step(carry: tuple) -> tuple:
        x, residual, direction, square, steps = carry
        image = system(direction)
        curvature = product(direction, image)
        length = jnp.where(curvature > 0, square / jnp.where(curvature > 0, curvature, 1.0), 0.0)
        x, residual = x + length * direction, residual - length * image
        new = product(residual, residual)
        steps = jnp.where(curvature > 0, steps + 1, max_steps)
        return x, residual, residual + new / square * direction, new, steps

    start = jnp.zeros_like(right), right, right, size, jnp.zeros((), jnp.int32)
    x = jax.lax.while_loop(go_on, step, start)[0]
    miss = right - system(x)
    return jnp.where(product(miss, miss) <= rounding * size, x, jnp.nan)


def _objective(inputs: Inputs, state: State) -> Array:
    """Return the dual objective at given potentials: its partial derivatives in the inputs are the value's."""
    f, g = state
    rows = inputs.cost.map_blocks(lambda block, f: jnp.sum(inputs.b * gibbs(block, f, g, inputs.epsilon), 1), f)
    return dual_value(state, inputs.a * rows, _problem(inputs), inputs.epsilon)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def value(how: How, inputs: Inputs, solver: Solver) -> tuple[Array, State, Array]:
    """The value of entropic transport, as its dual objective at the optimal potentials; they and the number of steps.

    Only the value is differentiable.
    """
    state, num_steps = potentials(how, inputs, solver)
    return _objective(inputs, state), state, num_steps


@value.defjvp
def _value_jvp(how: How, primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    inputs, solver = primals
    state, num_steps = potentials(how, inputs, solver)
    at, slope = jax.jvp(lambda inputs: _objective(inputs, state), (inputs,), (tangents[0],))
    told = jax.lax.stop_gradient((state, num_steps))
    return (at, *told), (slope, *jax.tree.map(jnp.zeros_like, told))
