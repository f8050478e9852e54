"""Compare generative models on one data set: same networks, same budget, several seeds, one judge.

    python -m experiments.compare --dataset mnist --data-dir DATA \
        --models ae_ot,vae,wgan_gp,ae_gaussian,ae_gmm,ae_flow --seeds 0-2       # 75 minutes on two busy cores
    python -m experiments.compare --dataset twenty_five_gaussians --models ae_ot,vae,wgan_gp --seeds 0-2 --budget 200
    python -m experiments.compare --dataset stacked_mnist --data-dir DATA --models ae_ot,vae,wgan_gp --budget 12

Every model may spend the floating-point operations of `budget` epochs of the autoencoder (`otgen.models.baselines`).
Memorisation (lmem) is measured in the codes of one frozen autoencoder of its own seed for all models. Below
runs/compare/DATASET: config.json, results.json, table.md, samples.png, scores.png, and below checkpoints a folder for
each seed and model. `--resume` continues a run that was stopped, also with more seeds or models.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.lab import command, compare_table, own_images, sets, standard_codes, variants
from experiments.lab.judge import judged, require_features
from experiments.lab.trials import is_done, note_failure, place_of, read, run_missing, save, scores_at
from otgen import data
from otgen import eval as evaluate
from otgen.data import toy
from otgen.models import ae_ot, baselines
from otgen.models.baselines.compared import Draw
from otgen.nn import to_unit
from otgen.train import JsonLines, Progress, together
from otgen.train.loop import NonFinite
from otgen.train.settings import GeneratorSettings

_JUDGE_SEED = 1000  # of the autoencoder in whose codes memorisation is measured
_BUDGETS = {"digits": 225, "mnist": 36, "fashion_mnist": 36, "stacked_mnist": 24, "cifar10": 18, "celeb_a": 6}
_TOY = {"latent_dim": 2, "hidden": (128, 128), "output": "real", "budget": 600}
REFERENCE = "real"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(own_images.OwnImages, command.Scored, command.Table, command.Resumable):
    """Options of the comparison. None means: what suits the data set."""

    dataset: str = "digits"
    """digits, mnist, fashion_mnist, stacked_mnist, cifar10, celeb_a, a path of images of your own, or a toy such as
    twenty_five_gaussians."""
    models: str = "ae_ot,vae,wgan_gp,ae_gaussian,ae_gmm,ae_flow"
    """Names with commas, among ae_ot, ae_gaussian, ae_gmm, ae_flow, ae_flow_ot, ae_sinkhorn, vae, wae_mmd, wgan_gp,
    sinkhorn_generator."""
    budget: float | None = None
    """Epochs of the autoencoder whose floating-point operations every model may spend."""
    latent_dim: int | None = None
    """Dimension of the codes."""
    network: str | None = None
    """mlp, conv or residual."""
    width: int | None = None
    """Channels after the first convolution, a multiple of 8."""
    features: str = "auto"
    """Space of the distances: auto (LeNet or pixels), pixels, lenet, inception, codec."""
    draws: int = 3
    """Draws that every score averages over."""

    NAME = "compare"

    @classmethod
    def smoke(cls, **changes: Any) -> Config:
        """Return a run of seconds, for tests."""
        small = {"budget": 3, "limit": 400, "num_points": 300, "num_eval": 200, "draws": 2, "progress": False}
        return cls(**{**small, **changes})

    def is_toy(self) -> bool:
        """Return whether the data are points of the plane."""
        return self.dataset in toy.DISTRIBUTIONS

    def names(self) -> list[str]:
        """Return the models asked for."""
        return variants.names(self.models)

    def seed_list(self) -> list[int]:
        """Return the seeds asked for."""
        seeds = super().seed_list()
        if _JUDGE_SEED in seeds:
            raise ValueError(f"seed {_JUDGE_SEED} is that of the judge's autoencoder: choose others.")
        return seeds

    def setting(self) -> tuple[GeneratorSettings, float]:
        """Return networks and training of the autoencoder, and the budget in its epochs."""
        own = {**sets.NETWORKS.get(self.dataset, {}), "budget": _BUDGETS.get(self.dataset, 36)}
        chosen = _TOY if self.is_toy() else own
        chosen = {**chosen, **self.given("latent_dim", "network", "width", "budget")}
        budget = chosen.pop("budget")
        if not budget > 0:
            raise ValueError(f"budget = {budget} is not positive: give epochs of the autoencoder.")
        return GeneratorSettings(**chosen, epochs=2 / 3 * budget), budget

    def identity(self) -> dict[str, Any]:
        """Return what makes the numbers: all but which models and seeds there are."""
        return self.numbers("models", "seeds", "table")


class Bench(NamedTuple):
    """What all models are trained on and judged by; nothing judges where no table is asked for."""

    config: Config
    train: data.Dataset
    test: data.Dataset
    judge: Any
    budget: float


def main(config: Config) -> dict[str, Any]:
    """Train and judge what is not yet there, and return what results.json holds."""
    config = check(config)
    folder = command.open_folder(config)
    bench = functools.cache(lambda: prepare(config))
    wanted = [(name, seed) for seed in config.seed_list() for name in (REFERENCE, *config.names())]
    folders = {(name, seed): scores_at(config, folder, seed, name) for name, seed in wanted}
    runs = run_missing(wanted, folders.get, lambda trial: run(bench(), *trial))
    results = compare_table.gather(config, runs)
    compare_table.figures(folder, results, [folders[name, config.seed_list()[0]] for name in config.names()])
    return command.close_folder(folder, results, compare_table.markdown(results))


def check(config: Config) -> Config:
    """Return the options with what suits images of one's own; raise ValueError for those that cannot be meant."""
    command.require(config, (*_BUDGETS, *toy.DISTRIBUTIONS), limit=100, num_points=100, num_eval=8, draws=1)
    unknown = [name for name in config.names() if name not in baselines.NAMES]
    if unknown or not config.names():
        raise ValueError(f"models = {config.models!r}: choose among {', '.join(baselines.NAMES)}.")
    config.seed_list()
    config = own_images.suited(config)
    settings, _ = config.setting()
    if config.is_toy() and (settings.network != "mlp" or config.features != "auto"):
        raise ValueError("toys are points: they have neither network='conv' nor features to choose.")
    require_features(config)
    return config


