"""Codecs as Flax modules: a network that is given, functions outside JAX, principal components of another's codes.

Their parameters are never initialised: they come with what the codec is made of.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from otgen.nn.autoencoder import Autoencoder
from otgen.ot.products import product
from otgen.types import Array

PIECE = 16  # images at a time, whose layers stay in a processor's caches


class _Direct(nn.Module):
    """A codec that encodes images itself: `latent_shape` is that of one code, before it is flattened."""

    @property
    def latent_dim(self) -> int:
        """Numbers in a code."""
        return math.prod(self.latent_shape)

    def __call__(self, images: Array) -> Array:
        """Return reconstructions of images."""
        return self.decode(self.encode(images))


class Given(_Direct):
    """A network with methods `encode` and `decode`, its codes flattened: parameters `variables`, those of the network.

    Attributes:
      net: the Flax module.
      image_shape: (height, width, channels) of the images that are encoded and decoded.
      latent_shape: shape of one code of the network.
      scale: factor by which images are enlarged before they are encoded; what is decoded is scaled back.
      channels: channels that the network reads; images of one channel are repeated, and averaged when decoded.
      piece: images at a time.
    """

    net: nn.Module
    image_shape: tuple[int, int, int]
    latent_shape: tuple[int, ...]
    scale: int = 1
    channels: int = 3
    piece: int = PIECE

    def encode(self, images: Array) -> Array:
        """Return codes [n, d] of images [n, h, w, c] in [0, 1]."""

        def work(images: Array) -> Array:
            seen = fitted(images, self.scale, self.channels)
            return self._apply(seen, "encode").reshape(len(images), -1)

        return _by_pieces(work, images, self.piece)

    def decode(self, codes: Array) -> Array:
        """Return images [n, h, w, c] in [0, 1] of codes [n, d]."""

        def work(codes: Array) -> Array:
            found = self._apply(codes.reshape(len(codes), *self.latent_shape), "decode")
            return jnp.clip(restored(found, self.image_shape), 0.0, 1.0)

        return _by_pieces(work, codes, self.piece)

    def _apply(self, x: Array, method: str) -> Array:
        variables = self.get_variable("params", "variables")
        return self.net.clone(parent=None).apply(variables, x, method=method)


class Hosted(_Direct):
    """Functions outside JAX, which are called with arrays of NumPy: no parameters, no gradients.

    Attributes:
      encoder: images [n, h, w, c] in [0, 1], float32, to codes [n, ...].
      decoder: codes [n, ...] to images [n, h, w, c].
      image_shape: (height, width, channels).
      latent_shape: shape of one code.
      piece: images at a time.
    """

    encoder: Callable[[np.ndarray], Any]
    decoder: Callable[[np.ndarray], Any]
    image_shape: tuple[int, int, int]
    latent_shape: tuple[int, ...]
    piece: int = PIECE

    def encode(self, images: Array) -> Array:
        """Return codes [n, d] of images [n, h, w, c] in [0, 1]."""
        return _by_pieces(lambda x: _called(self.encoder, x, (self.latent_dim,)), images, self.piece)

    def decode(self, codes: Array) -> Array:
        """Return images [n, h, w, c] in [0, 1] of codes [n, d]."""

        def work(codes: Array) -> Array:
            codes = codes.reshape(len(codes), *self.latent_shape)
            return jnp.clip(_called(self.decoder, codes, self.image_shape), 0.0, 1.0)

        return _by_pieces(work, codes, self.piece)


class _OnCodes(nn.Module):
    """A codec on the codes of another: `reduce` and `expand` lead from these to its own and back.

    Attributes:
      codec: the other, whose parameters are `codec`.
    """

    codec: nn.Module

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of the images."""
        return self.codec.image_shape

    def __call__(self, images: Array) -> Array:
        """Return reconstructions of images."""
        return self.decode(self.encode(images))

    def encode(self, images: Array) -> Array:
        """Return codes [n, d] of images [n, h, w, c] in [0, 1]."""
        return self.reduce(applied(self, "codec", images, "encode"))

    def decode(self, codes: Array) -> Array:
        """Return images [n, h, w, c] in [0, 1] of codes [n, d]."""
        return applied(self, "codec", self.expand(codes), "decode")


