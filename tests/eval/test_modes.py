import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.neighbors import KNeighborsClassifier

from otgen import data
from otgen import eval as evaluate
from otgen.data import stacked, toy
from otgen.eval import classes, features, modes


def test_mode_scores_of_true_gaussians_and_of_planted_faults(key):
    centres, deviation = toy.centres_of("twenty_five_gaussians")
    num = 20_000
    true = evaluate.mode_scores(toy.twenty_five_gaussians(key, num), centres, deviation)
    assert int(true.modes) == 25
    assert float(true.share_3sd) == pytest.approx(0.98889, abs=4 * np.sqrt(0.989 * 0.011 / num))
    assert float(true.reverse_kl) < 4 * 24 / (2 * num)
    collapsed = evaluate.mode_scores(centres[:5][jnp.arange(1000) % 5], centres, deviation)
    assert int(collapsed.modes) == 5
    assert float(collapsed.within_sd) == 0
    assert float(collapsed.reverse_kl) == pytest.approx(np.log(5), rel=1e-4)
    between = evaluate.mode_scores(centres + 1.0, centres, deviation)
    assert float(between.share_4sd) == 0


@pytest.mark.parametrize("num", [2000, 10_000])
def test_a_uniform_sampler_shows_the_modes_it_should(num):
    """The variance of the number of occupied modes, and the spread of the divergence, are those of theory."""
    total, runs = 1000, 40
    random = np.random.default_rng(num)
    scores = [modes.distinct_modes(random.integers(0, total, num), total) for _ in range(runs)]
    missed, both = (1 - 1 / total) ** num, (1 - 2 / total) ** num
    assert scores[0].expected == pytest.approx(total * (1 - missed), rel=1e-12)
    sigma = np.sqrt(total * (total - 1) * both + total * missed - (total * missed) ** 2)
    seen = np.array([score.modes for score in scores])
    assert abs(seen.mean() - scores[0].expected) < 4 * sigma / np.sqrt(runs)
    assert np.abs(seen - scores[0].expected).max() < max(5 * sigma, 2)
    kl = np.array([score.reverse_kl for score in scores])
    assert abs(kl.mean() - scores[0].kl_floor) < 4 * kl.std(ddof=1) / np.sqrt(runs)
    assert kl.std(ddof=1) == pytest.approx(np.sqrt((total - 1) / 2) / num, rel=0.5)  # 2 n KL is nearly chi-square
    assert scores[0].kl_floor == pytest.approx((total - 1) / (2 * num), rel=0.15)


def test_half_of_the_modes_cost_log_two():
    half = modes.distinct_modes(2 * np.random.default_rng(0).integers(0, 500, 10_000), 1000)
    assert half.modes == 500
    floor = modes.distinct_modes(np.zeros(10_000, int), 500).kl_floor
    assert half.reverse_kl == pytest.approx(np.log(2) + floor, abs=5 * np.sqrt(499 / 2) / 10_000)


def test_distinct_modes_of_unequal_weights_against_every_outcome():
    """Four samples of three modes: all 81 outcomes with their probabilities."""
    weights = np.array([0.5, 0.3, 0.2])
    outcomes = np.stack(np.meshgrid(*[np.arange(3)] * 4), -1).reshape(-1, 4)
    probability = weights[outcomes].prod(1)
    scores = [modes.distinct_modes(outcome, 3, 10 * weights) for outcome in outcomes]
    assert probability @ [score.modes for score in scores] == pytest.approx(scores[0].expected, rel=1e-12)
    assert probability @ [score.reverse_kl for score in scores] == pytest.approx(scores[0].kl_floor, rel=1e-12)
    share = np.bincount(outcomes[5], minlength=3) / 4
    assert scores[5].reverse_kl == pytest.approx(stats.entropy(share, weights), rel=1e-12)


def test_modes_of_weight_zero():
    assert modes.distinct_modes(np.array([0, 1, 2]), 3, np.array([1, 1, 0])).reverse_kl == np.inf
    clean = modes.distinct_modes(np.array([0, 1, 1, 0]), 3, np.array([1, 1, 0]))
    assert clean.reverse_kl == 0
    assert clean.expected == pytest.approx(2 * (1 - 0.5**4))


