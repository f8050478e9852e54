"""Checkpoints as `torch.save` writes them, in both forms, written without PyTorch."""

import collections
import io
import pickle
import struct
import sys
import types
import zipfile

import numpy as np

KINDS = {"f8": "DoubleStorage", "f4": "FloatStorage", "f2": "HalfStorage", "i8": "LongStorage"}


class _Pickler(pickle.Pickler):
    def persistent_id(self, it):
        return it.pid if isinstance(it, _Stored) else None


class _Stored:
    def __init__(self, pid):
        self.pid = pid


class _Tensor:
    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.parts


def write(path, arrays, stream=False):
    """Write arrays by name; each in Fortran's order is stored transposed, and each begins two numbers late.

    Args:
      path: the file.
      arrays: {name: array}, or an object in place of an array, which is pickled as it is.
      stream: write the form before PyTorch 1.6.
    """
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in KINDS.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    utils._rebuild_tensor_v2 = lambda *_: None
    utils._rebuild_tensor_v2.__module__, utils._rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    sys.modules |= {"torch": torch, "torch._utils": utils}
    try:
        described, raw = collections.OrderedDict(), {}
        for i, (name, it) in enumerate(arrays.items()):
            if isinstance(it, np.ndarray):
                described[name], raw[str(i)] = _tensor(torch, str(i), it)
            else:
                described[name] = it
        (_as_stream if stream else _as_zip)(path, described, raw)
    finally:
        del sys.modules["torch"], sys.modules["torch._utils"]


def _tensor(torch, key, array):
    flat = np.concatenate([np.zeros(2, array.dtype), array.ravel(order="K")])
    strides = tuple(step // array.itemsize for step in array.strides)
    kind = getattr(torch, KINDS[array.dtype.str[1:]])
    stored = _Stored(("storage", kind, key, "cpu", len(flat)))
    return _Tensor(stored, 2, array.shape, strides, False, collections.OrderedDict()), flat


def _dumped(it):
    file = io.BytesIO()
    _Pickler(file, 2).dump(it)
    return file.getvalue()


def _as_zip(path, described, raw):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", _dumped(described))
        archive.writestr("archive/byteorder", "little")
        for key, flat in raw.items():
            archive.writestr(f"archive/data/{key}", flat.tobytes())
        archive.writestr("archive/version", "3\n")


def _as_stream(path, described, raw):
    for it in described.values():  # the older form has one entry more
        if isinstance(it, _Tensor):
            it.parts[0].pid += (None,)
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    parts = [_dumped(it) for it in (0x1950A86A20F9469CFC6C, 1001, system, described, list(raw))]
    parts += [struct.pack("<q", len(flat)) + flat.tobytes() for flat in raw.values()]
    path.write_bytes(b"".join(parts))
