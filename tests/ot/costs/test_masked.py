"""The cost of a cloud to itself that forbids points to stay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otgen as og


def test_every_read_of_a_masked_cost_knows_the_diagonal():
    x = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    plain = og.PairwiseCost(x, x)
    expected = np.where(np.eye(7) > 0, np.inf, plain.matrix())
    g, log = np.random.default_rng(1).normal(size=(2, 7)).astype(np.float32)
    for cost in (og.costs.MaskedDiagonal(og.PairwiseCost(x, x, block=14)), og.costs.MaskedDiagonal(plain)):
        np.testing.assert_allclose(cost.matrix(), expected, rtol=1e-6)
        np.testing.assert_allclose(cost.row(jnp.int32(3)), expected[3], rtol=1e-5)
        i, j = jnp.array([0, 1, 5]), jnp.array([0, 2, 5])
        np.testing.assert_allclose(cost.pairs(i, j), expected[i, j], rtol=1e-5)
        for axis in (0, 1):
            dense = og.DenseCost(expected).softmin(0.3, g, log, axis)
            np.testing.assert_allclose(cost.softmin(0.3, g, log, axis), dense, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_two_points_must_change_places():
    x = jnp.array([[0.0], [1.5]])
    value = lambda x: og.sinkhorn.value(og.costs.MaskedDiagonal(og.PairwiseCost(x, x)), epsilon=0.3)  # noqa: E731
    np.testing.assert_allclose(value(x), 1.5**2 + 0.3 * np.log(2), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(value)(x), [[-3.0], [3.0]], rtol=1e-5)
