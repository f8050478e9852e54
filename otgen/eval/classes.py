"""Classes of generated images: their frequencies, and how many images lie between two classes."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from scipy import special

from otgen.eval.neighbours import nearest
from otgen.ot.check import (
    as_array,
    as_count,
    as_mass,
    as_points,
    is_traced,
    native,
    require_between,
    require_finite,
    require_level,
    smallest_and_sum,
)
from otgen.ot.latent.great_circle import norm
from otgen.types import Array, Held


def nearest_label(features: ArrayLike, known: ArrayLike, labels: ArrayLike, num_classes: int, k: int = 5) -> Array:
    """Return the majority label of the k nearest known features.

    Args:
      features: [n, d]. known: [N, d]. labels: integers [N] below num_classes.
      num_classes: how many classes there are.
      k: neighbours that vote; ties go to the lower label.

    Returns:
      Labels [n], int32.

    Raises:
      ValueError: as `nearest`, and for labels of another number or out of range.

    Example:
      >>> known = jnp.array([[0.0], [0.1], [5.0], [5.1]])
      >>> print(og.eval.nearest_label(jnp.array([[0.3], [4.0]]), known, jnp.array([0, 0, 1, 1]), 2, k=2))
      [0 1]
    """
    num_classes, labels = as_count("num_classes", num_classes), _as_labels(labels, num_classes)
    if labels.shape != np.shape(known)[:1]:
        raise ValueError(f"labels has shape {labels.shape}: give one for each of the known features {np.shape(known)}.")
    _, index = nearest(features, known, k)
    votes = jax.nn.one_hot(jnp.asarray(labels)[index], num_classes).sum(1)
    return jnp.argmax(votes, axis=1).astype(jnp.int32)


def predicted_labels(outputs: ArrayLike) -> Array:
    """Return labels [n], int32, from the logits [n, classes] of a classifier, or from its labels [n].

    Raises:
      ValueError: for other shapes, logits that are (outside jit) not finite, or labels that are no whole numbers.

    Example:
      >>> logits = jnp.array([[0.1, 2.0], [3.0, 0.0]])
      >>> print(og.eval.predicted_labels(logits), og.eval.predicted_labels(jnp.array([4, 2])))
      [1 0] [4 2]
    """
    outputs = native("outputs", outputs)
    if outputs.ndim not in (1, 2) or not outputs.size:
        raise ValueError(f"outputs has shape {outputs.shape}: give logits [n, classes] or labels [n].")
    require_finite("outputs", outputs)
    if outputs.ndim == 1 and not is_traced(outputs) and not np.array_equal(outputs, np.round(outputs)):
        raise ValueError("outputs [n] are no whole numbers: give labels, or logits [n, classes].")
    return (jnp.argmax(outputs, -1) if outputs.ndim == 2 else jnp.asarray(outputs)).astype(jnp.int32)


def class_histogram(labels: ArrayLike, num_classes: int) -> Array:
    """Return the share of each class [num_classes].

    Raises:
      ValueError: (outside jit) for no labels, or labels [n] that are not integers from 0 to num_classes - 1.

    Example:
      >>> print(og.eval.class_histogram(jnp.array([0, 1, 1, 1]), 3))
      [0.25 0.75 0.]
    """
    num_classes, labels = as_count("num_classes", num_classes), _as_labels(labels, num_classes)
    return jnp.bincount(jnp.asarray(labels), length=num_classes) / labels.shape[0]


def _as_labels(labels: ArrayLike, num_classes: int) -> Held:
    """Return integers [n], n >= 1, outside jit in range."""
    labels = native("labels", labels)
    if labels.ndim != 1 or not labels.size or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels has shape {labels.shape} and type {labels.dtype}: give integers [n], n >= 1.")
    if not is_traced(labels) and not 0 <= (ends := (int(labels.min()), int(labels.max())))[0] <= ends[1] < num_classes:
        raise ValueError(f"labels run from {ends[0]} to {ends[1]}: they must be 0 to {num_classes - 1}.")
    return labels


def class_counts(labels: ArrayLike, num_classes: int) -> np.ndarray:
    """Return how often each class occurs [num_classes], int64.

    Raises:
      ValueError: for no labels, or labels [n] that are not integers from 0 to num_classes - 1.

    Example:
      >>> print(og.eval.class_counts(jnp.array([0, 1, 1, 1]), 3))
      [1 3 0]
    """
    num_classes = as_count("num_classes", num_classes)
    return np.bincount(np.asarray(_as_labels(labels, num_classes)), minlength=num_classes)


def total_variation(p: ArrayLike, q: ArrayLike) -> Array:
    """Return half the L1 distance of two histograms, in [0, 1].

    Args:
      p, q: shares of the classes [k], each of total 1.

    Raises:
      ValueError: for different shapes, and (outside jit) shares that are negative or do not sum to 1.

    Example:
      >>> print(og.eval.total_variation(jnp.array([0.5, 0.5]), jnp.array([1.0, 0.0])))
      0.5
    """
    p, q = as_array("p", p, (None,)), as_array("q", q, (None,))
    if p.shape != q.shape:
        raise ValueError(f"p has {p.shape[0]} classes and q {q.shape[0]}: give histograms over the same classes.")
    for name, share in (("p", p), ("q", q)):
        if not is_traced(share):
            least, total = smallest_and_sum(share)
            if least < 0 or abs(total - 1) > 1e-3:
                raise ValueError(f"{name} is {least:g} at least and sums to {total:.6g}: give shares that sum to 1.")
    return 0.5 * jnp.sum(jnp.abs(p - q))


class ClassTest(NamedTuple):
    """Pearson's test of class frequencies.

    Attributes:
      chi2: sum of (observed - expected)^2 / expected; infinite if a class that cannot occur does.
      p_value: probability of a larger chi2 if the frequencies agree; nearly exact where `least_expected` is 5 or more.
      df: degrees of freedom, the classes that can occur less 1.
      total_variation: half the L1 distance of the two histograms; sampling alone brings some.
      least_expected: smallest expected count of a class that can occur.
    """

    chi2: float
    p_value: float
    df: int
    total_variation: float
    least_expected: float


def class_test(
    labels: ArrayLike, num_classes: int, weights: ArrayLike | None = None, *, counts: ArrayLike | None = None
) -> ClassTest:
    """Test whether classes occur as often as they should.

    One sample against known frequencies (`weights`), or two samples against each other (`counts`), without Yates'
    correction. Classes of weight zero, or empty in both samples, are left out.

    Args:
      labels: integers [n] below num_classes.
      num_classes: how many classes there are.
      weights: true frequencies [num_classes], of any total; uniform for None.
      counts: instead of weights, how often each class occurs in another sample [num_classes], whose own noise counts.

    Returns:
      ClassTest.

    Raises:
      ValueError: for labels out of range, bad weights or counts, or both given.

    Example:
      >>> fair = og.eval.class_test(np.repeat([0, 1], [48, 52]), 2)
      >>> print(fair.chi2, fair.p_value > 0.5)  # (2^2 + 2^2) / 50
      0.16 True
      >>> print(og.eval.class_test(np.repeat([0, 1], [480, 520]), 2, np.array([0.4, 0.6])).p_value < 1e-6)
      True

    Reference: Pearson (1900), Phil. Mag. 50.
    """
    observed = class_counts(labels, num_classes)
    if weights is not None and counts is not None:
        raise ValueError("weights and counts were given: give known frequencies or another sample's counts, not both.")
    given, name = (weights, "weights") if counts is None else (counts, "counts")
    given = None if given is None else np.asarray(native(name, given))
    other = as_mass(name, given, num_classes, np.dtype(np.float64))
    share = other / other.sum()
    if counts is None:
        table, expected = observed[None], observed.sum() * share[None]
    else:
        table = np.stack([observed, other])
        expected = np.outer(table.sum(1), table.sum(0)) / table.sum()
    can = expected[0] > 0
    chi2 = np.sum((table - expected)[:, can] ** 2 / expected[:, can]) if not table[:, ~can].any() else np.inf
    df = int(can.sum()) - 1
    p_value = special.chdtrc(df, chi2) if df and np.isfinite(chi2) else float(np.isfinite(chi2))
    distance = 0.5 * np.abs(observed / observed.sum() - share).sum()
    return ClassTest(float(chi2), float(p_value), df, float(distance), float(expected[:, can].min()))


def ambiguous_rate(logits: ArrayLike, confidence: float = 0.9) -> Array:
    """Return the share of samples that a classifier gives no class a probability of `confidence`.

    Args:
      logits: [n, classes]. confidence: the level, in (0, 1]. Compare with real held-out samples.

    Raises:
      ValueError: for other shapes, a level outside, or (outside jit) logits that are not finite.

    Example:
      >>> print(og.eval.ambiguous_rate(jnp.array([[9.0, 0.0], [0.5, 0.4]])))  # the second is undecided
      0.5
    """
    logits = as_array("logits", logits, (None, None))
    require_between("confidence", confidence, 0.0, 1.0)
    if 0 in logits.shape:
        raise ValueError(f"logits has shape {logits.shape}: give at least one sample and one class.")
    return _share_below(logits, confidence)


@jax.jit
def _share_below(logits: Array, confidence: Array) -> Array:
    return jnp.mean(jax.nn.softmax(logits, axis=-1).max(-1) < confidence)


class MixtureRate(NamedTuple):
    """How many samples lie between two classes.

    Attributes:
      rate: share of samples whose score exceeds the threshold.
      held_out: the same share of held-out real samples, which is the level or just below it.
      excess: (rate - held_out) / (1 - held_out), the estimated share of mixtures: 0 for real samples, slightly
        negative for samples that keep closer to their classes than real ones do.
      error: standard error of the excess.
      threshold: the score that the level leaves to held-out samples.
    """

    rate: float
    held_out: float
    excess: float
    error: float
    threshold: float


def mixture_rate(
    features: ArrayLike,
    known: ArrayLike,
    labels: ArrayLike,
    held_out: ArrayLike | None = None,
    level: float = 0.05,
    *,
    held_out_score: ArrayLike | None = None,
) -> MixtureRate:
    """Estimate the share of samples that mix two classes, by `mixture_score`.

    A sample counts as a mixture if its score exceeds that of all but `level` of the held-out real samples. Mixtures
    near one of their two ends look real and are missed; damage that moves features towards another class is counted.
    (Whether the k nearest known features carry several labels is no substitute: midpoints of well separated clusters
    often have neighbours of one class only, and outliers of several.)

    Args:
      features: of the samples [n, d].
      known: features of real samples [N, d].
      labels: their classes, integers [N] from 0, at least two of them.
      held_out: features of real samples [m, d] that are not among the known ones.
      level: share of real samples that may be flagged.
      held_out_score: instead of `held_out`, its `mixture_score` [m], found once for many sets of samples.

    Returns:
      MixtureRate.

    Raises:
      ValueError: for a level outside (0, 1), what `mixture_score` refuses, or not exactly one of held_out and
        held_out_score.

    Example:
      >>> key = jax.random.split(jax.random.key(0), 2)
      >>> labels = np.arange(400) % 2
      >>> known, held_out = (jax.random.normal(it, (400, 2)) + 20.0 * labels[:, None] for it in key)
      >>> halfway = 0.5 * (known[0::2] + known[1::2])  # of points of either class
      >>> print(og.eval.mixture_rate(halfway, known, labels, held_out).rate > 0.9)
      True
      >>> print(og.eval.mixture_rate(known + 0.01, known, labels, held_out).rate < 0.1)
      True
    """
    require_level("level", level)
    if (held_out is None) == (held_out_score is None):
        raise ValueError("mixture_rate was given both or neither: give held_out or held_out_score, one of the two.")
    told = mixture_score(held_out, known, labels) if held_out_score is None else held_out_score
    reference = np.asarray(as_array("held_out_score", told, (None,)))
    if not reference.size:
        raise ValueError("held_out_score is empty: give the scores of one held-out sample or more.")
    threshold = float(np.quantile(reference, 1 - level, method="inverted_cdf"))
    score = np.asarray(mixture_score(features, known, labels))
    rate, base = float(np.mean(score > threshold)), float(np.mean(reference > threshold))
    excess = 1 - (1 - rate) / (1 - base)
    variance = rate * (1 - rate) / len(score) + (1 - excess) ** 2 * base * (1 - base) / len(reference)
    return MixtureRate(rate, base, excess, float(np.sqrt(variance)) / (1 - base), threshold)


def mixture_score(features: ArrayLike, known: ArrayLike, labels: ArrayLike) -> Array:
    """Return how far each sample is on the way from one class to another, in [0, 1].

    The distance to the nearest class over that to the second nearest (the inverse of the trust score), each measured
    to the nearest known feature: 0 on a known feature, 1 halfway. The score is 0 where the sample lies beside the two
    classes rather than between them, farther from one of the two features than they are from each other.

    Args:
      features: [n, d].
      known: [N, d].
      labels: integers [N] from 0, at least two different ones.

    Returns:
      Scores [n].

    Raises:
      ValueError: for other shapes, different dimensions, or fewer than two classes.

    Example:
      >>> known, labels = jnp.array([[0.0, 0.0], [10.0, 0.0]]), np.array([0, 1])
      >>> print(og.eval.mixture_score(jnp.array([[0.0, 0.0], [2.0, 0.0], [5.0, 0.0], [0.0, 9.0]]), known, labels))
      [0. 0.25 1. 0.]

    Reference: Jiang et al. (2018), arXiv 1805.11783 (trust score); Toussaint (1980) (relative neighbours).
    """
    features, known, labels = as_points("features", features, 1), as_points("known", known), native("labels", labels)
    if features.shape[1] != known.shape[1]:
        raise ValueError(f"features have {features.shape[1]} columns, known ones {known.shape[1]}: use one extractor.")
    if labels.shape != known.shape[:1]:
        raise ValueError(f"labels has shape {labels.shape}: give one for each of the {len(known)} known features.")
    counts, labels = class_counts(labels, int(labels.max()) + 1), np.asarray(labels)
    if np.count_nonzero(counts) < 2:
        raise ValueError("labels hold one class only: a mixture needs two.")
    rows = [np.resize(np.flatnonzero(labels == c), counts.max()) for c in np.flatnonzero(counts)]  # one shape for all
    return _mixture_score(features, known, np.stack(rows))


@jax.jit
def _mixture_score(features: Array, known: Array, rows: Array) -> Array:
    """Return the scores [n], from the rows [classes, most] of the known features that make up every class."""

    def closest(row):
        distance, index = nearest(features, known[row], 1)
        return distance[:, 0], row[index[:, 0]]

    distance, index = (found.T for found in jax.lax.map(closest, rows))
    order = jnp.argsort(distance, axis=1)[:, :2]
    (first, second), (p, q) = jnp.take_along_axis(distance, order, 1).T, jnp.take_along_axis(index, order, 1).T
    apart = norm(known[p] - known[q])[:, 0]
    return jnp.where(second < apart, first / jnp.where(second > 0, second, 1), 0.0)
