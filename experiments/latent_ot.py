"""Latent-space OT: three solvers of the map from Gaussian noise to codes, on digits, MNIST, Fashion-MNIST, and on toys.

    python -m experiments.latent_ot                                          # eight Gaussians: the exact map is known
    python -m experiments.latent_ot --seeds 0-2                              # mean and deviation over seeds
    python -m experiments.latent_ot --dataset digits                         # needs no data folder
    python -m experiments.latent_ot --dataset mnist --data-dir DATA --seeds 0-2
    python -m experiments.latent_ot --dataset mnist --solvers c_transform,icnn --no-distil
    python -m experiments.latent_ot --dataset FOLDER --size 32               # images of your own; also .tar, .zip, .npz
    python -m experiments.latent_ot --dataset mnist --solvers c_transform --no-distil --features inception --resume
    python -m experiments.latent_ot --dataset mnist --solvers c_transform --no-distil --features inception \
        --feature-images 10000 --rows real,local --resume                    # what is slow, of two rows only

Toys: every form of every map against the semi-discrete one. Images: autoencoder, map to its codes, decoder, scored
beside a Gaussian prior in the same codes; the first solver's map is also distilled into one network. For numbers see
docs/methods/latent-ot.md. Everything is written below runs/latent_ot/DATASET: config.json, metrics.jsonl, results.json,
table.md, figures, checkpoints. `--resume` continues a run that was stopped, also with more seeds or solvers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from experiments.lab import command, latent_ot_images, latent_ot_toy, own_images, sets, table, variants
from experiments.lab.judge import require_features
from experiments.lab.latent_ot_toy import FORMS
from otgen.data import toy
from otgen.models import latent_ot
from otgen.train import hosts

_MNIST = {
    "model": {"latent_dim": 64, "hidden": (1024, 512), "epochs": 120, "neighbours": 1.6},
    "c_transform": {"hidden": (256, 256), "num_steps": 800, "batch_size": 2000, "learning_rate": 3e-3},
    "icnn": {"num_steps": 4000},
    "lp": {"num_steps": 1000},
    "network": {"num_steps": 5000},
}
_SETS: dict[str, dict[str, dict[str, Any]]] = {  # networks and training by data set
    "digits": {
        "model": {**sets.NETWORKS["digits"], "epochs": 150},
        "c_transform": {"num_steps": 1500},
        "icnn": {"num_steps": 2000},
        "lp": {"num_steps": 300},
        "network": {"hidden": (256, 256), "num_steps": 3000},
    },
    "mnist": _MNIST,
    "fashion_mnist": {**_MNIST, "model": {**_MNIST["model"], "neighbours": 1.4}},
}
_TOY: dict[str, dict[str, Any]] = {"c_transform": {}, "icnn": {"num_steps": 4000}, "lp": {}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(own_images.OwnImages, command.Rows, command.Featured, command.Options):
    """Options of the experiment. None means: what suits the data set."""

    dataset: str = "eight_gaussians"
    """digits, mnist, fashion_mnist; the path of images of your own; or a toy: eight_gaussians, twenty_five_gaussians,
    swiss_roll, rings, checkerboard, two_moons."""
    solvers: str = "c_transform,lp,icnn"
    """Names with commas, among c_transform, lp, icnn."""
    latent_dim: int | None = None
    """Dimension of the codes."""
    hidden: tuple[int, ...] | None = None
    """Layers of the autoencoder, such as 1024 512."""
    epochs: float | None = None
    """Of the autoencoder."""
    num_steps: int | None = None
    """Updates of every map and of the distilled network."""
    neighbours: float | None = None
    """Codes that a barycenter weighs, on average: 3, for MNIST 1.6, for Fashion-MNIST 1.4."""
    distil: bool = True
    """Images: also distil the map of the first solver into one network."""
    num_points: int = 4096
    """Toys: how many target points."""

    NAME = "latent_ot"

    @classmethod
    def smoke(cls, **changes: Any) -> Config:
        """Return a run of seconds, for tests."""
        small = {"epochs": 3.0, "limit": 400, "num_steps": 24, "num_points": 256, "num_eval": 200, "draws": 2}
        if changes.get("dataset", cls.dataset) in toy.DISTRIBUTIONS:
            small = {"num_steps": 24, "num_points": 256, "num_eval": 200}
        return cls(**{**small, "progress": False, **changes})

    def names(self) -> list[str]:
        """Return the solvers asked for."""
        return variants.names(self.solvers)

    def options(self, solver: str) -> dict[str, Any]:
        """Return fields of the solver's Config, or with "network" those of the distillation, that are not its own."""
        return {**self.settings()[solver], **self.given("num_steps")}

    def settings(self) -> dict[str, dict[str, Any]]:
        """Return networks and training that suit the data set."""
        if not own_images.is_given(self):
            return _SETS.get(self.dataset, _TOY)
        like = _SETS["digits" if sets.few(self) else "mnist"]
        return {**like, "model": sets.autoencoder(self)}

    def model(self, solver: str) -> latent_ot.Config:
        """Return the model on images with a solver."""
        fields = {**self.settings()["model"], **self.given("latent_dim", "hidden", "epochs", "neighbours")}
        return latent_ot.Config(**fields, solver=solver, solver_options=self.options(solver))

    def identity(self) -> dict[str, Any]:
        """Return what makes the numbers of a seed and a solver: all but these, and where and how it runs."""
        own = self.numbers("seeds", "solvers", "distil", "features", "feature_images", "rows", "table")
        return {**own, "settings": self.settings()}


