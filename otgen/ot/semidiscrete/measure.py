"""Cells of a semi-discrete map measured on fresh independent samples: masses, and chi2 with its standard error."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from otgen.ot.check import as_count, at_hand, is_traced, now, smallest_and_sum
from otgen.ot.semidiscrete.descent import among, centred, summed, winners
from otgen.ot.semidiscrete.scores import TILE
from otgen.ot.semidiscrete.source import independent
from otgen.types import Array, Float, Held, Int, Key, Sampler

_HASHED = 2**14  # rows hashed at a time
BLOCKS = 16  # samples come in this many blocks, for the standard error


class Counts(NamedTuple):
    """What a pass over fresh samples finds.

    Attributes:
      counts: samples per block and cell [BLOCKS, N], int32.
      primal_cost: mean of |x - T(x)|^2.
      dual_value: the dual objective of the cost |x - y|^2 at these heights, a lower bound of the distance squared.
      centre: mean of the samples [d].
      spread: mean of their squared distances from the mean.
    """

    counts: Array
    primal_cost: Array
    dual_value: Array
    centre: Array
    spread: Array


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

    The points may be shared out over a mapped axis, as in `descent.step`; the counts are then those of this block.
    Points of weight zero win nothing.

    Raises:
      ValueError: for fewer than 2 samples.
    """
    tiles, tile = split(as_count("num", num, 2))
    points, mean = centred(y, weights, points_axis)
    h = among(weights, h)

    def visit(carry, index):
        counts, cost, dual, centre, spread = carry
        x = independent(jax.random.fold_in(key, index), sampler, tile, y.shape[1], y.dtype)
        value, winner, here = winners(x, points, h, points_axis)
        centre, spread = centre + x.mean(0), spread + jnp.mean(jnp.sum((x - x.mean(0)) ** 2, 1))
        counts = counts.at[index // tiles, winner].add(here.astype(jnp.int32))
        cost = cost + jnp.mean(here * jnp.sum((x - y[winner]) ** 2, 1)).astype(cost.dtype)
        dual = dual + jnp.mean(jnp.sum((x - mean) ** 2, 1) - 2 * value).astype(dual.dtype)
        return (counts, cost, dual, centre, spread), None

    zero, total = jnp.zeros((), y.dtype), BLOCKS * tiles
    start = jnp.zeros((BLOCKS, y.shape[0]), jnp.int32), zero, zero, jnp.zeros(y.shape[1], y.dtype), zero
    (counts, cost, dual, centre, spread), _ = jax.lax.scan(visit, start, jnp.arange(total))
    constant = summed(weights * (jnp.sum(points**2, 1) + 2 * h), points_axis)
    cost = cost if points_axis is None else jax.lax.psum(cost, points_axis)
    return Counts(counts, cost / total, dual / total + constant, centre / total, spread / total)


@jax.jit
def chi2_of(counts: Int[Array, "blocks N"], weights: Float[Array, " N"]) -> tuple[Array, Array]:
    """Return the unbiased chi2 of counts and its standard error.

    sum_i c_i (c_i - 1) / nu_i / (B (B - 1)) - 1; the error leaves out one block at a time (a jackknife, on the safe
    side where chi2 is near 0). Points of weight zero have no part in it.
    """
    there = weights > 0

    def estimate(count):
        total = count.sum().astype(jnp.float32)
        pairs = count.astype(jnp.float32) * (count - 1).astype(jnp.float32) / (total * (total - 1))
        # 1 is subtracted term by term: the sum of pairs / weights is near 1 and would lose digits.
        return jnp.sum(jnp.where(there, pairs / jnp.where(there, weights, 1) - weights, 0))

    total, blocks = counts.sum(0), counts.shape[0]
    without = jax.vmap(lambda block: estimate(total - block))(counts)
    return estimate(total), jnp.sqrt((blocks - 1) * jnp.mean((without - without.mean()) ** 2))


def merge(y: Array, weights: Array) -> tuple[Array, Array, np.ndarray | None]:
    """Merge points that coincide, and leave those of weight zero out.

    Args:
      y: points [N, d]. weights: [N].

    Returns:
      Distinct points [M, d], summed weights [M], and the group of each point [N], -1 for one of weight zero; the group
      is None if all points differ and have weight, or inside jit, where it cannot be known.
    """
    if is_traced(y, weights):
        return y, weights, None
    lightest, _ = smallest_and_sum(weights)
    if lightest > 0 and not may_repeat(y):
        return y, weights, None
    mass = np.asarray(weights, np.float64)
    there = np.flatnonzero(mass > 0)
    unique, inverse = np.unique(np.asarray(y)[there], axis=0, return_inverse=True)
    if len(unique) == y.shape[0]:
        return y, weights, None
    groups = np.full(len(mass), -1)
    groups[there] = inverse.reshape(-1)
    total = np.bincount(groups[there], mass[there], minlength=len(unique))
    return jnp.asarray(unique), jnp.asarray(total, jnp.float32), groups


def may_repeat(y: Held) -> bool:
    """Return whether two rows have one hash, as equal rows do; of a device's points one bool comes home.

    Sorting a million rows takes several times their memory.
    """
    if not at_hand(y):
        return bool(now(_hashes_meet, y))
    y = np.asarray(y)
    factors = np.random.default_rng(0).integers(2**63, size=y.shape[1], dtype=np.uint64) | np.uint64(1)
    hashes = np.empty(len(y), np.uint64)
    for first in range(0, len(y), _HASHED):
        rows = np.ascontiguousarray(y[first : first + _HASHED], np.float64) + 0.0  # of -0 and 0 one
        bits = rows.view(np.uint64)
        bits ^= bits >> np.uint64(32)  # the low half of what was float32 is empty
        hashes[first : first + _HASHED] = (bits * factors).sum(1, dtype=np.uint64)
    hashes.sort()
    return bool((hashes[1:] == hashes[:-1]).any())


@jax.jit
def _hashes_meet(y: Array) -> Array:
    """Return whether two rows have the same two hashes of 32 bits, on the device that holds the points."""
    bits = jax.lax.bitcast_convert_type(jnp.where(y == 0, 0, y), jnp.uint32)  # of -0 and 0 one
    bits = bits.reshape(y.shape[0], -1)
    factors = np.random.default_rng(0).integers(2**32, size=(2, bits.shape[1]), dtype=np.uint32) | np.uint32(1)
    mixed = [(bits ^ (bits >> 15)) * factors[0], (bits ^ (bits >> 13)) * factors[1]]
    first, second = jax.lax.sort([jnp.sum(it, 1, dtype=jnp.uint32) for it in mixed], num_keys=2)
    return jnp.any((first[1:] == first[:-1]) & (second[1:] == second[:-1]))


def merge_heights(h: Array, groups: np.ndarray | None) -> Array:
    """Return heights of the merged points: the highest of each group, since that one wins."""
    if groups is None:
        return h
    there = np.flatnonzero(groups >= 0)
    return jax.ops.segment_max(h[there], jnp.asarray(groups[there]), int(groups.max()) + 1)


def repeated(values: Array, groups: np.ndarray | None, fill: float = 0.0) -> Array:
    """Return values of all points from those of the merged points; `fill` for points of weight zero."""
    if groups is None:
        return values
    return jnp.where(groups >= 0, values[np.maximum(groups, 0)], jnp.asarray(fill, values.dtype))
