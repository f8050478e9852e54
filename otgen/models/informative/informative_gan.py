"""The informative OT-GAN: transport between latents and data that makes a code of the latent mean something.

A latent z = (c, n) has a code c and noise n. The generator G minimises the smoothed transport cost between the law of z
and the data at the pulled-back cost C(z, x) = |G(z) - x|^2, over plans pi whose code tells about the datum:

  min_G min_pi E_pi C + epsilon I(z; x) - lam I(c; x).

Two forms of the reward (`otgen.ot.structured`, `otgen.ot.structured.perturbed`):

* "structured": lam <= epsilon, where the inner problem is convex. Its semi-dual is a log-mean-exp over noises inside
  one over codes (entropic), or a sparsemax inside another (quadratic); lam = 0 is plain smoothed transport.
* "encoder": any lam. I(c; x) >= E_pi log Q(c | x) / P(c), with equality for the plan's own posterior, so an encoder Q
  perturbs the ground cost to C - lam log Q(c | x) / P(c). Codes emerge even where noise alone could explain the data.

One step, with a fixed plan in each of its parts (`otgen.models.informative.losses`):

1. `dual_steps` times, the potential h(c, G(z)) ascends the semi-dual on fresh latents and data. As a function of the
   generated point, not of the latent, it follows G for free;
2. G descends <P, C(z, x)> - <P', C(z, G(z'))>: P pairs latents with data, P' with points of fresh latents z', by a
   potential of its own, without reward and with the masses that the latents have in P. This debiases the cost, as
   the Sinkhorn divergence does; without the second term modes contract by about epsilon;
3. Q descends -E_P log Q(c | x), the categorical parts read from x moved at random (`otgen.nn.augment`), so that they
   cannot mean the move, the continuous ones from x itself.

Epsilon and lam are shares of the mean cost between two data. Samples are drawn from a moving average of G.

After paper A (arXiv 1912.02160); the algorithm is derived and tuned here.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from otgen.models.apply import check_images, usable
from otgen.models.apply import sample as sample
from otgen.models.fitting import check_start, check_step, fit_generator
from otgen.models.informative.codes import Codes, Latent
from otgen.models.informative.losses import Losses
from otgen.nn.augment import Augment, augment
from otgen.nn.autoencoder import decoder, encoder, to_unit
from otgen.nn.pixels import pixels_of
from otgen.ot.check import native, require_positive
from otgen.progress import watched
from otgen.train.descent import descend
from otgen.train.parallel import sample_keys
from otgen.train.settings import GeneratorSettings, adam, made
from otgen.train.state import TrainState, start
from otgen.types import Array, Callback, Key

OBJECTIVES = ("encoder", "structured")
GROUNDS = ("pixel", "adversarial", "features", "none")


@dataclasses.dataclass(frozen=True)
class Config(GeneratorSettings):
    """What makes an informative OT-GAN, beside `GeneratorSettings`; `latent_dim` is that of the noise.

    Attributes:
      categorical: how many values each categorical part of the code has.
      uniform, normal: continuous parts of the code, uniform on [-1, 1] and standard normal.
      strength: what the code is multiplied by, against noise of deviation 1.
      objective: "encoder" or "structured".
      smoothing: "entropic" or "quadratic".
      epsilon: strength of the smoothing, as a share of the mean cost between two data.
      lam: reward of the code's information, as such a share; at most epsilon for "structured", such as 0.9 epsilon.
      lam_continuous: the same of the continuous parts, for "encoder"; "structured" has one lam for the code as a whole.
      noises: noises for each code of a batch. None: as many as share a batch among all categorical values, or one if
        there are continuous parts.
      ground: the ground cost: "pixel"; "adversarial" for pixels and features that ascend the generator's loss;
        "features" for pixels and those of a fixed network, such as an autoencoder's, given to `fit`; "none" to hide it
        from the plan, which then follows the encoder alone (an ablation).
      feature_share: of the features in such a cost.
      batch_size: data of a step of each network, and as many latents.
      dual_steps: steps of the potential for one of the generator.
      debias: whether the generator is pushed off its own points.
      augment: how the data are moved before the encoder reads categorical parts; None for not at all. Points, that is
        images 1 pixel high or wide, never are.
      average: decay of the moving average of the generator's weights.

    Raises:
      ValueError: for fields out of range, or a batch that codes and noises do not share evenly.

    Example:
      >>> print(og.models.informative_gan.Config(categorical=(10,), uniform=2).objective)
      encoder
    """

    latent_dim: int = 16
    batch_size: int = 200
    categorical: tuple[int, ...] = (10,)
    uniform: int = 0
    normal: int = 0
    strength: float = 3.0
    objective: str = "encoder"
    smoothing: str = "entropic"
    epsilon: float = 0.015
    lam: float = 0.15
    lam_continuous: float = 0.01
    noises: int | None = None
    ground: str = "pixel"
    feature_share: float = 0.5
    dual_steps: int = 2
    debias: bool = True
    augment: Augment | None = dataclasses.field(default_factory=Augment)
    average: float = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.augment, dict):
            object.__setattr__(self, "augment", made(Augment, self.augment))
        if not isinstance(self.augment, Augment | None):
            raise ValueError(f"augment = {self.augment!r}: give an nn.augment.Augment, its fields, or None.")
        self.whole_each("categorical", least=2)
        self.whole("uniform", "normal", least=0)
        self.whole("dual_steps")
        self.whole_or_none("noises")
        self.positive("epsilon", "strength")
        self.not_negative("lam", "lam_continuous")
        for name, known in (
            ("objective", OBJECTIVES),
            ("ground", GROUNDS),
            ("smoothing", ("entropic", "quadratic")),
        ):
            self.one_of(name, known)
        most = self.epsilon if self.objective == "structured" else math.inf
        if self.lam > most:
            raise ValueError(
                f"lam = {self.lam} with objective = {self.objective!r} and epsilon = {self.epsilon}: give at least 0, "
                "and for structured at most epsilon."
            )
        self.below_one("average", "feature_share")
        noises = self.batch_size // self.num_codes(self.batch_size)
        if self.objective == "structured" and self.lam > 0 and (self.ground == "none" or noises < 2):
            raise ValueError(
                f"structured with ground = {self.ground!r} and {noises} noises for each code: give a ground other than "
                "none, and noises of 2 or more."
            )

    @functools.cached_property
    def latent(self) -> Latent:
        """What a latent consists of."""
        return Latent(self.categorical, self.uniform, self.normal, self.latent_dim, self.strength)

    def num_codes(self, num: int) -> int:
        """Return how many different codes `num` latents of a batch have.

        Raises:
          ValueError: if the latents do not share the codes evenly.
        """
        every = self.latent.combinations
        codes = num // self.noises if self.noises else num if self.latent.continuous else every
        if codes < 1 or num % codes or codes % every or (self.noises and codes * self.noises != num):
            raise ValueError(
                f"{num} latents in a batch, {every} categorical values, noises = {self.noises}: give a batch_size that "
                "is a multiple of the values, and of the values times noises."
            )
        return codes

    def fitting(self, num_images: int) -> Config:
        """Return this configuration with a batch that so many images fill, `dual_steps` + 1 times.

        Raises:
          ValueError: if there are too few images for any.
        """
        most = num_images // (self.dual_steps + 1)
        if most >= self.batch_size:
            return self
        every = math.lcm((self.noises or 1) * self.latent.combinations, jax.device_count())
        if most < every:
            raise ValueError(
                f"{num_images} images: a step takes {self.dual_steps + 1} batches of at least {every}; give more."
            )
        return dataclasses.replace(self, batch_size=most - most % every)


class Potential(nn.Module):
    """A dual potential h(c, y) of a code and a generated point, or h(y), in units of the mean cost.

    Example:
      >>> potential = og.models.informative_gan.Potential((8, 8, 1), "mlp", (16,), 32)
      >>> print(potential.features)
      128
    """

    image_shape: tuple[int, int, int]
    network: str
    hidden: tuple[int, ...]
    width: int
    precision: str = "float32"
    features: int = 128

    @nn.compact
    def __call__(self, codes: Array | None, points: Array) -> Array:
        networks = self.network, self.hidden, self.width, self.precision
        x = nn.gelu(encoder(self.image_shape, self.features, *networks)(points))
        x = x if codes is None else jnp.concatenate([x, codes], axis=1)
        return nn.Dense(1)(nn.gelu(nn.Dense(self.features)(x)))[:, 0]


class InformativeGAN(nn.Module):
    """Generator, potentials and encoder, and the law of the latents.

    A collection `transport` beside `params` holds `unit`, the mean cost of two data.

    Attributes:
      image_shape: (height, width, channels).
      config: see Config.
      known: for ground = "features", the fixed function from images [n, h, w, c] to features [n, p]. Static.

    Example:
      >>> config = og.models.informative_gan.Config(latent_dim=2, hidden=(16,))
      >>> print(og.models.informative_gan.InformativeGAN((8, 8, 1), config).config.categorical)
      (10,)
    """

    image_shape: tuple[int, int, int]
    config: Config
    known: Callable[[Array], Array] | None = None

    def setup(self) -> None:
        c = self.config
        networks = c.networks()
        self.generator = decoder(self.image_shape, *networks)
        self.critic = Potential(self.image_shape, *networks)
        self.own = Potential(self.image_shape, *networks)
        self.encoder = encoder(self.image_shape, c.latent.outputs, *networks)
        if c.ground == "adversarial":
            self.features = encoder(self.image_shape, 64, *networks)

    def __call__(self, codes: Codes, noise: Array) -> tuple[Array, ...]:
        """Both potentials [n], the encoder's outputs [n, outputs], and the features, of the images of latents."""
        images = self.decode(codes, noise)
        return self.potential(codes, images), self.own_potential(images), self.read(images), self.embed(images)

    def decode(self, codes: Codes, noise: Array) -> Array:
        """Return images [n, h, w, c] of codes and noise [n, latent_dim]."""
        return pixels_of(self.generator(self.config.latent.join(codes, noise)), self.config.output)

    def potential(self, codes: Codes, images: Array) -> Array:
        """Dual potential h(c, y) [n] of codes and generated images [n, h, w, c]."""
        return self.critic(self.config.latent.embed(codes), images)

    def own_potential(self, images: Array) -> Array:
        """Dual potential [n] of generated images [n, h, w, c] for the transport to others of their own law."""
        return self.own(None, images)

    def read(self, images: Array) -> Array:
        """Outputs [n, outputs] of the encoder Q for images [n, h, w, c]: see `Latent.log_laws`, `Latent.moments`."""
        return self.encoder(images)

    def embed(self, images: Array) -> Array:
        """Return features [n, p] of images [n, h, w, c] in the ground cost; [n, 0] where it has none."""
        if self.config.ground == "features":
            return self.known(images)
        return self.features(images) if self.config.ground == "adversarial" else jnp.zeros((images.shape[0], 0))

    def sample(self, key: Key, num: int) -> Array:
        """Draw images [num, h, w, c]."""
        return self.decode(*self.config.latent.sample(key, num))


