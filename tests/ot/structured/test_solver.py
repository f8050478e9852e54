import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import otgen as og
from otgen.ot import dual, structured
from otgen.ot.structured import Weights, solver
from tests.support.linear_program import transport

pytestmark = pytest.mark.usefixtures("x64")

BOTH = pytest.mark.parametrize("smoothing", ["entropic", "quadratic"])
FIRST = pytest.mark.parametrize("smoothing", ["entropic", pytest.param("quadratic", marks=pytest.mark.slow)])
EPSILON = 0.1
# lam, entropic optimum, I(z; x), I(c; x), quadratic optimum, E r_c^2
GOLDEN = [
    (0.0, 0.2709106, 0.76844, 0.14815, 0.3229434, 1.18832),
    (0.025, 0.2667004, 0.80348, 0.19056, 0.3078306, 1.23250),
    (0.05, 0.2613099, 0.84424, 0.24120, 0.2920571, 1.29360),
    (0.075, 0.2546668, 0.87944, 0.29077, 0.2753553, 1.38777),
    (0.09, 0.2499265, 0.92300, 0.35539, 0.2646029, 1.48071),
]


def golden():
    random = np.random.default_rng(0)
    data = random.dirichlet(5 * np.ones(5))
    return random.uniform(size=(3, 4, 5)), Weights(data=data)


def uneven(seed=1):
    """The golden sizes with weights that differ everywhere, noises by code."""
    random = np.random.default_rng(seed)
    weights = Weights(random.dirichlet(np.ones(3)), random.dirichlet(np.ones(4), 3), random.dirichlet(np.ones(5)))
    return random.uniform(size=(3, 4, 5)), weights


def solve(cost, weights, lam, smoothing="entropic", tol=1e-12):
    numbers = {"epsilon": EPSILON, "lam": lam, "smoothing": smoothing}
    state, info = structured.run(cost, weights, tol=tol, **numbers)
    return state, info, numbers


def feasible(r, weights, atol):
    data = np.asarray(weights.data)
    np.testing.assert_allclose(np.asarray(r) @ data, 1, atol=atol)
    code = np.full(3, 1 / 3) if weights.code is None else weights.code
    noise = np.full((3, 4), 1 / 4) if weights.noise is None else weights.noise
    np.testing.assert_allclose(np.einsum("k,km,kmb->b", code, noise, r), 1, atol=1e-9)


@pytest.mark.parametrize(("lam", "value", "latent", "code", "square_value", "square"), GOLDEN)
def test_golden_optima(lam, value, latent, code, square_value, square):
    cost, weights = golden()
    state, info, numbers = solve(cost, weights, lam)
    assert 0 <= float(info.gap) < 1e-6
    met = float(info.gap) < 1e-12 * float(info.scale)
    assert int(info.status) in ({og.Status.CONVERGED} if met else {og.Status.MAX_STEPS, og.Status.STALLED})
    r = structured.density(cost, state, weights, **numbers)
    feasible(r, weights, 1e-7)
    told = structured.information(r, weights)
    assert float(info.primal_value) == pytest.approx(value, abs=1e-6)
    assert float(told.latent) == pytest.approx(latent, abs=1e-5)
    assert float(told.code) == pytest.approx(code, abs=1e-5)

    state, info, numbers = solve(cost, weights, lam, "quadratic")
    r = structured.density(cost, state, weights, **numbers)
    feasible(r, weights, 1e-7)
    assert 0 <= float(info.gap) < 1e-6
    objective = np.einsum("kmb,b->", cost * r, weights.data) / 12 + structured.regulariser(r, weights, **numbers)
    assert float(info.primal_value) == pytest.approx(float(objective), abs=1e-9)
    assert float(info.primal_value) == pytest.approx(square_value, abs=1e-6)
    assert float(structured.information(r, weights).code_square) == pytest.approx(square, abs=1e-5)
    if lam == 0.09:
        assert (np.asarray(r.mean(1)) == 0).sum() == 1  # one of 15 code-data pairs, 6.7 %


