"""Plans of low rank against matrices, conditions of a stationary point, finite differences and drawn frequencies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otgen as og
from otgen.ot.sinkhorn.low_rank.solver import projected

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3))
Y = RNG.normal(size=(50, 3)) + RNG.integers(0, 2, size=(50, 1)) * np.array([4.0, 0.0, 1.0])
A, B = (RNG.dirichlet(np.full(num, 5.0)) for num in (60, 50))
A[7] = 0.0
A /= A.sum()


@pytest.fixture(scope="module")
def solved():
    """A run to a small error, in double precision."""
    with jax.enable_x64(True):
        cost = og.PairwiseCost(X, Y)
        return og.low_rank.run(KEY, cost, A, B, rank=4, epsilon=0.3, tol=1e-9, max_steps=20_000)


def objective(cost, solution):
    """<C, P> + epsilon (KL(Q | a g') + KL(R | b g')), from matrices."""
    g = solution.g / jnp.sum(solution.g)
    entropy = sum(
        jnp.sum(jax.scipy.special.xlogy(part, part)) - jnp.sum(jax.scipy.special.xlogy(part, jnp.outer(mass, g)))
        for part, mass in ((solution.q, solution.a), (solution.r, solution.b))
    )
    return jnp.sum(solution.plan() * cost.matrix()) + solution.epsilon * entropy


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("cost", [og.PairwiseCost(X, Y), og.PairwiseCost(X, Y, og.distances.Euclidean(), block=200)])
def test_a_cost_times_vectors_is_its_matrix_times_them(cost, axis):
    vectors = RNG.normal(size=(cost.shape[axis], 2))
    matrix = np.asarray(cost.matrix(), np.float64)
    expected = (matrix if axis == 1 else matrix.T) @ vectors
    for ours in (cost, og.DenseCost(matrix)):
        np.testing.assert_allclose(ours.times(vectors, axis=axis), expected, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(ours.times(vectors[:, 0], axis=axis), expected[:, 0], rtol=1e-5, atol=1e-4)


def test_marginals_are_met_and_what_is_said_of_the_plan_is_true_of_its_matrix(solved):
    solution, info = solved
    with jax.enable_x64(True):
        plan = np.asarray(solution.plan())
        assert info.status == og.Status.CONVERGED
        assert np.abs(plan.sum(1) - A).sum() + np.abs(plan.sum(0) - B).sum() < 1e-8
        for ours, matrix in zip(solution.marginals(), (plan.sum(1), plan.sum(0)), strict=True):
            np.testing.assert_allclose(ours, matrix, atol=1e-12)
        np.testing.assert_allclose(info.primal_cost, (plan * solution.cost.matrix()).sum(), rtol=1e-9)
        np.testing.assert_allclose(solution.apply_plan(Y), plan @ Y, atol=1e-12)
        np.testing.assert_allclose(solution.apply_plan(X[:, 0], axis=0), plan.T @ X[:, 0], atol=1e-12)
        np.testing.assert_allclose(solution.q.sum(0), solution.g, atol=1e-9)
        np.testing.assert_allclose(solution.r.sum(0), solution.g, atol=1e-9)


def test_a_run_ends_at_a_stationary_point(solved):
    """The slope in Q, in R and in g is a sum of multipliers: f_i + h_k, f'_j + h'_k, and -h_k - h'_k."""
    solution, _ = solved
    with jax.enable_x64(True):
        q, r, g = solution.q, solution.r, solution.g
        matrix, live = solution.cost.matrix(), A > 0
        of_q = (matrix @ (r / g) + 0.3 * jnp.log(q / g))[live]
        of_r = matrix.T @ (q / g) + 0.3 * jnp.log(r / g)
        of_g = -jnp.sum(q * (matrix @ r), 0) / g**2 - 2 * 0.3
        within = [it - it.mean(0) - it.mean(1, keepdims=True) + it.mean() for it in (of_q, of_r)]
        assert max(float(jnp.abs(it).max()) for it in within) < 1e-5
        h = sum(it.mean(0) - it.mean() for it in (of_q, of_r))
        np.testing.assert_allclose(of_g - of_g.mean(), -h, atol=1e-5)


def test_no_change_of_the_factors_that_keeps_the_constraints_is_better(solved):
    solution, _ = solved
    with jax.enable_x64(True):
        least = objective(solution.cost, solution)
        project = jax.jit(projected)
        for k in range(20):
            q, r, g, h = solution.state
            noise = [
                1e-2 * jax.random.normal(key, it.shape)
                for key, it in zip(jax.random.split(jax.random.key(k)), (q, r), strict=True)
            ]
            state = og.low_rank.State(q + noise[0], r + noise[1], g, h)
            for _ in range(200):
                state = project(*state[:3], jnp.zeros_like(h), jnp.asarray(A), jnp.asarray(B))
            moved = og.low_rank.Solution(state, solution.cost, solution.a, solution.b, solution.epsilon)
            assert objective(solution.cost, moved) > least - 1e-7


def test_derivatives_are_those_of_the_objective(solved):
    solution, _ = solved
    with jax.enable_x64(True):
        direction = RNG.normal(size=X.shape)

        def at(t):
            cost = og.PairwiseCost(X + t * direction, Y)
            found, _ = og.low_rank.run(
                KEY, cost, A, B, rank=4, epsilon=0.3, tol=1e-10, max_steps=20_000, state=solution.state
            )
            return cost, found

        h = 1e-4
        slope = (objective(*at(h)) - objective(*at(-h))) / (2 * h)
        ours = jax.grad(lambda t: at(t)[1].primal_cost())(0.0)
        np.testing.assert_allclose(ours, slope, rtol=1e-4)  # stationary to 1e-5, see above


