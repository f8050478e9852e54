"""Edges of entropic transport: forbidden pairs, near points, totals, what is compiled, copied and refused."""

import functools
import traceback

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import ot
import pytest

import otgen as og
from otgen.ot import check
from otgen.ot.costs import ground, padding, pairwise
from otgen.ot.costs.distances import Cosine, CostFn, CustomCost, Euclidean, PNorm, Scaled
from otgen.ot.sinkhorn import implicit, inputs, plans, solver
from otgen.types import Status

RNG = np.random.default_rng(0)
N = 6
MATRIX = RNG.uniform(size=(N, N)).astype(np.float32)
FORBIDDEN = RNG.uniform(size=(N, N)) < 0.3
np.fill_diagonal(FORBIDDEN, False)
ALLOWED = np.where(FORBIDDEN, np.inf, MATRIX)
UNIFORM = np.full(N, 1 / N)
EPSILON = 0.05
X, Y = RNG.normal(size=(2, N, 3)).astype(np.float32)


def sinkhorn64(cost, a, b, epsilon, steps=5000):
    """Plan and value in float64, by iterations on the kernel, in which forbidden pairs are zeros."""
    kernel, v = np.exp(-np.asarray(cost, np.float64) / epsilon), np.ones(len(b))
    for _ in range(steps):
        u = 1 / (kernel @ (b * v))
        v = 1 / (kernel.T @ (a * u))
    density = u[:, None] * kernel * v
    plan = a[:, None] * b * density
    moved = plan > 0
    return plan, (plan[moved] * cost[moved]).sum() + epsilon * (plan[moved] * np.log(density[moved])).sum()


@jax.jit
def everything(matrix, epsilon):
    cost = og.DenseCost(matrix)
    state, info = og.sinkhorn.run(cost, epsilon=epsilon, tol=1e-4)
    value = lambda matrix, epsilon: og.sinkhorn.value(og.DenseCost(matrix), epsilon=epsilon)  # noqa: E731
    found, (gradient, slope) = jax.value_and_grad(value, (0, 1))(matrix, epsilon)
    return {
        "status": info.status,
        "plan": og.sinkhorn.plan(cost, state, epsilon=epsilon),
        "primal": og.sinkhorn.primal_cost(cost, state, epsilon=epsilon),
        "rows": og.sinkhorn.marginals(cost, state, epsilon=epsilon)[0],
        "value": found,
        "gradient": gradient,
        "slope": slope,
        "curvature": jax.grad(jax.grad(value, 1), 1)(matrix, epsilon),
    }


def test_infinite_costs_forbid_pairs():
    plan, value = sinkhorn64(ALLOWED, UNIFORM, UNIFORM, EPSILON)
    h = 1e-4
    sides = [sinkhorn64(ALLOWED, UNIFORM, UNIFORM, EPSILON + t)[1] for t in (-h, 0, h)]
    found = everything(ALLOWED.astype(np.float32), EPSILON)
    assert found["status"] == Status.CONVERGED
    assert (np.asarray(found["plan"])[FORBIDDEN] == 0).all()
    np.testing.assert_allclose(found["plan"], plan, atol=5e-5)  # half of tol
    np.testing.assert_allclose(found["rows"], UNIFORM, atol=5e-5)
    np.testing.assert_allclose(found["primal"], plan[~FORBIDDEN] @ MATRIX[~FORBIDDEN], rtol=1e-3)
    np.testing.assert_allclose(found["value"], value, rtol=1e-5)
    np.testing.assert_allclose(found["gradient"], plan, atol=5e-5)  # zero where forbidden, not NaN
    np.testing.assert_allclose(found["slope"], (sides[2] - sides[0]) / (2 * h), rtol=1e-3)
    np.testing.assert_allclose(found["curvature"], (sides[2] - 2 * sides[1] + sides[0]) / h**2, rtol=1e-2)


