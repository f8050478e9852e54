"""Compare generative models on one data set: same networks, same budget, several seeds, one judge.

    python -m experiments.compare --dataset mnist --data-dir DATA \
        --models ae_ot,vae,wgan_gp,ae_gaussian,ae_gmm,ae_flow --seeds 0-2       # 75 minutes on two busy cores
    python -m experiments.compare --dataset twenty_five_gaussians --models ae_ot,vae,wgan_gp --seeds 0-2 --budget 200
    python -m experiments.compare --dataset stacked_mnist --data-dir DATA --models ae_ot,vae,wgan_gp --budget 12

Every model may spend the floating-point operations of `budget` epochs of the autoencoder (`otgen.models.baselines`).
Memorisation (lmem) is measured in the codes of one frozen autoencoder of its own seed for all models. Below
runs/compare/DATASET: a folder for each model and seed, table.md, results.json, samples.png, scores.png. A run that was
stopped goes on where it was, and finished models are not trained again.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab import command, compare_table
from experiments.lab.judge import Judge, PointJudge, features_of
from otgen import data
from otgen.data import toy
from otgen.models import ae_ot, baselines
from otgen.models.baselines.compared import Draw
from otgen.nn import to_unit
from otgen.train import Checkpoints, JsonLines, Progress, together
from otgen.train.checkpoint import refuse_other_config
from otgen.train.loop import NonFinite
from otgen.train.settings import GeneratorSettings
from otgen.types import Key

_JUDGE_SEED = 1000  # of the autoencoder in whose codes memorisation is measured
_SETS: dict[str, dict[str, Any]] = {  # networks and budget by data set
    "digits": {"latent_dim": 8, "hidden": (256, 128), "batch_size": 128, "budget": 225},
    "mnist": {"budget": 36},
    "fashion_mnist": {"budget": 36},
    "stacked_mnist": {"latent_dim": 32, "budget": 24},
    "cifar10": {"latent_dim": 64, "network": "conv", "budget": 18},
    "celeb_a": {"latent_dim": 100, "network": "conv", "budget": 6},
}
_TOY = {"latent_dim": 2, "hidden": (128, 128), "output": "real", "budget": 600}
REFERENCE = "real"


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the comparison. None means: what suits the data set."""

    dataset: str = "digits"
    """digits, mnist, fashion_mnist, stacked_mnist, cifar10, celeb_a, or a toy such as twenty_five_gaussians."""
    models: str = "ae_ot,vae,wgan_gp,ae_gaussian,ae_gmm,ae_flow"
    """Names with commas, among ae_ot, ae_gaussian, ae_gmm, ae_flow, ae_flow_ot, vae, wae_mmd, wgan_gp."""
    seeds: str = "0"
    """Such as 0-2 or 0,3,7."""
    data_dir: str | None = None
    """Folder of data and feature weights; OTGEN_DATA if not given."""
    cache_dir: str | None = None
    out: str | None = None
    """Output folder; runs/compare/DATASET if not given."""
    budget: float | None = None
    """Epochs of the autoencoder whose floating-point operations every model may spend."""
    latent_dim: int | None = None
    network: str | None = None
    """mlp or conv."""
    features: str = "auto"
    """Space of the distances: auto (LeNet or pixels), pixels, lenet, inception."""
    limit: int | None = None
    """Use only so many training images."""
    num_points: int = 10_000
    """Toys: how many training points, and as many held out."""
    num_eval: int = 10_000
    """Images per draw; at most the number of test images."""
    draws: int = 3
    """Draws that every score averages over."""
    progress: bool = True

    @classmethod
    def smoke(cls, **changes: Any) -> Config:
        """A run of seconds, for tests."""
        small = {"budget": 3, "limit": 400, "num_points": 300, "num_eval": 200, "draws": 2, "progress": False}
        return cls(**{**small, **changes})

    def folder(self) -> Path:
        """The output folder."""
        return Path(self.out or Path("runs") / "compare" / self.dataset)

    def is_toy(self) -> bool:
        """Whether the data are points of the plane."""
        return self.dataset in toy.DISTRIBUTIONS

    def names(self) -> list[str]:
        """The models asked for."""
        return list(dict.fromkeys(name.strip() for name in self.models.split(",") if name.strip()))

    def seed_list(self) -> list[int]:
        """The seeds asked for."""
        seeds = command.numbers_of("seeds", self.seeds)
        if _JUDGE_SEED in seeds:
            raise ValueError(f"seed {_JUDGE_SEED} is that of the judge's autoencoder: choose others.")
        return seeds

    def setting(self) -> tuple[GeneratorSettings, float]:
        """Networks and training of the autoencoder, and the budget in its epochs."""
        chosen = dict(_TOY if self.is_toy() else _SETS[self.dataset])
        chosen |= {
            name: value for name in ("latent_dim", "network", "budget") if (value := getattr(self, name)) is not None
        }
        budget = chosen.pop("budget")
        if not budget > 0:
            raise ValueError(f"budget = {budget} is not positive: give epochs of the autoencoder.")
        return GeneratorSettings(**chosen, epochs=2 / 3 * budget), budget

    def identity(self) -> dict[str, Any]:
        """What makes the numbers: all but the models, the seeds, and where and how it runs."""
        skip = ("models", "seeds", "data_dir", "cache_dir", "out", "progress")
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in skip}


