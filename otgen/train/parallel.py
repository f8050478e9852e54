"""One training step on one device or many: the only file that says pmap."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding
from jax.typing import ArrayLike

from otgen.ot.check import require_function
from otgen.types import Array, Key

AXIS = "devices"


def mapped(
    step: Callable[..., tuple[Any, dict]], *fixed: Any, donate: bool = False
) -> Callable[[Any, Any, Key], tuple[Any, dict]]:
    """Map a training step over the devices of all hosts, with replicated state and the batch split by rows.

    Where there is one device in all the step is jitted as it is: an average over one device is not free.

    Args:
      step: `step(state, batch, key, *fixed, axis_name) -> (state, metrics)`, averaging what it reduces
        over `axis_name` by `averaged` of `otgen.types`, so that state and metrics come out equal on every device.
        `axis_name` is None on one device.
      *fixed: pytrees of arrays that every step reads and none changes; replicated once.
      donate: whether the memory of a state that was given is used for the one that comes back: the former is gone.
        Static.

    Returns:
      `(state, batch, key) -> (state, metrics)` for this host's rows of a batch, which must divide among its devices.

    Example:
      >>> def step(state, batch, key, *, axis_name=None):
      ...     return state + og.train.averaged(batch.mean(), axis_name), {}
      >>> state, _ = og.train.mapped(step)(jnp.float32(1), np.array([2.0, 4.0], np.float32), jax.random.key(0))
      >>> print(state)
      4.0
    """
    require_function("step", step)
    given = (0,) if donate else ()
    if alone():
        every = jax.jit(functools.partial(step, axis_name=None), donate_argnums=given)
    else:
        axes = (None, 0, None, *(None,) * len(fixed))
        here = functools.partial(step, axis_name=AXIS)
        every = jax.pmap(here, axis_name=AXIS, in_axes=axes, out_axes=None, donate_argnums=given)
    fixed = tuple(replicated(tree) for tree in fixed)

    def call(state: Any, batch: Any, key: Key) -> tuple[Any, dict]:
        batch = batch.tree if isinstance(batch, Placed) else split(batch)
        return every(replicated(state), batch, key, *fixed)

    return call


def alone() -> bool:
    """Return whether there is one device in all, over all hosts."""
    return jax.device_count() == 1


def several(step: Callable[..., tuple[Any, dict]]) -> Callable[..., tuple[Any, dict]]:
    """Turn a training step into one that takes several in a row: it is given their batches along a second axis.

    The metrics are those of the last step. Small models are then not held up by the time a call takes.

    Args:
      step: as in `mapped`; the batches it sees are `batch[:, i]`.
    """

    def steps(state: Any, batch: Any, key: Key, *fixed: Any, axis_name: str | None = None) -> tuple[Any, dict]:
        def one(state: Any, part: Any) -> tuple[Any, dict]:
            return step(state, part, key, *fixed, axis_name=axis_name)

        state, metrics = jax.lax.scan(one, state, jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), batch))
        return state, jax.tree.map(lambda values: values[-1], metrics)

    return steps


def replicated(state: Any, *, copy: bool = False) -> Any:
    """Put a state on the devices of this host the way a mapped step returns it, or its second call compiles once more.

    Args:
      state: pytree of arrays.
      copy: whether the result must share no memory with what was given, nor one leaf with another.
    """
    if copy:
        state = jax.tree.map(jnp.copy, state)
    first = next((leaf for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array)), None)
    if first is not None and first.committed and first.sharding == _over_devices():
        return state
    return jax.device_put(state, _over_devices())


def freed(state: Any) -> Any:
    """Return a state tied to no device, as arrays that JAX makes are: one copy, where computations begin by default.

    Arrays that were put on devices tie whatever is computed from them to these, so that every function is compiled
    again for them, and on several devices they are all at work on the same.
    """

    def one(leaf: Any) -> Any:
        if not (isinstance(leaf, jax.Array) and leaf.committed) or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        return jnp.asarray(np.asarray(leaf.addressable_data(0)))

    return jax.tree.map(one, state)


@functools.cache
def _over_devices(*axes: str) -> Sharding:
    """Return arrays on the devices of this host: split along the first axis if it is named, else all of it on each."""
    if alone():
        return SingleDeviceSharding(jax.devices()[0])
    return NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), PartitionSpec(*axes))


class Placed(NamedTuple):
    """A batch that lies on the devices of this host already, as a mapped step takes it."""

    tree: Any


def placed(batch: Any) -> Placed:
    """Send a batch to the devices, without waiting until it is there.

    Raises:
      ValueError: if the rows do not divide among the devices.
    """
    return Placed(jax.device_put(split(batch), _over_devices(AXIS)))


def gathered(rows: Any, axis_name: str | None) -> Any:
    """Return the rows [n, ...] of every device, one after the other, on all of them: [devices * n, ...].

    What is computed from them, such as a transport problem, is that of the whole batch rather than one for each
    device. Gradients flow back to the device a row came from; average them over devices as usual.

    Args:
      rows: pytree of arrays that share their first axis.
      axis_name: the mapped axis, if there is one. Static.
    """
    if axis_name is None:
        return rows
    return jax.tree.map(lambda leaf: jax.lax.all_gather(leaf, axis_name, tiled=True), rows)


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


def shared_rows(batch_size: int, num_rows: int, each: int = 1) -> int:
    """Return the rows of a step that all devices share evenly: a whole batch, fewer where there are fewer rows.

    Args:
      batch_size: rows of a step that are asked for, over all devices.
      num_rows: rows that there are.
      each: what the rows of a device must be a multiple of.

    Raises:
      ValueError: if a whole batch does not divide among the devices, with the nearest that do; if there are fewer rows
        than devices need.
    """
    unit = each * jax.device_count()
    if num_rows < batch_size:
        batch_size = max(num_rows - num_rows % unit, unit)
    _require_shares("batch_size", batch_size, unit)
    if num_rows < batch_size:
        raise ValueError(
            f"{num_rows} rows for steps of {batch_size} on {jax.device_count()} device(s): give more rows."
        )
    return batch_size


def _require_shares(name: str, rows: int, unit: int) -> None:
    if rows % unit:
        below, above = rows - rows % unit, rows - rows % unit + unit
        near = f"{below} or {above}" if below else f"{above}"
        raise ValueError(
            f"{name} = {rows} does not divide among the devices, which share multiples of {unit}: give {near}."
        )


def split(batch: Any) -> Any:
    """Reshape every leaf [b, ...] of a batch to [devices, b / devices, ...]; on one device in all leave it as it is.

    Raises:
      ValueError: if the rows do not divide among the devices.
    """
    if alone():
        return batch
    devices = jax.local_device_count()
    rows = jax.tree.leaves(batch)[0].shape[0]
    _require_shares("a batch's rows", rows, devices)
    return jax.tree.map(lambda leaf: leaf.reshape(devices, rows // devices, *leaf.shape[1:]), batch)
