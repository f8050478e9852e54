"""Heights and what they say: where a solve begins, where samples go, the masses of the cells, and their chi2."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen.ot.check import as_array, as_count, as_key, as_points, as_weights
from otgen.ot.semidiscrete import measure, start
from otgen.ot.semidiscrete.descent import Heights, State, among, centred, from_heights, shifted
from otgen.ot.semidiscrete.scores import top_scores
from otgen.ot.semidiscrete.source import as_sampler, uniform_cube
from otgen.types import Array, Float, Int, Key, Sampler


def init(
    key: Key,
    y: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    sampler: Sampler = uniform_cube,
    h: ArrayLike | None = None,
) -> State:
    """Return the state a solve starts from: a warm start and an empty schedule.

    The warm start is exact in one dimension, and elsewhere the optimal affine map between the first two
    moments of source and points, which is exact when the points are an affine image of the source.

    Args:
      key: random key, for the moments of the source.
      y: points [N, d], N >= 2.
      weights: [N], summing to 1, zero for points that take no part; None for uniform.
      sampler: the source law. Static.
      h: heights [N] to start from instead, for example those of a nearby problem.

    Returns:
      State at step 0.

    Raises:
      ValueError: outside jit, for points or weights that cannot be meant.

    Example:
      >>> y = jnp.array([[0.0], [1.0], [4.0]])
      >>> state = og.semidiscrete.init(jax.random.key(0), y)  # exact on the line: thirds of [-1/2, 1/2]
      >>> print(og.semidiscrete.assign(state, y, jnp.array([[-0.4], [-0.2], [-0.1], [0.1], [0.2]])))
      [0 0 1 1 2]
    """
    key, y, sampler = as_key(key), as_points("y", y), as_sampler(sampler)
    weights = as_weights(weights, y.shape[0])
    if h is None:
        return _warm(key, y, weights, sampler)
    return from_heights(among(weights, as_array("h, one height per point,", h, y.shape[:1])))


@functools.partial(jax.jit, static_argnames="sampler")
def _warm(key: Key, y: Array, weights: Array, sampler: Sampler) -> State:
    return from_heights(among(weights, start.start(key, centred(y, weights)[0], weights, sampler)))


def assign(state: Heights, y: ArrayLike, x: ArrayLike) -> Int[Array, " n"]:
    """Return the index of the point each sample is sent to, argmax_i <y_i, x> + h_i.

    Of points that coincide one is returned; none is sent to a point of weight zero.

    Args:
      state: heights of the map, or the Map that `run` returns.
      y: points [N, d].
      x: samples [n, d].

    Returns:
      Indices [n], int32; the map itself is `y[assign(state, y, x)]`.

    Raises:
      ValueError: if points, heights and samples do not match, or (outside jit) for samples that are not finite, such as
        the noise that `coupling.invert` did not find.

    Example:
      >>> y = jnp.array([[-1.0, 0.0], [1.0, 0.0]])
      >>> state, _ = og.semidiscrete.run(jax.random.key(0), y)
      >>> print(og.semidiscrete.assign(state, y, jnp.array([[-0.3, 0.2], [0.3, 0.4]])))  # a half of the square each
      [0 1]
    """
    y, x = matching(state, y, x), as_points("x", x, 1)
    return _assign(state.h, y, x)


@jax.jit
def _assign(h: Array, y: Array, x: Array) -> Array:
    return top_scores(x, *shifted(y, h))[1][:, 0]


def carried(
    key: Key,
    state: Heights,
    old: ArrayLike,
    y: ArrayLike,
    *,
    sampler: Sampler | None = None,
) -> State:
    """Return a start for other points from heights that were solved for old ones: new data, added or instead.

    Every point gets the height at which its plane just touches the potential of the old points from below, the
    conjugate of the potential: a point that stays keeps its own. Give the result to `run` as its `state`.

    Args:
      key: random key, for the samples at which planes may touch.
      state: heights of the old points.
      old: old points [M, d].
      y: new points [N, d]: the old ones with others added, or any.
      sampler: the source law; None for that of a Map, or uniform_cube. Static.

    Returns:
      State of N heights at step 0.

    Raises:
      ValueError: if heights and old points, or the dimensions of old and new, do not match.

    Example:
      >>> old = jnp.array([[-1.0, 0.0], [1.0, 0.0]])
      >>> state, _ = og.semidiscrete.run(jax.random.key(0), old)
      >>> grown = jnp.concatenate([old, jnp.array([[0.0, 0.1]])])
      >>> start = og.semidiscrete.carried(jax.random.key(1), state, old, grown)
      >>> print(og.semidiscrete.masses(jax.random.key(2), start, grown, 10_000)[2] < 0.05)  # in, at the fold of the old
      True
    """
    old = matching(state, old, y)
    return from_heights(start.conjugate(as_key(key), state.h, old, as_points("y", y), source_of(state, sampler)))


def matching(state: Heights, y: ArrayLike, x: ArrayLike | None = None) -> Array:
    """Return y after checking that the heights belong to as many points and the samples to their dimension.

    Raises:
      ValueError: if they do not.

    Example:
      >>> state = og.semidiscrete.from_heights(jnp.zeros(2))
      >>> print(og.semidiscrete.matching(state, jnp.array([[0, 1], [2, 3]])).dtype)  # made floating point
      float32
    """
    y = as_points("y", y)
    if not isinstance(state, Heights):
        raise ValueError(f"state is a {type(state).__name__}: give a Map, or the State of from_heights or init.")
    if jnp.shape(state.h) != y.shape[:1]:
        raise ValueError(f"the state has {jnp.size(state.h)} heights but y has {y.shape[0]} points: use its own y.")
    if x is not None and (jnp.ndim(x) != 2 or jnp.shape(x)[1] != y.shape[1]):
        raise ValueError(
            f"x has shape {jnp.shape(x)}, but the points have dimension {y.shape[1]}: give samples [n, {y.shape[1]}]."
        )
    return y


def source_of(state: Heights | None, sampler: Sampler | None) -> Sampler:
    """Return the law that heights, if any, were solved for: the one given, that of a Map, or the uniform one on a cube.

    Raises:
      ValueError: for another law than that of a Map, and as `source.as_sampler`.
    """
    own = getattr(state, "sampler", None)
    if sampler is None:
        return uniform_cube if own is None else own
    if own is not None and as_sampler(sampler) != own:
        raise ValueError(f"sampler = {sampler}, but the map was solved for {own}: leave it out.")
    return as_sampler(sampler)


def masses(
    key: Key,
    state: Heights,
    y: ArrayLike,
    num: int,
    *,
    weights: ArrayLike | None = None,
    sampler: Sampler | None = None,
) -> Float[Array, " N"]:
    """Estimate the mass of every cell from `num` fresh independent samples.

    Points that coincide share their joint cell in proportion to their weights (outside jit, where they can
    be found; inside, one of them holds it all).

    Args:
      key: random key.
      state: heights of the map, or the Map that `run` returns.
      y: points [N, d]. weights: [N], None for uniform.
      num: samples, rounded up to 16 blocks of whole tiles of at most 4096. Static.
      sampler: the source law; None for that of a Map, or uniform_cube. Static.

    Returns:
      Masses [N], summing to 1.

    Example:
      >>> y = jnp.array([[-1.0, 0.0], [1.0, 0.0]])
      >>> state = og.semidiscrete.from_heights(jnp.array([1.0, -1.0]))  # the first wins up to x = 1
      >>> print(og.semidiscrete.masses(jax.random.key(0), state, y, 1000))
      [1. 0.]
    """
    counts, weights, total, groups = counted(key, state, y, weights, num, sampler)
    share = counts.sum(0) / counts.sum()
    return share if groups is None else measure.repeated(share / total, groups) * weights


def counted(
    key: Key, state: Heights, y: ArrayLike, weights: ArrayLike | None, num: int, sampler: Sampler | None
) -> tuple[Array, Array, Array, np.ndarray | None]:
    """Return counts of fresh samples in the cells of distinct points, weights of all points and of those, groups."""
    y, num = matching(state, y), as_count("num", num, 2)
    weights = as_weights(weights, y.shape[0])
    points, total, groups = measure.merge(y, weights)
    h = measure.merge_heights(jnp.asarray(state.h), groups)
    return measure.count(as_key(key), points, total, h, num, source_of(state, sampler)).counts, weights, total, groups


def chi2(
    key: Key,
    state: Heights,
    y: ArrayLike,
    num: int,
    *,
    weights: ArrayLike | None = None,
    sampler: Sampler | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Estimate the chi-square divergence of the cell masses from the weights, without bias.

    The estimate is sum_i c_i (c_i - 1) / nu_i / (B (B - 1)) - 1 for counts c of B fresh independent samples; its
    standard error leaves out one of 16 blocks at a time. Points that coincide count as one.

    Args:
      key: random key, one that the heights have not been trained with.
      state: heights of the map, or the Map that `run` returns.
      y: points [N, d]. weights: [N], None for uniform.
      num: samples, rounded up to 16 blocks of whole tiles of at most 4096. Static.
      sampler: the source law; None for that of a Map, or uniform_cube. Static.

    Returns:
      The estimate and its standard error.

    Example:
      >>> y, state = jnp.array([[-1.0, 0.0], [1.0, 0.0]]), og.semidiscrete.from_heights(jnp.array([1.0, -1.0]))
      >>> value, error = og.semidiscrete.chi2(jax.random.key(0), state, y, 1000)
      >>> print(value)  # one cell has everything: sum_i m_i^2 / nu_i - 1 = 1 / .5 - 1
      1.0
    """
    counts, _, total, _ = counted(key, state, y, weights, num, sampler)
    return measure.chi2_of(counts, total)
