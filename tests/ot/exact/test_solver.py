import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from scipy.optimize import linear_sum_assignment

from otgen.ot import exact
from otgen.ot.costs import PairwiseCost
from tests.support.linear_program import transport

pytestmark = pytest.mark.usefixtures("x64")


def line(seed=0, n=7, m=5):
    random = np.random.default_rng(seed)
    return random.normal(size=n), random.normal(size=m), random.dirichlet(np.ones(n)), random.dirichlet(np.ones(m))


@pytest.mark.parametrize("h", [jnp.square, jnp.abs, lambda t: jnp.abs(t) ** 1.5 + 0.3 * t], ids=["2", "1", "skew"])
def test_every_convex_cost_on_the_line_is_the_linear_program(h):
    for seed in range(3):
        x, y, a, b = line(seed)
        value = float(exact.value_line(x, y, a, b, h=h))
        assert value == pytest.approx(transport(np.asarray(h(x[:, None] - y)), a, b)[1], abs=1e-10)


@pytest.mark.slow
def test_the_line_agrees_with_pot():
    ot = pytest.importorskip("ot")
    x, y, a, b = line(3, 200, 150)
    assert float(exact.value_line(x, y, a, b)) == pytest.approx(ot.emd2_1d(x, y, a, b), rel=1e-9)
    absolute = exact.value_line(x, y, a, b, h=jnp.abs)
    assert float(absolute) == pytest.approx(ot.wasserstein_1d(x, y, a, b, p=1), rel=1e-9)
    i, j, mass = exact.coupling_line(x, y, a, b)
    plan = np.zeros((200, 150))
    np.add.at(plan, (np.asarray(i), np.asarray(j)), np.asarray(mass))
    np.testing.assert_allclose(plan, ot.emd_1d(x, y, a, b), atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), zeros=st.integers(0, 3), ties=st.booleans())
def test_couplings_have_their_marginals_and_are_monotone(seed, zeros, ties):
    x, y, a, b = line(seed)
    a[:zeros] = 0
    a /= a.sum()
    if ties:
        x, a, b = np.round(x), np.full(7, 1 / 7), np.full(5, 1 / 5)
    with jax.enable_x64(True):
        i, j, mass = (np.asarray(of) for of in exact.coupling_line(x, y, a, b))
    np.testing.assert_allclose(np.bincount(i, mass, 7), a, atol=1e-12)
    np.testing.assert_allclose(np.bincount(j, mass, 5), b, atol=1e-12)
    kept = mass > 1e-12
    assert (np.diff(x[i[kept]]) >= 0).all()
    assert (np.diff(y[j[kept]]) >= 0).all()


def test_gradients_on_the_line():
    x, y, a, b = (jnp.asarray(of) for of in line(5))
    check_grads(jax.jit(exact.value_line), (x, y, a, b), order=1, modes=["rev"], rtol=1e-5)
    slopes = jax.jit(jax.grad(exact.value_line, (0, 1, 2, 3)))
    zero = a.at[2].set(0)
    for of in ((x, x, a, a), (x, x, zero / zero.sum(), a)):
        assert all(np.isfinite(slope).all() for slope in slopes(*of))


def test_slices_by_vmap_and_equal_sizes():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(6, 50)), random.normal(size=(6, 50))
    expected = np.mean((np.sort(x) - np.sort(y)) ** 2, 1)
    np.testing.assert_allclose(jax.jit(jax.vmap(exact.value_line))(x, y), expected, rtol=1e-12)


@pytest.mark.slow
def test_assignments_agree_with_pot():
    ot = pytest.importorskip("ot")
    random = np.random.default_rng(1)
    x, y = random.normal(size=(60, 3)), random.normal(size=(60, 3))
    cost = PairwiseCost(x, y)
    found = exact.assignment(cost)
    plan = ot.emd(np.full(60, 1 / 60), np.full(60, 1 / 60), np.asarray(cost.matrix()))
    np.testing.assert_array_equal(found.index, plan.argmax(1))
    assert float(found.value) == pytest.approx(ot.emd2([], [], np.asarray(cost.matrix())), rel=1e-12)
    slope = jax.grad(lambda x: exact.assignment(PairwiseCost(x, y)).value)(jnp.asarray(x))
    np.testing.assert_allclose(slope, 2 * (x - y[found.index]) / 60, atol=1e-12)


@pytest.mark.parametrize("kind", ["uniform", "clouds", "integers", "single"])
@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
def test_potentials_are_feasible_and_tight(kind, dtype):
    random = np.random.default_rng(2)
    if kind == "clouds":
        cost = np.asarray(PairwiseCost(random.normal(size=(80, 2)), random.normal(size=(80, 2)) + 5).matrix())
    else:
        cost = {
            "uniform": random.uniform(size=(80, 80)),
            "integers": random.integers(0, 4, (80, 80)) - 2.0,
            "single": np.array([[3.0]]),
        }[kind]
    cost = cost.astype(dtype)
    found = exact.assignment(cost)
    f, g = (np.asarray(of) for of in exact.potentials(cost, found.index))
    rounding = 8 * np.finfo(dtype).eps * np.abs(cost).max()
    assert f.dtype == dtype
    assert (f[:, None] + g - cost).max() <= rounding
    matched = cost[np.arange(len(f)), found.index]
    assert np.abs(f + g[found.index] - matched).max() <= 20 * rounding
    assert f.mean() + g.mean() == pytest.approx(float(found.value), abs=float(20 * rounding))
    assert abs(f.mean()) <= rounding


