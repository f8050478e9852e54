import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otgen.data import toy
from otgen.eval import mode_scores
from otgen.ot import semidiscrete
from otgen.ot.semidiscrete import extension
from tests.support import problems

NUM, DRAWS = 256, 4096  # points and samples of every problem here, so that one program serves all


def measured(key, state, y):
    return extension.init(key, state, jnp.asarray(y), num=2**14)


@pytest.fixture(scope="module")
def solved():
    """A solved problem in the plane: heights, extension, points."""
    y = jax.random.normal(jax.random.key(3), (NUM, 2))
    state, _ = semidiscrete.run(jax.random.key(0), y, tol=0.01)
    return measured(jax.random.key(1), state, y), state, y


def test_centres_of_slabs(key):
    y, _, h = problems.slabs(NUM, 2)
    ext = measured(key, semidiscrete.from_heights(h), y)
    expected = np.stack([np.asarray(y[:, 0]), np.zeros(NUM)], axis=1)
    deviation = np.sqrt([1 / NUM**2 / 12, 1 / 12]) / np.sqrt(2**14 / NUM)
    assert (np.abs(np.asarray(ext.centres) - expected) < 4 * deviation).all()


def test_cells_without_samples_are_left_out(solved, key):
    _, state, y = solved
    y, state = y.at[3].set(50.0), semidiscrete.from_heights(state.h.at[3].set(-1e4))
    ext = measured(key, state, y)
    assert np.isinf(ext.centres[3]).all()
    x = extension.source_samples(jax.random.key(4), DRAWS, 2)
    for form in extension.FORMS:
        made = extension.transport(key, ext, state, y, x, form=form, angle=math.pi)
        assert np.isfinite(made.points).all()
    made = extension.transport(key, ext, state, y, x, form="simplex", angle=math.pi)
    assert (np.asarray(made.weight)[np.asarray(made.index) == 3] == 0).all()
    assert float(np.max(made.points)) <= np.delete(np.asarray(y), 3, 0).max()


@pytest.mark.parametrize("form", extension.FORMS)
def test_combinations_start_at_the_map_and_keep_to_the_angle(solved, form):
    ext, state, y = solved
    x = extension.source_samples(jax.random.key(4), DRAWS, 2)
    made = extension.transport(jax.random.key(5), ext, state, y, x, form=form)
    points, index, weight = (np.asarray(part) for part in made)
    np.testing.assert_array_equal(index[:, 0], semidiscrete.assign(state, y, x))
    y = np.asarray(y)
    np.testing.assert_allclose(weight.sum(1), 1, atol=1e-6)
    assert weight.min() >= 0 or form in ("stochastic", "local")
    np.testing.assert_allclose(points, np.einsum("nk,nkd->nd", weight, y[index]), atol=1e-5)
    normal = np.concatenate([y - y.mean(0), -np.ones((NUM, 1))], axis=1, dtype=np.float64)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    fold = np.arccos(np.minimum((normal[index[:, :1]] * normal[index]).sum(-1), 1))
    assert np.where(weight != 0, fold, 0).max() <= float(ext.angle) + 1e-6


@pytest.mark.parametrize("form", extension.FORMS)
def test_angle_zero_is_the_map_itself(solved, form):
    ext, state, y = solved
    x = extension.source_samples(jax.random.key(4), DRAWS, 2)
    made = extension.transport(jax.random.key(5), ext, state, y, x, form=form, angle=0.0)
    np.testing.assert_array_equal(made.points, np.asarray(y)[np.asarray(semidiscrete.assign(state, y, x))])


def test_labels_are_not_mixed(solved):
    ext, state, y = solved
    labels = jnp.asarray(np.asarray(y)[:, 0] > 0, jnp.int32)
    x = extension.source_samples(jax.random.key(4), DRAWS, 2)
    for form in extension.FORMS:
        made = extension.transport(jax.random.key(5), ext, state, y, x, form=form, angle=math.pi, labels=labels)
        index = np.asarray(made.index)
        used = np.where(np.asarray(made.weight) != 0, np.asarray(labels)[index], np.asarray(labels)[index[:, :1]])
        assert (used == used[:, :1]).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eight_gaussians", "twenty_five_gaussians"])
