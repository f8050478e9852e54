"""Disentanglement scores: how well the coordinates of a code and the known factors of the data pair up.

Scores are defined as in disentanglement_lib, so that they compare with published tables; a code is the mean
representation. Two kinds of function:

* of a sample, `(codes [n, d], factors [n, k])`, rows in random order: `mig`, `sap`, `dci`, `modularity`,
  `explicitness`. Classifiers hold out the last third: 15,000 rows give the published 10,000 and 5,000;
* of an encoder, `(key, codes_of, sizes)`, because they must draw data that share one factor: `factor_vae`, `beta_vae`
  and `disentanglement`, which returns all scores; `otgen.eval.interventions` says what an encoder is.

Reference: Locatello et al. (2019), arXiv 1811.12359, appendix C.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike
from scipy.special import xlogy

from otgen import optional
from otgen.eval.information import discretise, entropy, information_matrix
from otgen.eval.interventions import CodesOf, beta_vae, factor_vae, sample
from otgen.ot.check import as_count, as_key, native, require_finite
from otgen.types import Key


class Gap(NamedTuple):
    """How far the code that knows most about a factor is ahead of the next.

    Attributes:
      score: mean over factors.
      per_factor: best minus second best code [k].
      matrix: what is compared, of code and factor [d, k].
    """

    score: float
    per_factor: np.ndarray
    matrix: np.ndarray


class Dci(NamedTuple):
    """Disentanglement, completeness, informativeness.

    Attributes:
      disentanglement: whether each code serves one factor, in [0, 1].
      completeness: whether each factor is served by one code, in [0, 1].
      informativeness: accuracy of the factors predicted from the codes, on held-out rows.
      importance: share of each code in the prediction of each factor [d, k]; columns sum to 1.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    importance: np.ndarray


def mig(codes: ArrayLike, factors: ArrayLike, *, bins: int = 20) -> Gap:
    """Return the mutual information gap: information of the best code about a factor minus the second best, over H.

    Codes are put into `bins` equal bins. A factor of more than `bins` values then cannot reach 1: perfect codes of 40
    equally likely values, two to a bin, have log 20 / log 40 = .81; with one bin per value, or more, they have 1.

    Args:
      codes: [n, d]. factors: integers [n, k], each of at least two values; 10,000 rows in publications.
      bins: bins of the histogram of each code.

    Returns:
      Gap, of mutual information over the entropy of the factor.

    Raises:
      ValueError: for other shapes, codes that are not finite, or a factor that does not vary.

    Example:
      >>> factors = np.stack(np.meshgrid(np.arange(4), np.arange(3)), -1).reshape(-1, 2)
      >>> print(og.eval.mig(factors.astype(float), factors).score)  # one code a factor
      1.0
      >>> print(og.eval.mig(factors @ np.array([[1.0, 1.0], [0.1, 0.1]]), factors).score)  # twice the same code
      0.0

    Reference: Chen et al. (2018), arXiv 1802.04942, equation 6.
    """
    codes, factors = _checked(codes, factors)
    return _gap(information_matrix(discretise(codes, bins), factors) / [entropy(factor) for factor in factors.T])


def sap(codes: ArrayLike, factors: ArrayLike, *, continuous: bool = False) -> Gap:
    """Return the separated attribute predictability: score of the best single code for a factor minus the second best.

    The score is the held-out accuracy of a linear support vector machine on one code (C = .01, balanced classes), which
    cannot tell many values on a line apart: perfect codes reach 1/2 for two values, but .02 for 40, and .18 in the mean
    of dSprites' factors. It is solved in the primal (the published one in the dual): the same optimum, without the
    dual's failures to converge.

    Args:
      codes: [n, d]. factors: integers [n, k].
      continuous: score by the squared correlation over all rows instead.

    Returns:
      Gap.

    Raises:
      ValueError: as `mig`.

    Example:
      >>> factors = np.tile(np.stack(np.meshgrid([0, 1], [0, 1]), -1).reshape(-1, 2), (30, 1))
      >>> print(og.eval.sap(factors.astype(float), factors).score)  # 1 by the code of the factor, 1 / 2 by the other
      0.5

    Reference: Kumar, Sattigeri, Balakrishnan (2018), arXiv 1711.00848, section 3.
    """
    codes, factors = _checked(codes, factors)
    if continuous:
        spread = codes.std(0)
        z = (codes - codes.mean(0)) / np.where(spread > 0, spread, 1)
        v = (factors - factors.mean(0)) / factors.std(0)
        return _gap((z.T @ v / len(z)) ** 2)
    with optional.imports():
        from sklearn.svm import LinearSVC

    cut = _cut(codes)

    def accuracy(code, factor):
        machine = LinearSVC(C=0.01, class_weight="balanced", dual=False).fit(code[:cut, None], factor[:cut])
        return machine.score(code[cut:, None], factor[cut:])

    return _gap(np.array([[accuracy(code, factor) for factor in factors.T] for code in codes.T]))


