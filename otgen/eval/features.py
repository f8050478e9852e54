"""Feature extractors: named functions from images in [0, 1] to the space in which distances are taken."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen.nn import inception as network
from otgen.nn import taef2 as codec
from otgen.ot.check import as_count, as_path, native, require_channels_last, require_function, require_kind
from otgen.ot.gaussian.frechet import Moments, moments
from otgen.ot.products import product
from otgen.types import Array, Held

LENET_FILE = "lenet_mnist/lenet.npz"
INCEPTION_FILE = "inception_v3_2015/inception3_params_to_mixed_8.tar"
_CODEC_PIECE, _CODEC_SIDE = 8, 64
_LENET_PIECE, _INCEPTION_PIECE = 500, 8  # images at a time; more are slower on two cores: 8 stay in their caches


@dataclasses.dataclass(frozen=True)
class Extractor:
    """A feature extractor that carries its name, to stand beside every score taken in its features.

    Attributes:
      name: what it is, for people.
      apply: function from images [n, ...] to features [n, d].

    Example:
      >>> means = og.eval.Extractor("mean of rows", lambda images: jnp.asarray(images).mean((2, 3)))
      >>> print(means.name, means(jnp.ones((2, 4, 4, 1))).shape)
      mean of rows (2, 4)
    """

    name: str
    apply: Callable[[Any], Any] = dataclasses.field(repr=False)

    def __call__(self, images: ArrayLike) -> Array:
        """Return features [n, d] of images [n, ...].

        Raises:
          ValueError: for channels first, or if the function returns anything but one row per image.
        """
        images = native("images", images)
        if images.ndim == 4:
            require_channels_last("images", images.shape)
        features = jnp.asarray(self.apply(images))
        if features.ndim != 2 or len(features) != len(images):
            raise ValueError(
                f"the extractor {self.name!r} made {features.shape} of {len(images)} images: "
                "its function must return one row of features per image, shape [n, d]."
            )
        return features


def _flat(images: ArrayLike) -> Array:
    images = jnp.asarray(native("images", images))
    if images.ndim < 2 or 0 in images.shape:
        raise ValueError(f"images has shape {images.shape}: give at least one image, shape [n, h, w, c].")
    return jnp.reshape(images / 255 if images.dtype == jnp.uint8 else images, (len(images), -1))


pixels = Extractor("pixels", _flat)  # images [n, h, w, c], floats as they are or uint8, as features [n, h w c]


def lenet(data_dir: str | os.PathLike) -> Extractor:
    """Return the 84-dimensional features of a LeNet-5 trained on MNIST.

    Images of 28 x 28 are zero-padded to 32 x 32; the features are tanh of the layer before the classes.

    Args:
      data_dir: folder that holds lenet_mnist/lenet.npz (arrays convnet.c1, c3, c5, fc.f6 and f7: weight and bias).

    Returns:
      Extractor of images [n, 28, 28, 1] in [0, 1] or uint8, features [n, 84].

    Raises:
      FileNotFoundError: if the weights are not there.

    Example:
      >>> features = og.eval.lenet(data_dir)
      >>> print(features(np.zeros((2, 28, 28, 1))).shape)
      (2, 84)
    """
    weights = _lenet_weights(data_dir)
    return Extractor("LeNet (MNIST), 84-d", lambda images: _run_lenet(_lenet, weights, images))


def digit_classifier(data_dir: str | os.PathLike) -> Callable[[ArrayLike], Array]:
    """Return the digit classifier on top of `lenet`: 98 % of the MNIST test images right.

    Args:
      data_dir: as for `lenet`.

    Returns:
      Function from images [n, 28, 28, 1] in [0, 1] or uint8 to logits [n, 10].

    Raises:
      FileNotFoundError: if the weights are not there.

    Example:
      >>> logits = og.eval.digit_classifier(data_dir)(og.data.load("mnist", "test", data_dir).images[:4])
      >>> print(logits.argmax(1), og.data.load("mnist", "test", data_dir).labels[:4])
      [2 0 4 8] [2 0 4 8]
    """
    weights = _lenet_weights(data_dir)
    return lambda images: _run_lenet(_digit_logits, weights, images)


def inception(data_dir: str | os.PathLike, dim: int = 768, piece: int = _INCEPTION_PIECE) -> Extractor:
    """Return global averages of a layer of Inception-v3 of 2015, the network of the Frechet Inception distance.

    The published distance is taken in 2048 features, two blocks further on: no score in these is a published FID. The
    dims 64, 192 and 768 are those of pytorch-fid, which however resizes with half-pixel centres. Images of any size are
    resized to 299 x 299 as in 2015 (`otgen.nn.inception.resize`), grey ones repeated to three channels.

    Args:
      data_dir: folder that holds inception_v3_2015/inception3_params_to_mixed_8.tar.
      dim: 64 (first max pool), 192 (second max pool), 768 (mixed_7) or 1280 (mixed_8).
      piece: images at a time; changes the speed and the memory needed, not the features.

    Returns:
      Extractor of images [n, h, w, 1 or 3] in [0, 1] or uint8, features [n, dim].

    Raises:
      FileNotFoundError: if the weights are not there.
      ValueError: for another dim.

    Example:
      >>> print(og.eval.inception(data_dir, 64).name)
      Inception-v3 2015, 64-d
    """
    features = _inception(data_dir, (dim,), piece)
    return Extractor(f"Inception-v3 2015, {dim}-d", lambda images: features(images)[dim])


def inception_all(
    data_dir: str | os.PathLike, piece: int = _INCEPTION_PIECE
) -> Callable[[ArrayLike], dict[int, Array]]:
    """Return all layers of `inception` in one pass: a function from images to {dim: features [n, dim]}.

    Example:
      >>> features = og.eval.inception_all(data_dir)
      >>> print({dim: out.shape for dim, out in features(np.zeros((1, 32, 32, 3))).items()})
      {64: (1, 64), 192: (1, 192), 768: (1, 768), 1280: (1, 1280)}
    """
    return _inception(data_dir, network.DIMS, piece)


def taef2(data_dir: str | os.PathLike) -> Extractor:
    """Return means and standard deviations, over the places of an image, of the latents of TAEF2: features of colour.

    They are of a network that was trained to reconstruct, not to tell classes. Images are enlarged until their sides
    are 64 pixels, and cut to multiples of 8; grey ones are repeated to three channels.

    Args:
      data_dir: folder that holds taef2/encoder.npz and taef2/decoder.npz.

    Returns:
      Extractor of images [n, h, w, 1 or 3] in [0, 1] or uint8, features [n, 64].

    Raises:
      FileNotFoundError: if the weights are not there.

    Example:
      >>> print(og.eval.taef2(data_dir)(np.zeros((2, 32, 32, 3))).shape)
      (2, 64)
    """
    variables = _codec_once(as_path("data_dir", data_dir) / "taef2")

    def features(images: ArrayLike) -> Array:
        images = np.asarray(native("images", images))
        require_images("TAEF2", images, "[n, h, w, 1 or 3]", images.shape[3:] in ((1,), (3,)))
        return _in_pieces(functools.partial(_spread, variables), images, _CODEC_PIECE)

    return Extractor("TAEF2, means and deviations, 64-d", features)


_codec_once = functools.lru_cache(maxsize=1)(codec.load)


@jax.jit
def _spread(variables: dict[str, Any], images: ArrayLike) -> Array:
    images = jnp.broadcast_to(images, (*images.shape[:3], 3))
    scale = -(-_CODEC_SIDE // min(images.shape[1:3]))
    images = images.repeat(scale, 1).repeat(scale, 2)
    height, width = (side // codec.SCALE * codec.SCALE for side in images.shape[1:3])
    latents = codec.TAEF2().apply(variables, images[:, :height, :width], method="encode")
    return jnp.concatenate([latents.mean((1, 2)), latents.std((1, 2))], axis=1)


def moments_of(extractor: Callable[[Any], Any], batches: Iterable[ArrayLike]) -> Moments:
    """Return the moments of the features of image sets too large for memory, batch by batch.

    The same as the moments of all features at once, up to rounding; `frechet_distance` takes them. A merge costs about
    as much as that of d rows, so batches of d images or more are best.

    Args:
      extractor: Extractor, or any function from images to features [n, d].
      batches: image batches [n_i, ...], any sizes.

    Returns:
      Moments.

    Raises:
      ValueError: if there is no batch, or for one array instead of batches.

    Example:
      >>> images = jax.random.uniform(jax.random.key(0), (64, 2, 2, 1))
      >>> gathered = og.eval.moments_of(og.eval.pixels, (images[:32], images[32:]))
      >>> print(gathered.count, jnp.allclose(gathered.mean, images.reshape(64, 4).mean(0)))
      64.0 True
    """
    require_function("extractor", extractor)
    if hasattr(batches, "ndim"):
        raise ValueError(f"batches is one array of shape {batches.shape}: give several, or [images] for a single one.")
    require_kind("batches", batches, Iterable)
    known = None
    for images in batches:
        known = moments(extractor(images), known)
    if known is None:
        raise ValueError("there was no batch of images to take moments of: is the iterator used up?")
    return known


def require_images(name: str, images: Held, sides: str, legal: bool) -> None:
    """Refuse images of the wrong shape, range or type."""
    require_channels_last("images", images.shape)
    if images.ndim != 4 or not legal or not images.size:
        raise ValueError(f"{name} is for images of shape {sides}, not {images.shape}.")
    if images.dtype != np.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"{name} takes images as floats in [0, 1] or as uint8, not {images.dtype}.")
    low, high = float(images.min()), float(images.max())  # NaN if any is
    if not np.isfinite(low) or not np.isfinite(high):
        raise ValueError("the images have NaN or infinite pixels: remove or repair them.")
    if images.dtype != np.uint8 and (low < -1e-3 or high > 1 + 1e-3):
        raise ValueError(f"the pixels lie in [{low:.4g}, {high:.4g}]: scale them to [0, 1], or give uint8.")


def _in_pieces(function: Callable[[Array], Any], images: np.ndarray, size: int) -> Any:
    """Apply a jitted function to pieces of one shape, the last padded with zeros, so that it compiles once."""
    pieces = []
    for start in range(0, len(images), size):
        piece = images[start : start + size]
        piece = np.pad(piece, ((0, size - len(piece)), (0, 0), (0, 0), (0, 0)))
        piece = piece / np.float32(255) if piece.dtype == np.uint8 else piece.astype(np.float32)
        pieces.append(jax.device_get(function(piece)))  # XLA would compile a concatenation of thousands for minutes
    return jax.tree.map(lambda *parts: jnp.asarray(np.concatenate(parts)[: len(images)]), *pieces)


def _inception(
    data_dir: str | os.PathLike, dims: tuple[int, ...], piece: int
) -> Callable[[ArrayLike], dict[int, Array]]:
    if not set(dims) <= set(network.DIMS):
        raise ValueError(f"Inception features of dimension {dims[0]} do not exist: choose one of {network.DIMS}.")
    piece = as_count("piece", piece)
    variables = _read_once(as_path("data_dir", data_dir) / INCEPTION_FILE)

    def features(images: ArrayLike) -> dict[int, Array]:
        images = np.asarray(native("images", images))
        require_images("Inception", images, "[n, h, w, 1 or 3]", images.shape[3:] in ((1,), (3,)))
        return _in_pieces(lambda x: _layers(variables, x, dims), images, piece)

    return features


_read_once = functools.lru_cache(maxsize=1)(network.read)


@functools.partial(jax.jit, static_argnames="dims")
def _layers(variables: dict[str, Any], images: ArrayLike, dims: tuple[int, ...]) -> dict[int, Array]:
    images = jnp.broadcast_to(images, (*images.shape[:3], 3))
    return network.Inception(dims).apply(variables, network.resize(images) * (255 / 128) - 1)


def has_lenet(data_dir: str | os.PathLike) -> bool:
    """Return whether LeNet's weights are in a folder."""
    return (as_path("data_dir", data_dir) / LENET_FILE).is_file()


