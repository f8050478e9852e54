"""Sprites with known factors: dSprites, rendered from its five factors instead of read from its file.

Factors are integers (shape, scale, orientation, position x, position y) in the order of the original, whose first
factor, colour, has one value and is left out: index i here is index i there. Shapes: 0 square, 1 ellipse, 2 heart.
The outlines are fitted to the 258 genuine images in the animation published with the original, a pixel being white if
its centre lies inside. Of these, 257 come out exactly; in one (a heart of scale 0.9) two of 4,096 pixels differ.

Reference: Matthey, Higgins, Hassabis, Lerchner (2017), dSprites: disentanglement testing sprites dataset.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike

from otgen.ot.check import as_count, as_generator, native, require_choice

NAMES = ("shape", "scale", "orientation", "position_x", "position_y")
SIZES = (3, 6, 40, 32, 32)
NUM = 737_280  # the product of the sizes
SIDE = 64

# In pixels at scale 1. The images allow 9.5966 to 9.5998 for the square: 64 x 0.15, less what rasterising took off.
_HALF_SIDE = 9.598
_HALF_AXES = 12.766, 7.214
_HEART_WIDTH, _HEART_HEIGHT, _HEART_OFFSET = 0.5996, 0.6622, -1.4363
_REACH = 14  # whole pixels from a sprite's centre to the edge of the window that holds it: a corner is 13.6 away
_BLOCK = 256


def factors_of(index: ArrayLike) -> np.ndarray:
    """Return the factors [n, 5] of images by their index [n] in the original order, position y fastest.

    Raises:
      ValueError: for an index outside 0 to 737,279.

    Example:
      >>> print(og.data.sprites.factors_of([0, 1, 33]))  # position y is fastest, then x
      [[0 0 0 0 0]
       [0 0 0 0 1]
       [0 0 0 1 1]]
    """
    index = np.asarray(native("index", index))
    if index.dtype.kind not in "iu":
        raise ValueError(f"index has entries of type {index.dtype}: give whole numbers.")
    if index.size and not 0 <= index.min() <= index.max() < NUM:
        raise ValueError(f"indices run from {index.min()} to {index.max()}: give 0 to {NUM - 1}.")
    return np.stack(np.unravel_index(index, SIZES), axis=-1)


def index_of(factors: ArrayLike) -> np.ndarray:
    """Return the index [n] in the original order of images by their factors [n, 5].

    Raises:
      ValueError: for other shapes, or factors out of range.

    Example:
      >>> print(og.data.sprites.index_of([[0, 0, 0, 1, 1]]), og.data.sprites.factors_of([33]))
      [33] [[0 0 0 1 1]]
    """
    return np.ravel_multi_index(_checked(factors).T, SIZES)


def values(factors: ArrayLike) -> np.ndarray:
    """Return what the factors stand for: shape (1 to 3), scale, orientation in radians, positions in [0, 1]: [n, 5].

    Orientations are 40 values from 0 to 2 pi inclusive, as in the original: the first and the last look the same.

    Raises:
      ValueError: for other shapes, or factors out of range.

    Example:
      >>> print(og.data.sprites.values([[0, 5, 39, 31, 0]]))  # a square, full size, turned by 2 pi, right, top
      [[1. 1. 6.283 1. 0.]]
    """
    shape, scale, orientation, x, y = _checked(factors).T
    return np.stack([shape + 1.0, 0.5 + scale / 10, orientation * (2 * np.pi / 39), x / 31, y / 31], axis=1)


def render(factors: ArrayLike) -> np.ndarray:
    """Render sprites: uint8 [n, 64, 64, 1], 0 and 255.

    Orientation turns a sprite counter-clockwise on the screen; position 0 is the top left, with the centre at pixel 16
    and 32/31 pixels a step.

    Args:
      factors: integers [n, 5]: shape, scale, orientation, position x, position y.

    Raises:
      ValueError: for other shapes, or factors out of range.

    Example:
      >>> small, large = og.data.sprites.render([[0, 0, 0, 16, 16], [0, 5, 0, 16, 16]])
      >>> print(small.shape, (large > 0).sum() > 3 * (small > 0).sum())
      (64, 64, 1) True
    """
    factors = _checked(factors)
    order = np.argsort(factors[:, 0], kind="stable")  # blocks of one shape each
    images = np.zeros((len(factors), SIDE, SIDE, 1), np.uint8)
    for shape, inside in enumerate((_in_square, _in_ellipse, _in_heart)):
        rows = order[factors[order, 0] == shape]
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            _draw(images, block, values(factors[block]), inside)
    return images


def sample(seed: int | np.random.Generator, num: int, split: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Draw different images, uniformly: all of them in memory are 2.8 GiB.

    Args:
      seed: an integer, or a generator to draw from.
      num: how many.
      split: "train" or "test" to draw from one side of `load("dsprites", split)`; None for both.

    Returns:
      Images, uint8 [num, 64, 64, 1], and their factors, int64 [num, 5].

    Raises:
      ValueError: for an unknown split, or more images than there are.

    Example:
      >>> images, factors = og.data.sprites.sample(0, 3)
      >>> print(images.shape, (images == og.data.sprites.render(factors)).all())
      (3, 64, 64, 1) True
    """
    known = NUM if split is None else indices(split)
    count = NUM if split is None else len(known)
    if as_count("num", num, 0) > count:
        raise ValueError(f"num = {num}: {split or 'dsprites'} holds {count} different images.")
    factors = factors_of(as_generator(seed).choice(known, num, replace=False))
    return render(factors), factors


