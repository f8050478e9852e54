"""Hit-and-run in the cells of a semi-discrete map: draws of the source law, given the point it is sent to.

The cell of point i is the polytope {x : <y_i - y_j, x> + h_i - h_j >= 0 for all j}. Along a line x + t v the part in
the cell is an interval, found exactly from the scores and their slopes, and on it the law of the source is known for
the three sources here: moving to a draw of it leaves the law within the cell as it was (Smith, 1984). Walks that are
advanced together share their directions, so that slopes [N] are taken once for all of them and scores are brought up
to date by one multiplication and addition; given the directions, walks are independent.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import ndtr, ndtri

from otgen import sizes
from otgen.ot.inert import tiles
from otgen.ot.products import contract, product
from otgen.ot.semidiscrete.scores import top_scores
from otgen.ot.semidiscrete.source import gaussian, uniform_ball, uniform_cube
from otgen.types import Array, Bool, Float, Int, Key, Sampler

SOURCES = (uniform_cube, uniform_ball, gaussian)  # whose law along a line is known
_RELAXED = 1.9  # a step of `start` goes this many times as far as the border of the half-space it aims at
_ULPS = 4.0  # distance to keep from a face, in roundings of the largest score


@functools.partial(jax.jit, static_argnames=("num_steps", "sampler"))
def start(
    y: Float[Array, "N d"],
    h: Float[Array, " N"],
    index: Int[Array, " n"],
    x: Float[Array, "n d"],
    num_steps: int,
    sampler: Sampler,
) -> tuple[Float[Array, "n d"], Bool[Array, " n"]]:
    """Move points into given cells, where they do not lie there already.

    Over-relaxed projection onto the half-space violated most (Agmon, 1954; Motzkin and Schoenberg, 1954), and back
    into the support of the source.

    Args:
      y: centred points [N, d]. h: heights [N].
      index: the cells [n].
      x: where to begin [n, d].
      num_steps: projections at most. Static.
      sampler: one of SOURCES. Static.

    Returns:
      Points [n, d], and whether each lies in its cell.

    Example:
      >>> from otgen.ot.semidiscrete import hit_and_run, source
      >>> y, index = jnp.array([[-1.0, 0.0], [1.0, 0.0]]), jnp.array([0, 1])
      >>> x, found = hit_and_run.start(y, jnp.zeros(2), index, jnp.zeros((2, 2)) + 0.1, 100, source.uniform_cube)
      >>> print(found, x[0, 0] < 0, x[1, 0] > 0)
      [ True True] True True
    """

    def improve(carry):
        x, (found, gap, normal), step = carry
        length = jnp.sqrt(jnp.sum(normal**2, 1))
        length = jnp.where(length > 0, length, 1)
        far = _RELAXED * gap / length + 1e-6  # never stuck by rounding on a face
        moved = x + far[:, None] * (normal / length[:, None])
        x = jnp.where(found[:, None], x, support(sampler, moved))
        return x, _violated(y, h, index, x), step + 1

    def more(carry):
        return (~carry[1][0]).any() & (carry[2] < num_steps)

    x, (found, _, _), _ = lax.while_loop(more, improve, (x, _violated(y, h, index, x), 0))
    return x, found


def support(sampler: Sampler, x: Array) -> Array:
    """Return the points of the source's support nearest to x [n, d].

    Example:
      >>> from otgen.ot.semidiscrete import hit_and_run, source
      >>> print(hit_and_run.support(source.uniform_cube, jnp.array([[0.7, 0.1]])))
      [[0.5 0.1]]
    """
    if sampler == uniform_cube:
        return jnp.clip(x, -0.5, 0.5)
    if sampler == uniform_ball:
        return x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1.0)
    return x


@functools.partial(jax.jit, static_argnames=("num_sweeps", "sampler"))
def walk(
    key: Key,
    y: Float[Array, "N d"],
    h: Float[Array, " N"],
    index: Int[Array, " n"],
    x: Float[Array, "n d"],
    num_sweeps: int,
    sampler: Sampler,
) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
    """Walk in the given cells by hit-and-run, whose stationary law is that of the source within the cell.

    A sweep is d moves in orthogonal directions: along the axes in even sweeps (faces of a cube then bound one move
    each), along those of a random rotation in odd ones. A move costs O(N) for each walk and O(N d) for all of them,
    memory is O(N (d + walks advanced together)).

    Args:
      key: random key.
      y: centred points [N, d]. h: heights [N].
      index: the cells [n].
      x: where the walks begin [n, d], each in its cell.
      num_sweeps: length of the walks. Static.
      sampler: one of SOURCES. Static.

    Returns:
      Where the walks end [n, d], and the means of their last three quarters [n, d], estimates of the mass centres.

    Example:
      >>> from otgen.ot.semidiscrete import hit_and_run, source
      >>> y, index, x = jnp.array([[-1.0], [1.0]]), jnp.full(2000, 1), jnp.full((2000, 1), 0.1)
      >>> x, _ = hit_and_run.walk(jax.random.key(0), y, jnp.zeros(2), index, x, 4, source.uniform_cube)
      >>> print(bool(((x > 0) & (x < 0.5)).all()), bool(jnp.abs(x.mean() - 0.25) < 0.01))  # uniform on [0, 1/2]
      True True
    """
    num, dim = x.shape
    size = max(1, min(num, sizes.here().alive // y.shape[0]))
    basis_key, place_key = jax.random.split(key)

    def tile(walks: Array, x: Array, index: Array) -> tuple[Array, Array]:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(place_key, walks)  # of a walk, whichever tile it is in

        def sweep(carry: tuple[Array, Array], s: Array) -> tuple[tuple[Array, Array], None]:
            x, total = carry
            score = product(x, y.T) + h
            largest = jnp.where(score == -jnp.inf, 0, jnp.abs(score)).max()  # of points that take part
            margin = _ULPS * jnp.finfo(score.dtype).eps * largest
            basis = jnp.where(
                s % 2, _rotation(jax.random.fold_in(basis_key, s), dim, x.dtype), jnp.eye(dim, dtype=x.dtype)
            )
            slopes = product(basis, y.T)  # one row for each direction
            u = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, s), (dim,), x.dtype))(keys).T

            def move(carry: tuple[Array, Array, Array], line: tuple[Array, Array, Array]) -> tuple:
                x, score, total = carry
                direction, slope, u = line
                t = _along(sampler, x, direction, *_within(score, slope, index, margin), u)
                x = x + t[:, None] * direction
                return (x, score + t[:, None] * slope, total + x), None

            (x, _, own), _ = lax.scan(move, (x, score, jnp.zeros_like(x)), (basis, slopes, u))
            return (x, total + jnp.where(s >= num_sweeps // 4, own, 0.0)), None

        (x, total), _ = lax.scan(sweep, (x, jnp.zeros_like(x)), jnp.arange(num_sweeps))
        return x, total / (dim * (num_sweeps - num_sweeps // 4))

    begins, indices = (tiles(it, size, mode="edge") for it in (x, index))
    walks = jnp.arange(indices.size, dtype=jnp.int32).reshape(indices.shape)
    x, mean = lax.map(lambda it: tile(*it), (walks, begins, indices))
    return x.reshape(-1, dim)[:num], mean.reshape(-1, dim)[:num]


def inside(y: Array, h: Array, index: Array, x: Array) -> Bool[Array, " n"]:
    """Return whether each of x [n, d] lies in its cell: its point wins, or one that coincides with it.

    Example:
      >>> from otgen.ot.semidiscrete import hit_and_run
      >>> y, x = jnp.array([[-1.0], [1.0]]), jnp.array([[-0.3], [0.2]])
      >>> print(hit_and_run.inside(y, jnp.zeros(2), jnp.array([0, 0]), x))
      [ True False]
    """
    return _violated(y, h, index, x)[0]


def _violated(y: Array, h: Array, index: Array, x: Array) -> tuple[Array, Array, Array]:
    """Whether x lies in its cell, how far the winner is above the cell's own score, and the difference of slopes."""
    value, winner = top_scores(x, y, h)
    own = contract("nd,nd->n", x, y[index]) + h[index]
    normal = y[index] - y[winner[:, 0]]
    found = (winner[:, 0] == index) | jnp.all(normal == 0, axis=1)
    return found, jnp.maximum(value[:, 0] - own, 0.0), normal


