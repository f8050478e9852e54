"""Exact transport where it is cheap: on the line by sorting, between as many points as points by assignment.

On the line every convex cost h(x - y) has the same optimal plan, which matches quantiles: the north-west corner rule on
sorted points. Between n and n points of equal weight some permutation is optimal (Birkhoff), found on the host by
SciPy's Jonker-Volgenant algorithm; its dual potentials, the solution of the linear program's dual, follow from shortest
paths.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

from otgen.ot.check import is_traced, require_finite
from otgen.ot.costs import Cost
from otgen.ot.smoothed import as_cost, probability
from otgen.types import Array


class Coupling(NamedTuple):
    """A plan on the line, by its atoms in the order of the quantiles; some have mass zero.

    Attributes:
      i: indices into x [n + m] (int32).
      j: indices into y [n + m] (int32).
      mass: of the pair (x_i, y_j), sums to 1 [n + m].
    """

    i: Array
    j: Array
    mass: Array


class Assignment(NamedTuple):
    """An optimal matching of n points with n points.

    Attributes:
      index: row i goes to column index[i] [n] (int32).
      value: mean cost of the pairs, the optimum of the linear program with weights 1/n.
    """

    index: Array
    value: Array


def _line(name: str, points: ArrayLike) -> Array:
    points = jnp.asarray(points)
    if points.ndim != 1 or points.shape[0] < 1:
        raise ValueError(f"{name} has shape {points.shape}: give points on the line, shape [n].")
    require_finite(name, points)
    return points.astype(jnp.promote_types(points.dtype, jnp.float32))


def coupling_line(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
) -> Coupling:
    """Return the optimal plan between weighted points on the line, for every convex cost of x - y at once.

    At the quantile t in (0, 1) it joins the point of x and the point of y whose cumulated weights pass t. Jittable;
    the masses are differentiable in the weights, the indices are locally constant.

    Args:
      x: points [n], in any order.
      y: points [m].
      a, b: weights [n], [m] that sum to 1, zeros allowed; uniform for None.

    Returns:
      Coupling with n + m atoms.

    Raises:
      ValueError: for points that are not on the line or not finite, or weights that are no probabilities.

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
    return Coupling(order_x[i].astype(jnp.int32), order_y[j].astype(jnp.int32), mass)


def value_line(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    h: Callable[[Array], Array] = jnp.square,
) -> Float[Array, ""]:
    """Return min_pi E h(x - y) for a convex h: with h = square the squared 2-Wasserstein distance on the line.

    Differentiable in points and weights, and vmap-able over slices: x, y are read through the plan's indices, which the
    envelope theorem lets stand still. Where cumulated weights of x and y coincide the value has a kink in the weights
    (always so for uniform weights and n = m), and a subgradient comes back.

    Args:
      x, y, a, b: as in `coupling_line`.
      h: convex function of a difference, applied to arrays; not checked. Define yours once. Static.

    Returns:
      A scalar.

    Raises:
      ValueError: as in `coupling_line`.
    """
    x, y = _line("x", x), _line("y", y)
    i, j, mass = coupling_line(x, y, a, b)
    return jnp.sum(mass * h(x[i] - y[j]))


def _square_matrix(cost: Cost | ArrayLike) -> Array:
    cost = as_cost(cost)
    if cost.shape[0] != cost.shape[1]:
        raise ValueError(f"cost is {cost.shape}: an assignment needs as many rows as columns; see dual.run for others.")
    return cost.matrix()


def assignment(cost: Cost | ArrayLike) -> Assignment:
    """Return the permutation s that minimises mean_i c[i, s(i)], exact optimal transport of n equal points to n.

    SciPy solves it on the host, in O(n^3) at worst and about a second for n = 3000; inside jit by a callback, one
    problem after another under vmap. The value is differentiable in the cost, with the permutation held fixed.

    Args:
      cost: ground cost with n rows and columns, or a matrix [n, n].

    Returns:
      Assignment.

    Raises:
      ValueError: if the cost is not square, or (outside jit) not finite.

    Reference: Crouse (2016), On implementing 2D rectangular assignment algorithms.
    """
    matrix = _square_matrix(cost)
    index = _match(jax.lax.stop_gradient(matrix))
    return Assignment(index, jnp.mean(jnp.take_along_axis(matrix, index[:, None], 1)))