class Components(_OnCodes):
    """Principal components of the codes of another codec: parameters `codec`, `mean` [D] and `basis` [D, dim].

    Attributes:
      codec: the other.
      dim: how many components.
    """

    dim: int

    @property
    def latent_dim(self) -> int:
        """Numbers in a code."""
        return self.dim

    def reduce(self, codes: Array) -> Array:
        """Return the components [n, d] of codes [n, D] of the other codec."""
        mean, basis = (self.get_variable("params", name) for name in ("mean", "basis"))
        return product(codes - mean, basis)

    def expand(self, codes: Array) -> Array:
        """Return the codes [n, D] of the other codec that have components [n, d], and nothing beside them."""
        mean, basis = (self.get_variable("params", name) for name in ("mean", "basis"))
        return product(codes, basis.T) + mean


class Second(_OnCodes):
    """A dense autoencoder of the codes of another codec: parameters `codec`, `autoencoder`, `mean` [D] and `scale` [].

    Attributes:
      codec: the other.
      autoencoder: of codes as images (D, 1, 1), standardised by `mean` and `scale`.
    """

    autoencoder: Autoencoder

    @property
    def latent_dim(self) -> int:
        """Numbers in a code."""
        return self.autoencoder.latent_dim

    def reduce(self, codes: Array) -> Array:
        """Return codes [n, d] of codes [n, D] of the other codec."""
        mean, scale = (self.get_variable("params", name) for name in ("mean", "scale"))
        return applied(self, "autoencoder", ((codes - mean) / scale)[:, :, None, None], "encode")

    def expand(self, codes: Array) -> Array:
        """Return codes [n, D] of the other codec for codes [n, d]."""
        mean, scale = (self.get_variable("params", name) for name in ("mean", "scale"))
        return applied(self, "autoencoder", codes, "logits")[:, :, 0, 0] * scale + mean


def applied(module: nn.Module, name: str, x: Array, method: str, params: str | None = None) -> Array:
    """Return what a method of a part of a module gives, with the parameters of its name, or of another."""
    part = getattr(module, name).clone(parent=None)
    return part.apply({"params": module.get_variable("params", params or name)}, jnp.asarray(x), method=method)


def fitted(images: Array, scale: int, channels: int) -> Array:
    """Return images [n, h, w, c] as a network reads them: enlarged by cubic interpolation, one channel repeated."""
    n, h, w, c = images.shape
    if scale > 1:
        images = jnp.clip(jax.image.resize(images, (n, scale * h, scale * w, c), "cubic"), 0.0, 1.0)
    return jnp.repeat(images, channels, axis=-1) if c == 1 < channels else images


def restored(images: Array, shape: tuple[int, int, int]) -> Array:
    """Return what a network decoded as images [n, *shape]: channels averaged, and scaled down where it is larger."""
    if shape[2] == 1 < images.shape[-1]:
        images = images.mean(axis=-1, keepdims=True)
    return images if images.shape[1:] == shape else jax.image.resize(images, (len(images), *shape), "cubic")


def _by_pieces(work: Callable[[Array], Array], x: Array, size: int) -> Array:
    """Return work(x) for rows x [n, ...], so many at a time."""
    num = len(x)
    if num <= size:
        return work(x)
    short = -num % size
    x = jnp.pad(x, ((0, short), *((0, 0),) * (x.ndim - 1))).reshape(-1, size, *x.shape[1:])
    found = jax.lax.map(work, x)
    return found.reshape(-1, *found.shape[2:])[:num]


def _called(function: Callable[[np.ndarray], Any], x: Array, shape: tuple[int, ...]) -> Array:
    """Return what a function outside JAX gives for rows x [n, ...], as float32 [n, *shape]."""

    def host(x: Any) -> np.ndarray:
        found = on_host(function(np.asarray(x)))
        if found.size != len(x) * math.prod(shape):
            name = getattr(function, "__name__", "the function")
            raise ValueError(f"{name} gave shape {found.shape} for {len(x)} rows: it must give [{len(x)}, {shape}].")
        return found.reshape(len(x), *shape)

    return jax.pure_callback(host, jax.ShapeDtypeStruct((len(x), *shape), jnp.float32), x)


def on_host(x: Any) -> np.ndarray:
    """Return an array of any library in the processor's memory as float32 of NumPy: by DLPack where it can."""
    if not isinstance(x, np.ndarray) and hasattr(x, "__dlpack__"):
        x = np.from_dlpack(x)
    return np.asarray(x, np.float32)
