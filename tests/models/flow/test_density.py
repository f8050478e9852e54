"""Log-likelihood, score and straightness against closed forms; of trained networks against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otgen as og
from otgen.models import flow
from tests.models.flow.exact import Cells, Gaussian, Linear, Monge

KEY = jax.random.key(0)
MEAN, SD = (1.0, -2.0), 0.4
EXACT = flow.Flow(Gaussian(MEAN, SD), {"params": {}}, flow.Config())


def points(t, num=200):
    """Points, mean and standard deviation of p_t."""
    mean, sd = t * np.array(MEAN), np.sqrt((1 - t) ** 2 + (t * SD) ** 2)
    return mean + sd * np.random.default_rng(0).normal(size=(num, 2)), mean, sd


@pytest.mark.parametrize("t", [0.5, 1.0])
@pytest.mark.parametrize("options", [{}, {"method": "adaptive"}, {"num_probes": 2, "key": KEY}], ids=str)
def test_the_log_density_of_a_gaussian_is_right_at_all_times(t, options):
    """Its velocity is linear with a multiple of the identity, for which one random direction has no variance."""
    x, mean, sd = points(t)
    wanted = jax.scipy.stats.norm.logpdf(x, mean, sd).sum(1)
    np.testing.assert_allclose(flow.log_prob(EXACT, x, t=t, **options), wanted, atol=2e-3)


def test_random_directions_are_right_on_average():
    """Of v = A x with A not symmetric the divergence is the trace of A, the estimate e'Ae, a sum of all entries."""
    linear = flow.Flow(Linear(((0.5, 1.0), (-0.2, 0.3))), {"params": {}}, flow.Config())
    x = jnp.tile(jnp.array([[0.3, -0.2]]), (2000, 1))
    exact = float(flow.log_prob(linear, x[:1])[0])
    start = jax.scipy.linalg.expm(-jnp.asarray(linear.module.matrix)) @ x[0]
    np.testing.assert_allclose(exact, jax.scipy.stats.norm.logpdf(start).sum() - 0.8, atol=1e-4)
    drawn = np.asarray(flow.log_prob(linear, x, key=KEY, num_probes=1))
    np.testing.assert_allclose(np.unique(drawn.round(4)), [exact - 0.8, exact + 0.8], atol=1e-3)  # e'Ae: 0.8 +- 0.8
    assert abs(drawn.mean() - exact) < 4 * 0.8 / np.sqrt(2000)


def test_the_score_of_a_gaussian_is_right_until_the_end():
    for t in (0.0, 0.3, 0.9):
        x, mean, sd = points(t)
        np.testing.assert_allclose(flow.score(EXACT, x, t), -(x - mean) / sd**2, rtol=1e-3, atol=1e-3)


def differences(model, x, t, step=0.02):
    """Central differences of the log-density [n, d]."""
    ways = step * np.eye(x.shape[1])
    ends = [flow.log_prob(model, x + sign * way, t=t, num_steps=64) for way in ways for sign in (1, -1)]
    return (np.stack(ends[::2], 1) - np.stack(ends[1::2], 1)) / (2 * step)


def test_differences_of_the_log_density_are_the_score():
    x, *_ = points(0.6)
    score = np.asarray(flow.score(EXACT, x, 0.6))
    assert np.abs(differences(EXACT, x, 0.6) - score).max() < 0.02 * np.abs(score).max()


