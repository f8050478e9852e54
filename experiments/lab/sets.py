"""Data sets by name: images and points, and networks that suit them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.lab import own_images
from otgen import data
from otgen.data import toy
from otgen.data.mapped import taken
from otgen.nn import to_unit
from otgen.types import Array, Key

Draw = Callable[[Key, int], Array]
NETWORKS: dict[str, dict[str, Any]] = {  # what an autoencoder has of its own on a set
    "digits": {"latent_dim": 8, "hidden": (256, 128), "batch_size": 128},
    "mnist": {},
    "fashion_mnist": {},
    "stacked_mnist": {"latent_dim": 32},
    "cifar10": {"latent_dim": 64, "network": "conv"},
    "celeb_a": {"latent_dim": 100, "network": "conv"},
}
_POINTS_SEED = 2000  # of points, the same for all seeds of an experiment


def images(config: Any) -> tuple[data.Dataset, data.Dataset]:
    """Training images, limited if asked, and test images."""
    train, test = (own_images.load(config, split) for split in ("train", "test"))
    return data.Dataset(train.images[: config.limit], train.labels[: config.limit]), test


def autoencoder(config: Any) -> dict[str, Any]:
    """Return what an autoencoder has of its own on the data set of an experiment, as `own_images.autoencoder`."""
    return own_images.autoencoder(config) if own_images.is_given(config) else NETWORKS.get(config.dataset, {})


def few(config: Any) -> bool:
    """Return whether images of one's own are so few that training is as on the digits."""
    return own_images.is_given(config) and len(own_images.load(config, "train").images) < own_images.MANY


def points(dataset: str, num: int) -> tuple[data.Dataset, data.Dataset]:
    """Training and held-out points of a toy, as images of one row and column."""
    keys = jax.random.split(jax.random.key(_POINTS_SEED))
    drawn = [np.asarray(toy.DISTRIBUTIONS[dataset](key, num)) for key in keys]
    return tuple(data.Dataset(x[:, None, None], np.zeros(len(x), np.int64)) for x in drawn)


def drawn_from(images: np.ndarray) -> Draw:
    """Return what draws images of a set, in [0, 1]; without replacement as far as they go."""

    def draw(key: Key, num: int) -> Array:
        return to_unit(taken(images, np.asarray(chosen(key, len(images), num))))

    return draw


def chosen(key: Key, total: int, num: int) -> Array:
    """Return numbers [num] below a total, without replacement as far as they go."""
    return jax.random.choice(key, total, (num,), replace=num > total)
