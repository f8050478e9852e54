"""The arrays of PyTorch checkpoints and safetensors, read without PyTorch; nothing that a checkpoint names is run."""

from __future__ import annotations

import collections
import io
import json
import math
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

_KINDS = {"Double": "f8", "Float": "f4", "Half": "f2", "Long": "i8", "Int": "i4", "Short": "i2", "Char": "i1"}
_KINDS = {f"{name}Storage": kind for name, kind in {**_KINDS, "Byte": "u1", "Bool": "?"}.items()}
_NAMED = {"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1", "U8": "u1"}
_DAMAGE = (  # what reading a damaged file leads to
    *(pickle.UnpicklingError, zipfile.BadZipFile, struct.error, EOFError, OverflowError),
    *(LookupError, TypeError, ValueError, AttributeError),
)
_REBUILD = ("_rebuild_tensor", "_rebuild_tensor_v2")
_MAGIC = 0x1950A86A20F9469CFC6C  # begins the form that PyTorch wrote before 1.6


class _Storage(NamedTuple):
    key: str
    kind: str


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a `state_dict`, by name and in their order.

    Args:
      path: what `torch.save` wrote, as a zip or in the form before PyTorch 1.6, or a .safetensors file.

    Returns:
      {name: array}.

    Raises:
      ValueError: for a damaged file, and for one that holds anything but a flat dictionary of dense tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return _of_safetensors(path.read_bytes())
        tensors, storages, order = _of_zip(path) if zipfile.is_zipfile(path) else _of_stream(path)
        return {name: _array(tensor, storages[tensor.storage.key], order) for name, tensor in tensors.items()}
    except _DAMAGE as error:
        raise ValueError(
            f"{path} is not read ({type(error).__name__}: {error}): give the file of a state_dict, flat, as it was "
            "published."
        ) from error


def _of_zip(path: Path) -> tuple[dict[str, _Tensor], dict[str, bytes], str]:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        top = next((name for name in names if name.rpartition("/")[2] == "data.pkl"), "data.pkl").removesuffix(
            "data.pkl"
        )
        tensors = _tensors(io.BytesIO(archive.read(f"{top}data.pkl")))
        storages = {it.storage.key: archive.read(f"{top}data/{it.storage.key}") for it in tensors.values()}
        big = f"{top}byteorder" in names and archive.read(f"{top}byteorder") == b"big"
    return tensors, storages, ">" if big else "<"


def _of_stream(path: Path) -> tuple[dict[str, _Tensor], dict[str, bytes], str]:
    with open(path, "rb") as file:
        if _load(file) != _MAGIC:
            raise pickle.UnpicklingError("it does not begin as a checkpoint of PyTorch does")
        _load(file)  # the version
        order = "<" if _load(file).get("little_endian", True) else ">"
        tensors = _tensors(file)
        kinds = {it.storage.key: it.storage.kind for it in tensors.values()}
        storages = {}
        for key in _load(file):
            (count,) = struct.unpack("<q", file.read(8))
            storages[key] = file.read(count * np.dtype(kinds[key]).itemsize)
    return tensors, storages, order


def _of_safetensors(raw: bytes) -> dict[str, np.ndarray]:
    (length,) = struct.unpack("<Q", raw[:8])
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    arrays = {}
    for name, it in header.items():
        if name != "__metadata__":
            first, last = it["data_offsets"]
            arrays[name] = np.frombuffer(data[first:last], "<" + _NAMED[it["dtype"]]).reshape(it["shape"])
    return arrays


def _tensors(file: BinaryIO) -> dict[str, _Tensor]:
    found = _load(file)
    if not isinstance(found, dict) or not all(isinstance(it, _Tensor) for it in found.values()):
        raise pickle.UnpicklingError("there is more in it than tensors by name")
    return found


def _load(file: BinaryIO) -> Any:
    return _Reader(file).load()


class _Reader(pickle.Unpickler):
    """Makes dictionaries, numbers, texts and descriptions of tensors, and nothing else that a pickle asks for."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch" and name in _KINDS:
            return _KINDS[name]
        if module == "torch._utils" and name in _REBUILD:
            return lambda storage, offset, shape, strides, *_: _Tensor(storage, offset, shape, strides)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        word, kind, key, *_ = pid
        if word != "storage":
            raise pickle.UnpicklingError(f"it asks for a {word}")
        return _Storage(key, kind)


def _array(tensor: _Tensor, raw: bytes, order: str) -> np.ndarray:
    flat = np.frombuffer(raw, order + tensor.storage.kind)
    shape, strides = tensor.shape, tensor.strides
    last = tensor.offset + sum((side - 1) * step for side, step in zip(shape, strides, strict=True))
    if min((tensor.offset, *shape, *strides)) < 0 or (math.prod(shape) and last >= len(flat)):
        raise LookupError(f"a tensor of {shape} in a storage of {len(flat)} numbers")
    return np.lib.stride_tricks.as_strided(
        flat[tensor.offset :], shape, [step * flat.itemsize for step in strides], writeable=False
    ).astype(tensor.storage.kind)
