"""The trials of the AE-OT-GAN experiment: what is trained and scored of one seed, and on what."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab import ae_ot_gan_budget, ae_ot_gan_figures, command, sets
from experiments.lab.judge import codes_of
from experiments.lab.machine import repeated
from experiments.lab.sets import Draw
from experiments.lab.trials import OfSeed, note_failure, place_of, save, scores_at, stage
from otgen import data, store
from otgen import eval as evaluate
from otgen.data import toy
from otgen.models import ae_ot as base_model
from otgen.models import ae_ot_gan as gan_model
from otgen.models import baselines
from otgen.nn import to_unit
from otgen.train.loop import NonFinite
from otgen.types import Array, Key

LONGER = "longer"
BASELINES = ("vae", "wgan_gp")
REFERENCE = "reference"
_REAL, _RECONSTRUCTED = "real training data", "reconstructed test data"
COLUMNS = {  # of the table
    "frechet": "Frechet",
    "kid": "KID",
    "lmem": "lmem",
    "precision": "precision",
    "recall": "recall",
    "coverage": "coverage",
    "content": "pixel error of the pairs",
    "class_tv": "class TV",
    "class_tv_real": "class TV to real data",
    "mixtures": "mixtures",
    "modes": "modes",
    "share_3sd": "within 3 sd",
    "within_sd": "within-mode sd",
    "reverse_kl": "reverse KL",
    "images_per_second": "images/s",
    "seconds": "seconds",
}
_PAIRS = 10_000  # training images whose pairs are looked at
_TIMED = 2000  # images a draw that is timed


def compare_classes(runs: list[dict[str, Any]]) -> None:
    """Add to rows the total variation of their classes from those of real training data of the same seed.

    Both are told by the same classifier, so that its mistakes do not count; both are shares among all draws.
    """
    real = {run["seed"]: run["rows"].get(_REAL, {}).get("class_shares") for run in runs if run["group"] == REFERENCE}
    for run in runs:
        for name, row in run["rows"].items():
            if real.get(run["seed"]) and len(row.get("class_shares", [])) > 1 and name != _REAL:
                shares = (jnp.asarray(told) for told in (row["class_shares"], real[run["seed"]]))
                row["class_tv_real"] = float(evaluate.total_variation(*shares))


def rows_of(config: Any) -> list[str]:
    """Return the names of all rows that the variants of a configuration have."""
    gans = [name for name in config.names() if name not in (LONGER, *BASELINES, "default")]
    return [
        _REAL,
        _RECONSTRUCTED,
        "AE-OT",
        "AE-OT, longer",
        "AE-OT-GAN",
        *BASELINES,
        *(f"AE-OT-GAN, {name}" for name in gans),
    ]


def load(config: Any) -> tuple[data.Dataset, data.Dataset]:
    """Training and held-out data; points as images of one row and column, scaled into [0, 1] like pixels."""
    if not config.is_toy():
        return sets.images(config)
    train, test = sets.points(config.dataset, config.num_points)
    low, high = _bounds(train.images)
    scaled = (data.Dataset((part.images - low) / (high - low), part.labels) for part in (train, test))
    return tuple(data.Dataset(np.clip(part.images, 0, 1), part.labels) for part in scaled)


def _bounds(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a box a tenth wider than the points on either side."""
    low, high = points.min((0, 1, 2)), points.max((0, 1, 2))
    return low - 0.1 * (high - low), high + 0.1 * (high - low)


