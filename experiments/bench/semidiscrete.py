"""Semi-discrete transport against OTT-JAX and POT: held-out chi2 at equal samples and equal time, rates, memory.

    python -m experiments.bench.semidiscrete --data-dir DATA       # most of an hour on two quiet cores
    python -m experiments.bench.semidiscrete --parts table --seeds 0 --out ""

Parts (each is written to benchmarks/semidiscrete.json as it ends; parts not asked for stay as they are there):

  table   four problems, untuned: otgen with nothing but a limit of samples; OTT-JAX with the step size of its tutorial
          and its default averaging, and with a decaying one and averaging set right (weight .99 on the old mean);
          POT's defaults. Equal samples, and the better OTT-JAX form once more with the seconds that otgen took.
  eta     chi2 n / (N - 1) of otgen for N points of a Gaussian cloud in 16 and 64 dimensions: 1 is the floor of
          independent samples.
  polish  clustered points in the plane and in space to tol = .001, with Newton's steps and by descent alone; seconds
          with compilation.
  rate    samples a second at N = 10,000, d = 64 beside the plain maximum of a product, and at N = 1,000,000 with the
          largest batch whose arrays stay below 2 GiB.
  memory  peak memory of a process that does a start, steps and a measurement at N = 1,000,000, d = 64.
  codes   60,000 codes of MNIST (64 dimensions, autoencoder trained here): seconds to chi2 <= .05, and what OTT-JAX has
          after as many.

The chi2 of all is measured by one function on the same 2^20 fresh samples. Seconds are without compilation (a first
call warms up) and without that measurement; those of otgen include its own two measurements.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import statistics
import subprocess
import sys
import time
import unittest.mock
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import ot
from ott.geometry.semidiscrete_pointcloud import SemidiscretePointCloud
from ott.problems.linear.semidiscrete_linear_problem import SemidiscreteLinearProblem
from ott.solvers.linear.semidiscrete import SemidiscreteSolver

import otgen as og
from experiments.lab import command
from experiments.lab.machine import clock, record, repeated, store
from otgen.data import toy
from otgen.ot.semidiscrete import devices, measure
from otgen.ot.semidiscrete import newton as newton_steps
from otgen.ot.semidiscrete.scores import top_scores
from otgen.ot.semidiscrete.source import uniform_cube

HELD_OUT = 2**20
BATCH = 1024
GIB = 2**30
PARTS = ("table", "eta", "polish", "rate", "memory", "codes")


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    parts: tuple[str, ...] = PARTS
    """Parts of the benchmark that are run."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the problems."""
    data_dir: str | None = None
    """Folder of MNIST; OTGEN_DATA if not given."""
    shrink: int = 1
    """Divides samples, points and held-out samples, for tests."""
    out: str = "benchmarks/semidiscrete.json"
    """JSON file that is written."""


