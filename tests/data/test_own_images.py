"""Images of one's own: from whatever they are in, the same pixels come out."""

import io
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from otgen import data
from otgen.data import decoding

RANDOM = np.random.default_rng(0)


def png(pixels, **options):
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, options.pop("format", "PNG"), **options)
    return buffer.getvalue()


def fill(folder, files):
    """Write files below a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def tar(path, files):
    """Pack files, in the order given."""
    with tarfile.open(path, "w" if path.suffix == ".tar" else f"w:{path.suffix[1:]}") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def zipped(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def load(given, split="train", **options):
    """Load, with the cache beside the test's files."""
    return data.load(given, split, **{"progress": False, **options})


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OTGEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def pixels():
    """Twelve images [12, 6, 6, 3], six of either class."""
    return RANDOM.integers(0, 256, (12, 6, 6, 3), np.uint8)


@pytest.fixture(scope="module")
def files(pixels):
    return {f"{'cat' if i % 2 else 'ant'}/{i:02d}.png": png(image) for i, image in enumerate(pixels)}


def as_pairs(parts):
    """The images of splits with their labels, in no order."""
    return sorted((image.tobytes(), int(label)) for part in parts for image, label in zip(*part, strict=True))


def both(given, **options):
    return [load(given, split, **options) for split in ("train", "test")]


def test_the_same_images_from_folder_archives_arrays_lists_and_objects(tmp_path, pixels, files):
    labels = np.arange(12) % 2
    want = as_pairs([data.Dataset(pixels, labels)])
    folder = fill(tmp_path / "photos", files)
    backwards = dict(reversed(files.items()))
    (tmp_path / "list.txt").write_text("\n".join(f"photos/{name}" for name in backwards) + "\n\n")
    np.savez(tmp_path / "set.npz", images=pixels, labels=labels[:, None])
    np.savez(tmp_path / "two.npz", x_train=pixels[:8], y_train=labels[:8], x_test=pixels[8:], y_test=labels[8:])
    records = [
        {"img": Image.fromarray(image), "label": int(label)} for image, label in zip(pixels, labels, strict=True)
    ]
    given = {
        "folder": folder,
        "text": str(folder),
        "tar": tar(tmp_path / "a.tar", backwards),
        "nested": tar(tmp_path / "b.xz", {f"./all/{name}": it for name, it in files.items()}).rename(
            tmp_path / "b.txz"
        ),
        "zip": zipped(tmp_path / "c.zip", {"__MACOSX/cat/._01.png": b"", "notes.txt": b"", **files}),
        "list": tmp_path / "list.txt",
        "paths": sorted(folder.glob("*/*.png")),
        "npz": tmp_path / "set.npz",
        "two": tmp_path / "two.npz",
        "records": records,
        "pairs": [(image, label) for image, label in zip(pixels, labels, strict=True)],
        "splits": {"train": records[:8], "test": records[8:]},
        "encoded": [
            {"image": {"bytes": png(image), "path": None}, "label": int(it)}
            for image, it in zip(pixels, labels, strict=True)
        ],
    }
    found = {name: both(it) for name, it in given.items()}
    for name, parts in found.items():
        assert as_pairs(parts) == want, name
        assert isinstance(parts[0].images, np.memmap)
    for name in ("text", "tar", "nested", "zip", "list", "paths"):  # the same rows, however they are packed
        np.testing.assert_array_equal(found[name][0].images, found["folder"][0].images)
    assert data.about(found["tar"][0])["classes"] == ["ant", "cat"]
    assert data.about(found["tar"][0])["fingerprint"] == data.about(found["folder"][1])["fingerprint"]
    assert data.about(found["npz"][0])["fingerprint"] != data.about(found["folder"][0])["fingerprint"]


def test_rows_are_the_same_from_the_cache_and_prepared_again(tmp_path, files, cache):
    folder = fill(tmp_path / "photos", files)
    first, stamps = load(folder).images.copy(), {it: it.stat().st_mtime_ns for it in cache.rglob("*")}
    np.testing.assert_array_equal(load(folder).images, first)
    assert {it: it.stat().st_mtime_ns for it in cache.rglob("*")} == stamps
    np.testing.assert_array_equal(load(folder, cache_dir=tmp_path / "other").images, first)
    (folder / "cat/01.png").write_bytes(png(np.zeros((6, 6, 3), np.uint8)))
    assert (load(folder, test_share=0).images == 0).all((1, 2, 3)).sum() == 1
    assert {it.parent for it in tmp_path.rglob("*.npy")} <= {*cache.iterdir(), *(tmp_path / "other").iterdir()}


