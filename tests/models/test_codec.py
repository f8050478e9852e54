"""Codecs: codes of networks and functions, components, codes kept in files, and AE-OT on them."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otgen as og
from otgen.models import ae_ot, ae_ot_gan, codec, latent_ot

SHAPE = (8, 8, 1)


class Halves(nn.Module):
    """A linear network with codes of two axes, and a collection beside its parameters."""

    @nn.compact
    def encode(self, images):
        shift = self.variable("batch_stats", "shift", lambda: jnp.zeros(()))
        return (images.reshape(len(images), 32, 2) - shift.value) * 2

    @nn.compact
    def decode(self, codes):
        shift = self.variable("batch_stats", "shift", lambda: jnp.zeros(()))
        return (codes / 2 + shift.value).reshape(-1, 8, 8, 1)


VARIABLES = {"params": {}, "batch_stats": {"shift": jnp.float32(0.25)}}


@pytest.fixture(scope="module")
def images(digits):
    return digits.images[:300]


def halves(**options):
    return codec.of_module(Halves(), VARIABLES, SHAPE, **options)


def functions(shape=SHAPE):
    return codec.of_functions(lambda x: 2 * x[:, ::2], lambda z: np.repeat(z, 2, axis=1) / 2, shape)


def test_codes_are_those_of_the_network_flattened(images):
    codes = codec.encode(halves(), images)
    np.testing.assert_allclose(codes, (images.reshape(300, 64) / 255 - 0.25) * 2, atol=1e-6)
    np.testing.assert_allclose(codec.decode(halves(), codes), images / 255, atol=1e-6)


def test_functions_outside_jax_are_called_in_jitted_models_too(images):
    codes = codec.encode(functions(), images)
    np.testing.assert_allclose(codes, images[:, ::2].reshape(300, 32) / 127.5, atol=1e-6)
    again = jax.jit(lambda z: functions().module.apply({"params": {}}, z, method="decode"))(codes[:5])
    np.testing.assert_allclose(again[:, ::2], images[:5, ::2] / 255, atol=1e-6)


def test_enlarged_images_come_back_in_their_size(images):
    double = codec.of_module(nn_of(lambda x: x, lambda z: z), {}, SHAPE, scale=2)
    smooth = np.broadcast_to(np.linspace(0, 1, 8, dtype=np.float32)[:, None, None], (3, *SHAPE))
    assert double.module.latent_dim == 16 * 16
    np.testing.assert_allclose(codec.decode(double, codec.encode(double, smooth)), smooth, atol=0.02)


def nn_of(encode, decode):
    methods = {"encode": lambda self, x: encode(x), "decode": lambda self, z: decode(z)}
    return type("Net", (nn.Module,), methods)()


def test_components_are_the_best_linear_codes(images):
    """Of all maps to five numbers and back, by the singular values of the centred codes."""
    whole = halves()
    codes = codec.encode(whole, images)
    few = codec.components(whole, codes, 5)
    lost = codec.encode(few, images)
    back = np.asarray(few.module.apply(few.variables, lost, method="expand"))
    values = np.linalg.svd(codes - codes.mean(0), compute_uv=False)
    assert ((back - codes) ** 2).sum() == pytest.approx((values[5:] ** 2).sum(), rel=1e-3)
    assert np.abs(np.corrcoef(lost.T) - np.eye(5)).max() < 1e-3


@pytest.mark.slow
def test_a_second_autoencoder_is_better_than_as_many_components(images):
    whole = halves()
    codes = codec.encode(whole, images)
    small = codec.second(jax.random.key(0), whole, codes, 3, hidden=(128, 64), epochs=400, batch_size=60)

    def error(it):
        back = it.module.apply(it.variables, codec.encode(it, images), method="expand")
        return float(((back - codes) ** 2).mean())

    assert error(small) < 0.9 * error(codec.components(whole, codes, 3))


def test_codes_in_a_folder_are_read_again_and_gone_on_with(images, tmp_path):
    calls = []

    def encode(x):
        calls.append(len(x))
        return 2 * x[:, ::2]

    many = np.concatenate([images] * 4)  # three parts
    watched = codec.of_functions(encode, lambda z: np.repeat(z, 2, axis=1) / 2, SHAPE)
    whole = np.array(codec.encode(watched, many, folder=tmp_path / "whole"))
    first = sum(calls)
    np.testing.assert_array_equal(whole, codec.encode(watched, many, folder=tmp_path / "whole"))
    assert sum(calls) - first < 64  # a few, to see that the codec is the same
    facts = json.loads((tmp_path / "whole" / "codes.json").read_text())
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    facts["parts"] = facts["parts"][:2]
    (stopped / "codes.json.partial").write_text(json.dumps(facts))
    half = np.where(np.arange(len(whole))[:, None] < 1024, whole, 0)
    np.save(stopped / "codes.npy", half)
    (stopped / "codes.npy").rename(stopped / "codes.npy.partial")
    before = sum(calls)
    np.testing.assert_array_equal(whole, codec.encode(watched, many, folder=stopped))
    assert sum(calls) - before < 300  # the last part alone
    assert sorted(it.name for it in stopped.iterdir()) == ["codes.json", "codes.npy"]


def test_a_folder_of_other_codes_is_refused(images, tmp_path):
    codec.encode(halves(), images, folder=tmp_path)
    other = codec.of_module(Halves(), {**VARIABLES, "batch_stats": {"shift": jnp.float32(0.5)}}, SHAPE)
    with pytest.raises(ValueError, match="another codec"):
        codec.encode(other, images, folder=tmp_path)
    with pytest.raises(ValueError, match="other images"):
        codec.encode(halves(), images[:200], folder=tmp_path)
    with pytest.raises(ValueError, match="another dimension"):
        codec.encode(functions(), images, folder=tmp_path)
    codes = np.load(tmp_path / "codes.npy")
    codes[7] += 1
    np.save(tmp_path / "codes.npy", codes)
    with pytest.raises(ValueError, match="altered"):
        codec.encode(halves(), images, folder=tmp_path)


@pytest.mark.slow
def test_ae_ot_on_a_codec_draws_images_of_its_codes(images, tmp_path):
    """Three components of digits, whose mean is theirs; a model on a network of otgen can be saved."""
    few = codec.components(halves(), codec.encode(halves(), images), 3)
    model = ae_ot.fit(jax.random.key(0), images, codec=few, tol=0.5)
    assert model.module.config.latent_dim == 3
    new = ae_ot.sample(jax.random.key(1), model, 500)
    assert new.shape == (500, *SHAPE)
    error = np.abs(np.asarray(new).mean(0) - images.mean(0) / 255).mean()
    assert error < 0.03  # of the mean image of other data some 0.1
    scale = model.variables["transport"]["scale"]
    assert np.ptp(np.asarray(scale)) == 0
    og.save(tmp_path / "model", ae_ot.fit(jax.random.key(0), images, codec=taef2_like(), tol=0.5))
    assert ae_ot.sample(jax.random.key(1), og.load(tmp_path / "model"), 2).shape == (2, *SHAPE)


@pytest.mark.slow
def test_latent_ot_on_a_codec_draws_images_of_its_codes(images, tmp_path):
    few = codec.components(halves(), codec.encode(halves(), images), 3)
    options = {"num_steps": 60, "hidden": (32,), "batch_size": 64}
    model = latent_ot.fit(jax.random.key(0), images, codec=few, checkpoints=tmp_path, solver_options=options)
    assert model.module.config.latent_dim == 3
    np.testing.assert_allclose(latent_ot.encode(model, images[:9]), codec.encode(few, images[:9]), atol=1e-5)
    assert (tmp_path / "codes" / "codes.npy").is_file()
    new = np.asarray(latent_ot.sample(jax.random.key(1), model, 500))
    assert np.abs(new.mean(0) - images.mean(0) / 255).mean() < 0.05
    again = latent_ot.fit(jax.random.key(0), images, codec=few, checkpoints=tmp_path, solver_options=options)
    same = latent_ot.sample(jax.random.key(1), again, 500)
    np.testing.assert_array_equal(same, new)
    with pytest.raises(ValueError, match="latent_dim = 4 on a codec of 3"):
        latent_ot.fit(jax.random.key(0), images, codec=few, latent_dim=4)


@pytest.mark.slow
def test_a_gan_goes_on_from_the_decoder_of_a_codec(images, tmp_path):
    base = ae_ot.fit(jax.random.key(0), images, codec=taef2_like(), tol=0.5)
    still = ae_ot_gan.refine(jax.random.key(1), base, images, adversarial_weight=0.0, epochs=1, batch_size=64)
    codes = codec.encode(taef2_like(), images[:9])
    np.testing.assert_allclose(ae_ot.decode(*still[:2], codes), codec.decode(taef2_like(), codes), atol=1e-6)
    told = []
    options = {"epochs": 40, "batch_size": 64, "warmup": 40, "learning_rate": 1e-2, "log_every": 20}
    model = ae_ot_gan.refine(jax.random.key(1), base, images, callback=lambda _, it: told.append(it), **options)
    content = [it["content"] for it in told if "content" in it]
    assert content[-1] < 0.8 * content[0]  # an untrained decoder learns its images
    np.testing.assert_array_equal(ae_ot.encode(*model[:2], images[:9]), ae_ot.encode(*base[:2], images[:9]))
    og.save(tmp_path / "model", model)
    again = ae_ot_gan.sample(jax.random.key(2), og.load(tmp_path / "model"), 3)
    np.testing.assert_array_equal(again, ae_ot_gan.sample(jax.random.key(2), model, 3))
    of_functions = ae_ot.fit(jax.random.key(0), images, codec=functions(), tol=0.5)
    with pytest.raises(ValueError, match="a codec of functions, which cannot be trained"):
        ae_ot_gan.refine(jax.random.key(1), of_functions, images)


def taef2_like():
    """A codec of a network of otgen's own, untrained."""
    net = og.nn.Autoencoder(SHAPE, latent_dim=2, hidden=(16,))
    return codec.of_module(net, net.init(jax.random.key(0), jnp.zeros((1, *SHAPE))), SHAPE)