class Bench(NamedTuple):
    """What all models are trained on and judged by."""

    config: Config
    train: data.Dataset
    test: data.Dataset
    judge: Any
    budget: float


def main(config: Config) -> dict[str, Any]:
    """Train and judge what is not yet there, and return what results.json holds."""
    check(config)
    folder = config.folder()
    refuse_other_config(folder / "config.json", config.identity())
    wanted = [(name, seed) for seed in config.seed_list() for name in (REFERENCE, *config.names())]
    missing = [(name, seed) for name, seed in wanted if not (_place(config, name, seed) / "scores.json").exists()]
    if missing:
        bench = prepare(config)
        command.write(folder / "config.json", config.identity())
        for name, seed in missing:
            run(bench, name, seed)
    results = compare_table.gather(config, [_place(config, name, seed) for name, seed in wanted])
    command.write(folder / "results.json", results)
    (folder / "table.md").write_text(compare_table.markdown(results) + "\n")
    compare_table.figures(folder, results, [_place(config, name, config.seed_list()[0]) for name in config.names()])
    return results


def check(config: Config) -> None:
    """Raise ValueError for options that cannot be meant, before anything is written."""
    known = (*_SETS, *toy.DISTRIBUTIONS)
    if config.dataset not in known:
        raise ValueError(f"dataset = {config.dataset!r} is unknown: choose one of {', '.join(known)}.")
    unknown = [name for name in config.names() if name not in baselines.NAMES]
    if unknown or not config.names():
        raise ValueError(f"models = {config.models!r}: choose among {', '.join(baselines.NAMES)}.")
    for name, least in (("limit", 100), ("num_points", 100), ("num_eval", 8), ("draws", 1)):
        value = getattr(config, name)
        if value is not None and value < least:
            raise ValueError(f"{name} = {value} is too small: give {least} or more.")
    config.seed_list()
    settings, _ = config.setting()
    if config.is_toy() and (settings.network != "mlp" or config.features != "auto"):
        raise ValueError("toys are points: they have neither network='conv' nor features to choose.")
    if config.folder().exists() and not config.folder().is_dir():
        raise ValueError(f"out = {config.folder()} is a file: give a folder.")


def prepare(config: Config) -> Bench:
    """Load the data, see that networks and features are for them, count the budget, and set up the judge."""
    settings, epochs = config.setting()
    train, test = load(config)
    if not config.is_toy():
        features_of(config.dataset, config.data_dir, config.features)(to_unit(train.images[:2]))
    budget = baselines.budget_of(settings, jnp.asarray(train.images[:1]), len(train.images), epochs)
    config.folder().mkdir(parents=True, exist_ok=True)
    if config.is_toy():
        return Bench(config, train, test, PointJudge(config.dataset, train, test, num=config.num_eval), budget)
    encode, _ = autoencoder(config, _JUDGE_SEED, train)
    judge = Judge(
        config.dataset, train, test, encode, num=config.num_eval, data_dir=config.data_dir, features=config.features
    )
    return Bench(config, train, test, judge, budget)


def load(config: Config) -> tuple[data.Dataset, data.Dataset]:
    """Training and held-out images, or points as images of one row and column."""
    if config.is_toy():
        draw = toy.DISTRIBUTIONS[config.dataset]
        keys = jax.random.split(jax.random.key(2000))
        points = [np.asarray(draw(key, config.num_points)) for key in keys]
        return tuple(data.Dataset(x[:, None, None], np.zeros(len(x), np.int64)) for x in points)
    train, test = (
        data.load(config.dataset, split, config.data_dir, cache_dir=config.cache_dir) for split in ("train", "test")
    )
    return data.Dataset(train.images[: config.limit], train.labels[: config.limit]), test


def autoencoder(config: Config, seed: int, train: data.Dataset) -> tuple[Any, Any]:
    """The encoder and the decoder of a seed, in standardised codes; the identity for toys."""
    if config.is_toy():
        _, mean, scale = toy.standardise(jnp.asarray(train.images)[:, 0, 0])
        return lambda x: (x[:, 0, 0] - mean) / scale, lambda codes: (codes * scale + mean)[:, None, None]
    settings, _ = config.setting()
    model_config = ae_ot.Config(
        **{name: value for name, value in dataclasses.asdict(settings).items() if name != "output"}
    )
    place = _place(config, "autoencoder", seed)
    total = ae_ot.num_steps_of(model_config, len(train.images))
    saved = Checkpoints(place / "checkpoints", {**config.identity(), "seed": seed})
    with saved as checkpoints, Progress(total, f"autoencoder, seed {seed}", config.progress) as bar:
        module, params = ae_ot.train_autoencoder(
            jax.random.key(seed), train.images, model_config, callback=bar, checkpoints=checkpoints
        )
    variables = {"params": params}
    _, mean, scale = toy.standardise(ae_ot.encode(module, variables, train.images))
    scale = jnp.maximum(scale, 1e-6)
    return (
        lambda images: (ae_ot.encode(module, variables, images) - mean) / scale,
        lambda codes: ae_ot.decode(module, variables, codes * scale + mean),
    )


