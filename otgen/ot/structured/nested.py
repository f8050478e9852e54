"""One smoothing inside another: the best density of a datum for given potentials of the latents.

`solver`, `plans` and `perturbed` are made of these functions. The regulariser of one datum's density r [K, M] is
epsilon E f(r) - lam E f(r_c), with r_c = E_n r and delta = epsilon - lam. The level g at which the best density for
the scores v + g has mass one is

  entropic: minus a log-mean-exp over noises at temperature epsilon inside one over codes at temperature delta;
  quadratic: the threshold of a sparsemax over noises inside one over codes, found by sorting.

The idea is that of paper A (arXiv 1912.02160); the formulas are derived here by convex duality.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.ot.check import as_array, is_traced, native, poison, probability, require_positive
from otgen.ot.dual.smoothing import ENTROPIC, QUADRATIC, by_name, hinge_level, log_mean_exp
from otgen.types import Array

_BEYOND = 1e4  # times epsilon: larger costs at points of weight zero are cut to this: infinity times zero is NaN
_FAR = 60.0  # the log density of points of weight zero is cut off here, far above that of points that carry mass


class Weights(NamedTuple):
    """The laws of codes, noises and data. Each sums to 1, zeros are allowed, and None stands for the uniform law.

    Attributes:
      code: [K].
      noise: [M], or [K, M] for noises whose weights depend on the code (each row sums to 1).
      data: [B].

    Example:
      >>> weights = og.structured.Weights(code=jnp.array([0.25, 0.75]))
      >>> density = jnp.array([4.0, 0.0])[:, None, None]  # all mass on the first code: legal for one datum only
      >>> print(og.structured.information(density, weights).code, np.log(4))
      1.3863 1.3863
    """

    code: ArrayLike | None = None
    noise: ArrayLike | None = None
    data: ArrayLike | None = None


class Answer(NamedTuple):
    """The best answer to potentials f: level g [B], slope f'(r_c) [K, B], densities r_c [K, B] and r [K, M, B]."""

    g: Array
    slope: Array
    code: Array
    full: Array


def prepare(cost: Any, weights: Weights | None, epsilon: Any, lam: Any, smoothing: Any, f: Any = None, g: Any = None):
    """Check what every function here takes, and return it as arrays: cost, weights, smoothing, f, g."""
    require_positive("epsilon", epsilon)
    if jnp.ndim(native("lam", lam) if not is_traced(lam) else lam):
        raise ValueError(f"lam has shape {jnp.shape(lam)}: give one number, and vmap over several.")
    if not is_traced(epsilon, lam) and not 0 <= lam <= epsilon:
        raise ValueError(
            f"lam = {lam} with epsilon = {epsilon}: give 0 <= lam <= epsilon, beyond which the problem is not convex. "
            "`alternate` takes larger lam and finds a local optimum."
        )
    cost, weights = as_arrays("cost", cost, weights)
    cost = _limited(cost, weights, epsilon)
    legal = (epsilon > 0) & (lam >= 0) & (lam <= epsilon)
    weights = weights._replace(data=poison(weights.data, legal))
    f = None if f is None else as_array("f", f, cost.shape[:2], finite=False)
    g = None if g is None else as_array("g", g, cost.shape[2:], finite=False)
    smoothing = by_name(smoothing)
    if smoothing not in (ENTROPIC, QUADRATIC):
        raise ValueError(f"smoothing = {smoothing.name!r} has no structured dual here: choose entropic or quadratic.")
    return cost, weights, smoothing, f, g


@jax.jit
def _limited(cost: Array, weights: Weights, epsilon: Array) -> Array:
    """Return the cost, bounded at points of weight zero."""
    mass = (weights.code[:, None] * weights.noise)[..., None] * weights.data
    limit = jax.lax.stop_gradient(_BEYOND * jnp.asarray(epsilon, cost.dtype))
    return jnp.where((mass > 0) | (jnp.abs(cost) < limit), cost, limit)


def potentials_of(state: Any, *names: str) -> tuple[Any, ...]:
    """Return fields of a State by name.

    Raises:
      ValueError: for what has no such fields, such as a tuple or the State of another module.
    """
    if not all(hasattr(state, name) for name in names):
        raise ValueError(f"state is a {type(state).__name__} without {', '.join(names)}: give the State of `run`.")
    return tuple(getattr(state, name) for name in names)


