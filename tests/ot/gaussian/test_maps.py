"""Maps, geodesics and barycenters of Gaussians against their defining properties."""

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest

import otgen as og
from otgen.types import Status
from tests.support.covariances import random_covariance, with_condition

gaussian = og.gaussian


@pytest.mark.parametrize(("d", "condition"), [(2, 10.0), (64, 1e3), pytest.param(256, 1e2, marks=pytest.mark.slow)])
def test_the_map_pushes_one_covariance_to_the_other(d, condition):
    a, b = with_condition(d, condition, 0), with_condition(d, condition, 1)
    t = np.asarray(gaussian.map_matrix(a, b), np.float64)
    assert np.linalg.norm(t @ a @ t - b) <= 1e-5 * np.linalg.norm(b)
    np.testing.assert_allclose(t, t.T, atol=1e-6 * np.abs(t).max())
    assert np.linalg.eigvalsh(t).min() > 0


def test_the_map_equals_pot_and_moves_points(x64):
    a, b = random_covariance(5, 0), random_covariance(5, 1)
    mean_a, mean_b = np.arange(5.0), np.ones(5)
    move = gaussian.transport_map(mean_a, a, mean_b, b)
    expected, _ = ot.gaussian.bures_wasserstein_mapping(mean_a, mean_b, a, b)
    np.testing.assert_allclose(move.matrix, expected, atol=1e-10)
    x = np.random.default_rng(0).normal(size=(7, 5))
    np.testing.assert_allclose(move(x), (x - mean_a) @ expected + mean_b, atol=1e-10)
    together = gaussian.transport_map(None, np.stack([a, b]), None, b)
    np.testing.assert_allclose(together.matrix[0], expected, atol=1e-10)
    np.testing.assert_allclose(together.matrix[1], np.eye(5), atol=1e-10)


def test_the_map_of_a_singular_covariance_carries_what_it_can(x64):
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    a = basis[:, :2] @ np.diag([2.0, 0.5]) @ basis[:, :2].T
    b = basis[:, :2] @ random_covariance(2, 1) @ basis[:, :2].T  # the same range: the map exists
    t = gaussian.map_matrix(a, b)
    np.testing.assert_allclose(t @ a @ t, b, atol=1e-12)
    assert np.isfinite(gaussian.map_matrix(np.zeros((3, 3)), np.eye(3))).all()


def test_the_map_differentiates(x64):
    a, b = random_covariance(4, 0), random_covariance(4, 1)
    direction = random_covariance(4, 2) - random_covariance(4, 3)
    for of in (gaussian.map_matrix, lambda a, b: gaussian.geodesic_cov(0.3, a, b)):
        found = jax.jit(lambda *of, f=of: jax.jvp(f, of[:2], of[2:])[1])(a, b, direction, 2 * direction)
        h = 1e-5
        expected = (of(a + h * direction, b + 2 * h * direction) - of(a - h * direction, b - 2 * h * direction)) / 2 / h
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("rank", [2])  # of the regular ones `test_the_geodesic_of_gaussians_moves_the_mean` tells
def test_geodesics_have_constant_speed(x64, rank):
    a, b = random_covariance(5, 0, rank), random_covariance(5, 1)
    length = np.sqrt(gaussian.bures_sq(a, b))
    times = np.linspace(0, 1, 6)
    path = gaussian.geodesic_cov(times, a, b)
    np.testing.assert_allclose(path[0], a, atol=1e-12)
    np.testing.assert_allclose(path[-1], b, atol=1e-12)
    speed = np.sqrt(gaussian.bures_sq(path[:-1], path[1:])) / 0.2
    np.testing.assert_allclose(speed, length, rtol=1e-6)
    np.testing.assert_allclose(np.sqrt(gaussian.bures_sq(a, path)), times * length, rtol=1e-6, atol=1e-7)


def test_the_geodesic_of_gaussians_moves_the_mean(x64):
    a, b = random_covariance(3, 0), random_covariance(3, 1)
    mean, cov = gaussian.geodesic(0.25, np.zeros(3), a, np.ones(3), b)
    np.testing.assert_allclose(mean, 0.25)
    whole = np.sqrt(gaussian.w2_sq(np.zeros(3), a, np.ones(3), b))
    np.testing.assert_allclose(np.sqrt(gaussian.w2_sq(np.zeros(3), a, mean, cov)), 0.25 * whole, rtol=1e-9)
    np.testing.assert_allclose(
        gaussian.w2_sq(np.zeros(3), a, np.ones(3), b),
        ot.gaussian.bures_wasserstein_distance(np.zeros(3), np.ones(3), a, b) ** 2,
        rtol=1e-9,
    )


