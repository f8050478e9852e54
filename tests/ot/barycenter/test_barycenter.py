"""Barycentres of clouds and histograms against Gaussians, float64, and points whose barycenter is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import otgen as og

GRID = np.linspace(-6, 6, 121, dtype=np.float32)[:, None]
COST = og.PairwiseCost(GRID, GRID)


def density(mean, sd):
    values = np.exp(-((GRID[:, 0] - mean) ** 2) / (2 * sd**2))
    return (values / values.sum()).astype(np.float32)


PAIR = np.stack([density(-1.5, 1.0), density(2.5, 1.0)])


def moments(p):
    mean = p @ GRID[:, 0]
    return float(mean), float(p @ (GRID[:, 0] - mean) ** 2)


def test_debiased_histograms_of_one_shape_keep_it():
    p, info = og.barycenter.histogram(COST, PAIR, np.array([0.25, 0.75]), epsilon=0.5)
    assert info.status == og.Status.CONVERGED
    np.testing.assert_allclose(moments(p), (1.5, 1.0), atol=5e-3)
    np.testing.assert_allclose(p, density(1.5, 1.0), atol=2e-3 * p.max())


def test_regularised_histograms_are_blurred_by_half_of_epsilon():
    p, _ = og.barycenter.histogram(COST, PAIR, epsilon=0.5, debiased=False)
    np.testing.assert_allclose(moments(p), (0.5, 1.25), atol=5e-3)


def test_histograms_are_those_of_projections_in_float64():
    h = np.stack([density(-2, 0.5) * 0.5 + density(1, 1.0) * 0.5, density(2, 0.7)])
    h[0, :10], h[1, -5:] = 0, 0
    h /= h.sum(1, keepdims=True)
    weights, kernel = np.array([0.3, 0.7]), np.exp(-((GRID - GRID.T).astype(np.float64) ** 2) / 0.3)
    v = np.ones(h.shape)
    for _ in range(300):
        seen = (h / (v @ kernel)) @ kernel
        expected = np.exp(weights @ np.log(seen))
        v = expected / seen
    p, info = og.barycenter.histogram(COST, h, weights, epsilon=0.3, tol=1e-5, debiased=False)
    assert info.status == og.Status.CONVERGED
    np.testing.assert_allclose(p, expected, atol=1e-3 * expected.max())


def test_clouds_on_a_line_average_their_quantiles():
    levels = (np.arange(60) + 0.5) / 60
    clouds = [
        scipy.stats.norm.ppf(levels, -2, 0.5)[:, None],
        scipy.stats.norm.ppf((np.arange(45) + 0.5) / 45, 3, 2.0)[::-1, None],
    ]
    start = jax.random.normal(jax.random.key(0), (60, 1))
    x, info = og.barycenter.cloud(clouds, np.array([0.5, 0.5]), epsilon=0.05, start=start)
    assert info.status == og.Status.CONVERGED
    expected = 0.5 * clouds[0][:, 0] + 0.5 * scipy.stats.norm.ppf(levels, 3, 2.0)
    np.testing.assert_allclose(np.sort(x[:, 0]), expected, atol=0.12)
    assert abs(np.std(x) - np.std(expected)) < 0.02


def test_the_regularised_cloud_is_shrunk_and_the_debiased_is_not():
    cloud = jax.random.normal(jax.random.key(1), (200, 2))
    clouds = [cloud, cloud + jnp.array([4.0, 0.0])]
    (plain, _), (debiased, _) = (
        og.barycenter.cloud(clouds, epsilon=1.0, debiased=it, max_steps=60) for it in (False, True)
    )
    centred = cloud + jnp.array([2.0, 0.0])
    np.testing.assert_allclose(debiased.mean(0), centred.mean(0), atol=1e-2)
    assert abs(np.var(debiased - debiased.mean(0)) / np.var(cloud - cloud.mean(0)) - 1) < 0.03
    assert np.var(plain - plain.mean(0)) < 0.8 * np.var(cloud - cloud.mean(0))


def test_a_cloud_of_weight_zero_and_a_point_of_no_mass_change_nothing():
    clouds = [jnp.array([[0.0], [1.0]]), jnp.array([[4.0], [5.0], [1e6]])]
    masses = [None, jnp.array([0.5, 0.5, 0.0])]
    more, shares = [*clouds, jnp.full((1, 1), 99.0)], jnp.array([0.5, 0.5, 0.0])
    x, info = og.barycenter.cloud(more, shares, [*masses, None], epsilon=0.01, start=clouds[0])
    assert info.status == og.Status.CONVERGED
    np.testing.assert_allclose(np.sort(x[:, 0]), [2.0, 3.0], atol=1e-2)


def test_plans_that_miss_their_marginals_are_not_a_barycentre():
    clouds = [jax.random.normal(jax.random.key(k), (30, 2)) + k for k in range(2)]
    x, info = og.barycenter.cloud(clouds, epsilon=1e-7, start=clouds[0], tol=1e-6, max_steps=2)
    assert info.status != og.Status.CONVERGED
    assert info.error >= 1e-6
    assert jnp.isfinite(x).all()


def test_what_cannot_be_is_refused():
    for wrong in (
        lambda: og.barycenter.cloud([], epsilon=1.0),
        lambda: og.barycenter.cloud([GRID, np.zeros((3, 2))], epsilon=1.0),
        lambda: og.barycenter.cloud([GRID], epsilon=1.0, start=np.zeros((3, 2))),
        lambda: og.barycenter.cloud([GRID], epsilon=0.0),
        lambda: og.barycenter.histogram(COST, 2 * PAIR, epsilon=1.0),
        lambda: og.barycenter.histogram(og.PairwiseCost(GRID, GRID[:3]), PAIR, epsilon=1.0),
        lambda: og.barycenter.histogram(COST, PAIR[:, :5], epsilon=1.0),
    ):
        with pytest.raises(ValueError, match=r"give|have|both|shape|needs|positive|must|divide"):
            wrong()
