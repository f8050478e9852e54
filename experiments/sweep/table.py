"""The numbers of a sweep: mean and standard deviation over seeds for every setting, as a table and a figure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.lab.figures import canvas, save
from experiments.lab.records import records
from experiments.lab.table import grid, summary
from otgen import plot

MOST = 12  # numbers shown if nobody says which
SCORES = (  # what is shown then: the last parts of names, the more telling first
    *("frechet", "l2_uvp", "accuracy_test", "accuracy", "nmi", "chi2", "lmem", "kid", "mmd", "modes", "share_3sd"),
    *("sliced_w2_sq", "loss", "objective", "precision", "recall", "information"),
)
_NAMES = ("name", "variant", "group", "model", "row", "solver", "dataset")  # what a row in a list is called by
_LONGEST = 16  # a longer list of numbers is a curve
_MARKERS = "osD^v<>P"
_COLOURS = tuple(colour for colour in plot.CYCLE if colour != "#F0E442")  # yellow lines are hard to see


def leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, float]]:
    """Yield the name and value of every number in what results.json holds of one seed.

    The parts of a name are joined by " / ". A summary over seeds counts as its mean, rows in a list go by what they
    are called, and the list `runs` is left out where `rows` says the same, and so are curves and seeds.
    """
    if isinstance(tree, bool | int | float):
        yield " / ".join(path), float(tree)
    elif isinstance(tree, list):
        if all(isinstance(item, dict) for item in tree):
            for name, item in zip(_called(tree), tree, strict=True):
                yield from leaves(item, (*path, name))
        elif len(tree) <= _LONGEST:
            for i, item in enumerate(tree):
                yield from leaves(item, (*path, str(i)))
    elif isinstance(tree, dict) and {"mean", "sd", "seeds"} <= set(tree):
        yield from leaves(tree["mean"], path)
    elif isinstance(tree, dict):
        for name, item in tree.items():
            if name not in ("seed", "seeds") and not (name == "runs" and "rows" in tree):
                yield from leaves(item, (*path, str(name)))


def _called(rows: list[dict[str, Any]]) -> list[str]:
    names = [" ".join(str(row[name]) for name in _NAMES if isinstance(row.get(name), str)) for row in rows]
    return [name if name and names.count(name) == 1 else f"{name} {i}".strip() for i, name in enumerate(names)]


def gather(found: list[tuple[dict[str, str], int, Any]]) -> list[dict[str, Any]]:
    """Summarise runs (setting, seed, results) over seeds: a row for every setting, in order of appearance.

    Beside mean and standard deviation a number has its `values`, in the order of the row's `seeds`, None where a seed
    lacks it.
    """
    groups: dict[tuple[tuple[str, str], ...], dict[int, dict[str, float]]] = {}
    for setting, seed, results in found:
        groups.setdefault(tuple(setting.items()), {})[seed] = dict(leaves(results))
    rows = []
    for setting, seeds in groups.items():
        names = dict.fromkeys(name for numbers in seeds.values() for name in numbers)
        values = {name: [numbers.get(name) for numbers in seeds.values()] for name in names}
        metrics = {
            name: {**summary([it for it in of_seeds if it is not None]), "values": of_seeds}
            for name, of_seeds in values.items()
        }
        rows.append({"setting": dict(setting), "seeds": list(seeds), "metrics": metrics})
    return rows


def lines(found: list[tuple[dict[str, str], int, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the lines of table.csv: setting, seed, and the numbers of a row of the table of a run."""
    for setting, seed, results in found:
        for line in records(results):
            yield {**setting, "seed": seed, **line, **setting}


def choose(rows: list[dict[str, Any]], wanted: str = "") -> list[str]:
    """Return names of the numbers to show: those that are called like a part of `wanted`, or at most MOST scores.

    Args:
      rows: from `gather`.
      wanted: parts of names, commas between; a whole last part, such as frechet, leaves out frechet_sd.

    Raises:
      ValueError: if no name has any of the wanted parts in it.
    """
    names = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    parts = [part.strip().lower() for part in wanted.split(",") if part.strip()]
    if parts:
        exact = {part for part in parts if any(_last(name).lower() == part for name in names)}
        chosen = [n for n in names if _last(n).lower() in exact or any(p in n.lower() for p in parts if p not in exact)]
        if not chosen and names:
            raise ValueError(f"metrics = {wanted!r}: no number is called so. There are {'; '.join(names)}.")
        return chosen
    varying = [name for name in names if _varies([row["metrics"].get(name) for row in rows])]
    chosen = []
    for score in SCORES:
        more = [name for name in names if _last(name) == score] if score in map(_last, varying) else []
        if len(chosen) + len(more) <= MOST or not chosen:
            chosen += more[:MOST]
    return chosen or varying[:MOST] or names[:MOST]