@pytest.mark.slow
@pytest.mark.parametrize("coupling", ["independent", "semidiscrete"])
def test_differences_of_the_log_density_are_the_score_of_networks(coupling, optimised):
    """Of independent pairs this holds as far as the network has learned the mean of x1 - x0; of others always."""
    data, short = two_bumps(20_000, 0), coupling == "semidiscrete"
    sizes = (
        {"num_steps": 300, "width": 32, "tol": 0.1} if short else {"num_steps": 5000, "width": 32, "batch_size": 2048}
    )
    options = {"depth": 2, "learning_rate": 4e-3, "average": 0.99 if short else 0.9995}
    model = flow.fit(KEY, data[:1000] if short else data, coupling=coupling, **sizes, **options)
    for t in (0.3, 0.6):
        x = (1 - t) * np.random.default_rng(1).normal(size=(300, 2)) + t * two_bumps(300, 1)
        x = x[np.linalg.norm(x - x.mean(0), axis=1) < 1.5 * x.std()]
        score = np.asarray(flow.score(model, x, t))
        error = differences(model, x, t) - score
        assert np.mean(error**2) < (0.01 if short else 0.07) ** 2 * np.mean(score**2)


def two_bumps(num, seed):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(num) < 0.4, -0.7, 0.6)[:, None] * [1.0, 0.5] + rng.normal(size=(num, 2)) * [0.6, 0.7]


@pytest.mark.parametrize("t", [0.3, 1.0])
def test_the_score_of_transported_noise_is_the_derivative_of_the_log_density(t):
    """The velocity has no more to say of it: (t v - x) / (1 - t) = -x0 / (1 - t), but x_t = a x0 + t mean."""
    model = EXACT._replace(module=Monge(MEAN, SD), coupling="SemiDiscrete")
    a = 1 - t + t * SD
    x0 = np.random.default_rng(0).normal(size=(50, 2))
    found = flow.score(model, a * x0 + t * np.array(MEAN), t)
    np.testing.assert_allclose(found, -x0 / a, atol=2e-3 / a)
    if t < 1:
        x = a * x0 + t * np.array(MEAN)
        np.testing.assert_allclose((t * flow.velocity(model, x, t) - x) / (1 - t), -x0 / (1 - t), atol=1e-4)


def test_within_the_cells_of_the_map_to_points_the_velocity_has_the_score():
    """Taken literally the semi-discrete map leaves pieces of the normal law, shrunk by 1 - t."""
    model = flow.Flow(Cells(), {"params": {}}, flow.Config(), coupling="SemiDiscrete")
    x0, t = np.array([[-1.3], [-0.2], [0.4], [2.0]]), 0.6
    x = (1 - t) * x0 + t * np.sign(x0)
    np.testing.assert_allclose(flow.score(model, x, t), -x0 / (1 - t), rtol=2e-3)
    np.testing.assert_allclose((t * flow.velocity(model, x, t) - x) / (1 - t), -x0 / (1 - t), rtol=1e-4)
    wanted = jax.scipy.stats.norm.logpdf(x0)[:, 0] - np.log(1 - t)
    np.testing.assert_allclose(flow.log_prob(model, x, t=t), wanted, atol=2e-3)


def test_paths_are_straight_where_all_noise_goes_to_one_place_at_one_speed():
    moved = EXACT._replace(module=Gaussian(MEAN, 1e-6))
    assert flow.straightness(KEY, moved, 100) < 1e-3
    independent = flow.straightness(KEY, EXACT._replace(module=Gaussian((0.0, 0.0), 1.0)), 4000)
    # X_t = sqrt((1 - t)^2 + t^2) X_0 comes back to where it was: all of its motion is bent
    assert independent > 100


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: flow.score(EXACT, np.zeros((3, 2)), 1.0), "t = 1.0"),
        (lambda: flow.log_prob(EXACT, np.zeros((3, 3))), r"x has shape \(3, 3\)"),
        (lambda: flow.log_prob(EXACT, np.zeros((3, 2)), num_probes=1), "no key"),
        (lambda: flow.log_prob(EXACT, np.zeros((3, 2)), num_steps=0), "num_steps = 0"),
        (lambda: flow.log_prob(EXACT._replace(source=og.latent.Ball()), np.zeros((3, 2))), "noise N"),
        (lambda: flow.straightness(KEY, EXACT, 0), "num = 0"),
    ],
)
def test_densities_refuse_what_has_none(call, message):
    with pytest.raises(ValueError, match=message):
        call()
