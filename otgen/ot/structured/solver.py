"""The solver of structured smoothing: its dual, its semi-dual, and their maximisation."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.ot.check import as_array
from otgen.ot.costs import DenseCost
from otgen.ot.dual.ascent import Info, check_loop, climb, iterate, unit_of
from otgen.ot.dual.evaluate import spread
from otgen.ot.dual.smoothing import Smoothing
from otgen.ot.products import product
from otgen.ot.structured.nested import (
    Weights,
    conjugate,
    level_value,
    mean_code,
    mean_latent,
    mean_potential,
    potentials_of,
    prepare,
    respond,
)
from otgen.ot.structured.plans import State, regulariser_of, repaired, split
from otgen.types import Array, Float, averaged, status_of

_SIGMA = 0.01  # the error of a proximal step is at most this share of the change it makes in the code-data marginal


def dual_value(
    cost: ArrayLike,
    f: ArrayLike,
    g: ArrayLike,
    weights: Weights | None = None,
    *,
    epsilon: ArrayLike,
    lam: ArrayLike,
    smoothing: str | Smoothing = "entropic",
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Return the dual value of any potentials, a lower bound of W.

    Entropic: E f + E g - delta E_{c,x}[M^(epsilon/delta) - 1] with M = E_n exp(u / epsilon), u = f + g - C.
    Quadratic: E f + E g - E[u r - epsilon r^2 / 2] - lam E[r_c^2] / 2 with r = max(u + lam r_c, 0) / epsilon.
    The value is differentiable in all arguments; its gradient in the cost is the plan that the potentials stand for.
    delta is kept above sqrt(machine precision) epsilon; for small delta prefer `semidual`, which cannot overflow.

    Args:
      cost: C of every code, noise and datum [K, M, B], or a matrix [K, B] without noise, which counts as M = 1.
      f, g: potentials of latents [K, M] and data [B], in units of the cost.
      weights: laws of codes, noises and data; None for uniform.
      epsilon: strength of the smoothing, in units of the cost; positive, traced.
      lam: reward of the code's information, in [0, epsilon]; traced.
      smoothing: "entropic" or "quadratic". Static.
      axis_name: devices over which the value is averaged; average its gradients as well. Static.

    Returns:
      A scalar in units of the cost.

    Raises:
      ValueError: for other shapes, weights that are no probabilities, non-finite costs, epsilon or lam out of range.

    Example:
      >>> cost = jnp.array([[[0.0, 1.0]], [[1.0, 0.0]]])  # two codes, one noise, two data
      >>> print(og.structured.dual_value(cost, jnp.zeros((2, 1)), jnp.zeros(2), epsilon=0.5, lam=0.2))
      0.1446
      >>> print(og.dual.dual_value(cost[:, 0], jnp.zeros(2), jnp.zeros(2), epsilon=0.3))  # at epsilon - lam
      0.1446

    Reference: after arXiv 1912.02160, derived here.
    """
    cost, weights, smoothing, f, g = prepare(cost, weights, epsilon, lam, smoothing, f, g)
    data = g - conjugate(f[..., None] + g - cost, weights, epsilon, lam, smoothing)
    return averaged(mean_potential(f, weights) + product(weights.data, data), axis_name)