def _last(name: str) -> str:
    return name.split(" / ")[-1]


def _varies(cells: list[dict[str, Any] | None]) -> bool:
    present = [cell for cell in cells if cell]
    return len({cell["mean"] for cell in present}) > 1 or any(cell["sd"] for cell in present)


def markdown(results: dict[str, Any], chosen: list[str]) -> str:
    """Return the table, with the longer of settings and numbers downwards; below it seeds and failed runs."""
    rows, titles = results["rows"], list(_short(chosen).values())
    settings = [in_words(row["setting"]) for row in rows]
    cells = [[_cell(row["metrics"].get(name), len(row["seeds"])) for name in chosen] for row in rows]
    if len(chosen) > len(rows):
        settings, titles, cells = titles, settings, [list(column) for column in zip(*cells, strict=True)]
    lines = [grid(titles, dict(zip(settings, cells, strict=True)))] if rows else []
    counts = ", ".join(dict.fromkeys(str(len(row["seeds"])) for row in rows))
    total = len({name for row in rows for name in row["metrics"]})
    if rows:
        lines.append(f"\n{results['experiment']}: mean ± standard deviation over seeds (seeds of a setting: {counts}).")
    if total > len(chosen):
        lines.append(f"{len(chosen)} of {total} numbers; table.json has all, `--metrics frechet,lmem` chooses by name.")
    lines += [f"\n{run['run']} failed: {run['why']}" for run in results["failed"]]
    return "\n".join(lines)


def in_words(setting: dict[str, str]) -> str:
    """Return a setting as words."""
    return ", ".join(f"{name} = {value}" for name, value in setting.items()) or "all"


def _short(names: list[str]) -> dict[str, str]:
    """Return names less the leading parts that all of them share, and less the part `rows`."""
    parts, shared = [name.removeprefix("rows / ").split(" / ") for name in names], 0
    while parts and all(len(part) > shared + 1 and part[shared] == parts[0][shared] for part in parts):
        shared += 1
    return {name: " / ".join(part[shared:]) for name, part in zip(names, parts, strict=True)}


def _cell(summary: dict[str, Any] | None, seeds: int) -> str:
    """Return mean and standard deviation, the latter to two digits; the number of seeds where some lack the number."""
    if summary is None:
        return ""
    mean, sd = summary["mean"], summary["sd"]
    fewer = f" ({summary['seeds']} seeds)" if summary["seeds"] < seeds else ""
    if not sd or not math.isfinite(sd) or not 1e-4 <= max(abs(mean), sd) < 1e6:
        return f"{mean:.4g}" + ("" if sd is None else f" ± {sd:.2g}") + fewer
    digits = min(6, max(0, 1 - math.floor(math.log10(sd))))
    return f"{mean:.{digits}f} ± {sd:.{digits}f}{fewer}"


