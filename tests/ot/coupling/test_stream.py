"""Batches, records and what is done about imbalance."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otgen as og
from otgen.ot import coupling
from otgen.ot.coupling.imbalance import balancing, resampled
from tests.support.grids import classes, grid

_RANDOM = np.random.default_rng(0)
DATA, LABELS, H, H_EACH = classes()
NUM, SIZE = len(DATA), 32
SOLVED, WITHIN = coupling.SemiDiscrete(DATA, H_EACH, LABELS), coupling.Minibatch(DATA, LABELS)


def assert_same(one, two):
    jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.mark.parametrize("it", [SOLVED, WITHIN], ids=["solved", "within"])
@pytest.mark.parametrize("repeats", [1, 3])
def test_batches_are_functions_of_key_and_number(key, it, repeats):
    options = {"repeats": repeats, "pool": 3 * SIZE}
    run = list(coupling.batches(it, key, SIZE, num=11, **options))
    for start in (1, 4, 10):
        resumed = list(coupling.batches(it, key, SIZE, start=start, num=11 - start, **options))
        assert len(resumed) == 11 - start
        assert_same(resumed, run[start:])
    first = np.concatenate([batch.x0[:, 0] for batch in run[:9]])
    assert len(np.unique(first)) == SIZE * 9 // repeats
    for batch in run:
        np.testing.assert_array_equal(batch.x1, DATA[batch.index])


def test_repeats_are_other_batches_of_the_same_pairs(key):
    run = list(coupling.batches(SOLVED, key, SIZE, num=6, repeats=2, pool=3 * SIZE))
    one, two = (np.concatenate([np.c_[batch.x0, batch.x1] for batch in run[i : i + 3]]) for i in (0, 3))
    assert not np.array_equal(one, two)
    np.testing.assert_array_equal(one[one[:, 0].argsort()], two[two[:, 0].argsort()])


def test_a_coupling_of_ones_own(key):
    class Own:
        """Noise that is near its data."""

        def pair(self, key, num, labels=None):
            index = jax.random.randint(key, (num,), 0, len(DATA))
            return coupling.Batch(DATA[index] + 0.1, DATA[index], None, np.ones(num), index)

    one, two = (next(coupling.batches(Own(), key, 4, num=1, repeats=2)) for _ in range(2))
    assert_same(one, two)
    with pytest.raises(ValueError, match="without data"):
        coupling.record(Own(), key, 4)


@pytest.mark.parametrize("it", [SOLVED, WITHIN], ids=["solved", "within"])
def test_a_record_gives_its_pairs_again(key, it, tmp_path):
    recorded = coupling.record(it, key, 100, batch_size=SIZE)
    made = jax.tree.map(
        lambda *of: np.concatenate(of), *(it.pair(jax.random.fold_in(key, block), SIZE) for block in range(4))
    )
    labels = None if it.labels is None else LABELS
    og.save(tmp_path / "record", recorded.without_data())
    size = sum(path.stat().st_size for path in (tmp_path / "record").iterdir())
    assert recorded.nbytes == 4 * 100 + 8 < size < 4 * 100 + 4000
    read = og.load(tmp_path / "record").with_data(DATA, labels)
    for held in (recorded, read):
        batch = held.at(np.arange(100))
        np.testing.assert_allclose(batch.x0, made.x0[:100], atol=1e-6)
        np.testing.assert_array_equal(batch.index, made.index[:100])
    assert_same(read.pair(key, SIZE), recorded.pair(key, SIZE))
    if labels is not None:
        np.testing.assert_array_equal(read.pair(key, SIZE, 2).label, 2)
    with pytest.raises(ValueError, match="no data"):
        recorded.without_data().pair(key, 4)
    with pytest.raises(ValueError, match="from 0"):
        recorded.at(np.array([100]))


def test_couplings_are_saved(key, tmp_path):
    for number, it in enumerate((SOLVED, WITHIN, coupling.SemiDiscrete(DATA, H_EACH, LABELS, balance=np.ones(NUM)))):
        og.save(tmp_path / str(number), it)
        assert_same(og.load(tmp_path / str(number)).pair(key, SIZE), it.pair(key, SIZE))


@pytest.mark.parametrize("each", [2, 20, 200])
def test_balancing_lessens_imbalance_however_few_the_samples(each):
    """The imbalance left is about that of the module's formula, below what there was and below the noise alone."""
    random, num, chi2 = np.random.default_rng(0), 20_000, 0.05
    ratio = random.gamma(1 / chi2, chi2, num)
    counts, weights = jnp.asarray(random.poisson(each * ratio)), jnp.full(num, 1 / num)
    weight = np.asarray(balancing(counts, weights, jnp.float32(chi2), jnp.float32(0.001)))
    use = ratio * weight
    left = np.mean((use / use.mean() - 1) ** 2)
    assert use.mean() == pytest.approx(1, abs=0.01)
    assert left == pytest.approx(1 / (1 / chi2 + each), rel=0.1)
    assert left < min(chi2, 1 / each)
    noise = balancing(counts, weights, jnp.float32(0.001), jnp.float32(0.002))
    np.testing.assert_array_equal(noise, 1)


