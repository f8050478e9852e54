"""What a sweep says while it is at work: a line for each run that starts and ends, and how far those under way are."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.sweep.runs import Run
from otgen import optional

_REST = 1.0  # seconds between two looks at the runs under way
_TAIL = 4096  # bytes at the end of metrics.jsonl that hold its last line


class Progress:
    """A bar over the runs of a sweep. Use as a context manager.

    Args:
      total: runs of the sweep.
      done: those that had finished before.
      enabled: False for lines without a bar.
    """

    def __init__(self, total: int, done: int, enabled: bool):
        with optional.imports():
            from tqdm.auto import tqdm

        self._bar = tqdm(total=total, initial=done, desc="sweep", unit="run", disable=not enabled, dynamic_ncols=True)
        self._total, self._ended, self._told = total, done, set()
        self._looked, self._begun = 0.0, time.time()

    def under_way(self, runs: Iterable[Run]) -> None:
        """Say which of the runs have started, and show how far they are."""
        if time.monotonic() - self._looked < _REST:
            return
        self._looked, shown = time.monotonic(), []
        for run in runs:
            name = run.folder.name
            if self._seconds(run) is None:
                continue
            if name not in self._told:
                self._told.add(name)
                self._say(f"{name}: started, log in {run.folder / 'log.txt'}")
            shown.append(f"{name} {last_step(run.folder / 'metrics.jsonl')}".strip())
        self._bar.set_postfix_str("; ".join(shown))

    def ended(self, run: Run, problem: str | None) -> None:
        """Say how a run has ended, after how many seconds, and how many have."""
        self._ended += 1
        self._bar.update()
        seconds, outcome = self._seconds(run), "finished" if problem is None else f"failed, {problem}"
        after = "" if seconds is None else f" after {seconds:.0f} s"
        self._say(f"{run.folder.name}: {outcome}{after} ({self._ended} of {self._total})")

    def _seconds(self, run: Run) -> float | None:
        """Return the seconds since a run started; None if this sweep has not started it."""
        settings = run.folder / "settings.json"
        started = settings.stat().st_mtime if settings.exists() else 0.0
        return time.time() - started if started >= self._begun - 1.0 else None  # clocks of disks are coarse

    def _say(self, line: str) -> None:
        self._bar.write(line, file=sys.stderr)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.close()


def last_step(path: Path) -> str:
    """Return the stage and the step that metrics.jsonl ends with; nothing where there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            last = json.loads(file.read().rpartition(b"\n")[0].rpartition(b"\n")[2])
        return f"{last['stage']} {last['step']:,}"
    except (OSError, ValueError, LookupError, TypeError):
        return ""
