import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from otgen.ot.semidiscrete import scores
from otgen.ot.semidiscrete.scores import top_scores
from otgen.sizes import CPU


@pytest.mark.parametrize(
    ("num_points", "num_samples", "k"),  # each pair of values once: one block or several, none full or all, one winner
    [
        (3, 1, 1),
        (3, 500, 3),
        (3, 4097, 20),
        (32, 1, 3),
        (32, 500, 20),
        (32, 4097, 1),
        (1025, 1, 20),
        (1025, 500, 1),
        (1025, 4097, 3),
    ],
)
def test_top_scores_equal_the_dense_ones(num_points, num_samples, k):
    k = min(k, num_points)
    x, y, h = clouds(num_samples, num_points, 5)
    dense = x.astype(np.float64) @ y.astype(np.float64).T + h
    value, index = (np.asarray(part) for part in top_scores(x, y, h, k=k))
    np.testing.assert_allclose(value, -np.sort(-dense, axis=1)[:, :k], rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(dense, index, 1), value, rtol=0, atol=1e-5)
    assert all(len(set(row)) == k for row in index.tolist())


@pytest.mark.parametrize(("num_points", "k"), [(2049, 1), (2049, 7), (700, 3)])
def test_wide_blocks_of_accelerators_give_the_same(num_points, k):
    """The same winners, of points that few blocks of one size share; values to the rounding of another product."""
    x, y, h = map(jnp.asarray, clouds(300, num_points, 5))
    narrow, wide = (
        scores.streamed(x, y, h, k=k, block=block) for block in (CPU.scored, scores._even(num_points, 1024))
    )
    np.testing.assert_allclose(wide[0], narrow[0], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(wide[1], narrow[1])


def test_blocks_are_few_and_alike():
    for num, most, size in (
        (1, 1024, 256),
        (257, 1024, 512),
        (1024, 1024, 1024),
        (1025, 1024, 768),
        (20_000, 16_384, 10_240),
    ):
        assert scores._even(num, most) == size


def test_excluded_points_never_win():
    x, y, _ = clouds(200, 100, 3)
    h = np.where(np.arange(100) % 10 == 0, 0.0, -np.inf).astype(np.float32)
    _, index = top_scores(x, y, h, k=10)
    assert set(np.unique(index)) == set(range(0, 100, 10))


def test_memory_does_not_grow_with_samples_times_points():
    def temporary(num):
        shapes = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((4096, 16), (num, 16), (num,)))
        return jax.jit(top_scores).lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    small, large = temporary(10_000), temporary(100_000)
    points = 4 * 17 * 90_000  # the padded copy of the extra points and heights, in bytes
    assert large - small < 2.5 * points
    assert large < 0.05 * 4 * 4096 * 100_000


def test_asking_for_more_than_there_is():
    with pytest.raises(ValueError, match="k <= N"):
        top_scores(jnp.zeros((4, 2)), jnp.zeros((3, 2)), jnp.zeros(3), k=4)


def dense_scores(x, y, h, k):
    return jax.lax.top_k(jnp.matmul(x, y.T, precision="highest") + h, k)[0]


def clouds(num_samples, num_points, dim, dtype=np.float32):
    rng = np.random.default_rng(3)
    return [rng.normal(size=shape).astype(dtype) for shape in ((num_samples, dim), (num_points, dim), (num_points,))]


@pytest.mark.parametrize("k", [1, 6])
def test_gradients_are_those_of_the_dense_formula(k):
    args = clouds(70, 300, 5)
    weights = np.random.default_rng(4).normal(size=(70, k)).astype(np.float32)

    def gradients(function):
        return jax.jit(jax.grad(lambda *args: jnp.sum(weights * jnp.sin(function(*args))), argnums=(0, 1, 2)))(*args)

    mine = gradients(lambda *args: top_scores(*args, k=k)[0])
    theirs = gradients(lambda *args: dense_scores(*args, k))
    for ours, exact in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(ours, exact, rtol=0, atol=2e-5)


def test_derivatives_of_both_modes_and_orders_are_finite_differences(x64):
    args = clouds(6, 40, 3, np.float64)
    find = jax.jit(lambda *args: top_scores(*args, k=3)[0])
    check_grads(find, args, order=2, modes=("fwd", "rev"), eps=1e-6)


def test_indices_have_no_derivative():
    args = clouds(4, 9, 2)
    _, (_, moves) = jax.jvp(top_scores, args, args)
    assert moves.dtype == jax.dtypes.float0
    _, pull, index = jax.vjp(lambda x: top_scores(x, *args[1:]), args[0], has_aux=True)
    np.testing.assert_array_equal(pull(np.ones((4, 1), np.float32))[0], args[1][np.asarray(index)[:, 0]])


def test_nothing_flows_to_excluded_points():
    x, y, h = clouds(5, 40, 2)
    h[1:] = -np.inf
    gradients = jax.jit(jax.grad(lambda x, y, h, of: top_scores(x, y, h, k=3)[0][:, of].sum(), (0, 1, 2)))
    for gradient in gradients(x, y, h, np.array([1, 2])):  # the second and third best are none
        np.testing.assert_array_equal(gradient, 0)
    np.testing.assert_array_equal(gradients(x, y, h, np.array([0, 0]))[2], np.r_[10.0, np.zeros(39)])


def test_vmap_of_gradients():
    x, y, h = clouds(5, 40, 2)
    xs = np.stack([x, 2 * x, -x])

    def slopes(function):
        of_one = jax.grad(lambda x, h: function(x, y, h).sum(), argnums=(0, 1))
        return jax.jit(jax.vmap(of_one, in_axes=(0, None)))(xs, h)

    mine, theirs = slopes(lambda *args: top_scores(*args, k=2)[0]), slopes(lambda *args: dense_scores(*args, 2))
    for ours, exact in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-6)


def test_gradients_take_no_memory_of_samples_times_points():
    def loss(*args):
        return top_scores(*args, k=2)[0].sum()

    shapes = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((4096, 16), (100_000, 16), (100_000,)))
    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).lower(*shapes)
    assert gradient.compile().memory_analysis().temp_size_in_bytes < 0.05 * 4 * 4096 * 100_000


@pytest.mark.parametrize("num", [7, 70])
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("where", [0, 299])
def test_not_a_number_is_not_swallowed(num, k, where):
    x, y, h = clouds(num, 300, 2)
    h[where] = np.nan
    assert np.isnan(np.asarray(top_scores(x, y, h, k=k)[0])[:, 0]).all()


def test_not_a_number_in_one_sample_spoils_no_other():
    x, y, h = clouds(70, 100, 3)
    x[7, 1] = np.nan
    np.testing.assert_array_equal(np.isnan(top_scores(x, y, h)[0])[:, 0], np.arange(70) == 7)


def test_no_samples_have_no_scores():
    x, y, h = clouds(0, 30, 2)
    for k in (1, 3):
        value, index = top_scores(x, y, h, k=k)
        assert value.shape == index.shape == (0, k)
