"""When a solve hands its state to be saved: by the clock, since a device may take thousands of steps a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

SECONDS = 60.0  # between two saves, which take the longer the more points there are


class Saver:
    """Calls `save` when `seconds` have passed since it last did, when told to, and before an error ends the solve.

    Use as a context manager. What was saved last is not saved again, nor what a failing `save` was given.

    Args:
      save: called with the step and the state; None for nothing.
      seconds: at least so many lie between two calls, but for those that are told.
      flushes: whether to save before an error, such as Ctrl-C, goes on.

    Example:
      >>> from otgen.ot.semidiscrete.saving import Saver
      >>> seen = []
      >>> with Saver(lambda step, state: seen.append((step, state)), seconds=60.0) as saver:
      ...     for step in range(1, 6):
      ...         saver(step, lambda: 10 * step, now=step == 3)
      >>> seen
      [(3, 30)]
    """

    def __init__(self, save: Callable[[int, Any], None] | None, seconds: float, *, flushes: bool = True):
        self.saves = save is not None
        self._save, self._seconds, self._flushes = save, seconds, flushes
        self._waiting: tuple[int, Callable[[], Any]] | None = None
        self._last = time.monotonic()

    def due(self) -> bool:
        """Return whether it is time to save."""
        return self.saves and time.monotonic() - self._last >= self._seconds

    def __call__(self, step: int, state_of: Callable[[], Any], *, now: bool | None = None) -> None:
        """Take notice of a step, and save if it is due.

        Args:
          step: the step reached.
          state_of: makes the state of it, also later on.
          now: whether to save; None to go by the clock.
        """
        if not self.saves:
            return
        self._waiting = step, state_of
        if self.due() if now is None else now:
            self._flush()

    def _flush(self) -> None:
        if self._waiting is not None:
            (step, state_of), self._waiting = self._waiting, None
            self._save(step, state_of())
            self._last = time.monotonic()

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        if error is None or not self._flushes:
            return
        try:
            self._flush()
        except Exception as failed:
            error.add_note(f"The state could not be saved: {failed}")  # what ends the solve is told first
