"""The Sinkhorn divergence: entropic transport without its bias towards the blurred."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float

from otgen.ot.check import native
from otgen.ot.costs import PairwiseCost
from otgen.ot.sinkhorn import solver
from otgen.types import Array, Status

_BADNESS = (Status.CONVERGED, Status.STALLED, Status.MAX_STEPS, Status.NONFINITE, Status.INFEASIBLE)


def sinkhorn_divergence(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike,
    cost_fn: Any = None,
    tau_a: ArrayLike = 1.0,
    tau_b: ArrayLike = 1.0,
    tol: ArrayLike = 1e-4,
    max_steps: ArrayLike = 2000,
    dense: bool | None = None,
    return_info: bool = False,
) -> Float[Array, ""] | tuple[Float[Array, ""], solver.Info]:
    """Return the Sinkhorn divergence between two weighted clouds.

    S(x, y) = W(x, y) - W(x, x) / 2 - W(y, y) / 2 with W = `sinkhorn.value`, plus epsilon/2 (sum a - sum b)^2.
    For costs such as |x - y|^2 and |x - y| it is not negative, for tau_a = tau_b zero at equal clouds only, and convex
    in each weight; it goes to <C, P> of exact transport as epsilon falls and to a kernel distance as epsilon grows.
    Differentiable in the points and weights. Rounded up to zero where the errors of its terms, squares of `tol`, took
    it below.

    Args:
      x: points [n, d].
      y: points [m, d].
      a: weights of x [n]; uniform for None.
      b: weights of y [m]; uniform for None.
      epsilon: temperature, in units of the cost.
      cost_fn: symmetric ground cost, |x - y|^2 for None; see `PairwiseCost`.
      tau_a: rho_a / (rho_a + epsilon) of x's marginal, on both sides of its own term.
      tau_b: the same for y.
      tol: marginal error of the three solves, which is that of gradients too; for values alone 1e-3 is enough.
      max_steps: limit on products with the kernel, for each.
      dense: whether to hold n x m in memory. Static.
      return_info: whether to return Info too, of the three solves: the largest error, the divergence as dual value, the
        steps of all, and the status of the one that ended worst. Static.

    Returns:
      The divergence, in units of the cost. With `return_info` also Info.

    Raises:
      ValueError: outside jit, as in `PairwiseCost` and `sinkhorn.run`.

    Example:
      >>> x = jnp.array([[0.0], [1.0]])
      >>> print(og.sinkhorn_divergence(x, x, epsilon=0.5))
      0.0
      >>> print(og.sinkhorn_divergence(x, x + 3.0, epsilon=0.5))  # a shift s has s^2, whatever epsilon
      9.0

    Reference: Genevay et al. (2018), arXiv 1706.00292; Feydy et al. (2019), arXiv 1810.08278; Sejourne et al. (2019),
    arXiv 1910.12958 (unbalanced).
    """
    options = {"epsilon": epsilon, "tol": tol, "max_steps": max_steps, "dense": dense, "return_info": return_info}
    cross = PairwiseCost(x, y, cost_fn)
    terms = [
        solver.value(PairwiseCost(x, x, cost_fn), a, a, tau_a=tau_a, tau_b=tau_a, **options),
        solver.value(PairwiseCost(y, y, cost_fn), b, b, tau_a=tau_b, tau_b=tau_b, **options),
        solver.value(cross, a, b, tau_a=tau_a, tau_b=tau_b, **options),
    ]
    own, other, both = (term[0] if return_info else term for term in terms)
    left, right = (1.0 if mass is None else jnp.sum(native("weights", mass)) for mass in (a, b))
    debiased = jnp.maximum(both - 0.5 * (own + other) + 0.5 * epsilon * (left - right) ** 2, 0.0)
    return (debiased, _worst(debiased, [info for _, info in terms])) if return_info else debiased


def _worst(value: Array, infos: list[solver.Info]) -> solver.Info:
    error, steps, status = (jnp.stack([getattr(it, name) for it in infos]) for name in ("error", "num_steps", "status"))
    badness = jnp.asarray([_BADNESS.index(it) for it in sorted(_BADNESS)])
    worst = status[jnp.argmax(badness[status])]
    return solver.Info(jnp.max(error), value, jnp.sum(steps), worst)
