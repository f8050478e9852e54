"""The experiment of generators by the Sinkhorn divergence: what it refuses, its rows, small runs that go on."""

import json

import numpy as np
import pytest

from experiments import sinkhorn_generator
from experiments.lab import standard_codes
from experiments.lab.sinkhorn_generator_figures import flow


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "faces"}, "is unknown"),
        ({"space": "pca"}, "toys are points"),
        ({"dataset": "digits", "space": "sound"}, "pca, latents, pixels"),
        ({"rows": "nothing"}, "FIELD=VALUE"),
        ({"rows": "epochs=3"}, "no field"),
        ({"rows": "second=third"}, "second"),
        ({"rows": ""}, "give names"),
        ({"dataset": "digits", "features": "pixels"}, "own coordinates"),
        ({"draws": 0}, "too small"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        sinkhorn_generator.main(sinkhorn_generator.Config.smoke(out=str(tmp_path / "run"), **change))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("dataset", "space"), [("eight_gaussians", None), ("mnist", "pca"), ("digits", "pixels")])
def test_rows_take_equally_many_steps(dataset, space):
    config = sinkhorn_generator.Config(dataset=dataset, space=space)
    models = [config.model(row) for row in ("default", *sinkhorn_generator.SECONDS, "batches=20", "rho=None")]
    steps = [it.epochs / (it.batches * it.batch_size) * it.moved * it.repeats for it in models]
    np.testing.assert_allclose(steps, steps[0])
    assert models[3].second == "same"
    assert models[-1].rho is None


def test_components_are_of_unit_deviation_and_lead_back():
    images = np.random.default_rng(0).integers(0, 256, (300, 6, 6, 1)).astype(np.uint8)
    encode, back = standard_codes.components(images, 16)
    codes = np.asarray(encode(images))
    np.testing.assert_allclose(encode(images[:7]), codes[:7], atol=1e-5)
    assert codes.std() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(np.cov(codes.T) - np.diag(codes.var(axis=0, ddof=1)), 0, atol=1e-5)
    shown, x = back(codes[:7]), images[:7] / 255
    assert shown.shape == x.shape
    assert ((shown - x) ** 2).mean() < 0.6 * x.var()


@pytest.mark.slow
def test_particles_reach_the_modes():
    path, target = flow("eight_gaussians")
    away = [np.sqrt(((x[:, None] - target[None]) ** 2).sum(-1).min(1)).mean() for x in path[[0, 20, -1]]]
    assert away[0] > 5 * away[1]
    assert np.isfinite(path).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dataset", "space"), [("eight_gaussians", None), ("digits", "pca"), ("digits", "latents"), ("digits", "pixels")]
)
def test_a_small_run_goes_on_with_more_rows(dataset, space, tmp_path):
    options = {"dataset": dataset, "space": space, "out": str(tmp_path / "run"), "limit": 400}
    first = sinkhorn_generator.main(sinkhorn_generator.Config.smoke(**options))
    assert list(first["rows"]) == ["real data", "default", "same"]
    more = sinkhorn_generator.main(sinkhorn_generator.Config.smoke(**options, resume=True, rows="default,mask"))
    assert more["rows"]["default"] == first["rows"]["default"]
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == json.loads(json.dumps(more))
    figures = ["samples.png", *(["particles.png", "particles.gif"] if space is None else [])]
    assert all((tmp_path / "run" / name).stat().st_size > 10_000 for name in figures)
