"""The two potentials of a transport problem, which the solvers of `sinkhorn` and `dual` find and can start from."""

from __future__ import annotations

from typing import NamedTuple

from otgen.types import Held


class State(NamedTuple):
    """Potentials: the entropic plan is a_i b_j exp((f_i + g_j - c_ij) / epsilon).

    Attributes:
      f: of the source points, the rows [n], in units of the cost. A solution whose marginals are met is centred:
        sum a_i f_i = 0.
      g: of the target points, the columns [m].

    Example:
      >>> state = og.sinkhorn.State(jnp.zeros(2), jnp.zeros(2))  # the plan is then a b' exp(-c / epsilon)
      >>> cost = jnp.array([[0.0, 1.0], [1.0, 0.0]])
      >>> print(og.sinkhorn.plan(og.DenseCost(cost), state, epsilon=1.0), np.exp(-1) / 4)
      [[0.25 0.092]
       [0.092 0.25]] 0.092
      >>> print(og.dual.gap(cost, *state._replace(g=og.dual.transform(cost, state.f, epsilon=1.0)), epsilon=1.0))
      0.0
    """

    f: Held
    g: Held
