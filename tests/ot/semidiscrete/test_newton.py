"""Newton's steps on the heights: the matrix, the step, empty cells, and whole solves of clustered points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otgen.ot import semidiscrete
from otgen.ot.semidiscrete import newton
from otgen.ot.semidiscrete.source import uniform_cube


def _clustered(key, num, dim=2, width=1e-3):
    keys = jax.random.split(key)
    return jax.random.normal(keys[0], (10, dim))[jnp.arange(num) % 10] + width * jax.random.normal(keys[1], (num, dim))


def test_the_matrix_of_a_lattice(key):
    side = (jnp.arange(8) + 0.5) / 8 - 0.5
    y = jnp.stack(jnp.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    found = newton.count(key, -0.5 * np.sum(np.asarray(y) ** 2, 1), y, 0, 512, uniform_cube, 1024)
    inner = np.abs(np.asarray(y)).max(1) < 0.4  # their cells are squares, which are four cones
    flow = {tuple(edge): flow for edge, flow in zip(found.edges, found.flow, strict=True) if inner[edge].all()}
    assert len(flow) == 60  # of 6 x 6 squares
    # A face of 1/8 between points 1/8 apart: its density over their distance is 1.
    values = np.array(list(flow.values()))
    pairs = 2**19 / 64 / 4 * 2  # samples on the two sides of a face; the gap's sd over its mean is below 1
    assert np.abs(values - 1).max() < 5 * (1 / pairs + 1 / pairs) ** 0.5
    np.testing.assert_allclose(found.masses.sum(), 1, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("dim", [2, 3])
def test_the_matrix_predicts_what_heights_move(dim, key):
    random = np.random.default_rng(0)
    y = random.uniform(-0.5, 0.5, (64, dim)).astype(np.float32)
    h = -0.5 * np.sum(y**2, 1)  # cells of what is nearest
    rise = 0.0005 * random.normal(size=64)
    before = newton.count(key, h, jnp.asarray(y), 0, 512, uniform_cube, 1024)
    after = newton.count(key, h + rise, jnp.asarray(y), 0, 512, uniform_cube, 1024)  # same samples
    predicted = np.zeros(64)
    for (i, j), flow in zip(before.edges, before.flow, strict=True):
        predicted[i] += flow * (rise[i] - rise[j])
        predicted[j] += flow * (rise[j] - rise[i])
    moved = after.masses - before.masses
    assert np.linalg.norm(predicted - moved) < 0.3 * np.linalg.norm(moved)  # cells are cones but roughly


@pytest.mark.slow
def test_pairs_are_counted_part_by_part(key, monkeypatch):
    y = jax.random.normal(key, (64, 2))
    whole = newton.count(key, np.zeros(64), y, 3, 70, uniform_cube, 1024)  # 6 blocks more than those for pairs
    monkeypatch.setattr(newton, "_PART", 10 * 1024)
    parts = newton.count(key, np.zeros(64), y, 3, 70, uniform_cube, 1024)
    np.testing.assert_array_equal(parts.masses, whole.masses)
    np.testing.assert_array_equal(parts.edges, whole.edges)
    np.testing.assert_allclose(parts.flow, whole.flow, rtol=1e-9)


def test_the_step_solves_the_damped_system():
    edges, flow = np.array([[0, 1], [1, 2], [3, 4]]), np.array([2.0, 0.5, 1.0])  # two parts, and a point without faces
    masses, weights = np.array([0.3, 0.1, 0.2, 0.25, 0.05, 0.1]), np.full(6, 1 / 6)
    step = newton.direction(newton.Count(masses, edges, flow, 1000), weights, damping=0.25)
    matrix = np.zeros((6, 6))
    for (i, j), value in zip(edges, flow, strict=True):
        matrix[[i, j], [j, i]] -= value
        matrix[[i, j], [i, j]] += 1.25 * value
    lack = weights - masses
    for part in ([0, 1, 2], [3, 4]):
        lack[part] -= lack[part].mean()
    wanted = np.append(np.linalg.solve(matrix[:5, :5], lack[:5]), 0.0)
    np.testing.assert_allclose(step, wanted - wanted.mean(), rtol=2e-3, atol=1e-5)


def test_an_empty_cell_is_raised_to_half_of_its_weight(key):
    y = jnp.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 0.1]])
    weights = np.array([0.4, 0.4, 0.2])
    h = newton.raised(key, np.array([0.0, 0.0, -1.0]), y, np.array([2]), weights, uniform_cube)
    np.testing.assert_array_equal(h[:2], 0.0)
    masses = semidiscrete.masses(jax.random.key(9), semidiscrete.from_heights(jnp.asarray(h)), y, 2**16)
    sd = (0.1 * 0.9 * (2**-16 + 2**-16)) ** 0.5
    assert abs(float(masses[2]) - 0.1) < 5 * sd


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_clustered_points_are_solved_where_descent_leaves_cells_empty(key):
    y = _clustered(key, 300)
    weights = jnp.full(300, 1 / 300)
    start, _ = semidiscrete.run(key, y, tol=1e-9, max_samples=300_000)
    before, _ = semidiscrete.chi2(jax.random.key(1), start, y, 2**18)
    assert (np.asarray(semidiscrete.masses(jax.random.key(1), start, y, 2**18)) == 0).any()
    seen = []
    h, drawn = newton.run(
        key, start.h, y, weights, 0.01, 300, 1500, uniform_cube, 1024, lambda block, found: seen.append((block, found))
    )
    after, _ = semidiscrete.chi2(jax.random.key(1), semidiscrete.from_heights(h), y, 2**18)
    assert float(after) < 0.02 < 0.1 < float(before)
    assert (np.asarray(semidiscrete.masses(jax.random.key(1), semidiscrete.from_heights(h), y, 2**18)) > 0).all()
    assert seen[-1][0] == drawn <= 1500
    assert abs(float(h.mean())) < 1e-6


def test_too_few_samples_for_a_step_change_nothing(key):
    h = jnp.arange(4.0)
    same, drawn = newton.run(key, h, jnp.eye(4)[:, :2], jnp.full(4, 0.25), 0.1, 0, 100, uniform_cube, 1024)
    assert drawn == 0
    np.testing.assert_array_equal(same, h)


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_a_solve_with_newton_steps_counts_their_samples_and_resumes_bit_identically(key):
    y, options = _clustered(key, 300, width=1e-4), {"tol": 2e-3, "max_samples": 2_500_000}
    saved, shown, again = [], [], []
    whole, info = semidiscrete.run(
        key,
        y,
        save=lambda step, state: saved.append(state),
        save_seconds=0.0,
        callback=lambda step, found: shown.append(found),
        **options,
    )
    last = int(info.num_steps)
    assert float(info.num_samples) == 1024 * last
    assert [found["samples"] for found in shown] == sorted(found["samples"] for found in shown)
    stages = sorted({(int(state.schedule.first), int(state.schedule.length)) for state in saved})
    ends = [*(first for first, _ in stages[1:]), last]
    assert any(end > first + length for (first, length), end in zip(stages, ends, strict=True))  # Newton's samples
    _, more = semidiscrete.run(key, y, state=whole, callback=lambda step, found: again.append(step), **options)
    assert float(more.num_samples) <= 2_500_000  # counted anew, from the heights of the map
    assert more.error <= 1.5 * info.error
    assert again == sorted(again)
    middle = next(state for state in saved if int(state.schedule.first) == stages[1][0])
    resumed, _ = semidiscrete.run(key, y, state=middle, **options)
    np.testing.assert_array_equal(resumed.h, whole.h)
