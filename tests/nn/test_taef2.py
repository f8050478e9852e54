"""TAEF2 against NumPy, written from the description of its files: their names, their layout, what follows what."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import otgen as og
from experiments.bench import codec as bench
from otgen.nn import convolution, taef2
from tests.nn.test_convolution import plain

BLOCKS = {"encoder": (1, 3, 4, 5, 7, 8, 9, 11, 12, 13), "decoder": (3, 4, 5, 8, 9, 10, 13, 14, 15, 18)}
POOLED = {"encoder": (11, 12, 13), "decoder": (3, 4, 5)}
BARE = {"encoder": (2, 6, 10), "decoder": (7, 12, 17)}  # convolutions without bias
ENDS = {"encoder": {0: (64, 3), 14: (32, 64)}, "decoder": {1: (64, 32), 19: (3, 64)}}


def made(half, seed=0):
    """Random arrays under the names of a file of weights."""
    rng = np.random.default_rng(seed)
    shapes = {f"{i}.weight": (*channels, 3, 3) for i, channels in ENDS[half].items()}
    shapes |= {f"{i}.bias": channels[:1] for i, channels in ENDS[half].items()}
    shapes |= {f"{i}.weight": (64, 64, 3, 3) for i in BARE[half]}
    for i in BLOCKS[half]:
        shapes |= {f"{i}.conv.{j}.weight": (64, 64, 3, 3) for j in (0, 2, 4)}
        shapes |= {f"{i}.conv.{j}.bias": (64,) for j in (0, 2, 4)}
    for i in POOLED[half]:
        shapes |= {f"{i}.pool.0.weight": (256, 64, 1, 1), f"{i}.pool.3.weight": (64, 256, 1, 1)}
        shapes |= {f"{i}.pool.1.weight": (256,), f"{i}.pool.1.bias": (256,)}
    return {name: (rng.normal(size=it) / np.sqrt(np.prod(it[1:]))).astype(np.float16) for name, it in shapes.items()}


def conv(stored, name, x, stride=1):
    kernel = stored[f"{name}.weight"].astype(np.float64).transpose(2, 3, 1, 0)
    y = plain(x, kernel, stride) if kernel.shape[0] == 3 else x @ kernel[0, 0]
    return y + stored.get(f"{name}.bias", np.float16(0)).astype(np.float64)


def relu(x):
    return np.maximum(x, 0)


def block(stored, i, x):
    if f"{i}.pool.0.weight" in stored:
        y = conv(stored, f"{i}.pool.0", x)
        groups = y.reshape(len(y), -1, 4, y.shape[-1] // 4)
        mean, var = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
        y = ((groups - mean) / np.sqrt(var + 1e-5)).reshape(y.shape)
        y = y * stored[f"{i}.pool.1.weight"].astype(float) + stored[f"{i}.pool.1.bias"].astype(float)
        x = x + conv(stored, f"{i}.pool.3", relu(y))
    y = x
    for j in (0, 2, 4):
        y = conv(stored, f"{i}.conv.{j}", relu(y) if j else y)
    return relu(x + y)


def encoded(stored, x):
    """Latents in float64."""
    x = conv(stored, "0", x)
    for i in range(1, 14):
        x = conv(stored, str(i), x, 2) if f"{i}.weight" in stored else block(stored, i, x)
    return conv(stored, "14", x)


def decoded(stored, z):
    """Images in float64, not clipped."""
    x = relu(conv(stored, "1", 3 * np.tanh(z / 3)))
    for i in range(3, 19):
        if f"{i}.weight" in stored:
            x = conv(stored, str(i), x)
        elif f"{i}.conv.0.weight" in stored:
            x = block(stored, i, x)
        else:
            x = x.repeat(2, 1).repeat(2, 2)
    return conv(stored, "19", x)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of random weights."""
    path = tmp_path_factory.mktemp("taef2")
    for seed, half in enumerate(BLOCKS):
        np.savez(path / f"{half}.npz", **made(half, seed))
    return path


