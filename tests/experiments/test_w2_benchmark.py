import json
import math

import numpy as np
import pytest

from experiments import w2_benchmark
from experiments.lab import command
from tests.support import pairs


def test_bad_options_raise_before_anything_is_written(tmp_path):
    cases = [
        ({"dims": "3"}, "2, 4, 8, 16, 32, 64, 128, 256"),
        ({"dims": "two"}, "dims = 'two'"),
        ({"solvers": "icnn,sinkhorn"}, "icnn, icnn_cycle, c_transform, lp"),
        ({"solvers": " ,"}, "choose among"),
        ({"seeds": "a"}, "0-2"),
        ({"seeds": "0,3-1"}, "the first of a range comes first"),
        ({"num_eval": 1}, "num_eval"),
        ({"num_codes": 8}, "num_codes"),
        ({"num_steps": 0}, "num_steps"),
        ({"batch_size": -1}, "batch_size"),
    ]
    for change, message in cases:
        with pytest.raises(ValueError, match=message):
            w2_benchmark.main(w2_benchmark.Config.smoke(out=str(tmp_path / "run"), **change))
    with pytest.raises(FileNotFoundError, match="2_v1"):
        w2_benchmark.main(w2_benchmark.Config.smoke(out=str(tmp_path / "no-data"), data_dir=str(tmp_path)))
    assert not (tmp_path / "run").exists()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        w2_benchmark.main(w2_benchmark.Config.smoke(out=str(tmp_path / "file")))


def test_options_are_read():
    assert command.numbers_of("seeds", "0-2, 5,1") == [0, 1, 2, 5]
    config = w2_benchmark.Config(solvers="lp, icnn,lp", num_steps=7)
    assert config.rows() == ["lp", "icnn"]
    assert all(config.settings(name, 2).num_steps == 7 for name in w2_benchmark.ROWS)
    assert config.settings("icnn", 2).cycle == 0 < config.settings("icnn_cycle", 2).cycle
    runs = [w2_benchmark.Run(2, "icnn", 0), w2_benchmark.Run(2, "icnn", 1), w2_benchmark.Run(2, "lp", 0)]
    assert len({str(config.identity_of(run)) for run in runs}) == 3


def finished(config, dim, seed, uvp):
    """Write what a run of "icnn" and the reference would."""
    rows = {
        "reference": {"linear": {"l2_uvp": 14.0, "cosine": 0.75}, "truth": {"w2_sq": 0.5, "inner": 1.0}},
        "icnn": {"icnn": {"l2_uvp": uvp, "cosine": 0.99, "dual_value": 0.45, "inverse_l2_uvp": 1.0, "seconds": None}},
    }
    for name, scores in rows.items():
        run = w2_benchmark.Run(dim, name, seed)
        config.place(run).mkdir(parents=True)
        (config.place(run) / "scores.json").write_text(json.dumps({**run._asdict(), "rows": scores}))
    return [w2_benchmark.Run(dim, name, seed) for name in rows]


def test_the_table_has_means_and_deviations_over_seeds_beside_the_published_numbers(tmp_path):
    config = w2_benchmark.Config(dims="2,8", seeds="0-1", solvers="icnn", out=str(tmp_path))
    runs = finished(config, 2, 0, 1.0) + finished(config, 2, 1, 2.0) + finished(config, 8, 0, 4.0)
    results = w2_benchmark.gather(config, runs)
    table = w2_benchmark.markdown(results).splitlines()
    assert table[0] == "| L2-UVP of the map, % | d = 2 | d = 8 |"
    assert table[1] == "|---|---|---|"
    assert "| icnn | 1.50 ± 0.71 | 4.00 |" in table
    assert "| linear | 14.00 | 14.00 |" in table
    assert "| published: MM:R | 0.1 | 0.7 |" in table
    assert "| published: identity | 32.7 | 58.6 |" in table
    assert "| icnn | 0.900 | 0.900 |" in table  # the dual value 0.45 of W2^2 = 0.5
    assert not any("seconds" in line or "| truth" in line for line in table)  # unknown after a run that was stopped


