"""How far a transport map is from the true one."""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.eval.samples import as_samples
from otgen.ot.check import require_positive
from otgen.ot.gaussian.units import unit
from otgen.types import Array, Float


def l2_uvp(mapped: ArrayLike, truth: ArrayLike, target_variance: ArrayLike | None = None) -> Float[Array, ""]:
    """Return the unexplained variance percentage of a map, 100 mean |T^(x) - T(x)|^2 / Var(T#P).

    0 for the true map, 100 for the constant map to the mean of the target.

    Args:
      mapped: images T^(x) of draws of the source [n, d].
      truth: images T(x) of the same draws [n, d].
      target_variance: total variance of the target law, the trace of its covariance; that of `truth` for None.

    Returns:
      A percentage.

    Raises:
      ValueError: if the clouds differ in shape, or (outside jit) for a variance that is not positive.

    Example:
      >>> truth, mean = jnp.array([[-1.0], [1.0]]), jnp.zeros((2, 1))
      >>> print(og.eval.l2_uvp(truth, truth, 1.0), og.eval.l2_uvp(mean, truth, 1.0))  # a target of variance 1
      0.0 100.0

    Reference: Korotin et al. (2021), arXiv 2106.01954, section 4.2.
    """
    mapped, truth = _same_shape(2, mapped=mapped, truth=truth)
    missing, around = mapped - truth, truth - truth.mean(0)
    size = unit(jnp.maximum(jnp.max(jnp.abs(missing)), jnp.max(jnp.abs(around))))  # or squares under- or overflow
    missed = jnp.mean(jnp.sum((missing / size) ** 2, 1))
    if target_variance is None:
        target_variance = jnp.sum((around / size) ** 2) / (truth.shape[0] - 1)
        require_positive("the variance of truth", target_variance)
        return 100 * missed / target_variance
    require_positive("target_variance", target_variance)
    return 100 * missed / (target_variance / size / size)


def cosine(mapped: ArrayLike, truth: ArrayLike, x: ArrayLike) -> Float[Array, ""]:
    """Return the cosine of the displacement fields T^ - id and T - id in L2 of the source.

    1 where the map moves every point in the true direction, up to one common factor; 0 for displacements that are
    orthogonal on the whole.

    Args:
      mapped: images T^(x) [n, d].
      truth: images T(x) [n, d].
      x: draws of the source [n, d].

    Returns:
      The cosine, in [-1, 1]; NaN if one of the maps moves no point.

    Raises:
      ValueError: if the clouds differ in shape.

    Example:
      >>> x = jnp.array([[0.0, 0.0], [1.0, 1.0]])
      >>> print(og.eval.cosine(x + jnp.array([1.0, 0.0]), x + jnp.array([5.0, 0.0]), x))  # the same direction
      1.0
      >>> print(og.eval.cosine(x + jnp.array([1.0, 0.0]), x + jnp.array([0.0, 1.0]), x))  # orthogonal
      0.0

    Reference: Korotin et al. (2021), arXiv 2106.01954, section 4.2.
    """
    mapped, truth, x = _same_shape(1, mapped=mapped, truth=truth, x=x)
    ours, theirs = mapped - x, truth - x
    ours, theirs = ours / jnp.max(jnp.abs(ours)), theirs / jnp.max(jnp.abs(theirs))  # or squares under- or overflow
    return jnp.sum(ours * theirs) / jnp.sqrt(jnp.sum(ours**2) * jnp.sum(theirs**2))


def _same_shape(least: int, **clouds: ArrayLike) -> tuple[Array, ...]:
    arrays = as_samples(least, **clouds)
    rows = {name: array.shape[0] for name, array in zip(clouds, arrays, strict=True)}
    if len(set(rows.values())) > 1:
        raise ValueError(f"rows of {rows}: give the images of the same draws, row by row.")
    return arrays
