"""The flow's configuration, its loss on pairs of a coupling, and how it is fitted."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from otgen.models.classes import check_labels, collection_of
from otgen.nn.autoencoder import PRECISIONS
from otgen.nn.velocity import Velocity, as_label
from otgen.ot import coupling as couplings
from otgen.ot import latent
from otgen.ot.check import (
    as_array,
    as_count,
    as_counts,
    as_key,
    native,
    require_channels_last,
    require_choice,
    require_kind,
)
from otgen.train.descent import descend
from otgen.train.loop import check_readers, train
from otgen.train.parallel import shared_rows
from otgen.train.settings import Checked, adam, made
from otgen.train.stages import opened
from otgen.train.state import TrainState, start
from otgen.types import Array, Callback, Key, Sampler

COUPLINGS = ("semidiscrete", "independent", "minibatch", "sinkhorn")
METHODS = {"euler": 1, "midpoint": 2, "heun": 2, "adaptive": 0}  # evaluations of the velocity in a step
TIMES = ("uniform", "logit-normal")
FIELDS = (Velocity,)
_POOL = 2**16  # pairs made at a time, where the run takes so many


@dataclasses.dataclass(frozen=True)
class Config(Checked):
    """What makes a flow.

    Attributes:
      width: units of the layers; None for 256.
      depth: residual blocks; None for 3.
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
      sample_steps: steps from noise to data unless asked otherwise; None for 4, or 32 where pairs are independent.

    Example:
      >>> print(og.models.flow.Config(num_steps=2000).method)
      euler
    """

    width: int | None = None
    depth: int | None = None
    precision: str = "float32"
    num_steps: int = 5000
    batch_size: int = 512
    learning_rate: float = 1e-3
    average: float = 0.999
    times: str = "uniform"
    label_dropout: float = 0.1
    repeats: int = 8
    tol: float = 0.05
    max_samples: int | None = None
    epsilon: float = 0.02
    method: str = "euler"
    sample_steps: int | None = None

    def __post_init__(self) -> None:
        self.whole("num_steps", "batch_size", "repeats")
        self.whole_or_none("width", "depth", "max_samples", "sample_steps")
        self.positive("learning_rate", "tol", "epsilon")
        self.below_one("average", "label_dropout")
        self.one_of("precision", PRECISIONS)
        self.one_of("times", TIMES)
        self.one_of("method", tuple(METHODS))


class Flow(NamedTuple):
    """A trained flow.

    Attributes:
      module: the velocity field.
      variables: its `params`, and `classes` where it was fitted with labels.
      config: see Config.
      source: law of the noise.
      info: how the semi-discrete coupling was solved, if it was solved by `fit`.

    Example:
      >>> data = jax.random.normal(jax.random.key(0), (200, 2))
      >>> model = og.models.flow.fit(jax.random.key(1), data, coupling="independent", width=16, num_steps=10)
      >>> print(model.module.shape, model.config.num_steps, model.config.sample_steps)
      (2,) 10 32
    """

    module: Any
    variables: dict[str, Any]
    config: Config
    source: Sampler = latent.Normal()
    info: Any = None


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
    require_kind("module", module, FIELDS), require_kind("batch", batch, couplings.Batch)
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
    require_kind("module", module, FIELDS), require_kind("config", config, Config)
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
      shape: of one of the data, (d,).
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
    raise ValueError(f"shape = {shape}: give (d,), that of one vector.")


def fit(
    key: Key,
    data: Any,
    labels: Any = None,
    *,
    coupling: Any = "semidiscrete",
    callback: Callback | None = None,
    checkpoints: Any = None,
    **config: Any,
) -> Flow:
    """Fit a flow from noise to data.

    Args:
      key: random key.
      data: [N, d], best of the scale of the noise, N(0, I): they are used as they are.
      labels: integers [N], or numbers [N, c], that the velocity is told; None for none.
      coupling: "semidiscrete" (solved here, a map for every class), "independent", "minibatch" or "sinkhorn"; or an
        object with a method `pair(key, num) -> og.coupling.Batch`, such as those of `og.coupling`, made of these data.
      callback: called with steps and metrics of all stages.
      checkpoints: a folder in which the solve of the coupling ("transport") and the training ("flow") save, and from
        which they go on, bit-identically.
      **config: fields of Config.

    Returns:
      Flow.

    Raises:
      ValueError: for data or labels of another shape or not finite, an unknown coupling, or one that pairs data of
        another shape, fields out of range, a folder of another configuration.
      TypeError: for a field that Config does not have.

    Example:
      >>> data = jnp.array([1.5, 0.0]) + 0.5 * jax.random.normal(jax.random.key(0), (500, 2))
      >>> tiny = {"width": 32, "num_steps": 300, "batch_size": 64, "average": 0.9, "tol": 0.2}
      >>> model = og.models.flow.fit(jax.random.key(1), data, **tiny)
      >>> new = og.models.flow.sample(jax.random.key(2), model, 1000, num_steps=1)
      >>> print(bool(jnp.abs(new.mean(0) - data.mean(0)).max() < 0.2))
      True
    """
    named = isinstance(coupling, str)
    if named or not hasattr(coupling, "pair"):
        require_choice("coupling", coupling, COUPLINGS)
    check_readers(callback, checkpoints, stages=2 if named and coupling == "semidiscrete" else 1)
    settings, data = made(Config, config), as_data(data)
    known, numbers, sizes = _labelling(labels, len(data))
    shared_rows(settings.batch_size, settings.batch_size)
    solve_key, init_key, pair_key, step_key = jax.random.split(as_key(key), 4)
    told, info = coupling, None
    if named:
        more = {"callback": callback, "checkpoints": checkpoints}
        coupling, info = paired(coupling, solve_key, data, numbers, settings, **more)
    source = _matched(coupling, data, numbers)
    if settings.sample_steps is None:
        independent = isinstance(coupling, couplings.Independent)
        settings = dataclasses.replace(settings, sample_steps=32 if independent else 4)
    module, state = init(init_key, settings, data.shape[1:], **sizes)
    about = {"key": key, "data": np.asarray(data), "labels": None if labels is None else np.asarray(labels)}
    with opened(checkpoints, "flow", settings, coupling=told, **about) as saved:
        if saved is not None and (restored := saved.restore(state)) is not None:
            state = restored
        feed = _feed(coupling, pair_key, settings, int(state.step), numbers)
        state = train(make_step(module, settings), state, feed, step_key, callback=callback, checkpoints=saved)
    return Flow(module, {"params": state.average, **known}, settings, source, info)


def paired(
    name: str,
    key: Key,
    data: Array,
    numbers: Array | None,
    config: Config,
    *,
    callback: Callback | None = None,
    checkpoints: Any = None,
) -> tuple[Any, Any]:
    """Return the coupling of a name for data and their labels, and how it was solved if it had to be."""
    if name == "semidiscrete":
        solved = {"tol": config.tol, "max_samples": config.max_samples}
        return couplings.semidiscrete(key, data, numbers, callback=callback, **solved)
    if name == "sinkhorn":
        return couplings.Sinkhorn(data, numbers, epsilon=config.epsilon), None
    kind = couplings.Minibatch if name == "minibatch" else couplings.Independent
    return kind(data, numbers), None


def as_data(data: Any) -> Array:
    """Return data [N, d] to learn from, as float32 at least; raise ValueError otherwise."""
    data = native("data", data)
    require_channels_last("data", data.shape)
    if data.ndim != 2 or len(data) < 2 or 0 in data.shape:
        raise ValueError(f"data have shape {data.shape}: give at least 2 rows, [N, d].")
    return as_array("data", data)


def _labelling(labels: Any, num: int) -> tuple[dict[str, Any], Array | None, dict[str, int]]:
    """Return the collection of the classes, labels as the network reads them, and the sizes that tell it of them."""
    if labels is None:
        return {}, None, {}
    labels = native("labels", labels)
    if labels.ndim == 2 and jnp.issubdtype(labels.dtype, jnp.floating):
        return {}, as_array("labels", labels, (num, None)), {"num_conditions": labels.shape[1]}
    known, numbers = np.unique(np.asarray(check_labels(labels, num)), return_inverse=True)
    return collection_of(labels), jnp.asarray(numbers, jnp.int32), {"num_classes": len(known)}


def _matched(coupling: Any, data: Array, numbers: Array | None) -> Sampler:
    """Return the law of a coupling's noise; refuse one that pairs other things than these data, warn of their scale."""
    found = jax.eval_shape(lambda key: coupling.pair(key, 2), jax.random.key(0))
    require_kind("what coupling.pair returns", found, couplings.Batch)
    for name in ("x0", "x1"):
        if getattr(found, name).shape != (2, *data.shape[1:]):
            raise ValueError(
                f"coupling pairs {name} of shape {getattr(found, name).shape[1:]}, but data have {data.shape[1:]}: "
                "make it of these data."
            )
    if found.label is not None and numbers is None:
        raise ValueError("coupling has labels, but the fit has none: give both the same labels.")
    source = getattr(coupling, "sampler", latent.Normal())
    noise = source(jax.random.key(0), 1000, data[0].size)
    _warn_of_scales(np.asarray(noise), np.asarray(data).reshape(len(data), -1))
    return source


