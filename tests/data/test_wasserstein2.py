import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otgen.data import wasserstein2
from otgen.eval.maps import l2_uvp
from tests.support import pairs as made_up

NUM = 2**14  # the shape that `load` compiles for
PUBLISHED = {  # L2-UVP of the Gaussian map and of the identity: Korotin et al. (2021), table 1
    2: (14.1, 32.7),
    4: (14.9, 42.0),
    8: (27.3, 58.6),
    16: (41.6, 87.0),
    32: (55.3, 121.0),
}
SIZES = [8] + [pytest.param(dim, marks=pytest.mark.slow) for dim in (2, 4, 16, 32)]


@pytest.fixture(scope="module")
def pairs(data_dir):
    loaded = {}

    def of(dim):
        if dim not in loaded:
            loaded[dim] = wasserstein2.load(dim, data_dir)
        return loaded[dim]

    return of


def gaussian_map(x, y):
    """The optimal map between the Gaussians of the moments of x and of y, at x, in float64."""
    x, y = x.astype(np.float64), y.astype(np.float64)

    def root(matrix):
        values, vectors = np.linalg.eigh(matrix)
        return (vectors * np.sqrt(values)) @ vectors.T

    half = root(np.cov(x, rowvar=False))
    inside = root(half @ np.cov(y, rowvar=False) @ half)
    matrix = np.linalg.solve(half, np.linalg.solve(half, inside).T)
    return ((x - x.mean(0)) @ matrix + y.mean(0)).astype(np.float32)


class Naive:
    """The definition, read from the files by NumPy alone, in float64, one point at a time; the gradient by hand."""

    def __init__(self, data_dir, dim, benchmark):
        folder = data_dir / "wasserstein2_benchmark" / "Mix3toMix10"
        self.nets = [dict(np.load(folder / f"{dim}_v{v}.npz")) for v in (1, 2)]
        self.nets = [{name: array.astype(np.float64) for name, array in net.items()} for net in self.nets]
        self.mean, self.scale = np.asarray(benchmark.mean, np.float64), float(benchmark.scale)

    def value_and_gradient(self, x):
        value, gradient = -self.mean @ x, -self.mean
        for net in self.nets:
            out = jacobian = None
            for k in range(3):
                a, w = net[f"quadratic_layers.{k}.quadratic_decomposed"], net[f"quadratic_layers.{k}.weight"]
                inner = np.einsum("i,irh->rh", x, a)
                q = (inner**2).sum(0) + w @ x + net[f"quadratic_layers.{k}.bias"]
                dq = 2 * np.einsum("rh,irh->hi", inner, a) + w
                if k == 0:
                    out, jacobian = q, dq
                    continue
                c = net[f"convex_layers.{k - 1}.weight"]
                before = c @ out + q
                out = np.where(before > 0, before, np.exp(np.minimum(before, 0)) - 1)
                jacobian = np.exp(np.minimum(before, 0))[:, None] * (c @ jacobian + dq)
            value = value + net["final_layer.weight"][0] @ out + 0.005 * x @ x
            gradient = gradient + net["final_layer.weight"][0] @ jacobian + 0.01 * x
        return value / self.scale, gradient / self.scale


