"""Entropic transport against POT, finite differences and its own definitions; bad input and extreme scales."""

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import otgen as og
from otgen.ot import entropic, newton
from otgen.types import Status


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


BOTH = pytest.mark.parametrize(
    ("taus", "dense"),
    [
        ((1.0, 1.0), True),
        pytest.param((1.0, 1.0), False, marks=pytest.mark.slow),
        pytest.param((0.9, 0.6), True, marks=pytest.mark.slow),
        ((0.9, 0.6), False),
    ],
)


def clouds(n, m, d, seed=0):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, d)), 0.7 * rng.normal(size=(m, d)) + 0.5
    return x, y, rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))


def matrix(x, y):
    return ((x[:, None] - y) ** 2).sum(-1)


def kl(p, q):
    p, q = np.asarray(p, np.float64).ravel(), np.asarray(q, np.float64).ravel()
    logs = np.zeros_like(p)
    np.log(p / q, out=logs, where=p > 0)
    return (p * logs).sum() - p.sum() + q.sum()


def reference(cost, a, b, epsilon):
    """POT's plan in float64 and its value."""
    plan = ot.bregman.sinkhorn_log(a, b, cost, epsilon, stopThr=1e-13, numItermax=200000)
    return plan, (plan * cost).sum() + epsilon * kl(plan, np.outer(a, b))


def recomputed(cost, state, a, b, epsilon):
    f, g = (np.asarray(part, np.float64) for part in state)
    plan = a[:, None] * b * np.exp((f[:, None] + g - cost) / epsilon)
    return abs(plan.sum(1) - a).sum() + abs(plan.sum(0) - b).sum()


@pytest.mark.parametrize(("share", "dense"), [(1.0, True), (0.02, True), (0.1, False)])
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


def test_one_side_relaxed_meets_the_other(x64):
    x, y, a, b = clouds(20, 25, 2)
    cost = og.PairwiseCost(x, y)
    state, info = og.sinkhorn.run(cost, a, 2 * b, epsilon=0.3, tau_a=0.8, tol=1e-9)
    _, columns = og.sinkhorn.marginals(cost, state, a, 2 * b, epsilon=0.3)
    assert info.status == Status.CONVERGED
    np.testing.assert_allclose(columns, 2 * b, atol=1e-8)


def test_steps_reach_what_run_finds(x64):
    x, y, a, b = clouds(20, 25, 2)
    cost = og.PairwiseCost(x, y)
    state = og.sinkhorn.init(cost)
    for _ in range(300):
        state = og.sinkhorn.step(state, cost, a, b, epsilon=0.5)
    found, _ = og.sinkhorn.run(cost, a, b, epsilon=0.5, tol=1e-10)
    shift = state.f[0] - found.f[0]
    np.testing.assert_allclose(state.f - shift, found.f, atol=1e-8)
    np.testing.assert_allclose(state.g + shift, found.g, atol=1e-8)


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
    gradients = jax.grad(value, range(5))(*inputs)
    for k, scale in enumerate((1.0, 1.0, 1e-3, 1e-3, 0.1)):
        direction = rng.normal(size=inputs[k].shape) * scale
        if balanced and k in (2, 3):
            direction -= direction.mean()
        move = lambda t, k=k, u=direction: value(*(v + t * u if j == k else v for j, v in enumerate(inputs)))  # noqa: E731
        expected = (move(1e-4) - move(-1e-4)) / 2e-4
        np.testing.assert_allclose(jnp.sum(gradients[k] * direction), expected, rtol=1e-5, atol=1e-9)


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
    x, y, a, b = clouds(64, 64, 4)
    x, y = np.round(64 * x) / 64, np.round(64 * y) / 64
    here = og.sinkhorn.value(og.PairwiseCost(x, y), a, b, epsilon=0.5)
    there = og.sinkhorn.value(og.PairwiseCost(x + 1000, y + 1000), a, b, epsilon=0.5)
    assert abs(there - here) < 1e-4 * abs(here)


def test_small_epsilon_converges():
    x, y, _, _ = clouds(512, 512, 8)
    cost = og.PairwiseCost(x, y)
    state, info = og.sinkhorn.run(cost, epsilon=1e-4 * float(cost.mean()), max_steps=5000)
    assert info.status == Status.CONVERGED
    assert np.isfinite(state.f).all()
    assert np.isfinite(state.g).all()


