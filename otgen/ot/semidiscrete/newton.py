"""Newton's steps on the heights of a semi-discrete problem, for the plane and space, where descent can be slow.

The energy's second derivative in two heights is minus half the density, at 0, of the gap between the two best scores
over the samples whose two best points they are: a graph's Laplacian, whose edges are the faces between cells. Samples
of a cell that lie under one of its faces fill about a cone, in which the gap has density (d / G) (1 - g / G)^(d-1). At
0 that is d / (d + 1) over its mean, so one pass that finds the two best points has the whole matrix (too low, by half
at most, where cells of different heights meet). Marquardt's multiple of its diagonal damps the step; one that leaves
more cells empty, or a larger chi2 of fresh samples, is taken back.

Descent has one step size for all heights. Clustered points want many: what a difference of heights moves between two
clusters is a small part of what it moves inside one. In higher dimensions a cell has so many faces that descent is at
the floor of independent samples already, and the matrix, from as many samples, is noise.

Kitagawa, Merigot and Thibert (2019, doi 10.4171/JEMS/889) for damping that empties no cell; Marquardt (1963).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from otgen.ot.semidiscrete.descent import centred
from otgen.ot.semidiscrete.scores import top_scores
from otgen.ot.semidiscrete.source import draw
from otgen.types import Array, Float, Key, Sampler

MOST_DIM = 3  # from four dimensions on descent alone is as good
_PER_CELL = 64  # samples for the matrix, and for the first counts
_LEAST = 2**16  # samples of a count
_FINER = 4  # times as many samples where the noise of a count hides whether a step was good
_NOISE = 2.0  # chi2 of a count that is no more than so many times its expected noise says nothing
_DAMPING = 1.0  # at first; divided by ten after a step that was kept, times ten after one that was not
_LEAST_DAMPING, _MOST_DAMPING = 1e-3, 1e3
_FAILURES = 4  # in a row, before the count gets finer
_SURE = 8.0  # a cell is called empty where no sample is and so many were to be expected
_LACKING = 2**16  # samples that say how far an empty cell is below the others
_PART = 2**20  # samples whose pairs are sorted together
_ROWS = 64  # empty cells looked at together


class Count(NamedTuple):
    """Where samples fell.

    Attributes:
      masses: shares of the cells [N].
      edges: pairs of points [E, 2] that were the two best of a sample.
      flow: minus the second derivative of the energy for each pair [E].
      num: samples.
    """

    masses: np.ndarray
    edges: np.ndarray
    flow: np.ndarray
    num: int

    def chi2(self, weights: np.ndarray) -> float:
        """Return the divergence of the masses from the weights, with the noise of the samples in it."""
        return float(np.sum((self.masses - weights) ** 2 / weights))

    def empty(self, weights: np.ndarray) -> np.ndarray:
        """Return the cells without a sample that should have several."""
        return np.flatnonzero((self.masses == 0) & (weights * self.num > _SURE))


@functools.partial(jax.jit, static_argnames=("num", "sampler", "batch_size"))
def _two_best(key: Key, h: Array, y: Array, first: Array | int, num: int, sampler: Sampler, batch_size: int):
    """Return the two best points of the samples of `num` blocks [n, 2] and the gaps between their scores [n]."""

    def visit(_, block):
        values, index = top_scores(draw(key, sampler, first + block, batch_size, y.shape[1], y.dtype), y, h, k=2)
        return None, (index, values[:, 0] - values[:, 1])

    _, (index, gaps) = lax.scan(visit, None, jnp.arange(num))
    return index.reshape(-1, 2), gaps.reshape(-1)


@functools.partial(jax.jit, static_argnames=("sampler", "batch_size"))
def _won(key: Key, h: Array, y: Array, first: Array | int, num: Array | int, sampler: Sampler, batch_size: int):
    """Return samples of `num` blocks that each point wins [N], int32."""

    def visit(block, won):
        x = draw(key, sampler, first + block, batch_size, y.shape[1], y.dtype)
        return won.at[top_scores(x, y, h)[1][:, 0]].add(1)

    return lax.fori_loop(0, num, visit, jnp.zeros(y.shape[0], jnp.int32))


def count(
    key: Key, h: np.ndarray, y: Float[Array, "N d"], first: int, num: int, sampler: Sampler, batch_size: int
) -> Count:
    """Count where the samples of blocks first..first+num-1 of a stream fall at heights h, and find the faces."""
    size, dim = y.shape
    heights = jnp.asarray(h, y.dtype)
    for_pairs, part = min(num, _blocks_of(size, batch_size)), max(1, _PART // batch_size)
    resolution = np.finfo(heights.dtype).eps * np.abs(h - h.mean()).max()  # of the scores
    won, keys, often, total = np.zeros(size, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0)
    for start in range(0, for_pairs, part):
        blocks = min(part, for_pairs - start)
        index, gaps = map(np.asarray, _two_best(key, heights, y, first + start, blocks, sampler, batch_size))
        won += np.bincount(index[:, 0], minlength=size)
        pairs = np.sort(index, axis=1).astype(np.int64)
        keys, at = np.unique(np.concatenate([keys, pairs[:, 0] * size + pairs[:, 1]]), return_inverse=True)
        often = np.bincount(at, np.concatenate([often, np.ones(len(gaps))]))
        total = np.bincount(at, np.concatenate([total, np.maximum(gaps, resolution)]))
    if num > for_pairs:
        won += np.asarray(_won(key, heights, y, first + for_pairs, num - for_pairs, sampler, batch_size))
    flow = dim / (dim + 1) * often**2 / (2 * np.maximum(total, 1e-30)) / (for_pairs * batch_size)  # from both sides
    return Count(won / won.sum(), np.stack(np.divmod(keys, size), 1), flow, num * batch_size)


def direction(counted: Count, weights: np.ndarray, damping: float) -> np.ndarray:
    """Solve (L + damping diag L) step = weights - masses by conjugate gradients; 0 where a point has no face [N]."""
    from scipy.sparse import coo_array, diags_array
    from scipy.sparse.csgraph import connected_components
    from scipy.sparse.linalg import cg

    size = len(weights)
    ends = np.concatenate([counted.edges, counted.edges[:, ::-1]])
    flow = np.concatenate([counted.flow, counted.flow])
    off = coo_array((flow, (ends[:, 0], ends[:, 1])), shape=(size, size)).tocsr()
    degree = off.sum(1)
    _, part = connected_components(off, directed=False)
    lack = weights - counted.masses
    lack -= (np.bincount(part, lack) / np.bincount(part))[part]  # what no height inside a part can change
    scale = 1 / np.sqrt(np.where(degree > 0, degree, 1.0))
    matrix = (1 + damping) * diags_array(np.ones(size)) - diags_array(scale) @ off @ diags_array(scale)
    step = scale * cg(matrix, scale * lack, rtol=1e-4, maxiter=1000)[0]
    step[degree == 0] = 0.0
    return step - step.mean()


def raised(key: Key, h: np.ndarray, y: Array, empty: np.ndarray, weights: np.ndarray, sampler: Sampler) -> np.ndarray:
    """Return heights [N] at which each empty cell, alone, would win half of its weight, or one of 65,536 samples."""
    x = draw(key, sampler, 0, _LACKING, y.shape[1], y.dtype)
    best = np.asarray(top_scores(x, y, jnp.asarray(h, y.dtype))[0])[:, 0]
    x, points, h = np.asarray(x), np.asarray(y), h.copy()
    for first in range(0, len(empty), _ROWS):
        rows = empty[first : first + _ROWS]
        short = best[:, None] - (x @ points[rows].T + h[rows].astype(np.float32))
        wanted = np.maximum(1, _LACKING * weights[rows] / 2).astype(int)
        h[rows] += [np.partition(column, place)[place] for column, place in zip(short.T, wanted, strict=True)]
    return h


def unearth(
    key: Key, h: Float[Array, " N"], y: Float[Array, "N d"], weights: Float[Array, " N"], sampler: Sampler
) -> Float[Array, " N"]:
    """Return heights [N], mean 0, with every cell raised that none of 65,536 samples saw though several should have."""
    nu, y = np.asarray(weights, np.float64), centred(y, weights)[0]
    won = np.asarray(_won(key, h, y, 0, 1, sampler, _LACKING))
    empty = np.flatnonzero((won == 0) & (nu * _LACKING > _SURE))
    new = raised(key, np.asarray(h, np.float64), y, empty, nu, sampler)
    return jnp.asarray(new - new.mean(), h.dtype)


def _blocks_of(size: int, batch_size: int) -> int:
    """Return blocks of samples in the smallest count."""
    return -(-max(_PER_CELL * size, _LEAST) // batch_size)


def run(
    key: Key,
    h: Float[Array, " N"],
    y: Float[Array, "N d"],
    weights: Float[Array, " N"],
    tol: float,
    first: int,
    most: int,
    sampler: Sampler,
    batch_size: int,
    report: Callable[[int, dict[str, Any]], None] | None = None,
) -> tuple[Float[Array, " N"], int]:
    """Take damped Newton steps until chi2 is below a third of tol, or `most` blocks leave no room for another.

    Steps go on while a count of fresh samples can tell whether they are good; if that is not yet below a third of tol,
    counts become finer.

    Args:
      key: the stream of samples, of which blocks first, first + 1, ... of `batch_size` are drawn.
      h: heights [N] to start from. y: points [N, d]. weights: [N].
      tol: chi2 that is wanted.
      first, most: the first block, and how many there may be.
      sampler, batch_size: the source law and the samples per block. Static.
      report: called after every step with the blocks drawn and `newton_chi2`, without bias, of its own samples.

    Returns:
      Heights [N], mean 0, and the number of blocks drawn; the heights given if `most` is too small for a step.
    """
    nu, start, y = np.asarray(weights, np.float64), h, centred(y, weights)[0]
    h, drawn, blocks, damping, failures = np.asarray(h, np.float64), 0, _blocks_of(len(y), batch_size), _DAMPING, 0

    def counted(h: np.ndarray) -> Count:
        nonlocal drawn
        found = count(key, h, y, first + drawn, blocks, sampler, batch_size)
        drawn += blocks
        if report:
            report(drawn, {"newton_chi2": found.chi2(nu) - (len(nu) - 1) / found.num})
        return found

    if most < 2 * blocks:
        return start, 0
    now = counted(h)
    if len(now.empty(nu)):
        h = raised(jax.random.fold_in(key, first), h, y, now.empty(nu), nu, sampler)
        now = counted(h)
    while True:
        if failures == _FAILURES or (not len(now.empty(nu)) and now.chi2(nu) < _NOISE * (len(nu) - 1) / now.num):
            finer = min(_FINER * blocks, (most - drawn) // 2)
            if now.chi2(nu) < tol / 3 or finer < 2 * blocks:
                break
            blocks, failures, damping = finer, 0, min(damping, _DAMPING)
            now = counted(h)
        if drawn + blocks > most:
            break
        step = direction(now, nu, damping)
        new = counted(h + step)
        if new.chi2(nu) < now.chi2(nu) and len(new.empty(nu)) <= len(now.empty(nu)):
            h, now, failures, damping = h + step, new, 0, max(damping / 10, _LEAST_DAMPING)
        else:
            failures, damping = failures + 1, min(damping * 10, _MOST_DAMPING)
    return jnp.asarray(h - h.mean(), start.dtype), drawn