def dci(codes: ArrayLike, factors: ArrayLike, *, trees: int = 100) -> Dci:
    """Return disentanglement, completeness and informativeness by gradient-boosted trees, one model per factor.

    Needs impurity importances, which scikit-learn's faster histogram trees lack: at the published size, some five
    minutes for ten codes and the five factors of dSprites.

    Args:
      codes: [n, d]. factors: integers [n, k].
      trees: boosting stages; 100 in publications.

    Returns:
      Dci.

    Raises:
      ValueError: as `mig`.

    Example:
      >>> factors = np.tile(np.stack(np.meshgrid([0, 1], [0, 1]), -1).reshape(-1, 2), (30, 1))
      >>> found = og.eval.dci(factors.astype(float), factors, trees=5)
      >>> print(found.disentanglement, found.completeness, found.informativeness)
      1.0 1.0 1.0

    Reference: Eastwood, Williams (2018), A framework for the quantitative evaluation of disentangled representations.
    """
    with optional.imports():
        from sklearn.ensemble import GradientBoostingClassifier

    codes, factors = _checked(codes, factors)
    cut = _cut(codes)
    models = [
        GradientBoostingClassifier(n_estimators=as_count("trees", trees), random_state=0).fit(codes[:cut], factor[:cut])
        for factor in factors.T
    ]
    accuracy = [model.score(codes[cut:], factor[cut:]) for model, factor in zip(models, factors.T, strict=True)]
    importance = np.stack([model.feature_importances_ for model in models], axis=1)
    pure, whole = _concentration(importance), _concentration(importance.T)
    return Dci(pure, whole, float(np.mean(accuracy)), importance)


def modularity(codes: ArrayLike, factors: ArrayLike, *, bins: int = 20) -> float:
    """Return the modularity: 1 minus the squared information of a code about its other factors, over its best.

    Args:
      codes: [n, d]. factors: integers [n, k], k >= 2.
      bins: bins of the histogram of each code.

    Raises:
      ValueError: as `mig`, or for a single factor.

    Reference: Ridgeway, Mozer (2018), arXiv 1802.05312, section 3.
    """
    codes, factors = _checked(codes, factors)
    if factors.shape[1] < 2:
        raise ValueError("factors has one column: modularity compares at least two factors.")
    square = information_matrix(discretise(codes, bins), factors) ** 2
    best = square.max(1)
    others = (square.sum(1) - best) / (factors.shape[1] - 1)
    return float(np.mean(np.where(best > 0, 1 - others / np.where(best > 0, best, 1), 0)))  # a dead code counts 0


def explicitness(codes: ArrayLike, factors: ArrayLike) -> float:
    """Return the explicitness: area under the curve of logistic regression on all codes, one value against the rest.

    Args:
      codes: [n, d]; standardised here. factors: integers [n, k].

    Returns:
      Held-out area, mean over the values of a factor, then over factors: 1/2 for codes that know nothing, 1 at best.

    Raises:
      ValueError: as `mig`.

    Reference: Ridgeway, Mozer (2018), arXiv 1802.05312, section 3.
    """
    with optional.imports():
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import roc_auc_score

    codes, factors = _checked(codes, factors)
    cut = _cut(codes)
    spread = codes[:cut].std(0)
    z = (codes - codes[:cut].mean(0)) / np.where(spread > 0, spread, 1)

    def area(factor):
        model = LogisticRegression(max_iter=1000).fit(z[:cut], factor[:cut])
        truth = factor[cut:, None] == model.classes_
        seen = truth.any(0) & ~truth.all(0)
        chance = model.predict_proba(z[cut:]).T
        return np.mean([roc_auc_score(t, p) for t, p in zip(truth.T[seen], chance[seen], strict=True)])

    return float(np.mean([area(factor) for factor in factors.T]))


