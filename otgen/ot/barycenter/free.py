"""The barycenter of clouds as a cloud: every point goes to the mean of where the plans to the clouds send it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.ot.check import as_mass, as_points, as_weights, require_choice, require_positive, require_whole
from otgen.ot.costs import PairwiseCost
from otgen.ot.costs.padding import pad_clouds
from otgen.ot.products import contract
from otgen.ot.sinkhorn import solver
from otgen.types import Array, Float, status_of


class Info(NamedTuple):
    """What a reader wants to know of the search.

    Attributes:
      error: of a cloud, the root mean square of the last step over the spread of all clouds about their common mean, or
        the largest marginal error of its plans, whichever is larger; of a histogram, the mean L1 error of the plans'
        marginals.
      num_steps: steps taken.
      status: CONVERGED if and only if error < tol; see `otgen.explain`.

    Example:
      >>> _, info = og.barycenter.cloud([jnp.zeros((1, 2)), jnp.ones((1, 2))], epsilon=1.0)
      >>> print(og.explain(info))
      CONVERGED: converged: the error recomputed at the end is below tol.
    """

    error: Array
    num_steps: Array
    status: Array


def cloud(
    clouds: Sequence[ArrayLike],
    weights: ArrayLike | None = None,
    masses: Sequence[ArrayLike | None] | None = None,
    *,
    epsilon: ArrayLike,
    start: ArrayLike | None = None,
    a: ArrayLike | None = None,
    debiased: bool = True,
    tol: ArrayLike = 1e-3,
    max_steps: ArrayLike = 200,
) -> tuple[Float[Array, "n d"], Info]:
    """Return a cloud x that minimises sum_k w_k D(x, y_k) for the squared distance, D entropic and debiased or not.

    A step takes every point to sum_k w_k T_k(x), with the barycentric maps T_k of the plans to the clouds; debiased, by
    sum_k w_k T_k(x) - T(x), with T that of the plan of x to itself: `og.drift`, in one whole step. Points of the
    barycenter at rest are a stationary point; where the clouds have several parts, which one depends on the start.

    Args:
      clouds: points [m_1, d], [m_2, d], ..., of different sizes as they come.
      weights: w [k], of the clouds, not negative; uniform for None.
      masses: of the points of each cloud [m_1], [m_2], ...; None, of all or of one, is uniform.
      epsilon: temperature, in units of the squared distance.
      start: points [n, d] to start from, as many as the barycenter is to have; None for the largest cloud.
      a: weights of the points of the barycenter [n]; uniform for None.
      debiased: whether D is the Sinkhorn divergence or the regularised value. Static.
      tol: limit of Info.error, and of the marginal errors of the plans.
      max_steps: limit of steps.

    Returns:
      Points [n, d], and Info.

    Raises:
      ValueError: for clouds of different dimensions or none, weights that do not fit, or an epsilon or tol that is not
        positive (outside jit).

    Example:
      >>> clouds = [jnp.array([[0.0], [1.0]]), jnp.array([[10.0], [11.0]])]
      >>> x, info = og.barycenter.cloud(clouds, jnp.array([0.8, 0.2]), epsilon=0.01)
      >>> print(x.T)
      [[2. 3.]]

    Reference: Cuturi and Doucet (2014), arXiv 1310.4375, algorithm 2; Luise et al. (2019), arXiv 1905.13194 (debiased).
    """
    points, given = pad_clouds(clouds, masses)
    shares = as_weights(weights, len(points))
    x = max(clouds, key=len) if start is None else start
    x = jnp.asarray(as_points("start", x, least=1), points.dtype)
    if x.shape[1] != points.shape[2]:
        raise ValueError(f"start has {x.shape[1]} columns and the clouds {points.shape[2]}: both live in one space.")
    a = jnp.asarray(as_mass("a", a, len(x), points.dtype))
    require_choice("debiased", debiased, (True, False))
    require_positive("epsilon", epsilon)
    require_positive("tol", tol)
    require_whole("max_steps", max_steps, 1)
    numbers = (jnp.asarray(it, points.dtype) for it in (epsilon, tol))
    return _cloud(points, given, shares.astype(points.dtype), x, a, *numbers, jnp.asarray(max_steps), bool(debiased))


@jax.jit(static_argnames="debiased")
def _cloud(
    points: Array,
    masses: Array,
    shares: Array,
    x: Array,
    a: Array,
    epsilon: Array,
    tol: Array,
    max_steps: Array,
    debiased: bool,
) -> tuple[Array, Info]:
    a, masses = a / jnp.sum(a), masses / jnp.sum(masses, 1, keepdims=True)
    everything = shares[:, None] * masses
    middle = contract("km,kmd->d", everything, points)
    spread = jnp.sqrt(jnp.sum(everything[..., None] * (points - middle) ** 2))

    def image(x: Array, y: Array, b: Array) -> tuple[Array, Array]:
        solution, info = solver.run(PairwiseCost(x, y), a, b, epsilon=epsilon, tol=tol)
        return solution.transport(x), info.error

    def step(carry: tuple) -> tuple:
        x, _, steps = carry
        images, errors = jax.lax.map(lambda part: image(x, *part), (points, masses))
        own, error = image(x, x, a) if debiased else (x, jnp.zeros((), x.dtype))
        moved = contract("k,knd->nd", shares, images) - own
        length = jnp.sqrt(jnp.sum(a[:, None] * moved**2)) / jnp.where(spread > 0, spread, 1.0)
        return x + moved, jnp.maximum(jnp.maximum(length, error), jnp.max(errors)), steps + 1

    def go_on(carry: tuple) -> Array:
        _, error, steps = carry
        return (error >= tol) & (steps < max_steps)

    start = x, jnp.full((), jnp.inf, x.dtype), jnp.zeros((), jnp.int32)
    x, error, steps = jax.lax.while_loop(go_on, step, start)
    return x, Info(error, steps, status_of(error, tol))
