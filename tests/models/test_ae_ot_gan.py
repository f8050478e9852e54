import dataclasses
import functools
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from otgen.models import ae_ot, ae_ot_gan, ae_ot_gan_losses
from otgen.train import Checkpoints
from tests.support.moments import assert_same_moments

SMALL = {"epochs": 1, "warmup": 40, "batch_size": 64}


@pytest.fixture(scope="module")
def base(ae_ot_of_digits):
    return ae_ot_of_digits


@pytest.fixture(scope="module")
def start(base):
    return ae_ot_gan.init(jax.random.key(1), ae_ot_gan.Config(), base, 20)


@pytest.fixture(scope="module")
def slopes():
    """The first measured slope after every step of the training of `refined`."""
    return {}


@pytest.fixture(scope="module")
def refined(base, digits, slopes):
    def watch(step, state):
        slopes[step] = float(state.slopes[0])

    return ae_ot_gan.refine(jax.random.key(1), base, digits.images, **SMALL, watch=watch, save_every=1, log_every=1)


def leaves(*trees):
    return zip(*(jax.tree.leaves(tree) for tree in trees), strict=True)


def batch_of(module, fixed, images):
    @jax.jit
    def of(known):
        new = ae_ot_gan.new_codes(module, fixed, jax.random.key(2), len(known))
        return ae_ot_gan_losses.Batch(known, module.apply(fixed, known, method="encode"), new)

    return of(np.float32(images / 255.0))


def terms_of(module, state, fixed):
    """The three terms of a batch, as a function of the generator's parameters and the batch."""
    return lambda params, batch: ae_ot_gan_losses.terms(params, module, state.critic.params, fixed, batch, None)


@pytest.mark.parametrize("form", ["local", "pairs"])
def test_adversarial_weight_zero_is_ae_ot(base, digits, form):
    model = ae_ot_gan.refine(jax.random.key(1), base, digits.images, adversarial_weight=0.0, form=form)
    images = ae_ot_gan.sample(jax.random.key(3), model, 40)
    np.testing.assert_array_equal(images, ae_ot.sample(jax.random.key(3), base, 40, form=form))


def test_the_generator_moves_and_the_rest_stays(base, refined, digits):
    parts = (model.variables["params"]["autoencoder"] for model in (refined, base))
    for one, other in leaves(*parts):
        np.testing.assert_array_equal(one, other)
    for one, other in leaves(refined.variables["transport"], base.variables["transport"]):
        np.testing.assert_array_equal(one, other)
    decoder = base.variables["params"]["autoencoder"]["decoder"]
    assert all(np.abs(a - b).max() > 0 for a, b in leaves(refined.variables["params"]["generator"], decoder))
    codes = ae_ot_gan.encode(refined.module, refined.variables, digits.images[:20])
    np.testing.assert_array_equal(codes, ae_ot.encode(base.module, base.variables, digits.images[:20]))
    images = ae_ot_gan.decode(refined.module, refined.variables, codes)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1


@pytest.mark.parametrize("content", ["bernoulli", "squared"])
def test_the_terms_against_plain_formulas(start, digits, content):
    module, state, fixed = start
    module = module.clone(gan=dataclasses.replace(module.gan, content=content))
    batch = batch_of(module, fixed, digits.images[:6])
    trained = {"generator": state.generator.params, "critic": state.critic.params}
    apply = functools.partial(module.apply, {"params": {**fixed["params"], **trained}})
    decode, encode, value = (jax.jit(functools.partial(apply, method=it)) for it in ("decode", "encode", "value"))
    of_pairs, of_new = (np.asarray(decode(codes)) for codes in (batch.pairs, batch.new))
    again = np.asarray(encode(of_new))
    found = jax.jit(terms_of(module, state, fixed))(state.generator.params, batch)
    values = value(np.concatenate([of_pairs, of_new]))
    x, made = np.asarray(batch.known, np.float64), np.asarray(of_pairs, np.float64)
    if content == "squared":
        apart = (made - x) ** 2
    else:
        apart = scipy.special.rel_entr(x, made) + scipy.special.rel_entr(1 - x, 1 - made)
    content = apart.sum((1, 2, 3)).mean()
    scale = np.asarray(fixed["transport"]["scale"])
    feature = np.mean([(((a - b) / scale) ** 2).sum() for a, b in zip(again, np.asarray(batch.new), strict=True)])
    np.testing.assert_allclose(found, [-np.mean(values), content, feature], rtol=1e-4)


