import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otgen.ot.scores import top_scores


@pytest.mark.parametrize("num_points", [3, 32, 300, 1025])
@pytest.mark.parametrize("num_samples", [1, 500, 4097])
@pytest.mark.parametrize("k", [1, 3, 20])
def test_top_scores_equal_the_dense_ones(num_points, num_samples, k):
    k = min(k, num_points)
    keys = jax.random.split(jax.random.key(num_points + num_samples), 3)
    x = jax.random.normal(keys[0], (num_samples, 5))
    y = jax.random.normal(keys[1], (num_points, 5))
    h = jax.random.normal(keys[2], (num_points,))
    dense = np.asarray(x, np.float64) @ np.asarray(y, np.float64).T + np.asarray(h, np.float64)
    value, index = top_scores(x, y, h, k=k)
    np.testing.assert_allclose(value, -np.sort(-dense, axis=1)[:, :k], rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(dense, np.asarray(index), 1), value, rtol=0, atol=1e-5)
    assert all(len(set(row)) == k for row in np.asarray(index).tolist())


def test_excluded_points_never_win(key):
    x = jax.random.normal(key, (200, 3))
    y = jax.random.normal(key, (100, 3))
    h = jnp.where(jnp.arange(100) % 10 == 0, 0.0, -jnp.inf)
    _, index = top_scores(x, y, h, k=10)
    assert set(np.unique(index)) == set(range(0, 100, 10))


def test_memory_does_not_grow_with_samples_times_points():
    def temporary(num):
        shapes = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((4096, 16), (num, 16), (num,)))
        return top_scores.lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    small, large = temporary(10_000), temporary(100_000)
    points = 4 * 17 * 90_000  # the padded copy of the extra points and heights, in bytes
    assert large - small < 2.5 * points
    assert large < 0.05 * 4 * 4096 * 100_000


def test_asking_for_more_than_there_is(key):
    with pytest.raises(ValueError, match="k <= N"):
        top_scores(jnp.zeros((4, 2)), jnp.zeros((3, 2)), jnp.zeros(3), k=4)
