"""Critical points of deep linear generators, by enumeration, by closed forms and by automatic differentiation."""

import itertools

import jax
import numpy as np
import pytest

from otgen.theory import critical
from otgen.theory.dynamics import descend, end_to_end, imbalance, loss

pytestmark = pytest.mark.usefixtures("x64")

LAM = (5.0, 3.0, 2.0, 1.0, 0.5)
TABLE = {  # lam = (4, 2, 1, .5), n = m = 4, N = 2, tau = .01: extremal Hessian eigenvalues, Bures and Frobenius
    (0, 1, 2, 3): (0, 7.970, 0, 128.0),
    (1, 2, 3): (-7.000, 5.614, -12.0, 45.26),
    (0, 2, 3): (-3.274, 7.970, -4.243, 128.0),
    (0, 1, 3): (-1.167, 7.970, -1.414, 128.0),
    (0, 1, 2): (0, 7.970, 0, 128.0),
    (3,): (-7.000, 2.744, -9.899, 5.657),
    (): (0, 0, 0, 0),
}


def covariance(eigenvalues, seed=0):
    n = len(eigenvalues)
    vectors = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]
    return (vectors * np.asarray(eigenvalues)) @ vectors.T


def test_best_and_worst():
    points = critical.critical_points(LAM, 2)
    assert points.subsets.shape == (10, 2)
    assert points.subsets[0].tolist() == [0, 1]
    assert points.subsets[-1].tolist() == [3, 4]
    assert points.values[0] == pytest.approx(3.5, abs=1e-12)
    assert points.values[-1] == pytest.approx(10.0, abs=1e-12)


@pytest.mark.parametrize(("rank", "tau"), [(1, 0.8), (3, 0.0), (3, 0.1), (3, 0.8), (6, 0.1), (7, 0.0), (7, 0.8)])
def test_points_are_those_of_an_enumeration(rank, tau):
    lam = np.sort(np.random.default_rng(rank).gamma(1.0, size=7))[::-1]

    def value(subset):
        return sum((lam[i] ** 0.5 - tau**0.5) ** 2 for i in range(7) if i not in subset or lam[i] < tau)

    points = critical.critical_points(covariance(lam), rank, tau=tau)
    subsets = list(itertools.combinations(range(7), rank))
    assert sorted(map(tuple, points.subsets.tolist())) == subsets
    np.testing.assert_allclose(points.values, sorted(map(value, subsets)), atol=1e-12)
    np.testing.assert_allclose(points.values, [value(subset) for subset in points.subsets.tolist()], atol=1e-12)
    np.testing.assert_allclose(points.values[0], critical.minimum(covariance(lam), rank, tau), atol=1e-12)
    few = critical.critical_points(lam, rank, tau=tau, num=5)
    np.testing.assert_allclose(few.values, points.values[:5], atol=1e-12)


def test_some_of_very_many():
    lam = np.linspace(9, 1, 60)
    points = critical.critical_points(lam, 30, num=200)  # of 1.2e17
    assert points.subsets[0].tolist() == list(range(30))
    assert len(set(map(tuple, points.subsets.tolist()))) == 200
    assert (np.diff(points.values) >= 0).all()
    np.testing.assert_allclose(points.values[1] - points.values[0], 8 / 59, rtol=1e-9)
    with pytest.raises(ValueError, match="118264581564861424 critical points: give num"):
        critical.critical_points(lam, 30)


@pytest.mark.slow
def test_twenty_seeds_reach_the_minimum():
    target = covariance(LAM)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        weights = (0.5 * rng.normal(size=(2, 5)), 0.5 * rng.normal(size=(5, 2)))
        path = descend(weights, target, step_size=0.05, num_steps=600, record_every=600)
        assert path.losses[-1] == pytest.approx(3.5, abs=1e-6), seed
    cov = end_to_end([layer[-1] for layer in path.weights])
    np.testing.assert_allclose(cov @ cov.T, critical.minimiser(target, 2), atol=1e-3)


