"""Clouds of different sizes as one array: padded with points of weight zero, which change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen.ot.check import as_count, as_mass, as_points, is_traced
from otgen.types import Array, Float


class Clouds(NamedTuple):
    """Clouds of one size, for `vmap`.

    Attributes:
      points: of each cloud, filled up with copies of its first point [k, size, d].
      weights: of each cloud, zero where it was filled up [k, size].

    Example:
      >>> og.pad_clouds([np.zeros((2, 3)), np.zeros((4, 3))])._fields
      ('points', 'weights')
    """

    points: Float[Array, "k size d"]
    weights: Float[Array, "k size"]


def pad_clouds(
    clouds: Sequence[ArrayLike], weights: Sequence[ArrayLike | None] | None = None, *, size: int | None = None
) -> Clouds:
    """Pad clouds of different sizes to one shape, so that one compiled program and one `vmap` serve them all.

    The padding has weight zero, so that it changes no result of `sinkhorn`, of the divergence, or of any other function
    that takes weights.

    Args:
      clouds: points [n_1, d], [n_2, d], ...
      weights: of each cloud [n_1], [n_2], ..., zeros allowed; None, of all or of one, is uniform with total 1.
      size: of all after padding; the largest for None. Round it up to a few sizes where sizes vary from batch to batch:
        each is compiled once. Static.

    Returns:
      The points [k, size, d] and weights [k, size].

    Raises:
      ValueError: for no clouds, an empty one, one that is larger than size, different dimensions, other numbers of
        weights, or (outside jit) points or weights that are not finite or negative.

    Example:
      >>> clouds = [np.array([[0.0], [2.0]]), np.array([[1.0], [2.0], [3.0]])]
      >>> points, weights = og.pad_clouds(clouds)
      >>> print(points[..., 0])
      [[0. 2. 0.]
       [1. 2. 3.]]
      >>> print(weights)
      [[0.5 0.5 0. ]
       [0.3333 0.3333 0.3333]]
      >>> origin = jnp.zeros((1, 1))
      >>> divergences = jax.vmap(lambda x, a: og.sinkhorn_divergence(x, origin, a, epsilon=100.0))(points, weights)
      >>> print(divergences.round(1))  # for a large epsilon the squared distances of the means
      [1. 4.]
    """
    if not isinstance(clouds, Sequence) or len(clouds) == 0:
        raise ValueError(f"clouds is a {type(clouds).__name__}: give a list of at least one array [n, d].")
    if weights is None:
        weights = [None] * len(clouds)
    if not isinstance(weights, Sequence) or len(weights) != len(clouds):
        raise ValueError(f"{len(clouds)} clouds need as many arrays of weights, in a list: give one for each, or None.")
    clouds = [as_points(f"cloud {k}", cloud, least=1) for k, cloud in enumerate(clouds)]
    dims, sizes = {cloud.shape[1] for cloud in clouds}, [cloud.shape[0] for cloud in clouds]
    if len(dims) > 1:
        raise ValueError(f"clouds have {sorted(dims)} columns: all must live in the same space.")
    size = max(sizes) if size is None else as_count("size", size)
    if max(sizes) > size:
        raise ValueError(f"size = {size}: the largest cloud has {max(sizes)} points, give at least that.")
    dtype = jnp.result_type(*clouds)
    masses = [
        as_mass(f"weights {k}", mass, num, dtype) for k, (mass, num) in enumerate(zip(weights, sizes, strict=True))
    ]
    # Done by NumPy outside jit, as JAX would compile a program for every size.
    library = jnp if is_traced(*clouds, *masses) else np
    fill = [library.broadcast_to(jax.lax.stop_gradient(it[:1]), (size - len(it), it.shape[1])) for it in clouds]
    points = [library.concatenate(both) for both in zip(clouds, fill, strict=True)]
    masses = [library.concatenate([mass, library.zeros(size - len(mass), dtype)]) for mass in masses]
    return Clouds(jnp.asarray(library.stack(points), dtype), jnp.asarray(library.stack(masses), dtype))
