import gzip
import io
import tarfile

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments.bench import features as bench
from otgen import data
from otgen import eval as evaluate
from otgen.eval import features
from otgen.nn import inception as network
from otgen.ot.gaussian import frechet


def naive_convolution(x, kernel, bias, stride, same):
    """A loop over the output in float64, [n, h, w, c] and [kh, kw, in, out]."""
    kh, kw = kernel.shape[:2]
    x = np.asarray(x, np.float64)
    if same:
        x = np.pad(x, ((0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0)))
    rows, columns = (x.shape[1] - kh) // stride + 1, (x.shape[2] - kw) // stride + 1
    found = np.empty((len(x), rows, columns, kernel.shape[3]))
    for i in range(rows):
        for j in range(columns):
            window = x[:, i * stride : i * stride + kh, j * stride : j * stride + kw]
            found[:, i, j] = np.tensordot(window, np.asarray(kernel, np.float64), 3)
    return found + np.asarray(bias, np.float64)


def naive_pool(x, stride, same, average):
    """Largest or mean value in windows of 3 x 3, over the pixels inside the image."""
    top = int(same)
    rows, columns = ((length - 3 + 2 * top) // stride + 1 for length in x.shape[1:3])
    found = np.empty((len(x), rows, columns, x.shape[3]))
    for i in range(rows):
        for j in range(columns):
            up, left = i * stride - top, j * stride - top
            window = x[:, max(up, 0) : up + 3, max(left, 0) : left + 3]
            found[:, i, j] = window.mean((1, 2)) if average else window.max((1, 2))
    return found


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((1, 1), 1, "SAME"), ((7, 1), 1, "SAME"), ((1, 7), 1, "SAME"), ((3, 3), 2, "VALID")],
)
def test_convolution_is_a_plain_loop(key, kernel, stride, padding):
    module = network.Convolution(5, kernel, stride, padding)
    x = jax.random.normal(key, (2, 9, 8, 3))
    weights = {"kernel": jax.random.normal(key, (*kernel, 3, 5)), "bias": jnp.arange(5.0)}
    expected = naive_convolution(x, weights["kernel"], weights["bias"], stride, padding == "SAME")
    np.testing.assert_allclose(module.apply({"params": weights}, x), expected, atol=1e-4)


def test_average_pool_leaves_padding_out_of_the_count(key):
    x = jax.random.normal(key, (2, 5, 6, 3)) + 10
    np.testing.assert_allclose(network.average_pool(x), naive_pool(np.asarray(x), 1, True, True), rtol=1e-6)
    np.testing.assert_allclose(network.average_pool(jnp.ones((1, 4, 4, 1))), 1, rtol=1e-6)


class Block(nn.Module):
    """A block at 17 x 17, on its own."""

    @nn.compact
    def __call__(self, x):
        return network._wide("mixed_4", x, 4)


def test_block_is_towers_in_order_with_the_pool_before_its_convolution(key):
    x = jax.random.normal(key, (2, 6, 7, 8))
    shapes = jax.eval_shape(Block().init, key, x)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32) / np.sqrt(np.prod(p.shape[:3])), shapes)

    def run(y, *names):
        for name in names:
            y = np.maximum(naive_convolution(y, params[name]["kernel"], params[name]["bias"], 1, True), 0)
        return y

    def chain(tower, num):
        return [f"mixed_4{tower}_conv" + (f"_{i}" if i else "") for i in range(num)]

    plain = np.asarray(x, np.float64)
    towers = [run(plain, *chain(tower, num)) for tower, num in (("", 1), ("_tower", 3), ("_tower_1", 5))]
    towers.append(run(naive_pool(plain, 1, True, True), "mixed_4_tower_2_conv"))
    kernels = [params[name]["kernel"].shape[:2] for name in chain("_tower", 3) + chain("_tower_1", 5)]
    assert kernels == [(1, 1), (1, 7), (7, 1), (1, 1), (7, 1), (1, 7), (7, 1), (1, 7)]
    found = jax.jit(Block().apply)({"params": params}, x)
    np.testing.assert_allclose(found, np.concatenate(towers, -1), atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 30, 20, 1)])
