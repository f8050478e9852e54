"""The table and the figures of the AE-OT experiment on images."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.judge import Judge
from otgen import eval as evaluate
from otgen import plot
from otgen.data import Dataset
from otgen.models import ae_ot
from otgen.nn import to_unit
from otgen.ot import semidiscrete
from otgen.types import Array, Key

HEADERS = {
    "frechet": "Frechet",
    "frechet_sd": "+-",
    "class_tv": "class TV",
    "lmem": "lmem",
    "precision": "prec",
    "recall": "recall",
    "images_per_second": "images/s",
}


def rows(
    config: Any, model: ae_ot.Model, train: Dataset, test: Dataset
) -> Iterator[tuple[str, Callable[[Key, int], Array]]]:
    """The laws compared: a name, and a function (key, num) -> images in [0, 1]."""
    transport = model.variables["transport"]
    codes = transport["codes"]

    def decoded(draw: Callable[[Key, int], Array]) -> Callable[[Key, int], Array]:
        def images(key: Key, num: int) -> Array:
            return ae_ot.decode(model.module, model.variables, draw(key, num) * transport["scale"] + transport["mean"])

        return images

    def extended(form: str, angle: float | None) -> Callable[[Key, int], Array]:
        return lambda key, num: ae_ot.sample(key, model, num, form=form, angle=angle)

    yield "real training images", lambda key, num: to_unit(train.images[_choose(key, len(train.images), num)])
    yield "reconstructed test images", lambda key, num: _reconstruct(model, test.images[:num])
    yield "AE-OT, local", extended("local", None)
    yield "AE-OT, pairs", extended("pairs", None)
    yield "AE-OT, simplex", extended("simplex", None)
    yield "AE-OT, local, filter off", extended("local", math.pi)
    yield "AE-OT, pairs, filter off", extended("pairs", math.pi)
    yield "AE-OT, simplex, filter off", extended("simplex", math.pi)
    yield "Gaussian in the latent", decoded(_gaussian(codes))
    yield f"mixture of {config.mixture_components} Gaussians", decoded(_mixture(codes, config))
    yield "3-NN interpolation of codes", decoded(_interpolate(codes))


def _choose(key: Key, total: int, num: int) -> np.ndarray:
    return np.asarray(jax.random.choice(key, total, (num,), replace=num > total))


def _reconstruct(model: ae_ot.Model, images: np.ndarray) -> Array:
    return ae_ot.decode(model.module, model.variables, ae_ot.encode(model.module, model.variables, images))


def _gaussian(codes: Array) -> Callable[[Key, int], Array]:
    mean, covariance = codes.mean(0), jnp.atleast_2d(jnp.cov(codes.T))
    return lambda key, num: jax.random.multivariate_normal(key, mean, covariance, (num,), method="eigh")


def _mixture(codes: Array, config: Any) -> Callable[[Key, int], Array]:
    from sklearn.mixture import GaussianMixture

    most = 20_000  # codes the mixture is fitted to
    fitted = GaussianMixture(config.mixture_components, max_iter=50, reg_covar=1e-4, random_state=config.seed)
    fitted.fit(np.asarray(codes, np.float64)[:most])

    def draw(key: Key, num: int) -> Array:
        fitted.random_state = int(jax.random.randint(key, (), 0, 2**31 - 1))
        return jnp.asarray(fitted.sample(num)[0], jnp.float32)

    return draw


def _interpolate(codes: Array) -> Callable[[Key, int], Array]:
    def draw(key: Key, num: int) -> Array:
        code_key, neighbour_key, place_key = jax.random.split(key, 3)
        first = codes[_choose(code_key, len(codes), num)]
        _, near = evaluate.nearest(first, codes, 4)
        chosen = jnp.take_along_axis(near, jax.random.randint(neighbour_key, (num, 1), 1, 4), axis=1)[:, 0]
        share = jax.random.uniform(place_key, (num, 1))
        return first + share * (codes[chosen] - first)

    return draw


def judge_of(config: Any, model: ae_ot.Model, train: Dataset, test: Dataset, neighbours: bool = True) -> Judge:
    """A judge that measures memorisation in the codes of the model itself; `neighbours` as in Judge."""
    transport = model.variables["transport"]

    def encode(images: Array) -> Array:
        return (ae_ot.encode(model.module, model.variables, images) - transport["mean"]) / transport["scale"]

    rest = {"num": config.num_eval, "data_dir": config.data_dir, "neighbours": neighbours}
    return Judge(config.dataset, train, test, encode, **rest)


def table(config: Any, model: ae_ot.Model, train: Dataset, test: Dataset) -> dict[str, Any]:
    """Score every row by its mean and standard deviation over the draws."""
    judge = judge_of(config, model, train, test)
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    scored, rates, classes = {}, {}, {}
    for name, draw in rows(config, model, train, test):
        every, shares, spent = [], [], []
        for i in range(1 if name.startswith("reconstructed") else config.draws):
            start = time.perf_counter()
            images = jax.block_until_ready(draw(jax.random.fold_in(key, i), judge.num))
            spent.append(time.perf_counter() - start)
            scores, share = judge(images)
            every.append(scores)
            shares.append(np.asarray(share))
        values = {column: float(np.mean([scores[column] for scores in every])) for column in every[0]}
        sd = float(np.std([scores["frechet"] for scores in every], ddof=1)) if len(every) > 1 else None
        scored[name] = {**values, "frechet_sd": sd, "draws": len(every)}
        rates[name] = round(judge.num / min(spent))
        classes[name] = [round(float(share), 4) for share in np.mean(shares, axis=0)]
    info = model.info
    return {
        "dataset": config.dataset,
        "seed": config.seed,
        "features": judge.name,
        "images_per_draw": judge.num,
        "classifier": {"kind": judge.classifier, "test_accuracy": judge.accuracy},
        "transport": {
            **{name: float(value) for name, value in info._asdict().items()},
            "angle": float(model.variables["transport"]["angle"]),
            "masses": unseen(config, model),
        },
        "rows": scored,
        "class_shares": classes,
        "images_per_second": rates,
        "figure": "samples.png",
    }


def unseen(config: Any, model: ae_ot.Model, num: int = 2**20) -> dict[str, float]:
    """Cells that 2^20 fresh samples miss, beside how many they would miss if all masses were right."""
    transport = model.variables["transport"]
    size = len(transport["codes"])
    num = min(num, 64 * size)
    state = semidiscrete.from_heights(transport["h"])
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    masses = semidiscrete.masses(key, state, transport["codes"], num)
    num = -(-num // 65536) * 65536 if num >= 65536 else num
    return {"samples": num, "unseen": int(jnp.sum(masses == 0)), "expected_unseen": size * (1 - 1 / size) ** num}


def in_words(results: dict[str, Any]) -> str:
    """The results as a table to print."""
    if "rows" not in results:
        return "\n".join(f"{name}: {value}" for name, value in results.items() if name != "figure")
    lines = [
        f"{results['dataset']}, features: {results['features']}, {results['images_per_draw']} images per draw, "
        f"chi2 of the transport {results['transport']['chi2']:.3g} +- {results['transport']['chi2_error']:.1g}",
        f"{'':32s}" + "".join(f"{header:>10s}" for header in HEADERS.values()),
    ]
    for name, scores in results["rows"].items():
        scores = {**scores, "images_per_second": results["images_per_second"][name]}
        cells = ("" if (value := scores[column]) is None else f"{value:.4g}" for column in HEADERS)
        lines.append(f"{name:32s}" + "".join(f"{cell:>10s}" for cell in cells))
    lines.append("seconds: " + ", ".join(f"{stage} {value:.0f}" for stage, value in results["seconds"].items()))
    return "\n".join(lines)


def figures(config: Any, folder: Path, model: ae_ot.Model, train: Dataset, test: Dataset) -> None:
    """Draw samples, the filter on and off, reconstructions, nearest neighbours and classes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    key = jax.random.fold_in(jax.random.key(config.seed), 3)

    def save(name: str, figure: Any) -> None:
        figure.savefig(folder / name, dpi=150, bbox_inches="tight")
        plt.close(figure)

    samples = ae_ot.sample(key, model, 100)
    figure, ax = plt.subplots(figsize=(6, 6))
    plot.image_grid(samples, 10, ax)
    save("samples.png", figure)

    figure, axes = plt.subplots(2, 2, figsize=(8, 8.4), layout="constrained")
    for row, form in zip(axes, ("pairs", "simplex"), strict=True):
        for ax, angle, word in zip(row, (None, math.pi), ("on", "off"), strict=True):
            images = ae_ot.sample(key, model, 64, form=form, angle=angle)
            plot.image_grid(images, 8, ax, f"{form}, angle filter {word}")
    save("filter.png", figure)

    shown = test.images[:40]
    pairs = np.stack([np.asarray(to_unit(shown)), np.asarray(_reconstruct(model, shown))])
    layout = np.concatenate([np.concatenate([pairs[0, i : i + 10], pairs[1, i : i + 10]]) for i in range(0, 40, 10)])
    figure, ax = plt.subplots(figsize=(6, 5))
    plot.image_grid(layout, 10, ax, "test images (odd rows) and reconstructions")
    save("reconstructions.png", figure)

    transport = model.variables["transport"]
    codes = (ae_ot.encode(model.module, model.variables, samples[:10]) - transport["mean"]) / transport["scale"]
    _, near = evaluate.nearest(codes, transport["codes"], 7)
    beside = to_unit(train.images[np.asarray(near).reshape(-1)]).reshape(10, 7, *train.images.shape[1:])
    layout = np.concatenate([np.asarray(samples[:10])[:, None], np.asarray(beside)], axis=1)
    figure, ax = plt.subplots(figsize=(5, 6))
    plot.image_grid(layout.reshape(-1, *train.images.shape[1:]), 8, ax, "samples (left) and nearest training images")
    save("nearest.png", figure)

    if model.labels is not None:
        classes = np.unique(np.asarray(model.labels)).tolist()
        images = [ae_ot.sample(jax.random.fold_in(key, label), model, 10, label=label) for label in classes]
        figure, ax = plt.subplots(figsize=(6, 6))
        plot.image_grid(jnp.concatenate(images), 10, ax, "sampled by class, one class a row")
        save("classes.png", figure)
