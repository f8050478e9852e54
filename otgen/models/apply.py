"""What trained models share: methods applied to many rows, draws of many images, and what `usable` gives to all."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from otgen import store
from otgen.data.mapped import pieces
from otgen.models.classes import class_of
from otgen.nn.autoencoder import to_unit
from otgen.ot.check import (
    as_array,
    as_count,
    as_key,
    is_traced,
    least_and_most,
    native,
    require_channels_last,
    require_kind,
)
from otgen.types import Array, Held, Key

Kind = TypeVar("Kind", bound=type)
PIECE = 2000  # rows at a time
_LARGE = 64 * 64 * 3  # numbers in an image; of larger ones fewer are taken at a time


def usable(cls: Kind) -> Kind:
    """Give a class of trained models, a NamedTuple, these methods: a decorator, as NamedTuples inherit none."""
    for name, method in vars(_Methods).items():
        if not name.startswith("__") or name == "__repr__":
            setattr(cls, name, method)
    return cls


class _Methods:
    def sample(self, key: Key, num: int, **how: Any) -> Array:
        """Draw from the model: `label` and what else the `sample` of its module takes."""
        return _use().sample(key, self, num, **how)

    def generate(self, key: Key, noise: Any, **how: Any) -> Array:
        """Return what the model draws of given noise: `otgen.models.use.generate`."""
        return _use().generate(key, self, noise, **how)

    def invert(self, key: Key, data: Any, **how: Any) -> Array:
        """Return noise of which the model draws data: `otgen.models.use.invert`."""
        return _use().invert(key, self, data, **how)

    def interpolate(self, key: Key, first: Any = None, last: Any = None, **how: Any) -> Array:
        """Return paths [n, num, ...] between data, or between draws: `otgen.models.use.interpolate`."""
        return _use().interpolate(key, self, first, last, **how)

    def neighbours(self, images: Any, k: int = 5, among: Any = None) -> tuple[Array, Array]:
        """Return the distances and numbers of the nearest training images: `otgen.models.use.neighbours`."""
        return _use().neighbours(self, images, k, among)

    def summary(self) -> str:
        """Return what the model is made of, in lines: `otgen.models.use.summary`."""
        return _use().summary(self)

    def __repr__(self) -> str:
        """Return the summary: all arrays would fill pages."""
        try:
            return f"<{type(self).__module__}.{type(self).__name__}: {self.summary()}>"
        except Exception:  # of what is put together by hand
            return tuple.__repr__(self)

    def save(self, path: str | os.PathLike, *, overwrite: bool = False) -> None:
        """Save the model as a folder for `otgen.load`."""
        store.save(path, self, overwrite=overwrite)


def _use() -> Any:
    from otgen.models import use  # imports all models, which import this

    return use


@usable
class Model(NamedTuple):
    """A trained generator.

    Attributes:
      module: the Flax module; its method `sample(key, num)` draws images.
      variables: its `params`, and `classes` where it was fitted with labels.
    """

    module: nn.Module
    variables: dict[str, Any]


@functools.partial(jax.jit, static_argnames=("module", "method"))
def _apply(module: nn.Module, variables: Any, x: Array, method: str) -> Array:
    try:
        return module.apply(variables, x, method=method)
    except flax.errors.FlaxError as error:
        name = type(module).__name__
        raise ValueError(f"the variables are not those of this {name} ({error}): give those of its `fit`.") from error


def require_params(params: Any, module: nn.Module, *example: Array) -> None:
    """Refuse parameters that are not of the names and shapes which a module has for an example.

    Raises:
      ValueError: with the first that differs.
    """
    known, wanted = _shapes(params), _shapes(jax.eval_shape(module.init, jax.random.key(0), *example)["params"])
    for place in sorted(known.keys() | wanted.keys()):
        if known.get(place) != wanted.get(place):
            raise ValueError(
                f"params{place} has shape {known.get(place)} where {type(module).__name__} has {wanted.get(place)}: "
                "give the parameters that this module was started with."
            )


def _shapes(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): getattr(leaf, "shape", None) for path, leaf in leaves}


def parts_of(model: Any, kind: type | tuple[type, ...] = nn.Module) -> tuple[Any, Any]:
    """Return module and variables of a trained model; raise ValueError unless the module is of a kind."""
    module, variables = getattr(model, "module", None), getattr(model, "variables", None)
    require_kind("the module of a model", module, kind)
    if not isinstance(variables, Mapping) or "params" not in variables:
        raise ValueError("the variables of a model must be a dictionary with params: give those that `fit` returned.")
    return module, variables


def transport_of(variables: Any) -> Any:
    """Return the collection `transport` of a model's variables; raise ValueError if there is none."""
    if "transport" not in variables:
        raise ValueError("this model has no transport yet: solve it (models.ae_ot.solve) before it is used.")
    return variables["transport"]


