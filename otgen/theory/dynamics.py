"""Gradient flow and gradient descent of a deep linear generator x = W_N ... W_1 z, z from N(0, I).

Weights are a tuple (W_1, ..., W_N), W_j [d_j, d_{j-1}], with end-to-end matrix W [n, m]. The losses compare W W' with a
target covariance: "bures" is B^2(W W' + tau I, target), "frobenius" is |W W' - target|_F^2.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen import optional
from otgen.ot.check import as_array, as_count, is_traced, require_choice, require_nonnegative, require_positive
from otgen.ot.gaussian.bures import bures_sq_factors, perturbed_bures_sq_factors
from otgen.ot.gaussian.factors import as_covariance
from otgen.ot.products import product
from otgen.types import Array, Float

KINDS = ("bures", "frobenius")


class Path(NamedTuple):
    """The weights and losses that a run recorded.

    Attributes:
      times: [T], in units in which the flow is dW_j/dt = -gradient: step * step_size for descent.
      weights: tuple of [T, d_j, d_{j-1}].
      losses: [T].
      step_size: that of descent, or 0 for the flow.
    """

    times: Array
    weights: tuple[Array, ...]
    losses: Array
    step_size: Array


def end_to_end(weights: Sequence[ArrayLike]) -> Float[Array, "n m"]:
    """Return the product W_N ... W_1.

    Args:
      weights: (W_1, ..., W_N).

    Returns:
      W [n, m].

    Raises:
      ValueError: if the weights do not chain.
    """
    weights = as_chain(weights)
    total = weights[0]
    for layer in weights[1:]:
        total = product(layer, total)
    return total


def loss(
    weights: Sequence[ArrayLike], target: ArrayLike, *, tau: ArrayLike = 0.0, kind: str = "bures"
) -> Float[Array, ""]:
    """Return the loss of the generator's covariance W W' against a target covariance.

    Args:
      weights: (W_1, ..., W_N).
      target: covariance [n, n].
      tau: perturbation of the Bures loss; the Frobenius loss has none and ignores it.
      kind: which loss, "bures" or "frobenius".

    Returns:
      The loss. Its gradient in the weights is the closed form of the reference.

    Raises:
      ValueError: for weights that do not chain, a target that is not a covariance of dimension n, tau < 0, or an
        unknown kind.

    Reference: paper C (arXiv 2303.03027), the losses L^N and L_tau^N.
    """
    weights = as_chain(weights)
    target = as_target(target, weights[-1].shape[0])
    return _loss(weights, root_of(target), as_tau(tau), as_kind(kind))


def loss_from_factor(
    weights: Sequence[ArrayLike], factor: ArrayLike, *, tau: ArrayLike = 0.0, kind: str = "bures"
) -> Float[Array, ""]:
    """Return the loss against the target F F', given F.

    This saves the factorisation of the target where the loss is computed often.

    Args:
      weights: (W_1, ..., W_N).
      factor: F [n, q].
      tau: perturbation of the Bures loss; the Frobenius loss has none and ignores it.
      kind: which loss, "bures" or "frobenius".

    Returns:
      The loss.

    Raises:
      ValueError: as in `loss`.
    """
    weights, factor = as_chain(weights), as_array("factor", factor)
    n = weights[-1].shape[0]
    if factor.ndim != 2 or factor.shape[0] != n:
        raise ValueError(f"factor has shape {factor.shape}: give one with {n} rows, as many as the last weight has.")
    return _loss(weights, factor, as_tau(tau), as_kind(kind))


def imbalance(weights: Sequence[ArrayLike]) -> Float[Array, ""]:
    """Return max_j |W_{j+1}' W_{j+1} - W_j W_j'|_F, zero for balanced weights and kept by the gradient flow.

    Args:
      weights: (W_1, ..., W_N).

    Returns:
      The largest imbalance between neighbouring layers; zero for one layer.

    Raises:
      ValueError: if the weights do not chain.

    Reference: Arora, Cohen and Hazan (2018), arXiv 1802.06509, definition 1.
    """
    weights = as_chain(weights)
    gaps = [
        jnp.linalg.norm(product(upper.mT, upper) - product(lower, lower.mT))
        for lower, upper in itertools.pairwise(weights)
    ]
    return jnp.max(jnp.stack(gaps)) if gaps else jnp.zeros((), weights[0].dtype)


def flow(
    weights: Sequence[ArrayLike],
    target: ArrayLike,
    *,
    times: ArrayLike | Sequence[ArrayLike],
    tau: ArrayLike = 0.0,
    kind: str = "bures",
    rtol: float = 1e-7,
    atol: float = 1e-9,
    max_steps: int = 100_000,
) -> Path:
    """Follow the gradient flow dW_j/dt = -gradient_j from the weights given, at time 0.

    The flow is integrated by Tsitouras' method of order 5 with an adaptive step. It is differentiable and may be jitted
    with `kind` and `max_steps` static. In float32, tolerances below 1e-6 cannot be met.

    Args:
      weights: (W_1, ..., W_N) at time 0.
      target: covariance [n, n].
      times: [T], when to record, increasing from 0 or later.
      tau: perturbation of the Bures loss.
      kind: which loss, "bures" or "frobenius".
      rtol: relative error allowed in each step.
      atol: absolute error allowed in each step.
      max_steps: most steps taken; times not reached by then hold infinite weights and NaN losses.

    Returns:
      The path at those times.

    Raises:
      ValueError: as in `loss`, or for times that are not increasing.
      ImportError: if diffrax cannot be imported.

    Reference: paper C (arXiv 2303.03027), the flow of L_tau^N.
    """
    weights = as_chain(weights)
    target = as_target(target, weights[-1].shape[0])
    require_positive("rtol", rtol)
    require_nonnegative("atol", atol)
    max_steps = as_count("max_steps", max_steps)
    times = as_array("times", times, finite=False).astype(weights[0].dtype)
    if times.ndim != 1 or times.size == 0:
        raise ValueError(f"times has shape {times.shape}: give a list of times, shape [T].")
    if not is_traced(times):
        values = np.asarray(times)
        if not (np.isfinite(values).all() and values[0] >= 0 and (np.diff(values) > 0).all() and values[-1] > 0):
            raise ValueError(
                f"times = {values}: give finite times that increase, the first 0 or later, the last after 0."
            )
    return _flow(weights, target, as_tau(tau), times, rtol, atol, as_kind(kind), max_steps)


@partial(jax.jit, static_argnums=(6, 7))
def _flow(
    weights: tuple[Array, ...],
    target: Array,
    tau: Array | None,
    times: Array,
    rtol: ArrayLike,
    atol: ArrayLike,
    kind: str,
    max_steps: int,
) -> Path:
    with optional.imports():
        import diffrax  # imported here, as it takes a second that the other parts of the library need not wait for

    factor = root_of(target)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda _, y, __: jax.tree.map(jnp.negative, _gradient(y, factor, tau, kind))),
        diffrax.Tsit5(),
        t0=jnp.zeros((), times.dtype),
        t1=times[-1],
        dt0=None,
        y0=weights,
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        max_steps=max_steps,
        throw=False,
    )
    losses = jax.lax.map(lambda y: _loss(y, factor, tau, kind), solution.ys)
    return Path(times, solution.ys, losses, jnp.zeros((), times.dtype))


def descend(
    weights: Sequence[ArrayLike],
    target: ArrayLike,
    *,
    step_size: ArrayLike,
    num_steps: int,
    record_every: int = 1,
    tau: ArrayLike = 0.0,
    kind: str = "bures",
) -> Path:
    """Take steps of gradient descent W_j <- W_j - step_size * gradient_j.

    Args:
      weights: (W_1, ..., W_N) before the first step.
      target: covariance [n, n].
      step_size: the step, positive; see `bounds` for the one the theory allows.
      num_steps: how many, a multiple of `record_every`.
      record_every: steps between two records; the start is recorded too.
      tau: perturbation of the Bures loss.
      kind: which loss, "bures" or "frobenius".

    Returns:
      The path at steps 0, record_every, 2 record_every, ..., num_steps, with times step * step_size.

    Raises:
      ValueError: as in `loss`, for a step size that is not positive, or for counts that do not divide.

    Reference: paper C (arXiv 2303.03027), gradient descent with a finite step.
    """
    weights = as_chain(weights)
    target = as_target(target, weights[-1].shape[0])
    require_positive("step_size", step_size)
    num_steps, record_every = as_count("num_steps", num_steps), as_count("record_every", record_every)
    if num_steps % record_every:
        raise ValueError(
            f"num_steps = {num_steps} and record_every = {record_every}: give positive numbers, the first a multiple "
            "of the second."
        )
    step = jnp.asarray(step_size, weights[0].dtype)
    return _descend(weights, target, as_tau(tau), step, as_kind(kind), num_steps // record_every, record_every)


@partial(jax.jit, static_argnums=(4, 5, 6))
def _descend(
    weights: tuple[Array, ...],
    target: Array,
    tau: Array | None,
    step: Array,
    kind: str,
    num_records: int,
    record_every: int,
) -> Path:
    factor = root_of(target)

    def one_step(_: Array, w: tuple[Array, ...]) -> tuple[Array, ...]:
        return jax.tree.map(lambda a, g: a - step * g, w, _gradient(w, factor, tau, kind))

    def one_record(w: tuple[Array, ...], _: None) -> tuple:
        after = jax.lax.fori_loop(0, record_every, one_step, w)
        return after, (after, _loss(after, factor, tau, kind))

    _, (later, losses) = jax.lax.scan(one_record, weights, None, length=num_records)
    all_weights = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), weights, later)
    losses = jnp.concatenate([_loss(weights, factor, tau, kind)[None], losses])
    times = step * record_every * jnp.arange(num_records + 1, dtype=step.dtype)
    return Path(times, all_weights, losses, step)


def _loss(weights: tuple[Array, ...], factor: Array, tau: Array | None, kind: str) -> Array:
    w = end_to_end(weights)
    if kind == "frobenius":
        return jnp.sum((product(w, w.mT) - product(factor, factor.mT)) ** 2)
    return bures_sq_factors(w, factor) if tau is None else perturbed_bures_sq_factors(w, factor, tau=tau)


_gradient = jax.grad(_loss)


def root_of(target: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Return a factor F with F F' = target, made of the target's eigenvectors; singular targets are allowed."""
    values, vectors = jnp.linalg.eigh(target)
    return vectors * jnp.sqrt(jnp.maximum(values, 0.0))


