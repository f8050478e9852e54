"""The Wasserstein-2 benchmark, mixtures of 3 to 10 Gaussians: pairs of laws whose optimal map is known.

The source is a mixture of three Gaussians; its image under T, the gradient of a convex network, is a law with about ten
modes. T is optimal between the two for the squared distance, so that a solver's map can be compared with the truth.

Reference: Korotin, Li, Genevay, Solomon, Filippov, Burnaev (2021), arXiv 2106.01954, section 4.1.
"""

from __future__ import annotations

import functools
import operator
import os
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from otgen.ot.check import as_array, as_count, as_key, as_path, require_choice, require_kind, require_positive
from otgen.ot.products import contract, product
from otgen.types import Array, Float, Key

DIMS = (2, 4, 8, 16, 32, 64, 128, 256)
_FOLDER = "wasserstein2_benchmark/Mix3toMix10"
_SD = 0.4  # of the source's components, before the common scaling
_CURVATURE = 0.005  # the |x|^2 term of each network
_STATISTICS = (4, 2**14)  # blocks and points per block that the normalisation is estimated on
_BLOCK = 512  # rows inverted at a time: d x d Hessians of all the rows are never held at once


class Components(NamedTuple):
    """A mixture of Gaussians with equal weights: x = maps_i z + centres_i, z standard normal.

    Attributes:
      centres: [3, d].
      maps: [3, d, d].

    Example:
      >>> law = og.data.wasserstein2.input_law(2)
      >>> print(law.centres.shape, law.maps.shape)
      (3, 2) (3, 2, 2)
    """

    centres: Array
    maps: Array


class Networks(NamedTuple):
    """Two convex networks, stacked on axis 0; three layers, each fed by the one before and by a quadratic of x.

    Attributes:
      quadratic: three arrays [2, d, r, h_k]; layer k adds sum_r (x . quadratic_k[:, r, :])^2.
      linear: three arrays [2, h_k, d].
      bias: three arrays [2, h_k].
      convex: two arrays [2, h_(k+1), h_k] with no negative entry.
      final: [2, 1, h_2], with no negative entry.

    Example:
      >>> print(og.data.wasserstein2.load(2, data_dir).params.final.shape)
      (2, 1, 32)
    """

    quadratic: tuple[Array, Array, Array]
    linear: tuple[Array, Array, Array]
    bias: tuple[Array, Array, Array]
    convex: tuple[Array, Array]
    final: Array


class Benchmark(NamedTuple):
    """One pair of the benchmark: a pytree of arrays, to be handed to jitted functions.

    Attributes:
      params: the two convex networks.
      components: the source law P.
      mean: of the sum of the networks' gradients over P [d].
      scale: square root of that gradient's variance over P, averaged over coordinates [].

    Example:
      >>> pair = og.data.wasserstein2.load(2, data_dir)
      >>> print(pair.mean.shape, pair.scale > 0)
      (2,) True
    """

    params: Networks
    components: Components
    mean: Array
    scale: Array


def dims(data_dir: str | os.PathLike | None = None) -> tuple[int, ...]:
    """Return the dimensions whose files are there, in ascending order.

    Args:
      data_dir: as in `load`.

    Raises:
      FileNotFoundError: without a folder to look in, or if it holds no pair of the benchmark.

    Example:
      >>> print(2 in og.data.wasserstein2.dims(data_dir))
      True
    """
    folder = _folder(data_dir)
    found = tuple(dim for dim in DIMS if all(file.is_file() for file in _pair(folder, dim)))
    if not found:
        raise FileNotFoundError(
            f"no pair of the benchmark is in {folder}: it holds the networks of each dimension, such as 2_v1.npz and "
            "2_v2.npz."
        )
    return found


