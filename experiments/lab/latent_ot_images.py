"""The latent-OT experiment on images: autoencoder, maps to its codes, decoder, scored beside a Gaussian prior."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from experiments.lab import figures as figures_of
from experiments.lab import sets
from experiments.lab.latent_ot_toy import FORMS, objective
from experiments.lab.trials import OfSeed, load_shown, place_of, run_missing, save, scores_at, stage
from otgen import plot, store
from otgen.eval import Judge
from otgen.maps import neural_map
from otgen.maps.training import plan
from otgen.models import latent_ot
from otgen.models.ae_ot import num_steps_of
from otgen.models.baselines import latent_law
from otgen.nn import to_unit
from otgen.ot import semidiscrete
from otgen.ot.gaussian import mixture
from otgen.ot.semidiscrete.source import gaussian
from otgen.types import Array, Key

_REFERENCE = "reference"
_SHARES = {"least_class": min, "largest_class": max}
COLUMNS = {  # of the table
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


def run(config: Any, folder: Path, progress: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Train and score what is not yet scored, draw."""
    groups, data_sets = groups_of(config), functools.cache(lambda: sets.images(config))
    trial_of = functools.lru_cache(1)(lambda seed: Trial(config, folder, seed, progress, *data_sets()))
    runs = run_missing(
        [(seed, group) for seed in config.seed_list() for group in groups],
        lambda it: scores_at(config, folder, *it),
        lambda it: trial_of(it[0]).run(it[1]),
    )
    if not runs:
        return [], {}
    return runs, {"judge": runs[0]["judge"], "figures": figures(config, folder, groups)}


def _names_of(config: Any, group: str) -> list[str]:
    """Return names of the rows of a group that are asked for."""
    if group == _REFERENCE:
        names = ["real training images", "reconstructed test images", "Gaussian prior"]
    else:
        names = [f"{group}, {form}" for form in (*FORMS[group], "local")] if group in FORMS else [group]
    return [name for name in names if config.wants(name)]


def groups_of(config: Any) -> list[str]:
    """Return what is trained and scored together, as far as rows of it are asked for."""
    groups = [_REFERENCE, *config.names()]
    if config.distil:
        groups.append(f"{config.names()[0]}, network")
    return [group for group in groups if _names_of(config, group)]


def rows_of(config: Any) -> list[str]:
    """Return the names of all rows that are asked for."""
    return [name for group in groups_of(config) for name in _names_of(config, group)]


class Trial(OfSeed):
    """Everything of one seed: the autoencoder, the maps to its codes, the judge."""

    def run(self, group: str) -> None:
        """Train and score a group of rows of the table."""
        draws, seconds, notes = self._draws(group)
        draws = {row: draws[row] for row in _names_of(self._config, group)}
        start, key = time.perf_counter(), self._keys[3]
        scored = self._scored if self._config.table else lambda *row: {}
        rows = {row: scored(key, row, draw) | notes for row, draw in draws.items()}
        spent = {"training": seconds, "scoring": round(time.perf_counter() - start, 2)}
        scores = {"group": group, "seed": self._seed, "seconds": spent, "judge": self._facts(), "rows": rows}
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
    def _judge(self) -> Judge:
        return self._judge_of(self._encode)

    @functools.cache  # noqa: B019, one seed is held at a time
    def _map(self, solver: str) -> tuple[latent_ot.Model, float | None]:
        config, images = self._config.model(solver), self._train.images
        key = jax.random.fold_in(self._keys[1], list(FORMS).index(solver))
        total = plan(neural_map.config_of(solver, **config.options()), len(images)).calls
        params = self._autoencoder[0].variables["params"]
        solve = functools.partial(latent_ot.solve, key, params, images, config)
        return self._stage(solver, total, solve)

    def _draws(self, group: str) -> tuple[dict[str, sets.Draw], float | None, dict[str, Any]]:
        """Return what draws images, by row of the table, the seconds of its training, and what is known of it."""
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


def figures(config: Any, folder: Path, groups: list[str]) -> list[str]:
    """Draw, for the first seed, samples of every row of the table, and what every solver minimised; return names."""
    seed, solvers = config.seed_list()[0], [name for name in config.names() if name in groups]
    shown = load_shown(scores_at(config, folder, seed, group) for group in groups)
    sheet = figures_of.sheet(shown, lambda ax, row, images: plot.image_grid(images, 10, ax, row), 3, (4.2, 1.95))
    figures_of.save(sheet, folder / "samples.png")
    if not solvers:
        return ["samples.png"]
    figure, (axes,) = figures_of.canvas(1, len(solvers), 4, 3.2)
    for ax, solver in zip(axes, solvers, strict=True):
        objective(ax, config, folder, seed, solver)
    figures_of.save(figure, folder / "objective.png")
    return ["samples.png", "objective.png"]