def test_maps_of_two_seeds_are_compared(tmp_path):
    config = w2_benchmark.Config(dims="2", seeds="0-2", solvers="icnn", out=str(tmp_path))
    runs = finished(config, 2, 0, 1.0) + finished(config, 2, 1, 2.0) + finished(config, 2, 2, 3.0)
    moved = np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32)
    for seed, shift in enumerate((0.0, 0.1, 0.3)):
        np.savez(config.place(w2_benchmark.Run(2, "icnn", seed)) / "points.npz", moved=moved + shift)
    results = w2_benchmark.gather(config, runs)
    found = [one["rows"]["icnn"]["disagreement"] for one in results["runs"] if one["row"] == "icnn"]
    squares = np.array([(0.01 + 0.09) / 2, (0.01 + 0.04) / 2, (0.09 + 0.04) / 2]) * 2
    np.testing.assert_allclose(found, 100 * squares / moved.var(0, ddof=1).sum(), rtol=1e-4)
    assert results["rows"]["icnn"]["2"]["disagreement"]["mean"] == pytest.approx(np.mean(found))


@pytest.mark.slow
def test_a_benchmark_is_resumed_with_more_solvers(tmp_path, data_dir):
    options = {"out": str(tmp_path / "run"), "data_dir": str(data_dir)}
    first = w2_benchmark.main(w2_benchmark.Config.smoke(solvers="c_transform", **options))
    stored = tmp_path / "run" / "checkpoints" / "seed-0" / "d2-c_transform" / "scores.json"
    stamp = stored.stat().st_mtime_ns
    copy = tmp_path / "copy.json"
    with pytest.raises(FileExistsError, match="--resume"):
        w2_benchmark.main(w2_benchmark.Config.smoke(solvers="c_transform", **options))
    options["resume"] = True
    config = w2_benchmark.Config.smoke(solvers="icnn,icnn_cycle,c_transform,lp", json=str(copy), **options)
    results = w2_benchmark.main(config)
    assert stored.stat().st_mtime_ns == stamp
    rows = {name: row["2"] for name, row in results["rows"].items()}
    assert rows["c_transform"]["l2_uvp"] == first["rows"]["c_transform"]["2"]["l2_uvp"]
    assert rows["c_transform"]["l2_uvp"]["mean"] < rows["identity"]["l2_uvp"]["mean"]
    assert rows["linear"]["l2_uvp"]["mean"] == pytest.approx(14.1, abs=4)  # published: on 512 points, k = 3
    assert rows["identity"]["l2_uvp"]["mean"] == pytest.approx(32.7, abs=6)
    assert rows["constant"]["l2_uvp"]["mean"] == pytest.approx(100, abs=1)
    assert "cosine" not in rows["identity"]
    assert {"inverse_l2_uvp", "inverse_cosine", "dual_share", "seconds"} <= set(rows["icnn"]) & set(rows["icnn_cycle"])
    assert "inverse_l2_uvp" not in rows["lp"]
    assert all(math.isfinite(score["mean"]) for row in rows.values() for score in row.values())
    curves = [run["curve"]["updates"] for run in results["runs"] if run["row"] != "reference"]
    assert [curve[-1] for curve in curves] == [24] * 4
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == json.loads(json.dumps(results))
    assert json.loads(copy.read_text())["rows"] == results["rows"]
    assert (tmp_path / "run" / "maps.png").stat().st_size > 50_000
    assert (tmp_path / "run" / "table.md").read_text().count("published: ") == 8
    with pytest.raises(ValueError, match="num_steps"):
        w2_benchmark.main(w2_benchmark.Config.smoke(solvers="icnn", **{**options, "num_steps": 16}))


@pytest.mark.slow
def test_a_dimension_without_all_published_numbers_is_measured(tmp_path):
    for dim in (2, 128):
        pairs.write(tmp_path, dim)
    config = w2_benchmark.Config.smoke(dims=None, solvers="icnn", data_dir=str(tmp_path), out=str(tmp_path / "run"))
    results = w2_benchmark.main(config)
    assert results["dims"] == [2, 128]
    assert math.isfinite(results["rows"]["icnn"]["128"]["l2_uvp"]["mean"])
    lines = w2_benchmark.markdown(results).splitlines()
    assert "| published: MM:R | 0.1 |  |" in lines
    assert "| published: QC | 1.5 | 80.5 |" in lines
    assert (tmp_path / "run" / "maps.png").stat().st_size > 10_000
