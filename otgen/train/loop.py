"""The training loop: steps, metrics, checkpoints, and a clean end when it is interrupted."""

from __future__ import annotations

import collections
import contextlib
import itertools
import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from otgen.data.batches import batches
from otgen.ot.check import as_count, as_key, require_function, require_kind
from otgen.progress import shown, watched
from otgen.train import hosts
from otgen.train.checkpoint import Checkpoints
from otgen.train.parallel import Placed, freed, mapped, placed, replicated, several
from otgen.types import Array, Callback, Key

Watch = Callable[[int, Any], None]


class NonFinite(ArithmeticError):
    """A logged metric became NaN or infinite.

    Example:
      >>> print(issubclass(og.train.NonFinite, ArithmeticError))
      True
    """


@watched
def train(
    step,
    state: Any,
    batches: Iterable[Any],
    key: Key,
    *,
    fixed: tuple[Any, ...] = (),
    callback: Callback | None = None,
    checkpoints: Checkpoints | None = None,
    watch: Watch | None = None,
    log_every: int = 50,
    save_every: int = 500,
    steps_per_call: int = 1,
    num_steps: int | None = None,
) -> Any:
    """Run a training step over batches.

    Args:
      step: `step(state, batch, key, *fixed, axis_name) -> (state, metrics)`; mapped over the devices here.
      state: what it starts from, with a field `step`.
      batches: the batches of the steps that follow; this host's rows of each.
      key: key of the run; the step folds the step number into it.
      fixed: pytrees of arrays that every step reads and none changes; they are not in the checkpoints.
      callback: called every `log_every` steps and at the end with the metrics as floats and the samples per second
        since the call before ("samples/s"), on the first host.
      checkpoints: where the state is saved every `save_every` steps, at the end, and when interrupted.
      watch: called with the step and the state every `save_every` steps, on the first host, to draw what is learned;
        the state is gone with the next step, so what is kept of it is a copy.
      log_every, save_every: how often, in steps.
      steps_per_call: steps that are one call of the device, so that small models do not wait for the host; only the
        last of them is logged. Their batches are held together.
      num_steps: the step that the last batch leads to, which a line of progress is drawn against; None if unknown.

    Returns:
      The state after the last batch, tied to no device.

    Raises:
      ValueError: for numbers of steps below 1, or `log_every` and, where something is saved or watched, `save_every`
        that `steps_per_call` does not divide.
      NonFinite: if a logged metric is NaN or infinite, with the step, the metric and the last good checkpoint.
      KeyboardInterrupt: on Ctrl-C or SIGTERM, after the state has been saved; a second one ends at once.

    Example:
      >>> def step(state, batch, key, *, axis_name=None):  # one step of gradient descent on (w - mean)^2
      ...     error = state.params - og.train.averaged(batch.mean(), axis_name)
      ...     return state._replace(params=state.params - 0.5 * error, step=state.step + 1), {"error": jnp.abs(error)}
      >>> state = og.train.TrainState(jnp.float32(0), (), jnp.int32(0))
      >>> state = og.train.train(step, state, [np.full(4, 3.0, np.float32)] * 20, jax.random.key(0))
      >>> print(state.params, state.step)
      3.0 20
    """
    _check(log_every, save_every, steps_per_call, checkpoints is not None or watch is not None)
    if num_steps is not None:
        as_count("num_steps", num_steps, 0)
    require_function("step", step), as_key(key), require_kind("batches", batches, Iterable)
    check_readers(callback, watch=watch)
    if checkpoints is not None:
        require_kind("checkpoints", checkpoints, Checkpoints)
    if not hasattr(state, "step"):
        raise ValueError(f"state is of type {type(state).__name__}: give a NamedTuple with a field step.")
    now, metrics, numbers, rate = int(state.step), None, {}, _Rate()
    fixed = tuple(replicated(tree) for tree in fixed)
    one = mapped(step, *fixed, donate=True)
    many = mapped(several(step), *fixed, donate=True) if steps_per_call > 1 else one
    state = replicated(state, copy=True)  # since its memory is given away
    with shown(num_steps, "training", callback) as callback, interruptions() as interrupted:
        for num, rows, batch in _ahead(_calls(batches, now, steps_per_call)):
            state, metrics = (one if num == 1 else many)(state, batch, key)
            now += num
            rate.add(rows * num)
            stop = interrupted()
            due = now % save_every == 0
            if due or stop or now % log_every == 0:
                numbers, metrics = report(now, metrics, callback, checkpoints, rate), None
            if (due or stop) and checkpoints is not None:
                save(now, state, checkpoints, numbers)
            if stop:
                _end(checkpoints)
            if due and watch is not None and hosts.is_first():
                watch(now, state)
        if metrics is not None:
            numbers = report(now, metrics, callback, checkpoints, rate)
        save(now, state, checkpoints, numbers)
        if interrupted():
            _end(checkpoints)
    return freed(state)


def check_readers(callback: Any, checkpoints: Any = None, watch: Any = None, *, stages: int = 1) -> None:
    """Check what a fit reports to and saves in, before it computes anything.

    Raises:
      ValueError: for callbacks that cannot be called, checkpoints that are neither Checkpoints nor a folder, and
        Checkpoints, which are those of one stage, where there are several.
    """
    for name, function in {"callback": callback, "watch": watch}.items():
        if function is not None:
            require_function(name, function)
    if checkpoints is None or isinstance(checkpoints, str | os.PathLike):
        return
    if not isinstance(checkpoints, Checkpoints):
        raise ValueError(f"checkpoints is of type {type(checkpoints).__name__}: give a folder, or train.Checkpoints.")
    if stages > 1:
        raise ValueError(f"checkpoints are those of one stage, and this fit has {stages}: give a folder for all.")


