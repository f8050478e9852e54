"""TFDS builders that prepare array_record sets from the raw files a user has, without TensorFlow."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from otgen import optional
from otgen.data.archives import IMAGE_ENDINGS
from otgen.data.decoding import decode
from otgen.data.idx import IDX_FILES, SHA256, read_idx
from otgen.data.items import Item
from otgen.data.sources import at_path

with optional.imports():
    import tensorflow_datasets as tfds
    from PIL import Image

CELEB_A_LAST = {"train": 162_770, "validation": 182_637, "test": 202_599}  # the official split, by file number


def _pixels(item: Item, size: int) -> np.ndarray:
    """Decode an image to [size, size, 3], cropped to its central square."""
    return decode(item, (255, 255, 255), 3, size, resample=Image.Resampling.BOX)


def _split_of(name: str, default: str) -> str:
    """The split a file belongs to: a folder of that name, else (CelebA) its six-digit number, else the default."""
    parts = name.split("/")
    for split in ("train", "validation", "test"):
        if split in parts[:-1]:
            return split
    number = re.fullmatch(r"(\d{6})\.\w+", parts[-1])
    if number:
        return next((split for split, last in CELEB_A_LAST.items() if int(number[1]) <= last), default)
    return default


class IdxImages(tfds.core.GeneratorBasedBuilder):
    """Grey images of 28 x 28 with labels, from gzipped IDX files."""

    VERSION = tfds.core.Version("1.0.0")
    raw: Path  # set by `prepare` before the builder runs

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(28, 28, 1), dtype=np.uint8),
                    "label": tfds.features.Scalar(dtype=np.int64),
                }
            )
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {split: self._generate_examples(split) for split in IDX_FILES}

    def _generate_examples(self, split):
        images, labels = (read_idx(self.raw / name) for name in IDX_FILES[split])
        if len(images) != len(labels):
            raise ValueError(
                f"{self.raw}: {len(images)} {split} images but {len(labels)} labels: the files do not match."
            )
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield i, {"image": image[..., None], "label": int(label)}


class FolderImages(tfds.core.GeneratorBasedBuilder):
    """Colour images from class folders or an archive of them; each image's folder names its class."""

    VERSION = tfds.core.Version("1.0.0")
    raw: Path  # set by `prepare` before the builder runs
    size: int
    classes: list[str]
    splits: list[str]

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(self.size, self.size, 3), dtype=np.uint8),
                    "label": tfds.features.Scalar(dtype=np.int64),
                }
            )
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {split: self._generate_examples(split) for split in self.splits}

    def _generate_examples(self, split):
        for item in at_path(self.raw).items():
            if _split_of(item.name, "train") == split:
                yield item.name, {"image": _pixels(item, self.size), "label": self.classes.index(class_of(item.name))}


def class_of(name: str) -> str:
    """Return the class of an image by its path: the folder that holds it."""
    return name.split("/")[-2] if "/" in name else ""


def prepare(cache: Path, name: str, raw: Path, size: int) -> tfds.core.DatasetBuilder:
    """Prepare the set `name` below `cache` from raw files, unless it is there, and return its builder.

    TFDS writes into a temporary folder that it renames when all is written, so that nothing half-written stays.

    Args:
      cache: folder for this very set of raw files.
      name: mnist, fashion_mnist, cifar10 or celeb_a.
      raw: the folder of IDX files, or the folder or archive of images.
      size: side of the images in pixels (image sets only).
    """
    if name in SHA256:
        kind = type(
            f"Otgen_{name}",
            (IdxImages,),
            {"__module__": __name__, "name": f"otgen_{name}", "raw": raw},
            skip_registration=True,
        )
    else:
        names = [item.name for item in at_path(raw).items()]
        if not names:
            raise ValueError(f"{raw} holds no images ({', '.join(IMAGE_ENDINGS)}): is it the right place?")
        fields = {
            "raw": raw,
            "size": size,
            "classes": sorted({class_of(member) for member in names}),
            "splits": sorted({_split_of(member, "train") for member in names}),
        }
        kind = type(
            f"Otgen_{name}",
            (FolderImages,),
            {"__module__": __name__, "name": f"otgen_{name}", **fields},
            skip_registration=True,
        )
    builder = kind(data_dir=cache, file_format="array_record")
    builder.download_and_prepare()
    return builder
