import itertools

import jax
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from otgen.data import sprites
from otgen.eval import disentangle, information, interventions

SIZES = (3, 4, 5)
ORDER, SCALE, SHIFT = [2, 0, 1], np.array([1.5, -0.7, 2.0]), np.array([3.0, 0.0, -1.0])
FEW = {"num_train": 600, "num_eval": 300}


def perfect(factors):
    """Each code is one factor: in another order, scale and origin."""
    return factors[:, ORDER] * SCALE + SHIFT


def full_grid(repeat=10):
    """Every combination of the factors equally often, in random order."""
    grid = np.array(list(itertools.product(*map(range, SIZES))))
    return np.random.default_rng(0).permutation(np.repeat(grid, repeat, axis=0))


@pytest.fixture(scope="module")
def grid():
    factors = full_grid()
    return perfect(factors), factors


@pytest.fixture(scope="module")
def unrelated():
    rng = np.random.default_rng(1)
    return rng.normal(size=(3000, 4)), rng.integers(0, SIZES, (3000, 3))


def test_information_against_scikit_learn():
    rng = np.random.default_rng(0)
    for a, b in [(2, 2), (5, 9), (1, 4), (1, 1), (40, 3)]:
        codes, labels = rng.integers(0, a, 300), rng.integers(0, b, 300) - 7
        codes = np.where(rng.random(300) < 0.4, labels % a, codes)
        assert information.mutual_information(codes, labels) == pytest.approx(
            metrics.mutual_info_score(labels, codes), abs=1e-12
        )
        assert information.nmi(codes, labels) == pytest.approx(
            metrics.normalized_mutual_info_score(labels, codes), abs=1e-12
        )
        assert information.entropy(labels) == pytest.approx(metrics.mutual_info_score(labels, labels), abs=1e-12)


def test_mutual_information_of_independent_labels_is_its_bias():
    rng = np.random.default_rng(0)
    a, b, num, times = 8, 6, 2000, 50
    found = [information.mutual_information(rng.integers(0, a, num), rng.integers(0, b, num)) for _ in range(times)]
    freedom = (a - 1) * (b - 1)  # 2 n MI is close to chi-squared
    assert np.mean(found) == pytest.approx(freedom / (2 * num), abs=4 * np.sqrt(2 * freedom / times) / (2 * num))


@pytest.mark.parametrize(("num_codes", "num_labels"), [(4, 4), (5, 3), (3, 5)])
def test_matched_accuracy_against_all_permutations(num_codes, num_labels):
    rng = np.random.default_rng(num_codes)
    labels = rng.integers(0, num_labels, 200)
    codes = np.where(rng.random(200) < 0.5, (labels + 1) % num_codes, rng.integers(0, num_codes, 200))
    names = range(max(num_codes, num_labels))
    best = max(np.mean(np.array(naming)[codes] == labels) for naming in itertools.permutations(names))
    assert information.matched_accuracy(codes, labels) == pytest.approx(best, abs=1e-12)


def test_matched_accuracy_of_names_is_one():
    names = np.array(["a", "b", "c"])[np.arange(30) % 3]
    assert information.matched_accuracy((np.arange(30) + 1) % 3, names) == 1
    assert information.nmi(names, np.arange(30) % 3) == pytest.approx(1, abs=1e-12)


def test_discretise_against_a_histogram():
    codes = np.random.default_rng(0).normal(size=(500, 3))
    bins = information.discretise(codes)
    for column, code in zip(bins.T, codes.T, strict=True):
        np.testing.assert_array_equal(np.bincount(column, minlength=20), np.histogram(code, 20)[0])
    assert len(np.unique(information.discretise(np.full((9, 1), 0.1)))) == 1
    twenty = np.arange(20)[:, None] * 0.3 - 1
    assert len(np.unique(information.discretise(twenty))) == 20


