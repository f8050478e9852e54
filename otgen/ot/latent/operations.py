"""The operations on latents: interpolate, average, analogy, vicinity, walk, loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen.ot.check import as_array, as_count, as_key, at_least_float32, is_traced, native, require_nonnegative
from otgen.ot.latent import great_circle
from otgen.ot.latent.combination import combined, combined_as_gaussian, count, leafwise, walked
from otgen.ot.latent.priors import Normal, Prior, as_prior
from otgen.types import Array, Key

STANDARD = Normal()


def combine(weights: Any, z: Any, prior: Prior = STANDARD) -> Any:
    """Combine latents with any weights and return a latent of the prior.

    Args:
      weights: [n], any signs, not all 0.
      z: n latents, independent draws of the prior: a list or tuple of n arrays of one shape, or of n pytrees of them;
        an array [n, ...]; or a pytree of arrays [n, ...], such as a dictionary or a NamedTuple.
      prior: their law.

    Returns:
      T(sum_i w_i z_i), of the shape and type of one latent. Half-precision latents are combined in float32.

    Raises:
      ValueError: outside jit, if weights and latents differ in number, if all weights are 0 (then the combination is
        one point, which no map can spread over the prior), or if a latent lies outside a bounded support.

    Example:
      >>> z = jax.random.normal(jax.random.key(0), (2, 10_000))
      >>> print(og.latent.combine(jnp.array([0.5, 0.5]), z).std(), z.mean(0).std())  # about 1, and 1 / sqrt 2
      0.9997 0.707
      >>> print(og.latent.combine(jnp.array([3.0, 4.0]), [jnp.array([1.0]), jnp.array([2.0])]))  # (3 + 8) / 5
      [2.2]
    """
    weights = native("weights", weights) if not isinstance(weights, list | tuple) else weights
    if jnp.ndim(weights) != 1:
        raise ValueError(f"weights have shape {jnp.shape(weights)}: give one weight per latent, shape [n].")
    return leafwise(lambda terms: combined(weights, terms, as_prior(prior)), z)


def lerp(t: Any, z0: Any, z1: Any, prior: Prior = STANDARD, *, equal_speed: bool = False) -> Any:
    """Interpolate from z0 (t = 0) to z1 (t = 1) inside the prior.

    Args:
      t: a number, or an array [...] of them, which makes the leading axes of the result.
      z0, z1: latents of one shape, or pytrees of them.
      prior: their law.
      equal_speed: reparametrise so that Gaussian paths turn at constant speed (static).

    Returns:
      Latents of shape t.shape + z0.shape; z0 and z1 exactly at the ends.

    Example:
      >>> z0, z1 = jnp.array([3.0, 0.0]), jnp.array([0.0, 3.0])
      >>> print(og.latent.lerp(0.5, z0, z1), 1.5 * np.sqrt(2))  # the mean, times sqrt 2
      [2.1213 2.1213] 2.1213
      >>> print(og.latent.lerp(jnp.array([0.0, 1.0]), z0, z1))  # the ends
      [[3. 0.]
       [0. 3.]]
    """
    t = _parameter("t", t)
    if equal_speed:
        sine, cosine = jnp.sin(0.5 * jnp.pi * t), jnp.cos(0.5 * jnp.pi * t)
        t = jnp.where(t == 1, 1.0, sine / (sine + cosine))
    weights = jnp.stack([1 - t, t], axis=-1)
    return leafwise(lambda terms: combined(weights, terms, as_prior(prior)), (z0, z1))


def _parameter(name: str, number: Any) -> Array:
    """Return a parameter, a finite number or an array of such, as an array."""
    return as_array(name, number).astype(jnp.result_type(float))


def bilinear(s: Any, t: Any, corners: Sequence[Any], prior: Prior = STANDARD) -> Any:
    """Interpolate four corners (z00, z01, z10, z11): s runs from the first two to the last two, t within each two.

    Args:
      s, t: numbers, or arrays of them that broadcast together; their axes lead.
      corners: four latents of one shape, or pytrees of them.
      prior: their law.

    Raises:
      ValueError: if the corners are not four, or as in `combine`.

    Example:
      >>> corners = [jnp.full(1, value) for value in (0.0, 1.0, 2.0, 3.0)]
      >>> print(og.latent.bilinear(0.0, 1.0, corners), og.latent.bilinear(0.5, 0.5, corners))  # z01; twice the mean 1.5
      [1.] [3.]
    """
    s, t = (it if is_traced(it) else np.asarray(native(name, it), np.float64) for name, it in (("s", s), ("t", t)))
    weights = jnp.stack(jnp.broadcast_arrays((1 - s) * (1 - t), (1 - s) * t, s * (1 - t), s * t), axis=-1)
    return leafwise(lambda terms: combined(weights, terms, as_prior(prior)), _four(corners))


def _four(corners: Sequence[Any]) -> tuple:
    if (not isinstance(corners, list | tuple) and np.ndim(corners) == 0) or len(corners) != 4:
        raise ValueError("corners must be four latents: give (z00, z01, z10, z11).")
    return tuple(corners)


def grid(corners: Sequence[Any], rows: int, columns: int, prior: Prior = STANDARD) -> Any:
    """Return a grid [rows, columns, ...] of bilinear interpolations, with the corners at its corners.

    Example:
      >>> corners = [jnp.full(1, value) for value in (0.0, 1.0, 2.0, 3.0)]
      >>> print(og.latent.grid(corners, 2, 3)[..., 0])  # between two corners: sqrt 2 times the mean
      [[0. 0.707 1.]
       [2. 3.5355 3.]]
    """
    s, t = (np.arange(num) / max(num - 1, 1) for num in (as_count("rows", rows), as_count("columns", columns)))
    return bilinear(s[:, None], t, corners, prior)


def centroid(z: Any, prior: Prior = STANDARD) -> Any:
    """Return the prior-preserving centre of n latents: equal weights 1/n.

    Example:
      >>> print(og.latent.centroid(jnp.array([[1.0], [2.0], [3.0], [2.0]])))  # the mean 2, times sqrt 4
      [4.]
    """
    num = count(z)
    return combine(jnp.full(num, 1.0 / num), z, prior)


def analogy(a: Any, b: Any, c: Any, prior: Prior = STANDARD) -> Any:
    """Return the latent that is to c as b is to a: c + (b - a), brought back to the prior.

    Example:
      >>> print(og.latent.analogy(jnp.array([1.0]), jnp.array([2.0]), jnp.array([4.0])), 5 / np.sqrt(3))
      [2.887] 2.887
    """
    return combine(jnp.array([-1.0, 1.0, 1.0]), (a, b, c), prior)


def vicinity(key: Key, z: ArrayLike, radius: Any, prior: Prior = STANDARD) -> Array:
    """Return a latent near z: z + radius u with u a fresh draw of the prior, brought back.

    Raises:
      ValueError: outside jit, for a negative radius.

    Example:
      >>> z = jax.random.normal(jax.random.key(0), (10_000,))
      >>> near = og.latent.vicinity(jax.random.key(1), z, 0.5)
      >>> print(near.std(), jnp.corrcoef(z, near)[0, 1])  # about 1, and 1 / sqrt(1.25)
      1.0063 0.8975
    """
    key, radius, prior = as_key(key), _radius(radius), as_prior(prior)
    z = native("z", z)
    prior.check_shape(z.shape)
    noise = prior.sample(key, z.shape).astype(_floating(z.dtype))
    return combined([1.0, radius], [z, noise], prior)


def _radius(radius: Any) -> Any:
    require_nonnegative("radius", radius)
    return radius


def _floating(dtype: Any) -> Any:
    return dtype if jnp.issubdtype(dtype, jnp.floating) else at_least_float32(dtype)


def walk(key: Key, z: ArrayLike, num: int, radius: Any, prior: Prior = STANDARD) -> Array:
    """Return a random walk [num + 1, ...] from z by steps of `vicinity`. Every point of it has the prior's law.

    For Gaussian latents it is an autoregression with correlation 1 / sqrt(1 + radius^2) a step.

    Raises:
      ValueError: outside jit, for a negative radius or a negative number of steps.

    Example:
      >>> path = og.latent.walk(jax.random.key(0), jnp.zeros(5000), 3, 10.0)
      >>> print(path.shape, path[0].std(), path[-1].std())  # wherever it starts, it comes to the prior
      (4, 5000) 0.0 1.001
    """
    return walked(as_key(key), z, as_count("num", num, least=0), _radius(radius), as_prior(prior))


def loop(z0: Any, z1: Any, num: int, prior: Prior = STANDARD) -> Any:
    """Return a closed path [num, ...] through z0: cos(a) z0 + sin(a) z1 for angles a around a circle, brought back.

    Example:
      >>> z0, z1 = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
      >>> print(og.latent.loop(z0, z1, 4))
      [[1. 0.]
       [0. 1.]
       [-1. 0.]
       [0. -1.]]
    """
    angle = 2 * jnp.pi * jnp.arange(as_count("num", num)) / num
    weights = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    return leafwise(lambda terms: combined(weights, terms, as_prior(prior)), (z0, z1))


def subspace(coordinates: Any, z: Any, prior: Prior = STANDARD) -> Any:
    """Return latents at coordinates [..., n] in the span of n latents, each brought back to the prior.

    Example:
      >>> print(og.latent.subspace(jnp.array([[1.0, 0.0], [1.0, 1.0]]), jnp.array([[2.0], [4.0]])), 6 / np.sqrt(2))
      [[2.]
       [4.2426]] 4.2426
    """
    coordinates = _parameter("coordinates", coordinates)
    return leafwise(lambda terms: combined(coordinates, terms, as_prior(prior)), z)


def raw(weights: Any, z: Any) -> Any:
    """Return sum_i w_i z_i itself, a combination that does not keep the prior, for comparison.

    Example:
      >>> print(og.latent.raw(jnp.array([0.5, 0.5]), jnp.array([[2.0], [4.0]])))
      [3.]
    """
    return leafwise(lambda terms: combined(weights, terms, None), z)


def slerp(t: Any, z0: Any, z1: Any) -> Any:
    """Interpolate along the great circle of the last axis, as is often done; for comparison. t = 0 is z0.

    The result is (sin((1 - t) angle) z0 + sin(t angle) z1) / sin(angle). Its norms have about the mean of the prior's
    but a smaller spread, and latents of a bounded prior leave their support. Between opposite latents all great circles
    are equally short, and z0 decides which one is taken.

    Args:
      t: a number, or an array [...] of them, which makes the leading axes of the result.
      z0, z1: latents [..., d] of one shape, or pytrees of them.

    Returns:
      Latents of shape t.shape + z0.shape. Half-precision latents are combined in float32.

    Raises:
      ValueError: for latents that differ in shape or have no axis.

    Example:
      >>> print(og.latent.slerp(0.5, jnp.array([2.0, 0.0]), jnp.array([0.0, 2.0])), np.sqrt(2))
      [1.414 1.414] 1.414
      >>> print(og.latent.slerp(jnp.array([0.0, 0.5, 1.0]), jnp.array([2.0, 0.0]), jnp.array([-2.0, 0.0])))
      [[2. 0.]
       [0. 2.]
       [-2. 0.]]
    """
    t = _parameter("t", t)
    return leafwise(lambda ends: _slerp(t, *(native("the latents", z) for z in ends)), (z0, z1))


@jax.jit
def _slerp(t: Array, z0: Any, z1: Any) -> Array:
    if z0.shape != z1.shape or z0.ndim == 0:
        raise ValueError(f"latents of shapes {z0.shape} and {z1.shape}: give two of one shape [..., d].")
    dtype = jnp.result_type(z0, z1)
    wide = at_least_float32(dtype)
    made = great_circle.slerp(t.astype(wide), jnp.asarray(z0, wide), jnp.asarray(z1, wide))
    return made.astype(_floating(dtype))


def lol(weights: Any, z: Any, prior: Prior = STANDARD) -> Any:
    """Gaussianise, combine, and map back. This keeps priors of independent coordinates, but is not the smallest change.

    Example:
      >>> z = jnp.array([[0.5], [0.5]])
      >>> print(og.latent.lol(jnp.array([0.5, 0.5]), z, og.latent.Uniform()))
      [0.66]
      >>> print(og.latent.combine(jnp.array([0.5, 0.5]), z, og.latent.Uniform()))
      [0.75]
    """
    if not hasattr(as_prior(prior), "cdf"):
        raise ValueError(f"{type(prior).__name__} has no distribution function of coordinates: lol cannot use it.")
    return leafwise(lambda terms: combined_as_gaussian(weights, terms, prior), z)
