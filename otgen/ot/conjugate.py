"""The convex conjugate psi*(y) = max_x <x, y> - psi(x), one problem per row, by limited-memory quasi-Newton steps.

The maximiser x*(y) = grad psi*(y) is where grad psi(x) = y: the inverse of the transport map grad psi.

Reference: Amos (2023), arXiv 2210.12153; Liu and Nocedal (1989), On the limited memory BFGS method.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.ot.check import as_array, as_count, as_points, is_traced
from otgen.types import Array, Float

_SUFFICIENT = 1e-4  # of the decrease that the slope promises (Armijo)


class Conjugate(NamedTuple):
    """Conjugates of n rows.

    Attributes:
      points: maximisers x*(y) [n, d].
      values: psi*(y) [n], from below: off by at most residual^2 over twice the least curvature.
      residual: |grad psi(x*) - y| [n].
      step: length [n] of a gradient step that fits the curvature met last, for the next call on the same rows.
    """

    points: Float[Array, "n d"]
    values: Float[Array, " n"]
    residual: Float[Array, " n"]
    step: Float[Array, " n"]


class _Search(NamedTuple):
    """Where every row [n, ...] is: point, psi(x) - <x, y>, its gradient, the memory of steps, how far the last went."""

    x: Array
    value: Array
    slope: Array
    moves: Array
    turns: Array
    inverse: Array
    step: Array
    share: Array


def solve(
    potential: Callable[[Array], Array],
    y: ArrayLike,
    start: ArrayLike | None = None,
    *,
    step: ArrayLike = 1.0,
    num_steps: int = 100,
    memory: int = 5,
    halvings: int = 0,
) -> Conjugate:
    """Maximise <x, y> - psi(x) for every row y.

    Every row takes its own quasi-Newton steps; one that neither decreases psi(x) - <x, y> enough nor the residual is
    taken back and shortened. The steps are not differentiated through: by the envelope theorem the gradient of psi*(y)
    in y is `points`, and in parameters of psi it is minus that of psi at `points`.

    Args:
      potential: psi, convex and differentiable: [n, d] -> [n], row by row. Static: outside jit, define yours once, and
        give one that closes over other numbers as another function.
      y: slopes [n, d].
      start: points [n, d] to start from; y for None.
      step: length of the first gradient step, a number or [n]; `Conjugate.step` of an earlier call. Traced.
      num_steps: steps, an evaluation of psi and its gradient each. Static.
      memory: steps remembered. Static.
      halvings: how often the half of the rows that is left with the larger residuals goes on, for `num_steps` steps
        more: where psi bends sharply on some rows alone, they get most of the evaluations, at less than twice the
        price of none. Static.

    Returns:
      Conjugate. Look at `residual`: nothing is raised where it is not small.

    Raises:
      ValueError: for shapes that do not agree, numbers of steps that are no whole numbers, a potential that does not
        return one number per row, or (outside jit) points that are not finite.

    Example:
      >>> from otgen.ot import conjugate
      >>> found = conjugate.solve(lambda x: jnp.sum(x**2, 1), jnp.array([[2.0, 0.0], [0.0, 6.0]]))
      >>> print(found.points, found.values)  # |y|^2 / 4, at y / 2
      [[1. 0.]
       [0. 3.]] [1. 9.]
    """
    y = as_points("y", y, 1)
    x = y if start is None else as_points("start", start, 1)
    if x.shape != y.shape:
        raise ValueError(f"start has shape {x.shape} and y {y.shape}: give one point per slope.")
    num_steps, memory = as_count("num_steps", num_steps), as_count("memory", memory)
    halvings = as_count("halvings", halvings, 0)
    dtype = jnp.promote_types(x.dtype, y.dtype)
    x, y = x.astype(dtype), y.astype(dtype)
    returned = getattr(jax.eval_shape(potential, x), "shape", None)
    if returned != y.shape[:1]:
        raise ValueError(f"the potential returns shape {returned} for points {x.shape}: give one number per row.")
    step = as_array("step", step, None if jnp.ndim(step) == 0 else y.shape[:1], finite=False)
    lengths = jnp.broadcast_to(step.astype(dtype), y.shape[:1])
    compiled = not is_traced(x, y, lengths) and isinstance(potential, Hashable)
    return (_compiled if compiled else _solve)(potential, y, x, lengths, num_steps, memory, halvings)


def _solve(
    potential: Callable[[Array], Array],
    y: Array,
    x: Array,
    lengths: Array,
    num_steps: int,
    memory: int,
    halvings: int,
) -> Conjugate:
    (rows, dim), dtype = y.shape, y.dtype
    held, x = jax.lax.stop_gradient((y, x))

    def evaluate(x: Array, held: Array) -> tuple[Array, Array]:
        values, pull = jax.vjp(potential, x)
        return values.astype(dtype) - jnp.sum(x * held, axis=1), pull(jnp.ones_like(values))[0] - held

    empty = jnp.zeros((rows, memory, dim), dtype)
    first = _Search(
        x, *evaluate(x, held), empty, empty, jnp.zeros((rows, memory), dtype), lengths, jnp.ones(rows, dtype)
    )
    last = _search(evaluate, held, first, num_steps, halvings)
    x, slope, lengths = jax.lax.stop_gradient((last.x, last.slope, last.step))
    return Conjugate(x, jnp.sum(x * y, axis=1) - potential(x), jnp.linalg.norm(slope, axis=1), lengths)


_compiled = jax.jit(_solve, static_argnums=(0, 4, 5, 6))


def _search(evaluate: Callable, y: Array, now: _Search, num_steps: int, halvings: int) -> _Search:
    """Advance all rows, then the half with the larger residuals, then the half of that, and so on."""
    now = jax.lax.fori_loop(0, num_steps, lambda _, now: _advance(evaluate, y, now), now)
    if halvings == 0 or len(y) == 1:
        return now
    _, worst = jax.lax.top_k(jnp.sum(now.slope**2, axis=1), -(-len(y) // 2))
    part = _search(evaluate, y[worst], jax.tree.map(lambda leaf: leaf[worst], now), num_steps, halvings - 1)
    return jax.tree.map(lambda all_, some: all_.at[worst].set(some), now, part)


def _advance(evaluate: Callable, y: Array, now: _Search) -> _Search:
    move = -now.share[:, None] * _direction(now)
    x = now.x + move
    value, slope = evaluate(x, y)
    promised = jnp.sum(now.slope * move, axis=1)
    lower = value <= now.value + _SUFFICIENT * promised
    flatter = jnp.sum(slope**2, axis=1) < jnp.sum(now.slope**2, axis=1)
    taken = lower | flatter
    turn = slope - now.slope
    curvature = jnp.sum(move * turn, axis=1)
    turned = jnp.sum(turn**2, axis=1)
    noise = 32 * jnp.finfo(x.dtype).eps  # turns smaller than this are rounding, and say nothing of curvature
    bent = turned > noise**2 * (jnp.sum(y**2, axis=1) + jnp.sum((slope + y) ** 2, axis=1))
    bent &= jnp.isfinite(curvature) & (curvature > jnp.finfo(x.dtype).eps * jnp.sqrt(turned * jnp.sum(move**2, axis=1)))
    inverse = jnp.where(bent, 1 / jnp.where(bent, curvature, 1.0), 0.0)
    length = curvature / jnp.where(turned > 0, turned, 1.0)

    def keep(new: Array, old: Array) -> Array:
        return jnp.where(taken if new.ndim == 1 else taken[:, None], new, old)

    def push(new: Array, old: Array) -> Array:
        new = jnp.where(bent if new.ndim == 1 else bent[:, None], new, 0.0)  # a remembered NaN would never leave
        return jnp.concatenate([new[:, None], old[:, :-1]], axis=1)

    return _Search(
        keep(x, now.x),
        keep(value, now.value),
        keep(slope, now.slope),
        push(move, now.moves),
        push(turn, now.turns),
        push(inverse, now.inverse),
        jnp.where(bent, length, now.step),
        jnp.where(taken, jnp.minimum(1.0, 4 * now.share), 0.25 * now.share),
    )


def _direction(now: _Search) -> Array:
    """Return the inverse curvature remembered, applied to the gradient: the two-loop recursion, newest step first."""
    direction, weights = now.slope, []
    steps = [(now.moves[:, k], now.turns[:, k], now.inverse[:, k]) for k in range(now.inverse.shape[1])]
    for move, turn, inverse in steps:
        weight = inverse * jnp.sum(move * direction, axis=1)
        direction = direction - weight[:, None] * turn
        weights.append(weight)
    direction = direction * now.step[:, None]
    for (move, turn, inverse), weight in zip(reversed(steps), reversed(weights), strict=True):
        direction = direction + move * (weight - inverse * jnp.sum(turn * direction, axis=1))[:, None]
    return direction
