"""A convex potential trained by minimisation alone: the dual of transport with exact, remembered conjugates.

Minimises, over input-convex networks psi,

    J(psi) = E_x psi(x) + mean_j psi*(y_j),    psi*(y) = max_x <x, y> - psi(x),
    inf J = (E|x|^2 + mean_j |y_j|^2 - W2^2) / 2,

and grad psi is the map. J is convex in the values of psi, and its gradient needs the maximisers x*(y_j) alone. Every
code keeps its own from one visit to the next: psi starts as |x|^2 / 2, whose conjugate is known, and changes little
between two visits, so that a few quasi-Newton steps follow it (`ot.conjugate`).

With `cycle` > 0 a second convex network phi guesses the maximisers instead, x*(y) = grad phi(y), held to it by the
cycle term of Korotin et al., and the two minimise

    E_x psi(x) - mean_j psi(x*(y_j)) + cycle mean_j |grad psi(grad phi(y_j)) - y_j|^2,

the maximisers held fixed in the second term. It needs no inner steps, and its maximisers are only as good as phi. All
of it in standard units (`training.Units`), in which the identity is a start.

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

from otgen.maps.training import MapSettings, noise, optimiser
from otgen.nn.potentials import Convex
from otgen.ot import conjugate
from otgen.train.parallel import gathered
from otgen.train.state import TrainState
from otgen.types import Array, Key, Sampler, averaged

_BLOCK = 4096  # codes whose conjugates are found together
_FINAL_STEPS = 200  # of every code's conjugate, once training is done


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
        self.whole("rank", "refinements")
        self.not_negative("cycle")


class Table(NamedTuple):
    """What is remembered of every code.

    Attributes:
      points: the maximiser x*(y_j) found last [N, d].
      lengths: gradient step that suits the curvature there [N].
    """

    points: Array
    lengths: Array


def init(key: Key, config: Config, sampler: Sampler, codes: Array) -> tuple[Convex, Any, Table]:
    """Return the network, its parameters (of two networks if there is a cycle) and the table, in standard units."""
    del sampler
    module = Convex(config.hidden, config.rank)
    keys = jax.random.split(key)
    params = {"forward": module.init(keys[0], codes[:1])["params"]}
    if config.cycle > 0:
        params["backward"] = module.init(keys[1], codes[:1])["params"]
    return module, params, Table(codes, jnp.ones(len(codes), codes.dtype))


def potential(params: Any, module: Convex, name: str = "forward") -> Callable[[Array], Array]:
    """Return the convex function [n, d] -> [n] of one of the networks."""
    return lambda x: module.apply({"params": params[name]}, x)


def gradient(params: Any, module: Convex, table: Any, x: Array, name: str = "forward") -> Array:
    """T(x) = grad psi(x), [n, d]."""
    del table
    return jax.grad(lambda x: potential(params, module, name)(x).sum())(x)


def conjugates(params: Any, module: Convex, table: Table, y: Array) -> conjugate.Conjugate:
    """Return conjugates of points y [n, d] that start from what the table [n] says, block by block."""
    psi = potential(params, module)

    def block(one: tuple) -> conjugate.Conjugate:
        return conjugate.solve(psi, one[0], one[1], step=one[2], num_steps=_FINAL_STEPS)

    num, size = len(y), min(len(y), _BLOCK)

    def fold(leaf: Array) -> Array:
        padding = ((0, -num % size), *((0, 0),) * (leaf.ndim - 1))
        return jnp.pad(leaf, padding, mode="edge").reshape(-1, size, *leaf.shape[1:])

    found = jax.lax.map(block, jax.tree.map(fold, (y, *table)))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:num], found)


def make_update(module: Convex, config: Config, sampler: Sampler):
    """Return `update(network, table, codes, index, key, axis_name) -> (network, table, metrics)`."""
    transform = optimiser(config)
    method = _loss_of_cycle if config.cycle > 0 else _loss

    def update(network: TrainState, table: Table, y: Array, index: Array, key: Key, axis_name: str | None):
        x = noise(sampler, key, network.step, *y.shape, axis_name)
        before = Table(table.points[index], table.lengths[index])
        slope, (found, metrics) = jax.grad(method, has_aux=True)(network.params, module, config, x, y, before)
        slope, metrics = averaged((slope, metrics), axis_name)
        index, found = gathered((index, found), axis_name)
        table = jax.tree.map(lambda all_, some: all_.at[index].set(some), table, found)
        updates, opt_state = transform.update(slope, network.opt_state, network.params)
        params = optax.apply_updates(network.params, updates)
        return TrainState(params, opt_state, network.step + 1), table, metrics

    return update


def _loss(params: Any, module: Convex, config: Config, x: Array, y: Array, before: Table) -> tuple[Array, Any]:
    frozen = jax.lax.stop_gradient(params)
    found = conjugate.solve(
        potential(frozen, module), y, before.points, step=before.lengths, num_steps=config.refinements
    )
    psi = potential(params, module)
    forward = jnp.mean(psi(x))
    value = forward - jnp.mean(psi(found.points))  # its gradient is that of J, by the envelope theorem
    metrics = {"objective": forward + jnp.mean(found.values), "residual": jnp.sqrt(jnp.mean(found.residual**2))}
    return value, (Table(found.points, found.step), metrics)


def _loss_of_cycle(params: Any, module: Convex, config: Config, x: Array, y: Array, before: Table) -> tuple[Array, Any]:
    guess = gradient(params, module, None, y, "backward")
    fixed = jax.lax.stop_gradient(guess)
    psi = potential(params, module)
    forward, back = jnp.mean(psi(x)), psi(fixed)
    missed = jnp.mean(jnp.sum((gradient(params, module, None, guess) - y) ** 2, axis=1))
    value = forward - jnp.mean(back) + config.cycle * missed
    objective = forward + jnp.mean(jnp.sum(fixed * y, axis=1) - back)
    return value, (Table(fixed, before.lengths), {"objective": objective, "residual": jnp.sqrt(missed)})
