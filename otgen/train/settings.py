"""What every model on images has to be told: its networks, and how long they are trained."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
import optax

from otgen.nn.autoencoder import NETWORKS
from otgen.nn.precision import PRECISIONS
from otgen.ot.check import (
    as_count,
    as_counts,
    is_traced,
    require_below_one,
    require_between,
    require_choice,
    require_kind,
    require_nonnegative,
    require_positive,
)
from otgen.train.parallel import shared_rows

Made = TypeVar("Made")


class Checked:
    """Checks of the fields of a configuration, which Flax hashes: arrays of one number become that number."""

    def whole(self, *names: str, least: int = 1) -> None:
        """Raise ValueError for fields that are no integers, or less than `least`."""
        for name in names:
            object.__setattr__(self, name, as_count(name, getattr(self, name), least))

    def whole_or_none(self, *names: str, least: int = 1) -> None:
        """Raise ValueError for fields that are neither None nor integers of at least `least`."""
        self.whole(*(name for name in names if getattr(self, name) is not None), least=least)

    def whole_each(self, name: str, least: int = 1) -> None:
        """Raise ValueError for a field that is no sequence of integers of at least `least`."""
        object.__setattr__(self, name, as_counts(name, getattr(self, name), least))

    def positive(self, *names: str) -> None:
        """Raise ValueError for fields that are not positive and finite."""
        self._each(require_positive, *names)

    def not_negative(self, *names: str) -> None:
        """Raise ValueError for fields that are negative or not finite."""
        self._each(require_nonnegative, *names)

    def below_one(self, *names: str) -> None:
        """Raise ValueError for decays and shares outside [0, 1)."""
        self._each(require_below_one, *names)

    def between(self, name: str, low: float, high: float) -> None:
        """Raise ValueError for a field outside [low, high]."""
        self._each(functools.partial(require_between, low=low, high=high), name)

    def one_of(self, name: str, known: Sequence[str]) -> None:
        """Raise ValueError for a field that is not one of the known words."""
        require_choice(name, getattr(self, name), known)

    def _each(self, require: Callable[[str, Any], None], *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if is_traced(value):
                raise ValueError(f"{name} has no value inside jit: give a Python number, a configuration is static.")
            require(name, value)
            if isinstance(value, np.ndarray | jax.Array):
                object.__setattr__(self, name, value.item())


def made(kind: type[Made], fields: Mapping[str, Any]) -> Made:
    """Return the configuration of a kind with these fields.

    Raises:
      ValueError: for fields out of range.
      TypeError: for a field that it does not have, with those that it has.
    """
    require_kind("a dictionary of fields", fields, Mapping)
    known = [field.name for field in dataclasses.fields(kind)]
    for name in fields:
        if name not in known:
            model = kind.__module__.rpartition(".")[2]
            raise TypeError(f"{model}.{kind.__name__} has no field {name!r}: choose among {', '.join(known)}.")
    return kind(**fields)


@dataclasses.dataclass(frozen=True)
class Settings(Checked):
    """Networks and training, alike for all models, so that they can be compared.

    Attributes:
      latent_dim: dimension of the codes and of the noise.
      network: "mlp", "conv" or "residual" (convolutions with a way around them; without the grid of transposed ones).
      hidden: widths of the dense layers of encoders and critics, reversed in decoders and generators (mlp).
      width: channels after the first convolution (conv, residual).
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
        self.whole("latent_dim", "batch_size", "width")
        self.whole_each("hidden")
        self.one_of("network", NETWORKS)
        self.one_of("precision", PRECISIONS)
        if self.network != "mlp" and self.width % 8:
            raise ValueError(f"width = {self.width}: give a multiple of 8, since channels are normalised in 8 groups.")
        self.positive("epochs", "learning_rate")

    def networks(self) -> tuple[str, tuple[int, ...], int, str]:
        """Return what `nn.autoencoder.encoder`, `decoder` and `Autoencoder` take after their shapes."""
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
        self.one_of("output", ("unit", "real"))


def rows_of(config: Settings, num_images: int, batches_per_step: int = 1) -> int:
    """Images that a step uses: whole batches, smaller where there are fewer images, shared evenly by the devices.

    Raises:
      ValueError: if there are fewer images than batches, or a batch does not divide among the devices.
    """
    require_kind("config", config, Settings)
    if as_count("num_images", num_images) < batches_per_step:
        raise ValueError(f"{num_images} images for {batches_per_step} batches a step: give more images.")
    return shared_rows(config.batch_size, num_images // batches_per_step) * batches_per_step


def num_steps_of(config: Settings, num_images: int, rows: int) -> int:
    """Training steps in which the epochs' images are seen, `rows` a step; at least one."""
    return max(1, round(config.epochs * as_count("num_images", num_images) / rows))


def adam(
    learning_rate: float, num_steps: int, *, accumulate: int = 1, **options: float
) -> optax.GradientTransformation:
    """Adam with 5 % linear warm-up and cosine decay to 1 % of the peak.

    Args:
      learning_rate: the peak.
      num_steps: length of the schedule, in batches.
      accumulate: batches whose mean gradient makes one step of Adam; between them the parameters stay.
      **options: of `optax.adam`.

    Raises:
      ValueError: for a num_steps that is no whole number of at least 1.
    """
    num_steps = -(-as_count("num_steps", num_steps) // accumulate)
    warmup = max(1, num_steps // 20)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, warmup, max(num_steps, warmup + 1), 0.01 * learning_rate
    )
    transform = optax.adam(schedule, **options)
    return transform if accumulate == 1 else optax.MultiSteps(transform, accumulate).gradient_transformation()
