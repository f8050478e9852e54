"""Where a generator by the Sinkhorn divergence is trained and judged: points, principal components, latents, pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab import sets
from experiments.lab.sets import Draw
from experiments.lab.trials import stage
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
      judge: of what `shown` gives.
      real: draws training data.
      shown: from draws of the generator to what is judged.
      pictured: from what is judged to what a figure shows.
      more: scores of a draw, beside those of the judge.
      variance: total variance of held-out points, by which the distance is divided; None of images.
    """

    data: Any
    judge: Judge | PointJudge
    real: Draw
    shown: Callable[[Array], Array]
    pictured: Callable[[Array], Array]
    more: Callable[[Array], dict[str, float]]
    variance: float | None


def load(config: Any, folder: Path, seed: int, progress: Any) -> Space:
    """Load the data and set up the judge; of latents also train the autoencoder of the seed."""
    if config.kind() == "points":
        train, test = (np.asarray(it.images).reshape(-1, 2) for it in sets.points(config.dataset, config.num_points))
        return _points(config, train, test, toy.centres_of(config.dataset), lambda x: x)
    train, test = sets.images(config)
    if config.kind() == "pca":
        codes, held_out, back = components(train.images[:_TRAINING], test.images)
        return _points(config, codes, held_out, None, back)
    more = {"num": config.num_eval, "data_dir": config.data_dir, "features": config.features}
    rest = sets.drawn_from(train.images), lambda x: x, lambda x: {}, None
    if config.kind() == "pixels":
        real, same, none, variance = rest
        return Space(train.images, Judge(config.dataset, train, test, **more), real, same, same, none, variance)
    encode, decode = _autoencoder(config, folder, seed, train.images, progress)
    judge = Judge(config.dataset, train, test, encode, **more)
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


def components(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray, Callable[[Array], Array]]:
    """Return the first principal components [n, 16] of two sets, of overall deviation 1, and the way back to images."""
    x, held_out = (np.asarray(it, np.float64).reshape(len(it), -1) / 255.0 for it in (train, test))
    middle = x.mean(axis=0)
    _, vectors = np.linalg.eigh(np.cov((x - middle).T))
    basis = vectors[:, ::-1][:, :COMPONENTS]
    scale = ((x - middle) @ basis).std()
    basis = basis / scale

    def back(codes: Array) -> Array:
        flat = np.asarray(codes) @ (basis * scale**2).T + middle
        return np.clip(flat, 0, 1).reshape(-1, *train.shape[1:]).astype(np.float32)

    return *(((it - middle) @ basis).astype(np.float32) for it in (x, held_out)), back


def _autoencoder(config: Any, folder: Path, seed: int, images: np.ndarray, progress: Any) -> tuple[Any, Any]:
    """Return the encoder and the decoder of a seed, in standardised codes."""
    settings = ae_ot.Config(**sets.NETWORKS[config.dataset], epochs=config.autoencoder_epochs)
    place = folder / "checkpoints" / f"seed-{seed}" / "autoencoder"

    def train(**watch: Any) -> Any:
        return ae_ot.train_autoencoder(jax.random.key(seed), images, settings, **watch)

    total = ae_ot.num_steps_of(settings, len(images))
    (module, params), _ = stage(config, place, f"autoencoder, seed {seed}", total, progress, train)
    variables = {"params": params}
    _, mean, scale = toy.standardise(ae_ot.encode(module, variables, images))
    scale = jnp.maximum(scale, 1e-6)
    return (
        lambda x: (ae_ot.encode(module, variables, x) - mean) / scale,
        lambda codes: ae_ot.decode(module, variables, codes * scale + mean),
    )
