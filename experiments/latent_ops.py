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
from experiments.lab.latent_ops_figures import CUBE, figure_of_laws, figure_of_rows, midpoints
from experiments.lab.trials import run_parts
from otgen import data
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
        """Return a run of seconds, for tests."""
        small = {"samples": 20_000, "epochs": 3, "pairs": 2, "num_eval": 300, "tol": 0.2, "progress": False}
        return cls(**{**small, **changes})

    def dim(self) -> int:
        """Return the dimension of the codes."""
        return 8 if self.dataset == "digits" else 16

    def base(self) -> ae_ot_stages.Config:
        """Return the AE-OT on whose latents images are drawn."""
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
    """Return distances from the prior for every prior, operation and method."""
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
    """Return an AE-OT model as a function of a key and noise on the cube, and its training images."""
    train, _ = sets.images(config.base())
    model = ae_ot_stages.fit(config.base(), folder, train, command.progress_of(config, folder), {})
    transport = model.variables["transport"]

    @jax.jit
    def codes(variables: Any, key: Key, x: Array) -> Array:
        return model.module.apply(variables, key, x, "pairs", method="move") * transport["scale"] + transport["mean"]

    return lambda key, x: ae_ot.decode(model.module, model.variables, codes(model.variables, key, x)), train


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


def show(config: Config, results: dict[str, Any]) -> str:
    """Return the results as tables, and where the figures are."""
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