def test_resize_is_the_bilinear_of_tensorflow_1(key, shape):
    images = np.asarray(jax.random.uniform(key, shape), np.float64)
    _, h, w, _ = shape
    expected = np.empty((shape[0], 23, 23, shape[3]))
    for i in range(23):
        for j in range(23):
            row, column = i * h / 23, j * w / 23  # no half-pixel centres: output (0, 0) is input (0, 0)
            up, left = int(row), int(column)
            down, right = min(up + 1, h - 1), min(left + 1, w - 1)
            upper = images[:, up, left] + (column - left) * (images[:, up, right] - images[:, up, left])
            lower = images[:, down, left] + (column - left) * (images[:, down, right] - images[:, down, left])
            expected[:, i, j] = upper + (row - up) * (lower - upper)
    np.testing.assert_allclose(network.resize(jnp.asarray(images, jnp.float32), 23), expected, atol=3e-6)


def test_an_image_of_the_right_size_is_left_alone():
    images = np.random.default_rng(0).uniform(size=(1, 12, 12, 2)).astype(np.float32)
    np.testing.assert_array_equal(network.resize(images, 12), images)


def test_archive_must_be_there_and_whole(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        features.inception(tmp_path)
    path = tmp_path / "part.tar"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("bias_conv.dat"), io.BytesIO())
    with pytest.raises(ValueError, match=r"weights_\w+.dat in .*part.tar holds 0 numbers"):
        network.read(path)
    with pytest.raises(ValueError, match=r"choose one of \(64, 192, 768, 1280\)"):
        features.inception(tmp_path, dim=2048)


def test_streamed_moments_are_the_moments_of_everything():
    images = data.load("digits", "train").images / np.float32(255)
    streamed = features.moments_of(features.pixels, (images[i : i + 300] for i in range(0, 1300, 300)))
    whole = frechet.moments(features.pixels(images[:1500]))
    assert float(streamed.count) == len(images) == 1437
    flat = images.reshape(1437, -1).astype(np.float64)
    for found in (streamed, whole):
        np.testing.assert_allclose(found.mean, flat.mean(0), atol=1e-6)
        np.testing.assert_allclose(found.covariance(), np.cov(flat.T), atol=1e-6)


def test_frechet_distance_from_streamed_moments():
    train, test = (data.load("digits", split).images / np.float32(255) for split in ("train", "test"))
    halves = features.Extractor("upper half", lambda images: images[:, :4].reshape(len(images), -1))
    streamed = [features.moments_of(halves, np.array_split(images, 3)) for images in (train, test)]
    direct = frechet.frechet_distance(halves(train), halves(test))
    assert float(direct) > 0.01
    assert float(frechet.frechet_distance(*streamed)) == pytest.approx(float(direct), rel=1e-3)


def test_moments_need_batches():
    with pytest.raises(ValueError, match=r"give several, or \[images\]"):
        features.moments_of(features.pixels, np.zeros((5, 8, 8, 1)))
    with pytest.raises(ValueError, match="no batch"):
        features.moments_of(features.pixels, iter([]))


def test_extractor_carries_its_name_and_holds_its_function_to_rows():
    assert features.pixels.name == "pixels"
    raw = np.arange(48, dtype=np.uint8).reshape(2, 4, 6, 1)
    for images in (raw, raw / np.float32(255)):
        np.testing.assert_allclose(features.pixels(images), raw.reshape(2, 24) / 255, rtol=1e-6)
    mine = features.Extractor("row means", lambda images: np.mean(images, (2, 3)))
    assert repr(mine) == "Extractor(name='row means')"
    np.testing.assert_allclose(mine(np.ones((3, 4, 5, 1))), np.ones((3, 4)))
    with pytest.raises(ValueError, match=r"'mean' made \(3,\) of 3 images"):
        features.Extractor("mean", lambda images: np.mean(images, (1, 2, 3)))(np.ones((3, 4, 5, 1)))


