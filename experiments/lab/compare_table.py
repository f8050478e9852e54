"""The table and the figures of the comparison of models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.lab import figures as figures_of
from experiments.lab import table
from experiments.lab.trials import load_shown
from otgen import plot
from otgen.eval import over_seeds

COLUMNS = {  # of the table, where they were measured
    "frechet": "Frechet",
    "kid": "KID",
    "lmem": "lmem",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "class_tv": "class TV",
    "mixtures": "mixtures",
    "modes": "modes",
    "share_3sd": "within 3 sd",
    "within_sd": "within-mode sd",
    "reverse_kl": "reverse KL",
    "sliced_w2_sq": "sliced W2^2",
}


def gather(config: Any, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Collect the scores of all models and seeds: mean, standard deviation and 95 % interval over seeds by row."""
    means = [{"rows": {name: scores["mean"] for name, scores in run["rows"].items()}} for run in runs]
    rows = table.gather(means)
    for name, row in rows.items():
        for score, cell in row.items():
            values = [run["rows"][name][score] for run in means if score in run["rows"].get(name, {})]
            interval = over_seeds(values) if len(values) > 1 else None
            cell |= {end: None if interval is None else float(getattr(interval, end)) for end in ("low", "high")}
    failed = [{"model": run["model"], "seed": run["seed"], "why": run["failed"]} for run in runs if "failed" in run]
    return {
        "dataset": config.dataset,
        "budget_epochs": config.setting()[1],
        "judge": next((run["judge"] for run in runs if "judge" in run), None),
        "rows": rows,
        "failed": failed,
        "runs": runs,
    }


def markdown(results: dict[str, Any]) -> str:
    """Return the table: mean over seeds, with the standard deviation over them."""
    lines = [table.markdown(results["rows"], COLUMNS, _cell)]
    lines += [f"\n{run['model']}, seed {run['seed']}, failed: {run['why']}" for run in results["failed"]]
    if results["judge"]:
        lines.append(f"\n{table.of_judge(results)}; budget {results['judge']['budget_flops']:.2g} operations.")
    else:
        lines.append(f"\n{table.of_judge(results)}.")
    return "\n".join(lines)


def _cell(summary: table.Summary | None) -> str:
    size = 0 if summary is None else abs(summary["mean"])
    return table.written(summary, 0 if size >= 100 else 3 if size >= 0.02 else 4)


def figures(folder: Path, results: dict[str, Any], places: list[Path]) -> None:
    """Draw samples of every row (first seed), and the Frechet distance beside memorisation, precision and recall."""
    shown = load_shown(places)
    if shown:
        figures_of.save(figures_of.sheet(shown, _samples, 4, (3, 3.2)), folder / "samples.png")
    if results["rows"]:
        bars(folder / "scores.png", results)


def _samples(ax: Any, name: str, images: np.ndarray) -> None:
    if images.shape[1:3] == (1, 1):
        plot.points(images[:, 0, 0], ax, name)
    else:
        plot.image_grid(images[:64], 8, ax, name)


def bars(path: Path, results: dict[str, Any]) -> None:
    """A bar for every row in four scores; lines show the standard deviation over seeds."""
    rows = results["rows"]
    scores = [
        score for score in ("frechet", "lmem", "precision", "recall") if all(score in row for row in rows.values())
    ]
    size = (2.8 * len(scores) + 1.5, 0.34 * len(rows) + 1.2)
    figure, (axes,) = figures_of.canvas(1, len(scores), 0, 0, figsize=size, sharey=True)
    place = np.arange(len(rows))[::-1]
    colour = [
        plot.GREY if name.endswith(" data") else plot.ORANGE if name.startswith("ae_ot") else plot.BLUE for name in rows
    ]
    for ax, score in zip(axes, scores, strict=True):
        value = [row[score]["mean"] for row in rows.values()]
        ax.barh(place, value, color=colour, height=0.7)
        ax.errorbar(
            value, place, xerr=[row[score]["sd"] or 0 for row in rows.values()], fmt="none", color="black", lw=1
        )
        ax.set_title(COLUMNS[score])
        ax.spines[["top", "right"]].set_visible(False)
        if score == "frechet" and min(value) > 0:
            ax.set_xscale("log")
    axes[0].set_yticks(place, list(rows))
    figures_of.save(figure, path)
