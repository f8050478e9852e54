"""Exact plans as functions of JAX: couplings on the line, assignments and their potentials, linear programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from otgen.ot.check import as_array, is_traced, native, probability, require_costs
from otgen.ot.costs import Cost, DenseCost
from otgen.ot.costs.ground import as_cost, weighed
from otgen.ot.exact import program
from otgen.types import Array

MAX_ENTRIES = 4_000_000  # of the cost of a linear program: minutes and some GiB
_INFEASIBLE = "{} avoids the forbidden pairs, those of cost +inf: allow some of them at a high finite cost."


class Coupling(NamedTuple):
    """A plan on the line, by its atoms in the order of the quantiles; some have mass zero.

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


class Assignment(NamedTuple):
    """An optimal matching of n points with m points, in min(n, m) pairs.

    Attributes:
      index: row i goes to column index[i] [n] (int32); -1 for the n - m rows that are left over where n > m. Columns
        are left over where m > n.
      value: mean cost of the pairs; for n = m the optimum of the linear program with weights 1/n.

    Example:
      >>> found = og.exact.assignment(jnp.array([[0.0, 1.0], [3.0, 5.0]]))
      >>> print(found.index, found.value)  # 1 + 3 is less than 0 + 5
      [1 0] 2.
    """

    index: Array
    value: Array


