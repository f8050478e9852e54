"""The trials of an experiment, seeds times groups of rows of its table: each is trained and scored once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from experiments.lab import own_images
from experiments.lab.command import write
from experiments.lab.judge import extent, judged, place_of_scores
from experiments.lab.sets import Draw
from otgen.data import Dataset
from otgen.eval import Judge
from otgen.train import Checkpoints, hosts
from otgen.train.loop import NonFinite
from otgen.types import Key

Trial = TypeVar("Trial")


def run_missing(
    trials: Iterable[Trial], place: Callable[[Trial], Path], work: Callable[[Trial], None]
) -> list[dict[str, Any]]:
    """Do the trials that have no scores yet, one after the other.

    Args:
      trials: what there is to do.
      place: the folder of the scores of a trial.
      work: does a trial and writes its scores.

    Returns:
      The scores of all, in their order; nothing on hosts after the first.
    """
    trials = list(trials)
    for trial in trials:
        if not is_done(place(trial)):
            work(trial)
    return [read(place(trial)) for trial in trials] if hosts.is_first() else []


def run_parts(folder: Path, parts: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """Measure the parts of a run that are not there yet, each written when it is done; return what all found."""

    def work(name: str) -> None:
        numbers = parts[name]()
        (folder / "checkpoints" / name).mkdir(parents=True, exist_ok=True)
        write(folder / "checkpoints" / name / "scores.json", numbers)

    return dict(zip(parts, run_missing(parts, lambda name: folder / "checkpoints" / name, work), strict=False))


def read(place: Path) -> dict[str, Any]:
    """Return the scores of a trial."""
    return json.loads((place / "scores.json").read_text())


def read_all(folder: Path, groups: list[str], places: Path = Path("checkpoints/seed-*/*")) -> list[dict[str, Any]]:
    """Scores of all seeds and groups in the folder, of this run and of those before it; by seed, then `groups`."""
    runs = [read(path.parent) for path in folder.glob(str(places / "scores.json"))]
    order = {group: i for i, group in enumerate(groups)}
    return sorted(runs, key=lambda run: (run["seed"], order.get(run["group"], len(order)), run["group"]))


def note_failure(place: Path, name: str, entry: dict[str, Any], error: NonFinite) -> None:
    """Say and write that a trial diverged: it is done, without rows."""
    print(f"{name}: {error}")
    save(place, {**entry, "failed": str(error), "rows": {}}, {})


def stage(
    config: Any,
    place: Path,
    name: str,
    total: int | None,
    progress: Any,
    work: Callable[..., Any],
    settings: Any = None,
) -> tuple[Any, float | None]:
    """Do `work(callback=, checkpoints=)` under its own checkpoints.

    Args:
      config: of the experiment; what makes the numbers is its `identity()`.
      place: folder of the stage. name: its name.
      total: its steps, if known.
      progress: from `progress_of`.
      work: what is done.
      settings: JSON-like, what makes the numbers beside `config`; a checkpoint of other settings is refused.

    Returns:
      Its result, and its seconds: those of then where an earlier run had done it all, None where one had begun it.
    """
    identity = {**config.identity(), "stage": name, **({} if settings is None else {"settings of the stage": settings})}
    saved = Checkpoints(place / "checkpoints", identity)
    with saved as checkpoints:
        begun = checkpoints.newest()
        if begun is not None and total is not None and begun < total and hosts.is_first():
            print(f"{name}: continues at step {begun:,}")
        with progress(name, total) as callback:
            start = time.perf_counter()
            result = jax.block_until_ready(work(callback=callback, checkpoints=checkpoints))
            seconds = time.perf_counter() - start
    return result, _seconds(place / "seconds.json", seconds, begun, total)


def _seconds(path: Path, seconds: float, begun: int | None, total: int | None) -> float | None:
    """Return how long a stage took, of one that is done from its file; None if it was stopped in between."""
    if begun is None:
        seconds = round(seconds, 2)
        if hosts.is_first():
            write(path, seconds)
        return seconds
    if total is None or begun < total:
        path.unlink(missing_ok=True)
        return None
    return json.loads(path.read_text()) if path.exists() else None


def place_of(folder: Path, seed: int, group: str) -> Path:
    """Return where the checkpoints and scores of a group of rows of the table are."""
    return folder / "checkpoints" / f"seed-{seed}" / group.replace(", ", "-")


def scores_at(config: Any, folder: Path, seed: int, group: str) -> Path:
    """Return where the scores of a group are, as it is asked to be scored."""
    return place_of_scores(config, place_of(folder, seed, group))


def is_done(place: Path) -> bool:
    """Return whether a group has scores, on the first host."""
    return hosts.agreed((place / "scores.json").exists())


def save(place: Path, scores: dict[str, Any], shown: dict[str, Any]) -> None:
    """Write what a group's figures need, then its scores: a group that has scores is done."""
    place.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(place / "samples.npz", **{name: np.asarray(x) for name, x in shown.items()})
    write(place / "scores.json", scores)


def load_shown(places: Iterable[Path]) -> dict[str, np.ndarray]:
    """Return the arrays that trials left for the figures, by name."""
    shown: dict[str, np.ndarray] = {}
    for place in places:
        if (place / "samples.npz").exists():
            with np.load(place / "samples.npz") as file:
                shown |= dict(file)
    return shown


class OfSeed:
    """What the trials of one seed share.

    Args:
      config, folder: of the experiment.
      seed: of networks, noise and draws.
      progress: from `command.progress_of`.
      train, test: images and labels.
    """

    def __init__(self, config: Any, folder: Path, seed: int, progress: Any, train: Dataset, test: Dataset):
        self._config, self._folder, self._seed, self._progress = config, folder, seed, progress
        self._train, self._test = train, test
        self._keys = jax.random.split(jax.random.key(seed), 4)
        self._num, self._draws_of_a_row = extent(config)

    def _judge_of(self, encode: Callable[[Any], Any]) -> Judge:
        """Return a judge of images in the features asked for, that measures memorisation in the codes of an encoder."""
        features = own_images.features(self._config, self._train.images.shape[1:])
        rest = {"num": self._num, "data_dir": self._config.data_dir, "features": features}
        return Judge(self._config.dataset, self._train, self._test, encode, **rest)

    def _facts(self) -> dict[str, Any]:
        """Return what the judge's scores are made with; nothing where there are none."""
        return self._judge.facts(self._draws_of_a_row) if self._config.table else {}

    def _scores(self, judge: Any, key: Key, row: str, draw: Draw) -> dict[str, Any]:
        """Return scores of a row of the table; reconstructions are no draws, and are scored once."""
        draws = 1 if row.startswith("reconstructed") else self._draws_of_a_row
        found = judged(judge, key, draw, draws, row, self._config.progress)
        return {**found["mean"], "sd_over_draws": found["sd"], "class_shares": found["class_shares"]}
