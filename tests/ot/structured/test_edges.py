"""Structured plans at the edges: other units, points of weight zero, the floor of float32, unusual input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otgen as og
from otgen.ot import conjugate, structured
from otgen.ot.structured import Weights

SHAPE, EPSILON, LAM = (3, 4, 5), 0.1, 0.05
SMOOTHINGS = ["entropic", pytest.param("quadratic", marks=pytest.mark.slow)]


def problem():
    """Costs and weights, the last code, noise and datum without any."""
    random = np.random.default_rng(0)
    code, noise, data = (np.r_[random.dirichlet(np.ones(num - 1)), 0].astype(np.float32) for num in SHAPE)
    return random.uniform(size=SHAPE).astype(np.float32), Weights(code, noise, data)


def _solve(cost, weights, epsilon, lam, tol, smoothing):
    numbers = {"epsilon": epsilon, "lam": lam, "smoothing": smoothing}
    state, info = structured.run(cost, weights, tol=tol, **numbers)
    semi, slopes = jax.value_and_grad(structured.semidual, (0, 1, 2))(cost, state.f, weights, **numbers)
    read = {
        "conditional": structured.conditional(cost, state.f, weights, **numbers)[..., :-1],
        "dual value": structured.dual_value(cost, state.f, state.g, weights, **numbers),
        "semidual": semi,
        "cost": slopes[0],
        "potentials": slopes[1],
        "perturbation": structured.perturbation(cost, state, weights, **numbers)[:-1, :-1],
        "adversary": structured.adversary(cost, state, weights, **numbers)[:-1, :-1, :-1],
        "information": structured.information(structured.density(cost, state, weights, **numbers), weights),
        "state": (state.f[:-1, :-1], state.g[:-1]),
        "info": info._replace(num_steps=0),
    }
    return read, jax.tree.leaves(slopes[2])


solve = jax.jit(_solve, static_argnames="smoothing")


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_points_of_weight_zero_are_inert(smoothing):
    cost, weights = problem()
    expected, _ = solve(cost, weights, EPSILON, LAM, 1e-5, smoothing)
    assert int(expected["info"].status) == og.Status.CONVERGED
    for junk in (0.0, -1e4, 1e5, 1e30, -1e30, np.inf, np.nan):  # the last two are refused outside jit
        padded = cost.copy()
        padded[-1], padded[:, -1], padded[..., -1] = junk, -junk, junk
        found, slopes = solve(padded, weights, EPSILON, LAM, 1e-5, smoothing)
        assert all(np.isfinite(of).all() for of in slopes)
        for (path, want), has in zip(jax.tree.leaves_with_path(expected), jax.tree.leaves(found), strict=True):
            message = f"{jax.tree_util.keystr(path)} with {junk}"
            np.testing.assert_allclose(has, want, rtol=1e-4, atol=1e-5, err_msg=message)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_results_scale_with_the_units_of_the_cost(smoothing):
    cost, weights = problem()
    of = solve(cost, weights, EPSILON, LAM, 1e-5, smoothing)[0]
    for unit in (1e-10, 1e-5, 1e5, 1e10):
        numbers = (np.float32(unit) * cost, weights, unit * EPSILON, unit * LAM, 1e-5, smoothing)
        found = solve(*numbers)[0]
        assert int(found["info"].status) == og.Status.CONVERGED
        for name in ("dual value", "semidual", "perturbation", "adversary", "state"):
            for has, want in zip(jax.tree.leaves(found[name]), jax.tree.leaves(of[name]), strict=True):
                np.testing.assert_allclose(np.float64(has) / unit, want, atol=2e-4, err_msg=f"{name} times {unit}")
        np.testing.assert_allclose(found["conditional"], of["conditional"], atol=1e-4)


def test_the_floor_of_float32_is_a_stall_and_not_the_limit_of_steps():
    cost, weights = problem()
    info = solve(cost, weights, EPSILON / 20, LAM / 20, 1e-12, "entropic")[0]["info"]
    assert int(info.status) == og.Status.STALLED
    assert float(info.gap) < 1e-4


@pytest.mark.slow
def test_an_alternation_says_whether_its_transport_converged():
    cost, q = problem()[0], np.zeros((3, 5), np.float32)
    *_, info = structured.alternate(cost, q, epsilon=EPSILON, lam=LAM, max_steps=0, return_info=True)
    assert int(info.status) == og.Status.MAX_STEPS


def test_conjugates_do_not_depend_on_units_and_take_mixed_types(x64):
    random = np.random.default_rng(0)
    root = random.normal(size=(3, 3)) + 2 * np.eye(3)
    y, square = random.normal(size=(8, 3)).astype(np.float32), jnp.asarray(root @ root.T)

    @jax.jit
    def solved(y, unit):
        return conjugate.solve(lambda x: 0.5 * unit * jnp.sum(x @ square * x, 1), y, np.zeros((8, 3)), num_steps=40)

    expected = np.linalg.solve(root @ root.T, y.T).T
    for unit in (1e-8, 1.0, 1e4):
        found = solved(y * unit, unit)
        assert found.points.dtype == jnp.float64
        np.testing.assert_allclose(found.points, expected, atol=1e-5)
        np.testing.assert_allclose(found.values / unit, 0.5 * np.sum(expected * y, 1), rtol=1e-6)


def parabola(x):
    return jnp.sum(x**2, 1)


def test_a_conjugate_is_compiled_once():
    y = np.ones((4, 2), np.float32)
    conjugate.solve(parabola, y)
    before = conjugate._compiled._cache_size()
    conjugate.solve(parabola, y + 1, step=0.5)
    assert conjugate._compiled._cache_size() == before


COST, ONES = np.ones(SHAPE, np.float32), np.ones((4, 2), np.float32)
NUMBERS = {"epsilon": EPSILON, "lam": LAM}
STATE = structured.State(np.zeros((3, 4)), np.zeros(5), np.zeros((3, 5)))
WRONG = {
    "lam for each code": lambda: structured.semidual(COST, np.zeros((3, 4)), epsilon=EPSILON, lam=np.zeros(3)),
    "potentials as a vector": lambda: structured.transform(COST, np.zeros(12), **NUMBERS),
    "potentials of other data": lambda: structured.dual_value(COST, np.zeros((3, 4)), np.zeros(4), **NUMBERS),
    "another proximal cost": lambda: structured.run(COST, state=STATE._replace(proximal=np.zeros(3)), **NUMBERS),
    "a density that is a vector": lambda: structured.information(np.ones(3)),
    "log-probabilities as a vector": lambda: structured.encoder_perturbation(np.zeros(3), lam=1.0),
    "infinite log-probabilities": lambda: structured.encoder_perturbation(np.full((3, 5), -np.inf), lam=1.0),
    "a code of weight zero": lambda: structured.encoder_perturbation(np.zeros((2, 5)), np.array([1, 0]), lam=1.0),
    "lam for each datum": lambda: structured.encoder_perturbation(np.zeros((3, 5)), lam=np.ones(5)),
    "rewards of other data": lambda: structured.alternate(COST, np.zeros((3, 4)), **NUMBERS),
    "an adversary of the code": lambda: structured.evaluate_payoff(COST, np.zeros((3, 5)), COST, **NUMBERS),
    "an infinite perturbation": lambda: structured.perturbed_cost(COST, np.full((3, 5), np.inf)),
    "no memory": lambda: conjugate.solve(parabola, ONES, memory=0),
    "a step for each column": lambda: conjugate.solve(parabola, ONES, step=np.ones(2)),
    "a potential of the whole": lambda: conjugate.solve(lambda x: jnp.sum(x**2), ONES),
    "one subset": lambda: og.eval.subset_w2_sq(jax.random.key(0), ONES, ONES, num=2, repeats=1),
    "more than there are": lambda: og.eval.subset_divergence(jax.random.key(0), ONES, ONES, num=5),
    "many keys": lambda: og.eval.subset_w2_sq(jax.random.split(jax.random.key(0)), ONES, ONES, num=2, repeats=2),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_meant_is_refused(name):
    with pytest.raises(ValueError, match=r"give|hold|remove"):
        WRONG[name]()


@pytest.mark.slow
def test_divergences_of_subsets_say_how_they_ended(key):
    x = np.random.default_rng(0).normal(size=(12, 2))
    options = {"num": 4, "repeats": 3, "return_info": True}
    found, info = og.eval.subset_divergence(key, x, x + 1, max_steps=1, **options)
    assert (np.asarray(info.status) == og.Status.MAX_STEPS).all()
    assert "3 of 3" in og.explain(info)
    assert float(found.error) > 0
