"""How a generator is fitted to images in memory: checks, keys, number of steps, loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from otgen.models.apply import check_images
from otgen.ot.check import as_key
from otgen.train.loop import train_on
from otgen.train.settings import GeneratorSettings, num_steps_of, rows_of
from otgen.types import Callback, Key


def fit_generator(
    key: Key,
    images: Any,
    settings: GeneratorSettings,
    init: Callable[..., tuple[nn.Module, Any]],
    make_step: Callable[..., Any],
    *,
    batches_per_step: int = 1,
    callback: Callback | None = None,
    checkpoints: Any = None,
) -> tuple[nn.Module, Any]:
    """Train a generator on images, going on from the newest checkpoint if any.

    Args:
      key: random key.
      images: uint8, or floats, [N, h, w, c].
      settings: networks and training.
      init: `(key, settings, example, num_steps) -> (module, state)`.
      make_step: `(module, num_steps) -> step`.
      batches_per_step: batches of `settings.batch_size` images that a step uses.
      callback, checkpoints: as in `train.train`.

    Returns:
      The module and the state after the last step.

    Raises:
      ValueError: for images of another shape or range, or fewer than `batches_per_step`.
    """
    images = check_images(images, settings.output)
    rows = rows_of(settings, len(images), batches_per_step)
    num_steps = num_steps_of(settings, len(images), rows)
    init_key, order_key, step_key = jax.random.split(as_key(key), 3)
    module, state = init(init_key, settings, images[:1], num_steps)
    state = train_on(
        (images,),
        make_step(module, num_steps),
        state,
        (order_key, step_key),
        num_steps=num_steps,
        batch_size=rows,
        callback=callback,
        checkpoints=checkpoints,
    )
    return module, state
