"""Residual critics: images to one value each; no layer mixes the images of a batch, as penalties on gradients need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from otgen.nn.autoencoder import levels_of
from otgen.nn.precision import compute_type, widened
from otgen.ot.check import as_count, as_counts
from otgen.types import Array

_LEAK = 0.2  # slope of the activation below zero


class DenseCritic(nn.Module):
    """Images [n, h, w, c] to values [n] through dense layers, each followed by a residual block of its width.

    Attributes:
      hidden: widths of the dense layers.
      dtype: type that the layers compute in; None for that of the images.

    Example:
      >>> net = og.nn.critic.DenseCritic(hidden=(16,))
      >>> print(net.init_with_output(jax.random.key(0), jnp.zeros((5, 8, 8, 1)))[0].shape)
      (5,)
    """

    hidden: Sequence[int]
    dtype: Any = None

    @nn.compact
    def __call__(self, images: Array) -> Array:
        x = images.reshape(images.shape[0], -1)
        for width in self.hidden:
            x = nn.leaky_relu(nn.Dense(width, dtype=self.dtype)(x), _LEAK)
            x = x + nn.leaky_relu(nn.Dense(width, dtype=self.dtype)(x), _LEAK)
        return widened(nn.Dense(1, dtype=self.dtype)(x)[:, 0])


class ConvCritic(nn.Module):
    """Images [n, h, w, c] to values [n]; every residual block doubles the width and halves the side by averaging.

    Attributes:
      width: channels at full size.
      levels: residual blocks.
      dtype: type that the layers compute in; None for that of the images.

    Example:
      >>> net = og.nn.critic.ConvCritic(width=4, levels=1)
      >>> print(net.init_with_output(jax.random.key(0), jnp.zeros((5, 8, 8, 1)))[0].shape)
      (5,)
    """

    width: int
    levels: int
    dtype: Any = None

    @nn.compact
    def __call__(self, images: Array) -> Array:
        x = nn.Conv(self.width, (3, 3), dtype=self.dtype)(images)
        for level in range(self.levels):
            width = self.width * 2**level
            block = nn.Conv(width, (3, 3), dtype=self.dtype)(nn.leaky_relu(x, _LEAK))
            block = nn.Conv(width, (3, 3), dtype=self.dtype)(nn.leaky_relu(block, _LEAK))
            skip = x if x.shape[-1] == width else nn.Conv(width, (1, 1), use_bias=False, dtype=self.dtype)(x)
            x = nn.avg_pool((block + skip) / jnp.sqrt(2.0), (2, 2), strides=(2, 2))
        x = nn.leaky_relu(x, _LEAK).reshape(x.shape[0], -1)
        x = nn.leaky_relu(nn.Dense(4 * self.width, dtype=self.dtype)(x), _LEAK)
        return widened(nn.Dense(1, dtype=self.dtype)(x)[:, 0])


def critic(
    image_shape: tuple[int, int, int], network: str, hidden: Sequence[int], width: int, precision: str = "float32"
) -> nn.Module:
    """Return a critic of images: "mlp" of dense layers `hidden`, else of residual convolutions, `width` at full size.

    Raises:
      ValueError: for an unknown network, or images too small to convolve.

    Example:
      >>> print(type(og.nn.critic.critic((8, 8, 1), "mlp", hidden=(16,), width=8)).__name__)
      DenseCritic
    """
    levels, dtype = levels_of(image_shape, network), compute_type(precision)
    hidden, width = as_counts("hidden", hidden), as_count("width", width)
    return DenseCritic(hidden, dtype) if levels is None else ConvCritic(width, levels, dtype)
