"""How a flow is fitted: the coupling is solved if it has to be, then the velocity is trained on its pairs."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from otgen.models.flow.pairs import as_data, feed_of, labelling, matched, paired
from otgen.models.flow.training import COUPLINGS, Config, Flow, init, make_step
from otgen.ot import coupling as couplings
from otgen.ot.check import as_key, require_choice
from otgen.progress import watched
from otgen.train.loop import check_readers, train
from otgen.train.parallel import shared_rows
from otgen.train.settings import made
from otgen.train.stages import opened
from otgen.types import Callback, Key


@watched
def fit(
    key: Key,
    data: Any,
    labels: Any = None,
    *,
    coupling: Any = "semidiscrete",
    callback: Callback | None = None,
    checkpoints: Any = None,
    **config: Any,
) -> Flow:
    """Fit a flow from noise to data.

    Args:
      key: random key.
      data: vectors [N, d], or images or latent maps [N, h, w, c], whose velocity is a UNet; best of the scale of the
        noise, N(0, I): they are used as they are.
      labels: integers [N], or numbers [N, c], that the velocity is told; None for none.
      coupling: "semidiscrete" (solved here, a map for every class), "independent", "minibatch" or "sinkhorn"; or an
        object with a method `pair(key, num) -> og.coupling.Batch`, such as those of `og.coupling`, made of these data.
      callback: called with steps and metrics of all stages.
      checkpoints: a folder in which the solve of the coupling ("transport") and the training ("flow") save, and from
        which they go on, bit-identically.
      **config: fields of Config.

    Returns:
      Flow.

    Raises:
      ValueError: for data or labels of another shape or not finite, an unknown coupling, or one that pairs data of
        another shape, fields out of range, a folder of another configuration.
      TypeError: for a field that Config does not have.

    Example:
      >>> data = jnp.array([1.5, 0.0]) + 0.5 * jax.random.normal(jax.random.key(0), (500, 2))
      >>> tiny = {"width": 32, "num_steps": 300, "batch_size": 64, "average": 0.9, "tol": 0.2}
      >>> model = og.models.flow.fit(jax.random.key(1), data, **tiny)
      >>> new = og.models.flow.sample(jax.random.key(2), model, 1000, num_steps=1)
      >>> print(bool(jnp.abs(new.mean(0) - data.mean(0)).max() < 0.2))
      True
    """
    named = isinstance(coupling, str)
    if named or not hasattr(coupling, "pair"):
        require_choice("coupling", coupling, COUPLINGS)
    check_readers(callback, checkpoints, stages=2 if named and coupling == "semidiscrete" else 1)
    settings, data = made(Config, config), as_data(data)
    known, numbers, sizes = labelling(labels, len(data))
    shared_rows(settings.batch_size, settings.batch_size)
    solve_key, init_key, pair_key, step_key = jax.random.split(as_key(key), 4)
    told, info = coupling, None
    if named:
        more = {"callback": callback, "checkpoints": checkpoints}
        coupling, info = paired(coupling, solve_key, data, numbers, settings, **more)
    source = matched(coupling, data, numbers)
    if settings.sample_steps is None:
        independent = isinstance(coupling, couplings.Independent)
        settings = dataclasses.replace(settings, sample_steps=16 if independent else 2)
    module, state = init(init_key, settings, data.shape[1:], **sizes)
    about = {"key": key, "data": np.asarray(data), "labels": None if labels is None else np.asarray(labels)}
    with opened(checkpoints, "flow", settings, coupling=told, **about) as saved:
        if saved is not None and (restored := saved.restore(state)) is not None:
            state = restored
        feed = feed_of(coupling, pair_key, settings, int(state.step), numbers)
        options = {"callback": callback, "checkpoints": saved, "num_steps": settings.num_steps}
        state = train(make_step(module, settings), state, feed, step_key, **options)
    return Flow(module, {"params": state.average, **known}, settings, source, type(coupling).__name__, info)
