"""Exact transport: on the line by sorting, between as many points as points by assignment, else by a linear program.

On the line every convex cost h(x - y) has the same optimal plan, which matches quantiles: the north-west corner rule on
sorted points. Between n and n points of equal weight some permutation is optimal (Birkhoff), found on the host by
SciPy's Jonker-Volgenant algorithm; its dual potentials, the solution of the linear program's dual, follow from shortest
paths. Weights on both sides make it the linear program itself, which SciPy's HiGHS solves on the host, plan and
potentials at once; that is for some hundreds of points a side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from otgen.ot.check import is_traced, require_finite
from otgen.ot.costs import Cost
from otgen.ot.smoothed import as_cost, probability
from otgen.types import Array

MAX_ENTRIES = 4_000_000  # of the cost of a linear program: minutes and some GiB
TOLERANCE = 1e-10  # of HiGHS, relative to the largest cost and to the mean weight


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
    """An optimal matching of n points with n points.

    Attributes:
      index: row i goes to column index[i] [n] (int32).
      value: mean cost of the pairs, the optimum of the linear program with weights 1/n.

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

    Example:
      >>> print(og.exact.value_line(jnp.array([0.0, 1.0]), jnp.array([4.0, 3.0])))  # 0 goes to 3, and 1 to 4
      9.0
      >>> print(og.exact.value_line(jnp.array([0.0, 1.0]), jnp.array([4.0, 3.0]), h=jnp.abs))
      3.0
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

    Example:
      >>> found = og.exact.assignment(og.PairwiseCost(jnp.array([[0.0], [1.0]]), jnp.array([[1.1], [0.1]])))
      >>> print(found.index, found.value)
      [1 0] 0.01

    Reference: Crouse (2016), On implementing 2D rectangular assignment algorithms.
    """
    matrix = _square_matrix(cost)
    index = _match(jax.lax.stop_gradient(matrix))
    return Assignment(index, jnp.mean(jnp.take_along_axis(matrix, index[:, None], 1)))


def _match(matrix: Array) -> Array:
    def host(matrix: Any) -> np.ndarray:
        from scipy.optimize import linear_sum_assignment  # at the top it would take half as long as importing JAX

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

    Example:
      >>> cost = jnp.array([[0.0, 1.0], [3.0, 5.0]])
      >>> f, g = og.exact.potentials(cost, og.exact.assignment(cost).index)
      >>> print(f, g, f.mean() + g.mean())
      [-1.5 1.5] [1.5 2.5] 2.

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


def plan(cost: Cost | ArrayLike, a: ArrayLike | None = None, b: ArrayLike | None = None) -> Plan:
    """Return the exact optimal plan between weights a and b, a vertex of the polytope of plans, and its potentials.

    HiGHS's dual simplex solves it on the host, in about .01 s for 64 x 64 points and 1 s for 500 x 500; inside jit by a
    callback, one problem after another under vmap. For n equal points on both sides `assignment` is quicker.

    The value is differentiable once, in the cost (the plan is its gradient) and in the weights (f and g are); where
    potentials are not unique, as for equal weights, a subgradient in the weights comes back. The plan and the
    potentials themselves are held fixed.

    Args:
      cost: ground cost of n rows and m columns, or a matrix [n, m].
      a, b: weights [n], [m] that sum to 1, zeros allowed; uniform for None.

    Returns:
      Plan; all NaN if, inside jit, the cost or the weights are not legal, or if HiGHS gives up.

    Raises:
      ValueError: for more than 4 million entries, weights that are no probabilities, or (outside jit) a cost that is
        not finite.

    Example:
      >>> found = og.exact.plan(jnp.array([[0.0, 2.0], [2.0, 0.0]]), jnp.array([0.75, 0.25]), jnp.array([0.5, 0.5]))
      >>> print(found.plan.tolist(), found.value)  # a quarter has to move
      [[0.5, 0.25], [0., 0.25]] 0.5
      >>> print(found.f @ jnp.array([0.75, 0.25]) + found.g @ jnp.array([0.5, 0.5]))
      0.5

    Reference: Peyre and Cuturi (2019), arXiv 1803.00567, section 3; Huangfu and Hall (2018), Parallelizing the dual
    revised simplex method.
    """
    cost = as_cost(cost)
    n, m = cost.shape
    if n * m > MAX_ENTRIES:
        raise ValueError(
            f"cost is {n} x {m}, a linear program of {n * m} unknowns: at most {MAX_ENTRIES} are taken. "
            "Use sinkhorn.run or dual.run, or assignment for equal weights."
        )
    matrix = cost.matrix()
    return _plan(matrix, probability("a", a, n, matrix.dtype), probability("b", b, m, matrix.dtype))


@jax.custom_jvp
def _plan(matrix: Array, a: Array, b: Array) -> Plan:
    if not is_traced(matrix, a, b):
        return Plan(*map(jnp.asarray, _program(matrix, a, b)))
    return _called_back(matrix, a, b)


def _called_back(matrix: Array, a: Array, b: Array) -> Plan:
    """Send and return the numbers as 32-bit words: under the context jax.enable_x64 a callback would round float64."""
    shapes, dtype = (matrix.shape, a.shape, b.shape, ()), matrix.dtype
    words = (2,) if dtype == jnp.float64 else ()

    def host(*given: Any) -> tuple[np.ndarray, ...]:
        given = (np.ascontiguousarray(of).view(dtype).reshape(shape) for of, shape in zip(given, shapes, strict=False))
        return tuple(of.reshape(-1).view(np.uint32).reshape(of.shape + words) for of in _program(*given))

    results = tuple(jax.ShapeDtypeStruct(shape + words, jnp.uint32) for shape in shapes)
    given = (jax.lax.bitcast_convert_type(of, jnp.uint32) for of in (matrix, a, b))
    found = jax.pure_callback(host, results, *given, vmap_method="sequential")
    return Plan(*(jax.lax.bitcast_convert_type(of, dtype) for of in found))


@_plan.defjvp
def _plan_jvp(primals: tuple, tangents: tuple) -> tuple[Plan, Plan]:
    dmatrix, da, db = tangents
    found = _plan(*primals)
    dvalue = jnp.sum(found.plan * dmatrix) + jnp.sum(found.f * da) + jnp.sum(found.g * db)
    return found, Plan(*map(jnp.zeros_like, found[:3]), dvalue)


def _program(matrix: Any, a: Any, b: Any) -> Plan:
    """Solve the linear program in float64, among the points that carry mass."""
    dtype = matrix.dtype
    matrix, a, b = (np.asarray(of, np.float64) for of in (matrix, a, b))
    found = Plan(np.full(matrix.shape, np.nan), np.full(a.shape, np.nan), np.full(b.shape, np.nan), np.array(np.nan))
    if all(np.isfinite(of).all() for of in (matrix, a, b)) and min(a.min(), b.min()) >= 0 < min(a.sum(), b.sum()):
        a, b = a / a.sum(), b / b.sum()  # rounded to float32 they do not balance to the tolerance
        alive = np.ix_(a > 0, b > 0)
        solution = _vertex(matrix[alive], a[a > 0], b[b > 0])
        if solution is not None:
            mass = np.zeros_like(matrix)
            mass[alive], f = solution
            g = np.min(matrix[a > 0] - f[:, None], 0)  # the largest at columns of weight zero
            f = np.min(matrix - g, 1)
            found = Plan(mass, f - a @ f, g + a @ f, np.sum(mass * matrix))
    return Plan(*(np.asarray(of, dtype) for of in found))


def _vertex(matrix: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The plan and the rows' potentials; None if HiGHS gives up. All weights are positive."""
    from scipy.optimize import linprog
    from scipy.sparse import csc_array

    n, m = matrix.shape
    rows = matrix.min(1)  # what is common to a row changes no plan, and may be much larger than what matters
    reduced = matrix - rows[:, None]
    reduced -= reduced.min(0)
    scale = reduced.max() or 1.0
    entry = np.arange(n * m)
    sums = csc_array((np.ones(2 * n * m), np.stack([entry // m, n + entry % m], 1).ravel(), 2 * np.arange(n * m + 1)))
    options = {"presolve": False, "primal_feasibility_tolerance": TOLERANCE, "dual_feasibility_tolerance": TOLERANCE}
    # one equation follows from the others; without it the program is feasible whatever the rounding
    known = np.concatenate([a, b])[:-1] * max(n, m)
    result = linprog(reduced.ravel() / scale, A_eq=sums[:-1], b_eq=known, method="highs-ds", options=options)
    if result.status != 0:
        return None
    mass = np.maximum(result.x, 0).reshape(n, m) / max(n, m)
    return mass, rows + scale * result.eqlin.marginals[:n]
