"""Laws of weighted sums of independent equal variables, and the monotone map from such a sum back to the variable."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from otgen.types import Array, Float

CELLS = 2**17  # cells of the grid on which laws are convolved
MAX_TERMS = 8  # the closed form for uniform variables has 2^n terms


class Table(NamedTuple):
    """Distribution function of a sum on an even grid.

    Attributes:
      edge: first edge of the grid. cell: its width.
      below, above: probabilities on either side of every edge [cells + 1]; kept apart so that both tails keep digits.
    """

    edge: Array
    cell: Array
    below: Array
    above: Array


def table(cdf: Callable[[Array], Array], reach: Array | float, weights: Float[Array, " n"]) -> Table:
    """Tabulate the law of sum_i w_i u_i for independent u_i of distribution function `cdf`.

    All terms share one grid, and the probabilities of its cells are exact for each term. FFT convolves them, so that
    the error is of second order in the cell, also for weights near 0.

    Args:
      cdf: elementwise distribution function of one variable.
      reach: the absolute value that u exceeds with a negligible probability only.
      weights: [n], not all 0.

    Returns:
      Table on CELLS cells.
    """
    weights = jnp.asarray(weights, jnp.result_type(float))
    size = jnp.abs(weights)
    span = 2.02 * reach * size.sum()
    cell = span / CELLS
    edges = (jnp.arange(CELLS + 1) - CELLS // 2 - 0.5) * cell  # 0 lies in the middle of a cell
    safe = jnp.where(size > 1e-12 * size.sum(), weights, 1e-12 * size.sum())
    levels = cdf(edges / safe[:, None])
    levels = jnp.where(safe[:, None] > 0, levels, 1 - levels)
    # The values rise already. The running maximum keeps XLA from evaluating the two ends of a cell in two ways, whose
    # rounding errors would not cancel.
    masses = jnp.diff(jax.lax.cummax(levels, axis=1), axis=1)
    spectrum = jnp.fft.rfft(jnp.roll(masses, -(CELLS // 2), axis=1), axis=1)
    law = jnp.roll(jnp.fft.irfft(jnp.prod(spectrum, axis=0), CELLS), CELLS // 2)
    law = jnp.maximum(law, 0.0)
    zero = jnp.zeros(1, law.dtype)
    below = jnp.concatenate([zero, jnp.cumsum(law)])
    above = jnp.concatenate([jnp.cumsum(law[::-1])[::-1], zero])
    total = below[-1]
    return Table(edges[0], cell, below / total, above / total)


def tails(table: Table, y: Array) -> tuple[Array, Array]:
    """Return the probabilities below and above y, elementwise, by linear interpolation."""
    place = jnp.clip((y - table.edge) / table.cell, 0, CELLS * (1 - 1e-7))
    index = jnp.nan_to_num(jnp.floor(place)).astype(jnp.int32)
    share = place - index

    def at(values: Array) -> Array:
        return values[index] + share * (values[index + 1] - values[index])

    return at(table.below), at(table.above)


@jax.jit  # without it every call outside jit would compile the branches of its cond again
def uniform_match(weights: Float[Array, " n"], y: Array) -> Array:
    """Map y = sum_i w_i u_i, u_i uniform on [-1, 1], to the uniform law by T(y) = 2 F_Q(y) - 1, elementwise.

    It is computed in closed form where float32 has enough digits, else by a table. For two terms of sizes a >= b,
    T(y) = y / a where |y| <= a - b, and sgn(y) (1 - (a + b - |y|)^2 / (4 a b)) beyond. For up to 8 terms it is an
    alternating sum over signs.

    Args:
      weights: [n], not all 0.
      y: any shape.

    Returns:
      Uniform on [-1, 1], the shape of y.
    """
    size = jnp.sort(jnp.abs(weights))[::-1]
    if size.shape[0] == 1:
        return y / size[0]
    if size.shape[0] == 2:
        return _two_uniforms(size[0], size[1], y)

    def tabulated(y: Array) -> Array:
        below, above = tails(table(lambda u: jnp.clip((u + 1) / 2, 0, 1), 1.0, weights), y)
        return below - above

    num = size.shape[0]
    if num > MAX_TERMS:
        matched = tabulated(y)
    else:
        rounding = jnp.finfo(jnp.result_type(float)).eps / 2
        growth = size.sum() ** num / (math.factorial(num) * 2**num * jnp.maximum(jnp.prod(size), 1e-37))
        matched = jax.lax.cond(rounding * growth < 1e-6, lambda y: _alternating(size, y), tabulated, y)
    # If all weights but two are exactly 0, the two-term form is exact; if all but one are, the identity is.
    return jnp.where(size[2] == 0, _two_uniforms(size[0], size[1], y), matched)


def _two_uniforms(a: Array, b: Array, y: Array) -> Array:
    outer = a + b - jnp.abs(y)
    curved = 1 - outer**2 / (4 * a * jnp.where(b > 0, b, 1.0))
    return jnp.sign(y) * jnp.where(jnp.abs(y) <= a - b, jnp.abs(y) / a, jnp.where(b > 0, curved, jnp.abs(y) / a))


def _alternating(size: Array, y: Array) -> Array:
    """Return 2 F_Q - 1 by inclusion and exclusion over the corners of the cube, evaluated in the lower tail."""
    num = size.shape[0]
    total = jnp.zeros_like(y)
    for signs in itertools.product((-1.0, 1.0), repeat=num):
        corner = sum(sign * a for sign, a in zip(signs, size, strict=True))
        total = total + math.prod(signs) * jnp.maximum(corner - jnp.abs(y), 0.0) ** num
    below = total / (math.factorial(num) * 2**num * jnp.prod(size))
    return jnp.sign(y) * (1 - 2 * below)