@FIRST
def test_information_rises_and_the_optimum_falls_with_lam(smoothing):
    cost, weights = uneven()
    values, codes = [], []
    for lam in (0.0, 0.03, 0.06, 0.09, 0.098, 0.1):
        state, info, numbers = solve(cost, weights, lam, smoothing, tol=1e-7)
        assert int(info.status) == og.Status.CONVERGED
        r = structured.density(cost, state, weights, **numbers)
        told = structured.information(r, weights)
        values.append(float(info.primal_value))
        codes.append(float(told.code if smoothing == "entropic" else told.code_square))
    assert (np.diff(values) < 0).all()
    assert (np.diff(codes) > 0).all()


def test_no_smoothing_of_the_code_is_a_linear_program_along_it():
    # Noises that cost the same and lam = epsilon: the regulariser vanishes, and unsmoothed transport of codes is left.
    random = np.random.default_rng(2)
    cost, weights = random.uniform(size=(3, 5)), uneven()[1]
    _, exact = transport(cost, weights.code, weights.data)
    for smoothing in ("entropic", "quadratic"):
        _, info, _ = solve(np.repeat(cost[:, None], 4, 1), weights, EPSILON, smoothing, tol=1e-7)
        assert int(info.status) == og.Status.CONVERGED
        assert float(info.dual_value) <= exact + 1e-8 <= float(info.primal_value) + 2e-8


@BOTH
@pytest.mark.parametrize("lam", [0.0, 0.06, 0.1])
def test_dual_and_semidual_bound_the_optimum_and_agree(smoothing, lam):
    cost, weights = uneven()
    state, info, numbers = solve(cost, weights, lam, smoothing, tol=1e-7)
    random = np.random.default_rng(3)
    for scale in (0.0, 0.02, 0.3):
        f = state.f + scale * random.normal(size=(3, 4))
        g = structured.transform(cost, f, weights, **numbers)
        semi = float(structured.semidual(cost, f, weights, **numbers))
        assert semi <= float(info.primal_value) + 1e-8
        assert float(structured.dual_value(cost, f, g, weights, **numbers)) == pytest.approx(semi, abs=1e-8)
        for move in (-0.03, 0.02):
            assert float(structured.dual_value(cost, f, g + move, weights, **numbers)) < semi
    assert semi < float(info.primal_value)


@FIRST
def test_densities_of_potentials_and_of_the_state_agree(smoothing):
    cost, weights = uneven()
    state, _, numbers = solve(cost, weights, 0.07, smoothing)
    r = structured.density(cost, state, weights, **numbers)
    np.testing.assert_allclose(structured.dual_density(cost, state.f, state.g, weights, **numbers), r, atol=1e-6)
    w = structured.conditional(cost, state.f, weights, **numbers)
    np.testing.assert_allclose(w.sum((0, 1)), 1, atol=1e-12)
    np.testing.assert_allclose(w, weights.code[:, None, None] * weights.noise[..., None] * r, atol=1e-12)


def test_conditional_weights_are_two_softmaxes():
    cost, _ = golden()
    f = jnp.asarray(np.random.default_rng(1).normal(size=(3, 4)))
    inner = (f[..., None] - cost) / EPSILON
    outer = EPSILON / 0.04 * jax.scipy.special.logsumexp(inner, axis=1)
    expected = jax.nn.softmax(outer, 0)[:, None] * jax.nn.softmax(inner, 1)
    np.testing.assert_allclose(structured.conditional(cost, f, epsilon=EPSILON, lam=0.06), expected, atol=1e-12)
    hard = structured.conditional(cost, f, epsilon=EPSILON, lam=EPSILON)
    np.testing.assert_allclose(hard.sum(1), jax.nn.one_hot(outer.argmax(0), 3).T, atol=1e-12)


@BOTH
def test_chain_rule(smoothing):
    cost, weights = golden()
    state, _, numbers = solve(cost, weights, 0.06, smoothing)
    r = np.asarray(structured.density(cost, state, weights, **numbers))
    code, data = r.mean(1), weights.data
    if smoothing == "entropic":
        between = np.mean(code * np.log(code), 0) @ data
        along = np.mean(r * np.log(r / code[:, None]), (0, 1)) @ data
    else:
        between, along = 0.5 * np.mean(code**2, 0) @ data, 0.5 * np.mean(np.var(r, axis=1), 0) @ data
    regulariser = structured.regulariser(r, weights, **numbers)
    assert float(regulariser) == pytest.approx(0.04 * between + EPSILON * along, abs=1e-9)


