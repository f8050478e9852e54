"""What it costs to feed a set larger than memory: an epoch's seconds, bytes read and memory, mapped from a file.

    python -m experiments.bench.feed --scratch FOLDER    # 1 M images of 64 x 64 x 3, 12 GB; writes benchmarks/feed.json

Images of noise are written once to FOLDER (a temporary folder if none is given) and mapped. In turn,

* batches in the order of an epoch, none of the file in memory before (cold), then the same ones again (warm);
* the same number of batches by indexing the mapped array, as NumPy does it, cold;
* training steps of a small AE-OT autoencoder from the same feed;
* codes and the checksum of the first part of the images, in order;
* the preparation of images from an array by `otgen.data.load`.

Of each: seconds, gigabytes that came from the disk, and the peak of the process's memory, in all and without what the
system maps from files and takes back when it likes. An epoch is extrapolated from the batches that were timed. Last, a
feed that starts in the middle of an epoch is held against the whole one.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.lab import command
from experiments.lab.machine import record, store
from otgen import data
from otgen.data.mapped import release
from otgen.models import ae_ot
from otgen.train.stages import checksum


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    num: int = 1_000_000
    """Images written."""
    side: int = 64
    """Pixels of a side."""
    channels: int = 3
    """Of an image."""
    batch_size: int = 256
    """Images a batch."""
    batches: int = 400
    """Batches that are timed."""
    steps: int = 60
    """Training steps."""
    part: int = 100_000
    """Images whose codes and checksum are taken."""
    prepared: int = 20_000
    """Images that are prepared."""
    scratch: str | None = None
    """Where the images are written, and found again; a temporary folder if not given."""
    out: str = "benchmarks/feed.json"
    """JSON file that is written."""

    @classmethod
    def smoke(cls, **changes: Any) -> Config:
        """Return a run of seconds, for tests."""
        small = {"num": 4000, "side": 16, "batch_size": 64, "batches": 20, "steps": 4, "part": 2000, "prepared": 200}
        return cls(**{**small, **changes})


def main(config: Config) -> dict[str, Any]:
    """Measure, write the JSON, and return it."""
    temporary = None if config.scratch else tempfile.mkdtemp(prefix="otgen-feed-")
    folder = Path(config.scratch or temporary)
    try:
        results = {**record("machine", "python", "jax"), "memory": _total(), **measure(config, folder)}
    finally:
        shutil.rmtree(temporary or folder / "cache", ignore_errors=True)
    store(config.out, results)
    return results


def measure(config: Config, folder: Path) -> dict[str, Any]:
    """Return what each of the works takes."""
    path = written(config, folder)
    images, key = np.load(path, mmap_mode="r"), jax.random.key(0)
    per_epoch = len(images) // config.batch_size
    count = min(config.batches, per_epoch // 2)

    def feed(start: int = 0) -> None:
        for _ in data.batches(key, (images,), config.batch_size, start=start, stop=start + count):
            pass

    def indexed() -> None:
        for step in range(count, 2 * count):
            images[data.batch_index(key, step, len(images), config.batch_size)]

    model = ae_ot.Config(latent_dim=8, hidden=(64,), batch_size=config.batch_size)
    model = dataclasses.replace(model, epochs=config.steps / per_epoch)
    module, params = ae_ot.train_autoencoder(key, images[: config.batch_size], dataclasses.replace(model, epochs=1))
    part = images[: config.part]
    known = {"params": params}
    data.batch_index(key, 0, len(images), config.batch_size)  # the order of the epoch
    works: dict[str, tuple[Callable[[], Any], bool]] = {
        "feed, cold": (feed, True),
        "feed, warm": (feed, False),
        "indexing, cold": (indexed, True),
        "training": (lambda: ae_ot.train_autoencoder(key, images, model), True),
        "codes": (lambda: ae_ot.encode(module, known, part), True),
        "checksum": (lambda: checksum(part), True),
        "preparing": (lambda: prepared(config, images, folder), True),
    }
    found = {}
    for name, (work, cold) in works.items():
        if cold:
            forgotten(path, images)
        found[name] = watched(work)
    for name in ("feed, cold", "feed, warm", "indexing, cold"):
        found[name]["seconds_per_epoch"] = found[name]["seconds"] / count * per_epoch
    for name, num in {"training": config.steps * config.batch_size, "preparing": config.prepared}.items():
        found[name]["images_per_second"] = num / found[name]["seconds"]
    return {
        "images": list(images.shape),
        "gigabytes": images.nbytes / 1e9,
        "batch": config.batch_size,
        "batches_timed": count,
        "training_steps": config.steps,
        "part": len(part),
        "prepared": config.prepared,
        "works": found,
        "resumed_equal": resumed(key, images, config.batch_size, per_epoch),
    }


def written(config: Config, folder: Path) -> Path:
    """Return the file of the images, written if it is not there."""
    shape = (config.num, config.side, config.side, config.channels)
    path = folder / f"{'x'.join(map(str, shape))}.npy"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    block = np.random.default_rng(0).integers(0, 256, (min(2000, config.num), *shape[1:]), np.uint8)
    with path.with_suffix(".new").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for start in range(0, config.num, len(block)):
            file.write(np.roll(block, start // len(block), 0)[: config.num - start].tobytes())
        file.flush()
        os.fsync(file.fileno())
    return path.with_suffix(".new").rename(path)


def prepared(config: Config, images: np.ndarray, folder: Path) -> data.Dataset:
    """Prepare the first images as if they were somebody's array."""
    return data.load(images[: config.prepared], cache_dir=folder / "cache", progress=False)


def resumed(key: jax.Array, images: np.ndarray, batch_size: int, per_epoch: int) -> bool:
    """Return whether a feed from the middle of the second epoch on gives what one from before gives there."""
    middle = per_epoch + per_epoch // 2
    whole = data.batches(key, (images,), batch_size, start=middle - 3, stop=middle + 3)
    later = data.batches(key, (images,), batch_size, start=middle, stop=middle + 3)
    return all(np.array_equal(one[0], two[0]) for one, two in zip(list(whole)[3:], later, strict=True))


def forgotten(path: Path, images: np.ndarray) -> None:
    """Have the system keep nothing of a file in memory."""
    release(images)
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def watched(work: Callable[[], Any]) -> dict[str, float]:
    """Return seconds, gigabytes read and peaks of memory in MiB of a call; anonymous memory is looked at as it runs."""
    import threading

    most, done = [_status("RssAnon")], threading.Event()

    def look() -> None:
        while not done.wait(0.02):
            most.append(_status("RssAnon"))

    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    watcher, read, start = threading.Thread(target=look), _read(), time.perf_counter()
    watcher.start()
    jax.block_until_ready(work())
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    return {
        "seconds": seconds,
        "gigabytes_read": (_read() - read) / 1e9,
        "peak_mib": _status("VmHWM"),
        "peak_anonymous_mib": max(most),
    }


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def _read() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def _total() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"


def show(config: Config, results: dict[str, Any]) -> str:
    """Return the results as lines to print."""
    lines = [f"{results['images']}, {results['gigabytes']:.1f} GB; resumed batches equal: {results['resumed_equal']}"]
    for name, found in results["works"].items():
        more = f", {found['seconds_per_epoch']:.0f} s an epoch" if "seconds_per_epoch" in found else ""
        lines.append(
            f"{name}: {found['seconds']:.1f} s{more}, {found['gigabytes_read']:.2f} GB read, peak "
            f"{found['peak_mib']:.0f} MiB, {found['peak_anonymous_mib']:.0f} MiB of it anonymous"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    command.cli(Config, main, __doc__, show)
