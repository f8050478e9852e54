"""AE-OT: an autoencoder, and the semi-discrete transport map from uniform noise to its codes.

Implements the method of An et al., "AE-OT: a new generative model based on extended semi-discrete optimal
transport" (ICLR 2020) and An et al. (2020), arXiv 2001.03698, section 3. Two stages, each a minimisation:

1. the autoencoder minimises the Bernoulli reconstruction loss, without any prior on the codes, and if asked the squared
   distance of an image and its reconstruction in the features of a fixed network;
2. the heights minimise the energy of the semi-discrete transport from the uniform law on the cube
   [-1/2, 1/2]^d to the standardised codes of the training images, each of weight 1/N.

Sampling is noise -> extended transport map -> decoder. A codec, an autoencoder that is there already, takes the place
of the first stage.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from otgen.models.apply import as_batch, check_images, parts_of, rows, transport_of, usable
from otgen.models.baselines import latent_law
from otgen.models.classes import check_labels as check_labels
from otgen.models.classes import require_label, rows_of_label
from otgen.models.codec.encoded import Encoded, codes_beside, params_of, settings_on
from otgen.models.codec.made import Codec, Features
from otgen.models.fitting import check_start, check_step, fit_generator
from otgen.ot import semidiscrete
from otgen.ot.check import as_array, as_count, as_key, require_function, require_kind
from otgen.ot.semidiscrete import extension
from otgen.progress import watched
from otgen.train.descent import descend
from otgen.train.loop import check_readers
from otgen.train.settings import Settings, adam, made, rows_of
from otgen.train.stages import opened
from otgen.train.state import TrainState, start
from otgen.types import Array, Callback, Key

_EXACT, _ROWS = 64, 512  # more samples than the first are drawn in multiples of the second: few numbers are compiled


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """What makes an AE-OT model, beside `Settings`.

    Attributes:
      tol: chi2 divergence of the cell masses that the transport is solved to.
      max_samples: limit of the noise samples the transport is trained on; None for the solver's.
      accumulate: batches whose mean gradient makes one step of the optimiser, where one large batch has no room.
      perceptual: weight of the distance in features that `fit` is given, see `loss`; 0 for none.

    Example:
      >>> print(og.models.ae_ot.Config(latent_dim=8, epochs=100).tol)  # chi2 of the transport
      0.05
    """

    tol: float = 0.05
    max_samples: int | None = None
    accumulate: int = 1
    perceptual: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.positive("tol"), self.not_negative("perceptual")
        self.whole("accumulate")
        self.whole_or_none("max_samples")


class AEOT(Encoded):
    """The whole system: networks in `params`, solved transport in the collection `transport`.

    `transport` holds codes [N, d] (standardised), h [N], centres [N, d], angle [], and mean, scale [d] of the codes.

    Attributes:
      image_shape: (height, width, channels).
      config: see Config.
      codec: module of the codec (`models.codec`) whose codes these are; None for an autoencoder of its own.

    Example:
      >>> module = og.models.ae_ot.AEOT((8, 8, 1), og.models.ae_ot.Config(latent_dim=2, hidden=(16,)))
      >>> print(module.image_shape, module.config.latent_dim)
      (8, 8, 1) 2
    """

    def codes(self, key: Key, num: int, form: str = extension.DEFAULT, angle: Array | float | None = None) -> Array:
        """Draw new codes [num, d] by the extended map."""
        known = self._transport()
        source_key, place_key = jax.random.split(key)
        x = extension.source_samples(source_key, num, self.config.latent_dim)
        return self.move(place_key, x, form, angle) * known["scale"] + known["mean"]

    def move(
        self, key: Key, x: Array, form: str = extension.DEFAULT, angle: Any = None, labels: Array | None = None
    ) -> Array:
        """Map noise x [n, d] to standardised codes [n, d] by the extended map."""
        return _map(self._transport()).move(key, x, form=form, angle=angle, labels=labels).points

    def sample(self, key: Key, num: int, form: str = extension.DEFAULT, angle: Array | float | None = None) -> Array:
        """Draw images [num, h, w, c] in [0, 1]: noise -> extended map -> decoder."""
        return self.decode(self.codes(key, num, form, angle))

    def _transport(self) -> dict[str, Array]:
        names = ("codes", "h", "centres", "angle", "mean", "scale")
        transport_of(self.variables)
        return {name: self.get_variable("transport", name) for name in names}


@usable
class Model(NamedTuple):
    """A trained AE-OT.

    Attributes:
      module: the Flax module.
      variables: its `params` and `transport`.
      labels: labels [N] of the training images that the codes belong to, or None.
      info: how the transport solver ended.

    Example:
      >>> images = og.data.load("digits").images[:100]
      >>> tiny = {"latent_dim": 2, "hidden": (16,), "epochs": 2, "batch_size": 20, "tol": 0.5}
      >>> model = og.models.ae_ot.fit(jax.random.key(0), images, **tiny)
      >>> print(sorted(model.variables), model.labels, bool(model.info.chi2 < 0.5))
      ['params', 'transport'] None True
    """

    module: AEOT
    variables: dict[str, Any]
    labels: Array | None
    info: semidiscrete.Info


def num_steps_of(config: Config, num_images: int) -> int:
    """Return batches of the autoencoder: whole ones per epoch, times the epochs, up to a multiple of those accumulated.

    Example:
      >>> config = og.models.ae_ot.Config(epochs=3, batch_size=10)
      >>> print(og.models.ae_ot.num_steps_of(config, 45))  # 4 whole batches, 3 times
      12
    """
    require_kind("config", config, Config), as_count("num_images", num_images)
    num = max(1, round(config.epochs * (num_images // rows_of(config, num_images))))
    return -(-num // config.accumulate) * config.accumulate


def optimiser(config: Config, num_steps: int) -> optax.GradientTransformation:
    """Adam with 5 % linear warm-up and cosine decay to 1 % of the peak.

    Example:
      >>> adam = og.models.ae_ot.optimiser(og.models.ae_ot.Config(), num_steps=100)
      >>> print(adam.init(jnp.zeros(2)) is not None)
      True
    """
    require_kind("config", config, Config)
    return adam(config.learning_rate, num_steps, accumulate=config.accumulate)


def init(key: Key, config: Config, example: Array, num_steps: int) -> tuple[AEOT, TrainState]:
    """Return the module and the state that training starts from.

    Args:
      key: random key of the parameters.
      config: the model.
      example: images [n, h, w, c] of the right shape.
      num_steps: length of the learning-rate schedule.

    Example:
      >>> config = og.models.ae_ot.Config(latent_dim=2, hidden=(16,))
      >>> module, state = og.models.ae_ot.init(jax.random.key(0), config, jnp.zeros((1, 8, 8, 1)), num_steps=10)
      >>> print(module.image_shape, state.step)
      (8, 8, 1) 0
    """
    example = check_start(key, config, Config, example, num_steps)
    module = AEOT(example.shape[1:], config)
    params = module.init(key, example)["params"]
    return module, start(optimiser(config, num_steps), params)


def loss(params: Any, module: AEOT, images: Array, features: Features | None = None) -> tuple[Array, dict[str, Array]]:
    """Return the mean over images of the summed binary cross-entropy of the pixels, and metrics.

    With features phi, `perceptual` h w c E |phi(x) - phi(x')|^2 / E |phi(x)|^2 is added, for images x and their
    reconstructions x': as the cross-entropy it is a number for each of the h w c pixels, whatever the features' scale.

    Args:
      params: parameters of the module.
      module: the model.
      images: uint8, or floats in [0, 1], [n, h, w, c].
      features: images [n, h, w, c] in [0, 1] to features [n, p], for `module.config.perceptual` > 0.

    Returns:
      Loss in nats per image; metrics `loss`, `mse` (mean squared pixel error) and, with features, `perceptual`, the
      quotient above.

    Raises:
      ValueError: for features without a weight, and a weight without features.

    Example:
      >>> config = og.models.ae_ot.Config(latent_dim=2, hidden=(16,))
      >>> module, state = og.models.ae_ot.init(jax.random.key(0), config, jnp.zeros((1, 8, 8, 1)), num_steps=10)
      >>> loss, _ = og.models.ae_ot.loss(state.params, module, jnp.zeros((4, 8, 8, 1)))
      >>> print(bool(20 < loss < 80), 64 * np.log(2))  # untrained: about log 2 a pixel
      True 44.3614
    """
    require_kind("module", module, AEOT)
    _require_features(module.config, features)
    images = as_batch(module, images)
    logits = module.apply({"params": params}, images)
    value, made = optax.sigmoid_binary_cross_entropy(logits, images).sum((1, 2, 3)).mean(), nn.sigmoid(logits)
    metrics = {"mse": jnp.mean((made - images) ** 2)}
    if features is not None:
        known = features(images)
        metrics["perceptual"] = jnp.mean((features(made) - known) ** 2) / jnp.maximum(jnp.mean(known**2), 1e-12)
        value = value + module.config.perceptual * images[0].size * metrics["perceptual"]
    return value, {"loss": value, **metrics}


def _require_features(config: Config, features: Features | None) -> None:
    """Raise ValueError for features without a weight in `Config.perceptual`, or a weight without features."""
    require_kind("config", config, Config)
    if features is not None:
        require_function("features", features)
    if (config.perceptual > 0) != (features is not None):
        raise ValueError(
            f"perceptual = {config.perceptual}: give features with a weight above 0, and only with one; such as "
            "og.models.codec.features(codec)."
        )


def make_step(module: AEOT, num_steps: int, features: Features | None = None):
    """Return the pure training step `(state, images, key, *, axis_name) -> (state, metrics)` of the autoencoder.

    Args:
      module: the model.
      num_steps: length of the learning-rate schedule.
      features: as in `loss`.

    Example:
      >>> images, config = jnp.ones((4, 8, 8, 1)), og.models.ae_ot.Config(latent_dim=2, hidden=(16,))
      >>> module, state = og.models.ae_ot.init(jax.random.key(0), config, images, num_steps=10)
      >>> state, metrics = jax.jit(og.models.ae_ot.make_step(module, num_steps=10))(state, images, jax.random.key(1))
      >>> print(state.step, metrics["loss"].shape)
      1 ()
    """
    check_step(module, AEOT, num_steps), _require_features(module.config, features)
    transform = optimiser(module.config, num_steps)

    def step(state: TrainState, images: Array, key: Key, *, axis_name: str | None = None):
        del key  # nothing in this step is random
        return descend(transform, state, loss, module, images, features, axis_name=axis_name)

    return step


def encode(module: AEOT, variables: Any, images: Any) -> Array:
    """Return codes [n, d] of images [n, h, w, c], uint8 or in [0, 1], in the autoencoder's own scale.

    Example:
      >>> images = og.data.load("digits").images[:100]
      >>> tiny = {"latent_dim": 2, "hidden": (16,), "epochs": 2, "batch_size": 20, "tol": 0.5}
      >>> model = og.models.ae_ot.fit(jax.random.key(0), images, **tiny)
      >>> print(og.models.ae_ot.encode(model.module, model.variables, images[:5]).shape)
      (5, 2)
    """
    return rows(module, variables, images, "encode")


def decode(module: AEOT, variables: Any, codes: Array) -> Array:
    """Return images [n, h, w, c] in [0, 1] of codes [n, d] in the autoencoder's own scale.

    Example:
      >>> images = og.data.load("digits").images[:100]
      >>> tiny = {"latent_dim": 2, "hidden": (16,), "epochs": 2, "batch_size": 20, "tol": 0.5}
      >>> model = og.models.ae_ot.fit(jax.random.key(0), images, **tiny)
      >>> print(og.models.ae_ot.decode(model.module, model.variables, jnp.zeros((5, 2))).shape)
      (5, 8, 8, 1)
    """
    return rows(module, variables, codes, "decode")


@watched
def train_autoencoder(
    key: Key,
    images: np.ndarray,
    config: Config,
    *,
    features: Features | None = None,
    callback: Callback | None = None,
    checkpoints: Any = None,
    **options: Any,
) -> tuple[AEOT, Any]:
    """Train the autoencoder, going on from the newest checkpoint if there is one.

    Args:
      key: random key of this stage.
      images: uint8 [N, h, w, c].
      config: the model.
      features: for `perceptual` > 0, a pure function as in `loss`.
      callback: called with steps and metrics.
      checkpoints: a folder, or `train.Checkpoints`, to save in and to go on from, bit-identically.
      **options: as in `train.train`.

    Returns:
      The module and its parameters.

    Example:
      >>> images = og.data.load("digits").images[:100]
      >>> config = og.models.ae_ot.Config(latent_dim=2, hidden=(16,), epochs=2, batch_size=20)
      >>> module, params = og.models.ae_ot.train_autoencoder(jax.random.key(0), images, config)
      >>> print(module.config == config)
      True
    """
    _require_features(config, features), check_readers(callback, checkpoints)
    num = len(check_images(images))
    config = dataclasses.replace(config, batch_size=rows_of(config, num))
    options |= {"num_steps": num_steps_of(config, num), "stage": "autoencoder"}
    options |= {"callback": callback, "checkpoints": checkpoints}
    step = functools.partial(make_step, features=features)
    module, state = fit_generator(key, images, config, init, step, **options)
    return module, state.params


@watched
def solve(
    key: Key,
    module: AEOT,
    params: Any,
    images: np.ndarray,
    *,
    codes: Any = None,
    callback: Callback | None = None,
    checkpoints: Any = None,
) -> tuple[dict[str, Any], semidiscrete.Info]:
    """Solve the transport from noise to the codes of the images, going on from the newest checkpoint if any.

    Codes are standardised: those of its own autoencoder coordinate by coordinate, those of a codec, whose distances
    mean something, as a whole.

    Args:
      key: random key of this stage.
      module: the model. params: its trained parameters.
      images: the training images [N, h, w, c].
      codes: their codes [N, d] where they are known; None to encode them.
      callback: called with the solver's steps and metrics.
      checkpoints: a folder, or `train.Checkpoints`, where the solver's state is saved once a minute.

    Returns:
      The variables `params` and `transport`, and the solver's Info.

    Raises:
      ValueError: if the codes are not finite or all coincide.

    Example:
      >>> images = og.data.load("digits").images[:100]
      >>> config = og.models.ae_ot.Config(latent_dim=2, hidden=(16,), epochs=2, batch_size=20, tol=0.5)
      >>> module, params = og.models.ae_ot.train_autoencoder(jax.random.key(0), images, config)
      >>> transport, info = og.models.ae_ot.solve(jax.random.key(1), module, params, images)
      >>> print(info.status == og.Status.CONVERGED)
      True
    """
    as_key(key), require_kind("module", module, AEOT), check_readers(callback, checkpoints)
    config = module.config
    given = {} if codes is None else {"codes": np.asarray(codes)}  # what a folder of checkpoints is known by
    if codes is None:
        codes = encode(module, {"params": params}, images)
    codes = as_array("codes", codes, (len(images), config.latent_dim))
    mean, variance = codes.mean(0), codes.var(0)
    if module.codec is not None:
        variance = jnp.full_like(variance, variance.mean())
    scale = jnp.maximum(jnp.sqrt(variance), 1e-6)
    codes = (codes - mean) / scale
    with opened(checkpoints, "transport", config, key=key, images=np.asarray(images), params=params, **given) as saved:
        law, info = latent_law.transport(
            key, codes, tol=config.tol, max_samples=config.max_samples, callback=callback, checkpoints=saved
        )
    transport = {
        "codes": law.y,
        "h": law.h,
        "centres": law.extension.centres,
        "angle": law.extension.angle,
        "mean": mean,
        "scale": scale,
    }
    return {"params": params, "transport": transport}, info


@watched
def fit(
    key: Key,
    images: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    codec: Codec | None = None,
    codes: Any = None,
    features: Features | None = None,
    callback: Callback | None = None,
    checkpoints: Any = None,
    **config: Any,
) -> Model:
    """Fit an AE-OT model to images in memory.

    Args:
      key: random key.
      images: uint8, or floats in [0, 1], [N, h, w, c].
      labels: integers [N], to draw from one class by `sample(..., label=)`; None for none.
      codec: an autoencoder that is there already (`models.codec`), in whose codes the transport is solved; None to
        train one.
      codes: codes [N, d] of the images by the codec, where they are known; None to encode them.
      features: for a weight `perceptual` of their distance in the autoencoder's loss, a pure function of images
        [n, h, w, c] in [0, 1] to features [n, p], such as `models.codec.features(codec)`.
      callback: called with steps and metrics of both stages.
      checkpoints: a folder in which both stages save, and from which they go on, bit-identically.
      **config: fields of Config.

    Returns:
      Model.

    Raises:
      ValueError: for images of another shape or range, labels that do not match, a folder of another configuration.
      TypeError: for a field that Config does not have.

    Example:
      >>> images = og.data.load("digits").images[:100]
      >>> tiny = {"latent_dim": 2, "hidden": (16,), "epochs": 2, "batch_size": 20, "tol": 0.5}
      >>> model = og.models.ae_ot.fit(jax.random.key(0), images, **tiny)
      >>> print(og.models.ae_ot.sample(jax.random.key(1), model, 3).shape)
      (3, 8, 8, 1)
    """
    check_readers(callback, checkpoints, stages=2 if codec is None else 1)
    images, settings = np.asarray(check_images(images)), made(Config, config)
    labels = check_labels(labels, len(images))
    train_key, solve_key = jax.random.split(as_key(key))
    options = {"callback": callback, "checkpoints": checkpoints}
    if codec is None:
        module, params = train_autoencoder(train_key, images, settings, features=features, **options)
    elif features is not None or settings.perceptual:
        raise ValueError("features and perceptual are of an autoencoder to be trained: leave them out beside a codec.")
    else:
        settings = settings_on(codec, images.shape[1:], Config, config)
        module, params = AEOT(images.shape[1:], settings, codec=codec.module), params_of(codec)
        options["codes"] = codes_beside(codec, images, checkpoints) if codes is None else codes
    variables, info = solve(solve_key, module, params, images, **options)
    return Model(module, variables, labels, info)


@functools.partial(jax.jit, static_argnames=("module", "num", "form"))
def _codes(module: AEOT, variables: Any, key: Key, num: int, form: str, angle: Any) -> Array:
    return module.apply(variables, key, num, form, angle, method="codes")


def sample(
    key: Key,
    model: Model,
    num: int,
    *,
    label: int | None = None,
    form: str = extension.DEFAULT,
    angle: float | None = None,
) -> Array:
    """Draw images from a trained model, decoded in pieces: memory beside the images does not grow with their number.

    Args:
      key: random key.
      model: from `fit`.
      num: how many.
      label: draw only from the cells whose code has this label, and combine only codes of it.
      form: of the extended map: "pairs", "simplex", "stochastic" or "local" (the default).
      angle: threshold of the singular set in radians, in [0, pi]; None for the model's.

    Returns:
      Images [num, h, w, c] in [0, 1].

    Raises:
      ValueError: for a label the model does not know, an unknown form, an angle outside [0, pi], what is no key, or a
        num that is no whole number of at least 1.

    Example:
      >>> digits = og.data.load("digits", "test")
      >>> tiny = {"latent_dim": 2, "hidden": (16,), "epochs": 2, "batch_size": 20, "tol": 0.5}
      >>> model = og.models.ae_ot.fit(jax.random.key(0), digits.images, digits.labels, **tiny)
      >>> print(og.models.ae_ot.sample(jax.random.key(1), model, 4, label=7, form="simplex").shape)
      (4, 8, 8, 1)
    """
    as_key(key), as_count("num", num)
    threshold = transport_of(parts_of(model, AEOT)[1])["angle"]
    extension.check_form(form, 0.0 if angle is None else angle)
    if label is None:
        angle = jnp.asarray(threshold if angle is None else angle, threshold.dtype)  # one program, given or not
        rows = num if num <= _EXACT else -(-num // _ROWS) * _ROWS  # the first `num` are the same
        codes = _codes(model.module, model.variables, key, rows, form, angle)[:num]
    else:
        codes = _codes_of_class(key, model, num, label, form, angle)
    return decode(model.module, model.variables, codes)


def _codes_of_class(key: Key, model: Model, num: int, label: int, form: str, angle: float | None) -> Array:
    """Return codes [num, d] whose winner carries the label: noise is drawn until enough of it falls in such cells."""
    require_label(label, [] if model.labels is None else np.unique(np.asarray(model.labels)).tolist())
    transport, labels = model.variables["transport"], np.asarray(model.labels)

    def draw(one: Key) -> tuple[Array, np.ndarray]:
        source_key, place_key = jax.random.split(one)
        x = extension.source_samples(source_key, semidiscrete.TILE, model.module.config.latent_dim)
        return _move(model, place_key, x, form, angle), labels[np.asarray(_map(transport).assign(x))]

    codes = rows_of_label(key, draw, label, float(np.mean(labels == label)), num)
    return codes * transport["scale"] + transport["mean"]


def map_of(model: Model) -> semidiscrete.Map:
    """Return the extended map from noise to the standardised codes of a trained model.

    Its points are (codes - mean) / scale with the `mean` and `scale` of the collection `transport`.

    Raises:
      ValueError: for what is no trained AE-OT.

    Example:
      >>> images = og.data.load("digits").images[:100]
      >>> tiny = {"latent_dim": 2, "hidden": (16,), "epochs": 2, "batch_size": 20, "tol": 0.5}
      >>> to_codes = og.models.ae_ot.map_of(og.models.ae_ot.fit(jax.random.key(0), images, **tiny))
      >>> print(to_codes.y.shape, to_codes(jnp.zeros((3, 2))).shape)
      (100, 2) (3, 2)
    """
    return _map(transport_of(parts_of(model, AEOT)[1]))


def _map(known: dict[str, Array]) -> semidiscrete.Map:
    return latent_law.map_to(known["codes"], known["h"], extension.Extension(known["centres"], known["angle"]))


def _move(model: Model, key: Key, x: Array, form: str, angle: float | None) -> Array:
    return model.module.apply(model.variables, key, x, form, angle, model.labels, method="move")
