import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import otgen as og
from otgen import sizes
from otgen.ot import coupling, semidiscrete
from otgen.ot.semidiscrete import extension, hit_and_run, pairing, source
from otgen.ot.semidiscrete.inverse import HOW
from tests.support import problems


def exponential(key, num, dim):
    return jax.random.exponential(key, (num, dim)) - 1.0


@pytest.fixture(scope="module")
def solved():
    """A map known exactly: 196 points in the plane whose cells are small squares."""
    y, _, h = problems.lattice(14)
    return semidiscrete.from_heights(h), y


@pytest.fixture(scope="module")
def clustered():
    """200 clustered points in four correlated dimensions, and their map."""
    random = np.random.default_rng(0)
    y = random.normal(size=(200, 4)) + 3 * random.normal(size=(5, 4))[random.integers(0, 5, 200)]
    y = jnp.asarray(y @ random.normal(size=(4, 4)), jnp.float32)
    state, _ = semidiscrete.run(jax.random.key(0), y, tol=0.02)
    return state, y


def exact_draws(key, state, y, index, sampler, num):
    """Draws of the source that fall into one cell, by rejection."""
    x = sampler(key, num, y.shape[1])
    return np.asarray(x)[np.asarray(semidiscrete.assign(state, y, x)) == index]


def assert_same_moments(one, two, k=4.5):
    """Means and mean products of two samples of independent points agree within k standard errors."""
    for power in (lambda x: x, lambda x: (x[:, :, None] * x[:, None]).reshape(len(x), -1)):
        a, b = power(np.asarray(one, np.float64)), power(np.asarray(two, np.float64))
        error = np.sqrt(a.var(0) / len(a) + b.var(0) / len(b))
        assert (np.abs(a.mean(0) - b.mean(0)) < k * error + 1e-9).all()


def test_pairs_are_pairs_of_the_map(solved, key):
    state, y = solved
    for batch in coupling.pairs(key, state, y, 256, num=3):
        assert batch.noise.shape == batch.data.shape == (256, 2)
        np.testing.assert_array_equal(batch.index, semidiscrete.assign(state, y, batch.noise))
        np.testing.assert_array_equal(batch.data, y[batch.index])


@pytest.mark.parametrize("quasi", [True, False])
def test_pairs_resume_and_never_repeat(solved, key, quasi):
    state, y = solved
    run = list(coupling.pairs(key, state, y, 32, quasi=quasi, num=5))
    resumed = list(itertools.islice(coupling.pairs(key, state, y, 32, quasi=quasi, start=3), 2))
    for one, two in zip(run[3:], resumed, strict=True):
        np.testing.assert_array_equal(one.noise, two.noise)
    noise = np.concatenate([it.noise for it in run])
    assert len(np.unique(noise[:, 0])) == len(noise)
    other = coupling.pair(jax.random.key(1), 0, state, y, 32, quasi=quasi)
    assert not np.array_equal(other.noise, run[0].noise)


def test_data_follow_the_cell_masses_and_quasi_random_pairs_closer(solved, key):
    state, y = solved

    def chi2(quasi):
        index = np.concatenate([it.index for it in coupling.pairs(key, state, y, 1024, quasi=quasi, num=8)])
        share = np.bincount(index, minlength=len(y)) / len(index)
        return float(((share - 1 / 196) ** 2 * 196).sum()) * len(index) / 195

    assert 0.6 < chi2(False) < 1.4  # 1 is what independent draws have; the standard deviation is 0.1
    assert chi2(True) < 0.7


def test_late_steps_do_not_overflow(solved, key):
    state, y = solved
    nets = source.NET // 4096
    for step in (2**21, 2**31 - 1):  # times 4096 neither is an int32
        batch = coupling.pair(key, step, state, y, 4096)
        assert float(jnp.abs(batch.noise).max()) <= 0.5
        assert (jnp.abs(batch.noise.mean(0)) < 0.01).all()
    first, again = (coupling.pair(key, step, state, y, 4096).noise for step in (0, nets))
    assert not np.array_equal(first, again)  # another net


