"""Functions of given potentials: dual value, best answer, density and marginals of the plan, duality gap.

Each function is computed, and differentiated, block by block of the cost, except `density`, which returns a matrix. The
equations are in `otgen.ot.dual`, which offers these functions beside the solver.

A cost of +inf forbids a pair: its density is zero. The numbers at points of weight zero change no result elsewhere.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.ot.check import as_array, poison, probability, require_positive
from otgen.ot.costs import Cost
from otgen.ot.costs.ground import as_cost, weighed
from otgen.ot.dual.smoothing import FAR, Smoothing, by_name
from otgen.ot.products import product
from otgen.types import Array, Float

_BEYOND = 1e6  # times epsilon: larger numbers at points of weight zero are cut down to this
_PROBES = 64  # rows and columns from which the scale of a cost is read
_REACH = 10.0, 100.0  # of the range of the potentials, and of epsilon: the most that missing mass pays in the gap


def prepare(cost: Any, a: Any, b: Any, epsilon: Any, f: Any = None, g: Any = None) -> tuple:
    """Check what every function here takes, and return it as arrays."""
    require_positive("epsilon", epsilon)
    cost = as_cost(cost)
    n, m = cost.shape
    dtype = jax.eval_shape(lambda: cost.map_blocks(lambda block: block)).dtype
    f = None if f is None else as_array("f", f, (n,), finite=False)
    g = None if g is None else as_array("g", g, (m,), finite=False)
    a, b = probability("a", a, n, dtype), probability("b", b, m, dtype)
    return weighed(cost, a, b), f, g, poison(a, epsilon > 0), b


def _calm(values: Array, heard: Array, epsilon: ArrayLike) -> Array:
    """Make the numbers at points of weight zero finite, NaN included, because zero times infinity is not zero."""
    limit = jax.lax.stop_gradient(_BEYOND * epsilon)
    return jnp.where(heard | (jnp.abs(values) < limit), values, limit)


def _both(a: Array, b: Array) -> Array:
    return (a > 0)[:, None] & (b > 0)


def _scores(block: Array, f: Array, g: Array, epsilon: ArrayLike, a: Array | None = None, b: Array | None = None):
    """Return (f_i + g_j - c_ij) / epsilon [n, m], minus infinity for forbidden pairs; None weighs all points."""
    if a is not None:
        heard = _both(a, b)
        f, g, block = _calm(f, a > 0, epsilon), _calm(g, b > 0, epsilon), _calm(block, heard, epsilon)
    none = block == jnp.inf  # kept out of the division, or its derivative in epsilon would be NaN
    scores = (f[:, None] + g - jnp.where(none, 0.0, block)) / epsilon
    if a is not None:
        scores = jnp.where(heard, scores, jnp.minimum(scores, FAR))
    return jnp.where(none, -jnp.inf, scores)


def mean_over(weights: Array, values: Array) -> Array:
    """Return sum_i w_i v_i, whatever the values are where the weights are zero."""
    return product(weights, jnp.where((weights > 0) | jnp.isfinite(values), values, 0.0))


def dual_value(
    cost: Cost | ArrayLike,
    f: ArrayLike,
    g: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike,
    smoothing: str | Smoothing = "entropic",
) -> Float[Array, ""]:
    """Return the dual value sum a f + sum b g - epsilon sum a b f*((f + g - c) / epsilon), a lower bound of W.

    It is differentiable in all its arguments. The gradient in f is a - (row sums of the plan), and the gradient in the
    cost is the plan of f and g; at the maximising potentials this is the gradient of W, by Danskin's theorem.

    Args:
      cost: ground cost of n rows and m columns, or a matrix [n, m].
      f, g: potentials of the rows [n] and of the columns [m], in units of the cost.
      a, b: weights [n], [m] that sum to 1, zeros allowed; uniform for None.
      epsilon: strength of the smoothing, in units of the cost; positive, traced.
      smoothing: "entropic", "quadratic" or a Smoothing. Static.

    Returns:
      A scalar in units of the cost.

    Raises:
      ValueError: for shapes that do not agree, weights that are no probabilities, epsilon not positive, unknown names.

    Example:
      >>> cost = jnp.array([[0.0, 1.0], [1.0, 0.0]])
      >>> print(og.dual.dual_value(cost, jnp.zeros(2), jnp.zeros(2), epsilon=0.1))  # below W
      0.05
      >>> state, info = og.dual.run(cost, epsilon=0.1)
      >>> print(og.dual.dual_value(cost, *state, epsilon=0.1), 0.1 * np.log(2))  # W: the entropy alone
      0.0693 0.0693

    Reference: Blondel et al. (2018), arXiv 1710.06276, the smoothed dual.
    """
    return dual_value_of(*prepare(cost, a, b, epsilon, f, g), epsilon, smoothing=by_name(smoothing))


@functools.partial(jax.jit, static_argnames="smoothing")
def dual_value_of(cost, f, g, a, b, epsilon, smoothing) -> Array:
    """`dual_value` without the checks."""

    def rows(block: Array, f: Array, a: Array) -> Array:
        return product(smoothing.conjugate(_scores(block, f, g, epsilon, a, b)), b)

    return mean_over(a, f) + mean_over(b, g) - epsilon * product(a, cost.map_blocks(rows, f, a))


def transform(
    cost: Cost | ArrayLike,
    f: ArrayLike,
    a: ArrayLike | None = None,
    *,
    epsilon: ArrayLike,
    smoothing: str | Smoothing = "entropic",
) -> Float[Array, " m"]:
    """Return the g that maximises the dual for given f, the smoothed minimum of c_ij - f_i over i.

    With entropic smoothing g_j = -epsilon log sum_i a_i exp((f_i - c_ij) / epsilon); with quadratic smoothing it is the
    threshold of a sparsemax, found by sorting. Every column of the plan then has its mass exactly. Arguments are as in
    `dual_value`.

    Returns:
      g [m]; infinite where every pair is forbidden.

    Raises:
      ValueError: as in `dual_value`.

    Example:
      >>> cost = jnp.array([[0.0, 1.0, 4.0], [4.0, 1.0, 0.0]])
      >>> print(og.dual.transform(cost, jnp.zeros(2), epsilon=1e-3))  # near the minimum of each column
      [0.0007 1. 0.0007]
    """
    cost, f, _, a, _ = prepare(cost, a, None, epsilon, f)
    return transform_of(cost, f, a, epsilon, smoothing=by_name(smoothing))


@functools.partial(jax.jit, static_argnames="smoothing")
def transform_of(cost, f, a, epsilon, smoothing) -> Array:
    """`transform` without the checks."""
    return cost.map_blocks(lambda block: smoothing.level((f[:, None] - block).T, a, epsilon), axis=0)


def semidual(
    cost: Cost | ArrayLike,
    f: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike,
    smoothing: str | Smoothing = "entropic",
) -> Float[Array, ""]:
    """Return the semi-dual value max_g D(f, g), concave in f, differentiable in all arguments, never overflowing.

    Arguments, result and errors are as in `dual_value`.

    Example:
      >>> cost = jnp.array([[0.0, 1.0], [1.0, 0.0]])
      >>> print(og.dual.semidual(cost, jnp.zeros(2), epsilon=0.1))
      0.0693
      >>> print(jax.grad(lambda c: og.dual.semidual(c, jnp.zeros(2), epsilon=0.1))(cost))  # the plan
      [[0.5 0.]
       [0. 0.5]]

    Reference: Genevay et al. (2016), arXiv 1605.08527; Blondel et al. (2018), arXiv 1710.06276.
    """
    cost, f, _, a, b = prepare(cost, a, b, epsilon, f)
    return semidual_of(cost, f, a, b, epsilon, smoothing=by_name(smoothing))


@functools.partial(jax.jit, static_argnames="smoothing")
def semidual_of(cost, f, a, b, epsilon, smoothing) -> Array:
    """`semidual` without the checks."""

    def columns(block: Array, b: Array) -> Array:
        scores = (calm[:, None] - _calm(block, _both(a, b), epsilon)).T
        g, none = smoothing.level(scores, a, epsilon), jnp.isneginf(scores)
        # g does not depend on a latent of weight zero, whose score may lie so far above that infinity would meet zero
        heard = jnp.where((a > 0) & ~none, scores + g[:, None], 0.0) / epsilon
        return g - epsilon * product(smoothing.conjugate(jnp.where(none, -jnp.inf, heard)), a)

    calm = _calm(f, a > 0, epsilon)
    return mean_over(a, f) + mean_over(b, cost.map_blocks(columns, b, axis=0))


def density(
    cost: Cost | ArrayLike,
    f: ArrayLike,
    g: ArrayLike,
    *,
    epsilon: ArrayLike,
    smoothing: str | Smoothing = "entropic",
) -> Float[Array, "n m"]:
    """Return the density r_ij = (f*)'((f_i + g_j - c_ij) / epsilon) of the plan a_i b_j r_ij, n x m in memory.

    Arguments and errors are as in `dual_value`.

    Example:
      >>> print(og.dual.density(jnp.array([[0.0, 1.0]]), jnp.zeros(1), jnp.zeros(2), epsilon=1.0), np.exp(-1))
      [[1. 0.368]] 0.368
    """
    cost, f, g, _, _ = prepare(cost, None, None, epsilon, f, g)
    return _density(cost, f, g, epsilon, smoothing=by_name(smoothing))


@functools.partial(jax.jit, static_argnames="smoothing")
def _density(cost, f, g, epsilon, smoothing) -> Array:
    return cost.map_blocks(lambda block, f: smoothing.density(_scores(block, f, g, epsilon)), f)


def marginals(
    cost: Cost | ArrayLike,
    f: ArrayLike,
    g: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike,
    smoothing: str | Smoothing = "entropic",
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    """Return the row sums a_i sum_j b_j r_ij and the column sums b_j sum_i a_i r_ij of the plan, streamed.

    At the optimum they are a and b. Arguments and errors are as in `dual_value`.

    Example:
      >>> cost = jnp.array([[0.0, 1.0], [1.0, 0.0]])
      >>> state, _ = og.dual.run(cost, jnp.array([0.3, 0.7]), epsilon=0.5)
      >>> rows, columns = og.dual.marginals(cost, *state, jnp.array([0.3, 0.7]), epsilon=0.5)
      >>> print(rows, columns)
      [0.3 0.7] [0.5 0.5]
    """
    cost, f, g, a, b = prepare(cost, a, b, epsilon, f, g)
    smoothing = by_name(smoothing)
    rows, columns = sums_of(cost, f, g, a, b, epsilon, smoothing=smoothing)
    return a * rows, b * columns


@functools.partial(jax.jit, static_argnames="smoothing")
def sums_of(cost, f, g, a, b, epsilon, smoothing) -> tuple:
    """Return the mean density of each row [n], weighted by b, and of each column [m], weighted by a."""

    def rows(block: Array, f: Array, a: Array) -> Array:
        return product(smoothing.density(_scores(block, f, g, epsilon, a, b)), b)

    def columns(block: Array, g: Array, b: Array) -> Array:
        return product(a, smoothing.density(_scores(block, f, g, epsilon, a, b)))

    return cost.map_blocks(rows, f, a), cost.map_blocks(columns, g, b, axis=0)


def gap(
    cost: Cost | ArrayLike,
    f: ArrayLike,
    g: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike,
    smoothing: str | Smoothing = "entropic",
) -> Float[Array, ""]:
    """Return the duality gap: the value of a feasible plan minus the dual value, never negative.

    The feasible plan is made by repairing the density: rows and then columns that are too heavy are scaled down, and
    the missing mass is added as a product (Altschuler et al., 2017, arXiv 1705.09634, algorithm 2). For a feasible
    density r' the gap is

      epsilon sum_ij a_i b_j ( f(r'_ij) + f*(s_ij) - r'_ij s_ij ),   s = (f + g - c) / epsilon,

    a sum of terms that are not negative, so that nothing cancels. The gap is of second order in the error of the
    marginals. Missing mass that would fall on forbidden or very costly pairs is priced as if s epsilon were -10 (range
    of f + range of g + `spread` of the cost) - 100 epsilon there, which is more than it would cost along other pairs.
    In such problems the gap is an estimate rather than a bound.

    Arguments and errors are as in `dual_value`.

    Returns:
      A scalar in units of the cost; W lies between the dual value and the dual value + gap.

    Example:
      >>> cost = jnp.array([[0.0, 1.0], [1.0, 0.0]])
      >>> f, g = og.dual.run(cost, epsilon=0.1)[0]
      >>> print(og.dual.gap(cost, f, g, epsilon=0.1) < 1e-5, og.dual.gap(cost, f + 1, g, epsilon=0.1) > 0.1)
      True True
    """
    cost, f, g, a, b = prepare(cost, a, b, epsilon, f, g)
    return gap_of(cost, f, g, a, b, epsilon, smoothing=by_name(smoothing))


@functools.partial(jax.jit, static_argnames="smoothing")
def gap_of(cost, f, g, a, b, epsilon, smoothing, scale=None) -> Array:
    """`gap` without the checks."""
    scale = spread(cost, a, b) if scale is None else scale
    far = _REACH[0] * (_range(f, a) + _range(g, b) + scale) / epsilon + _REACH[1]

    def scaled(block: Array, f: Array, a: Array, shrink: Array, g: Array = g, b: Array = b) -> Array:
        return smoothing.density(_scores(block, f, g, epsilon, a, b)) * shrink[:, None]

    def columns(block: Array, g: Array, b: Array) -> Array:
        return product(a, scaled(block, f, a, shrink, g, b))

    def rows(block: Array, f: Array, a: Array, shrink: Array) -> Array:
        return product(scaled(block, f, a, shrink), b * narrow)

    shrink = 1 / jnp.maximum(sums_of(cost, f, g, a, b, epsilon, smoothing=smoothing)[0], 1)
    sums = cost.map_blocks(columns, g, b, axis=0)
    narrow = 1 / jnp.maximum(sums, 1)
    lack = jnp.where(a > 0, jnp.maximum(1 - cost.map_blocks(rows, f, a, shrink), 0), 0)
    lack_columns = jnp.where(b > 0, jnp.maximum(1 - narrow * sums, 0), 0)
    total = jnp.maximum(product(a, lack), jnp.finfo(f.dtype).tiny)

    def terms(block: Array, f: Array, a: Array, shrink: Array, lack: Array) -> Array:
        repaired = scaled(block, f, a, shrink) * narrow + lack[:, None] * lack_columns / total
        s = jnp.maximum(_scores(block, f, g, epsilon, a, b), -far)
        return product(jnp.maximum(smoothing.value(repaired) + smoothing.conjugate(s) - repaired * s, 0), b)

    return epsilon * product(a, cost.map_blocks(terms, f, a, shrink, lack))


def _range(values: Array, weights: Array) -> Array:
    heard = weights > 0
    return jnp.max(values, initial=-jnp.inf, where=heard) - jnp.min(values, initial=jnp.inf, where=heard)


def spread(cost: Cost, a: Array, b: Array) -> Array:
    """Return how much the cost varies: four times its median absolute deviation, which for a uniform law is its width.

    64 x 64 costs are looked at, at the quantiles of the weights. The medians of their rows are subtracted, then those
    of their columns, and the deviation is a median of medians of what is left. It has the unit of the cost. A constant
    added to the cost does not change it; a function of one side, points of weight zero, forbidden pairs and a few
    outliers hardly change it. Where most of the costs are equal, the mean absolute deviation takes its place; where all
    are equal, the result is zero.
    """
    rows, columns = (_quantiles(jax.lax.stop_gradient(weights)) for weights in (a, b))
    costs = jax.lax.stop_gradient(cost.map_blocks(lambda block: block[:, columns])[rows])
    costs = jnp.where(jnp.isfinite(costs), costs, jnp.nan)
    middle = jnp.nanmedian(costs, 1)
    rest = (costs - middle[:, None]).T
    rest = jnp.abs(rest - jnp.nanmedian(rest, 1)[:, None])
    noise = 8 * jnp.finfo(costs.dtype).eps * jnp.nanmin(jnp.abs(middle))
    found = 4 * jnp.nanmedian(jnp.nanmedian(rest, 1))
    found = jnp.where(found > noise, found, 4 * jnp.nanmean(rest))
    return jnp.where(found > noise, found, 0.0)


def _quantiles(weights: Array) -> Array:
    levels = jnp.cumsum(weights)
    probes = (jnp.arange(_PROBES, dtype=levels.dtype) + 0.5) / _PROBES * levels[-1]
    return jnp.minimum(jnp.sum(levels[:, None] < probes, 0), weights.size - 1)
