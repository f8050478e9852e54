"""A convex potential trained by minimisation alone: the dual of transport with exact, remembered conjugates.

Minimises, over input-convex networks psi,

    J(psi) = E_x psi(x) + mean_j psi*(y_j),    psi*(y) = max_x <x, y> - psi(x),
    inf J = (E|x|^2 + mean_j |y_j|^2 - W2^2) / 2,

and grad psi is the map. J is convex in the values of psi, and its gradient needs the maximisers x*(y_j) alone. Every
code keeps its own from one visit to the next: psi starts as |x|^2 / 2, whose conjugate is known, and changes little
between two visits, so that a few quasi-Newton steps follow it (`ot.conjugate`).

With `cycle` > 0 a second convex network phi guesses the maximisers instead, x*(y) = grad phi(y), held to it by the
cycle term: the method of Korotin et al. minimises

    E_x psi(x) - mean_j psi(x*(y_j)) + cycle mean_j |grad psi(grad phi(y_j)) - y_j|^2,

the maximisers held fixed in the second term. It needs no inner steps, and its maximisers are only as good as phi.

Reference: Taghvaei and Jalali (2019), arXiv 1902.07197, for the dual; Amos (2023), arXiv 2210.12153, for refined
conjugates; Korotin et al. (2021), arXiv 1909.13082, for the cycle term.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from otgen.models.map_training import MapSettings, noise, optimiser
from otgen.models.settings import Settings
from otgen.nn.potentials import Convex
from otgen.ot import conjugate
from otgen.train.state import TrainState
from otgen.types import Array, Key, Sampler


@dataclasses.dataclass(frozen=True)
class Config(MapSettings):
    """Training of the convex potential.

    Attributes:
      rank: squares in every unit of the network.
      refinements: quasi-Newton steps on the conjugate of every code of an update.
      cycle: weight of the cycle term; 0 for exact conjugates.
    """

    hidden: Sequence[int] = (64, 64, 32)
    num_steps: int = 10_000
    batch_size: int = 1024
    learning_rate: float = 2e-2
    rank: int = 1
    refinements: int = 4
    cycle: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        Settings.whole("rank", self.rank)
        Settings.whole("refinements", self.refinements)
        if not self.cycle >= 0:
            raise ValueError(f"cycle = {self.cycle}: give 0 (exact conjugates) or more.")


class Table(NamedTuple):
    """What is remembered of every code.

    Attributes:
      points: the maximiser x*(y_j) found last [N, d].
      lengths: gradient step that suits the curvature there [N].
    """

    points: Array
    lengths: Array


def init(key: Key, config: Config, sampler: Sampler, codes: Array) -> tuple[Convex, Any, Table]:
    """Return the network, its parameters (of two networks if there is a cycle) and the table."""
    del sampler
    module = Convex(config.hidden, config.rank)
    keys = jax.random.split(key)
    example = jnp.zeros((1, codes.shape[1]))
    params = {"forward": module.init(keys[0], example)["params"]}
    if config.cycle > 0:
        params["backward"] = module.init(keys[1], example)["params"]
    return module, params, Table(codes, jnp.ones(len(codes)))


def potential(module: Convex, params: Any, name: str = "forward") -> Callable[[Array], Array]:
    """The convex function [n, d] -> [n] of one of the networks."""
    return lambda x: module.apply({"params": params[name]}, x)


def gradient(module: Convex, params: Any, x: Array, name: str = "forward") -> Array:
    """The map [n, d] of points x [n, d]."""
    return jax.grad(lambda x: potential(module, params, name)(x).sum())(x)


def make_update(module: Convex, config: Config, sampler: Sampler):
    """Return `update(network, table, codes, index, key, axis_name) -> (network, table, metrics)`."""
    transform = optimiser(config)
    method = _loss_of_cycle if config.cycle > 0 else _loss

    def update(network: TrainState, table: Table, y: Array, index: Array, key: Key, axis_name: str | None):
        x = noise(sampler, key, network.step, *y.shape, axis_name)
        before = Table(table.points[index], table.lengths[index])
        slope, (found, metrics) = jax.grad(method, has_aux=True)(network.params, module, config, x, y, before)
        if axis_name is not None:
            slope, metrics = jax.lax.pmean((slope, metrics), axis_name)
            index, found = jax.lax.all_gather((index, found), axis_name, tiled=True)
        table = jax.tree.map(lambda all_, some: all_.at[index].set(some), table, found)
        updates, opt_state = transform.update(slope, network.opt_state, network.params)
        params = optax.apply_updates(network.params, updates)
        return TrainState(params, opt_state, network.step + 1), table, metrics

    return update


def _loss(params: Any, module: Convex, config: Config, x: Array, y: Array, before: Table) -> tuple[Array, Any]:
    frozen = jax.lax.stop_gradient(params)
    found = conjugate.solve(
        potential(module, frozen), y, before.points, step=before.lengths, num_steps=config.refinements
    )
    psi = potential(module, params)
    forward = jnp.mean(psi(x))
    value = forward - jnp.mean(psi(found.points))  # its gradient is that of J, by the envelope theorem
    metrics = {"objective": forward + jnp.mean(found.values), "residual": jnp.sqrt(jnp.mean(found.residual**2))}
    return value, (Table(found.points, found.step), metrics)


def _loss_of_cycle(params: Any, module: Convex, config: Config, x: Array, y: Array, before: Table) -> tuple[Array, Any]:
    guess = gradient(module, params, y, "backward")
    fixed = jax.lax.stop_gradient(guess)
    psi = potential(module, params)
    forward, back = jnp.mean(psi(x)), psi(fixed)
    missed = jnp.mean(jnp.sum((gradient(module, params, guess) - y) ** 2, axis=1))
    value = forward - jnp.mean(back) + config.cycle * missed
    objective = forward + jnp.mean(jnp.sum(fixed * y, axis=1) - back)
    return value, (Table(fixed, before.lengths), {"objective": objective, "residual": jnp.sqrt(missed)})
