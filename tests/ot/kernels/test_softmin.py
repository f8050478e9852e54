"""The fused smoothed minimum: in Pallas's interpreter against float64, and lowered for a GPU that need not be there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from otgen import sizes
from otgen.ot.kernels import softmin as kernel
from otgen.ot.kernels.softmin import softmin_pallas


def softmin(*args):
    return softmin_pallas(*args, interpret=True)


def problem(num, other, dim, seed=0):
    keys = jax.random.split(jax.random.key(seed), 4)
    x = jax.random.normal(keys[0], (num, dim))
    y = 1 + jax.random.normal(keys[1], (other, dim))
    return x, y, jax.random.normal(keys[2], (other,)), jax.random.normal(keys[3], (other,))


def exact(x, y, epsilon, potential, log_weights):
    x, y, potential, log_weights = (np.asarray(array, np.float64) for array in (x, y, potential, log_weights))
    scores = log_weights + (potential - ((x[:, None] - y) ** 2).sum(-1)) / epsilon
    return -epsilon * np.logaddexp.reduce(scores, axis=1)


def dense(x, y, epsilon, potential, log_weights):
    cost = jnp.sum((x[:, None] - y) ** 2, -1)
    return -epsilon * jax.nn.logsumexp(log_weights + (potential - cost) / epsilon, axis=1)


@pytest.mark.parametrize(
    ("num", "other", "dim", "epsilon"),
    [
        (1, 1, 1, 1.0),
        (64, 128, 3, 0.1),
        (65, 63, 130, 10.0),
        (5, 1000, 3, 1e-4),
        (130, 129, 33, 1e3),
    ],
)
def test_equals_the_log_sum_exp_in_float64(num, other, dim, epsilon):
    x, y, potential, log_weights = problem(num, other, dim)
    value = softmin(x, y, epsilon, potential, log_weights)
    assert value.shape == (num,)
    assert value.dtype == jnp.float32
    expected = exact(x, y, epsilon, potential, log_weights)
    np.testing.assert_allclose(value, expected, rtol=1e-6, atol=2e-6 + 1e-6 * float(jnp.sum(y**2, 1).max()))


@pytest.mark.parametrize(("programs", "num"), [(1, 150), (10, 151)])
def test_programs_that_take_several_tiles_agree(monkeypatch, programs, num):
    monkeypatch.setattr(kernel, "PROGRAMS", programs)  # one program for 11 tiles of columns; 4 programs for 3 each
    x, y, potential, log_weights = problem(num, 700, 20)
    expected = exact(x, y, 2.0, potential, log_weights)
    np.testing.assert_allclose(softmin(x, y, 2.0, potential, log_weights), expected, rtol=1e-6, atol=2e-5)


def test_a_shift_of_both_clouds_changes_nothing():
    x, y, potential, log_weights = problem(40, 50, 3)
    x, y = (jnp.round(1024 * points) / 1024 for points in (x, y))  # still exact after the shift
    near, far = (softmin(x + shift, y + shift, 0.1, potential, log_weights) for shift in (0.0, 1000.0))
    np.testing.assert_allclose(far, near, rtol=0, atol=1e-3)
    np.testing.assert_allclose(far, exact(x, y, 0.1, potential, log_weights), rtol=0, atol=1e-3)


def test_points_of_weight_zero_are_left_out():
    x, y, potential, log_weights = problem(30, 200, 5)
    kept = np.r_[70:80, 190:195]  # the first tile has no point at all
    masked = jnp.full_like(log_weights, -jnp.inf).at[kept].set(log_weights[kept])
    expected = exact(x, y[kept], 0.5, potential[kept], log_weights[kept])
    np.testing.assert_allclose(softmin(x, y, 0.5, potential, masked), expected, rtol=1e-6, atol=1e-5)
    gradient = jax.jit(jax.grad(lambda *args: softmin(*args).sum(), argnums=(0, 1, 2, 3, 4)))
    reduced = gradient(x, y[kept], 0.5, potential[kept], log_weights[kept])
    of_x, of_y, of_epsilon, *of_columns = gradient(x, y, 0.5, potential, masked)
    np.testing.assert_allclose(of_x, reduced[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(of_epsilon, reduced[2], rtol=1e-5)
    for full, part in zip((of_y, *of_columns), (reduced[1], *reduced[3:]), strict=True):
        np.testing.assert_allclose(full[kept], part, rtol=0, atol=1e-5)
        assert not np.delete(full, kept, axis=0).any()


def test_nothing_to_reach_is_infinitely_far():
    x, y, potential, _ = problem(3, 80, 2)
    nobody = jnp.full(80, -jnp.inf)
    np.testing.assert_array_equal(softmin(x, y, 0.1, potential, nobody), np.inf)
    gradients = jax.grad(lambda *args: softmin(*args)[0], argnums=(0, 1, 2, 3, 4))(x, y, 0.1, potential, nobody)
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)


def test_not_a_number_is_not_swallowed():
    x, y, potential, log_weights = problem(3, 200, 2)
    assert jnp.isnan(softmin(x, y, 0.1, potential.at[150].set(jnp.nan), log_weights)).all()


def test_no_weights_are_weights_of_one():
    x, y, potential, _ = problem(10, 20, 2)
    np.testing.assert_array_equal(softmin(x, y, 0.1, potential), softmin(x, y, 0.1, potential, jnp.zeros(20)))


@pytest.mark.parametrize(("block", "num"), [(2**22, 50), (300, 51)])  # all rows at once; 4 rows at a time
def test_gradients_equal_those_of_the_dense_formula(monkeypatch, block, num):
    monkeypatch.setattr(sizes, "CPU", sizes.CPU._replace(alive=block))
    x, y, potential, log_weights = problem(num, 70, 3)
    direction = jax.random.normal(jax.random.key(9), (num,))

    def gradient(function):
        return jax.jit(jax.grad(lambda *args: direction @ function(*args), argnums=(0, 1, 2, 3, 4)))

    mine, theirs = gradient(softmin), gradient(dense)
    for epsilon in (0.05, 0.5):
        args = x, y, epsilon, potential, log_weights
        for ours, exact in zip(mine(*args), theirs(*args), strict=True):
            np.testing.assert_allclose(ours, exact, rtol=2e-4, atol=2e-4)


def test_second_derivatives_in_reverse_mode():
    x, y, potential, log_weights = problem(8, 9, 2)

    def curvature(function):
        def slope(x, potential, epsilon):
            value, pull = jax.vjp(
                lambda *args: function(args[0], y, args[2], args[1], log_weights), x, potential, epsilon
            )
            return sum(jnp.sum(jnp.sin(part)) for part in pull(jnp.cos(value)))

        return jax.jit(jax.grad(slope, argnums=(0, 1, 2)))(x, potential, 0.7)

    for mine, theirs in zip(curvature(softmin), curvature(dense), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: softmin(x, y, 0.7, potential, log_weights), (x,), (x,))


def test_vmap_over_points_and_temperatures():
    x, y, potential, log_weights = problem(6, 70, 2)
    xs, epsilons = jnp.stack([x, 2 * x, -x]), jnp.array([0.1, 1.0, 10.0])

    def both(function):
        def total(x, epsilon):
            value = function(x, y, epsilon, potential, log_weights)
            return value.sum(), value

        return jax.jit(jax.vmap(jax.grad(total, argnums=(0, 1), has_aux=True)))(xs, epsilons)

    for mine, theirs in zip(jax.tree.leaves(both(softmin)), jax.tree.leaves(both(dense)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)


def test_one_trace_for_all_temperatures(monkeypatch):
    traces, launch = [], kernel._launch
    monkeypatch.setattr(kernel, "_launch", lambda *args: traces.append(1) or launch(*args))
    x, y, potential, log_weights = problem(7, 11, 2)  # a shape of its own
    for epsilon in (0.1, 1, jnp.float32(3.0), np.float64(0.2)):
        softmin(x, y, epsilon, potential, log_weights)
    assert len(traces) == 1


def test_memory_does_not_grow_with_n_times_m():
    def temporary(num):
        shapes = ((num, 8), (num, 8), (), (num,), (num,))
        gradient = jax.jit(jax.grad(lambda *args: softmin(*args).sum(), argnums=(0, 1, 2, 3, 4)))
        lowered = gradient.lower(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporary(65536) < 65536**2 / 50


@pytest.mark.parametrize(("dim", "batched"), [(130, False), (2, True)])
def test_lowers_for_cuda_through_triton(dim, batched):
    device = getattr(jax.sharding, "AbstractDevice", None)
    if device is None:
        pytest.skip("this jax has no AbstractDevice, so nothing to lower for without a GPU")
    mesh = AbstractMesh((), (), abstract_device=device(device_kind="NVIDIA H200", num_cores=None, platform="gpu"))
    shapes = (100, dim), (200, dim), (), (200,), (200,)
    function = jax.vmap(softmin_pallas) if batched else softmin_pallas
    arguments = [jax.ShapeDtypeStruct((2, *shape) if batched else shape, jnp.float32) for shape in shapes]

    def loss(*args):
        return function(*args).sum()

    with jax.sharding.use_abstract_mesh(mesh):
        traced = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3, 4))).trace(*arguments)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "xla.gpu.triton" in text


def test_the_products_of_the_kernel_are_not_tf32():
    jaxpr = str(jax.make_jaxpr(softmin)(*problem(9, 9, 70)[:2], 0.1, jnp.zeros(9), jnp.zeros(9)))
    assert jaxpr.count("dot_general") == 1
    assert "Precision.HIGHEST" in jaxpr


def test_float64_where_it_is_enabled():
    with jax.enable_x64(True):
        x, y, potential, log_weights = (
            np.random.default_rng(k).normal(size=s) for k, s in enumerate([(9, 3), (99, 3), 99, 99])
        )
        value = softmin(x, y, 1e-3, potential, log_weights)
        assert value.dtype == jnp.float64
        np.testing.assert_allclose(value, exact(x, y, 1e-3, potential, log_weights), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((3, 4))}, "4 columns and y 2"),
        ({"x": np.zeros(3)}, r"x has shape \(3,\)"),
        ({"y": np.full((5, 2), np.nan)}, "y has NaN"),
        ({"potential": np.zeros(3)}, r"potential has shape \(3,\).*\[5\]"),
        ({"log_weights": np.zeros((5, 1))}, r"log_weights has shape \(5, 1\)"),
        ({"epsilon": np.ones(2)}, "vmap over several"),
        ({"epsilon": 0.0}, "positive"),
    ],
)
def test_refuses_what_does_not_fit(change, message):
    good = {"x": np.zeros((3, 2)), "y": np.zeros((5, 2)), "epsilon": 0.1, "potential": np.zeros(5), "log_weights": None}
    with pytest.raises(ValueError, match=message):
        softmin_pallas(**(good | change), interpret=True)
