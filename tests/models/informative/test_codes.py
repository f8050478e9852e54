import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from otgen.models.informative.codes import Codes, Latent

MIXED = Latent((3, 2), uniform=1, normal=2, noise=4, strength=2.0)
NUM = 20_000
OPTIONS = {"xla_backend_optimization_level": 0}  # compiled quickly rather than well
draw = jax.jit(MIXED.batch, static_argnums=2, compiler_options=OPTIONS)


@pytest.fixture(scope="module")
def batch():
    """Three noises for each of 12 codes: twice the 6 combinations of the categorical parts."""
    return draw(jax.random.key(0), jnp.arange(36), 12)


@pytest.fixture(scope="module")
def sample():
    return jax.jit(MIXED.sample, static_argnums=1, compiler_options=OPTIONS)(jax.random.key(1), NUM)


def test_a_batch_is_balanced_over_all_combinations(batch):
    (categories, values), noise = batch
    assert (categories.shape, values.shape, noise.shape) == ((36, 2), (36, 3), (36, 4))
    combinations, counts = np.unique(np.asarray(categories)[:12], axis=0, return_counts=True)
    assert combinations.tolist() == [[a, b] for a in range(3) for b in range(2)]
    assert set(counts) == {2}


def test_codes_of_a_batch_repeat_and_noises_do_not(batch):
    codes, noise = batch
    for part in map(np.asarray, codes):
        np.testing.assert_array_equal(part[:24], part[12:])
    # a combination comes twice among the codes, each time with other continuous values
    assert len(np.unique(np.asarray(codes.values), axis=0)) == 12
    assert len(np.unique(np.asarray(noise).ravel())) == noise.size
    assert np.abs(np.asarray(codes.values)[:, 0]).max() <= 1


def test_a_batch_does_not_depend_on_how_its_latents_are_spread(batch):
    index = np.random.default_rng(0).permutation(36)
    found = draw(jax.random.key(0), jnp.asarray(index), 12)
    for part, whole in zip(jax.tree.leaves(found), jax.tree.leaves(batch), strict=True):
        np.testing.assert_array_equal(part, np.asarray(whole)[index])
    # a second device's share: latents 18 to 53, the first half of which the first batch has as well
    codes, noise = draw(jax.random.key(0), jnp.arange(18, 54), 12)
    np.testing.assert_array_equal(np.asarray(noise)[:18], np.asarray(batch[1])[18:])
    np.testing.assert_array_equal(codes.values, np.roll(np.asarray(batch[0].values), -18, axis=0))


def test_other_keys_give_other_codes_and_noises(batch):
    codes, noise = draw(jax.random.key(1), jnp.arange(36), 12)
    assert not np.any(np.asarray(codes.values) == np.asarray(batch[0].values))
    assert not np.any(np.asarray(noise) == np.asarray(batch[1]))


def test_samples_have_the_marginals_of_the_prior(sample):
    (categories, values), noise = jax.tree.map(np.asarray, sample)
    counts = np.bincount(categories @ [2, 1], minlength=6)
    assert stats.chisquare(counts).pvalue > 1e-5
    laws = [stats.uniform(-1, 2), *[stats.norm()] * 6]
    columns = np.concatenate([values, noise], axis=1).T
    for law, column in zip(laws, columns, strict=True):
        assert stats.kstest(column, law.cdf).pvalue > 1e-5


def test_parts_of_samples_are_independent(sample):
    (categories, values), noise = jax.tree.map(np.asarray, sample)
    parts = np.concatenate([categories, values, noise], axis=1)
    square = np.corrcoef(np.concatenate([parts, parts**2], axis=1), rowvar=False)
    square[np.arange(9), np.arange(9) + 9] = square[np.arange(9) + 9, np.arange(9)] = 0
    assert np.abs(square - np.eye(18)).max() < 5 / np.sqrt(NUM)
    following = np.corrcoef(parts[1:], parts[:-1], rowvar=False)[:9, 9:]
    assert np.abs(following).max() < 5 / np.sqrt(NUM)


