import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otgen as og
from otgen.eval import nearest_label, pixels
from otgen.models import ae_ot
from otgen.nn import Autoencoder
from otgen.nn.autoencoder import num_levels
from otgen.nn.conv_networks import ResidualDecoder
from otgen.ot import semidiscrete

TINY = {"latent_dim": 2, "hidden": (32,), "epochs": 40, "batch_size": 50}


@pytest.fixture(scope="module")
def model(ae_ot_of_digits):
    return ae_ot_of_digits


def test_the_model_is_one_pytree_that_samples_in_one_call(model):
    assert set(model.variables) == {"params", "transport"}
    assert model.info.status == og.Status.CONVERGED
    draw = jax.jit(lambda variables, key: model.module.apply(variables, key, 32, method="sample"))
    images = draw(model.variables, jax.random.key(1))
    assert images.shape == (32, 8, 8, 1)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    np.testing.assert_allclose(images, ae_ot.sample(jax.random.key(1), model, 32), atol=1e-6)


def test_samples_drawn_in_whole_blocks_are_those_of_one_call(model):
    apply = jax.jit(lambda variables, key: model.module.apply(variables, key, 100, method="sample"))
    some = ae_ot.sample(jax.random.key(1), model, 100)
    assert some.shape == (100, 8, 8, 1)
    gap = jnp.abs(apply(model.variables, jax.random.key(1)) - some).max((1, 2, 3))
    assert float(jnp.mean(gap < 1e-4)) > 0.95  # but where two sizes of a product round a near tie to different codes


def test_what_is_fitted_is_tied_to_no_device(model, key):
    arrays = [leaf for leaf in jax.tree.leaves(model) if isinstance(leaf, jax.Array)]
    assert len(arrays) > 8
    assert not any(leaf.committed for leaf in arrays)  # or whatever meets them is compiled once more
    assert not ae_ot.sample(key, model, 4).committed


