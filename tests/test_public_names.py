"""Every public function, handed what it cannot take, says so itself: what was given, what is needed, what to do.

`VALID` has one call for each function but those of the models, which `test_public_models` has. Every argument in turn
is then replaced by wrong ones (`tests.support.wrong`). NaN raises or comes out as NaN; bytes in another order and lists
of lists give what arrays give.
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
from tests.support.doctests import public
from tests.support.wrong import refusals, results, unsorted

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
LOW = og.low_rank.State(*(jnp.full(size, -jnp.log(2.0)) for size in ((N, 2), (N, 2), 2)), jnp.zeros((2, 2)))
MIX = og.mixture.Mixture(np.array([0.5, 0.5], np.float32), X[:2], np.stack([COV, COV]))
SD = og.semidiscrete.from_heights(jnp.zeros(N))
MAP = og.semidiscrete.Map(jnp.asarray(Y), jnp.zeros(N), jnp.asarray(W), og.source.gaussian)
PAIRED = og.coupling.Independent(X, CODES)
EXT = og.extension.Extension(jnp.asarray(Y), jnp.float32(0.5))
Q = np.full((2, N), 0.5, np.float32)
CUBE = _RANDOM.uniform(size=(2, 3, N)).astype(np.float32)  # codes, noises, data
PLAN = og.structured.State(jnp.zeros((2, 3)), jnp.zeros(N), jnp.zeros((2, N)))
MOMENTS = og.gaussian.moments(X)
DIGITS = (255 * IMAGES).astype(np.uint8)
JUDGE = og.eval.PointJudge(X, Y)
REPORT = og.eval.Diagnosis(*[np.linspace(0.1, 1, D)] * len(og.eval.Diagnosis._fields))
SPRITES = np.array([[0, 1, 2, 3, 4], [1, 0, 0, 0, 0]])
EPS = {"epsilon": 0.5}
READER = {
    "codes_of": lambda factors: factors.astype(float),
    "sizes": (2, 3),
    "num_train": 40,
    "num_eval": 20,
    "batch": 4,
}
PAIR = og.data.wasserstein2.Benchmark(
    og.data.wasserstein2.Networks(
        *(
            tuple(np.full((2, *shape), 0.1, np.float32) for shape in shapes)
            for shapes in (((D, 1, 3),) * 3, ((3, D),) * 3, ((3,),) * 3, ((3, 3),) * 2)
        ),
        np.full((2, 1, 3), 0.1, np.float32),
    ),
    og.data.wasserstein2.Components(np.zeros((3, D), np.float32), np.stack([COV] * 3)),
    np.zeros(D, np.float32),
    np.float32(1),
)


def step(state, batch, key, *, axis_name=None):
    """A training step that counts."""
    return state._replace(step=state.step + 1), {"loss": jnp.mean(batch)}


def flat(images):
    """Features of images: their pixels."""
    return np.asarray(images).reshape(len(images), -1)


def logits(images):
    """Of a classifier that takes every image for a three."""
    return np.tile(np.arange(10) == 3, (len(images), 1)).astype(np.float32)


VALID = {
    "DenseCost": {"values": MATRIX},
    "PairwiseCost": {"x": X, "y": Y},
    "adapters.to_ott": {"cost": COST, **EPS},
    "coupling.Independent": {"data": X, "labels": CODES},
    "coupling.Minibatch": {"data": X, "labels": CODES, "beta": 1.0},
    "coupling.SemiDiscrete": {"data": X, "h": F, "labels": CODES, "balance": W, "imbalance": "weight"},
    "coupling.Sinkhorn": {"data": X, "labels": CODES, **EPS, "beta": 1.0},
    "coupling.batches": {"coupling": PAIRED, "key": KEY, "batch_size": 2, "num": 1},
    "coupling.from_map": {"transport": MAP, "data": Y},
    "coupling.record": {"coupling": PAIRED, "key": KEY, "num": 4, "batch_size": 2},
    "coupling.semidiscrete": {"key": KEY, "data": X, "labels": CODES, "tol": 0.5, "max_samples": 4096},
    "coupling.with_flips": {"images": IMAGES, "labels": CODES},
    "coupling.invert": {"key": KEY, "state": SD, "y": Y, "index": np.arange(3)},
    "coupling.invert_all": {"key": KEY, "state": SD, "y": Y},
    "coupling.nearest": {"y": Y, "codes": X},
    "coupling.pair": {"key": KEY, "step": 0, "state": SD, "y": Y, "batch_size": 4},
    "coupling.pairs": {"key": KEY, "state": SD, "y": Y, "batch_size": 4, "num": 1},
    "data.batch_index": {"key": KEY, "step": 0, "num": 6, "batch_size": 2},
    "data.toy.checkerboard": {"key": KEY, "num": 4},
    "data.toy.eight_gaussians": {"key": KEY, "num": 4},
    "data.toy.rings": {"key": KEY, "num": 4},
    "data.toy.swiss_roll": {"key": KEY, "num": 4},
    "data.toy.twenty_five_gaussians": {"key": KEY, "num": 4},
    "data.toy.two_moons": {"key": KEY, "num": 4},
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
    "dual.dual_value": {"cost": MATRIX, "f": F, "g": F, "a": W, "b": W, **EPS},
    "dual.value": {"cost": MATRIX, "a": W, "b": W, **EPS, "tol": 1e-3, "max_steps": 100, "smoothing": "entropic"},
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
    "eval.min_sliced_plan": {"key": KEY, "x": X, "y": Y, "num": 4, "a": W, "b": W},
    "eval.max_sliced_wp": {"key": KEY, "x": X, "y": Y, "num": 4, "a": W, "b": W, "p": 1.5, "num_steps": 2},
    "eval.sliced_w2_sq": {"key": KEY, "x": X, "y": Y, "num": 16},
    "eval.sliced_wp": {"key": KEY, "x": X, "y": Y, "num": 16, "a": W, "b": W, "p": 1.0},
    "eval.subset_w2_sq": {"key": KEY, "x": X, "y": Y, "num": 4, "repeats": 2},
    "eval.total_variation": {"p": W, "q": W},
    "exact.assignment": {"cost": MATRIX},
    "exact.assignment partial": {"cost": MATRIX, "num": 2},
    "exact.partial_plan": {"cost": MATRIX, "a": W, "b": W, "mass": 0.5},
    "exact.potentials_line": {"x": X[:, 0], "y": Y[:, 0], "a": W, "b": W},
    "exact.coupling_line": {"x": X[:, 0], "y": Y[:, 0], "a": W, "b": W},
    "exact.plan": {"cost": MATRIX, "a": W, "b": W},
    "exact.value_line": {"x": X[:, 0], "y": Y[:, 0], "a": W, "b": W},
    "extension.check_form": {"form": "pairs", "angle": 0.5},
    "extension.dihedral_angle": {"a": X, "b": Y},
    "extension.init": {"key": KEY, "state": SD, "y": Y, "num": 256, "quantile": 0.9},
    "extension.sample": {"key": KEY, "extension": EXT, "state": SD, "y": Y, "num": 4},
    "extension.source_samples": {"key": KEY, "num": 4, "dim": 2},
    "extension.threshold": {"key": KEY, "state": SD, "y": Y, "quantile": 0.9},
    "extension.singular_angles": {"state": SD, "y": Y, "x": X},
    "extension.transport": {"key": KEY, "extension": EXT, "state": SD, "y": Y, "x": X},
    "barycenter.cloud": {
        **{"clouds": [X, Y[:3]], "weights": np.array([0.5, 0.5]), "masses": [W, None], **EPS, "start": X, "a": W},
        **{"tol": 0.1, "max_steps": 3},
    },
    "barycenter.histogram": {"cost": og.PairwiseCost(X, X), "histograms": np.stack([W, W]), **EPS, "max_steps": 9},
    "low_rank.init": {"key": KEY, "cost": MATRIX, "a": W, "b": W, "rank": 2},
    "low_rank.run": {
        **{"key": KEY, "cost": MATRIX, "a": W, "b": W, "rank": 2, **EPS, "tol": 0.1, "max_steps": 3},
        "state": LOW,
    },
    "low_rank.step": {"state": LOW, "cost": MATRIX, "a": W, "b": W, **EPS},
    "gaussian.barycenter": {"covs": np.stack([COV, 2 * COV]), "weights": np.array([0.5, 0.5], np.float32)},
    "gaussian.bures_sq": {"cov_a": COV, "cov_b": 2 * COV},
    "gaussian.bures_sq_factors": {"factor_a": COV, "factor_b": 2 * COV},
    "gaussian.entropic_bures_sq": {"cov_a": COV, "cov_b": 2 * COV, **EPS},
    "gaussian.frechet_distance": {"features_a": X, "features_b": Y},
    "gaussian.geodesic": {"t": 0.5, "mean_a": X[0], "cov_a": COV, "mean_b": X[1], "cov_b": 2 * COV},
    "gaussian.geodesic_cov": {"t": 0.5, "cov_a": COV, "cov_b": 2 * COV},
    "gaussian.map_matrix": {"cov_a": COV, "cov_b": 2 * COV},
    "gaussian.moments": {"features": X, "weights": W},
    "gaussian.perturbed_bures_sq_factors": {"factor_model": COV, "factor_target": 2 * COV, "tau": 0.1},
    "gaussian.transport_map": {"mean_a": X[0], "cov_a": COV, "mean_b": X[1], "cov_b": 2 * COV},
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
    "latent.STANDARD": {"key": KEY, "num": 4, "dim": 2},
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
    "latent.MixturePrior": {
        "weights": np.array([0.5, 0.5]),
        "locs": np.array([0.0, 1.0]),
        "scales": np.array([1.0, 1.0]),
    },
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
    "source.draw": {"key": KEY, "sampler": og.source.gaussian, "block": 0, "num": 4, "dim": 2},
    "source.gaussian": {"key": KEY, "num": 4, "dim": 2},
    "source.independent": {"key": KEY, "sampler": og.source.gaussian, "num": 4, "dim": 2},
    "source.uniform_ball": {"key": KEY, "num": 4, "dim": 2},
    "source.uniform_cube": {"key": KEY, "num": 4, "dim": 2},
    "sinkhorn.apply_plan": {"cost": COST, "state": SK, "vectors": Y, "a": W, "b": W, **EPS, "axis": 1},
    "sinkhorn.init": {"cost": COST},
    "sinkhorn.marginals": {"cost": COST, "state": SK, "a": W, "b": W, **EPS},
    "sinkhorn.plan": {"cost": COST, "state": SK, "a": W, "b": W, **EPS},
    "sinkhorn.primal_cost": {"cost": COST, "state": SK, "a": W, "b": W, **EPS},
    "epsilon": {"cost": COST, "a": W, "b": W, "share": 0.05, "of": "mean"},
    "epsilon median": {"cost": COST, "a": W, "b": W, "share": 0.05, "of": "median"},
    "sinkhorn.value relaxed": {"cost": COST, "a": W, "b": W, **EPS, "rho_a": 1.0, "rho_b": 2.0},
    "sinkhorn.run": {"cost": COST, "a": W, "b": W, **EPS, "tau_a": 1.0, "tau_b": 1.0, "tol": 1e-3, "max_steps": 100},
    "sinkhorn.sample_plan": {"key": KEY, "cost": COST, "state": SK, "a": W, "b": W, **EPS, "num": 6},
    "sinkhorn.step": {"state": SK, "cost": COST, "a": W, "b": W, **EPS},
    "sinkhorn.value": {"cost": COST, "a": W, "b": W, **EPS, "tau_a": 1.0, "tau_b": 1.0, "tol": 1e-3, "max_steps": 100},
    "sinkhorn_divergence": {
        **{"x": X, "y": Y, "a": W, "b": W, "x_other": X + 1, "y_other": Y + 1, "a_other": W, "b_other": W},
        **{**EPS, "diagonal": "keep", "tol": 1e-3},
    },
    "sinkhorn_divergence masked": {"x": X, "y": Y, "a": W, "b": W, **EPS, "diagonal": "mask", "tol": 1e-3},
    "drift": {
        **{"x": X, "y": Y, "x_other": X + 1, "a": W, "b": W, "a_other": W, "tol": 1e-3, "max_steps": 100},
        **{"epsilon": np.array([0.5, 1.0]), "epsilon_weights": np.array([0.4, 0.6]), "diagonal": "keep"},
    },
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
    "perturbed.alternate": {"cost": CUBE, "q": np.zeros((2, N), np.float32), **EPS, "lam": 0.2, "max_steps": 20},
    "perturbed.adversary": {"cost": CUBE, "state": PLAN, **EPS, "lam": 0.2},
    "perturbed.evaluate_payoff": {
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
    "perturbed.perturbation": {"cost": CUBE, "state": PLAN, **EPS, "lam": 0.2},
    "perturbed.perturbed_cost": {"cost": CUBE, "p": np.zeros((2, N), np.float32)},
    "structured.regulariser": {"density": np.ones_like(CUBE), **EPS, "lam": 0.2},
    "structured.run": {"cost": CUBE, **EPS, "lam": 0.2, "tol": 1e-2, "max_steps": 20},
    "structured.semidual": {"cost": CUBE, "f": np.zeros((2, 3), np.float32), **EPS, "lam": 0.2},
    "structured.value": {"cost": CUBE, **EPS, "lam": 0.2, "tol": 1e-2, "max_steps": 20},
    "structured.transform": {"cost": CUBE, "f": np.zeros((2, 3), np.float32), **EPS, "lam": 0.2},
    "data.about": {"data": og.data.Dataset(DIGITS, CODES)},
    "data.batches": {"key": KEY, "arrays": (X, CODES), "batch_size": 2, "start": 0, "stop": 2},
    "data.load": {"name": "digits", "split": "test", "data_dir": None, "cache_dir": None},
    "data.load from files": {"name": "mnist", "data_dir": "nowhere"},
    "data.sprites.indices": {"split": "test"},
    "data.stacked.load_split": {"split": "test", "mnist": lambda split: og.data.Dataset(DIGITS, CODES)},
    "data.wasserstein2.dims": {"data_dir": "nowhere"},
    "data.wasserstein2.input_law": {"dim": 2},
    "data.wasserstein2.inverse": {"benchmark": PAIR, "y": X, "tol": 1e-3, "max_steps": 20},
    "data.wasserstein2.load": {"dim": 2, "data_dir": "nowhere"},
    "data.wasserstein2.potential": {"benchmark": PAIR, "x": X},
    "data.wasserstein2.sample": {"key": KEY, "benchmark": PAIR, "num": 4},
    "data.wasserstein2.sample_target": {"key": KEY, "benchmark": PAIR, "num": 4},
    "data.wasserstein2.transport": {"benchmark": PAIR, "x": X},
    "distances.as_cost_fn": {"cost_fn": jnp.dot},
    "dual.objective": {"f": F, "g": F, "x": X, "y": Y, "a": W, "b": W, **EPS, "smoothing": "entropic"},
    "dual.semi_objective": {"f": F, "x": X, "y": Y, "a": W, "b": W, **EPS, "smoothing": "entropic"},
    "adapters.from_ott": {"geometry": None},
    "eval.beta_vae": {"key": KEY, **READER},
    "eval.bootstrap": {
        "key": KEY,
        "statistic": np.mean,
        "*": (F,),
        "repeats": 3,
        "level": 0.9,
        "method": "percentile",
    },
    "eval.digit_classifier": {"data_dir": "nowhere"},
    "eval.disentanglement": {"key": KEY, **READER, "trees": 1},
    "eval.factor_vae": {"key": KEY, **READER, "num_variance": 40, "least_sd": 0.1},
    "eval.extractor_of": {"dataset": "digits", "data_dir": None, "features": "auto"},
    "eval.inception": {"data_dir": "nowhere", "dim": 64, "piece": 8},
    "eval.inception_all": {"data_dir": "nowhere", "piece": 8},
    "eval.taef2": {"data_dir": "nowhere"},
    "eval.lenet": {"data_dir": "nowhere"},
    "eval.mixture_rate": {"features": X, "known": Y, "labels": CODES, "held_out": X + 1, "level": 0.05},
    "eval.mixture_score": {"features": X, "known": Y, "labels": CODES},
    "eval.moments_of": {"extractor": flat, "batches": [IMAGES]},
    "eval.over_draws": {"key": KEY, "judge": JUDGE, "draw": og.data.toy.two_moons, "draws": 2},
    "eval.stacked_labels": {"classify": logits, "images": np.repeat(IMAGES, 3, axis=3)},
    "eval.subset_divergence": {"key": KEY, "x": X, "y": Y, "num": 4, "repeats": 2, **EPS, "tol": 0.1},
    "explain": {"info": og.Status.CONVERGED},
    "mixture.as_mixture": {"name": "p", "mixture": MIX},
    "nn.taef2.load": {"folder": "nowhere"},
    "nn.critic.critic": {"image_shape": (8, 8, 1), "network": "mlp", "hidden": (4,), "width": 8},
    "plot.cells": {"state": SD, "y": Y, "resolution": 8, "angle": 1.0},
    "plot.colours": {"y": X},
    "plot.curves": {"curves": {"loss": [2.0, 1.0]}},
    "plot.diagnosis": {"report": REPORT},
    "plot.field": {"function": lambda x: 2 * x, "limits": (-1.0, 1.0), "resolution": 3},
    "plot.plan": {"x": X, "y": Y, "plan": MATRIX, "threshold": 0.1},
    "plot.potential": {
        "function": lambda x: x[:, 0],
        "limits": (-1.0, 1.0),
        "resolution": 3,
        "levels": 4,
    },
    "plot.table": {"rows": {"vae": {"loss": 1.0}}, "digits": 3},
    "train.mapped": {"step": step},
    "train.together": {"*": (print, None)},
    "train.train": {
        "step": step,
        "state": og.train.TrainState((), (), jnp.int32(0)),
        "batches": [F, F],
        "key": KEY,
        "log_every": 1,
        "save_every": 1,
        "steps_per_call": 1,
    },
    "perturbed.encoder_perturbation": {"log_q": np.log(Q), "code": np.array([0.5, 0.5], np.float32), "lam": 0.1},
}

WITHOUT = {  # what no row is for, by why
    "runs inside a caller's jit, unchecked": (
        "costs.product costs.along smoothing.hinge_level smoothing.log_mean_exp nn.augment.augment "
        "nn.velocity.context nn.velocity.as_label"
    ),
    "is that of another name": (
        "from_ott to_ott load save structured.perturbation structured.perturbed_cost structured.encoder_perturbation "
        "structured.alternate structured.adversary structured.evaluate_payoff"
    ),
    "takes nothing, or anything": (
        "data.is_own data.toy.eight_gaussians_centres data.toy.twenty_five_gaussians_centres plot.style train.averaged"
    ),
}
SORTS = {
    "eval.max_sliced_wp": {"p": "positive"},
    "eval.sliced_wp": {"p": "positive"},  # where the name does not tell
    "barycenter.cloud": {"masses": "arrays"},
    "data.about": {"data": "thing"},
    "data.batches": {"arrays": "arrays", "start": "count"},
    "coupling.batches": {"coupling": "thing", "repeats": "count", "pool": "count"},
    "coupling.SemiDiscrete": {"imbalance": "name"},
    "coupling.record": {"coupling": "thing"},
    "coupling.semidiscrete": {"imbalance": "name"},
    "coupling.from_map": {"transport": "thing", "data": "array"},
    "coupling.pair": {"step": "step"},
    "data.batch_index": {"step": "step"},
    "data.load": {"data_dir": "folder", "cache_dir": "folder"},
    "data.load from files": {"data_dir": "folder"},
    "data.wasserstein2.inverse": {"max_steps": "count"},
    "data.wasserstein2.dims": {"data_dir": "folder"},
    "data.wasserstein2.load": {"data_dir": "folder"},
    "distances.as_cost_fn": {"cost_fn": "function"},
    "adapters.from_ott": {"geometry": "thing"},
    "eval.beta_vae": {"sizes": "counts"},
    "eval.bootstrap": {"*": "arrays"},
    "eval.digit_classifier": {"data_dir": "path"},
    "eval.disentanglement": {"sizes": "counts"},
    "eval.extractor_of": {"dataset": "path", "data_dir": "folder", "features": "name"},
    "eval.factor_vae": {"sizes": "counts", "least_sd": "positive"},
    "eval.inception": {"data_dir": "path", "piece": "count"},
    "eval.inception_all": {"data_dir": "path", "piece": "count"},
    "eval.taef2": {"data_dir": "path"},
    "eval.lenet": {"data_dir": "path"},
    "eval.moments_of": {"extractor": "function", "batches": "iterable"},
    "eval.over_draws": {"judge": "thing", "draw": "function", "draws": "count"},
    "eval.stacked_labels": {"classify": "function"},
    "explain": {"info": "status"},
    "extension.check_form": {"angle": "positive"},
    "mixture.as_mixture": {"name": "nothing", "mixture": "thing"},
    "nn.taef2.load": {"folder": "path"},
    "nn.critic.critic": {"image_shape": "counts", "network": "name", "hidden": "counts", "width": "count"},
    "plot.cells": {"state": "thing", "angle": "positive"},
    "plot.curves": {"curves": "table"},
    "plot.diagnosis": {"report": "thing"},
    "plot.field": {"limits": "limits"},
    "plot.plan": {"threshold": "positive"},
    "plot.points": {"size": "positive"},
    "plot.potential": {"limits": "limits"},
    "plot.table": {"rows": "table", "digits": "count"},
    "train.together": {"*": "callbacks"},
    "train.mapped": {"step": "function"},
    "train.train": {
        "step": "function",
        "state": "thing",
        "batches": "iterable",
        "log_every": "count",
        "save_every": "count",
    },
}
ASKS_FOR_MORE = {  # than there is: files, or OTT-JAX; only what is refused is looked at
    "adapters.from_ott",
    "data.about",
    "data.load from files",
    "data.wasserstein2.dims",
    "data.wasserstein2.load",
    "eval.digit_classifier",
    "eval.inception",
    "eval.inception_all",
    "eval.taef2",
    "eval.lenet",
    "nn.taef2.load",
}
UNREAD = {
    ("semidiscrete.step", "y"),  # belongs inside the caller's jit, where values are not looked at
    ("plot.image_grid", "images"),  # drawn as gaps
    ("plot.traversal", "images"),
    ("plot.points", "x"),
}


FUNCTIONS = dict(public())


def function_of(name):
    return FUNCTIONS[name.partition(" ")[0]]


def test_every_public_function_is_here():
    without = {name for names in WITHOUT.values() for name in names.split()}
    functions = {
        name
        for name, it in FUNCTIONS.items()
        if not inspect.isclass(it) and not name.startswith(("models.", "maps.", "store."))
    }
    here = {name.partition(" ")[0] for name in VALID}
    assert not functions - here - without, "give these a valid call in VALID"
    assert not (without | here) - set(FUNCTIONS), "these are gone"


def test_of_every_argument_is_known_what_is_wrong():
    found = {(name, it) for name in VALID for it in unsorted(function_of(name), VALID[name], SORTS.get(name))}
    assert not found, "give these a sort, here or in tests.support.wrong"


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
    "data.wasserstein2.inverse",
    "eval.diagnose",
    "eval.memorisation",
    "eval.mixture_rate",
    "eval.neighbour_scores",
    "eval.subset_divergence",
    "eval.subset_w2_sq",
    "semidiscrete.carried",
    "semidiscrete.run",
    "structured.run",
}


@pytest.mark.parametrize("name", [pytest.param(it, marks=[pytest.mark.slow] * (it in LONG)) for it in sorted(VALID)])
def test_wrong_arguments_are_refused_in_words(name):
    found = list(refusals(name, function_of(name), VALID[name], SORTS.get(name)))
    assert not found, "\n".join(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(VALID) - ASKS_FOR_MORE))
def test_results_do_not_depend_on_how_arrays_are_given(name):
    found = list(results(name, function_of(name), VALID[name], UNREAD, SORTS.get(name)))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", ["coupling.nearest", "eval.mig", "exact.plan", "semidiscrete.assign"])
def test_bytes_in_another_order_are_read(name):
    found = list(results(name, FUNCTIONS[name], VALID[name], UNREAD, SORTS.get(name)))
    assert not found, "\n".join(found)


TAKES_A_COST = [name for name in VALID if "cost" in VALID[name] and not name.startswith("adapters")]


@pytest.mark.parametrize("name", TAKES_A_COST)
def test_a_matrix_is_a_cost(name):
    """Of NumPy, of JAX or as a DenseCost; for codes and noises the matrix without noise."""
    arguments = VALID[name]
    if name.startswith(("structured.", "perturbed.")):
        arguments = {it: _of_one_noise(value) for it, value in arguments.items()}
        costs = arguments["cost"], arguments["cost"][:, 0], jnp.asarray(arguments["cost"][:, 0])
    else:
        matrix = arguments["cost"] if isinstance(arguments["cost"], np.ndarray) else MATRIX
        costs = matrix, jnp.asarray(matrix), og.DenseCost(matrix)
    function = FUNCTIONS[name.partition(" ")[0]]
    first, *others = (jax.tree.leaves(function(**{**arguments, "cost": cost})) for cost in costs)
    for other in others:
        for one, same in zip(first, other, strict=True):
            np.testing.assert_array_equal(one, same)


def _of_one_noise(value):
    if isinstance(value, og.structured.State):
        return value._replace(f=value.f[:, :1])
    noisy = isinstance(value, np.ndarray) and value.shape[:2] == CUBE.shape[:2]
    return value[:, :1] if noisy else value


def test_networks_are_there_before_the_models_are():
    names = "og.nn.critic.critic, og.nn.potentials.Convex, og.nn.augment.augment, og.nn.velocity.Velocity"
    program = f"import sys, otgen as og; {names}; assert 'otgen.models' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
