"""Every public function, handed what it cannot take, says so itself: what was given, what is needed, what to do.

`VALID` has one call for each function but those of the models, which `test_public_models` has. Every argument in turn
is then replaced by wrong ones (`tests.wrong`). NaN raises or comes out as NaN; bytes in another order and lists of
lists give what arrays give.
"""

import inspect
import subprocess
import sys

import jax
import jax.numpy as jnp
import jaxtyping
import matplotlib.pyplot as plt
import numpy as np
import pytest

import otgen as og
from otgen.models.apply import rows
from tests.doctests import public
from tests.wrong import refusals, results

N, D = 6, 2
_RANDOM = np.random.default_rng(0)
X, Y = _RANDOM.normal(size=(2, N, D)).astype(np.float32)
W = np.full(N, 1 / N, np.float32)
KEY = jax.random.key(0)
COV = np.array([[2.0, 0.5], [0.5, 1.0]], np.float32)
MATRIX = _RANDOM.uniform(size=(N, N)).astype(np.float32)
F = np.zeros(N, np.float32)
CODES = np.arange(N) % 2
FACTORS = np.stack([np.arange(60) % 3, np.arange(60) % 4], 1)
READ = _RANDOM.normal(size=(60, 3)).astype(np.float32)
IMAGES = _RANDOM.uniform(size=(N, 4, 4, 1)).astype(np.float32)


COST = og.PairwiseCost(X, Y)
SK = og.sinkhorn.State(jnp.zeros(N), jnp.zeros(N))
MIX = og.mixture.Mixture(np.array([0.5, 0.5], np.float32), X[:2], np.stack([COV, COV]))
SD = og.semidiscrete.from_heights(jnp.zeros(N))
EXT = og.extension.Extension(jnp.asarray(Y), jnp.float32(0.5))
Q = np.full((2, N), 0.5, np.float32)
CUBE = _RANDOM.uniform(size=(2, 3, N)).astype(np.float32)  # codes, noises, data
PLAN = og.structured.State(jnp.zeros((2, 3)), jnp.zeros(N), jnp.zeros((2, N)))
MOMENTS = og.gaussian.moments(X)
SPRITES = np.array([[0, 1, 2, 3, 4], [1, 0, 0, 0, 0]])
EPS = {"epsilon": 0.5}

