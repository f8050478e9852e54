"""What the training engine costs: mapped against plain steps, data loading, checkpoints, several steps in one call.

    python -m experiments.bench.train --data-dir DATA        # some minutes on two cores; writes benchmarks/train.json

The autoencoder of AE-OT on MNIST (batches of 250 images, dense layers of 512 and 256; without a data folder images of
noise), and a small network on points of the plane, whose steps are shorter than the time a call takes. In turn, so
that a busy machine slows all alike, runs of the same number of steps of

* a plain loop: one jitted step that gives its state's memory away, on a batch that stays on the device;
* the engine: `train.train` on the same batch, without callback or checkpoints;
* the engine on real, shuffled data;
* the engine on real data with a checkpoint every 100 steps;
* the engine with 10 steps in one call.

A ratio is the median over the repeats of the ratios within each; its range is given beside. Model operations per
second are those of a step as XLA counts them; the ceiling is a product of 2048 x 2048 float32 matrices.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab import command
from experiments.lab.machine import record, repeated, store
from otgen import data
from otgen.data.batches import batches
from otgen.models import ae_ot
from otgen.train import Checkpoints, train
from otgen.train.budget import flops


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    data_dir: str | None = None
    """Folder of MNIST; images of noise are used without."""
    steps: int = 400
    """Timed steps of the autoencoder in every run, a multiple of 100."""
    small_steps: int = 3000
    """The same of the small network."""
    repeats: int = 9
    """Timed runs of which the median is written."""
    out: str = "benchmarks/train.json"
    """JSON file that is written."""

    @classmethod
    def smoke(cls, **changes: Any) -> Config:
        """Return a run of seconds, for tests."""
        return cls(**{"steps": 100, "small_steps": 100, "repeats": 2, **changes})


def main(config: Config) -> dict[str, Any]:
    """Measure, write the JSON, and return it."""
    images = images_of(config)
    large = ae_ot.Config(latent_dim=16, batch_size=250)
    points = np.random.default_rng(0).random((4000, 1, 1, 2), np.float32)
    small = ae_ot.Config(latent_dim=2, hidden=(32,), batch_size=64)
    results = {
        "machine": record("device", "devices"),
        **record("python", "jax"),
        "images": "MNIST" if config.data_dir else "noise",
        "ceiling_gflops": ceiling(config.repeats) / 1e9,
        "autoencoder": measure(images, large, config.steps, config.repeats),
        "small network": measure(points, small, config.small_steps, config.repeats),
    }
    for name in ("autoencoder", "small network"):
        results[name]["share_of_the_ceiling"] = results[name]["gflops"] / results["ceiling_gflops"]
    store(config.out, results)
    return results


def images_of(config: Config) -> np.ndarray:
    """60,000 images."""
    if config.data_dir:
        return data.load("mnist", "train", config.data_dir).images
    return np.random.default_rng(0).integers(0, 256, (60_000, 28, 28, 1), np.uint8)


def measure(images: np.ndarray, model: ae_ot.Config, steps: int, repeats: int) -> dict[str, Any]:
    """Return seconds a step of every way to run it, and their ratios."""
    key, rows, every = jax.random.key(0), model.batch_size, 100
    module, start = ae_ot.init(key, model, images[:1], steps)
    step = ae_ot.make_step(module, steps)
    same = jax.device_put(images[:rows])
    constant = [same] * (steps + every)
    plain_step = jax.jit(step, donate_argnums=0)

    def real() -> Iterator[jax.Array]:
        return (batch[0] for batch in batches(key, (images,), rows, stop=len(constant)))

    def plain() -> float:
        state, clock = jax.tree.map(jnp.copy, start), Clock(every)
        for i, batch in enumerate(constant):
            state, metrics = plain_step(state, batch, key)
            if (i + 1) % every == 0:
                clock(i + 1, {name: float(value) for name, value in metrics.items()})
        return clock.per_step()

    def engine(feed: Any, **options: Any) -> float:
        clock = Clock(every)
        train(step, start, feed, key, callback=clock, log_every=every, **options)
        return clock.per_step()

    def saving() -> float:
        with tempfile.TemporaryDirectory() as folder, Checkpoints(folder, {}) as checkpoints:
            clock = Clock(every)
            train(step, start, real(), key, callback=clock, log_every=every, checkpoints=checkpoints, save_every=every)
            checkpoints.newest()  # waits until all of it is written
            clock.stop()
            return clock.per_step()

    works: dict[str, Callable[[], float]] = {
        "plain": plain,
        "engine": lambda: engine(constant),
        "real data": lambda: engine(real()),
        "checkpoints": saving,
        "ten in one call": lambda: engine(constant, steps_per_call=10),
    }
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for i in range(repeats):
        for name in list(works)[:: 1 if i % 2 else -1]:  # each as often before the others as after
            seconds[name].append(works[name]())
    cost = flops(step, start, same, key)
    middle = {name: statistics.median(found) for name, found in seconds.items()}
    return {
        "rows": rows,
        "steps": steps,
        "repeats": repeats,
        "save_every": every,
        "microseconds_per_step": {name: round(1e6 * value, 2) for name, value in middle.items()},
        "ratios": {
            "engine / plain": ratio(seconds, "engine", "plain"),
            "real data / constant batch": ratio(seconds, "real data", "engine"),
            "with checkpoints / without": ratio(seconds, "checkpoints", "real data"),
            "ten in one call / one": ratio(seconds, "ten in one call", "engine"),
        },
        "images_per_second": rows / middle["real data"],
        "gflops": cost / middle["engine"] / 1e9,
    }


class Clock:
    """A callback that takes the time of a run from its second report on, when everything is compiled."""

    def __init__(self, every: int):
        self._every, self._times = every, {}

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        self._times[step] = time.perf_counter()

    def stop(self) -> None:
        """Let the run have ended now."""
        self._times[max(self._times)] = time.perf_counter()

    def per_step(self) -> float:
        """Return seconds a step."""
        return (self._times[max(self._times)] - self._times[self._every]) / (max(self._times) - self._every)


def ratio(seconds: dict[str, list[float]], one: str, other: str) -> dict[str, float]:
    """Return the median, least and largest ratio of two ways over the repeats."""
    found = [a / b for a, b in zip(seconds[one], seconds[other], strict=True)]
    return {"median": statistics.median(found), "least": min(found), "largest": max(found)}


def ceiling(repeats: int, side: int = 2048) -> float:
    """Return operations per second of a product of float32 matrices."""
    x = jax.random.normal(jax.random.key(0), (side, side))
    product = jax.jit(lambda x: jnp.matmul(x, x, precision=jax.lax.Precision.HIGHEST))
    return 2 * side**3 / statistics.median(repeated(lambda: product(x), repeats)[0])


def show(config: Config, results: dict[str, Any]) -> str:
    """Return the results as lines to print."""
    lines = [f"ceiling {results['ceiling_gflops']:.0f} GFLOP/s"]
    for name in ("autoencoder", "small network"):
        found = results[name]
        lines.append(
            f"{name}: {found['images_per_second']:,.0f} images/s, {found['gflops']:.1f} GFLOP/s "
            f"({100 * found['share_of_the_ceiling']:.0f} % of the ceiling)"
        )
        for what, value in found["ratios"].items():
            lines.append(f"  {what}: {value['median']:.3f} ({value['least']:.3f} to {value['largest']:.3f})")
    return "\n".join(lines)


if __name__ == "__main__":
    command.cli(Config, main, __doc__, show)
