"""Encoders and decoders of convolutions, plain and residual, for images of 16 to 64 pixels.

Residual decoders double sides by repeating pixels before a convolution, which every pixel then sees alike; transposed
convolutions, as the plain ones have, may leave a grid.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from otgen.nn.precision import widened
from otgen.types import Array


class ConvEncoder(nn.Module):
    """Images [n, h, w, c] in [0, 1] to codes [n, latent_dim]; every layer halves the side and doubles the width."""

    latent_dim: int
    width: int
    levels: int
    dtype: Any = None

    @nn.compact
    def __call__(self, images: Array) -> Array:
        x = images
        for level in range(self.levels):
            x = nn.Conv(self.width * 2**level, (4, 4), strides=2, dtype=self.dtype)(x)
            x = nn.gelu(nn.GroupNorm(num_groups=8, dtype=self.dtype)(x))
        return widened(nn.Dense(self.latent_dim, dtype=self.dtype)(x.reshape(x.shape[0], -1)))


class ConvDecoder(nn.Module):
    """Codes [n, latent_dim] to pixel logits [n, h, w, c]; the encoder in reverse."""

    image_shape: tuple[int, int, int]
    width: int
    levels: int
    dtype: Any = None

    @nn.compact
    def __call__(self, codes: Array) -> Array:
        x = _planted(codes, self)
        for level in reversed(range(self.levels)):
            x = nn.gelu(nn.GroupNorm(num_groups=8, dtype=self.dtype)(x))
            outputs = self.image_shape[-1] if level == 0 else self.width * 2 ** (level - 1)
            x = nn.ConvTranspose(outputs, (4, 4), strides=(2, 2), dtype=self.dtype)(x)
        return widened(x)


class Block(nn.Module):
    """x + two convolutions of x, each after group normalisation and gelu: maps [n, h, w, c] to [n, h, w, width]."""

    width: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = x
        for _ in range(2):
            y = nn.gelu(nn.GroupNorm(num_groups=8, dtype=self.dtype)(y))
            y = nn.Conv(self.width, (3, 3), dtype=self.dtype)(y)
        return y + (x if x.shape[-1] == self.width else nn.Conv(self.width, (1, 1), dtype=self.dtype)(x))


class ResidualEncoder(nn.Module):
    """Images [n, h, w, c] in [0, 1] to codes [n, latent_dim]; every level halves the side and doubles the width."""

    latent_dim: int
    width: int
    levels: int
    dtype: Any = None

    @nn.compact
    def __call__(self, images: Array) -> Array:
        x = images
        for level in range(self.levels):
            width = self.width * 2**level
            x = nn.Conv(width, (4, 4), strides=2, dtype=self.dtype)(x)
            x = Block(width, self.dtype)(x)
        x = nn.gelu(nn.GroupNorm(num_groups=8, dtype=self.dtype)(x))
        return widened(nn.Dense(self.latent_dim, dtype=self.dtype)(x.reshape(x.shape[0], -1)))


class ResidualDecoder(nn.Module):
    """Codes [n, latent_dim] to pixel logits [n, h, w, c]; the encoder in reverse."""

    image_shape: tuple[int, int, int]
    width: int
    levels: int
    dtype: Any = None

    @nn.compact
    def __call__(self, codes: Array) -> Array:
        x = _planted(codes, self)
        for level in reversed(range(self.levels)):
            x = Block(self.width * 2**level, self.dtype)(x)
            x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
            if level > 0:
                x = nn.Conv(self.width * 2 ** (level - 1), (3, 3), dtype=self.dtype)(x)
        x = nn.gelu(nn.GroupNorm(num_groups=8, dtype=self.dtype)(x))
        return widened(nn.Conv(self.image_shape[-1], (3, 3), dtype=self.dtype)(x))


def _planted(codes: Array, decoder: ConvDecoder | ResidualDecoder) -> Array:
    """Return codes [n, d] as the smallest maps [n, h, w, c] of a decoder, by a dense layer of it."""
    height, width, _ = decoder.image_shape
    scale, top = 2**decoder.levels, decoder.width * 2 ** (decoder.levels - 1)
    x = nn.Dense(height // scale * (width // scale) * top, dtype=decoder.dtype)(codes)
    return x.reshape(-1, height // scale, width // scale, top)
