"""Transport of a cloud to itself, by one potential."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otgen as og
from otgen.ot.sinkhorn import solver
from otgen.types import Status
from tests.support.clouds import clouds

FIXED = {"max_steps": 500, "state": None, "dense": None, "return_info": False}
COSTS = {"squared": None, "euclidean": og.distances.Euclidean(), "cosine": og.distances.Cosine()}


def own(x, a, epsilon, tol, cost_fn=None, **options):
    return solver.own_value(og.PairwiseCost(x, x, cost_fn), a, epsilon=epsilon, tol=tol, **{**FIXED, **options})


def general(x, a, epsilon, tol, cost_fn=None):
    return og.sinkhorn.value(og.PairwiseCost(x, x, cost_fn), a, a, epsilon=epsilon, tol=tol)


@pytest.mark.slow
@pytest.mark.parametrize("cost_fn", COSTS.values(), ids=COSTS)
def test_one_potential_gives_the_value_and_the_gradients_of_two(cost_fn, x64):
    x, _, a, _ = clouds(20, 15, 3)
    x, a = jnp.asarray(x), jnp.asarray(a).at[0].set(0.0)
    a = a / jnp.sum(a)
    x = x.at[0].set(1e3)  # padding, which nobody sees
    for epsilon in (0.003, 1.0):
        given = (x, a, epsilon, 1e-11, cost_fn)
        one, two = (jax.jit(jax.value_and_grad(it, (0, 1)), static_argnums=4)(*given) for it in (own, general))
        np.testing.assert_allclose(one[0], two[0], rtol=1e-9)
        np.testing.assert_allclose(one[1][0], two[1][0], atol=1e-8)
        slopes = [slope - a @ slope for slope in (one[1][1], two[1][1])]  # known up to a constant
        np.testing.assert_allclose(*slopes, atol=1e-8)


@pytest.mark.parametrize("dense", [None, pytest.param(False, marks=pytest.mark.slow)])
def test_it_takes_a_few_products_at_any_temperature(dense):
    x = jax.random.normal(jax.random.key(0), (200, 2))
    for epsilon in (1e-3, 0.1, 100.0):
        _, info, _ = own(x, None, epsilon, 1e-4, dense=dense, return_info=True)
        assert info.status == Status.CONVERGED
        assert info.error < 1e-4  # recomputed from both marginals
        assert info.num_steps <= 4
    _, info, _ = own(x, None, 0.1, 1e-4, max_steps=1, dense=dense, return_info=True)
    assert info.status == Status.MAX_STEPS
    assert own(x, None, 0.1, 1e-12, dense=dense, return_info=True)[1].status == Status.STALLED
    far = jnp.full(200, 1 - 1e-12).at[0].set(1e-12) / 199, x.at[0].set(1e4)
    assert own(far[1], far[0], 0.1, 1e-4, dense=dense, return_info=True)[1].status == Status.CONVERGED


@pytest.mark.slow
def test_second_derivatives_of_one_potential_are_those_of_two(x64):
    x, _, a, _ = clouds(12, 12, 2)
    one, two = (jax.hessian(it)(jnp.asarray(x), a, 0.5, 1e-12) for it in (own, general))
    np.testing.assert_allclose(one, two, atol=1e-7)


def test_costs_know_whether_they_are_of_negative_type():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(30, 3)), jnp.float32)
    w = rng.normal(size=(200, 30))
    w -= w.mean(1, keepdims=True)
    norms = og.distances.PNorm(1.0), og.distances.PNorm(1.5), og.distances.PNorm(2.0)
    scaled = og.distances.Scaled(jnp.array([1.0, 2.0, -3.0]), og.distances.Euclidean())
    for cost_fn in (og.distances.SqEuclidean(), og.distances.Euclidean(), og.distances.Cosine(), scaled, *norms):
        assert cost_fn.negative_type
        costs = np.asarray(cost_fn.pairwise(x, x), np.float64)
        assert (np.einsum("ki,ij,kj->k", w, costs, w) < 1e-4).all()
    assert not og.distances.PNorm(3.0).negative_type
    assert not og.distances.as_cost_fn(lambda x, y: jnp.sum((x - y) ** 4)).negative_type
