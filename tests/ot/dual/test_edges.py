"""Smoothed duals at the edges: other units, forbidden pairs, problems without a plan, the floor of float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otgen as og
from otgen.ot import dual
from otgen.ot.dual.evaluate import spread

SHAPE, EPSILON = (8, 6), 0.1
SMOOTHINGS = ["entropic", pytest.param("quadratic", marks=pytest.mark.slow)]


@functools.cache
def problem():
    """Costs, forbidden pairs, weights that a plan without them has, and Sinkhorn's plan without them, in float64."""
    random = np.random.default_rng(0)
    cost, banned = random.uniform(size=SHAPE).astype(np.float32), random.uniform(size=SHAPE) < 0.4
    banned[np.arange(6), np.arange(6)] = False
    mass = np.where(banned, 0, random.exponential(size=SHAPE))
    a, b = mass.sum(1) / mass.sum(), mass.sum(0) / mass.sum()
    kernel = np.where(banned, 0, np.exp(-cost / EPSILON, dtype=np.float64)) * np.outer(a, b)
    u, v = np.ones(8), np.ones(6)
    for _ in range(20_000):
        u = a / (kernel @ v)
        v = b / (u @ kernel)
    plan = u[:, None] * kernel * v
    assert np.abs(plan.sum(1) - a).sum() < 1e-12
    return cost, banned, a.astype(np.float32), b.astype(np.float32), plan


def solve(cost, a, b, epsilon, tol, smoothing="entropic", max_steps=5000):
    return _solve(cost, a, b, epsilon, tol, smoothing, max_steps)


@functools.partial(jax.jit, static_argnames="smoothing")
def _solve(cost, a, b, epsilon, tol, smoothing, max_steps):
    state, info = dual.run(cost, a, b, epsilon=epsilon, tol=tol, smoothing=smoothing, max_steps=max_steps)
    numbers = {"epsilon": epsilon, "smoothing": smoothing}
    said = dual.semidual(cost, state.f, a, b, **numbers), dual.dual_value(cost, *state, a, b, **numbers)
    return state, info, dual.density(cost, *state, **numbers), said


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_results_scale_with_the_units_of_the_cost(smoothing):
    cost, _, a, b, _ = problem()
    state, info, density, said = solve(cost, a, b, EPSILON, 1e-6, smoothing)
    assert int(info.status) == og.Status.CONVERGED
    for unit in (1e-10, 1e-5, 1e5, 1e10):
        other = solve(cost * np.float32(unit), a, b, EPSILON * unit, 1e-6, smoothing)
        assert int(other[1].status) == og.Status.CONVERGED
        scaled = (*other[0], other[1].dual_value, other[1].primal_value, other[1].scale, *other[3])
        for found, expected in zip(
            scaled, (*state, info.dual_value, info.primal_value, info.scale, *said), strict=True
        ):
            np.testing.assert_allclose(np.float64(found) / unit, expected, atol=1e-4)
        np.testing.assert_allclose(other[2], density, atol=1e-3)
        assert float(other[1].gap) < 1e-6 * float(other[1].scale)
        assert float(other[1].error) < 1e-3


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_points_of_weight_zero_far_from_all_others_but_close_to_each_other(smoothing):
    cost, _, a, b, _ = problem()
    a, b = np.r_[a[:-1] / a[:-1].sum(), 0].astype(np.float32), np.r_[b[:-1] / b[:-1].sum(), 0].astype(np.float32)

    def solved(junk):
        costs = cost.copy()
        costs[-1], costs[:, -1], costs[-1, -1] = junk, junk, 0
        state, info, density, said = solve(costs, a, b, EPSILON, 1e-6, smoothing)
        assert int(info.status) == og.Status.CONVERGED
        return state.f[:-1], state.g[:-1], density[:-1, :-1], *said, info.error

    expected = solved(1.0)
    for junk in (1e2, 1e5, 1e30, np.inf, np.nan):  # the pairs on their own would have a density beyond float32
        for found, want in zip(solved(junk), expected, strict=True):
            np.testing.assert_allclose(found, want, atol=1e-5)


@pytest.mark.parametrize("large", [1e4, 1e9, np.inf], ids=str)
def test_forbidden_pairs_get_no_mass_and_huge_costs_neither(large):
    cost, banned, a, b, plan = problem()
    costs = np.where(banned, large, cost).astype(np.float32)
    state, info, density, said = solve(costs, a, b, EPSILON, 1e-5)
    assert int(info.status) == og.Status.CONVERGED
    assert (np.asarray(density)[banned] == 0).all()
    np.testing.assert_allclose(a[:, None] * b * density, plan, atol=1e-5)
    positive = plan[~banned]
    entropy = np.sum(positive * np.log(positive / np.outer(a, b)[~banned]))
    optimum = np.sum(positive * cost[~banned]) + EPSILON * entropy
    assert float(info.dual_value) == pytest.approx(optimum, rel=1e-5)
    np.testing.assert_allclose(said, float(info.dual_value), rtol=1e-6)
    assert np.isfinite(state.f).all()


@pytest.mark.parametrize("smoothing", ["entropic", "quadratic"])
def test_derivatives_beside_forbidden_pairs_are_finite(smoothing):
    cost, banned, a, b, _ = problem()
    costs, f, g = np.where(banned, np.inf, cost), np.linspace(-0.1, 0.1, 8, dtype=np.float32), np.full(6, 0.1)

    def both(costs, f, a, b, epsilon):
        numbers = {"epsilon": epsilon, "smoothing": smoothing}
        return dual.semidual(costs, f, a, b, **numbers) + dual.dual_value(costs, f, g, a, b, **numbers)

    slopes = jax.jit(jax.grad(both, (0, 1, 2, 3, 4)))(jnp.asarray(costs), f, a, b, EPSILON)
    assert all(np.isfinite(of).all() for of in slopes)
    assert (np.asarray(slopes[0])[banned] == 0).all()


