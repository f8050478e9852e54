"""Latent operations where numbers, shapes and types are unusual: units, half precision, ties of direction, NumPy."""

from collections import namedtuple

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from otgen.ot import latent
from otgen.ot.latent import great_circle, radial

KEY = jax.random.key(0)
Z0, Z1 = np.random.default_rng(0).normal(size=(2, 4, 8)).astype(np.float32)
T = np.array([0.0, 0.3, 1.0])
Pair = namedtuple("Pair", "content style")
TRACES = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, *_, **__: TRACES.append(name) if name == "/jax/core/compile/jaxpr_trace_duration" else None
)


def exact_slerp(t, z0, z1):
    z0, z1, t = (np.asarray(z, np.float64) for z in (z0, z1, np.reshape(t, (-1, 1, 1))))
    product = (z0 * z1).sum(-1, keepdims=True)
    angle = np.arccos(product / np.linalg.norm(z0, axis=-1, keepdims=True) / np.linalg.norm(z1, axis=-1, keepdims=True))
    return (np.sin((1 - t) * angle) * z0 + np.sin(t * angle) * z1) / np.sin(angle)


@pytest.mark.parametrize("size", [1.0, 1e-25, 1e25])
def test_slerp_against_float64_in_any_unit(size):
    path = latent.slerp(T, size * Z0, size * Z1)
    np.testing.assert_allclose(np.asarray(path) / size, exact_slerp(T, Z0, Z1), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(path[0], np.float32(size) * Z0)


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_combinations_scale_with_the_unit(size):
    for prior, scaled in (
        (latent.Normal(), latent.Normal(scale=size)),
        (latent.Sphere(), latent.Sphere(radius=size * 8**0.5)),
        (latent.Cauchy(), latent.Cauchy(scale=size)),
    ):
        np.testing.assert_allclose(
            np.asarray(latent.lerp(T, size * Z0, size * Z1, scaled)) / size,
            latent.lerp(T, Z0, Z1, prior),
            rtol=1e-5,
            atol=1e-5,
        )
    tall = latent.combine([3 * size, 4 * size], (Z0, Z1))
    np.testing.assert_allclose(tall, 0.6 * Z0 + 0.8 * Z1, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1e-20, 1e20])
def test_priors_with_tables_scale_with_the_unit(size):
    level = jnp.linspace(0.01, 0.99, 50)
    for prior, scaled in (
        (
            latent.MixturePrior([0.3, 0.7], [-2, 1], [0.5, 0.3]),
            latent.MixturePrior([0.3, 0.7], [-2 * size, size], [0.5 * size, 0.3 * size]),
        ),
        (latent.TruncatedNormal(), latent.TruncatedNormal(scale=size)),
        (latent.StudentT(4.0), latent.StudentT(4.0, scale=size)),
    ):
        np.testing.assert_allclose(scaled.ppf(level) / size, prior.ppf(level), rtol=1e-4, atol=1e-5)
        made, own = latent.lerp(0.3, size * Z0, size * Z1, scaled), latent.lerp(0.3, Z0, Z1, prior)
        np.testing.assert_allclose(np.asarray(made) / size, own, rtol=1e-3, atol=1e-4)
    ball, scaled = latent.Ball(), latent.Ball(size)
    made, own = latent.lerp(0.3, 0.2 * size * Z0, 0.2 * size * Z1, scaled), latent.lerp(0.3, 0.2 * Z0, 0.2 * Z1, ball)
    np.testing.assert_allclose(np.asarray(made) / size, own, rtol=1e-4, atol=1e-5)


