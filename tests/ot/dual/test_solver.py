import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import otgen as og
from otgen.ot import dual
from otgen.ot.costs import DenseCost, PairwiseCost
from otgen.ot.dual import solver

BOTH = pytest.mark.parametrize("smoothing", ["entropic", "quadratic"])
FIRST = pytest.mark.parametrize("smoothing", ["entropic", pytest.param("quadratic", marks=pytest.mark.slow)])


def problem(n=12, m=9, seed=0):
    random = np.random.default_rng(seed)
    return random.uniform(size=(n, m)), random.dirichlet(3 * np.ones(n)), random.dirichlet(3 * np.ones(m))


def sinkhorn(cost, a, b, epsilon, steps=5000):
    """Plain Sinkhorn in the log domain, for comparison only."""
    f, g = np.zeros(len(a)), np.zeros(len(b))
    for _ in range(steps):
        g = -epsilon * np.log(np.sum(a[:, None] * np.exp((f[:, None] - cost) / epsilon), 0))
        f = -epsilon * np.log(np.sum(b * np.exp((g - cost) / epsilon), 1))
    return np.exp((f[:, None] + g - cost) / epsilon)


def objective(cost, a, b, epsilon, smoothing, r):
    entropy = np.where(r > 0, r * np.log(np.where(r > 0, r, 1)), 0) - r + 1
    return a @ (cost * r + epsilon * (entropy if smoothing == "entropic" else 0.5 * r**2)) @ b


def test_entropic_optimum_is_sinkhorns(x64):
    cost, a, b = problem()
    state, info = dual.run(cost, a, b, epsilon=0.1, tol=1e-12)
    r = sinkhorn(cost, a, b, 0.1)
    assert int(info.status) == og.Status.CONVERGED
    np.testing.assert_allclose(dual.density(cost, *state, epsilon=0.1), r, atol=1e-6)
    assert float(info.dual_value) == pytest.approx(objective(cost, a, b, 0.1, "entropic", r), abs=1e-9)


def test_quadratic_optimum_is_that_of_a_quadratic_program(x64):
    from scipy.optimize import nnls

    # <C, P> + epsilon / 2 E r^2 = |scale (r + C / epsilon)|^2 + a constant, with the marginals as heavy equations.
    cost, a, b = problem()
    n, m = cost.shape
    marginals = 1e5 * np.concatenate([np.kron(np.eye(n), b), np.kron(a, np.eye(m))])
    scale = np.sqrt(0.05 * np.outer(a, b).ravel())
    r, _ = nnls(
        np.concatenate([np.diag(scale), marginals]), np.concatenate([-scale * cost.ravel() / 0.1, np.full(n + m, 1e5)])
    )
    _, info = dual.run(cost, a, b, epsilon=0.1, smoothing="quadratic", tol=1e-12)
    optimum = objective(cost, a, b, 0.1, "quadratic", r.reshape(n, m))
    assert float(info.primal_value) == pytest.approx(optimum, abs=1e-8)


@BOTH
@pytest.mark.parametrize("epsilon", [1.0, 0.1, 0.01])
def test_the_gap_closes_and_the_plan_is_feasible(x64, smoothing, epsilon):
    cost, a, b = problem()
    state, info = dual.run(cost, a, b, epsilon=epsilon, smoothing=smoothing, tol=1e-8)
    numbers = {"epsilon": epsilon, "smoothing": smoothing}
    assert 0 <= float(info.gap) < 1e-8
    rows, columns = dual.marginals(cost, *state, a, b, **numbers)
    assert np.abs(rows - a).sum() < 1e-4
    np.testing.assert_allclose(columns, b, atol=1e-12)
    r = np.asarray(dual.density(cost, *state, **numbers))
    assert objective(cost, a, b, epsilon, smoothing, r) == pytest.approx(float(info.dual_value), abs=1e-4 * epsilon)
    assert float(dual.dual_value(cost, *state, a, b, **numbers)) == pytest.approx(float(info.dual_value), abs=1e-12)
    assert float(a @ state.f) == pytest.approx(0, abs=1e-12)
    if smoothing == "quadratic" and epsilon < 0.1:
        assert (r == 0).mean() > 0.7  # the unsmoothed plan would have at least 88 of 108


