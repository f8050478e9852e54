"""Ground costs: values and gradients against loops in float64, streaming, centring, bad input, OTT both ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

import otgen as og
from otgen.ot.costs.distances import Cosine, Euclidean, PNorm, Scaled, SqEuclidean

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(23, 3)), RNG.normal(size=(17, 3))


def manhattan(x, y):
    return jnp.sum(jnp.abs(x - y))


PAIRS = {
    "sq_euclidean": (SqEuclidean(), lambda x, y: ((x - y) ** 2).sum()),
    "euclidean": (Euclidean(), lambda x, y: np.linalg.norm(x - y)),
    "p_norm": (PNorm(3.0), lambda x, y: (abs(x - y) ** 3).sum() ** (1 / 3)),
    "cosine": (Cosine(), lambda x, y: 1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y)),
    "scaled": (Scaled(jnp.asarray([1.0, 2.0, 0.5])), lambda x, y: (((x - y) * [1, 2, 0.5]) ** 2).sum()),
    "function": (manhattan, lambda x, y: abs(x - y).sum()),
}


def loop(function, x=X, y=Y):
    return np.array([[function(xi, yj) for yj in y] for xi in x])


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("block", [2**20, 40])
def test_costs_equal_a_loop(name, block):
    cost_fn, expected = PAIRS[name]
    cost = og.PairwiseCost(X, Y, cost_fn, block=block)
    np.testing.assert_allclose(cost.matrix(), loop(expected), rtol=2e-5, atol=2e-6)
    transposed = cost.map_blocks(lambda part: part.T, axis=0)
    np.testing.assert_allclose(transposed, loop(expected).T, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(cost.mean(), loop(expected).mean(), rtol=1e-5)


@pytest.mark.parametrize("dim", [3, 20])
def test_many_dimensions_take_the_product_form(dim):
    x, y = RNG.normal(size=(8, dim)), RNG.normal(size=(9, dim))
    np.testing.assert_allclose(
        og.PairwiseCost(x, y).matrix(), loop(lambda x, y: ((x - y) ** 2).sum(), x, y), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("block", [2**20, 40])
def test_softmin_streams_forwards_and_backwards(axis, block):
    matrix = loop(PAIRS["sq_euclidean"][1])
    potential = RNG.normal(size=matrix.shape[axis])
    weights = RNG.dirichlet(np.ones(matrix.shape[axis]))
    weights[2] = 0
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights)
    shape = potential if axis == 1 else potential[:, None]
    logs = log_weights if axis == 1 else log_weights[:, None]
    expected = -0.1 * logsumexp((shape - matrix) / 0.1 + logs, axis=axis)

    def softmin(x, y, potential):
        return og.PairwiseCost(x, y, block=block).softmin(0.1, potential, log_weights, axis=axis)

    np.testing.assert_allclose(softmin(X, Y, potential), expected, rtol=1e-5, atol=1e-5)
    dense = og.DenseCost(matrix).softmin(0.1, potential, log_weights, axis=axis)
    np.testing.assert_allclose(dense, expected, rtol=1e-5, atol=1e-5)

    # the derivative of a softmin is an average with the weights of its softmax
    plan = np.exp((shape - matrix + (expected[:, None] if axis == 1 else expected)) / 0.1 + logs)
    gx, gp = jax.jit(jax.grad(lambda x, p: softmin(x, Y, p).sum(), (0, 1)))(X, potential)
    np.testing.assert_allclose(gp, -plan.sum(1 - axis), rtol=1e-4, atol=1e-5)
    difference = 2 * (X[:, None] - Y)
    np.testing.assert_allclose(gx, (plan[..., None] * difference).sum(1), rtol=1e-3, atol=1e-4)


def test_a_softmin_over_nothing_is_infinite_with_zero_gradient():
    nothing = jnp.full(17, -jnp.inf)
    cost = og.PairwiseCost(X, Y)
    assert np.isposinf(cost.softmin(0.1, jnp.zeros(17), nothing)).all()
    weights = jnp.zeros(17).at[3].set(-jnp.inf)
    gradient = jax.grad(lambda g: cost.softmin(0.1, g, weights).sum())(jnp.zeros(17))
    assert gradient[3] == 0
    assert np.isfinite(gradient).all()


def test_a_shift_of_both_clouds_changes_nothing():
    dyadic_x, dyadic_y = np.round(X * 64) / 64, np.round(Y * 64) / 64  # exact in float32 after the shift too
    here, there = og.PairwiseCost(dyadic_x, dyadic_y), og.PairwiseCost(dyadic_x + 1000, dyadic_y + 1000)
    np.testing.assert_allclose(there.matrix(), here.matrix(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cost_fn", [SqEuclidean(), Euclidean(), PNorm(3.0), Cosine()])
def test_coincident_points_have_finite_gradients(cost_fn):
    x = np.asarray([[0.0, 0.0], [1.0, 2.0]], np.float32)
    gradient = jax.jit(jax.grad(lambda x: og.PairwiseCost(x, x, cost_fn).matrix().sum()))(x)
    assert np.isfinite(gradient).all()


def test_scales_are_learned():
    def mean(scales):
        return og.PairwiseCost(X, Y, Scaled(scales)).mean()

    gradient = jax.jit(jax.grad(mean))(np.ones(3, np.float32))
    expected = 2 * ((X[:, None] - Y) ** 2).mean((0, 1))
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


def test_costs_are_pytrees():
    cost = og.PairwiseCost(X, Y, block=50)
    leaves, tree = jax.tree.flatten(cost)
    again = jax.tree.unflatten(tree, leaves)
    assert again.block == 50
    assert again.cost_fn == cost.cost_fn
    assert len(leaves) == 2
    assert jax.vmap(lambda x: og.PairwiseCost(x, Y).mean())(jnp.stack([X, X + 1])).shape == (2,)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="3 columns and y 2"):
        og.PairwiseCost(X, Y[:, :2])
    with pytest.raises(ValueError, match="NaN or infinite"):
        og.PairwiseCost(np.where(X > 1, np.nan, X), Y)
    with pytest.raises(ValueError, match="column"):
        og.PairwiseCost(X[:, 0], Y)
    with pytest.raises(ValueError, match="at least 1"):
        og.PairwiseCost(X[:0], Y)
    with pytest.raises(ValueError, match="at least one point"):
        og.DenseCost(np.zeros((3, 0)))
    with pytest.raises(ValueError, match="NaN or infinite"):
        og.DenseCost(np.full((2, 2), -np.inf))
    with pytest.raises(ValueError, match="function of two vectors"):
        og.PairwiseCost(X, Y, "euclidean")
    with pytest.raises(ValueError, match="17 points on axis 1"):
        og.PairwiseCost(X, Y).softmin(0.1, jnp.zeros(3))
    with pytest.raises(ValueError, match=r"p = 0\.5"):
        PNorm(0.5)


@pytest.mark.filterwarnings("ignore")
def test_geometries_of_ott_go_both_ways(product_bits):
    if product_bits:
        pytest.skip("OTT-JAX multiplies at the default precision")
    from ott.geometry import costs, geometry, pointcloud

    x, y = jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.float32)
    for theirs in (costs.SqEuclidean(), costs.Euclidean(), costs.Cosine(), costs.PNormP(1.5)):
        cloud = pointcloud.PointCloud(x, y, cost_fn=theirs)
        np.testing.assert_allclose(og.from_ott(cloud).matrix(), cloud.cost_matrix, rtol=1e-4, atol=1e-5)
    scaled = pointcloud.PointCloud(x, y, scale_cost="mean")
    np.testing.assert_allclose(og.from_ott(scaled).matrix(), scaled.cost_matrix, rtol=1e-5)
    dense = geometry.Geometry(cost_matrix=scaled.cost_matrix)
    np.testing.assert_allclose(og.from_ott(dense).matrix(), scaled.cost_matrix)
    for cost in (og.PairwiseCost(x, y), og.PairwiseCost(x, y, PNorm(3.0)), og.DenseCost(X @ Y.T)):
        np.testing.assert_allclose(og.to_ott(cost, 0.1).cost_matrix, cost.matrix(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="give an ott"):
        og.from_ott(X)
