"""The barycenter of histograms on points that stay: Bregman projections in the log domain."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.ot.barycenter.free import Info
from otgen.ot.check import as_array, as_weights, is_traced, require_choice, require_positive, require_whole
from otgen.ot.costs import Cost
from otgen.ot.costs.ground import as_cost
from otgen.ot.sinkhorn.inputs import in_memory
from otgen.types import Array, Float, status_of


def histogram(
    cost: Cost | ArrayLike,
    histograms: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    epsilon: ArrayLike,
    debiased: bool = True,
    tol: ArrayLike = 1e-4,
    max_steps: ArrayLike = 2000,
) -> tuple[Float[Array, " n"], Info]:
    """Return the masses on n points that minimise sum_k w_k D(p, h_k), D entropic and debiased or not.

    Every step projects the plans in turn on their histograms and on the common marginal p = prod_k (K' u_k)^w_k,
    debiased times a factor d with d = p / (K d), for the kernel K = exp(- c / epsilon); all of it streams. Steps needed
    grow as 1 / epsilon. Debiased, unlike shapes sharpen slowly, long after the plans have their marginals.

    Args:
      cost: symmetric ground cost n x n between the points, or a matrix.
      histograms: masses h [k, n], each of total 1, zeros allowed.
      weights: w [k], not negative; uniform for None.
      epsilon: temperature, in units of the cost.
      debiased: whether D is the Sinkhorn divergence or the value regularised by the entropy. Static.
      tol: limit of Info.error.
      max_steps: limit of steps.

    Returns:
      Masses p [n] of total 1, and Info.

    Raises:
      ValueError: for a cost that is not square, histograms of another length, or (outside jit) negative ones, others
        than of total 1, or an epsilon or tol that is not positive.

    Example:
      >>> x = jnp.arange(5.0)[:, None]
      >>> h = jnp.array([[1.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]])
      >>> p, info = og.barycenter.histogram(og.PairwiseCost(x, x), h, jnp.array([0.75, 0.25]), epsilon=0.05)
      >>> print(p.round(3))  # a quarter of the way
      [0. 1. 0. 0. 0.]

    Reference: Benamou et al. (2015), arXiv 1412.5154, section 3; Janati et al. (2020), arXiv 2006.02575, algorithm 1.
    """
    cost = as_cost(cost)
    num, other = cost.shape
    if num != other:
        raise ValueError(f"cost is {num} x {other}: a barycenter has the points of the histograms, give n x n.")
    h = as_array("histograms", histograms, (None, num)).astype(cost.dtype)
    if not len(h):
        raise ValueError("histograms are none: give one at least, of shape [k, n].")
    shares = as_weights(weights, len(h)).astype(cost.dtype)
    require_choice("debiased", debiased, (True, False))
    require_positive("epsilon", epsilon)
    require_positive("tol", tol)
    require_whole("max_steps", max_steps, 1)
    if not is_traced(h) and (jnp.min(h) < 0 or jnp.max(jnp.abs(jnp.sum(h, 1) - 1)) > 1e-4):
        raise ValueError("histograms have to be non-negative and to sum to 1, each: divide them by their sums.")
    numbers = (jnp.asarray(it, cost.dtype) for it in (epsilon, tol))
    return _histogram(cost, jnp.asarray(h), shares, *numbers, jnp.asarray(max_steps), bool(debiased))


@jax.jit(static_argnames="debiased")
def _histogram(
    cost: Cost, h: Array, shares: Array, epsilon: Array, tol: Array, max_steps: Array, debiased: bool
) -> tuple[Array, Info]:
    ones = jnp.ones(cost.shape[0], cost.dtype)
    cost = in_memory(cost.weighed(ones, ones), None)
    h = h / jnp.sum(h, 1, keepdims=True)
    goal = epsilon * jnp.log(jnp.where(h > 0, h, 1.0))

    def smooth(potentials: Array, log_weights: Array) -> Array:
        """Return -epsilon log K exp(potentials / epsilon) of every histogram."""
        return jax.lax.map(lambda part: cost.softmin(epsilon, *part), (potentials, log_weights))

    def step(carry: tuple) -> tuple:
        f, g, factor, _, _, steps = carry
        new = jnp.where(h > 0, goal + smooth(g, jnp.zeros_like(h)), 0.0)
        moved = jnp.where(h > 0, jnp.expm1(jnp.minimum((f - new) / epsilon, 60.0)), 0.0)
        error = jnp.sum(shares * jnp.sum(h * jnp.abs(moved), 1))
        seen = smooth(new, jnp.where(h > 0, 0.0, -jnp.inf))
        log = factor - jnp.sum(shares[:, None] * seen, 0)
        if debiased:
            factor = 0.5 * (factor + log + cost.softmin(epsilon, factor))
        return new, log + seen, factor, log, error, steps + 1

    def go_on(carry: tuple) -> Array:
        *_, error, steps = carry
        return (error >= tol) & (steps < max_steps)

    zero, far = jnp.zeros_like(ones), jnp.full((), jnp.inf, cost.dtype)
    start = jnp.zeros_like(h), jnp.zeros_like(h), zero, zero, far, jnp.zeros((), jnp.int32)
    *_, log, error, steps = jax.lax.while_loop(go_on, step, start)
    return jax.nn.softmax(log / epsilon), Info(error, steps, status_of(error, tol))
