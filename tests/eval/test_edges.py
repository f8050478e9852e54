"""Scores where samples are unusual: points that coincide, other units, types and byte orders, and what is refused."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from scipy.spatial.distance import cdist

import otgen as og
from otgen import eval as evaluate
from otgen.eval import balls, neighbours
from otgen.models.apply import check_images

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
CODES = {d: np.repeat(RNG.normal(size=(10, d)), 6, 0).astype(np.float32) for d in (2, 64)}
DIGITS = (RNG.random((60, 64)) < 0.15).astype(np.float32)
CLOUD = RNG.normal(size=(60, 64)).astype(np.float32)
OTHER = (RNG.normal(size=(60, 64)) * 1.1 + 0.02).astype(np.float32)


@pytest.fixture
def by_products(monkeypatch):
    """Neighbours of few points are found as those of many: by products, and by differences where these are in doubt."""

    def forget():
        for function in (balls.nearest_squares, balls.square_radii, balls.memberships, neighbours._nearest):
            function.clear_cache()

    monkeypatch.setattr(balls, "_PAIRS", 0)
    forget()
    yield
    forget()


def exact(real, generated, k=3, k_density=5):
    """The four scores by all distances in float64; distances as near as float32's rounding count as equal."""
    real, generated = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    own, other, between = cdist(real, real), cdist(generated, generated), cdist(generated, real)
    radius, dense = (np.sort(own, 1)[:, it] * (1 + 1e-6) for it in (k, k_density))
    inside = between <= dense
    return [
        (between <= radius).any(1).mean(),
        (between <= np.sort(other, 1)[:, k : k + 1] * (1 + 1e-6)).any(0).mean(),
        inside.sum() / k_density / len(generated),
        inside.any(0).mean(),
    ]


@pytest.mark.usefixtures("by_products")
@pytest.mark.parametrize("shift", [0.0, 100.0])
@pytest.mark.parametrize("points", [CODES[2], CODES[64], DIGITS, CLOUD], ids=["2", "64", "digits", "cloud"])
def test_scores_of_a_set_against_itself_are_exact(points, shift):
    points = points + np.float32(shift)
    found = evaluate.neighbour_scores(points, points[::-1])
    assert [float(found.precision), float(found.recall), float(found.coverage)] == [1, 1, 1]
    np.testing.assert_allclose(found.density, exact(points, points)[2], rtol=1e-6)


@pytest.mark.usefixtures("by_products")
@pytest.mark.parametrize("points", [DIGITS, CLOUD], ids=["digits", "cloud"])
def test_scores_of_a_part_against_plain_distances(points):
    part = points.copy()
    part[30:] = points[:30]  # copies of a half, so that balls end in points again and again
    found = evaluate.neighbour_scores(points, part)
    np.testing.assert_allclose(found, exact(points, part), rtol=1e-6)


@pytest.mark.usefixtures("by_products")
@pytest.mark.slow
def test_the_pairs_of_one_ball_are_measured_again_piece_by_piece(monkeypatch):
    monkeypatch.setattr(balls, "_AGAIN", 2**12)
    radii = balls.square_radii(DIGITS[:, :9], (3,))
    counts, used = balls.memberships.__wrapped__(jnp.asarray(DIGITS[:, :9]), jnp.asarray(DIGITS[:, :9]), radii)
    inside = cdist(DIGITS[:, :9], DIGITS[:, :9]) ** 2 <= np.asarray(radii) + 1e-3
    np.testing.assert_array_equal(counts[0], inside.sum(1))
    np.testing.assert_array_equal(used[0], inside.any(0))


