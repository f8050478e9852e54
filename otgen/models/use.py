"""What any trained model is asked for beside draws: noise of images, paths, neighbours, what it is made of.

Every model that a `fit` returns has these functions as methods, `model.interpolate(key, a, b)` for
`use.interpolate(key, model, a, b)`, and with them `sample`, `save` and `load`.

Noise is what a model draws images of: of AE-OT the uniform law on a cube, of the others N(0, I) or the law they were
fitted with. Models on a map to codes know noise of an image by the cell of its nearest code, flows by following their
paths backwards, autoencoders by their encoder, linear generators by least squares; other generators know none.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from otgen.eval.neighbours import nearest
from otgen.maps import neural_map
from otgen.models import ae_ot, ae_ot_gan, apply, bures_linear, flow, latent_ot, sinkhorn_generator
from otgen.models.apply import check_images, latent_dim_of, parts_of, rows, transport_of
from otgen.models.baselines import vae, wae_mmd, wgan_gp
from otgen.models.classes import class_of
from otgen.ot import latent
from otgen.ot.check import as_array, as_count, as_key, require_choice
from otgen.ot.products import product
from otgen.ot.semidiscrete import extension, inverse
from otgen.types import Array, Key

_GENERATORS = (vae.VAE, wae_mmd.WAE, wgan_gp.WGAN, sinkhorn_generator.SinkhornGenerator)

_HOMES = {  # of modules whose `sample` takes more than a label, special kinds first
    ae_ot_gan.AEOTGAN: ae_ot_gan,
    ae_ot.AEOT: ae_ot,
    latent_ot.LatentOT: latent_ot,
    bures_linear.BuresLinear: bures_linear,
}


class _Access(NamedTuple):
    """How a kind of model is used.

    Attributes:
      prior: law of its noise. shape: of one row of noise.
      check: of data that a name stands for, returned as the model reads them.
      draw: (key, noise, label, how) to what it draws.
      invert: (key, data, label) to noise; None where there is no inverse.
    """

    prior: Any
    shape: tuple[int, ...]
    check: Callable[[str, Any], Any]
    draw: Callable[..., Array]
    invert: Callable[..., Array] | None


def sample(key: Key, model: Any, num: int, **how: Any) -> Array:
    """Draw from a trained model of any kind, by the `sample` of its own module.

    Args:
      key: random key.
      model: a trained model.
      num: how many.
      **how: of that function.

    Raises:
      ValueError, TypeError: as that function.

    Example:
      >>> images = og.data.load("digits").images[:100]
      >>> model = og.models.vae.fit(jax.random.key(0), images, latent_dim=2, hidden=(16,), epochs=2, batch_size=16)
      >>> print(model.sample(jax.random.key(1), 3).shape)
      (3, 8, 8, 1)
    """
    return _sampler(model)(key, model, num, **how)


def generate(key: Key, model: Any, noise: Any, *, label: int | None = None, **how: Any) -> Array:
    """Return what a model draws of given noise.

    Args:
      key: random key, for models whose map is random given the noise (AE-OT, and the extensions of latent-space OT).
      model: a trained model.
      noise: [n, d], or of a flow [n, ...].
      label: of the class to draw, for models of classes; not for maps to codes, where it is that of the noise's cell.
      **how: of the model's `sample`: `form`, `angle`, `temperature`; of a flow `num_steps`, `method`, `guidance`.

    Returns:
      Images [n, h, w, c], or points, as `sample` draws them.

    Raises:
      ValueError: for noise of another shape, and for models whose noise is not all they draw of, such as the
        informative GAN (`code_reading.traverse`).

    Example:
      >>> images = og.data.load("digits").images[:100]
      >>> tiny = {"latent_dim": 2, "hidden": (16,), "epochs": 2, "batch_size": 20, "tol": 0.5}
      >>> model = og.models.ae_ot.fit(jax.random.key(0), images, **tiny)
      >>> print(model.generate(jax.random.key(1), jnp.zeros((3, 2)), form="pairs").shape)
      (3, 8, 8, 1)
    """
    access = _access(model)
    noise = as_array("noise", noise, (None, *access.shape))
    if not len(noise):
        raise ValueError(f"no noise: it has shape {noise.shape}; give at least one row.")
    return access.draw(as_key(key), noise, label, how)


def invert(key: Key, model: Any, data: Any, *, label: int | None = None) -> Array:
    """Return noise [n, ...] of which a model draws data, or what it knows that is nearest to them.

    Args:
      key: random key: a cell has many noises, of which one is drawn by their law.
      model: a trained model.
      data: images [n, h, w, c], uint8 or in [0, 1]; of a flow what it was fitted to.
      label: of the data, for flows of classes.

    Raises:
      ValueError: for models without an inverse, and data of another shape.

    Example:
      >>> images = og.data.load("digits").images[:100]
      >>> tiny = {"latent_dim": 2, "hidden": (16,), "epochs": 2, "batch_size": 20, "tol": 0.5}
      >>> model = og.models.ae_ot.fit(jax.random.key(0), images, **tiny)
      >>> noise = model.invert(jax.random.key(1), images[:4])
      >>> transport = og.models.ae_ot.map_of(model)
      >>> known = og.models.ae_ot.encode(model.module, model.variables, images[:4])
      >>> print(noise.shape, transport.assign(noise))  # each in the cell of its own code
      (4, 2) [0 1 2 3]
    """
    access = _access(model)
    _require_inverse(model, access)
    return access.invert(as_key(key), access.check("data", data), label)


def _require_inverse(model: Any, access: _Access) -> None:
    if access.invert is None:
        raise ValueError(
            f"a {type(model.module).__name__} has no inverse: interpolate between draws, without images, or fit a "
            "model that has an encoder, a map to codes or a flow."
        )


def interpolate(
    key: Key,
    model: Any,
    first: Any = None,
    last: Any = None,
    *,
    num: int = 8,
    paths: int = 4,
    label: int | None = None,
    **how: Any,
) -> Array:
    """Return paths between data, straight in the noise and matched to its law, drawn by the model (Paper D, section 3).

    All places of a path use the same random numbers, so that it jumps only where the map does.

    Args:
      key: random key.
      model: a trained model.
      first, last: data [n, ...] where the paths begin and end, as the model knows them (`invert`); None for draws.
      num: places of a path, the ends among them.
      paths: how many, where they go between draws.
      label: as in `generate`.
      **how: as in `generate`.

    Returns:
      [n, num, ...].

    Raises:
      ValueError: for one end without the other, and as `generate` and `invert`.

    Example:
      >>> images = og.data.load("digits").images[:100]
      >>> tiny = {"latent_dim": 2, "hidden": (16,), "epochs": 2, "batch_size": 20, "tol": 0.5}
      >>> model = og.models.ae_ot.fit(jax.random.key(0), images, **tiny)
      >>> print(model.interpolate(jax.random.key(1), images[:3], images[3:6], num=5, form="pairs").shape)
      (3, 5, 8, 8, 1)
    """
    access, num, paths = _access(model), as_count("num", num, 2), as_count("paths", paths)
    first_key, last_key, key = jax.random.split(as_key(key), 3)
    if (first is None) != (last is None):
        raise ValueError("first and last belong together: give both, or none to go between draws.")
    if first is None:
        size = math.prod(access.shape)
        ends = [access.prior(it, paths, size).reshape(paths, *access.shape) for it in (first_key, last_key)]
    else:
        _require_inverse(model, access)
        data = access.check("first", first), access.check("last", last)
        if len(data[0]) != len(data[1]):
            raise ValueError(f"first are {len(data[0])} and last {len(data[1])}: give as many.")
        ends = [access.invert(it, part, label) for it, part in zip((first_key, last_key), data, strict=True)]
    if not isinstance(access.prior, latent.Prior):
        raise ValueError(f"paths keep a law of og.latent, but the noise of this model is {access.prior}.")
    places = latent.lerp(jnp.linspace(0, 1, num), *ends, access.prior)
    return jnp.stack([generate(key, model, place, label=label, **how) for place in places], axis=1)


def neighbours(model: Any, images: Any, k: int = 5, among: Any = None) -> tuple[Array, Array]:
    """Return the distances and numbers of the training images nearest to images, in the codes of a model.

    Args:
      model: a trained model with an encoder.
      images: [n, h, w, c], uint8 or in [0, 1].
      k: how many for each.
      among: images [N, h, w, c] to look among; None for those of the codes that the model was fitted to.

    Returns:
      Distances [n, k], nearest first, and numbers [n, k] in 0..N-1.

    Raises:
      ValueError: for models without an encoder, images of another shape, k above N, and models that keep no codes
        where `among` is not given.

    Example:
      >>> images = og.data.load("digits").images[:100]
      >>> tiny = {"latent_dim": 2, "hidden": (16,), "epochs": 2, "batch_size": 20, "tol": 0.5}
      >>> model = og.models.ae_ot.fit(jax.random.key(0), images, **tiny)
      >>> distance, index = model.neighbours(images[:3], k=2)
      >>> print(index[:, 0], bool((distance[:, 0] < 1e-3).all()))
      [0 1 2] True
    """
    module, variables = parts_of(model)
    if not callable(getattr(module, "encode", None)):
        raise ValueError(f"a {type(module).__name__} has no encoder: compare in features (otgen.eval.nearest).")
    known = variables.get("transport", {})
    mean, scale = known.get("mean", 0.0), known.get("scale", 1.0)

    if among is None and "codes" not in known:
        raise ValueError(f"a {type(module).__name__} keeps no codes of its training images: give among=images.")
    check = _images_of(module)
    k, images, among = as_count("k", k), check("images", images), None if among is None else check("among", among)
    num = len(known["codes"] if among is None else among)
    if k > num:
        raise ValueError(f"k = {k} is above the number of images, {num}.")

    def codes(images: Any) -> Array:
        return (rows(module, variables, images, "encode") - mean) / scale

    return nearest(codes(images), known["codes"] if among is None else codes(among), k)


def summary(model: Any) -> str:
    """Return what a model is made of, in lines: networks with their sizes, settings of its own, transport, labels.

    Example:
      >>> images = og.data.load("digits").images[:100]
      >>> tiny = {"latent_dim": 2, "hidden": (16,), "epochs": 2, "batch_size": 20, "tol": 0.5}
      >>> model = og.models.ae_ot.fit(jax.random.key(0), images, **tiny)
      >>> print(model.summary().splitlines()[0])
      AEOT of 8 x 8 x 1, 2,258 parameters
    """
    module, variables = parts_of(model)
    shape = next((s for it in ("image_shape", "data_shape", "shape") if (s := getattr(module, it, None))), ())
    params = variables["params"]
    lines = [f"{type(module).__name__} of {' x '.join(map(str, shape))}, {_size(params):,} parameters"]
    if 1 < len(params) <= 4:  # networks; more are layers of one
        lines += [f"  {name}: {_size(part):,}" for name, part in params.items()]
    config = getattr(model, "config", getattr(module, "config", None))
    if config is not None:
        default = {name: field.default for name, field in type(config).__dataclass_fields__.items()}
        own = {name: value for name in default if (value := getattr(config, name)) != default[name]}
        lines.append("settings: " + (", ".join(f"{name}={value!r}" for name, value in own.items()) or "the default"))
    if "codes" in (known := variables.get("transport", {})):
        lines.append(f"transport: {known['codes'].shape[0]:,} codes of dimension {known['codes'].shape[1]}")
    if (chi2 := getattr(getattr(model, "info", None), "chi2", None)) is not None:
        lines[-1] += f", chi2 {float(np.mean(chi2)):.3g}" if "codes" in known else ""
    labels = getattr(model, "labels", None)
    labels = variables["classes"]["labels"] if "classes" in variables else labels
    if labels is not None:
        lines.append(f"labels: {len(np.unique(np.asarray(labels)))}")
    return "\n".join(lines)


def _sampler(model: Any) -> Callable[..., Array]:
    module, _ = parts_of(model)
    if isinstance(model, flow.Flow):
        return flow.sample
    for kind, home in _HOMES.items():
        if isinstance(module, kind):
            return home.sample
    return apply.sample


def _size(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _access(model: Any) -> _Access:
    """Return how a model is used, by the kind of its module."""
    module, variables = parts_of(model)
    if isinstance(module, ae_ot.AEOT):
        return _of_ae_ot(model)
    if isinstance(module, latent_ot.LatentOT):
        return _of_latent_ot(model)
    if isinstance(model, flow.Flow):
        return _of_flow(model)
    if isinstance(module, bures_linear.BuresLinear):
        return _of_linear(module, variables)
    if isinstance(module, _GENERATORS):
        return _of_generator(module, variables)
    raise ValueError(
        f"a {type(module).__name__} draws of a code beside its noise: models.code_reading.traverse goes along codes."
    )


def _of_ae_ot(model: Any) -> _Access:
    module, variables = parts_of(model)
    map_, known = ae_ot.map_of(model), transport_of(variables)
    if getattr(getattr(module, "gan", None), "latents", "transport") != "transport":
        raise ValueError("this GAN was trained on Gaussian latents, not on noise of its map: draw by sample.")

    def draw(key: Key, noise: Array, label: int | None, how: dict[str, Any]) -> Array:
        gan = getattr(module, "gan", None)
        form, angle = _taken(how, label, form=gan.form if gan else extension.DEFAULT, angle=gan.angle if gan else None)
        extension.check_form(form, 0.0 if angle is None else angle)
        codes = _moved(module, variables, key, noise, form, angle) * known["scale"] + known["mean"]
        return ae_ot.decode(module, variables, codes)

    def inverted(key: Key, data: Any, label: int | None) -> Array:
        codes = (rows(module, variables, data, "encode") - known["mean"]) / known["scale"]
        seen = jnp.flatnonzero(jnp.isfinite(known["centres"][:, 0]))  # cells that are not empty
        return _found(map_.invert(key, seen[inverse.nearest(map_.y[seen], codes)]))

    return _Access(map_.sampler, (latent_dim_of(module),), _images_of(module), draw, inverted)


def _of_latent_ot(model: Any) -> _Access:
    module, variables = parts_of(model)

    def draw(key: Key, noise: Array, label: int | None, how: dict[str, Any]) -> Array:
        form, temperature = _taken(how, label, form=None, temperature=None)
        if form is not None:
            require_choice("form", form, latent_ot.FORMS)
        return latent_ot.decode(model, _moved(module, variables, key, noise, form, temperature))

    def inverted(key: Key, data: Any, label: int | None) -> Array:
        known, map_ = transport_of(variables), latent_ot.map_of(model)
        codes = (latent_ot.encode(model, data) - known["mean"]) / known["scale"]
        index = inverse.nearest(map_.codes, codes)
        return _found(inverse.invert(key, neural_map.heights(map_), map_.codes, index, sampler=latent.Normal()))

    return _Access(latent.Normal(), (latent_dim_of(module),), _images_of(module), draw, inverted)


def _of_flow(model: flow.Flow) -> _Access:
    return _Access(
        model.source,
        tuple(model.module.shape),
        lambda name, data: as_array(name, data, (None, *model.module.shape)),
        lambda key, noise, label, how: flow.decode(model, noise, label, **how),
        lambda key, data, label: flow.encode(model, data, label),
    )


def _of_linear(module: nn.Module, variables: Any) -> _Access:
    matrix = module.apply(variables, method="matrix")

    def draw(key: Key, noise: Array, label: int | None, how: dict[str, Any]) -> Array:
        _taken(how, label)
        return module.apply(variables, noise)

    def inverted(key: Key, data: Any, label: int | None) -> Array:
        data = data.reshape(-1, matrix.shape[0])
        return product(data - variables["transport"]["mean"], jnp.linalg.pinv(matrix).T)

    def check(name: str, data: Any) -> Array:
        return as_array(name, data, (None, *module.data_shape))

    return _Access(latent.Normal(), (matrix.shape[1],), check, draw, inverted)


def _of_generator(module: nn.Module, variables: Any) -> _Access:
    def draw(key: Key, noise: Array, label: int | None, how: dict[str, Any]) -> Array:
        if how:
            raise TypeError(f"a {type(module).__name__} takes no {', '.join(how)}.")
        number = class_of(variables, label)
        if number is None and module.num_classes:
            raise ValueError("this model was fitted with labels: give the label of what its noise becomes.")
        number = None if number is None else jnp.full(len(noise), number)
        made = _drawn(module, variables, noise, number)
        return made.reshape(len(noise), -1) if getattr(module, "flat", False) else made

    def inverted(key: Key, data: Any, label: int | None) -> Array:
        return rows(module, variables, data, "encode")

    encodes = callable(getattr(module, "encode", None))
    return _Access(latent.Normal(), (latent_dim_of(module),), _images_of(module), draw, inverted if encodes else None)


def _images_of(module: nn.Module) -> Callable[[str, Any], Any]:
    """Return a check of images that a module reads."""
    output = getattr(module.config, "output", "unit")

    def check(name: str, images: Any) -> Any:
        try:
            return check_images(images, output, module.image_shape)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    return check


def _taken(how: dict[str, Any], label: int | None, **known: Any) -> list[Any]:
    """Return the options of a map to codes, or what they are by default; refuse others, and a label."""
    if label is not None:
        raise ValueError("what noise becomes is of the label of its cell: leave label out; sample(label=) draws one.")
    if strange := sorted(how.keys() - known.keys()):
        raise TypeError(f"{', '.join(strange)}: this model is drawn from by {', '.join(known) or 'noise alone'}.")
    return [how.get(name, default) for name, default in known.items()]


def _found(inverse_: inverse.Inverse) -> Array:
    missing = int(jnp.sum(~inverse_.found))
    if missing:
        raise ValueError(f"no noise was found for {missing} codes, whose cells are too small: solve to a smaller tol.")
    return inverse_.noise


@functools.partial(jax.jit, static_argnames=("module", "form"))
def _moved(module: nn.Module, variables: Any, key: Key, noise: Array, form: str | None, more: Any) -> Array:
    return module.apply(variables, key, noise, form, more, method="move")


@functools.partial(jax.jit, static_argnames="module")
def _drawn(module: nn.Module, variables: Any, noise: Array, classes: Array | None) -> Array:
    return module.apply(variables, noise, classes, method="decode" if hasattr(module, "decode") else None)
