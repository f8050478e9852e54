"""Maps, geodesics and barycenters of Gaussians."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.ot.check import as_array, as_mass, require_broadcast, require_positive, require_whole
from otgen.ot.gaussian.bures import bures_sq
from otgen.ot.gaussian.factors import as_covariance, as_covariances, as_times, factor
from otgen.ot.gaussian.polar import polar
from otgen.ot.gaussian.spectrum import cross_covariance, gains
from otgen.ot.gaussian.units import of_lengths, unit
from otgen.ot.products import contract, product
from otgen.types import Array, Float, status_of


class Affine(NamedTuple):
    """The map x -> M (x - source) + target, applied to points by calling it.

    Attributes:
      matrix: M [..., d, d].
      source: mean of the source [..., d].
      target: mean of the target [..., d].

    Example:
      >>> move = og.gaussian.Affine(2 * jnp.eye(2), jnp.zeros(2), jnp.ones(2))
      >>> print(move(jnp.array([[1.0, 0.0], [0.0, 3.0]])))
      [[3. 1.]
       [1. 7.]]
    """

    matrix: Array
    source: Array
    target: Array

    def __call__(self, x: ArrayLike) -> Array:
        """Map points [..., n, d].

        Raises:
          ValueError: for points of another shape or (outside jit) not finite.
        """
        x, d = as_array("x", x), self.source.shape[-1]
        if x.ndim < 2 or x.shape[-1] != d:
            raise ValueError(f"x has shape {x.shape}: give points as rows, shape [..., n, {d}].")
        require_broadcast("x", x.shape[:-2], "the map", self.source.shape[:-1])
        centred = x - self.source[..., None, :]
        return product(centred, self.matrix.mT) + self.target[..., None, :]


class Info(NamedTuple):
    """How the search for a barycenter ended.

    Attributes:
      error: |F' - F| / |F| of the last step, F the factor of the covariance.
      num_steps: steps taken (int32).
      status: see `otgen.types.Status`.

    Example:
      >>> _, info = og.gaussian.barycenter(jnp.stack([jnp.eye(2), 9 * jnp.eye(2)]))
      >>> print(og.explain(info), int(info.num_steps) < 10)
      CONVERGED: converged: the error recomputed at the end is below tol. True
    """

    error: Array
    num_steps: Array
    status: Array


def w2_sq(
    mean_a: ArrayLike | None, cov_a: ArrayLike, mean_b: ArrayLike | None, cov_b: ArrayLike
) -> Float[Array, "*batch"]:
    """Return the squared 2-Wasserstein distance |m_a - m_b|^2 + bures_sq(A, B) between Gaussians.

    Args:
      mean_a, cov_a: means [..., d], zero for None, and covariances [..., d, d].
      mean_b, cov_b: the same; batches broadcast.

    Returns:
      The distance [...], in squared units of the points. Differentiable twice, see `bures_sq`.

    Raises:
      ValueError: as in `bures_sq`, or for means of another dimension.

    Example:
      >>> mean_a, mean_b = jnp.zeros(2), jnp.array([3.0, 4.0])
      >>> print(og.gaussian.w2_sq(mean_a, jnp.eye(2), mean_b, 4 * jnp.eye(2)))  # 25 + 2 (1 - 2)^2
      27.0
    """
    a, b = as_covariances("cov_a", cov_a, "cov_b", cov_b)
    mean_a, mean_b = _mean("mean_a", mean_a, a), _mean("mean_b", mean_b, b)
    return jnp.sum((mean_a - mean_b) ** 2, -1) + bures_sq(a, b)


def _mean(name: str, mean: ArrayLike | None, cov: Array) -> Array:
    if mean is None:
        return jnp.zeros(cov.shape[:-1], cov.dtype)
    mean = as_array(name, mean)
    if mean.ndim < 1 or mean.shape[-1] != cov.shape[-1]:
        raise ValueError(f"{name} has shape {mean.shape}: give means [..., {cov.shape[-1]}], as the covariances have.")
    require_broadcast(name, mean.shape[:-1], "the covariances", cov.shape[:-2])
    return mean.astype(cov.dtype)


def map_matrix(cov_a: ArrayLike, cov_b: ArrayLike) -> Float[Array, "*batch d d"]:
    """Return the matrix T of the optimal map from N(0, A) to N(0, B): symmetric, positive, T A T = B.

    If A is singular, the map is defined on the range of A only; it is the map between the covariances projected there.

    Args:
      cov_a: covariances [..., d, d].
      cov_b: covariances [..., d, d]; batches broadcast.

    Returns:
      [..., d, d], differentiable.

    Raises:
      ValueError: as in `bures_sq`.

    Example:
      >>> print(og.gaussian.map_matrix(jnp.diag(jnp.array([1.0, 4.0])), jnp.diag(jnp.array([9.0, 1.0]))))
      [[3. 0.]
       [0. 0.5]]

    Reference: Dowson and Landau (1982); Bhatia, Jain and Lim (2019), arXiv 1712.01504.
    """
    a, b = as_covariances("cov_a", cov_a, "cov_b", cov_b)
    return _map_matrix(a, b)


@jax.jit
def _map_matrix(a: Array, b: Array) -> Array:
    return gains(a, b, jnp.zeros((), a.dtype))[0]


def transport_map(mean_a: ArrayLike | None, cov_a: ArrayLike, mean_b: ArrayLike | None, cov_b: ArrayLike) -> Affine:
    """Return the optimal map from N(mean_a, A) to N(mean_b, B), to be called on points.

    Args:
      mean_a, cov_a: means [..., d], zero for None, and covariances [..., d, d].
      mean_b, cov_b: the same; batches broadcast.

    Returns:
      Affine.

    Raises:
      ValueError: as in `w2_sq`.

    Example:
      >>> move = og.gaussian.transport_map(jnp.zeros(2), jnp.eye(2), jnp.ones(2), 4 * jnp.eye(2))
      >>> print(move(jnp.array([[0.0, 0.0], [1.0, 0.0]])))
      [[1. 1.]
       [3. 1.]]
    """
    matrix = map_matrix(cov_a, cov_b)
    return Affine(matrix, _mean("mean_a", mean_a, matrix), _mean("mean_b", mean_b, matrix))


def geodesic_cov(t: ArrayLike, cov_a: ArrayLike, cov_b: ArrayLike) -> Float[Array, "*batch d d"]:
    """Return the covariance ((1-t) I + t T) A ((1-t) I + t T) on the way from A to B, at constant speed.

    Args:
      t: time in [0, 1]; its shape broadcasts with the batches.
      cov_a, cov_b: covariances [..., d, d]; singular ones are fine.

    Returns:
      [..., d, d], differentiable; at distance t B(A, B) from A.

    Raises:
      ValueError: as in `bures_sq`.

    Example:
      >>> print(og.gaussian.geodesic_cov(0.5, jnp.eye(1), 9 * jnp.eye(1)))  # standard deviations 1, 2, 3
      [[4.]]

    Reference: McCann (1997); Takatsu (2011).
    """
    a, b = as_covariances("cov_a", cov_a, "cov_b", cov_b)
    return _geodesic(as_times(t, a.shape[:-2], a.dtype), a, b)


@jax.jit
def _geodesic(t: Array, a: Array, b: Array) -> Array:
    t = t[..., None, None]
    cross = cross_covariance(a, b)
    return (1 - t) ** 2 * a + t**2 * b + t * (1 - t) * (cross + cross.mT)


def geodesic(
    t: ArrayLike, mean_a: ArrayLike | None, cov_a: ArrayLike, mean_b: ArrayLike | None, cov_b: ArrayLike
) -> tuple[Float[Array, "*batch d"], Float[Array, "*batch d d"]]:
    """Return mean and covariance of the Gaussian at time t between two Gaussians; see `geodesic_cov`.

    Example:
      >>> mean, cov = og.gaussian.geodesic(0.5, jnp.array([0.0]), jnp.eye(1), jnp.array([2.0]), 9 * jnp.eye(1))
      >>> print(mean, cov)
      [1.] [[4.]]
    """
    cov = geodesic_cov(t, cov_a, cov_b)
    mean_a, mean_b = _mean("mean_a", mean_a, cov), _mean("mean_b", mean_b, cov)
    t = as_times(t, cov.shape[:-2], cov.dtype)[..., None]
    return (1 - t) * mean_a + t * mean_b, cov


def barycenter(
    covs: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    tol: ArrayLike | None = None,
    max_steps: ArrayLike = 200,
) -> tuple[Float[Array, "d d"], Info]:
    """Return the covariance S that minimises sum_i w_i bures_sq(S, C_i).

    S is the fixed point of S <- S^-1/2 (sum_i w_i (S^1/2 C_i S^1/2)^1/2)^2 S^-1/2, starting from sum_i w_i C_i. The
    iteration works on factors: F <- sum_i w_i F_i V_i U_i' with F' F_i = U_i S_i V_i', a mean of the factors after each
    has been turned towards the current one. It needs no inverse and no root, so that singular covariances are allowed;
    convergence may then be slow, and the minimiser not unique. S is differentiable in covs and weights by the implicit
    function theorem if it is positive definite. The derivative is NaN if the search has not converged, or if the
    conjugate gradients that solve for it have not.

    Args:
      covs: C [k, d, d].
      weights: w [k], not negative, with any total; uniform for None. A covariance of weight zero changes nothing.
      tol: limit of Info.error; 1e-12 in float64, 1e-5 in float32 for None.
      max_steps: limit of steps.

    Returns:
      S [d, d] and Info.

    Raises:
      ValueError: as in `bures_sq`, for weights of another shape or sign, or a tol that is not positive.

    Example:
      >>> cov, info = og.gaussian.barycenter(jnp.stack([jnp.eye(2), 9 * jnp.eye(2)]), jnp.array([0.5, 0.5]))
      >>> print(cov)  # standard deviation (1 + 3) / 2
      [[4. 0.]
       [0. 4.]]

    Reference: Alvarez-Esteban et al. (2016), arXiv 1511.05355, theorem 4.2; Agueh and Carlier (2011).
    """
    covs = as_covariance("covs", covs)
    if covs.ndim != 3 or covs.shape[0] == 0:
        raise ValueError(f"covs has shape {covs.shape}: give the covariances of one barycenter, shape [k, d, d].")
    weights = jnp.asarray(as_mass("weights", weights, covs.shape[0], covs.dtype))
    tol = (1e-12 if covs.dtype == jnp.float64 else 1e-5) if tol is None else tol
    require_positive("tol", tol)
    require_whole("max_steps", max_steps, 1)
    tol, max_steps = jnp.asarray(tol, covs.dtype), jnp.asarray(max_steps, jnp.int32)
    return _barycenter(covs, weights, tol, max_steps)


@jax.jit
def _barycenter(covs: Array, weights: Array, tol: Array, max_steps: Array) -> tuple[Array, Info]:
    weights = weights / jnp.sum(weights)
    length = jnp.max(jnp.where(weights > 0, of_lengths(covs)[:, 0, 0], jnp.finfo(covs.dtype).tiny))
    cov, error, num_steps = _solve(covs / length / length, weights, tol, max_steps)
    return cov * length * length, Info(error, num_steps, status_of(error, tol))


def _instead(covs: Array, weights: Array, of: Array) -> Array:
    """Return the covariances [k, d, d], with the heaviest of them in place of those that `of` [k] marks."""
    return jnp.where(of[:, None, None], covs[jnp.argmax(weights)], covs)


@jax.custom_jvp
def _solve(covs: Array, weights: Array, tol: Array, max_steps: Array) -> tuple[Array, Array, Array]:
    covs = _instead(covs, weights, weights == 0)
    factors = factor(jnp.concatenate([covs, contract("k,kij->ij", weights, covs)[None]])).values
    own = factors[:-1]

    def more(carry: tuple[Array, Array, Array]) -> Array:
        _, error, step = carry
        return (error >= tol) & (step < max_steps)

    def turn(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        now, _, step = carry
        turned = product(own, polar(product(now.mT, own)).mT)
        new = contract("k,kij->ij", weights, turned)
        size = jnp.sqrt(jnp.sum(now**2))
        error = jnp.sqrt(jnp.sum((new - now) ** 2)) / jnp.where(size > 0, size, 1.0)
        return new, error, step + 1

    start = (factors[-1], jnp.asarray(jnp.inf, covs.dtype), jnp.int32(0))
    found, error, step = jax.lax.while_loop(more, turn, start)
    return product(found, found.T), error, step


@_solve.defjvp
def _solve_jvp(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    # sum_i w_i T(S, C_i) = I holds for all C and w. The derivative of this sum in S is symmetric, negative definite.
    covs, weights, tol, _ = primals
    out = cov, error, step = _solve(*primals)
    zero = jnp.zeros((), covs.dtype)

    def maps(cov: Array, covs: Array) -> Array:
        return gains(jnp.broadcast_to(cov, covs.shape), covs, zero)[0]

    def mean_map(cov: Array, covs: Array, weights: Array) -> Array:
        return contract("k,kij->ij", weights, maps(cov, _instead(covs, weights, senseless)))

    # a covariance of weight zero takes part in the derivative in its weight, unless it has no map
    senseless = (weights == 0) & ~jnp.isfinite(jax.lax.stop_gradient(maps(cov, covs))).all((-2, -1))
    _, right = jax.jvp(lambda *inputs: mean_map(cov, *inputs), (covs, weights), tangents[:2])
    _, along = jax.linearize(lambda cov: -mean_map(cov, covs, weights), jax.lax.stop_gradient(cov))
    change = jax.lax.custom_linear_solve(along, right, _conjugate_gradients, symmetric=True)
    change = change * jnp.where(error < tol, 1.0, jnp.nan)  # written as a factor, so that reverse mode keeps it
    return out, (change, jnp.zeros_like(error), jnp.zeros(step.shape, jax.dtypes.float0))


def _conjugate_gradients(system: Callable[[Array], Array], right: Array) -> Array:
    """Return the solution by conjugate gradients; NaN if it does not solve the system."""
    eps, size = jnp.finfo(right.dtype).eps, unit(jnp.max(jnp.abs(right)))
    right = right / size  # in reverse mode `right` has the units of whatever is differentiated
    found = jax.scipy.sparse.linalg.cg(system, right, tol=10 * eps, maxiter=500)[0]
    left = jnp.linalg.norm(system(found) - right)
    return size * found * jnp.where(left <= eps ** (1 / 3) * jnp.linalg.norm(right), 1.0, jnp.nan)