@pytest.mark.slow
def test_assignment_inside_jit_and_vmap():
    costs = np.random.default_rng(3).uniform(size=(3, 9, 9))

    @jax.jit
    def solve(cost):
        found = exact.assignment(cost)
        return found, exact.potentials(cost, found.index)

    found, (f, g) = jax.vmap(solve)(costs)
    for cost, index, value, fs, gs in zip(costs, *found, f, g, strict=True):
        np.testing.assert_array_equal(index, linear_sum_assignment(cost)[1])
        assert float(value) == pytest.approx(cost[np.arange(9), index].mean())
        assert (fs[:, None] + gs - cost).max() < 1e-12
    assert np.isnan(float(solve(jnp.full((9, 9), jnp.nan))[0].value))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(30, 20), (1, 4), (4, 1)], ids=str)
def test_plans_agree_with_another_solver_and_prove_themselves(shape, dtype):
    x, y, a, b = line(4, *shape)
    a[1:3] = b[1:2] = 0
    a, b = a / a.sum(), b / b.sum()
    cost = ((x[:, None] - y) ** 2 + 100 * x[:, None] ** 2).astype(dtype)  # what is common to a row is in the way
    found = exact.plan(cost, a, b)
    rounding = 4 * float(np.finfo(dtype).eps)
    assert {of.dtype for of in found} == {np.dtype(dtype)}
    assert float(found.value) == pytest.approx(transport(cost.astype(np.float64), a, b)[1], rel=max(1e-9, 4 * rounding))
    np.testing.assert_allclose(found.plan.sum(1), a, atol=rounding)
    np.testing.assert_allclose(found.plan.sum(0), b, atol=rounding)
    assert (np.asarray(found.plan) > 0).sum() <= sum(shape) - 1
    slack = cost - np.asarray(found.f)[:, None] - np.asarray(found.g)
    assert slack.min() >= -rounding * cost.max()
    assert np.abs(slack[np.asarray(found.plan) > 0]).max() <= 4 * rounding * cost.max()
    assert abs(float(found.f @ a)) <= 4 * rounding * cost.max()


def test_the_plan_between_equal_points_is_the_assignment():
    cost = np.random.default_rng(5).uniform(size=(40, 40))
    found, matched = exact.plan(cost), exact.assignment(cost)
    np.testing.assert_allclose(found.plan, np.eye(40)[matched.index] / 40, atol=1e-15)
    assert float(found.value) == pytest.approx(float(matched.value), rel=1e-12)


def test_the_slopes_of_a_plan_are_the_plan_and_its_potentials():
    _, _, a, b = line(6)
    cost = np.random.default_rng(6).uniform(size=(7, 5))
    found = exact.plan(cost, a, b)
    slopes = jax.jit(jax.grad(lambda *of: exact.plan(*of).value, (0, 1, 2)))(cost, a, b)
    np.testing.assert_allclose(slopes[0], found.plan, atol=1e-14)
    np.testing.assert_allclose(slopes[1], found.f, atol=1e-12)  # the weights are divided by their sum
    np.testing.assert_allclose(slopes[2], found.g - found.value, atol=1e-12)
    arguments = (jnp.asarray(cost), jnp.asarray(a), jnp.asarray(b))
    check_grads(jax.jit(lambda *of: exact.plan(*of).value), arguments, order=1, modes=["fwd", "rev"], rtol=1e-6)


def test_plans_inside_jit_and_vmap():
    costs = np.random.default_rng(7).uniform(size=(3, 6, 4))
    costs[1, 0, 0] = np.nan
    found = jax.jit(jax.vmap(exact.plan))(costs)
    for i in (0, 2):
        for mine, same in zip(found, exact.plan(costs[i]), strict=True):
            np.testing.assert_allclose(mine[i], same, atol=1e-14)
    assert all(np.isnan(of[1]).all() for of in found)
    assert np.isnan(float(jax.jit(exact.plan)(costs[0], np.linspace(-1, 1, 6)).value))


def test_bad_input_says_what_to_do():
    with pytest.raises(ValueError, match="at most 25000000"):
        jax.eval_shape(exact.plan, jax.ShapeDtypeStruct((5001, 5000), np.float32))
    with pytest.raises(ValueError, match="not negative"):
        exact.plan(np.zeros((2, 2)), np.array([1.5, -0.5]))
    with pytest.raises(ValueError, match="NaN or infinite"):
        exact.plan(np.array([[-np.inf]]))
    with pytest.raises(ValueError, match=r"points on the line, shape \[n\]"):
        exact.value_line(np.zeros((3, 1)), np.zeros(3))
    with pytest.raises(ValueError, match="NaN or infinite"):
        exact.value_line(np.array([0.0, np.nan]), np.zeros(3))
    with pytest.raises(ValueError, match="divide by the sum"):
        exact.value_line(np.zeros(2), np.zeros(3), np.ones(2))
    with pytest.raises(ValueError, match="as many rows as columns"):
        exact.potentials(np.zeros((2, 3)), np.arange(2))
    with pytest.raises(ValueError, match="no permutation"):
        exact.potentials(np.eye(3), np.array([0, 0, 1]))
    with pytest.raises(ValueError, match="not optimal"):
        exact.potentials(1 - np.eye(3), np.array([1, 2, 0]))
