"""Learned transport maps on the Wasserstein-2 benchmark, where the optimal map is known: solvers, dimensions, seeds.

    python -m experiments.w2_benchmark --data-dir DATA                              # all; minutes: see the JSON below
    python -m experiments.w2_benchmark --data-dir DATA --dims 2,8 --solvers icnn --seeds 0
    python -m experiments.w2_benchmark --data-dir DATA --json benchmarks/w2_benchmark.json

The pairs of laws are those of Korotin et al. (2021), arXiv 2106.01954, three to ten Gaussians; the map of every solver
is measured on fresh points in unexplained variance (L2-UVP) and cosine beside the numbers that the authors print,
the convex potentials also backwards, and beside what tells of them without the truth: how far maps of two seeds are
apart. For times and numbers on two cores see benchmarks/w2_benchmark.json. Below
runs/w2_benchmark: config.json, results.json, table.md, maps.png, and below checkpoints a folder for each seed,
dimension and solver. `--resume` continues a run that was stopped, also with more dimensions, solvers or seeds.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab import command, machine, variants
from experiments.lab.figures import recorded
from experiments.lab.machine import clock
from experiments.lab.trials import place_of, run_missing
from experiments.lab.w2_benchmark_table import REFERENCE, figure, gather, markdown
from otgen.data import wasserstein2
from otgen.eval import cosine, l2_uvp
from otgen.maps import neural_map
from otgen.maps.training import MapSettings, plan
from otgen.ot import gaussian
from otgen.train import Checkpoints, JsonLines, Progress, together
from otgen.train.loop import NonFinite
from otgen.types import Array, Key, Sampler

_COMMON = 0x0DD5  # key of the points on which maps of all seeds are compared


class Row(NamedTuple):
    """A solver of the table.

    Attributes:
      solver: name in `neural_map.SOLVERS`.
      form: of the map, see `neural_map.transport`.
      fields: of the solver's Config, where they are not its own.
    """

    solver: str
    form: str
    fields: dict[str, Any]


_PLAIN = {"hidden": (64, 64, 32), "sharpness": None}
ROWS = {
    "icnn": Row("icnn", "gradient", {"num_steps": 6000, "average": 0.999}),
    "icnn_cycle": Row("icnn", "gradient", {"num_steps": 15_000, "learning_rate": 0.01, "cycle": 2.0, **_PLAIN}),
    "c_transform": Row("c_transform", "argmax", {"num_steps": 600, "learning_rate": 3e-3, "batch_size": 1024}),
    "lp": Row("lp", "gradient", {}),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(command.Seeds, command.Resumable):
    """Options of the benchmark. None means: what the solver has."""

    dims: str | None = None
    """Dimensions of the pairs, with commas, such as 2,64; all whose files are there if not given."""
    solvers: str = "icnn,icnn_cycle,c_transform,lp"
    """Names with commas, among icnn, icnn_cycle, c_transform, lp."""
    seeds: str = "0-2"
    """Such as 0-2 or 0,3,7."""
    once: str = "icnn_cycle,c_transform,lp"
    """Solvers among them that get the first seed alone."""
    data_dir: str | None = None
    """Folder that holds wasserstein2_benchmark/; OTGEN_DATA if not given."""
    json: str | None = None
    """Also write the results there, with the machine and the versions, without curves."""
    num_codes: int = 2**16
    """Draws of the target that the maps keep; they are trained on fresh ones."""
    num_eval: int = 2**14
    """Fresh points that the maps are measured on."""
    num_steps: int | None = None
    """Updates of every map."""
    batch_size: int | None = None
    """Points a step."""

    NAME = "w2_benchmark"

    @classmethod
    def smoke(cls, **changes: Any) -> Config:
        """Return a run of seconds, for tests."""
        small = {"dims": "2", "seeds": "0", "num_codes": 1024, "num_eval": 512, "num_steps": 24, "batch_size": 128}
        return cls(**{**small, "progress": False, **changes})

    def dim_list(self) -> list[int]:
        """Return the dimensions asked for."""
        return list(wasserstein2.dims(self.data_dir)) if self.dims is None else command.numbers_of("dims", self.dims)

    def rows(self) -> list[str]:
        """Return the rows asked for."""
        return variants.names(self.solvers)

    def first_alone(self) -> list[str]:
        """Return the rows that get one seed."""
        return variants.names(self.once)

    def folder(self) -> Path:
        """Return the output folder."""
        return Path(self.out or Path("runs") / self.NAME)

    def settings(self, name: str, dim: int) -> MapSettings:
        """Return the solver's configuration in a row of the table."""
        row = ROWS[name]
        return neural_map.config_of(row.solver, **{**row.fields, **self.given("num_steps", "batch_size")})

    def identity(self) -> dict[str, Any]:
        """Return what makes the numbers: all but which maps there are."""
        return self.numbers("dims", "solvers", "seeds", "once", "json")

    def identity_of(self, run: Run) -> dict[str, Any]:
        """Return what makes the numbers of a run."""
        common = {**run._asdict(), "num_codes": self.num_codes, "num_eval": self.num_eval}
        if run.row == REFERENCE:
            return common
        row = ROWS[run.row]
        settings = dataclasses.asdict(self.settings(run.row, run.dim))
        return {**common, "solver": row.solver, "form": row.form, "settings": settings}

    def place(self, run: Run) -> Path:
        """Return the folder of a run."""
        return place_of(self.folder(), run.seed, f"d{run.dim}, {run.row}")


