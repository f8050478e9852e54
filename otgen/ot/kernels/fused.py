"""The k largest scores <y_i, x> + h_i of every sample as one GPU kernel, which never writes the n x N scores to memory.

The kernel works on tiles as `otgen.ot.kernels.softmin` does. Every row keeps its k largest scores so far, with the
points that reached them. Each of the programs that share the columns finds k scores, and these are merged at the end.

Scores are ordered as pairs of a value and a code, larger values first, then smaller codes. The code is the index; of a
score that is not a number it is the index with the sign bit set, and the value is infinite, so that such a score comes
first. (The maximum of Triton leaves out what is not a number, that of the interpreter does not.)
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl

from otgen.ot.kernels.softmin import COLUMNS, ROWS, launch, tile_product
from otgen.types import Array, Float, Int

LAST = np.int32(2**31 - 1)  # the code of no point, which comes after all others
NOT_A_NUMBER = np.int32(-(2**31))  # the sign bit


def _insert(best: list[tuple[Array, Array]], value: Array, code: Array, first: int) -> list[tuple[Array, Array]]:
    """Insert a score of every row into its ordered list, at place `first` or later; the last entry falls out."""
    best = list(best)
    for place in range(first, len(best)):
        other, theirs = best[place]
        ahead = (value > other) | ((value == other) & (code < theirs))
        best[place] = jnp.where(ahead, value, other), jnp.where(ahead, code, theirs)
        value, code = jnp.where(ahead, other, value), jnp.where(ahead, theirs, code)
    return best


def _kernel(x_ref, y_ref, height_ref, value_ref, code_ref, *, tiles: int, depth: int):
    """Find the k first scores of a tile of rows among `tiles` tiles of columns.

    x_ref [ROWS, d], y_ref [d, m], height_ref [m]; value_ref, code_ref [k, ROWS].
    """
    k = value_ref.shape[0]
    first = pl.program_id(1) * tiles

    def visit(tile, best):
        start = (first + tile) * COLUMNS
        columns = pl.ds(start, COLUMNS)
        scores = tile_product(x_ref, y_ref, columns, depth) + height_ref[columns][None, :]
        index = (start + lax.iota(jnp.int32, COLUMNS)).astype(jnp.int32)
        unknown = scores != scores
        codes = jnp.where(unknown, (index + NOT_A_NUMBER)[None, :], index[None, :])
        scores = jnp.where(unknown, jnp.inf, scores)
        for place in range(k):
            value = scores.max(1)
            code = jnp.where(scores >= value[:, None], codes, LAST).min(1)
            best = _insert(best, value, code, place)
            if place < k - 1:
                taken = codes == code[:, None]
                scores, codes = jnp.where(taken, -jnp.inf, scores), jnp.where(taken, LAST, codes)
        return best

    nobody = jnp.full(ROWS, -jnp.inf, x_ref.dtype), jnp.full(ROWS, LAST)
    for place, (value, code) in enumerate(lax.fori_loop(0, tiles, visit, [nobody] * k)):
        value_ref[place, :], code_ref[place, :] = value, code


@functools.partial(jax.jit, static_argnames=("k", "interpret"))
def fused_scores(
    x: Float[Array, "n d"], y: Float[Array, "N d"], h: Float[Array, " N"], k: int, interpret: bool = False
) -> tuple[Float[Array, "n {k}"], Int[Array, "n {k}"]]:
    """Return the k largest scores <y_i, x> + h_i of every sample and the points that reach them, by one kernel.

    The result is that of `lax.top_k(x @ y.T + h, k)` in float32, never TF32, also where scores are equal (the first
    point wins), -inf, or not a number (these come first). Beyond copies of the points it needs memory for k values and
    indices of each sample, and for 65,536 k more by which the programs that share the columns are merged.

    It can be vmapped. It has no derivatives; `otgen.ot.semidiscrete.scores.top_scores` has.

    Args:
      x: samples [n, d], n >= 1, d >= 1.
      y: points [N, d].
      h: heights [N]; -inf excludes a point.
      k: how many, at most N. The work grows by two reductions of every tile for each.
      interpret: run the kernel in Pallas's interpreter, on any device and slowly, to test it.

    Static: k, interpret and the shapes.

    Returns:
      Values [n, k] in descending order and indices [n, k] (int32).

    Raises:
      ValueError: from jax, on a CPU without `interpret`.

    Example:
      >>> from otgen.ot.kernels.fused import fused_scores
      >>> x, y = jnp.array([[1.0], [-1.0]]), jnp.array([[-1.0], [0.0], [2.0]])
      >>> value, index = fused_scores(x, y, jnp.zeros(3), 2, interpret=True)
      >>> print(index)
      [[2 1]
       [0 1]]

    Reference: Dao et al. (2022), arXiv 2205.14135 (tiles that are reduced where they are made).
    """
    outputs = ((k,), x.dtype), ((k,), jnp.int32)
    values, codes = launch(_kernel, x, y, h, outputs=outputs, name="top_scores", interpret=interpret)
    value, index = (found.reshape(-1, x.shape[0]).T for found in (values, codes))  # [n, splits k], splits in order
    value, index = jnp.where(index < 0, jnp.nan, value), jnp.minimum(index & LAST, y.shape[0] - 1)
    if value.shape[1] == k:
        return value, index
    # Both take the first of equal scores, and scores that are not a number before all others.
    order = jnp.argmax(value, axis=1, keepdims=True) if k == 1 else lax.top_k(value, k)[1]
    return jnp.take_along_axis(value, order, axis=1), jnp.take_along_axis(index, order, axis=1)
