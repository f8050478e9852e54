"""The IDX files of MNIST and Fashion-MNIST: their names, their checksums, how they are read."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np

IDX_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
SHA256 = {
    "mnist": {
        "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
}


def read_idx(path: Path) -> np.ndarray:
    """Read a gzipped IDX file of unsigned bytes.

    Raises:
      ValueError: if the file is truncated, not gzip, or not an IDX file of bytes.
    """
    try:
        with gzip.open(path) as file:
            raw = file.read()
    except (EOFError, OSError) as error:
        raise ValueError(
            f"{path} cannot be decompressed ({error}): it is truncated or damaged; fetch it again."
        ) from error
    if len(raw) < 4 or raw[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is not an IDX file of bytes: is it the right file?")
    header = 4 + 4 * raw[3]
    shape = tuple(np.frombuffer(raw[4:header], ">u4").astype(int))
    if len(raw) != header + int(np.prod(shape)):
        raise ValueError(
            f"{path} is truncated: its header announces {int(np.prod(shape))} bytes of data of shape {shape}, "
            f"and {len(raw) - header} are there; fetch it again."
        )
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def verify_checksum(path: Path, expected: str) -> None:
    """Raise ValueError if the SHA-256 of a file is not the expected one."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise ValueError(
            f"{path} is not the official file: its SHA-256 is {found[:12]}..., expected {expected[:12]}...; "
            "fetch it again, or pass verify=False to use it all the same."
        )
