"""What a flow is fitted to: data and labels, the coupling that pairs noise with them, and its batches."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from otgen.models.classes import check_labels, collection_of
from otgen.models.flow.training import Config
from otgen.ot import coupling as couplings
from otgen.ot import latent, semidiscrete
from otgen.ot.check import as_array, native, require_channels_last, require_kind
from otgen.ot.coupling.solving import Progress
from otgen.train.stages import opened
from otgen.types import Array, Callback, Key, Sampler

_POOL = 2**16  # pairs made at a time, where the run takes so many


def paired(
    name: str,
    key: Key,
    data: Array,
    numbers: Array | None,
    config: Config,
    *,
    sampler: Sampler = latent.Normal(),  # noqa: B008
    callback: Callback | None = None,
    checkpoints: Any = None,
) -> tuple[Any, semidiscrete.Info | None]:
    """Return the coupling of a name for data and their labels, and how it was solved if it had to be.

    The solve goes on from the newest checkpoint of the stage "transport", if there is one.
    """
    if name == "sinkhorn":
        return couplings.Sinkhorn(data, numbers, sampler, epsilon=config.epsilon), None
    if name != "semidiscrete":
        kind = couplings.Minibatch if name == "minibatch" else couplings.Independent
        return kind(data, numbers, sampler), None
    if numbers is not None and numbers.ndim == 2:
        raise ValueError(
            "a semi-discrete coupling takes classes, not conditions: give coupling='minibatch' or 'sinkhorn', whose "
            "cost knows conditions, or 'independent'."
        )
    solved = {"tol": config.tol, "max_samples": config.max_samples, "sampler": sampler, "callback": callback}
    about = {"labels": None if numbers is None else np.asarray(numbers), "data": np.asarray(data), "key": key}
    if sampler != latent.Normal():
        about["sampler"] = sampler
    with opened(checkpoints, "transport", tol=config.tol, max_samples=config.max_samples, **about) as saved:
        if saved is not None:
            sizes = [len(data)] if numbers is None else np.bincount(np.asarray(numbers)).tolist()
            empty = _packed(Progress(jnp.zeros(len(data)), (), None), sizes)
            solved["state"] = _unpacked(saved.restore(empty), sizes)
            count = itertools.count(1 + (saved.newest() or 0))
            solved["save"] = lambda _, progress: saved.save(next(count), _packed(progress, sizes))
        return couplings.semidiscrete(key, data, numbers, **solved)


class _Packed(NamedTuple):
    """The Progress of a solve in arrays of one shape, which checkpoints want: those of a class are followed by zeros.

    Attributes:
      h: heights [N].
      done: classes that are done (int32), and their infos in arrays [K].
      busy: whether a class is at work, and its state, in arrays [N].
    """

    h: np.ndarray
    done: np.ndarray
    infos: semidiscrete.Info
    busy: np.ndarray
    state: semidiscrete.State


_WHOLE = ("num_unseen", "num_heldout", "num_steps", "num_empty", "status")  # fields of an Info that are integers


def _packed(progress: Progress, sizes: list[int]) -> _Packed:
    num, done = sum(sizes), len(progress.infos)
    kinds = {name: np.int32 if name in _WHOLE else np.float32 for name in semidiscrete.Info._fields}
    infos = {name: np.zeros(len(sizes), kind) for name, kind in kinds.items()}
    for number, info in enumerate(progress.infos):
        for name, values in infos.items():
            values[number] = getattr(info, name)
    busy = progress.state is not None
    state = progress.state if busy else semidiscrete.from_heights(jnp.zeros(num))
    state = jax.tree.map(lambda leaf: np.pad(np.asarray(leaf), (0, num - leaf.size)) if leaf.ndim else leaf, state)
    info = semidiscrete.Info(**infos)
    return _Packed(np.array(progress.h), np.int32(done), info, np.bool_(busy), state)


def _unpacked(packed: _Packed | None, sizes: list[int]) -> Progress | None:
    if packed is None:
        return None
    done, state = int(packed.done), None
    if packed.busy:
        state = jax.tree.map(lambda leaf: leaf[: sizes[done]] if jnp.ndim(leaf) else leaf, packed.state)
    infos = tuple(jax.tree.map(lambda leaf, number=number: leaf[number], packed.infos) for number in range(done))
    return Progress(packed.h, infos, state)


def as_data(data: Any) -> Array:
    """Return data [N, d] or [N, h, w, c] to learn from, as float32 at least; raise ValueError otherwise."""
    data = native("data", data)
    require_channels_last("data", data.shape)
    if data.ndim not in (2, 4) or len(data) < 2 or 0 in data.shape:
        raise ValueError(f"data have shape {data.shape}: give at least 2 rows, [N, d] or [N, height, width, channels].")
    return as_array("data", data)


def labelling(labels: Any, num: int) -> tuple[dict[str, Any], Array | None, dict[str, int]]:
    """Return the collection of the classes, labels as the network reads them, and the sizes that tell it of them."""
    if labels is None:
        return {}, None, {}
    labels = native("labels", labels)
    if labels.ndim == 2 and jnp.issubdtype(labels.dtype, jnp.floating):
        return {}, as_array("labels", labels, (num, None)), {"num_conditions": labels.shape[1]}
    known, numbers = np.unique(np.asarray(check_labels(labels, num)), return_inverse=True)
    return collection_of(labels), jnp.asarray(numbers, jnp.int32), {"num_classes": len(known)}


def matched(coupling: Any, data: Array, numbers: Array | None) -> Sampler:
    """Return the law of a coupling's noise; refuse one that pairs other things than these data, warn of their scale."""
    found = jax.eval_shape(lambda key: coupling.pair(key, 2), jax.random.key(0))
    require_kind("what coupling.pair returns", found, couplings.Batch)
    for name in ("x0", "x1"):
        if getattr(found, name).shape != (2, *data.shape[1:]):
            raise ValueError(
                f"coupling pairs {name} of shape {getattr(found, name).shape[1:]}, but data have {data.shape[1:]}: "
                "make it of these data."
            )
    if found.label is not None and numbers is None:
        raise ValueError("coupling has labels, but the fit has none: give both the same labels.")
    source = getattr(coupling, "sampler", latent.Normal())
    noise = source(jax.random.key(0), 1000, data[0].size)
    _warn_of_scales(np.asarray(noise), np.asarray(data).reshape(len(data), -1))
    return source


