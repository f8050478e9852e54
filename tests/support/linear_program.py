"""Exact transport by SciPy's HiGHS, a solver of linear programs that shares nothing with a network simplex."""

import numpy as np
from scipy.optimize import linprog


def transport(costs, a, b):
    """The optimal plan [n, m] and its cost, infinite where no plan avoids the pairs of cost +inf; tolerance 1e-7."""
    n, m = costs.shape
    sums = np.concatenate([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    legal = np.isfinite(costs)
    found = linprog(
        np.where(legal, costs, 0).ravel(),
        A_eq=sums[:-1],  # the last follows from the others
        b_eq=np.concatenate([a, b])[:-1],
        bounds=[(0, None if each else 0) for each in legal.ravel()],
    )
    return (found.x.reshape(n, m), found.fun) if found.status == 0 else (None, np.inf)
