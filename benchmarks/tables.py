"""Print the tables of results of docs/ from the JSON beside this file: `python benchmarks/tables.py`."""

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


def exact(path: Path) -> str:
    """Seconds of exact plans and their ratios to POT's, by problem and size, as Markdown."""
    cells = json.loads(path.read_text())["cells"]
    names = [name for name in dict.fromkeys(name for cell in cells for name in cell) if name[:3] in ("POT", "otg")]
    lines = ["| problem, n | " + " | ".join(f"{name}, s" for name in names) + " |", "|---" * (1 + len(names)) + "|"]
    for cell in cells:
        told = [f"{cell['problem']}, {cell['n']}"]
        for name in names:
            of = cell.get(name)
            ratio = "" if name == "POT" or not of else f" ({of['times POT']:.2f})"
            told.append(f"{of['seconds']:.2g}{ratio}" if of else "")
        lines.append("| " + " | ".join(told) + " |")
    return "\n".join(lines)


INFORMATIVE = {  # columns of the informative GAN's tables, of rings and of images
    "modes": "modes",
    "share_3sd": "within 3 sd",
    "within_sd": "within-mode sd",
    "nmi": "NMI(code, class)",
    "accuracy_test": "accuracy of the code",
    "accuracy_plan": "from the plan",
    "frechet": "Frechet",
    "precision": "precision",
    "recall": "recall",
    "faint": "faint, %",
    "filled": "filled, %",
    "seconds": "seconds",
}
FORMS = {  # columns of the forms of the extended map
    "angle": "angle",
    "frechet": "Frechet",
    "lmem": "lmem",
    "precision": "precision",
    "recall": "recall",
    "class_tv": "class TV",
    "mixtures": "mixtures",
}
GAN = {  # columns of the AE-OT-GAN's tables
    "frechet": "Frechet",
    "lmem": "lmem",
    "precision": "precision",
    "recall": "recall",
    "coverage": "coverage",
    "content": "pixel error of the pairs",
    "class_tv": "class TV",
    "class_tv_real": "class TV to real data",
    "mixtures": "mixtures",
    "modes": "modes",
    "share_3sd": "within 3 sd",
    "within_sd": "within-mode sd",
    "reverse_kl": "reverse KL",
}
GENERATOR = {  # columns of the tables of generators by the Sinkhorn divergence
    "frechet": "Frechet",
    "of_variance": "Frechet / variance",
    "variance_ratio": "variance ratio",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "lmem": "lmem",
    "modes": "modes",
    "share_3sd": "within 3 sd",
    "sd_ratio": "within-mode sd / true",
    "seconds": "seconds",
}
LATENT = {  # columns of the latent-OT tables, of images and of toys
    "frechet": "Frechet",
    "lmem": "lmem",
    "precision": "precision",
    "recall": "recall",
    "least_class": "least class",
    "largest_class": "largest class",
    "share_3sd": "within 3 sd",
    "sd_ratio": "within-mode sd / true",
    "l2_uvp": "L2-UVP, %",
    "half_cost": "half cost",
    "half_dual": "half dual value",
    "seconds": "seconds",
}


def spreads(path: Path, columns: dict[str, str], rows: dict[str, dict] | None = None) -> str:
    """Mean and standard deviation over seeds of every row of an experiment, or of some, as Markdown."""
    rows = json.loads(path.read_text())["rows"] if rows is None else rows
    shown = {name: title for name, title in columns.items() if any(name in row for row in rows.values())}
    lines = ["| " + " | ".join(["", *shown.values()]) + " |", "|---" * (1 + len(shown)) + "|"]
    lines += [
        "| " + " | ".join([name, *(_spread(row.get(column)) for column in shown)]) + " |" for name, row in rows.items()
    ]
    return "\n".join(lines)


FLOW = {
    "w2_sq": "squared W2",
    "codes": "Frechet / variance of the codes",
    "frechet": "Frechet distance of the images",
    "kid": "KID of the images",
    "precision": "precision",
    "recall": "recall",
    "coverage": "coverage",
    "lmem": "lmem",
    "of_label": "of their label",
}
FLOW_FACTS = {
    "straightness": "straightness",
    "probe": "probe of the noise",
    "chi2": "chi2",
    "solve_seconds": "solve, s",
    "pairing_seconds": "pairing, s",
    "pairing_share": "pairing / training",
    "seconds": "training, s",
}


