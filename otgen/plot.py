"""Figures: image grids, points and cells in the plane. Every function draws on an axis and returns it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from otgen.ot.semidiscrete import State, assign
from otgen.types import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"  # safe for colour-blind readers (Okabe and Ito)
CYCLE = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#555555")


def _axis(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots()[1]


def image_grid(images: Array, columns: int | None = None, ax: Axes | None = None, title: str = "") -> Axes:
    """Draw images [n, h, w, c] in [0, 1] (or uint8) in a grid, row by row.

    Args:
      images: 1 or 3 channels.
      columns: images per row; None for a square grid.
      ax: where to draw; None makes a figure.
      title: above the grid.

    Returns:
      The axis.
    """
    images = np.asarray(images)
    images = images / 255.0 if images.dtype == np.uint8 else images
    num, height, width, channels = images.shape
    columns = columns or int(np.ceil(np.sqrt(num)))
    rows = -(-num // columns)
    gap = max(1, height // 14)
    sheet = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, channels))
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = np.clip(image, 0, 1)
    ax = _axis(ax)
    ax.imshow(sheet.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    ax.set_title(title)
    return ax


def points(x: Array, ax: Axes | None = None, title: str = "", color: str = BLUE, size: float = 3.0) -> Axes:
    """Draw points [n, 2] with equal scales on both axes."""
    ax = _axis(ax)
    x = np.asarray(x)
    ax.scatter(x[:, 0], x[:, 1], s=size, color=color, linewidths=0, rasterized=len(x) > 5000)
    ax.set_aspect("equal")
    ax.set_title(title)
    return ax


def cells(state: State, y: Array, ax: Axes | None = None, title: str = "", resolution: int = 400) -> Axes:
    """Draw the cells of a semi-discrete map on the square [-1/2, 1/2]^2, each in the colour of its target's place.

    Args:
      state: heights of the map.
      y: targets [N, 2].
      ax: where to draw; None makes a figure.
      title: above the picture.
      resolution: pixels along a side.

    Returns:
      The axis.
    """
    ax = _axis(ax)
    side = (jnp.arange(resolution) + 0.5) / resolution - 0.5
    grid = jnp.stack(jnp.meshgrid(side, side), axis=-1).reshape(-1, 2)
    winner = np.asarray(assign(state, y, grid)).reshape(resolution, resolution)
    ax.imshow(colours(y)[winner], origin="lower", extent=(-0.5, 0.5, -0.5, 0.5), interpolation="nearest")
    border = np.zeros(winner.shape, bool)
    border[:, 1:] |= winner[:, 1:] != winner[:, :-1]
    border[1:] |= winner[1:] != winner[:-1]
    overlay = np.zeros((*winner.shape, 4))
    overlay[border] = (1, 1, 1, 0.6)
    ax.imshow(overlay, origin="lower", extent=(-0.5, 0.5, -0.5, 0.5), interpolation="nearest")
    ax.set_title(title)
    return ax


def colours(y: Array) -> np.ndarray:
    """A colour [N, 3] for every point of the plane [N, 2]: hue by its direction, lightness by its distance."""
    from matplotlib.colors import hsv_to_rgb

    centred = np.asarray(y) - np.asarray(y).mean(0)
    hue = (np.arctan2(centred[:, 1], centred[:, 0]) / (2 * np.pi)) % 1
    radius = np.linalg.norm(centred, axis=1)
    radius = radius / max(radius.max(), 1e-12)
    return hsv_to_rgb(np.stack([hue, 0.35 + 0.5 * radius, 0.55 + 0.4 * radius], axis=1))


def diagnosis(report: Any, ax: Axes | None = None, title: str = "") -> Axes:
    """Draw a latent diagnosis: the sorted p-values of the coordinates against those of latents that follow the prior.

    Args:
      report: from `eval.diagnose`.
      ax: where to draw; None makes a figure.
      title: above the picture.

    Returns:
      The axis. Points far below the diagonal are coordinates that have left the prior.
    """
    ax = _axis(ax)
    for p, colour, name in ((report.ks_p, BLUE, "Kolmogorov-Smirnov"), (report.cvm_p, ORANGE, "Cramer-von Mises")):
        expected = (np.arange(len(p)) + 0.5) / len(p)
        ax.loglog(expected, np.maximum(np.sort(p), 1e-12), ".", color=colour, label=name)
    ax.plot([1e-3, 1], [1e-3, 1], color=GREY, linestyle="--", label="latents of the prior")
    ax.set(xlabel="share of coordinates", ylabel="p-value", title=title, ylim=(5e-13, 2))
    ax.legend(frameon=False)
    return ax
