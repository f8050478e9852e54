"""What a model is made of, as JSON and arrays: `describe` takes it apart, `build` puts it together again.

Numbers, text, None and lists stand for themselves; everything else is a dictionary with one key that says what it is:
"array", "dict", "tuple", "float" (infinite or NaN), "enum", "class" (beside it "fields"), "constant". Only classes,
enumerations and constants of otgen are described, by the names their modules have for them, and only modules of otgen
are imported to build. `otgen.store.folder` writes descriptions and arrays to files.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import inspect
import math
import sys
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from otgen.store.moved import REMADE, current

FORMAT = 1  # of the descriptions that this version makes; it builds all formats up to this one
_KINDS = ("array", "dict", "tuple", "float", "enum", "class", "constant")


def describe(model: Any) -> tuple[Any, dict[str, tuple[np.ndarray, str]]]:
    """Describe a model, or any structure of otgen's NamedTuples, dataclasses and arrays.

    Args:
      model: what to describe.

    Returns:
      The description, and the arrays by their names in it, each with how it is held: "jax", "numpy", "scalar" or
      "key:" and the kind of random keys.

    Raises:
      ValueError: for what cannot be described, such as functions or classes from outside otgen, naming the field.
    """
    arrays: dict[str, tuple[np.ndarray, str]] = {}
    return _describe(model, (), arrays), arrays


def build(description: Any, arrays: dict[str, tuple[np.ndarray, str]], path: Path, writer: str) -> Any:
    """Build what a description stands for; JAX arrays come to the default device.

    Args:
      description: of the model.
      arrays: as `describe` has returned them.
      path: where they were found, for messages.
      writer: version of the otgen that described it.

    Returns:
      The model.

    Raises:
      ValueError: if it is made of classes that this version of otgen has no more or whose fields differ, names anything
        outside otgen, or needs 64 bits.
    """
    placed = {name: _placed(path, name, array, held) for name, (array, held) in arrays.items()}
    return _Builder(path, writer, placed).build(description)


@functools.cache
def extended() -> dict[str, np.dtype]:
    """Return number types that NumPy knows through JAX only, which .npy files cannot name."""
    import ml_dtypes

    found = (getattr(ml_dtypes, name) for name in dir(ml_dtypes) if name[:1].islower())
    kinds = [np.dtype(kind) for kind in found if isinstance(kind, type) and issubclass(kind, np.generic)]
    return {str(kind): kind for kind in kinds}


def version() -> str:
    """Return the version of otgen."""
    import otgen

    return otgen.__version__


def _describe(value: Any, at: tuple[str, ...], arrays: dict[str, tuple[np.ndarray, str]]) -> Any:
    """Return the description of a value that lies at a path in the model; its arrays are added to `arrays`."""
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
    if array.dtype.kind not in "biufcSU" and str(array.dtype) not in extended():
        raise ValueError(f"{_named(at)} is an array of {array.dtype}: give numbers, booleans or text.")
    name = "/".join(at) or "model"
    while name in arrays:
        name += "~"
    arrays[name] = (array, held)
    return name


def _own(cls: Any) -> bool:
    """Return whether a class is one that a module of otgen has under its name."""
    name = getattr(cls, "__module__", None) or ""
    return name.startswith("otgen.") and getattr(sys.modules.get(name), cls.__name__, None) is cls


def _path_of(cls: type) -> str:
    return f"{cls.__module__}.{cls.__name__}"


def _fields(cls: type) -> list[str] | None:
    """Return names of the fields that make an instance; None for what is neither a NamedTuple nor a dataclass."""
    if issubclass(cls, tuple):
        return list(getattr(cls, "_fields", ())) or None
    if not dataclasses.is_dataclass(cls):
        return None
    return [field.name for field in dataclasses.fields(cls) if field.name != "parent" or not issubclass(cls, nn.Module)]


def _is_object(value: Any) -> bool:
    """Whether a value is described by its fields, as what was saved by its name may be now: a source is a prior."""
    return _own(type(value)) and _fields(type(value)) is not None


def _defaulted(cls: type) -> set[str]:
    """Return fields of a class that need not be given."""
    if issubclass(cls, tuple):
        return set(cls._field_defaults)
    missing = dataclasses.MISSING
    return {f.name for f in dataclasses.fields(cls) if f.default is not missing or f.default_factory is not missing}


def _constant_of(value: Any) -> str | None:
    """The path of a function or class of otgen, or of an object made of functions; None if no module of otgen has it.

    A smoothing is such an object. All others are described, those too that a module keeps.
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
    """Return why a value is not saved, and what to do."""
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


