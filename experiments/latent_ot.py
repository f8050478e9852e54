"""Latent-space OT: three solvers of the map from Gaussian noise to codes, on digits, MNIST, Fashion-MNIST, and on toys.

    python -m experiments.latent_ot                                          # eight Gaussians: the exact map is known
    python -m experiments.latent_ot --seeds 0-2                              # mean and deviation over seeds
    python -m experiments.latent_ot --dataset digits                         # needs no data folder
    python -m experiments.latent_ot --dataset mnist --data-dir DATA --seeds 0-2
    python -m experiments.latent_ot --dataset mnist --solvers c_transform,icnn --no-distil
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
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from experiments.lab import command, latent_ot_toy, sets, table, variants
from experiments.lab import figures as figures_of
from experiments.lab.command import write
from experiments.lab.judge import place_of_scores
from experiments.lab.latent_ot_toy import FORMS, objective
from experiments.lab.trials import OfSeed, load_shown, place_of, run_missing, save, stage
from otgen import eval as evaluate
from otgen import plot, store
from otgen.data import toy
from otgen.maps import neural_map
from otgen.maps.training import plan
from otgen.models import latent_ot
from otgen.models.ae_ot import num_steps_of
from otgen.models.baselines import latent_law
from otgen.nn import to_unit
from otgen.ot import semidiscrete
from otgen.ot.gaussian import mixture
from otgen.ot.semidiscrete.source import gaussian
from otgen.train import hosts
from otgen.types import Array, Key

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
_REFERENCE = "reference"
_SHARES = {"least_class": min, "largest_class": max}
_COLUMNS = {  # of the table
    "frechet": "Frechet",
    "kid": "KID",
    "lmem": "lmem",
    "precision": "precision",
    "recall": "recall",
    "class_tv": "class TV",
    "least_class": "least class",
    "largest_class": "largest class",
    "chi2": "chi2 of the cells",
    "seconds": "seconds",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(command.Scored, command.Options):
    """Options of the experiment. None means: what suits the data set."""

    dataset: str = "eight_gaussians"
    """digits, mnist, fashion_mnist, or a toy: eight_gaussians, twenty_five_gaussians, swiss_roll, rings,
    checkerboard, two_moons."""
    solvers: str = "c_transform,lp,icnn"
    """Names with commas, among c_transform, lp, icnn."""
    latent_dim: int | None = None
    hidden: tuple[int, ...] | None = None
    """Layers of the autoencoder, such as 1024 512."""
    epochs: float | None = None
    """Of the autoencoder."""
    num_steps: int | None = None
    """Updates of every map and of the distilled network."""
    neighbours: float | None = None
    """Codes that a barycentre weighs, on average: 3, for MNIST 1.6, for Fashion-MNIST 1.4."""
    distil: bool = True
    """Images: also distil the map of the first solver into one network."""
    features: str = "auto"
    """Space of the distances of images: auto (LeNet or pixels), pixels, lenet, inception."""
    feature_images: int = 5000
    """Images of the one draw that a seed is scored with in features other than auto."""
    rows: str | None = None
    """Images: score only rows of the table whose names hold one of these words with commas, such as real,local."""
    num_points: int = 4096
    """Toys: how many target points."""

    NAME = "latent_ot"

    @classmethod
    def smoke(cls, **changes: Any) -> Config:
        """A run of seconds, for tests."""
        small = {"epochs": 3.0, "limit": 400, "num_steps": 24, "num_points": 256, "num_eval": 200, "draws": 2}
        if changes.get("dataset", cls.dataset) not in _SETS:
            small = {"num_steps": 24, "num_points": 256, "num_eval": 200}
        return cls(**{**small, "progress": False, **changes})

    def names(self) -> list[str]:
        """The solvers asked for."""
        return variants.names(self.solvers)

    def options(self, solver: str) -> dict[str, Any]:
        """Fields of the solver's Config, or with "network" those of the distillation, that are not its own."""
        return {**_SETS.get(self.dataset, _TOY)[solver], **self.given("num_steps")}

    def model(self, solver: str) -> latent_ot.Config:
        """The model on images with a solver."""
        fields = {**_SETS[self.dataset]["model"], **self.given("latent_dim", "hidden", "epochs", "neighbours")}
        return latent_ot.Config(**fields, solver=solver, solver_options=self.options(solver))

    def identity(self) -> dict[str, Any]:
        """What makes the numbers of a seed and a solver: all but these, and where and how it runs."""
        own = self.numbers("seeds", "solvers", "distil", "features", "feature_images", "rows")
        return {**own, "settings": _SETS.get(self.dataset, _TOY)}


