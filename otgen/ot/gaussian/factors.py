"""Checks of covariance matrices, and their factors F with F F' = cov, which are exact for singular covariances too."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen.ot.check import at_hand, at_least_float32, is_traced, native, now, poison, require_broadcast, to_device
from otgen.ot.products import contract
from otgen.types import Array, Float, Held

NOISE = 4.0  # a pivot below so many roundings of the largest variance is taken for zero
ASYMMETRY = 1e-4  # of the largest entry; rounding of a float32 product makes far less, a wrong matrix far more


def as_covariance(name: str, cov: ArrayLike) -> Float[Array, "*batch d d"]:
    """Return covariances as symmetric arrays of float32 at least.

    Raises:
      ValueError: if they are not square matrices, or (outside jit) not finite, not symmetric or indefinite beyond
        rounding, with how far off they are.
    """
    cov = native(name, cov)
    if cov.ndim < 2 or cov.shape[-1] != cov.shape[-2] or cov.shape[-1] < 1:
        raise ValueError(f"{name} has shape {cov.shape}: give covariances as square matrices, shape [..., d, d].")
    dtype = at_least_float32(cov.dtype)
    if not is_traced(cov):
        _require_legal(name, cov, 1e3 * float(jnp.finfo(dtype).eps))
    return _symmetric(to_device(cov, dtype))


@jax.jit
def _symmetric(cov: Array) -> Array:
    return 0.5 * (cov + cov.mT)


def _require_legal(name: str, cov: Held, rounding: float) -> None:
    """Refuse what is no covariance. Of a legal array on a device only one bool comes to the host."""
    if at_hand(cov) or not now(_is_legal, cov, rounding):
        _check_values(name, np.asarray(cov), rounding)


@jax.jit
def _is_legal(cov: Array, rounding: Array) -> Array:
    cov = cov.astype(at_least_float32(cov.dtype))
    top = jnp.max(jnp.abs(cov), (-2, -1), keepdims=True)
    cov = cov / jnp.where(top > 0, top, 1.0)
    symmetric = jnp.max(jnp.abs(cov - cov.mT)) <= ASYMMETRY
    shifted = 0.5 * (cov + cov.mT) + jnp.maximum(rounding, 1e-30) * jnp.eye(cov.shape[-1], dtype=cov.dtype)
    return symmetric & jnp.isfinite(jnp.linalg.cholesky(shifted, symmetrize_input=False)).all()


def _check_values(name: str, cov: np.ndarray, rounding: float) -> None:
    cov = cov.astype(np.promote_types(cov.dtype, np.float32))
    if not np.isfinite(cov).all():
        raise ValueError(f"{name} has {np.count_nonzero(~np.isfinite(cov))} NaN or infinite entries: repair them.")
    top = np.abs(cov).max((-2, -1), initial=0).astype(np.float64)
    off = np.abs(cov - np.swapaxes(cov, -1, -2)).max((-2, -1), initial=0)
    if np.any(off > ASYMMETRY * top):
        raise ValueError(
            f"{name} is not symmetric: |cov - cov'| is {(off / np.maximum(top, 1e-300)).max():.2g} of its largest "
            "entry. Give (cov + cov') / 2 if that is what you mean."
        )
    d = cov.shape[-1]
    scale = np.where(top > 0, top, 1.0)[..., None, None]
    shifted = 0.5 * (cov + np.swapaxes(cov, -1, -2)).astype(np.float64) / scale + rounding * np.eye(d)
    try:
        np.linalg.cholesky(shifted)
    except np.linalg.LinAlgError:
        least = (np.linalg.eigvalsh(shifted).min(-1) - rounding) * scale[..., 0, 0]
        raise ValueError(
            f"{name} is indefinite: its smallest eigenvalue is {least.min():.3g}, its largest entry {top.max():.3g}. "
            "A covariance has none below zero; clip them, or add -min to the diagonal."
        ) from None


def as_covariances(name_a: str, a: ArrayLike, name_b: str, b: ArrayLike) -> tuple[Array, Array]:
    """Return two batches of covariances of one dimension, broadcast against each other.

    Raises:
      ValueError: as in `as_covariance`, or if dimensions or batches do not match.
    """
    a, b = as_covariance(name_a, a), as_covariance(name_b, b)
    return matched(name_a, a, name_b, b, 2)


def matched(name_a: str, a: Array, name_b: str, b: Array, rank: int) -> tuple[Array, Array]:
    """Broadcast the batches of two arrays and give them one type; the last `rank` axes are theirs.

    Raises:
      ValueError: if the rows have other dimensions, or the batches do not match.
    """
    if a.shape[-rank] != b.shape[-rank]:
        raise ValueError(f"{name_a} has dimension {a.shape[-rank]} and {name_b} {b.shape[-rank]}: give one dimension.")
    try:
        batch = np.broadcast_shapes(a.shape[:-rank], b.shape[:-rank])
    except ValueError:
        raise ValueError(
            f"{name_a} has shape {a.shape} and {name_b} {b.shape}: the batches {a.shape[:-rank]} and "
            f"{b.shape[:-rank]} do not broadcast."
        ) from None
    dtype = jnp.promote_types(a.dtype, b.dtype)
    a = jnp.broadcast_to(a, batch + a.shape[-rank:]).astype(dtype)
    return a, jnp.broadcast_to(b, batch + b.shape[-rank:]).astype(dtype)


def as_times(t: ArrayLike, batch: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """Return times in [0, 1] that broadcast with a batch; NaN for others inside jit.

    Raises:
      ValueError: for another shape, or (outside jit) a time outside of [0, 1].
    """
    t = native("t", t)
    require_broadcast("t", t.shape, "the covariances", batch)
    if not is_traced(t):
        values = np.asarray(t)
        if not np.all((values >= 0) & (values <= 1)):
            raise ValueError(f"t = {t}: give times in [0, 1].")
    t = jnp.asarray(t, dtype)
    return jnp.asarray(poison(t, (t >= 0) & (t <= 1)))


def after(values: Array, first: Array) -> Array:
    """Return `values`, which XLA then computes only when `first` is there. `first` must hold floating-point numbers.

    Two calls of LAPACK on batches can wait for each other for ever in XLA on a CPU, if one program has them side by
    side or in two loops (this was seen with jax 0.10 on two cores). A function that calls LAPACK twice therefore orders
    its calls by this one. The values do not change, not even where `first` holds numbers that are not finite.
    """
    seen = jnp.sum(jax.lax.stop_gradient(first))
    return values + 0 * jnp.where(jnp.isfinite(seen), seen, 0)


class Factors(NamedTuple):
    """F with F F' = cov, and the order in which its rows make it lower triangular.

    Attributes:
      values: F [..., d, d]; the columns beyond the rank are zero.
      order: [..., d] (int32), F[order] is lower triangular.
    """

    values: Array
    order: Array


def factor(cov: Array) -> Factors:
    """Return F [..., d, d] with F F' = cov.

    F is Cholesky's factor where the covariance has one. A singular covariance is factored by Cholesky's method with
    pivots, which stops at the rank. Eigenvalues that are mere rounding errors are dropped there, because a distance
    would contain their square roots, which are much larger. F is NaN where the covariance is not finite or is
    indefinite beyond rounding. The factor has no derivative; functions that need one define it themselves.
    """
    cov = jax.lax.stop_gradient(cov)
    batch, d = cov.shape[:-2], cov.shape[-1]
    cov = cov.reshape(-1, d, d)
    lower = jnp.linalg.cholesky(cov, symmetrize_input=False)
    sound = jnp.isfinite(jnp.diagonal(lower, axis1=-2, axis2=-1)).all(-1)  # a failure is NaN everywhere
    values, order = _pivoted(cov, lower, sound)
    return Factors(values.reshape(*batch, d, d), order.reshape(*batch, d))


def _pivoted(cov: Array, values: Array, done: Array) -> tuple[Array, Array]:
    """Return `values` [b, d, d], with the matrices not yet `done` factored by Cholesky's method with diagonal pivots.

    The factorisation stops at pivots at rounding level. It is a loop and not a condition, because a condition under
    vmap computes both of its sides, and it does without LAPACK for the reason that `after` gives.
    """
    b, d = cov.shape[:2]
    one = jnp.arange(b)
    diagonal = jnp.diagonal(cov, axis1=-2, axis2=-1)
    least = NOISE * jnp.finfo(cov.dtype).eps * jnp.max(diagonal, -1)

    def column(carry: tuple) -> tuple:
        k, values, order, left, worst = carry
        values = jnp.where((k > 0) | done[:, None, None], values, 0.0)
        i = jnp.argmax(left, -1).astype(jnp.int32)
        pivot = left[one, i]
        alive = pivot > least
        free = left > -jnp.inf
        worst = jnp.minimum(worst, jnp.min(jnp.where(free, left, 0.0), -1))
        rest = cov[one, i] - contract("bij,bj->bi", values, values[one, i])
        root = jnp.sqrt(jnp.where(alive, pivot, 1.0))[:, None]
        rest = jnp.where(alive[:, None] & free, rest / root, 0.0).at[one, i].set(jnp.where(alive, root[:, 0], 0.0))
        left = (left - rest**2).at[one, i].set(-jnp.inf)
        values = values.at[:, :, k].set(jnp.where(done[:, None], values[:, :, k], rest))
        # In the last column a matrix that is indefinite beyond rounding or not finite becomes NaN, as jit cannot raise.
        legal = done | ((worst >= -1e3 * least) & jnp.isfinite(jnp.sum(cov, (-2, -1))))
        values = jnp.where((k < d - 1) | legal[:, None, None], values, jnp.nan)
        return k + 1, values, order.at[:, k].set(jnp.where(done, order[:, k], i)), left, worst

    order = jnp.broadcast_to(jnp.arange(d, dtype=jnp.int32), (b, d))
    start = (jnp.where(jnp.all(done), d, 0), values, order, diagonal, jnp.zeros_like(least))
    _, values, order, _, _ = jax.lax.while_loop(lambda carry: carry[0] < d, column, start)
    return values, order


def left_inverse(factors: Factors) -> Array:
    """Return G [..., d, d] with G F = I on the columns of F that are not zero; its other rows are zero."""
    values, order = factors
    d = values.shape[-1]
    lower = jnp.take_along_axis(values, order[..., None], -2)
    dead = jnp.diagonal(lower, axis1=-2, axis2=-1) == 0
    eye = jnp.broadcast_to(jnp.eye(d, dtype=values.dtype), values.shape)
    # G reads the pivot rows alone: rows beyond the rank have only zeros in the columns right of it
    lower = jnp.where(dead[..., :, None] | dead[..., None, :], eye, lower)
    inverse = jax.scipy.linalg.solve_triangular(lower, eye, lower=True)
    inverse = jnp.where(dead[..., :, None], 0.0, inverse)
    return jnp.take_along_axis(inverse, jnp.argsort(order, -1)[..., None, :], -1)
