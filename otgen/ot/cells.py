"""Cells of a semi-discrete map measured on fresh independent samples: masses, and chi2 with its standard error."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from otgen.ot.check import is_traced
from otgen.ot.heights import centred, summed, winners
from otgen.ot.scores import TILE
from otgen.types import Array, Key, Sampler

_HASHED = 2**14  # rows hashed at a time
BLOCKS = 16  # samples come in this many blocks, for the standard error


class Counts(NamedTuple):
    """What a pass over fresh samples finds.

    Attributes:
      counts: samples per block and cell [BLOCKS, N], int32.
      primal_cost: mean of |x - T(x)|^2.
      dual_value: the dual objective of the cost |x - y|^2 at these heights, a lower bound of the distance squared.
    """

    counts: Array
    primal_cost: Array
    dual_value: Array


def split(num: int) -> tuple[int, int]:
    """Split about `num` samples into BLOCKS equal blocks of whole tiles: (tiles per block, samples per tile)."""
    tile = min(TILE, max(1, -(-num // BLOCKS)))
    return -(-num // (BLOCKS * tile)), tile


@functools.partial(jax.jit, static_argnames=("num", "sampler", "points_axis"))
def count(
    key: Key,
    y: Float[Array, "N d"],
    weights: Float[Array, " N"],
    h: Float[Array, " N"],
    num: int,
    sampler: Sampler,
    points_axis: str | None = None,
) -> Counts:
    """Count where `num` fresh independent samples fall (rounded up to 16 blocks of whole tiles of at most 4096).

    The points may be shared out over a mapped axis, as in `heights.step`; the counts are then those of this block.

    Raises:
      ValueError: for fewer than 2 samples, or heights of another number of points.
    """
    if num < 2:
        raise ValueError(f"num = {num} samples: at least 2 are needed.")
    points, mean = centred(y, weights, points_axis)
    tiles, tile = split(num)

    def visit(carry, index):
        counts, cost, dual = carry
        x = sampler(jax.random.fold_in(key, index), tile, y.shape[1])
        value, winner, here = winners(x, points, h, points_axis)
        counts = counts.at[index // tiles, winner].add(here.astype(jnp.int32))
        cost = cost + jnp.mean(here * jnp.sum((x - y[winner]) ** 2, 1)).astype(cost.dtype)
        dual = dual + jnp.mean(jnp.sum((x - mean) ** 2, 1) - 2 * value).astype(dual.dtype)
        return (counts, cost, dual), None

    zero = jnp.zeros((), y.dtype)
    start = jnp.zeros((BLOCKS, y.shape[0]), jnp.int32), zero, zero
    (counts, cost, dual), _ = jax.lax.scan(visit, start, jnp.arange(BLOCKS * tiles))
    constant = summed(weights * (jnp.sum(points**2, 1) + 2 * h), points_axis)
    cost = cost if points_axis is None else jax.lax.psum(cost, points_axis)
    return Counts(counts, cost / (BLOCKS * tiles), dual / (BLOCKS * tiles) + constant)


def chi2_of(counts: Int[Array, "blocks N"], weights: Float[Array, " N"]) -> tuple[Array, Array]:
    """Return the unbiased chi2 of counts and its standard error.

    sum_i c_i (c_i - 1) / nu_i / (B (B - 1)) - 1; the error leaves out one block at a time (a jackknife, on the safe
    side where chi2 is near 0).
    """

    def estimate(count):
        total = count.sum().astype(jnp.float32)
        pairs = count.astype(jnp.float32) * (count - 1).astype(jnp.float32) / (total * (total - 1))
        # 1 is subtracted term by term: the sum of pairs / weights is near 1 and would lose digits.
        return jnp.sum(pairs / weights - weights)

    total, blocks = counts.sum(0), counts.shape[0]
    without = jax.vmap(lambda block: estimate(total - block))(counts)
    return estimate(total), jnp.sqrt((blocks - 1) * jnp.mean((without - without.mean()) ** 2))


def merge(y: Array, weights: Array) -> tuple[Array, Array, np.ndarray | None]:
    """Merge points that coincide.

    Args:
      y: points [N, d]. weights: [N].

    Returns:
      Distinct points [M, d], summed weights [M], and the group of each point [N]; the group is None if all points
      differ, or inside jit, where it cannot be known.
    """
    if is_traced(y, weights):
        return y, weights, None
    if not _may_repeat(np.asarray(y)):
        return y, weights, None
    unique, inverse = np.unique(np.asarray(y), axis=0, return_inverse=True)
    if len(unique) == y.shape[0]:
        return y, weights, None
    inverse = inverse.reshape(-1)
    total = np.bincount(inverse, np.asarray(weights, np.float64), minlength=len(unique))
    return jnp.asarray(unique), jnp.asarray(total, jnp.float32), inverse


def _may_repeat(y: np.ndarray) -> bool:
    """Whether two rows have one hash, as equal rows do: sorting a million rows takes several times their memory."""
    factors = np.random.default_rng(0).integers(2**63, size=y.shape[1], dtype=np.uint64) | np.uint64(1)
    hashes = np.empty(len(y), np.uint64)
    for first in range(0, len(y), _HASHED):
        rows = np.ascontiguousarray(y[first : first + _HASHED], np.float64) + 0.0  # of -0 and 0 one
        bits = rows.view(np.uint64)
        bits ^= bits >> np.uint64(32)  # the low half of what was float32 is empty
        hashes[first : first + _HASHED] = (bits * factors).sum(1, dtype=np.uint64)
    hashes.sort()
    return bool((hashes[1:] == hashes[:-1]).any())


def merge_heights(h: Array, groups: np.ndarray | None) -> Array:
    """Heights of the merged points: the highest of each group, since that one wins."""
    if groups is None:
        return h
    return jax.ops.segment_max(h, jnp.asarray(groups), int(groups.max()) + 1)