def load(dim: int, data_dir: str | os.PathLike | None = None) -> Benchmark:
    """Read the pair of laws in `dim` dimensions.

    The mean and scale are estimated on 2^16 draws of the source with the key 0, the same in every call; the authors
    estimate them on 2^14 draws, so that maps agree with theirs up to sampling error (below 1 % of the scale).

    Args:
      dim: 2, 4, 8, ... or 256; `dims` tells those whose files are there.
      data_dir: folder that holds wasserstein2_benchmark/; None reads the environment variable OTGEN_DATA.

    Returns:
      Benchmark, in float32.

    Raises:
      ValueError: for another dimension.
      FileNotFoundError: naming the files that are missing and where they were looked for.

    Example:
      >>> pair = og.data.wasserstein2.load(2, data_dir)
      >>> y = og.data.wasserstein2.sample_target(jax.random.key(0), pair, 1000)
      >>> print(y.shape, jnp.abs(y.var(0).mean() - 1) < 0.2)
      (1000, 2) True
    """
    components = input_law(dim)
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[_read(file) for file in _files(dim, data_dir)])
    raw = Benchmark(params, components, jnp.zeros(dim), jnp.ones(()))
    blocks, num = _STATISTICS
    keys = jax.random.split(jax.random.key(0), blocks)
    slopes = np.concatenate([transport(raw, sample(key, raw, num)) for key in keys]).astype(np.float64)
    mean, scale = slopes.mean(0), np.sqrt(slopes.var(0).mean())
    return raw._replace(mean=jnp.asarray(mean, jnp.float32), scale=jnp.asarray(scale, jnp.float32))


def input_law(dim: int) -> Components:
    """Return the source mixture in `dim` dimensions, which needs no file: mean E|x|^2 is `dim`.

    Centres are permutations of -1, 0, 1 in each coordinate, maps have rows of norm 0.4, both over a common scale; they
    are drawn by NumPy's legacy generator with the seed 0, as the authors do.

    Raises:
      ValueError: for a dimension that the benchmark does not have.

    Example:
      >>> law = og.data.wasserstein2.input_law(2)
      >>> print((law.centres**2).sum(1).mean() + (law.maps**2).sum((1, 2)).mean())  # E|x|^2 = d
      2.0
    """
    require_choice("dim", as_count("dim", dim), DIMS)
    draw = np.random.RandomState(0)
    centres = np.stack([draw.choice([0, 1, 2], 3, replace=False) - 1 for _ in range(dim)], 1)
    maps = draw.normal(size=(3, dim, dim)).astype(np.float32)
    maps /= np.linalg.norm(maps, axis=2, keepdims=True)
    scale = np.sqrt(((centres**2).sum(1).mean() + dim * _SD**2) / dim)
    return Components(jnp.asarray(centres / scale, jnp.float32), jnp.asarray(_SD * maps / scale, jnp.float32))


def sample(key: Key, benchmark: Benchmark, num: int) -> Float[Array, "num d"]:
    """Draw points of the source law P.

    Args:
      key: consumed.
      benchmark: as loaded.
      num: how many. Static.

    Returns:
      Points [num, d].

    Example:
      >>> pair = og.data.wasserstein2.load(2, data_dir)
      >>> x = og.data.wasserstein2.sample(jax.random.key(0), pair, 4000)
      >>> print(jnp.abs((x**2).sum(1).mean() - 2) < 0.1)  # E|x|^2 = d
      True
    """
    require_kind("benchmark", benchmark, Benchmark)
    return _sample(as_key(key), benchmark, as_count("num", num))


@functools.partial(jax.jit, static_argnames="num")
def _sample(key: Key, benchmark: Benchmark, num: int) -> Array:
    which, normal = jax.random.split(key)
    centres, maps = benchmark.components
    chosen = jax.random.randint(which, (num,), 0, len(centres))
    z = jax.random.normal(normal, (num, centres.shape[1]), centres.dtype)
    moved = contract("kij,nj->nki", maps, z) + centres  # all components: cheaper than a d x d map for each row
    return moved[jnp.arange(num), chosen]


def sample_target(key: Key, benchmark: Benchmark, num: int) -> Float[Array, "num d"]:
    """Draw points of the target law T#P [num, d]; arguments as for `sample`.

    Example:
      >>> pair, key = og.data.wasserstein2.load(2, data_dir), jax.random.key(0)
      >>> x = og.data.wasserstein2.sample(key, pair, 5)
      >>> y = og.data.wasserstein2.sample_target(key, pair, 5)
      >>> print(jnp.allclose(og.data.wasserstein2.transport(pair, x), y))
      True
    """
    return transport(benchmark, sample(key, benchmark, num))


