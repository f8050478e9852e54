"""Nearest faces and walks through the cells, against cells that are known and against all pairs of targets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otgen.ot import semidiscrete
from otgen.ot.semidiscrete import extension
from otgen.ot.semidiscrete.singular import dihedral_angle, singular_angles, walk
from tests.support import problems

GAP = 0.5  # radians: between the angles within a cluster and that across


@pytest.fixture(scope="module")
def plane():
    """A solved problem in the plane: heights, points."""
    y = jax.random.normal(jax.random.key(3), (256, 2))
    return semidiscrete.run(jax.random.key(0), y, tol=0.01)[0], y


def two_clusters(num: int, dim: int) -> tuple[semidiscrete.State, jax.Array, np.ndarray]:
    """Targets around -1 and 1 on a line, whose cells are slabs of the cube between borders that are known."""
    half = np.linspace(-0.1, 0.1, num // 2)
    place = np.concatenate([half - 1, half + 1])
    border = np.arange(1, num) / num - 0.5
    y = np.zeros((num, dim))
    y[:, 0] = place
    h = np.concatenate([[0.0], np.cumsum(-border * np.diff(place))])
    return semidiscrete.from_heights(jnp.asarray(h, jnp.float32)), jnp.asarray(y, jnp.float32), border


def test_dihedral_angle_against_its_formula_in_float64():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 100, 5))
    cosine = (1 + (a * b).sum(1)) / np.sqrt((1 + (a**2).sum(1)) * (1 + (b**2).sum(1)))
    np.testing.assert_allclose(dihedral_angle(jnp.asarray(a), jnp.asarray(b)), np.arccos(cosine), atol=2e-6)
    tiny = dihedral_angle(jnp.zeros((1, 3)), jnp.array([[1e-5, 0.0, 0.0]]))
    assert float(tiny[0]) == pytest.approx(1e-5, rel=1e-4)


@pytest.mark.parametrize("dim", [1, 2])
def test_the_angle_is_large_just_where_the_nearest_face_parts_the_clusters(dim):
    state, y, border = two_clusters(8, dim)
    x = jnp.zeros((999, dim)).at[:, 0].set(jnp.linspace(-0.4995, 0.4995, 999))
    faces = singular_angles(state, y, x)
    place = np.asarray(x)[:, 0]
    near = np.abs(place[:, None] - border).argmin(1)
    np.testing.assert_allclose(faces.distance, np.abs(place - border[near]), atol=1e-5)
    between = 1 / 16  # half a cell: there the face at 0 ceases to be the nearest
    clear = np.abs(np.abs(place) - between) > 1e-4
    np.testing.assert_array_equal((np.asarray(faces.angle) > GAP)[clear], (np.abs(place) < between)[clear])
    slope = np.asarray(y)[:, 0]
    angle = np.arctan(slope[1:]) - np.arctan(slope[:-1])  # lines in the plane: the angle between their directions
    np.testing.assert_allclose(np.asarray(faces.angle)[clear], angle[near][clear], atol=1e-5)


@pytest.mark.slow
def test_nearest_faces_are_those_of_all_pairs_of_targets(plane):
    state, y = plane
    x = extension.source_samples(jax.random.key(1), 4500, 2)  # more than a tile
    faces = singular_angles(state, y + 10.0, x)  # a shift of the targets changes nothing
    points, h, place = (np.asarray(part, np.float64) for part in (y - y.mean(0), state.h, x))
    scores = place @ points.T + h
    winner = scores.argmax(1)
    length = np.linalg.norm(points[winner][:, None] - points, axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.where(length > 0, (scores.max(1, keepdims=True) - scores) / length, np.inf)
    np.testing.assert_allclose(faces.distance, distance.min(1), atol=1e-4)  # targets near 10 are rounded to 1e-6
    assert np.mean(np.asarray(faces.index) == np.stack([winner, distance.argmin(1)], 1)) > 0.995
    moved = place + 1.01 * np.asarray(faces.distance)[:, None] * _towards(points, np.asarray(faces.index))
    there = np.asarray(semidiscrete.assign(state, y, jnp.asarray(moved, jnp.float32)))
    assert np.mean(there == np.asarray(faces.index)[:, 1]) > 0.95  # but where another face is as near


def _towards(points: np.ndarray, index: np.ndarray) -> np.ndarray:
    apart = points[index[:, 1]] - points[index[:, 0]]
    return apart / np.linalg.norm(apart, axis=1, keepdims=True)


def test_targets_that_coincide_have_no_face():
    y, state = jnp.ones((3, 2)), semidiscrete.from_heights(jnp.zeros(3))
    faces = singular_angles(state, y, jnp.zeros((4, 2)))
    assert bool(jnp.isinf(faces.distance).all())
    assert float(faces.angle.max()) == 0.0
    doubled = jnp.array([[-1.0], [-1.0], [1.0]])
    faces = singular_angles(semidiscrete.from_heights(jnp.zeros(3)), doubled, jnp.array([[-0.2]]))
    assert float(faces.distance[0]) == pytest.approx(0.2, abs=1e-6)


def test_a_walk_through_slabs_crosses_each_border_at_its_place():
    state, y, border = two_clusters(8, 3)
    path = jnp.array([[-0.5, 0.1, 0.2], [0.5, -0.3, 0.2]])
    found = walk(state, y, path, max_crossings=10)
    assert int(found.num) == 7
    assert bool(found.complete)
    np.testing.assert_array_equal(found.cells, [*range(8), -1, -1, -1])
    np.testing.assert_allclose(found.time[:7], border + 0.5, atol=2e-6)
    np.testing.assert_array_equal(found.time[7:], np.inf)
    assert int(found.angle.argmax()) == 3
    np.testing.assert_array_equal(found.angle > GAP, np.arange(10) == 3)


def test_a_walk_there_and_back_meets_the_cells_in_turn():
    problem = problems.planted_slabs(6, 2, seed=0)
    border = np.cumsum(problem.weights)[:-1] - 0.5
    corners = jnp.array([[-0.5, 0.0], [0.5, 0.4], [0.5, -0.4], [-0.5, 0.0]])
    found = walk(semidiscrete.from_heights(problem.h), problem.y, corners, max_crossings=12)
    assert int(found.num) == 10
    np.testing.assert_array_equal(found.cells[:11], [0, 1, 2, 3, 4, 5, 4, 3, 2, 1, 0])
    np.testing.assert_allclose(found.time[:10], [*(border + 0.5), *(2.5 - border[::-1])], atol=1e-5)


def test_a_walk_knows_the_cell_of_every_place_on_it(plane):
    state, y = plane
    path = extension.source_samples(jax.random.key(2), 4, 2)
    found = walk(state, y, path)
    assert bool(found.complete)
    assert int(found.num) > 20
    time = np.linspace(0, 3, 3001, endpoint=False)
    part, share = time.astype(int), (time % 1)[:, None]
    corners = np.asarray(path)
    x = corners[part] + share * (corners[part + 1] - corners[part])
    visited = np.asarray(found.cells)[np.searchsorted(np.asarray(found.time), time)]
    clear = np.abs(np.asarray(found.time)[: int(found.num), None] - time).min(0) > 1e-4
    np.testing.assert_array_equal(visited[clear], np.asarray(semidiscrete.assign(state, y, jnp.asarray(x)))[clear])
    assert clear.mean() > 0.9


def test_walks_that_are_cut_off_say_so(plane):
    state, y = plane
    path = jnp.array([[-0.5, 0.0], [0.5, 0.0], [-0.5, 0.1]])
    whole, cut = walk(state, y, path), walk(state, y, path, max_crossings=5)
    assert (bool(whole.complete), bool(cut.complete), int(cut.num)) == (True, False, 5)
    np.testing.assert_array_equal(cut.time, whole.time[:5])
    np.testing.assert_array_equal(cut.cells, whole.cells[:6])
    still = walk(state, y, jnp.zeros((2, 2)), max_crossings=3)
    assert (int(still.num), bool(still.complete), int(still.cells[0])) == (
        0,
        True,
        int(semidiscrete.assign(state, y, path[:1] * 0)[0]),
    )


def test_walks_run_inside_jit_and_vmap(plane):
    state, y = plane
    paths = extension.source_samples(jax.random.key(4), 10, 2).reshape(5, 2, 2)
    every = jax.jit(jax.vmap(lambda path: walk(state, y, path, max_crossings=64)))(paths)
    alone = walk(state, y, paths[3], max_crossings=64)
    np.testing.assert_array_equal(every.cells[3], alone.cells)
    np.testing.assert_allclose(every.time[3], alone.time, atol=1e-5)
    angles = jax.jit(lambda x: singular_angles(state, y, x).angle)(paths[:, 0])
    np.testing.assert_allclose(angles, singular_angles(state, y, paths[:, 0]).angle, atol=1e-6)


def test_paths_that_lead_nowhere_raise(plane):
    with pytest.raises(ValueError, match="at least two"):
        walk(*plane, jnp.zeros((1, 2)))
    with pytest.raises(ValueError, match="max_crossings = 0"):
        walk(*plane, jnp.zeros((2, 2)), max_crossings=0)
    state, y = plane
    with pytest.raises(ValueError, match="256 heights but y has 10 points"):
        walk(state, y[:10], jnp.zeros((2, 2)))
    with pytest.raises(ValueError, match="256 heights but y has 10 points"):
        singular_angles(state, y[:10], jnp.zeros((2, 2)))
