"""Codes of many images: in pieces, and in files that a run that was stopped goes on with."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from otgen.data.mapped import pieces
from otgen.models.apply import check_images, rows
from otgen.models.codec.made import Codec
from otgen.ot.check import as_path, require_kind
from otgen.train import Progress
from otgen.train.stages import checksum
from otgen.types import Array

_PART = 512  # images whose codes are written at once
_CODES, _FACTS = "codes.npy", "codes.json"


def encode(
    codec: Codec, images: Any, *, folder: str | os.PathLike | None = None, progress: bool | None = None
) -> np.ndarray:
    """Return codes [n, d] of images.

    Args:
      codec: see `Codec`.
      images: uint8, or floats in [0, 1], [n, h, w, c]; they may lie in a file.
      folder: where codes are kept. What is there is not computed again; what a run that was stopped has left is gone on
        with. None to hold them in memory alone.
      progress: whether a line shows how far it is; None: in notebooks.

    Raises:
      ValueError: for images of another shape; if the folder holds codes of other images or of another codec, or codes
        that have been altered.

    Example:
      >>> import tempfile
      >>> net, images = og.nn.Autoencoder((8, 8, 1), latent_dim=3, hidden=(16,)), og.data.load("digits").images
      >>> codec = og.models.codec.of_module(net, net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1))), (8, 8, 1))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     codes = np.array(og.models.codec.encode(codec, images, folder=folder))
      ...     again = np.array(og.models.codec.encode(codec, images, folder=folder))  # read
      >>> print(codes.shape, np.array_equal(codes, again))
      (1437, 3) True
    """
    require_kind("codec", codec, Codec)
    images = check_images(images, "unit", codec.module.image_shape)
    if folder is None:
        found = np.empty((len(images), codec.module.latent_dim), np.float32)
        _fill(codec, images, found, 0, progress, lambda part: None)
        return found
    folder = Path(as_path("folder", folder))
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {"images": [list(images.shape), str(images.dtype), checksum(images)], "dim": codec.module.latent_dim}
    if (folder / _FACTS).is_file():
        return _read(codec, images, folder, wanted)
    facts, codes = _begun(folder, wanted, len(images))
    if facts["parts"]:
        _require_same(codec, images, codes, folder)

    def wrote(part: np.ndarray) -> None:
        codes.flush()
        facts["parts"].append(checksum(part))
        _write(folder / f"{_FACTS}.partial", facts)

    _fill(codec, images, codes, len(facts["parts"]), progress, wrote)
    os.replace(folder / f"{_CODES}.partial", folder / _CODES)
    os.replace(folder / f"{_FACTS}.partial", folder / _FACTS)
    return np.load(folder / _CODES, mmap_mode="r")


def decode(codec: Codec, codes: ArrayLike) -> Array:
    """Return images [n, h, w, c] in [0, 1] of codes [n, d], decoded in pieces.

    Raises:
      ValueError: for codes of another shape, or not finite.

    Example:
      >>> halves = og.models.codec.of_functions(lambda x: x[:, ::2], lambda z: z.repeat(2, 1), (4, 4, 1))
      >>> print(og.models.codec.decode(halves, np.ones((3, 8))).shape)
      (3, 4, 4, 1)
    """
    require_kind("codec", codec, Codec)
    return rows(codec.module, codec.variables, codes, "decode")


def _fill(codec: Codec, images: Any, codes: np.ndarray, done: int, progress: bool | None, wrote: Any) -> None:
    """Encode images from a part on, telling each part that is written."""
    start = done * _PART
    with Progress(len(images), "codes", progress) as bar:
        bar(start, {})
        for images_of_part in pieces(images[start:], _PART):
            part = codes[start : start + len(images_of_part)]
            part[:] = rows(codec.module, codec.variables, images_of_part, "encode")
            if not np.isfinite(part).all():
                raise ValueError(f"codes of images {start} to {start + len(part) - 1} are not finite: check the codec.")
            wrote(part)
            start += len(part)
            bar(start, {})


def _begun(folder: Path, wanted: dict[str, Any], num: int) -> tuple[dict[str, Any], np.ndarray]:
    """Return what a run before has left, its parts checked, or a new beginning."""
    facts, codes = folder / f"{_FACTS}.partial", folder / f"{_CODES}.partial"
    if facts.is_file() and codes.is_file():
        known = json.loads(facts.read_text())
        _require_wanted(known, wanted, folder)
        found = np.load(codes, mmap_mode="r+")
        _require_intact(known, found, folder)
        return known, found
    shape = (num, wanted["dim"])
    return {**wanted, "parts": []}, np.lib.format.open_memmap(codes, "w+", np.float32, shape)


def _read(codec: Codec, images: Any, folder: Path, wanted: dict[str, Any]) -> np.ndarray:
    known = json.loads((folder / _FACTS).read_text())
    _require_wanted(known, wanted, folder)
    codes = np.load(folder / _CODES, mmap_mode="r")
    _require_intact(known, codes, folder)
    _require_same(codec, images, codes, folder)
    return codes


def _require_wanted(known: dict[str, Any], wanted: dict[str, Any], folder: Path) -> None:
    for name, what in (("images", "other images"), ("dim", "a codec of another dimension")):
        if known.get(name) != wanted[name]:
            raise ValueError(
                f"{folder} holds codes of {what}, {known.get(name)} rather than {wanted[name]}: give another "
                "folder, or delete it."
            )


def _require_intact(known: dict[str, Any], codes: np.ndarray, folder: Path) -> None:
    for i, expected in enumerate(known["parts"]):
        if checksum(codes[i * _PART : (i + 1) * _PART]) != expected:
            raise ValueError(f"the codes in {folder} have been altered or damaged, from row {i * _PART} on: delete it.")


def _require_same(codec: Codec, images: Any, codes: np.ndarray, folder: Path) -> None:
    """Refuse codes that are not this codec's, by those of the first images."""
    num = min(8, len(images))
    again = np.asarray(rows(codec.module, codec.variables, images[:num], "encode"))
    if not np.allclose(again, codes[:num], rtol=1e-2, atol=1e-2 * (np.abs(again).max() + 1e-6)):
        raise ValueError(f"{folder} holds codes of another codec: give another folder, or delete it.")


def _write(path: Path, facts: dict[str, Any]) -> None:
    aside = path.with_name(f"{path.name}.new")
    aside.write_text(json.dumps(facts))
    os.replace(aside, path)
