"""Where prepared sets are kept: each in a folder of its own, which is there in one piece or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path


def default() -> Path:
    """Return the user's cache folder: OTGEN_CACHE, otherwise otgen below XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("OTGEN_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "otgen"
    return Path(base)


@contextlib.contextmanager
def in_one_piece(folder: Path, is_whole: Callable[[Path], bool]) -> Iterator[Path]:
    """Give a path to prepare a folder at, which is then moved to where it belongs; after an error nothing is left.

    Of two runs that prepare the same set at once the slower takes the other's. What a run that was killed has left in
    the folder's place is replaced.

    Args:
      folder: where it belongs; the folder above is made.
      is_whole: whether what is in its place is a prepared set.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as aside:
        yield Path(aside) / "set"
        if folder.exists() and not is_whole(folder):
            shutil.rmtree(folder)
        with contextlib.suppress(OSError):
            os.rename(Path(aside) / "set", folder)