@BOTH
def test_gradients_are_finite_differences(smoothing):
    cost, weights = (jax.tree.map(jnp.asarray, of) for of in uneven())
    f = jnp.asarray(0.1 * np.random.default_rng(1).normal(size=(3, 4)))

    @jax.jit
    def both(cost, f, g, weights, epsilon, lam):
        numbers = {"epsilon": epsilon, "lam": lam, "smoothing": smoothing}
        semi = structured.semidual(cost, f, weights, **numbers)
        return semi + 2 * structured.dual_value(cost, f, g, weights, **numbers)

    slopes = jax.jit(jax.grad(structured.semidual), static_argnames="smoothing")
    for lam in (0.001, 0.06):
        numbers = {"epsilon": EPSILON, "lam": lam, "smoothing": smoothing}
        g = structured.transform(cost, f, weights, **numbers) - 0.01
        check_grads(both, (cost, f, g, weights, EPSILON, lam), order=1, modes=["rev"], rtol=1e-4, eps=1e-6)
        slope = slopes(cost, f, weights, **numbers)
        w = structured.conditional(cost, f, weights, **numbers)
        np.testing.assert_allclose(slope, weights.data * w, atol=1e-9)


@BOTH
def test_gradients_stay_finite_at_lam_epsilon_and_weights_of_zero(smoothing):
    cost, weights = (jax.tree.map(jnp.asarray, of) for of in uneven())
    zero = Weights(jnp.array([0.5, 0.5, 0.0]), weights.noise.at[0].set(jnp.array([0.0, 0.3, 0.7, 0.0])), weights.data)
    state, info, _ = solve(cost, zero, EPSILON, smoothing, tol=1e-7)
    assert int(info.status) == og.Status.CONVERGED

    def value(*of):
        return structured.semidual(of[0], of[1], of[2], epsilon=of[3], lam=of[4], smoothing=smoothing)

    slopes = jax.jit(jax.grad(value, (0, 1, 2, 3, 4)))(cost, state.f, zero, EPSILON, EPSILON)
    assert all(np.isfinite(of).all() for of in jax.tree.leaves(slopes))
    moved = structured.semidual(cost.at[2].add(-5), state.f, zero, epsilon=EPSILON, lam=EPSILON, smoothing=smoothing)
    assert float(moved) == pytest.approx(float(info.dual_value), abs=1e-9)


def sinkhorn(cost, a, b, epsilon, steps=5000):
    """Plain Sinkhorn in the log domain, for comparison only."""
    f, g = np.zeros(len(a)), np.zeros(len(b))
    for _ in range(steps):
        g = -epsilon * np.log(np.sum(a[:, None] * np.exp((f[:, None] - cost) / epsilon), 0))
        f = -epsilon * np.log(np.sum(b * np.exp((g - cost) / epsilon), 1))
    return np.exp((f[:, None] + g - cost) / epsilon)


@pytest.mark.parametrize("lam", [0.05, 0.09])
def test_plain_sinkhorn_on_the_perturbed_cost_gives_the_structured_plan(lam):
    cost, weights = uneven()
    state, _, numbers = solve(cost, weights, lam, tol=1e-15)
    p = structured.perturbation(cost, state, weights, **numbers)
    perturbed = structured.perturbed_cost(cost, p)
    assert perturbed.shape == (12, 5)
    mass = (weights.code[:, None] * weights.noise).ravel()
    plain = sinkhorn(np.asarray(perturbed.matrix()), mass, weights.data, EPSILON)
    r = structured.density(cost, state, weights, **numbers)
    np.testing.assert_allclose(plain.reshape(3, 4, 5), r, atol=1e-6)


@pytest.mark.slow
def test_the_perturbed_cost_of_the_quadratic_smoothing():
    cost, weights = uneven()
    state, _, numbers = solve(cost, weights, 0.08, "quadratic", tol=1e-15)
    r = structured.density(cost, state, weights, **numbers)
    p = structured.perturbation(cost, state, weights, **numbers)
    np.testing.assert_allclose(p, 0.08 * np.einsum("km,kmb->kb", weights.noise, r), atol=1e-12)
    mass = (weights.code[:, None] * weights.noise).ravel()
    perturbed = structured.perturbed_cost(cost, p)
    plain, info = dual.run(perturbed, mass, weights.data, epsilon=EPSILON, smoothing="quadratic", tol=1e-15)
    assert float(info.gap) < 1e-14
    density = dual.density(perturbed, *plain, epsilon=EPSILON, smoothing="quadratic")
    np.testing.assert_allclose(density.reshape(3, 4, 5), r, atol=1e-6)


