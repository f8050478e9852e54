"""Smoothing functions, which make a transport plan dense or sparse, and its dual differentiable.

A plan pi between weights a and b is described by its density r = d pi / d(a x b), r = 1 being the independent plan.
Smoothed transport adds epsilon E f(r) to the cost, the mean over a x b of a convex function f with f' and the conjugate
f*:

              f(t)              f'(t)    f*(s) = max_t s t - f(t)    density t = (f*)'(s)
  entropic    t log t - t + 1   log t    exp(s) - 1                  exp(s)          every pair gets some mass
  quadratic   t^2 / 2           t        max(s, 0)^2 / 2             max(s, 0)       most pairs get none

At the optimum r = (f*)'((f_i + g_j - c_ij) / epsilon) for the dual potentials f_i, g_j. Given one potential the other
is a *level*: the g at which the scores v_i + g have a density of mean one. It is a log-sum-exp for the entropic
function and the threshold of a sparsemax, found by sorting, for the quadratic one.

Reference: Blondel, Seguy and Rolet (2018), arXiv 1710.06276; Martins and Astudillo (2016), arXiv 1602.02068.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy
from jax.typing import ArrayLike

from otgen.ot.check import native
from otgen.types import Array

FAR = 60.0  # scores of points of weight zero are cut off here, far above those of points that carry mass


@dataclass(frozen=True)
class Smoothing:
    """A smoothing function. It is static under jit, compared and hashed by its name and functions: define yours once.

    Attributes:
      name: how it is called.
      value: f, of densities t >= 0.
      slope: f', of densities t >= 0.
      conjugate: f*, of any number.
      density: (f*)', of any number: the density that a score over epsilon stands for.
      level: `level(scores, weights, epsilon)`, the number g per row with sum_i w_i density((v_i + g) / epsilon) = 1,
        for scores [..., n] and weights that broadcast against them and sum to 1.

    Example:
      >>> quadratic, s = og.smoothing.by_name("quadratic"), jnp.array([-1.0, 2.0])
      >>> print(quadratic.conjugate(s), quadratic.density(s))  # max(s, 0)^2 / 2 and its derivative
      [0. 2.] [0. 2.]
    """

    name: str
    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    conjugate: Callable[[Array], Array]
    density: Callable[[Array], Array]
    level: Callable[[Array, Array, ArrayLike], Array]


def log_mean_exp(scores: ArrayLike, weights: ArrayLike, axis: int = -1) -> Array:
    """Return log sum_i w_i exp(v_i) along an axis, without overflow and with finite gradients where w_i = 0.

    Args:
      scores: v, any shape; minus infinity leaves a point out, as weight zero does.
      weights: w >= 0, broadcast against the scores.
      axis: the axis that is summed over. Static.

    Returns:
      The scores' shape without the axis; minus infinity where every point is left out.

    Example:
      >>> print(og.smoothing.log_mean_exp(jnp.log(jnp.array([1.0, 3.0])), jnp.array([0.5, 0.5])), np.log(2))
      0.693 0.693
    """
    scores = jnp.asarray(native("scores", scores))
    weights = jnp.broadcast_to(native("weights", weights), scores.shape)
    top = jax.lax.stop_gradient(jnp.max(jnp.where(weights > 0, scores, -jnp.inf), axis, keepdims=True))
    top = jnp.where(jnp.isneginf(top), 0.0, top)
    scores = jnp.where((weights == 0) & jnp.isnan(scores), top, scores)
    total = jnp.sum(weights * jnp.exp(jnp.minimum(scores - top, FAR)), axis, keepdims=True)
    log = jnp.where(total == 0, -jnp.inf, jnp.log(jnp.where(total == 0, 1.0, total)))
    return jnp.squeeze(log + top, axis)


def hinge_level(scores: ArrayLike, weights: ArrayLike, mass: ArrayLike) -> Array:
    """Return the number g per row that solves sum_i w_i max(v_i + g, 0) = mass, exactly, by sorting.

    The left side is convex and piecewise linear in g. With the scores in descending order the k largest take part as
    long as sum_{i <= k} w_i (v_i - v_k) < mass, and then g = (mass - sum w_i v_i) / sum w_i over those. The set
    of scores that take part is locally constant, so that the formula is differentiated as it stands.

    Args:
      scores: v [..., n]; minus infinity leaves a point out, as weight zero does.
      weights: w >= 0, broadcast against the scores.
      mass: positive.

    Returns:
      g [...]; infinite where every point is left out.

    Example:
      >>> g = og.smoothing.hinge_level(jnp.array([1.0, 0.0]), jnp.array([0.5, 0.5]), 1.0)
      >>> print(g)  # .5 max(1 + g, 0) + .5 max(g, 0) = 1
      0.5
    """
    scores = jnp.asarray(native("scores", scores))
    weights = jnp.broadcast_to(native("weights", weights), scores.shape)
    heard = (weights > 0) & (scores != -jnp.inf)
    held = jax.lax.stop_gradient(scores)
    top = jnp.max(jnp.where(heard, held, -jnp.inf), -1, keepdims=True)
    low = jnp.min(jnp.where(heard, held, jnp.inf), -1, keepdims=True)
    none = jnp.isneginf(top)
    scores = jnp.where(none, 0.0, jnp.where(heard, scores, low) - jnp.where(none, 0.0, top))
    weights = jnp.where(heard, weights, 0.0)
    order = jnp.argsort(-scores, axis=-1)
    v, w = (jax.lax.stop_gradient(jnp.take_along_axis(of, order, -1)) for of in (scores, weights))
    inside = jnp.cumsum(w * v, -1) - v * jnp.cumsum(w, -1) < mass
    last = jnp.take_along_axis(v, jnp.maximum(jnp.sum(inside, -1, keepdims=True), 1) - 1, -1)
    # a compiler may compute scores twice and round them differently: one that ties with the last may take part or not
    tie = 16 * jnp.finfo(v.dtype).eps * (jnp.abs(last) + jnp.where(none, 0.0, jnp.abs(top)))
    taken = jnp.where(jax.lax.stop_gradient(scores) >= last - tie, weights, 0.0)
    none, share = none[..., 0], jnp.sum(taken, -1)
    level = (mass - jnp.sum(taken * scores, -1)) / jnp.where(none, 1.0, share)
    return jnp.where(none, jnp.inf, level - jnp.where(none, 0.0, top[..., 0]))


def _entropic_level(scores: ArrayLike, weights: ArrayLike, epsilon: ArrayLike) -> Array:
    none = jnp.isneginf(scores)  # kept out of the division, or its derivative in epsilon would be NaN
    return -epsilon * log_mean_exp(jnp.where(none, -jnp.inf, jnp.where(none, 0.0, scores) / epsilon), weights)


def _half_square(t: Array) -> Array:
    return 0.5 * t**2


ENTROPIC = Smoothing(
    name="entropic",
    value=lambda t: xlogy(t, t) - t + 1,
    slope=jnp.log,
    conjugate=jnp.expm1,
    density=jnp.exp,
    level=_entropic_level,
)
QUADRATIC = Smoothing(
    name="quadratic",
    value=_half_square,
    slope=lambda t: t,
    conjugate=lambda s: _half_square(jnp.maximum(s, 0.0)),
    density=lambda s: jnp.maximum(s, 0.0),
    level=hinge_level,
)
SMOOTHINGS = {of.name: of for of in (ENTROPIC, QUADRATIC)}


def by_name(smoothing: str | Smoothing) -> Smoothing:
    """Return the smoothing function of that name; a Smoothing is returned as it is.

    Raises:
      ValueError: for an unknown name.

    Example:
      >>> print(og.smoothing.by_name("entropic").name, float(og.smoothing.by_name("entropic").density(0.0)))
      entropic 1.0
    """
    if isinstance(smoothing, Smoothing):
        return smoothing
    if not isinstance(smoothing, str) or smoothing not in SMOOTHINGS:
        raise ValueError(f"smoothing = {smoothing!r} is unknown: choose one of {', '.join(SMOOTHINGS)}.")
    return SMOOTHINGS[smoothing]
