"""The tables of docs/performance.md: seconds, errors and ratios, from the JSON of the benchmarks."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.lab.table import grid

Results = dict[str, Any]


def figures(value: float, digits: int = 2) -> str:
    """Return a number with so many digits that count, without an exponent where it is not tiny."""
    if value == 0 or value >= 10 ** (digits - 1):
        return f"{value:.0f}"
    return f"{value:{'#' * (digits > 1)}.{digits}g}".replace("e-0", "e-").rstrip(".")


def least_and_most(values: list[float], shown: Callable[[float], str] = figures) -> str:
    """Return the least and the largest of some values, or the one that they are."""
    ends = list(dict.fromkeys([shown(min(values)), shown(max(values))]))
    return " to ".join(ends)


def sinkhorn(results: Results) -> str:
    """Milliseconds to the error: otgen / ott-jax / the faster form of POT."""
    columns = list(dict.fromkeys((it["share"], it["error"]) for it in results["cells"]))
    lines: dict[str, list[str]] = {}
    for n, d in dict.fromkeys((it["n"], it["d"]) for it in results["cells"]):
        found = {(it["share"], it["error"]): it["solvers"] for it in results["cells"] if (it["n"], it["d"]) == (n, d)}
        lines[f"{n}, {d}"] = [
            " / ".join(_milliseconds(found[column], names) for names in (["otgen"], ["ott"], ["pot", "pot, log"]))
            for column in columns
        ]
    return grid([f"{share:g}, {error:.0e}".replace("e-0", "e-") for share, error in columns], lines, "n, d")


def _milliseconds(solvers: dict, names: list[str]) -> str:
    times = [solvers[name]["seconds"] for name in names if solvers[name]]
    if not times:
        return "-"
    fastest = 1e3 * min(times)
    return f"{fastest:.2g}" if fastest < 100 else f"{fastest:.0f}"


def sinkhorn_ratios(results: Results) -> str:
    """How many times faster than each peer in the cells that it solves: geometric mean, least and largest."""
    lines = {}
    for peer, names in {"ott-jax": ["ott"], "POT, the faster form": ["pot", "pot, log"]}.items():
        ratios = []
        for solvers in (it["solvers"] for it in results["cells"]):
            times = [solvers[name]["seconds"] for name in names if solvers[name]]
            if times and solvers["otgen"]:
                ratios.append(min(times) / solvers["otgen"]["seconds"])
        mean, slower = float(np.exp(np.mean(np.log(ratios)))), sum(ratio < 1 for ratio in ratios)
        cells = f"{len(ratios)} of {len(results['cells'])}"
        lines[peer] = [cells, f"{mean:.1f}", f"{min(ratios):.2f}", f"{max(ratios):.0f}", str(slower)]
    return grid(
        ["cells that it solves", "geometric mean", "least", "largest", "otgen slower in"], lines, "times faster than"
    )


def exact(results: Results) -> str:
    """Seconds of exact plans and their ratios to POT's, by problem and size."""
    cells, lines = results["cells"], {}
    names = [name for name in dict.fromkeys(name for cell in cells for name in cell) if name[:3] in ("POT", "otg")]
    for cell in cells:
        told = []
        for name in names:
            of = cell.get(name)
            ratio = "" if name == "POT" or not of else f" ({of['times POT']:.2f})"
            told.append(f"{of['seconds']:.2g}{ratio}" if of else "")
        lines[f"{cell['problem']}, {cell['n']}"] = told
    return grid([f"{name}, s" for name in names], lines, "problem, n")


def first_call(results: Results) -> str:
    """Seconds of the first call in a process."""
    words = {"run": "`sinkhorn.run`"}
    lines = {}
    for row in results["rows"]:
        name = f"{words.get(row['call'], '`sinkhorn.value` and gradient')}, n = {row['n']}"
        lines[name] = [f"{row[who]['first_s']:.2f}" for who in ("otgen", "ott-jax")] + [f"{row['ratio']:.1f}"]
    return grid(["otgen, s", "ott-jax, s", "ratio"], lines, "first call")


SOLVERS = {  # of the semi-discrete table: name in the file and in the table
    "otgen": "otgen",
    "ott-jax, decaying, averaged": "ott-jax 0.6.0, decaying step, averaging set right",
    "ott-jax, decaying, averaged, equal time": "the same, otgen's time",
    "ott-jax, tutorial's step size": "ott-jax, its tutorial's step",
    "POT": "POT 0.9.7",
}


def semidiscrete(results: Results) -> str:
    """Held-out chi2 at equal samples, means over seeds: (seconds; cells that 2^20 samples never met)."""
    lines = {}
    for problem, found in results["table"].items():
        cells = []
        for name in SOLVERS:
            chi2, seconds, unseen = (
                statistics.mean(it[key] for it in found[name]) for key in ("chi2", "seconds", "unseen")
            )
            cells.append(f"{figures(chi2)} ({figures(seconds)} s; {unseen:.0f})")
        lines[f"{problem.replace('=', ' = ')}, {found['samples'] / 1e6:g} M"] = cells
    return grid(SOLVERS.values(), lines, "problem, samples")


def efficiency(results: Results) -> str:
    """Statistical efficiency, least and largest over the seeds, by points and dimension."""
    found = {tuple(int(it.split("=")[1]) for it in name.split(", ")): runs for name, runs in results["eta"].items()}
    sizes, dims = (list(dict.fromkeys(it[k] for it in found)) for k in (0, 1))
    lines = {
        f"{d} dimensions": [least_and_most([run["eta"] for run in found[n, d]], lambda it: f"{it:.2f}") for n in sizes]
        for d in dims
    }
    return grid([f"N = {n}" for n in sizes], lines)


