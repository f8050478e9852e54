"""Exact transport between equally many points of equal weight: an optimal assignment and its dual potentials."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen.ot.check import as_count, is_traced, native
from otgen.ot.costs import Cost
from otgen.ot.costs.ground import as_cost
from otgen.ot.exact import program
from otgen.ot.exact.callback import INFEASIBLE, called_back, matrix_of
from otgen.types import Array, Float


class Assignment(NamedTuple):
    """An optimal matching of n points with m points, in min(n, m) pairs.

    Attributes:
      index: row i goes to column index[i] [n] (int32); -1 for rows that are left over, n - m of them where n > m.
        Columns are left over where m > n.
      value: mean cost of the pairs; for n = m the optimum of the linear program with weights 1/n.

    Example:
      >>> found = og.exact.assignment(jnp.array([[0.0, 1.0], [3.0, 5.0]]))
      >>> print(found.index, found.value)  # 1 + 3 is less than 0 + 5
      [1 0] 2.
    """

    index: Array
    value: Array


def assignment(cost: Cost | ArrayLike, num: int | None = None) -> Assignment:
    """Return the matching s of min(n, m) pairs that minimises mean_i c[i, s(i)]; for n = m exact optimal transport.

    SciPy solves it on the host, in O(n^3) at worst and about a second for n = 3000. Inside jit a callback does so,
    under vmap for one problem after another. The value is differentiable in the cost, with the matching held fixed.

    Args:
      cost: ground cost of n rows and m columns, or a matrix [n, m]. A pair of cost +inf is forbidden.
      num: how many pairs, the cheapest so many together; None for min(n, m). Static.

    Returns:
      Assignment. Inside jit, where nothing can be raised: index -1 everywhere and value +inf if every matching has a
      forbidden pair, value NaN if a cost is NaN or -inf.

    Raises:
      ValueError: for more pairs than there can be, and (outside jit) for a cost with NaN or -inf, or if every matching
        has a forbidden pair.

    Example:
      >>> found = og.exact.assignment(og.PairwiseCost(jnp.array([[0.0], [1.0]]), jnp.array([[1.1], [0.1]])))
      >>> print(found.index, found.value)
      [1 0] 0.01
      >>> found = og.exact.assignment(jnp.array([[5.0, 1.0], [2.0, 3.0], [0.0, 9.0]]))
      >>> print(found.index, found.value)  # the second row is left over
      [ 1 -1  0] 0.5
      >>> print(og.exact.assignment(jnp.array([[5.0, 1.0], [2.0, 3.0], [4.0, 9.0]]), num=1).index)  # the cheapest pair
      [ 1 -1 -1]

    Reference: Crouse (2016), On implementing 2D rectangular assignment algorithms.
    """
    matrix = matrix_of(as_cost(cost))
    pairs = min(matrix.shape)
    if num is not None:
        pairs = as_count("num", num)
        if pairs > min(matrix.shape):
            raise ValueError(f"num = {num}: a cost {matrix.shape} has at most {min(matrix.shape)} pairs.")
    held = jnp.asarray(jax.lax.stop_gradient(matrix))  # under grad the matrix of a NumPy cost is a NumPy array again
    if pairs < min(matrix.shape):
        held = _with_dummies(held, pairs)
    if is_traced(matrix):
        shape = jax.ShapeDtypeStruct(held.shape[:1], jnp.int32)
        (index,) = called_back(lambda matrix: (program.match(matrix),), (shape,), held)
    else:
        index = jnp.asarray(program.match(held))
        if int(index.max()) < 0:
            raise ValueError(INFEASIBLE.format(f"no matching of {pairs} pairs"))
    return _read(matrix, index, pairs)


def _with_dummies(matrix: Array, pairs: int) -> Array:
    """Return the cost of a full matching with `pairs` real ones: all others are with a dummy, which costs nothing."""
    n, m = matrix.shape
    rows, columns = jnp.zeros((n, n - pairs), matrix.dtype), jnp.zeros((m - pairs, m), matrix.dtype)
    return jnp.block([[matrix, rows], [columns, jnp.full((m - pairs, n - pairs), jnp.inf, matrix.dtype)]])


@partial(jax.jit, static_argnames="pairs")
def _read(matrix: Array, index: Array, pairs: int) -> Assignment:
    failed = jnp.max(index) < 0
    wrong = jnp.where(jnp.max(index) == -1, jnp.inf, jnp.nan).astype(matrix.dtype)
    index = index[: matrix.shape[0]]
    index = jnp.where(index < matrix.shape[1], index, -1)
    kept = index >= 0
    costs = jnp.take_along_axis(matrix, jnp.maximum(index, 0)[:, None], 1)[:, 0]
    value = jnp.sum(jnp.where(kept, costs, 0)) / pairs
    return Assignment(jnp.maximum(index, -1), jnp.where(failed, wrong, value))


def potentials(cost: Cost | ArrayLike, index: ArrayLike) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Return dual potentials of an optimal assignment: f_i + g_j <= c_ij, with equality on the matched pairs.

    Both conditions together say that f_i <= f_k + c[i, s(k)] - c[k, s(k)] for all i, k. So f is a shortest distance in
    the graph with these edge lengths, which has no negative cycle because s is optimal. Bellman and Ford's relaxation
    finds it in at most n sweeps of n^2 operations, usually in a few dozen. The potentials are feasible to rounding, and
    sum f = 0. Potentials of an assignment are not unique; those found from the rows and those found from the columns
    are averaged, which treats both sides alike.

    Args:
      cost: ground cost with n rows and columns, or a matrix [n, n]. A pair of cost +inf is forbidden.
      index: optimal assignment [n], from `assignment`.

    Returns:
      f [n] of the rows and g [n] of the columns, in units of the cost; mean f + mean g is the optimal value.

    Raises:
      ValueError: if the cost is not square, or (outside jit) if index is no permutation or not an optimal one.

    Example:
      >>> cost = jnp.array([[0.0, 1.0], [3.0, 5.0]])
      >>> f, g = og.exact.potentials(cost, og.exact.assignment(cost).index)
      >>> print(f, g, f.mean() + g.mean())
      [-1.5 1.5] [1.5 2.5] 2.

    Reference: Ahuja, Magnanti and Orlin (1993), Network Flows, section 9.
    """
    matrix, index = jax.lax.stop_gradient(matrix_of(as_cost(cost))), native("index", index)
    num = matrix.shape[0]
    if matrix.shape[1] != num:
        raise ValueError(f"cost is {matrix.shape}: potentials of a matching need as many rows as columns; see `plan`.")
    permutes = index.shape == (num,) and jnp.issubdtype(index.dtype, jnp.integer)
    if permutes and not is_traced(index):
        permutes = np.array_equal(np.sort(np.asarray(index)), np.arange(num))
    if not permutes:
        raise ValueError(f"index {index.shape} is no permutation of 0..{num - 1}: give Assignment.index of this cost.")
    f, g, slack, scale = _potentials(matrix, index)
    if not is_traced(f) and not slack <= 1e3 * num * float(jnp.finfo(f.dtype).eps) * scale + 1e-30:
        raise ValueError(f"index is not optimal for this cost: matched pairs miss equality by {slack:.3g}.")
    return f, g


@jax.jit
def _potentials(matrix: Array, index: Array) -> tuple[Array, Array, Array, Array]:
    """Return the potentials, the largest error of a matched pair's equality, and the largest number that entered."""
    inverse = jnp.argsort(index)
    f = _shortest(matrix[:, index])  # column k is where row k goes
    other = _shortest(matrix[inverse].T)  # the same for columns
    f = 0.5 * (f + jnp.min(matrix - other, 1))
    f = f - f.mean()
    g = jnp.min(matrix - f[:, None], 0)
    matched = jnp.take_along_axis(matrix, index[:, None], 1)[:, 0]
    scale = jnp.maximum(jnp.max(jnp.abs(matched)), jnp.max(jnp.abs(f)))
    return f, g, jnp.max(jnp.abs(matched - f - g[index])), scale


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
