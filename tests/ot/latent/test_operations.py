import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from otgen.ot import latent
from otgen.ot.latent import sums

CRITICAL = 1.95  # of sqrt(n) times the Kolmogorov-Smirnov distance, at the 0.1 % level
OPERATIONS = {
    "two points, .5": [0.5, 0.5],
    "two points, .25": [0.25, 0.75],
    "two points, .1": [0.1, 0.9],
    "four points": [0.25] * 4,
    "three points": [0.5, 0.3, 0.2],
    "vicinity .25": [1.0, 0.25],
    "vicinity .5": [1.0, 0.5],
    "vicinity 1": [1.0, 1.0],
    "analogy": [-1.0, 1.0, 1.0],
}
# Distances of the raw combination from the prior; exact for Gaussian midpoints (.083032) and uniform ones (.125).
RAW = {
    "Uniform": [0.1255, 0.0939, 0.0452, 0.2148, 0.1638, 0.0315, 0.0626, 0.1256, 0.1670],
    "Normal": [0.0832, 0.0566, 0.0239, 0.1612, 0.1149, 0.0076, 0.0274, 0.0834, 0.1302],
    "Cauchy": [0.0009, 0.0006, 0.0010, 0.0010, 0.0005, 0.0361, 0.0646, 0.1083, 0.1668],
}
GAMMA = np.random.default_rng(0).gamma(2.0, size=20_000).astype(np.float32)
OTHERS = {
    "shifted uniform": latent.Uniform(0.0, 3.0),
    "truncated normal": latent.TruncatedNormal(-1.5, 1.5),
    "lopsided truncated normal": latent.TruncatedNormal(-1.0, 2.0, 0.5, 0.7),
    "Student t": latent.StudentT(4.0),
    "mixture": latent.MixturePrior([0.3, 0.7], [-2.0, 1.0], [0.5, 0.3]),
    "empirical": latent.Empirical(GAMMA),
    "logistic": latent.CustomPrior(jax.nn.sigmoid, jax.scipy.special.logit, 16.5),
    "shifted normal": latent.Normal(2.0, 3.0),
    "shifted Cauchy": latent.Cauchy(2.0, 3.0),
}
# One of each class that has a map or a density of its own; Student's t costs half a second a table.
KINDS = ["shifted uniform", "lopsided truncated normal", "mixture", "shifted normal", "shifted Cauchy"]
NUM = 50_000


levels = jax.jit(lambda prior, x: prior.cdf(x))


def distance(x, law) -> float:
    """Kolmogorov-Smirnov distance of draws from a prior, or from a distribution function."""
    x = np.sort(np.asarray(x).ravel())
    level = np.asarray(levels(law, x) if isinstance(law, latent.Prior) else law(x), np.float64)
    rank = np.arange(len(level)) / len(level)
    return max((level - rank).max(), (rank + 1 / len(level) - level).max())


def draws(prior, num, shape, seed=0):
    return [prior.sample(key, shape) for key in jax.random.split(jax.random.key(seed), num)]


@pytest.mark.slow
@pytest.mark.parametrize("name", RAW)
def test_table_of_distances_at_a_million_samples(name):
    prior = getattr(latent, name)()
    for (operation, weights), expected in zip(OPERATIONS.items(), RAW[name], strict=True):
        z = draws(prior, len(weights), (10**6,), seed=len(operation))
        assert distance(latent.combine(weights, z, prior), prior) <= 2.0e-3, operation
        assert distance(latent.raw(weights, z), prior) == pytest.approx(expected, abs=2e-3), operation


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_priors_at_a_million_samples(name):
    prior = OTHERS[name]
    for operation, weights in OPERATIONS.items():
        z = draws(prior, len(weights), (10**6,), seed=len(operation))
        assert distance(latent.combine(weights, z, prior), prior) <= CRITICAL / 1000, operation