def figure(path: Path, results: dict[str, Any], chosen: list[str], along: str | None = None) -> None:
    """Draw a panel for every score: its mean against a swept field, bars for the standard deviation over seeds.

    Args:
      path: file of the picture.
      results: what table.json holds.
      chosen: names of the numbers; a line for each, and for each value of the other swept fields.
      along: the field on the horizontal axis; None for the first that was swept.
    """
    rows = results["rows"]
    swept = [name for name in rows[0]["setting"] if len({row["setting"][name] for row in rows}) > 1]
    along = along or next(iter(swept), None)
    panels: dict[str, dict[tuple[str, str], list[tuple[str, dict[str, Any]]]]] = {}
    for name, short in _short(chosen).items():
        *law, score = short.split(" / ")
        for row in rows:
            if name in row["metrics"]:
                other = in_words({field: row["setting"][field] for field in swept if field != along})
                line = (" / ".join(law), other if len(swept) > 1 else "")
                point = (row["setting"].get(along, ""), row["metrics"][name])
                panels.setdefault(score, {}).setdefault(line, []).append(point)
    lines = list(dict.fromkeys(line for panel in panels.values() for line in panel))
    styles = {line: _style(line, lines) for line in lines}
    columns, height = min(3, len(panels)), 3.1 if along else 1.2 + 0.24 * len(lines)
    size = (3.7 * columns + 1.8 * (along is not None and len(lines) > 1), height * -(-len(panels) // columns))
    sheet, axes = canvas(-(-len(panels) // columns), columns, 0, 0, figsize=size)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for i, (ax, (score, panel)) in enumerate(zip(axes.flat, panels.items(), strict=False)):
        title = score.replace("_", " ")
        if along:
            _against(ax, panel, styles)
            ax.set(xlabel=along.replace("_", " "), ylabel=title)
        else:
            _dots(ax, panel, named=i % columns == 0 or list(panel) != list(panels[list(panels)[i - 1]]))
            ax.set(xlabel=title)
        ax.spines[["top", "right"]].set_visible(False)
    if along and len(lines) > 1:
        drawn = {}
        for ax in axes.flat:
            drawn |= dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
        sheet.legend(drawn.values(), drawn, frameon=False, fontsize=8, loc="outside right center")
    save(sheet, path, 180)


def _style(line: tuple[str, str], lines: list[tuple[str, str]]) -> dict[str, Any]:
    """Colour by the first part of a line's name, marker and dashes by the second; colour alone if one part varies."""
    laws, others = (list(dict.fromkeys(part)) for part in zip(*lines, strict=True))
    hue, kind = (laws.index(line[0]), others.index(line[1])) if len(laws) > 1 else (others.index(line[1]), 0)
    return {
        "color": _COLOURS[hue % len(_COLOURS)],
        "marker": _MARKERS[(kind + hue // len(_COLOURS)) % len(_MARKERS)],
        "linestyle": ("-", "--", ":", "-.")[kind % 4],
        "label": ", ".join(part for part in line if part) or "all",
    }


def _against(ax: Any, panel: dict[tuple[str, str], list[tuple[str, dict[str, Any]]]], styles: dict) -> None:
    """Lines against the swept field; its values side by side, and no lines, if they are not numbers."""
    values = list(dict.fromkeys(value for points in panel.values() for value, _ in points))
    places, numeric = _numbers(values)
    width = 0.0 if numeric else 0.5 / len(panel)  # side by side where the axis has no scale
    for i, (line, points) in enumerate(panel.items()):
        points = sorted(points, key=lambda point: places[point[0]])
        x = [places[value] + width * (i - (len(panel) - 1) / 2) for value, _ in points]
        style = {**styles[line], **({} if numeric else {"linestyle": "none"})}
        sd = [cell["sd"] or 0 for _, cell in points]
        ax.errorbar(x, [cell["mean"] for _, cell in points], sd, ms=4.5, lw=1.4, capsize=2.5, elinewidth=1, **style)
    at = sorted(places.values())
    if numeric and at[0] > 0 and at[-1] / at[0] >= 6:
        ax.set_xscale("log")
    ax.set_xticks(list(places.values()), list(places))
    ax.minorticks_off()
    if _spread([cell["mean"] for points in panel.values() for _, cell in points]):
        ax.set_yscale("log")
    if not numeric:
        ax.set_xlim(-0.5, len(places) - 0.5)


def _numbers(values: list[str]) -> tuple[dict[str, float], bool]:
    """Return where the values lie on the axis, and whether they are numbers."""
    try:
        places = {value: float(value) for value in values}
    except ValueError:
        return {value: float(i) for i, value in enumerate(values)}, False
    return places, all(math.isfinite(place) for place in places.values())


def _spread(means: list[float]) -> bool:
    """Return whether an axis of these numbers should be logarithmic."""
    return min(means) > 0 and max(means) / min(means) >= 30


def _dots(ax: Any, panel: dict[tuple[str, str], list[tuple[str, dict[str, Any]]]], named: bool) -> None:
    """A dot for every number where nothing was swept but the seed."""
    cells = {line[0]: points[0][1] for line, points in reversed(panel.items())}
    means, sds = [cell["mean"] for cell in cells.values()], [cell["sd"] or 0 for cell in cells.values()]
    ax.errorbar(means, range(len(cells)), xerr=sds, fmt="o", color=plot.BLUE, ms=5, capsize=3)
    ax.set_yticks(range(len(cells)), list(cells) if named else [""] * len(cells))
    ax.set_ylim(-0.6, len(cells) - 0.4)
    if _spread(means):
        ax.set_xscale("log")
    else:
        ax.locator_params(axis="x", nbins=4)
