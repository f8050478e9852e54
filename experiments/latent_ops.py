"""Latent operations that keep the prior, against those that do not: laws, paths, and images.

Implements the method of Agustsson et al. (2019), arXiv 1711.01970, on the latents of an AE-OT model.

    python -m experiments.latent_ops                                      # digits, two minutes on two cores
    python -m experiments.latent_ops --dataset mnist --data-dir DATA      # eight minutes on two cores
    python -m experiments.latent_ops --dataset emoji.tar --size 64 --codec taef2 --components 128 --data-dir DATA

Writes runs/latent_ops/DATASET-seed-SEED/: results.json (Kolmogorov-Smirnov distances of every operation, prior and
method from the prior; Frechet distances of midpoints to prior samples, of codes where there is a codec), laws.png,
rows.png, config.json, checkpoints. `--resume` continues a run that was stopped.
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

from experiments.lab import ae_ot_stages, command, own_images, sets
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


def priors() -> dict[str, latent.Prior]:
    """Return the laws of latents, by name; their parameters are arrays, which are not made before options are read."""
    return {
        "Normal": latent.Normal(),
        "Uniform": latent.Uniform(),
        "Cauchy": latent.Cauchy(),
        "TruncatedNormal(1.5)": latent.TruncatedNormal(-1.5, 1.5),
        "StudentT(4)": latent.StudentT(4.0),
        "Mixture": latent.MixturePrior([0.3, 0.7], [-2.0, 1.0], [0.5, 0.3]),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(own_images.OwnImages, command.Resumable):
    """Options of the experiment."""

    dataset: str = "digits"
    """digits, mnist, fashion_mnist, cifar10, celeb_a, or a path of images of your own."""
    seed: int = 0
    """Of networks, noise and draws."""
    codec: str | None = None
    """As of ae_ot: taef2 instead of an autoencoder of the run's own."""
    components: int | None = None
    """As of ae_ot: principal components of the codec's codes."""
    limit: int | None = None
    """Use only so many training images."""
    samples: int = 10**6
    """Draws behind every distance in the table of laws."""
    epochs: int | None = None
    """Of the autoencoder; 12 for the larger sets, 150 for digits if not given."""
    pairs: int = 10
    """Pairs of image sets that Frechet distances are averaged over."""
    num_eval: int = 10_000
    """Images in a set."""
    tol: float = 0.05
    """chi2 of the cell masses that the transport is solved to."""

    NAME = "latent_ops"

    @classmethod
    def smoke(cls, **changes: Any) -> Config:
        """Return a run of seconds, for tests."""
        small = {"samples": 20_000, "epochs": 3, "pairs": 2, "num_eval": 300, "tol": 0.2, "progress": False}
        return cls(**{**small, **changes})

    def base(self) -> ae_ot_stages.Config:
        """Return the AE-OT on whose latents images are drawn."""
        shared = {field.name for field in dataclasses.fields(self)} & {
            field.name for field in dataclasses.fields(ae_ot_stages.Config)
        }
        given = self.given(*shared - {"out", "resume", "overwrite", "num_eval"})
        if self.codec is None and not data.is_own(self.dataset):
            digits = self.dataset == "digits"
            given = {"latent_dim": 8 if digits else 16, "network": "mlp", "epochs": 150 if digits else 12, **given}
        return ae_ot_stages.Config(**given)


def main(config: Config) -> dict[str, Any]:
    """Measure laws and images, draw, and return what results.json holds."""
    command.require(config, ae_ot_stages.IMAGES, seed=0, samples=2, epochs=1, pairs=2, num_eval=24)
    base = ae_ot_stages.check(config.base())
    folder = command.open_folder(config)
    model = functools.cache(lambda: Generator(base, folder, command.progress_of(config, folder)))
    parts = {"laws": lambda: laws(config), "images": lambda: images(config, model())}
    results = {"dataset": config.dataset, "seed": config.seed, "samples": config.samples, **run_parts(folder, parts)}
    figure_of_laws(folder / "laws.png")
    figure_of_rows(config, folder / "rows.png", model())
    command.write_results(folder, results)
    return results


def distance(x: Array, cdf: Callable[[Array], Array]) -> float:
    """Kolmogorov-Smirnov distance of draws from a distribution function."""
    level = np.asarray(cdf(jnp.sort(x)), np.float64)
    rank = np.arange(len(level)) / len(level)
    return float(max((level - rank).max(), (rank + 1 / len(level) - level).max()))


def laws(config: Config) -> dict[str, dict[str, dict[str, float]]]:
    """Return distances from the prior for every prior, operation and method."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for name, prior in priors().items():
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


class Generator:
    """An AE-OT model as a function of a key and noise on the cube [n, dim] to images.

    Attributes:
      dim: of the noise.
      features: name of what `measured` returns.
    """

    def __init__(self, base: ae_ot_stages.Config, folder: Path, progress: Any):
        train, _ = sets.images(base)
        model = ae_ot_stages.fit(base, folder, train, progress, {})
        transport, module = model.variables["transport"], model.module
        self._model, self._of_codes = model, base.codec is not None
        self.dim = transport["codes"].shape[1]
        shown = own_images.features(base, train.images.shape[1:])
        self._extract = evaluate.extractor_of(base.dataset, base.data_dir, shown)
        self.features = f"codes of {base.codec}" if self._of_codes else self._extract.name
        self._move = jax.jit(lambda variables, key, x: module.apply(variables, key, x, "pairs", method="move"))

    def __call__(self, key: Key, x: Array) -> Array:
        """Return images [n, h, w, c] of noise on the cube [n, dim]."""
        model, transport = self._model, self._model.variables["transport"]
        codes = self._move(model.variables, key, x) * transport["scale"] + transport["mean"]
        return ae_ot.decode(model.module, model.variables, codes)

    def measured(self, key: Key, x: Array) -> Array:
        """Return the features [n, d] of the images of noise; of a codec, whose decoder is large, the standard codes."""
        return self._move(self._model.variables, key, x) if self._of_codes else self._extract(self(key, x))


def images(config: Config, generate: Generator) -> dict[str, Any]:
    """Frechet distances of midpoints to prior samples, as `measured`, beside those of prior samples to each other."""
    found: dict[str, list[float]] = {}
    for i in range(config.pairs):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed + 1), i), 8)
        noise = [CUBE.sample(key, (config.num_eval, generate.dim)) for key in keys[:6]]
        reference = generate.measured(keys[6], noise[4])
        sets = {"prior samples": noise[5], **midpoints(noise[:4])}
        for name, x in sets.items():
            scored = float(frechet_distance(generate.measured(keys[7], x), reference))
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
    return {"features": generate.features, "rows": rows}


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