def test_what_cannot_be_meant_is_refused(images):
    with pytest.raises(ValueError, match="has no method encode"):
        codec.of_module(nn.Dense(3), {}, SHAPE)
    with pytest.raises(ValueError, match="cannot encode and decode"):
        codec.of_module(og.nn.Autoencoder(SHAPE, latent_dim=2), {"params": {}}, SHAPE)
    with pytest.raises(ValueError, match="decode gave shape"):
        codec.of_functions(lambda x: x[:, ::2], lambda z: z, SHAPE)
    with pytest.raises(ValueError, match="codes have shape"):
        codec.components(halves(), np.zeros((5, 3)), 2)
    with pytest.raises(ValueError, match="at most"):
        codec.components(halves(), np.zeros((5, 64)), 6)
    with pytest.raises(ValueError, match="for a codec of"):
        ae_ot.fit(jax.random.key(0), np.zeros((9, 4, 4, 1), np.uint8), codec=halves())
    with pytest.raises(ValueError, match="leave it out"):
        ae_ot.fit(jax.random.key(0), images, codec=halves(), latent_dim=3)
    with pytest.raises(ValueError, match="multiples of 8"):
        codec.taef2("nowhere", (33, 33, 3))
    with pytest.raises(FileNotFoundError, match="TAEF2 weights"):
        codec.taef2("nowhere", (32, 32, 3))


def test_codes_that_coincide_are_refused_on_a_codec_too(images):
    with pytest.raises(ValueError, match="coincide"):
        latent_ot.fit(jax.random.key(0), images, codec=halves(), codes=np.ones((len(images), 64)))
