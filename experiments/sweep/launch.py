r"""Run an experiment over seeds and settings: here, several at a time, or on SLURM; one table and one figure.

    python -m experiments.sweep ae_ot --seeds 0-4 --set latent_dim=16,32 --jobs 2
    python -m experiments.sweep informative_gan --seeds 0-2 --set steps=500,2000 --fixed dataset=digits variants=default
    python -m experiments.sweep ae_ot --seeds 0-4 --set latent_dim=8,16,32 epochs=12,24 --fixed dataset=mnist \
        --slurm --jobs 10 --partition gpu --gpus-per-node 1 --minutes 60           # needs pip install submitit

Below runs/sweep/NAME: a folder for each run, such as latent_dim=16-seed=3, with the experiment's own files, log.txt
and, once it has finished, done.json; table.md, table.json, table.csv, sweep.png. The same command again skips what has
finished and goes on with the rest; with more values or seeds it runs those as well. A run that fails is listed, and the
others go on. Runs on one GPU share its memory; a job of SLURM that reaches its time limit saves and is queued again.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import json
import re
import sys
import typing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from experiments.lab import command, records, variants
from experiments.sweep import table
from experiments.sweep.progress import Progress
from experiments.sweep.runs import Run, by_submitit, finished, interruptions, locally, results_of
from otgen import optional
from otgen.train.checkpoint import refuse_other_config

with optional.imports():
    import tyro

_OURS = ("seed", "seeds", "out", "resume", "overwrite", "progress", "distributed")  # options a sweep sets
_ELSEWHERE = ("data_dir", "cache_dir")  # fields that make no number


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the sweep."""

    experiment: tyro.conf.Positional[str]
    """Name of an experiment, such as ae_ot, or of a module with dots."""
    seeds: str = "0"
    """Such as 0-4 or 0,3,7; each is a run of its own."""
    set: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    """FIELD=VALUE,VALUE of the experiment, several with spaces; all combinations are run. A comma in brackets belongs
    to the value: hidden=(256,128),(512,256). Outer round brackets are not passed on: models=(vae,ae_ot) is one text."""
    fixed: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    """FIELD=VALUE for all runs, commas and all; not part of the names of folders."""
    out: str | None = None
    """Output folder; runs/sweep/EXPERIMENT if not given."""
    jobs: int = 1
    """Runs at a time."""
    metrics: str = ""
    """Numbers to show: parts of their names with commas, such as frechet,lmem. Without: scores that vary, a dozen."""
    along: str | None = None
    """Swept field on the horizontal axis of the figure; the first if not given."""
    progress: bool = True
    """Show how many runs are done."""
    slurm: bool = False
    """Run as jobs of SLURM, through submitit; stay here until they end."""
    cluster: str = "slurm"
    """What submitit submits to; local runs the jobs here, to try it."""
    partition: str | None = None
    """SLURM: where the runs are queued."""
    minutes: int = 240
    """Of a job; one that needs longer is queued again, where it goes on."""
    nodes: int = 1
    """Of a run, one process on each, with the experiment's --distributed."""
    gpus_per_node: int = 0
    """SLURM: devices of a run."""
    cpus_per_task: int = 4
    """SLURM: cores of a run."""

    def folder(self) -> Path:
        """Return the output folder."""
        return Path(self.out or Path("runs") / "sweep" / self.experiment).absolute()


def main(config: Config) -> dict[str, Any]:
    """Run what has not finished, and return what table.json holds.

    Raises:
      ValueError: for options that cannot be meant, or a folder of other settings, before anything starts.
      KeyboardInterrupt: on Ctrl-C or SIGTERM, after the runs under way have been stopped.
    """
    runs, folder = plan(config), config.folder()
    missing, failed = [run for run in runs if not finished(run)], []
    folder.mkdir(parents=True, exist_ok=True)
    with Progress(len(runs), len(runs) - len(missing), config.progress) as progress, interruptions() as stopped:

        def report(run: Run, problem: str | None) -> None:
            progress.ended(run, problem)
            if problem is not None:
                failed.append({"run": run.folder.name, "why": problem, "log": str(run.folder / "log.txt")})

        (by_submitit if config.slurm else locally)(config, missing, report, stopped, progress.under_way)
        if stopped.is_set():
            raise KeyboardInterrupt
    found = [(run.setting, run.seed, json.loads(results_of(run).read_text())) for run in runs if finished(run)]
    results = {"experiment": config.experiment, "rows": table.gather(found), "failed": failed}
    (folder / "table.json").write_text(json.dumps(results, indent=1))
    records.write(folder / "table.csv", table.lines(found))
    chosen = table.choose(results["rows"], config.metrics)
    (folder / "table.md").write_text(table.markdown(results, chosen) + "\n")
    if chosen:
        table.figure(folder / "sweep.png", results, chosen, config.along)
    return results


