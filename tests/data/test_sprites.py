import numpy as np
import pytest
from PIL import Image, ImageSequence

from otgen import data
from otgen.data import sprites


def sweeps(shape, moves):
    """The factors of the frames of one shape in the published animation, told from the frames by eye."""
    up, down = list(range(6)), list(range(5, -1, -1))
    rows = [(shape, scale, 0, 0, 0) for scale in up + down + up] + [(shape, 5, turn, 0, 0) for turn in range(40)]
    if moves:
        there = [(0, i) for i in range(32)] + [(i, 31) for i in range(32)]
        back = [(31, i) for i in range(31, -1, -1)] + [(i, 0) for i in range(31, -1, -1)]
        rows += [(shape, 5, 0, x, y) for x, y in there + back]
    return rows + [(shape, scale, 0, 0, 0) for scale in down]


def test_images_are_those_of_the_published_animation(data_dir):
    path = data_dir / "dsprites_ref" / "dsprites.gif"
    if not path.exists():
        pytest.skip("no dsprites_ref/dsprites.gif in OTGEN_DATA")
    with Image.open(path) as animation:
        frames = np.stack([np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(animation)])
    factors = np.array(sweeps(2, True) + sweeps(1, False) + sweeps(0, False))
    wrong = (sprites.render(factors)[..., 0] != frames).sum((1, 2))
    heart = factors[:, 0] == 2
    assert wrong[~heart].max() == 0
    assert wrong[heart].max() <= 2
    assert wrong[heart].mean() < 0.05


def test_render_is_the_plain_definition_pixel_by_pixel():
    rng = np.random.default_rng(0)
    factors = rng.integers(0, sprites.SIZES, (60, 5))
    grid = np.arange(64) + 0.5
    t = np.linspace(0, 2 * np.pi, 20_001)
    outline = 0.5996 * 16 * np.sin(t) ** 3
    height = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    for image, (shape, scale, turn, x, y) in zip(sprites.render(factors)[..., 0], factors, strict=True):
        size, angle = 0.5 + 0.1 * scale, 2 * np.pi * turn / 39
        dx, dy = np.meshgrid((grid - 16 - 32 * x / 31) / size, (grid - 16 - 32 * y / 31) / size)
        u, v = np.cos(angle) * dx - np.sin(angle) * dy, np.sin(angle) * dx + np.cos(angle) * dy
        if shape == 0:
            white = (abs(u) <= 9.598) & (abs(v) <= 9.598)
        elif shape == 1:
            white = (u / 12.766) ** 2 + (v / 7.214) ** 2 <= 1
        else:  # even-odd rule on the polygon: crossings of its edges to the right of the point
            down = -1.4363 - 0.6622 * height
            white = np.zeros_like(u, bool)
            for pixel in np.argwhere(np.hypot(u, v) < 14):
                a, b = u[tuple(pixel)], v[tuple(pixel)]
                crosses = (down[:-1] > b) != (down[1:] > b)
                at = outline[:-1] + (b - down[:-1]) / (down[1:] - down[:-1] + ~crosses) * np.diff(outline)
                white[tuple(pixel)] = (crosses & (at > a)).sum() % 2
        np.testing.assert_array_equal(image, 255 * white.astype(np.uint8), err_msg=str((shape, scale, turn, x, y)))


def test_index_order_is_that_of_the_original():
    index = np.array([0, 1, 32, 1024, 40_960, 245_760, sprites.NUM - 1])
    factors = np.array(
        [
            [0] * 5,
            [0, 0, 0, 0, 1],
            [0, 0, 0, 1, 0],
            [0, 0, 1, 0, 0],
            [0, 1, 0, 0, 0],
            [1, 0, 0, 0, 0],
            [2, 5, 39, 31, 31],
        ]
    )
    np.testing.assert_array_equal(sprites.factors_of(index), factors)
    np.testing.assert_array_equal(sprites.index_of(factors), index)
    np.testing.assert_allclose(sprites.values(factors)[-1], [3, 1, 2 * np.pi, 1, 1])
    np.testing.assert_allclose(sprites.values(factors)[0], [1, 0.5, 0, 0, 0])


def test_splits_share_no_image_and_samples_stay_in_theirs():
    train, test = sprites.indices("train"), sprites.indices("test")
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(sprites.NUM))
    assert len(test) == sprites.NUM // 10
    images, factors = sprites.sample(3, 500, "test")
    assert np.isin(sprites.index_of(factors), test).all()
    assert len(np.unique(sprites.index_of(factors))) == 500
    again, _ = sprites.sample(3, 500, "test")
    np.testing.assert_array_equal(images, again)
    assert images.shape == (500, 64, 64, 1)
    assert set(np.unique(images)) == {0, 255}


def test_sampled_factors_are_uniform():
    _, factors = sprites.sample(0, 2000)
    for column, size in zip(factors.T, sprites.SIZES, strict=True):
        count = np.bincount(column, minlength=size)
        assert np.all(abs(count - 2000 / size) < 5 * np.sqrt(2000 / size))


def test_wrong_factors_are_refused():
    with pytest.raises(ValueError, match=r"scale = 6 in row 0: give 0 to 5"):
        sprites.render([[0, 6, 0, 0, 0]])
    with pytest.raises(ValueError, match="give integers"):
        sprites.render(np.zeros((2, 5)))
    with pytest.raises(ValueError, match="give 0 to 737279"):
        sprites.factors_of(sprites.NUM)
    with pytest.raises(ValueError, match="split = 'validation': choose one of"):
        data.load("dsprites", "validation")
    with pytest.raises(ValueError, match="holds 73728 different"):
        sprites.sample(0, 73_729, "test")


@pytest.mark.slow
def test_the_loaded_test_split_is_rendered_in_its_order():
    images, labels = data.load("dsprites", "test")
    factors = sprites.factors_of(sprites.indices("test"))
    assert images.shape == (73_728, 64, 64, 1)
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, factors[:, 0])
    np.testing.assert_array_equal(images[-7:], sprites.render(factors[-7:]))
    area = (images > 0).sum((1, 2, 3))
    for shape, full in enumerate((4 * 9.598**2, np.pi * 12.766 * 7.214, 180 * np.pi * 0.5996 * 0.6622)):
        rows = labels == shape
        ratio = area[rows] / (full * sprites.values(factors[rows])[:, 1] ** 2)
        assert abs(ratio.mean() - 1) < 0.005
