"""The variational autoencoder, with the networks of the other models: a baseline.

Minimises the negative evidence bound E_q(z|x)[-log p(x|z)] + beta KL(q(z|x) | N(0, I)), with a Gaussian q of diagonal
covariance. With labels y the decoder is p(x|z, y), and the encoder, which sees the class in the image, stays as it is.

Reference: Kingma and Welling (2014), arXiv 1312.6114; the learned scale of the Gaussian likelihood: Rybkin, Daniilidis
and Levine (2021), arXiv 2006.13202.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from otgen.models.apply import Model, as_batch
from otgen.models.apply import sample as sample
from otgen.models.classes import beside, check_classes, collection_of, drawn, example_of, parted
from otgen.models.fitting import check_start, check_step, fit_generator
from otgen.nn.autoencoder import decoder, encoder
from otgen.nn.pixels import pixels_of, reconstruction_loss
from otgen.ot.check import as_array, as_count, require_kind
from otgen.progress import watched
from otgen.train.descent import descend
from otgen.train.parallel import normals
from otgen.train.settings import GeneratorSettings, adam, made
from otgen.train.state import TrainState, start
from otgen.types import Array, Callback, Key


@dataclasses.dataclass(frozen=True)
class Config(GeneratorSettings):
    """What makes a variational autoencoder, beside `GeneratorSettings`.

    Attributes:
      beta: weight of the divergence from the prior.

    Example:
      >>> config = og.models.vae.Config(latent_dim=2, hidden=(16,), epochs=3)
      >>> print(config.latent_dim, config.network)
      2 mlp
    """

    beta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.positive("beta")


class VAE(nn.Module):
    """Encoder to the mean and log-variance of a code, decoder, and the prior N(0, I).

    Attributes:
      image_shape: (height, width, channels).
      config: see Config.
      num_classes: classes of its images; 0 without labels.

    Example:
      >>> module = og.models.vae.VAE((8, 8, 1), og.models.vae.Config(latent_dim=2, hidden=(16,)))
      >>> print(module.image_shape, module.config.latent_dim)
      (8, 8, 1) 2
    """

    image_shape: tuple[int, int, int]
    config: Config
    num_classes: int = 0

    def setup(self) -> None:
        c = self.config
        self.encoder = encoder(self.image_shape, 2 * c.latent_dim, *c.networks())
        self.decoder = decoder(self.image_shape, *c.networks())
        self.log_scale = self.param("log_scale", nn.initializers.zeros, ())

    def __call__(self, images: Array, noise: Array, classes: Array | None = None) -> tuple[Array, Array, Array]:
        """Last layer of the decoder [n, h, w, c], and mean and log-variance [n, d], of images with noise [n, d]."""
        mean, log_variance = self.posterior(images)
        codes = mean + jnp.exp(0.5 * log_variance) * noise
        return self.decoder(beside(self, codes, classes)), mean, log_variance

    def posterior(self, images: Array) -> tuple[Array, Array]:
        """Return mean and log-variance [n, d] of the codes of images [n, h, w, c]."""
        mean, log_variance = jnp.split(self.encoder(images), 2, axis=1)
        return mean, log_variance

    def encode(self, images: Array) -> Array:
        """Return mean codes [n, d] of images [n, h, w, c]."""
        return self.posterior(images)[0]

    def decode(self, codes: Array, classes: Array | None = None) -> Array:
        """Return images [n, h, w, c] of codes [n, d] and classes [n]."""
        return pixels_of(self.decoder(beside(self, codes, classes)), self.config.output)

    def sample(self, key: Key, num: int, of_class: Array | None = None) -> Array:
        """Draw images [num, h, w, c], of one class or all: means of the likelihood at codes of the prior."""
        return self.decode(jax.random.normal(key, (num, self.config.latent_dim)), drawn(self, key, num, of_class))


def loss(
    params: Any, module: VAE, images: Array, noise: Array, classes: Array | None = None
) -> tuple[Array, dict[str, Array]]:
    """Return the mean over images of the negative evidence bound in nats, and metrics.

    Args:
      params: parameters of the module.
      module: the model.
      images: uint8, or floats, [n, h, w, c].
      noise: standard normal [n, d].
      classes: numbers [n] of the classes, from 0; None where the module has none.

    Returns:
      Loss; metrics `loss` and its parts `reconstruction` and `divergence`.

    Example:
      >>> config = og.models.vae.Config(latent_dim=2, hidden=(16,))
      >>> module, state = og.models.vae.init(jax.random.key(0), config, jnp.zeros((1, 8, 8, 1)), num_steps=10)
      >>> loss, metrics = og.models.vae.loss(state.params, module, jnp.zeros((4, 8, 8, 1)), jnp.zeros((4, 2)))
      >>> print(loss.shape, bool(loss > 0))  # nats an image
      () True
    """
    require_kind("module", module, VAE)
    images, config = as_batch(module, images), module.config
    noise = as_array("noise", noise, (len(images), config.latent_dim), finite=False)
    check_classes(module, classes, len(images))
    outputs, mean, log_variance = module.apply({"params": params}, images, noise, classes)
    fit = reconstruction_loss(outputs, images, config.output, params["log_scale"]).mean()
    divergence = 0.5 * jnp.sum(mean**2 + jnp.exp(log_variance) - 1 - log_variance, axis=1).mean()
    value = fit + config.beta * divergence
    return value, {"loss": value, "reconstruction": fit, "divergence": divergence}


def init(key: Key, config: Config, example: Array, num_steps: int, num_classes: int = 0) -> tuple[VAE, TrainState]:
    """Return the module and the state that training starts from; `example` is one image or more [n, h, w, c].

    Example:
      >>> config = og.models.vae.Config(latent_dim=2, hidden=(16,))
      >>> module, state = og.models.vae.init(jax.random.key(0), config, jnp.zeros((1, 8, 8, 1)), num_steps=10)
      >>> print(module.image_shape, state.step)
      (8, 8, 1) 0
    """
    example = check_start(key, config, Config, example, num_steps)
    module = VAE(example.shape[1:], config, as_count("num_classes", num_classes, 0))
    params = module.init(key, example, jnp.zeros((1, config.latent_dim)), example_of(module))["params"]
    return module, start(adam(config.learning_rate, num_steps), params)


def make_step(module: VAE, num_steps: int):
    """Return the pure training step `(state, batch, key, *, axis_name) -> (state, metrics)`.

    A batch is images, with labels images and their classes.

    Example:
      >>> images, config = jnp.ones((4, 8, 8, 1)), og.models.vae.Config(latent_dim=2, hidden=(16,), batch_size=4)
      >>> module, state = og.models.vae.init(jax.random.key(0), config, images, num_steps=10)
      >>> step = jax.jit(og.models.vae.make_step(module, num_steps=10))  # pure: of your own loop, or pmapped
      >>> state, metrics = step(state, images, jax.random.key(1))
      >>> print(state.step, bool(jnp.isfinite(jnp.array(list(metrics.values()))).all()))
      1 True
    """
    check_step(module, VAE, num_steps)
    transform = adam(module.config.learning_rate, num_steps)

    def step(state: TrainState, batch: Any, key: Key, *, axis_name: str | None = None):
        images, classes = parted(batch)
        noise = normals(key, state.step, images.shape[0], module.config.latent_dim, axis_name)
        return descend(transform, state, loss, module, images, noise, classes, axis_name=axis_name)

    return step


@watched
def fit(
    key: Key,
    images: Any,
    labels: Any = None,
    *,
    callback: Callback | None = None,
    checkpoints: Any = None,
    **config: Any,
) -> Model:
    """Fit a variational autoencoder to images in memory.

    Args:
      key: random key.
      images: uint8, or floats, [N, h, w, c].
      labels: integers [N], to draw from one class by `sample(..., label=)`; None for none.
      callback: called with steps and metrics.
      checkpoints: a folder, or `train.Checkpoints`, to save in and to go on from, bit-identically.
      **config: fields of Config.

    Returns:
      Model; draw from it with `sample(key, model, num, label=)`.

    Raises:
      ValueError: for images of another shape or range, labels that do not match, fields out of range, a folder of
        another configuration.
      TypeError: for a field that Config does not have.

    Example:
      >>> images = og.data.load("digits").images[:64]
      >>> model = og.models.vae.fit(jax.random.key(0), images, latent_dim=2, hidden=(16,), epochs=2, batch_size=16)
      >>> print(og.models.vae.sample(jax.random.key(1), model, 3).shape)
      (3, 8, 8, 1)
    """
    options = {"labels": labels, "callback": callback, "checkpoints": checkpoints}
    module, state = fit_generator(key, images, made(Config, config), init, make_step, **options)
    return Model(module, {"params": state.params, **collection_of(labels)})
