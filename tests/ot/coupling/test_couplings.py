import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otgen as og
from otgen.ot import coupling

CENTRES = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 3.0]])


@pytest.fixture(scope="module")
def clusters():
    """300 points in three clusters, and labels 5, 7, 9 of them, of unequal shares."""
    random = np.random.default_rng(0)
    number = random.choice(3, 300, p=[0.5, 0.3, 0.2])
    return (CENTRES[number] + 0.3 * random.normal(size=(300, 2))).astype(np.float32), 2 * number + 5


@pytest.fixture(scope="module")
def solved(clusters):
    """The semi-discrete couplings of the clusters, without and with labels."""
    data, labels = clusters
    return {
        name: coupling.semidiscrete(jax.random.key(0), data, it)[0] for name, it in (("all", None), ("each", labels))
    }


def cost(batch):
    return float(jnp.mean(jnp.sum((batch.x0 - batch.x1) ** 2, 1)))


@pytest.mark.parametrize("which", ["all", "each"])
def test_nearer_pairs_the_better_the_coupling(clusters, solved, key, which):
    data, labels = clusters
    labels = labels if which == "each" else None
    independent, minibatch = coupling.Independent(data, labels), coupling.Minibatch(data, labels)
    costs = [cost(it.pair(key, 512)) for it in (independent, minibatch, solved[which])]
    assert costs[0] > costs[1] > costs[2]


def test_labels_are_numbered_in_their_order(clusters, solved, key):
    data, labels = clusters
    for it in (coupling.Independent(data, labels), coupling.Minibatch(data, labels), solved["each"]):
        batch = it.pair(key, 64)
        np.testing.assert_array_equal(it.labels.known, [5, 7, 9])
        np.testing.assert_array_equal(it.labels.known[batch.label], labels[batch.index])
        np.testing.assert_array_equal(batch.x1, data[batch.index])
        wanted = np.arange(64) % 3
        np.testing.assert_array_equal(it.pair(key, 64, wanted).label, wanted)


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
