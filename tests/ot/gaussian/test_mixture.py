import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from otgen import sizes
from otgen.ot import gaussian
from otgen.ot.gaussian import mixture
from otgen.ot.gaussian.bures import bures_sq
from otgen.ot.gaussian.mixture import Mixture

x64 = pytest.mark.usefixtures("x64")


def draw(seed=0, k=3, d=2, spread=2.0, rank=None):
    random = np.random.default_rng(seed)
    roots = random.normal(size=(k, d, rank or d + 2)) / np.sqrt(d)
    return Mixture(random.dirichlet(np.ones(k)), spread * random.normal(size=(k, d)), roots @ np.swapaxes(roots, 1, 2))


def moments(p):
    weights, means, covs = (np.asarray(of) for of in p)
    mean = weights @ means
    return mean, np.einsum("k,kij->ij", weights, covs + means[:, :, None] * means[:, None, :]) - np.outer(mean, mean)


value, to_images = mixture.w2_sq, mixture.barycentric_map  # quick tests share shapes, and so what is compiled
value_and_slopes = jax.jit(jax.value_and_grad(mixture.w2_sq, (0, 1)))
geodesic = jax.jit(mixture.geodesic)


def joined(*mixtures):
    return Mixture(*(np.concatenate(of) for of in zip(*mixtures, strict=True)))


def split(p, times):
    return joined(*[p._replace(weights=p.weights / times)] * times)


def points(n=50, d=2):
    return np.random.default_rng(3).normal(size=(n, d))


def pot_arguments(p, q):
    return p.means, q.means, p.covs, q.covs, p.weights, q.weights


