"""Transport in the plane: points, plans, cells, maps and potentials."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen import optional
from otgen.ot.check import as_array, as_count, native, require_between, require_function
from otgen.ot.semidiscrete import assign, matching
from otgen.ot.semidiscrete.descent import Heights
from otgen.ot.semidiscrete.extension import dihedral_angle
from otgen.plot.look import BLUE, RASTER, axis, cycle, in_plane, ink
from otgen.types import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SQUARE = (-0.5, 0.5, -0.5, 0.5)  # where cells are drawn


def points(
    x: Array,
    ax: Axes | None = None,
    title: str = "",
    color: Any = BLUE,
    size: float | Array = 3.0,
    label: str | None = None,
) -> Axes:
    """Draw points [n, 2] with equal scales on both axes.

    Args:
      x: points [n, 2].
      ax: where to draw; None makes a figure.
      title: above the picture.
      color: one colour for all; or for every point a colour ([n, 3], [n, 4] or n names) or a number ([n], shown by a
        colour map that is read in grey as well).
      size: area of a point, in square typographic points; one number, or one for every point.
      label: name in the legend, which is drawn if there is one.

    Returns:
      The axis.

    Raises:
      ValueError: for points of another shape, and for negative sizes.

    Example:
      >>> ax = points(np.array([[0.0, 1.0], [2.0, 3.0]]), label="data")
      >>> ax.collections[0].get_offsets().tolist()
      [[0.0, 1.0], [2.0, 3.0]]
    """
    x, size = in_plane("x", x), np.asarray(as_array("size", size))
    if size.shape not in ((), (len(x),)) or (size < 0).any():
        raise ValueError(f"size = {size} for {len(x)} points: give one positive number, or one for every point.")
    ax = axis(ax)
    colours = {"color": color} if isinstance(color, str) else _colours(color, len(x))
    ax.scatter(x[:, 0], x[:, 1], s=size, linewidths=0, rasterized=len(x) > RASTER, label=label, **colours)
    ax.set_aspect("equal")
    ax.set_title(title)
    if label is not None:
        ax.legend(frameon=False, markerscale=max(1.0, (20 / float(np.mean(size) or 20)) ** 0.5))
    return ax


def _colours(color: Any, num: int) -> dict[str, Any]:
    given = np.asarray(color)
    if given.dtype.kind in "fiub" and given.ndim == 1 and (len(given) == num or len(given) not in (3, 4)):
        if len(given) != num:
            raise ValueError(f"color has {len(given)} numbers for {num} points: give one number or colour for each.")
        return {"c": given, "cmap": "viridis"}
    return {"color": color if given.dtype.kind in "UO" else given}


def plan(x: Array, y: Array, plan: Any, ax: Axes | None = None, title: str = "", *, threshold: float = 0.05) -> Axes:
    """Draw a transport plan as lines between two clouds, the more opaque the more mass they carry.

    Args:
      x: source points [n, 2], blue discs.
      y: target points [m, 2], orange squares.
      plan: masses [n, m]; or a tuple of indices (i, j), [k] each, as `sinkhorn.sample_plan` returns: a pair then has
        as much mass as times it occurs.
      ax: where to draw; None makes a figure.
      title: above the picture.
      threshold: lines of less than this share of the largest mass are left out.

    Returns:
      The axis.

    Raises:
      ValueError: for points or a plan of another shape, indices of no point, masses that are negative, not finite or
        all zero, a threshold outside [0, 1].

    Example:
      >>> x = np.array([[0.0, 0.0], [1.0, 0.0]])
      >>> ax = plan(x, x + 1, np.array([[0.5, 0.0], [0.25, 0.25]]))
      >>> [len(it.get_segments()) for it in ax.collections if hasattr(it, "get_segments")]
      [3]
    """
    x, y = in_plane("x", x), in_plane("y", y)
    require_between("threshold", threshold, 0.0, 1.0)
    i, j, share = _lines(plan, len(x), len(y))
    kept = np.flatnonzero((share >= threshold) & (share > 0))
    kept = kept[np.argsort(share[kept], kind="stable")]  # the strongest on top
    with optional.imports():
        from matplotlib.collections import LineCollection

    ax = axis(ax)
    colours = np.concatenate([np.tile(ink(), (len(kept), 1)), share[kept, None]], axis=1)
    segments = np.stack([x[i[kept]], y[j[kept]]], axis=1)
    ax.add_collection(LineCollection(segments, colors=colours, linewidths=0.8, zorder=1, rasterized=len(kept) > RASTER))
    first, second = cycle()[:2]
    for cloud, colour, marker in ((x, first, "o"), (y, second, "s")):
        ax.scatter(*cloud.T, s=14, color=colour, marker=marker, linewidths=0, zorder=2)
    ax.set_aspect("equal")
    ax.set_title(title)
    return ax


def _lines(plan: Any, n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pairs of a plan, and the mass of each as a share of the largest."""
    if isinstance(plan, tuple):
        if len(plan) != 2:
            raise ValueError(f"a plan of {len(plan)} arrays: give the two arrays of indices (i, j), or masses [n, m].")
        i, j = (np.asarray(native("indices", index)) for index in plan)
        if i.ndim != 1 or i.shape != j.shape or not i.size or {i.dtype.kind, j.dtype.kind} - {"i", "u"}:
            raise ValueError(f"indices of shapes {i.shape} and {j.shape}: give two arrays [k] of integers, k >= 1.")
        if min(i.min(), j.min()) < 0 or i.max() >= n or j.max() >= m:
            raise ValueError(f"indices of points that are not there: give i in 0..{n - 1} and j in 0..{m - 1}.")
        (i, j), count = np.unique(np.stack([i, j]), axis=1, return_counts=True)
        return i, j, count / count.max()
    mass = np.asarray(native("the plan", plan))
    if mass.shape != (n, m):
        raise ValueError(f"the plan has shape {mass.shape}: {n} and {m} points need masses [{n}, {m}], or (i, j).")
    if not np.isfinite(mass).all() or mass.min() < 0 or mass.max() <= 0:
        raise ValueError("the plan has masses that are negative, not finite or all zero: did the solver converge?")
    i, j = np.indices(mass.shape).reshape(2, -1)
    return i, j, (mass / mass.max()).ravel()


