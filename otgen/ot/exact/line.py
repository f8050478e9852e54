"""Exact transport on the line: one plan for every convex cost, by sorting."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.ot.check import as_array, native, probability, require_function
from otgen.types import Array, Float


class Coupling(NamedTuple):
    """A plan on the line, as a list of its atoms in the order of the quantiles; some atoms have mass zero.

    Attributes:
      i: indices into x [n + m] (int32).
      j: indices into y [n + m] (int32).
      mass: of the pair (x_i, y_j), sums to 1 [n + m].

    Example:
      >>> plan = og.exact.coupling_line(jnp.array([0.0, 1.0]), jnp.array([5.0]))
      >>> print(plan.i[plan.mass > 0], plan.j[plan.mass > 0], plan.mass[plan.mass > 0])
      [0 1] [0 0] [0.5 0.5]
    """

    i: Array
    j: Array
    mass: Array


def _line(name: str, points: ArrayLike) -> Array:
    points = native(name, points)
    if points.ndim != 1 or points.shape[0] < 1:
        raise ValueError(f"{name} has shape {points.shape}: give points on the line, shape [n].")
    return as_array(name, points)


def coupling_line(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
) -> Coupling:
    """Return the optimal plan between weighted points on the line, for every convex cost of x - y at once.

    At the quantile t in (0, 1) it joins the point of x and the point of y whose cumulated weights pass t. It may be
    jitted. The masses are differentiable in the weights; the indices are locally constant.

    Args:
      x: points [n], in any order.
      y: points [m].
      a, b: weights [n], [m] that sum to 1, zeros allowed; uniform for None.

    Returns:
      Coupling with n + m atoms.

    Raises:
      ValueError: for points that are not on the line or not finite, or weights that are no probabilities.

    Example:
      >>> plan = og.exact.coupling_line(jnp.array([0.0, 1.0]), jnp.array([9.0, 5.0, 7.0]))
      >>> matrix = jnp.zeros((2, 3)).at[plan.i, plan.j].add(plan.mass)
      >>> print(matrix)  # half of y's mass each, in order
      [[0. 0.3333 0.1667]
       [0.3333 0. 0.1667]]

    Reference: Santambrogio (2015), Optimal Transport for Applied Mathematicians, section 2.2; Peyre and Cuturi (2019),
    arXiv 1803.00567, remark 2.30.
    """
    x, y = _line("x", x), _line("y", y)
    dtype = jnp.promote_types(x.dtype, y.dtype)
    a, b = probability("a", a, x.shape[0], dtype), probability("b", b, y.shape[0], dtype)
    return _coupling(x, y, a, b)


@jax.jit
def _coupling(x: Array, y: Array, a: Array, b: Array) -> Coupling:
    order_x, order_y = jnp.argsort(x), jnp.argsort(y)
    level_x, level_y = jnp.cumsum(a[order_x]), jnp.cumsum(b[order_y])
    level_x, level_y = level_x / level_x[-1], level_y / level_y[-1]
    levels = jnp.sort(jnp.concatenate([level_x, level_y]))
    mass = jnp.diff(levels, prepend=jnp.zeros(1, levels.dtype))
    middle = jax.lax.stop_gradient(levels - 0.5 * mass)
    i = jnp.minimum(jnp.searchsorted(level_x, middle), x.shape[0] - 1)
    j = jnp.minimum(jnp.searchsorted(level_y, middle), y.shape[0] - 1)
    i, j = order_x[_alive(a[order_x])[i]], order_y[_alive(b[order_y])[j]]
    return Coupling(i.astype(jnp.int32), j.astype(jnp.int32), mass)


def _alive(weights: Array) -> Array:
    """Return for every position the last position up to it that carries mass; the first that does if there is none."""
    alive = weights > 0
    return jax.lax.cummax(jnp.where(alive, jnp.arange(weights.size), jnp.argmax(alive)))


def value_line(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    h: Callable[[Array], Array] = jnp.square,
) -> Float[Array, ""]:
    """Return min_pi E h(x - y) for a convex h: with h = square the squared 2-Wasserstein distance on the line.

    It is differentiable in points and weights, with the plan's indices held fixed by the envelope theorem, and can be
    vmapped over slices. Where cumulated weights of x and y coincide, as they do for uniform weights and n = m, the
    value has a kink in the weights, and the derivative is a subgradient.

    Args:
      x, y, a, b: as in `coupling_line`.
      h: convex function of a difference, applied to arrays; not checked. Define yours once. Static.

    Returns:
      A scalar.

    Raises:
      ValueError: as in `coupling_line`.

    Example:
      >>> print(og.exact.value_line(jnp.array([0.0, 1.0]), jnp.array([4.0, 3.0])))  # 0 goes to 3, and 1 to 4
      9.0
      >>> print(og.exact.value_line(jnp.array([0.0, 1.0]), jnp.array([4.0, 3.0]), h=jnp.abs))
      3.0
    """
    require_function("h", h)
    x, y = _line("x", x), _line("y", y)
    i, j, mass = coupling_line(x, y, a, b)
    return jnp.sum(mass * h(x[i] - y[j]))


def potentials_line(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    h: Callable[[Array], Array] = jnp.square,
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    """Return the dual potentials of transport on the line: f_i + g_j <= h(x_i - y_j), with equality on the plan.

    Along the plan in the order of the quantiles either x or y goes on, and the potential of the one that does rises by
    what the cost does; for convex h no other pair is then violated. sum a_i f_i + sum b_j g_j is `value_line`, and f
    and g are its derivatives in the weights, one of several where cumulated weights of x and y coincide.

    Args:
      x, y, a, b: as in `coupling_line`.
      h: convex function of a difference, as in `value_line`. Static.

    Returns:
      f [n], centred: sum a_i f_i = 0, and g [m].

    Raises:
      ValueError: as in `coupling_line`.

    Example:
      >>> x, y = jnp.array([0.0, 1.0]), jnp.array([4.0, 3.0])
      >>> f, g = og.exact.potentials_line(x, y)
      >>> print(f, g, f.mean() + g.mean() == og.exact.value_line(x, y))
      [ 2.5 -2.5] [11.5 6.5] True

    Reference: Hoffman (1963), On simple linear programming problems; Peyre and Cuturi (2019), arXiv 1803.00567, remark
    2.30.
    """
    require_function("h", h)
    x, y = _line("x", x), _line("y", y)
    dtype = jnp.promote_types(x.dtype, y.dtype)
    a, b = probability("a", a, x.shape[0], dtype), probability("b", b, y.shape[0], dtype)
    return _potentials(x, y, a, b, h)


@functools.partial(jax.jit, static_argnames="h")
def _potentials(x: Array, y: Array, a: Array, b: Array, h: Callable[[Array], Array]) -> tuple[Array, Array]:
    (n,), (m,) = x.shape, y.shape
    order_x, order_y = jnp.argsort(x), jnp.argsort(y)
    level_x, level_y = jnp.cumsum(a[order_x]), jnp.cumsum(b[order_y])
    levels = jnp.concatenate([level_x[:-1] / level_x[-1], level_y[:-1] / level_y[-1]])
    of_x = jnp.argsort(levels) < n - 1  # which side goes on, from one pair to the next
    i, j = (jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(it, dtype=jnp.int32)]) for it in (of_x, ~of_x))
    rises = jnp.diff(costs := h(x[order_x[i]] - y[order_y[j]]))
    f = jnp.cumsum(jnp.zeros(n, costs.dtype).at[i[1:]].add(jnp.where(of_x, rises, 0)))
    g = costs[0] + jnp.cumsum(jnp.zeros(m, costs.dtype).at[j[1:]].add(jnp.where(of_x, 0, rises)))
    f, g = jnp.zeros_like(f).at[order_x].set(f), jnp.zeros_like(g).at[order_y].set(g)
    mean = jnp.sum(a * f)
    return f - mean, g + mean
