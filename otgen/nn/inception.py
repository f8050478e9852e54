"""Inception-v3 of 2015 up to mixed_8: the network in whose features the Frechet Inception distance is taken."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen.ot.products import contract, product
from otgen.types import Array

SIDE = 299  # pixels along a side of what the network sees
DIMS = (64, 192, 768, 1280)  # features after the first max pool, the second, mixed_7 and mixed_8


class Convolution(nn.Module):
    """A convolution with bias: parameters `kernel` [kh, kw, in, out] and `bias` [out].

    Attributes:
      features: output channels.
      kernel: height and width.
      stride: step along both sides.
      padding: "SAME" or "VALID".
    """

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return responses [n, h', w', features] to x [n, h, w, c], not rectified."""
        kernel = self.param("kernel", nn.initializers.he_normal(), (*self.kernel, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if self.kernel == (1, 1):  # as a product of matrices: twice as fast as a convolution on a CPU
            return product(x, kernel[0, 0]) + bias
        # XLA on CPUs takes two to three times as long without padding: pad by one stride, drop what comes of it.
        valid = self.padding == "VALID"
        padding = ((self.stride, 0),) * 2 if valid else "SAME"
        strides, layout = (self.stride, self.stride), ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=layout, precision="highest")
        return (y[:, 1:, 1:] if valid else y) + bias


class Inception(nn.Module):
    """Inception-v3 up to and including mixed_8, batch normalisation folded into the convolutions.

    Parameters are named as in TensorFlow's graph of 2015-12-05: its mixed_4/tower_1/conv_2 is `mixed_4_tower_1_conv_2`,
    with `kernel` [kh, kw, in, out] and `bias` [out]. Average pools leave padding out of the count.

    Attributes:
      dims: which of DIMS to return; the network is followed no deeper than they need.

    Reference: Szegedy et al. (2016), arXiv 1512.00567; Heusel et al. (2017), arXiv 1706.08500.
    """

    dims: tuple[int, ...] = DIMS

    @nn.compact
    def __call__(self, x: Array) -> dict[int, Array]:
        """Global averages {d: [n, d]} of layers, from inputs [n, 299, 299, 3] in [-1, 1]."""
        layers = {64: self._first, 192: self._second, 768: self._middle, 1280: self._last}
        found = {}
        for dim, layer in layers.items():
            if dim <= max(self.dims):
                x = layer(x)
                found[dim] = x.mean((1, 2))
        return {dim: found[dim] for dim in self.dims}

    def _first(self, x: Array) -> Array:
        x = _unit("conv", x, 32, (3, 3), stride=2, padding="VALID")
        x = _unit("conv_1", x, 32, (3, 3), padding="VALID")
        return max_pool(_unit("conv_2", x, 64, (3, 3)))

    def _second(self, x: Array) -> Array:
        x = _unit("conv_3", x, 80)
        return max_pool(_unit("conv_4", x, 192, (3, 3), padding="VALID"))

    def _middle(self, x: Array) -> Array:
        for name, pooled in (("mixed", 32), ("mixed_1", 64), ("mixed_2", 64)):
            x = _narrow(name, x, pooled)
        tower = _chain("mixed_3_tower", x, (64, (1, 1)), (96, (3, 3)), (96, (3, 3)), halve=True)
        x = jnp.concatenate([_chain("mixed_3", x, (384, (3, 3)), halve=True), tower, max_pool(x)], -1)
        for name, inner in (("mixed_4", 128), ("mixed_5", 160), ("mixed_6", 160), ("mixed_7", 192)):
            x = _wide(name, x, inner)
        return x

    def _last(self, x: Array) -> Array:
        tower = _chain("mixed_8_tower", x, (192, (1, 1)), (320, (3, 3)), halve=True)
        units = [(192, (1, 1)), (192, (1, 7)), (192, (7, 1)), (192, (3, 3))]
        return jnp.concatenate([tower, _chain("mixed_8_tower_1", x, *units, halve=True), max_pool(x)], -1)


def max_pool(x: Array) -> Array:
    """Return largest values of x [n, h, w, c] in windows of 3 x 3, two pixels apart, without padding."""
    return nn.max_pool(x, (3, 3), (2, 2), "VALID")


def average_pool(x: Array) -> Array:
    """Return averages of x [n, h, w, c] over windows of 3 x 3; at the border over the pixels inside."""
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def _unit(name: str, x: Array, features: int, kernel: tuple[int, int] = (1, 1), **options: Any) -> Array:
    """Return a rectified convolution of the module whose compact method is running."""
    return nn.relu(Convolution(features, kernel, name=name, **options)(x))


def _chain(name: str, x: Array, *units: tuple[int, tuple[int, int]], halve: bool = False) -> Array:
    """Rectified convolutions in a row, named conv, conv_1, ...; the last one halves the sides if asked to."""
    for i, (features, kernel) in enumerate(units):
        options = {"stride": 2, "padding": "VALID"} if halve and i == len(units) - 1 else {}
        x = _unit(f"{name}_conv" + (f"_{i}" if i else ""), x, features, kernel, **options)
    return x


def _pooled(name: str, x: Array, features: int) -> Array:
    """A 1 x 1 convolution of averages, as averages of the convolution: the same by linearity, on fewer channels."""
    return nn.relu(average_pool(Convolution(features, name=f"{name}_tower_2_conv")(x)))


def _narrow(name: str, x: Array, pooled: int) -> Array:
    """Return a block at 35 x 35: windows of 1, 5, and 3 twice, and an average pool."""
    towers = [
        _chain(name, x, (64, (1, 1))),
        _chain(f"{name}_tower", x, (48, (1, 1)), (64, (5, 5))),
        _chain(f"{name}_tower_1", x, (64, (1, 1)), (96, (3, 3)), (96, (3, 3))),
        _pooled(name, x, pooled),
    ]
    return jnp.concatenate(towers, -1)


def _wide(name: str, x: Array, inner: int) -> Array:
    """Return a block at 17 x 17: windows of 7 once and twice, as rows and columns in turn, and an average pool."""
    row, column = (1, 7), (7, 1)
    twice = [(inner, (1, 1)), (inner, column), (inner, row), (inner, column), (192, row)]
    towers = [
        _chain(name, x, (192, (1, 1))),
        _chain(f"{name}_tower", x, (inner, (1, 1)), (inner, row), (192, column)),
        _chain(f"{name}_tower_1", x, *twice),
        _pooled(name, x, 192),
    ]
    return jnp.concatenate(towers, -1)


def resize(images: ArrayLike, side: int = SIDE) -> Array:
    """Resize images [n, h, w, c] to [n, side, side, c] as the 2015 graph does: TensorFlow 1's `resize_bilinear`.

    Its align_corners is False and it has no half-pixel centres: output row i reads input row i h/side, between its
    neighbours above and below, the last row repeated. (`jax.image.resize` and Pillow have half-pixel centres.)

    Args:
      images: [n, h, w, c], any scale.
      side: pixels along a side of the result.

    Reference: TensorFlow 1, tf.image.resize_bilinear with its default arguments.
    """
    images = jnp.asarray(images, jnp.float32)
    rows, columns = (_interpolation(length, side) for length in images.shape[1:3])
    return contract("ih,nhwc,jw->nijc", rows, images, columns)


def _interpolation(length: int, side: int) -> np.ndarray:
    """Return the matrix [side, length] that interpolates between the entries of a line."""
    place = np.arange(side, dtype=np.float32) * (np.float32(length) / np.float32(side))
    low = np.minimum(np.floor(place).astype(int), length - 1)
    share = (place - low).astype(np.float32)
    matrix = np.zeros((side, length), np.float32)
    np.add.at(matrix, (np.arange(side), low), 1 - share)
    np.add.at(matrix, (np.arange(side), np.minimum(low + 1, length - 1)), share)
    return matrix


def read(path: str | os.PathLike) -> dict[str, Any]:
    """Read the variables of `Inception` from an archive of weights_NAME.dat and bias_NAME.dat.

    Args:
      path: tar of little-endian float32 files, kernels laid out [out, kh, kw, in].

    Returns:
      {"params": ...}, kernels [kh, kw, in, out].

    Raises:
      FileNotFoundError: if there is no such archive.
      ValueError: if a layer is missing or has another number of weights.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"the Inception weights are missing: looked for {path}; python -m otgen.data.fetch inception --data-dir "
            f"{Path(path).parent.parent} fetches them; or use lenet or pixels."
        )
    with tarfile.open(path) as archive:
        files = {Path(item.name).name: archive.extractfile(item).read() for item in archive if item.isfile()}
    wanted = jax.eval_shape(Inception().init, jax.random.key(0), jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32))
    params = {}
    for name, shapes in wanted["params"].items():
        kh, kw, inputs, outputs = shapes["kernel"].shape
        kernel = _numbers(files, f"weights_{name}.dat", (outputs, kh, kw, inputs), path)
        bias = _numbers(files, f"bias_{name}.dat", (outputs,), path)
        params[name] = {"kernel": jnp.asarray(kernel.transpose(1, 2, 3, 0)), "bias": jnp.asarray(bias)}
    return {"params": params}


def _numbers(files: dict[str, bytes], name: str, shape: tuple[int, ...], path: Any) -> np.ndarray:
    numbers = np.frombuffer(files.get(name, b""), "<f4")
    if numbers.size != np.prod(shape):
        raise ValueError(f"{name} in {path} holds {numbers.size} numbers, not {shape}: fetch the archive anew.")
    return numbers.reshape(shape)
