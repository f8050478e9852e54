"""A discriminator regressed on exact potentials of minibatch problems, as in WGAN-TS and WGAN-QC.

Every batch of noise x_i and codes y_j is matched exactly, s, with potentials f_i + g_j <= |x_i - y_j|^2 shifted until
the g_j and -f_i average to zero; then a few steps minimise

    mean_j (D(y_j) - g_j)^2 + mean_i (D(x_i) + f_i)^2 + penalty mean_i |grad D(x_i) / 2 - (y_s(i) - x_i)|^2.

The map is T(x) = x + grad D(x) / 2. Averaging potentials of random batches biases it by O(n^(-2/d)). All of it in
standard units (`training.Units`).

Reference: Liu, Gu and Samaras (2018), A two-step computation of the exact GAN Wasserstein distance (ICML);
Liu, Gu and Samaras (2019), Wasserstein GAN with quadratic transport cost (ICCV).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from otgen.maps.training import MapSettings, noise, optimiser
from otgen.nn.potentials import Potential
from otgen.ot import exact
from otgen.ot.costs import PairwiseCost
from otgen.train.descent import descend
from otgen.train.parallel import gathered
from otgen.train.state import TrainState
from otgen.types import Array, Key, Sampler


@dataclasses.dataclass(frozen=True)
class Config(MapSettings):
    """Training of the discriminator.

    Attributes:
      batch_size: size of the assignment problems.
      regressions: steps of the regression for each problem.
      penalty: weight of the gradient term.
    """

    batch_size: int = 256
    num_steps: int = 1500
    learning_rate: float = 1e-3
    regressions: int = 5
    penalty: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        self.whole("regressions")
        self.not_negative("penalty")


def init(
    key: Key, config: Config, sampler: Sampler, codes: Array, target: Sampler | None = None
) -> tuple[Potential, Any, tuple[()]]:
    """Return the network, its parameters and an empty table, for a source and codes [N, d] in standard units."""
    del sampler, target
    module = Potential(config.hidden)
    return module, module.init(key, codes[:1])["params"], ()


def potential(params: Any, module: Potential, table: tuple[()], y: Array) -> Array:
    """D(y) [n] of points y [n, d]."""
    del table
    return module.apply({"params": params}, y)


def heights(params: Any, module: Potential, table: tuple[()], y: Array) -> Array:
    """Return heights h [n] of points y [n, d], of the scores <y, x> + h that the argmax form maximises."""
    return 0.5 * (potential(params, module, table, y) - jnp.sum(y**2, axis=1))


def gradient(params: Any, module: Potential, table: tuple[()], x: Array) -> Array:
    """T(x) = x + grad D(x) / 2, [n, d]."""
    return x + 0.5 * jax.grad(lambda x: potential(params, module, table, x).sum())(x)


def loss(
    params: Any, module: Potential, config: Config, x: Array, y: Array, f: Array, g: Array, partners: Array
) -> tuple[Array, dict]:
    """Return the regression's objective for noise x sent to `partners`, codes y, and their potentials f, g."""
    misfit = jnp.mean((potential(params, module, (), y) - g) ** 2)
    misfit += jnp.mean((potential(params, module, (), x) + f) ** 2)
    slope = jnp.mean(jnp.sum((gradient(params, module, (), x) - partners) ** 2, axis=1))
    value = misfit + config.penalty * slope
    return value, {"loss": value, "misfit": misfit, "slope": slope}


def make_update(module: Potential, config: Config, sampler: Sampler):
    """Return `update(network, table, codes, key, axis_name) -> (network, table, metrics)`."""
    transform = optimiser(dataclasses.replace(config, num_steps=config.num_steps * config.regressions))

    def update(network: TrainState, table: tuple[()], y: Array, key: Key, axis_name: str | None):
        x = noise(sampler, key, network.step // config.regressions, *y.shape, axis_name)
        problem = _solve(x, y, axis_name)

        def regress(network: TrainState, _: None) -> tuple[TrainState, dict]:
            return descend(transform, network, loss, module, config, x, y, *problem, axis_name=axis_name)

        network, metrics = jax.lax.scan(regress, network, None, length=config.regressions)
        return network, table, jax.tree.map(lambda leaf: leaf[-1], metrics)

    return update


def _solve(x: Array, y: Array, axis_name: str | None) -> tuple[Array, Array, Array]:
    """Return potentials f, g [b] and partners [b, d] of this device's rows, in the problem of all devices' rows."""
    size, first = x.shape[0], 0 if axis_name is None else jax.lax.axis_index(axis_name) * x.shape[0]
    x, y = gathered((x, y), axis_name)
    cost = PairwiseCost(x, y)
    index, _ = exact.assignment(cost)
    f, g = exact.potentials(cost, index)
    shift = 0.5 * (g.mean() - f.mean())
    found = f + shift, g - shift, y[index]
    return tuple(jax.lax.dynamic_slice_in_dim(part, first, size) for part in found)