def main(config: Config) -> dict[str, Any]:
    """Run what is not yet there, and return what results.json holds."""
    check(config)
    folder = command.open_folder(config)
    kind = latent_ot_toy if _is_toy(config) else latent_ot_images
    runs, facts = kind.run(config, folder, command.progress_of(config, folder))
    if not hosts.is_first():
        return {}
    results = {"dataset": own_images.label(config.dataset), **facts, "rows": table.gather(runs), "runs": runs}
    written = f"{table.markdown(results['rows'], kind.COLUMNS)}\n\n{in_words(results)}."
    return command.close_folder(folder, results, written)


def _is_toy(config: Config) -> bool:
    return config.dataset in toy.DISTRIBUTIONS


def check(config: Config) -> None:
    """Raise ValueError for options that cannot be meant, before anything is written."""
    least = {"limit": 100, "num_points": 64, "num_eval": 16, "feature_images": 16, "draws": 1, "num_steps": 1}
    command.require(config, (*_SETS, *toy.DISTRIBUTIONS), **least)
    if not config.names() or not set(config.names()) <= set(FORMS):
        raise ValueError(f"solvers = {config.solvers!r}: choose among {', '.join(FORMS)}.")
    config.seed_list()
    if config.neighbours is not None and not 1 <= config.neighbours <= 32:
        raise ValueError(f"neighbours = {config.neighbours}: give 1 to 32.")
    of_images = (config.latent_dim, config.hidden, config.epochs, config.limit)
    if _is_toy(config) and any(value is not None for value in of_images):
        raise ValueError("toys are points: latent_dim, hidden, epochs and limit are for images.")
    if _is_toy(config) and (config.features != "auto" or config.rows is not None or not config.table):
        raise ValueError("toys are points: features, rows and no-table are of images.")
    if config.rows is not None:
        command.require_rows(config, latent_ot_images.rows_of(dataclasses.replace(config, rows=None)))
    require_features(config)
    if _is_toy(config) and config.distributed:
        raise ValueError("toys are learned on one host: leave --distributed out.")
    for name in config.names():  # raises for the fields of the models
        if not _is_toy(config):
            config.model(name)


def in_words(results: dict[str, Any]) -> str:
    """Return what the scores were made with."""
    if "judge" in results:
        return table.of_judge(results)
    chi2 = (f"{truth['chi2']:.2g} ± {truth['chi2_error']:.1g}" for truth in results["truth"].values())
    return f"{results['dataset']}: chi2 of the cell masses of the truth and its repeat {', '.join(chi2)}"


def cli() -> None:
    """Run with the options of the command line."""
    command.cli(Config, main, __doc__, command.show_table)


if __name__ == "__main__":
    cli()
