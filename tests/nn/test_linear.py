"""Starts of deep linear networks, and the linear generator trained by the Bures loss."""

import functools
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otgen as og
from otgen.models import bures_linear
from otgen.nn import linear
from otgen.theory.dynamics import end_to_end
from otgen.train.state import TrainState
from otgen.types import Status
from tests.support.covariances import random_covariance


@pytest.mark.parametrize("start", linear.STARTS)
def test_starts_have_their_shapes_and_laws(start, key):
    widths = (100, 60, 120, 80)
    weights = [np.asarray(w) for w in linear.draw_weights(key, widths, start, rank=3, scale=2.0)]
    assert [w.shape for w in weights] == [(60, 100), (120, 60), (80, 120)]
    deviation = {
        "normal": 0.1,
        "uniform": 3**-0.5,
        "xavier_normal": (2 / 180) ** 0.5,
        "xavier_uniform": (2 / 180) ** 0.5,
        "kaiming_normal": (2 / 60) ** 0.5,
        "kaiming_uniform": (2 / 60) ** 0.5,
    }
    if start in deviation:  # the standard deviation of k draws has a relative error of about 1 / sqrt(2 k)
        size = weights[1].size
        assert abs(np.std(weights[1]) / 2 / deviation[start] - 1) < 5 / np.sqrt(2 * size)
    if start == "orthogonal":
        np.testing.assert_allclose(weights[1].T @ weights[1], 4 * np.eye(60), atol=1e-4)
    if start in ("balanced", "low_rank"):
        assert max(np.abs(b.T @ b - a @ a.T).max() for a, b in pairwise(weights)) < 1e-4
    if start == "low_rank":
        assert np.linalg.matrix_rank(weights[2] @ weights[1] @ weights[0], tol=1e-4) == 3


@pytest.mark.parametrize("widths", [(4, 6), (3, 7, 7, 6), (8, 8, 2, 8)])
def test_factorisation_keeps_the_product_and_balances(x64, widths):
    random = np.random.default_rng(0)
    matrix = random.normal(size=(widths[-1], min(widths))) @ random.normal(size=(min(widths), widths[0]))
    weights = linear.factorise(matrix, widths)
    weights = [np.asarray(weight) for weight in weights]
    np.testing.assert_allclose(functools.reduce(lambda below, above: above @ below, weights), matrix, atol=1e-12)
    for lower, upper in pairwise(weights):
        np.testing.assert_allclose(upper.T @ upper, lower @ lower.T, atol=1e-12)
    uneven = [2 * weights[0], *weights[1:-1], weights[-1] / 2] if len(weights) > 1 else weights
    for one, other in zip(linear.balance([jnp.asarray(w) for w in uneven]), weights, strict=True):
        np.testing.assert_allclose(np.linalg.norm(one), np.linalg.norm(other))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("widths", "tau"), [pytest.param((20, 20, 20), 0.0, marks=pytest.mark.slow), ((20, 20), 0.1), ((6, 6, 20), 0.0)]
)
def test_close_starts_have_a_positive_margin(x64, widths, tau):
    target = random_covariance(20, 0) + np.eye(20)
    weights = linear.close_weights(jax.random.key(0), jnp.asarray(target), widths, tau=tau)
    matrix = np.asarray(end_to_end(weights))
    values = np.linalg.eigvalsh(target)[::-1]
    k = min(widths)
    excess = og.gaussian.bures_sq(matrix @ matrix.T + tau * np.eye(20), target)
    if k == 20:
        assert np.sqrt(values[-1]) - np.sqrt(excess) > 0
    else:
        assert np.sqrt(values[k - 1]) - np.sqrt(excess - values[k:].sum()) > 0
    assert np.linalg.matrix_rank(matrix) == k


def data(num=400, dim=12):
    random = np.random.default_rng(0)
    return random.normal(size=(num, dim)) * np.logspace(0.5, -1, dim) + 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"depth": 1}, marks=pytest.mark.slow),
        {"depth": 3},
        pytest.param({"tau": 0.05}, marks=pytest.mark.slow),
        {"kind": "frobenius", "tol": 1e-3},
    ],
)
def test_fitting_reaches_the_discarded_eigenvalues(settings, key):
    x = data()
    model = bures_linear.fit(key, x, rank=4, **settings)
    assert model.info.status == Status.CONVERGED
    values = np.linalg.eigvalsh(np.cov(x.T))[::-1]
    tau = settings.get("tau", 0.0)
    least = np.sum((np.sqrt(values[4:]) - np.sqrt(tau)) ** 2)
    least = np.sum(values[4:] ** 2) if "kind" in settings else least
    np.testing.assert_allclose(model.info.minimum, least, rtol=1e-4)
    np.testing.assert_allclose(model.info.loss, least, rtol=2e-3)
    np.testing.assert_allclose(model.variables["transport"]["mean"], x.mean(0), rtol=1e-5)


