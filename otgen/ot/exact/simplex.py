"""The network simplex method: POT's compiled one, and potentials of its plan that are feasible to rounding."""

from __future__ import annotations

import functools
import importlib.util
import math
import os
import sys
import warnings
from collections.abc import Callable

import numpy as np

from otgen import optional

PIVOTS = 1000  # at most, for each point; some ten are needed
DUST = 64 * np.finfo(np.float64).eps  # mass over the largest weight, below which it may be rounding of other masses
SWEEPS = 10  # of the repair of potentials, at most
_BLOCK = 1 << 15  # entries of a cost that are in work at once, which a cache holds
_BACKENDS = {  # what switches off POT's import of a package
    "POT_BACKEND_DISABLE_CUPY": "cupy",
    "POT_BACKEND_DISABLE_PYTORCH": "torch",
    "POT_BACKEND_DISABLE_TENSORFLOW": "tensorflow",
}


@functools.cache
def _emd() -> Callable:
    """Return `ot.emd`; importing POT takes about a second, the most of it for SciPy's statistics and scikit-learn.

    By default POT imports every array library that is installed too, for seconds and with messages. Those that nobody
    has imported before are switched off meanwhile, and that copy of POT is not left for others, who may want them.
    """
    switches = [] if "ot" in sys.modules else [name for name, of in _BACKENDS.items() if _asleep(of)]
    switches = [name for name in switches if name not in os.environ]
    os.environ.update(dict.fromkeys(switches, "1"))
    try:
        with optional.imports():
            from ot import emd
    finally:
        for name in switches:
            del os.environ[name]
        for name in [name for name in sys.modules if switches and name.partition(".")[0] == "ot"]:
            del sys.modules[name]
    return emd


def _asleep(package: str) -> bool:
    return package not in sys.modules and importlib.util.find_spec(package) is not None


def unit(top: float) -> float:
    """Return the power of two that brings a largest cost to about 1,000: POT adds 1 to it, which must not count."""
    return 2.0 ** min(10 - math.frexp(top)[1], 1000)


def vertex(costs: np.ndarray, top: float, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, ...] | None:
    """Return an optimal vertex's pairs, their masses, and potentials of its rows.

    Args:
      costs: [n, m] in float64, not negative.
      top: the largest of them.
      a, b: positive weights [n], [m] that sum to 1.

    Returns:
      Rows, columns and masses of at most n + m - 1 pairs, and potentials [n], right to some 1e-16 (n + m) of `top`; or
      None if the limit of pivots is reached.
    """
    scale = unit(top)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the limit is reached
        plan, log = _emd()(
            a,
            b,
            costs if scale == 1 else costs * scale,
            numItermax=PIVOTS * sum(costs.shape),
            log=True,
            center_dual=False,
            check_marginals=False,
        )
    if log["warning"]:
        return None
    index = np.flatnonzero(plan > 0)
    i, j = np.divmod(index, plan.shape[1])
    mass, small = plan.ravel()[index], DUST * max(a.max(), b.max())
    if mass.min() < small:
        kept = (mass >= small) | (mass >= 1e-6 * np.minimum(a[i], b[j]))
        i, j, mass = i[kept], j[kept], mass[kept]
    return i, j, mass, (log["u"] - log["u"][0]) / scale


def repaired(costs: np.ndarray, i: np.ndarray, j: np.ndarray, f: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return potentials near f, with f_i + g_j <= c_ij to the last digit, and equality on the optimal pairs i, j.

    Where f has noise, it is computed anew along the trees of pairs that have mass. That leaves noise between trees, if
    there are several. Both conditions say f_i <= c_ij - c_kj + f_k for every pair (k, j) that has mass: f is lowered
    towards that, which holds at shortest distances in a graph without negative cycles, as the plan is optimal.
    """
    used = costs[i, j]
    for sweep in range(SWEEPS + 1):
        free, tight = least_of_columns(costs, f), np.full(costs.shape[1], -np.inf)
        np.maximum.at(tight, j, used - f[i])
        noise = 4 * np.finfo(np.float64).eps * max(np.abs(f).max(), used.max(initial=0))
        if sweep == SWEEPS or (tight <= free + noise).all():
            break
        f = np.minimum(f, least_of_rows(costs, tight)) if sweep else _along_trees(costs, i, j, f)
    return f, free


def _along_trees(costs: np.ndarray, i: np.ndarray, j: np.ndarray, f: np.ndarray) -> np.ndarray:
    """Return f with f_i + g_j = c_ij on all pairs i, j, which make trees; the first row of each keeps its f."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, connected_components

    (n, m), size = costs.shape, sum(costs.shape) + 1
    pairs = csr_array((np.ones(i.size), (i, n + j)), (size, size))
    heads = np.unique(connected_components(pairs, directed=False)[1][:n], return_index=True)[1]
    i, j = np.r_[i, np.full(heads.size, n + m)], np.r_[n + j, heads]  # one more node joins the trees
    order, parent = breadth_first_order(csr_array((np.ones(i.size), (i, j)), (size, size)), n + m, directed=False)
    order = order[1 + heads.size :]
    parent = parent[order]
    edges = costs[np.minimum(order, parent), np.maximum(order, parent) - n]
    values = dict(zip(heads.tolist(), f[heads].tolist(), strict=True))
    for node, above, edge in zip(order.tolist(), parent.tolist(), edges.tolist(), strict=True):
        values[node] = edge - values[above]
    return np.array([values.get(row, old) for row, old in enumerate(f.tolist())])


def least_of_rows(costs: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Return min_j c_ij - g_j for all rows, in float64."""
    return np.concatenate([np.min(costs[rows] - g, 1) for rows in _blocks(costs)])


def least_of_columns(costs: np.ndarray, f: np.ndarray) -> np.ndarray:
    """Return min_i c_ij - f_i for all columns, in float64."""
    least = np.full(costs.shape[1], np.inf)
    for rows in _blocks(costs):
        np.minimum(least, np.min(costs[rows] - f[rows, None], 0), out=least)
    return least


def _blocks(costs: np.ndarray) -> list[slice]:
    size = max(1, _BLOCK // costs.shape[1])
    return [slice(start, start + size) for start in range(0, costs.shape[0], size)]
