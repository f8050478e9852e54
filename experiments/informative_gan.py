r"""The informative OT-GAN on Gaussians, digits, MNIST, Fashion-MNIST and dSprites, with its ablations and baselines.

    python -m experiments.informative_gan                                            # 8 Gaussians, a weak code
    python -m experiments.informative_gan --seeds 0-4 --variants default,lam=0
    python -m experiments.informative_gan --dataset easy_ring --seeds 0-4 --variants default,lam=0
    python -m experiments.informative_gan --dataset digits --seeds 0-4               # needs no data folder
    python -m experiments.informative_gan --dataset mnist --data-dir DATA --seeds 0-2 \
        --variants default,no_augment,no_ground,infogan,wgan_gp

A variant is `default`, one of the names below, or a field of `og.models.informative_gan.Config` with
another value, such as lam=0.05. Everything is written below runs/informative_gan/DATASET: config.json, metrics.jsonl,
results.json, table.md, figures, checkpoints. `--resume` continues a run that was stopped, also with other seeds or
variants: the table holds all that the folder has, the figures what was asked for last. Numbers:
docs/methods/informative-gan.md.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax

from experiments.lab import command, informative_gan_figures, sets, table, variants
from experiments.lab.informative_gan_scores import COLUMNS, REFERENCE, pictures, reference, scores_of
from experiments.lab.informative_gan_sets import Sets, is_ring, load
from experiments.lab.informative_gan_training import BASELINES, training
from experiments.lab.judge import place_of_scores, require_features
from experiments.lab.trials import note_failure, place_of, read_all, run_missing, save, scores_at, stage
from otgen import store
from otgen.models.informative import informative_gan
from otgen.nn.augment import Augment
from otgen.train import hosts
from otgen.train.loop import NonFinite

_RING = {
    "output": "real",
    "categorical": (8,),
    "latent_dim": 8,
    "strength": 0.3,
    "hidden": (128, 128),
    "batch_size": 160,
    "steps": 2000,
}
_IMAGES = {"uniform": 2, "batch_size": 400, "steps": 4000}
_SETS: dict[str, dict[str, Any]] = {  # networks, code and training by data set
    "ring": _RING,
    "easy_ring": {**_RING, "latent_dim": 2, "strength": 3.0, "objective": "structured", "lam": 0.9 * 0.015},
    "digits": {
        "hidden": sets.NETWORKS["digits"]["hidden"],
        "augment": Augment(0.2, 0.2, 0.5, 0.1, 0.05),
        "steps": 3000,
    },
    "mnist": _IMAGES,
    "fashion_mnist": {**_IMAGES, "augment": Augment(0.15, 0.1, 2.0, 0.1, 0.05)},
    "dsprites": {
        "categorical": (3,),
        "uniform": 5,
        "latent_dim": 5,
        "network": "conv",
        "batch_size": 240,
        "augment": None,
        "steps": 20_000,
    },
}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "plain": {"lam": 0.0, "lam_continuous": 0.0},
    "structured": {"objective": "structured", "lam": 0.9 * 0.015, "noises": 10},
    "no_augment": {"augment": None},
    "no_ground": {"ground": "none", "debias": False},
    "no_debias": {"debias": False},
    "adversarial": {"ground": "adversarial"},
    "autoencoder": {"ground": "features"},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(command.Scored, command.Table, command.Options):
    """Options of the experiment. None means: what suits the data set."""

    dataset: str = "ring"
    """ring, easy_ring, digits, mnist, fashion_mnist or dsprites."""
    variants: str = "default"
    """Names with commas, among default, plain, structured, no_augment, no_ground, no_debias, adversarial,
    autoencoder (its codes are in the ground cost), infogan, wgan_gp, or FIELD=VALUE."""
    steps: int | None = None
    """Steps of the generator; baselines take as many as cost the same floating-point operations."""
    batch_size: int | None = None
    """Images a step, and as many latents."""
    network: str | None = None
    """mlp or conv."""
    features: str = "auto"
    """Images: space of the distances: auto (LeNet, components or pixels), pixels, lenet, inception, codec."""

    NAME = "informative_gan"

    @classmethod
    def smoke(cls, **changes: Any) -> Config:
        """Return a run of seconds, for tests."""
        small = {"steps": 4, "batch_size": 40, "num_points": 400, "num_eval": 120, "draws": 2, "progress": False}
        dataset = changes.get("dataset", cls.dataset)
        if not is_ring(dataset):
            small |= {"limit": 400, "batch_size": 120 if dataset == "dsprites" else 200}  # what codes x noises divide
        return cls(**{**small, **changes})

    def names(self) -> list[str]:
        """Return the variants asked for."""
        return variants.names(self.variants)

    def settings(self, variant: str) -> tuple[informative_gan.Config, int]:
        """Return the model of a variant, its epochs aside, and its steps.

        Raises:
          ValueError: for an unknown variant, or a value out of range.
        """
        fields = {**_SETS[self.dataset], **self.given("steps", "batch_size", "network")}
        steps = fields.pop("steps")
        if "=" in variant:
            change = _change(variant)
        elif variant in VARIANTS or variant in BASELINES:
            change = dict(VARIANTS.get(variant, {}))
            if not fields.get("uniform"):
                change.pop("noises", None)  # categorical codes share all noises of a batch anyway
        else:
            raise ValueError(
                f"variant {variant!r} is unknown: choose among {', '.join((*VARIANTS, *BASELINES))}, or FIELD=VALUE."
            )
        if change.get("ground") == "features" and (variant != "autoencoder" or is_ring(self.dataset)):
            raise ValueError(f"variant {variant!r}: images can have features, by the variant autoencoder.")
        return variants.built(variant, informative_gan.Config, {**fields, **change}), steps

    def identity(self) -> dict[str, Any]:
        """Return what makes the numbers of a seed and a variant: all but these, and where and how it runs."""
        own = self.numbers("seeds", "variants", "table", *(["features"] if self.features == "auto" else []))
        settings = dataclasses.asdict(self.settings("default")[0])
        return json.loads(json.dumps({**own, "settings": settings}))


def _change(variant: str) -> dict[str, Any]:
    """Return the field that a variant FIELD=VALUE changes, and its value."""
    name, value = variants.change(variant, informative_gan.Config, skip=("epochs",))
    kinds = {"debias": bool, "augment": dict | None}  # the model looks at its numbers and names itself
    if not isinstance(value, kinds.get(name, object)):
        raise ValueError(f"{variant!r}: give True or False for debias, and for augment None or {{'shift': 1.0}}.")
    return {name: value}


def main(config: Config) -> dict[str, Any]:
    """Train and score what is not yet there, and return what results.json holds."""
    check(config)
    folder = command.open_folder(config)
    progress, data_sets = command.progress_of(config, folder), functools.cache(lambda: load(config))
    groups = [REFERENCE, *config.names()]
    run_missing(
        [(seed, group) for seed in config.seed_list() for group in groups],
        lambda it: scores_at(config, folder, *it),
        lambda it: run(config, folder, *it, data_sets(), progress),
    )
    if not hosts.is_first():
        return {}
    runs = read_all(folder, groups, place_of_scores(config, Path("checkpoints/seed-*/*")))
    drawn = informative_gan_figures.draw(config, folder, is_ring(config.dataset))
    results = {"dataset": config.dataset, "features": runs[0]["features"], "figures": drawn}
    results |= {"rows": table.gather(runs), "runs": runs}
    return command.close_folder(folder, results, table.markdown(results["rows"], COLUMNS))


def check(config: Config) -> None:
    """Raise ValueError for options that cannot be meant, before anything is written."""
    command.require(config, _SETS, limit=100, num_points=100, num_eval=30, draws=1, steps=1)
    if not config.names():
        raise ValueError("no variant: give at least one, such as default.")
    if is_ring(config.dataset) and config.limit is not None:
        raise ValueError("limit is for images: give num_points for rings.")
    if is_ring(config.dataset) and config.features != "auto":
        raise ValueError("rings are points: features are of images.")
    require_features(config)
    images = config.num_points if is_ring(config.dataset) else config.limit
    for name in config.names():
        settings, _ = config.settings(name)
        if images is not None:
            settings.fitting(images)
    config.seed_list()


def run(config: Config, folder: Path, seed: int, group: str, of: Sets, progress: Any) -> None:
    """Train one variant with one seed, and write its scores and what its figures need; one that diverges is noted."""
    place, scored = place_of(folder, seed, group), scores_at(config, folder, seed, group)
    options = {"num": min(config.num_eval, len(of.test.images)), "draws": config.draws}
    entry = {"group": group, "seed": seed, "features": of.extract.name if config.table else None}
    if group == REFERENCE:
        rows, shown = reference(seed, of, **options) if config.table else ({}, {})
        save(scored, {**entry, "rows": rows}, shown)
        return
    fit, total = training(config, group, seed, of.train.images)
    try:
        model, seconds = stage(config, place, f"{group}, seed {seed}", total, progress, fit)
    except NonFinite as error:
        note_failure(scored, f"{group}, seed {seed}", entry, error)
        return
    if group not in BASELINES:
        plain = model.module.clone(known=None)  # the features of a ground cost are a function of another model
        store.save(place / "model", model._replace(module=plain), overwrite=True)
    key = jax.random.fold_in(jax.random.key(seed), 3000)
    scores, order = scores_of(key, model, of, **options) if config.table else ({}, None)
    shown = pictures(key, model, of, order)
    save(scored, {**entry, "rows": {group: {**scores, "seconds": seconds}}}, shown)


def cli() -> None:
    """Run with the options of the command line."""
    command.cli(Config, main, __doc__, command.show_table)


if __name__ == "__main__":
    cli()
