"""What images cost as latents of TAEF2: images per second to and fro, and what is lost on the way.

    python -m experiments.bench.codec --data-dir DATA        # 3 min on two cores; writes benchmarks/codec.json

Images of CIFAR-10 at 64 x 64 pixels (bicubic), 4 and 64 at a time, and a photograph at 256 x 256, alone and 8 at a
time; compilation apart. Rates are by the clock, the median and the best of the repeats, and per second of one core, of
the time that all cores worked: on a machine that does other work as well these tell more. Beside them those of a
product of matrices [n, 576] and [576, 64], which is what a convolution of 64 channels is, of its direct form, and of
that of `otgen.nn.convolution`, all in operations of the direct form.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from experiments.lab import command
from experiments.lab.machine import record, store
from otgen.nn import TAEF2, taef2, to_unit
from otgen.nn.convolution import convolve
from otgen.ot.check import as_path


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    data_dir: str | None = None
    """Folder of taef2/, cifar10/ and pot_images/; OTGEN_DATA if not given."""
    precision: str = "float32"
    """Of the networks' products: float32, or bfloat16."""
    repeats: int = 5
    """Timed calls of which the median is written."""
    out: str = "benchmarks/codec.json"
    """JSON file that is written."""

    @classmethod
    def smoke(cls, **changes: Any) -> Config:
        """Return a run for tests."""
        return cls(**{"repeats": 1, "out": "", **changes})


def main(config: Config) -> dict[str, Any]:
    """Measure, write the JSON, and return it."""
    folder = as_path("data_dir", config.data_dir or os.environ.get("OTGEN_DATA"))
    results = {
        "command": f"python -m experiments.bench.codec --precision {config.precision} --repeats {config.repeats}",
        "images_per_second": {
            f"{it.shape[1]} px, {len(it)} at a time": codec(config, folder, it) for it in pictures(folder)
        },
        "gflops": convolution(config.repeats),
        "load_average": round(os.getloadavg()[0], 1),
        **record("machine", "device", "jax", "date"),
    }
    store(config.out, results)
    return results


def pictures(folder: Path) -> list[np.ndarray]:
    """Images [n, h, w, 3] in [0, 1] of every size."""
    rows = np.asarray(Image.open(folder / "cifar10" / "cifar10_batch_0.png"))[:64].reshape(64, 32, 32, 3)
    small = np.stack([np.asarray(Image.fromarray(it).resize((64, 64), Image.Resampling.BICUBIC)) for it in rows])
    large = np.asarray(Image.open(folder / "pot_images" / "ocean_day.jpg").convert("RGB").resize((256, 256)))[None]
    return [np.asarray(to_unit(it)) for it in (small[:4], small, large, large.repeat(8, 0))]


def codec(config: Config, folder: Path, images: np.ndarray) -> dict[str, Any]:
    """Images per second of both halves, and decibels of what comes back."""
    net, variables = TAEF2(config.precision), taef2.load(folder / "taef2")
    encode = jax.jit(lambda x: net.apply(variables, x, method="encode"))
    decode = jax.jit(lambda z: net.apply(variables, z, method="decode"))
    x = jnp.asarray(images)
    encoding, z = timed(lambda: encode(x), config.repeats)
    decoding, back = timed(lambda: decode(z), config.repeats)
    error = np.mean((np.asarray(back, np.float64) - images) ** 2)
    return {
        "encode": {name: round(len(images) / seconds, 2) for name, seconds in encoding.items()},
        "decode": {name: round(len(images) / seconds, 2) for name, seconds in decoding.items()},
        "psnr": round(-10 * float(np.log10(error)), 2),
    }


def convolution(repeats: int, num: int = 4, side: int = 64, channels: int = 64) -> dict[str, Any]:
    """GFLOP per second of a convolution of images, as its direct form counts them, and of the product that it is."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (num, side, side, channels))
    kernel = jax.random.normal(keys[1], (3, 3, channels, channels))
    windows = jax.random.normal(keys[2], (num * side**2, 9 * channels))
    layout = ("NHWC", "HWIO", "NHWC")
    plain = jax.jit(lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout))
    sums = jax.jit(convolve)
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision="highest"))
    works: dict[str, Callable[[], Any]] = {
        "product of matrices": lambda: product(windows, kernel.reshape(-1, channels)),
        "direct": lambda: plain(x, kernel),
        "otgen.nn.convolution": lambda: sums(x, kernel),
    }
    flop = 2 * 9 * channels**2 * num * side**2
    found = {name: timed(work, 4 * repeats)[0] for name, work in works.items()}
    return {name: {kind: round(flop / it / 1e9, 1) for kind, it in seconds.items()} for name, seconds in found.items()}


def timed(work: Callable[[], Any], repeats: int) -> tuple[dict[str, float], Any]:
    """Seconds of a call after one that compiles: by the clock, and the sum over all processors; and its result."""
    result = jax.block_until_ready(work())
    clock, processors = [], []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        result = jax.block_until_ready(work())
        clock.append(time.perf_counter() - start[0])
        processors.append(time.process_time() - start[1])
    middle = statistics.median(processors)
    return {"median": statistics.median(clock), "fastest": min(clock), "per_core": middle}, result


if __name__ == "__main__":
    command.cli(Config, main, __doc__, lambda config, results: json.dumps(results, indent=1))
