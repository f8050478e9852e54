"""A linear generator of data trained by the Bures-Wasserstein loss: x = mean + W_N ... W_1 z, z standard normal.

Implements the method of paper C (arXiv 2303.03027). With W = W_N ... W_1 the weights minimise

  L = B^2(W W' + tau I, Sigma) = 2-Wasserstein distance between Gaussians (kind "bures"),   or
  L = |W W' - Sigma|_F^2 (kind "frobenius"),

Sigma the covariance of the data. The minimum is known (Eckart and Young: the discarded eigenvalues), so that training
stops when it is there and says how far it came.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from otgen.models.apply import parts_of, require_params, usable
from otgen.nn.linear import STARTS, DeepLinear
from otgen.ot.check import (
    as_array,
    as_count,
    as_counts,
    as_key,
    as_points,
    native,
    require_kind,
    require_positive,
)
from otgen.ot.gaussian.frechet import moments
from otgen.progress import shown, watched
from otgen.theory import critical
from otgen.theory.dynamics import loss_from_factor
from otgen.train.loop import check_readers, train_on
from otgen.train.parallel import gathered, shared_rows
from otgen.train.settings import Checked, made
from otgen.train.stages import opened
from otgen.train.state import TrainState, start
from otgen.types import Array, Callback, Key, status_of

KINDS = ("bures", "frobenius")
LOOK = 10  # full-batch steps between looks at the loss
_SAVE = 20 * LOOK  # full-batch steps between saves


@dataclasses.dataclass(frozen=True)
class Config(Checked):
    """What makes a linear generator.

    Attributes:
      rank: dimension of the latents.
      depth: number N of layers.
      width: width of the hidden layers; None for `rank`.
      kind: which loss, "bures" or "frobenius".
      tau: perturbation of the Bures loss, in units of the covariance.
      start: how the weights are drawn, see `nn.linear.draw_weights`.
      tol: relative excess over the known minimum at which full-batch training stops.
      max_steps: limit of full-batch steps (L-BFGS).
      batch_size: None for the full batch; else rows per step of Adam, over all devices.
      epochs: passes over the data with batches.
      learning_rate: peak of Adam's cosine schedule with batches, for data scaled to a largest eigenvalue of 1.

    Example:
      >>> print(og.models.bures_linear.Config(rank=2, depth=3).kind)
      bures
    """

    rank: int = 50
    depth: int = 2
    width: int | None = None
    kind: str = "bures"
    tau: float = 0.0
    start: str = "orthogonal"
    tol: float = 1e-4
    max_steps: int = 1000
    batch_size: int | None = None
    epochs: int = 10
    learning_rate: float = 0.02

    def __post_init__(self) -> None:
        self.whole("rank", "depth", "max_steps", "epochs")
        self.whole_or_none("width")
        self.whole_or_none("batch_size", least=2)  # a covariance needs two rows
        if self.width is not None and self.width < self.rank:
            raise ValueError(f"width = {self.width}: hidden layers below rank = {self.rank} would be the bottleneck.")
        self.one_of("kind", KINDS)
        self.one_of("start", STARTS)
        self.not_negative("tau")
        self.positive("tol", "learning_rate")
        if self.tau and self.kind == "frobenius":
            raise ValueError(f"tau = {self.tau}: give zero with the Frobenius loss.")


class BuresLinear(nn.Module):
    """The whole system: weights in `params`, the mean of the data in the collection `transport`.

    Attributes:
      data_shape: shape of one data point.
      config: see Config.
      scale: what the weights start from is multiplied by; set by `init`.

    Example:
      >>> module = og.models.bures_linear.BuresLinear((4,), og.models.bures_linear.Config(rank=2))
      >>> print(module.data_shape)
      (4,)
    """

    data_shape: tuple[int, ...]
    config: Config
    scale: float = 1.0

    def setup(self) -> None:
        config, dim = self.config, math.prod(self.data_shape)
        width = config.rank if config.width is None else config.width
        widths = (config.rank, *(width,) * (config.depth - 1), dim)
        self.generator = DeepLinear(widths, config.start, self.scale, max(1, config.rank // 2))
        self.mean = self.variable("transport", "mean", jnp.zeros, (dim,))

    def __call__(self, z: Array) -> Array:
        """Data points [k, *data_shape] of latents z [k, rank]."""
        return (self.mean.value + self.generator(z)).reshape(-1, *self.data_shape)

    def matrix(self) -> Array:
        """Return the end-to-end matrix W [dim, rank]."""
        return self.generator.matrix()

    def sample(self, key: Key, num: int) -> Array:
        """Draw data points [num, *data_shape]."""
        return self(jax.random.normal(key, (num, self.config.rank)))


class Info(NamedTuple):
    """How training ended.

    Attributes:
      loss: the loss against the covariance of all data, in units of the covariance (squared for "frobenius").
      minimum: its known minimum at this rank.
      error: (loss - minimum) / minimum, or over the loss of the zero generator if the minimum is zero.
      num_steps: steps taken.
      status: see `otgen.types.Status`.

    Example:
      >>> model = og.models.bures_linear.fit(jax.random.key(1), np.random.default_rng(0).normal(size=(50, 3)), rank=2)
      >>> print(og.explain(model.info).split(":")[0])
      CONVERGED
    """

    loss: Array
    minimum: Array
    error: Array
    num_steps: int
    status: Array


@usable
class Model(NamedTuple):
    """A trained linear generator: the Flax module, its variables `params` and `transport`, and how training ended.

    Example:
      >>> model = og.models.bures_linear.fit(jax.random.key(1), np.random.default_rng(0).normal(size=(50, 3)), rank=2)
      >>> print(sorted(model.variables))
      ['params', 'transport']
    """

    module: BuresLinear
    variables: dict[str, Any]
    info: Info


def init(key: Key, config: Config, data_shape: tuple[int, ...], factor: Array) -> tuple[BuresLinear, Any]:
    """Return the module and the weights that training starts from.

    Weights are scaled so that the generator starts with the variance that the data have within its rank, if they were
    spread evenly.

    Args:
      key: PRNG key of the weights.
      config: the model.
      data_shape: shape of a data point.
      factor: F [dim, r] with F F' the covariance of the data.

    Returns:
      The module and its `params`.

    Raises:
      ValueError: for a rank above the dimension.

    Example:
      >>> factor, config = jnp.diag(jnp.array([3.0, 2.0, 1.0])), og.models.bures_linear.Config(rank=2)
      >>> module, params = og.models.bures_linear.init(jax.random.key(0), config, (3,), factor)
      >>> print(module.data_shape)
      (3,)
    """
    as_key(key), require_kind("config", config, Config)
    data_shape = as_counts("data_shape", data_shape)
    dim = math.prod(data_shape)
    factor = as_array("factor", factor, (dim, None))
    if config.rank > dim:
        raise ValueError(f"rank = {config.rank} of data in {dim} dimensions: give at most {dim}.")
    module = BuresLinear(data_shape, config)
    matrix = module.apply(module.init(key, jnp.zeros((1, config.rank))), method="matrix")
    variance = float(jnp.sum(factor**2) / jnp.maximum(jnp.sum(matrix**2), 1e-30))
    module = module.clone(scale=variance ** (0.5 / config.depth))
    return module, module.init(key, jnp.zeros((1, config.rank)))["params"]


def loss(params: Any, module: BuresLinear, factor: Array) -> tuple[Array, dict[str, Array]]:
    """Return the loss of the generator against the covariance F F', and metrics.

    The gradient of the Bures loss is 2 (W - F V U') with W' F = U S V' for W, by hand (`ot.bures`).

    Args:
      params: weights of the module.
      module: the model.
      factor: F [dim, r].

    Returns:
      The loss, and {"loss"}.

    Example:
      >>> factor, config = jnp.diag(jnp.array([3.0, 2.0, 1.0])), og.models.bures_linear.Config(rank=2)
      >>> module, params = og.models.bures_linear.init(jax.random.key(0), config, (3,), factor)
      >>> loss, _ = og.models.bures_linear.loss(params, module, factor)
      >>> print(bool(loss >= og.models.bures_linear.minimum(factor, config)))
      True
    """
    require_kind("module", module, BuresLinear)
    config = module.config
    value = loss_from_factor(params["generator"]["weights"], factor, tau=config.tau, kind=config.kind)
    return value, {"loss": value}


def minimum(factor: Array, config: Config) -> Array:
    """Return the least loss a generator of the configured rank can have.

    Example:
      >>> factor, config = jnp.diag(jnp.array([3.0, 2.0, 1.0])), og.models.bures_linear.Config(rank=2)
      >>> print(og.models.bures_linear.minimum(factor, config))  # the variance left out
      1.0

    Reference: paper C (arXiv 2303.03027), the theorem on critical points; Eckart and Young (1936).
    """
    require_kind("config", config, Config)
    factor = as_array("factor", factor, (None, None))
    spectrum = jnp.linalg.svd(factor, compute_uv=False) ** 2
    spectrum = jnp.pad(spectrum, (0, factor.shape[0] - spectrum.shape[0]))
    if config.kind == "bures":
        return jnp.asarray(critical.minimum(spectrum, config.rank, config.tau))
    return jnp.sum(spectrum[config.rank :] ** 2)


def optimiser(config: Config, num_steps: int, top: float) -> optax.GradientTransformation:
    """Adam with a cosine schedule, its rate in units of the N-th root of the largest standard deviation.

    Example:
      >>> adam = og.models.bures_linear.optimiser(og.models.bures_linear.Config(rank=2), 100, 3.0)
      >>> print(adam.init(jnp.zeros(2)) is not None)
      True
    """
    require_kind("config", config, Config), as_count("num_steps", num_steps), require_positive("top", top)
    rate = config.learning_rate * top ** (0.5 / config.depth)
    return optax.adam(optax.cosine_decay_schedule(rate, num_steps))


def make_step(module: BuresLinear, num_steps: int, top: float):
    """Return the stochastic step `(state, rows, key, *, axis_name) -> (state, metrics)`.

    Rows [b, dim] are centred data. The loss is that of their own covariance, whose expectation is not the loss of the
    covariance of all data: the smaller the batch, the more the generator's small eigenvalues are shrunk.

    Example:
      >>> config = og.models.bures_linear.Config(rank=2, batch_size=8)
      >>> module, params = og.models.bures_linear.init(jax.random.key(0), config, (3,), jnp.eye(3))
      >>> opt_state = og.models.bures_linear.optimiser(config, 10, 1.0).init(params)
      >>> state = og.train.TrainState(params, opt_state, jnp.int32(0))
      >>> rows = jax.random.normal(jax.random.key(1), (8, 3))
      >>> print(jax.jit(og.models.bures_linear.make_step(module, 10, 1.0))(state, rows, jax.random.key(2))[0].step)
      1
    """
    require_kind("module", module, BuresLinear)
    transform = optimiser(module.config, num_steps, top)

    def step(state: TrainState, rows: Array, key: Key, *, axis_name: str | None = None):
        del key  # nothing in this step is random
        rows = gathered(rows, axis_name)  # the covariance is that of the whole batch
        factor = rows.T / math.sqrt(rows.shape[0])
        gradient, metrics = jax.grad(loss, has_aux=True)(state.params, module, factor)
        updates, opt_state = transform.update(gradient, state.opt_state, state.params)
        return TrainState(optax.apply_updates(state.params, updates), opt_state, state.step + 1), metrics

    return step


@watched
def fit(
    key: Key,
    data: Any,
    *,
    callback: Callback | None = None,
    checkpoints: Any = None,
    **config: Any,
) -> Model:
    """Fit a linear generator to data in memory. It takes no labels: its law is one Gaussian.

    Args:
      key: PRNG key.
      data: points [n, ...], n >= 2; uint8 images are scaled to [0, 1].
      callback: called with steps and metrics.
      checkpoints: a folder, or `train.Checkpoints`, to save in and to go on from, bit-identically.
      **config: fields of Config.

    Returns:
      Model.

    Raises:
      ValueError: for fewer than 2 points, non-finite ones, a rank above their dimension, or fields out of range.
      TypeError: for a field that Config does not have.

    Example:
      >>> x = jax.random.normal(jax.random.key(0), (500, 3)) * jnp.array([3.0, 2.0, 0.5])
      >>> model = og.models.bures_linear.fit(jax.random.key(1), np.asarray(x), rank=2, depth=2)
      >>> print(jnp.abs(model.info.minimum - 0.25) < 0.05)  # two directions suffice but for 0.5^2
      True
      >>> print(model.info.loss / model.info.minimum < 1.01)
      True
    """
    check_readers(callback, checkpoints)
    settings = made(Config, config)
    data = np.asarray(native("data", data))
    if data.ndim < 2 or len(data) < 2:
        raise ValueError(f"data has shape {data.shape}: give at least 2 points, shape [n, ...].")
    rows = data.reshape(len(data), -1)
    rows = np.asarray(as_points("data", rows.astype(np.float32) / 255 if data.dtype == np.uint8 else rows))
    init_key, train_key = jax.random.split(as_key(key))
    known = moments(rows)
    factor = known.factor.T / jnp.sqrt(known.count - 1)
    module, params = init(init_key, settings, data.shape[1:], factor)
    with opened(checkpoints, "weights", settings, key=key, data=data) as saved:
        if settings.batch_size is None:
            params, num_steps = _descend(params, module, factor, callback, saved)
        else:
            params, num_steps = _by_batches(train_key, params, module, factor, rows - known.mean, callback, saved)
    least, value = minimum(factor, settings), _value(params, module, factor)
    error = _error(value, least, factor)
    info = Info(value, least, error, num_steps, status_of(error, settings.tol))
    return Model(module, {"params": params, "transport": {"mean": known.mean}}, info)


def _error(value: Array, least: Array, factor: Array) -> Array:
    trace = jnp.sum(factor**2)
    scale = jnp.where(least > 1e-6 * trace, least, trace)
    return (value - least) / jnp.where(scale > 0, scale, 1.0)


def _by_batches(key, params, module, factor, rows, callback, checkpoints) -> tuple[Any, int]:
    config = module.config
    size = shared_rows(config.batch_size, len(rows))
    num_steps = config.epochs * (len(rows) // size)
    top = float(jnp.linalg.norm(factor, 2) ** 2)
    state = start(optimiser(config, num_steps, top), params)
    state = train_on(
        (np.asarray(rows),),
        make_step(module, num_steps, top),
        state,
        tuple(jax.random.split(key)),
        num_steps=num_steps,
        batch_size=size,
        callback=callback,
        checkpoints=checkpoints,
    )
    return state.params, num_steps


@functools.partial(jax.jit, static_argnames="module")
def _value(params: Any, module: BuresLinear, factor: Array) -> Array:
    return loss(params, module, factor)[0]


@functools.partial(jax.jit, static_argnames="module")
def _steps(params: Any, state: Any, module: BuresLinear, factor: Array) -> tuple[Any, Any, Array]:
    """LOOK steps of L-BFGS on the full batch, and the loss after them."""
    transform = optax.lbfgs()

    def value(params: Any) -> Array:
        return loss(params, module, factor)[0]

    def one(carry: tuple, _: None) -> tuple[tuple, None]:
        params, state = carry
        now, gradient = optax.value_and_grad_from_state(value)(params, state=state)
        updates, state = transform.update(gradient, state, params, value=now, grad=gradient, value_fn=value)
        return (optax.apply_updates(params, updates), state), None

    (params, state), _ = jax.lax.scan(one, (params, state), length=LOOK)
    return params, state, value(params)


@watched
def descend(params: Any, module: BuresLinear, factor: Array, *, callback: Callback | None = None) -> tuple[Any, int]:
    """Minimise the loss of the full batch by L-BFGS, until it is `tol` above the known minimum or no longer falls.

    Args:
      params: weights to start from.
      module: the model.
      factor: F [dim, r] with F F' the covariance of the data.
      callback: called every 10 steps with the loss and its relative excess over the minimum.

    Returns:
      The weights, and the number of steps.

    Example:
      >>> factor, config = jnp.diag(jnp.array([3.0, 2.0, 1.0])), og.models.bures_linear.Config(rank=2)
      >>> module, params = og.models.bures_linear.init(jax.random.key(0), config, (3,), factor)
      >>> params, num_steps = og.models.bures_linear.descend(params, module, factor)
      >>> print(jnp.abs(og.models.bures_linear.loss(params, module, factor)[0] - 1.0) < 1e-2)
      True
    """
    require_kind("module", module, BuresLinear), check_readers(callback)
    factor = as_array("factor", factor, (None, None))
    require_params(params, module, jnp.zeros((1, module.config.rank)))
    return _descend(params, module, factor, callback)


class _Descent(NamedTuple):
    """Weights, L-BFGS, least loss so far, looks since it fell, steps taken, and whether the weights are the last."""

    params: Any
    state: Any
    best: Array
    still: Array
    step: Array
    done: Array


def _descend(params: Any, module: BuresLinear, factor: Array, callback: Any, saved: Any = None) -> tuple[Any, int]:
    config, least = module.config, minimum(factor, module.config)
    zero, far = jnp.int32(0), jnp.asarray(jnp.inf, factor.dtype)
    now = jax.tree.map(jnp.asarray, _Descent(params, optax.lbfgs().init(params), far, zero, zero, jnp.array(False)))
    now = now if saved is None else saved.restore(now) or now
    with shown(None, "weights", callback) as callback:
        while not now.done:
            new, state, value = _steps(now.params, now.state, module, factor)
            step = int(now.step) + LOOK
            if not jnp.isfinite(value):
                return now.params, step
            still = jnp.where(value < now.best * (1 - 1e-6), 0, now.still + 1)
            error = float(_error(value, least, factor))
            done = error < config.tol or int(still) == 5 or step >= config.max_steps  # rounding ends the descent
            now = _Descent(new, state, jnp.minimum(value, now.best), still, jnp.int32(step), jnp.array(done))
            if saved is not None and (done or step % _SAVE == 0):
                saved.save(step, now)
            if callback:
                callback(step, {"loss": float(value), "excess": error})
    return now.params, int(now.step)


@functools.partial(jax.jit, static_argnames=("module", "num"))
def _sample(module: BuresLinear, variables: Any, key: Key, num: int) -> Array:
    return module.apply(variables, key, num, method="sample")


def sample(key: Key, model: Model, num: int) -> Array:
    """Draw data points [num, *data_shape] from a trained generator: Gaussian, so that images may leave [0, 1].

    Raises:
      ValueError: for what is no key, if num is no whole number of at least 1.

    Example:
      >>> x = jax.random.normal(jax.random.key(0), (500, 3)) * jnp.array([3.0, 2.0, 0.5])
      >>> model = og.models.bures_linear.fit(jax.random.key(1), np.asarray(x), rank=2)
      >>> new = og.models.bures_linear.sample(jax.random.key(2), model, 2000)
      >>> print(new.shape, jnp.linalg.matrix_rank(jnp.cov(new.T), rtol=1e-4))
      (2000, 3) 2
    """
    as_key(key), as_count("num", num)
    return _sample(*parts_of(model, BuresLinear), key, num)
