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


def sinkhorn(path: Path) -> str:
    """Milliseconds to the error for every solver, and how many times faster otgen is, as Markdown."""
    results = json.loads(path.read_text())
    names = list(results["cells"][0]["solvers"])
    lines = ["| n | d | epsilon / mean cost | error | " + " | ".join(names) + " |", "|---" * (4 + len(names)) + "|"]
    for cell in results["cells"]:
        times = ["-" if it is None else f"{1e3 * it['seconds']:.3g}" for it in cell["solvers"].values()]
        lines.append("| " + " | ".join([*(f"{cell[key]:g}" for key in ("n", "d", "share", "error")), *times]) + " |")
    return "\n".join([*lines, "", *sinkhorn_ratios(results)])


def sinkhorn_ratios(results: dict) -> list[str]:
    """Geometric means over the cells with n <= 2048 that each peer solves, and the cells that it does not."""
    lines = []
    small = [cell["solvers"] for cell in results["cells"] if cell["n"] <= 2048]
    pairs = {
        "ott": ["ott"],
        "the faster form of ott": ["ott", "ott, kernel"],
        "the faster form of POT": ["pot", "pot, log"],
    }
    for peer, names in pairs.items():
        ratios = []
        for cell in small:
            times = [cell[name]["seconds"] for name in names if cell[name]]
            if times and cell["otgen"]:
                ratios.append(min(times) / cell["otgen"]["seconds"])
        mean = float(np.exp(np.mean(np.log(ratios))))
        lines.append(
            f"* against {peer}: {mean:.1f} times faster in geometric mean over the {len(ratios)} of {len(small)} cells "
            f"that it solves (least {min(ratios):.2f}, most {max(ratios):.0f}; slower in {sum(r < 1 for r in ratios)})"
        )
    solved = sum(cell["solvers"]["otgen"] is not None for cell in results["cells"])
    lines.append(f"* otgen solves {solved} of {len(results['cells'])} cells")
    return lines


if __name__ == "__main__":
    found = Path(__file__).parent / "sinkhorn.json"
    if found.exists():
        print(f"{found.stem}\n\n{sinkhorn(found)}\n")
    for found in sorted(Path(__file__).parent.glob("ae_ot_*.json")):
        print(f"{found.stem}\n\n{ae_ot(found)}\n")
