"""What a trained informative generator tells: codes of data, by its encoder or by its plan, and what every code does.

`predict`, `traverse` and `of_each_code` also take a trained InfoGAN; the rest reads the plan of an informative OT-GAN.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlogy
from jax.typing import ArrayLike

from otgen.models.apply import check_images, parts_of, rows
from otgen.models.informative.codes import Codes, Latent
from otgen.models.informative.info_gan import InfoGAN
from otgen.models.informative.informative_gan import InformativeGAN
from otgen.models.informative.losses import Coupling, Losses, plan_of, strengths
from otgen.nn.autoencoder import to_unit
from otgen.ot import structured
from otgen.ot.check import as_count, as_key, native, require_kind
from otgen.ot.costs import DenseCost
from otgen.ot.products import contract, product
from otgen.ot.sinkhorn import run as sinkhorn
from otgen.types import Array, Key

_PIECE = 500  # data at a time
_READABLE = (InformativeGAN, InfoGAN)


class Reading(NamedTuple):
    """Law of the code of every datum.

    Attributes:
      probabilities: of the values of every categorical part, a list of [n, size].
      mean: of the continuous parts [n, continuous].
      deviation: of the continuous parts [n, continuous].

    Example:
      >>> reading = og.models.code_reading.Reading((jnp.array([[0.9, 0.1]]),), jnp.zeros((1, 0)), jnp.zeros((1, 0)))
      >>> print(reading.probabilities[0].argmax(1))
      [0]
    """

    probabilities: list[Array]
    mean: Array
    deviation: Array


class Gap(NamedTuple):
    """How far the trained potential is from the best one for a batch, in units of epsilon.

    Attributes:
      gap: smoothed cost of the batch's own optimum less that of the trained potential; at least 0 but for the tolerance
        of the solver. Part of it is the batch's, which its optimum fits and a potential trained on all data does not.
      start: the same gap for a potential of zero.

    Example:
      >>> print(og.models.code_reading.Gap(gap=jnp.array(0.1), start=jnp.array(2.0)).gap)
      0.1
    """

    gap: Array
    start: Array


def predict(model: Any, images: ArrayLike) -> Reading:
    """Read the codes of images [n, h, w, c] by the encoder: its categorical and normal laws.

    Raises:
      ValueError: for no image, or images that are not like those that the model was trained on.

    Example:
      >>> images = og.data.load("digits").images[:64]
      >>> tiny = {"latent_dim": 2, "hidden": (16,), "epochs": 1, "batch_size": 16, "dual_steps": 1}
      >>> gan = og.models.informative_gan.fit(jax.random.key(0), images, categorical=(2,), **tiny)
      >>> reading = og.models.code_reading.predict(gan, images[:5])
      >>> print(reading.probabilities[0].shape, jnp.allclose(reading.probabilities[0].sum(1), 1.0))
      (5, 2) True
    """
    module, variables = parts_of(model, _READABLE)
    latent, outputs = module.config.latent, rows(module, variables, images, "read")
    return Reading([jnp.exp(law) for law in latent.log_laws(outputs)], *latent.moments(outputs))


def couple(key: Key, model: Any, images: ArrayLike, num: int) -> tuple[Coupling, Codes]:
    """Return costs and potentials of `num` fresh latents beside images [m, h, w, c], and the latents' codes.

    `perturbed` is the ground cost of paper A, in units of the mean cost of two data. Arrays are [K, M, m]
    for K codes with M noises each, as `Config.num_codes` says; latent k + K j is code k with its noise j. The unit of
    features, for an adversarial ground cost, is that of the latents' points, so that an image has the same cost beside
    any others.

    Raises:
      ValueError: if `num` is no multiple of the categorical values, and for images as `predict`.

    Example:
      >>> images = og.data.load("digits").images[:64]
      >>> tiny = {"latent_dim": 2, "hidden": (16,), "epochs": 1, "batch_size": 16, "dual_steps": 1}
      >>> gan = og.models.informative_gan.fit(jax.random.key(0), images, categorical=(2,), **tiny)
      >>> coupling, codes = og.models.code_reading.couple(jax.random.key(1), gan, images[:5], 30)
      >>> print(codes.categories.shape)
      (30, 1)
    """
    as_key(key), as_count("num", num)
    config, images = _checked(model, images)
    codes, noise = config.latent.batch(key, jnp.arange(num), config.num_codes(num))
    return _couple(model.module, model.variables, codes, noise, to_unit(images)), codes


def _checked(model: Any, images: ArrayLike) -> tuple[Any, Any]:
    """Return the configuration of an informative OT-GAN, and images that it can read; ValueError for others."""
    module, _ = parts_of(model, InformativeGAN)
    return module.config, check_images(images, module.config.output, module.image_shape)


@functools.partial(jax.jit, static_argnames="module")
def _couple(module: Any, variables: Any, codes: Codes, noise: Array, data: Array) -> Coupling:
    apply = functools.partial(module.apply, variables)
    points = apply(codes, noise, method="decode")
    losses = Losses(module, variables["transport"]["unit"])
    features = variables["params"].get("features", {})
    cost = losses.ground(features, losses.units(features, points), points, data)
    potential = apply(codes, points, method="potential")
    return losses.couple(cost, potential, codes, apply(data, method="read"))


def posterior(key: Key, model: Any, images: ArrayLike, num: int = 2000) -> Reading:
    """Infer the codes of images [n, h, w, c] from the plan: w(c, n | x) of `num` latents, summed over the noise.

    Needs no encoder for the "structured" objective; for "encoder" the encoder is in the ground cost. Raises as
    `couple`.

    Example:
      >>> images = og.data.load("digits").images[:64]
      >>> tiny = {"latent_dim": 2, "hidden": (16,), "epochs": 1, "batch_size": 16, "dual_steps": 1}
      >>> gan = og.models.informative_gan.fit(jax.random.key(0), images, categorical=(2,), **tiny)
      >>> reading = og.models.code_reading.posterior(jax.random.key(1), gan, images[:5], 30)
      >>> print(reading.probabilities[0].shape)
      (5, 2)
    """
    as_key(key), as_count("num", num)
    config, images = _checked(model, images)
    found = []
    for start in range(0, len(images), _PIECE):
        piece = images[start : start + _PIECE]
        coupling, codes = couple(key, model, piece, num)
        weights = jnp.swapaxes(plan_of(coupling, config), 0, 1).reshape(num, -1).T * len(piece)
        hot = [
            product(weights, jax.nn.one_hot(codes.categories[:, i], size)) for i, size in enumerate(config.categorical)
        ]
        mean = product(weights, codes.values)
        variance = contract("nl,nlc->nc", weights, (codes.values - mean[:, None]) ** 2)
        found.append(Reading(hot, mean, jnp.sqrt(variance)))
    return jax.tree.map(lambda *pieces: jnp.concatenate(pieces), *found)


def information(reading: Reading) -> Array:
    """Return I(c; x) in nats of every categorical part [parts]: entropy of the mean law less mean entropy.

    Example:
      >>> sure, unsure, none = jnp.eye(2), jnp.full((2, 2), 0.5), jnp.zeros((2, 0))
      >>> reading = og.models.code_reading.Reading((sure, unsure), none, none)
      >>> print(og.models.code_reading.information(reading), np.log(2))
      [0.693 0.] 0.693
    """
    require_kind("reading", reading, Reading)
    each = [_entropy(law.mean(0)) - _entropy(law).mean() for law in reading.probabilities]
    return jnp.stack(each) if each else jnp.zeros(0)


def _entropy(law: Array) -> Array:
    return -jnp.sum(xlogy(law, law), axis=-1)


def duality_gap(key: Key, model: Any, images: ArrayLike, num: int = 1000) -> Gap:
    """Measure the duality gap of the trained potential on `num` fresh latents and images [m, h, w, c].

    Raises:
      ValueError: as `couple`, and for quadratic smoothing or a structured lam, which Sinkhorn does not solve.

    Example:
      >>> images = og.data.load("digits").images[:64]
      >>> tiny = {"latent_dim": 2, "hidden": (16,), "epochs": 1, "batch_size": 16, "dual_steps": 1}
      >>> gan = og.models.informative_gan.fit(jax.random.key(0), images, categorical=(2,), **tiny)
      >>> found = og.models.code_reading.duality_gap(jax.random.key(1), gan, images[:16], 30)
      >>> print(bool(found.gap >= 0))
      True
    """
    config, images = _checked(model, images)
    if config.smoothing != "entropic" or strengths(config)["lam"]:
        raise ValueError(
            "the gap is measured by Sinkhorn's algorithm: for entropic smoothing without a structured lam."
        )
    coupling, _ = couple(key, model, images, num)
    perturbed, epsilon = coupling.perturbed, config.epsilon
    _, info = sinkhorn(DenseCost(perturbed.reshape(num, -1)), epsilon=epsilon, tol=1e-2, max_steps=2000)
    values = [
        structured.semidual(perturbed, f, **strengths(config)) for f in (coupling.potential, 0 * coupling.potential)
    ]
    return Gap(*((info.dual_value - value) / epsilon for value in values))


def of_each_code(key: Key, model: Any, num: int, part: int = 0) -> Array:
    """Draw `num` images of every value of a categorical part, the rest alike: [size, num, h, w, c].

    Raises:
      ValueError: as `traverse`.

    Example:
      >>> images = og.data.load("digits").images[:64]
      >>> tiny = {"latent_dim": 2, "hidden": (16,), "epochs": 1, "batch_size": 16, "dual_steps": 1}
      >>> gan = og.models.informative_gan.fit(jax.random.key(0), images, categorical=(2,), **tiny)
      >>> print(og.models.code_reading.of_each_code(jax.random.key(1), gan, 4).shape)
      (2, 4, 8, 8, 1)
    """
    name = f"categorical {part}"
    latent = parts_of(model, _READABLE)[0].config.latent
    return traverse(key, model, name, np.arange(_part(latent, name)[2]), num)


def traverse(key: Key, model: Any, name: str, values: ArrayLike, num: int, category: int | None = None) -> Array:
    """Draw images of the same latents with one part of the code set to each of some values.

    Args:
      key: of the latents.
      model: a trained informative OT-GAN or InfoGAN.
      name: "categorical I" or "continuous I", counted from 0, the uniform parts before the normal ones.
      values: what the part is set to [v].
      num: latents.
      category: what the first categorical part is set to; None leaves it as drawn.

    Returns:
      Images [v, num, h, w, c].

    Raises:
      ValueError: for a part that the latent does not have, or values that it cannot have.

    Example:
      >>> images = og.data.load("digits").images[:64]
      >>> tiny = {"latent_dim": 2, "hidden": (16,), "epochs": 1, "batch_size": 16, "dual_steps": 1}
      >>> gan = og.models.informative_gan.fit(jax.random.key(0), images, categorical=(2,), uniform=1, **tiny)
      >>> rows = og.models.code_reading.traverse(jax.random.key(1), gan, "continuous 0", np.array([-1.0, 0.0, 1.0]), 2)
      >>> print(rows.shape)
      (3, 2, 8, 8, 1)
    """
    as_key(key), as_count("num", num)
    module, variables = parts_of(model, _READABLE)
    latent, values = module.config.latent, np.asarray(native("values", values))
    field, place, size = _part(latent, name)
    if values.ndim != 1 or not values.size or not _possible(values, size):
        wanted = "finite numbers" if size is None else f"whole numbers from 0 to {size - 1}"
        raise ValueError(f"values = {values}: give a list of {wanted} for {name!r}.")
    if category is not None and not _possible(np.asarray(category), _part(latent, "categorical 0")[2]):
        raise ValueError(f"category = {category}: the first categorical part has no such value.")
    codes, noise = latent.sample(key, num)
    if category is not None:
        codes = codes._replace(categories=codes.categories.at[:, 0].set(category))
    drawn = []
    for value in values:
        changed = getattr(codes, field).at[:, place].set(value)
        drawn.append(_decode(module, variables, codes._replace(**{field: changed}), noise))
    return jnp.stack(drawn)


def _part(latent: Latent, name: str) -> tuple[str, int, int | None]:
    """Field of `Codes` and column of a part of the code, and how many values it has; None for a continuous one."""
    parts = {f"categorical {i}": ("categories", i, size) for i, size in enumerate(latent.categorical)}
    parts |= {f"continuous {i}": ("values", i, None) for i in range(latent.continuous)}
    if name not in parts:
        raise ValueError(f"{name!r} is no part of the code: choose among {', '.join(parts)}.")
    return parts[name]


def _possible(values: np.ndarray, size: int | None) -> bool:
    """Return whether a part can have these values; `size` as in `_part`."""
    if size is None:
        return values.dtype.kind in "iuf" and bool(np.isfinite(values).all())
    return values.dtype.kind in "iu" and bool(((values >= 0) & (values < size)).all())


@functools.partial(jax.jit, static_argnames="module")
def _decode(module: Any, variables: Any, codes: Codes, noise: Array) -> Array:
    return module.apply(variables, codes, noise, method="decode")