@BOTH
def test_the_value_solves_and_its_gradients_are_those_of_the_optimum(x64, smoothing):
    cost, a, b = problem()
    numbers = {"epsilon": 0.1, "smoothing": smoothing, "tol": 1e-10}

    def value(cost, a, epsilon):
        return dual.value(cost, a, b, **{**numbers, "epsilon": epsilon})

    found, slopes = jax.value_and_grad(value, argnums=(0, 1, 2))(cost, a, 0.1)
    state, info = dual.run(cost, a, b, **numbers)
    assert float(found) == pytest.approx(float(info.dual_value), abs=1e-10)
    assert dual.value(cost, a, b, return_info=True, **numbers)[1].num_steps == info.num_steps
    plan = a[:, None] * np.asarray(dual.density(cost, *state, epsilon=0.1, smoothing=smoothing)) * b
    np.testing.assert_allclose(slopes[0], plan, atol=1e-5)
    way = a * np.arange(-6, 6)  # on which the total of the weights stays
    way -= a * way.sum()
    for number, step in ((1, way), (2, 1.0)):
        ends = [[cost, a, 0.1], [cost, a, 0.1]]
        for end, sign in zip(ends, (1, -1), strict=True):
            end[number] = end[number] + sign * 1e-4 * step
        difference = (float(value(*ends[0])) - float(value(*ends[1]))) / 2e-4
        assert float(np.sum(slopes[number] * step)) == pytest.approx(difference, rel=1e-4, abs=1e-6)


@FIRST
def test_the_gap_brackets_the_optimum_at_any_potentials(x64, smoothing):
    cost, a, b = problem()
    _, info = dual.run(cost, a, b, epsilon=0.1, smoothing=smoothing, tol=1e-12)
    random = np.random.default_rng(5)
    for scale in (0.01, 0.1, 1.0):
        f, g = scale * random.normal(size=12), scale * random.normal(size=9)
        lower = float(dual.dual_value(cost, f, g, a, b, epsilon=0.1, smoothing=smoothing))
        gap = float(dual.gap(cost, f, g, a, b, epsilon=0.1, smoothing=smoothing))
        assert lower <= float(info.dual_value) + 1e-12
        assert lower + gap >= float(info.dual_value) - 1e-12
        best = dual.transform(cost, f, a, epsilon=0.1, smoothing=smoothing)
        raised = float(dual.dual_value(cost, f, best, a, b, epsilon=0.1, smoothing=smoothing))
        assert raised >= lower
        semi = float(dual.semidual(cost, f, a, b, epsilon=0.1, smoothing=smoothing))
        assert semi == pytest.approx(raised, abs=1e-12)


@BOTH
def test_gradients_are_finite_differences_and_plans(x64, smoothing):
    cost, a, b = (jnp.asarray(of) for of in problem(5, 4))
    f, g = jnp.linspace(-0.2, 0.3, 5), jnp.linspace(0.1, 0.4, 4)

    @jax.jit
    def both(cost, f, g, a, epsilon):
        numbers = {"epsilon": epsilon, "smoothing": smoothing}
        return dual.dual_value(cost, f, g, a, b, **numbers) + 2 * dual.semidual(cost, f, a, b, **numbers)

    check_grads(both, (cost, f, g, a, 0.3), order=1, modes=["rev"], rtol=1e-5)
    plan = a[:, None] * b * dual.density(cost, f, g, epsilon=0.3, smoothing=smoothing)
    slope = jax.grad(dual.dual_value)(cost, f, g, a, b, epsilon=0.3, smoothing=smoothing)
    np.testing.assert_allclose(slope, plan, atol=1e-12)


@pytest.mark.slow
@BOTH
def test_second_derivatives_are_finite_differences(x64, smoothing):
    cost, a, b = (jnp.asarray(of) for of in problem(5, 4))

    def semidual(cost, f, a, epsilon):
        return dual.semidual(cost, f, a, b, epsilon=epsilon, smoothing=smoothing)

    check_grads(jax.jit(semidual), (cost, jnp.linspace(-0.2, 0.3, 5), a, 0.3), order=2, modes=["rev"], rtol=1e-4)


@FIRST
def test_weights_of_zero(x64, smoothing):
    cost, a, b = problem()
    a[3], b[2] = 0, 0
    a, b = a / a.sum(), b / b.sum()
    state, info = dual.run(cost, a, b, epsilon=0.05, smoothing=smoothing, tol=1e-9)
    kept = np.ix_(a > 0, b > 0)
    alone = cost[kept], state.f[a > 0], state.g[b > 0], a[a > 0], b[b > 0]
    assert float(dual.gap(*alone, epsilon=0.05, smoothing=smoothing)) < 1e-9
    value = dual.dual_value(*alone, epsilon=0.05, smoothing=smoothing)
    assert float(info.dual_value) == pytest.approx(float(value), abs=1e-12)
    assert np.isfinite(state.f).all()
    assert np.isfinite(state.g).all()

    def semidual(cost, a, b):
        return dual.semidual(cost, state.f, a, b, epsilon=0.05, smoothing=smoothing)

    assert all(np.isfinite(slope).all() for slope in jax.jit(jax.grad(semidual, (0, 1, 2)))(cost, a, b))


