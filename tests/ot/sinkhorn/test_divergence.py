"""The Sinkhorn divergence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otgen as og
from otgen.ot.sinkhorn.divergence import Terms
from tests.support.clouds import clouds, matrix, reference


def test_the_divergence_is_debiased(x64):
    x, y, a, b = clouds(20, 15, 3)
    options = {"epsilon": 2.0, "tol": 1e-9}

    def divergence(x, y, a, b):
        return og.sinkhorn_divergence(x, y, a, b, **options)

    terms = [
        reference(matrix(*pair), *weights, 2.0)[1]
        for pair, weights in (((x, y), (a, b)), ((x, x), (a, a)), ((y, y), (b, b)))
    ]
    np.testing.assert_allclose(divergence(x, y, a, b), terms[0] - 0.5 * (terms[1] + terms[2]), rtol=1e-6)
    assert divergence(x, x, a, a) < 1e-12
    shuffled = np.random.default_rng(0).permutation(20)
    assert divergence(x, x[shuffled], a, a[shuffled]) < 1e-9
    x, v = jnp.asarray(x), np.random.default_rng(1).normal(size=x.shape)
    gradient = jax.jit(jax.grad(divergence))(x, y, a, b)
    expected = (divergence(x + 1e-4 * v, y, a, b) - divergence(x - 1e-4 * v, y, a, b)) / 2e-4
    np.testing.assert_allclose(jnp.sum(gradient * v), expected, rtol=1e-6)


@pytest.mark.slow
def test_the_divergence_is_not_negative():
    for seed in range(20):
        x, y, a, b = clouds(10, 10, 2, seed)
        for epsilon in (0.05, 1.0, 20.0):
            assert og.sinkhorn_divergence(x, x + 1e-3 * y, a, b, epsilon=epsilon) >= 0
    unbalanced = og.sinkhorn_divergence(x, y, a, 1.5 * b, epsilon=0.5, tau_a=0.8, tau_b=0.8)
    assert unbalanced > 0
    assert og.sinkhorn_divergence(x, x, a, a, epsilon=0.5, tau_a=0.8, tau_b=0.8) == 0


def test_the_divergence_knows_the_mass_of_uniform_weights():
    x, y, _, b = clouds(10, 10, 2)
    options = {"epsilon": 0.5, "tau_a": 0.8, "tau_b": 0.8}
    implied = og.sinkhorn_divergence(x, y, None, 2 * b, **options)
    np.testing.assert_allclose(implied, og.sinkhorn_divergence(x, y, np.ones(10) / 10, 2 * b, **options), rtol=1e-4)


def test_second_batches_stand_in_the_terms_of_one_law(x64):
    x, y, a, b = clouds(20, 15, 3)
    x_other, y_other, a_other, b_other = clouds(20, 15, 3, seed=1)
    laws = (x, y, a, b), {"x_other": x_other, "y_other": y_other, "a_other": a_other, "b_other": b_other}

    def divergence(x, x_other):
        return og.sinkhorn_divergence(x, *laws[0][1:], **{**laws[1], "x_other": x_other}, epsilon=2.0, tol=1e-9)

    pairs = ((x, y), (a, b)), ((x, x_other), (a, a_other)), ((y, y_other), (b, b_other))
    both, own, other = (reference(matrix(*pair), *weights, 2.0)[1] for pair, weights in pairs)
    np.testing.assert_allclose(divergence(x, x_other), both - 0.5 * (own + other), rtol=1e-6)
    gradients = jax.grad(divergence, (0, 1))(jnp.asarray(x), jnp.asarray(x_other))
    v, w = np.random.default_rng(1).normal(size=(2, 20, 3))
    expected = (divergence(x + 1e-4 * v, x_other + 1e-4 * w) - divergence(x - 1e-4 * v, x_other - 1e-4 * w)) / 2e-4
    np.testing.assert_allclose(jnp.sum(gradients[0] * v) + jnp.sum(gradients[1] * w), expected, rtol=1e-6)
    own = {"x_other": x, "a_other": a, "y_other": y, "b_other": b}  # the same batch again is no second one
    again = og.sinkhorn_divergence(*laws[0], **own, epsilon=2.0, tol=1e-9)
    np.testing.assert_allclose(again, og.sinkhorn_divergence(*laws[0], epsilon=2.0, tol=1e-9), rtol=1e-6)


def test_masses_of_unbalanced_second_batches(x64):
    x, y, a, b = clouds(20, 15, 3)
    options = {"epsilon": 2.0, "tau_a": 0.8, "tau_b": 0.8, "tol": 1e-9}
    shuffled = np.random.default_rng(0).permutation(20)
    again = {"x_other": x[shuffled], "a_other": a[shuffled]}
    expected = og.sinkhorn_divergence(x, y, a, 1.5 * b, **options)
    np.testing.assert_allclose(og.sinkhorn_divergence(x, y, a, 1.5 * b, **again, **options), expected, rtol=1e-6)


@pytest.mark.slow
def test_a_mask_forbids_points_to_stay(x64):
    x, y, a, b = clouds(20, 20, 3)
    a, b = (0.5 * (mass + 1 / mass.size) for mass in (a, b))

    def divergence(x, dense=None):
        return og.sinkhorn_divergence(x, y, a, b, epsilon=2.0, tol=1e-9, diagonal="mask", dense=dense)

    far = 1e4  # exp(-far / epsilon) is zero
    terms = [
        reference(cost, *weights, 2.0)[1]
        for cost, weights in (
            (matrix(x, y), (a, b)),
            (matrix(x, x) + far * np.eye(20), (a, a)),
            (matrix(y, y) + far * np.eye(20), (b, b)),
        )
    ]
    np.testing.assert_allclose(divergence(x), terms[0] - 0.5 * (terms[1] + terms[2]), rtol=1e-6)
    v = np.random.default_rng(1).normal(size=x.shape)
    expected = (divergence(x + 1e-4 * v) - divergence(x - 1e-4 * v)) / 2e-4
    np.testing.assert_allclose(jnp.sum(jax.grad(divergence)(jnp.asarray(x), False) * v), expected, rtol=1e-6)


def test_what_cannot_be_meant_by_a_second_batch_or_a_mask():
    x, y, a, _ = clouds(6, 6, 2)
    one, heavy = x[:1], np.array([0.6, 0.1, 0.1, 0.1, 0.1, 0.0])
    for arguments, word in (
        (((x, y), {"diagonal": "mask", "x_other": y}), "stands in"),
        (((x, y), {"diagonal": "mask", "y_other": y}), "stands in"),
        (((x, y), {"a_other": a}), "x_other"),
        (((x, y), {"x_other": x[:, :1]}), "same space"),
        (((one, y), {"diagonal": "mask"}), "two points"),
        (((x, y, heavy), {"diagonal": "mask"}), "half"),
        (((x, y), {"diagonal": "none"}), "diagonal"),
    ):
        with pytest.raises(ValueError, match=word):
            og.sinkhorn_divergence(*arguments[0], epsilon=1.0, **arguments[1])
    with pytest.raises(ValueError, match="2 x 3"):
        og.costs.MaskedDiagonal(og.DenseCost(np.ones((2, 3))))


def mean_gradient(form, size, draws, scale=1.0, epsilon=0.2):
    """Of the divergence of batches of N(0, scale^2 I) and N(0, I) in the plane, in the scale; with its error."""

    def value(scale, z, other, y):
        how = {"masked": {"diagonal": "mask"}, "second": {"x_other": scale * other}}.get(form, {})
        return og.sinkhorn_divergence(scale * z, y, epsilon=epsilon, **how)

    batches = jax.random.normal(jax.random.key(size), (draws, 3, size, 2))
    gradients = jax.jit(lambda scale: jax.lax.map(lambda it: jax.grad(value)(scale, *it), batches))(scale)
    return float(gradients.mean()), float(gradients.std() / draws**0.5)


def test_one_batch_shrinks_a_generator_and_two_do_not():
    """Equal laws: the gradient in the scale is zero."""
    once, error = mean_gradient("same", 24, 120)
    assert once > 8 * error  # descent makes the scale smaller
    twice, error = mean_gradient("second", 24, 120)
    assert abs(twice) < 4 * error
    assert abs(twice) < 0.3 * once


@pytest.mark.slow
def test_the_bias_of_the_gradient_falls_with_the_batch_and_is_least_with_a_second():
    """Against the closed form of Gaussians, where the laws are equal and where the generator is too narrow."""

    def exact(scale):
        x, y = scale**2 * jnp.eye(2), jnp.eye(2)
        both, own = (og.gaussian.entropic_bures_sq(x, it, epsilon=0.2) for it in (y, x))
        return both - 0.5 * own  # and a constant

    for scale in (1.0, 0.7):
        truth, biases = float(jax.grad(exact)(scale)), {}
        for form in ("same", "masked", "second"):
            found = [mean_gradient(form, size, 48_000 // size, scale) for size in (32, 64)]
            biases[form] = np.array([value - truth for value, _ in found])
            errors = np.array([error for _, error in found])
            if (form, scale) == ("second", 1.0):
                assert (np.abs(biases[form]) < 4 * errors).all()  # zero whatever the batch
            else:
                assert (biases[form] > 8 * errors).all()  # towards a smaller scale
                assert biases[form][1] < 0.75 * biases[form][0] + 3 * errors[1]
        assert (biases["masked"] < 0.65 * biases["same"]).all()
        assert (biases["second"] < 0.65 * biases["masked"]).all()


@pytest.mark.parametrize("kind", ["exact", pytest.param("others", marks=pytest.mark.slow)])
def test_solves_start_from_those_of_a_divergence_nearby(kind, x64):
    x, y, a, b = clouds(40, 30, 2)
    others = ({"diagonal": "mask"}, {"rho_a": 3.0, "rho_b": 3.0}, {"x_other": y, "a_other": b})
    for options in ({},) if kind == "exact" else others:
        given = {"epsilon": 0.2, "tol": 1e-8, "return_info": True, **options}
        value, info = og.sinkhorn_divergence(x, y, a, b, **given)
        again, fast = og.sinkhorn_divergence(x, y, a, b, state=info.state, **given)
        np.testing.assert_allclose(again, value, rtol=1e-7)
        assert fast.num_steps < 0.5 * info.num_steps, options
        assert og.explain(fast.statuses).startswith("3 of 3 CONVERGED"), options
        assert fast.error == max(fast.errors)
    far = og.sinkhorn_divergence(x, y, a, b, **given, state=jax.tree.map(lambda it: 30 * it[::-1], info.state))
    np.testing.assert_allclose(far[0], value, rtol=1e-7)  # from anywhere


def test_statuses_are_those_of_each_solve():
    x, y, *_ = clouds(40, 40, 2)
    _, info = og.sinkhorn_divergence(x, 100 * y, epsilon=1e-2, max_steps=30, return_info=True)
    assert info.status == max(info.statuses) != og.Status.CONVERGED
    solve = jax.jit(lambda x: og.sinkhorn_divergence(x, y, epsilon=0.5, return_info=True))
    _, info = solve(x)  # statuses leave a jitted step as arrays
    assert [int(it) for it in info.statuses] == [0, 0, 0]


def test_other_starts_are_refused():
    of_other_clouds = Terms(*[og.sinkhorn.State(np.zeros(3), np.zeros(3))] * 3)
    for state, message in ((Terms(1, 2, 3), r"give Info\.state"), (of_other_clouds, "needs one per point")):
        with pytest.raises(ValueError, match=message):
            og.sinkhorn_divergence(np.eye(4), np.eye(4), epsilon=1.0, state=state)


def test_prices_of_mass_are_those_of_pot(x64):
    import ot

    x, y, a, b = clouds(15, 12, 2)
    costs, epsilon, rho = matrix(x, y), 0.5, 2.0
    expected = ot.unbalanced.sinkhorn_unbalanced(a, b, costs, epsilon, rho, reg_type="kl", stopThr=1e-12)
    solution, _ = og.sinkhorn.run(costs, a, b, epsilon=epsilon, rho_a=rho, rho_b=rho, tol=1e-9)
    np.testing.assert_allclose(solution.plan(), expected, atol=1e-8)
    state = og.sinkhorn.step(solution, costs, a, b, epsilon=epsilon, rho_a=rho, rho_b=rho)
    np.testing.assert_allclose(state.f, solution.f, atol=1e-7)


@pytest.mark.slow
def test_a_price_is_a_share_of_itself_and_epsilon(x64):
    x, y, a, b = clouds(15, 12, 2)
    costs, options = matrix(x, y), {"epsilon": 0.5, "tol": 1e-9}
    one_sided = og.sinkhorn.value(costs, a, b, rho_b=2.0, **options)
    np.testing.assert_allclose(one_sided, og.sinkhorn.value(costs, a, b, tau_b=0.8, **options))
    divergence = og.sinkhorn_divergence(x, y, a, b, rho_a=2.0, rho_b=2.0, **options)
    np.testing.assert_allclose(divergence, og.sinkhorn_divergence(x, y, a, b, tau_a=0.8, tau_b=0.8, **options))
    slope = jax.grad(lambda rho: og.sinkhorn.value(costs, a, b, rho_a=rho, **options))(2.0)
    steps = [og.sinkhorn.value(costs, a, b, rho_a=rho, **options) for rho in (2.0 - 1e-4, 2.0 + 1e-4)]
    np.testing.assert_allclose(slope, (steps[1] - steps[0]) / 2e-4, rtol=1e-5)


@pytest.mark.parametrize("function", [og.sinkhorn.run, og.sinkhorn.value], ids=["run", "value"])
def test_a_marginal_has_one_price(function):
    with pytest.raises(ValueError, match="tau_a and rho_a say the same"):
        function(np.ones((2, 2)), epsilon=1.0, tau_a=0.5, rho_a=1.0)
    with pytest.raises(ValueError, match="rho_b = -1"):
        function(np.ones((2, 2)), epsilon=1.0, rho_b=-1)
