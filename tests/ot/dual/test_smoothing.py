import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from scipy.optimize import brentq

from otgen.ot.dual import smoothing

pytestmark = pytest.mark.usefixtures("x64")

BOTH = [smoothing.ENTROPIC, smoothing.QUADRATIC]
LEVEL = {of.name: jax.jit(of.level) for of in BOTH}


@pytest.mark.parametrize("of", BOTH, ids=lambda of: of.name)
def test_conjugates_are_the_largest_of_their_lines(of):
    t = np.linspace(0, 40, 400_001)
    density, slope = jax.jit(jax.grad(of.conjugate)), jax.jit(jax.grad(of.value))
    for s in (-3.0, -0.2, 0.0, 0.7, 3.0):
        lines = s * t - np.asarray(of.value(jnp.asarray(t)))
        assert float(of.conjugate(s)) == pytest.approx(lines.max(), abs=1e-6)
        assert float(of.density(s)) == pytest.approx(t[lines.argmax()], abs=2e-4)
        assert float(density(s)) == pytest.approx(float(of.density(s)), abs=1e-12)
    for t in (0.3, 1.0, 2.5):
        assert float(slope(t)) == pytest.approx(float(of.slope(jnp.asarray(t))), abs=1e-12)
        assert float(of.density(of.slope(jnp.asarray(t)))) == pytest.approx(t)
    assert np.isfinite(float(of.value(jnp.zeros(()))))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), num=st.sampled_from([1, 6]), epsilon=st.floats(1e-3, 10.0), zeros=st.booleans())
def test_levels_solve_their_equation(seed, num, epsilon, zeros):
    random = np.random.default_rng(seed)
    scores, weights = random.normal(size=num), random.dirichlet(np.ones(num))
    if zeros and num > 1:
        weights[random.integers(num)] = 0
        weights /= weights.sum()
    for of in BOTH:
        with jax.enable_x64(True):
            g = float(LEVEL[of.name](scores, weights, epsilon))
            density = np.asarray(of.density(np.minimum((scores + g) / epsilon, 700.0)))
        assert weights @ np.where(weights > 0, density, 0) == pytest.approx(1, rel=1e-9)


def test_the_sorted_level_is_the_root_and_has_its_derivative():
    random = np.random.default_rng(1)
    scores, weights = random.normal(size=(5, 7)), random.dirichlet(np.ones(7))
    g = jax.jit(smoothing.hinge_level)(scores, weights, 0.3)
    for row, level in zip(scores, g, strict=True):
        root = brentq(lambda g, row=row: weights @ np.maximum(row + g, 0) - 0.3, -10, 10, xtol=1e-14)
        assert float(level) == pytest.approx(root, abs=1e-12)
    total = jax.jit(lambda scores, weights, mass: smoothing.hinge_level(scores, weights, mass).sum())
    check_grads(total, (jnp.asarray(scores), jnp.asarray(weights), 0.3), order=1)


def test_points_of_weight_zero_are_silent_and_have_finite_gradients():
    scores, weights = jnp.array([0.1, 900.0, -0.3]), jnp.array([0.4, 0.0, 0.6])
    kept = jnp.array([0, 2])
    for of in BOTH:
        alone = LEVEL[of.name](scores[kept], weights[kept], 0.5)
        np.testing.assert_allclose(LEVEL[of.name](scores, weights, 0.5), alone, rtol=1e-12)
        slopes = jax.jit(jax.grad(of.level, (0, 1)))(scores, weights, 0.5)
        assert all(np.isfinite(slope).all() for slope in slopes)
        assert float(slopes[0][1]) == 0


def test_float32_scores_far_from_zero_keep_their_digits():
    scores = jnp.asarray(np.random.default_rng(0).normal(size=50) + 1000, jnp.float32)
    for of in BOTH:
        g = LEVEL[of.name](scores, jnp.full(50, 0.02, jnp.float32), jnp.float32(0.5))
        exact = LEVEL[of.name](scores.astype(jnp.float64), jnp.full(50, 0.02), 0.5)
        assert g.dtype == jnp.float32
        assert float(g) == pytest.approx(float(exact), rel=3e-7)


def test_names():
    assert smoothing.by_name("quadratic") is smoothing.QUADRATIC
    assert smoothing.by_name(smoothing.ENTROPIC) is smoothing.ENTROPIC
    assert hash(smoothing.ENTROPIC) != hash(smoothing.QUADRATIC)
    with pytest.raises(ValueError, match="entropic, quadratic"):
        smoothing.by_name("cubic")
