"""Flow matching on codes, with noise and codes paired at random or by minibatch transport: a baseline.

Minimises E |v(t, (1 - t) x0 + t x1) - (x1 - x0)|^2 over the velocity field v, x0 from N(0, I), x1 a code, t uniform.
The pair (x0, x1) is independent, or drawn from the entropic plan between a minibatch of noise and one of codes, every
point exactly once. Samples follow dx/dt = v(t, x) from noise at t = 0.

Reference: Lipman, Chen, Ben-Hamu, Nickel and Le (2023), arXiv 2210.02747; Tong et al. (2024), arXiv 2302.00482.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from otgen.nn.velocity import Velocity
from otgen.ot import sinkhorn
from otgen.ot.check import as_array, as_count, as_key, as_points, require_kind
from otgen.ot.costs import PairwiseCost
from otgen.train.descent import descend
from otgen.train.loop import check_readers, train_on
from otgen.train.parallel import gathered, sample_keys, shared_rows
from otgen.train.settings import Checked, adam, made
from otgen.train.stages import opened
from otgen.train.state import TrainState, start
from otgen.types import Array, Callback, Key

PAIRINGS = ("independent", "transport")


@dataclasses.dataclass(frozen=True)
class Config(Checked):
    """What makes a flow.

    Attributes:
      pairing: "independent", or "transport": minibatches coupled by the entropic plan.
      epsilon: regularisation of that plan, as a share of the mean cost.
      width, depth: of the velocity field.
      num_steps: training steps.
      batch_size: pairs a step, over all devices.
      learning_rate: peak of the warm-up and cosine schedule of Adam.
      average: decay of the moving average of the weights that samples are drawn with.
      solver_steps: midpoint steps from noise to code.

    Example:
      >>> print(og.models.latent_flow.Config(pairing="transport").epsilon)  # a share of the mean cost
      0.02
    """

    pairing: str = "independent"
    epsilon: float = 0.02
    width: int = 256
    depth: int = 3
    num_steps: int = 5000
    batch_size: int = 512
    learning_rate: float = 1e-3
    average: float = 0.999
    solver_steps: int = 30

    def __post_init__(self) -> None:
        self.one_of("pairing", PAIRINGS)
        self.whole("width", "depth", "num_steps", "batch_size", "solver_steps")
        self.positive("epsilon", "learning_rate")
        self.below_one("average")


class Flow(NamedTuple):
    """A trained flow.

    Attributes:
      module: the velocity field.
      params: its parameters.
      config: see Config.

    Example:
      >>> codes = 0.1 * jax.random.normal(jax.random.key(0), (200, 2))
      >>> flow = og.models.latent_flow.fit(jax.random.key(1), codes, width=16, num_steps=10, batch_size=32)
      >>> print(flow.config.num_steps)
      10
    """

    module: Velocity
    params: Any
    config: Config


def loss(params: Any, module: Velocity, noise: Array, codes: Array, t: Array) -> tuple[Array, dict[str, Array]]:
    """Return the mean over pairs (noise, code) [n, d] at times [n] of the squared error of the velocity.

    Example:
      >>> module, state = og.models.latent_flow.init(jax.random.key(0), og.models.latent_flow.Config(width=16), 2)
      >>> noise, codes, t = jnp.zeros((4, 2)), jnp.ones((4, 2)), jnp.linspace(0, 1, 4)
      >>> print(og.models.latent_flow.loss(state.params, module, noise, codes, t)[0].shape)
      ()
    """
    require_kind("module", module, Velocity)
    noise = as_array("noise", noise, (None, module.dim), finite=False)
    codes = as_array("codes", codes, noise.shape, finite=False)
    t = as_array("t", t, noise.shape[:1], finite=False)
    at = (1 - t[:, None]) * noise + t[:, None] * codes
    error = module.apply({"params": params}, t, at) - (codes - noise)
    value = jnp.mean(jnp.sum(error**2, axis=1))
    return value, {"loss": value}


def _paired(key: Key, noise: Array, codes: Array, epsilon: float, axis_name: str | None) -> Array:
    """Return codes [n, d] in the order of their noise [n, d], by the plan between the whole batches."""
    size = noise.shape[0]
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * size
    noise, codes = gathered((noise, codes), axis_name)
    cost = PairwiseCost(noise, codes)
    epsilon = epsilon * cost.mean()
    state, _ = sinkhorn.run(cost, epsilon=epsilon, tol=0.01)
    i, j = sinkhorn.sample_plan(key, cost, state, epsilon=epsilon)
    order = jnp.zeros(i.shape, j.dtype).at[i].set(j)
    return jax.lax.dynamic_slice_in_dim(codes[order], first, size)


def make_step(module: Velocity, config: Config):
    """Return the pure training step `(state, codes, key, *, axis_name) -> (state, metrics)`.

    Example:
      >>> config = og.models.latent_flow.Config(width=16, batch_size=8)
      >>> module, state = og.models.latent_flow.init(jax.random.key(0), config, 2)
      >>> step = jax.jit(og.models.latent_flow.make_step(module, config))
      >>> print(step(state, jnp.ones((8, 2)), jax.random.key(1))[0].step)
      1
    """
    require_kind("module", module, Velocity), require_kind("config", config, Config)
    transform = adam(config.learning_rate, config.num_steps)

    def step(state: TrainState, codes: Array, key: Key, *, axis_name: str | None = None):
        draw_key, pair_key = jax.random.split(key)
        keys = sample_keys(draw_key, state.step, codes.shape[0], axis_name)
        noise = jax.vmap(lambda k: jax.random.normal(k, codes.shape[1:]))(keys)
        t = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, 1)))(keys)
        if config.pairing == "transport":
            pair_key = jax.random.fold_in(pair_key, state.step)
            codes = _paired(pair_key, noise, codes, config.epsilon, axis_name)
        options = {"axis_name": axis_name, "decay": config.average}
        return descend(transform, state, loss, module, noise, codes, t, **options)

    return step


def init(key: Key, config: Config, dim: int) -> tuple[Velocity, TrainState]:
    """Return the velocity field in `dim` dimensions and the state that training starts from.

    Example:
      >>> module, state = og.models.latent_flow.init(jax.random.key(0), og.models.latent_flow.Config(width=16), 2)
      >>> print(state.step)
      0
    """
    as_key(key), require_kind("config", config, Config)
    module = Velocity(as_count("dim", dim), config.width, config.depth)
    params = module.init(key, jnp.zeros(1), jnp.zeros((1, dim)))["params"]
    return module, start(adam(config.learning_rate, config.num_steps), params, average=True)


def fit(key: Key, codes: Any, *, callback: Callback | None = None, checkpoints: Any = None, **config: Any) -> Flow:
    """Fit a flow from N(0, I) to codes. It takes no labels: fit one to the codes of every class for that.

    Args:
      key: random key.
      codes: [N, d], best standardised.
      callback: called with steps and metrics.
      checkpoints: a folder, or `train.Checkpoints`, to save in and to go on from, bit-identically.
      **config: fields of Config.

    Returns:
      Flow.

    Raises:
      ValueError: for codes of another shape or not finite, or fields out of range.

    Example:
      >>> codes = 3.0 + 0.1 * jax.random.normal(jax.random.key(0), (200, 2))
      >>> options = {"width": 32, "num_steps": 300, "batch_size": 64, "average": 0.9}
      >>> flow = og.models.latent_flow.fit(jax.random.key(1), codes, **options)
      >>> print(jnp.abs(og.models.latent_flow.sample(jax.random.key(2), flow, 100).mean() - 3) < 0.3)
      True
    """
    check_readers(callback, checkpoints)
    settings = made(Config, config)
    codes = as_points("codes", codes)
    init_key, order_key, step_key = jax.random.split(as_key(key), 3)
    module, state = init(init_key, settings, codes.shape[1])
    with opened(checkpoints, "flow", settings, key=key, codes=codes) as saved:
        state = train_on(
            (np.asarray(codes),),
            make_step(module, settings),
            state,
            (order_key, step_key),
            num_steps=settings.num_steps,
            batch_size=shared_rows(settings.batch_size, len(codes)),
            callback=callback,
            checkpoints=saved,
        )
    return Flow(module, state.average, settings)


@functools.partial(jax.jit, static_argnames=("module", "steps"))
def _follow(module: Velocity, params: Any, x: Array, steps: int) -> Array:
    def velocity(t: Array, x: Array) -> Array:
        return module.apply({"params": params}, jnp.full(x.shape[0], t), x)

    def one(x: Array, i: Array) -> tuple[Array, None]:
        t = i / steps
        half = x + 0.5 / steps * velocity(t, x)
        return x + velocity(t + 0.5 / steps, half) / steps, None

    return jax.lax.scan(one, x, jnp.arange(steps))[0]


def sample(key: Key, flow: Flow, num: int) -> Array:
    """Draw codes [num, d] from a trained flow: noise moved by midpoint steps.

    Raises:
      ValueError: for what is no key, if num is no whole number of at least 1.

    Example:
      >>> codes = 0.1 * jax.random.normal(jax.random.key(0), (200, 2))
      >>> flow = og.models.latent_flow.fit(jax.random.key(1), codes, width=16, num_steps=10, batch_size=32)
      >>> print(og.models.latent_flow.sample(jax.random.key(2), flow, 5).shape)
      (5, 2)
    """
    as_key(key), as_count("num", num), require_kind("flow", flow, Flow)
    noise = jax.random.normal(key, (num, flow.module.dim))
    return _follow(flow.module, flow.params, noise, flow.config.solver_steps)
