"""What is asked of any trained model beside draws: noise, paths, neighbours, a summary, files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otgen as og
from otgen.models import ae_ot, flow
from tests import test_public_models

KINDS = ("ae_ot", "ae_ot_gan", "bures_linear", "flow", "latent_ot", "sinkhorn_generator", "vae", "wae_mmd", "wgan_gp")


@pytest.mark.parametrize("name", [*KINDS, "info_gan", "informative_gan"])
def test_every_model_is_used_alike(name, key):
    model = test_public_models.model(name)
    drawn = model.sample(key, 3)
    np.testing.assert_array_equal(drawn, getattr(og.models, name).sample(key, model, 3))
    assert type(model.module).__name__ in model.summary().splitlines()[0]
    if name in KINDS:
        paths = model.interpolate(key, num=3, paths=2, **({"label": 1} if name == "flow" else {}))
        assert paths.shape == (2, 3, *drawn.shape[1:])
        assert np.isfinite(paths).all()
    else:
        with pytest.raises(ValueError, match="draws of a code beside its noise"):
            model.interpolate(key)


def test_noise_of_an_image_is_in_the_cell_of_its_code(ae_ot_of_digits, digits, key):
    model = ae_ot_of_digits
    noise = model.invert(key, digits.images[:40])
    assert jnp.abs(noise).max() <= 0.5
    np.testing.assert_array_equal(ae_ot.map_of(model).assign(noise), np.arange(40))
    again = model.generate(key, noise, angle=0.0)  # nothing is joined: reconstructions
    codes = ae_ot.encode(model.module, model.variables, digits.images[:40])
    np.testing.assert_allclose(again, ae_ot.decode(model.module, model.variables, codes), atol=1e-4)


def test_a_place_of_a_path_does_not_depend_on_how_many_there_are(ae_ot_of_digits, key):
    few, many = (ae_ot_of_digits.interpolate(key, num=num, paths=6) for num in (3, 9))
    np.testing.assert_allclose(few[:, 1], many[:, 4], atol=1e-5)  # the noise of the form is that of the path


@pytest.mark.slow
def test_a_flow_is_inverted_by_its_paths(key):
    data = np.random.default_rng(0).standard_normal((256, 3)).astype(np.float32)
    model = flow.fit(key, data, coupling="independent", width=16, num_steps=50, batch_size=64)
    noise = model.invert(key, data[:20])
    np.testing.assert_allclose(flow.decode(model, noise, num_steps=200), data[:20], atol=0.05)
    assert model.interpolate(key, data[:4], data[4:8], num=5, method="heun", num_steps=3).shape == (4, 5, 3)


@pytest.mark.slow
def test_linear_generators_are_inverted_by_least_squares(key):
    data = np.random.default_rng(0).standard_normal((200, 6)).astype(np.float32) @ np.diag([3, 2, 1, 0.1, 0.1, 0.1])
    model = og.models.bures_linear.fit(key, data, rank=3)
    noise = jax.random.normal(key, (10, 3))
    np.testing.assert_allclose(model.invert(key, model.generate(key, noise)), noise, atol=1e-3)


def test_neighbours_are_the_nearest_codes(ae_ot_of_digits, digits):
    model = ae_ot_of_digits
    new = og.data.load("digits", "test").images[:15]
    distance, index = model.neighbours(new, 3)
    known = np.asarray(model.variables["transport"]["codes"])
    mean, scale = model.variables["transport"]["mean"], model.variables["transport"]["scale"]
    codes = np.asarray((ae_ot.encode(model.module, model.variables, new) - mean) / scale)
    all_of_them = np.linalg.norm(codes[:, None] - known, axis=-1)
    np.testing.assert_array_equal(index, np.argsort(all_of_them, axis=1)[:, :3])
    np.testing.assert_allclose(distance, np.sort(all_of_them, axis=1)[:, :3], rtol=1e-4)
    again = model.neighbours(new, 3, among=digits.images)[1]
    assert np.mean(np.asarray(again) == np.asarray(index)) > 0.99


def test_a_saved_model_has_the_same_methods(ae_ot_of_digits, tmp_path, key):
    ae_ot_of_digits.save(tmp_path / "model")
    read = og.load(tmp_path / "model")
    np.testing.assert_array_equal(read.sample(key, 4), ae_ot_of_digits.sample(key, 4))
    assert read.summary() == ae_ot_of_digits.summary()
    assert "epochs=40" in read.summary()


def test_what_cannot_be_meant_is_refused(ae_ot_of_digits, digits, key):
    model, images = ae_ot_of_digits, digits.images
    dim = model.module.config.latent_dim

    def refused(message, call, error=ValueError):
        with pytest.raises(error, match=message):
            call()

    refused("leave label out", lambda: model.generate(key, jnp.zeros((2, dim)), label=3))
    refused("drawn from by form, angle", lambda: model.generate(key, jnp.zeros((2, dim)), shape="pairs"), TypeError)
    refused("noise has shape", lambda: model.generate(key, jnp.zeros((2, dim + 1))))
    refused("no noise", lambda: model.generate(key, jnp.zeros((0, dim))))
    refused("first and last belong together", lambda: model.interpolate(key, images[:2]))
    refused("first are 2 and last 3", lambda: model.interpolate(key, images[:2], images[:3]))
    refused("num = 1", lambda: model.interpolate(key, num=1))
    refused("above the number of images", lambda: model.neighbours(images[:2], 10**6))
    wgan = test_public_models.model("wgan_gp")
    refused("a WGAN has no inverse: interpolate between draws", lambda: wgan.interpolate(key, images[:1], images[:1]))
    refused("has no encoder", lambda: wgan.neighbours(images[:2]))
    refused("keeps no codes", lambda: test_public_models.model("vae").neighbours(test_public_models.IMAGES[:2]))
    refused("give the label of what", lambda: test_public_models.labelled("vae").interpolate(key))