def problems(seed: int, shrink: int) -> Iterator[tuple[str, jax.Array, int]]:
    """Name, points and samples of the rows of the table."""
    keys = jax.random.split(jax.random.key(1000 + seed), 4)
    grid, _, _ = toy.standardise(toy.DISTRIBUTIONS["twenty_five_gaussians"](keys[0], 256))
    yield "25 Gaussians, N=256, d=2", grid, 2_050_000 // shrink
    yield "Gaussian, N=1000, d=2", jax.random.normal(keys[1], (1000 // shrink, 2)), 2_000_000 // shrink
    yield "Gaussian, N=1000, d=64", jax.random.normal(keys[2], (1000 // shrink, 64)), 1_000_000 // shrink
    centre, noise = jax.random.split(keys[3])
    modes = jax.random.normal(centre, (8, 16))[jnp.arange(4000 // shrink) % 8]
    yield "8 modes, N=4000, d=16", modes + 0.2 * jax.random.normal(noise, modes.shape), 1_000_000 // shrink


def held_out(h: Any, y: jax.Array, shrink: int) -> dict[str, float]:
    """Return the chi2 of heights, its error, and the cells that no sample fell into."""
    num, weights = max(HELD_OUT // shrink, 4096), jnp.full(len(y), 1 / len(y))
    counts = measure.count(jax.random.key(77), y, weights, jnp.asarray(h, jnp.float32), num, uniform_cube).counts
    chi2, error = measure.chi2_of(counts, weights)
    return {"chi2": float(chi2), "error": float(error), "unseen": int(jnp.sum(counts.sum(0) == 0))}


def heights_of(g: Any, y: jax.Array) -> np.ndarray:
    """Return heights from a dual potential of the cost |x - y|^2."""
    return (np.asarray(g) - np.sum(np.asarray(y) ** 2, 1)) / 2


def otgen(seed: int, y: jax.Array, samples: int) -> og.semidiscrete.State:
    """Return the solver as it comes, with as many samples: no tolerance that it could reach before."""
    return og.semidiscrete.run(jax.random.key(seed), y, tol=1e-9, max_samples=samples)[0]


def ott_problem(y: jax.Array) -> SemidiscreteLinearProblem:
    """OTT-JAX's problem, without regularisation."""
    sampler = lambda rng, shape, dtype: jax.random.uniform(rng, shape, dtype) - 0.5  # noqa: E731
    return SemidiscreteLinearProblem(SemidiscretePointCloud(sampler, y, epsilon=0.0))


def ott_solver(kind: str, steps: int) -> SemidiscreteSolver:
    """OTT-JAX's solver: "tutorial" or "decaying"."""
    known: dict[str, dict[str, Any]] = {
        "tutorial": {"optimizer": optax.sgd(0.02)},
        "decaying": {"optimizer": optax.sgd(optax.linear_schedule(1.0, 0.01, steps)), "potential_ema": 0.01},
    }
    return SemidiscreteSolver(
        num_iterations=steps, batch_size=BATCH, error_eval_every=steps, error_num_repeats=1, **known[kind]
    )


def by_ott(kind: str, seed: int, y: jax.Array, steps: int) -> tuple[float, np.ndarray]:
    """Return seconds and heights of OTT-JAX."""
    run = jax.jit(lambda key, y: ott_solver(kind, steps)(key, ott_problem(y)).g)
    compiled = run.lower(jax.random.key(seed), y).compile()
    seconds, g = clock(lambda: compiled(jax.random.key(seed), y))
    return seconds, heights_of(g, y)


def by_pot(seed: int, y: jax.Array, steps: int) -> tuple[float, np.ndarray]:
    """Return seconds and heights of POT with its defaults."""
    random, points = np.random.default_rng(seed), np.asarray(y)

    def sample(num: int) -> np.ndarray:
        return random.uniform(-0.5, 0.5, (num, points.shape[1])).astype(np.float32)

    seconds, g = clock(lambda: ot.semidiscrete.solve_semidiscrete(points, sample, max_iter=steps, batch_size=BATCH))
    return seconds, heights_of(g, y)


def table(config: Config) -> dict[str, Any]:
    """Return the four problems by all solvers, seed by seed."""
    rows: dict[str, Any] = {}
    for seed in config.seeds:
        for name, y, samples in problems(seed, config.shrink):
            steps, row = samples // BATCH, rows.setdefault(name, {"samples": samples})

            def add(solver: str, seconds: float, h: Any, row=row, y=y) -> None:
                row.setdefault(solver, []).append({"seconds": seconds, **held_out(h, y, config.shrink)})
                print(f"{solver}: {row[solver][-1]}", flush=True)

            print(name, "seed", seed, flush=True)
            if seed == config.seeds[0]:
                otgen(seed, y, samples)
            seconds, state = clock(functools.partial(otgen, seed, y, samples))
            add("otgen", seconds, state.h)
            row["otgen"][-1]["eta"] = row["otgen"][-1]["chi2"] * samples / (len(y) - 1)
            add("ott-jax, tutorial's step size", *by_ott("tutorial", seed, y, steps))
            taken, h = by_ott("decaying", seed, y, steps)
            add("ott-jax, decaying, averaged", taken, h)
            fewer = max(1, min(steps, int(steps * seconds / taken)))
            add("ott-jax, decaying, averaged, equal time", *by_ott("decaying", seed, y, fewer))
            add("POT", *by_pot(seed, y, steps))
    return rows


def eta(config: Config) -> dict[str, Any]:
    """Statistical efficiency over sizes, at tol = .05."""
    rows: dict[str, Any] = {}
    for seed in config.seeds:
        for dim in (16, 64):
            for num in (1000, 4000, 10_000):
                y = jax.random.normal(jax.random.key(2000 + seed), (num // config.shrink, dim))
                state, info = og.semidiscrete.run(jax.random.key(seed), y, tol=0.05)
                found = held_out(state.h, y, config.shrink)
                found["eta"] = found["chi2"] * float(info.num_samples) / (len(y) - 1)
                rows.setdefault(f"N={num}, d={dim}", []).append(found)
                print(f"N={num}, d={dim}, seed {seed}: {found}", flush=True)
    return rows


def clustered(seed: int, shrink: int) -> Iterator[tuple[str, jax.Array]]:
    """Yield clouds of points whose scales differ: 25 Gaussians on a grid, and ten tight clusters."""
    grid = toy.DISTRIBUTIONS["twenty_five_gaussians"](jax.random.key(1000 + seed), 2500 // shrink)
    yield "grid of 25 Gaussians, N=2500, d=2", toy.standardise(grid)[0]
    for dim, width in ((2, 0.01), (2, 0.001), (3, 0.01), (3, 0.001)):
        keys, num = jax.random.split(jax.random.key(3000 + seed)), 1000 // shrink
        centres = jax.random.normal(keys[0], (10, dim))[jnp.arange(num) % 10]
        yield f"10 clusters of sd {width}, N=1000, d={dim}", centres + width * jax.random.normal(keys[1], (num, dim))


def newton(config: Config) -> dict[str, Any]:
    """Return samples and seconds to tol = .001, with and without Newton's steps."""
    rows: dict[str, Any] = {}
    for seed in config.seeds:
        for name, y in clustered(seed, config.shrink):
            for way, most_dim in (("with", newton_steps.MOST_DIM), ("without", 0)):
                with unittest.mock.patch.object(newton_steps, "MOST_DIM", most_dim):
                    seconds, (state, info) = clock(lambda: og.semidiscrete.run(jax.random.key(seed), y, tol=0.001))  # noqa: B023
                found = held_out(state.h, y, config.shrink) | {"seconds": seconds, "samples": float(info.num_samples)}
                found["converged"] = int(info.status) == og.Status.CONVERGED
                rows.setdefault(name, {}).setdefault(way, []).append(found)
                print(f"{name}, seed {seed}, {way}: {found}", flush=True)
    return rows


def per_second(samples: int, work: Callable[[], Any], repeats: int = 7) -> float:
    """Return samples a second: the median over repeats, after a first call."""
    return samples / statistics.median(repeated(work, repeats)[0])


def ott_step(y: jax.Array, batch: int) -> tuple[Callable[[], Any], float]:
    """One step of OTT-JAX, compiled, and the GiB it needs."""
    solver = dataclasses.replace(ott_solver("tutorial", 100), batch_size=batch)
    state = jax.eval_shape(lambda y: _ott_start(solver, y), y)
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
    step = jax.jit(lambda key, state, y: solver.step(key, state, ott_problem(y)).g)
    compiled = step.lower(jax.random.key(0), state, y).compile()
    sizes = compiled.memory_analysis()
    needed = (sizes.temp_size_in_bytes + sizes.argument_size_in_bytes + sizes.output_size_in_bytes) / GIB
    return lambda: compiled(jax.random.key(0), state, y), needed


def _ott_start(solver: SemidiscreteSolver, y: jax.Array) -> Any:
    from ott.solvers.linear.semidiscrete import SemidiscreteState

    g, many = jnp.zeros(len(y)), jnp.full(solver.num_iterations, jnp.inf)
    return SemidiscreteState(jnp.array(0), jnp.array(0.0), g, g, solver.optimizer.init(g), many, many, many[:1])


def otgen_steps(y: jax.Array, batch: int, steps: int) -> Callable[[], Any]:
    """Return some steps of the solver: sampling, scores, update and average."""
    key, weights = jax.random.key(0), jnp.full(len(y), 1 / len(y))
    state = og.semidiscrete.stage(key, og.semidiscrete.init(key, y), y, weights, 1000, batch)
    return lambda: devices.advance(key, state, y, weights, steps, uniform_cube, batch).h


def rate(config: Config) -> dict[str, Any]:
    """Return samples a second."""
    num, dim = 10_000 // config.shrink, 64
    y = jax.random.normal(jax.random.key(0), (num, dim))
    h = -0.14 * jnp.sum(y**2, 1)
    plain = jax.jit(lambda x, y, h: (jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST) + h).max(1))
    alone = {}
    for batch in (256, 1024, 4096):
        x = uniform_cube(jax.random.key(1), batch, dim)
        alone[batch] = per_second(batch, functools.partial(plain, x, y, h))
    x = uniform_cube(jax.random.key(1), 4096, dim)
    step, _ = ott_step(y, BATCH)
    found: dict[str, Any] = {
        "N": num,
        "d": dim,
        "maximum of a product alone, by batch": alone,
        "top_scores": per_second(4096, lambda: top_scores(x, y, h)),
        "steps of otgen": per_second(20 * BATCH, otgen_steps(y, BATCH, 20)),
        "steps of ott-jax": per_second(BATCH, step),
    }
    found["top_scores / maximum alone"] = found["top_scores"] / max(alone.values())
    found["steps of otgen / maximum alone"] = found["steps of otgen"] / max(alone.values())
    found["otgen / ott-jax"] = found["steps of otgen"] / found["steps of ott-jax"]
    print(found, flush=True)
    many = 1_000_000 // config.shrink
    y = jax.random.normal(jax.random.key(0), (many, dim))
    fitting = {batch: ott_step(y, batch) for batch in (16, 32, 64, 128, 256)}
    batch = max((size for size, (_, needed) in fitting.items() if needed <= 2), default=16)
    step, needed = fitting[batch]
    short = {
        "N": many,
        "batch of ott-jax": batch,
        "GiB of ott-jax": needed,
        "GiB of ott-jax at the next batch": fitting.get(2 * batch, (None, None))[1],
        "steps of ott-jax": per_second(batch, step, 3),
        "steps of otgen, batch 4096": per_second(4096, otgen_steps(y, 4096, 1), 3),
    }
    short["otgen / ott-jax"] = short["steps of otgen, batch 4096"] / short["steps of ott-jax"]
    return {**found, "below 2 GiB": short}


_MEMORY = """
import resource, sys
import jax, jax.numpy as jnp
import otgen as og
from experiments.lab import command
from experiments.lab.machine import clock, record, repeated, store
from otgen.ot.semidiscrete import devices as shards
from otgen.ot.semidiscrete.source import uniform_cube
num, dim, batch, key = int(sys.argv[1]), 64, 4096, jax.random.key(0)
y, weights = jax.random.normal(key, (num, dim)), jnp.full(num, 1 / num)
state = og.semidiscrete.init(key, y)
state = og.semidiscrete.stage(key, state, y, weights, 1000, batch)
state = shards.advance(key, state, y, weights, 2, uniform_cube, batch)
chi2, _ = og.semidiscrete.chi2(key, state, y, 4096)
assert bool(jnp.isfinite(chi2)) and bool(jnp.isfinite(state.h).all())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def memory(config: Config) -> dict[str, Any]:
    """Peak GiB of a process of its own."""
    num = 1_000_000 // config.shrink
    done = subprocess.run([sys.executable, "-c", _MEMORY, str(num)], capture_output=True, text=True, check=True)
    return {"N": num, "d": 64, "batch": 4096, "peak_gib": float(done.stdout.split()[-1])}


def codes(config: Config) -> dict[str, Any]:
    """MNIST's codes: seconds to chi2 <= .05, and the peer at equal and longer time."""
    from otgen import data
    from otgen.models import ae_ot
    from otgen.models.apply import rows as apply

    images = data.load("mnist", "train", config.data_dir).images[:: config.shrink]
    settings = ae_ot.Config(latent_dim=64, epochs=12.0 / config.shrink)
    module, params = ae_ot.train_autoencoder(jax.random.key(0), images, settings)
    z = np.asarray(apply(module, {"params": params}, images, "encode"))
    y = jnp.asarray((z - z.mean(0)) / z.std(0))
    runs = []
    for seed in config.seeds:
        begin = time.perf_counter()
        trained: list[float] = []
        callback = lambda step, metrics: trained.append(time.perf_counter() - begin)  # noqa: B023, E731
        state, info = og.semidiscrete.run(jax.random.key(seed), y, tol=0.05, callback=callback)
        seconds = time.perf_counter() - begin
        found = {
            "seconds": seconds,
            "seconds without the last measurement": trained[-2],
            "samples": float(info.num_samples),
            **held_out(state.h, y, config.shrink),
        }
        found["eta"] = found["chi2"] * found["samples"] / (len(y) - 1)
        found["unseen by chance"] = len(y) * float(np.exp(-max(HELD_OUT // config.shrink, 4096) / len(y)))
        print(f"seed {seed}: {found}", flush=True)
        if seed == config.seeds[0]:
            taken, _ = by_ott("decaying", seed, y, 5)
            steps = max(1, int(5 * seconds / taken))
            spent, h = by_ott("decaying", seed, y, steps)
            peer = {"seconds": spent, "samples": steps * BATCH, **held_out(h, y, config.shrink)}
            print(f"ott-jax: {peer}", flush=True)
            found["ott-jax, as long"] = peer
        runs.append(found)
    return {"N": len(y), "d": 64, "tol": 0.05, "runs": runs}


def main(config: Config) -> dict[str, Any]:
    """Measure, write the JSON after every part, and return it."""
    unknown = set(config.parts) - set(PARTS)
    if unknown:
        raise ValueError(f"parts {sorted(unknown)} are unknown: choose among {', '.join(PARTS)}.")
    path = Path(config.out) if config.out else None
    results = json.loads(path.read_text()) if path and path.exists() else {}
    told = "python -m experiments.bench.semidiscrete --data-dir DATA"
    results |= {"command": told, **record("machine", packages=("jax", "ott-jax", "POT"))}
    parts = {"table": table, "eta": eta, "polish": newton, "rate": rate, "memory": memory, "codes": codes}
    for part in config.parts:
        results[part] = parts[part](config)
        store(config.out, results)
    return results


if __name__ == "__main__":
    command.cli(Config, main, __doc__, lambda config, results: f"written to {config.out}" if config.out else "")
