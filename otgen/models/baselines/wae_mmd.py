"""The Wasserstein autoencoder with a maximum mean discrepancy, with the networks of the other models: a baseline.

Minimises E[-log p(x|E(x))] + weight MMD^2(E#data, N(0, I)), the discrepancy by its unbiased estimate on the whole batch
with the inverse multiquadratic kernel k(a, b) = sum_s s C / (s C + |a - b|^2), C = 2 d, s in {.1, .2, .5, 1, 2, 5, 10}.
With labels the decoder reads the class beside the code, and the discrepancy is the mean of those of the classes: the
codes of each follow the prior.

Reference: Tolstikhin, Bousquet, Gelly and Schoelkopf (2018), arXiv 1711.01558, algorithm 2 and section 4.
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
from otgen.ot.check import as_array, as_count, as_points, require_kind
from otgen.ot.costs.distances import SqEuclidean
from otgen.progress import watched
from otgen.train.descent import descend
from otgen.train.parallel import gathered, normals
from otgen.train.settings import GeneratorSettings, adam, made
from otgen.train.state import TrainState, start
from otgen.types import Array, Callback, Key

_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


@dataclasses.dataclass(frozen=True)
class Config(GeneratorSettings):
    """What makes a Wasserstein autoencoder, beside `GeneratorSettings`.

    Attributes:
      weight: of the discrepancy, against a loss in nats per image.

    Example:
      >>> config = og.models.wae_mmd.Config(latent_dim=2, hidden=(16,), epochs=3)
      >>> print(config.latent_dim, config.network)
      2 mlp
    """

    weight: float = 100.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.positive("weight")
        self.whole("batch_size", least=2)  # the discrepancy is over pairs


class WAE(nn.Module):
    """Deterministic encoder and decoder, and the prior N(0, I).

    Attributes:
      image_shape: (height, width, channels).
      config: see Config.
      num_classes: classes of its images; 0 without labels.

    Example:
      >>> module = og.models.wae_mmd.WAE((8, 8, 1), og.models.wae_mmd.Config(latent_dim=2, hidden=(16,)))
      >>> print(module.image_shape, module.config.latent_dim)
      (8, 8, 1) 2
    """

    image_shape: tuple[int, int, int]
    config: Config
    num_classes: int = 0

    def setup(self) -> None:
        c = self.config
        self.encoder = encoder(self.image_shape, c.latent_dim, *c.networks())
        self.decoder = decoder(self.image_shape, *c.networks())
        self.log_scale = self.param("log_scale", nn.initializers.zeros, ())

    def __call__(self, images: Array, classes: Array | None = None) -> tuple[Array, Array]:
        """Return the decoder's last layer [n, h, w, c], and codes [n, d], of images [n, h, w, c] and classes [n]."""
        codes = self.encode(images)
        return self.decoder(beside(self, codes, classes)), codes

    def encode(self, images: Array) -> Array:
        """Return codes [n, d] of images [n, h, w, c]."""
        return self.encoder(images)

    def decode(self, codes: Array, classes: Array | None = None) -> Array:
        """Return images [n, h, w, c] of codes [n, d] and classes [n]."""
        return pixels_of(self.decoder(beside(self, codes, classes)), self.config.output)

    def sample(self, key: Key, num: int, of_class: Array | None = None) -> Array:
        """Draw images [num, h, w, c], of one class or all, at codes of the prior."""
        return self.decode(jax.random.normal(key, (num, self.config.latent_dim)), drawn(self, key, num, of_class))


def mmd_sq(x: Array, y: Array, classes: Array | None = None) -> Array:
    """Return the unbiased squared maximum mean discrepancy of x [n, d] and y [n, d], inverse multiquadratic kernel.

    Args:
      x, y: points [n, d].
      classes: integers [n], of x_i and y_i alike: then the mean over classes of their own discrepancies, each weighing
        as many pairs of rows as there are in it. None for one class.

    Example:
      >>> x, y = jax.random.normal(jax.random.key(0), (2, 200, 2))
      >>> print(jnp.abs(og.models.wae_mmd.mmd_sq(x, y)) < 0.02, og.models.wae_mmd.mmd_sq(x, y + 3) > 0.1)
      True True
    """
    x = as_points("x", x)
    y = as_array("y", y, x.shape)
    n, d = x.shape
    pairwise = SqEuclidean().pairwise

    def kernel(square: Array) -> Array:
        return sum(s * 2 * d / (s * 2 * d + square) for s in _SCALES)

    apart = 1 - jnp.eye(n)
    if classes is None:
        within = sum((kernel(pairwise(z, z)) * apart).sum() for z in (x, y)) / (n * (n - 1))
        return within - 2 * kernel(pairwise(x, y)).mean()
    classes = as_array("classes", classes, (n,))
    alike = apart * (classes[:, None] == classes)
    all_pairs = kernel(pairwise(x, x)) + kernel(pairwise(y, y)) - 2 * kernel(pairwise(x, y))
    return (all_pairs * alike).sum() / jnp.maximum(alike.sum(), 1)


