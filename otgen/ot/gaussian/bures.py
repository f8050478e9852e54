"""The Bures-Wasserstein distance between covariances or their factors, entropic or not; computed by `spectrum`."""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.ot.check import as_array, is_traced, poison, require_nonnegative
from otgen.ot.gaussian.factors import as_covariances, matched
from otgen.ot.gaussian.spectrum import of_covariances, of_factors
from otgen.types import Array, Float


def bures_sq(cov_a: ArrayLike, cov_b: ArrayLike) -> Float[Array, "*batch"]:
    """Return the squared Bures-Wasserstein distance tr A + tr B - 2 tr (A^1/2 B A^1/2)^1/2.

    The distance is differentiable twice. Its derivative in A is I - T, where T is the optimal map from N(0, A) to
    N(0, B). At a singular A the derivative is that along changes within the range of A; along other changes the
    distance grows like a square root and has no derivative.

    Args:
      cov_a: covariances [..., d, d], symmetric and positive semi-definite; singular ones are fine.
      cov_b: covariances [..., d, d]; batches broadcast.

    Returns:
      The distance [...], in squared units of the points, not negative.

    Raises:
      ValueError: for matrices that are not square, of different dimensions, or (outside jit) not finite, not symmetric
        or indefinite.

    Example:
      >>> print(og.gaussian.bures_sq(jnp.eye(2), 4 * jnp.eye(2)))  # 2 (1 - 2)^2
      2.0

    Reference: Bhatia, Jain and Lim (2019), arXiv 1712.01504; Gelbrich (1990).
    """
    a, b = as_covariances("cov_a", cov_a, "cov_b", cov_b)
    return of_covariances(a, b)


def entropic_bures_sq(cov_a: ArrayLike, cov_b: ArrayLike, *, epsilon: ArrayLike) -> Float[Array, "*batch"]:
    """Return the entropic transport value between centred Gaussians for the cost |x - y|^2, in closed form.

    min_P E|x - y|^2 + epsilon KL(P | N(0, A) x N(0, B)). It tends to `bures_sq` as epsilon goes to 0, and to tr A +
    tr B as epsilon goes to infinity. It is smooth at singular covariances.

    Args:
      cov_a: covariances [..., d, d].
      cov_b: covariances [..., d, d]; batches broadcast.
      epsilon: temperature, absolute; zero allowed.

    Returns:
      The value [...], in squared units of the points; differentiable twice, in epsilon where it is positive.

    Raises:
      ValueError: as in `bures_sq`, or for a negative epsilon.

    Example:
      >>> a, b = jnp.eye(2), 4 * jnp.eye(2)
      >>> print(og.gaussian.entropic_bures_sq(a, b, epsilon=0.0))  # bures_sq
      2.0
      >>> print(og.gaussian.entropic_bures_sq(a, b, epsilon=1e5))  # to tr A + tr B = 10
      10.0

    Reference: Janati et al. (2020), arXiv 2006.02572, theorem 1, with 2 sigma^2 = epsilon.
    """
    a, b = as_covariances("cov_a", cov_a, "cov_b", cov_b)
    return of_covariances(a, b, 0.5 * not_negative("epsilon", epsilon, a.dtype))


def bures_sq_factors(factor_a: ArrayLike, factor_b: ArrayLike) -> Float[Array, "*batch"]:
    """Return the squared Bures-Wasserstein distance of A = F_a F_a' and B = F_b F_b', given the factors.

    It equals min_Q |F_a Q - F_b|^2 over (partial) isometries Q. This is more accurate and cheaper than the distance
    from covariances, and its gradient 2 (F_a - F_b V U') is finite everywhere. A factor with more columns than rows is
    best reduced by a QR decomposition beforehand.

    Args:
      factor_a: [..., d, p].
      factor_b: [..., d, q]; batches broadcast.

    Returns:
      The distance [...], in squared units of the points, not negative.

    Raises:
      ValueError: for arrays that are not matrices, of different numbers of rows, or (outside jit) not finite.

    Example:
      >>> print(og.gaussian.bures_sq_factors(jnp.array([[1.0], [0.0]]), jnp.array([[0.0], [2.0]])))  # 1 + 4
      5.0

    Reference: paper C (arXiv 2303.03027), the loss L^1; Bhatia, Jain and Lim (2019), theorem 1.
    """
    a, b = as_factor("factor_a", factor_a), as_factor("factor_b", factor_b)
    a, b = matched("factor_a", a, "factor_b", b, 2)
    return of_factors(a, b)


def perturbed_bures_sq_factors(
    factor_model: ArrayLike, factor_target: ArrayLike, *, tau: ArrayLike
) -> Float[Array, "*batch"]:
    """Return bures_sq(W W' + tau I, F F'), from the factors W [..., d, m] and F [..., d, q].

    The perturbed model has the factor [W, sqrt(tau) I]. This factor has full rank, so that the loss is smooth at every
    W if F has full rank too.

    Args:
      factor_model: W [..., d, m].
      factor_target: F [..., d, q].
      tau: perturbation; zero allowed.

    Returns:
      The loss [...]; differentiable twice, in tau where it is positive.

    Raises:
      ValueError: as in `bures_sq_factors`, or for a negative tau.

    Example:
      >>> print(og.gaussian.perturbed_bures_sq_factors(jnp.zeros((2, 1)), 2 * jnp.eye(2), tau=1.0))
      2.0

    Reference: paper C (arXiv 2303.03027), the smooth perturbative loss.
    """
    w = as_factor("factor_model", factor_model)
    root = jnp.sqrt(not_negative("tau", tau, w.dtype)) * jnp.eye(w.shape[-2], dtype=w.dtype)
    if not is_traced(tau) and tau == 0:
        return bures_sq_factors(w, factor_target)
    root = jnp.broadcast_to(root, w.shape[:-1] + root.shape[-1:])
    return bures_sq_factors(jnp.concatenate([w, root], -1), factor_target)


def as_factor(name: str, values: ArrayLike) -> Float[Array, "*batch d p"]:
    """Return factors [..., d, p] of float32 at least.

    Raises:
      ValueError: if they are not matrices, or (outside jit) not finite.
    """
    values = as_array(name, values)
    if values.ndim < 2 or 0 in values.shape[-2:]:
        raise ValueError(f"{name} has shape {values.shape}: give matrices, shape [..., d, p].")
    return values


def not_negative(name: str, number: ArrayLike, dtype: jnp.dtype) -> Array:
    """Return a number that is zero or more (NaN instead of another inside jit).

    Raises:
      ValueError: outside jit, for a negative or non-finite one.
    """
    require_nonnegative(name, number)
    number = jnp.asarray(number, dtype)
    return jnp.asarray(poison(number, number >= 0))
