"""Codes of images in a standard scale: of an autoencoder under its own checkpoints, or principal components."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from otgen import optional
from otgen.data import toy
from otgen.models import ae_ot
from otgen.nn import to_unit
from otgen.train import Checkpoints, Progress
from otgen.types import Array

Coder = Callable[[Any], Array]
_MOST = 4096  # numbers in an image up to which all components are found; of more, the first by random projections


def autoencoder(
    images: np.ndarray, model: ae_ot.Config, seed: int, place: Path, identity: Any, progress: bool
) -> tuple[Coder, Coder]:
    """Train an autoencoder of images, or go on from its checkpoint; return its encoder and its decoder.

    Args:
      images: [N, h, w, c].
      model: its networks and training.
      seed: of everything random.
      place: its folder.
      identity: what makes the numbers of the experiment; a checkpoint of another is refused.
      progress: whether to show a bar.

    Returns:
      Images [n, h, w, c] to standardised codes [n, d], and back.
    """
    total = ae_ot.num_steps_of(model, len(images))
    saved = Checkpoints(place / "checkpoints", {**identity, "seed": seed})
    with saved as checkpoints, Progress(total, f"autoencoder, seed {seed}", progress) as bar:
        module, params = ae_ot.train_autoencoder(
            jax.random.key(seed), images, model, callback=bar, checkpoints=checkpoints
        )
    variables = {"params": params}
    _, mean, scale = toy.standardise(ae_ot.encode(module, variables, images))
    scale = jnp.maximum(scale, 1e-6)
    return (
        lambda images: (ae_ot.encode(module, variables, images) - mean) / scale,
        lambda codes: ae_ot.decode(module, variables, codes * scale + mean),
    )


def components(images: np.ndarray, dim: int) -> tuple[Coder, Coder]:
    """Return the first principal components of images [N, h, w, c] and the way back.

    Args:
      images: what they are learned from.
      dim: how many.

    Returns:
      Images [n, h, w, c] to codes [n, dim], in one scale for all, of mean square 1; and back to images in [0, 1].
    """
    shape = images.shape[1:]
    flat = np.asarray(to_unit(images), np.float32).reshape(len(images), -1)
    mean = flat.mean(0)
    flat = flat - mean
    if flat.shape[1] <= _MOST:
        values, vectors = np.linalg.eigh(flat.T @ flat / len(flat))
        values, vectors = values[::-1][:dim], vectors[:, ::-1][:, :dim].copy()
    else:
        with optional.imports():
            from sklearn.utils.extmath import randomized_svd

        _, spread, rows = randomized_svd(flat, dim, random_state=0)
        values, vectors = spread**2 / len(flat), rows.T
    basis, scale = jnp.asarray(vectors, jnp.float32), float(np.sqrt(values.mean()))
    return (
        lambda images: (to_unit(images).reshape(len(images), -1) - mean) @ basis / scale,
        lambda codes: jnp.clip(scale * codes @ basis.T + mean, 0, 1).reshape(-1, *shape),
    )
