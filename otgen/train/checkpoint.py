"""Checkpoints through Orbax: written in the background, complete or absent, checksummed, tied to a configuration."""

from __future__ import annotations

import json
import warnings
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

_STATE, _SUMS = "state", "sums"  # items of a checkpoint


class Checkpoints:
    """The checkpoints of one stage of a run.

    A save that is killed half-way is ignored when restoring; a checkpoint that was damaged later is put aside with a
    warning, and the one before it used. A folder that another configuration has written to is refused.

    Args:
      folder: where they lie; made if need be.
      config: JSON-like description of what makes the numbers; must equal that of the checkpoints in the folder.
      keep: how many of the newest to keep.

    Raises:
      ValueError: if the folder holds checkpoints of another configuration, naming the fields that differ.
    """

    def __init__(self, folder: Path | str, config: dict[str, Any], keep: int = 2):
        if keep < 1:
            raise ValueError(f"keep = {keep} would keep no checkpoint: give 1 or more.")
        import orbax.checkpoint as ocp

        self._ocp = ocp
        self.folder = Path(folder).absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._config = json.loads(json.dumps(config))
        refuse_other_config(self.folder / "config.json", self._config)
        self._manager = ocp.CheckpointManager(self.folder, options=options)
        # Written beside and renamed, so that a reader never meets half a file.
        beside = self.folder / "config.json.new"
        beside.write_text(json.dumps(self._config, indent=2, sort_keys=True))
        beside.replace(self.folder / "config.json")

    def save(self, step: int, tree: Any) -> None:
        """Save a pytree of arrays under a step, in the background. A step that is there already is left alone."""
        if step in self._manager.all_steps():
            return
        args = self._ocp.args
        leaves = _sums(tree)
        sums = {"leaves": leaves, "checksum": _checksum_of(leaves)}
        items = {_STATE: args.StandardSave(tree), _SUMS: args.JsonSave(sums)}
        if not self._manager.save(step, args=args.Composite(**items), force=True):
            raise RuntimeError(f"Orbax declined to save step {step} to {self.folder}; newest: {self.newest()}.")

    def newest(self) -> int | None:
        """The newest complete step, or None."""
        self._manager.wait_until_finished()
        return self._manager.latest_step()

    def restore(self, like: Any) -> Any | None:
        """Return the newest checkpoint that can be read, with the structure, shapes and types of `like`.

        Those that cannot, or whose numbers are not the ones saved, are renamed to damaged-STEP, with a warning.

        Returns:
          The pytree; None if there is no checkpoint.

        Raises:
          ValueError: if the newest readable checkpoint holds other arrays than `like` or comes from a version without
            checksums, or none can be read.
        """
        self._manager.wait_until_finished()
        steps, damaged = sorted(self._manager.all_steps(), reverse=True), []
        for step in steps:
            try:
                found = self._read(step, like)
            except _Damage as error:
                damaged.append(f"step {step} ({error})")
                continue
            if damaged:
                told = f"damaged checkpoints in {self.folder}: {'; '.join(damaged)}. Going on from step {step}"
                warnings.warn(f"{told}; the damaged ones are kept under other names.", stacklevel=2)
                for late in steps[: len(damaged)]:
                    (self.folder / str(late)).rename(_free(self.folder / f"damaged-{late}"))
                self._manager.reload()
            return found
        if damaged:
            raise ValueError(
                f"no checkpoint in {self.folder} can be read: {'; '.join(damaged)}. Delete the folder to start again."
            )
        return None

    def _read(self, step: int, like: Any) -> Any:
        """The checkpoint of a step; raises ValueError if it is one of other arrays, _Damage if it cannot be read."""
        args, wanted = self._ocp.args, jax.tree.map(_shape_of, like)
        if (self.folder / str(step) / "default").is_dir():
            raise ValueError(
                f"the checkpoint of step {step} in {self.folder} has no checksums: an older otgen wrote it."
            )
        found = self._item(step, _SUMS, args.JsonRestore())
        if not isinstance(found, dict) or _checksum_of(found.get("leaves")) != found.get("checksum"):
            raise _Damage("its checksums changed after they were saved")
        sums = found["leaves"]
        stored = {name: entry[:2] for name, entry in sums.items()}
        shapes = {name: entry[:2] for name, entry in _sums(wanted).items()}
        differing = sorted(name for name in {*stored, *shapes} if stored.get(name) != shapes.get(name))
        if differing:
            told = ", ".join(f"{name} (stored {stored.get(name)}, now {shapes.get(name)})" for name in differing[:3])
            raise ValueError(f"the checkpoint of step {step} in {self.folder} holds other arrays: {told}.")
        found = self._item(step, _STATE, args.StandardRestore(wanted))
        changed = [name for name, entry in _sums(found).items() if entry != sums[name]]
        if changed:
            raise _Damage(f"numbers of {changed[0]} changed after they were saved")
        return found

    def _item(self, step: int, name: str, how: Any, again: bool = True) -> Any:
        """One item of a checkpoint, tried twice; raises _Damage for whatever reading a broken file comes to raise."""
        try:
            return self._manager.restore(step, args=self._ocp.args.Composite(**{name: how}))[name]
        except (MemoryError, PermissionError):  # not the checkpoint's fault
            raise
        except Exception as error:
            if again:
                return self._item(step, name, how, again=False)
            raise _Damage(_first_line(error)) from error

    def close(self) -> None:
        """Wait for the saves under way."""
        self._manager.wait_until_finished()
        self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *error) -> None:
        self.close()


class _Damage(Exception):
    """A checkpoint that cannot be read, or not as it was written."""


def _sums(tree: Any) -> dict[str, list[Any]]:
    """Shape, type and checksum of every leaf, by its path; no checksum where there are no numbers."""
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        entry = [list(leaf.shape), str(leaf.dtype)]
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            entry.append(zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)))
        found[jax.tree_util.keystr(path)] = entry
    return found


def _checksum_of(leaves: Any) -> int:
    return zlib.crc32(json.dumps(leaves, sort_keys=True).encode())


def _shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape, type and place of a leaf: a checkpoint may come from another number of devices."""
    place = getattr(leaf, "sharding", None) if jax.process_count() == 1 else None
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else 'no message'}"


def _free(path: Path) -> Path:
    """The path, or the first of path-1, path-2 ... that is not taken."""
    names = (path if i == 0 else path.with_name(f"{path.name}-{i}") for i in range(1000))
    return next(name for name in names if not name.exists())


def refuse_other_config(path: Path, config: dict[str, Any]) -> None:
    """Raise ValueError if the configuration stored at `path` is there and differs, naming the fields."""
    if not path.exists():
        return
    try:
        stored = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete {path.parent}, or choose another folder.") from error
    wanted = json.loads(json.dumps(config))
    differing = [name for name in sorted({*stored, *wanted}) if stored.get(name) != wanted.get(name)]
    if differing:
        told = ", ".join(f"{name} (stored {stored.get(name)!r}, now {wanted.get(name)!r})" for name in differing)
        raise ValueError(
            f"{path.parent} belongs to another configuration: {told}. "
            "Resume with the stored values, or choose another output folder."
        )
