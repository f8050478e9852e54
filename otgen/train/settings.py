"""What every model on images has to be told: its networks, and how long they are trained."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import optax

from otgen.nn.autoencoder import NETWORKS, PRECISIONS
from otgen.train.parallel import shared_rows


class Checked:
    """Checks of the fields of a configuration."""

    @staticmethod
    def whole(name: str, value: Any, least: int = 1) -> None:
        """Raise ValueError for what is no integer, or less than `least`."""
        if not (isinstance(value, int | np.integer) and value >= least):
            raise ValueError(f"{name} = {value!r}: give an integer, {least} or more.")

    def positive(self, *names: str) -> None:
        """Raise ValueError for fields that are not positive and finite."""
        for name in names:
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} = {value}: give a positive number.")

    def not_negative(self, *names: str) -> None:
        """Raise ValueError for fields that are negative or not finite."""
        for name in names:
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} = {value}: give a number, at least 0.")

    def below_one(self, *names: str) -> None:
        """Raise ValueError for decays and shares outside [0, 1)."""
        for name in names:
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: give 0 (none) to below 1.")

    def one_of(self, name: str, known: Sequence[str]) -> None:
        """Raise ValueError for a field that is not one of the known words."""
        if getattr(self, name) not in known:
            raise ValueError(f"{name} = {getattr(self, name)!r} is unknown: choose one of {', '.join(known)}.")


@dataclasses.dataclass(frozen=True)
class Settings(Checked):
    """Networks and training, alike for all models, so that they can be compared.

    Attributes:
      latent_dim: dimension of the codes and of the noise.
      network: "mlp" or "conv".
      hidden: widths of the dense layers of encoders and critics, reversed in decoders and generators (mlp).
      width: channels after the first convolution (conv).
      epochs: passes over the images; a fraction is legal.
      batch_size: images per step, over all devices.
      learning_rate: peak of the warm-up and cosine schedule of Adam.
      precision: type that the networks compute in, "float32" or "bfloat16"; parameters and losses are float32.
    """

    latent_dim: int = 16
    network: str = "mlp"
    hidden: Sequence[int] = (512, 256)
    width: int = 32
    epochs: float = 24
    batch_size: int = 256
    learning_rate: float = 2e-3
    precision: str = "float32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        for name in ("latent_dim", "batch_size", "width"):
            self.whole(name, getattr(self, name))
        for units in self.hidden:
            self.whole("hidden", units)
        self.one_of("network", NETWORKS)
        self.one_of("precision", PRECISIONS)
        if self.network == "conv" and self.width % 8:
            raise ValueError(f"width = {self.width}: give a multiple of 8, since channels are normalised in 8 groups.")
        self.positive("epochs", "learning_rate")

    def networks(self) -> tuple[str, tuple[int, ...], int, str]:
        """What `nn.autoencoder.encoder`, `decoder` and `Autoencoder` take after their shapes."""
        return self.network, tuple(self.hidden), self.width, self.precision


@dataclasses.dataclass(frozen=True)
class GeneratorSettings(Settings):
    """Settings of a model that also fits data outside [0, 1].

    Attributes:
      output: "unit" for pixels in [0, 1] (a sigmoid; Bernoulli likelihood), "real" for any numbers (none; Gaussian
        likelihood of a learned scale), such as points of the plane given as images [N, 1, 1, 2].
    """

    output: str = "unit"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output not in ("unit", "real"):
            raise ValueError(f"output = {self.output!r} is unknown: choose unit or real.")


def rows_of(config: Settings, num_images: int, batches_per_step: int = 1) -> int:
    """Images that a step uses: whole batches, smaller where there are fewer images, shared evenly by the devices.

    Raises:
      ValueError: if there are fewer images than batches, or a batch does not divide among the devices.
    """
    if num_images < batches_per_step:
        raise ValueError(f"{num_images} images for {batches_per_step} batches a step: give more images.")
    return shared_rows(config.batch_size, num_images // batches_per_step) * batches_per_step


def num_steps_of(config: Settings, num_images: int, rows: int) -> int:
    """Training steps in which the epochs' images are seen, `rows` a step; at least one."""
    return max(1, round(config.epochs * num_images / rows))


def adam(
    learning_rate: float, num_steps: int, *, accumulate: int = 1, **options: float
) -> optax.GradientTransformation:
    """Adam with 5 % linear warm-up and cosine decay to 1 % of the peak.

    Args:
      learning_rate: the peak.
      num_steps: length of the schedule, in batches.
      accumulate: batches whose mean gradient makes one step of Adam; between them the parameters stay.
      **options: of `optax.adam`.
    """
    num_steps = -(-num_steps // accumulate)
    warmup = max(1, num_steps // 20)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, warmup, max(num_steps, warmup + 1), 0.01 * learning_rate
    )
    transform = optax.adam(schedule, **options)
    return transform if accumulate == 1 else optax.MultiSteps(transform, accumulate).gradient_transformation()
