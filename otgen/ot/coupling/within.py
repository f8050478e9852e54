"""Couplings that need no solve beforehand: independent pairs, and plans within a batch.

A batch is n points of noise and n data. `Minibatch` matches them at the least sum of |x0 - x1|^2, `Sinkhorn` draws a
matching from their entropic plan. With classes the class of each noise point is drawn first, without regard to where it
lies, and matched within its class, so that the noise of a class has the law of all noise. With conditions c the cost
is |x0 - x1|^2 / m + beta |c - c'|^2 / m' for the means m and m' of both over the batch, where each noise point has the
condition of the data point it came with: large beta keeps noise and conditions independent, at the price of the plan.
At 0 the plan does not see them, and the noise tells the condition.

Reference: Tong et al. (2024), arXiv 2302.00482; Cheng and Schwing (2025), arXiv 2503.10636, for labels.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.ot import exact, sinkhorn
from otgen.ot.check import require_nonnegative, require_positive
from otgen.ot.costs import Cost, DenseCost, PairwiseCost
from otgen.ot.coupling.batch import Batch, Classes, asked, looked_up, noise, parts_of, settled, some
from otgen.ot.latent import Normal
from otgen.types import Array, Key, Sampler, as_pytree

_TOL = 0.01  # of the plan of a batch


@as_pytree
@dataclasses.dataclass(frozen=True)
class Independent:
    """Noise and data as they come.

    Attributes:
      data: [N, ...].
      labels: of the data [N], any integers; or conditions [N, c], floats; None for none. Held as `Classes`.
      sampler: the law of the noise, of the data flattened to rows. Static.

    Example:
      >>> images, labels = jnp.zeros((10, 8, 8, 1)), np.arange(10) % 3
      >>> batch = og.coupling.Independent(images, labels).pair(jax.random.key(0), 4, labels=2)
      >>> print(batch.x0.shape, batch.label)
      (4, 8, 8, 1) [2 2 2 2]
    """

    data: ArrayLike
    labels: Any = None
    sampler: Sampler = dataclasses.field(default=Normal(), metadata={"static": True})
    rowwise: ClassVar[bool] = True  # a pair is the same however many are made with it

    def __post_init__(self) -> None:
        settled(self)

    def pair(self, key: Key, num: int, labels: ArrayLike | None = None) -> Batch:
        """Draw pairs; a pure function, for one's own jit too, with the coupling among its arguments.

        Args:
          key: random key.
          num: how many, B. Static.
          labels: numbers of the classes that are wanted [B], or one for all; None for random data.

        Returns:
          Batch.

        Raises:
          ValueError: for classes that there are not.
        """
        return _independent(self, *asked(self, key, num, labels))


@functools.partial(jax.jit, static_argnames="num")
def _independent(coupling: Independent, key: Key, num: int, wanted: Array | None) -> Batch:
    noise_key, rest = parts_of(key)
    x0 = noise(noise_key, jnp.arange(num), coupling.sampler, coupling.data)
    return looked_up(coupling, x0, some(rest, coupling, num, wanted), wanted)


@as_pytree
@dataclasses.dataclass(frozen=True)
class Minibatch:
    """Noise and data of a batch, matched at the least sum of squared distances.

    SciPy finds the matching on the host, in time that grows as the cube of the batch at worst.

    Attributes:
      data, labels, sampler: as of `Independent`.
      beta: weight of conditions against the data's, in units of the mean costs of both, see the module.

    Example:
      >>> data = jax.random.normal(jax.random.key(0), (100, 2))
      >>> cost = lambda batch: jnp.mean(jnp.sum((batch.x0 - batch.x1) ** 2, 1))
      >>> key = jax.random.key(1)
      >>> matched, as_they_come = og.coupling.Minibatch(data).pair(key, 64), og.coupling.Independent(data).pair(key, 64)
      >>> print(bool(cost(matched) < 0.5 * cost(as_they_come)))
      True
    """

    data: ArrayLike
    labels: Any = None
    sampler: Sampler = dataclasses.field(default=Normal(), metadata={"static": True})
    beta: ArrayLike = 10.0
    rowwise: ClassVar[bool] = False

    def __post_init__(self) -> None:
        settled(self), require_nonnegative("beta", self.beta)

    def pair(self, key: Key, num: int, labels: ArrayLike | None = None) -> Batch:
        """Draw pairs; arguments and errors as in `Independent.pair`, and num is the size of the batch."""
        return _matched(self, *asked(self, key, num, labels))


@as_pytree
@dataclasses.dataclass(frozen=True)
class Sinkhorn:
    """Noise and data of a batch, matched by a draw from their entropic plan, each point once.

    Attributes:
      data, labels, sampler, beta: as of `Minibatch`.
      epsilon: regularisation of the plan, as a share of the mean cost of the batch.

    Example:
      >>> data = jax.random.normal(jax.random.key(0), (100, 2))
      >>> batch = og.coupling.Sinkhorn(data).pair(jax.random.key(1), 64)
      >>> independent = og.coupling.Independent(data).pair(jax.random.key(1), 64)
      >>> print(jnp.array_equal(jnp.sort(batch.index), jnp.sort(independent.index)))  # the same data, other partners
      True
    """

    data: ArrayLike
    labels: Any = None
    sampler: Sampler = dataclasses.field(default=Normal(), metadata={"static": True})
    epsilon: ArrayLike = 0.02
    beta: ArrayLike = 10.0
    rowwise: ClassVar[bool] = False

    def __post_init__(self) -> None:
        settled(self), require_positive("epsilon", self.epsilon), require_nonnegative("beta", self.beta)

    def pair(self, key: Key, num: int, labels: ArrayLike | None = None) -> Batch:
        """Draw pairs; arguments and errors as in `Independent.pair`, and num is the size of the batch."""
        return _matched(self, *asked(self, key, num, labels))


@functools.partial(jax.jit, static_argnames="num")
def _matched(coupling: Minibatch | Sinkhorn, key: Key, num: int, wanted: Array | None) -> Batch:
    noise_key, rest = parts_of(key)
    x0 = noise(noise_key, jnp.arange(num), coupling.sampler, coupling.data)
    index = some(rest, coupling, num, wanted)
    cost, mean = _cost(coupling, x0, index)
    if isinstance(coupling, Minibatch):
        order = exact.assignment(cost).index
    else:
        epsilon = coupling.epsilon * mean
        state, _ = sinkhorn.run(cost, epsilon=epsilon, tol=_TOL)
        i, j = sinkhorn.sample_plan(jax.random.fold_in(rest, 1), cost, state, epsilon=epsilon)
        order = jnp.zeros(i.shape, j.dtype).at[i].set(j)
    return looked_up(coupling, x0, index[order], wanted)


def _cost(coupling: Minibatch | Sinkhorn, x0: Array, index: Array) -> tuple[Cost, Array]:
    """Return the cost between noise and data of an index, infinite between classes, and its mean over legal pairs."""
    cost = PairwiseCost(x0.reshape(len(index), -1), coupling.data[index].reshape(len(index), -1))
    labels = coupling.labels
    if labels is None:
        return cost, cost.mean()
    if isinstance(labels, Classes):
        number = labels.number[index]
        legal = number[:, None] == number
        matrix = cost.matrix()
        return DenseCost(jnp.where(legal, matrix, jnp.inf)), jnp.mean(matrix, where=legal)
    apart = PairwiseCost(labels[index], labels[index])
    matrix = cost.matrix() / cost.mean() + coupling.beta * apart.matrix() / jnp.maximum(apart.mean(), 1e-30)
    return DenseCost(matrix), matrix.mean()
