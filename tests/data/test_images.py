import gzip
import io
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from otgen import data
from otgen.data import builders, idx, toy


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def raw_mnist(tmp_path):
    """A small set in the files of MNIST."""
    folder = tmp_path / "raw" / "mnist"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for split, num in (("train", 20), ("test", 6)):
        images, labels = idx.IDX_FILES[split]
        write_idx(folder / images, random.integers(0, 256, (num, 28, 28), np.uint8))
        write_idx(folder / labels, np.arange(num, dtype=np.uint8) % 10)
    return folder


def test_digits_are_built_in_and_split():
    train, test = data.load("digits", "train"), data.load("digits", "test")
    assert train.images.shape == (1437, 8, 8, 1)
    assert test.images.shape == (360, 8, 8, 1)
    assert train.images.dtype == np.uint8
    assert train.images.max() == 255
    assert set(np.unique(test.labels)) == set(range(10))
    pixels = {image.tobytes() for image in train.images}
    assert not any(image.tobytes() in pixels for image in test.images)


def test_raw_idx_files_are_prepared_and_read_back(raw_mnist, tmp_path):
    before = sorted(path.name for path in raw_mnist.iterdir())
    for _ in range(2):  # prepared, then read from the cache
        train = data.load("mnist", "train", raw_mnist.parent, cache_dir=tmp_path / "cache", verify=False)
    want = idx.read_idx(raw_mnist / "train-images-idx3-ubyte.gz")
    rows = {image.tobytes(): label for image, label in zip(want, np.arange(20) % 10, strict=True)}
    assert {image.tobytes(): label for image, label in zip(train.images, train.labels, strict=True)} == rows
    assert sorted(path.name for path in raw_mnist.iterdir()) == before
    assert len(data.load("mnist", "test", raw_mnist, cache_dir=tmp_path / "cache", verify=False).labels) == 6


def test_of_two_runs_that_prepare_the_same_set_at_once_the_slower_takes_the_others(raw_mnist, tmp_path, monkeypatch):
    prepare, cache = builders.prepare, tmp_path / "cache"

    def slow(*arguments):
        found = prepare(*arguments)
        monkeypatch.setattr(builders, "prepare", prepare)
        data.load("mnist", "train", raw_mnist, cache_dir=cache, verify=False)  # the other run, done in the meantime
        return found

    monkeypatch.setattr(builders, "prepare", slow)
    train = data.load("mnist", "train", raw_mnist, cache_dir=cache, verify=False)
    assert train.images.shape == (20, 28, 28, 1)
    assert len(list(cache.iterdir())) == 1, "what was prepared in vain is still there"


def test_what_a_killed_run_has_left_is_replaced(raw_mnist, tmp_path):
    cache = tmp_path / "cache"
    data.load("mnist", "train", raw_mnist, cache_dir=cache, verify=False)
    for info in cache.rglob("dataset_info.json"):
        info.unlink()
    assert len(data.load("mnist", "test", raw_mnist, cache_dir=cache, verify=False).labels) == 6


def test_a_set_prepared_by_tfds_is_read_as_it_is(raw_mnist, tmp_path):
    builders.prepare(tmp_path / "tfds", "mnist", raw_mnist, 28)
    (tmp_path / "tfds" / "otgen_mnist").rename(tmp_path / "tfds" / "mnist")
    test = data.load("mnist", "test", tmp_path / "tfds", cache_dir=tmp_path / "cache")
    assert test.images.shape == (6, 28, 28, 1)
    assert not (tmp_path / "cache").exists()


def test_truncated_idx_leaves_nothing_behind(raw_mnist, tmp_path):
    path = raw_mnist / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"train-images.*truncated"):
        data.load("mnist", "train", raw_mnist, cache_dir=tmp_path / "cache", verify=False)
    path.write_bytes(gzip.compress(gzip.decompress(whole)[:-5]))
    with pytest.raises(ValueError, match="announces"):
        data.load("mnist", "train", raw_mnist, cache_dir=tmp_path / "cache", verify=False)
    assert not list((tmp_path / "cache").rglob("*.json")) if (tmp_path / "cache").exists() else True