def test_the_angle_filter_keeps_samples_on_the_modes(name):
    y, mean, scale = problems.eight_and_twenty_five(name)
    centres, deviation = toy.centres_of(name)
    state, _ = semidiscrete.run(jax.random.key(0), y, tol=0.01)
    ext = measured(jax.random.key(1), state, y)
    mean, scale = np.asarray(mean), np.asarray(scale)
    own = mode_scores(np.tile(y, (2 * DRAWS // NUM, 1)) * scale + mean, centres, deviation).within_sd
    xs = [extension.source_samples(key, DRAWS, 2) for key in jax.random.split(jax.random.key(2))]

    def scores(form, angle):
        parts = [
            extension.transport(jax.random.key(i), ext, state, y, x, form=form, angle=angle).points
            for i, x in enumerate(xs)
        ]
        return mode_scores(np.concatenate(parts) * scale + mean, centres, deviation)

    for form in extension.FORMS:
        on, off = scores(form, None), scores(form, math.pi)
        assert int(on.modes) == len(centres)
        # The covariance of a few points is uncertain, so that the forms with noise have heavier tails.
        assert float(on.share_4sd) >= (0.99 if form in ("stochastic", "local") else 0.995)
        assert 0.8 <= float(on.within_sd / own) <= 1.1
        assert float(on.share_4sd - off.share_4sd) > 0.003
        assert form == "pairs" or float(on.share_4sd - off.share_4sd) > 0.05  # plainly mixed without the filter


def test_the_noise_of_the_stochastic_form_has_the_covariance_of_the_weighted_corners(solved):
    ext, state, y = solved
    num, given = 10 * DRAWS, {"angle": math.pi}
    x = jnp.asarray(np.tile(np.asarray(extension.source_samples(jax.random.key(8), DRAWS, 2))[17], (DRAWS, 1)))
    corners = extension.transport(jax.random.key(9), ext, state, y, x, form="simplex", **given)
    made = [extension.transport(jax.random.key(i), ext, state, y, x, form="stochastic", **given) for i in range(10)]
    index = np.asarray(corners.index)[0]
    np.testing.assert_array_equal(np.asarray(made[0].index)[0], index)
    share, points = np.asarray(corners.weight, np.float64)[0], np.asarray(y, np.float64)[index]
    assert (share > 0).sum() >= 3
    mean = share @ points
    cov = (share[:, None] * (points - mean)).T @ (points - mean)
    size = np.trace(cov)
    np.testing.assert_allclose(mean, np.asarray(corners.points)[0], atol=1e-6)
    drawn, weight = (np.concatenate([getattr(it, name) for it in made]) for name in ("points", "weight"))
    np.testing.assert_allclose(drawn.mean(0), mean, atol=4 * np.sqrt(size / num))
    np.testing.assert_allclose(np.cov(drawn.T), cov, atol=4 * np.sqrt(2 / num) * size)
    np.testing.assert_allclose(weight.mean(0), share, atol=4 / np.sqrt(num))


def test_the_threshold_is_the_quantile_of_the_smallest_angles(solved):
    ext, state, y = solved
    shares = {}
    for quantile in (0.5, 0.9, 1.0):
        angle = extension.threshold(jax.random.key(1), state, y, quantile=quantile)
        x = extension.source_samples(jax.random.key(11), DRAWS, 2)
        made = extension.transport(jax.random.key(12), ext, state, y, x, form="pairs", angle=angle)
        shares[quantile] = np.mean(np.asarray(made.weight)[:, 1] > 0)
    assert shares == pytest.approx({0.5: 0.5, 0.9: 0.9, 1.0: 1.0}, abs=0.03)
    assert float(extension.init(jax.random.key(1), state, y, num=2**14, quantile=0.5).angle) < float(ext.angle)
    with pytest.raises(ValueError, match="a number from 0 to"):
        extension.threshold(jax.random.key(1), state, y, quantile=1.5)


def test_shifted_points_give_shifted_samples(solved):
    ext, state, y = solved
    x = extension.source_samples(jax.random.key(6), DRAWS, 2)
    y = np.round(np.asarray(y) * 2**12) / 2**12  # the shift itself rounds nothing
    shifted, y = jnp.asarray(y + 128.0), jnp.asarray(y)
    for form in extension.FORMS:
        here = extension.transport(jax.random.key(6), ext, state, y, x, form=form).points
        there = extension.transport(jax.random.key(6), ext, state, shifted, x, form=form).points
        # but for samples on an edge of a cell or an angle at the threshold, which the mean's rounding decides
        assert np.mean(np.abs(np.asarray(there) - 128.0 - here).max(1) < 1e-3) > 0.99


@pytest.mark.parametrize("angle", [-0.1, 3.2, float("nan")])
def test_angles_outside_the_range_raise(solved, angle):
    with pytest.raises(ValueError, match="a number from 0 to"):
        extension.sample(jax.random.key(0), *solved, 10, angle=angle)


def test_unknown_forms_raise(solved):
    with pytest.raises(ValueError, match="'pairs', 'simplex'"):
        extension.sample(jax.random.key(0), *solved, 10, form="delaunay")


def test_sampling_runs_inside_jit_with_a_traced_angle(solved):
    ext, state, y = solved
    draw = jax.jit(lambda key, angle: extension.sample(key, ext, state, y, DRAWS, angle=angle))
    expected = extension.sample(jax.random.key(0), ext, state, y, DRAWS, angle=0.1)
    assert np.mean(np.abs(draw(jax.random.key(0), 0.1) - expected) < 1e-5) > 0.99
    draw(jax.random.key(1), 0.3)
    assert draw._cache_size() == 1


def test_points_that_coincide_do_not_switch_the_extension_off():
    y = np.random.default_rng(3).uniform(-0.5, 0.5, (NUM // 4, 2)).astype(np.float32)
    many = jnp.asarray(np.repeat(y, 4, axis=0))
    state = semidiscrete.from_heights(-0.5 * (many**2).sum(1))  # each cell holds what is nearest
    ext = measured(jax.random.key(1), state, many)
    assert float(ext.angle) > 0
    x = extension.source_samples(jax.random.key(2), DRAWS, 2)
    made = np.asarray(extension.transport(jax.random.key(2), ext, state, many, x).points)
    distance = np.sqrt(((made[:, None] - y) ** 2).sum(-1).min(1))
    assert np.mean(distance > 1e-6) > 0.9


def test_labels_of_other_points_are_refused(solved):
    x = extension.source_samples(jax.random.key(4), DRAWS, 2)
    with pytest.raises(ValueError, match="one integer per point"):
        extension.transport(jax.random.key(5), *solved, x, labels=jnp.zeros(10, jnp.int32))
