"""What version 0.1 saved is read by this one: the folders in `saved_by_0_1` were written by it."""

import importlib
from pathlib import Path

import jax
import numpy as np
import pytest

import otgen as og
from otgen.store.description import build, describe
from otgen.store.moved import current

SAVED = Path(__file__).parent / "saved_by_0_1"
EXPECTED = np.load(SAVED / "expected.npz")
X = jax.random.normal(jax.random.key(1), (5, 2))


def test_a_semidiscrete_solution_its_source_and_priors():
    saved = og.load(SAVED / "transport")
    np.testing.assert_array_equal(og.semidiscrete.assign(saved["state"], saved["y"], X), EXPECTED["assign"])
    assert saved["sampler"] == og.source.gaussian == og.latent.Normal()
    made = og.extension.transport(jax.random.key(0), saved["extension"], saved["state"], saved["y"], X)
    assert made.points.shape == (5, 2)
    student, normal, ball = saved["priors"]
    np.testing.assert_allclose(og.latent.lerp(0.3, X[0], X[1], prior=student), EXPECTED["lerp"], atol=1e-6)
    assert normal == og.latent.Normal()
    assert isinstance(ball, og.latent.Ball)
    assert isinstance(saved["mixture"], og.mixture.Mixture)
    assert saved["cost"] == og.distances.Euclidean()
    assert saved["smoothing"] is og.smoothing.by_name("quadratic")
    assert isinstance(saved["moments"], og.gaussian.Moments)


@pytest.mark.parametrize("name", ["vae", "info_gan"])
def test_generators_draw_what_they_drew(name):
    model = og.load(SAVED / name)
    images = getattr(og.models, name).sample(jax.random.key(0), model, 2)
    np.testing.assert_allclose(images, EXPECTED[name], atol=1e-5)


def test_a_learned_map_and_an_ae_ot():
    found = og.maps.neural_map.transport(og.load(SAVED / "map"), X)
    np.testing.assert_allclose(found, EXPECTED["map"], rtol=1e-4, atol=1e-5)
    assert og.models.ae_ot.sample(jax.random.key(0), og.load(SAVED / "ae_ot"), 2).shape == (2, 4, 4, 1)


def test_a_law_of_codes_is_a_map_now(tmp_path):
    held = {name: {"array": name} for name in ("codes", "h", "centres", "angle")}
    parts = {"centres": held["centres"], "angle": held["angle"]}
    fields = {"codes": held["codes"], "h": held["h"]}
    fields["extension"] = {"class": "otgen.ot.extension.Extension", "fields": parts}
    saved = {"class": "otgen.models.latent_law.Transport", "fields": fields}
    codes = np.array([[-1.0], [1.0]], np.float32)
    values = {"codes": codes, "h": np.zeros(2, np.float32), "centres": codes / 4, "angle": np.float32(0.5)}
    arrays = {name: (np.asarray(value), "jax") for name, value in values.items()}
    law = build(saved, arrays, tmp_path, "0.1.0")
    np.testing.assert_array_equal(law(np.array([[0.3], [-0.1]])), [[1.0], [-1.0]])
    assert law.sample(jax.random.key(0), 5).shape == (5, 1)


def test_a_flow_on_codes_is_a_flow_now(tmp_path):
    module = og.nn.velocity.Velocity(2, 8, 1)
    params = module.init(jax.random.key(0), jax.numpy.zeros(1), jax.numpy.zeros((1, 2)))["params"]
    og.save(tmp_path / "new", og.models.flow.Flow(module, {"params": params}, og.models.flow.Config(width=8, depth=1)))
    fields = {"pairing": "transport", "epsilon": 0.02, "width": 8, "depth": 1, "num_steps": 100, "batch_size": 64}
    fields |= {"learning_rate": 1e-3, "average": 0.99, "solver_steps": 30}
    for place in ("latent_flow", "baselines.latent_flow"):
        description, arrays = describe(og.models.flow.Flow(module, {"params": params}, og.models.flow.Config()))
        parts = description["fields"]
        config = {"class": f"otgen.models.{place}.Config", "fields": fields}
        old = {"module": parts["module"], "params": parts["variables"]["dict"]["params"], "config": config}
        found = build({"class": f"otgen.models.{place}.Flow", "fields": old}, arrays, tmp_path, "0.1.0")
        assert (found.coupling, found.config.method, found.config.sample_steps) == ("Sinkhorn", "midpoint", 30)
        new = og.models.flow.sample(jax.random.key(1), found, 3)
        want = og.models.flow.sample(jax.random.key(1), og.load(tmp_path / "new"), 3, method="midpoint", num_steps=30)
        np.testing.assert_array_equal(new, want)


OLD = (
    "costs.Cost costs.DenseCost costs.PairwiseCost exact.Assignment exact.Coupling exact.Plan sinkhorn.Info dual.Info "
    "entropic.State dual.State heights.State plan.State mixture.Info mixture.Mixture semidiscrete.Info "
    "semidiscrete.assign structured.Info gaussian.Affine"
)


@pytest.mark.parametrize("name", OLD.split())
def test_what_has_moved_is_found(name):
    module, _, attribute = current(f"otgen.ot.{name}").rpartition(".")
    assert callable(getattr(importlib.import_module(module), attribute))


def test_a_source_that_was_saved_by_its_name_or_as_a_prior(tmp_path):
    names = {
        "uniform_cube": og.latent.Uniform(-0.5, 0.5),
        "uniform_ball": og.latent.Ball(),
        "gaussian": og.latent.Normal(),
    }
    for place in ("source", "semidiscrete.source"):
        for name, law in names.items():
            assert build({"constant": f"otgen.ot.{place}.{name}"}, {}, tmp_path, "0.1.0") == law
    og.save(tmp_path / "laws", names)
    assert og.load(tmp_path / "laws") == names


def test_names_of_before_and_names_that_stay():
    assert current("otgen.ot.learned.Learned") == current("otgen.ot.latent.learned.Learned")
    assert current("otgen.ot.heights.State") == "otgen.ot.semidiscrete.descent.State"
    assert current("otgen.models.ae_ot.Config") == "otgen.models.ae_ot.Config"
