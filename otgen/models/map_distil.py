"""A learned transport map put into one network, for sampling in a single pass.

Minimises E |S(x) - T(x)|^2 over networks S, x fresh draws of the source. Where T jumps, S cannot: it passes
through what lies between.
"""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.models import neural_map
from otgen.models.fitting import descend, moving_average
from otgen.models.map_training import MapSettings, State, noise, optimiser, start
from otgen.nn.potentials import Displacement
from otgen.train.loop import train
from otgen.types import Array, Callback, Key


def loss(params: Any, module: Displacement, x: Array, to: Array) -> tuple[Array, dict[str, Array]]:
    """Return the mean squared distance of the network's images of x [n, d] from `to` [n, d]."""
    value = jnp.mean(jnp.sum((module.apply({"params": params}, x) - to) ** 2, axis=1))
    return value, {"loss": value}


def distil(
    key: Key,
    map_: neural_map.Map,
    *,
    form: str | None = None,
    temperature: ArrayLike | None = None,
    callback: Callback | None = None,
    checkpoints: Any = None,
    **config: Any,
) -> tuple[Displacement, Any]:
    """Train a network to do what a map does.

    Args:
      key: random key.
      map_: from `neural_map.fit`.
      form, temperature: as in `neural_map.transport`.
      callback, checkpoints: as in `train.train`.
      **config: fields of `map_training.MapSettings`; a step is one update.

    Returns:
      The network and its parameters.

    Raises:
      ValueError: for fields out of range, and as `neural_map.transport`.
    """
    settings = MapSettings(**{"hidden": (512, 512), "num_steps": 5000, "learning_rate": 1e-3, **config})
    init_key, step_key = jax.random.split(key)
    dim = map_.codes.shape[1]
    module, transform = Displacement(settings.hidden), optimiser(settings)
    neural_map.transport(map_, jnp.zeros((1, dim)), form, temperature)  # raises for what cannot be meant

    def step(state: State, batch: Array, key: Key, *, axis_name: str | None = None):
        x = noise(map_.sampler, key, state.step, batch.shape[0], dim, axis_name)
        moved = neural_map.transport(state.table, x, form, temperature)
        network, metrics = descend(transform, state.network, loss, module, x, moved, axis_name=axis_name)
        average = moving_average(network.params, state.average, state.step, settings.average)
        return State(network, average, state.table, state.step + 1), metrics

    state = start(module.init(init_key, jnp.zeros((1, dim)))["params"], settings, map_)
    if checkpoints is not None:
        state = checkpoints.restore(state) or state
    feed = itertools.repeat(jnp.zeros(settings.batch_size), settings.num_steps - int(state.step))
    state = train(step, state, feed, step_key, callback=callback, checkpoints=checkpoints)
    return module, state.average