def test_large_finite_costs_are_as_good_as_forbidden():
    plan, value = sinkhorn64(ALLOWED, UNIFORM, UNIFORM, EPSILON)
    for large in (1e4, 1e6, 1e9):
        found = everything(np.where(FORBIDDEN, np.float32(large), MATRIX), EPSILON)
        assert found["status"] == Status.CONVERGED
        np.testing.assert_allclose(found["plan"], plan, atol=5e-5)
        np.testing.assert_allclose(found["value"], value, rtol=1e-5)
        assert np.isfinite(found["gradient"]).all()


def test_mass_that_can_go_nowhere_is_refused():
    matrix = ALLOWED.copy()
    matrix[2] = np.inf
    with pytest.raises(ValueError, match=r"1 row\(s\) and 0 column\(s\) with mass"):
        og.sinkhorn.run(og.DenseCost(matrix), epsilon=EPSILON)
    with pytest.raises(ValueError, match=r"0 row\(s\) and 1 column\(s\) with mass"):
        og.sinkhorn.value(og.DenseCost(matrix.T), epsilon=EPSILON)
    assert everything(matrix.astype(np.float32), EPSILON)["status"] == Status.NONFINITE
    for wrong in (np.nan, -np.inf):
        with pytest.raises(ValueError, match="36 NaN or infinite"):
            og.DenseCost(np.full((N, N), wrong))


def test_permutations_avoid_forbidden_pairs():
    cost = og.DenseCost(ALLOWED.astype(np.float32))
    draw = jax.jit(jax.vmap(lambda key: og.sinkhorn.sample_plan(key, cost, og.sinkhorn.init(cost), epsilon=EPSILON)[1]))
    partners = np.asarray(draw(jax.random.split(jax.random.key(0), 50)))
    assert (np.sort(partners, 1) == np.arange(N)).all()
    assert not FORBIDDEN[np.arange(N), partners].any()


def test_a_value_says_how_its_solver_ended():
    options = {"epsilon": EPSILON, "return_info": True}

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def value(matrix, max_steps):
        return og.sinkhorn.value(og.DenseCost(matrix), **options, max_steps=max_steps)

    (found, info), slope = value(MATRIX, 2000)
    assert info.status == Status.CONVERGED
    assert info.error < 1e-4  # by default what gradients need
    np.testing.assert_allclose(found, info.dual_value, rtol=1e-5)
    np.testing.assert_allclose(slope.sum(), 1, rtol=1e-4)
    (_, short), _ = value(MATRIX, 1)
    assert short.status == Status.MAX_STEPS
    assert short.error > 1e-4

    divergence, info = og.sinkhorn_divergence(X, Y, **options)
    assert info.status == Status.CONVERGED
    assert info.dual_value == divergence > 0
    assert og.sinkhorn_divergence(X, Y, **options, max_steps=1)[1].status == Status.MAX_STEPS


def test_conjugate_gradients_that_fail_give_no_derivative():
    matrix = np.diag(np.arange(1.0, 7.0)) + 0.5
    right = jnp.arange(6, dtype=jnp.float32)
    system = lambda v: og.costs.product(matrix.astype(np.float32), v)  # noqa: E731
    solved = implicit.conjugate_gradients(system, right, max_steps=100)
    np.testing.assert_allclose(solved, np.linalg.solve(matrix, np.arange(6)), rtol=1e-4, atol=1e-5)
    assert np.isnan(implicit.conjugate_gradients(system, right, max_steps=2)).all()
    assert np.isnan(implicit.conjugate_gradients(lambda v: -system(v), right, max_steps=100)).all()
    assert (implicit.conjugate_gradients(system, 0 * right, max_steps=100) == 0).all()


D = 160
near = jax.jit(Euclidean().pairwise)
slopes_of = jax.jit(jax.grad(lambda x, y: jnp.trace(Euclidean().pairwise(x, y))))


