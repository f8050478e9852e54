"""Weighted sums of latents and their maps to the prior: checks outside jit, and one compiled program per structure."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from otgen.ot.check import all_finite, at_least_float32, is_traced, native
from otgen.ot.latent.priors import Normal, Prior, degaussianise, gaussianise
from otgen.ot.products import contract
from otgen.types import Array, Key

_PLAIN = (bool, int, float, np.generic)
_UNROLLED = 8  # the sum of up to so many latents is written out; that of more is a matrix product


def leafwise(operation: Callable[[Any], Any], z: Any) -> Any:
    """Apply an operation on n latents to each leaf of them.

    Args:
      operation: takes n arrays of one shape, a list of them or stacked along the first axis.
      z: a list or a tuple of n latents, each an array or a pytree of arrays; or an array [n, ...], or a pytree of
        arrays [n, ...]. A NamedTuple is a pytree.
    """
    if _is_numbers(z) and not _is_sequence(z):
        raise ValueError(f"the latents are one number, {z}: give a list of them, or an array [n, ...].")
    if not _is_sequence(z):
        return operation(z) if hasattr(z, "ndim") else jax.tree.map(operation, z)
    terms = [np.asarray(term) if _is_numbers(term) else term for term in z]
    if not terms:
        raise ValueError("there are no latents: give at least one.")
    structures = {jax.tree.structure(term) for term in terms}
    if len(structures) > 1:
        raise ValueError(f"the latents differ in structure: {', '.join(map(str, structures))}.")
    return jax.tree.map(lambda *leaves: operation(list(leaves)), *terms)


def count(z: Any) -> int:
    """Return how many latents there are."""
    leaves = jax.tree.leaves(z)
    num = len(z) if _is_sequence(z) else (jnp.shape(leaves[0]) or (0,))[0] if leaves else 0
    if not num:
        raise ValueError("there are no latents: give a list of them, or arrays [n, ...].")
    return num


def _is_sequence(z: Any) -> bool:
    return isinstance(z, Sequence) and not isinstance(z, str) and not hasattr(z, "_fields")


def _is_numbers(z: Any) -> bool:
    """Return whether this is a number, or nested lists of numbers, which stand for an array."""
    if isinstance(z, list | tuple) and not hasattr(z, "_fields"):
        return bool(z) and all(map(_is_numbers, z))
    return isinstance(z, _PLAIN)


def combined(weights: Any, terms: Any, prior: Prior | None) -> Array:
    """Return T(sum_i w_i z_i) for weights [..., n], whose leading axes lead in the result.

    Without a prior it is the sum itself.

    Raises:
      ValueError: as `otgen.ot.latent.combine`.
    """
    weights, terms = _weights(weights, len(terms)), _terms(terms, prior)
    if prior is None or _compiles(prior):
        return _combined(prior, weights, terms)
    rows = [_one(prior, row, terms, None) for row in weights.reshape(-1, weights.shape[-1])]
    return jnp.stack(rows).reshape(*weights.shape[:-1], *rows[0].shape)


def combined_as_gaussian(weights: Any, terms: Any, prior: Any) -> Array:
    """Return F^-1(Phi(...)) of the combination of Gaussian latents Phi^-1(F(z_i)), for a prior with `cdf`."""
    weights, terms = _weights(weights, len(terms)), _terms(terms, prior)
    return (_by_gaussians if _compiles(prior) else _by_gaussians.__wrapped__)(prior, weights, terms)


def walked(key: Key, z: Any, num: int, radius: Any, prior: Prior) -> Array:
    """Return the walk [num + 1, ...] of `otgen.ot.latent.walk`; the map of its sums is prepared once."""
    (z,) = _terms([z], prior)
    weights = _weights([1.0, radius], 2)
    compiles = _compiles(prior)
    prepared = (_prepared if compiles else _prepared.__wrapped__)(prior, weights, jnp.shape(z))
    return (_walked if compiles or prior.on_host else _walked.__wrapped__)(prior, prepared, weights, key, z, num)


def _compiles(prior: Prior) -> bool:
    """Return whether the map of a prior can be part of a jitted function: the prior is a pytree and runs no solver."""
    return not prior.on_host and not jax.tree_util.all_leaves([prior])


@jax.jit
def _combined(prior: Prior | None, weights: Array, terms: Any) -> Array:
    if weights.ndim == 1:
        return _one(prior, weights, terms, None)
    fixed = None if prior is None else prior.draws(weights.shape[-1], jnp.shape(terms[0]))
    made = jax.lax.map(lambda row: _one(prior, row, terms, fixed), weights.reshape(-1, weights.shape[-1]))
    return made.reshape(*weights.shape[:-1], *made.shape[1:])


@jax.jit
def _by_gaussians(prior: Any, weights: Array, terms: Any) -> Array:
    result, working = _types(terms)
    white = [gaussianise(prior, jnp.asarray(terms[i], working)) for i in range(len(terms))]
    return degaussianise(prior, _one(Normal(), weights, white, None)).astype(result)


def _one(prior: Prior | None, weights: Array, terms: Any, fixed: Any) -> Array:
    result, working = _types(terms)
    weights = weights.astype(working)
    if prior is None:
        return _sum(weights, terms).astype(result)
    weights = _scaled(weights)
    y = prior.unfold(_sum(weights, terms), jnp.asarray(terms[0], working))
    return prior.finish(prior.prepare(weights, y.shape, fixed), y).astype(result)


def _types(terms: Any) -> tuple[Any, Any]:
    """Return the type of the result, and that of the arithmetic, which is float32 at least."""
    dtype = jnp.result_type(terms) if hasattr(terms, "ndim") else jnp.result_type(*terms)
    working = at_least_float32(dtype)
    return (dtype if jnp.issubdtype(dtype, jnp.floating) else working), working


def _scaled(weights: Array) -> Array:
    """Return the weights over a common factor, so that powers stay in range; the factor does not move the latent."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(weights)))
    extreme = ((largest < 1e-6) | (largest > 1e6)) & (largest > 0)
    return weights / jnp.where(extreme, largest, 1.0)


