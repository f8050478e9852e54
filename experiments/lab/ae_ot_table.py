"""The table and the figures of the AE-OT experiment on images."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab import figures as figures_of
from experiments.lab import own_images
from experiments.lab.judge import codes_of, judged
from experiments.lab.machine import clock
from experiments.lab.sets import Draw, chosen, drawn_from
from otgen import eval as evaluate
from otgen import optional, plot
from otgen.data import Dataset
from otgen.models import ae_ot, flow
from otgen.nn import to_unit
from otgen.ot import coupling, latent
from otgen.train import Checkpoints, Progress
from otgen.types import Array, Key

HEADERS = {
    "frechet": "Frechet",
    "frechet_sd": "+-",
    "kid": "KID",
    "class_tv": "class TV",
    "lmem": "lmem",
    "precision": "prec",
    "recall": "recall",
    "coverage": "coverage",
    "images_per_second": "images/s",
}
REAL, RECONSTRUCTED = "real training images", "reconstructed test images"
GAUSSIAN, NEIGHBOURS, FLOW = "Gaussian in the latent", "3-NN interpolation of codes", "flow in the codes"
_CLASSES = 20  # rows in the figure of classes


def names(config: Any) -> list[str]:
    """Return the names of all rows that the options ask for; fewer Gaussians are mixed of few codes."""
    forms = config.forms.split(",")
    off = [f"AE-OT, {form}, filter off" for form in forms] if len(forms) > 1 and config.features != "inception" else []
    known = [REAL, RECONSTRUCTED, *(f"AE-OT, {form}" for form in forms), *off, GAUSSIAN]
    return [
        *known,
        f"mixture of {config.mixture_components} Gaussians",
        NEIGHBOURS,
        *([FLOW] if config.flow_steps else []),
    ]


def rows(config: Any, model: ae_ot.Model, train: Dataset, test: Dataset) -> dict[str, Callable[[], Draw]]:
    """Return the laws that can be compared: by name what makes a function (key, num) -> images in [0, 1]."""
    transport = model.variables["transport"]
    codes = transport["codes"]

    def decoded(draw: Draw) -> Draw:
        def images(key: Key, num: int) -> Array:
            return ae_ot.decode(model.module, model.variables, draw(key, num) * transport["scale"] + transport["mean"])

        return images

    def extended(form: str, angle: float | None) -> Callable[[], Draw]:
        return lambda: lambda key, num: ae_ot.sample(key, model, num, form=form, angle=angle)

    found: dict[str, Callable[[], Draw]] = {
        REAL: lambda: drawn_from(train.images),
        RECONSTRUCTED: lambda: lambda key, num: _reconstruct(model, _others(test.images, num)),
    }
    forms = config.forms.split(",")
    found |= {f"AE-OT, {form}": extended(form, None) for form in forms}
    if len(forms) > 1 and config.features != "inception":  # minutes a row
        found |= {f"AE-OT, {form}, filter off": extended(form, math.pi) for form in forms}
    components = min(config.mixture_components, len(codes) // 2)
    found[GAUSSIAN] = lambda: decoded(_gaussian(codes))
    found[f"mixture of {components} Gaussians"] = lambda: decoded(_mixture(codes, components, config.seed))
    found[NEIGHBOURS] = lambda: decoded(_interpolate(codes))
    if config.flow_steps:
        found[FLOW] = lambda: decoded(_flow(config, transport))
    return found


def _others(images: np.ndarray, num: int) -> np.ndarray:
    """Return held-out images after the first `num`, which the judge knows; the first where too few are left."""
    return images[num : 2 * num] if len(images) >= 2 * num else images[:num]


def _reconstruct(model: ae_ot.Model, images: np.ndarray) -> Array:
    return ae_ot.decode(model.module, model.variables, ae_ot.encode(model.module, model.variables, images))


def _gaussian(codes: Array) -> Draw:
    mean, covariance = codes.mean(0), jnp.atleast_2d(jnp.cov(codes.T))
    return lambda key, num: jax.random.multivariate_normal(key, mean, covariance, (num,), method="eigh")


def _mixture(codes: Array, components: int, seed: int) -> Draw:
    with optional.imports():
        from sklearn.mixture import GaussianMixture

    most = 20_000  # codes the mixture is fitted to
    fitted = GaussianMixture(components, max_iter=50, reg_covar=1e-4, random_state=seed)
    fitted.fit(np.asarray(codes, np.float64)[:most])

    def draw(key: Key, num: int) -> Array:
        fitted.random_state = int(jax.random.randint(key, (), 0, 2**31 - 1))
        return jnp.asarray(fitted.sample(num)[0], jnp.float32)

    return draw


def _interpolate(codes: Array) -> Draw:
    def draw(key: Key, num: int) -> Array:
        code_key, neighbour_key, place_key = jax.random.split(key, 3)
        first = codes[np.asarray(chosen(code_key, len(codes), num))]
        _, near = evaluate.nearest(first, codes, 4)
        other = jnp.take_along_axis(near, jax.random.randint(neighbour_key, (num, 1), 1, 4), axis=1)[:, 0]
        share = jax.random.uniform(place_key, (num, 1))
        return first + share * (codes[other] - first)

    return draw


def _flow(config: Any, transport: dict[str, Array]) -> Draw:
    """Return a flow that is trained on the pairs of the model's own transport."""
    width = math.sqrt(3)  # the uniform law on [-width, width] has variance 1; AE-OT's noise is in [-1/2, 1/2]
    sampler = latent.Uniform(-width, width)
    pairs = coupling.SemiDiscrete(transport["codes"], 2 * width * transport["h"], sampler=sampler)
    size = {"width": 512, "num_steps": config.flow_steps, "batch_size": 512, "learning_rate": 2e-3}
    key = jax.random.fold_in(jax.random.key(config.seed), 4)
    identity = {**config.identity(), "flow_steps": config.flow_steps}
    saved = Checkpoints(config.folder() / "checkpoints" / "flow", identity)
    with saved as checkpoints, Progress(config.flow_steps, "flow", config.progress) as bar:
        more = {"coupling": pairs, "callback": bar, "checkpoints": checkpoints}
        model = flow.fit(key, transport["codes"], **more, **size)
    return lambda key, num: flow.sample(key, model, num)