def polish(results: Results) -> str:
    """Clustered points, with Newton's steps and by descent alone: chi2, samples and seconds over the seeds."""
    lines = {}
    for problem, kinds in results["polish"].items():
        for kind, runs in kinds.items():
            name = f"{problem.replace('=', ' = ')}, {'with Newton' if kind == 'with' else 'descent alone'}"
            lines[name] = [
                least_and_most([run["chi2"] for run in runs]),
                least_and_most([run["samples"] / 1e6 for run in runs], lambda it: figures(it)),
                least_and_most([run["seconds"] for run in runs]),
                f"{sum(run['converged'] for run in runs)} of {len(runs)}",
            ]
    return grid(["chi2", "million samples", "seconds", "solved"], lines, "problem")


def rate(results: Results) -> str:
    """Samples a second of the semi-discrete steps, of ott-jax's, and of the plain maximum of a product."""
    found = results["rate"]
    large = found["below 2 GiB"]
    lines = {
        f"N = {found['N']}, d = {found['d']}": [
            f"{found['steps of otgen']:.0f}",
            f"{found['otgen / ott-jax']:.1f}",
            f"{found['steps of otgen / maximum alone']:.2f}",
        ],
        f"N = {large['N']}, d = {found['d']}": [
            f"{large['steps of otgen, batch 4096']:.0f}",
            f"{large['otgen / ott-jax']:.1f}",
            "",
        ],
    }
    return grid(["samples a second", "times ott-jax", "share of the maximum of a product alone"], lines)


def codes(results: Results) -> str:
    """The semi-discrete solve of codes of MNIST: chi2, seconds, samples, cells that fresh samples never met."""
    runs = results["codes"]["runs"]
    lines = {}
    for name, found in (
        ("otgen", runs),
        ("ott-jax", [it["ott-jax, as long"] for it in runs if "ott-jax, as long" in it]),
    ):
        lines[name] = [
            least_and_most([it["chi2"] for it in found], lambda value: figures(value, 3)),
            least_and_most([it["seconds"] for it in found], lambda value: figures(value, 3)),
            least_and_most([it["samples"] / 1e6 for it in found]),
            least_and_most([it["unseen"] for it in found], lambda value: f"{value:.0f}"),
        ]
    return grid(["chi2", "seconds", "million samples", f"cells unseen, of {results['codes']['N']}"], lines)


def networks(results: Results) -> str:
    """Networks for colour images: size, work, speed and error of reconstructions."""
    lines = {
        name: [
            f"{it['parameters'] / 1e6:.1f}",
            f"{it['mflop_an_image']:.0f}",
            f"{it['images_per_second']:.0f}",
            f"{it['psnr'][0]:.1f}",
        ]
        for name, it in results["networks"].items()
    }
    titles = ["million parameters", "MFLOP an image and step", "images trained a second", "PSNR of held-out images, dB"]
    return grid(titles, lines)


def codec(results: Results) -> str:
    """Images as latents: images a second of one core."""
    pictures = {"64 px, 64 at a time": "CIFAR-10", "256 px, 1 at a time": "a photograph"}
    lines = {}
    for name, it in results["images_per_second"].items():
        side, _, rest = name.partition(" px, ")
        psnr = f"{it['psnr']:.1f} dB ({pictures[name]})" if name in pictures else ""
        speeds = [figures(it[way]["median"]) for way in ("encode", "decode")]
        lines[f"{side} x {side}, {rest}"] = [*speeds, psnr]
    return grid(["encode", "decode", "PSNR"], lines)


def gaussian(results: Results) -> str:
    """Seconds and largest relative errors of Bures distances."""
    kinds = ("float64", "float32")
    names = {
        "otgen {}": "otgen",
        "otgen {}, both gradients": "otgen, both gradients",
        "POT loop {}": "loop over POT 0.9.7",
    }
    lines = {}
    for pattern, name in (names | {"ott-jax {}": "ott-jax 0.6.0 under vmap"}).items():
        found = [results["pairs"][pattern.format(kind)] for kind in kinds]
        told = [[f"{it['seconds']:.2f}", figures(it["error"], 1) if "error" in it else ""] for it in found]
        lines[name] = told[0] + told[1]
    return grid(["float64, s", "error", "float32, s", "error"], lines)


RATIOS = {  # of the training engine
    "engine / plain": "the engine / a plain jitted loop",
    "real data / constant batch": "real data / a batch that stays on the device",
    "with checkpoints / without": "a checkpoint every 100 steps / none",
    "ten in one call / one": "ten steps in one call / one",
}


def train(results: Results) -> str:
    """Ratios of the training engine's times, least and largest in brackets."""
    found = results["autoencoder"]["ratios"]
    lines = {
        title: [f"{found[name]['median']:.2f} ({found[name]['least']:.2f} to {found[name]['largest']:.2f})"]
        for name, title in RATIOS.items()
    }
    return grid(["ratio"], lines)


TABLES: dict[str, tuple[str, Callable[[Results], str]]] = {  # by name: the file, and what makes the table of it
    "sinkhorn": ("sinkhorn", sinkhorn),
    "sinkhorn_ratios": ("sinkhorn", sinkhorn_ratios),
    "first_call": ("first_call", first_call),
    "semidiscrete": ("semidiscrete", semidiscrete),
    "semidiscrete_efficiency": ("semidiscrete", efficiency),
    "semidiscrete_clusters": ("semidiscrete", polish),
    "semidiscrete_rate": ("semidiscrete", rate),
    "semidiscrete_codes": ("semidiscrete", codes),
    "exact": ("exact", exact),
    "networks": ("networks", networks),
    "codec": ("codec", codec),
    "gaussian": ("gaussian", gaussian),
    "train": ("train", train),
}