@pytest.mark.parametrize("tau", [0.3, pytest.param(0.05, marks=pytest.mark.slow)])
def test_minimum_of_the_perturbed_loss(tau):
    lam, target = np.asarray(LAM), covariance(LAM)
    expected = np.sum((lam[2:] ** 0.5 - tau**0.5) ** 2)
    assert critical.minimum(target, 2, tau) == pytest.approx(expected, abs=1e-9)
    weights = critical.weights_at(target, (0, 1), (3, 4, 2, 5), tau)
    assert loss(weights, target, tau=tau) == pytest.approx(expected, abs=1e-9)
    w = end_to_end(weights)
    np.testing.assert_allclose(w @ w.T, critical.minimiser(target, 2, tau), atol=1e-12)
    assert imbalance(weights) < 1e-12
    assert jax.jit(lambda s, t: critical.minimum(s, 2, t))(target, tau) == pytest.approx(expected, abs=1e-9)


def test_an_eigenvalue_below_tau_cannot_be_kept():
    target = covariance((2.0, 0.1, 0.05, 0.04, 0.03))
    expected = sum((lam**0.5 - 0.2**0.5) ** 2 for lam in (0.1, 0.05, 0.04, 0.03))
    assert critical.minimum(target, 2, 0.2) == pytest.approx(expected, abs=1e-12)
    weights = critical.weights_at(target, (0, 1), (3, 4, 2, 5), 0.2)
    assert loss(weights, target, tau=0.2) == pytest.approx(expected, abs=1e-12)
    assert np.linalg.matrix_rank(np.asarray(critical.minimiser(target, 2, 0.2))) == 1


@pytest.mark.parametrize("kept", TABLE)
def test_hessian_table(kept):
    for kind, low, high in zip(("bures", "frobenius"), TABLE[kept][::2], TABLE[kept][1::2], strict=True):
        values = critical.hessian_spectrum((4, 2, 1, 0.5), kept, (4, 4, 4), tau=0.01, kind=kind)
        np.testing.assert_allclose((values[0], values[-1]), (low, high), rtol=3e-4, atol=1e-9)


@pytest.mark.parametrize("depth", [1, 2, 3, 10])
def test_largest_curvature_at_the_minimiser(depth):
    widths, tau, power = (4,) * (depth + 1), 0.01, (2 * depth - 1) / depth
    bures = critical.hessian_spectrum((4, 2, 1, 0.5), range(4), widths, tau=tau)[-1]
    frobenius = critical.hessian_spectrum((4, 2, 1, 0.5), range(4), widths, kind="frobenius")[-1]
    assert bures == pytest.approx(2 * depth * (4 - tau) ** power / 4, rel=1e-12)
    assert frobenius == pytest.approx(8 * depth * 4**power, rel=1e-12)


@pytest.mark.parametrize("depth", [2, 5, 10])
def test_least_curvature_is_half_the_local_rate(depth):
    values = critical.hessian_spectrum((4, 2, 1, 0.5), range(4), (4,) * (depth + 1), tau=0.1)
    power = (2 * depth - 1) / depth
    assert values[values > 1e-9].min() == pytest.approx(2 * depth * 0.4**power / 0.5, rel=1e-9)


def check_spectrum(widths, tau, kind):
    target = covariance((4.0, 2.0, 1.0, 0.5))
    width = min(widths)
    sizes = [width] if kind == "bures" and tau == 0 else range(width + 1)
    for subset in itertools.chain.from_iterable(itertools.combinations(range(4), size) for size in sizes):
        weights = critical.weights_at(target, subset, widths, tau if kind == "bures" else 0.0)
        exact = np.linalg.eigvalsh(critical.hessian(weights, target, tau=tau, kind=kind))
        closed = critical.hessian_spectrum(target, subset, widths, tau=tau, kind=kind)
        np.testing.assert_allclose(closed, exact, atol=1e-10, err_msg=f"{subset}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bures", "frobenius"])
def test_spectra_agree_with_automatic_differentiation(kind):
    check_spectrum((6, 5, 3, 4), 0.05, kind)


