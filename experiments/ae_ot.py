"""AE-OT on digits, MNIST, Fashion-MNIST, CIFAR-10, CelebA, and on two-dimensional toys.

Implements the method of An et al. (ICLR 2020; arXiv 2001.03698, section 3), and compares its extended transport map
with simpler laws in the same latent space.

    python -m experiments.ae_ot                                        # digits, under a minute on two cores
    python -m experiments.ae_ot --dataset mnist --data-dir DATA        # 60,000 images, about 8 minutes on two cores
    python -m experiments.ae_ot --dataset twenty_five_gaussians        # no autoencoder: latent = data

What to expect (seed 0, two cores): docs/methods/ae-ot.md. Everything is written below runs/ae_ot/DATASET-seed-SEED:
config.json, metrics.jsonl, results.json, figures, checkpoints, and the trained model, for `otgen.load`. `--resume`
continues a run that was killed.
"""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab import ae_ot_table, ae_ot_toy, command
from otgen import data, store
from otgen.data import toy
from otgen.models import ae_ot
from otgen.nn.autoencoder import to_unit
from otgen.train import Checkpoints, hosts

_DEFAULTS = {  # fields of the model that a data set sets when the user does not
    "digits": {"latent_dim": 8, "hidden": (256, 128), "epochs": 150, "batch_size": 128},
    "mnist": {"latent_dim": 16, "epochs": 24},
    "fashion_mnist": {"latent_dim": 16, "epochs": 24},
    "cifar10": {"latent_dim": 64, "network": "conv", "epochs": 12},
    "celeb_a": {"latent_dim": 100, "network": "conv", "epochs": 4},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(command.Options):
    """Options of the experiment. None means: what suits the data set."""

    dataset: str = "digits"
    """digits, mnist, fashion_mnist, cifar10, celeb_a, or a toy: eight_gaussians, twenty_five_gaussians, swiss_roll,
    rings, checkerboard, two_moons."""
    seed: int = 0
    latent_dim: int | None = None
    network: str | None = None
    """mlp or conv."""
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float = 2e-3
    tol: float | None = None
    """chi2 divergence of the cell masses that the transport is solved to; 0.05, for toys 3e-4."""
    max_samples: int | None = None
    """Limit of the noise samples the transport is trained on."""
    angle: float | None = None
    """Threshold of the singular set in radians; chosen from the training data if not given."""
    limit: int | None = None
    """Use only so many training images."""
    num_points: int = 256
    """Toys: how many target points."""
    num_eval: int = 10_000
    """Images per draw in the table; at most the number of test images."""
    draws: int = 5
    """Draws that every row of the table averages over."""
    mixture_components: int = 50
    """Components of the Gaussian mixture that AE-OT is compared with."""

    @classmethod
    def smoke(cls, **changes: Any) -> Config:
        """A run of seconds, for tests."""
        small = {"epochs": 3, "limit": 400, "tol": 0.2, "num_eval": 64, "draws": 2, "mixture_components": 4}
        return cls(**{**small, "progress": False, **changes})

    def folder(self) -> Path:
        """The output folder."""
        return Path(self.out or Path("runs") / "ae_ot" / f"{self.dataset}-seed-{self.seed}")

    def model(self) -> ae_ot.Config:
        """The model this run trains."""
        chosen = {
            name: value
            for name in ("latent_dim", "network", "epochs", "batch_size", "tol")
            if (value := getattr(self, name)) is not None
        }
        rest = {"learning_rate": self.learning_rate, "max_samples": self.max_samples}
        return ae_ot.Config(**{**_DEFAULTS[self.dataset], **chosen, **rest})

    def identity(self) -> dict[str, Any]:
        """What makes the numbers of the run."""
        return self.numbers()


def main(config: Config) -> dict[str, Any]:
    """Run the experiment and return what results.json holds."""
    check(config)
    folder = command.open_folder(config)
    if config.dataset in toy.DISTRIBUTIONS:
        results = ae_ot_toy.run(config, folder, command.progress_of(config, folder))
    else:
        results = run_images(config, folder)
    command.write(folder / "results.json", results)
    return results


def check(config: Config) -> None:
    """Raise ValueError for options that cannot be meant, before anything is written."""
    names = (*_DEFAULTS, *toy.DISTRIBUTIONS)
    if config.dataset not in names:
        raise ValueError(f"dataset = {config.dataset!r} is unknown: choose one of {', '.join(names)}.")
    if config.angle is not None and not 0 <= config.angle <= math.pi:
        raise ValueError(f"angle = {config.angle} lies outside [0, pi]: give radians; pi switches the filter off.")
    least = {"limit": 2 * config.mixture_components, "num_points": 2, "num_eval": 8, "seed": 0}
    for name in ("limit", "num_points", "num_eval", "draws", "mixture_components", "seed"):
        value = getattr(config, name)
        if value is not None and value < least.get(name, 1):
            raise ValueError(f"{name} = {value} is too small: give {least.get(name, 1)} or more.")
    if config.tol is not None and not config.tol > 0:
        raise ValueError(f"tol = {config.tol} is not positive.")
    if config.dataset in _DEFAULTS:
        config.model()  # raises for the fields of the model


def run_images(config: Config, folder: Path) -> dict[str, Any]:
    """Train both stages, draw the figures, fill the table."""
    progress, seconds = command.progress_of(config, folder), {}
    start = time.perf_counter()
    train, test = load(config)
    seconds["data"] = time.perf_counter() - start
    model = fit(config, folder, train, progress, seconds)
    if not hosts.is_first():
        return {}
    store.save(folder / "model", model, overwrite=True)
    ae_ot_table.figures(config, folder, model, train, test)
    start = time.perf_counter()
    results = ae_ot_table.table(config, model, train, test)
    seconds["table"] = time.perf_counter() - start
    results["seconds"] = {name: round(value, 2) for name, value in seconds.items()}
    return results


def load(config: Config) -> tuple[data.Dataset, data.Dataset]:
    """Training and test images, limited if asked."""
    sets = [
        data.load(config.dataset, split, config.data_dir, cache_dir=config.cache_dir) for split in ("train", "test")
    ]
    limit = slice(config.limit)
    return data.Dataset(sets[0].images[limit], sets[0].labels[limit]), sets[1]


def fit(config: Config, folder: Path, train: data.Dataset, progress: Any, seconds: dict[str, float]) -> ae_ot.Model:
    """Train the autoencoder, then solve the transport, each under its own checkpoints."""
    train_key, solve_key = jax.random.split(jax.random.key(config.seed))
    identity, images = config.identity(), train.images
    start = time.perf_counter()
    total = ae_ot.num_steps_of(config.model(), len(images))
    saved = Checkpoints(folder / "checkpoints" / "autoencoder", identity)
    with saved as checkpoints, progress("autoencoder", total) as callback:
        example = ae_ot.AEOT(images.shape[1:], config.model())
        watch = command.watcher(
            config,
            folder,
            "autoencoder",
            lambda state: nn.sigmoid(example.apply({"params": state.params}, to_unit(images[:64]))),
        )
        module, params = ae_ot.train_autoencoder(
            train_key, images, config.model(), callback=callback, checkpoints=checkpoints, watch=watch
        )
    seconds["autoencoder"] = time.perf_counter() - start
    start = time.perf_counter()
    saved = Checkpoints(folder / "checkpoints" / "transport", identity)
    with saved as checkpoints, progress("transport", None) as callback:
        variables, info = ae_ot.solve(solve_key, module, params, images, callback=callback, checkpoints=checkpoints)
    seconds["transport"] = time.perf_counter() - start
    if config.angle is not None:
        variables["transport"]["angle"] = jnp.float32(config.angle)
    labels = None if np.ptp(train.labels) == 0 else jnp.asarray(train.labels, jnp.int32)
    return ae_ot.Model(module, variables, labels, info)


def show(config: Config, results: dict[str, Any]) -> str:
    """The table, and where the figure is."""
    return f"{ae_ot_table.in_words(results)}\nfigure: {config.folder() / results['figure']}"


def cli() -> None:
    """Run with the options of the command line."""
    command.cli(Config, main, __doc__, show)


if __name__ == "__main__":
    cli()