@pytest.mark.slow
def test_streamed_costs_and_matrices_agree():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(30, 3)).astype(np.float32), random.normal(size=(20, 3)).astype(np.float32)
    streamed = PairwiseCost(x, y, block=64)
    state, info = dual.run(streamed, epsilon=1.0, smoothing="quadratic")
    dense = DenseCost(streamed.matrix())
    assert float(dual.gap(dense, *state, epsilon=1.0, smoothing="quadratic")) < 1e-5
    assert int(info.status) == og.Status.CONVERGED
    assert float(info.dual_value) == pytest.approx(
        float(dual.dual_value(dense, *state, epsilon=1.0, smoothing="quadratic")), rel=1e-6
    )
    again, info = dual.run(streamed, epsilon=1.0, smoothing="quadratic", state=state)
    assert int(info.num_steps) == 0
    np.testing.assert_allclose(again.f, state.f, atol=1e-6)


@pytest.mark.slow
@BOTH
def test_batches_estimate_the_dual_without_bias(x64, smoothing):
    random = np.random.default_rng(3)
    x, y = random.normal(size=(60, 2)), random.normal(size=(50, 2)) + 1
    cost = PairwiseCost(x, y)
    f, g = 0.3 * np.sin(x[:, 0]), 0.2 * np.cos(y[:, 1])
    exact = float(dual.dual_value(cost, f, g, epsilon=0.5, smoothing=smoothing))
    semi = float(dual.semidual(cost, f, epsilon=0.5, smoothing=smoothing))

    @jax.jit
    def batch(key):
        i, j = (jax.random.randint(k, (8,), 0, num) for k, num in zip(jax.random.split(key), (60, 50), strict=True))
        xs, ys, fs, gs = (jnp.asarray(of)[at] for of, at in ((x, i), (y, j), (f, i), (g, j)))
        both = dual.objective(fs, gs, xs, ys, epsilon=0.5, smoothing=smoothing)
        return both, dual.semi_objective(f, x, ys, epsilon=0.5, smoothing=smoothing)

    both, half = jax.lax.map(batch, jax.random.split(jax.random.key(0), 4000))
    for estimates, truth in ((both, exact), (half, semi)):
        assert abs(float(estimates.mean()) - truth) < 4 * float(estimates.std()) / np.sqrt(4000)


@FIRST
def test_callables_and_arrays_agree_and_have_gradients(x64, smoothing):
    random = np.random.default_rng(4)
    x, y = jnp.asarray(random.normal(size=(7, 2))), jnp.asarray(random.normal(size=(6, 2)))

    def potential(theta, points):
        return jnp.sin(points @ theta)

    def loss(theta, x, called=True):
        f = (lambda points: potential(theta, points)) if called else potential(theta, x)
        g = (lambda points: potential(-theta, points)) if called else potential(-theta, y)
        both = dual.objective(f, g, x, y, epsilon=0.7, smoothing=smoothing)
        return both + dual.semi_objective(f, x, y, epsilon=0.7, smoothing=smoothing)

    theta = jnp.array([0.3, -0.2])
    assert float(loss(theta, x)) == float(loss(theta, x, called=False))
    check_grads(jax.jit(loss), (theta, x), order=1, modes=["rev"], rtol=1e-5)


def test_the_gradient_of_a_generator_is_that_of_the_transport(x64):
    random = np.random.default_rng(4)
    x, y = jnp.asarray(random.normal(size=(12, 2))), jnp.asarray(random.normal(size=(9, 2)))

    def solved(x):
        return dual.run(PairwiseCost(x, y).matrix(), epsilon=0.5, smoothing="quadratic", tol=1e-13)

    state, _ = solved(x)
    slope = jax.grad(lambda x: dual.objective(*state, x, y, epsilon=0.5, smoothing="quadratic"))(x)
    move = jnp.asarray(random.normal(size=x.shape))
    change = (solved(x + 1e-4 * move)[1].dual_value - solved(x - 1e-4 * move)[1].dual_value) / 2e-4
    assert float(jnp.sum(slope * move)) == pytest.approx(float(change), rel=1e-5)


