"""Tables of the mean and the standard deviation over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

Summary = dict[str, Any]


def summary(values: list[float]) -> Summary:
    """Return mean, standard deviation (None of one number), and how many there are."""
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "sd": sd, "seeds": len(values)}


def gather(runs: Iterable[dict[str, Any]]) -> dict[str, dict[str, Summary]]:
    """Summarise every number of `rows` of the runs, by row of the table and name; what is no number is left out."""
    values: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        for row, scores in run["rows"].items():
            for name, value in scores.items():
                if isinstance(value, int | float):
                    values.setdefault(row, {}).setdefault(name, []).append(value)
    return {row: {name: summary(numbers) for name, numbers in scores.items()} for row, scores in values.items()}


def written(cell: Summary | None, digits: int) -> str:
    """Return mean ± standard deviation with as many digits, and more where the deviation would not be seen.

    Without a deviation, or with one that rounding explains, the mean stands alone; None is empty.
    """
    if cell is None:
        return ""
    mean, sd = cell["mean"], cell["sd"]
    if sd is None or sd < 5e-7 * max(1.0, abs(mean)):
        return f"{mean:.{digits}f}"
    digits = max(digits, math.ceil(-math.log10(1.99 * sd)))  # of the deviation at least a 1 in the last place
    return f"{mean:.{digits}f} ± {sd:.{digits}f}"


def sized(cell: Summary | None) -> str:
    """Return mean ± standard deviation with digits that suit the size of the mean; whole numbers without."""
    if cell is None:
        return ""
    size, exact = abs(cell["mean"]), cell["mean"].is_integer() and not cell["sd"]
    return written(cell, 0 if exact else 1 if size >= 20 else 2 if size >= 5 else 3 if size >= 0.02 else 5)


def markdown(
    rows: dict[str, dict[str, Summary]],
    columns: dict[str, str],
    cell: Callable[[Summary | None], str] = sized,
) -> str:
    """Return the table of rows of summaries, in the columns (name: title) that any row has."""
    shown = [name for name in columns if any(name in row for row in rows.values())]
    lines = {name: [cell(row.get(column)) for column in shown] for name, row in rows.items()}
    if not shown:
        return "No scores."
    return grid([columns[name] for name in shown], lines)


def grid(titles: Iterable[str], lines: dict[str, list[str]], corner: str = "") -> str:
    """Return a table in Markdown: its titles, and by name the cells of every line."""
    whole = [[corner, *titles], *([name, *cells] for name, cells in lines.items())]
    head, *rest = ["| " + " | ".join(line) + " |" for line in whole]
    return "\n".join([head, "|---" * len(whole[0]) + "|", *rest])


def of_judge(results: dict[str, Any]) -> str:
    """Return what the scores of a table were made with, in a line."""
    judge = results["judge"]
    if not judge:
        return f"{results['dataset']}, not scored"
    return (
        f"{results['dataset']}, features: {judge['features']}; classes: {judge['classifier']}; "
        f"{judge['draws']} draws of {judge['images_per_draw']}"
    )
