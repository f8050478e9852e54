"""Operations on latents that keep their prior: interpolate, average, analogy, vicinity, walk, loop.

Averaging latents leaves the prior: the midpoint of two Gaussian latents is too short by sqrt 2, and generators draw
blurred images from it. Each operation here forms the intuitive combination y = sum_i w_i z_i and moves it to the
prior by the Monge map of the law of y, the change that is smallest in mean square among all that restore the prior.

What is kept is the law over random inputs; one fixed pair of latents may still lie anywhere.

Reference: Agustsson, Sage, Timofte and Van Gool (2019), arXiv 1711.01970; for `lol`, Bodin et al. (2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from otgen.ot.check import is_traced
from otgen.ot.learned import Learned as Learned
from otgen.ot.priors import Cauchy as Cauchy
from otgen.ot.priors import Custom as Custom
from otgen.ot.priors import Empirical as Empirical
from otgen.ot.priors import Mixture as Mixture
from otgen.ot.priors import Normal as Normal
from otgen.ot.priors import Prior as Prior
from otgen.ot.priors import Stable as Stable
from otgen.ot.priors import StudentT as StudentT
from otgen.ot.priors import TruncatedNormal as TruncatedNormal
from otgen.ot.priors import Uniform as Uniform
from otgen.ot.priors import degaussianise, gaussianise
from otgen.ot.radial import Ball as Ball
from otgen.ot.radial import MultivariateT as MultivariateT
from otgen.ot.radial import Sphere as Sphere
from otgen.types import Array, Key

STANDARD = Normal()


def combine(weights: Any, z: Any, prior: Prior = STANDARD) -> Any:
    """Combine latents with any weights and return a latent of the prior.

    Args:
      weights: [n], any signs, not all 0.
      z: n latents: a sequence of arrays of one shape, an array [n, ...], or a pytree of arrays [n, ...]. Independent
        draws of the prior.
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
    if isinstance(z, dict) or (not _is_sequence(z) and not hasattr(z, "ndim")):
        return jax.tree.map(lambda leaf: combine(weights, leaf, prior), z)
    terms = list(z)
    return _combine(_checked(weights, terms, prior), terms, prior)


def _combine(weights: Array, terms: Sequence[Any], prior: Prior) -> Array:
    """Combine checked latents."""
    dtype = jnp.result_type(*terms)
    working = jnp.promote_types(dtype, jnp.float32)  # float32 at least
    weights = weights.astype(working)
    y = _sum(weights, [jnp.asarray(term, working) for term in terms])
    return prior.match(weights, y).astype(dtype)


def _is_sequence(z: Any) -> bool:
    return isinstance(z, Sequence) and not isinstance(z, str)


def _sum(weights: Array, terms: list[Array]) -> Array:
    total = weights[0] * terms[0]
    for weight, term in zip(weights[1:], terms[1:], strict=True):
        total = total + weight * term
    return total


def _checked(weights: Any, terms: list[Any], prior: Prior) -> Array:
    weights = jnp.asarray(weights, jnp.result_type(float))
    if weights.ndim != 1 or weights.shape[0] != len(terms):
        raise ValueError(f"weights of shape {weights.shape} for {len(terms)} latents: give one weight per latent.")
    shapes = {jnp.shape(term) for term in terms}
    if len(shapes) > 1:
        raise ValueError(f"the latents differ in shape: {sorted(shapes)}.")
    if not is_traced(weights):
        values = np.asarray(weights)
        if not np.isfinite(values).all():
            raise ValueError(f"weights = {values.tolist()} are not all finite.")
        if not values.any():
            raise ValueError(
                "all weights are 0: the combination is a single point, which has no map to the prior; "
                "for the centre of the latents use centroid, for a fresh latent prior.sample."
            )
    if prior.support is not None and not is_traced(*terms):
        low, high = prior.support
        slack = 1e-3 * (high - low)  # half precision rounds
        for term in terms:
            # NaN compares false and passes: it comes out as NaN. Constants of somebody's jit have values too.
            with jax.ensure_compile_time_eval():
                outside = bool(jnp.any((term < low - slack) | (term > high + slack)))
            if outside:
                name = type(prior).__name__
                raise ValueError(f"latents lie outside the prior's support [{low}, {high}]: are they draws of {name}?")
    return weights


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
    t = jnp.asarray(t, jnp.result_type(float))
    if equal_speed:
        sine, cosine = jnp.sin(0.5 * jnp.pi * t), jnp.cos(0.5 * jnp.pi * t)
        t = jnp.where(t == 1, 1.0, sine / (sine + cosine))
    return _each(t, lambda s: jnp.stack([1 - s, s]), (z0, z1), prior)


