"""Checks of what users hand in: outside jit they raise at once, inside jit they look at shapes and types alone."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen.types import Array, Held

SAME = 1e-5  # totals of weights that are further apart, relative, are another problem


def is_traced(*arrays: Any) -> bool:
    """Return whether any of the arrays has no value yet because a transformation is tracing."""
    return any(isinstance(array, jax.core.Tracer) for array in arrays)


def native(name: str, array: Any) -> Held:
    """Return a JAX array as it is, and anything else as a NumPy array of numbers in this machine's byte order.

    Readers of IDX and FITS files give big-endian arrays, whose bytes jitted functions would misread. Arrays of other
    libraries, such as PyTorch's tensors, are read by NumPy where they lie in its memory, and by DLPack where they lie
    on a GPU or are of a type that NumPy does not know; both are copied, as their owner may write to them.

    Raises:
      ValueError: for masked arrays, for what is no array of real numbers, and for tensors that nobody may read, such as
        those that require a gradient.
    """
    if isinstance(array, jax.Array):
        if jnp.issubdtype(array.dtype, jnp.complexfloating) or jnp.issubdtype(array.dtype, jax.dtypes.extended):
            raise ValueError(f"{name} has entries of type {array.dtype}: give real numbers.")
        return array
    if isinstance(array, np.ma.MaskedArray):
        raise ValueError(f"{name} is a masked array: fill the masked entries, or give weights that are zero there.")
    if hasattr(array, "images") and hasattr(array, "labels"):
        raise ValueError(f"{name} is a data set: give its .images, and its .labels as labels where classes are told.")
    if hasattr(array, "__dlpack__") and not isinstance(array, np.ndarray):
        array = _of_another_library(name, array)
        if isinstance(array, jax.Array):
            return native(name, array)
    try:
        array = np.asarray(array)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} is no array of numbers ({error}): give rows of one length.") from error
    if array.dtype.kind in "US":
        told = (
            "number classes by np.unique(labels, return_inverse=True)[1]" if array.ndim else "og.data.load reads paths"
        )
        raise ValueError(f"{name} is text, of type {array.dtype}: give real numbers; {told}.")
    if not (array.dtype.kind in "biuf" or jnp.issubdtype(array.dtype, jnp.floating)):  # bfloat16's kind is V
        raise ValueError(f"{name} has entries of type {array.dtype}: give real numbers.")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _of_another_library(name: str, array: Any) -> Held:
    try:
        return np.asarray(array)
    except Exception:  # of its own kind in each library: memory of a GPU, a type that NumPy does not know
        try:
            return now(lambda: jnp.array(jax.dlpack.from_dlpack(array), copy=True))
        except Exception as error:
            kind = f"{type(array).__module__}.{type(array).__qualname__}"
            raise ValueError(
                f"{name} is a {kind} that cannot be read ({error}): give jax.dlpack.from_dlpack of it, of one that "
                "requires a gradient jax.dlpack.from_dlpack(tensor.detach())."
            ) from error


def at_least_float32(dtype: Any) -> Any:
    """Return the type in which arrays of a type are computed with: itself, or float32 for integers and half floats."""
    return jax.dtypes.canonicalize_dtype(jnp.promote_types(dtype, jnp.float32))


def as_array(
    name: str, array: Any, shape: Sequence[int | None] | None = None, *, finite: bool = True, keep: bool = False
) -> Array:
    """Return an array of float32 at least, of the shape asked for.

    Args:
      name: what to call it in an error.
      array: anything NumPy or JAX takes for an array.
      shape: the shape it must have, None for a side of any length; None for any shape.
      finite: whether NaN and infinite entries are refused, outside jit.
      keep: whether floats of half precision keep their type.

    Raises:
      ValueError: for another shape, and as `native` and `require_finite`.
    """
    array = native(name, array)
    if shape is not None:
        fits = len(shape) == array.ndim and all(
            want in (None, has) for want, has in zip(shape, array.shape, strict=True)
        )
        if not fits:
            wanted = ", ".join("n" if side is None else str(side) for side in shape)
            raise ValueError(f"{name} has shape {array.shape}: give shape [{wanted}].")
    if finite:
        require_finite(name, array)
    half = keep and jnp.issubdtype(array.dtype, jnp.floating)
    dtype = jax.dtypes.canonicalize_dtype(array.dtype) if half else at_least_float32(array.dtype)
    return to_device(array, dtype)


def to_device(array: Held, dtype: Any) -> Array:
    """Return an array of a type as JAX's, on the default device; NumPy's is converted where it is.

    `jnp.asarray` compiles a program for every shape that comes from NumPy.
    """
    if isinstance(array, jax.Array):
        return array if array.dtype == dtype else array.astype(dtype)
    return jax.device_put(np.array(array, dtype))  # a copy: the caller's may be written to while JAX's is in use


@jax.jit
def _all_finite(array: Array) -> Array:
    return jnp.all(jnp.isfinite(array))


@jax.jit
def _smallest_and_sum(array: Array) -> tuple[Array, Array]:
    return jnp.min(array), jnp.sum(array)


@jax.jit
def _least_and_most(array: Array) -> tuple[Array, Array]:
    return jnp.min(array), jnp.max(array)


def now(function: Callable[..., Any], *arrays: Any) -> Any:
    """Return function(*arrays) of arrays that have values, as values: also where a transformation is tracing others."""
    with jax.ensure_compile_time_eval():
        return function(*arrays)


def at_hand(array: Any) -> bool:
    """Return whether the values can be read without a copy from a device."""
    return not isinstance(array, jax.Array) or (
        array.is_fully_addressable and all(device.platform == "cpu" for device in array.devices())
    )


def all_finite(array: Any) -> bool:
    """Return whether an array that is not traced has finite entries only; of a device's array one bool comes home."""
    if not at_hand(array):
        return bool(now(_all_finite, array))
    values = np.asarray(array)
    if not jnp.issubdtype(values.dtype, jnp.inexact):
        return True
    return bool(np.isfinite(values if values.dtype.kind == "f" else values.astype(np.float32)).all())