def test_the_split_is_seeded_or_that_of_folders(tmp_path, pixels, files):
    folder = fill(tmp_path / "photos", files)
    halves = both(folder, test_share=0.5)
    assert [len(it.images) for it in halves] == [6, 6]
    assert as_pairs(halves) == as_pairs(both(folder, test_share=0.5, seed=1))
    assert as_pairs(halves[:1]) != as_pairs(both(folder, test_share=0.5, seed=1)[:1])
    with pytest.raises(ValueError, match=r"split = 'test': choose one of 'train'"):
        load(folder, "test", test_share=0)
    told = fill(
        tmp_path / "told",
        {f"Train/{name}" if i < 8 else f"val/{name}": it for i, (name, it) in enumerate(files.items())},
    )
    train, test = both(told)
    assert as_pairs([train]) == as_pairs([data.Dataset(pixels[:8], np.arange(8) % 2)])
    assert as_pairs([test]) == as_pairs([load(told, "validation")])
    assert data.about(train)["rule"] == "the folders of the source"


def test_classes_named_by_numbers_are_in_their_order(tmp_path, pixels):
    found = load(fill(tmp_path / "set", {f"{9 + i}/a.png": png(image) for i, image in enumerate(pixels)}), test_share=0)
    assert data.about(found)["classes"] == [str(9 + i) for i in range(12)]
    order = np.argsort(found.labels)
    np.testing.assert_array_equal(found.images[order], pixels)


def test_flat_folders_have_one_class(tmp_path, pixels):
    flat = fill(tmp_path / "flat", {f"images/{i}.png": png(image) for i, image in enumerate(pixels)})
    found = load(flat)
    assert (found.labels == 0).all()
    assert data.about(found)["classes"] == []


def test_links_of_a_folder_are_followed_once(tmp_path, files):
    folder = fill(tmp_path / "photos", files)
    fill(tmp_path / "elsewhere", {"dog.png": next(iter(files.values()))})
    (folder / "dog").symlink_to(tmp_path / "elsewhere")
    (folder / "cat" / "again").symlink_to(folder)
    assert data.about(load(folder))["classes"] == ["ant", "cat", "dog"]
    assert sum(data.about(load(folder))["counts"].values()) == 13


ONE = RANDOM.integers(0, 256, (5, 4, 3), np.uint8)


def pixels_of(content, channels=3, background=(255, 255, 255), **options):
    return decoding.decode(decoding.Item("a", content), background, channels, **options)


def test_transparency_shows_the_background():
    alpha = np.zeros((5, 4, 1), np.uint8)
    alpha[0], alpha[1] = 255, 51
    found = pixels_of(png(np.concatenate([ONE, alpha], -1)), background=(0, 100, 200))
    np.testing.assert_array_equal(found[0], ONE[0])
    mixed = 0.2 * ONE[1] + 0.8 * np.array([0, 100, 200])
    assert np.abs(found[1] - mixed).max() <= 1
    assert (found[2:] == [0, 100, 200]).all()
    grey = png(np.concatenate([ONE[..., :1], alpha], -1))
    assert decoding.look(decoding.Item("a", grey), (9, 9, 9)).is_grey
    assert not decoding.look(decoding.Item("a", grey), (9, 9, 8)).is_grey
    assert (pixels_of(grey, 1, (9, 9, 9))[2:] == 9).all()
    palette = Image.fromarray(ONE).quantize(4)
    where = np.asarray(palette) == 0
    assert (pixels_of(png(palette, transparency=0), background=(1, 2, 3))[where] == [1, 2, 3]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation):
    """The tag says on which sides of the upright image the first stored row and the first stored column are."""
    sides = ("top left", "top right", "bottom right", "bottom left")
    sides += ("left top", "right top", "right bottom", "left bottom")
    side, exif = sides[orientation - 1], Image.Exif()
    exif[0x0112] = orientation
    want = ONE if side.startswith(("top", "bottom")) else ONE.swapaxes(0, 1)
    want = want[::-1] if "bottom" in side else want
    want = want[:, ::-1] if "right" in side else want
    content = png(ONE, exif=exif)
    np.testing.assert_array_equal(pixels_of(content), want)
    assert decoding.look(decoding.Item("a", content), (0, 0, 0))[:2] == want.shape[:2]


