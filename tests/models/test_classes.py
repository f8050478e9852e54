"""Generators of classes: draws of a label are of it, and without labels all is as it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otgen as og
from otgen.eval import nearest_label, pixels
from otgen.models import sinkhorn_generator, vae, wae_mmd, wgan_gp
from otgen.models.classes import class_of, collection_of, drawn, rows_of_label

MODELS = {"vae": vae, "wae_mmd": wae_mmd, "wgan_gp": wgan_gp, "sinkhorn_generator": sinkhorn_generator}
TINY = {"latent_dim": 2, "hidden": (16,), "epochs": 2, "batch_size": 20}
slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "epochs"),
    [
        ("vae", 40),
        pytest.param("wae_mmd", 60, marks=slow),
        pytest.param("wgan_gp", 100, marks=slow),
        pytest.param("sinkhorn_generator", 100, marks=slow),
    ],
)
def test_draws_of_a_label_are_of_that_class(name, epochs, digits):
    """By chance a tenth of 100 draws is right, with a standard error of 0.03: 0.5 is 13 of them away."""
    kind, sizes = MODELS[name], {"latent_dim": 6, "hidden": (64,), "batch_size": 128, "epochs": epochs}
    if name == "sinkhorn_generator":
        sizes["batches"] = 2  # or a step takes nearly all digits, and there are few
    model = kind.fit(jax.random.key(0), digits.images, digits.labels, **sizes)
    known = pixels(digits.images / 255.0)
    for label in (0, 1, 5, 8):
        images = kind.sample(jax.random.key(label), model, 100, label=label)
        assert images.shape == (100, 8, 8, 1)
        assert float(jnp.mean(nearest_label(pixels(images), known, digits.labels, 10) == label)) > 0.5
    guess = nearest_label(pixels(kind.sample(jax.random.key(1), model, 1000)), known, digits.labels, 10)
    assert np.bincount(np.asarray(guess), minlength=10).min() > 30  # of 100: no class is left out


@pytest.mark.parametrize(
    ("name", "mean", "deviation", "change"),
    [
        ("vae", 0.4990293, 0.1550781, 0.1409950),
        ("wae_mmd", 0.5014755, 0.1585329, 0.1441549),
        ("wgan_gp", 0.5003036, 0.1376630, 0.1286018),
    ],
)
def test_without_labels_numbers_are_those_of_before_there_were_any(name, mean, deviation, change, digits):
    """Ten steps, and what the model then drew when it did not know of labels; rounding apart."""
    model = MODELS[name].fit(jax.random.key(0), digits.images[:100], **TINY)
    assert set(model.variables) == {"params"}
    x = np.asarray(MODELS[name].sample(jax.random.key(1), model, 50), np.float64)
    found = x.mean(), x.std(), np.abs(np.diff(x, axis=0)).mean()
    np.testing.assert_allclose(found, (mean, deviation, change), rtol=1e-4)


@pytest.fixture(scope="module")
def labelled(digits):
    """A model of the labels -2, 5 and 11, barely trained."""
    labels = np.repeat([5, -2, 11], [70, 20, 10])
    return vae.fit(jax.random.key(0), digits.images[:100], labels, **TINY)


def test_classes_are_numbered_in_the_order_of_their_labels(labelled):
    assert [int(class_of(labelled.variables, label)) for label in (-2, 5, 11)] == [0, 1, 2]
    np.testing.assert_allclose(labelled.variables["classes"]["shares"], [0.2, 0.7, 0.1])
    assert collection_of(None) == {}
    with pytest.raises(ValueError, match=r"label = 3 is unknown to this model: its labels are \[-2, 5, 11\]"):
        vae.sample(jax.random.key(0), labelled, 2, label=3)
    with pytest.raises(ValueError, match="fitted without labels"):
        vae.sample(jax.random.key(0), labelled._replace(variables={"params": labelled.variables["params"]}), 2, label=5)
    with pytest.raises(ValueError, match="give that of every row"):
        labelled.module.apply(labelled.variables, jnp.zeros((3, 2)), method="decode")


def test_without_a_label_classes_come_in_the_shares_of_the_data(labelled):
    def draw(module, key, num, given):
        return drawn(module, key, num, given)

    num, shares = 5000, np.array([0.2, 0.7, 0.1])
    found = labelled.module.apply(labelled.variables, jax.random.key(0), num, None, method=draw)
    error = np.sqrt(shares * (1 - shares) / num)
    assert (np.abs(np.bincount(found) / num - shares) < 4 * error).all()
    assert (labelled.module.apply(labelled.variables, jax.random.key(0), num, 2, method=draw) == 2).all()


def test_a_saved_model_draws_the_same_class(labelled, tmp_path):
    og.save(tmp_path / "model", labelled)
    again = og.load(tmp_path / "model")
    images = [vae.sample(jax.random.key(1), it, 3, label=11) for it in (labelled, again)]
    np.testing.assert_array_equal(*images)
    assert not np.array_equal(images[0], vae.sample(jax.random.key(1), labelled, 3, label=5))


def test_the_value_of_an_image_is_that_of_its_class(digits):
    config = wgan_gp.Config(latent_dim=2, hidden=(16,))
    module, state = wgan_gp.init(jax.random.key(0), config, digits.images, 10, num_classes=3)
    images, classes = jnp.asarray(digits.images[:6]) / 255.0, jnp.array([2, 0, 1, 1, 0, 2])
    variables = {"params": {"critic": state.critic.params}}
    outputs = module.apply(variables, images, method=lambda module, x: module.critic(x))
    found = module.apply(variables, images, classes, method="value")
    np.testing.assert_allclose(found, np.asarray(outputs)[np.arange(6), classes], rtol=1e-6)


def test_the_discrepancy_of_classes_is_the_mean_of_their_own():
    x, y = np.random.default_rng(0).normal(size=(2, 12, 3))
    classes = np.repeat([4, 1, 7], [7, 4, 1])  # the last has no pair

    def kernel(a, b):
        return sum(s * 6 / (s * 6 + ((a - b) ** 2).sum()) for s in wae_mmd._SCALES)

    pairs = [(i, j) for i in range(12) for j in range(12) if i != j and classes[i] == classes[j]]
    terms = [kernel(x[i], x[j]) + kernel(y[i], y[j]) - kernel(x[i], y[j]) - kernel(x[j], y[i]) for i, j in pairs]
    assert float(wae_mmd.mmd_sq(x, y, classes)) == pytest.approx(np.mean(terms), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=slow if name == "sinkhorn_generator" else ()) for name in MODELS]
)
def test_classes_are_shared_among_devices_with_their_images(name, digits):
    """The losses that a step of two devices descends are those of the whole batch."""
    kind, own = MODELS[name], {"batches": 2, "tol": 1e-3} if name == "sinkhorn_generator" else {}
    config = kind.Config(latent_dim=2, hidden=(16,), batch_size=16, **own)
    module, state = kind.init(jax.random.key(0), config, digits.images, 10, num_classes=10)
    batch = jnp.asarray(digits.images[:16]), jnp.asarray(digits.labels[:16], jnp.int32)
    step = kind.make_step(module, 10)
    _, whole = jax.jit(step)(state, batch, jax.random.key(1))
    halves = jax.tree.map(lambda leaf: leaf.reshape(2, 8, *leaf.shape[1:]), batch)
    on_two = jax.vmap(lambda rows: step(state, rows, jax.random.key(1), axis_name="i")[1], axis_name="i")
    shared = jax.jit(on_two)(halves)
    for metric, value in whole.items():
        np.testing.assert_allclose(shared[metric], [value, value], rtol=1e-4, atol=1e-6, err_msg=metric)


def test_rows_of_a_label_are_drawn_until_there_are_enough():
    def draw(key):
        x = jax.random.uniform(key, (64,))
        return x, (x > 0.75).astype(jnp.int32)

    found = rows_of_label(jax.random.key(0), draw, 1, 0.25, 100)
    assert found.shape == (100,)
    assert float(found.min()) > 0.75
    assert len(np.unique(found)) == 100
    with pytest.raises(ValueError, match="wins almost no noise: 0 of 5"):
        rows_of_label(jax.random.key(0), draw, 2, 0.25, 5)
