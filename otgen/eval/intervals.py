"""How sure a score is: standard errors, the bootstrap, and intervals over seeds."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from scipy import stats

from otgen.ot.check import (
    as_array,
    as_count,
    as_key,
    native,
    require_choice,
    require_function,
    require_level,
)
from otgen.types import Array, Held, Key

_BLOCK = 2**22  # numbers of resamples in memory at a time
_NOT_TRACEABLE = (jax.errors.JAXTypeError, jax.errors.JAXIndexError)  # what NumPy code meets inside jit


class Estimate(NamedTuple):
    """A number and its standard error.

    Attributes:
      value: the estimate.
      error: its standard error, in the same unit.

    Example:
      >>> print(og.eval.Estimate(value=jnp.array(2.0), error=jnp.array(0.1)).value)
      2.0
    """

    value: Array
    error: Array


class Interval(NamedTuple):
    """A number and where it lies with a given confidence.

    Attributes:
      low, high: ends of the interval.
      value: the estimate.
      error: its standard error.

    Example:
      >>> found = og.eval.over_seeds([1.0, 2.0, 3.0])
      >>> print(found.low < found.value < found.high, found.error, 1 / np.sqrt(3))
      True 0.5774 0.5774
    """

    low: Held
    high: Held
    value: Held
    error: Held


@jax.jit
def mean_of(values: Array) -> Estimate:
    """Return the mean of independent values [n] and its standard error."""
    return Estimate(values.mean(), values.std(ddof=1) / math.sqrt(values.shape[0]))


def over_seeds(values: ArrayLike | Sequence, level: float = 0.95) -> Interval:
    """Return the mean over independent runs, with Student's t interval of the true mean.

    Exact for normal values. Two runs give an interval of 12.7 standard errors either side, five one of 2.8.

    Args:
      values: one number a run [s], s >= 2, or arrays [s, ...].
      level: confidence, between 0 and 1.

    Returns:
      Interval of NumPy numbers, or of arrays [...].

    Raises:
      ValueError: for fewer than two runs, values that are not finite, or a level outside (0, 1).

    Example:
      >>> found = og.eval.over_seeds([1.0, 3.0])
      >>> print(found.value, found.error, (found.high - found.value) / found.error)  # two runs: 12.7 standard errors
      2.0 1.0 12.7062

    Reference: Student (1908), The probable error of a mean.
    """
    runs = np.asarray(native("values", values), np.float64)
    if runs.ndim < 1 or runs.shape[0] < 2:
        raise ValueError(f"values has shape {runs.shape}: one number from each of at least 2 runs is needed.")
    if not np.isfinite(runs).all():
        raise ValueError("values has NaN or infinite entries: leave out runs that failed, and say so.")
    require_level("level", level)
    mean, error = runs.mean(0), runs.std(0, ddof=1) / np.sqrt(runs.shape[0])
    half = stats.t.ppf(0.5 + 0.5 * level, runs.shape[0] - 1) * error
    return Interval(mean - half, mean + half, mean, error)


def bootstrap(
    key: Key,
    statistic: Callable[..., Any],
    *arrays: ArrayLike,
    repeats: int = 200,
    level: float = 0.95,
    method: str = "percentile",
    paired: bool = False,
) -> Interval:
    """Return a statistic of samples, with its bootstrap standard error and confidence interval.

    Rows are drawn again with replacement, from every array on its own. Statistics that JAX can trace run in one
    compiled loop (compiled once if you define the function once), others one after another in Python.

    Copies of rows mislead statistics that look at pairs within a sample: nearest neighbours (precision, memorisation)
    and kernel distances. `memorisation` and `kernel_distance` come with errors of their own; for the others repeat the
    run and use `over_seeds`. Resampling adds its own bias to that of a statistic, such as the Frechet distance of few
    samples, which goes up both times: "percentile" is then off by twice the bias, and "basic", which reflects the
    resampled values at the value, takes it off. "bca" corrects for skewness, and for a bias well below the error.

    Args:
      key: PRNG key.
      statistic: function of as many arrays as are given, returning a scalar.
      *arrays: samples [n, ...], [m, ...], ... of two rows at least.
      repeats: resamples; 200 do for the error, an interval deserves 1000. Static.
      level: confidence, between 0 and 1. Static.
      method: "percentile", "basic", or "bca", which calls the statistic once more for each row. Static.
      paired: whether row i of all arrays is one observation, drawn together. Static.

    Returns:
      Interval of scalars.

    Raises:
      ValueError: for no arrays, fewer than two rows, paired arrays of different length, fewer than two repeats, a level
        outside (0, 1) or another method.

    Example:
      >>> x = jax.random.normal(jax.random.key(0), (400,))
      >>> found = og.eval.bootstrap(jax.random.key(1), jnp.mean, x)
      >>> print(found.value == x.mean(), jnp.abs(found.error - 1 / 20) < 0.01)  # 1 / sqrt(400)
      True True

    Reference: Efron (1987), Better bootstrap confidence intervals; Efron and Tibshirani (1993), An Introduction to the
    Bootstrap, chapters 13 and 14.
    """
    require_level("level", level)
    require_choice("method", method, ("percentile", "basic", "bca"))
    require_function("statistic", statistic)
    key, repeats = as_key(key), as_count("repeats", repeats, least=2)
    samples = tuple(_as_sample(array) for array in arrays)
    sizes = [sample.shape[0] if sample.ndim else 0 for sample in samples]
    if not sizes or min(sizes) < 2:
        raise ValueError(f"arrays have {sizes} rows: give at least one array, and at least 2 rows in each.")
    if paired and len(set(sizes)) > 1:
        raise ValueError(f"arrays have {sizes} rows: paired arrays need the same number.")

    value = jnp.asarray(statistic(*samples))
    if value.ndim:
        raise ValueError(f"the statistic returned shape {value.shape}: it must be one number.")
    block = max(1, _BLOCK // sum(sample.size for sample in samples))
    draws = _map(_resampled, statistic, samples, paired, jax.random.split(key, repeats), block)
    left_out = []
    if method == "bca":
        groups = [tuple(range(len(sizes)))] if paired else [(k,) for k in range(len(sizes))]
        rows = [jnp.arange(sizes[group[0]]) for group in groups]
        left_out = [_map(_without, statistic, samples, *each, block) for each in zip(groups, rows, strict=True)]
    found = _interval(value, draws, left_out, 0.5 - 0.5 * level)
    return found if method != "basic" else found._replace(low=2 * value - found.high, high=2 * value - found.low)


def _as_sample(array: ArrayLike) -> Array:
    """Observations of their own type, but for half floats, whose sums would lose digits."""
    array = native("a sample", array)
    return (
        as_array("a sample", array, finite=False) if jnp.issubdtype(array.dtype, jnp.floating) else jnp.asarray(array)
    )


def _resampled(statistic: Callable[..., Any], samples: tuple[Array, ...], paired: bool, key: Key) -> Any:
    """Return the statistic of rows drawn with replacement."""
    sizes = [sample.shape[0] for sample in samples]
    bits = jax.random.bits(key, (max(sizes) if paired else sum(sizes),), "uint32")
    starts = [0] * len(sizes) if paired else np.cumsum([0, *sizes[:-1]])
    rows = (bits[start : start + num] % num for start, num in zip(starts, sizes, strict=True))
    return statistic(*(sample[row] for sample, row in zip(samples, rows, strict=True)))


def _without(statistic: Callable[..., Any], samples: tuple[Array, ...], group: tuple[int, ...], i: Array) -> Any:
    """Return the statistic without row i of the arrays in the group."""
    others = jnp.arange(samples[group[0]].shape[0] - 1)
    rows = others + (others >= i)
    return statistic(*(sample[rows] if k in group else sample for k, sample in enumerate(samples)))


def _map(
    of: Callable[..., Any], statistic: Any, samples: tuple[Array, ...], how: Any, over: Array, block: int
) -> Array:
    """Return values of a statistic over keys or rows, a block at a time in one compiled loop if it can be traced."""
    try:
        return _compiled(of, statistic, samples, how, over, block)
    except _NOT_TRACEABLE:
        return jnp.stack([jnp.asarray(of(statistic, samples, how, entry)) for entry in over])


@functools.partial(jax.jit, static_argnums=(0, 1, 3, 5))
def _compiled(
    of: Callable[..., Any], statistic: Any, samples: tuple[Array, ...], how: Any, over: Array, block: int
) -> Array:
    def one(entry: Array) -> Any:
        return of(statistic, samples, how, entry)

    return jax.vmap(one)(over) if block >= over.shape[0] else jax.lax.map(one, over, batch_size=block)


@jax.jit
def _interval(value: Array, draws: Array, left_out: list[Array], tail: ArrayLike) -> Interval:
    levels = jnp.stack([jnp.asarray(tail, draws.dtype), jnp.asarray(1 - tail, draws.dtype)])
    if left_out:
        levels = _bca(levels, value, draws, left_out)
    low, high = jnp.quantile(draws, levels)
    return Interval(low, high, value, draws.std(ddof=1))


def _bca(levels: Array, value: Array, draws: Array, left_out: list[Array]) -> Array:
    """Move the levels of the quantiles by median bias and acceleration; Efron (1987), equations 2.3 and 6.6."""
    below = 0.5 * (jnp.mean(draws < value) + jnp.mean(draws <= value))
    least = 0.5 / draws.shape[0]
    bias = jax.scipy.special.ndtri(jnp.clip(below, least, 1 - least))
    influence = [(values.shape[0] - 1) / values.shape[0] * (values.mean() - values) for values in left_out]
    spread = sum(jnp.sum(of**2) for of in influence)
    skewness = sum(jnp.sum(of**3) for of in influence) / jnp.where(spread > 0, spread, 1.0) ** 1.5 / 6
    shifted = bias + jax.scipy.special.ndtri(levels)
    return jax.scipy.special.ndtr(bias + shifted / (1 - skewness * shifted))
