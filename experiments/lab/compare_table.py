"""The table and the figures of the comparison of models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

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


def gather(config: Any, places: list[Path]) -> dict[str, Any]:
    """Collect the scores of all models and seeds: mean, standard deviation and 95 % interval over seeds by row."""
    runs = [json.loads((place / "scores.json").read_text()) for place in places]
    rows: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        for name, scores in run["rows"].items():
            for score, value in scores["mean"].items():
                rows.setdefault(name, {}).setdefault(score, []).append(value)
    return {
        "dataset": config.dataset,
        "budget_epochs": config.setting()[1],
        "judge": next((run["judge"] for run in runs if "judge" in run), None),
        "rows": {name: {score: _summary(values) for score, values in row.items()} for name, row in rows.items()},
        "failed": [
            {"model": run["model"], "seed": run["seed"], "why": run["failed"]} for run in runs if "failed" in run
        ],
        "runs": runs,
    }


def _summary(values: list[float]) -> dict[str, Any]:
    if len(values) < 2:
        return {"mean": values[0], "sd": None, "low": None, "high": None, "seeds": 1}
    interval = over_seeds(values)
    sd = float(np.std(values, ddof=1))
    low, high = float(interval.low), float(interval.high)
    return {"mean": float(np.mean(values)), "sd": sd, "low": low, "high": high, "seeds": len(values)}


def markdown(results: dict[str, Any]) -> str:
    """The table: mean over seeds, with the standard deviation over them."""
    rows = results["rows"]
    columns = {score: title for score, title in COLUMNS.items() if any(score in row for row in rows.values())}
    lines = ["|  | " + " | ".join(columns.values()) + " |", "|---" * (1 + len(columns)) + "|"]
    for name, row in rows.items():
        lines.append(
            "| " + " | ".join([name, *(_cell(row[score]) if score in row else "" for score in columns)]) + " |"
        )
    lines += [f"\n{run['model']}, seed {run['seed']}, failed: {run['why']}" for run in results["failed"]]
    judge = results["judge"]
    if judge:
        lines.append(
            f"\n{results['dataset']}, features: {judge['features']}; classes: {judge['classifier']}; "
            f"{judge['draws']} draws of {judge['images_per_draw']}; budget {judge['budget_flops']:.2g} operations."
        )
    return "\n".join(lines)


def _cell(summary: dict[str, Any]) -> str:
    digits = 0 if abs(summary["mean"]) >= 100 else 3 if abs(summary["mean"]) >= 0.02 else 4
    spread = "" if summary["sd"] is None else f" ± {summary['sd']:.{digits}f}"
    return f"{summary['mean']:.{digits}f}{spread}"


def figures(folder: Path, results: dict[str, Any], places: list[Path]) -> None:
    """Draw samples of every row (first seed), and the Frechet distance beside memorisation, precision and recall."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown: dict[str, np.ndarray] = {}
    for place in places:
        if (place / "samples.npz").exists():
            with np.load(place / "samples.npz") as file:
                shown |= {name: file[name] for name in file}
    if shown:
        columns = min(4, len(shown))
        lines = -(-len(shown) // columns)
        figure, axes = plt.subplots(lines, columns, figsize=(3 * columns, 3.2 * lines), squeeze=False)
        for ax in axes.flat[len(shown) :]:
            ax.set_axis_off()
        for ax, (name, images) in zip(axes.flat, shown.items(), strict=False):
            if images.shape[1:3] == (1, 1):
                plot.points(images[:, 0, 0], ax, name)
            else:
                plot.image_grid(images[:64], 8, ax, name)
        figure.tight_layout()
        figure.savefig(folder / "samples.png", dpi=150)
        plt.close(figure)
    if results["rows"]:
        bars(folder / "scores.png", results)


def bars(path: Path, results: dict[str, Any]) -> None:
    """A bar for every row in four scores; lines show the standard deviation over seeds."""
    import matplotlib.pyplot as plt

    rows = results["rows"]
    scores = [
        score for score in ("frechet", "lmem", "precision", "recall") if all(score in row for row in rows.values())
    ]
    figure, axes = plt.subplots(
        1, len(scores), figsize=(2.8 * len(scores) + 1.5, 0.34 * len(rows) + 1.2), sharey=True, layout="constrained"
    )
    place = np.arange(len(rows))[::-1]
    colour = [
        plot.GREY if name.endswith(" data") else plot.ORANGE if name.startswith("ae_ot") else plot.BLUE for name in rows
    ]
    for ax, score in zip(np.atleast_1d(axes), scores, strict=True):
        value = [row[score]["mean"] for row in rows.values()]
        ax.barh(place, value, color=colour, height=0.7)
        ax.errorbar(
            value, place, xerr=[row[score]["sd"] or 0 for row in rows.values()], fmt="none", color="black", lw=1
        )
        ax.set_title(COLUMNS[score])
        ax.spines[["top", "right"]].set_visible(False)
        if score == "frechet" and min(value) > 0:
            ax.set_xscale("log")
    np.atleast_1d(axes)[0].set_yticks(place, list(rows))
    figure.savefig(path, dpi=150)
    plt.close(figure)
