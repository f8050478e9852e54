"""The network simplex method against another solver's optimum, its own certificate, and maximal flows."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

import otgen as og
from otgen.ot.exact import program, simplex
from tests.support import linear_program

COSTS = ("uniform", "ties", "clouds", "equal clouds", "heavy tails", "forbidden", "shifted")
WEIGHTS = ("random", "equal", "integers", "zeros", "tiny")


def costs_of(kind, random, n, m):
    uniform = random.uniform(size=(n, m))
    if kind == "ties":
        return random.integers(0, 3, (n, m)).astype(float)
    if "clouds" in kind:
        x, y = random.normal(size=(2, max(n, m), 2))
        return ((x[:n, None] - (x if kind == "equal clouds" else y)[:m]) ** 2).sum(-1)
    if kind == "heavy tails":
        return random.standard_cauchy((n, m)) ** 2
    if kind == "shifted":
        return uniform + 1e3 * random.normal(size=(n, 1)) - 1e3 * random.normal(size=m)
    return np.where(random.uniform(size=(n, m)) < 0.4, np.inf, uniform) if kind == "forbidden" else uniform


def weights_of(kind, random, num):
    weights = random.exponential(size=num)
    if kind in ("equal", "integers"):
        weights = random.integers(1, 2 if kind == "equal" else 4, num).astype(float)
    elif kind == "zeros":
        weights[1:] *= random.uniform(size=num - 1) < 0.6
    elif kind == "tiny":
        weights *= 10.0 ** -random.integers(0, 18, num)
    return weights / weights.sum()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    costs=st.sampled_from(COSTS),
    weights=st.tuples(st.sampled_from(WEIGHTS), st.sampled_from(WEIGHTS)),
    scale=st.sampled_from([1e-30, 1.0, 1e-7, 1e20]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
@example(0, (1, 1), "uniform", ("equal", "equal"), 1.0, np.float64)
@example(0, (1, 7), "forbidden", ("equal", "zeros"), 1.0, np.float32)
@example(0, (8, 4), "ties", ("equal", "equal"), 1e20, np.float64)
def test_plans_are_optimal_and_prove_it(seed, shape, costs, weights, scale, dtype):
    random = np.random.default_rng(seed)
    matrix = (scale * costs_of(costs, random, *shape)).astype(dtype)
    a, b = (weights_of(kind, random, num).astype(dtype) for kind, num in zip(weights, shape, strict=True))
    found = program.solve(matrix, a, b)
    plan, f, g, value = (np.asarray(of, np.float64) for of in found)
    matrix, a, b = (np.float64(of) for of in (matrix, a, b))
    a, b = a / a.sum(), b / b.sum()
    kept = np.ix_(a > 0, b > 0)
    expected = scale * linear_program.transport(matrix[kept] / scale, a[a > 0], b[b > 0])[1]
    if costs == "forbidden" and np.inf in (value, expected):
        assert value == expected or "tiny" in weights  # which may be less than HiGHS's tolerance
        return
    eps, finite = float(np.finfo(dtype).eps), np.isfinite(matrix)
    size = max(np.abs(matrix[kept][finite[kept]]).max(), np.abs(f).max(), np.abs(g).max())
    assert {of.dtype for of in found} == {np.dtype(dtype)}
    assert abs(value - expected) <= 1e-6 * size  # HiGHS's own tolerance is 1e-7; below, the duality gap is the proof
    np.testing.assert_allclose(plan.sum(1), a, atol=4 * eps)
    np.testing.assert_allclose(plan.sum(0), b, atol=4 * eps)
    assert plan.min() >= 0
    assert np.count_nonzero(plan) <= sum(shape) - 1
    slack = np.where(finite, matrix, np.inf) - f[:, None] - g
    assert slack.min() >= -4 * eps * size
    assert np.abs(slack[plan > 0]).max() <= 8 * eps * size
    assert abs(value - a @ f - b @ g) <= 16 * eps * size
    assert abs(a @ f) <= 8 * eps * size


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(2, 12), share=st.sampled_from([0.15, 0.3, 0.5]))
def test_a_plan_avoids_forbidden_pairs_if_a_flow_does(seed, size, share):
    """Integer weights, whose maximal flow through allowed pairs another algorithm finds exactly."""
    random = np.random.default_rng(seed)
    allowed = random.uniform(size=(size, size)) < share
    a, b = (random.multinomial(4 * size, np.full(size, 1 / size)) for _ in range(2))
    capacity = np.zeros((2 * size + 2, 2 * size + 2), np.int32)
    capacity[0, 1 : size + 1], capacity[size + 1 : -1, -1] = a, b
    capacity[1 : size + 1, size + 1 : -1] = 4 * size * allowed
    flow = maximum_flow(csr_array(capacity), 0, 2 * size + 1).flow_value
    costs = np.where(allowed, random.uniform(size=allowed.shape), np.inf)
    found = program.solve(costs, a / a.sum(), b / b.sum())
    assert np.isfinite(found.value) == (flow == a.sum())


def test_a_large_plan_has_no_duality_gap():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(300, 3)), random.normal(size=(260, 3)) + 0.3
    costs = ((x[:, None] - y) ** 2).sum(-1)
    a, b = random.dirichlet(np.ones(300)), random.dirichlet(np.ones(260))
    costs[:5] += 1e9  # rows that are dear everywhere
    costs[7, 9], costs[11] = np.inf, 1e7 * costs[11]
    found = program.solve(costs, a, b)
    f, g = found.f, found.g
    assert (f[:, None] + g - costs).max() <= 1e-15 * 1e9
    lean = costs - np.r_[np.full(5, 1e9), np.zeros(295)][:, None]
    paid = np.sum(found.plan[found.plan > 0] * lean[found.plan > 0])
    gap = paid - a @ (f - np.r_[np.full(5, 1e9), np.zeros(295)]) - b @ g
    assert abs(gap) <= 1e-9 * paid + 1e-6
    assert np.abs(found.plan.sum(1) - a).max() < 1e-15


def test_equal_weights_leave_no_dust():
    """Sums of 1/3 and their like are rounded; what the rounding leaves is no mass."""
    costs = np.random.default_rng(1).uniform(size=(60, 30))
    plan = program.solve(costs, np.full(60, 1 / 60), np.full(30, 1 / 30)).plan
    assert np.count_nonzero(plan) == 60
    np.testing.assert_allclose(plan[plan > 0], 1 / 60, rtol=1e-13)


def test_the_limit_of_pivots_is_told(monkeypatch):
    monkeypatch.setattr(simplex, "PIVOTS", 1)
    costs = np.random.default_rng(2).uniform(size=(60, 60)).astype(np.float32)
    with pytest.raises(ValueError, match=r"limit of pivots.*sinkhorn\.run"):
        og.exact.plan(costs)
    assert all(np.isnan(of).all() for of in jax.jit(og.exact.plan)(costs))


@pytest.mark.slow
def test_no_other_array_library_is_imported_and_none_is_hidden(tmp_path):
    (tmp_path / "torch.py").write_text("class Tensor: pass\n")
    code = """
import sys, numpy as np, otgen as og
assert float(og.exact.plan(np.eye(2)[::-1]).value) == 0
assert not {"torch", "tensorflow", "cupy", "ot"} & set(sys.modules)
import ot
assert ot.backend.torch is sys.modules["torch"]
assert ot.emd2([1.0], [1.0], np.ones((1, 1))) == 1
"""
    path = os.pathsep.join([str(tmp_path), *sys.path])
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not tell a process its cores")
def test_a_jitted_plan_does_not_wait_for_ever_on_one_core():
    code = """
import os
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
import jax, numpy as np, otgen as og
for num in range(180, 420, 20):
    costs = np.random.default_rng(num).uniform(size=(num, num)).astype(np.float32)
    assert jax.jit(og.exact.plan)(costs).value == og.exact.plan(costs).value
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
