"""Checkpoints through Orbax: written in the background, complete or absent, checksummed, tied to a configuration."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import math
import platform
import warnings
import zlib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from otgen.train import hosts

_ITEM = "state"  # of a checkpoint, which has one
_LAYOUT = 2  # of what is stored
_OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE)


class Checkpoints:
    """The checkpoints of one stage of a run.

    A save that is killed half-way is ignored when restoring; a checkpoint that was damaged later is put aside with a
    warning, and the one before it used. A folder that another configuration has written to is refused. Where several
    hosts run, the first writes and reads, and tells the others what it read.

    Args:
      folder: where they lie; made if need be.
      config: JSON-like description of what makes the numbers; must equal that of the checkpoints in the folder.
      keep: how many of the newest to keep.
      best: name of a metric; the state at which it was least is kept as well, see `restore`.

    Raises:
      ValueError: if the folder holds checkpoints of another configuration, naming the fields that differ.
      OSError: if nothing can be written there.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder, og.train.Checkpoints(folder, {"rate": 0.1}) as checkpoints:
      ...     checkpoints.save(10, {"w": jnp.array([1.0, 2.0])})
      ...     print(checkpoints.restore({"w": jnp.zeros(2)})["w"])
      [1. 2.]
    """

    def __init__(self, folder: Path | str, config: dict[str, Any], keep: int = 2, *, best: str | None = None):
        if keep < 1:
            raise ValueError(f"keep = {keep} would keep no checkpoint: give 1 or more.")
        import orbax.checkpoint as ocp

        self._ocp = ocp
        self.folder = Path(folder).absolute()
        self._config = json.loads(json.dumps(config))
        self._manager, self._best, self._metric = None, None, best
        if not hosts.is_first():
            return
        refuse_other_config(self.folder / "config.json", self._config)
        several = {"active_processes": {0}, "barrier_sync_key_prefix": "first"} if jax.process_count() > 1 else {}
        alone = ocp.options.MultiprocessingOptions(primary_host=0, **several)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=False, cleanup_tmp_directories=True, multiprocessing_options=alone
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._manager = ocp.CheckpointManager(self.folder, options=options)
        # Written beside and renamed, so that a reader never meets half a file.
        beside = self.folder / "config.json.new"
        beside.write_text(json.dumps(self._config, indent=2, sort_keys=True))
        beside.replace(self.folder / "config.json")
        if best is not None:
            self._best = Checkpoints(self.folder / "best", config, keep=1)

    def save(self, step: int, tree: Any, metrics: dict[str, float] | None = None) -> None:
        """Save a pytree of arrays under a step, in the background. A step that is there already is left alone.

        Args:
          step: its number.
          tree: what is saved.
          metrics: by name; without any, the best is left as it is.

        Raises:
          OSError: if this or the save before it could not be written; those before are intact.
          ValueError: if the metrics lack the one to be the best in, or a leaf is a typed random key.
        """
        if self._manager is None:
            return
        self._write(step, tree, metrics or {})
        if self._best is not None and metrics:
            self._save_best(step, tree, metrics)

    def _save_best(self, step: int, tree: Any, metrics: dict[str, float]) -> None:
        if self._metric not in metrics:
            known = ", ".join(metrics) or "none"
            raise ValueError(f"best = {self._metric!r} is no metric of this training; its metrics: {known}.")
        least = self._best._least(self._metric)
        if least is None or metrics[self._metric] < least:
            self._best.save(step, tree, metrics)

    def _least(self, metric: str) -> float | None:
        """Return the metric of the newest checkpoint; None if there is none that can be read, which is put aside."""
        step = self.newest()
        if step is None:
            return None
        try:
            return self._item(step, numbers=False)[0]["metrics"][metric]
        except _Damage as error:
            self._put_aside([step], f"step {step} ({error})", "The next state becomes the best")
            return None

    def _put_aside(self, steps: list[int], told: str, next_: str) -> None:
        warnings.warn(
            f"damaged checkpoints in {self.folder}: {told}. {next_}; the damaged ones are kept under other names.",
            stacklevel=5,
        )
        for step in steps:
            (self.folder / str(step)).rename(_free(self.folder / f"damaged-{step}"))
        self._manager.reload()

    def _write(self, step: int, tree: Any, metrics: dict[str, float]) -> None:
        if step in self._manager.all_steps():
            return
        from otgen.store import checksums

        about = {"config": self._config, "versions": versions(), "metrics": metrics}
        facts = {"layout": _LAYOUT, "leaves": {name: _kind(leaf) for name, leaf in _named(tree)}, **about}
        numbers = {name: _bytes_of(name, leaf) for name, leaf in _named(tree)}
        item = {_ITEM: checksums.Save(numbers, facts)}
        with self._writing():
            saved = self._manager.save(step, args=self._ocp.args.Composite(**item), force=True)
        if not saved:
            raise RuntimeError(f"Orbax declined to save step {step} to {self.folder}; newest: {self.newest()}.")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Say what it means that a checkpoint cannot be written."""
        try:
            yield
        except Exception as error:
            steps = sorted(int(path.name) for path in self.folder.glob("[0-9]*") if path.name.isdigit())
            good = f"step {steps[-1]} is the last one" if steps else "there is none before it"
            raise OSError(
                f"a checkpoint could not be written to {self.folder} ({_first_line(error)}); {good}. Make room there, "
                "or give another folder, and resume."
            ) from error

    def newest(self) -> int | None:
        """Return the newest complete step, or None; on the first host."""
        if self._manager is None:
            return None
        with self._writing():
            self._manager.wait_until_finished()
        return self._manager.latest_step()

    def restore(self, like: Any, *, best: bool = False) -> Any | None:
        """Return the newest checkpoint that can be read, with the structure, shapes and types of `like`.

        Those that cannot, or whose numbers are not the ones saved, are renamed to damaged-STEP, with a warning.
        Several hosts call it together.

        Args:
          like: a pytree of arrays.
          best: whether the state at which the metric was least is wanted instead.

        Returns:
          The pytree; None if there is no checkpoint.

        Raises:
          ValueError: if the newest readable checkpoint holds other arrays than `like` or was laid out by an older
            version, or none can be read; if the best is wanted and none was kept.
        """
        if best and self._metric is None:
            raise ValueError("no best checkpoint is kept: name its metric, Checkpoints(..., best=...).")
        if jax.process_count() == 1:
            return (self._best if best else self)._restore(like)
        found = (self._best if best else self)._restore(like) if hosts.is_first() else None
        if not hosts.agreed(found is not None):
            return None
        return hosts.from_first(like if found is None else found)

    def _restore(self, like: Any) -> Any | None:
        self._manager.wait_until_finished()
        steps, damaged = sorted(self._manager.all_steps(), reverse=True), []
        for step in steps:
            try:
                found = self._read(step, like)
            except _Damage as error:
                damaged.append(f"step {step} ({error})")
                continue
            if damaged:
                self._put_aside(steps[: len(damaged)], "; ".join(damaged), f"Going on from step {step}")
            return found
        if damaged:
            raise ValueError(
                f"no checkpoint in {self.folder} can be read: {'; '.join(damaged)}. Move the folder to start again."
            )
        return None

    def _read(self, step: int, like: Any) -> Any:
        """The checkpoint of a step; raises ValueError if it is one of other arrays, _Damage if it cannot be read."""
        older = f"the checkpoint of step {step} in {self.folder} is laid out in another way: an older otgen wrote it."
        if any((self.folder / str(step) / name).is_dir() for name in ("default", "sums")):
            raise ValueError(older)
        facts, whole = self._item(step)
        if facts.get("layout") != _LAYOUT:
            raise ValueError(older)
        sums = facts["leaves"]
        stored = {name: entry[:2] for name, entry in sums.items()}
        shapes = {name: _kind(leaf) for name, leaf in _named(like)}
        differing = sorted(name for name in {*stored, *shapes} if stored.get(name) != shapes.get(name))
        if differing:
            told = ", ".join(f"{name} (stored {stored.get(name)}, now {shapes.get(name)})" for name in differing[:3])
            raise ValueError(f"the checkpoint of step {step} in {self.folder} holds other arrays: {told}.")
        sizes = {name: np.dtype(kind).itemsize * math.prod(shape) for name, (shape, kind, _) in sums.items()}
        ends = dict(zip(sizes, np.cumsum(list(sizes.values())), strict=True))
        numbers = {name: whole[ends[name] - size : ends[name]] for name, size in sizes.items()}
        if len(whole) != sum(sizes.values()):
            raise _Damage(f"{len(whole)} bytes of numbers instead of {sum(sizes.values())}")
        changed = [name for name, found in numbers.items() if zlib.crc32(found) != sums[name][2]]
        if changed:
            raise _Damage(f"numbers of {changed[0]} changed after they were saved")
        other = [f"{name} {old}" for name, old in facts.get("versions", {}).items() if versions().get(name) != old]
        if other:
            told = f"the checkpoint of step {step} in {self.folder} was made with {', '.join(other)}"
            warnings.warn(f"{told}: the numbers that follow may differ in their last digits.", stacklevel=5)
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: _placed_like(leaf, numbers[jax.tree_util.keystr(path)]), like
        )

    def _item(self, step: int, again: bool = True, *, numbers: bool = True) -> tuple[dict[str, Any], Any]:
        """Facts and bytes of a step, tried twice; raises _Damage for whatever reading a broken file comes to raise."""
        from otgen.store import checksums

        try:
            item = {_ITEM: checksums.Restore(numbers)}
            facts, whole = self._manager.restore(step, args=self._ocp.args.Composite(**item))[_ITEM]
            if checksums.checksum_of(facts["leaves"]) != facts["checksum"]:
                raise _Damage("its checksums changed after they were saved")
            return facts, whole
        except _Damage:
            raise
        except (MemoryError, PermissionError):  # not the checkpoint's fault
            raise
        except Exception as error:
            busy = not again and getattr(error, "errno", None) in _OF_THE_MACHINE
            if busy or "RESOURCE_EXHAUSTED" in str(error):
                raise
            if again:
                return self._item(step, again=False, numbers=numbers)
            raise _Damage(_first_line(error)) from error

    def close(self) -> None:
        """Wait for the saves under way.

        Raises:
          OSError: if the last of them could not be written.
        """
        if self._manager is None:
            return
        try:
            with self._writing():
                self._manager.wait_until_finished()
        finally:
            self._manager.close()
            if self._best is not None:
                self._best.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            self.close()
        except OSError as failed:
            if error is None:
                raise
            error.add_note(str(failed))  # what ends the run is told first