def disentanglement(
    key: Key,
    codes_of: CodesOf,
    sizes: Sequence[int],
    *,
    num_train: int = 10_000,
    num_eval: int = 5_000,
    batch: int = 64,
    trees: int = 100,
    continuous: bool = False,
) -> dict[str, float]:
    """Return all scores of an encoder.

    Args:
      key: PRNG key. codes_of: factors [n, k] -> codes [n, d] (see `otgen.eval.interventions`). sizes: values of each
        factor [k], k >= 2, each at least 2.
      num_train, num_eval: rows, or batches, that train and that test; a half of num_train is the usual num_eval, since
        scores of samples hold out a third.
      batch: rows of a batch that shares a factor.
      trees: boosting stages of `dci`.
      continuous: whether `sap` takes factors for continuous.

    Returns:
      mig, factor_vae, beta_vae, sap, dci_disentanglement, dci_completeness, dci_informativeness, modularity,
      explicitness.

    Raises:
      ValueError: for codes or sizes of which a score cannot be computed.

    Example:
      >>> key, true = jax.random.key(0), lambda factors: factors.astype(float)  # an encoder that reads off the factors
      >>> scores = og.eval.disentanglement(key, true, (3, 2), num_train=200, num_eval=100, trees=5)
      >>> print(scores["mig"], scores["factor_vae"], scores["dci_completeness"])
      0.983 1.0 1.0
    """
    as_count("num_train", num_train), as_count("num_eval", num_eval), as_count("batch", batch), as_count("trees", trees)
    sample_key, factor_key, beta_key = jax.random.split(as_key(key), 3)
    codes, factors = sample(sample_key, codes_of, sizes, num_train + num_eval)
    numbers = {"num_train": num_train, "num_eval": num_eval, "batch": batch}
    trained = dci(codes, factors, trees=trees)
    return {
        "mig": mig(codes[:num_train], factors[:num_train]).score,
        "factor_vae": factor_vae(factor_key, codes_of, sizes, num_variance=num_train, **numbers).score,
        "beta_vae": beta_vae(beta_key, codes_of, sizes, **numbers).score,
        "sap": sap(codes, factors, continuous=continuous).score,
        "dci_disentanglement": trained.disentanglement,
        "dci_completeness": trained.completeness,
        "dci_informativeness": trained.informativeness,
        "modularity": modularity(codes[:num_train], factors[:num_train]),
        "explicitness": explicitness(codes, factors),
    }


def _checked(codes: ArrayLike, factors: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    codes, factors = np.asarray(native("codes", codes), np.float64), np.asarray(native("factors", factors))
    if (
        codes.ndim != 2
        or factors.ndim != 2
        or 0 in codes.shape
        or 0 in factors.shape
        or len(codes) != len(factors)
        or len(codes) < 3
    ):
        raise ValueError(
            f"codes have shape {codes.shape}, factors {factors.shape}: give [n, d] and [n, k], rows of both together."
        )
    if factors.dtype.kind not in "iub":
        raise ValueError(f"factors are of type {factors.dtype}: give the index of each factor's value, integers.")
    require_finite("codes", codes)
    constant = np.flatnonzero((factors == factors[0]).all(0))
    if constant.size:
        raise ValueError(f"factor {constant[0]} has one value in all rows: leave it out.")
    return codes, factors


def _cut(codes: np.ndarray) -> int:
    """Return rows to train on; a third is held out."""
    return len(codes) - len(codes) // 3


def _gap(matrix: np.ndarray) -> Gap:
    """Return the best minus the second best row of each column; a single code competes with one that knows nothing."""
    first, second = np.sort(np.concatenate([matrix, np.zeros((1, matrix.shape[1]))]), axis=0)[[-1, -2]]
    return Gap(float(np.mean(first - second)), first - second, matrix)


def _concentration(importance: np.ndarray) -> float:
    """Return how far rows are from uniform: 1 minus their entropy over its maximum, weighted by their sums."""
    total = importance.sum(1, keepdims=True)
    share = importance / np.where(total > 0, total, 1)
    spread = -xlogy(share, share).sum(1) / max(np.log(importance.shape[1]), np.finfo(float).tiny)
    return float(((1 - spread) * total[:, 0]).sum() / max(total.sum(), np.finfo(float).tiny))
