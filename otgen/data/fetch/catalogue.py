"""What can be fetched: where each file is published, under which licence, and what is made of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from otgen.data import idx
from otgen.data.fetch import convert


class Published(NamedTuple):
    """A file as it is published.

    Attributes:
      name: of the file.
      urls: addresses, tried in turn.
      sha256: its checksum; None where only that of what is made of it is known.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str | None = None


class Entry(NamedTuple):
    """A data set or weights.

    Attributes:
      folder: below the data folder.
      files: what is downloaded.
      size: bytes of the download, about.
      makes: files that otgen reads, with their SHA-256; None where what is downloaded is checked instead.
      convert: makes them, of files by name, in a folder.
      licence: of the contents.
      origin: page that describes them.
    """

    folder: str
    files: tuple[Published, ...]
    size: int
    makes: dict[str, str | None]
    convert: Callable[[dict[str, Path], Path], None]
    licence: str
    origin: str


_GITHUB = "https://raw.githubusercontent.com"
_FORGE = f"{_GITHUB}/hollance/Forge/HEAD/Examples/Inception/Parameters"
_TAESD = f"{_GITHUB}/madebyollin/taesd/5cccb12dc72074a4be35680c3b108548a7c69978"
_NARROW = {"": 1, "_tower": 2, "_tower_1": 3, "_tower_2": 1}  # convolutions in the towers of a block
_WIDE = {"": 1, "_tower": 3, "_tower_1": 5, "_tower_2": 1}
_TOWERS = {
    "mixed": _NARROW,
    "mixed_1": _NARROW,
    "mixed_2": _NARROW,
    "mixed_3": {"": 1, "_tower": 3},
    **{f"mixed_{i}": _WIDE for i in (4, 5, 6, 7)},
    "mixed_8": {"_tower": 2, "_tower_1": 4},
}


def _convolutions() -> list[str]:
    """Return the names of Inception's convolutions up to mixed_8."""
    places = [("", 5), *((f"{block}{tower}_", num) for block, it in _TOWERS.items() for tower, num in it.items())]
    return [f"{place}conv" + (f"_{i}" if i else "") for place, num in places for i in range(num)]


def _idx(name: str, addresses: tuple[str, ...]) -> tuple[Published, ...]:
    return tuple(
        Published(file, tuple(f"{address}/{file}" for address in addresses), sha256)
        for file, sha256 in idx.SHA256[name].items()
    )


ENTRIES = {
    "mnist": Entry(
        folder="mnist",
        files=_idx(
            "mnist",
            ("https://storage.googleapis.com/cvdf-datasets/mnist", "https://ossci-datasets.s3.amazonaws.com/mnist"),
        ),
        size=11_594_722,
        makes=idx.SHA256["mnist"],
        convert=convert.idx_files,
        licence="usually cited as CC BY-SA 3.0",
        origin="http://yann.lecun.com/exdb/mnist/",
    ),
    "fashion_mnist": Entry(
        folder="fashion_mnist",
        files=_idx(
            "fashion_mnist",
            (
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
                f"{_GITHUB}/zalandoresearch/fashion-mnist/HEAD/data/fashion",
            ),
        ),
        size=30_878_645,
        makes=idx.SHA256["fashion_mnist"],
        convert=convert.idx_files,
        licence="MIT",
        origin="https://github.com/zalandoresearch/fashion-mnist",
    ),
    "cifar10": Entry(
        folder="cifar10",
        files=(
            Published(
                "cifar-10-binary.tar.gz",
                ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ),
        ),
        size=170_052_171,
        makes={"cifar10.zip": None},
        convert=convert.cifar10,
        licence="none stated",
        origin="https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
    "lenet": Entry(
        folder="lenet_mnist",
        files=(Published("lenet.pth", (f"{_GITHUB}/abdulfatir/gan-metrics-pytorch/master/models/lenet.pth",)),),
        size=250_000,
        makes={"lenet.npz": "987b0c67e35367b7797c433d187f068d77f7c605910c370f1b88e6294260a730"},
        convert=convert.lenet,
        licence="Apache-2.0",
        origin="https://github.com/abdulfatir/gan-metrics-pytorch",
    ),
    "inception": Entry(
        folder="inception_v3_2015",
        files=tuple(
            Published(f"{kind}_{name}.dat", (f"{_FORGE}/{kind}_{name}.dat",))
            for name in _convolutions()
            for kind in ("weights", "bias")
        ),
        size=42_613_888,
        makes={"inception3_params_to_mixed_8.tar": "da8183e5df29ab37b66d54a59e9d698a1f9133a721c4f3a7cf43415950b76f0b"},
        convert=convert.inception,
        licence="MIT; behind it Apple's sample code and Google's Apache-2.0",
        origin="https://github.com/hollance/Forge",
    ),
    "taef2": Entry(
        folder="taef2",
        files=tuple(Published(f"taef2_{half}.pth", (f"{_TAESD}/taef2_{half}.pth",)) for half in ("encoder", "decoder")),
        size=5_400_000,
        makes={
            "encoder.npz": "8d29a72473202a86d1e5e397f7e9921f6365850c16d90efa6d61ba07c089c418",
            "decoder.npz": "b54b4ef48b18aa87384bf8c757615d2dabc935309c3ab4566405a15760e7d954",
        },
        convert=convert.taef2,
        licence="MIT",
        origin="https://github.com/madebyollin/taesd",
    ),
}
