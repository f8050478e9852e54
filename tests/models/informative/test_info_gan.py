import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from otgen.data import toy
from otgen.eval.information import nmi
from otgen.models.apply import rows
from otgen.models.informative import info_gan
from otgen.models.informative.codes import Codes
from tests.support.moments import assert_same_moments

CONFIG = info_gan.Config(
    latent_dim=2,
    hidden=(),
    output="real",
    categorical=(3, 2),
    uniform=1,
    normal=1,
    information=0.7,
    information_continuous=0.3,
    critic_steps=2,
    batch_size=4,
)
SILENT = dataclasses.replace(CONFIG, information=0.0, information_continuous=0.0)
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # to compile in no time
MODULE = info_gan.InfoGAN((1, 1, 2), CONFIG)
judge = compiled(lambda params, images: MODULE.apply({"params": params}, images, method="judge"))
decode = compiled(lambda params, *latents: MODULE.apply({"params": {"generator": params}}, *latents, method="decode"))


@functools.partial(compiled, static_argnums=1)
def critic_slope(critic, module, *rest):
    loss = jax.value_and_grad(info_gan.discriminator_loss, has_aux=True)
    (value, metrics), slope = loss(critic, module, *rest)
    return slope, (value, metrics)


@functools.partial(compiled, static_argnums=2)
def generator_slope(generator, critic, module, *rest):
    loss = jax.value_and_grad(info_gan.generator_loss, has_aux=True)
    (value, metrics), slope = loss(generator, critic, module, *rest)
    return slope, (value, metrics)


def leaves(*trees):
    return zip(*(jax.tree.leaves(tree) for tree in trees), strict=True)


