"""The coupling of noise and data by a semi-discrete map: pairs for training, and noise points of given data.

    transport, info = og.semidiscrete.run(key, y)           # y [N, d]: codes, embeddings, anything
    for noise, data, index in transport.pairs(key, 256):    # batches on the device, without end
        ...
    noise = transport.invert(key, index).noise              # encode: where in the noise is y[index]?
    data = transport(noise)                                 # decode: the same points again

The map T sends a noise point to the data point that it is nearest to in the sense of transport, so pairs (x, T(x)) are
coupled optimally: paths between them do not cross, as flow matching likes it, with no coupling to be solved in each
batch. The other way round a data point is not one noise point but a cell of them, of mass 1 / N: drawing x from the
source's law within the cell of a random data point gives back the source's law, so that what is done to noise while
its law is kept (`og.latent`) is done to data.

The functions below take the heights, the points and the source law one by one, as one's own jitted step wants them.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Int

from otgen.ot.check import as_array, as_count, as_key, as_points, is_traced, native, require_choice
from otgen.ot.semidiscrete import hit_and_run
from otgen.ot.semidiscrete.descent import Heights, lying_out, of_one_type, shifted
from otgen.ot.semidiscrete.scores import TILE, top_scores
from otgen.ot.semidiscrete.solution import matching, source_of
from otgen.ot.semidiscrete.source import draw, independent
from otgen.types import Array, Key, Sampler

HOW = ("draw", "centre")
_MOST = 500  # projections on the way into a cell; tens are usual
_CANDIDATES = 8  # of which the nearest is found by exact differences


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


class Inverse(NamedTuple):
    """Noise points of given data points.

    Attributes:
      noise: a point of the cell of each [n, d]; NaN where none was found.
      found: whether one was found [n]; if not, the cell is empty, or too small for it.

    Example:
      >>> y, state = jnp.array([[-1.0], [1.0]]), og.semidiscrete.from_heights(jnp.array([5.0, -5.0]))
      >>> inverse = og.coupling.invert(jax.random.key(0), state, y, jnp.array([0, 1]))  # 0 wins up to x = 5
      >>> print(inverse.found, jnp.isnan(inverse.noise[:, 0]))
      [ True False] [False True]
    """

    noise: Array
    found: Array


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


class _Endless:
    """Batches without end. To collect them would never return, so that `list` of them raises."""

    def __init__(self, make: Callable[[int], Pairs], start: int):
        self._batches = map(make, itertools.count(start))

    def __iter__(self) -> Iterator[Pairs]:
        return self

    def __next__(self) -> Pairs:
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
        return _Endless(make, start)
    return (make(step) for step in range(start, start + as_count("num", num, 0)))


def nearest(y: ArrayLike, codes: ArrayLike) -> Int[Array, " n"]:
    """Return which of the points y [N, d] is nearest to each of codes [n, d]: indices [n], int32.

    So that codes that are no targets, of new data, can be inverted: as their nearest target, which is what is decoded.
    Of points at one distance it is the first.

    Raises:
      ValueError: for shapes that do not match, or values that are not finite.

    Example:
      >>> y = jnp.array([[-1.0, 0.0], [1.0, 0.0]])
      >>> print(og.coupling.nearest(y, jnp.array([[0.7, 2.0], [-3.0, 0.0]])))
      [1 0]
    """
    y, codes = as_points("y", y), as_points("codes", codes, 1)
    if codes.shape[1] != y.shape[1]:
        raise ValueError(f"codes have dimension {codes.shape[1]}, but y has {y.shape[1]}: give both the same.")
    return _nearest(y, codes)


@jax.jit
def _nearest(y: Array, codes: Array) -> Array:
    mean = y.mean(0)
    points = y - mean
    _, index = top_scores(codes - mean, points, -0.5 * jnp.sum(points**2, 1), k=min(_CANDIDATES, len(y)))
    # Squared distances by products are off by the rounding of |y|^2, which may hide which of near points is nearest.
    distance = jnp.sum((codes[:, None] - y[index]) ** 2, -1)
    return jnp.where(distance <= distance.min(1, keepdims=True), index, len(y)).min(1)


def invert(
    key: Key,
    state: Heights,
    y: ArrayLike,
    index: ArrayLike,
    *,
    sampler: Sampler | None = None,
    how: str = "draw",
    centres: ArrayLike | None = None,
    num_sweeps: int = 32,
) -> Inverse:
    """Return noise points that the map sends to given targets, so that `assign` of them is `index` again.

    A random target's cell is hit once in N draws, so drawing until it is hit is out of the question. Instead a point
    of the cell is found by over-relaxed projections on the half-spaces it is the intersection of, and from there
    hit-and-run walks in it: on a line the part in the cell is an interval known exactly, and so is the law of the
    source on it. The law of the source within the cell is stationary for such walks. What is approximate is that they
    start at one place: after 2 to 8 sweeps of d moves (16 and 32 dimensions, 2000 targets) no difference from
    independent draws was seen in the mean squares and the gap of scores. Walks of one call share their directions but
    not their places, and the same target twice gives two draws.

    The time of a target is that of num_sweeps d N multiplications and divisions, so for many targets `invert_all`,
    which takes 8 d N multiplications for each and serves all of them, is cheaper.

    Args:
      key: random key.
      state: heights of the map.
      y: points [N, d].
      index: the targets [n], integers in [0, N); for codes that are no targets `nearest`.
      sampler: the source law, uniform_cube, uniform_ball or gaussian; None for that of a Map, or uniform_cube. Static.
      how: "draw": a draw of the source's law within the cell. "centre": the mass centre of the cell, which is always
        the same and lies deep in it, estimated by the mean of the walk if `centres` does not have it; n centres do not
        follow the source's law. Static.
      centres: mass centres of all cells [N, d], `Extension.centres`, infinite where unknown: walks start there.
      num_sweeps: length of a walk, 1 or more. Static.

    Returns:
      Inverse: noise [n, d], and which were found. Points that coincide have one cell: `assign` gives one of them. A
      point of weight zero has none.

    Raises:
      ValueError: for an unknown source or how, indices that are no integers or (outside jit) out of range, or arrays
        that do not match.

    Example:
      >>> y = jax.random.normal(jax.random.key(0), (200, 3))
      >>> state = og.semidiscrete.init(jax.random.key(1), y)  # or what `run` makes of it
      >>> index = jnp.array([5, 17, 17])
      >>> noise, found = og.coupling.invert(jax.random.key(2), state, y, index)  # encode
      >>> print(found, og.semidiscrete.assign(state, y, noise))  # decode
      [ True True True] [ 5 17 17]
      >>> middle = og.latent.lerp(0.5, noise[0], noise[1], prior=og.source.uniform_cube)  # operate on the prior
      >>> print(og.semidiscrete.assign(state, y, middle[None]).shape)
      (1,)
    """
    y, index, sampler = matching(state, y), jnp.asarray(native("index", index)), source_of(state, sampler)
    if sampler not in hit_and_run.SOURCES:
        known = ", ".join(map(str, hit_and_run.SOURCES))
        raise ValueError(f"invert knows the law within a cell of {known}, not of {sampler}: use invert_all.")
    require_choice("how", how, HOW)
    num_sweeps = as_count("num_sweeps", num_sweeps)
    if index.ndim != 1 or not index.size or not jnp.issubdtype(index.dtype, jnp.integer):
        raise ValueError(f"index has shape {index.shape} and type {index.dtype}: give integers [n], n >= 1.")
    if not is_traced(index) and (int(index.min()) < 0 or int(index.max()) >= y.shape[0]):
        raise ValueError(f"index reaches from {index.min()} to {index.max()}: y has {y.shape[0]} points.")
    if centres is not None:
        centres = as_array("centres", centres, y.shape, finite=False)
    return _invert(as_key(key), state.h, y, index.astype(jnp.int32), centres, sampler, how, num_sweeps)


@functools.partial(jax.jit, static_argnames=("sampler", "how", "num_sweeps"))
def _invert(key, h, y, index, centres, sampler, how, num_sweeps) -> Inverse:
    lost = lying_out(h)[index]
    index = jnp.where(lost, jnp.argmin(lying_out(h)).astype(jnp.int32), index)
    y, h = shifted(*of_one_type(y, h))
    known = jnp.zeros((len(index), 1), bool)
    first = jnp.zeros((len(index), y.shape[1]), y.dtype)
    if centres is not None:
        known = jnp.isfinite(centres[index]).all(1, keepdims=True)
        first = jnp.where(known, centres[index], 0.0).astype(y.dtype)
    known = known & hit_and_run.inside(y, h, index, first)[:, None]
    first, found = hit_and_run.start(y, h, index, first, _MOST, sampler)

    def walked() -> Array:
        last, mean = hit_and_run.walk(key, y, h, index, first, num_sweeps, sampler)
        return hit_and_run.support(sampler, last if how == "draw" else jnp.where(known, first, mean))

    noise = walked() if how == "draw" else jax.lax.cond(known.all(), lambda: first, walked)
    for kept in (2.0**-10, 1.0):  # a point on a face, where rounding decides, goes a little or all the way back
        inside = hit_and_run.inside(y, h, index, noise)[:, None]
        noise = jnp.where(inside, noise, noise + kept * (first - noise))
    found = found & ~lost
    return Inverse(jnp.where(found[:, None], noise, jnp.nan), found)


def invert_all(
    key: Key,
    state: Heights,
    y: ArrayLike,
    *,
    sampler: Sampler | None = None,
    num: int | None = None,
    num_sweeps: int = 32,
) -> Inverse:
    """Return a noise point for every target, a draw of the source's law within its cell: a whole data set encoded.

    One pass over independent draws of the source keeps the first that falls in each cell, which is an exact and
    independent draw; the cells in which none fell are left to `invert`, if it knows the source. A driver outside jit.

    Args:
      key: random key.
      state: heights of the map.
      y: points [N, d]. Of points that coincide all get a draw of their joint cell, and not the same.
      sampler: the source law the heights were solved for, any; None for that of a Map, or uniform_cube. Static.
      num: draws, rounded up to whole tiles of 4096; None for 8 N: one cell in 3000 then stays for `invert`, if the
        masses are 1 / N. The time is that of assigning so many.
      num_sweeps: as in `invert`.

    Returns:
      Inverse: noise [N, d], and which were found.

    Raises:
      ValueError: for points and heights that do not match, or a num or num_sweeps that is no positive whole number.

    Example:
      >>> y = jax.random.normal(jax.random.key(0), (200, 3))
      >>> state = og.semidiscrete.init(jax.random.key(1), y)  # or what `run` makes of it
      >>> noise, found = og.coupling.invert_all(jax.random.key(2), state, y)
      >>> print(noise.shape, jnp.array_equal(og.semidiscrete.assign(state, y, noise[found]), jnp.flatnonzero(found)))
      (200, 3) True
    """
    y, sampler = matching(state, y), source_of(state, sampler)
    num = 8 * y.shape[0] if num is None else as_count("num", num)
    num_sweeps = as_count("num_sweeps", num_sweeps)
    pass_key, rest_key = jax.random.split(as_key(key))
    h = jnp.asarray(state.h)
    noise, found = _first_hits(pass_key, h, y, -(-num // TILE), sampler)
    rest = np.flatnonzero(~np.asarray(found | lying_out(h)))
    if not rest.size or sampler not in hit_and_run.SOURCES:
        return Inverse(noise, found)
    padded = jnp.asarray(np.resize(rest, 1 << int(rest.size - 1).bit_length()))  # few sizes to compile for
    more = invert(rest_key, state, y, padded, sampler=sampler, num_sweeps=num_sweeps)
    rest = jnp.asarray(rest)
    return Inverse(noise.at[rest].set(more.noise[: len(rest)]), found.at[rest].set(more.found[: len(rest)]))


@functools.partial(jax.jit, static_argnames=("tiles", "sampler"))
def _first_hits(key: Key, h: Array, y: Array, tiles: int, sampler: Sampler) -> Inverse:
    """Return the first of independent draws that falls in each cell; NaN where none does."""
    y, h = shifted(*of_one_type(y, h))

    def visit(carry: Inverse, number: Array) -> tuple[Inverse, None]:
        noise, found = carry
        x = independent(jax.random.fold_in(key, number), sampler, TILE, y.shape[1], y.dtype)
        winner = top_scores(x, y, h)[1][:, 0]
        first = jnp.full(len(y), TILE, jnp.int32).at[winner].min(jnp.arange(TILE, dtype=jnp.int32))
        new = (first < TILE) & ~found
        noise = jnp.where(new[:, None], x[jnp.minimum(first, TILE - 1)], noise)
        return Inverse(noise, found | new), None

    none = Inverse(jnp.full_like(y, jnp.nan), jnp.zeros(len(y), bool))
    return jax.lax.scan(visit, none, jnp.arange(tiles))[0]
