"""Checkpoints of PyTorch, and what they must not be able to do."""

import json
import os
import struct

import numpy as np
import pytest

from otgen.data.fetch import checkpoints
from tests.support import checkpoint

RANDOM = np.random.default_rng(0)
ARRAYS = {
    "c1.weight": RANDOM.normal(size=(3, 2, 5, 4)).astype(np.float32),
    "transposed": RANDOM.normal(size=(4, 3)).T,
    "half": np.asfortranarray(RANDOM.normal(size=(2, 3)).astype(np.float16)),
    "steps": np.array(7),
    "none": np.zeros((0, 3), np.float32),
}


def same(found):
    assert list(found) == list(ARRAYS)
    for name, want in ARRAYS.items():
        assert found[name].dtype == want.dtype
        np.testing.assert_array_equal(found[name], want)


@pytest.mark.parametrize("stream", [False, True])
def test_arrays_come_back_in_their_order_whatever_their_strides(tmp_path, stream):
    checkpoint.write(tmp_path / "it.pth", ARRAYS, stream)
    same(checkpoints.read(tmp_path / "it.pth"))


def test_safetensors_are_read(tmp_path):
    kinds, header, data = {"f4": "F32", "f8": "F64", "f2": "F16", "i8": "I64"}, {"__metadata__": {"by": "hand"}}, b""
    for name, array in ARRAYS.items():
        raw = array.tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": kinds[array.dtype.str[1:]], "shape": array.shape, "data_offsets": offsets}
        data += raw
    head = json.dumps(header).encode()
    (tmp_path / "it.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + data)
    same(checkpoints.read(tmp_path / "it.safetensors"))


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("stream", [False, True])
def test_nothing_that_a_checkpoint_names_is_run(tmp_path, stream):
    checkpoint.write(tmp_path / "it.pth", {**ARRAYS, "evil": Evil(tmp_path / "made")}, stream)
    with pytest.raises(ValueError, match=r"it\.pth is not read .*asks for posix\.mkdir"):
        checkpoints.read(tmp_path / "it.pth")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("stream", [False, True])
def test_more_than_a_flat_dictionary_is_refused(tmp_path, stream):
    checkpoint.write(tmp_path / "it.pth", {"epoch": 3, **ARRAYS}, stream)
    with pytest.raises(ValueError, match="more in it than tensors by name"):
        checkpoints.read(tmp_path / "it.pth")


@pytest.mark.parametrize("stream", [False, True])
def test_a_file_that_is_cut_off_is_refused_wherever_it_is_cut(tmp_path, stream):
    checkpoint.write(tmp_path / "it.pth", {name: ARRAYS[name] for name in ("c1.weight", "half")}, stream)
    raw = (tmp_path / "it.pth").read_bytes()
    for end in range(0, len(raw) - 1, 7):
        (tmp_path / "it.pth").write_bytes(raw[:end])
        with pytest.raises(ValueError, match="is not read"):
            checkpoints.read(tmp_path / "it.pth")


def test_a_tensor_that_reaches_beyond_its_storage_is_refused():
    tensor = checkpoints._Tensor(checkpoints._Storage("0", "f4"), 0, (2, 3), (3, 1))
    assert checkpoints._array(tensor, bytes(24), "<").shape == (2, 3)
    for wrong in ({"offset": 1}, {"strides": (4, 1)}, {"strides": (-1, 1)}, {"shape": (3, 3)}, {"offset": -1}):
        with pytest.raises(LookupError, match="in a storage of 6 numbers"):
            checkpoints._array(tensor._replace(**wrong), bytes(24), "<")
