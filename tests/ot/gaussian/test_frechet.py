import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import sqrtm

from otgen.ot.gaussian.frechet import frechet_distance, merge, moments


def reference(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = sqrtm(cov_a)
    cross = sqrtm(root @ cov_b @ root).real
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * cross)


def draws(seed, n, m, d):
    random = np.random.default_rng(seed)
    return random.normal(size=(n, d)).astype(np.float32), random.normal(size=(m, d)).astype(np.float32)


@pytest.mark.parametrize(("n", "m", "d"), [(500, 400, 3), (200, 300, 50)])
def test_frechet_distance_against_matrix_roots_in_float64(n, m, d):
    a, b = draws(d, n, m, d)
    a, b = a @ draws(d + 1, d, d, d)[0], 0.5 * b + np.float32(0.3)
    assert float(frechet_distance(a, b)) == pytest.approx(reference(a, b), rel=2e-5)


def test_frechet_distance_of_gaussians_on_a_line():
    z = draws(0, 1000, 1, 1)[0]
    z = (z - z.mean()) / z.std(ddof=1)
    assert float(frechet_distance(z, 3 * z + 4)) == pytest.approx(16 + 4, rel=1e-5)


@pytest.mark.parametrize(("n", "d"), [(300, 20), (30, 100)])
def test_frechet_distance_of_a_set_to_itself_vanishes(n, d):
    a = 10 * draws(1, n, 1, d)[0] * np.logspace(0, -4, d, dtype=np.float32)
    trace = a.var(0).sum()
    assert float(frechet_distance(a, a)) <= 2e-6 * trace
    assert float(frechet_distance(a, a[::-1])) <= 2e-6 * trace


def test_fewer_samples_than_dimensions_agree_with_the_samples_span():
    a, b = draws(2, 10, 12, 3)
    b = b + 1
    basis = np.linalg.qr(draws(3, 50, 1, 3)[0])[0]
    assert float(frechet_distance(a @ basis.T, b @ basis.T)) == pytest.approx(float(frechet_distance(a, b)), rel=1e-4)


@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_common_shifts_do_not_matter(shift):
    a, b = draws(4, 500, 400, 3)  # sizes of the test above
    b = 2 * b
    assert float(frechet_distance(a + np.float32(shift), b + np.float32(shift))) == pytest.approx(
        reference(a, b), rel=1e-3
    )


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


@pytest.mark.parametrize("d", [96, pytest.param(768, marks=pytest.mark.slow)])
def test_against_matrix_roots_in_many_dimensions(x64, d):
    random = np.random.default_rng(0)
    basis = random.normal(size=(d, d)) * np.logspace(0, -2, d)
    a, b = random.normal(size=(1000, d)) @ basis.T, 1.1 * random.normal(size=(900, d)) @ basis.T + 0.1
    np.testing.assert_allclose(frechet_distance(a, b), reference(a, b), rtol=1e-6)


def test_fewer_samples_than_dimensions_against_singular_values(x64):
    random = np.random.default_rng(1)
    a, b = random.normal(size=(40, 300)), random.normal(size=(60, 300)) + 0.2
    fa, fb = (a - a.mean(0)) / np.sqrt(39), (b - b.mean(0)) / np.sqrt(59)
    overlap = np.linalg.svd(fa @ fb.T, compute_uv=False).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + (fa**2).sum() + (fb**2).sum() - 2 * overlap
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-10)


