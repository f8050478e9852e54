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
    """Milliseconds to the error: otgen / ott-jax / the faster form of POT, as Markdown, and the ratios."""
    results = json.loads(path.read_text())
    columns = list(dict.fromkeys((cell["share"], cell["error"]) for cell in results["cells"]))
    rows = list(dict.fromkeys((cell["n"], cell["d"]) for cell in results["cells"]))
    heads = [f"{share:g}, {error:.0e}".replace("e-0", "e-") for share, error in columns]
    lines = ["| n, d | " + " | ".join(heads) + " |", "|---" * (1 + len(heads)) + "|"]
    for n, d in rows:
        found = {(it["share"], it["error"]): it["solvers"] for it in results["cells"] if (it["n"], it["d"]) == (n, d)}
        cells = (
            " / ".join(_milliseconds(found[column], names) for names in (["otgen"], ["ott"], ["pot", "pot, log"]))
            for column in columns
        )
        lines.append(f"| {n}, {d} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *sinkhorn_ratios(results)])


def _milliseconds(solvers: dict, names: list[str]) -> str:
    times = [solvers[name]["seconds"] for name in names if solvers[name]]
    if not times:
        return "-"
    fastest = 1e3 * min(times)
    return f"{fastest:.2g}" if fastest < 100 else f"{fastest:.0f}"


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
