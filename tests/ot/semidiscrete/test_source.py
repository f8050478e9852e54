import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otgen.ot.semidiscrete import source

CUBE = source.Source("cube", lambda u: u)


def test_sobol_stratifies_every_dimension(key):
    num, dim = 4096, 21
    points = np.asarray(source.draw(key, CUBE, 0, num, dim))
    for column in points.T:
        assert len(np.unique((column * num).astype(int))) == num


def test_sobol_pairs_of_dimensions_are_nets(key):
    points = np.asarray(source.draw(key, CUBE, 0, 1024, 2))
    boxes = (points * 32).astype(int) @ [32, 1]
    assert np.bincount(boxes, minlength=1024).tolist() == [1] * 1024


def test_sobol_stream_is_the_same_in_any_pieces(key):
    whole = source.draw(key, CUBE, 0, 1024, 5)
    pieces = [source.draw(key, CUBE, block, 256, 5) for block in range(4)]
    np.testing.assert_array_equal(whole, jnp.concatenate(pieces))
    assert not np.array_equal(source.draw(key, CUBE, source.NET // 256, 256, 5), pieces[0])


def test_sobol_averages_are_unbiased_and_sharper_than_independent_ones():
    def integrand(x):
        return jnp.prod(1 + 0.5 * (x - 0.5), axis=1)  # mean 1

    keys = jax.random.split(jax.random.key(1), 200)
    quasi = jax.vmap(lambda k: integrand(source.draw(k, CUBE, 0, 256, 3)).mean())(keys)
    plain = jax.vmap(lambda k: integrand(jax.random.uniform(k, (256, 3))).mean())(keys)
    assert abs(quasi.mean() - 1) < 4 * quasi.std() / np.sqrt(len(keys))
    assert quasi.std() < 0.1 * plain.std()


def test_points_never_touch_the_border():
    largest = ((2**32 - 1) >> 9) + 0.5
    assert np.float32(largest) * np.float32(2.0**-23) < 1
    x = source.gaussian(jax.random.key(0), 100_000, 2)
    assert bool(jnp.isfinite(x).all())


@pytest.mark.parametrize("dim", [1, 2, 16])
def test_uniform_ball_has_uniform_radius_to_the_power_of_the_dimension(dim):
    x = source.draw(jax.random.key(2), source.uniform_ball, 0, 4096, dim)
    volume = jnp.sort(jnp.linalg.norm(x, axis=1) ** dim)
    expected = (jnp.arange(4096) + 0.5) / 4096
    assert float(jnp.abs(volume - expected).max()) < 1.63 / np.sqrt(4096)  # Kolmogorov-Smirnov, 1 % level
    assert float(jnp.abs(x.mean(0)).max()) < 4 / np.sqrt(4096 * dim)


def test_a_plain_sampler_falls_back_to_independent_draws(key):
    def exponential(key, num, dim):
        return jax.random.exponential(key, (num, dim))

    assert not source.has_sobol(exponential, 1024, 2)
    first, second = (source.draw(key, exponential, block, 1000, 2) for block in (0, 1))
    assert first.shape == (1000, 2)
    assert not np.array_equal(first, second)


def test_blocks_follow_one_another_and_their_number_may_be_large(key):
    whole = source.draw(key, CUBE, 0, source.NET, 3)
    size = source.NET // 4
    for block in range(4):
        piece = source.draw(key, CUBE, block, size, 3)
        np.testing.assert_array_equal(piece, whole[block * size : (block + 1) * size])
    far = 2**31 - 1  # times any size, more than an int32 holds
    last, before = (source.draw(key, source.uniform_cube, jnp.int32(block), 1024, 3) for block in (far, far - 64))
    assert not np.array_equal(last, before)