@pytest.mark.usefixtures("by_products")
@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_neighbours_do_not_depend_on_the_unit(size):
    size = np.float32(size)
    np.testing.assert_allclose(
        evaluate.neighbour_scores(size * CLOUD, size * OTHER), evaluate.neighbour_scores(CLOUD, OTHER), rtol=1e-6
    )
    distance, _ = evaluate.nearest(size * CLOUD, size * OTHER, 2)
    true = np.sort(cdist(CLOUD, OTHER), 1)[:, :2]
    np.testing.assert_allclose(distance / size, true, rtol=1e-5)
    copies = evaluate.memorisation(size * CLOUD, size * CLOUD, size * OTHER)
    assert [float(copies.value), float(copies.error)] == [0, 0]
    new = evaluate.memorisation(size * OTHER, size * CLOUD, size * OTHER)
    np.testing.assert_allclose(new, evaluate.memorisation(OTHER, CLOUD, OTHER), rtol=1e-5)
    labels = np.arange(60) % 3
    between = evaluate.mixture_rate(size * OTHER, size * CLOUD, labels, size * OTHER)
    np.testing.assert_allclose(between, evaluate.mixture_rate(OTHER, CLOUD, labels, OTHER), rtol=1e-5)


@pytest.mark.usefixtures("by_products")
def test_nearest_is_zero_on_copies_and_has_gradients_there():
    distance, _ = evaluate.nearest(CODES[64] + 100, CODES[64] + 100, 6)
    np.testing.assert_array_equal(distance, np.zeros((60, 6)))
    slope = jax.grad(lambda x: evaluate.nearest(x, CODES[64], 6)[0].sum())(jnp.asarray(CODES[64]))
    assert np.isfinite(slope).all()


def test_few_points_are_held_against_all_others_by_differences():
    points = np.concatenate([CLOUD, CLOUD[:20]])  # copies
    distance, index = evaluate.nearest(points + np.float32(1e3), points + np.float32(1e3), 3)
    true = np.sort(cdist(np.float64(points + np.float32(1e3)), np.float64(points + np.float32(1e3))), 1)
    np.testing.assert_allclose(distance, true[:, :3], rtol=1e-5)
    np.testing.assert_array_equal(
        index[:20], np.stack([np.arange(20), np.arange(60, 80), np.asarray(index[:20, 2])], 1)
    )
    np.testing.assert_allclose(evaluate.neighbour_scores(points, points[::-1]), exact(points, points), rtol=1e-6)


@pytest.mark.usefixtures("by_products")
def test_neighbours_of_tight_clusters_far_apart():
    pairs = (1e3 * RNG.normal(size=(20, 1, 64)) + 1e-2 * RNG.normal(size=(20, 3, 64))).reshape(60, 64)
    points = pairs.astype(np.float32)
    distance, index = evaluate.nearest(points, points, 2)
    true = np.sort(cdist(np.float64(points), np.float64(points)), 1)[:, :2]
    np.testing.assert_array_equal(index[:, 0], np.arange(60))
    np.testing.assert_array_equal(distance[:, 0], np.zeros(60))
    np.testing.assert_allclose(distance, true, rtol=1e-4)
    assert evaluate.memorisation(points, points, points + 1).value == 0


HALF = RNG.normal(size=(262_144, 1)).astype(np.float16)
LOGITS = (3 * RNG.normal(size=(262_144, 4))).astype(np.float16)


def statistic(x):
    return x.mean()


@pytest.mark.usefixtures("half")
@pytest.mark.slow
def test_scores_of_half_precision_are_those_of_float32():
    for dtype in (jnp.float16, jnp.bfloat16):
        x, logits = jnp.asarray(HALF, dtype), jnp.asarray(LOGITS, dtype)
        wide, centres = x.astype(jnp.float32), jnp.array([[-1.0], [1.0]], dtype)
        for found, true in (
            (evaluate.ambiguous_rate(logits), evaluate.ambiguous_rate(logits.astype(jnp.float32))),
            (
                evaluate.mode_scores(x, centres, 0.25).within_sd,
                evaluate.mode_scores(wide, centres.astype(jnp.float32), 0.25).within_sd,
            ),
            (
                evaluate.bootstrap(KEY, statistic, x, repeats=2).value,
                evaluate.bootstrap(KEY, statistic, wide, repeats=2).value,
            ),
            (evaluate.sliced_w2_sq(KEY, x, x + 1, 16).value, evaluate.sliced_w2_sq(KEY, wide, x + 1, 16).value),
            (evaluate.nearest(x, centres)[0].mean(), evaluate.nearest(wide, centres)[0].mean()),
        ):
            np.testing.assert_allclose(found, true, rtol=1e-6)
        assert evaluate.diagnose(x, og.latent.Normal()).norm[1] == pytest.approx(float(jnp.abs(wide).std()), rel=1e-5)