def cells(
    state: Heights,
    y: Array,
    ax: Axes | None = None,
    title: str = "",
    resolution: int = 400,
    *,
    angle: float | Array | None = None,
) -> Axes:
    """Draw the cells of a semi-discrete map on the square [-1/2, 1/2]^2, each in the colour of its target's place.

    Args:
      state: heights of the map, or the Map itself.
      y: targets [N, 2].
      ax: where to draw; None makes a figure.
      title: above the picture.
      resolution: pixels along a side.
      angle: threshold in radians, such as `Extension.angle`; faces at which the potential folds more sharply are drawn
        bold: the singular set, across which the map jumps. None draws all faces alike.

    Returns:
      The axis. At the faces the page shines through.

    Raises:
      ValueError: for targets of another shape or number than the heights.

    Example:
      >>> y = jnp.array([[-1.0, 0.0], [1.0, 0.0]])
      >>> ax = cells(og.semidiscrete.init(jax.random.key(0), y), y, resolution=8)
      >>> left, right = ax.images[0].get_array()[0, 0], ax.images[0].get_array()[0, -1]
      >>> bool((left != right).any())  # the cells of the two targets
      True
    """
    matching(state, y)
    y, resolution = in_plane("y", y), as_count("resolution", resolution, 2)
    if angle is not None:
        require_between("angle, in radians,", angle, 0.0, math.pi)
    side = (jnp.arange(resolution) + 0.5) / resolution - 0.5
    grid = jnp.stack(jnp.meshgrid(side, side), axis=-1).reshape(-1, 2)
    winner = np.asarray(assign(state, jnp.asarray(y), grid)).reshape(resolution, resolution)
    border = _differ(winner, lambda one, two: one != two)
    opacity = np.where(border, 0.4, 1.0)[..., None]
    ax = axis(ax)
    picture = np.concatenate([colours(y)[winner], opacity], axis=2)
    ax.imshow(picture, origin="lower", extent=SQUARE, interpolation="nearest")
    if angle is not None:
        ax.imshow(_singular(winner, y, float(angle)), origin="lower", extent=SQUARE, interpolation="nearest")
    ax.set_title(title)
    return ax