def smallest_and_sum(array: Any) -> tuple[float, float]:
    """Return the least entry and the sum of an array that is not traced; of a device's array two numbers come home."""
    if not at_hand(array):
        least, total = now(_smallest_and_sum, array)
        return float(least), float(total)
    values = np.asarray(array, np.float64)
    return float(values.min()), float(values.sum())


def least_and_most(array: Any) -> tuple[float, float]:
    """Return the least and the largest entry of an array that is not traced, NaN where there is one."""
    if not at_hand(array):
        least, most = now(_least_and_most, array)
        return float(least), float(most)
    values = np.asarray(array)
    return float(values.min()), float(values.max())


def require_finite(name: str, array: Any) -> None:
    """Refuse NaN and infinite entries, outside jit.

    Raises:
      ValueError: saying how many there are.
    """
    if not is_traced(array) and not all_finite(array):
        bad = np.count_nonzero(~np.isfinite(np.asarray(array, np.float64)))
        raise ValueError(f"{name} has {bad} NaN or infinite entries: remove or repair them.")


@jax.jit
def _all_above_minus_infinity(array: Array) -> Array:
    return jnp.all(array > -jnp.inf)


def require_costs(name: str, costs: Any) -> None:
    """Refuse NaN and minus infinity, outside jit; plus infinity is a forbidden pair.

    Raises:
      ValueError: saying how many there are.
    """
    if is_traced(costs):
        return
    here = at_hand(costs)
    if not bool((np.asarray(costs) > -np.inf).all() if here else now(_all_above_minus_infinity, costs)):
        bad = np.count_nonzero(~(np.asarray(costs, np.float64) > -np.inf))
        raise ValueError(
            f"{name} has {bad} NaN or infinite entries; only +inf has a meaning, a forbidden pair: repair the others."
        )


def _require_number(name: str, number: Any, legal: Any, what: str) -> None:
    if is_traced(number):
        if jnp.ndim(number):
            raise ValueError(f"{name} has shape {jnp.shape(number)}: give one number, and vmap over several.")
        return
    value = native(name, number)
    if value.ndim:
        raise ValueError(f"{name} has shape {value.shape}: give one number, and vmap over several.")
    value = np.asarray(value)  # or comparing it would be traced where something is
    if not (np.isfinite(value) and legal(value)):
        raise ValueError(f"{name} = {number}: give {what}.")


def require_positive(name: str, number: Any) -> None:
    """Refuse what is not one positive finite number, outside jit.

    Raises:
      ValueError: with the number given.
    """
    _require_number(name, number, lambda value: value > 0, "a positive finite number")


def require_nonnegative(name: str, number: Any) -> None:
    """Refuse what is not one finite number of zero or more, outside jit.

    Raises:
      ValueError: with the number given.
    """
    _require_number(name, number, lambda value: value >= 0, "a finite number of zero or more")


def require_between(name: str, number: Any, low: float, high: float) -> None:
    """Refuse what is not one number in [low, high], outside jit.

    Raises:
      ValueError: with the number given.
    """
    _require_number(name, number, lambda value: low <= value <= high, f"a number from {low:g} to {high:g}")


