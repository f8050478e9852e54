"""Points without weight are inert: whatever stands there changes no output and no gradient.

A row of the table is a function of one padded problem, which returns what must not change: entries that belong to
points without weight are left out by `kept`. It is asked with harmless padding, copies of points that carry weight, and
then with ever worse. Other modules add their rows here.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otgen as og
from tests.support.clouds import reference

SOURCE, TARGET, DIM = (8, 3), (7, 2), 12  # points with and without weight; above 8 dimensions costs are products
WORSE = (0.0, 10.0, 1e4, 1e5, 1e30, np.inf)  # infinite as a cost only: points and features are then at 1e30


class Padded(NamedTuple):
    """Clouds, their weights, and a cost matrix of the same pairs."""

    x: np.ndarray
    y: np.ndarray
    a: np.ndarray
    b: np.ndarray
    cost: np.ndarray


def padded(junk=None):
    """The problem with something in its padding; copies of points with weight for None."""
    rng = np.random.default_rng(0)
    (n, more), (m, others) = SOURCE, TARGET
    x, y = rng.normal(size=(n, DIM)), rng.normal(size=(m, DIM)) + 0.5
    cost = ((x[:, None] - y) ** 2).sum(-1)
    a, b = rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))
    if junk is None:
        x, y = np.concatenate([x, x[:more]]), np.concatenate([y, y[:others]])
        cost = ((x[:, None] - y) ** 2).sum(-1)
    else:
        point = min(junk, 1e30)
        x = np.concatenate([x, np.full((more, DIM), point)])
        y = np.concatenate([y, np.full((others, DIM), point)])  # at distance 0 of those of x
        cost = np.pad(cost, ((0, more), (0, others)), constant_values=junk)
    a, b = np.concatenate([a, np.zeros(more)]), np.concatenate([b, np.zeros(others)])
    return Padded(*(part.astype(np.float32) for part in (x, y, a, b, cost)))


def kept(values, num):
    """The first entries, of points that carry weight."""
    return values[:num]


def _entropic(cost_of, dense=None, **options):
    """Everything that comes out of entropic transport, and the gradients of its value."""

    def row(it):
        n, m = SOURCE[0], TARGET[0]
        cost = cost_of(it)
        state, info = og.sinkhorn.run(cost, it.a, it.b, epsilon=1.0, tol=1e-5, dense=dense, **options)
        weights = {"a": it.a, "b": it.b, "epsilon": 1.0}
        once = og.sinkhorn.step(state, cost, it.a, it.b, epsilon=1.0, **options)
        keys = jax.random.split(jax.random.key(0))
        return {
            "potentials": (kept(state.f, n), kept(state.g, m)),
            "step": (kept(once.f, n), kept(once.g, m)),
            "info": (info.dual_value, info.status == og.Status.CONVERGED),
            "plan": og.sinkhorn.plan(cost, state, **weights),
            "moved": og.sinkhorn.apply_plan(cost, state, it.y, **weights),
            "back": og.sinkhorn.apply_plan(cost, state, it.x, **weights, axis=0),
            "marginals": og.sinkhorn.marginals(cost, state, **weights),
            "primal cost": og.sinkhorn.primal_cost(cost, state, **weights),
            "mean": cost.mean(it.a, it.b),
            "iid": og.sinkhorn.sample_plan(keys[0], cost, state, **weights, num=50, pairing="iid"),
            "stratified": og.sinkhorn.sample_plan(keys[1], cost, state, **weights, num=50, pairing="stratified"),
        }

    return jax.jit(row)


def _gradients(function):
    """A function of the problem, its gradients in points and costs, and in the weights that are not zero."""

    def row(it):
        value, slopes = jax.value_and_grad(function)(it)
        n, m = SOURCE[0], TARGET[0]
        a, b = kept(slopes.a, n), kept(slopes.b, m)
        finite = jnp.isfinite(slopes.a).all() & jnp.isfinite(slopes.b).all()
        return value, slopes.x, slopes.y, slopes.cost, a - a.mean(), b - b.mean(), finite

    return jax.jit(row)


def by_points(it):
    return og.PairwiseCost(it.x, it.y)


def by_matrix(it):
    return og.DenseCost(it.cost)


def value(cost_of, **options):
    return lambda it: og.sinkhorn.value(cost_of(it), it.a, it.b, epsilon=1.0, tol=1e-5, **options)


def divergence(it, **options):
    return og.sinkhorn_divergence(it.x, it.y, it.a, it.b, epsilon=1.0, tol=1e-5, **options)


@jax.jit
def drift(it):
    options = {"epsilon": jnp.array([1.0, 3.0]), "tol": 2e-6}
    second = og.drift(it.x, it.y, it.x[::-1], it.a, it.b, it.a[::-1], **options)
    return kept(second, SOURCE[0]), kept(og.drift(it.x, it.y, None, it.a, it.b, diagonal="mask", **options), SOURCE[0])


def unrolled(it):
    return og.sinkhorn.run(by_points(it), it.a, it.b, epsilon=10.0, num_iterations=9)[1].dual_value


def sliced(it):
    return og.eval.sliced_w2_sq(jax.random.key(0), it.x, it.y, 16, it.a, it.b).value


@jax.jit
def semidiscrete(it):
    """A few steps from the warm start, and what is made of the heights, in the first three coordinates."""
    keys, y, x = jax.random.split(jax.random.key(0), 3), it.y[:, :3], jnp.linspace(-0.4, 0.4, 24).reshape(8, 3)
    state = og.semidiscrete.init(keys[0], y, it.b)
    state = og.semidiscrete.stage(keys[0], state, y, it.b, 4, 64)
    for _ in range(2):
        state = og.semidiscrete.step(keys[1], state, y, it.b, batch_size=64)
    ext = og.extension.init(keys[0], state, y, num=64)
    new = {
        form: og.extension.transport(keys[2], ext, state, y, x, form=form, angle=3.0).points
        for form in og.extension.FORMS
    }
    faces = og.extension.singular_angles(state, y, x)
    inverse = og.coupling.invert(keys[0], state, y, jnp.arange(len(it.b)), num_sweeps=1)
    num = TARGET[0]
    return {
        "heights": kept(state.h, num),
        "schedule": state.schedule,
        "map": og.semidiscrete.assign(state, y, x),
        "masses": og.semidiscrete.masses(keys[1], state, y, 64, weights=it.b),
        "chi2": og.semidiscrete.chi2(keys[1], state, y, 64, weights=it.b),
        "extension": (kept(ext.centres, num), ext.angle, new),
        "faces": faces,
        "walk": og.extension.walk(state, y, x[:2], max_crossings=4)[1:],
        "pairs": og.coupling.pair(keys[2], 0, state, y, 8).data,
        "inverse": jnp.nan_to_num(kept(inverse.noise, num)),
        "found": inverse.found[num:],
    }


def _dual(cost_of, smoothing):
    """Everything that comes out of smoothed duals."""

    def row(it):
        n, m, cost = SOURCE[0], TARGET[0], cost_of(it)
        numbers = {"epsilon": 1.0, "smoothing": smoothing}
        state, info = og.dual.run(cost, it.a, it.b, tol=1e-5, **numbers)
        return {
            "potentials": (kept(state.f, n), kept(state.g, m)),
            "info": info._replace(num_steps=0),
            "marginals": og.dual.marginals(cost, *state, it.a, it.b, **numbers),
            "best": kept(og.dual.transform(cost, state.f, it.a, **numbers), m),
        }

    return jax.jit(row)


def dual_of(smoothing):
    f, g = jnp.linspace(-1.0, 1.0, sum(SOURCE)), jnp.linspace(0.5, -0.5, sum(TARGET))
    numbers = {"epsilon": 5.0, "smoothing": smoothing}

    def values(it):
        batch = og.dual.objective(f, g, it.x, it.y, it.a, it.b, **numbers)
        return batch + og.dual.semidual(by_matrix(it), f, it.a, it.b, **numbers)

    return values


def transported(it):
    return og.exact.plan(by_points(it), it.a, it.b).value + og.exact.value_line(it.x[:, 0], it.y[:, 0], it.a, it.b)


def mixtures(it):
    """Two mixtures in the plane, their covariances made of their means."""

    def mixture(weights, points):
        means = points[:, :2]
        return og.mixture.Mixture(weights, means, 0.5 * jnp.eye(2) + means[:, :, None] * means[:, None, :])

    return mixture(it.a, it.x), mixture(it.b, it.y)


def between_mixtures(it):
    p, q = mixtures(it)
    x, key = it.x[: SOURCE[0], :2], jax.random.key(0)
    maps = og.mixture.barycentric_map(p, q, x), og.mixture.sample_map(key, p, q, x)
    return og.mixture.plan(p, q), og.mixture.log_density(p, x), maps, og.mixture.geodesic(0.5, p, q)


def barycenter(it):
    p, _ = mixtures(it)
    return jnp.sum(og.gaussian.barycenter(p.covs, p.weights)[0] * jnp.array([[1.0, 0.3], [0.3, 2.0]]))


ROWS = {
    "dual": _dual(by_points, "entropic"),
    "dual, quadratic matrix": _dual(by_matrix, "quadratic"),
    "dual.objective and semidual": _gradients(dual_of("entropic")),
    "dual.objective and semidual, quadratic": _gradients(dual_of("quadratic")),
    "exact.plan and value_line": _gradients(transported),
    "sinkhorn": _entropic(lambda it: og.PairwiseCost(it.x, it.y, block=20)),
    "sinkhorn, streamed": _entropic(lambda it: og.PairwiseCost(it.x, it.y, block=20), dense=False),
    "sinkhorn, unbalanced matrix": _entropic(by_matrix, tau_a=0.9, tau_b=0.7),
    "sinkhorn.value": _gradients(value(by_points)),
    "sinkhorn.value, unbalanced matrix": _gradients(value(by_matrix, tau_a=0.9, tau_b=0.7)),
    "sinkhorn.run, unrolled": _gradients(unrolled),
    "sinkhorn_divergence": _gradients(divergence),
    "sinkhorn_divergence, masked": _gradients(lambda it: divergence(it, diagonal="mask")),
    "drift": drift,
    "sliced_w2_sq": _gradients(sliced),
    "semidiscrete": semidiscrete,
    "mixture.w2_sq": _gradients(lambda it: og.mixture.w2_sq(*mixtures(it))),
    "between mixtures": jax.jit(between_mixtures),
    "barycenter": _gradients(barycenter),
}
SLOW = {  # to compile
    "between mixtures",
    "barycenter",
    "dual, quadratic matrix",
    "dual.objective and semidual, quadratic",
    "sinkhorn, streamed",
    "sinkhorn.value, unbalanced matrix",
    "sinkhorn_divergence",
    "sinkhorn_divergence, masked",
    "drift",
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in ROWS])
def test_points_without_weight_are_inert(name):
    row = ROWS[name]
    expected = row(padded())
    assert all(np.isfinite(part).all() for part in jax.tree.leaves(expected))
    for junk in WORSE:
        found = row(padded(junk))
        for (path, want), has in zip(jax.tree.leaves_with_path(expected), jax.tree.leaves(found), strict=True):
            message = f"{name}{jax.tree_util.keystr(path)} with {junk}"
            np.testing.assert_allclose(has, want, rtol=2e-4, atol=2e-5, err_msg=message)


def test_padding_leaves_the_value_of_the_points_with_weight():
    it = padded(1e5)
    (n, _), (m, _) = SOURCE, TARGET
    cost, a, b = (part.astype(np.float64) for part in (it.cost[:n, :m], it.a[:n], it.b[:m]))
    expected = reference(cost, a / a.sum(), b / b.sum(), 1.0)[1]
    np.testing.assert_allclose(ROWS["sinkhorn.value"](it)[0], expected, rtol=1e-5)


def test_weight_zero_on_both_sides():
    x, a = np.array([[10.0], [0.0]]), np.array([1.0, 0.0])
    cost = og.PairwiseCost(x, x)
    state, info = og.sinkhorn.run(cost, a, a, epsilon=0.1)
    assert info.status == og.Status.CONVERGED
    assert info.dual_value == 0
    np.testing.assert_array_equal(og.sinkhorn.plan(cost, state, a, a, epsilon=0.1), [[1, 0], [0, 0]])