@pytest.mark.parametrize("share", [1.0, 0.01])
def test_the_streamed_solver_is_the_dense_one(share):
    x, y, _, _ = clouds(70, 90, 3)
    cost = og.PairwiseCost(x, y, block=1000)
    epsilon = share * float(cost.mean())
    dense, _ = og.sinkhorn.run(cost, epsilon=epsilon, tol=1e-5, dense=True)
    streamed, info = og.sinkhorn.run(cost, epsilon=epsilon, tol=1e-5, dense=False)
    assert info.status == Status.CONVERGED
    np.testing.assert_allclose(streamed.f, dense.f, atol=1e-4 * float(cost.mean()))


def test_warm_start_and_limit_of_steps():
    x, y, _, _ = clouds(200, 200, 2)
    cost = og.PairwiseCost(x, y)
    state, cold = og.sinkhorn.run(cost, epsilon=0.02)
    moved = og.PairwiseCost(x + 0.001, y)
    _, warm = og.sinkhorn.run(moved, epsilon=0.02, state=state)
    assert warm.status == Status.CONVERGED
    assert warm.num_steps < cold.num_steps / 2
    _, short = og.sinkhorn.run(cost, epsilon=0.02, max_steps=2)
    assert short.status == Status.MAX_STEPS
    assert short.num_steps <= 3
    assert "raise the limit" in og.explain(short)


def test_zero_weights_and_coincident_points():
    x, y, a, b = clouds(30, 20, 2)
    a[:5], b[7] = 0, 0
    a, b = a / a.sum(), b / b.sum()
    y[1] = y[0]
    x[6] = y[0]
    cost, without = og.PairwiseCost(x, y), og.PairwiseCost(x[5:], np.delete(y, 7, 0))
    for epsilon in (1.0, 0.01):
        state, info = og.sinkhorn.run(cost, a, b, epsilon=epsilon, tol=1e-4)
        small, _ = og.sinkhorn.run(without, a[5:], np.delete(b, 7), epsilon=epsilon, tol=1e-4)
        assert info.status == Status.CONVERGED
        np.testing.assert_allclose(state.f[5:], small.f, atol=2e-3)
        # a point without mass has the potential that the others give it
        expected = entropic.soft_rows(cost, state.g, jnp.asarray(b, jnp.float32), epsilon)
        np.testing.assert_allclose(state.f, expected, atol=1e-3)
        gradients = jax.grad(
            lambda x, a, epsilon=epsilon: og.sinkhorn.value(og.PairwiseCost(x, y), a, b, epsilon=epsilon),
            (0, 1),
        )(jnp.asarray(x, jnp.float32), jnp.asarray(a, jnp.float32))
        assert all(np.isfinite(part).all() for part in gradients)


def test_a_sweep_over_epsilon_traces_once():
    x, y, _, _ = clouds(20, 25, 2)
    traces = []

    @jax.jit
    def solve(epsilon, tau, tol):
        traces.append(1)
        return og.sinkhorn.run(og.PairwiseCost(x, y), epsilon=epsilon, tau_a=tau, tol=tol)[1].error

    for k in range(20):
        solve(0.1 + 0.1 * k, 1.0 - 0.02 * k, 1e-3 / (k + 1))
    assert len(traces) == 1
    before = og.sinkhorn._solve._cache_size()
    for k in range(20):
        og.sinkhorn.run(og.PairwiseCost(x, y), epsilon=0.1 + 0.05 * k)
    assert og.sinkhorn._solve._cache_size() <= before + 1


def test_transformations_compose():
    x, y, _, _ = clouds(20, 25, 2)
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    epsilons = jnp.asarray([0.05, 0.3, 2.0])

    def value(x, epsilon):
        return og.sinkhorn.value(og.PairwiseCost(x, y), epsilon=epsilon, tol=1e-4)

    alone = [value(x, epsilon) for epsilon in epsilons]
    np.testing.assert_allclose(jax.vmap(value, (None, 0))(x, epsilons), alone, rtol=1e-4)
    batch = jnp.stack([x, 2 * x])
    one = jax.grad(value)(batch[1], 0.3)
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(value), (0, None)))(batch, 0.3)[1], one, rtol=1e-3, atol=1e-5)
    mapped = jax.pmap(jax.value_and_grad(value), in_axes=(0, None))(batch[1:], 0.3)
    np.testing.assert_allclose(mapped[0][0], value(batch[1], 0.3), rtol=1e-5)
    np.testing.assert_allclose(mapped[1][0], one, rtol=1e-3, atol=1e-5)