def test_spectra_at_tau_zero():
    check_spectrum((6, 5, 3, 4), 0.0, "bures")


@pytest.mark.slow
@pytest.mark.parametrize("widths", [(4, 4), (6, 4), (3, 4), (4, 4, 4), (2, 3, 4), (5, 6, 7, 4), (4, 2, 4), (7, 1, 4)])
@pytest.mark.parametrize("tau", [0.0, 0.05, 0.7])
@pytest.mark.parametrize("kind", ["bures", "frobenius"])
def test_spectra_of_many_shapes(widths, tau, kind):
    check_spectrum(widths, tau, kind)


def test_critical_points_are_critical():
    target = covariance(LAM)
    slope = jax.jit(jax.grad(lambda w, tau, kind: loss(w, target, tau=tau, kind=kind)), static_argnames="kind")
    for subset in itertools.combinations(range(5), 2):
        for tau, kind in ((0.0, "bures"), (0.1, "bures"), (0.0, "frobenius")):
            weights = critical.weights_at(target, subset, (4, 2, 5), tau)
            gradient = slope(weights, tau, kind=kind)
            assert max(np.abs(layer).max() for layer in gradient) < 1e-9
    values = [loss(critical.weights_at(target, s, (4, 2, 5)), target) for s in itertools.combinations(range(5), 2)]
    np.testing.assert_allclose(np.sort(values), critical.critical_points(target, 2).values, atol=1e-9)


def test_curvature_grows_by_ten_a_decade():
    rng = np.random.default_rng(0)
    u, v = np.linalg.qr(rng.normal(size=(3, 3)))[0], np.linalg.qr(rng.normal(size=(4, 4)))[0]
    target = covariance((2.0, 1.0, 0.5))
    least = []
    for sigma in (1e-1, 1e-2, 1e-3):
        w = (u * np.array([1.5, 1.0, sigma])) @ v[:3]
        least.append(np.linalg.eigvalsh(critical.hessian((w,), target))[0])
    assert least[1] / least[0] == pytest.approx(10, rel=0.2)
    assert least[2] / least[1] == pytest.approx(10, rel=0.02)


def test_curvature_of_a_dead_direction():
    for tau, expected in ((0.01, -12.14), (0.1, -2.47)):
        values = critical.hessian_spectrum((4, 2, 1, 0.5), (0, 1, 2), (4, 4), tau=tau)
        assert np.abs(values - expected).min() < 0.005
        assert np.abs(values - 2 * (1 - np.sqrt(0.5 / tau))).min() < 1e-12


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="give a rank from 1 to 5"):
        critical.critical_points(LAM, 0)
    with pytest.raises(ValueError, match="give a rank from 1 to 5"):
        critical.minimum(LAM, 6)
    with pytest.raises(ValueError, match="zero or more"):
        critical.minimum(LAM, 2, -0.1)
    with pytest.raises(ValueError, match="at least 1"):
        critical.critical_points(LAM, 2, num=0)
    with pytest.raises(ValueError, match="eigenvalue of -1"):
        critical.critical_points((1.0, -1.0), 1)
    with pytest.raises(ValueError, match="not differentiable"):
        critical.hessian_spectrum(LAM, (0,), (5, 2, 5))
    with pytest.raises(ValueError, match="the loss = 'burse'"):
        critical.hessian_spectrum(LAM, (0,), (5, 2, 5), tau=0.1, kind="burse")
    with pytest.raises(ValueError, match="the last equal to 5"):
        critical.weights_at(LAM, (0,), (5, 2, 4))
    with pytest.raises(ValueError, match="keeps 3 eigenvalues"):
        critical.weights_at(LAM, (0, 1, 2), (5, 2, 5))
    with pytest.raises(ValueError, match="different indices"):
        critical.weights_at(LAM, (0, 0), (5, 2, 5))
    with pytest.raises(ValueError, match="give covariances"):
        critical.minimiser(np.ones((3, 2)), 1)
