"""Every public function and every training step is lowered for GPUs and TPUs, on a machine that has neither.

They multiply at the highest precision, but for the layers of networks, and so do derivatives.

The calls are those of `test_public_names` and `test_public_models`; training steps are lowered for one device, and for
two with their collectives. What is not traced, since it loops on the host,
has the programs that it calls lowered in the slow tests.
"""

import functools
import types

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

import otgen as og
from otgen.train import loop, parallel
from tests import test_public_models, test_public_names
from tests.support.programs import lower, recorded, trace
from tests.support.wrong import Reached, call

FILES = {*test_public_names.ASKS_FOR_MORE, "codec.taef2", "store.load", "store.save"}  # read and written
ON_THE_HOST = (  # are loops, and choices by the values of arrays, round programs that are lowered as they are called
    "coupling.batches, coupling.invert_all, coupling.pairs, coupling.record, coupling.semidiscrete, eval.mixture_rate, "
    "eval.over_draws, eval.subset_divergence, eval.subset_w2_sq, plot.cells, semidiscrete.run, train.train, "
    "ae_ot.sample of a label, ae_ot.solve, ae_ot.train_autoencoder, baselines.fit_images, bures_linear.descend, "
    "code_reading.traverse, codec.encode, codec.second, latent_law.transport, latent_ot.sample of a label, "
    "latent_ot.solve, latent_ot.train_autoencoder, use.invert, use.interpolate"
)
NOT_TRACED = {
    "returns no arrays": (
        "baselines.budget_of, baselines.fit_codes, baselines.image_config, baselines.steps_of, data.batches, "
        "data.stacked.compose, data.toy.centres_of, distances.as_cost_fn, eval.class_test, eval.distinct_modes, "
        "eval.extractor_of, explain, extension.check_form, latent.Ball, latent.Cauchy, latent.MultivariateT, "
        "latent.Normal, latent.Sphere, latent.Stable, latent.StudentT, latent.TruncatedNormal, latent.Uniform, "
        "nn.critic.critic, plot.colours, plot.curves, plot.diagnosis, plot.field, plot.image_grid, plot.plan, "
        "plot.plan_matrix, plot.points, plot.potential, plot.table, plot.traversal, smoothing.by_name, train.mapped, "
        "train.together, ae_ot.make_step, ae_ot.num_steps_of, ae_ot.optimiser, ae_ot_gan.make_step, "
        "ae_ot_gan.num_steps_of, ae_ot_gan.rows_of, bures_linear.make_step, bures_linear.optimiser, "
        "codec.of_functions, flow.make_step, info_gan.make_step, informative_gan.make_step, latent_ot.autoencoder, "
        "latent_ot.default_form, neural_map.config_of, neural_map.default_form, neural_map.form_of, "
        "codec.features, sinkhorn_generator.make_step, use.summary, vae.make_step, wae_mmd.make_step, wgan_gp.make_step"
    ),
    "computes with NumPy, or one operation after the other": (
        "bures_linear.init, codec.components, data.batch_index, data.sprites.factors_of, data.sprites.index_of, "
        "data.sprites.render, data.sprites.values, eval.beta_vae, eval.bootstrap, eval.dci, eval.diagnose, "
        "eval.disentanglement, eval.factor_vae, eval.matched_accuracy, eval.mig, eval.moments_of, eval.nmi, "
        "eval.over_seeds, eval.sap, eval.stacked_labels, informative_gan.unit_of, latent_law.mixture"
    ),
    "runs on the host": ON_THE_HOST,
}
CALLS_BACK = {  # the host solves, in a callback that jax lowers for processors that are there
    *("exact.assignment", "exact.assignment partial", "exact.partial_plan", "exact.plan", "mixture.barycentric_map"),
    *("mixture.geodesic", "mixture.plan"),
    *("mixture.sample_map", "mixture.w2_sq", "neural_map.fit lp"),
}
EXCEPTIONS = {name for names in NOT_TRACED.values() for name in names.split(", ")}
PARTS = (test_public_names, test_public_models)
NAMES = {name: part for part in PARTS for name in part.VALID if name not in FILES}
FUNCTIONS = {*NAMES} - EXCEPTIONS - CALLS_BACK
LONG = {  # and much like others
    *("adapters.to_ott", "coupling.invert", "data.load", "data.wasserstein2.inverse", "dual.value", "drift"),
    *("eval.density_coverage", "eval.neighbour_scores", "extension.init", "extension.sample", "gaussian.geodesic"),
    *("gaussian.geodesic_cov", "gaussian.w2_sq", "mixture.component_costs", "perturbed.alternate"),
    *("semidiscrete.carried", "sinkhorn_divergence", "structured.value"),
}
DIFFERENTIATED = {
    *("dual.value", "gaussian.barycenter", "gaussian.moments", "gaussian.w2_sq", "sinkhorn.value", "structured.value"),
}
FORWARDS = {
    "code_reading.duality_gap",
    "coupling.invert",
    "data.wasserstein2.inverse",
    "extension.walk",
    "sinkhorn.run",
}
LARGER = np.repeat(np.repeat(test_public_models.IMAGES, 2, 1), 2, 2)


def _standard(images):
    return (images - images.mean()) / images.std()