def _each(parameters: Array, weights_of: Any, z: Sequence[Any], prior: Prior) -> Any:
    """Combine with the weights of every parameter; their axes lead."""
    if jax.tree.structure(z[0]) != jax.tree.structure(0):
        return jax.tree.map(lambda *leaves: _each(parameters, weights_of, leaves, prior), *z)
    if parameters.ndim == 0:
        return combine(weights_of(parameters), z, prior)
    _checked(jnp.ones(len(z)), list(z), prior)
    flat = jax.lax.map(lambda s: _combine(weights_of(s), z, prior), parameters.reshape(-1))
    return flat.reshape(*parameters.shape, *flat.shape[1:])


def bilinear(s: Any, t: Any, corners: Sequence[Any], prior: Prior = STANDARD) -> Any:
    """Interpolate four corners (z00, z01, z10, z11): s runs from the first two to the last two, t within each two.

    Example:
      >>> corners = [jnp.full(1, value) for value in (0.0, 1.0, 2.0, 3.0)]
      >>> print(og.latent.bilinear(0.0, 1.0, corners), og.latent.bilinear(0.5, 0.5, corners))  # z01; twice the mean 1.5
      [1.] [3.]
    """
    weights = jnp.stack([(1 - s) * (1 - t), (1 - s) * t, s * (1 - t), jnp.asarray(s * t)])
    return combine(weights, tuple(corners), prior)


def grid(corners: Sequence[Any], rows: int, columns: int, prior: Prior = STANDARD) -> Array:
    """Return a grid [rows, columns, ...] of bilinear interpolations, with the corners at its corners.

    Example:
      >>> corners = [jnp.full(1, value) for value in (0.0, 1.0, 2.0, 3.0)]
      >>> print(og.latent.grid(corners, 2, 3)[..., 0])  # between two corners: sqrt 2 times the mean
      [[0. 0.707 1.]
       [2. 3.5355 3.]]
    """
    across = [[(i / max(rows - 1, 1), j / max(columns - 1, 1)) for j in range(columns)] for i in range(rows)]
    return jnp.stack([jnp.stack([bilinear(s, t, corners, prior) for s, t in row]) for row in across])


def centroid(z: Any, prior: Prior = STANDARD) -> Any:
    """Return the prior-preserving centre of n latents: equal weights 1/n.

    Example:
      >>> print(og.latent.centroid(jnp.array([[1.0], [2.0], [3.0], [2.0]])))  # the mean 2, times sqrt 4
      [4.]
    """
    num = len(z) if _is_sequence(z) else jax.tree.leaves(z)[0].shape[0]
    return combine(jnp.full(num, 1.0 / num), z, prior)


def analogy(a: Any, b: Any, c: Any, prior: Prior = STANDARD) -> Any:
    """Return what is to c as b is to a: c + (b - a), brought back to the prior.

    Example:
      >>> print(og.latent.analogy(jnp.array([1.0]), jnp.array([2.0]), jnp.array([4.0])), 5 / np.sqrt(3))
      [2.887] 2.887
    """
    return combine(jnp.array([-1.0, 1.0, 1.0]), (a, b, c), prior)


def vicinity(key: Key, z: Array, radius: Any, prior: Prior = STANDARD) -> Array:
    """Return a latent near z: z + radius u with u a fresh draw of the prior, brought back.

    Raises:
      ValueError: outside jit, for a negative radius.

    Example:
      >>> z = jax.random.normal(jax.random.key(0), (10_000,))
      >>> near = og.latent.vicinity(jax.random.key(1), z, 0.5)
      >>> print(near.std(), jnp.corrcoef(z, near)[0, 1])  # about 1, and 1 / sqrt(1.25)
      1.0063 0.8975
    """
    if not is_traced(radius) and not float(radius) >= 0:
        raise ValueError(f"radius = {float(radius)} is negative: give 0 or more (1 forgets half).")
    noise = prior.sample(key, jnp.shape(z)).astype(jnp.asarray(z).dtype)
    return combine(jnp.stack([jnp.ones(()), jnp.asarray(radius, jnp.result_type(float))]), (z, noise), prior)


