"""The Bures distance against matrix roots in float64, its derivatives, float32 at its limits, entropic Gaussians."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

import otgen as og
from otgen.ot.gaussian import spectrum
from tests.support.covariances import random_covariance, with_condition

gaussian = og.gaussian


def reference(a, b):
    root = sqrtm(a)
    return np.trace(a + b - 2 * sqrtm(root @ b @ root)).real


def of_factors(a, b):
    """|a|^2 + |b|^2 - 2 |a' b|_* in float64, over leading axes."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return (a**2).sum((-1, -2)) + (b**2).sum((-1, -2)) - 2 * np.linalg.svd(a.mT @ b, compute_uv=False).sum(-1)


def root(cov):
    values, basis = np.linalg.eigh(cov)
    return basis * np.sqrt(np.maximum(values, 0))[..., None, :]


value_and_slope = jax.jit(jax.value_and_grad(gaussian.bures_sq))


def finite_differences(function, order, h=1e-4):
    """First or second derivative at 0, of fourth order in h."""
    at = [np.asarray(function(k * h)) for k in (-2, -1, 0, 1, 2)]
    if order == 1:
        return (at[0] - 8 * at[1] + 8 * at[3] - at[4]) / (12 * h)
    return (-at[0] + 16 * at[1] - 30 * at[2] + 16 * at[3] - at[4]) / (12 * h**2)


@pytest.mark.parametrize("d", [1, 7, 40])
def test_equals_matrix_roots(x64, d):
    a, b = random_covariance(d, 0), random_covariance(d, 1)
    np.testing.assert_allclose(gaussian.bures_sq(a, b), reference(a, b), rtol=1e-9)
    np.testing.assert_allclose(gaussian.bures_sq(a, b), gaussian.bures_sq(b, a), rtol=1e-12)


