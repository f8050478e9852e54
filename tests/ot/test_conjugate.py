"""Conjugates against closed forms and scipy, far starts, and warm starts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from otgen.ot import conjugate


def quadratic(root):
    return lambda x: 0.5 * jnp.sum((x @ root) ** 2, axis=1)


def steep(x):
    """Convex, far from quadratic, with curvature between .1 and 40."""
    return 0.05 * jnp.sum(x**2, axis=1) + 2 * jnp.sum(jax.nn.softplus(8 * (x - 0.3)), axis=1) / 8


def test_a_quadratic_has_the_inverse_quadratic(x64):
    rng = np.random.default_rng(0)
    root = np.eye(6) + 0.5 * rng.normal(size=(6, 6))
    y = rng.normal(size=(50, 6))
    found = conjugate.solve(quadratic(jnp.asarray(root)), y, num_steps=80)
    inverse = np.linalg.inv(root @ root.T)
    np.testing.assert_allclose(found.points, y @ inverse, atol=1e-6)
    np.testing.assert_allclose(found.values, 0.5 * np.einsum("ni,ij,nj->n", y, inverse, y), rtol=1e-9)


@pytest.mark.slow
def test_steep_potentials_agree_with_scipy_from_far_away():
    rng = np.random.default_rng(1)
    y = rng.uniform(-1, 3, size=(200, 3)).astype(np.float32)
    start = 30 * rng.normal(size=(200, 3)).astype(np.float32)
    found = conjugate.solve(steep, y, start, num_steps=200)
    assert float(found.residual.max()) < 1e-3

    def slope(x, y):
        return 0.1 * x + 2 / (1 + np.exp(-8 * (np.float64(x) - 0.3))) - y

    true = [[optimize.brentq(slope, -40, 40, args=(float(v),)) for v in row] for row in y[:20]]
    np.testing.assert_allclose(found.points[:20], true, atol=2e-2)


@pytest.mark.slow
def test_values_are_bounds_from_below_that_rise_with_the_steps():
    y = jax.random.normal(jax.random.key(0), (100, 3)) + 1
    few, many = (conjugate.solve(steep, y, num_steps=steps) for steps in (3, 100))
    assert bool(jnp.all(few.values <= many.values + 1e-5))
    inequality = jnp.sum(y * y[::-1], axis=1) - steep(y[::-1])  # Fenchel and Young, at any other point
    assert bool(jnp.all(many.values >= inequality - 1e-5))


@pytest.mark.slow
def test_a_warm_start_with_its_step_follows_a_small_change():
    y = jax.random.normal(jax.random.key(0), (100, 3)) + 1
    known = conjugate.solve(steep, y, num_steps=100)

    def moved(x):
        return steep(x) + 0.02 * jnp.sum(x**2, axis=1)

    cold = conjugate.solve(moved, y, num_steps=4)
    warm = conjugate.solve(moved, y, known.points, step=known.step, num_steps=4)
    assert float(jnp.median(warm.residual)) < 0.1 * float(jnp.median(cold.residual))


def creased(x):
    """Convex, flat but for a crease of curvature 400 where x_1 is near 0, which a third of the slopes meet."""
    return 0.5 * jnp.sum(x**2, axis=1) + jnp.log(2 * jnp.cosh(20 * x[:, 0])) / 20 + 0.1 * jnp.sum(x, axis=1) ** 2


def test_rows_that_need_more_steps_get_them():
    """Rows of the easier half end as if nothing was halved, and at equal price the crease is met more closely."""
    y = jax.random.normal(jax.random.key(0), (512, 4))
    plain, halved = (conjugate.solve(creased, y, num_steps=4, halvings=halvings) for halvings in (0, 3))
    easy = plain.residual <= jnp.median(plain.residual)
    np.testing.assert_array_equal(halved.points[easy], plain.points[easy])
    assert bool(jnp.all(halved.residual <= plain.residual + 1e-6))
    dear = conjugate.solve(creased, y, num_steps=8)  # halved: 4 + 2 + 1 + 1/2 evaluations of all rows
    size = [float(jnp.sqrt(jnp.mean(found.residual**2))) for found in (plain, dear, halved)]
    assert size[2] < 0.9 * size[1] < 0.9 * size[0]


def test_halving_one_row_or_an_odd_number_changes_no_shape():
    for rows in (1, 7):
        found = conjugate.solve(steep, jnp.full((rows, 2), 1.5), num_steps=20, halvings=4)
        assert found.points.shape == (rows, 2)
        assert float(found.residual.max()) < 1e-3


def test_the_envelope_theorem_gives_the_gradients(x64):
    y = jax.random.normal(jax.random.key(0), (5, 3)) + 1

    def total(y, weight):
        return conjugate.solve(lambda x: weight * steep(x), y, num_steps=80).values.sum()

    points = conjugate.solve(steep, y, num_steps=80).points
    by_y, by_weight = jax.jit(jax.grad(total, (0, 1)))(y, 1.0)
    np.testing.assert_allclose(by_y, points, atol=1e-6)
    np.testing.assert_allclose(by_weight, -steep(points).sum(), rtol=1e-6)


def test_a_row_without_a_number_leaves_the_others_alone():
    y = jax.random.normal(jax.random.key(0), (10, 3))

    def wild(x):
        return jnp.where(x[:, 0] > 0.5, jnp.nan, steep(x))

    found = jax.jit(lambda y, start: conjugate.solve(wild, y, start, num_steps=60))(y, jnp.full((10, 3), 0.4))
    assert bool(jnp.isfinite(found.points).all())


def test_what_cannot_be_meant_is_refused():
    with pytest.raises(ValueError, match="one point per slope"):
        conjugate.solve(steep, np.ones((3, 2)), np.ones((4, 2)))
    with pytest.raises(ValueError, match="NaN"):
        conjugate.solve(steep, np.full((3, 2), np.nan))
    with pytest.raises(ValueError, match="num_steps"):
        conjugate.solve(steep, np.ones((3, 2)), num_steps=0)
    with pytest.raises(ValueError, match="halvings"):
        conjugate.solve(steep, np.ones((3, 2)), halvings=-1)
