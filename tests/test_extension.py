import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otgen.data import toy
from otgen.eval import mode_scores
from otgen.ot import extension, semidiscrete
from tests import problems


@pytest.fixture(scope="module")
def solved():
    """A solved problem in the plane: heights, extension, points."""
    y = jax.random.normal(jax.random.key(3), (200, 2))
    state, _ = semidiscrete.run(jax.random.key(0), y, tol=0.01)
    return extension.init(jax.random.key(1), state, y), state, y


def test_centres_of_slabs(key):
    y, _, h = problems.slabs(10, 2)
    ext = extension.init(key, semidiscrete.from_heights(h), y, num=2**16)
    expected = np.stack([np.asarray(y[:, 0]), np.zeros(10)], axis=1)
    deviation = np.sqrt([0.1**2 / 12, 1 / 12]) / np.sqrt(2**16 / 10)
    assert (np.abs(ext.centres - expected) < 4 * deviation).all()


def test_cells_without_samples_are_left_out(key):
    y = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [50.0, 50.0]])
    state = semidiscrete.from_heights(jnp.array([0.0, 0.0, 0.0, -1e4]))
    ext = extension.init(key, state, y, num=4096)
    assert bool(jnp.isinf(ext.centres[3]).all())
    for method in extension.METHODS:
        z = extension.sample(key, ext, state, y, 500, method=method, angle=math.pi)
        assert bool(jnp.isfinite(z).all())
    assert float(extension.sample(key, ext, state, y, 500, method="simplex", angle=math.pi).max()) <= 1.0


@pytest.mark.parametrize("method", extension.METHODS)
def test_combinations_start_at_the_map_and_keep_to_the_angle(solved, method):
    ext, state, y = solved
    x = extension.source_samples(jax.random.key(4), 1000, 2)
    made = extension.transport(jax.random.key(5), ext, state, y, x, method=method)
    np.testing.assert_array_equal(made.index[:, 0], semidiscrete.assign(state, y, x))
    np.testing.assert_allclose(made.weight.sum(1), 1, atol=1e-6)
    assert float(made.weight.min()) >= 0 or method in ("stochastic", "local")
    np.testing.assert_allclose(made.points, jnp.einsum("nk,nkd->nd", made.weight, y[made.index]), atol=1e-5)
    fold = extension.dihedral_angle((y - y.mean(0))[made.index[:, :1]], (y - y.mean(0))[made.index])
    assert float(jnp.where(made.weight != 0, fold, 0).max()) <= float(ext.angle) + 1e-6


@pytest.mark.parametrize("method", extension.METHODS)
def test_angle_zero_is_the_map_itself(solved, method):
    ext, state, y = solved
    x = extension.source_samples(jax.random.key(4), 500, 2)
    made = extension.transport(jax.random.key(5), ext, state, y, x, method=method, angle=0.0)
    np.testing.assert_array_equal(made.points, y[semidiscrete.assign(state, y, x)])


def test_labels_are_not_mixed(solved):
    ext, state, y = solved
    labels = (y[:, 0] > 0).astype(jnp.int32)
    x = extension.source_samples(jax.random.key(4), 1000, 2)
    for method in extension.METHODS:
        made = extension.transport(jax.random.key(5), ext, state, y, x, method=method, angle=math.pi, labels=labels)
        used = jnp.where(made.weight != 0, labels[made.index], labels[made.index[:, :1]])
        assert bool((used == used[:, :1]).all())


@pytest.mark.parametrize("name", [pytest.param("eight_gaussians", marks=pytest.mark.slow), "twenty_five_gaussians"])
def test_the_angle_filter_keeps_samples_on_the_modes(name):
    y, mean, scale = problems.eight_and_twenty_five(name)
    centres, deviation = toy.centres_of(name)
    state, _ = semidiscrete.run(jax.random.key(0), y, tol=1e-3)
    ext = extension.init(jax.random.key(1), state, y)
    own = mode_scores(y * scale + mean, centres, deviation).within_sd

    def scores(method, angle):
        z = extension.sample(jax.random.key(2), ext, state, y, 10_000, method=method, angle=angle)
        return mode_scores(z * scale + mean, centres, deviation)

    for method in extension.METHODS:
        on, off = scores(method, None), scores(method, math.pi)
        assert int(on.modes) == len(centres)
        # The covariance of a few points is uncertain, so that the forms with noise have heavier tails.
        assert float(on.share_4sd) >= (0.99 if method in ("stochastic", "local") else 0.995)
        assert 0.8 <= float(on.within_sd / own) <= 1.1
        assert float(on.share_4sd - off.share_4sd) > 0.003
        assert method == "pairs" or float(on.share_4sd - off.share_4sd) > 0.05  # plainly mixed without the filter