def _warn_of_scales(noise: np.ndarray, data: np.ndarray) -> None:
    spread = [float(np.sqrt(x.var(0).mean())) for x in (noise, data)]
    apart = float(np.sqrt(np.mean((data.mean(0) - noise.mean(0)) ** 2)))
    if not (spread[0] / 3 < spread[1] < 3 * spread[0] and apart < 3 * spread[0]):
        warnings.warn(
            f"the data have a standard deviation of {spread[1]:.3g} about a mean {apart:.3g} away from that of the "
            f"noise, whose standard deviation is {spread[0]:.3g}: they are used as they are, but a flow learns best "
            "where both are alike. Standardise the data, (data - mean) / sd, and undo it on samples.",
            stacklevel=4,
        )


def feed_of(coupling: Any, key: Key, config: Config, first: int, numbers: Array | None) -> Iterator[couplings.Batch]:
    """Yield this host's rows of the batches that follow a step, with the labels that the network reads."""
    most = -(-config.num_steps // config.repeats) * config.batch_size  # pairs that the whole run takes
    options = {"start": first, "num": config.num_steps - first, "repeats": config.repeats}
    if most < _POOL:
        options["pool"] = most
    numbers = None if numbers is None else np.asarray(numbers)
    share = config.batch_size // jax.process_count()
    mine = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
    for batch in couplings.batches(coupling, key, config.batch_size, **options):
        if numbers is not None and batch.label is None:
            batch = batch._replace(label=numbers[np.asarray(batch.index)])
        yield batch if share == config.batch_size else jax.tree.map(lambda leaf: leaf[mine], batch)
