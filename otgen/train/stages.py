"""Where the stages of a fit save: in checkpoints that are given, or each in its own part of one folder."""

from __future__ import annotations

import contextlib
import dataclasses
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from otgen.data.mapped import pieces
from otgen.progress import stage
from otgen.train.checkpoint import Checkpoints

Place = Checkpoints | Path | str
_PIECE = 2**24  # bytes of an array at a time


@contextlib.contextmanager
def opened(place: Place | None, name: str, /, *configs: Any, **given: Any) -> Iterator[Checkpoints | None]:
    """Give the checkpoints of a stage of a fit, and name it; those of a folder are made for it and closed at the end.

    A folder is tied to what makes the numbers: the fields of the configurations, and what else is given. Of that, keys
    are known by their data, functions by name, arrays of NumPy and dictionaries of parameters, which a checkpoint keeps
    as they are, by shape, type and checksum, arrays of JAX, which may be computed elsewhere, by shape and type.

    Args:
      place: what the fit was given: nothing, the checkpoints of its only stage, or a folder.
      name: of the stage, and of its folder in that folder.
      *configs: configurations, dataclasses of numbers, text and tuples.
      **given: the key and the data of the stage, and further settings.

    Raises:
      ValueError: if the folder holds checkpoints of another configuration, naming what differs.
      OSError: if nothing can be written there.

    Example:
      >>> import tempfile
      >>> from otgen.train.stages import opened
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with opened(folder, "map", key=jax.random.key(0), tol=0.1) as checkpoints:
      ...         checkpoints.save(10, {"w": jnp.ones(2)})
      ...     with opened(folder, "map", key=jax.random.key(0), tol=0.1) as checkpoints:
      ...         print(checkpoints.newest())
      10
    """
    if place is None or isinstance(place, Checkpoints):
        with stage(name):
            yield place
        return
    fields = {it.name: getattr(config, it.name) for config in configs for it in dataclasses.fields(config)}
    about = {name: _told(value) for name, value in {**fields, **given}.items()}
    with Checkpoints(Path(place) / name, about) as checkpoints, stage(name):
        yield checkpoints


def _told(value: Any, exact: bool = False) -> Any:
    """Return a value as JSON; of a structure all numbers count."""
    from otgen.store.description import describe

    if dataclasses.is_dataclass(value):
        fields = {it.name: _told(getattr(value, it.name), exact=True) for it in dataclasses.fields(value)}
        return {"class": type(value).__qualname__, **fields}
    if isinstance(value, Mapping):
        return _told(ravel_pytree(value)[0], exact=True)
    if callable(value):
        return getattr(value, "__qualname__", type(value).__qualname__)
    if not isinstance(value, jax.Array | np.ndarray):
        return describe(value)[0]
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        return np.asarray(jax.random.key_data(value)).tolist()
    told = [list(value.shape), str(value.dtype)]
    if isinstance(value, jax.Array) and not exact:
        return told
    return [*told, checksum(value)]


def checksum(array: jax.Array | np.ndarray) -> int:
    """Return the CRC-32 of an array's bytes, taken in pieces: one in a file need not fit into memory."""
    array = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    found = 0
    for piece in pieces(array, _PIECE):
        found = zlib.crc32(piece, found)
    return found
