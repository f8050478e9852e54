"""The benchmark of semi-discrete transport at small sizes: its parts run, and otgen is ahead of its peers there too."""

import json

import numpy as np
import pytest

from experiments.bench import semidiscrete as bench


@pytest.mark.slow
def test_the_table_and_the_memory(tmp_path):
    path = tmp_path / "numbers.json"
    bench.main(bench.Config(parts=("table",), seeds=(0,), shrink=20, out=str(path)))
    bench.main(bench.Config(parts=("memory",), shrink=500, out=str(path)))
    found = json.loads(path.read_text())
    assert 0 < found["memory"]["peak_gib"] < 1
    assert len(found["table"]) == 4
    for name, row in found["table"].items():
        (ours,) = row.pop("otgen")
        row.pop("samples")
        assert len(row) == 4
        assert all(ours["chi2"] + 3 * ours["error"] < peer["chi2"] for (peer,) in row.values()), name


def test_heights_and_potentials(key):
    y = np.array([[1.0, 0.0], [0.0, 2.0]])
    h = np.array([0.3, -0.1])
    np.testing.assert_allclose(bench.heights_of(2 * h + (y**2).sum(1), y), h)


def test_unknown_parts_are_refused():
    with pytest.raises(ValueError, match="choose among table, eta"):
        bench.main(bench.Config(parts=("speed",), out=""))
