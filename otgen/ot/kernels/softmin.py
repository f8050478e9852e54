"""The smoothed minimum of squared Euclidean costs as one GPU kernel, which never writes the n x m scores to memory.

A program goes over pairs of a tile of x and a tile of y, and every row keeps a running maximum and a running sum. The
columns are divided among several programs, whose maxima and sums are merged at the end, so that few rows still fill the
device. `otgen.ot.kernels.fused` uses the same tiles, and `launch`, which runs a kernel over them.

The kernel is compiled by Triton: Pallas's other GPU compiler, Mosaic, multiplies float32 matrices as TF32
only, whose ten bits are not enough for a difference of squares.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jax.typing import ArrayLike

from otgen import sizes
from otgen.ot import inert
from otgen.ot.check import as_array, as_points, require_positive
from otgen.types import Array, Float

ROWS = 64  # rows of x in a tile
COLUMNS = 64  # rows of y in a tile, the columns of scores
DEPTH = 32  # coordinates multiplied at a time; compiled for Hopper this takes 120 to 196 registers, and 64 spill
WARPS = 4  # so that a thread has 32 entries of a tile
STAGES = 2  # tiles of y that are on their way from memory at a time
PROGRAMS = 1024  # at least, if there is work for so many: several for each of a GPU's 100 to 150 processors

_dot = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)  # in Triton: IEEE float32, no tensor cores


def _merge(top: Array, total: Array, new: Array, scale: Array) -> tuple[Array, Array]:
    """Update the running maximum and the sum of 2^(scale (score - maximum)) by new scores [ROWS, COLUMNS]."""
    peak = jnp.maximum(top, new.max(1))
    shift = jnp.where(jnp.abs(peak) < jnp.inf, peak, 0.0)  # 0 and not NaN if all scores so far are -inf
    powers = jnp.exp2((new - shift[:, None]) * scale)
    return peak, total * jnp.exp2((top - shift) * scale) + powers.sum(1)


def tile_product(x_ref, y_ref, columns, depth: int) -> Array:
    """Return the products <x_i, y_j> of a tile of rows with a tile of columns, `depth` coordinates at a time.

    x_ref [ROWS, d], y_ref [d, m], columns a slice of COLUMNS; d a multiple of depth. Called in a kernel.
    """
    chunks = x_ref.shape[1] // depth

    def multiply(chunk, product):
        part = pl.ds(chunk * depth, depth)
        return product + _dot(x_ref[:, part], y_ref[part, columns])

    product = jnp.zeros((ROWS, COLUMNS), x_ref.dtype)
    return lax.fori_loop(0, chunks, multiply, product) if chunks > 1 else multiply(0, product)


def launch(kernel, x: Array, y: Array, heights: Array, *scalars: Array, outputs, name: str, interpret: bool) -> list:
    """Pad to whole tiles and run a kernel in which every program meets one tile of rows with several of columns.

    The columns that fill up a tile have height -inf; their points, and the rows that fill up a tile, are 0.

    Args:
      kernel: called with references to x [ROWS, d], y [d, m], heights [m], each scalar [1], each output [*lead, ROWS],
        and with two keywords: tiles, the number of tiles of columns for one program, which begin at
        `pl.program_id(1) * tiles`, and depth, the number of coordinates that are multiplied at a time.
      x: points [n, d].
      y: points [m, d].
      heights: [m].
      *scalars: further numbers that the kernel reads.
      outputs: (lead, dtype) of every output, where lead is the shape of the numbers that are kept of a row.
      name: of the kernel.
      interpret: whether to run it in Pallas's interpreter.

    Returns:
      The outputs [splits, *lead, n], splits the number of programs that share the columns.
    """
    (num, dim), other = x.shape, y.shape[0]
    depth = min(DEPTH, max(16, pl.next_power_of_2(dim)))  # no side of a product below 16
    row_tiles, column_tiles = math.ceil(num / ROWS), math.ceil(other / COLUMNS)
    tiles = math.ceil(column_tiles / math.ceil(PROGRAMS / row_tiles))  # of columns, for one program
    splits = math.ceil(column_tiles / tiles)
    columns = splits * tiles * COLUMNS
    x = jnp.pad(x, ((0, -num % ROWS), (0, -dim % depth)))
    y = jnp.pad(y.T, ((0, -dim % depth), (0, columns - other)))
    heights = jnp.pad(heights, (0, columns - other), constant_values=-jnp.inf)

    def partial(lead):
        return pl.BlockSpec((None, *lead, ROWS), lambda i, s: (s, *(0 for _ in lead), i))

    found = pl.pallas_call(
        functools.partial(kernel, tiles=tiles, depth=depth),
        grid=(row_tiles, splits),
        in_specs=[
            pl.BlockSpec((ROWS, x.shape[1]), lambda i, s: (i, 0)),
            pl.BlockSpec(y.shape, lambda i, s: (0, 0)),
            pl.BlockSpec(heights.shape, lambda i, s: (0,)),
            *(pl.BlockSpec((1,), lambda i, s: (0,)) for _ in scalars),
        ],
        out_specs=[partial(lead) for lead, _ in outputs],
        out_shape=[jax.ShapeDtypeStruct((splits, *lead, x.shape[0]), dtype) for lead, dtype in outputs],
        compiler_params=plt.CompilerParams(num_warps=WARPS, num_stages=STAGES),
        interpret=interpret,
        name=name,
    )(x, y, heights, *(scalar[None] for scalar in scalars))
    return [output[..., :num] for output in found]


def _kernel(x_ref, y_ref, height_ref, scale_ref, top_ref, total_ref, *, tiles: int, depth: int):
    """Reduce the scores 2 <x_i, y_j> + height_j of a tile of rows over `tiles` tiles of columns.

    x_ref [ROWS, d], y_ref [d, m], height_ref [m], scale_ref [1]; top_ref, total_ref [ROWS].
    """
    first = pl.program_id(1) * tiles
    scale = scale_ref[0]

    def visit(tile, carry):
        columns = pl.ds((first + tile) * COLUMNS, COLUMNS)
        product = tile_product(x_ref, y_ref, columns, depth)
        return _merge(*carry, 2 * product + height_ref[columns][None, :], scale)

    start = jnp.full(ROWS, -jnp.inf, x_ref.dtype), jnp.zeros(ROWS, x_ref.dtype)
    top_ref[...], total_ref[...] = lax.fori_loop(0, tiles, visit, start)


def _launch(x: Array, y: Array, heights: Array, scale: Array, interpret: bool) -> list[Array]:
    """Return maxima and sums of all rows, [splits, n] each."""
    outputs = ((), x.dtype), ((), x.dtype)
    return launch(_kernel, x, y, heights, scale, outputs=outputs, name="softmin_sqeuclidean", interpret=interpret)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _softmin(x: Array, y: Array, epsilon: Array, potential: Array, log_weights: Array, interpret: bool) -> Array:
    # Scores stay in units of the cost until the maximum is subtracted, so that a small epsilon costs no digits.
    heights = potential + epsilon * log_weights - jnp.sum(y**2, 1)
    scale = math.log2(math.e) / epsilon
    tops, totals = _launch(x, y, heights, scale, interpret)
    top = tops.max(0)
    shift = jnp.where(jnp.abs(top) < jnp.inf, top, 0.0)
    total = jnp.sum(totals * jnp.exp2((tops - shift) * scale), 0)
    return jnp.sum(x**2, 1) - shift - epsilon * jnp.log(total)


def _forward(x, y, epsilon, potential, log_weights, interpret):
    return _softmin(x, y, epsilon, potential, log_weights, interpret), (x, y, epsilon, potential, log_weights)


def _backward(interpret, saved, cotangent):
    """Return gradients by blocks of rows of the plan, softmax_j(log_weights_j + (potential_j - c_ij) / epsilon)."""
    x, y, epsilon, potential, log_weights = saved
    num, dim = x.shape
    size = max(1, min(num, sizes.here().alive // y.shape[0]))

    @jax.checkpoint
    def visit(sums, rows):
        of_y, of_epsilon, of_potential = sums
        x, cotangent = rows
        cost = jnp.sum(x**2, 1)[:, None] + jnp.sum(y**2, 1) - 2 * _dot(x, y.T)
        scores = (potential - cost) / epsilon
        logits = scores + log_weights
        top = lax.stop_gradient(logits.max(1, keepdims=True))
        top = jnp.where(jnp.abs(top) < jnp.inf, top, 0.0)
        powers = jnp.exp(logits - top)
        total = powers.sum(1, keepdims=True)
        total = jnp.where(total > 0, total, 1.0)  # a row without any point of positive weight has gradient 0
        plan = cotangent[:, None] * powers / total
        excess = jnp.where(powers > 0, scores - top - jnp.log(total), 0.0)
        mass = plan.sum(0)
        of_x = 2 * (plan.sum(1)[:, None] * x - _dot(plan, y))
        of_y += 2 * (mass[:, None] * y - _dot(plan.T, x))
        return (of_y, of_epsilon + jnp.sum(plan * excess), of_potential - mass), of_x

    start = jnp.zeros_like(y), jnp.zeros_like(epsilon), jnp.zeros_like(potential)
    (of_y, of_epsilon, of_potential), of_x = lax.scan(
        visit, start, (inert.tiles(x, size), inert.tiles(cotangent, size))
    )
    return of_x.reshape(-1, dim)[:num], of_y, of_epsilon, of_potential, epsilon * of_potential


_softmin.defvjp(_forward, _backward)


@functools.partial(jax.jit, static_argnames="interpret")
def _centred(x, y, epsilon, potential, log_weights, interpret):
    shift = inert.middle(x, y, None, log_weights > -jnp.inf)
    return _softmin(x - shift, y - shift, epsilon, potential, log_weights, interpret)


def softmin_pallas(
    x: ArrayLike,
    y: ArrayLike,
    epsilon: ArrayLike,
    potential: ArrayLike,
    log_weights: ArrayLike | None = None,
    *,
    interpret: bool = False,
) -> Float[Array, " n"]:
    """Return the smoothed minimum over y of |x_i - y_j|^2 - potential_j, in one kernel on an NVIDIA GPU.

    f_i = -epsilon log sum_j exp(log_weights_j + (potential_j - |x_i - y_j|^2) / epsilon)

    The result is that of `PairwiseCost(x, y).softmin(epsilon, potential, log_weights)`. Beyond copies of the points it
    needs O(n + m) memory forwards and a few blocks of 16 MiB backwards, where XLA goes over blocks of whole rows.
    Arithmetic is in float32, or in float64 if an array is; products are never TF32. It can be vmapped, and is
    differentiable in x, y, epsilon, potential and log_weights in reverse mode, also twice; jax refuses forward mode
    (jvp, jacfwd, hessian).

    Args:
      x: points [n, d].
      y: points [m, d].
      epsilon: temperature, a scalar in units of the cost (squared units of the points). Traced.
      potential: [m], in units of the cost.
      log_weights: [m]; minus infinity leaves a point out. None is weight one.
      interpret: run the kernel in Pallas's interpreter, on any device and slowly, to test it. Static.

    Static: interpret and the shapes.

    Returns:
      [n], in units of the cost; infinite where every point is left out.

    Raises:
      ValueError: for shapes that do not fit together, or (outside jit) for points that are not finite or an epsilon
        that is not positive; from jax, on a CPU without `interpret`.

    Reference: Milakov and Gimelshein (2018), arXiv 1805.02867, algorithm 3 (running maximum and sum); Dao et al.
    (2022), arXiv 2205.14135 (tiles, and a backward pass that computes them again); Peyre and Cuturi (2019), arXiv
    1803.00567, section 4.4 (the smoothed minimum).
    """
    x, y = as_points("x", x, least=1), as_points("y", y, least=1)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x has {x.shape[1]} columns and y {y.shape[1]}: both clouds must live in the same space.")
    potential = as_array("potential", potential, (y.shape[0],), finite=False)
    log_weights = jnp.zeros_like(potential) if log_weights is None else log_weights
    log_weights = as_array("log_weights", log_weights, (y.shape[0],), finite=False)
    require_positive("epsilon", epsilon)
    dtype = jnp.result_type(x, y, potential, log_weights, jnp.float32)
    x, y, epsilon, potential, log_weights = (
        jnp.asarray(array, dtype) for array in (x, y, epsilon, potential, log_weights)
    )
    return _centred(x, y, epsilon, potential, log_weights, interpret)
