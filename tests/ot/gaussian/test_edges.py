"""Edges of the Gaussian part: bad pairs among good ones, few samples, half precision, other types, wrong input."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otgen as og
from otgen.eval import kernel
from otgen.nn import linear
from otgen.ot.gaussian import maps
from otgen.ot.gaussian.factors import factor
from otgen.ot.gaussian.units import unit
from otgen.theory import bounds, critical, dynamics

gaussian, mixture = og.gaussian, og.mixture
RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(3, 12, 3))
COVS = np.einsum("kni,knj->kij", POINTS, POINTS) / 12
BAD = np.stack([COVS[0], np.diag([1.0, -1.0, 1.0]), COVS[2]])
P = mixture.Mixture(np.full(3, 1 / 3), POINTS[:, 0], COVS)
Q = mixture.Mixture(np.array([0.2, 0.3, 0.5]), POINTS[:, 1], COVS[::-1])


def float32(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), tree)


@pytest.mark.slow
def test_one_bad_covariance_leaves_the_other_pairs_alone():
    bad, covs = BAD.astype(np.float32), COVS[::-1].astype(np.float32)

    @jax.jit
    def all_of(a, b):
        slope = jax.grad(lambda a: jnp.sum(gaussian.bures_sq(a, b)[jnp.array([0, 2])]))(a)
        return gaussian.bures_sq(a, b), gaussian.map_matrix(a, b), gaussian.geodesic_cov(0.5, a, b), slope

    for ours, theirs in zip(all_of(bad, covs), all_of(COVS.astype(np.float32), covs), strict=True):
        np.testing.assert_array_equal(ours[np.array([0, 2])], theirs[np.array([0, 2])])
    assert np.isnan(all_of(bad, covs)[0][1])
    huge = np.stack([np.eye(3), 1e38 * np.ones((3, 3)), np.eye(3)]).astype(np.float32)
    np.testing.assert_array_equal(jax.jit(gaussian.bures_sq)(huge, covs)[::2] > 0, True)


def test_units_are_powers_of_two():
    exponents = np.arange(-126, 128)
    powers = np.ldexp(np.float32(1), exponents)
    np.testing.assert_array_equal(unit(powers * np.float32(1.9)), powers)
    np.testing.assert_array_equal(unit(np.array([0, 1e-45, np.inf, np.nan], np.float32)), 1)


def test_maps_between_other_units():
    there = gaussian.map_matrix(1e-18 * COVS[0].astype(np.float32), 1e18 * COVS[1].astype(np.float32))
    np.testing.assert_allclose(there / 1e18, gaussian.map_matrix(COVS[0], COVS[1]), rtol=1e-4, atol=1e-5)


def test_moments_of_one_sample_have_no_covariance():
    one = gaussian.moments(POINTS[0, :1])
    with pytest.raises(ValueError, match="1 sample"):
        one.covariance()
    for name in ("features_a", "features_b"):
        given = {"features_a": POINTS[0], "features_b": POINTS[1], name: one}
        with pytest.raises(ValueError, match=f"{name} holds moments of 1"):
            gaussian.frechet_distance(**given)
    streamed = one
    for row in POINTS[0, 1:]:
        streamed = gaussian.moments(row[None], streamed)
    np.testing.assert_allclose(streamed.covariance(), np.cov(POINTS[0].T), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gaussian.merge(one, one).covariance(), 0, atol=1e-6)
    assert np.isnan(jax.jit(lambda x: gaussian.moments(x).covariance())(POINTS[0, :1])).all()


def test_moments_far_from_zero():
    x = (POINTS.reshape(36, 3) + 1e4).astype(np.float32)
    known = gaussian.moments(x[18:], gaussian.moments(x[:18]))
    np.testing.assert_allclose(known.covariance(), np.cov(x.T.astype(np.float64)), rtol=1e-4, atol=1e-4)
    assert gaussian.frechet_distance(x, known) < 1e-4


@pytest.mark.slow
def test_barycentre_that_has_not_converged_has_no_gradient():
    def total(covs, max_steps):
        cov, info = gaussian.barycenter(covs, max_steps=max_steps)
        return jnp.sum(cov), info

    slope = jax.jit(jax.grad(total, has_aux=True))
    few, info = slope(float32(COVS), 2)
    assert info.status == og.Status.MAX_STEPS
    assert np.isnan(few).all()
    many, info = slope(float32(COVS), 200)
    assert info.status == og.Status.CONVERGED
    for k, step in ((0, 1e-3), (1, 1e-3)):  # along the covariances themselves
        ahead, behind = ((1 + sign * step * (np.arange(3) == k))[:, None, None] * COVS for sign in (1, -1))
        change = (total(float32(ahead), 200)[0] - total(float32(behind), 200)[0]) / (2 * step)
        np.testing.assert_allclose(np.sum(many[k] * COVS[k]), change, rtol=5e-3)


def test_conjugate_gradients_that_fail_say_so():
    matrix = jnp.diag(jnp.logspace(0, -12, 30))
    right = jnp.ones(30)
    assert np.isnan(maps._conjugate_gradients(lambda x: matrix @ x, right)).all()
    assert np.isnan(maps._conjugate_gradients(lambda x: 0 * x, right)).all()
    np.testing.assert_allclose(maps._conjugate_gradients(lambda x: 1e-30 * x, 1e-30 * right), 1, rtol=1e-5)
    np.testing.assert_array_equal(maps._conjugate_gradients(lambda x: x, 0 * right), 0)


@pytest.mark.slow
def test_distance_of_mixtures_says_how_good_its_plan_is(monkeypatch):
    value, info = mixture.w2_sq(P, Q, return_info=True)
    assert info.status == og.Status.CONVERGED
    assert value == mixture.w2_sq(P, Q)
    product = og.exact.Plan(P.weights[:, None] * Q.weights, jnp.zeros(3), jnp.zeros(3), jnp.float32(3.0))
    monkeypatch.setattr(og.exact, "plan", lambda *_: jax.tree.map(jnp.float32, product))  # a plan, but not the best
    value, info = mixture.w2_sq(P, Q, return_info=True)
    assert (value, info.status) == (3, og.Status.MAX_STEPS)
    slope = jax.grad(lambda means: mixture.w2_sq(P._replace(means=means), Q))(P.means.astype(np.float32))
    assert np.isnan(slope).all()
    monkeypatch.undo()
    indefinite = jax.jit(lambda covs: mixture.w2_sq(P._replace(covs=covs), Q, return_info=True))(float32(BAD))
    assert np.isnan(indefinite[0])
    assert indefinite[1].status == og.Status.NONFINITE


@pytest.mark.slow
@pytest.mark.usefixtures("half")
@pytest.mark.parametrize("dtype", [jnp.float16, pytest.param(jnp.bfloat16, marks=pytest.mark.slow)])
def test_half_precision_is_summed_in_float32(dtype):
    x = jnp.asarray(RNG.normal(size=(262_144 // 4, 4)) + 3, dtype)  # 262,144 numbers
    y = jnp.asarray(RNG.normal(size=(4096, 4)), dtype)
    known = np.asarray(x, np.float64)
    cov = np.cov(known.T)
    moments = gaussian.moments(x)
    np.testing.assert_allclose(moments.mean, known.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.covariance(), cov, rtol=1e-4, atol=1e-5)
    other = np.asarray(y, np.float64)
    expected = gaussian.w2_sq(known.mean(0), cov, other.mean(0), np.cov(other.T))
    np.testing.assert_allclose(gaussian.frechet_distance(x, y), expected, rtol=1e-4)
    shifted = x + jnp.ones((), dtype)
    expected = 100 * np.mean(np.sum((np.asarray(shifted, np.float64) - known) ** 2, 1)) / cov.trace()
    np.testing.assert_allclose(og.eval.l2_uvp(shifted, x), expected, rtol=1e-4)
    np.testing.assert_allclose(og.eval.cosine(shifted, shifted, x), 1, rtol=1e-5)
    assert gaussian.transport_map(None, jnp.eye(4, dtype=dtype), None, jnp.eye(4, dtype=dtype))(x).dtype == jnp.float32
    big = jnp.ones((262_144, 1), dtype)  # a factor, whose squares add up to more than half precision holds
    np.testing.assert_allclose(gaussian.bures_sq_factors(big, 2 * big), 262_144, rtol=1e-5)
    np.testing.assert_allclose(dynamics.loss_from_factor((0 * big,), big), 262_144, rtol=1e-5)


@pytest.mark.usefixtures("half")
def test_half_precision_kernel_distance():
    x, y = (jnp.asarray(RNG.normal(size=(64, 4096)), jnp.float16) for _ in range(2))  # 262,144 numbers each
    for kind in (None, kernel.Energy()):
        ours, theirs = (kernel.kernel_distance(x.astype(t), y.astype(t), kind) for t in (jnp.float16, jnp.float32))
        assert ours == theirs


CALLS = {
    "bures_sq": lambda p, q: gaussian.bures_sq(p.covs, q.covs),
    "entropic_bures_sq": lambda p, q: gaussian.entropic_bures_sq(p.covs, q.covs, epsilon=0.5),
    "bures_sq_factors": lambda p, q: gaussian.bures_sq_factors(p.covs, q.covs),
    "perturbed": lambda p, q: gaussian.perturbed_bures_sq_factors(p.covs, q.covs, tau=0.5),
    "w2_sq": lambda p, q: gaussian.w2_sq(p.means, p.covs, q.means, q.covs),
    "transport_map": lambda p, q: gaussian.transport_map(p.means[0], p.covs[0], q.means[0], q.covs[0])(p.means),
    "geodesic": lambda p, q: gaussian.geodesic(0.3, p.means, p.covs, q.means, q.covs),
    "barycenter": lambda p, q: gaussian.barycenter(p.covs, q.weights)[0],
    "frechet_distance": lambda p, q: gaussian.frechet_distance(p.means, gaussian.moments(q.means)),
    "mixture.w2_sq": lambda p, q: mixture.w2_sq(p, q, return_info=True),
    "mixture.barycentric_map": lambda p, q: mixture.barycentric_map(p, q, p.means),
    "mixture.sample_map": lambda p, q: mixture.sample_map(jax.random.key(0), p, q, p.means),
    "mixture.geodesic": lambda p, q: mixture.geodesic(0.3, p, q),
    "mixture.log_density": lambda p, q: mixture.log_density(p, q.means),
    "mixture.sample": lambda p, q: mixture.sample(jax.random.key(0), p, 4),
    "kernel_distance": lambda p, q: kernel.kernel_distance(p.covs.reshape(-1, 3), q.covs.reshape(-1, 3)),
    "l2_uvp": lambda p, q: og.eval.l2_uvp(p.means, q.means),
    "descend": lambda p, q: dynamics.descend((p.means,), q.covs[0], step_size=0.01, num_steps=2, tau=0.1),
    "hessian": lambda p, q: critical.hessian((p.means,), q.covs[0], tau=0.1),
    "minimum": lambda p, q: critical.minimum(p.covs[0], 2, 0.1),
    "close_weights": lambda p, q: linear.close_weights(jax.random.key(0), p.covs[0], (3, 3)),
}
DRAWN = ("mixture.sample_map", "mixture.sample", "close_weights")  # other numbers in another type


@contextlib.contextmanager
def compilations():
    """Counts the programs that are compiled, or made to be looked up among those on disk, meanwhile."""
    seen, on = [], [True]
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: seen.append(name) if on[0] and name.endswith("to_mlir_module_duration") else None
    )
    yield seen
    on[0] = False


@pytest.mark.slow
def test_eager_calls_compile_once():
    p, q = float32(P), float32(Q)  # NumPy, which a call must take twice
    with compilations() as seen:
        jax.jit(lambda x: x + 1)(1.0)
    assert seen
    for name, call in CALLS.items():
        for _ in range(2):
            first = call(p, q)
        with compilations() as seen:
            again = call(p, q)
        assert not seen, name
        for ours, theirs in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_float64_mode_with_other_types(x64, name):
    """float32 inputs, and float32 beside float64, give what float64 inputs give, to the precision of their own."""
    p, q = P, mixture.Mixture(*map(np.asarray, Q))
    exact = jax.tree.leaves(CALLS[name](p, q))
    big = jax.tree.map(lambda leaf: leaf.astype(">f8"), (p, q))
    for ours, theirs in zip(jax.tree.leaves(CALLS[name](*big)), exact, strict=True):
        np.testing.assert_array_equal(ours, theirs)  # the bytes of another machine
    for given in ((float32(p), float32(q)), (float32(p), q), (p, float32(q))):
        for ours, theirs in zip(jax.tree.leaves(CALLS[name](*given)), exact, strict=True):
            if jnp.issubdtype(theirs.dtype, jnp.floating) and theirs.size and name not in DRAWN:
                scale = np.abs(theirs).max()
                np.testing.assert_allclose(ours, theirs, atol=2e-4 * max(float(scale), 1e-3), err_msg=name)


KEY = jax.random.key(0)
COV, CHAIN = COVS[0], (POINTS[0, :3], POINTS[1, :3])
WRONG = {
    "one vector for a covariance": lambda: gaussian.bures_sq(np.ones(3), COV),
    "words": lambda: gaussian.bures_sq("covariance", COV),
    "ragged": lambda: gaussian.bures_sq([[1.0], [1.0, 2.0]], COV),
    "complex": lambda: gaussian.bures_sq(COV * 1j, COV),
    "masked": lambda: gaussian.bures_sq(np.ma.masked_array(COV, COV > 0), COV),
    "epsilon of two numbers": lambda: gaussian.entropic_bures_sq(COV, COV, epsilon=[1.0, 2.0]),
    "negative epsilon": lambda: gaussian.entropic_bures_sq(COV, COV, epsilon=-1.0),
    "NaN tau": lambda: gaussian.perturbed_bures_sq_factors(COV, COV, tau=np.nan),
    "factor of one axis": lambda: gaussian.bures_sq_factors(np.ones(3), np.ones((3, 1))),
    "means of another batch": lambda: gaussian.w2_sq(np.ones((2, 3)), COVS, np.ones(3), COV),
    "points of another dimension": lambda: gaussian.transport_map(None, COV, None, COV)(np.ones((4, 2))),
    "one point": lambda: gaussian.transport_map(None, COV, None, COV)(np.ones(3)),
    "points of another batch": lambda: gaussian.transport_map(None, COVS, None, COV)(np.ones((2, 4, 3))),
    "NaN points": lambda: gaussian.transport_map(None, COV, None, COV)(np.full((4, 3), np.nan)),
    "time beyond 1": lambda: gaussian.geodesic_cov(1.5, COV, COV),
    "times of another batch": lambda: gaussian.geodesic(np.ones(2), np.ones(3), COVS, np.ones(3), COV),
    "fractional max_steps": lambda: gaussian.barycenter(COVS, max_steps=2.5),
    "negative weights": lambda: gaussian.barycenter(COVS, np.array([1.0, -1.0, 1.0])),
    "moments of a vector": lambda: gaussian.moments(np.ones(3)),
    "moments of nothing": lambda: gaussian.moments(np.ones((0, 3))),
    "known that is an array": lambda: gaussian.moments(POINTS[0], POINTS[0]),
    "merge of arrays": lambda: gaussian.merge(POINTS[0], POINTS[1]),
    "features of other columns": lambda: gaussian.frechet_distance(POINTS[0], POINTS[0, :, :2]),
    "mixture of two parts": lambda: mixture.w2_sq(P[:2], Q),
    "a matrix for a mixture": lambda: mixture.w2_sq(COV, Q),
    "mixture of words": lambda: mixture.w2_sq(("a", "b", "c"), Q),
    "two times": lambda: mixture.geodesic(np.array([0.1, 0.2]), P, Q),
    "a seed for a key": lambda: mixture.sample(0, P, 3),
    "fractional num": lambda: mixture.sample(KEY, P, 2.5),
    "no num": lambda: mixture.sample(KEY, P, 0),
    "many keys": lambda: mixture.sample_map(jax.random.split(KEY), P, Q, P.means),
    "bandwidth zero": lambda: kernel.Gaussian(0.0),
    "kernel by name": lambda: kernel.kernel_distance(POINTS[0], POINTS[1], "cubic"),
    "kernel that is a class": lambda: kernel.kernel_distance(POINTS[0], POINTS[1], kernel.Cubic),
    "three samples": lambda: kernel.kernel_distance(POINTS[0, :3], POINTS[1]),
    "images of another number": lambda: og.eval.l2_uvp(POINTS[0], POINTS[1, :4]),
    "negative variance": lambda: og.eval.l2_uvp(POINTS[0], POINTS[1], -1.0),
    "a map that explains nothing": lambda: og.eval.l2_uvp(POINTS[0], np.ones((12, 3))),
    "weights that are one matrix": lambda: dynamics.end_to_end(POINTS[0]),
    "unknown loss": lambda: dynamics.loss(CHAIN, COV, kind="l2"),
    "fractional steps": lambda: dynamics.descend(CHAIN, COV, step_size=0.1, num_steps=2.5),
    "negative rtol": lambda: dynamics.flow(CHAIN, COV, times=[1.0], rtol=-1.0),
    "factor of another height": lambda: dynamics.loss_from_factor(CHAIN, np.ones((2, 2))),
    "fractional rank": lambda: critical.minimum(COV, 1.5),
    "rank 0": lambda: critical.minimiser(COV, 0),
    "fractional subset": lambda: critical.weights_at(COV, [0.5], (3, 3)),
    "fractional widths": lambda: critical.hessian_spectrum(COV, [0], (3, 2.5, 3)),
    "num of critical points": lambda: critical.critical_points(COV, 2, num=1.5),
    "tau beyond the eigenvalue": lambda: bounds.local_rate(1.0, 2.0, 2),
    "depth 0": lambda: bounds.local_rate(1.0, 0.5, 0),
    "lists of other lengths": lambda: bounds.measured_rate(np.ones(3), np.ones(2)),
    "a number for widths": lambda: linear.draw_weights(KEY, 3),
    "widths of fractions": lambda: linear.draw_weights(KEY, (2.5, 3)),
    "a seed for weights": lambda: linear.draw_weights(0, (2, 3)),
    "a negative scale": lambda: linear.draw_weights(KEY, (2, 3), scale=-1.0),
    "rank of a fraction": lambda: linear.truncated(COV, 1.5),
    "a vector to factorise": lambda: linear.factorise(np.ones(3), (3, 3)),
    "an indefinite target": lambda: linear.close_weights(KEY, -COV, (3, 3)),
    "depth of a fraction": lambda: og.models.bures_linear.Config(depth=1.5),
    "piece zero": lambda: og.eval.inception("nowhere", 64, piece=0),
    "no batch": lambda: og.eval.moments_of(og.eval.pixels, []),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_refused_with_a_remedy(name):
    with pytest.raises((ValueError, TypeError)) as raised:
        WRONG[name]()
    where = raised.traceback[-1].path
    assert "otgen" in str(where) or "Check" in type(raised.value).__name__, where  # not from the depths of JAX
    assert len(str(raised.value)) > 25


def test_factor_of_nothing_is_nothing():
    assert not np.any(factor(jnp.zeros((2, 3, 3))).values)
    np.testing.assert_array_equal(gaussian.bures_sq(np.zeros((3, 3)), np.zeros((3, 3))), 0)
