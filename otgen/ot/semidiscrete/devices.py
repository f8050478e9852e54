"""The loops of a semi-discrete solve, on one device or with the points shared out among several.

With several, each holds a block of the points and their heights and sees all samples; which device wins a sample is
found by a maximum over them. The arithmetic of a step is that of one device but for the order of a few sums: given the
same heights it gives the same to rounding. A run is bit-identical on the same machine with the same number of devices;
over another number rounding grows from step to step, since one sample that changes cells moves a height by a step.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from otgen.ot.semidiscrete import descent, measure
from otgen.types import Array, Float, Key, Sampler

_AXIS = "points"
LEAST = 4096  # points of a device: fewer are scored before devices have told each other who won


def mesh_of(devices: Sequence[jax.Device] | None, y: Any = None) -> Mesh | None:
    """Return the devices as a mesh with one axis; None where all runs on one, that of the points.

    Args:
      devices: None for as many of this host's as have `LEAST` points each, but only the one to which the points are
        tied, or which is set as JAX's default.
      y: points [N, d], for None.

    Raises:
      ValueError: for devices that repeat, or none in the sequence.
    """
    if devices is None:
        tied = jax.config.jax_default_device is not None or (isinstance(y, jax.Array) and y.committed)
        devices = jax.local_devices()[: 1 if tied else max(1, len(y) // LEAST)]
        return Mesh(np.array(devices), (_AXIS,)) if len(devices) > 1 else None
    devices = list(devices) if isinstance(devices, Sequence) else [devices]
    if not devices or len(set(devices)) != len(devices) or not all(isinstance(it, jax.Device) for it in devices):
        raise ValueError(f"devices = {devices}: give at least one, and each once; jax.local_devices() is all of them.")
    return Mesh(np.array(devices), (_AXIS,))


def place(tree: Any, mesh: Mesh | None, fill: float = 0.0) -> Any:
    """Lay arrays with an entry per point out over the mesh in equal blocks, padded with `fill`; scalars everywhere.

    On several hosts each holds the whole arrays, and puts its blocks on its own devices.
    """
    if mesh is None:
        return tree

    def put(leaf):
        leaf = jnp.asarray(leaf)
        spec = P(_AXIS) if leaf.ndim else P()
        if leaf.ndim and (rows := -leaf.shape[0] % mesh.size):
            leaf = jnp.pad(leaf, [(0, rows)] + [(0, 0)] * (leaf.ndim - 1), constant_values=fill)
        sharding = NamedSharding(mesh, spec)
        if not mesh.is_multi_process:
            return jax.device_put(leaf, sharding)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda block: leaf[block])

    return jax.tree.map(put, tree)


def place_state(state: descent.State, mesh: Mesh | None) -> descent.State:
    """Return the state over the mesh; the heights of what pads a block never win."""
    placed = place(state, mesh)
    if mesh is None:
        return placed
    h, iterate = (place(array, mesh, descent.EXCLUDED) for array in (state.h, state.iterate))
    return placed._replace(h=h, iterate=iterate)


def collect(tree: Any, mesh: Mesh | None, num: int) -> Any:
    """Return arrays that were laid out over the mesh, back on the default device and without what pads them."""
    if mesh is None:
        return tree
    return jax.tree.map(lambda leaf: leaf[:num] if leaf.ndim else leaf, fetched(tree, mesh))


def fetched(tree: Any, mesh: Mesh) -> Any:
    """Return arrays over the mesh as whole arrays on the default device; all hosts of the mesh call it together.

    The devices tell each other their blocks; a host then has a copy on a device of its own.
    """
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf.addressable_data(0))), _everywhere(tree, mesh))


@functools.partial(jax.jit, static_argnames="mesh")
def _everywhere(tree: Any, mesh: Mesh) -> Any:
    return lax.with_sharding_constraint(tree, NamedSharding(mesh, P()))


def agreed(answer: bool, mesh: Mesh | None) -> bool:
    """Return what the first process answers, on all of them, where the mesh spans several; clocks differ."""
    if mesh is None or not mesh.is_multi_process:
        return answer
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(jnp.int32(answer)))


_POINTS, _ALL = P(_AXIS), P()
_STATE = descent.State(_POINTS, _POINTS, _POINTS, _POINTS, _ALL, descent.Schedule(_ALL, _ALL, _ALL, _ALL))


@functools.partial(jax.jit, static_argnames=("sampler", "batch_size", "mesh"))
def advance(
    key: Key,
    state: descent.State,
    y: Float[Array, "N d"],
    weights: Float[Array, " N"],
    num_steps: Array | int,
    sampler: Sampler,
    batch_size: int,
    mesh: Mesh | None = None,
) -> descent.State:
    """Take `num_steps` steps; see `descent.step`. Arrays as `place` returns them."""

    def loop(key, state, y, weights, num_steps):
        step = functools.partial(descent.step, sampler=sampler, batch_size=batch_size, points_axis=mesh and _AXIS)
        return lax.fori_loop(0, num_steps, lambda _, state: step(key, state, y, weights), state)

    if mesh is None:
        return loop(key, state, y, weights, num_steps)
    specs = (_ALL, _STATE, _POINTS, _POINTS, _ALL)
    shared = jax.shard_map(loop, mesh=mesh, in_specs=specs, out_specs=_STATE, check_vma=False)
    return shared(key, state, y, weights, num_steps)


@functools.partial(jax.jit, static_argnames=("num", "sampler", "mesh"))
def count(
    key: Key,
    y: Float[Array, "N d"],
    weights: Float[Array, " N"],
    h: Float[Array, " N"],
    num: int,
    sampler: Sampler,
    mesh: Mesh | None = None,
) -> measure.Counts:
    """Count where `num` fresh samples fall; see `measure.count`. Arrays as `place` returns them."""
    if mesh is None:
        return measure.count(key, y, weights, h, num, sampler)
    counting = functools.partial(measure.count, num=num, sampler=sampler, points_axis=_AXIS)
    outputs = measure.Counts(P(None, _AXIS), _ALL, _ALL, _ALL, _ALL)
    specs = (_ALL, _POINTS, _POINTS, _POINTS)
    return jax.shard_map(counting, mesh=mesh, in_specs=specs, out_specs=outputs, check_vma=False)(key, y, weights, h)