def test_white_pixels_that_are_rounded_up_do_no_harm(start, digits):
    module, state, fixed = start
    batch = batch_of(module, fixed, digits.images[:6])
    batch = batch._replace(known=jnp.full_like(batch.known, np.nextafter(np.float32(1), np.float32(2))))
    found = jax.jit(terms_of(module, state, fixed))(state.generator.params, batch)
    assert bool(jnp.isfinite(found).all())


def test_balanced_gradients_have_the_norms_asked_for(start, digits):
    module, state, fixed = start
    batch = batch_of(module, fixed, digits.images[:32])
    slopes = jax.jit(lambda state, batch: ae_ot_gan_losses.slopes_of(module, state, fixed, batch, None))(state, batch)
    jacobian = jax.jit(jax.jacrev(terms_of(module, state, fixed)))(state.generator.params, batch)
    norms = np.sqrt(sum(np.sum(np.square(leaf).reshape(3, -1), 1) for leaf in jax.tree.leaves(jacobian)))
    np.testing.assert_allclose(np.sqrt(slopes), norms, rtol=1e-4)
    for a, content, feature in ((1.0, 0.5, 0.3), (2.0, 1.0, 0.0)):
        config = ae_ot_gan.Config(adversarial_weight=a, content_weight=content, feature_weight=feature)
        found = ae_ot_gan_losses.balanced(config, slopes)
        assert float(found[0]) == a
        np.testing.assert_allclose(found * norms, a * norms[0] * np.array([1.0, content, feature]), rtol=1e-3)


@pytest.mark.slow
def test_the_critic_is_trained_alone_at_first_and_then_both(base, digits):
    module, state, fixed = ae_ot_gan.init(jax.random.key(1), ae_ot_gan.Config(warmup=34), base, 60)
    decoder = base.variables["params"]["autoencoder"]["decoder"]
    critic, measure, both = (jax.jit(ae_ot_gan.make_step(module, 60, phase=phase)) for phase in ae_ot_gan.PHASES)
    for i in range(34):  # the first rate of a schedule is zero
        state, metrics = (critic if i < 2 else measure)(state, digits.images[:16], jax.random.key(2), fixed)
        assert (float(state.slopes[0]) > 0) == (i >= 2)
    assert set(metrics) == {"gap", "slope"}
    assert int(state.critic.step) == 34
    for one, other in leaves(state.generator.params, decoder):
        np.testing.assert_array_equal(one, other)
    slopes, average = state.slopes, state.generator.average
    for played in range(3):
        state, metrics = both(state, digits.images[:16], jax.random.key(2), fixed)
        share = min(0.999, (1 + played) / (10 + played))
        average = jax.tree.map(
            lambda old, new, share=share: share * old + (1 - share) * new, average, state.generator.params
        )
    np.testing.assert_array_equal(state.slopes, slopes)
    assert float(metrics["content"]) > 0
    assert max(float(np.abs(a - b).max()) for a, b in leaves(state.generator.params, decoder)) > 0
    for found, wanted in leaves(state.generator.average, average):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)


def test_the_last_steps_of_the_warmup_are_measured(refined, slopes):
    assert len(slopes) > 50  # 40 of the warm-up, and the others
    assert [step for step in slopes if slopes[step] > slopes.get(step - 1, 0)] == list(range(9, 41))