def as_arrays(name: str, cost: Any, weights: Weights | None) -> tuple[Array, Weights]:
    """Check a cost or density [K, M, B] and its weights, and return them as arrays, weights of noises [K, M].

    A matrix [K, B] stands for one noise.
    """
    cost = native(name, cost)
    if cost.ndim not in (2, 3) or 0 in cost.shape:
        raise ValueError(
            f"{name} has shape {cost.shape}: give [codes, noises, data], at least one of each, or without noises a "
            "matrix [codes, data]."
        )
    cost = as_array(name, cost)
    cost = cost[:, None] if cost.ndim == 2 else cost
    (K, M, B), dtype = cost.shape, cost.dtype
    if weights is None:
        weights = Weights()
    if not (isinstance(weights, tuple) and len(weights) == 3):
        raise ValueError(f"weights is a {type(weights).__name__}: give structured.Weights(code, noise, data).")
    code, noise, data = weights
    if noise is not None and (noise := native("weights.noise", noise)).ndim == 2:
        if noise.shape != (K, M):
            raise ValueError(f"weights.noise has shape {noise.shape}: give ({M},), or ({K}, {M}) for each code.")
        rows = [probability(f"weights.noise[{k}]", noise[k], M, dtype) for k in range(K)]
        noise = jnp.stack(rows)
    else:
        noise = jnp.broadcast_to(probability("weights.noise", noise, M, dtype), (K, M))
    code, data = probability("weights.code", code, K, dtype), probability("weights.data", data, B, dtype)
    return cost, Weights(code, noise, data)


def delta_of(epsilon: ArrayLike, lam: ArrayLike, dtype: Any, power: float = 0.5) -> Array:
    """Return epsilon - lam, kept above machine precision (to a power) times epsilon. Its gradient is not cut."""
    delta, least = jnp.asarray(epsilon, dtype) - lam, epsilon * jnp.finfo(dtype).eps ** power
    return delta + jax.lax.stop_gradient(jnp.maximum(delta, least) - delta)


def mean_noise(values: Array, weights: Weights) -> Array:
    """Return E_n of values [K, M, B], as [K, B]."""
    return jnp.sum(weights.noise[..., None] * values, 1)


def mean_code(values: Array, weights: Weights) -> Array:
    """Return E_c of values [K, B], as [B]."""
    return jnp.sum(weights.code[:, None] * values, 0)


def mean_latent(values: Array, weights: Weights) -> Array:
    """Return E_z of values [K, M, B], as [B]."""
    return mean_code(mean_noise(values, weights), weights)


def mean_potential(f: Array, weights: Weights) -> Array:
    """Return E_z of a potential [K, M]."""
    return jnp.sum(weights.code[:, None] * weights.noise * f)


def _quadratic_taken(u: Array, weights: Weights, epsilon: ArrayLike, lam: ArrayLike) -> tuple[Array, Array, Array]:
    """Solve epsilon r_c = E_n max(u + lam r_c, 0) for r_c [K, B] by sorting the scores u [K, M, B] over noises.

    The k largest scores take part as long as epsilon u_k + lam sum_{i <= k} w_i (u_i - u_k) > 0. With sums over those,
    r_c = S / (epsilon - lam sum w), where S = sum w u. The set of scores that take part is locally constant.

    Returns:
      Weights of those that take part [K, M, B], S [K, B], and epsilon - lam sum w [K, B].
    """
    w, lam = jnp.broadcast_to(weights.noise[..., None], u.shape), epsilon - delta_of(epsilon, lam, u.dtype)
    order = jnp.argsort(-u, axis=1)
    top, mass = (jax.lax.stop_gradient(jnp.take_along_axis(of, order, 1)) for of in (u, w))
    inside = epsilon * top + lam * (jnp.cumsum(mass * top, 1) - top * jnp.cumsum(mass, 1)) > 0
    count = jnp.sum(inside, 1, keepdims=True)
    last = jnp.take_along_axis(top, jnp.maximum(count, 1) - 1, 1)
    tie = 16 * jnp.finfo(u.dtype).eps * jnp.abs(last)  # a compiler may compute u twice and round it differently
    taken = jnp.where((jax.lax.stop_gradient(u) >= last - tie) & (count > 0), w, 0.0)
    return taken, jnp.sum(taken * u, 1), epsilon - lam * jnp.sum(taken, 1)


