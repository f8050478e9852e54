"""Results as a flat table for pandas: a line for each row of a run's table and each seed, a column for each number."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_OF_A_RUN = ("dataset", "model", "group", "dim", "seed")  # what says which run a line is of


def records(results: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the lines of what results.json holds: of its `runs` where it has them, or of itself, as one run.

    A line is a row of the run's table; so is a dictionary of numbers beside it, such as `transport` and `seconds`, by
    its name. In nested numbers the parts of a name are joined by points; means go by the name of what they are of.
    """
    for run in results.get("runs", [results]):
        run = {"dataset": results.get("dataset"), **run}
        told = {name: run[name] for name in _OF_A_RUN if isinstance(run.get(name), str | int)}
        lines = dict(_lines(run))
        if not lines and (numbers := _flat({name: it for name, it in run.items() if name not in told})):
            lines = {"": numbers}
        for row, numbers in lines.items():
            yield {**told, "row": row, **numbers}


def write(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Write lines as CSV at once, columns in order of appearance; what a line lacks is left empty."""
    lines, text = list(lines), io.StringIO()
    columns = dict.fromkeys(name for line in lines for name in line)
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    beside = path.with_suffix(path.suffix + ".new")
    beside.write_text(text.getvalue())
    beside.replace(path)


def _lines(run: dict[str, Any]) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield names and numbers of the rows of a run; where nothing is called `rows`, all dictionaries are tables."""
    parts = {name: it for name, it in run.items() if isinstance(it, dict)}
    table = parts.pop("rows", {})
    beside = {name: parts.pop(name) for name in list(parts) if table and parts[name] and set(parts[name]) <= set(table)}
    for row, scores in table.items():
        more = {name: it[row] for name, it in beside.items() if row in it}
        if numbers := _flat({**scores, **more}):
            yield row, numbers
    for name, part in parts.items():
        inner = part.get("rows", part)
        if inner and all(isinstance(it, dict) for it in inner.values()) and not table:
            yield from ((f"{name}, {row}", numbers) for row, it in inner.items() if (numbers := _flat(it)))
        elif part and _is_numeric(part):
            yield name, _flat({name: part})


def _is_numeric(tree: Any) -> bool:
    return all(map(_is_numeric, tree.values())) if isinstance(tree, dict) else isinstance(tree, int | float)


def _flat(tree: dict[str, Any], before: str = "") -> dict[str, float]:
    """Return all numbers of a tree by name; lists and texts are left out."""
    found: dict[str, float] = {}
    for name, it in tree.items():
        if isinstance(it, dict):
            found |= _flat(it, before if name == "mean" else f"{before}{name}.")
        elif isinstance(it, int | float):
            found[f"{before}{name}"] = it
    return found