@pytest.mark.parametrize("name", [*RAW, *OTHERS])
def test_priors_are_kept(name):
    prior = OTHERS[name] if name in OTHERS else getattr(latent, name)()
    cases = [[0.3, 0.7], [-1.0, 1.0, 1.0]]  # sums of two have formulas of their own for RAW
    for weights in cases[:1] if name == "Student t" else cases[name in OTHERS :]:
        z = draws(prior, len(weights), (NUM,), seed=len(weights))
        assert distance(latent.combine(weights, z, prior), prior) < CRITICAL / math.sqrt(NUM)


@pytest.mark.parametrize("prior", [latent.Normal(), latent.Uniform()])
def test_walks_are_stationary(prior):
    num = 20_000
    path = latent.walk(jax.random.key(3), prior.sample(jax.random.key(1), (num,)), 100, 0.5, prior)
    path = np.asarray(path)
    assert distance(path[-1], prior) < CRITICAL / math.sqrt(num)
    if isinstance(prior, latent.Normal):
        step = np.corrcoef(path[50], path[51])[0, 1]
        assert step == pytest.approx(1 / math.sqrt(1.25), abs=4 * (1 - 0.8) / math.sqrt(num))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "expected"), [("Normal", 0.3264), ("Uniform", 0.3678)])
def test_hundred_steps_at_a_million_samples(name, expected):
    prior = getattr(latent, name)()
    z = raw = prior.sample(jax.random.key(1), (10**6,))
    for i in range(100):
        noise = prior.sample(jax.random.key(100 + i), (10**6,))
        raw = latent.raw([1.0, 0.5], (raw, noise))
        z = latent.combine([1.0, 0.5], (z, noise), prior)
    assert distance(z, prior) <= 2.0e-3
    assert distance(raw, prior) == pytest.approx(expected, abs=2e-3)


def test_uniform_closed_forms_in_float64():
    y = np.linspace(-2.9, 2.9, 41)
    size, w, v = np.abs(y), np.full(4, 0.25), 0.21
    expected = np.where(size <= 1, (9 * size - size**3) / 12, 1 - (3 - size) ** 3 / 24)

    def gil_pelaez(s):
        return np.prod(np.sinc(w * s / np.pi)) * np.sin(s * v) / s

    integral = 2 / np.pi * integrate.quad(gil_pelaez, 1e-12, 400, limit=2000)[0]
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            latent.Uniform().match(jnp.ones(3), jnp.asarray(y)), np.sign(y) * expected, atol=1e-12
        )
        # The integral is cut off at 400, which for four terms leaves about 1e-8.
        np.testing.assert_allclose(latent.Uniform().match(jnp.asarray(w), jnp.full(41, v)), integral, atol=1e-7)


def exact_uniform(weights, y):
    """2 F_Q - 1 by inclusion and exclusion in rational arithmetic."""
    from fractions import Fraction
    from itertools import product

    a = [Fraction(float(abs(w))) for w in weights if w]
    values = []
    for v in y:
        v, total = Fraction(float(v)), Fraction(0)
        for signs in product((-1, 1), repeat=len(a)):
            corner = sum(s * x for s, x in zip(signs, a, strict=True)) - abs(v)
            total += math.prod(signs) * max(corner, Fraction(0)) ** len(a)
        below = total / (math.factorial(len(a)) * 2 ** len(a) * math.prod(a))
        values.append(math.copysign(1 - 2 * float(below), v))
    return np.array(values)


