"""Callbacks `(step, metrics)`: JSON lines, TensorBoard, wandb and trackio, and several at once."""

from __future__ import annotations

import importlib
import json
import time
from pathlib import Path
from typing import Any

from otgen import optional
from otgen.ot.check import require_function
from otgen.types import Callback


class JsonLines:
    """Append one JSON object per call to a file, with the stage, the step and the seconds since the start.

    Lines of the same stage from that step on, which a run that was killed had written after its last checkpoint, are
    dropped at the first call.

    Example:
      >>> import pathlib, tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     og.train.JsonLines(pathlib.Path(folder) / "metrics.jsonl", "training")(10, {"loss": 0.5})
      ...     print('"step": 10' in (pathlib.Path(folder) / "metrics.jsonl").read_text())
      True
    """

    def __init__(self, path: Path, stage: str):
        self._path, self._stage, self._start = Path(path), stage, time.perf_counter()
        self._fresh = True

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        if self._fresh and self._path.exists():
            self._forget(step)
        self._fresh = False
        seconds = round(time.perf_counter() - self._start, 3)
        with open(self._path, "a") as file:
            file.write(json.dumps({"stage": self._stage, "step": step, "seconds": seconds, **metrics}) + "\n")

    def _forget(self, step: int) -> None:
        lines = self._path.read_text().splitlines()
        kept = [line for line in lines if not self._is_later(line, step)]
        if len(kept) < len(lines):
            beside = self._path.with_suffix(".new")
            beside.write_text("".join(line + "\n" for line in kept))
            beside.replace(self._path)

    def _is_later(self, line: str, step: int) -> bool:
        try:
            found = json.loads(line)
            return found["stage"] == self._stage and found["step"] >= step
        except (ValueError, KeyError, TypeError):  # half a line, of a run that was killed
            return True


class TensorBoard:
    """Write metrics as TensorBoard events, each under stage/name. Use as a context manager.

    Args:
      folder: where the events go.
      stage: what is going on.

    Raises:
      ModuleNotFoundError: if tensorboardX is not installed.

    Example:
      >>> import pathlib, tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with og.train.TensorBoard(pathlib.Path(folder), "training") as board:
      ...         board(10, {"loss": 0.5})
      ...     print(len(list(pathlib.Path(folder).iterdir())))
      1
    """

    def __init__(self, folder: Path, stage: str):
        with optional.imports():
            from tensorboardX import SummaryWriter
        self._writer, self._stage = SummaryWriter(str(folder)), stage

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(f"{self._stage}/{name}", value, step)

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(self, *error) -> None:
        self._writer.close()


class Tracker:
    """Send metrics to wandb or trackio, each as stage/name. Use as a context manager.

    The step goes along as stage/step, as the steps of a further stage begin at zero again, which a run of wandb's does
    not take for its own; there it is the axis that the metrics of the stage are drawn against.

    Args:
      stage: what is going on.
      package: "wandb" or "trackio", or a module with their `init`, `log` and `finish`.
      **options: of `init`, such as project, name and config: a run is begun, and ended with the context. Without any
        the metrics go to the run that is open, so that several stages share it.

    Raises:
      ModuleNotFoundError: if the package is not installed.

    Example:
      >>> import types
      >>> shown = types.SimpleNamespace(init=dict, log=print, finish=lambda: print("finished"))
      >>> with og.train.Tracker("training", shown, project="digits") as tracker:
      ...     tracker(10, {"loss": 0.5})
      {'training/step': 10, 'training/loss': 0.5}
      finished
    """

    def __init__(self, stage: str, package: Any = "wandb", **options: Any):
        with optional.imports():
            self._package = importlib.import_module(package) if isinstance(package, str) else package
        self._stage, self._own = stage, bool(options)
        if options:
            self._package.init(**options)
        if hasattr(self._package, "define_metric"):
            self._package.define_metric(f"{stage}/step")
            self._package.define_metric(f"{stage}/*", step_metric=f"{stage}/step")

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        told = {f"{self._stage}/{name}": value for name, value in metrics.items()}
        self._package.log({f"{self._stage}/step": step, **told})

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *error) -> None:
        if self._own:
            self._package.finish()


def together(*callbacks: Callback | None) -> Callback:
    """One callback that calls several; None among them is skipped.

    Example:
      >>> steps, losses = [], []
      >>> keep = lambda step, metrics: losses.append(metrics["loss"])
      >>> og.train.together(lambda step, metrics: steps.append(step), None, keep)(10, {"loss": 0.5})
      >>> print(steps, losses)
      [10] [0.5]
    """
    present = [callback for callback in callbacks if callback is not None]
    for callback in present:
        require_function("a callback", callback)

    def call(step: int, metrics: dict[str, float]) -> None:
        for callback in present:
            callback(step, metrics)

    return call
