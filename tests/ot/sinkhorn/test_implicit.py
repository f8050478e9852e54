"""The value of entropic transport against POT, its derivatives against finite differences, and its memory."""

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest

import otgen as og
from otgen.types import Status
from tests.support.clouds import clouds, kl, matrix, reference

BOTH = pytest.mark.parametrize(
    ("taus", "dense"),
    [
        ((1.0, 1.0), True),
        pytest.param((1.0, 1.0), False, marks=pytest.mark.slow),
        pytest.param((0.9, 0.6), True, marks=pytest.mark.slow),
        ((0.9, 0.6), False),
    ],
)


@pytest.mark.parametrize(
    ("share", "dense"),
    [pytest.param(1.0, True, marks=pytest.mark.slow), (0.02, True), pytest.param(0.1, False, marks=pytest.mark.slow)],
)
def test_value_and_plan_equal_pot(x64, share, dense):
    x, y, a, b = clouds(40, 30, 3)
    cost = matrix(x, y)
    epsilon = share * cost.mean()
    plan, value = reference(cost, a, b, epsilon)
    ours = og.PairwiseCost(x, y, block=300)
    state, info = og.sinkhorn.run(ours, a, b, epsilon=epsilon, tol=1e-9, dense=dense)
    assert info.status == Status.CONVERGED
    assert info.error < 1e-9
    np.testing.assert_allclose(info.dual_value, value, rtol=1e-6)
    np.testing.assert_allclose(og.sinkhorn.value(ours, a, b, epsilon=epsilon, tol=1e-9, dense=dense), value, rtol=1e-6)
    np.testing.assert_allclose(og.sinkhorn.plan(ours, state, a, b, epsilon=epsilon), plan, atol=1e-8)
    primal = og.sinkhorn.primal_cost(ours, state, a, b, epsilon=epsilon)
    np.testing.assert_allclose(primal, (plan * cost).sum(), rtol=1e-6)
    rows, columns = og.sinkhorn.marginals(ours, state, a, b, epsilon=epsilon)
    assert abs(rows - a).sum() + abs(columns - b).sum() < 1e-8
    assert abs((a * state.f).sum()) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.1, 0.01])
def test_float32_value_equals_pot(share):
    x, y, a, b = clouds(60, 50, 5, seed=1)
    cost = matrix(x, y)
    _, value = reference(cost, a, b, share * cost.mean())
    ours = og.sinkhorn.value(og.PairwiseCost(x, y), a, b, epsilon=share * cost.mean())
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, value, rtol=2e-4)


@pytest.mark.parametrize("rho", [0.5, 5.0])
def test_unbalanced_equals_pot(x64, rho):
    x, y, a, b = clouds(20, 25, 2)
    b = 1.3 * b
    cost, epsilon = matrix(x, y), 0.4
    plan = ot.unbalanced.sinkhorn_unbalanced(a, b, cost, epsilon, rho, reg_type="kl", stopThr=1e-14, numItermax=100000)
    tau = rho / (rho + epsilon)
    state, info = og.sinkhorn.run(og.DenseCost(cost), a, b, epsilon=epsilon, tau_a=tau, tau_b=tau, tol=1e-10)
    assert info.status == Status.CONVERGED
    np.testing.assert_allclose(og.sinkhorn.plan(og.DenseCost(cost), state, a, b, epsilon=epsilon), plan, atol=1e-7)
    value = (plan * cost).sum() + epsilon * kl(plan, np.outer(a, b)) + rho * (kl(plan.sum(1), a) + kl(plan.sum(0), b))
    np.testing.assert_allclose(info.dual_value, value, rtol=1e-7)


