"""Callbacks `(step, metrics)`: a progress bar, a file of JSON lines, and several at once."""

from __future__ import annotations

import json
import time
from pathlib import Path

from otgen.types import Callback


class Progress:
    """A tqdm bar that shows the metrics it is called with. Use as a context manager.

    Args:
      total: the step at which the work is done; None if unknown.
      label: what is going on.
      enabled: False for silence.
    """

    def __init__(self, total: int | None, label: str, enabled: bool = True):
        from tqdm.auto import tqdm

        self._bar = tqdm(total=total, desc=label, disable=not enabled, unit="step", dynamic_ncols=True)

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        self._bar.set_postfix({name: f"{value:.4g}" for name, value in metrics.items()}, refresh=False)
        if self._bar.total is not None and step > self._bar.total:
            self._bar.total = step
        self._bar.update(step - self._bar.n)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error) -> None:
        self._bar.close()


class JsonLines:
    """Append one JSON object per call to a file, with the stage, the step and the seconds since the start."""

    def __init__(self, path: Path, stage: str):
        self._path, self._stage, self._start = Path(path), stage, time.perf_counter()

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        seconds = round(time.perf_counter() - self._start, 3)
        with open(self._path, "a") as file:
            file.write(json.dumps({"stage": self._stage, "step": step, "seconds": seconds, **metrics}) + "\n")


def together(*callbacks: Callback | None) -> Callback:
    """One callback that calls several; None among them is skipped."""
    present = [callback for callback in callbacks if callback is not None]

    def call(step: int, metrics: dict[str, float]) -> None:
        for callback in present:
            callback(step, metrics)

    return call
