"""Seconds of the first call of a solver, in a fresh process: otgen against ott-jax on the same points.

    python -m experiments.bench.first_call             # 6 minutes on two cores; writes benchmarks/first_call.json

Everybody's first call traces, compiles and runs, otgen's as a notebook writes it and ott-jax's jitted; nothing is
read from a compilation cache, packages are imported and the backend is running before the clock starts. x is normal,
y a mixture of five normals, float32, uniform weights, |x - y|^2, epsilon .05 of the mean cost, a marginal error of
1e-3; `value` is the regularised value with its gradient in x. Medians over processes taken in turn; beside seconds
that of the processor, which other work changes less.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from experiments.lab import command
from experiments.lab.machine import record, store

SHARE, TOL = 0.05, 1e-3


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    sizes: tuple[int, ...] = (64, 512)
    """Points on either side."""
    dim: int = 2
    """Dimension of the points."""
    repeats: int = 5
    """Processes for each figure."""
    seed: int = 0
    """Of the problems."""
    out: str = "benchmarks/first_call.json"
    """JSON file that is written."""

    @classmethod
    def smoke(cls, **changes: Any) -> Config:
        """Return a run of seconds, for tests."""
        return cls(**{"sizes": (16,), "repeats": 1, **changes})


def _ours(what: str) -> Callable[..., Any]:
    import jax

    import otgen as og

    def run(x: Any, y: Any, epsilon: float) -> Any:
        return og.sinkhorn.run(og.PairwiseCost(x, y), epsilon=epsilon, tol=TOL)[0].f

    def value(x: Any, y: Any, epsilon: float) -> Any:
        return jax.value_and_grad(lambda x: og.sinkhorn.value(og.PairwiseCost(x, y), epsilon=epsilon, tol=TOL))(x)

    return {"run": run, "value": value}[what]


def _ott(what: str) -> Callable[..., Any]:
    import jax
    from ott.geometry import pointcloud
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import sinkhorn

    def solve(x: Any, y: Any, epsilon: Any) -> Any:
        geometry = pointcloud.PointCloud(x, y, epsilon=epsilon)
        return sinkhorn.Sinkhorn(threshold=TOL)(linear_problem.LinearProblem(geometry))

    run = jax.jit(lambda x, y, epsilon: solve(x, y, epsilon).f)
    value = jax.jit(jax.value_and_grad(lambda x, y, epsilon: solve(x, y, epsilon).reg_ot_cost))
    return {"run": run, "value": value}[what]


def measure(who: str, what: str, num: int, dim: int, seed: int) -> dict[str, float]:
    """Return the seconds of the first call and of a later one, in this process."""
    import jax
    import jax.numpy as jnp

    from experiments.bench.sinkhorn import points

    work = {"otgen": _ours, "ott-jax": _ott}[who](what)
    x, y = map(jnp.asarray, points(num, dim, seed))
    epsilon = SHARE * float(jnp.mean(jnp.sum((x[:, None] - y) ** 2, -1)))
    seconds, busy = [], []
    for _ in range(12):
        start, spent = time.perf_counter(), time.process_time()
        jax.block_until_ready(work(x, y, epsilon))
        seconds.append(time.perf_counter() - start)
        busy.append(time.process_time() - spent)
    return {"first_s": seconds[0], "first_cpu_s": busy[0], "later_ms": 1e3 * statistics.median(seconds[2:])}


def main(config: Config) -> dict[str, Any]:
    """Measure everybody in turn and write the table."""
    rows = []
    for what in ("run", "value"):
        for num in config.sizes:
            found: dict[str, list[dict[str, float]]] = {"otgen": [], "ott-jax": []}
            for _ in range(config.repeats):
                for who, runs in found.items():
                    runs.append(_in_a_process(who, what, num, config))
            row: dict[str, Any] = {"call": what, "n": num, "d": config.dim}
            for who, runs in found.items():
                row[who] = {name: round(statistics.median(run[name] for run in runs), 3) for name in runs[0]}
            row["ratio"] = round(row["otgen"]["first_s"] / row["ott-jax"]["first_s"], 2)
            row["ratio_cpu"] = round(row["otgen"]["first_cpu_s"] / row["ott-jax"]["first_cpu_s"], 2)
            print(row, flush=True)
            rows.append(row)
    results = {**record("machine", "jax", "date", packages=("jaxlib", "ott-jax")), "rows": rows}
    store(config.out, results)
    return results


def _in_a_process(who: str, what: str, num: int, config: Config) -> dict[str, float]:
    call = f"measure{(who, what, num, config.dim, config.seed)}"
    code = f"import json; from experiments.bench.first_call import measure; print(json.dumps({call}))"
    settings = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=settings, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    command.cli(Config, main, __doc__, lambda config, results: f"written to {config.out}" if config.out else "")