def test_lenet_reads_digits(data_dir):
    images, labels = (
        np.frombuffer(gzip.decompress((data_dir / "mnist" / name).read_bytes()), np.uint8)[header:]
        for name, header in (("t10k-images-idx3-ubyte.gz", 16), ("t10k-labels-idx1-ubyte.gz", 8))
    )
    raw = images.reshape(-1, 28, 28, 1)[:3000]
    images = raw / np.float32(255)
    lenet = evaluate.lenet(data_dir)
    found = lenet(images)
    assert lenet.name == "LeNet (MNIST), 84-d"
    assert found.shape == (3000, 84)
    assert float(jnp.abs(found).max()) <= 1
    with np.load(data_dir / "lenet_mnist" / "lenet.npz") as weights:
        logits = np.asarray(found) @ weights["fc.f7.weight"].T + weights["fc.f7.bias"]
    assert np.mean(logits.argmax(1) == labels[:3000]) > 0.97
    np.testing.assert_allclose(features.digit_classifier(data_dir)(images), logits, atol=1e-4)
    for images_alone in (images[:3], raw[:3]):  # floats in [0, 1], then uint8
        np.testing.assert_allclose(lenet(images_alone), found[:3], atol=1e-5)
    np.testing.assert_allclose(lenet(images[400:1100]), found[400:1100], atol=1e-5)