@pytest.mark.parametrize("weights", [[0.7, 0.3], [0.5, 0.5], [1.0, 1.0, 1.0], [0.5, 0.3, 0.2], [0.25] * 4])
def test_uniform_closed_forms_against_rational_arithmetic_in_float64(weights):
    with jax.enable_x64(True):
        y = np.linspace(-0.99, 0.99, 41) * np.sum(weights)
        value = sums.uniform_match(jnp.asarray(weights, jnp.float64), jnp.asarray(y))
        np.testing.assert_allclose(value, exact_uniform(weights, y), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "weights",
    [
        [0.5, 0.5],
        [1.0, 1e-6],
        [1.0, 0.0],
        [0.9604, 0.0196, 0.0196, 0.0004],  # bilinear at (.02, .02)
        [1.0, 1e-5, 1e-7],
        [0.98, 0.02, 0.0],
        [0.25] * 4,
        [1 / 6] * 6,
        pytest.param([0.125] * 8, marks=pytest.mark.slow),
        pytest.param([0.1] * 10, marks=pytest.mark.slow),
    ],
)
def test_uniform_map_in_float32_wherever_the_weights_lie(weights):
    w = np.asarray(weights, np.float32)
    y = np.concatenate(
        [np.random.default_rng(0).uniform(-1, 1, (60, len(w))) @ w, w.sum() * np.linspace(-0.999, 0.999, 41)]
    )
    y = y.astype(np.float32)
    np.testing.assert_allclose(sums.uniform_match(jnp.asarray(w), jnp.asarray(y)), exact_uniform(w, y), atol=2e-6)


@pytest.mark.parametrize("name", KINDS)
def test_ends_are_exact_and_orders_do_not_matter(name):
    prior = OTHERS[name]
    z0, z1 = (np.asarray(z) for z in draws(prior, 2, (1000,)))
    largest = np.abs(z0).max()
    np.testing.assert_allclose(latent.lerp(0.0, z0, z1, prior), z0, rtol=0, atol=1e-6 * largest)
    np.testing.assert_allclose(latent.lerp(1.0, z0, z1, prior), z1, rtol=0, atol=1e-6 * largest)
    np.testing.assert_allclose(latent.lerp(0.3, z0, z1, prior), latent.lerp(0.7, z1, z0, prior), atol=1e-5 * largest)


def test_uniform_midpoints_move_the_least():
    prior = latent.Uniform()
    z0, z1 = draws(prior, 2, (NUM,))
    y = 0.5 * (np.asarray(z0) + np.asarray(z1))
    best, other = (np.asarray(f([0.5, 0.5], (z0, z1), prior)) for f in (latent.combine, latent.lol))
    assert np.mean((best - y) ** 2) == pytest.approx(0.03332, abs=5e-4)
    assert np.mean((other - y) ** 2) == pytest.approx(0.03978, abs=5e-4)
    assert distance(other, prior) < CRITICAL / math.sqrt(NUM)


def test_slerp_narrows_norms_and_leaves_the_cube():
    num, chi = 5000, stats.chi(100)
    z0, z1 = draws(latent.Normal(), 2, (num, 100))
    norm = np.linalg.norm(latent.slerp(0.5, z0, z1), axis=1)
    matched = np.linalg.norm(latent.lerp(0.5, z0, z1), axis=1)
    assert norm.mean() == pytest.approx(9.99, abs=0.03)
    assert norm.std() == pytest.approx(0.50, abs=0.02)
    assert matched.std() == pytest.approx(chi.std(), abs=4 * chi.std() / math.sqrt(2 * num))
    assert matched.mean() == pytest.approx(chi.mean(), abs=4 * chi.std() / math.sqrt(num))
    u0, u1 = draws(latent.Uniform(), 2, (num, 100))
    outside = np.abs(latent.slerp(0.5, u0, u1)) > 1
    assert outside.mean() == pytest.approx(0.085, abs=0.003)
    assert outside.any(1).mean() > 0.99


def test_frechet_distance_through_a_linear_generator():
    from otgen.ot.gaussian import frechet_distance

    generator = np.random.default_rng(9).normal(size=(6, 6)).astype(np.float32)
    trace, num = np.sum(generator**2), NUM
    cases = {
        "midpoint": ([0.5, 0.5], (1 - 1 / math.sqrt(2)) ** 2),
        "four": ([0.25] * 4, 0.25),
        "analogy": ([-1, 1, 1], 0.5359),
    }
    prior, *z = (np.asarray(z) for z in draws(latent.Normal(), 5, (num, 6), seed=4))
    for weights, share in cases.values():
        some = z[: len(weights)]
        off = float(frechet_distance(np.tensordot(np.float32(weights), some, 1) @ generator.T, prior @ generator.T))
        kept = float(frechet_distance(np.asarray(latent.combine(weights, some)) @ generator.T, prior @ generator.T))
        assert off / trace == pytest.approx(share, abs=0.02)
        assert kept / trace < 30 * 6 / num


