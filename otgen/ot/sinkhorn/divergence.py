"""The Sinkhorn divergence: entropic transport without its bias towards the blurred."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen.ot.check import is_traced, native, require_choice
from otgen.ot.costs import Cost, MaskedDiagonal, PairwiseCost
from otgen.ot.costs.potentials import State
from otgen.ot.sinkhorn import solver
from otgen.ot.sinkhorn.inputs import relaxations
from otgen.types import Array, Float, Status

_BADNESS = (Status.CONVERGED, Status.STALLED, Status.MAX_STEPS, Status.NONFINITE, Status.INFEASIBLE)


class Terms(NamedTuple):
    """What the three solves of a divergence have each: potentials, errors, or statuses.

    Attributes:
      x: of the cloud x to itself, or to `x_other`.
      y: of the cloud y to itself, or to `y_other`.
      cross: of x to y.

    Example:
      >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([[3.0], [4.0]])
      >>> _, info = og.sinkhorn_divergence(x, y, epsilon=0.5, return_info=True)
      >>> print(info.statuses.cross, info.state.cross.f.shape)
      0 (2,)
    """

    x: Any
    y: Any
    cross: Any


class Info(NamedTuple):
    """What a reader wants to know of the three solves of a divergence, and where the next ones may start.

    Attributes:
      error: the largest of the three errors, each as in `sinkhorn.Info`.
      dual_value: the divergence.
      num_steps: steps of all three.
      status: of the solve that ended worst.
      errors, statuses: Terms of the three solves.
      state: Terms of potentials, from which the solves of clouds nearby start sooner.

    Example:
      >>> x, y = jax.random.normal(jax.random.key(0), (2, 64, 2))
      >>> value, info = og.sinkhorn_divergence(x, y, epsilon=0.05, return_info=True)
      >>> moved, again = og.sinkhorn_divergence(x + 0.01, y, epsilon=0.05, state=info.state, return_info=True)
      >>> print(bool(again.num_steps < info.num_steps), og.explain(again.statuses))
      True 3 of 3 CONVERGED: converged: the error recomputed at the end is below tol.
    """

    error: Array
    dual_value: Array
    num_steps: Array
    status: Array
    errors: Terms
    statuses: Terms
    state: Terms


def sinkhorn_divergence(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike,
    x_other: ArrayLike | None = None,
    y_other: ArrayLike | None = None,
    a_other: ArrayLike | None = None,
    b_other: ArrayLike | None = None,
    diagonal: str = "keep",
    cost_fn: Any = None,
    tau_a: ArrayLike = 1.0,
    tau_b: ArrayLike = 1.0,
    rho_a: ArrayLike | None = None,
    rho_b: ArrayLike | None = None,
    tol: ArrayLike = 1e-4,
    max_steps: ArrayLike = 2000,
    state: Terms | None = None,
    dense: bool | None = None,
    return_info: bool = False,
) -> Float[Array, ""] | tuple[Float[Array, ""], Info]:
    """Return the Sinkhorn divergence between two weighted clouds, or an estimate of that between their laws.

    S(x, y) = W(x, y) - W(x, x) / 2 - W(y, y) / 2 with W = `sinkhorn.value`, plus epsilon/2 (sum a - sum b)^2.
    For costs such as |x - y|^2 and |x - y| it is not negative, for tau_a = tau_b zero at equal clouds only, and convex
    in each weight; it goes to <C, P> of exact transport as epsilon falls and to a kernel distance as epsilon grows.
    Differentiable in the points and weights. Rounded up to zero where the errors of its terms, squares of `tol`, took
    it below.

    This form measures how far two clouds are from each other. A generator trained on small batches shrinks under it:
    in W(x, x) every point is at distance 0 of itself, so that points are pushed apart less than W(x, y) pulls them to
    y. For training give `x_other`, a second batch of the law of x: in W(x, y) - W(x, x_other) / 2 - W(y, y_other) / 2
    these errors cancel. Or say diagonal="mask", which forbids i -> i in the plans of one cloud. A generator of normal
    points in the plane, trained on batches of 32 at .05 of the mean cost, ends with .76 of the variance of its data,
    masked with .91, and with a second batch with all of it. Both estimate the divergence of the laws, and may be
    negative. Gradients flow into all that is traced: a generator that makes both batches gets half of the push apart
    from either, and would shrink if x_other were held by `jax.lax.stop_gradient`; `og.drift` has the whole.

    Args:
      x: points [n, d].
      y: points [m, d].
      a: weights of x [n]; uniform for None.
      b: weights of y [m]; uniform for None.
      epsilon: temperature, in units of the cost.
      x_other: a second, independent batch of the law of x [k, d]; None for x itself.
      y_other: the same for y [l, d]. It matters for values, not for gradients in x.
      a_other: weights of x_other [k]; uniform for None.
      b_other: weights of y_other [l]; uniform for None.
      diagonal: what the plans of x to x and y to y may do: "keep" points where they are, or, with "mask", not. Static.
      cost_fn: symmetric ground cost, |x - y|^2 for None; see `PairwiseCost`.
      tau_a: rho_a / (rho_a + epsilon) of x's marginal, on both sides of its own term.
      tau_b: the same for y.
      rho_a: price of mass that x's marginal misses, in units of the cost, instead of tau_a.
      rho_b: the same for y.
      tol: marginal error of the three solves, which is that of gradients too; for values alone 1e-3 is enough.
      max_steps: limit on products with the kernel, for each.
      state: potentials to start from, those in the Info of a divergence nearby: of as many points on every side.
      dense: whether to hold n x m in memory. Static.
      return_info: whether to return Info too: errors, statuses and potentials of the three solves. Static.

    Returns:
      The divergence, in units of the cost. With `return_info` also Info.

    Raises:
      ValueError: outside jit, as in `PairwiseCost` and `sinkhorn.run`; for a mask together with second batches, weights
        of a batch that is not given, and with a mask for one point, or one that has more than half of all mass.

    Example:
      >>> x = jnp.array([[0.0], [1.0]])
      >>> print(og.sinkhorn_divergence(x, x, epsilon=0.5))
      0.0
      >>> print(og.sinkhorn_divergence(x, x + 3.0, epsilon=0.5))  # a shift s has s^2, whatever epsilon
      9.0
      >>> x, x_other, y, y_other = jax.random.normal(jax.random.key(0), (4, 256, 2))  # batches of one law
      >>> print(og.sinkhorn_divergence(x, y, epsilon=0.5), og.sinkhorn_divergence(x, y, epsilon=0.5, diagonal="mask"))
      0.0816 0.0356
      >>> print(og.sinkhorn_divergence(x, y, x_other=x_other, y_other=y_other, epsilon=0.5))
      0.0358

    Reference: Genevay et al. (2018), arXiv 1706.00292; Feydy et al. (2019), arXiv 1810.08278; Sejourne et al. (2019),
    arXiv 1910.12958 (unbalanced).
    """
    options = {"epsilon": epsilon, "tol": tol, "max_steps": max_steps, "dense": dense, "return_info": return_info}
    require_choice("diagonal", diagonal, ("keep", "mask"))
    tau_a, tau_b = relaxations(epsilon, tau_a, tau_b, rho_a, rho_b)
    starts = _starts(state)
    cross = PairwiseCost(x, y, cost_fn)
    own, a_own = own_term("x", x, a, x_other, a_other, diagonal, cost_fn, tau_a)
    other, b_own = own_term("y", y, b, y_other, b_other, diagonal, cost_fn, tau_b)
    terms = [
        _own_value(own, a, a_own, x_other is None, tau_a, {**options, "state": starts.x}),
        _own_value(other, b, b_own, y_other is None, tau_b, {**options, "state": starts.y}),
        solver.solved(cross, a, b, tau_a=tau_a, tau_b=tau_b, state=starts.cross, **options),
    ]
    left, right, both = (term[0] if return_info else term for term in terms)
    masses = (1.0 if mass is None else jnp.sum(native("weights", mass)) for mass in (a, b, a_own, b_own))
    debiased = both - 0.5 * (left + right) + 0.5 * epsilon * _surplus(*masses)
    if diagonal == "keep" and x_other is None and y_other is None:
        debiased = jnp.maximum(debiased, 0.0)
    if not return_info:
        return debiased
    infos, states = Terms(*(term[1] for term in terms)), Terms(*(term[2] for term in terms))
    each = (Terms(*(getattr(info, name) for info in infos)) for name in ("error", "status"))
    return debiased, Info(*worst(debiased, list(infos)), *each, jax.lax.stop_gradient(states))


def _starts(state: Any) -> Terms:
    """Return potentials for each of the three solves, None for none."""
    if state is None:
        return Terms(None, None, None)
    if not isinstance(state, Terms) or not all(isinstance(it, State) for it in state):
        raise ValueError(f"state is a {type(state).__name__}: give Info.state, as return_info=True returns it.")
    return state


def own_term(
    name: str,
    x: ArrayLike,
    a: ArrayLike | None,
    other: ArrayLike | None,
    a_other: ArrayLike | None,
    diagonal: str,
    cost_fn: Any,
    tau: ArrayLike,
) -> tuple[Cost, ArrayLike | None]:
    """Return the cost of a cloud's own term, and the weights of its other side."""
    weights = {"x": "a", "y": "b"}[name]
    if other is not None and diagonal == "mask":
        raise ValueError(
            f"diagonal = 'mask' and {name}_other: a mask stands in for second batches, give the one or the other."
        )
    if other is None and a_other is not None:
        raise ValueError(f"{weights}_other without {name}_other: give the batch whose weights they are.")
    if other is not None:
        return PairwiseCost(x, other, cost_fn), a_other
    cost = PairwiseCost(x, x, cost_fn)
    if diagonal == "keep":
        return cost, a
    if a is not None and not is_traced(a, tau) and tau == 1:
        mass = np.asarray(native(weights, a), np.float64)
        if mass.size and mass.max() > 0.5001 * mass.sum():
            raise ValueError(
                f"a point of {name} has {mass.max() / mass.sum():.3g} of the mass: with diagonal = 'mask' all of it "
                "must go to others, so that no point may have more than half."
            )
    return MaskedDiagonal(cost), a


