"""Information shared by discrete variables: entropy, mutual information, its normalised form, accuracy of a code.

All take labels of any kind (integers, strings) and count in float64; information is in nats. Mutual information
is the plug-in estimate, whose bias on independent variables of a and b values is about (a - 1)(b - 1) / 2n.
"""

from __future__ import annotations

import numpy as np
from jax.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

from otgen.ot.check import as_count, native, require_finite


def contingency(codes: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Return how often each pair of values occurs: int64 [values of codes, values of labels], in sorted order.

    Raises:
      ValueError: unless codes and labels are vectors [n] of one length n >= 1.
    """
    codes, labels = _as_labels("codes", codes), _as_labels("labels", labels)
    if codes.ndim != 1 or codes.shape != labels.shape or not codes.size:
        raise ValueError(f"codes have shape {codes.shape}, labels {labels.shape}: give two vectors of one length.")
    rows, row = np.unique(codes, return_inverse=True)
    columns, column = np.unique(labels, return_inverse=True)
    counts = np.bincount(row * len(columns) + column, minlength=len(rows) * len(columns))
    return counts.reshape(len(rows), len(columns))


def _as_labels(name: str, labels: ArrayLike) -> np.ndarray:
    """Return labels of any kind, numbers without NaN."""
    if np.asarray(labels).dtype.kind in "OUST" and not isinstance(labels, np.ma.MaskedArray):
        return np.asarray(labels)
    labels = np.asarray(native(name, labels))
    require_finite(name, labels)
    return labels


def entropy(labels: ArrayLike) -> float:
    """Return the entropy of the empirical law of labels [n], in nats."""
    return _entropy(contingency(labels, labels).sum(1))


def mutual_information(codes: ArrayLike, labels: ArrayLike) -> float:
    """Return the mutual information of the empirical joint law of codes [n] and labels [n], in nats."""
    return _information(contingency(codes, labels))


def nmi(codes: ArrayLike, labels: ArrayLike) -> float:
    """Return the mutual information of codes [n] and labels [n] over the mean of their entropies, in [0, 1].

    Two constants are taken for equal partitions: 1. The normaliser is the arithmetic mean, scikit-learn's default.

    Example:
      >>> codes, labels = np.array([0, 0, 1, 1]), np.array([7, 7, 3, 3])
      >>> print(og.eval.nmi(codes, labels), og.eval.nmi(np.array([0, 1, 0, 1]), labels))  # names do not matter
      1.0 0.0
    """
    counts = contingency(codes, labels)
    if counts.size == 1:
        return 1.0
    return float(np.clip(2 * _information(counts) / (_entropy(counts.sum(1)) + _entropy(counts.sum(0))), 0, 1))


def matched_accuracy(codes: ArrayLike, labels: ArrayLike) -> float:
    """Return the accuracy of codes [n] as labels [n] under the best one-to-one naming of their values.

    Code values left without a label, where there are more of them, count as errors; so do labels without a code.

    Example:
      >>> codes, labels = np.array([0, 0, 1, 1]), np.array([7, 7, 3, 7])
      >>> print(og.eval.matched_accuracy(codes, labels))  # 0 is named 7, and 1 is named 3
      0.75

    Reference: Kuhn (1955), the Hungarian method, here on the contingency table.
    """
    counts = contingency(codes, labels)
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / counts.sum())


def discretise(codes: ArrayLike, bins: int = 20) -> np.ndarray:
    """Return the bin of every code, 0 to bins - 1, of a histogram per column from its least to its largest value.

    Args:
      codes: [n, d].
      bins: bins of equal width.

    Returns:
      int64 [n, d].

    Raises:
      ValueError: for other shapes, NaN or infinite codes.
    """
    codes, bins = np.asarray(native("codes", codes), np.float64), as_count("bins", bins)
    if codes.ndim != 2 or not codes.size:
        raise ValueError(f"codes have shape {codes.shape}: give [n, d], one column per code.")
    require_finite("codes", codes)
    return np.stack([np.digitize(x, np.linspace(x.min(), x.max(), bins + 1)[1:-1]) for x in codes.T], axis=1)


def information_matrix(codes: ArrayLike, factors: ArrayLike) -> np.ndarray:
    """Return the mutual information of every discrete code with every factor, in nats.

    Args:
      codes: discrete, [n, d]; `discretise` makes them so.
      factors: discrete, [n, k].

    Returns:
      float64 [d, k].
    """
    codes, factors = np.asarray(codes), np.asarray(factors)
    return np.array([[mutual_information(code, factor) for factor in factors.T] for code in codes.T])


def _entropy(counts: np.ndarray) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum() + 0.0)  # not -0.0 for a constant


def _information(counts: np.ndarray) -> float:
    joint = counts / counts.sum()
    ratio = joint / (joint.sum(1, keepdims=True) * joint.sum(0))
    some = counts > 0
    return max(0.0, float((joint[some] * np.log(ratio[some])).sum()))
