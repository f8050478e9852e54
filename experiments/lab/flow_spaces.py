"""Where a flow of the experiment lives, two moons in the plane or codes of images, and how samples are judged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab import own_images, sets
from experiments.lab.standard_codes import autoencoder, components
from otgen.data import toy
from otgen.eval import Judge
from otgen.models import ae_ot
from otgen.nn import to_unit
from otgen.ot import exact, latent
from otgen.ot.costs import PairwiseCost
from otgen.ot.gaussian import frechet_distance
from otgen.types import Array, Key, Sampler

SEED = 1000  # of the autoencoder, the points and the solve of the coupling, the same for all seeds of the experiment
_MATCHED = 2048  # points between which the exact transport is solved


class Space(NamedTuple):
    """Data to learn from, and scores of samples.

    Attributes:
      data: [N, d].
      labels: their classes [N]; None without.
      sampler: law of the noise.
      scores: samples [n, d], and the labels that they were drawn of or none, to numbers by name.
      truth: (key, num) -> real data [num, d].
      decode: codes [n, d] to images; None for points.
      facts: what the scores were made with, in words.
      num: samples a draw.
    """

    data: np.ndarray
    labels: np.ndarray | None
    sampler: Sampler
    scores: Callable[..., dict[str, float]]
    truth: Callable[[Key, int], Array]
    decode: Callable[[Array], Array] | None
    facts: str
    num: int


def ring(key: Key, num: int, dim: int) -> Array:
    """Draw noise for the moons from eight Gaussians on a circle: [num, 2]."""
    return toy.eight_gaussians(key, num).reshape(num, dim)


def moons(key: Key, num: int) -> Array:
    """Draw two moons of twice their size, around the origin: [num, 2]."""
    return 2 * (toy.two_moons(key, num) - jnp.array([0.5, 0.25]))


def space_of(config: Any, folder: Path) -> Space:
    """Return the space of a configuration, its autoencoder trained if it has one."""
    return _plane(config) if config.is_toy() else _codes(config, folder)


def _plane(config: Any) -> Space:
    num = min(config.num_eval, _MATCHED)

    def scores(x: Array, labels: None = None) -> dict[str, float]:
        fresh = moons(jax.random.key(SEED + 1), len(x))
        index = exact.assignment(PairwiseCost(x, fresh)).index
        return {"w2_sq": float(jnp.mean(jnp.sum((x - fresh[index]) ** 2, 1)))}

    data = np.asarray(moons(jax.random.key(SEED), config.num_points))
    facts = f"eight Gaussians to two moons, {len(data)} points; squared W2 by the exact matching of {num} points"
    return Space(data, None, ring, scores, moons, None, facts, num)


def _codes(config: Any, folder: Path) -> Space:
    train, test = sets.images(config)
    if config.space == "pca":
        encode, decode = components(train.images, config.latent_dim or 16)
    else:
        encode, decode = _autoencoder(config, folder, train)
    data, held_out = (np.asarray(encode(to_unit(part.images))) for part in (train, test))
    num = min(config.num_eval, len(held_out))
    variance = float(data.var(0).sum())
    judge = None
    if config.judged and config.table:
        features = own_images.features(config, train.images.shape[1:])
        judge = Judge(config.dataset, train, test, encode, num=num, data_dir=config.data_dir, features=features)

    def scores(codes: Array, labels: Array | None = None) -> dict[str, float]:
        found = {"codes": float(frechet_distance(codes, held_out)) / variance}
        if judge is None:
            return found
        images = decode(codes)
        found |= judge(images).scores
        if labels is not None:
            found["of_label"] = float(np.mean(judge.classes_of(images) == np.asarray(labels)))
        return found

    def truth(key: Key, num: int) -> Array:
        return jnp.asarray(data[np.asarray(sets.chosen(key, len(data), num))])

    name, dim = own_images.label(config.dataset), data.shape[1]
    facts = f"{name}, {len(data)} codes of dimension {dim} ({config.space}), {num} samples a draw"
    if judge is not None:
        facts += f"; features of the images: {judge.name}, classes: {judge.classifier}"
    labels = np.asarray(train.labels) if config.labels else None
    return Space(data, labels, latent.Normal(), scores, truth, decode, facts, num)


def _autoencoder(config: Any, folder: Path, train: Any) -> tuple[Any, Any]:
    fields = {**sets.autoencoder(config), **config.given("latent_dim", "epochs")}
    place = folder / "checkpoints" / "autoencoder"
    made = {"dataset": config.numbers()["dataset"], "limit": config.limit, **{k: str(v) for k, v in fields.items()}}
    return autoencoder(train.images, ae_ot.Config(**fields), SEED, place, made, config.progress)