def main(config: Config) -> dict[str, Any]:
    """Run what is not yet there, and return what results.json holds."""
    check(config)
    folder = command.open_folder(config)
    run, columns = (latent_ot_toy.run, latent_ot_toy.COLUMNS) if _is_toy(config) else (run_images, _COLUMNS)
    runs, facts = run(config, folder, command.progress_of(config, folder))
    if not hosts.is_first():
        return {}
    results = {"dataset": config.dataset, **facts, "rows": table.gather(runs), "runs": runs}
    write(folder / "results.json", results)
    (folder / "table.md").write_text(f"{table.markdown(results['rows'], columns)}\n\n{in_words(results)}.\n")
    return results


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
    if _is_toy(config) and (config.features != "auto" or config.rows is not None):
        raise ValueError("toys are points: features and rows are of images.")
    for word in () if config.rows is None else config.rows.split(","):
        if not word or not _groups(dataclasses.replace(config, rows=word)):
            raise ValueError(f"rows = {config.rows!r}: no row of the table has {word!r} in its name; try real,local.")
    if config.features != "auto":  # raises for unknown features and missing weights
        evaluate.extractor_of(config.dataset, config.data_dir, config.features)
    if _is_toy(config) and config.distributed:
        raise ValueError("toys are learned on one host: leave --distributed out.")
    for name in config.names():  # raises for the fields of the models
        if not _is_toy(config):
            config.model(name)


def in_words(results: dict[str, Any]) -> str:
    """What the scores were made with."""
    if "judge" in results:
        return table.of_judge(results)
    chi2 = (f"{truth['chi2']:.2g} ± {truth['chi2_error']:.1g}" for truth in results["truth"].values())
    return f"{results['dataset']}: chi2 of the cell masses of the truth and its repeat {', '.join(chi2)}"