def prepare(config: Config) -> Bench:
    """Load the data, see that networks and features are for them, count the budget, and set up the judge."""
    settings, epochs = config.setting()
    train, test = sets.points(config.dataset, config.num_points) if config.is_toy() else sets.images(config)
    if not config.is_toy():
        evaluate.extractor_of(config.dataset, config.data_dir, config.features)(to_unit(train.images[:2]))
    budget = baselines.budget_of(settings, jnp.asarray(train.images[:1]), len(train.images), epochs)
    if not config.table:
        return Bench(config, train, test, None, budget)
    if config.is_toy():
        modes = toy.centres_of(config.dataset)
        points = evaluate.PointJudge(train.images, test.images, num=config.num_eval, modes=modes)
        return Bench(config, train, test, points, budget)
    encode, _ = autoencoder(config, _JUDGE_SEED, train)
    rest = {"num": config.num_eval, "data_dir": config.data_dir}
    rest["features"] = own_images.features(config, train.images.shape[1:])
    return Bench(config, train, test, evaluate.Judge(config.dataset, train, test, encode, **rest), budget)


def autoencoder(config: Config, seed: int, train: data.Dataset) -> tuple[Any, Any]:
    """Return the encoder and the decoder of a seed, in standardised codes; the identity for toys."""
    if config.is_toy():
        _, mean, scale = toy.standardise(jnp.asarray(train.images)[:, 0, 0])
        return lambda x: (x[:, 0, 0] - mean) / scale, lambda codes: (codes * scale + mean)[:, None, None]
    settings, _ = config.setting()
    fields = dataclasses.asdict(settings)
    del fields["output"]
    model_config = ae_ot.Config(**fields)
    place = _place(config, "autoencoder", seed)
    return standard_codes.autoencoder(train.images, model_config, seed, place, config.identity(), config.progress)


def run(bench: Bench, name: str, seed: int) -> None:
    """Train one model with one seed, judge its draws, and write scores.json; a model that diverges is noted."""
    place, scored = _place(bench.config, name, seed), scores_at(bench.config, bench.config.folder(), seed, name)
    whole = not (place / "checkpoints").exists()
    place.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    try:
        draws, notes = fit(bench, name, seed, place)
    except NonFinite as error:
        note_failure(scored, f"{name}, seed {seed}", {"model": name, "seed": seed}, error)
        return
    seconds = round(time.perf_counter() - start, 1) if whole else None  # of a training that was stopped nobody knows
    if not whole and is_done(place / "unscored"):
        seconds = read(place / "unscored")["seconds"]
    key = jax.random.fold_in(jax.random.key(seed), 3000)
    rows, facts = {}, None
    if bench.config.table:
        how = bench.config.draws, f"{name}, seed {seed}", bench.config.progress
        rows = {row: judged(bench.judge, key, draw, *how) for row, draw in draws.items()}
        facts = {**bench.judge.facts(bench.config.draws), "budget_flops": bench.budget}
    shown = {row: draw(key, 400 if bench.config.is_toy() else 100) for row, draw in draws.items()}
    scores = {"model": name, "seed": seed, "seconds": seconds, "notes": notes, "judge": facts, "rows": rows}
    save(scored, scores, shown)


def fit(bench: Bench, name: str, seed: int, place: Path) -> tuple[dict[str, Draw], dict[str, Any]]:
    """Return what draws images, by row of the table, and facts about the training."""
    config, images = bench.config, bench.train.images
    if name == REFERENCE:
        encode, decode = autoencoder(config, seed, bench.train)
        rows = {"real training data": sets.drawn_from(images)}
        if not config.is_toy():
            test = bench.test.images
            rows["reconstructed test data"] = lambda key, num: decode(encode(to_unit(test[:num])))
        return rows, {}
    settings, _ = config.setting()
    with Progress(None, f"{name}, seed {seed}", config.progress) as bar:
        told = together(bar, JsonLines(place / "metrics.jsonl", name))
        options = {"callback": told, "checkpoints": place / "checkpoints"}
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


def _place(config: Config, name: str, seed: int) -> Path:
    return place_of(config.folder(), seed, name)


def show(config: Config, results: dict[str, Any]) -> str:
    """Return the table, and where the figures are."""
    drawn = (config.folder() / name for name in ("samples.png", "scores.png"))
    figures = ", ".join(str(path) for path in drawn if path.exists())
    return f"{compare_table.markdown(results)}\nfigures: {figures}"


def cli() -> None:
    """Run with the options of the command line."""
    command.cli(Config, main, __doc__, show)


if __name__ == "__main__":
    cli()
