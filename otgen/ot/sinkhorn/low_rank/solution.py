"""A plan of low rank: its factors together with the problem that they solve."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.ot.check import as_count, as_key
from otgen.ot.costs import Cost
from otgen.ot.costs.ground import as_vectors
from otgen.ot.products import product
from otgen.ot.sinkhorn.sampling import passed
from otgen.types import Array, Float, Held, Int, Key, as_pytree


class State(NamedTuple):
    """The factors of a plan by their logarithms, which no temperature underflows.

    Attributes:
      q: log of the share of every source point in every part [n, r]; shares of a point sum to 1, up to the error.
      r: the same of the target points [m, r].
      g: log of the mass of every part [r].
      h: potentials of the parts [2, r] that the last step needed, of Q and R, from which the next one's start.

    Example:
      >>> state = og.low_rank.init(jax.random.key(0), jnp.ones((3, 3)), rank=2)
      >>> print(jnp.exp(state.q).sum(1))
      [1. 1. 1.]
    """

    q: Array
    r: Array
    g: Array
    h: Array


def masses_of(state: State, a: Array, b: Array) -> tuple[Array, Array]:
    """Return the marginals [n], [m] of the plan of a state."""
    q, r, g, _ = state
    parts = [product(mass, jnp.exp(log - g)) for log, mass in ((q, a), (r, b))]  # 1 where it has the mass of g
    return a * product(jnp.exp(q), parts[1]), b * product(jnp.exp(r), parts[0])


@as_pytree
@dataclasses.dataclass(frozen=True)
class Solution:
    """The plan P = Q diag(1/g) R' with its problem, a pytree. Nothing but `plan` makes n x m numbers.

    Attributes:
      state: the factors by their logarithms.
      cost: ground cost n x m.
      a: weights of the source points [n].
      b: weights of the target points [m].
      epsilon: temperature.

    Example:
      >>> x = jnp.array([[0.0], [0.1], [1.0], [1.1]])
      >>> solution, _ = og.low_rank.run(jax.random.key(0), og.PairwiseCost(x, x), rank=2, epsilon=0.01, tol=1e-6)
      >>> print(solution.plan())  # two parts
      [[0.125 0.125 0.    0.   ]
       [0.125 0.125 0.    0.   ]
       [0.    0.    0.125 0.125]
       [0.    0.    0.125 0.125]]
      >>> print(solution.g, solution.apply_plan(x).T)
      [0.5 0.5] [[0.0125 0.0125 0.2625 0.2625]]
    """

    state: State
    cost: Cost
    a: Held
    b: Held
    epsilon: Held

    @property
    def q(self) -> Float[Array, "n rank"]:
        """The masses of the source points in the parts, Q."""
        return jnp.asarray(self.a)[:, None] * jnp.exp(self.state.q)

    @property
    def r(self) -> Float[Array, "m rank"]:
        """The masses of the target points in the parts, R."""
        return jnp.asarray(self.b)[:, None] * jnp.exp(self.state.r)

    @property
    def g(self) -> Float[Array, " rank"]:
        """The masses of the parts."""
        return jnp.exp(self.state.g)

    def plan(self) -> Float[Array, "n m"]:
        """Return the plan as a matrix."""
        return product(self.q, self.r.T / self.g[:, None])

    def marginals(self) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
        """Return the marginals of the plan, P1 and P'1."""
        return masses_of(self.state, jnp.asarray(self.a), jnp.asarray(self.b))

    def primal_cost(self) -> Float[Array, ""]:
        """Return what the plan costs, <C, P>, differentiable in the cost."""
        return _primal_cost(self)

    def apply_plan(self, vectors: ArrayLike, *, axis: int = 1) -> Float[Array, "_ ..."]:
        """Return the plan times vectors, [m] or [m, k] for axis 1, and its transpose times [n] or [n, k] for axis 0.

        Raises:
          ValueError: for another axis or number of rows.
        """
        vectors = as_vectors(vectors, self.cost, axis)
        ours, theirs = (self.q, self.r) if axis == 1 else (self.r, self.q)
        return product(ours / self.g, product(theirs.T, vectors))

    def sample_plan(self, key: Key, *, num: int | None = None) -> tuple[Int[Array, " num"], Int[Array, " num"]]:
        """Draw pairs (i, j): source points with the least spread, a part of each, and a target point of the part.

        Args:
          key: PRNG key, consumed.
          num: pairs; n for None, which of uniform weights takes every source point once. Static.

        Returns:
          Indices i and j [num], in the order of the source points.
        """
        return _sample(as_key(key), self, self.cost.shape[0] if num is None else as_count("num", num))


@jax.jit
def _primal_cost(solution: Solution) -> Array:
    a, b = jnp.asarray(solution.a), jnp.asarray(solution.b)
    q, r, g = solution.q, solution.r, solution.state.g
    return jnp.sum(q * solution.cost.weighed(a, b)._times(r * jnp.exp(-g), 1))


@jax.jit(static_argnames="num")
def _sample(key: Key, solution: Solution, num: int) -> tuple[Array, Array]:
    keys = jax.random.split(key, 3)
    a = jnp.asarray(solution.a)
    i = passed(a, (jnp.arange(num) + jax.random.uniform(keys[0])) / num)
    if num == len(a):
        i = jnp.where(jnp.all(a == a[0]), jnp.arange(num), i)  # sums of many weights are rounded
    part = jax.random.categorical(keys[1], solution.state.q[i])
    sums = jnp.cumsum(solution.r, 0)
    wanted = jax.random.uniform(keys[2], (num,)) * sums[-1, part]

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds  # sums below low are at most what is wanted, that of high is above
        middle = (low + high) // 2
        above = sums[middle, part] > wanted
        return jnp.where(above, low, middle + 1), jnp.where(above, middle, high)

    last = len(sums) - 1
    rounds = max(1, last.bit_length())
    low, _ = jax.lax.fori_loop(0, rounds, halve, (jnp.zeros(num, jnp.int32), jnp.full(num, last, jnp.int32)))
    return i, jnp.minimum(low, last)