@pytest.mark.parametrize(("p", "q", "n"), [(6, 6, 6), (2, 3, 6), (8, 4, 5), (1, 1, 3)])
def test_factors_and_covariances_agree(x64, p, q, n):
    random = np.random.default_rng(p)
    fa, fb = random.normal(size=(n, p)), random.normal(size=(n, q))
    found = gaussian.bures_sq_factors(fa, fb)
    np.testing.assert_allclose(found, gaussian.bures_sq(fa @ fa.T, fb @ fb.T), rtol=1e-6)  # singular: roots of 1e-16
    np.testing.assert_allclose(found, of_factors(fa, fb), atol=1e-12)
    if p == q == n:  # Procrustes
        u, _, vt = np.linalg.svd(fa.T @ fb)
        np.testing.assert_allclose(found, np.sum((fa @ u @ vt - fb) ** 2), atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "epsilon"),
    [
        ("covariances", 0.0),
        ("covariances", 0.7),
        ((3, 6, 6), 0.0),
        ((8, 4, 5), 0.7),
        *(
            pytest.param(shape, epsilon, marks=pytest.mark.slow)
            for shape in ((6, 6, 6), (3, 6, 6), (8, 4, 5), (4, 8, 5))
            for epsilon in (0.0, 0.7)
        ),
    ],
)
def test_derivatives_of_both_orders(x64, shape, epsilon):
    random = np.random.default_rng(1)
    if shape == "covariances":
        a, b = random_covariance(5, 0), random_covariance(5, 1)
        da, db = random_covariance(5, 2) - np.eye(5), random_covariance(5, 3) - np.eye(5)
    else:
        p, q, n = shape
        a, b, da, db = (random.normal(size=(n, width)) for width in (p, q, p, q))
    drift = 0.3 * (epsilon > 0)

    def value(t):
        at, bt = a + t * da, b + t * db
        if shape == "covariances":
            return gaussian.entropic_bures_sq(at, bt, epsilon=epsilon + t * drift)
        if epsilon == 0:
            return gaussian.bures_sq_factors(at, bt)
        return og.ot.gaussian.bures.of_factors(at, bt, 0.5 * (epsilon + t * drift))

    slope = jax.jit(jax.grad(value))
    np.testing.assert_allclose(slope(0.0), finite_differences(value, 1), rtol=1e-7, atol=1e-8)
    expected = finite_differences(slope, 1)
    np.testing.assert_allclose(jax.grad(slope)(0.0), expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(jax.jvp(slope, (0.0,), (1.0,))[1], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("n", "m", "tau"),
    [
        (5, 8, 0.0),
        (6, 3, 0.1),
        *(pytest.param(n, m, tau, marks=pytest.mark.slow) for n, m in ((6, 6), (5, 8), (6, 3)) for tau in (0.0, 0.1)),
    ],
)
def test_gradients_of_the_paper(x64, n, m, tau):
    random = np.random.default_rng(n + m)
    w, root = jnp.asarray(random.normal(size=(n, m))), np.linalg.cholesky(random_covariance(n, 3))
    found = jax.grad(lambda w: gaussian.perturbed_bures_sq_factors(w, root, tau=tau))(w)
    if tau or m >= n:
        target = root @ root.T
        inner = np.linalg.inv(sqrtm(root.T @ (w @ w.T + tau * np.eye(n)) @ root).real)
        np.testing.assert_allclose(found, 2 * (w - root @ inner @ root.T @ w), atol=1e-9)
        np.testing.assert_allclose(
            gaussian.perturbed_bures_sq_factors(w, root, tau=tau),
            gaussian.bures_sq(w @ w.T + tau * np.eye(n), target),
            rtol=1e-9,
        )
    direction = random.normal(size=(n, m))
    value = lambda t: gaussian.perturbed_bures_sq_factors(w + t * direction, root, tau=tau)  # noqa: E731
    np.testing.assert_allclose(np.sum(found * direction), finite_differences(value, 1), rtol=1e-7)


@pytest.mark.parametrize(
    ("d", "condition"),
    [
        (64, 1e6),
        *(pytest.param(d, condition, marks=pytest.mark.slow) for d in (16, 64, 512) for condition in (1e2, 1e4, 1e6)),
    ],
)
def test_float32_distance_to_itself_vanishes(d, condition):
    a = with_condition(d, condition, 0).astype(np.float32)
    value, slope = value_and_slope(a, a)
    assert 0 <= value <= 1e-6 * np.trace(a)
    assert np.isfinite(slope).all()


@pytest.mark.parametrize("d", [64, pytest.param(16, marks=pytest.mark.slow), pytest.param(256, marks=pytest.mark.slow)])
def test_float32_in_the_cancellation_regime(d):
    random = np.random.default_rng(0)
    root = np.linalg.cholesky(with_condition(d, 1e5, 0))
    other = root + 0.01 * np.linalg.norm(root) / d * random.normal(size=(d, d))
    root, other = root.astype(np.float32), other.astype(np.float32)
    expected = of_factors(root, other)
    assert expected < 1e-4 * np.sum(root**2)
    np.testing.assert_allclose(gaussian.bures_sq_factors(root, other), expected, rtol=1e-5)


@pytest.mark.parametrize("d", [64, pytest.param(16, marks=pytest.mark.slow)])
def test_float32_covariances_in_the_cancellation_regime(d):
    # the factors of the covariances are rounded too: 2 sqrt(tr A / B^2) roundings
    one = np.linalg.cholesky(with_condition(d, 1e5, 0))
    other = one + 0.1 * np.linalg.norm(one) / d * np.random.default_rng(0).normal(size=(d, d))
    a, b = (one @ one.T).astype(np.float32), (other @ other.T).astype(np.float32)
    expected = of_factors(*(root(cov.astype(np.float64)) for cov in (a, b)))
    assert expected < 1e-2 * np.trace(a)
    np.testing.assert_allclose(value_and_slope(a, b)[0], expected, rtol=1e-5)


def test_singular_covariances_in_float32():
    d, rank = 64, 20
    a, b = random_covariance(d, 0, rank), random_covariance(d, 1)
    fa = np.random.default_rng(0).normal(size=(d, rank)) / np.sqrt(rank)
    expected = of_factors(fa, np.linalg.cholesky(b))
    eye, zero = np.eye(d, dtype=np.float32), np.zeros((d, d), np.float32)
    found = value_and_slope(a.astype(np.float32), b.astype(np.float32))
    np.testing.assert_allclose(found[0], expected, rtol=2e-4)
    of_zero = value_and_slope(zero, b.astype(np.float32))
    for value, gradient in (found, of_zero):
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
    assert value_and_slope(zero, zero)[0] == 0
    assert np.isfinite(jax.jit(jax.grad(gaussian.bures_sq_factors))(zero, zero)).all()
    np.testing.assert_allclose(value_and_slope(zero, eye)[0], d, rtol=1e-6)


def test_hessians_where_singular_values_repeat():
    def value(w, root, tau):
        return gaussian.perturbed_bures_sq_factors(w, root, tau=tau)

    product = jax.jit(lambda w, *of: jax.jvp(lambda w: jax.grad(value)(w, *of), (w,), (jnp.ones_like(w),))[1])
    root = np.eye(4, dtype=np.float32)
    for w in (np.zeros((4, 5)), np.eye(4, 5), np.ones((4, 5))):
        assert np.isfinite(product(w.astype(np.float32), root, 0.3)).all()
    # at W = 0 each singular value has the curvature 2 (1 - sqrt(lam / tau))
    hessian = jax.jit(jax.hessian(value))(np.zeros((2, 2), np.float32), 0.5**0.5 * np.eye(2, dtype=np.float32), 0.01)
    np.testing.assert_allclose(hessian.reshape(4, 4), -12.142136 * np.eye(4), rtol=1e-5, atol=1e-4)


def test_the_hessian_in_the_covariance_blows_up_as_it_should(x64):
    # along the direction of a small standard deviation s: lam^1/2 / (2 s^3), a thousand times more per decade
    curvature = jax.jit(jax.grad(jax.grad(lambda t, cov, way, target: gaussian.bures_sq(cov + t * way, target))))
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    for least in (1e-1, 1e-2, 1e-3):
        cov, target = (basis * [1.0, 2.0, least**2]) @ basis.T, (basis * [3.0, 2.0, 0.5]) @ basis.T
        direction = np.outer(basis[:, 2], basis[:, 2])
        found = curvature(0.0, cov, direction, target)
        np.testing.assert_allclose(found, 0.5 * 0.5**0.5 / least**3, rtol=1e-6)


def test_hessians_of_a_bottleneck(x64):
    # W = B A of rank 2 in 4 x 5: dead singular values on both sides, which the layers never excite to first order
    random = np.random.default_rng(0)
    first, last, root = (random.normal(size=shape) for shape in ((2, 5), (4, 2), (4, 4)))
    one, other = random.normal(size=(2, 5)), random.normal(size=(4, 2))

    def value(t):
        return gaussian.bures_sq_factors((last + t * other) @ (first + t * one), root)

    slope = jax.jit(jax.grad(value))
    np.testing.assert_allclose(slope(0.0), finite_differences(value, 1), rtol=1e-7)
    np.testing.assert_allclose(jax.grad(slope)(0.0), finite_differences(slope, 1), rtol=1e-6)


@pytest.mark.slow
@given(d=st.sampled_from([2, 5]), seed=st.integers(0, 1000), rank=st.integers(1, 5))
@settings(max_examples=10, deadline=None)
def test_the_distance_is_a_metric(d, seed, rank):
    with jax.enable_x64(True):
        covs = np.stack([random_covariance(d, seed + k, min(rank, d)) for k in range(3)])
        distance = np.sqrt(gaussian.bures_sq(covs[:, None], covs[None]))
        np.testing.assert_allclose(np.diag(distance), 0, atol=1e-7)
        np.testing.assert_allclose(distance, distance.T, atol=1e-7)
        assert distance[0, 2] <= distance[0, 1] + distance[1, 2] + 1e-7
        basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]
        turned = np.sqrt(gaussian.bures_sq(basis @ covs[0] @ basis.T, basis @ covs[1] @ basis.T))
        np.testing.assert_allclose(turned, distance[0, 1], atol=1e-6)