def test_a_fixed_number_of_iterations_in_lockstep():
    x, y, _, _ = clouds(64, 64, 3)
    weights = np.ones((4, 64)) / 64
    for k in range(4):
        weights[k, 64 - 10 * k :] = 0  # padded problems
        weights[k] /= weights[k].sum()
    solve = jax.vmap(lambda a: og.sinkhorn.run(og.PairwiseCost(x, y), a, epsilon=1.0, num_iterations=60)[1])
    info = solve(jnp.asarray(weights, jnp.float32))
    assert np.all(info.status == Status.CONVERGED)
    assert np.all(info.num_steps == 60)
    plain = [og.sinkhorn.run(og.PairwiseCost(x, y), w, epsilon=1.0, tol=1e-5)[1].dual_value for w in weights]
    np.testing.assert_allclose(info.dual_value, plain, rtol=1e-4)
    # just as many iterations as were asked for: the same as as many steps
    state = og.sinkhorn.init(og.PairwiseCost(x, y))
    for _ in range(11):
        state = og.sinkhorn.step(state, og.PairwiseCost(x, y), epsilon=1.0)
    eleven, _ = og.sinkhorn.run(og.PairwiseCost(x, y), epsilon=1.0, num_iterations=10)
    assert abs(np.ptp(np.asarray(eleven.g - state.g))) < 0.05


@pytest.mark.parametrize("num", [1, 8, 17])
def test_iterations_on_the_kernel_are_sinkhorns(x64, num):
    x, y, a, b = clouds(15, 12, 2)
    cost = og.PairwiseCost(x, y)
    problem = newton.Problem(jnp.asarray(a), jnp.asarray(b), jnp.asarray(1.0), jnp.asarray(1.0))
    held = og.DenseCost(cost.matrix())
    start = og.sinkhorn.step(og.sinkhorn.State(jnp.zeros(15), jnp.zeros(12)), cost, a, b, epsilon=0.5)
    state = start
    for _ in range(num):
        state = og.sinkhorn.step(state, cost, a, b, epsilon=0.5)
    f, g = newton.iterate(held, problem, *start, epsilon=jnp.asarray(0.5), num_iterations=num)
    np.testing.assert_allclose(f, state.f, atol=1e-10)
    np.testing.assert_allclose(g, state.g, atol=1e-10)


def test_bad_input_is_refused():
    x, y, a, b = clouds(10, 8, 2)
    cost = og.PairwiseCost(x, y)
    for epsilon in (0.0, -0.5, np.nan, np.inf):
        with pytest.raises(ValueError, match="epsilon"):
            og.sinkhorn.run(cost, epsilon=epsilon)
    with pytest.raises(ValueError, match="not negative"):
        og.sinkhorn.run(cost, a - 0.5, b, epsilon=0.1)
    with pytest.raises(ValueError, match="equal totals"):
        og.sinkhorn.run(cost, 2 * a, b, epsilon=0.1)
    with pytest.raises(ValueError, match=r"shape \(8,\)"):
        og.sinkhorn.run(cost, b, b, epsilon=0.1)
    with pytest.raises(ValueError, match="all zeros"):
        og.sinkhorn.run(cost, 0 * a, b, epsilon=0.1)
    with pytest.raises(ValueError, match="tau_a"):
        og.sinkhorn.run(cost, epsilon=0.1, tau_a=1.5)
    with pytest.raises(ValueError, match="tau_b"):
        og.sinkhorn.run(cost, epsilon=0.1, tau_b=0.0)
    with pytest.raises(ValueError, match="tol"):
        og.sinkhorn.run(cost, epsilon=0.1, tol=0.0)
    with pytest.raises(ValueError, match="one per point"):
        og.sinkhorn.run(cost, epsilon=0.1, state=og.sinkhorn.State(jnp.zeros(3), jnp.zeros(8)))
    with pytest.raises(ValueError, match="num_iterations"):
        og.sinkhorn.run(cost, epsilon=0.1, num_iterations=0)


def test_inside_jit_bad_numbers_are_flagged():
    x, y, _, _ = clouds(10, 8, 2)
    solve = jax.jit(lambda x, epsilon: og.sinkhorn.run(og.PairwiseCost(x, y), epsilon=epsilon)[1])
    for epsilon in (-0.5, 0.0, np.nan):
        assert solve(x, epsilon).status == Status.NONFINITE
    assert solve(np.where(x > 1, np.nan, x), 0.1).status == Status.NONFINITE
    assert np.isnan(jax.jit(lambda e: og.sinkhorn.value(og.PairwiseCost(x, y), epsilon=e))(np.nan))