def _lenet_weights(data_dir: str | os.PathLike) -> dict[str, Array]:
    path = as_path("data_dir", data_dir) / LENET_FILE
    if not has_lenet(data_dir):
        raise FileNotFoundError(
            f"the LeNet weights are missing: looked for {path}; python -m otgen.data.fetch lenet --data-dir {data_dir} "
            "fetches them; or use pixels."
        )
    with np.load(path) as file:
        return {name: jnp.asarray(file[name]) for name in file}


def _run_lenet(function: Callable[..., Array], weights: dict[str, Array], images: ArrayLike) -> Array:
    images = np.asarray(native("images", images))
    require_images("LeNet", images, "[n, 28, 28, 1]", images.shape[1:] == (28, 28, 1))
    return _in_pieces(functools.partial(function, weights), images, _LENET_PIECE)


@jax.jit
def _lenet(weights: dict[str, Array], images: ArrayLike) -> Array:
    x = jnp.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0))).transpose(0, 3, 1, 2)
    x = _max_pool(_convolve(weights, "convnet.c1", x))
    x = _max_pool(_convolve(weights, "convnet.c3", x))
    x = _convolve(weights, "convnet.c5", x).reshape(x.shape[0], -1)
    return jnp.tanh(product(x, weights["fc.f6.weight"].T) + weights["fc.f6.bias"])


@jax.jit
def _digit_logits(weights: dict[str, Array], images: ArrayLike) -> Array:
    features = _lenet(weights, images)
    return product(features, weights["fc.f7.weight"].T) + weights["fc.f7.bias"]


def _convolve(weights: dict[str, Array], name: str, x: Array) -> Array:
    convolved = jax.lax.conv(x, weights[f"{name}.weight"], (1, 1), "VALID", precision="highest")
    return jnp.tanh(convolved + weights[f"{name}.bias"][:, None, None])


def _max_pool(x: Array) -> Array:
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
