"""From downloads and files given by hand to what the loaders read; from the real ones to the very bytes."""

import gzip
import io
import tarfile
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otgen import data, eval
from otgen.data import idx
from otgen.data.fetch import ENTRIES, checkpoints, fetch, held
from otgen.data.fetch.__main__ import main
from otgen.data.fetch.download import sha256_of
from otgen.nn import inception, taef2
from tests.support import checkpoint
from tests.support.server import serve

RANDOM = np.random.default_rng(0)


def idx_bytes(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    return gzip.compress(header + array.tobytes())


@pytest.fixture
def mnist_files():
    """A small set in the files of MNIST, by name."""
    images, labels = RANDOM.integers(0, 256, (12, 28, 28), np.uint8), np.arange(12, dtype=np.uint8) % 10
    return {name: idx_bytes(labels if "labels" in name else images) for name in idx.SHA256["mnist"]}


def urls_on(site, name):
    return {it.name: (f"{site.url}/{it.name}",) for it in ENTRIES[name].files}


def below(folder):
    return sorted(it.relative_to(folder).as_posix() for it in folder.rglob("*") if it.is_file())


def test_a_download_that_broke_off_is_resumed_and_leaves_only_what_is_read(mnist_files, tmp_path, monkeypatch):
    monkeypatch.setattr("otgen.data.fetch.download.time.sleep", lambda _: None)
    first, *_, last = (it.name for it in ENTRIES["mnist"].files)
    with serve({f"/{name}": raw for name, raw in mnist_files.items()}) as site:
        rest = {"urls": urls_on(site, "mnist"), "verify": False, "progress": False}
        whole = site.files.pop(f"/{last}")
        with pytest.raises(ConnectionError, match=f"{last} cannot be downloaded"):
            fetch("mnist", tmp_path, **rest)
        assert held("mnist", tmp_path) == []
        site.files[f"/{last}"], site.breaks, before = whole, [100], len(site.asked)
        fetch("mnist", tmp_path, **rest)
        assert f"/{first}" not in [path for path, _ in site.asked[before:]]
        asked = len(site.asked)
        fetch("mnist", tmp_path, **rest)
        assert len(site.asked) == asked  # nothing that is there is asked for
    assert below(tmp_path) == [f"mnist/{name}" for name in sorted(mnist_files)]
    assert all((tmp_path / "mnist" / name).read_bytes() == raw for name, raw in mnist_files.items())


def test_what_is_not_the_known_file_is_told_and_not_put_there(mnist_files, tmp_path):
    told = pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz is not the file that is known")
    with serve({f"/{name}": raw for name, raw in mnist_files.items()}) as site, told:
        fetch("mnist", tmp_path / "data", progress=False, urls=urls_on(site, "mnist"))
    for name, raw in mnist_files.items():
        (tmp_path / name).write_bytes(raw)
    with pytest.raises(ValueError, match=r"is not the file that is known: .* expected 440fcabf73cc\.\.\.; fetch it"):
        fetch("mnist", tmp_path / "data", [tmp_path])
    assert below(tmp_path / "data") == []
    fetch("mnist", tmp_path / "data", [tmp_path], verify=False)
    with pytest.raises(ValueError, match="move it away, or --overwrite it"):
        fetch("mnist", tmp_path / "data")


def test_files_are_found_in_archives_and_what_lacks_is_told(mnist_files, tmp_path):
    with zipfile.ZipFile(tmp_path / "it.zip", "w") as archive:
        for name, raw in mnist_files.items():
            archive.writestr(f"../away/{name}", raw)
    fetch("mnist", tmp_path / "data", [tmp_path / "it.zip"], verify=False)
    assert below(tmp_path) == ["data/mnist/" + name for name in sorted(mnist_files)] + ["it.zip"]
    with pytest.raises(FileNotFoundError, match=r"bias_conv\.dat, .* and 148 more: not in .*it\.zip; give w"):
        fetch("inception", tmp_path / "data", [tmp_path / "it.zip"])
    with pytest.raises(FileNotFoundError, match="nothing is there; give cifar-10-binary"):
        fetch("cifar10", tmp_path / "data", [tmp_path / "none"])
    (tmp_path / "it.tar").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"it\.tar is no archive"):
        fetch("mnist", tmp_path / "other", [tmp_path / "it.tar"])
    with pytest.raises(ValueError, match="name = 'imagenet': choose one of 'mnist'"):
        fetch("imagenet", tmp_path)


def test_cifar10_is_loaded_as_it_is_published(tmp_path):
    images, labels = RANDOM.integers(0, 256, (12, 3, 32, 32), np.uint8), RANDOM.integers(0, 10, 12, np.uint8)
    rows = [bytes([label]) + image.tobytes() for label, image in zip(labels, images, strict=True)]
    with tarfile.open(tmp_path / "it.tar.gz", "w:gz") as archive:
        for i, name in enumerate([*(f"data_batch_{i}.bin" for i in (2, 1, 3, 4, 5)), "test_batch.bin"]):
            member, raw = tarfile.TarInfo(f"cifar-10-batches-bin/{name}"), b"".join(rows[2 * i : 2 * i + 2])
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    made = fetch("cifar10", tmp_path / "data", [tmp_path / "it.tar.gz"], verify=False)
    assert made == [tmp_path / "data" / "cifar10" / "cifar10.zip"]
    for split, which in (("train", range(10)), ("test", range(10, 12))):
        found = data.load("cifar10", split, tmp_path / "data", cache_dir=tmp_path / "cache")
        want = sorted((images[i].transpose(1, 2, 0).tobytes(), int(labels[i])) for i in which)
        classes = np.unique(labels)  # of these few
        got = [(image.tobytes(), int(classes[label])) for image, label in zip(found.images, found.labels, strict=True)]
        assert sorted(got) == want
    with zipfile.ZipFile(made[0]) as archive:  # numbered in the order of the batches, whatever that of the archive
        first = next(name for name in archive.namelist() if name.endswith("00000.ppm"))
        assert archive.read(first).endswith(images[2].transpose(1, 2, 0).tobytes())
    again = sha256_of(made[0])
    fetch("cifar10", tmp_path / "data", [tmp_path / "it.tar.gz"], verify=False, overwrite=True)
    assert sha256_of(made[0]) == again
    with pytest.raises(ValueError, match=r"is not the binary version of CIFAR-10 .*data_batch_1.*: give"):
        fetch("cifar10", tmp_path / "other", [_empty_tar(tmp_path / "python.tar.gz")], verify=False)


