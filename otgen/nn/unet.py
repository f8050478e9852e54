"""Velocity fields of images and of latent maps: a small UNet of residual blocks, with time and label in every block.

Sides are halved by convolutions and doubled by repetition, cut to the side that was: odd ones, such as 7, are legal.
Parameters and outputs are float32 (or wider); the layers compute in the type that `precision` names.

Reference: Ronneberger, Fischer and Brox (2015), arXiv 1505.04597; Ho, Jain and Abbeel (2020), arXiv 2006.11239.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from otgen.nn.precision import compute_type, widened
from otgen.nn.velocity import context
from otgen.types import Array

GROUPS = 8  # of channels that are normalised together
_LEAST = 4  # side that is not halved any more
_WIDEST = 4  # channels of the deepest levels, in those of the first


class UNet(nn.Module):
    """v(t, x, label) for images x [n, h, w, c], times t [n] in [0, 1] and labels [n], where it has any.

    Attributes:
      shape: (h, w, c).
      width: channels at full size, a multiple of 8; twice and four times as many below.
      depth: residual blocks of each level on the way down.
      levels: how often the sides are halved, as long as they are 4 or more.
      attention: whether pixels attend to each other at the lowest level.
      num_classes, num_conditions, precision: as of `velocity.Velocity`.

    Example:
      >>> net = og.nn.unet.UNet((7, 7, 1), width=8, depth=1, levels=1)
      >>> made = jax.eval_shape(net.init_with_output, jax.random.key(0), jnp.zeros(2), jnp.ones((2, 7, 7, 1)))
      >>> print(made[0].shape)
      (2, 7, 7, 1)
    """

    shape: tuple[int, int, int]
    width: int = 64
    depth: int = 2
    levels: int = 2
    attention: bool = False
    num_classes: int = 0
    num_conditions: int = 0
    precision: str = "float32"

    @nn.compact
    def __call__(self, t: Array, x: Array, label: Array | None = None) -> Array:
        """Return velocities [n, h, w, c]; zero before training. Labels as in `velocity.context`."""
        dtype = compute_type(self.precision)
        conv = functools.partial(nn.Conv, kernel_size=(3, 3), dtype=dtype)
        block = functools.partial(_block, conv, nn.gelu(nn.Dense(4 * self.width, dtype=dtype)(context(self, t, label))))
        channels = [self.width * min(2**level, _WIDEST) for level in range(1 + self._halvings())]
        h = conv(self.width)(x)
        skips = [h]
        for level, wide in enumerate(channels):
            if level:
                h = conv(wide, strides=2)(h)
                skips.append(h)
            for _ in range(self.depth):
                h = block(h, wide)
                skips.append(h)
        h = block(h, channels[-1])
        if self.attention:
            h = h + _attended(h)
        h = block(h, channels[-1])
        for level in reversed(range(len(channels))):
            for _ in range(self.depth + 1):
                h = block(jnp.concatenate([h, skips.pop()], -1), channels[level])
            if level:
                height, width = skips[-1].shape[1:3]
                h = conv(channels[level - 1])(h.repeat(2, 1).repeat(2, 2)[:, :height, :width])
        last = conv(self.shape[-1], kernel_init=nn.initializers.zeros)
        return widened(last(nn.silu(_normed(h))))

    def _halvings(self) -> int:
        side, found = min(self.shape[:2]), 0
        while found < self.levels and side >= _LEAST:
            side, found = -(-side // 2), found + 1
        return found


def _normed(h: Array) -> Array:
    return nn.GroupNorm(num_groups=GROUPS, dtype=h.dtype)(h)


def _block(conv: Callable[..., nn.Module], time: Array, h: Array, wide: int) -> Array:
    """Return a residual block of images [n, h, w, c] and features of their times [n, f], by layers of the caller."""
    inside = conv(wide)(nn.silu(_normed(h)))
    inside = inside + nn.Dense(wide, dtype=time.dtype)(time)[:, None, None]
    inside = conv(wide, kernel_init=nn.initializers.zeros)(nn.silu(_normed(inside)))
    return inside + (h if h.shape[-1] == wide else conv(wide, kernel_size=(1, 1))(h))


def _attended(h: Array) -> Array:
    """Return what the pixels of images [n, h, w, c] tell each other; nothing before training."""
    pixels = _normed(h).reshape(len(h), -1, h.shape[-1])
    heads = max(1, h.shape[-1] // 64)
    layer = nn.MultiHeadDotProductAttention(heads, dtype=h.dtype, out_kernel_init=nn.initializers.zeros)
    return layer(pixels).reshape(h.shape)
