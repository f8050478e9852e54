"""TAEF2, a small pretrained autoencoder of RGB images of any size: 32 numbers for 8 x 8 pixels.

The weights are those of madebyollin/taesd (MIT licence): its taef2_encoder.pth and taef2_decoder.pth, as float16 arrays
under their own names in encoder.npz and decoder.npz. They are read from a folder and are no part of otgen.
"""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen.nn.convolution import convolve
from otgen.nn.precision import compute_type, widened
from otgen.ot.check import as_path, native, require_channels_last
from otgen.types import Array

SCALE = 8  # pixels along a side of what one latent stands for
CHANNELS = 32  # of latents
SHA256 = {
    "encoder": "8d29a72473202a86d1e5e397f7e9921f6365850c16d90efa6d61ba07c089c418",
    "decoder": "b54b4ef48b18aa87384bf8c757615d2dabc935309c3ab4566405a15760e7d954",
}
_WIDTH, _GROUPS, _BOUND = 64, 4, 3.0
_ENCODER, _DECODER = (1, 3, 3, 3), (3, 3, 3, 1)  # blocks at each size
_PLACES: dict[str, dict[str, tuple[int, ...]]] = {  # of our layers in the files
    "encoder": {
        **{"first": (0,), "resize_1": (2,), "resize_2": (6,), "resize_3": (10,), "last": (14,)},
        **{"blocks_0": (1,), "blocks_1": (3, 4, 5), "blocks_2": (7, 8, 9), "blocks_3": (11, 12, 13)},
    },
    "decoder": {
        **{"first": (1,), "resize_1": (7,), "resize_2": (12,), "resize_3": (17,), "last": (19,)},
        **{"blocks_0": (3, 4, 5), "blocks_1": (8, 9, 10), "blocks_2": (13, 14, 15), "blocks_3": (18,)},
    },
}
_STORED = {  # names within a layer
    **{"kernel": "weight", "bias": "bias", "widen.kernel": "pool.0.weight", "narrow.kernel": "pool.3.weight"},
    **{
        f"conv_{i}.{ours}": f"conv.{2 * i}.{its}"
        for i in range(3)
        for ours, its in (("kernel", "weight"), ("bias",) * 2)
    },
    **{"norm.scale": "pool.1.weight", "norm.bias": "pool.1.bias"},
}


