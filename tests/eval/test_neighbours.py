import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from otgen.eval.neighbours import (
    density_coverage,
    memorisation,
    nearest,
    neighbour_scores,
    novelty,
    precision_recall,
)

SIZES = 400, 300


def test_nearest_against_all_distances(key):
    x, y = jax.random.normal(key, (300, 7)), 5 + jax.random.normal(jax.random.key(1), (1111, 7))
    distance, index = nearest(x, y, 5)
    dense = cdist(np.asarray(x, np.float64), np.asarray(y, np.float64))
    np.testing.assert_allclose(distance, np.sort(dense, 1)[:, :5], rtol=1e-5)
    np.testing.assert_array_equal(index, np.argsort(dense, 1)[:, :5])


def draws(key, repeats, shift=0.0):
    for k in jax.random.split(key, repeats):
        a, b = jax.random.split(k)
        yield jax.random.normal(a, (SIZES[0], 3)), shift + jax.random.normal(b, (SIZES[1], 3))


def test_four_scores_against_plain_loops(key):
    real, generated = (np.asarray(of) for of in next(draws(key, 1, shift=0.7)))
    radius = {k: np.sort(cdist(real, real), 1)[:, k] for k in (3, 5)}
    distance = cdist(generated, real)
    own = np.sort(cdist(generated, generated), 1)[:, 3:4]
    expected = [
        (distance <= radius[3]).any(1).mean(),
        (distance <= own).any(0).mean(),
        (distance <= radius[5]).sum() / (5 * SIZES[1]),
        (distance <= radius[5]).any(0).mean(),
    ]
    found = neighbour_scores(real, generated)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.slow
def test_pairs_of_scores_are_those_of_all_four(key):
    pair = next(draws(key, 1, shift=0.7))
    found = np.ravel([*precision_recall(*pair), *density_coverage(*pair)])
    np.testing.assert_array_equal(found, neighbour_scores(*pair))


def test_equal_laws_have_density_one_and_the_coverage_of_the_formula(key):
    n, m = SIZES
    found = np.array([density_coverage(*pair) for pair in draws(key, 40)])
    gap = np.arange(1, 6)
    truth = np.array([1.0, 1 - np.prod((n - gap) / (n + m - gap))])
    error = found.std(0, ddof=1) / np.sqrt(len(found))
    assert (error < 0.01).all()
    np.testing.assert_array_less(np.abs(found.mean(0) - truth), 4 * error)


def test_half_the_modes_halve_recall_and_coverage(key):
    modes = jnp.array([[0.0, 0.0, 0.0], [90.0, 0.0, 0.0]])
    real, generated = next(draws(key, 1))
    real = real + modes[jnp.arange(SIZES[0]) % 2]
    scores = neighbour_scores(real, generated)
    whole = neighbour_scores(real, generated + modes[jnp.arange(SIZES[1]) % 2])
    assert float(scores.recall) == pytest.approx(float(whole.recall) / 2, abs=0.06)
    assert float(scores.coverage) == pytest.approx(0.5, abs=0.02)  # twice the points around each real one
    assert float(scores.precision) > 0.9
    # the mode that is there holds twice the share of generated samples that it has of real ones
    assert float(scores.density) == pytest.approx(1, abs=0.2)
    assert float(whole.coverage) > 0.9


def test_memorisation_is_zero_on_copies_and_one_within_its_error_on_unseen_draws(key):
    train = jax.random.normal(key, (400, 3))
    copies = memorisation(train[: SIZES[1]], train, test=train[: SIZES[1]] + 1)
    assert float(copies.value) == pytest.approx(0, abs=1e-6)
    ratios, errors = [], []
    for unseen, test in draws(jax.random.key(1), 60):
        new = unseen[: SIZES[1]]
        known = nearest(test, train)[0]
        found = memorisation(new, train, test_distance=known)
        ratios.append(float(found.value))
        errors.append(float(found.error))
    assert float(memorisation(new, train, test).value) == ratios[-1] == float(novelty(new, train, test))
    spread = np.std(ratios, ddof=1)
    assert np.mean(errors) == pytest.approx(spread, rel=4 / np.sqrt(2 * 59))
    assert abs(np.mean(ratios) - 1) < 4 * spread / np.sqrt(60)
    assert float(memorisation(new + 3, train, test).value) > 2


def test_memorisation_needs_test_codes_that_are_not_training_codes(key):
    train = jax.random.normal(key, (50, 3))
    with pytest.raises(ValueError, match="hold other images out"):
        memorisation(train[:10], train, train[:20])


def test_what_is_refused(key):
    x = np.zeros((10, 2))
    with pytest.raises(ValueError, match="one of the two"):
        memorisation(x, x)
    with pytest.raises(ValueError, match="k = 11 of 10"):
        nearest(x, x, 11)
    with pytest.raises(ValueError, match="at least 6"):
        density_coverage(x[:5], x)
    with pytest.raises(ValueError, match="2 columns and generated 1"):
        precision_recall(x, x[:, :1])
