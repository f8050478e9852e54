"""Latent operations that keep the prior, against those that do not: laws, paths, and images.

Implements the method of Agustsson et al. (2019), arXiv 1711.01970, on the latents of an AE-OT model.

    python -m experiments.latent_ops                                      # digits, two minutes on two cores
    python -m experiments.latent_ops --dataset mnist --data-dir DATA      # eight minutes on two cores

Writes runs/latent_ops/DATASET-seed-SEED/: results.json (Kolmogorov-Smirnov distances of every operation, prior and
method from the prior; Frechet distances of midpoints to prior samples), laws.png, rows.png, config.json, checkpoints.
`--resume` continues a run that was stopped.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab import ae_ot_stages, command, sets
from experiments.lab.figures import canvas, pyplot, save
from experiments.lab.trials import run_parts
from otgen import data, plot
from otgen import eval as evaluate
from otgen.models import ae_ot
from otgen.ot import latent
from otgen.ot.gaussian import frechet_distance
from otgen.types import Array, Key

OPERATIONS = {
    "two points, t = .5": [0.5, 0.5],
    "two points, t = .25": [0.25, 0.75],
    "two points, t = .1": [0.1, 0.9],
    "four points, centre": [0.25] * 4,
    "three points (.5, .3, .2)": [0.5, 0.3, 0.2],
    "vicinity, radius .25": [1.0, 0.25],
    "vicinity, radius .5": [1.0, 0.5],
    "vicinity, radius 1": [1.0, 1.0],
    "analogy": [-1.0, 1.0, 1.0],
}
PRIORS = {
    "Normal": latent.Normal(),
    "Uniform": latent.Uniform(),
    "Cauchy": latent.Cauchy(),
    "TruncatedNormal(1.5)": latent.TruncatedNormal(-1.5, 1.5),
    "StudentT(4)": latent.StudentT(4.0),
    "Mixture": latent.MixturePrior([0.3, 0.7], [-2.0, 1.0], [0.5, 0.3]),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(command.Resumable):
    """Options of the experiment."""

    dataset: str = "digits"
    """digits, mnist, fashion_mnist, cifar10 or celeb_a."""
    seed: int = 0
    samples: int = 10**6
    """Draws behind every distance in the table of laws."""
    epochs: int | None = None
    """Of the autoencoder; 12 for the larger sets, 150 for digits if not given."""
    pairs: int = 10
    """Pairs of image sets that Frechet distances are averaged over."""
    num_eval: int = 10_000
    """Images in a set."""
    tol: float = 0.05

    NAME = "latent_ops"

    @classmethod
    def smoke(cls, **changes: Any) -> Config:
        """A run of seconds, for tests."""
        small = {"samples": 20_000, "epochs": 3, "pairs": 2, "num_eval": 300, "tol": 0.2, "progress": False}
        return cls(**{**small, **changes})

    def dim(self) -> int:
        """Dimension of the codes."""
        return 8 if self.dataset == "digits" else 16

    def base(self) -> ae_ot_stages.Config:
        """The AE-OT on whose latents images are drawn."""
        names = ("dataset", "seed", "tol", "data_dir", "cache_dir", "progress")
        epochs = self.epochs or (150 if self.dataset == "digits" else 12)
        return ae_ot_stages.Config(**self.given(*names), latent_dim=self.dim(), network="mlp", epochs=epochs)


def main(config: Config) -> dict[str, Any]:
    """Measure laws and images, draw, and return what results.json holds."""
    command.require(config, ae_ot_stages.IMAGES, seed=0, samples=2, epochs=1, pairs=2, num_eval=24)
    ae_ot_stages.check(config.base())
    folder = command.open_folder(config)
    model = functools.cache(lambda: generator(config, folder))
    parts = {"laws": lambda: laws(config), "images": lambda: images(config, *model())}
    results = {"dataset": config.dataset, "seed": config.seed, "samples": config.samples, **run_parts(folder, parts)}
    figure_of_laws(folder / "laws.png")
    figure_of_rows(config, folder / "rows.png", model()[0])
    command.write(folder / "results.json", results)
    return results


def distance(x: Array, cdf: Callable[[Array], Array]) -> float:
    """Kolmogorov-Smirnov distance of draws from a distribution function."""
    level = np.asarray(cdf(jnp.sort(x)), np.float64)
    rank = np.arange(len(level)) / len(level)
    return float(max((level - rank).max(), (rank + 1 / len(level) - level).max()))


def laws(config: Config) -> dict[str, dict[str, dict[str, float]]]:
    """Distances from the prior for every prior, operation and method."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for name, prior in PRIORS.items():
        table[name] = {}
        for i, (operation, weights) in enumerate(OPERATIONS.items()):
            keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), i), len(weights))
            z = [prior.sample(key, (config.samples,)) for key in keys]
            methods = {
                "raw": latent.raw(weights, z),
                "matched": latent.combine(weights, z, prior),
                "lol": latent.lol(weights, z, prior),
            }
            table[name][operation] = {method: distance(x, prior.cdf) for method, x in methods.items()}
    return table