@BOTH
def test_gradients_are_right_in_every_argument(x64, taus, dense):
    x, y, a, b = clouds(12, 9, 3)
    rng = np.random.default_rng(5)
    balanced = taus == (1.0, 1.0)

    def value(x, y, a, b, epsilon):
        cost = og.PairwiseCost(x, y, block=30)
        return og.sinkhorn.value(
            cost, a, b, epsilon=epsilon, tau_a=taus[0], tau_b=taus[1], tol=1e-12, dense=dense, anneal=False
        )

    inputs = (jnp.asarray(x), jnp.asarray(y), jnp.asarray(a), jnp.asarray(b), jnp.asarray(0.5))
    gradients = jax.jit(jax.grad(value, range(5)))(*inputs)
    for k, scale in enumerate((1.0, 1.0, 1e-3, 1e-3, 0.1)):
        direction = rng.normal(size=inputs[k].shape) * scale
        if balanced and k in (2, 3):
            direction -= direction.mean()
        move = lambda t, k=k, u=direction: value(*(v + t * u if j == k else v for j, v in enumerate(inputs)))  # noqa: E731
        expected = (move(1e-4) - move(-1e-4)) / 2e-4
        np.testing.assert_allclose(jnp.sum(gradients[k] * direction), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.slow
def test_envelope_and_unrolled_gradients_agree(x64):
    x, y, a, b = clouds(8, 6, 2)

    def unrolled(x):
        cost = og.PairwiseCost(x, y)
        return og.sinkhorn.run(cost, a, b, epsilon=0.8, num_iterations=101)[1].dual_value

    def unrolled_steps(x):
        cost = og.PairwiseCost(x, y)

        def step(state, _):
            return og.sinkhorn.step(state, cost, a, b, epsilon=0.8), None

        state, _ = jax.lax.scan(step, og.sinkhorn.State(jnp.zeros(8), jnp.zeros(6)), length=100)
        return a @ state.f + b @ state.g

    x = jnp.asarray(x)
    envelope = jax.grad(lambda x: og.sinkhorn.value(og.PairwiseCost(x, y), a, b, epsilon=0.8, tol=1e-12))(x)
    np.testing.assert_allclose(jax.grad(unrolled)(x), envelope, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(jax.grad(unrolled_steps)(x), envelope, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
@BOTH
def test_hessian_vector_products(x64, taus, dense):
    x, y, a, b = clouds(12, 9, 3)
    a[3] = 0
    a /= a.sum()
    x, v = jnp.asarray(x), jnp.asarray(np.random.default_rng(1).normal(size=x.shape))

    def value(x):
        cost = og.PairwiseCost(x, y, block=30)
        return og.sinkhorn.value(cost, a, b, epsilon=0.5, tau_a=taus[0], tau_b=taus[1], tol=1e-12, dense=dense)

    gradient = jax.grad(value)
    expected = (gradient(x + 1e-5 * v) - gradient(x - 1e-5 * v)) / 2e-5
    forward = jax.jvp(gradient, (x,), (v,))[1]
    reverse = jax.grad(lambda x: jnp.sum(gradient(x) * v))(x)
    np.testing.assert_allclose(forward, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(reverse, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_dense_gradients_and_parameters_of_a_cost(x64):
    x, y, a, b = clouds(8, 7, 2)
    cost = jnp.asarray(matrix(x, y))
    gradient = jax.grad(lambda c: og.sinkhorn.value(og.DenseCost(c), a, b, epsilon=0.5, tol=1e-10))(cost)
    np.testing.assert_allclose(gradient, reference(np.asarray(cost), a, b, 0.5)[0], atol=1e-8)  # the plan itself
    scaled = og.distances.Scaled
    slope = jax.grad(lambda s: og.sinkhorn.value(og.PairwiseCost(x, y, scaled(s)), epsilon=0.5, tol=1e-10))(jnp.ones(2))
    assert slope.shape == (2,)
    assert np.all(slope > 0)


def test_shifting_both_clouds_keeps_a_float32_value():
    x, y, a, b = clouds(60, 50, 5)
    here = og.sinkhorn.value(og.PairwiseCost(x, y), a, b, epsilon=0.5)
    there = og.sinkhorn.value(og.PairwiseCost(x + 1000, y + 1000), a, b, epsilon=0.5)
    assert abs(there - here) < 1e-4 * abs(here)


@pytest.mark.slow
def test_second_derivatives_in_weights_that_are_zero(x64):
    x, y, a, b = clouds(12, 9, 3)
    a[3] = b[5] = 0
    a, b = a / a.sum(), b / b.sum()
    cost = og.PairwiseCost(x, y)

    def gradient(t):  # in x, as mass arrives at the two points without weight
        u = t * (np.eye(12)[3] - a)
        v = t * (np.eye(9)[5] - b)
        value = lambda x: og.sinkhorn.value(og.PairwiseCost(x, y), a + u, b + v, epsilon=0.5, tol=1e-12)  # noqa: E731
        return jax.grad(value)(jnp.asarray(x))

    along = jax.jvp(gradient, (0.0,), (1.0,))[1]
    h = 1e-4  # one-sided, of third order: weights stay positive
    steps = [np.asarray(gradient(k * h)) for k in range(4)]
    expected = (-11 * steps[0] + 18 * steps[1] - 9 * steps[2] + 2 * steps[3]) / (6 * h)
    np.testing.assert_allclose(along, expected, rtol=1e-5, atol=1e-6)

    def value(t):
        weights = a + t * (np.eye(12)[3] - a)
        return og.sinkhorn.value(cost, weights, b, epsilon=0.5, tol=1e-12)

    slope = jax.grad(value)
    slopes = [slope(k * h) for k in range(4)]
    second = (-11 * slopes[0] + 18 * slopes[1] - 9 * slopes[2] + 2 * slopes[3]) / (6 * h)
    np.testing.assert_allclose(jax.grad(slope)(0.0), second, rtol=1e-5)


def test_streaming_needs_little_memory():
    n, d = 8192, 4
    points = jax.ShapeDtypeStruct((n, d), jnp.float32)

    def value(x, y, epsilon):
        return og.sinkhorn.value(og.PairwiseCost(x, y), epsilon=epsilon)

    compiled = jax.jit(jax.value_and_grad(value, (0, 1))).lower(points, points, 0.1).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 40 * 2**20
