"""What models on codes have in common: an autoencoder of their own, or a codec that is given."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

from otgen.models.codec import kept
from otgen.models.codec.made import Codec
from otgen.models.codec.modules import applied
from otgen.nn.autoencoder import Autoencoder
from otgen.ot.check import require_kind
from otgen.train import Checkpoints
from otgen.train.settings import Settings, made
from otgen.types import Array


class Encoded(nn.Module):
    """A model on codes of images: parameters `autoencoder`, or with a codec `codec`.

    Attributes:
      image_shape: (height, width, channels).
      config: `Settings` of the autoencoder and of what else the model has.
      codec: module of the codec whose codes these are; None for an autoencoder of its own.
    """

    image_shape: tuple[int, int, int]
    config: Any
    codec: nn.Module | None = dataclasses.field(default=None, kw_only=True)

    def setup(self) -> None:
        if self.codec is None:
            self.autoencoder = Autoencoder(self.image_shape, self.config.latent_dim, *self.config.networks())

    def __call__(self, images: Array) -> Array:
        """Pixel logits [n, h, w, c] of the reconstructions of images in [0, 1]; with a codec the pixels themselves."""
        return self.decode(self.encode(images)) if self.codec is not None else self.autoencoder(images)

    def encode(self, images: Array) -> Array:
        """Return codes [n, d] of images [n, h, w, c] in [0, 1], in the autoencoder's own scale."""
        if self.codec is not None:
            return applied(self, "codec", images, "encode")
        return self.autoencoder.encode(images)

    def decode(self, codes: Array) -> Array:
        """Return images [n, h, w, c] in [0, 1] of codes [n, d] in the autoencoder's own scale."""
        if self.codec is not None:
            return applied(self, "codec", codes, "decode")
        return self.autoencoder.decode(codes)


def settings_on(codec: Codec, image_shape: tuple[int, ...], kind: type[Settings], config: dict[str, Any]) -> Any:
    """Return the configuration of a model on a codec.

    Raises:
      ValueError: for images of another shape, and another dimension of the codes than the codec's.
    """
    require_kind("codec", codec, Codec)
    shape, dim = tuple(codec.module.image_shape), codec.module.latent_dim
    if tuple(image_shape) != shape:
        raise ValueError(f"images of shape {tuple(image_shape)} for a codec of {shape}: make one for this shape.")
    settings = made(kind, {"latent_dim": dim, **config})
    if settings.latent_dim != dim:
        raise ValueError(f"latent_dim = {settings.latent_dim} on a codec of {dim}: give {dim}, or leave it out.")
    return settings


def params_of(codec: Codec) -> dict[str, Any]:
    """Return what stands in the place of the parameters of a trained autoencoder."""
    return {"codec": codec.variables["params"]}


def codes_beside(codec: Codec, images: np.ndarray, checkpoints: Any) -> np.ndarray:
    """Return codes of images, kept in the folder of checkpoints where one is given."""
    folder = None if checkpoints is None or isinstance(checkpoints, Checkpoints) else Path(checkpoints) / "codes"
    return kept.encode(codec, images, folder=folder)
