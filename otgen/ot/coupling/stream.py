"""Batches of pairs for a loop on the host, made in pools: many pairs at a time, used several times if asked for."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from otgen.ot.check import as_count, as_key, require_function
from otgen.ot.coupling.batch import Batch
from otgen.ot.semidiscrete.pairing import Endless
from otgen.types import Array, Key

BYTES = 2**28  # of a pool
MOST = 2**16  # pairs of a pool: more are not made faster
_FEW = 16  # batches in a pool of plans within batches, which take as long each


def batches(
    coupling: Any,
    key: Key,
    batch_size: int,
    *,
    start: int = 0,
    num: int | None = None,
    repeats: int = 1,
    pool: int | None = None,
) -> Iterator[Batch]:
    """Iterate over batches of pairs, without end or `num` of them.

    Pairs are made in pools and handed out in batches. With `repeats` a pool is handed out so many times, each time in
    another order, which divides the cost of pairing by as much. Batch i is a function of the key, of i and of the
    sizes, so that a training that stopped after `start` batches goes on with the next, and makes one pool for it.

    Args:
      coupling: any with a method `pair(key, num)`.
      key: key of the whole stream.
      batch_size: pairs in a batch, B.
      start: number of the first batch.
      num: how many batches; None for no end: for a loop that breaks off, and refused by `list`, which would not return.
      repeats: how often each pair is used.
      pool: pairs made at a time, rounded down to whole batches; None for 65,536, or as many as 2^28 bytes hold. Plans
        within a batch, and couplings of one's own that do not say `rowwise = True`, are made batch by batch all the
        same, 16 of them in a pool if they are used again.

    Returns:
      An iterator of Batch, of arrays on the device.

    Raises:
      ValueError: at once, for what is no coupling, and sizes that are no positive whole numbers.

    Example:
      >>> coupling = og.coupling.Independent(jax.random.normal(jax.random.key(0), (100, 2)))
      >>> run = list(og.coupling.batches(coupling, jax.random.key(1), 8, num=6, repeats=3, pool=16))
      >>> print([int(jnp.sum(batch.index)) for batch in run[:2]] == [int(jnp.sum(batch.index)) for batch in run[2:4]])
      False
      >>> total = [sum(int(jnp.sum(batch.index)) for batch in run[i : i + 2]) for i in (0, 2, 4)]
      >>> print(total[0] == total[1] == total[2])  # the same 16 pairs, in other batches
      True
      >>> (again,) = og.coupling.batches(coupling, jax.random.key(1), 8, num=1, repeats=3, pool=16, start=5)
      >>> print(jnp.array_equal(again.x0, run[5].x0))
      True
    """
    require_function("coupling.pair", getattr(coupling, "pair", None))
    key, size, start = as_key(key), as_count("batch_size", batch_size), as_count("start", start, 0)
    repeats, rowwise = as_count("repeats", repeats), getattr(coupling, "rowwise", False)
    pool = (_fitting(coupling, size) if rowwise else _FEW * size) if pool is None else as_count("pool", pool)
    per_pool = max(1, pool // size) if rowwise or repeats > 1 else 1
    pools = _Pools(coupling, key, size, per_pool, repeats, rowwise)
    if num is None:
        return Endless(pools.batch, start)
    return map(pools.batch, range(start, start + as_count("num", num, 0)))


def _fitting(coupling: Any, size: int) -> int:
    """Return how many pairs a pool has room for, of a coupling whose pairs are all alike."""
    one = jax.eval_shape(lambda it, key: it.pair(key, 1), coupling, jax.random.key(0))
    return min(MOST, max(size, BYTES // sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(one))))


class _Pools:
    """Pools of pairs by their numbers, of which the last one made is kept."""

    def __init__(self, coupling: Any, key: Key, size: int, per_pool: int, repeats: int, rowwise: bool):
        self._coupling, self._key = coupling, key
        self._size, self._per_pool, self._repeats, self._rowwise = size, per_pool, repeats, rowwise
        self._held: tuple[int, Batch | None] = (-1, None)
        self._order: tuple[tuple[int, int], Array | None] = ((-1, 0), None)

    def batch(self, number: int) -> Batch:
        """Return the batch of a number."""
        pool, rest = divmod(number, self._per_pool * self._repeats)
        turn, place = divmod(rest, self._per_pool)
        if self._held[0] != pool:
            self._held = -1, None  # before the next one takes its room
            self._held = pool, self._made(jax.random.fold_in(self._key, pool))
        if self._order[0] != (pool, turn):
            self._order = (pool, turn), self._ordered(pool, turn)
        if self._per_pool == 1 and turn == 0:
            return self._held[1]
        return _taken(self._held[1], self._order[1], place, self._size)

    def _made(self, key: Key) -> Batch:
        if self._rowwise:
            return self._coupling.pair(key, self._per_pool * self._size)
        parts = [self._coupling.pair(jax.random.fold_in(key, i), self._size) for i in range(self._per_pool)]
        return parts[0] if len(parts) == 1 else jax.tree.map(lambda *of: jnp.concatenate(of), *parts)

    def _ordered(self, pool: int, turn: int) -> Array:
        num = self._per_pool * self._size
        if turn == 0:
            return jnp.arange(num)
        keys = jax.random.fold_in(jax.random.fold_in(self._key, pool), 1 + turn)
        return jax.random.permutation(keys, num)


@functools.partial(jax.jit, static_argnames="size")
def _taken(pool: Batch, order: Array, place: Array, size: int) -> Batch:
    rows = jax.lax.dynamic_slice_in_dim(order, place * size, size)
    return jax.tree.map(lambda leaf: leaf[rows], pool)
