"""Gaussian optimal transport: the Frechet distance between the second moments of two samples."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from otgen.ot.check import as_points
from otgen.types import Array


def _factor(features: Array) -> Array:
    """A factor R [r, d] of the unbiased covariance, R'R = Cov, with r = min(n, d) rows."""
    centred = (features - features.mean(0)) / jnp.sqrt(features.shape[0] - 1.0)
    return jnp.linalg.qr(centred, mode="r")


@jax.jit
def _frechet(a: Array, b: Array) -> Array:
    # tr (A^1/2 B A^1/2)^1/2 is the nuclear norm of R_a R_b', which needs no matrix root and stays exact
    # for singular covariances.
    ra, rb = _factor(a), _factor(b)
    cross = jnp.matmul(ra, rb.T, precision=jax.lax.Precision.HIGHEST)
    overlap = jnp.sum(jnp.linalg.svd(cross, compute_uv=False))
    difference = jnp.sum((a.mean(0) - b.mean(0)) ** 2)
    return difference + jnp.maximum(jnp.sum(ra**2) + jnp.sum(rb**2) - 2 * overlap, 0.0)


def frechet_distance(features_a: Float[Array, "n d"], features_b: Float[Array, "m _"]) -> Float[Array, ""]:
    """Return the squared 2-Wasserstein distance between Gaussians fitted to two sets of features.

    |mean_a - mean_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2) with unbiased covariances A, B, through factors of the
    covariances, so that it is also right with fewer samples than dimensions.

    Args:
      features_a: [n, d].
      features_b: [m, d].

    Returns:
      The distance, a scalar in squared units of the features.

    Raises:
      ValueError: for other shapes, different dimensions, fewer than 2 samples, or (outside jit) non-finite features.

    Reference: Dowson and Landau (1982); Heusel et al. (2017), arXiv 1706.08500.
    """
    a, b = as_points("features_a", features_a), as_points("features_b", features_b)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features_a has {a.shape[1]} columns and features_b {b.shape[1]}: use one feature extractor.")
    return _frechet(a, b)
