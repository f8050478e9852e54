"""Small random moves of images that keep what they show: an encoder trained on them learns not to look at the move."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from otgen.ot.check import require_nonnegative
from otgen.ot.products import product
from otgen.types import Array, Key


@dataclasses.dataclass(frozen=True)
class Augment:
    """How far images are moved: each amount is the end of a uniform law around zero, but the noise is normal.

    Attributes:
      rotation: in radians.
      shear: of columns against rows, in radians.
      shift: of each axis, in pixels.
      scale: of each axis, as a share of its length.
      noise: standard deviation added to every pixel.

    Raises:
      ValueError: for a negative or infinite amount, a shear of pi / 2 or a scale of 1.

    Example:
      >>> print(og.nn.augment.Augment(rotation=0, shear=0, scale=0, noise=0))
      Augment(rotation=0, shear=0, shift=2.0, scale=0, noise=0)
    """

    rotation: float | int = 0.25
    shear: float | int = 0.25
    shift: float | int = 2.0
    scale: float | int = 0.15
    noise: float | int = 0.05

    def __post_init__(self) -> None:
        for name, amount in dataclasses.asdict(self).items():
            require_nonnegative(name, amount)
        if self.shear >= math.pi / 2 or self.scale >= 1:
            raise ValueError(f"shear = {self.shear}, scale = {self.scale}: give less than pi / 2, and less than 1.")


def augment(keys: Key, images: Array, amounts: Augment) -> Array:
    """Move every image by an affine map of its own, bilinearly, with zeros outside, and add noise.

    Args:
      keys: one for each image [n].
      images: [n, h, w, c].
      amounts: how far. Static.

    Returns:
      Images [n, h, w, c]; not clipped.

    Example:
      >>> images, still = jnp.ones((2, 4, 4, 1)), og.nn.augment.Augment(0, 0, 0, 0, 0)
      >>> print(og.nn.augment.augment(jax.random.split(jax.random.key(0), 2), images, still).sum((1, 2, 3)))
      [16. 16.]
    """
    return jax.vmap(lambda key, image: _move(key, image, amounts))(keys, images)


def _move(key: Key, image: Array, amounts: Augment) -> Array:
    place_key, noise_key = jax.random.split(key)
    u = jax.random.uniform(place_key, (6,), minval=-1.0, maxval=1.0)
    angle, shear = amounts.rotation * u[0], jnp.tan(amounts.shear * u[1])
    turn = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
    matrix = product(turn, jnp.array([[1.0, 0.0], [shear, 1.0]])) * (1 + amounts.scale * u[2:4])
    height, width, _ = image.shape
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    middle = jnp.array([(height - 1) / 2, (width - 1) / 2])
    place = jnp.stack([rows, columns], axis=-1) - middle
    place = product(place, matrix.T) + middle + amounts.shift * u[4:6]
    at = [place[..., 0], place[..., 1]]
    moved = jax.vmap(lambda channel: map_coordinates(channel, at, order=1), in_axes=2, out_axes=2)(image)
    return moved + amounts.noise * jax.random.normal(noise_key, image.shape)
