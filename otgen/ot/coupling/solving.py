"""The solve for a semi-discrete coupling, with labels one a class, which goes on where it was stopped."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen.ot import semidiscrete as solver
from otgen.ot.check import as_key, as_weights, require_choice, require_function, require_kind, require_nonnegative
from otgen.ot.coupling.batch import Classes
from otgen.ot.coupling.imbalance import IMBALANCE, balancing
from otgen.ot.coupling.solved import SemiDiscrete
from otgen.ot.coupling.within import Independent
from otgen.ot.latent import Normal
from otgen.ot.semidiscrete.measure import chi2_of, repeated
from otgen.ot.semidiscrete.saving import SECONDS, Saver
from otgen.ot.semidiscrete.solution import counted
from otgen.progress import watched
from otgen.types import Array, Callback, Key, Sampler, Status

_MASS_SAMPLES = 16  # a data point, from which its use is estimated


class Progress(NamedTuple):
    """Where a solve of `semidiscrete` stands: what its `save` receives, and what it goes on from.

    Attributes:
      h: heights [N] of the classes that are done; zero in the others.
      infos: their Infos, in the order of the classes.
      state: of the class that is at work; None between two.

    Example:
      >>> data, seen = jax.random.normal(jax.random.key(0), (40, 2)), []
      >>> save = lambda step, progress: seen.append(progress)
      >>> whole, _ = og.coupling.semidiscrete(jax.random.key(1), data, np.arange(40) % 2, save=save, save_seconds=0.0)
      >>> again, _ = og.coupling.semidiscrete(jax.random.key(1), data, np.arange(40) % 2, state=seen[0])
      >>> print(len(seen[-1].infos), jnp.array_equal(again.h, whole.h))
      2 True
    """

    h: Array
    infos: tuple
    state: solver.State | None


@watched
def semidiscrete(
    key: Key,
    data: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    sampler: Sampler = Normal(),  # noqa: B008
    tol: float = 0.05,
    max_samples: int | None = None,
    imbalance: str = "none",
    state: SemiDiscrete | Progress | None = None,
    callback: Callback | None = None,
    save: Callable[[int, Progress], None] | None = None,
    save_seconds: float = SECONDS,
) -> tuple[SemiDiscrete, solver.Info]:
    """Solve for the semi-discrete coupling of noise and data, with labels one problem a class.

    Args:
      key: random key.
      data: [N, ...].
      labels: of the data [N], any integers; None for none.
      sampler: the law of the noise, of the data flattened to rows. Static.
      tol: error to reach, chi2 of the data's use, as in `og.semidiscrete.run`; Mousavi-Hosseini et al. report
        little gain below 0.05.
      max_samples: limit of the samples of each solve.
      imbalance: against what is left of chi2: "none", or "weight" or "resample", see `SemiDiscrete` and
        `otgen.ot.coupling.imbalance`, which says why "none" is enough. The others take 16 N samples more.
      state: a coupling of the same data, whose heights are where the solve starts; or what `save` has received, from
        where it goes on, with the same key bit-identically.
      callback: called with steps and metrics every second or so, in a solve of classes with `class` among them.
      save: called with the step and the Progress when `save_seconds` have passed, at the end, and before an error or
        Ctrl-C ends the solve.
      save_seconds: how often it is saved. It changes no result.

    Returns:
      The coupling, and the Info of the solve: with labels one that holds arrays [K], as `og.explain` takes it. A class
      of one point, or of points that coincide, needs no solve: all noise goes there.

    Raises:
      ValueError: for data or labels that cannot be meant, or a state of other data.

    Example:
      >>> data, labels = jax.random.normal(jax.random.key(0), (60, 2)), np.arange(60) % 2
      >>> coupling, info = og.coupling.semidiscrete(jax.random.key(1), data, labels)
      >>> print(bool(jnp.all(info.chi2 < 0.05)), coupling.pair(jax.random.key(2), 2, labels=np.array([0, 1])).label)
      True [0 1]
    """
    key, given = as_key(key), Independent(data, labels, sampler)
    require_choice("imbalance", imbalance, IMBALANCE)
    for name, function in {"callback": callback, "save": save}.items():
        if function is not None:
            require_function(name, function)
    require_nonnegative("save_seconds", save_seconds)
    empty = SemiDiscrete(given.data, np.zeros(len(given.data), np.float32), given.labels, sampler)
    y, parts = np.asarray(empty.data).reshape(len(empty.data), -1), parts_by_class(empty.labels, len(empty.data))
    before, progress = _begun(state, len(y), len(parts))
    h, infos = np.array(progress.h), list(progress.infos)
    options = {"sampler": sampler, "tol": tol, "max_samples": max_samples, "save_seconds": 0.0}
    with Saver(save, save_seconds) as saver:
        for number in range(len(infos), len(parts)):
            part, done = parts[number], sum(int(info.num_steps) for info in infos)
            told = {} if empty.labels is None else {"class": number}

            def tell(step: int, metrics: dict[str, Any], done: int = done, told: dict = told) -> None:
                callback(done + step, {**told, **metrics})

            def keep(step: int, state: solver.State | None, done: int = done) -> None:
                whole = state is None and len(infos) == len(parts)
                saver(done + step, lambda: Progress(jnp.array(h), tuple(infos), state), now=True if whole else None)

            start = progress.state if number == len(progress.infos) else None
            start = start if before is None else _map(y[part], before.h[part], sampler)
            options |= {"state": start, "callback": tell if callback else None, "save": keep if save else None}
            h[part], info = _solved(jax.random.fold_in(key, number), y[part], **options)
            infos.append(info)
            keep(int(info.num_steps), None)
    info = infos[0] if empty.labels is None else jax.tree.map(lambda *of: jnp.stack(of), *infos)
    coupling = dataclasses.replace(empty, h=h)
    if imbalance != "none":
        balance = _balance(jax.random.fold_in(key, len(parts)), coupling, y, parts)
        coupling = dataclasses.replace(coupling, balance=balance, imbalance=imbalance)
    return coupling, info


def _solved(key: Key, y: np.ndarray, **options: Any) -> tuple[np.ndarray, solver.Info]:
    """Return the heights of the points of a class, and how they were found."""
    if _coincide(y):
        return np.zeros(len(y), np.float32), _trivial()
    found, info = solver.run(key, y, **options)
    return np.asarray(found.h), info


def _coincide(y: np.ndarray) -> bool:
    return bool((y == y[:1]).all())


def _map(y: np.ndarray, h: Array, sampler: Sampler) -> solver.Map:
    return solver.Map(jnp.asarray(y), h, as_weights(None, len(y)), sampler)


def _begun(state: Any, num: int, num_classes: int) -> tuple[SemiDiscrete | None, Progress]:
    """Return the coupling that a solve starts from, if any, and how far it has come."""
    none = Progress(jnp.zeros(num), (), None)
    if state is None:
        return None, none
    require_kind("state", state, (SemiDiscrete, Progress))
    if jnp.shape(state.h) != (num,):
        raise ValueError(f"state has {jnp.size(state.h)} heights, but there are {num} data: give one of the same data.")
    if isinstance(state, SemiDiscrete):
        return state, none
    if len(state.infos) > num_classes:
        raise ValueError(f"state has solved {len(state.infos)} classes of {num_classes}: give one of the same labels.")
    return None, state


def parts_by_class(labels: Classes | None, num: int) -> list[np.ndarray]:
    """Return which data are of each class; all of them without labels."""
    if labels is None:
        return [np.arange(num)]
    return np.split(np.asarray(labels.order), np.asarray(labels.start)[1:-1])


def _balance(key: Key, coupling: SemiDiscrete, y: np.ndarray, parts: list[np.ndarray]) -> np.ndarray:
    """Return what pairs should count by their data [N], measured by fresh samples."""
    balance = np.ones(len(y), np.float32)
    for number, part in enumerate(parts):
        if _coincide(y[part]):
            continue
        state = solver.from_heights(jnp.asarray(coupling.h)[part])
        counts, _, total, groups = counted(
            jax.random.fold_in(key, number), state, y[part], None, _MASS_SAMPLES * len(part), coupling.sampler
        )
        found = balancing(counts.sum(0), total, *chi2_of(counts, total))
        balance[part] = np.asarray(repeated(found, groups))
    return balance


def _trivial() -> solver.Info:
    """Return the Info of a class of one point, to which all noise goes."""
    zero, whole = np.float32(0), ("num_unseen", "num_heldout", "num_steps", "num_empty")
    told = dict.fromkeys(solver.Info._fields, zero) | dict.fromkeys(whole, np.int32(0))
    return solver.Info(**{**told, "max_ratio": np.float32(1), "status": np.int32(Status.CONVERGED)})
