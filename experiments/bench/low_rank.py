"""Plans of low rank against those of ott-jax's `LRSinkhorn`: what they cost, how well they meet the marginals, seconds.

    python -m experiments.bench.low_rank       # 8 minutes of one core; writes benchmarks/low_rank.json

A normal cloud goes to a mixture of five narrow Gaussians, |x - y|^2. Every solver has the ranks and the points in
float32 and as many steps as it takes by itself: otgen at epsilon = .003 of the mean cost and tol = 1e-3; ott-jax as it
comes, from each of its starts, with costs scaled by their mean (`scale_cost="mean"`), and with that and longer steps
of its mirror descent (gamma = 100). Solvers run in turn, seconds are medians after a first call that compiles. The cost
is <C, P> recomputed from the plan; plans that miss the marginals may cost less than the best. Beside them the exact
cost, and that of the independent plan.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ott.geometry import pointcloud
from ott.initializers.linear import initializers_lr
from ott.problems.linear import linear_problem
from ott.solvers.linear import sinkhorn_lr

import otgen as og
from experiments.lab import command
from experiments.lab.machine import clock, record, store
from otgen.ot.products import product
from otgen.types import Array

STARTS = {
    "random": initializers_lr.RandomInitializer,
    "rank 2": initializers_lr.Rank2Initializer,
    "k-means": initializers_lr.KMeansInitializer,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    size: int = 2000
    """Points of either cloud."""
    dims: tuple[int, ...] = (2, 16)
    """Dimensions."""
    ranks: tuple[int, ...] = (10, 50)
    """Ranks."""
    repeats: int = 3
    """Timed calls of which the median is written."""
    large: int = 100_000
    """Points of a cloud that otgen is given alone; 0 for none."""
    seed: int = 0
    """Of the problems and of the starts."""
    out: str = "benchmarks/low_rank.json"
    """JSON file that is written."""

    @classmethod
    def smoke(cls, **changes: Any) -> Config:
        """Return a run of seconds, for tests."""
        return cls(**{"size": 60, "dims": (2,), "ranks": (3,), "repeats": 1, "large": 0, **changes})


def problem(num: int, dim: int, seed: int) -> tuple[Array, Array]:
    """Return a normal cloud and a mixture of five Gaussians [num, dim]."""
    keys = jax.random.split(jax.random.key(seed), 4)
    centres = 3 * dim**-0.5 * jax.random.normal(keys[0], (5, dim))
    y = centres[jax.random.randint(keys[2], (num,), 0, 5)] + 0.3 * jax.random.normal(keys[3], (num, dim))
    return jax.random.normal(keys[1], (num, dim)), y


def ours(x: Array, y: Array, rank: int, seed: int) -> Callable[[], tuple[Array, ...]]:
    """Return a call of otgen that returns Q, R, g, steps and whether it says that it is done."""
    cost = og.PairwiseCost(x, y)

    def call() -> tuple[Array, ...]:
        epsilon = og.epsilon(cost, share=0.003)
        solution, info = og.low_rank.run(jax.random.key(seed), cost, rank=rank, epsilon=epsilon)
        return solution.q, solution.r, solution.g, info.num_steps, info.status == og.Status.CONVERGED

    return call


def theirs(x: Array, y: Array, rank: int, seed: int, start: str, **options: Any) -> Callable[[], tuple[Array, ...]]:
    """Return a call of ott-jax that returns the same."""
    scale = options.pop("scale_cost", 1.0)
    solver = sinkhorn_lr.LRSinkhorn(rank=rank, initializer=STARTS[start](rank), **options)

    @jax.jit
    def call(x: Array, y: Array) -> tuple[Array, ...]:
        geometry = pointcloud.PointCloud(x, y, scale_cost=scale)
        found = solver(linear_problem.LinearProblem(geometry), rng=jax.random.key(seed))
        return found.q, found.r, found.g, found.n_iters, found.converged

    return lambda: call(x, y)


def scores(x: Array, y: Array, q: Array, r: Array, g: Array) -> dict[str, float]:
    """Return <C, P> and the marginal error of a plan Q diag(1/g) R'."""
    num = len(x)
    rows, columns = product(q, r.sum(0) / g), product(r, q.sum(0) / g)
    error = jnp.sum(jnp.abs(rows - 1 / num)) + jnp.sum(jnp.abs(columns - 1 / num))
    cost = jnp.sum(q * og.PairwiseCost(x, y).times(r / g))
    return {"cost": round(float(cost), 4), "error": float(f"{float(error):.2g}")}


def cell(dim: int, rank: int, config: Config) -> dict[str, Any]:
    """Return what all solvers reach on one problem."""
    x, y = problem(config.size, dim, config.seed)
    calls = {"otgen": ours(x, y, rank, config.seed)}
    for start in STARTS:
        calls[f"ott-jax, {start}"] = theirs(x, y, rank, config.seed, start)
        calls[f"ott-jax, {start}, scaled"] = theirs(x, y, rank, config.seed, start, scale_cost="mean")
    calls["ott-jax, random, scaled, gamma = 100"] = theirs(
        x, y, rank, config.seed, "random", scale_cost="mean", gamma=100.0
    )
    cost = og.PairwiseCost(x, y)
    row: dict[str, Any] = {"d": dim, "rank": rank, "exact": round(float(og.exact.plan(cost).value), 4)}
    row["independent"] = round(float(cost.mean()), 4)
    found = {name: clock(call)[1] for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(config.repeats):
        for name, call in calls.items():
            times[name].append(clock(call)[0])
    for name, (q, r, g, steps, done) in found.items():
        told = {"steps": int(steps), "done": bool(done), "seconds": round(statistics.median(times[name]), 3)}
        row[name] = {**scores(x, y, q, r, g), **told}
        print(dim, rank, name, row[name], flush=True)
    return row


def large(dim: int, rank: int, config: Config) -> dict[str, Any]:
    """Return what otgen reaches between large clouds."""
    x, y = problem(config.large, dim, config.seed)
    seconds, (q, r, g, steps, done) = clock(ours(x, y, rank, config.seed))
    told = {"steps": int(steps), "done": bool(done), "seconds": round(seconds, 1)}
    row = {"n": config.large, "d": dim, "rank": rank, **scores(x, y, q, r, g), **told}
    print(row, flush=True)
    return row


def main(config: Config) -> dict[str, Any]:
    """Measure, write the JSON, and return it."""
    results = {
        **record("device", "machine", "date", packages=("jax", "ott-jax")),
        "size": config.size,
        "cells": [cell(dim, rank, config) for dim in config.dims for rank in config.ranks],
        "large": [large(dim, config.ranks[0], config) for dim in config.dims] if config.large else [],
    }
    store(config.out, results)
    return results


if __name__ == "__main__":
    command.cli(Config, main, __doc__, lambda config, results: f"written to {config.out}" if config.out else "")
