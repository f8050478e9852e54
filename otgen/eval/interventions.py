"""Scores of an encoder on batches that share one factor: FactorVAE and beta-VAE.

An encoder is a function `codes_of` that takes factors, integers [n, k] with 0 <= factors[:, j] < sizes[j], and returns
their codes [n, d]. For data that are rendered it is `lambda factors: encode(sprites.render(factors))`; for codes of the
full grid of factors, encoded once, it is `on_grid(codes, sizes)`. The published sizes ask for 2.9 million codes, so a
smaller grid (dSprites has 737,280 images) is best encoded once. It is asked for at most 8,192 rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from otgen import optional
from otgen.ot.check import as_count, as_counts, as_key, native, require_finite, require_function, require_nonnegative
from otgen.types import Key

CodesOf = Callable[[np.ndarray], Any]
_BLOCK = 8192  # rows asked of an encoder at once


class Accuracy(NamedTuple):
    """Accuracy with which a code tells the factor that was fixed.

    Attributes:
      score: on held-out batches.
      train: on the batches it was trained on.
    """

    score: float
    train: float


def on_grid(codes: ArrayLike, sizes: Sequence[int]) -> CodesOf:
    """Return `codes_of` for codes [prod sizes, d] of the full grid of factors, the last factor fastest.

    Raises:
      ValueError: for another number of codes.
    """
    codes = np.asarray(native("codes", codes))
    if codes.ndim != 2 or len(codes) != np.prod(sizes):
        raise ValueError(f"codes have shape {codes.shape}: a grid of sizes {tuple(sizes)} has {np.prod(sizes)} rows.")
    return lambda factors: codes[np.ravel_multi_index(np.asarray(factors).T, tuple(sizes))]


def sample(key: Key, codes_of: CodesOf, sizes: Sequence[int], num: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw factors uniformly and encode them: codes [num, d] and factors, int64 [num, k]."""
    _require(sizes, num=(num, 1))
    factors = _rng(key).integers(0, sizes, (num, len(sizes)))
    return encode(codes_of, factors), factors


def factor_vae(
    key: Key,
    codes_of: CodesOf,
    sizes: Sequence[int],
    *,
    num_train: int = 10_000,
    num_eval: int = 5_000,
    num_variance: int = 10_000,
    batch: int = 64,
    least_sd: float = 0.05,
) -> Accuracy:
    """Return the FactorVAE score: how well the code that varies least, for its scale, tells which factor was fixed.

    Args:
      key: PRNG key. codes_of: factors [n, k] -> codes [n, d]. sizes: values of each factor [k].
      num_train, num_eval: batches that make and that test the majority vote.
      num_variance: rows that estimate the variance of each code.
      batch: rows of a batch, all with one factor in common.
      least_sd: codes of a smaller standard deviation are taken for dead; if all are, the score is 0.

    Returns:
      Accuracy; chance is about 1 / k.

    Raises:
      ValueError: for fewer than two factors or values of a factor, numbers that are too small, or wrong codes.

    Example:
      >>> codes = lambda factors: factors.astype(float)
      >>> print(og.eval.factor_vae(jax.random.key(0), codes, (4, 4), num_train=200, num_eval=100).score)
      1.0

    Reference: Kim, Mnih (2018), arXiv 1802.05983, section 4.
    """
    _require(sizes, num_train=(num_train, 1), num_eval=(num_eval, 1), num_variance=(num_variance, 2), batch=(batch, 2))
    require_nonnegative("least_sd", least_sd)
    global_key, *keys = jax.random.split(as_key(key), 3)
    variance = sample(global_key, codes_of, sizes, num_variance)[0].var(0, ddof=1)
    alive = np.flatnonzero(np.sqrt(variance) >= least_sd)
    if not alive.size:
        return Accuracy(0.0, 0.0)
    votes = np.zeros((2, len(sizes), len(alive)), np.int64)
    for part, (part_key, num) in enumerate(zip(keys, (num_train, num_eval), strict=True)):
        for fixed, factors in _batches(_rng(part_key), sizes, num, batch):
            column = np.arange(len(sizes)) == fixed[:, None, None]
            local = encode(codes_of, np.where(column, factors[:, :1], factors))[..., alive].var(1, ddof=1)
            np.add.at(votes[part], (fixed, (local / variance[alive]).argmin(1)), 1)
    named = votes[0].argmax(0), np.arange(len(alive))
    train, score = (float(part[named].sum() / part.sum()) for part in votes)
    return Accuracy(score, train)