VALID = {
    "DenseCost": {"values": MATRIX},
    "PairwiseCost": {"x": X, "y": Y},
    "adapters.to_ott": {"cost": COST, **EPS},
    "coupling.invert": {"key": KEY, "state": SD, "y": Y, "index": np.arange(3)},
    "coupling.invert_all": {"key": KEY, "state": SD, "y": Y},
    "coupling.nearest": {"y": Y, "codes": X},
    "coupling.pair": {"key": KEY, "step": 0, "state": SD, "y": Y, "batch_size": 4},
    "coupling.pairs": {"key": KEY, "state": SD, "y": Y, "batch_size": 4, "num": 1},
    "data.batch_index": {"key": KEY, "step": 0, "num": 6, "batch_size": 2},
    "data.toy.checkerboard": {"key": KEY, "n": 4},
    "data.toy.eight_gaussians": {"key": KEY, "n": 4},
    "data.toy.rings": {"key": KEY, "n": 4},
    "data.toy.swiss_roll": {"key": KEY, "n": 4},
    "data.toy.twenty_five_gaussians": {"key": KEY, "n": 4},
    "data.toy.two_moons": {"key": KEY, "n": 4},
    "data.toy.standardise": {"x": X},
    "data.toy.centres_of": {"name": "rings"},
    "data.toy.zipf_covariance": {"key": KEY, "dim": 3, "least": 0.1},
    "data.stacked.compose": {"seed": 0, "images": (255 * IMAGES).astype(np.uint8), "labels": CODES, "num": 4},
    "data.stacked.mode_weights": {"labels": CODES},
    "dual.density": {"cost": MATRIX, "f": F, "g": F, **EPS},
    "dual.gap": {"cost": MATRIX, "f": F, "g": F, "a": W, "b": W, **EPS},
    "dual.marginals": {"cost": MATRIX, "f": F, "g": F, "a": W, "b": W, **EPS},
    "dual.run": {"cost": MATRIX, "a": W, "b": W, **EPS, "tol": 1e-3, "max_steps": 100, "smoothing": "entropic"},
    "dual.semidual": {"cost": MATRIX, "f": F, "a": W, "b": W, **EPS},
    "dual.transform": {"cost": MATRIX, "f": F, "a": W, **EPS},
    "dual.value": {"cost": MATRIX, "f": F, "g": F, "a": W, "b": W, **EPS},
    "eval.ambiguous_rate": {"logits": READ, "confidence": 0.9},
    "eval.class_counts": {"labels": CODES, "num_classes": 2},
    "eval.class_histogram": {"labels": CODES, "num_classes": 2},
    "eval.class_test": {"labels": CODES, "num_classes": 2},
    "eval.cosine": {"mapped": X, "truth": Y, "x": X + Y},
    "eval.dci": {"codes": READ, "factors": FACTORS, "trees": 2},
    "eval.density_coverage": {"real": X, "generated": Y, "k": 2},
    "eval.distinct_modes": {"labels": CODES, "num_modes": 2},
    "eval.kernel_distance": {"x": X, "y": Y},
    "eval.l2_uvp": {"mapped": X, "truth": Y},
    "eval.matched_accuracy": {"codes": CODES, "labels": CODES},
    "eval.memorisation": {"generated": X, "train": Y, "test": X + 1},
    "eval.mig": {"codes": READ, "factors": FACTORS},
    "eval.mode_scores": {"samples": X, "centres": Y, "deviation": 0.5},
    "eval.nearest": {"x": X, "y": Y, "k": 2},
    "eval.nearest_label": {"features": X, "known": Y, "labels": CODES, "num_classes": 2, "k": 1},
    "eval.neighbour_scores": {"real": X, "generated": Y, "k": 2, "k_density": 2},
    "eval.nmi": {"codes": CODES, "labels": CODES},
    "eval.novelty": {"generated": X, "train": Y, "test": X + 1},
    "eval.over_seeds": {"values": np.arange(4.0)},
    "eval.pixels": {"images": IMAGES},
    "eval.precision_recall": {"real": X, "generated": Y, "k": 2},
    "eval.predicted_labels": {"outputs": READ},
    "eval.sap": {"codes": READ, "factors": FACTORS},
    "eval.sliced_w2_sq": {"key": KEY, "x": X, "y": Y, "num": 16},
    "eval.subset_w2_sq": {"key": KEY, "x": X, "y": Y, "num": 4, "repeats": 2},
    "eval.total_variation": {"p": W, "q": W},
    "exact.assignment": {"cost": MATRIX},
    "exact.coupling_line": {"x": X[:, 0], "y": Y[:, 0], "a": W, "b": W},
    "exact.plan": {"cost": MATRIX, "a": W, "b": W},
    "exact.value_line": {"x": X[:, 0], "y": Y[:, 0], "a": W, "b": W},
    "extension.check_form": {"method": "pairs", "angle": 0.5},
    "extension.dihedral_angle": {"a": X, "b": Y},
    "extension.init": {"key": KEY, "state": SD, "y": Y, "num": 256, "quantile": 0.9},
    "extension.sample": {"key": KEY, "extension": EXT, "state": SD, "y": Y, "num": 4},
    "extension.source_samples": {"key": KEY, "num": 4, "dim": 2},
    "extension.threshold": {"key": KEY, "state": SD, "y": Y, "quantile": 0.9},
    "extension.singular_angles": {"state": SD, "y": Y, "x": X},
    "extension.transport": {"key": KEY, "extension": EXT, "state": SD, "y": Y, "x": X},
    "gaussian.barycenter": {"covs": np.stack([COV, 2 * COV]), "weights": np.array([0.5, 0.5], np.float32)},
    "gaussian.bures_sq": {"cov_a": COV, "cov_b": 2 * COV},
    "gaussian.bures_sq_factors": {"factor_a": COV, "factor_b": 2 * COV},
    "gaussian.entropic_bures_sq": {"cov_a": COV, "cov_b": 2 * COV, **EPS},
    "gaussian.frechet_distance": {"features_a": X, "features_b": Y},
    "gaussian.geodesic": {"t": 0.5, "mean_a": X[0], "cov_a": COV, "mean_b": X[1], "cov_b": 2 * COV},
    "gaussian.geodesic_cov": {"t": 0.5, "cov_a": COV, "cov_b": 2 * COV},
    "gaussian.map_matrix": {"cov_a": COV, "cov_b": 2 * COV},
    "gaussian.moments": {"features": X},
    "gaussian.perturbed_bures_sq": {"cov_model": COV, "cov_target": 2 * COV, "tau": 0.1},
    "gaussian.perturbed_bures_sq_factors": {"factor_model": COV, "factor_target": 2 * COV, "tau": 0.1},
    "gaussian.transport_map": {"cov_a": COV, "cov_b": 2 * COV, "mean_a": X[0], "mean_b": X[1]},
    "gaussian.w2_sq": {"mean_a": X[0], "cov_a": COV, "mean_b": X[1], "cov_b": 2 * COV},
    "latent.analogy": {"a": X, "b": Y, "c": X + Y},
    "latent.bilinear": {"s": 0.5, "t": 0.5, "corners": np.stack([X, Y, X + Y, X - Y])},
    "latent.centroid": {"z": np.stack([X, Y])},
    "latent.combine": {"weights": np.array([0.5, 0.5], np.float32), "z": np.stack([X, Y])},
    "latent.grid": {"corners": np.stack([X[0], Y[0], X[1], Y[1]]), "rows": 2, "columns": 3},
    "latent.lerp": {"t": 0.5, "z0": X, "z1": Y},
    "latent.lol": {"weights": np.array([0.5, 0.5], np.float32), "z": np.stack([X, Y])},
    "latent.loop": {"z0": X[0], "z1": Y[0], "num": 3},
    "latent.raw": {"weights": np.array([0.5, 0.5], np.float32), "z": np.stack([X, Y])},
    "latent.slerp": {"t": 0.5, "z0": X, "z1": Y},
    "latent.subspace": {"coordinates": np.ones((3, 2), np.float32), "z": np.stack([X[0], Y[0]])},
    "latent.vicinity": {"key": KEY, "z": X, "radius": 0.5},
    "latent.walk": {"key": KEY, "z": X[0], "num": 3, "radius": 0.5},
    "latent.Normal": {"loc": 0.0, "scale": 1.0},
    "latent.Cauchy": {"loc": 0.0, "scale": 1.0},
    "latent.Uniform": {"low": -1.0, "high": 1.0},
    "latent.Ball": {"radius": 1.0},
    "latent.Sphere": {"radius": 1.0},
    "latent.StudentT": {"df": 3.0, "loc": 0.0, "scale": 1.0},
    "latent.MultivariateT": {"df": 3.0, "scale": 1.0},
    "latent.TruncatedNormal": {"low": -1.0, "high": 1.0, "loc": 0.0, "scale": 1.0},
    "latent.Stable": {"alpha": 1.5, "loc": 0.0, "scale": 1.0},
    "latent.Empirical": {"values": X[:, 0]},
    "latent.Mixture": {"weights": np.array([0.5, 0.5]), "locs": np.array([0.0, 1.0]), "scales": np.array([1.0, 1.0])},
    "mixture.barycentric_map": {"p": MIX, "q": MIX, "x": X},
    "mixture.component_costs": {"p": MIX, "q": MIX},
    "mixture.geodesic": {"t": 0.5, "p": MIX, "q": MIX},
    "mixture.log_density": {"p": MIX, "x": X},
    "mixture.plan": {"p": MIX, "q": MIX},
    "mixture.sample": {"key": KEY, "p": MIX, "num": 4},
    "mixture.sample_map": {"key": KEY, "p": MIX, "q": MIX, "x": X},
    "mixture.w2_sq": {"p": MIX, "q": MIX},
    "nn.to_unit": {"images": IMAGES},
    "semidiscrete.assign": {"state": SD, "y": Y, "x": X},
    "semidiscrete.carried": {"key": KEY, "state": SD, "old": Y, "y": X},
    "semidiscrete.chi2": {"key": KEY, "state": SD, "y": Y, "num": 1024},
    "semidiscrete.from_heights": {"h": F},
    "semidiscrete.init": {"key": KEY, "y": Y, "weights": W},
    "semidiscrete.masses": {"key": KEY, "state": SD, "y": Y, "num": 1024},
    "semidiscrete.matching": {"state": SD, "y": Y},
    "semidiscrete.run": {"key": KEY, "y": Y, "tol": 0.5, "max_samples": 4096, "batch_size": 1024},
    "semidiscrete.stage": {"key": KEY, "state": SD, "y": Y, "weights": W, "num_steps": 2, "batch_size": 8},
    "semidiscrete.step": {"key": KEY, "state": SD, "y": Y, "weights": W, "batch_size": 8},
    "sinkhorn.apply_plan": {"cost": COST, "state": SK, "vectors": Y, "a": W, "b": W, **EPS, "axis": 1},
    "sinkhorn.init": {"cost": COST},
    "sinkhorn.marginals": {"cost": COST, "state": SK, "a": W, "b": W, **EPS},
    "sinkhorn.plan": {"cost": COST, "state": SK, "a": W, "b": W, **EPS},
    "sinkhorn.primal_cost": {"cost": COST, "state": SK, "a": W, "b": W, **EPS},
    "sinkhorn.run": {"cost": COST, "a": W, "b": W, **EPS, "tau_a": 1.0, "tau_b": 1.0, "tol": 1e-3, "max_steps": 100},
    "sinkhorn.sample_plan": {"key": KEY, "cost": COST, "state": SK, "a": W, "b": W, **EPS, "num": 6},
    "sinkhorn.step": {"state": SK, "cost": COST, "a": W, "b": W, **EPS},
    "sinkhorn.value": {"cost": COST, "a": W, "b": W, **EPS, "tau_a": 1.0, "tau_b": 1.0, "tol": 1e-3, "max_steps": 100},
    "sinkhorn_divergence": {"x": X, "y": Y, "a": W, "b": W, **EPS, "tol": 1e-3},
    "data.sprites.factors_of": {"index": np.arange(3)},
    "data.sprites.index_of": {"factors": SPRITES},
    "data.sprites.render": {"factors": SPRITES},
    "data.sprites.sample": {"seed": 0, "num": 2},
    "data.sprites.values": {"factors": SPRITES},
    "eval.diagnose": {"z": READ, "prior": og.latent.Normal()},
    "exact.potentials": {"cost": 1 - np.eye(N, dtype=np.float32), "index": np.arange(N)},
    "extension.walk": {"state": SD, "y": Y, "path": X},
    "gaussian.merge": {"a": MOMENTS, "b": MOMENTS},
    "pad_clouds": {"clouds": [X, Y[:3]]},
    "plot.image_grid": {"images": IMAGES, "columns": 3},
    "plot.plan_matrix": {"plan": MATRIX},
    "plot.points": {"x": X},
    "plot.traversal": {"images": IMAGES.reshape(2, 3, 4, 4, 1)},
    "smoothing.by_name": {"smoothing": "entropic"},
    "structured.alternate": {"cost": CUBE, "q": np.zeros((2, N), np.float32), **EPS, "lam": 0.2, "max_steps": 20},
    "structured.adversary": {"cost": CUBE, "state": PLAN, **EPS, "lam": 0.2},
    "structured.adversarial_value": {
        "cost": CUBE,
        "p": np.zeros_like(CUBE),
        "density": np.ones_like(CUBE),
        **EPS,
        "lam": 0.2,
    },
    "structured.conditional": {"cost": CUBE, "f": np.zeros((2, 3), np.float32), **EPS, "lam": 0.2},
    "structured.density": {"cost": CUBE, "state": PLAN, **EPS, "lam": 0.2},
    "structured.dual_density": {"cost": CUBE, "f": np.zeros((2, 3), np.float32), "g": F, **EPS, "lam": 0.2},
    "structured.dual_value": {"cost": CUBE, "f": np.zeros((2, 3), np.float32), "g": F, **EPS, "lam": 0.2},
    "structured.information": {"density": np.ones_like(CUBE)},
    "structured.perturbation": {"cost": CUBE, "state": PLAN, **EPS, "lam": 0.2},
    "structured.perturbed_cost": {"cost": CUBE, "p": np.zeros((2, N), np.float32)},
    "structured.regulariser": {"density": np.ones_like(CUBE), **EPS, "lam": 0.2},
    "structured.run": {"cost": CUBE, **EPS, "lam": 0.2, "tol": 1e-2, "max_steps": 20},
    "structured.semidual": {"cost": CUBE, "f": np.zeros((2, 3), np.float32), **EPS, "lam": 0.2},
    "structured.transform": {"cost": CUBE, "f": np.zeros((2, 3), np.float32), **EPS, "lam": 0.2},
    "structured.encoder_perturbation": {"log_q": np.log(Q), "code": np.array([0.5, 0.5], np.float32), "lam": 0.1},
}