def test_labels_out_of_range_are_refused():
    for labels in ([0, 10], [-1, 3], [0.0, 1.0], [], [[1], [2]]):
        with pytest.raises(ValueError, match="labels"):
            modes.distinct_modes(np.array(labels), 10)
    with pytest.raises(ValueError, match="weights has shape"):
        modes.distinct_modes(np.arange(2), 10, np.ones(9))


def test_stacked_labels_of_a_classifier_that_reads_the_mean():
    digits = np.random.default_rng(0).integers(0, 10, (30, 3))
    images = np.broadcast_to(digits[:, None, None], (30, 4, 4, 3)).astype(np.float32)
    want = digits @ [100, 10, 1]

    def labels(channel):
        return channel.mean((1, 2, 3)).astype(int)

    np.testing.assert_array_equal(modes.stacked_labels(labels, images), want)
    np.testing.assert_array_equal(modes.stacked_labels(lambda x: 5.0 * np.eye(10)[labels(x)], images), want)
    with pytest.raises(ValueError, match="height, width, 3"):
        modes.stacked_labels(labels, images[..., :1])


@pytest.mark.slow
def test_lenet_reads_stacked_digits(data_dir, tmp_path):
    classify = features.digit_classifier(data_dir)
    mnist = data.load("mnist", "test", data_dir, cache_dir=tmp_path)
    right = np.mean(np.asarray(classify(mnist.images)).argmax(1) == mnist.labels)
    test = data.load("stacked_mnist", "test", data_dir, cache_dir=tmp_path)
    labels = modes.stacked_labels(classify, test.images)
    agree = np.mean(labels == test.labels)
    assert right > 0.97
    # The stacks draw from the very images that `right` was measured on: only their composition is random.
    assert agree == pytest.approx(right**3, abs=4 * np.sqrt(right**3 * (1 - right**3) / len(labels)))
    score = modes.distinct_modes(labels, 1000, stacked.mode_weights(mnist.labels))
    assert score.modes >= score.expected - 3
    assert score.reverse_kl == pytest.approx(score.kl_floor, abs=5 * np.sqrt(999 / 2) / len(labels) + 0.005)


def test_digit_classes_by_neighbours():
    train, test = data.load("digits", "train"), data.load("digits", "test")
    guess = evaluate.nearest_label(
        evaluate.pixels(test.images / 255.0), evaluate.pixels(train.images / 255.0), train.labels, 10
    )
    assert float(np.mean(np.asarray(guess) == test.labels)) > 0.97
    shares = evaluate.class_histogram(guess, 10)
    assert float(shares.sum()) == pytest.approx(1)
    assert float(evaluate.total_variation(shares, jnp.eye(10)[0])) == pytest.approx(1 - float(shares[0]), abs=1e-6)
    judge = KNeighborsClassifier(5).fit(train.images.reshape(-1, 64), train.labels)
    assert np.mean(judge.predict(test.images.reshape(-1, 64)) == np.asarray(guess)) > 0.99  # ties may differ


def test_class_test_against_scipy():
    random = np.random.default_rng(0)
    weights = np.array([3.0, 1, 2, 4, 2])
    labels = random.choice(5, 400, p=[0.3, 0.1, 0.1, 0.3, 0.2])
    counts, other = np.bincount(labels, minlength=5), random.multinomial(700, weights / 12)
    one, two = classes.class_test(labels, 5, weights), classes.class_test(labels, 5, counts=other)
    want = stats.chisquare(counts, 400 * weights / 12)
    assert one[:3] == pytest.approx((want.statistic, want.pvalue, 4), rel=1e-10)
    assert one.least_expected == pytest.approx(400 / 12)
    want = stats.chi2_contingency(np.stack([counts, other]), correction=False)
    assert two[:3] == pytest.approx((want.statistic, want.pvalue, 4), rel=1e-10)
    assert two.least_expected == pytest.approx(want.expected_freq.min())
    assert two.total_variation == pytest.approx(0.5 * np.abs(counts / 400 - other / 700).sum(), rel=1e-12)
    uniform = classes.class_test(jnp.asarray(labels), 5)
    assert uniform.p_value == pytest.approx(stats.chisquare(counts).pvalue, rel=1e-10)


