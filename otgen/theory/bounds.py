"""Convergence theory of deep linear generators under the Bures loss: rates, step sizes, and whether a run obeys them.

The theorems are about balanced weights whose loss L(0) at the start is so small that the margin c = sqrt(lam_k) -
sqrt(L(0)) is positive, where lam_k is the smallest eigenvalue of the target. Their constants are extremely
conservative: at n = 20 the proved rate of the flow may be 1e-9 where 17 is measured, and the largest step that the
theory allows 1e-35. `local_rate` is the rate that runs show at their end. All numbers are computed on the host in
float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen.ot.check import as_count, is_traced, native, require_nonnegative
from otgen.theory.critical import eigenvalues, minimum
from otgen.theory.dynamics import Path, as_chain, as_target, as_tau, end_to_end, imbalance, loss
from otgen.types import Array

WINDOW = (-3.5, -2.0)  # log10 of the losses above the optimum over which the reference fits a rate
SLACK = 1e-6  # error that an integrator may make, as a share of the target's length sqrt(tr)


class Bounds(NamedTuple):
    """What is proved for a start. Rates are per unit of flow time, natural logarithm; 0 where nothing is proved.

    Attributes:
      depth: N.
      rank: the bottleneck k = min_j d_j.
      full_rank: whether k is the dimension n of the target, which all bounds need.
      tau: perturbation.
      loss: L(0).
      optimum: the least loss at this rank.
      margin: the margin deficiency c.
      mass: C_0 = 2 (L(0) + tr target), an upper bound of tr(W W' + tau I) on the way.
      curvature: K, a lower bound of the Hessian of the loss in the covariance; 0 for tau = 0, where it is not needed.
      flow_rate: the rate of the gradient flow, 8 N K c^(2(2N-1)/N) for tau > 0, 4 N c^(2(N-1)/N) for tau = 0.
      rigorous_rate: the same with c^2 - tau, the bound that follows for sigma_min(W)^2, in place of c^2.
      steps: eta_1, eta_2, eta_3 of gradient descent; zeros for tau > 0.
      max_step: the least of them.
      gain: N c^(2(N-1)/N); a step eta up to `max_step` multiplies the loss by 1 - 2 eta gain at most.
    """

    depth: int
    rank: int
    full_rank: bool
    tau: float
    loss: float
    optimum: float
    margin: float
    mass: float
    curvature: float
    flow_rate: float
    rigorous_rate: float
    steps: tuple[float, float, float]
    max_step: float
    gain: float


class Assessment(NamedTuple):
    """How a run compares with the theory; `describe` puts it into words.

    Attributes:
      bounds: what the theory proves for its start.
      imbalance: of the weights at the start.
      balanced: whether that is zero up to rounding.
      margin_positive: whether c > 0.
      tau_admissible: whether 0 <= tau < lam_k.
      full_rank: whether the bottleneck is as wide as the target.
      step_admissible: whether the step is one that the theory covers; true for the flow.
      bound: "flow" or "descent", the theorem that applies; "none" if an assumption fails.
      below_envelope: whether no loss exceeds the envelope beyond rounding: that of the theorem, or of the flow where
        none applies.
      bound_rate: rate of that envelope.
      path_rate: the flow's rate with the extremal eigenvalues along the path in place of their bounds.
      measured_rate: fitted to the losses; NaN if they do not pass through the window.
      local_rate: what theory expects near the optimum; NaN unless full_rank and tau_admissible.
      looseness: measured_rate / bound_rate.
    """

    bounds: Bounds
    imbalance: float
    balanced: bool
    margin_positive: bool
    tau_admissible: bool
    full_rank: bool
    step_admissible: bool
    bound: str
    below_envelope: bool
    bound_rate: float
    path_rate: float
    measured_rate: float
    local_rate: float
    looseness: float


def curvature(target: ArrayLike, cov: ArrayLike) -> float:
    """Return sqrt(lam_min(target) lam_min(cov)) / (2 lam_max(cov)^2), a lower bound of the Hessian of the Bures loss.

    Args:
      target: covariance [n, n].
      cov: where the Hessian in the covariance is taken, the model's W W' + tau I [n, n].

    Returns:
      K' with Hess L[X, X] >= K' |X|_F^2 for symmetric X.

    Raises:
      ValueError: for matrices that are not covariances of one dimension.

    Reference: paper C (arXiv 2303.03027), the convergence proof; with the extremal eigenvalues it is sharper than K.
    """
    target = as_target(target)
    cov = np.asarray(eigenvalues(as_target(cov, target.shape[0])), np.float64)
    least = float(np.asarray(eigenvalues(target))[-1])
    return math.sqrt(least * cov[-1]) / (2 * cov[0] ** 2)


def local_rate(lam_min: ArrayLike, tau: ArrayLike, depth: int) -> float | np.ndarray | Array:
    """Return the rate 4 N (lam_min - tau)^((2N-1)/N) / lam_min at which the loss falls near the optimum.

    It is twice the least positive eigenvalue of the Hessian there. The measured rates of runs approach it from above;
    see `measured_rate`.

    Args:
      lam_min: smallest eigenvalue of the target, all of which the generator can reach.
      tau: perturbation, below lam_min.
      depth: N.

    Returns:
      The rate per unit of time, natural logarithm.

    Raises:
      ValueError: outside jit, for an eigenvalue that is not positive, or a tau outside of [0, lam_min].

    Reference: paper C (arXiv 2303.03027), the slopes of its experiments.
    """
    depth = as_count("depth", depth)
    if not is_traced(lam_min, tau):
        least, part = native("lam_min", lam_min), native("tau", tau)
        if not (np.all(least > 0) and np.all((part >= 0) & (part <= least))):
            raise ValueError(
                f"lam_min = {lam_min} and tau = {tau}: give a positive eigenvalue, and 0 <= tau <= lam_min."
            )
    return 4 * depth * (lam_min - tau) ** ((2 * depth - 1) / depth) / lam_min


def bounds(weights: Sequence[ArrayLike], target: ArrayLike, *, tau: ArrayLike = 0.0) -> Bounds:
    """Return what the theory proves for a run that starts at these weights. It is computed outside jit.

    Args:
      weights: (W_1, ..., W_N), balanced.
      target: covariance [n, n].
      tau: perturbation.

    Returns:
      The bounds; rates and steps are 0 unless c > 0, tau < lam_k and the bottleneck is as wide as the target.

    Raises:
      ValueError: for weights that do not chain, a target that is not a covariance of dimension n, or tau < 0.

    Reference: paper C (arXiv 2303.03027), the theorems on gradient flow and on gradient descent.
    """
    weights = as_chain(weights)
    target = as_target(target, weights[-1].shape[0])
    as_tau(tau)
    tau, depth, rank = float(tau), len(weights), _bottleneck(weights)
    lam = np.asarray(eigenvalues(target), np.float64)
    start = float(loss(weights, target, tau=tau))
    margin = math.sqrt(lam[rank - 1]) - math.sqrt(start)
    mass = 2 * (start + lam.sum())
    applies = margin > 0 and tau < lam[rank - 1] and rank == lam.size
    c = margin if applies else 0.0
    k = math.sqrt(tau * lam[-1]) / (2 * mass**2) if mass > 0 else 0.0
    steps = _steps(c, depth, start, mass, lam) if applies and tau == 0 else (0.0, 0.0, 0.0)
    return Bounds(
        depth=depth,
        rank=rank,
        full_rank=rank == lam.size,
        tau=tau,
        loss=start,
        optimum=float(minimum(lam, rank, tau)),
        margin=margin,
        mass=mass,
        curvature=k,
        flow_rate=_flow_rate(c**2, depth, k, tau),
        rigorous_rate=_flow_rate(max(c**2 - tau, 0.0), depth, k, tau),
        steps=steps,
        max_step=min(steps),
        gain=depth * c ** (2 * (depth - 1) / depth) if applies else 0.0,
    )


def _flow_rate(square: float, depth: int, k: float, tau: float) -> float:
    """Return the flow's rate if sigma_min(W)^2 >= square and, for tau > 0, the loss is k-convex in the covariance."""
    if square <= 0:
        return 0.0
    if tau > 0:
        return 8 * depth * k * square ** ((2 * depth - 1) / depth)
    return 4 * depth * square ** ((depth - 1) / depth)


def _steps(c: float, depth: int, start: float, mass: float, lam: np.ndarray) -> tuple[float, float, float]:
    """Return eta_1, eta_2, eta_3, computed by logarithms because c^(-2N) overflows at depths in use."""
    n, m = depth, math.sqrt(mass)
    gain = n * c ** (2 * (n - 1) / n)
    log_delta = (n + 1) * math.log(2) - 2 * n * math.log(c) + 2 * math.log(n)
    log_delta += (4 * n - 3) / n * math.log(m) + 0.5 * math.log(lam[0])
    if n > 1:
        other = math.log(8 * n * (n - 1)) + (3 * n - 4) / n * math.log(m) + math.log(m ** (1 / n) + lam.sum())
        log_delta = float(np.logaddexp(log_delta, other))
    first = c**2 / (8 * m * math.sqrt(start)) if start > 0 else math.inf
    return first, math.exp(math.log(gain / 2) - log_delta), 1 / (4 * gain)


def envelope(times: ArrayLike, of: Bounds, *, step_size: float = 0.0) -> np.ndarray:
    """Return the curve below which the theory keeps the loss.

    Args:
      times: [T], step * step_size for gradient descent.
      of: the bounds of the start.
      step_size: the step of gradient descent; 0 for the gradient flow.

    Returns:
      [T], float64.

    Raises:
      ValueError: for a step beyond `of.max_step`, about which nothing is proved.

    Reference: paper C (arXiv 2303.03027), the theorems on gradient flow and on gradient descent.
    """
    require_nonnegative("step_size", step_size)
    if step_size > of.max_step:
        raise ValueError(
            f"step_size = {step_size}, but the theory covers steps up to {of.max_step:.3g} here: give step_size=0 for "
            "the envelope of the gradient flow."
        )
    rate = -math.log1p(-2 * step_size * of.gain) / step_size if step_size > 0 else of.flow_rate
    return of.optimum + (of.loss - of.optimum) * np.exp(-rate * np.asarray(times, np.float64))


def measured_rate(
    times: ArrayLike, losses: ArrayLike, optimum: float = 0.0, window: tuple[float, float] = WINDOW
) -> float:
    """Return the rate at which the loss falls, fitted where log10 of its distance from the optimum is in a window.

    Args:
      times: [T].
      losses: [T].
      optimum: the limit of the losses.
      window: log10 of the distances between which to fit. The default is the reference's, where modes other than the
        slowest still count: expect 10 to 25 % more than `local_rate` there, and 2 to 11 % in (-5, -4).

    Returns:
      Minus the slope of log |loss - optimum| by least squares, natural logarithm; NaN with fewer than two records in
      the window.

    Raises:
      ValueError: if times and losses are not lists of one length.

    Reference: paper C (arXiv 2303.03027), the slopes of its experiments.
    """
    times, losses = (np.asarray(native(*it), np.float64) for it in (("times", times), ("losses", losses)))
    if times.ndim != 1 or times.shape != losses.shape:
        raise ValueError(f"times have shape {times.shape} and losses {losses.shape}: give two lists of one length.")
    distance = np.maximum(np.abs(losses - optimum), np.finfo(np.float64).tiny)
    inside = (np.log10(distance) > window[0]) & (np.log10(distance) < window[1])
    if np.count_nonzero(inside) < 2:
        return math.nan
    return float(-np.polyfit(times[inside], np.log(distance[inside]), 1)[0])


def assess(path: Path, target: ArrayLike, tau: ArrayLike = 0.0, *, window: tuple[float, float] = WINDOW) -> Assessment:
    """Compare a run under the Bures loss with the theory.

    Args:
      path: from `flow` or `descend`, recorded from its start on.
      target: covariance [n, n] of that run.
      tau: perturbation of that run.
      window: over which its rate is measured, see `measured_rate`.

    Returns:
      Which assumptions hold, which bound applies, whether it was kept, and how loose it is.

    Raises:
      ValueError: for a path that does not start at time 0, or as in `bounds`.
    """
    times, losses = np.asarray(path.times, np.float64), np.asarray(path.losses, np.float64)
    if times[0] != 0:
        raise ValueError(f"the path starts at time {times[0]}: record it from 0 on, the bounds are about the start.")
    start = [layer[0] for layer in path.weights]
    of = bounds(start, target, tau=tau)
    lam = np.asarray(eigenvalues(target), np.float64)
    rounding = float(jnp.finfo(path.losses.dtype).eps)
    gap, step = float(imbalance(start)), float(path.step_size)
    balanced = gap <= math.sqrt(rounding) * max(float(jnp.sum(layer**2)) for layer in start)
    admissible = of.tau < lam[of.rank - 1]
    covered = step <= of.max_step
    holds = balanced and of.margin > 0 and admissible and of.full_rank and covered
    curve = envelope(times, of, step_size=step if covered else 0.0)
    bound_rate = -math.log1p(-2 * step * of.gain) / step if covered and step > 0 else of.flow_rate
    rate = measured_rate(times, losses, of.optimum, window)
    return Assessment(
        bounds=of,
        imbalance=gap,
        balanced=balanced,
        margin_positive=of.margin > 0,
        tau_admissible=bool(admissible),
        full_rank=of.full_rank,
        step_admissible=covered,
        bound=("descent" if step > 0 else "flow") if holds else "none",
        below_envelope=bool(np.all(losses <= _with_slack(curve, of, lam.sum(), rounding))),
        bound_rate=bound_rate,
        path_rate=_path_rate(path, lam, of),
        measured_rate=rate,
        local_rate=local_rate(float(lam[-1]), of.tau, of.depth) if of.full_rank and admissible else math.nan,
        looseness=rate / bound_rate if bound_rate > 0 else math.inf,
    )


def _with_slack(curve: np.ndarray, of: Bounds, trace: float, rounding: float) -> np.ndarray:
    length = np.sqrt(np.maximum(curve - of.optimum, 0.0)) + SLACK * math.sqrt(trace)
    return of.optimum + length**2 + 1e3 * rounding * (of.loss + trace)


def _path_rate(path: Path, lam: np.ndarray, of: Bounds) -> float:
    """Return the flow's rate by the extremal eigenvalues at the records and on the segments from them to the target."""
    if not of.full_rank:
        return 0.0
    s = np.linalg.svd(np.asarray(jax.vmap(lambda *w: end_to_end(w))(*path.weights), np.float64), compute_uv=False)
    square = float(np.min(s[:, of.rank - 1]) ** 2)
    low, high = min(square + of.tau, lam[-1]), max(float(np.max(s)) ** 2 + of.tau, lam[0])
    return _flow_rate(square, of.depth, math.sqrt(lam[-1] * low) / (2 * high**2), of.tau)


def describe(assessment: Assessment) -> str:
    """Say in words how a run compares with the theory.

    Args:
      assessment: from `assess`.

    Returns:
      A few lines: the assumptions, the bound, the rates.
    """
    a, of = assessment, assessment.bounds
    names = {
        f"balanced (imbalance {a.imbalance:.2g})": a.balanced,
        f"margin deficiency positive (c = {of.margin:.3g})": a.margin_positive,
        f"tau = {of.tau:.3g} below the eigenvalue number {of.rank}": a.tau_admissible,
        f"full row rank (bottleneck {of.rank})": a.full_rank,
        f"step within the theory (up to {of.max_step:.2g})": a.step_admissible,
    }
    lines = [f"assumptions: {'; '.join(('yes' if holds else 'NO') + ', ' + name for name, holds in names.items())}."]
    if a.bound == "none":
        lines.append("bound: no theorem applies; compared with the gradient flow's envelope only.")
    else:
        lines.append(f"bound: gradient {a.bound}.")
    if of.tau > 0:
        lines.append(f"rigorous form of the flow's rate, with c^2 - tau for c^2: {of.rigorous_rate:.3g}.")
    lines.append(f"losses: {'never above' if a.below_envelope else 'ABOVE'} the envelope.")
    lines.append(
        f"rates per unit of time: envelope {a.bound_rate:.3g}, with the eigenvalues met on the way {a.path_rate:.3g}, "
        f"local theory {a.local_rate:.4g}, measured {a.measured_rate:.4g}: {a.looseness:.3g} times the envelope's."
    )
    return "\n".join(lines)


def _bottleneck(weights: Sequence[Array]) -> int:
    return min(weights[0].shape[1], *(layer.shape[0] for layer in weights))
