"""Densities of a trained flow: log-likelihood by the change of variables, score, and how straight the paths are.

Along dX/dt = v(t, X) the log-density of p_t changes by -div v, so that log p_t(x) = log p_0(X_0) - int_0^t div v ds on
the path that leads to x. Its gradient is the score. Where noise and data are independent the score is in the velocity
as well: x_t given x1 is then N(t x1, (1 - t)^2 I), x0 = x_t - t (x1 - x0), so E[x0 | x_t = x] = x - t v, and

    grad log p_t(x) = -E[x0 | x_t = x] / (1 - t) = (t v - x) / (1 - t).

Of paired noise this is not so. The semi-discrete map to N data has it within the image of each cell, p_t being N pieces
of the normal law with gaps between them; a network that has learned the law of the data, not N points, closes the gaps,
and so divides p_t by the Jacobian of x0 -> x_t, whose gradient (t v - x) / (1 - t) knows nothing of. To a Gaussian of
standard deviation s the map is x1 = s x0, x_t = a x0 with a = 1 - t + t s: the score is -x0 / a, not -x0 / (1 - t).

Reference: Chen et al. (2018), arXiv 1806.07366; Grathwohl et al. (2019), arXiv 1810.01367 (Hutchinson's estimator).
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from otgen.models.flow.paths import in_pieces, integrate, labels_of, noise, parts, piece, steps_of, strength, velocity
from otgen.models.flow.training import INDEPENDENT, Flow
from otgen.ot import latent
from otgen.ot.check import as_array, as_count, as_key, require_below_one, require_between
from otgen.types import Array, Key

EXACT = 64  # dimensions up to which the divergence is the trace itself
_STRAIGHT = 64  # Euler steps of `straightness`


def log_prob(
    model: Flow,
    x: Any,
    label: Any = None,
    *,
    t: float = 1.0,
    key: Key | None = None,
    num_probes: int | None = None,
    num_steps: int = 64,
    method: str = "midpoint",
) -> Array:
    """Return log p_t(x) [n] in nats of points x [n, ...] by the change of variables.

    Args:
      model: from `fit`, of noise that is standard normal.
      x: points, for t = 1 data.
      label: of all points, or of each [n], for log p_t(x | label); None for none.
      t: the time in (0, 1], of noise moved so far.
      key: random key, of the probes.
      num_probes: random directions [k] from which Hutchinson's estimator takes the divergence, which leaves the result
        unbiased but for the steps; None for the exact trace in up to 64 dimensions (d derivatives a step), and for one
        direction in more. Static.
      num_steps, method: as in `sample`. Static.

    Raises:
      ValueError: for points of another shape or not finite, a time outside (0, 1], directions without a key, a source
        other than N(0, I), and labels, steps and methods as in `sample`.

    Example:
      >>> data = jax.random.normal(jax.random.key(0), (200, 2))
      >>> model = og.models.flow.fit(jax.random.key(1), data, coupling="independent", width=16, num_steps=10)
      >>> normal = jax.scipy.stats.norm.logpdf(data).sum(1)  # of the noise, which hardly moves yet
      >>> print(bool(jnp.abs(og.models.flow.log_prob(model, data) - normal).max() < 0.2))
      True
    """
    return _along(_log_prob, model, x, label, t, key, num_probes, num_steps, method)


def _along(function, model, x, label, t, key, num_probes, num_steps, method) -> Array:
    """Return a function of the paths that lead to points x at a time, in pieces, once all of it is checked."""
    module, variables = parts(model)
    _require_normal(model)
    require_between("t", t, 0.0, 1.0)
    x, size = as_array("x", x, (None, *module.shape)), int(np.prod(module.shape))
    if not len(x):
        raise ValueError(f"no points: x has shape {x.shape}; give at least one.")
    method, num_steps = steps_of(model, method, num_steps)
    probes = None if num_probes is None and size <= EXACT else as_count("num_probes", num_probes or 1)
    if probes is None:
        key = jax.random.key(0)
    elif key is None:
        raise ValueError(f"num_probes = {probes} random directions, but no key: give key=jax.random.key(0).")
    keys, label = jax.random.split(as_key(key), len(x)), labels_of(model, label, len(x))

    def found(x: Array, label: Array | None, keys: Array) -> Array:
        return function(module, variables, x, label, keys, t, probes, method, num_steps)

    return in_pieces(found, x, label, keys, size=max(64, piece(module.shape) // (probes or size)))


@functools.partial(jax.jit, static_argnames=("module", "probes", "method", "num_steps"))
def _log_prob(module, variables, x, label, keys, t, probes: int | None, method: str, num_steps: int) -> Array:
    shape = x.shape[1:]
    if probes is None:
        ways = jnp.eye(int(np.prod(shape)), dtype=x.dtype).reshape(-1, 1, *shape)
        ways = jnp.broadcast_to(ways, (len(ways), *x.shape))
    else:
        ways = jax.vmap(lambda key: jax.random.rademacher(key, (probes, *shape), x.dtype), out_axes=1)(keys)

    def field(t: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        def at(x: Array) -> Array:
            return module.apply(variables, jnp.full(x.shape[0], t, x.dtype), x, label)

        rate, slope = jax.linearize(at, state[0])
        traces = jax.vmap(lambda way: jnp.sum(way * slope(way), axis=tuple(range(1, x.ndim))))(ways)
        return rate, traces.sum(0) if probes is None else traces.mean(0)

    start, change = integrate(field, (x, jnp.zeros(len(x), x.dtype)), t, 0.0, method, num_steps)
    return jnp.sum(jax.scipy.stats.norm.logpdf(start), axis=tuple(range(1, x.ndim))) + change


@functools.partial(jax.jit, static_argnames=("module", "probes", "method", "num_steps"))
def _gradient(module, variables, x, label, keys, t, probes: int | None, method: str, num_steps: int) -> Array:
    def total(x: Array) -> Array:  # a row's log-density depends on that row
        return _log_prob(module, variables, x, label, keys, t, probes, method, num_steps).sum()

    return jax.grad(total)(x)


def score(model: Flow, x: Any, t: float, label: Any = None, *, guidance: float = 0.0, **options: Any) -> Array:
    """Return grad log p_t [n, ...] at points x [n, ...] and one time t.

    Of a flow that was fitted to independent pairs it is (t v(t, x) - x) / (1 - t), one evaluation of the velocity. Of
    any other it is the derivative of `log_prob`, through the solver: some hundred evaluations.

    Args:
      model: from `fit`, of noise that is standard normal.
      x: points.
      t: the time, in [0, 1] and of independent pairs below 1.
      label: of all points, or of each [n], for the score of p_t(x | label); None for none.
      guidance: how far it is moved on in the direction of the label, s + guidance (s - s without label).
      **options: `key`, `num_probes`, `num_steps` and `method` of `log_prob`, where that is differentiated.

    Raises:
      ValueError: for points of another shape or not finite, a time out of range, a source other than N(0, I), and
        labels and guidance as in `sample`.

    Example:
      >>> data = jax.random.normal(jax.random.key(0), (200, 2))
      >>> model = og.models.flow.fit(jax.random.key(1), data, coupling="independent", width=16, num_steps=10)
      >>> print(jnp.array_equal(og.models.flow.score(model, data, 0.0), -data))  # of N(0, I)
      True
    """
    _require_normal(model)
    if strength(model, guidance) is not None:
        told, none = (score(model, x, t, it, **options) for it in (label, None))
        return told + guidance * (told - none)
    if model.coupling == INDEPENDENT:
        require_below_one("t", t)
        return (t * velocity(model, x, t, label) - as_array("x", x)) / (1 - t)
    given = {"key": None, "num_probes": None, "num_steps": 64, "method": "midpoint", **options}
    return _along(_gradient, model, x, label, t, **given)


def straightness(key: Key, model: Flow, num: int = 4096, *, label: Any = None) -> Array:
    """Return how far paths are from straight: E mean_t |v(t, X_t) - (X_1 - X_0)|^2 / E |X_1 - X_0|^2, 0 if they are.

    Args:
      key: random key.
      model: from `fit`.
      num: paths, each of 64 Euler steps.
      label: of all paths, or of each [num]; None for classes in the shares of the data.

    Raises:
      ValueError: as `sample`.

    Example:
      >>> data = jax.random.normal(jax.random.key(0), (200, 2))
      >>> model = og.models.flow.fit(jax.random.key(1), data, coupling="independent", width=16, num_steps=10)
      >>> print(bool(og.models.flow.straightness(jax.random.key(2), model, 100) >= 0))
      True
    """
    module, variables = parts(model)
    as_key(key), as_count("num", num)
    label = labels_of(model, label, num, jax.random.fold_in(key, 1))
    x = noise(model.source, jax.random.fold_in(key, 2), num, module.shape)
    bent, moved = in_pieces(lambda x, label: _bends(module, variables, x, label), x, label).T
    return bent.sum() / moved.sum()


@functools.partial(jax.jit, static_argnames=("module",))
def _bends(module, variables, x: Array, label: Array | None) -> Array:
    """Return mean_t |v - mean v|^2 and |mean v|^2 of each path [n, 2]."""

    def field(t: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        rate = module.apply(variables, jnp.full(len(x), t, x.dtype), state[0], label)
        return rate, jnp.sum(rate**2, axis=tuple(range(1, x.ndim)))

    end, squares = integrate(field, (x, jnp.zeros(len(x), x.dtype)), 0.0, 1.0, "euler", _STRAIGHT)
    moved = jnp.sum((end - x) ** 2, axis=tuple(range(1, x.ndim)))
    return jnp.stack([squares - moved, moved], axis=1)


def _require_normal(model: Flow) -> None:
    parts(model)
    if model.source != latent.Normal():
        raise ValueError(f"densities are known of noise N(0, I), not of {model.source}: fit a flow from that.")
