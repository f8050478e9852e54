"""One protocol of scores for all generators: draws against held-out images or points, in features that are named.

A judge is made once of a data set and scores any number of generators. Every score is taken of as many draws as there
are held-out images, `num` at most, and averaged over several draws by `over_draws`. What it was taken in and with,
`facts`, belongs beside it.
"""

from __future__ import annotations

import functools
import math
import os
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen.data import Dataset, stacked
from otgen.data.mapped import pieces
from otgen.eval.classes import (
    class_histogram,
    mixture_rate,
    mixture_score,
    nearest_label,
    predicted_labels,
    total_variation,
)
from otgen.eval.features import (
    LENET_FILE,
    Extractor,
    digit_classifier,
    has_lenet,
    inception,
    lenet,
    pixels,
    require_images,
    taef2,
)
from otgen.eval.kernel import kernel_distance
from otgen.eval.modes import distinct_modes, mode_scores, stacked_labels
from otgen.eval.neighbours import memorisation, nearest, neighbour_scores
from otgen.eval.samples import as_samples
from otgen.eval.sliced import sliced_w2_sq
from otgen.nn import to_unit
from otgen.ot.check import (
    as_array,
    as_count,
    as_key,
    as_path,
    native,
    require_choice,
    require_function,
    require_kind,
    require_positive,
)
from otgen.ot.gaussian import frechet_distance
from otgen.types import Array, Key

_KNOWN = 20_000  # training features that mixtures are measured against
_MOST = 2**28  # numbers in all training features, by which classes are told; of more the first are taken
_SLOW_KNOWN = 2000  # of these in Inception features, which take minutes
_PIECE = 2**26  # pixels that features and codes are taken of at a time
_LEAST = 6  # rows: density is of five neighbours
_NAMES = ("auto", "pixels", "lenet", "inception", "codec")


class Verdict(NamedTuple):
    """What a judge finds of one draw.

    Attributes:
      scores: numbers by name.
      class_shares: share of the draw in each class [classes]; empty of points.
    """

    scores: dict[str, float]
    class_shares: Array


class DrawScores(NamedTuple):
    """What a judge finds of several draws.

    Attributes:
      mean: of every score over the draws.
      sd: standard deviation of every score over the draws; None of a single one.
      class_shares: mean share of the draws in each class [classes]; empty of points.
    """

    mean: dict[str, float]
    sd: dict[str, float | None]
    class_shares: np.ndarray


def extractor_of(
    dataset: str, data_dir: str | os.PathLike | None = None, features: str | Extractor = "auto"
) -> Extractor:
    """Return the features in which a data set is scored: LeNet's for sets of MNIST's shape, else pixels.

    Pixels too, with a warning, where LeNet's weights are not there and nothing else is asked for.

    Args:
      dataset: its name; that of a set of your own is taken for no set of MNIST's shape.
      data_dir: folder of the weights, see `lenet` and `inception`; OTGEN_DATA for None. Pixels need none.
      features: auto for those of the data set; pixels, lenet, inception or codec (`taef2`); or an Extractor, which is
        returned.

    Returns:
      Extractor; for stacked_mnist LeNet's is of every channel.

    Raises:
      ValueError: for another name of features.
      FileNotFoundError: if weights are asked for that are not there.

    Example:
      >>> print(og.eval.extractor_of("digits").name)
      pixels
    """
    if not isinstance(dataset, str):
        raise ValueError(f"dataset = {dataset!r}: give the name of a data set, any for one of your own.")
    folder = _folder(data_dir)
    if isinstance(features, Extractor):
        return features
    require_choice("features", features, _NAMES)
    if features == "auto":
        features = "lenet" if dataset in ("mnist", "fashion_mnist", "stacked_mnist") else "pixels"
        if features == "lenet" and not has_lenet(folder):
            warnings.warn(
                f"distances of {dataset} are taken in pixels: LeNet's weights, {LENET_FILE}, are not in {folder}. Pass "
                "data_dir (--data-dir) or set OTGEN_DATA to the folder that holds them for distances in its features; "
                f"python -m otgen.data.fetch lenet --data-dir {folder} fetches them.",
                stacklevel=2,
            )
            features = "pixels"
    if features == "pixels":
        return pixels
    if features in ("inception", "codec"):
        return inception(folder) if features == "inception" else taef2(folder)
    found = lenet(folder)
    if dataset != "stacked_mnist":
        return found
    channels = range(3)
    return Extractor(
        f"{found.name}, of every channel", lambda x: jnp.concatenate([found(x[..., [i]]) for i in channels], axis=1)
    )


