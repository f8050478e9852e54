"""Where images come from: a folder, an archive, arrays, a list of files, or a map-style object, item by item.

A source may be gone through as often as one likes, and gives the same items in the same order.
"""

from __future__ import annotations

import functools
import hashlib
import operator
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from otgen import optional
from otgen.data import archives, arrays
from otgen.data.items import Item
from otgen.data.mapped import pieces

FILE_ENDINGS = (*archives.ARCHIVE_ENDINGS, *arrays.ARRAY_ENDINGS, ".txt")
_KINDS = (
    f"a folder of images, an archive ({', '.join(archives.ARCHIVE_ENDINGS)}), an array (.npy, .npz), a text file with "
    "a path a line, a list of paths, or an object with len() and [i], such as a data set of Hugging Face"
)
_PIECE = 1000  # rows of an array at a time
_IMAGE_KEYS, _LABEL_KEYS = ("image", "img", "images", "pixel_values"), ("label", "labels", "fine_label", "class")


class Source(NamedTuple):
    """Images that are not decoded yet.

    Attributes:
      place: what to call it.
      mark: text that is another one when the images are.
      items: goes through them.
    """

    place: str
    mark: str
    items: Callable[[], Iterator[Item]]


def source_of(given: Any) -> Source:
    """Return the source that something is, or that lies at a path.

    Raises:
      ValueError: for what is none.
      FileNotFoundError: if nothing is at a path.
    """
    if isinstance(given, str | os.PathLike):
        return at_path(Path(given))
    if isinstance(given, Sequence) and len(given) and all(isinstance(it, str | os.PathLike) for it in given):
        return _of_files(f"the list of {len(given)} files", [Path(it) for it in given])
    given = np.asarray(given) if hasattr(given, "__array__") else given
    if hasattr(given, "__len__") and hasattr(given, "__getitem__"):
        return _of_object(given)
    raise ValueError(f"there are no images in a {type(given).__name__}: give {_KINDS}.")


def at_path(path: Path) -> Source:
    """Return the source at a path: a folder, an archive, an array, or a list of files."""
    name = path.name.lower()
    if path.is_dir():
        return _of_files(str(path), _walk(path), path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: nothing is there; give {_KINDS}.")
    if name.endswith(".txt"):
        return _of_files(str(path), _listed(path))
    for endings, read in ((archives.ARCHIVE_ENDINGS, archives.members), (arrays.ARRAY_ENDINGS, arrays.rows)):
        if name.endswith(endings):
            return Source(str(path), _stat(path), functools.partial(read, path))
    table = " A table of points is read by np.loadtxt (docs/getting-started.md)." if str(path).endswith(".csv") else ""
    raise ValueError(f"{path} is no set of images: give {_KINDS}.{table}")


def _stat(path: Path) -> str:
    found = path.stat()
    return f"{os.path.abspath(path)}|{found.st_size}|{found.st_mtime_ns}"


def _walk(folder: Path) -> list[Path]:
    """Return the images below a folder, sorted; links to other folders are followed, to none of them twice."""
    found, seen = [], {os.path.realpath(folder)}
    for place, inside, names in os.walk(folder, followlinks=True, onerror=_refuse):
        real = {name: os.path.realpath(os.path.join(place, name)) for name in inside}
        inside[:] = [name for name in inside if real[name] not in seen]
        seen |= set(real.values())
        below = Path(place).relative_to(folder)
        found += [Path(place, name) for name in names if archives.is_image((below / name).as_posix())]
    return sorted(found)


def _refuse(error: OSError) -> None:
    raise ValueError(f"{error.filename} cannot be read ({error.strerror}): make it readable, or move it away.")


def _listed(path: Path) -> list[Path]:
    """Return the files that a text names, a line each, relative to where it lies."""
    try:
        lines = path.read_text().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text ({error}): give a file with the path of an image a line.") from None
    return [path.parent / line.strip() for line in lines if line.strip()]


def _of_files(place: str, files: list[Path], folder: Path | None = None) -> Source:
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{place}: {missing[0]} is missing, or is no file ({len(missing)} of {len(files)} are): correct the list, "
            "or the link."
        )
    if not files:
        raise ValueError(f"{place} holds no images ({', '.join(archives.IMAGE_ENDINGS)}): is it the right place?")
    folder = folder or Path(os.path.commonpath([os.path.abspath(file.parent) for file in files]))
    names = [Path(os.path.relpath(file, folder)).as_posix() for file in files]
    mark = hashlib.sha256("\n".join(map(_stat, files)).encode()).hexdigest()
    return Source(place, mark, lambda: map(Item, names, files))