def test_class_test_rejects_as_often_as_it_says():
    random, runs = np.random.default_rng(1), 1000
    weights, other = np.array([0.3, 0.3, 0.2, 0.1, 0.1]), np.array([0.26, 0.3, 0.2, 0.1, 0.14])
    draws = random.choice(5, (runs, 500), p=weights)
    level = 4 * np.sqrt(0.05 * 0.95 / runs)
    one = [classes.class_test(labels, 5, weights).p_value < 0.05 for labels in draws]
    assert np.mean(one) == pytest.approx(0.05, abs=level)
    two = [
        classes.class_test(labels, 5, counts=random.multinomial(300, weights)).p_value < 0.05 for labels in draws[:400]
    ]
    assert np.mean(two) == pytest.approx(0.05, abs=level * np.sqrt(runs / 400))
    power = np.mean([classes.class_test(labels, 5, other).p_value < 0.05 for labels in draws[:400]])
    shift = 500 * np.sum((weights - other) ** 2 / other)
    assert power == pytest.approx(stats.ncx2.sf(stats.chi2.isf(0.05, 4), 4, shift), abs=0.12)


def test_class_test_leaves_empty_classes_out():
    labels = np.repeat([0, 2], [30, 50])
    left_out = classes.class_test(labels, 4, np.array([1, 0, 1, 0]))
    assert left_out[:3] == pytest.approx((*stats.chisquare([30, 50]), 1))
    impossible = classes.class_test(labels, 4, np.array([1, 0, 0, 1]))
    assert impossible[:2] == (np.inf, 0)
    both = classes.class_test(labels, 4, counts=np.array([10, 0, 40, 0]))
    want = stats.chi2_contingency([[30, 50], [10, 40]], correction=False)
    assert both[:3] == pytest.approx((want.statistic, want.pvalue, 1))
    assert classes.class_test(np.array([1, 1]), 2, np.array([0, 3]))[:3] == (0, 1, 0)
    with pytest.raises(ValueError, match="not both"):
        classes.class_test(labels, 4, np.ones(4), counts=np.ones(4))


def test_ambiguous_rate_of_known_probabilities():
    top = jnp.array([0.99, 0.95, 0.85, 0.6, 0.905])
    logits = jnp.log(jnp.stack([top, (1 - top) / 2, (1 - top) / 2], axis=1)) + jnp.arange(5.0)[:, None]
    assert float(classes.ambiguous_rate(logits)) == pytest.approx(0.4)
    assert float(classes.ambiguous_rate(np.asarray(logits), 0.5)) == 0


def test_mixture_score_against_a_plain_loop(key):
    known = np.asarray(jax.random.normal(key, (150, 3)), np.float64)
    points = np.asarray(2 * jax.random.normal(jax.random.key(1), (80, 3)), np.float64)
    labels = np.random.default_rng(0).choice([0, 1, 4], 150, p=[0.6, 0.3, 0.1])  # classes 2 and 3 are absent
    want = []
    for x in points:
        best = sorted(min((np.linalg.norm(x - y), i) for i, y in enumerate(known) if labels[i] == c) for c in (0, 1, 4))
        (first, p), (second, q) = best[:2]
        want.append(first / second if second < np.linalg.norm(known[p] - known[q]) else 0)
    got = classes.mixture_score(points + 1000.0, known + 1000.0, labels)
    np.testing.assert_allclose(got, want, atol=2e-3)
    np.testing.assert_allclose(classes.mixture_score(points, known, labels), want, rtol=1e-5)
    assert 0.1 < np.mean(np.array(want) > 0) < 0.9


