"""Semi-discrete transport at its edges: what certifies a solve, weights of zero, types, units, and bad input."""

import itertools
import re

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import otgen as og
from otgen.ot import coupling, semidiscrete
from otgen.ot.semidiscrete import descent, extension, measure, solver, source
from otgen.ot.semidiscrete.scores import top_scores

NUM, DIM, SAMPLES = 24, 3, 64  # of all problems here, so that programs are shared


def clouds():
    rng = np.random.default_rng(0)
    y, x = rng.normal(size=(NUM, DIM)), rng.uniform(-0.5, 0.5, (SAMPLES, DIM))
    h = 0.05 * rng.normal(size=NUM) - 0.15 * np.sum(y**2, 1)
    return tuple(part.astype(np.float32) for part in (y, x, h - h.mean()))


def swapped(array):
    """The same numbers in the other order of bytes, as readers of FITS and IDX files give them."""
    return array.astype(array.dtype.newbyteorder())


def info_of(share, y, weights, tol=0.05, num=2**16):
    """The reader's numbers for the best heights there can be and cells that won given shares of the samples."""
    counts = np.random.default_rng(1).multinomial(num // 16, share, 16).astype(np.int32)
    counted = measure.Counts(
        jnp.asarray(counts), jnp.zeros(()), jnp.zeros(()), jnp.zeros(y.shape[1]), jnp.float32(0.25)
    )
    h = jnp.asarray(-0.15 * np.sum((y - weights @ y) ** 2, 1), jnp.float32)
    weights = jnp.asarray(weights, jnp.float32)
    return solver._info(counted, h, jnp.asarray(y, jnp.float32), weights, jnp.int32(500), tol, 1024)


def test_light_cells_that_are_empty_are_no_convergence():
    rng = np.random.default_rng(0)
    y, weights = rng.normal(size=(400, 3)), np.r_[0.9, np.full(399, 0.1 / 399)]
    share = weights * (np.arange(400) >= 51) + 51 * 0.1 / 399 * (np.arange(400) == 51)
    share[0], share[51] = 0.9, weights[51]
    share = share / share.sum()
    info = info_of(share, y, weights)
    assert float(info.chi2) < 0.05
    assert (int(info.num_empty), int(info.status)) == (50, og.Status.MAX_STEPS)
    assert float(info.error) == pytest.approx(50 / 400, rel=1e-6)
    assert "50 cells are empty" in og.explain(info)


def test_a_far_point_that_is_missed_is_no_convergence():
    rng = np.random.default_rng(0)
    y, weights = rng.normal(size=(400, 3)), np.full(400, 1 / 400)
    share = np.r_[0.0, np.full(399, 1 / 399)]
    near = info_of(share, y, weights)
    assert int(near.status) == og.Status.CONVERGED
    assert float(near.error) == pytest.approx(max(float(near.chi2), 1 / 400), rel=1e-6)
    y[0] = 1e3
    far = info_of(share, y, weights)
    assert float(far.chi2) < 0.05
    assert int(far.status) == og.Status.MAX_STEPS
    assert 0.1 < float(far.error) < 1  # most of the second moment is not where it should be
    right = info_of(weights, y, weights)
    assert int(right.status) == og.Status.CONVERGED


@pytest.mark.slow
@pytest.mark.parametrize("far", [True, False])
def test_problems_that_fooled_chi2_are_solved(far):
    y, weights = jax.random.normal(jax.random.key(0), (399, 8)), jnp.full(399, 1 / 399)
    if far:
        y = y.at[0, 0].set(1e3)
    else:
        weights = jnp.full(399, 0.1 / 398).at[0].set(0.9)
    state, info = semidiscrete.run(jax.random.key(1), y, weights)
    assert int(info.status) == og.Status.CONVERGED
    assert int(info.num_unseen) <= 0.05 * 399
    assert abs(float(info.primal_cost - info.dual_value)) < 0.05 * float(info.dual_value)
    masses = semidiscrete.masses(jax.random.key(2), state, y, 2**18, weights=weights)
    assert float(jnp.mean(masses == 0)) < 0.05
    assert float(jnp.sum(masses * jnp.sum(y**2, 1))) == pytest.approx(float(weights @ jnp.sum(y**2, 1)), rel=0.22)


@pytest.mark.slow
def test_a_solve_does_not_see_points_without_weight(key):
    y, x, _ = clouds()
    weights = np.random.default_rng(1).dirichlet(np.full(NUM, 5.0))
    options = {"tol": 0.02, "batch_size": 256}
    alone, told = semidiscrete.run(key, y, weights, **options)
    padded, zero = np.full((NUM + 6, DIM), 1e30, np.float32), np.zeros(NUM + 6)
    padded[3 : NUM + 3], zero[3 : NUM + 3] = y, weights
    padded[0] = y[0]  # where there is a point with weight
    state, info = semidiscrete.run(key, padded, zero, **options)
    assert int(info.status) == int(told.status) == og.Status.CONVERGED
    np.testing.assert_array_equal(np.asarray(state.h)[[0, 1, 2, -1]], np.float32(descent.EXCLUDED))
    index = semidiscrete.assign(state, padded, x)
    assert float(np.mean(np.asarray(index) - 3 == semidiscrete.assign(alone, y, x))) > 0.9
    masses = semidiscrete.masses(key, state, padded, 2**14, weights=zero)
    np.testing.assert_array_equal(masses[np.flatnonzero(zero == 0)], 0)
    assert semidiscrete.chi2(key, state, padded, 2**14, weights=zero)[0] < 0.05
    again, _ = semidiscrete.run(key, padded, zero, state=state, **options)
    np.testing.assert_array_equal(again.h[0], np.float32(descent.EXCLUDED))
    found = coupling.invert_all(key, state, padded).found
    np.testing.assert_array_equal(found, zero > 0)


@pytest.mark.slow
def test_float32_points_in_x64_mode(x64, key):
    y, x, h = clouds()
    state = semidiscrete.from_heights(h)
    for sampler in (source.uniform_cube, source.gaussian):
        index = jnp.arange(4)
        noise, found = coupling.invert(key, state, y, index, sampler=sampler, num_sweeps=2)
        assert noise.dtype == jnp.float32
        np.testing.assert_array_equal(semidiscrete.assign(state, y, noise[found]), index[found])
    noise, found = coupling.invert_all(key, state, y, num_sweeps=2)
    np.testing.assert_array_equal(semidiscrete.assign(state, y, noise[found]), np.flatnonzero(found))
    faces = extension.singular_angles(state, y, x.astype(np.float64))
    apart = y[faces.index[:, 0]] - y[faces.index[:, 1]]
    gap = np.sum(apart * x, 1) + h[faces.index[:, 0]] - h[faces.index[:, 1]]
    np.testing.assert_allclose(faces.distance, gap / np.linalg.norm(apart, axis=1), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_arrays_of_the_other_byte_order(key):
    y, x, h = clouds()
    weights = np.full(NUM, 1 / NUM, np.float32)

    def outputs(it):
        state = semidiscrete.from_heights(it(h))
        start = semidiscrete.stage(key, state, it(y), it(weights), 10, 64)
        ext = extension.Extension(it(0.1 * y), jnp.float32(1.0))
        return [
            top_scores(it(x), it(y), it(h)),
            semidiscrete.assign(state, it(y), it(x)),
            semidiscrete.step(key, start, it(y), it(weights), batch_size=64).h,
            extension.singular_angles(state, it(y), it(x)),
            extension.dihedral_angle(it(y[0]), it(x[0])),
            extension.transport(key, ext, state, it(y), it(x), form="pairs"),
            coupling.nearest(it(y), it(x)),
            coupling.pair(key, 0, state, it(y), 64),
        ]

    for has, want in zip(*(jax.tree.leaves(outputs(it)) for it in (swapped, jnp.asarray)), strict=True):
        np.testing.assert_array_equal(has, want)


def test_eager_calls_compile_once(key):
    y, x, h = clouds()
    weights, state = np.full(NUM, 1 / NUM, np.float32), semidiscrete.from_heights(h)
    state = semidiscrete.stage(key, state, y, weights, 10, 64)
    semidiscrete.step(key, state, y, weights, batch_size=64)
    before = descent._step._cache_size()
    for _ in range(2):
        semidiscrete.step(key, state, y, weights, batch_size=64)
        semidiscrete.assign(state, y, x)
    assert descent._step._cache_size() == before


@pytest.mark.parametrize("exponent", [-33, -16, 16, 33])
def test_heights_scale_with_the_units_of_the_points(key, exponent):
    y, x, _ = clouds()
    weights = np.full(NUM, 1 / NUM, np.float32)

    def solved(y):
        state = semidiscrete.init(key, y)
        state = semidiscrete.stage(key, state, y, weights, 10, 64)
        for _ in range(5):
            state = semidiscrete.step(key, state, y, weights, batch_size=64)
        return state, semidiscrete.assign(state, y, x), coupling.invert(key, state, y, np.arange(4), num_sweeps=2)

    scale = np.float32(2.0**exponent)
    one, index, inverse = solved(y)
    other, theirs, inverses = solved(scale * y)
    np.testing.assert_allclose(other.h / scale, one.h, atol=1e-5 * np.std(one.h))
    assert np.mean(index == theirs) > 0.95
    np.testing.assert_array_equal(inverses.found, inverse.found)


def test_points_far_from_the_origin(key):
    y, x, h = clouds()
    state, far = semidiscrete.from_heights(h), y + np.float32(1024)
    near = semidiscrete.assign(state, far - np.float32(1024), x)
    np.testing.assert_array_equal(semidiscrete.assign(state, far, x), near)
    one, other = (extension.singular_angles(state, points, x) for points in (far - np.float32(1024), far))
    np.testing.assert_allclose(one.distance, other.distance, atol=1e-5)


def test_the_nearest_of_near_points_far_from_the_mean():
    rng = np.random.default_rng(0)
    y = (1e3 * rng.normal(size=(3, DIM))[np.arange(NUM) % 3] + 1e-2 * rng.normal(size=(NUM, DIM))).astype(np.float32)
    np.testing.assert_array_equal(coupling.nearest(y, y), np.arange(NUM))
    np.testing.assert_array_equal(coupling.nearest(np.repeat(y[:12], 2, 0), y[:12]), 2 * np.arange(12))


def test_pairs_without_end_are_not_collected(key):
    y, _, h = clouds()
    endless = coupling.pairs(key, semidiscrete.from_heights(h), y, 64)
    for collect in (list, tuple):
        with pytest.raises(ValueError, match="no end"):
            collect(endless)
    assert len(list(itertools.islice(endless, 2))) == 2


def test_points_that_repeat_are_found_on_their_device():
    y, _, _ = clouds()
    grid = np.stack(np.meshgrid(*[np.arange(16.0)] * 2), -1).reshape(-1, 2).astype(np.float32)
    for points in (y, grid):
        assert not measure._hashes_meet(points)
        assert not measure.may_repeat(points)
    again = np.concatenate([grid, -0.0 * grid[:1]])
    assert measure._hashes_meet(again)
    assert measure.may_repeat(again)


Y, X, H = clouds()
STATE = semidiscrete.State(*[H] * 4, np.int32(0), semidiscrete.Schedule(*[np.int32(0)] * 2, *[np.float32(1)] * 2))
EXT = extension.Extension(0.1 * Y, np.float32(1.0))
KEY, WEIGHTS = jax.random.key(0), np.full(NUM, 1 / NUM, np.float32)


def wide(key, num, dim):
    return jax.random.normal(key, (num, dim + 1))


BAD = {
    "k = 0": lambda: top_scores(X, Y, H, 0),
    "k = -1": lambda: top_scores(X, Y, H, -1),
    "k = 2.0": lambda: top_scores(X, Y, H, 2.0),
    "k <= N": lambda: top_scores(X, Y, H, NUM + 1),
    "x has shape": lambda: top_scores(X[:, :2], Y, H),
    "h has shape": lambda: top_scores(X, Y, H[:3]),
    "y has shape": lambda: top_scores(X, Y[0], H),
    "h has shape .*: give": lambda: semidiscrete.from_heights(Y),
    "NaN or infinite": lambda: semidiscrete.from_heights(np.array([0.0, np.nan])),
    "key is a int": lambda: semidiscrete.run(0, Y),
    "holds several keys": lambda: semidiscrete.init(jax.random.split(KEY), Y),
    "has no hash": lambda: semidiscrete.init(KEY, Y, sampler=[]),
    "such as otgen": lambda: semidiscrete.run(KEY, Y, sampler="gaussian"),
    "it must return": lambda: semidiscrete.init(KEY, Y, sampler=wide),
    "batch_size = 0.5": lambda: semidiscrete.run(KEY, Y, batch_size=0.5),
    "tol = -1": lambda: semidiscrete.run(KEY, Y, tol=-1),
    "max_samples = nan": lambda: semidiscrete.run(KEY, Y, max_samples=float("nan")),
    "num = 1": lambda: semidiscrete.masses(KEY, STATE, Y, 1),
    "num = 1e3|num = 1000.0": lambda: semidiscrete.chi2(KEY, STATE, Y, 1e3),
    "num_steps = 0": lambda: semidiscrete.stage(KEY, STATE, Y, WEIGHTS, 0, 64),
    "batch_size = -2": lambda: semidiscrete.step(KEY, STATE, Y, WEIGHTS, batch_size=-2),
    "weights has shape": lambda: semidiscrete.step(KEY, STATE, Y, WEIGHTS[:-1]),
    "sums to 2": lambda: semidiscrete.stage(KEY, STATE, Y, 2 * WEIGHTS, 10, 64),
    "heights of shape": lambda: semidiscrete.step(KEY, STATE, Y[:12], 2 * WEIGHTS[:12]),
    "state is a ": lambda: semidiscrete.assign(H, Y, X),
    "state is a tuple": lambda: coupling.pair(KEY, 0, (H,), Y, 8),
    "24 heights": lambda: semidiscrete.assign(STATE, Y[1:], X),
    "dimension 3": lambda: semidiscrete.assign(STATE, Y, X[:, :2]),
    "broadcast, of one d": lambda: extension.dihedral_angle(Y, X[:NUM, :2]),
    "broadcast": lambda: extension.dihedral_angle(Y, X),
    "give slopes": lambda: extension.dihedral_angle(1.0, 2.0),
    "max_crossings = 1.5": lambda: extension.walk(STATE, Y, X[:2], max_crossings=1.5),
    "quantile = 2": lambda: extension.threshold(KEY, STATE, Y, quantile=2),
    "num = 0": lambda: extension.init(KEY, STATE, Y, num=0),
    "num = -3": lambda: extension.sample(KEY, EXT, STATE, Y, -3),
    "num = 7.0": lambda: extension.source_samples(KEY, 7.0, 2),
    "extension is a ": lambda: extension.sample(KEY, None, STATE, Y, 3),
    "centres has shape": lambda: extension.transport(KEY, EXT._replace(centres=Y[1:]), STATE, Y, X),
    "angle, in radians, = 4": lambda: extension.transport(KEY, EXT, STATE, Y, X, angle=4.0),
    "form = 'spline'": lambda: extension.transport(KEY, EXT, STATE, Y, X, form="spline"),
    "step = -1": lambda: coupling.pair(KEY, -1, STATE, Y, 8),
    "step = 4294967296": lambda: coupling.pair(KEY, 2**32, STATE, Y, 8),
    "start = 0.5": lambda: coupling.pairs(KEY, STATE, Y, 8, start=0.5),
    "num = -1: give": lambda: coupling.pairs(KEY, STATE, Y, 8, num=-1),
    "num_sweeps = 0": lambda: coupling.invert_all(KEY, STATE, Y, num_sweeps=0),
    "x has NaN": lambda: semidiscrete.assign(STATE, Y, np.nan * X),
    "h holds no": lambda: semidiscrete.from_heights([]),
    "integers": lambda: coupling.invert(KEY, STATE, Y, []),
}


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_meant_is_refused(message):
    with pytest.raises((ValueError, jaxtyping.TypeCheckError)) as caught:
        BAD[message]()
    if isinstance(caught.value, ValueError):  # checks of annotations, which only tests have, may come first
        assert re.search(message, str(caught.value))
