"""Entropic transport: its steps, flags, transformations, bad input and extreme scales."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import otgen as og
from otgen.ot.sinkhorn import loop, potentials, solver
from otgen.types import Status
from tests.support.clouds import clouds, matrix, recomputed, reference


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
    x, y, _, _ = clouds(64, 64, 3)
    cost = og.PairwiseCost(x, y)
    state, cold = og.sinkhorn.run(cost, epsilon=0.02)
    moved = og.PairwiseCost(x + 0.001, y)
    _, warm = og.sinkhorn.run(moved, epsilon=0.02, state=state)
    assert warm.status == Status.CONVERGED
    assert warm.num_steps < 0.75 * cold.num_steps
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

    def value(x, a, epsilon):
        return og.sinkhorn.value(og.PairwiseCost(x, y), a, b, epsilon=epsilon)

    slopes = jax.jit(jax.grad(value, (0, 1)))
    for epsilon in (1.0, 0.01):
        state, info = og.sinkhorn.run(cost, a, b, epsilon=epsilon, tol=1e-4)
        small, _ = og.sinkhorn.run(without, a[5:], np.delete(b, 7), epsilon=epsilon, tol=1e-4)
        assert info.status == Status.CONVERGED
        np.testing.assert_allclose(state.f[5:], small.f, atol=2e-3)
        # a point without mass has the potential that the others give it
        expected = potentials.soft_rows(cost, state.g, jnp.asarray(b, jnp.float32), epsilon)
        np.testing.assert_allclose(state.f, expected, atol=1e-3)
        assert all(np.isfinite(part).all() for part in slopes(x, a, epsilon))


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
    before = solver._solve._cache_size()
    for k in range(20):
        og.sinkhorn.run(og.PairwiseCost(x, y), epsilon=0.1 + 0.05 * k)
    assert solver._solve._cache_size() <= before + 1


def test_transformations_compose():
    x, y, _, _ = clouds(20, 25, 2)
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    epsilons = jnp.asarray([0.05, 0.3, 2.0])

    def value(x, epsilon):
        return og.sinkhorn.value(og.PairwiseCost(x, y), epsilon=epsilon, tol=1e-4)

    a, b = np.full(20, 1 / 20), np.full(25, 1 / 25)
    exact = [reference(matrix(np.asarray(x), np.asarray(y)), a, b, epsilon)[1] for epsilon in (0.05, 0.3, 2.0)]
    np.testing.assert_allclose(jax.vmap(value, (None, 0))(x, epsilons), exact, rtol=2e-4)
    batch = jnp.stack([x, 2 * x])
    far, near = 2 * np.asarray(x, np.float64), np.asarray(y, np.float64)
    plan, of_far = reference(matrix(far, near), a, b, 0.3)
    one = 2 * (plan[:, :, None] * (far[:, None] - near)).sum(1)  # the derivative at a plan held fixed
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(value), (0, None)))(batch, 0.3)[1], one, rtol=1e-3, atol=1e-5)
    mapped = jax.pmap(jax.value_and_grad(value), in_axes=(0, None))(batch[1:], 0.3)
    np.testing.assert_allclose(mapped[0][0], of_far, rtol=1e-4)
    np.testing.assert_allclose(mapped[1][0], one, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("num", [1, 8, 17])
def test_iterations_on_the_kernel_are_sinkhorns(x64, num):
    x, y, a, b = clouds(15, 12, 2)
    cost = og.PairwiseCost(x, y)
    problem = loop.Problem(jnp.asarray(a), jnp.asarray(b), jnp.asarray(1.0), jnp.asarray(1.0))
    held = og.DenseCost(cost.matrix())
    start = og.sinkhorn.step(og.sinkhorn.State(jnp.zeros(15), jnp.zeros(12)), cost, a, b, epsilon=0.5)
    state = start
    for _ in range(num):
        state = og.sinkhorn.step(state, cost, a, b, epsilon=0.5)
    f, g = loop.iterate(held, problem, *start, epsilon=jnp.asarray(0.5), num_iterations=num)
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


@given(
    shape=st.sampled_from([(8, 5), (3, 8)]),
    share=st.floats(0.01, 3.0),
    tol=st.floats(1e-4, 1e-1),
    seed=st.integers(0, 100),
)
@settings(max_examples=25, deadline=None)
def test_the_flag_tells_the_truth(shape, share, tol, seed):
    x, y, a, b = clouds(*shape, 2, seed)
    cost = matrix(x, y)
    epsilon = share * cost.mean()
    steps = 1 + seed % 30
    state, info = og.sinkhorn.run(og.DenseCost(cost), a, b, epsilon=epsilon, tol=tol, max_steps=steps)
    error = recomputed(cost, state, a, b, epsilon)
    rounding = 1e-5 + 3e-7 / share  # of exponents of size 1 / share, a few units in their last place
    assert abs(error - info.error) < 0.02 * tol + 1e-4 * error + rounding
    if abs(error - tol) > 0.02 * tol + 1e-4 * error + rounding:  # beyond what float32 can tell
        assert (info.status == Status.CONVERGED) == (error < tol)


@given(seed=st.integers(0, 1000), share=st.floats(0.02, 2.0), factor=st.floats(0.01, 100))
@settings(max_examples=15, deadline=None)
def test_symmetry_scaling_permutation_and_padding(seed, share, factor):
    x, y, a, b = clouds(8, 8, 2, seed)  # turned round it is of the same shape, and not compiled again
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


@pytest.mark.slow
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

    @jax.jit
    def both(a, tau, epsilon, x):
        cost = og.PairwiseCost(x, y)
        status = og.sinkhorn.run(cost, a, b, epsilon=epsilon, tau_a=tau)[1].status
        return status, og.sinkhorn.value(cost, a, b, epsilon=epsilon, tau_a=tau)

    def solve(a, tau, epsilon=0.5, x=x):
        return both(a, tau, epsilon, x)[0]

    def value(a, tau, epsilon, x=x):
        return both(a, tau, epsilon, x)[1]

    assert np.isfinite(value(a, 1.0, 0.5))
    broken = np.where(x > 1, np.nan, x)
    for epsilon, points in ((-0.5, x), (0.0, x), (np.nan, x), (0.1, broken)):
        assert solve(a, 1.0, epsilon, points) == Status.NONFINITE
        assert np.isnan(value(a, 1.0, epsilon, points))
    negative = np.where(np.arange(10) == 0, -0.1, a)
    negative[1] += 0.1 + a[0]
    for mass, tau in ((negative, 1.0), (2 * a, 1.0), (a, 1.5), (a, 0.0), (a, -1.0)):
        assert solve(mass, tau) == Status.NONFINITE
        assert np.isnan(value(mass, tau, 0.5))
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


@pytest.mark.slow
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


def test_a_solve_can_be_watched_in_pieces():
    """As the docstring of `run` says."""
    x, y, a, b = clouds(60, 50, 2)
    cost, options = og.PairwiseCost(x, y), {"epsilon": 0.05, "tol": 1e-4}
    state, info, errors = None, None, []
    while info is None or info.status == og.Status.MAX_STEPS:
        state, info = og.sinkhorn.run(cost, a, b, max_steps=8, state=state, **options)
        errors.append(float(info.error))
    whole, expected = og.sinkhorn.run(cost, a, b, **options)
    assert info.status == expected.status == og.Status.CONVERGED
    assert 1 < len(errors) < 30
    assert errors == sorted(errors, reverse=True)
    np.testing.assert_allclose(state.plan(), whole.plan(), atol=2e-4 / 50)
