"""The command line of an experiment: its options, the folder it writes to, its progress, how it ends."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import json
import os
import re
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax

from experiments.lab import own_images, records
from experiments.lab.machine import DETERMINISTIC
from otgen import optional, plot
from otgen.train import JsonLines, NonFinite, Progress, TensorBoard, hosts, together
from otgen.train.checkpoint import refuse_other_config

_OWN = (
    "config.json",
    "config.json.new",
    "metrics.jsonl",
    "metrics.new",
    "results.csv",
    "results.csv.new",
    "results.json",
    "results.json.new",
    "table.md",
    "checkpoints",
    "events",
    "model",
    "watch",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Where an experiment reads and writes; none of it makes the numbers."""

    data_dir: str | None = None
    """Folder of the raw or TFDS-prepared data and of feature weights; OTGEN_DATA if not given. Not needed for digits
    and toys."""
    out: str | None = None
    """Output folder; below runs/ if not given."""
    progress: bool = True
    """Show progress bars."""

    NAME = ""  # of the experiment, where it is said once: the folder below runs/

    def folder(self) -> Path:
        """Return the output folder."""
        seed = f"-seed-{self.seed}" if hasattr(self, "seed") else ""
        return Path(self.out or Path("runs") / self.NAME / f"{own_images.label(self.dataset)}{seed}")

    def given(self, *names: str) -> dict[str, Any]:
        """Return the fields among these that are not None."""
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def numbers(self, *skip: str) -> dict[str, Any]:
        """Return the fields that make the numbers, less those to be skipped."""
        not_these = {*skip, *(field.name for field in dataclasses.fields(Options))}
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in not_these}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resumable(Place):
    """The options of an experiment that is resumed on demand."""

    cache_dir: str | None = None
    """Where sets prepared from raw files are kept; the user's cache folder if not given."""
    resume: bool = False
    """Continue the run in the output folder, bit-identically."""
    overwrite: bool = False
    """Delete the run in the output folder and start again."""
    deterministic: bool = False
    """On a GPU: operations that give the same bits in every process, without which a resumed run is the same to
    rounding only; slower. A CPU needs no such option."""

    def identity(self) -> dict[str, Any]:
        """Return what makes the numbers of the run, as JSON reads it."""
        return json.loads(json.dumps(self.numbers()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Resumable):
    """The options of an experiment that is trained step by step."""

    tensorboard: bool = False
    """Also write TensorBoard events, below events/ in the output folder."""
    watch: bool = False
    """Also draw what is learned every 500 steps, below watch/ in the output folder (ae_ot, ae_ot_gan)."""
    distributed: bool = False
    """Train together with the other processes of SLURM, Open MPI, a TPU pod, or `experiments.local_hosts`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seeds:
    """The option of experiments that average over seeds."""

    seeds: str = "0"
    """Such as 0-2 or 0,3,7."""

    def seed_list(self) -> list[int]:
        """Return the seeds asked for."""
        return numbers_of("seeds", self.seeds)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored(Seeds):
    """The options of experiments whose models are scored by draws."""

    limit: int | None = None
    """Use only so many training images."""
    num_points: int = 10_000
    """Toys: how many training points, and as many held out."""
    num_eval: int = 10_000
    """Images or points per draw; at most the number of test images."""
    draws: int = 5
    """Draws that every score averages over."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features:
    """The options of experiments that can be scored again in other features."""

    features: str = "auto"
    """Space of the distances of images: auto (LeNet or pixels), pixels, lenet, inception, codec."""
    feature_images: int = 5000
    """Images of the one draw that a seed is scored with in features other than auto."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """The option of experiments whose models can be trained without being scored."""

    table: bool = True
    """Score the models; with --no-table they are trained and drawn only, and --resume scores them later."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows(Table):
    """The options of experiments whose models can also be scored in part."""

    rows: str | None = None
    """Images: score only rows of the table whose names hold one of these words with commas, such as real,local."""

    def wants(self, row: str) -> bool:
        """Return whether a row of the table is asked for."""
        return self.rows is None or any(word in row for word in self.rows.split(","))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Featured(Features, Scored):
    """The options of experiments over seeds that can be scored again in other features."""


def require(config: Any, datasets: Iterable[str] = (), **least: int) -> None:
    """Raise ValueError for another data set than these, a number below its least, or an output folder that is a file.

    Args:
      config: Options with `folder()`.
      datasets: names that `config.dataset` may have; none for any.
      **least: smallest values of fields; None is legal for each.
    """
    if datasets and config.dataset not in datasets and not own_images.is_given(config):
        path = ", or give the path of a folder or file of images" if isinstance(config, own_images.OwnImages) else ""
        raise ValueError(f"dataset = {config.dataset!r} is unknown: choose one of {', '.join(datasets)}{path}.")
    for name, value in config.given(*least).items():
        if value < least[name]:
            raise ValueError(f"{name} = {value} is too small: give {least[name]} or more.")
    if config.folder().exists() and not config.folder().is_dir():
        raise ValueError(f"out = {config.folder()} is a file: give a folder.")


def require_rows(config: Any, names: Iterable[str]) -> None:
    """Raise ValueError if a word of `rows` is in none of the names that rows of the table have."""
    for word in () if config.rows is None else config.rows.split(","):
        if not word or not any(word in name for name in names):
            raise ValueError(f"rows = {config.rows!r}: no row of the table has {word!r} in its name; try real,local.")


def numbers_of(name: str, text: str) -> list[int]:
    """Return the numbers in a text such as 0-2 or 0,3,7, each once; `name` is what the text is called.

    Raises:
      ValueError: for another text.
    """
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not match:
            raise ValueError(f"{name} = {text!r}: give numbers such as 0-2 or 0,3,7.")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"{name} = {text!r}: the first of a range comes first.")
        numbers += range(first, last + 1)
    return list(dict.fromkeys(numbers))


