"""Checks of the mapped training step, of checkpoints, and a short training of every model."""

from __future__ import annotations

import functools
import importlib
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gpu_check.base import Context, Result, Skipped, judged, norm_error
from experiments.gpu_check.resumed import STEPS
from experiments.lab.machine import DETERMINISTIC

MODELS = (
    "ae_ot",
    "ae_ot_gan",
    "latent_ot",
    "informative_gan",
    "info_gan",
    "vae",
    "wae_mmd",
    "wgan_gp",
    "flow",
    "bures_linear",
    "neural_map.lp",
    "neural_map.icnn",
)


def images_of(rng: np.random.Generator, num: int, side: int) -> np.ndarray:
    """Draw images [num, side, side, 1], uint8: a bright spot of random place and width on black."""
    place = rng.uniform(0.3, 0.7, size=(num, 2, 1, 1)) * side
    width = rng.uniform(0.08, 0.16, size=(num, 1, 1)) * side
    row, column = np.mgrid[:side, :side]
    squares = (row - place[:, 0]) ** 2 + (column - place[:, 1]) ** 2
    return np.round(255 * np.exp(-0.5 * squares / width**2))[..., None].astype(np.uint8)


def parallel_step(context: Context) -> Result:
    """Five training steps mapped over all local devices equal those of jit on the whole batch."""
    from otgen.models.baselines import vae
    from otgen.train import mapped

    if jax.device_count() == 1:
        raise Skipped("there is one device, and on one the engine's step is the jitted one itself")
    rows, count = context.size(32, 8) * jax.local_device_count(), 5
    images = images_of(context.rng("parallel"), rows, context.size(28, 8))
    key = context.key("parallel")
    module, start = vae.init(key, vae.Config(latent_dim=8, hidden=(64, 32)), images, 40)
    step = vae.make_step(module, 40)
    with jax.default_matmul_precision("highest"):
        ends, losses = [], []
        for run in (jax.jit(step), mapped(step)):
            state, history = start, []
            for _ in range(count):
                state, metrics = run(state, images, key)
                history.append(float(metrics["loss"]))
            ends.append([np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(state.params)])
            losses.append(np.array(history))
    begin = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(start.params)]

    def distance(left, right) -> float:
        return math.sqrt(sum(float(((a - b) ** 2).sum()) for a, b in zip(left, right, strict=True)))

    numbers = {
        "devices": jax.local_device_count(),
        "loss_difference": float(np.max(np.abs(losses[0] - losses[1]) / np.abs(losses[0]))),
        "parameter_difference": distance(*ends) / distance(ends[0], begin),
    }
    return judged(numbers, at_most={"loss_difference": 1e-4, "parameter_difference": 0.02})


def checkpoint(context: Context) -> Result:
    """A state on the accelerator, saved by Orbax and restored, is the same to the bit and on the same devices."""
    importlib.import_module("orbax.checkpoint")
    from otgen.models.baselines import vae
    from otgen.train import Checkpoints, mapped

    rows = 8 * jax.local_device_count()
    images, key = images_of(context.rng("checkpoint"), rows, 8), context.key("checkpoint")
    module, state = vae.init(key, vae.Config(latent_dim=4, hidden=(16,)), images, 40)
    state, _ = mapped(vae.make_step(module, 40))(state, images, key)
    with tempfile.TemporaryDirectory() as folder, Checkpoints(folder, {}) as checkpoints:
        checkpoints.save(1, state)
        restored = checkpoints.restore(state)
    pairs = list(zip(jax.tree.leaves(state), jax.tree.leaves(restored), strict=True))
    numbers = {
        "arrays": len(pairs),
        "changed": sum(not np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs),
        "elsewhere": sum(a.devices() != b.devices() for a, b in pairs),
    }
    return judged(numbers, at_most={"changed": 0, "elsewhere": 0}, at_least={"arrays": 4})


