import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otgen.ot import coupling, latent, semidiscrete
from otgen.ot.semidiscrete import hit_and_run, source

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


@pytest.mark.slow
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


@pytest.mark.slow
def test_blocks_follow_one_another_and_their_number_may_be_large(key):
    whole = source.draw(key, CUBE, 0, source.NET, 3)
    size = source.NET // 4
    for block in range(4):
        piece = source.draw(key, CUBE, block, size, 3)
        np.testing.assert_array_equal(piece, whole[block * size : (block + 1) * size])
    far = 2**31 - 1  # times any size, more than an int32 holds
    last, before = (source.draw(key, source.uniform_cube, jnp.int32(block), 1024, 3) for block in (far, far - 64))
    assert not np.array_equal(last, before)


NAMED = {
    "uniform_cube": (latent.Uniform(-0.5, 0.5), lambda u: u - 0.5),
    "uniform_ball": (latent.Ball(), None),
    "gaussian": (latent.Normal(), jax.scipy.special.ndtri),
}


@pytest.mark.parametrize("name", NAMED)
def test_a_source_and_its_prior_are_one_law_with_the_draws_that_the_source_always_had(key, name):
    prior, from_cube = NAMED[name]
    law = getattr(source, name)
    assert law == prior
    assert hash(law) == hash(prior)
    assert law in hit_and_run.SOURCES
    assert prior in hit_and_run.SOURCES
    np.testing.assert_array_equal(law(key, 50, 3), prior(key, 50, 3))
    np.testing.assert_array_equal(source.draw(key, law, 1, 64, 3), source.draw(key, prior, 1, 64, 3))
    if from_cube is not None:
        drawn = from_cube(jax.random.uniform(key, (50, 3), minval=2.0**-24))
        np.testing.assert_array_equal(law(key, 50, 3), drawn)
        np.testing.assert_array_equal(source.draw(key, law, 1, 64, 3), from_cube(source.draw(key, CUBE, 1, 64, 3)))


LAWS = {
    "normal": latent.Normal(1.0, 2.0),
    "columns of a normal": latent.Normal(np.array([0.0, 5.0]), np.array([1.0, 0.1])),
    "uniform": latent.Uniform(2.0, 3.0),
    "Cauchy": latent.Cauchy(1.0, 2.0),
    "truncated normal": latent.TruncatedNormal(-1.0, 2.0),
    "Student t": latent.StudentT(4.0),
    "mixture": latent.MixturePrior([0.3, 0.7], [-2.0, 1.0], [0.5, 0.3]),
    "empirical": latent.Empirical(np.linspace(0.0, 1.0, 5000) ** 2),
    "logistic": latent.CustomPrior(jax.nn.sigmoid, jax.scipy.special.logit, 16.5),
}


@pytest.mark.parametrize("name", LAWS)
def test_quasi_random_and_independent_points_of_a_prior_follow_it(key, name):
    law = LAWS[name]
    for x, most in ((source.draw(key, law, 0, 4096, 2), 2e-3), (source.independent(key, law, 4096, 2), 0.04)):
        level = np.sort(np.asarray(law.cdf(x), np.float64), axis=0)
        expected = (np.arange(4096) + 0.5)[:, None] / 4096
        assert (
            np.abs(level - expected).max() < most
        )  # the second: more than Kolmogorov and Smirnov at the 0.001 % level


def test_a_gaussian_with_a_full_covariance_is_the_image_of_the_cube(key):
    law = latent.Normal(np.array([1.0, -1.0]), tril=np.array([[2.0, 0.0], [1.5, 0.5]]))
    x = np.asarray(source.draw(key, law, 0, 2**14, 2), np.float64)
    np.testing.assert_allclose(x.mean(0), [1.0, -1.0], atol=2e-3)
    np.testing.assert_allclose(np.cov(x.T), [[4.0, 3.0], [3.0, 2.5]], atol=0.02)


@pytest.mark.parametrize("law", [latent.Sphere(), latent.MultivariateT(5.0), latent.Stable(1.5)], ids=str)
def test_priors_without_quantiles_draw_independently(key, law):
    assert not source.has_sobol(law, 64, 3)
    np.testing.assert_array_equal(law(key, 64, 3), law.sample(key, (64, 3)))


def test_one_compilation_serves_all_spellings_of_a_law(key):
    traced = []

    @functools.partial(jax.jit, static_argnames="law")
    def mean(key, law):
        traced.append(law)
        return source.independent(key, law, 8, 2).mean()

    weights, ends = [0.5, 0.5], [1.0, 1.0]
    for make in (
        lambda: latent.Uniform(-0.5, 0.5),
        lambda: latent.Normal(),
        lambda: latent.MixturePrior(weights, [-1.0, 1.0], ends),
        lambda: latent.MixturePrior(weights, [-1.0, 2.0], ends),
    ):
        before = len(traced)
        mean(key, make())
        mean(key, make())
        assert len(traced) == before + 1
    mean(key, source.uniform_cube)
    mean(key, source.gaussian)
    assert len(traced) == 4


def test_laws_are_equal_by_class_and_content():
    locs = np.array([0.0, 1.0], np.float32)
    assert latent.Normal(locs) == latent.Normal(jnp.asarray(locs))
    assert len({latent.Normal(locs), latent.Normal(locs.copy()), latent.Normal(locs + 1), latent.Cauchy(locs)}) == 3
    assert latent.Normal() != latent.Cauchy()
    assert latent.Normal() != 3
    assert latent.Ball(1) == latent.Ball()


def test_a_law_with_traced_parameters_is_no_static_argument(key):
    with pytest.raises(ValueError, match="made outside jit"):
        jax.jit(lambda scale: source.independent(key, latent.Normal(0.0, scale), 4, 2))(2.0)


def test_a_class_is_no_law(key):
    with pytest.raises(ValueError, match=r"give a law of it, such as og.latent.Normal\(\)"):
        source.independent(key, latent.Normal, 4, 2)


def test_a_law_refuses_dimensions_that_its_parameters_do_not_have(key):
    law = latent.Normal(np.zeros(3))
    for call in (lambda: law(key, 4, 2), lambda: source.draw(key, law, 0, 4, 2)):
        with pytest.raises(ValueError, match="do not go together"):
            call()


@pytest.mark.slow
def test_noise_of_data_is_operated_on_by_the_source_itself(key):
    y = jax.random.normal(key, (40, 2))
    state = semidiscrete.init(key, y, sampler=latent.Uniform(-0.5, 0.5))
    noise, found = coupling.invert(key, state, y, jnp.arange(2), sampler=latent.Uniform(-0.5, 0.5))
    assert bool(found.all())
    np.testing.assert_array_equal(noise, coupling.invert(key, state, y, jnp.arange(2)).noise)
    middle = latent.lerp(0.5, noise[0], noise[1], prior=source.uniform_cube)
    np.testing.assert_array_equal(middle, latent.lerp(0.5, noise[0], noise[1], prior=latent.Uniform(-0.5, 0.5)))


def test_a_map_from_a_mixture_is_solved(key):
    y = jnp.array([[-2.0], [1.0]])
    law = latent.MixturePrior([0.3, 0.7], [-2.0, 1.0], [0.1, 0.1])
    state, info = semidiscrete.run(key, y, jnp.array([0.3, 0.7]), sampler=law, tol=0.1, batch_size=256)
    assert info.status == 0
    np.testing.assert_array_equal(semidiscrete.assign(state, y, jnp.array([[-1.5], [0.5]])), [0, 1])