def test_the_noise_of_the_stochastic_form_has_the_covariance_of_the_weighted_corners(solved):
    ext, state, y = solved
    place, num = extension.source_samples(jax.random.key(8), 20, 2)[17:18], 40_000
    x = jnp.tile(place, (num, 1))
    corners = extension.transport(jax.random.key(9), ext, state, y, place, method="simplex", angle=math.pi)
    made = extension.transport(jax.random.key(9), ext, state, y, x, method="stochastic", angle=math.pi)
    np.testing.assert_array_equal(made.index[0], corners.index[0])
    assert int((corners.weight > 0).sum()) >= 3
    share, points = np.asarray(corners.weight[0], np.float64), np.asarray(y[corners.index[0]], np.float64)
    mean = share @ points
    cov = (share[:, None] * (points - mean)).T @ (points - mean)
    size = np.trace(cov)
    np.testing.assert_allclose(mean, corners.points[0], atol=1e-6)
    np.testing.assert_allclose(made.points.mean(0), mean, atol=4 * np.sqrt(size / num))
    np.testing.assert_allclose(np.cov(made.points.T), cov, atol=4 * np.sqrt(2 / num) * size)
    np.testing.assert_allclose(made.weight.mean(0), share, atol=4 / np.sqrt(num))


def test_the_threshold_is_the_quantile_of_the_smallest_angles(solved):
    ext, state, y = solved
    shares = {}
    for quantile in (0.5, 0.9, 1.0):
        angle = extension.threshold(jax.random.key(1), state, y, quantile=quantile)
        x = extension.source_samples(jax.random.key(11), 4096, 2)
        made = extension.transport(jax.random.key(12), ext, state, y, x, method="pairs", angle=angle)
        shares[quantile] = float(jnp.mean(made.weight[:, 1] > 0))
    assert shares == pytest.approx({0.5: 0.5, 0.9: 0.9, 1.0: 1.0}, abs=0.03)
    assert float(extension.init(jax.random.key(1), state, y, num=1, quantile=0.5).angle) < float(ext.angle)
    with pytest.raises(ValueError, match="outside"):
        extension.threshold(jax.random.key(1), state, y, quantile=1.5)


def test_shifted_points_give_shifted_samples(solved):
    ext, state, y = solved
    for method in extension.METHODS:
        here = extension.sample(jax.random.key(6), ext, state, y, 300, method=method)
        there = extension.sample(jax.random.key(6), ext, state, y + 100.0, 300, method=method)
        assert float(jnp.mean(jnp.abs(there - 100.0 - here).max(1) < 1e-3)) > 0.99


@pytest.mark.parametrize("angle", [-0.1, 3.2, float("nan")])
def test_angles_outside_the_range_raise(solved, angle):
    with pytest.raises(ValueError, match="outside"):
        extension.sample(jax.random.key(0), *solved, 10, angle=angle)


def test_unknown_forms_raise(solved):
    with pytest.raises(ValueError, match="pairs, simplex"):
        extension.sample(jax.random.key(0), *solved, 10, method="delaunay")


def test_sampling_runs_inside_jit_with_a_traced_angle(solved):
    ext, state, y = solved
    draw = jax.jit(lambda key, angle: extension.sample(key, ext, state, y, 64, angle=angle))
    assert draw(jax.random.key(0), 0.1).shape == (64, 2)
    draw(jax.random.key(1), 0.3)
    assert draw._cache_size() == 1


def test_points_that_coincide_do_not_switch_the_extension_off():
    y = jax.random.normal(jax.random.key(3), (100, 2))
    doubled = jnp.repeat(y, 3, axis=0)
    state, _ = semidiscrete.run(jax.random.key(0), doubled, tol=0.01)
    ext = extension.init(jax.random.key(1), state, doubled)
    assert float(ext.angle) > 0
    made = extension.sample(jax.random.key(2), ext, state, doubled, 1000)
    distance = jnp.sqrt(jnp.sum((made[:, None] - y) ** 2, -1).min(1))
    assert float(jnp.mean(distance > 1e-6)) > 0.9


def test_labels_of_other_points_are_refused(solved):
    x = extension.source_samples(jax.random.key(4), 10, 2)
    with pytest.raises(ValueError, match="one integer per point"):
        extension.transport(jax.random.key(5), *solved, x, labels=jnp.zeros(10, jnp.int32))
