"""How good the samples and the codes of an informative generator are, and what simpler methods reach."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.informative_gan_sets import Sets
from experiments.lab.sets import drawn_from
from otgen import eval as evaluate
from otgen import optional
from otgen.data import sprites, toy
from otgen.models.apply import sample
from otgen.models.informative import code_reading, informative_gan
from otgen.nn import to_unit
from otgen.ot.gaussian import frechet_distance
from otgen.types import Array, Key

REFERENCE = "reference"
COLUMNS = {  # of the table
    "accuracy_test": "accuracy of the code",
    "accuracy_plan": "from the plan",
    "nmi": "NMI(code, class)",
    "information": "I(c; x), nats",
    "frechet": "Frechet",
    "precision": "precision",
    "recall": "recall",
    "faint": "faint, %",
    "filled": "filled, %",
    "modes": "modes",
    "share_3sd": "within 3 sd",
    "within_sd": "within-mode sd",
    "mig": "MIG",
    "factor_vae": "FactorVAE",
    "sap": "SAP",
    "dci_disentanglement": "DCI",
    "seconds": "seconds",
}
PLANE = np.linspace(-2.8, 2.8, 57)  # coordinates of the maps of the ground cost
_TAIL = 1e-3  # share of test images that is called faint, and filled
_PLAN = 2000  # data whose codes are inferred from the plan
_SPECTRAL = 10_000
_FACTORS = 120  # rows, at the least, that classifiers of a factor's 40 values are trained on


def reference(seed: int, sets: Sets, *, num: int, draws: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Score real training data like samples, and cluster the data by k-means and spectrally.

    Returns:
      Rows of the table, and arrays for the figures.
    """
    key = jax.random.fold_in(jax.random.key(seed), 3000)
    draw = drawn_from(sets.train.images)
    rows = {"real training data": _sample_scores(key, draw, sets, num, draws)}
    if sets.dataset in ("digits", "mnist", "fashion_mnist"):
        for name, accuracy in _clusterings(seed, sets).items():
            rows[name] = {"accuracy_test": accuracy}
    return rows, {"images": draw(key, 100)}


def _clusterings(seed: int, sets: Sets) -> dict[str, float]:
    """Return the accuracy of clusters of pixels, after the best matching."""
    with optional.imports():
        from sklearn.cluster import KMeans, SpectralClustering

    number = len(np.unique(sets.train.labels))
    pixels = np.asarray(evaluate.pixels(to_unit(sets.train.images)))
    found = KMeans(number, n_init=3, random_state=seed).fit(pixels)
    test = np.asarray(evaluate.pixels(to_unit(sets.test.images)))
    accuracies = {"k-means of pixels": evaluate.matched_accuracy(found.predict(test), sets.test.labels)}
    subset = np.random.default_rng(seed).permutation(len(pixels))[:_SPECTRAL]
    spectral = SpectralClustering(number, affinity="nearest_neighbors", n_neighbors=10, random_state=seed, n_jobs=1)
    name = f"spectral clustering of {len(subset):,} images"
    accuracies[name] = evaluate.matched_accuracy(spectral.fit_predict(pixels[subset]), sets.train.labels[subset])
    return {name: float(value) for name, value in accuracies.items()}


def scores_of(key: Key, model: Any, sets: Sets, *, num: int, draws: int) -> tuple[dict[str, Any], np.ndarray | None]:
    """Score the samples and the codes of a trained generator.

    Returns:
      Numbers for the table, and the values of the first categorical part in the order of the classes that they match.
    """
    scores = _sample_scores(key, lambda key, num: sample(key, model, num), sets, num, draws)
    if not hasattr(model.module.config, "latent"):
        return scores, None
    order = None
    if model.module.config.latent.categorical:
        code_scores, order = _code_scores(key, model, sets)
        scores |= code_scores
    if sets.dataset == "dsprites":
        scores |= _disentanglement(key, model, num)
    return scores, order


def pictures(key: Key, model: Any, sets: Sets, order: np.ndarray | None = None) -> dict[str, Any]:
    """Return arrays for the figures of a trained generator, values of the code in an order, else in their own."""
    shown: dict[str, Any] = {"images": sample(key, model, 100)}
    if not hasattr(model.module.config, "latent"):
        return shown
    latent, values = model.module.config.latent, [None]
    if latent.categorical:
        order = np.arange(latent.categorical[0]) if order is None else order
        shown["codes"] = code_reading.of_each_code(key, model, 400 if sets.is_ring else 12)[order]
        shown |= _costs_of_a_latent(key, model) if sets.is_ring else {}
        values = order.tolist()
    for part in range(latent.continuous):
        name, steps = f"continuous {part}", np.linspace(-1.0, 1.0, 9) * (1 if part < latent.uniform else 2)
        shown[name] = jnp.stack([code_reading.traverse(key, model, name, steps, 1, value)[:, 0] for value in values])
    return shown


