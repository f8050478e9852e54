"""The streamed maximum of affine functions, max_i <y_i, x> + h_i: its value, its argmax, its k largest.

Points are scored a block at a time: on a CPU one that stays in its cache, on an accelerator one so large that it is
busy for longer than a step of a loop takes to start there. Derivatives need the points that reach the values and
nothing else.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from otgen import sizes
from otgen.ot.check import as_array, as_count
from otgen.ot.inert import tiles
from otgen.ot.products import contract, product
from otgen.types import Array, Float, Int

TILE = 4096  # samples scored together
_GROUP = 32  # points that share one running maximum; the winner inside is found by scoring them again


def blocks(y: Array, h: Array, size: int) -> tuple[Array, Array]:
    """Pad to whole blocks (height -inf never wins) and fold to [blocks, size, d] and [blocks, size]."""
    return tiles(y, size), tiles(h, size, constant_values=-jnp.inf)


def _even(num: int, most: int) -> int:
    """Return the size of as few blocks as hold `num` points, of at most `most`, multiples of a CPU's."""
    count = -(-num // most)
    return sizes.CPU.scored * -(-num // (sizes.CPU.scored * count))


def _group_maxima(x: Array, y: Array, h: Array) -> Array:
    """Return scores of x [t, d] against one block [b, d], reduced to the maximum of each group: [t, b // _GROUP]."""
    scores = product(x, y.T) + h
    return scores.reshape(x.shape[0], y.shape[0] // _GROUP, _GROUP).max(-1)


def _best_group(x: Array, y: Array, h: Array) -> Array:
    """Return the group that holds the largest score of each sample, by a running maximum over blocks: [t, 1]."""
    within = jnp.arange(y.shape[1] // _GROUP, dtype=jnp.int32)

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
    """Return the k groups with the largest maxima, which hold the k largest scores between them: [t, k]."""
    per_block = y.shape[1] // _GROUP
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
    scores = contract("td,tgmd->tgm", x, members)
    scores = (scores + heights).reshape(x.shape[0], k * _GROUP)
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
    outputs = lax.map(visit, tiles(x, tile))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:num], outputs)


def streamed(x: Array, y: Array, h: Array, *, k: int, block: int) -> tuple[Array, Array]:
    """Return the k largest scores and their points, by blocks of so many points."""
    last = y.shape[0] - 1
    unknown = jnp.isnan(x).any(1) | jnp.isnan(y).any() | jnp.isnan(h).any()  # which maxima on a CPU may leave out
    y, h = blocks(y, h, block)

    def visit(tile):
        groups = _best_group(tile, y, h) if k == 1 else _best_groups(tile, y, h, k)
        return _rescore(tile, y, h, groups, k)

    value, index = _tiled(x, TILE if k == 1 else max(1, TILE // k), visit)
    return value.at[:, 0].set(jnp.where(unknown, jnp.nan, value[:, 0])), jnp.minimum(index, last)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _scores(x: Array, y: Array, h: Array, k: int) -> tuple[Array, Array]:
    return streamed(x, y, h, k=k, block=_even(y.shape[0], sizes.here().scored))


@_scores.defjvp
def _derivative(k, primals, tangents):
    """Return the derivative of a value <y_i, x> + h_i at its point i, which does not move; of an excluded point 0."""
    x, y, h = primals
    of_x, of_y, of_h = tangents
    value, index = _scores(x, y, h, k)
    # Products and sums instead of a matrix product: exact on every device, and fused with the gather.
    slope = jnp.sum(of_x[:, None] * y[index] + x[:, None] * of_y[index], -1) + of_h[index]
    slope = jnp.where(value == -jnp.inf, 0.0, slope)
    return (value, index), (slope, np.zeros(index.shape, jax.dtypes.float0))


def top_scores(
    x: ArrayLike, y: ArrayLike, h: ArrayLike, k: int = 1
) -> tuple[Float[Array, "n {k}"], Int[Array, "n {k}"]]:
    """Return the k largest scores <y_i, x> + h_i of every sample and the points that reach them.

    A sample costs 2 N d operations and one scoring of k groups of 32 points. Arithmetic is in float32, or in float64 if
    an array is; products have the highest precision. Memory is that of TILE x `sizes.Sizes.scored` scores and O(n k),
    never n x N.

    vmappable, and differentiable in forward and reverse mode, as often as you like: the gradient of a value in x is the
    point that reaches it, in that point it is x, and in its height 1; nothing flows to a value of -inf, and indices
    have no derivative. This takes O(n k d) memory.

    Args:
      x: samples [n, d].
      y: points [N, d], in the units in which <y_i, x> is one of h.
      h: heights [N]; -inf excludes a point.
      k: how many, at most N.

    Static: k and the shapes.

    Returns:
      Values [n, k] in descending order and indices [n, k] (int32). Which one of equal scores comes first is open. Where
      x, y or h is not a number, neither is the first value of the samples concerned. Where fewer than k points have a
      height above -inf the rest are -inf, of any index.

    Raises:
      ValueError: for arrays that do not match, k < 1 or k > N.

    Example:
      >>> x, y = jnp.array([[1.0], [-1.0]]), jnp.array([[-1.0], [0.0], [2.0]])
      >>> value, index = og.ot.semidiscrete.scores.top_scores(x, y, jnp.zeros(3), k=2)
      >>> print(value)
      [[2. 0.]
       [1. 0.]]
      >>> print(index)
      [[2 1]
       [0 1]]
      >>> best = lambda x: og.ot.semidiscrete.scores.top_scores(x, y, jnp.zeros(3))[0].sum()
      >>> print(jax.grad(best)(x))  # the points that win
      [[ 2.]
       [-1.]]

    Reference: Gu et al. (2013), arXiv 1302.5472 (the envelope max_i <y_i, x> + h_i and its cells); Danskin's
    theorem for its gradient.
    """
    y = as_array("y", y, (None, None), finite=False)
    x = as_array("x", x, (None, y.shape[1]), finite=False)
    h = as_array("h", h, y.shape[:1], finite=False)
    if (k := as_count("k", k)) > y.shape[0]:
        raise ValueError(f"top_scores was asked for k = {k} of {y.shape[0]} points: choose k <= N.")
    return _top_scores(x, y, h, k)


@functools.partial(jax.jit, static_argnames="k")
def _top_scores(x: Array, y: Array, h: Array, k: int) -> tuple[Array, Array]:
    dtype = jnp.result_type(x, y, h)
    return _scores(x.astype(dtype), y.astype(dtype), h.astype(dtype), k)
