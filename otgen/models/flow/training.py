"""The flow's configuration, its loss on pairs of a coupling, and the step that descends it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from otgen.models.apply import usable
from otgen.nn.precision import PRECISIONS
from otgen.nn.unet import GROUPS, UNet
from otgen.nn.velocity import Velocity, as_label
from otgen.ot import coupling as couplings
from otgen.ot import latent
from otgen.ot.check import (
    as_array,
    as_count,
    as_counts,
    as_key,
    require_kind,
)
from otgen.train.descent import descend
from otgen.train.settings import Checked, adam
from otgen.train.state import TrainState, start
from otgen.types import Array, Key, Sampler

COUPLINGS = ("semidiscrete", "independent", "minibatch", "sinkhorn")
METHODS = {"euler": 1, "midpoint": 2, "heun": 2, "adaptive": 0}  # evaluations of the velocity in a step
INDEPENDENT = couplings.Independent.__name__
TIMES = ("uniform", "logit-normal")


@dataclasses.dataclass(frozen=True)
class Config(Checked):
    """What makes a flow.

    Attributes:
      width: units of the layers; None for 256. Of images the channels at full size; None for 64.
      depth: residual blocks; None for 3. Of images those of each level on the way down; None for 2.
      levels: how often the sides of images are halved.
      attention: whether the pixels of images attend to each other at the lowest level.
      precision: type that the network computes in, "float32" or "bfloat16".
      num_steps: training steps.
      batch_size: pairs a step, over all devices.
      learning_rate: peak of the warm-up and cosine schedule of Adam.
      average: decay of the moving average of the weights that samples are drawn with.
      times: law of the times that are trained on, "uniform" or "logit-normal" (more of them in the middle).
      label_dropout: share of pairs whose label is hidden in training, for `guidance`; used with labels only.
      repeats: how often a pair is used, in other orders and at other times; pairing costs so many times less.
      tol: chi2 that the semi-discrete coupling is solved to, beside `max_samples`, the limit of its training samples.
      epsilon: regularisation of the coupling "sinkhorn", as a share of the mean cost.
      method: how samples are drawn unless asked otherwise: "euler", "midpoint", "heun" or "adaptive".
      sample_steps: steps from noise to data unless asked otherwise; None for 2, or 16 where pairs are independent.

    Example:
      >>> print(og.models.flow.Config(num_steps=2000).method)
      midpoint
    """

    width: int | None = None
    depth: int | None = None
    levels: int = 2
    attention: bool = False
    precision: str = "float32"
    num_steps: int = 5000
    batch_size: int = 512
    learning_rate: float = 2e-3
    average: float = 0.999
    times: str = "uniform"
    label_dropout: float = 0.1
    repeats: int = 8
    tol: float = 0.05
    max_samples: int | None = None
    epsilon: float = 0.02
    method: str = "midpoint"
    sample_steps: int | None = None

    def __post_init__(self) -> None:
        self.whole("num_steps", "batch_size", "repeats")
        self.whole("levels", least=0)
        self.whole_or_none("width", "depth", "max_samples", "sample_steps")
        self.positive("learning_rate", "tol", "epsilon")
        self.below_one("average", "label_dropout")
        self.one_of("precision", PRECISIONS)
        self.one_of("times", TIMES)
        self.one_of("method", tuple(METHODS))


@usable
class Flow(NamedTuple):
    """A trained flow.

    Attributes:
      module: the velocity field.
      variables: its `params`, and `classes` where it was fitted with labels.
      config: see Config.
      source: law of the noise.
      coupling: name of the class of the coupling whose pairs it was fitted to.
      info: how the semi-discrete coupling was solved, if it was solved by `fit`.

    Example:
      >>> data = jax.random.normal(jax.random.key(0), (200, 2))
      >>> model = og.models.flow.fit(jax.random.key(1), data, coupling="independent", width=16, num_steps=10)
      >>> print(model.module.shape, model.config.num_steps, model.config.sample_steps)
      (2,) 10 16
    """

    module: Any
    variables: dict[str, Any]
    config: Config
    source: Sampler = latent.Normal()
    coupling: str = INDEPENDENT
    info: Any = None


def require_field(module: Any) -> None:
    """Refuse what is no velocity field: a module v(t, x, label) with a shape and the sizes of its labels.

    Raises:
      ValueError: saying so.
    """
    require_kind("module", module, nn.Module)
    if not all(hasattr(module, name) for name in ("shape", "num_classes", "num_conditions")):
        raise ValueError(f"a {type(module).__name__} is no velocity field: give one such as nn.velocity.Velocity.")


def loss(params: Any, module: Any, batch: couplings.Batch, t: Array) -> tuple[Array, dict[str, Array]]:
    """Return the weighted mean over pairs at times t [n] of |v(t, x_t, label) - (x1 - x0)|^2, and metrics.

    Args:
      params: parameters of the velocity field.
      module: the velocity field.
      batch: x0, x1 [n, ...], label, weight [n], as a coupling pairs them.
      t: times in [0, 1]; x_t = (1 - t) x0 + t x1.

    Raises:
      ValueError: for arrays of shapes that do not match.

    Example:
      >>> module, state = og.models.flow.init(jax.random.key(0), og.models.flow.Config(width=16), (2,))
      >>> batch = og.coupling.Independent(jnp.ones((4, 2))).pair(jax.random.key(1), 4)
      >>> print(og.models.flow.loss(state.params, module, batch, jnp.linspace(0, 1, 4))[0].shape)
      ()
    """
    require_field(module), require_kind("batch", batch, couplings.Batch)
    x0 = as_array("x0", batch.x0, (None, *module.shape), finite=False)
    x1 = as_array("x1", batch.x1, x0.shape, finite=False)
    t = as_array("t", t, x0.shape[:1], finite=False)
    weight = as_array("weight", batch.weight, x0.shape[:1], finite=False)
    at = t.reshape(-1, *(1,) * (x0.ndim - 1))
    error = module.apply({"params": params}, t, (1 - at) * x0 + at * x1, batch.label) - (x1 - x0)
    value = jnp.mean(weight * jnp.sum(error**2, axis=tuple(range(1, error.ndim))))
    return value, {"loss": value}


def draws(key: Key, step: Any, num: int, law: str, axis_name: str | None = None) -> tuple[Array, Array]:
    """Draw times [num] and uniform numbers [num] for the rows of this device, in whatever number of them.

    A time is drawn in each of as many strata of equal probability as the batch of all devices has rows.
    """
    devices = 1 if axis_name is None else jax.lax.psum(1, axis_name)
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * num
    order, within, other = jax.random.uniform(jax.random.fold_in(key, step), (3, num * devices))
    share = (jnp.argsort(order) + within) / len(order)
    if law == "logit-normal":
        share = jax.nn.sigmoid(jax.scipy.special.ndtri(jnp.clip(share, 1e-6, 1 - 1e-6)))
    mine = jax.lax.dynamic_slice_in_dim(jnp.stack([share, other]), first, num, axis=1)
    return mine[0], mine[1]


def make_step(module: Any, config: Config) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
    """Return the pure training step `(state, batch, key, *, axis_name) -> (state, metrics)` on batches of a coupling.

    Example:
      >>> config = og.models.flow.Config(width=16)
      >>> module, state = og.models.flow.init(jax.random.key(0), config, (2,))
      >>> step = jax.jit(og.models.flow.make_step(module, config))
      >>> batch = og.coupling.Independent(jnp.ones((4, 2))).pair(jax.random.key(1), 4)
      >>> print(step(state, batch, jax.random.key(2))[0].step)
      1
    """
    require_field(module), require_kind("config", config, Config)
    transform = adam(config.learning_rate, config.num_steps)

    def step(state: TrainState, batch: couplings.Batch, key: Key, *, axis_name: str | None = None):
        t, drawn = draws(key, state.step, batch.x1.shape[0], config.times, axis_name)
        if batch.label is not None:
            batch = batch._replace(label=_hidden(module, batch.label, drawn < config.label_dropout))
        return descend(transform, state, loss, module, batch, t, axis_name=axis_name, decay=config.average)

    return step


def _hidden(module: Any, label: Array, lost: Array) -> Array:
    """Return labels with those that stand for none where they are lost [n]."""
    none = as_label(module, None, len(lost))
    return jnp.where(lost if module.num_classes else lost[:, None], none, label)


def init(
    key: Key, config: Config, shape: Any, *, num_classes: int = 0, num_conditions: int = 0
) -> tuple[Any, TrainState]:
    """Return the velocity field and the state that training starts from.

    Args:
      key: random key of the parameters.
      config: the flow.
      shape: of one of the data, (d,) or (h, w, c).
      num_classes: classes that labels are numbers of, or 0.
      num_conditions: numbers in a label that is a vector, or 0.

    Example:
      >>> module, state = og.models.flow.init(jax.random.key(0), og.models.flow.Config(width=16), (2,))
      >>> print(module.shape, state.step)
      (2,) 0
    """
    as_key(key), require_kind("config", config, Config)
    shape, num_classes = as_counts("shape", shape), as_count("num_classes", num_classes, 0)
    module = _field(config, shape, num_classes, as_count("num_conditions", num_conditions, 0))
    params = jax.jit(module.init)(key, jnp.zeros(1), jnp.zeros((1, *shape)))["params"]
    return module, start(adam(config.learning_rate, config.num_steps), params, average=True)


def _field(config: Config, shape: tuple[int, ...], num_classes: int, num_conditions: int) -> Any:
    labels = {"num_classes": num_classes, "num_conditions": num_conditions, "precision": config.precision}
    if len(shape) == 1:
        return Velocity(shape[0], config.width or 256, config.depth or 3, **labels)
    if len(shape) != 3:
        raise ValueError(f"shape = {shape}: give (d,), that of one vector, or (h, w, c), that of one image.")
    if (width := config.width or 64) % GROUPS:
        raise ValueError(f"width = {width}: give a multiple of {GROUPS} for images, whose channels go in groups.")
    return UNet(shape, width, config.depth or 2, config.levels, config.attention, **labels)