class Run(NamedTuple):
    """One map to be found, or the reference rows."""

    dim: int
    row: str
    seed: int


class Pair(NamedTuple):
    """The laws and the truth in one dimension, made once: jit knows functions by identity.

    Attributes:
      sampler: draws the source.
      target: draws the target.
      truth: the optimal map.
    """

    sampler: Sampler
    target: Sampler
    truth: Callable[[Array], Array]


def main(config: Config) -> dict[str, Any]:
    """Train and measure what is not yet there, and return what results.json holds."""
    runs = check(config)
    folder = command.open_folder(config)
    pair_of = functools.lru_cache(1)(lambda dim: load(dim, config.data_dir))
    run_missing(runs, config.place, lambda run: solve(config, pair_of(run.dim), run))
    results = gather(config, runs)
    command.close_folder(folder, results, markdown(results))
    figure(config, runs, results)
    if config.json:
        brief = [{name: value for name, value in one.items() if name != "curve"} for one in results["runs"]]
        told = {"command": machine.command("w2_benchmark", config, "dims", "solvers", "seeds")}
        told |= machine.record("machine", "device", "python", "jax", "date")
        command.write(Path(config.json), {**told, **results, "runs": brief})
    return results


def check(config: Config) -> list[Run]:
    """Return the runs asked for; raise ValueError for options that cannot be meant, before anything is written."""
    command.require(config, num_codes=128, num_eval=64)
    dims, seeds = config.dim_list(), config.seed_list()
    wrong = [dim for dim in dims if dim not in wasserstein2.DIMS]
    if wrong:
        raise ValueError(f"dims = {config.dims!r}: choose among {', '.join(map(str, wasserstein2.DIMS))}.")
    if not config.rows() or any(name not in ROWS for name in config.rows()):
        raise ValueError(f"solvers = {config.solvers!r}: choose among {', '.join(ROWS)}.")
    unknown = [name for name in config.first_alone() if name not in ROWS]
    if unknown:
        raise ValueError(f"once = {config.once!r}: choose among {', '.join(ROWS)}.")
    for name in config.rows():  # raises for the fields of the solvers
        config.settings(name, dims[0])
    return [
        Run(dim, row, seed)
        for dim in dims
        for row in (REFERENCE, *config.rows())
        for seed in (seeds[:1] if row in config.first_alone() else seeds)
    ]


def load(dim: int, data_dir: str | None) -> Pair:
    """Read the benchmark in one dimension."""
    benchmark = wasserstein2.load(dim, data_dir)

    def sampler(key: Key, num: int, dim: int) -> Array:
        del dim
        return wasserstein2.sample(key, benchmark, num)

    def target(key: Key, num: int, dim: int) -> Array:
        del dim
        return wasserstein2.sample_target(key, benchmark, num)

    return Pair(sampler, target, functools.partial(wasserstein2.transport, benchmark))


def solve(config: Config, pair: Pair, run: Run) -> None:
    """Find one map, measure it, and write scores.json; a training that diverges is noted."""
    place = config.place(run)
    place.mkdir(parents=True, exist_ok=True)
    key = jax.random.key(run.seed)
    scores: dict[str, Any] = {**run._asdict(), "rows": {}}
    try:
        if run.row == REFERENCE:
            scores["rows"] = references(config, pair, key, run.dim)
        else:
            scores["rows"][run.row], scores["curve"] = learned(config, pair, run, key)
    except NonFinite as error:
        print(f"d = {run.dim}, {run.row}, seed {run.seed}: {error}")
        scores["failed"] = str(error)
    command.write(place / "scores.json", scores)


