"""The drift of particles under the Sinkhorn divergence: where each is pulled by a target and pushed by its own law."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen.ot.check import as_array, as_weights, is_traced, require_choice, require_function, require_positive
from otgen.ot.costs import Cost, PairwiseCost
from otgen.ot.costs.potentials import State
from otgen.ot.products import contract
from otgen.ot.sinkhorn import solver
from otgen.ot.sinkhorn.divergence import own_term, worst
from otgen.ot.sinkhorn.inputs import as_masses
from otgen.ot.sinkhorn.potentials import soft_rows
from otgen.types import Array, Float, Held


def drift(
    x: ArrayLike,
    y: ArrayLike,
    x_other: ArrayLike | None = None,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    a_other: ArrayLike | None = None,
    *,
    epsilon: ArrayLike,
    epsilon_weights: ArrayLike | None = None,
    rho: ArrayLike | None = None,
    diagonal: str = "keep",
    features: Callable[[Any], ArrayLike] | None = None,
    cost_fn: Any = None,
    tol: ArrayLike = 1e-3,
    max_steps: ArrayLike = 2000,
    dense: bool | None = None,
    return_info: bool = False,
) -> Float[Array, "n k"] | tuple[Float[Array, "n k"], solver.Info]:
    """Return the velocity at which points descend the Sinkhorn divergence of their law to that of y.

    With the potentials f of (x, y) and p of (x, x_other), V_i = (grad p(x_i) - grad f(x_i)) / 2. For |x - y|^2 it is
    V_i = T(x_i) - T'(x_i), the barycentric map to y without that to x_other: in one whole step points go to x + V.
    For any cost and exact marginals a_i V_i is - 1/2 times the gradient in x_i of W(x, y) - W(x, x_other), x_other held
    constant; without x_other that of `sinkhorn_divergence(x, y, diagonal=)`.

    A generator G descends by regression: at x = G(z), the loss sum_i a_i |G(z_i) - target_i|^2 with the constant target
    x + V has the gradient of the divergence of its law. V is constant to differentiation. x_other is a second batch of
    the generator's; with x itself in its place points are pushed apart too little, and it shrinks.

    Args:
      x: points [n, d]; with `features` anything that it takes.
      y: points of the target [m, d].
      x_other: a second, independent batch of the law of x [l, d]; None for x itself.
      a: weights of x [n], of total 1; uniform for None. V does not depend on the weight of its own point alone.
      b: weights of y [m]; uniform for None.
      a_other: weights of x_other [l]; uniform for None.
      epsilon: temperature, in units of the cost; or several [k], whose drifts are averaged.
      epsilon_weights: weights of the temperatures [k], of total 1; uniform for None.
      rho: price, in units of the cost, of mass that the plans leave out, in KL; None for exact marginals. T and T' are
        barycentric maps of what the plans move: a point of which little mass is moved still goes its whole way.
      diagonal: without x_other, whether points may stay where they are in the plan of x to x ("keep") or not ("mask").
        Static.
      features: maps x, y and x_other to features [n, k], between which the transport is; V then is a velocity of
        features: the target of features(G(z)) is features(x) + V. None for the points themselves.
      cost_fn: symmetric ground cost, |x - y|^2 for None; see `PairwiseCost`.
      tol: marginal error of the solves.
      max_steps: limit on products with the kernel, for each solve.
      dense: whether to hold n x m in memory; None as in `sinkhorn.run`. Static.
      return_info: whether to return Info too, of all solves: the largest error, the steps of all, the status of the
        one that ended worst, and as dual value W(x, y) - W(x, x_other), over the temperatures. Static.

    Returns:
      Velocities [n, d] or, of features, [n, k]. With `return_info` also Info.

    Raises:
      ValueError: outside jit, as in `sinkhorn_divergence`.

    Example:
      >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([[5.0], [9.0]])
      >>> print(og.drift(x, y, epsilon=0.01))  # to their places: 0 to 5, 1 to 9
      [[5.]
       [8.]]
      >>> print(og.drift(x, y, jnp.array([[0.0], [2.0]]), epsilon=jnp.array([0.01, 0.02])))  # 1 away from 2
      [[5.]
       [7.]]

    Reference: Feydy et al. (2019), arXiv 1810.08278, section 3.3 (gradients); Genevay et al. (2018), arXiv 1706.00292.
    """
    require_choice("diagonal", diagonal, ("keep", "mask"))
    require_choice("dense", dense, (None, True, False))
    if features is not None:
        require_function("features", features)
        x, y, x_other = (it if it is None else features(it) for it in (x, y, x_other))
    pull = PairwiseCost(x, y, cost_fn)
    push, a_other = own_term("x", x, a, x_other, a_other, diagonal, cost_fn, 1.0)
    temperatures = as_array("epsilon", epsilon, finite=False)
    if temperatures.ndim > 1 or not temperatures.size:
        raise ValueError(f"epsilon has shape {temperatures.shape}: give one temperature, or several as [k].")
    if not is_traced(temperatures):
        for it in np.ravel(temperatures):
            require_positive("epsilon", float(it))
    shares = as_weights(epsilon_weights, temperatures.size, "epsilon_weights")
    masses = [as_masses(cost, a, other, 1.0, 1.0) for cost, other in ((pull, b), (push, a_other))]
    require_positive("tol", tol)
    if rho is not None:
        require_positive("rho", rho)
    given = jax.lax.stop_gradient(((pull, push), masses, temperatures.reshape(-1), shares, rho))
    found = _drift(*given, tol, solver.count(max_steps), dense)
    return found if return_info else found[0]


@jax.jit(static_argnames="dense")
def _drift(
    costs: tuple[Cost, Cost],
    masses: list[tuple[Held, Held]],
    epsilons: Array,
    shares: Array,
    rho: Array | None,
    tol: Array,
    max_steps: Array,
    dense: bool | None,
) -> tuple[Array, solver.Info]:
    options = {"tol": tol, "max_steps": max_steps, "dense": dense}

    def at(epsilon: Array) -> tuple[Array, list[solver.Info]]:
        if rho is not None:
            options["tau_a"] = options["tau_b"] = rho / (rho + epsilon)
        slopes, infos = [], []
        for cost, (a, b) in zip(costs, masses, strict=True):
            solution, info = solver.run(cost, a, b, epsilon=epsilon, **options)
            slopes.append(_slope(cost, solution.state, a, b, epsilon))
            infos.append(info)
        return 0.5 * (slopes[1] - slopes[0]), infos

    velocities, infos = jax.lax.map(at, epsilons)
    value = jnp.sum(shares * (infos[0].dual_value - infos[1].dual_value))
    infos = [jax.tree.map(lambda it, k=k: it[k], info) for info in infos for k in range(len(shares))]
    return contract("k,knd->nd", shares.astype(velocities.dtype), velocities), worst(value, infos)


def _slope(cost: Cost, state: State, a: Held, b: Held, epsilon: Array) -> Array:
    """Return the gradient of the potential of the source points at each of them, from that of the targets."""

    def potentials(cost: Cost) -> Array:
        return jnp.sum(soft_rows(cost.weighed(a, b), state.g, b, epsilon))

    slopes = jax.grad(potentials, allow_int=True)(cost)
    return slopes.x if isinstance(slopes, PairwiseCost) else slopes.cost.x
