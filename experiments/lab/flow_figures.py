"""Figures of the flow experiment: paths and samples by coupling and number of steps, and curves of their scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.lab import figures as figures_of
from experiments.lab import table
from experiments.lab.trials import load_shown, read, scores_at
from otgen import plot

_SCORES = {"w2_sq": "squared W2", "codes": "Frechet / variance of codes", "frechet": "Frechet distance of images"}


def draw(config: Any, folder: Path) -> list[str]:
    """Draw the figures of the first seed, and the curves over all; return their names."""
    seed = config.seed_list()[0]
    shown = load_shown([scores_at(config, folder, seed, name) for name in config.names()])
    return [_samples(config, folder, shown), *([_curves(config, folder)] if config.table else [])]


def _best(name: str, nfe: int, shown: dict[str, Any]) -> Any:
    """Return what the midpoint method draws where it can, else Euler's."""
    return shown.get(f"{name} midpoint {nfe}", shown.get(f"{name} Euler {nfe}"))


def _samples(config: Any, folder: Path, shown: dict[str, np.ndarray]) -> str:
    """Draw a row for each coupling: in the plane its paths first, then samples at each number of evaluations."""
    columns, toy = [nfe for nfe in config.evaluations() if nfe <= 8], config.is_toy()
    figure, axes = figures_of.canvas(len(config.names()), len(columns) + toy, 2.6, 2.75)
    for line, name in zip(axes, config.names(), strict=True):
        if toy:
            _paths(line[0], shown[f"{name} paths"], f"{name}: paths")
        for ax, nfe in zip(line[int(toy) :], columns, strict=True):
            found, title = _best(name, nfe, shown), f"{name}, NFE {nfe}"
            if toy:
                plot.points(found, ax, title, color=plot.BLUE, size=2)
                ax.set(xlim=(-3.4, 3.4), ylim=(-3.0, 3.0))
            else:
                plot.image_grid(found, 6, ax, title)
    figures_of.save(figure, folder / "samples.png", 160)
    return "samples.png"


def _paths(ax: Any, found: np.ndarray, title: str) -> None:
    for i in range(found.shape[1]):
        ax.plot(*found[:, i].T, color="#9AA5B1", lw=0.5, zorder=1)
    plot.points(found[-1], ax, title, color=plot.BLUE, size=5)
    ax.scatter(*found[0].T, s=5, color=plot.ORANGE, zorder=3)
    ax.set(xlim=(-3.4, 3.4), ylim=(-3.0, 3.0))


def _curves(config: Any, folder: Path) -> str:
    """Draw every score against the number of evaluations, by coupling, with the spread over seeds."""
    runs = [
        read(scores_at(config, folder, seed, name)) for seed in config.seed_list() for name in ("real", *config.names())
    ]
    rows = table.gather(runs)
    scores = [score for score in _SCORES if any(score in row for row in rows.values())]
    figure, axes = figures_of.canvas(1, len(scores), 4.6, 3.6)
    for ax, score in zip(axes[0], scores, strict=True):
        for i, name in enumerate(config.names()):
            for method, style in (("midpoint", "-"), ("Euler", "--")):
                cells = [(nfe, rows.get(f"{name}, {method}, NFE {nfe}", {}).get(score)) for nfe in config.evaluations()]
                cells = [(nfe, cell["mean"], cell["sd"] or 0.0) for nfe, cell in cells if cell]
                if not cells:
                    continue
                x, mean, sd = np.array(cells).T
                label = name if method == "midpoint" else None
                options = {"color": plot.CYCLE[i % len(plot.CYCLE)], "linestyle": style, "marker": ".", "lw": 1.4}
                ax.errorbar(x, mean, sd, label=label, capsize=2, **options)
        ax.axhline(rows["real data"][score]["mean"], color="#777777", lw=1, linestyle=":", label="real data")
        ax.set(xscale="log", yscale="log", xlabel="evaluations of the velocity", ylabel=_SCORES[score])
        ax.set_xticks(config.evaluations(), list(map(str, config.evaluations())), minor=False)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].plot([], [], color="#777777", linestyle="--", label="dashed: Euler; solid: midpoint")
    axes[0, 0].legend(frameon=False, fontsize=8)
    figures_of.save(figure, folder / "scores.png", 160)
    return "scores.png"
