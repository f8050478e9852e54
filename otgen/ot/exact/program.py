"""The transport linear program and the assignment on the host, in float64, with forbidden pairs and large costs.

The network simplex method is right to rounding of the largest cost, which one huge entry would make useless. Therefore
costs are cut off at a cap, a few times the largest cost that the plan needs, where that makes the plan more exact. A
plan of the capped problem without mass on capped pairs is optimal, because the capped problem is never dearer, and its
potentials are feasible for the true costs, infinite ones included. While there is mass on capped pairs, the cap is
raised. Let pairs of cost t at most be able to carry all the weights. No optimal plan uses a pair whose cost exceeds
min(n, m) t, because replacing it along a cycle by at most min(n, m) pairs of cost t would be cheaper. So mass that is
left on forbidden pairs at the price of min(n, m) times the largest finite cost has no other place.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from otgen.ot.exact import simplex

TOLERANCE = 1e-10  # of the duality gap, as a share of the value of the reduced costs; else a lower cap is tried
STRETCH = 1e3  # ratio of a cap to the largest cost that the plan needs, and of caps to try in turn


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
    matrix, dtype = np.asarray(matrix), matrix.dtype
    rounding = max(2 * float(np.finfo(dtype).eps), 1e-13)  # relative error of the weights
    a, b = (np.asarray(of, np.float64) for of in (a, b))
    found: _Tree | float = np.nan
    if min(a.min(), b.min()) >= 0 < min(a.sum(), b.sum()) and max(a.sum(), b.sum()) < np.inf:
        a, b = a / a.sum(), b / b.sum()
        rows, columns = a > 0, b > 0
        if rows.all() and columns.all():
            found = _tree(matrix, a, b, rounding)
        else:
            inner = matrix[np.ix_(rows, columns)]
            found = _extended(matrix, rows, columns, _tree(inner, a[rows], b[columns], rounding))
    if isinstance(found, float):
        return Vertex(*(np.full(shape, np.nan, dtype) for shape in (matrix.shape, a.shape, b.shape)), dtype.type(found))
    plan, limit, shift = _zeros(matrix.shape, dtype), np.finfo(dtype).max, a @ found.f
    plan[found.i, found.j] = found.mass
    rest = (found.f - shift, found.g + shift, found.value)
    return Vertex(plan, *(np.asarray(np.minimum(np.maximum(of, -limit), limit), dtype) for of in rest))


def _zeros(shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """Return zeros that start at a multiple of 64 bytes, where JAX takes an array as it is instead of copying it."""
    size = dtype.itemsize * shape[0] * shape[1]
    held = np.zeros(size + 64, np.uint8)
    start = -held.ctypes.data % 64
    return held[start : start + size].view(dtype).reshape(shape)


class _Tree(NamedTuple):
    """Rows, columns and masses of the pairs that a plan uses, which make trees; potentials and value, in float64."""

    i: np.ndarray
    j: np.ndarray
    mass: np.ndarray
    f: np.ndarray
    g: np.ndarray
    value: float


def _extended(matrix: np.ndarray, rows: np.ndarray, columns: np.ndarray, found: _Tree | float) -> _Tree | float:
    """Put the points of weight zero back, with the largest potentials that are feasible."""
    if isinstance(found, float):
        return found
    f, g = np.full(rows.size, found.f.max()), np.full(columns.size, found.g.max())
    f[rows], g[columns] = found.f, found.g
    with np.errstate(invalid="ignore"):
        g[~columns] = _least(matrix[np.ix_(rows, ~columns)] - found.f[:, None], 0, g[~columns])
        f[~rows] = _least(matrix[~rows] - g, 1, f[~rows])
    return found._replace(i=np.flatnonzero(rows)[found.i], j=np.flatnonzero(columns)[found.j], f=f, g=g)


def _least(slack: np.ndarray, axis: int, otherwise: np.ndarray) -> np.ndarray:
    least = np.min(np.where(np.isnan(slack), np.inf, slack), axis, initial=np.inf)
    return np.where(np.isfinite(least), least, otherwise)


def _tree(matrix: np.ndarray, a: np.ndarray, b: np.ndarray, rounding: float) -> _Tree | float:
    """Return the optimum between positive weights; infinity if there is no plan, NaN if none is found."""
    found = _reduced(matrix)
    if isinstance(found, float):
        return found
    reduced, rows, columns = found
    whole = bool(np.isfinite(top := float(reduced.max())))
    if not whole:
        top = float(reduced.max(where=np.isfinite(reduced), initial=0.0))
    unit = simplex.unit(top)
    reduced *= unit
    top *= unit
    cap, last = (top, top) if whole else (2 * top or 1.0, 1.01 * min(reduced.shape) * top or 1.0)
    floor = 0.0  # the largest cap that was too low
    while True:
        solution = simplex.vertex(reduced if whole and cap == top else np.minimum(reduced, cap), cap, a, b)
        if solution is None:
            return np.nan
        i, j, mass, f = solution
        beyond = reduced[i, j] > cap
        if mass[beyond].sum() > rounding:
            if cap >= last:
                return np.inf
            floor, cap = cap, min(STRETCH * cap, last)
            continue
        i, j, mass = i[~beyond], j[~beyond], mass[~beyond]
        f, g = simplex.repaired(reduced, i, j, f)
        exact, needed = _judged(reduced[i, j], f[i], g[j], mass, rounding)
        if exact or not floor < STRETCH * needed < 0.1 * cap:
            return _Tree(i, j, mass, rows + f / unit, columns + g / unit, float(mass @ matrix[i, j]))
        cap = STRETCH * needed


def _reduced(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | float:
    """Return the costs without what is common to a row or column, which changes no plan, and what that was.

    Infinity if a row or column is forbidden altogether, NaN if an entry is NaN or minus infinity.
    """
    rows = matrix.min(1)
    if not (rows > -np.inf).all():
        return np.nan
    if not (rows < np.inf).all():
        return np.inf
    reduced = matrix.astype(np.float64)
    reduced -= rows[:, None]
    columns = reduced.min(0)
    if not (columns < np.inf).all():
        return np.inf
    reduced -= columns
    return reduced, rows, columns


def _judged(costs: np.ndarray, f: np.ndarray, g: np.ndarray, mass: np.ndarray, rounding: float) -> tuple[bool, float]:
    """Return whether the duality gap is small, and the largest cost paid, both apart from the dearest mass."""
    largest = float(costs.max(initial=0.0))
    gap = mass @ (costs - f - g) + np.finfo(np.float64).eps * max(np.abs(f).max(), np.abs(g).max())
    if gap <= TOLERANCE * (mass @ costs - rounding * largest):  # whatever is the dearest
        return True, largest
    order = np.argsort(-costs)
    kept = order[np.cumsum(mass[order]) > rounding]
    return bool(gap <= TOLERANCE * (mass[kept] @ costs[kept])), float(costs[kept].max(initial=0.0))
