"""The extended semi-discrete map: new points between the targets, none across the singular set.

The semi-discrete map only returns its targets. Its piecewise-linear extension interpolates them over the
dual of the cells (cells that touch, targets that are joined) and leaves out the faces across which the map
jumps: those whose dihedral angle in the graph of the potential is large (An et al., 2020, arXiv 2001.03698).
Four forms are built, none of which triangulates:

* pairs: the winner of a sample and the next cell in the order of scores that the angle admits, joined by a
  segment on which a point is drawn uniformly;
* simplex: the winner and the cells whose mass centres are nearest, weighted by inverse distance;
* stochastic: a draw from the Gaussian whose mean is the point of the simplex form and whose covariance is that of its
  weighted corners, the mean and covariance of a corner drawn by its weight: averaging loses no spread;
* local: a draw from the Gaussian with the mean and covariance of the winner and the admitted ones of the next cells in
  the order of scores. Averaging takes off about as much spread as the noise puts on: the law is not blown up.

The last two differ in what the Gaussian is made of: d + 2 corners at most, weighted by how near x is to the centres of
their cells, so that mean and covariance change with x inside a cell; or NEIGHBOURS + 1 targets of equal weight.

All keep the winner, so that the source's mass is kept: only where the mass lands is smoothed. `angle_filter` says which
faces are left out, and what a path of samples crosses.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.ot.check import as_array, as_count, as_key, as_points, native, require_between, require_choice
from otgen.ot.semidiscrete.angle_filter import NEIGHBOURS as NEIGHBOURS
from otgen.ot.semidiscrete.angle_filter import QUANTILE, admitted_of, ranked
from otgen.ot.semidiscrete.angle_filter import threshold as threshold
from otgen.ot.semidiscrete.descent import Heights, lying_out, shifted
from otgen.ot.semidiscrete.scores import TILE, top_scores
from otgen.ot.semidiscrete.singular import Faces as Faces
from otgen.ot.semidiscrete.singular import Walk as Walk
from otgen.ot.semidiscrete.singular import dihedral_angle as dihedral_angle
from otgen.ot.semidiscrete.singular import singular_angles as singular_angles
from otgen.ot.semidiscrete.singular import walk as walk
from otgen.ot.semidiscrete.solution import matching, source_of
from otgen.ot.semidiscrete.source import as_sampler, draw, uniform_cube
from otgen.types import Array, Float, Key, Sampler

FORMS = ("pairs", "simplex", "stochastic", "local")
DEFAULT = "local"  # with "stochastic" nearest to held-out images among codes as new as theirs: docs/methods/ae-ot.md


class Extension(NamedTuple):
    """What the extension knows beside the heights.

    Attributes:
      centres: mass centres of the cells [N, d]; infinite where no sample fell.
      angle: dihedral angle in radians above which a face counts as singular.

    Example:
      >>> ext = og.extension.Extension(centres=jnp.array([[-0.25, 0.0], [0.25, 0.0]]), angle=jnp.array(0.5))
      >>> print(ext.centres.shape, ext.angle)
      (2, 2) 0.5
    """

    centres: Array
    angle: Array


class Combination(NamedTuple):
    """New points and what they are made of: points = sum_k weight[:, k] y[index[:, k]].

    Attributes:
      points: the images of the samples [n, d].
      index: targets combined [n, k] (int32); index[:, 0] is the winner, T(x) = y[index[:, 0]].
      weight: their weights [n, k], summing to 1; 0 where the angle ruled a neighbour out. Non-negative for pairs and
        simplices; of either sign where noise is added (stochastic, local).

    Example:
      >>> y, state = jnp.array([[0.0], [1.0], [2.0]]), og.semidiscrete.from_heights(jnp.array([0.0, 0.0, -0.5]))
      >>> ext = og.extension.init(jax.random.key(0), state, y)
      >>> new = og.extension.transport(jax.random.key(1), ext, state, y, jnp.array([[-0.3], [0.3]]))
      >>> print(new.index[:, 0], jnp.allclose(new.points, (new.weight[..., None] * y[new.index]).sum(1)))
      [0 1] True
    """

    points: Array
    index: Array
    weight: Array


@functools.partial(jax.jit, static_argnames=("sampler", "num"))
def _centres(key: Key, h: Array, y: Array, sampler: Sampler, num: int) -> Array:
    y, h = shifted(y, h)

    def visit(carry, index):
        total, count = carry
        x = draw(key, sampler, index, TILE, y.shape[1], y.dtype)
        _, winner = top_scores(x, y, h)
        return (total.at[winner[:, 0]].add(x), count.at[winner[:, 0]].add(1.0)), None

    start = jnp.zeros_like(y), jnp.zeros(y.shape[0], y.dtype)
    (total, count), _ = jax.lax.scan(visit, start, jnp.arange(-(-num // TILE)))
    return jnp.where(count[:, None] > 0, total / jnp.maximum(count, 1)[:, None], jnp.inf)


def init(
    key: Key,
    state: Heights,
    y: ArrayLike,
    *,
    sampler: Sampler | None = None,
    num: int | None = None,
    quantile: ArrayLike = QUANTILE,
) -> Extension:
    """Measure the mass centres of the cells and choose the angle threshold from the targets alone.

    Args:
      key: random key.
      state: heights of the map, or the Map that `semidiscrete.run` returns.
      y: points [N, d].
      sampler: the source law; None for that of a Map, or uniform_cube. Static.
      num: samples for the centres, rounded up to whole tiles of 4096; None for 20 N. Static.
      quantile: of the angles, as in `threshold`: almost every sample finds a partner with the default.

    Returns:
      Extension.

    Raises:
      ValueError: for num < 1, a quantile outside [0, 1], or heights of other points.

    Example:
      >>> y = jnp.array([[-1.0, 0.0], [1.0, 0.0]])
      >>> ext = og.extension.init(jax.random.key(0), og.semidiscrete.from_heights(jnp.zeros(2)), y)
      >>> print(jnp.abs(ext.centres - y / 4).max() < 0.01)  # centres of the halves of the square
      True
    """
    y, sampler = matching(state, y), source_of(state, sampler)
    num = 20 * y.shape[0] if num is None else as_count("num", num)
    centre_key, angle_key = jax.random.split(as_key(key))
    angle = threshold(angle_key, state, y, quantile=quantile, sampler=sampler)
    return Extension(_centres(centre_key, state.h, y, sampler, num), angle)


def _pairs(key, extension, h, y, x, angle, labels):
    index = ranked(x, y, h)
    admitted = admitted_of(y, index, angle, labels)
    first = jnp.argmax(admitted, axis=1)[:, None]
    share = jax.random.uniform(key, (x.shape[0],)) * admitted.any(1)
    partner = jnp.take_along_axis(index[:, 1:], first, axis=1)
    return jnp.concatenate([index[:, :1], partner], 1), jnp.stack([1 - share, share], 1)


def _simplex(key, extension, h, y, x, angle, labels):
    del key
    seen = jnp.isfinite(extension.centres[:, 0])
    centres = jnp.where(seen[:, None], extension.centres, 0.0)
    height = jnp.where(seen, -0.5 * jnp.sum(centres**2, 1), -jnp.inf)  # the nearest centre has the largest score
    _, winner = top_scores(x, y, h)
    _, near = top_scores(x, centres, height, k=min(y.shape[1] + 1, y.shape[0]))
    index = jnp.concatenate([winner, near], axis=1)
    admitted = admitted_of(y, index, angle, labels) & seen[winner] & seen[near]
    distance = jnp.linalg.norm(x[:, None] - centres[index], axis=-1)
    weight = 1.0 / jnp.maximum(distance, 1e-12) * jnp.pad(admitted, ((0, 0), (1, 0)), constant_values=True)
    return index, weight / weight.sum(1, keepdims=True)


def _stochastic(key, extension, h, y, x, angle, labels):
    """Return weights l_k + sqrt(l_k) e_k - l_k sum_j sqrt(l_j) e_j around those of the simplex form, l.

    They sum to 1, and the points have the mean m = sum_k l_k y_k and the covariance sum_k l_k (y_k - m)(y_k - m)^T.
    """
    index, mean = _simplex(key, extension, h, y, x, angle, labels)
    noise = jnp.sqrt(mean) * jax.random.normal(key, mean.shape)
    return index, mean + noise - mean * noise.sum(1, keepdims=True)


def _local(key, extension, h, y, x, angle, labels):
    """Weights 1/m + e_k / sqrt(m - 1), less the mean of the latter: mean and covariance are those of the m targets."""
    index = ranked(x, y, h)
    used = jnp.pad(admitted_of(y, index, angle, labels), ((0, 0), (1, 0)), constant_values=True)
    num = used.sum(1, keepdims=True)
    noise = jax.random.normal(key, used.shape) * used / jnp.sqrt(jnp.maximum(num - 1, 1))
    return index, used * (1 + num * noise - noise.sum(1, keepdims=True)) / num


_FORMS = dict(zip(FORMS, (_pairs, _simplex, _stochastic, _local), strict=True))


@functools.partial(jax.jit, static_argnames="form")
def _transport(key, extension, h, y, x, angle, labels, form) -> Combination:
    y = jnp.where(lying_out(h)[:, None], 0, y)
    centred, h = shifted(y, h)
    index, weight = _FORMS[form](key, extension, h, centred, x, angle, labels)
    points = y[index[:, 0]] + jnp.sum(weight[:, 1:, None] * (y[index[:, 1:]] - y[index[:, :1]]), axis=1)
    return Combination(points, index, weight)


def transport(
    key: Key,
    extension: Extension,
    state: Heights,
    y: ArrayLike,
    x: ArrayLike,
    *,
    form: str = DEFAULT,
    angle: ArrayLike | None = None,
    labels: ArrayLike | None = None,
) -> Combination:
    """Map source samples by the extended map.

    Args:
      key: random key (the place on the segment of a pair, the noise; the simplex form does not use it).
      extension: centres and threshold, from `init`.
      state: heights of the map.
      y: points [N, d].
      x: source samples [n, d].
      form: "pairs", "simplex", "stochastic" or "local" (the default). Static.
      angle: threshold in radians, in [0, pi]; None for the extension's. pi switches the filter off, and 0 gives T(x).
      labels: [N] integers, if given: only points of one label are combined.

    Returns:
      Combination of the targets for every sample.

    Raises:
      ValueError: for an unknown form, an angle outside [0, pi], or arrays that do not match.

    Example:
      >>> y = jnp.array([[-1.1, 0.0], [-1.0, 0.0], [1.0, 0.0], [1.1, 0.0]])  # two pairs; the map jumps between them
      >>> state, _ = og.semidiscrete.run(jax.random.key(1), y)
      >>> ext = og.extension.init(jax.random.key(2), state, y)
      >>> x = jnp.linspace(-0.49, 0.49, 50)[:, None] * jnp.array([1.0, 0.0])
      >>> filtered = og.extension.transport(jax.random.key(3), ext, state, y, x).points[:, 0]
      >>> anywhere = og.extension.transport(jax.random.key(3), ext, state, y, x, angle=jnp.pi).points[:, 0]
      >>> print(bool(jnp.any(jnp.abs(filtered) < 0.9)), bool(jnp.any(jnp.abs(anywhere) < 0.9)))  # across the jump
      False True
    """
    if not isinstance(extension, Extension):
        raise ValueError(f"extension is a {type(extension).__name__}: give the Extension that `init` returns.")
    angle = extension.angle if angle is None else angle
    check_form(form, angle)
    y, x = matching(state, y, x), as_points("x", x, 1)
    extension = extension._replace(centres=as_array("centres", extension.centres, y.shape, finite=False))
    if labels is not None:
        labels = native("labels", labels)
        if labels.shape != y.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
            raise ValueError(f"labels have shape {labels.shape} and type {labels.dtype}: give one integer per point.")
    return _transport(as_key(key), extension, state.h, y, x, jnp.asarray(angle, y.dtype), labels, form)


def check_form(form: str, angle: ArrayLike) -> None:
    """Raise ValueError for an unknown form of the extension or (outside jit) an angle outside [0, pi].

    Example:
      >>> og.extension.check_form("pairs", 0.5)  # says nothing: both are legal
    """
    require_choice("form", form, FORMS)
    require_between("angle, in radians,", angle, 0.0, math.pi)


def sample(
    key: Key,
    extension: Extension,
    state: Heights,
    y: ArrayLike,
    num: int,
    *,
    form: str = DEFAULT,
    angle: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    sampler: Sampler | None = None,
) -> Float[Array, "num d"]:
    """Draw `num` new points: quasi-random source samples moved by the extended map.

    Args:
      key: random key.
      num: how many. Static.
      sampler: the source law the heights were solved for; None for that of a Map, or uniform_cube. Static.
      extension, state, y, form, angle, labels: as in `transport`.

    Returns:
      New points [num, d].

    Raises:
      ValueError: as `transport`, or for a num that is no positive whole number.

    Example:
      >>> y = jnp.array([[-1.1, 0.0], [-1.0, 0.0], [1.0, 0.0], [1.1, 0.0]])
      >>> state, _ = og.semidiscrete.run(jax.random.key(1), y)
      >>> ext = og.extension.init(jax.random.key(2), state, y)
      >>> points = og.extension.sample(jax.random.key(3), ext, state, y, 200)
      >>> print(points.shape, bool(jnp.all(jnp.abs(points[:, 0]) >= 0.999)))  # new points within the pairs only
      (200, 2) True
    """
    y = matching(state, y)
    source_key, place_key = jax.random.split(as_key(key))
    x = source_samples(source_key, num, y.shape[1], source_of(state, sampler))
    return transport(place_key, extension, state, y, x, form=form, angle=angle, labels=labels).points


def source_samples(key: Key, num: int, dim: int, sampler: Sampler = uniform_cube) -> Float[Array, "num dim"]:
    """Draw the first `num` points [num, dim] of a quasi-random stream of the source law.

    Raises:
      ValueError: for a num or dim that is no positive whole number, or a law that gives another shape.

    Example:
      >>> x = og.extension.source_samples(jax.random.key(0), 1000, 2)
      >>> print(x.shape, bool(jnp.all(jnp.abs(x) <= 0.5)), bool(jnp.all(jnp.abs(x.mean(0)) < 0.01)))
      (1000, 2) True True
    """
    return _source_samples(as_key(key), as_count("num", num), as_count("dim", dim), as_sampler(sampler))


@functools.partial(jax.jit, static_argnames=("num", "dim", "sampler"))
def _source_samples(key: Key, num: int, dim: int, sampler: Sampler) -> Array:
    blocks = [draw(key, sampler, block, TILE, dim) for block in range(-(-num // TILE))]
    return jnp.concatenate(blocks)[:num]
