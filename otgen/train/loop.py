"""The training loop: steps, metrics, checkpoints, and a clean end when it is interrupted."""

from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from otgen.data.batches import batches
from otgen.train.checkpoint import Checkpoints
from otgen.train.parallel import mapped
from otgen.types import Callback, Key


class NonFinite(ArithmeticError):
    """A logged metric became NaN or infinite."""


def train(
    step,
    state: Any,
    batches: Iterable[Any],
    key: Key,
    *,
    fixed: tuple[Any, ...] = (),
    callback: Callback | None = None,
    checkpoints: Checkpoints | None = None,
    log_every: int = 50,
    save_every: int = 500,
) -> Any:
    """Run a training step over batches.

    Args:
      step: `step(state, batch, key, *fixed, axis_name) -> (state, metrics)`; mapped over the local devices here.
      state: what it starts from, with a field `step`.
      batches: the batches of the steps that follow.
      key: key of the run; the step folds the step number into it.
      fixed: pytrees of arrays that every step reads and none changes; they are not in the checkpoints.
      callback: called every `log_every` steps and at the end with the metrics as floats.
      checkpoints: where the state is saved every `save_every` steps, at the end, and when interrupted.

    Returns:
      The state after the last batch.

    Raises:
      NonFinite: if a logged metric is NaN or infinite, with the step, the metric and the last good checkpoint.
      KeyboardInterrupt: on Ctrl-C or SIGTERM, after the state has been saved.
    """
    run, now, metrics = mapped(step, *fixed), int(state.step), None
    try:
        with sigterm_interrupts():
            for batch in batches:
                state, metrics = run(state, batch, key)
                now += 1
                due = checkpoints is not None and now % save_every == 0
                if due or now % log_every == 0:
                    report(now, metrics, callback, checkpoints)
                    metrics = None
                if due:
                    save(now, state, checkpoints)
    except KeyboardInterrupt:
        if checkpoints:
            save(int(state.step), state, checkpoints)
        raise
    if metrics is not None:
        report(now, metrics, callback, checkpoints)
    save(now, state, checkpoints)
    return state


def train_on(
    arrays: tuple[Any, ...],
    step,
    state: Any,
    keys: tuple[Key, Key],
    *,
    num_steps: int,
    batch_size: int,
    checkpoints: Checkpoints | None = None,
    **options: Any,
) -> Any:
    """Run a training step over shuffled batches of arrays in memory, going on from the newest checkpoint if any.

    Args:
      arrays: arrays that share their first axis; a step sees one array as it is, several as a tuple.
      step: as in `train`.
      state: what training starts from.
      keys: key of the order of the rows, and key of the steps.
      num_steps: steps in all, those before the checkpoint included.
      batch_size: rows a step, over all devices.
      checkpoints, **options: as in `train`.

    Returns:
      The state after the last step.

    Raises:
      ValueError: for a batch larger than the data, or one that does not divide among the devices.
      NonFinite, KeyboardInterrupt: as `train`.
    """
    if checkpoints is not None:
        restored = checkpoints.restore(state)
        state = state if restored is None else restored
    feed = batches(keys[0], arrays, batch_size, start=int(state.step), stop=num_steps)
    rows = (batch[0] if len(arrays) == 1 else batch for batch in feed)
    return train(step, state, rows, keys[1], checkpoints=checkpoints, **options)


def save(step: int, state: Any, checkpoints: Checkpoints | None) -> None:
    """Save a state that is finite; raise NonFinite otherwise."""
    leaves = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in leaves):
        raise NonFinite(f"the state has NaN or infinite numbers at step {step}: {_advice(checkpoints)}.")
    if checkpoints:
        checkpoints.save(step, state)


def _advice(checkpoints: Checkpoints | None) -> str:
    good = checkpoints.newest() if checkpoints else None
    where = f"the last checkpoint is step {good} in {checkpoints.folder}" if good is not None else "none was saved"
    return f"lower the learning rate or look at the data; {where}"


def report(step: int, metrics: dict, callback: Callback | None, checkpoints: Checkpoints | None) -> None:
    """Turn metrics into floats, refuse non-finite ones, and hand them to the callback."""
    numbers = {name: float(value) for name, value in metrics.items()}
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise NonFinite(f"{name} = {value} at step {step}: {_advice(checkpoints)}.")
    if callback:
        callback(step, numbers)


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C while inside, where signal handlers may be set (the main thread)."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
