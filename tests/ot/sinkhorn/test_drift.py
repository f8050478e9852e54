"""The drift of particles: barycentric maps, and what it is the gradient of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otgen as og
from otgen.types import Status
from tests.support.clouds import clouds

OPTIONS = {"tol": 1e-5, "max_steps": 5000}
X, Y, A, B = (part.astype(np.float32) for part in clouds(12, 12, 2))
OTHER, _, A_OTHER, _ = (part.astype(np.float32) for part in clouds(12, 12, 2, seed=1))


def quartic(x, y):
    """A cost of one's own, not translation-invariant."""
    return jnp.sum((x - y) ** 4) + 0.1 * jnp.sum((x**2 - y**2) ** 2)


def transport(x, other, a, b, epsilon, cost_fn=None):
    return og.sinkhorn.value(og.PairwiseCost(x, other, cost_fn), a, b, epsilon=epsilon, **OPTIONS)


def test_the_drift_is_the_map_to_the_target_without_the_map_to_the_own_law():
    def barycentric(other, b, epsilon):
        solution, _ = og.sinkhorn.run(og.PairwiseCost(X, other), A, b, epsilon=epsilon, **OPTIONS)
        return solution.apply_plan(other) / A[:, None]

    given = (X, Y, OTHER, A, B, A_OTHER)
    expected = [barycentric(Y, B, epsilon) - barycentric(OTHER, A_OTHER, epsilon) for epsilon in (0.2, 1.0)]
    several, info = og.drift(
        *given, epsilon=np.array([0.2, 1.0]), epsilon_weights=np.array([0.75, 0.25]), return_info=True, **OPTIONS
    )
    np.testing.assert_allclose(several, 0.75 * expected[0] + 0.25 * expected[1], atol=2e-4)
    np.testing.assert_allclose(A @ np.asarray(several), B @ Y - A_OTHER @ OTHER, atol=1e-4)  # however x is spread
    assert info.status == Status.CONVERGED
    assert info.error < 1e-5
    assert og.drift(*given, epsilon=np.array([0.2, 1.0]), max_steps=1, return_info=True)[1].status == Status.MAX_STEPS


@pytest.mark.slow
def test_with_relaxed_marginals_the_maps_are_of_what_is_moved():
    """Of dense plans: averages over their rows, however little a row holds; a point far from all goes all its way."""
    far = X.copy()
    far[0] += 30

    def barycentric(other, b, epsilon, rho):
        tau = rho / (rho + epsilon)
        solution, _ = og.sinkhorn.run(
            og.PairwiseCost(far, other), A, b, epsilon=epsilon, tau_a=tau, tau_b=tau, **OPTIONS
        )
        plan = np.asarray(solution.plan())
        return plan @ other / plan.sum(1, keepdims=True), plan.sum(1)

    (to, moved), (back, _) = barycentric(Y, B, 0.5, 200.0), barycentric(OTHER, A_OTHER, 0.5, 200.0)
    assert moved[0] < 0.7 * A[0]
    velocity = og.drift(far, Y, OTHER, A, B, A_OTHER, epsilon=0.5, rho=200.0, **OPTIONS)
    np.testing.assert_allclose(velocity, to - back, atol=2e-3)
    exact = og.drift(X, Y, OTHER, A, B, A_OTHER, epsilon=0.5, **OPTIONS)
    np.testing.assert_allclose(og.drift(X, Y, OTHER, A, B, A_OTHER, epsilon=0.5, rho=1e5, **OPTIONS), exact, atol=5e-3)


COSTS = {"squared": None, "euclidean": og.distances.Euclidean(), "own": quartic}


@pytest.mark.slow
@pytest.mark.parametrize("cost_fn", COSTS.values(), ids=COSTS)
def test_the_drift_is_the_gradient_of_the_divergence(cost_fn):
    """With a second batch of that of the terms with x, x_other held; without, of the divergence itself."""
    options = {"epsilon": 0.5, "cost_fn": cost_fn}

    def pulled(x):
        return transport(x, Y, A, B, **options) - transport(x, OTHER, A, A_OTHER, **options)

    def agree(velocity, slope):
        np.testing.assert_allclose(-2 * A[:, None] * velocity, slope, atol=2e-4 * np.abs(slope).max())

    x = jnp.asarray(X)
    velocity, info = og.drift(X, Y, OTHER, A, B, A_OTHER, **options, **OPTIONS, return_info=True)
    value, slope = jax.value_and_grad(pulled)(x)
    agree(velocity, slope)
    np.testing.assert_allclose(info.dual_value, value, rtol=1e-3, atol=1e-5)
    slope = jax.grad(lambda x: og.sinkhorn_divergence(x, Y, A, B, **options, **OPTIONS))(x)
    agree(og.drift(X, Y, None, A, B, **options, **OPTIONS), slope)


@pytest.mark.slow
def test_the_masked_drift_is_the_gradient_of_the_masked_divergence_and_streams():
    options = {"epsilon": 0.5, "diagonal": "mask", **OPTIONS}
    slope = jax.grad(lambda x: og.sinkhorn_divergence(x, Y, **options))(jnp.asarray(X))
    for dense in (True, False):
        velocity = og.drift(X, Y, **options, dense=dense)
        np.testing.assert_allclose(-2 / 12 * velocity, slope, atol=2e-4 * np.abs(slope).max())


def test_features_are_what_drifts_and_differentiation_sees_a_constant():
    features = lambda images: images.reshape(len(images), -1)[:, 1:]  # noqa: E731
    images = [jnp.pad(points, ((0, 0), (1, 0))).reshape(12, 1, 3) for points in (X, Y, OTHER)]
    weights, options = (A, B, A_OTHER), {"epsilon": np.array([0.2, 1.0])}
    velocity = og.drift(*images, *weights, **options, features=features)
    np.testing.assert_allclose(velocity, og.drift(X, Y, OTHER, *weights, **options), atol=1e-6)
    slope = jax.grad(lambda x: og.drift(x, *images[1:], *weights, **options, features=features).sum())(images[0])
    assert (slope == 0).all()


def test_a_drift_says_what_it_cannot_take():
    for options, word in (
        ({"epsilon": np.ones((2, 2))}, "temperature"),
        ({"epsilon": np.zeros(2)}, "positive"),
        ({"epsilon": 1.0, "epsilon_weights": np.ones(2)}, "epsilon_weights"),
        ({"epsilon": 1.0, "features": lambda x: x[:, 0]}, "rows"),
        ({"epsilon": 1.0, "diagonal": "mask", "x_other": X}, "stands in"),
    ):
        with pytest.raises(ValueError, match=word):
            og.drift(X, Y, **options)
