"""The Wasserstein-2 benchmark's results: collected over seeds, beside published numbers, as tables and a figure."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from experiments.lab import table
from experiments.lab.figures import pyplot, save
from experiments.lab.trials import read
from otgen import plot
from otgen.data import wasserstein2
from otgen.eval import l2_uvp

REFERENCE = "reference"
PUBLISHED = {  # L2-UVP at d = 2, 4, 8, ... 256, as far as training did not diverge: Korotin et al. (2021), poster
    "MMv1": (0.2, 1.0, 1.8, 1.4, 6.9, 8.1, 2.2, 2.6),
    "MM:R": (0.1, 0.3, 0.7, 1.9, 2.8, 4.5),
    "W2": (0.1, 0.7, 2.6, 3.3, 6.0, 7.2, 2.0, 2.7),
    "QC": (1.5, 14.5, 28.6, 47.2, 64.0, 75.2, 80.5, 88.2),
    "LS": (5.0, 11.6, 21.5, 31.7, 42.1, 40.1, 46.8, 54.7),
    "linear": (14.1, 14.9, 27.3, 41.6, 55.3, 63.9, 63.6, 67.4),
    "constant": (100.0,) * 8,
    "identity": (32.7, 42.0, 58.6, 87.0, 121.0, 137.0, 145.0, 153.0),
}
TABLES = {  # of table.md: what they are called and how many digits they show
    "l2_uvp": ("L2-UVP of the map, %", 2),
    "cosine": ("cosine of the map", 3),
    "inverse_l2_uvp": ("L2-UVP of the inverse map, %", 2),
    "inverse_cosine": ("cosine of the inverse map", 3),
    "disagreement": ("squared distance between maps of two seeds, % of the variance", 2),
    "dual_share": ("dual value / W2^2", 3),
    "seconds": ("seconds of training", 0),
}
COLOURS = {"icnn": plot.ORANGE, "icnn_cycle": "#CC79A7", "c_transform": plot.BLUE, "lp": "#009E73"}


def gather(config: Any, runs: list[Any]) -> dict[str, Any]:
    """Collect the scores: mean and standard deviation over seeds, by row, dimension and score."""
    dims = list(dict.fromkeys(run.dim for run in runs))
    found = [read(config.place(run)) for run in runs]
    _compare(config, runs, found)
    truth = {(one["dim"], one["seed"]): one["rows"]["truth"]["w2_sq"] for one in found if one["row"] == REFERENCE}
    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    for one in found:
        for name, scores in one["rows"].items():
            if scores.get("dual_value") is not None:
                scores = {**scores, "dual_share": scores["dual_value"] / truth[one["dim"], one["seed"]]}
            cell = values.setdefault(name, {}).setdefault(str(one["dim"]), {})
            for score, value in scores.items():
                if value is not None:
                    cell.setdefault(score, []).append(value)
    rows = {
        name: {dim: {score: table.summary(all_) for score, all_ in cell.items()} for dim, cell in row.items()}
        for name, row in values.items()
    }
    published = {name: dict(zip(wasserstein2.DIMS, row, strict=False)) for name, row in PUBLISHED.items()}
    order = [*config.rows(), "linear", "constant", "identity", "truth"]
    return {
        "benchmark": "Mix3toMix10 (Korotin et al., 2021, arXiv 2106.01954)",
        "dims": dims,
        "num_codes": config.num_codes,
        "num_eval": config.num_eval,
        "settings": {
            name: {str(dim): dataclasses.asdict(config.settings(name, dim)) for dim in dims} for name in config.rows()
        },
        "rows": {name: rows[name] for name in order if name in rows},
        "published": {name: {str(dim): value for dim, value in row.items()} for name, row in published.items()},
        "failed": [one for one in found if "failed" in one],
        "runs": found,
    }


def _compare(config: Any, runs: list[Any], found: list[dict[str, Any]]) -> None:
    """Add to the scores of every map its mean squared distance to those of other seeds, in percent of the variance."""
    moved: dict[tuple[int, str], dict[int, np.ndarray]] = {}
    for run in runs:
        path = config.place(run) / "points.npz"
        if path.exists():
            with np.load(path) as file:
                moved.setdefault((run.dim, run.row), {})[run.seed] = file["moved"]
    for one in found:
        maps = dict(moved.get((one["dim"], one["row"]), {}))
        own = maps.pop(one["seed"], None)
        if own is not None and maps:
            apart = np.mean([float(l2_uvp(own, other)) for other in maps.values()])
            one["rows"][one["row"]]["disagreement"] = float(apart)


def markdown(results: dict[str, Any]) -> str:
    """A table by dimension for every score, mean and standard deviation over seeds; published numbers below ours."""
    dims, blocks = [str(dim) for dim in results["dims"]], []
    for score, (title, digits) in TABLES.items():
        lines = {
            name: cells
            for name, row in results["rows"].items()
            if any(cells := [table.written(row.get(dim, {}).get(score), digits) for dim in dims])
        }
        if score == "l2_uvp":
            published = results["published"].items()
            lines |= {f"published: {name}": [_told(row.get(dim)) for dim in dims] for name, row in published}
        blocks += [table.grid([f"d = {dim}" for dim in dims], lines, title)] * bool(lines)
    blocks += [
        f"{one['row']}, d = {one['dim']}, seed {one['seed']}, failed: {one['failed']}" for one in results["failed"]
    ]
    blocks.append(f"{results['num_codes']} codes, {results['num_eval']} fresh points; {results['benchmark']}.")
    return "\n\n".join(blocks)


def _told(value: float | None) -> str:
    """Return a published number; nothing where none was published."""
    return "" if value is None else f"{value:g}"


def figure(config: Any, runs: list[Any], results: dict[str, Any]) -> None:
    """Draw maps.png: the plane's maps and their difference, the objective, L2-UVP by what is seen and by dimension."""
    name = "icnn" if "icnn" in config.rows() else config.rows()[0]
    shown = [config.place(run) / "points.npz" for run in runs if (run.dim, run.row) == (2, name)]
    shown = [path for path in shown if path.exists()]
    sheet = pyplot().figure(figsize=(13, 8.4 if shown else 4.0), layout="constrained")
    parts = sheet.subfigures(1 + bool(shown), 1, squeeze=False, hspace=0.04)[:, 0]
    if shown:
        with np.load(shown[0]) as file:
            _maps(parts[0].subplots(1, 3), name, **file)
    pairs = [one["rows"][one["row"]] for one in results["runs"] if "disagreement" in one["rows"].get(one["row"], {})]
    axes = parts[-1].subplots(1, 2 + bool(pairs), width_ratios=[1.0] * (1 + bool(pairs)) + [1.25])
    _objective(axes[0], results)
    _by_dim(axes[-1], results)
    if pairs:
        _observable(axes[1], results)
    save(sheet, config.folder() / "maps.png", 180)