def _own_value(
    cost: Cost, a: ArrayLike | None, a_other: ArrayLike | None, same: bool, tau: ArrayLike, options: dict
) -> Any:
    """Return the value of a cloud's own term, by one potential where both sides are one cloud that may stay."""
    exact = not is_traced(tau) and np.all(np.asarray(tau) == 1)
    if same and exact and isinstance(cost, PairwiseCost) and cost.cost_fn.negative_type:
        return solver.own_value(cost, a, **options)
    return solver.solved(cost, a, a_other, tau_a=tau, tau_b=tau, **options)


def _surplus(a: ArrayLike, b: ArrayLike, a_other: ArrayLike, b_other: ArrayLike) -> ArrayLike:
    """Return what the mass terms of the three KL leave, (a - b)^2 where the second batches are the first."""
    return a * a_other + b * b_other - 2 * a * b


def worst(value: Array, infos: list[solver.Info]) -> solver.Info:
    """Return one Info of several solves: the largest error, the steps of all, the status of what ended worst."""
    error, steps, status = (jnp.stack([getattr(it, name) for it in infos]) for name in ("error", "num_steps", "status"))
    badness = jnp.asarray([_BADNESS.index(it) for it in sorted(_BADNESS)])
    worst = status[jnp.argmax(badness[status])]
    return solver.Info(jnp.max(error), value, jnp.sum(steps), worst)