def loss(
    params: Any,
    module: WAE,
    images: Array,
    prior: Array,
    axis_name: str | None = None,
    classes: Array | None = None,
) -> tuple[Array, dict[str, Array]]:
    """Return reconstruction plus weighted discrepancy, and metrics.

    Args:
      params: parameters of the module.
      module: the model.
      images: uint8, or floats, [n, h, w, c].
      prior: standard normal [n, d].
      axis_name: mapped axis over which the batch is spread: the discrepancy is that of the whole batch.
      classes: numbers [n] of the classes, from 0; None where the module has none.

    Returns:
      Loss; metrics `loss` and its parts `reconstruction` and `mmd_sq`.

    Example:
      >>> config = og.models.wae_mmd.Config(latent_dim=2, hidden=(16,))
      >>> module, state = og.models.wae_mmd.init(jax.random.key(0), config, jnp.zeros((1, 8, 8, 1)), num_steps=10)
      >>> prior = jax.random.normal(jax.random.key(1), (4, 2))
      >>> loss, metrics = og.models.wae_mmd.loss(state.params, module, jnp.zeros((4, 8, 8, 1)), prior)
      >>> print(loss.shape, sorted(metrics))
      () ['loss', 'mmd_sq', 'reconstruction']
    """
    require_kind("module", module, WAE)
    images, config = as_batch(module, images), module.config
    prior = as_array("prior", prior, (len(images), config.latent_dim), finite=False)
    check_classes(module, classes, len(images))
    outputs, codes = module.apply({"params": params}, images, classes)
    fit = reconstruction_loss(outputs, images, config.output, params["log_scale"]).mean()
    discrepancy = mmd_sq(*gathered((codes, prior, classes), axis_name))
    value = fit + config.weight * discrepancy
    return value, {"loss": value, "reconstruction": fit, "mmd_sq": discrepancy}


def init(key: Key, config: Config, example: Array, num_steps: int, num_classes: int = 0) -> tuple[WAE, TrainState]:
    """Return the module and the state that training starts from; `example` is one image or more [n, h, w, c].

    Example:
      >>> config = og.models.wae_mmd.Config(latent_dim=2, hidden=(16,))
      >>> module, state = og.models.wae_mmd.init(jax.random.key(0), config, jnp.zeros((1, 8, 8, 1)), num_steps=10)
      >>> print(module.image_shape, state.step)
      (8, 8, 1) 0
    """
    example = check_start(key, config, Config, example, num_steps)
    module = WAE(example.shape[1:], config, as_count("num_classes", num_classes, 0))
    params = module.init(key, example, example_of(module))["params"]
    return module, start(adam(config.learning_rate, num_steps), params)


def make_step(module: WAE, num_steps: int):
    """Return the pure training step `(state, batch, key, *, axis_name) -> (state, metrics)`.

    A batch is images, with labels images and their classes.

    Example:
      >>> images, config = jnp.ones((4, 8, 8, 1)), og.models.wae_mmd.Config(latent_dim=2, hidden=(16,), batch_size=4)
      >>> module, state = og.models.wae_mmd.init(jax.random.key(0), config, images, num_steps=10)
      >>> step = jax.jit(og.models.wae_mmd.make_step(module, num_steps=10))  # pure: of your own loop, or pmapped
      >>> state, metrics = step(state, images, jax.random.key(1))
      >>> print(state.step, bool(jnp.isfinite(jnp.array(list(metrics.values()))).all()))
      1 True
    """
    check_step(module, WAE, num_steps)
    transform = adam(module.config.learning_rate, num_steps)

    def step(state: TrainState, batch: Any, key: Key, *, axis_name: str | None = None):
        images, classes = parted(batch)
        prior = normals(key, state.step, images.shape[0], module.config.latent_dim, axis_name)
        return descend(transform, state, loss, module, images, prior, axis_name, classes, axis_name=axis_name)

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
    """Fit a Wasserstein autoencoder to images in memory; arguments, result and errors as in `vae.fit`.

    Example:
      >>> images = og.data.load("digits").images[:64]
      >>> model = og.models.wae_mmd.fit(jax.random.key(0), images, latent_dim=2, hidden=(16,), epochs=2, batch_size=16)
      >>> print(og.models.wae_mmd.sample(jax.random.key(1), model, 3).shape)
      (3, 8, 8, 1)
    """
    options = {"labels": labels, "callback": callback, "checkpoints": checkpoints}
    module, state = fit_generator(key, images, made(Config, config), init, make_step, **options)
    return Model(module, {"params": state.params, **collection_of(labels)})
