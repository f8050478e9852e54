"""Checks of what users hand in: outside jit they raise at once, inside jit they step aside."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen.types import Array, Held


def is_traced(*arrays: ArrayLike) -> bool:
    """Whether any of the arrays has no value yet because a transformation is tracing."""
    return any(isinstance(array, jax.core.Tracer) for array in arrays)


def require_finite(name: str, array: ArrayLike) -> None:
    """Refuse NaN and infinite entries, outside jit.

    Raises:
      ValueError: saying how many there are.
    """
    if not is_traced(array):
        bad = np.count_nonzero(~np.isfinite(np.asarray(array)))
        if bad:
            raise ValueError(f"{name} has {bad} NaN or infinite entries: remove or repair them.")


def require_positive(name: str, number: ArrayLike) -> None:
    """Refuse numbers that are not positive and finite, outside jit.

    Raises:
      ValueError: with the number given.
    """
    if not is_traced(number):
        value = np.asarray(number)
        if value.ndim:
            raise ValueError(f"{name} has shape {value.shape}: give one number, and vmap over several.")
        if not (np.isfinite(value).all() and (value > 0).all()):
            raise ValueError(f"{name} = {number}: give a positive finite number.")


def poison(values: Held, legal: ArrayLike) -> Held:
    """Make values NaN where they are not legal, inside jit, where nothing can be raised: the status says NONFINITE."""
    return jnp.where(legal, values, jnp.nan) if is_traced(values, legal) else values


def as_mass(name: str, weights: ArrayLike | None, num: int, dtype: jnp.dtype = jnp.float32) -> Held:
    """Return non-negative weights [num] as they are, zeros allowed and any total; uniform with total 1 for None.

    Weights that are not a JAX array stay with NumPy: putting them on a device is for the jitted call that takes them.

    Raises:
      ValueError: if the shape is not [num], or (outside jit) if a weight is negative or not finite, or all are zero.
    """
    if weights is None:
        return np.full(num, 1.0 / num, dtype)
    weights = weights if isinstance(weights, jax.Array) else np.asarray(weights)
    if weights.shape != (num,):
        raise ValueError(f"{name} has shape {weights.shape}: give one weight per point, shape ({num},).")
    weights = weights.astype(dtype)
    if not is_traced(weights):
        values = np.asarray(weights, np.float64)
        if not np.isfinite(values).all() or values.min() < 0:
            raise ValueError(f"{name} has a smallest value of {values.min()}: weights must be finite and not negative.")
        if values.sum() == 0:
            raise ValueError(f"{name} is all zeros: at least one point must carry mass.")
    return weights


def as_points(name: str, points: ArrayLike, least: int = 2) -> Array:
    """Return points [n, d] as an array of float32 at least.

    Raises:
      ValueError: if they are not a matrix, fewer than `least`, or (outside jit) not finite.
    """
    if not isinstance(points, jax.Array):
        points = np.asarray(points)
    if jnp.issubdtype(points.dtype, jnp.complexfloating):
        raise ValueError(f"{name} is complex: give real points.")
    if points.ndim != 2 or points.shape[1] < 1:
        raise ValueError(
            f"{name} has shape {points.shape}: give points as rows, shape [n, d]. "
            "One-dimensional points are a column: x[:, None]."
        )
    if points.shape[0] < least:
        raise ValueError(f"{name} holds {points.shape[0]} point(s): at least {least} are needed.")
    if not is_traced(points):
        values = np.asarray(points)  # checked before it goes to the device
        finite = np.isfinite(values if values.dtype.kind == "f" else values.astype(np.float32))
        if not finite.all():
            bad = np.flatnonzero(~finite.all(1))
            raise ValueError(
                f"{name} has NaN or infinite values in {bad.size} row(s), first row {bad[0]}: remove or repair them."
            )
    dtype = jax.dtypes.canonicalize_dtype(jnp.promote_types(points.dtype, jnp.float32))  # float32 at least
    return jnp.asarray(points) if points.dtype == dtype else jnp.asarray(points, dtype)


def as_weights(weights: ArrayLike | None, num: int, name: str = "weights") -> Array:
    """Return positive weights [num] that sum to 1; uniform for None.

    Raises:
      ValueError: if the shape is not [num], or (outside jit) if a weight is not positive or the sum is not 1.
    """
    if weights is None:
        return jnp.full(num, 1.0 / num, jnp.float32)
    weights = jnp.asarray(weights, jnp.float32)
    if weights.shape != (num,):
        raise ValueError(f"{name} has shape {weights.shape}: give one weight per point, shape ({num},).")
    if not is_traced(weights):
        values = np.asarray(weights, np.float64)
        if not np.isfinite(values).all() or values.min() <= 0:
            raise ValueError(
                f"{name} has a smallest value of {values.min()}: all must be finite and positive; "
                "drop points of weight zero."
            )
        if abs(values.sum() - 1) > 1e-4:
            raise ValueError(f"{name} sums to {values.sum():.6g}, not 1: divide by the sum.")
    return weights / weights.sum()
