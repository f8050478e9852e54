"""Weights for the points of an update under which means of known functions are those of the law.

The gradient of the dual is the difference of two means, of draws x of the source and of maximisers x*(y) of draws y of
the target, and near the optimum the two laws agree: what a minibatch adds is noise alone, and for a map with fine
structure the noise is what takes long to average away. The means of some functions f(x) are known ahead, from very many
draws or from all codes. With the weights

    w_i = (1 - <f_i - f, S^-1 (f - E f)>) / n,    f and S the mean and the covariance of f_1 ... f_n,

sum_i w_i f_i = E f, and so is the mean of whatever is linear in f: of any other function only what f does not predict
is left of the noise (regression with control variates, and the calibration of survey sampling). The functions here are
the coordinates and kinks max(<a, x - p>, 0) in random directions through random points p of the law.

Reference: Deville and Sarndal (1992), Calibration estimators in survey sampling, J. Am. Stat. Assoc. 87.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from otgen.ot.products import product
from otgen.types import Array, Key, Sampler, averaged

_BLOCK = 2**14  # draws at a time
_FLOOR = 1e-5  # of the largest variance: combinations of the functions that vary less are not made larger
_RIDGE = 1e-3  # on the covariance of functions of unit variance


class Known(NamedTuple):
    """Functions of a point and their means under a law.

    Attributes:
      directions: of the kinks [d, k].
      offsets: <a, p> of every kink [k].
      mean: of coordinates and kinks [d + k].
      whitening: makes them uncorrelated and of unit variance [d + k, d + k].
    """

    directions: Array
    offsets: Array
    mean: Array
    whitening: Array


def of_points(key: Key, num: int, points: Array) -> Known:
    """Choose `num` kinks, and take the means over points [N, d], all of a law there are."""
    offsets, directions = _kinks(key, num, lambda key: points[jax.random.randint(key, (num,), 0, len(points))])
    size = min(len(points), _BLOCK)
    whole = len(points) - len(points) % size
    sums = jax.lax.map(functools.partial(_sums, directions, offsets), points[:whole].reshape(-1, size, points.shape[1]))
    rest = _sums(directions, offsets, points[whole:])
    return _known(directions, offsets, jax.tree.map(lambda some, one: some.sum(0) + one, sums, rest), len(points))


def of_law(key: Key, num: int, sampler: Sampler, dim: int, draws: int) -> Known:
    """Choose `num` kinks, and take the means over at least so many draws of a law."""
    choice, key = jax.random.split(key)
    offsets, directions = _kinks(choice, num, lambda key: sampler(key, num, dim))
    size = min(draws, _BLOCK)
    keys = jax.random.split(key, -(-draws // size))
    sums = jax.lax.map(lambda one: _sums(directions, offsets, sampler(one, size, dim)), keys)
    return _known(directions, offsets, jax.tree.map(lambda leaf: leaf.sum(0), sums), size * len(keys))


def _kinks(key: Key, num: int, draw: Callable[[Key], Array]) -> tuple[Array, Array]:
    """Return offsets [k] and directions [d, k]."""
    point_key, direction_key = jax.random.split(key)
    points = draw(point_key).T
    directions = jax.random.normal(direction_key, points.shape, points.dtype) * points.shape[0] ** -0.5
    return jnp.sum(points * directions, axis=0), directions


def _functions(directions: Array, offsets: Array, x: Array) -> Array:
    return jnp.concatenate([x, jax.nn.relu(product(x, directions) - offsets)], axis=1)


def _sums(directions: Array, offsets: Array, x: Array) -> tuple[Array, Array]:
    f = _functions(directions, offsets, x)
    return f.sum(0), product(f.T, f)


def _known(directions: Array, offsets: Array, sums: tuple[Array, Array], num: int) -> Known:
    mean = sums[0] / num
    values, vectors = jnp.linalg.eigh(sums[1] / num - jnp.outer(mean, mean))
    return Known(directions, offsets, mean, vectors / jnp.sqrt(jnp.maximum(values, 0.0) + _FLOOR * values[-1]))


def weights(law: Known, x: Array, axis_name: str | None = None) -> Array:
    """Return weights [n], 1 / n on average over all devices, for this device's points [n, d] of an update."""
    f = product(_functions(law.directions, law.offsets, x) - law.mean, law.whitening)
    mean = averaged(f.mean(0), axis_name)
    centred = f - mean
    covariance = averaged(product(centred.T, centred) / len(f), axis_name)
    covariance += _RIDGE * jnp.eye(len(mean), dtype=f.dtype)
    return (1 - product(centred, jax.scipy.linalg.solve(covariance, mean, assume_a="pos"))) / len(f)
