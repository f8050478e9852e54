"""The filter by angle of the extended map: which cells may be joined, and from which dihedral angle on they may not."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.ot.check import as_key, require_between
from otgen.ot.semidiscrete.descent import Heights, shifted
from otgen.ot.semidiscrete.scores import TILE, top_scores
from otgen.ot.semidiscrete.singular import dihedral_angle
from otgen.ot.semidiscrete.solution import matching, source_of
from otgen.ot.semidiscrete.source import draw
from otgen.types import Array, Key, Sampler

NEIGHBOURS = 20  # next cells in the order of scores that a pair may choose from and a local Gaussian is made of
QUANTILE = 0.98  # share of the samples that the automatic threshold leaves with a partner


@functools.partial(jax.jit, static_argnames="sampler")
def _threshold(key: Key, h: Array, y: Array, sampler: Sampler, quantile: Array) -> Array:
    y, h = shifted(y, h)
    index = ranked(draw(key, sampler, 0, TILE, y.shape[1], y.dtype), y, h)
    angles = dihedral_angle(y[index[:, :1]], y[index[:, 1:]])
    least = jnp.where(distinct(y, index), angles, jnp.inf).min(1)
    return jnp.quantile(jnp.where(jnp.isfinite(least), least, 0.0), quantile)


def ranked(x: Array, y: Array, h: Array) -> Array:
    """The winner of every sample and the next in the order of scores [n, k]; the winner again where there is none."""
    values, index = top_scores(x, y, h, k=min(NEIGHBOURS + 1, y.shape[0]))
    return jnp.where(values == -jnp.inf, index[:, :1], index)


def distinct(y: Array, index: Array) -> Array:
    """Which neighbours [n, k-1] lie elsewhere than the winner: joining points that coincide makes nothing new."""
    return (index[:, 1:] != index[:, :1]) & jnp.any(y[index[:, 1:]] != y[index[:, :1]], axis=-1)


def threshold(
    key: Key,
    state: Heights,
    y: ArrayLike,
    *,
    quantile: ArrayLike = QUANTILE,
    sampler: Sampler | None = None,
) -> Array:
    """Choose the angle above which a face counts as singular from the targets alone.

    It is a quantile, over samples x, of the smallest dihedral angle between the winner and its first 20 partners in
    the order of scores: that share of the samples finds a partner, and no more is let in.

    Args:
      key: random key of the samples.
      state: heights of the map.
      y: points [N, d].
      quantile: the share of samples, in [0, 1].
      sampler: the source law; None for that of a Map, or uniform_cube. Static.

    Returns:
      Angle in radians, for `Extension.angle` or the argument `angle` of `transport`.

    Raises:
      ValueError: for a quantile outside [0, 1] (outside jit), or heights of other points.

    Example:
      >>> y = jnp.array([[-1.1, 0.0], [-1.0, 0.0], [1.0, 0.0], [1.1, 0.0]])  # two pairs
      >>> state, _ = og.semidiscrete.run(jax.random.key(0), y)
      >>> print(og.extension.threshold(jax.random.key(1), state, y))  # the angle within a pair
      0.0476
    """
    require_between("quantile", quantile, 0.0, 1.0)
    y = matching(state, y)
    return _threshold(as_key(key), state.h, y, source_of(state, sampler), jnp.asarray(quantile, y.dtype))


def admitted_of(y: Array, index: Array, angle: Array, labels: Array | None) -> Array:
    """Return which neighbours [n, k-1] may be joined to the winner: small angle, same label if there are labels."""
    fold = dihedral_angle(y[index[:, :1]], y[index[:, 1:]])
    admitted = distinct(y, index) & (fold <= angle)
    return admitted if labels is None else admitted & (labels[index[:, :1]] == labels[index[:, 1:]])
