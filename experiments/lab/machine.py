"""Benchmarks: the seconds of calls, and the machine that they were measured on; what makes a GPU repeat itself."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

DETERMINISTIC = "--xla_gpu_deterministic_ops=true"  # sums in a fixed order, and no kernels chosen by the clock


def clock(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return seconds of a call until its arrays are there, and its result."""
    start = time.perf_counter()
    result = jax.block_until_ready(work())
    return time.perf_counter() - start, result


def repeated(work: Callable[[], Any], repeats: int, pause: float = 0.0) -> tuple[list[float], Any]:
    """Return seconds of every repeat after a first call that compiles, and the last result.

    Args:
      work: the call.
      repeats: how often it is timed.
      pause: seconds before each, in which the threads of another library's last call come to rest.
    """
    result, times = jax.block_until_ready(work()), []
    for _ in range(repeats):
        time.sleep(pause)
        seconds, result = clock(work)
        times.append(seconds)
    return times, result


def record(*fields: str, packages: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return where numbers were made: the fields asked for, and the versions of packages (None: not installed)."""
    devices = jax.local_devices()
    known: dict[str, Callable[[], Any]] = {
        "machine": lambda: f"{platform.machine()}, {platform.system()}, {os.cpu_count()} cores",
        "device": lambda: devices[0].device_kind,
        "devices": lambda: len(devices),
        "platform": lambda: devices[0].platform,
        "memory_bytes": lambda: (devices[0].memory_stats() or {}).get("bytes_limit"),
        "python": platform.python_version,
        "jax": lambda: jax.__version__,
        "date": lambda: datetime.date.today().isoformat(),
    }
    found = {field: known[field]() for field in fields}
    return {**found, "versions": {name: _version(name) for name in packages}} if packages else found


def command(module: str, config: Any, *options: str) -> str:
    """Return the command line that makes numbers again, with some of the options of a run."""
    told = [f"--{name.replace('_', '-')} {value}" for name, value in config.given(*options).items()]
    return " ".join([f"python -m experiments.{module}", *told])


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def store(out: str | None, results: Any) -> None:
    """Write the JSON of a benchmark, if it is to be written."""
    if out:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(json.dumps(results, indent=1) + "\n")
