"""Learned maps against closed forms, the three solvers, and what they refuse."""

import dataclasses
import functools
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otgen.data import toy
from otgen.eval import l2_uvp, mode_scores
from otgen.maps import c_transform, distil, icnn, lp, neural_map, training
from otgen.nn.potentials import Convex
from otgen.ot import gaussian, latent, semidiscrete
from otgen.ot.semidiscrete.source import gaussian as normal
from otgen.train import Checkpoints

SHORT = {"c_transform": {"num_steps": 60}, "lp": {"num_steps": 24, "batch_size": 64}, "icnn": {"num_steps": 60}}


@functools.cache
def ring():
    return toy.eight_gaussians(jax.random.key(5), 512)


@functools.cache
def short(solver):
    return neural_map.fit(jax.random.key(0), None, ring(), solver=solver, **{**SHORT[solver], "hidden": (32, 32)})


def wide(dim):
    """A covariance, and the optimal map from N(0, I) to it."""
    root = np.random.default_rng(0).normal(size=(dim, dim))
    cov = jnp.asarray(root @ root.T / dim + 0.5 * np.eye(dim), jnp.float32)
    return cov, gaussian.map_matrix(jnp.eye(dim), cov)


@pytest.mark.slow
@pytest.mark.parametrize("sharpness", [None, 2.0])
def test_convex_networks_are_convex_and_start_as_the_identity(sharpness):
    module = Convex((16, 16, 8), sharpness=sharpness)
    params = module.init(jax.random.key(0), jnp.zeros((1, 5)))["params"]
    x = jax.random.normal(jax.random.key(1), (500, 5))
    moved = jax.jit(icnn.gradient, static_argnums=1)({"forward": params}, module, None, x)
    assert float(l2_uvp(moved, x)) < 1
    noisy = jax.tree.map(lambda p: p + jax.random.normal(jax.random.key(2), p.shape), params)

    psi = jax.jit(lambda x: module.apply({"params": noisy}, x))

    a, b, t = x[:250], 3 * x[250:], jax.random.uniform(jax.random.key(3), (250,))
    chord = (1 - t) * psi(a) + t * psi(b)
    assert bool(jnp.all(psi((1 - t)[:, None] * a + t[:, None] * b) <= chord * (1 + 1e-5) + 1e-4))


@pytest.mark.parametrize("sharpness", [0.0, 2.0, 6.0])  # the exponential of e^6 is no number in single precision
def test_units_start_at_the_sharpness_that_is_asked(sharpness):
    module = Convex((4, 4), sharpness=sharpness)
    params = module.init(jax.random.key(0), jnp.zeros((1, 3)))["params"]
    found = jax.nn.softplus(params["sharpness_1"])
    np.testing.assert_allclose(found, np.exp(np.linspace(0, sharpness, 4)), rtol=1e-5)


def test_matrices_of_weights_move_with_all_singular_values_alike():
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(8, 8)))[0] for _ in range(2))
    slope = {"matrix": jnp.asarray(left * np.geomspace(1, 0.1, 8) @ right)}

    def second(transform):  # of the first the rate is zero
        _, state = transform.update(slope, transform.init(slope), slope)
        step, _ = transform.update(slope, state, slope)
        return step

    step = second(icnn.Config().transform())
    sizes = np.linalg.svd(np.asarray(step["matrix"]), compute_uv=False)
    assert sizes[0] < 2 * sizes[-1], "of the gradient it is ten times"
    alone = second(training.optimiser(icnn.Config()))
    np.testing.assert_array_equal(second(icnn.Config(cycle=1.0).transform())["matrix"], alone["matrix"])


@pytest.mark.slow
@pytest.mark.parametrize("dim", [2, 16, 64, 128])
def test_maps_between_gaussians_are_learned_from_their_laws(dim):
    """L2-UVP < .5 %, from the identity: a linear map, of a network that starts with curvature of its own."""
    cov, truth = wide(dim)
    root = np.linalg.cholesky(cov).T

    def target(key, num, dim):
        return jax.random.normal(key, (num, dim)) @ root

    options = {"dim": dim, "num_codes": 2**13, "num_steps": 500 if dim == 2 else 1500, "batch_size": 512}
    found = neural_map.fit(jax.random.key(0), None, target, solver="icnn", **options)
    info = neural_map.evaluate(jax.random.key(2), found, lambda x: x @ truth)
    assert float(info.l2_uvp) < 0.5
    exact = float(gaussian.w2_sq(jnp.zeros(dim), jnp.eye(dim), jnp.zeros(dim), cov))
    assert abs(float(info.dual_value) - exact) < 0.03 * exact + 5 * float(info.dual_error)


