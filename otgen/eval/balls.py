"""Which balls around points hold which others: by matrix products, and by differences where rounding would decide.

Of few points all differences are taken: a program of a few kernels, compiled in a tenth of the time.

A point lies at distance 0 from itself and from its copies, and a distance that occurs twice counts as equal; products
of matrices see neither. So where a product comes within its rounding of the radius, the pair is measured again.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from otgen import sizes
from otgen.ot.costs.distances import UNROLL
from otgen.ot.products import product
from otgen.ot.semidiscrete.scores import top_scores
from otgen.types import Array, Bool, Float, Int

_DIRECT, _PAIRS = 2**27, 2**23  # differences of coordinates, and pairs, up to which all are taken
_GROUP = 32  # centres that are measured again together
_AGAIN = 2**20  # numbers of the points that are measured again at a time


@jax.jit
def in_units(*clouds: Array) -> tuple[tuple[Array, ...], Array]:
    """Return clouds times one power of two, which loses no digit, so that squares can be written down; and its inverse.

    The first cloud's extent is between 1/2 and 1 then.
    """
    extent = jnp.max(jnp.abs(clouds[0] - clouds[0].mean(0)))
    exponent = jnp.where(jnp.isfinite(extent) & (extent > 0), jnp.frexp(extent)[1], 0)
    exponent = jax.lax.stop_gradient(jnp.clip(exponent, -120, 120))
    unit = jnp.ldexp(jnp.ones((), extent.dtype), exponent)
    return tuple(cloud / unit for cloud in clouds), unit


@functools.partial(jax.jit, static_argnames="k")
def nearest_squares(x: Array, y: Array, k: int) -> tuple[Float[Array, "n {k}"], Int[Array, "n {k}"]]:
    """Return squared distances of every row of x to its k nearest rows of y, ascending, and the indices."""
    if _few(x, y):
        square, index = jax.lax.top_k(-_differences(x, y), k)
        return -square, index
    middle = y.mean(0)
    ours, theirs = x - middle, y - middle
    _, index = top_scores(ours, theirs, -0.5 * jnp.sum(theirs**2, 1), k=k)
    index = _resolved(*jax.lax.stop_gradient((x, y, jnp.sum(ours**2, 1))), index)
    square = jnp.sum((x[:, None] - y[index]) ** 2, -1)  # again from the points: no cancellation
    return tuple(jax.lax.sort((square, index), num_keys=1))


def _few(x: Array, y: Array) -> bool:
    """Return whether there are so few pairs of rows that all their differences are taken."""
    pairs = x.shape[0] * y.shape[0]
    return pairs <= _PAIRS and pairs * x.shape[1] <= _DIRECT


def _differences(x: Array, y: Array) -> Array:
    """Return squared distances [n, m] of rows by differences."""
    return jnp.sum((x[:, None] - y) ** 2, -1)


def _resolved(x: Array, y: Array, size: Array, index: Array) -> Array:
    """Neighbours [n, k] by differences from all points for the rows, of squared size [n], that products leave in doubt.

    They do where the neighbours lie nearer than products of these sizes can tell, as for clusters far apart.
    """
    n, k = index.shape
    farthest = jnp.max(jnp.sum((x[:, None] - y[index]) ** 2, -1), 1)
    rounding = jnp.finfo(x.dtype).eps * (2 + 0.5 * x.shape[1] ** 0.5)
    doubtful = (farthest > 0) & (farthest < 12 * rounding * size)
    block = max(1, min(n, _AGAIN // y.shape[0]))
    rows, total = jnp.nonzero(doubtful, size=n + block, fill_value=n)[0], doubtful.sum()

    def measure(state: tuple[Array, Array]) -> tuple[Array, Array]:
        done, index = state
        pick = jax.lax.dynamic_slice(rows, (done,), (block,))
        square = jnp.sum((x[jnp.minimum(pick, n - 1)][:, None] - y) ** 2, -1)
        found = jax.lax.top_k(-square, k)[1].astype(index.dtype)
        return done + block, index.at[pick].set(found, mode="drop")

    return jax.lax.while_loop(lambda state: state[0] < total, measure, (jnp.zeros_like(total), index))[1]


@functools.partial(jax.jit, static_argnums=1)
def square_radii(points: Array, neighbours: tuple[int, ...]) -> Array:
    """Return the squared distance of every point [m] to its k-th nearest other one, for each k: [r, m]."""
    square, _ = nearest_squares(points, points, max(neighbours) + 1)
    return square[:, jnp.array(neighbours)].T


@jax.jit
def memberships(x: Array, centres: Array, squares: Array) -> tuple[Int[Array, "r n"], Bool[Array, "r m"]]:
    """For balls of squared radii [r, m]: how many hold each row of x, and which hold any.

    The boundary belongs to the ball; sums of one set of squares in two orders count as equal.
    """
    n, m = x.shape[0], centres.shape[0]
    limits = squares * (1 + jnp.finfo(x.dtype).eps * (4 + x.shape[1] ** 0.5))
    if _few(x, centres):
        inside = _differences(x, centres) <= limits[:, None]
        return inside.sum(2), inside.any(1)
    padded = -m % _GROUP
    centres = jnp.pad(centres, ((0, padded), (0, 0)), mode="edge")
    limits = jnp.pad(limits, ((0, 0), (0, padded)), constant_values=-1.0)  # balls that hold nothing
    size = max(1, min(n, sizes.here().alive // (m + padded)))
    index = jnp.arange(-(-n // size) * size).reshape(-1, size)
    inside = _by_differences if x.shape[1] <= UNROLL else _by_products

    def visit(used: Array, index: Array) -> tuple[Array, Array]:
        block = x[jnp.minimum(index, n - 1)]  # the last row again where there is none
        counts, held = inside(block, centres, limits)
        return used | held, counts

    used, counts = jax.lax.scan(visit, jnp.zeros(limits.shape, bool), index)
    return counts.transpose(1, 0, 2).reshape(squares.shape[0], -1)[:, :n], used[:, :m]


def _by_differences(x: Array, centres: Array, limits: Array) -> tuple[Array, Array]:
    square = sum((x[:, k, None] - centres[:, k]) ** 2 for k in range(x.shape[1]))
    inside = square <= limits[:, None]
    return inside.sum(2), inside.any(1)


class _Bounds(NamedTuple):
    """Products of centred rows and centres [b, m], and what they are compared with to tell who is inside.

    Attributes:
      rows: half the squares of the rows [b], the least and the most that rounding may make of them.
      columns: those of the centres less half the squared radii [r, m], likewise.
    """

    products: Array
    rows: tuple[Array, Array]
    columns: tuple[Array, Array]

    def compare(self, products: Array, row: Any, column: Any) -> tuple[Array, Array]:
        """Return which pairs may be inside, and which are for sure."""
        maybe, sure = (products >= r[row] + c[column] for r, c in zip(self.rows, self.columns, strict=True))
        return maybe, sure


def _by_products(x: Array, centres: Array, limits: Array) -> tuple[Array, Array]:
    """Return counts [r, b] and balls that hold any [r, m], of a block of rows."""
    middle = centres.mean(0)
    ours, theirs = x - middle, centres - middle
    a, b = 0.5 * jnp.sum(ours**2, 1), 0.5 * jnp.sum(theirs**2, 1)
    rounding = jnp.finfo(x.dtype).eps * (8 + 2 * x.shape[1] ** 0.5)  # in units of a + b
    level = jnp.where(limits < 0, jnp.inf, b - 0.5 * limits)
    rows, columns = (a * (1 - rounding), a * (1 + rounding)), (level - rounding * b, level + rounding * b)
    bounds = _Bounds(product(ours, theirs.T), rows, columns)
    maybe, sure = bounds.compare(bounds.products, np.s_[:, None], np.s_[:, None])
    flagged = (maybe & ~sure).any(0).reshape(x.shape[0], -1, _GROUP).any(2)
    return _again(x, centres, limits, bounds, flagged, (sure.sum(2), sure.any(1)))


def _again(
    x: Array, centres: Array, limits: Array, bounds: _Bounds, flagged: Array, found: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Add the pairs near the boundary, in the groups of centres that are flagged [b, groups], as many as there are."""
    total, groups = flagged.sum(), flagged.shape[1]
    size = max(1, min(flagged.size, _AGAIN // (_GROUP * x.shape[1])))
    where = jnp.nonzero(flagged.ravel(), size=flagged.size + size, fill_value=flagged.size)[0]

    def measure(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        done, counts, held = state
        pick = jax.lax.dynamic_slice(where, (done,), (size,))
        there, row = (pick < flagged.size)[:, None], jnp.minimum(pick // groups, x.shape[0] - 1)
        column = (pick % groups)[:, None] * _GROUP + jnp.arange(_GROUP)
        square = jnp.sum((x[row][:, None] - centres[column]) ** 2, -1)
        maybe, sure = bounds.compare(bounds.products[row[:, None], column], np.s_[row, None], np.s_[:, column])
        inside = maybe & ~sure & there & (square <= limits[:, column])
        return done + size, counts.at[:, row].add(inside.sum(2)), held.at[:, column].max(inside)

    return jax.lax.while_loop(lambda state: state[0] < total, measure, (jnp.zeros_like(total), *found))[1:]
