"""Convolutions with windows of 3 x 3, on CPUs with half the products.

Four rows of the output are twelve products of rows of the input with rows of the kernel. Winograd's form F(4, 3) has
six: sums of rows of the input and of the kernel are convolved along the rows alone, and summed again,
y = A [(G g) * (B x)]. With columns summed as well, a quarter of the products is left: under XLA it was no faster.

Reference: Lavin and Gray (2016), arXiv 1509.09308.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from otgen.types import Array

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_ROWS = 4  # of the output, made together
_WIDE = 64  # channels from which sums of rows cost little beside their products


def convolve(x: Array, kernel: Array, stride: int = 1) -> Array:
    """Convolve images with windows of 3 x 3, zeros around them.

    On CPUs, from 64 channels on, at stride 1 and in float32 or wider, in Winograd's form: 1.5 to 2 times as fast there
    (narrower ones are not), and the same to 1e-5 of the outputs.

    Args:
      x: [n, h, w, c].
      kernel: [3, 3, c, d].
      stride: step along both sides. Static.

    Returns:
      [n, ceil(h / stride), ceil(w / stride), d].

    Example:
      >>> from otgen.nn.convolution import convolve
      >>> print(convolve(jnp.ones((1, 5, 3, 2)), jnp.ones((3, 3, 2, 1)))[0, :, 1, 0])
      [12. 18. 18. 18. 12.]
    """
    if stride > 1 or min(kernel.shape[2:]) < _WIDE or jnp.finfo(x.dtype).bits < 32:
        return _direct(x, kernel, stride)
    return jax.lax.platform_dependent(x, kernel, cpu=_winograd, default=_direct)


def _direct(x: Array, kernel: Array, stride: int = 1) -> Array:
    around, strides = ((1, 1), (1, 1)), (stride, stride)
    precision = "highest" if jnp.finfo(x.dtype).bits >= 32 else None
    return jax.lax.conv_general_dilated(x, kernel, strides, around, dimension_numbers=_LAYOUT, precision=precision)


def _winograd(x: Array, kernel: Array) -> Array:
    n, h, w, c = x.shape
    tiles = -(-h // _ROWS)
    x = jnp.pad(x, ((0, 0), (0, tiles * _ROWS - h), (0, 0), (0, 0)))
    x = jax.lax.optimization_barrier(x).reshape(n, tiles, _ROWS, w, c)  # made once, not for each of its six sums
    above = jnp.pad(x[:, :-1, -1], ((0, 0), (1, 0), (0, 0), (0, 0)))
    below = jnp.pad(x[:, 1:, 0], ((0, 0), (0, 1), (0, 0), (0, 0)))
    inputs = _sums(_B, [above, *(x[:, :, row] for row in range(_ROWS)), below])
    kernels = _sums(_G, list(kernel))
    products = [
        jax.lax.conv_general_dilated(
            rows, taps[None], (1, 1), ((0, 0), (1, 1)), dimension_numbers=_LAYOUT, precision="highest"
        )
        for rows, taps in zip(inputs, kernels, strict=True)
    ]
    return jnp.stack(_sums(_A, products), 2).reshape(n, tiles * _ROWS, w, -1)[:, :h]


def _sums(matrix: np.ndarray, arrays: Sequence[Array]) -> list[Array]:
    """Linear combinations of arrays, one for each row of a matrix; zeros cost nothing."""
    return [sum(float(a) * x for a, x in zip(row, arrays, strict=True) if a) for row in matrix]


def _transforms(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A [4, 6], G [6, 3] and B [6, 6] of Cook and Toom's polynomial products at five points and infinity."""
    p, others = points, [np.delete(points, i) for i in range(len(points))]
    a = np.append(np.vander(p, 4, increasing=True).T, np.eye(4)[:, 3:], axis=1)
    scale = np.array([[np.prod(point - rest)] for point, rest in zip(p, others, strict=True)])
    g = np.append(np.vander(p, 3, increasing=True) / scale, np.eye(3)[2:], axis=0)
    b = np.array([*(np.append(np.poly(rest)[::-1], 0) for rest in others), np.poly(p)[::-1]])
    return tuple(np.where(np.abs(it) < 1e-12, 0, it) for it in (a, g, b))


# A fourth of the rounding errors of 0, 1, -1, 2, -2.
_A, _G, _B = _transforms(np.array([0, np.sqrt(0.5), -np.sqrt(0.5), np.sqrt(2), -np.sqrt(2)]))
