"""Mode coverage: Gaussian mixtures with known centres, and modes that a classifier names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from scipy import special, stats

from otgen.eval.classes import class_counts, predicted_labels
from otgen.eval.samples import as_samples
from otgen.ot.check import as_mass, native, require_channels_last, require_function, require_positive
from otgen.types import Array


class ModeScores(NamedTuple):
    """How samples sit on the modes of a Gaussian mixture.

    Attributes:
      modes: modes that hold at least one sample within 4 standard deviations.
      share_3sd, share_4sd: share of samples within 3 and 4 standard deviations of the nearest centre (for true
        two-dimensional Gaussians .989 and .9997). 1 - share_4sd is the share between the modes.
      within_sd: standard deviation per coordinate of the samples within 3 standard deviations, around the centres.
      reverse_kl: Kullback-Leibler divergence of the histogram over modes from the uniform one, in nats.
    """

    modes: Array
    share_3sd: Array
    share_4sd: Array
    within_sd: Array
    reverse_kl: Array


def mode_scores(samples: ArrayLike, centres: ArrayLike, deviation: ArrayLike) -> ModeScores:
    """Score samples [n, d] against the centres [k, d] of an equally weighted mixture of one standard deviation.

    Raises:
      ValueError: for other shapes, different dimensions, and (outside jit) points that are not finite or a deviation
        that is not positive.

    Example:
      >>> centres = og.data.toy.eight_gaussians_centres()
      >>> found = og.eval.mode_scores(og.data.toy.eight_gaussians(jax.random.key(0), 2000), centres, 0.1)
      >>> print(found.modes, found.share_3sd > 0.98)
      8 True
      >>> print(og.eval.mode_scores(centres[:2] + 0.05, centres, 0.1).modes)
      2
    """
    require_positive("deviation", deviation)
    return _mode_scores(*as_samples(1, samples=samples, centres=centres), deviation)


@jax.jit
def _mode_scores(samples: Array, centres: Array, deviation: Array) -> ModeScores:
    square = jnp.sum(((samples[:, None] - centres) / deviation) ** 2, axis=-1)
    nearest, distance = square.argmin(1), jnp.sqrt(square.min(1))
    good, near = distance <= 4, distance <= 3
    num = centres.shape[0]
    counts = jnp.zeros(num).at[nearest].add(1.0 * good)
    share = counts / jnp.maximum(counts.sum(), 1)
    inside = jnp.sum(jnp.where(near, distance, 0.0) ** 2)
    within = deviation * jnp.sqrt(inside / jnp.maximum(near.sum(), 1) / samples.shape[1])
    kl = jnp.sum(jax.scipy.special.xlogy(share, share * num))
    return ModeScores(jnp.sum(counts > 0), near.mean(), good.mean(), within, kl)


class DistinctModes(NamedTuple):
    """How many modes samples show, beside what as many samples of the true law would show.

    Attributes:
      modes: labels that occur.
      reverse_kl: Kullback-Leibler divergence of their histogram from the true weights, in nats; infinite if a mode of
        weight zero occurs.
      expected: expected `modes` of the true law.
      kl_floor: expected `reverse_kl` of the true law: what the finite sample alone brings, about (K - 1) / (2 n).
    """

    modes: int
    reverse_kl: float
    expected: float
    kl_floor: float


def distinct_modes(labels: ArrayLike, num_modes: int, weights: ArrayLike | None = None) -> DistinctModes:
    """Count the modes that occur and compare their histogram with the true weights.

    For stacked MNIST the labels come from `stacked_labels`, and the weights from `otgen.data.stacked.mode_weights`.
    `expected` and `kl_floor` are exact for n independent samples, the latter as the sum over modes k of
    w_k E log((1 + M) / (n w_k)) with M binomial (n - 1, w_k).

    Args:
      labels: integers [n] below num_modes.
      num_modes: how many modes there are.
      weights: their true weights [num_modes], of any total; uniform for None.

    Returns:
      DistinctModes.

    Raises:
      ValueError: for no labels, labels that are not integers in range, or bad weights.

    Example:
      >>> found = og.eval.distinct_modes(np.array([0, 0, 2]), 4)
      >>> print(found.modes, found.expected, 4 * (1 - 0.75**3))  # three draws from four modes
      2 2.3125 2.3125

    Reference: Metz et al. (2016), arXiv 1611.02163; Lin et al. (2018), arXiv 1712.04086, section 4.
    """
    counts = class_counts(labels, num_modes)
    weights = None if weights is None else np.asarray(native("weights", weights))
    true = as_mass("weights", weights, num_modes, np.dtype(np.float64))
    true, num = true / true.sum(), int(counts.sum())
    return DistinctModes(
        int(np.count_nonzero(counts)),
        float(special.rel_entr(counts / num, true).sum()),
        float(-np.expm1(num * np.log1p(-np.minimum(true, 1 - 1e-16))).sum()),
        float(sum(times * _kl_term(num, w) for w, times in zip(*np.unique(true, return_counts=True), strict=True))),
    )


def _kl_term(num: int, weight: float) -> float:
    """Return the expected share times log(share / weight) of one mode among `num` samples."""
    if weight == 0:
        return 0.0
    mean = (num - 1) * weight
    reach = 12 * np.sqrt(mean) + 40  # the tails beyond hold less than rounding
    others = np.arange(max(0, int(mean - reach)), min(num - 1, int(mean + reach)) + 1)
    return weight * float(stats.binom.pmf(others, num - 1, weight) @ np.log((1 + others) / (num * weight)))


def stacked_labels(classify: Callable[[Any], ArrayLike], images: ArrayLike) -> np.ndarray:
    """Return the modes of stacked digits: 100 a + 10 b + c for the digits that a classifier reads in the channels.

    Args:
      classify: function from one channel [n, height, width, 1] to logits [n, 10] or labels [n].
      images: [n, height, width, 3], in the range that the classifier takes.

    Returns:
      Labels [n], int64.

    Raises:
      ValueError: for images of another number of channels.

    Example:
      >>> images = jnp.stack([jnp.full((2, 2), digit) for digit in (3, 0, 7)], -1)[None]
      >>> print(og.eval.stacked_labels(lambda channel: channel.max((1, 2, 3)), images))
      [307]
    """
    require_function("classify", classify)
    images = native("images", images)
    shape = images.shape
    require_channels_last("images", shape)
    if len(shape) != 4 or shape[-1] != 3:
        raise ValueError(f"images has shape {shape}: give stacked digits [n, height, width, 3].")
    a, b, c = (np.asarray(predicted_labels(classify(images[..., i : i + 1])), np.int64) for i in range(3))
    return 100 * a + 10 * b + c
