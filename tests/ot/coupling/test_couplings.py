"""Pairs of all couplings, for data on a grid whose maps are known exactly: three classes, side by side."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from otgen.ot import coupling
from tests.support.grids import classes

DATA, LABELS, H, H_EACH = classes()
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
    for num in (50, 4000):
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


def together(it, key, num):
    """Pairs of `num` batches."""
    return jax.tree.map(lambda *of: np.concatenate(of), *coupling.batches(it, key, SIZE, num=num))


def accuracy(batch):
    """How often a linear probe, fitted to half of the noise, reads the class from the other half."""
    x, hot = np.asarray(batch.x0), np.eye(3)[np.asarray(LABELS[batch.index] - 5) // 2]
    x, half = np.c_[x, np.ones(len(x))], len(x) // 2
    read = x[half:] @ np.linalg.lstsq(x[:half], hot[:half], rcond=None)[0]
    return np.mean(read.argmax(1) == hot[half:].argmax(1))


@pytest.mark.parametrize(("it", "told"), [(EACH, False), (ALL, True)], ids=["each", "all"])
def test_noise_tells_the_class_only_where_classes_are_not_solved_apart(key, it, told):
    error = np.sqrt(2 / 9 / 2**13)  # of a guess among three, by 8,192 pairs
    found = accuracy(it.pair(key, 2**14))
    assert found > 0.5 if told else abs(found - 1 / 3) < 3 * error


def test_noise_of_plans_within_classes_does_not_tell_them(key):
    apart, joint = (together(coupling.Minibatch(DATA, it), key, 128) for it in (LABELS, None))
    assert abs(accuracy(apart) - 1 / 3) < 3 * np.sqrt(2 / 9 / 2**11)
    assert accuracy(joint) > 0.5


def test_noise_has_its_law(key):
    """Of each class too: means and second moments within 4 standard errors."""
    for it in (EACH, coupling.Minibatch(DATA, LABELS)):
        batch = EACH.pair(key, 2**14) if it is EACH else together(it, key, 32)
        for rows in [np.ones(len(batch.x0), bool), *(np.asarray(batch.label) == of for of in range(3))]:
            x = np.asarray(batch.x0)[rows]
            moments = np.c_[x, x[:, 0] * x[:, 1], (x**2 - 1) / np.sqrt(2)]
            assert (np.abs(moments.mean(0)) * np.sqrt(len(x)) < 4).all()


def test_conditions_are_kept_apart_from_noise_by_beta(key):
    """The condition is the first coordinate of the data, which the plan would show in that of the noise."""
    found = []
    for beta in (0.0, 10.0):
        it = coupling.Minibatch(DATA, DATA[:, :1].copy(), beta=beta)
        batch = together(it, key, 32)
        np.testing.assert_array_equal(batch.label, batch.x1[:, :1])
        found.append(np.corrcoef(batch.x0[:, 0], batch.label[:, 0])[0, 1])
    assert found[0] > 0.8
    assert abs(found[1]) < 4 / np.sqrt(1024)


def test_data_of_any_shape_and_an_unknown_class_in_jit(key):
    it = coupling.SemiDiscrete(DATA.reshape(-1, 1, 2), H_EACH, LABELS)
    batch, flat = it.pair(key, SIZE), EACH.pair(key, SIZE)
    assert batch.x0.shape == batch.x1.shape == (SIZE, 1, 2)
    np.testing.assert_array_equal(batch.x0[:, 0], flat.x0)
    np.testing.assert_array_equal(batch.index, flat.index)
    run = jax.jit(lambda it, key, labels: it.pair(key, 8, labels))
    weight = run(it, key, jnp.arange(8) % 3 + jnp.arange(8) // 7 * 5).weight
    np.testing.assert_array_equal(np.isnan(weight), np.arange(8) == 7)


@pytest.mark.slow
@pytest.mark.parametrize("labels", [None, LABELS], ids=["all", "each"])
def test_the_entropic_plan_is_between_independent_pairs_and_the_matching(key, labels):
    """Of the same noise and data: the smaller epsilon, the nearer to the least cost; every data point stays once."""
    kinds = {
        "independent": coupling.Independent(DATA, labels),
        "wide": coupling.Sinkhorn(DATA, labels, epsilon=0.5),
        "narrow": coupling.Sinkhorn(DATA, labels, epsilon=0.01),
        "matched": coupling.Minibatch(DATA, labels),
    }
    keys = [jax.random.fold_in(key, i) for i in range(16)]
    batches = {name: [it.pair(one, SIZE) for one in keys] for name, it in kinds.items()}
    costs = {name: np.mean([jnp.sum((it.x0 - it.x1) ** 2, 1) for it in of]) for name, of in batches.items()}
    assert costs["independent"] > costs["wide"] > costs["narrow"] >= costs["matched"]
    assert costs["narrow"] < costs["matched"] + 0.1 * (costs["independent"] - costs["matched"])
    for one, other in zip(batches["independent"], batches["narrow"], strict=True):
        np.testing.assert_array_equal(np.sort(one.index), np.sort(other.index))
        if labels is not None:
            np.testing.assert_array_equal(one.label, other.label)


@pytest.mark.slow
def test_memory_does_not_grow_with_batch_times_data(key):
    """Not by what the compiled programs ask for, with 8,192 pairs of 60,000 data: their scores would take 1.9 GB."""
    labels = np.arange(60_000) % 10
    for it in (coupling.SemiDiscrete(np.ones((60_000, 16)), np.zeros(60_000), of) for of in (None, labels)):
        made = jax.jit(lambda it, key: it.pair(key, 8192)).lower(it, key).compile().memory_analysis()
        assert made.temp_size_in_bytes < 2**25


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda key: coupling.Independent(DATA[0]), r"data have shape \(2,\): give rows"),
        (lambda key: coupling.Independent(np.where(DATA > 1, np.nan, DATA)), "data"),
        (lambda key: coupling.Independent(DATA, LABELS[:-1]), "labels have shape"),
        (lambda key: coupling.SemiDiscrete(DATA, H, DATA), "labels, as they are taken"),
        (lambda key: coupling.SemiDiscrete(DATA, H[:-1]), "h, one height"),
        (lambda key: coupling.SemiDiscrete(DATA, H, balance=H, imbalance="other"), "imbalance = 'other'"),
        (lambda key: EACH.pair(key, 4, np.array([0, 1, 2, 3])), "labels reach from 0 to 3"),
        (lambda key: EACH.pair(key, 4, np.array([0, 1])), "give 4 integers"),
        (lambda key: ALL.pair(key, 4, 0), "made without labels"),
        (lambda key: coupling.Minibatch(DATA, DATA).pair(key, 4, 0), "one of conditions"),
        (lambda key: EACH.pair(key, 0), "num = 0"),
        (lambda key: coupling.batches(EACH, key, 0), "batch_size = 0"),
        (lambda key: coupling.batches(EACH, key, 4, repeats=0), "repeats = 0"),
        (lambda key: coupling.batches(DATA, key, 4), "coupling.pair"),
        (lambda key: list(coupling.batches(EACH, key, 4)), "no end"),
        (lambda key: coupling.semidiscrete(key, DATA, state=coupling.SemiDiscrete(DATA[:5], H[:5])), "5 heights"),
    ],
)
def test_what_cannot_be_meant_is_refused(key, make, message):
    with pytest.raises(ValueError, match=message):
        make(key)
