"""Checks of the semi-discrete scores against float64, and how many a second are made, by several sizes of blocks."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gpu_check.base import EXACT, Context, Result, judged, norm_error, relative, seconds_of


def _problem(rng: np.random.Generator, num: int, points: int, dim: int) -> list[np.ndarray]:
    x, y = (rng.normal(size=(count, dim)).astype(np.float32) for count in (num, points))
    return [x, y, (-0.5 * (y**2).sum(1)).astype(np.float32)]


def scores_values(context: Context) -> Result:
    """The k largest scores against float64, over shapes; and that they tell what is no number.

    A winner is judged by what its score loses against the right one, relative to the largest score.
    """
    from otgen.ot.semidiscrete.scores import top_scores

    rng = context.rng("scores_values")
    ragged = [(1, 1, 1), (65, 63, 1), (5, 129, 64), (200, 300, 130), (4096, 4097, 64), (33, 20_000, 16), (1000, 9, 784)]
    shapes, worst = context.size(ragged, [(65, 63, 1), (5, 129, 40)]), {"error": 0.0, "lost": 0.0}
    same, told = 0, True
    for num, points, dim in shapes:
        x, y, h = _problem(rng, num, points, dim)
        exact = x.astype(np.float64) @ y.astype(np.float64).T + h
        scale = 1 + np.abs(exact).max()
        for k in sorted({1, min(2, points), min(64, points)}):
            best = -np.sort(-exact, axis=1)[:, :k]
            value, index = map(np.asarray, top_scores(x, y, h, k))
            lost = relative(np.take_along_axis(exact, index, 1), best, scale)
            for name, found in (("error", relative(value, best, scale)), ("lost", lost)):
                worst[name] = float(np.maximum(worst[name], found))  # NaN stays
            same += int((np.diff(np.sort(index, axis=1), axis=1) == 0).sum())
        h[rng.integers(points)] = np.nan
        told &= bool(np.isnan(top_scores(x, y, h)[0]).all())
    numbers = {**worst, "points_named_twice": same, "tells_no_number": int(told), "shapes": len(shapes)}
    most = {**dict.fromkeys(worst, EXACT), "points_named_twice": 0}
    return judged(numbers, at_most=most, at_least={"tells_no_number": 1})


def scores_gradients(context: Context) -> Result:
    """Derivatives of the scores by their custom rule, in all three arguments, against float64."""
    from otgen.ot.semidiscrete.scores import top_scores

    rng, k = context.rng("scores_gradients"), 2
    num, points, dim = context.size((2000, 3000, 33), (33, 70, 5))
    x, y, h = _problem(rng, num, points, dim)
    weight = rng.normal(size=(num, k)).astype(np.float32)

    def total(*args: Any) -> tuple[jax.Array, jax.Array]:
        value, index = top_scores(*args, k=k)
        return jnp.sum(weight * value), index

    found, index = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(x, y, h)
    index, weight = np.asarray(index), weight.astype(np.float64)
    of_y, of_h = np.zeros((points, dim)), np.zeros(points)
    np.add.at(of_y, index, weight[..., None] * x[:, None])
    np.add.at(of_h, index, weight)
    exact = (weight[..., None] * y[index]).sum(1), of_y, of_h
    numbers = {
        f"error_in_{name}": norm_error(ours, theirs) for name, ours, theirs in zip("xyh", found, exact, strict=True)
    }
    return judged(numbers, at_most=dict.fromkeys(numbers, EXACT))


def scores_speed(context: Context) -> Result:
    """Scores a second by several sizes of blocks, that of a CPU among them, and the share of float32 products."""
    from otgen import sizes
    from otgen.ot.semidiscrete.scores import streamed

    num, points, dim = context.size((16_384, 65_536, 64), (64, 512, 8))
    args = list(map(jnp.asarray, _problem(context.rng("scores_speed"), num, points, dim)))
    numbers: Result = {"n": num, "points": points, "d": dim}
    for k in (1, 2, 64):
        for block in sorted({sizes.CPU.scored, 4096, 16_384, sizes.here().scored}):
            find = jax.jit(functools.partial(streamed, k=k, block=block))
            seconds = seconds_of(functools.partial(find, *args))
            name = f"best_{k}_by_{block}"
            numbers[f"{name}_scores_per_s"] = num * points / seconds
            numbers[f"{name}_share_of_float32"] = 2 * num * points * dim / seconds / context.ceilings["float32"]
    shares = [name for name in numbers if "share" in name]
    return judged(numbers, at_most={} if context.tiny else dict.fromkeys(shares, 1.2))  # above: timed wrongly