@given(
    n=st.sampled_from([3, 8]),
    m=st.sampled_from([5, 8]),
    share=st.floats(0.01, 3.0),
    tol=st.floats(1e-4, 1e-1),
    seed=st.integers(0, 100),
)
@settings(max_examples=25, deadline=None)
def test_the_flag_tells_the_truth(n, m, share, tol, seed):
    x, y, a, b = clouds(n, m, 2, seed)
    cost = matrix(x, y)
    epsilon = share * cost.mean()
    steps = 1 + seed % 30
    state, info = og.sinkhorn.run(og.DenseCost(cost), a, b, epsilon=epsilon, tol=tol, max_steps=steps)
    error = recomputed(cost, state, a, b, epsilon)
    assert abs(error - info.error) < 0.02 * tol + 1e-4 * error + 1e-5
    assert (info.status == Status.CONVERGED) == bool(info.error < tol)


@given(seed=st.integers(0, 1000), share=st.floats(0.02, 2.0), factor=st.floats(0.01, 100))
@settings(max_examples=15, deadline=None)
def test_symmetry_scaling_permutation_and_padding(seed, share, factor):
    x, y, a, b = clouds(8, 5, 2, seed)
    cost = matrix(x, y)
    epsilon = share * cost.mean()
    tol = {"tol": 1e-5}
    value = og.sinkhorn.value(og.DenseCost(cost), a, b, epsilon=epsilon, **tol)
    close = {"rtol": 2e-4, "atol": 2e-5 * cost.mean()}
    np.testing.assert_allclose(og.sinkhorn.value(og.DenseCost(cost.T), b, a, epsilon=epsilon, **tol), value, **close)
    scaled = og.sinkhorn.value(og.DenseCost(factor * cost), a, b, epsilon=factor * epsilon, **tol)
    np.testing.assert_allclose(scaled / factor, value, **close)
    order = np.random.default_rng(seed).permutation(8)
    permuted = og.sinkhorn.value(og.DenseCost(cost[order]), a[order], b, epsilon=epsilon, **tol)
    np.testing.assert_allclose(permuted, value, **close)
    padded = np.concatenate([cost, cost[:3] + 1.0])
    zeros = og.sinkhorn.value(og.DenseCost(padded), np.concatenate([a, np.zeros(3)]), b, epsilon=epsilon, **tol)
    np.testing.assert_allclose(zeros, value, **close)


def test_applying_the_plan_needs_no_plan(x64):
    x, y, a, b = clouds(20, 15, 3)
    cost = og.PairwiseCost(x, y, block=40)
    state, _ = og.sinkhorn.run(cost, a, b, epsilon=0.5, tol=1e-10)
    plan = np.asarray(og.sinkhorn.plan(cost, state, a, b, epsilon=0.5))
    np.testing.assert_allclose(og.sinkhorn.apply_plan(cost, state, y, a, b, epsilon=0.5), plan @ y, atol=1e-12)
    back = og.sinkhorn.apply_plan(cost, state, x, a, b, epsilon=0.5, axis=0)
    np.testing.assert_allclose(back, plan.T @ x, atol=1e-12)
    ones = og.sinkhorn.apply_plan(cost, state, np.ones(15), a, b, epsilon=0.5)
    np.testing.assert_allclose(ones, a, atol=1e-9)
    with pytest.raises(ValueError, match="vectors"):
        og.sinkhorn.apply_plan(cost, state, x, a, b, epsilon=0.5)


def test_sampled_pairs_follow_the_plan():
    x, y, a, b = clouds(6, 5, 2)
    cost = og.PairwiseCost(x, y)
    state, _ = og.sinkhorn.run(cost, a, b, epsilon=1.0, tol=1e-5)
    plan = np.asarray(og.sinkhorn.plan(cost, state, a, b, epsilon=1.0), np.float64)
    num = 40000
    for pairing in ("iid", "stratified"):
        i, j = og.sinkhorn.sample_plan(jax.random.key(1), cost, state, a, b, epsilon=1.0, num=num, pairing=pairing)
        counts = np.zeros((6, 5))
        np.add.at(counts, (np.asarray(i), np.asarray(j)), 1)
        spread = np.sqrt(num * plan * (1 - plan))
        assert (abs(counts - num * plan) < 5 * spread + 1).all(), pairing
    rows = np.bincount(np.asarray(i), minlength=6)
    assert abs(rows - num * a).max() <= 1.01  # stratified: no spread in the rows


