"""The two stages of AE-OT under checkpoints, and the options that they have in common."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab import command, own_images
from experiments.lab.judge import require_features
from experiments.lab.sets import NETWORKS
from otgen import data
from otgen.data import toy
from otgen.data.cache import default as default_cache
from otgen.models import ae_ot, codec
from otgen.nn.autoencoder import to_unit
from otgen.train import Checkpoints
from otgen.train.stages import checksum

_EPOCHS = {"digits": 150, "mnist": 24, "fashion_mnist": 24, "cifar10": 12, "celeb_a": 4}
IMAGES = tuple(_EPOCHS)  # sets of images


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(own_images.OwnImages, command.Features, command.Options):
    """Options of AE-OT on images. None means: what suits the data set."""

    dataset: str = "digits"
    """digits, mnist, fashion_mnist, cifar10, celeb_a, or the path of images of your own."""
    seed: int = 0
    """Of networks, noise and draws."""
    latent_dim: int | None = None
    """Dimension of the codes."""
    network: str | None = None
    """mlp, conv or residual."""
    width: int | None = None
    """Channels after the first convolution, a multiple of 8."""
    epochs: int | None = None
    """Of the autoencoder."""
    batch_size: int | None = None
    """Images a step of the autoencoder."""
    learning_rate: float = 2e-3
    """Largest learning rate of the autoencoder."""
    tol: float | None = None
    """chi2 divergence of the cell masses that the transport is solved to; 0.05, for toys 3e-4."""
    perceptual: float = 0.0
    """Weight in the autoencoder's loss of the distance of its reconstructions in the codes of TAEF2."""
    codec: str | None = None
    """An autoencoder that is there already instead of one of the run's own: taef2, whose weights are in the data
    folder, for images of one or three channels."""
    components: int | None = None
    """Principal components of the codec's codes in which the transport is solved; all of their numbers if not given."""
    max_samples: int | None = None
    """Limit of the noise samples the transport is trained on."""
    angle: float | None = None
    """Threshold of the singular set in radians; chosen from the training data if not given."""
    limit: int | None = None
    """Use only so many training images."""
    num_eval: int = 10_000
    """Images per draw in the table; at most the number of test images."""

    def identity(self) -> dict[str, Any]:
        """Return what makes the model: all but the features that it is scored in."""
        return self.numbers("features", "feature_images", *([] if self.perceptual else ["perceptual"]))

    def model(self) -> ae_ot.Config:
        """Return the model this run trains."""
        own = {**NETWORKS.get(self.dataset, {}), "epochs": _EPOCHS.get(self.dataset, 24)}
        own |= self.given("latent_dim", "network", "width", "epochs", "batch_size", "tol")
        own |= {"learning_rate": self.learning_rate, "max_samples": self.max_samples, "perceptual": self.perceptual}
        return ae_ot.Config(**own)


def check(config: Config, datasets: tuple[str, ...] = IMAGES, **least: int) -> Config:
    """Return the options with what suits images of one's own filled in, which are prepared for it.

    Raises:
      ValueError: for options that cannot be meant, before anything is written; as `command.require`.
    """
    command.require(config, datasets, num_eval=8, seed=0, **least)
    if config.angle is not None and not 0 <= config.angle <= math.pi:
        raise ValueError(f"angle = {config.angle} lies outside [0, pi]: give radians; pi switches the filter off.")
    _require_codec(config)
    require_features(config)
    if config.dataset in toy.DISTRIBUTIONS and config.features != "auto":
        raise ValueError(f"{config.dataset} is a set of points: features are of images, leave them out.")
    if config.tol is not None and not config.tol > 0:
        raise ValueError(f"tol = {config.tol} is not positive.")
    config = own_images.suited(config)
    if config.dataset in IMAGES or own_images.is_given(config):
        config.model()  # raises for the fields of the model
    return config