@pytest.mark.parametrize("gap", ["alone", "clusters", "copies"])
def test_distances_of_near_points_are_those_of_differences(gap):
    """Near points in many dimensions: each near one other, in two far clusters, and one point many times."""
    x = RNG.normal(size=(200, D)).astype(np.float32)
    y = x + np.float32(1.25e-3 / np.sqrt(D)) * RNG.normal(size=x.shape).astype(np.float32)
    if gap == "clusters":
        x[:100] += 1000
        y[:100] += 1000
    if gap == "copies":
        x[:190] = x[0]
    exact = np.sqrt(((x[:, None].astype(np.float64) - y) ** 2).sum(-1))
    np.testing.assert_allclose(near(x, y), exact, rtol=2e-4)
    assert (np.diag(near(x, x)) == 0).all()
    direction = (x.astype(np.float64) - y) / np.diag(exact)[:, None]
    np.testing.assert_allclose(slopes_of(x, y), direction, atol=0.1 if gap == "clusters" else 2e-3)


def test_w1_of_near_clouds():
    x = RNG.normal(size=(40, D)).astype(np.float32)
    gap = RNG.normal(size=x.shape)
    y = x + (1.25e-3 * gap / np.linalg.norm(gap, axis=1)[:, None]).astype(np.float32)
    w1 = og.exact.assignment(og.PairwiseCost(x, y, Euclidean())).value
    np.testing.assert_allclose(w1, 1.25e-3, rtol=1e-3)
    assert og.exact.assignment(og.PairwiseCost(x, x, Euclidean())).value == 0


def test_directions_that_are_near():
    x = jnp.asarray(RNG.normal(size=(5, 20)), jnp.float32)
    y = x + jnp.asarray(1e-3 * RNG.normal(size=x.shape), jnp.float32)
    u, v = (p / np.linalg.norm(p, axis=1)[:, None] for p in (np.asarray(x, np.float64), np.asarray(y, np.float64)))
    found = Cosine().pairwise(x, y)
    np.testing.assert_allclose(np.diag(found), 0.5 * ((u - v) ** 2).sum(1), rtol=2e-3)
    np.testing.assert_allclose(Cosine().pairwise(x, 0 * y), 1)


@pytest.mark.slow
def test_read_outs_compile_once_also_of_numpy():
    cost = og.PairwiseCost(X, Y, block=12)  # streamed
    state = og.sinkhorn.State(np.zeros(N, np.float32), np.zeros(N, np.float32))
    calls = {
        plans._plan: lambda e: og.sinkhorn.plan(cost, state, epsilon=e),
        plans._apply: lambda e: og.sinkhorn.apply_plan(cost, state, Y, epsilon=e),
        plans._marginals: lambda e: og.sinkhorn.marginals(cost, state, epsilon=e),
        plans._primal_cost: lambda e: og.sinkhorn.primal_cost(cost, state, epsilon=e),
        solver._step: lambda e: og.sinkhorn.step(state, cost, epsilon=e),
        pairwise._softmin_of_pairs: lambda e: cost.softmin(e, state.f),
        pairwise._matrix_of_pairs: lambda e: cost.matrix(),
        ground._mean: lambda e: cost.mean(),
    }
    for program, call in calls.items():
        call(1.0)
        size = program._cache_size()
        call(2.0)
        assert program._cache_size() == size, call
    kernel = np.exp(-((X[:, None] - Y) ** 2).sum(-1) / 2.0)
    np.testing.assert_allclose(calls[plans._apply](2.0), kernel @ Y / 36, rtol=1e-4, atol=1e-6)


def power(x, y, p):
    return jnp.sum(jnp.abs(x - y) ** p)