def test_altered_files_are_refused(raw_mnist, tmp_path):
    with pytest.raises(ValueError, match=r"SHA-256.*verify=False"):
        data.load("mnist", "train", raw_mnist, cache_dir=tmp_path / "cache")


def test_missing_files_are_named(raw_mnist, tmp_path):
    (raw_mnist / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"missing t10k-labels-idx1-ubyte.gz; looked in .*mnist"):
        data.load("mnist", "train", raw_mnist.parent, cache_dir=tmp_path / "cache")
    with pytest.raises(FileNotFoundError, match="celeb_a"):
        data.load("celeb_a", "train", tmp_path)


def test_no_data_dir_says_what_to_set(monkeypatch):
    monkeypatch.delenv("OTGEN_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="OTGEN_DATA"):
        data.load("fashion_mnist")


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="'digits', 'mnist', 'fashion_mnist', 'cifar10', 'celeb_a'"):
        data.load("mnits")
    with pytest.raises(ValueError, match="'train', 'test'"):
        data.load("digits", "validation")


def _image(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 32), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("archived", [False, True])
def test_class_folders_and_archives(tmp_path, archived):
    folder = tmp_path / "cifar10"
    colours = {"cat": (255, 0, 0), "dog": (0, 0, 255)}
    members = {
        f"{split}/{name}/{i:04d}.png": _image(colour)
        for split in ("train", "test")
        for name, colour in colours.items()
        for i in range(3)
    }
    folder.mkdir()
    if archived:
        with tarfile.open(folder / "images.tar.xz", "w:xz") as archive:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    else:
        for name, content in members.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    train = data.load("cifar10", "train", tmp_path, cache_dir=tmp_path / "cache")
    assert train.images.shape == (6, 32, 32, 3)
    for image, label in zip(train.images, train.labels, strict=True):
        assert tuple(image[16, 16]) == list(colours.values())[label]


def test_celeb_a_splits_by_file_number(tmp_path):
    folder = tmp_path / "celeb_a" / "img_align_celeba"
    folder.mkdir(parents=True)
    for number in (1, 162_770, 162_771, 182_638):
        (folder / f"{number:06d}.png").write_bytes(_image((number % 256, 0, 0)))
    sizes = {
        s: len(data.load("celeb_a", s, tmp_path, cache_dir=tmp_path / "c").images)
        for s in ("train", "validation", "test")
    }
    assert sizes == {"train": 2, "validation": 1, "test": 1}


@pytest.mark.slow
def test_mnist_from_the_real_files(data_dir, tmp_path):
    test = data.load("mnist", "test", data_dir, cache_dir=tmp_path)
    assert test.images.shape == (10_000, 28, 28, 1)
    assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.mark.parametrize("name", sorted(toy.DISTRIBUTIONS))
def test_toys_have_their_support(name):
    x = toy.DISTRIBUTIONS[name](jax.random.key(0), 4000)
    assert x.shape == (4000, 2)
    known = toy.centres_of(name)
    if known:
        distance = jnp.sqrt(jnp.sum((x[:, None] - known[0]) ** 2, -1).min(1)) / known[1]
        assert float(jnp.mean(distance < 3)) == pytest.approx(0.989, abs=4 * np.sqrt(0.989 * 0.011 / 4000))
    if name == "checkerboard":
        square = jnp.floor(x + 2).astype(int)
        assert set(np.unique(square.sum(1) % 2)) == {0}
    if name == "rings":
        radius = jnp.linalg.norm(x, axis=1)
        assert float(jnp.abs(radius - jnp.round(radius)).max()) < 0.5


def test_every_epoch_is_a_permutation_and_steps_resume(key):
    rows = [data.batch_index(key, step, 103, 10) for step in range(20)]
    assert len(set(np.concatenate(rows[:10]))) == 100
    assert not np.array_equal(rows[0], rows[10])
    images = np.arange(103)
    whole = [np.asarray(batch[0]) for batch in data.batches(key, (images,), 10, stop=20)]
    later = [np.asarray(batch[0]) for batch in data.batches(key, (images,), 10, start=13, stop=20)]
    np.testing.assert_array_equal(whole[13:], later)
    assert len(whole) == 20


def test_batches_larger_than_the_set_raise(key):
    with pytest.raises(ValueError, match="choose 1 to 5"):
        data.batch_index(key, 0, 5, 6)
