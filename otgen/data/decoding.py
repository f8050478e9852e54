"""From an image file, or what stands for one, to pixels: uint8 [height, width, 1 or 3], upright, not transparent."""

from __future__ import annotations

import contextlib
import io
import math
import os
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from otgen import optional
from otgen.data.items import Item
from otgen.ot.check import require_channels_last

with optional.imports():
    from PIL import Image

_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_GREY = ("1", "L", "LA", "La", "I", "F")
_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")


class Look(NamedTuple):
    """What the head of a file tells: sides of the upright image in pixels, and whether one channel is enough."""

    height: int
    width: int
    is_grey: bool


class Unreadable(ValueError):
    """An image that cannot be decoded."""


def look(item: Item, background: tuple[int, int, int], *, whole: bool = False) -> Look:
    """Return sides and channels of an image, of a file from its head alone.

    Args:
      item: the image.
      background: red, green and blue, 0 to 255, that shows through where it is transparent.
      whole: also decode the pixels, to find what is damaged.

    Raises:
      Unreadable: naming it.
    """
    with _naming(item), _opened(item.image) as image:
        if whole:
            _flat(image, background)
        width, height = image.size[::-1] if _orientation(image) >= 5 else image.size
        return Look(height, width, _is_grey(image, background))


def decode(
    item: Item,
    background: tuple[int, int, int],
    channels: int,
    size: int | None = None,
    place: tuple[float, float] | None = None,
    resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> np.ndarray:
    """Return the pixels of an image, uint8 [height, width, channels].

    Upright by its EXIF tag, of an animation the first frame; 16 bits become 8, a transparent image is laid on the
    background, palettes and CMYK become RGB.

    Args:
      item: the image.
      background: red, green and blue, 0 to 255.
      channels: 1 or 3; a grey image fills three alike, of a colour one the luma is taken for one.
      size: side in pixels that its largest square is scaled to; None for the image as it is.
      place: where that square lies, across and down, each in [0, 1); None for the middle.
      resample: filter of the scaling; all but NEAREST average over what one new pixel covers.

    Raises:
      Unreadable: naming it.
    """
    with _naming(item), _opened(item.image) as image:
        orientation, image = _orientation(image), _flat(image, background)
        if orientation in _UPRIGHT:
            image = image.transpose(_UPRIGHT[orientation])
        image = image.convert("L" if channels == 1 else "RGB")
        if size is not None:
            side = min(image.size)
            spare = (image.width - side, image.height - side)
            left, top = (it // 2 if place is None else int(place[i] * (it + 1)) for i, it in enumerate(spare))
            image = image.resize((size, size), resample, box=(left, top, left + side, top + side))
        return np.asarray(image, np.uint8).reshape(image.height, image.width, channels)


@contextlib.contextmanager
def _naming(item: Item) -> Iterator[None]:
    """Turn whatever a decoder raises into an error that names the image."""
    try:
        yield
    except Exception as error:  # of damaged files decoders raise nearly everything
        told = str(error).strip().rstrip(".") or type(error).__name__
        raise Unreadable(
            f"{item.name} is not a readable image ({told}): remove or replace it, or pass on_corrupt='skip' "
            "(--on-corrupt skip) to leave such files out."
        ) from error


@contextlib.contextmanager
def _opened(image: Any) -> Iterator[Image.Image]:
    """Give the image with its head read; what was opened for it is closed again."""
    if callable(image):
        image = image()
    if isinstance(image, Image.Image):
        yield image
    elif isinstance(image, bytes | os.PathLike):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # it is refused below
                opened = Image.open(io.BytesIO(image) if isinstance(image, bytes) else image)
        except Image.DecompressionBombError as error:
            raise ValueError(_bomb(str(error))) from None
        with opened:
            most = Image.MAX_IMAGE_PIXELS or math.inf
            if math.prod(opened.size) > most:
                raise ValueError(_bomb(f"{opened.width} x {opened.height} pixels"))
            yield opened
    else:
        yield Image.fromarray(_eight_bits(np.asarray(image)))


def _bomb(told: str) -> str:
    return f"a decompression bomb? {told}, more than PIL.Image.MAX_IMAGE_PIXELS = {Image.MAX_IMAGE_PIXELS} of Pillow"


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where there is none, or none that can be read."""
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # of damaged tags, whose pixels may be sound
        return 1


def _is_transparent(image: Image.Image) -> bool:
    return image.mode in _ALPHA or ("transparency" in image.info and image.mode in ("1", "L", "P", "RGB"))


def _is_grey(image: Image.Image, background: tuple[int, int, int]) -> bool:
    grey = image.mode in _GREY or image.mode.startswith("I;16")
    return grey and (len(set(background)) == 1 or not _is_transparent(image))


def _flat(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Return the image of mode L or RGB, 8 bits a channel, where it is transparent on the background."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image)
        if image.mode == "I" and values.min() >= 0 and values.max() <= 65535:
            values = values.astype(np.uint16)  # a file of 16 bits, as some versions of Pillow open it
        return Image.fromarray(_eight_bits(values))
    if not _is_transparent(image):
        return image.convert("L" if image.mode in _GREY else "RGB")
    flat = Image.new("RGBA", image.size, (*background, 255))
    flat.alpha_composite(image.convert("RGBA"))
    return flat.getchannel(0) if _is_grey(image, background) else flat.convert("RGB")


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Return an array of one image as uint8 [h, w] or [h, w, 2 to 4]; floats in [0, 1] and 16 bits are scaled."""
    if values.ndim == 3:
        require_channels_last("arrays", values.shape)
    if values.ndim not in (2, 3) or 0 in values.shape or (values.ndim == 3 and values.shape[-1] > 4):
        raise ValueError(f"an array of shape {values.shape}, where an image is [h, w] or [h, w, 1 to 4]")
    values = values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values
    kind = values.dtype.kind
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if kind not in "iuf":
        raise ValueError(f"an array of {values.dtype}, where pixels are whole numbers or floats")
    if kind == "u" and values.itemsize == 2:
        return np.round(values.astype(np.float32) / 257).astype(np.uint8)
    least, most = values.min(), values.max()
    if not (least >= 0 and most <= (1 if kind == "f" else 255)):
        raise ValueError(
            f"{values.dtype} from {least:g} to {most:g}, where floats are from 0 to 1 and whole numbers from 0 to 255"
        )
    return (np.round(values.astype(np.float32) * 255) if kind == "f" else values).astype(np.uint8)
