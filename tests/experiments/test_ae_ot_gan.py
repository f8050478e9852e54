import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import ae_ot_gan as experiment
from experiments.ae_ot_gan import Config
from experiments.lab.ae_ot_gan_figures import _farthest
from otgen.ot import semidiscrete


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "letters"}, "'letters' is unknown: choose one of digits, mnist"),
        ({"variants": ","}, "no variant"),
        ({"variants": "best"}, "'best' is unknown: choose among default, .*longer, vae, wgan_gp, or FIELD=VALUE"),
        ({"variants": "depth=3"}, "no field 'depth'"),
        ({"variants": "content_weight=-1"}, "content_weight = -1"),
        ({"variants": "content_weight=much"}, "'content_weight=much'"),
        ({"variants": "feature=perceptual"}, "ae_ot_gan.refine"),
        ({"seeds": "2-0"}, "first of a range"),
        ({"num_eval": 3}, "num_eval = 3"),
        ({"draws": 0}, "draws = 0"),
        ({"limit": 5}, "limit = 5"),
        ({"epochs": 0.0}, "epochs"),
        ({"gan_epochs": -1.0}, "epochs"),
        ({"warmup": -1}, "warmup"),
        ({"features": "colours"}, "features = 'colours'"),
        ({"dataset": "two_moons", "network": "conv"}, "toys are points"),
        ({"dataset": "two_moons", "limit": 200}, "toys are points"),
    ],
)
def test_bad_options_raise_before_anything_is_written(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        experiment.main(Config.smoke(out=str(tmp_path / "run"), **change))
    assert not (tmp_path / "run").exists()


def test_variants_change_the_last_stage():
    config = Config(dataset="mnist", variants="default, no_filter,angle=0.5", gan_epochs=3.0)
    assert config.names() == ["default", "no_filter", "angle=0.5"]
    assert config.gan("default").epochs == 3.0
    assert config.gan("no_filter").angle == math.pi
    assert config.gan("angle=0.5").angle == 0.5


def test_the_identity_holds_what_makes_the_numbers():
    same = Config(seeds="0-3", variants="vae", data_dir="x", progress=False, features="pixels", feature_images=9)
    assert same.identity() == Config().identity()
    assert Config(gan_epochs=1.0).identity() != Config().identity()
    assert Config(dataset="mnist").identity() != Config().identity()


def test_points_are_scaled_into_the_unit_square():
    train, test = experiment.load(Config(dataset="twenty_five_gaussians", num_points=500))
    assert train.images.shape == (500, 1, 1, 2)
    assert np.min(train.images) == pytest.approx(0.1 / 1.2, abs=1e-6)
    assert np.max(train.images) == pytest.approx(1.1 / 1.2, abs=1e-6)
    assert 0 <= test.images.min() <= test.images.max() <= 1


def test_paths_are_drawn_where_the_map_jumps_farthest():
    y = jnp.array([[-1.0], [-0.9], [0.8], [1.0]])
    border = jnp.array([-0.3, 0.1, 0.2])
    h = jnp.concatenate([jnp.zeros(1), jnp.cumsum(-border * jnp.diff(y[:, 0]))])
    at = _farthest(semidiscrete.from_heights(h), y, jnp.array([[-0.5], [0.5]]))
    assert float(at) == pytest.approx(0.6, abs=1e-5)
    assert not jnp.isfinite(_farthest(semidiscrete.from_heights(h), y, jnp.array([[0.3], [0.5]])))


@pytest.mark.slow
def test_a_run_on_digits_and_one_that_goes_on(tmp_path):
    folder = tmp_path / "run"
    results = experiment.main(Config.smoke(out=str(folder)))
    rows = results["rows"]
    assert set(rows) == {"real training data", "reconstructed test data", "AE-OT", "AE-OT-GAN"}
    for name in ("AE-OT", "AE-OT-GAN"):
        for score in ("frechet", "lmem", "content", "images_per_second", "recall", "class_tv"):
            assert math.isfinite(rows[name][score]["mean"]), (name, score)
    assert results["figures"] == ["samples.png", "training.png", "paths.png"]
    assert all((folder / name).stat().st_size > 1000 for name in results["figures"])
    table = (folder / "table.md").read_text()
    assert "| AE-OT-GAN |" in table
    with pytest.raises(FileExistsError, match="--resume"):
        experiment.main(Config.smoke(out=str(folder)))
    variants = "gaussian,longer,wgan_gp"
    again = experiment.main(Config.smoke(out=str(folder), resume=True, variants=variants))
    assert again["rows"]["AE-OT-GAN"] == rows["AE-OT-GAN"]
    assert {"AE-OT-GAN, gaussian", "AE-OT, longer", "wgan_gp"} < set(again["rows"])
    assert json.loads((folder / "results.json").read_text())["rows"] == again["rows"]
    other = experiment.main(Config.smoke(out=str(folder), resume=True, features="pixels", feature_images=150))
    assert (other["judge"]["images_per_draw"], other["judge"]["draws"]) == (150, 1)
    assert other["rows"]["AE-OT-GAN"]["content"] == rows["AE-OT-GAN"]["content"]  # of the same checkpoints
    steps = {line["stage"] for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())}
    assert "longer, autoencoder, seed 0" in steps


@pytest.mark.slow
def test_a_run_on_points(tmp_path):
    results = experiment.main(Config.smoke(dataset="twenty_five_gaussians", out=str(tmp_path / "run")))
    assert math.isfinite(results["rows"]["AE-OT-GAN"]["reverse_kl"]["mean"])
    assert results["figures"] == ["samples.png", "training.png"]


def test_classes_are_compared_with_those_of_real_data_of_the_same_seed():
    def entry(group, seed, **shares):
        return {"group": group, "seed": seed, "rows": {name: {"class_shares": told} for name, told in shares.items()}}

    runs = [
        entry("reference", 0, **{"real training data": [0.4, 0.6], "AE-OT": [0.5, 0.5]}),
        entry("reference", 1, **{"real training data": [0.7, 0.3], "AE-OT": []}),
        entry("default", 1, **{"AE-OT-GAN": [0.4, 0.6]}),
        entry("default", 2, **{"AE-OT-GAN": [0.4, 0.6]}),
    ]
    experiment.compare_classes(runs)
    found = [row.get("class_tv_real") for run in runs for row in run["rows"].values()]
    assert found == [None, pytest.approx(0.1), None, None, pytest.approx(0.3), None]