def run_images(config: Config, folder: Path, progress: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Train and score what is not yet scored, draw."""
    groups, data_sets = _groups(config), functools.cache(lambda: sets.images(config))
    trial_of = functools.lru_cache(1)(lambda seed: Trial(config, folder, seed, progress, *data_sets()))
    runs = run_missing(
        [(seed, group) for seed in config.seed_list() for group in groups],
        lambda it: _scores(config, folder, *it),
        lambda it: trial_of(it[0]).run(it[1]),
    )
    if not runs:
        return [], {}
    return runs, {"judge": runs[0]["judge"], "figures": figures(config, folder, groups)}


def _scores(config: Config, folder: Path, seed: int, group: str) -> Path:
    """Where the scores of a group are; those of chosen rows are apart."""
    place = place_of_scores(config, place_of(folder, seed, group))
    return place if config.rows is None else place / f"rows-{config.rows}"


def _names_of(config: Config, group: str) -> list[str]:
    """Names of the rows of a group that are asked for."""
    if group == _REFERENCE:
        names = ["real training images", "reconstructed test images", "Gaussian prior"]
    else:
        names = [f"{group}, {form}" for form in (*FORMS[group], "local")] if group in FORMS else [group]
    return [name for name in names if config.rows is None or any(word in name for word in config.rows.split(","))]


def _groups(config: Config) -> list[str]:
    """What is trained and scored together, as far as rows of it are asked for."""
    groups = [_REFERENCE, *config.names()]
    if config.distil:
        groups.append(f"{config.names()[0]}, network")
    return [group for group in groups if _names_of(config, group)]


class Trial(OfSeed):
    """Everything of one seed: the autoencoder, the maps to its codes, the judge."""

    def run(self, group: str) -> None:
        """Train and score a group of rows of the table."""
        draws, seconds, notes = self._draws(group)
        draws = {row: draws[row] for row in _names_of(self._config, group)}
        start, key = time.perf_counter(), self._keys[3]
        rows = {row: self._scored(key, row, draw) | notes for row, draw in draws.items()}
        spent = {"training": seconds, "scoring": round(time.perf_counter() - start, 2)}
        judge = self._judge.facts(self._draws_of_a_row)
        scores = {"group": group, "seed": self._seed, "seconds": spent, "judge": judge, "rows": rows}
        save(_scores(self._config, self._folder, self._seed, group), scores, {n: d(key, 40) for n, d in draws.items()})

    def _scored(self, key: Key, row: str, draw: sets.Draw) -> dict[str, Any]:
        found = self._scores(self._judge, key, row, draw)
        return found | {name: chosen(found["class_shares"]) for name, chosen in _SHARES.items()}

    def _stage(self, name: str, total: int, work: Callable[..., Any]) -> tuple[Any, float | None]:
        place = place_of(self._folder, self._seed, name)
        return stage(self._config, place, f"{name}, seed {self._seed}", total, self._progress, work)

    def _store(self, group: str, model: latent_ot.Model) -> None:
        store.save(place_of(self._folder, self._seed, group) / "model", model, overwrite=True)

    @functools.cached_property
    def _autoencoder(self) -> tuple[latent_ot.Model, Array, Array, float | None]:
        """The model without a map, the mean and scale of its codes, and seconds."""
        config, images = self._config.model(self._config.names()[0]), self._train.images
        train = functools.partial(latent_ot.train_autoencoder, self._keys[0], images, config)
        total = num_steps_of(latent_ot.autoencoder(config), len(images))
        params, seconds = self._stage("autoencoder", total, train)
        model = latent_ot.Model(latent_ot.LatentOT(images.shape[1:], config), {"params": params})
        return model, *latent_ot.standardisation(latent_ot.encode(model, images)), seconds

    def _encode(self, images: Any) -> Array:
        model, mean, scale, _ = self._autoencoder
        return (latent_ot.encode(model, images) - mean) / scale

    def _decode(self, codes: Array) -> Array:
        model, mean, scale, _ = self._autoencoder
        return latent_ot.decode(model, codes * scale + mean)

    @functools.cached_property
    def _judge(self) -> evaluate.Judge:
        rest = {"num": self._num, "data_dir": self._config.data_dir, "features": self._config.features}
        return evaluate.Judge(self._config.dataset, self._train, self._test, self._encode, **rest)

    @functools.cache  # noqa: B019, one seed is held at a time
    def _map(self, solver: str) -> tuple[latent_ot.Model, float | None]:
        config, images = self._config.model(solver), self._train.images
        key = jax.random.fold_in(self._keys[1], list(FORMS).index(solver))
        total = plan(neural_map.config_of(solver, **config.options()), len(images)).calls
        params = self._autoencoder[0].variables["params"]
        solve = functools.partial(latent_ot.solve, key, params, images, config)
        return self._stage(solver, total, solve)

    def _draws(self, group: str) -> tuple[dict[str, sets.Draw], float | None, dict[str, Any]]:
        """What draws images, by row of the table, the seconds of its training, and what is known of it."""
        if group == _REFERENCE:
            train, test = self._train.images, self._test.images
            law = latent_law.gaussian(self._encode(to_unit(train)))
            draws = {
                "real training images": sets.drawn_from(train),
                "reconstructed test images": lambda key, num: self._decode(self._encode(to_unit(test[:num]))),
                "Gaussian prior": lambda key, num: self._decode(mixture.sample(key, law, num)),
            }
            return draws, self._autoencoder[3], {}
        solver = group.split(",")[0]
        model, seconds = self._map(solver)
        if group != solver:
            fields = self._config.options("network")
            work = functools.partial(latent_ot.distil, self._keys[2], model, **fields)
            model, seconds = self._stage(group, fields["num_steps"], work)
            self._store(group, model)
            return {group: _sampler(model, "network")}, seconds, {"seconds": seconds}
        self._store(group, model)
        found = latent_ot.map_of(model)
        info = neural_map.evaluate(self._keys[2], found, num=2**13)
        missed = semidiscrete.chi2(self._keys[2], neural_map.heights(found), found.codes, 2**18, sampler=gaussian)
        notes = {"primal_cost": info.primal_cost, "dual_value": info.dual_value, "dual_error": info.dual_error}
        notes |= {"chi2": missed[0], "temperature": found.temperature, "residual": found.residual}
        notes = {name: float(value) for name, value in notes.items()} | {"seconds": seconds}
        return {f"{solver}, {form}": _sampler(model, form) for form in (*FORMS[solver], "local")}, seconds, notes


def _sampler(model: latent_ot.Model, form: str) -> sets.Draw:
    return lambda key, num: latent_ot.sample(key, model, num, form=form)


def figures(config: Config, folder: Path, groups: list[str]) -> list[str]:
    """Draw, for the first seed, samples of every row of the table, and what every solver minimised; return names."""
    seed, solvers = config.seed_list()[0], [name for name in config.names() if name in groups]
    shown = load_shown(_scores(config, folder, seed, group) for group in groups)
    sheet = figures_of.sheet(shown, lambda ax, row, images: plot.image_grid(images, 10, ax, row), 3, (4.2, 1.95))
    figures_of.save(sheet, folder / "samples.png")
    if not solvers:
        return ["samples.png"]
    figure, (axes,) = figures_of.canvas(1, len(solvers), 4, 3.2)
    for ax, solver in zip(axes, solvers, strict=True):
        objective(ax, config, folder, seed, solver)
    figures_of.save(figure, folder / "objective.png")
    return ["samples.png", "objective.png"]


def cli() -> None:
    """Run with the options of the command line."""
    command.cli(Config, main, __doc__, command.show_table)


if __name__ == "__main__":
    cli()
