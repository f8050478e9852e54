"""InfoGAN, a GAN rewarded for codes that can be read off its images: a baseline with the networks of the other models.

A latent z = (c, n) has a code c and noise n, as in `informative_gan`. Discriminator D and
encoder Q are two heads of one trunk. With s = softplus,

* the discriminator minimises E s(-D(x)) + E s(D(G(z))), the generator E s(-D(G(z))) (non-saturating);
* generator and Q, with the trunk that Q shares with D, also minimise -weight E log Q(c | G(z)) / P(c). The prior P(c)
  only adds a constant, which makes E log Q / P a lower bound of I(c; G(z)).

As in the published code, trunk and both heads take a step on the sum of D's loss and the information term, then the
generator takes one on the sum of its own and that term, each by its own Adam. The networks have no batch normalisation,
and Q learns the deviation of continuous parts. Samples are drawn from the exponential moving average of the generator's
weights.

Reference: Chen, Duan, Houthooft, Schulman, Sutskever and Abbeel (2016), arXiv 1606.03657, equations 5 and 6.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

from otgen.models.apply import Model, as_batch
from otgen.models.apply import sample as sample
from otgen.models.fitting import check_start, check_step, fit_generator
from otgen.models.informative.codes import Codes, Latent
from otgen.nn.autoencoder import decoder, encoder, to_unit
from otgen.nn.pixels import pixels_of
from otgen.ot.check import as_array, require_kind
from otgen.progress import watched
from otgen.train.descent import descend
from otgen.train.parallel import sample_keys
from otgen.train.settings import GeneratorSettings, adam, made
from otgen.train.state import TrainState, start
from otgen.types import Array, Callback, Key

_FEATURES = 128  # outputs of the trunk, and hidden units of Q's head
_CRITIC = ("trunk", "verdict", "reader")


@dataclasses.dataclass(frozen=True)
class Config(GeneratorSettings):
    """What makes an InfoGAN, beside `GeneratorSettings`; `latent_dim` is that of the noise.

    An epoch counts the images the discriminator sees.

    Attributes:
      categorical: how many values each categorical part of the code has.
      uniform, normal: continuous parts of the code, uniform on [-1, 1] and standard normal.
      strength: what the code is multiplied by, against noise of deviation 1.
      information: weight of the information of the categorical parts; 0 for none.
      information_continuous: weight of the information of the continuous parts; 0 for none.
      batch_size: images per step of the discriminator, and of the generator.
      learning_rate, critic_rate: peak rates of the generator, and of trunk, discriminator and Q.
      critic_steps: steps of discriminator and Q for one of the generator.
      average: decay of the moving average of the generator's weights.

    Raises:
      ValueError: for fields out of range.

    Example:
      >>> print(og.models.info_gan.Config(categorical=(10,), uniform=2).latent_dim)
      16
    """

    latent_dim: int = 16
    batch_size: int = 128
    learning_rate: float = 1e-3
    critic_rate: float = 2e-4
    categorical: tuple[int, ...] = (10,)
    uniform: int = 0
    normal: int = 0
    strength: float = 1.0
    information: float = 1.0
    information_continuous: float = 0.1
    critic_steps: int = 1
    average: float = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        self.whole_each("categorical", least=2)
        self.whole("uniform", "normal", least=0)
        self.whole("critic_steps")
        self.positive("critic_rate", "strength")
        self.not_negative("information", "information_continuous")
        self.below_one("average")
        _ = self.latent  # raises for a code out of range

    @functools.cached_property
    def latent(self) -> Latent:
        """What a latent consists of."""
        return Latent(self.categorical, self.uniform, self.normal, self.latent_dim, self.strength)


class InfoGAN(nn.Module):
    """Generator, discriminator and encoder Q on one trunk, and the law of the latents.

    Attributes:
      image_shape: (height, width, channels).
      config: see Config.

    Example:
      >>> module = og.models.info_gan.InfoGAN((8, 8, 1), og.models.info_gan.Config(latent_dim=2, hidden=(16,)))
      >>> print(module.image_shape, module.config.categorical)
      (8, 8, 1) (10,)
    """

    image_shape: tuple[int, int, int]
    config: Config

    def setup(self) -> None:
        c = self.config
        networks = c.networks()
        self.generator = decoder(self.image_shape, *networks)
        self.trunk = encoder(self.image_shape, _FEATURES, *networks)
        self.verdict = nn.Dense(1)
        self.reader = nn.Sequential([nn.Dense(_FEATURES), nn.gelu, nn.Dense(c.latent.outputs)])

    def __call__(self, codes: Codes, noise: Array) -> tuple[Array, Array]:
        """Return logits [n] of the discriminator and outputs [n, outputs] of Q for the images of codes and noise."""
        return self.judge(self.decode(codes, noise))

    def judge(self, images: Array) -> tuple[Array, Array]:
        """Return logits [n] of the discriminator and outputs [n, outputs] of Q for images [n, h, w, c]."""
        features = nn.gelu(self.trunk(images))
        return self.verdict(features)[:, 0], self.reader(features)

    def value(self, images: Array) -> Array:
        """Return logits [n] of the discriminator for images [n, h, w, c]; positive for what it takes for data."""
        return self.judge(images)[0]

    def read(self, images: Array) -> Array:
        """Return outputs [n, outputs] of Q for images [n, h, w, c]: see `Latent.log_laws`, `Latent.moments`."""
        return self.judge(images)[1]

    def decode(self, codes: Codes, noise: Array) -> Array:
        """Return images [n, h, w, c] of codes and noise [n, latent_dim]."""
        return pixels_of(self.generator(self.config.latent.join(codes, noise)), self.config.output)

    def sample(self, key: Key, num: int) -> Array:
        """Draw images [num, h, w, c]."""
        return self.decode(*self.config.latent.sample(key, num))


class State(NamedTuple):
    """What training carries.

    Attributes:
      generator: TrainState of G.
      critic: TrainState of trunk, discriminator's head and Q's head.
      step: steps of the generator (int32).

    Example:
      >>> config = og.models.info_gan.Config(latent_dim=2, hidden=(16,))
      >>> _, state = og.models.info_gan.init(jax.random.key(0), config, jnp.zeros((1, 8, 8, 1)), 10)
      >>> print(state._fields, state.step)
      ('generator', 'critic', 'step') 0
    """

    generator: TrainState
    critic: TrainState
    step: Array


def _log_ratio(latent: Latent, outputs: Array, codes: Codes) -> tuple[Array, Array]:
    """Return log Q(c | x) / P(c) [n] of Q's outputs [n, outputs] and codes [n], row by row.

    Returns:
      That of the categorical and that of the continuous parts, in nats; zero where the code has no such part.
    """
    discrete = jnp.zeros(outputs.shape[0], outputs.dtype)
    for i, law in enumerate(latent.log_laws(outputs)):
        discrete += jnp.take_along_axis(law, codes.categories[:, i : i + 1], axis=1)[:, 0] + math.log(law.shape[1])
    values, uniform = codes.values, latent.uniform
    likelihood = norm.logpdf(values, *latent.moments(outputs)).sum(1)
    prior = norm.logpdf(values[:, uniform:]).sum(1) - uniform * math.log(2.0)
    return discrete, likelihood - prior


def information(config: Config, outputs: Array, codes: Codes) -> tuple[Array, Array]:
    """Return how well Q's outputs [n, outputs] tell the codes [n], weighted and in nats.

    Returns:
      The mean of log Q / P with the weights of the config, and without, a lower bound of the mutual information.

    Example:
      >>> config = og.models.info_gan.Config(categorical=(3,))
      >>> codes = og.models.info_gan.Codes(jnp.array([[0]]), jnp.zeros((1, 0)))
      >>> sure = jnp.array([[90.0, 0.0, 0.0]])  # logits of Q
      >>> print(og.models.info_gan.information(config, sure, codes)[1], np.log(3))
      1.0986 1.0986
    """
    require_kind("config", config, Config)
    outputs = as_array("outputs", outputs, (None, config.latent.outputs), finite=False)
    codes = config.latent.checked(codes, len(outputs))
    discrete, continuous = (jnp.mean(ratio) for ratio in _log_ratio(config.latent, outputs, codes))
    return config.information * discrete + config.information_continuous * continuous, discrete + continuous


def discriminator_loss(
    critic: Any, module: InfoGAN, real: Array, fake: Array, codes: Codes
) -> tuple[Array, dict[str, Array]]:
    """Return what trunk, discriminator and Q minimise on real and fake images [n, h, w, c], and metrics.

    Args:
      critic: parameters of trunk and heads.
      module: the model.
      real: data.
      fake: generated images.
      codes: the codes that the fake images were generated from.

    Returns:
      E softplus(-D(x)) + E softplus(D(G(z))) less the weighted information; metric `discriminator`, the first two.

    Example:
      >>> config = og.models.info_gan.Config(latent_dim=2, hidden=(16,), categorical=(3,))
      >>> images, codes = jnp.zeros((4, 8, 8, 1)), og.models.info_gan.Codes(jnp.zeros((4, 1), int), jnp.zeros((4, 0)))
      >>> module, state = og.models.info_gan.init(jax.random.key(0), config, images, 10)
      >>> print(og.models.info_gan.discriminator_loss(state.critic.params, module, images, images, codes)[0].shape)
      ()
    """
    require_kind("module", module, InfoGAN)
    real, fake = as_batch(module, real, "real"), as_batch(module, fake, "fake")
    variables = {"params": critic}
    logits, outputs = module.apply(variables, fake, method="judge")
    told = nn.softplus(-module.apply(variables, real, method="value")).mean() + nn.softplus(logits).mean()
    return told - information(module.config, outputs, codes)[0], {"discriminator": told}


def generator_loss(
    generator: Any, critic: Any, module: InfoGAN, codes: Codes, noise: Array
) -> tuple[Array, dict[str, Array]]:
    """Return what the generator minimises on codes [n] and noise [n, latent_dim], and metrics.

    Args:
      generator: parameters of the generator.
      critic: parameters of trunk and heads.
      module: the model.
      codes, noise: latents.

    Returns:
      E softplus(-D(G(z))) less the weighted information; metrics `generator`, the first term; `information`, the mean
      of log Q(c | G(z)) / P(c) without weights; `code_error`, how often Q misreads a categorical part, if there is one.

    Example:
      >>> config = og.models.info_gan.Config(latent_dim=2, hidden=(16,), categorical=(3,))
      >>> codes, noise = og.models.info_gan.Codes(jnp.zeros((4, 1), int), jnp.zeros((4, 0))), jnp.zeros((4, 2))
      >>> module, state = og.models.info_gan.init(jax.random.key(0), config, jnp.zeros((4, 8, 8, 1)), 10)
      >>> params = state.generator.params, state.critic.params
      >>> print(og.models.info_gan.generator_loss(*params, module, codes, noise)[0].shape)
      ()
    """
    require_kind("module", module, InfoGAN)
    noise = as_array("noise", noise, (None, module.config.latent_dim), finite=False)
    codes = module.config.latent.checked(codes, len(noise))
    logits, outputs = module.apply({"params": {"generator": generator, **critic}}, codes, noise)
    fooled = nn.softplus(-logits).mean()
    weighted, nats = information(module.config, outputs, codes)
    metrics = {"generator": fooled, "information": nats}
    laws = module.config.latent.log_laws(outputs)
    wrong = [jnp.mean(law.argmax(1) != codes.categories[:, i]) for i, law in enumerate(laws)]
    return fooled - weighted, metrics | ({"code_error": jnp.stack(wrong).mean()} if wrong else {})


def _optimisers(config: Config, num_steps: int):
    """Adam of the generator, and of trunk and heads."""
    critic = adam(config.critic_rate, num_steps * config.critic_steps, b1=0.5)
    return adam(config.learning_rate, num_steps, b1=0.5), critic


def init(key: Key, config: Config, example: Array, num_steps: int) -> tuple[InfoGAN, State]:
    """Return the module and the state that training starts from; `example` is one image or more [n, h, w, c].

    Example:
      >>> config = og.models.info_gan.Config(latent_dim=2, hidden=(16,))
      >>> module, state = og.models.info_gan.init(jax.random.key(0), config, jnp.zeros((1, 8, 8, 1)), 10)
      >>> print(module.image_shape, state.step)
      (8, 8, 1) 0
    """
    module = InfoGAN(check_start(key, config, Config, example, num_steps).shape[1:], config)
    categories, values = len(config.categorical), config.latent.continuous
    codes = Codes(jnp.zeros((1, categories), jnp.int32), jnp.zeros((1, values)))
    params = module.init(key, codes, jnp.zeros((1, config.latent_dim)))["params"]
    parts = params["generator"], {name: params[name] for name in _CRITIC}
    for_generator, for_critic = _optimisers(config, num_steps)
    generator = start(for_generator, parts[0], average=True)
    return module, State(generator, start(for_critic, parts[1]), jnp.int32(0))


def make_step(module: InfoGAN, num_steps: int):
    """Return the pure training step `(state, images, key, *, axis_name) -> (state, metrics)`.

    Row r of the whole batch of images goes to step r mod critic_steps of the discriminator, on however many devices.
    The generator's step is on latents of its own.

    Raises (when traced):
      ValueError: if the rows of a device are no multiple of `critic_steps`.

    Example:
      >>> images, config = jnp.ones((4, 8, 8, 1)), og.models.info_gan.Config(latent_dim=2, hidden=(16,), batch_size=4)
      >>> module, state = og.models.info_gan.init(jax.random.key(0), config, images, 10)
      >>> print(jax.jit(og.models.info_gan.make_step(module, 10))(state, images, jax.random.key(1))[0].step)
      1
    """
    check_step(module, InfoGAN, num_steps)
    config = module.config
    for_generator, for_critic = _optimisers(config, num_steps)

    def step(state: State, images: Array, key: Key, *, axis_name: str | None = None):
        num, steps = images.shape[0], config.critic_steps
        if num % steps:
            raise ValueError(f"{num} images on a device for {steps} steps of the discriminator: give a multiple.")
        images, critic = to_unit(images), state.critic
        learn, last = functools.partial(descend, axis_name=axis_name), num // steps
        keys = [sample_keys(jax.random.fold_in(key, i), state.step, n, axis_name) for i, n in enumerate((num, last))]
        drawn = jax.vmap(lambda k: _draw(k, config.latent))(jnp.concatenate(keys))
        (codes, noise), fresh = _rows(drawn, slice(num)), _rows(drawn, slice(num, None))
        fake = module.apply({"params": {"generator": state.generator.params}}, codes, noise, method="decode")
        for i in range(steps):
            batch = _rows((images, fake, codes), slice(i, None, steps))
            critic, metrics = learn(for_critic, critic, discriminator_loss, module, *batch)
        rest = critic.params, module, *fresh
        generator, more = learn(for_generator, state.generator, generator_loss, *rest, decay=config.average)
        return State(generator, critic, state.step + 1), {**metrics, **more}

    return step


def _draw(key: Key, latent: Latent) -> tuple[Codes, Array]:
    """One latent: its code, and noise [latent_dim]."""
    return _rows(latent.sample(key, 1), 0)


def _rows(tree: Any, which: int | slice) -> Any:
    return jax.tree.map(lambda leaf: leaf[which], tree)


@watched
def fit(key: Key, images: Any, *, callback: Callback | None = None, checkpoints: Any = None, **config: Any) -> Model:
    """Fit an InfoGAN to images in memory. It takes no labels: its codes are to find the classes.

    Args:
      key: random key.
      images: uint8, or floats, [N, h, w, c].
      callback: called with steps and metrics.
      checkpoints: a folder, or `train.Checkpoints`, to save in and to go on from, bit-identically.
      **config: fields of Config.

    Returns:
      Model: draw from it with `sample(key, model, num)`; read codes with the module's method `read`.

    Raises:
      ValueError: for images of another shape or range, fields out of range, a folder of another configuration.
      TypeError: for a field that Config does not have.

    Example:
      >>> images = og.data.load("digits").images[:64]
      >>> tiny = {"latent_dim": 2, "hidden": (16,), "epochs": 1, "batch_size": 16}
      >>> model = og.models.info_gan.fit(jax.random.key(0), images, categorical=(3,), **tiny)
      >>> print(og.models.info_gan.sample(jax.random.key(1), model, 3).shape)
      (3, 8, 8, 1)
    """
    settings = made(Config, config)
    options = {"callback": callback, "checkpoints": checkpoints, "batches_per_step": settings.critic_steps}
    module, state = fit_generator(key, images, settings, init, make_step, **options)
    return Model(module, {"params": {"generator": state.generator.average, **state.critic.params}})
