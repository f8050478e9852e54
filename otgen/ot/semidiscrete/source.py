"""Source laws of the semi-discrete problem, drawn independently or as scrambled Sobol points: `og.source`.

`uniform_cube` on [-1/2, 1/2]^d, `uniform_ball` in the unit ball and `gaussian` with the identity for a covariance are
the priors `og.latent.Uniform(-0.5, 0.5)`, `Ball()` and `Normal()`, and any other prior is a source law as well. So is
every function f(key, num, dim) that has a hash; a `Source` is one that has quasi-random points.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen.ot.check import as_count, as_key, require_whole
from otgen.ot.latent.priors import LEAST, Normal, Uniform
from otgen.ot.latent.radial import Ball
from otgen.types import Array, Float, Key, Sampler

__all__ = ["Source", "draw", "gaussian", "independent", "uniform_ball", "uniform_cube"]

NET = 2**16  # points in one scrambled net; the following net is scrambled afresh
_LOG_NET = 16
MAX_SOBOL_DIM = 21201  # Joe and Kuo (2008) list direction numbers up to here


@dataclasses.dataclass(frozen=True)
class Source:
    """A law that is the image of the uniform law on the unit cube: `x = from_cube(u)`.

    Calling it as a `Sampler` draws independent points; because of `from_cube` a solver can also ask
    for quasi-random points of the same law.

    Attributes:
      name: what the law is called.
      from_cube: maps u [n, d] in (0, 1)^d to points [n, d] of the law, row by row.

    Example:
      >>> exponential = og.source.Source("exponential", lambda u: -jnp.log(u))  # define yours once: it is static
      >>> print(exponential(jax.random.key(0), 4, 2).shape)
      (4, 2)
    """

    name: str
    from_cube: Callable[[Array], Array]

    def __call__(self, key: Key, num: int, dim: int) -> Float[Array, "{num} {dim}"]:
        """Draw `num` independent points [num, dim]."""
        shape = as_count("num", num, 0), as_count("dim", dim)
        return self.from_cube(jax.random.uniform(as_key(key), shape, minval=LEAST))


uniform_cube = Uniform(-0.5, 0.5)
uniform_ball = Ball()
gaussian = Normal()


@functools.lru_cache(maxsize=16)
def _directions(dim: int) -> np.ndarray:
    """Return direction numbers [16, dim] as uint32, read off scipy's unscrambled sequence.

    Point n of a Sobol sequence in Gray-code order is the XOR of the direction numbers at the set bits
    of n ^ (n >> 1), so point 2^(k+1) - 1 is direction number k.
    """
    from scipy.stats import qmc

    engine = qmc.Sobol(dim, scramble=False, bits=32)
    rows, position = [], 0
    for k in range(_LOG_NET):
        engine.fast_forward(2 ** (k + 1) - 1 - position)
        rows.append(engine.random(1)[0])
        position = 2 ** (k + 1)
    return np.round(np.stack(rows) * 2.0**32).astype(np.uint32)


def _scramble(key: Key, directions: Array) -> Array:
    """Multiply each dimension's bits by a random lower-triangular matrix (Matousek, 1998)."""
    bits = jnp.arange(32, dtype=jnp.uint32)[:, None]  # output bit, most significant first
    diagonal = jnp.uint32(1) << (31 - bits)
    above = ~((diagonal << 1) - 1)  # the bits more significant than the diagonal
    rows = jax.random.bits(key, (32, directions.shape[1]), jnp.uint32) & above | diagonal
    parity = jax.lax.population_count(rows[:, None] & directions[None]) & 1
    return jnp.sum(parity << (31 - bits)[:, None], axis=0, dtype=jnp.uint32)


def _of_net(key: Key, first: Array | int, num: int, dim: int) -> Array:
    """Return points first..first+num-1 of a scrambled Sobol net of NET points, the one of a key.

    Linear scrambling and a digital shift make each point alone uniform and averages unbiased, while the points of the
    net fill the cube evenly.

    Reference: Sobol (1967); Joe and Kuo (2008) for the numbers; Owen (1995), Matousek (1998) for scrambling.
    """
    matrix_key, shift_key = jax.random.split(key)
    directions = _scramble(matrix_key, jnp.asarray(_directions(dim)))
    index = (first + jnp.arange(num)).astype(jnp.uint32)
    gray = index ^ (index >> 1)
    points = jnp.broadcast_to(jax.random.bits(shift_key, (dim,), jnp.uint32), (num, dim))
    for k in range(_LOG_NET):
        chosen = -((gray >> k) & 1)  # all ones where the bit is set
        points = points ^ (chosen[:, None] & directions[k])
    return ((points >> 9).astype(jnp.float32) + 0.5) * 2.0**-23  # 23 bits, so that no point rounds to 1


