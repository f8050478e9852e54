"""Samples as scores take them: clouds of one dimension and one type."""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.ot.check import as_points
from otgen.types import Array


def as_samples(least: int, **clouds: ArrayLike) -> tuple[Array, ...]:
    """Return named clouds [n, d], [m, d], ... as arrays of one floating type, float32 at least.

    Raises:
      ValueError: naming the cloud, if one is no matrix, has fewer than `least` rows, has (outside jit) entries that are
        not finite, or another number of columns than the first.
    """
    arrays = {name: as_points(name, cloud, least) for name, cloud in clouds.items()}
    first = next(iter(arrays))
    for name, array in arrays.items():
        if array.shape[1] != arrays[first].shape[1]:
            raise ValueError(
                f"{first} has {arrays[first].shape[1]} columns and {name} {array.shape[1]}: both must live in one "
                "space, so take features from one extractor."
            )
    dtype = jnp.result_type(*arrays.values())
    return tuple(array.astype(dtype) for array in arrays.values())
