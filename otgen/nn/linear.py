"""Deep linear generators x = W_N ... W_1 z, and every start of their weights that paper C compares.

Weights are a tuple (W_1, ..., W_N) of matrices W_j [d_j, d_{j-1}]; `widths` is (d_0, ..., d_N), the smallest of them
the bottleneck.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.ot.check import as_array, as_count, as_key, require_choice, require_nonnegative
from otgen.ot.gaussian.units import of_lengths
from otgen.ot.products import product
from otgen.theory.dynamics import as_chain, as_target, end_to_end
from otgen.types import Array, Key

STARTS = (
    "normal",
    "uniform",
    "xavier_normal",
    "xavier_uniform",
    "kaiming_normal",
    "kaiming_uniform",
    "orthogonal",
    "balanced",
    "low_rank",
)
_SCALING = {"xavier": (1.0, "fan_avg"), "kaiming": (2.0, "fan_in")}


class DeepLinear(nn.Module):
    """A generator without nonlinearity; its parameter `weights` is the tuple (W_1, ..., W_N).

    Attributes:
      widths: (latent dimension, hidden widths, data dimension).
      start: how weights are drawn, one of STARTS.
      scale: factor of all of them.
      rank: rank of the product for the start "low_rank".

    Example:
      >>> net = og.nn.DeepLinear((2, 4, 3))
      >>> x, variables = net.init_with_output(jax.random.key(0), jnp.eye(2))
      >>> first, second = variables["params"]["weights"]
      >>> print(jnp.allclose(x, (second @ first).T, atol=1e-6))
      True
    """

    widths: tuple[int, ...]
    start: str = "balanced"
    scale: float = 1.0
    rank: int = 1

    def setup(self) -> None:
        draw = lambda key: draw_weights(key, self.widths, self.start, scale=self.scale, rank=self.rank)  # noqa: E731
        self.weights = self.param("weights", draw)

    def __call__(self, z: Array) -> Array:
        """Return points [..., d_N] of latents z [..., d_0]."""
        for matrix in self.weights:
            z = product(z, matrix.T)
        return z

    def matrix(self) -> Array:
        """Return the end-to-end matrix W_N ... W_1 [d_N, d_0]."""
        return end_to_end(self.weights)


def check_widths(widths: Sequence[int]) -> tuple[int, ...]:
    """Return widths as a tuple; raise ValueError unless there are two at least, all positive."""
    if not isinstance(widths, Sequence) or isinstance(widths, str) or len(widths) < 2:
        raise ValueError(f"widths = {widths}: give at least two whole numbers (latent, hidden ..., data dimension).")
    return tuple(as_count(f"widths[{place}]", width) for place, width in enumerate(widths))


def draw_weights(
    key: Key, widths: Sequence[int], start: str = "balanced", *, scale: float = 1.0, rank: int = 1
) -> tuple[Array, ...]:
    """Draw the weights of a deep linear network.

    * normal: entries N(0, .01); uniform: entries of U(-1, 1).
    * xavier_normal, xavier_uniform, kaiming_normal, kaiming_uniform: variance 2 / (fan in + fan out), 2 / fan in.
    * orthogonal: (semi-)orthogonal matrices.
    * balanced: the balanced factorisation of the product of a Xavier start, W_{j+1}' W_{j+1} = W_j W_j'.
    * low_rank: the same with the product truncated to `rank`.

    Args:
      key: PRNG key, consumed.
      widths: (d_0, ..., d_N).
      start: one of the names above.
      scale: factor of every weight.
      rank: rank of a "low_rank" product, 1 up to the bottleneck.

    Returns:
      (W_1, ..., W_N), float32.

    Raises:
      ValueError: for an unknown start, widths that are not positive, or a rank outside 1 ... bottleneck.

    Reference: paper C (arXiv 2303.03027), the starts of its experiments.
    """
    key, widths = as_key(key), check_widths(widths)
    require_choice("start", start, STARTS)
    require_nonnegative("scale", scale)
    if start in ("balanced", "low_rank"):
        product = end_to_end(draw_weights(key, widths, "xavier_normal"))
        if start == "low_rank":
            if not 1 <= as_count("rank", rank, least=0) <= min(widths):
                raise ValueError(f"rank = {rank}: give 1 to {min(widths)}, the bottleneck of widths {widths}.")
            product = truncated(product, rank)
        return tuple(scale * matrix for matrix in factorise(product, widths))
    keys = jax.random.split(key, len(widths) - 1)
    shapes = zip(widths[1:], widths[:-1], strict=True)
    return tuple(scale * _matrix(key, shape, start) for key, shape in zip(keys, shapes, strict=True))


def _matrix(key: Key, shape: tuple[int, int], start: str) -> Array:
    if start == "normal":
        return 0.1 * jax.random.normal(key, shape)
    if start == "uniform":
        return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)
    if start == "orthogonal":
        return jax.nn.initializers.orthogonal()(key, shape, jnp.float32)
    family, law = start.split("_")
    draw = jax.nn.initializers.variance_scaling(*_SCALING[family], law, in_axis=1, out_axis=0)
    return draw(key, shape, jnp.float32)


def truncated(matrix: ArrayLike, rank: int) -> Array:
    """Return the nearest matrix [n, m] of a rank.

    Raises:
      ValueError: for anything but a matrix, or a rank that is no positive int.
    """
    rank = as_count("rank", rank)
    u, s, vt = jnp.linalg.svd(as_array("matrix", matrix, (None, None)), full_matrices=False)
    return product(u[:, :rank] * s[:rank], vt[:rank])


def factorise(matrix: ArrayLike, widths: Sequence[int]) -> tuple[Array, ...]:
    """Return balanced weights of a product: W_N ... W_1 = matrix and W_{j+1}' W_{j+1} = W_j W_j'.

    With matrix = U S V' every layer carries S^(1/N).

    Args:
      matrix: [d_N, d_0], of rank at most the bottleneck (what exceeds it is cut off).
      widths: (d_0, ..., d_N).

    Returns:
      (W_1, ..., W_N).

    Raises:
      ValueError: if the matrix has another shape than (d_N, d_0).

    Reference: Arora, Cohen and Hazan (2018), arXiv 1802.06509.
    """
    widths, matrix = check_widths(widths), as_array("matrix", matrix)
    if matrix.shape != (widths[-1], widths[0]):
        raise ValueError(f"matrix has shape {matrix.shape}: widths {widths} ask for {(widths[-1], widths[0])}.")
    u, s, vt = jnp.linalg.svd(matrix, full_matrices=False)
    depth, k = len(widths) - 1, min(widths)
    u, s, vt = u[:, :k], s[:k] ** (1.0 / depth), vt[:k]
    if depth == 1:
        return (product(u * s, vt),)
    middle = [jnp.zeros((high, low), matrix.dtype).at[:k, :k].set(jnp.diag(s)) for low, high in pairwise(widths[1:-1])]
    first = jnp.zeros((widths[1], widths[0]), matrix.dtype).at[:k].set(s[:, None] * vt)
    last = jnp.zeros((widths[-1], widths[-2]), matrix.dtype).at[:, :k].set(u * s)
    return (first, *middle, last)


def balance(weights: Sequence[Array]) -> tuple[Array, ...]:
    """Return balanced weights with the same product."""
    weights = as_chain(weights)
    return factorise(end_to_end(weights), (weights[0].shape[1], *(matrix.shape[0] for matrix in weights)))


def close_weights(key: Key, target: ArrayLike, widths: Sequence[int], *, tau: float = 0.0) -> tuple[Array, ...]:
    """Draw balanced weights near the best generator of a target covariance, with a positive margin deficiency.

    Within the span of the k leading eigenvectors of the target (k the bottleneck) the covariance of the start is
    Lambda_k - tau + G diag(e) G', G a random rotation and e falling linearly from 2 lam_k s to lam_k s; s is made
    smaller until c = sqrt(lam_k) - sqrt(L(0)) > 0.

    Args:
      key: PRNG key, consumed.
      target: covariance [n, n].
      widths: (d_0, ..., d_N), d_N = n.
      tau: perturbation of the loss, below lam_k.

    Returns:
      (W_1, ..., W_N).

    Raises:
      ValueError: for widths that do not end at n, a target of smaller rank than the bottleneck, or tau out of range.

    Reference: paper C (arXiv 2303.03027), the default start of its experiments.
    """
    key, widths, target = as_key(key), check_widths(widths), as_target(target)
    n, k = target.shape[0], min(widths)
    if widths[-1] != n:
        raise ValueError(f"target has shape {target.shape} and widths {widths}: the last width must be its dimension.")
    values, vectors = jnp.linalg.eigh(target)
    values, vectors = values[::-1][:k], vectors[:, ::-1][:, :k]
    least = float(values[-1])
    if not least > 0:
        raise ValueError(f"eigenvalue {k} of the target is {least:.3g}: a bottleneck of {k} asks for a positive one.")
    if not 0 <= tau < least:
        raise ValueError(f"tau = {tau}: give a number from 0 up to {least:.4g}, the target's eigenvalue {k}.")
    length = of_lengths(target)[0, 0]  # in this unit products of eigenvalues stay in float32
    values, tau, least = values / length / length, tau / float(length) ** 2, least / float(length) ** 2
    turn = jax.random.orthogonal(key, k, dtype=target.dtype)
    steps = least * (2 - jnp.arange(1, k + 1) / k)
    size = 10.95
    while True:
        added = product(turn * (size * steps), turn.T)
        cov = jnp.diag(values) + added  # with tau added back
        excess = jnp.trace(cov) + jnp.sum(values) - 2 * _overlap(cov, values)
        if float(excess) < least:
            break
        size *= 0.95
    inner, basis = jnp.linalg.eigh(cov - tau * jnp.eye(k, dtype=target.dtype))
    root = jnp.sqrt(jnp.maximum(inner, 0.0))
    other = jnp.eye(k, widths[0], dtype=target.dtype)
    return factorise(product(length * (product(vectors, basis) * root), other), widths)


def _overlap(cov: Array, values: Array) -> Array:
    root = jnp.sqrt(values)
    return jnp.sum(jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(root[:, None] * cov * root), 0.0)))
