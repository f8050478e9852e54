"""The kernel distance of two samples: an unbiased squared maximum mean discrepancy, with its standard error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen import sizes
from otgen.eval.samples import as_samples
from otgen.ot.check import require_positive
from otgen.ot.costs.distances import Euclidean, SqEuclidean
from otgen.ot.products import product
from otgen.types import Array, as_pytree


class KernelDistance(NamedTuple):
    """An estimate of a squared maximum mean discrepancy.

    Attributes:
      value: unbiased, so it may be negative where the laws are equal or nearly so.
      error: its standard error over draws of both samples.
    """

    value: Array
    error: Array


@runtime_checkable
class Kernel(Protocol):
    """A kernel between rows u, v of points from which the centre has been taken off.

    It may leave out what depends on one of the two points only: that is the same in all three means and cancels.
    """

    def pairwise(self, u: Array, v: Array, centre: Array) -> Array:
        """Return the kernel [n, m] of u + centre [n, d] and v + centre [m, d]."""
        ...


@as_pytree
@dataclass(frozen=True)
class Cubic:
    """(x.y / d + 1)^3, the kernel of the kernel inception distance.

    With a = |c|^2 / d + 1, p = c.u / d, q = c.v / d, r = u.v / d it is (a + p + q + r)^3. Less (a + p)^3 + (a + q)^3 -
    a^3, which cancel, that is r (3 g^2 + 3 g r + r^2) + 3 p q (2 a + p + q) with g = a + p + q: as small as the
    distance of the points from their centre, so float32 does for features far from the origin.
    """

    def pairwise(self, u: Array, v: Array, centre: Array) -> Array:
        """Return the kernel [n, m], less terms of one point."""
        d = centre.shape[0]
        a = product(centre, centre) / d + 1
        p, q, r = product(u, centre)[:, None] / d, product(v, centre)[None] / d, product(u, v.T) / d
        g = a + p + q
        return r * (3 * g * g + r * (3 * g + r)) + 3 * p * q * (g + a)


@as_pytree
@dataclass(frozen=True)
class Gaussian:
    """exp(-|x - y|^2 / (2 bandwidth^2)).

    Attributes:
      bandwidth: in units of the points; traced.
    """

    bandwidth: ArrayLike

    def __post_init__(self) -> None:
        require_positive("bandwidth", self.bandwidth)

    def pairwise(self, u: Array, v: Array, centre: Array) -> Array:
        """Return the kernel [n, m]."""
        return jnp.exp(-0.5 * SqEuclidean().pairwise(u / self.bandwidth, v / self.bandwidth))


@as_pytree
@dataclass(frozen=True)
class Energy:
    """-|x - y|, which makes the kernel distance the energy distance 2 E|x - y| - E|x - x'| - E|y - y'|."""

    def pairwise(self, u: Array, v: Array, centre: Array) -> Array:
        """Return |u| + |v| - |u - v| [n, m]: the norms cancel, and leave smaller numbers to sum."""
        return jnp.linalg.norm(u, axis=1)[:, None] + jnp.linalg.norm(v, axis=1) - Euclidean().pairwise(u, v)


def kernel_distance(x: ArrayLike, y: ArrayLike, kernel: Kernel | None = None) -> KernelDistance:
    """Return the unbiased squared maximum mean discrepancy of two samples; the kernel inception distance by default.

    mean_{i != i'} k(x_i, x_i') + mean_{j != j'} k(y_j, y_j') - 2 mean_ij k(x_i, y_j), over whole samples: of all
    unbiased estimates it has the least variance, less than the mean over subsets that is often reported. Streamed in
    blocks of rows.

    The error is the root of an estimate of the variance of the value. Delete-one jackknives of both samples follow
    exactly from the sums of rows; they count the second-order part of the variance twice (all of it where the laws are
    equal), which an analysis of variance of the kernel matrices takes off once. The difference is unbiased, but a
    first-order part below zero counts as zero: where the laws are equal the error comes out about a tenth too large.

    Args:
      x: features [n, d], n >= 4.
      y: features [m, d], m >= 4.
      kernel: Cubic() for None, Gaussian(bandwidth), Energy(), or a pytree of yours with the method `pairwise`.

    Returns:
      KernelDistance.

    Raises:
      ValueError: for other shapes, different dimensions, a kernel without `pairwise`, or (outside jit) non-finite
        features.

    Example:
      >>> x, y = jax.random.normal(jax.random.key(0), (2, 200, 4))
      >>> near, far = og.eval.kernel_distance(x, y), og.eval.kernel_distance(x, y + 5)
      >>> print(jnp.abs(near.value) < 3 * near.error, far.value > 10 * far.error)
      True True

    Reference: Binkowski et al. (2018), arXiv 1801.01401, equation 4; Gretton et al. (2012), A kernel two-sample test,
    equation 3; Sutherland and Deka (2019), arXiv 1906.02104 (another unbiased estimate of the variance).
    """
    if not (kernel is None or isinstance(kernel, Kernel)) or isinstance(kernel, type):
        raise ValueError(f"kernel = {kernel!r}: give Cubic(), Gaussian(bandwidth), Energy(), or one with `pairwise`.")
    return _kernel_distance(*as_samples(4, x=x, y=y), Cubic() if kernel is None else kernel)


@jax.jit
def _kernel_distance(x: Array, y: Array, kernel: Kernel) -> KernelDistance:
    centre = 0.5 * (x.mean(0) + y.mean(0))
    x, y = x - centre, y - centre
    n, m = x.shape[0], y.shape[0]
    rows_x, _, squares_x = _sums(kernel, x, x, centre, True)
    rows_y, _, squares_y = _sums(kernel, y, y, centre, True)
    from_x, from_y, squares = _sums(kernel, x, y, centre, False)
    value = (rows_x / (n - 1) - from_x / m).mean() + (rows_y / (m - 1) - from_y / n).mean()
    jackknife = 4 * _variance(rows_x / (n - 2) - from_x / m) / n + 4 * _variance(rows_y / (m - 2) - from_y / n) / m
    within_x, within_y = _second_within(rows_x, squares_x), _second_within(rows_y, squares_y)
    between = _second_between(from_x, from_y, squares) / m / n
    once = 2 * within_x / n / (n - 1) + 2 * within_y / m / (m - 1) + 4 * between
    twice = 4 * within_x / n / (n - 2) + 4 * within_y / m / (m - 2) + 8 * between
    return KernelDistance(value, jnp.sqrt(jnp.maximum(jackknife - twice, 0) + once))


def _sums(kernel: Kernel, x: Array, y: Array, centre: Array, same: bool) -> tuple[Array, Array, Array]:
    """Sums of the kernel over rows [n] and columns [m], and of its squares; of the same sample without the diagonal."""
    n, m = x.shape[0], y.shape[0]
    size = max(1, min(n, sizes.here().block // m))
    index = jnp.arange(-(-n // size) * size).reshape(-1, size)

    def visit(carry: tuple[Array, Array], index: Array) -> tuple[tuple[Array, Array], Array]:
        block = kernel.pairwise(x[jnp.minimum(index, n - 1)], y, centre)
        counted = (index < n)[:, None]
        if same:
            counted = counted & (index[:, None] != jnp.arange(m))
        block = jnp.where(counted, block, 0)
        return (carry[0] + block.sum(0), carry[1] + jnp.sum(block**2)), block.sum(1)

    start = jnp.zeros(m, x.dtype), jnp.zeros((), x.dtype)
    (columns, squares), rows = jax.lax.scan(visit, start, index)
    return rows.reshape(-1)[:n], columns, squares


def _variance(values: Array) -> Array:
    return jnp.var(values, ddof=1)


def _second_within(rows: Array, squares: Array) -> Array:
    """Return the variance of k(x, x') less its parts of one point, from the sums of rows without the diagonal."""
    n = rows.shape[0]
    explained = _variance(rows) * (n - 1) / (n - 2) + 0.5 * n / (n - 1) * rows.mean() ** 2
    return jnp.maximum(0.5 * squares - explained, 0) / n / (n - 3) * 2


def _second_between(rows: Array, columns: Array, squares: Array) -> Array:
    """Return the variance of k(x, y) less its parts of one point, from the sums of rows [n] and of columns [m]."""
    n, m = rows.shape[0], columns.shape[0]
    explained = _variance(rows) * (n - 1) / m + _variance(columns) * (m - 1) / n + n / m * rows.mean() ** 2
    return jnp.maximum(squares - explained, 0) / (n - 1) / (m - 1)