def as_chain(weights: Sequence[ArrayLike]) -> tuple[Array, ...]:
    """Return weights (W_1, ..., W_N) as arrays of one type, float32 at least.

    Raises:
      ValueError: if there are none, if one is not a matrix or (outside jit) not finite, or if the columns of one are
        not the rows of the one before.
    """
    if not isinstance(weights, Sequence) or len(weights) == 0:
        raise ValueError("weights must be a tuple (W_1, ..., W_N) of at least one matrix; put a single one in a tuple.")
    weights = [as_array(f"weight {layer}", matrix) for layer, matrix in enumerate(weights, 1)]
    shapes = [layer.shape for layer in weights]
    for layer, shape in enumerate(shapes):
        if len(shape) != 2 or 0 in shape:
            raise ValueError(f"weight {layer + 1} of {len(shapes)} has shape {shape}: give matrices [d_j, d_(j-1)].")
        if layer and shape[1] != shapes[layer - 1][0]:
            raise ValueError(
                f"weights have shapes {shapes}: weight {layer + 1} has {shape[1]} columns, but weight {layer} has "
                f"{shapes[layer - 1][0]} rows. Give (W_1, ..., W_N) with the layer next to the latent first."
            )
    dtype = jnp.result_type(*weights)
    return tuple(layer.astype(dtype) for layer in weights)


