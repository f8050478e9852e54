"""How a model is fitted to images in memory: checks, keys, number of steps, loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from otgen.models.apply import check_images
from otgen.models.classes import check_labels
from otgen.nn.autoencoder import to_unit
from otgen.ot.check import as_count, as_key, require_kind
from otgen.progress import watched
from otgen.train.loop import check_readers, train_on
from otgen.train.settings import Settings, num_steps_of, rows_of
from otgen.train.stages import opened
from otgen.types import Array, Callback, Key


def check_start(key: Key, config: Any, kind: type, example: Any, num_steps: int) -> Array:
    """Check what the `init` of a model of images takes, and return one image [1, h, w, c] as float32.

    Raises:
      ValueError: for what is no key, a configuration of another kind, no image [n, h, w, c], no whole number of steps.
    """
    as_key(key), require_kind("config", config, kind), as_count("num_steps", num_steps)
    example = to_unit(example)
    if example.ndim != 4 or 0 in example.shape:
        raise ValueError(f"example has shape {example.shape}: give one image or more, [n, height, width, channels].")
    return example[:1]


def check_step(module: Any, kind: type, num_steps: int) -> None:
    """Check what the `make_step` of a model takes.

    Raises:
      ValueError: for a module of another kind, or what is no whole number of steps.
    """
    require_kind("module", module, kind), as_count("num_steps", num_steps)


@watched
def fit_generator(
    key: Key,
    images: Any,
    settings: Settings,
    init: Callable[..., tuple[nn.Module, Any]],
    make_step: Callable[..., Any],
    *,
    labels: Any = None,
    batches_per_step: int = 1,
    num_steps: int | None = None,
    stage: str = "generator",
    told: dict[str, Any] | None = None,
    callback: Callback | None = None,
    checkpoints: Any = None,
    **options: Any,
) -> tuple[nn.Module, Any]:
    """Train a generator or an autoencoder on images, going on from the newest checkpoint if any.

    Args:
      key: random key.
      images: uint8, or floats, [N, h, w, c].
      settings: networks and training.
      init: `(key, settings, example, num_steps) -> (module, state)`; with labels it takes `num_classes` too.
      make_step: `(module, num_steps) -> step`; with labels the batches of the step are images and their classes.
      labels: integers [N], for a model of classes; None for none.
      batches_per_step: batches of `settings.batch_size` images that a step uses.
      num_steps: training steps; None for those of the settings' epochs.
      stage: name of what is trained, and of its folder in a folder of checkpoints.
      told: arrays, beside key and data, that a folder of checkpoints must have been made with; None for none.
      callback: called with steps and metrics, as in `train.train`.
      checkpoints: a folder, or `train.Checkpoints`, to save in and to go on from, bit-identically.
      **options: as in `train.train`.

    Returns:
      The module and the state after the last step.

    Raises:
      ValueError: for images of another shape or range, or fewer than `batches_per_step`, labels that do not match, and
        a folder of another configuration.
    """
    check_readers(callback, checkpoints)
    images = np.asarray(check_images(images, getattr(settings, "output", "unit")))
    labels = check_labels(labels, len(images))
    rows = rows_of(settings, len(images), batches_per_step)
    num_steps = num_steps_of(settings, len(images), rows) if num_steps is None else num_steps
    given, arrays, more = {"key": key, "images": images, **(told or {})}, (images,), {}
    if labels is not None:
        known, classes = np.unique(np.asarray(labels), return_inverse=True)
        arrays, more = (images, classes.astype(np.int32)), {"num_classes": len(known)}
        given["labels"] = np.asarray(labels)
    init_key, order_key, step_key = jax.random.split(as_key(key), 3)
    module, state = init(init_key, settings, images[:1], num_steps, **more)
    with opened(checkpoints, stage, settings, **given) as saved:
        state = train_on(
            arrays,
            make_step(module, num_steps),
            state,
            (order_key, step_key),
            num_steps=num_steps,
            batch_size=rows,
            callback=callback,
            checkpoints=saved,
            **options,
        )
    return module, state
