"""Scores of generated images or points against real ones: one protocol for all models, extractor named."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.sets import Draw
from otgen import eval as evaluate
from otgen.data import Dataset, stacked
from otgen.data.toy import centres_of
from otgen.models import ae_ot
from otgen.nn import to_unit
from otgen.ot.gaussian import frechet_distance
from otgen.types import Array, Key

_KNOWN = 20_000  # training features that classes and mixtures are measured against
Extract = Callable[[Any], Array]


def features_of(dataset: str, data_dir: str | None, wish: str = "auto") -> evaluate.Extractor:
    """Return the extractor for a data set: LeNet for sets of MNIST's shape, else pixels, or the one wished for.

    Args:
      dataset: its name.
      data_dir: folder of the weights; OTGEN_DATA for None.
      wish: auto, pixels, lenet or inception.

    Raises:
      ValueError: for an unknown wish.
    """
    if wish not in ("auto", "pixels", "lenet", "inception"):
        raise ValueError(f"features = {wish!r} is unknown: choose one of auto, pixels, lenet, inception.")
    if wish == "auto":
        wish = "lenet" if dataset in ("mnist", "fashion_mnist", "stacked_mnist") else "pixels"
    if wish == "pixels":
        return evaluate.pixels
    folder = data_dir or os.environ.get("OTGEN_DATA", ".")
    if wish == "inception":
        return evaluate.inception(folder)
    lenet = evaluate.lenet(folder)
    if dataset != "stacked_mnist":
        return lenet
    channels = range(3)
    return evaluate.Extractor(
        f"{lenet.name}, of every channel", lambda x: jnp.concatenate([lenet(x[..., [i]]) for i in channels], axis=1)
    )


def extent(config: Any) -> tuple[int, int]:
    """Images per draw and draws of a seed: `num_eval` and `draws`, or `feature_images` once in features asked for."""
    return (config.num_eval, config.draws) if config.features == "auto" else (config.feature_images, 1)


def place_of_scores(config: Any, place: Path) -> Path:
    """The folder of the scores of what is in `place`; those in features asked for are beside the data set's own."""
    return place if config.features == "auto" else place / f"{config.features}-{config.feature_images}"


