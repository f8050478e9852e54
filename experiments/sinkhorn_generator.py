"""One-step generators by the Sinkhorn divergence: what keeps them from shrinking, on toys, digits and MNIST.

    python -m experiments.sinkhorn_generator --seeds 0-2                       # eight Gaussians
    python -m experiments.sinkhorn_generator --dataset twenty_five_gaussians --seeds 0-2
    python -m experiments.sinkhorn_generator --dataset mnist --space pca --data-dir DATA --seeds 0-2
    python -m experiments.sinkhorn_generator --dataset mnist --space pca --rows default,epsilon=0.05,epsilon=0.002
    python -m experiments.sinkhorn_generator --dataset mnist --space latents   # of an autoencoder; or pixels
    python -m experiments.sinkhorn_generator --dataset digits --space pixels   # needs no data folder
    python -m experiments.sinkhorn_generator --dataset FOLDER --size 32        # images of your own

Rows of the table: training data, `default`, and an ablation of equal batches of draws and data, 100 of toys, else 400:
`second` (a second, independent batch of draws pushes the first apart), `mask`, `same`, `none`; or a field of
`otgen.models.sinkhorn_generator.Config` with another value. Minutes a row on two cores, and numbers, are in
docs/methods/sinkhorn-generator.md; on one budget with other models the generator stands in `experiments.compare`
(ae_sinkhorn, sinkhorn_generator). Below runs/sinkhorn_generator/DATASET-SPACE: config.json, metrics.jsonl,
results.json, table.md, samples.png, of toys particles.png and particles.gif, checkpoints. `--resume` continues a run
that was stopped, also with more seeds or rows.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax

from experiments.lab import command, own_images, sets, sinkhorn_generator_figures, table, variants
from experiments.lab.judge import judged, require_features
from experiments.lab.sinkhorn_generator_spaces import COMPONENTS, SPACES, Space, load
from experiments.lab.trials import place_of, run_missing, save, scores_at, stage
from otgen.data import toy
from otgen.models import sinkhorn_generator as model
from otgen.train.settings import num_steps_of, rows_of

REFERENCE = "real data"
SECONDS = {"second": "batch", "mask": "mask", "same": "same", "none": "none"}  # rows of the ablation
_TOY = {
    "latent_dim": 2,
    "hidden": (128,) * 3,
    "learning_rate": 1e-2,
    "batches": 4,
    "moved": 4,
    "repeats": 8,
    "epsilon": 0.001,
    "epsilon_start": 0.04,
    "rho": 0.04,
    "frequencies": 3.0,
    "tol": 0.05,
    "average": 0.995,
    "epochs": 36,
}
_FINE = {**_TOY, "epsilon": 0.0005, "rho": 0.01, "frequencies": 6.0, "epochs": 40}
_CODES = {"latent_dim": 16, "hidden": (512,) * 4, "learning_rate": 3e-3, "epochs": 40}
_SETS: dict[str, dict[str, Any]] = {  # of the generator, by data set
    "digits": {"latent_dim": 8, "batch_size": 96, "batches": 4, "epochs": 600},
    "mnist": {},
    "fashion_mnist": {},
}
COLUMNS = {
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(own_images.OwnImages, command.Scored, command.Table, command.Resumable):
    """Options of the experiment. None means: what suits the data set."""

    dataset: str = "eight_gaussians"
    """digits, mnist, fashion_mnist; the path of images of your own; or a toy: eight_gaussians, twenty_five_gaussians,
    swiss_roll, rings, checkerboard, two_moons."""
    space: str | None = None
    """Of images: pca (their first principal components), latents (codes of an autoencoder), pixels."""
    rows: str = "default,second,mask,same,none"
    """Names with commas, or FIELD=VALUE."""
    epochs: float | None = None
    """Of the generator."""
    hidden: tuple[int, ...] | None = None
    """Layers of the generator, such as 512 512 512."""
    autoencoder_epochs: float | None = None
    """Of the autoencoder: 24, of images of your own as many as suit their number."""
    features: str = "auto"
    """Space of the distances of images: auto (LeNet or pixels), pixels, lenet, inception, codec."""
    draws: int = 3
    """Draws that every score averages over."""

    NAME = "sinkhorn_generator"

    @classmethod
    def smoke(cls, **changes: Any) -> Config:
        """Return a run of seconds, for tests."""
        small = {"epochs": 1.0, "autoencoder_epochs": 1.0, "num_points": 800, "num_eval": 200, "hidden": (16,)}
        return cls(**{**small, "draws": 2, "rows": "default,same", "progress": False, **changes})

    def kind(self) -> str:
        """Return where the transport is: points, pca, latents or pixels."""
        return "points" if self.dataset in toy.DISTRIBUTIONS else self.space or "pca"

    def folder(self) -> Path:
        """Return the output folder."""
        name = self.dataset if self.kind() == "points" else f"{own_images.label(self.dataset)}-{self.kind()}"
        return Path(self.out or Path("runs") / self.NAME / name)

    def names(self) -> list[str]:
        """Return the rows asked for."""
        return variants.names(self.rows)

    def model(self, row: str) -> model.Config:
        """Return the generator of a row; epochs of the ablation are such that all take the same number of steps."""
        fields = {"output": "unit" if self.kind() == "pixels" else "real"}
        fields |= _settings(self)
        fields |= self.given("epochs", "hidden")
        base = model.Config(**fields)
        if row == "default":
            return base
        if row in SECONDS:
            equal = {"batch_size": 100 if self.kind() == "points" else 400, "batches": 1, "moved": 1}
            changed = dataclasses.replace(base, **equal, second=SECONDS[row])
        else:
            name, value = variants.change(row, model.Config, ("epochs", "hidden", "output"))
            changed = variants.built(row, model.Config, {**_fields(base), name: value})
        share = _data_a_step(changed) / _data_a_step(base)
        return dataclasses.replace(changed, epochs=base.epochs * share)

    def identity(self) -> dict[str, Any]:
        """Return what makes the numbers: all but which rows and seeds there are."""
        return self.numbers("rows", "seeds", "table")


def _settings(config: Config) -> dict[str, Any]:
    if config.kind() == "points":
        return _FINE if config.dataset == "twenty_five_gaussians" else _TOY
    own = _SETS["digits" if sets.few(config) else "mnist"] if own_images.is_given(config) else _SETS[config.dataset]
    if config.kind() == "pixels":
        return own
    own = {**_CODES, **own}
    return own if config.kind() == "latents" else {**own, "latent_dim": COMPONENTS}


def _data_a_step(config: model.Config) -> float:
    """Return how many data a step of the optimiser sees, where a plan serves several steps a share of them."""
    return config.batch_size * config.batches / (config.moved * config.repeats)


def _fields(config: model.Config) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}


def main(config: Config) -> dict[str, Any]:
    """Train and judge what is not yet there, draw, and return what results.json holds."""
    check(config)
    folder = command.open_folder(config)
    progress = command.progress_of(config, folder)
    spaces: dict[int, Space] = {}

    def work(trial: tuple[int, str]) -> None:
        seed, row = trial
        if seed not in spaces:
            spaces.clear()
            spaces[seed] = load(config, folder, seed)
        run(config, folder, spaces[seed], seed, row, progress)

    trials = [(seed, row) for seed in config.seed_list() for row in (REFERENCE, *config.names())]
    runs = run_missing(trials, lambda trial: scores_at(config, folder, *trial), work)
    results = {"dataset": own_images.label(config.dataset), "space": config.kind(), "judge": runs[0]["judge"]}
    results |= {"rows": table.gather(runs), "runs": runs}
    places = [scores_at(config, folder, config.seed_list()[0], row) for row in (REFERENCE, *config.names())]
    sinkhorn_generator_figures.draw(config, folder, places)
    return command.close_folder(folder, results, show(config, results))


def check(config: Config) -> None:
    """Raise ValueError for options that cannot be meant, before anything is written."""
    least = {"limit": 100, "num_points": 100, "num_eval": 8, "draws": 1}
    command.require(config, (*_SETS, *toy.DISTRIBUTIONS), **least)
    if config.dataset in toy.DISTRIBUTIONS and config.space is not None:
        raise ValueError("toys are points: space is of images.")
    if config.kind() != "points" and config.kind() not in SPACES:
        raise ValueError(f"space = {config.space!r}: choose one of {', '.join(SPACES)}.")
    known = ("default", *SECONDS)
    if not config.names():
        raise ValueError(f"rows = {config.rows!r}: give names such as {', '.join(known)}.")
    config.seed_list(), sets.autoencoder(config)
    for row in config.names():  # raises for the fields of the model
        if row not in known and "=" not in row:
            raise ValueError(f"rows = {config.rows!r}: choose among {', '.join(known)}, or FIELD=VALUE.")
        config.model(row)
    if config.kind() in ("latents", "pixels"):
        require_features(config)
    elif config.features != "auto":
        raise ValueError("points are scored in their own coordinates: features are of latents and pixels.")


def run(config: Config, folder: Path, space: Space, seed: int, row: str, progress: Any) -> None:
    """Train one generator, judge its draws, and write its scores."""
    place, key = place_of(folder, seed, row), jax.random.fold_in(jax.random.key(seed), 3000)
    draw, seconds = space.real, None
    if row != REFERENCE:
        settings = _fields(config.model(row))

        def fit(**watch: Any) -> Any:
            return model.fit(jax.random.key(seed), space.data, **settings, **watch)

        chosen = config.model(row)
        rows = rows_of(chosen, len(space.data), chosen.batches)
        total = num_steps_of(chosen, len(space.data), rows)
        trained, seconds = stage(config, place, f"{row}, seed {seed}", total, progress, fit, str(chosen))

        def draw(key: Any, num: int) -> Any:
            return space.shown(model.sample(key, trained, num))

    entry = {"group": row, "seed": seed, "judge": None}
    scores: dict[str, Any] = {} if seconds is None else {"seconds": seconds}
    if config.table:
        entry["judge"] = space.judge.facts(config.draws)
        scores |= judged(space.judge, key, draw, config.draws, f"{row}, seed {seed}", config.progress)["mean"]
        scores |= space.more(draw(key, space.judge.num))
        scores |= {} if space.variance is None else {"of_variance": scores["frechet"] / space.variance}
    entry["rows"] = {row: scores}
    save(
        scores_at(config, folder, seed, row),
        entry,
        {row: space.pictured(draw(key, 2000 if config.kind() == "points" else 64))},
    )


def show(config: Config, results: dict[str, Any]) -> str:
    """Return the table, and what its scores were made with."""
    return f"{table.markdown(results['rows'], COLUMNS)}\n\n{table.of_judge(results)}."


def cli() -> None:
    """Run with the options of the command line."""
    command.cli(Config, main, __doc__, show)


if __name__ == "__main__":
    cli()
