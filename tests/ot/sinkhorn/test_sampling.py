"""Plans applied to vectors and pairs drawn from plans."""

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest

import otgen as og
from otgen import sizes
from otgen.ot.sinkhorn import sampling
from tests.support.clouds import clouds, matrix


@pytest.mark.slow
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


@pytest.mark.slow
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


def in_turn(key, cost, g, epsilon):
    """Partners drawn without replacement one after the other, as a loop."""
    n = len(g)
    order_key, draw_key = jax.random.split(key)
    scores = (g - cost.matrix()) / epsilon
    noise = jax.vmap(lambda i: jax.random.gumbel(jax.random.fold_in(draw_key, i), (n,)))(jnp.arange(n))
    scores, partner = np.array(scores + noise), np.zeros(n, int)
    for i in np.asarray(jax.random.permutation(order_key, n)):
        partner[i] = scores[i].argmax()
        scores[:, partner[i]] = -np.inf
    return partner


@pytest.mark.parametrize("block", [2**20, 50 * 7])
def test_a_permutation_starts_as_if_points_chose_in_turn(block, monkeypatch):
    """Whether all choose at a time or seven, of which the last block is one."""
    monkeypatch.setattr(sizes, "CPU", sizes.CPU._replace(block=block))
    x, y, _, _ = clouds(50, 50, 2)
    key, cost, g = jax.random.key(block), og.PairwiseCost(x, y), jnp.zeros(50)
    chosen = sampling._without_replacement(key, cost, g, jnp.float32(0.1))
    np.testing.assert_array_equal(chosen, in_turn(key, cost, g, 0.1))


def test_every_point_once_when_there_are_many():
    x, y, _, _ = clouds(50000, 3, 2)
    cost = og.PairwiseCost(x, y)
    i, _ = og.sinkhorn.sample_plan(jax.random.key(0), cost, og.sinkhorn.init(cost), epsilon=1.0, pairing="stratified")
    assert np.array_equal(np.sort(i), np.arange(50000))


@pytest.mark.parametrize("pairing", ["permutation", "stratified", "iid"])
def test_pairs_in_many_dimensions_need_little_memory(pairing):
    n, d = 5000, 128
    points = jax.ShapeDtypeStruct((n, d), jnp.float32)

    def pairs(key, x, y):
        cost = og.PairwiseCost(x, y)
        return og.sinkhorn.sample_plan(key, cost, og.sinkhorn.init(cost), epsilon=1.0, pairing=pairing)

    compiled = jax.jit(pairs).lower(jax.random.key(0), points, points).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 40 * 2**20  # n x n is 95 MiB, n x n x d is 12 GiB
