"""What the solvers of a learned transport map share: settings, state, and the loop over batches of codes."""

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
from otgen.models.fitting import moving_average
from otgen.models.settings import Settings
from otgen.train.loop import train
from otgen.train.parallel import sample_keys
from otgen.train.state import TrainState
from otgen.types import Array, Callback, Key, Sampler

Update = Callable[..., tuple[TrainState, Any, dict[str, Array]]]


@dataclasses.dataclass(frozen=True)
class MapSettings:
    """Training of a potential.

    Attributes:
      hidden: widths of the network.
      num_steps: updates of the parameters.
      batch_size: points of noise, and of codes, that an update uses, over all devices.
      learning_rate: peak of the warm-up and cosine schedule of Adam.
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
        object.__setattr__(self, "hidden", tuple(self.hidden))
        for name in ("num_steps", "batch_size", "updates_per_call"):
            Settings.whole(name, getattr(self, name))
        if not self.hidden:
            raise ValueError("hidden is empty: give the widths of one or more layers.")
        for units in self.hidden:
            Settings.whole("hidden", units)
        Settings.positive(self, "learning_rate")
        if not 0 <= self.average < 1:
            raise ValueError(f"average = {self.average} is no decay: give 0 (none) to below 1.")


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
    warm = min(200, max(1, settings.num_steps // 10))
    rate = settings.learning_rate
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, warm, max(settings.num_steps, warm + 1), rate / 200)
    return optax.adam(schedule, b1=0.9, b2=0.99)


def noise(sampler: Sampler, key: Key, step: Array, num: int, dim: int, axis_name: str | None) -> Array:
    """Draws [num, dim] of the source for this device's samples of an update."""
    return jax.vmap(lambda one: sampler(one, 1, dim)[0])(sample_keys(key, step, num, axis_name))


def moments(sampler: Sampler, key: Key, dim: int, num: int = 2**15) -> tuple[Array, Array]:
    """Mean [dim] and covariance [dim, dim] of the source, from draws."""
    x = jax.jit(sampler, static_argnums=(1, 2))(key, num, dim)
    return x.mean(0), jnp.atleast_2d(jnp.cov(x.T))


def start(params: Any, settings: MapSettings, table: Any) -> State:
    """The state that training starts from."""
    network = TrainState(params, optimiser(settings).init(params), jnp.int32(0))
    return State(network, params, table, jnp.int32(0))


def make_step(update: Update, settings: MapSettings):
    """Return the training step `(state, (codes, index), key, *, axis_name) -> (state, metrics)`: several updates.

    `update(network, table, codes [b, d], index [b], key, axis_name) -> (network, table, metrics)` makes one.
    """

    def step(state: State, batch: tuple[Array, Array], key: Key, *, axis_name: str | None = None):
        def one(carry: tuple, rows: tuple[Array, Array]) -> tuple[tuple, dict[str, Array]]:
            network, average, table = carry
            before = network.step
            network, table, metrics = update(network, table, *rows, key, axis_name)
            return (network, moving_average(network.params, average, before, settings.average), table), metrics

        turned = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), batch)
        carry, metrics = jax.lax.scan(one, state[:3], turned)
        return State(*carry, state.step + 1), jax.tree.map(lambda leaf: leaf.mean(0), metrics)

    return step


def run(
    key: Key,
    update: Update,
    state: State,
    codes: Array,
    settings: MapSettings,
    *,
    callback: Callback | None = None,
    checkpoints: Any = None,
) -> State:
    """Make `settings.num_steps` updates on shuffled batches of codes [N, d], from the newest checkpoint if any."""
    rows = min(settings.batch_size, len(codes))
    rows -= rows % jax.local_device_count()
    together = min(settings.updates_per_call, len(codes) // rows, settings.num_steps)
    order_key, step_key = jax.random.split(key)
    if checkpoints is not None:
        state = checkpoints.restore(state) or state
    arrays = np.asarray(codes), np.arange(len(codes), dtype=np.int32)
    calls = -(-settings.num_steps // together)
    feed = batches(order_key, arrays, rows * together, start=int(state.step), stop=calls)
    fold = functools.partial(_fold, rows, together)
    options = {"callback": callback, "checkpoints": checkpoints, "log_every": 10, "save_every": 250}
    return train(make_step(update, settings), state, map(fold, feed), step_key, **options)


def _fold(rows: int, together: int, batch: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(leaf.reshape(rows, together, *leaf.shape[1:]) for leaf in batch)