WITHOUT = {  # what no row is for, by why
    "takes functions, models or files": (
        "data.batches data.load data.stacked.load_split distances.as_cost_fn dual.objective dual.semi_objective "
        "eval.beta_vae eval.bootstrap eval.disentanglement eval.factor_vae eval.moments_of eval.stacked_labels load "
        "save plot.curves plot.diagnosis plot.field plot.plan plot.potential plot.table plot.cells train.averaged "
        "train.mapped train.together train.train mixture.as_mixture adapters.from_ott from_ott explain nn.critic.critic"
    ),
    "needs data": (
        "data.wasserstein2.inverse data.wasserstein2.load data.wasserstein2.potential data.wasserstein2.sample "
        "data.wasserstein2.sample_target data.wasserstein2.transport data.wasserstein2.input_law eval.digit_classifier "
        "eval.inception eval.inception_all eval.lenet"
    ),
    "runs inside a caller's jit, unchecked": (
        "costs.product costs.along costs.carried costs.gibbs costs.middle smoothing.hinge_level smoothing.log_mean_exp "
        "nn.augment.augment smoothing.regularity plot.colours"
    ),
    "is that of another name": "to_ott sinkhorn.step eval.mixture_rate eval.subset_divergence",
    "takes nothing, or one of a few words": (
        "data.toy.eight_gaussians_centres data.toy.twenty_five_gaussians_centres data.sprites.indices plot.style"
    ),
}
UNREAD = {
    ("semidiscrete.step", "y"),  # belongs inside the caller's jit, where values are not looked at
    ("plot.image_grid", "images"),  # drawn as gaps
    ("plot.traversal", "images"),
    ("plot.points", "x"),
}


