"""Nearest neighbours: precision and recall of samples, and how new they are."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from otgen.ot.check import as_points
from otgen.ot.scores import top_scores
from otgen.types import Array

_BLOCK = 1000


@functools.partial(jax.jit, static_argnames="k")
def nearest(
    x: Float[Array, "n d"], y: Float[Array, "m d"], k: int = 1
) -> tuple[Float[Array, "n {k}"], Int[Array, "n {k}"]]:
    """Return the k nearest rows of y to every row of x, streamed.

    Args:
      x: queries [n, d]. y: candidates [m, d]. k: how many, at most m. Static.

    Returns:
      Distances [n, k] in ascending order and indices [n, k].
    """
    middle = y.mean(0)
    x, y = x - middle, y - middle
    _, index = top_scores(x, y, -0.5 * jnp.sum(y**2, 1), k=k)
    distance = jnp.linalg.norm(x[:, None] - y[index], axis=-1)  # again from the points: no cancellation
    return distance, index


@jax.jit
def _inside_any(x: Array, centres: Array, radius: Array) -> Array:
    """Whether each row of x lies in one of the balls around the centres."""
    middle = centres.mean(0)
    x, centres = x - middle, centres - middle
    norms = jnp.sum(centres**2, 1) - radius**2

    def visit(block):
        product = jnp.matmul(block, centres.T, precision=jax.lax.Precision.HIGHEST)
        return jnp.sum(block**2, 1) <= jnp.max(2 * product - norms, axis=1)

    padded = jnp.pad(x, ((0, -x.shape[0] % _BLOCK), (0, 0))).reshape(-1, _BLOCK, x.shape[1])
    return jax.lax.map(visit, padded).reshape(-1)[: x.shape[0]]


def precision_recall(real: Float[Array, "n d"], generated: Float[Array, "m d"], k: int = 3) -> tuple[Array, Array]:
    """Estimate precision and recall by k-nearest-neighbour balls.

    Precision is the share of generated features inside a ball around a real one that reaches its k-th nearest real
    neighbour; recall exchanges the roles.

    Args:
      real: features [n, d]. generated: features [m, d].
      k: neighbours.

    Returns:
      Precision and recall, in [0, 1].

    Raises:
      ValueError: for other shapes or fewer than k + 1 rows.

    Reference: Kynkaanniemi et al. (2019), arXiv 1904.06991.
    """
    real, generated = as_points("real", real, k + 1), as_points("generated", generated, k + 1)
    real_radius = nearest(real, real, k + 1)[0][:, -1]
    generated_radius = nearest(generated, generated, k + 1)[0][:, -1]
    precision = jnp.mean(_inside_any(generated, real, real_radius))
    return precision, jnp.mean(_inside_any(real, generated, generated_radius))


def novelty(generated: Float[Array, "n d"], train: Float[Array, "N d"], test: Float[Array, "m d"]) -> Float[Array, ""]:
    """Return how far generated codes are from the training codes, in units of how far test codes are.

    The mean distance of generated codes to their nearest training code, divided by that of test codes: 0 for copies of
    the training set, 1 for samples as new as the test set.

    Args:
      generated: codes [n, d]. train: codes [N, d]. test: codes [m, d], of one encoder.

    Returns:
      The ratio, called lmem in the tables.
    """
    return nearest(generated, train)[0].mean() / nearest(test, train)[0].mean()
