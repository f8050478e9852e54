import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import sqrtm

from otgen.ot.gaussian import frechet_distance


def reference(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = sqrtm(cov_a)
    cross = sqrtm(root @ cov_b @ root).real
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * cross)


@pytest.mark.parametrize(("n", "m", "d"), [(500, 400, 3), (200, 300, 50)])
def test_frechet_distance_against_matrix_roots_in_float64(n, m, d):
    keys = jax.random.split(jax.random.key(d), 3)
    a = jax.random.normal(keys[0], (n, d)) @ jax.random.normal(keys[2], (d, d))
    b = 0.5 * jax.random.normal(keys[1], (m, d)) + 0.3
    assert float(frechet_distance(a, b)) == pytest.approx(reference(a, b), rel=2e-5)


def test_frechet_distance_of_gaussians_on_a_line():
    z = jax.random.normal(jax.random.key(0), (1000, 1))
    z = (z - z.mean()) / z.std(ddof=1)
    assert float(frechet_distance(z, 3 * z + 4)) == pytest.approx(16 + 4, rel=1e-5)


@pytest.mark.parametrize(("n", "d"), [(300, 20), (30, 100)])
def test_frechet_distance_of_a_set_to_itself_vanishes(n, d):
    a = 10 * jax.random.normal(jax.random.key(1), (n, d)) * jnp.logspace(0, -4, d)
    trace = float(jnp.sum(jnp.var(a, axis=0)))
    assert float(frechet_distance(a, a)) <= 2e-6 * trace
    assert float(frechet_distance(a, a[::-1])) <= 2e-6 * trace


def test_fewer_samples_than_dimensions_agree_with_the_samples_span():
    a = jax.random.normal(jax.random.key(2), (10, 3))
    b = jax.random.normal(jax.random.key(3), (12, 3)) + 1
    basis = jnp.linalg.qr(jax.random.normal(jax.random.key(4), (50, 3)))[0]
    assert float(frechet_distance(a @ basis.T, b @ basis.T)) == pytest.approx(float(frechet_distance(a, b)), rel=1e-4)


@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_common_shifts_do_not_matter(shift):
    a = jax.random.normal(jax.random.key(5), (200, 4))
    b = 2 * jax.random.normal(jax.random.key(6), (200, 4))
    assert float(frechet_distance(a + shift, b + shift)) == pytest.approx(reference(a, b), rel=1e-3)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.ones((5, 2)), np.ones((5, 3)), "one feature extractor"),
        (np.ones((1, 2)), np.ones((5, 2)), "at least 2"),
        (np.full((5, 2), np.nan), np.ones((5, 2)), "NaN"),
    ],
)
def test_bad_features_raise(a, b, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(jnp.asarray(a), jnp.asarray(b))
