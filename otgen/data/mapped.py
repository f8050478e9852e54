"""Arrays that lie in files: rows of them read together, and their memory given back, so that none fills up.

Reading one page of a memory-mapped file brings in many around it, and all that was ever read stays mapped: an epoch in
random order reads a set many times over, and ends with all of it in memory. Both are told to the system here. Arrays
that are not mapped for reading pass through.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np


def taken(array: Any, rows: np.ndarray) -> np.ndarray:
    """Return rows of an array in memory; of a mapped one all are asked for at once, before the first is waited for.

    Args:
      array: [n, ...].
      rows: integers from 0 to n - 1.
    """
    found = _mapping(array)
    if found is None or not array[:1].flags.c_contiguous or array.strides[0] <= 0:
        return array[rows]
    mapping, start = found
    first, size = array.ctypes.data - start, array[:1].nbytes
    for row in rows.tolist():
        place = first + row * array.strides[0]
        page = place - place % mmap.PAGESIZE
        mapping.madvise(mmap.MADV_WILLNEED, page, place + size - page)
    read = np.asarray(array)[rows]
    release(array)
    return read


def pieces(array: Any, size: int) -> Iterator[Any]:
    """Yield an array [n, ...] by `size` rows; memory that one of them mapped is given back before the next."""
    for start in range(0, len(array), size):
        yield array[start : start + size]
        release(array)


def release(array: Any) -> None:
    """Give back the memory of a mapped array; what is read again comes from the file, or the system's copy of it."""
    found = _mapping(array)
    if found is not None:
        found[0].madvise(mmap.MADV_DONTNEED)


def _mapping(array: Any) -> tuple[mmap.mmap, int] | None:
    """Return what maps the file that an array is a view of, and the address it starts at, if it is only read."""
    while isinstance(array, np.ndarray) and not (isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap)):
        array = array.base
    if not isinstance(array, np.memmap) or array.mode != "r" or not hasattr(mmap, "MADV_WILLNEED"):
        return None  # a private copy must be kept
    return array.base, array.ctypes.data - array.offset % mmap.ALLOCATIONGRANULARITY
