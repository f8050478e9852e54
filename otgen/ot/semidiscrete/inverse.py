"""Noise points of given data by a semi-discrete map: encode.

    noise = transport.invert(key, index).noise              # encode: where in the noise is y[index]?
    data = transport(noise)                                 # decode: the same points again

A data point is not one noise point but a cell of them, of mass 1 / N: drawing x from the source's law within the cell
of a random data point gives back the source's law, so that what is done to noise while its law is kept (`og.latent`)
is done to data.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen.ot.check import as_array, as_count, as_key, as_points, is_traced, native, require_choice
from otgen.ot.semidiscrete import hit_and_run
from otgen.ot.semidiscrete.descent import Heights, lying_out, of_one_type, shifted
from otgen.ot.semidiscrete.scores import TILE, top_scores
from otgen.ot.semidiscrete.solution import matching, source_of
from otgen.ot.semidiscrete.source import independent
from otgen.types import Array, Int, Key, Sampler

HOW = ("draw", "centre")
_MOST = 500  # projections on the way into a cell; tens are usual
_CANDIDATES = 8  # of which the nearest is found by exact differences


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
