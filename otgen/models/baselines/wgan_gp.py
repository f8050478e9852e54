"""The Wasserstein GAN with gradient penalty, with the networks of the other models: a baseline.

The critic D, an encoder with one output, minimises E D(G(z)) - E D(x) + penalty E (|grad D(x^)| - 1)^2 with x^ uniform
on the segment from x to G(z); after each `critic_steps` of its steps the generator G, a decoder, minimises -E D(G(z)).
Samples are drawn from the exponential moving average of the generator's weights. With labels the generator reads the
class beside the noise, and the critic has one output for every class, of which an image gets that of its own.

Reference: Gulrajani, Ahmed, Arjovsky, Dumoulin and Courville (2017), arXiv 1704.00028, algorithm 1.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from otgen.models.apply import Model, as_batch
from otgen.models.apply import sample as sample
from otgen.models.classes import beside, check_classes, collection_of, drawn, example_of, one_hot, parted
from otgen.models.fitting import check_start, check_step, fit_generator
from otgen.nn import adversarial
from otgen.nn.autoencoder import decoder, encoder, to_unit
from otgen.nn.pixels import pixels_of
from otgen.ot.check import as_array, as_count, require_kind
from otgen.progress import watched
from otgen.train.descent import descend
from otgen.train.parallel import sample_keys
from otgen.train.settings import GeneratorSettings, adam, made
from otgen.train.state import TrainState, start
from otgen.types import Array, Callback, Key


@dataclasses.dataclass(frozen=True)
class Config(GeneratorSettings):
    """What makes a Wasserstein GAN, beside `GeneratorSettings`; an epoch counts the images the critic sees.

    Attributes:
      batch_size: images per step of the critic, and of the generator.
      critic_steps: steps of the critic for one of the generator.
      penalty: weight of the gradient penalty.
      average: decay of the moving average of the generator's weights.

    Example:
      >>> config = og.models.wgan_gp.Config(latent_dim=2, hidden=(16,), epochs=3)
      >>> print(config.latent_dim, config.network)
      2 mlp
    """

    batch_size: int = 64
    learning_rate: float = 2e-3
    critic_steps: int = 2
    penalty: float = 10.0
    average: float = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        self.whole("critic_steps")
        self.positive("penalty")
        self.below_one("average")


class WGAN(nn.Module):
    """Generator, critic, and the prior N(0, I).

    Attributes:
      image_shape: (height, width, channels).
      config: see Config.
      num_classes: classes of its images; 0 without labels.

    Example:
      >>> module = og.models.wgan_gp.WGAN((8, 8, 1), og.models.wgan_gp.Config(latent_dim=2, hidden=(16,)))
      >>> print(module.image_shape, module.config.latent_dim)
      (8, 8, 1) 2
    """

    image_shape: tuple[int, int, int]
    config: Config
    num_classes: int = 0

    def setup(self) -> None:
        c = self.config
        self.critic = encoder(self.image_shape, max(1, self.num_classes), *c.networks())
        self.generator = decoder(self.image_shape, *c.networks())

    def __call__(self, noise: Array, classes: Array | None = None) -> Array:
        """Return values [n] that the critic gives to the images generated from noise [n, d] and classes [n]."""
        return self.value(self.decode(noise, classes), classes)

    def value(self, images: Array, classes: Array | None = None) -> Array:
        """Return values [n] of images [n, h, w, c] of classes [n]."""
        values, hot = self.critic(images), one_hot(self, classes, len(images))
        return jnp.sum(values * hot, axis=1) if self.num_classes else values[:, 0]

    def decode(self, noise: Array, classes: Array | None = None) -> Array:
        """Return images [n, h, w, c] of noise [n, d] and classes [n]."""
        return pixels_of(self.generator(beside(self, noise, classes)), self.config.output)

    def sample(self, key: Key, num: int, of_class: Array | None = None) -> Array:
        """Draw images [num, h, w, c], of one class or all."""
        return self.decode(jax.random.normal(key, (num, self.config.latent_dim)), drawn(self, key, num, of_class))


class State(NamedTuple):
    """What training carries.

    Attributes:
      generator, critic: TrainState of each, the parameters of the other left out; the generator's with its average.
      step: steps of the generator (int32).

    Example:
      >>> config = og.models.wgan_gp.Config(latent_dim=2, hidden=(16,))
      >>> _, state = og.models.wgan_gp.init(jax.random.key(0), config, jnp.zeros((1, 8, 8, 1)), num_steps=10)
      >>> print(state._fields, state.step)
      ('generator', 'critic', 'step') 0
    """

    generator: TrainState
    critic: TrainState
    step: Array


def critic_loss(
    critic: Any, module: WGAN, real: Array, fake: Array, share: Array, classes: Array | None = None
) -> tuple[Array, dict[str, Array]]:
    """Return the critic's loss on real and fake images [n, h, w, c], penalised at mixtures of shares [n], and metrics.

    With labels an image and the fake of its row are of the same class, by its number [n].
    Metrics: `w1`, the estimate E D(x) - E D(G(z)) of the Wasserstein-1 distance, and `penalty`.

    Example:
      >>> config = og.models.wgan_gp.Config(latent_dim=2, hidden=(16,))
      >>> module, state = og.models.wgan_gp.init(jax.random.key(0), config, jnp.zeros((1, 8, 8, 1)), num_steps=10)
      >>> images = jnp.zeros((4, 8, 8, 1))
      >>> loss, metrics = og.models.wgan_gp.critic_loss(state.critic.params, module, images, images, jnp.zeros(4))
      >>> print(loss.shape, bool(loss >= 0))  # equal images leave the penalty alone
      () True
    """
    require_kind("module", module, WGAN)
    real, fake = as_batch(module, real, "real"), as_batch(module, fake, "fake")
    share = as_array("share", share, (len(real),), finite=False)
    if len(fake) != len(real):
        raise ValueError(f"{len(real)} real and {len(fake)} fake images: give as many of both.")
    check_classes(module, classes, len(real))

    def value(images: Array) -> Array:
        return module.apply({"params": {"critic": critic}}, images, classes, method="value")

    penalty = adversarial.penalty("wasserstein", value, real, fake, share)
    loss = adversarial.critic_loss("wasserstein", value(real), value(fake))
    return module.config.penalty * penalty + loss, {"w1": -loss, "penalty": penalty}


def generator_loss(
    generator: Any, critic: Any, module: WGAN, noise: Array, classes: Array | None = None
) -> tuple[Array, dict[str, Array]]:
    """Return -E D(G(z)) on noise [n, d], with labels of classes [n], and metrics.

    Example:
      >>> config = og.models.wgan_gp.Config(latent_dim=2, hidden=(16,))
      >>> module, state = og.models.wgan_gp.init(jax.random.key(0), config, jnp.zeros((1, 8, 8, 1)), num_steps=10)
      >>> params = state.generator.params, state.critic.params
      >>> print(og.models.wgan_gp.generator_loss(*params, module, jnp.zeros((4, 2)))[0].shape)
      ()
    """
    require_kind("module", module, WGAN)
    noise = as_array("noise", noise, (None, module.config.latent_dim), finite=False)
    if not len(noise):
        raise ValueError(f"noise has shape {noise.shape}: give at least one row.")
    check_classes(module, classes, len(noise))
    value = -jnp.mean(module.apply({"params": {"generator": generator, "critic": critic}}, noise, classes))
    return value, {"generator": value}


def _adam(config: Config, num_steps: int) -> optax.GradientTransformation:
    return adam(config.learning_rate, num_steps, b1=0.5, b2=0.9)


def init(key: Key, config: Config, example: Array, num_steps: int, num_classes: int = 0) -> tuple[WGAN, State]:
    """Return the module and the state that training starts from; `example` is one image or more [n, h, w, c].

    Example:
      >>> config = og.models.wgan_gp.Config(latent_dim=2, hidden=(16,))
      >>> module, state = og.models.wgan_gp.init(jax.random.key(0), config, jnp.zeros((1, 8, 8, 1)), num_steps=10)
      >>> print(module.image_shape, state.step)
      (8, 8, 1) 0
    """
    shape = check_start(key, config, Config, example, num_steps).shape[1:]
    module = WGAN(shape, config, as_count("num_classes", num_classes, 0))
    params = module.init(key, jnp.zeros((1, config.latent_dim)), example_of(module))["params"]
    generator = start(_adam(config, num_steps), params["generator"], average=True)
    critic = start(_adam(config, num_steps * config.critic_steps), params["critic"])
    return module, State(generator, critic, jnp.int32(0))


def make_step(module: WGAN, num_steps: int):
    """Return the pure training step `(state, batch, key, *, axis_name) -> (state, metrics)`.

    A batch is images, with labels images and their classes. Row r of the whole batch goes to step r mod critic_steps of
    the critic, on however many devices. The generator's step uses the noise, and the classes, of the critic's first.

    Raises (when traced):
      ValueError: if the rows of a device are no multiple of `critic_steps`.

    Example:
      >>> images, config = jnp.ones((4, 8, 8, 1)), og.models.wgan_gp.Config(latent_dim=2, hidden=(16,), batch_size=4)
      >>> module, state = og.models.wgan_gp.init(jax.random.key(0), config, images, num_steps=10)
      >>> step = jax.jit(og.models.wgan_gp.make_step(module, num_steps=10))  # pure: of your own loop, or pmapped
      >>> state, metrics = step(state, images, jax.random.key(1))
      >>> print(state.step, bool(jnp.isfinite(jnp.array(list(metrics.values()))).all()))
      1 True
    """
    check_step(module, WGAN, num_steps)
    config = module.config
    for_generator, for_critic = _adam(config, num_steps), _adam(config, num_steps * config.critic_steps)

    def step(state: State, batch: Any, key: Key, *, axis_name: str | None = None):
        images, classes = parted(batch)
        if images.shape[0] % config.critic_steps:
            raise ValueError(
                f"{images.shape[0]} images on a device for {config.critic_steps} steps of the critic: give a multiple."
            )
        images, critic = to_unit(images), state.critic
        keys = sample_keys(key, state.step, images.shape[0], axis_name)
        noise, share = jax.vmap(lambda k: _draw(k, config.latent_dim))(keys)
        fake = module.apply({"params": {"generator": state.generator.params}}, noise, classes, method="decode")

        def part(of: Any, i: int) -> Any:
            return jax.tree.map(lambda leaf: leaf[i :: config.critic_steps], of)

        for i in range(config.critic_steps):
            rows = part((images, fake, share, classes), i)
            critic, metrics = descend(for_critic, critic, critic_loss, module, *rows, axis_name=axis_name)
        rest = critic.params, module, *part((noise, classes), 0)
        options = {"axis_name": axis_name, "decay": config.average}
        generator, more = descend(for_generator, state.generator, generator_loss, *rest, **options)
        return State(generator, critic, state.step + 1), {**metrics, **more}

    return step


def _draw(key: Key, dim: int) -> tuple[Array, Array]:
    """Return noise [dim] and a place on the segment from a fake to a real image."""
    noise_key, share_key = jax.random.split(key)
    return jax.random.normal(noise_key, (dim,)), jax.random.uniform(share_key)


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
    """Fit a Wasserstein GAN to images in memory; arguments, result and errors as in `vae.fit`.

    Example:
      >>> images = og.data.load("digits").images[:64]
      >>> model = og.models.wgan_gp.fit(jax.random.key(0), images, latent_dim=2, hidden=(16,), epochs=2, batch_size=16)
      >>> print(og.models.wgan_gp.sample(jax.random.key(1), model, 3).shape)
      (3, 8, 8, 1)
    """
    settings = made(Config, config)
    options = {"labels": labels, "callback": callback, "checkpoints": checkpoints}
    options["batches_per_step"] = settings.critic_steps
    module, state = fit_generator(key, images, settings, init, make_step, **options)
    params = {"generator": state.generator.average, "critic": state.critic.params}
    return Model(module, {"params": params, **collection_of(labels)})
