"""What all couplings share: the batch they give, labels as classes or conditions, and the noise of a key."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen.ot.check import as_array, as_count, as_key, is_traced, native, poison, require_channels_last
from otgen.ot.semidiscrete.source import as_sampler, independent
from otgen.types import Array, Key, Sampler


class Batch(NamedTuple):
    """Pairs of noise and data, which a step of flow matching takes.

    Attributes:
      x0: noise [B, ...], draws of the source's law.
      x1: the data that they are paired with [B, ...].
      label: numbers of their classes [B], int32, from 0 in the order of the labels; or their conditions [B, c]; None
        without labels.
      weight: what each pair counts [B], 1 on average.
      index: which data they are [B], int32.

    Example:
      >>> data = jnp.arange(6.0)[:, None]
      >>> batch = og.coupling.Independent(data).pair(jax.random.key(0), 4)
      >>> print(batch.x0.shape, jnp.array_equal(batch.x1, data[batch.index]), batch.label, batch.weight)
      (4, 1) True None [1. 1. 1. 1.]
    """

    x0: Array
    x1: Array
    label: Array | None
    weight: Array
    index: Array


class Classes(NamedTuple):
    """Labels of data as numbers of classes, and where the data of each class are.

    Attributes:
      number: class of every data point [N], int32: 0 ... K - 1 in the order of the labels.
      known: the label of every class [K], int32.
      order: the data in the order of their classes [N], int32.
      start: where in `order` those of a class begin, and where they end [K + 1], int32.

    Example:
      >>> classes = og.coupling.Independent(jnp.zeros((4, 2)), labels=[7, 3, 7, 5]).labels
      >>> print(classes.number, classes.known, classes.order, classes.start)
      [2 0 2 1] [3 5 7] [1 3 0 2] [0 1 2 4]
    """

    number: Array
    known: Array
    order: Array
    start: Array


def classes_of(labels: np.ndarray) -> Classes:
    """Return integer labels [N] as classes."""
    known, number = np.unique(labels, return_inverse=True)
    number = number.reshape(-1)
    if known.size and not (known.min() >= -(2**31) and known.max() < 2**31):
        raise ValueError(f"labels reach from {known.min()} to {known.max()}: give integers of 32 bits.")
    order = np.argsort(number, kind="stable")
    start = np.concatenate([[0], np.cumsum(np.bincount(number, minlength=len(known)))])
    return Classes(*(jax.device_put(it.astype(np.int32)) for it in (number, known, order, start)))


def as_labels(labels: Any, num: int) -> Classes | Array | None:
    """Return integers [N] as Classes, floats [N] or [N, c] as conditions [N, c]; Classes and None as they are.

    Raises:
      ValueError: for labels of another number, or that are neither.
    """
    if labels is None or isinstance(labels, Classes):
        return labels
    if is_traced(labels):
        raise ValueError("labels are traced: make the coupling outside jit, and hand it over as an argument.")
    labels = native("labels", labels)
    if labels.dtype == bool:
        labels = labels.astype(np.int32)
    whole = jnp.issubdtype(labels.dtype, jnp.integer)
    if labels.shape[:1] != (num,) or labels.ndim > (1 if whole else 2) or 0 in labels.shape:
        raise ValueError(
            f"labels have shape {labels.shape} and type {labels.dtype}: give {num} integers, the classes of the data, "
            f"or conditions, floats [{num}, c]."
        )
    return classes_of(np.asarray(labels)) if whole else as_array("labels", labels).reshape(num, -1)


def settled(coupling: Any) -> None:
    """Check the data, labels and source of a new coupling, and make arrays of them.

    Raises:
      ValueError: for data that are not rows [N, ...] of numbers, or finite, and as `as_labels`.
    """
    data = native("data", coupling.data)
    if data.ndim < 2 or 0 in data.shape:
        raise ValueError(f"data have shape {data.shape}: give rows [N, ...]. Numbers are a column: data[:, None].")
    object.__setattr__(coupling, "data", as_array("data", data))
    object.__setattr__(coupling, "labels", as_labels(coupling.labels, data.shape[0]))
    as_sampler(coupling.sampler)


def asked(coupling: Any, key: Key, num: int, labels: ArrayLike | None) -> tuple[Key, int, Array | None]:
    """Return the arguments of a `pair`, checked: the key, the number of pairs, the class of each [num] or None.

    Raises:
      ValueError: for classes where there are none, of another number, or (outside jit) out of range.
    """
    key, num = as_key(key), as_count("num", num)
    if labels is None:
        return key, num, None
    if not isinstance(coupling.labels, Classes):
        told = "made without labels" if coupling.labels is None else "one of conditions, which come with the data"
        raise ValueError(f"labels were given, but this coupling is {told}: leave them out.")
    labels, most = native("labels", labels), coupling.labels.known.shape[0]
    if labels.shape not in ((), (num,)) or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels have shape {labels.shape}, type {labels.dtype}: give {num} integers, or one.")
    if not is_traced(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < most):
        raise ValueError(
            f"labels reach from {labels.min()} to {labels.max()}: give numbers of classes, 0 to {most - 1}, which are "
            "in the order of `coupling.labels.known`."
        )
    return key, num, jnp.broadcast_to(jnp.asarray(labels, jnp.int32), (num,))


def noise(key: Key, rows: Array, sampler: Sampler, like: Array) -> Array:
    """Return the noise of rows [n] of a key for data [N, ...]: of each row the same, whichever others are asked for."""
    dim = int(np.prod(like.shape[1:]))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
    return jax.vmap(lambda it: independent(it, sampler, 1, dim, like.dtype)[0])(keys).reshape(-1, *like.shape[1:])


def parts_of(key: Key) -> tuple[Key, Key]:
    """Return the key of the noise and that of the rest of the pairs of a key."""
    first, second = jax.random.split(key)
    return first, second


def some(key: Key, coupling: Any, num: int, wanted: Array | None) -> Array:
    """Return random data [num], int32: of the wanted classes, or of all; each of those equally likely."""
    if wanted is None:
        return jax.random.randint(key, (num,), 0, coupling.data.shape[0], jnp.int32)
    classes = coupling.labels
    first, end = classes.start[wanted], classes.start[wanted + 1]
    return classes.order[jax.random.randint(key, (num,), first, end, jnp.int32)]


def looked_up(coupling: Any, x0: Array, index: Array, wanted: Array | None, weight: Array | None = None) -> Batch:
    """Return the batch of noise and the data of an index [B]; weights are NaN where there is no such class."""
    classes, weight = coupling.labels, jnp.ones(index.shape, jnp.float32) if weight is None else weight
    if wanted is not None:
        weight = poison(weight, (wanted >= 0) & (wanted < classes.known.shape[0]))
    label = classes.number[index] if isinstance(classes, Classes) else None if classes is None else classes[index]
    return Batch(x0, coupling.data[index], label, weight, index)


def with_flips(images: ArrayLike, labels: ArrayLike | None = None) -> tuple[Array, np.ndarray | None]:
    """Return images [N, height, width, channels] and their mirror images, 2 N, and labels for all of them.

    Mirror images that are made in a training step are data that the coupling does not know. As further points they are
    coupled too. Image N + j is the mirror image of image j.

    Args:
      images: [N, height, width, channels].
      labels: [N, ...]; None for none.

    Raises:
      ValueError: for images of another shape, or labels of another number.

    Example:
      >>> images, labels = og.coupling.with_flips(jnp.array([[[[1.0], [2.0]]]]), np.array([7]))
      >>> print(images[..., 0], labels)
      [[[1. 2.]]
       [[2. 1.]]] [7 7]
    """
    images = as_array("images", images, (None, None, None, None))
    require_channels_last("images", images.shape)
    both = jnp.concatenate([images, images[:, :, ::-1]])
    if labels is None:
        return both, None
    labels = np.asarray(native("labels", labels))
    if labels.shape[:1] != images.shape[:1]:
        raise ValueError(f"labels have shape {labels.shape}: give one for each of {len(images)} images.")
    return both, np.concatenate([labels, labels])