def test_functions_that_are_the_same_compile_once():
    def matrix(cost_fn):
        return og.PairwiseCost(X, Y, cost_fn).matrix()

    matrix(lambda x, y: jnp.abs(x - y).sum())
    size = pairwise._matrix_of_pairs._cache_size()
    for scale in (2.0, 2.0, 2.0):
        matrix(lambda x, y: scale * jnp.abs(x - y).sum())  # noqa: B023
        matrix(functools.partial(power, p=3))
    assert pairwise._matrix_of_pairs._cache_size() == size + 2
    assert CustomCost(functools.partial(power, p=3)) != CustomCost(functools.partial(power, p=3.0))
    assert matrix(functools.partial(power, p=1)).sum() != matrix(functools.partial(power, p=2)).sum()

    def scaled(weights):
        return CustomCost(lambda x, y: jnp.sum(weights * (x - y)))

    with pytest.warns(UserWarning, match="compiles anew"):
        kinds = {scaled(np.ones(3)) for _ in range(5)}
    assert len(kinds) == 5
    scaled(np.ones(3))  # said once


def test_a_cost_class_of_ones_own_needs_no_registration():
    class Manhattan(CostFn):
        invariant = True

        def __call__(self, x, y):
            return jnp.sum(jnp.abs(x - y))

    cost_fn = Manhattan()
    for _ in range(2):
        np.testing.assert_allclose(
            og.PairwiseCost(X, Y, cost_fn).matrix(), np.abs(X[:, None] - Y).sum(-1), rtol=1e-5, atol=1e-6
        )


def test_a_plan_makes_no_constant_of_its_size():
    n = 300
    points = jax.ShapeDtypeStruct((n, 2), jnp.float32)

    def plan(x, y):
        cost = og.PairwiseCost(x, y)
        return og.sinkhorn.plan(cost, og.sinkhorn.init(cost), epsilon=1.0)

    text = jax.jit(plan).lower(points, points).compile().as_text()
    assert f"f32[{n},{n}]" in text
    assert not any("constant(" in line and f"f32[{n},{n}]" in line for line in text.splitlines())
    assert max(np.size(const) for const in (*jax.make_jaxpr(plan)(points, points).consts, 0)) <= n


def test_clouds_of_many_sizes_are_padded():
    clouds = [RNG.normal(size=(num, 3)) for num in (2, 5, 3)]
    weights = [None, np.arange(5.0), None]
    points, masses = og.pad_clouds(clouds, weights, size=N)
    assert points.shape == (3, N, 3)
    assert masses.shape == (3, N)
    np.testing.assert_allclose(masses.sum(1), [1, 10, 1], rtol=1e-6)
    for cloud, padded, mass in zip(clouds, points, masses, strict=True):
        np.testing.assert_allclose(padded[: len(cloud)], cloud, rtol=1e-6)
        np.testing.assert_allclose(padded[len(cloud) :], np.broadcast_to(cloud[0], (N - len(cloud), 3)), rtol=1e-6)
        assert (np.asarray(mass[len(cloud) :]) == 0).all()
    found = jax.vmap(lambda x, a: og.eval.sliced.projected_wp(x, Y, np.eye(3), a))(points, masses)
    for cloud, weight, lines in zip(clouds, weights, found, strict=True):
        weight = weight if weight is None else weight / weight.sum()
        expected = [ot.emd2_1d(x, y, weight, metric="sqeuclidean") for x, y in zip(cloud.T, Y.T, strict=True)]
        np.testing.assert_allclose(lines, expected, rtol=1e-4)
    slope = jax.grad(lambda x: padding.pad_clouds([x, clouds[1]]).points.sum())(jnp.ones((2, 3)))
    np.testing.assert_array_equal(slope, 1)  # the padding is constant


def test_weighted_samples_on_lines():
    a, b, directions = RNG.dirichlet(np.ones(N)), 3 * RNG.dirichlet(np.ones(N)), np.eye(3)
    expected = [ot.emd2_1d(x, y, a, b / 3, metric="sqeuclidean") for x, y in zip(X.T, Y.T, strict=True)]
    found = og.eval.sliced.projected_wp(X, Y, directions, a, b)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    even = og.eval.sliced.projected_wp(X, Y, directions, np.ones(N), np.ones(N))
    np.testing.assert_allclose(even, og.eval.sliced.projected_wp(X, Y, directions), rtol=1e-5)