def judge_of(config: Any, model: ae_ot.Model, train: Dataset, test: Dataset, **options: Any) -> evaluate.Judge:
    """Return a judge that measures memorisation in the codes of the model itself; options as in `otgen.eval.Judge`."""
    num = config.num_eval if config.features == "auto" else config.feature_images
    options = {"num": num, "data_dir": config.data_dir, **options}
    options.setdefault("codes", model.variables["transport"]["codes"])
    options.setdefault("features", own_images.features(config, train.images.shape[1:]))
    return evaluate.Judge(config.dataset, train, test, codes_of(model), **options)


def table(config: Any, model: ae_ot.Model, train: Dataset, test: Dataset) -> dict[str, Any]:
    """Score every row by its mean and standard deviation over the draws."""
    judge = judge_of(config, model, train, test, neighbours=True)
    draws = config.draws if config.features == "auto" else 1
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    scored, rates, classes = {}, {}, {}
    wanted = {name: make for name, make in rows(config, model, train, test).items() if config.wants(name)}
    for name, make in wanted.items():
        draw = make()
        spent: list[float] = []

        def timed(key: Key, num: int, draw: Draw = draw, spent: list[float] = spent) -> Array:
            seconds, images = clock(lambda: draw(key, num))
            spent.append(seconds)
            return images

        found = judged(judge, key, timed, 1 if name.startswith("reconstructed") else draws, name, config.progress)
        scored[name] = {**found["mean"], "frechet_sd": found["sd"]["frechet"], "draws": len(spent)}
        if len(spent) == 1:  # which compiled
            timed(key, judge.num)
        rates[name] = round(judge.num / min(spent))
        classes[name] = found["class_shares"]
    return {
        "features": judge.name,
        "images_per_draw": judge.num,
        "classifier": {"kind": judge.classifier, "test_accuracy": judge.accuracy},
        "rows": scored,
        "class_shares": classes,
        "images_per_second": rates,
    }


def about(config: Any, model: ae_ot.Model) -> dict[str, Any]:
    """Return what a run is known by, scored or not, and how its transport was solved."""
    known = {name: float(value) for name, value in model.info._asdict().items()}
    known |= {"angle": float(model.variables["transport"]["angle"]), "masses": unseen(config, model)}
    dataset = own_images.label(config.dataset)
    return {"dataset": dataset, "seed": config.seed, "transport": known, "figure": "samples.png"}


