"""What trains the variants and the baselines of the informative OT-GAN experiment, on one budget of operations."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from otgen.models import ae_ot as autoencoder
from otgen.models import baselines
from otgen.models.baselines import wgan_gp
from otgen.models.informative import info_gan, informative_gan
from otgen.train.budget import flops
from otgen.train.settings import GeneratorSettings

BASELINES = ("infogan", "wgan_gp")
_CODE_EPOCHS = 12  # of the autoencoder whose codes are in the ground cost


def training(config: Any, group: str, seed: int, images: np.ndarray) -> tuple[Any, int]:
    """Return what trains a variant, `fit(callback=, checkpoints=)`, and its number of steps."""
    key = jax.random.key(seed)
    settings, steps = config.settings("default" if group in BASELINES else group)
    settings = settings.fitting(len(images))
    rows = settings.batch_size * (settings.dual_steps + 1)
    if group not in BASELINES:
        fields = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
        fields["epochs"] = steps * rows / len(images)
        if settings.ground == "features":
            return functools.partial(_fit_on_codes, key, images, fields), steps
        return functools.partial(informative_gan.fit, key, images, **fields), steps
    example = jnp.asarray(images[:1])
    budget = steps * _flops(informative_gan, settings, example, rows, unit=informative_gan.unit_of(images))
    shared = {"output": settings.output, "network": settings.network, "hidden": settings.hidden}
    shared |= {"width": settings.width}
    if group == "wgan_gp":
        wanted = GeneratorSettings(**shared, latent_dim=settings.latent.dim)
        chosen = baselines.image_config("wgan_gp", wanted, example, len(images), budget)
        fields = {field.name: getattr(chosen, field.name) for field in dataclasses.fields(chosen)}
        return functools.partial(wgan_gp.fit, key, images, **fields), baselines.steps_of(chosen, len(images))
    code = {name: getattr(settings, name) for name in ("categorical", "uniform", "normal", "latent_dim")}
    chosen = info_gan.Config(**shared, **code)
    rows = min(chosen.batch_size, len(images)) * chosen.critic_steps
    steps = max(1, round(budget / _flops(info_gan, chosen, example, rows)))
    fields = {field.name: getattr(chosen, field.name) for field in dataclasses.fields(chosen)}
    fields["epochs"] = steps * rows / len(images)
    return functools.partial(info_gan.fit, key, images, **fields), steps


def _fit_on_codes(key: Any, images: np.ndarray, fields: dict[str, Any], **watch: Any) -> informative_gan.Model:
    """Train with a ground cost of pixels and an autoencoder's codes; the autoencoder is trained first."""
    networks = {name: fields[name] for name in ("network", "hidden", "width", "latent_dim")}
    config = autoencoder.Config(**networks, epochs=_CODE_EPOCHS)
    module, params = autoencoder.train_autoencoder(jax.random.fold_in(key, 1), images, config)
    params = jax.tree.map(np.asarray, params)  # constants of the step: no device's own

    def codes(images: Any) -> Any:
        return module.apply({"params": params}, images, method="encode")

    return informative_gan.fit(key, images, features=codes, **watch, **fields)


def _flops(model: Any, settings: Any, example: Any, rows: int, **options: Any) -> float:
    """Floating-point operations of a training step."""
    key = jax.random.key(0)
    module, state = model.init(key, settings, example, 100, **options)
    batch = jnp.zeros((rows, *example.shape[1:]), example.dtype)
    return flops(model.make_step(module, 100), state, batch, key)