def test_codes_are_standardised_and_reconstruct(model, digits):
    codes = model.variables["transport"]["codes"]
    np.testing.assert_allclose(codes.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(codes.std(0), 1, atol=1e-4)
    again = ae_ot.decode(model.module, model.variables, ae_ot.encode(model.module, model.variables, digits.images))
    error = np.mean((np.asarray(again) - digits.images / 255.0) ** 2)
    assert error < 0.25 * np.var(digits.images / 255.0)


def test_angle_zero_returns_reconstructions_of_training_images(model, digits):
    images = ae_ot.sample(jax.random.key(2), model, 50, angle=0.0)
    known = ae_ot.decode(model.module, model.variables, ae_ot.encode(model.module, model.variables, digits.images))
    distance, _ = og.eval.nearest(pixels(images), pixels(known))
    assert float(distance.max()) < 1e-2


def test_samples_by_class_are_of_that_class(model, digits):
    known = pixels(digits.images / 255.0)
    right = []
    for label in (0, 3, 7):
        images = ae_ot.sample(jax.random.key(3), model, 100, label=label)
        assert images.shape == (100, 8, 8, 1)
        right.append(float(jnp.mean(nearest_label(pixels(images), known, digits.labels, 10) == label)))
    assert min(right) > 0.75  # 1 in 10 by chance


@pytest.mark.slow
def test_class_shares_follow_the_data(model, digits):
    """As among decoded codes of the data: of either, some blurred eights are taken for other digits."""
    known, num = pixels(digits.images / 255.0), 2000
    codes = ae_ot.encode(model.module, model.variables, digits.images)
    shares = []
    for images in (ae_ot.decode(model.module, model.variables, codes), ae_ot.sample(jax.random.key(4), model, num)):
        guess = nearest_label(pixels(images), known, digits.labels, 10)
        shares.append(np.bincount(np.asarray(guess), minlength=10) / len(images))
    of_codes, of_samples = shares
    assert (abs(of_samples - of_codes) < 5 * np.sqrt(of_codes * (1 - of_codes) / num)).all()  # standard errors


def test_transport_is_solved_for_the_codes(model):
    transport = model.variables["transport"]
    state = semidiscrete.from_heights(transport["h"])
    estimate, error = semidiscrete.chi2(jax.random.key(5), state, transport["codes"], 2**16)
    assert float(estimate) < 0.05 + 3 * float(error)


@pytest.mark.slow
def test_convolutional_model_runs_end_to_end():
    images = np.random.default_rng(0).integers(0, 256, (64, 28, 28, 1), np.uint8)
    model = ae_ot.fit(
        jax.random.key(0),
        images,
        latent_dim=4,
        network="conv",
        width=8,
        epochs=1,
        batch_size=32,
        max_samples=4096,
        tol=10.0,
    )
    assert ae_ot.sample(jax.random.key(1), model, 3, form="simplex").shape == (3, 28, 28, 1)


@pytest.mark.parametrize(("side", "levels"), [(28, 2), (32, 3), (64, 4), (8, 1), (7, 0)])
def test_levels_of_the_convolutions(side, levels):
    assert num_levels((side, side, 3)) == levels


@pytest.mark.parametrize(
    "shape", [(28, 28, 1), *(pytest.param(it, marks=pytest.mark.slow) for it in ((32, 32, 3), (64, 48, 3)))]
)
@pytest.mark.parametrize("network", ["conv", pytest.param("residual", marks=pytest.mark.slow)])
def test_convolutional_shapes_match(shape, network, key):
    module = Autoencoder(shape, 5, network, width=8)
    images = jnp.zeros((2, *shape))
    variables = module.init(key, images)
    assert module.apply(variables, images).shape == images.shape
    assert module.apply(variables, images, method="encode").shape == (2, 5)


def test_residual_decoders_leave_no_grid(key):
    """What is the same everywhere before the sides are doubled is so afterwards, away from the borders."""
    net = ResidualDecoder((32, 32, 3), width=8, levels=1)
    params = net.init(key, jnp.zeros((1, 2)))["params"]
    dense = {"kernel": jnp.zeros_like(params["Dense_0"]["kernel"]), "bias": jnp.tile(jnp.linspace(-1, 1, 8), 256)}
    image = np.asarray(net.apply({"params": {**params, "Dense_0": dense}}, jnp.zeros((1, 2))))[0]
    assert np.ptp(image, axis=(0, 1)).max() > 1e-3  # borders are seen
    inside = image[8:-8, 8:-8]
    assert np.ptp(inside, axis=(0, 1)).max() < 1e-5


@pytest.mark.slow
def test_gradient_of_the_loss_is_that_of_finite_differences(digits):
    with jax.enable_x64(True):
        config = ae_ot.Config(latent_dim=3, hidden=(7,))
        images = digits.images[:5] / 255.0
        module = ae_ot.AEOT((8, 8, 1), config)
        params = module.init(jax.random.key(0), jnp.asarray(images))["params"]
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
        direction = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(1), leaf.shape, jnp.float64), params)

        def along(t):
            moved = jax.tree.map(lambda p, d: p + t * d, params, direction)
            return ae_ot.loss(moved, module, jnp.asarray(images))[0]

        slope = jax.grad(along)(0.0)
        assert float(slope) == pytest.approx(float(along(1e-4) - along(-1e-4)) / 2e-4, rel=1e-3)


def test_a_perceptual_term_is_what_it_says_and_is_learned(digits, key):
    def features(images):
        return images[:, 3:5, 2:4].reshape(
            len(images), -1
        )  # four pixels of 64, which the cross-entropy does not prefer

    images = digits.images[:200]
    module, state = ae_ot.init(key, ae_ot.Config(**TINY, perceptual=2.0), images, num_steps=10)
    plain = ae_ot.AEOT(module.image_shape, ae_ot.Config(**TINY))
    value, metrics = ae_ot.loss(state.params, module, images, features)
    x = jnp.asarray(images / np.float32(255))
    apart = features(x) - features(nn.sigmoid(module.apply({"params": state.params}, x)))
    share = float(jnp.sum(apart**2) / jnp.sum(features(x) ** 2))
    np.testing.assert_allclose(metrics["perceptual"], share, rtol=1e-5)
    np.testing.assert_allclose(value - ae_ot.loss(state.params, plain, images)[0], 2 * 64 * share, rtol=1e-4)
    found = {}
    for weight in (0.0, 20.0):
        config = ae_ot.Config(**TINY, perceptual=weight)
        module, params = ae_ot.train_autoencoder(key, images, config, features=features if weight else None)
        again = ae_ot.decode(module, {"params": params}, ae_ot.encode(module, {"params": params}, x))
        found[weight] = float(jnp.mean((features(again) - features(x)) ** 2))
    assert found[20.0] < 0.8 * found[0.0]
    for given in ({"perceptual": 1.0}, {"features": features}):
        with pytest.raises(ValueError, match="give features with a weight above 0, and only with one"):
            ae_ot.fit(key, images, **TINY, **given)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((5, 8, 8)), None, "n, height, width, channels"),
        (np.full((5, 8, 8, 1), 2.0), None, "outside"),
        (np.full((5, 8, 8, 1), np.nan), None, "not finite"),
        (np.zeros((1, 8, 8, 1), np.uint8), None, "at least 2"),
        (np.zeros((5, 8, 8, 1), np.uint8), np.zeros(4, int), "one per image"),
    ],
)
def test_bad_images_and_labels_raise(images, labels, message, key):
    with pytest.raises(ValueError, match=message):
        ae_ot.fit(key, images, labels)


