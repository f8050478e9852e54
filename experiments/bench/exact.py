"""Exact plans against POT's `emd`, whose compiled network simplex method does the work of both: seconds, values, bytes.

    python -m experiments.bench.exact          # 10 minutes of one core; writes benchmarks/exact.json

Costs of random numbers, or |x - y|^2 of normal points in the plane, in float32; weights from the flat Dirichlet law.
POT is given the same numbers in float64 and asked for potentials too, without a limit of iterations. Ours is measured
as it is called, arrays of JAX in and out, and in a jitted program. With equal weights `assignment` stands beside them.
Repeats are of as many calls as take a quarter of a second, and alternate, so that a busy machine slows all: medians
over them, of the seconds and of the ratios. The first call is a new process's, with the import of POT and without that
of otgen.
"""

from __future__ import annotations

import dataclasses
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import ot

import otgen as og
from experiments.lab import command
from experiments.lab.machine import clock, record, store

FIRST = """
import time, numpy as np, otgen as og
start = time.perf_counter()
og.exact.plan(np.eye(8, dtype=np.float32)).value.block_until_ready()
print(time.perf_counter() - start)
"""


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    sizes: tuple[int, ...] = (200, 500, 1000, 2000, 5000)
    """Points a side, of random costs and weights."""
    cloud_sizes: tuple[int, ...] = (200, 500, 1000)
    """The same, of points in the plane, with weights and with equal ones."""
    repeats: int = 21
    """Repeats of a call, at most."""
    seconds: float = 20.0
    """Of all repeats of a call, about; slow calls have three repeats."""
    memory_size: int = 2000
    """Points a side where the peak of memory is measured."""
    seed: int = 0
    """Of the problems."""
    out: str = "benchmarks/exact.json"
    """JSON file that is written."""

    @classmethod
    def smoke(cls, **changes: Any) -> Config:
        """Return a run of seconds, for tests."""
        return cls(**{"sizes": (60,), "cloud_sizes": (40,), "repeats": 3, "memory_size": 50, **changes})


def problem(kind: str, num: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return costs [num, num] and weights [num] twice, float32."""
    random = np.random.default_rng((seed, num))
    a, b = random.dirichlet(np.ones(num), 2)
    if "equal" in kind:
        a = b = np.full(num, 1 / num)
    if "random" in kind:
        costs = random.uniform(size=(num, num))
    else:
        x, y = random.normal(size=(2, num, 2))
        costs = ((x[:, None] - y) ** 2).sum(-1)
    return tuple(of.astype(np.float32) for of in (costs, a, b))


def calls(kind: str, num: int, config: Config) -> dict[str, Callable[[], Any]]:
    """Return what is timed, by name; POT's first."""
    costs, a, b = problem(kind, num, config.seed)
    wide = [of.astype(np.float64) for of in (costs, a, b)]
    wide[1:] = [weights / weights.sum() for weights in wide[1:]]
    device, jitted = jax.block_until_ready([jnp.asarray(of) for of in (costs, a, b)]), jax.jit(og.exact.plan)
    works = {
        "POT": lambda: ot.emd(wide[1], wide[2], wide[0], numItermax=10**12, log=True),
        "otgen": lambda: og.exact.plan(*device),
        "otgen, jitted": lambda: jitted(*device),
    }
    if "equal" in kind:
        works["otgen, assignment"] = lambda: og.exact.assignment(device[0])
    return works


def cell(kind: str, num: int, config: Config) -> dict[str, Any]:
    """Return medians of seconds and of ratios to POT, and how far value and potentials are from POT's and a proof."""
    works = calls(kind, num, config)
    first = {name: clock(work) for name, work in works.items()}  # compiles
    results, times = {name: result for name, (_, result) in first.items()}, {name: [] for name in works}
    seconds = first["POT"][0]
    often = max(1, int(0.25 / seconds))
    for _ in range(max(3, min(config.repeats, int(config.seconds / often / seconds)))):
        for name, work in works.items():
            times[name].append(clock(lambda work=work: [work() for _ in range(often)])[0] / often)
    costs, a, b = (np.asarray(of, np.float64) for of in problem(kind, num, config.seed))
    value = float(results["POT"][1]["cost"])
    found = results["otgen"]
    f, g = np.asarray(found.f, np.float64), np.asarray(found.g, np.float64)
    row: dict[str, Any] = {"problem": kind, "n": num, "repeats": len(times["POT"])}
    for name, seconds in times.items():
        ratios = [one / peer for one, peer in zip(seconds, times["POT"], strict=True)]
        row[name] = {"seconds": round(statistics.median(seconds), 5), "times POT": round(statistics.median(ratios), 2)}
    row["relative difference of the values"] = abs(float(found.value) - value) / value
    row["largest f + g - cost, over the largest cost"] = float((f[:, None] + g - costs).max() / costs.max())
    row["duality gap over the value"] = abs(float(found.value - a @ f / a.sum() - b @ g / b.sum())) / value
    print(row, flush=True)
    return row


def peak(work: Callable[[], Any]) -> int | None:
    """Return bytes that a call takes at its peak beyond what the process had; None where the system does not tell."""
    if not Path("/proc/self/clear_refs").exists():
        return None

    def memory(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])

    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = memory("VmRSS")
    result = jax.block_until_ready(work())
    return memory("VmHWM") - before if result is not None else None


def main(config: Config) -> dict[str, Any]:
    """Measure, write the JSON, and return it."""
    alone = subprocess.run([sys.executable, "-c", FIRST], check=True, capture_output=True, text=True)
    sizes = {"random costs": config.sizes, "points in the plane": config.cloud_sizes}
    sizes |= {f"{kind}, equal weights": config.cloud_sizes for kind in sizes}
    results = {
        **record("machine", "device", "date", packages=("jax", "POT", "scipy")),
        "config": dataclasses.asdict(config),
        "first call, seconds": round(float(alone.stdout), 2),
        "bytes an entry at the peak": {
            name: (taken := peak(work)) and round(taken / config.memory_size**2, 1)
            for name, work in calls("random costs", config.memory_size, config).items()
        },
        "cells": [cell(kind, num, config) for kind, nums in sizes.items() for num in nums],
    }
    store(config.out, results)
    return results


if __name__ == "__main__":
    command.cli(Config, main, __doc__, lambda config, results: f"written to {config.out}" if config.out else "")
