"""Lines of progress: a fit shows one in a notebook unless it is told not to, and in a script where it is told to.

`watched` gives a function the keyword `progress`; `shown` opens the line where the work is done, in the training loop
and in the solvers that run on the host. Stages of one fit follow each other on one line, whose label `stage` says.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax

from otgen import optional
from otgen.types import Callback

Function = TypeVar("Function", bound=Callable[..., Any])


class Progress:
    """A tqdm bar that shows the metrics it is called with. Use as a context manager.

    Args:
      total: the step at which the work is done; None if unknown.
      label: what is going on.
      enabled: False for silence; None to show it in notebooks alone.

    Example:
      >>> with og.train.Progress(10, "training", enabled=False) as progress:
      ...     progress(10, {"loss": 0.5})
    """

    def __init__(self, total: int | None, label: str, enabled: bool | None = True):
        self._bar = None
        if in_notebook() if enabled is None else enabled:
            with optional.imports(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # in a notebook without widgets it is a line of text
                from tqdm.auto import tqdm

            self._bar = tqdm(total=total, desc=label, unit="step", dynamic_ncols=True)

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        if self._bar is None:
            return
        self._bar.set_postfix({name: f"{value:.4g}" for name, value in metrics.items()}, refresh=False)
        if self._bar.total is not None and step > self._bar.total:
            self._bar.total = step
        self._bar.update(step - self._bar.n)

    def again(self, total: int | None, label: str) -> None:
        """Begin anew on the same line."""
        if self._bar is not None:
            self._bar.set_postfix(refresh=False)
            self._bar.set_description(label, refresh=False)
            self._bar.total = total  # which reset keeps where it is None
            self._bar.reset(total)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error) -> None:
        if self._bar is not None:
            self._bar.close()


def in_notebook() -> bool:
    """Return whether this runs in an IPython kernel, as notebooks do; IPython is not imported to find out."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


_HELP = "progress: whether a line shows how far it is; None: in notebooks alone."


class _Line:
    """The line of a fit, opened by its first stage."""

    def __init__(self, enabled: bool):
        self.enabled, self._bar = enabled and jax.process_index() == 0, None

    def begin(self, total: int | None, label: str) -> Progress:
        if self._bar is None:
            self._bar = Progress(total, label, self.enabled)
        else:
            self._bar.again(total, label)
        return self._bar

    def close(self) -> None:
        if self._bar is not None:
            self._bar.__exit__()


_LINE: contextvars.ContextVar[_Line | None] = contextvars.ContextVar("line", default=None)
_STAGE: contextvars.ContextVar[str | None] = contextvars.ContextVar("stage", default=None)


@contextlib.contextmanager
def _line(progress: bool | None) -> Iterator[_Line]:
    """Give the line of the fit that is under way, or one of its own where there is none or another wish."""
    line = _LINE.get()
    if line is not None and progress in (None, line.enabled):
        yield line
        return
    line = _Line(in_notebook() if progress is None else progress)
    before = _LINE.set(line)
    try:
        yield line
    finally:
        _LINE.reset(before)
        line.close()


@contextlib.contextmanager
def stage(label: str) -> Iterator[None]:
    """Name what is going on, for the line that is shown meanwhile."""
    before = _STAGE.set(label)
    try:
        yield
    finally:
        _STAGE.reset(before)


@contextlib.contextmanager
def shown(total: int | None, label: str, callback: Callback | None) -> Iterator[Callback | None]:
    """Give a callback that shows what it is told where that is wanted, and hands it on.

    Args:
      total: the step at which the work is done; None if unknown.
      label: what is going on, unless `stage` has said it.
      callback: who else is told; None for nobody.

    Example:
      >>> from otgen import progress
      >>> with progress.shown(10, "solve", lambda step, metrics: print(step, metrics)) as tell:
      ...     tell(10, {"chi2": 0.5})
      10 {'chi2': 0.5}
    """
    with _line(None) as line:
        if not line.enabled:
            yield callback
            return
        bar = line.begin(total, _STAGE.get() or label)

        def tell(step: int, metrics: dict[str, float]) -> None:
            bar(step, metrics)
            if callback:
                callback(step, metrics)

        yield tell


def watched(function: Function) -> Function:
    """Give a function that trains or solves the keyword `progress`: whether a line shows how far it is.

    None: where an IPython kernel runs, as in notebooks. A function that it calls may be told otherwise.

    Example:
      >>> from otgen import progress
      >>> @progress.watched
      ... def work():
      ...     with progress.shown(3, "work", None) as tell:
      ...         return tell is None
      >>> print(work())  # here is no notebook, and nobody else to be told
      True
    """
    signature = inspect.signature(function)
    more = inspect.Parameter("progress", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="bool | None")
    rest = [it for it in signature.parameters.values() if it.kind is not inspect.Parameter.VAR_KEYWORD]
    open_end = [it for it in signature.parameters.values() if it.kind is inspect.Parameter.VAR_KEYWORD]

    @functools.wraps(function)
    def call(*arguments: Any, progress: bool | None = None, **options: Any) -> Any:
        if not (progress is None or isinstance(progress, bool)):
            raise ValueError(f"progress = {progress!r}: give True, False, or None to show it in notebooks alone.")
        with _line(progress):
            return function(*arguments, **options)

    call.__signature__ = signature.replace(parameters=[*rest, more, *open_end])
    call.__doc__ = re.sub(r"\n {6}callback: .*(\n {8}.*)*", rf"\g<0>\n      {_HELP}", function.__doc__ or "", count=1)
    return call
