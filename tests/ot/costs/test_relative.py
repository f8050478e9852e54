"""Temperatures relative to the cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otgen as og
from otgen.ot.costs import relative
from tests.support.clouds import clouds, matrix

LEVELS = {"mean": np.mean, "std": np.std, "median": np.median, "max": np.max}


@pytest.mark.parametrize("of", LEVELS)
def test_levels_are_those_of_the_matrix(of):
    x, y, *_ = clouds(20, 15, 3)
    expected = 0.1 * LEVELS[of](matrix(x, y))
    for cost in (og.PairwiseCost(x, y), og.PairwiseCost(x, y, block=40), matrix(x, y)):
        np.testing.assert_allclose(og.epsilon(cost, share=0.1, of=of), expected, rtol=1e-5)


@pytest.mark.parametrize("of", LEVELS)
def test_pairs_that_cannot_be_do_not_count(of):
    x, y, *_ = clouds(10, 8, 2)
    costs = np.array(matrix(x, y), np.float32)
    a, b = np.ones(10, np.float32), np.full(8, 3, np.float32)  # of any total
    a[2], costs[2], costs[5, 1] = 0, 1e6, np.inf
    kept = np.delete(costs, 2, 0)
    expected = 0.05 * LEVELS[of](kept[np.isfinite(kept)])
    np.testing.assert_allclose(og.epsilon(costs, a, b, of=of), expected, rtol=1e-5)


def test_means_follow_the_weights():
    x, y, a, b = clouds(12, 9, 2)
    costs = matrix(x, y)
    mean = a @ costs @ b
    np.testing.assert_allclose(og.epsilon(costs, a, b, share=1.0), mean, rtol=1e-5)
    np.testing.assert_allclose(og.epsilon(costs, a, b, share=1.0, of="std"), (a @ (costs - mean) ** 2 @ b) ** 0.5, 1e-5)


def test_the_median_of_many_pairs_is_that_of_a_sample(monkeypatch):
    monkeypatch.setattr(relative, "_PAIRS", 2**14)
    x, y = np.random.default_rng(0).normal(size=(2, 301, 2)).astype(np.float32)
    relative._level.clear_cache()
    found = og.epsilon(og.PairwiseCost(x, y), share=1.0, of="median")
    relative._level.clear_cache()
    rank = np.mean(matrix(x, y) < float(found))
    assert abs(rank - 0.5) < 4 * 0.5 / 2**7  # standard errors of a share of 2^14 pairs


def test_it_is_traced_and_constant_to_derivatives():
    x, y, *_ = clouds(10, 8, 2)
    value = lambda x, share: og.epsilon(og.PairwiseCost(x, y), share=share)  # noqa: E731
    slopes = jax.jit(jax.grad(value, (0, 1)))(jnp.asarray(x, jnp.float32), 0.1)
    assert not np.any(slopes[0])
    np.testing.assert_allclose(slopes[1], matrix(x, y).mean(), rtol=1e-5)