def two_clusters(random, num, dim=10, apart=12.0):
    labels = np.arange(num) % 2
    points = random.normal(size=(num, dim))
    points[:, 0] += apart * labels
    return points, labels


@pytest.mark.parametrize("share", [0.0, 0.05, 0.4])
def test_planted_midpoints_are_found(share):
    random, num = np.random.default_rng(int(100 * share)), 2000
    known, labels = two_clusters(random, num)
    held_out, _ = two_clusters(random, num)
    samples, of = two_clusters(random, num)
    low, high = (samples[of == c] for c in (0, 1))
    mixed = random.random(num) < share
    samples[mixed] = (random.permutation(low)[: mixed.sum()] + random.permutation(high)[: mixed.sum()]) / 2
    rate = classes.mixture_rate(samples, known, labels, held_out)
    assert rate.held_out == pytest.approx(0.05, abs=1e-9)
    assert rate.excess == pytest.approx(mixed.mean(), abs=4 * rate.error)
    assert rate.error < 0.013
    if share == 0.4:  # the neighbours' labels are no substitute: most midpoints have neighbours of one class
        neighbours = labels[np.argsort(cdist(samples[mixed], known), 1)[:, :5]]
        assert np.mean(neighbours.min(1) != neighbours.max(1)) < 0.6


def test_outliers_are_not_mixtures():
    """Beside the classes rather than between them: the ratio of distances alone would flag nearly all."""
    random, num = np.random.default_rng(5), 2000
    (known, labels), (held_out, _) = two_clusters(random, num), two_clusters(random, num)
    far = 30 * random.normal(size=(num, 10))
    assert classes.mixture_rate(far, known, labels, held_out).rate < 0.01
    to_class = np.stack([cdist(far, known[labels == c]).min(1) for c in (0, 1)])
    assert np.mean(to_class.min(0) / to_class.max(0) > 0.7) > 0.9


def test_mixtures_of_digits():
    """Halfway between two images of different classes, in pixels; real images are not flagged beyond the level."""
    train, test = data.load("digits", "train"), data.load("digits", "test")
    known, rest = train.images.reshape(-1, 64) / 255.0, test.images.reshape(-1, 64) / 255.0
    held_out, real, of = rest[:180], rest[180:], test.labels[180:]
    random = np.random.default_rng(0)
    a, b = random.integers(0, 180, (2, 400))
    different = np.flatnonzero(of[a] != of[b])[:180]
    mixed = classes.mixture_rate((real[a] + real[b])[different] / 2, known, train.labels, held_out)
    true = classes.mixture_rate(real, known, train.labels, held_out)
    assert mixed.excess > 0.75
    assert abs(true.excess) < 4 * true.error
    assert 0.02 < true.error < 0.03


def test_mixture_rate_says_what_it_needs():
    x = np.eye(4)
    with pytest.raises(ValueError, match="one class only"):
        classes.mixture_rate(x, x, np.zeros(4, int), x)
    with pytest.raises(ValueError, match="level = 5"):
        classes.mixture_rate(x, x, np.arange(4), x, level=5.0)
    with pytest.raises(ValueError, match="one for each of the 4"):
        classes.mixture_score(x, x, np.arange(3))
    with pytest.raises(ValueError, match="both or neither"):
        classes.mixture_rate(x, x, np.arange(4))
    with pytest.raises(ValueError, match="both or neither"):
        classes.mixture_rate(x, x, np.arange(4), x, held_out_score=np.zeros(3))
    with pytest.raises(ValueError, match="empty"):
        classes.mixture_rate(x, x, np.arange(4), held_out_score=np.zeros(0))
    with pytest.raises(ValueError, match="3 columns, known ones 4"):
        classes.mixture_score(x[:, :3], x, np.arange(4))


def test_mixture_rate_of_scores_known_before(key):
    samples, known, held_out = jax.random.normal(key, (3, 50, 2))
    labels = np.arange(50) % 3
    want = classes.mixture_rate(samples, known, labels, held_out)
    score = classes.mixture_score(held_out, known, labels)
    assert classes.mixture_rate(samples, known, labels, held_out_score=score) == want
