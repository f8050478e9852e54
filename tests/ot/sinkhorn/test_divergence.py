"""The Sinkhorn divergence."""

import jax
import jax.numpy as jnp
import numpy as np

import otgen as og
from tests.support.clouds import clouds, matrix, reference


def test_the_divergence_is_debiased(x64):
    x, y, a, b = clouds(20, 15, 3)
    options = {"epsilon": 2.0, "tol": 1e-9}

    def divergence(x, y, a, b):
        return og.sinkhorn_divergence(x, y, a, b, **options)

    terms = [
        reference(matrix(*pair), *weights, 2.0)[1]
        for pair, weights in (((x, y), (a, b)), ((x, x), (a, a)), ((y, y), (b, b)))
    ]
    np.testing.assert_allclose(divergence(x, y, a, b), terms[0] - 0.5 * (terms[1] + terms[2]), rtol=1e-6)
    assert divergence(x, x, a, a) == 0
    shuffled = np.random.default_rng(0).permutation(20)
    assert divergence(x, x[shuffled], a, a[shuffled]) < 1e-9
    x, v = jnp.asarray(x), np.random.default_rng(1).normal(size=x.shape)
    gradient = jax.jit(jax.grad(divergence))(x, y, a, b)
    expected = (divergence(x + 1e-4 * v, y, a, b) - divergence(x - 1e-4 * v, y, a, b)) / 2e-4
    np.testing.assert_allclose(jnp.sum(gradient * v), expected, rtol=1e-6)


def test_the_divergence_is_not_negative():
    for seed in range(20):
        x, y, a, b = clouds(10, 10, 2, seed)
        for epsilon in (0.05, 1.0, 20.0):
            assert og.sinkhorn_divergence(x, x + 1e-3 * y, a, b, epsilon=epsilon) >= 0
    unbalanced = og.sinkhorn_divergence(x, y, a, 1.5 * b, epsilon=0.5, tau_a=0.8, tau_b=0.8)
    assert unbalanced > 0
    assert og.sinkhorn_divergence(x, x, a, a, epsilon=0.5, tau_a=0.8, tau_b=0.8) == 0


def test_the_divergence_knows_the_mass_of_uniform_weights():
    x, y, _, b = clouds(10, 10, 2)
    options = {"epsilon": 0.5, "tau_a": 0.8, "tau_b": 0.8}
    implied = og.sinkhorn_divergence(x, y, None, 2 * b, **options)
    np.testing.assert_allclose(implied, og.sinkhorn_divergence(x, y, np.ones(10) / 10, 2 * b, **options), rtol=1e-4)