def log_ratios(latent, outputs, codes):
    """Log Q(c | x) / P(c) of the categorical and of the continuous parts, one pair after the other."""
    categories, values = (np.asarray(of, np.float64) for of in codes)
    first, parts = sum(latent.categorical), latent.uniform + latent.normal
    prior = [stats.uniform(-1, 2)] * latent.uniform + [stats.norm()] * latent.normal
    found = np.zeros((2, len(categories), len(outputs)))
    for i in range(len(categories)):
        for j, out in enumerate(np.asarray(outputs, np.float64)):
            start = 0
            for part, size in enumerate(latent.categorical):
                odds = np.exp(out[start : start + size])
                found[0, i, j] += np.log(odds[int(categories[i, part])] / odds.sum() * size)
                start += size
            for part in range(parts):
                deviation = 0.05 + np.log1p(np.exp(out[first + parts + part]))
                law = stats.norm(out[first + part], deviation)
                found[1, i, j] += law.logpdf(values[i, part]) - prior[part].logpdf(values[i, part])
    return found


@pytest.mark.parametrize("latent", [MIXED, Latent((4,)), Latent((), uniform=2)])
def test_log_ratios_against_scipy(latent):
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(5, latent.outputs)).astype(np.float32) * 2
    categories = rng.integers(0, latent.categorical, (8, len(latent.categorical))).astype(np.int32)
    codes = Codes(categories, rng.uniform(-1, 1, (8, latent.continuous)).astype(np.float32))
    found = jax.jit(latent.log_ratio)(outputs, codes)
    np.testing.assert_allclose(np.stack(found), log_ratios(latent, outputs, codes), rtol=2e-5, atol=2e-5)
    assert np.any(found[0]) == bool(latent.categorical)
    assert np.any(found[1]) == bool(latent.continuous)


def test_laws_of_an_encoder_are_read_from_their_own_outputs():
    outputs = np.arange(11, dtype=np.float32)[None]
    laws = MIXED.log_laws(outputs)
    assert [law.shape for law in laws] == [(1, 3), (1, 2)]
    assert MIXED.outputs == 11
    np.testing.assert_allclose(laws[1], np.log([[1 / (1 + np.e), np.e / (1 + np.e)]]), rtol=1e-6)
    mean, deviation = MIXED.moments(outputs)
    np.testing.assert_array_equal(mean, [[5, 6, 7]])
    np.testing.assert_allclose(deviation, 0.05 + np.log1p(np.exp([[8, 9, 10]])), rtol=1e-6)
    assert float(MIXED.moments(outputs - 1000)[1].min()) == pytest.approx(0.05)


def test_codes_are_one_hot_and_strong_beside_the_noise():
    codes = Codes(jnp.array([[2, 0], [0, 1]]), jnp.array([[0.5, -1.0, 3.0], [0.0, 0.25, -0.25]]))
    noise = jnp.arange(8.0).reshape(2, 4)
    wanted = np.array([[0, 0, 1, 1, 0, 0.5, -1, 3], [1, 0, 0, 0, 1, 0, 0.25, -0.25]])
    np.testing.assert_array_equal(MIXED.embed(codes), 2 * wanted)
    np.testing.assert_array_equal(MIXED.join(codes, noise), np.concatenate([2 * wanted, noise], axis=1))
    assert (MIXED.dim, MIXED.combinations, MIXED.continuous) == (12, 6, 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"categorical": (1,)}, "categorical = 1: give a whole number of at least 2"),
        ({"categorical": (2.5,)}, "categorical = 2.5"),
        ({"uniform": -1}, "uniform = -1"),
        ({"normal": 0.5}, "normal = 0.5"),
        ({"noise": -2}, "noise = -2"),
        ({"strength": 0.0}, "strength = 0.0: give a positive finite number"),
        ({"strength": float("inf")}, "strength"),
        ({"categorical": ()}, "without any code"),
    ],
)
def test_latents_out_of_range_raise(fields, message):
    with pytest.raises(ValueError, match=message):
        Latent(**fields)