def test_slerp_of_opposite_parallel_and_vanishing_latents():
    path = np.asarray(latent.slerp(T, Z0, -Z0))
    np.testing.assert_allclose(path[[0, 2]], [Z0, -Z0], rtol=1e-5, atol=1e-6)
    size = np.linalg.norm(Z0, axis=-1)
    np.testing.assert_allclose(np.linalg.norm(path, axis=-1), np.broadcast_to(size, (3, 4)), rtol=1e-5)
    np.testing.assert_allclose((path[1] * Z0).sum(-1), size**2 * np.cos(0.3 * np.pi), rtol=1e-4)  # evenly round
    np.testing.assert_array_equal(path, latent.slerp(T, Z0, -Z0))
    np.testing.assert_allclose(latent.slerp(T, Z0, Z0), np.broadcast_to(Z0, (3, 4, 8)), rtol=1e-6)
    np.testing.assert_allclose(latent.slerp(T, Z0, 2 * Z0)[1], 1.3 * Z0, rtol=1e-5)
    assert np.isfinite(latent.slerp(T, 0 * Z0, Z1)).all()


def test_gradients_of_slerp_are_finite_and_right_where_the_angle_is_zero():
    def loss(t, z0, z1):
        return (great_circle.slerp(t, z0, z1) * Z1[:1]).sum()

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    at = jnp.asarray(Z0[:1])
    along, of_first, of_second = gradient(jnp.float32(0.3), at, at)
    np.testing.assert_allclose(of_first, 0.7 * Z1[:1], rtol=1e-5)
    np.testing.assert_allclose(of_second, 0.3 * Z1[:1], rtol=1e-5)
    assert abs(along) < 1e-5
    for other in (-at, 0 * at):
        assert all(np.isfinite(part).all() for part in gradient(jnp.float32(0.3), at, other))


def test_spheres_inside_jit_along_paths_and_through_their_centre():
    sphere = latent.Sphere()
    for path in (
        latent.lerp(T, Z0, Z1, sphere),
        jax.jit(lambda t: latent.lerp(t, Z0, Z1, sphere))(T),
        latent.loop(Z0, Z1, 3, sphere),
        latent.walk(KEY, Z0, 2, 0.5, sphere),
        latent.lerp([0.5, 0.25, 0.75], Z0, -Z0, sphere),
    ):
        norms = np.linalg.norm(path, axis=-1)
        assert norms.shape == (3, 4)
        np.testing.assert_allclose(norms[1:], 8**0.5, rtol=1e-5)
    middle = latent.lerp(0.5, Z0, -Z0, sphere)
    np.testing.assert_allclose(np.linalg.norm(middle, axis=-1), 8**0.5, rtol=1e-5)
    np.testing.assert_allclose((middle * Z0).sum(-1), 0, atol=1e-5)
    slope = jax.grad(lambda z: latent.lerp(0.5, z, -Z0, sphere).sum())(jnp.asarray(Z0))
    assert np.isfinite(slope).all()


def test_right_angles_on_a_line_and_of_nothing():
    orthogonal = jax.jit(great_circle.orthogonal)
    np.testing.assert_array_equal(orthogonal(jnp.array([[3.0], [0.0]])), [[1.0], [1.0]])
    np.testing.assert_array_equal(orthogonal(jnp.zeros((1, 3))), [[1.0, 0.0, 0.0]])


WIDE = np.random.default_rng(1).uniform(-1, 1, (2, 262_144)).astype(np.float32)
OPERATIONS = {
    "slerp": lambda a, b: latent.slerp(0.3, a, b),
    "raw": lambda a, b: latent.raw([0.3, 0.7], (a, b)),
    "Normal": lambda a, b: latent.lerp(0.3, a, b),
    "Uniform": lambda a, b: latent.lerp(0.3, a, b, latent.Uniform()),
    "Sphere": lambda a, b: latent.lerp(0.3, a, b, latent.Sphere()),
    "lol": lambda a, b: latent.lol([0.3, 0.7], (a, b), latent.Uniform()),
    "vicinity": lambda a, b: latent.vicinity(KEY, a, 0.5, latent.Sphere()),
}