def plan(config: Config) -> list[Run]:
    """Return all runs of a sweep, checked."""
    if min(config.jobs, config.nodes, config.minutes, config.cpus_per_task) < 1:
        raise ValueError("jobs, nodes, minutes and cpus_per_task are 1 or more.")
    if config.nodes > 1 and not config.slurm:
        raise ValueError("nodes are SLURM's: give --slurm.")
    model = _model(config.experiment)
    fields = typing.get_type_hints(model)
    if config.nodes > 1 and "distributed" not in fields:
        raise ValueError(f"nodes = {config.nodes}: {config.experiment} has no option distributed; it runs on one node.")
    grid, fixed = _pairs(config.set, fields, variants.COMMA), _pairs(config.fixed, fields)
    names, constants = [name for name, _ in grid], {name: values[0] for name, values in fixed}
    twice = sorted(name for name in {*names, *constants} if [*names, *(name for name, _ in fixed)].count(name) > 1)
    if twice:
        raise ValueError(f"{', '.join(twice)}: give all values of a field at once, to --set or to --fixed.")
    if config.along and config.along not in names:
        raise ValueError(f"along = {config.along!r} is not swept: choose among {', '.join(names) or 'those of --set'}.")
    seeds, runs = command.numbers_of("seeds", config.seeds), []
    for values in itertools.product(*(values for _, values in grid)):
        setting = dict(zip(names, values, strict=True))
        runs += [_run(config, model, {**constants, **setting}, setting, seed) for seed in seeds]
    for run in runs:
        refuse_other_config(run.folder / "settings.json", run.identity)
        try:
            tyro.cli(model, args=run.command[3:])
        except SystemExit:
            raise ValueError(f"{config.experiment} refuses the options of {run.folder.name}: see above.") from None
    return runs


def _model(name: str) -> Any:
    """Return the class of an experiment's options."""
    try:
        model = importlib.import_module(_module(name)).Config
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"{name!r} is no experiment ({error}): give a name such as ae_ot.") from error
    fields = typing.get_type_hints(model)
    if "out" not in fields or not {"seed", "seeds"} & set(fields):
        raise ValueError(f"{name} cannot be swept: among its options there must be out, and seed or seeds.")
    return model


def _module(name: str) -> str:
    return name if "." in name else f"experiments.{name}"


def _run(config: Config, model: Any, options: dict[str, str], setting: dict[str, str], seed: int) -> Run:
    """One run, with the options of its experiment as it reads them."""
    fields, name = typing.get_type_hints(model), _module(config.experiment)
    folder = config.folder() / folder_name(setting, seed)
    bare = str(getattr(model, "out", None)).endswith(".json")  # an experiment that writes no more than its results
    own = {"seed" if "seed" in fields else "seeds": str(seed), "out": str(folder / "results.json" if bare else folder)}
    words = [word for field, value in {**options, **own}.items() for word in _words(field, value, fields[field])]
    words += [flag for flag in ("--resume", "--no-progress") if flag.split("-")[-1] in fields]
    words += ["--distributed"] * (config.nodes > 1)
    identity = {field: value for field, value in options.items() if field not in _ELSEWHERE}
    identity |= {"experiment": name, "seed": seed}
    return Run(setting, seed, identity, folder, [sys.executable, "-m", name, *words])


def _pairs(
    words: tuple[tuple[str, ...], ...], fields: dict[str, Any], comma: re.Pattern | None = None
) -> list[tuple[str, list[str]]]:
    """Return names and values of texts FIELD=VALUE,VALUE; one value each where no comma is given."""
    found = []
    for word in itertools.chain(*words):
        name, equals, text = word.partition("=")
        name = name.replace("-", "_")
        values = list(dict.fromkeys(value.strip() for value in comma.split(text))) if comma else [text]
        if not equals or "" in values:
            raise ValueError(f"{word!r}: give FIELD=VALUE, or FIELD=VALUE,VALUE to --set.")
        if name in _OURS:
            raise ValueError(f"{word!r}: a sweep sets {', '.join(_OURS)} itself; give --seeds and --out.")
        if name not in fields:
            raise ValueError(f"{word!r}: there is no such field; there are {', '.join(f for f in fields)}.")
        found.append((name, values))
    return found


def folder_name(setting: dict[str, str], seed: int) -> str:
    """Return the folder of a run: readable, and another for every other setting (values are quoted as in a URL)."""
    parts = [f"{name}={quote(value, safe=',+()')}" for name, value in setting.items()]
    return "-".join([*parts, f"seed={seed}"])


def _words(field: str, value: str, kind: Any) -> list[str]:
    """Return a field and its value as the experiment reads them from its command line."""
    option = "--" + field.replace("_", "-")
    if kind is bool and value in ("True", "False"):
        return [option if value == "True" else option.replace("--", "--no-", 1)]
    if value.startswith("(") and value.endswith(")"):
        value = value[1:-1]
    if tuple in (typing.get_origin(one) for one in (kind, *typing.get_args(kind))):
        return [option, *(part.strip() for part in value.split(",") if part.strip())]
    return [f"{option}={value}"]


def cli() -> None:
    """Read the options from the command line, run, and print the table, the figure, and what failed."""
    config = tyro.cli(Config, description=__doc__)
    try:
        results = main(config)
    except (ValueError, FileExistsError, ImportError) as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("\ninterrupted; the same command goes on (finished runs are skipped)") from None
    print((config.folder() / "table.md").read_text())
    if results["rows"]:
        print(f"figure: {config.folder() / 'sweep.png'}")
    for run in results["failed"]:
        log = Path(run["log"]).read_text(errors="replace").strip().splitlines() if Path(run["log"]).exists() else []
        print("\n".join([f"\nThe end of {run['log']}:", *log[-8:]]))
    raise SystemExit(1 if results["failed"] else 0)
