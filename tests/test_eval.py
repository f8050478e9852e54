import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from otgen import data
from otgen import eval as evaluate
from otgen.data import toy


def test_nearest_against_all_distances(key):
    x, y = jax.random.normal(key, (300, 7)), 5 + jax.random.normal(jax.random.key(1), (1111, 7))
    distance, index = evaluate.nearest(x, y, 5)
    dense = cdist(np.asarray(x, np.float64), np.asarray(y, np.float64))
    np.testing.assert_allclose(distance, np.sort(dense, 1)[:, :5], rtol=1e-5)
    np.testing.assert_array_equal(index, np.argsort(dense, 1)[:, :5])


def test_precision_and_recall_against_a_plain_loop(key):
    real = np.asarray(jax.random.normal(key, (400, 3)))
    generated = np.asarray(1 + 0.5 * jax.random.normal(jax.random.key(1), (300, 3)))

    def inside(points, balls):
        radius = np.sort(cdist(balls, balls), 1)[:, 3]
        return (cdist(points, balls) <= radius).any(1).mean()

    precision, recall = evaluate.precision_recall(jnp.asarray(real), jnp.asarray(generated))
    assert float(precision) == pytest.approx(inside(generated, real), abs=1e-6)
    assert float(recall) == pytest.approx(inside(real, generated), abs=1e-6)


def test_half_the_modes_halve_recall_not_precision(key):
    modes = jnp.array([[0.0, 0.0], [50.0, 0.0]])
    real = modes[jnp.arange(1000) % 2] + jax.random.normal(key, (1000, 2))
    half = modes[:1] + jax.random.normal(jax.random.key(1), (1000, 2))
    precision, recall = evaluate.precision_recall(real, half)
    assert float(precision) > 0.9
    assert float(recall) == pytest.approx(0.5, abs=0.05)


def test_novelty_is_zero_on_copies_and_one_on_unseen_draws(key):
    train, test, new = (jax.random.normal(k, (2000, 4)) for k in jax.random.split(key, 3))
    assert float(evaluate.novelty(train[:500], train, test)) == pytest.approx(0, abs=1e-5)
    ratio = float(evaluate.novelty(new, train, test))
    spread = [float(evaluate.nearest(z, train)[0].std()) for z in (new, test)]
    mean = float(evaluate.nearest(test, train)[0].mean())
    assert abs(ratio - 1) < 4 * np.hypot(*spread) / mean / np.sqrt(2000)


def test_mode_scores_of_true_gaussians_and_of_planted_faults(key):
    centres, deviation = toy.centres_of("twenty_five_gaussians")
    num = 20_000
    true = evaluate.mode_scores(toy.twenty_five_gaussians(key, num), centres, deviation)
    assert int(true.modes) == 25
    assert float(true.share_3sd) == pytest.approx(0.98889, abs=4 * np.sqrt(0.989 * 0.011 / num))
    assert float(true.reverse_kl) < 4 * 24 / (2 * num)
    collapsed = evaluate.mode_scores(centres[:5][jnp.arange(1000) % 5], centres, deviation)
    assert int(collapsed.modes) == 5
    assert float(collapsed.within_sd) == 0
    assert float(collapsed.reverse_kl) == pytest.approx(np.log(5), rel=1e-4)
    between = evaluate.mode_scores(centres + 1.0, centres, deviation)
    assert float(between.share_4sd) == 0


def test_digit_classes_by_neighbours():
    train, test = data.load("digits", "train"), data.load("digits", "test")
    guess = evaluate.nearest_label(
        evaluate.pixels(test.images / 255.0), evaluate.pixels(train.images / 255.0), train.labels, 10
    )
    assert float(np.mean(np.asarray(guess) == test.labels)) > 0.97
    shares = evaluate.class_histogram(guess, 10)
    assert float(shares.sum()) == pytest.approx(1)
    assert float(evaluate.total_variation(shares, jnp.eye(10)[0])) == pytest.approx(1 - float(shares[0]), abs=1e-6)


def test_lenet_reads_digits(data_dir, tmp_path):
    test = data.load("mnist", "test", data_dir, cache_dir=tmp_path)
    images = test.images[:3000] / np.float32(255)
    features = evaluate.lenet(data_dir)(images)
    assert features.shape == (3000, 84)
    assert float(jnp.abs(features).max()) <= 1
    with np.load(data_dir / "lenet_mnist" / "lenet.npz") as weights:
        logits = np.asarray(features) @ weights["fc.f7.weight"].T + weights["fc.f7.bias"]
    assert np.mean(logits.argmax(1) == test.labels[:3000]) > 0.97


def test_lenet_says_what_it_needs(data_dir, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lenet\.npz"):
        evaluate.lenet(tmp_path)
    with pytest.raises(ValueError, match=r"28, 28, 1"):
        evaluate.lenet(data_dir)(np.zeros((2, 32, 32, 1)))
