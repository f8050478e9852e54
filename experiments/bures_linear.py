"""Deep linear generators under the Bures-Wasserstein loss: the theory seen, and a linear generator of images.

Implements the method of paper C (arXiv 2303.03027).

    python -m experiments.bures_linear                                     # digits, two minutes on two cores
    python -m experiments.bures_linear --dataset mnist --data-dir DATA     # rank 50, three minutes on two cores

Writes runs/bures_linear/DATASET-seed-SEED/: results.json, config.json, checkpoints of every part, from which `--resume`
continues a run that was stopped, the deepest generator for `otgen.load`, and

* loss.png: loss against time of the gradient flow, with the bounds the theory gives;
* rates.png: the rate near the optimum against depth and against the smallest eigenvalue of the target;
* spectra.png: extremal Hessian eigenvalues at the critical points, Bures against Frobenius;
* deficient.png: perturbed and unperturbed loss from starts of low rank;
* samples.png: images of the generator, beside data and their projections by PCA.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.lab import command, sets
from experiments.lab.bures_linear_theory import deficient, figure, flows, rates, spectra
from experiments.lab.figures import save
from experiments.lab.trials import run_parts
from otgen import data, plot, store
from otgen.models import bures_linear
from otgen.ot.gaussian import frechet_distance


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(command.Resumable):
    """Options of the experiment."""

    dataset: str = "digits"
    """digits, mnist, fashion_mnist, stacked_mnist, cifar10 or celeb_a."""
    seed: int = 0
    """Of the start and of random targets."""
    rank: int | None = None
    """Of the image generator; 50, and 20 for digits if not given."""
    image_depths: tuple[int, ...] = (1, 2, 5)
    """Layers of the image generators."""
    dim: int = 20
    """Of the covariances of the theory's figures."""
    depths: tuple[int, ...] = (1, 2, 5, 10, 20)
    """Layers of the generators whose rates of convergence are measured."""
    least: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    """Smallest eigenvalues of the targets, less 1 / dim."""
    targets: int = 5
    """Random targets a rate is averaged over."""

    NAME = "bures_linear"

    @classmethod
    def smoke(cls, **changes: Any) -> Config:
        """Return a run of seconds, for tests."""
        small = {"dim": 5, "depths": (1, 2), "least": (1.0,), "targets": 1, "image_depths": (2,), "rank": 5}
        return cls(**{**small, "progress": False, **changes})


def main(config: Config) -> dict[str, Any]:
    """Run every part, draw, and return what results.json holds."""
    command.require(config, sets.NETWORKS, seed=0, rank=1, dim=2, targets=1)
    for name in ("image_depths", "depths", "least"):
        if not min(getattr(config, name), default=0) > 0:
            raise ValueError(f"{name} = {getattr(config, name)}: give at least one number above 0, and none below.")
    folder = command.open_folder(config)
    with jax.enable_x64(True):
        theory = {
            "flows": lambda: flows(config, folder / "loss.png"),
            "rates": lambda: rates(config, folder / "rates.png"),
            "spectra": lambda: spectra(folder / "spectra.png"),
            "low rank starts": lambda: deficient(config, folder / "deficient.png"),
        }
        results = {"dataset": config.dataset, "seed": config.seed, **run_parts(folder, theory)}
    results |= run_parts(folder, {"images": lambda: images(config, folder)})
    command.write_results(folder, results)
    return results


def images(config: Config, folder: Path) -> dict[str, Any]:
    """Return a linear generator of images by the Bures loss, against PCA of the same rank."""
    train = data.load(config.dataset, "train", config.data_dir, cache_dir=config.cache_dir)
    progress = command.progress_of(config, folder)
    rank = config.rank or (20 if config.dataset == "digits" else 50)
    rows = train.images.reshape(len(train.images), -1).astype(np.float64) / 255
    values, vectors = np.linalg.eigh(np.cov(rows.T))
    discarded = float(values[:-rank].sum())
    basis = vectors[:, -rank:]
    projector = basis @ basis.T
    table: dict[str, Any] = {"rank": rank, "discarded eigenvalues": discarded, "trace": float(values.sum())}
    for depth in config.image_depths:
        with progress(f"N = {depth}", None) as callback:
            key = jax.random.key(config.seed)
            model = bures_linear.fit(key, train.images, rank=rank, depth=depth, callback=callback)
        matrix = np.asarray(model.module.apply(model.variables, method="matrix"), np.float64)
        own = np.linalg.svd(matrix, full_matrices=False)
        table[f"N = {depth}"] = {
            "loss": float(model.info.loss),
            "relative excess over the discarded eigenvalues": float(model.info.loss) / discarded - 1,
            "steps": int(model.info.num_steps),
            "share of the span of PCA": float(np.sum((basis.T @ own[0]) ** 2) / rank),
            "largest relative error of an eigenvalue": float(np.max(np.abs(own[1] ** 2 / values[::-1][:rank] - 1))),
        }
    store.save(folder / "model", model, overwrite=True)  # the deepest
    drawn = bures_linear.sample(jax.random.key(config.seed + 1), model, 10_000)
    table["Frechet distance of 10,000 samples, in pixels"] = float(
        frechet_distance(np.asarray(drawn).reshape(10_000, -1), rows.astype(np.float32))
    )
    projected = (rows[:32] - rows.mean(0)) @ projector + rows.mean(0)
    drawing, axes = figure(3, 3.8)
    plot.image_grid(train.images[:32], columns=8, ax=axes[0], title="data")
    plot.image_grid(projected.reshape(-1, *train.images.shape[1:]), columns=8, ax=axes[1], title=f"PCA, {rank}")
    plot.image_grid(drawn[:32], columns=8, ax=axes[2], title=f"generator, N = {config.image_depths[-1]}")
    save(drawing, folder / "samples.png")
    return table


def cli() -> None:
    """Run with the options of the command line."""
    command.cli(Config, main, __doc__, lambda config, results: json.dumps(results, indent=1))


if __name__ == "__main__":
    cli()