class State(NamedTuple):
    """What training carries; of every network a TrainState, with the parameters of the others left out.

    Attributes:
      generator, encoder: G and Q.
      critic, own: potentials of the transport to the data and to the generated points themselves.
      features: of an adversarial ground cost; without parameters for pixels.
      unit: mean pixel cost of two data.
      step: steps of the generator (int32).

    Example:
      >>> print(og.models.informative_gan.State._fields)
      ('generator', 'encoder', 'critic', 'own', 'features', 'unit', 'step')
    """

    generator: TrainState
    encoder: TrainState
    critic: TrainState
    own: TrainState
    features: TrainState
    unit: Array
    step: Array


@usable
class Model(NamedTuple):
    """A trained informative OT-GAN.

    Attributes:
      module: the Flax module; its method `sample(key, num)` draws images.
      variables: its `params`, and `transport` with `unit`, the mean cost of two data.

    Example:
      >>> print(og.models.informative_gan.Model._fields)
      ('module', 'variables')
    """

    module: InformativeGAN
    variables: dict[str, Any]


def unit_of(images: Any) -> Array:
    """Return the mean cost |x - x'|^2 between two data [N, ...]: twice the sum of the variances of the pixels.

    Raises:
      ValueError: if all images are equal.

    Example:
      >>> print(og.models.informative_gan.unit_of(np.array([[0.0], [2.0]])))  # the mean of 0, 4, 4, 0
      2.0
    """
    images = np.asarray(native("images", images))
    if images.ndim < 2 or 0 in images.shape:
        raise ValueError(f"images have shape {images.shape}: give [N, ...], one at least.")
    scale = 255.0 if images.dtype == np.uint8 else 1.0
    pieces = np.array_split(images.reshape(len(images), -1), -(-len(images) // 1000))
    sums = [(piece.sum(0, np.float64), np.sum(piece.astype(np.float64) ** 2)) for piece in pieces]
    mean = sum(total for total, _ in sums) / len(images)
    unit = 2 * (sum(square for _, square in sums) / len(images) - np.sum(mean**2)) / scale**2
    if not (images != images[0]).any():
        raise ValueError(f"all {len(images)} images are equal: a generator has nothing to tell apart.")
    return jnp.float32(unit)


def _adam(config: Config, num_steps: int) -> optax.GradientTransformation:
    return adam(config.learning_rate, num_steps, b1=0.5, b2=0.9)


def init(
    key: Key,
    config: Config,
    example: Array,
    num_steps: int,
    *,
    unit: ArrayLike,
    features: Callable[[Array], Array] | None = None,
) -> tuple[InformativeGAN, State]:
    """Return the module and the state that training starts from; `unit` is that of the data, `features` as in `fit`.

    Example:
      >>> images, config = jnp.zeros((1, 8, 8, 1)), og.models.informative_gan.Config(latent_dim=2, hidden=(16,))
      >>> module, state = og.models.informative_gan.init(jax.random.key(0), config, images, 10, unit=1.0)
      >>> print(module.image_shape, state.step)
      (8, 8, 1) 0
    """
    example = check_start(key, config, Config, example, num_steps)
    if (features is None) == (config.ground == "features"):
        raise ValueError(f"ground = {config.ground!r}: give `features` for 'features', and only then.")
    require_positive("unit", unit)
    module = InformativeGAN(example.shape[1:], config, features)
    param_key, latent_key = jax.random.split(key)
    params = module.init(param_key, *config.latent.sample(latent_key, 2))["params"]

    def begun(name: str, steps: int = num_steps) -> TrainState:
        return start(_adam(config, steps), params.get(name, {}), average=name == "generator")

    critics = (begun(name, num_steps * config.dual_steps) for name in ("critic", "own"))
    networks = begun("generator"), begun("encoder"), *critics, begun("features")
    return module, State(*networks, jnp.asarray(unit), jnp.int32(0))


def make_step(module: InformativeGAN, num_steps: int):
    """Return the pure training step `(state, images, key, *, axis_name) -> (state, metrics)`.

    Row r of the images goes to step r mod (dual_steps + 1) of the potential, those of the last to generator and
    encoder. The transport is that between the latents and the data of all devices.

    Raises (when traced):
      ValueError: if the rows of a device are no multiple of dual_steps + 1.

    Example:
      >>> images = og.nn.to_unit(og.data.load("digits").images[:32])
      >>> options = {"latent_dim": 2, "hidden": (16,), "categorical": (2,), "batch_size": 16, "dual_steps": 1}
      >>> config = og.models.informative_gan.Config(**options)
      >>> module, state = og.models.informative_gan.init(jax.random.key(0), config, images, 10, unit=1.0)
      >>> print(jax.jit(og.models.informative_gan.make_step(module, 10))(state, images, jax.random.key(1))[0].step)
      1
    """
    check_step(module, InformativeGAN, num_steps)
    config = module.config
    for_networks, for_critics = _adam(config, num_steps), _adam(config, num_steps * config.dual_steps)
    parts = config.dual_steps + 1

    def step(state: State, images: Array, key: Key, *, axis_name: str | None = None):
        if images.shape[0] % parts:
            raise ValueError(f"{images.shape[0]} images on a device for {parts} steps: give a multiple.")
        data, num = to_unit(images), images.shape[0] // parts
        devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
        index = jnp.arange(num) + (0 if axis_name is None else jax.lax.axis_index(axis_name) * num)
        losses, num_codes = Losses(module, state.unit, axis_name), config.num_codes(num * devices)
        generator, encoder, critic, own, features = state[:5]
        learn = functools.partial(descend, axis_name=axis_name)
        latent_key, move_key = jax.random.split(key)

        def latents(place: int) -> tuple[Codes, Array]:
            batch_key = jax.random.fold_in(jax.random.fold_in(latent_key, state.step), place)
            return config.latent.batch(batch_key, index, num_codes)

        def points(z: tuple[Codes, Array]) -> Array:
            return module.apply({"params": {"generator": generator.params}}, *z, method="decode")

        for i in range(config.dual_steps):
            z, seen = latents(2 * i), data[i::parts]
            y = points(z)
            rest = encoder.params, features.params, z[0], y, seen
            critic, metrics = learn(for_critics, critic, losses.critic, *rest)
            if config.debias:
                rest = features.params, z[0], y, points(latents(2 * i + 1)), seen
                own, _ = learn(for_critics, own, losses.own, *rest)
        seen = data[config.dual_steps :: parts]
        z, fresh = latents(2 * config.dual_steps), latents(2 * config.dual_steps + 1)
        moved = seen
        if config.augment is not None and min(images.shape[1:3]) > 1:
            keys = sample_keys(move_key, state.step, num, axis_name)
            moved = augment(keys, seen, config.augment)
        rest = critic.params, features.params, z[0], points(z), seen, moved
        encoder, more = learn(for_networks, encoder, losses.encoder, *rest)
        fixed = critic.params, own.params, state.encoder.params, features.params
        after, also = learn(for_networks, generator, losses.generator, fixed, z, fresh, seen, decay=config.average)
        if config.ground == "adversarial":
            rest = generator.params, *fixed[:3], z, fresh, seen
            features, _ = learn(for_networks, features, losses.adversary, *rest)
        networks = after, encoder, critic, own, features
        return State(*networks, state.unit, state.step + 1), {**metrics, **more, **also}

    return step


@watched
def fit(
    key: Key,
    images: Any,
    *,
    features: Callable[[Array], Array] | None = None,
    callback: Callback | None = None,
    checkpoints: Any = None,
    **config: Any,
) -> Model:
    """Fit an informative OT-GAN to images in memory. It takes no labels: its codes are to find the classes.

    Args:
      key: random key.
      images: uint8, or floats, [N, h, w, c].
      features: for ground = "features", a pure function from images [n, h, w, c] in [0, 1] to features [n, p].
      callback: called with steps and metrics.
      checkpoints: a folder, or `train.Checkpoints`, to save in and to go on from, bit-identically.
      **config: fields of Config.

    Returns:
      Model: draw from it with `sample(key, model, num)`, read codes with `otgen.models.informative.code_reading`.

    Raises:
      ValueError: for images of another shape or range, equal images, fields out of range, or features that the
        ground cost does not have.
      TypeError: for a field that Config does not have.

    Example:
      >>> images = og.data.load("digits").images[:64]
      >>> tiny = {"latent_dim": 2, "hidden": (16,), "epochs": 1, "batch_size": 16, "dual_steps": 1}
      >>> model = og.models.informative_gan.fit(jax.random.key(0), images, categorical=(2,), **tiny)
      >>> print(og.models.informative_gan.sample(jax.random.key(1), model, 3).shape)
      (3, 8, 8, 1)
    """
    settings = made(Config, config)
    images = check_images(images, settings.output)
    settings = settings.fitting(len(images))
    module, state = fit_generator(
        key,
        images,
        settings,
        functools.partial(init, unit=unit_of(images), features=features),
        make_step,
        batches_per_step=settings.dual_steps + 1,
        callback=callback,
        checkpoints=checkpoints,
    )
    params = {"generator": state.generator.average, "encoder": state.encoder.params, "critic": state.critic.params}
    params |= {"own": state.own.params}
    if settings.ground == "adversarial":
        params["features"] = state.features.params
    return Model(module, {"params": params, "transport": {"unit": state.unit}})
