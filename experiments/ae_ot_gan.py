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
from pathlib import Path
from typing import Any

from experiments.lab import ae_ot_gan_figures, command, own_images, sets, table, variants
from experiments.lab.ae_ot_gan_trial import (
    BASELINES,
    COLUMNS,
    LONGER,
    REFERENCE,
    Trial,
    compare_classes,
    load,
    rows_of,
)
from experiments.lab.judge import place_of_scores, require_features
from experiments.lab.trials import read_all, run_missing
from otgen.data import toy
from otgen.models import ae_ot as base_model
from otgen.models import ae_ot_gan as gan_model
from otgen.train import hosts

_MNIST = {"base": {"epochs": 72}, "gan": {"epochs": 6, "learning_rate": 6e-4}}
_SETS: dict[str, dict[str, dict[str, Any]]] = {  # autoencoder and GAN by data set, beside the networks
    "digits": {"base": {"epochs": 150}, "gan": {"epochs": 60}},
    "mnist": _MNIST,
    "fashion_mnist": {**_MNIST, "gan": {**_MNIST["gan"], "content_weight": 3.0}},
    "stacked_mnist": {**_MNIST, "base": {"epochs": 36}},
    "cifar10": {"base": {"epochs": 12}, "gan": {"epochs": 24}},
    "celeb_a": {"base": {"epochs": 4}, "gan": {"epochs": 8}},
}
_OWN = {"base": {"epochs": 24}, "gan": {"epochs": 24}}  # images of one's own, where nothing suits them better
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(own_images.OwnImages, command.Rows, command.Featured, command.Options):
    """Options of the experiment. None means: what suits the data set."""

    dataset: str = "digits"
    """digits, mnist, fashion_mnist, stacked_mnist, cifar10, celeb_a, a path of images of your own, or a toy such as
    twenty_five_gaussians."""
    variants: str = "default"
    """Names with commas, among default, no_pairs, no_feature, gaussian, no_filter, non_saturating, wasserstein, longer,
    vae, wgan_gp, or FIELD=VALUE."""
    epochs: float | None = None
    """Of the autoencoder."""
    gan_epochs: float | None = None
    """Of the GAN."""
    warmup: int | None = None
    """Steps of the critic alone."""
    latent_dim: int | None = None
    """Dimension of the codes."""
    hidden: tuple[int, ...] | None = None
    """Layers of dense networks, such as 1024 512."""
    network: str | None = None
    """mlp, conv or residual."""
    width: int | None = None
    """Channels after the first convolution, a multiple of 8."""

    NAME = "ae_ot_gan"

    @classmethod
    def smoke(cls, **changes: Any) -> Config:
        """Return a run of seconds, for tests."""
        small = {"epochs": 3.0, "gan_epochs": 1.0, "warmup": 2, "num_eval": 200, "draws": 2, "progress": False}
        small |= {"num_points": 300} if changes.get("dataset", cls.dataset) in toy.DISTRIBUTIONS else {"limit": 400}
        return cls(**{**small, **changes})

    def is_toy(self) -> bool:
        """Return whether the data are points of the plane."""
        return self.dataset in toy.DISTRIBUTIONS

    def names(self) -> list[str]:
        """Return the variants asked for."""
        return variants.names(self.variants)

    def base(self) -> base_model.Config:
        """Return the AE-OT."""
        networks = sets.NETWORKS.get(self.dataset, {})
        asked = self.given("epochs", "latent_dim", "hidden", "network", "width")
        return base_model.Config(**{**networks, **self._set()["base"], **asked})

    def gan(self, variant: str) -> gan_model.Config:
        """Return the last stage of a variant.

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
        return variants.built(variant, gan_model.Config, {**fields, **own})

    def identity(self) -> dict[str, Any]:
        """Return what makes the numbers of a seed and a variant: all but these, and where and how it runs."""
        own = self.numbers("variants", "seeds", "features", "feature_images", "rows", "table")
        own |= {"base": dataclasses.asdict(self.base()), "gan": dataclasses.asdict(self.gan("default"))}
        return json.loads(json.dumps(own))

    def _set(self) -> dict[str, dict[str, Any]]:
        return _TOY if self.is_toy() else _SETS.get(self.dataset, _OWN)


def main(config: Config) -> dict[str, Any]:
    """Train and score what is not yet there, and return what results.json holds."""
    config = check(config)
    folder = command.open_folder(config)
    progress, data_sets = command.progress_of(config, folder), functools.cache(lambda: load(config))
    trial_of = functools.lru_cache(1)(lambda seed: Trial(config, folder, seed, progress, *data_sets()))
    groups = [REFERENCE, *config.names()]
    run_missing(
        [(seed, group) for seed in config.seed_list() for group in groups],
        lambda it: scores_at(config, folder, *it),
        lambda it: trial_of(it[0]).run(it[1]),
    )
    if not hosts.is_first():
        return {}
    runs = read_all(folder, groups, place_of_scores(config, Path("checkpoints/seed-*/*")))
    places = [scores_at(config, folder, config.seed_list()[0], group) for group in groups]
    if config.table:
        compare_classes(runs)
    drawn = ae_ot_gan_figures.draw(config, folder, places)
    results = {"dataset": config.dataset, "judge": runs[0]["judge"], "figures": drawn}
    results |= {"rows": table.gather(runs), "runs": runs}
    lines = [f"{run['group']}, seed {run['seed']}, failed: {run['failed']}" for run in runs if "failed" in run]
    lines += [f"{name}: {row['frechet']['seeds']} seeds." for name, row in results["rows"].items() if "frechet" in row]
    shown = [table.markdown(results["rows"], COLUMNS), f"\n{table.of_judge(results)}.\n", *lines]
    return command.close_folder(folder, results, "\n".join(shown))


def check(config: Config) -> Config:
    """Return the options with what suits images of one's own; raise ValueError for those that cannot be meant."""
    least = {"limit": 100, "num_points": 100, "num_eval": 16, "feature_images": 16, "draws": 1}
    command.require(config, (*_SETS, *toy.DISTRIBUTIONS), **least)
    if not config.names():
        raise ValueError("no variant: give at least one, such as default.")
    config.seed_list()
    config = own_images.suited(config)
    config.base()
    for name in config.names():
        if name not in (LONGER, *BASELINES):
            config.gan(name)
    if config.is_toy() and (config.base().network != "mlp" or config.features != "auto" or config.limit is not None):
        raise ValueError("toys are points: network='conv', features and limit are for images.")
    command.require_rows(config, rows_of(config))
    require_features(config)
    return config


def cli() -> None:
    """Run with the options of the command line."""
    command.cli(Config, main, __doc__, command.show_table)


if __name__ == "__main__":
    cli()
