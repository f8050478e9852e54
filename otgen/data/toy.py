"""Two-dimensional toy distributions: `(key, num) -> [num, 2]` draws, in the coordinates of the literature.

All raise ValueError for what is no key, and for a num that is no whole number of at least 1.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from otgen.ot.check import as_count, as_key, as_points, is_traced, require_choice, require_nonnegative
from otgen.ot.products import product
from otgen.types import Array, Key


def _keys(key: Key, num: int, parts: int) -> Key:
    """`parts` keys for a draw of `num` points, once both are what they should be."""
    as_count("num", num)
    return jax.random.split(as_key(key), parts)


def _mixture(key: Key, num: int, centres: Array, deviation: float) -> Array:
    mode_key, noise_key = _keys(key, num, 2)
    mode = jax.random.randint(mode_key, (num,), 0, centres.shape[0])
    return centres[mode] + deviation * jax.random.normal(noise_key, (num, 2))


def eight_gaussians_centres() -> Array:
    """Return the 8 centres [8, 2] on a circle of radius 2.

    Example:
      >>> print(og.data.toy.eight_gaussians_centres()[:2])
      [[2. 0.]
       [1.414 1.414]]
    """
    angle = jnp.arange(8) * jnp.pi / 4
    return 2.0 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)


def twenty_five_gaussians_centres() -> Array:
    """Return the 25 centres [25, 2] on the grid {-4, -2, 0, 2, 4}^2.

    Example:
      >>> print(og.data.toy.twenty_five_gaussians_centres()[:2])
      [[-4. -4.]
       [-2. -4.]]
    """
    side = jnp.arange(-4.0, 5.0, 2.0)
    return jnp.stack(jnp.meshgrid(side, side), axis=-1).reshape(-1, 2)


def eight_gaussians(key: Key, num: int) -> Array:
    """Draw from 8 Gaussians of standard deviation 0.1 on a circle of radius 2: [num, 2].

    Example:
      >>> radius = jnp.linalg.norm(og.data.toy.eight_gaussians(jax.random.key(0), 1000), axis=1)
      >>> print(jnp.abs(radius - 2).max() < 0.5)
      True
    """
    return _mixture(key, num, eight_gaussians_centres(), 0.1)


def twenty_five_gaussians(key: Key, num: int) -> Array:
    """Draw from 25 Gaussians of standard deviation 0.05 on the grid {-4, -2, 0, 2, 4}^2: [num, 2].

    Example:
      >>> x = og.data.toy.twenty_five_gaussians(jax.random.key(0), 1000)
      >>> print(jnp.abs(x / 2 - (x / 2).round()).max() < 0.15)
      True
    """
    return _mixture(key, num, twenty_five_gaussians_centres(), 0.05)


def swiss_roll(key: Key, num: int) -> Array:
    """Draw from a spiral of one and a half turns, radius 1.5 pi to 4.5 pi, with noise 0.25: [num, 2].

    Example:
      >>> radius = jnp.linalg.norm(og.data.toy.swiss_roll(jax.random.key(0), 1000), axis=1)
      >>> print(radius.min() > 1.5 * jnp.pi - 1, radius.max() < 4.5 * jnp.pi + 1)
      True True
    """
    angle_key, noise_key = _keys(key, num, 2)
    t = 1.5 * jnp.pi * (1 + 2 * jax.random.uniform(angle_key, (num,)))
    roll = jnp.stack([t * jnp.cos(t), t * jnp.sin(t)], axis=1)
    return roll + 0.25 * jax.random.normal(noise_key, (num, 2))


def rings(key: Key, num: int) -> Array:
    """Draw from four concentric rings of radii 1 to 4 with noise 0.08, equally likely: [num, 2].

    Example:
      >>> radius = jnp.linalg.norm(og.data.toy.rings(jax.random.key(0), 1000), axis=1)
      >>> print(np.unique(np.asarray(radius).round()))
      [1. 2. 3. 4.]
    """
    ring_key, angle_key, noise_key = _keys(key, num, 3)
    radius = 1.0 + jax.random.randint(ring_key, (num,), 0, 4)
    angle = 2 * jnp.pi * jax.random.uniform(angle_key, (num,))
    ring = radius[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    return ring + 0.08 * jax.random.normal(noise_key, (num, 2))


def checkerboard(key: Key, num: int) -> Array:
    """Draw uniformly from the 8 dark unit squares of a 4 x 4 board on [-2, 2]^2: [num, 2].

    Example:
      >>> x = jnp.floor(og.data.toy.checkerboard(jax.random.key(0), 1000))
      >>> print(np.unique(x.sum(1) % 2))  # squares of one colour
      [0.]
    """
    square_key, place_key = _keys(key, num, 2)
    square = jax.random.randint(square_key, (num,), 0, 8)
    row = square // 2
    column = 2 * (square % 2) + row % 2
    corner = jnp.stack([column, row], axis=1) - 2.0
    return corner + jax.random.uniform(place_key, (num, 2))


def two_moons(key: Key, num: int) -> Array:
    """Draw from two interleaved half circles of radius 1 with noise 0.05, equally likely: [num, 2].

    Example:
      >>> print(og.data.toy.two_moons(jax.random.key(0), 100).shape)
      (100, 2)
    """
    moon_key, angle_key, noise_key = _keys(key, num, 3)
    lower = jax.random.bernoulli(moon_key, 0.5, (num,))[:, None]
    angle = jnp.pi * jax.random.uniform(angle_key, (num,))
    arc = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    moon = jnp.where(lower, jnp.array([1.0, 0.5]) - arc, arc)
    return moon + 0.05 * jax.random.normal(noise_key, (num, 2))


DISTRIBUTIONS = {
    draw.__name__: draw for draw in (eight_gaussians, twenty_five_gaussians, swiss_roll, rings, checkerboard, two_moons)
}


def centres_of(name: str) -> tuple[Array, float] | None:
    """Mode centres and standard deviation of a Gaussian mixture by name; None for the other toys.

    Raises:
      ValueError: for a name that is not in `DISTRIBUTIONS`.

    Example:
      >>> centres, deviation = og.data.toy.centres_of("eight_gaussians")
      >>> print(centres.shape, deviation, og.data.toy.centres_of("rings"))
      (8, 2) 0.1 None
    """
    known = {
        "eight_gaussians": (eight_gaussians_centres, 0.1),
        "twenty_five_gaussians": (twenty_five_gaussians_centres, 0.05),
    }
    require_choice("name", name, tuple(DISTRIBUTIONS))
    if name not in known:
        return None
    centres, deviation = known[name]
    return centres(), deviation


def standardise(x: Array) -> tuple[Array, Array, Array]:
    """Shift and scale every coordinate of x [n, d] to mean 0 and variance 1; return also the mean and scale [d].

    Raises:
      ValueError: for another shape, no points, or (outside jit) points that are not finite or share a coordinate.

    Example:
      >>> x, mean, scale = og.data.toy.standardise(jnp.array([[0.0, 1.0], [4.0, 2.0]]))
      >>> print(x, mean, scale)
      [[-1. -1.]
       [1. 1.]] [2. 1.5] [2. 0.5]
    """
    x = as_points("x", x)
    mean, scale = x.mean(0), x.std(0)
    if not is_traced(scale) and not (scale > 0).all():
        raise ValueError(f"x has the same value in all of column {int(jnp.argmin(scale))}: drop it, it has no scale.")
    return (x - mean) / scale, mean, scale


def zipf_covariance(key: Key, dim: int, least: float) -> Array:
    """Draw a covariance [dim, dim] with eigenvalues that fall like 1 / i, the smallest `least` + 1 / dim.

    s_i = s_1 / i + N(0, 1), shifted to that minimum, with s_1 the largest singular value of a Gaussian matrix; random
    eigenvectors.

    Example:
      >>> values = jnp.linalg.eigvalsh(og.data.toy.zipf_covariance(jax.random.key(0), 4, 0.5))
      >>> print(values.min(), 0.5 + 1 / 4)
      0.75 0.75

    Raises:
      ValueError: for what is no key, a dim below 1, or a negative least.

    Reference: the targets in the experiments of paper C (arXiv 2303.03027).
    """
    as_count("dim", dim)
    require_nonnegative("least", least)
    top_key, noise_key, basis_key = jax.random.split(as_key(key), 3)
    top = jnp.linalg.norm(jax.random.normal(top_key, (dim, dim)), 2)
    values = top / jnp.arange(1, dim + 1) + jax.random.normal(noise_key, (dim,))
    values = values - values.min() + 1 / dim + least
    basis = jax.random.orthogonal(basis_key, dim)
    cov = product(basis * values, basis.T)
    return 0.5 * (cov + cov.T)