def _folder(data_dir: str | os.PathLike | None) -> str | os.PathLike:
    return os.environ.get("OTGEN_DATA", ".") if data_dir is None else as_path("data_dir", data_dir)


class Judge:
    """Scores images against held-out ones; on their classes where training images have more than one.

    Called with images [n, h, w, c], n >= 6, floats in [0, 1] or uint8, it returns a Verdict whose scores are

    * frechet, kid, kid_error, precision, recall, density, coverage: distances and neighbours in the features, of the
      first `num` held-out images (`frechet_distance`, `kernel_distance`, `neighbour_scores`);
    * lmem, lmem_error: how new the codes are (`memorisation`), 0 for copies of training images, 1 for held-out ones;
    * class_tv, mixtures: where there are classes, the total variation of their shares from those of the training
      images, and the excess of images between two classes (`mixture_rate`);
    * modes, reverse_kl, kl_floor: of stacked_mnist instead of these two, its thousand modes (`distinct_modes`).

    Classes are told by the digit classifier for mnist and stacked_mnist, else by five nearest neighbours.

    Args:
      dataset: name of the data set; any name for one of your own.
      train: images [n, h, w, c], floats in [0, 1] or uint8, and labels [n], integers from 0; all 0 for no classes.
      test: held-out images, at least 6, and their labels.
      encode: function from images [n, h, w, c] in [0, 1] to the codes [n, d] in which memorisation is measured: of one
        encoder for all generators that are compared.
      num: images per draw; at most the number of test images.
      data_dir: folder of feature weights; OTGEN_DATA for None.
      features: as in `extractor_of`; with inception, classes are told in LeNet's where that is the data set's own, else
        by the first 2,000 training images.
      neighbours: classes by nearest neighbours even where there is a classifier.
      codes: codes [n, d] of the training images, where they are known; None to encode them.

    Attributes:
      name: of the features.
      num: images per draw.
      classifier: what tells the classes.
      accuracy: share of test images whose class it tells rightly; None without classes.

    Raises:
      ValueError: for images, labels or codes of another shape or type, fewer than 6 test images, or unknown features.
      FileNotFoundError: if weights are needed that are not there.

    Example:
      >>> train, test = og.data.load("digits"), og.data.load("digits", "test")
      >>> judge = og.eval.Judge("digits", train, test, num=200)
      >>> scores, shares = judge(train.images[:200])  # a generator that copies
      >>> print(judge.name, judge.accuracy > 0.9, scores["lmem"], scores["precision"] > 0.8, shares.shape)
      pixels True 0.0 True (10,)
    """

    def __init__(
        self,
        dataset: str,
        train: Dataset,
        test: Dataset,
        encode: Callable[[Any], Any] = pixels,
        *,
        num: int = 10_000,
        data_dir: str | os.PathLike | None = None,
        features: str | Extractor = "auto",
        neighbours: bool = False,
        codes: ArrayLike | None = None,
    ):
        require_function("encode", encode)
        num = as_count("num", num, _LEAST)
        self._extract = extractor_of(dataset, data_dir, features)
        train, test = _checked(train, test)
        self.name, self.num = self._extract.name, min(num, len(test.images))
        self._encode, self._dataset = Extractor("encode", encode), dataset
        self._labels, self._shape = train.labels, train.images.shape[1:]
        held_out = test.images[: self.num]
        self._classes = 1000 if dataset == "stacked_mnist" else int(max(train.labels.max(), test.labels.max())) + 1
        self._of_classes = self._extract
        if features == "inception" and (own := extractor_of(dataset, data_dir)) is not pixels:
            self._of_classes = own  # Inception would take hours on all training images
        self._test = self._extract(to_unit(held_out))
        known = self._test if self._of_classes is self._extract else self._of_classes(to_unit(held_out))
        slow = features == "inception" and self._of_classes is self._extract
        fits = _SLOW_KNOWN if slow else max(_KNOWN, _MOST // known.shape[1])
        fits = fits if self._has_classes() else _LEAST
        self._train = _by_pieces(self._of_classes, train.images[:fits])
        if codes is None:
            codes = _by_pieces(self._encode, train.images)
        self._codes = as_array("codes", codes, (len(train.images), None))
        self._test_distance = nearest(_by_pieces(self._encode, test.images), self._codes)[0][:, 0]
        self._classify = self._classifier(data_dir, neighbours)
        self._shares = class_histogram(self._labels, self._classes)
        self._known = known
        guess = self._classify(to_unit(held_out), known)
        right = np.mean(np.asarray(guess) == test.labels[: self.num])
        self.accuracy = float(right) if self._has_classes() else None
        self._weights = stacked.mode_weights(self._digits()) if dataset == "stacked_mnist" else None

    def _has_classes(self) -> bool:
        return bool(self._labels.min() < self._labels.max())

    def _digits(self) -> np.ndarray:
        return np.concatenate([self._labels // 100, self._labels // 10 % 10, self._labels % 10])

    def _classifier(self, data_dir: str | os.PathLike | None, neighbours: bool) -> Callable[[Array, Array], Any]:
        """Return a function of images and their features to labels."""
        known_network = self._dataset in ("mnist", "stacked_mnist") and has_lenet(_folder(data_dir))
        if known_network and not neighbours:
            self.classifier = "LeNet"
            logits = digit_classifier(_folder(data_dir))
            if self._dataset == "mnist":
                return lambda images, features: predicted_labels(logits(images))
            return lambda images, features: stacked_labels(logits, images)
        self.classifier = "5 nearest neighbours in the features" if self._has_classes() else "none"
        known = self._labels[: len(self._train)]
        return lambda images, features: nearest_label(features, self._train, known, self._classes)

    def __call__(self, images: ArrayLike) -> Verdict:
        """Return scores of images [n, h, w, c] in [0, 1], or uint8, and their class shares.

        Raises:
          ValueError: for another shape than that of the data set, pixels out of range, or fewer than 6 images.
        """
        images = native("images", images)
        sides = ", ".join(map(str, self._shape))
        require_images("the judge", images, f"[n, {sides}]", images.shape[1:] == self._shape)
        images = to_unit(images)
        features = self._extract(images)
        seen = features if self._of_classes is self._extract else self._of_classes(images)
        labels = self._classify(images, seen)
        shares = class_histogram(labels, self._classes)
        near = neighbour_scores(self._test, features)
        lmem = memorisation(self._encode(images), self._codes, test_distance=self._test_distance)
        kid = kernel_distance(features, self._test)
        scores = {
            "frechet": frechet_distance(features, self._test),
            "kid": kid.value,
            "kid_error": kid.error,
            "lmem": lmem.value,
            "lmem_error": lmem.error,
            **near._asdict(),
            **self._class_scores(labels, shares, seen),
        }
        return Verdict({name: float(value) for name, value in scores.items()}, shares)

    def _class_scores(self, labels: Any, shares: Array, features: Array) -> dict[str, Any]:
        if self._weights is not None:
            found = distinct_modes(labels, self._classes, self._weights)
            return {"modes": found.modes, "reverse_kl": found.reverse_kl, "kl_floor": found.kl_floor}
        if not self._has_classes():
            return {}
        mixed = mixture_rate(features, *self._of_known_classes, held_out_score=self._held_out_score)
        return {"class_tv": total_variation(shares, self._shares), "mixtures": mixed.excess}

    @property
    def _of_known_classes(self) -> tuple[Array, np.ndarray]:
        """Features of training images, and their classes, between which mixtures lie."""
        train = self._train[:_KNOWN]
        return train, self._labels[: len(train)]

    @functools.cached_property
    def _held_out_score(self) -> Array:
        """How far held-out images lie between classes, the same for all draws."""
        return mixture_score(self._known, *self._of_known_classes)

    def classes_of(self, images: ArrayLike) -> np.ndarray:
        """Return the classes [n] that images [n, h, w, c] are of, as the classifier tells them."""
        images = to_unit(native("images", images))
        return np.asarray(self._classify(images, self._of_classes(images)))

    def facts(self, draws: int) -> dict[str, Any]:
        """What scores over so many draws were made with: features, classifier, accuracy, images_per_draw, draws."""
        return _facts(self, draws)


def _by_pieces(extract: Extractor, images: np.ndarray) -> Array:
    """Return features of images, which need not fit into memory as floats."""
    size = max(1, _PIECE // math.prod(images.shape[1:]))
    found = [extract(to_unit(piece)) for piece in pieces(images, size)]
    return found[0] if len(found) == 1 else jnp.concatenate(found)


def _checked(train: Dataset, test: Dataset) -> tuple[Dataset, Dataset]:
    """Return both parts of a data set, of one shape, with labels of every image, and enough held out."""
    train, test = _part("train", train), _part("test", test)
    if train.images.shape[1:] != test.images.shape[1:]:
        raise ValueError(
            f"train has images {train.images.shape} and test {test.images.shape}: give images of one height, width and "
            "number of channels."
        )
    _require_held_out(len(test.images))
    return train, test


def _part(name: str, part: Dataset) -> Dataset:
    require_kind(name, part, Dataset)
    images, labels = native(f"{name}.images", part.images), native(f"{name}.labels", part.labels)
    require_images(f"{name} of a judge", images, "[n, height, width, channels]", images.ndim == 4)
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ValueError(
            f"{name}.labels has shape {labels.shape} and type {labels.dtype}: give a whole number from 0 on for each "
            f"of the {len(images)} images, all 0 for no classes."
        )
    return Dataset(images, np.asarray(labels))


def _require_held_out(num: int) -> None:
    if num < _LEAST:
        raise ValueError(f"test has {num} rows: hold out at least {_LEAST}, which density and coverage need.")


class PointJudge:
    """Scores points against held-out ones, and on the modes where they are known.

    Called with points [n, d], n >= 6, or images of one row and column [n, 1, 1, d], it returns a Verdict without class
    shares, whose scores are frechet, kid and kid_error (`kernel_distance`), sliced_w2_sq (`sliced_w2_sq`), lmem
    (`memorisation`), precision, recall, density and coverage (`neighbour_scores`), and with modes those of
    `mode_scores`. All but lmem are against the first `num` held-out points.

    Args:
      train, test: points [n, d] or images of one row and column [n, 1, 1, d]; at least 6 held out.
      num: points per draw; at most the number of held-out points.
      modes: centres [k, d] and standard deviation of the equally weighted Gaussians that the points are draws of, see
        `otgen.data.toy.centres_of`; None if there are none, or none are known.

    Attributes:
      name, classifier, accuracy: coordinates, none and None, as a Judge has them.
      num: points per draw.

    Raises:
      ValueError: for points of another shape, or not finite, or fewer than 6 held out.

    Example:
      >>> train, test, new = (og.data.toy.eight_gaussians(it, 500) for it in jax.random.split(jax.random.key(0), 3))
      >>> judge = og.eval.PointJudge(train, test, modes=og.data.toy.centres_of("eight_gaussians"))
      >>> scores, _ = judge(new)
      >>> print(scores["modes"], scores["recall"] > 0.9, judge(train).scores["lmem"])
      8.0 True 0.0
    """

    name, classifier, accuracy = "coordinates", "none", None

    def __init__(
        self, train: ArrayLike, test: ArrayLike, *, num: int = 10_000, modes: tuple[ArrayLike, float] | None = None
    ):
        num, self._modes = as_count("num", num, _LEAST), modes
        self._train, self._test = as_samples(1, train=pixels(train), test=pixels(test))
        _require_held_out(len(self._test))
        if modes is not None:
            if not isinstance(modes, tuple) or len(modes) != 2:
                raise ValueError(f"modes = {modes!r}: give a pair, the centres [k, d] and their standard deviation.")
            as_samples(1, test=self._test, centres=modes[0])
            require_positive("the standard deviation of modes", modes[1])
        self.num = min(num, len(self._test))
        self._test_distance = nearest(self._test, self._train)[0][:, 0]

    def __call__(self, points: ArrayLike) -> Verdict:
        """Return scores of points [n, d] or [n, 1, 1, d], and no class shares.

        Raises:
          ValueError: for points of another dimension, not finite, or fewer than 6.
        """
        points, real = pixels(points), self._test[: self.num]
        kid = kernel_distance(points, real)
        scores = {
            "frechet": frechet_distance(points, real),
            "kid": kid.value,
            "kid_error": kid.error,
            "sliced_w2_sq": sliced_w2_sq(jax.random.key(0), points, real).value,
            "lmem": memorisation(points, self._train, test_distance=self._test_distance).value,
            **neighbour_scores(real, points)._asdict(),
        }
        if self._modes is not None:
            scores |= mode_scores(points, *self._modes)._asdict()
        return Verdict({name: float(value) for name, value in scores.items()}, jnp.zeros(0))

    def facts(self, draws: int) -> dict[str, Any]:
        """As of a Judge."""
        return _facts(self, draws)


def _facts(judge: Judge | PointJudge, draws: int) -> dict[str, Any]:
    told = {"features": judge.name, "classifier": judge.classifier, "accuracy": judge.accuracy}
    return {**told, "images_per_draw": judge.num, "draws": draws}


def over_draws(
    key: Key, judge: Judge | PointJudge, draw: Callable[[Key, int], ArrayLike], draws: int = 5
) -> DrawScores:
    """Return the scores of a generator: mean and standard deviation over several draws.

    Args:
      key: PRNG key; draw i has `jax.random.fold_in(key, i)`.
      judge: Judge or PointJudge.
      draw: function (key, num) -> num images or points, as the judge takes them.
      draws: how many.

    Returns:
      DrawScores.

    Raises:
      ValueError: for another judge, what is no function, or no draws; as the judge, for what is drawn.

    Example:
      >>> train, test = (og.data.toy.two_moons(key, 500) for key in jax.random.split(jax.random.key(0)))
      >>> judge = og.eval.PointJudge(train, test)
      >>> found = og.eval.over_draws(jax.random.key(1), judge, og.data.toy.two_moons, draws=3)
      >>> print(found.mean["frechet"] < 0.02, found.sd["frechet"] > 0, judge.facts(3)["images_per_draw"])
      True True 500
    """
    key, draws = as_key(key), as_count("draws", draws)
    require_kind("judge", judge, (Judge, PointJudge))
    require_function("draw", draw)
    found = [judge(draw(jax.random.fold_in(key, i), judge.num)) for i in range(draws)]
    values = {name: [one.scores[name] for one in found] for name in found[0].scores}
    return DrawScores(
        {name: float(np.mean(these)) for name, these in values.items()},
        {name: float(np.std(these, ddof=1)) if draws > 1 else None for name, these in values.items()},
        np.mean([np.asarray(one.class_shares) for one in found], axis=0),
    )