def test_eight_atoms_give_the_closed_form():
    """Halved cost .557302 (sectors of 45 degrees) within 1 % and five standard errors, equal masses."""
    atoms = toy.eight_gaussians_centres()
    found = neural_map.fit(jax.random.key(0), None, atoms, solver="c_transform", num_steps=600, hidden=(32, 32))
    info = neural_map.evaluate(jax.random.key(1), found, num=2**18)
    radius, half = 2.0, np.pi / 8
    exact = 0.5 * (2 + radius**2 - 2 * radius * np.sqrt(np.pi / 2) * np.sin(half) / half)
    assert exact == pytest.approx(0.557302, abs=1e-6)
    assert float(info.dual_value) / 2 == pytest.approx(exact, abs=0.01 * exact + 2.5 * float(info.dual_error))
    assert float(info.primal_cost) / 2 == pytest.approx(exact, rel=0.02)
    masses = semidiscrete.masses(jax.random.key(2), neural_map.heights(found), atoms, num=2**16, sampler=normal)
    np.testing.assert_allclose(masses, 1 / 8, atol=0.01)


def test_the_gradient_of_the_objective_is_mass_less_weight():
    """d J / d D(y_j) = P(cell j) - 1/N, by central differences in the values of D at three codes."""
    codes = jnp.asarray([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    x = jax.random.normal(jax.random.key(0), (4000, 2))

    def value(d):
        scores = d - jnp.sum((x[:, None] - codes) ** 2, axis=2)
        return jnp.mean(scores.max(1)) - d.mean()

    d = jnp.asarray([0.1, -0.2, 0.0])
    winner = jnp.argmax(d - jnp.sum((x[:, None] - codes) ** 2, axis=2), axis=1)
    masses = jnp.bincount(winner, length=3) / 4000
    np.testing.assert_allclose(jax.grad(value)(d), masses - 1 / 3, atol=1e-5)

    module, params, table = c_transform.init(jax.random.key(1), c_transform.Config(hidden=(8,)), normal, codes)
    own = c_transform.potential(params, module, table, codes)
    got, _ = c_transform.loss(params, module, table, x, codes, codes)
    assert float(got) == pytest.approx(float(value(own)), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["c_transform", "icnn"])
def test_a_shift_and_a_scale_of_the_codes_are_followed(solver):
    """T(x) for codes b y + m is b T(x) + m, from the same draws; the bound and the potential follow."""
    shift, options = jnp.asarray([1000.0, -300.0]), {"solver": solver, "num_steps": 60, "hidden": (32, 32)}
    here = short(solver)
    there = neural_map.fit(jax.random.key(0), None, 3 * ring() + shift, **options)
    x = jax.random.normal(jax.random.key(3), (500, 2))
    a, b = (neural_map.transport(found, x) for found in (here, there))
    assert float(jnp.mean(jnp.sum(((b - shift) / 3 - a) ** 2, axis=1))) < 0.02  # float32 codes of size 1000
    info = neural_map.evaluate(jax.random.key(4), there)
    slack = 5 * float(info.dual_error)
    assert float(info.dual_value) < float(info.primal_cost) + slack
    assert float(info.dual_value) == pytest.approx(float(info.primal_cost), rel=1e-3)
    scores = neural_map.potential(here, here.codes) - jnp.sum((x[:, None] - here.codes) ** 2, axis=2)
    np.testing.assert_array_less(
        jnp.sum((here.codes[jnp.argmax(scores, axis=1)] - neural_map.transport(here, x, "argmax")) ** 2, axis=1).mean(),
        1e-3,
    )


@pytest.mark.parametrize(
    "solver", ["c_transform", *(pytest.param(name, marks=pytest.mark.slow) for name in ("icnn", "lp"))]
)
def test_every_solver_gives_every_form(solver):
    found = short(solver)
    x = jax.random.normal(jax.random.key(3), (300, 2))
    for form in neural_map.FORMS:
        moved = neural_map.transport(found, x, form)
        assert moved.shape == x.shape
        assert bool(jnp.isfinite(moved).all())
    at_codes = neural_map.transport(found, x, "argmax")
    scores = x @ found.codes.T + neural_map.heights(found).h
    np.testing.assert_allclose(at_codes, found.codes[jnp.argmax(scores, axis=1)], atol=1e-6)
    cold = neural_map.transport(found, x, "barycentre", temperature=1e-7)
    assert float(jnp.mean(jnp.any(jnp.abs(cold - at_codes) > 1e-3, axis=1))) < 0.02  # but for near ties
    info = neural_map.evaluate(jax.random.key(4), found, num=4096)
    assert float(info.dual_value) < 0.97 + 5 * float(info.dual_error)  # a lower bound; W2^2 is .955
    assert neural_map.potential(found, x).shape == (300,)


def test_the_lower_bound_holds_and_the_objective_falls():
    seen = []
    codes = ring()
    neural_map.fit(
        jax.random.key(0),
        None,
        codes,
        num_steps=400,
        hidden=(64, 64),
        callback=lambda _, m: seen.append(m["objective"]),
    )
    assert np.mean(seen[-2:]) < seen[0]
    assert min(seen) > -1.2  # -W2^2 = -.955, and the noise of a batch of 512


@pytest.mark.slow
def test_the_convex_map_inverts():
    found = short("icnn")
    x = jax.random.normal(jax.random.key(3), (200, 2))
    back = neural_map.inverse(found, neural_map.transport(found, x, "gradient"))
    np.testing.assert_allclose(back.points, x, atol=2e-2)
    with pytest.raises(ValueError, match="no inverse"):
        neural_map.inverse(short("c_transform"), x)


def test_two_maps_disagree_by_what_is_between_them():
    found, shift = short("c_transform"), jnp.array([0.3, -0.4])
    units = found.units._replace(code_mean=found.units.code_mean + shift)
    moved = dataclasses.replace(found, codes=found.codes + shift, units=units)
    far = neural_map.disagreement(jax.random.key(0), found, moved, num=512)
    assert float(far) == pytest.approx(100 * 0.25 / float(found.codes.var(0, ddof=1).sum()), rel=1e-4)
    assert float(neural_map.disagreement(jax.random.key(0), found, found, num=512)) == 0


def test_temperature_makes_the_wanted_number_of_neighbours():
    found = short("c_transform")
    x = jax.random.normal(jax.random.key(9), (4000, 2))
    scores = 2 * (x @ found.codes.T + neural_map.heights(found).h) / found.temperature
    p = jax.nn.softmax(scores, axis=1)
    entropy = -jnp.sum(p * jnp.log(jnp.maximum(p, 1e-30)), axis=1).mean()
    assert float(jnp.exp(entropy)) == pytest.approx(3, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["c_transform", "icnn"])
@pytest.mark.usefixtures("heard")
def test_a_stopped_training_goes_on_bit_identically(solver, tmp_path):
    options = {"solver": solver, "num_steps": 40, "updates_per_call": 2, "batch_size": 64, "hidden": (16,)}
    whole = neural_map.fit(jax.random.key(0), None, ring(), **options)

    def stop(step, metrics):
        if step == 10:  # noticed after the next step; a second signal would end the run at once
            signal.raise_signal(signal.SIGINT)

    with Checkpoints(tmp_path, options) as checkpoints:
        with pytest.raises(KeyboardInterrupt):
            neural_map.fit(jax.random.key(0), None, ring(), checkpoints=checkpoints, callback=stop, **options)
        assert 0 < checkpoints.newest() < 20
        again = neural_map.fit(jax.random.key(0), None, ring(), checkpoints=checkpoints, **options)
    jax.tree.map(np.testing.assert_array_equal, whole.params, again.params)
    np.testing.assert_array_equal(whole.h, again.h)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["c_transform", "lp", "icnn"])
def test_a_law_is_a_target(solver):
    """Draws of the ring instead of codes: fresh ones in every update, and some that are kept."""

    def law(key, num, dim):
        del dim
        return toy.eight_gaussians(key, num)

    options = {"num_steps": 300, "hidden": (32, 32), "solver": solver, "batch_size": 128}
    found = neural_map.fit(jax.random.key(0), None, law, dim=2, num_codes=256, **options)
    assert found.codes.shape == (256, 2)
    kept = neural_map.fit(jax.random.key(0), None, found.codes, **options)
    assert not np.array_equal(kept.h, found.h)  # it saw the kept draws alone
    moved = neural_map.sample(jax.random.key(1), found, 2000)
    shift = jnp.abs(moved.mean(0)) / jnp.sqrt((moved.var(0) + 2.0) / 256)
    assert float(shift.max()) < 6  # the ring has mean zero, and each coordinate variance 2
    if solver != "lp":
        assert mode_scores(moved, toy.eight_gaussians_centres(), 0.1).modes == 8


@pytest.mark.slow
def test_a_prior_is_a_source():
    options = {"num_steps": 8, "hidden": (4,), "batch_size": 32}
    codes = np.random.default_rng(0).normal(size=(32, 2)).astype(np.float32)
    found, same = (neural_map.fit(jax.random.key(0), law, codes, **options) for law in (None, latent.Normal()))
    np.testing.assert_array_equal(found.h, same.h)
    assert found.sampler == same.sampler == normal
    moved = neural_map.fit(jax.random.key(0), latent.Uniform(0.0, 2.0), codes, **options)
    assert abs(float(moved.units.source_scale) - 2 / np.sqrt(12)) < 0.01


@pytest.mark.slow
def test_a_distilled_map_follows_the_map():
    found = short("icnn")
    module, params = distil.distil(jax.random.key(0), found, num_steps=300, hidden=(64, 64), batch_size=256)
    x = jax.random.normal(jax.random.key(3), (1000, 2))
    near = l2_uvp(module.apply({"params": params}, x), neural_map.transport(found, x))
    assert float(near) < 3 < float(l2_uvp(x, neural_map.transport(found, x)))


@pytest.mark.slow
def test_regression_meets_the_potentials_of_one_problem():
    """On one fixed batch the regression's objective can be driven to zero where potentials are exact."""
    config = lp.Config(batch_size=32, hidden=(64, 64), penalty=0.0)
    module, params, _ = lp.init(jax.random.key(0), config, normal, ring())
    x, y = jax.random.normal(jax.random.key(1), (32, 2)), ring()[:32]
    f, g, to = lp._solve(x, y, None)
    cost = jnp.sum((x[:, None] - y) ** 2, axis=2)
    assert bool(jnp.all(f[:, None] + g <= cost + 1e-4))
    assert float(f.mean() + g.mean()) == pytest.approx(float(jnp.mean(jnp.sum((x - to) ** 2, axis=1))), abs=1e-4)
    assert float(g.mean()) == pytest.approx(-float(-f.mean()), abs=1e-4)
    value, _ = lp.loss(params, module, config, x, y, f, g, to)
    assert float(value) == pytest.approx(float(jnp.mean(g**2) + jnp.mean(f**2)), rel=1e-5)  # D starts at zero


def test_a_map_passes_through_jit_and_marks_points_without_a_number():
    x = jnp.asarray([[0.5, 0.5], [jnp.nan, 0.0]])
    moved = jax.jit(neural_map.transport, static_argnames="form")(short("c_transform"), x, form="argmax")
    assert bool(jnp.isfinite(moved[0]).all())
    assert bool(jnp.isnan(moved[1]).all())


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"pool": 64}, {"solver": "icnn", "cycle": 2.0, "num_steps": 400}])
def test_variants_find_the_modes(options):
    found = neural_map.fit(jax.random.key(0), None, ring(), **{"num_steps": 300, "hidden": (32, 32), **options})
    moved = neural_map.sample(jax.random.key(1), found, 2000)
    assert mode_scores(moved, toy.eight_gaussians_centres(), 0.1).modes == 8


