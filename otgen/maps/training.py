"""What the solvers of a learned transport map share: settings, units, state, and the loop over batches of points."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from otgen.data.batches import batches
from otgen.train.descent import moving_average
from otgen.train.loop import train
from otgen.train.parallel import sample_keys, shared_rows
from otgen.train.settings import Checked
from otgen.train.state import TrainState
from otgen.train.state import start as begun
from otgen.types import Array, Callback, Key, Sampler

Update = Callable[..., tuple[TrainState, Any, dict[str, Array]]]
_TARGET = 0x7A26E7  # folded into the key of a run for draws of the target


@dataclasses.dataclass(frozen=True)
class MapSettings(Checked):
    """Training of a potential.

    Attributes:
      hidden: widths of the network.
      num_steps: updates of the parameters, rounded up to whole calls.
      batch_size: points of noise, and of codes, that an update uses, over all devices.
      learning_rate: peak of the rate, which warms up and falls as a cosine.
      average: decay of the moving average of the parameters that the map is made of.
      updates_per_call: updates that are compiled into one call.
    """

    hidden: Sequence[int] = (128, 128, 128)
    num_steps: int = 3000
    batch_size: int = 512
    learning_rate: float = 2e-3
    average: float = 0.998
    updates_per_call: int = 8

    def __post_init__(self) -> None:
        self.whole("num_steps", "batch_size", "updates_per_call")
        self.whole_each("hidden")
        if not self.hidden:
            raise ValueError("hidden is empty: give the widths of one or more layers.")
        self.positive("learning_rate")
        self.below_one("average")

    def transform(self) -> optax.GradientTransformation:
        """Return what makes updates of gradients: Adam, where a solver has nothing of its own."""
        return optimiser(self)


class Units(NamedTuple):
    """Places and sizes of the two laws. The solvers see both centred and with coordinates of unit variance.

    For |x - y|^2 the optimal map follows a shift and a scale of either side.

    Attributes:
      source_mean: [d]. source_scale: root of the mean variance of the coordinates [].
      code_mean, code_scale: the same of the codes.
    """

    source_mean: Array
    source_scale: Array
    code_mean: Array
    code_scale: Array


class Plan(NamedTuple):
    """How training is cut: codes and noise in an update, updates in a call, and calls."""

    rows: int
    updates: int
    calls: int


class State(NamedTuple):
    """What a call of the training step needs.

    Attributes:
      network: parameters and state of the optimiser.
      average: moving average of the parameters.
      table: what the solver keeps about the codes beside the network.
      step: calls made.
    """

    network: TrainState
    average: Any
    table: Any
    step: Array


def optimiser(settings: MapSettings) -> optax.GradientTransformation:
    """Adam with a short warm-up and cosine decay; its second moments forget sooner than by default."""
    return optax.adam(schedule(settings), b1=0.9, b2=0.99)


def schedule(settings: MapSettings) -> optax.Schedule:
    """Return the rate by updates: a short warm-up and cosine decay."""
    warm = min(200, max(1, settings.num_steps // 10))
    rate = settings.learning_rate
    return optax.warmup_cosine_decay_schedule(0.0, rate, warm, max(settings.num_steps, warm + 1), rate / 200)


def units_of(key: Key, sampler: Sampler, codes: Array, num: int = 2**15) -> Units:
    """Measure the codes [N, d], and the source by draws."""
    x = jax.jit(sampler, static_argnums=(1, 2))(key, num, codes.shape[1])
    return Units(x.mean(0), jnp.sqrt(x.var(0).mean()), codes.mean(0), jnp.sqrt(codes.var(0).mean()))


def standard(sampler: Sampler, units: Units, of: str = "source") -> Sampler:
    """Return the law of the source, or `of` the codes, centred and scaled."""
    mean, scale = (units.code_mean, units.code_scale) if of == "codes" else (units.source_mean, units.source_scale)
    return functools.partial(_standard, sampler, mean, scale)


def _standard(sampler: Sampler, mean: Array, scale: Array, key: Key, num: int, dim: int) -> Array:
    return (sampler(key, num, dim) - mean) / scale


def noise(sampler: Sampler, key: Key, step: Array, num: int, dim: int, axis_name: str | None) -> Array:
    """Return draws [num, dim] of the source for this device's samples of an update."""
    return jax.vmap(lambda one: sampler(one, 1, dim)[0])(sample_keys(key, step, num, axis_name))


def plan(settings: MapSettings, num_codes: int) -> Plan:
    """Return how training on so many codes is cut; a batch is never larger than the codes."""
    rows = shared_rows(settings.batch_size, num_codes)
    updates = min(settings.updates_per_call, num_codes // rows, settings.num_steps)
    return Plan(rows, updates, -(-settings.num_steps // updates))


def start(params: Any, settings: MapSettings, table: Any) -> State:
    """Return the state that training starts from."""
    return State(begun(settings.transform(), params), params, table, jnp.int32(0))


def make_step(update: Update, settings: MapSettings, target: Sampler | None = None):
    """Return the training step `(state, codes [b, updates, d], key, *, axis_name) -> (state, metrics)`.

    `update(network, table, y [b, d], key, axis_name) -> (network, table, metrics)` makes one of its updates. Where the
    target is a law that can be drawn from, y are fresh draws of it, as many as there are codes.
    """

    def step(state: State, codes: Array, key: Key, *, axis_name: str | None = None):
        batches = jnp.swapaxes(codes, 0, 1)
        updates = batches.shape[0]
        target_key = jax.random.fold_in(key, _TARGET)

        def one(carry: tuple, inputs: tuple) -> tuple[tuple, dict[str, Array]]:
            (network, average, table), (count, y) = carry, inputs
            if target is not None:
                y = noise(target, target_key, count, *y.shape, axis_name)
            network, table, metrics = update(network, table, y, key, axis_name)
            return (network, moving_average(network.params, average, count, settings.average), table), metrics

        counts = state.step * updates + jnp.arange(updates)
        carry, metrics = jax.lax.scan(one, state[:3], (counts, batches))
        return State(*carry, state.step + 1), jax.tree.map(lambda leaf: leaf.mean(0), metrics)

    return step


def run(
    key: Key,
    update: Update,
    state: State,
    codes: Array,
    settings: MapSettings,
    target: Sampler | None = None,
    *,
    callback: Callback | None = None,
    checkpoints: Any = None,
) -> State:
    """Make `settings.num_steps` updates, from the newest checkpoint if any.

    They see shuffled batches of codes [N, d], or fresh draws of the target if there is one.

    Raises:
      ValueError: if a batch does not divide among the devices.
    """
    rows, updates, calls = plan(settings, len(codes))
    order_key, step_key = jax.random.split(key)
    if checkpoints is not None:
        state = checkpoints.restore(state) or state
    feed = batches(order_key, (np.asarray(codes),), rows * updates, start=int(state.step), stop=calls)
    fold = functools.partial(_fold, updates)
    options = {"callback": callback, "checkpoints": checkpoints, "log_every": 10, "save_every": 250, "num_steps": calls}
    return train(make_step(update, settings, target), state, map(fold, feed), step_key, **options)


def _fold(updates: int, batch: tuple[Array]) -> Array:
    return batch[0].reshape(-1, updates, batch[0].shape[1])