@pytest.fixture(scope="module")
def fitted():
    return bures_linear.fit(jax.random.key(0), data().reshape(400, 3, 4), rank=12, depth=1)


def test_samples_have_the_moments_of_the_model(fitted, key):
    x, model = data().reshape(400, 3, 4), fitted
    drawn = bures_linear.sample(key, model, 20_000)
    assert drawn.shape == (20_000, 3, 4)
    drawn, x = np.asarray(drawn).reshape(-1, 12), x.reshape(-1, 12)
    spread = x.std(0)
    assert np.all(abs(drawn.mean(0) - x.mean(0)) < 5 * spread / np.sqrt(20_000))
    np.testing.assert_allclose(drawn.std(0), spread, rtol=5 / np.sqrt(40_000) + 2e-3)


@pytest.mark.slow
def test_training_by_batches_comes_close(key):
    seen = []
    settings = {"rank": 4, "batch_size": 200, "epochs": 100, "learning_rate": 0.05}
    model = bures_linear.fit(
        key, data(), callback=lambda step, metrics: seen.append((step, metrics["loss"])), **settings
    )
    assert model.info.error < 0.03  # the covariance of 200 points is not that of 400
    assert seen[-1][0] == model.info.num_steps == 200
    assert seen[-1][1] < seen[0][1]


def test_bad_input_is_refused(fitted, key):
    with pytest.raises(ValueError, match="start = 'zero'"):
        linear.draw_weights(key, (3, 3), "zero")
    with pytest.raises(ValueError, match="rank = 4"):
        linear.draw_weights(key, (3, 3), "low_rank", rank=4)
    with pytest.raises(ValueError, match="widths"):
        linear.draw_weights(key, (3,))
    with pytest.raises(ValueError, match="shape \\(2, 3\\)"):
        linear.factorise(jnp.ones((2, 3)), (2, 3))
    with pytest.raises(ValueError, match="tau = 2"):
        linear.close_weights(key, jnp.eye(3), (3, 3), tau=2.0)
    with pytest.raises(ValueError, match="positive one"):
        linear.close_weights(key, jnp.diag(jnp.array([1.0, 1.0, 0.0])), (3, 3))
    with pytest.raises(ValueError, match="last width"):
        linear.close_weights(key, jnp.eye(3), (3, 4))
    for field, value in (("rank", 0), ("depth", 0), ("tau", -1.0), ("kind", "l2"), ("batch_size", 1), ("tol", 0.0)):
        with pytest.raises(ValueError, match=field):
            bures_linear.fit(key, data(), **{field: value})
    with pytest.raises(ValueError, match="width = 3"):
        bures_linear.fit(key, data(), rank=4, width=3)
    with pytest.raises(ValueError, match="rank = 50"):
        bures_linear.fit(key, data())
    with pytest.raises(ValueError, match="at least 2 points"):
        bures_linear.fit(key, data()[:1], rank=2)
    with pytest.raises(ValueError, match="NaN"):
        bures_linear.fit(key, data() * np.nan, rank=2)
    with pytest.raises(TypeError):
        bures_linear.fit(key, data(), layers=2)
    with pytest.raises(ValueError, match="num = 0"):
        bures_linear.sample(key, fitted, 0)


def test_data_that_do_not_vary(key):
    model = bures_linear.fit(key, np.ones((400, 12)), rank=4, depth=3)  # sizes of the test above
    assert model.info.status == Status.CONVERGED
    np.testing.assert_allclose(bures_linear.sample(key, model, 3), 1.0, atol=1e-3)


@pytest.mark.slow
def test_a_step_on_two_devices_is_that_on_one(key):
    rows = jnp.asarray(data(40, 6) - 3, jnp.float32)
    config = bures_linear.Config(rank=2, batch_size=40)
    module, params = bures_linear.init(key, config, (6,), rows.T / 40**0.5)
    state = TrainState(params, bures_linear.optimiser(config, 10, 1.0).init(params), jnp.int32(0))
    step = bures_linear.make_step(module, 10, 1.0)
    one, metrics = step(state, rows, key)
    both = jax.vmap(lambda half: step(state, half, key, axis_name="devices"), axis_name="devices")
    two, gathered = both(rows.reshape(2, 20, 6))
    np.testing.assert_allclose(gathered["loss"], metrics["loss"], rtol=1e-5)
    for expected, found in zip(jax.tree.leaves(one.params), jax.tree.leaves(two.params), strict=True):
        np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found[0], found[1])