def _of_object(given: Any) -> Source:
    parts = given if isinstance(given, Mapping) else {"": given}
    if unknown := set(parts) - {"", *arrays.SPLITS}:
        raise ValueError(f"a dictionary with {', '.join(map(str, unknown))}: give {{'train': images, 'test': images}}.")
    place = f"the {type(given).__name__} of {sum(map(len, parts.values()))}"

    def items() -> Iterator[Item]:
        for split, part in parts.items():
            digits = len(str(len(part)))
            for i, found in enumerate(_each(part)):
                name = f"{split}/{i:0{digits}d}" if split else f"{i:0{digits}d}"
                yield Item(name, *_image_and_label(f"item {name} of {place}", found))

    mark = hashlib.sha256()
    for item in items():
        mark.update(f"{item.name}|{item.label}|{_content(item.image)}".encode())
    return Source(place, mark.hexdigest(), items)


def _each(part: Any) -> Iterator[Any]:
    if isinstance(part, np.ndarray):
        return (row for piece in pieces(part, _PIECE) for row in piece)
    return (part[i] for i in range(len(part)))


def _image_and_label(told: str, found: Any) -> tuple[Any, int | str | None]:
    """Return the parts of what a map-style object gives: a dictionary, an image with its label, or an image."""
    label = None
    if isinstance(found, Mapping):
        keys = [key for key in _IMAGE_KEYS if key in found]
        if not keys and {"bytes", "path"} & set(found):
            keys, found = ["image"], {"image": found}
        if not keys:
            raise ValueError(
                f"{told} has the columns {', '.join(map(str, found))}: call that of the images 'image' and that of "
                "their classes 'label'."
            )
        image = found[keys[0]]
        label = next((found[key] for key in _LABEL_KEYS if key in found), None)
    elif isinstance(found, tuple):
        image, label = found[0], found[1] if len(found) > 1 else None
    else:
        image = found
    if isinstance(image, Mapping):  # a file that is not decoded
        image = image.get("bytes") or Path(image["path"])
    if isinstance(image, str):
        image = Path(image)
    if not isinstance(image, bytes | os.PathLike) and not _is_of_pillow(image):
        image = np.asarray(image)
    return image, None if label is None else _class_of(told, label)


def _class_of(told: str, label: Any) -> int | str:
    if isinstance(label, str):
        return label
    try:
        return operator.index(label.item() if hasattr(label, "item") else label)
    except (TypeError, ValueError):
        raise ValueError(f"{told} has the label {label!r}: give one class, a whole number or a word.") from None


def _is_of_pillow(image: Any) -> bool:
    with optional.imports():
        from PIL import Image
    return isinstance(image, Image.Image)


def _content(image: Any) -> str:
    if isinstance(image, os.PathLike):
        return _stat(Path(image))
    if _is_of_pillow(image):
        palette = image.getpalette() if image.mode == "P" else None
        image = f"{image.mode}{image.size}{palette}".encode() + image.tobytes()
    if isinstance(image, np.ndarray):
        image = f"{image.shape}{image.dtype}".encode() + image.tobytes()
    return hashlib.sha256(image).hexdigest()