def _rotation(key: Key, dim: int, dtype: jnp.dtype) -> Array:
    return jnp.linalg.qr(jax.random.normal(key, (dim, dim), dtype))[0]


def _within(score: Array, slope: Array, index: Array, margin: Array) -> tuple[Array, Array]:
    """Return the interval of the line that lies in the cell: every other score stays below the cell's own."""
    own = jnp.take_along_axis(score, index[:, None], axis=1)
    room = jnp.maximum(own - score - margin, 0.0)
    rise = slope - slope[index][:, None]  # of the others over the cell's own, per unit of length
    ratio = room / jnp.where(rise == 0, 1.0, rise)
    upper = jnp.where(rise > 0, ratio, jnp.inf).min(1)
    lower = jnp.where(rise < 0, ratio, -jnp.inf).max(1)
    return lower, upper


def _along(sampler: Sampler, x: Array, v: Array, lower: Array, upper: Array, u: Array) -> Array:
    """Draw the place t in [lower, upper] of x + t v by the law of the source on the line, for uniform numbers u."""
    if sampler == gaussian:
        here = product(x, v)
        return _truncated_normal(lower + here, upper + here, u) - here
    if sampler == uniform_cube:
        ends = (jnp.sign(v) * jnp.array([[[-0.5]], [[0.5]]], x.dtype) - x) / jnp.where(v == 0, 1.0, v)
        first = jnp.where(v == 0, -jnp.inf, ends[0]).max(1)
        last = jnp.where(v == 0, jnp.inf, ends[1]).min(1)
    else:
        here = product(x, v)
        half = jnp.sqrt(jnp.maximum(here**2 + 1 - jnp.sum(x**2, 1), 0.0))
        first, last = -here - half, -here + half
    lower, upper = jnp.minimum(jnp.maximum(lower, first), 0.0), jnp.maximum(jnp.minimum(upper, last), 0.0)
    return lower + u * (upper - lower)


def _truncated_normal(lower: Array, upper: Array, u: Array) -> Array:
    """Return a standard normal number given that it lies in [lower, upper], in the tail where digits are."""
    flip = lower + upper > 0
    low, high = jnp.where(flip, -upper, lower), jnp.where(flip, -lower, upper)
    mass = ndtr(low) + u * (ndtr(high) - ndtr(low))
    drawn = jnp.clip(ndtri(jnp.maximum(mass, 1e-37)), low, high)
    return jnp.where(flip, -drawn, drawn)
