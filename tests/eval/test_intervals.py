import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from otgen.eval.intervals import bootstrap, over_seeds


def within_sigma(covered, level, sigmas=4):
    covered = np.asarray(covered)
    return abs(covered.mean() - level) < sigmas * np.sqrt(level * (1 - level) / covered.size)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_over_seeds_covers_normal_means_at_its_level(level):
    values = 3 + 2 * np.random.default_rng(0).normal(size=(5, 20_000))
    low, high, mean, error = over_seeds(values, level)
    assert within_sigma((low < 3) & (high > 3), level)
    np.testing.assert_allclose(mean, values.mean(0))
    np.testing.assert_allclose(error, stats.sem(values))


def test_over_seeds_is_scipys_interval():
    values = [0.2, 0.7, 0.4]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    np.testing.assert_allclose(over_seeds(values, 0.9)[:2], expected, rtol=1e-12)


@pytest.mark.slow
def test_bootstrap_covers_normal_means(key):
    values = 3 + np.random.default_rng(0).normal(size=(500, 100)).astype(np.float32)
    found = jax.jit(jax.vmap(lambda k, x: bootstrap(k, jnp.mean, x)))(jax.random.split(key, 500), values)
    # resampling 100 normal values: a normal law of their biased deviation, cut at the rank interpolated in 200 draws
    cut = stats.norm.ppf((1 + 0.025 * 199) / 201)
    level = 1 - 2 * stats.t.cdf(cut * np.sqrt(0.99), 99)
    assert within_sigma((found.low < 3) & (found.high > 3), level)
    np.testing.assert_allclose(found.error.mean(), 0.1 * np.sqrt(0.99), rtol=0.02)


def ratio(x, y):
    return jnp.mean(x**2) / jnp.mean(y)


def test_bootstrap_of_a_skewed_ratio_is_scipys(key):
    rng = np.random.default_rng(1)
    x, y = rng.exponential(size=60).astype(np.float32), rng.exponential(size=45).astype(np.float32)
    ends = {}
    for method in ("percentile", "basic", "bca"):
        found = bootstrap(key, ratio, x, y, repeats=4000, method=method)
        expected = stats.bootstrap(
            (x, y),
            lambda a, b, axis: np.mean(a**2, axis) / np.mean(b, axis),
            n_resamples=4000,
            method=method,
            vectorized=True,
            rng=rng,
        )
        assert float(found.error) == pytest.approx(float(expected.standard_error), rel=0.07)
        levels = [
            np.mean(expected.bootstrap_distribution <= end) for end in (*found[:2], *expected.confidence_interval)
        ]
        np.testing.assert_allclose(levels[:2], levels[2:], atol=4 * np.sqrt(2 * 0.05 * 0.95 / 4000))
        ends[method], ends["high"] = np.array(levels[:2]), found.high
    np.testing.assert_allclose(ends["percentile"], [0.025, 0.975], atol=4 * np.sqrt(2 * 0.025 * 0.975 / 4000))
    assert (ends["bca"] > ends["percentile"] + 0.01).all()  # both skewness and bias raise the interval


def test_what_jax_cannot_trace_runs_in_a_python_loop(key):
    x = np.random.default_rng(0).normal(size=30).astype(np.float32)
    plain = bootstrap(key, lambda a: float(np.median(np.asarray(a))), x, repeats=8)
    traced = bootstrap(key, jnp.median, x, repeats=8)
    np.testing.assert_allclose(plain, traced, rtol=1e-6)


def difference(x, y):
    return jnp.mean(x - y)


def test_paired_rows_stay_together(key):
    x = jax.random.normal(key, (200,))
    together = bootstrap(key, difference, x, x + 1, repeats=50, paired=True)
    assert float(together.error) < 1e-6


@pytest.mark.slow
def test_other_rows_are_drawn_on_their_own(key):
    x = jax.random.normal(key, (200,))
    apart = bootstrap(key, difference, x, x + 1)
    assert float(apart.error) == pytest.approx(np.sqrt(2 / 200), rel=4 / np.sqrt(2 * 200))


def test_what_is_refused(key):
    x = np.zeros((10, 2))
    with pytest.raises(ValueError, match="one number"):
        bootstrap(key, lambda a: a, x)
    with pytest.raises(ValueError, match="same number"):
        bootstrap(key, lambda a, b: 0.0, x, x[:5], paired=True)
    with pytest.raises(ValueError, match=r"level = 95"):
        over_seeds([1.0, 2.0], 95.0)
    with pytest.raises(ValueError, match="at least 2 runs"):
        over_seeds([1.0])
    with pytest.raises(ValueError, match="failed"):
        over_seeds([1.0, np.nan])
