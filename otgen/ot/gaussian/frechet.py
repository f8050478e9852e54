"""The Frechet distance between the first two moments of samples, whole or gathered batch by batch."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jax.typing import ArrayLike

from otgen.ot.check import as_mass, as_points, is_traced, to_device
from otgen.ot.gaussian.bures import bures_sq_factors
from otgen.ot.products import product
from otgen.types import Array, Float


class Moments(NamedTuple):
    """The first two moments of a sample, in a form that can be merged with another sample's without loss.

    Attributes:
      count: number of samples [].
      mean: their mean [d].
      factor: R [d, d] with R' R = sum (x - mean)(x - mean)'. A factor keeps what the sum of squares would round away:
        with fewer samples than dimensions, its null space is exact.

    Example:
      >>> known = og.gaussian.moments(jnp.array([[0.0], [2.0]]))
      >>> print(known.count, known.mean, known.covariance())
      2. [1.] [[2.]]
    """

    count: Array
    mean: Array
    factor: Array

    def covariance(self) -> Float[Array, "d d"]:
        """Return the unbiased covariance [d, d].

        Raises:
          ValueError: for fewer than 2 samples (NaN inside jit): one sample says nothing about the spread.
        """
        _require_two("this", self.count)
        return product(self.factor.T, self.factor) / (self.count - 1)


def moments(features: ArrayLike, known: Moments | None = None, weights: ArrayLike | None = None) -> Moments:
    """Return the moments of features [n, d], merged with those of earlier batches if given.

    Args:
      features: a batch [n, d], n >= 1.
      known: moments so far.
      weights: how often each row counts [n], fractions and zeros allowed; once for None. Weights of importance, which
        mean the same at any total, count best for (sum w)^2 / sum w^2 rows together: multiply them by
        sum w / sum w^2.

    Returns:
      Moments, with the total of the weights as count.

    Raises:
      ValueError: for other shapes or (outside jit) non-finite features, or another dimension than the known one.

    Example:
      >>> first = og.gaussian.moments(jnp.array([[0.0, 1.0], [2.0, 1.0]]))
      >>> print(og.gaussian.moments(jnp.array([[4.0, 4.0]]), first).mean)
      [2. 2.]
      >>> twice = og.gaussian.moments(jnp.array([[0.0, 1.0], [2.0, 1.0]]), weights=jnp.array([1.0, 2.0]))
      >>> print(twice.count, twice.mean)
      3. [1.3333 1.]
    """
    if not (known is None or isinstance(known, Moments)):
        raise ValueError(f"known is a {type(known).__name__}: give Moments of earlier batches, or None.")
    features = as_points("features", features, least=1)
    if weights is None:
        new = _moments(features)
    else:
        weights = to_device(as_mass("weights", weights, features.shape[0], features.dtype), features.dtype)
        new = _weighted(features, weights)
    return new if known is None else merge(known, new)


@jax.jit
def _moments(features: Array) -> Moments:
    n, d = features.shape
    mean, centred = _centred(features)
    return Moments(jnp.asarray(n, features.dtype), mean, _triangle(jnp.concatenate([centred, _nothing(d, n, centred)])))


@jax.jit
def _weighted(features: Array, weights: Array) -> Moments:
    n, d = features.shape
    count = jnp.sum(weights)
    features = jnp.where(weights[:, None] > 0, features, 0.0)  # rows that do not count may be anything
    mean = product(weights, features) / count
    centred = features - mean
    rest = product(weights, centred) / count
    there = weights > 0
    rows = jnp.where(there, jnp.sqrt(jnp.where(there, weights, 1.0)), 0.0)[:, None] * (centred - rest)
    return Moments(count, mean + rest, _triangle(jnp.concatenate([rows, _nothing(d, n, rows)])))


def _centred(features: Array) -> tuple[Array, Array]:
    """Return the mean and the centred points, in two passes, as rounding spoils the first mean far from zero."""
    mean = features.mean(0)
    centred = features - mean
    rest = centred.mean(0)
    return mean + rest, centred - rest


def _nothing(d: int, n: int, like: Array) -> Array:
    """Return rows of zeros that fill n rows up to d."""
    return jnp.zeros((max(0, d - n), d), like.dtype)


@jax.custom_jvp
def _triangle(rows: Array) -> Array:
    return jnp.linalg.qr(rows, mode="r")


@_triangle.defjvp
def _triangle_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    # dR = (C - L + L') R with C = Q' dX R^-1 and L what of it is below the diagonal: jax's own rounds these products.
    q, r = jnp.linalg.qr(primals[0])
    change = solve_triangular(r.T, product(q.T, tangents[0]).T, lower=True).T
    below = jnp.tril(change, -1)
    return r, product(change - below + below.T, r)


def merge(a: Moments, b: Moments) -> Moments:
    """Return the moments of two samples together; order does not matter beyond rounding.

    For several devices, gather the moments of each and merge them one after another.

    Raises:
      ValueError: if their dimensions differ.

    Example:
      >>> one, two = og.gaussian.moments(jnp.array([[0.0], [2.0]])), og.gaussian.moments(jnp.array([[4.0], [6.0]]))
      >>> both = og.gaussian.merge(one, two)
      >>> print(both.count, both.mean, both.covariance(), np.var([0, 2, 4, 6], ddof=1))
      4. [3.] [[6.6667]] 6.6667
    """
    for it in (a, b):
        if not isinstance(it, Moments):
            raise ValueError(f"a {type(it).__name__} is given for Moments: take those of features with moments().")
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"moments of dimension {a.mean.shape[-1]} and {b.mean.shape[-1]}: use one feature extractor.")
    return _merge(a, b)


@jax.jit
def _merge(a: Moments, b: Moments) -> Moments:
    count = a.count + b.count
    shift = b.mean - a.mean
    between = jnp.sqrt(a.count * b.count / count) * shift
    rows = jnp.concatenate([a.factor, b.factor, between[None]])
    return Moments(count, a.mean + b.count / count * shift, _triangle(rows))


def frechet_distance(features_a: ArrayLike | Moments, features_b: ArrayLike | Moments) -> Float[Array, ""]:
    """Return the squared 2-Wasserstein distance between Gaussians fitted to two sets of features.

    It is |mean_a - mean_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2) with unbiased covariances A, B. It is computed from
    factors of the covariances, so that it is also right with fewer samples than dimensions. It is differentiable (once)
    in the features.

    Args:
      features_a: [n, d], or Moments, which may be weighted.
      features_b: [m, d], or Moments.

    Returns:
      The distance, a scalar in squared units of the features.

    Raises:
      ValueError: for other shapes, different dimensions, fewer than 2 samples, or (outside jit) non-finite features.

    Example:
      >>> x = jax.random.normal(jax.random.key(0), (100, 3))
      >>> print(og.gaussian.frechet_distance(x, x + jnp.array([1.0, 2.0, 0.0])))  # |shift|^2
      5.0

    Reference: Dowson and Landau (1982); Heusel et al. (2017), arXiv 1706.08500.
    """
    (mean_a, rows_a), (mean_b, rows_b) = _rows("features_a", features_a), _rows("features_b", features_b)
    if mean_a.shape != mean_b.shape:
        raise ValueError(
            f"features_a has {mean_a.shape[0]} columns and features_b {mean_b.shape[0]}: use one feature extractor."
        )
    dtype = jnp.promote_types(rows_a.dtype, rows_b.dtype)
    return jnp.sum((mean_a - mean_b) ** 2) + _between(rows_a.astype(dtype), rows_b.astype(dtype))


def _rows(name: str, features: ArrayLike | Moments) -> tuple[Array, Array]:
    """Return the mean, and rows R with R' R equal to the unbiased covariance."""
    if not isinstance(features, Moments):
        x = as_points(name, features)
        mean, centred = _centred(x)
        return mean, centred / jnp.sqrt(x.shape[0] - 1.0).astype(x.dtype)
    _require_two(name, features.count)
    return features.mean, features.factor / jnp.sqrt(features.count - 1)


def _require_two(name: str, count: Array) -> None:
    if not is_traced(count) and np.any(np.asarray(count) < 2):
        raise ValueError(
            f"{name} holds moments of {np.min(count):.0f} sample(s): at least 2 are needed for a covariance; merge "
            "those of more batches first."
        )


@jax.custom_jvp
def _between(a: Array, b: Array) -> Array:
    """Return the Bures distance of the covariances a' a and b' b, given the rows a [n, d] and b [m, d]."""
    return _value(a, b)


@jax.jit
def _value(a: Array, b: Array) -> Array:
    return bures_sq_factors(_triangle(a).T, _triangle(b).T)


@_between.defjvp
def _between_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    # With rows = Q R the distance is a function of R, so only the part of a change that lies in the range of Q counts.
    (qa, ra), (qb, rb) = (jnp.linalg.qr(jax.lax.stop_gradient(rows)) for rows in primals)
    changes = (product(qa.T, tangents[0]), product(qb.T, tangents[1]))
    return jax.jvp(lambda a, b: bures_sq_factors(a.T, b.T), (ra, rb), changes)