@pytest.mark.slow
@BOTH
def test_the_alternation_falls_to_the_optimum(smoothing):
    cost, weights = golden()
    _, info, _ = solve(cost, weights, 0.05, smoothing)
    q, values = jnp.full((3, 5), 0.0 if smoothing == "entropic" else 1.0), []
    for _ in range(30):
        q, value = structured.alternate(
            cost, q, weights, epsilon=EPSILON, lam=0.05, smoothing=smoothing, tol=1e-12, max_steps=200
        )
        values.append(float(value))
    assert (np.diff(values) < 1e-10).all()
    assert values[0] > float(info.primal_value) + 1e-4
    assert values[-1] == pytest.approx(float(info.primal_value), abs=1e-6)
    beyond, _ = structured.alternate(cost, q, weights, epsilon=EPSILON, lam=0.2, smoothing=smoothing)
    assert np.isfinite(beyond).all()


def test_an_encoder_that_knows_the_posterior_is_the_perturbation():
    cost, weights = uneven()
    state, _, numbers = solve(cost, weights, 0.07)
    posterior = structured.conditional(cost, state.f, weights, **numbers).sum(1)
    p = structured.encoder_perturbation(jnp.log(posterior), weights.code, lam=0.07)
    np.testing.assert_allclose(p, structured.perturbation(cost, state, weights, **numbers), atol=1e-9)


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("lam", [0.05, 0.1])
def test_the_adversary_and_the_plan_are_a_saddle_point(smoothing, lam):
    cost, weights = golden()
    state, info, numbers = solve(cost, weights, lam, smoothing, tol=1e-10)
    p = np.asarray(structured.adversary(cost, state, weights, **numbers))
    r = np.asarray(structured.density(cost, state, weights, **numbers))

    def payoff(p, r):
        return float(structured.evaluate_payoff(cost, p, r, weights, **numbers))

    optimum = float(info.primal_value)
    assert payoff(p, r) == pytest.approx(optimum, abs=1e-6)
    budget = np.exp(p / EPSILON) if smoothing == "entropic" else 1 + p
    np.testing.assert_allclose(budget.mean(1), 1, atol=1e-9)
    random = np.random.default_rng(0)
    for _ in range(20):
        other = p + 0.05 * random.normal(size=p.shape)
        if smoothing == "entropic":
            other -= EPSILON * np.log(np.exp(other / EPSILON).mean(1, keepdims=True))
        else:
            other -= other.mean(1, keepdims=True)
        assert payoff(other, r) <= optimum + 1e-6
        plan = random.dirichlet(np.ones(60)).reshape(12, 5)
        for _ in range(300):
            plan *= (1 / 12) / plan.sum(1, keepdims=True)
            plan *= weights.data / plan.sum(0)
        assert payoff(p, (12 * plan / weights.data).reshape(3, 4, 5)) >= optimum - 1e-6


@pytest.mark.slow
def test_many_numbers_in_one_trace():
    cost, weights = golden()

    def optimum(lam):
        return structured.run(cost, weights, epsilon=EPSILON, lam=lam, tol=1e-7)[1].dual_value

    lams, before = jnp.array([0.0, 0.05, 0.1]), solver._run._cache_size()
    values = [float(optimum(lam)) for lam in lams]
    assert solver._run._cache_size() <= before + 1
    np.testing.assert_allclose(jax.vmap(optimum)(lams), values, atol=2e-7)


@pytest.mark.slow
def test_batches_and_devices_average():
    random = np.random.default_rng(0)
    cost, f = random.uniform(size=(3, 4, 40)), random.normal(size=(3, 4))
    for smoothing in ("entropic", "quadratic"):
        numbers = {"epsilon": EPSILON, "lam": 0.05, "smoothing": smoothing}
        whole = float(structured.semidual(cost, f, **numbers))
        shards = jnp.moveaxis(jnp.asarray(cost).reshape(3, 4, 4, 10), 2, 0)
        shared = jax.vmap(
            lambda cost, numbers=numbers: structured.semidual(cost, f, axis_name="devices", **numbers),
            axis_name="devices",
        )
        np.testing.assert_allclose(shared(shards), whole, rtol=1e-12)


