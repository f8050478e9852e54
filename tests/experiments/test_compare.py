import json
import math

import pytest

from experiments import compare


def test_bad_options_raise_before_anything_is_written(tmp_path):
    cases = [
        ({"dataset": "letters"}, "letters"),
        ({"models": "vae,gan"}, "choose among"),
        ({"models": ""}, "choose among"),
        ({"seeds": "a"}, "0-2"),
        ({"seeds": "3-1"}, "first of a range"),
        ({"budget": -1.0}, "budget"),
        ({"num_eval": 1}, "num_eval"),
        ({"network": "transformer"}, "'mlp', 'conv', 'residual'"),
        ({"seeds": "0,3-1"}, "first of a range"),
        ({"seeds": "1000"}, "judge"),
        ({"features": "vgg"}, "'auto', 'pixels', 'lenet', 'inception'"),
        ({"dataset": "rings", "network": "conv"}, "toys are points"),
    ]
    for change, message in cases:
        with pytest.raises(ValueError, match=message):
            compare.main(compare.Config.smoke(out=str(tmp_path / "run"), **change))
    assert not (tmp_path / "run").exists()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        compare.main(compare.Config.smoke(out=str(tmp_path / "file")))
    assert compare.Config(seeds="0-2, 5").seed_list() == [0, 1, 2, 5]
    assert compare.Config(models="vae, ae_ot,vae").names() == ["vae", "ae_ot"]


@pytest.mark.slow
def test_a_comparison_is_resumed_with_more_models_and_seeds(tmp_path):
    options = {"out": str(tmp_path / "run"), "budget": 6.0}
    first = compare.main(compare.Config.smoke(models="ae_gaussian,vae", **options))
    stored = tmp_path / "run" / "checkpoints" / "seed-0" / "vae" / "scores.json"
    stamp = stored.stat().st_mtime_ns
    with pytest.raises(FileExistsError, match="--resume"):
        compare.main(compare.Config.smoke(models="ae_gaussian,vae", **options))
    options["resume"] = True
    results = compare.main(compare.Config.smoke(models="ae_gaussian,vae,ae_ot,wgan_gp", seeds="0-1", **options))
    assert stored.stat().st_mtime_ns == stamp
    rows = results["rows"]
    assert {"real training data", "vae", "ae_ot, pairs", "ae_ot, simplex", "wgan_gp"} <= set(rows)
    assert not results["failed"]
    assert rows["vae"]["frechet"]["seeds"] == 2
    seeds = [run["rows"]["vae"]["mean"]["frechet"] for run in results["runs"] if run["model"] == "vae"]
    assert rows["vae"]["frechet"]["mean"] == pytest.approx(sum(seeds) / 2)
    assert first["rows"]["vae"]["frechet"]["mean"] == seeds[0]
    assert rows["real training data"]["lmem"]["mean"] == pytest.approx(0, abs=1e-3)
    assert all(math.isfinite(score["mean"]) for row in rows.values() for score in row.values())
    stored = json.loads((tmp_path / "run" / "results.json").read_text())
    assert stored == json.loads(json.dumps(results))
    assert (tmp_path / "run" / "table.md").read_text().count("|---") > 4
    for name in ("samples.png", "scores.png"):
        assert (tmp_path / "run" / name).stat().st_size > 10_000
    with pytest.raises(ValueError, match="budget"):
        compare.main(compare.Config.smoke(models="vae", **{**options, "budget": 7.0}))


@pytest.mark.slow
def test_points_are_compared_by_their_modes(tmp_path):
    config = compare.Config.smoke(
        dataset="twenty_five_gaussians", models="ae_ot,vae", out=str(tmp_path / "run"), num_points=1000, num_eval=1000
    )
    rows = compare.main(config)["rows"]
    assert rows["ae_ot, pairs"]["modes"]["mean"] == 25
    assert rows["ae_ot, pairs"]["reverse_kl"]["mean"] < rows["vae"]["reverse_kl"]["mean"]
    assert rows["real training data"]["share_3sd"]["mean"] > 0.97