@pytest.mark.parametrize("weights", [None, np.array([0.1, 0.2, 0.3, 0.4])])
def test_barycentres_satisfy_their_equation(x64, weights):
    covs = np.stack([random_covariance(5, seed) for seed in range(4)])
    found, info = gaussian.barycenter(covs, weights)
    assert info.status == Status.CONVERGED
    assert info.num_steps <= 20
    assert info.error < 1e-12
    shares = np.full(4, 0.25) if weights is None else weights
    mean_map = np.einsum("k,kij->ij", shares, gaussian.map_matrix(found, covs))
    np.testing.assert_allclose(mean_map, np.eye(5), atol=1e-10)
    _, expected = ot.gaussian.bures_wasserstein_barycenter(np.zeros((4, 5)), covs, shares, eps=1e-12, num_iter=1000)
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_barycentres_of_commuting_and_singular_covariances(x64):
    spectra = np.array([[4.0, 1.0, 0.0], [1.0, 9.0, 0.0]])
    found, info = gaussian.barycenter(np.stack([np.diag(s) for s in spectra]))
    assert info.status == Status.CONVERGED
    np.testing.assert_allclose(found, np.diag(np.mean(np.sqrt(spectra), 0) ** 2), atol=1e-12)
    one, _ = gaussian.barycenter(random_covariance(4, 0)[None])
    np.testing.assert_allclose(one, random_covariance(4, 0), atol=1e-12)
    orthogonal, _ = gaussian.barycenter(np.stack([np.diag([1.0, 0.0]), np.diag([0.0, 1.0])]))
    np.testing.assert_allclose(orthogonal, np.eye(2) / 4, atol=1e-12)


def test_barycentres_in_float32_and_a_limit_of_steps():
    covs = np.stack([with_condition(16, 1e4, seed) for seed in range(3)]).astype(np.float32)
    found, info = gaussian.barycenter(covs)
    assert info.status == Status.CONVERGED
    assert np.isfinite(found).all()
    _, info = gaussian.barycenter(covs, max_steps=1)
    assert info.status == Status.MAX_STEPS


@pytest.mark.slow
def test_barycentres_differentiate(x64):
    covs = np.stack([random_covariance(3, seed) for seed in range(3)])
    change = np.stack([random_covariance(3, seed) for seed in (5, 6, 7)]) - np.eye(3)
    weights, shift = np.array([0.2, 0.3, 0.5]), np.array([0.1, -0.3, 0.2])

    def along(t):
        return gaussian.barycenter(covs + t * change, weights + t * shift, tol=1e-14)[0]

    h = 1e-5
    expected = (along(h) - along(-h)) / 2 / h
    np.testing.assert_allclose(jax.jvp(along, (0.0,), (1.0,))[1], expected, rtol=1e-6, atol=1e-9)
    slope = jax.grad(lambda t: jnp.sum(along(t) ** 2))(0.0)
    np.testing.assert_allclose(slope, np.sum(2 * np.asarray(along(0.0)) * expected), rtol=1e-6)


def test_bad_input_is_refused():
    eye = np.eye(3)
    with pytest.raises(ValueError, match=r"mean_a has shape \(2,\)"):
        gaussian.w2_sq(np.zeros(2), eye, np.zeros(3), eye)
    with pytest.raises(ValueError, match="shape \\[k, d, d\\]"):
        gaussian.barycenter(eye)
    with pytest.raises(ValueError, match="shape \\[k, d, d\\]"):
        gaussian.barycenter(np.zeros((0, 3, 3)))
    with pytest.raises(ValueError, match="weights"):
        gaussian.barycenter(np.stack([eye, eye]), np.array([1.0, -1.0]))
    with pytest.raises(ValueError, match="tol"):
        gaussian.barycenter(np.stack([eye, eye]), tol=0.0)
    with pytest.raises(ValueError, match="max_steps"):
        gaussian.barycenter(np.stack([eye, eye]), max_steps=0)