def as_target(target: ArrayLike, dim: int | None = None) -> Float[Array, "n n"]:
    """Return a target covariance [n, n] as a symmetric array of float32 at least.

    Raises:
      ValueError: if it is not a square matrix of dimension `dim`, or (outside jit) not finite, not symmetric, or
        indefinite.
    """
    target = as_covariance("target", target)
    if target.ndim != 2:
        raise ValueError(f"target has shape {target.shape}: give one covariance, shape [n, n].")
    if dim is not None and target.shape[0] != dim:
        raise ValueError(
            f"target has dimension {target.shape[0]}, but the generator has {dim} outputs: give a covariance "
            f"[{dim}, {dim}], or a last weight with {target.shape[0]} rows."
        )
    return target


def as_tau(tau: ArrayLike) -> Array | None:
    """Return a perturbation as an array, or None for a zero that is known; NaN for a negative one inside jit.

    Raises:
      ValueError: outside jit, for a tau that is negative, not finite, or not one number.
    """
    require_nonnegative("tau", tau)
    if is_traced(tau):
        return jnp.where(tau >= 0, tau, jnp.nan)
    return jnp.asarray(tau, float) if tau else None


def as_kind(kind: str) -> str:
    """Return the name of a loss.

    Raises:
      ValueError: for a name that is not known.
    """
    require_choice("the loss", kind, KINDS)
    return kind