def _warn_of_scales(noise: np.ndarray, data: np.ndarray) -> None:
    spread = [float(np.sqrt(x.var(0).mean())) for x in (noise, data)]
    apart = float(np.sqrt(np.mean((data.mean(0) - noise.mean(0)) ** 2)))
    if not (spread[0] / 3 < spread[1] < 3 * spread[0] and apart < 3 * spread[0]):
        warnings.warn(
            f"the data have a standard deviation of {spread[1]:.3g} about a mean {apart:.3g} away from that of the "
            f"noise, whose standard deviation is {spread[0]:.3g}: they are used as they are, but a flow learns best "
            "where both are alike. Standardise the data, (data - mean) / sd, and undo it on samples.",
            stacklevel=4,
        )


def _feed(coupling: Any, key: Key, config: Config, first: int, numbers: Array | None) -> Iterator[couplings.Batch]:
    """Yield this host's rows of the batches that follow a step, with the labels that the network reads."""
    most = -(-config.num_steps // config.repeats) * config.batch_size  # pairs that the whole run takes
    options = {"start": first, "num": config.num_steps - first, "repeats": config.repeats}
    if most < _POOL:
        options["pool"] = most
    numbers = None if numbers is None else np.asarray(numbers)
    share = config.batch_size // jax.process_count()
    mine = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
    for batch in couplings.batches(coupling, key, config.batch_size, **options):
        if numbers is not None and batch.label is None:
            batch = batch._replace(label=numbers[np.asarray(batch.index)])
        yield batch if share == config.batch_size else jax.tree.map(lambda leaf: leaf[mine], batch)
