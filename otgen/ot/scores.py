"""The streamed maximum of affine functions, max_i <y_i, x> + h_i: its value, its argmax, its k largest."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int, Real

from otgen.types import Array

TILE = 4096  # samples scored together
BLOCK = 256  # points scored together: TILE x BLOCK scores are alive at a time
_GROUP = 32  # points that share one running maximum; the winner inside is found by scoring them again


def _blocks(y: Array, h: Array) -> tuple[Array, Array]:
    """Pad to whole blocks (height -inf never wins) and fold to [blocks, BLOCK, d] and [blocks, BLOCK]."""
    num_blocks = -(-y.shape[0] // BLOCK)
    padding = num_blocks * BLOCK - y.shape[0]
    y = jnp.pad(y, ((0, padding), (0, 0)))
    h = jnp.pad(h, (0, padding), constant_values=-jnp.inf)
    return y.reshape(num_blocks, BLOCK, -1), h.reshape(num_blocks, BLOCK)


def _group_maxima(x: Array, y: Array, h: Array) -> Array:
    """Scores of x [t, d] against one block, reduced to the maximum of each group: [t, BLOCK // _GROUP]."""
    scores = jnp.matmul(x, y.T, precision=lax.Precision.HIGHEST) + h
    return scores.reshape(x.shape[0], -1, _GROUP).max(-1)


def _best_group(x: Array, y: Array, h: Array) -> Array:
    """The group holding the largest score of each sample, by a running maximum over blocks: [t, 1]."""
    within = jnp.arange(BLOCK // _GROUP, dtype=jnp.int32)

    def visit(best, block):
        value, group = best
        maxima = _group_maxima(x, *block[:2])
        top = maxima.max(-1)
        # A fused argmax is an order of magnitude slower on CPU than a maximum and a comparison.
        winner = jnp.where(maxima >= top[:, None], within, 0).max(-1) + block[2] * within.size
        return (jnp.maximum(value, top), jnp.where(top > value, winner, group)), None

    start = jnp.full(x.shape[0], -jnp.inf, x.dtype), jnp.zeros(x.shape[0], jnp.int32)
    (_, group), _ = lax.scan(visit, start, (y, h, jnp.arange(y.shape[0], dtype=jnp.int32)))
    return group[:, None]


def _best_groups(x: Array, y: Array, h: Array, k: int) -> Array:
    """The k groups with the largest maxima, which hold the k largest scores between them: [t, k]."""
    per_block = BLOCK // _GROUP
    within = jnp.arange(per_block, dtype=jnp.int32)

    def visit(best, block):
        maxima = jnp.concatenate([best[0], _group_maxima(x, *block[:2])], axis=1)
        new = jnp.broadcast_to(within + block[2] * per_block, (x.shape[0], per_block))
        values, order = lax.top_k(maxima, k)
        groups = jnp.concatenate([best[1], new], axis=1)
        return (values, jnp.take_along_axis(groups, order, axis=1)), None

    nobody = jnp.full((x.shape[0], k), y.shape[0] * per_block, jnp.int32)  # past the end: no members
    start = jnp.full((x.shape[0], k), -jnp.inf, x.dtype), nobody
    (_, groups), _ = lax.scan(visit, start, (y, h, jnp.arange(y.shape[0], dtype=jnp.int32)))
    return groups


def _rescore(x: Array, y: Array, h: Array, groups: Array, k: int) -> tuple[Array, Array]:
    """Score the members of the chosen groups again and return the k largest values and their indices."""
    members = y.reshape(-1, _GROUP, y.shape[-1]).at[groups].get(mode="fill", fill_value=0)
    heights = h.reshape(-1, _GROUP).at[groups].get(mode="fill", fill_value=-jnp.inf)
    scores = jnp.einsum("td,tgmd->tgm", x, members, precision=lax.Precision.HIGHEST)
    scores = (scores + heights).reshape(x.shape[0], -1)
    index = (groups[..., None] * _GROUP + jnp.arange(_GROUP, dtype=jnp.int32)).reshape(scores.shape)
    if k == 1:
        value = scores.max(-1, keepdims=True)
        return value, jnp.where(scores >= value, index, 0).max(-1, keepdims=True)
    value, order = lax.top_k(scores, k)
    return value, jnp.take_along_axis(index, order, axis=1)


def _tiled(x: Array, tile: int, visit) -> tuple[Array, Array]:
    """Apply `visit` to tiles of samples in turn, so that memory does not grow with their number."""
    num = x.shape[0]
    if num <= tile:
        return visit(x)
    padded = jnp.pad(x, ((0, -num % tile), (0, 0))).reshape(-1, tile, x.shape[1])
    outputs = lax.map(visit, padded)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:num], outputs)


@functools.partial(jax.jit, static_argnames="k")
def top_scores(
    x: Real[Array, "n d"], y: Real[Array, "N d"], h: Real[Array, " N"], k: int = 1
) -> tuple[Float[Array, "n {k}"], Int[Array, "n {k}"]]:
    """Return the k largest scores <y_i, x> + h_i of every sample and the points that reach them.

    Memory is O(TILE x BLOCK + n k), never n x N; a sample costs 2 N d operations and one scoring
    of k groups of 32 points.

    Args:
      x: samples [n, d].
      y: points [N, d].
      h: heights [N]; -inf excludes a point.
      k: how many, at most N. Static.

    Returns:
      Values [n, k] in descending order and indices [n, k] (int32).
    """
    if k > y.shape[0]:
        raise ValueError(f"top_scores was asked for k = {k} of {y.shape[0]} points: choose k <= N.")
    last = y.shape[0] - 1
    dtype = jnp.promote_types(jnp.result_type(x, y, h), jnp.float32)
    x, y, h = (array.astype(dtype) for array in (x, y, h))
    y, h = _blocks(y, h)

    def visit(tile):
        groups = _best_group(tile, y, h) if k == 1 else _best_groups(tile, y, h, k)
        return _rescore(tile, y, h, groups, k)

    value, index = _tiled(x, TILE if k == 1 else max(1, TILE // k), visit)
    return value, jnp.minimum(index, last)