def test_batches_close_pairs_and_transformations():
    a = np.stack([random_covariance(8, seed) for seed in range(150)])
    b = a * np.where(np.arange(150) % 3 == 0, 1.0001, 2.0)[:, None, None]  # every third pair is close
    b[7, 3] = b[7, :, 3] = 0  # and one is singular
    expected = of_factors(root(a), root(b))
    a, b = a.astype(np.float32), b.astype(np.float32)
    close = np.arange(150) % 3 == 0
    rtol = np.where(close, 5e-3, 2e-5)  # 1e-4 of the trace apart: the input's own rounding shows
    for of in (gaussian.bures_sq, jax.jit(gaussian.bures_sq), jax.vmap(gaussian.bures_sq)):
        assert np.all(abs(of(a, b) - expected) <= rtol * expected)
    assert gaussian.bures_sq(a[:2, None], b[None, :3]).shape == (2, 3)
    assert gaussian.bures_sq(a[:0], b[:0]).shape == (0,)


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [0.5, 0.02, 8.0])
def test_entropic_gaussians_against_sinkhorn_on_a_grid(x64, epsilon):
    x = np.linspace(-9, 9, 900)
    weights = [np.exp(-(x**2) / 2 / v) / np.exp(-(x**2) / 2 / v).sum() for v in (0.8, 1.7)]
    expected = og.sinkhorn.value(og.PairwiseCost(x[:, None], x[:, None]), *weights, epsilon=epsilon, tol=1e-9)
    found = gaussian.entropic_bures_sq(np.array([[0.8]]), np.array([[1.7]]), epsilon=epsilon)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_limits_of_entropic_gaussians(x64):
    a, b = random_covariance(4, 0), random_covariance(4, 1, 2)
    np.testing.assert_allclose(gaussian.entropic_bures_sq(a, b, epsilon=0.0), gaussian.bures_sq(a, b))
    np.testing.assert_allclose(gaussian.entropic_bures_sq(a, b, epsilon=1e-6), gaussian.bures_sq(a, b), rtol=1e-4)
    np.testing.assert_allclose(gaussian.entropic_bures_sq(a, b, epsilon=1e9), np.trace(a + b), rtol=1e-6)


