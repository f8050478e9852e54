"""Checks of the smoothed minimum against float64, and that no result carries TF32."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gpu_check.base import EXACT, Context, Result, default_product, judged, norm_error, relative, seconds_of


def _softmin_problem(rng: np.random.Generator, num: int, other: int, dim: int) -> list[np.ndarray]:
    shapes = (num, dim), (other, dim), (other,), (other,)
    x, y, potential, log_weights = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    return [x, y + 1, potential, log_weights]


def _exact_softmin(x, y, epsilon, potential, log_weights) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values [n], plan [n, m] and scores [n, m] in float64."""
    x, y, potential, log_weights = (np.asarray(array, np.float64) for array in (x, y, potential, log_weights))
    cost = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    scores = (potential - cost) / epsilon
    logits = scores + log_weights
    top = logits.max(1, keepdims=True)
    total = np.exp(logits - top).sum(1, keepdims=True)
    return -epsilon * (top + np.log(total))[:, 0], np.exp(logits - top) / total, scores


def softmin_values(context: Context) -> Result:
    """The streamed smoothed minimum against float64, over shapes and temperatures, relative to the costs."""
    from otgen.ot.costs import PairwiseCost

    rng, worst = context.rng("softmin_values"), 0.0
    ragged = [(1, 1, 1), (65, 63, 1), (5, 129, 64), (200, 300, 130), (1000, 777, 33), (4096, 4097, 64), (33, 20000, 16)]
    shapes = context.size(ragged, [(65, 63, 1), (5, 129, 40)])
    for num, other, dim in shapes:
        x, y, potential, log_weights = _softmin_problem(rng, num, other, dim)
        for epsilon in (1e-3, 0.3, 10.0, 1e3):
            exact = _exact_softmin(x, y, epsilon, potential, log_weights)[0]
            scale = 1 + (x**2).sum(1).max() + (y**2).sum(1).max() + epsilon * math.log(other + 1)
            found = PairwiseCost(x, y).softmin(epsilon, potential, log_weights)
            worst = float(np.maximum(worst, relative(found, exact, scale)))  # NaN stays
    return judged({"error": worst, "shapes": len(shapes), "temperatures": 4}, at_most={"error": EXACT})


def softmin_speed(context: Context) -> Result:
    """Seconds of a softmin and of its gradient in the points, by several sizes of blocks."""
    from otgen.ot.costs import BLOCK, PairwiseCost

    num, dim = context.size((16384, 64), (64, 8))
    x, y, potential, log_weights = map(jnp.asarray, _softmin_problem(context.rng("softmin_speed"), num, num, dim))
    numbers: Result = {"n": num, "d": dim}
    for block in (BLOCK, 16 * BLOCK, 256 * BLOCK):

        def softmin(x, block=block):
            return PairwiseCost(x, y, block=block).softmin(6.0, potential, log_weights)

        value, gradient = jax.jit(softmin), jax.jit(jax.grad(lambda x, f=softmin: f(x).sum()))
        numbers[f"by_{block}_seconds"] = seconds_of(functools.partial(value, x))
        numbers[f"by_{block}_gradient_seconds"] = seconds_of(functools.partial(gradient, x))
        rate = 2 * num * num * dim / numbers[f"by_{block}_seconds"]
        numbers[f"by_{block}_share_of_float32"] = rate / context.ceilings["float32"]
    shares = [name for name in numbers if "share" in name]
    return judged(numbers, at_most={} if context.tiny else dict.fromkeys(shares, 1.2))  # above: timed wrongly


def trap_distances(context: Context) -> Result:
    """Squared distances far from the origin, and of points to themselves, carry no TF32; beside them the default."""
    from otgen.ot.costs import PairwiseCost

    num, dim = context.size((2048, 64), (128, 64))
    x, y = np.round(1024 * context.rng("trap_distances").normal(size=(2, num, dim))).astype(np.float32) / 1024
    far = x + 1000, y + 1000  # exact in float32
    exact = _sq_distances(x, y)
    mean = exact.mean()
    naive = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * default_product(x, y.T)
    numbers = {
        "shifted_error": relative(PairwiseCost(*far).matrix(), exact, mean),
        "self_distance": relative(jnp.diag(PairwiseCost(far[0], far[0]).matrix()), np.zeros(num), mean),
        "softmin_error": relative(
            PairwiseCost(*far).softmin(1.0, np.zeros(num, np.float32)),
            _exact_softmin(x, y, 1.0, np.zeros(num), np.zeros(num))[0],
            mean,
        ),
        "default_precision_error": relative(naive, exact, mean),
    }
    names = ("shifted_error", "self_distance", "softmin_error")
    return judged(_armed(numbers, EXACT), at_most=dict.fromkeys(names, EXACT))