def test_a_permutation_keeps_the_batch_and_its_law():
    x, y, _, _ = clouds(4, 4, 2, seed=3)
    cost = og.PairwiseCost(x, y)
    epsilon = float(cost.mean())
    state, _ = og.sinkhorn.run(cost, epsilon=epsilon, tol=1e-5)
    num = 4000
    draw = jax.jit(jax.vmap(lambda key: og.sinkhorn.sample_plan(key, cost, state, epsilon=epsilon)[1]))
    partners = np.asarray(draw(jax.random.split(jax.random.key(0), num)))
    assert (np.sort(partners, 1) == np.arange(4)).all()
    import itertools

    matchings = np.array(list(itertools.permutations(range(4))))
    law = np.exp(-matrix(x, y)[np.arange(4), matchings].sum(1) / epsilon)
    law /= law.sum()
    counts = np.array([(partners == matching).all(1).sum() for matching in matchings])
    assert (abs(counts - num * law) < 5 * np.sqrt(num * law * (1 - law)) + 1).all()


def test_a_sharp_plan_gives_its_assignment():
    x, y, _, _ = clouds(64, 64, 2)
    cost = og.PairwiseCost(x, y)
    state, _ = og.sinkhorn.run(cost, epsilon=1e-4)
    _, j = og.sinkhorn.sample_plan(jax.random.key(0), cost, state, epsilon=1e-4)
    best = ot.emd2(np.ones(64) / 64, np.ones(64) / 64, matrix(x, y))
    assert matrix(x, y)[np.arange(64), np.asarray(j)].mean() < 1.02 * best
    with pytest.raises(ValueError, match="stratified"):
        og.sinkhorn.sample_plan(jax.random.key(0), og.PairwiseCost(x, y[:5]), state, epsilon=0.1)
    with pytest.raises(ValueError, match="choose one of"):
        og.sinkhorn.sample_plan(jax.random.key(0), cost, state, epsilon=0.1, pairing="best")


def test_streaming_needs_little_memory():
    n, d = 8192, 4
    points = jax.ShapeDtypeStruct((n, d), jnp.float32)

    def value(x, y, epsilon):
        return og.sinkhorn.value(og.PairwiseCost(x, y), epsilon=epsilon)

    compiled = jax.jit(jax.value_and_grad(value, (0, 1))).lower(points, points, 0.1).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 40 * 2**20


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
    gradient = jax.grad(divergence)(x, y, a, b)
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


@pytest.mark.parametrize("n", [20, 400])
@pytest.mark.parametrize("tau", [0.2, 0.95])
def test_a_relaxed_run_ends_where_its_error_is(n, tau):
    x, y, _, _ = clouds(n, n, 2)
    state, info = og.sinkhorn.run(og.PairwiseCost(x, y), epsilon=0.1, tau_a=tau, tau_b=tau, tol=1e-3)
    assert info.status == Status.CONVERGED
    following = og.sinkhorn.step(state, og.PairwiseCost(x, y), epsilon=0.1, tau_a=tau, tau_b=tau)
    assert max(abs(following.f - state.f).max(), abs(following.g - state.g).max()) / 0.1 < 1.1e-3


def test_outliers_keep_their_potentials_when_marginals_are_relaxed():
    x, y, _, _ = clouds(20, 20, 2)
    x[0] = [30.0, 0.0]
    cost = og.PairwiseCost(x, y)
    state, info = og.sinkhorn.run(cost, epsilon=0.1, tau_a=0.5, tau_b=0.5)
    assert info.status == Status.CONVERGED
    slow = og.sinkhorn.init(cost)
    for _ in range(40):
        slow = og.sinkhorn.step(slow, cost, epsilon=0.1, tau_a=0.5, tau_b=0.5)
    np.testing.assert_allclose(state.f, slow.f, rtol=1e-3, atol=1e-3)
    state, info = og.sinkhorn.run(og.PairwiseCost(x + 100, y), epsilon=0.1, tau_a=0.5, tau_b=0.5)
    assert info.status == Status.CONVERGED
    assert np.isfinite(state.f).all()