def _empty_tar(path):
    tarfile.open(path, "w:gz").close()
    return path


def test_images_that_are_there_already_are_kept(tmp_path):
    (tmp_path / "cifar10" / "train").mkdir(parents=True)
    assert fetch("cifar10", tmp_path) == [tmp_path / "cifar10" / "train"]


def test_other_weights_are_refused_unless_they_are_asked_for(tmp_path):
    shapes = {"c1": (6, 1, 5, 5), "c3": (16, 6, 5, 5), "c5": (120, 16, 5, 5)}
    weights = {f"convnet.{name}.weight": RANDOM.normal(size=it).astype(np.float32) for name, it in shapes.items()}
    weights |= {f"convnet.{name}.bias": np.zeros(it[0], np.float32) for name, it in shapes.items()}
    weights |= {"fc.f6.weight": np.ones((84, 120), np.float32), "fc.f6.bias": np.ones(84, np.float32)}
    checkpoint.write(tmp_path / "mine.pth", weights)
    with pytest.raises(FileNotFoundError, match=r"python -m otgen\.data\.fetch lenet --data-dir"):
        eval.lenet(tmp_path / "data")
    with pytest.raises(ValueError, match=r"lenet\.npz is not the file .*made of .*mine\.pth; --no-verify takes it"):
        fetch("lenet", tmp_path / "data", [tmp_path / "mine.pth"])
    assert below(tmp_path / "data") == []
    fetch("lenet", tmp_path / "data", [tmp_path / "mine.pth"], verify=False)
    features = eval.lenet(tmp_path / "data")(RANDOM.uniform(size=(2, 28, 28, 1)))
    assert features.shape == (2, 84)
    assert np.isfinite(features).all()


def test_the_catalogue_knows_what_the_loaders_read():
    names = jax.eval_shape(inception.Inception().init, jax.random.key(0), jnp.zeros((1, 299, 299, 3)))["params"]
    wanted = {f"{kind}_{name}.dat" for name in names for kind in ("weights", "bias")}
    assert {it.name for it in ENTRIES["inception"].files} == wanted
    assert ENTRIES["taef2"].makes == {f"{half}.npz": sha256 for half, sha256 in taef2.SHA256.items()}
    for name, file in (("lenet", eval.features.LENET_FILE), ("inception", eval.features.INCEPTION_FILE)):
        assert [f"{ENTRIES[name].folder}/{it}" for it in ENTRIES[name].makes] == [file]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["lenet", "taef2"])
def test_the_published_weights_become_the_known_files(data_dir, tmp_path, name, stream):
    """Written as a checkpoint, in single precision, the arrays that are known are converted to the very same bytes."""
    given = []
    for published, file in zip(ENTRIES[name].files, ENTRIES[name].makes, strict=True):
        with np.load(data_dir / ENTRIES[name].folder / file) as known:
            checkpoint.write(tmp_path / published.name, {key: known[key].astype("<f4") for key in known}, stream)
        given.append(tmp_path / published.name)
    made = fetch(name, tmp_path / "data", given)  # raises for another checksum
    assert list(checkpoints.read(given[0])) == list(np.load(made[0]))


def test_the_published_layers_of_inception_become_the_known_file(data_dir, tmp_path):
    known = data_dir / eval.features.INCEPTION_FILE
    assert fetch("inception", tmp_path, [known]) == [tmp_path / eval.features.INCEPTION_FILE]


def test_the_command_lists_fetches_and_says_errors_in_a_line(mnist_files, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("OTGEN_DATA", raising=False)
    for name, raw in mnist_files.items():
        (tmp_path / name).write_bytes(raw)
    main(["mnist", "--data-dir", str(tmp_path / "data"), "--from", str(tmp_path), "--no-verify"])
    assert f"mnist: {tmp_path / 'data' / 'mnist' / 'train-images-idx3-ubyte.gz'}" in capsys.readouterr().out
    main(["--list", "--data-dir", str(tmp_path / "data")])
    there = {line.split()[0]: line.split()[3] for line in capsys.readouterr().out.splitlines()[1:]}
    assert there == {name: "yes" if name == "mnist" else "no" for name in ENTRIES}
    for words, message in (
        (["mnist"], "give --data-dir"),
        (["nothing", "--data-dir", "."], "name = 'nothing': choose"),
        (["mnist", "lenet", "--data-dir", ".", "--from", "it"], "--from is for one name"),
        (["fashion-mnist", "--data-dir", str(tmp_path / "data"), "--from", "none"], "nothing is there"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(words)