def _maps(axes: Any, name: str, x: np.ndarray, truth: np.ndarray, moved: np.ndarray) -> None:
    """Two maps, as points in the colour of where they come from and arrows to some, and their distance there."""
    few, ends = slice(80), np.quantile(np.concatenate([x, truth]), (0.002, 0.998), axis=0)
    middle, half = ends.mean(0), 0.54 * np.ptp(ends, axis=0).max()
    for ax, to, title in zip(axes, (truth, moved), ("true map, d = 2", f"learned map ({name})"), strict=False):
        ax.scatter(*to.T, s=5, c=plot.colours(x), linewidths=0, rasterized=True)
        style = {"width": 0.0035, "headwidth": 5, "headlength": 6, "color": "0.2", "alpha": 0.75}
        ax.quiver(*x[few].T, *(to - x)[few].T, angles="xy", scale_units="xy", scale=1, **style)
        ax.set_title(title)
    error = np.linalg.norm(moved - truth, axis=1)
    order = np.argsort(error)
    top = float(np.quantile(error, 0.99))
    style = {"cmap": "viridis", "vmin": 0, "vmax": top, "s": 5, "linewidths": 0, "rasterized": True}
    dots = axes[2].scatter(*x[order].T, c=error[order], **style)
    axes[2].set_title("|learned - true|, at the source")
    axes[2].figure.colorbar(dots, ax=axes[2], shrink=0.8, extend="max")
    for ax in axes:
        ax.set(xticks=[], yticks=[], aspect="equal")
        ax.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half))


