import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otgen.nn import adversarial
from otgen.nn.critic import critic


def test_losses_against_plain_formulas():
    real, fake = np.random.default_rng(0).normal(size=(2, 9)) * 2
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    wanted = {
        "hinge": (np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean(), -fake.mean()),
        "non_saturating": (
            -np.log(sigmoid(real)).mean() - np.log(1 - sigmoid(fake)).mean(),
            -np.log(sigmoid(fake)).mean(),
        ),
        "wasserstein": (fake.mean() - real.mean(), -fake.mean()),
    }
    assert set(wanted) == set(adversarial.KINDS)
    for kind, (of_critic, of_generator) in wanted.items():
        assert float(adversarial.critic_loss(kind, jnp.asarray(real), jnp.asarray(fake))) == pytest.approx(
            of_critic, rel=1e-5
        )
        assert float(adversarial.generator_loss(kind, jnp.asarray(fake))) == pytest.approx(of_generator, rel=1e-5)


def test_penalties_of_a_quadratic_critic():
    """D(x) = |x|^2 / 2 has the gradient x."""
    rng = np.random.default_rng(1)
    real, fake = rng.normal(size=(2, 5, 2, 3, 1)).astype(np.float32)
    share = rng.random(5).astype(np.float32)
    given = [jnp.asarray(it) for it in (real, fake, share)]

    def value(images):
        return 0.5 * jnp.sum(images**2, axis=(1, 2, 3))

    norm = lambda x: np.sqrt((x**2).sum((1, 2, 3)))  # noqa: E731
    for kind in ("hinge", "non_saturating"):
        found = adversarial.penalty(kind, value, *given)
        assert float(found) == pytest.approx(0.5 * (norm(real) ** 2).mean(), rel=1e-5)
    between = share[:, None, None, None] * real + (1 - share[:, None, None, None]) * fake
    found = adversarial.penalty("wasserstein", value, *given)
    assert float(found) == pytest.approx(((norm(between) - 1) ** 2).mean(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_the_value_of_an_image_does_not_depend_on_its_batch(network):
    images = jnp.asarray(np.random.default_rng(2).random((6, 14, 14, 2), np.float32))
    net = critic(images.shape[1:], network, (32, 16), 8)
    params = net.init(jax.random.key(0), images)
    values = net.apply(params, images)
    assert values.shape == (6,)
    assert float(values.std()) > 1e-4
    np.testing.assert_allclose(net.apply(params, images[2:3]), values[2:3], rtol=1e-4, atol=1e-6)


def test_images_too_small_to_convolve_raise():
    with pytest.raises(ValueError, match="too small, or odd"):
        critic((1, 1, 2), "conv", (8,), 8)
    with pytest.raises(ValueError, match="network = 'dense': choose one of"):
        critic((8, 8, 1), "dense", (8,), 8)
