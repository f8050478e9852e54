"""Image sets by name, read through TFDS without TensorFlow, and images of one's own by path: `load`."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from otgen import optional
from otgen.data import cache, idx
from otgen.data.dataset import Dataset
from otgen.ot.check import as_path, require_choice

NAMES = ("digits", "mnist", "fashion_mnist", "cifar10", "celeb_a", "stacked_mnist", "dsprites")
_SIDE = {"cifar10": 32, "celeb_a": 64}
_DIGITS_TEST = 360  # held-out images of the built-in digits: one in five, in a fixed shuffled order


def load(
    name: Any,
    split: str = "train",
    data_dir: str | os.PathLike | None = None,
    *,
    cache_dir: str | os.PathLike | None = None,
    verify: bool = True,
    **options: Any,
) -> Dataset:
    """Load an image set by its name, or images of your own.

    `digits` (1,797 handwritten digits of 8 x 8, from scikit-learn) is built in: 1,437 train, 360 test. The others
    are looked for in the subfolder of `data_dir` of that name: first as a data set that TFDS has prepared
    (array_record), then as raw files, there or in `data_dir` itself, which are prepared once under `cache_dir`:

    * mnist, fashion_mnist: the four official gzipped IDX files;
    * cifar10: class folders below train/ and test/, or a .tar, .tar.gz or .tar.xz of them;
    * celeb_a: the aligned images in a folder or archive (official split by file number), cropped to 64 x 64.

    `stacked_mnist` is composed of mnist, always in the same way: see `otgen.data.stacked`.

    `dsprites` is built in: rendered from its factors, labelled by shape, nine images in ten for train. All of train is
    2.5 GiB of memory; `otgen.data.sprites.sample(seed, num, split)` draws a part of it, with all factors.

    Images of your own are what lies at a path, or an object:

    * a folder of image files, or an archive of one (.tar, .tar.gz, .tar.xz, .tar.bz2, .zip): the first folder in which
      images differ is their class, unless it is train, validation or test;
    * a .npy or .npz file of images [n, h, w] or [n, h, w, c], and labels;
    * a text file with the path of an image a line, or a list of paths;
    * whatever has a length and gives by [i] an image, a pair of image and label, or a dictionary of both, such as a
      data set of Hugging Face or PyTorch, or a dictionary of these for train and test.

    They are decoded once to uint8 and kept below `cache_dir` as memory-mapped arrays, of which a batch reads only its
    own rows; see `otgen.data.Preparation`, whose fields are the options, and `otgen.data.about`.

    Args:
      name: one of digits, mnist, fashion_mnist, cifar10, celeb_a, stacked_mnist, dsprites; or images of your own.
      split: "train" or "test" (celeb_a also "validation").
      data_dir: where the data lie that a name stands for; None reads the environment variable OTGEN_DATA.
      cache_dir: where prepared sets are kept; None for the user's cache folder. Sources are never written to.
      verify: check the SHA-256 of the official IDX files.
      **options: of images of your own, fields of `Preparation`: size, crop, background, channels, flips, on_corrupt,
        test_share, seed, progress.

    Returns:
      Dataset.

    Raises:
      ValueError: for an unknown name or split, a truncated or altered file; of images of your own, naming the file, for
        those that cannot be read or have different sides, fewer than two, and archives that are unsafe to unpack.
      FileNotFoundError: naming the files that are missing and where they were looked for.
      TypeError: for an unknown option.

    Example:
      >>> digits = og.data.load("digits")
      >>> print(digits.images.shape, digits.images.dtype, og.data.load("digits", "test").labels[:5].tolist())
      (1437, 8, 8, 1) uint8 [6, 6, 6, 2, 5]
    """
    data_dir, cache_dir = (
        None if path is None else as_path(of, path) for of, path in (("data_dir", data_dir), ("cache_dir", cache_dir))
    )
    if is_own(name):
        from otgen.data import own

        return own.load(name, split, cache_dir, **options)
    if not (isinstance(name, str) and name in NAMES):
        told = ", ".join(repr(it) for it in NAMES)
        raise ValueError(f"name = {name!r}: choose one of {told}, or give the path of a folder or file of images.")
    if options:
        raise ValueError(f"{', '.join(options)}: {name} is prepared in one way; these are for images of your own.")
    if name == "digits":
        return _digits(split)
    if name == "dsprites":
        return _dsprites(split)
    if name == "stacked_mnist":
        from otgen.data import stacked

        return stacked.load_split(split, lambda s: load("mnist", s, data_dir, cache_dir=cache_dir, verify=verify))
    data_dir = data_dir or os.environ.get("OTGEN_DATA")
    if not data_dir:
        raise FileNotFoundError(
            f"{name} is not built in: pass data_dir (--data-dir) or set OTGEN_DATA to the folder that holds "
            f"{_wanted(name)}{_fetched(name)}."
        )
    places = [Path(data_dir) / name, Path(data_dir)]
    builder = _prepared_by_tfds(places[0])
    if builder is None:
        builder = _from_raw(name, places, cache_dir or cache.default(), verify)
    require_choice("split", split, tuple(builder.info.splits))
    source = builder.as_data_source(split=split)
    records = source.__getitems__(range(len(source)))
    images = np.stack([record["image"] for record in records])
    return Dataset(images, np.array([record.get("label", 0) for record in records], np.int64))


def is_own(name: Any) -> bool:
    """Return whether these are images of one's own, and not the name of a set: objects, and texts that look like paths.

    Example:
      >>> print(og.data.is_own("digits"), og.data.is_own("./digits"), og.data.is_own("photos.zip"))
      False True True
    """
    if not isinstance(name, str):
        return isinstance(name, os.PathLike) or (hasattr(name, "__len__") and hasattr(name, "__getitem__"))
    if name in NAMES:
        return False
    from otgen.data.sources import FILE_ENDINGS

    return "/" in name or os.sep in name or name.lower().endswith(FILE_ENDINGS) or os.path.exists(name)


def _digits(split: str) -> Dataset:
    with optional.imports():
        from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    order = np.random.default_rng(0).permutation(len(images))
    rows = {"train": order[_DIGITS_TEST:], "test": order[:_DIGITS_TEST]}
    require_choice("split", split, tuple(rows))
    return Dataset(images[rows[split]], digits.target[rows[split]].astype(np.int64))


def _dsprites(split: str) -> Dataset:
    from otgen.data import sprites

    factors = sprites.factors_of(sprites.indices(split))
    return Dataset(sprites.render(factors), factors[:, 0].copy())


def _wanted(name: str) -> str:
    """Return what raw files a set is made from, in words."""
    from otgen.data.archives import ARCHIVE_ENDINGS

    if name in idx.SHA256:
        return f"{name}/ with " + ", ".join(idx.SHA256[name])
    endings = ", ".join(ARCHIVE_ENDINGS)
    if name == "cifar10":
        return f"cifar10/ with train/CLASS/*.jpg and test/CLASS/*.jpg (or .png), or one archive ({endings}) of them"
    return f"celeb_a/ with img_align_celeba/*.jpg, or one archive ({endings}) of it"


def _fetched(name: str) -> str:
    """Return how a set is fetched, in words; nothing where it cannot be."""
    return "" if name == "celeb_a" else f"; python -m otgen.data.fetch {name} --data-dir DATA fetches it"


def _prepared_by_tfds(folder: Path):
    """Return the newest version of a data set that TFDS has prepared in this folder, if there is one."""
    with optional.imports():
        import tensorflow_datasets as tfds

    found = folder.glob("**/dataset_info.json") if folder.is_dir() else ()
    versions = sorted(found, key=lambda path: [int(n) for n in re.findall(r"\d+", path.parent.name)])
    if not versions:
        return None
    builder = tfds.builder_from_directory(versions[-1].parent)
    if builder.info.file_format.value != "array_record":
        raise ValueError(
            f"{versions[-1].parent} was prepared as {builder.info.file_format.value}: without TensorFlow only "
            "array_record can be read; prepare it again with file_format='array_record'."
        )
    return builder


def _from_raw(name: str, places: list[Path], kept: Path, verify: bool):
    raw, files = _find_idx(name, places) if name in idx.SHA256 else _find_images(places)
    if raw is None:
        looked = " and ".join(str(place) for place in places)
        raise FileNotFoundError(
            f"{name}: missing {', '.join(files) or 'images'}; looked in {looked}. Needed: {_wanted(name)}"
            f"{_fetched(name)}."
        )
    mark = hashlib.sha256()
    for file in files:
        stat = file.stat()
        mark.update(f"{file.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{verify}".encode())
    folder = kept / mark.hexdigest()[:16]
    ready = _prepared_by_tfds(folder) if folder.exists() else None
    if ready is not None:
        return ready
    if name in idx.SHA256:
        for file in files:
            idx.read_idx(file)
            if verify:
                idx.verify_checksum(file, idx.SHA256[name][file.name])
    from otgen.data import builders

    with cache.in_one_piece(folder, lambda it: _prepared_by_tfds(it) is not None) as place, _quiet():
        builders.prepare(place, name, raw, _SIDE.get(name, 28))
    return _prepared_by_tfds(folder)


def _find_idx(name: str, places: list[Path]):
    """Return the folder that holds all four IDX files; otherwise None and the missing names."""
    for place in places:
        files = [place / file for file in idx.SHA256[name]]
        if all(file.is_file() for file in files):
            return place, files
    nearest = max(places, key=lambda place: sum((place / file).is_file() for file in idx.SHA256[name]))
    return None, [file for file in idx.SHA256[name] if not (nearest / file).is_file()]


def _find_images(places: list[Path]):
    """A folder of images, or an archive in it: the set's own, or the whole data folder if it is laid out as one set."""
    from otgen.data.archives import ARCHIVE_ENDINGS, IMAGE_ENDINGS

    whole = [place for place in places[1:] if any((place / part).is_dir() for part in ("train", "img_align_celeba"))]
    for folder in (place for place in (places[0], *whole) if place.is_dir()):
        inside = [file for file in folder.glob("*/**/*") if file.suffix.lower() in IMAGE_ENDINGS]
        if inside:
            return folder, inside
        archives = sorted(file for file in folder.iterdir() if file.name.endswith(ARCHIVE_ENDINGS))
        if archives:
            return archives[0], archives[:1]
    return None, []


@contextlib.contextmanager
def _quiet():
    """Keep TFDS' banners off standard output; its progress bars stay."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