FUNCTIONS = dict(public())


def test_every_public_function_is_here():
    without = {name for names in WITHOUT.values() for name in names.split()}
    functions = {name for name, it in FUNCTIONS.items() if not inspect.isclass(it) and not name.startswith("models.")}
    assert not functions - set(VALID) - without, "give these a valid call in VALID"
    assert not (without | set(VALID)) - set(FUNCTIONS), "these are gone"


@pytest.fixture(autouse=True)
def as_users_call_it():
    """Without the checks of shapes and types that the other tests run under."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
    plt.close("all")


LONG = {  # to compile, where an array of another size is right
    "coupling.invert",
    "eval.density_coverage",
    "eval.diagnose",
    "eval.memorisation",
    "eval.neighbour_scores",
    "eval.subset_w2_sq",
    "semidiscrete.carried",
    "semidiscrete.run",
    "structured.run",
}


@pytest.mark.parametrize("name", [pytest.param(it, marks=[pytest.mark.slow] * (it in LONG)) for it in sorted(VALID)])
def test_wrong_arguments_are_refused_in_words(name):
    found = list(refusals(name, FUNCTIONS[name], VALID[name]))
    assert not found, "\n".join(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(VALID))
def test_results_do_not_depend_on_how_arrays_are_given(name):
    found = list(results(name, FUNCTIONS[name], VALID[name], UNREAD))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", ["coupling.nearest", "eval.mig", "exact.plan", "semidiscrete.assign"])
def test_bytes_in_another_order_are_read(name):
    found = list(results(name, FUNCTIONS[name], VALID[name], UNREAD))
    assert not found, "\n".join(found)


def test_networks_are_there_before_the_models_are():
    names = "og.nn.critic.critic, og.nn.potentials.Convex, og.nn.augment.augment, og.nn.velocity.Velocity"
    program = f"import sys, otgen as og; {names}; assert 'otgen.models' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_no_images_are_nothing_to_encode():
    with pytest.raises(ValueError, match=r"no rows to encode: shape \(0, 8, 8, 1\); give at least one"):
        rows(None, {}, np.zeros((0, 8, 8, 1), np.uint8), "encode")
