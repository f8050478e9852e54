"""What a training step carries: parameters, optimiser state, step number, and a moving average where there is one."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from otgen.types import Array


class TrainState(NamedTuple):
    """Replicated state of a trained network.

    Attributes:
      params: pytree of parameters.
      opt_state: state of the optax optimiser.
      step: steps taken (int32).
      average: moving average of the parameters, or None.

    Example:
      >>> state = og.train.TrainState({"w": jnp.zeros(3)}, (), jnp.int32(0))
      >>> print(state._replace(step=state.step + 1).step)
      1
    """

    params: Any
    opt_state: Any
    step: Array
    average: Any = None


def start(transform: optax.GradientTransformation, params: Any, *, average: bool = False) -> TrainState:
    """Return the state that training starts from, if asked with a moving average, which starts at the parameters."""
    return TrainState(params, transform.init(params), jnp.int32(0), params if average else None)
