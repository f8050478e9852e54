"""Velocity fields in few dimensions: residual dense networks of a point and a time."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from otgen.types import Array


class Velocity(nn.Module):
    """v(t, x) for points x [n, dim] and times t [n] in [0, 1].

    Attributes:
      dim: dimension of the points.
      width: units of the hidden layers.
      depth: residual blocks.

    Example:
      >>> net = og.nn.velocity.Velocity(dim=2, width=8, depth=1)
      >>> print(net.init_with_output(jax.random.key(0), jnp.zeros(1), jnp.ones((1, 2)))[0])
      [[0. 0.]]
    """

    dim: int
    width: int = 256
    depth: int = 3

    @nn.compact
    def __call__(self, t: Array, x: Array) -> Array:
        """Return velocities [n, dim]; zero before training."""
        phase = t[:, None] * jnp.pi * 2.0 ** jnp.arange(5)
        waves = jnp.concatenate([t[:, None], jnp.sin(phase), jnp.cos(phase)], axis=1)
        time = nn.gelu(nn.Dense(self.width)(waves))
        h = nn.Dense(self.width)(x) + nn.Dense(self.width)(time)
        for _ in range(self.depth):
            inside = nn.gelu(nn.LayerNorm()(h))
            inside = nn.gelu(nn.Dense(self.width)(inside) + nn.Dense(self.width)(time))
            h = h + nn.Dense(self.width)(inside)
        last = nn.Dense(self.dim, kernel_init=nn.initializers.zeros)
        return last(nn.gelu(nn.LayerNorm()(h)))
