"""A discriminator trained by minimisation alone: the semi-dual of transport, its maximum taken over the codes.

Minimises, over networks D,

    J(D) = E_x max_j (D(y_j) - |x - y_j|^2) - mean_j D(y_j),    inf J = -W2^2(P, codes),

convex in the values of D. The gradient in D(y_j) is the mass of the cell of y_j less 1/N, so at the minimum every code
receives its share, and the map sends x to the code that wins the maximum. No generator, no min-max. D is the potential
of the affine map between the first two moments plus a network. All of it in standard units (`training.Units`).

Reference: the construction of arXiv 1809.05964 (latent space optimal transport); Genevay et al. (2016),
arXiv 1605.08527, for the semi-dual.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from otgen.maps.training import MapSettings, noise, optimiser
from otgen.nn.potentials import Potential
from otgen.ot import gaussian
from otgen.ot.products import product
from otgen.ot.semidiscrete.scores import top_scores
from otgen.train.descent import descend
from otgen.train.state import TrainState
from otgen.types import Array, Key, Sampler

_BLOCK = 4096  # codes whose potential is evaluated together


@dataclasses.dataclass(frozen=True)
class Config(MapSettings):
    """Training of the discriminator.

    Attributes:
      pool: codes that the maximum of an update runs over, drawn afresh for each; None for all. Quicker, and biased:
        the best of a few codes is farther than the best of all, more so where codes are rare, so that at the end the
        cells of all codes do not have equal masses.
    """

    pool: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.whole_or_none("pool", least=2)


class Table(NamedTuple):
    """The codes, and the affine map between the first two moments, which the network corrects.

    Attributes:
      codes: [N, d].
      affine: matrix [d, d] of the affine map from the codes to the source.
    """

    codes: Array
    affine: Array


def init(
    key: Key, config: Config, sampler: Sampler, codes: Array, target: Sampler | None = None
) -> tuple[Potential, Any, Table]:
    """Return the network, its parameters and the table, for a source and codes [N, d] in standard units."""
    del target
    net_key, moment_key = jax.random.split(key)
    dim = codes.shape[1]
    module = Potential(config.hidden)
    params = module.init(net_key, codes[:1])["params"]
    x = jax.jit(sampler, static_argnums=(1, 2))(moment_key, 2**15, dim)
    covs = (gaussian.moments(points).covariance() for points in (codes, x))
    return module, params, Table(codes, gaussian.map_matrix(*covs))


def potential(params: Any, module: Potential, table: Table, y: Array) -> Array:
    """D(y) [n] of points y [n, d]."""
    return jnp.sum(y * (y - product(y, table.affine)), axis=1) + module.apply({"params": params}, y)


def heights(params: Any, module: Potential, table: Table, y: Array) -> Array:
    """Return heights h [n] of points y [n, d], of the scores <y, x> + h that the map maximises, block by block."""

    def block(y: Array) -> Array:
        return 0.5 * (potential(params, module, table, y) - jnp.sum(y**2, axis=1))

    if y.shape[0] <= _BLOCK:
        return block(y)
    return jax.lax.map(lambda one: block(one[None])[0], y, batch_size=_BLOCK)


def loss(params: Any, module: Potential, table: Table, x: Array, y: Array, candidates: Array) -> tuple[Array, dict]:
    """Return J over noise x and codes y [b, d], its maximum over candidates [m, d]."""
    frozen = jax.lax.stop_gradient(params)
    _, index = top_scores(x, candidates, heights(frozen, module, table, candidates))
    won = candidates[index[:, 0]]
    # by the envelope theorem the winners may be held fixed
    gained = potential(params, module, table, won) - jnp.sum((x - won) ** 2, axis=1)
    value = jnp.mean(gained) - jnp.mean(potential(params, module, table, y))
    return value, {"objective": value}


def make_update(module: Potential, config: Config, sampler: Sampler):
    """Return `update(network, table, codes, key, axis_name) -> (network, table, metrics)`."""
    transform = optimiser(config)

    def update(network: TrainState, table: Table, y: Array, key: Key, axis_name: str | None):
        noise_key, pool_key = jax.random.split(key)
        x = noise(sampler, noise_key, network.step, *y.shape, axis_name)
        candidates = table.codes
        if config.pool is not None and config.pool < len(candidates):
            pool_key = jax.random.fold_in(pool_key, network.step)
            candidates = candidates[jax.random.randint(pool_key, (config.pool,), 0, len(candidates))]
        network, metrics = descend(transform, network, loss, module, table, x, y, candidates, axis_name=axis_name)
        return network, table, metrics

    return update