def generator(config: Config, folder: Path) -> tuple[Callable[[Key, Array], Array], data.Dataset]:
    """An AE-OT model as a function of a key and noise on the cube, and its training images."""
    train, _ = sets.images(config.base())
    model = ae_ot_stages.fit(config.base(), folder, train, command.progress_of(config, folder), {})
    transport = model.variables["transport"]

    @jax.jit
    def codes(variables: Any, key: Key, x: Array) -> Array:
        return model.module.apply(variables, key, x, "pairs", method="move") * transport["scale"] + transport["mean"]

    return lambda key, x: ae_ot.decode(model.module, model.variables, codes(model.variables, key, x)), train


CUBE = latent.Uniform(-0.5, 0.5)


def midpoints(corners: list[Array]) -> dict[str, Array]:
    """The midpoints compared, from four sets of noise [n, d]."""
    return {
        "matched, two points": latent.lerp(0.5, *corners[:2], CUBE),
        "lerp, two points": latent.raw([0.5, 0.5], corners[:2]),
        "slerp, two points": latent.slerp(0.5, *corners[:2]),
        "matched, four points": latent.centroid(corners, CUBE),
        "lerp, four points": latent.raw([0.25] * 4, corners),
    }


def images(config: Config, generate: Callable[[Key, Array], Array], train: data.Dataset) -> dict[str, Any]:
    """Frechet distances of decoded midpoints to decoded prior samples, beside those of prior samples to each other."""
    features = evaluate.extractor_of(config.dataset, config.data_dir)
    found: dict[str, list[float]] = {}
    for i in range(config.pairs):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed + 1), i), 8)
        noise = [CUBE.sample(key, (config.num_eval, config.dim())) for key in keys[:6]]
        reference = features(generate(keys[6], noise[4]))
        sets = {"prior samples": noise[5], **midpoints(noise[:4])}
        for name, x in sets.items():
            scored = float(frechet_distance(features(generate(keys[7], x)), reference))
            found.setdefault(name, []).append(scored)
    base = np.array(found["prior samples"])
    rows = {}
    for name, values in found.items():
        excess = np.array(values) - base
        rows[name] = {
            "frechet": float(np.mean(values)),
            "standard_error": float(np.std(values, ddof=1) / math.sqrt(len(values))),
            "excess_in_sigma": float(excess.mean() / max(excess.std(ddof=1) / math.sqrt(len(values)), 1e-12)),
        }
    rows["prior samples"]["excess_in_sigma"] = 0.0
    return {"features": features.name, "rows": rows}


