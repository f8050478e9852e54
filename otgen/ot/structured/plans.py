"""Functions of a structured plan: its density, the law of the latent given a datum, the information in the code.

`dual_density` and `conditional` are functions of potentials, `density` of a solution of `structured.run`, `information`
and `regulariser` of any density.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy
from jax.typing import ArrayLike

from otgen.ot.check import as_array
from otgen.ot.dual.smoothing import QUADRATIC, Smoothing, log_mean_exp
from otgen.ot.products import product
from otgen.ot.structured.nested import (
    Answer,
    Weights,
    as_arrays,
    delta_of,
    mean_code,
    mean_latent,
    mean_noise,
    potentials_of,
    prepare,
    quadratic_density,
    respond,
)
from otgen.types import Array, Float

_WORK = 0.9  # one solve leaves at least (1 - _WORK) epsilon of smoothing on the code; proximal steps do the rest


class State(NamedTuple):
    """The dual potentials, and the cost reduction of the last proximal step.

    Attributes:
      f: of the latents [K, M], centred.
      g: of the data [B], the best for f.
      proximal: subtracted from the cost [K, B] in the last step; zero unless lam > 0.9 epsilon.

    Example:
      >>> state, _ = og.structured.run(jnp.array([[[0.0, 1.0]], [[1.0, 0.0]]]), epsilon=0.5, lam=0.2)
      >>> print(state.f.shape, state.g.shape, state.proximal)
      (2, 1) (2,) [[0. 0.]
       [0. 0.]]
    """

    f: Array
    g: Array
    proximal: Array


class Information(NamedTuple):
    """How much latents tell about data.

    Attributes:
      latent: I(z; x) = E r log r, in nats.
      code: I(c; x) = E r_c log r_c, in nats, at most log K for uniform codes.
      code_square: E r_c^2, 1 for independent codes.

    Example:
      >>> density = jnp.array([[[2.0, 0.0]], [[0.0, 2.0]]])  # each of two codes has its datum
      >>> told = og.structured.information(density)
      >>> print(told.latent, told.code, told.code_square)
      0.693 0.693 2.0
    """

    latent: Array
    code: Array
    code_square: Array


def dual_density(
    cost: ArrayLike,
    f: ArrayLike,
    g: ArrayLike,
    weights: Weights | None = None,
    *,
    epsilon: ArrayLike,
    lam: ArrayLike,
    smoothing: str | Smoothing = "entropic",
) -> Float[Array, "K M B"]:
    """Return the density of the plan that potentials stand for, minus the gradient of the dual in the cost.

    With entropic smoothing r = exp(u / epsilon) M^(lam / delta), with quadratic smoothing
    r = max(u + lam r_c, 0) / epsilon. Arguments are as in `dual_value`, which explains u and M.

    Example:
      >>> cost = jnp.array([[[0.0, 1.0]], [[1.0, 0.0]]])
      >>> state, _ = og.structured.run(cost, epsilon=0.5, lam=0.2)
      >>> print(og.structured.dual_density(cost, state.f, state.g, epsilon=0.5, lam=0.2)[:, 0])
      [[1.931 0.069]
       [0.069 1.931]]
      >>> print(og.structured.density(cost, state, epsilon=0.5, lam=0.2)[:, 0])
      [[1.931 0.069]
       [0.069 1.931]]
    """
    cost, weights, smoothing, f, g = prepare(cost, weights, epsilon, lam, smoothing, f, g)
    u = f[..., None] + g - cost
    if smoothing == QUADRATIC:
        return quadratic_density(u, weights, epsilon, lam)[1]
    inner = log_mean_exp(u / epsilon, weights.noise[..., None], axis=1)
    return jnp.exp(u / epsilon + lam / delta_of(epsilon, lam, u.dtype) * inner[:, None])


def conditional(
    cost: ArrayLike,
    f: ArrayLike,
    weights: Weights | None = None,
    *,
    epsilon: ArrayLike,
    lam: ArrayLike,
    smoothing: str | Smoothing = "entropic",
) -> Float[Array, "K M B"]:
    """Return w(c, n | x), the plan's law of the latent of every datum: sums to 1 over codes and noises.

    With entropic smoothing it is the softmax over codes of (epsilon / delta) log M, times the softmax over noises of
    (f - C) / epsilon; both are weighted by the laws of codes and noises. Its sum over noises is the posterior of the
    code. Arguments are as in `dual_value`.

    Example:
      >>> cost = jnp.array([[[0.0, 1.0]], [[1.0, 0.0]]])
      >>> print(og.structured.conditional(cost, jnp.zeros((2, 1)), epsilon=0.5, lam=0.2)[:, 0])
      [[0.9656 0.0344]
       [0.0344 0.9656]]
      >>> print(jax.nn.softmax(-cost[:, 0] / 0.3, axis=0))  # without noise: softmax at epsilon - lam
      [[0.9656 0.0344]
       [0.0344 0.9656]]

    Reference: after arXiv 1912.02160, derived here.
    """
    cost, weights, smoothing, f, _ = prepare(cost, weights, epsilon, lam, smoothing, f)
    full = respond(f[..., None] - cost, weights, epsilon, lam, smoothing).full
    return (weights.code[:, None] * weights.noise)[..., None] * full


def split(epsilon: ArrayLike, lam: ArrayLike) -> tuple[Array, Array]:
    """Return the part of lam that one solve takes into account, and the rest, which proximal steps add."""
    part = jnp.minimum(lam, _WORK * epsilon)
    return part, lam - part


def answer_of(cost, f, proximal, weights, epsilon, lam, smoothing) -> Answer:
    """Return the best answer to the potentials of a State."""
    part, _ = split(epsilon, lam)
    proximal = as_array("state.proximal", proximal, (cost.shape[0], cost.shape[2]), finite=False)
    return respond(f[..., None] - cost + proximal[:, None], weights, epsilon, part, smoothing)


def density(
    cost: ArrayLike,
    state: State,
    weights: Weights | None = None,
    *,
    epsilon: ArrayLike,
    lam: ArrayLike,
    smoothing: str | Smoothing = "entropic",
) -> Float[Array, "K M B"]:
    """Return the density r of the plan that `run` found, also for lam = epsilon, where potentials alone do not show it.

    The mass of every datum is exact; that of the latents is right up to `Info.error`. Arguments are as in `run`.

    Example:
      >>> cost = jnp.array([[[0.0, 1.0]], [[1.0, 0.0]]])
      >>> state, _ = og.structured.run(cost, epsilon=0.5, lam=0.5)  # the code is not smoothed at all
      >>> print(og.structured.density(cost, state, epsilon=0.5, lam=0.5)[:, 0])
      [[2. 0.]
       [0. 2.]]
    """
    f, g, proximal = potentials_of(state, "f", "g", "proximal")
    cost, weights, smoothing, f, _ = prepare(cost, weights, epsilon, lam, smoothing, f, g)
    return answer_of(cost, f, proximal, weights, epsilon, lam, smoothing).full


def information(density: ArrayLike, weights: Weights | None = None) -> Information:
    """Return I(z; x), I(c; x) and E r_c^2 of a plan, given its density r [K, M, B] and the weights.

    Example:
      >>> told = og.structured.information(jnp.ones((3, 2, 4)))  # independent
      >>> print(told.latent, told.code, told.code_square)
      0.0 0.0 1.0
    """
    density, weights = as_arrays("density", density, weights)
    code = mean_noise(density, weights)
    return Information(
        product(mean_latent(xlogy(density, density), weights), weights.data),
        product(mean_code(xlogy(code, code), weights), weights.data),
        product(mean_code(code**2, weights), weights.data),
    )


def regulariser(
    density: ArrayLike,
    weights: Weights | None = None,
    *,
    epsilon: ArrayLike,
    lam: ArrayLike,
    smoothing: str | Smoothing = "entropic",
) -> Float[Array, ""]:
    """Return epsilon E f(r) - lam E f(r_c) of a density r.

    It equals delta E f(r_c) + epsilon (E f(r) - E f(r_c)). For the entropic f this is
    delta I(c; x) + epsilon I(n; x | c), by the chain rule of information. Arguments are as in `dual_value`.

    Example:
      >>> density = jnp.array([[[2.0, 0.0]], [[0.0, 2.0]]])
      >>> print(og.structured.regulariser(density, epsilon=0.5, lam=0.2), (0.5 - 0.2) * np.log(2))
      0.208 0.208
    """
    density, weights, smoothing, _, _ = prepare(density, weights, epsilon, lam, smoothing)
    return product(weights.data, regulariser_of(density, weights, epsilon, lam, smoothing))


@functools.partial(jax.jit, static_argnames="smoothing")
def regulariser_of(density, weights, epsilon, lam, smoothing) -> Array:
    """`regulariser` without the checks, for every datum [B]."""
    full = mean_latent(smoothing.value(density), weights)
    return epsilon * full - lam * mean_code(smoothing.value(mean_noise(density, weights)), weights)


def repaired(density: Array, weights: Weights) -> Array:
    """Return a density with the exact marginals: rows and columns too heavy are scaled down, missing mass is added."""
    density = density / jnp.maximum(product(density, weights.data), 1)[..., None]
    density = density / jnp.maximum(mean_latent(density, weights), 1)
    lack = jnp.maximum(1 - product(density, weights.data), 0)
    lack_data = jnp.maximum(1 - mean_latent(density, weights), 0)
    total = jnp.maximum(product(weights.data, lack_data), jnp.finfo(density.dtype).tiny)
    return density + lack[..., None] * lack_data / total
