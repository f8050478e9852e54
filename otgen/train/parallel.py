"""One training step on one device or many: the only file that says pmap."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from otgen.types import Array, Key

AXIS = "devices"


def mapped(step: Callable[..., tuple[Any, dict]], *fixed: Any) -> Callable[[Any, Any, Key], tuple[Any, dict]]:
    """Map a training step over the local devices, with replicated state and the batch split along its first axis.

    Args:
      step: `step(state, batch, key, *fixed, axis_name) -> (state, metrics)`, averaging what it reduces over
        `axis_name`, so that state and metrics come out equal on every device.
      *fixed: pytrees of arrays that every step reads and none changes; replicated once.

    Returns:
      `(state, batch, key) -> (state, metrics)` for a whole batch. The batch's rows must divide among the devices.
    """
    axes = (None, 0, None, *(None,) * len(fixed))
    every = jax.pmap(functools.partial(step, axis_name=AXIS), axis_name=AXIS, in_axes=axes, out_axes=None)
    fixed = tuple(replicated(tree) for tree in fixed)

    def call(state: Any, batch: Any, key: Key) -> tuple[Any, dict]:
        return every(replicated(state), split(batch), key, *fixed)

    return call


def replicated(state: Any) -> Any:
    """Put a state on the local devices the way a mapped step returns it, or its second call compiles once more."""
    everywhere = NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), PartitionSpec())
    first = next((leaf for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array)), None)
    if jax.process_count() > 1 or (first is not None and first.sharding == everywhere):
        return state
    return jax.device_put(state, everywhere)


def sample_keys(key: Key, step: ArrayLike, num: int, axis_name: str | None = None) -> Key:
    """Return keys [num] for the samples of this device, from the step and their place in the whole batch.

    What is drawn from them does not depend on how many devices share the batch.

    Args:
      key: key of the run.
      step: the training step.
      num: samples on this device. Static.
      axis_name: the mapped axis, if there is one.
    """
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * num
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, step), first + jnp.arange(num))


def normals(key: Key, step: ArrayLike, num: int, dim: int, axis_name: str | None = None) -> Array:
    """Draw standard normal vectors [num, dim] for the samples of this device, by `sample_keys`."""
    return jax.vmap(lambda one: jax.random.normal(one, (dim,)))(sample_keys(key, step, num, axis_name))


def split(batch: Any) -> Any:
    """Reshape every leaf [b, ...] of a batch to [devices, b / devices, ...].

    Raises:
      ValueError: if the rows do not divide among the devices.
    """
    devices = jax.local_device_count()
    rows = jax.tree.leaves(batch)[0].shape[0]
    if rows % devices:
        raise ValueError(f"a batch of {rows} rows does not divide among {devices} devices: choose a multiple.")
    return jax.tree.map(lambda leaf: jnp.reshape(leaf, (devices, rows // devices, *leaf.shape[1:])), batch)