def test_an_unknown_phase_is_refused(base):
    module = ae_ot_gan.AEOTGAN(base.module.image_shape, base.module.config, ae_ot_gan.Config())
    with pytest.raises(ValueError, match="choose one of 'critic', 'measure', 'both'"):
        ae_ot_gan.make_step(module, 20, phase="alone")


@pytest.mark.parametrize("phase", ["both", pytest.param("measure", marks=pytest.mark.slow)])
def test_steps_do_not_depend_on_the_number_of_devices(base, digits, phase):
    """With the Wasserstein penalty, which draws places on segments."""
    config = ae_ot_gan.Config(adversarial="wasserstein", warmup=2)
    module, first, fixed = ae_ot_gan.init(jax.random.key(1), config, base, 20)
    first = first._replace(slopes=jnp.array([1.0, 2.0, 3.0]))
    step, images, key = ae_ot_gan.make_step(module, 20, phase=phase), digits.images[:16], jax.random.key(2)
    whole = jax.jit(step)
    many = jax.jit(jax.vmap(functools.partial(step, axis_name="d"), (None, 0, None, None), axis_name="d"))
    for _ in range(2):  # each from the same state
        one, metrics = whole(first, images, key, fixed)
        shards = many(first, images.reshape(2, 8, *images.shape[1:]), key, fixed)
        two, of_two = jax.tree.map(lambda leaf: leaf[0], shards)
        assert_same_moments(two, one, 1e-4)
        np.testing.assert_allclose(two.slopes, one.slopes, rtol=1e-3)
        first = one
        for name, value in metrics.items():
            assert float(of_two[name]) == pytest.approx(float(value), rel=1e-3, abs=1e-5), name


def test_a_step_stays_on_the_device(start, digits):
    """No callback to the host, nothing drawn there: one program from state and images to state and metrics."""
    module, state, fixed = start
    step = ae_ot_gan.make_step(module, 20)
    program = str(jax.make_jaxpr(step)(state, digits.images[:8], jax.random.key(0), fixed))
    assert not any(word in program for word in ("callback", "infeed", "outfeed"))


def test_gaussian_latents_have_the_moments_of_the_codes(base):
    config = ae_ot_gan.Config(latents="gaussian")
    module, _, fixed = ae_ot_gan.init(jax.random.key(1), config, base, 20)
    num = 20_000
    drawn = np.asarray(ae_ot_gan.new_codes(module, fixed, jax.random.key(2), num), np.float64)
    transport = {name: np.asarray(part, np.float64) for name, part in base.variables["transport"].items()}
    codes = transport["codes"] * transport["scale"] + transport["mean"]
    cov = np.cov(codes.T)
    sd = np.sqrt(np.diag(cov))
    assert np.all(np.abs(drawn.mean(0) - codes.mean(0)) < 5 * sd / np.sqrt(num))
    error = np.sqrt((np.outer(sd, sd) ** 2 + cov**2) / num)  # of a Gaussian's sample covariance
    assert np.all(np.abs(np.cov(drawn.T) - cov) < 5 * error + 1e-6)


