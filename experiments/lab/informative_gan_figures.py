"""Figures of the informative OT-GAN: what every code draws, and when the code became informative."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.lab.figures import canvas, rows_of_images, save, sheet, trainings
from experiments.lab.informative_gan_scores import PLANE
from experiments.lab.trials import load_shown, scores_at
from otgen import plot
from otgen.types import Array

_TRAINING = {
    "information": "bound of I(c; x), nats",
    "code_error": "misread codes",
    "transport": "<P, C>, mean cost = 1",
}


def draw(config: Any, folder: Path, is_ring: bool) -> list[str]:
    """Draw, for the first seed, the codes, the traversals and the training of every variant; return the file names."""
    seed = config.seed_list()[0]
    shown = {name: load_shown([scores_at(config, folder, seed, name)]) for name in config.names()}
    with_images = {name: arrays for name, arrays in shown.items() if "images" in arrays}
    draw_codes = _ring if is_ring else _codes
    stages = {f"{name}, seed {seed}": name for name in shown}
    drawn = {
        "codes.png": sheet(with_images, draw_codes, 3, (4.6, 4.2)) if with_images else None,
        "traversals.png": None if is_ring else _traversals(shown),
        "training.png": trainings(folder / "metrics.jsonl", stages, _TRAINING, "steps of the generator"),
        "costs.png": _costs(shown),
    }
    if drawn["training.png"] is not None:
        drawn["training.png"].axes[2].set_yscale("log")
    for name, figure in drawn.items():
        if figure is not None:
            save(figure, folder / name)
    return [name for name, figure in drawn.items() if figure is not None]


def _codes(ax: Any, name: str, arrays: dict[str, Array]) -> None:
    """Rows of images, one value of the code a row."""
    if "codes" in arrays:
        rows_of_images(ax, name, arrays["codes"])
    else:
        plot.image_grid(arrays["images"], 12, ax, name)


def _ring(ax: Any, name: str, arrays: dict[str, Array], color: str | None = None) -> None:
    """Points, one colour a value of the code."""
    groups = arrays["codes"][:, :, 0, 0] if "codes" in arrays else arrays["images"][None, :, 0, 0]
    for i, group in enumerate(groups):
        plot.points(group, ax, name, color=color or plot.CYCLE[i % len(plot.CYCLE)])
    ax.set(xlim=(-2.8, 2.8), ylim=(-2.8, 2.8), xticks=(-2, 0, 2), yticks=(-2, 0, 2))


def _traversals(shown: dict[str, Any]) -> Any:
    """One panel a continuous code of the first variant that has some: rows share the categorical value and noise."""
    for arrays in shown.values():
        parts = {f"{name}, from left to right": arrays[name] for name in arrays if name.startswith("continuous")}
        if parts:
            return sheet(parts, rows_of_images, len(parts), (4.2, 4.7))
    return None


def _costs(shown: dict[str, Any]) -> Any:
    """Of the first variant that has them: the ground cost of one latent over the plane, and the perturbed one."""
    for arrays in shown.values():
        if "perturbed" not in arrays:
            continue
        figure, (axes,) = canvas(1, 2, 4.3, 3.9)
        titles = {
            "cost": "ground cost C(z, x) of one latent z",
            "perturbed": "perturbed: C(z, x) - lam log Q(c | x) / P(c)",
        }
        levels = np.linspace(-0.5, 3.0, 15)
        for ax, (name, title) in zip(axes, titles.items(), strict=True):
            drawn = ax.contourf(PLANE, PLANE, arrays[name], levels, cmap="viridis", extend="both")
            _ring(ax, title, arrays, color="white")
            ax.plot(*arrays["at"], "*", color=plot.ORANGE, markersize=13)
        figure.colorbar(drawn, ax=axes, label="mean cost of two data = 1", ticks=range(4))
        return figure
    return None
