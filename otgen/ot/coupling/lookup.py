"""The point of its class that wins a sample: max over the points of class l of <y_i, x> + h_i, of many samples at once.

Samples are sorted by class and cut into tiles of one class each; a tile visits the points of its class and no others,
in blocks, by a loop whose length is data. So one program serves classes of any sizes, a sample costs 2 N_l d operations
for N_l points in its class, a K-th of scoring all points if there are K equal classes, and no class is padded to
the size of the largest. Scores in memory are those of a tile and a block.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from otgen.ot.coupling.batch import Classes
from otgen.ot.products import contract
from otgen.sizes import CPU, here
from otgen.types import Array

TILE = 1024  # samples scored together, at most
_GROUP = 32  # points that share one running maximum; the winner inside is found by scoring them again


def winners(x: Array, y: Array, h: Array, classes: Classes, wanted: Array) -> Array:
    """Return the point of its class [n], int32, that each sample goes to.

    Args:
      x: samples [n, d].
      y: points [N, d].
      h: heights [N], of each class apart from the others.
      classes: of the points.
      wanted: the class of each sample [n].
    """
    num, num_classes = x.shape[0], classes.known.shape[0]
    tile = min(TILE, max(32, 1 << (max(1, num // num_classes) - 1).bit_length()))
    rows, held, of = _tiles(wanted, num_classes, tile)
    sizes = jnp.where(held.any(1), classes.start[of + 1] - classes.start[of], 0)
    together = _together(y.shape[0], num_classes, y.shape[1])
    visit = lambda it: _best(x[it[0]], y, h, classes.order, classes.start[it[1]], it[2], together)  # noqa: E731
    found = lax.map(visit, (rows, of, sizes))
    return jnp.zeros(num, jnp.int32).at[jnp.where(held, rows, num)].set(found, mode="drop")


def _tiles(wanted: Array, num_classes: int, tile: int) -> tuple[Array, Array, Array]:
    """Return rows in tiles of one class each [t, tile], which of the entries hold one, and the class of each tile."""
    num = wanted.shape[0]
    order = jnp.argsort(wanted).astype(jnp.int32)
    counts = jnp.bincount(wanted, length=num_classes)
    ends, tiles_of = jnp.cumsum(counts), -(-counts // tile)
    last = jnp.cumsum(tiles_of)
    number = jnp.arange(-(-num // tile) + min(num, num_classes))
    of = jnp.minimum(jnp.searchsorted(last, number, side="right"), num_classes - 1)
    first = (ends - counts)[of] + (number - (last - tiles_of)[of]) * tile
    place = first[:, None] + jnp.arange(tile)
    held = place < ends[of][:, None]
    return order[jnp.where(held, place, 0)], held, of


def _together(num: int, num_classes: int, dim: int) -> int:
    """Return how many points are scored together: what the device takes, but no more than a class has on average."""
    most = max(CPU.searched, here().searched * TILE // max(TILE, dim))
    return max(CPU.searched, min(most, 1 << (-(-num // num_classes) - 1).bit_length()))


def _best(x: Array, y: Array, h: Array, order: Array, start: Array, size: Array, together: int) -> Array:
    """Return the winner [t] among the `size` points that stand in `order` from `start` on, `together` at a time."""
    num = y.shape[0]
    block = min(together, num)
    group = _GROUP if block % _GROUP == 0 else block
    origin = y[order[start]]  # scores of centred points keep their digits
    within = jnp.arange(block // group, dtype=jnp.int32) * group

    def scores(at: Array, x: Array, indices: str) -> Array:
        """Scores of points that stand at some places of `order`; none of another class."""
        members = order[at]
        heights = jnp.where((at >= start) & (at < start + size), h[members], -jnp.inf)
        return contract(indices, x, y[members] - origin) + heights

    def visit(number: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
        value, place = best
        first = jnp.minimum(start + number * block, num - block)  # points seen twice do no harm
        maxima = scores(first + jnp.arange(block), x, "td,md->tm").reshape(len(x), -1, group).max(-1)
        top = maxima.max(-1)
        # A maximum and a comparison: an argmax takes many times as long on a CPU.
        winner = first + jnp.where(maxima >= top[:, None], within, 0).max(-1)
        return jnp.maximum(value, top), jnp.where(top > value, winner, place)

    none = jnp.full(x.shape[0], -jnp.inf, x.dtype), jnp.full(x.shape[0], start, jnp.int32)
    place = lax.fori_loop(0, -(-size // block), visit, none)[1]  # where the winner's group begins
    at = jnp.minimum(place[:, None] + jnp.arange(group, dtype=jnp.int32), num - 1)
    members = scores(at, x, "td,tmd->tm")
    return order[at[jnp.arange(len(x)), members.argmax(1)]]
