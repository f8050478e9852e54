"""Images of one's own: prepared once as a memory-mapped array of each split, in a cache folder, then read from there.

Two passes over the source: the first looks at the head of every image (`planning`), the second decodes and writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import shutil
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from otgen.data import cache
from otgen.data.dataset import ABOUT, Dataset
from otgen.data.decoding import Unreadable, decode
from otgen.data.planning import Plan, plan, shown
from otgen.data.preparation import Preparation
from otgen.data.sources import Source, source_of
from otgen.ot.check import require_choice

_LAYOUT = 1  # of what is stored
_SHOWN = 5  # faults in a message


def load(given: Any, split: str, folder: str | os.PathLike | None = None, **options: Any) -> Dataset:
    """Return a split of a set of images, preparing it first if need be; see `otgen.data.load`.

    Args:
      given: path or object, see `sources.source_of`.
      split: "train", "test", or "validation" where the set has it.
      folder: where prepared sets are kept; None for the user's cache folder.
      **options: fields of `Preparation`.
    """
    known = [field.name for field in dataclasses.fields(Preparation)]
    for name in options:
        if name not in known:
            raise TypeError(f"data.load has no option {name!r}: choose among {', '.join(known)}.")
    preparation, source = Preparation(**options), source_of(given)
    place = prepared(source, preparation, Path(folder) if folder else cache.default())
    counts = json.loads((place / ABOUT).read_text())["counts"]
    split = "validation" if split == "test" and "test" not in counts and "validation" in counts else split
    require_choice("split", split, tuple(counts))
    return Dataset(np.load(place / f"{split}.npy", mmap_mode="r"), np.load(place / f"{split}_labels.npy"))


def prepared(source: Source, options: Preparation, kept: Path) -> Path:
    """Return the folder of a prepared set below `kept`, preparing it if it is not there."""
    fields = {name: value for name, value in dataclasses.asdict(options).items() if name != "progress"}
    mark = hashlib.sha256(f"{_LAYOUT}|{source.mark}|{sorted(fields.items())}".encode())
    folder = kept / mark.hexdigest()[:16]
    if _is_whole(folder):
        return folder
    found = plan(source, options)
    counts = {split: options.copies(split) * len(rows) for split, rows in found.rows.items()}
    with cache.in_one_piece(folder, _is_whole) as place:
        place.mkdir()
        _require_room(kept, sum(counts.values()), found.shape)
        told = {
            "source": source.place,
            "options": fields,
            "classes": found.classes,
            "counts": counts,
            "rule": found.rule,
            "shape": found.shape,
            "skipped": found.skipped,
            "fingerprint": _write(source, options, found, place),
        }
        (place / ABOUT).write_text(json.dumps(told, indent=1))
    if found.skipped:
        first = "; ".join(list(found.skipped.values())[:_SHOWN])
        warnings.warn(f"{len(found.skipped)} images are left out, see {folder / ABOUT}: {first}", stacklevel=4)
    return folder


def _is_whole(folder: Path) -> bool:
    return (folder / ABOUT).is_file()  # which is written last


def _require_room(kept: Path, num: int, shape: tuple[int, int, int]) -> None:
    needed, free = num * math.prod(shape), shutil.disk_usage(kept).free
    if needed > free:
        raise ValueError(
            f"{num:,} images of shape {shape} take {needed / 2**30:.1f} GiB, and {kept} has {free / 2**30:.1f} free: "
            "give another cache_dir (--cache-dir), or a smaller size."
        )


def _write(source: Source, options: Preparation, found: Plan, folder: Path) -> str:
    """Decode every image, write it to its row, and return a fingerprint of pixels and labels."""
    total, splits, written = len(found.labels), list(found.rows), 0
    split_of, row_of = np.full(total, -1, np.int8), np.zeros(total, np.int64)
    for i, rows in enumerate(found.rows.values()):
        split_of[rows], row_of[rows] = i, np.arange(len(rows))
    with contextlib.ExitStack() as stack:
        files = [
            stack.enter_context(
                _Rows(folder / f"{split}.npy", len(found.rows[split]), found.shape, options.copies(split))
            )
            for split in splits
        ]
        for i, item in enumerate(shown(source.items(), "preparing images", options, total)):
            if i >= total or split_of[i] < 0:
                continue
            place, written = None, written + 1
            if options.crop == "random":
                place = tuple(np.random.default_rng([options.seed, split_of[i], row_of[i]]).random(2))
            try:
                pixels = decode(item, options.colour(), found.shape[-1], options.size, place)
            except Unreadable as error:
                raise ValueError(f"{source.place}: {error}") from error
            if pixels.shape != found.shape:
                raise ValueError(f"{source.place}: {item.name} is another image than a moment ago: try again.")
            files[split_of[i]].put(row_of[i], pixels)
    if written < np.count_nonzero(split_of >= 0):
        raise ValueError(f"{source.place} has fewer images than a moment ago: try again.")
    mark = hashlib.sha256(repr(found.shape).encode())
    for split, file in zip(splits, files, strict=True):
        labels = np.repeat(found.labels[found.rows[split]], options.copies(split))
        np.save(folder / f"{split}_labels.npy", labels)
        mark.update(split.encode() + file.sums.tobytes() + labels.tobytes())
    return mark.hexdigest()[:16]


class _Rows:
    """An array on disk that is written row by row, in any order, a second copy of each as its mirror image."""

    def __init__(self, path: Path, num: int, shape: tuple[int, int, int], copies: int):
        self._copies, self._size = copies, math.prod(shape)
        self.sums = np.zeros(copies * num, np.uint32)  # a checksum of every row
        self._file = path.open("wb")
        head = {"descr": "|u1", "fortran_order": False, "shape": (copies * num, *shape)}
        np.lib.format.write_array_header_1_0(self._file, head)
        self._start = self._file.tell()

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.close()

    def put(self, row: int, pixels: np.ndarray) -> None:
        first = self._copies * int(row)
        self._file.seek(self._start + first * self._size)
        for i, image in enumerate((pixels, pixels[:, ::-1])[: self._copies], first):
            raw = image.tobytes()
            self.sums[i] = zlib.crc32(raw)
            self._file.write(raw)
