"""Pairs that are made once and kept: of each the number of its data point, and the key that its noise comes of.

Noise is drawn again from its key, data are looked up, so that a pair takes four bytes whatever its size, a million of
them four megabytes. For couplings that are dear to make, plans of large batches above all, and to train twice on the
same pairs.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen.ot.check import as_array, as_count, as_key, is_traced, native, require_function
from otgen.ot.coupling.batch import Batch, Classes, asked, classes_of, looked_up, noise, parts_of, settled
from otgen.types import Array, Key, Sampler, as_pytree


@as_pytree
@dataclasses.dataclass(frozen=True)
class Recorded:
    """Pairs that `record` has kept, which is a coupling too: it gives them in random order.

    `og.save(folder, recorded.without_data())` keeps it in a few bytes a pair, and `og.load(folder).with_data(data,
    labels)` is a coupling again.

    Attributes:
      data: [N, ...]; None for a record alone.
      labels: of the data, as of any coupling.
      sampler: the law of the noise. Static.
      key: what the noise comes of.
      index: which data the pairs have [n], int32.
      weight: what the pairs count [n]; None for 1.
      batch_size: pairs that were made together. Static.
      rows: where the pairs of each class are; None without labels, or without data.

    Example:
      >>> data = jax.random.normal(jax.random.key(0), (100, 3))
      >>> recorded = og.coupling.record(og.coupling.Minibatch(data), jax.random.key(1), 256, batch_size=64)
      >>> kept = recorded.without_data()  # what to save
      >>> batch = kept.with_data(data).at(jnp.array([7, 200]))
      >>> print(kept.nbytes, jnp.array_equal(batch.x0, recorded.at(jnp.array([7, 200])).x0))
      1032 True
    """

    data: ArrayLike | None
    labels: Any
    sampler: Sampler = dataclasses.field(metadata={"static": True})
    key: Key
    index: ArrayLike
    weight: ArrayLike | None
    batch_size: int = dataclasses.field(metadata={"static": True})
    rows: Classes | None = None
    rowwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", jnp.asarray(self.index, jnp.int32))
        if self.data is None:
            return
        settled(self)
        most = int(self.index.max())
        if most >= len(self.data):
            raise ValueError(f"data are {len(self.data)}, but pair with number {most}: give those that were recorded.")
        if isinstance(self.labels, Classes) and self.rows is None:
            number = np.asarray(self.labels.number)[np.asarray(self.index)]
            object.__setattr__(self, "rows", _rows(number, len(self.labels.known)))

    @property
    def nbytes(self) -> int:
        """Bytes of the record without its data."""
        kept = (jax.random.key_data(self.key), self.index, self.weight)
        return sum(np.asarray(it).nbytes for it in kept if it is not None)

    def __len__(self) -> int:
        """How many pairs there are."""
        return self.index.shape[0]

    def without_data(self) -> Recorded:
        """Return the record alone, to be saved."""
        return dataclasses.replace(self, data=None, labels=None, rows=None)

    def with_data(self, data: ArrayLike, labels: ArrayLike | None = None) -> Recorded:
        """Return the record with the data that it was made of, and perhaps their labels.

        Raises:
          ValueError: for data that are too few, or as of any coupling.
        """
        return dataclasses.replace(self, data=data, labels=labels, rows=None)

    def at(self, rows: ArrayLike) -> Batch:
        """Return the pairs of numbers rows [B], from 0 in the order in which they were made; for one's own epochs.

        Raises:
          ValueError: for numbers that are no integers or (outside jit) out of range, or a record without data.
        """
        self._require_data()
        rows = native("rows", rows)
        if rows.ndim != 1 or not jnp.issubdtype(rows.dtype, jnp.integer):
            raise ValueError(f"rows have shape {rows.shape} and type {rows.dtype}: give integers [B].")
        if not is_traced(rows) and rows.size and not (int(rows.min()) >= 0 and int(rows.max()) < len(self)):
            raise ValueError(f"rows reach from {rows.min()} to {rows.max()}: there are {len(self)} pairs, from 0.")
        return _at(self, jnp.asarray(rows), None)

    def pair(self, key: Key, num: int, labels: ArrayLike | None = None) -> Batch:
        """Draw recorded pairs; arguments and errors as in `Independent.pair`."""
        self._require_data()
        key, num, wanted = asked(self, key, num, labels)
        if wanted is not None and not is_traced(wanted, self.rows.start):
            counts = np.diff(self.rows.start)[np.asarray(wanted)]
            if not counts.all():
                raise ValueError(f"no pair of class {int(wanted[counts.argmin()])} is recorded: record more.")
        return _drawn(self, key, num, wanted)

    def _require_data(self) -> None:
        if self.data is None:
            raise ValueError("this record has no data: call recorded.with_data(data, labels).")


def _rows(number: np.ndarray, num_classes: int) -> Classes:
    """Return classes of rows, those without a row among them."""
    found = classes_of(np.concatenate([number, np.arange(num_classes)]))  # one more of each, so that all are there
    order = np.asarray(found.order)
    start = np.concatenate([[0], np.cumsum(np.bincount(number, minlength=num_classes))]).astype(np.int32)
    return Classes(
        found.number[: len(number)], found.known, jnp.asarray(order[order < len(number)]), jnp.asarray(start)
    )


@functools.partial(jax.jit, static_argnames="num")
def _drawn(recorded: Recorded, key: Key, num: int, wanted: Array | None) -> Batch:
    if wanted is None:
        return _at(recorded, jax.random.randint(key, (num,), 0, recorded.index.shape[0]), None)
    first, end = recorded.rows.start[wanted], recorded.rows.start[wanted + 1]
    return _at(recorded, recorded.rows.order[jax.random.randint(key, (num,), first, end)], wanted)


@jax.jit
def _at(recorded: Recorded, rows: Array, wanted: Array | None) -> Batch:
    size = recorded.batch_size

    def one(row: Array) -> Array:
        key = parts_of(jax.random.fold_in(recorded.key, row // size))[0]
        return noise(key, row[None] % size, recorded.sampler, recorded.data)[0]

    weight = None if recorded.weight is None else recorded.weight[rows]
    return looked_up(recorded, jax.vmap(one)(rows), recorded.index[rows], wanted, weight)


def record(coupling: Any, key: Key, num: int, *, batch_size: int = 4096) -> Recorded:
    """Make pairs and keep them, in four bytes each.

    Args:
      coupling: one of those of `og.coupling`, but not one that resamples, whose noise is not that of its key.
      key: random key.
      num: how many pairs.
      batch_size: how many are made together: the size of the batches whose plans a `Minibatch` or `Sinkhorn` makes.

    Returns:
      Recorded.

    Raises:
      ValueError: for what is no such coupling.

    Example:
      >>> coupling = og.coupling.Independent(jax.random.normal(jax.random.key(0), (100, 2)), np.arange(100) % 4)
      >>> recorded = og.coupling.record(coupling, jax.random.key(1), 1000)
      >>> print(len(recorded), recorded.pair(jax.random.key(2), 3, labels=1).label)
      1000 [1 1 1]
    """
    require_function("coupling.pair", getattr(coupling, "pair", None))
    for name in ("data", "labels", "sampler"):
        if not hasattr(coupling, name):
            raise ValueError(f"coupling is a {type(coupling).__name__} without {name}: give one of og.coupling's.")
    key, num, size = as_key(key), as_count("num", num), as_count("batch_size", batch_size)
    batches = (coupling.pair(jax.random.fold_in(key, block), size) for block in range(-(-num // size)))
    first = next(batches)
    index, weight = [np.asarray(first.index)], [np.asarray(first.weight)]
    for batch in batches:
        index.append(np.asarray(batch.index)), weight.append(np.asarray(batch.weight))
    index, weight = np.concatenate(index)[:num], np.concatenate(weight)[:num]
    kept = None if (weight == 1).all() else as_array("weight", weight)
    recorded = Recorded(coupling.data, coupling.labels, coupling.sampler, key, index, kept, size)
    if not np.allclose(recorded.at(jnp.arange(min(size, num))).x0, first.x0[:num], rtol=1e-5, atol=1e-6):
        raise ValueError(
            "the noise of this coupling is not that of its key: record one that does not resample, such as "
            "dataclasses.replace(coupling, imbalance='weight')."
        )
    return recorded