class Trial(OfSeed):
    """Everything of one seed: AE-OT, the GANs that start from it, baselines, the judge."""

    def run(self, group: str) -> None:
        """Train and score a group of rows of the table; one that diverges is noted."""
        entry = {"group": group, "seed": self._seed, "judge": self._facts()}
        place = scores_at(self._config, self._folder, self._seed, group)
        try:
            draws, notes, shown = self._draws(group)
        except NonFinite as error:
            note_failure(place, f"{group}, seed {self._seed}", entry, error)
            return
        key, scored = self._keys[3], self._scored if self._config.table else lambda *row: {}
        draws = {row: draw for row, draw in draws.items() if self._config.wants(row)}
        rows = {row: scored(key, row, draw) | notes.get(row, {}) for row, draw in draws.items()}
        shown |= {row: draw(key, 1000 if self._config.is_toy() else 100) for row, draw in draws.items()}
        save(place, {**entry, "rows": rows}, shown)

    def _scored(self, key: Key, row: str, draw: Draw) -> dict[str, Any]:
        if not self._config.is_toy():
            return self._scores(self._judge, key, row, draw)
        low, high = _bounds(self._points[0].images)
        return self._scores(self._judge, key, row, lambda key, num: draw(key, num) * (high - low) + low)

    @functools.cached_property
    def _points(self) -> tuple[data.Dataset, data.Dataset]:
        """The points of a toy in their own scale."""
        return sets.points(self._config.dataset, self._config.num_points)

    def _shown(self, module: gan_model.AEOTGAN, base: base_model.Model) -> Callable[[Any], Array]:
        """Return what draws 64 images from a state in training, always of the same noise."""
        codes = base_model.AEOT.codes

        def images_of(state: Any) -> Array:
            known = {"params": {**base.variables["params"], "generator": state.generator.average}}
            drawn = base.module.apply(base.variables, self._keys[3], 64, method=codes)
            return module.apply(known, drawn, method="decode")

        return images_of

    def _stage(
        self, group: str, name: str, total: int | None, work: Callable[..., Any], settings: Any
    ) -> tuple[Any, float | None]:
        """Do work under checkpoints that are tied to the settings of the model and to the images."""
        place = place_of(self._folder, self._seed, group) / name
        images = self._train.images
        told = {**dataclasses.asdict(settings), "images": [len(images), zlib.crc32(np.ascontiguousarray(images[:100]))]}
        title = f"{group}, {name}, seed {self._seed}"
        return stage(self._config, place, title, total, self._progress, work, told)

    def _ae_ot(self, group: str, config: base_model.Config) -> tuple[base_model.Model, float | None]:
        """Return an AE-OT, and the seconds of both its stages."""
        images, labels = self._train.images, self._train.labels
        train = functools.partial(base_model.train_autoencoder, self._keys[0], images, config)
        total = base_model.num_steps_of(config, len(images))
        (module, params), first = self._stage(group, "autoencoder", total, _params_of(train), config)
        module = base_model.AEOT(tuple(images.shape[1:]), config)
        solve = functools.partial(base_model.solve, self._keys[1], module, params, images)
        (variables, info), second = self._stage(group, "transport", None, solve, config)
        labels = None if np.ptp(labels) == 0 else jnp.asarray(labels, jnp.int32)
        seconds = None if first is None or second is None else first + second
        return base_model.Model(module, variables, labels, info), seconds

    @functools.cached_property
    def _start(self) -> tuple[base_model.Model, float | None]:
        return self._ae_ot(REFERENCE, self._config.base())

    def _draws(self, group: str) -> tuple[dict[str, Draw], dict[str, dict[str, Any]], dict[str, Any]]:
        """Return what draws images and what is known, by row of the table; and what the figures need beside samples."""
        train, test = self._train.images, self._test.images
        base, seconds = self._start
        form = self._config.gan("default").form
        if group == REFERENCE:
            draws = {
                _REAL: sets.drawn_from(train),
                _RECONSTRUCTED: lambda key, num: _reconstructed(base, test[:num]),
                "AE-OT": lambda key, num: base_model.sample(key, base, num, form=form),
            }
            notes = {"content": self._content(base), "seconds": seconds, **self._speed(draws["AE-OT"])}
            return draws, {"AE-OT": notes}, {}
        if group in (LONGER, *BASELINES):
            first = ae_ot_gan_budget.autoencoder(base.module.config, train)
            rest = ae_ot_gan_budget.gan(self._config.gan("default"), base, train)
            if group == LONGER:
                config = dataclasses.replace(
                    self._config.base(), epochs=self._config.base().epochs * (1 + rest / first)
                )
                model, seconds = self._ae_ot(group, config)
                notes = {"content": self._content(model), "seconds": seconds, "epochs": config.epochs}
                name = "AE-OT, longer"
                return {name: lambda key, num: base_model.sample(key, model, num, form=form)}, {name: notes}, {}
            draw, seconds = self._baseline(group, first + rest)
            return {group: draw}, {group: {"seconds": seconds}}, {}
        config, images = self._config.gan(group), self._train.images
        total = gan_model.num_steps_of(config, len(images))
        fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
        module = gan_model.AEOTGAN(base.module.image_shape, base.module.config, config)
        watch = command.watcher(self._config, self._folder, f"{group} seed {self._seed}", self._shown(module, base))
        watch = None if self._config.is_toy() else watch
        train_it = functools.partial(gan_model.refine, self._keys[2], base, images, watch=watch, **fields)
        params, last = self._stage(group, "gan", total, lambda **told: train_it(**told).variables, config)
        model = base._replace(module=module, variables=params)
        store.save(place_of(self._folder, self._seed, group) / "model", model, overwrite=True)

        def draw(key: Key, num: int) -> Array:
            return gan_model.sample(key, model, num)

        name = "AE-OT-GAN" if group == "default" else f"AE-OT-GAN, {group}"
        spent = None if seconds is None or last is None else seconds + last
        notes = {"content": self._content(model), "seconds": spent, **self._speed(draw)}
        shown = {}
        if group == "default" and not self._config.is_toy():
            shown = ae_ot_gan_figures.paths(self._keys[3], model)
        return {name: draw}, {name: notes}, shown

    def _baseline(self, name: str, budget: float) -> tuple[Draw, float | None]:
        """What draws images from a model of images that was trained on a budget of operations, and its seconds."""
        images, settings = self._train.images, ae_ot_gan_budget.settings_of(self._config.base())
        config = baselines.image_config(name, settings, jnp.asarray(images[:1]), len(images), budget)
        if name == "wgan_gp" and self._config.is_toy():
            config = dataclasses.replace(config, penalty=0.1)  # as `baselines` has it for points of the plane
        fit = functools.partial(_fitted, name, self._keys[2], images, config)
        return self._stage(name, "images", baselines.steps_of(config, len(images)), fit, config)

    def _content(self, model: base_model.Model) -> float:
        """Return the mean squared pixel error of the reconstructions of training images."""
        images = self._train.images[:_PAIRS]
        return float(np.mean((np.asarray(_reconstructed(model, images)) - np.asarray(to_unit(images))) ** 2))

    def _speed(self, draw: Draw) -> dict[str, float]:
        """Return images per second of draws, the best of three."""
        keys = iter([self._keys[3], *(jax.random.fold_in(self._keys[3], i) for i in range(3))])
        spent, _ = repeated(lambda: draw(next(keys), _TIMED), 3)
        return {"images_per_second": round(_TIMED / min(spent), 1)}

    @functools.cached_property
    def _judge(self) -> evaluate.Judge | evaluate.PointJudge:
        config, base = self._config, self._start[0]
        if config.is_toy():
            points, modes = (part.images for part in self._points), toy.centres_of(config.dataset)
            return evaluate.PointJudge(*points, num=config.num_eval, modes=modes)
        return self._judge_of(codes_of(base))


def _params_of(train: Callable[..., Any]) -> Callable[..., tuple[None, Any]]:
    """Return what trains an autoencoder, without the module in its result: a stage waits for arrays only."""
    return lambda **watch: (None, train(**watch)[1])


def _fitted(name: str, key: Key, images: Any, config: Any, **watch: Any) -> Draw:
    return jax.tree_util.Partial(baselines.fit_images(name, key, images, config, **watch))


def _reconstructed(model: base_model.Model, images: Any) -> Array:
    codes = base_model.encode(model.module, model.variables, images)
    return base_model.decode(model.module, model.variables, codes)