def test_bad_requests_raise(model, digits, key):
    with pytest.raises(ValueError, match="its labels are"):
        ae_ot.sample(key, model, 3, label=11)
    with pytest.raises(ValueError, match="without labels"):
        ae_ot.sample(key, model._replace(labels=None), 3, label=1)
    with pytest.raises(ValueError, match="a number from 0 to"):
        ae_ot.sample(key, model, 3, angle=4.0)
    with pytest.raises(ValueError, match="'mlp', 'conv', 'residual'"):
        ae_ot.fit(key, digits.images[:10], network="transformer")
    with pytest.raises(ValueError, match="no transport yet"):
        model.module.apply({"params": model.variables["params"]}, key, 2, method="sample")


@pytest.mark.slow
def test_a_label_that_wins_nothing_raises(digits):
    images = np.concatenate([digits.images[:1], digits.images[:100], digits.images[:1]])
    labels = np.concatenate([[98], np.arange(100) % 10, [99]])
    model = ae_ot.fit(jax.random.key(0), images, labels, latent_dim=3, hidden=[16], epochs=2, batch_size=32, tol=0.5)
    # One code carries the labels 98, 0 and 99, and only one of them can win.
    failed = 0
    for label in (98, 99):
        try:
            ae_ot.sample(jax.random.key(1), model, 2, label=label)
        except ValueError as error:
            failed += "wins almost no noise" in str(error)
    assert failed >= 1


@pytest.mark.slow
def test_batches_whose_gradients_are_averaged_are_one_large_batch(digits, key):
    common = {"latent_dim": 3, "hidden": (16,), "epochs": 2}
    _, large = ae_ot.train_autoencoder(key, digits.images[:128], ae_ot.Config(**common, batch_size=64))
    _, four = ae_ot.train_autoencoder(key, digits.images[:128], ae_ot.Config(**common, batch_size=16, accumulate=4))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), four, large)
    assert ae_ot.num_steps_of(ae_ot.Config(epochs=1, batch_size=16, accumulate=8), 64) == 8  # not 4: nothing is lost
    with pytest.raises(ValueError, match="accumulate = 0"):
        ae_ot.Config(accumulate=0)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_bfloat16_computes_in_that_type_and_keeps_float32(network, key):
    """Losses agree within a few of its roundings, 2^-9 each, and the products are in bfloat16."""
    images = jax.random.uniform(key, (8, 16, 16, 1))
    options = {"latent_dim": 3, "hidden": (16,), "width": 8, "network": network}
    values = {}
    for precision in ("float32", "bfloat16"):
        module, state = ae_ot.init(key, ae_ot.Config(**options, precision=precision), images, 10)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(state.params)} == {"float32"}
        assert module.apply({"params": state.params}, images).dtype == jnp.float32
        text = str(jax.make_jaxpr(lambda p, module=module: ae_ot.loss(p, module, images)[0])(state.params))
        assert ("bf16" in text) == (precision == "bfloat16")
        values[precision] = float(ae_ot.loss(state.params, module, images)[0])
    assert values["bfloat16"] == pytest.approx(values["float32"], rel=4 * 2**-9)
    assert values["bfloat16"] != values["float32"]
    with pytest.raises(ValueError, match="precision = 'float16': choose one of 'float32', 'bfloat16'"):
        ae_ot.Config(precision="float16")