def big(array):
    return array.astype(array.dtype.newbyteorder(">"))


FACTORS = np.stack(np.meshgrid([0, 1, 2], [0, 1]), -1).reshape(-1, 2).repeat(10, 0)
VALUES = FACTORS + RNG.normal(size=FACTORS.shape)
WRITTEN = {
    "ambiguous_rate": (evaluate.ambiguous_rate, LOGITS[:50].astype(np.float32)),
    "predicted_labels": (evaluate.predicted_labels, LOGITS[:50].astype(np.float32)),
    "class_histogram": (lambda labels: evaluate.class_histogram(labels, 3), FACTORS[:, 0]),
    "mig": (lambda codes: evaluate.mig(codes, big(FACTORS)).score, VALUES),
    "sap": (lambda codes: evaluate.sap(codes, big(FACTORS), continuous=True).score, VALUES),
    "nmi": (lambda codes: evaluate.nmi(codes, big(FACTORS[:, 1])), FACTORS[:, 0]),
    "neighbour_scores": (lambda x: evaluate.neighbour_scores(x, x), CLOUD),
    "nearest_label": (lambda x: evaluate.nearest_label(x, x, big(FACTORS[:, 0]), 3), CLOUD),
    "mode_scores": (lambda x: evaluate.mode_scores(x, x[:3], 1.0), CLOUD),
    "over_seeds": (lambda x: evaluate.over_seeds(x).value, CLOUD),
    "bootstrap": (lambda x: evaluate.bootstrap(KEY, statistic, x, repeats=2).value, CLOUD),
    "pixels": (evaluate.pixels, CLOUD.reshape(60, 8, 8, 1)),
    "check_images": (lambda x: check_images(x, "real"), CLOUD.reshape(60, 8, 8, 1)),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_big_endian_arrays_are_read_right(name):
    function, array = WRITTEN[name]
    for found, true in zip(jax.tree.leaves(function(big(array))), jax.tree.leaves(function(array)), strict=True):
        np.testing.assert_array_equal(found, true)


def test_scores_of_float32_in_float64_mode(x64):
    assert evaluate.nearest(CLOUD, OTHER)[0].dtype == jnp.float32
    assert evaluate.mode_scores(CLOUD, OTHER[:3], 10.0).within_sd.dtype == jnp.float32


def refused():
    nan = np.full((3, 2), np.nan)
    two = np.ones((4, 2))
    e = evaluate
    yield lambda: e.mode_scores(nan, two, 1.0), "NaN"
    yield lambda: e.mode_scores(two, two, -1.0), "positive"
    yield lambda: e.mode_scores(two, np.ones((2, 3)), 1.0), "columns"
    yield lambda: e.mode_scores(two[0], two, 1.0), "rows"
    yield lambda: e.distinct_modes(np.array([0, 1]), 2.0), "whole number"
    yield lambda: e.distinct_modes(np.array([0, 5]), 2), "0 to 1"
    yield lambda: e.stacked_labels(lambda x: x, np.zeros((2, 3, 28, 28))), "channels first"
    yield lambda: e.nearest(two, np.ones((4, 3))), "columns"
    yield lambda: e.nearest(two, two, 5), "candidates"
    yield lambda: e.nearest(two, two, 1.5), "whole number"
    yield lambda: e.neighbour_scores(two, two, k=-1), "whole number"
    yield lambda: e.neighbour_scores(CLOUD, CLOUD, k=3.0), "whole number"
    yield lambda: e.density_coverage(two, two, 4), "needed"
    yield lambda: e.memorisation(two, two, test_distance=np.array([1.0, np.nan])), "NaN"
    yield lambda: e.memorisation(two, two, test_distance=np.array([1.0, -3.0])), "negative"
    yield lambda: e.nearest_label(two, two, [0, 1, 0], 2), "one for each"
    yield lambda: e.nearest_label(two, two, [0, 1, 0, 2], 2), "0 to 1"
    yield lambda: e.nearest_label(two, two, [0.0, 1.0, 0.0, 1.0], 2), "integers"
    yield lambda: e.predicted_labels(nan), "NaN"
    yield lambda: e.predicted_labels(np.array([0.5, 1.0])), "whole numbers"
    yield lambda: e.predicted_labels(np.ones((2, 2, 2))), "logits"
    yield lambda: e.class_histogram(np.array([0, 7]), 3), "0 to 2"
    yield lambda: e.class_histogram(np.array([], int), 3), "n >= 1"
    yield lambda: e.class_counts(np.array([0, 1]), -3), "whole number"
    yield lambda: e.total_variation(np.ones(3) / 3, np.ones(2) / 2), "same classes"
    yield lambda: e.total_variation(np.ones(3), np.ones(3)), "sum to 1"
    yield lambda: e.ambiguous_rate(two[0]), "shape"
    yield lambda: e.ambiguous_rate(nan), "NaN"
    yield lambda: e.ambiguous_rate(two, 1.5), "from 0 to 1"
    yield lambda: e.mixture_rate(two, two, [0, 1, 0, 1], two, level=1.5), "between 0 and 1"
    yield lambda: e.mixture_rate(two, two, [0.0, 1.0, 0.0, 1.0], two), "integers"
    yield lambda: e.mig(two, two), "integers"
    yield lambda: e.mig(VALUES, FACTORS, bins=0), "whole number"
    yield lambda: e.mig(np.ma.masked_array(VALUES), FACTORS), "masked"
    yield lambda: e.mig(VALUES[:, :0], FACTORS), "rows of both"
    yield lambda: e.dci(VALUES, FACTORS, trees=1.5), "whole number"
    yield lambda: e.nmi(np.array([0.0, np.nan]), np.array([0, 1])), "NaN"
    yield lambda: e.nmi(np.ma.masked_array([0, 1]), np.array([0, 1])), "masked"
    yield lambda: e.matched_accuracy(np.zeros((2, 2)), np.zeros((2, 2))), "vectors"
    yield lambda: e.factor_vae(0, lambda f: f, (2, 2)), "key"
    yield lambda: e.factor_vae(KEY, lambda f: f, (2, 2), num_train=2.5), "whole number"
    yield lambda: e.factor_vae(KEY, lambda f: f, (2, 2), least_sd=-1.0), "zero or more"
    yield lambda: e.beta_vae(KEY, lambda f: f, (2, 2.5)), "whole number"
    yield lambda: e.disentanglement(0, lambda f: f, (2, 2)), "key"
    yield lambda: e.over_seeds(np.ones(3), level=np.ones(2)), "between 0 and 1"
    yield lambda: e.over_seeds(np.ma.masked_array([1.0, 2.0])), "masked"
    yield lambda: e.bootstrap(0, statistic, CLOUD), "key"
    yield lambda: e.bootstrap(KEY, statistic, CLOUD, repeats=2.5), "whole number"
    yield lambda: e.bootstrap(KEY, statistic, CLOUD, method="normal"), "choose one"
    yield lambda: e.diagnose(nan, og.latent.Normal()), "NaN"
    yield lambda: e.diagnose(np.full((9, 2), np.inf), og.latent.Normal()), "infinite"
    yield lambda: e.diagnose(CLOUD, "normal"), "give a law of latents"
    yield lambda: e.diagnose(CLOUD[0], og.latent.Normal(), path=True), "at least 8"
    yield lambda: e.diagnose(CLOUD, og.latent.Normal(loc=np.zeros(3))), "do not go together"
    yield lambda: e.pixels(np.zeros((2, 3, 8, 8))), "channels first"
    yield lambda: check_images(np.zeros((2, 3, 8, 8))), "channels first"
    yield lambda: check_images(np.zeros((2, 1, 28, 28), np.uint8)), "moveaxis"
    yield lambda: og.plot.image_grid(np.zeros((2, 3, 8, 8))), "channels first"
    yield lambda: og.plot.image_grid(np.zeros((2, 8, 8, 3)), columns=1.5), "whole number"


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


def test_images_of_few_rows_keep_their_place():
    assert check_images(np.zeros((2, 3, 8, 3))).shape == (2, 3, 8, 3)
    assert check_images(np.zeros((2, 4, 4, 2))).shape == (2, 4, 4, 2)