def potential(benchmark: Benchmark, x: ArrayLike) -> Float[Array, " n"]:
    """Return the convex potential (u_1(x) + u_2(x) - <m, x>) / s, whose gradient is the map.

    Args:
      benchmark: as loaded.
      x: points [n, d].

    Returns:
      Values [n].

    Raises:
      ValueError: if x is not a matrix with d columns.

    Example:
      >>> pair, x = og.data.wasserstein2.load(2, data_dir), jnp.array([[0.3, -0.2]])
      >>> slope = jax.grad(lambda x: og.data.wasserstein2.potential(pair, x)[0])(x)
      >>> print(jnp.allclose(slope, og.data.wasserstein2.transport(pair, x), atol=1e-4))
      True
    """
    return _potentials(benchmark, _as_rows("x", x, benchmark))


@jax.jit
def _potentials(benchmark: Benchmark, x: Array) -> Array:
    one, other = (jax.tree.map(operator.itemgetter(k), benchmark.params) for k in range(2))
    values = _network(one, x) + _network(other, x)  # one by one: stacked products are slow on CPUs
    return (values - product(x, benchmark.mean)) / benchmark.scale


def transport(benchmark: Benchmark, x: ArrayLike) -> Float[Array, "n d"]:
    """Return the optimal map T(x) = (grad u_1(x) + grad u_2(x) - m) / s.

    Args:
      benchmark: as loaded.
      x: points [n, d].

    Returns:
      Images [n, d].

    Raises:
      ValueError: if x is not a matrix with d columns.

    Example:
      >>> pair = og.data.wasserstein2.load(2, data_dir)
      >>> x, z = og.data.wasserstein2.sample(jax.random.key(0), pair, 200).reshape(2, 100, 2)
      >>> moved = og.data.wasserstein2.transport(pair, x) - og.data.wasserstein2.transport(pair, z)
      >>> print(jnp.all(jnp.sum(moved * (x - z), 1) >= -1e-5))  # the gradient of a convex function is monotone
      True
    """
    return _transport(benchmark, _as_rows("x", x, benchmark))


@jax.jit
def _transport(benchmark: Benchmark, x: Array) -> Array:
    return jax.grad(lambda x: _potentials(benchmark, x).sum())(x)


def inverse(benchmark: Benchmark, y: ArrayLike, *, tol: ArrayLike = 1e-5, max_steps: int = 50) -> Float[Array, "n d"]:
    """Return T^-1(y), the optimal map from the target to the source.

    Newton's method for the maximum of the strictly concave <x, y> - potential(x), damped: of the steps t = 1, 1/2, ...,
    1/128 along a direction p the one with the least |<p, y - T(x + t p)>| is taken, the slope that vanishes at the
    highest point. It keeps its digits in float32 where values are lost to rounding, and it does not stall at the kinks
    of T as the norm of the residual does.

    Args:
      benchmark: as loaded.
      y: points [n, d].
      tol: largest residual |T(x) - y| / max(|y|, 1) of a row that counts as solved.
      max_steps: of Newton's method. Static.

    Returns:
      Points [n, d]; rows that were not solved are NaN.

    Raises:
      ValueError: if y is not a matrix with d columns.

    Example:
      >>> pair, x = og.data.wasserstein2.load(2, data_dir), jnp.array([[0.3, -0.2]])
      >>> print(og.data.wasserstein2.inverse(pair, og.data.wasserstein2.transport(pair, x)))
      [[0.3 -0.2]]
    """
    require_positive("tol", tol)
    return _inverse(benchmark, _as_rows("y", y, benchmark), tol, as_count("max_steps", max_steps))