def beta_vae(
    key: Key,
    codes_of: CodesOf,
    sizes: Sequence[int],
    *,
    num_train: int = 10_000,
    num_eval: int = 5_000,
    batch: int = 64,
) -> Accuracy:
    """Return the beta-VAE score: how well logistic regression tells which factor pairs share.

    It sees the mean absolute difference of the codes of pairs. As published, it is regularised (C = 1) and the codes
    are left as they are, so their scale matters a little.

    Args:
      key: PRNG key. codes_of: factors [n, k] -> codes [n, d]. sizes: values of each factor [k].
      num_train, num_eval: batches that train and test the regression.
      batch: pairs of a batch, all sharing one factor (its value differs from pair to pair).

    Returns:
      Accuracy; chance is 1 / k.

    Raises:
      ValueError: as `factor_vae`.

    Example:
      >>> codes = lambda factors: factors.astype(float)  # an encoder that reads off the factors
      >>> print(og.eval.beta_vae(jax.random.key(0), codes, (4, 4), num_train=200, num_eval=100).score > 0.9)
      True

    Reference: Higgins et al. (2017), beta-VAE, section 3.
    """
    with optional.imports():
        from sklearn.linear_model import LogisticRegression

    _require(sizes, num_train=(num_train, 2), num_eval=(num_eval, 1), batch=(batch, 1))
    parts = []
    for part_key, num in zip(jax.random.split(as_key(key)), (num_train, num_eval), strict=True):
        features, labels = [], []
        for fixed, factors in _batches(_rng(part_key), sizes, num, 2 * batch):
            one, other = factors[:, :batch], factors[:, batch:]
            other = np.where(np.arange(len(sizes)) == fixed[:, None, None], one, other)
            features.append(np.abs(encode(codes_of, one) - encode(codes_of, other)).mean(1))
            labels.append(fixed)
        parts.append((np.concatenate(features), np.concatenate(labels)))
    model = LogisticRegression(max_iter=1000).fit(*parts[0])
    return Accuracy(float(model.score(*parts[1])), float(model.score(*parts[0])))


def encode(codes_of: CodesOf, factors: np.ndarray) -> np.ndarray:
    """Return the codes [..., d] of factors [..., k], in blocks, in float64.

    Raises:
      ValueError: unless the encoder returns one finite code per row.
    """
    require_function("codes_of", codes_of)
    rows = factors.reshape(-1, factors.shape[-1])
    blocks = [
        np.asarray(native("codes", codes_of(rows[i : i + _BLOCK])), np.float64) for i in range(0, len(rows), _BLOCK)
    ]
    wrong = [block.shape for block in blocks if block.ndim != 2]
    if wrong or sum(map(len, blocks)) != len(rows):
        raise ValueError(f"codes_of returned {blocks[0].shape} for factors {rows[:_BLOCK].shape}: return codes [n, d].")
    codes = np.concatenate(blocks)
    require_finite("codes", codes)
    return codes.reshape(*factors.shape[:-1], -1)


def _require(sizes: Sequence[int], **numbers: tuple[int, int]) -> None:
    """Raise ValueError unless every factor has two values and every number is as large as it must be."""
    if len(as_counts("sizes", sizes, 2)) < 2:
        raise ValueError(f"sizes = {tuple(sizes)}: give at least two factors of two values or more.")
    for name, (value, least) in numbers.items():
        as_count(name, value, least)


def _rng(key: Key) -> np.random.Generator:
    return np.random.default_rng(np.asarray(jax.random.key_data(as_key(key))))


def _batches(
    rng: np.random.Generator, sizes: Sequence[int], num: int, rows: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draw num batches of factors [., rows, k], some at a time, and which factor each is to share [.]."""
    group = max(1, _BLOCK // rows)
    for start in range(0, num, group):
        count = min(group, num - start)
        yield rng.integers(len(sizes), size=count), rng.integers(0, sizes, (count, rows, len(sizes)))
