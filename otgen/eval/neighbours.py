"""Nearest neighbours: precision, recall, density and coverage of samples, and how new they are."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.eval.balls import in_units, memberships, nearest_squares, square_radii
from otgen.eval.intervals import Estimate
from otgen.eval.samples import as_samples
from otgen.ot.check import as_array, as_count, is_traced, smallest_and_sum
from otgen.types import Array, Float, Int


class NeighbourScores(NamedTuple):
    """How well generated samples look real, and how much of the real law they reach, by balls around samples.

    Attributes:
      precision: share of generated samples inside a ball around a real one, in [0, 1].
      recall: share of real samples inside a ball around a generated one, in [0, 1].
      density: real balls around a generated sample over their expected number, k; about 1 for equal laws, may exceed 1.
      coverage: share of real balls that hold a generated sample, in [0, 1]; see `density_coverage` for equal laws.
    """

    precision: Array
    recall: Array
    density: Array
    coverage: Array


def nearest(x: ArrayLike, y: ArrayLike, k: int = 1) -> tuple[Float[Array, "n {k}"], Int[Array, "n {k}"]]:
    """Return the k nearest rows of y to every row of x, streamed.

    Args:
      x: queries [n, d]. y: candidates [m, d]. k: how many, at most m. Static.

    Returns:
      Distances [n, k] in ascending order and indices [n, k].

    Raises:
      ValueError: for other shapes, different dimensions, (outside jit) non-finite points, or fewer than k candidates.

    Example:
      >>> distance, index = og.eval.nearest(jnp.array([[0.0], [3.0]]), jnp.array([[2.0], [9.0], [-1.0]]), k=2)
      >>> print(distance, index)
      [[1. 2.]
       [1. 4.]] [[2 0]
       [0 2]]
    """
    x, y = as_samples(1, x=x, y=y)
    if as_count("k", k) > y.shape[0]:
        raise ValueError(f"k = {k} of {y.shape[0]} candidates: choose 1 <= k <= {y.shape[0]}.")
    return _nearest(x, y, int(k))


@functools.partial(jax.jit, static_argnames="k")
def _nearest(x: Array, y: Array, k: int) -> tuple[Array, Array]:
    (y, x), unit = in_units(y, x)
    square, index = nearest_squares(x, y, k)
    zero = square == 0
    return unit * jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, square))), index


def neighbour_scores(real: ArrayLike, generated: ArrayLike, k: int = 3, k_density: int = 5) -> NeighbourScores:
    """Return precision, recall, density and coverage, with distances within a sample taken once.

    Args:
      real: features [n, d]. generated: features [m, d].
      k: neighbours within the balls of precision and recall.
      k_density: neighbours within the balls of density and coverage.

    Returns:
      NeighbourScores.

    Raises:
      ValueError: for other shapes, different dimensions, (outside jit) non-finite features, or too few rows.

    Example:
      >>> real, same, far = jax.random.normal(jax.random.key(0), (3, 100, 2))
      >>> found = og.eval.neighbour_scores(real, same)
      >>> print(found.precision > 0.8, found.recall > 0.8, og.eval.neighbour_scores(real, far + 50).precision)
      True True 0.0

    Reference: Kynkaanniemi et al. (2019), arXiv 1904.06991; Naeem et al. (2020), arXiv 2002.09797.
    """
    k, k_density = as_count("k", k), as_count("k_density", k_density)
    real, generated = _pair(real, generated, max(k, k_density), k)
    counts, used = memberships(generated, real, square_radii(real, (k, k_density)))
    other = min(k_density, len(generated) - 1)  # not used: samples of one size share two programs in place of four
    recalled, _ = memberships(real, generated, square_radii(generated, (k, other)))
    return NeighbourScores(
        jnp.mean(counts[0] > 0), jnp.mean(recalled[0] > 0), jnp.mean(counts[1]) / k_density, jnp.mean(used[1])
    )


def precision_recall(real: ArrayLike, generated: ArrayLike, k: int = 3) -> tuple[Array, Array]:
    """Estimate precision and recall by k-nearest-neighbour balls.

    Precision is the share of generated features inside a ball around a real one that reaches its k-th nearest real
    neighbour; recall exchanges the roles.

    Args:
      real: features [n, d]. generated: features [m, d].
      k: neighbours.

    Returns:
      Precision and recall, in [0, 1].

    Raises:
      ValueError: for other shapes or fewer than k + 1 rows.

    Example:
      >>> real = jax.random.normal(jax.random.key(0), (100, 2))
      >>> precision, recall = og.eval.precision_recall(real, real[:8] * 0.1)  # real, but of the middle only
      >>> print(precision, recall < 0.5)
      1.0 True

    Reference: Kynkaanniemi et al. (2019), arXiv 1904.06991.
    """
    return neighbour_scores(real, generated, k, k)[:2]


def density_coverage(real: ArrayLike, generated: ArrayLike, k: int = 5) -> tuple[Array, Array]:
    """Estimate density and coverage by k-nearest-neighbour balls around real features only.

    Density is the mean number of real balls that hold a generated feature, over k; coverage the share of real balls
    that hold any. Equal laws have density 1 and coverage 1 - (n-1)...(n-k) / ((n+m-1)...(n+m-k)) in expectation. Real
    outliers, whose balls are large, weigh less than in precision.

    Args:
      real: features [n, d]. generated: features [m, d].
      k: neighbours.

    Returns:
      Density, which may exceed 1, and coverage, in [0, 1].

    Raises:
      ValueError: for other shapes or fewer than k + 1 real rows.

    Example:
      >>> real = jax.random.normal(jax.random.key(0), (100, 2))
      >>> density, coverage = og.eval.density_coverage(real, jnp.zeros((100, 2)))  # one point, again and again
      >>> print(density > 1, coverage < 0.2)
      True True

    Reference: Naeem et al. (2020), arXiv 2002.09797, equations 3 to 5.
    """
    real, generated = _pair(real, generated, as_count("k", k), 0)
    counts, used = memberships(generated, real, square_radii(real, (k,)))
    return jnp.mean(counts[0]) / k, jnp.mean(used[0])


def _pair(real: ArrayLike, generated: ArrayLike, k_real: int, k_generated: int) -> tuple[Array, Array]:
    """Return both clouds, with neighbours enough."""
    real, generated = as_samples(1, real=real, generated=generated)
    for name, cloud, k in (("real", real, k_real), ("generated", generated, k_generated)):
        if cloud.shape[0] < k + 1:
            raise ValueError(f"{name} holds {cloud.shape[0]} point(s): at least {k + 1} are needed for {k} neighbours.")
    return in_units(real, generated)[0]


def memorisation(
    generated: ArrayLike,
    train: ArrayLike,
    test: ArrayLike | None = None,
    *,
    test_distance: ArrayLike | None = None,
) -> Estimate:
    """Return how far generated codes are from the training codes, in units of how far test codes are, with its error.

    The mean distance of generated codes to their nearest training code, divided by that of test codes: 0 for copies of
    the training set, 1 for samples as new as the test set; lmem in tables. The error is that of the ratio of two
    independent means to first order, over draws of generated and test codes; the training set is held fixed.

    Args:
      generated: codes [n, d]. train: codes [N, d]. test: codes [m, d], of one encoder.
      test_distance: instead of `test`, `nearest(test, train)[0]` [m] or [m, 1], found once for many generated sets.

    Returns:
      Estimate.

    Raises:
      ValueError: for other shapes, different dimensions, (outside jit) non-finite codes, or not exactly one of test and
        test_distance.

    Example:
      >>> train, test = jax.random.normal(jax.random.key(0), (2, 100, 3))
      >>> print(og.eval.memorisation(train[:50], train, test).value, og.eval.memorisation(test, train, test).value)
      0.0 1.0
    """
    if (test is None) == (test_distance is None):
        raise ValueError("memorisation was given both or neither: give test codes or test_distance, one of the two.")
    known = jnp.ravel(nearest(test, train)[0] if test_distance is None else as_array("test_distance", test_distance))
    ours = nearest(generated, train)[0][:, 0]
    if min(known.size, ours.size) < 2:
        raise ValueError(f"{ours.size} generated and {known.size} test codes: at least 2 of each are needed.")
    if not is_traced(known):
        least, total = smallest_and_sum(known)
        if least < 0:
            raise ValueError(f"test_distance has a smallest entry of {least:g}: distances are not negative.")
        if not total > 0:
            raise ValueError("all test codes are training codes: hold other images out.")
    return _ratio(ours, known)


@jax.jit
def _ratio(ours: Array, known: Array) -> Estimate:
    """Return the ratio of two independent means, its error to first order."""
    ours, known = ours / known.mean(), known / known.mean()  # before squares are taken
    ratio = ours.mean()
    variance = ours.var(ddof=1) / ours.size + ratio**2 * known.var(ddof=1) / known.size
    return Estimate(ratio, jnp.sqrt(variance))


def novelty(generated: ArrayLike, train: ArrayLike, test: ArrayLike) -> Float[Array, ""]:
    """Return the ratio of `memorisation`, lmem in the tables, without its error.

    Example:
      >>> train, test = jax.random.normal(jax.random.key(0), (2, 100, 3))
      >>> print(og.eval.novelty(train, train, test), og.eval.novelty(test, train, test))
      0.0 1.0
    """
    return memorisation(generated, train, test).value
