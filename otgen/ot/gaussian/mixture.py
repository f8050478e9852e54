"""Optimal transport between Gaussian mixtures, through plans between their components (Delon and Desolneux 2020).

Among the plans between two mixtures that are mixtures themselves, an optimal one joins component k of p and component l
of q by the Gaussian optimal plan, with a share pi_kl that solves the transport problem between the weights for the
squared 2-Wasserstein distances of the components: a linear program of k x l unknowns, whatever the dimension. Its value
MW_2^2 bounds W_2^2 from above. pi is a vertex: of its entries at most k + l - 1 are positive, so that maps and
derivatives are computed for as many pairs only, not for all. Components of weight zero change nothing, whatever they
hold.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from otgen.ot import exact
from otgen.ot.check import as_count, as_key, as_points, at_hand, is_traced, native, now, probability
from otgen.ot.costs import product
from otgen.ot.gaussian.bures import bures_sq
from otgen.ot.gaussian.factors import after, as_covariance, as_times, factor
from otgen.ot.gaussian.maps import geodesic_cov, map_matrix
from otgen.types import Array, Key, Status, status_of

TILE = 2**22  # entries of the matrices gathered for a stretch of points


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


def _alive(p: Mixture) -> Mixture:
    """The mixture with its heaviest component in place of those of weight zero, whose numbers may be any."""
    dead, heaviest = p.weights == 0, jnp.argmax(p.weights)
    means = jnp.where(dead[:, None], p.means[heaviest], p.means)
    return Mixture(p.weights, means, jnp.where(dead[:, None, None], p.covs[heaviest], p.covs))


def _both(p: Mixture | tuple, q: Mixture | tuple) -> tuple[Mixture, Mixture]:
    p, q = as_mixture("p", p), as_mixture("q", q)
    if p.means.shape[1] != q.means.shape[1]:
        raise ValueError(f"p has dimension {p.means.shape[1]} and q {q.means.shape[1]}: give one dimension.")
    dtype = jnp.promote_types(p.means.dtype, q.means.dtype)
    return Mixture(*(of.astype(dtype) for of in p)), Mixture(*(of.astype(dtype) for of in q))


def component_costs(p: Mixture | tuple, q: Mixture | tuple) -> Float[Array, "k l"]:
    """Return the squared 2-Wasserstein distances |m_k - m_l|^2 + bures_sq(C_k, C_l) between all components.

    Twice differentiable in means and covariances. They go to `bures_sq` as covariances, not as factors, whose
    derivatives would not lead back to the covariances; factoring each k x l times costs a few per cent of the singular
    values of all the pairs.

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
    p, q = _both(p, q)
    return _costs(p.means[:, None], p.covs[:, None], q.means, q.covs)


def _costs(means_a: Array, covs_a: Array, means_b: Array, covs_b: Array) -> Array:
    return jnp.sum((means_a - means_b) ** 2, -1) + bures_sq(covs_a, covs_b)


class Info(NamedTuple):
    """How good the plan between the components is, by its own certificate.

    Attributes:
      error: L1 distance of the plan's marginals from the weights, plus what its value exceeds that of the dual
        potentials by, relative to the largest cost between components that carry mass.
      status: CONVERGED if the error is below 1e-5 (1e-8 in float64); see `otgen.types.Status`.

    Example:
      >>> p = og.mixture.Mixture(jnp.array([0.5, 0.5]), jnp.array([[0.0], [4.0]]), jnp.ones((2, 1, 1)))
      >>> _, info = og.mixture.w2_sq(p, p._replace(means=p.means + 3), return_info=True)
      >>> print(info.error < 1e-5, og.explain(info).split(":")[0])
      True CONVERGED
    """

    error: Array
    status: Array


@overload
def w2_sq(p: Mixture | tuple, q: Mixture | tuple) -> Float[Array, ""]: ...


@overload
def w2_sq(p: Mixture | tuple, q: Mixture | tuple, *, return_info: bool) -> tuple[Float[Array, ""], Info]: ...