def test_perfect_codes_have_the_best_sample_scores(grid):
    codes, factors = grid
    gap = disentangle.mig(codes, factors)
    np.testing.assert_allclose(gap.per_factor, 1, atol=1e-6)
    assert gap.score == pytest.approx(1, abs=1e-6)
    assert disentangle.modularity(codes, factors) == pytest.approx(1, abs=1e-6)
    assert disentangle.sap(codes, factors, continuous=True).score == pytest.approx(1, abs=1e-6)
    trained = disentangle.dci(codes, factors, trees=5)
    assert trained.disentanglement > 0.999
    assert trained.completeness > 0.999
    assert trained.informativeness == 1
    assert trained.importance.argmax(0).tolist() == np.argsort(ORDER).tolist()


def mixed(factors):
    """Every code has something of every factor."""
    weights = np.random.default_rng(3).normal(size=(3, 4))
    return (factors - (np.array(SIZES) - 1) / 2) @ weights


def test_scores_of_mixed_codes_against_their_definitions():
    factors = full_grid()
    codes = mixed(factors) + np.random.default_rng(0).normal(size=(len(factors), 4))
    gaps = []
    for factor in factors.T:
        known = [metrics.mutual_info_score(factor, np.digitize(x, np.histogram(x, 20)[1][:-1])) for x in codes.T]
        second, first = sorted(known)[-2:]
        gaps.append((first - second) / stats.entropy(np.bincount(factor)))
    np.testing.assert_allclose(disentangle.mig(codes, factors).per_factor, gaps, atol=1e-12)
    trained = disentangle.dci(codes, factors, trees=3)
    importance = trained.importance
    pure = 1 - stats.entropy(importance.T, base=3)
    whole = 1 - stats.entropy(importance, base=4)
    assert trained.disentanglement == pytest.approx(pure @ importance.sum(1) / importance.sum(), abs=1e-9)
    assert trained.completeness == pytest.approx(whole @ importance.sum(0) / importance.sum(), abs=1e-9)
    correlation = np.corrcoef(codes.T, factors.T)[:4, 4:] ** 2
    np.testing.assert_allclose(disentangle.sap(codes, factors, continuous=True).matrix, correlation, atol=1e-12)


def test_factor_vae_against_a_plain_loop(key):
    rng, batch, num = np.random.default_rng(5), 5, 1500
    variance = mixed(rng.integers(0, SIZES, (20_000, 3))).var(0)
    votes = np.zeros((3, 4))
    for _ in range(num):
        factors, fixed = rng.integers(0, SIZES, (batch, 3)), rng.integers(3)
        factors[:, fixed] = rng.integers(SIZES[fixed])
        votes[fixed, np.argmin(mixed(factors).var(0) / variance)] += 1
    loop = votes.max(0).sum() / num
    found = interventions.factor_vae(key, mixed, SIZES, num_train=2 * num, num_eval=num, batch=batch)
    assert 0.4 < loop < 0.95
    assert found.score == pytest.approx(loop, abs=4 * np.sqrt(2 * 0.25 / num))
    assert found.train == pytest.approx(loop, abs=4 * np.sqrt(2 * 0.25 / num))


def test_sap_of_two_values_is_a_half():
    factors = np.random.default_rng(0).integers(0, 2, (3000, 2))
    gap = disentangle.sap(factors * [3.0, -2.0], factors)
    np.testing.assert_array_equal(np.diag(gap.matrix), 1)
    assert gap.score == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / 1000))


def test_explicitness_is_one_where_values_are_linearly_separable(unrelated):
    factors = np.random.default_rng(0).integers(0, SIZES, (900, 3))
    codes = np.concatenate([np.eye(size)[factor] for size, factor in zip(SIZES, factors.T, strict=True)], axis=1)
    assert disentangle.explicitness(codes, factors) == pytest.approx(1, abs=1e-9)
    assert disentangle.explicitness(*unrelated) == pytest.approx(0.5, abs=0.04)