def test_deep_grey_palette_cmyk_bits_and_animations():
    deep = RANDOM.integers(0, 65536, (5, 4), np.uint16)
    np.testing.assert_array_equal(pixels_of(png(deep), 1)[..., 0], np.round(deep / 257))
    np.testing.assert_array_equal(pixels_of(png(deep, format="TIFF"), 1)[..., 0], np.round(deep / 257))
    bits = ONE[..., 0] > 127
    np.testing.assert_array_equal(pixels_of(png(Image.fromarray(bits)), 1)[..., 0], bits * 255)
    colours = Image.fromarray(ONE).quantize(3)
    np.testing.assert_array_equal(pixels_of(png(colours)), np.asarray(colours.convert("RGB")))
    ink = Image.new("CMYK", (4, 4), (255, 0, 0, 0))
    assert np.abs(pixels_of(png(ink, format="TIFF")).astype(int) - [0, 255, 255]).max() <= 2
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    animation = png(frames[0], format="GIF", save_all=True, append_images=frames[1:])
    assert (pixels_of(animation) == [255, 0, 0]).all()


def test_arrays_of_any_number_type_are_bytes():
    np.testing.assert_array_equal(pixels_of(ONE / 255), ONE)
    np.testing.assert_array_equal(pixels_of(ONE.astype(np.int64)), ONE)
    np.testing.assert_array_equal(pixels_of(ONE[..., 0] > 9, 1)[..., 0], (ONE[..., 0] > 9) * 255)
    with pytest.raises(decoding.Unreadable, match="floats are from 0 to 1"):
        pixels_of(ONE.astype(float))


def test_scaling_averages_over_what_a_new_pixel_covers():
    """A fine chequerboard becomes grey, where taking single pixels would leave it black or white."""
    board = ((np.arange(64)[:, None] + np.arange(64)) % 2 * 255).astype(np.uint8)
    small = pixels_of(png(board), 1, size=8)
    assert small.shape == (8, 8, 1)
    assert np.abs(small.astype(int) - 127.5).max() < 8


def test_crops_lie_in_the_middle_or_at_random(tmp_path):
    stripes = np.repeat(np.arange(24, dtype=np.uint8)[None], 4, 0)  # 4 x 24: a pixel tells its column
    np.testing.assert_array_equal(pixels_of(png(stripes), 1, size=4)[0, :, 0], [10, 11, 12, 13])
    np.testing.assert_array_equal(pixels_of(png(stripes.T.copy()), 1, size=4)[:, 0, 0], [10, 11, 12, 13])
    folder = fill(tmp_path / "set", {f"{i}.png": png(stripes) for i in range(40)})
    first = load(folder, size=4, crop="random", test_share=0).images[:, 0, 0, 0]
    assert len(set(first.tolist())) > 10
    assert first.max() <= 20
    np.testing.assert_array_equal(
        load(folder, size=4, crop="random", test_share=0, cache_dir=tmp_path).images[:, 0, 0, 0], first
    )


def test_channels_are_one_only_if_all_are_grey(tmp_path, pixels):
    grey = {f"{i}.png": png(image[..., 0]) for i, image in enumerate(pixels)}
    assert load(fill(tmp_path / "grey", grey)).images.shape[1:] == (6, 6, 1)
    assert load(tmp_path / "grey", channels=3).images.shape[1:] == (6, 6, 3)
    mixed = fill(tmp_path / "mixed", {**grey, "0.png": png(pixels[0])})
    assert load(mixed).images.shape[1:] == (6, 6, 3)
    assert load(mixed, channels=1).images.shape[1:] == (6, 6, 1)


def test_flips_double_the_training_images_only(tmp_path, files):
    folder = fill(tmp_path / "photos", files)
    plain, (train, test) = load(folder), both(folder, flips=True)
    np.testing.assert_array_equal(train.images[::2], plain.images)
    np.testing.assert_array_equal(train.images[1::2], plain.images[:, :, ::-1])
    np.testing.assert_array_equal(train.labels, np.repeat(plain.labels, 2))
    assert data.about(train)["counts"] == {"train": 2 * len(plain.images), "test": len(test.images)}