def w2_sq(
    p: Mixture | tuple, q: Mixture | tuple, *, return_info: bool = False
) -> Float[Array, ""] | tuple[Float[Array, ""], Info]:
    """Return MW_2^2(p, q) = min over plans pi between the weights of sum_kl pi_kl W_2^2(p_k, q_l).

    The linear program is exact: see `exact.plan` for what it takes. Differentiable in weights, means and covariances by
    the envelope theorem; in means and covariances twice, as long as the plan stands still. The derivative in the
    weights is that on the simplex: they are divided by their sum. Derivatives are NaN if the plan is not optimal, as
    Info says.

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
    found, info = _solve(*_both(p, q))
    return (found.value, info) if return_info else found.value


@jax.custom_jvp
def _solve(p: Mixture, q: Mixture) -> tuple[exact.Plan, Info]:
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


@_solve.defjvp
def _solve_jvp(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    (p, q), (dp, dq) = primals, tangents
    found, info = _solve(p, q)
    rows, columns, mass = _support(found.plan)

    def pairs(means_a: Array, covs_a: Array, means_b: Array, covs_b: Array) -> Array:
        a, b = _alive(Mixture(p.weights, means_a, covs_a)), _alive(Mixture(q.weights, means_b, covs_b))
        return _costs(a.means[rows], a.covs[rows], b.means[columns], b.covs[columns])

    _, dcost = jax.jvp(pairs, (p.means, p.covs, q.means, q.covs), (dp.means, dp.covs, dq.means, dq.covs))
    along = jnp.sum(jnp.where(mass > 0, mass * dcost, 0.0))
    along = along + jnp.sum(found.f * dp.weights) + jnp.sum(found.g * dq.weights)
    along = along * jnp.where(info.status == Status.CONVERGED, 1.0, jnp.nan)  # a factor, which reverse mode keeps
    still = exact.Plan(*map(jnp.zeros_like, found[:3]), along)
    return (found, info), (still, Info(jnp.zeros_like(info.error), np.zeros(info.status.shape, jax.dtypes.float0)))


def _support(mass: Array) -> tuple[Array, Array, Array]:
    """The pairs (k, l) of positive mass and their masses, filled up to the k + l - 1 that a vertex has at most."""
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
    return _solve(*_both(p, q))[0].plan


def log_density(p: Mixture | tuple, x: ArrayLike) -> Float[Array, " n"]:
    """Return the log density of a mixture at points.

    Differentiable. Components of weight zero may be singular.

    Args:
      p: Mixture.
      x: points [n, d].

    Returns:
      log density [n]; NaN inside jit if a covariance is singular.

    Raises:
      ValueError: as in `as_mixture`, for points of another dimension, or (outside jit) for singular covariances.

    Example:
      >>> p = og.mixture.Mixture(jnp.array([1.0]), jnp.zeros((1, 1)), jnp.ones((1, 1, 1)))
      >>> print(og.mixture.log_density(p, jnp.array([[0.0], [1.0]])))  # of N(0, 1)
      [-0.919 -1.419]
    """
    p = _alive(as_mixture("p", p))
    return jax.nn.logsumexp(_log_joint(p, _as_arguments(p, x)), 0)


def _as_arguments(p: Mixture, x: ArrayLike) -> Array:
    x = as_points("x", x, least=1)
    if x.shape[1] != p.means.shape[1]:
        raise ValueError(f"x has {x.shape[1]} columns, but the mixture has dimension {p.means.shape[1]}.")
    if not is_traced(p.weights, p.covs) and (at_hand(p.covs) or not now(_regular, p)):
        values = np.linalg.eigvalsh(np.asarray(p.covs, np.float64))
        singular = values[:, 0] <= jnp.finfo(p.covs.dtype).eps * values[:, -1]
        bad = np.flatnonzero(singular & (np.asarray(p.weights) > 0))
        if bad.size:
            raise ValueError(
                f"{bad.size} component(s) have a singular covariance, first component {bad[0]}: there is no density. "
                "Add a small multiple of the identity to p.covs."
            )
    return x.astype(jnp.promote_types(x.dtype, p.means.dtype))


@jax.jit
def _regular(p: Mixture) -> Array:
    values = jnp.linalg.eigvalsh(_alive(p).covs)
    return jnp.all(values[:, 0] > jnp.finfo(values.dtype).eps * values[:, -1])


@jax.jit
def _log_joint(p: Mixture, x: Array) -> Array:
    """log(a_k g_k(x)) [k, n], -inf for components of weight zero."""
    alive = p.weights > 0
    eye = jnp.eye(x.shape[1], dtype=p.covs.dtype)
    lower = jnp.linalg.cholesky(jnp.where(alive[:, None, None], p.covs, eye))
    whiten = jax.scipy.linalg.solve_triangular(lower, jnp.broadcast_to(eye, lower.shape), lower=True)
    log_root = jnp.sum(jnp.log(jnp.diagonal(lower, axis1=1, axis2=2)), 1)
    constant = jnp.log(jnp.where(alive, p.weights, 1.0)) - log_root - 0.5 * x.shape[1] * jnp.log(2 * jnp.pi)

    def one(of: tuple) -> Array:
        constant, mean, whiten = of
        return constant - 0.5 * jnp.sum(product(x - mean, whiten.T) ** 2, 1)

    return jnp.where(alive[:, None], jax.lax.map(one, (constant, p.means, whiten)), -jnp.inf)


def barycentric_map(p: Mixture | tuple, q: Mixture | tuple, x: ArrayLike) -> Float[Array, "n d"]:
    """Return E[Y | X = x] under the optimal plan: sum_kl pi_kl g_k(x) T_kl(x) / sum_k a_k g_k(x).

    g_k is the density of component k of p and T_kl its optimal map to component l of q. The image of p is close to q
    only if the components of p overlap little or q is a single Gaussian; see `sample_map`. Differentiable in x.

    Args:
      p: Mixture of k components with regular covariances.
      q: Mixture of l components; singular covariances are fine.
      x: points [n, d].

    Returns:
      Their images [n, d].

    Raises:
      ValueError: as in `w2_sq` and `log_density`.

    Example:
      >>> p = og.mixture.Mixture(jnp.array([0.5, 0.5]), jnp.array([[0.0], [40.0]]), jnp.ones((2, 1, 1)))
      >>> print(og.mixture.barycentric_map(p, p._replace(covs=4 * p.covs), jnp.array([[1.0], [41.0]])).T)
      [[2. 42.]]

    Reference: Delon and Desolneux (2020), arXiv 1907.05254, section 6.3.
    """
    p, q = _both(p, q)
    x = _as_arguments(p, x)
    return _barycentric(_solve(p, q)[0].plan, _alive(p), _alive(q), x)


@jax.jit
def _barycentric(mass: Array, p: Mixture, q: Mixture, x: Array) -> Array:
    rows, columns, mass = _support(mass)
    share = mass / jnp.where(mass > 0, p.weights[rows], 1.0)
    maps = share[:, None, None] * map_matrix(p.covs[rows], q.covs[columns])
    maps = jnp.zeros_like(p.covs).at[rows].add(maps)  # sum_l pi_kl / a_k T_kl for each component of p
    images = jnp.zeros_like(p.means).at[rows].add(share[:, None] * q.means[columns])
    chance = jax.nn.softmax(_log_joint(p._replace(covs=after(p.covs, maps)), x), 0)

    def add(total: Array, of: tuple) -> tuple[Array, None]:
        chance, mean, image, turn = of
        return total + chance[:, None] * (image + product(x - mean, turn.T)), None

    return jax.lax.scan(add, jnp.zeros_like(x), (chance, p.means, images, maps))[0]


def sample_map(key: Key, p: Mixture | tuple, q: Mixture | tuple, x: ArrayLike) -> Float[Array, "n d"]:
    """Return images under the optimal plan itself: T_kl(x) for a random pair (k, l).

    The chance of a pair is pi_kl g_k(x) / sum_k a_k g_k(x). If x has the law p, the images have the law q.

    Args:
      key: random key.
      p: Mixture of k components with regular covariances.
      q: Mixture of l components; singular covariances are fine.
      x: points [n, d].

    Returns:
      Their images [n, d].

    Raises:
      ValueError: as in `barycentric_map`.

    Example:
      >>> p = og.mixture.Mixture(jnp.array([1.0]), jnp.zeros((1, 1)), jnp.ones((1, 1, 1)))
      >>> q = og.mixture.Mixture(jnp.array([0.5, 0.5]), jnp.array([[-9.0], [9.0]]), jnp.zeros((2, 1, 1)))
      >>> print(np.unique(og.mixture.sample_map(jax.random.key(0), p, q, jnp.linspace(-1, 1, 100)[:, None])))
      [-9. 9.]

    Reference: Delon and Desolneux (2020), arXiv 1907.05254, section 6.3.
    """
    p, q = _both(p, q)
    x = _as_arguments(p, x)
    return _sampled(as_key(key), _solve(p, q)[0].plan, _alive(p), _alive(q), x)


@jax.jit
def _sampled(key: Key, mass: Array, p: Mixture, q: Mixture, x: Array) -> Array:
    rows, columns, mass = _support(mass)
    share = jnp.log(mass) - jnp.log(jnp.where(mass > 0, p.weights[rows], 1.0))
    maps = map_matrix(p.covs[rows], q.covs[columns])
    joint = _log_joint(p._replace(covs=after(p.covs, maps)), x)
    drawn = jax.random.categorical(key, share[:, None] + joint[rows], axis=0)
    return q.means[columns[drawn]] + _turned(maps, drawn, x - p.means[rows[drawn]])


def _turned(matrices: Array, index: Array, vectors: Array) -> Array:
    """matrices[index[i]] @ vectors[i], gathering the matrices of a stretch of points at a time."""

    def one(of: tuple[Array, Array]) -> Array:
        return product(matrices[of[0]], of[1])

    stretch = max(1, TILE // vectors.shape[1] ** 2)
    if vectors.shape[0] <= stretch:
        return jax.vmap(one)((index, vectors))
    return jax.lax.map(one, (index, vectors), batch_size=stretch)


def geodesic(t: ArrayLike, p: Mixture | tuple, q: Mixture | tuple) -> Mixture:
    """Return the mixture at time t of the MW_2 geodesic from p to q: MW_2(p, p_t) = t MW_2(p, q).

    Args:
      t: time in [0, 1].
      p: Mixture of k components; singular covariances are fine.
      q: Mixture of l components.

    Returns:
      Mixture of the min(k l, k + l - 1) pairs that carry mass, of weights pi_kl, largest first; the last may be zero.

    Raises:
      ValueError: as in `w2_sq`, or (outside jit) for a time outside of [0, 1].

    Example:
      >>> p = og.mixture.Mixture(jnp.array([0.5, 0.5]), jnp.array([[0.0], [4.0]]), jnp.ones((2, 1, 1)))
      >>> half = og.mixture.geodesic(0.5, p, p._replace(means=p.means + 6))
      >>> print(half.means[half.weights > 0].T)
      [[3. 7.]]

    Reference: Delon and Desolneux (2020), arXiv 1907.05254, section 4.3.
    """
    p, q = _both(p, q)
    t = as_times(t, (), p.means.dtype)
    if t.ndim:
        raise ValueError(f"t has shape {t.shape}: give one time in [0, 1].")
    rows, columns, mass = _support(_solve(p, q)[0].plan)
    p, q = _alive(p), _alive(q)
    means = (1 - t) * p.means[rows] + t * q.means[columns]
    return Mixture(mass, means, geodesic_cov(t, p.covs[rows], q.covs[columns]))


def sample(key: Key, p: Mixture | tuple, num: int) -> Float[Array, "n d"]:
    """Draw independent points from a mixture; its covariances may be singular. Without a derivative in them.

    Args:
      key: random key.
      p: Mixture.
      num: how many points. Static.

    Returns:
      Points [num, d].

    Raises:
      ValueError: as in `as_mixture`, or for a num that is no positive int, or a key that is none.

    Example:
      >>> p = og.mixture.Mixture(jnp.array([0.5, 0.5]), jnp.array([[0.0], [4.0]]), jnp.zeros((2, 1, 1)))
      >>> print(np.unique(og.mixture.sample(jax.random.key(0), p, 100)))
      [0. 4.]
    """
    return _sample(as_key(key), _alive(as_mixture("p", p)), as_count("num", num))


@functools.partial(jax.jit, static_argnums=2)
def _sample(key: Key, p: Mixture, num: int) -> Array:
    component, normal = jax.random.split(key)
    index = jax.random.categorical(component, jnp.log(p.weights), shape=(num,))
    vectors = jax.random.normal(normal, (num, p.means.shape[1]), p.means.dtype)
    return p.means[index] + _turned(factor(p.covs).values, index, vectors)
