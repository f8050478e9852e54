"""Densities of mixtures, and what the plan between components does to points: maps, geodesics, samples."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen import sizes
from otgen.ot.check import as_count, as_key, as_points, at_hand, is_traced, now
from otgen.ot.gaussian.factors import after, as_times, factor
from otgen.ot.gaussian.maps import geodesic_cov, map_matrix
from otgen.ot.gaussian.mixture.plans import Mixture, alive, as_mixture, both, solve, support
from otgen.ot.products import product
from otgen.types import Array, Float, Key


def log_density(p: Mixture | tuple, x: ArrayLike) -> Float[Array, " n"]:
    """Return the log density of a mixture at points.

    It is differentiable. Components of weight zero may have singular covariances.

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
    p = alive(as_mixture("p", p))
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
    """Say whether no eigenvalue can be zero, by factors: a GPU finds eigenvalues of a batch one after the other."""
    covs = alive(p).covs
    least = jnp.finfo(covs.dtype).eps * jnp.trace(covs, axis1=1, axis2=2)
    lower = jnp.linalg.cholesky(covs - least[:, None, None] * jnp.eye(covs.shape[-1], dtype=covs.dtype))
    return jnp.all(jnp.diagonal(lower, axis1=1, axis2=2) > 0)


@jax.jit
def _log_joint(p: Mixture, x: Array) -> Array:
    """Return log(a_k g_k(x)) [k, n], which is -inf for components of weight zero."""
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
    p, q = both(p, q)
    x = _as_arguments(p, x)
    return _barycentric(solve(p, q)[0].plan, alive(p), alive(q), x)


@jax.jit
def _barycentric(mass: Array, p: Mixture, q: Mixture, x: Array) -> Array:
    rows, columns, mass = support(mass)
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
    p, q = both(p, q)
    x = _as_arguments(p, x)
    return _sampled(as_key(key), solve(p, q)[0].plan, alive(p), alive(q), x)


@jax.jit
def _sampled(key: Key, mass: Array, p: Mixture, q: Mixture, x: Array) -> Array:
    rows, columns, mass = support(mass)
    share = jnp.log(mass) - jnp.log(jnp.where(mass > 0, p.weights[rows], 1.0))
    maps = map_matrix(p.covs[rows], q.covs[columns])
    joint = _log_joint(p._replace(covs=after(p.covs, maps)), x)
    drawn = jax.random.categorical(key, share[:, None] + joint[rows], axis=0)
    return q.means[columns[drawn]] + _turned(maps, drawn, x - p.means[rows[drawn]])


def _turned(matrices: Array, index: Array, vectors: Array) -> Array:
    """Return matrices[index[i]] @ vectors[i]; the matrices are gathered for a stretch of the points at a time."""

    def one(of: tuple[Array, Array]) -> Array:
        return product(matrices[of[0]], of[1])

    stretch = max(1, sizes.here().alive // vectors.shape[1] ** 2)
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
    p, q = both(p, q)
    t = as_times(t, (), p.means.dtype)
    if t.ndim:
        raise ValueError(f"t has shape {t.shape}: give one time in [0, 1].")
    rows, columns, mass = support(solve(p, q)[0].plan)
    p, q = alive(p), alive(q)
    means = (1 - t) * p.means[rows] + t * q.means[columns]
    return Mixture(mass, means, geodesic_cov(t, p.covs[rows], q.covs[columns]))


def sample(key: Key, p: Mixture | tuple, num: int) -> Float[Array, "n d"]:
    """Draw independent points from a mixture; its covariances may be singular.

    The points have no derivative in the covariances.

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
    return _sample(as_key(key), alive(as_mixture("p", p)), as_count("num", num))


@functools.partial(jax.jit, static_argnums=2)
def _sample(key: Key, p: Mixture, num: int) -> Array:
    component, normal = jax.random.split(key)
    index = jax.random.categorical(component, jnp.log(p.weights), shape=(num,))
    vectors = jax.random.normal(normal, (num, p.means.shape[1]), p.means.dtype)
    return p.means[index] + _turned(factor(p.covs).values, index, vectors)