def test_problems_without_a_plan_say_so():
    cost, _, a, b, _ = problem()
    alone, few = cost.copy(), cost.copy()
    alone[2] = np.inf  # a row without any partner
    few[:5, 1:] = np.inf  # five rows that share one column: every row alone would find room
    b = np.r_[0.3, np.full(5, 0.14)].astype(np.float32)
    a = np.r_[np.full(5, 0.15), np.full(3, 0.25 / 3)].astype(np.float32)
    for costs in (alone, few):
        _, info, _, _ = solve(costs, a, b, EPSILON, 1e-5)
        assert int(info.status) == og.Status.INFEASIBLE
        assert float(info.primal_value) == np.inf
    with pytest.raises(ValueError, match="forbidden pairs"):
        dual.run(few, a, b, epsilon=EPSILON)


def test_the_floor_of_float32_is_a_stall_and_not_the_limit_of_steps():
    cost, _, a, b, _ = problem()
    _, info, _, _ = solve(cost, a, b, EPSILON / 20, 1e-10)
    assert int(info.status) == og.Status.STALLED
    assert int(info.num_steps) < 2000
    assert "float64" in og.explain(info)
    assert float(info.gap) < 1e-4
    assert int(solve(cost, a, b, EPSILON / 20, 1e-10, max_steps=3)[1].status) == og.Status.MAX_STEPS


def test_the_scale_of_a_cost_is_robust_and_knows_no_shift():
    random = np.random.default_rng(1)
    cost, weights = random.uniform(size=(50, 40)), (np.full(50, 0.02), np.full(40, 0.025))
    of = jax.jit(lambda values: spread(og.DenseCost(values), *map(jnp.asarray, weights)))
    alone = float(of(cost.astype(np.float32)))
    assert alone == pytest.approx(1, rel=0.2)  # about the width of a uniform law
    shifted = cost + 10 * random.normal(size=(50, 1)) + 10 * random.normal(size=40) - 30
    assert float(of(shifted.astype(np.float32))) == pytest.approx(alone, rel=0.1)
    assert float(of((cost + 8).astype(np.float32))) == pytest.approx(alone, rel=1e-5)
    for outlier in (1e8, np.inf):
        mixed = np.where(random.uniform(size=cost.shape) < 0.2, outlier, cost)
        assert 0.7 * alone < float(of(mixed.astype(np.float32))) < 2 * alone
    assert float(of(np.full((50, 40), 3e5, np.float32))) == 0
    assert float(of((cost < 0.1).astype(np.float32))) > 0.1  # most are equal


def test_float32_costs_in_x64_mode(x64):
    cost, _, a, b, _ = problem()
    f, g, numbers = np.zeros(8), np.zeros(6), {"epsilon": np.float64(EPSILON)}
    expected = float(dual.dual_value(cost.astype(np.float64), f, g, a.astype(float), b.astype(float), **numbers))
    assert float(dual.dual_value(cost, f, g, a, b, **numbers)) == pytest.approx(expected, rel=1e-6)
    assert float(dual.gap(cost, f, g, a, b, **numbers)) >= 0


@pytest.mark.slow
def test_solves_of_mixed_types_in_x64_mode(x64):
    cost, _, a, b, _ = problem()
    state, info = dual.run(cost, a.astype(np.float64), b, epsilon=np.float64(EPSILON))
    again, info = dual.run(cost, a, b, epsilon=np.float64(EPSILON), state=dual.State(np.float64(state.f), state.g))
    assert int(info.status) == og.Status.CONVERGED
    assert again.f.dtype == jnp.float32


ZERO = np.zeros(3, np.float32)
SQUARE = np.ones((3, 3), np.float32)
WRONG = {
    "epsilon for each row": lambda: dual.run(SQUARE, epsilon=np.ones(3)),
    "a tol of several": lambda: dual.run(SQUARE, epsilon=1.0, tol=np.array([1e-5, 1e-3])),
    "steps that are not a number": lambda: dual.run(SQUARE, epsilon=1.0, max_steps=np.nan),
    "steps of several": lambda: dual.run(SQUARE, epsilon=1.0, max_steps=np.array([3, 4])),
    "potentials of another length": lambda: dual.gap(SQUARE, ZERO[:2], ZERO, epsilon=1.0),
    "a network with columns": lambda: dual.objective(lambda x: x, ZERO, SQUARE, SQUARE, epsilon=1.0),
    "potentials of another batch": lambda: dual.semi_objective(ZERO[:2], SQUARE, SQUARE, epsilon=1.0),
    "masked costs": lambda: dual.transform(np.ma.masked_equal(SQUARE, 2), ZERO, epsilon=1.0),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_meant_is_refused(name):
    with pytest.raises(ValueError, match="give"):
        WRONG[name]()


def test_other_byte_orders_are_read():
    cost, _, a, b, _ = problem()
    f, g = np.linspace(-1, 1, 8, dtype=np.float32), np.zeros(6, np.float32)
    expected = float(dual.dual_value(cost, f, g, a, b, epsilon=EPSILON))
    swapped = (of.astype(">f4") for of in (cost, f, g, a, b))
    assert float(dual.dual_value(*swapped, epsilon=EPSILON)) == expected
