"""The comparison of the forms of the extended map: what it chooses, what it refuses, a run on a few digits."""

import dataclasses
import json

import pytest

from experiments.bench import extension_forms
from experiments.bench.extension_forms import Config, best
from otgen.ot.semidiscrete import extension


def row(frechet: float, lmem: float, class_tv: float = 0.01) -> dict:
    return {"frechet": {"mean": frechet}, "lmem": {"mean": lmem}, "class_tv": {"mean": class_tv}}


def test_the_best_form_is_the_nearest_of_those_that_are_new_and_keep_the_classes():
    rows = {
        "d = 16: T(x), angle 0": row(0.01, 0.0),
        "d = 16: pairs, quantile 0.9": row(0.05, 0.4),  # memorises
        "d = 16: simplex, quantile 0.9": row(0.2, 0.75),
        "d = 16: simplex, filter off": row(0.1, 1.1, 0.2),  # skews the classes
        "d = 16: local, quantile 0.9": row(0.15, 0.8),
        "d = 16: local, quantile 0.98": row(0.12, 0.7),
        "d = 32: local, quantile 0.98": row(0.01, 0.9),
    }
    chosen = "d = 16: local, quantile 0.98"
    expected = {"pairs": None, "simplex": "d = 16: simplex, quantile 0.9", "stochastic": None, "local": chosen}
    assert best(rows, 16, 0.7) == {**expected, "all": chosen}
    assert best(rows, 16, 0.9)["all"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thresholds": "0.9,1.5"}, "give shares in"),
        ({"thresholds": "none"}, "give shares in"),
        ({"dims": "8;16"}, "dims = '8;16'"),
        ({"seeds": "one"}, "seeds = 'one'"),
        ({"dataset": "two_moons", "dims": "2"}, "has no images"),
        ({"draws": 0}, "draws = 0"),
    ],
)
def test_options_that_cannot_be_meant_raise(tmp_path, options, message):
    out = tmp_path / "run"
    with pytest.raises(ValueError, match=message):
        extension_forms.main(Config.smoke(out=str(out), **options))
    assert not out.exists()


@pytest.mark.slow
def test_a_run_on_digits_scores_every_form_and_is_not_done_twice(tmp_path):
    found = tmp_path / "found.json"
    config = Config.smoke(out=str(tmp_path / "run"), json=str(found))
    results = extension_forms.main(config)
    names = [f"d = 3: {form}, {word}" for word in ("quantile 0.9", "filter off") for form in extension.FORMS]
    assert list(results["rows"]) == [f"d = 3: {extension_forms.REAL}", f"d = 3: {extension_forms.MAP}", *names]
    angles = [results["rows"][name]["angle"]["mean"] for name in (names[0], names[-1])]
    assert 0 < angles[0] < angles[1] == pytest.approx(3.14159, abs=1e-5)
    assert results["rows"][f"d = 3: {extension_forms.REAL}"]["lmem"]["mean"] < 1e-3
    assert (tmp_path / "run" / "forms.png").stat().st_size > 5000
    assert json.loads(found.read_text())["rows"] == results["rows"]
    place = tmp_path / "run" / "checkpoints" / "seed-0" / "dim-3" / "scores.json"
    told = json.loads(place.read_text())
    told["rows"][names[0]]["frechet"] = 123.0  # a row that is there is not scored again
    place.write_text(json.dumps(told))
    with pytest.raises(FileExistsError, match="--resume"):
        extension_forms.main(config)
    assert extension_forms.main(dataclasses.replace(config, resume=True))["rows"][names[0]]["frechet"]["mean"] == 123.0