def test_unrelated_codes_have_no_gap_beyond_bias(unrelated):
    codes, factors = unrelated
    gap = disentangle.mig(codes, factors)
    bias = 19 * (np.array(SIZES) - 1) / (2 * len(codes))  # an upper bound: not all bins are used
    assert np.all(gap.matrix * np.log(SIZES) < 2 * bias)
    assert gap.score < 0.01
    assert disentangle.sap(codes, factors).score < 0.05
    assert disentangle.sap(codes, factors, continuous=True).score < 16 / len(codes)
    trained = disentangle.dci(codes[:900], factors[:900], trees=5)
    assert trained.disentanglement < 0.2
    assert trained.completeness < 0.2
    assert trained.informativeness == pytest.approx(np.mean(1 / np.array(SIZES)), abs=4 * np.sqrt(0.2 / 300 / 3))


def test_a_second_code_for_a_factor_closes_its_gap_alone(grid):
    codes, factors = grid
    twice = np.concatenate([codes, -2 * codes[:, :1]], axis=1)  # code 0 carries factor 2
    np.testing.assert_allclose(disentangle.mig(twice, factors).per_factor, [1, 1, 0], atol=1e-6)
    gap = disentangle.sap(twice, factors, continuous=True)
    np.testing.assert_allclose(gap.per_factor, [1, 1, 0], atol=1e-6)
    noise = 0.1 * np.random.default_rng(0).normal(size=(len(codes), 2))
    blurred = np.concatenate([codes[:, 1:], codes[:, :1] + noise], axis=1)  # neither copy better: trees use both
    trained = disentangle.dci(blurred, factors, trees=5)
    assert trained.disentanglement > 0.95
    assert trained.completeness < 0.95


def test_rotation_lowers_every_score(key):
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    centre = (np.array(SIZES) - 1) / 2

    def rotated(factors):
        return (factors - centre) / np.std([0, 1, 2]) @ turn

    numbers = {**FEW, "batch": 16, "trees": 5, "continuous": True}
    whole = disentangle.disentanglement(key, perfect, SIZES, **numbers)
    mixed = disentangle.disentanglement(key, rotated, SIZES, **numbers)
    assert set(whole) == set(mixed)
    for name in set(whole) - {"explicitness"}:  # which asks only for linear decoding, and a rotation is linear
        assert mixed[name] < whole[name] - 0.01, name
    assert whole["factor_vae"] == whole["beta_vae"] == 1
    assert mixed["explicitness"] == pytest.approx(whole["explicitness"], abs=0.02)


def test_fixed_factor_scores_of_codes_that_know_nothing_are_chance(key):
    rng = np.random.default_rng(0)
    sizes, numbers = (4, 4, 4, 4), {"num_train": 2000, "num_eval": 1000, "batch": 16}

    def noise(factors):
        return rng.normal(size=(len(factors), 6))

    chance = pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / 1000))
    assert interventions.factor_vae(key, noise, sizes, num_variance=1000, **numbers).score == chance
    assert interventions.beta_vae(key, noise, sizes, **numbers).score == chance


def test_factor_vae_ignores_dead_codes_and_needs_one_alive(key):
    def with_dead(factors):
        return np.concatenate([perfect(factors), np.zeros((len(factors), 2))], axis=1)

    assert interventions.factor_vae(key, with_dead, SIZES, **FEW).score == 1
    assert interventions.factor_vae(key, lambda f: np.zeros((len(f), 2)), SIZES, **FEW) == (0, 0)


def test_one_live_code_names_one_factor(key):
    def blind(factors):  # every batch votes for the one live code
        return factors[:, :1].astype(float)

    score = interventions.factor_vae(key, blind, SIZES, num_train=2000, num_eval=1000, batch=16).score
    assert score == pytest.approx(1 / 3, abs=4 * np.sqrt(2 / 9 / 1000))


