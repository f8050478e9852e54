"""Time to a given marginal error of dense Sinkhorn: otgen against ott-jax and POT on the same points.

    python -m experiments.bench.sinkhorn               # 35 minutes on two cores; writes benchmarks/sinkhorn.json
    python -m experiments.bench.sinkhorn --sizes 4096  # long: peers take up to a minute a solve

Points: x normal, y a mixture of five normals, float32, uniform weights, |x - y|^2. Everybody starts from the points, in
memory, and returns potentials or scalings; one function recomputes sum |P1 - a| + |P'1 - b| from them in float64.
Everybody's own threshold is tightened until that error meets the target, outside the clock. Medians over repeats taken
in turn, compilation apart; one repeat above ten seconds, and a solve that would pass a minute counts as not solved.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import otgen as og
from experiments.lab import command
from experiments.lab.machine import clock, record, store

SHARES = {1e-3: (0.1, 0.05, 0.01, 0.001), 1e-4: (0.1, 0.05, 0.01)}  # epsilon over the mean cost, for each error
MOST = 20 * 2**10  # iterations that anybody may take
PAUSE_S = 0.1  # between solves: the threads of NumPy's BLAS spin for a while and would slow whoever comes next
Solver = Callable[[np.ndarray, np.ndarray, float, float, int], tuple[np.ndarray, np.ndarray, int]]


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    sizes: tuple[int, ...] = (256, 1024, 2048)
    """Points of the problems."""
    dims: tuple[int, ...] = (2, 32, 128)
    """Their dimensions."""
    repeats: int = 5
    """Timed calls of which the median is written."""
    limit_s: float = 60.0
    """Seconds after which a peer is given up."""
    many: bool = True
    """Also solve 256 small problems under vmap."""
    seed: int = 0
    """Of the problems."""
    out: str = "benchmarks/sinkhorn.json"
    """JSON file that is written."""

    @classmethod
    def smoke(cls, **changes: Any) -> Config:
        """Return a run of seconds, for tests."""
        return cls(**{"sizes": (64,), "dims": (2,), "repeats": 1, **changes})


def points(num: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a normal cloud and a mixture of five."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num, dim))
    centres = 1.5 * rng.normal(size=(5, dim))
    y = centres[rng.integers(0, 5, num)] + 0.5 * rng.normal(size=(num, dim))
    return x.astype(np.float32), y.astype(np.float32)


def sq_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the cost matrix in float64."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    return np.maximum((x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T, 0)


def marginal_error(cost: np.ndarray, f: np.ndarray, g: np.ndarray, epsilon: float) -> float:
    """L1 error of both marginals of a_i b_j exp((f_i + g_j - c_ij) / epsilon), uniform weights, in float64."""
    n, m = cost.shape
    with np.errstate(over="ignore", invalid="ignore"):
        f, g = np.asarray(f, np.float64), np.asarray(g, np.float64)
        plan = np.exp((f[:, None] + g - cost) / epsilon) / (n * m)
        error = np.abs(plan.sum(1) - 1 / n).sum() + np.abs(plan.sum(0) - 1 / m).sum()
    return float(error) if np.isfinite(error) else float("inf")


def ours(x: np.ndarray, y: np.ndarray, epsilon: float, tol: float, max_steps: int):
    """otgen, called as a notebook does."""
    state, info = og.sinkhorn.run(og.PairwiseCost(x, y), epsilon=epsilon, tol=tol, max_steps=max_steps)
    jax.block_until_ready(state)
    return state.f, state.g, int(info.num_steps)


def ott_solver(lse_mode: bool) -> Solver:
    """ott-jax, jitted from the points, checking its error every ten iterations as it does by default."""
    from ott.geometry import pointcloud
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import sinkhorn

    @partial(jax.jit, static_argnames="limit")
    def solve(x, y, epsilon, tol, limit):
        geometry = pointcloud.PointCloud(x, y, epsilon=epsilon)
        solver = sinkhorn.Sinkhorn(lse_mode=lse_mode, threshold=tol, max_iterations=limit)
        out = solver(linear_problem.LinearProblem(geometry))
        # its potentials contain the weights; both sides are uniform here
        return out.f + epsilon * jnp.log(len(x)), out.g + epsilon * jnp.log(len(y)), out.n_iters

    def run(x, y, epsilon, tol, max_steps):
        limit = 20 * 2 ** int(np.log2(max(max_steps, 20) / 20))  # static: a power of two times 20 compiles seldom
        f, g, steps = jax.block_until_ready(solve(x, y, jnp.float32(epsilon), jnp.float32(tol), limit))
        return f, g, int(steps)

    return run


def pot_solver(method: str) -> Solver:
    """POT with NumPy float32 arrays, in the domain named."""
    import ot

    def run(x, y, epsilon, tol, max_steps):
        weights = np.full(len(x), 1 / len(x), np.float32), np.full(len(y), 1 / len(y), np.float32)
        matrix = ot.dist(x, y)
        with np.errstate(all="ignore"):
            solve = ot.bregman.sinkhorn_log if method == "log" else ot.sinkhorn
            _, log = solve(
                *weights, matrix, epsilon, stopThr=tol, numItermax=max_steps, log=True, warn=False, verbose=False
            )
            u, v = (log["log_u"], log["log_v"]) if method == "log" else (np.log(log["u"]), np.log(log["v"]))
            f, g = epsilon * (u - np.log(weights[0])), epsilon * (v - np.log(weights[1]))
        return f, g, int(log.get("niter", 0))

    return run


def calibrate(solver: Solver, problem: tuple, tol: float, limit_s: float) -> tuple[float, float, int, int] | None:
    """Find the threshold at which a solver's recomputed error meets the target; None if it does not in time."""
    x, y, cost, epsilon = problem
    solver(x, y, epsilon, 1e-30, 20)  # compiles
    each = max(clock(lambda: solver(x, y, epsilon, 1e-30, 20))[0], 1e-5) / 20
    threshold = tol
    for _ in range(5):
        most = max(20, min(MOST, int(limit_s / each)))
        f, g, steps = solver(x, y, epsilon, threshold, most)
        error = marginal_error(cost, f, g, epsilon)
        if error <= tol:
            return threshold, error, steps, most
        if steps >= most / 2 - 10 or not np.isfinite(error):
            return None
        threshold *= max(0.1, min(0.7, 0.8 * tol / error))
    return None


