"""Exact transport at the edges: forbidden pairs, huge costs, rectangles, points of weight zero, unusual arrays."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from scipy.optimize import linear_sum_assignment

import otgen as og
from otgen.ot import exact
from tests.support.linear_program import transport

NUM = 12


@functools.cache
def forbidding(seed=0):
    """Costs, forbidden pairs, weights that some plan without them has, and the optimum among those."""
    random = np.random.default_rng(seed)
    cost, banned = random.uniform(size=(NUM, NUM)).astype(np.float32), random.uniform(size=(NUM, NUM)) < 0.5
    np.fill_diagonal(banned, False)
    mass = np.where(banned, 0, random.exponential(size=(NUM, NUM)))
    a, b = mass.sum(1) / mass.sum(), mass.sum(0) / mass.sum()
    a, b = (np.float64(of.astype(np.float32)) for of in (a, b))
    best, _ = transport(np.where(banned, np.inf, cost), a / a.sum(), b / b.sum())
    return cost, banned, a.astype(np.float32), b.astype(np.float32), best


@pytest.mark.parametrize("large", [1e5, 1e9, 1e12, np.inf], ids=str)
def test_pairs_of_huge_cost_are_left_out(large):
    cost, banned, a, b, best = forbidding()
    costs = np.where(banned, large, cost).astype(np.float32)
    found = exact.plan(costs, a, b)
    assert float(found.value) == pytest.approx(np.sum(best * cost), rel=1e-6)
    np.testing.assert_allclose(found.plan, best, atol=1e-6)
    f, g = np.float64(found.f), np.float64(found.g)
    assert (f[:, None] + g - costs).max() < 1e-6
    assert a @ f + b @ g == pytest.approx(float(found.value), rel=1e-5)
    matched = exact.assignment(costs)
    expected = linear_sum_assignment(np.where(banned, 1e3, cost.astype(np.float64)))[1]
    np.testing.assert_array_equal(matched.index, expected)
    f, g = exact.potentials(costs, matched.index)
    assert (np.float64(f)[:, None] + g - costs).max() < 1e-6
    assert float(f.mean() + g.mean()) == pytest.approx(float(matched.value), rel=1e-5)


@pytest.mark.parametrize("large", [1e9, np.inf], ids=str)
def test_classes_that_must_not_mix_are_matched_apart_although_weights_are_rounded(large):
    cost = forbidding()[0]
    label = np.arange(NUM) % 3
    costs = np.where(label[:, None] == label, cost, large).astype(np.float32)
    random = np.random.default_rng(1)
    a, b = random.dirichlet(np.ones(NUM)), random.dirichlet(np.ones(NUM))
    for of in range(3):  # of equal mass in both, but for the rounding to float32
        a[label == of] /= 3 * a[label == of].sum()
        b[label == of] /= 3 * b[label == of].sum()
    apart = sum(
        transport(cost[np.ix_(kept, kept)].astype(np.float64), 3 * a[kept], 3 * b[kept])[1] / 3
        for kept in (label == of for of in range(3))
    )
    found = exact.plan(costs, a.astype(np.float32), b.astype(np.float32))
    assert float(found.value) == pytest.approx(apart, rel=2e-6)


def test_mass_that_has_to_pay_a_huge_cost_pays_it():
    costs, half = np.array([[0.0, 1e9], [1e9, 1.0]], np.float32), np.array([0.75, 0.25], np.float32)
    assert float(exact.plan(costs, half).value) == pytest.approx(0.25e9 + 0.25, rel=1e-6)
    shifted = costs + np.array([[1e9], [0]], np.float32)  # what is common to a row changes no plan
    np.testing.assert_allclose(exact.plan(shifted).plan, np.eye(2) / 2, atol=1e-7)


def test_problems_without_a_legal_plan_say_so():
    costs = np.array([[0.0, np.inf, np.inf], [1.0, np.inf, np.inf], [0.0, 1.0, 2.0]], np.float32)
    for solve in (exact.plan, exact.assignment):
        with pytest.raises(ValueError, match="avoids the forbidden pairs"):
            solve(costs)
        found = jax.jit(solve)(costs)
        assert float(found.value) == np.inf
    assert np.isnan(jax.jit(exact.plan)(costs).plan).all()
    np.testing.assert_array_equal(jax.jit(exact.assignment)(costs).index, [-1, -1, -1])
    with pytest.raises(ValueError, match="avoids the forbidden pairs"):
        exact.plan(np.full((2, 2), np.inf))
    for illegal in (np.nan, -np.inf):
        off_diagonal = costs.copy()
        off_diagonal[0, 1] = illegal  # of three rows the diagonal was looked at
        assert np.isnan(float(jax.jit(exact.assignment)(off_diagonal).value))
        assert np.isnan(float(jax.jit(exact.plan)(off_diagonal).value))
        with pytest.raises(ValueError, match="NaN or infinite"):
            exact.assignment(off_diagonal)


@pytest.mark.parametrize("shape", [(NUM, 5), (5, NUM)], ids=str)
def test_rectangular_assignments_match_the_smaller_side(shape):
    costs = forbidding()[0][: shape[0], : shape[1]]
    rows, columns = linear_sum_assignment(costs)
    for solve in (exact.assignment, jax.jit(exact.assignment)):
        index, value = (np.asarray(of) for of in solve(costs))
        np.testing.assert_array_equal(index[rows], columns)
        assert (index >= 0).sum() == 5
        assert (np.delete(index, rows) == -1).all()
        assert float(value) == pytest.approx(costs[rows, columns].mean(), rel=1e-6)
    slope = np.zeros(shape)
    slope[rows, columns] = 1 / 5
    np.testing.assert_allclose(jax.grad(lambda cost: exact.assignment(cost).value)(costs), slope, rtol=1e-6)


@pytest.mark.parametrize("rubbish", [0.0, 1e9, 1e30, np.inf, np.nan], ids=str)
def test_points_of_weight_zero_are_inert(rubbish):
    cost, banned, a, b, _ = forbidding()
    costs = np.where(banned, np.inf, cost)
    rows, columns = np.r_[2, 0:NUM, 5], np.r_[0:NUM, 7]  # two rows and a column more
    padded, a0, b0 = costs[np.ix_(rows, columns)], a[rows], b[columns]
    padded[[0, -1]], padded[:, -1], a0[[0, -1]], b0[-1] = rubbish, rubbish, 0, 0
    kept = np.ix_(range(1, NUM + 1), range(NUM))
    alone, within = exact.plan(costs, a, b), jax.jit(exact.plan)(padded, a0, b0)
    np.testing.assert_array_equal(within.plan[kept], alone.plan)
    assert float(within.plan.sum()) == pytest.approx(float(alone.plan.sum()))
    np.testing.assert_array_equal(within.f[1:-1], alone.f)
    np.testing.assert_array_equal(within.g[:-1], alone.g)
    assert float(within.value) == float(alone.value)
    assert np.isfinite(within.f).all()
    assert np.isfinite(within.g).all()
    slopes = jax.jit(jax.grad(lambda *of: exact.plan(*of).value, (0, 1, 2)))(padded, a0, b0)
    assert all(np.isfinite(of).all() for of in slopes)
    np.testing.assert_array_equal(slopes[0][kept], alone.plan)


@pytest.mark.parametrize("rubbish", [1e30, -1e30, np.nan], ids=str)
def test_points_of_weight_zero_are_inert_on_the_line(rubbish):
    random = np.random.default_rng(3)
    x, y, a = random.normal(size=6), random.normal(size=6), random.dirichlet(np.ones(6))
    b = np.full(6, 1 / 6)
    padded = [np.r_[x[:3], rubbish, x[3:], rubbish], np.r_[rubbish, y, rubbish]]
    weights = [np.r_[a[:3], 0, a[3:], 0], np.r_[0, b, 0]]
    arguments = [of.astype(np.float32) for of in (*padded, *weights)]
    expected = ot.emd2_1d(x, y, a, b)
    assert float(jax.jit(exact.value_line)(*arguments)) == pytest.approx(expected, rel=1e-6)
    i, j, _ = jax.jit(exact.coupling_line)(*arguments)
    assert not np.isin(i, [3, 7]).any()
    assert not np.isin(j, [0, 7]).any()
    slopes = jax.jit(jax.grad(exact.value_line, (0, 1, 2, 3)))(*arguments)
    assert all(np.isfinite(of).all() for of in slopes)
    assert float(slopes[0][3]) == float(slopes[1][0]) == 0


def test_an_assignment_inside_jit_sees_every_digit(x64):
    costs = 1 + 1e-12 * np.random.default_rng(0).uniform(size=(NUM, NUM))
    np.testing.assert_array_equal(jax.jit(exact.assignment)(costs).index, linear_sum_assignment(costs)[1])


def test_arrays_of_other_byte_orders_and_types():
    cost = forbidding()[0]
    expected = float(exact.plan(cost).value)
    assert float(exact.plan(cost.astype(">f4")).value) == expected
    assert float(exact.plan(jnp.asarray(cost, jnp.bfloat16)).value) == pytest.approx(expected, rel=0.02)
    big = np.array([2, 0, 1], ">i4")
    assert float(exact.value_line(big, np.array([0, 1, 3], ">f8"))) == pytest.approx(1 / 3, rel=1e-6)
    with pytest.raises(ValueError, match="masked array"):
        exact.plan(np.ma.masked_equal(cost, cost[0, 0]))


WRONG = {
    "a vector of costs": lambda: exact.plan(np.ones(3)),
    "no columns": lambda: exact.assignment(np.ones((3, 0))),
    "complex costs": lambda: exact.assignment(np.ones((2, 2), complex)),
    "weights of another length": lambda: exact.plan(np.ones((2, 2)), np.ones(3) / 3),
    "points in the plane": lambda: exact.coupling_line(np.ones((3, 2)), np.ones(3)),
    "infinite points": lambda: exact.value_line(np.array([np.inf]), np.ones(3)),
    "an index of floats": lambda: exact.potentials(np.eye(2), np.array([0.0, 1.0])),
    "an index of another length": lambda: jax.jit(exact.potentials)(np.eye(2), np.array([0, 1, 2])),
    "an index of a rectangle": lambda: exact.potentials(np.ones((2, 3)), np.array([0, 1])),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_meant_is_refused(name):
    with pytest.raises(ValueError, match=r"give|need|at least|remove"):
        WRONG[name]()


def test_a_matrix_with_forbidden_pairs_is_a_cost():
    assert og.DenseCost(np.array([[0.0, np.inf]])).shape == (1, 2)
    with pytest.raises(ValueError, match="1 NaN or infinite"):
        og.DenseCost(np.array([[0.0, np.nan, np.inf]]))