@pytest.mark.slow
def test_float32_and_warm_start():
    cost, weights = golden()
    cost = cost.astype(np.float32)
    for lam in (0.0, 0.09):
        numbers = {"epsilon": EPSILON, "lam": lam}
        state, info = structured.run(cost, weights, tol=3e-6, **numbers)
        assert state.f.dtype == jnp.float32
        assert int(info.status) == og.Status.CONVERGED
        assert float(info.primal_value) == pytest.approx(GOLDEN[0][1] if lam == 0 else GOLDEN[-1][1], abs=1e-5)
        again, info = structured.run(cost, weights, tol=3e-6, state=state, **numbers)
        assert int(info.num_steps) == 0
        np.testing.assert_allclose(again.f, state.f, atol=1e-6)


@BOTH
def test_the_value_solves_and_its_gradient_is_the_plan(smoothing):
    cost, weights = uneven()
    state, info, numbers = solve(cost, weights, 0.05, smoothing)
    (value, said), slope = jax.value_and_grad(
        lambda cost: structured.value(cost, weights, tol=1e-12, return_info=True, **numbers), has_aux=True
    )(cost)
    assert info.dual_value - 1e-12 <= value <= info.primal_value + 1e-12
    assert said.num_steps == info.num_steps
    plan = np.asarray(structured.density(cost, state, weights, **numbers))
    np.testing.assert_allclose(slope, np.einsum("k,km,b,kmb->kmb", *weights, plan), atol=1e-5)


def test_bad_input_says_what_to_do():
    cost, weights = golden()
    for epsilon in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="epsilon"):
            structured.run(cost, weights, epsilon=epsilon, lam=0.0)
    for lam in (-0.1, 0.2, np.nan):
        with pytest.raises(ValueError, match="0 <= lam <= epsilon"):
            structured.run(cost, weights, epsilon=0.1, lam=lam)
    with pytest.raises(ValueError, match=r"\[codes, noises, data\]"):
        structured.run(cost[0, 0], epsilon=0.1, lam=0.0)
    with pytest.raises(ValueError, match="NaN or infinite"):
        structured.run(cost * np.nan, epsilon=0.1, lam=0.0)
    with pytest.raises(ValueError, match=r"weights.code has shape \(4,\)"):
        structured.run(cost, Weights(code=np.full(4, 0.25)), epsilon=0.1, lam=0.0)
    with pytest.raises(ValueError, match=r"weights.noise has shape \(4, 3\)"):
        structured.run(cost, Weights(noise=np.full((4, 3), 0.25)), epsilon=0.1, lam=0.0)
    with pytest.raises(ValueError, match="divide by the sum"):
        structured.run(cost, Weights(data=np.ones(5)), epsilon=0.1, lam=0.0)
    with pytest.raises(ValueError, match=r"f has shape \(4, 3\)"):
        structured.semidual(cost, np.zeros((4, 3)), epsilon=0.1, lam=0.0)
    with pytest.raises(ValueError, match="choose one of"):
        structured.semidual(cost, np.zeros((3, 4)), epsilon=0.1, lam=0.0, smoothing="cubic")
    with pytest.raises(ValueError, match=r"\[K, B\] or \[K, M, B\]"):
        structured.perturbed_cost(cost, np.zeros((4, 5)))
    with pytest.raises(ValueError, match="zero or more"):
        structured.alternate(cost, np.zeros((3, 5)), weights, epsilon=0.1, lam=-1.0)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.95, 0.99, 1.0])
def test_float32_converges_where_the_code_is_nearly_deterministic(share):
    keys = jax.random.split(jax.random.key(1), 2)
    angle = 0.5 * jnp.pi * jnp.arange(4)
    latents = 0.5 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)[:, None] + 0.4 * jax.random.normal(keys[0], (20, 2))
    cost = jnp.sum((latents[:, :, None] - 2 * jax.random.normal(keys[1], (96, 2))) ** 2, -1)
    _, info = og.structured.run(cost, epsilon=4.0, lam=share * 4.0, tol=1e-3)
    assert og.Status(int(info.status)).name == "CONVERGED"
    assert float(info.error) < 1e-4