@pytest.mark.slow
def test_totals_that_agree_up_to_rounding_are_one():
    b = UNIFORM * (1 + 8e-6)
    _, info = og.sinkhorn.run(og.DenseCost(MATRIX), UNIFORM, b, epsilon=1.0, tol=4e-6)
    assert info.status == Status.CONVERGED
    with pytest.raises(ValueError, match="equal totals"):
        og.sinkhorn.run(og.DenseCost(MATRIX), UNIFORM, UNIFORM * (1 + 2e-5), epsilon=1.0)

    @jax.jit
    def status(b):
        return og.sinkhorn.run(og.DenseCost(MATRIX), UNIFORM, b, epsilon=1.0, tol=4e-6)[1].status

    assert status(b) == Status.CONVERGED
    assert status(UNIFORM * (1 + 2e-5)) == Status.NONFINITE
    a, b = inputs.as_masses(og.DenseCost(np.zeros((1000, 1))), np.full(1000, 1e-3), np.array([1 + 2e-5]), 1.0, 1.0)
    np.testing.assert_allclose(a.sum(), b.sum(), rtol=1e-6)  # of many weights the sum in float32 is less certain


def test_nothing_but_bools_comes_home(monkeypatch):
    class Guarded:
        """NumPy, but for arrays of a device."""

        def __getattr__(self, name):
            return getattr(np, name)

        def asarray(self, array, *args, **options):
            assert not isinstance(array, jax.Array) or array.size < N, "a whole array was copied to the host"
            return np.asarray(array, *args, **options)

    x, y, a = (jnp.asarray(part, jnp.float32) for part in (X, Y, UNIFORM))
    monkeypatch.setattr(check, "at_hand", lambda array: not isinstance(array, jax.Array))
    for module in (check, inputs, solver, ground, pairwise):
        if hasattr(module, "np"):
            monkeypatch.setattr(module, "np", Guarded())
    og.PairwiseCost(x, y)
    cost = og.DenseCost(jnp.asarray(MATRIX))
    state, info = og.sinkhorn.run(cost, a, a, epsilon=1.0)
    og.sinkhorn.marginals(cost, state, a, a, epsilon=1.0)
    assert info.status == Status.CONVERGED

    @jax.jit
    def scaled(factor):  # arrays that have values, while another is traced
        cost = og.DenseCost(matrix)
        state, _ = og.sinkhorn.run(cost, a, a, epsilon=number, tau_a=share, max_steps=limit)
        i, _ = og.sinkhorn.sample_plan(KEY, cost, state, a, a, epsilon=number)
        return factor * state.f.sum() + i[0]

    matrix, number, share, limit = jnp.asarray(MATRIX), jnp.ones(2)[1], jnp.full((), 0.9), jnp.full((), 100)
    assert np.isfinite(scaled(2.0))


@pytest.mark.filterwarnings("ignore")
def test_costs_for_ott_are_of_one_class():
    one, two = (og.to_ott(og.PairwiseCost(X, Y, PNorm(3.0))) for _ in range(2))
    assert type(one.cost_fn) is type(two.cost_fn)
    assert jax.tree.structure(one.cost_fn) == jax.tree.structure(two.cost_fn)