class Judge:
    """Scores images [n, h, w, c] against held-out ones; on their classes where training images have more than one.

    Args:
      dataset: name of the data set.
      train, test: real images and labels.
      encode: images to the codes in which memorisation is measured.
      num: images per draw; at most the number of test images.
      data_dir: folder of feature weights.
      features: as in `features_of`; with inception, classes are told in LeNet's where that is the data set's own.
      neighbours: classes by nearest neighbours even where there is a classifier.
    """

    def __init__(
        self,
        dataset: str,
        train: Dataset,
        test: Dataset,
        encode: Extract,
        *,
        num: int,
        data_dir: str | None = None,
        features: str = "auto",
        neighbours: bool = False,
    ):
        self._extract = features_of(dataset, data_dir, features)
        self.name, self.num = self._extract.name, min(num, len(test.images))
        self._encode, self._dataset = encode, dataset
        self._labels = np.asarray(train.labels)
        self._classes = 1000 if dataset == "stacked_mnist" else int(max(train.labels.max(), test.labels.max())) + 1
        own = features_of(dataset, data_dir)  # Inception would take hours on all training images
        self._of_classes = own if features == "inception" and own.name != evaluate.pixels.name else self._extract
        self._test = self._features(test.images[: self.num])
        self._train, known = (self._of_classes(to_unit(part)) for part in (train.images, test.images[: self.num]))
        self._codes = encode(to_unit(train.images))
        self._test_distance = evaluate.nearest(encode(to_unit(test.images)), self._codes)[0][:, 0]
        self._classify = self._classifier(data_dir, neighbours)
        self._shares = evaluate.class_histogram(self._labels, self._classes)
        self._known = known
        guess = self._classify(to_unit(test.images[: self.num]), known)
        right = np.mean(np.asarray(guess) == test.labels[: self.num])
        self.accuracy = float(right) if self._has_classes() else None
        self._weights = stacked.mode_weights(self._digits()) if dataset == "stacked_mnist" else None

    def _features(self, images: Any) -> Array:
        return self._extract(to_unit(images))

    def _has_classes(self) -> bool:
        return self._labels.min() < self._labels.max()

    def _digits(self) -> np.ndarray:
        return np.concatenate([self._labels // 100, self._labels // 10 % 10, self._labels % 10])

    def _classifier(self, data_dir: str | None, neighbours: bool) -> Callable[[Array, Array], Any]:
        """A function of images and their features to labels."""
        folder = data_dir or os.environ.get("OTGEN_DATA", ".")
        if self._dataset in ("mnist", "stacked_mnist") and not neighbours:
            self.classifier = "LeNet"
            logits = evaluate.digit_classifier(folder)
            if self._dataset == "mnist":
                return lambda images, features: evaluate.predicted_labels(logits(images))
            return lambda images, features: evaluate.stacked_labels(logits, images)
        self.classifier = "5 nearest neighbours in the features" if self._has_classes() else "none"
        return lambda images, features: evaluate.nearest_label(features, self._train, self._labels, self._classes)

    def __call__(self, images: Array) -> tuple[dict[str, float], Array]:
        """Scores of images in [0, 1], and their class shares."""
        features = self._features(images)
        seen = features if self._of_classes is self._extract else self._of_classes(images)
        labels = self._classify(images, seen)
        shares = evaluate.class_histogram(labels, self._classes)
        near = evaluate.neighbour_scores(self._test, features)
        lmem = evaluate.memorisation(self._encode(images), self._codes, test_distance=self._test_distance)
        kid = evaluate.kernel_distance(features, self._test)
        scores = {
            "frechet": frechet_distance(features, self._test),
            "kid": kid.value,
            "kid_error": kid.error,
            "lmem": lmem.value,
            "lmem_error": lmem.error,
            **near._asdict(),
            **self._class_scores(labels, shares, seen),
        }
        return {name: float(value) for name, value in scores.items()}, shares

    def _class_scores(self, labels: Any, shares: Array, features: Array) -> dict[str, Any]:
        if self._weights is not None:
            found = evaluate.distinct_modes(labels, self._classes, self._weights)
            return {"modes": found.modes, "reverse_kl": found.reverse_kl, "kl_floor": found.kl_floor}
        if not self._has_classes():
            return {}
        mixed = evaluate.mixture_rate(features, self._train[:_KNOWN], self._labels[:_KNOWN], self._known)
        return {"class_tv": evaluate.total_variation(shares, self._shares), "mixtures": mixed.excess}

    def facts(self, draws: int) -> dict[str, Any]:
        """What scores over so many draws were made with."""
        return _facts(self, draws)


class PointJudge:
    """Scores points given as images [n, 1, 1, 2] against held-out ones, and on the modes where they are known."""

    name, classifier, accuracy = "coordinates", "none", None

    def __init__(self, dataset: str, train: Dataset, test: Dataset, *, num: int):
        self.num, self._centres = min(num, len(test.images)), centres_of(dataset)
        self._train, self._test = (evaluate.pixels(part.images) for part in (train, test))
        self._test_distance = evaluate.nearest(self._test, self._train)[0][:, 0]

    def __call__(self, images: Array) -> tuple[dict[str, float], Array]:
        """Scores of points, and no class shares."""
        points = evaluate.pixels(images)
        real = self._test[: self.num]
        scores = {
            "frechet": frechet_distance(points, real),
            "sliced_w2_sq": evaluate.sliced_w2_sq(jax.random.key(0), points, real).value,
            "lmem": evaluate.memorisation(points, self._train, test_distance=self._test_distance).value,
            **evaluate.neighbour_scores(real, points)._asdict(),
        }
        if self._centres is not None:
            scores |= evaluate.mode_scores(points, *self._centres)._asdict()
        return {name: float(value) for name, value in scores.items()}, jnp.zeros(0)

    def facts(self, draws: int) -> dict[str, Any]:
        """As of a Judge."""
        return _facts(self, draws)


def _facts(judge: Judge | PointJudge, draws: int) -> dict[str, Any]:
    told = {"features": judge.name, "classifier": judge.classifier, "accuracy": judge.accuracy}
    return {**told, "images_per_draw": judge.num, "draws": draws}


def judged(judge: Judge | PointJudge, key: Key, draw: Draw, draws: int) -> dict[str, Any]:
    """Mean and standard deviation of every score over draws, and the mean shares of at most 100 classes."""
    found = [judge(draw(jax.random.fold_in(key, i), judge.num)) for i in range(draws)]
    scores = {name: [one[name] for one, _ in found] for name in found[0][0]}
    shares = np.mean([np.asarray(shares) for _, shares in found], axis=0)
    return {
        "mean": {name: float(np.mean(values)) for name, values in scores.items()},
        "sd": {name: float(np.std(values, ddof=1)) if draws > 1 else None for name, values in scores.items()},
        "class_shares": [round(float(share), 4) for share in shares] if len(shares) <= 100 else [],
    }


def codes_of(model: ae_ot.Model) -> Extract:
    """A function of images to the standardised codes of an AE-OT."""
    known = model.variables["transport"]
    return lambda images: (ae_ot.encode(model.module, model.variables, images) - known["mean"]) / known["scale"]
