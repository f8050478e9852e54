"""Sizes of pieces: on CPUs those that suit its cache; on an accelerator launches are few, and memory suffices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otgen as og
from otgen import sizes
from otgen.ot.coupling import lookup
from otgen.ot.coupling.within import Independent
from otgen.ot.semidiscrete import scores
from otgen.ot.sinkhorn.inputs import in_memory

H200 = ("gpu", 139 * 2**30)


@pytest.fixture
def on_h200(monkeypatch):
    monkeypatch.setattr(sizes, "machine", lambda: H200)


class Device:
    """Stands for an accelerator."""

    def __init__(self, stats, platform="gpu"):
        self.stats, self.platform = stats, platform

    def memory_stats(self):
        if isinstance(self.stats, Exception):
            raise self.stats
        return self.stats


def bodies(n):
    """How often a loop over blocks of costs n x n runs, and the rows of a block; nothing is computed."""
    points = jax.ShapeDtypeStruct((n, 3), jnp.float32)
    seen = []

    def rows(x, y):
        return og.PairwiseCost(x, y).map_blocks(lambda block: seen.append(block.shape[0]) or block.sum(1))

    (loop,) = (it for it in jax.make_jaxpr(rows)(points, points).eqns if it.primitive.name == "scan")
    return loop.params["length"], seen[-1]


def kept(n):
    """Whether Sinkhorn keeps a cost n x n as a matrix."""
    points, made = jax.ShapeDtypeStruct((n, 3), jnp.float32), []
    jax.eval_shape(lambda x: made.append(type(in_memory(og.PairwiseCost(x, x), None))), points)
    return made == [og.DenseCost]


def test_on_a_cpu_sizes_are_those_of_its_cache():
    assert sizes.here() == sizes.on("cpu", 2**40)
    assert sizes.here() == (2**20, 2**25, 2**22, 256, 512, 64, 8, 1e11)
    assert bodies(65_536) == (4096, 16)
    assert kept(5_792)
    assert not kept(5_793)


def test_on_an_accelerator_a_large_problem_takes_few_launches(on_h200):
    assert bodies(65_536) == (16, 4096)
    assert kept(16_384)
    assert not kept(65_536)


@pytest.mark.parametrize("memory", [None, 0, 2**30, 2**34, 2**35 + 1, 80 * 2**30, 2**40])
def test_what_is_alive_fits_and_is_no_less_than_on_a_cpu(memory):
    found, room = sizes.on("tpu", memory), max(memory or 0, 2**33)
    assert found.dense * 16 <= max(room / 8, 16 * sizes.CPU.dense)  # the matrix, its kernel, and two more
    assert found.block * 4 <= max(room / 128, 2**24)
    assert found.scored * scores.TILE <= found.alive
    for name in ("block", "dense", "alive", "scored", "searched", "work"):
        assert getattr(found, name) >= getattr(sizes.CPU, name), name


def test_memory_is_asked_of_the_default_device(monkeypatch):
    for stats, bytes_ in (
        ({"bytes_limit": 2**36}, 2**36),
        (None, None),
        ({}, None),
        (jax.errors.JaxRuntimeError("UNIMPLEMENTED"), None),
    ):
        monkeypatch.setattr(jax, "local_devices", lambda backend=None, stats=stats: [Device(stats)])
        assert sizes.machine() == ("gpu", bytes_)
    with jax.default_device(jax.devices("cpu")[0]):
        assert sizes.machine() == ("cpu", None)


def test_blocks_of_points_are_equal_and_hardly_padded(on_h200):
    assert scores._even(10, sizes.here().scored) == 256
    assert scores._even(1_000, sizes.here().scored) == 1_024
    assert scores._even(65_536, sizes.here().scored) == 65_536
    assert scores._even(65_537, sizes.here().scored) == 33_024  # two blocks of 32,769 points


@pytest.mark.parametrize("k", [1, 3])
def test_scores_do_not_depend_on_sizes(on_h200, key, k):
    x, y = jax.random.normal(key, (30, 4)), jax.random.normal(jax.random.key(1), (700, 4))
    h = jax.random.normal(jax.random.key(2), (700,))
    value, index = jax.jit(lambda *it: scores.top_scores(*it, k=k))(x, y, h)
    exact = np.asarray(x, np.float64) @ np.asarray(y, np.float64).T + np.asarray(h)
    order = np.argsort(-exact, axis=1)[:, :k]
    np.testing.assert_array_equal(index, order)
    np.testing.assert_allclose(value, np.take_along_axis(exact, order, 1), rtol=1e-5, atol=1e-5)


def test_winners_of_classes_do_not_depend_on_sizes(on_h200, key):
    y, labels = np.asarray(jax.random.normal(key, (3000, 2))), np.arange(3000) % 2
    x, wanted = jax.random.normal(jax.random.key(1), (50, 2)), jnp.arange(50) % 2
    assert lookup._together(3000, 2, 2) == 2048
    found = jax.jit(lambda *it: lookup.winners(*it, Independent(y, labels).labels, wanted))(x, y, jnp.zeros(3000))
    exact = np.where(labels == np.asarray(wanted)[:, None], np.asarray(x) @ y.T, -np.inf)
    np.testing.assert_array_equal(found, exact.argmax(1))
