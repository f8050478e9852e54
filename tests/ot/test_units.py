"""Results scale exactly with the units of the data: values and gradients at 1e-10 to 1e10 times the same points.

A row is a name, a function of points x [n, d], y [n, d] and their unit, and the power of the unit that the result is
to have. Everything that has a unit is made from the three: a covariance of the points, a temperature of the unit.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otgen as og
from otgen.eval import kernel
from otgen.ot.exact import assignment
from otgen.ot.gaussian.polar import polar
from otgen.theory import critical, dynamics

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(2, 12, 3)) @ np.diag([1.0, 0.7, 0.4])
Y = Y @ np.linalg.qr(RNG.normal(size=(3, 3)))[0] + np.array([1.0, 0.5, 0.0])
UNITS = (1e-10, 1e-5, 1e5, 1e10)
PLACES = np.array([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0], [4.0, 1.0, 0.0]])
SHARES = np.array([0.5, 0.2, 0.3])


@dataclasses.dataclass(frozen=True)
class Row:
    """What is to scale, and how: with gradient or without, and slow to compile or not."""

    name: str
    function: Callable
    power: int
    gradient: bool = True
    slow: bool = False


def cov(points):
    return og.costs.product(points.T, points) / points.shape[0]


def covs(points):
    return jnp.stack([cov(points), cov(points[:6]), cov(points[6:])])


def mixture(points, unit):
    return jnp.asarray(SHARES), unit * PLACES + points[:3], covs(points)


def value_line(x, y, unit):
    return og.exact.value_line(x[:, 0], y[:, 0])


gaussian, key = og.gaussian, jax.random.key(0)
ROWS = (
    Row("bures_sq", lambda x, y, _: gaussian.bures_sq(cov(x), cov(y)), 2),
    Row("bures_sq, close", lambda x, y, _: gaussian.bures_sq(cov(x), cov(1.2 * x)), 2, slow=True),
    Row("bures_sq_factors", lambda x, y, _: gaussian.bures_sq_factors(x.T, y.T), 2),
    Row("entropic_bures_sq", lambda x, y, u: gaussian.entropic_bures_sq(cov(x), cov(y), epsilon=0.3 * u**2), 2),
    Row("perturbed factors", lambda x, y, u: gaussian.perturbed_bures_sq_factors(x.T, y.T, tau=u**2), 2, slow=True),
    Row("w2_sq", lambda x, y, _: gaussian.w2_sq(x[0], cov(x), y[0], cov(y)), 2, slow=True),
    Row("frechet_distance", lambda x, y, _: gaussian.frechet_distance(x, y), 2),
    Row("moments", lambda x, y, _: gaussian.moments(x, gaussian.moments(y)).covariance(), 2, gradient=False),
    Row("map_matrix", lambda x, y, _: gaussian.map_matrix(cov(x), cov(y)), 0, slow=True),
    Row("map_matrix to units", lambda x, y, u: gaussian.map_matrix(cov(x / u), cov(y)), 1, gradient=False),
    Row("transport_map", lambda x, y, _: gaussian.transport_map(x[0], cov(x), y[0], cov(y))(x), 1, slow=True),
    Row("geodesic", lambda x, y, _: gaussian.geodesic(0.3, x[0], cov(x), y[0], cov(y))[1], 2, slow=True),
    Row("barycenter", lambda x, y, _: gaussian.barycenter(covs(x))[0], 2, slow=True),
    Row("polar", lambda x, y, _: polar(x), 0, gradient=False),
    Row("mixture.w2_sq", lambda x, y, u: og.mixture.w2_sq(mixture(x, u), mixture(y, u)), 2, slow=True),
    Row(
        "mixture.barycentric_map",
        lambda x, y, u: og.mixture.barycentric_map(mixture(x, u), mixture(y, u), x),
        1,
        slow=True,
    ),
    Row(
        "mixture.sample_map",
        lambda x, y, u: og.mixture.sample_map(key, mixture(x, u), mixture(y, u), x),
        1,
        False,
        True,
    ),
    Row("mixture.geodesic", lambda x, y, u: og.mixture.geodesic(0.3, mixture(x, u), mixture(y, u)).covs, 2, slow=True),
    Row("mixture.sample", lambda x, y, u: og.mixture.sample(key, mixture(x, u), 5), 1, gradient=False),
    Row("mixture.log_density", lambda x, y, u: og.mixture.log_density(mixture(x, u), x) + 3 * jnp.log(u), 0),
    Row("energy distance", lambda x, y, _: jnp.stack(kernel.kernel_distance(x, y, kernel.Energy())), 1, slow=True),
    Row("Gaussian kernel", lambda x, y, u: jnp.stack(kernel.kernel_distance(x, y, kernel.Gaussian(u))), 0, slow=True),
    Row("l2_uvp", lambda x, y, _: og.eval.l2_uvp(x, y), 0),
    Row("l2_uvp, known variance", lambda x, y, u: og.eval.l2_uvp(x, y, u**2), 0),
    Row("cosine", lambda x, y, _: og.eval.cosine(x, y, x[::-1]), 0),
    Row("linear loss", lambda x, y, _: dynamics.loss_from_factor((x[:3],), y.T), 2, slow=True),
    Row("critical.minimum", lambda x, y, u: critical.minimum(cov(x), 2, 0.01 * u**2), 2),
    Row("critical.minimiser", lambda x, y, u: critical.minimiser(cov(x), 2, 0.01 * u**2), 2, gradient=False),
    Row("exact.value_line", value_line, 2),
    Row("exact.plan", lambda x, y, _: og.exact.plan(og.PairwiseCost(x, y)).value, 2),
    Row("exact.assignment", lambda x, y, _: assignment(og.PairwiseCost(x, y)).value, 2),
    Row("sinkhorn.value", lambda x, y, u: og.sinkhorn.value(og.PairwiseCost(x, y), epsilon=u**2, tol=1e-5), 2),
    Row(
        "drift",
        lambda x, y, u: og.drift(x, y, x[::-1] + u, epsilon=jnp.stack([u**2, 2 * u**2]), tol=1e-5),
        1,
        gradient=False,
        slow=True,
    ),
    Row("sinkhorn_divergence", lambda x, y, u: og.sinkhorn_divergence(x, y, epsilon=u**2, tol=1e-5), 2, slow=True),
    Row(
        "dual.run", lambda x, y, u: og.dual.run(og.PairwiseCost(x, y), epsilon=u**2)[0].f, 2, gradient=False, slow=True
    ),
    Row("latent.slerp", lambda x, y, _: og.latent.slerp(0.3, x, y), 1),
    Row("latent.lerp", lambda x, y, _: og.latent.lerp(0.3, x, y), 1),
    Row("latent.walk", lambda x, y, u: og.latent.walk(key, x, 2, 0.3, og.latent.Sphere(u)), 1, gradient=False),
    Row("nearest", lambda x, y, _: og.eval.nearest(x, y, 2)[0], 1),
    Row("sliced_w2_sq", lambda x, y, _: og.eval.sliced_w2_sq(key, x, y, 16).value, 2),
    Row("precision_recall", lambda x, y, _: jnp.stack(og.eval.precision_recall(x, y)), 0, gradient=False),
    Row("density_coverage", lambda x, y, _: jnp.stack(og.eval.density_coverage(x, y)), 0, gradient=False),
)


def compiled(row):
    """The result, and with it the gradient of a weighted sum of it if there is one."""

    def weighted(x, y, unit):
        value = jnp.asarray(row.function(x, y, unit))
        return jnp.sum(value * jnp.cos(jnp.arange(value.size, dtype=jnp.float32)).reshape(value.shape)), value

    if not row.gradient:
        return jax.jit(lambda *of: ((), weighted(*of)[1]))
    return jax.jit(jax.grad(weighted, (0, 1), has_aux=True))


def in_units(row, function, unit):
    """The result and the gradient, over their powers of the unit."""
    slopes, value = function((X * unit).astype(np.float32), (Y * unit).astype(np.float32), np.float32(unit))
    value = np.asarray(value, np.float64) / unit**row.power
    return (value, np.concatenate(slopes).astype(np.float64) / unit ** (row.power - 1)) if slopes else (value,)


def marked(row):
    return pytest.param(row, id=row.name, marks=[pytest.mark.slow] if row.slow else [])


@pytest.mark.parametrize("row", map(marked, ROWS))
def test_results_scale_with_the_units_of_the_data(row):
    function = compiled(row)
    known = in_units(row, function, 1.0)
    assert all(np.isfinite(of).all() and np.abs(of).max() > 0 for of in known)
    for unit in UNITS:
        for ours, theirs in zip(in_units(row, function, unit), known, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max(), err_msg=f"unit {unit}")
