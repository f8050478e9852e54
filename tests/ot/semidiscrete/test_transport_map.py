"""The map that a solve returns says what the functions below it say, with nothing to be matched by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otgen as og

Y = jax.random.normal(jax.random.key(0), (40, 2))
NOISE = jax.random.normal(jax.random.key(1), (30, 2))


@pytest.fixture(scope="module")
def solved():
    """A map from the Gaussian law, and how it ended."""
    return og.semidiscrete.run(jax.random.key(2), Y, sampler=og.source.gaussian)


@pytest.fixture(scope="module")
def extended(solved):
    return solved[0].extended(jax.random.key(3))


def test_the_law_is_that_of_the_solve(solved):
    transport, info = solved
    value, error = transport.chi2(jax.random.key(4), 2**16)
    assert info.status == og.Status.CONVERGED
    assert abs(value - info.chi2) < 5 * (error + info.chi2_error)
    wrong, _ = og.semidiscrete.chi2(jax.random.key(4), transport.state, Y, 2**16)  # whose law nobody has said
    assert wrong > 10 * value
    with pytest.raises(ValueError, match="leave it out"):
        og.semidiscrete.masses(jax.random.key(4), transport, Y, 100, sampler=og.source.uniform_cube)


@pytest.mark.slow
def test_methods_are_the_functions(extended):
    state, law = extended.state, {"sampler": og.source.gaussian}
    key = jax.random.key(5)
    np.testing.assert_array_equal(extended.assign(NOISE), og.semidiscrete.assign(state, Y, NOISE))
    np.testing.assert_array_equal(extended(NOISE), Y[extended.assign(NOISE)])
    np.testing.assert_allclose(extended.masses(key, 1000), og.semidiscrete.masses(key, state, Y, 1000, **law))
    for ours, theirs in (
        (extended.pair(key, 2, 16), og.coupling.pair(key, 2, state, Y, 16, **law)),
        (next(extended.pairs(key, 16, start=2)), og.coupling.pair(key, 2, state, Y, 16, **law)),
        (extended.move(key, NOISE), og.extension.transport(key, extended.extension, state, Y, NOISE)),
    ):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    drawn = og.extension.sample(key, extended.extension, state, Y, 50, form="pairs", **law)
    np.testing.assert_array_equal(extended.sample(key, 50, form="pairs"), drawn)


@pytest.mark.slow
def test_noise_of_the_points_is_sent_back_to_them(extended):
    noise, found = extended.invert(jax.random.key(6), jnp.arange(40))
    np.testing.assert_array_equal(extended.assign(noise[found]), jnp.flatnonzero(found))
    noise, found = extended.invert_all(jax.random.key(6))
    assert found.all()
    np.testing.assert_array_equal(extended.assign(noise), jnp.arange(40))


def test_it_is_a_pytree_that_jit_takes_and_a_file_keeps(extended, tmp_path):
    jitted = jax.jit(lambda transport, x: transport(x))
    np.testing.assert_array_equal(jitted(extended, NOISE), extended(NOISE))
    og.save(tmp_path / "map", extended)
    again = og.load(tmp_path / "map")
    assert again.sampler == og.source.gaussian
    np.testing.assert_array_equal(again.sample(jax.random.key(7), 20), extended.sample(jax.random.key(7), 20))


def test_a_solve_goes_on_from_a_map():
    y = jax.random.normal(jax.random.key(8), (300, 4))
    options = {"tol": 0.005, "batch_size": 256, "sampler": og.source.gaussian}
    first, early = og.semidiscrete.run(jax.random.key(9), y, max_samples=15_000, **options)
    second, info = og.semidiscrete.run(jax.random.key(10), y, state=first, tol=0.005, batch_size=256)  # of its law
    assert second.sampler == og.source.gaussian
    with pytest.raises(ValueError, match="leave it out"):
        og.semidiscrete.run(jax.random.key(10), y, state=first, sampler=og.source.uniform_cube)
    assert early.status == og.Status.MAX_STEPS
    assert info.status == og.Status.CONVERGED
    assert second.chi2(jax.random.key(11), 2**17)[0] < 0.5 * first.chi2(jax.random.key(11), 2**17)[0]


def test_weights_and_copies_of_points_are_remembered():
    y = jnp.array([[-1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [9.0, 9.0]])
    weights = jnp.array([0.5, 0.2, 0.3, 0.0])
    transport, _ = og.semidiscrete.run(jax.random.key(12), y, weights)
    np.testing.assert_allclose(transport.masses(jax.random.key(13), 2**16), weights, atol=0.02)
    np.testing.assert_array_equal(transport.weights, weights)


def test_what_is_missing_is_said(solved):
    transport, _ = solved
    for call in (lambda: transport.sample(jax.random.key(0), 3), lambda: transport.move(jax.random.key(0), NOISE)):
        with pytest.raises(ValueError, match=r"map\.extended"):
            call()
    with pytest.raises(ValueError, match="dimension 2"):
        transport(NOISE[:, :1])
    other = dataclasses.replace(transport, sampler=og.source.uniform_cube)
    assert other.chi2(jax.random.key(1), 2**15)[0] > 0.5  # solved for another law