def require_below_one(name: str, number: Any) -> None:
    """Refuse what is not one number in [0, 1), such as a decay or a share, outside jit.

    Raises:
      ValueError: with the number given.
    """
    _require_number(name, number, lambda value: 0 <= value < 1, "a number from 0 (none) to below 1")


def require_level(name: str, number: Any) -> None:
    """Refuse what is not one number in (0, 1), such as the confidence of an interval, inside jit too.

    Raises:
      ValueError: with the number given.
    """
    if is_traced(number) or np.ndim(number):
        raise ValueError(f"{name} = {number}: give one Python number between 0 and 1, such as 0.95.")
    _require_number(name, number, lambda value: 0 < value < 1, "a number between 0 and 1, such as 0.95")


def require_kind(name: str, value: Any, kind: type | tuple[type, ...]) -> None:
    """Refuse what is not an instance of a class.

    Raises:
      ValueError: with the class of what was given.
    """
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join(f"{it.__module__.removeprefix('otgen.')}.{it.__qualname__}" for it in kinds)
        raise ValueError(f"{name} is of type {type(value).__name__}: give a {wanted}.")


def require_function(name: str, function: Any) -> None:
    """Refuse what cannot be called.

    Raises:
      ValueError: with the class of what was given.
    """
    if not callable(function):
        raise ValueError(f"{name} is of type {type(function).__name__}: give a function.")


def require_broadcast(name: str, batch: Sequence[int], other: str, batch_of_other: Sequence[int]) -> None:
    """Refuse batches that do not broadcast against each other.

    Raises:
      ValueError: with both.
    """
    try:
        np.broadcast_shapes(tuple(batch), tuple(batch_of_other))
    except ValueError:
        raise ValueError(
            f"{name} has batch {tuple(batch)} and {other} {tuple(batch_of_other)}, which do not broadcast: give one "
            "batch, or sides of 1."
        ) from None


def as_count(name: str, number: Any, least: int = 1) -> int:
    """Return a static whole number, such as a size or a number of samples, as an int.

    Raises:
      ValueError: for fractions, arrays, tracers, and numbers below the least.
    """
    wrong = ValueError(f"{name} = {number}: give a whole number of at least {least}, an int.")
    if isinstance(number, bool | np.bool_ | jax.core.Tracer):
        raise wrong
    try:
        count = operator.index(number)
    except TypeError:
        raise wrong from None
    if count < least:
        raise wrong
    return count


def require_whole(name: str, number: Any, least: int = 0) -> None:
    """Refuse what is not one whole number of at least `least`, such as a limit of steps, whose value may be traced.

    Raises:
      ValueError: with the number given, for an array of another type than integers inside jit too.
    """
    if not is_traced(number):
        number = native(name, number)
    whole = jnp.issubdtype(jnp.result_type(number), jnp.integer)
    _require_number(name, number, lambda value: whole and value >= least, f"a whole number of at least {least}, an int")
    if not whole:
        raise ValueError(f"{name} is traced as {jnp.result_type(number)}: give a whole number, an int32.")


def as_counts(name: str, numbers: Any, least: int = 1) -> tuple[int, ...]:
    """Return a sequence of whole numbers, such as the sides of a shape, as a tuple of ints.

    Raises:
      ValueError: for what is no sequence, and as `as_count`.
    """
    try:
        numbers = tuple(numbers)
    except TypeError:
        raise ValueError(f"{name} = {numbers!r}: give a sequence of whole numbers.") from None
    return tuple(as_count(name, number, least) for number in numbers)


def as_generator(seed: Any) -> np.random.Generator:
    """Return NumPy's generator of random numbers for a seed, or the one that is given.

    Raises:
      ValueError: for what is neither.
    """
    return np.random.default_rng(seed if isinstance(seed, np.random.Generator) else as_count("seed", seed, 0))


def as_key(key: Any, name: str = "key") -> Array:
    """Return a key of random numbers as it is.

    Raises:
      ValueError: for a seed, or anything else that is not one key.
    """
    if not isinstance(key, jax.Array):
        raise ValueError(f"{name} is a {type(key).__name__}: give a key such as jax.random.key(0).")
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    legacy = key.dtype == jnp.uint32 and key.ndim >= 1
    if not (typed or legacy):
        raise ValueError(f"{name} is an array of type {key.dtype}: give a key such as jax.random.key(0).")
    if key.ndim != (0 if typed else 1):
        raise ValueError(f"{name} holds several keys, shape {key.shape}: give one, and vmap over several.")
    return key


