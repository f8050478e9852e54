"""Pairs of all couplings, for data on a grid whose maps are known exactly: three classes, side by side."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from otgen.ot import coupling
from tests.support.grids import grid

_RANDOM = np.random.default_rng(0)
LINES = [np.sort(_RANDOM.normal(size=18)) + 4 * (np.arange(18) // 6 - 1), np.sort(_RANDOM.normal(size=8))]
DATA, H = grid(*LINES)
LABELS = 2 * (np.arange(18).repeat(8) // 6) + 5  # 5, 7, 9 from left to right
H_EACH = np.concatenate([grid(line, LINES[1])[1] for line in np.split(LINES[0], 3)])
ALL, EACH = coupling.SemiDiscrete(DATA, H), coupling.SemiDiscrete(DATA, H_EACH, LABELS)
SIZE = 32


@pytest.mark.parametrize("labels", [None, LABELS], ids=["all", "each"])
def test_nearer_pairs_the_better_the_coupling(key, labels):
    """By <x0, x1>, in which alone they differ in cost, of 64 batches with the same noise."""
    solved = ALL if labels is None else EACH
    couplings = coupling.Independent(DATA, labels), coupling.Minibatch(DATA, labels), solved
    keys = [jax.random.fold_in(key, i) for i in range(64)]
    batches = [[it.pair(one, SIZE) for one in keys] for it in couplings]
    found = np.array([[jnp.sum(batch.x0 * batch.x1) / SIZE for batch in of] for of in batches])
    for more in np.diff(found, axis=0):
        assert more.mean() > 4 * more.std() / 8


def test_labels_are_numbered_in_their_order(key):
    for it in (coupling.Independent(DATA, LABELS), coupling.Minibatch(DATA, LABELS), EACH):
        batch = it.pair(key, SIZE)
        np.testing.assert_array_equal(it.labels.known, [5, 7, 9])
        np.testing.assert_array_equal(it.labels.known[batch.label], LABELS[batch.index])
        np.testing.assert_array_equal(batch.x1, DATA[batch.index])
        wanted = np.arange(SIZE) % 3
        np.testing.assert_array_equal(it.pair(key, SIZE, wanted).label, wanted)


def test_the_winner_of_its_class_is_found(key):
    """Against scores of all points of the class, for classes of one point, of few and of more than a block."""
    random = np.random.default_rng(1)
    labels = np.repeat(np.arange(5), [1, 3, 700, 256, 300])
    random.shuffle(labels)
    y, h = random.normal(size=(len(labels), 6)) + 5.0, random.normal(size=len(labels))
    it = coupling.SemiDiscrete(y, h, labels)
    for num in (1, 50, 4000):
        batch = it.pair(key, num)
        scores = np.asarray(batch.x0, np.float64) @ y.T + h
        scores[np.asarray(batch.label)[:, None] != labels] = -np.inf
        assert (scores.max(1) - scores[np.arange(num), batch.index]).max() < 1e-4


def test_each_data_point_is_used_as_often_and_by_the_noise_of_its_cell(key):
    for it in (ALL, EACH):
        batch = it.pair(key, 2**14)
        counts = np.bincount(batch.index, minlength=len(DATA))
        chi2 = ((counts - counts.mean()) ** 2).sum() / counts.mean()
        assert chi2 < len(DATA) + 4 * np.sqrt(2 * len(DATA))
        second = norm.cdf(np.asarray(batch.x0)[:, 1]) * 8  # the second coordinate is cut at the octiles
        np.testing.assert_array_equal(np.clip(second, 0, 7.999).astype(int), np.asarray(batch.index) % 8)
