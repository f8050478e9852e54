"""Critical points of deep linear generators: their values, Hessian spectra, minimisers.

At a critical point of B^2(W W' + tau I, target) the generator's covariance W W' has eigenvectors of the target, with
eigenvalues lam_i - tau for i in a subset J and 0 elsewhere. The critical points of |W W' - target|_F^2 are the same
with tau = 0. The best subset holds the largest eigenvalues, as in principal component analysis.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from otgen.ot.check import as_array, as_count, is_traced, smallest_and_sum
from otgen.ot.products import product
from otgen.theory.dynamics import as_chain, as_kind, as_target, as_tau, loss_from_factor, root_of
from otgen.types import Array, Float, Int

MOST = 100_000  # critical points that are listed without `num`


class Critical(NamedTuple):
    """Critical points, best first.

    Attributes:
      subsets: [S, rank] (int32), the eigenvalues kept, counted from the largest.
      values: [S], their losses.
    """

    subsets: Int[Array, "S rank"]
    values: Float[Array, "S"]


def critical_points(
    target: ArrayLike | Sequence[ArrayLike], rank: int, *, tau: ArrayLike = 0.0, num: int | None = None
) -> Critical:
    """Return the critical points of the Bures loss that keep `rank` eigenvalues of the target.

    The loss of a subset J is the sum of (sqrt lam_i - sqrt tau)^2 over i not in J. An eigenvalue of J below tau
    can only be approached, with generator eigenvalue 0, and counts as not kept.

    Args:
      target: covariance [n, n], or its eigenvalues [n].
      rank: how many eigenvalues are kept.
      tau: perturbation.
      num: return only so many of the best, found without visiting the others; None for all.

    Returns:
      The critical points, in order of increasing loss.

    Raises:
      ValueError: for a rank that is not in 1 ... n, a bad target or tau, or more than 100,000 points and no `num`.

    Reference: paper C (arXiv 2303.03027), the theorem on critical points and minimisers.
    """
    lam = np.asarray(eigenvalues(target), np.float64)
    _check_rank(rank, lam.size)
    count = math.comb(lam.size, rank)
    if num is None and count > MOST:
        raise ValueError(
            f"rank {rank} of {lam.size} eigenvalues makes {count} critical points: give num, the number of the best "
            "that you need."
        )
    if num is not None:
        num = as_count("num", num)
    tau = _tau_value(tau)
    missing = _missing(lam, tau)
    gain = np.where(lam > tau, missing, 0.0)  # by how much keeping an eigenvalue lowers the loss
    best = _best_subsets(gain.tolist(), rank)
    subsets = np.array([next(best) for _ in range(count if num is None else min(num, count))], np.int32)
    kept = np.zeros((len(subsets), lam.size), bool)
    np.put_along_axis(kept, subsets, True, 1)
    values = np.where(kept, missing - gain, missing).sum(1)
    order = np.argsort(values, kind="stable")  # sums that are taken in another order may differ by a rounding
    return Critical(jnp.asarray(subsets[order]), jnp.asarray(values[order]))


def _best_subsets(gain: list[float], rank: int) -> Iterator[tuple[int, ...]]:
    """Yield subsets of positions in a descending list, by decreasing sum.

    Every subset is reached from {0, ..., rank-1} by moving one member one place down at a time. It is reached along one
    way only, because the member that moves is either the first that has left its place or the last that has not.
    """
    first = tuple(range(rank))
    heap = [(-sum(gain[:rank]), first)]
    while heap:
        cost, subset = heapq.heappop(heap)
        yield subset
        front = next((place for place, i in enumerate(subset) if i != place), rank)
        for place in (front - 1, front):
            if not 0 <= place < rank:
                continue
            after = subset[place] + 1
            if after < (subset[place + 1] if place + 1 < rank else len(gain)):
                moved = (*subset[:place], after, *subset[place + 1 :])
                heapq.heappush(heap, (cost + gain[after - 1] - gain[after], moved))


def minimum(target: ArrayLike | Sequence[ArrayLike], rank: int, tau: ArrayLike = 0.0) -> Float[Array, ""]:
    """Return the least Bures loss of a generator of a given rank; may be jitted.

    Args:
      target: covariance [n, n], or its eigenvalues [n].
      rank: largest rank of the generator, its bottleneck min_j d_j.
      tau: perturbation.

    Returns:
      The sum of (sqrt lam_i - sqrt tau)^2 over all but the `rank` largest, and over those of them that are below tau.

    Raises:
      ValueError: for a rank that is not in 1 ... n, or a bad target or tau.

    Reference: paper C (arXiv 2303.03027); for tau = 0 Eckart and Young (1936).
    """
    lam = eigenvalues(target)
    _check_rank(rank, lam.size)
    tau = _tau(tau, lam.dtype)
    kept = (jnp.arange(lam.size) < rank) & (lam >= tau)
    return jnp.sum(jnp.where(kept, 0.0, _missing(jnp.where(kept, 1.0, lam), tau)))


def minimiser(target: ArrayLike, rank: int, tau: ArrayLike = 0.0) -> Float[Array, "n n"]:
    """Return the generator's covariance of least Bures loss: the largest eigenpairs, with eigenvalues (lam_i - tau)_+.

    Args:
      target: covariance [n, n].
      rank: largest rank of the generator, its bottleneck min_j d_j.
      tau: perturbation.

    Returns:
      The covariance [n, n], unique if lam_rank > lam_(rank+1).

    Raises:
      ValueError: as in `minimum`.

    Reference: paper C (arXiv 2303.03027), the theorem on critical points and minimisers.
    """
    target = as_target(target)
    _check_rank(rank, target.shape[0])
    lam, vectors = jnp.linalg.eigh(target)
    kept = jnp.maximum(lam - _tau(tau, lam.dtype), 0.0)[-rank:]
    return product(vectors[:, -rank:] * kept, vectors[:, -rank:].mT)


def weights_at(
    target: ArrayLike | Sequence[ArrayLike],
    subset: Sequence[int] | ArrayLike,
    widths: Sequence[int],
    tau: ArrayLike = 0.0,
) -> tuple[Float[Array, "_ _"], ...]:
    """Return balanced weights at the critical point of a subset of eigenvalues.

    Each layer has (lam_i - tau)^(1 / 2N) on its diagonal; the last one is then multiplied by the eigenvectors.

    Args:
      target: covariance [n, n], or its eigenvalues [n], largest first, for a diagonal one.
      subset: the eigenvalues kept, counted from the largest; may be empty.
      widths: (d_0, ..., d_N).
      tau: perturbation; give 0 for the Frobenius loss.

    Returns:
      (W_1, ..., W_N), W_j [d_j, d_(j-1)].

    Raises:
      ValueError: for a subset that repeats or lies outside the eigenvalues or is larger than the bottleneck, widths
        that do not end at n, or a bad target or tau.

    Reference: paper C (arXiv 2303.03027), the theorem on critical points and minimisers.
    """
    lam, vectors = _eigenpairs(target)
    subset, widths = _check_subset(subset, widths, lam.size)
    columns = [*subset, *(i for i in range(lam.size) if i not in subset)]
    kept = jnp.maximum(lam[np.array(subset, int)] - _tau(tau, lam.dtype), 0.0) ** (0.5 / (len(widths) - 1))
    place = np.arange(len(subset))
    layers = [jnp.zeros((high, low), lam.dtype).at[place, place].set(kept) for low, high in itertools.pairwise(widths)]
    return (*layers[:-1], product(vectors[:, np.array(columns)], layers[-1]))


def hessian(
    weights: Sequence[ArrayLike], target: ArrayLike, *, tau: ArrayLike = 0.0, kind: str = "bures"
) -> Float[Array, "P P"]:
    """Return the Hessian of the loss in all weights, by automatic differentiation.

    Args:
      weights: (W_1, ..., W_N).
      target: covariance [n, n].
      tau: perturbation of the Bures loss; the Frobenius loss has none and ignores it.
      kind: which loss, "bures" or "frobenius".

    Returns:
      [P, P], the weights in the order W_1, ..., W_N, each by rows. For tau = 0 the Bures loss has no Hessian at an
      end-to-end matrix of lower rank than the bottleneck, and the numbers returned there have no meaning.

    Raises:
      ValueError: for weights that do not chain, a bad target or tau, or an unknown loss.

    Reference: paper C (arXiv 2303.03027), the Hessian of L^N.
    """
    weights, kind = as_chain(weights), as_kind(kind)
    factor = root_of(as_target(target, weights[-1].shape[0]))
    return _hessian(weights, factor, as_tau(tau), kind)


def _hessian_of(weights: tuple[Array, ...], factor: Array, tau: Array | None, kind: str) -> Array:
    flat, unravel = ravel_pytree(weights)
    tau = 0.0 if tau is None else tau
    return jax.hessian(lambda x: loss_from_factor(unravel(x), factor, tau=tau, kind=kind))(flat)


_hessian = jax.jit(_hessian_of, static_argnums=3)


def hessian_spectrum(
    target: ArrayLike | Sequence[ArrayLike],
    subset: Sequence[int] | ArrayLike,
    widths: Sequence[int],
    *,
    tau: ArrayLike = 0.0,
    kind: str = "bures",
) -> Float[Array, "P"]:
    """Return the eigenvalues of the Hessian at the balanced critical point of a subset, in closed form.

    At this point the second order of the loss depends on the change of the end-to-end matrix W alone. In the basis of
    the singular vectors the change dW_ij is coupled to dW_ji only; see `_Form`. So the P x P matrix consists of blocks
    of two rows at most.

    Args:
      target: covariance [n, n], or its eigenvalues [n], largest first.
      subset: the eigenvalues kept, counted from the largest; may be empty.
      widths: (d_0, ..., d_N), d_N = n.
      tau: perturbation of the Bures loss; the Frobenius loss has none and ignores it.
      kind: which loss, "bures" or "frobenius".

    Returns:
      All P = sum_j d_j d_(j-1) eigenvalues, smallest first.

    Raises:
      ValueError: as in `weights_at`, for an unknown loss, or for the Bures loss with tau = 0 and fewer eigenvalues kept
        than the bottleneck allows, where it is not differentiable.

    Reference: paper C (arXiv 2303.03027), the Hessian of L^N at critical points.
    """
    lam = np.asarray(eigenvalues(target), np.float64)
    subset, widths = _check_subset(subset, widths, lam.size)
    tau = _tau_value(tau) if as_kind(kind) == "bures" else 0.0
    lam = lam[[*subset, *(i for i in range(lam.size) if i not in subset)]]
    squares = np.zeros(max(widths[0], widths[-1]))
    squares[: len(subset)] = np.maximum(lam[: len(subset)] - tau, 0.0)
    rank, bottleneck = np.count_nonzero(squares), min(widths)
    if kind == "bures" and tau == 0 and rank < bottleneck:
        raise ValueError(
            f"the Bures loss with tau = 0 is not differentiable at rank {rank} below the bottleneck {bottleneck}: keep "
            f"{bottleneck} positive eigenvalues, or give tau > 0."
        )
    lam = np.pad(lam, (0, squares.size - lam.size))
    form = _bures_form(lam, squares, tau) if kind == "bures" else _frobenius_form(lam, squares)
    values = _block_eigenvalues(form, _gains(squares, widths))
    num = sum(low * high for low, high in itertools.pairwise(widths))
    return jnp.asarray(np.sort(np.concatenate([values, np.zeros(num - values.size)])))


class _Form(NamedTuple):
    """The Hessian of L^1 in dW: own_ii dW_ii^2, and own_ij dW_ij^2 + own_ji dW_ji^2 + 2 cross_ij dW_ij dW_ji."""

    own: np.ndarray
    cross: np.ndarray


def _bures_form(lam: np.ndarray, squares: np.ndarray, tau: float) -> _Form:
    length = np.sqrt(squares + tau)
    cosine = _ratio(np.sqrt(squares), length, 0.0)
    sine = _ratio(np.sqrt(tau), length, 1.0)  # the other part of the singular vectors of [W, sqrt(tau) I]
    s = np.sqrt(lam) * length
    total = s[:, None] + s
    own = 2 - 2 * _ratio(lam[:, None] * sine**2, s[:, None]) - 2 * _ratio(lam[:, None] * cosine**2, total)
    np.fill_diagonal(own, 2 - 2 * _ratio(lam * sine**2, s))
    root = np.sqrt(lam) * cosine
    return _Form(own, 2 * _ratio(np.outer(root, root), total))


def _frobenius_form(lam: np.ndarray, squares: np.ndarray) -> _Form:
    own = 4 * squares + 4 * (squares - lam)[:, None]
    np.fill_diagonal(own, 8 * squares + 4 * (squares - lam))
    root = np.sqrt(squares)
    return _Form(own, 4 * np.outer(root, root))


def _ratio(top: np.ndarray | float, bottom: np.ndarray, other: float = 0.0) -> np.ndarray:
    top, bottom = np.broadcast_arrays(top, bottom)
    return np.divide(top, bottom, out=np.full(top.shape, other), where=bottom > 0)


def _gains(squares: np.ndarray, widths: list[int]) -> np.ndarray:
    """Return |p_ij|, where dW_ij = sum_l p_ij[l] X_l,ij: how strongly the layers together change an entry of W."""
    depth, size = len(widths) - 1, squares.size
    diagonal = squares ** (0.5 / depth)
    total = np.zeros((size, size))
    for layer in range(1, depth + 1):
        exists = np.outer(np.arange(size) < widths[layer], np.arange(size) < widths[layer - 1])
        total += exists * np.outer(diagonal ** (2 * (depth - layer)), diagonal ** (2 * (layer - 1)))
    total[widths[-1] :], total[:, widths[0] :] = 0.0, 0.0
    return np.sqrt(total)


def _block_eigenvalues(form: _Form, gain: np.ndarray) -> np.ndarray:
    """Return the eigenvalues of diag(p) M diag(p) for the entries of W that some layer changes."""
    own = form.own * gain**2
    i, j = np.triu_indices(len(gain), 1)
    pair = (gain[i, j] > 0) & (gain[j, i] > 0)
    single = (gain > 0) & ~((gain.T > 0) & ~np.eye(len(gain), dtype=bool))
    i, j = i[pair], j[pair]
    middle, half = 0.5 * (own[i, j] + own[j, i]), 0.5 * (own[i, j] - own[j, i])
    radius = np.hypot(half, form.cross[i, j] * gain[i, j] * gain[j, i])
    return np.concatenate([own[single], middle - radius, middle + radius])


def eigenvalues(target: ArrayLike | Sequence[ArrayLike]) -> Float[Array, "n"]:
    """Return the eigenvalues of a covariance, or of a list of them, largest first, none below 0.

    Raises:
      ValueError: for an array that is neither, or (outside jit) eigenvalues that are negative or not finite.
    """
    return _eigenpairs(target)[0]


def _eigenpairs(target: ArrayLike | Sequence[ArrayLike]) -> tuple[Array, Array]:
    target = as_array("target", target)
    if target.ndim == 2:
        lam, vectors = jnp.linalg.eigh(as_target(target))
        return jnp.maximum(lam[::-1], 0.0), vectors[:, ::-1]
    if target.ndim != 1 or target.size == 0:
        raise ValueError(f"target has shape {target.shape}: give a covariance [n, n], or its eigenvalues [n].")
    if not is_traced(target) and (least := smallest_and_sum(target)[0]) < 0:
        raise ValueError(f"target has an eigenvalue of {least}: a covariance has none below 0.")
    order = jnp.argsort(-target)
    return target[order], jnp.eye(target.size, dtype=target.dtype)[:, order]


def _missing(lam: np.ndarray | Array, tau: float | Array) -> np.ndarray | Array:
    return (lam**0.5 - tau**0.5) ** 2


def _tau(tau: ArrayLike, dtype: jnp.dtype) -> Array:
    known = as_tau(tau)
    return jnp.zeros((), dtype) if known is None else known.astype(dtype)


def _tau_value(tau: ArrayLike) -> float:
    as_tau(tau)
    return float(tau)


def _check_rank(rank: int, n: int) -> None:
    if not 1 <= as_count("rank", rank, least=-n) <= n:
        raise ValueError(f"rank = {rank}: give a rank from 1 to {n}, the dimension of the target.")


def _check_subset(subset: Sequence[int] | ArrayLike, widths: Sequence[int], n: int) -> tuple[list[int], list[int]]:
    subset = [as_count("an index of subset", i, least=-n) for i in np.asarray(subset).reshape(-1).tolist()]
    widths = [as_count("one of widths", width) for width in widths]
    if len(widths) < 2 or widths[-1] != n:
        raise ValueError(
            f"widths = {tuple(widths)}: give (d_0, ..., d_N), positive, the last equal to {n}, the dimension of the "
            "target."
        )
    if len(set(subset)) < len(subset) or not all(0 <= i < n for i in subset):
        raise ValueError(f"subset = {tuple(subset)}: give different indices from 0 to {n - 1}.")
    if len(subset) > min(widths):
        raise ValueError(
            f"subset = {tuple(subset)} keeps {len(subset)} eigenvalues, but the widths {tuple(widths)} let "
            f"{min(widths)} through: keep fewer, or widen the generator."
        )
    return subset, widths