@pytest.mark.parametrize("d", [60, pytest.param(8, marks=pytest.mark.slow)])
def test_moments_gathered_in_batches_are_those_of_the_whole(x64, d):
    random = np.random.default_rng(2)
    a, b = random.normal(size=(50, d)) + 5, 2 * random.normal(size=(45, d))
    gathered = None
    for rows in np.split(a, [1, 20, 23]):
        gathered = moments(rows, gathered)
    assert gathered.count == 50
    np.testing.assert_allclose(gathered.mean, a.mean(0), rtol=1e-12)
    np.testing.assert_allclose(gathered.covariance(), np.cov(a.T), atol=1e-12)
    fa, fb = (a - a.mean(0)) / np.sqrt(49), (b - b.mean(0)) / np.sqrt(44)
    overlap = np.linalg.svd(fa @ fb.T, compute_uv=False).sum()
    whole = ((a.mean(0) - b.mean(0)) ** 2).sum() + (fa**2).sum() + (fb**2).sum() - 2 * overlap
    np.testing.assert_allclose(frechet_distance(gathered, b), whole, rtol=1e-9)
    np.testing.assert_allclose(frechet_distance(gathered, moments(b)), whole, rtol=1e-9)
    np.testing.assert_allclose(merge(moments(a[:9]), moments(a[9:])).covariance(), np.cov(a.T), atol=1e-12)


@pytest.mark.parametrize(("n", "d"), [(12, 5), (6, 20)])
def test_gradients_in_features(x64, n, d):
    random = np.random.default_rng(3)
    a, b, direction = (random.normal(size=(n, d)) for _ in range(3))
    value = lambda t: frechet_distance(a + t * direction, b + 0.3 * t * direction**2)  # noqa: E731
    h = 1e-5
    np.testing.assert_allclose(jax.jit(jax.grad(value))(0.0), (value(h) - value(-h)) / 2 / h, rtol=1e-7)


def test_factors_of_moments_are_differentiated(x64):
    """As jax differentiates the factor itself, but for the precision of the products."""
    x, change = (points.astype(np.float64) for points in draws(5, 8, 8, 3))
    of_factor = lambda x: jnp.linalg.qr(x - x.mean(0), mode="r")  # noqa: E731
    np.testing.assert_allclose(
        jax.jvp(lambda x: moments(x).factor, (x,), (change,))[1], jax.jvp(of_factor, (x,), (change,))[1], atol=1e-12
    )


def test_bad_moments_raise():
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(moments(np.ones((1, 3))), np.ones((4, 3)))
    with pytest.raises(ValueError, match="dimension 3 and 2"):
        moments(np.ones((4, 2)), moments(np.ones((4, 3))))


def test_weights_count_rows(x64):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(30, 4)) + 100, rng.integers(0, 4, 30)
    found, repeated = moments(x, weights=w), moments(np.repeat(x, w, 0))
    for ours, theirs in zip((found.count, found.mean, found.covariance()), (w.sum(), *_of(x, w)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    np.testing.assert_allclose(found.covariance(), repeated.covariance(), rtol=1e-9)
    parts = moments(x[20:], moments(x[:20], weights=w[:20]), weights=w[20:])
    np.testing.assert_allclose(parts.covariance(), found.covariance(), rtol=1e-9)
    assert frechet_distance(found, np.repeat(x, w, 0)) < 1e-9
    shifted = moments(x + 2, weights=w)
    np.testing.assert_allclose(frechet_distance(found, shifted), 16, rtol=1e-6)


def test_weights_of_importance_count_for_their_effective_number(x64):
    rng = np.random.default_rng(1)
    x, w = rng.normal(size=(30, 3)), rng.dirichlet(np.ones(30))
    found = moments(x, weights=w * w.sum() / np.sum(w**2))
    np.testing.assert_allclose(found.covariance(), np.cov(x.T, aweights=w), rtol=1e-9)


def test_rows_without_weight_may_be_anything():
    x = np.array([[0.0], [1e30], [2.0]], np.float32)
    found = moments(x, weights=np.array([1, 0, 1]))
    given = np.array([found.count, found.mean[0], found.covariance()[0, 0]])
    np.testing.assert_allclose(given, [2, 1, 2], rtol=1e-6)


def _of(x, w):
    return np.average(x, axis=0, weights=w), np.cov(x.T, fweights=w)
