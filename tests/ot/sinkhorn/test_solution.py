"""What a solve returns knows its problem: the plan cannot be asked for at another epsilon, or for other weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otgen as og

X = jax.random.normal(jax.random.key(0), (12, 2))
Y = jax.random.normal(jax.random.key(1), (15, 2)) + 1
A, B = np.arange(1.0, 13) / 78, np.arange(15.0, 0, -1) / 120
EPSILON = 0.3


@pytest.fixture(scope="module")
def solution():
    return og.sinkhorn.run(og.PairwiseCost(X, Y), A, B, epsilon=EPSILON, tol=1e-5)[0]


def test_read_outs_are_those_of_the_problem(solution):
    cost, state, given = og.PairwiseCost(X, Y), solution.state, {"epsilon": EPSILON}
    plan = np.asarray(og.sinkhorn.plan(cost, state, A, B, **given))
    np.testing.assert_allclose(solution.plan(), plan, rtol=1e-6)
    np.testing.assert_allclose(plan.sum(1), A, atol=1e-5)
    np.testing.assert_allclose(solution.marginals()[1], B, atol=1e-5)
    np.testing.assert_allclose(solution.primal_cost(), jnp.sum(plan * cost.matrix()), rtol=1e-5)
    np.testing.assert_allclose(solution.apply_plan(Y), plan @ np.asarray(Y), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(solution.apply_plan(X, axis=0), plan.T @ np.asarray(X), rtol=1e-4, atol=1e-6)
    pairs = solution.sample_plan(jax.random.key(2), num=20, pairing="iid")
    expected = og.sinkhorn.sample_plan(jax.random.key(2), cost, state, A, B, num=20, pairing="iid", **given)
    np.testing.assert_array_equal(pairs, expected)


def test_it_stands_where_potentials_do(solution):
    f, g = solution
    np.testing.assert_array_equal(f, solution.state.f)
    np.testing.assert_array_equal(g, solution[1])
    cost = og.PairwiseCost(X, Y)
    again, info = og.sinkhorn.run(cost, A, B, epsilon=EPSILON, tol=1e-4, state=solution)
    assert info.num_steps <= 2
    np.testing.assert_allclose(again.f, f, atol=1e-4)
    np.testing.assert_array_equal(
        og.sinkhorn.plan(cost, solution, A, B, epsilon=EPSILON), og.sinkhorn.plan(cost, (f, g), A, B, epsilon=EPSILON)
    )


def test_transformations_take_and_return_it(solution):
    np.testing.assert_allclose(jax.jit(lambda it: it.plan())(solution), solution.plan(), rtol=1e-6)
    epsilons = jnp.array([0.3, 1.0])
    many = jax.vmap(lambda e: og.sinkhorn.run(og.PairwiseCost(X, Y), A, B, epsilon=e, tol=1e-5)[0])(epsilons)
    costs = jax.vmap(lambda it: it.primal_cost())(many)
    np.testing.assert_allclose(costs[0], solution.primal_cost(), rtol=1e-4)
    assert costs[1] > costs[0]


def test_relaxed_marginals_are_those_of_the_plan():
    cost = og.PairwiseCost(X, Y)
    solution, _ = og.sinkhorn.run(cost, A, 2 * B, epsilon=EPSILON, tau_a=0.5, tau_b=0.5)
    rows, columns = solution.marginals()
    np.testing.assert_allclose(rows.sum(), columns.sum(), rtol=1e-5)
    assert abs(rows - A).sum() > 0.1
    np.testing.assert_allclose(solution.plan().sum(0), columns, rtol=1e-4)


def test_new_points_go_where_the_potential_says(solution):
    new = X[:5] + 0.3
    rows = jnp.exp((solution.g - jnp.sum((new[:, None] - Y) ** 2, -1)) / EPSILON) * B
    np.testing.assert_allclose(solution.potential(new), -EPSILON * jnp.log(rows.sum(1)), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(solution.transport(new), rows / rows.sum(1, keepdims=True) @ Y, rtol=1e-4)
    slope = jax.grad(lambda new: jnp.sum(solution.potential(new)))(new)
    np.testing.assert_allclose(solution.transport(new), new - slope / 2, rtol=1e-3, atol=1e-4)


def test_old_points_go_where_the_plan_takes_them(solution):
    plan = solution.plan()
    np.testing.assert_allclose(solution.transport(X), plan @ Y / A[:, None], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(solution.transport(Y, axis=0), plan.T @ X / B[:, None], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(solution.transport(X, Y[:, 0]), plan @ Y[:, 0] / A, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(solution.potential(Y, axis=0), solution.g, atol=1e-4)
    dense = og.sinkhorn.run(og.PairwiseCost(X, Y).matrix(), A, B, epsilon=EPSILON, tol=1e-5)[0]
    again = dense.transport(og.PairwiseCost(X[:3], Y), Y)
    np.testing.assert_allclose(again, solution.transport(X[:3]), rtol=1e-4)


def test_new_points_that_do_not_fit_are_refused(solution):
    dense = og.sinkhorn.run(og.PairwiseCost(X, Y).matrix(), A, B, epsilon=EPSILON)[0]
    for wrong in (
        lambda: solution.transport(X[:, :1]),
        lambda: solution.transport(X, X),
        lambda: solution.potential(X, axis=2),
        lambda: solution.potential(og.PairwiseCost(X, X)),
        lambda: dense.transport(X),
        lambda: dense.transport(og.PairwiseCost(X, Y)),
    ):
        with pytest.raises(ValueError, match=r"give|has|needed|axis|must"):
            wrong()
