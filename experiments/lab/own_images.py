"""Images of one's own in an experiment: `--dataset PATH`, its options, and networks and training that suit them."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import jax

from otgen import data
from otgen.data.sources import FILE_ENDINGS
from otgen.eval import Extractor
from otgen.nn.autoencoder import num_levels, to_unit
from otgen.train import hosts

_SEEN = {"mlp": 200_000, "conv": 100_000, "residual": 100_000}  # images that an autoencoder sees in all
_SIDE = 16  # of the images that scores are taken of: distances of more pixels take minutes and tell no more
MANY = 10_000  # images from which training is as on MNIST, below as on the digits
_LEAST = {"train": 50, "test": 8}


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnImages:
    """Options of images of one's own, where the data set is a path; all are in what the pixels are known by."""

    size: int | None = None
    """Your own images: side in pixels that they are cropped and scaled to; not needed where all have the same sides."""
    crop: str = "centre"
    """Your own images: centre or random, drawn once for each image."""
    background: str = "white"
    """Your own images: colour where they are transparent, a name or #rrggbb."""
    flips: bool = False
    """Your own images: also train on their mirror images."""
    on_corrupt: str = "refuse"
    """Your own images: refuse or skip those that cannot be read."""
    test_share: float = 0.1
    """Your own images: share held out, unless there are folders train and test."""

    def numbers(self, *skip: str) -> dict[str, Any]:
        """Return the fields that make the numbers, less those to be skipped; a path is known by what lies there."""
        found = super().numbers(*skip, *_FIELDS)
        if "dataset" in found and data.is_own(self.dataset):
            known = data.about(load(self, "train"))
            found["dataset"] = f"{label(self.dataset)} {known['fingerprint']}"
        return found


_FIELDS = tuple(field.name for field in dataclasses.fields(OwnImages))


def is_given(config: Any) -> bool:
    """Return whether the data set of an experiment that takes images of one's own is a path."""
    return isinstance(config, OwnImages) and data.is_own(config.dataset)


def label(dataset: str) -> str:
    """Return what to call a data set: its name, or the last part of its path without the ending."""
    if not data.is_own(dataset):
        return dataset
    name = os.path.basename(os.path.abspath(dataset))
    return name[: len(name) - max((len(it) for it in FILE_ENDINGS if name.lower().endswith(it)), default=0)]


def load(config: Any, split: str) -> data.Dataset:
    """Return a split of the data set of an experiment."""
    options = {name: getattr(config, name) for name in _FIELDS} if isinstance(config, OwnImages) else {}
    if data.is_own(config.dataset):
        options["progress"] = config.progress and hosts.is_first()
    else:
        options = {name: value for name, value in options.items() if value != getattr(OwnImages, name)}
    return data.load(config.dataset, split, config.data_dir, cache_dir=config.cache_dir, **options)


def suited(config: Any) -> Any:
    """Return the options with what suits images of one's own where they are None; those of other sets as they are.

    Raises:
      ValueError: as `autoencoder`.
    """
    if not is_given(config):
        return config
    asked = getattr(config, "network", None)
    fields = autoencoder(config, asked)
    if asked is not None:
        fields.pop("width", None)  # it is of the network that suits, not of the one asked for
    fields |= {"gan_epochs": fields["epochs"], "budget": 1.5 * fields["epochs"]}
    fields = {name: value for name, value in fields.items() if getattr(config, name, False) is None}
    return dataclasses.replace(config, **fields)


def autoencoder(config: Any, asked: str | None = None) -> dict[str, Any]:
    """Return the network, the dimension and the training of an autoencoder that suit images of one's own.

    Args:
      config: an experiment whose data set is a path.
      asked: the network, where it is chosen already.

    Raises:
      ValueError: for fewer images than are needed to train on and to judge by, and as `otgen.data.load`.
    """
    images = {split: load(config, split).images for split in _LEAST}
    for split, least in _LEAST.items():
        if len(images[split]) < least:
            raise ValueError(
                f"{config.dataset} has {len(images[split])} images for {split}: at least {least} are needed; give more "
                "images, or another --test-share."
            )
    num, fields = len(images["train"]), network(images["train"].shape[1:])
    seen = _SEEN.get(asked or fields["network"], _SEEN["conv"])
    return {**fields, "epochs": min(150, max(4, round(seen / num))), "batch_size": 128 if num < MANY else 256}


def features(config: Any, shape: tuple[int, int, int]) -> str | Extractor:
    """Return the features that a data set is scored in: those asked for, or of larger images of one's own averages."""
    asked = getattr(config, "features", "auto")
    if asked != "auto" or not is_given(config) or min(shape[:2]) <= _SIDE:
        return asked
    size = (_SIDE, _SIDE, shape[2])
    return Extractor(
        f"pixels averaged to {_SIDE} x {_SIDE}",
        lambda images: jax.image.resize(to_unit(images), (len(images), *size), "linear").reshape(len(images), -1),
    )


def network(shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return the network and the dimension of the codes that suit images of a shape."""
    numbers = shape[0] * shape[1] * shape[2]
    dims = {100: 8, 1100: 16, 12_288: 64}  # by the numbers in an image
    convolved = min(shape[:2]) >= 16 and num_levels(shape) > 0
    return {
        **({"network": "residual", "width": 16} if convolved else {"network": "mlp"}),
        "latent_dim": next((dim for most, dim in dims.items() if numbers <= most), 100),
    }
