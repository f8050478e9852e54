import numpy as np
import pytest

from otgen import data
from otgen.data import stacked
from otgen.data.dataset import Dataset


def few_digits(num=40):
    """Images whose pixels all say which image it is, in an order that a key could change."""
    return np.arange(num, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 5, 1), np.uint8), np.arange(num) % 10


def test_channels_are_independent_digits_and_the_label_names_them():
    images, labels = few_digits()
    drawn, modes = stacked.compose(3, images, labels, 6000)
    assert drawn.shape == (6000, 4, 5, 3)
    assert drawn.dtype == np.uint8
    assert (drawn == drawn[:, :1, :1]).all()
    digits = drawn[:, 0, 0] % 10
    np.testing.assert_array_equal(modes, digits @ [100, 10, 1])
    correlation = np.corrcoef(drawn[:, 0, 0].T)
    assert np.abs(correlation - np.eye(3)).max() < 4.5 / np.sqrt(6000)
    counts = np.bincount(drawn[:, 0, 0].ravel(), minlength=40)
    assert ((counts - 450) ** 2 / 450).sum() < 39 + 5 * np.sqrt(2 * 39)


def test_a_seed_fixes_the_draw_and_a_generator_moves_on():
    images, labels = few_digits()
    first, again = (stacked.compose(7, images[..., 0], labels, 50)[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    generator = np.random.default_rng(7)
    one, two = (stacked.compose(generator, images, labels, 50)[0] for _ in range(2))
    np.testing.assert_array_equal(first, one)
    assert (one != two).any()


def test_the_set_does_not_depend_on_the_order_of_its_digits():
    images, labels = few_digits()
    images, order = np.ascontiguousarray(images), np.random.default_rng(0).permutation(40)
    sets = [
        stacked.load_split("test", lambda split, rows=rows: Dataset(images[rows], labels[rows]))
        for rows in (np.arange(40), order)
    ]
    for one, two in zip(*sets, strict=True):
        np.testing.assert_array_equal(one, two)


def test_mode_weights_are_products_of_digit_frequencies():
    labels = np.repeat(np.arange(10), np.arange(1, 11))
    weights = stacked.mode_weights(labels)
    assert weights.sum() == pytest.approx(1)
    assert weights[275] == pytest.approx(3 * 8 * 6 / 55**3)
    _, modes = stacked.compose(0, np.zeros((55, 2, 2)), labels, 20_000)
    large = weights > 2e-3
    counts = np.bincount(modes, minlength=1000)[large]
    assert (np.abs(counts - 20_000 * weights[large]) < 5 * np.sqrt(20_000 * weights[large])).all()


def test_what_cannot_be_stacked_is_refused():
    images, labels = few_digits()
    with pytest.raises(ValueError, match="grey images"):
        stacked.compose(0, np.concatenate([images] * 3, axis=-1), labels, 5)
    with pytest.raises(ValueError, match="integers 0 to 9"):
        stacked.compose(0, images, labels + 1, 5)
    with pytest.raises(ValueError, match="one digit for each"):
        stacked.compose(0, images, labels[:-1], 5)
    with pytest.raises(ValueError, match=r"split = 'validation': choose one of 'train', 'test'"):
        data.load("stacked_mnist", "validation", "anywhere")


@pytest.mark.slow
def test_stacked_mnist_of_the_real_digits(data_dir, tmp_path):
    mnist = data.load("mnist", "test", data_dir, cache_dir=tmp_path)
    test = data.load("stacked_mnist", "test", data_dir, cache_dir=tmp_path)
    assert test.images.shape == (10_000, 28, 28, 3)
    assert test.images.dtype == np.uint8
    digit_of = {image.tobytes(): label for image, label in zip(mnist.images, mnist.labels, strict=True)}
    for image, label in zip(test.images[:300], test.labels[:300], strict=True):
        digits = [digit_of[np.ascontiguousarray(image[..., channel]).tobytes()] for channel in range(3)]
        assert label == 100 * digits[0] + 10 * digits[1] + digits[2]
    assert len(np.unique(test.labels)) >= 999  # a uniform law would show 999.95
