"""Pairs of noise and data by a semi-discrete map, for training.

    transport, info = og.semidiscrete.run(key, y)           # y [N, d]: codes, embeddings, anything
    for noise, data, index in transport.pairs(key, 256):    # batches on the device, without end
        ...

The map T sends a noise point to the data point that it is nearest to in the sense of transport, so pairs (x, T(x)) are
coupled optimally: paths between them do not cross, as flow matching likes it, with no coupling to be solved in each
batch. `og.coupling` has the same pairs with labels, and couplings of other kinds beside them.

The functions below take the heights, the points and the source law one by one, as one's own jitted step wants them.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.typing import ArrayLike

from otgen.ot.check import as_count, as_key, is_traced
from otgen.ot.semidiscrete.descent import Heights, shifted
from otgen.ot.semidiscrete.scores import top_scores
from otgen.ot.semidiscrete.solution import matching, source_of
from otgen.ot.semidiscrete.source import draw, independent
from otgen.types import Array, Key, Sampler


class Pairs(NamedTuple):
    """A batch of pairs: data = T(noise) = y[index].

    Attributes:
      noise: draws of the source law [B, d].
      data: the points they are sent to [B, d].
      index: which points those are [B], int32; labels of the data follow as `labels[index]`.

    Example:
      >>> y, state = jnp.array([[-1.0], [1.0]]), og.semidiscrete.from_heights(jnp.zeros(2))
      >>> batch = og.coupling.pair(jax.random.key(0), 0, state, y, 4)
      >>> print(jnp.array_equal(batch.data, jnp.sign(batch.noise)), jnp.array_equal(batch.data, y[batch.index]))
      True True
    """

    noise: Array
    data: Array
    index: Array


def pair(
    key: Key,
    step: ArrayLike,
    state: Heights,
    y: ArrayLike,
    batch_size: int,
    *,
    sampler: Sampler | None = None,
    quasi: bool = True,
) -> Pairs:
    """Draw batch number `step` of a stream of pairs; a pure function, to be used inside one's own jit.

    Noise follows the source law exactly. Data follow the masses of the cells, which differ from the weights by the
    chi2 that the solve has reached.

    Args:
      key: key of the whole stream. For several devices fold the number of the device in.
      step: number of the batch, 0 or more; batches of other steps are other draws. Traced.
      state: heights of the map, or the Map that `semidiscrete.run` returns.
      y: points [N, d].
      batch_size: pairs in a batch, B. Static.
      sampler: the source law the heights were solved for; None for that of a Map, or uniform_cube. Static.
      quasi: scrambled Sobol points, which spread over the noise (and so over the data) more evenly than independent
        ones, within a batch and from batch to batch, where the law has them and B is a power of two up to 65,536;
        False, or elsewhere: independent points. Static.

    Returns:
      Pairs.

    Raises:
      ValueError: for points and heights that do not match, a batch size that is not a positive integer, or a step that
        is none of 0 ... 2^31 - 1.

    Example:
      >>> y = jnp.array([[-1.0, 0.0], [1.0, 0.0]])
      >>> state, _ = og.semidiscrete.run(jax.random.key(0), y)
      >>> @jax.jit
      ... def cost(step):
      ...     noise, data, _ = og.coupling.pair(jax.random.key(1), step, state, y, 1024)
      ...     return jnp.mean(jnp.sum((noise - data) ** 2, axis=1))
      >>> print(jnp.abs(cost(0) - (0.75**2 + 1 / 48 + 1 / 12)) < 0.002)  # over the halves of a square
      True
    """
    if not is_traced(step) and as_count("step", step, 0) >= 2**31:
        raise ValueError(f"step = {step}: give less than 2**31, and another key for more.")
    y, size = matching(state, y), as_count("batch_size", batch_size)
    return _pair(as_key(key), step, state.h, y, size, source_of(state, sampler), bool(quasi))


@functools.partial(jax.jit, static_argnames=("batch_size", "sampler", "quasi"))
def _pair(key: Key, step: Array, h: Array, y: Array, batch_size: int, sampler: Sampler, quasi: bool) -> Pairs:
    if quasi:
        noise = draw(key, sampler, step, batch_size, y.shape[1], y.dtype)
    else:
        noise = independent(jax.random.fold_in(key, step), sampler, batch_size, y.shape[1], y.dtype)
    index = top_scores(noise, *shifted(y, h))[1][:, 0]
    return Pairs(noise, y[index], index)


class Endless:
    """Batches without end. To collect them would never return, so that `list` of them raises."""

    def __init__(self, make: Callable[[int], Any], start: int):
        self._batches = map(make, itertools.count(start))

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._batches)

    def __length_hint__(self) -> int:
        raise ValueError("these batches have no end: give num, or take some by itertools.islice.")


def pairs(
    key: Key,
    state: Heights,
    y: ArrayLike,
    batch_size: int,
    *,
    sampler: Sampler | None = None,
    quasi: bool = True,
    start: int = 0,
    num: int | None = None,
) -> Iterator[Pairs]:
    """Iterate over batches of pairs made on the device that holds y, without end or `num` of them.

    Batch i is `pair(key, start + i, ...)`: the same key gives the same batches, and a training that stopped after
    `start` batches goes on with the next. The next batch is not made until it is asked for; asking returns before the
    device is done, so that a loop that does not wait keeps the device busy.

    Args:
      key, state, y, batch_size, sampler, quasi: as in `pair`.
      start: number of the first batch.
      num: how many batches; None for no end: for a loop that breaks off, and refused by `list`, which would not return.

    Returns:
      An iterator of Pairs.

    Raises:
      ValueError: at once, for what `pair` refuses, or a start or num that is no whole number of zero or more.

    Example:
      >>> y = jax.random.normal(jax.random.key(0), (100, 2))
      >>> state = og.semidiscrete.init(jax.random.key(1), y)  # or what `run` makes of it
      >>> batches = list(og.coupling.pairs(jax.random.key(2), state, y, 64, num=3))
      >>> (again,) = og.coupling.pairs(jax.random.key(2), state, y, 64, start=2, num=1)  # resumed
      >>> print(len(batches), jnp.array_equal(again.noise, batches[2].noise))
      3 True
    """
    key, y, size = as_key(key), matching(state, y), as_count("batch_size", batch_size)
    sampler, start, quasi = source_of(state, sampler), as_count("start", start, 0), bool(quasi)

    def make(step: int) -> Pairs:
        return _pair(key, step, state.h, y, size, sampler, quasi)

    if num is None:
        return Endless(make, start)
    return (make(step) for step in range(start, start + as_count("num", num, 0)))