STAGES = {"ae_ot_gan.refine": 2}  # that end in a step of another kind; elsewhere one
VARIANTS = {  # in which steps differ
    "bures_linear.fit of batches": {"batch_size": 4, "epochs": 1},  # and of all data on the host
    "ae_ot.fit of convolutions": {"images": LARGER, "network": "conv", "width": 8},
    "ae_ot.fit of residual networks": {"images": LARGER, "network": "residual", "width": 8, "precision": "bfloat16"},
    "ae_ot_gan.refine of features": {"feature": "perceptual", "features": og.eval.pixels},
    "flow.fit of images": {"data": _standard(LARGER), "width": 8, "attention": True},
    "sinkhorn_generator.fit of temperatures": {"epsilon": (0.1, 1.0)},
}
FITS = [*sorted({*test_public_models.FITS} - {"bures_linear.fit"}), *VARIANTS, "codec.second"]
QUICK_FITS = {"ae_ot_gan.refine", "bures_linear.fit of batches", "neural_map.fit c_transform"}


def params(names, quick):
    """Names, those that are not quick marked as slow."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name not in quick)) for name in sorted(names)]


def valid(name):
    """A public function and the arguments of a valid call."""
    given = NAMES[name].VALID[name]
    return NAMES[name].function_of(name), given() if callable(given) else given


@pytest.fixture(autouse=True)
def as_users_call_it():
    """Without the checks of shapes and types that the other tests run under."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_the_exceptions_are_there():
    assert {*NAMES, *FITS} >= EXCEPTIONS | CALLS_BACK, "these are gone"


@pytest.mark.parametrize("name", params(FUNCTIONS, {*test_public_names.VALID} - LONG))
def test_public_functions_are_lowered(name):
    assert not lower(trace(*valid(name)))


@pytest.mark.parametrize("name", params(FUNCTIONS, DIFFERENTIATED))
def test_derivatives_are_as_precise(name):
    assert not lower(trace(*valid(name), jax.jvp if name in FORWARDS else jax.vjp))


@pytest.mark.parametrize("name", sorted(EXCEPTIONS))
def test_what_is_listed_cannot_be_traced(name):
    with pytest.raises((TypeError, ValueError)):
        trace(*valid(name))


def on_one(step, fixed):
    return functools.partial(step, axis_name=None)


def on_two(step, fixed):
    """A step over two devices of the platform that it is lowered for, with its collectives.

    `mapped` says pmap, of which JAX lowers only what is for devices that are there; shard_map makes the same of it.
    """
    mesh, rows, whole = AbstractMesh((2,), (parallel.AXIS,)), PartitionSpec(parallel.AXIS), PartitionSpec()
    specs = (whole, rows, whole, *(whole for _ in fixed))
    here = functools.partial(step, axis_name=parallel.AXIS)
    return jax.shard_map(here, mesh=mesh, in_specs=specs, out_specs=whole, check_vma=False)


@pytest.fixture
def steps(monkeypatch):
    """Training steps are lowered, not taken; a fit ends with so many of them as `steps.most`."""
    steps = types.SimpleNamespace(lowered=[], traced=[], most=1, places=on_one)

    def mapped(step, *fixed, donate=False):
        jitted = jax.jit(steps.places(step, fixed))

        def call(state, batch, key):
            traced = jitted.trace(state, batch.tree, key, *fixed)
            steps.lowered += [lower(traced)]
            steps.traced += [str(traced.jaxpr)]
            if len(steps.lowered) == steps.most:
                raise Reached
            after, metrics = jax.tree.map(lambda it: jnp.ones(it.shape, it.dtype), traced.out_info)
            return after._replace(step=state.step + 1), metrics

        return call

    monkeypatch.setattr(loop, "mapped", mapped)
    return steps


def start(name):
    """Start a fit."""
    base = name.partition(" of ")[0]
    table = test_public_models.FITS if base in test_public_models.FITS else test_public_models.VALID
    test_public_models.function_of(base)(**{**table[base](), **VARIANTS.get(name, {})})


@pytest.mark.parametrize("name", params({*FITS} - CALLS_BACK, QUICK_FITS))
def test_training_steps_are_lowered(name, steps):
    steps.most = STAGES.get(name.partition(" of ")[0], 1)
    with pytest.raises(Reached):
        start(name)
    assert not any(steps.lowered)


@pytest.mark.parametrize("name", params({*FITS} - CALLS_BACK, {"neural_map.fit c_transform"}))
def test_training_steps_over_devices_are_lowered(name, steps):
    steps.most, steps.places = STAGES.get(name.partition(" of ")[0], 1), on_two
    with pytest.raises(Reached):
        start(name)
    assert not any(steps.lowered)
    assert all("psum" in traced or "all_gather" in traced for traced in steps.traced), "devices do not meet"


@pytest.mark.parametrize("name", params(CALLS_BACK, {"exact.assignment", "exact.plan"}))
def test_what_calls_back_is_not_lowered(name, steps):
    with pytest.raises(NotImplementedError, match="multi-platform lowering for python_callback"):
        start(name) if name in FITS else lower(trace(*valid(name)))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ON_THE_HOST.split(", "), "neural_map.fit c_transform", "neural_map.fit icnn"])
def test_programs_of_loops_on_the_host_are_lowered(name, monkeypatch):
    found = recorded(monkeypatch)
    start(name) if name in test_public_models.FITS else call(*valid(name))
    assert found, "nothing is compiled here"
    assert not any(found.values()), found