class Plan(NamedTuple):
    """The optimum of the transport linear program and of its dual.

    Attributes:
      plan: [n, m], at most n + m - 1 positive entries; its marginals are the weights.
      f: potentials of the rows [n], centred: sum a_i f_i = 0. f_i + g_j <= c_ij, with equality where the plan is
        positive.
      g: potentials of the columns [m].
      value: sum_ij plan_ij c_ij.

    Example:
      >>> found = og.exact.plan(jnp.array([[0.0, 1.0], [3.0, 5.0]]))
      >>> print(found.plan.tolist(), found.value)
      [[0., 0.5], [0.5, 0.]] 2.
    """

    plan: Array
    f: Array
    g: Array
    value: Array


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
    """For every position the last one up to it that carries mass, or the first that does: no atom joins others."""
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

    Example:
      >>> print(og.exact.value_line(jnp.array([0.0, 1.0]), jnp.array([4.0, 3.0])))  # 0 goes to 3, and 1 to 4
      9.0
      >>> print(og.exact.value_line(jnp.array([0.0, 1.0]), jnp.array([4.0, 3.0]), h=jnp.abs))
      3.0
    """
    x, y = _line("x", x), _line("y", y)
    i, j, mass = coupling_line(x, y, a, b)
    return jnp.sum(mass * h(x[i] - y[j]))


def _matrix(cost: Cost) -> Array:
    matrix = cost.values if isinstance(cost, DenseCost) else _written(cost)
    require_costs("the cost matrix", matrix)
    return matrix


@jax.jit
def _written(cost: Cost) -> Array:
    return cost.matrix()


def assignment(cost: Cost | ArrayLike) -> Assignment:
    """Return the matching s of min(n, m) pairs that minimises mean_i c[i, s(i)]; for n = m exact optimal transport.

    SciPy solves it on the host, in O(n^3) at worst and about a second for n = 3000; inside jit by a callback, one
    problem after another under vmap. The value is differentiable in the cost, with the matching held fixed.

    Args:
      cost: ground cost of n rows and m columns, or a matrix [n, m]. A pair of cost +inf is forbidden.

    Returns:
      Assignment. Inside jit, where nothing can be raised: index -1 everywhere and value +inf if every matching has a
      forbidden pair, value NaN if a cost is NaN or -inf.

    Raises:
      ValueError: (outside jit) for a cost with NaN or -inf, or if every matching has a forbidden pair.

    Example:
      >>> found = og.exact.assignment(og.PairwiseCost(jnp.array([[0.0], [1.0]]), jnp.array([[1.1], [0.1]])))
      >>> print(found.index, found.value)
      [1 0] 0.01
      >>> found = og.exact.assignment(jnp.array([[5.0, 1.0], [2.0, 3.0], [0.0, 9.0]]))
      >>> print(found.index, found.value)  # the second row is left over
      [ 1 -1  0] 0.5

    Reference: Crouse (2016), On implementing 2D rectangular assignment algorithms.
    """
    matrix = _matrix(as_cost(cost))
    held = jnp.asarray(jax.lax.stop_gradient(matrix))  # under grad of a NumPy matrix it is one again
    if is_traced(matrix):
        shape = jax.ShapeDtypeStruct(matrix.shape[:1], jnp.int32)
        (index,) = _called_back(lambda matrix: (program.match(matrix),), (shape,), held)
    else:
        index = jnp.asarray(program.match(held))
        if int(index.max()) < 0:
            raise ValueError(_INFEASIBLE.format(f"no matching of {min(matrix.shape)} pairs"))
    return _read(matrix, index)


@jax.jit
def _read(matrix: Array, index: Array) -> Assignment:
    kept = index >= 0
    costs = jnp.take_along_axis(matrix, jnp.maximum(index, 0)[:, None], 1)[:, 0]
    value = jnp.sum(jnp.where(kept, costs, 0)) / min(matrix.shape)
    wrong = jnp.where(jnp.max(index) == -1, jnp.inf, jnp.nan).astype(value.dtype)
    return Assignment(jnp.maximum(index, -1), jnp.where(jnp.any(kept), value, wrong))


def potentials(cost: Cost | ArrayLike, index: ArrayLike) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Return dual potentials of an optimal assignment: f_i + g_j <= c_ij, with equality on the matched pairs.

    Both conditions together say f_i <= f_k + c[i, s(k)] - c[k, s(k)] for all i, k: f is a shortest distance in the
    graph with these edges, which has no negative cycle because s is optimal. Bellman and Ford's relaxation finds it in
    at most n sweeps of n^2, usually a few dozen. Feasible to rounding; sum f = 0. Potentials of an assignment are not
    unique: those that the search from the rows and the search from the columns find are averaged, which treats both
    sides alike.

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
    matrix, index = jax.lax.stop_gradient(_matrix(as_cost(cost))), native("index", index)
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
    """The potentials, by how much a matched pair misses equality at most, and the largest number that entered."""
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


def plan(cost: Cost | ArrayLike, a: ArrayLike | None = None, b: ArrayLike | None = None) -> Plan:
    """Return the exact optimal plan between weights a and b, a vertex of the polytope of plans, and its potentials.

    HiGHS's dual simplex solves it on the host, in about .01 s for 64 x 64 points and 1 s for 500 x 500; inside jit by a
    callback, one problem after another under vmap. For n equal points on both sides `assignment` is quicker.

    The value is differentiable once, in the cost (the plan is its gradient) and in the weights (f and g are); where
    potentials are not unique, as for equal weights, a subgradient in the weights comes back. The plan and the
    potentials themselves are held fixed.

    Args:
      cost: ground cost of n rows and m columns, or a matrix [n, m]. A pair of cost +inf is forbidden; mass within twice
        the rounding of the weights that only forbidden pairs could carry is left out.
      a, b: weights [n], [m] that sum to 1, zeros allowed; uniform for None. What the cost is at points of weight zero
        changes nothing but their own potentials.

    Returns:
      Plan. Inside jit, where nothing can be raised: the value is +inf and the rest NaN if every plan has mass on
      forbidden pairs; all is NaN if the cost or the weights are not legal, or if HiGHS gives up.

    Raises:
      ValueError: for more than 4 million entries, weights that are no probabilities, or (outside jit) a cost with NaN
        or -inf, or if every plan has mass on forbidden pairs.

    Example:
      >>> found = og.exact.plan(jnp.array([[0.0, 2.0], [2.0, 0.0]]), jnp.array([0.75, 0.25]), jnp.array([0.5, 0.5]))
      >>> print(found.plan.tolist(), found.value)  # a quarter has to move
      [[0.5, 0.25], [0., 0.25]] 0.5
      >>> print(found.f @ jnp.array([0.75, 0.25]) + found.g @ jnp.array([0.5, 0.5]))
      0.5
      >>> print(og.exact.plan(jnp.array([[jnp.inf, 2.0], [2.0, 0.0]])).plan.tolist())
      [[0., 0.5], [0.5, 0.]]

    Reference: Peyre and Cuturi (2019), arXiv 1803.00567, section 3; Huangfu and Hall (2018), Parallelizing the dual
    revised simplex method.
    """
    cost = as_cost(cost)
    (n, m), dtype = cost.shape, cost.dtype
    if n * m > MAX_ENTRIES:
        raise ValueError(
            f"cost is {n} x {m}, a linear program of {n * m} unknowns: at most {MAX_ENTRIES} are taken. "
            "Use sinkhorn.run or dual.run, or assignment for equal weights."
        )
    a, b = probability("a", a, n, dtype), probability("b", b, m, dtype)
    matrix = _matrix(weighed(cost, a, b))
    return _plan(matrix, *(weights.astype(matrix.dtype) for weights in (a, b)))


@jax.custom_jvp
def _plan(matrix: Array, a: Array, b: Array) -> Plan:
    if is_traced(matrix, a, b):
        shapes = tuple(jax.ShapeDtypeStruct(shape, matrix.dtype) for shape in (matrix.shape, a.shape, b.shape, ()))
        return Plan(*_called_back(program.solve, shapes, matrix, a, b))
    found = program.solve(*map(np.asarray, (matrix, a, b)))
    if np.isposinf(found.value):
        raise ValueError(_INFEASIBLE.format("no plan with these weights"))
    return Plan(*map(jnp.asarray, found))


def _called_back(host: Callable, shapes: tuple, *given: Array) -> list[Array]:
    """Call a host function of arrays of one type."""
    dtype = given[0].dtype
    like = tuple(of.shape for of in given)

    def words(of: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        # 32-bit words: under the context jax.enable_x64 a callback would round float64
        return jax.ShapeDtypeStruct(of.shape + ((2,) if of.dtype.itemsize == 8 else ()), jnp.uint32)

    def called(*given: Any) -> tuple[np.ndarray, ...]:
        given = (np.ascontiguousarray(of).view(dtype).reshape(to) for of, to in zip(given, like, strict=True))
        found = zip(host(*given), shapes, strict=True)
        return tuple(np.ascontiguousarray(of).reshape(-1).view(np.uint32).reshape(words(to).shape) for of, to in found)

    given = (jax.lax.bitcast_convert_type(of, jnp.uint32) for of in given)
    found = jax.pure_callback(called, tuple(map(words, shapes)), *given, vmap_method="sequential")
    return [jax.lax.bitcast_convert_type(of, to.dtype) for of, to in zip(found, shapes, strict=True)]


@_plan.defjvp
def _plan_jvp(primals: tuple, tangents: tuple) -> tuple[Plan, Plan]:
    dmatrix, da, db = tangents
    found = _plan(*primals)
    along = jnp.where(found.plan == 0, 0, found.plan * dmatrix)  # a pair without mass has no say, whatever its slope
    dvalue = jnp.sum(along) + jnp.sum(found.f * da) + jnp.sum(found.g * db)
    return found, Plan(*map(jnp.zeros_like, found[:3]), dvalue)
