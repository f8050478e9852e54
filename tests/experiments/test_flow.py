import math

import numpy as np
import pytest

from experiments import flow


def test_bad_options_raise_before_anything_is_written(tmp_path):
    cases = [
        ({"dataset": "letters"}, "letters"),
        ({"couplings": "greedy"}, "choose among"),
        ({"couplings": ""}, "choose among"),
        ({"couplings": "blind"}, "--labels"),
        ({"labels": True}, "moons are points"),
        ({"dataset": "digits", "labels": True, "judged": False}, "no-judged"),
        ({"dataset": "digits", "space": "pixels"}, "ae or pca"),
        ({"nfe": "0,1"}, "1 or more"),
        ({"nfe": "few"}, "0-2"),
        ({"seeds": "3-1"}, "first of a range"),
        ({"width": 0}, "width"),
    ]
    for change, message in cases:
        with pytest.raises(ValueError, match=message):
            flow.main(flow.Config.smoke(out=str(tmp_path / "run"), **change))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_moons_by_coupling_and_resumed_with_more(tmp_path):
    options = {"out": str(tmp_path / "run"), "couplings": "independent,semidiscrete"}
    first = flow.main(flow.Config.smoke(**options))
    more = flow.main(flow.Config.smoke(**{**options, "couplings": "independent,semidiscrete,minibatch"}, resume=True))
    assert set(first["rows"]) < set(more["rows"])
    assert all(more["rows"][row] == cells for row, cells in first["rows"].items())  # what was there is not done again
    names = {"independent, Euler, NFE 1", "semidiscrete, midpoint, NFE 4", "real data"}
    assert names <= set(first["rows"])
    assert all(math.isfinite(cell["mean"]) for row in more["rows"].values() for cell in row.values())
    for name in ("samples.png", "scores.png"):
        assert (tmp_path / "run" / name).stat().st_size > 10_000


@pytest.mark.slow
def test_codes_with_labels(tmp_path):
    config = flow.Config.smoke(
        dataset="digits", labels=True, couplings="semidiscrete,blind", nfe="2", out=str(tmp_path / "run")
    )
    rows = flow.main(config)["rows"]
    told, blind = (rows[name]["probe"]["mean"] for name in ("semidiscrete", "blind"))
    assert abs(told - 0.1) < 3 * np.sqrt(0.09 / 20_000) + 0.01  # the probe is asked of 20,000 pairs
    assert blind > 0.2
    assert 0 <= rows["semidiscrete, Euler, NFE 2"]["of_label"]["mean"] <= 1