@functools.partial(jax.jit, static_argnames="max_steps")
def _inverse(benchmark: Benchmark, y: Array, tol: ArrayLike, max_steps: int) -> Array:
    num, dim = y.shape
    block = max(1, min(num, _BLOCK))
    padded = jnp.pad(y, ((0, -num % block), (0, 0)))  # no remainder: two batched solves at once lock up XLA's CPU
    solve = jax.vmap(lambda row: _newton(benchmark, row, tol, max_steps))
    return lax.map(solve, padded.reshape(-1, block, dim)).reshape(-1, dim)[:num]


def _newton(benchmark: Benchmark, y: Array, tol: ArrayLike, max_steps: int) -> Array:
    """Solve T(x) = y for one point."""

    def gap(x):
        return y - _transport(benchmark, x[None])[0]

    def unsolved(state):
        _, error, step = state
        return (error > goal) & (step < max_steps)

    def advance(state):
        x, _, step = state
        hessian, residual = jax.jacfwd(lambda x: (-gap(x), gap(x)), has_aux=True)(x)
        move = jnp.linalg.solve(hessian, residual)
        tried = x + steps[:, None] * move
        gaps = jax.vmap(gap)(tried)
        climb = jnp.abs(product(gaps, move))
        best = jnp.argmin(jnp.where(jnp.isfinite(climb), climb, jnp.inf))
        return tried[best], jnp.linalg.norm(gaps[best]), step + 1

    steps = 0.5 ** jnp.arange(8, dtype=y.dtype)
    goal = tol * jnp.maximum(jnp.linalg.norm(y), 1)
    infinite = jnp.asarray(jnp.inf, y.dtype)
    start = (y, infinite, jnp.int32(0))  # both laws are centred, of variance about 1: y is a fair start
    x, error, _ = lax.while_loop(unsolved, advance, start)
    return jnp.where(error <= goal, x, jnp.nan)


def _network(params: Networks, x: Array) -> Array:
    """One network at points x [n, d]; its leaves have lost the axis of the two networks."""
    fed = [
        jnp.sum(contract("nd,drh->nrh", x, quadratic) ** 2, 1) + contract("nd,hd->nh", x, linear) + bias
        for quadratic, linear, bias in zip(params.quadratic, params.linear, params.bias, strict=True)
    ]
    out = fed[0]
    for weight, more in zip(params.convex, fed[1:], strict=True):
        out = jax.nn.celu(contract("nk,hk->nh", out, weight) + more)
    return product(out, params.final[0]) + _CURVATURE * jnp.sum(x**2, axis=1)


def _as_rows(name: str, points: ArrayLike, benchmark: Benchmark) -> Array:
    require_kind("benchmark", benchmark, Benchmark)
    return as_array(name, points, (None, benchmark.mean.shape[0]), finite=False)


def _files(dim: int, data_dir: str | os.PathLike | None) -> list[Path]:
    """Return the files of the two networks, once they are known to be there."""
    files = _pair(_folder(data_dir), dim)
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"the benchmark lacks {', '.join(missing)}; looked in {files[0].parent}. Needed: its networks "
            f"{dim}_v1.npz and {dim}_v2.npz, with the authors' parameter names."
        )
    return files


def _pair(folder: Path, dim: int) -> list[Path]:
    return [folder / f"{dim}_v{network}.npz" for network in (1, 2)]


def _folder(data_dir: str | os.PathLike | None) -> Path:
    """Return the folder of the benchmark's files."""
    data_dir = data_dir or os.environ.get("OTGEN_DATA")
    if not data_dir:
        raise FileNotFoundError(
            f"the benchmark is not built in: pass data_dir (--data-dir) or set OTGEN_DATA to the folder that holds "
            f"{_FOLDER}/ with two networks for each dimension, such as 2_v1.npz and 2_v2.npz."
        )
    return as_path("data_dir", data_dir) / _FOLDER


def _read(file: Path) -> Networks:
    with np.load(file) as arrays:
        layers = [
            tuple(arrays[f"quadratic_layers.{layer}.{part}"] for layer in range(3))
            for part in ("quadratic_decomposed", "weight", "bias")
        ]
        convex = tuple(arrays[f"convex_layers.{layer}.weight"] for layer in range(2))
        return Networks(*layers, convex, arrays["final_layer.weight"])