def figure_of_laws(path: Path) -> None:
    """Paths between two uniform latents, and the law of midpoints, in the plane."""
    sheet, (axes,) = canvas(1, 4, 3.75, 4)
    prior = latent.Uniform()
    z = [prior.sample(key, (4000, 2)) for key in jax.random.split(jax.random.key(3))]
    t = np.linspace(0, 1, 33)
    ends = jnp.array([[-0.9, 0.3]]), jnp.array([[0.4, 0.85]])
    paths = {
        "lerp": np.stack([latent.raw([1 - s, s], ends)[0] for s in t]),
        "slerp": np.stack([latent.slerp(s, *ends)[0] for s in t]),
        "matched": np.asarray(latent.lerp(t, *ends, prior))[:, 0],
    }
    for (name, line), colour in zip(paths.items(), (plot.GREY, plot.ORANGE, plot.BLUE), strict=True):
        axes[0].plot(line[:, 0], line[:, 1], color=colour, label=name, linewidth=2)
    axes[0].plot(*np.concatenate(ends).T, "ko", markersize=5)
    axes[0].legend(frameon=False, loc="center")
    axes[0].set_title("paths between two uniform latents")
    laws = {
        "midpoints, lerp": latent.raw([0.5, 0.5], z),
        "midpoints, slerp": latent.slerp(0.5, *z),
        "midpoints, matched": latent.lerp(0.5, *z, prior),
    }
    for ax, (name, x) in zip(axes[1:], laws.items(), strict=True):
        plot.points(x, ax, name, size=2)
    for ax in axes:
        ax.add_patch(pyplot().Rectangle((-1, -1), 2, 2, fill=False, color="black", linewidth=0.8))
        ax.set(xlim=(-1.35, 1.35), ylim=(-1.35, 1.35), aspect="equal")
    save(sheet, path, 130)


def figure_of_rows(config: Config, path: Path, generate: Callable[[Key, Array], Array]) -> None:
    """Decoded four-point centres and two-point paths, raw above matched."""
    keys = jax.random.split(jax.random.key(config.seed + 2), 5)
    corners = [CUBE.sample(key, (12, config.dim())) for key in keys[:4]]
    sheet, (axes,) = canvas(1, 2, 6, 2.1)
    between = midpoints(corners)
    shown = [corners[0], *(between[name] for name in ("lerp, four points", "matched, four points"))]
    decoded = generate(keys[4], jnp.concatenate(shown))
    plot.image_grid(decoded, 12, axes[0], "prior samples; centres of four: raw, matched")
    t = jnp.linspace(0, 1, 12)
    raw = jnp.stack([latent.raw(jnp.stack([1 - s, s]), (corners[0][0], corners[1][0])) for s in t])
    around = jnp.stack([latent.slerp(s, corners[0][0], corners[1][0]) for s in t])
    matched = latent.lerp(t, corners[0][0], corners[1][0], CUBE)
    plot.image_grid(
        generate(keys[4], jnp.concatenate([raw, around, matched])), 12, axes[1], "paths: lerp, slerp, matched"
    )
    save(sheet, path, 130)


def show(config: Config, results: dict[str, Any]) -> str:
    """The results as tables, and where the figures are."""
    lines = [f"KS distance from the prior, {results['samples']} draws: raw / matched / lol"]
    for prior, operations in results["laws"].items():
        lines.append(prior)
        for operation, methods in operations.items():
            lines.append(f"  {operation:28s}" + "".join(f"{value:9.4f}" for value in methods.values()))
    lines.append(f"Frechet distance to prior samples, {results['images']['features']}: mean, standard error, sigma")
    for name, row in results["images"]["rows"].items():
        lines.append(f"  {name:28s}" + "".join(f"{value:10.4f}" for value in row.values()))
    lines.append(f"figures: {config.folder() / 'laws.png'}, {config.folder() / 'rows.png'}")
    return "\n".join(lines)


def cli() -> None:
    """Run with the options of the command line."""
    command.cli(Config, main, __doc__, show)


if __name__ == "__main__":
    cli()
