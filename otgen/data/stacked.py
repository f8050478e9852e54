"""Stacked MNIST: three digits as the three channels of one image, 1,000 modes that can be counted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from otgen.data.dataset import Dataset
from otgen.ot.check import as_count, as_generator, native, require_choice, require_function

NUM_MODES = 1000
_SIZE = {"train": 60_000, "test": 10_000}


def compose(
    seed: int | np.random.Generator, images: np.ndarray, labels: np.ndarray, num: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw images of three independent digits.

    Args:
      seed: an integer, or a generator, which is advanced.
      images: digits [n, height, width] or [n, height, width, 1] of any type, which the result keeps.
      labels: their classes [n], integers 0 to 9.
      num: how many to draw.

    Returns:
      Images [num, height, width, 3] and labels [num], int64: 100 a + 10 b + c for the digits a, b, c of the channels.

    Raises:
      ValueError: for images of several channels, labels that are not one digit per image, or a num below 1.

    Example:
      >>> digits, labels = np.arange(10)[:, None, None] * np.ones((10, 2, 2)), np.arange(10)
      >>> images, modes = og.data.stacked.compose(0, digits, labels, 3)
      >>> print(images.shape, (images[:, 0, 0] @ [100, 10, 1] == modes).all())
      (3, 2, 2, 3) True

    Reference: Metz et al. (2016), arXiv 1611.02163; Srivastava et al. (2017), arXiv 1705.07761.
    """
    images, labels = np.asarray(native("images", images)), _as_digits(labels)
    num = as_count("num", num)
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    if images.ndim != 3 or not len(images):
        raise ValueError(f"images has shape {images.shape}: give grey images [n, height, width] or [..., 1].")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"labels have shape {labels.shape}: give one digit for each of the {len(images)} images.")
    rows = as_generator(seed).integers(len(images), size=(num, 3))
    stacked = np.empty((num, *images.shape[1:], 3), images.dtype)
    for channel in range(3):  # one channel at a time: no second copy of the whole set
        stacked[..., channel] = images[rows[:, channel]]
    return stacked, labels[rows].astype(np.int64) @ [100, 10, 1]


def _as_digits(labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(native("labels", labels))
    if labels.ndim != 1 or not len(labels) or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() > 9:
        raise ValueError(f"labels have shape {labels.shape} and type {labels.dtype}: give integers 0 to 9, shape [n].")
    return labels


def mode_weights(labels: np.ndarray) -> np.ndarray:
    """Return the probabilities [1000] of the modes, from the labels [n] of the digits that are stacked.

    The digits of MNIST are not quite equally frequent, so neither are the modes (.7 to 1.5 in a thousand).

    Raises:
      ValueError: for labels that are no digits.

    Example:
      >>> weights = og.data.stacked.mode_weights(np.array([0, 0, 0, 1]))
      >>> print(weights[0], 0.75**3, weights[11], 0.75 * 0.25**2)
      0.422 0.422 0.047 0.047
    """
    labels = _as_digits(labels)
    share = np.bincount(labels, minlength=10) / len(labels)
    return np.einsum("a,b,c->abc", share, share, share).reshape(-1)


def load_split(split: str, mnist: Callable[[str], Dataset]) -> Dataset:
    """Return the fixed stacked set of a split: always the same images in the same order.

    Args:
      split: "train", 60,000 images composed of the training digits of MNIST with seed 0, or "test", 10,000 composed of
        its test digits with seed 1.
      mnist: function from a split to that split of MNIST.

    Returns:
      Dataset of images uint8 [n, 28, 28, 3] and labels 0 to 999.

    Raises:
      ValueError: for another split.

    Example:
      >>> digits = og.data.load("digits")
      >>> stacked = og.data.stacked.load_split("test", lambda split: digits)
      >>> print(stacked.images.shape, stacked.labels.max() < 1000)
      (10000, 8, 8, 3) True
    """
    require_choice("split", split, tuple(_SIZE)), require_function("mnist", mnist)
    images, labels = mnist(split)
    order = np.argsort(images.reshape(len(images), -1).view(f"S{images[0].size}")[:, 0])  # however they were prepared
    return Dataset(*compose(list(_SIZE).index(split), images[order], labels[order], _SIZE[split]))
