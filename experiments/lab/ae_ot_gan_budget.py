"""Floating-point operations of the stages of AE-OT-GAN: what its rivals may spend."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from otgen.models import ae_ot, ae_ot_gan, baselines
from otgen.train.budget import flops
from otgen.train.settings import GeneratorSettings

_SHARED = ("latent_dim", "network", "hidden", "width", "epochs", "learning_rate", "batch_size")


def settings_of(base: ae_ot.Config) -> GeneratorSettings:
    """Return networks and training of a rival like those of the AE-OT."""
    return GeneratorSettings(**{name: getattr(base, name) for name in _SHARED})


def autoencoder(base: ae_ot.Config, images: np.ndarray) -> float:
    """Return operations of the first stage on images [n, h, w, c]."""
    return baselines.budget_of(settings_of(base), jnp.asarray(images[:1]), len(images), base.epochs)


def gan(config: ae_ot_gan.Config, model: ae_ot.Model, images: np.ndarray) -> float:
    """Return operations of the last stage on an AE-OT: its steps, and the products of new codes with all others.

    XLA counts one block of those products, so they are added; the block is counted twice. The measured gradients of the
    warm-up are left out, and so is the transport, which every row of AE-OT shares.
    """
    num_steps, key = ae_ot_gan.num_steps_of(config, len(images)), jax.random.key(0)
    module, state, fixed = ae_ot_gan.init(key, config, model, num_steps)
    rows = ae_ot_gan.rows_of(config, len(images))
    batch = jnp.zeros((rows, *images.shape[1:]), images.dtype)
    steps = (ae_ot_gan.make_step(module, num_steps, phase=phase) for phase in ("critic", "both"))
    judged, played = (flops(step, state, batch, key, fixed) for step in steps)
    products = 2.0 * (rows // 2) * fixed["transport"]["codes"].size
    return (num_steps - config.warmup) * played + config.warmup * judged + num_steps * products
