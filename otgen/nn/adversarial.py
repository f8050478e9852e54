"""Losses of a critic and a generator that play against each other, and penalties on the critic's gradient.

For values D of real and generated images:

| kind | the critic minimises | the generator minimises |
| --- | --- | --- |
| "hinge" | E max(0, 1 - D(x)) + E max(0, 1 + D(G)) | -E D(G) |
| "non_saturating" | E s(-D(x)) + E s(D(G)), s(v) = log(1 + exp v) | E s(-D(G)) |
| "wasserstein" | E D(G) - E D(x) | -E D(G) |

Penalties: for the first two R1 = E |grad D(x)|^2 / 2 at real images, for the last E (|grad D| - 1)^2 on the segments
between real and generated ones.

References: Goodfellow et al. (2014); Lim and Ye (2017); Arjovsky et al. (2017); Gulrajani et al. (2017), algorithm 1;
Mescheder et al. (2018), equation 9.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from otgen.types import Array

KINDS = ("hinge", "non_saturating", "wasserstein")

Value = Callable[[Array], Array]


def critic_loss(kind: str, real: Array, fake: Array) -> Array:
    """Return the critic's loss of its values [n] and [m] of real and generated images, without a penalty."""
    if kind == "wasserstein":
        return jnp.mean(fake) - jnp.mean(real)
    shape = nn.softplus if kind == "non_saturating" else lambda v: nn.relu(1 + v)
    return jnp.mean(shape(-real)) + jnp.mean(shape(fake))


def generator_loss(kind: str, fake: Array) -> Array:
    """Return the generator's loss of the critic's values [m] of generated images."""
    return jnp.mean(nn.softplus(-fake)) if kind == "non_saturating" else -jnp.mean(fake)


def penalty(kind: str, value: Value, real: Array, fake: Array, share: Array) -> Array:
    """Return the penalty on the gradient of a critic.

    Args:
      kind: of the losses.
      value: the critic, images [n, h, w, c] to values [n].
      real, fake: images [n, h, w, c].
      share: places [n] on the segments from fake to real images, in [0, 1].
    """
    if kind != "wasserstein":
        return 0.5 * jnp.mean(_slope_sq(value, real))
    share = share[:, None, None, None]
    norm = jnp.sqrt(_slope_sq(value, share * real + (1 - share) * fake) + 1e-12)
    return jnp.mean((norm - 1) ** 2)


def _slope_sq(value: Value, images: Array) -> Array:
    """Return squared norms [n] of the gradients of a critic's values in its images."""
    slope = jax.grad(lambda x: value(x).sum())(images)
    return jnp.sum(slope**2, axis=(1, 2, 3))
