"""What a solve returns: potentials together with the problem that they solve, which nobody has to say again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from jax.typing import ArrayLike

from otgen.ot.costs import Cost
from otgen.ot.costs.potentials import State
from otgen.ot.sinkhorn import outside, plans, sampling
from otgen.types import Array, Float, Held, Int, Key, as_pytree


@as_pytree
@dataclasses.dataclass(frozen=True)
class Solution:
    """Potentials and their problem, a pytree: what is asked of the plan is asked at the epsilon it was solved for.

    It stands wherever potentials do, as the `state` of another solve too, and unpacks to them: `f, g = solution`. A
    transformation that returns it returns the cost with it, and `vmap` a cost for each problem: return
    `solution.state` where the potentials are all that is needed.

    Attributes:
      f: potentials of the source points [n].
      g: potentials of the target points [m].
      cost: ground cost n x m.
      a: weights of the source points [n].
      b: weights of the target points [m].
      epsilon: temperature.

    Example:
      >>> x, a, b = np.array([[0.0], [1.0]]), np.array([0.3, 0.7]), np.array([0.6, 0.4])
      >>> solution, _ = og.sinkhorn.run(og.PairwiseCost(x, x), a, b, epsilon=0.02, tol=1e-5)
      >>> print(solution.plan())  # .3 has to move
      [[0.3 0.]
       [0.3 0.4]]
      >>> print(solution.primal_cost(), solution.apply_plan(x[:, 0]))
      0.3 [0. 0.4]
    """

    f: Array
    g: Array
    cost: Cost
    a: Held
    b: Held
    epsilon: Held

    @property
    def state(self) -> State:
        """The potentials alone."""
        return State(self.f, self.g)

    def __iter__(self) -> Iterator[Array]:
        return iter((self.f, self.g))

    def __getitem__(self, place: int) -> Array:
        return self.state[place]

    def plan(self) -> Float[Array, "n m"]:
        """Return the plan as a matrix, as `sinkhorn.plan`."""
        return plans.plan(self.cost, self.state, self.a, self.b, epsilon=self.epsilon)

    def marginals(self, *, axis_name: str | None = None) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
        """Return the marginals of the plan, as `sinkhorn.marginals`."""
        given = {"epsilon": self.epsilon, "axis_name": axis_name}
        return plans.marginals(self.cost, self.state, self.a, self.b, **given)

    def primal_cost(self) -> Float[Array, ""]:
        """Return what the plan costs, <C, P>, as `sinkhorn.primal_cost`."""
        return plans.primal_cost(self.cost, self.state, self.a, self.b, epsilon=self.epsilon)

    def apply_plan(self, vectors: ArrayLike, *, axis: int = 1) -> Float[Array, "_ ..."]:
        """Return the plan times vectors, as `sinkhorn.apply_plan`."""
        return plans.apply_plan(self.cost, self.state, vectors, self.a, self.b, epsilon=self.epsilon, axis=axis)

    def potential(self, new: Cost | ArrayLike, *, axis: int = 1) -> Float[Array, " k"]:
        """Return the potentials of new points, -epsilon log sum_j b_j exp((g_j - c(x, y_j)) / epsilon).

        At the points of the solve it is f (axis 1) or g (axis 0), where their marginal is met exactly. Differentiable
        in the new points.

        Args:
          new: points [k, d], or their cost to the points summed over, [k, m] for axis 1 and [n, k] for axis 0.
          axis: the side summed over, 1 for new source points. Static.

        Raises:
          ValueError: for points of another dimension, a cost of another shape, or points where the solve was of a
            matrix, which has none.

        Example:
          >>> x = jnp.array([[0.0], [1.0]])
          >>> solution, _ = og.sinkhorn.run(og.PairwiseCost(x, x + 2), epsilon=0.1, tol=1e-5)
          >>> print(bool(jnp.abs(solution.potential(x) - solution.f).max() < 1e-4))
          True
        """
        cost, (other, weights) = outside.cost_to(self.cost, new, axis), self._summed(axis)
        return outside.potential(cost, other, weights, self.epsilon, axis)

    def transport(
        self, new: Cost | ArrayLike, values: ArrayLike | None = None, *, axis: int = 1
    ) -> Float[Array, "num ..."]:
        """Return where new points go, the mean of the points of the other side under their conditional plan.

        For |x - y|^2 this is the entropic map, x - grad f(x) / 2, which tends to the optimal map as epsilon falls and
        the clouds grow. Relaxed marginals change how much goes, not where.

        Args:
          new: points [k, d], or a cost, as in `potential`.
          values: what is averaged instead of the points, [m] or [m, k], a row for each; of axis 0 [n] or [n, k].
          axis: the side summed over: 1 takes source points to the target, 0 target points to the source. Static.

        Raises:
          ValueError: as in `potential`, for values of another length, or none where there are no points.

        Example:
          >>> x = jnp.array([[0.0], [1.0]])
          >>> solution, _ = og.sinkhorn.run(og.PairwiseCost(x, x + 2), epsilon=0.01, tol=1e-5)
          >>> print(solution.transport(jnp.array([[0.1], [0.9]])).T, solution.transport(x + 2, axis=0).T)
          [[2. 3.]] [[0. 1.]]

        Reference: Pooladian and Niles-Weed (2021), arXiv 2109.12004.
        """
        cost, (other, weights) = outside.cost_to(self.cost, new, axis), self._summed(axis)
        values = outside.values_of(self.cost, values, axis)
        return outside.average(cost, other, weights, self.epsilon, values, axis)

    def _summed(self, axis: int) -> tuple[Array, Held]:
        return (self.g, self.b) if axis == 1 else (self.f, self.a)

    def sample_plan(
        self, key: Key, *, num: int | None = None, pairing: str = "permutation", num_sweeps: int = 64
    ) -> tuple[Int[Array, " num"], Int[Array, " num"]]:
        """Draw pairs (i, j) from the plan, as `sinkhorn.sample_plan`."""
        how = {"epsilon": self.epsilon, "num": num, "pairing": pairing, "num_sweeps": num_sweeps}
        return sampling.sample_plan(key, self.cost, self.state, self.a, self.b, **how)
