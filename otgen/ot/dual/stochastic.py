"""The smoothed dual over a batch of points, which a training step ascends if the potentials are networks.

Reference: Genevay et al. (2016), arXiv 1605.08527; Seguy et al. (2018), arXiv 1711.02283.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.ot.costs import PairwiseCost
from otgen.ot.dual.evaluate import dual_value, prepare, semidual_of
from otgen.ot.dual.smoothing import Smoothing, by_name
from otgen.types import Array, Float, averaged


def _batch(x: Any, y: Any, cost_fn: Any, potentials: tuple, a: Any, b: Any, epsilon: Any) -> tuple:
    cost = PairwiseCost(x, y, cost_fn)
    evaluated = []
    for name, potential, points in zip("fg", potentials, (cost.x, cost.y), strict=False):
        found = potential(points) if callable(potential) else potential
        if jnp.shape(found) != points.shape[:1]:
            shape = f"returns shape {jnp.shape(found)}" if callable(potential) else f"has shape {jnp.shape(found)}"
            raise ValueError(f"{name} {shape} for {points.shape[0]} points: give one number per point.")
        evaluated.append(found)
    return prepare(cost, a, b, epsilon, *evaluated)


def objective(
    f: Any,
    g: Any,
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike,
    smoothing: str | Smoothing = "entropic",
    cost_fn: Any = None,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Return the dual value of a batch: an unbiased estimate of the dual over the laws that x and y are drawn from.

    mean f(x) + mean g(y) - epsilon mean over all pairs of f*((f(x_i) + g(y_j) - c(x_i, y_j)) / epsilon)

    Training ascends it in the parameters of f and g and descends it in the generator that makes x. With the numbers
    f(x_i), g(y_j) held fixed its gradient in x_i is sum_j a_i b_j r_ij grad c(x_i, y_j). At the maximising potentials
    this is the gradient of W, and the density r needs no derivative (Danskin's theorem). A callable f adds its own
    slope times (a_i - row sum i), a term that vanishes at the optimum; give the array f(stop_gradient(x)) instead to
    leave it out.

    Args:
      f: potential of x, an array [n] or a callable [n, d] -> [n]. A potential that reads latents z is handed in as
        f(z).
      g: potential of y, an array [m] or a callable [m, d] -> [m].
      x: generated points [n, d].
      y: data points [m, d], drawn independently of x.
      a, b: weights of the points, uniform for None.
      epsilon: strength of the smoothing, in units of the cost; traced.
      smoothing: "entropic", "quadratic" or a Smoothing. Static.
      cost_fn: as in `PairwiseCost`; |x - y|^2 for None. Static.
      axis_name: devices over which the value is averaged; average its gradients as well. Static.

    Returns:
      A scalar in units of the cost.

    Raises:
      ValueError: for shapes that do not agree, non-finite points, epsilon not positive, unknown names.

    Example:
      >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([[0.0], [1.0]])
      >>> zero = lambda points: jnp.zeros(len(points))  # a network, usually
      >>> print(og.dual.objective(zero, zero, x, y, epsilon=0.1))
      0.05
      >>> print(og.dual.dual_value(og.PairwiseCost(x, y), jnp.zeros(2), jnp.zeros(2), epsilon=0.1))
      0.05

    Reference: Seguy et al. (2018), arXiv 1711.02283, algorithm 1.
    """
    cost, f, g, a, b = _batch(x, y, cost_fn, (f, g), a, b, epsilon)
    return averaged(dual_value(cost, f, g, a, b, epsilon=epsilon, smoothing=smoothing), axis_name)


def semi_objective(
    f: Any,
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike,
    smoothing: str | Smoothing = "entropic",
    cost_fn: Any = None,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Return the semi-dual value of a batch: one potential to learn instead of two, and no overflow.

    It is unbiased in y when x holds all points of their law. When x is a sample, it is biased upwards by O(1/n),
    because the logarithm of a mean is not the mean of the logarithm. Everything else is as in `objective`.

    Example:
      >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([[0.0], [1.0]])
      >>> print(og.dual.semi_objective(lambda x: 2 * x[:, 0] ** 2, x, y, epsilon=0.1))
      -0.4307
      >>> print(og.dual.semidual(og.PairwiseCost(x, y), jnp.array([0.0, 2.0]), epsilon=0.1))
      -0.4307

    Reference: Genevay et al. (2016), arXiv 1605.08527.
    """
    cost, f, _, a, b = _batch(x, y, cost_fn, (f,), a, b, epsilon)
    return averaged(semidual_of(cost, f, a, b, epsilon, smoothing=by_name(smoothing)), axis_name)
