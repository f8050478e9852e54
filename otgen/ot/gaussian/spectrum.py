"""Bures distances by singular values, with first and second derivatives written by hand.

Everything comes from the singular values s and vectors U, V of X = F_a' F_b, where F_a F_a' = A and F_b F_b' = B:

  tr A + tr B - sum_i phi(s_i),   phi(s) = r - sigma^2 - sigma^2 log((r + sigma^2) / (2 sigma^2)),
                                  r = sqrt(4 s^2 + sigma^4),   sigma^2 = epsilon / 2;   phi(s) = 2 s at epsilon = 0.

No matrix root is taken. Where the distance is near zero, the terms of this sum cancel; the value is then computed as
|F_a U V' - F_b|^2, whose error is of second order in the error of U and V. First and second derivatives divide by sums
of singular values only, never by differences, so that repeated singular values are harmless. Everything is computed in
units of the problem's own (`units`), because s^2 and sigma^4 are fourth powers of lengths and easily leave float32.

Off a CPU, where the singular values of a batch of matrices above 32 x 32 are found one matrix after the other, values
at epsilon = 0 and their gradients in factors take sum_i s_i = <X, U V'> and U V' by products alone (`polar`).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from otgen.ot.gaussian.factors import Factors, after, factor, left_inverse
from otgen.ot.gaussian.polar import polar
from otgen.ot.gaussian.units import of_lengths, sizes, unit
from otgen.ot.products import product
from otgen.sizes import here
from otgen.types import Array

CLOSE = 20.0  # times eps^(1/3) (.1 in float32): below this share of tr A + tr B too many digits of the sum cancel
PIECE = 2**20  # numbers in a piece of a batch, at least: they fit a cache


class Spectrum(NamedTuple):
    """Singular values and vectors of X = F_a' F_b, and two functions of the values that phi and its derivatives need.

    Attributes:
      u: [..., p, k].
      s: [..., k], largest first.
      v: [..., q, k].
      r: sqrt(4 s^2 + sigma^4) [..., k].
      weight: phi'(s) / s = 4 / (r + sigma^2), zero for values at rounding level if sigma is zero [..., k].
    """

    u: Array
    s: Array
    v: Array
    r: Array
    weight: Array


def spectrum(x: Array, sigma_sq: Array) -> Spectrum:
    """Return the singular value decomposition of [..., p, q] matrices, without a derivative; sigma^2 [] or [...]."""
    x, sigma_sq = jax.lax.stop_gradient((x, sigma_sq[..., None]))
    u, s, vt = jnp.linalg.svd(x, full_matrices=False)
    r = jnp.hypot(2 * s, sigma_sq)
    rounding = max(x.shape[-2:]) * jnp.finfo(x.dtype).eps * s[..., :1]
    below = r + sigma_sq
    return Spectrum(u, s, vt.mT, r, _ratio(4.0, below, below > 2 * rounding))


def _ratio(top: Array | float, bottom: Array, legal: Array, other: Array | float = 0.0) -> Array:
    return jnp.where(legal, top / jnp.where(legal, bottom, 1.0), other)


def _value(fa: Array, fb: Array, sigma_sq: Array | None) -> Array:
    """Return the value from factors [..., d, p], [..., d, q]; None for sigma^2 = 0."""
    batch = fa.shape[:-2]
    fa, fb = fa.reshape(-1, *fa.shape[-2:]), fb.reshape(-1, *fb.shape[-2:])
    size = jnp.maximum(sizes(fa), sizes(fb))
    length = unit(size if sigma_sq is None else jnp.maximum(size, jnp.sqrt(sigma_sq)))
    fa, fb, length = fa / length, fb / length, length[:, 0, 0]
    if sigma_sq is None:
        values = jax.lax.platform_dependent(
            fa, fb, cpu=lambda fa, fb: _by_singular_values(fa, fb)[0], default=_by_products
        )
        return (values * length * length).reshape(batch)
    sigma_sq = sigma_sq / length / length
    values, s = _by_singular_values(fa, fb)
    # 2 s - phi(s), as two terms that are not negative
    r = jnp.hypot(2 * s, sigma_sq[:, None])
    missing = _ratio(4 * s * sigma_sq[:, None], 2 * s + sigma_sq[:, None] + r, r + s > 0)
    missing = jnp.sum(missing, -1) + sigma_sq * _log_ratio(s, r, sigma_sq)
    return ((values + missing) * length * length).reshape(batch)


def _by_singular_values(fa: Array, fb: Array) -> tuple[Array, Array]:
    """Return the value at sigma = 0, and s. Singular vectors are found only where the sum cancels."""
    s = jnp.linalg.svd(product(fa.mT, fb), compute_uv=False)
    plain, close = _plain(fa, fb, jnp.sum(s, -1))
    num = fa.shape[0]
    size = min(num, here().together)
    order = jnp.argsort(~close, stable=True)

    def more(carry: tuple[Array, Array]) -> Array:
        at, _ = carry
        return (at < num) & (at < jnp.sum(close))

    def one_chunk(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        at, values = carry
        index = jax.lax.dynamic_slice(order, (jnp.minimum(at, num - size),), (size,))
        # without `after` XLA would compute it before the loop, needed or not
        near, other = after(fa[index], values), fb[index]
        exact = _residual(near, other, polar(product(near.mT, other)))
        return at + size, values.at[index].set(jnp.where(close[index], exact, values[index]))

    return jax.lax.while_loop(more, one_chunk, (jnp.int32(0), plain))[1], s


def _by_products(fa: Array, fb: Array) -> Array:
    """Return the value at sigma = 0 by polar factors."""
    x = product(fa.mT, fb)
    turn = polar(x)
    plain, close = _plain(fa, fb, _inner(x, turn))
    return jnp.where(close, _residual(fa, fb, turn), plain)


def _plain(fa: Array, fb: Array, overlap: Array) -> tuple[Array, Array]:
    """Return tr A + tr B - 2 sum_i s_i, and where too many digits of it cancel."""
    total = jnp.sum(fa**2, (-2, -1)) + jnp.sum(fb**2, (-2, -1))
    plain = total - 2 * overlap
    return plain, plain < CLOSE * jnp.finfo(plain.dtype).eps ** (1 / 3) * total


def _residual(fa: Array, fb: Array, turn: Array) -> Array:
    """Return |F_a U V' - F_b|^2 and what of F_a it leaves out, given U V'."""
    if fa.shape[-1] > fb.shape[-1]:
        fa, fb, turn = fb, fa, turn.mT
    turned = product(fa, turn)
    return jnp.sum((turned - fb) ** 2, (-2, -1)) + jnp.sum((fa - product(turned, turn.mT)) ** 2, (-2, -1))


def _inner(left: Array, right: Array) -> Array:
    return jnp.sum(left * right, (-2, -1))


def _log_ratio(s: Array, r: Array, sigma_sq: Array) -> Array:
    """Return sum_i log((r + sigma^2) / (2 sigma^2)), the derivative of the value in sigma^2."""
    sigma_sq = sigma_sq[..., None]
    return jnp.sum(jnp.log1p(_ratio(2 * s**2, (r + sigma_sq) * sigma_sq, sigma_sq > 0)), -1)


@jax.custom_jvp
def _of_factors(fa: Array, fb: Array, sigma_sq: Array | None = None) -> Array:
    return _value(fa, fb, sigma_sq)


@_of_factors.defjvp
def _of_factors_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    fa, fb, sigma_sq = primals
    da, db, dsigma_sq = tangents
    slope, growth = overlap_slope(product(fa.mT, fb), sigma_sq)
    along = _inner(2 * fa - product(fb, slope.mT), da) + _inner(2 * fb - product(fa, slope), db)
    along = along if sigma_sq is None else along + growth * dsigma_sq
    return _of_factors(after(fa, slope), fb, sigma_sq), along


def overlap_slope(x: Array, sigma_sq: Array | None) -> tuple[Array, Array]:
    """Return the gradient U phi'(S) V' of sum_i phi(s_i) in X [..., p, q], and minus that in sigma^2.

    At sigma = 0, told by None, the gradient is twice the polar factor.
    """
    # both gradients are homogeneous of degree zero
    size = unit(sizes(x) if sigma_sq is None else jnp.maximum(sizes(x), sigma_sq))
    return _overlap_slope(x / size, None if sigma_sq is None else sigma_sq / size[..., 0, 0])


@jax.custom_jvp
def _overlap_slope(x: Array, sigma_sq: Array | None) -> tuple[Array, Array]:
    if sigma_sq is None:
        slope = jax.lax.platform_dependent(
            x, cpu=lambda x: _slope(spectrum(x, jnp.zeros((), x.dtype))), default=lambda x: 2 * polar(x)
        )
        return slope, jnp.zeros(x.shape[:-2], x.dtype)
    of = spectrum(x, sigma_sq)
    return _slope(of), _log_ratio(of.s, of.r, sigma_sq)


def _slope(of: Spectrum) -> Array:
    return product(of.u * (of.weight * of.s)[..., None, :], of.v.mT)


@_overlap_slope.defjvp
def _overlap_slope_jvp(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    # A = U' dX V is split into its symmetric and its skew part. The symmetric part is multiplied by the divided
    # differences of phi', the skew part by (phi'_i + phi'_j) / (s_i + s_j), and the part of dX outside of U and V by
    # phi'_i / s_i. The divided differences of phi' = 4 s / (r + sigma^2) are written without a difference.
    x, given = primals
    dx, dsigma_sq = tangents
    sigma_sq = jnp.zeros((), x.dtype) if given is None else given
    dsigma_sq = jnp.zeros_like(sigma_sq) if given is None else dsigma_sq
    of = spectrum(x, sigma_sq)
    u, s, v, r, weight = of
    square, dsigma_sq = jax.lax.stop_gradient(sigma_sq)[..., None, None], jnp.asarray(dsigma_sq)
    inside = product(product(u.mT, dx), v)
    (si, sj), (ri, rj), (wi, wj) = _pair(s), _pair(r), _pair(weight)
    cross = si * rj + sj * ri
    even = 0.25 * wi * wj * (square + _ratio(square**2 * (si + sj), cross, cross > 0, square))
    # for pairs of which one lies outside of the rank, as in `rows` below
    even += jnp.where((wi == 0) | (wj == 0), wi + wj, 0.0)
    odd = _ratio(si * wi + sj * wj, si + sj, si + sj > 0, 0.5 * (wi + wj))
    middle = 0.5 * (even * (inside + inside.mT) + odd * (inside - inside.mT))
    drift = _ratio(-s * weight, r, r > 0) * dsigma_sq[..., None]
    middle = middle + drift[..., None, :] * jnp.eye(s.shape[-1], dtype=s.dtype)
    rows = weight[..., :, None] * (product(u.mT, dx) - product(inside, v.mT))
    columns = (product(dx, v) - product(u, inside)) * weight[..., None, :]
    dslope = product(product(u, middle), v.mT) + product(u, rows) + product(columns, v.mT)
    dsquare = 2 * s * _diagonal(inside)
    return _overlap_slope(after(x, s), given), (dslope, _log_ratio_change(of, square[..., 0], dsquare, dsigma_sq))


def _log_ratio_change(of: Spectrum, square: Array, dsquare: Array, dsigma_sq: Array) -> Array:
    """Return the derivatives of `_log_ratio` in s_i^2 and in sigma^2."""
    change = jnp.sum(_ratio(0.5 * of.weight * dsquare, of.r, of.r > 0), -1)
    own = _ratio(of.s**2 * of.weight, of.r * square, square > 0)  # 1 / sigma^2 - 1 / r
    return change - jnp.sum(own, -1) * dsigma_sq


def _diagonal(matrices: Array) -> Array:
    return jnp.diagonal(matrices, axis1=-2, axis2=-1)


def _pair(values: Array) -> tuple[Array, Array]:
    return values[..., :, None], values[..., None, :]


def _factors(a: Array, b: Array) -> tuple[Factors, Factors]:
    first = factor(a)
    return first, factor(after(b, first.values[..., 0, 0]))


@jax.custom_jvp
def _of_covariances(a: Array, b: Array, sigma_sq: Array | None = None) -> Array:
    d, batch = a.shape[-1], a.shape[:-2]
    a, b = a.reshape(-1, d, d), b.reshape(-1, d, d)
    pieces = min(here().pieces, max(1, a.size // PIECE))
    found = [jnp.zeros(0, a.dtype)]
    for one, other in zip(jnp.array_split(a, pieces), jnp.array_split(b, pieces), strict=True):
        fa, fb = _factors(after(one, found[-1]), other)
        found.append(_value(fa.values, fb.values, sigma_sq))
    return jnp.concatenate(found).reshape(batch)


@_of_covariances.defjvp
def _of_covariances_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    a, b, sigma_sq = primals
    da, db, dsigma_sq = tangents
    there, back, growth = gains(a, b, jnp.zeros((), a.dtype) if sigma_sq is None else sigma_sq)
    along = jnp.trace(da, axis1=-2, axis2=-1) - _inner(there, da)
    along += jnp.trace(db, axis1=-2, axis2=-1) - _inner(back, db)
    along = along if sigma_sq is None else along + growth * dsigma_sq
    return _of_covariances(after(a, there), b, sigma_sq), along


def gains(a: Array, b: Array, sigma_sq: Array) -> tuple[Array, Array, Array]:
    """Return K with K A K + sigma^2 K = B, the same with A and B exchanged, and the value's derivative in sigma^2.

    x -> K x is the conditional mean of the optimal plan given x; for sigma = 0 it is the optimal map.
    """
    unit_a, unit_b = of_lengths(a), of_lengths(b)
    of_x = (sigma_sq / unit_a[..., 0, 0]) / unit_b[..., 0, 0]
    there, back, growth = _gains(a / unit_a / unit_a, b / unit_b / unit_b, of_x)
    return there * (unit_b / unit_a), back * (unit_a / unit_b), growth


@jax.custom_jvp
def _gains(a: Array, b: Array, sigma_sq: Array) -> tuple[Array, Array, Array]:
    fa, fb = (of.values for of in _factors(a, b))
    of = spectrum(product(fa.mT, fb), sigma_sq)
    return _gain(product(fb, of.v), of), _gain(product(fa, of.u), of), _log_ratio(of.s, of.r, sigma_sq)


def _gain(columns: Array, of: Spectrum) -> Array:
    return product(columns * (0.5 * of.weight)[..., None, :], columns.mT)


@_gains.defjvp
def _gains_jvp(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    # K = C g C' with C = F_b V and g = 2 / (r + sigma^2). In the basis of C the linearised equation for K is diagonal:
    # (C^+ dK C^+')_ij (r_i + r_j) / 2 = (C^+ dB C^+' - g C' dA C g - d(sigma^2) g)_ij.
    a, b, sigma_sq = primals
    da, db, dsigma_sq = tangents
    first, second = _factors(a, b)
    fa, fb = first.values, second.values
    of = spectrum(product(fa.mT, fb), sigma_sq)
    ga = left_inverse(Factors(after(fa, of.s), first.order))
    gb = left_inverse(Factors(after(fb, ga), second.order))
    dsigma_sq = jnp.asarray(dsigma_sq)

    def change(columns: Array, inverse: Array, own: Array, other: Array) -> Array:
        g = 0.5 * of.weight
        right = product(product(inverse, own), inverse.mT)
        right -= g[..., :, None] * product(product(columns.mT, other), columns) * g[..., None, :]
        right -= dsigma_sq[..., None, None] * g[..., None, :] * jnp.eye(g.shape[-1], dtype=g.dtype)
        ri, rj = _pair(of.r)
        alive = _pair(of.weight)
        middle = _ratio(2 * right, ri + rj, (alive[0] > 0) | (alive[1] > 0))
        return product(product(columns, middle), columns.mT)

    c, d = product(fb, of.v), product(fa, of.u)
    dthere = change(c, product(of.v.mT, gb), db, da)
    dback = change(d, product(of.u.mT, ga), da, db)
    dsquare = _diagonal(product(product(c.mT, da), c)) + _diagonal(product(product(d.mT, db), d))
    dgrowth = _log_ratio_change(of, jax.lax.stop_gradient(sigma_sq)[..., None], dsquare, dsigma_sq)
    return _gains(after(a, gb), b, sigma_sq), (dthere, dback, dgrowth)


@jax.custom_jvp
def cross_covariance(a: Array, b: Array) -> Array:
    """Return E x y' = A T of the optimal plan between N(0, A) and N(0, B), without an inverse."""
    fa, fb = (of.values for of in _factors(a, b))

    def by_singular_vectors(fa: Array, fb: Array) -> Array:
        of = spectrum(product(fa.mT, fb), jnp.zeros((), fa.dtype))
        return product(product(fa, of.u), product(fb, of.v).mT)

    def by_products(fa: Array, fb: Array) -> Array:
        return product(product(fa, polar(product(fa.mT, fb))), fb.mT)

    return jax.lax.platform_dependent(fa, fb, cpu=by_singular_vectors, default=by_products)


@cross_covariance.defjvp
def _cross_covariance_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    a, b = primals
    zero = jnp.zeros((), a.dtype)
    (there, _, _), (change, _, _) = jax.jvp(lambda a, b: gains(a, b, zero), primals, tangents)
    return cross_covariance(after(a, there), b), product(tangents[0], there) + product(a, change)


of_factors, of_covariances = jax.jit(_of_factors), jax.jit(_of_covariances)