@pytest.mark.usefixtures("half")
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("dtype", [jnp.float16, pytest.param(jnp.bfloat16, marks=pytest.mark.slow)])
def test_half_precision_of_image_latents(name, dtype):
    z = [jnp.asarray(z, dtype) for z in WIDE]
    made = OPERATIONS[name](*z)
    assert made.dtype == dtype
    exact = np.asarray(OPERATIONS[name](*(it.astype(jnp.float32) for it in z)))
    unit = float(jnp.finfo(dtype).eps)
    atol = 2 * unit if name == "vicinity" else unit / 8  # its noise is rounded too
    np.testing.assert_allclose(np.asarray(made, np.float32), exact, rtol=unit, atol=atol)


def traced(call):
    call()
    before = len(TRACES)
    call()
    return len(TRACES) - before


def test_calls_outside_jit_compile_once_and_take_numpy():
    empirical = latent.Empirical(np.random.default_rng(2).gamma(2.0, size=(40, 8)))
    for call in (
        lambda: latent.walk(KEY, Z0, 2, 0.3),
        lambda: latent.loop(Z0, Z1, 3),
        lambda: latent.lerp(T, Z0, Z1),
        lambda: latent.lerp(0.3, Z0, Z1, empirical),
        lambda: latent.slerp(T, Z0, Z1),
        lambda: latent.grid([Z0, Z1, Z1, Z0], 2, 3),
    ):
        assert traced(call) == 0
    before = len(TRACES)
    latent.lerp(T + 0.1, Z1, Z0, latent.Normal(scale=2.0))  # numbers are traced
    latent.lerp(T + 0.1, Z1, Z0, latent.Normal(scale=3.0))
    assert len(TRACES) - before < 4


def equations(program):
    for equation in program.eqns:
        yield equation
        for part in equation.params.values():
            if hasattr(part, "jaxpr"):
                yield from equations(part.jaxpr)


def test_walks_prepare_the_map_of_a_radial_prior_once(monkeypatch):
    monkeypatch.setattr(radial, "_DRAWS", 1024)
    calls = []
    draws = latent.Ball.draws
    monkeypatch.setattr(latent.Ball, "draws", lambda self, *shape: calls.append(shape) or draws(self, *shape))
    start = latent.Ball().sample(KEY, (30, 3))
    path = latent.walk(KEY, start, 50, 0.5, latent.Ball())
    assert len(calls) == 1
    assert np.linalg.norm(path, axis=-1).max() <= 1.001
    program = jax.make_jaxpr(lambda z: latent.walk(KEY, z, 50, 0.5, latent.Ball()))(start)
    (steps,) = (it for it in equations(program.jaxpr) if it.primitive.name == "scan" and it.params["length"] == 50)
    names = {it.primitive.name for it in equations(steps.params["jaxpr"].jaxpr)}
    assert "random_bits" in names
    assert not {"random_gamma", "sort"} & names