@pytest.mark.usefixtures("unchecked")
def test_arrays_of_another_byte_order():
    big = lambda array: np.asarray(array).astype(">f8")  # noqa: E731
    cost, other = og.PairwiseCost(X, Y), og.PairwiseCost(big(X), big(Y))
    state = og.sinkhorn.State(np.arange(N) / 10, np.arange(N) / 20)
    swapped = og.sinkhorn.State(*map(big, state))
    pairs = [
        (cost.matrix(), other.matrix()),
        (og.DenseCost(MATRIX).matrix(), og.DenseCost(big(MATRIX)).matrix()),
        (cost.softmin(1.0, state.f), cost.softmin(1.0, swapped.f)),
        (
            og.PairwiseCost(X, Y, Scaled(np.arange(3))).matrix(),
            og.PairwiseCost(X, Y, Scaled(big(np.arange(3)))).matrix(),
        ),
        (cost.mean(UNIFORM, UNIFORM), cost.mean(big(UNIFORM), big(UNIFORM))),
        (Euclidean()(X[0], Y[0]), Euclidean()(big(X[0]), big(Y[0]))),
        (og.pad_clouds([X, Y[:2]]), og.pad_clouds([big(X), big(Y[:2])])),
        *(
            (read(state, X, UNIFORM), read(swapped, big(X), big(UNIFORM)))
            for read in (
                lambda s, v, a: og.sinkhorn.apply_plan(cost, s, v, a, a, epsilon=1.0),
                lambda s, v, a: og.sinkhorn.marginals(cost, s, a, a, epsilon=1.0),
                lambda s, v, a: og.sinkhorn.step(s, cost, a, a, epsilon=1.0),
                lambda s, v, a: og.eval.sliced.projected_wp(v, Y, np.eye(3), a, a),
            )
        ),
    ]
    for native, foreign in pairs:
        jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-6), native, foreign)


