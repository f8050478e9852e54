"""A generator of one evaluation that descends the Sinkhorn divergence between the law of its draws and that of data.

Draws x = G(z) go with the velocity V(x) = T(x) - T'(x): T is the barycentric map of entropic transport to a batch of
data y, T' that to a second, independent batch of draws x'. The generator is regressed on G(z) + V held constant
("drift"), or descends the divergence as it is written ("divergence"); with exact marginals both have the same gradient
in expectation.
Without the second batch the push of T' is too weak, and the generator shrinks. There is no critic, and no game.

Batches have other shares of the modes of the data than their laws, and exact transport between them draws bridges
between modes. So the marginals are relaxed by `rho`: small differences of mass cost less than their transport.

A batch of draws moves by several batches of data and as many held draws, which costs no gradients and makes the plan,
and so the velocity, that of many more points. One plan may move several batches of draws, and serve several steps of
the optimiser, each a regression on where the draws were moved to. Samples are drawn from the moving average of the
weights.

Reference: Genevay, Peyre and Cuturi (2018), arXiv 1706.00292 (the divergence of minibatches as a loss); Feydy et al.
(2019), arXiv 1810.08278 (its gradient); Fatras et al. (2021), arXiv 2103.03606 (relaxed marginals of minibatches);
W-Flow, arXiv 2605.11755, Drifting, arXiv 2602.04770, and Sinkhorn-Drifting, arXiv 2603.12366 (one evaluation by
velocities of particles).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen.models.apply import Model, as_batch, check_images
from otgen.models.apply import sample as sample
from otgen.models.classes import beside, check_classes, collection_of, drawn, example_of, parted
from otgen.models.fitting import check_start, check_step, fit_generator
from otgen.nn.autoencoder import decoder, to_unit
from otgen.nn.pixels import pixels_of
from otgen.ot import sinkhorn
from otgen.ot.check import as_array, as_count, as_points, native, require_function, require_kind, require_positive
from otgen.ot.costs import PairwiseCost
from otgen.ot.products import product
from otgen.ot.sinkhorn.divergence import sinkhorn_divergence
from otgen.ot.sinkhorn.drift import drift
from otgen.progress import watched
from otgen.train.descent import descend
from otgen.train.parallel import gathered, normals
from otgen.train.settings import GeneratorSettings, adam, made
from otgen.train.state import TrainState, start
from otgen.types import Array, Callback, Key

LOSSES = ("drift", "divergence")
SECONDS = ("batch", "mask", "same", "none")
WAVES = 64  # random frequencies
APART = 3.0  # strength of one-hot vectors beside features, in roots of the mean cost

Features = Callable[[Any], ArrayLike]


@dataclasses.dataclass(frozen=True)
class Config(GeneratorSettings):
    """What makes the generator, beside `GeneratorSettings`; an epoch counts the data that draws are moved by.

    Attributes:
      batch_size: draws in a step of the optimiser, over all devices.
      batches: batches of data, and of held draws, that they are moved by. A step takes them all: of a small set give
        fewer, or more epochs, or there are few steps.
      moved: batches of draws that one plan moves; `batches` is a multiple of it.
      repeats: steps of the optimiser on each of them, before the next plan ("drift" only).
      loss: "drift", the regression on draws moved by the velocity, or "divergence", whose gradients also flow into the
        second batch.
      second: what pushes draws apart: "batch", a second, independent batch of draws; "mask", the first one, where none
        may stay at itself; "same", the first one, under which the generator shrinks; "none".
      epsilon: temperature, as a share of the mean cost between two data; or several, that are averaged over.
      epsilon_start: largest temperature at the start, from which all, and rho with them, fall by one factor until half
        of the training; None for no annealing.
      rho: price of mass that the plans leave out, in KL, as a share of the mean cost; None for exact marginals. Small
        against the cost of the way from draws to data it does not pull them there any more: start higher.
      tol: marginal error of the plans.
      frequencies: standard deviation of random frequencies; the network reads sines and cosines of the noise along them
        too, and so learns steps as steep as between modes that lie far apart; 0 for none.
      average: decay of the moving average of the weights that samples are drawn with.

    Example:
      >>> config = og.models.sinkhorn_generator.Config(latent_dim=2, hidden=(16,), epsilon=(0.02, 0.01))
      >>> print(config.second, config.epsilon)
      batch (0.02, 0.01)
    """

    epochs: float = 100
    batch_size: int = 200
    learning_rate: float = 4e-3
    batches: int = 10
    moved: int = 1
    repeats: int = 1
    loss: str = "drift"
    second: str = "batch"
    epsilon: float | Sequence[float] = 0.01
    epsilon_start: float | None = None
    rho: float | None = 0.3
    tol: float = 0.01
    frequencies: float = 0.0
    average: float = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        self.whole("batches", "moved", "repeats")
        if self.batches % self.moved:
            raise ValueError(f"batches = {self.batches}, moved = {self.moved}: give a multiple of moved.")
        self.one_of("loss", LOSSES)
        self.one_of("second", SECONDS)
        if self.loss != "drift" and self.moved * self.repeats > 1:
            raise ValueError("loss = 'divergence' takes one step with each plan: leave moved and repeats at 1.")
        optional = (name for name in ("epsilon_start", "rho") if getattr(self, name) is not None)
        self.positive("tol", *optional)
        self.not_negative("frequencies")
        self.below_one("average")
        if isinstance(self.epsilon, Sequence) and not isinstance(self.epsilon, str):
            for value in self.epsilon:
                require_positive("each epsilon", value)
            object.__setattr__(self, "epsilon", tuple(float(value) for value in self.epsilon))
            if not self.epsilon:
                raise ValueError("epsilon = (): give one temperature or several.")
        else:
            self.positive("epsilon")

    def temperatures(self) -> tuple[float, ...]:
        """Return all temperatures, as shares of the mean cost."""
        return self.epsilon if isinstance(self.epsilon, tuple) else (self.epsilon,)


class SinkhornGenerator(nn.Module):
    """Noise N(0, I), and a class where there are labels, to data.

    Attributes:
      image_shape: (height, width, channels).
      config: see Config.
      num_classes: classes of its data; 0 without labels.
      flat: whether draws are given as points [num, d] rather than as images [num, d, 1, 1].

    Example:
      >>> config = og.models.sinkhorn_generator.Config(latent_dim=2, hidden=(16,))
      >>> module = og.models.sinkhorn_generator.SinkhornGenerator((8, 8, 1), config)
      >>> print(module.image_shape, module.config.latent_dim)
      (8, 8, 1) 2
    """

    image_shape: tuple[int, int, int]
    config: Config
    num_classes: int = 0
    flat: bool = False

    def setup(self) -> None:
        self.decoder = decoder(self.image_shape, *self.config.networks())

    def __call__(self, noise: Array, classes: Array | None = None) -> Array:
        """Return images [n, h, w, c] of noise [n, d] and classes [n]."""
        if self.config.frequencies:
            noise = jnp.concatenate([noise, _waves(noise, self.config.frequencies)], axis=-1)
        return pixels_of(self.decoder(beside(self, noise, classes)), self.config.output)

    def sample(self, key: Key, num: int, of_class: Array | None = None) -> Array:
        """Draw images [num, h, w, c], or points [num, d], of one class or all."""
        noise = jax.random.normal(key, (num, self.config.latent_dim))
        images = self(noise, drawn(self, key, num, of_class))
        return images.reshape(num, -1) if self.flat else images


def _waves(noise: Array, deviation: float) -> Array:
    """Return sines and cosines [n, 128] of noise [n, d] along 64 fixed random frequencies of a standard deviation.

    Reference: Tancik et al. (2020), arXiv 2006.10739: random Fourier features let a network learn what varies fast.
    """
    directions = jax.random.normal(jax.random.key(0, impl="threefry2x32"), (noise.shape[-1], WAVES))
    angle = product(noise, deviation * directions)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def loss(
    params: Any,
    module: SinkhornGenerator,
    images: Array,
    noise: Array,
    other_noise: Array,
    classes: Array | None = None,
    *,
    heat: ArrayLike = 1.0,
    features: Features | None = None,
    axis_name: str | None = None,
) -> tuple[Array, dict[str, Array]]:
    """Return the loss on a batch of data and two of noise, in units of the mean cost between two data, and metrics.

    For "drift" it is the mean of |V|^2: what the velocities of batches are at equal laws is left of it. For
    "divergence" it is `sinkhorn_divergence` of the batches.

    Args:
      params: parameters of the module.
      module: the model.
      images: data [m, h, w, c], uint8 or floats.
      noise: standard normal [n, d], of the draws that are moved; m is a multiple of n.
      other_noise: standard normal [k, d], of the second batch; as many as there are images where they have classes.
      classes: numbers [m] of the classes of the images, from 0; None where the module has none. Every draw of the
        second batch is of the class of its image, and draw i of the first of that of image i m / n.
      heat: factor of the temperatures.
      features: function from images [n, h, w, c] to features [n, f] between which the transport is; pixels for None.
      axis_name: the mapped axis, if there is one: the plans are those of the whole batch. Static.

    Returns:
      Loss; metrics `loss` and `error`, the largest marginal error of the plans.

    Example:
      >>> config = og.models.sinkhorn_generator.Config(latent_dim=2, hidden=(16,))
      >>> images, noise = jnp.ones((6, 8, 8, 1)).at[:3].set(0), jax.random.normal(jax.random.key(1), (6, 2))
      >>> module, state = og.models.sinkhorn_generator.init(jax.random.key(0), config, images, num_steps=10)
      >>> value, metrics = og.models.sinkhorn_generator.loss(state.params, module, images, noise[:3], noise)
      >>> print(value.shape, bool(metrics["error"] < config.tol))
      () True
    """
    require_kind("module", module, SinkhornGenerator)
    images, config = as_batch(module, images), module.config
    noise = as_array("noise", noise, (None, config.latent_dim), finite=False)
    other_noise = as_array("other_noise", other_noise, (None, config.latent_dim), finite=False)
    check_classes(module, classes, len(images))
    require_positive("heat", heat)
    if not len(noise) or len(images) % len(noise):
        raise ValueError(f"{len(noise)} rows of noise for {len(images)} images: give a whole share of their number.")
    if features is not None:
        require_function("features", features)
    given = module, images, noise, other_noise, classes, heat, features, axis_name
    if config.loss == "divergence":
        clouds, epsilon, unit = _clouds(params, *given)
        value, error = _divergence(config, epsilon, *clouds)
        return value / unit, {"loss": value / unit, "error": error}
    targets, unit, error = _targets(params, *given)
    of_draws = None if classes is None else jnp.asarray(classes)[:: len(images) // len(noise)]
    value, metrics = _regression(params, module, noise, of_draws, targets, unit, features)
    return value, {**metrics, "error": error}


def _clouds(
    params: Any,
    module: SinkhornGenerator,
    images: Array,
    noise: Array,
    other_noise: Array,
    classes: Array | None,
    heat: ArrayLike,
    features: Features | None,
    axis_name: str | None,
) -> tuple[tuple[Array, Array, Array | None], Array, Array]:
    """Return draws, data and second draws of all devices, with classes beside them, temperatures, and their unit."""
    of_draws = None if classes is None else jnp.asarray(classes)[:: len(images) // len(noise)]
    config, seen = module.config, _seen_by(features)
    y = jax.lax.stop_gradient(seen(images))
    unit = 2 * gathered(y, axis_name).var(axis=0).sum()
    tell = functools.partial(beside, module, strength=APART * unit**0.5)

    def draws(noise: Array, classes: Array | None) -> Array:
        return tell(seen(module.apply({"params": params}, noise, classes)), classes)

    x_other = draws(other_noise, classes) if config.second == "batch" else None
    clouds = gathered((draws(noise, of_draws), tell(y, classes), x_other), axis_name)
    return clouds, unit * jnp.asarray(heat) * jnp.asarray(config.temperatures()), unit


def _targets(params: Any, module: SinkhornGenerator, *given: Any) -> tuple[Array, Array, Array]:
    """Return where the draws of this device go [n, f], without the classes beside them, the unit, and the error."""
    (x, y, x_other), epsilon, unit = _clouds(params, module, *given)
    _, noise, _, _, heat, _, axis_name = given
    config = module.config
    rho = None if config.rho is None else config.rho * unit * jnp.asarray(heat)
    options = {"epsilon": epsilon, "rho": rho, "tol": config.tol}
    if config.second == "none":
        pulled, error = _pull(x, y, **options)
    else:
        diagonal = "mask" if config.second == "mask" else "keep"
        pulled, info = drift(x, y, x_other, diagonal=diagonal, return_info=True, **options)
        error = info.error
    targets = (x + pulled)[:, : x.shape[1] - module.num_classes]
    if axis_name is not None:
        targets = jax.lax.dynamic_slice_in_dim(targets, jax.lax.axis_index(axis_name) * len(noise), len(noise))
    return jax.lax.stop_gradient((targets, unit, error))


def _pull(x: Array, y: Array, epsilon: Array, rho: Array | None, tol: float) -> tuple[Array, Array]:
    """Return the first half of `drift`, T(x) - x averaged over the temperatures, and the largest error of the plans."""
    found, errors = 0.0, []
    for at in epsilon:
        tau = 1.0 if rho is None else rho / (rho + at)
        solution, info = sinkhorn.run(PairwiseCost(x, y), epsilon=at, tau_a=tau, tau_b=tau, tol=tol)
        found += solution.apply_plan(y) / solution.marginals()[0][:, None] - x
        errors.append(info.error)
    return found / len(epsilon), jnp.max(jnp.stack(errors))


def _regression(
    params: Any,
    module: SinkhornGenerator,
    noise: Array,
    classes: Array | None,
    targets: Array,
    unit: Array,
    features: Features | None,
) -> tuple[Array, dict[str, Array]]:
    """Return the mean of |features(G(z)) - target|^2 in the unit, and metrics."""
    found = _seen_by(features)(module.apply({"params": params}, noise, classes))
    value = jnp.mean(jnp.sum((found - targets) ** 2, axis=1)) / unit
    return value, {"loss": value}


def _seen_by(features: Features | None) -> Features:
    return (lambda images: images.reshape(len(images), -1)) if features is None else features


def _divergence(config: Config, epsilon: Array, x: Array, y: Array, x_other: Array | None) -> tuple[Array, Array]:
    """Return the divergence, or its first term alone, averaged over the temperatures, and the error of the plans."""
    diagonal, found = "mask" if config.second == "mask" else "keep", []
    for share, at in zip(config.temperatures(), epsilon, strict=True):
        tau = 1.0 if config.rho is None else config.rho / (config.rho + share)
        options = {"epsilon": at, "tau_a": tau, "tau_b": tau, "tol": config.tol, "return_info": True}
        if config.second == "none":
            found.append(sinkhorn.value(PairwiseCost(x, y), **options))
        else:
            found.append(sinkhorn_divergence(x, y, x_other=x_other, diagonal=diagonal, **options))
    return sum(value for value, _ in found) / len(found), jnp.max(jnp.stack([info.error for _, info in found]))


def init(
    key: Key, config: Config, example: Array, num_steps: int, num_classes: int = 0
) -> tuple[SinkhornGenerator, TrainState]:
    """Return the module and the state that training starts from; `example` is one image or more [n, h, w, c].

    Example:
      >>> config = og.models.sinkhorn_generator.Config(latent_dim=2, hidden=(16,))
      >>> images = jnp.zeros((1, 8, 8, 1))
      >>> module, state = og.models.sinkhorn_generator.init(jax.random.key(0), config, images, num_steps=10)
      >>> print(module.image_shape, state.step)
      (8, 8, 1) 0
    """
    shape = check_start(key, config, Config, example, num_steps).shape[1:]
    module = SinkhornGenerator(shape, config, as_count("num_classes", num_classes, 0))
    params = module.init(key, jnp.zeros((1, config.latent_dim)), example_of(module))["params"]
    return module, start(_optimiser(config, num_steps), params, average=True)


def make_step(module: SinkhornGenerator, num_steps: int, features: Features | None = None):
    """Return the pure training step `(state, batch, key, *, axis_name) -> (state, metrics)`, with one plan each.

    A batch is `config.batches` batches of images, with labels images and their classes; `features` as in `loss`.

    Raises (when traced):
      ValueError: if the rows of a device are no multiple of `config.batches`.

    Example:
      >>> config = og.models.sinkhorn_generator.Config(latent_dim=2, hidden=(16,), batch_size=4, batches=2)
      >>> images = jax.random.uniform(jax.random.key(0), (8, 8, 8, 1))
      >>> module, state = og.models.sinkhorn_generator.init(jax.random.key(0), config, images, num_steps=10)
      >>> step = jax.jit(og.models.sinkhorn_generator.make_step(module, num_steps=10))
      >>> state, metrics = step(state, images, jax.random.key(1))
      >>> print(state.step, bool(metrics["error"] < config.tol))
      1 True
    """
    check_step(module, SinkhornGenerator, num_steps)
    if features is not None:
        require_function("features", features)
    config = module.config
    transform = _optimiser(config, num_steps)
    from_start = max(1.0, (config.epsilon_start or 0.0) / max(config.temperatures()))
    every = config.batches // config.moved

    def step(state: TrainState, batch: Any, key: Key, *, axis_name: str | None = None):
        images, classes = parted(batch)
        if len(images) % config.batches:
            raise ValueError(f"{len(images)} images on a device for {config.batches} batches: give a multiple.")
        keys = jax.random.split(key)
        noise, other = (normals(it, state.step, len(images), config.latent_dim, axis_name) for it in keys)
        heat = from_start ** jnp.maximum(0.0, 1 - 2 * state.step / num_steps)
        noise = noise[::every]
        if config.loss == "divergence":
            value = functools.partial(loss, heat=heat, features=features, axis_name=axis_name)
            arguments = module, images, noise, other, classes
            return descend(transform, state, value, *arguments, axis_name=axis_name, decay=config.average)
        images = as_batch(module, images)
        given = images, noise, other, classes, heat, features, axis_name
        targets, unit, error = _targets(state.params, module, *given)
        of_draws = None if classes is None else classes[::every]
        parts = jax.tree.map(lambda it: _parted(it, config.moved), (noise, of_draws, targets))

        def regress(i: Array, state: TrainState) -> tuple[TrainState, dict[str, Array]]:
            noise, classes, targets = jax.tree.map(lambda it: it[i % config.moved], parts)
            arguments = module, noise, classes, targets, unit, features
            return descend(transform, state, _regression, *arguments, axis_name=axis_name, decay=config.average)

        last = config.moved * config.repeats - 1
        start = state._replace(step=state.step * (last + 1))  # steps of the optimiser, which the average counts
        moved = jax.lax.fori_loop(0, last, lambda i, state: regress(i, state)[0], start) if last else start
        moved, metrics = regress(jnp.int32(last), moved)
        return moved._replace(step=state.step + 1), {**metrics, "error": error}

    return step


def _optimiser(config: Config, num_steps: int) -> Any:
    """Return Adam for steps with so many plans; its second moments forget sooner than by default, as targets move."""
    return adam(config.learning_rate, num_steps * config.moved * config.repeats, b2=0.99)


def _parted(rows: Array, parts: int) -> Array:
    """Return rows [n, ...] in parts [parts, n / parts, ...] that do not depend on how many devices have the rows."""
    return jnp.swapaxes(rows.reshape(-1, parts, *rows.shape[1:]), 0, 1)


@watched
def fit(
    key: Key,
    images: Any,
    labels: Any = None,
    *,
    features: Features | None = None,
    callback: Callback | None = None,
    checkpoints: Any = None,
    **config: Any,
) -> Model:
    """Fit a generator to images, or to points such as codes, in memory.

    Args:
      key: random key.
      images: uint8, or floats, [N, h, w, c]; or points [N, d], whose scale should be about 1.
      labels: integers [N], to draw from one class by `sample(..., label=)`; None for none.
      features: function from images [n, h, w, c], pixels in [0, 1], points as [n, d, 1, 1], to features [n, f] between
        which the transport is, with its parameters fixed: an encoder, LeNet, Inception. None for the data themselves.
      callback: called with steps and metrics.
      checkpoints: a folder, or `train.Checkpoints`, to save in and to go on from, bit-identically.
      **config: fields of Config; of points the output is "real".

    Returns:
      Model; draw from it with `sample(key, model, num, label=)`.

    Raises:
      ValueError: for data of another shape or range, labels that do not match, fields out of range, features that are
        no function to [n, f], a folder of another configuration.
      TypeError: for a field that Config does not have.

    Example:
      >>> points, settings = og.data.toy.two_moons(jax.random.key(0), 400), {"latent_dim": 2, "hidden": (32, 32)}
      >>> model = og.models.sinkhorn_generator.fit(jax.random.key(1), points, batch_size=20, epochs=40, **settings)
      >>> new = og.models.sinkhorn_generator.sample(jax.random.key(2), model, 200)
      >>> print(new.shape, og.sinkhorn_divergence(new, points, epsilon=0.05) < 0.1)
      (200, 2) True
    """
    images = native("images", images)
    flat = images.ndim == 2
    if flat:
        images, config = as_points("images", images)[:, :, None, None], {"output": "real", **config}
    settings, told = made(Config, config), {}
    if flat and settings.output != "real":
        raise ValueError("output = 'unit' for points [N, d]: it is for pixels in [0, 1], leave it out.")
    if features is not None:
        require_function("features", features)
        told["features"] = _seen(features, check_images(images, settings.output)[:8])
    options = {"labels": labels, "callback": callback, "checkpoints": checkpoints, "told": told}
    step = functools.partial(make_step, features=features)
    module, state = fit_generator(key, images, settings, init, step, batches_per_step=settings.batches, **options)
    return Model(module.clone(flat=flat), {"params": state.average, **collection_of(labels)})


def _seen(features: Features, images: Array) -> np.ndarray:
    """Return the features of a few images, by which a folder of checkpoints knows them."""
    found = np.asarray(features(to_unit(images)))
    if found.ndim != 2 or len(found) != len(images):
        raise ValueError(f"features gave {found.shape} for {len(images)} images: it must give [n, f].")
    return found
