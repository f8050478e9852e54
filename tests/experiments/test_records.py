"""Results as a flat table: their means by row are those of the results."""

import csv
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from experiments.lab import command
from experiments.lab.records import records, write

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("name", ["ae_ot_gan_mnist", "compare_mnist", "flow_mnist", "informative_gan_ring"])
def test_means_over_lines_are_those_of_the_table(name, tmp_path):
    results = json.loads((BENCHMARKS / f"{name}.json").read_text())
    write(tmp_path / "it.csv", records(results))
    values = defaultdict(lambda: defaultdict(list))
    for line in csv.DictReader((tmp_path / "it.csv").read_text().splitlines()):
        assert line["dataset"] == results["dataset"]
        assert line["seed"].isdigit()
        for column, cell in line.items():
            if cell:
                values[line["row"]][column].append(cell)
    for row, scores in results["rows"].items():
        for score, cell in scores.items():
            assert len(values[row][score]) == cell["seeds"]
            assert np.mean([float(it) for it in values[row][score]]) == pytest.approx(cell["mean"], rel=1e-9)


def test_a_run_of_one_seed_is_a_table_with_what_stands_beside_it():
    results = {
        "dataset": "digits",
        "seed": 3,
        "features": "pixels",
        "classifier": {"kind": "5 nearest", "test_accuracy": 0.9},  # a description, not a row
        "rows": {"real": {"frechet": 0.1, "sd": {"frechet": 0.01}}, "AE-OT, local": {"frechet": 0.2, "draws": 5}},
        "images_per_second": {"real": 10, "AE-OT, local": 20},
        "class_shares": {"real": [0.5, 0.5]},
        "seconds": {"training": 7.5},
    }
    told = {"dataset": "digits", "seed": 3}
    assert list(records(results)) == [
        {**told, "row": "real", "frechet": 0.1, "sd.frechet": 0.01, "images_per_second": 10},
        {**told, "row": "AE-OT, local", "frechet": 0.2, "draws": 5, "images_per_second": 20},
        {**told, "row": "seconds", "seconds.training": 7.5},
    ]


def test_results_without_rows_are_the_tables_that_they_hold():
    laws = {"Normal": {"two points": {"raw": 0.3}}, "Cauchy": {"two points": {"raw": 0.1}}}
    results = {"seed": 0, "laws": laws, "images": {"features": "LeNet", "rows": {"slerp": {"frechet": 1.5}}}}
    assert list(records(results)) == [
        {"seed": 0, "row": "laws, Normal", "two points.raw": 0.3},
        {"seed": 0, "row": "laws, Cauchy", "two points.raw": 0.1},
        {"seed": 0, "row": "images, slerp", "frechet": 1.5},
    ]
    assert list(records({"seed": 0, "loss": 2.0})) == [{"seed": 0, "row": "", "loss": 2.0}]


def test_a_folder_gets_both_and_an_empty_one_is_read(tmp_path):
    command.write_results(tmp_path, {"seed": 0, "rows": {'the "real", data': {"frechet": np.float64(0.1)}}})
    assert (tmp_path / "results.csv").read_text() == 'seed,row,frechet\n0,"the ""real"", data",0.1\n'
    assert sorted(it.name for it in tmp_path.iterdir()) == ["results.csv", "results.json"]
    command.write_results(tmp_path, {})
    assert (tmp_path / "results.csv").read_text().strip() == ""