def test_new_codes_are_those_of_the_extended_map(start, base):
    module, _, fixed = start
    codes = ae_ot_gan.new_codes(module, fixed, jax.random.key(4), 30)
    wanted = base.module.apply(base.variables, jax.random.key(4), 30, "local", method="codes")
    np.testing.assert_allclose(codes, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_cells_that_no_noise_falls_into_do_no_harm(base, digits):
    """Their centres are infinite by contract; images that are there twice make such cells."""
    transport = dict(base.variables["transport"])
    transport["centres"] = transport["centres"].at[:3].set(jnp.inf)
    model = base._replace(variables={**base.variables, "transport": transport})
    refined = ae_ot_gan.refine(jax.random.key(1), model, digits.images, **{**SMALL, "epochs": 0.1})
    assert np.isfinite(ae_ot_gan.sample(jax.random.key(2), refined, 20)).all()


@pytest.mark.slow
def test_perceptual_features_are_used(base, digits):
    config = {**SMALL, "feature": "perceptual", "epochs": 1}
    logged = []
    ae_ot_gan.refine(
        jax.random.key(1),
        base,
        digits.images,
        features=lambda images: images.reshape(len(images), -1)[:, :10],
        callback=lambda step, metrics: logged.append(metrics),
        **config,
    )
    assert logged[-1]["feature"] > 0
    with pytest.raises(ValueError, match="give features with perceptual"):
        ae_ot_gan.refine(jax.random.key(1), base, digits.images, **config)
    with pytest.raises(ValueError, match="only with it"):
        ae_ot_gan.refine(jax.random.key(1), base, digits.images, features=lambda images: images)


def test_a_class_can_be_drawn(refined):
    assert ae_ot_gan.sample(jax.random.key(5), refined, 7, label=3).shape == (7, 8, 8, 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 7}, "even number"),
        ({"batch_size": 0}, "at least 2"),
        ({"warmup": 0}, "warmup"),
        ({"adversarial": "least_squares"}, "adversarial"),
        ({"content": "absolute"}, "content"),
        ({"feature": "pixels"}, "feature"),
        ({"latents": "uniform"}, "latents"),
        ({"form": "triples"}, "choose one of"),
        ({"angle": 4.0}, "angle"),
        ({"content_weight": -1.0}, "content_weight"),
        ({"adversarial_weight": float("nan")}, "adversarial_weight"),
        ({"average": 1.0}, "average"),
        ({"learning_rate": float("inf")}, "learning_rate"),
    ],
)
def test_fields_out_of_range_raise(fields, message):
    with pytest.raises(ValueError, match=message):
        ae_ot_gan.Config(**fields)


def test_what_does_not_fit_raises(base, digits, start):
    with pytest.raises(ValueError, match=r"give at least 1 as \[n, 8, 8, 1\]"):
        ae_ot_gan.refine(jax.random.key(0), base, digits.images[:, :6])
    with pytest.raises(TypeError, match="gamma"):
        ae_ot_gan.fit(jax.random.key(0), digits.images, gamma=1.0)
    with pytest.raises(ValueError, match="give the same"):
        ae_ot_gan.refine(jax.random.key(0), base, digits.images[:100])
    bare = base._replace(variables={"params": base.variables["params"]})
    with pytest.raises(ValueError, match="no transport yet"):
        ae_ot_gan.refine(jax.random.key(0), bare, digits.images)
    with pytest.raises(ValueError, match="give at least 2 as"):
        ae_ot_gan.fit(jax.random.key(0), digits.images[:1])
    module, state, fixed = start
    with pytest.raises(ValueError, match="even number"):
        ae_ot_gan.make_step(module, 10)(state, digits.images[:3], jax.random.key(0), fixed)
    model = ae_ot_gan.refine(jax.random.key(1), base, digits.images, latents="gaussian", adversarial_weight=0.0)
    assert ae_ot_gan.sample(jax.random.key(0), model, 3).shape == (3, 8, 8, 1)
    with pytest.raises(ValueError, match="no label, form or angle"):
        ae_ot_gan.sample(jax.random.key(0), model, 3, label=1)


@pytest.mark.slow
@pytest.mark.usefixtures("heard")
def test_a_stage_that_was_stopped_goes_on_bit_identically(base, digits, refined, tmp_path):
    def stop(step, metrics):
        if step == 20:  # noticed after the next step; a second signal would end the run at once
            signal.raise_signal(signal.SIGINT)

    with Checkpoints(tmp_path, {}) as saved, pytest.raises(KeyboardInterrupt):
        ae_ot_gan.refine(
            jax.random.key(1), base, digits.images, checkpoints=saved, callback=stop, log_every=10, **SMALL
        )
    with Checkpoints(tmp_path, {}) as saved:
        assert saved.newest() == 21
        again = ae_ot_gan.refine(jax.random.key(1), base, digits.images, checkpoints=saved, **SMALL)
    for found, wanted in leaves(again.variables, refined.variables):
        np.testing.assert_array_equal(found, wanted)
