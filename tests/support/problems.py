"""Semi-discrete problems that carry their answer."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from otgen.data import toy


class Problem(NamedTuple):
    """Points, weights (None: uniform), and optimal heights with mean 0."""

    y: jax.Array
    weights: jax.Array | None
    h: jax.Array


def slabs(num: int, dim: int) -> Problem:
    """Points in a row at the middles of slabs of equal mass of the centred cube."""
    y = np.zeros((num, dim), np.float32)
    y[:, 0] = (np.arange(num) + 0.5) / num - 0.5
    h = -0.5 * y[:, 0] ** 2
    return Problem(jnp.asarray(y), None, jnp.asarray(h - h.mean()))


def lattice(side: int) -> Problem:
    """Points at the centres of the sub-squares of the centred square."""
    line = (np.arange(side) + 0.5) / side - 0.5
    y = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2).astype(np.float32)
    h = -0.5 * (y**2).sum(1)
    return Problem(jnp.asarray(y), None, jnp.asarray(h - h.mean()))


def planted_slabs(num: int, dim: int, seed: int) -> Problem:
    """Points in a row at random places with random weights: neighbouring cells meet at the cumulated weights."""
    random = np.random.default_rng(seed)
    place = np.sort(random.uniform(-1, 1, num)) + 0.2 * np.arange(num)
    weights = random.uniform(0.5, 1.5, num)
    weights /= weights.sum()
    border = np.cumsum(weights)[:-1] - 0.5
    h = np.concatenate([[0.0], np.cumsum(-border * np.diff(place))])
    y = np.zeros((num, dim))
    y[:, 0] = place
    return Problem(
        jnp.asarray(y, jnp.float32), jnp.asarray(weights, jnp.float32), jnp.asarray(h - h.mean(), jnp.float32)
    )


def eight_and_twenty_five(name: str, num: int = 256):
    """Standardised toy points drawn with key 0, with the mean and scale that lead back."""
    return toy.standardise(toy.DISTRIBUTIONS[name](jax.random.key(0), num))
