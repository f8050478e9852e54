r"""AE-OT-GAN beside AE-OT, a VAE and a Wasserstein GAN: same networks, same budget, one judge, and what carries it.

    python -m experiments.ae_ot_gan                                          # digits, needs no data folder
    python -m experiments.ae_ot_gan --dataset mnist --data-dir DATA --seeds 0-2 --variants default,longer,vae,wgan_gp
    python -m experiments.ae_ot_gan --dataset mnist --data-dir DATA --variants default,no_pairs,gaussian,angle=3.14
    python -m experiments.ae_ot_gan --dataset twenty_five_gaussians --variants default,gaussian,wgan_gp

Three stages, each with its checkpoints: autoencoder, transport, GAN. Rows of the table: real and reconstructed images,
AE-OT of the same autoencoder, and the variants asked for: `default`, one of the names below, or a field of
`otgen.models.ae_ot_gan.Config` with another value. `longer` is AE-OT whose autoencoder was given the operations of the
GAN as well; vae and wgan_gp may spend those of autoencoder and GAN together.

Everything is written below runs/ae_ot_gan/DATASET: config.json, metrics.jsonl, results.json, table.md, figures,
checkpoints. `--resume` continues a run that was stopped, also with other seeds, variants or features.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab import ae_ot_gan_budget, ae_ot_gan_figures, command, sets, table, variants
from experiments.lab.command import write
from experiments.lab.judge import codes_of, place_of_scores
from experiments.lab.machine import repeated
from experiments.lab.sets import Draw
from experiments.lab.trials import OfSeed, note_failure, place_of, read, run_missing, save, stage
from otgen import data, store
from otgen import eval as evaluate
from otgen.data import toy
from otgen.models import ae_ot as base_model
from otgen.models import ae_ot_gan as gan_model
from otgen.models import baselines
from otgen.nn import to_unit
from otgen.train import hosts
from otgen.train.loop import NonFinite
from otgen.types import Array, Key

_MNIST = {"base": {"epochs": 72}, "gan": {"epochs": 6, "learning_rate": 6e-4}}
_SETS: dict[str, dict[str, dict[str, Any]]] = {  # autoencoder and GAN by data set, beside the networks
    "digits": {"base": {"epochs": 150}, "gan": {"epochs": 60}},
    "mnist": _MNIST,
    "fashion_mnist": {**_MNIST, "gan": {**_MNIST["gan"], "content_weight": 3.0}},
    "stacked_mnist": {**_MNIST, "base": {"epochs": 36}},
    "cifar10": {"base": {"epochs": 12}, "gan": {"epochs": 24}},
    "celeb_a": {"base": {"epochs": 4}, "gan": {"epochs": 8}},
}
_TOY = {"base": {"latent_dim": 2, "hidden": (128, 128), "epochs": 200}, "gan": {"epochs": 20, "feature": "none"}}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "no_pairs": {"content_weight": 0.0, "feature": "none"},
    "no_feature": {"feature": "none"},
    "gaussian": {"latents": "gaussian"},
    "no_filter": {"angle": math.pi},
    "non_saturating": {"adversarial": "non_saturating"},
    "wasserstein": {"adversarial": "wasserstein", "penalty": 10.0},
}
LONGER = "longer"
BASELINES = ("vae", "wgan_gp")
REFERENCE = "reference"
_REAL = "real training data"
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(command.Scored, command.Options):
    """Options of the experiment. None means: what suits the data set."""

    dataset: str = "digits"
    """digits, mnist, fashion_mnist, stacked_mnist, cifar10, celeb_a, or a toy such as twenty_five_gaussians."""
    variants: str = "default"
    """Names with commas, among default, no_pairs, no_feature, gaussian, no_filter, non_saturating, wasserstein, longer,
    vae, wgan_gp, or FIELD=VALUE."""
    epochs: float | None = None
    """Of the autoencoder."""
    gan_epochs: float | None = None
    warmup: int | None = None
    """Steps of the critic alone."""
    latent_dim: int | None = None
    hidden: tuple[int, ...] | None = None
    """Layers of dense networks, such as 1024 512."""
    network: str | None = None
    """mlp or conv."""
    features: str = "auto"
    """Space of the distances: auto (LeNet or pixels), pixels, lenet, inception."""
    feature_images: int = 5000
    """Images of the one draw that a seed is scored with in features other than auto."""

    NAME = "ae_ot_gan"

    @classmethod
    def smoke(cls, **changes: Any) -> Config:
        """A run of seconds, for tests."""
        small = {"epochs": 3.0, "gan_epochs": 1.0, "warmup": 2, "num_eval": 200, "draws": 2, "progress": False}
        small |= {"num_points": 300} if changes.get("dataset", cls.dataset) in toy.DISTRIBUTIONS else {"limit": 400}
        return cls(**{**small, **changes})

    def is_toy(self) -> bool:
        """Whether the data are points of the plane."""
        return self.dataset in toy.DISTRIBUTIONS

    def names(self) -> list[str]:
        """The variants asked for."""
        return variants.names(self.variants)

    def base(self) -> base_model.Config:
        """The AE-OT."""
        networks = sets.NETWORKS.get(self.dataset, {})
        asked = self.given("epochs", "latent_dim", "hidden", "network")
        return base_model.Config(**{**networks, **self._set()["base"], **asked})

    def gan(self, variant: str) -> gan_model.Config:
        """The last stage of a variant.

        Raises:
          ValueError: for an unknown variant, or a value out of range.
        """
        fields = dict(self._set()["gan"])
        asked = {"epochs": self.gan_epochs, "warmup": self.warmup}
        fields |= {name: value for name, value in asked.items() if value is not None}
        if "=" in variant:
            own = dict([variants.change(variant, gan_model.Config)])
        elif variant in VARIANTS:
            own = VARIANTS[variant]
        else:
            known = ", ".join((*VARIANTS, LONGER, *BASELINES))
            raise ValueError(f"variant {variant!r} is unknown: choose among {known}, or FIELD=VALUE.")
        if own.get("feature") == "perceptual":
            raise ValueError(f"variant {variant!r}: perceptual features are given to `ae_ot_gan.refine`, not here.")
        try:
            return gan_model.Config(**{**fields, **own})
        except (TypeError, ValueError) as error:  # such as a word for a number
            raise ValueError(f"variant {variant!r}: the field cannot have such a value ({error}).") from error

    def identity(self) -> dict[str, Any]:
        """What makes the numbers of a seed and a variant: all but these, and where and how it runs."""
        own = self.numbers("variants", "seeds", "features", "feature_images")
        own |= {"base": dataclasses.asdict(self.base()), "gan": dataclasses.asdict(self.gan("default"))}
        return json.loads(json.dumps(own))

    def _set(self) -> dict[str, dict[str, Any]]:
        return _TOY if self.is_toy() else _SETS[self.dataset]


def main(config: Config) -> dict[str, Any]:
    """Train and score what is not yet there, and return what results.json holds."""
    check(config)
    folder = command.open_folder(config)
    progress, data_sets = command.progress_of(config, folder), functools.cache(lambda: load(config))
    trial_of = functools.lru_cache(1)(lambda seed: Trial(config, folder, seed, progress, *data_sets()))
    groups = [REFERENCE, *config.names()]
    run_missing(
        [(seed, group) for seed in config.seed_list() for group in groups],
        lambda it: _scores(config, folder, *it),
        lambda it: trial_of(it[0]).run(it[1]),
    )
    if not hosts.is_first():
        return {}
    all_of_them = place_of_scores(config, Path("checkpoints/seed-*/*")) / "scores.json"
    runs = [read(path.parent) for path in folder.glob(str(all_of_them))]
    order = {group: i for i, group in enumerate(groups)}
    runs.sort(key=lambda run: (run["seed"], order.get(run["group"], len(order)), run["group"]))
    places = [_scores(config, folder, config.seed_list()[0], group) for group in groups]
    compare_classes(runs)
    drawn = ae_ot_gan_figures.draw(config, folder, places)
    results = {"dataset": config.dataset, "judge": runs[0]["judge"], "figures": drawn}
    results |= {"rows": table.gather(runs), "runs": runs}
    write(folder / "results.json", results)
    lines = [f"{run['group']}, seed {run['seed']}, failed: {run['failed']}" for run in runs if "failed" in run]
    lines += [f"{name}: {row['frechet']['seeds']} seeds." for name, row in results["rows"].items()]
    shown = [table.markdown(results["rows"], COLUMNS), f"\n{table.of_judge(results)}.\n", *lines]
    (folder / "table.md").write_text("\n".join(shown) + "\n")
    return results


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


def _scores(config: Config, folder: Path, seed: int, group: str) -> Path:
    """Where the scores of a group are."""
    return place_of_scores(config, place_of(folder, seed, group))


def check(config: Config) -> None:
    """Raise ValueError for options that cannot be meant, before anything is written."""
    least = {"limit": 100, "num_points": 100, "num_eval": 16, "feature_images": 16, "draws": 1}
    command.require(config, (*_SETS, *toy.DISTRIBUTIONS), **least)
    if not config.names():
        raise ValueError("no variant: give at least one, such as default.")
    config.seed_list()
    config.base()
    for name in config.names():
        if name not in (LONGER, *BASELINES):
            config.gan(name)
    if config.is_toy() and (config.base().network != "mlp" or config.features != "auto" or config.limit is not None):
        raise ValueError("toys are points: network='conv', features and limit are for images.")
    if config.features != "auto":  # raises for unknown features and missing weights
        evaluate.extractor_of(config.dataset, config.data_dir, config.features)


def load(config: Config) -> tuple[data.Dataset, data.Dataset]:
    """Training and held-out data; points as images of one row and column, scaled into [0, 1] like pixels."""
    if not config.is_toy():
        return sets.images(config)
    train, test = sets.points(config.dataset, config.num_points)
    low, high = _bounds(train.images)
    scaled = (data.Dataset((part.images - low) / (high - low), part.labels) for part in (train, test))
    return tuple(data.Dataset(np.clip(part.images, 0, 1), part.labels) for part in scaled)


def _bounds(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A box a tenth wider than the points on either side."""
    low, high = points.min((0, 1, 2)), points.max((0, 1, 2))
    return low - 0.1 * (high - low), high + 0.1 * (high - low)