def test_a_pair_in_ones_own_jit_compiles_once(solved, key):
    state, y = solved
    run = jax.jit(lambda step: coupling.pair(key, step, state, y, 64).data.sum())
    total = [float(run(step)) for step in range(3)]
    assert run._cache_size() == 1
    assert total[1] == pytest.approx(float(coupling.pair(key, 1, state, y, 64).data.sum()), rel=1e-4)
    coupling.pair(key, 0, state, y, 64)
    before = pairing._pair._cache_size()
    list(coupling.pairs(key, state, y, 64, start=7, num=3))
    assert pairing._pair._cache_size() == before


def test_pairs_refuse_at_once(solved, key):
    state, y = solved
    with pytest.raises(ValueError, match="batch_size = 0"):
        coupling.pairs(key, state, y, 0)
    with pytest.raises(ValueError, match="start = -1"):
        coupling.pairs(key, state, y, 8, start=-1)
    with pytest.raises(ValueError, match="heights"):
        coupling.pairs(key, state, y[:-1], 8)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", hit_and_run.SOURCES, ids=str)
@pytest.mark.parametrize("how", HOW)
def test_inverses_are_sent_back_to_every_target(sampler, how):
    y = jax.random.normal(jax.random.key(3), (150, 3)) @ jnp.array([[2.0, 1, 0], [0, 1, 1], [0, 0, 0.2]])
    state, _ = semidiscrete.run(jax.random.key(0), y, tol=0.01, sampler=sampler)
    index = jnp.arange(150)
    noise, found = coupling.invert(jax.random.key(1), state, y, index, sampler=sampler, how=how)
    assert bool(found.all())
    np.testing.assert_array_equal(semidiscrete.assign(state, y, noise), index)
    np.testing.assert_array_equal(hit_and_run.support(sampler, noise), noise)


def test_round_trip(solved, key):
    """Encode, operate on the uniform law, decode; the way back is exact, and the operation moves the code."""
    state, y = solved
    index = jnp.arange(196)
    noise, found = coupling.invert(key, state, y, index)
    assert bool(found.all())
    np.testing.assert_array_equal(semidiscrete.assign(state, y, noise), index)
    moved = og.latent.lerp(0.5, noise[:98], noise[98:], prior=og.latent.Uniform(-0.5, 0.5))
    decoded = y[semidiscrete.assign(state, y, moved)]
    assert float(jnp.abs(decoded - moved).max()) < 0.5 / 14 + 1e-5  # the cell's half side: T is nearly the identity


@pytest.mark.slow
def test_draws_of_slabs_are_uniform(key):
    """The cells of ten points in a row are slabs of the cube: uniform there, coordinate by coordinate."""
    y, _, h = problems.slabs(10, 3)
    index = jnp.repeat(jnp.array([0, 4, 9]), 2000)
    noise, found = coupling.invert(key, semidiscrete.from_heights(h), y, index)
    assert bool(found.all())
    for draws, cell in zip(np.asarray(noise).reshape(3, 2000, 3), (0, 4, 9), strict=True):
        unit = (draws - [cell / 10 - 0.5, -0.5, -0.5]) / [0.1, 1, 1]
        assert unit.min() > -1e-4
        assert unit.max() < 1 + 1e-4
        assert (np.abs(unit.mean(0) - 1 / 2) < 4 * np.sqrt(1 / 12 / 2000)).all()
        assert (np.abs((unit**2).mean(0) - 1 / 3) < 4 * np.sqrt(4 / 45 / 2000)).all()
        assert np.abs(np.corrcoef(unit.T) - np.eye(3)).max() < 4 / np.sqrt(2000)
        edges = np.histogram(unit[:, 0], bins=10, range=(0, 1))[0]
        assert ((edges - 200) ** 2 / 200).sum() < 27.9  # chi-square with 9 degrees of freedom, 0.1 %


