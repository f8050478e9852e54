"""Derivatives of the transport value (envelope theorem) and of its potentials (linearised marginal equations).

The first derivative of the value needs the plan alone; the second needs how the potentials move, which solves one
linear system. Nothing is differentiated through the iterations, and nothing stores n x m if the cost is not a matrix.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from otgen.ot import newton
from otgen.ot.costs import Cost, DenseCost, product
from otgen.ot.entropic import State, density, dual_value, in_memory, solve
from otgen.types import Array, Held


class Inputs(NamedTuple):
    """What the value is a function of."""

    cost: Cost
    a: Held
    b: Held
    epsilon: Held
    tau_a: Held
    tau_b: Held


class Solver(NamedTuple):
    """How to solve: nothing the value depends on."""

    state: State
    tol: Held
    max_steps: Held


class How(NamedTuple):
    """The static side of how to solve."""

    anneal: bool
    dense: bool | None


def _problem(inputs: Inputs) -> newton.Problem:
    return newton.Problem(inputs.a, inputs.b, inputs.tau_a, inputs.tau_b)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def potentials(how: How, inputs: Inputs, solver: Solver) -> State:
    """Solve for the optimal potentials; differentiable in the inputs through the linearised marginal equations."""
    cost = in_memory(inputs.cost, how.dense)
    state, _ = solve(
        cost,
        _problem(inputs),
        solver.state,
        epsilon=inputs.epsilon,
        tol=solver.tol,
        max_steps=solver.max_steps,
        anneal=how.anneal,
    )
    return state


def _rows(inputs: Inputs, state: State) -> Array:
    """What g says of f, tau_a times the softmin over the targets, as a function of the inputs near this state.

    The sum is taken relative to f itself, with the weights outside the exponential: a weight of zero then has the right
    derivatives of every order, which it has not as a logarithm.
    """
    epsilon, f = inputs.epsilon, jax.lax.stop_gradient(state.f / inputs.tau_a)
    sums = inputs.cost.map_blocks(lambda block, f: product(_capped(block, f, state.g, epsilon), inputs.b), f)
    return inputs.tau_a * (f - epsilon * jnp.log(sums))


def _columns(inputs: Inputs, state: State) -> Array:
    """What f says of g, as `_rows`."""
    epsilon, g = inputs.epsilon, jax.lax.stop_gradient(state.g / inputs.tau_b)
    sums = inputs.cost.map_blocks(lambda block, g: product(inputs.a, _capped(block, state.f, g, epsilon)), g, axis=0)
    return inputs.tau_b * (g - epsilon * jnp.log(sums))


def _capped(block: Array, f: Array, g: Array, epsilon: Held) -> Array:
    return jnp.exp(jnp.minimum((f[:, None] + g - block) / epsilon, newton.CAP))  # capped at points without mass only


def _conditionals(inputs: Inputs, state: State) -> tuple[Any, Any, Array]:
    """Products with the conditional plans P(j | i) and P(i | j), and the row marginal, at given potentials."""
    a, b, epsilon, (f, g) = inputs.a, inputs.b, inputs.epsilon, state

    if isinstance(inputs.cost, DenseCost):
        kernel = jax.lax.optimization_barrier(density(inputs.cost.values, f, g, epsilon))
        times, transposed = lambda v: product(kernel, v), lambda u: product(u, kernel)
    else:
        times = lambda v: inputs.cost.map_blocks(lambda block, f: product(density(block, f, g, epsilon), v), f)  # noqa: E731
        transposed = lambda u: inputs.cost.map_blocks(  # noqa: E731
            lambda block, g: product(u, density(block, f, g, epsilon)), g, axis=0
        )
    rows, columns = times(b), transposed(a)
    return lambda v: times(b * v) / rows, lambda u: transposed(a * u) / columns, a * rows


@potentials.defjvp
def _potentials_jvp(how: How, primals: tuple, tangents: tuple) -> tuple[State, State]:
    # f = T(g), g = S(f) hold for every input, so df = T_inputs - tau_a A dg and dg = S_inputs - tau_b B df with the
    # conditional plans A, B. In units of the square root of the row marginal p, I - tau_a tau_b A B is symmetric and
    # positive semi-definite; balanced, its null space is sqrt(p), the shift of f against g, and is filled up.
    inputs, solver = primals
    state = potentials(how, inputs, solver)
    _, rows = jax.jvp(lambda inputs: _rows(inputs, state), (inputs,), (tangents[0],))
    _, columns = jax.jvp(lambda inputs: _columns(inputs, state), (inputs,), (tangents[0],))
    held = inputs._replace(cost=in_memory(inputs.cost, how.dense))
    forward, backward, marginal = _conditionals(*jax.lax.stop_gradient((held, state)))
    tau_a, tau_b = jax.lax.stop_gradient((inputs.tau_a, inputs.tau_b))
    root = jnp.sqrt(jax.lax.stop_gradient(marginal))
    inverse = jnp.where(root > 0, 1 / jnp.where(root > 0, root, 1.0), 0.0)
    null = jnp.where((tau_a == 1) & (tau_b == 1), root / jnp.linalg.norm(root), 0.0)

    def system(scaled: Array) -> Array:
        image = tau_a * tau_b * forward(backward(inverse * scaled))
        return scaled - root * image + null * (null @ scaled)

    def conjugate_gradients(system: Any, right: Array) -> Array:
        tol = 10 * jnp.finfo(right.dtype).eps
        return jax.scipy.sparse.linalg.cg(system, right, tol=tol, maxiter=500)[0]

    right = root * (rows - tau_a * forward(columns))
    df = inverse * jax.lax.custom_linear_solve(system, right, conjugate_gradients, symmetric=True)
    dg = columns - tau_b * backward(df)
    return state, State(rows - tau_a * forward(dg), dg)


def _objective(inputs: Inputs, state: State) -> Array:
    """The dual objective at given potentials: its partial derivatives in the inputs are the value's."""
    f, g = state
    rows = inputs.cost.map_blocks(
        lambda block, f: jnp.sum(inputs.b * jnp.exp((f[:, None] + g - block) / inputs.epsilon), 1), f
    )
    return dual_value(state, inputs.a * rows, _problem(inputs), inputs.epsilon)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def value(how: How, inputs: Inputs, solver: Solver) -> Array:
    """The value of entropic transport, as its dual objective at the optimal potentials."""
    return _objective(inputs, potentials(how, inputs, solver))


@value.defjvp
def _value_jvp(how: How, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    inputs, solver = primals
    state = potentials(how, inputs, solver)
    return jax.jvp(lambda inputs: _objective(inputs, state), (inputs,), (tangents[0],))