def unseen(config: Any, model: ae_ot.Model, num: int = 2**20) -> dict[str, float]:
    """Return cells that 2^20 fresh samples miss, beside how many they would miss if all masses were right."""
    transport = ae_ot.map_of(model)
    size = len(transport.y)
    num = min(num, 64 * size)
    masses = transport.masses(jax.random.fold_in(jax.random.key(config.seed), 2), num)
    num = -(-num // 65536) * 65536 if num >= 65536 else num
    return {"samples": num, "unseen": int(jnp.sum(masses == 0)), "expected_unseen": size * (1 - 1 / size) ** num}


def _draws(results: dict[str, Any]) -> str:
    most = max(scores["draws"] for scores in results["rows"].values())
    return f"{most} draw{'s' if most > 1 else ''} of {results['images_per_draw']} images a row"


def in_words(results: dict[str, Any]) -> str:
    """Return the results as a table to print."""
    if "masses" not in results["transport"]:  # a toy
        return "\n".join(f"{name}: {value}" for name, value in results.items() if name != "figure")
    chi2 = f"chi2 of the transport {results['transport']['chi2']:.3g} +- {results['transport']['chi2_error']:.1g}"
    if "rows" not in results:
        return f"{results['dataset']}, not scored, {chi2}"
    lines = [
        f"{results['dataset']}, features: {results['features']}, {_draws(results)}, {chi2}",
        f"{'':32s}" + "".join(f"{header:>11s}" for header in HEADERS.values()),
    ]
    for name, scores in results["rows"].items():
        scores = {**scores, "images_per_second": results["images_per_second"][name]}
        cells = ("" if (value := scores.get(column)) is None else f"{value:.4g}" for column in HEADERS)
        lines.append(f"{name:32s}" + "".join(f"{cell:>11s}" for cell in cells))
    lines.append("seconds: " + ", ".join(f"{stage} {value:.0f}" for stage, value in results["seconds"].items()))
    return "\n".join(lines)


def figures(config: Any, folder: Path, model: ae_ot.Model, train: Dataset, test: Dataset) -> None:
    """Draw samples, reconstructions, nearest neighbours and classes; of several forms also the filter on and off."""
    key = jax.random.fold_in(jax.random.key(config.seed), 3)

    def grid(name: str, images: Any, columns: int, size: tuple[float, float], title: str = "") -> None:
        drawn = figures_of.sheet({title: images}, lambda ax, name, x: plot.image_grid(x, columns, ax, name), 1, size)
        figures_of.save(drawn, folder / name, bbox_inches="tight")

    samples = ae_ot.sample(key, model, 100)
    grid("samples.png", samples, 10, (6, 6))

    if len(forms := config.forms.split(",")) > 1:
        filtered = {
            f"{form}, angle filter {word}": ae_ot.sample(key, model, 64, form=form, angle=angle)
            for form in forms
            for word, angle in (("on", None), ("off", math.pi))
        }
        drawn = figures_of.sheet(filtered, lambda ax, name, images: plot.image_grid(images, 8, ax, name), 2, (4, 4.2))
        figures_of.save(drawn, folder / "filter.png", bbox_inches="tight")

    columns = min(10, len(test.images))
    shown = test.images[: min(40, len(test.images) // columns * columns)]
    pairs = np.stack([np.asarray(to_unit(shown)), np.asarray(_reconstruct(model, shown))])
    pairs = pairs.reshape(2, -1, columns, *shown.shape[1:]).swapaxes(0, 1)
    layout = pairs.reshape(-1, *shown.shape[1:])
    grid("reconstructions.png", layout, columns, (6, 5), "test images (odd rows) and reconstructions")

    _, near = evaluate.nearest(codes_of(model)(samples[:10]), model.variables["transport"]["codes"], 7)
    beside = to_unit(train.images[np.asarray(near).reshape(-1)]).reshape(10, 7, *train.images.shape[1:])
    layout = np.concatenate([np.asarray(samples[:10])[:, None], np.asarray(beside)], axis=1)
    layout = layout.reshape(-1, *train.images.shape[1:])
    grid("nearest.png", layout, 8, (5, 6), "samples (left) and nearest training images")

    if model.labels is not None:
        classes = np.unique(np.asarray(model.labels)).tolist()[:_CLASSES]
        images = [ae_ot.sample(jax.random.fold_in(key, label), model, 10, label=label) for label in classes]
        grid("classes.png", jnp.concatenate(images), 10, (6, 6), "sampled by class, one class a row")
