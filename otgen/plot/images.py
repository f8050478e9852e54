"""Images in grids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from otgen.ot.check import as_count, native, require_channels_last
from otgen.plot.look import axis
from otgen.types import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def image_grid(images: Array, columns: int | None = None, ax: Axes | None = None, title: str = "") -> Axes:
    """Draw images [n, h, w, c] in [0, 1] (or uint8) in a grid, row by row.

    Args:
      images: 1 or 3 channels.
      columns: images per row; None for a square grid.
      ax: where to draw; None makes a figure.
      title: above the grid.

    Returns:
      The axis. Between the images the page shows through.

    Raises:
      ValueError: for images of another shape, or less than one column.

    Example:
      >>> ax = image_grid(np.zeros((6, 28, 28, 1)), columns=3)
      >>> ax.images[0].get_array().shape[:2]  # two rows of three, with gaps
      (58, 88)
    """
    images = _checked(images, 4, "[n, h, w, c]")
    columns = as_count("columns", columns) if columns is not None else int(np.ceil(np.sqrt(len(images))))
    ax = _sheet(images, columns, axis(ax))
    ax.set_axis_off()
    ax.set_title(title)
    return ax


def traversal(
    images: Array,
    ax: Axes | None = None,
    title: str = "",
    *,
    rows: Sequence[object] | None = None,
    columns: Sequence[object] | None = None,
) -> Axes:
    """Draw images that vary along two directions as a grid with labels: along a row one number of the latent moves.

    Args:
      images: [rows, columns, h, w, c] in [0, 1] (or uint8), 1 or 3 channels.
      ax: where to draw; None makes a figure.
      title: above the grid.
      rows: a label for every row, on the left; numbers are written with three digits.
      columns: a label for every column, at the bottom.

    Returns:
      The axis.

    Raises:
      ValueError: for images of another shape, or another number of labels.

    Example:
      >>> ax = traversal(np.zeros((2, 5, 8, 8, 1)), rows=["width", "slant"])
      >>> [label.get_text() for label in ax.get_yticklabels()]
      ['width', 'slant']
    """
    images = _checked(images, 5, "[rows, columns, h, w, c]")
    num_rows, num_columns, height, width, _ = images.shape
    ax = _sheet(images.reshape(-1, *images.shape[2:]), num_columns, axis(ax))
    ax.spines[:].set_visible(False)
    ax.patch.set_visible(False)
    ax.tick_params(length=0)
    gap = _gap(height)
    ax.set_yticks(*_ticks("rows", rows, num_rows, height, gap))
    ax.set_xticks(*_ticks("columns", columns, num_columns, width, gap))
    ax.set_title(title)
    return ax


def _checked(images: Array, rank: int, shape: str) -> np.ndarray:
    images = np.asarray(native("images", images))
    require_channels_last("images", images.shape)
    if images.ndim != rank or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise ValueError(f"images have shape {images.shape}: give {shape} with 1 or 3 channels.")
    return images / 255.0 if images.dtype == np.uint8 else images


def _gap(height: int) -> int:
    return max(1, height // 14)


def _sheet(images: np.ndarray, columns: int, ax: Axes) -> Axes:
    """Draw images [n, h, w, c] row by row as one picture, transparent between them."""
    num, height, width, channels = images.shape
    rows = -(-num // columns)
    gap = _gap(height)
    sheet = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, 4))
    colours = np.clip(np.broadcast_to(images, (*images.shape[:3], 3)) if channels == 1 else images, 0, 1)
    for i, image in enumerate(colours):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top : top + height, left : left + width, :3] = image
        sheet[top : top + height, left : left + width, 3] = 1
    ax.imshow(sheet, interpolation="nearest")
    return ax


def _ticks(name: str, labels: Sequence[object] | None, num: int, side: int, gap: int) -> tuple[np.ndarray, list[str]]:
    """Return places and words of labels, in the middle of every image."""
    if labels is None:
        return np.zeros(0), []
    if not isinstance(labels, Sequence | np.ndarray) or len(labels) != num:
        raise ValueError(f"{name} = {labels} for {num} {name} of images: give a label for each, or None.")
    words = [f"{it:.3g}" if isinstance(it, float) else str(it) for it in np.asarray(labels).tolist()]
    return np.arange(num) * (side + gap) + (side - 1) / 2, words
