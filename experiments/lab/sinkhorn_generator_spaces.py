"""Where a generator by the Sinkhorn divergence is trained and judged: points, principal components, latents, pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.lab import own_images, sets
from experiments.lab.sets import Draw
from experiments.lab.standard_codes import autoencoder, components
from otgen.data import toy
from otgen.eval import Judge, PointJudge, mode_scores
from otgen.models import ae_ot
from otgen.nn import to_unit
from otgen.types import Array

SPACES = ("pca", "latents", "pixels")
COMPONENTS = 16
_TRAINING = 50_000  # images whose components are learned


class Space(NamedTuple):
    """What a generator is trained on, and how its draws are judged.

    Attributes:
      data: images or points.
      judge: of what `shown` gives; None where no table is asked for.
      real: draws training data.
      shown: from draws of the generator to what is judged.
      pictured: from what is judged to what a figure shows.
      more: scores of a draw, beside those of the judge.
      variance: total variance of held-out points, by which the distance is divided; None of images.
    """

    data: Any
    judge: Judge | PointJudge | None
    real: Draw
    shown: Callable[[Array], Array]
    pictured: Callable[[Array], Array]
    more: Callable[[Array], dict[str, float]]
    variance: float | None


def load(config: Any, folder: Path, seed: int) -> Space:
    """Load the data and set up the judge; of latents also train the autoencoder of the seed."""
    if config.kind() == "points":
        train, test = (np.asarray(it.images).reshape(-1, 2) for it in sets.points(config.dataset, config.num_points))
        return _points(config, train, test, toy.centres_of(config.dataset), lambda x: x)
    train, test = sets.images(config)
    if config.kind() == "pca":
        known = train.images[:_TRAINING]
        encode, back = components(known, COMPONENTS)
        codes, held_out = (np.asarray(encode(images)) for images in (known, test.images))
        return _points(config, codes, held_out, None, back)
    features = own_images.features(config, train.images.shape[1:])
    more = {"num": config.num_eval, "data_dir": config.data_dir, "features": features}
    rest = sets.drawn_from(train.images), lambda x: x, lambda x: {}, None
    if config.kind() == "pixels":
        real, same, none, variance = rest
        judge = Judge(config.dataset, train, test, **more) if config.table else None
        return Space(train.images, judge, real, same, same, none, variance)
    encode, decode = _autoencoder(config, folder, seed, train.images)
    judge = Judge(config.dataset, train, test, encode, **more) if config.table else None
    real, same, none, variance = rest
    return Space(np.asarray(encode(to_unit(train.images))), judge, real, decode, same, none, variance)


def _points(config: Any, train: np.ndarray, test: np.ndarray, modes: Any, pictured: Any) -> Space:
    spread = test[: config.num_eval].var(axis=0).sum()

    def more(drawn: Array) -> dict[str, float]:
        found = {"variance_ratio": float(jnp.var(drawn, axis=0).sum() / spread)}
        if modes is not None:
            known = mode_scores(test, *modes).within_sd
            found["sd_ratio"] = float(mode_scores(drawn, *modes).within_sd / known)
        return found

    judge = PointJudge(train, test, num=config.num_eval, modes=modes)

    def real(key: Any, num: int) -> Array:
        return jnp.asarray(train[np.asarray(sets.chosen(key, len(train), num))])

    return Space(train, judge, real, lambda x: x, pictured, more, float(spread))


def _autoencoder(config: Any, folder: Path, seed: int, images: np.ndarray) -> tuple[Any, Any]:
    """Return the encoder and the decoder of a seed, in standardised codes."""
    fields = {"epochs": 24, **sets.autoencoder(config)}
    fields |= {} if config.autoencoder_epochs is None else {"epochs": config.autoencoder_epochs}
    place = folder / "checkpoints" / f"seed-{seed}" / "autoencoder"
    made = {"dataset": config.numbers()["dataset"], "limit": config.limit, "epochs": fields["epochs"]}
    settings = ae_ot.Config(**fields)
    return autoencoder(images, settings, seed, place, made, config.progress)
