"""Throughput of two-point latent operations against an elementwise copy-and-scale, in bytes moved.

    python -m experiments.bench.latent            # seconds; writes benchmarks/latent.json

A copy-and-scale reads one array and writes one; an interpolation reads two and writes one. Both are jitted, of 1e7
float32 numbers, in one process; medians over the repeats, taken in turn so that a busy machine slows both.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import statistics
from typing import Any

import jax

from experiments.lab import command
from experiments.lab.machine import clock, record, store
from otgen.ot import latent


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    elements: int = 10**7
    """Numbers in the arrays that are interpolated."""
    repeats: int = 31
    """Timed calls of which the median is written."""
    out: str = "benchmarks/latent.json"
    """JSON file that is written."""

    @classmethod
    def smoke(cls, **changes: Any) -> Config:
        """Return a run of seconds, for tests."""
        return cls(**{"elements": 10**5, "repeats": 3, **changes})


def main(config: Config) -> dict[str, Any]:
    """Measure, write the JSON, and return it."""
    z0, z1 = (jax.random.uniform(key, (config.elements,), minval=-1.0) for key in jax.random.split(jax.random.key(0)))
    traces: list[str] = []

    def interpolation(prior: latent.Prior):
        def lerp(t, z0, z1):
            traces.append(type(prior).__name__)
            return latent.lerp(t, z0, z1, prior)

        return jax.jit(lerp)

    works = {"copy and scale": (8, jax.jit(lambda t, z0, z1: t * z0))}
    for prior in (latent.Normal(), latent.Uniform(), latent.Cauchy()):
        works[f"lerp, {type(prior).__name__}"] = (12, interpolation(prior))
    times: dict[str, list[float]] = {name: [] for name in works}
    for i in range(-2, config.repeats):
        for name, (_, work) in works.items():
            times[name].append(clock(functools.partial(work, 0.3 + 0.01 * (i % 5), z0, z1))[0])
    rates = {name: bytes_ * config.elements / statistics.median(times[name][2:]) for name, (bytes_, _) in works.items()}
    results = {
        "elements": config.elements,
        "gigabytes_per_second": {name: round(rate / 1e9, 3) for name, rate in rates.items()},
        "share_of_copy": {name: round(rate / rates["copy and scale"], 3) for name, rate in rates.items()},
        "traces": len(traces),
        **record("device", "machine", "jax"),
    }
    store(config.out, results)
    return results


if __name__ == "__main__":
    command.cli(Config, main, __doc__, lambda config, results: json.dumps(results, indent=1))
