"""Arrays in files: the same rows and numbers as of arrays in memory, without their memory."""

import zlib
from pathlib import Path

import numpy as np
import pytest

from otgen import data
from otgen.data import mapped
from otgen.train.stages import _checksum


def mapped_mib():
    """Memory of this process that files are mapped to."""
    told = Path("/proc/self/status")
    if not told.exists():
        pytest.skip("this system does not tell")
    line = next(line for line in told.read_text().splitlines() if line.startswith("RssFile"))
    return int(line.split()[1]) / 1024


@pytest.fixture
def file(tmp_path):
    """4,000 rows of 16 KiB, 62 MiB, as an array in memory and in a file."""
    images = np.random.default_rng(0).integers(0, 256, (4000, 64, 64, 4), np.uint8)
    np.save(tmp_path / "images.npy", images)
    return images, np.load(tmp_path / "images.npy", mmap_mode="r")


def test_batches_of_a_file_are_those_of_memory_and_leave_it_where_it_is(file, key):
    images, there = file
    before, most = mapped_mib(), 0.0
    for one, two in zip(
        data.batches(key, (images,), 64, stop=62), data.batches(key, (there,), 64, stop=62), strict=True
    ):
        np.testing.assert_array_equal(one[0], two[0])
        assert type(two[0]) is np.ndarray
        most = max(most, mapped_mib() - before)
    assert most < 8
    for piece in mapped.pieces(there, 100):
        assert piece.shape[0] == 100
        most = max(most, mapped_mib() - before)
    assert _checksum(there) == zlib.crc32(images)
    assert max(most, mapped_mib() - before) < 24
    there[::50].sum()
    assert mapped_mib() - before > 24, "this test would not see what is mapped"


def test_resumed_in_the_middle_of_an_epoch_the_batches_are_the_same(file, key):
    _, there = file
    labels = np.arange(len(there))
    whole = [label for _, label in data.batches(key, (there, labels), 256, stop=20)]
    later = [label for _, label in data.batches(key, (there, labels), 256, start=7, stop=20)]
    np.testing.assert_array_equal(whole[7:], later)


def test_views_and_what_is_no_file(file):
    images, there = file
    rows = np.array([3, 0, 1999, 3])
    for view in (
        lambda x: x[100:2100],
        lambda x: x[::-2],
        lambda x: x[:, ::2],
        lambda x: np.asarray(x),
        lambda x: x[..., 0],
    ):
        np.testing.assert_array_equal(mapped.taken(view(there), rows), view(images)[rows])
    assert mapped._mapping(images) is None
    changed = np.load(there.filename, mmap_mode="c")
    changed[0] = 7  # a private copy, which giving memory back would lose
    assert (mapped.taken(changed, rows)[1] == 7).all()
    mapped.release(changed)
    assert (changed[0] == 7).all()