@functools.cache
def _order() -> np.ndarray:
    order = np.random.default_rng(0).permutation(NUM)
    order.flags.writeable = False
    return order


def indices(split: str) -> np.ndarray:
    """Return which images a split holds, in its order: nine in ten for "train", the others for "test".

    Raises:
      ValueError: for an unknown split.

    Example:
      >>> train, test = og.data.sprites.indices("train"), og.data.sprites.indices("test")
      >>> print(len(train) + len(test), np.intersect1d(train, test).size)
      737280 0
    """
    require_choice("split", split, ("train", "test"))
    held_out = NUM // 10
    return _order()[held_out:] if split == "train" else _order()[:held_out]


def _checked(factors: ArrayLike) -> np.ndarray:
    factors = np.asarray(native("factors", factors))
    if factors.ndim != 2 or factors.shape[1] != len(SIZES) or factors.dtype.kind not in "iu":
        raise ValueError(
            f"factors have shape {factors.shape} and type {factors.dtype}: give integers [n, 5] ({', '.join(NAMES)})."
        )
    wrong = (factors < 0) | (factors >= SIZES)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(f"{NAMES[column]} = {factors[row, column]} in row {row}: give 0 to {SIZES[column] - 1}.")
    return factors.astype(np.int64, copy=False)


def _draw(images: np.ndarray, rows: np.ndarray, numbers: np.ndarray, inside) -> None:
    """Write sprites of one shape into their rows of the images, looking at the window around each sprite only."""
    _, scale, angle, *place = numbers.T
    centre = 16 + 32 * np.stack(place, axis=1)  # x, y
    corner = np.floor(centre).astype(np.int64) - _REACH
    pixels = np.arange(2 * _REACH + 1) + 0.5
    dx, dy = ((pixels + (corner - centre)[:, axis, None]) / scale[:, None] for axis in (0, 1))
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    across = cos * dx[:, None, :] - sin * dy[:, :, None]  # in the sprite's own frame: [n, window y, window x]
    down = sin * dx[:, None, :] + cos * dy[:, :, None]
    windows = sliding_window_view(images[..., 0], (len(pixels), len(pixels)), axis=(1, 2), writeable=True)
    windows[rows, corner[:, 1], corner[:, 0]] = np.where(inside(across, down), np.uint8(255), np.uint8(0))


def _in_square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) <= _HALF_SIDE


def _in_ellipse(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x / _HALF_AXES[0]) ** 2 + (y / _HALF_AXES[1]) ** 2 <= 1


def _in_heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return whether points lie in the curve x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t, y upwards.

    An x belongs to t and pi - t, which share the terms even in cos t and differ in the sign of the odd ones.
    """
    sine = np.cbrt(np.abs(x) / (16 * _HEART_WIDTH))
    square = 1 - sine * sine
    cos = np.sqrt(np.maximum(square, 0))
    even = (_HEART_OFFSET - y) / _HEART_HEIGHT - 4 + square * (2 + 8 * square)
    return (square >= 0) & (np.abs(even) <= cos * (19 - 8 * square))