def fit(config: Config, folder: Path, train: data.Dataset, progress: Any, seconds: dict[str, float]) -> ae_ot.Model:
    """Train the autoencoder, then solve the transport, each under its own checkpoints; their times go to `seconds`."""
    train_key, solve_key = jax.random.split(jax.random.key(config.seed))
    identity, images = config.identity(), train.images
    if config.codec is not None:
        return _fit_on_codec(config, folder, train, progress, seconds, solve_key)
    start = time.perf_counter()
    total = ae_ot.num_steps_of(config.model(), len(images))
    saved = Checkpoints(folder / "checkpoints" / "autoencoder", identity)
    with saved as checkpoints, progress("autoencoder", total) as callback:
        example = ae_ot.AEOT(images.shape[1:], config.model())
        watch = command.watcher(
            config,
            folder,
            "autoencoder",
            lambda state: nn.sigmoid(example.apply({"params": state.params}, to_unit(images[:64]))),
        )
        options = {"callback": callback, "checkpoints": checkpoints, "watch": watch}
        if config.perceptual:
            options["features"] = codec.features(codec.taef2(config.data_dir, images.shape[1:]))
        module, params = ae_ot.train_autoencoder(train_key, images, config.model(), **options)
    seconds["autoencoder"] = time.perf_counter() - start
    start = time.perf_counter()
    saved = Checkpoints(folder / "checkpoints" / "transport", identity)
    with saved as checkpoints, progress("transport", None) as callback:
        variables, info = ae_ot.solve(solve_key, module, params, images, callback=callback, checkpoints=checkpoints)
    seconds["transport"] = time.perf_counter() - start
    return _finished(config, ae_ot.Model(module, variables, _labels(train), info))


def _require_codec(config: Config) -> None:
    """Raise for an unknown codec, one whose weights are missing, and options of an autoencoder beside one."""
    if config.perceptual:
        codec.taef2(config.data_dir, (8, 8, 3))
    if config.codec is None:
        if config.components is not None:
            raise ValueError("components are of the codes of a codec: give --codec too.")
        return
    if config.codec != "taef2":
        raise ValueError(f"codec = {config.codec!r}: the one that is known is taef2; leave it out to train one.")
    if config.given("latent_dim", "network", "width", "epochs") or config.perceptual:
        raise ValueError(
            "latent_dim, network, width, epochs and perceptual are of an autoencoder to be trained: leave them out."
        )
    if config.dataset in toy.DISTRIBUTIONS:
        raise ValueError(f"{config.dataset} is a set of points: a codec is of images, leave it out.")
    if config.components is not None and not config.components > 0:
        raise ValueError(f"components = {config.components}: give at least 1.")
    codec.taef2(config.data_dir, (8, 8, 3))  # raises where weights are missing


def _fit_on_codec(
    config: Config, folder: Path, train: data.Dataset, progress: Any, seconds: dict[str, float], key: Any
) -> ae_ot.Model:
    """Encode the images, keep their codes in the cache for all runs, and solve the transport to them."""
    start = time.perf_counter()
    chosen = codec.taef2(config.data_dir, train.images.shape[1:])
    place = folder / "checkpoints"
    kept = Path(config.cache_dir or default_cache()) / "codes" / f"{config.codec}-{checksum(train.images):08x}"
    codes = codec.encode(chosen, train.images, folder=kept, progress=config.progress)
    if config.components is not None:
        chosen = codec.components(chosen, codes, config.components)
        codes = chosen.module.apply(chosen.variables, jnp.asarray(codes), method="reduce")
    seconds["codes"] = time.perf_counter() - start
    start = time.perf_counter()
    settings = {"tol": config.tol, "max_samples": config.max_samples}
    settings = {name: value for name, value in settings.items() if value is not None}
    saved = Checkpoints(place / "transport", config.identity())
    with saved as checkpoints, progress("transport", None) as callback:
        options = {"codes": codes, "codec": chosen, "callback": callback, "checkpoints": checkpoints}
        model = ae_ot.fit(key, train.images, _labels(train), **options, **settings)
    seconds["transport"] = time.perf_counter() - start
    return _finished(config, model)


def _finished(config: Config, model: ae_ot.Model) -> ae_ot.Model:
    if config.angle is not None:
        model.variables["transport"]["angle"] = jnp.float32(config.angle)
    return model


def _labels(train: data.Dataset) -> Any:
    return None if np.ptp(train.labels) == 0 else jnp.asarray(train.labels, jnp.int32)
