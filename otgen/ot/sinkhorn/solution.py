"""What a solve returns: potentials together with the problem that they solve, which nobody has to say again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from jax.typing import ArrayLike

from otgen.ot.costs import Cost
from otgen.ot.costs.potentials import State
from otgen.ot.sinkhorn import plans, sampling
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

    def sample_plan(
        self, key: Key, *, num: int | None = None, pairing: str = "permutation", num_sweeps: int = 64
    ) -> tuple[Int[Array, " num"], Int[Array, " num"]]:
        """Draw pairs (i, j) from the plan, as `sinkhorn.sample_plan`."""
        how = {"epsilon": self.epsilon, "num": num, "pairing": pairing, "num_sweeps": num_sweeps}
        return sampling.sample_plan(key, self.cost, self.state, self.a, self.b, **how)
