"""Plans between the components of two mixtures: distances of components, the linear program and its derivative."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from otgen.ot import exact
from otgen.ot.check import as_points, native, probability
from otgen.ot.gaussian.bures import bures_sq
from otgen.ot.gaussian.factors import as_covariance
from otgen.types import Array, Float, Status, status_of


class Mixture(NamedTuple):
    """A mixture of Gaussians.

    Attributes:
      weights: of the components, not negative, sum to 1 [k].
      means: [k, d].
      covs: covariances, symmetric and positive semi-definite [k, d, d].

    Example:
      >>> p = og.mixture.Mixture(jnp.array([0.5, 0.5]), jnp.array([[0.0], [4.0]]), jnp.ones((2, 1, 1)))
      >>> print(p.weights @ p.means)
      [2.]
    """

    weights: Array
    means: Array
    covs: Array


def as_mixture(name: str, mixture: Mixture | tuple) -> Mixture:
    """Return a mixture as arrays of one type, float32 at least, its weights divided by their sum.

    Args:
      name: what to call it in an error.
      mixture: Mixture, or its three parts; weights of zero are allowed.

    Returns:
      Mixture.

    Raises:
      ValueError: for other shapes, or (outside jit) non-finite numbers, weights that are negative or do not sum to 1,
        or covariances that are not symmetric or indefinite.

    Example:
      >>> p = og.mixture.as_mixture("p", (np.array([1, 3]) / 4, np.array([[0], [4]]), np.ones((2, 1, 1))))
      >>> print(p.weights, p.means.dtype)
      [0.25 0.75] float32
    """
    if not isinstance(mixture, Sequence) or len(mixture) != 3:
        raise ValueError(f"{name} is a {type(mixture).__name__}: give Mixture(weights, means, covs), or a tuple.")
    weights, means, covs = native(f"{name}.weights", mixture[0]), *mixture[1:]
    means, covs = as_points(f"{name}.means", means, least=1), as_covariance(f"{name}.covs", covs)
    num, dim = means.shape
    if covs.shape != (num, dim, dim):
        raise ValueError(f"{name}.covs has shape {covs.shape}: means of shape {means.shape} ask for {(num, dim, dim)}.")
    dtype = jnp.promote_types(means.dtype, covs.dtype)
    return Mixture(probability(f"{name}.weights", weights, num, dtype), means.astype(dtype), covs.astype(dtype))


def alive(p: Mixture) -> Mixture:
    """Return the mixture with its heaviest component in place of those of weight zero, which may hold any numbers."""
    dead, heaviest = p.weights == 0, jnp.argmax(p.weights)
    means = jnp.where(dead[:, None], p.means[heaviest], p.means)
    return Mixture(p.weights, means, jnp.where(dead[:, None, None], p.covs[heaviest], p.covs))


def both(p: Mixture | tuple, q: Mixture | tuple) -> tuple[Mixture, Mixture]:
    """Return two mixtures of one dimension as arrays of one type."""
    p, q = as_mixture("p", p), as_mixture("q", q)
    if p.means.shape[1] != q.means.shape[1]:
        raise ValueError(f"p has dimension {p.means.shape[1]} and q {q.means.shape[1]}: give one dimension.")
    dtype = jnp.promote_types(p.means.dtype, q.means.dtype)
    return Mixture(*(of.astype(dtype) for of in p)), Mixture(*(of.astype(dtype) for of in q))


def component_costs(p: Mixture | tuple, q: Mixture | tuple) -> Float[Array, "k l"]:
    """Return the squared 2-Wasserstein distances |m_k - m_l|^2 + bures_sq(C_k, C_l) between all components.

    They are twice differentiable in means and covariances. Each covariance is factored anew for every pair, because a
    derivative in factors found once would not lead back to the covariances; this costs a few per cent of the time that
    the singular values of all pairs take.

    Args:
      p: Mixture of k components.
      q: Mixture of l components.

    Returns:
      The distances [k, l], in squared units of the points.

    Raises:
      ValueError: as in `as_mixture`, or for different dimensions.

    Example:
      >>> p = og.mixture.Mixture(jnp.array([0.5, 0.5]), jnp.array([[0.0], [4.0]]), jnp.ones((2, 1, 1)))
      >>> print(og.mixture.component_costs(p, p))
      [[0. 16.]
       [16. 0.]]

    Reference: Delon and Desolneux (2020), arXiv 1907.05254, equation 4.
    """
    p, q = both(p, q)
    return _costs(p.means[:, None], p.covs[:, None], q.means, q.covs)


def _costs(means_a: Array, covs_a: Array, means_b: Array, covs_b: Array) -> Array:
    return jnp.sum((means_a - means_b) ** 2, -1) + bures_sq(covs_a, covs_b)


class Info(NamedTuple):
    """How good the plan between the components is, by its own certificate.

    Attributes:
      error: the L1 distance of the plan's marginals from the weights, plus the duality gap of the plan relative to the
        largest cost between components that carry mass.
      status: CONVERGED if the error is below 1e-5 (1e-8 in float64); see `otgen.types.Status`.

    Example:
      >>> p = og.mixture.Mixture(jnp.array([0.5, 0.5]), jnp.array([[0.0], [4.0]]), jnp.ones((2, 1, 1)))
      >>> _, info = og.mixture.w2_sq(p, p._replace(means=p.means + 3), return_info=True)
      >>> print(info.error < 1e-5, og.explain(info).split(":")[0])
      True CONVERGED
    """

    error: Array
    status: Array


def w2_sq(
    p: Mixture | tuple, q: Mixture | tuple, *, return_info: bool = False
) -> Float[Array, ""] | tuple[Float[Array, ""], Info]:
    """Return MW_2^2(p, q) = min over plans pi between the weights of sum_kl pi_kl W_2^2(p_k, q_l).

    The linear program is solved exactly, within the limits of `exact.plan`. The value is differentiable in weights,
    means and covariances by the envelope theorem, and twice in means and covariances as long as the plan does not
    change. The derivative in the weights is that on the simplex, since the weights are divided by their sum.
    Derivatives are NaN if the plan is not optimal, which Info tells.

    Args:
      p: Mixture of k components.
      q: Mixture of l components.
      return_info: whether to return Info too. Static.

    Returns:
      A scalar in squared units of the points, zero for mixtures of the same components and weights; with `return_info`
      a pair of it and Info.

    Raises:
      ValueError: as in `component_costs` and `exact.plan`.

    Example:
      >>> p = og.mixture.Mixture(jnp.array([0.5, 0.5]), jnp.array([[0.0], [4.0]]), jnp.ones((2, 1, 1)))
      >>> print(og.mixture.w2_sq(p, p._replace(means=p.means + 3)), og.mixture.w2_sq(p, p))
      9.0 0.0

    Reference: Delon and Desolneux (2020), arXiv 1907.05254, proposition 4.
    """
    found, info = solve(*both(p, q))
    return (found.value, info) if return_info else found.value


@jax.custom_jvp
def solve(p: Mixture, q: Mixture) -> tuple[exact.Plan, Info]:
    """Return the optimal plan between the components, and its certificate; differentiable once."""
    costs = _costs(p.means[:, None], p.covs[:, None], q.means, q.covs)
    carry = (p.weights[:, None] > 0) & (q.weights > 0)
    costs = jnp.where(carry | jnp.isfinite(costs), costs, 0.0)
    found = exact.plan(costs, p.weights, q.weights)
    return found, _certificate(found, jnp.where(carry, costs, 0.0), p.weights, q.weights)


@jax.jit
def _certificate(found: exact.Plan, costs: Array, a: Array, b: Array) -> Info:
    gap = found.value - jnp.sum(jnp.where(a > 0, a * found.f, 0)) - jnp.sum(jnp.where(b > 0, b * found.g, 0))
    largest = jnp.max(costs)
    error = jnp.abs(found.plan.sum(1) - a).sum() + jnp.abs(found.plan.sum(0) - b).sum()
    error = error + jnp.abs(gap) / jnp.where(largest > 0, largest, 1.0)
    return Info(error, status_of(error, 1e-8 if costs.dtype == jnp.float64 else 1e-5))


@solve.defjvp
def _solve_jvp(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    (p, q), (dp, dq) = primals, tangents
    found, info = solve(p, q)
    rows, columns, mass = support(found.plan)

    def pairs(means_a: Array, covs_a: Array, means_b: Array, covs_b: Array) -> Array:
        a, b = alive(Mixture(p.weights, means_a, covs_a)), alive(Mixture(q.weights, means_b, covs_b))
        return _costs(a.means[rows], a.covs[rows], b.means[columns], b.covs[columns])

    _, dcost = jax.jvp(pairs, (p.means, p.covs, q.means, q.covs), (dp.means, dp.covs, dq.means, dq.covs))
    along = jnp.sum(jnp.where(mass > 0, mass * dcost, 0.0))
    along = along + jnp.sum(found.f * dp.weights) + jnp.sum(found.g * dq.weights)
    # written as a factor, so that reverse mode keeps it
    along = along * jnp.where(info.status == Status.CONVERGED, 1.0, jnp.nan)
    still = exact.Plan(*map(jnp.zeros_like, found[:3]), along)
    return (found, info), (still, Info(jnp.zeros_like(info.error), np.zeros(info.status.shape, jax.dtypes.float0)))


def support(mass: Array) -> tuple[Array, Array, Array]:
    """Return the pairs (k, l) of positive mass and their masses, filled up to the k + l - 1 pairs of a vertex."""
    height, width = mass.shape
    mass, index = jax.lax.top_k(mass.ravel(), min(height * width, height + width - 1))
    return index // width, index % width, mass


def plan(p: Mixture | tuple, q: Mixture | tuple) -> Float[Array, "k l"]:
    """Return an optimal plan pi between the components, a vertex of the polytope of plans; without a derivative.

    Args:
      p: Mixture of k components.
      q: Mixture of l components.

    Returns:
      pi [k, l], its marginals the weights of p and q.

    Raises:
      ValueError: as in `w2_sq`.

    Example:
      >>> p = og.mixture.Mixture(jnp.array([0.75, 0.25]), jnp.array([[0.0], [4.0]]), jnp.ones((2, 1, 1)))
      >>> print(og.mixture.plan(p, p._replace(weights=jnp.array([0.5, 0.5]))).tolist())
      [[0.5, 0.25], [0., 0.25]]
    """
    return solve(*both(p, q))[0].plan
