"""Images and labels, in memory or memory-mapped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from otgen.ot.check import require_kind

ABOUT = "about.json"  # beside the arrays of images of one's own


class Dataset(NamedTuple):
    """Images and labels.

    Attributes:
      images: uint8 [n, height, width, channels], in memory; of one's own a `numpy.memmap`.
      labels: int64 [n].

    Example:
      >>> data = og.data.Dataset(np.zeros((5, 8, 8, 1), np.uint8), np.arange(5))
      >>> print(data.images.shape, data.labels.max())
      (5, 8, 8, 1) 4
    """

    images: np.ndarray
    labels: np.ndarray


def about(data: Dataset) -> dict[str, Any]:
    """Return what was found and decided when images of one's own were prepared.

    Args:
      data: from `load`, of images of one's own.

    Returns:
      source, options, classes (names, by label), counts (images of every split), rule (what decided on the split),
      shape, skipped (name and fault of every image left out), fingerprint (the same for the same pixels and labels).

    Raises:
      ValueError: for another data set.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8)
      ...     np.savez(folder + "/set.npz", images=images, labels=np.arange(20) % 2)
      ...     data = og.data.load(folder + "/set.npz", cache_dir=folder)
      ...     print(og.data.about(data)["counts"], data.images.shape)
      {'train': 18, 'test': 2} (18, 8, 8, 1)
    """
    require_kind("data", data, Dataset)
    place = Path(getattr(data.images, "filename", None) or "").parent / ABOUT
    if not place.is_file():
        raise ValueError("data is no set of one's own images: give what `data.load` returned for a path.")
    return json.loads(place.read_text())