def test_lenet_says_what_it_needs(data_dir, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lenet\.npz"):
        evaluate.lenet(tmp_path)
    lenet = evaluate.lenet(data_dir)
    with pytest.raises(ValueError, match=r"28, 28, 1"):
        lenet(np.zeros((2, 32, 32, 1)))
    with pytest.raises(ValueError, match=r"lie in \[0, 255\]: scale them"):
        lenet(np.linspace(0, 255, 784).reshape(1, 28, 28, 1))
    with pytest.raises(ValueError, match="NaN"):
        lenet(np.full((1, 28, 28, 1), np.nan))
    with pytest.raises(ValueError, match="int64"):
        lenet(np.zeros((1, 28, 28, 1), np.int64))


def float64_inception(params, x):
    """Inception in NumPy and float64, written from the table of blocks in the paper; shapes are the weights' own."""

    def unit(x, name, stride=1, same=True):
        kernel, bias = (np.asarray(params[name][part], np.float64) for part in ("kernel", "bias"))
        kh, kw = kernel.shape[:2]
        pad = (kh // 2, kw // 2) if same else (0, 0)
        x = np.pad(x, ((0, 0), (pad[0], pad[0]), (pad[1], pad[1]), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(x, (kh, kw), (1, 2))[:, ::stride, ::stride]
        return np.maximum(np.einsum("nijckl,klco->nijo", windows, kernel, optimize=True) + bias, 0)

    def chain(x, name, num, halve=False):
        for i in range(num):
            end = halve and i == num - 1
            x = unit(x, f"{name}_conv" + (f"_{i}" if i else ""), 2 if end else 1, not end)
        return x

    def down(x):
        return naive_pool(x, 2, False, False)

    found = {}
    x = unit(unit(x, "conv", 2, False), "conv_1", 1, False)
    x = down(unit(x, "conv_2"))
    found[64] = x
    x = found[192] = down(unit(unit(x, "conv_3"), "conv_4", 1, False))
    for name, towers in {"mixed": (1, 2, 3), "mixed_1": (1, 2, 3), "mixed_2": (1, 2, 3), "mixed_3": None}.items():
        if towers is None:
            x = np.concatenate([chain(x, name, 1, True), chain(x, f"{name}_tower", 3, True), down(x)], -1)
        else:
            x = blocks(x, name, towers, chain, unit)
    for name in ("mixed_4", "mixed_5", "mixed_6", "mixed_7"):
        x = blocks(x, name, (1, 3, 5), chain, unit)
    found[768] = x
    towers = [chain(x, "mixed_8_tower", 2, True), chain(x, "mixed_8_tower_1", 4, True), down(x)]
    found[1280] = np.concatenate(towers, -1)
    return {dim: x.mean((1, 2)) for dim, x in found.items()}


def blocks(x, name, towers, chain, unit):
    columns = [chain(x, f"{name}{tower}", num) for tower, num in zip(("", "_tower", "_tower_1"), towers, strict=True)]
    return np.concatenate([*columns, unit(naive_pool(x, 1, True, True), f"{name}_tower_2_conv")], -1)


@pytest.mark.slow
def test_inception_on_real_images(data_dir):
    rows = np.asarray(Image.open(data_dir / "cifar10" / "cifar10_batch_0.png"))
    images = rows.reshape(1000, 32, 32, 3)[:16]
    together = features.inception_all(data_dir)(images)
    params = network.read(data_dir / features.INCEPTION_FILE)["params"]
    expected = float64_inception(params, np.asarray(network.resize(images[:1]), np.float64) / 128 - 1)
    for dim in network.DIMS:
        found = np.asarray(together[dim])
        assert found.shape == (16, dim)
        assert np.isfinite(found).all()
        assert len(np.unique(found.round(3), axis=0)) == 16
        np.testing.assert_allclose(found[:1], expected[dim], atol=2e-5)
    extractor = features.inception(data_dir)
    assert extractor.name == "Inception-v3 2015, 768-d"
    np.testing.assert_allclose(extractor(images[:3] / np.float32(255)), together[768][:3], atol=1e-5)
    np.testing.assert_allclose(features.inception(data_dir, 768, piece=5)(images[:7]), together[768][:7], atol=1e-5)


@pytest.mark.slow
def test_inception_takes_grey_images_and_no_others(data_dir, key):
    grey = np.asarray(jax.random.uniform(key, (2, 28, 28, 1)))
    extractor = features.inception(data_dir, 64)
    np.testing.assert_allclose(extractor(grey), extractor(np.repeat(grey, 3, 3)), atol=1e-5)
    for wrong, message in ((grey[..., 0], "1 or 3"), (np.repeat(grey, 2, 3), "1 or 3"), (grey * 255, "scale them")):
        with pytest.raises(ValueError, match=message):
            extractor(wrong)


@pytest.mark.slow
def test_benchmark_goes_on_from_its_files(data_dir, tmp_path):
    config = bench.Config.smoke(data_dir=str(data_dir), out_folder=str(tmp_path))
    results = bench.main(config)
    assert list(results["features"]) == ["Inception-v3 2015, 768-d", "Inception-v3 2015, 1280-d"]
    for row in results["features"].values():
        assert row["test_accuracy"] > 0.1 + 4 * np.sqrt(0.09 / config.test)  # guessing has 0.1
    labels = data.load("cifar10", "train", data_dir).labels
    order = bench.balanced(labels, 0)
    assert (np.bincount(labels[order[:60]]) == 6).all()
    assert len(np.unique(order)) == len(labels)
    never = lambda images: pytest.fail("the features lie in files")  # noqa: E731
    again, _ = bench.extract(config, "train", config.train, never)
    assert again[1280].shape == (60, 1280)


@pytest.mark.slow
def test_features_of_a_codec_are_those_of_its_latents(monkeypatch):
    codec, key = features.codec.TAEF2(), jax.random.key(0)
    variables = jax.jit(lambda: codec.init(key, jnp.zeros((1, 8, 8, 3)), method="encode"))()
    monkeypatch.setattr(features, "_codec_once", lambda folder: variables)
    images = np.random.default_rng(0).integers(0, 256, (3, 35, 32, 1), np.uint8)
    found = evaluate.extractor_of("mine", "nowhere", "codec")(images)
    assert found.shape == (3, 64)
    large = images.repeat(2, 1).repeat(2, 2)[:, :64] / np.float32(255)  # twice 35 is 70: cut to 64
    latents = codec.apply(variables, jnp.asarray(np.broadcast_to(large, (*large.shape[:3], 3))), method="encode")
    latents = np.asarray(latents).reshape(3, -1, 32)
    np.testing.assert_allclose(found, np.concatenate([latents.mean(1), latents.std(1)], 1), rtol=1e-3, atol=1e-4)
