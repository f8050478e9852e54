"""Figures: the canvas, sheets of samples, and what trainings recorded."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from otgen import optional, plot
from otgen.types import Array


def pyplot() -> Any:
    """Matplotlib's pyplot, drawing to files alone."""
    with optional.imports():
        import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def canvas(lines: int, columns: int, width: float, height: float, **options: Any) -> tuple[Any, Any]:
    """Return a figure of panels of a width and height in inches, and its axes [lines, columns]."""
    size = {"figsize": (width * columns, height * lines), "squeeze": False, "layout": "constrained"}
    return pyplot().subplots(lines, columns, **{**size, **options})


def save(figure: Any, path: Path, dpi: int = 150, **options: Any) -> None:
    """Write a figure and close it."""
    figure.savefig(path, dpi=dpi, **options)
    pyplot().close(figure)


def sheet(shown: dict[str, Any], draw: Callable[[Any, str, Any], Any], columns: int, size: tuple[float, float]) -> Any:
    """Return a figure with a panel for everything shown.

    Args:
      shown: what is drawn, by title.
      draw: (axes, title, value) draws one.
      columns: the most panels in a line.
      size: width and height of a panel in inches.
    """
    columns = min(columns, len(shown))
    figure, axes = canvas(-(-len(shown) // columns), columns, *size)
    for ax in axes.flat[len(shown) :]:
        ax.set_axis_off()
    for ax, (name, value) in zip(axes.flat, shown.items(), strict=False):
        draw(ax, name, value)
    return figure


def rows_of_images(ax: Any, name: str, images: Array) -> None:
    """Draw images [rows, columns, h, w, c] as they lie."""
    plot.image_grid(images.reshape(-1, *images.shape[2:]), images.shape[1], ax, name)


def recorded(path: Path) -> dict[str, dict[int, dict[str, float]]]:
    """Return the metrics of metrics.jsonl by stage and step; the last word of a run that was resumed counts."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):  # a line that a killed run left unfinished
            entry = json.loads(line)
            found.setdefault(entry["stage"], {})[entry["step"]] = entry
    return {stage: dict(sorted(entries.items())) for stage, entries in found.items()}


def trainings(path: Path, stages: dict[str, str], metrics: dict[str, str], xlabel: str = "steps") -> Any:
    """A panel for every metric (name: label), a line in it for every stage (name: label); None if none was recorded."""
    told = recorded(path)
    found = {label: told[stage] for stage, label in stages.items() if stage in told}
    if not any(metric in entry for entries in found.values() for entry in entries.values() for metric in metrics):
        return None
    figure, (axes,) = canvas(1, len(metrics), 4, 3.2)
    for ax, (metric, label) in zip(axes, metrics.items(), strict=True):
        for i, (name, entries) in enumerate(found.items()):
            points = [(step, entry[metric]) for step, entry in entries.items() if metric in entry]
            if points:
                style = {"color": plot.CYCLE[i % len(plot.CYCLE)], "marker": "." if len(points) == 1 else ""}
                ax.plot(*np.array(points).T, **style, lw=1.4, label=name)
        ax.set(xlabel=xlabel, ylabel=label)
    if axes[0].get_legend_handles_labels()[0]:
        axes[0].legend(frameon=False, fontsize=8)
    return figure
