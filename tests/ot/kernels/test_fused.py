"""The kernel of the scores: in Pallas's interpreter against float64, and lowered for a GPU that need not be there."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from otgen.ot.kernels import softmin
from otgen.ot.kernels.fused import fused_scores
from otgen.ot.semidiscrete import scores
from otgen.ot.semidiscrete.scores import top_scores


def interpreted(x, y, h, k):
    return jax.jit(lambda *args: fused_scores(*args, k, interpret=True))(x, y, h)  # traced anew every time


def problem(num, points, dim, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in ((num, dim), (points, dim), (points,))]


def whole(num, points, dim, seed=0):
    """Small whole numbers: scores without rounding, many of them equal."""
    return [np.round(array) for array in problem(num, points, dim, seed)]


def assert_as_in_float64(found, x, y, h, k):
    """Values to rounding; indices too, wherever the next score is farther than rounding."""
    value, index = (np.asarray(array) for array in found)
    x, y, h = (array.astype(np.float64) for array in (x, y, h))
    exact = x @ y.T + h
    rounding = 6e-8 * (x.shape[1] + 2) * (np.abs(x) @ np.abs(y).T + np.abs(h)).max()
    order = np.argsort(-exact, axis=1, kind="stable")
    ranked = np.take_along_axis(exact, order, 1)
    assert value.shape == index.shape == (x.shape[0], k)
    assert (value.dtype, index.dtype) == (np.float32, np.int32)
    np.testing.assert_allclose(value, ranked[:, :k], rtol=0, atol=rounding)
    np.testing.assert_allclose(np.take_along_axis(exact, index, 1), ranked[:, :k], rtol=0, atol=2 * rounding)
    edges = np.pad(-np.diff(ranked, axis=1), ((0, 0), (1, 1)), constant_values=np.inf) > 2 * rounding
    apart = (edges[:, :-1] & edges[:, 1:])[:, :k]
    assert apart.mean() > 0.9
    np.testing.assert_array_equal(index[apart], order[:, :k][apart])


@pytest.mark.parametrize(
    ("num", "points", "dim", "k"),
    [
        (1, 1, 1, 1),
        (64, 64, 64, 1),
        (70, 2, 3, 2),
        (65, 63, 3, 4),
        (130, 1000, 100, 2),
        (63, 129, 33, 3),
    ],
)
def test_equals_the_dense_scores_in_float64(num, points, dim, k):
    args = problem(num, points, dim)
    assert_as_in_float64(interpreted(*args, k), *args, k)


@pytest.mark.parametrize(("programs", "num"), [(1, 150), (10, 151)])
def test_programs_that_take_several_tiles_agree(monkeypatch, programs, num):
    monkeypatch.setattr(softmin, "PROGRAMS", programs)  # one program for 11 tiles of columns; 4 programs for 3 each
    args = problem(num, 700, 20)
    for k in (1, 2):
        assert_as_in_float64(interpreted(*args, k), *args, k)


@pytest.mark.parametrize(("programs", "k"), [(1, 2), (6, 4), (1024, 1)])
def test_equal_scores_and_excluded_points_come_in_the_order_of_top_k(monkeypatch, programs, k):
    monkeypatch.setattr(softmin, "PROGRAMS", programs)
    x, y, h = whole(66, 400, 2)
    several, few, nobody = (np.where(np.arange(400) % step == 5, h, -np.inf) for step in (7, 397, 500))
    find = jax.jit(lambda *args: fused_scores(*args, k, interpret=True))
    for heights in (h, several, few, nobody):
        value, index = find(x, y, heights.astype(np.float32))
        expected = jax.lax.top_k(x @ y.T + heights, k)
        np.testing.assert_array_equal(value, expected[0])
        np.testing.assert_array_equal(index, expected[1])


@pytest.mark.parametrize(("programs", "sign"), [(1, 1), (1024, -1)])
def test_not_a_number_is_not_swallowed_and_comes_first(monkeypatch, programs, sign):
    monkeypatch.setattr(softmin, "PROGRAMS", programs)
    x, y, h = problem(70, 300, 3)
    h[40], h[150], h[151], h[220] = np.inf, np.copysign(np.nan, sign), -np.inf, 50.0
    value, index = interpreted(x, y, h, 3)
    assert np.isnan(value[:, 0]).all()
    np.testing.assert_array_equal(value[:, 1], np.inf)
    assert np.isfinite(value[:, 2]).all()
    np.testing.assert_array_equal(index, np.broadcast_to([150, 40, 220], (70, 3)))
    assert np.isnan(interpreted(x, y, h, 1)[0]).all()


def test_not_a_number_in_one_sample_spoils_no_other():
    x, y, h = problem(70, 100, 3)
    x[7, 1] = np.nan
    value, index = interpreted(x, y, h, 2)
    assert np.isnan(value[7]).all()
    assert ((index >= 0) & (index < 100)).all()
    others = np.delete(np.arange(70), 7)
    assert_as_in_float64((value[others], index[others]), x[others], y, h, 2)


def test_vmap_over_samples_and_heights():
    x, y, h = problem(6, 150, 2)
    xs, hs = np.stack([x, 2 * x, -x]), np.stack([h, -h])
    nested = jax.vmap(jax.vmap(functools.partial(interpreted, k=2), (0, None, None)), (None, None, 0))
    value, index = jax.jit(nested)(xs, y, hs)
    for i in range(2):
        for j in range(3):
            assert_as_in_float64((value[i, j], index[i, j]), xs[j], y, hs[i], 2)


def test_float32_where_float64_is_enabled(x64):
    args = problem(9, 99, 3)
    assert_as_in_float64(interpreted(*args, 2), *args, 2)
    assert "xla.gpu.triton" in lowered("cuda", top_scores, *args)


def test_memory_does_not_grow_with_samples_times_points():
    def temporary(num):
        shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((num, 8), (num, 8), (num,))]

        def loss(*args):
            return top_scores(*args, k=2, kernel="pallas")[0].sum()

        gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
        return gradient.lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    assert temporary(65536) < 65536**2 / 100


def lowered(platform, function, *args):
    """The text of what is compiled for a platform; of a GPU its kind is pretended."""
    device = getattr(jax.sharding, "AbstractDevice", None)
    if device is None:
        pytest.skip("this jax has no AbstractDevice, so nothing to lower for without a GPU")
    mesh = AbstractMesh((), (), abstract_device=device(device_kind="NVIDIA H200", num_cores=None, platform="gpu"))
    with jax.sharding.use_abstract_mesh(mesh):
        return jax.jit(function).trace(*args).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(("dim", "k", "batched"), [(130, 1, False), (64, 4, False), (3, 2, True)])
def test_lowers_for_cuda_through_triton_and_not_for_a_cpu(dim, k, batched):
    args = problem(100, 200, dim)
    function = functools.partial(top_scores, k=k)
    if batched:
        function, args = jax.vmap(function), [np.stack([array, array]) for array in args]

    def loss(*args):
        return function(*args)[0].sum()

    gradient = jax.value_and_grad(loss, argnums=(0, 1, 2))
    on_gpu, on_cpu = (lowered(platform, gradient, *args) for platform in ("cuda", "cpu"))
    assert on_gpu.count("xla.gpu.triton") == 1
    assert "stablehlo.dot_general" not in on_gpu  # XLA's form is gone, and with it every product at another precision
    assert "triton" not in on_cpu
    assert "stablehlo.dot_general" in on_cpu


@pytest.mark.parametrize(("precision", "tf32"), [("highest", False), ("default", True)])
def test_the_products_of_the_kernel_are_not_tf32(monkeypatch, capsys, precision, tf32):
    monkeypatch.setattr(softmin.pl, "pallas_call", functools.partial(softmin.pl.pallas_call, debug=True))
    if tf32:  # to see that it would be told
        monkeypatch.setattr(softmin, "_dot", functools.partial(jnp.matmul, precision=precision))
    lowered("cuda", functools.partial(top_scores, k=2), *problem(9, 9, 70 + tf32))
    told = capsys.readouterr().out
    assert told.count("tt.dot") == 1
    assert ("tf32" in told) == tf32


@pytest.mark.parametrize("case", ["off", "k", "float64", "no samples"])
def test_falls_back_to_xla(case, x64):
    x, y, h = problem(20, 30, 3)
    k, kernel = (scores.MOST + 1 if case == "k" else 1), ("xla" if case == "off" else "auto")
    if case == "float64":
        h = h.astype(np.float64)
    if case == "no samples":
        x = x[:0]
    text = lowered("cuda", functools.partial(top_scores, k=k, kernel=kernel), x, y, h)
    assert "triton" not in text
    value, index = top_scores(x, y, h, k, kernel=kernel)
    assert value.shape == index.shape == (len(x), k)
    if case == "float64":
        np.testing.assert_allclose(value[:, 0], (x.astype(np.float64) @ y.T + h).max(1), rtol=0, atol=1e-14)


def test_a_jax_without_triton_takes_xla(monkeypatch):
    monkeypatch.setitem(sys.modules, "otgen.ot.kernels.fused", None)  # its import fails
    args = problem(21, 30, 3)
    assert "triton" not in lowered("cuda", top_scores, *args)
    with pytest.raises(ImportError, match="fused"):
        top_scores(*args, kernel="pallas")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 5}, r"k = 5, and the kernel finds at most 4: leave it at 'auto'"),
        ({"x": np.zeros((0, 2), np.float32)}, r"samples of shape \(0, 2\)"),
        ({"kernel": "triton"}, "choose one of 'auto', 'xla', 'pallas'"),
    ],
)
def test_refuses_what_the_kernel_cannot_do(change, message):
    good = {"x": np.zeros((3, 2), np.float32), "y": np.zeros((6, 2), np.float32), "h": np.zeros(6, np.float32), "k": 1}
    with pytest.raises(ValueError, match=message):
        top_scores(**{**good, "kernel": "pallas", **change})


def test_refuses_float64(x64):
    with pytest.raises(ValueError, match="float64, and the kernel takes float32"):
        top_scores(np.zeros((3, 2)), np.zeros((4, 2)), np.zeros(4), kernel="pallas")
