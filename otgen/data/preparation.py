"""How images of one's own are prepared: the options, checked."""

from __future__ import annotations

import dataclasses

from otgen import optional
from otgen.ot.check import as_count, require_below_one, require_choice, require_kind


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preparation:
    """How images of one's own are prepared.

    Attributes:
      size: side in pixels that the largest square of every image is scaled to, averaging over what a new pixel covers;
        None where all images have the same sides, which they keep.
      crop: where that square lies: "centre", or "random", drawn once for each image.
      background: colour that shows through where an image is transparent, such as "white" or "#336699".
      channels: 1 or 3; None for 1 if all images are grey, otherwise 3.
      flips: each training image is followed by its mirror image, so that there are twice as many.
      on_corrupt: "refuse" or "skip" images that cannot be read; those skipped are listed.
      test_share: share of the images that is held out; folders train and test, where they are, decide instead.
      seed: of the split, of the order of the rows, and of random crops.
      progress: show a bar where it takes longer than a second.

    Example:
      >>> print(og.data.Preparation(size=32).crop)
      centre
    """

    size: int | None = None
    crop: str = "centre"
    background: str = "white"
    channels: int | None = None
    flips: bool = False
    on_corrupt: str = "refuse"
    test_share: float = 0.1
    seed: int = 0
    progress: bool = True

    def __post_init__(self) -> None:
        if self.size is not None:
            as_count("size", self.size)
        require_choice("crop", self.crop, ("centre", "random"))
        require_choice("channels", self.channels, (None, 1, 3))
        require_choice("on_corrupt", self.on_corrupt, ("refuse", "skip"))
        require_below_one("test_share", self.test_share)
        as_count("seed", self.seed, 0)
        require_kind("flips", self.flips, bool)
        self.colour()

    def colour(self) -> tuple[int, int, int]:
        """Return red, green and blue of the background, 0 to 255."""
        with optional.imports():
            from PIL import ImageColor

        try:
            return ImageColor.getrgb(self.background)[:3]
        except (ValueError, AttributeError, TypeError):
            raise ValueError(
                f"background = {self.background!r}: give a name or #rrggbb, such as 'white' or '#336699'."
            ) from None

    def copies(self, split: str) -> int:
        """Return how many rows an image of a split has: two with its mirror image."""
        return 2 if self.flips and split == "train" else 1