def require_channels_last(name: str, shape: Sequence[int]) -> None:
    """Refuse images [..., channels, height, width], whose channels other functions would take for rows.

    Raises:
      ValueError: where 1, 3 or 4 stands in the place of the height, and more than 4 in that of the channels.
    """
    if len(shape) >= 3 and shape[-3] in (1, 3, 4) and shape[-1] > 4:
        raise ValueError(
            f"{name} have shape {tuple(shape)}, channels first: give [..., height, width, channels], "
            "np.moveaxis(images, -3, -1)."
        )


def require_choice(name: str, choice: Any, choices: Sequence[Any]) -> None:
    """Refuse names that are not among the choices.

    Raises:
      ValueError: with the names there are.
    """
    if isinstance(choice, np.ndarray | jax.Array) or choice not in choices:
        names = ", ".join(repr(it) for it in choices)
        raise ValueError(f"{name} = {choice!r}: choose one of {names}.")


def as_path(name: str, path: Any) -> Path:
    """Return the path of a file or folder.

    Raises:
      ValueError: for what is no text and no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"{name} = {path!r}: give a path, a text or a pathlib.Path.")
    return Path(path)


def poison(values: Held, legal: ArrayLike) -> Held:
    """Make values NaN where they are not legal, inside jit, where nothing can be raised: the status says NONFINITE."""
    return jnp.where(legal, values, jnp.nan) if is_traced(values, legal) else values


def as_mass(name: str, weights: Any, num: int, dtype: Any = jnp.float32) -> Held:
    """Return non-negative weights [num] as they are, zeros allowed and any total; uniform with total 1 for None.

    Weights that are not a JAX array stay with NumPy: putting them on a device is for the jitted call that takes them.

    Raises:
      ValueError: if the shape is not [num], or (outside jit) if a weight is negative or not finite, or all are zero.
    """
    if weights is None:
        return np.full(num, 1.0 / num, dtype)
    weights = native(name, weights)
    if weights.shape != (num,):
        points = ", or points by og.PairwiseCost(x, y)" if weights.ndim == 2 else ""
        raise ValueError(f"{name} has shape {weights.shape}: give one weight per point, shape ({num},){points}.")
    weights = weights.astype(dtype)
    if not is_traced(weights):
        least, total = smallest_and_sum(weights)
        if not np.isfinite(total) or not least >= 0:
            raise ValueError(f"{name} has a smallest value of {least}: weights must be finite and not negative.")
        if total == 0:
            raise ValueError(f"{name} is all zeros: at least one point must carry mass.")
    return weights


def as_points(name: str, points: Any, least: int = 2) -> Array:
    """Return points [n, d] as an array of float32 at least.

    Raises:
      ValueError: if they are not a matrix, fewer than `least`, or (outside jit) not finite.
    """
    points = native(name, points)
    if points.ndim != 2 or points.shape[1] < 1:
        raise ValueError(
            f"{name} has shape {points.shape}: give points as rows, shape [n, d]. "
            "One-dimensional points are a column: x[:, None]."
        )
    if points.shape[0] < least:
        raise ValueError(f"{name} holds {points.shape[0]} point(s): at least {least} are needed.")
    if not is_traced(points) and not all_finite(points):
        bad = np.flatnonzero(~np.isfinite(np.asarray(points, np.float64)).all(1))
        raise ValueError(
            f"{name} has NaN or infinite values in {bad.size} row(s), first row {bad[0]}: remove or repair them."
        )
    return as_array(name, points, finite=False)


def as_weights(weights: Any, num: int, name: str = "weights") -> Array:
    """Return weights [num] of float32 that are not negative and sum to 1; uniform for None.

    Raises:
      ValueError: if the shape is not [num], or (outside jit) if a weight is negative or the sum is not 1.
    """
    if weights is None:
        return jax.device_put(np.full(num, 1.0 / num, np.float32))
    return probability(name, weights, num, jnp.float32)


def probability(name: str, weights: Any, num: int, dtype: Any) -> Array:
    """Return weights [num] of a type that are not negative and sum to 1, zeros allowed; uniform for None.

    Raises:
      ValueError: if the shape is not [num], or (outside jit) if a weight is negative or the sum is not 1.
    """
    weights = to_device(as_mass(name, weights, num, dtype), dtype)
    if not is_traced(weights) and abs((total := smallest_and_sum(weights)[1]) - 1) > 1e-4:
        raise ValueError(f"{name} sums to {total:.6g}, not 1: divide by the sum.")
    return _normalised(weights)


@jax.jit
def _normalised(weights: Array) -> Array:
    return weights / weights.sum()