def test_bad_input_is_refused():
    eye = np.eye(3)
    with pytest.raises(ValueError, match=r"not symmetric: \|cov - cov'\| is 0.5"):
        gaussian.bures_sq(eye + 0.5 * np.eye(3, k=1), eye)
    with pytest.raises(ValueError, match="indefinite: its smallest eigenvalue is -1"):
        gaussian.bures_sq(eye, np.diag([1.0, 1.0, -1.0]))
    with pytest.raises(ValueError, match="dimension 3 and cov_b 2"):
        gaussian.bures_sq(eye, np.eye(2))
    with pytest.raises(ValueError, match="square"):
        gaussian.bures_sq(np.ones((2, 3)), eye)
    with pytest.raises(ValueError, match="do not broadcast"):
        gaussian.bures_sq(np.stack([eye] * 2), np.stack([eye] * 3))
    with pytest.raises(ValueError, match="NaN"):
        gaussian.bures_sq(eye * np.nan, eye)
    with pytest.raises(ValueError, match="complex"):
        gaussian.bures_sq(eye * 1j, eye)
    with pytest.raises(ValueError, match="tau = -1"):
        gaussian.perturbed_bures_sq_factors(eye, eye, tau=-1)
    with pytest.raises(ValueError, match="epsilon"):
        gaussian.entropic_bures_sq(eye, eye, epsilon=-0.1)
    with pytest.raises(ValueError, match="factor_a"):
        gaussian.bures_sq_factors(np.ones(3), eye)
    tiny = eye - 1e-9 * np.diag([0.0, 0.0, 1.0 + 1e9])  # indefinite by rounding alone: taken
    assert np.isfinite(gaussian.bures_sq(tiny, eye))


