"""Autoencoders as Flax Linen modules: dense layers for small images, convolutions, also residual, for 28 to 64 pixels.

Parameters and outputs are float32 (or wider); the layers compute in their `dtype`, or in that of their input if None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.nn.conv_networks import ConvDecoder, ConvEncoder, ResidualDecoder, ResidualEncoder
from otgen.nn.precision import compute_type, widened
from otgen.ot.check import as_counts, native, require_choice
from otgen.types import Array

NETWORKS = ("mlp", "conv", "residual")


class MLPEncoder(nn.Module):
    """Images [n, h, w, c] in [0, 1] to codes [n, latent_dim] through dense layers."""

    latent_dim: int
    hidden: Sequence[int]
    dtype: Any = None

    @nn.compact
    def __call__(self, images: Array) -> Array:
        x = images.reshape(images.shape[0], -1)
        for width in self.hidden:
            x = nn.gelu(nn.Dense(width, dtype=self.dtype)(x))
        return widened(nn.Dense(self.latent_dim, dtype=self.dtype)(x))


class MLPDecoder(nn.Module):
    """Codes [n, latent_dim] to pixel logits [n, h, w, c] through dense layers, widths reversed."""

    image_shape: tuple[int, int, int]
    hidden: Sequence[int]
    dtype: Any = None

    @nn.compact
    def __call__(self, codes: Array) -> Array:
        x = codes
        for width in reversed(self.hidden):
            x = nn.gelu(nn.Dense(width, dtype=self.dtype)(x))
        height, width, channels = self.image_shape
        x = widened(nn.Dense(height * width * channels, dtype=self.dtype)(x))
        return x.reshape(-1, height, width, channels)


def num_levels(image_shape: tuple[int, int, int]) -> int:
    """Return how often both sides of an image can be halved before they are odd or at most 7 pixels."""
    height, width, _ = image_shape
    levels = 0
    while height % 2 == width % 2 == 0 and min(height, width) > 7:
        height, width, levels = height // 2, width // 2, levels + 1
    return levels


def encoder(
    image_shape: tuple[int, int, int],
    num_outputs: int,
    network: str,
    hidden: Sequence[int],
    width: int,
    precision: str = "float32",
) -> nn.Module:
    """Return a network from images [n, h, w, c] to vectors [n, num_outputs]: an encoder, or a critic.

    Raises:
      ValueError: for an unknown network, or images too small to convolve.
    """
    if levels_of(image_shape, network) is None:
        return MLPEncoder(num_outputs, tuple(hidden), compute_type(precision))
    kind = ConvEncoder if network == "conv" else ResidualEncoder
    return kind(num_outputs, width, levels_of(image_shape, network), compute_type(precision))


def decoder(
    image_shape: tuple[int, int, int], network: str, hidden: Sequence[int], width: int, precision: str = "float32"
) -> nn.Module:
    """Return a network from codes [n, d] to pixel logits [n, h, w, c]: a decoder, or a generator.

    Raises:
      ValueError: for an unknown network, or images too small to convolve.
    """
    if levels_of(image_shape, network) is None:
        return MLPDecoder(tuple(image_shape), tuple(hidden), compute_type(precision))
    kind = ConvDecoder if network == "conv" else ResidualDecoder
    return kind(tuple(image_shape), width, levels_of(image_shape, network), compute_type(precision))


def levels_of(image_shape: tuple[int, int, int], network: str) -> int | None:
    """Halvings of the convolutional network; None for the dense one."""
    require_choice("network", network, NETWORKS)
    if len(as_counts("image_shape", image_shape)) != 3:
        raise ValueError(f"image_shape = {tuple(image_shape)}: give (height, width, channels).")
    if network == "mlp":
        return None
    levels = num_levels(image_shape)
    if levels == 0:
        raise ValueError(f"images of shape {image_shape} are too small, or odd, to convolve: use network='mlp'.")
    return levels


class Autoencoder(nn.Module):
    """Encoder and decoder without a prior; pixels are Bernoulli means, given as logits.

    Attributes:
      image_shape: (height, width, channels).
      latent_dim: dimension of the codes.
      network: "mlp", "conv" or "residual".
      hidden: widths of the dense layers of the encoder (mlp).
      width: channels after the first convolution, a multiple of 8 (conv, residual).
      precision: type that the layers compute in, "float32" or "bfloat16"; parameters and outputs are float32.

    Example:
      >>> net = og.nn.Autoencoder((8, 8, 1), latent_dim=3, hidden=(16,))
      >>> logits, variables = net.init_with_output(jax.random.key(0), jnp.zeros((5, 8, 8, 1)))
      >>> print(net.apply(variables, jnp.zeros((5, 8, 8, 1)), method="encode").shape)
      (5, 3)
    """

    image_shape: tuple[int, int, int]
    latent_dim: int
    network: str = "mlp"
    hidden: Sequence[int] = (512, 256)
    width: int = 32
    precision: str = "float32"

    def setup(self) -> None:
        self.encoder = encoder(self.image_shape, self.latent_dim, self.network, self.hidden, self.width, self.precision)
        self.decoder = decoder(self.image_shape, self.network, self.hidden, self.width, self.precision)

    def __call__(self, images: Array) -> Array:
        """Pixel logits of the reconstructions of images [n, h, w, c] in [0, 1]."""
        return self.logits(self.encode(images))

    def encode(self, images: Array) -> Array:
        """Return codes [n, latent_dim] of images [n, h, w, c] in [0, 1]."""
        return self.encoder(images)

    def logits(self, codes: Array) -> Array:
        """Pixel logits [n, h, w, c] of codes [n, latent_dim]."""
        return self.decoder(codes)

    def decode(self, codes: Array) -> Array:
        """Return images [n, h, w, c] in [0, 1] of codes [n, latent_dim]."""
        return nn.sigmoid(self.logits(codes))


def to_unit(images: ArrayLike) -> Array:
    """Pixels in [0, 1] as float32, from uint8 or from floats that are there already.

    Raises:
      ValueError: for what is no array of real numbers.

    Example:
      >>> print(og.nn.to_unit(np.array([0, 255], np.uint8)), og.nn.to_unit(np.array([0.5])))
      [0. 1.] [0.5]
    """
    images = jnp.asarray(native("images", images))
    return images.astype(jnp.float32) / 255.0 if images.dtype == jnp.uint8 else images.astype(jnp.float32)
