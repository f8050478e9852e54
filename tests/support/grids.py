"""Points on a grid, and the heights of their map from N(0, I), which are known exactly."""

import numpy as np
from scipy.stats import norm


def heights(line):
    """Of sorted points on a line: cells end at the quantiles of N(0, 1), where neighbours score the same."""
    ends = norm.ppf(np.arange(1, len(line)) / len(line))
    h = np.concatenate([[0.0], np.cumsum(-np.diff(line) * ends)])
    return h - h.mean()


def grid(*lines):
    """Points of the product of sorted lines, and their heights: scores are sums over coordinates."""
    points = np.stack(np.meshgrid(*lines, indexing="ij"), -1).reshape(-1, len(lines))
    h = sum(np.meshgrid(*map(heights, lines), indexing="ij")).ravel()
    return points.astype(np.float32), h.astype(np.float32)


def classes():
    """144 points in three classes 5, 7, 9 side by side, and their heights: of all at once, and of each class apart."""
    random = np.random.default_rng(0)
    across, along = np.sort(random.normal(size=18)) + 4 * (np.arange(18) // 6 - 1), np.sort(random.normal(size=8))
    data, h = grid(across, along)
    each = np.concatenate([grid(line, along)[1] for line in np.split(across, 3)])
    return data, 2 * (np.arange(18).repeat(8) // 6) + 5, h, each