@x64
@pytest.mark.parametrize(
    "shape",
    [
        (4, 4, 2),
        *(pytest.param(shape, marks=pytest.mark.slow) for shape in [(3, 5, 2), (5, 2, 6), (1, 3, 1), (1, 1, 3)]),
    ],
    ids=str,
)
def test_costs_value_plan_and_map_agree_with_pot(shape):
    gmm = pytest.importorskip("ot.gmm")
    p, q, x = draw(1, shape[0], shape[2]), draw(2, *shape[1:]), points(50, shape[2])
    costs, plan = mixture.component_costs(p, q), mixture.plan(p, q)
    theirs = pot_arguments(p, q)
    np.testing.assert_allclose(costs, gmm.dist_bures_squared(*theirs[:4]), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(plan, gmm.gmm_ot_plan(*theirs), atol=1e-9)
    assert float(value(p, q)) == pytest.approx(float(gmm.gmm_ot_loss(*theirs)), rel=1e-8)
    np.testing.assert_allclose(to_images(p, q, x), gmm.gmm_ot_apply_map(x, *theirs), rtol=1e-7, atol=1e-7)


@x64
def test_single_components_are_gaussians():
    p, q, x = draw(1, 1), draw(2, 1), points()
    expected = np.sum((p.means - q.means) ** 2) + bures_sq(p.covs[0], q.covs[0])
    assert float(value(split(p, 4), split(q, 4))) == pytest.approx(float(expected), rel=1e-12)
    slope = np.linalg.lstsq(x - p.means, np.asarray(to_images(split(p, 4), split(q, 4), x)) - q.means)[0]
    np.testing.assert_allclose(slope, gaussian.map_matrix(p.covs[0], q.covs[0]), atol=1e-10)
    np.testing.assert_allclose(slope.T @ p.covs[0] @ slope, q.covs[0], atol=1e-10)


@x64
@pytest.mark.parametrize("rank", [None, 1], ids=["regular", "singular"])
def test_value_is_a_squared_distance(rank):
    p, q, r = (draw(seed, 4, rank=rank) for seed in (1, 2, 3))
    assert abs(float(value(p, p))) < 1e-12
    order = np.array([2, 0, 3, 1])
    assert abs(float(value(p, Mixture(*(of[order] for of in p))))) < 1e-12
    assert float(value(p, q)) == pytest.approx(float(value(q, p)), rel=1e-10)
    pq, qr, pr = (np.sqrt(float(value(*of))) for of in ((p, q), (q, r), (p, r)))
    assert 0 < pr <= pq + qr


@x64
@pytest.mark.slow
def test_components_split_in_two_or_of_weight_zero_change_nothing():
    gmm = pytest.importorskip("ot.gmm")
    p, q, x = draw(1, 2), draw(2, 4), points()
    first, second = (Mixture(*(of[i : i + 1] for of in p)) for i in (0, 1))
    same = joined(split(first, 2), draw(3, 1, rank=1)._replace(weights=np.zeros(1)), second)
    of_same, slopes = value_and_slopes(same, q)
    assert float(of_same) == pytest.approx(float(gmm.gmm_ot_loss(*pot_arguments(p, q))), rel=1e-8)
    assert all(np.isfinite(slope).all() for slope in jax.tree.leaves(slopes))
    np.testing.assert_allclose(mixture.log_density(same, x), mixture.log_density(p, x), rtol=1e-12)
    theirs = gmm.gmm_ot_apply_map(x, *pot_arguments(p, q))
    np.testing.assert_allclose(to_images(same, q, x), theirs, rtol=1e-7, atol=1e-7)


@x64
@pytest.mark.parametrize("rank", [None, 1], ids=["regular", "singular"])
def test_geodesics_have_constant_speed(rank):
    p, q = draw(1, 3), draw(2, 2, rank=rank)
    padded = [joined(p, p._replace(weights=np.zeros(3))), joined(q, q._replace(weights=np.zeros(2)))]
    start, end = (Mixture(*(of[:4] for of in end)) for end in padded)
    length = np.sqrt(float(value(start, end)))
    for t in (0.0, 0.3, 1.0):
        between = geodesic(t, p, q)
        assert between.means.shape == (4, 2)
        assert np.sqrt(abs(float(value(start, between)))) == pytest.approx(t * length, abs=1e-6)
        assert np.sqrt(abs(float(value(between, end)))) == pytest.approx((1 - t) * length, abs=1e-6)


@x64
def test_the_map_of_a_mixture_to_itself_is_the_identity_where_components_overlap_little():
    p = draw(1, 4, spread=30.0)
    x = p.means[np.arange(50) % 4] + points()
    np.testing.assert_allclose(to_images(p, p, x), x, atol=1e-6)
    assert np.isfinite(to_images(p, draw(2, 4), 1e4 + x)).all()


@x64
def test_samples_and_their_random_images_have_the_right_moments(monkeypatch):
    monkeypatch.setattr(sizes, "CPU", sizes.CPU._replace(alive=2**14))  # some stretches of points, the last one shorter
    p, q, num = draw(1, 4), draw(2, 4, rank=1), 20_000
    x = jax.jit(mixture.sample, static_argnums=2)(jax.random.key(0), p, num)
    y = mixture.sample_map(jax.random.key(1), p, q, x)
    for of, drawn in ((p, np.asarray(x)), (q, np.asarray(y))):
        mean, cov = moments(of)
        products = (drawn - mean)[:, :, None] * (drawn - mean)[:, None, :]
        assert (abs(drawn.mean(0) - mean) < 5 * drawn.std(0) / np.sqrt(num)).all()
        assert (abs(products.mean(0) - cov) < 5 * products.std(0) / np.sqrt(num)).all()
    cost = np.sum((np.asarray(x) - np.asarray(y)) ** 2, 1)
    assert abs(cost.mean() - float(value(p, q))) < 5 * cost.std() / np.sqrt(num)


@x64
def test_log_density_is_that_of_scipy():
    from scipy.stats import multivariate_normal

    p, x = draw(1), np.random.default_rng(0).normal(size=(5, 2))
    each = [w * multivariate_normal(m, c).pdf(x) for w, m, c in zip(*p, strict=True)]
    np.testing.assert_allclose(mixture.log_density(p, x), np.log(sum(each)), rtol=1e-12)


@x64
def test_gradients_match_differences():
    p, q = draw(1, 4), draw(2, 4)
    random, step = np.random.default_rng(0), 1e-5
    _, slopes = value_and_slopes(p, q)

    def shifted(of, way, by):
        return Mixture(*(part + by * along for part, along in zip(of, way, strict=True)))

    for _ in range(3):
        ways = []
        for weights, means, covs in (p, q):
            shift, turn = random.normal(size=weights.shape), random.normal(size=covs.shape)
            ways.append(Mixture(shift - shift.mean(), random.normal(size=means.shape), turn + np.swapaxes(turn, 1, 2)))
        ends = [
            float(value(*(shifted(of, way, by) for of, way in zip((p, q), ways, strict=True)))) for by in (step, -step)
        ]
        along = sum(np.sum(a * b) for a, b in zip(jax.tree.leaves(slopes), jax.tree.leaves(ways), strict=True))
        assert along == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6)
    assert abs(slopes[0].weights @ p.weights) < 1e-12


