"""The singular set of the semi-discrete map: where its potential folds sharply, and paths of noise across it.

The map jumps across the faces of its cells. Most jumps lead to a near target; those that lead far, across a gap of
the targets, are faces with a large dihedral angle in the graph of the potential: the singular set (An et al., 2020,
arXiv 2001.03698). A threshold of the angle, such as `Extension.angle`, tells both kinds apart. `singular_angles`
finds the face nearest to a sample; `walk` finds the faces that a path of samples crosses, from the affine functions
that meet there and not from a grid.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from otgen import sizes
from otgen.ot.check import as_array, as_count, as_points
from otgen.ot.inert import tiles
from otgen.ot.products import product
from otgen.ot.semidiscrete.descent import Heights, lying_out, of_one_type, shifted
from otgen.ot.semidiscrete.scores import blocks, top_scores
from otgen.ot.semidiscrete.solution import matching
from otgen.types import Array, Float

_BLOCK = 256  # targets visited together


class Faces(NamedTuple):
    """The faces nearest to samples.

    Attributes:
      angle: their dihedral angles [n] in radians.
      distance: from the samples [n]; infinite, with the angle 0, if all targets coincide.
      index: the targets [n, 2] (int32) whose cells meet there, the sample's own first.

    Example:
      >>> y, state = jnp.array([[-1.0], [1.0]]), og.semidiscrete.from_heights(jnp.zeros(2))
      >>> print(og.extension.singular_angles(state, y, jnp.array([[0.2]])).index)
      [[1 0]]
    """

    angle: Array
    distance: Array
    index: Array


class Walk(NamedTuple):
    """The cells that a path of samples visits, and where it passes from one to the next.

    Attributes:
      time: of the crossings [k], ascending: s + t is the place p_s + t (p_{s+1} - p_s) on the path; infinite past the
        last crossing.
      cells: targets [k + 1] (int32) whose cells are visited, the first at the start of the path; -1 past the last.
      angle: dihedral angles [k] in radians of the faces crossed; 0 past the last.
      num: crossings found.
      complete: whether these are all; if not, give a larger max_crossings.

    Example:
      >>> y, state = jnp.array([[-1.0], [1.0]]), og.semidiscrete.from_heights(jnp.zeros(2))
      >>> walk = og.extension.walk(state, y, jnp.array([[-0.3], [0.1]]), max_crossings=2)
      >>> print(walk.cells, walk.num, walk.complete)
      [ 0  1 -1] 1 True
    """

    time: Array
    cells: Array
    angle: Array
    num: Array
    complete: Array


def dihedral_angle(a: ArrayLike, b: ArrayLike) -> Float[Array, "*r"]:
    """Return the angle between the planes z = <a, x> and z = <b, x>: how sharply the potential folds along a face.

    theta = arccos((1 + <a, b>) / sqrt((1 + |a|^2)(1 + |b|^2))), computed without loss of digits at small angles.
    It depends on the scale and the origin of the points.

    Args:
      a, b: slopes [..., d], broadcast against each other.

    Returns:
      Angles [...] in radians, in [0, pi).

    Raises:
      ValueError: for slopes of different dimensions, or shapes that do not broadcast.

    Example:
      >>> a, b = jnp.array([1.0, 0.0]), jnp.array([-1.0, 0.0])
      >>> print(og.extension.dihedral_angle(a, b), np.pi / 2)  # planes of slopes 1 and -1
      1.571 1.571
    """
    a, b = as_array("a", a), as_array("b", b)
    try:
        fits = a.ndim and b.ndim and a.shape[-1] == b.shape[-1] and jnp.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"a has shape {a.shape} and b {b.shape}: give slopes [..., d] that broadcast, of one d.")

    def normal(slope):
        slope = jnp.concatenate([slope, -jnp.ones_like(slope[..., :1])], axis=-1)
        return slope / jnp.linalg.norm(slope, axis=-1, keepdims=True)

    a, b = normal(a), normal(b)
    return 2 * jnp.arctan2(jnp.linalg.norm(a - b, axis=-1), jnp.linalg.norm(a + b, axis=-1))


def singular_angles(state: Heights, y: ArrayLike, x: ArrayLike) -> Faces:
    """Find the face of the cells that is nearest to every sample, and how sharply the potential folds there.

    The distance of x, in the cell of i, from the face to the cell of j is the least over j of
    (<y_i - y_j, x> + h_i - h_j) / |y_i - y_j|. Samples for which the distance is small and the angle above a threshold
    make a layer around the singular set. Faces outside the support of the source count like others. All targets are
    visited for each sample, a block at a time: memory is tens of MiB beside the points, never n x N.

    Args:
      state: heights of the map.
      y: points [N, d].
      x: source samples [n, d], such as `extension.source_samples` draws.

    Returns:
      Faces: angle, distance and the two targets, for every sample.

    Raises:
      ValueError: if points, heights and samples do not match.

    Example:
      >>> y = jnp.array([[-1.1], [-1.0], [1.0], [1.1]])  # on a line, two pairs with a gap between them
      >>> state, _ = og.semidiscrete.run(jax.random.key(0), y)  # cells of length 1/4
      >>> faces = og.extension.singular_angles(state, y, jnp.array([[-0.3], [-0.2], [-0.1]]))
      >>> print((faces.angle > 0.5).tolist(), jnp.abs(faces.distance - jnp.array([0.05, 0.05, 0.1])).max() < 0.01)
      [False, False, True] True
    """
    return _nearest_faces(*of_one_type(matching(state, y, x), state.h, as_points("x", x, 1)))


@jax.jit
def _nearest_faces(y: Array, h: Array, x: Array) -> Faces:
    y = jnp.where(lying_out(h)[:, None], 0, y)
    centred, h = shifted(y, h)
    winner = top_scores(x, centred, h)[1][:, 0]
    tile = max(1, min(sizes.here().alive // (_BLOCK * y.shape[1]), x.shape[0]))

    def nearest(samples):
        place, own = samples
        start = jnp.full(place.shape[0], jnp.inf, y.dtype), own

        def visit(best, block):
            targets, below, first = block
            # Differences of targets as given come first: near ones lose no digits, equal ones are seen.
            apart = y[own][:, None] - targets
            gap = jnp.sum(apart * place[:, None], -1) + (h[own][:, None] - below)
            length = jnp.sqrt(jnp.sum(apart**2, -1))
            distance = jnp.where(length > 0, jnp.maximum(gap, 0) / jnp.where(length > 0, length, 1), jnp.inf)
            least = distance.argmin(1).astype(jnp.int32)
            found = jnp.take_along_axis(distance, least[:, None], 1)[:, 0]
            better = found < best[0]
            return (jnp.where(better, found, best[0]), jnp.where(better, first + least, best[1])), None

        firsts = jnp.arange(0, y.shape[0], _BLOCK, dtype=jnp.int32)
        return lax.scan(visit, start, (*blocks(y, h, _BLOCK), firsts))[0]

    found = lax.map(nearest, (tiles(x, tile), tiles(winner, tile)))
    distance, other = (part.reshape(-1)[: x.shape[0]] for part in found)
    return Faces(dihedral_angle(centred[winner], centred[other]), distance, jnp.stack([winner, other], 1))


def walk(state: Heights, y: ArrayLike, path: ArrayLike, *, max_crossings: int = 256) -> Walk:
    """Follow a path of samples through the cells.

    Along a segment the scores are affine in time, a_j + b_j t, and from cell i the path next meets the cell whose
    (a_i - a_j) / (b_j - b_i) is least among all j with b_j > b_i: the crossings of a convex piecewise-linear function.
    Every crossing costs O(N), and every segment O(N d) once.

    Args:
      state: heights of the map.
      y: points [N, d].
      path: corners [m, d] of a path of straight segments, m >= 2, in the source.
      max_crossings: length k of the answer, and the most crossings followed on one segment. Static.

    Returns:
      Walk: times of the crossings, cells, and dihedral angles of the faces.

    Raises:
      ValueError: if points, heights and path do not match, for a path of one corner, or max_crossings < 1.

    Example:
      >>> y = jnp.array([[-1.1], [-1.0], [1.0], [1.1]])  # on a line, two pairs with a gap between them
      >>> state, _ = og.semidiscrete.run(jax.random.key(0), y)  # cells of length 1/4
      >>> walk = og.extension.walk(state, y, jnp.array([[-0.5], [0.5]]), max_crossings=3)
      >>> print(walk.cells, jnp.abs(walk.time - jnp.array([0.25, 0.5, 0.75])).max() < 0.01, walk.angle > 0.5)
      [0 1 2 3] True [False  True False]
    """
    y, path = matching(state, y, path), as_array("path", path)
    if path.shape[0] < 2:
        raise ValueError("the path has one corner: give at least two, where it starts and where it ends.")
    return _walk(*of_one_type(y, state.h, path), as_count("max_crossings", max_crossings))


@functools.partial(jax.jit, static_argnames="num")
def _walk(y: Array, h: Array, path: Array, num: int) -> Walk:
    y, h = shifted(y, h)
    segments = path[:-1], path[1:]
    first, time, entered, complete = lax.map(lambda ends: _segment(y, h, *ends, num), segments)
    time = (time + jnp.arange(len(path) - 1)[:, None]).reshape(-1)
    order = jnp.argsort(time)[:num]
    total = jnp.isfinite(time).sum()
    time, entered = time[order], entered.reshape(-1)[order]
    cells = jnp.concatenate([first[:1], entered])
    angle = jnp.where(jnp.isfinite(time), dihedral_angle(y[cells[:-1]], y[cells[1:]]), 0.0)
    return Walk(time, cells, angle, jnp.minimum(total, num), complete.all() & (total <= num))


def _segment(y: Array, h: Array, start: Array, end: Array, num: int) -> tuple[Array, Array, Array, Array]:
    """The cell at the start, times in (0, 1) and cells entered of up to `num` crossings, and whether these are all."""
    value = product(y, start) + h
    slope = product(y, end - start)

    def next_crossing(time: Array, here: Array) -> tuple[Array, Array]:
        rise = slope - slope[here]
        meet = jnp.where(rise > 0, (value[here] - value) / jnp.where(rise > 0, rise, 1), jnp.inf)
        meet = jnp.maximum(meet, time)  # rounding may put it before
        least = meet.min()
        return least, jnp.where(meet <= least, slope, -jnp.inf).argmax().astype(jnp.int32)  # of several, the steepest

    def step(carry):
        count, time, cell, times, cells = carry
        times, cells = times.at[count].set(time), cells.at[count].set(cell)
        return count + 1, *next_crossing(time, cell), times, cells

    first = jnp.where(value >= value.max(), slope, -jnp.inf).argmax().astype(jnp.int32)
    nothing = jnp.full(num, jnp.inf, value.dtype), jnp.full(num, -1, jnp.int32)
    begin = jnp.int32(0), *next_crossing(jnp.zeros((), value.dtype), first), *nothing
    _, time, _, times, cells = lax.while_loop(lambda it: (it[0] < num) & (it[1] < 1), step, begin)
    return first, times, cells, time >= 1
