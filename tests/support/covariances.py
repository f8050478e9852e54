"""Covariances to test with."""

import numpy as np


def random_covariance(d, seed, rank=None):
    """A Wishart matrix of the given rank (full for None)."""
    x = np.random.default_rng(seed).normal(size=(d, 2 * d if rank is None else rank))
    return x @ x.T / x.shape[1]


def with_condition(d, condition, seed):
    """Eigenvalues from 1 down to 1 / condition, evenly on a log scale, in a random basis."""
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]
    cov = (basis * np.logspace(0, -np.log10(condition), d)) @ basis.T
    return 0.5 * (cov + cov.T)