def references(config: Config, pair: Pair, key: Key, dim: int) -> dict[str, dict[str, float | None]]:
    """Return scores of maps that need no training, and of the truth."""
    codes = pair.target(jax.random.fold_in(key, 1), config.num_codes, dim)
    x = pair.sampler(jax.random.fold_in(key, 2), config.num_codes, dim)
    own, other = gaussian.moments(x), gaussian.moments(codes)
    forward = gaussian.transport_map(own.mean, own.covariance(), other.mean, other.covariance())
    backward = gaussian.transport_map(other.mean, other.covariance(), own.mean, own.covariance())
    fresh = pair.sampler(_fresh(key), config.num_eval, dim)
    moved = pair.truth(x)
    return {
        "linear": against(pair, fresh, forward) | inverted(config, pair, key, dim, backward),
        "constant": against(pair, fresh, lambda x: jnp.broadcast_to(codes.mean(0), x.shape)),
        "identity": against(pair, fresh, lambda x: x),
        "truth": {
            "w2_sq": float(jnp.mean(jnp.sum((moved - x) ** 2, 1))),
            "inner": float(jnp.mean(jnp.sum(moved * x, 1))),  # the infimum of the dual that a convex potential attains
        },
    }


def _fresh(key: Key) -> Key:
    return jax.random.fold_in(key, 3)


def against(pair: Pair, x: Array, forward: Callable[[Array], Array]) -> dict[str, float | None]:
    """L2-UVP and cosine of a map on points of the source."""
    truth, moved = pair.truth(x), forward(x)
    return {"l2_uvp": float(l2_uvp(moved, truth)), "cosine": _number(cosine(moved, truth, x))}


def inverted(config: Config, pair: Pair, key: Key, dim: int, backward: Callable[[Array], Array]) -> dict[str, Any]:
    """L2-UVP, relative to the variance of the source, and cosine of a map from fresh points of the target."""
    x = pair.sampler(jax.random.fold_in(key, 4), config.num_eval, dim)
    y = pair.truth(x)
    back = backward(y)
    return {"inverse_l2_uvp": float(l2_uvp(back, x)), "inverse_cosine": _number(cosine(back, x, y))}


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def learned(config: Config, pair: Pair, run: Run, key: Key) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train a solver; return its scores and its objective by updates."""
    place, row, settings = config.place(run), ROWS[run.row], config.settings(run.row, run.dim)
    cut = plan(settings, config.num_codes)
    label = f"d = {run.dim}, {run.row}, seed {run.seed}"
    saved = Checkpoints(place / "checkpoints", config.identity_of(run))
    with saved as checkpoints, Progress(cut.calls, label, config.progress) as bar:
        whole = checkpoints.newest() is None
        options = {"callback": together(bar, JsonLines(place / "metrics.jsonl", run.row)), "checkpoints": checkpoints}
        options |= {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
        options |= {"solver": row.solver, "dim": run.dim, "num_codes": config.num_codes}
        fit_key = jax.random.fold_in(key, 5)
        seconds, found = clock(lambda: neural_map.fit(fit_key, pair.sampler, pair.target, **options))
        seconds = round(seconds, 1) if whole else None  # of a stopped run nobody knows
    info = neural_map.evaluate(_fresh(key), found, pair.truth, num=config.num_eval, form=row.form)
    scores = {name: _number(value) for name, value in info._asdict().items()}
    if row.solver == "icnn":

        def backward(y: Array) -> Array:
            return neural_map.inverse(found, y).points

        scores |= inverted(config, pair, key, run.dim, backward) | {"residual": float(found.residual)}
    x = pair.sampler(jax.random.key(_COMMON), 4000, run.dim)  # the same for all seeds
    moved = neural_map.transport(found, x, row.form)
    np.savez_compressed(place / "points.npz", x=x, truth=pair.truth(x), moved=moved)
    return {**scores, "seconds": seconds}, _curve(recorded(place / "metrics.jsonl")[run.row], cut.updates)


def _curve(entries: dict[int, dict[str, float]], updates: int, most: int = 200) -> dict[str, Any]:
    """Return the objective (of "lp": the loss of the regression), at no more than `most` updates."""
    shown = list(entries)[:: -(-len(entries) // most)]
    values = [round(entries[step].get("objective", entries[step].get("loss")), 6) for step in shown]
    return {"updates": [step * updates for step in shown], "objective": values}


def show(config: Config, results: dict[str, Any]) -> str:
    """Return the table, and where the figure is."""
    return f"{markdown(results)}\nfigure: {config.folder() / 'maps.png'}"


def cli() -> None:
    """Run with the options of the command line."""
    command.cli(Config, main, __doc__, show)


if __name__ == "__main__":
    cli()