def walk(key: Key, z: Array, num: int, radius: Any, prior: Prior = STANDARD) -> Array:
    """Return a random walk [num + 1, ...] from z by steps of `vicinity`: stationary, whatever its length.

    For Gaussian latents it is an autoregression with correlation 1 / sqrt(1 + radius^2) a step.

    Raises:
      ValueError: outside jit, for a negative radius or a negative number of steps.

    Example:
      >>> path = og.latent.walk(jax.random.key(0), jnp.zeros(5000), 3, 10.0)
      >>> print(path.shape, path[0].std(), path[-1].std())  # wherever it starts, it comes to the prior
      (4, 5000) 0.0 1.001
    """
    if num < 0:
        raise ValueError(f"num = {num} steps is negative.")
    if not is_traced(radius) and not float(radius) >= 0:
        raise ValueError(f"radius = {float(radius)} is negative: give 0 or more.")

    def step(z: Array, key: Key) -> tuple[Array, Array]:
        z = vicinity(key, z, jnp.asarray(radius), prior)
        return z, z

    _, path = jax.lax.scan(step, z, jax.random.split(key, num))
    return jnp.concatenate([z[None], path])


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
    angle = 2 * jnp.pi * jnp.arange(num) / num
    return _each(angle, lambda a: jnp.stack([jnp.cos(a), jnp.sin(a)]), (z0, z1), prior)


def subspace(coordinates: Any, z: Any, prior: Prior = STANDARD) -> Any:
    """Return latents at coordinates [..., n] in the span of n latents, each brought back to the prior.

    Example:
      >>> print(og.latent.subspace(jnp.array([[1.0, 0.0], [1.0, 1.0]]), jnp.array([[2.0], [4.0]])), 6 / np.sqrt(2))
      [[2.]
       [4.2426]] 4.2426
    """
    coordinates = jnp.asarray(coordinates, jnp.result_type(float))
    flat = jnp.stack([combine(row, z, prior) for row in coordinates.reshape(-1, coordinates.shape[-1])])
    return flat.reshape(*coordinates.shape[:-1], *flat.shape[1:])


def raw(weights: Any, z: Any) -> Array:
    """Return sum_i w_i z_i and leave it there: the combination that does not keep the prior, for comparison.

    Example:
      >>> print(og.latent.raw(jnp.array([0.5, 0.5]), jnp.array([[2.0], [4.0]])))
      [3.]
    """
    terms = list(z)
    weights = _checked(weights, terms, STANDARD)
    return _sum(weights, terms)


def slerp(t: Any, z0: Array, z1: Array) -> Array:
    """Interpolate along the great circle of the last axis: folklore, for comparison. t = 0 is z0.

    The norm keeps its mean but loses spread, and latents of a bounded prior leave their support.

    Example:
      >>> print(og.latent.slerp(0.5, jnp.array([2.0, 0.0]), jnp.array([0.0, 2.0])), np.sqrt(2))
      [1.414 1.414] 1.414
    """
    norms = jnp.linalg.norm(z0, axis=-1, keepdims=True) * jnp.linalg.norm(z1, axis=-1, keepdims=True)
    angle = jnp.arccos(jnp.clip(jnp.sum(z0 * z1, -1, keepdims=True) / norms, -1, 1))
    return (jnp.sin((1 - t) * angle) * z0 + jnp.sin(t * angle) * z1) / jnp.sin(angle)


def lol(weights: Any, z: Any, prior: Any = STANDARD) -> Array:
    """Gaussianise, combine, and map back: keeps priors of independent coordinates, but is not the smallest change.

    Example:
      >>> z = jnp.array([[0.5], [0.5]])
      >>> print(og.latent.lol(jnp.array([0.5, 0.5]), z, og.latent.Uniform()))
      [0.66]
      >>> print(og.latent.combine(jnp.array([0.5, 0.5]), z, og.latent.Uniform()))
      [0.75]
    """
    terms = list(z)
    weights = _checked(weights, terms, prior)
    y = combine(weights, [gaussianise(prior, jnp.asarray(term)) for term in terms], STANDARD)
    return degaussianise(prior, y)