def run(bench: Bench, name: str, seed: int) -> None:
    """Train one model with one seed, judge its draws, and write scores.json; a model that diverges is noted."""
    place = _place(bench.config, name, seed)
    place.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    try:
        draws, notes = fit(bench, name, seed, place)
    except NonFinite as error:
        print(f"{name}, seed {seed}: {error}")
        command.write(place / "scores.json", {"model": name, "seed": seed, "failed": str(error), "rows": {}})
        return
    seconds = time.perf_counter() - start
    key = jax.random.fold_in(jax.random.key(seed), 3000)
    rows = {row: judged(bench, key, draw) for row, draw in draws.items()}
    shown = [np.asarray(draw(key, 400 if bench.config.is_toy() else 100)) for draw in draws.values()]
    np.savez_compressed(place / "samples.npz", **dict(zip(draws, shown, strict=True)))
    facts = {"features": bench.judge.name, "classifier": bench.judge.classifier, "accuracy": bench.judge.accuracy}
    facts |= {"images_per_draw": bench.judge.num, "draws": bench.config.draws, "budget_flops": bench.budget}
    command.write(
        place / "scores.json",
        {"model": name, "seed": seed, "seconds": round(seconds, 1), "notes": notes, "judge": facts, "rows": rows},
    )


def fit(bench: Bench, name: str, seed: int, place: Path) -> tuple[dict[str, Draw], dict[str, Any]]:
    """What draws images, by row of the table, and facts about the training."""
    config, images = bench.config, bench.train.images
    if name == REFERENCE:
        encode, decode = autoencoder(config, seed, bench.train)
        rows = {"real training data": lambda key, num: to_unit(images[_choose(key, len(images), num)])}
        if not config.is_toy():
            test = bench.test.images
            rows["reconstructed test data"] = lambda key, num: decode(encode(to_unit(test[:num])))
        return rows, {}
    settings, _ = config.setting()
    saved = Checkpoints(place / "checkpoints", {**config.identity(), "model": name, "seed": seed})
    with saved as checkpoints, Progress(None, f"{name}, seed {seed}", config.progress) as bar:
        options = {"callback": together(bar, JsonLines(place / "metrics.jsonl", name)), "checkpoints": checkpoints}
        if name in baselines.IMAGES:
            chosen = baselines.image_config(name, settings, jnp.asarray(images[:1]), len(images), bench.budget)
            draw = baselines.fit_images(name, jax.random.key(seed), images, chosen, **options)
            return {name: draw}, {"epochs": round(chosen.epochs, 2)}
        encode, decode = autoencoder(config, seed, bench.train)
        budget = bench.budget if config.is_toy() else bench.budget / 3  # the autoencoder took the rest
        laws, notes = baselines.fit_codes(name, seed, encode(to_unit(images)), budget, **options)
    return {row: _decoded(draw, decode) for row, draw in laws.items()}, notes


def _decoded(draw: Draw, decode: Any) -> Draw:
    return lambda key, num: decode(draw(key, num))


def _choose(key: Key, total: int, num: int) -> np.ndarray:
    return np.asarray(jax.random.choice(key, total, (num,), replace=num > total))


def judged(bench: Bench, key: Key, draw: Draw) -> dict[str, Any]:
    """Mean and standard deviation of every score over draws."""
    found = [bench.judge(draw(jax.random.fold_in(key, i), bench.judge.num)) for i in range(bench.config.draws)]
    scores = {name: [one[name] for one, _ in found] for name in found[0][0]}
    shares = np.mean([np.asarray(shares) for _, shares in found], axis=0)
    return {
        "mean": {name: float(np.mean(values)) for name, values in scores.items()},
        "sd": {name: float(np.std(values, ddof=1)) if len(values) > 1 else None for name, values in scores.items()},
        "class_shares": [round(float(share), 4) for share in shares] if len(shares) <= 100 else [],
    }


def _place(config: Config, name: str, seed: int) -> Path:
    return config.folder() / f"{name}-seed-{seed}"


def show(config: Config, results: dict[str, Any]) -> str:
    """The table, and where the figures are."""
    figures = ", ".join(str(config.folder() / name) for name in ("samples.png", "scores.png"))
    return f"{compare_table.markdown(results)}\nfigures: {figures}"


def cli() -> None:
    """Run with the options of the command line."""
    command.cli(Config, main, __doc__, show)


if __name__ == "__main__":
    cli()
