"""From the last layer of a decoder to data, and how likely data are under it."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from otgen.types import Array


def pixels_of(outputs: Array, output: str) -> Array:
    """Return data from a decoder's last layer: sigmoid of it ("unit") or itself ("real")."""
    return nn.sigmoid(outputs) if output == "unit" else outputs


def reconstruction_loss(outputs: Array, images: Array, output: str, log_scale: ArrayLike = 0.0) -> Array:
    """Return the negative log-likelihood [n] of images [n, h, w, c], in nats, constants left out.

    Args:
      outputs: last layer of the decoder [n, h, w, c]: logits ("unit": Bernoulli) or means ("real": Gaussian).
      images: in [0, 1] for "unit".
      output: "unit" or "real".
      log_scale: log of the standard deviation of the Gaussian.
    """
    axes = (1, 2, 3)
    if output == "unit":
        return optax.sigmoid_binary_cross_entropy(outputs, images).sum(axes)
    return (0.5 * ((outputs - images) * jnp.exp(-log_scale)) ** 2 + log_scale).sum(axes)
