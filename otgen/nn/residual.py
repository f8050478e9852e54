"""Residual encoders and decoders: blocks of two convolutions with a way around them, for pictures of 16 to 64 pixels.

Sides are doubled by repeating pixels before a convolution, which every output pixel then sees alike: transposed
convolutions leave a grid where their kernels overlap unevenly.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from otgen.nn.precision import widened
from otgen.types import Array


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
        height, width, channels = self.image_shape
        scale, top = 2**self.levels, self.width * 2 ** (self.levels - 1)
        x = nn.Dense(height // scale * (width // scale) * top, dtype=self.dtype)(codes)
        x = x.reshape(-1, height // scale, width // scale, top)
        for level in reversed(range(self.levels)):
            x = Block(self.width * 2**level, self.dtype)(x)
            x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
            if level > 0:
                x = nn.Conv(self.width * 2 ** (level - 1), (3, 3), dtype=self.dtype)(x)
        x = nn.gelu(nn.GroupNorm(num_groups=8, dtype=self.dtype)(x))
        return widened(nn.Conv(channels, (3, 3), dtype=self.dtype)(x))