@pytest.mark.slow
@pytest.mark.parametrize(("prior", "dim"), [(latent.Ball(), 2), (latent.Ball(2.0), 3), (latent.MultivariateT(3.0), 8)])
def test_radial_priors_keep_their_norms_and_directions(prior, dim):
    num = 100_000
    for weights in ([0.5, 0.5], [-1.0, 1.0, 1.0]):
        z = latent.combine(weights, draws(prior, len(weights), (num, dim)), prior)
        norm = jnp.linalg.norm(z, axis=1)
        if isinstance(prior, latent.Ball):
            law = lambda r: (np.asarray(r) / prior.radius) ** dim  # noqa: E731
        else:
            law = lambda r: stats.f.cdf(np.asarray(r, np.float64) ** 2 / dim, dim, 3.0)  # noqa: E731
        assert distance(norm, law) < 1.2 * CRITICAL / math.sqrt(num)
        direction = z / norm[:, None]
        assert float(jnp.abs(direction.mean(0)).max()) < 5 / math.sqrt(num * dim)
        first = stats.beta.cdf((1 + np.asarray(direction[:, 0], np.float64)) / 2, (dim - 1) / 2, (dim - 1) / 2)
        assert stats.kstest(first, "uniform").statistic < CRITICAL / math.sqrt(num)


def test_spheres_per_token_and_whole():
    z = draws(latent.Sphere(), 2, (50, 7, 16))
    np.testing.assert_allclose(jnp.linalg.norm(latent.lerp(0.3, *z, latent.Sphere()), axis=-1), 4, rtol=1e-5)
    whole = latent.lerp(0.3, *draws(latent.Sphere(event_ndim=2), 2, (50, 7, 16)), latent.Sphere(event_ndim=2))
    np.testing.assert_allclose(jnp.sqrt(jnp.sum(whole**2, (1, 2))), math.sqrt(112), rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.7, 1.3, 2.0])
def test_stable_laws(alpha):
    prior = latent.Stable(alpha)
    fresh, *z = (np.asarray(z) for z in draws(prior, 4, (NUM,)))
    made = latent.combine([0.5, 0.3, 0.4], z, prior)
    two = stats.ks_2samp(np.asarray(made), fresh).statistic
    assert two < CRITICAL * math.sqrt(2 / NUM)
    if alpha == 2.0:
        assert fresh.std() == pytest.approx(math.sqrt(2), rel=0.015)


def test_full_covariance_needs_no_root():
    tril = np.array([[1.0, 0.0], [0.8, 0.3]], np.float32)
    prior = latent.Normal(np.array([1.0, -2.0], np.float32), tril=tril)
    z = np.asarray(latent.combine([0.5, 0.3, -0.6], draws(prior, 3, (NUM, 2)), prior))
    np.testing.assert_allclose(z.mean(0), [1, -2], atol=0.02)
    np.testing.assert_allclose(np.cov(z.T), tril @ tril.T, atol=0.02)
    white = stats.multivariate_normal([1, -2], tril @ tril.T)
    np.testing.assert_allclose(prior.log_prob(jnp.asarray(z[:5])), white.logpdf(z[:5]), rtol=1e-3, atol=1e-3)


def test_densities_and_quantiles_belong_together():
    level = jnp.asarray(np.linspace(0.01, 0.99, 50, dtype=np.float32))
    for name in (*KINDS, "Student t", "empirical", "logistic"):
        prior = OTHERS[name]
        cdf, slope, density = densities(prior, level)
        np.testing.assert_allclose(cdf, level, atol=2e-5, err_msg=name)
        if density is not None:
            np.testing.assert_allclose(np.exp(density), slope, rtol=2e-3, err_msg=name)


