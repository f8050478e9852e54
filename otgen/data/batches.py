"""Batches in a fixed shuffled order: a pure function of the key and the step, so that a run can resume anywhere."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import jax
import numpy as np

from otgen.data.mapped import taken
from otgen.ot.check import as_count, as_key, require_kind
from otgen.types import Key


@functools.lru_cache(maxsize=2)
def _order(seed: tuple[int, ...], epoch: int, num: int) -> np.ndarray:
    return np.random.default_rng([*seed, epoch]).permutation(num)


def batch_index(key: Key, step: int, num: int, batch_size: int) -> np.ndarray:
    """Return the rows [batch_size] of the batch at a step; every epoch is a permutation, its remainder dropped.

    Args:
      key: the key of the run.
      step: the training step, from 0.
      num: rows in the data set.
      batch_size: rows in a batch, over all hosts; at most `num`.

    Raises:
      ValueError: if a batch is larger than the data set, for negative or broken numbers, and for what is no key.

    Example:
      >>> key = jax.random.key(0)
      >>> epoch = np.concatenate([og.data.batch_index(key, step, 6, 2) for step in range(3)])
      >>> print(np.sort(epoch))
      [0 1 2 3 4 5]
    """
    batch_size, step, num = as_count("batch_size", batch_size), as_count("step", step, 0), as_count("num", num)
    if batch_size > num:
        raise ValueError(f"batch_size = {batch_size} for a data set of {num} rows: choose 1 to {num}.")
    per_epoch = num // batch_size
    seed = tuple(int(word) for word in np.asarray(jax.random.key_data(as_key(key))).ravel())
    start = (step % per_epoch) * batch_size
    return _order(seed, step // per_epoch, num)[start : start + batch_size]


def batches(
    key: Key, arrays: tuple[np.ndarray, ...], batch_size: int, *, start: int = 0, stop: int
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield the batches of steps start..stop-1.

    Args:
      key: the key of the run; the same key and step give the same batch.
      arrays: arrays that share their first axis; of memory-mapped ones only the rows of a batch are in memory.
      batch_size: rows over all hosts, divisible by their number; each host yields its own share.
      start, stop: the steps wanted.

    Raises:
      ValueError: for arrays of different length, broken numbers, and what is no key; if the batch does not divide among
        the hosts, or, with the first batch, is larger than the data set.

    Example:
      >>> images, labels = np.arange(6)[:, None], np.arange(6)
      >>> for x, label in og.data.batches(jax.random.key(0), (images, labels), 2, stop=2):
      ...     print(x.shape, (x[:, 0] == label).all())
      (2, 1) True
      (2, 1) True
    """
    hosts, host, batch_size = jax.process_count(), jax.process_index(), as_count("batch_size", batch_size)
    require_kind("arrays", arrays, tuple), as_key(key)
    start, stop, lengths = as_count("start", start, 0), as_count("stop", stop, 0), {len(array) for array in arrays}
    if len(lengths) != 1:
        raise ValueError(f"arrays have {sorted(lengths)} rows: give one array or more, all of the same length.")
    if batch_size % hosts:
        raise ValueError(f"batch_size = {batch_size} does not divide among {hosts} hosts: choose a multiple.")
    share = batch_size // hosts
    return _shares(key, arrays, batch_size, slice(host * share, (host + 1) * share), range(start, stop))


def _shares(
    key: Key, arrays: tuple[np.ndarray, ...], batch_size: int, share: slice, steps: range
) -> Iterator[tuple[np.ndarray, ...]]:
    for step in steps:
        rows = batch_index(key, step, len(arrays[0]), batch_size)[share]
        yield tuple(taken(array, rows) for array in arrays)
