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

import hashlib
import io
import json
import os
import secrets
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from otgen.ot.check import as_path
from otgen.store.description import FORMAT, build, describe, extended, version

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

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     og.save(f"{folder}/map", og.semidiscrete.from_heights(jnp.array([-1.0, 1.0])))
      ...     print(og.load(f"{folder}/map").h)
      [-1. 1.]
    """
    path = Path(os.path.abspath(as_path("path", path)))
    description, arrays = describe(model)
    content = {_MARK: FORMAT, "otgen": version(), "jax": jax.__version__, "model": description}
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

    Example:
      >>> import tempfile
      >>> law = og.mixture.Mixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.eye(2)[None])
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     og.save(f"{folder}/law", law)
      ...     print(type(og.load(f"{folder}/law")).__name__)
      Mixture
    """
    path = as_path("path", path)
    content = _read_text(path)
    arrays = _read_arrays(path, content["arrays"])
    return build(content["model"], arrays, path, content["otgen"])


def _sum(array: np.ndarray) -> str:
    return hashlib.sha256(array.reshape(-1).view(np.uint8) if array.size else b"").hexdigest()


def _text_sum(content: dict[str, Any]) -> str:
    """Return the checksum of everything in the text but the checksum itself; the order of entries counts."""
    rest = {name: part for name, part in content.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest).encode()).hexdigest()


def _write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """As `numpy.savez`, with any names, and equal bytes for equal arrays."""
    with open(path, "wb") as file:
        with zipfile.ZipFile(file, "w") as folder:
            for name, array in arrays.items():
                plain = array.view(f"u{array.dtype.itemsize}") if str(array.dtype) in extended() else array
                with folder.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, plain, allow_pickle=False)
        _flush(file)


def _read_text(path: Path) -> dict[str, Any]:
    """Return what model.json holds, if it is whole, unchanged and of a format that is known."""
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
            f"{path} was saved by otgen {content.get('otgen')} in format {found}; otgen {version()} reads formats up "
            f"to {FORMAT}: install the newer otgen."
        )
    if _text_sum(content) != content.get("checksum"):
        raise ValueError(f"{path / _TEXT} was changed after it was saved: take a copy, or fit the model again.")
    return content


def _read_arrays(path: Path, known: dict[str, dict[str, Any]]) -> dict[str, tuple[np.ndarray, str]]:
    """Return the arrays, compared with their checksums, and how they were held."""
    found = {}
    try:
        with zipfile.ZipFile(path / _ARRAYS) as folder:
            for name, entry in known.items():
                array = np.lib.format.read_array(io.BytesIO(folder.read(f"{name}.npy")), allow_pickle=False)
                if entry["dtype"] in extended():
                    array = array.view(extended()[entry["dtype"]])
                stored, now = (entry["dtype"], entry["shape"]), (str(array.dtype), list(array.shape))
                if stored != now or _sum(array) != entry["sha256"]:
                    raise ValueError(f"the numbers of {name} are not those that were saved")
                found[name] = (array, entry["held"])
    except _BROKEN as error:
        raise ValueError(f"{path / _ARRAYS} is damaged ({error}): take a copy, or fit the model again.") from error
    return found


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
