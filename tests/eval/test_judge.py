import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from otgen import data
from otgen import eval as evaluate
from otgen.data import toy
from otgen.eval import judge as judging
from otgen.nn import to_unit
from otgen.ot.gaussian import frechet_distance

DIGITS = [data.load("digits", split) for split in ("train", "test")]
TRAIN, TEST = (data.Dataset(part.images[:300], part.labels[:300]) for part in DIGITS)
NEW = np.asarray(to_unit(DIGITS[0].images[300:400]))
POINTS = [toy.eight_gaussians(key, 200) for key in jax.random.split(jax.random.key(0), 3)]


@pytest.fixture(scope="module")
def judge():
    return evaluate.Judge("digits", TRAIN, TEST, num=100)


@pytest.fixture
def as_users_call_it():
    """Without the checks of shapes and types that the other tests run under."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.slow
def test_images_without_classes_are_scored_on_the_rest(judge):
    bare = [data.Dataset(part.images, np.zeros_like(part.labels)) for part in (TRAIN, TEST)]
    without = evaluate.Judge("digits", *bare, num=100)
    assert without.classifier == "none"
    assert without.accuracy is None
    assert judge.accuracy > 0.8
    scores, (expected, _) = without(NEW)[0], judge(NEW)
    assert set(expected) - set(scores) == {"class_tv", "mixtures"}
    assert scores == {name: expected[name] for name in scores}


@pytest.mark.slow
def test_classes_by_slow_features_are_told_by_the_first_training_images(monkeypatch):
    """Of Inception, stood for by pixels, which takes too long for all."""
    monkeypatch.setattr(judging, "inception", lambda folder: evaluate.pixels)
    monkeypatch.setattr(judging, "_SLOW_KNOWN", 120)
    scores, shares = evaluate.Judge("mine", TRAIN, TEST, num=100, features="inception")(NEW)
    first = data.Dataset(TRAIN.images[:120], TRAIN.labels[:120])
    expected, expected_shares = evaluate.Judge("mine", first, TEST, num=100)(NEW)
    np.testing.assert_array_equal(shares, expected_shares)
    assert scores["mixtures"] == expected["mixtures"]


def test_a_verdict_is_what_the_scores_say_one_by_one(judge):
    scores, shares = judge(NEW)
    real, train, test = (evaluate.pixels(images) for images in (TEST.images[:100], TRAIN.images, TEST.images))
    new = evaluate.pixels(NEW)
    assert scores["frechet"] == pytest.approx(float(frechet_distance(new, real)))
    assert scores["kid"] == pytest.approx(float(evaluate.kernel_distance(new, real).value))
    assert scores["lmem"] == pytest.approx(float(evaluate.novelty(new, train, test)))  # of all that is held out
    for name, value in evaluate.neighbour_scores(real, new)._asdict().items():
        assert scores[name] == pytest.approx(float(value))
    labels = evaluate.nearest_label(new, train, TRAIN.labels, 10)
    np.testing.assert_allclose(shares, evaluate.class_histogram(labels, 10))
    real_shares = evaluate.class_histogram(TRAIN.labels, 10)
    assert scores["class_tv"] == pytest.approx(float(evaluate.total_variation(shares, real_shares)))
    mixed = evaluate.mixture_rate(new, train, TRAIN.labels, real)
    assert scores["mixtures"] == pytest.approx(mixed.excess)
    assert judge.facts(3) == {
        "features": "pixels",
        "classifier": "5 nearest neighbours in the features",
        "accuracy": judge.accuracy,
        "images_per_draw": 100,
        "draws": 3,
    }


def test_bytes_and_floats_are_scored_alike(judge):
    images = DIGITS[0].images[300:400]
    assert judge(images).scores == judge(NEW).scores
    assert judge(NEW.astype(">f4")).scores == judge(NEW).scores


def test_features_and_codes_are_those_asked_for(judge):
    rows = evaluate.Extractor("means of rows", lambda images: jnp.asarray(images).mean((2, 3)))
    own = evaluate.Judge("mine", TRAIN, TEST, rows, num=100, features=rows)
    scores = own(NEW).scores
    assert own.name == "means of rows"
    new, train, test = (rows(images) for images in (NEW, TRAIN.images / 255, TEST.images / 255))
    assert scores["frechet"] == pytest.approx(float(frechet_distance(new, test[:100])), rel=1e-4)
    assert scores["lmem"] == pytest.approx(float(evaluate.novelty(new, train, test)), rel=1e-4)
    coded = evaluate.Judge("digits", TRAIN, TEST, rows, num=100)(NEW).scores
    assert coded["lmem"] == scores["lmem"]
    assert coded["frechet"] == judge(NEW).scores["frechet"]


def test_scores_are_averaged_over_draws(judge, key):
    def draw(key, num):
        return TEST.images[np.asarray(jax.random.choice(key, len(TEST.images), (num,)))]

    found = evaluate.over_draws(key, judge, draw, 3)
    each = [judge(draw(jax.random.fold_in(key, i), 100)) for i in range(3)]
    values = [one.scores["recall"] for one in each]
    assert found.mean["recall"] == pytest.approx(np.mean(values))
    assert found.sd["recall"] == pytest.approx(np.std(values, ddof=1))
    np.testing.assert_allclose(found.class_shares, np.mean([one.class_shares for one in each], axis=0), rtol=1e-6)
    alone = evaluate.over_draws(key, judge, draw, 1)
    assert alone.mean == each[0].scores
    assert set(alone.sd.values()) == {None}


def test_points_are_scored_on_their_modes():
    train, test, new = POINTS
    modes = toy.centres_of("eight_gaussians")
    judge = evaluate.PointJudge(train, test, num=150, modes=modes)
    scores, shares = judge(new)
    assert shares.size == 0
    assert scores["frechet"] == pytest.approx(float(frechet_distance(new, test[:150])))
    assert scores["kid"] == pytest.approx(float(evaluate.kernel_distance(new, test[:150]).value))
    assert scores["lmem"] == pytest.approx(float(evaluate.novelty(new, train, test)))
    for name, value in evaluate.mode_scores(new, *modes)._asdict().items():
        assert scores[name] == pytest.approx(float(value))
    images = [part[:, None, None] for part in POINTS]
    assert evaluate.PointJudge(*images[:2], num=150, modes=modes)(images[2]).scores == scores
    assert "modes" not in evaluate.PointJudge(train, test)(new).scores


def changed(part, **fields):
    return part._replace(**fields)


@pytest.mark.usefixtures("as_users_call_it")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": TRAIN.images}, "train is of type ndarray: give a data.dataset.Dataset"),
        ({"train": changed(TRAIN, images=TRAIN.images[..., 0])}, "train of a judge is for images of shape"),
        ({"train": changed(TRAIN, images=TRAIN.images * 1.0)}, r"the pixels lie in \[0, 255\]: scale them"),
        ({"test": changed(TEST, labels=TEST.labels[:-1])}, r"test.labels has shape \(299,\).*each of the 300 images"),
        ({"test": changed(TEST, labels=TEST.labels - 1)}, "a whole number from 0 on"),
        ({"test": changed(TEST, labels=TEST.labels / 2)}, "a whole number from 0 on"),
        ({"test": data.Dataset(TEST.images[:, :4], TEST.labels)}, "give images of one height"),
        ({"test": data.Dataset(TEST.images[:5], TEST.labels[:5])}, "test has 5 rows: hold out at least 6"),
        ({"dataset": 3}, "dataset = 3: give the name"),
        ({"num": 5}, "num = 5: give a whole number of at least 6"),
        ({"features": "vgg"}, "features = 'vgg': choose one of 'auto', 'pixels', 'lenet', 'inception', 'codec'"),
        ({"encode": 3}, "encode is of type int: give a function"),
        ({"encode": lambda images: images}, "the extractor 'encode' made"),
    ],
)
def test_a_judge_refuses_what_it_cannot_score_against(options, message):
    arguments = {"dataset": "digits", "train": TRAIN, "test": TEST, **options}
    with pytest.raises(ValueError, match=message):
        evaluate.Judge(**arguments)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (NEW[..., 0], r"the judge is for images of shape \[n, 8, 8, 1\], not \(100, 8, 8\)"),
        (NEW[:, :4], r"not \(100, 4, 8, 1\)"),
        (255 * NEW, r"the pixels lie in \[0, 255\]"),
        (np.where(NEW > 0.9, np.nan, NEW), "NaN or infinite"),
        (NEW[:3], "at least 4"),
        (NEW.astype(complex), "give real numbers"),
    ],
)
def test_a_judge_refuses_images_that_are_not_of_its_data(judge, images, message):
    with pytest.raises(ValueError, match=message):
        judge(images)


@pytest.mark.usefixtures("as_users_call_it")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test": POINTS[1][:5]}, "test has 5 rows: hold out at least 6"),
        ({"test": POINTS[1][:, :1]}, "train has 2 columns and test 1"),
        ({"num": 2.5}, "num = 2.5: give a whole number"),
        ({"modes": 3}, "modes = 3: give a pair"),
        ({"modes": (np.zeros((2, 3)), 0.1)}, "test has 2 columns and centres 3"),
        ({"modes": (np.zeros((2, 2)), 0.0)}, "standard deviation of modes = 0.0: give a positive"),
    ],
)
def test_a_judge_of_points_refuses_what_it_cannot_score_against(options, message):
    with pytest.raises(ValueError, match=message):
        evaluate.PointJudge(**{"train": POINTS[0], "test": POINTS[1], **options})


def test_extractors_are_chosen_by_the_data(tmp_path):
    assert evaluate.extractor_of("celeb_a") is evaluate.pixels
    assert evaluate.extractor_of("mnist", features="pixels") is evaluate.pixels
    own = evaluate.Extractor("own", lambda images: images)
    assert evaluate.extractor_of("mnist", features=own) is own
    with pytest.raises(FileNotFoundError, match="LeNet weights are missing"):
        evaluate.extractor_of("mnist", tmp_path, "lenet")


def test_without_weights_digits_are_compared_in_pixels_and_told_by_neighbours(tmp_path):
    with pytest.warns(UserWarning, match="taken in pixels"):
        judge = evaluate.Judge("mnist", TRAIN, TEST, num=100, data_dir=tmp_path)
    assert (judge.name, judge.classifier) == ("pixels", "5 nearest neighbours in the features")
    assert judge(NEW).scores["frechet"] > 0


def test_pixels_of_mnist_need_no_weights(tmp_path):
    judge = evaluate.Judge("mnist", TRAIN, TEST, num=100, data_dir=tmp_path, features="pixels", neighbours=True)
    assert judge.name == "pixels"
    assert judge(NEW).scores["frechet"] > 0


def test_the_extractor_of_stacked_digits_reads_every_channel(data_dir):
    extractor = evaluate.extractor_of("stacked_mnist", data_dir)
    images = np.random.default_rng(0).random((2, 28, 28, 3)).astype(np.float32)
    assert extractor.name == "LeNet (MNIST), 84-d, of every channel"
    lenet = evaluate.lenet(data_dir)
    np.testing.assert_array_equal(extractor(images)[:, 84:168], lenet(images[..., 1:2]))


def test_sets_larger_than_memory_are_taken_in_pieces(judge, monkeypatch):
    """Scores do not change with the pieces, and classes are told by as many training images as fit."""
    from otgen.eval import judge as module

    monkeypatch.setattr(module, "_PIECE", 64 * 70)
    scores, shares = evaluate.Judge("digits", TRAIN, TEST, num=100)(NEW)
    expected, other = judge(NEW)
    assert scores == pytest.approx(expected, abs=1e-5)
    np.testing.assert_array_equal(shares, other)
    monkeypatch.setattr(module, "_MOST", 64 * 150)
    monkeypatch.setattr(module, "_KNOWN", 150)
    few = evaluate.Judge("digits", TRAIN, TEST, num=100)
    labels = evaluate.nearest_label(evaluate.pixels(NEW), evaluate.pixels(TRAIN.images[:150]), TRAIN.labels[:150], 10)
    np.testing.assert_allclose(few(NEW)[1], evaluate.class_histogram(labels, 10))
    assert few(NEW)[0]["lmem"] == pytest.approx(expected["lmem"], abs=1e-5)  # of all training images