def test_named_tuples_are_pytrees_and_sequences_are_latents():
    stacked = Pair(np.stack([Z0, Z1]), np.stack([Z1, Z0]))
    made = latent.combine([1.0, 0.0], stacked)
    np.testing.assert_allclose(made.content, Z0)
    np.testing.assert_allclose(made.style, Z1)
    one, other = Pair(Z0, Z1), Pair(Z1, Z0)
    for got in (latent.combine([1.0, 0.0], [one, other]), latent.lerp(0.0, one, other), latent.slerp(0.0, one, other)):
        np.testing.assert_allclose(got.content, Z0, rtol=1e-6)
        np.testing.assert_allclose(got.style, Z1, rtol=1e-6)
    np.testing.assert_allclose(latent.centroid(stacked).content, (Z0 + Z1) / np.sqrt(2), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(latent.combine([3.0, 4.0], [[1.0, 2.0], [2.0, 1.0]]), [2.2, 2.0], rtol=1e-6)
    np.testing.assert_allclose(latent.combine([1.0, 1.0], np.array([[1, 2], [2, 4]])), [3 / 2**0.5, 6 / 2**0.5])
    many = np.random.default_rng(3).normal(size=(20, 5)).astype(np.float32)
    np.testing.assert_allclose(latent.centroid(list(many)), many.sum(0) / 20**0.5, rtol=1e-4, atol=1e-5)


def test_arrays_of_parameters_add_axes_in_every_operation():
    square = latent.bilinear(T[:2, None], T, [Z0, Z1, Z1, Z0])
    assert square.shape == (2, 3, 4, 8)
    np.testing.assert_allclose(square[1, 1], latent.bilinear(0.3, 0.3, [Z0, Z1, Z1, Z0]), rtol=1e-5, atol=1e-6)
    assert latent.slerp(np.zeros((2, 8)), Z0, Z1).shape == (2, 8, 4, 8) == latent.lerp(np.zeros((2, 8)), Z0, Z1).shape


def test_other_byte_orders_and_float64_mode_with_float32_latents(x64):
    big = Z0.astype(">f4")
    np.testing.assert_array_equal(latent.lerp(0.3, big, Z1), latent.lerp(0.3, Z0, Z1))
    np.testing.assert_array_equal(latent.slerp(0.3, big, Z1), latent.slerp(0.3, Z0, Z1))
    for made in (latent.lerp(0.3, Z0, Z1), latent.slerp(0.3, Z0, Z1), latent.walk(KEY, Z0, 2, 0.3)):
        assert made.dtype == jnp.float32
        assert np.isfinite(made).all()


def refused():
    uniform = latent.Uniform
    yield lambda: uniform(1, -1), "not below"
    yield lambda: uniform(0.0, float("inf")), "infinite"
    yield lambda: uniform(np.zeros(2), 1.0), "one number"
    yield lambda: latent.Normal(scale=-1.0), "positive"
    yield lambda: latent.Normal(scale=np.array([1.0, 0.0])), "positive"
    yield lambda: latent.Normal(loc=float("nan")), "NaN"
    yield lambda: latent.Normal(tril=np.ones((2, 2))), "lower-triangular"
    yield lambda: latent.Normal(tril=np.ones((2, 3))), "factor"
    yield lambda: latent.Stable(2.5), "from 0 to 2"
    yield lambda: latent.Cauchy(scale=0.0), "positive"
    yield lambda: latent.StudentT(1.0), "2 or more degrees"
    yield lambda: latent.TruncatedNormal(1.0, 1.0), "not below"
    yield lambda: latent.MixturePrior([0.5, 0.4], [0.0, 1.0], [1.0, 1.0]), "sum to 1"
    yield lambda: latent.MixturePrior([1.5, -0.5], [0.0, 1.0], [1.0, 1.0]), "sum to 1"
    yield lambda: latent.MixturePrior([0.5, 0.5], [0.0, 1.0, 2.0], [1.0, 1.0]), "shape"
    yield lambda: latent.MixturePrior([0.5, 0.5], [0.0, 1.0], [1.0, -1.0]), "positive"
    yield lambda: latent.Empirical(np.zeros((2, 2, 2))), "at least 2 observations"
    yield lambda: latent.Empirical([1.0, float("nan")]), "NaN"
    yield lambda: latent.CustomPrior(np.tanh, 3.0, 1.0), "functions"
    yield lambda: latent.CustomPrior(np.tanh, np.tanh, -1.0), "positive"
    yield lambda: latent.Ball(0.0), "positive"
    yield lambda: latent.Sphere(radius=-1.0), "positive"
    yield lambda: latent.Sphere(event_ndim=0), "whole number"
    yield lambda: latent.MultivariateT(-1.0), "positive"
    yield lambda: latent.Learned(np.zeros(3)), "rows"
    yield lambda: latent.Normal().sample(0, (3,)), "key"
    yield lambda: latent.Normal().sample(KEY, (2.5,)), "whole number"
    yield lambda: latent.Normal().sample(KEY, 3), "tuple"
    yield lambda: latent.Normal(scale=np.ones(3)).sample(KEY, (2,)), "do not go together"
    yield lambda: latent.Ball().sample(KEY, ()), "vectors"
    yield lambda: latent.lerp(0.5, Z0, Z1, latent.Normal(loc=np.zeros(3))), "do not go together"
    yield lambda: latent.lerp(0.5, Z0, Z1, latent.Empirical(np.ones((5, 3)))), "do not go together"
    yield lambda: latent.lerp(0.5, Z0[0], Z1[0], latent.Sphere(event_ndim=2)), "2 axes"
    yield lambda: latent.lerp(float("nan"), Z0, Z1), "NaN"
    yield lambda: latent.lerp(0.5, Z0, Z1[:2]), "differ in shape"
    yield lambda: latent.lerp(0.5, Z0, {"a": Z1}), "structure"
    yield lambda: latent.slerp(0.5, Z0, Z1[:2]), "one shape"
    yield lambda: latent.slerp(0.5, 1.0, 2.0), "one shape"
    yield lambda: latent.combine(np.ones((2, 2)), [Z0, Z1]), "one weight per latent"
    yield lambda: latent.combine([], []), "no latents"
    yield lambda: latent.combine([1.0, 1.0], 3.0), "latents"
    yield lambda: latent.combine([1.0, 1.0], ["a", "b"]), "real numbers"
    yield lambda: latent.combine([1.0, 1.0], np.ma.masked_array(np.ones((2, 3)))), "masked"
    yield lambda: latent.centroid([]), "no latents"
    yield lambda: latent.grid([Z0] * 3, 2, 2), "corners must be four latents"
    yield lambda: latent.grid([Z0] * 4, 0, 2), "at least 1"
    yield lambda: latent.grid([Z0] * 4, 2.0, 2), "whole number"
    yield lambda: latent.loop(Z0, Z1, 0), "at least 1"
    yield lambda: latent.subspace(np.ones((2, 3)), [Z0, Z1]), "one weight per latent"
    yield lambda: latent.walk(KEY, Z0, 2.5, 0.1), "whole number"
    yield lambda: latent.walk(0, Z0, 2, 0.1), "key"
    yield lambda: latent.vicinity(jax.random.split(KEY), Z0, 0.1), "several keys"
    yield lambda: latent.vicinity(KEY, Z0, np.ones(2)), "one number"
    yield lambda: latent.lol([0.5, 0.5], [Z0, Z1], latent.Sphere()), "distribution function"


@pytest.fixture
def as_users_call():
    """Types are checked by the tests only: users meet the checks of otgen."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(("call", "message"), refused())
def test_what_makes_no_sense_is_refused(call, message, as_users_call):
    with pytest.raises(ValueError, match=message):
        call()


class Mine(latent.Prior):
    """A law of somebody's own: no pytree, and nothing but the two methods."""

    def sample(self, key, shape):
        return jax.random.normal(key, shape)

    def match(self, weights, y):
        return y / jnp.sqrt(jnp.sum(weights**2))


def test_a_prior_of_two_methods_is_enough():
    for operation in (
        lambda prior: latent.lerp(T, Z0, Z1, prior),
        lambda prior: latent.walk(KEY, Z0, 2, 0.3, prior),
    ):
        np.testing.assert_allclose(operation(Mine()), operation(latent.Normal()), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_paths_of_codes_stay_among_them():
    codes = jax.random.normal(KEY, (20, 2))
    prior = latent.Learned(codes)
    for path in (
        latent.walk(KEY, codes[:5], 3, 0.5, prior),
        latent.lerp(jnp.array([0.3, 0.6]), codes[:5], codes[5:10], prior),
    ):
        assert np.abs(path[..., None, :] - codes).sum(-1).min(-1).max() == 0
