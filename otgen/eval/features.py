"""Feature extractors: functions from images in [0, 1] to the space in which distances are taken."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen.types import Array

_PIECE = 2000  # images at a time
LENET_FILE = "lenet_mnist/lenet.npz"


def pixels(images: ArrayLike) -> Array:
    """Flatten images [n, h, w, c] to features [n, h w c]."""
    return jnp.reshape(jnp.asarray(images), (len(images), -1))


def lenet(data_dir: str | os.PathLike) -> Callable[[ArrayLike], Array]:
    """Return the 84-dimensional features of a LeNet-5 trained on MNIST.

    Images of 28 x 28 are zero-padded to 32 x 32; the features are tanh of the layer before the classes.

    Args:
      data_dir: folder that holds lenet_mnist/lenet.npz (arrays convnet.c1, c3, c5 and fc.f6: weight and bias).

    Returns:
      Function from images [n, 28, 28, 1] in [0, 1] to features [n, 84].

    Raises:
      FileNotFoundError: if the weights are not there.
    """
    path = Path(data_dir) / LENET_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"the LeNet weights are missing: looked for {path}; put lenet.npz there, or use pixels."
        )
    with np.load(path) as file:
        weights = {name: jnp.asarray(file[name]) for name in file}

    def features(images: ArrayLike) -> Array:
        images = np.asarray(images)
        if images.shape[1:] != (28, 28, 1):
            raise ValueError(f"LeNet features are for images of shape (28, 28, 1), not {images.shape[1:]}.")
        pieces = [_lenet(weights, piece) for piece in _pieces(images)]
        return jnp.concatenate(pieces)[: len(images)]

    return features


def _pieces(images: np.ndarray) -> list[np.ndarray]:
    """Pieces of one size, the last padded with zeros, so that a jitted function compiles once."""
    size = min(_PIECE, len(images))
    padded = np.pad(images, ((0, -len(images) % size), *((0, 0),) * (images.ndim - 1)))
    return np.split(padded, len(padded) // size)


@jax.jit
def _lenet(weights: dict[str, Any], images: ArrayLike) -> Array:
    x = jnp.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0))).transpose(0, 3, 1, 2).astype(jnp.float32)
    x = _max_pool(_convolve(weights, "convnet.c1", x))
    x = _max_pool(_convolve(weights, "convnet.c3", x))
    x = _convolve(weights, "convnet.c5", x).reshape(x.shape[0], -1)
    return jnp.tanh(x @ weights["fc.f6.weight"].T + weights["fc.f6.bias"])


def _convolve(weights: dict[str, Any], name: str, x: Array) -> Array:
    convolved = jax.lax.conv(x, weights[f"{name}.weight"], (1, 1), "VALID")
    return jnp.tanh(convolved + weights[f"{name}.bias"][:, None, None])


def _max_pool(x: Array) -> Array:
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
