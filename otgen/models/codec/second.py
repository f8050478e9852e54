"""A small autoencoder on the codes of another codec, trained to give them back."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen.models.codec.made import Codec, codes_of
from otgen.models.codec.modules import Second
from otgen.models.fitting import check_start, fit_generator
from otgen.nn.autoencoder import Autoencoder
from otgen.progress import watched
from otgen.train.descent import descend
from otgen.train.settings import GeneratorSettings, adam, made
from otgen.train.state import TrainState, start
from otgen.types import Array, Callback, Key


@watched
def second(
    key: Key,
    codec: Codec,
    codes: ArrayLike,
    latent_dim: int,
    *,
    hidden: Sequence[int] = (512, 256),
    callback: Callback | None = None,
    checkpoints: Any = None,
    **config: Any,
) -> Codec:
    """Return the codec of a dense autoencoder that was trained on the codes of another.

    It minimises the mean squared error of the codes in units of their overall variance, without any prior.

    Args:
      key: random key.
      codec: the other.
      codes: its codes [N, D] of training images, as `encode` gives them.
      latent_dim: numbers in a code of the new codec.
      hidden: widths of the layers of its encoder; the decoder has them reversed.
      callback: called with steps and metrics.
      checkpoints: a folder, or `train.Checkpoints`, to save in and to go on from, bit-identically.
      **config: further fields of `GeneratorSettings`, such as epochs and batch_size.

    Raises:
      ValueError: for codes that are not the codec's, and fields out of range.

    Example:
      >>> net, images = og.nn.Autoencoder((8, 8, 1), latent_dim=6, hidden=(16,)), og.data.load("digits").images
      >>> first = og.models.codec.of_module(net, net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1))), (8, 8, 1))
      >>> codes = og.models.codec.encode(first, images)
      >>> small = og.models.codec.second(jax.random.key(1), first, codes, 2, hidden=(16,), epochs=2)
      >>> print(small.module.latent_dim)
      2
    """
    codes = codes_of(codec, codes)
    mean = codes.mean(axis=0)
    scale = max(float(np.sqrt(codes.var(axis=0).mean())), 1e-6)
    config = {"epochs": 50, **config, "latent_dim": latent_dim, "hidden": hidden, "output": "real"}
    settings = made(GeneratorSettings, config)
    standard = ((np.asarray(codes) - mean) / scale)[:, :, None, None]
    options = {"stage": "second", "callback": callback, "checkpoints": checkpoints}
    step = functools.partial(_make_step, settings.learning_rate)
    autoencoder, state = fit_generator(key, standard, settings, _init, step, **options)
    params = {"codec": codec.variables["params"], "autoencoder": state.params}
    params |= {"mean": jnp.asarray(mean, jnp.float32), "scale": jnp.float32(scale)}
    return Codec(Second(codec.module, autoencoder), {"params": params})


def _init(key: Key, config: GeneratorSettings, example: Array, num_steps: int) -> tuple[Autoencoder, TrainState]:
    example = check_start(key, config, GeneratorSettings, example, num_steps)
    module = Autoencoder(example.shape[1:], config.latent_dim, "mlp", config.hidden, precision=config.precision)
    return module, start(adam(config.learning_rate, num_steps), module.init(key, example)["params"])


def _make_step(learning_rate: float, module: Autoencoder, num_steps: int) -> Any:
    transform = adam(learning_rate, num_steps)

    def loss(params: Any, codes: Array) -> tuple[Array, dict[str, Array]]:
        value = jnp.mean((module.apply({"params": params}, codes) - codes) ** 2)
        return value, {"loss": value}

    def step(state: TrainState, codes: Array, key: Key, *, axis_name: str | None = None):
        del key  # nothing in this step is random
        return descend(transform, state, loss, jnp.asarray(codes, jnp.float32), axis_name=axis_name)

    return step