def test_a_grid_of_codes_serves_as_encoder(key):
    everything = np.array(list(itertools.product(*map(range, SIZES))))
    codes_of = interventions.on_grid(perfect(everything), SIZES)
    np.testing.assert_array_equal(codes_of(everything[::-1]), perfect(everything[::-1]))
    direct, table = (interventions.beta_vae(key, f, SIZES, **FEW) for f in (perfect, codes_of))
    assert direct == table
    with pytest.raises(ValueError, match="60 rows"):
        interventions.on_grid(np.zeros((59, 2)), SIZES)


def test_more_values_than_bins_bound_the_gap():
    factors = np.stack([np.arange(4000) % 40, np.arange(4000) // 40 % 5], axis=1)
    gap = disentangle.mig(factors.astype(float), factors)
    np.testing.assert_allclose(gap.per_factor, [np.log(20) / np.log(40), 1], atol=1e-6)
    assert disentangle.mig(factors.astype(float), factors, bins=40).score == pytest.approx(1, abs=1e-6)


def test_rendered_sprites_go_through_an_encoder(key):
    def centres(factors):  # a code of two coordinates read off the image: knows positions, little else
        images = sprites.render(factors)[..., 0] > 0
        grid = np.arange(64)
        x, y = images.sum(1) @ grid, images.sum(2) @ grid
        return np.stack([x, y], axis=1) / images.sum((1, 2))[:, None]

    codes, factors = interventions.sample(key, centres, sprites.SIZES, 1000)
    best = disentangle.sap(codes, factors, continuous=True)
    assert best.per_factor[3:].min() > 0.95
    assert best.per_factor[:3].max() < 0.05


@pytest.mark.parametrize(
    ("codes", "factors", "message"),
    [
        (np.zeros((9, 2)), np.zeros((8, 2), int), "rows of both together"),
        (np.zeros((9, 2)), np.zeros((9, 2)), "give the index"),
        (np.zeros((9, 2)), np.zeros((9, 2), int), "factor 0 has one value"),
        (np.full((9, 2), np.nan), np.arange(9)[:, None], "NaN or infinite"),
    ],
)
def test_wrong_samples_are_refused(codes, factors, message):
    with pytest.raises(ValueError, match=message):
        disentangle.mig(codes, factors)


@pytest.mark.parametrize("change", [{"batch": 1}, {"num_variance": 1}, {"num_eval": 0}, {"sizes": (1, 4)}])
def test_numbers_too_small_to_score_are_refused(key, change):
    arguments = {"sizes": (3, 4), "num_train": 10, "num_eval": 10, "num_variance": 10, **change}
    with pytest.raises(ValueError, match="give"):
        interventions.factor_vae(key, lambda factors: np.asarray(factors, float), **arguments)


def test_wrong_encoders_are_refused():
    with pytest.raises(ValueError, match=r"return codes \[n, d\]"):
        interventions.sample(jax.random.key(0), lambda f: f[:, 0], SIZES, 10)
    with pytest.raises(ValueError, match="at least two factors"):
        disentangle.modularity(np.arange(9.0)[:, None], np.arange(9)[:, None])


@pytest.mark.slow
def test_perfect_codes_of_sprites_at_the_published_sizes(key):
    shape = np.array(sprites.SIZES)

    def codes_of(factors):
        return (factors / shape)[:, ::-1]

    assert interventions.factor_vae(key, codes_of, sprites.SIZES).score == 1
    assert interventions.beta_vae(key, codes_of, sprites.SIZES).score == 1
    codes, factors = interventions.sample(key, codes_of, sprites.SIZES, 15_000)
    shares = [np.histogram(np.arange(size), 20)[0] / size for size in sprites.SIZES]
    expected = [-(p[p > 0] * np.log(p[p > 0])).sum() / np.log(size) for p, size in zip(shares, shape, strict=True)]
    found = disentangle.mig(codes, factors).per_factor
    np.testing.assert_allclose(found, expected, atol=20 * 39 / 15_000 / np.log(40))  # twice the bias of the second best
    assert disentangle.sap(codes, factors).score == pytest.approx(0.18, abs=0.02)