@pytest.mark.slow
def test_devices_average():
    x, y = jax.random.normal(jax.random.key(0), (4, 8, 2)), jax.random.normal(jax.random.key(1), (4, 8, 2))
    f, g = x[..., 0], y[..., 1]

    def one(f, g, x, y, axis_name=None):
        return dual.objective(f, g, x, y, epsilon=0.5, smoothing="quadratic", axis_name=axis_name)

    alone = jnp.mean(jax.vmap(one)(f, g, x, y))
    together = jax.vmap(lambda *of: one(*of, axis_name="devices"), axis_name="devices")(f, g, x, y)
    np.testing.assert_allclose(together, alone, rtol=1e-6)
    pmapped = jax.pmap(lambda *of: one(*of, axis_name="devices"), axis_name="devices")(f[:1], g[:1], x[:1], y[:1])
    np.testing.assert_allclose(pmapped[0], one(f[0], g[0], x[0], y[0]), rtol=1e-6)


@pytest.mark.slow
def test_many_epsilons_in_one_trace(x64):
    cost, a, b = problem()
    before = solver._run._cache_size()
    epsilons = jnp.array([1.0, 0.3, 0.1])
    values = [float(dual.run(cost, a, b, epsilon=epsilon, tol=1e-4)[1].dual_value) for epsilon in epsilons]
    assert solver._run._cache_size() <= before + 1
    assert values[0] > values[1] > values[2]
    batched = jax.vmap(lambda epsilon: dual.run(cost, a, b, epsilon=epsilon, tol=1e-4)[1])(epsilons)
    np.testing.assert_allclose(batched.dual_value, values, atol=2e-4)
    assert (batched.status == og.Status.CONVERGED).all()


def test_status_tells_how_it_ended(x64):
    cost, a, b = problem()
    _, info = dual.run(cost, a, b, epsilon=1e-3, max_steps=7)
    assert (int(info.status), int(info.num_steps)) == (og.Status.MAX_STEPS, 7)
    broken = dual.State(jnp.full(12, jnp.nan), jnp.zeros(9))
    _, info = dual.run(cost, a, b, epsilon=0.1, state=broken)
    assert int(info.status) == og.Status.NONFINITE


def test_bad_input_says_what_to_do():
    cost, a, b = problem()
    for epsilon in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="epsilon"):
            dual.run(cost, epsilon=epsilon)
    with pytest.raises(ValueError, match="choose one of entropic, quadratic"):
        dual.run(cost, epsilon=1.0, smoothing="none")
    with pytest.raises(ValueError, match=r"shape \(9,\): give one weight per point"):
        dual.run(cost, b, epsilon=1.0)
    with pytest.raises(ValueError, match="divide by the sum"):
        dual.run(cost, 2 * a, epsilon=1.0)
    with pytest.raises(ValueError, match="not negative"):
        dual.run(cost, a - 0.2, epsilon=1.0)
    with pytest.raises(ValueError, match="NaN or infinite"):
        dual.run(np.full((2, 2), -np.inf), epsilon=1.0)
    with pytest.raises(ValueError, match=r"f has shape \(9,\)"):
        dual.dual_value(cost, b, b, epsilon=1.0)
    with pytest.raises(ValueError, match="tol"):
        dual.run(cost, epsilon=1.0, tol=0.0)
    with pytest.raises(ValueError, match="max_steps"):
        dual.run(cost, epsilon=1.0, max_steps=-1)


def test_a_semidual_with_a_point_of_weight_zero_is_finite():
    value = og.dual.semidual(np.array([[10.0], [0.0]]), np.zeros(2), np.array([1.0, 0.0]), epsilon=0.1)
    np.testing.assert_allclose(value, 10.0, rtol=1e-6)


@pytest.mark.slow
def test_float32_converges_where_potentials_could_drift():
    """A semi-dual is the same for f and f + c: in float32 an ascent that lets c grow ends with a wrong bound."""
    line = jnp.linspace(0.0, 1.0, 80)[:, None]

    def histogram(*bumps):
        found = sum(share * jnp.exp(-0.5 * ((line[:, 0] - at) / width) ** 2) / width for at, width, share in bumps)
        return (found + 1e-3) / (found + 1e-3).sum()

    a, b = histogram((0.3, 0.08, 1.0)), histogram((0.35, 0.05, 0.4), (0.75, 0.1, 0.6))
    cost = PairwiseCost(line, line)
    _, info = dual.run(cost, a, b, epsilon=0.01, tol=1e-5)
    assert og.Status(int(info.status)).name == "CONVERGED"
    assert float(info.dual_value) == pytest.approx(
        float(og.sinkhorn.value(cost, a, b, epsilon=0.01, tol=1e-6)), abs=1e-5
    )