@dataclasses.dataclass(frozen=True)
class _Builder:
    """What makes a model of its description.

    Attributes:
      path: where it was found, for messages.
      writer: version of the otgen that described it.
      arrays: by their names.
    """

    path: Path
    writer: str
    arrays: dict[str, Any]

    def build(self, node: Any) -> Any:
        """Return the value that a description stands for."""
        if isinstance(node, list):
            return [self.build(part) for part in node]
        if not isinstance(node, dict):
            return node
        kind = next(iter(node), "")
        if kind not in _KINDS:
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
        if kind == "constant" and (_constant_of(found) or _is_object(found)):
            return found
        if kind == "enum" and isinstance(found, type) and issubclass(found, enum.Enum) and _own(found):
            if node["name"] in found.__members__:
                return found[node["name"]]
            raise self._outdated(f"{inside} has no {node['name']} any more")
        raise self._outdated(f"{inside} is something else now")

    def _instance(self, name: str, fields: dict[str, Any]) -> Any:
        """Return an instance of a class of otgen."""
        cls = self._found(name)
        names = _fields(cls) if isinstance(cls, type) and _own(cls) else None
        known = set() if names is None else _defaulted(cls)
        if current(name) in REMADE.values():
            names = list(inspect.signature(cls).parameters)
        if names is None:
            raise self._outdated(f"{name} is no model or configuration")
        gone, new = sorted(set(fields) - set(names)), sorted(set(names) - set(fields) - known)
        if gone or new:  # a field that came later has its default
            told = [f"{what} {', '.join(some)}" for what, some in (("without", gone), ("with", new)) if some]
            raise self._outdated(f"{name} is now {' and '.join(told)}")
        built = {field: self.build(part) for field, part in fields.items()}
        try:
            return cls(**built)
        except (TypeError, ValueError) as error:
            raise self._outdated(f"{name} refuses its fields ({error})") from error

    def _found(self, name: str) -> Any:
        """Return what a module of otgen has under a name; only modules of otgen are imported."""
        module, _, attribute = current(str(name)).rpartition(".")
        if not module.startswith("otgen."):
            raise ValueError(f"{self.path} names {name!r}, which is outside otgen: it is not loaded. Is it a forgery?")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ModuleNotFoundError, AttributeError):
            raise self._outdated(f"there is no {name} any more") from None

    def _outdated(self, why: str) -> ValueError:
        return ValueError(
            f"{self.path} was saved by otgen {self.writer} and does not fit otgen {version()}: {why}. "
            f"Load it with otgen {self.writer}, or fit the model again."
        )


def _placed(path: Path, name: str, array: np.ndarray, held: str) -> Any:
    """Return an array as it was held: by NumPy, or by JAX on the default device."""
    if held in ("numpy", "scalar"):
        return array if held == "numpy" else array[()]
    placed = jax.device_put(array)
    if placed.dtype != array.dtype:
        raise ValueError(
            f"{name} of {path} is {array.dtype}, which JAX holds with 64 bits switched on only: load it after "
            "jax.config.update('jax_enable_x64', True)."
        )
    return jax.random.wrap_key_data(placed, impl=held.removeprefix("key:")) if held != "jax" else placed