class _Convolution(nn.Module):
    """A convolution with windows of 3 x 3: parameters `kernel` [3, 3, in, out] and `bias` [out], if it has one."""

    features: int
    stride: int = 1
    use_bias: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return responses [n, h / stride, w / stride, features] to x [n, h, w, c]."""
        kernel = self.param("kernel", nn.initializers.he_normal(), (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = convolve(x, kernel, self.stride)
        return y if bias is None else y + bias


class _Block(nn.Module):
    """A residual block: relu(x + f(x)), three convolutions f. Pooled ones add a normalised hidden layer to x first.

    Attributes:
      pooled: whether there is such a layer: four times as wide, a fourth of its channels normalised over all pixels.
      dtype: type computed in.
    """

    pooled: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, _: None = None) -> tuple[Array, None]:
        """Return what becomes of x [n, h, w, c], and None: a step of `nn.scan`."""
        c = x.shape[-1]
        if self.pooled:
            dense = {"use_bias": False, "dtype": self.dtype, "precision": None if self.dtype else "highest"}
            hidden = nn.Dense(4 * c, name="widen", **dense)(x)
            hidden = nn.GroupNorm(_GROUPS, epsilon=1e-5, use_fast_variance=False, dtype=self.dtype, name="norm")(hidden)
            x = x + nn.Dense(c, name="narrow", **dense)(nn.relu(hidden))
        y = x
        for i in range(3):
            y = _Convolution(c, dtype=self.dtype, name=f"conv_{i}")(nn.relu(y) if i else y)
        return nn.relu(x + y), None


class _Half(nn.Module):
    """Residual blocks at four sizes. Between them the sides are halved by a convolution, or doubled before one.

    The blocks of a size are one loop over their parameters: they are compiled once.
    """

    features: int
    depths: tuple[int, ...]
    pooled: int  # the size at which blocks are pooled
    doubling: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = _Convolution(_WIDTH, dtype=self.dtype, name="first")(x)
        x = nn.relu(x) if self.doubling else x
        for size, depth in enumerate(self.depths):
            if size:
                resize = _Convolution(_WIDTH, 1 if self.doubling else 2, False, self.dtype, name=f"resize_{size}")
                x = resize(_doubled(x) if self.doubling else x)
            blocks = nn.scan(_Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=depth)
            x, _ = blocks(size == self.pooled, self.dtype, name=f"blocks_{size}")(x, None)
        return widened(_Convolution(self.features, dtype=self.dtype, name="last")(x))


class TAEF2(nn.Module):
    """The tiny autoencoder of the latent space of FLUX.2, for RGB images whose sides are multiples of 8.

    Called, it returns reconstructions; `encode` and `decode` are its halves. `taef2.load` reads its weights.

    Attributes:
      precision: type that the layers compute in, "float32" or "bfloat16"; parameters and outputs are float32.

    Example:
      >>> import functools
      >>> encode = functools.partial(og.nn.TAEF2().init_with_output, method="encode")
      >>> latents, variables = jax.eval_shape(encode, jax.random.key(0), jnp.zeros((5, 64, 48, 3)))
      >>> print(latents.shape)
      (5, 8, 6, 32)
    """

    precision: str = "float32"

    def setup(self) -> None:
        dtype = compute_type(self.precision)
        self.encoder = _Half(CHANNELS, _ENCODER, len(_ENCODER) - 1, doubling=False, dtype=dtype)
        self.decoder = _Half(3, _DECODER, 0, doubling=True, dtype=dtype)

    def __call__(self, images: ArrayLike) -> Array:
        """Return reconstructions [n, h, w, 3] of images [n, h, w, 3] in [0, 1]."""
        return self.decode(self.encode(images))

    def encode(self, images: ArrayLike) -> Array:
        """Return latents [n, h / 8, w / 8, 32] of images [n, h, w, 3] in [0, 1].

        Raises:
          ValueError: for other shapes, and for pixels that are not floats.
        """
        images = native("images", images)
        require_channels_last("images", images.shape)
        if images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"images have shape {images.shape}: give [n, h, w, 3], grey ones repeated to 3 channels.")
        if images.shape[1] % SCALE or images.shape[2] % SCALE or 0 in images.shape:
            raise ValueError(
                f"images have shape {images.shape}: give at least one, with sides that are multiples of {SCALE}; "
                "resize or pad them."
            )
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(f"images are of type {images.dtype}: give floats in [0, 1], og.nn.to_unit(images).")
        return self.encoder(images)

    def decode(self, latents: ArrayLike) -> Array:
        """Return images [n, 8 h, 8 w, 3] in [0, 1] of latents [n, h, w, 32].

        Raises:
          ValueError: for other shapes.
        """
        latents = native("latents", latents)
        if latents.ndim != 4 or latents.shape[-1] != CHANNELS or 0 in latents.shape:
            raise ValueError(f"latents have shape {latents.shape}: give [n, h, w, {CHANNELS}], at least one of them.")
        return jnp.clip(self.decoder(_BOUND * jnp.tanh(latents / _BOUND)), 0.0, 1.0)


def _doubled(x: Array) -> Array:
    """Return every pixel of x [n, h, w, c] as four."""
    n, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (n, h, 2, w, 2, c)).reshape(n, 2 * h, 2 * w, c)


def load(folder: str | os.PathLike, verify: bool = True) -> dict[str, Any]:
    """Read the variables of `TAEF2`.

    Args:
      folder: that of encoder.npz and decoder.npz, kernels laid out [out, in, kh, kw].
      verify: whether the files must have the SHA-256 of those that otgen was measured with.

    Returns:
      {"params": ...} in float32, for `TAEF2().apply`.

    Raises:
      FileNotFoundError: if a file is missing.
      ValueError: if a file is not the one that is known, or an array is missing or has another size.

    Example:
      >>> variables = og.nn.taef2.load(f"{data_dir}/taef2")
      >>> print(og.nn.TAEF2().apply(variables, jnp.ones((1, 16, 8, 3)), method="encode").shape)
      (1, 2, 1, 32)
    """
    folder = as_path("folder", folder)
    wanted = _shapes()
    return {
        "params": {half: _read(folder / f"{half}.npz", half, wanted[half], verify) for half in ("encoder", "decoder")}
    }


@functools.cache
def _shapes() -> dict[str, Any]:
    images = jax.ShapeDtypeStruct((1, SCALE, SCALE, 3), jnp.float32)
    return jax.eval_shape(TAEF2().init, jax.random.key(0), images)["params"]


def _read(path: Path, half: str, wanted: dict[str, Any], verify: bool) -> dict[str, Any]:
    """Parameters of one half, of the shapes wanted."""
    if not path.is_file():
        raise FileNotFoundError(
            f"the TAEF2 weights are missing: looked for {path}; python -m otgen.data.fetch taef2 --data-dir "
            f"{path.parent.parent} fetches them."
        )
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if verify and found != SHA256[half]:
        raise ValueError(
            f"{path} is not the file that is known: its SHA-256 is {found[:12]}..., expected {SHA256[half][:12]}...; "
            "fetch it again, or pass verify=False to use it all the same."
        )
    with np.load(path) as file:
        stored = {name: file[name].astype(np.float32) for name in file}

    def parameter(keys: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> Array:
        layer, *inner = (key.key for key in keys)
        names = [f"{place}.{_STORED['.'.join(inner)]}" for place in _PLACES[half][layer]]
        arrays = [stored.get(name, np.empty(0, np.float32)) for name in names]
        if sum(it.size for it in arrays) != leaf.size:
            raise ValueError(
                f"{path} holds {', '.join(map(str, (it.shape for it in arrays)))} under {', '.join(names)}, "
                f"not the {leaf.size} numbers of {layer}: fetch it again."
            )
        return jnp.stack([it.transpose(2, 3, 1, 0) if it.ndim == 4 else it for it in arrays]).reshape(leaf.shape)

    return jax.tree_util.tree_map_with_path(parameter, wanted)