def _match(matrix: Array) -> Array:
    def host(matrix: Any) -> np.ndarray:
        matrix = np.asarray(matrix, np.float64)
        if not np.isfinite(matrix).all():  # the value shows NaN; SciPy would raise inside the callback
            return np.arange(matrix.shape[0], dtype=np.int32)
        return linear_sum_assignment(matrix)[1].astype(np.int32)

    if not is_traced(matrix):
        return jnp.asarray(host(matrix))
    shape = jax.ShapeDtypeStruct(matrix.shape[:1], jnp.int32)
    return jax.pure_callback(host, shape, matrix, vmap_method="sequential")


def potentials(cost: Cost | ArrayLike, index: ArrayLike) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Return dual potentials of an optimal assignment: f_i + g_j <= c_ij, with equality on the matched pairs.

    Both conditions together say f_i <= f_k + c[i, s(k)] - c[k, s(k)] for all i, k: f is a shortest distance in the
    graph with these edges, which has no negative cycle because s is optimal. Bellman and Ford's relaxation finds it in
    at most n sweeps of n^2, usually a few dozen. Feasible to rounding; sum f = 0. Potentials of an assignment are not
    unique: those that the search from the rows and the search from the columns find are averaged, which treats both
    sides alike.

    Args:
      cost: ground cost with n rows and columns, or a matrix [n, n].
      index: optimal assignment [n], from `assignment`.

    Returns:
      f [n] of the rows and g [n] of the columns, in units of the cost; mean f + mean g is the optimal value.

    Raises:
      ValueError: if the cost is not square, or (outside jit) if index is no permutation or not an optimal one.

    Reference: Ahuja, Magnanti and Orlin (1993), Network Flows, section 9.
    """
    matrix, index = jax.lax.stop_gradient(_square_matrix(cost)), jnp.asarray(index)
    num = matrix.shape[0]
    if not is_traced(index) and not np.array_equal(np.sort(np.asarray(index)), np.arange(num)):
        raise ValueError(f"index {index.shape} is no permutation of 0..{num - 1}: give Assignment.index of this cost.")
    f, g = _potentials(matrix, index)
    if not is_traced(f):
        slack = float(jnp.max(jnp.abs(jnp.take_along_axis(matrix, index[:, None], 1)[:, 0] - f - g[index])))
        if slack > 1e3 * num * float(jnp.finfo(f.dtype).eps) * float(jnp.max(jnp.abs(matrix)) + 1e-30):
            raise ValueError(f"index is not optimal for this cost: matched pairs miss equality by {slack:.3g}.")
    return f, g


@jax.jit
def _potentials(matrix: Array, index: Array) -> tuple[Array, Array]:
    inverse = jnp.argsort(index)
    f = _shortest(matrix[:, index])  # column k is where row k goes
    other = _shortest(matrix[inverse].T)  # the same for columns
    f = 0.5 * (f + jnp.min(matrix - other, 1))
    f = f - f.mean()
    return f, jnp.min(matrix - f[:, None], 0)


def _shortest(matrix: Array) -> Array:
    """Solve f_i = min_k f_k + d_ik - d_kk, starting at 0, for a matrix d whose diagonal is an optimal matching."""
    length = matrix - jnp.diagonal(matrix)

    def relax(carry: tuple) -> tuple:
        f, _, sweep = carry
        shorter = jnp.minimum(f, jnp.min(f + length, 1))
        return shorter, jnp.any(shorter < f), sweep + 1

    start = jnp.zeros_like(matrix[0])
    f, _, _ = jax.lax.while_loop(lambda c: c[1] & (c[2] < matrix.shape[0]), relax, (start, jnp.array(True), 0))
    return f