@pytest.mark.parametrize("dim", SIZES)
def test_published_rows_are_met(pairs, dim, key):
    benchmark = pairs(dim)
    x = np.asarray(wasserstein2.sample(key, benchmark, NUM))
    y = np.asarray(wasserstein2.transport(benchmark, x))
    linear = gaussian_map(x, y)
    gauss, identity = PUBLISHED[dim]
    assert float(l2_uvp(linear, y)) == pytest.approx(gauss, abs=1.5)
    assert float(l2_uvp(x, y)) == pytest.approx(identity, abs=3)
    assert float(l2_uvp(np.broadcast_to(y.mean(0), y.shape), y)) == pytest.approx(100, abs=0.1)
    assert np.all(np.abs(y.mean(0)) < 5 / np.sqrt(NUM) * y.std(0) * np.sqrt(1.25))  # the mean is an estimate too
    assert float(y.var(0).mean()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("dim", SIZES)
def test_inverse_undoes_the_map(pairs, dim, key):
    benchmark = pairs(dim)
    x = wasserstein2.sample(key, benchmark, NUM)
    y = wasserstein2.transport(benchmark, x)[:700]  # more than a block, and no multiple of one
    back = wasserstein2.inverse(benchmark, y)
    again = wasserstein2.transport(benchmark, x.at[:700].set(back))[:700]
    x = x[:700]
    residual = np.linalg.norm(again - y, axis=1)
    assert np.all(residual < 1e-4 * np.maximum(np.linalg.norm(y, axis=1), 1))
    np.testing.assert_allclose(back, x, atol=1e-3)
    assert np.median(np.abs(back - x)) < 1e-5


@pytest.mark.parametrize("dim", SIZES)
def test_potential_and_map_are_those_of_the_definition(pairs, data_dir, dim, key):
    benchmark = pairs(dim)
    naive = Naive(data_dir, dim, benchmark)
    x = np.asarray(wasserstein2.sample(key, benchmark, NUM), np.float64)
    value, gradient = wasserstein2.potential(benchmark, x), wasserstein2.transport(benchmark, x)
    for row in range(20):
        expected, slope = naive.value_and_gradient(x[row])
        np.testing.assert_allclose(value[row], expected, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(gradient[row], slope, rtol=1e-4, atol=1e-4)
    steps = 1e-6 * np.eye(dim)
    differences = [
        (naive.value_and_gradient(x[0] + e)[0] - naive.value_and_gradient(x[0] - e)[0]) / 2e-6 for e in steps
    ]
    np.testing.assert_allclose(gradient[0], differences, rtol=1e-4, atol=1e-4)


def test_map_is_monotone_and_target_is_its_image(pairs, key):
    benchmark = pairs(8)
    x, y = wasserstein2.sample(key, benchmark, NUM), wasserstein2.sample_target(key, benchmark, NUM)
    np.testing.assert_array_equal(y, wasserstein2.transport(benchmark, x))
    x, y = np.asarray(x[:700]), np.asarray(y[:700])
    gaps = np.einsum("ijd,ijd->ij", x[:, None] - x[None], y[:, None] - y[None])
    assert gaps.min() > -1e-5
    assert gaps.max() > 1


def test_rows_that_cannot_be_solved_are_nan(pairs, key):
    benchmark = pairs(8)
    y = wasserstein2.sample_target(key, benchmark, NUM)[:700]
    back = wasserstein2.inverse(benchmark, y.at[3].set(jnp.nan))
    assert np.isnan(back[3]).all()
    assert np.isfinite(np.delete(back, 3, 0)).all()


def test_source_is_the_mixture_of_the_definition(key):
    dim = 8
    components = wasserstein2.input_law(dim)
    source = wasserstein2.Benchmark(None, components, jnp.zeros(dim), jnp.ones(()))
    x = np.asarray(wasserstein2.sample(key, source, NUM), np.float64)
    centres, maps = (np.asarray(part, np.float64) for part in components)
    ratio = np.linalg.norm(maps, axis=2) / 0.4  # rows of norm 0.4 and centres of -1, 0, 1, before one common scale
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-5)
    np.testing.assert_allclose(np.sort(centres / ratio.mean(), 0), np.tile([[-1], [0], [1]], dim), atol=1e-5)
    covariance = np.mean([m @ m.T + np.outer(c, c) for m, c in zip(maps, centres, strict=True)], 0)
    assert np.trace(covariance) / dim == pytest.approx(1, abs=1e-5)
    squares = (x**2).mean(1)
    assert abs(squares.mean() - 1) < 5 * squares.std() / np.sqrt(len(x))
    products = x[:, :, None] * x[:, None, :]
    assert np.all(np.abs(products.mean(0) - covariance) < 5 * products.std(0) / np.sqrt(len(x)))


def test_bad_requests_are_explained(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="dim = 3: choose one of 2, 4, 8, 16, 32"):
        wasserstein2.load(3)
    with pytest.raises(FileNotFoundError, match=r"lacks 2_v1.npz, 2_v2.npz; looked in .*Mix3toMix10"):
        wasserstein2.load(2, tmp_path)
    monkeypatch.delenv("OTGEN_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"set OTGEN_DATA to the folder that holds wasserstein2_benchmark/"):
        wasserstein2.load(2)
    source = wasserstein2.Benchmark(None, wasserstein2.input_law(2), jnp.zeros(2), jnp.ones(()))
    for function in (wasserstein2.transport, wasserstein2.potential, wasserstein2.inverse):
        with pytest.raises(ValueError, match=r"shape \(5, 3\): give shape \[n, 2\]"):
            function(source, np.zeros((5, 3)))


def test_benchmark_may_be_traced(pairs, key):
    traces = []

    @jax.jit
    def first(benchmark, x):
        traces.append(1)
        return wasserstein2.transport(benchmark, x)[0]

    benchmark, x = pairs(8), wasserstein2.sample(key, pairs(8), NUM)[:10]
    moved = benchmark._replace(mean=benchmark.mean + benchmark.scale)
    np.testing.assert_allclose(first(benchmark, x) - first(moved, x), 1, atol=1e-5)
    assert len(traces) == 1


def test_dimensions_are_those_whose_files_are_there(tmp_path, monkeypatch):
    monkeypatch.delenv("OTGEN_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="set OTGEN_DATA"):
        wasserstein2.dims()
    with pytest.raises(FileNotFoundError, match=r"no pair of the benchmark.*2_v1.npz"):
        wasserstein2.dims(tmp_path)
    for dim in (64, 4, 128):
        made_up.write(tmp_path, dim)
    made_up.write(tmp_path, 3)  # no dimension of the benchmark
    (tmp_path / "wasserstein2_benchmark" / "Mix3toMix10" / "128_v2.npz").unlink()
    assert wasserstein2.dims(tmp_path) == (4, 64)
    with pytest.raises(FileNotFoundError, match=r"lacks 128_v2\.npz"):
        wasserstein2.load(128, tmp_path)


def test_a_pair_of_64_dimensions_is_normalised_and_inverted(tmp_path, key):
    made_up.write(tmp_path, 64)
    pair = wasserstein2.load(64, tmp_path)
    x = wasserstein2.sample(key, pair, NUM)
    y = wasserstein2.transport(pair, x)
    assert float(jnp.mean(jnp.sum(x**2, 1))) == pytest.approx(64, rel=0.02)
    assert float(y.var(0).mean()) == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose(wasserstein2.inverse(pair, y[:64]), x[:64], atol=1e-3)
