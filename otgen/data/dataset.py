"""Images and labels in memory."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Dataset(NamedTuple):
    """Images and labels in memory.

    Attributes:
      images: uint8 [n, height, width, channels].
      labels: int64 [n].

    Example:
      >>> data = og.data.Dataset(np.zeros((5, 8, 8, 1), np.uint8), np.arange(5))
      >>> print(data.images.shape, data.labels.max())
      (5, 8, 8, 1) 4
    """

    images: np.ndarray
    labels: np.ndarray
