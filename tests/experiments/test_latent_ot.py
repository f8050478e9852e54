import json
import math

import numpy as np
import pytest

from experiments import latent_ot
from experiments.lab import latent_ot_toy, table
from otgen.maps import neural_map
from otgen.maps.training import plan


def all_finite(tree) -> bool:
    if isinstance(tree, dict | list):
        return all(all_finite(value) for value in (tree.values() if isinstance(tree, dict) else tree))
    return not isinstance(tree, float) or math.isfinite(tree)


def test_bad_options_raise_before_anything_is_written(tmp_path):
    cases = [
        ({"dataset": "letters"}, "letters"),
        ({"solvers": "lp,sinkhorn"}, "choose among"),
        ({"solvers": " ,"}, "choose among"),
        ({"seeds": "2-0"}, "first of a range"),
        ({"seeds": "one"}, "0-2"),
        ({"num_steps": 0}, "num_steps"),
        ({"num_points": 10}, "num_points"),
        ({"num_eval": 3}, "num_eval"),
        ({"draws": 0}, "draws"),
        ({"neighbours": 0.5}, "1 to 32"),
        ({"neighbours": math.nan}, "1 to 32"),
        ({"limit": 400}, "for images"),
        ({"latent_dim": 2}, "for images"),
        ({"dataset": "digits", "limit": 50}, "limit"),
        ({"dataset": "digits", "latent_dim": 0}, "latent_dim"),
        ({"dataset": "digits", "epochs": -1.0}, "epochs"),
        ({"hidden": (8,)}, "for images"),
        ({"rows": "real"}, "of images"),
        ({"dataset": "digits", "rows": "real,sharp"}, "'sharp'"),
        ({"dataset": "digits", "rows": ""}, "rows"),
        ({"dataset": "digits", "hidden": (0,)}, "hidden"),
    ]
    for change, message in cases:
        with pytest.raises(ValueError, match=message):
            latent_ot.main(latent_ot.Config.smoke(out=str(tmp_path / "run"), **change))
    assert not (tmp_path / "run").exists()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        latent_ot.main(latent_ot.Config.smoke(out=str(tmp_path / "file")))


def test_settings_and_table():
    for dataset in ("digits", "mnist", "fashion_mnist"):
        config = latent_ot.Config(dataset=dataset, num_steps=7)
        assert {config.model(solver).options()["num_steps"] for solver in latent_ot_toy.FORMS} == {7}
        assert config.options("network")["num_steps"] == 7
        json.dumps(config.identity())
    assert latent_ot.Config(seeds="1").identity() == latent_ot.Config(solvers="lp", resume=True).identity()
    assert latent_ot.Config(neighbours=2).identity() != latent_ot.Config().identity()
    settings = neural_map.config_of("c_transform", num_steps=100, batch_size=50)
    assert plan(settings, 1000).calls == 13  # 8 updates a call
    assert plan(settings, 160).calls == 34  # 3 batches in an epoch
    runs = [{"rows": {"lp": {"l2_uvp": uvp, "seconds": None if uvp > 2 else 5.0}}} for uvp in (1.0, 2.0, 6.0)]
    rows = table.gather(runs)
    assert rows["lp"]["l2_uvp"] == {"mean": 3.0, "sd": pytest.approx(np.sqrt(7)), "seeds": 3}
    assert rows["lp"]["seconds"] == {"mean": 5.0, "sd": 0.0, "seeds": 2}
    text = table.markdown(rows, {"l2_uvp": "UVP", "frechet": "Frechet"})
    assert text.splitlines() == ["|  | UVP |", "|---|---|", "| lp | 3.000 ± 2.646 |"]


def test_the_curve_of_an_objective_is_read_from_what_was_recorded(tmp_path):
    assert latent_ot_toy.curve(tmp_path, "lp, seed 0", 10) is None
    lines = [{"stage": "lp, seed 0", "step": step, "loss": 1.0 / step} for step in (2, 1)]
    text = "\n".join([*map(json.dumps, lines), json.dumps({"stage": "icnn, seed 0", "step": 3}), '{"stage": "lp'])
    (tmp_path / "metrics.jsonl").write_text(text)
    metric, steps, values = latent_ot_toy.curve(tmp_path, "lp, seed 0", 10)
    assert (metric, steps.tolist(), values.tolist()) == ("loss", [5, 10], [1, 0.5])
    assert latent_ot_toy.curve(tmp_path, "c_transform, seed 0", 10) is None