def test_what_cannot_be_meant_is_refused():
    with pytest.raises(ValueError, match="choose one of 'c_transform'"):
        neural_map.fit(jax.random.key(0), None, ring(), solver="sinkhorn")
    with pytest.raises(ValueError, match="coincide"):
        neural_map.fit(jax.random.key(0), None, np.ones((20, 2)))
    with pytest.raises(ValueError, match="the source draws"):
        neural_map.fit(jax.random.key(0), lambda key, num, dim: jnp.zeros((num, 3)), ring())
    with pytest.raises(ValueError, match="coincide"):
        neural_map.fit(jax.random.key(0), None, np.full((1000, 2), 0.1))
    with pytest.raises(ValueError, match="NaN"):
        neural_map.fit(jax.random.key(0), None, np.full((20, 2), np.nan))
    with pytest.raises(ValueError, match="neighbours"):
        neural_map.fit(jax.random.key(0), None, ring(), neighbours=0.5)
    with pytest.raises(ValueError, match="say its dimension"):
        neural_map.fit(jax.random.key(0), None, normal)
    with pytest.raises(ValueError, match="leave dim out"):
        neural_map.fit(jax.random.key(0), None, ring(), dim=3)
    with pytest.raises(ValueError, match="the target draws"):
        neural_map.fit(jax.random.key(0), None, lambda key, num, dim: jnp.zeros((num, 3)), dim=2)
    with pytest.raises(TypeError, match="cycle"):
        neural_map.fit(jax.random.key(0), None, ring(), solver="lp", cycle=1.0)
    settings = [{"cycle": -1.0}, {"rank": 0}, {"sharpness": -1.0}, {"guess": (0,)}, {"halvings": -1}]
    settings += [{"hidden": ()}, {"average": 1.0}, {"learning_rate": 0.0}]
    for wrong in settings:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            neural_map.config_of("icnn", **wrong)
    found = short("c_transform")
    with pytest.raises(ValueError, match="form"):
        neural_map.transport(found, np.ones((3, 2)), "nearest")
    with pytest.raises(ValueError, match="coordinates"):
        neural_map.transport(found, np.ones((3, 5)))
    with pytest.raises(ValueError, match="temperature"):
        neural_map.transport(found, np.ones((3, 2)), "barycentre", temperature=-1.0)
    with pytest.raises(ValueError, match="no temperature"):
        neural_map.transport(found, np.ones((3, 2)), "argmax", temperature=1.0)
    with pytest.raises(ValueError, match="num"):
        neural_map.sample(jax.random.key(0), found, 0)
