"""Use of trained models: methods applied to many rows, draws of many images, each compiled once."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from otgen.nn.autoencoder import to_unit
from otgen.ot.check import as_count, as_key, native, require_channels_last
from otgen.types import Array, Key

PIECE = 2000  # rows at a time


class Model(NamedTuple):
    """A trained generator.

    Attributes:
      module: the Flax module; its method `sample(key, num)` draws images.
      variables: its `params`.
    """

    module: nn.Module
    variables: dict[str, Any]


@functools.partial(jax.jit, static_argnames=("module", "method"))
def _apply(module: nn.Module, variables: Any, x: Array, method: str) -> Array:
    return module.apply(variables, x, method=method)


def rows(module: nn.Module, variables: Any, x: Any, method: str, size: int = PIECE) -> Array:
    """Apply a method of a module to x [n, ...] row by row, in pieces of one shape; uint8 becomes [0, 1].

    Raises:
      ValueError: if there are no rows.
    """
    if len(x) == 0:
        raise ValueError(f"no rows to {method}: shape {np.shape(x)}; give at least one.")
    size = min(size, len(x))
    pieces = []
    for start in range(0, len(x), size):
        piece = x[start : start + size]
        piece = to_unit(piece) if piece.dtype == np.uint8 else jnp.asarray(piece)
        short = size - piece.shape[0]
        piece = jnp.pad(piece, ((0, short), *((0, 0),) * (piece.ndim - 1)))
        pieces.append(_apply(module, variables, piece, method)[: size - short])
    return jnp.concatenate(pieces)


@functools.partial(jax.jit, static_argnames=("module", "num"))
def _draw(module: nn.Module, variables: Any, key: Key, num: int) -> Array:
    return module.apply(variables, key, num, method="sample")


def sample(key: Key, model: Model, num: int) -> Array:
    """Draw images [num, h, w, c] from a trained generator.

    Raises:
      ValueError: for what is no key, if num is no whole number of at least 1.

    Example:
      >>> images = og.data.load("digits").images[:64]
      >>> model = og.models.vae.fit(jax.random.key(0), images, latent_dim=2, hidden=(16,), epochs=2, batch_size=16)
      >>> new = og.models.vae.sample(jax.random.key(1), model, 3)
      >>> print(new.shape, bool((new >= 0).all() & (new <= 1).all()))
      (3, 8, 8, 1) True
    """
    as_key(key), as_count("num", num)
    size = min(num, PIECE)
    pieces = [_draw(*model, jax.random.fold_in(key, i), size) for i in range(-(-num // size))]
    return jnp.concatenate(pieces)[:num]


def check_images(images: Any, output: str = "unit") -> np.ndarray:
    """Return images as an array [N, h, w, c] that a model can learn; raise ValueError otherwise.

    Args:
      images: uint8, or floats; in [0, 1] if the output is "unit", of any size if it is "real".
      output: what the model's decoder gives, see `settings.GeneratorSettings`.
    """
    images = np.asarray(native("images", images))
    require_channels_last("images", images.shape)
    if images.ndim != 4 or len(images) < 2:
        raise ValueError(f"images have shape {images.shape}: give at least 2 images as [N, height, width, channels].")
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating) or 0 in images.shape:
        raise ValueError(f"images are {images.dtype} of shape {images.shape}: give uint8 or floats, and no empty axis.")
    if not np.isfinite(images).all():
        raise ValueError("images are not finite: remove NaN and infinite values.")
    if output == "unit" and not (images.min() >= 0 and images.max() <= 1):
        raise ValueError("images are floats outside [0, 1]: give uint8, or scale them to [0, 1].")
    return images