def _differ(winner: np.ndarray, unlike: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Pixels that are unlike the one to their left or the one below."""
    marked = np.zeros(winner.shape, bool)
    marked[:, 1:] |= unlike(winner[:, 1:], winner[:, :-1])
    marked[1:] |= unlike(winner[1:], winner[:-1])
    return marked


def _singular(winner: np.ndarray, y: np.ndarray, angle: float) -> np.ndarray:
    """Return the faces folded by more than the angle, three pixels wide, in the colour of text [r, r, 4]."""
    centred = jnp.asarray(y - y.mean(0))
    folded = _differ(winner, lambda a, b: np.asarray(dihedral_angle(centred[a], centred[b]) > angle))
    wide = folded.copy()
    wide[:-1] |= folded[1:]
    wide[:, :-1] |= folded[:, 1:]
    wide[1:] |= folded[:-1]
    wide[:, 1:] |= folded[:, :-1]
    return np.concatenate([np.broadcast_to(ink(), (*wide.shape, 3)), wide[..., None]], axis=2)


def colours(y: Array) -> np.ndarray:
    """Return a colour [N, 3] for every point of the plane [N, 2]: hue by its direction, lightness by its distance.

    Example:
      >>> colours(np.array([[1.0, 0.0], [-1.0, 0.0]])).round(2)  # opposite hues
      array([[0.95, 0.14, 0.14], [0.14, 0.95, 0.95]])
    """
    with optional.imports():
        from matplotlib.colors import hsv_to_rgb

    y = in_plane("y", y)
    if not len(y):
        return np.zeros((0, 3))
    centred = y - y.mean(0)
    hue = (np.arctan2(centred[:, 1], centred[:, 0]) / (2 * np.pi)) % 1
    radius = np.linalg.norm(centred, axis=1)
    radius = radius / max(radius.max(), 1e-12)
    return hsv_to_rgb(np.stack([hue, 0.35 + 0.5 * radius, 0.55 + 0.4 * radius], axis=1))


def _grid(limits: tuple[float, float], resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers along a side [r], and the points of the grid [r * r, 2]."""
    resolution = as_count("resolution", resolution, 2)
    low, high = as_array("limits", limits, (2,)).tolist()
    if not low < high:
        raise ValueError(f"limits = {limits}: give (low, high), low first.")
    side = np.linspace(low, high, resolution, dtype=np.float32)
    return side, np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)


def field(
    function: Callable[[Array], Array],
    ax: Axes | None = None,
    title: str = "",
    *,
    limits: tuple[float, float] = (-3.0, 3.0),
    resolution: int = 20,
) -> Axes:
    """Draw a map of the plane as arrows from points of a grid to their images, in true length.

    Args:
      function: takes points [n, 2] and returns where they go [n, 2].
      ax: where to draw; None makes a figure.
      title: above the picture.
      limits: of the grid, the same on both axes.
      resolution: arrows along a side.

    Returns:
      The axis, wide enough for every arrow.

    Raises:
      ValueError: if the function returns another shape, or numbers that are not finite; for limits out of order.

    Example:
      >>> ax = field(lambda x: 2 * x, resolution=3, limits=(-1, 1))
      >>> arrows = ax.collections[0]
      >>> arrows.U.round(3).tolist()[:3]  # the displacement, T(x) - x
      [-1.0, 0.0, 1.0]
    """
    require_function("function", function)
    _, start = _grid(limits, resolution)
    end = np.asarray(native("what the function returned", function(jnp.asarray(start))))
    if end.shape != start.shape or not np.isfinite(end).all():
        raise ValueError(f"the function returned {end.shape}, or NaN: it must map {start.shape} to finite numbers.")
    ax = axis(ax)
    moved = end - start
    ax.quiver(*start.T, *moved.T, color=cycle()[0], angles="xy", scale_units="xy", scale=1, width=0.004, headwidth=4)
    ax.update_datalim(end)
    ax.autoscale_view()
    ax.set_aspect("equal")
    ax.set_title(title)
    return ax


def potential(
    function: Callable[[Array], Array],
    ax: Axes | None = None,
    title: str = "",
    *,
    limits: tuple[float, float] = (-3.0, 3.0),
    resolution: int = 200,
    levels: int | ArrayLike = 20,
) -> Axes:
    """Draw a function of the plane as filled contours with a colour bar: a potential, a density, a cost.

    Args:
      function: takes points [n, 2] and returns numbers [n].
      ax: where to draw; None makes a figure.
      title: above the picture.
      limits: of the picture, the same on both axes.
      resolution: points along a side at which the function is computed.
      levels: about how many contours, or the values that they are drawn at.

    Returns:
      The axis.

    Raises:
      ValueError: if the function returns another shape, or numbers that are not finite; for limits out of order.

    Example:
      >>> ax = potential(lambda x: (x**2).sum(-1), limits=(-1, 1), resolution=20)
      >>> bool(ax.get_xlim()[1] == 1)
      True
    """
    require_function("function", function)
    levels = as_array("levels", levels, (None,)) if np.ndim(levels) else as_count("levels", levels)
    side, where = _grid(limits, resolution)
    values = np.asarray(native("what the function returned", function(jnp.asarray(where))))
    if values.shape != where.shape[:1] or not np.isfinite(values).all():
        raise ValueError(f"the function returned {values.shape}, or NaN: it must map {where.shape} to [{len(where)}].")
    ax = axis(ax)
    drawn = ax.contourf(side, side, values.reshape(resolution, resolution), levels=levels, cmap="viridis")
    ax.figure.colorbar(drawn, ax=ax, shrink=0.8)
    ax.set_aspect("equal")
    ax.set_title(title)
    return ax
