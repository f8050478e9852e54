"""AE-OT on digits, MNIST, Fashion-MNIST, CIFAR-10, CelebA, on images of your own, and on two-dimensional toys.

Implements the method of An et al. (ICLR 2020; arXiv 2001.03698, section 3), and compares its extended transport map
with simpler laws in the same latent space.

    python -m experiments.ae_ot                                        # digits: needs no data folder
    python -m experiments.ae_ot --dataset mnist --data-dir DATA        # 60,000 images, about 8 minutes on two cores
    python -m experiments.ae_ot --dataset FOLDER --size 32             # images of your own; also .tar, .zip, .npz
    python -m experiments.ae_ot --dataset twenty_five_gaussians        # no autoencoder: latent = data

What to expect (seed 0, two cores): docs/methods/ae-ot.md. Everything is written below runs/ae_ot/DATASET-seed-SEED:
config.json, metrics.jsonl, results.json, figures, checkpoints, and the trained model, for `otgen.load`. `--resume`
continues a run that was killed.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from experiments.lab import ae_ot_stages, ae_ot_table, ae_ot_toy, command, sets
from experiments.lab.machine import clock
from otgen import store
from otgen.data import toy
from otgen.ot.semidiscrete import extension
from otgen.train import hosts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(command.Rows, ae_ot_stages.Config):
    """Options of the experiment. None means: what suits the data set."""

    dataset: str = "digits"
    """digits, mnist, fashion_mnist, cifar10, celeb_a; the path of images of your own, a folder, .tar, .zip, .npz, .npy
    or .txt of paths; or a toy: eight_gaussians, twenty_five_gaussians, swiss_roll, rings, checkerboard, two_moons."""
    num_points: int = 256
    """Toys: how many target points."""
    forms: str = "local"
    """Images: forms of the extended map in table and figures, with commas: local, pairs, simplex, stochastic."""
    draws: int = 5
    """Draws that every row of the table averages over."""
    mixture_components: int = 50
    """Components of the Gaussian mixture that AE-OT is compared with."""

    flow_steps: int = 0
    """Images: updates of a flow in the codes that AE-OT is compared with, such as 5000; 0 for no such row."""

    NAME = "ae_ot"

    def identity(self) -> dict[str, Any]:
        """Return what makes the model and the numbers of a row; the flow has checkpoints of its own."""
        not_these = ("flow_steps", "forms", "rows", "table")
        return {name: value for name, value in super().identity().items() if name not in not_these}

    @classmethod
    def smoke(cls, **changes: Any) -> Config:
        """Return a run of seconds, for tests."""
        small = {
            "epochs": 3,
            "forms": "local,pairs",
            "limit": 400,
            "tol": 0.2,
            "num_eval": 64,
            "draws": 2,
            "mixture_components": 4,
        }
        return cls(**{**small, "progress": False, **changes})


def main(config: Config) -> dict[str, Any]:
    """Run the experiment and return what results.json holds."""
    known = (*ae_ot_stages.IMAGES, *toy.DISTRIBUTIONS)
    least = {"num_points": 2, "draws": 1, "mixture_components": 1, "flow_steps": 0}
    config = ae_ot_stages.check(config, known, limit=2 * config.mixture_components, **least)
    for form in config.forms.split(","):
        extension.check_form(form, 0.0)
    command.require_rows(config, ae_ot_table.names(config))
    if config.flow_steps and config.distributed:
        raise ValueError("the flow of the table is trained on one host: leave --flow-steps or --distributed out.")
    folder = command.open_folder(config)
    progress = command.progress_of(config, folder)
    run = ae_ot_toy.run if config.dataset in toy.DISTRIBUTIONS else run_images
    results = run(config, folder, progress)
    command.write_results(folder, results)
    return results


def run_images(config: Config, folder: Path, progress: Any) -> dict[str, Any]:
    """Train both stages, draw the figures, fill the table."""
    seconds: dict[str, float] = {}
    seconds["data"], (train, test) = clock(lambda: sets.images(config))
    model = ae_ot_stages.fit(config, folder, train, progress, seconds)
    if not hosts.is_first():
        return {}
    store.save(folder / "model", model, overwrite=True)
    seconds["figures"], _ = clock(lambda: ae_ot_table.figures(config, folder, model, train, test))
    results = ae_ot_table.about(config, model)
    if config.table:
        seconds["table"], scores = clock(lambda: ae_ot_table.table(config, model, train, test))
        results |= scores
    results["seconds"] = {name: round(value, 2) for name, value in seconds.items()}
    return results


def show(config: Config, results: dict[str, Any]) -> str:
    """Return the table, and where the figure is."""
    return f"{ae_ot_table.in_words(results)}\nfigure: {config.folder() / results['figure']}"


def cli() -> None:
    """Run with the options of the command line."""
    command.cli(Config, main, __doc__, show)


if __name__ == "__main__":
    cli()
