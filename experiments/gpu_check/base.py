"""What the checks of `gpu_check` share: their context, limits and errors, times, and the ceilings of a device.

A check is a function of a `Context` that returns what `judged` makes of its numbers, or raises `Skipped`. It imports
what it needs when it is called, so that a package that is missing costs only the checks that need it. On a CPU the same
checks run at sizes of seconds.

Sizes and rates count useful work: 2 n m d operations for the scores of n samples among m points of dimension d, and for
an iteration of Sinkhorn's two products with a kernel n x m: 8 n m bytes where it is in memory (float32), 4 n m d
operations where it is made anew from the points. A share is that work per second over the product of float32 matrices
or the copy measured here, so that absorbed potentials, exponentials and gaps between kernels all lower it.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.lab.machine import clock

GIB = 2**30
EXACT = 3e-6  # relative error of float32 arithmetic in sums of 64 terms, with a margin; TF32 is a hundred times above
Result = dict[str, Any]


class Skipped(Exception):
    """A check that cannot be made here, and why."""


@dataclasses.dataclass(frozen=True)
class Context:
    """What a check is given.

    Attributes:
      seed: of everything random; a check draws the same numbers whatever others run.
      tiny: sizes for a CPU.
    """

    seed: int
    tiny: bool

    def rng(self, name: str) -> np.random.Generator:
        """A generator of a check's own."""
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    def key(self, name: str) -> jax.Array:
        """A key of a check's own."""
        return jax.random.key(int(self.rng(name).integers(2**31)))

    def size(self, full: Any, tiny: Any) -> Any:
        """The first on an accelerator, the second on a CPU."""
        return tiny if self.tiny else full

    @functools.cached_property
    def ceilings(self) -> dict[str, float]:
        """Measured operations a second of matrix products by precision, and bytes a second of a copy."""
        num, length = self.size((8192, 2**28), (256, 2**20))
        a, b = jnp.asarray(self.rng("ceilings").normal(size=(2, num, num)), jnp.float32)
        half, x = (a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)), jnp.resize(a.ravel(), length)
        work = 2 * num**3
        return {
            "float32": work / seconds_of(lambda: exact_product(a, b)),
            "default": work / seconds_of(lambda: default_product(a, b)),
            "bfloat16": work / seconds_of(lambda: default_product(*half)),
            "copy": 8 * length / seconds_of(lambda: _copy(x)),
        }


exact_product = jax.jit(functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST))
default_product = jax.jit(functools.partial(jnp.matmul, precision=lax.Precision.DEFAULT))
_copy = jax.jit(lambda x: x + 1)  # reads and writes every number once


def seconds_of(call: Callable[[], Any], least: float = 0.3, rounds: int = 5) -> float:
    """Median seconds of a call after one that compiles, over rounds of as many calls as fill the time."""
    jax.block_until_ready(call())
    once = max(clock(call)[0], 1e-6)
    rounds = rounds if once < 1 else 1
    repeats = int(np.clip(least / rounds / once, 1, 500))

    def several() -> Any:
        for _ in range(repeats):
            out = call()
        return out

    return statistics.median(clock(several)[0] / repeats for _ in range(rounds))


def judged(numbers: Result, *, at_most: Result | None = None, at_least: Result | None = None) -> Result:
    """Return numbers with their limits, whether all were met, and which were not; NaN meets none."""
    at_most, at_least = at_most or {}, at_least or {}
    missed = [name for name, limit in at_most.items() if not numbers[name] <= limit]
    missed += [name for name, limit in at_least.items() if not numbers[name] >= limit]
    limits = {name: f"<= {limit:g}" for name, limit in at_most.items()}
    for name, limit in at_least.items():
        limits[name] = " and ".join([*filter(None, [limits.get(name)]), f">= {limit:g}"])
    return {"numbers": numbers, "limits": limits, "passed": not missed, "missed": missed}


def relative(found: Any, exact: np.ndarray, scale: Any = None) -> float:
    """Largest error over a scale (the largest entry for None), in float64."""
    scale = np.abs(exact).max() if scale is None else scale
    return float(np.max(np.abs(np.asarray(found, np.float64) - exact)) / scale)


def norm_error(found: Any, exact: np.ndarray) -> float:
    """Norm of the error over the norm, in float64."""
    return float(np.linalg.norm(np.asarray(found, np.float64) - exact) / np.linalg.norm(exact))


def memory(name: str) -> int | None:
    """A number of the first device's allocator in bytes, None where it keeps none."""
    return (jax.local_devices()[0].memory_stats() or {}).get(name)


def ceilings(context: Context) -> Result:
    """Products of float32 matrices (HIGHEST, default) and of bfloat16, a copy, and the error of the first two."""
    num = context.size(4096, 256)
    a, b = jnp.asarray(context.rng("products").normal(size=(2, num, num)), jnp.float32)
    exact = np.asarray(a[:64], np.float64) @ np.asarray(b[:, :64], np.float64)
    found = context.ceilings
    numbers = {
        "float32_tflops": found["float32"] / 1e12,
        "default_tflops": found["default"] / 1e12,
        "bfloat16_tflops": found["bfloat16"] / 1e12,
        "copy_gb_per_s": found["copy"] / 1e9,
        "float32_error": norm_error(exact_product(a, b)[:64, :64], exact),
        "default_error": norm_error(default_product(a, b)[:64, :64], exact),
    }
    return judged(numbers, at_most={"float32_error": EXACT})


def presets(context: Context) -> Result:
    """Products of float32 matrices in several passes of fewer bits, which may be faster than HIGHEST and as exact."""
    num = context.size(8192, 256)
    a, b = jnp.asarray(context.rng("products").normal(size=(2, num, num)), jnp.float32)
    exact = np.asarray(a[:64], np.float64) @ np.asarray(b[:, :64], np.float64)
    numbers: Result = {"float32_tflops": context.ceilings["float32"] / 1e12}
    for name in ("BF16_BF16_F32_X6", *(["TF32_TF32_F32_X3"] if jax.default_backend() == "gpu" else [])):
        product = jax.jit(functools.partial(jnp.matmul, precision=lax.DotAlgorithmPreset[name]))
        numbers[f"{name}_tflops"] = 2 * num**3 / seconds_of(functools.partial(product, a, b)) / 1e12
        numbers[f"{name}_error"] = norm_error(product(a, b)[:64, :64], exact)
    return judged(numbers, at_most={name: 1e-5 for name in numbers if name.endswith("error")})
