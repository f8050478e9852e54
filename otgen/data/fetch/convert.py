"""From the files as they are published to those that otgen reads: each function takes files by name and a folder."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from otgen.data.fetch import checkpoints
from otgen.data.idx import read_idx

_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_BATCHES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}


def idx_files(files: dict[str, Path], folder: Path) -> None:
    """Take IDX files over as they are.

    Raises:
      ValueError: for one that cannot be read.
    """
    for name, path in files.items():
        read_idx(path)
        shutil.copyfile(path, folder / name)


def cifar10(files: dict[str, Path], folder: Path) -> None:
    """Make cifar10.zip of the binary version: SPLIT/CLASS/NUMBER.ppm, no pixel changed, numbered as published.

    Raises:
      ValueError: for another archive, such as the Python or the MATLAB version.
    """
    (path,) = files.values()
    try:
        with tarfile.open(path) as archive, zipfile.ZipFile(folder / "cifar10.zip", "w") as made:
            batches = {Path(it.name).name: it for it in archive.getmembers() if it.isfile()}
            for split, names in _BATCHES.items():
                rows = (row for name in names for row in _rows(archive.extractfile(batches[name]).read()))
                for number, (label, image) in enumerate(rows):
                    name = f"{split}/{_CLASSES[label]}/{number:05d}.ppm"  # dated 1980, so that the archive is the same
                    made.writestr(zipfile.ZipInfo(name), b"P6 32 32 255\n" + image.tobytes())
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, LookupError, EOFError, ValueError) as error:
        raise ValueError(
            f"{path} is not the binary version of CIFAR-10 ({type(error).__name__}: {error}): give "
            "cifar-10-binary.tar.gz."
        ) from error


def _rows(raw: bytes) -> Iterator[tuple[int, np.ndarray]]:
    """Yield labels and images [32, 32, 3] of a batch: a byte of label, then planes of red, green and blue."""
    rows = np.frombuffer(raw, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    for row in rows:
        yield int(row[0]), row[1:].reshape(3, 32, 32).transpose(1, 2, 0)


def lenet(files: dict[str, Path], folder: Path) -> None:
    """Make lenet.npz of a checkpoint."""
    (path,) = files.values()
    np.savez(folder / "lenet.npz", **checkpoints.read(path))


def taef2(files: dict[str, Path], folder: Path) -> None:
    """Make encoder.npz and decoder.npz of two checkpoints, in half precision."""
    for half, path in zip(("encoder", "decoder"), files.values(), strict=True):
        np.savez(folder / f"{half}.npz", **{name: it.astype("<f2") for name, it in checkpoints.read(path).items()})


def inception(files: dict[str, Path], folder: Path) -> None:
    """Pack the files of the convolutions in a tar."""
    with tarfile.open(folder / "inception3_params_to_mixed_8.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        for name in sorted(files):
            member, raw = tarfile.TarInfo(name), files[name].read_bytes()
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