def _end(checkpoints: Checkpoints | None) -> None:
    """Interrupt, once what is saved in the background is there."""
    if checkpoints is not None:
        checkpoints.newest()
    raise KeyboardInterrupt


def _check(log_every: int, save_every: int, steps_per_call: int, saves: bool) -> None:
    for name, value in {"log_every": log_every, "save_every": save_every, "steps_per_call": steps_per_call}.items():
        as_count(name, value)
    if log_every % steps_per_call or (saves and save_every % steps_per_call):
        raise ValueError(
            f"steps_per_call = {steps_per_call} does not divide log_every = {log_every} and save_every = {save_every}."
        )


def _calls(batches: Iterable[Any], start: int, most: int) -> Iterator[tuple[int, Any]]:
    """Yield batches one by one or `most` together along a second axis, always the same ones, wherever a run resumes."""
    left, now = (jax.tree.map(_held, batch) for batch in batches), start
    while found := list(itertools.islice(left, most - now % most)):
        whole = len(found) == most
        now += len(found)
        if whole and most > 1:
            yield most, jax.tree.map(lambda *rows: np.stack(rows, 1), *found)
        else:
            yield from ((1, batch) for batch in found)


def _held(leaf: Any) -> Any:
    """Return an array that stays as it is: a feed may fill the same memory again before this batch is used."""
    return leaf.copy() if isinstance(leaf, np.ndarray) else leaf


def _ahead(calls: Iterable[tuple[int, Any]], num: int = 2) -> Iterator[tuple[int, int, Placed]]:
    """Yield steps, rows and batch of every call; the next batches are on their way to the devices."""
    queue: collections.deque = collections.deque()
    for steps, batch in calls:
        rows = jax.tree.leaves(batch)[0].shape[0] * jax.process_count()
        queue.append((steps, rows, placed(batch)))
        if len(queue) > num:
            yield queue.popleft()
    yield from queue


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
    return train(step, state, rows, keys[1], checkpoints=checkpoints, num_steps=num_steps, **options)


def save(step: int, state: Any, checkpoints: Checkpoints | None, metrics: dict[str, float] | None = None) -> None:
    """Save a state that is finite; raise NonFinite otherwise."""
    if not _finite(state):
        raise NonFinite(f"the state has NaN or infinite numbers at step {step}: {_advice(checkpoints)}.")
    if checkpoints:
        checkpoints.save(step, state, metrics)


@jax.jit
def _finite(state: Any) -> Array:
    """Return whether all numbers of a pytree are finite."""
    leaves = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
    return jnp.array([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def _advice(checkpoints: Checkpoints | None) -> str:
    try:
        good = checkpoints.newest() if checkpoints else None
    except OSError as error:  # of a save under way
        return f"lower the learning rate or look at the data; and {error}"
    where = f"the last checkpoint is step {good} in {checkpoints.folder}" if good is not None else "none was saved"
    return f"lower the learning rate or look at the data; {where}"


class _Rate:
    """Samples per second, over all hosts, since it was last asked for."""

    def __init__(self) -> None:
        self._seen, self._since = 0, time.perf_counter()

    def add(self, num: int) -> None:
        self._seen += num

    def take(self) -> float:
        now = time.perf_counter()
        found = self._seen / max(now - self._since, 1e-9)
        self._seen, self._since = 0, now
        return found


def report(
    step: int, metrics: dict, callback: Callback | None, checkpoints: Checkpoints | None, rate: _Rate
) -> dict[str, float]:
    """Return metrics as floats, refuse non-finite ones, and hand them to the callback on the first host."""
    numbers = {name: float(value) for name, value in metrics.items()}
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise NonFinite(f"{name} = {value} at step {step}: {_advice(checkpoints)}.")
    if callback and hosts.is_first():
        callback(step, {**numbers, "samples/s": rate.take()})
    return numbers


_ASKED = itertools.count(1)  # how often hosts have asked whether to stop: the same on all of them


@contextlib.contextmanager
def interruptions() -> Iterator[Callable[[], bool]]:
    """Hold back Ctrl-C and SIGTERM while inside; what it gives says after a step whether to save and stop there.

    Several hosts stop at the same step, whichever of them was told to. A second signal interrupts at once. Signals
    that are ignored stay ignored; outside the main thread, where they cannot be handled, nothing is held back.
    """
    told, me = [], os.getpid()

    def handle(number, frame):
        if os.getpid() != me:  # a worker that the feed has forked
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif told:
            raise KeyboardInterrupt
        else:
            told.append(number)
            if jax.process_count() > 1:
                os.kill(os.getpid(), signal.SIGTERM)

    def interrupted() -> bool:
        if jax.process_count() == 1:
            return bool(told)
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(next(_ASKED))

    # JAX handles SIGTERM where there are several hosts, and tells the others.
    numbers = (signal.SIGINT,) if jax.process_count() > 1 else (signal.SIGINT, signal.SIGTERM)
    before: dict[int, Any] = {}
    try:
        for number in numbers:
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, handle)
    except ValueError:
        yield interrupted
        return
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
