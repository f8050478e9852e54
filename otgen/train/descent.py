"""One step of an optimiser on a loss, averaged over devices, and the moving average of what it moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from otgen.train.state import TrainState
from otgen.types import Array, averaged

Loss = Callable[..., tuple[Array, dict[str, Array]]]


def moving_average(params: Any, average: Any, step: ArrayLike, decay: float) -> Any:
    """Return the exponential moving average after a step; the decay is smaller at first, to forget the start.

    Args:
      params: parameters after the step. average: their average before it.
      step: steps taken before. decay: weight of the past in the long run.
    """
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return optax.incremental_update(params, average, 1 - decay)


def descend(
    transform: optax.GradientTransformation,
    state: TrainState,
    loss: Loss,
    *arguments: Any,
    axis_name: str | None = None,
    decay: float | None = None,
) -> tuple[TrainState, dict[str, Array]]:
    """Take one step of an optimiser on `loss(params, *arguments) -> (value, metrics)`, averaged over devices.

    With a `decay` the state's moving average goes on as in `moving_average`.
    """
    gradient, metrics = jax.grad(loss, has_aux=True)(state.params, *arguments)
    gradient, metrics = averaged((gradient, metrics), axis_name)
    updates, opt_state = transform.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = state.average if decay is None else moving_average(params, state.average, state.step, decay)
    return TrainState(params, opt_state, state.step + 1, average), metrics
