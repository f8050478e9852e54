"""The transport linear program and the assignment on the host, in float64, with forbidden pairs and large costs.

A simplex method works to a tolerance relative to the largest cost, which one huge entry would make useless. Therefore
costs are cut off at a cap. The cap is justified as follows. Subtract from each cost the part that is common to its row
or column, and let t be such that pairs of cost t at most can carry all the weights. No optimal plan uses a pair whose
cost exceeds min(n, m) t, because replacing it along a cycle by pairs of cost t would be cheaper. A plan of the capped
problem without mass on capped pairs is optimal, and its potentials are feasible for the true costs, infinite ones
included. While there is mass on capped pairs, the cap is raised.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

TOLERANCE = 1e-10  # of HiGHS, as a share of the cap and of the mean weight
STRETCH = 1e3  # ratio of a cap to the one before; costs with a range below its square are not capped


class Vertex(NamedTuple):
    """Plan [n, m], potentials [n] and [m], and value. All are NaN if none is found; value infinite if infeasible."""

    plan: np.ndarray
    f: np.ndarray
    g: np.ndarray
    value: np.ndarray


def match(matrix: Any) -> np.ndarray:
    """Return the column of every row [n] in the cheapest matching of min(n, m) pairs, -1 for rows that are left over.

    All -1 if no such matching avoids the forbidden pairs, all -2 if entries are NaN or -inf.
    """
    from scipy.optimize import linear_sum_assignment  # importing it takes half as long as importing JAX

    matrix = np.asarray(matrix, np.float64)
    index = np.full(matrix.shape[0], -1, np.int32)
    if not (matrix > -np.inf).all():
        return index - 1
    try:
        rows, columns = linear_sum_assignment(matrix)
    except ValueError:  # raised for legal entries if there is no matching
        return index
    index[rows] = columns
    return index


def solve(matrix: Any, a: Any, b: Any) -> Vertex:
    """Solve the linear program among the points that carry mass; the others may hold any numbers."""
    dtype = matrix.dtype
    rounding = max(2 * float(np.finfo(dtype).eps), 10 * TOLERANCE)  # relative error of the weights
    matrix, a, b = (np.asarray(of, np.float64) for of in (matrix, a, b))
    found = Vertex(np.full(matrix.shape, np.nan), np.full(a.shape, np.nan), np.full(b.shape, np.nan), np.array(np.nan))
    if all(np.isfinite(of).all() for of in (a, b)) and min(a.min(), b.min()) >= 0 < min(a.sum(), b.sum()):
        rows, columns = a > 0, b > 0
        inner = matrix[np.ix_(rows, columns)]
        a, b = a / a.sum(), b / b.sum()  # weights in float32 do not balance to the tolerance
        if (inner > -np.inf).all():
            solution = _vertex(inner, a[rows], b[columns], rounding)
            if isinstance(solution, float):
                found = found._replace(value=np.array(solution))
            else:
                found = _extended(matrix, a, b, *solution)
    limit = np.finfo(dtype).max
    keep = (np.clip(of, -limit, limit) if np.isfinite(of).all() else of for of in found)
    return Vertex(*(np.asarray(of, dtype) for of in keep))


def _extended(matrix: np.ndarray, a: np.ndarray, b: np.ndarray, inner: np.ndarray, f_inner: np.ndarray) -> Vertex:
    """Put the points of weight zero back, with the largest potentials that are feasible."""
    rows, columns = a > 0, b > 0
    costs = matrix[np.ix_(rows, columns)]
    g_inner = np.min(costs - f_inner[:, None], 0)
    f_inner = np.min(costs - g_inner, 1)
    plan, f, g = np.zeros_like(matrix), np.full(a.shape, f_inner.max()), np.full(b.shape, g_inner.max())
    plan[np.ix_(rows, columns)], f[rows], g[columns] = inner, f_inner, g_inner
    with np.errstate(invalid="ignore"):
        g[~columns] = _least(matrix[np.ix_(rows, ~columns)] - f_inner[:, None], 0, g[~columns])
        f[~rows] = _least(matrix[~rows] - g, 1, f[~rows])
    shift = a @ f
    return Vertex(plan, f - shift, g + shift, np.sum(inner[inner > 0] * costs[inner > 0]))


def _least(slack: np.ndarray, axis: int, otherwise: np.ndarray) -> np.ndarray:
    least = np.min(np.where(np.isnan(slack), np.inf, slack), axis, initial=np.inf)
    return np.where(np.isfinite(least), least, otherwise)


def _vertex(matrix: np.ndarray, a: np.ndarray, b: np.ndarray, rounding: float) -> tuple[np.ndarray, ...] | float:
    """Return plan and row potentials for positive weights; infinity if there is no plan, NaN if HiGHS gives up."""
    rows = matrix.min(1)  # a constant added to a row changes no plan, and may be much larger than the differences
    if not np.isfinite(rows).all():
        return np.inf
    reduced = matrix - rows[:, None]
    columns = reduced.min(0)
    if not np.isfinite(columns).all():
        return np.inf
    reduced -= columns
    noise = 4 * np.finfo(np.float64).eps * (np.abs(rows).max() + columns.max())
    for cap in _caps(reduced, a, b, noise):
        solution = _simplex(np.minimum(reduced, cap), a, b, cap)
        if solution is None:
            return np.nan
        mass, f = solution
        beyond = reduced > cap
        if mass[beyond].sum() <= rounding:
            mass[beyond] = 0
            return mass, rows + f
    return np.inf


def _caps(reduced: np.ndarray, a: np.ndarray, b: np.ndarray, noise: float) -> Iterator[float]:
    """Return caps to try in turn, growing multiples of a cost that every plan needs; the last one is right."""
    finite = reduced[np.isfinite(reduced)]
    top = finite.max()
    unit = max(_needed(reduced, b, a), _needed(reduced.T, a, b), np.min(finite, initial=top, where=finite > noise))
    whole = finite.size == reduced.size
    if not whole or top > STRETCH**2 * unit:
        cap = STRETCH * unit
        while 0 < cap < top:
            yield cap
            cap *= STRETCH
    yield (top if whole else min(reduced.shape) * top * 1.01) or 1.0


def _needed(reduced: np.ndarray, b: np.ndarray, a: np.ndarray) -> float:
    """Return the least t such that every row alone could place its mass on pairs of cost t at most."""
    order = np.argsort(reduced, 1)
    room = np.cumsum(b[order], 1)
    last = np.minimum(np.sum(room < (1 - 1e-6) * a[:, None], 1), b.size - 1)
    needed = np.take_along_axis(reduced, np.take_along_axis(order, last[:, None], 1), 1)
    return float(np.max(needed, initial=0.0, where=np.isfinite(needed)))


def _simplex(reduced: np.ndarray, a: np.ndarray, b: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray] | None:
    from scipy.optimize import linprog
    from scipy.sparse import csc_array

    n, m = reduced.shape
    entry = np.arange(n * m)
    sums = csc_array((np.ones(2 * n * m), np.stack([entry // m, n + entry % m], 1).ravel(), 2 * np.arange(n * m + 1)))
    options = {"presolve": False, "primal_feasibility_tolerance": TOLERANCE, "dual_feasibility_tolerance": TOLERANCE}
    # One equation follows from the others; without it rounding of the weights cannot make the program infeasible.
    known = np.concatenate([a, b])[:-1] * max(n, m)
    result = linprog(reduced.ravel() / scale, A_eq=sums[:-1], b_eq=known, method="highs-ds", options=options)
    if result.status != 0:
        return None
    mass = np.maximum(result.x, 0).reshape(n, m) / max(n, m)
    return mass, scale * result.eqlin.marginals[:n]