@pytest.mark.slow
def test_draws_of_gaussian_half_lines_and_centres(key):
    """Two points on the line: half-lines of the normal law, with mean sqrt(2 / pi); an outer cell far in the tail."""
    y = jnp.array([[-1.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    state = semidiscrete.from_heights(jnp.array([0.0, 0.0, -5.0]))  # cells meet at 0 and at 5
    index = jnp.repeat(jnp.arange(3), 4000)
    noise, found = coupling.invert(key, state, y, index, sampler=source.gaussian)
    assert bool(found.all())
    first = np.asarray(noise[:, 0]).reshape(3, 4000)
    for draws, mean in zip(first, (-0.797885, 0.797883, 5.186504), strict=True):
        assert abs(draws.mean() - mean) < 4 * draws.std() / np.sqrt(4000)
    assert first[2].min() > 4.999
    assert abs(float(noise[:, 1].std()) - 1) < 4 * np.sqrt(0.5 / 12000)
    centre, _ = coupling.invert(key, state, y, jnp.arange(3), sampler=source.gaussian, how="centre", num_sweeps=4000)
    np.testing.assert_allclose(centre, [[-0.7979, 0], [0.7979, 0], [5.1865, 0]], atol=0.06)


@pytest.mark.slow
def test_draws_of_one_target_spread_over_its_cell():
    y = jax.random.normal(jax.random.key(3), (12, 3)) * jnp.array([1.0, 1.0, 0.3])
    state = semidiscrete.init(jax.random.key(0), y)
    wanted = exact_draws(jax.random.key(1), state, y, 0, source.uniform_cube, 20_000)
    noise, found = coupling.invert(jax.random.key(2), state, y, jnp.zeros(400, int))
    assert found.all()
    ratio = np.asarray(noise).std(0) / wanted.std(0)
    assert ((ratio > 0.82) & (ratio < 1.18)).all()  # 5 standard errors: 1 / sqrt(2 * 400) at most


@pytest.mark.slow
@pytest.mark.parametrize("sampler", hit_and_run.SOURCES, ids=str)
def test_draws_have_the_moments_of_rejected_ones(sampler):
    y = jax.random.normal(jax.random.key(3), (12, 3)) * jnp.array([1.0, 1.0, 0.3])
    state, _ = semidiscrete.run(jax.random.key(0), y, sampler=sampler)
    for cell in (0, 7):
        wanted = exact_draws(jax.random.key(1), state, y, cell, sampler, 50_000)
        noise, _ = coupling.invert(jax.random.key(2), state, y, jnp.full(4000, cell), sampler=sampler)
        assert len(wanted) > 2000
        assert_same_moments(noise, wanted)


@pytest.mark.slow
def test_a_random_target_inverted_follows_the_source(clustered):
    state, y = clustered
    masses = semidiscrete.masses(jax.random.key(4), state, y, 400_000)
    index = jax.random.choice(jax.random.key(5), len(y), (4000,), p=masses)
    noise, found = coupling.invert(jax.random.key(6), state, y, index)
    assert bool(found.all())
    assert_same_moments(noise, source.uniform_cube(jax.random.key(7), 4000, 4))


def test_draws_of_a_cell_are_fresh_and_depend_on_the_key(solved, key):
    state, y = solved
    one, _ = coupling.invert(key, state, y, jnp.array([3, 3, 8]))
    again, _ = coupling.invert(key, state, y, jnp.array([3, 3, 8]))
    other, _ = coupling.invert(jax.random.key(1), state, y, jnp.array([3, 3, 8]))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one[0], one[1], atol=1e-4)
    assert not np.allclose(one, other, atol=1e-4)


@pytest.mark.slow
def test_walks_in_several_tiles_are_those_of_one_tile(solved, key, monkeypatch):
    state, y = solved
    centred = y - y.mean(0)
    index = jnp.full(5, 3)  # three tiles of two walks, the last padded
    first, found = hit_and_run.start(centred, state.h, index, jnp.zeros((5, 2)), 500, source.uniform_cube)
    whole, _ = hit_and_run.walk(key, centred, state.h, index, first, 5, source.uniform_cube)
    monkeypatch.setattr(sizes, "CPU", sizes.CPU._replace(alive=2 * len(y)))
    hit_and_run.walk.clear_cache()
    x, mean = hit_and_run.walk(key, centred, state.h, index, first, 5, source.uniform_cube)
    hit_and_run.walk.clear_cache()
    np.testing.assert_allclose(x, whole, atol=1e-4)
    assert x.shape == mean.shape == (5, 2)
    assert bool(found.all())
    assert bool(hit_and_run.inside(centred, state.h, index, x).all())
    assert len(np.unique(np.asarray(x)[:, 0])) == 5


@pytest.mark.slow
def test_centres_of_the_extension_are_used(solved, key):
    state, y = solved
    centres = extension.init(jax.random.key(1), state, y, num=2**15).centres.at[2].set(jnp.inf)
    index = jnp.arange(10)
    noise, found = coupling.invert(key, state, y, index, how="centre", centres=centres)
    known = np.arange(10) != 2
    np.testing.assert_array_equal(noise[known], centres[:10][known])
    np.testing.assert_array_equal(semidiscrete.assign(state, y, noise), index)
    assert bool(found.all())
    drawn, _ = coupling.invert(key, state, y, index, centres=centres)
    np.testing.assert_array_equal(semidiscrete.assign(state, y, drawn), index)
    assert not np.allclose(drawn, noise, atol=1e-3)


@pytest.mark.slow
def test_estimated_centres_are_near_the_exact_ones(key):
    y, _, h = problems.lattice(4)
    noise, _ = coupling.invert(key, semidiscrete.from_heights(h), y, jnp.arange(16), how="centre", num_sweeps=2000)
    np.testing.assert_allclose(noise, y, atol=0.01)  # half the side of a cell is 0.125


@pytest.mark.slow
def test_empty_cells_are_said_to_be(key):
    y = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [50.0, 50.0]])
    state = semidiscrete.from_heights(jnp.array([0.0, 0.0, 0.0, -1e4]))
    for inverse in (
        coupling.invert(key, state, y, jnp.arange(4)),
        coupling.invert(key, state, y, jnp.arange(4), how="centre"),
        coupling.invert_all(key, state, y),
    ):
        np.testing.assert_array_equal(inverse.found, [True, True, True, False])
        np.testing.assert_array_equal(jnp.isnan(inverse.noise).any(1), ~inverse.found)
        np.testing.assert_array_equal(semidiscrete.assign(state, y, inverse.noise[:3]), jnp.arange(3))


