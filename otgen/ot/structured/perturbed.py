"""The structured plan as plain smoothed transport for a perturbed ground cost, in three readings: `og.perturbed`.

  (i) C - p(c, x) with p = lam f'(r_c): the cost falls where code and datum already go together (`perturbation`);
  (ii) C - lam log Q(c | x) / P(c): the perturbation is learned by an encoder Q (`encoder_perturbation`), or found by
    alternation (`alternate`);
  (iii) C + p(c, n, x): an adversary raises the cost, along noise but not along the code (`adversary`).

`perturbed_cost` makes the ground cost that `sinkhorn.run` and `dual.run` take. The notation is that of
`otgen.ot.structured`.

The readings follow paper A (arXiv 1912.02160) and are derived here; the third follows Paty and Cuturi (2020), arXiv
2002.03229.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.ot import dual
from otgen.ot.check import as_array, is_traced, probability, require_nonnegative, require_positive, smallest_and_sum
from otgen.ot.costs import DenseCost
from otgen.ot.dual.smoothing import QUADRATIC, Smoothing, log_mean_exp
from otgen.ot.products import product
from otgen.ot.structured.nested import Weights, mean_code, mean_latent, mean_noise, potentials_of, prepare, respond
from otgen.ot.structured.plans import State, answer_of
from otgen.types import Array, Float


def perturbation(
    cost: ArrayLike,
    state: State,
    weights: Weights | None = None,
    *,
    epsilon: ArrayLike,
    lam: ArrayLike,
    smoothing: str | Smoothing = "entropic",
) -> Float[Array, "K B"]:
    """Return p = lam f'(r_c), by which the ground cost falls where code and datum go together: reading (i).

    Plain smoothed transport with the cost C - p, which `perturbed_cost(cost, p)` makes, has the structured plan as its
    solution. With entropic smoothing p is lam times the pointwise mutual information log r_c, with quadratic smoothing
    lam r_c. Arguments are as in `run`.

    Example:
      >>> cost = jnp.array([[[0.0, 1.0]], [[1.0, 0.0]]])
      >>> state, _ = og.structured.run(cost, epsilon=0.5, lam=0.2)
      >>> p = og.perturbed.perturbation(cost, state, epsilon=0.5, lam=0.2)
      >>> print(p)  # code 0 and datum 0 go together: there the cost falls, elsewhere it rises
      [[0.1316 -0.535]
       [-0.535 0.1316]]

    Reference: after arXiv 1912.02160, derived here.
    """
    f, g, proximal = potentials_of(state, "f", "g", "proximal")
    cost, weights, smoothing, f, _ = prepare(cost, weights, epsilon, lam, smoothing, f, g)
    return lam * answer_of(cost, f, proximal, weights, epsilon, lam, smoothing).slope


def perturbed_cost(cost: ArrayLike, p: ArrayLike) -> DenseCost:
    """Return the ground cost C - p between K M latents and B data, which `sinkhorn.run` and `dual.run` take.

    Args:
      cost: [K, M, B], or a matrix [K, B] without noise.
      p: how much the cost falls, [K, B] or [K, M, B]; give -p for the p of an adversary, which raises the cost.

    Returns:
      DenseCost [K M, B]; the latent (c, n) is row c M + n, with weight code[c] noise[n].

    Raises:
      ValueError: for other shapes, or (outside jit) non-finite costs.

    Example:
      >>> cost = jnp.array([[[0.0, 1.0]], [[1.0, 0.0]]])
      >>> print(og.perturbed.perturbed_cost(cost, jnp.array([[0.5, 0.0], [0.0, 0.5]])).matrix())
      [[-0.5 1.]
       [1. -0.5]]
    """
    cost, p = as_array("cost", cost), as_array("p", p)
    cost = cost[:, None] if cost.ndim == 2 else cost
    if cost.ndim != 3 or p.shape not in (cost.shape, (cost.shape[0], cost.shape[2])):
        raise ValueError(f"cost {cost.shape} and p {p.shape}: give [K, M, B], and [K, B] or [K, M, B].")
    perturbed = cost - (p[:, None] if p.ndim == 2 else p)
    return DenseCost(perturbed.reshape(-1, cost.shape[2]))


def encoder_perturbation(log_q: ArrayLike, code: ArrayLike | None = None, *, lam: ArrayLike) -> Float[Array, "K B"]:
    """Return p = lam log(Q(c | x) / P(c)) of an encoder Q: reading (ii), with the encoder as a ground cost.

    E_pi log Q(c|x) / P(c) <= I(c; x), with equality where Q is the plan's posterior. So the best encoder makes C - p
    the cost of reading (i), and the loss that trains it is -E_pi log Q. Any lam >= 0 is allowed; for lam > epsilon the
    joint problem is not convex, and codes become more informative.

    Args:
      log_q: log-probabilities of the codes for every datum [K, B], such as log_softmax(logits, 0).
      code: weights of the codes [K], positive; uniform for None.
      lam: strength, in units of the cost; traced.

    Raises:
      ValueError: (outside jit) for a negative lam, non-finite log_q, or a code of weight zero.

    Example:
      >>> log_q = jnp.log(jnp.array([[0.9, 0.5], [0.1, 0.5]]))  # datum 0 looks like code 0, datum 1 like both
      >>> print(og.perturbed.encoder_perturbation(log_q, lam=1.0))
      [[0.588 0.]
       [-1.6094 0.]]

    Reference: Barber and Agakov (2003); after arXiv 1912.02160, derived here.
    """
    require_nonnegative("lam", lam)
    log_q = as_array("log_q", log_q, (None, None))
    code = probability("code", code, log_q.shape[0], log_q.dtype)
    if not is_traced(code):
        require_positive("the smallest weight in code", smallest_and_sum(code)[0])
    return lam * (log_q - jnp.log(code)[:, None])


def alternate(
    cost: ArrayLike,
    q: ArrayLike,
    weights: Weights | None = None,
    *,
    epsilon: ArrayLike,
    lam: ArrayLike,
    smoothing: str | Smoothing = "entropic",
    tol: ArrayLike = 1e-6,
    max_steps: ArrayLike = 5000,
    return_info: bool = False,
) -> tuple[Array, Array] | tuple[Array, Array, dual.Info]:
    """Take one step of the alternation of reading (ii): transport for C - lam q, then q = f'(r_c) of its plan.

      W <= V(q) = min_pi <C - lam q, pi> + epsilon I_f(pi) + lam E f*(q),   equal at the optimal q.

    V(q) never rises from step to step (convex-concave procedure). Its limit is W for lam <= epsilon, and a local
    optimum for larger lam. With q = f'(1) the first step is plain smoothed transport.

    Args:
      q: [K, B], reward of the pair (c, x) in units of lam.
      tol, max_steps: of the transport inside, as in `dual.run`.
      return_info: whether to return the Info of that transport too, which says whether it converged. Static.
      cost, weights, epsilon, lam, smoothing: as in `dual_value`, but lam may exceed epsilon.

    Returns:
      The next q [K, B], and V at the given one, a scalar in units of the cost. With `return_info` also Info.

    Raises:
      ValueError: for other shapes, weights that are no probabilities, epsilon not positive, a negative lam.

    Example:
      >>> cost, q = jnp.array([[[0.0, 1.0]], [[1.0, 0.0]]]), jnp.zeros((2, 2))
      >>> q, plain = og.perturbed.alternate(cost, q, epsilon=0.5, lam=0.2)
      >>> q, better = og.perturbed.alternate(cost, q, epsilon=0.5, lam=0.2)
      >>> print(plain, better, og.structured.run(cost, epsilon=0.5, lam=0.2)[1].dual_value)  # falls towards W
      0.283 0.204 0.1974

    Reference: Yuille and Rangarajan (2003); after arXiv 1912.02160, derived here.
    """
    require_nonnegative("lam", lam)
    cost, weights, smoothing, _, _ = prepare(cost, weights, epsilon, 0.0, smoothing)
    q = as_array("q", q, (cost.shape[0], cost.shape[2])).astype(cost.dtype)
    reduced = perturbed_cost(cost, lam * q)
    mass = (weights.code[:, None] * weights.noise).ravel()
    numbers = {"epsilon": epsilon, "smoothing": smoothing, "tol": tol, "max_steps": max_steps}
    state, info = dual.run(reduced, mass, weights.data, **numbers)
    v = state.f.reshape(cost.shape[:2])[..., None] - cost + lam * q[:, None]
    value = info.dual_value + lam * product(mean_code(smoothing.conjugate(q), weights), weights.data)
    slope = respond(v, weights, epsilon, 0.0, smoothing).slope
    return (slope, value, info) if return_info else (slope, value)


def adversary(
    cost: ArrayLike,
    state: State,
    weights: Weights | None = None,
    *,
    epsilon: ArrayLike,
    lam: ArrayLike,
    smoothing: str | Smoothing = "entropic",
) -> Float[Array, "K M B"]:
    """Return the worst p(c, n, x) that an adversary adds to the ground cost along noise: reading (iii).

      W = max_p min_pi <C + p, pi> - J*(p) + delta E f(r_c),   the best p = epsilon (f'(r) - f'(r_c)).

    With entropic smoothing the adversary's budget is E_n exp(p / epsilon) <= 1 for every code and datum, J* = 0, and
    p = epsilon log r / r_c. With quadratic smoothing E_n p = 0 and J*(p) = E p^2 / (2 epsilon). The code is smoothed by
    delta only: for lam = epsilon the plan is as sparse in the code as unsmoothed transport. Arguments are as in `run`.

    Example:
      >>> cost = jnp.array([[[0.0, 1.0], [0.2, 1.2]], [[1.0, 0.0], [1.0, 0.0]]])
      >>> state, _ = og.structured.run(cost, epsilon=0.5, lam=0.2)
      >>> p = og.perturbed.adversary(cost, state, epsilon=0.5, lam=0.2)
      >>> print(jnp.exp(p / 0.5).mean(1))  # its budget is spent for every code and datum
      [[1. 1.]
       [1. 1.]]

    Reference: after Paty and Cuturi (2020), arXiv 2002.03229.
    """
    f, g, proximal = potentials_of(state, "f", "g", "proximal")
    cost, weights, smoothing, f, _ = prepare(cost, weights, epsilon, lam, smoothing, f, g)
    if smoothing == QUADRATIC:
        answer = answer_of(cost, f, proximal, weights, epsilon, lam, smoothing)
        return epsilon * (answer.full - answer.code[:, None])
    v = f[..., None] - cost
    return v - epsilon * log_mean_exp(v / epsilon, weights.noise[..., None], axis=1)[:, None]


def evaluate_payoff(
    cost: ArrayLike,
    p: ArrayLike,
    density: ArrayLike,
    weights: Weights | None = None,
    *,
    epsilon: ArrayLike,
    lam: ArrayLike,
    smoothing: str | Smoothing = "entropic",
) -> Float[Array, ""]:
    """Return the payoff <C + p, pi> - J*(p) + delta E f(r_c) of reading (iii), for a p within the adversary's budget.

    At the optimum it is W, which no other p within the budget raises and no other feasible plan lowers. Arguments are
    as in `dual_value`; p comes from `adversary`, and density is the r of the plan, both [K, M, B].

    Example:
      >>> cost, numbers = jnp.array([[[0.0, 1.0], [0.2, 1.2]], [[1.0, 0.0], [1.0, 0.0]]]), {"epsilon": 0.5, "lam": 0.2}
      >>> state, info = og.structured.run(cost, **numbers)
      >>> p, density = og.perturbed.adversary(cost, state, **numbers), og.structured.density(cost, state, **numbers)
      >>> print(og.perturbed.evaluate_payoff(cost, p, density, **numbers), info.dual_value)
      0.2474 0.2474
    """
    cost, weights, smoothing, _, _ = prepare(cost, weights, epsilon, lam, smoothing)
    p, density = (as_array(name, of, cost.shape) for name, of in (("p", p), ("density", density)))
    code = mean_code(smoothing.value(mean_noise(density, weights)), weights)
    payoff = mean_latent((cost + p) * density, weights) + (epsilon - lam) * code
    if smoothing == QUADRATIC:
        payoff = payoff - mean_latent(p**2, weights) / (2 * epsilon)
    return product(payoff, weights.data)