def timed(work: Callable[[], Any]) -> float:
    """Return seconds of one call, after a pause and, where it is short, two calls that warm the caches."""
    time.sleep(PAUSE_S)
    for _ in range(3):
        seconds, _ = clock(work)
        if seconds > 0.2:
            break
    return seconds


def cell(problem: tuple, tol: float, solvers: dict[str, Solver], config: Config) -> dict[str, Any]:
    """Return all solvers on one problem: seconds, recomputed errors, steps."""
    x, y, _, epsilon = problem
    found: dict[str, tuple | None] = {}
    for name, solver in solvers.items():
        # POT's log domain is several times its kernel's time wherever both solve: from n = 2048 it is the fallback
        needless = name == "pot, log" and len(x) >= 2048 and found["pot"]
        found[name] = None if needless else calibrate(solver, problem, tol, config.limit_s)
    times: dict[str, list[float]] = {name: [] for name, it in found.items() if it}
    for _ in range(config.repeats):
        for name, seconds in times.items():
            if seconds and statistics.median(seconds) * len(seconds) > 10:
                continue
            seconds.append(timed(lambda name=name: solvers[name](x, y, epsilon, found[name][0], found[name][3])))
    out = {}
    for name, it in found.items():
        median = statistics.median(times[name]) if it else None
        solved = it is not None and median <= config.limit_s
        out[name] = {"seconds": median, "error": it[1], "steps": it[2]} if solved else None
    return out


def many(config: Config) -> dict[str, Any]:
    """256 problems of 64 x 64 under vmap, epsilon .05 of the mean cost, error 1e-3 in the worst of them."""
    from ott.geometry import pointcloud
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import sinkhorn

    clouds = [points(64, 8, config.seed + i) for i in range(256)]
    x, y = (jnp.asarray(np.stack(part)) for part in zip(*clouds, strict=True))
    costs = [sq_distances(*cloud) for cloud in clouds]
    epsilons = jnp.asarray([0.05 * cost.mean() for cost in costs], jnp.float32)

    def fixed(num: int):
        return jax.jit(
            jax.vmap(lambda x, y, e: og.sinkhorn.run(og.PairwiseCost(x, y), epsilon=e, num_iterations=num)[0].state)
        )

    def until(x, y, e):
        return og.sinkhorn.run(og.PairwiseCost(x, y), epsilon=e, tol=1e-3)[0].state

    def peer(x, y, e):
        solver = sinkhorn.Sinkhorn(threshold=1e-3, max_iterations=2000)
        out = solver(linear_problem.LinearProblem(pointcloud.PointCloud(x, y, epsilon=e)))
        return out.f + e * jnp.log(len(x)), out.g + e * jnp.log(len(y))

    def worst(f, g) -> float:
        return max(marginal_error(*it) for it in zip(costs, f, g, np.asarray(epsilons, np.float64), strict=True))

    num = 8
    while worst(*fixed(num)(x, y, epsilons)) > 1e-3:
        num += 4
    works = {
        f"otgen, {num} iterations": fixed(num),
        "otgen, until the error": jax.jit(jax.vmap(until)),
        "ott": jax.jit(jax.vmap(peer)),
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    errors = {name: worst(*work(x, y, epsilons)) for name, work in works.items()}
    for _ in range(2 * config.repeats):
        for name, work in works.items():
            times[name].append(timed(partial(work, x, y, epsilons)))
    return {name: {"seconds": statistics.median(times[name]), "error": errors[name]} for name in works}


def main(config: Config) -> dict[str, Any]:
    """Measure the grid, write the JSON after every size, and return it."""
    solvers = {
        "otgen": ours,
        "ott": ott_solver(lse_mode=True),
        "ott, kernel": ott_solver(lse_mode=False),
        "pot": pot_solver("kernel"),
        "pot, log": pot_solver("log"),
    }
    results: dict[str, Any] = {
        **record("device", "machine", packages=("jax", "ott-jax", "POT", "numpy")),
        "cells": [],
    }
    if config.many:
        results["many"] = many(config)
    for num in config.sizes:
        for dim in config.dims:
            x, y = points(num, dim, config.seed)
            cost = sq_distances(x, y)
            for tol, shares in SHARES.items():
                for share in shares:
                    problem = (x, y, cost, float(share * cost.mean()))
                    found = cell(problem, tol, solvers, config)
                    results["cells"].append({"n": num, "d": dim, "share": share, "error": tol, "solvers": found})
                    brief = {name: it and round(1e3 * it["seconds"], 2) for name, it in found.items()}
                    print(num, dim, share, tol, brief, flush=True)
                    store(config.out, results)
    return results


if __name__ == "__main__":
    command.cli(Config, main, __doc__, lambda config, results: f"written to {config.out}" if config.out else "")
