"""Sliced distances, transport of subsets, and the scores of maps."""

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest

from otgen.eval.intervals import bootstrap
from otgen.eval.maps import cosine, l2_uvp
from otgen.eval.sliced import max_sliced_wp, min_sliced_plan, projected_wp, sliced_w2_sq, sliced_wp
from otgen.eval.subsets import subset_divergence, subset_w2_sq
from otgen.ot.gaussian.frechet import frechet_distance

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(500, 8)), 0.7 * RNG.normal(size=(350, 8)) + np.arange(8) / 8


def test_sliced_on_given_directions_is_pot(x64):
    directions = RNG.normal(size=(20, 8))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    expected = ot.sliced_wasserstein_distance(X, Y, projections=directions.T, p=2) ** 2
    assert float(projected_wp(X, Y, directions).mean()) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("p", [1.0, 1.5, 3.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_powers_and_weights_on_given_directions_are_pot(p, weighted, x64):
    x, y = X[:60], Y[:45]
    a, b = (RNG.dirichlet(np.ones(len(points))) if weighted else None for points in (x, y))
    directions = RNG.normal(size=(5, 8))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    expected = ot.sliced_wasserstein_distance(x, y, a, b, projections=directions.T, p=p) ** p
    assert float(projected_wp(x, y, directions, a, b, p=p).mean()) == pytest.approx(expected, rel=1e-9)


def test_the_largest_shadow_is_along_a_shift(key):
    shift = np.array([0.0, 1.0, -2.0, 0.0, 2.0, 0.0, 0.0, 0.0])
    for p in (1.0, 2.0):
        value, direction = max_sliced_wp(key, X, X + shift, 32, p=p)
        assert float(value) == pytest.approx(3**p, rel=1e-3)
        np.testing.assert_allclose(np.abs(direction @ shift), 3, rtol=1e-3)


def test_the_largest_shadow_is_no_smaller_than_those_of_random_directions(key):
    a, b = RNG.dirichlet(np.ones(500)), RNG.dirichlet(np.ones(350))
    random = ot.max_sliced_wasserstein_distance(X, Y, a, b, n_projections=200, seed=0) ** 2
    found = max_sliced_wp(key, X, Y, 64, a, b)
    assert float(found.value) > random
    assert float(jnp.linalg.norm(found.direction)) == pytest.approx(1, rel=1e-5)
    x, y = jnp.asarray(X[:40], jnp.float32), jnp.asarray(Y[:30], jnp.float32)
    slope = jax.grad(lambda x: max_sliced_wp(key, x, y, 16, num_steps=5).value)(x)
    direction = max_sliced_wp(key, x, y, 16, num_steps=5).direction
    np.testing.assert_allclose(slope, (slope @ direction)[:, None] * direction, atol=1e-6)  # along the direction alone


@pytest.mark.parametrize("weighted", [False, True])
def test_the_plan_of_the_best_direction_is_pot_and_no_less_than_exact(key, weighted, x64):
    x, y = X[:40], Y[:30]
    a, b = (RNG.dirichlet(np.ones(len(points))) if weighted else None for points in (x, y))
    value, direction, plan = min_sliced_plan(key, x, y, 50, a, b)
    matrix, _ = ot.min_sliced_transport_plan(x, y, a, b, projections=np.asarray(direction)[:, None])
    np.testing.assert_allclose(jnp.zeros((40, 30)).at[plan.i, plan.j].add(plan.mass), matrix, atol=1e-12)
    assert float(value) == pytest.approx(np.sum(matrix * ot.dist(x, y)), rel=1e-10)
    a, b = (np.full(len(points), 1 / len(points)) if mass is None else mass for mass, points in ((a, x), (b, y)))
    exact = ot.emd2(a, b, ot.dist(x, y))
    others = [float(min_sliced_plan(key, x, y, 1, a, b).value) for key in jax.random.split(key, 20)]
    assert exact < float(value) < np.median(others)
    on_a_line = min_sliced_plan(key, x[:, :1], y[:, :1], 1, a, b).value
    assert float(on_a_line) == pytest.approx(ot.emd2(a, b, ot.dist(x[:, :1], y[:, :1])), rel=1e-9)


def test_the_best_plan_finds_a_shift_far_away_and_leaves_out_points_without_weight(key):
    x = jnp.asarray(X[:50], jnp.float32)
    order = np.random.default_rng(1).permutation(50)
    value, _, plan = min_sliced_plan(key, x + 1000, x[order] + 1002, 4)
    np.testing.assert_array_equal(order[plan.j[jnp.argsort(plan.i)]], np.arange(50))
    assert float(value) == pytest.approx(4 * 8, rel=1e-3)
    weights = np.ones(50)
    weights[7] = 0
    plan = min_sliced_plan(key, x.at[7].set(jnp.finfo(x.dtype).max), x, 4, weights).plan
    assert float(jnp.sum(jnp.where(plan.i == 7, plan.mass, 0))) == 0
    slope = jax.grad(lambda x: min_sliced_plan(key, x, x[order] + 1, 4).value)(x)
    found = min_sliced_plan(key, x, x[order] + 1, 4)
    np.testing.assert_allclose(jax.grad(lambda x: min_sliced_plan(key, x, x, 4).value)(x), 0, atol=1e-6)
    assert float(found.value) == pytest.approx(8, rel=1e-4)
    np.testing.assert_allclose(slope, 0, atol=1e-6)  # x moves both ends alike


def test_powers_below_one_are_refused(key):
    with pytest.raises(ValueError, match=r"p = 0\.5"):
        sliced_wp(key, X, Y, p=0.5)


@pytest.mark.parametrize("orthogonal", [False, True])
def test_sliced_error_is_the_spread_and_a_shift_is_its_square_over_d(key, orthogonal):
    shift = np.arange(8) / 4
    found = [sliced_w2_sq(k, X, X + shift, 128, orthogonal=orthogonal) for k in jax.random.split(key, 20)]
    value, error = np.array(found).T
    truth = shift @ shift / 8
    if orthogonal:  # every set of 8 directions sums to the same
        np.testing.assert_allclose(value, truth, rtol=1e-5)
        assert error.max() < 1e-5 * truth
    else:
        assert abs(value.mean() - truth) < 4 * value.std(ddof=1) / np.sqrt(20)
        assert np.sqrt(np.mean(error**2)) == pytest.approx(value.std(ddof=1), rel=4 / np.sqrt(2 * 19))


@pytest.mark.slow
def test_orthogonal_directions_spread_less_around_the_same_mean(key):
    keys = jax.random.split(key, 20)
    plain, orthogonal = (
        np.array([sliced_w2_sq(k, X, Y, 128, orthogonal=how).value for k in keys]) for how in (False, True)
    )
    assert orthogonal.std() < 0.6 * plain.std()
    assert abs(orthogonal.mean() - plain.mean()) < 4 * plain.std() / np.sqrt(20)


def test_subset_of_everything_is_exact_transport(key):
    x, y = X[:100], Y[:100]
    expected = ot.emd2([], [], ot.dist(x, y))
    found = subset_w2_sq(key, x, y, num=100, repeats=2)
    assert float(found.value) == pytest.approx(expected, rel=1e-5)
    assert float(found.error) < 1e-5 * expected


def test_subsets_of_shifted_gaussians(key):
    a, b = jax.random.split(key)
    x, y = jax.random.normal(a, (4000, 2)), jax.random.normal(b, (4000, 2)) + jnp.array([2.0, 1.0])
    plain = subset_w2_sq(key, x, y, num=100)
    debiased = subset_w2_sq(key, x, y, num=100, debiased=True)
    assert abs(float(debiased.value) - 5) < 4 * float(debiased.error)
    assert 0.05 < float(debiased.error) < 0.5
    assert float(plain.value) == pytest.approx(5, abs=4 * float(plain.error) + 0.15)  # + the bias of 100 points
    equal = subset_w2_sq(key, x, x[::-1], num=100, debiased=True)
    assert abs(float(equal.value)) < 4 * float(equal.error)


@pytest.mark.slow
def test_subset_error_is_the_spread(key):
    def one(k):
        a, b, c = jax.random.split(k, 3)
        return subset_w2_sq(c, jax.random.normal(a, (1000, 3)), 1 + jax.random.normal(b, (1000, 3)), num=100)

    value, error = np.array([one(k) for k in jax.random.split(key, 60)]).T
    assert np.sqrt(np.mean(error**2)) == pytest.approx(value.std(ddof=1), rel=4 / np.sqrt(2 * 59))


@pytest.mark.slow
def test_subset_divergence_is_that_of_pot(key):
    x, y = X[:100], Y[:100]
    mean = ot.dist(x, y).mean()
    weight = np.full(100, 0.01)

    def value(x, y):
        cost = ot.dist(x, y)
        plan = ot.bregman.sinkhorn_log(weight, weight, cost, 0.2 * mean, stopThr=1e-10, numItermax=10_000)
        return (plan * cost).sum() + 0.2 * mean * (plan * np.log(plan * 1e4)).sum()

    found = subset_divergence(key, x, y, num=100, repeats=2, tol=1e-4)
    assert float(found.value) == pytest.approx(value(x, y) - 0.5 * (value(x, x) + value(y, y)), rel=1e-4)


def test_unexplained_variance_of_planted_maps(key):
    x = jax.random.normal(key, (4000, 3))
    scale = jnp.array([1.0, 2.0, 3.0])
    truth = x * scale + 5
    assert float(l2_uvp(truth, truth, 14.0)) == 0
    assert float(l2_uvp(jnp.full_like(truth, 5.0), truth, 14.0)) == pytest.approx(100, rel=4 * np.sqrt(2 / 4000))
    # |T^ - T|^2 = x_2^2 + 4 x_3^2 has mean 5 and variance 2 + 32
    assert float(l2_uvp(x + 5, truth, 14.0)) == pytest.approx(500 / 14, abs=400 / 14 * np.sqrt(34 / 4000))
    assert l2_uvp(x, truth) == pytest.approx(float(l2_uvp(x, truth, jnp.sum(truth.var(0, ddof=1)))))


def test_cosine_of_planted_maps(key):
    x = jax.random.normal(key, (4000, 3))
    move = jnp.array([1.0, -1.0, 0.5])
    assert float(cosine(x + 0.1 * move, x + move, x)) == pytest.approx(1, abs=1e-6)
    assert float(cosine(x - move, x + move, x)) == pytest.approx(-1, abs=1e-6)
    noise = jax.random.normal(jax.random.key(1), x.shape)
    assert abs(float(cosine(x + noise, x + move, x))) < 4 / np.sqrt(x.size)
    planted = float(cosine(x + move + noise, x + move, x))
    assert planted == pytest.approx(np.sqrt(2.25 / 5.25), abs=4 / np.sqrt(x.size))
    with pytest.raises(ValueError, match="same draws"):
        cosine(x, x[1:], x)


def frechet_pair(key):
    """Samples of two normal laws, their Frechet distance, and the standard error of its estimate to first order."""
    num = 3000
    mean, deviation = np.array([1.0, 0.0, -0.5]), np.array([0.5, 1.0, 2.0])
    a, b = jax.random.split(key)
    pair = jax.random.normal(a, (num, 3)), mean + deviation * jax.random.normal(b, (num, 3))
    # of the covariances only the variances of single coordinates count
    of_means = np.sum(4 * mean**2 * (1 + deviation**2)) / num
    of_deviations = np.sum(4 * (deviation - 1) ** 2 * (1 + deviation**2) / 2) / num
    return pair, np.sum(mean**2) + np.sum((deviation - 1) ** 2), np.sqrt(of_means + of_deviations)


def test_frechet_of_known_gaussians_within_its_error(key):
    pair, truth, error = frechet_pair(key)
    assert abs(float(frechet_distance(*pair)) - truth) < 4 * error


@pytest.mark.slow
def test_the_bootstrap_error_of_a_frechet_distance(key):
    pair, _, error = frechet_pair(key)
    found = bootstrap(key, frechet_distance, *pair, repeats=100)
    assert float(found.error) == pytest.approx(error, rel=4 / np.sqrt(2 * 100))


@pytest.mark.slow
def test_the_basic_interval_takes_off_the_bias_of_a_frechet_distance(key):
    num, d, shift = 300, 12, 0.1

    def one(k):
        k, a, b = jax.random.split(k, 3)
        pair = jax.random.normal(a, (num, d)), shift + jax.random.normal(b, (num, d))
        return [bootstrap(k, frechet_distance, *pair, repeats=40, method=how)[:3] for how in ("basic", "percentile")]

    truth = d * shift**2
    (low, high, value), (percentile_low, _, _) = jax.jit(lambda ks: jax.lax.map(one, ks))(jax.random.split(key, 40))
    assert value.mean() > 2 * truth
    assert np.mean((low < truth) & (truth < high)) > 0.95 - 4 * np.sqrt(0.95 * 0.05 / 40)
    assert np.mean(percentile_low < truth) < 0.1