def _sum(weights: Array, terms: Any) -> Array:
    if len(terms) > _UNROLLED:
        return contract("k,k...->...", weights, jnp.asarray(terms, weights.dtype))
    total = weights[0] * jnp.asarray(terms[0], weights.dtype)
    for i in range(1, len(terms)):
        total = total + weights[i] * jnp.asarray(terms[i], weights.dtype)
    return total


@functools.partial(jax.jit, static_argnames="shape")
def _prepared(prior: Prior, weights: Array, shape: tuple[int, ...]) -> Any:
    return prior.prepare(_scaled(weights), shape)


@functools.partial(jax.jit, static_argnames="num")
def _walked(prior: Prior, prepared: Any, weights: Array, key: Key, z: Any, num: int) -> Array:
    result, working = _types([z])
    weights, start = _scaled(weights.astype(working)), jnp.asarray(z, result)

    def step(z: Array, key: Key) -> tuple[Array, Array]:
        wide = z.astype(working)
        y = prior.unfold(_sum(weights, [wide, prior.sample(key, z.shape)]), wide)
        z = prior.finish(prepared, y).astype(result)
        return z, z

    _, path = jax.lax.scan(step, start, jax.random.split(key, num))
    return jnp.concatenate([start[None], path])


def _weights(weights: Any, num: int) -> Array:
    """Return weights [..., n] of n latents, checked."""
    weights = jnp.asarray(_native(weights), jnp.result_type(float))
    if weights.ndim < 1 or weights.shape[-1] != num:
        raise ValueError(f"weights of shape {weights.shape} for {num} latents: give one weight per latent.")
    if not is_traced(weights):
        if not all_finite(weights):
            raise ValueError(f"weights = {np.asarray(weights).tolist()} are not all finite: repair them.")
        if not np.asarray(weights).any(-1).all():
            raise ValueError(
                "all weights are 0: the combination is a single point, which has no map to the prior; "
                "for the centre of the latents use centroid, for a fresh latent prior.sample."
            )
    return weights


def _native(weights: Any) -> Any:
    """Return an array, also of a list of numbers of which some are traced."""
    if isinstance(weights, list | tuple) and is_traced(*weights):
        return jnp.stack([jnp.asarray(weight) for weight in weights])
    return native("weights", weights)


def _terms(terms: Any, prior: Prior | None) -> Any:
    """Return latents as arrays, once they have one shape and it suits the prior."""
    if hasattr(terms, "ndim"):
        terms = native("the latents", terms)
        if terms.ndim == 0:
            raise ValueError("the latents are one number: give n latents, an array [n, ...] or a list.")
        shape = terms.shape[1:]
    else:
        terms = tuple(native("the latents", term) for term in terms)
        shapes = {term.shape for term in terms}
        if len(shapes) > 1:
            raise ValueError(f"the latents differ in shape: {sorted(shapes)}.")
        shape = terms[0].shape
    if prior is not None:
        prior.check_shape(shape)
        if prior.support is not None and not is_traced(*(terms if isinstance(terms, tuple) else (terms,))):
            _require_inside(terms, prior)
    return terms


def _require_inside(terms: Any, prior: Prior) -> None:
    low, high = prior.support
    # Constants inside a caller's jit have values too.
    with jax.ensure_compile_time_eval():
        outside = bool(_outside(terms, low, high))
    if outside:
        name = type(prior).__name__
        raise ValueError(f"latents lie outside the prior's support [{low}, {high}]: are they draws of {name}?")


@jax.jit
def _outside(terms: Any, low: Array, high: Array) -> Array:
    slack = 1e-3 * (high - low)  # leaves room for the rounding of half precision
    # NaN compares false and passes here; the result is then NaN.
    return jnp.stack([jnp.any((z < low - slack) | (z > high + slack)) for z in jax.tree.leaves(terms)]).any()
