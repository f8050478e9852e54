"""How large the pieces of a loop are: on CPUs by the cache, on accelerators by their memory; all chosen here.

A loop that visits rows of a matrix n x m in blocks costs the launches of its bodies and the entries it computes. On a
CPU a launch is next to nothing and blocks of a few MiB stay in the cache. On an accelerator a body costs 15 to 40
microseconds to launch, and an entry that is written and read a few times some 16 bytes of traffic: at 4.8 TB/s
2^20 entries take 3.5 microseconds, a tenth of the launch. At n = m = 65,536 blocks of 2^20 entries are 16 rows, and two
sides are 8,192 bodies, .12 to .33 s an iteration; blocks of 2^28 entries are 4,096 rows and 32 bodies, whose launches
take 1 ms beside 29 ms of traffic. So blocks are as large as a 128th of the memory allows, at most 2^28 entries, since
beyond launches no longer count. A matrix is kept where it, its kernel and two more like them fit into an eighth of the
memory, which leaves room for eight such problems under vmap.

Sizes change no random number and no result beyond rounding. They are static: read when a function is traced, from
the device that JAX uses by default (`jax.default_device` is part of what JAX knows compiled programs by). What is
lowered for another platform than that device's keeps the sizes of that device.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax

_UNKNOWN = 2**33  # bytes of an accelerator that does not tell: 8 GiB
_LEAST, _MOST = 2**22, 2**28  # entries of a block on an accelerator


class Sizes(NamedTuple):
    """Sizes of pieces, in numbers of an array but where something else is said.

    Attributes:
      block: entries of a cost or kernel matrix that a loop over rows computes at a time.
      dense: entries up to which Sinkhorn keeps the matrix instead of computing it again in every iteration.
      alive: numbers in memory at a time, of other loops.
      scored: points that a tile of 4,096 samples is scored against at a time.
      searched: points of its class that a tile of at most 1,024 samples is scored against at a time.
      together: pairs of near covariances whose distance is computed again together.
      pieces: into how many pieces of 2^20 numbers or more a batch of covariances is cut at most.
      work: multiplications between two looks of the host at a solve: about a second on a few cores, some tenths on a
        GPU.
    """

    block: int
    dense: int
    alive: int
    scored: int
    searched: int
    together: int
    pieces: int
    work: float


CPU = Sizes(
    block=2**20, dense=2**25, alive=2**22, scored=256, searched=512, together=64, pieces=8, work=1e11
)  # 4 MiB of costs, 128 MiB of a matrix that is kept, 16 MiB of others


def on(platform: str, memory: int | None = None) -> Sizes:
    """Return the sizes for a platform, "cpu", "gpu" or "tpu", and bytes of memory, None where they are not known.

    Example:
      >>> h200 = og.sizes.on("gpu", 139 * 2**30)
      >>> print(h200.block // 65_536, h200.dense >= 16_384**2, og.sizes.on("cpu") == og.sizes.CPU)
      4096 True True
    """
    if platform == "cpu":
        return CPU
    memory = _UNKNOWN if memory is None else memory
    block = min(max(1 << (max(1, memory // 512).bit_length() - 1), _LEAST), _MOST)  # a power of two, 4 bytes each
    return Sizes(
        block=block,
        dense=max(CPU.dense, memory // 128),  # a 32nd of the memory for the matrix
        alive=block,
        scored=max(CPU.scored, block // 4096),
        searched=max(CPU.searched, block // 1024),
        together=1024,
        pieces=1,
        work=1e13,
    )


def here() -> Sizes:
    """Return the sizes for the device that JAX uses by default.

    Example:
      >>> with jax.default_device(jax.devices("cpu")[0]):
      ...     print(og.sizes.here() == og.sizes.CPU)
      True
    """
    return on(*machine())


def machine() -> tuple[str, int | None]:
    """Return platform and bytes of memory of the device that JAX uses by default; None where they are not known.

    Example:
      >>> with jax.default_device(jax.devices("cpu")[0]):
      ...     print(og.sizes.machine())
      ('cpu', None)
    """
    given = jax.config.jax_default_device
    device = given if isinstance(given, jax.Device) else jax.local_devices(backend=given)[0]
    return device.platform, _memory(device)


@functools.cache
def _memory(device: jax.Device) -> int | None:
    if device.platform == "cpu":
        return None
    try:
        return (device.memory_stats() or {}).get("bytes_limit")
    except jax.errors.JaxRuntimeError:  # a platform that does not tell
        return None