def finished(folder, results, figures):
    assert all_finite(results)
    assert json.loads((folder / "results.json").read_text()) == json.loads(json.dumps(results))
    assert (folder / "table.md").read_text().count("\n|") > 4
    for name in figures:
        assert (folder / name).stat().st_size > 10_000


@pytest.mark.slow
def test_digits_smoke_resumed_and_overwritten(tmp_path):
    options = {"dataset": "digits", "solvers": "c_transform,icnn", "out": str(tmp_path / "run")}
    results = latent_ot.main(latent_ot.Config.smoke(**options))
    finished(tmp_path / "run", results, ("samples.png", "objective.png"))
    names = (
        "c_transform, barycentre",
        "c_transform, local",
        "c_transform, network",
        "icnn, gradient",
        "Gaussian prior",
    )
    assert {*names, "real training images", "reconstructed test images"} <= set(results["rows"])
    assert results["rows"]["real training images"]["lmem"]["mean"] < 1e-3
    assert results["rows"]["real training images"]["least_class"]["mean"] > 0.04
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    stages = ("autoencoder", "c_transform", "icnn", "c_transform, network")
    assert {line["stage"] for line in lines} == {f"{stage}, seed 0" for stage in stages}
    assert latent_ot.main(latent_ot.Config.smoke(resume=True, **options)) == results
    with pytest.raises(FileExistsError, match="--resume"):
        latent_ot.main(latent_ot.Config.smoke(**options))
    with pytest.raises(ValueError, match=r"draws \(stored 2, now 3\)"):
        latent_ot.main(latent_ot.Config.smoke(resume=True, **{**options, "draws": 3}))


@pytest.mark.slow
def test_eight_gaussians_smoke_goes_on_with_more_seeds(tmp_path):
    options = {"dataset": "eight_gaussians", "out": str(tmp_path / "run")}
    first = latent_ot.main(latent_ot.Config.smoke(**options))
    finished(tmp_path / "run", first, ("maps.png",))
    truth = first["rows"][latent_ot_toy.TRUTH]
    assert truth["modes"]["mean"] == 8
    assert truth["l2_uvp"]["mean"] == 0
    assert truth["half_cost"]["mean"] == pytest.approx(first["truth"][latent_ot_toy.TRUTH]["primal_cost"] / 2, rel=0.15)
    for solver in latent_ot_toy.FORMS:
        row = first["rows"][f"{solver}, argmax"]
        assert 0 < row["l2_uvp"]["mean"] < 50
        assert row["half_dual"]["mean"] < truth["half_dual"]["mean"] + 0.01  # a lower bound
    assert latent_ot.main(latent_ot.Config.smoke(resume=True, **options)) == first
    both = latent_ot.main(latent_ot.Config.smoke(resume=True, seeds="0-1", solvers="c_transform", **options))
    assert both["rows"]["c_transform, argmax"]["l2_uvp"]["seeds"] == 2
    assert both["runs"][1] == first["runs"][1]
    again = latent_ot.main(latent_ot.Config.smoke(overwrite=True, solvers="c_transform", **options))
    here, there = (run["rows"]["c_transform, argmax"]["l2_uvp"]["mean"] for run in (again, first))
    assert here == pytest.approx(there)


@pytest.mark.slow
def test_other_features_are_scored_beside_the_first(tmp_path):
    """Nothing is trained again, and the scores in the data set's own features stay."""
    options = {"dataset": "digits", "solvers": "lp", "distil": False, "out": str(tmp_path)}
    first = latent_ot.main(latent_ot.Config.smoke(**options))
    again = latent_ot.main(latent_ot.Config.smoke(**options, resume=True, features="pixels", feature_images=150))
    assert first["judge"]["images_per_draw"] == 200
    assert (again["judge"]["images_per_draw"], again["judge"]["draws"]) == (150, 1)
    assert first["rows"].keys() == again["rows"].keys()
    place = tmp_path / "checkpoints" / "seed-0" / "lp"
    assert (place / "scores.json").exists()
    assert (place / "pixels-150" / "scores.json").exists()
    few = latent_ot.main(latent_ot.Config.smoke(**options, resume=True, features="pixels", rows="real,local"))
    assert set(few["rows"]) == {"real training images", "lp, local"}
    assert few["judge"]["images_per_draw"] == 360  # all test images, fewer than the 5,000 asked for
    with pytest.raises(ValueError, match="are of images"):
        latent_ot.main(latent_ot.Config.smoke(dataset="eight_gaussians", features="pixels", out=str(tmp_path / "toy")))
