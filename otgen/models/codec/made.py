"""What codecs are made of: TAEF2, a Flax module, two functions, and the principal components of another codec."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen.models.codec.modules import Components, Given, Hosted, on_host
from otgen.nn import taef2 as weights
from otgen.nn.precision import compute_type
from otgen.nn.taef2 import CHANNELS, SCALE, TAEF2
from otgen.ot.check import as_array, as_count, as_counts, as_path, require_function, require_kind
from otgen.types import Array

Features = Callable[[Array], Array]  # images [n, h, w, c] in [0, 1] to [n, p], pure, for a loss


class Codec(NamedTuple):
    """An autoencoder of images, to which codes [n, d] belong.

    Attributes:
      module: has `encode` (images [n, h, w, c] in [0, 1] to codes [n, d]), `decode` (back), `image_shape` and
        `latent_dim`.
      variables: its `params`.

    Example:
      >>> halves = og.models.codec.of_functions(lambda x: x[:, ::2], lambda z: z.repeat(2, 1), (4, 4, 1))
      >>> codes = og.models.codec.encode(halves, np.ones((3, 4, 4, 1), np.float32))
      >>> print(codes.shape, og.models.codec.decode(halves, codes).shape)
      (3, 8) (3, 4, 4, 1)
    """

    module: nn.Module
    variables: dict[str, Any]


def taef2(
    data_dir: str | os.PathLike | None,
    image_shape: tuple[int, int, int],
    *,
    scale: int | None = None,
    precision: str = "float32",
    verify: bool = True,
) -> Codec:
    """Return TAEF2, a small pretrained autoencoder: 32 numbers for each 8 x 8 pixels.

    Args:
      data_dir: folder with taef2/encoder.npz and taef2/decoder.npz; OTGEN_DATA for None.
      image_shape: (height, width, channels) of the images, 3 channels or 1.
      scale: factor by which images are enlarged first, with `scale` times the sides multiples of 8; None for the
        smallest of 1, 2, 4 that gives at least 64 pixels, which TAEF2 is made for.
      precision: "float32" or "bfloat16".
      verify: whether the weights must have the known SHA-256.

    Raises:
      ValueError: for other sides and channels, and for altered weights.
      FileNotFoundError: if weights are missing.

    Example:
      >>> codec = og.models.codec.taef2(data_dir, (32, 32, 3))
      >>> print(codec.module.latent_dim)  # of 64 x 64 pixels
      2048
    """
    shape = _image_shape(image_shape)
    if scale is None:
        scale = next((it for it in (1, 2, 4) if it * min(shape[:2]) >= 64), 4)
    scale = as_count("scale", scale)
    if shape[2] not in (1, 3) or any(scale * side % SCALE for side in shape[:2]):
        raise ValueError(
            f"image_shape = {shape} enlarged {scale} times: TAEF2 reads 1 or 3 channels and sides that are multiples "
            f"of {SCALE}; resize or pad the images."
        )
    compute_type(precision)
    folder = Path(os.environ.get("OTGEN_DATA", ".") if data_dir is None else as_path("data_dir", data_dir))
    latent_shape = (scale * shape[0] // SCALE, scale * shape[1] // SCALE, CHANNELS)
    module = Given(TAEF2(precision), shape, latent_shape, scale)
    return Codec(module, {"params": {"variables": weights.load(folder / "taef2", verify)}})


def of_module(
    net: nn.Module, variables: Mapping[str, Any], image_shape: tuple[int, int, int], *, scale: int = 1
) -> Codec:
    """Return the codec of a Flax module with methods `encode` and `decode`: your own, or that of a trained model.

    Args:
      net: `encode` takes images [n, h, w, c] in [0, 1] and gives codes [n, ...], `decode` the reverse.
      variables: all its collections, as its `apply` takes them.
      image_shape: (height, width, channels) of the images.
      scale: factor by which images are enlarged before they are encoded.

    Raises:
      ValueError: for what is no module with these methods, and variables that are not its own.

    Example:
      >>> net = og.nn.Autoencoder((8, 8, 1), latent_dim=3, hidden=(16,))
      >>> codec = og.models.codec.of_module(net, net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1))), (8, 8, 1))
      >>> print(codec.module.latent_dim)
      3
    """
    require_kind("net", net, nn.Module)
    require_kind("variables", variables, Mapping)
    shape, scale = _image_shape(image_shape), as_count("scale", scale)
    for name in ("encode", "decode"):
        if not callable(getattr(type(net), name, None)):
            raise ValueError(f"{type(net).__name__} has no method {name}: give a module that has encode and decode.")
    example = jax.ShapeDtypeStruct((1, scale * shape[0], scale * shape[1], shape[2]), jnp.float32)
    try:
        code = jax.eval_shape(lambda known, x: net.apply(known, x, method="encode"), variables, example)
        image = jax.eval_shape(lambda known, z: net.apply(known, z, method="decode"), variables, code)
    except Exception as error:  # of any kind: the module is not ours
        raise ValueError(
            f"{type(net).__name__} cannot encode and decode an image of shape {example.shape[1:]} with these "
            f"variables: {error}"
        ) from error
    if code.shape[0] != 1 or image.shape != example.shape:
        raise ValueError(
            f"{type(net).__name__} makes {code.shape} of an image {example.shape}, and of that {image.shape}: decode "
            "must give images of the shape that encode takes."
        )
    return Codec(Given(net, shape, code.shape[1:], scale, shape[2]), {"params": {"variables": dict(variables)}})


def of_functions(
    encode: Callable[[np.ndarray], Any], decode: Callable[[np.ndarray], Any], image_shape: tuple[int, int, int]
) -> Codec:
    """Return the codec of two functions of any library, which are called with arrays of NumPy in pieces.

    What they return comes back through DLPack where it can, as from PyTorch (detached, on the CPU); see
    docs/your-own-images.md. A model on such a codec works like any other, but cannot be saved: functions are no data.

    Args:
      encode: images [n, h, w, c] in [0, 1], float32, to codes [n, ...].
      decode: codes [n, ...], float32, to images [n, h, w, c].
      image_shape: (height, width, channels).

    Raises:
      ValueError: for what is no function, and if they do not fit each other.

    Example:
      >>> halves = og.models.codec.of_functions(lambda x: x[:, ::2], lambda z: z.repeat(2, 1), (4, 4, 1))
      >>> print(halves.module.latent_dim)
      8
    """
    require_function("encode", encode)
    require_function("decode", decode)
    shape = _image_shape(image_shape)
    code = on_host(encode(np.zeros((2, *shape), np.float32)))
    if code.ndim < 2 or len(code) != 2:
        raise ValueError(f"encode gave shape {code.shape} for 2 images: it must give [2, ...].")
    image = on_host(decode(code))
    if image.shape != (2, *shape):
        raise ValueError(f"decode gave shape {image.shape} for 2 codes: it must give {(2, *shape)}.")
    return Codec(Hosted(encode, decode, shape, code.shape[1:]), {"params": {}})


def components(codec: Codec, codes: ArrayLike, dim: int) -> Codec:
    """Return the codec whose codes are the first principal components of another's.

    Args:
      codec: the other.
      codes: its codes [N, D] of training images, as `encode` gives them.
      dim: how many components, at most N and D; what the others hold is lost.

    Raises:
      ValueError: for codes that are not the codec's, and too many components.

    Example:
      >>> net = og.nn.Autoencoder((8, 8, 1), latent_dim=6, hidden=(16,))
      >>> whole = og.models.codec.of_module(net, net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1))), (8, 8, 1))
      >>> codes = og.models.codec.encode(whole, og.data.load("digits").images)
      >>> print(og.models.codec.components(whole, codes, 2).module.latent_dim)
      2
    """
    codes = codes_of(codec, codes)
    dim = as_count("dim", dim)
    if dim > min(codes.shape):
        raise ValueError(f"dim = {dim} for codes {codes.shape}: give at most {min(codes.shape)}.")
    mean = codes.mean(axis=0, dtype=np.float64)
    spread = np.zeros((len(mean), len(mean)))
    for start in range(0, len(codes), 4096):  # in pieces: codes may lie in a file
        piece = np.asarray(codes[start : start + 4096], np.float64) - mean
        spread += piece.T @ piece
    _, basis = np.linalg.eigh(spread)
    params = {"codec": codec.variables["params"], "mean": jnp.asarray(mean, jnp.float32)}
    params["basis"] = jnp.asarray(basis[:, : -dim - 1 : -1], jnp.float32)
    return Codec(Components(codec.module, dim), {"params": params})


def codes_of(codec: Codec, codes: ArrayLike) -> np.ndarray:
    """Return codes [N, d] of a codec, which may lie in a file; raise ValueError for those of another."""
    require_kind("codec", codec, Codec)
    codes = codes if isinstance(codes, np.memmap) else np.asarray(as_array("codes", codes, (None, None)))
    if codes.ndim != 2 or codes.shape[1] != codec.module.latent_dim or len(codes) < 2:
        raise ValueError(
            f"codes have shape {codes.shape}, those of the codec are [n, {codec.module.latent_dim}]: encode at least "
            "two images with it."
        )
    return codes


def _image_shape(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    shape = as_counts("image_shape", shape)
    if len(shape) != 3:
        raise ValueError(f"image_shape = {shape}: give (height, width, channels).")
    return tuple(shape)


def features(codec: Codec) -> Features:
    """Return the codes of a codec as features in which a loss compares images: a perceptual term that costs no labels.

    Pass them to `ae_ot.fit(..., perceptual=1.0)` or `ae_ot_gan.refine(..., feature="perceptual")`. They are pure and
    have the gradients of the codec's encoder; the codec itself is not trained.

    Args:
      codec: of Flax, such as `taef2`.

    Returns:
      Function of images [n, h, w, c] in [0, 1] to codes [n, d].

    Raises:
      ValueError: for what is no codec, and for one of functions of another library, which have no gradients in JAX.

    Example:
      >>> net = og.nn.Autoencoder((8, 8, 1), latent_dim=3, hidden=(16,))
      >>> codec = og.models.codec.of_module(net, net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1))), (8, 8, 1))
      >>> print(og.models.codec.features(codec)(jnp.zeros((5, 8, 8, 1))).shape)
      (5, 3)
    """
    require_kind("codec", codec, Codec)
    module = codec.module
    while hasattr(module, "codec"):
        module = module.codec
    if isinstance(module, Hosted):
        raise ValueError("a codec of functions has no gradients in JAX: give one of Flax, such as models.codec.taef2.")
    return lambda images: codec.module.apply(codec.variables, images, method="encode")
