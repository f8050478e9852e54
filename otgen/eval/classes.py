"""Classes of generated images, by nearest neighbours in feature space."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.eval.neighbours import nearest
from otgen.types import Array


def nearest_label(features: Array, known: Array, labels: ArrayLike, num_classes: int, k: int = 5) -> Array:
    """Return the majority label of the k nearest known features.

    Args:
      features: [n, d]. known: [N, d]. labels: integers [N] below num_classes.
      num_classes: how many classes there are.
      k: neighbours that vote; ties go to the lower label.

    Returns:
      Labels [n], int32.
    """
    _, index = nearest(features, known, k)
    votes = jax.nn.one_hot(jnp.asarray(labels)[index], num_classes).sum(1)
    return jnp.argmax(votes, axis=1).astype(jnp.int32)


def class_histogram(labels: ArrayLike, num_classes: int) -> Array:
    """Return the share of each class [num_classes]."""
    return jnp.bincount(jnp.asarray(labels), length=num_classes) / len(labels)


def total_variation(p: Array, q: Array) -> Array:
    """Return half the L1 distance of two histograms, in [0, 1]."""
    return 0.5 * jnp.sum(jnp.abs(p - q))