@pytest.mark.slow
def test_cells_not_found_are_empty():
    """A linear programme has the last word: every cell with room in it is found, every other is not."""
    from scipy.optimize import linprog

    y = jax.random.normal(jax.random.key(0), (300, 3))
    state = semidiscrete.from_heights(-0.04 * jnp.sum(y**2, 1) + 0.02 * jax.random.normal(jax.random.key(1), (300,)))
    _, found = coupling.invert(jax.random.key(2), state, y, jnp.arange(300), num_sweeps=1)
    centred, h = np.asarray(y - y.mean(0), np.float64), np.asarray(state.h, np.float64)
    room = np.empty(300)
    for i in range(300):
        others = np.arange(300) != i
        rows = np.hstack([centred[others] - centred[i], np.ones((299, 1))])
        bounds = [(-0.5, 0.5)] * 3 + [(None, None)]
        room[i] = linprog([0, 0, 0, -1], rows, h[i] - h[others], bounds=bounds).x[3]
    assert 20 < (room < 0).sum() < 280
    np.testing.assert_array_equal(np.asarray(found)[room > 1e-4], True)
    np.testing.assert_array_equal(np.asarray(found)[room < 0], False)


@pytest.mark.slow
def test_points_that_coincide_share_their_cell(key):
    y = jnp.repeat(jax.random.normal(jax.random.key(3), (40, 2)), 2, axis=0)
    state, _ = semidiscrete.run(jax.random.key(0), y, tol=0.01)
    for inverse in (coupling.invert(key, state, y, jnp.arange(80)), coupling.invert_all(key, state, y)):
        assert bool(inverse.found.all())
        np.testing.assert_array_equal(y[semidiscrete.assign(state, y, inverse.noise)], y)
        assert len(np.unique(np.asarray(inverse.noise)[:, 0])) == 80


