"""Weights of an update's points: what is known ahead is met, what it predicts has less noise, nothing is biased."""

import jax
import jax.numpy as jnp
import numpy as np

from otgen.maps import calibration
from otgen.ot.semidiscrete.source import gaussian

ROWS = 512


def law(num=48, draws=2**18):
    return calibration.of_law(jax.random.key(0), num, gaussian, 2, draws)


def functions(known, x):
    return np.concatenate([x, np.maximum(x @ known.directions - known.offsets, 0)], 1)


def test_means_of_known_functions_are_those_of_the_law():
    known, x = law(), np.asarray(gaussian(jax.random.key(1), ROWS, 2))
    shares = np.asarray(calibration.weights(known, x))
    f = functions(known, x)
    before, after = f.mean(0) - known.mean, shares @ f - known.mean
    assert np.abs(after).max() < 0.02 * np.abs(before).max()  # but for the ridge
    assert abs(shares.sum() - 1) < 1e-5
    np.testing.assert_allclose(known.mean[:2], 0, atol=5 / np.sqrt(2**18))


def test_means_of_other_functions_have_less_noise_and_no_bias():
    known = law()

    def one(key):
        x = gaussian(key, ROWS, 2)
        g = jnp.cos(x[:, 0]) + x[:, 0] * x[:, 1]
        return g.mean(), jnp.sum(calibration.weights(known, x) * g)

    plain, weighed = (np.asarray(means) for means in jax.lax.map(one, jax.random.split(jax.random.key(2), 300)))
    assert weighed.var() < 0.2 * plain.var()
    assert abs(weighed.mean() - np.exp(-0.5)) < 4 * weighed.std() / np.sqrt(300) + 4 * plain.std() * np.sqrt(
        ROWS / 2**18
    )


def test_means_over_points_are_over_all_of_them(monkeypatch):
    monkeypatch.setattr(calibration, "_BLOCK", 100)
    points = np.random.default_rng(0).normal(size=(250, 3)).astype(np.float32)  # two blocks and a half
    known = calibration.of_points(jax.random.key(0), 8, jnp.asarray(points))
    f = functions(known, points)
    np.testing.assert_allclose(known.mean, f.mean(0), atol=1e-5)
    white = (f - known.mean) @ np.asarray(known.whitening)
    np.testing.assert_allclose(white.T @ white / 250, np.eye(11), atol=0.02)  # but for the floor
    shares = calibration.weights(known, jnp.asarray(points))  # all of them: there is nothing to correct
    np.testing.assert_allclose(shares, 1 / 250, rtol=1e-3)


def test_weights_are_those_of_the_whole_batch_on_every_device():
    known, x = law(8, 2**12), gaussian(jax.random.key(3), 64, 2)
    whole = calibration.weights(known, x)
    parts = jax.vmap(lambda x: calibration.weights(known, x, "devices"), axis_name="devices")(x.reshape(4, 16, 2))
    np.testing.assert_allclose(parts.reshape(-1) / 4, whole, rtol=1e-4)