def semidual(
    cost: ArrayLike,
    f: ArrayLike,
    weights: Weights | None = None,
    *,
    epsilon: ArrayLike,
    lam: ArrayLike,
    smoothing: str | Smoothing = "entropic",
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Return the semi-dual value E f + E_x g(x), g the best for f: potentials ascend it, a generator descends it.

    Entropic: g(x) = -delta log E_c exp((epsilon / delta) log E_n exp((f - C) / epsilon)), min over codes for delta = 0.
    Quadratic: g(x) is the level at which E_c r_c = 1, found exactly by sorting, differentiated by the envelope theorem.
    By Danskin's theorem the gradient in the cost is the plan w(c, n | x) of `conditional`, with no derivative of the
    plan itself, so that a generator's gradient is E_w grad C. Only f must not depend on the generator: compute it from
    stop_gradient of the generated points. On a batch the value is unbiased in the data; codes and noises that are
    samples bias it upwards by O(1/M). Arguments, result and errors are as in `dual_value`.

    Example:
      >>> cost = jnp.array([[[0.0, 1.0]], [[1.0, 0.0]]])
      >>> print(og.structured.semidual(cost, jnp.zeros((2, 1)), epsilon=0.5, lam=0.2))
      0.1974
      >>> print(og.dual.semidual(cost[:, 0], jnp.zeros(2), epsilon=0.3))
      0.1974

    Reference: after arXiv 1912.02160, derived here.
    """
    cost, weights, smoothing, f, _ = prepare(cost, weights, epsilon, lam, smoothing, f)
    return averaged(_semidual(cost, f, weights, epsilon, lam, smoothing), axis_name)


@functools.partial(jax.jit, static_argnames="smoothing")
def _semidual(cost, f, weights, epsilon, lam, smoothing) -> Array:
    v = f[..., None] - cost
    return mean_potential(f, weights) + product(weights.data, level_value(v, weights, epsilon, lam, smoothing))


def transform(
    cost: ArrayLike,
    f: ArrayLike,
    weights: Weights | None = None,
    *,
    epsilon: ArrayLike,
    lam: ArrayLike,
    smoothing: str | Smoothing = "entropic",
) -> Float[Array, " B"]:
    """Return the g that maximises the dual for given f, by the formulas in `semidual`.

    Arguments are as in `dual_value`.

    Example:
      >>> cost = jnp.array([[[0.0, 1.0]], [[1.0, 0.0]]])
      >>> print(og.structured.transform(cost, jnp.zeros((2, 1)), epsilon=0.5, lam=0.5))  # the minimum over codes
      [0. 0.]
    """
    cost, weights, smoothing, f, _ = prepare(cost, weights, epsilon, lam, smoothing, f)
    return respond(f[..., None] - cost, weights, epsilon, lam, smoothing).g


def run(
    cost: ArrayLike,
    weights: Weights | None = None,
    *,
    epsilon: ArrayLike,
    lam: ArrayLike,
    smoothing: str | Smoothing = "entropic",
    tol: ArrayLike = 1e-5,
    max_steps: ArrayLike = 20000,
    state: State | None = None,
) -> tuple[State, Info]:
    """Solve the structured problem until the duality gap is below `tol`, for any lam in [0, epsilon].

    The semi-dual is maximised by L-BFGS, some dozens of steps at a time. For lam near epsilon the semi-dual is hardly
    smooth in the code. There the solver adds to the objective (lam - 0.9 epsilon) times the divergence of r_c from the
    r_c of the step before; this is a proximal point method, whose limit is the solution of the problem as given. The
    result has no derivative; that of `value` has, for lam < epsilon.

    Args:
      cost, weights, epsilon, lam, smoothing: as in `dual_value`.
      tol: accepted duality gap, as a share of how much the cost varies between latents and data (`Info.scale`, as in
        `dual.run`); traced. Float32 reaches about 1e-6 of the largest cost. For lam = epsilon, delta is kept above
        sqrt(machine precision) epsilon, which leaves a gap of about K times that.
      max_steps: limit of L-BFGS steps; traced.
      state: where to start, None for zeros.

    Returns:
      State and Info. The plan's density is `density(cost, state, ...)`.

    Raises:
      ValueError: as in `dual_value`, and for a tol that is not positive or a negative max_steps.

    Example:
      >>> cost = jnp.array([[[0.0, 1.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])  # the code tells which datum is near
      >>> state, info = og.structured.run(cost, epsilon=0.5, lam=0.45)
      >>> told = og.structured.information(og.structured.density(cost, state, epsilon=0.5, lam=0.45))
      >>> print(told.code, np.log(2))  # almost all there is to tell
      0.693 0.693
      >>> state, info = og.structured.run(cost, epsilon=0.5, lam=0.0)
      >>> print(og.structured.information(og.structured.density(cost, state, epsilon=0.5, lam=0.0)).code)
      0.3278
    """
    check_loop(tol, max_steps)
    f, g, proximal = (None, None, None) if state is None else potentials_of(state, "f", "g", "proximal")
    cost, weights, smoothing, f, _ = prepare(cost, weights, epsilon, lam, smoothing, f, g)
    (K, M, B), dtype = cost.shape, cost.dtype
    f = jnp.zeros((K, M)) if f is None else f
    proximal = jnp.zeros((K, B)) if proximal is None else as_array("state.proximal", proximal, (K, B), finite=False)
    f, proximal, *numbers = (jnp.asarray(of, dtype) for of in (f, proximal, epsilon, lam))
    return _run(*jax.lax.stop_gradient((cost, f, proximal, weights, *numbers, tol, max_steps)), smoothing=smoothing)


def value(
    cost: ArrayLike,
    weights: Weights | None = None,
    *,
    epsilon: ArrayLike,
    lam: ArrayLike,
    smoothing: str | Smoothing = "entropic",
    tol: ArrayLike = 1e-5,
    max_steps: ArrayLike = 20000,
    state: State | None = None,
    return_info: bool = False,
) -> Float[Array, ""] | tuple[Float[Array, ""], Info]:
    """Solve the structured problem and return its value W, differentiable in the cost, weights, epsilon and lam.

    It is `semidual` at the potentials of `run`, a lower bound of W. The gradient is that of the semi-dual with the
    potentials held fixed, which for lam < epsilon is W's own gradient by Danskin's theorem.

    Args:
      cost, weights, epsilon, lam, smoothing: as in `dual_value`.
      tol, max_steps, state: as in `run`.
      return_info: whether to return Info too: whether the solver converged, and with what gap. Static.

    Returns:
      A scalar in units of the cost. With `return_info` also Info.

    Raises:
      ValueError: as in `run`.

    Example:
      >>> cost = jnp.array([[[0.0, 1.0]], [[1.0, 0.0]]])
      >>> print(og.structured.value(cost, epsilon=0.5, lam=0.2), og.dual.value(cost[:, 0], epsilon=0.3))
      0.1974 0.1974
    """
    options = {"epsilon": epsilon, "lam": lam, "smoothing": smoothing}
    found, info = run(cost, weights, **options, tol=tol, max_steps=max_steps, state=state)
    best = semidual(cost, found.f, weights, **options)
    return (best, info) if return_info else best


@functools.partial(jax.jit, static_argnames="smoothing")
def _run(cost, f, proximal, weights, epsilon, lam, tol, max_steps, smoothing) -> tuple[State, Info]:
    mass = weights.code[:, None] * weights.noise
    scale = spread(DenseCost(cost.reshape(-1, cost.shape[2])), mass.ravel(), weights.data)
    scale = jnp.where(scale > 0, scale, epsilon)
    unit = unit_of(scale)
    cost, f, proximal, epsilon, lam = (of / unit for of in (cost, f, proximal, epsilon, lam))
    part, rest = split(epsilon, lam)

    def advance(carry: tuple, num: Array) -> tuple[tuple, tuple]:
        f, _, proximal = carry
        reduced = cost - proximal[:, None]
        f = climb(lambda f: _semidual(reduced, f, weights, epsilon, part, smoothing), f, mass, num)
        answer = respond(f[..., None] - reduced, weights, epsilon, part, smoothing)
        error = jnp.sum(mass * jnp.abs(product(answer.full, weights.data) - 1))
        before = smoothing.density(proximal / jnp.where(rest > 0, rest, 1))
        moved = product(mean_code(jnp.abs(answer.code - before), weights), weights.data)
        following = jnp.where(error <= _SIGMA * moved, rest * answer.slope, proximal)
        return (f, proximal, following), (*bounds(f, answer.full), error)

    def bounds(f: Array, density: Array) -> tuple[Array, Array]:
        density, v = repaired(density, weights), f[..., None] - cost
        level = level_value(v, weights, epsilon, lam, smoothing)
        # How much worse a density is than the best one for its datum; large potentials cancel before they are summed.
        excess = regulariser_of(density, weights, epsilon, lam, smoothing) - mean_latent(density * v, weights) - level
        return jnp.abs(product(weights.data, excess)), mean_potential(f, weights) + product(weights.data, level)

    (f, proximal, _), (gap, lower, error), step, stalled = iterate(
        advance, (f, proximal, proximal), tol * scale / unit, max_steps
    )
    f = f - mean_potential(f, weights)
    g = respond(f[..., None] - cost, weights, epsilon, lam, smoothing).g
    f, g, proximal, gap, lower = (unit * of for of in (f, g, proximal, gap, lower))
    status = status_of(gap, tol * scale, stalled)
    return State(f, g, proximal), Info(gap, lower, lower + gap, error, step, status, scale)