def least_change(tree, other):
    """The least over leaves of the largest difference of an entry."""
    return min(np.abs(np.asarray(a) - np.asarray(b)).max() for a, b in leaves(tree, other))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(8, 1, 1, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def start(images):
    return MODULE, compiled(lambda key: info_gan.init(key, CONFIG, images, 20)[1])(jax.random.key(0))


@pytest.fixture(scope="module")
def latents():
    rng = np.random.default_rng(1)
    categories = np.stack([rng.integers(0, size, 8) for size in CONFIG.categorical], axis=1).astype(np.int32)
    values = np.stack([rng.uniform(-1, 1, 8), rng.normal(size=8)], axis=1).astype(np.float32)
    noise = rng.normal(size=(8, 2)).astype(np.float32)
    return Codes(jnp.asarray(categories), jnp.asarray(values)), jnp.asarray(noise)


def plain_information(outputs, codes):
    """Means of log Q / P of the categorical and of the continuous parts, row by row in float64."""
    discrete, continuous = [], []
    for row, category, value in zip(np.float64(outputs), codes.categories, np.float64(codes.values), strict=True):
        first, second = np.exp(row[:3]) / np.exp(row[:3]).sum(), np.exp(row[3:5]) / np.exp(row[3:5]).sum()
        discrete.append(np.log(first[category[0]] * 3) + np.log(second[category[1]] * 2))
        known = stats.norm(row[5:7], 0.05 + np.log1p(np.exp(row[7:9]))).logpdf(value)
        prior = stats.uniform(-1, 2).logpdf(value[0]) + stats.norm.logpdf(value[1])
        continuous.append(known.sum() - prior)
    return np.mean(discrete), np.mean(continuous)


def test_losses_against_plain_formulas(start, images, latents):
    module, state = start
    generator, critic, (codes, noise) = state.generator.params, state.critic.params, latents
    generated = decode(generator, codes, noise)
    fake, seen = (np.asarray(x) for x in judge(critic, generated))
    real = np.asarray(judge(critic, images)[0])
    assert seen.shape == (8, CONFIG.latent.outputs)
    discrete, continuous = plain_information(seen, codes)
    weighted = 0.7 * discrete + 0.3 * continuous

    _, (value, metrics) = critic_slope(critic, module, images, generated, codes)
    wanted = -np.mean(np.log(1 / (1 + np.exp(-real)))) - np.mean(np.log(1 - 1 / (1 + np.exp(-fake))))
    assert float(metrics["discriminator"]) == pytest.approx(wanted, rel=1e-5)
    assert float(value) == pytest.approx(wanted - weighted, rel=1e-5)

    _, (value, metrics) = generator_slope(generator, critic, module, codes, noise)
    wanted = -np.mean(np.log(1 / (1 + np.exp(-fake))))
    wrong = [seen[:, :3].argmax(1) != codes.categories[:, 0], seen[:, 3:5].argmax(1) != codes.categories[:, 1]]
    found = {name: float(metric) for name, metric in metrics.items()}
    assert found == pytest.approx(
        {"generator": wanted, "information": discrete + continuous, "code_error": np.mean(wrong)}, rel=1e-5
    )
    assert float(value) == pytest.approx(wanted - weighted, rel=1e-5)


def test_information_moves_the_generator_and_q_but_not_the_verdict(start, images, latents):
    module, state = start
    generator, critic, (codes, noise) = state.generator.params, state.critic.params, latents
    silent, fake = info_gan.InfoGAN(module.image_shape, SILENT), decode(generator, codes, noise)
    told, untold = (critic_slope(critic, m, images, fake, codes)[0] for m in (module, silent))
    assert all(not leaf.any() for leaf in jax.tree.leaves(untold["reader"]))
    for name in ("trunk", "reader"):
        assert least_change(told[name], untold[name]) > 1e-4
    for with_q, without in leaves(told["verdict"], untold["verdict"]):
        np.testing.assert_allclose(with_q, without, rtol=1e-5, atol=1e-7)
    slopes = [generator_slope(generator, critic, m, codes, noise)[0] for m in (module, silent)]
    assert least_change(*slopes) > 1e-4


@pytest.mark.slow
def test_steps_do_not_depend_on_the_number_of_devices_and_leave_an_unrewarded_q_alone(start, images):
    module, state = start
    step = info_gan.make_step(info_gan.InfoGAN(module.image_shape, SILENT), 20)
    whole, split, key = compiled(step), images.reshape(2, 4, 1, 1, 2), jax.random.key(1)
    many = compiled(jax.vmap(functools.partial(step, axis_name="d"), (None, 0, None), axis_name="d"))
    one, two = (state, None), (state, None)
    for _ in range(2):  # the rate of the first step is zero
        one = whole(one[0], images, key)
        shards = many(two[0], split, key)
        two = jax.tree.map(lambda leaf: np.asarray(leaf)[0], shards)
    for shard in range(2):
        state_of, metrics = jax.tree.map(lambda leaf, i=shard: np.asarray(leaf)[i], shards)
        assert_same_moments(state_of, one[0], 1e-3)
        for name, value in one[1].items():
            assert float(metrics[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-6), name
    after = one[0]
    assert int(after.critic.step) == 4
    assert set(one[1]) == {"discriminator", "generator", "information", "code_error"}
    assert least_change(after.generator.params, state.generator.params) > 0
    assert least_change(after.generator.average, state.generator.average) > 0
    for name in ("trunk", "verdict"):
        assert least_change(after.critic.params[name], state.critic.params[name]) > 0
    for found, wanted in leaves(after.critic.params["reader"], state.critic.params["reader"]):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"categorical": (1,)}, "categorical"),
        ({"categorical": ()}, "without any code"),
        ({"uniform": -1}, "uniform"),
        ({"strength": 0.0}, "strength"),
        ({"information": -1.0}, "information = -1.0: give a finite number of zero or more"),
        ({"information_continuous": float("inf")}, "information_continuous"),
        ({"critic_steps": 0}, "critic_steps"),
        ({"critic_rate": 0.0}, "critic_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"average": 1.0}, "average"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_fields_out_of_range_raise(fields, message):
    with pytest.raises(ValueError, match=message):
        info_gan.Config(**fields)


def test_images_that_do_not_fit_raise(start, images):
    module, state = start
    with pytest.raises(ValueError, match="give a multiple"):
        info_gan.make_step(module, 10)(state, images[:3], jax.random.key(0))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        info_gan.fit(jax.random.key(0), images)
    with pytest.raises(TypeError, match="lam"):
        info_gan.fit(jax.random.key(0), images, lam=1.0)


def fit(seed, images, logged, **fields):
    return info_gan.fit(
        jax.random.key(seed),
        images,
        callback=lambda _, metrics: logged.append({k: v for k, v in metrics.items() if k != "samples/s"}),
        **{"latent_dim": 2, "hidden": (), "output": "real", "batch_size": 4, **fields},
    )


@pytest.mark.slow
def test_a_model_without_categorical_parts(images):
    logged = []
    model = fit(3, images, logged, categorical=(), uniform=1, epochs=0.5)
    assert set(logged[0]) == {"discriminator", "generator", "information"}
    assert set(model.variables["params"]) == {"generator", "trunk", "verdict", "reader"}
    assert info_gan.sample(jax.random.key(4), model, 5).shape == (5, 1, 1, 2)


@pytest.mark.slow
def test_a_fit_follows_from_its_key(images):
    logged = []
    first, again, other = (fit(seed, images, logged, epochs=3) for seed in (3, 3, 4))
    for found, wanted in leaves(first.variables, again.variables):
        np.testing.assert_array_equal(found, wanted)
    assert logged[0] == logged[1] != logged[2]
    head, another = (model.variables["params"]["verdict"] for model in (first, other))
    assert least_change(head, another) > 0


@pytest.mark.slow
def test_codes_name_the_modes_of_a_ring_where_information_is_rewarded():
    points = np.asarray(toy.eight_gaussians(jax.random.key(100), 4000))[:, None, None]
    centres = np.asarray(toy.eight_gaussians_centres())
    fields = {"output": "real", "latent_dim": 2, "categorical": (8,), "hidden": (64, 64), "epochs": 50}
    shared, error = {}, {}
    for seed, weight in ((0, 1.0), (1, 1.0), (0, 0.0)):
        model = info_gan.fit(jax.random.key(seed), points, information=weight, **fields)
        latent = model.module.config.latent
        codes, noise = latent.sample(jax.random.key(7), 4000)
        made = model.module.apply(model.variables, codes, noise, method="decode")
        distance = np.linalg.norm(np.asarray(made)[:, 0] - centres, axis=2)
        if weight:
            assert (distance.min(1) < 0.5).mean() > 0.8
        category = np.asarray(codes.categories[:, 0])
        shared[seed, weight] = nmi(category, distance.argmin(1))
        law = latent.log_laws(rows(*model, made, "read"))[0]
        error[seed, weight] = (np.asarray(law).argmax(1) != category).mean()
    assert min(shared[0, 1.0], shared[1, 1.0]) > 0.8
    assert max(error[0, 1.0], error[1, 1.0]) < 0.05
    assert shared[0, 0.0] < 0.5
    assert error[0, 0.0] > 0.5
