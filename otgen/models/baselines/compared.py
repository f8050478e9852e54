"""Generative models by name, trained with the same networks on the same budget of floating-point operations.

The budget is that of so many epochs of the autoencoder. A model of images (vae, wae_mmd, wgan_gp, sinkhorn_generator)
spends all of it on its networks. A law of codes (ae_*) may spend a third of it, beside the autoencoder that was trained
with the rest: on training samples of the transport, or steps of the flow or the generator. A Gaussian and a mixture
need less.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from otgen.models import ae_ot, flow, sinkhorn_generator
from otgen.models.baselines import latent_law, vae, wae_mmd, wgan_gp
from otgen.ot import coupling
from otgen.ot.check import as_count, as_points, native, require_choice, require_kind, require_positive
from otgen.ot.gaussian import mixture
from otgen.ot.semidiscrete import extension
from otgen.progress import watched
from otgen.train.budget import flops
from otgen.train.loop import check_readers
from otgen.train.settings import GeneratorSettings, Settings, num_steps_of, rows_of
from otgen.types import Array, Callback, Key

Draw = Callable[[Key, int], Array]

IMAGES: dict[str, Any] = {"vae": vae, "wae_mmd": wae_mmd, "wgan_gp": wgan_gp, "sinkhorn_generator": sinkhorn_generator}
CODES = ("ae_ot", "ae_gaussian", "ae_gmm", "ae_flow", "ae_flow_ot", "ae_sinkhorn")
NAMES = (*CODES, *IMAGES)
EVALUATIONS = (1, 2, 4, 8, 32)  # of the velocity, from noise to a draw of a flow
_FLOW = {"batch_size": 256, "learning_rate": 4e-3, "average": 0.995, "repeats": 2}


def budget_of(settings: Settings, example: Array, num_images: int, epochs: float) -> float:
    """Return the floating-point operations of so many epochs of the autoencoder.

    Args:
      settings: its networks.
      example: one image [1, h, w, c].
      num_images: images in an epoch.
      epochs: passes over them.

    Example:
      >>> settings = og.models.vae.Config(latent_dim=2, hidden=(16,), batch_size=10)
      >>> once = og.models.baselines.budget_of(settings, jnp.zeros((1, 8, 8, 1)), 100, 1)
      >>> print(og.models.baselines.budget_of(settings, jnp.zeros((1, 8, 8, 1)), 100, 3) / once)
      3.0
    """
    require_kind("settings", settings, Settings), require_positive("epochs", epochs), as_count("num_images", num_images)
    config = ae_ot.Config(**_fields(settings, Settings))
    return epochs * num_images * _per_image(ae_ot, config, example, rows_of(config, num_images))


def _per_image(model: Any, config: Settings, example: Array, rows: int) -> float:
    """Return operations of a training step over the images that it uses."""
    key, example = jax.random.key(0), jnp.asarray(native("example", example))
    module, state = model.init(key, config, example, 100)
    batch = jnp.zeros((rows, *example.shape[1:]), example.dtype)
    return flops(model.make_step(module, 100), state, batch, key) / rows


def _fields(settings: Settings, kind: type) -> dict[str, Any]:
    return {field.name: getattr(settings, field.name) for field in dataclasses.fields(kind)}


def image_config(name: str, settings: GeneratorSettings, example: Array, num_images: int, budget: float) -> Settings:
    """Return the configuration of a model of images whose training takes `budget` operations.

    Networks and output are those of `settings`; batch size, learning rate and the rest are the model's own.

    Raises:
      ValueError: for an unknown name.

    Example:
      >>> settings = og.models.vae.Config(latent_dim=2, hidden=(16,), batch_size=10)
      >>> budget = og.models.baselines.budget_of(settings, jnp.zeros((1, 8, 8, 1)), 100, 5)
      >>> config = og.models.baselines.image_config("vae", settings, jnp.zeros((1, 8, 8, 1)), 100, budget)
      >>> print(type(config).__name__, config.hidden, bool(config.epochs > 1))
      Config (16,) True
    """
    require_choice("name", name, tuple(IMAGES)), require_kind("settings", settings, GeneratorSettings)
    require_positive("budget", budget)
    model = IMAGES[name]
    own = {"batch_size", "learning_rate", "epochs"}
    shared = {key: value for key, value in _fields(settings, GeneratorSettings).items() if key not in own}
    if name == "wgan_gp" and settings.output == "real":
        shared["penalty"] = 0.1  # what Gulrajani et al. take for points of the plane; 10 is for images
    config = model.Config(**shared)
    cost = _per_image(model, config, example, _rows_of(config, num_images))
    return dataclasses.replace(config, epochs=budget / (num_images * cost))


def steps_of(config: Settings, num_images: int) -> int:
    """Return steps of the training of a model of images.

    Example:
      >>> config = og.models.wgan_gp.Config(epochs=3, batch_size=10, critic_steps=2)
      >>> print(og.models.baselines.steps_of(config, 100))  # 20 images a step
      15
    """
    return num_steps_of(config, num_images, _rows_of(config, num_images))


def _rows_of(config: Settings, num_images: int) -> int:
    """Return images of a step."""
    return rows_of(config, num_images, getattr(config, "critic_steps", getattr(config, "batches", 1)))


@watched
def fit_images(
    name: str, key: Key, images: Any, config: Settings, *, callback: Callback | None = None, checkpoints: Any = None
) -> Draw:
    """Train a model of images and return what draws images [n, h, w, c] from it; as `vae.fit`, without labels.

    Example:
      >>> images = og.data.load("digits").images[:64]
      >>> config = og.models.vae.Config(latent_dim=2, hidden=(16,), epochs=1)
      >>> draw = og.models.baselines.fit_images("vae", jax.random.key(0), images, config)
      >>> print(draw(jax.random.key(1), 3).shape)
      (3, 8, 8, 1)
    """
    check_readers(callback, checkpoints)
    require_choice("name", name, tuple(IMAGES)), require_kind("config", config, IMAGES[name].Config)
    fields = _fields(config, type(config))
    trained = IMAGES[name].fit(key, images, callback=callback, checkpoints=checkpoints, **fields)
    return lambda key, num: IMAGES[name].sample(key, trained, num)


@watched
def fit_codes(
    name: str,
    seed: int,
    codes: Array,
    budget: float,
    *,
    callback: Callback | None = None,
    checkpoints: Any = None,
) -> tuple[dict[str, Draw], dict[str, Any]]:
    """Fit a law to standardised codes [N, d].

    Args:
      name: one of CODES.
      seed: of everything random.
      codes: [N, d].
      budget: floating-point operations of the training of the transport or the flow (at least one step is taken). The
        transport that pairs noise and codes of ae_flow_ot is not counted, but is among the facts; nor are the plans of
        batches of ae_sinkhorn, the cell centres of ae_ot and the iterations of ae_gmm.
      callback: called with steps and metrics.
      checkpoints: a folder, or `train.Checkpoints`, to save in and to go on from, bit-identically.

    Returns:
      What draws codes [n, d], by the name of the form (one for each form of the extended map, and for each number of
      evaluations of a flow), and facts worth noting.

    Raises:
      ValueError: for an unknown name, a budget that is not positive, or codes that are not [N, d] and finite.

    Example:
      >>> codes = jax.random.normal(jax.random.key(0), (1000, 2))
      >>> draws, about = og.models.baselines.fit_codes("ae_gaussian", 0, codes, 1e6)
      >>> print({name: draw(jax.random.key(1), 5).shape for name, draw in draws.items()})
      {'ae_gaussian': (5, 2)}
    """
    require_choice("name", name, CODES), require_positive("budget", budget), check_readers(callback, checkpoints)
    codes = as_points("codes", codes)
    key = jax.random.fold_in(jax.random.key(as_count("seed", seed, 0)), CODES.index(name))
    if name == "ae_ot":
        return _transport(key, codes, budget, callback, checkpoints)
    if name in ("ae_gaussian", "ae_gmm"):
        law, scores = (latent_law.gaussian(codes), {}) if name == "ae_gaussian" else latent_law.mixture(seed, codes)
        notes = {"components": len(law.weights), "held_out_log_likelihood": {str(k): v for k, v in scores.items()}}
        return {name: lambda key, num: mixture.sample(key, law, num)}, notes
    if name == "ae_sinkhorn":
        config = _generator_config(codes, budget)
        told = {"callback": callback, "checkpoints": checkpoints, **_fields(config, sinkhorn_generator.Config)}
        model = sinkhorn_generator.fit(key, codes, **told)
        about = {"steps": steps_of(config, len(codes))}
        return {name: lambda key, num: sinkhorn_generator.sample(key, model, num)}, about
    return _flow(key, codes, budget, name, callback, checkpoints)


def _transport(
    key: Key, codes: Array, budget: float, callback: Callback | None, checkpoints: Any
) -> tuple[dict[str, Draw], dict[str, Any]]:
    """Return the draws of the solved map; a training sample costs one product of 2 N d operations."""
    most = max(int(budget / (2 * codes.size)), 2048)
    law, info = latent_law.transport(key, codes, max_samples=most, callback=callback, checkpoints=checkpoints)

    def draw(form: str) -> Draw:
        return lambda key, num: law.sample(key, num, form=form)

    notes = {**{name: float(value) for name, value in info._asdict().items()}, "angle": float(law.extension.angle)}
    return {f"ae_ot, {form}": draw(form) for form in extension.FORMS}, notes


def _flow(
    key: Key, codes: Array, budget: float, name: str, callback: Callback | None, checkpoints: Any
) -> tuple[dict[str, Draw], dict[str, Any]]:
    """Return the draws of a flow in few evaluations of its velocity: one by Euler's method, more by the midpoint's."""
    config = _flow_config(codes, budget)
    paired = "semidiscrete" if name == "ae_flow_ot" else "independent"
    options = {"coupling": paired, "callback": callback, "checkpoints": checkpoints}
    model = flow.fit(key, codes, **options, **_fields(config, flow.Config))

    def draw(nfe: int) -> Draw:
        steps = {"method": "euler", "num_steps": 1} if nfe == 1 else {"method": "midpoint", "num_steps": nfe // 2}
        return lambda key, num: flow.sample(key, model, num, **steps)

    notes = {"steps": config.num_steps}
    if model.info is not None:
        notes |= {field: float(getattr(model.info, field)) for field in ("chi2", "num_samples", "status")}
        notes["transport_flops"] = notes["num_samples"] * 2 * codes.size
    return {f"{name}, NFE {nfe}": draw(nfe) for nfe in EVALUATIONS}, notes


def _generator_config(codes: Array, budget: float) -> sinkhorn_generator.Config:
    own = {"hidden": (512,) * 4, "learning_rate": 3e-3, "output": "real"}
    config = sinkhorn_generator.Config(codes.shape[1], **own)
    cost = _per_image(sinkhorn_generator, config, codes[:1, :, None, None], _rows_of(config, len(codes)))
    return dataclasses.replace(config, epochs=budget / (len(codes) * cost))


def _flow_config(codes: Array, budget: float) -> flow.Config:
    """Return a flow whose training takes a budget of operations."""
    rows = min(_FLOW["batch_size"], len(codes))
    config = flow.Config(**{**_FLOW, "batch_size": rows})
    module, state = flow.init(jax.random.key(0), config, codes.shape[1:])
    batch = coupling.Independent(codes[:rows]).pair(jax.random.key(0), rows)
    cost = flops(flow.make_step(module, config), state, batch, jax.random.key(0))
    return dataclasses.replace(config, num_steps=max(1, round(budget / cost)))
