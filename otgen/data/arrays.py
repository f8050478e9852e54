"""Images in files of arrays, .npy and .npz, read in pieces: neither file need fit into memory."""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from otgen.data.items import Item
from otgen.ot.check import require_channels_last

ARRAY_ENDINGS = (".npy", ".npz")
SPLITS = {  # names that parts of a set go by
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_SPLIT = "|".join(SPLITS)
_IMAGES = re.compile(rf"(?:({_SPLIT})_)?(?:images?|imgs?|x|data|arr_0)(?:_({_SPLIT}))?", re.IGNORECASE)
_LABELS = re.compile(rf"(?:({_SPLIT})_)?(?:labels?|y|targets?|arr_1)(?:_({_SPLIT}))?", re.IGNORECASE)
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_PIECE = 2**24  # bytes at a time


class _Head(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype


def rows(path: Path) -> Iterator[Item]:
    """Yield the images of an .npy or .npz file; of an .npz with those of several splits all, "train/7" and so on.

    In an .npz the images are called images, x or data, and their classes labels or y, before or after which a split may
    be named (x_train, test_labels); an array that is alone may have any name.

    Raises:
      ValueError: for a damaged file, unknown names, and arrays that are no images.
    """
    try:
        if path.suffix.lower() == ".npy":
            with path.open("rb") as file:
                yield from _items(str(path), file, "", None)
            return
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            for split, images, labels in _named(path, names):
                told = f"{path}, array {images}"
                known = None if labels is None else _labels(f"{path}, array {labels}", archive, labels)
                with archive.open(f"{images}.npy") as file:
                    yield from _items(told, file, f"{split}/" if split else "", known)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}): it is truncated or damaged; make it again.") from error


def _named(path: Path, names: list[str]) -> list[tuple[str, str, str | None]]:
    """Return split, name of the images and name of their labels for every array of images."""
    images = {_split_of(_IMAGES, name): name for name in names if _IMAGES.fullmatch(name)}
    labels = {_split_of(_LABELS, name): name for name in names if _LABELS.fullmatch(name)}
    if not images and len(names) == 1:
        images = {"": names[0]}
    if not images:
        raise ValueError(
            f"{path} holds the arrays {', '.join(names) or 'none'}: call the images 'images' and their classes "
            "'labels', or x_train, y_train, x_test, y_test."
        )
    return [(split, name, labels.get(split)) for split, name in sorted(images.items())]


def _split_of(pattern: re.Pattern, name: str) -> str:
    before, after = pattern.fullmatch(name).groups()
    return (before or after or "").lower()


def _head(told: str, file: IO[bytes]) -> _Head:
    """Read the head of an array of images."""
    try:
        shape, fortran, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{told} is no array of NumPy ({error}): save it by np.save or np.savez.") from None
    if dtype.hasobject or dtype.kind not in "biuf":
        raise ValueError(f"{told} is of type {dtype}: save the images as uint8, all of one height and width.")
    if fortran:
        raise ValueError(f"{told} lies column by column: save np.ascontiguousarray of it.")
    if len(shape) == 4:
        require_channels_last(told, shape)
    if len(shape) not in (3, 4) or 0 in shape:
        raise ValueError(f"{told} has shape {shape}: give images [n, height, width] or [n, height, width, channels].")
    return _Head(shape, dtype)


def _items(told: str, file: IO[bytes], before: str, labels: Any) -> Iterator[Item]:
    (num, *shape), dtype = _head(told, file)
    if labels is not None and len(labels) != num:
        raise ValueError(f"{told} has {num} images and there are {len(labels)} labels: give one for each.")
    size, digits = math.prod(shape) * dtype.itemsize, len(str(num - 1))
    for start in range(0, num, max(1, _PIECE // size)):
        count = min(max(1, _PIECE // size), num - start)
        raw = file.read(count * size)
        if len(raw) < count * size:
            raise ValueError(f"{told} is truncated: {num} images of shape {tuple(shape)} are announced; make it again.")
        for i, image in enumerate(np.frombuffer(raw, dtype).reshape(count, *shape), start):
            yield Item(f"{before}{i:0{digits}d}", image, None if labels is None else labels[i])


def _labels(told: str, archive: zipfile.ZipFile, name: str) -> list[int | str]:
    with archive.open(f"{name}.npy") as file:
        labels = np.lib.format.read_array(file, allow_pickle=False)
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim != 1 or labels.dtype.kind not in "iubU":
        raise ValueError(f"{told} has shape {labels.shape} and type {labels.dtype}: give one class for each image.")
    return labels.tolist()