def open_folder(config: Any) -> Path:
    """Make, resume or empty the output folder; refuse to mix runs. Hosts after the first get one that is thrown away.

    Args:
      config: Options with `folder()` and `identity()`, what makes the numbers.
    """
    if not hosts.is_first():
        scratch = Path(tempfile.mkdtemp(prefix="otgen-"))
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        return scratch
    folder = config.folder()
    stored = folder / "config.json"
    if not config.resume and folder.is_dir() and [path.name for path in folder.iterdir()] == [stored.name]:
        stored.unlink()  # of a run that failed before it did anything, such as reading its data
    if config.resume and not stored.exists():
        print(f"there is no run in {folder} yet: one is started")
    if folder.is_dir() and config.overwrite and not config.resume:
        foreign = sorted(path.name for path in folder.iterdir() if path.name not in _OWN and path.suffix != ".png")
        if foreign:
            raise FileExistsError(
                f"{folder} also holds {', '.join(foreign[:5])}: it is not deleted; move that, or --out."
            )
        shutil.rmtree(folder)
    if not config.resume and any((folder / name).exists() for name in (stored.name, "results.json")):
        raise FileExistsError(f"{folder} holds a run: pass --resume to continue it or --overwrite to start again.")
    refuse_other_config(stored, config.identity())
    folder.mkdir(parents=True, exist_ok=True)
    write(stored, config.identity())
    return folder


def close_folder(folder: Path, results: dict[str, Any], table: str) -> dict[str, Any]:
    """Write what a run found, results.json, results.csv and table.md, and return it."""
    write_results(folder, results)
    (folder / "table.md").write_text(table + "\n")
    return results


def write_results(folder: Path, results: dict[str, Any]) -> None:
    """Write what a run found, as JSON and for pandas."""
    write(folder / "results.json", results)
    records.write(folder / "results.csv", records.records(json.loads(json.dumps(results))))


def progress_of(config: Any, folder: Path) -> Callable[[str, int | None], Any]:
    """Return a function (stage, total) -> context manager of a callback that shows and records progress."""

    @contextlib.contextmanager
    def progress(stage: str, total: int | None) -> Iterator[Any]:
        with contextlib.ExitStack() as stack:
            shown = config.progress and hosts.is_first()
            calls = [stack.enter_context(Progress(total, stage, shown)), JsonLines(folder / "metrics.jsonl", stage)]
            if getattr(config, "tensorboard", False) and hosts.is_first():
                calls.append(stack.enter_context(TensorBoard(folder / "events", stage)))
            yield together(*calls)

    return progress


def watcher(config: Any, folder: Path, name: str, images_of: Callable[[Any], Any]) -> Any:
    """A function (step, state) that draws images [n, h, w, c] of a state to watch/NAME-STEP.png; None if not wanted."""
    if not config.watch:
        return None

    def watch(step: int, state: Any) -> None:
        with optional.imports():
            import matplotlib.pyplot as plt

        (folder / "watch").mkdir(exist_ok=True)
        ax = plot.image_grid(images_of(state), title=f"{name}, step {step:,}")
        ax.figure.savefig(folder / "watch" / f"{name.replace(' ', '-')}-{step:06d}.png", dpi=110, bbox_inches="tight")
        plt.close(ax.figure)

    return watch


def write(path: Path, content: Any) -> None:
    """Write JSON at once: a reader never meets half a file."""
    beside = path.with_suffix(path.suffix + ".new")
    beside.write_text(json.dumps(content, indent=2))
    beside.replace(path)


def cli(kind: type, main: Callable[[Any], Any], description: str | None, show: Callable[[Any, Any], str]) -> None:
    """Read options from the command line, run, and print what came out; errors in one line.

    Args:
      kind: dataclass of the options.
      main: the experiment.
      description: what `--help` says.
      show: text to print, of the options and what `main` returned.
    """
    with optional.imports():
        import tyro

    config = tyro.cli(kind, description=description)
    again = "continue with --resume" if hasattr(config, "resume") else "the same command starts it again"
    if getattr(config, "deterministic", False):  # XLA reads it when JAX first asks for a device
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC}".strip()
    try:
        if getattr(config, "distributed", False):
            hosts.join()
        results = main(config)
    except (ValueError, OSError, ImportError, NonFinite) as error:
        hosts.leave(error)
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        where = config.folder() if hasattr(config, "folder") else config.out
        raise SystemExit(f"\ninterrupted; {again} (output in {where})") from None
    except Exception as error:
        if jax.process_count() > 1:
            traceback.print_exc()
        hosts.leave(error)
        raise
    if hosts.is_first():
        print(show(config, results))
        if not getattr(config, "table", True):
            print("not scored: the same command with --resume and without --no-table scores what was trained")
        if getattr(config, "tensorboard", False):
            print(f"TensorBoard: tensorboard --logdir {config.folder() / 'events'}")


def show_table(config: Any, results: dict[str, Any]) -> str:
    """Return the table of a run, and where its figures are."""
    figures = ", ".join(str(config.folder() / name) for name in results["figures"])
    return f"{(config.folder() / 'table.md').read_text()}\nfigures: {figures}"