def test_network_of_random_weights_is_that_of_numpy(folder, monkeypatch):
    monkeypatch.setattr(taef2, "convolve", convolution._direct)  # compiles in a tenth of the time
    variables = taef2.load(folder, verify=False)
    assert {it.dtype for it in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    net, images = og.nn.TAEF2(), np.random.default_rng(2).uniform(size=(2, 16, 8, 3)).astype(np.float32)
    latents = jax.jit(lambda v, x: net.apply(v, x, method="encode"))(variables, images)
    out = jax.jit(lambda v, z: net.apply(v, z, method="decode"))(variables, latents)
    stored = [np.load(folder / f"{half}.npz") for half in BLOCKS]
    expected = encoded(dict(stored[0]), images)
    np.testing.assert_allclose(latents, expected, atol=1e-5 * np.abs(expected).max())
    unclipped = decoded(dict(stored[1]), expected)
    assert 0.02 < np.mean((unclipped > 0) & (unclipped < 1)) < 0.98  # something to clip, and something left
    np.testing.assert_allclose(out, unclipped.clip(0, 1), atol=1e-4)


def test_a_pooled_block_in_the_form_of_winograd_is_that_of_numpy(folder):
    params = taef2.load(folder, verify=False)["params"]["encoder"]["blocks_3"]
    x = np.random.default_rng(3).normal(size=(2, 8, 5, 64)).astype(np.float32)
    second = jax.tree.map(lambda leaf: leaf[1], params)
    found, _ = jax.jit(taef2._Block(pooled=True).apply)({"params": second}, x)
    np.testing.assert_allclose(found, block(dict(np.load(folder / "encoder.npz")), 12, x), atol=1e-4)


def test_bfloat16_is_computed_in_and_not_returned():
    net = og.nn.TAEF2("bfloat16")
    traced = jax.make_jaxpr(net.init_with_output)(jax.random.key(0), jnp.zeros((1, 8, 16, 3)))
    assert {str(it.dtype) for it in traced.out_avals} == {"float32"}
    inside = str(traced)
    assert "bf16[1,8,16,64] = conv_general_dilated" in inside
    assert "f32[1,8,16,64] = conv_general_dilated" not in inside.replace("bf16", "")
    with pytest.raises(ValueError, match="precision = 'half': choose one of 'float32', 'bfloat16'"):
        jax.eval_shape(og.nn.TAEF2("half").init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


@pytest.mark.parametrize(
    ("method", "wrong", "message"),
    [
        ("encode", np.zeros((2, 60, 64, 3), np.float32), r"\(2, 60, 64, 3\).* multiples of 8; resize or pad"),
        ("encode", np.zeros((2, 64, 28, 3), np.float32), "multiples of 8"),
        ("encode", np.zeros((0, 64, 64, 3), np.float32), "at least one"),
        ("encode", np.zeros((2, 64, 64, 1), np.float32), "grey ones repeated"),
        ("encode", np.zeros((64, 64, 3), np.float32), r"give \[n, h, w, 3\]"),
        ("encode", np.zeros((2, 3, 64, 64), np.float32), "channels first"),
        ("encode", np.zeros((2, 64, 64, 3), np.uint8), r"uint8: give floats in \[0, 1\], og.nn.to_unit"),
        ("decode", np.zeros((2, 8, 8, 3), np.float32), r"latents have shape \(2, 8, 8, 3\): give \[n, h, w, 32\]"),
        ("decode", np.zeros((8, 8, 32), np.float32), "latents have shape"),
    ],
)
def test_what_cannot_be_encoded_or_decoded_is_refused(method, wrong, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda x: og.nn.TAEF2().apply({"params": {}}, x, method=method), wrong)


def test_weights_must_be_there_whole_and_the_known_ones(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"encoder\.npz; python -m otgen.data.fetch taef2 --data-dir"):
        taef2.load(tmp_path)
    found = hashlib.sha256((folder / "encoder.npz").read_bytes()).hexdigest()[:12]
    with pytest.raises(ValueError, match=rf"encoder\.npz is not the file .* {found}\.\.\., expected 8d29.*; fetch it"):
        taef2.load(folder)
    stored = dict(np.load(folder / "encoder.npz"))
    for changes, message in (
        ({"4.conv.2.weight": np.zeros((64, 64, 3))}, r"4\.conv\.2\.weight.*, not the 110592 numbers of blocks_1"),
        ({"14.bias": np.zeros(0)}, r"holds \(0,\) under 14\.bias, not the 32 numbers of last"),
    ):
        np.savez(tmp_path / "encoder.npz", **{**stored, **changes})
        with pytest.raises(ValueError, match=message):
            taef2.load(tmp_path, verify=False)


def test_real_layers_are_those_of_numpy(data_dir):
    """Three layers: the first convolution, the block behind it, the first halving."""
    stored = dict(np.load(data_dir / "taef2" / "encoder.npz"))
    params = taef2.load(data_dir / "taef2")["params"]["encoder"]
    x = np.asarray(Image.open(data_dir / "cifar10" / "cifar10_batch_0.png"))[:2].reshape(2, 32, 32, 3)[:, :8] / 255

    @jax.jit
    def three(params, x):
        x = taef2._Convolution(64).apply({"params": params["first"]}, x)
        x, _ = taef2._Block().apply({"params": jax.tree.map(lambda leaf: leaf[0], params["blocks_0"])}, x)
        return taef2._Convolution(64, 2, False).apply({"params": params["resize_1"]}, x)

    expected = conv(stored, "2", block(stored, 1, conv(stored, "0", x)), 2)
    np.testing.assert_allclose(three(params, x.astype(np.float32)), expected, atol=1e-4)


def psnr(images, others):
    """Decibels, of images in [0, 1]."""
    return -10 * np.log10(np.mean((np.asarray(images, np.float64) - np.asarray(others, np.float64)) ** 2))


@pytest.mark.slow
def test_real_images_come_back(data_dir):
    """At the decibels that were measured where the weights were converted."""
    variables, net = taef2.load(data_dir / "taef2"), og.nn.TAEF2()
    small = np.asarray(Image.open(data_dir / "cifar10" / "cifar10_batch_0.png"))[:64].reshape(64, 32, 32, 3)
    resized = [np.asarray(Image.fromarray(it).resize((64, 64), Image.Resampling.BICUBIC)) for it in small]
    ocean = np.asarray(Image.open(data_dir / "pot_images" / "ocean_day.jpg").convert("RGB").resize((256, 256)))
    for images, expected in ((ocean[None], 35.1), (np.stack(resized), 30.3)):
        images = images / np.float32(255)
        back = jax.jit(net.apply)(variables, images)
        assert abs(psnr(back, images) - expected) < 0.3


@pytest.mark.slow
def test_benchmark_has_rates_of_all_sizes(data_dir, monkeypatch):
    small = np.random.default_rng(0).uniform(size=(2, 8, 16, 3)).astype(np.float32)
    monkeypatch.setattr(bench, "pictures", lambda folder: [small, small[:1]])
    results = bench.main(bench.Config.smoke(data_dir=str(data_dir)))
    assert list(results["images_per_second"]) == ["8 px, 2 at a time", "8 px, 1 at a time"]
    for row in results["images_per_second"].values():
        for half in ("encode", "decode"):
            assert row[half]["fastest"] >= row[half]["median"] > 0
            assert row[half]["per_core"] > 0
    assert min(min(it.values()) for it in results["gflops"].values()) > 0