def _sample_scores(key: Key, draw: Any, sets: Sets, num: int, draws: int) -> dict[str, float]:
    """Return means over draws of distances to the test data."""
    found = []
    for i in range(draws):
        images = draw(jax.random.fold_in(key, i), num)
        if sets.is_ring:
            centres, deviation = toy.centres_of("eight_gaussians")
            modes = evaluate.mode_scores(images[:, 0, 0], centres, deviation)
            found.append({name: getattr(modes, name) for name in ("modes", "share_3sd", "within_sd")})
            continue
        features, real = sets.features(images), sets.real(num)
        scores = evaluate.neighbour_scores(real, features)
        scores = {"frechet": frechet_distance(features, real), "precision": scores.precision, "recall": scores.recall}
        found.append(scores | _odd(images, to_unit(sets.test.images[:num])))
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def _odd(images: Array, real: Array) -> dict[str, float]:
    """Return percentages of images fainter than all but a thousandth of the real ones, and with more ink.

    Faint: by the mean of the brightest tenth of the pixels. Ink: by the mean of all pixels.
    """
    values = [np.sort(np.asarray(evaluate.pixels(of)), axis=1) for of in (images, real)]
    bright = [of[:, -max(1, of.shape[1] // 10) :].mean(1) for of in values]
    ink = [of.mean(1) for of in values]
    faint = np.mean(bright[0] < np.quantile(bright[1], _TAIL))
    return {"faint": 100 * float(faint), "filled": 100 * float(np.mean(ink[0] > np.quantile(ink[1], 1 - _TAIL)))}


def _code_scores(key: Key, model: Any, sets: Sets) -> tuple[dict[str, float], np.ndarray]:
    """How well the first categorical part tells the classes, of data (by the encoder, by the plan) and of samples.

    Returns:
      Numbers for the table, and the values of the part in the order of their classes.
    """
    size, scores = model.module.config.latent.categorical[0], {}
    for name, part in (("train", sets.train), ("test", sets.test)):
        codes = np.asarray(code_reading.predict(model, part.images).probabilities[0].argmax(1))
        scores[f"accuracy_{name}"] = evaluate.matched_accuracy(codes, part.labels)
        scores["nmi"] = evaluate.nmi(codes, part.labels)
    classes = 1 + int(max(sets.train.labels.max(), sets.test.labels.max()))
    order = _matching(codes, np.asarray(sets.test.labels), size, classes)
    if isinstance(model, informative_gan.Model):
        data_shown = sets.test.images[:_PLAN]
        config = model.module.config
        number, half = (max(most - most % config.batch_size, config.batch_size) for most in (_PLAN, _PLAN // 2))
        plan = code_reading.posterior(key, model, data_shown, number)
        found = np.asarray(plan.probabilities[0].argmax(1))
        scores["accuracy_plan"] = evaluate.matched_accuracy(found, sets.test.labels[:_PLAN])
        scores["information"] = code_reading.information(plan)[0]
        if config.objective == "encoder" and config.smoothing == "entropic":
            gap = code_reading.duality_gap(key, model, data_shown[:half], half)
            scores["gap"] = gap.gap
    if sets.is_ring:  # codes are read off the samples, whose modes are known
        codes, noise = model.module.config.latent.sample(key, 10_000)
        points = model.module.apply(model.variables, codes, noise, method="decode")[:, 0, 0]
        near = jnp.sum((points[:, None] - toy.eight_gaussians_centres()) ** 2, axis=-1).argmin(1)
        scores["nmi"] = evaluate.nmi(codes.categories[:, 0], near)
    return {name: float(value) for name, value in scores.items()}, order


def _costs_of_a_latent(key: Key, model: Any) -> dict[str, Any]:
    """Return the ground cost of one latent over the plane, the perturbed one, and its point; nothing for a baseline."""
    if not isinstance(model, informative_gan.Model):
        return {}
    plane = jnp.stack(jnp.meshgrid(PLANE, PLANE), axis=-1).reshape(-1, 1, 1, 2)
    number = model.module.config.batch_size
    coupling, _ = code_reading.couple(key, model, plane, number)
    at = plane[coupling.cost[0, 0].argmin(), 0, 0]
    shape = len(PLANE), len(PLANE)
    return {"cost": coupling.cost[0, 0].reshape(shape), "perturbed": coupling.perturbed[0, 0].reshape(shape), "at": at}


def _matching(codes: np.ndarray, labels: np.ndarray, size: int, classes: int) -> np.ndarray:
    """Return the values of a code in the order of the classes that they match."""
    from scipy.optimize import linear_sum_assignment

    table = np.zeros((max(size, classes), size))
    np.add.at(table, (labels, codes), 1)
    return linear_sum_assignment(-table)[1][: min(size, len(table))]


def _disentanglement(key: Key, model: Any, num: int) -> dict[str, float]:
    """Return scores of the encoder's codes against the factors of sprites."""

    def codes_of(factors: np.ndarray) -> np.ndarray:
        reading = code_reading.predict(model, sprites.render(factors))
        return np.asarray(jnp.concatenate([*reading.probabilities, reading.mean], axis=1))

    num = max(num, _FACTORS)
    return evaluate.disentanglement(key, codes_of, sprites.SIZES, num_train=num, num_eval=num // 2)