def test_inside_jit_bad_numbers_give_nan():
    eye, distance = np.eye(3, dtype=np.float32), jax.jit(gaussian.bures_sq)
    broken, indefinite = eye.copy(), eye.copy()
    broken[0, 1] = broken[1, 0] = np.nan
    indefinite[0, 1] = indefinite[1, 0] = 2
    assert np.isnan(distance(broken, eye))
    assert np.isnan(distance(indefinite, eye))
    assert np.isnan(jax.jit(lambda tau: gaussian.perturbed_bures_sq_factors(eye, eye, tau=tau))(-1.0))
    several = np.stack([eye, np.nan * eye, np.diag([4.0, 0.0, 0.0])]).astype(np.float32)
    both = jax.vmap(gaussian.bures_sq)(several, np.stack([eye] * 3))
    np.testing.assert_allclose(both, [0.0, np.nan, 3.0], atol=1e-6)


@pytest.mark.parametrize(("d", "p", "q"), [(5, 5, 5), (64, 64, 64), (40, 3, 17)])
def test_the_products_of_accelerators_give_what_singular_values_give(d, p, q):
    """Of factors that are far, ill-conditioned, near, turned, of low rank, and zero."""
    draw = np.random.default_rng(0).normal
    far, other = draw(size=(2, d, p)), draw(size=(2, d, q))
    pairs = [(far, other), (far * np.logspace(0, -5, p), 1e3 * other), (far, np.zeros_like(other))]
    if p == q:
        turn = np.linalg.qr(draw(size=(p, p)))[0]
        pairs += [(far, far + 1e-3 * other), (far, far @ turn), (far * (np.arange(p) < 2), other)]
    fa, fb = (np.concatenate(parts).astype(np.float32) for parts in zip(*pairs, strict=True))
    scale = (fa**2).sum((1, 2)) + (fb**2).sum((1, 2))
    found, (known, _) = jax.jit(spectrum._by_products)(fa, fb), jax.jit(spectrum._by_singular_values)(fa, fb)
    np.testing.assert_allclose(found / scale, of_factors(fa, fb) / scale, rtol=0, atol=2e-6)
    np.testing.assert_allclose(found / scale, known / scale, rtol=1e-3, atol=1e-6)


def test_slopes_and_cross_covariances_of_accelerators_are_those_of_a_cpu(monkeypatch):
    fa, fb = np.random.default_rng(1).normal(size=(2, 6, 4)).astype(np.float32)
    a, b = random_covariance(5, 0).astype(np.float32), random_covariance(5, 1).astype(np.float32)

    def found():
        slopes = jax.jit(jax.grad(lambda *factors: spectrum._of_factors(*factors), argnums=(0, 1)))
        return *slopes(fa, fb), jax.jit(lambda *covs: spectrum.cross_covariance(*covs))(a, b)

    known = found()
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *args, cpu, default: default(*args))
    for ours, theirs in zip(found(), known, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_find_no_singular_values_one_by_one(platform):
    covs, means = jnp.stack([jnp.eye(64)] * 3), jnp.zeros((3, 64))
    mixture = og.mixture.Mixture(jnp.ones(3) / 3, means, covs)
    programs = (
        (gaussian.bures_sq, covs, covs),
        (jax.grad(lambda a, b: gaussian.bures_sq_factors(a, b).sum()), covs, covs),
        (jax.grad(lambda a, b: gaussian.frechet_distance(a, b)), covs[0], covs[0]),
        (gaussian.geodesic_cov, 0.5, covs, covs),
        (og.mixture.component_costs, mixture, mixture),
    )
    for function, *arguments in programs:
        text = jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
        assert not re.search("svd|svj|gesv|eigh|syev", text, re.I), function
    assert re.search("gesdd", jax.jit(gaussian.bures_sq).lower(covs, covs).as_text())  # what a CPU does better by