def test_rows_are_resampled_within_their_class(key):
    random = np.random.default_rng(0)
    number, weight = random.integers(0, 3, 600), random.uniform(0.5, 1.5, 600).astype(np.float32)
    rows = np.asarray(jax.jit(resampled)(key, jnp.asarray(weight), jnp.asarray(number)))
    np.testing.assert_array_equal(number[rows], number)
    for of in range(3):
        expected = weight * (number == of).sum() / weight[number == of].sum()
        taken = np.bincount(rows, minlength=600)
        assert (np.abs(taken - expected)[number == of] < 1.001).all()


@pytest.mark.slow
@pytest.mark.parametrize("imbalance", ["weight", "resample"])
def test_data_are_used_alike_in_spite_of_wrong_heights(key, imbalance):
    """Heights off by as much that masses differ: the shares of the data in pairs, with their weights, are mended."""
    data, h = grid(np.linspace(-2, 2, 10), np.linspace(-2, 2, 6))
    h = h + 0.01 * np.random.default_rng(1).normal(size=60)
    plain = coupling.SemiDiscrete(data, h)
    counts = np.bincount(plain.pair(key, 2**14).index, minlength=60)
    mended = coupling.SemiDiscrete(data, h, balance=2**14 / 60 / counts, imbalance=imbalance)
    batch = mended.pair(jax.random.key(7), 2**14)
    shares = np.bincount(batch.index, batch.weight, minlength=60) * 60 / 2**14
    before = counts * 60 / 2**14
    assert np.std(before) > 0.1
    assert np.std(shares) < 0.5 * np.std(before)
    if imbalance == "resample":
        with pytest.raises(ValueError, match="resample"):
            coupling.record(mended, key, SIZE, batch_size=SIZE)
        kept = coupling.record(dataclasses.replace(mended, imbalance="weight"), key, SIZE, batch_size=SIZE)
        assert kept.weight.shape == (SIZE,)


def test_a_solve_of_classes_of_which_one_has_one_point(key):
    """On the line, where the start is exact, so that no step is taken."""
    data, labels = np.sort(_RANDOM.normal(size=41)).astype(np.float32)[:, None], np.array([4] * 20 + [-1] + [9] * 20)
    seen, told = [], []
    options = {
        "save": lambda step, it: seen.append(it),
        "save_seconds": 0.0,
        "callback": lambda step, metrics: told.append(metrics),
    }
    solved, info = coupling.semidiscrete(key, data, labels, imbalance="weight", **options)
    assert og.explain(info).startswith("3 of 3 CONVERGED")
    assert info.chi2.shape == (3,)
    batch = solved.pair(key, 4096)
    np.testing.assert_array_equal(np.unique(np.asarray(batch.index)[np.asarray(batch.label) == 0]), [20])
    ranks = np.argsort(np.argsort(np.asarray(batch.x0)[np.asarray(batch.label) == 2, 0]))
    order = np.asarray(batch.index)[np.asarray(batch.label) == 2][np.argsort(ranks)]
    assert (np.diff(order) >= 0).all()  # monotone
    again, _ = coupling.semidiscrete(key, data, labels, imbalance="weight", state=seen[1])
    assert_same(again, solved)
    assert [len(it.infos) for it in seen] == [1, 2, 3]
    assert all("class" in it for it in told)


@pytest.mark.slow
def test_a_solve_of_classes_goes_on_within_a_class(key, tmp_path):
    data = np.random.default_rng(0).normal(size=(120, 4)).astype(np.float32)
    labels, seen = np.arange(120) % 2, []
    options = {"tol": 0.005}
    whole, info = coupling.semidiscrete(
        key, data, labels, save=lambda step, it: seen.append((step, it)), save_seconds=0.0, **options
    )
    assert og.explain(info).startswith("2 of 2 CONVERGED")
    steps, states = zip(*seen, strict=True)
    assert list(steps) == sorted(steps)
    inside = [it for it in states if it.state is not None]
    assert {len(it.infos) for it in inside} == {0, 1}
    for it in (inside[0], inside[-1]):
        og.save(tmp_path / str(len(it.infos)), it)
        again, same = coupling.semidiscrete(key, data, labels, state=og.load(tmp_path / str(len(it.infos))), **options)
        assert_same((again, same), (whole, info))
    other, _ = coupling.semidiscrete(jax.random.key(3), data, labels, state=whole, **options)
    assert float(jnp.abs(other.h - whole.h).max()) < 0.3 * float(jnp.abs(whole.h).max())


def test_flips_are_further_points():
    images = _RANDOM.uniform(size=(5, 3, 4, 2)).astype(np.float32)
    both, labels = coupling.with_flips(images, np.arange(5))
    np.testing.assert_array_equal(both[5:], images[:, :, ::-1])
    np.testing.assert_array_equal(labels, np.tile(np.arange(5), 2))
    with pytest.raises(ValueError, match="channels first"):
        coupling.with_flips(np.zeros((2, 3, 8, 8), np.float32))
