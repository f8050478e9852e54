"""Flow matching by coupling and by number of steps: how noise and data are paired, and in how few steps one arrives.

    python -m experiments.flow                                               # eight Gaussians to two moons, 2 minutes
    python -m experiments.flow --seeds 0-2
    python -m experiments.flow --dataset digits                              # needs no data folder
    python -m experiments.flow --dataset mnist --data-dir DATA --seeds 0-2   # codes of an autoencoder
    python -m experiments.flow --dataset mnist --space pca --data-dir DATA --seeds 0-2
    python -m experiments.flow --dataset mnist --labels --data-dir DATA --seeds 0-2 --couplings semidiscrete,blind
    python -m experiments.flow --dataset cifar10 --space pca --data-dir DATA
    python -m experiments.flow --dataset FOLDER --size 32                    # images of your own; also .tar, .zip, .npz

Every coupling trains the same network for the same number of steps. Samples are drawn by Euler's and the midpoint
method at equal numbers of evaluations of the velocity (NFE). Toys: squared W2 against fresh points by exact transport.
Codes: Frechet distance to held-out codes over their variance, and scores of the decoded images. Beside them the
straightness of the paths, 0 for straight ones, and what the pairing cost. With `--labels` the velocity is told the
class: the table then has the share of samples that are of the class they were drawn of, and what a linear probe reads
of the class in the noise; the coupling "blind" pairs by one map that knows no classes. For numbers see
docs/methods/flow.md. Everything is written below runs/flow/DATASET: config.json, metrics.jsonl, results.json, table.md,
figures, checkpoints. `--resume` continues a run that was stopped, also with more seeds or couplings.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

from experiments.lab import command, flow_figures, flow_spaces, flow_trial, machine, own_images, sets, table, variants
from experiments.lab.judge import require_features
from experiments.lab.trials import run_missing, scores_at
from otgen.models import flow
from otgen.train import hosts

COLUMNS = {  # of the table
    "w2_sq": "W2^2",
    "codes": "Frechet / variance, codes",
    "frechet": "Frechet",
    "kid": "KID",
    "precision": "precision",
    "recall": "recall",
    "coverage": "coverage",
    "lmem": "lmem",
    "of_label": "of their label",
    "probe": "probe of the noise",
    "straightness": "straightness",
    "chi2": "chi2",
    "solve_seconds": "solve, s",
    "pairing_seconds": "pairing, s",
    "pairing_share": "pairing / training",
    "seconds": "training, s",
}
_TRAINING = {  # by kind of data
    "codes": {"width": 256, "depth": 3, "num_steps": 5000, "batch_size": 512, "learning_rate": 2e-3},
    "plane": {"width": 128, "depth": 2, "num_steps": 3000, "batch_size": 256, "learning_rate": 2e-3},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(own_images.OwnImages, command.Scored, command.Table, command.Resumable):
    """Options of the experiment. None means: what suits the data set."""

    dataset: str = "moons"
    """digits, mnist, fashion_mnist, cifar10; the path of images of your own; or moons: eight Gaussians to two moons."""
    space: str = "ae"
    """Images: codes of an autoencoder (ae), or principal components (pca)."""
    latent_dim: int | None = None
    """Dimension of the codes."""
    epochs: float | None = None
    """Of the autoencoder."""
    couplings: str = "independent,minibatch,sinkhorn,semidiscrete"
    """Names with commas, among independent, minibatch, sinkhorn, semidiscrete, and with labels blind."""
    labels: bool = False
    """Images: tell the velocity the class."""
    nfe: str = "1,2,4,8,32"
    """Evaluations of the velocity, with commas."""
    num_steps: int | None = None
    """Updates of the velocity."""
    batch_size: int | None = None
    """Pairs a step."""
    width: int | None = None
    """Units of a hidden layer."""
    depth: int | None = None
    """Hidden layers."""
    learning_rate: float | None = None
    """Largest learning rate."""
    repeats: int | None = None
    """How often a pair is used in training."""
    tol: float = 0.02
    """chi2 that the semi-discrete coupling is solved to."""
    features: str = "auto"
    """Space of the distances of images: auto (LeNet or pixels), pixels, lenet, inception, codec."""
    judged: bool = True
    """Images: also decode and score the samples, which takes longer than drawing them."""
    draws: int = 1
    """Draws that every score averages over."""

    NAME = "flow"

    def folder(self) -> Path:
        """Return the output folder."""
        kind = "" if self.is_toy() else f"-{self.space}{'-labels' if self.labels else ''}"
        return Path(self.out or Path("runs") / self.NAME / f"{own_images.label(self.dataset)}{kind}")

    @classmethod
    def smoke(cls, **changes: Any) -> Config:
        """Return a run of seconds, for tests."""
        small = {"num_steps": 20, "width": 16, "depth": 1, "batch_size": 64, "num_points": 200, "num_eval": 200}
        small |= {"tol": 0.5, "nfe": "1,4", "progress": False}
        if changes.get("dataset", cls.dataset) != cls.dataset:
            small |= {"epochs": 2.0, "limit": 400}
        return cls(**{**small, **changes})

    def is_toy(self) -> bool:
        """Return whether the data are points of the plane."""
        return self.dataset == "moons"

    def names(self) -> list[str]:
        """Return the couplings asked for."""
        return variants.names(self.couplings)

    def evaluations(self) -> list[int]:
        """Return the numbers of evaluations asked for."""
        return command.numbers_of("nfe", self.nfe)

    def model(self) -> flow.Config:
        """Return the network and its training, the same for all couplings."""
        own = self.given("num_steps", "batch_size", "width", "depth", "learning_rate", "repeats")
        return flow.Config(**{**self.training(), **own}, tol=self.tol)

    def training(self) -> dict[str, Any]:
        """Return the network and its training that suit the data."""
        return _TRAINING["plane" if self.is_toy() else "codes"]

    def identity(self) -> dict[str, Any]:
        """Return what makes the numbers of a seed and a coupling."""
        settings = {**self.training(), **sets.autoencoder(self)}
        return {**self.numbers("seeds", "couplings", "table"), "settings": settings}


def main(config: Config) -> dict[str, Any]:
    """Run what is not yet there, and return what results.json holds."""
    check(config)
    folder = command.open_folder(config)
    progress = command.progress_of(config, folder)
    space = functools.cache(lambda: flow_spaces.space_of(config, folder))
    trials = [(seed, name) for seed in config.seed_list() for name in (flow_trial.REFERENCE, *config.names())]
    runs = run_missing(
        trials,
        lambda trial: scores_at(config, folder, *trial),
        lambda trial: flow_trial.run(config, space(), folder, *trial, progress),
    )
    if not hosts.is_first():
        return {}
    results = {
        "dataset": own_images.label(config.dataset),
        "command": machine.command("flow", config, *_told(config)) + (" --labels" if config.labels else ""),
        **machine.record("machine", "python", "jax", "date"),
        "model": dataclasses.asdict(config.model()),
        "facts": runs[0]["facts"],
        "rows": table.gather(runs),
        "runs": runs,
        "figures": flow_figures.draw(config, folder),
    }
    return command.close_folder(folder, results, markdown(results))


def _told(config: Config) -> list[str]:
    """Return the options that are not the default, by which the run is made again."""
    own = {field.name for field in dataclasses.fields(command.Resumable)} | {"labels", "judged", "table"}
    names = [field.name for field in dataclasses.fields(config) if field.name not in own]
    default = Config(dataset=config.dataset)
    return [name for name in names if name == "dataset" or getattr(config, name) != getattr(default, name)]


def check(config: Config) -> None:
    """Raise ValueError for options that cannot be meant, before anything is written."""
    least = {"limit": 100, "num_points": 64, "num_eval": 16, "draws": 1, "latent_dim": 1}
    command.require(config, ("moons", "digits", "mnist", "fashion_mnist", "cifar10"), **least)
    known = (*flow.COUPLINGS, "blind")
    if not config.names() or not set(config.names()) <= set(known):
        raise ValueError(f"couplings = {config.couplings!r}: choose among {', '.join(known)}.")
    if config.space not in ("ae", "pca"):
        raise ValueError(f"space = {config.space!r}: choose ae or pca.")
    if "blind" in config.names() and not config.labels:
        raise ValueError("the coupling blind is one without classes for a velocity that is told them: pass --labels.")
    if config.labels and not config.judged:
        raise ValueError("whether samples are of their labels is told by the judge: leave --no-judged out.")
    if config.is_toy() and (config.labels or config.latent_dim is not None or config.epochs is not None):
        raise ValueError("moons are points: labels, latent_dim and epochs are for images.")
    if not all(config.evaluations()):
        raise ValueError(f"nfe = {config.nfe!r}: give numbers of 1 or more.")
    config.seed_list(), config.model()
    require_features(config), sets.autoencoder(config)


def markdown(results: dict[str, Any]) -> str:
    """Return the table, and what it was made with."""
    return f"{table.markdown(results['rows'], COLUMNS)}\n\n{results['facts']}."


def cli() -> None:
    """Run with the options of the command line."""
    command.cli(Config, main, __doc__, command.show_table)


if __name__ == "__main__":
    cli()
