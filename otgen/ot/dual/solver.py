"""The solver of the smoothed dual: L-BFGS on the semi-dual, until the duality gap is small."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.ot.check import is_traced
from otgen.ot.costs import Cost, DenseCost
from otgen.ot.costs.potentials import State
from otgen.ot.dual.ascent import Info, check_loop, climb, iterate, unit_of
from otgen.ot.dual.evaluate import dual_value_of, gap_of, prepare, semidual, semidual_of, spread, sums_of, transform_of
from otgen.ot.dual.smoothing import Smoothing, by_name
from otgen.ot.products import product
from otgen.types import ADVICE, Array, Float, Status, status_of


def run(
    cost: Cost | ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike,
    smoothing: str | Smoothing = "entropic",
    tol: ArrayLike = 1e-5,
    max_steps: ArrayLike = 5000,
    state: State | None = None,
) -> tuple[State, Info]:
    """Solve smoothed transport: maximise the semi-dual by L-BFGS until the duality gap is below `tol`.

    The result has no derivative; that of `value` has. Cost and epsilon in other units give the same result in those
    units.

    Args:
      cost, a, b, epsilon, smoothing: as in `dual_value`. A pair of cost +inf is forbidden.
      tol: accepted duality gap, as a share of how much the cost varies (`Info.scale`). That scale is four times the
        median absolute deviation of the costs from the medians of their rows and columns; neither a constant added to
        the cost nor a few outliers change it, and epsilon takes its place where it is zero. Traced. Float32 reaches
        about 1e-6 of the largest cost.
      max_steps: limit of L-BFGS steps; traced. The gap is looked at every 20 steps, later every 100.
      state: potentials to start from, None for f = 0.

    Returns:
      State and Info.

    Raises:
      ValueError: as in `dual_value`, for a tol that is not positive or a negative max_steps, and (outside jit, for a
        cost given as a matrix) if every plan would have mass on forbidden pairs.

    Example:
      >>> cost = jnp.array([[0.0, 2.0], [2.0, 0.0]])
      >>> state, info = og.dual.run(cost, epsilon=0.5, smoothing="quadratic")
      >>> print(og.dual.density(cost, *state, epsilon=0.5, smoothing="quadratic"))  # exactly zero off the diagonal
      [[2. 0.]
       [0. 2.]]
      >>> print(info.primal_value)  # <C, P> = 0, and epsilon E r^2 / 2
      0.5

    Reference: Blondel et al. (2018), arXiv 1710.06276, who maximise the same function by L-BFGS.
    """
    check_loop(tol, max_steps)
    if not (state is None or hasattr(state, "f")):
        raise ValueError(f"state is a {type(state).__name__}: give the State of an earlier run, or None.")
    cost, f, _, a, b = prepare(cost, a, b, epsilon, None if state is None else state.f)
    f = jnp.zeros_like(a) if f is None else f.astype(a.dtype)
    found = _run(*jax.lax.stop_gradient((cost, f, a, b, epsilon, tol, max_steps)), smoothing=by_name(smoothing))
    status = found[1].status
    if isinstance(cost, DenseCost) and not is_traced(status) and int(status) == Status.INFEASIBLE:
        raise ValueError(ADVICE[Status.INFEASIBLE])
    return found


def value(
    cost: Cost | ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike,
    smoothing: str | Smoothing = "entropic",
    tol: ArrayLike = 1e-5,
    max_steps: ArrayLike = 5000,
    state: State | None = None,
    return_info: bool = False,
) -> Float[Array, ""] | tuple[Float[Array, ""], Info]:
    """Solve smoothed transport and return its value W, differentiable in the cost, the weights and epsilon.

    It is the semi-dual at the potentials of `run`: a lower bound of W, off by the duality gap at most. The gradient is
    that of the semi-dual with the potentials held fixed, which is W's own gradient by Danskin's theorem; in the cost it
    is the plan.

    Args:
      cost, a, b, epsilon, smoothing: as in `dual_value`. A pair of cost +inf is forbidden.
      tol, max_steps, state: as in `run`.
      return_info: whether to return Info too: whether the solver converged, and with what gap. Static.

    Returns:
      A scalar in units of the cost. With `return_info` also Info.

    Raises:
      ValueError: as in `run`.

    Example:
      >>> cost = jnp.array([[0.0, 1.0], [1.0, 0.0]])
      >>> print(og.dual.value(cost, epsilon=0.1), 0.1 * np.log(2))  # <C, P> = 0, and the entropy
      0.0693 0.0693
      >>> print(jax.grad(lambda cost: og.dual.value(cost, epsilon=0.1))(cost))  # the plan
      [[0.5 0.]
       [0. 0.5]]

    Reference: Blondel et al. (2018), arXiv 1710.06276; Danskin's theorem.
    """
    options = {"epsilon": epsilon, "smoothing": smoothing}
    found, info = run(cost, a, b, **options, tol=tol, max_steps=max_steps, state=state)
    best = semidual(cost, found.f, a, b, **options)
    return (best, info) if return_info else best


@functools.partial(jax.jit, static_argnames="smoothing")
def _run(cost, f, a, b, epsilon, tol, max_steps, smoothing) -> tuple[State, Info]:
    epsilon = jnp.asarray(epsilon, f.dtype)
    scale = spread(cost, a, b)
    scale = jnp.where(scale > 0, scale, epsilon)
    options = {"epsilon": epsilon, "smoothing": smoothing}

    def advance(f: Array, num: Array) -> tuple[Array, tuple]:
        f = climb(lambda f: semidual_of(cost, f, a, b, **options), f, a, num, unit_of(scale))
        g = transform_of(cost, f, a, **options)
        # g does not depend on points of weight zero; their own potential is the best for this g.
        best = cost.map_blocks(lambda block: smoothing.level(jnp.where(b > 0, g, 0.0) - block, b, epsilon))
        f, g = _carried(f, a, best), _carried(g, b, g)
        return f, (gap_of(cost, f, g, a, b, scale=scale, **options), dual_value_of(cost, f, g, a, b, **options), g)

    f, (gap, lower, g), step, stalled = iterate(advance, f, tol * scale, max_steps)
    rows, columns = sums_of(cost, f, g, a, b, **options)
    error = product(a, jnp.abs(rows - 1)) + product(b, jnp.abs(columns - 1))
    none = _stranded(cost, a, b) | (lower > _most(cost, a, b, **options))
    status = jnp.where(none, Status.INFEASIBLE, status_of(gap, tol * scale, stalled)).astype(jnp.int32)
    f, g = f - product(a, f), g + product(a, f)
    return State(f, g), Info(gap, lower, jnp.where(none, jnp.inf, lower + gap), error, step, status, scale)


def _carried(potential: Array, weights: Array, best: Array) -> Array:
    """Return the potential where there is mass; elsewhere the best one, or zero where the best one is not finite."""
    return jnp.where(weights > 0, potential, jnp.where(jnp.isfinite(best), best, 0.0))


def _stranded(cost: Cost, a: Array, b: Array) -> Array:
    """Return whether some point has more mass than the points to which its cost is finite can take."""

    def rows(block: Array, a: Array) -> Array:
        return a > (1 + 1e-4) * product(block < jnp.inf, b)

    def columns(block: Array, b: Array) -> Array:
        return b > (1 + 1e-4) * product(a, block < jnp.inf)

    return jnp.any(cost.map_blocks(rows, a)) | jnp.any(cost.map_blocks(columns, b, axis=0))


def _most(cost: Cost, a: Array, b: Array, epsilon: Array, smoothing: Smoothing) -> Array:
    """Return a bound on the objective of every feasible plan: a dual value above it proves that there is no such plan.

    The bound is the largest finite cost, plus epsilon E f(r) for the largest densities that weights allow, r <= 1 /
    a_i.
    """

    def largest(block: Array, a: Array) -> Array:
        return jnp.max(jnp.where((a > 0)[:, None] & (b > 0) & (block < jnp.inf), block, -jnp.inf), 1)

    densest = 1 / jnp.maximum(_least(a), _least(b))
    flat = smoothing.value(jnp.zeros_like(densest))  # f is convex and E r = 1, so that E f(r) is at most the chord at 1
    most = flat + (smoothing.value(densest) - flat) / densest
    top = jnp.max(cost.map_blocks(largest, a))
    return top + epsilon * most + 1e-4 * (jnp.abs(top) + epsilon * most)


def _least(weights: Array) -> Array:
    return jnp.min(jnp.where(weights > 0, weights, jnp.inf))