def test_clusters_go_to_clusters():
    centres = 10.0 * jax.random.normal(KEY, (5, 4))
    x = jnp.repeat(centres, 20, 0) + 0.1 * jax.random.normal(jax.random.key(1), (100, 4))
    y = jnp.repeat(centres[::-1] + 1.0, 20, 0) + 0.1 * jax.random.normal(jax.random.key(2), (100, 4))
    cost = og.PairwiseCost(x, y)
    best = og.exact.plan(cost).value
    found = [og.low_rank.run(jax.random.key(k), cost, rank=5, epsilon=0.01 * cost.mean())[1] for k in range(3)]
    assert all(info.status == og.Status.CONVERGED for info in found)
    assert all(info.primal_cost > 0.98 * best for info in found)
    assert min(float(info.primal_cost) for info in found) < 1.2 * best
    assert best < 0.2 * cost.mean()


def test_more_parts_come_nearer_to_the_exact_plan():
    cost = og.PairwiseCost(X.astype(np.float32), Y.astype(np.float32))
    found = [float(og.low_rank.run(KEY, cost, rank=rank, epsilon=0.05)[1].primal_cost) for rank in (1, 3, 10, 30)]
    np.testing.assert_allclose(found[0], cost.mean(), rtol=1e-5)
    assert found == sorted(found, reverse=True)
    assert found[-1] > 0.99 * og.exact.plan(cost).value


def test_a_shift_of_both_clouds_changes_nothing():
    found = [
        og.low_rank.run(KEY, og.PairwiseCost(X + shift, Y + shift), rank=3, epsilon=0.3, tol=1e-4)[1].primal_cost
        for shift in (0.0, 100.0)
    ]
    np.testing.assert_allclose(*found, rtol=1e-3)


def test_a_run_goes_on_from_where_another_ended():
    cost = og.PairwiseCost(X, Y)
    first, info = og.low_rank.run(KEY, cost, A, B, rank=4, epsilon=0.3, tol=1e-6, max_steps=20)
    assert info.status == og.Status.MAX_STEPS
    again, more = og.low_rank.run(KEY, cost, A, B, rank=4, epsilon=0.3, tol=1e-6, max_steps=15, state=first.state)
    at_once, _ = og.low_rank.run(KEY, cost, A, B, rank=4, epsilon=0.3, tol=1e-6, max_steps=35)
    assert more.num_steps == 15
    np.testing.assert_allclose(again.q, at_once.q, atol=1e-5)


def test_pairs_are_drawn_as_the_plan_says(solved):
    solution, _ = solved
    num = 20_000
    with jax.enable_x64(True):
        i, j = solution.sample_plan(jax.random.key(3), num=num)
        counts = np.zeros((60, 50))
        np.add.at(counts, (np.asarray(i), np.asarray(j)), 1)
        plan = np.asarray(solution.plan())
    # source points with the least spread, and given them target points from rows of the plan
    assert np.abs(counts.sum(1) - num * A).max() <= 1 + 1e-6
    expected = counts.sum(1, keepdims=True) * plan / np.maximum(plan.sum(1, keepdims=True), 1e-300)
    seen, wanted = counts.sum(0), expected.sum(0)
    assert np.abs((seen - wanted) / np.sqrt(wanted)).max() < 5
    large = expected > 5
    chi2 = ((counts - expected) ** 2 / np.where(large, expected, 1))[large].sum()
    assert abs(chi2 - large.sum()) < 6 * np.sqrt(2 * large.sum())


def test_uniform_points_are_drawn_once():
    solution, _ = og.low_rank.run(KEY, og.PairwiseCost(X, Y), rank=3, epsilon=0.3)
    i, j = solution.sample_plan(KEY)
    np.testing.assert_array_equal(i, np.arange(60))
    assert set(np.unique(j)) <= set(range(50))


def test_parts_differ_where_points_are_equal():
    """Parts that start alike stay alike, and a run at such a saddle says that it is done."""
    x = np.repeat([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]], 40, 0)
    cost = og.PairwiseCost(x, x[::-1] + 1.0)
    _, info = og.low_rank.run(KEY, cost, rank=6, epsilon=0.05)
    assert info.primal_cost < 1.05 * og.exact.plan(cost).value
    q = og.low_rank.init(KEY, cost, rank=6).q
    assert min(float(jnp.abs(q[:, i] - q[:, j]).max()) for i in range(6) for j in range(i)) > 0.01


def test_vmap_over_temperatures():
    cost = og.PairwiseCost(X, Y)
    run = lambda epsilon: og.low_rank.run(KEY, cost, rank=3, epsilon=epsilon, max_steps=50)[1].primal_cost  # noqa: E731
    together = jax.vmap(run)(jnp.array([0.2, 1.0]))
    np.testing.assert_allclose(together, [run(0.2), run(1.0)], rtol=1e-5)


def test_what_cannot_be_is_refused():
    cost = og.PairwiseCost(X, Y)
    with pytest.raises(ValueError, match="at most"):
        og.low_rank.run(KEY, cost, rank=51, epsilon=0.1)
    with pytest.raises(ValueError, match="infinite"):
        og.low_rank.run(KEY, jnp.array([[0.0, jnp.inf], [1.0, 0.0]]), rank=1, epsilon=0.1)
    with pytest.raises(ValueError, match="needs"):
        og.low_rank.run(KEY, cost, rank=3, epsilon=0.1, state=og.low_rank.init(KEY, cost.matrix().T, rank=3))
    with pytest.raises(ValueError, match="summing over"):
        cost.times(np.ones(60))