def flow(path: Path) -> str:
    """A table of every score by coupling and number of evaluations, and one of what is known of the couplings."""
    rows = json.loads(path.read_text())["rows"]
    kinds: dict[str, dict[str, dict]] = {}
    for name, row in rows.items():
        kind, _, nfe = name.rpartition(", NFE ")
        if kind:
            kinds.setdefault(kind, {})[nfe] = row
    columns = list(dict.fromkeys(nfe for kind in kinds.values() for nfe in kind))
    tables = [
        spreads(
            path, FLOW_FACTS, {name: row for name, row in rows.items() if ", NFE " not in name and name != "real data"}
        )
    ]
    for score, title in FLOW.items():
        if not any(score in row for row in rows.values()):
            continue
        real = rows["real data"].get(score)
        lines = [
            f"| {title} | " + " | ".join(f"NFE {nfe}" for nfe in columns) + " |",
            "|---" * (1 + len(columns)) + "|",
        ]
        lines += [
            "| " + " | ".join([kind, *(_spread(of.get(nfe, {}).get(score)) for nfe in columns)]) + " |"
            for kind, of in kinds.items()
        ]
        tables.append("\n".join([*lines, "" if real is None else f"\nReal data: {_spread(real)}"]))
    return "\n\n".join(tables)


def w2_benchmark(path: Path) -> str:
    """L2-UVP by dimension of our solvers and of published ones, as Markdown."""
    results = json.loads(path.read_text())
    dims = [str(dim) for dim in results["dims"]]
    lines = ["| L2-UVP, % | " + " | ".join(f"d = {dim}" for dim in dims) + " |", "|---" * (1 + len(dims)) + "|"]
    for name, row in results["rows"].items():
        if any("l2_uvp" in cell for cell in row.values()):
            lines.append("| " + " | ".join([name, *(_spread(row.get(dim, {}).get("l2_uvp")) for dim in dims)]) + " |")
    for name, row in results["published"].items():
        lines.append("| " + " | ".join([f"{name} (published)", *(f"{row[dim]:g}" for dim in dims)]) + " |")
    return "\n".join(lines)


def _spread(summary: dict | None) -> str:
    if summary is None:
        return ""
    coarse = summary["mean"] >= 20 and not 0 < (summary["sd"] or 0) < 0.5
    digits = 0 if coarse else 2 if summary["mean"] >= 1 else 3 if abs(summary["mean"]) >= 0.1 else 4
    if summary["sd"] and summary["sd"] >= 0.0005:
        digits = min(digits, 3)
    spread = "" if not summary["sd"] else f" ± {summary['sd']:.{digits}f}"
    return f"{summary['mean']:.{digits}f}{spread}"


if __name__ == "__main__":
    found = Path(__file__).parent / "sinkhorn.json"
    if found.exists():
        print(f"{found.stem}\n\n{sinkhorn(found)}\n")
    found = Path(__file__).parent / "exact.json"
    if found.exists():
        print(f"{found.stem}\n\n{exact(found)}\n")
    for found in sorted(Path(__file__).parent.glob("ae_ot_[!g]*.json")):
        print(f"{found.stem}\n\n{ae_ot(found)}\n")
    for found in sorted(Path(__file__).parent.glob("extension_forms_*.json")):
        print(f"{found.stem}\n\n{spreads(found, FORMS)}\n")
    for found in sorted(Path(__file__).parent.glob("ae_ot_gan_*.json")):
        print(f"{found.stem}\n\n{spreads(found, GAN)}\n")
    for found in sorted(Path(__file__).parent.glob("latent_ot_*.json")):
        print(f"{found.stem}\n\n{spreads(found, LATENT)}\n")
    for found in sorted(Path(__file__).parent.glob("sinkhorn_generator_*.json")):
        print(f"{found.stem}\n\n{spreads(found, GENERATOR)}\n")
    for found in sorted(Path(__file__).parent.glob("informative_gan_*.json")):
        print(f"{found.stem}\n\n{spreads(found, INFORMATIVE)}\n")
    for found in sorted(Path(__file__).parent.glob("flow_*.json")):
        print(f"{found.stem}\n\n{flow(found)}\n")
    found = Path(__file__).parent / "w2_benchmark.json"
    if found.exists():
        print(f"{found.stem}\n\n{w2_benchmark(found)}\n")
