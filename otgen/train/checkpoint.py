"""Checkpoints through Orbax: written in the background, complete or absent, tied to their configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax


class Checkpoints:
    """The checkpoints of one stage of a run.

    A save that is killed half-way is ignored when restoring. A folder that another configuration has written
    to is refused.

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
        if not self._manager.save(step, args=self._ocp.args.StandardSave(tree), force=True):
            raise RuntimeError(f"Orbax declined to save step {step} to {self.folder}; newest: {self.newest()}.")

    def newest(self) -> int | None:
        """The newest complete step, or None."""
        self._manager.wait_until_finished()
        return self._manager.latest_step()

    def restore(self, like: Any) -> Any | None:
        """Return the newest checkpoint, with the structure, shapes and types of `like`; None if there is none."""
        step = self.newest()
        if step is None:
            return None
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)
        return self._manager.restore(step, args=self._ocp.args.StandardRestore(shapes))

    def close(self) -> None:
        """Wait for the saves under way."""
        self._manager.wait_until_finished()
        self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *error) -> None:
        self.close()


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
