"""Partial transport and pairing, and potentials on the line."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest

import otgen as og
from tests.support.clouds import clouds, matrix


@pytest.mark.parametrize("mass", [0.1, 0.5, 0.9])
def test_partial_plans_are_those_of_pot(mass, x64):
    x, y, a, b = clouds(12, 9, 2)
    costs, a = matrix(x, y), 1.3 * a
    expected = ot.partial.partial_wasserstein(a, b, costs, m=mass)
    found = og.exact.partial_plan(costs, a, b, mass=mass)
    np.testing.assert_allclose(found.value, np.sum(expected * costs), rtol=1e-6)
    np.testing.assert_allclose(found.plan.sum(), mass, rtol=1e-9)
    assert np.all(found.plan.sum(1) <= a + 1e-9)
    assert np.all(found.plan.sum(0) <= b + 1e-9)
    np.testing.assert_allclose(np.sum(found.plan * costs), found.value, rtol=1e-9)


def test_all_mass_is_transport_of_all(x64):
    x, y, a, b = clouds(8, 9, 2)
    costs = matrix(x, y)
    found, whole = og.exact.partial_plan(costs, a, b, mass=1.0), og.exact.plan(costs, a, b)
    np.testing.assert_allclose(found.value, whole.value, rtol=1e-9)
    slope = jax.jit(jax.grad(lambda costs: og.exact.partial_plan(costs, a, b, mass=0.4).value))(costs)
    np.testing.assert_allclose(slope, og.exact.partial_plan(costs, a, b, mass=0.4).plan, atol=1e-9)


@pytest.mark.parametrize("mass", [0.0, 1.1, np.inf])
def test_masses_that_cannot_be_moved_are_refused(mass):
    with pytest.raises(ValueError, match="mass"):
        og.exact.partial_plan(np.ones((3, 3)), mass=mass)
    if mass == 1.1:
        assert np.isnan(jax.jit(lambda mass: og.exact.partial_plan(np.ones((3, 3)), mass=mass).value)(mass))


@pytest.mark.parametrize("shape", [(5, 4), (3, 5)])
def test_partial_pairs_are_the_cheapest(shape):
    costs = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    (n, m), most = shape, min(shape)
    for num in range(1, most + 1):
        rows, columns = (list(itertools.combinations(range(side), num)) for side in (n, m))
        best = min(
            sum(costs[i, j] for i, j in zip(chosen, order, strict=True))
            for chosen in rows
            for others in columns
            for order in itertools.permutations(others)
        )
        found = og.exact.assignment(costs, num=num)
        kept = np.asarray(found.index) >= 0
        assert kept.sum() == num == len(set(np.asarray(found.index)[kept].tolist()))
        np.testing.assert_allclose(found.value, best / num, rtol=1e-5)
        np.testing.assert_allclose(costs[kept, np.asarray(found.index)[kept]].mean(), best / num, rtol=1e-5)
    traced = jax.jit(lambda costs: og.exact.assignment(costs, num=2))(costs)
    np.testing.assert_array_equal(traced.index, og.exact.assignment(costs, num=2).index)


def test_more_pairs_than_points_are_refused():
    with pytest.raises(ValueError, match=r"num = 3: a cost \(2, 4\) has at most 2 pairs"):
        og.exact.assignment(np.ones((2, 4)), num=3)
    forbidden = np.array([[0.0, np.inf], [np.inf, np.inf]])
    assert og.exact.assignment(forbidden, num=1).index.tolist() == [0, -1]
    with pytest.raises(ValueError, match="no matching of 2 pairs"):
        og.exact.assignment(forbidden, num=2)
    assert np.isposinf(jax.jit(og.exact.assignment)(forbidden).value)


@pytest.mark.parametrize("h", [jnp.square, jnp.abs, jnp.cosh], ids=["square", "abs", "cosh"])
@pytest.mark.parametrize("sizes", [(7, 7), (6, 11), (1, 5), (4, 1)], ids=str)
def test_potentials_on_the_line_prove_the_value(sizes, h, x64):
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=num) for num in sizes)
    for weighted in (False, True):
        a, b = (rng.dirichlet(np.ones(num)) if weighted else np.full(num, 1 / num) for num in sizes)
        if weighted and min(sizes) > 3:
            a[0], b[-1] = 0, 0
            a, b = a / a.sum(), b / b.sum()
        f, g = og.exact.potentials_line(x, y, a, b, h=h)
        assert np.all(f[:, None] + g <= h(x[:, None] - y) + 1e-9)
        np.testing.assert_allclose(a @ f + b @ g, og.exact.value_line(x, y, a, b, h=h), rtol=1e-9)
        assert abs(a @ f) < 1e-12
