"""The forms of the extended map at equal novelty: each form at several thresholds of the angle, by one judge.

    python -m experiments.bench.extension_forms                                    # digits, a minute on two cores
    python -m experiments.bench.extension_forms --dataset mnist --data-dir DATA --dims 16,32 \
        --thresholds 0.95,0.98 --json benchmarks/extension_forms_mnist.json   # half an hour a map on two busy cores

A low Frechet distance at a low lmem is memorising. So the question is which form comes nearest to held-out images among
those whose codes are as new as `novelty` asks, with the classes of the data. One
autoencoder and one map for every dimension and seed serve all forms; thresholds are quantiles of
`otgen.extension.threshold`, which knows training data only. For numbers see docs/methods/ae-ot.md. Below
runs/extension_forms/DATASET: config.json, results.json, table.md, forms.png, and below checkpoints a folder for each
seed and dimension. `--resume` continues a run that was stopped, also with more dimensions, seeds or thresholds.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from experiments.lab import ae_ot_stages, ae_ot_table, command, machine, sets, table
from experiments.lab.figures import canvas, save
from experiments.lab.judge import judged
from experiments.lab.trials import place_of
from otgen import data, plot, store
from otgen.models import ae_ot as model_of
from otgen.ot.semidiscrete import extension

COLUMNS = {
    "angle": "angle",
    "frechet": "Frechet",
    "lmem": "lmem",
    "precision": "precision",
    "recall": "recall",
    "class_tv": "class TV",
    "mixtures": "mixtures",
}
_CLASS_TV = 0.03  # total variation of the classes up to which the class marginal counts as kept
REAL, MAP = "real training images", "T(x), angle 0"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(command.Seeds, command.Resumable):
    """Options of the experiment. None means: what suits the data set."""

    dataset: str = "digits"
    """digits, mnist, fashion_mnist, cifar10 or celeb_a."""
    dims: str | None = None
    """Dimensions of the codes, such as 16,32."""
    thresholds: str = "0.9,0.98,0.999,off"
    """Shares of the samples that a threshold leaves with a partner, and off: without the filter."""
    novelty: float = 0.7
    """The lmem that a form must reach."""
    epochs: int | None = None
    """Of the autoencoder."""
    limit: int | None = None
    """Use only so many training images."""
    num_eval: int = 10_000
    """Images per draw; at most the number of test images."""
    draws: int = 5
    """Draws that every row averages over."""
    json: str | None = None
    """Also write the results there, with the machine and the versions."""

    NAME = "extension_forms"

    @classmethod
    def smoke(cls, **changes: Any) -> Config:
        """Return a run of seconds, for tests."""
        small = {"dims": "3", "thresholds": "0.9,off", "epochs": 2, "limit": 300, "num_eval": 100, "draws": 2}
        return cls(**{**small, "progress": False, **changes})

    def identity(self) -> dict[str, Any]:
        """Return what makes the numbers: all but which rows there are, and what is said of them."""
        return self.numbers("dims", "seeds", "thresholds", "novelty", "json")

    def base(self, dim: int, seed: int) -> ae_ot_stages.Config:
        """Return the AE-OT whose map is extended."""
        names = ("dataset", "epochs", "limit", "data_dir", "cache_dir", "num_eval", "progress")
        out = str(place_of(self.folder(), seed, f"dim-{dim}"))
        return ae_ot_stages.Config(**self.given(*names), latent_dim=dim, seed=seed, out=out)

    def runs(self) -> list[tuple[int, int]]:
        """Return dimensions and seeds."""
        own = ae_ot_stages.Config(dataset=self.dataset).model().latent_dim
        dims = command.numbers_of("dims", self.dims or str(own))
        return [(dim, seed) for dim in dims for seed in self.seed_list()]

    def shares(self) -> list[float | None]:
        """Return the quantiles asked for, None for no filter.

        Raises:
          ValueError: for other words, and for numbers outside [0, 1].
        """
        words = [word.strip() for word in self.thresholds.split(",")]
        if not all(word == "off" or re.fullmatch(r"0?\.\d+|[01]", word) for word in words):
            raise ValueError(f"thresholds = {self.thresholds!r}: give shares in [0, 1] and off, such as 0.9,0.98,off.")
        return [None if word == "off" else float(word) for word in dict.fromkeys(words)]


def main(config: Config) -> dict[str, Any]:
    """Train and score what is not yet there, and return what results.json holds."""
    check(config)
    folder, runs, found = command.open_folder(config), config.runs(), []
    train, test = sets.images(config)
    for dim, seed in runs:
        base = config.base(dim, seed)
        base.folder().mkdir(parents=True, exist_ok=True)
        found.append(scores(config, base, trained(base, train), train, test))
    rows = table.gather(found)
    results = {
        "dataset": config.dataset,
        "judge": {**found[0]["judge"], "draws": config.draws},
        "novelty": config.novelty,
        "largest_class_tv": _CLASS_TV,
        "best": {f"d = {dim}": best(rows, dim, config.novelty) for dim in dict.fromkeys(dim for dim, _ in runs)},
        "rows": rows,
        "runs": found,
    }
    figure(folder / "forms.png", config, rows)
    results["figures"] = ["forms.png"]
    written = f"{table.markdown(rows, COLUMNS)}\n\n{table.of_judge(results)}.\n\n{in_words(results)}"
    command.close_folder(folder, results, written)
    if config.json:
        told = {"command": machine.command("bench.extension_forms", config, "dataset", "dims", "seeds", "thresholds")}
        told |= machine.record("machine", "device", "python", "jax", "date")
        command.write(Path(config.json), {**told, **results})
    return results


def check(config: Config) -> None:
    """Raise ValueError for options that cannot be meant, before anything is written."""
    if config.dataset not in ae_ot_stages.IMAGES:
        known = ", ".join(ae_ot_stages.IMAGES)
        raise ValueError(f"dataset = {config.dataset!r} has no images that are known here: choose one of {known}.")
    command.require(config, draws=1)
    config.shares()
    for dim, seed in config.runs():
        ae_ot_stages.check(config.base(dim, seed), limit=100)


def trained(base: ae_ot_stages.Config, train: data.Dataset) -> model_of.Model:
    """Return the model of a dimension and a seed, trained unless it is there."""
    place = base.folder() / "model"
    if place.exists():
        return store.load(place)
    model = ae_ot_stages.fit(base, base.folder(), train, command.progress_of(base, base.folder()), {})
    store.save(place, model)
    return model


def laws(config: Config, model: model_of.Model, train: data.Dataset) -> Iterator[tuple[str, float | None, sets.Draw]]:
    """Yield the rows: a name, the angle, and a function (key, num) -> images in [0, 1]."""

    def draw(form: str, angle: float) -> sets.Draw:
        return lambda key, num: model_of.sample(key, model, num, form=form, angle=angle)

    transport, key = model_of.map_of(model), jax.random.key(1)
    yield REAL, None, sets.drawn_from(train.images)
    yield MAP, 0.0, draw("pairs", 0.0)
    for share in config.shares():
        angle, word = math.pi, "filter off"
        if share is not None:
            angle = float(extension.threshold(key, transport, transport.y, quantile=share))
            word = f"quantile {share:g}"
        for form in extension.FORMS:
            yield f"{form}, {word}", angle, draw(form, angle)


def scores(
    config: Config, base: ae_ot_stages.Config, model: model_of.Model, train: data.Dataset, test: data.Dataset
) -> dict[str, Any]:
    """Return scores of every row, the mean of the draws; every row is written when it is done."""
    place = base.folder() / "scores.json"
    held = {"dim": base.latent_dim, "seed": base.seed, "rows": {}}
    if place.exists():
        held = json.loads(place.read_text())
    judge, order = None, []
    for name, angle, draw in laws(config, model, train):
        row = f"d = {base.latent_dim}: {name}"
        order.append(row)
        if row in held["rows"]:
            continue
        judge = judge or ae_ot_table.judge_of(base, model, train, test, neighbours=False)
        held["judge"] = judge.facts(config.draws)
        held["chi2"] = float(model.info.chi2)
        key = jax.random.fold_in(jax.random.key(base.seed), 5)
        mean, sd, _ = judged(judge, key, draw, config.draws).values()
        held["rows"][row] = mean
        if config.draws > 1:
            mean["frechet_sd"] = sd["frechet"]
        if angle is not None:
            held["rows"][row]["angle"] = angle
        command.write(place, held)
        if config.progress:
            told = (f"{score} {held['rows'][row][score]:.3g}" for score in COLUMNS if score != "angle")
            print(f"{row}: {', '.join(told)}", flush=True)
    return {**held, "rows": {row: held["rows"][row] for row in order}}


def best(rows: dict[str, dict[str, Any]], dim: int, novelty: float) -> dict[str, str | None]:
    """For every form and for all the row of least Frechet distance that is new enough and keeps the classes."""

    def least(start: str) -> str | None:
        fit = {
            name: row["frechet"]["mean"]
            for name, row in rows.items()
            if name.startswith(start) and row["lmem"]["mean"] >= novelty and row["class_tv"]["mean"] <= _CLASS_TV
        }
        return min(fit, key=fit.__getitem__, default=None)

    found = {form: least(f"d = {dim}: {form},") for form in extension.FORMS}
    there = [name for name in found.values() if name is not None]
    return {**found, "all": min(there, key=lambda name: rows[name]["frechet"]["mean"], default=None)}


def in_words(results: dict[str, Any]) -> str:
    """Return the best rows."""
    lines = [f"Least Frechet distance at lmem >= {results['novelty']:g} and class TV <= {_CLASS_TV:g}:"]
    for dim, found in results["best"].items():
        for form, row in found.items():
            value = "none" if row is None else f"{row}, {results['rows'][row]['frechet']['mean']:.3f}"
            lines.append(f"* {dim}, {form}: {value}")
    return "\n".join(lines)


def figure(path: Path, config: Config, rows: dict[str, dict[str, Any]]) -> None:
    """Draw Frechet distance against lmem, a line through the thresholds of every form, one panel a dimension."""
    dims = list(dict.fromkeys(dim for dim, _ in config.runs()))
    sheet, (axes,) = canvas(1, len(dims), 5.4, 3.8)
    for ax, dim in zip(axes, dims, strict=True):
        for colour, form in zip(plot.CYCLE, extension.FORMS, strict=False):
            own = [row for name, row in rows.items() if name.startswith(f"d = {dim}: {form},")]
            own = sorted(own, key=lambda row: row["angle"]["mean"])
            x, y = ([row[score]["mean"] for row in own] for score in ("lmem", "frechet"))
            ax.plot(x, y, "o-", color=colour, lw=1.4, ms=4, label=form)
            ax.plot(x[-1:], y[-1:], "o", color=colour, ms=9, mfc="none")
        real = rows[f"d = {dim}: {REAL}"]["frechet"]["mean"]
        ax.axhline(real, color=plot.GREY, ls=":", lw=1.2, label="real training images")
        ax.axvline(config.novelty, color=plot.GREY, lw=0.8)
        ax.set(xlabel="lmem (1: as new as test images)", ylabel="Frechet distance", yscale="log", title=f"d = {dim}")
    axes[0].legend(frameon=False, fontsize=8)
    save(sheet, path)


def cli() -> None:
    """Run with the options of the command line."""
    command.cli(Config, main, __doc__, command.show_table)


if __name__ == "__main__":
    cli()