def test_inside_jit_illegal_problems_are_flagged_and_have_no_value():
    x, y, a, b = clouds(10, 8, 2)
    cost = og.PairwiseCost(x, y)
    solve = jax.jit(lambda a, tau: og.sinkhorn.run(cost, a, b, epsilon=0.5, tau_a=tau)[1].status)
    value = jax.jit(lambda a, tau, epsilon: og.sinkhorn.value(cost, a, b, epsilon=epsilon, tau_a=tau))
    assert np.isfinite(value(a, 1.0, 0.5))
    negative = np.where(np.arange(10) == 0, -0.1, a)
    negative[1] += 0.1 + a[0]
    for mass, tau in ((negative, 1.0), (2 * a, 1.0), (a, 1.5), (a, 0.0), (a, -1.0)):
        assert solve(mass, tau) == Status.NONFINITE
        assert np.isnan(value(mass, tau, 0.5))
    assert np.isnan(value(a, 1.0, -0.1))
    assert solve(2 * a, 0.5) == Status.CONVERGED
    assert jax.jit(lambda e: og.dual.run(cost, epsilon=e)[1].status)(-0.1) == Status.NONFINITE
    structured = jax.jit(lambda lam: og.structured.run(np.ones((2, 2, 2)), epsilon=0.1, lam=lam)[1].status)
    assert structured(0.2) == Status.NONFINITE


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_error_is_relative_to_the_mass(scale):
    x, y, a, b = clouds(30, 20, 2)
    cost = og.PairwiseCost(x, y)
    one, _ = og.sinkhorn.run(cost, a, b, epsilon=0.2)
    state, info = og.sinkhorn.run(cost, scale * a, scale * b, epsilon=0.2)
    assert info.status == Status.CONVERGED
    shift = 0.2 * np.log(scale)  # the mass of the other side is in the sums
    np.testing.assert_allclose(state.f + state.g[0] + shift, one.f + one.g[0], atol=2e-3)


def test_numbers_are_scalars_and_costs_may_count():
    x, y, _, _ = clouds(10, 8, 2)
    with pytest.raises(ValueError, match="vmap over several"):
        og.sinkhorn.run(og.PairwiseCost(x, y), epsilon=np.array([0.1, 0.2]))
    with pytest.raises(ValueError, match="max_steps"):
        og.sinkhorn.run(og.PairwiseCost(x, y), epsilon=0.1, max_steps=-1)
    x, y = np.round(x), np.round(y)
    hamming = og.PairwiseCost(x, y, differing)
    state, info = og.sinkhorn.run(hamming, epsilon=0.5)
    assert hamming.matrix().dtype == jnp.float32
    assert info.status == Status.CONVERGED
    assert recomputed(np.asarray(hamming.matrix()), state, np.ones(10) / 10, np.ones(8) / 8, 0.5) < 1e-3


def differing(x, y):
    return jnp.sum(x != y)


def test_the_divergence_knows_the_mass_of_uniform_weights():
    x, y, _, b = clouds(10, 8, 2)
    options = {"epsilon": 0.5, "tau_a": 0.8, "tau_b": 0.8}
    implied = og.sinkhorn_divergence(x, y, None, 2 * b, **options)
    np.testing.assert_allclose(implied, og.sinkhorn_divergence(x, y, np.ones(10) / 10, 2 * b, **options), rtol=1e-4)


def test_every_point_once_when_there_are_many():
    x, y, _, _ = clouds(50000, 3, 2)
    cost = og.PairwiseCost(x, y)
    i, _ = og.sinkhorn.sample_plan(jax.random.key(0), cost, og.sinkhorn.init(cost), epsilon=1.0, pairing="stratified")
    assert np.array_equal(np.sort(i), np.arange(50000))


def test_a_semidual_with_a_point_of_weight_zero_is_finite():
    value = og.dual.semidual(np.array([[10.0], [0.0]]), np.zeros(2), np.array([1.0, 0.0]), epsilon=0.1)
    np.testing.assert_allclose(value, 10.0, rtol=1e-6)


def test_float32_points_stay_float32_where_float64_is_allowed(x64):
    x, y, _, _ = clouds(10, 8, 2)
    cost = og.PairwiseCost(x.astype(np.float32), y.astype(np.float32))
    for tau in (1.0, 0.8):
        state, info = og.sinkhorn.run(cost, epsilon=0.1, tau_a=tau)
        assert info.status == Status.CONVERGED
        assert state.f.dtype == jnp.float32
    assert og.sinkhorn.value(cost, epsilon=0.1).dtype == jnp.float32
    i, _ = og.sinkhorn.sample_plan(jax.random.key(0), cost, state, epsilon=0.1, pairing="iid")
    assert i.shape == (10,)
