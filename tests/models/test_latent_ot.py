"""Latent-space OT on the digits: one pytree, every form, distilled maps, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otgen.eval import nearest, nearest_label, neighbour_scores, pixels
from otgen.models import latent_ot


@pytest.fixture(scope="module")
def trained(digits, small):
    options = {"num_steps": 300, "hidden": [32, 32], "batch_size": 256}
    return latent_ot.fit(jax.random.key(0), digits.images, digits.labels, **small, solver_options=options)


def test_the_model_is_one_pytree_that_samples_in_one_call(trained):
    model = trained
    assert set(model.variables) == {"params", "transport"}
    draw = jax.jit(lambda variables, key: model.module.apply(variables, key, 32, method="sample"))
    images = draw(model.variables, jax.random.key(1))
    assert images.shape == (32, 8, 8, 1)
    np.testing.assert_allclose(images, latent_ot.sample(jax.random.key(1), model, 32), atol=1e-6)


def test_the_winning_code_decodes_to_a_reconstruction_and_the_barycentre_to_something_new(trained, digits):
    model = trained
    known = pixels(latent_ot.decode(model, latent_ot.encode(model, digits.images)))
    copies, new = (
        float(nearest(pixels(latent_ot.sample(jax.random.key(2), model, 200, form=form)), known)[0].mean())
        for form in ("argmax", "barycentre")
    )
    assert copies < 1e-2 < new


def test_samples_lie_where_the_data_lie_and_a_gaussian_in_the_codes_does_not(trained, digits):
    model = trained
    codes = latent_ot.encode(model, digits.images)
    root = jnp.linalg.cholesky(jnp.cov(codes.T))
    plain = codes.mean(0) + jax.random.normal(jax.random.key(3), codes.shape) @ root.T
    ours = model.module.apply(model.variables, jax.random.key(4), len(codes), method="codes")
    ours, plain = (neighbour_scores(codes, other) for other in (ours, plain))
    assert float(ours.precision) > float(plain.precision) + 0.1
    assert float(ours.coverage) > float(plain.coverage) + 0.1


@pytest.mark.slow
def test_as_many_of_the_extended_codes_are_new_as_asked_for(trained):
    model, num = trained, 2000
    known = model.variables["transport"]

    def new(form):
        drawn = model.module.apply(model.variables, jax.random.key(5), num, form, method="codes")
        return (drawn - known["mean"]) / known["scale"]

    winners = new("argmax")  # of the same noise
    for form in latent_ot.EXTENDED:
        moved = jnp.any(jnp.abs(new(form) - winners) > 1e-4, axis=1)
        share, wanted = float(moved.mean()), model.module.config.quantile
        assert abs(share - wanted) < 4 * (wanted * (1 - wanted) * (1 / num + 1 / 4096)) ** 0.5, form


@pytest.mark.parametrize("form", ["argmax", "local"])
def test_draws_of_a_label_are_of_that_class(trained, digits, form):
    """By chance a tenth of 100 draws is right, with a standard error of 0.03: 0.6 is 16 of them away."""
    known = pixels(digits.images / 255.0)
    for label in (0, 3, 7):
        images = latent_ot.sample(jax.random.key(3), trained, 100, label=label, form=form)
        assert images.shape == (100, 8, 8, 1)
        assert float(jnp.mean(nearest_label(pixels(images), known, digits.labels, 10) == label)) > 0.6
    codes = latent_ot.encode(trained, digits.images[digits.labels == 3])
    images = latent_ot.sample(jax.random.key(3), trained, 50, label=3, form="argmax")
    distance, _ = nearest(pixels(images), pixels(latent_ot.decode(trained, codes)))
    assert float(distance.max()) < 1e-2  # reconstructions of threes
    for label, model, told in ((10, trained, "its labels are"), (3, trained._replace(labels=None), "without labels")):
        with pytest.raises(ValueError, match=told):
            latent_ot.sample(jax.random.key(3), model, 4, label=label)


@pytest.mark.slow
def test_a_distilled_model_samples_in_one_pass(trained):
    model = latent_ot.distil(jax.random.key(5), trained, num_steps=200, hidden=(32, 32), batch_size=128)
    quick = latent_ot.sample(jax.random.key(6), model, 64, form="network")
    slow = latent_ot.sample(jax.random.key(6), model, 64)
    assert float(jnp.mean((quick - slow) ** 2)) < 0.5 * float(jnp.mean((slow[::-1] - slow) ** 2))


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["icnn", "lp"])
def test_the_other_solvers_sample_too(solver, digits, small):
    options = {"num_steps": 80, "batch_size": 128}
    model = latent_ot.fit(jax.random.key(0), digits.images, **small, solver=solver, solver_options=options)
    for form in latent_ot.FORMS[:-1]:
        assert bool(jnp.isfinite(latent_ot.sample(jax.random.key(1), model, 16, form=form)).all())


def test_what_cannot_be_meant_is_refused(trained):
    model = trained
    with pytest.raises(ValueError, match="distilled"):
        latent_ot.sample(jax.random.key(0), model, 4, form="network")
    with pytest.raises(ValueError, match="form"):
        latent_ot.sample(jax.random.key(0), model, 4, form="simplex")
    with pytest.raises(ValueError, match="temperature"):
        latent_ot.sample(jax.random.key(0), model, 4, form="local", temperature=1.0)
    with pytest.raises(ValueError, match="quantile"):
        latent_ot.Config(quantile=1.5)
    without = {name: value for name, value in model.variables["transport"].items() if name != "angle"}
    with pytest.raises(ValueError, match="angle"):
        latent_ot.sample(
            jax.random.key(0), model._replace(variables={**model.variables, "transport": without}), 4, form="pairs"
        )
    with pytest.raises(ValueError, match="num"):
        latent_ot.sample(jax.random.key(0), model, 0)
    with pytest.raises(ValueError, match="temperature"):
        latent_ot.sample(jax.random.key(0), model, 4, temperature=0.0)
    with pytest.raises(ValueError, match="solver"):
        latent_ot.Config(solver="gan")
    with pytest.raises(TypeError, match="critics"):
        latent_ot.Config(solver_options={"critics": 5})
    bare = latent_ot.LatentOT((8, 8, 1), latent_ot.Config())
    with pytest.raises(ValueError, match="no transport"):
        bare.apply({"params": {}}, jax.random.key(0), 4, method="sample")