def test_all_targets_inverted_by_one_pass(solved, key):
    state, y = solved
    noise, found = coupling.invert_all(key, state, y, num=1)  # one tile: some cells are left to the walk
    assert bool(found.all())
    np.testing.assert_array_equal(semidiscrete.assign(state, y, noise), jnp.arange(len(y)))
    keys = jax.random.split(key, 20)
    pooled = np.concatenate([coupling.invert_all(it, state, y).noise[7:8] for it in keys])
    assert len(np.unique(pooled[:, 0])) == 20


@pytest.mark.slow
def test_other_sources_are_inverted_by_the_pass_only(key):
    y = jnp.array([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    state, _ = semidiscrete.run(jax.random.key(0), y, sampler=exponential)
    noise, found = coupling.invert_all(key, state, y, sampler=exponential)
    assert bool(found.all())
    np.testing.assert_array_equal(semidiscrete.assign(state, y, noise), jnp.arange(3))
    with pytest.raises(ValueError, match="invert_all"):
        coupling.invert(key, state, y, jnp.arange(3), sampler=exponential)


def test_inverting_inside_jit(solved, key):
    state, y = solved
    run = jax.jit(lambda key, index: coupling.invert(key, state, y, index, num_sweeps=4))
    noise, found = run(key, jnp.array([1, 2, 3]))
    np.testing.assert_array_equal(semidiscrete.assign(state, y, noise), [1, 2, 3])
    assert bool(found.all())
    run(jax.random.key(1), jnp.array([4, 5, 6]))
    assert run._cache_size() == 1


def test_what_cannot_be_inverted_is_refused(solved, key):
    state, y = solved
    with pytest.raises(ValueError, match="196 points"):
        coupling.invert(key, state, y, jnp.array([0, 200]))
    with pytest.raises(ValueError, match="196 points"):
        coupling.invert(key, state, y, jnp.array([-1]))
    with pytest.raises(ValueError, match="integers"):
        coupling.invert(key, state, y, jnp.array([0.0]))
    with pytest.raises(ValueError, match="'draw', 'centre'"):
        coupling.invert(key, state, y, jnp.array([0]), how="middle")
    with pytest.raises(ValueError, match="num_sweeps"):
        coupling.invert(key, state, y, jnp.array([0]), num_sweeps=0)
    with pytest.raises(ValueError, match="centres"):
        coupling.invert(key, state, y, jnp.array([0]), centres=jnp.zeros((3, 2)))
    with pytest.raises(ValueError, match="num = 0"):
        coupling.invert_all(key, state, y, num=0)
    with pytest.raises(ValueError, match="n >= 1"):
        coupling.invert(key, state, y, jnp.zeros(0, jnp.int32))


def test_nearest_targets(solved):
    _, y = solved
    codes = y[:50] + 100.0 + 0.3 * jax.random.normal(jax.random.key(0), (50, 2))
    distance = np.linalg.norm(np.asarray(codes)[:, None] - np.asarray(y + 100.0), axis=-1)
    np.testing.assert_array_equal(coupling.nearest(y + 100.0, codes), distance.argmin(1))
    with pytest.raises(ValueError, match="dimension 1"):
        coupling.nearest(y, codes[:, :1])


@pytest.mark.slow
def test_double_precision_stays(x64, key):
    y = jax.random.normal(jax.random.key(3), (50, 2), jnp.float64)
    state = semidiscrete.from_heights(-0.15 * jnp.sum(y**2, 1))
    index = semidiscrete.assign(state, y, source.uniform_cube(key, 20, 2))
    for how in HOW:
        inverse = coupling.invert(key, state, y, index, how=how)
        assert inverse.noise.dtype == jnp.float64
        np.testing.assert_array_equal(semidiscrete.assign(state, y, inverse.noise), index)


ELSEWHERE = """
import sys
import jax, numpy as np
import otgen as og
fit = og.load(sys.argv[1])
y, state, ext, sampler = fit["y"], fit["state"], fit["extension"], fit["sampler"]
batch = og.coupling.pair(jax.random.key(1), 5, state, y, 16, sampler=sampler)
inverse = og.coupling.invert(jax.random.key(2), state, y, np.arange(5), sampler=sampler)
new = og.extension.sample(jax.random.key(3), ext, state, y, 7, sampler=sampler)
np.savez(sys.argv[2], noise=batch.noise, index=batch.index, inverse=inverse.noise, new=new)
"""


@pytest.mark.slow
def test_a_saved_fit_is_the_same_in_another_process(tmp_path):
    y = jax.random.normal(jax.random.key(0), (40, 2))
    sampler = source.gaussian
    state, _ = semidiscrete.run(jax.random.key(1), y, sampler=sampler)
    ext = extension.init(jax.random.key(2), state, y, sampler=sampler)
    og.save(tmp_path / "fit", {"y": y, "state": state, "extension": ext, "sampler": sampler})
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, tmp_path / "fit", tmp_path / "made.npz"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    made = np.load(tmp_path / "made.npz")
    batch = coupling.pair(jax.random.key(1), 5, state, y, 16, sampler=sampler)
    np.testing.assert_array_equal(made["noise"], batch.noise)
    np.testing.assert_array_equal(made["index"], batch.index)
    np.testing.assert_array_equal(
        made["inverse"], coupling.invert(jax.random.key(2), state, y, np.arange(5), sampler=sampler).noise
    )
    np.testing.assert_array_equal(made["new"], extension.sample(jax.random.key(3), ext, state, y, 7, sampler=sampler))
    assert og.load(tmp_path / "fit")["sampler"] == source.gaussian


def straightness(key, batches, num_steps=1500):
    """Train a velocity on pairs; the mean squared error of one Euler step against 50, over the mean squared path."""
    dims, init_key, time_key, test_key = (3, 64, 64, 2), *jax.random.split(key, 3)
    keys = jax.random.split(init_key, 3)
    params = [
        (jax.random.normal(k, (a, b)) / a**0.5, jnp.zeros(b)) for k, a, b in zip(keys, dims, dims[1:], strict=False)
    ]
    rate = optax.cosine_decay_schedule(3e-3, num_steps)
    adam = optax.adam(rate)

    def velocity(params, t, x):
        x = jnp.concatenate([x, t], axis=1)
        for weight, bias in params[:-1]:
            x = jax.nn.gelu(x @ weight + bias)
        return x @ params[-1][0] + params[-1][1]

    def step(carry, i):
        params, moments = carry
        noise, data = batches(i)
        t = jax.random.uniform(jax.random.fold_in(time_key, i), (len(noise), 1))

        def loss(params):
            return jnp.mean((velocity(params, t, (1 - t) * noise + t * data) - (data - noise)) ** 2)

        updates, moments = adam.update(jax.grad(loss)(params), moments)
        return (optax.apply_updates(params, updates), moments), None

    (params, _), _ = jax.lax.scan(step, (params, adam.init(params)), jnp.arange(num_steps))
    start = source.uniform_cube(test_key, 1000, 2)

    def follow(steps):
        times = jnp.arange(steps) / steps
        move = lambda x, t: (x + velocity(params, jnp.full((1000, 1), t), x) / steps, None)  # noqa: E731
        return jax.lax.scan(move, start, times)[0]

    one, many = follow(1), follow(50)
    return jnp.sum((one - many) ** 2) / jnp.sum((many - start) ** 2)


@pytest.mark.slow
def test_flow_matching_on_the_pairs_has_straighter_paths():
    """What the coupling is worth: one Euler step goes where fifty go, which it does not with independent pairs."""
    y, _, _ = problems.eight_and_twenty_five("eight_gaussians")
    state, _ = semidiscrete.run(jax.random.key(0), y)

    def coupled(key, i):
        return coupling.pair(key, i, state, y, 256)[:2]

    def independent(key, i):
        noise, data, _ = coupling.pair(key, i, state, y, 256)
        return noise, jax.random.permutation(jax.random.fold_in(key, i), data)

    run = lambda batches: jax.jit(lambda key: straightness(key, lambda i: batches(key, i)))  # noqa: E731
    keys = jax.random.split(jax.random.key(1), 3)
    straight, bent = (np.array([float(run(it)(key)) for key in keys]) for it in (coupled, independent))
    assert straight.max() < 0.2 * bent.min()
