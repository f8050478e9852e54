"""Trained models as folders: `save` writes one, `load` gives it back, on any kind and number of devices.

    model = og.models.ae_ot.fit(key, images)
    og.save("runs/digits/model", model)
    model = og.load("runs/digits/model")                       # elsewhere, later
    images = og.models.ae_ot.sample(key, model, 64)            # the same images for the same key

A folder holds two files, both readable without otgen:

    model.json    what the model is made of: classes of otgen, their fields, versions, and the checksums of the arrays
    arrays.npz    every array under its path, such as "variables/params/generator/layers_0/kernel"

Models are NamedTuples and dataclasses (Flax modules too) of otgen, down to arrays, random keys, numbers, text, None,
enumerations, tuples, lists, dictionaries, and functions that a module of otgen has under a name. So the state of a
solver, an extended map or a dictionary of those is saved like a model. Nothing is pickled, and loading imports modules
of otgen only. It takes 4 bytes per float32, as nothing is compressed, plus some kilobytes: 1.6 MB for the AE-OT of the
1437 digits (16 dimensions, dense layers of 512 and 256).
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import importlib
import io
import json
import math
import os
import secrets
import shutil
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

FORMAT = 1  # what this version writes; it reads all formats up to this one
_MARK, _TEXT, _ARRAYS = "otgen model", "model.json", "arrays.npz"
_BROKEN = (OSError, ValueError, KeyError, EOFError, RuntimeError, struct.error, zipfile.BadZipFile)  # bad archives


def save(path: str | os.PathLike, model: Any, *, overwrite: bool = False) -> None:
    """Save a trained model, or any structure of otgen's NamedTuples, dataclasses and arrays, as one folder.

    The folder is written beside and renamed, so that it is complete or absent. Arrays spread over the devices of one
    host are gathered. Where several hosts run, the first writes.

    Args:
      path: the folder; its parents are made if need be.
      model: what to save.
      overwrite: whether a saved model that is there already is replaced.

    Raises:
      FileExistsError: if there is something at `path`, and `overwrite` is False or it is not just a saved model.
      ValueError: for what cannot be described, such as functions or classes from outside otgen, naming the field.
    """
    path, arrays = Path(os.path.abspath(path)), {}
    description = _describe(model, (), arrays)
    content = {_MARK: FORMAT, "otgen": _version(), "jax": jax.__version__, "model": description}
    content["arrays"] = {
        name: {"dtype": str(array.dtype), "shape": list(array.shape), "held": held, "sha256": _sum(array)}
        for name, (array, held) in arrays.items()
    }
    content["checksum"] = _text_sum(content)
    if jax.process_index():
        return
    _refuse_to_delete(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = _beside(path, "saving")
    try:
        beside.mkdir()
        _write_arrays(beside / _ARRAYS, {name: array for name, (array, _) in arrays.items()})
        with open(beside / _TEXT, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1, allow_nan=False)
            _flush(file)
        _replace(path, beside)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def load(path: str | os.PathLike) -> Any:
    """Load what `save` has written; JAX arrays come to the default device.

    Args:
      path: the folder.

    Returns:
      What was saved, equal bit for bit. Modules and configurations compare equal to those saved, so that functions
      jitted for them are not compiled again.

    Raises:
      FileNotFoundError: if there is nothing at `path`.
      ValueError: if it is no saved model, was damaged or changed after it was saved, was written by a newer format, is
        made of classes that this version of otgen has no more or whose fields differ, or needs 64 bits.
    """
    path = Path(path)
    content = _read_text(path)
    arrays = _read_arrays(path, content["arrays"])
    return _Builder(path, content["otgen"], arrays).build(content["model"])


# --- from a model to its description ---------------------------------------------------------------------------------


def _describe(value: Any, at: tuple[str, ...], arrays: dict[str, tuple[np.ndarray, str]]) -> Any:
    """The JSON of a value that lies at a path in the model; its arrays are added to `arrays`, with how they are held.

    Numbers, text, None and lists stand for themselves; everything else is a dictionary with one key that says what it
    is: "array", "dict", "tuple", "float" (infinite or NaN), "enum", "class" (beside it "fields"), "constant".
    """
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, jax.Array | np.ndarray | np.generic) and not isinstance(value, np.ma.MaskedArray):
        return {"array": _note(value, at, arrays)}
    if type(value) in (list, tuple):
        parts = [_describe(part, (*at, str(i)), arrays) for i, part in enumerate(value)]
        return parts if type(value) is list else {"tuple": parts}
    if type(value) is dict:
        if not all(isinstance(name, str) for name in value):
            raise ValueError(
                f"{_named(at)} has keys that are not text: {list(value)[:3]}. Name its entries by strings."
            )
        return {"dict": {name: _describe(part, (*at, name), arrays) for name, part in value.items()}}
    cls = type(value)
    if isinstance(value, enum.Enum) and _own(cls):
        return {"enum": _path_of(cls), "name": value.name}
    constant = _constant_of(value)
    if constant:
        return {"constant": constant}
    if not (_own(cls) and _fields(cls) is not None):
        raise ValueError(_cannot(value, at))
    if isinstance(value, nn.Module) and value.parent is not None:
        raise ValueError(f"{_named(at)} is bound to variables: save the module without them (module.unbind()).")
    parts = {name: _describe(getattr(value, name), (*at, name), arrays) for name in _fields(cls)}
    return {"class": _path_of(cls), "fields": parts}


def _note(value: Any, at: tuple[str, ...], arrays: dict[str, tuple[np.ndarray, str]]) -> str:
    """Put an array into `arrays`, and return under which name."""
    held = "jax" if isinstance(value, jax.Array) else "numpy" if isinstance(value, np.ndarray) else "scalar"
    if isinstance(value, jax.core.Tracer):
        raise ValueError(f"{_named(at)} is traced: save outside of jit, vmap and grad.")
    if held == "jax":
        if not (value.is_fully_addressable or value.is_fully_replicated):
            raise ValueError(f"{_named(at)} is spread over several hosts: replicate it before saving.")
        if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
            held, value = f"key:{jax.random.key_impl(value)}", jax.random.key_data(value)
    array = np.array(value, order="C")
    if array.dtype.kind not in "biufcSU" and str(array.dtype) not in _extended():
        raise ValueError(f"{_named(at)} is an array of {array.dtype}: give numbers, booleans or text.")
    name = "/".join(at) or "model"
    while name in arrays:
        name += "~"
    arrays[name] = (array, held)
    return name


@functools.cache
def _extended() -> dict[str, np.dtype]:
    """Number types that NumPy knows through JAX only, which .npy files cannot name."""
    import ml_dtypes

    found = (getattr(ml_dtypes, name) for name in dir(ml_dtypes) if name[:1].islower())
    kinds = [np.dtype(kind) for kind in found if isinstance(kind, type) and issubclass(kind, np.generic)]
    return {str(kind): kind for kind in kinds}


def _own(cls: Any) -> bool:
    """Whether a class is one that a module of otgen has under its name."""
    name = getattr(cls, "__module__", None) or ""
    return name.startswith("otgen.") and getattr(sys.modules.get(name), cls.__name__, None) is cls


def _path_of(cls: type) -> str:
    return f"{cls.__module__}.{cls.__name__}"


def _fields(cls: type) -> list[str] | None:
    """Names of the fields that make an instance; None for what is neither a NamedTuple nor a dataclass."""
    if issubclass(cls, tuple):
        return list(getattr(cls, "_fields", ())) or None
    if not dataclasses.is_dataclass(cls):
        return None
    return [field.name for field in dataclasses.fields(cls) if field.name != "parent" or not issubclass(cls, nn.Module)]


def _defaulted(cls: type) -> set[str]:
    """Fields of a class that need not be given."""
    if issubclass(cls, tuple):
        return set(cls._field_defaults)
    missing = dataclasses.MISSING
    return {f.name for f in dataclasses.fields(cls) if f.default is not missing or f.default_factory is not missing}


def _constant_of(value: Any) -> str | None:
    """The path of a function or class of otgen, or of an object made of functions; None if no module of otgen has it.

    A source law or a smoothing is such an object. All others are described, those too that a module keeps.
    """
    defined = value
    if not hasattr(value, "__qualname__"):
        defined = type(value)
        if not any(hasattr(part, "__qualname__") for part in getattr(value, "__dict__", {}).values()):
            return None
    module = sys.modules.get(getattr(defined, "__module__", None) or "")
    if module is None or not module.__name__.startswith("otgen."):
        return None
    return next((f"{module.__name__}.{name}" for name, known in vars(module).items() if known is value), None)


def _cannot(value: Any, at: tuple[str, ...]) -> str:
    """Why a value is not saved, and what to do."""
    cls = type(value)
    if callable(value) and hasattr(value, "__qualname__"):
        what = f"the function {value.__module__}.{value.__qualname__}"
        advice = "only functions that a module of otgen has under a name can be: use one of those"
        advice += f", or None where the model can do without (module.clone({at[-1]}=None))" if at else ""
    else:
        what = f"a {cls.__module__}.{cls.__qualname__}"
        advice = "only NamedTuples, dataclasses and Flax modules of otgen can be, and arrays, numbers, text, None, "
        advice += "tuples, lists and dictionaries of them: save its arrays (for example its variables) instead"
        if cls.__module__.startswith("optax"):
            advice = "states of training belong in otgen.train.Checkpoints: save the parameters instead"
    return f"{_named(at)} is {what}, which cannot be saved: {advice}."


def _named(at: tuple[str, ...]) -> str:
    return ".".join(("model", *at))


# --- from a description to a model -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Builder:
    """What makes a model of its description.

    Attributes:
      path: the folder, for messages.
      version: of the otgen that wrote it.
      arrays: by their names.
    """

    path: Path
    version: str
    arrays: dict[str, Any]

    def build(self, node: Any) -> Any:
        """The value that a description stands for, see `_describe`."""
        if isinstance(node, list):
            return [self.build(part) for part in node]
        if not isinstance(node, dict):
            return node
        kind = next(iter(node), "")
        if kind not in ("array", "dict", "tuple", "float", "enum", "class", "constant"):
            raise ValueError(f"{self.path} describes something as {kind!r}, which no format up to {FORMAT} has.")
        inside = node[kind]
        if kind == "array":
            return self.arrays[inside]
        if kind == "dict":
            return {name: self.build(part) for name, part in inside.items()}
        if kind == "tuple":
            return tuple(self.build(part) for part in inside)
        if kind == "float":
            return float(inside)
        if kind == "class":
            return self._instance(inside, node["fields"])
        found = self._found(inside)
        if kind == "constant" and _constant_of(found) == inside:
            return found
        if kind == "enum" and isinstance(found, type) and issubclass(found, enum.Enum) and _own(found):
            if node["name"] in found.__members__:
                return found[node["name"]]
            raise self._outdated(f"{inside} has no {node['name']} any more")
        raise self._outdated(f"{inside} is something else now")

    def _instance(self, name: str, fields: dict[str, Any]) -> Any:
        """An instance of a class of otgen."""
        cls = self._found(name)
        names = _fields(cls) if isinstance(cls, type) and _own(cls) and _path_of(cls) == name else None
        if names is None:
            raise self._outdated(f"{name} is no model or configuration")
        gone, new = sorted(set(fields) - set(names)), sorted(set(names) - set(fields) - _defaulted(cls))
        if gone or new:  # a field that came later has its default
            told = [f"{what} {', '.join(some)}" for what, some in (("without", gone), ("with", new)) if some]
            raise self._outdated(f"{name} is now {' and '.join(told)}")
        built = {field: self.build(part) for field, part in fields.items()}
        try:
            return cls(**built)
        except (TypeError, ValueError) as error:
            raise self._outdated(f"{name} refuses its fields ({error})") from error

    def _found(self, name: str) -> Any:
        """What a module of otgen has under a name; only modules of otgen are imported."""
        module, _, attribute = str(name).rpartition(".")
        if not module.startswith("otgen."):
            raise ValueError(f"{self.path} names {name!r}, which is outside otgen: it is not loaded. Is it a forgery?")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ModuleNotFoundError, AttributeError):
            raise self._outdated(f"there is no {name} any more") from None

    def _outdated(self, why: str) -> ValueError:
        return ValueError(
            f"{self.path} was saved by otgen {self.version} and does not fit otgen {_version()}: {why}. "
            f"Load it with otgen {self.version}, or fit the model again."
        )


# --- the two files ---------------------------------------------------------------------------------------------------


def _version() -> str:
    import otgen

    return otgen.__version__


def _sum(array: np.ndarray) -> str:
    return hashlib.sha256(array.reshape(-1).view(np.uint8) if array.size else b"").hexdigest()


def _text_sum(content: dict[str, Any]) -> str:
    """Checksum of everything in the text but the checksum itself; the order of entries counts."""
    rest = {name: part for name, part in content.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest).encode()).hexdigest()


def _write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """As `numpy.savez`, with any names, and equal bytes for equal arrays."""
    with open(path, "wb") as file:
        with zipfile.ZipFile(file, "w") as folder:
            for name, array in arrays.items():
                plain = array.view(f"u{array.dtype.itemsize}") if str(array.dtype) in _extended() else array
                with folder.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, plain, allow_pickle=False)
        _flush(file)


def _read_text(path: Path) -> dict[str, Any]:
    """What model.json holds, if it is whole, unchanged and of a format that is known."""
    if not path.exists():
        raise FileNotFoundError(f"there is nothing at {path}: give the folder of a model that og.save has written.")
    if not (path / _TEXT).is_file():
        inside = sorted(part.name for part in path.iterdir())[:5] if path.is_dir() else []
        told = f"a folder of {', '.join(inside) or 'nothing'}" if path.is_dir() else "a file"
        hints = [part for part in inside if (path / part / _TEXT).is_file()]
        hint = f"do you mean {path / hints[0]}?" if hints else "give a folder that og.save has written."
        raise ValueError(f"{path} is no saved model but {told}: {hint}")
    try:
        content = json.loads((path / _TEXT).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path / _TEXT} is damaged ({error}): take a copy, or fit the model again.") from error
    found = content.get(_MARK) if isinstance(content, dict) else None
    if not isinstance(found, int):
        raise ValueError(f"{path / _TEXT} is not by otgen: give a folder that og.save has written.")
    if found > FORMAT:
        raise ValueError(
            f"{path} was saved by otgen {content.get('otgen')} in format {found}; otgen {_version()} reads formats up "
            f"to {FORMAT}: install the newer otgen."
        )
    if _text_sum(content) != content.get("checksum"):
        raise ValueError(f"{path / _TEXT} was changed after it was saved: take a copy, or fit the model again.")
    return content


def _read_arrays(path: Path, known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The arrays, compared with their checksums, where they were held before."""
    found = {}
    try:
        with zipfile.ZipFile(path / _ARRAYS) as folder:
            for name, entry in known.items():
                array = np.lib.format.read_array(io.BytesIO(folder.read(f"{name}.npy")), allow_pickle=False)
                if entry["dtype"] in _extended():
                    array = array.view(_extended()[entry["dtype"]])
                stored, now = (entry["dtype"], entry["shape"]), (str(array.dtype), list(array.shape))
                if stored != now or _sum(array) != entry["sha256"]:
                    raise ValueError(f"the numbers of {name} are not those that were saved")
                found[name] = array
    except _BROKEN as error:
        raise ValueError(f"{path / _ARRAYS} is damaged ({error}): take a copy, or fit the model again.") from error
    return {name: _placed(path, name, array, known[name]["held"]) for name, array in found.items()}


