"""An image that is not decoded yet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL import Image


class Item(NamedTuple):
    """An image that is not decoded yet.

    Attributes:
      name: path below its source, "/" between folders.
      image: path of a file, its bytes, a function without arguments that returns them, a PIL image, or an array
        [h, w] or [h, w, 1 to 4].
      label: class, a whole number or a word; None where the folder tells it.
    """

    name: str
    image: Path | bytes | Callable[[], bytes] | Image.Image | np.ndarray
    label: int | str | None = None