def _sq_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = x.astype(np.float64), y.astype(np.float64)
    return (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T


def _armed(numbers: Result, limit: float) -> Result:
    """Say whether arithmetic at default precision would fail here: no on a CPU, yes where products are TF32."""
    return {**numbers, "default_would_fail": numbers["default_precision_error"] > limit}


def trap_scores(context: Context) -> Result:
    """Winners of the semi-discrete scores lose nothing against float64; beside them those of default precision."""
    from otgen.ot.semidiscrete.scores import top_scores

    num, points, dim = context.size((2048, 20_000, 64), (128, 500, 64))
    rng = context.rng("trap_scores")
    x, y = rng.normal(size=(num, dim)).astype(np.float32), rng.normal(size=(points, dim)).astype(np.float32)
    h = -0.5 * (y**2).sum(1)
    exact = x.astype(np.float64) @ y.astype(np.float64).T + h.astype(np.float64)
    best, scale = exact.max(1), np.abs(exact).max()

    def lost(winner: Any) -> float:
        return float((best - np.take_along_axis(exact, np.asarray(winner)[:, None], 1)[:, 0]).max() / scale)

    value, winner = top_scores(*map(jnp.asarray, (x, y, h)))
    numbers = {
        "value_error": relative(value[:, 0], best, scale),
        "lost_by_winners": lost(winner[:, 0]),
        "default_precision_error": lost((default_product(x, y.T) + h).argmax(1)),
    }
    names = ("value_error", "lost_by_winners")
    return judged(_armed(numbers, EXACT), at_most=dict.fromkeys(names, EXACT))


def trap_sinkhorn(context: Context) -> Result:
    """The marginal error that a run reports is that of its potentials in float64, dense and streamed."""
    import otgen as og
    from experiments.bench.sinkhorn import marginal_error, points, sq_distances

    num, tol = context.size(2048, 200), 1e-4
    x, y = points(num, 64, context.seed)
    exact = sq_distances(x, y)
    epsilon = float(0.03 * exact.mean())

    def error(cost, **options) -> float:
        state, _ = og.sinkhorn.run(cost, epsilon=epsilon, tol=tol, max_steps=5000, **options)
        return marginal_error(exact, *state, epsilon)

    naive = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * default_product(x, y.T)
    numbers = {
        "dense_error": error(og.PairwiseCost(x, y), dense=True),
        "streamed_error": error(og.PairwiseCost(x, y), dense=False),
        "default_precision_error": error(og.DenseCost(naive)),
    }
    return judged(_armed(numbers, 1.5 * tol), at_most=dict.fromkeys(("dense_error", "streamed_error"), 1.5 * tol))


def trap_barycentre(context: Context) -> Result:
    """The barycenter of commuting covariances, whose root is the mean of theirs; beside it one default product."""
    import otgen as og

    rng, (num, dim) = context.rng("trap_barycentre"), context.size((64, 64), (3, 6))
    basis, roots = np.linalg.qr(rng.normal(size=(dim, dim)))[0], np.exp(0.5 * rng.normal(size=(num, dim)))
    covs = np.stack([(basis * root**2) @ basis.T for root in roots]).astype(np.float32)
    exact, half = (basis * roots.mean(0) ** 2) @ basis.T, (basis * roots.mean(0)).astype(np.float32)
    numbers = {
        "error": norm_error(og.gaussian.barycenter(covs)[0], exact),
        "default_precision_error": norm_error(default_product(half, half.T), exact),
    }
    return judged(_armed(numbers, 1e-5), at_most={"error": 1e-5})