@jax.jit
def densities(prior, level):
    """The levels of quantiles, the slope there, and the density where there is one."""
    z = prior.ppf(level)
    cdf, slope = jax.jvp(prior.cdf, (z,), (jnp.ones_like(z),))
    return cdf, slope, prior.log_prob(z) if hasattr(prior, "log_prob") else None


def test_empirical_columns_have_their_own_laws():
    values = np.stack([GAMMA, -3 * GAMMA + 1], axis=1)
    prior = latent.Empirical(values)
    rows = np.random.default_rng(1).permuted(np.tile(np.arange(20_000)[:, None], (1, 2)), axis=0)
    other = np.take_along_axis(values, rows, axis=0)
    z = latent.lerp(0.5, jnp.asarray(values), jnp.asarray(other), prior)
    for made, column in zip(z.T, values.T, strict=True):
        assert stats.ks_2samp(np.asarray(made), column).statistic < CRITICAL * math.sqrt(2 / 20_000)


def test_arrays_of_parameters_lead_and_pytrees_map():
    z0, z1 = draws(latent.Normal(), 2, (3, 4))
    path = latent.lerp(jnp.linspace(0, 1, 5), z0, z1)
    assert path.shape == (5, 3, 4)
    np.testing.assert_allclose(path[2], latent.lerp(0.5, z0, z1), rtol=1e-6)
    tree = latent.lerp(0.5, {"a": z0, "b": z0[0]}, {"a": z1, "b": z1[0]})
    np.testing.assert_allclose(tree["a"][0], tree["b"], rtol=1e-6)
    assert latent.grid((z0, z1, z1, z0), 3, 5).shape == (3, 5, 3, 4)
    np.testing.assert_array_equal(latent.grid((z0, z1, z1, z0), 3, 5)[0, 0], z0)
    circle = latent.loop(z0, z1, 8)
    np.testing.assert_allclose(circle[0], z0, atol=1e-6)
    np.testing.assert_allclose(circle[2], z1, atol=1e-6)
    np.testing.assert_allclose(circle[4], -z0, atol=1e-6)
    assert latent.subspace(jnp.ones((2, 6, 2)), (z0, z1)).shape == (2, 6, 3, 4)


def test_paths_of_bounded_priors_inside_and_outside_jit():
    prior = latent.Uniform()
    z0, z1 = draws(prior, 2, (6,))
    t = jnp.linspace(0, 1, 4)
    path = latent.lerp(t, z0, z1, prior)
    np.testing.assert_allclose(path[1], latent.lerp(1 / 3, z0, z1, prior), atol=1e-6)
    np.testing.assert_allclose(jax.jit(lambda s: latent.lerp(s, z0, z1, prior))(t), path, atol=1e-6)


def test_operations_of_many_uniforms_compile_once_outside_jit():
    corners = draws(latent.Uniform(), 4, (8,))
    square = latent.grid(corners, 3, 3, latent.Uniform())
    np.testing.assert_allclose(square[::2, ::2].reshape(4, 8), jnp.stack(corners), atol=1e-6)
    before = sums.uniform_match._cache_size()
    latent.grid(corners, 4, 5, latent.Uniform())
    assert sums.uniform_match._cache_size() == before


@pytest.mark.slow
def test_learned_priors_return_codes_with_equal_frequency():
    codes = jax.random.normal(jax.random.key(0), (100, 3)) * jnp.array([3.0, 1.0, 0.5])
    prior = latent.Learned(codes)
    weights = jnp.array([0.5, 0.5])
    table = prior.table(weights, tol=0.01)
    z = draws(prior, 2, (50_000, 3))
    y = latent.raw(weights, z)
    made = prior.apply(table, y)
    square = jnp.sum((made[:, None] - codes) ** 2, -1)
    assert float(square.min(1).max()) == 0
    counts = np.bincount(np.asarray(square.argmin(1)), minlength=100)
    chi2 = (counts * (counts - 1.0)).sum() * 100 / (50_000 * 49_999.0) - 1
    assert chi2 < 0.01 + 4 * math.sqrt(200) / 50_000
    shuffled = made[jax.random.permutation(jax.random.key(1), 50_000)]
    assert float(jnp.mean((made - y) ** 2)) < 0.5 * float(jnp.mean((shuffled - y) ** 2))
    np.testing.assert_array_equal(
        latent.combine(weights, z[:1] + z[:1], prior)[:5], prior.apply(prior.table(weights), z[0])[:5]
    )
    with pytest.raises(ValueError, match="outside jit"):
        jax.jit(lambda w: latent.combine(w, z, prior))(weights)


