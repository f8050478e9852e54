"""The data of the informative OT-GAN experiment, and the features in which samples are compared."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab import sets
from otgen import data
from otgen import eval as evaluate
from otgen.data import sprites, toy
from otgen.nn import to_unit
from otgen.types import Array

_DATA_SEED = 2000  # of the points of the rings, the same for all seeds
_COMPONENTS = 20  # principal components of the training pixels, the features of digits


def is_ring(dataset: str) -> bool:
    """Return whether the data are points of a ring of Gaussians."""
    return dataset.endswith("ring")


class Sets:
    """The data, and the features in which samples are compared.

    Args:
      dataset: its name.
      train, test: images and labels.
      data_dir: folder of feature weights.
      features: as in `evaluate.extractor_of`.
    """

    def __init__(
        self, dataset: str, train: data.Dataset, test: data.Dataset, data_dir: str | None, features: str = "auto"
    ):
        self.dataset, self.train, self.test, self._data_dir = dataset, train, test, data_dir
        self._features = features
        self.is_ring = is_ring(dataset)

    @functools.cached_property
    def extract(self) -> evaluate.Extractor:
        """Images to features."""
        if self.is_ring:
            return evaluate.pixels
        if self._features == "auto" and self.dataset in ("digits", "dsprites"):
            pixels = np.asarray(evaluate.pixels(to_unit(self.train.images[:10_000])))
            mean = pixels.mean(0)
            axes = np.linalg.svd(pixels - mean, full_matrices=False)[2][:_COMPONENTS].T
            return evaluate.Extractor(
                f"{_COMPONENTS} principal components", lambda x: (evaluate.pixels(x) - mean) @ axes
            )
        return evaluate.extractor_of(self.dataset, self._data_dir, self._features)

    def features(self, images: Any) -> Array:
        """Return features [n, d] of images."""
        return self.extract(to_unit(images))

    def real(self, num: int) -> Array:
        """Return features of the first `num` test images."""
        return self.features(self.test.images[:num])


def load(config: Any) -> Sets:
    """Training and held-out data; the points of a ring as images of one row and column."""
    if config.dataset == "dsprites" and config.limit:  # all of it is 2.5 GiB
        factors = sprites.factors_of(sprites.indices("train")[: config.limit])
        train = data.Dataset(sprites.render(factors), factors[:, 0].copy())
        return Sets(config.dataset, train, data.load("dsprites", "test"), config.data_dir, config.features)
    if not is_ring(config.dataset):
        return Sets(config.dataset, *sets.images(config), config.data_dir, config.features)
    parts, centres = [], toy.eight_gaussians_centres()
    for key in jax.random.split(jax.random.key(_DATA_SEED)):
        points = toy.eight_gaussians(key, config.num_points)
        labels = jnp.sum((points[:, None] - centres) ** 2, axis=-1).argmin(1)
        parts.append(data.Dataset(np.asarray(points)[:, None, None], np.asarray(labels)))
    return Sets(config.dataset, *parts, None)
