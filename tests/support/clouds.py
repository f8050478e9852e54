"""Two clouds of points with weights, and what an independent solver says of them."""

import numpy as np
import ot


def clouds(n, m, d, seed=0):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, d)), 0.7 * rng.normal(size=(m, d)) + 0.5
    return x, y, rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))


def matrix(x, y):
    return ((x[:, None] - y) ** 2).sum(-1)


def kl(p, q):
    p, q = np.asarray(p, np.float64).ravel(), np.asarray(q, np.float64).ravel()
    logs = np.zeros_like(p)
    np.log(p / q, out=logs, where=p > 0)
    return (p * logs).sum() - p.sum() + q.sum()


def reference(cost, a, b, epsilon):
    """POT's plan in float64 and its value."""
    plan = ot.bregman.sinkhorn_log(a, b, cost, epsilon, stopThr=1e-13, numItermax=200000)
    return plan, (plan * cost).sum() + epsilon * kl(plan, np.outer(a, b))


def recomputed(cost, state, a, b, epsilon):
    f, g = (np.asarray(part, np.float64) for part in state)
    plan = a[:, None] * b * np.exp((f[:, None] + g - cost) / epsilon)
    return abs(plan.sum(1) - a).sum() + abs(plan.sum(0) - b).sum()
