"""A learned transport map put into one network, for sampling in a single pass.

Minimises the mean of |S(x) - T(x)|^2 over networks S, x draws of the source whose images are computed once. Where T
jumps, S cannot: it passes through what lies between.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen.maps import neural_map
from otgen.maps.training import MapSettings, optimiser
from otgen.nn.potentials import Displacement
from otgen.ot.check import as_array, as_count, as_key, require_kind
from otgen.progress import watched
from otgen.train.descent import descend
from otgen.train.loop import check_readers, train_on
from otgen.train.parallel import shared_rows
from otgen.train.settings import made
from otgen.train.stages import opened
from otgen.train.state import TrainState, start
from otgen.types import Array, Callback, Key

_PIECE = 4096  # draws moved together


def loss(params: Any, module: Displacement, x: Array, to: Array) -> tuple[Array, dict[str, Array]]:
    """Return the mean squared distance of the network's images of x [n, d] from `to` [n, d].

    Example:
      >>> codes = og.data.toy.eight_gaussians(jax.random.key(0), 64)
      >>> options = {"num_steps": 20, "hidden": (16,), "batch_size": 64}
      >>> found = og.maps.neural_map.fit(jax.random.key(1), None, codes, **options)
      >>> module, params = og.maps.distil.distil(jax.random.key(2), found, num_pairs=512, **options)
      >>> x = og.maps.neural_map.draw(jax.random.key(3), found, 8)
      >>> print(og.maps.distil.loss(params, module, x, og.maps.neural_map.transport(found, x))[0].shape)
      ()
    """
    require_kind("module", module, Displacement)
    x = as_array("x", x, (None, None), finite=False)
    to = as_array("to", to, x.shape, finite=False)
    value = jnp.mean(jnp.sum((module.apply({"params": params}, x) - to) ** 2, axis=1))
    return value, {"loss": value}


@watched
def distil(
    key: Key,
    map_: neural_map.Map,
    *,
    form: str | None = None,
    temperature: ArrayLike | None = None,
    num_pairs: int = 2**16,
    callback: Callback | None = None,
    checkpoints: Any = None,
    **config: Any,
) -> tuple[Displacement, Any]:
    """Train a network to do what a map does.

    Args:
      key: random key.
      map_: from `neural_map.fit`.
      form, temperature: as in `neural_map.transport`.
      num_pairs: draws that the network learns from, rounded up to whole pieces of 4096.
      callback: called with steps and metrics.
      checkpoints: a folder, or `train.Checkpoints`, to save in and to go on from, bit-identically.
      **config: fields of `training.MapSettings`; a step is one update.

    Returns:
      The network and its parameters.

    Raises:
      ValueError: for fields out of range, and as `neural_map.transport`.

    Example:
      >>> codes = og.data.toy.eight_gaussians(jax.random.key(0), 64)
      >>> options = {"num_steps": 20, "hidden": (16,), "batch_size": 64}
      >>> found = og.maps.neural_map.fit(jax.random.key(1), None, codes, **options)
      >>> module, params = og.maps.distil.distil(jax.random.key(2), found, num_pairs=512, **options)
      >>> print(module.apply({"params": params}, jnp.zeros((3, 2))).shape)
      (3, 2)
    """
    settings = made(MapSettings, {"hidden": (512, 512), "num_steps": 5000, "learning_rate": 1e-3, **config})
    as_count("num_pairs", num_pairs), require_kind("map_", map_, neural_map.Map)
    check_readers(callback, checkpoints)
    neural_map.form_of(map_, form, temperature)
    pair_key, init_key, order_key, step_key = jax.random.split(as_key(key), 4)
    module, transform = Displacement(settings.hidden), optimiser(settings)
    params = module.init(init_key, map_.codes[:1])["params"]
    x, moved = [], []
    for i in range(-(-num_pairs // _PIECE)):
        x.append(neural_map.draw(jax.random.fold_in(pair_key, i), map_, _PIECE))
        moved.append(np.asarray(neural_map.transport(map_, x[-1], form, temperature)))
    pairs = np.concatenate(x), np.concatenate(moved)

    def step(state: TrainState, batch: tuple[Array, Array], key: Key, *, axis_name: str | None = None):
        del key  # nothing in this step is random
        options = {"axis_name": axis_name, "decay": settings.average}
        return descend(transform, state, loss, module, *batch, **options)

    given = {"form": form, "temperature": None if temperature is None else float(temperature), "num_pairs": num_pairs}
    with opened(checkpoints, "network", settings, key=key, params=map_.params, solver=map_.solver, **given) as saved:
        state = train_on(
            pairs,
            step,
            start(transform, params, average=True),
            (order_key, step_key),
            num_steps=settings.num_steps,
            batch_size=shared_rows(settings.batch_size, len(pairs[0])),
            callback=callback,
            checkpoints=saved,
        )
    return module, state.average
