"""Mode coverage on Gaussian mixtures with known centres."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from otgen.types import Array


class ModeScores(NamedTuple):
    """How samples sit on the modes of a Gaussian mixture.

    Attributes:
      modes: modes that hold at least one sample within 4 standard deviations.
      share_3sd, share_4sd: share of samples within 3 and 4 standard deviations of the nearest centre (for true
        two-dimensional Gaussians .989 and .9997).
      within_sd: standard deviation per coordinate of the samples within 3 standard deviations, around the centres.
      reverse_kl: Kullback-Leibler divergence of the histogram over modes from the uniform one, in nats.
    """

    modes: Array
    share_3sd: Array
    share_4sd: Array
    within_sd: Array
    reverse_kl: Array


def mode_scores(samples: Float[Array, "n d"], centres: Float[Array, "k d"], deviation: float) -> ModeScores:
    """Score samples [n, d] against the centres [k, d] of an equally weighted mixture of one standard deviation."""
    square = jnp.sum((samples[:, None] - centres) ** 2, axis=-1)
    nearest, distance = square.argmin(1), jnp.sqrt(square.min(1))
    good, near = distance <= 4 * deviation, distance <= 3 * deviation
    num = centres.shape[0]
    counts = jnp.zeros(num).at[nearest].add(1.0 * good)
    share = counts / jnp.maximum(counts.sum(), 1)
    within = jnp.sqrt(jnp.sum(near * distance**2) / jnp.maximum(near.sum(), 1) / samples.shape[1])
    kl = jnp.sum(jax.scipy.special.xlogy(share, share * num))
    return ModeScores(jnp.sum(counts > 0), near.mean(), good.mean(), within, kl)