def latent_dim_of(module: nn.Module) -> int:
    """Return the numbers in a code of a module: of a codec its own, else those of its configuration."""
    return module.latent_dim if hasattr(module, "latent_dim") else module.config.latent_dim


def rows(module: nn.Module, variables: Any, x: Any, method: str) -> Array:
    """Apply a method of a module to x [n, ...] row by row, in pieces of one shape; uint8 becomes [0, 1].

    The method "decode" takes codes [n, latent_dim], the others images [n, h, w, c].

    Raises:
      ValueError: for no model, no rows, rows of another shape, and images as `check_images`.
    """
    parts_of(Model(module, variables))
    if method == "decode":
        x = as_array("codes", x, (None, latent_dim_of(module)))
        if not len(x):
            raise ValueError(f"no rows to decode: codes have shape {x.shape}; give at least one.")
    else:
        output = getattr(getattr(module, "config", None), "output", "unit")
        x = check_images(x, output, module.image_shape)
    size = min(PIECE, max(1, PIECE * _LARGE // math.prod(module.image_shape)), len(x))
    done = []
    for piece in pieces(x, size):
        piece = to_unit(piece) if piece.dtype == np.uint8 else jnp.asarray(piece)
        short = size - piece.shape[0]
        piece = jnp.pad(piece, ((0, short), *((0, 0),) * (piece.ndim - 1)))
        done.append(_apply(module, variables, piece, method)[: size - short])
    return jnp.concatenate(done)


@functools.partial(jax.jit, static_argnames=("module", "num"))
def _draw(module: nn.Module, variables: Any, key: Key, num: int, of_class: Array | None) -> Array:
    more = () if of_class is None else (of_class,)
    return module.apply(variables, key, num, *more, method="sample")


def sample(key: Key, model: Model, num: int, *, label: int | None = None) -> Array:
    """Draw images [num, h, w, c] from a trained generator.

    Args:
      key: random key.
      model: from `fit`.
      num: how many.
      label: draw only images of this class; None for all that there are, in the shares of the data.

    Raises:
      ValueError: for what is no key or no model, if num is no whole number of at least 1, for a label that the model
        does not know.

    Example:
      >>> images = og.data.load("digits").images[:64]
      >>> model = og.models.vae.fit(jax.random.key(0), images, latent_dim=2, hidden=(16,), epochs=2, batch_size=16)
      >>> new = og.models.vae.sample(jax.random.key(1), model, 3)
      >>> print(new.shape, bool((new >= 0).all() & (new <= 1).all()))
      (3, 8, 8, 1) True
    """
    as_key(key), as_count("num", num)
    parts, size = parts_of(model), min(num, PIECE)
    of_class = class_of(parts[1], label)
    pieces = [_draw(*parts, jax.random.fold_in(key, i), size, of_class) for i in range(-(-num // size))]
    return jnp.concatenate(pieces)[:num]


def check_images(images: Any, output: str = "unit", shape: tuple[int, int, int] | None = None) -> Held:
    """Return images [N, h, w, c] that a model can learn, or read; raise ValueError otherwise.

    Args:
      images: uint8, or floats; in [0, 1] if the output is "unit", of any size if it is "real".
      output: what the model's decoder gives, see `settings.GeneratorSettings`.
      shape: (h, w, c) of a trained model, which reads one image or more; None for images to learn from, two or more.
    """
    images, least = native("images", images), 2 if shape is None else 1
    require_channels_last("images", images.shape)
    if images.ndim != 4 or len(images) < least or (shape is not None and images.shape[1:] != tuple(shape)):
        sides = "height, width, channels" if shape is None else ", ".join(map(str, shape))
        raise ValueError(f"images have shape {images.shape}: give at least {least} as [n, {sides}].")
    if images.dtype == np.uint8:
        return images
    if not jnp.issubdtype(images.dtype, jnp.floating) or 0 in images.shape:
        raise ValueError(f"images are {images.dtype} of shape {images.shape}: give uint8 or floats, and no empty axis.")
    if is_traced(images):
        return images
    low, high = least_and_most(images)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("images are not finite: remove NaN and infinite values.")
    if output == "unit" and not (low >= 0 and high <= 1):
        raise ValueError("images are floats outside [0, 1]: give uint8, or scale them to [0, 1].")
    return images


def as_batch(module: nn.Module, images: Any, name: str = "images") -> Array:
    """Return images [n, h, w, c] of a module's shape as float32, uint8 in [0, 1]; only shapes are checked.

    Raises:
      ValueError: for images of another shape.
    """
    images, shape = to_unit(images), tuple(module.image_shape)
    if images.ndim != 4 or images.shape[1:] != shape or not len(images):
        raise ValueError(f"{name} have shape {images.shape}: give at least 1 as [n, {', '.join(map(str, shape))}].")
    return images
