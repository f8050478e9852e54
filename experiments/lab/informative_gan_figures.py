"""Figures of the informative OT-GAN: what every code draws, and when the code became informative."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments.lab.command import place_of
from experiments.lab.informative_gan_scores import PLANE
from otgen import plot
from otgen.types import Array


def draw(config: Any, folder: Path, is_ring: bool) -> list[str]:
    """Draw, for the first seed, the codes, the traversals and the training of every variant; return the file names."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    seed, shown = config.seed_list()[0], {}
    for name in config.names():
        with np.load(place_of(folder, seed, name) / "samples.npz") as file:
            shown[name] = dict(file)
    drawn = []
    figures = {"codes.png": _codes, "traversals.png": _traversals, "training.png": _training, "costs.png": _costs}
    for name, axes in figures.items():
        figure = axes(plt, config, folder, shown, is_ring)
        if figure is not None:
            figure.savefig(folder / name, dpi=150)
            plt.close(figure)
            drawn.append(name)
    return drawn


def _codes(plt: Any, config: Any, folder: Path, shown: dict[str, Any], is_ring: bool) -> Any:
    """One panel a variant: rows of images, one value of the code a row; points, one colour a value."""
    shown = {name: arrays for name, arrays in shown.items() if "images" in arrays}
    if not shown:
        return None
    columns = min(3, len(shown))
    lines = -(-len(shown) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(4.6 * columns, 4.2 * lines), squeeze=False, layout="constrained"
    )
    for ax in axes.flat[len(shown) :]:
        ax.set_axis_off()
    for ax, (name, arrays) in zip(axes.flat, shown.items(), strict=False):
        if is_ring:
            _ring(ax, arrays, name)
        elif "codes" in arrays:
            images = arrays["codes"]
            plot.image_grid(images.reshape(-1, *images.shape[2:]), images.shape[1], ax, name)
        else:
            plot.image_grid(arrays["images"], 12, ax, name)
    return figure


def _ring(ax: Any, arrays: dict[str, Array], name: str, color: str | None = None) -> None:
    groups = arrays["codes"][:, :, 0, 0] if "codes" in arrays else arrays["images"][None, :, 0, 0]
    for i, group in enumerate(groups):
        plot.points(group, ax, name, color=color or plot.CYCLE[i % len(plot.CYCLE)])
    ax.set(xlim=(-2.8, 2.8), ylim=(-2.8, 2.8), xticks=(-2, 0, 2), yticks=(-2, 0, 2))


def _traversals(plt: Any, config: Any, folder: Path, shown: dict[str, Any], is_ring: bool) -> Any:
    """One panel a continuous code of the first variant that has some: rows share the categorical value and noise."""
    for arrays in shown.values():
        parts = {name: arrays[name] for name in arrays if name.startswith("continuous")}
        if not parts or is_ring:
            continue
        figure, axes = plt.subplots(1, len(parts), figsize=(4.2 * len(parts), 4.7), squeeze=False, layout="constrained")
        for ax, (name, images) in zip(axes[0], parts.items(), strict=True):
            plot.image_grid(images.reshape(-1, *images.shape[2:]), images.shape[1], ax, f"{name}, from left to right")
        return figure
    return None


def _costs(plt: Any, config: Any, folder: Path, shown: dict[str, Any], is_ring: bool) -> Any:
    """Of the first variant that has them: the ground cost of one latent over the plane, and the perturbed one."""
    for arrays in shown.values():
        if "perturbed" not in arrays:
            continue
        figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.9), layout="constrained")
        titles = {
            "cost": "ground cost C(z, x) of one latent z",
            "perturbed": "perturbed: C(z, x) - lam log Q(c | x) / P(c)",
        }
        levels = np.linspace(-0.5, 3.0, 15)
        for ax, (name, title) in zip(axes, titles.items(), strict=True):
            drawn = ax.contourf(PLANE, PLANE, arrays[name], levels, cmap="viridis", extend="both")
            _ring(ax, arrays, title, color="white")
            ax.plot(*arrays["at"], "*", color=plot.ORANGE, markersize=13)
        figure.colorbar(drawn, ax=axes, label="mean cost of two data = 1", ticks=range(4))
        return figure
    return None


def _training(plt: Any, config: Any, folder: Path, shown: dict[str, Any], is_ring: bool) -> Any:
    """The bound of I(c; x), the misread codes and the transport cost of every variant against its steps."""
    wanted = {
        "information": "bound of I(c; x), nats",
        "code_error": "misread codes",
        "transport": "<P, C>, mean cost = 1",
    }
    found = curves(folder / "metrics.jsonl", {f"{name}, seed {config.seed_list()[0]}": name for name in shown})
    if not any(metric in entry for entries in found.values() for entry in entries.values() for metric in wanted):
        return None
    figure, axes = plt.subplots(1, len(wanted), figsize=(4 * len(wanted), 3.2), layout="constrained")
    for ax, (metric, label) in zip(axes, wanted.items(), strict=True):
        for i, (name, entries) in enumerate(found.items()):
            points = [(step, entry[metric]) for step, entry in sorted(entries.items()) if metric in entry]
            if points:
                style = {"color": plot.CYCLE[i % len(plot.CYCLE)], "marker": "." if len(points) == 1 else ""}
                ax.plot(*np.array(points).T, **style, lw=1.4, label=name)
        ax.set(xlabel="steps of the generator", ylabel=label)
        if metric == "transport":
            ax.set_yscale("log")
    lines, labels = axes[0].get_legend_handles_labels()
    if lines:
        axes[0].legend(lines, labels, frameon=False, fontsize=8)
    return figure


def curves(path: Path, stages: dict[str, str]) -> dict[str, dict[int, dict[str, float]]]:
    """Metrics by variant and step."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):  # a line that a killed run left unfinished
            entry = json.loads(line)
            if entry["stage"] in stages:
                found.setdefault(stages[entry["stage"]], {})[entry["step"]] = entry
    return {name: found[name] for name in stages.values() if name in found}
