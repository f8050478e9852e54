"""Print the README's tables of results from the JSON beside this file: `python benchmarks/tables.py`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

COLUMNS = {"frechet": "Frechet", "class_tv": "class TV", "lmem": "lmem", "precision": "precision", "recall": "recall"}


def ae_ot(path: Path) -> str:
    """Mean and standard deviation over seeds of every row of the AE-OT experiment, as Markdown."""
    runs = json.loads(path.read_text())["runs"]
    lines = ["| " + " | ".join(["", *COLUMNS.values()]) + " |", "|---" * (1 + len(COLUMNS)) + "|"]
    for name in runs[0]["rows"]:
        cells = []
        for column in COLUMNS:
            values = [run["rows"][name][column] for run in runs]
            spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.3f}{spread}")
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    for found in sorted(Path(__file__).parent.glob("ae_ot_*.json")):
        print(f"{found.stem}\n\n{ae_ot(found)}\n")