def test_equal_speed_turns_evenly():
    z0 = jnp.array([1.0, 0.0])
    z1 = jnp.array([0.0, 1.0])
    path = latent.lerp(jnp.linspace(0, 1, 9), z0, z1, equal_speed=True)
    np.testing.assert_allclose(jnp.arctan2(path[:, 1], path[:, 0]), jnp.linspace(0, jnp.pi / 2, 9), atol=1e-6)


@pytest.mark.usefixtures("half")
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_in_and_out(dtype):
    z0, z1 = (z.astype(dtype) for z in draws(latent.Uniform(), 2, (1000,)))
    made = latent.lerp(0.3, z0, z1, latent.Uniform())
    assert made.dtype == dtype
    exact = latent.lerp(0.3, z0.astype(jnp.float32), z1.astype(jnp.float32), latent.Uniform())
    np.testing.assert_array_equal(made, exact.astype(dtype))


@pytest.mark.parametrize(
    "prior",
    [
        latent.Normal(),
        latent.Uniform(),
        pytest.param(latent.StudentT(4.0), marks=pytest.mark.slow),
        pytest.param(latent.TruncatedNormal(), marks=pytest.mark.slow),
    ],
)
def test_jit_once_for_all_t_and_gradients(prior):
    z0, z1 = draws(prior, 2, (20,))
    traces = []

    @jax.jit
    def path(t, z0, z1):
        traces.append(t)
        return latent.lerp(t, z0, z1, prior)

    for t in (0.1, 0.5, 0.9):
        np.testing.assert_allclose(path(t, z0, z1), latent.lerp(t, z0, z1, prior), rtol=1e-4, atol=1e-4)
    assert len(traces) == 1
    slope = jax.grad(lambda t: path(t, z0, z1).sum())(0.4)
    finite = (path(0.42, z0, z1).sum() - path(0.38, z0, z1).sum()) / 0.04
    assert float(slope) == pytest.approx(float(finite), rel=0.02, abs=0.02)
    assert jax.vmap(lambda t: latent.lerp(t, z0, z1, prior))(jnp.linspace(0.1, 0.9, 3)).shape == (3, 20)


def test_nan_stays_where_it_is():
    z0 = np.array([0.1, np.nan, 0.3], np.float32)
    z1 = np.array([0.4, 0.5, 0.6], np.float32)
    for prior in (latent.Normal(), latent.Uniform(), latent.TruncatedNormal()):
        np.testing.assert_array_equal(jnp.isnan(latent.lerp(0.5, z0, z1, prior)), [False, True, False])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: latent.combine([0.5], (z, z)), "one weight per latent"),
        (lambda z: latent.combine([0.0, 0.0], (z, z)), "all weights are 0"),
        (lambda z: latent.combine([0.5, float("nan")], (z, z)), "finite"),
        (lambda z: latent.combine([0.5, 0.5], (z, z[:2])), "differ in shape"),
        (lambda z: latent.lerp(0.5, 3 * z, z, latent.Uniform()), "outside the prior's support"),
        (lambda z: latent.vicinity(jax.random.key(0), z, -0.5), "zero or more"),
        (lambda z: latent.walk(jax.random.key(0), z, 5, -0.5), "zero or more"),
        (lambda z: latent.walk(jax.random.key(0), z, -1, 0.5), "whole number of at least 0"),
    ],
)
def test_bad_input_raises(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.array([0.9, -0.5, 0.7]))