def _objective(ax: Any, results: dict[str, Any]) -> None:
    """The dual objective in the first dimension and seed, in standard units, which the benchmark comes in."""
    dim = results["dims"][0]
    truth = {name: value["mean"] for name, value in results["rows"]["truth"][str(dim)].items()}
    first = {one["row"]: one for one in reversed(results["runs"]) if one["dim"] == dim and "curve" in one}
    for name in [name for name in results["rows"] if name in first and name != "lp"]:  # which has another objective
        curve = first[name]["curve"]
        value = np.asarray(curve["objective"])
        if name == "c_transform":  # -W2^2 at its infimum, and |x|^2 + |y|^2 is 2 dim on average
            value = dim + 0.5 * value
        width = max(1, len(value) // 12)
        ax.plot(curve["updates"], value, color=COLOURS[name], lw=0.7, alpha=0.3)
        smooth = np.convolve(value, np.ones(width) / width, "valid")
        ax.plot(curve["updates"][width - 1 :], smooth, color=COLOURS[name], lw=1.2, label=name)
    ax.axhline(truth["inner"], color="black", lw=1, ls=":", label="infimum, from the true map")
    ax.set(xlabel="updates", ylabel="dual objective", title=f"training, d = {dim}")
    ax.set_ylim(None, truth["inner"] + 0.05 * abs(truth["inner"]))
    ax.locator_params(axis="x", nbins=5)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8)


def _observable(ax: Any, results: dict[str, Any]) -> None:
    """L2-UVP of every map beside its squared distance to maps of other seeds, and the band of a factor of two."""
    seen: dict[str, list[tuple[int, float, float]]] = {}
    for one in results["runs"]:
        scores = one["rows"].get(one["row"], {})
        if "disagreement" in scores:
            seen.setdefault(one["row"], []).append((one["dim"], scores["disagreement"], scores["l2_uvp"]))
    every = np.array([pair[1:] for pairs in seen.values() for pair in pairs])
    ends = np.array([every.min() / 2.5, every.max() * 2.5])
    ax.fill_between(ends, ends / 2, 2 * ends, color="0.92", lw=0, label="within a factor of 2")
    ax.plot(ends, ends, color="0.6", lw=1)
    markers = dict(zip(results["dims"], "osD^vP*X", strict=False))
    for name, pairs in seen.items():
        for dim in dict.fromkeys(pair[0] for pair in pairs):
            told, true = np.array([pair[1:] for pair in pairs if pair[0] == dim]).T
            style = {"marker": markers[dim], "s": 26, "color": COLOURS[name], "linewidths": 0}
            ax.scatter(told, true, label=f"{name}, d = {dim}", **style)
    ax.set(xscale="log", yscale="log", xlim=ends, ylim=ends, aspect="equal")
    ax.set(xlabel="squared distance between two seeds, %", ylabel="L2-UVP, %", title="without the true map")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=7, loc="upper left")


def _by_dim(ax: Any, results: dict[str, Any]) -> None:
    dims = results["dims"]
    for name, row in results["rows"].items():
        cells = {dim: row[str(dim)]["l2_uvp"] for dim in dims if "l2_uvp" in row.get(str(dim), {})}
        if name in COLOURS and cells:
            mean, sd = [cell["mean"] for cell in cells.values()], [cell["sd"] or 0 for cell in cells.values()]
            ax.errorbar(list(cells), mean, sd, color=COLOURS[name], marker="o", ms=5, lw=2, capsize=3, label=name)
    markers = dict(zip(results["published"], "sv^D<", strict=False))
    for name, row in results["published"].items():
        style = {"ls": "--", "marker": markers[name], "ms": 4} if name in markers else {"ls": ":"}
        values = [row.get(str(dim), np.nan) for dim in dims]
        ax.plot(dims, values, color="0.5", lw=1, label=f"{name} (published)" if name in markers else None, **style)
        if name not in markers:
            style = {"va": "bottom" if name == "identity" else "center", "color": "0.4", "size": 8}
            ax.annotate(name, (dims[-1], values[-1]), (4, 0), textcoords="offset points", **style)
    ax.set(xscale="log", yscale="log", xlabel="dimension", ylabel="L2-UVP, %", title="unexplained variance of the map")
    ax.set_xticks(dims, map(str, dims))
    ax.minorticks_off()
    ax.spines[["top", "right"]].set_visible(False)
    lines = dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    order = sorted(lines, key=lambda name: "(" in name)
    ax.legend(
        [lines[name] for name in order], order, frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.1, 1)
    )