def resume(context: Context) -> Result:
    """A fit that is stopped and goes on in another process gives the bits of one that is not, in deterministic mode."""
    if jax.default_backend() == "tpu":
        raise Skipped("a TPU serves one process at a time")
    flags = f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC}".strip()
    space = {"XLA_FLAGS": flags, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # this process holds most of the memory
    found: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for part in ("begin", "end"):
            command = [sys.executable, "-m", "experiments.gpu_check.resumed", folder, part]
            done = subprocess.run(command, env={**os.environ, **space}, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"the fit ended with {done.returncode}: {done.stderr[-400:]}")
            found.append(dict(line.rsplit(" ", 1) for line in done.stdout.splitlines()))
        saved = sorted(
            int(path.name) for path in Path(folder, "stopped", "autoencoder").iterdir() if path.name.isdigit()
        )
    whole, again = found
    numbers = {"arrays": len(whole), "changed": sum(again.get(name) != value for name, value in whole.items())}
    numbers["went_on_from"] = min(saved)
    return judged(numbers, at_most={"changed": 0, "went_on_from": STEPS - 1}, at_least={"arrays": 8})


class Watch:
    """A callback that keeps metrics and times."""

    def __init__(self):
        self.seen: list[tuple[int, float, dict[str, float]]] = []

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        self.seen.append((step, time.perf_counter(), dict(metrics)))

    def of(self, name: str) -> list[float]:
        """The values of a metric."""
        return [metrics[name] for _, _, metrics in self.seen if name in metrics]

    def per_second(self, name: str = "") -> float:
        """Steps a second between the first report (of a metric, if one is named) and the last: after compilation."""
        seen = [one for one in self.seen if not name or name in one[2]]
        (first, begin, _), (last, end, _) = seen[0], seen[-1]
        return (last - first) / (end - begin)

    def change(self, name: str) -> Result:
        """The first value of a metric, its last, and their ratio."""
        values = self.of(name)
        last = statistics.mean(values[-2:])
        return {f"{name}_at_start": values[0], f"{name}_at_end": last, "ratio": last / values[0]}


def _networks(context: Context) -> Result:
    """Networks, images and steps of a smoke training."""
    return context.size(
        {"network": "conv", "width": 32, "latent_dim": 16, "batch_size": 240},
        {"network": "mlp", "hidden": (64, 32), "latent_dim": 4, "batch_size": 40},
    )


def _steps(context: Context) -> int:
    """Steps of a model of images: few, as convolutions compile for long and all checks have minutes."""
    return context.size(60, 50)


def _images(context: Context) -> np.ndarray:
    return images_of(context.rng("images"), *context.size((2400, 28), (480, 8)))


def _mean_gap(samples: Any, images: np.ndarray) -> float:
    """Distance of the mean images, over the norm of that of the data."""
    mean = images.mean(0, dtype=np.float64) / 255
    return float(np.linalg.norm(np.asarray(samples, np.float64).mean(0) - mean) / np.linalg.norm(mean))


def train_generator(context: Context, name: str) -> Result:
    """Some steps of a model of images; the loss falls, or, of a game, the mean image comes nearer to that of the data.

    Steps are taken by the library's loop on all local devices, and images drawn from what it leaves.
    """
    from otgen import models
    from otgen.models.apply import Model, sample
    from otgen.train.loop import train_on
    from otgen.train.settings import rows_of

    model, images, num_steps = getattr(models, name), _images(context), _steps(context)
    faster = {"critic_rate": 2e-3, "learning_rate": 3e-3} if name == "info_gan" else {}  # its own are for long runs
    config = model.Config(**_networks(context), **faster)
    keys = jax.random.split(context.key(name), 4)
    extra = {"unit": model.unit_of(images)} if name == "informative_gan" else {}
    batches = getattr(config, "dual_steps", None)
    batches = getattr(config, "critic_steps", 1) if batches is None else batches + 1
    rows = rows_of(config, len(images), batches)
    module, state = model.init(keys[0], config, images[:1], num_steps, **extra)
    game = hasattr(state, "generator")

    def draws(state: Any) -> jax.Array:
        params = {"generator": state.generator.average} if game else state.params
        return sample(keys[3], Model(module, {"params": params}), 256)

    before, watch = _mean_gap(draws(state), images), Watch()
    options = {"num_steps": num_steps, "batch_size": rows, "callback": watch, "log_every": 5}
    state = train_on((images,), model.make_step(module, num_steps), state, tuple(keys[1:3]), **options)
    after = draws(state)
    numbers = {
        "steps": num_steps,
        "images_per_s": rows * watch.per_second(),
        "mean_image_at_start": before,
        "mean_image_at_end": _mean_gap(after, images),
        "finite": float(jnp.isfinite(after).all()),
    }
    numbers |= {"ratio": numbers["mean_image_at_end"] / before} if game else watch.change("loss")
    return judged(numbers, at_most={"ratio": 0.9}, at_least={"finite": 1})


@functools.lru_cache(maxsize=1)
def _trained_ae_ot(context: Context) -> tuple[Any, Watch, float]:
    """AE-OT on the images: the model, what its training reported, and seconds of the transport."""
    from otgen.models import ae_ot

    images, watch = _images(context), Watch()
    fields = _networks(context)
    config = ae_ot.Config(**fields, epochs=50 * fields["batch_size"] / len(images))
    first, second = jax.random.split(context.key("ae_ot"))
    module, params = ae_ot.train_autoencoder(first, images, config, callback=watch, log_every=5)
    begin = time.perf_counter()
    variables, info = ae_ot.solve(second, module, params, images)
    return ae_ot.Model(module, variables, None, info), watch, time.perf_counter() - begin


def train_ae_ot(context: Context) -> Result:
    """The autoencoder's loss falls, the transport of its codes converges, and images can be drawn."""
    from otgen.models import ae_ot

    model, watch, seconds = _trained_ae_ot(context)
    draws = ae_ot.sample(context.key("draws"), model, 256)
    numbers = {
        "images_per_s": _networks(context)["batch_size"] * watch.per_second(),
        **watch.change("loss"),
        "transport_seconds_with_compilation": seconds,
        "transport_status": int(model.info.status),
        "transport_chi2": float(model.info.chi2),
        "mean_image": _mean_gap(draws, _images(context)),
        "finite": float(jnp.isfinite(draws).all()),
    }
    return judged(numbers, at_most={"ratio": 0.9, "transport_status": 0}, at_least={"finite": 1})


def train_ae_ot_gan(context: Context) -> Result:
    """The last stage of an AE-OT-GAN: its content loss on known codes falls, and images can be drawn."""
    from otgen.models import ae_ot_gan

    base, images, watch = _trained_ae_ot(context)[0], _images(context), Watch()
    rows = _networks(context)["batch_size"]
    options = {"batch_size": rows, "epochs": 100 * rows / len(images), "warmup": 10, "average": 0.9}
    options |= {"learning_rate": 1e-3, "content_weight": 2.0}  # quick to show on the pixels, in so few steps
    model = ae_ot_gan.refine(context.key("gan"), base, images, callback=watch, log_every=5, **options)
    draws = ae_ot_gan.sample(context.key("draws"), model, 256)
    numbers = {
        "images_per_s": rows * watch.per_second("content"),
        **watch.change("content"),
        "mean_image": _mean_gap(draws, images),
        "finite": float(jnp.isfinite(draws).all()),
    }
    return judged(numbers, at_most={"ratio": 1.0, "mean_image": 1.0}, at_least={"finite": 1})


def train_latent_ot(context: Context) -> Result:
    """Latent-space OT by c-transforms: the autoencoder's loss falls, the map trains, and images can be drawn."""
    from otgen.models import latent_ot

    images, watch, of_map = _images(context), Watch(), Watch()
    fields = _networks(context)
    options = {"num_steps": 50, "batch_size": fields["batch_size"], "updates_per_call": 1, "hidden": (64, 64)}
    config = latent_ot.Config(**fields, epochs=50 * fields["batch_size"] / len(images), solver_options=options)
    first, second = jax.random.split(context.key("latent_ot"))
    params = latent_ot.train_autoencoder(first, images, config, callback=watch, log_every=5)
    model = latent_ot.solve(second, params, images, config, callback=of_map)
    draws = latent_ot.sample(context.key("draws"), model, 256)
    numbers = {
        "images_per_s": fields["batch_size"] * watch.per_second(),
        **watch.change("loss"),
        "map_updates_per_s": of_map.per_second(),
        "map_objective": of_map.of("objective")[-1],
        "mean_image": _mean_gap(draws, images),
        "finite": float(jnp.isfinite(draws).all()),
    }
    return judged(numbers, at_most={"ratio": 0.9}, at_least={"finite": 1})


def _codes(context: Context) -> np.ndarray:
    """Codes [N, 8] in four clusters, standardised."""
    rng, num = context.rng("codes"), context.size(4096, 512)
    codes = 2 * rng.normal(size=(4, 8))[rng.integers(0, 4, num)] + rng.normal(size=(num, 8))
    return ((codes - codes.mean(0)) / codes.std(0)).astype(np.float32)


def train_map(context: Context, solver: str) -> Result:
    """Some updates of a learned map to codes; what it sends has their second moments about right."""
    from otgen.maps import neural_map

    codes, watch, count = _codes(context), Watch(), 50
    rows = context.size(512, 64)
    fields = {"num_steps": count, "batch_size": rows, "updates_per_call": 1, "hidden": (64, 64)}
    found = neural_map.fit(context.key(solver), None, codes, solver=solver, callback=watch, **fields)
    draws = neural_map.sample(context.key("draws"), found, 2048)
    exact, cov = np.cov(codes.T), np.cov(np.asarray(draws, np.float64).T)
    numbers = {
        "updates": count,
        "codes_per_s": rows * watch.per_second(),
        **{f"{name}_at_end": value for name, value in watch.seen[-1][2].items()},
        "covariance_error": norm_error(cov, exact),
        "finite": float(jnp.isfinite(draws).all()),
    }
    return judged(numbers, at_most={"covariance_error": 1.0}, at_least={"finite": 1})


def train_flow(context: Context) -> Result:
    """Some steps of the flow, on independent pairs and on those of a plan; the loss falls, and codes can be drawn."""
    from otgen.models import flow
    from otgen.ot import coupling
    from otgen.train.loop import train

    codes, count, rows = jnp.asarray(_codes(context)), 100, context.size(512, 256)
    couplings = {"independent": coupling.Independent(codes), "sinkhorn": coupling.Sinkhorn(codes)}
    numbers: Result = {"steps": count}
    for name, pairs in couplings.items():
        config = flow.Config(width=context.size(256, 64), learning_rate=3e-3, num_steps=count, batch_size=rows)
        keys, watch = jax.random.split(context.key(name), 4), Watch()
        module, state = flow.init(keys[0], config, codes.shape[1:])
        feed = coupling.batches(pairs, keys[1], rows, num=count)
        state = train(flow.make_step(module, config), state, feed, keys[2], callback=watch, log_every=5)
        draws = flow.sample(keys[3], flow.Flow(module, {"params": state.average}, config), 512)
        found = {**watch.change("loss"), "codes_per_s": rows * watch.per_second()}
        numbers |= {f"{name}_{score}": value for score, value in found.items()}
        numbers[f"{name}_finite"] = float(jnp.isfinite(draws).all())
    return judged(
        numbers,
        at_most={f"{name}_ratio": 0.95 for name in couplings},
        at_least={f"{name}_finite": 1 for name in couplings},
    )


def train_bures_linear(context: Context) -> Result:
    """The linear generator reaches the minimum known in closed form."""
    from otgen.models import bures_linear

    images, watch = _images(context), Watch()
    begin = time.perf_counter()
    model = bures_linear.fit(context.key("bures_linear"), images, rank=context.size(20, 5), callback=watch)
    numbers = {
        "seconds_with_compilation": time.perf_counter() - begin,
        "steps": int(model.info.num_steps),
        "loss": float(model.info.loss),
        "minimum": float(model.info.minimum),
        "error": float(model.info.error),
        "status": int(model.info.status),
        "mean_image": _mean_gap(bures_linear.sample(context.key("draws"), model, 4096), images),
    }
    return judged(numbers, at_most={"status": 0, "error": 1e-4, "mean_image": 0.2})


SPECIAL = {
    "ae_ot": train_ae_ot,
    "ae_ot_gan": train_ae_ot_gan,
    "latent_ot": train_latent_ot,
    "flow": train_flow,
    "bures_linear": train_bures_linear,
    "neural_map.lp": functools.partial(train_map, solver="lp"),
    "neural_map.icnn": functools.partial(train_map, solver="icnn"),
}
TRAININGS: dict[str, Callable[[Context], Result]] = {
    f"train.{name}": SPECIAL.get(name, functools.partial(train_generator, name=name)) for name in MODELS
}
