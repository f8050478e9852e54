"""What a training step carries: parameters, optimiser state, step number."""

from __future__ import annotations

from typing import Any, NamedTuple

from otgen.types import Array


class TrainState(NamedTuple):
    """Replicated state of a trained network.

    Attributes:
      params: pytree of parameters.
      opt_state: state of the optax optimiser.
      step: steps taken (int32).

    Example:
      >>> state = og.train.TrainState({"w": jnp.zeros(3)}, (), jnp.int32(0))
      >>> print(state._replace(step=state.step + 1).step)
      1
    """

    params: Any
    opt_state: Any
    step: Array