@pytest.fixture
def unchecked():
    """Arguments reach otgen's own checks, which users have; in tests the annotations are checked before."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


COST, STATE = og.DenseCost(MATRIX), og.sinkhorn.State(np.zeros(N), np.zeros(N))
POINTS = og.PairwiseCost(X, Y)
TAKES_A_COST = {
    "init": og.sinkhorn.init,
    "step": lambda cost: og.sinkhorn.step(STATE, cost, epsilon=1.0),
    "run": lambda cost: og.sinkhorn.run(cost, epsilon=1.0),
    "value": lambda cost: og.sinkhorn.value(cost, epsilon=1.0),
    "plan": lambda cost: og.sinkhorn.plan(cost, STATE, epsilon=1.0),
    "marginals": lambda cost: og.sinkhorn.marginals(cost, STATE, epsilon=1.0),
    "apply_plan": lambda cost: og.sinkhorn.apply_plan(cost, STATE, X, epsilon=1.0),
    "primal_cost": lambda cost: og.sinkhorn.primal_cost(cost, STATE, epsilon=1.0),
    "sample_plan": lambda cost: og.sinkhorn.sample_plan(KEY, cost, STATE, epsilon=1.0),
}


@pytest.mark.parametrize("name", TAKES_A_COST)
def test_a_matrix_is_a_cost(name):
    for one, other in zip(*(jax.tree.leaves(TAKES_A_COST[name](cost)) for cost in (MATRIX, COST)), strict=True):
        np.testing.assert_array_equal(one, other)


KEY = jax.random.key(0)
WRONG = {
    "a state of another size": lambda: og.sinkhorn.plan(COST, og.sinkhorn.State(np.zeros(1), np.zeros(N)), epsilon=1.0),
    "no state": lambda: og.sinkhorn.marginals(COST, None, epsilon=1.0),
    "a state to start from": lambda: og.sinkhorn.run(COST, epsilon=1.0, state=og.sinkhorn.State(1.0, 2.0)),
    "no cost": lambda: og.sinkhorn.apply_plan(MATRIX[0], STATE, X, epsilon=1.0),
    "no cost to begin with": lambda: og.sinkhorn.init("matrix"),
    "vectors": lambda: og.sinkhorn.apply_plan(COST, STATE, X[:3], epsilon=1.0),
    "strings": lambda: og.sinkhorn.apply_plan(COST, STATE, ["a"] * N, epsilon=1.0),
    "pairs of two lengths": lambda: POINTS.pairs(np.arange(3), np.arange(2)),
    "an index": lambda: POINTS.row(0.5),
    "steps": lambda: og.sinkhorn.value(COST, epsilon=1.0, max_steps="many"),
    "a way to hold": lambda: og.sinkhorn.value(COST, epsilon=1.0, dense="yes"),
    "factors": lambda: og.costs.product(X, Y),
    "no function": lambda: CustomCost(3),
    "an axis": lambda: og.sinkhorn.apply_plan(COST, STATE, X, epsilon=1.0, axis=2),
    "an axis of softmin": lambda: POINTS.softmin(1.0, np.zeros(N), axis=-1),
    "log weights": lambda: POINTS.softmin(1.0, np.zeros(N), np.zeros(3)),
    "epsilon of softmin": lambda: POINTS.softmin(np.ones(2), np.zeros(N)),
    "weights of a mean": lambda: POINTS.mean(np.ones(3)),
    "epsilon": lambda: og.sinkhorn.primal_cost(COST, STATE, epsilon=[1.0, 2.0]),
    "epsilon as a string": lambda: og.sinkhorn.primal_cost(COST, STATE, epsilon="small"),
    "a seed for a key": lambda: og.sinkhorn.sample_plan(0, COST, STATE, epsilon=1.0),
    "pairs": lambda: og.sinkhorn.sample_plan(KEY, COST, STATE, epsilon=1.0, pairing="iid", num=2.5),
    "sweeps": lambda: og.sinkhorn.sample_plan(KEY, COST, STATE, epsilon=1.0, num_sweeps=-1),
    "a pairing": lambda: og.sinkhorn.sample_plan(KEY, COST, STATE, epsilon=1.0, pairing=None),
    "complex costs": lambda: og.DenseCost(MATRIX + 1j),
    "a vector of costs": lambda: og.DenseCost(MATRIX[0]),
    "ragged points": lambda: og.PairwiseCost([[0.0], [1.0, 2.0]], Y),
    "masked points": lambda: og.PairwiseCost(np.ma.masked_array(X), Y),
    "a block": lambda: og.PairwiseCost(X, Y, block=1e6),
    "a class for a cost": lambda: og.PairwiseCost(X, Y, Euclidean),
    "scales": lambda: og.PairwiseCost(X, Y, Scaled(np.ones(2))),
    "a cost that is no number": lambda: og.PairwiseCost(X, Y, lambda x, y: x - y).matrix(),
    "vectors of two sizes": lambda: Euclidean()(X[0], Y[0, :2]),
    "clouds of two dimensions": lambda: Cosine().pairwise(X, Y[:, :2]),
    "p as a string": lambda: PNorm("2"),
    "no clouds": lambda: og.pad_clouds([]),
    "an array of clouds": lambda: og.pad_clouds(X),
    "a small size": lambda: og.pad_clouds([X, Y], size=3),
    "clouds of two spaces": lambda: og.pad_clouds([X, Y[:, :2]]),
    "too few weights": lambda: og.pad_clouds([X, Y], [None]),
    "a geometry": lambda: og.from_ott(COST),
    "a cost for ott": lambda: og.to_ott(MATRIX),
    "a divergence of two spaces": lambda: og.sinkhorn_divergence(X, Y[:, :2], epsilon=1.0),
    "directions": lambda: og.eval.sliced_w2_sq(KEY, X, Y, 16.5),
    "few directions": lambda: og.eval.sliced_w2_sq(KEY, X, Y, 8),
    "weights of samples": lambda: og.eval.sliced_w2_sq(KEY, X, Y, 16, np.ones(2)),
    "a seed for directions": lambda: og.eval.sliced_w2_sq(3, X, Y),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("ignore")  # of another library's import
@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_refused_with_a_remedy(name):
    with pytest.raises((ValueError, TypeError), match=r"give|needed|choose|must|needs|return one") as caught:
        WRONG[name]()
    assert "otgen" in traceback.extract_tb(caught.value.__traceback__)[-1].filename
