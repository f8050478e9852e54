"""The tables of numbers of docs/, from the JSON beside this file.

`python benchmarks/tables.py` prints them all, `python benchmarks/tables.py --write` puts them into the pages. There a
table stands below a comment `<!-- table: NAME -->`, and a test holds it against what is printed here.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [] if str(ROOT) in sys.path else [str(ROOT)]

from benchmarks import speed  # noqa: E402
from experiments.lab.compare_table import COLUMNS as COMPARE  # noqa: E402
from experiments.lab.table import Summary, gather, grid, markdown, sized, written  # noqa: E402

PLACE = re.compile(r"(<!-- table: (\S+) -->\n\n)((?:\|.*\n)*)")
Rows = dict[str, dict[str, Summary]]

AE_OT = {"frechet": "Frechet", "class_tv": "class TV", "lmem": "lmem", "precision": "precision", "recall": "recall"}
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
    "of_variance": "/ variance",
    "variance_ratio": "variance ratio",
    "kid": "KID",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "class_tv": "class TV",
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
FLOW = {
    "w2_sq": "squared W2",
    "codes": "Frechet / variance of the codes",
    "frechet": "Frechet distance of the images",
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


def read(name: str) -> dict[str, Any]:
    """Return what a file of benchmarks/ holds."""
    return json.loads((ROOT / "benchmarks" / f"{name}.json").read_text())


def rows_of(name: str) -> Rows:
    """Return the rows of a file: mean and standard deviation over seeds of every score; single seeds are gathered."""
    found = read(name)
    return found["rows"] if "rows" in found else gather(found["runs"])


def cell(summary: Summary | None) -> str:
    """Return mean ± standard deviation, three digits of it or so."""
    if summary is None:
        return ""
    mean, sd = summary["mean"], summary["sd"]
    coarse = mean >= 20 and not 0 < (sd or 0) < 0.5
    digits = 0 if coarse else 2 if mean >= 1 else 3 if abs(mean) >= 0.1 else 4
    return written(summary, min(digits, 3) if sd and sd >= 0.0005 else 0 if float(mean).is_integer() else digits)


def scores(
    name: str,
    columns: dict[str, str],
    rows: Callable[[Rows], Rows] = lambda rows: rows,
    shown: Callable[[Summary | None], str] = cell,
    title: str = "",
) -> str:
    """Return the table of the rows of a file, or of those that `rows` makes of them."""
    return markdown(rows(rows_of(name)), columns, shown).replace("|  |", f"| {title} |" if title else "|  |", 1)


def only(columns: dict[str, str], *names: str) -> dict[str, str]:
    """Return some columns, in the order of their names here."""
    return {name: columns[name] for name in names}


def three(summary: Summary | None) -> str:
    """Return mean ± standard deviation with three digits behind the point, four of small means, none of large ones."""
    size = 0.0 if summary is None else abs(float(summary["mean"]))
    return written(summary, 0 if size.is_integer() or size >= 100 else 3 if size >= 0.02 else 4)


def compare_mnist() -> str:
    """The models on one budget: the rows of three runs of the same command with other models."""
    rows = {name: row for name, row in rows_of("compare_mnist").items() if name != "ae_flow"}
    for name, kinds in (("compare_mnist_flows", "ae_flow_ot"), ("compare_sinkhorn_mnist", ("ae_s", "sinkhorn"))):
        rows |= {key: row for key, row in rows_of(name).items() if key.startswith(kinds)}
    return markdown(rows, COMPARE, three)


def one_evaluation() -> str:
    """The generators by the Sinkhorn divergence beside their rivals on one budget."""
    flows, models, ours = (rows_of(f"compare_{it}") for it in ("mnist_flows", "mnist", "sinkhorn_mnist"))
    rows = {
        "in codes of the common autoencoder, `ae_sinkhorn`": ours["ae_sinkhorn"],
        "in pixels, `sinkhorn_generator`": ours["sinkhorn_generator"],
        "WGAN-GP": models["wgan_gp"],
        "VAE": models["vae"],
        "flow on pairs of the semi-discrete map, same codes, NFE 1": flows["ae_flow_ot, NFE 1"],
        "AE-OT, local": models["ae_ot, local"],
        "the same flow, NFE 8": flows["ae_flow_ot, NFE 8"],
    }
    return markdown(rows, only(COMPARE, "frechet", "precision", "recall", "class_tv", "lmem"), three)


def without_clusters(rows: Rows) -> Rows:
    """Return rows without those of k-means and spectral clustering."""
    return {name: row for name, row in rows.items() if not name.startswith(("k-means", "spectral"))}


def angles() -> str:
    """AE-OT-GAN on digits, by the angle of the filter."""
    names = {
        ".4": "angle=.4",
        "found from the codes (default)": "",
        ".6": "angle=.6",
        ".8": "angle=.8",
        "1.0": "angle=1.0",
        "no filter": "no_filter",
    }
    rows = rows_of("ae_ot_gan_digits_angle")
    chosen = {name: rows["AE-OT-GAN" + (f", {word}" if word else "")] for name, word in names.items()}
    return markdown(chosen, only(GAN, "frechet", "lmem", "precision", "recall", "mixtures"), cell)


def dimensions() -> str:
    """AE-OT-GAN on digits, by the dimension of the code."""
    rows, lines = rows_of("ae_ot_gan_digits_dimensions"), {}
    for d in (2, 4, 8, 16, 32):
        found = [rows[f"{name}, d = {d}"] for name in ("reconstructed test data", "AE-OT", "AE-OT-GAN")]
        lines[str(d)] = [cell(it["frechet"]) for it in found] + [cell(it["recall"]) for it in found[1:]]
    return grid(["Frechet: reconstructed", "AE-OT", "AE-OT-GAN", "recall: AE-OT", "AE-OT-GAN"], lines, "d")


def many_images() -> str:
    """Latent-space OT in Inception features of 10,000 images."""
    lines = {}
    for title, name in (("MNIST", "mnist"), ("Fashion-MNIST", "fashion_mnist")):
        real, local = rows_of(f"latent_ot_{name}_inception_10000").values()
        lines[title] = [written(real["frechet"], 4), cell(local["frechet"]), cell(local["lmem"])]
    return grid(["real training images", "`local`", "lmem"], lines, "Inception 768-d, 10,000 images")


def operations() -> str:
    """Frechet distances of decoded operations on latents, with their standard errors over pairs of draws."""
    rows = read("latent_ops_mnist")["results"]["images"]["rows"]

    def told(name: str) -> str:
        it = rows.get(name)
        return "" if it is None else cell({"mean": it["frechet"], "sd": it["standard_error"]})

    lines = {"fresh prior samples": [told("prior samples"), ""]}
    lines |= {
        name: [told(f"{name}, two points"), told(f"{name}, four points")] for name in ("matched", "slerp", "lerp")
    }
    return grid(["two points", "four points"], lines, "noise")


def emoji() -> str:
    """Frechet distances of operations on latents of emoji, over seeds."""
    rows = rows_of("latent_ops_emoji")
    lines = {"fresh samples": [three(rows["prior samples"]["frechet"]), ""]}
    for name in ("matched", "slerp", "lerp"):
        found = [rows.get(f"{name}, {points}", {}) for points in ("two points", "four points")]
        lines[name] = [three(it.get("frechet")) for it in found]
    return grid(["two points", "four points"], lines, "noise")


def cifar10_codec() -> str:
    """AE-OT in codes of TAEF2 on CIFAR-10; the kernel distance in thousandths."""
    rows = {
        name.replace("reconstructed test images", "other test images, reconstructed"): row
        | {"kid": {"mean": 1e3 * row["kid"]["mean"], "sd": 1e3 * row["kid"]["sd"]}}
        for name, row in rows_of("ae_ot_cifar10_codec").items()
    }
    columns = {"frechet": "Frechet", "kid": "KID, 1e-3", **only(COMPARE, "precision", "recall", "coverage", "lmem")}
    return markdown(rows, columns | only(AE_OT, "class_tv"), three)


def flow(name: str, score: str) -> str:
    """One score of the flows, by coupling and number of evaluations; FLOW_FACTS for `score` None."""
    kinds: dict[str, Rows] = {}
    for key, row in rows_of(name).items():
        kind, _, nfe = key.rpartition(", NFE ")
        if kind:
            kinds.setdefault(kind, {})[nfe] = row
    columns = list(dict.fromkeys(nfe for kind in kinds.values() for nfe in kind))
    lines = {kind: [cell(of.get(nfe, {}).get(score)) for nfe in columns] for kind, of in kinds.items()}
    return grid([f"NFE {nfe}" for nfe in columns], lines, FLOW[score])


def flow_facts(name: str) -> str:
    """What is known of the couplings: straightness, errors of the solve, seconds."""
    return scores(
        name, FLOW_FACTS, lambda rows: {k: v for k, v in rows.items() if ", NFE " not in k and k != "real data"}
    )


def w2_benchmark() -> str:
    """L2-UVP by dimension of our solvers and of published ones."""
    results = read("w2_benchmark")
    dims = [str(dim) for dim in results["dims"]]
    scores = {"{}": "l2_uvp", "{}, inverse": "inverse_l2_uvp", "{}, distance between two seeds": "disagreement"}
    lines = {
        label.format(name): [cell(row.get(dim, {}).get(score)) for dim in dims]
        for name, row in results["rows"].items()
        for label, score in scores.items()
        if name != "constant" and any(score in cell for cell in row.values())
    }
    published = {f"{name} (published)": row for name, row in results["published"].items() if name != "constant"}
    lines |= {name: ["" if dim not in row else f"{row[dim]:g}" for dim in dims] for name, row in published.items()}
    return grid([f"d = {dim}" for dim in dims], lines, "L2-UVP, %")


def gradients(score: str) -> str:
    """What batches give for the gradient of the Sinkhorn divergence, or the variance at which it is zero ("rest")."""
    found = [it for it in read("divergence")["gradients"] if it["share"] == 0.05]
    sizes = list(dict.fromkeys(it["batch"] for it in found))

    def told(value: list[float] | float) -> str:
        pair = value if isinstance(value, list) else (value, None)
        return written(dict(zip(("mean", "sd"), pair, strict=True)), 3 if isinstance(value, list) else 2)

    forms = dict.fromkeys(it["form"] for it in found)
    return grid(
        [f"B = {size}" for size in sizes],
        {form: [told(it[score]) for it in found if it["form"] == form] for form in forms},
    )


FLOWS = (
    ("moons", "w2_sq"),
    ("mnist", "codes"),
    ("mnist", "frechet"),
    ("mnist_labels", "of_label"),
    ("mnist_labels", "frechet"),
)
GENERATORS = (
    "eight_gaussians",
    "twenty_five_gaussians",
    "mnist_pca",
    "mnist_pca_sweep",
    "fashion_mnist_pca",
    "digits_pixels",
)
OBJECTIVES = {name: title for name, title in INFORMATIVE.items() if name != "seconds"}
IMAGES = ("frechet", "lmem", "precision", "recall", "least_class", "largest_class")
TABLES: dict[str, Callable[[], str]] = {
    "compare_mnist": compare_mnist,
    "compare_twenty_five_gaussians": lambda: scores("compare_twenty_five_gaussians", COMPARE, shown=three),
    "compare_stacked_mnist": lambda: scores("compare_stacked_mnist", COMPARE, shown=three),
    "ae_ot_mnist": lambda: scores("ae_ot_mnist", AE_OT, shown=three),
    "ae_ot_fashion_mnist": lambda: scores("ae_ot_fashion_mnist", AE_OT, shown=three),
    "ae_ot_digits": lambda: scores("ae_ot_digits", AE_OT, shown=three),
    "extension_forms_mnist": lambda: scores("extension_forms_mnist", FORMS),
    "ae_ot_gan_mnist": lambda: scores("ae_ot_gan_mnist", GAN),
    "ae_ot_gan_mnist_inception": lambda: scores(
        "ae_ot_gan_mnist_inception", only(GAN, "frechet", "precision", "recall", "coverage")
    ),
    "ae_ot_gan_fashion_mnist": lambda: scores("ae_ot_gan_fashion_mnist", GAN),
    "ae_ot_gan_fashion_mnist_inception": lambda: scores(
        "ae_ot_gan_fashion_mnist_inception", only(GAN, "frechet", "precision", "recall", "coverage")
    ),
    "ae_ot_gan_twenty_five_gaussians": lambda: scores(
        "ae_ot_gan_twenty_five_gaussians", only(GAN, "modes", "share_3sd", "within_sd", "reverse_kl", "frechet")
    ),
    "ae_ot_gan_stacked_mnist": lambda: scores(
        "ae_ot_gan_stacked_mnist",
        only(GAN, "modes", "reverse_kl", "frechet", "lmem", "precision", "recall", "coverage", "content"),
    ),
    "ae_ot_gan_digits": lambda: scores("ae_ot_gan_digits", GAN),
    "ae_ot_gan_digits_angle": angles,
    "ae_ot_gan_digits_dimensions": dimensions,
    "latent_ops_mnist": operations,
    "latent_ot_eight_gaussians": lambda: scores(
        "latent_ot_eight_gaussians",
        only(LATENT, "share_3sd", "sd_ratio", "l2_uvp", "half_cost", "half_dual", "seconds"),
    ),
    "latent_ot_mnist": lambda: scores("latent_ot_mnist", only(LATENT, *IMAGES), title="MNIST"),
    "latent_ot_fashion_mnist": lambda: scores("latent_ot_fashion_mnist", only(LATENT, *IMAGES), title="Fashion-MNIST"),
    "latent_ot_mnist_inception": lambda: scores(
        "latent_ot_mnist_inception", only(LATENT, *IMAGES[:4]), title="MNIST, Inception 768-d"
    ),
    "latent_ot_fashion_mnist_inception": lambda: scores(
        "latent_ot_fashion_mnist_inception", only(LATENT, *IMAGES[:4]), title="Fashion-MNIST, Inception 768-d"
    ),
    "latent_ot_inception_10000": many_images,
    "w2_benchmark": w2_benchmark,
    "informative_gan_ring": lambda: scores(
        "informative_gan_ring", only(INFORMATIVE, "modes", "share_3sd", "within_sd", "nmi", "seconds")
    ),
    **{
        f"informative_gan_{name}": lambda name=name: scores(f"informative_gan_{name}", INFORMATIVE)
        for name in ("digits", "mnist")
    },
    **{
        f"informative_gan_{name}": lambda name=name: scores(f"informative_gan_{name}", OBJECTIVES, without_clusters)
        for name in ("mnist_ablations", "mnist_objectives", "digits_costs")
    },
    **{f"flow_{name}_{score}": lambda name=name, score=score: flow(f"flow_{name}", score) for name, score in FLOWS},
    **{
        f"flow_{name}_couplings": lambda name=name: flow_facts(f"flow_{name}")
        for name in ("moons", "mnist", "mnist_labels")
    },
    **{
        f"sinkhorn_generator_{name}": lambda name=name: scores(f"sinkhorn_generator_{name}", GENERATOR, shown=sized)
        for name in GENERATORS
    },
    "compare_sinkhorn_mnist": one_evaluation,
    "divergence_at_the_data": lambda: gradients("bias at 1"),
    "divergence_rest": lambda: gradients("rest"),
    "divergence_away": lambda: gradients("bias at 0.7"),
    "ae_ot_cifar10_codec": cifar10_codec,
    "latent_ops_emoji": emoji,
    **{name: lambda file=file, make=make: make(read(file)) for name, (file, make) in speed.TABLES.items()},
}


def pages() -> Iterator[Path]:
    """README and the pages of docs/."""
    yield ROOT / "README.md"
    yield from sorted((ROOT / "docs").rglob("*.md"))


def filled(text: str) -> str:
    """Return a page with the tables that its comments name."""
    return PLACE.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n", text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the tables into README.md and docs/")
    if parser.parse_args().write:
        for page in pages():
            page.write_text(filled(page.read_text()))
    else:
        print("\n\n".join(f"{name}\n\n{table()}" for name, table in TABLES.items()))