def quadratic_density(u: Array, weights: Weights, epsilon: ArrayLike, lam: ArrayLike) -> tuple[Array, Array]:
    """Return the densities r_c [K, B] and r = max(u + lam r_c, 0) / epsilon [K, M, B]."""
    _, total, rest = _quadratic_taken(u, weights, epsilon, lam)
    code = total / rest
    return code, jnp.maximum(u + lam * code[:, None], 0) / epsilon


def _quadratic_level(v: Array, weights: Weights, epsilon: ArrayLike, lam: ArrayLike) -> Array:
    """Return the g [B] at which E_c r_c = 1 for the scores v + g.

    r_c is convex and piecewise linear in g. Sort v over noises, and let W_k be the weight of the k largest: the slope
    of r_c becomes W_k / (epsilon - lam W_k) at g_k = -v_k - (lam / epsilon) sum_{i <= k} w_i (v_i - v_k). So E_c r_c is
    a sum of hinges, whose level `hinge_level` finds.
    """
    w, lam = jnp.broadcast_to(weights.noise[..., None], v.shape), epsilon - delta_of(epsilon, lam, v.dtype)
    order = jnp.argsort(-v, axis=1)
    v, w = jnp.take_along_axis(v, order, 1), jnp.take_along_axis(w, order, 1)
    total = jnp.cumsum(w, 1)
    start = -v - lam / epsilon * (jnp.cumsum(w * v, 1) - v * total)
    slope = total / (epsilon - lam * total)
    steps = weights.code[:, None, None] * jnp.diff(slope, axis=1, prepend=jnp.zeros_like(slope[:, :1]))
    flat = (-1, v.shape[2])
    return hinge_level(-start.reshape(flat).T, steps.reshape(flat).T, 1.0)


@functools.partial(jax.jit, static_argnames="smoothing")
def respond(v, weights, epsilon, lam, smoothing) -> Answer:
    """Return the best answer to the scores v = f - C [K, M, B], among densities with mass one at every datum."""
    if smoothing == QUADRATIC:
        g = jax.lax.stop_gradient(_quadratic_level(v, weights, epsilon, lam))
        code, full = quadratic_density(v + g, weights, epsilon, lam)
        return Answer(g, code, code, full)
    inner = log_mean_exp(v / epsilon, weights.noise[..., None], axis=1)
    delta = delta_of(epsilon, lam, v.dtype, power=1.0)
    top = jnp.max(jnp.where(weights.code[:, None] > 0, inner, -jnp.inf), 0)
    top = jax.lax.stop_gradient(top)  # subtracted before the product with epsilon / delta, which may be huge
    outer = epsilon / delta * (inner - top)
    level = log_mean_exp(outer, weights.code[:, None], axis=0)
    log_code = outer - level
    log_full = log_code[:, None] + v / epsilon - inner[:, None]
    return Answer(
        -epsilon * top - delta * level, log_code, *(jnp.exp(jnp.minimum(of, _FAR)) for of in (log_code, log_full))
    )


@functools.partial(jax.jit, static_argnames="smoothing")
def conjugate(u, weights, epsilon, lam, smoothing) -> Array:
    """Return the conjugate of the regulariser at u = f + g - C, for every datum [B]."""
    if smoothing == QUADRATIC:
        # E u r - epsilon E r^2 / 2 + lam E r_c^2 / 2 = E u r / 2; the right side has no difference of large numbers.
        taken, total, rest = _quadratic_taken(u, weights, epsilon, lam)
        return mean_code(jnp.sum(taken * u**2, 1) + lam * total**2 / rest, weights) / (2 * epsilon)
    delta = delta_of(epsilon, lam, u.dtype)
    inner = log_mean_exp(u / epsilon, weights.noise[..., None], axis=1)
    return delta * mean_code(jnp.expm1(epsilon / delta * inner), weights)


def level_value(v, weights, epsilon, lam, smoothing) -> Array:
    """Return what each datum adds to the semi-dual [B]: the least E_z[-v r] + regulariser of densities of mass one."""
    g = respond(v, weights, epsilon, lam, smoothing).g
    return g if smoothing == ENTROPIC else g - conjugate(v + g, weights, epsilon, lam, smoothing)
