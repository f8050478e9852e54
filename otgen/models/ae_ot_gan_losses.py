"""What the networks of the AE-OT-GAN minimise on a batch: see `otgen.models.ae_ot_gan`."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.scipy.special import xlogy

from otgen.models.codec.made import Features as Features
from otgen.nn import adversarial
from otgen.types import Array, averaged


class Batch(NamedTuple):
    """What a step of the generator is taken on.

    Attributes:
      known: images x [n, h, w, c] of the pairs.
      pairs: their codes z = E(x) [n, d]. new: new codes w [n, d]. Both in the autoencoder's own scale.
    """

    known: Array
    pairs: Array
    new: Array


def critic_loss(
    params: Any, module: nn.Module, real: Array, fake: Array, share: Array
) -> tuple[Array, dict[str, Array]]:
    """Return the critic's loss on real and generated images [n, h, w, c], with its penalty, and metrics.

    Args:
      params: of the critic.
      module: the model.
      real, fake: images.
      share: places [n] for the penalty, see `adversarial.penalty`.

    Returns:
      Loss; metrics `gap`, E D(x) - E D(G), and `slope`, the penalty before its weight.
    """
    kind = module.gan.adversarial

    def value(images: Array) -> Array:
        return module.apply({"params": {"critic": params}}, images, method="value")

    values, made = value(real), value(fake)
    slope = adversarial.penalty(kind, value, real, fake, share)
    loss = adversarial.critic_loss(kind, values, made) + module.gan.penalty * slope
    return loss, {"gap": values.mean() - made.mean(), "slope": slope}


def terms(params: Any, module: nn.Module, critic: Any, fixed: Any, batch: Batch, features: Features | None) -> Array:
    """Return the adversarial, content and feature losses [3] of a generator; arguments as in `generator_loss`."""
    variables = {"params": {**fixed["params"], "generator": params, "critic": critic}}
    apply, num = functools.partial(module.apply, variables), len(batch.pairs)
    logits = apply(jnp.concatenate([batch.pairs, batch.new]), method="logits")
    made = nn.sigmoid(logits)
    content = _content(module.gan.content, logits[:num], made[:num], batch.known)
    feature = jnp.zeros(())
    if module.gan.feature == "latent":
        apart = (apply(made[num:], method="encode") - batch.new) / fixed["transport"]["scale"]
        feature = jnp.mean(jnp.sum(apart**2, axis=1))
    elif module.gan.feature == "perceptual":
        feature = jnp.mean(jnp.sum((features(made[:num]) - features(batch.known)) ** 2, axis=1))
    values = apply(made, method="value")
    return jnp.stack([adversarial.generator_loss(module.gan.adversarial, values), content, feature])


def _content(kind: str, logits: Array, made: Array, known: Array) -> Array:
    """Return how far images [n, h, w, c] are from those of the pairs, 0 where they agree: mean over images of a sum."""
    if kind == "squared":
        apart = (made - known) ** 2
    else:
        rest = jnp.maximum(1 - known, 0.0)  # a white pixel may be rounded to more than 1
        apart = optax.sigmoid_binary_cross_entropy(logits, known) + xlogy(known, known) + xlogy(rest, rest)
    return jnp.mean(jnp.sum(apart, axis=(1, 2, 3)))


def generator_loss(
    params: Any, module: nn.Module, critic: Any, fixed: Any, weights: Array, batch: Batch, features: Features | None
) -> tuple[Array, dict[str, Array]]:
    """Return the weighted sum of the generator's three terms, and metrics.

    Args:
      params: of the generator.
      module: the model.
      critic: parameters of the critic.
      fixed: the variables that stay, see `init`.
      weights: of the terms [3].
      batch: pairs and new codes.
      features: for feature = "perceptual", images [n, h, w, c] to features [n, p].

    Returns:
      Loss; metrics `adversarial`, `feature`, and `content`, a pixel.
    """
    found = terms(params, module, critic, fixed, batch, features)
    metrics = {"adversarial": found[0], "feature": found[2], "content": found[1] / batch.known[0].size}
    return jnp.sum(weights * found), metrics


def slopes_of(
    module: nn.Module,
    state: Any,
    fixed: Any,
    batch: Batch,
    features: Features | None,
    *,
    axis_name: str | None = None,
) -> Array:
    """Return the squared norms [3] of the gradients of the generator's terms."""
    rest = module, state.critic.params, fixed, batch, features
    _, pull = jax.vjp(lambda params: terms(params, *rest), state.generator.params)
    # one by one: convolutions of a batch of cotangents, as jacrev has them, are far slower than three
    slopes = [averaged(pull(one)[0], axis_name) for one in jnp.eye(3)]
    return jnp.stack([optax.tree.norm(slope, squared=True) for slope in slopes])


def balanced(gan: Any, slopes: Array) -> Array:
    """Return the weights [3] that give the generator's terms gradients of the norms that Config asks for.

    A term without a gradient has weight 0.

    Args:
      gan: the last stage.
      slopes: squared norms of the gradients [3].
    """
    shares = gan.adversarial_weight * jnp.array([1.0, gan.content_weight, gan.feature_weight])
    return jnp.where(slopes > 0, shares * jnp.sqrt(slopes[0] / jnp.maximum(slopes, 1e-30)), 0.0)