class Trial(OfSeed):
    """Everything of one seed: AE-OT, the GANs that start from it, baselines, the judge."""

    def run(self, group: str) -> None:
        """Train and score a group of rows of the table; one that diverges is noted."""
        judge = self._judge  # after the autoencoder: without one there is nothing to compare
        entry = {"group": group, "seed": self._seed, "judge": judge.facts(self._draws_of_a_row)}
        place = _scores(self._config, self._folder, self._seed, group)
        try:
            draws, notes, shown = self._draws(group)
        except NonFinite as error:
            note_failure(place, f"{group}, seed {self._seed}", entry, error)
            return
        key = self._keys[3]
        rows = {row: self._scored(key, row, draw) | notes.get(row, {}) for row, draw in draws.items()}
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
        """What draws 64 images from a state in training, always of the same noise."""
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
        """An AE-OT, and the seconds of both its stages."""
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
        """What draws images and what is known, by row of the table; and what the figures need beside samples."""
        train, test = self._train.images, self._test.images
        base, seconds = self._start
        form = self._config.gan("default").form
        if group == REFERENCE:
            draws = {
                _REAL: sets.drawn_from(train),
                "reconstructed test data": lambda key, num: _reconstructed(base, test[:num]),
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
        """Mean squared pixel error of the reconstructions of training images."""
        images = self._train.images[:_PAIRS]
        return float(np.mean((np.asarray(_reconstructed(model, images)) - np.asarray(to_unit(images))) ** 2))

    def _speed(self, draw: Draw) -> dict[str, float]:
        """Images per second of draws, the best of three."""
        keys = iter([self._keys[3], *(jax.random.fold_in(self._keys[3], i) for i in range(3))])
        spent, _ = repeated(lambda: draw(next(keys), _TIMED), 3)
        return {"images_per_second": round(_TIMED / min(spent), 1)}

    @functools.cached_property
    def _judge(self) -> evaluate.Judge | evaluate.PointJudge:
        config, base = self._config, self._start[0]
        if config.is_toy():
            points, modes = (part.images for part in self._points), toy.centres_of(config.dataset)
            return evaluate.PointJudge(*points, num=config.num_eval, modes=modes)
        rest = {"num": self._num, "data_dir": config.data_dir, "features": config.features}
        return evaluate.Judge(config.dataset, self._train, self._test, codes_of(base), **rest)


def _params_of(train: Callable[..., Any]) -> Callable[..., tuple[None, Any]]:
    """What trains an autoencoder, without the module in its result: a stage waits for arrays only."""
    return lambda **watch: (None, train(**watch)[1])


def _fitted(name: str, key: Key, images: Any, config: Any, **watch: Any) -> Draw:
    return jax.tree_util.Partial(baselines.fit_images(name, key, images, config, **watch))


def _reconstructed(model: base_model.Model, images: Any) -> Array:
    codes = base_model.encode(model.module, model.variables, images)
    return base_model.decode(model.module, model.variables, codes)


def cli() -> None:
    """Run with the options of the command line."""
    command.cli(Config, main, __doc__, command.show_table)


if __name__ == "__main__":
    cli()