def _placed(path: Path, name: str, array: np.ndarray, held: str) -> Any:
    """An array as it was held: by NumPy, or by JAX on the default device."""
    if held in ("numpy", "scalar"):
        return array if held == "numpy" else array[()]
    placed = jax.device_put(array)
    if placed.dtype != array.dtype:
        raise ValueError(
            f"{name} of {path} is {array.dtype}, which JAX holds with 64 bits switched on only: load it after "
            "jax.config.update('jax_enable_x64', True)."
        )
    return jax.random.wrap_key_data(placed, impl=held.removeprefix("key:")) if held != "jax" else placed


def _flush(file: Any) -> None:
    """See that what was written is on the disk before the folder gets its name."""
    file.flush()
    os.fsync(file.fileno())


def _beside(path: Path, why: str) -> Path:
    return path.with_name(f".{path.name}.{why}-{secrets.token_hex(4)}")


def _refuse_to_delete(path: Path, overwrite: bool) -> None:
    """Raise FileExistsError if something at `path` stays there."""
    if not (path.exists() or path.is_symlink()):
        return
    if not overwrite:
        raise FileExistsError(f"{path} exists: choose another folder, or overwrite=True if it is a saved model.")
    try:
        names = {part.name for part in path.iterdir()}
        ours = not names or _MARK in json.loads((path / _TEXT).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        names, ours = set(), False
    if not ours or path.is_symlink():
        raise FileExistsError(f"{path} is not a saved model, so it is not overwritten: move it, or choose another one.")
    foreign = sorted(names - {_TEXT, _ARRAYS})
    if foreign:
        raise FileExistsError(f"{path} also holds {', '.join(foreign[:5])}, so it is not overwritten: move that first.")


def _replace(path: Path, new: Path) -> None:
    """Give a folder the name of another, which is deleted if it is there."""
    if not path.exists():
        new.rename(path)
        return
    old = _beside(path, "old")
    path.rename(old)
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old)