@x64
@pytest.mark.slow
def test_both_modes_and_second_derivatives():
    p, q = (Mixture(*map(jnp.asarray, draw(*of))) for of in ((1, 3), (2, 4)))
    arguments = (q.means, jnp.linalg.cholesky(q.covs))

    def of(means, roots):
        return mixture.w2_sq(p, Mixture(q.weights, means, roots @ roots.mT))

    check_grads(of, arguments, order=2, modes=["fwd", "rev"], rtol=1e-4)
    check_grads(lambda m: mixture.log_density(Mixture(p.weights, m, p.covs), q.means), (p.means,), order=1, rtol=1e-5)


@x64
def test_vmap_and_numbers_that_are_not():
    ps, qs = (Mixture(*map(np.stack, zip(draw(at, 4), draw(at + 1, 4), strict=True))) for at in (0, 5))
    values_of = jax.jit(jax.vmap(mixture.w2_sq))
    values, values_of_nothing = values_of(ps, qs), values_of(ps._replace(means=ps.means * np.nan), qs)
    for i in range(2):
        p, q = (Mixture(*(part[i] for part in of)) for of in (ps, qs))
        assert float(values[i]) == pytest.approx(float(value(p, q)), rel=1e-12)
    assert np.isnan(values_of_nothing).all()


@x64
@pytest.mark.slow
def test_slopes_and_maps_inside_vmap():
    ps, q, x = Mixture(*map(np.stack, zip(draw(1), draw(2), strict=True))), draw(3, 4), points()
    slopes = jax.vmap(jax.grad(mixture.w2_sq), (0, None))(ps, q)
    images = jax.vmap(lambda p: mixture.barycentric_map(p, q, x))(ps)
    for i in range(2):
        p = Mixture(*(part[i] for part in ps))
        np.testing.assert_allclose(images[i], mixture.barycentric_map(p, q, x), atol=1e-10)
        for mine, same in zip(slopes, jax.grad(mixture.w2_sq)(p, q), strict=True):
            np.testing.assert_allclose(mine[i], same, atol=1e-10)


@pytest.mark.slow
def test_64_components_in_64_dimensions():
    p, q = (Mixture(*map(jnp.asarray, draw(s, 64, 64))) for s in (1, 2))
    value, slopes = jax.jit(jax.value_and_grad(mixture.w2_sq, (0, 1)))(p, q)
    assert float(value) == pytest.approx(float(jnp.sum(mixture.plan(p, q) * mixture.component_costs(p, q))), rel=1e-5)
    assert all(np.isfinite(slope).all() for slope in jax.tree.leaves(slopes))
    x = mixture.sample(jax.random.key(0), p, 3000)
    assert np.isfinite(mixture.sample_map(jax.random.key(1), p, q, x)).all()
    assert np.isfinite(mixture.barycentric_map(p, q, x)).all()


def test_bad_input_says_what_to_do():
    p, q = draw(1), draw(2)
    with pytest.raises(ValueError, match=r"q\.weights sums to 2, not 1"):
        mixture.w2_sq(p, q._replace(weights=2 * q.weights))
    with pytest.raises(ValueError, match="not negative"):
        mixture.w2_sq(p._replace(weights=[-0.5, 1, 0.5]), q)
    with pytest.raises(ValueError, match=r"p\.covs has shape \(2, 2, 2\)"):
        mixture.plan(p._replace(covs=p.covs[:2]), q)
    with pytest.raises(ValueError, match=r"p\.covs is indefinite"):
        mixture.w2_sq(p._replace(covs=-p.covs), q)
    with pytest.raises(ValueError, match="give one dimension"):
        mixture.component_costs(p, draw(2, 3, 4))
    with pytest.raises(ValueError, match=r"3 component\(s\) have a singular covariance"):
        mixture.barycentric_map(draw(1, rank=1), q, np.zeros((1, 2)))
    with pytest.raises(ValueError, match="the mixture has dimension 2"):
        mixture.log_density(p, np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"times in \[0, 1\]"):
        mixture.geodesic(1.5, p, q)