def has_sobol(sampler: Sampler, num: int, dim: int) -> bool:
    """Return whether quasi-random points of this law exist at this size."""
    power_of_two = num & (num - 1) == 0
    return hasattr(sampler, "from_cube") and dim <= MAX_SOBOL_DIM and power_of_two and num <= NET


def as_sampler(sampler: Sampler) -> Sampler:
    """Return a source law as it is.

    Raises:
      ValueError: for what cannot be called, for a class, or for what is no static argument because it has no hash.
    """
    try:
        hash(sampler)
    except TypeError:
        raise ValueError(
            f"sampler = {sampler!r} has no hash: give a function, a frozen dataclass, or a prior made outside jit."
        ) from None
    if isinstance(sampler, type):
        raise ValueError(f"sampler is the class {sampler.__name__}: give a law of it, such as og.latent.Normal().")
    if not callable(sampler):
        raise ValueError(
            f"sampler = {sampler!r}: give a law such as og.source.uniform_cube or og.latent.Normal(), or a function "
            "f(key, num, dim)."
        )
    return sampler


def _laid_out(x: ArrayLike, sampler: Sampler, num: int, dim: int, dtype: jnp.dtype | None) -> Array:
    """Return what a law gave, of the type asked for, if it is of the shape that was asked for."""
    if jnp.shape(x) != (num, dim):
        raise ValueError(
            f"the sampler {getattr(sampler, 'name', sampler)} gave shape {jnp.shape(x)}: asked for {num} points in "
            f"{dim} dimensions it must return an array [{num}, {dim}]."
        )
    try:
        return jnp.asarray(x, dtype)
    except TypeError:
        raise ValueError(f"dtype = {dtype!r}: give a type of numbers, such as jnp.float32.") from None


def independent(
    key: Key, sampler: Sampler, num: int, dim: int, dtype: jnp.dtype | None = None
) -> Float[Array, "{num} {dim}"]:
    """Draw `num` independent samples [num, dim] of a law, of the type asked for or that which the law has.

    Raises:
      ValueError: if the law gives another shape.

    Example:
      >>> print(og.source.independent(jax.random.key(0), og.source.uniform_cube, 3, 2).shape)
      (3, 2)
    """
    key, sampler, num, dim = as_key(key), as_sampler(sampler), as_count("num", num, 0), as_count("dim", dim)
    return _laid_out(sampler(key, num, dim), sampler, num, dim, dtype)


def draw(
    key: Key, sampler: Sampler, block: Array | int, num: int, dim: int, dtype: jnp.dtype | None = None
) -> Float[Array, "{num} {dim}"]:
    """Draw a block of `num` samples of a stream: scrambled Sobol where the law allows it, else independent.

    Blocks are counted, not samples, of which a long solve draws more than an int32 holds.

    Args:
      key: the stream's key; the same key and range give the same points.
      sampler: the law. Static.
      block: which block of the stream; blocks of one size follow one another. Traced.
      num, dim: shape of the draw. Static.
      dtype: type of the numbers; None for that of the law. Static.

    Returns:
      Points [num, dim].

    Raises:
      ValueError: if the law gives another shape.

    Example:
      >>> points = og.source.draw(jax.random.key(0), og.source.uniform_cube, 0, 4, 1)
      >>> print(jnp.sort(jnp.floor(4 * (points[:, 0] + 0.5))))  # one in each quarter
      [0. 1. 2. 3.]
    """
    key, sampler, num, dim = as_key(key), as_sampler(sampler), as_count("num", num), as_count("dim", dim)
    require_whole("block", block)
    if has_sobol(sampler, num, dim):
        per_net = NET // num
        net = jax.random.fold_in(key, block // per_net)
        return _laid_out(sampler.from_cube(_of_net(net, block % per_net * num, num, dim)), sampler, num, dim, dtype)
    return independent(jax.random.fold_in(key, block), sampler, num, dim, dtype)