class _Damage(Exception):
    """A checkpoint that cannot be read, or not as it was written."""


@functools.cache
def versions() -> dict[str, str]:
    """Return versions of otgen, Python and the libraries that make the numbers."""
    names = ("otgen", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    found = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return {"python": platform.python_version(), **found}


def _named(tree: Any) -> list[tuple[str, Any]]:
    """Return the leaves of a pytree with their paths."""
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]


def _kind(leaf: Any) -> list[Any]:
    """Return shape and type of a leaf."""
    return [list(leaf.shape), str(leaf.dtype)]


def _bytes_of(name: str, leaf: Any) -> np.ndarray:
    """Return the numbers of a leaf as bytes, in memory of their own: that of the leaf is given to the next step."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        raise ValueError(f"{name} is a typed random key: keep jax.random.key_data of it in the state.")
    return np.array(leaf, order="C", copy=True).reshape(-1).view(np.uint8)


def _placed_like(leaf: Any, numbers: np.ndarray) -> Any:
    """Bytes as an array of the shape and type of a leaf, on its devices: a checkpoint may come from other ones."""
    found = numbers.view(leaf.dtype).reshape(leaf.shape)
    tied = jax.process_count() == 1 and getattr(leaf, "committed", False)
    place = leaf.sharding if tied else None
    return jnp.array(found) if place is None else jax.device_put(found, place, may_alias=False)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else 'no message'}"


def _free(path: Path) -> Path:
    """Return the path, or the first of path-1, path-2 ... that is not taken."""
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
