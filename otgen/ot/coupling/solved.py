"""The semi-discrete coupling: the optimal plan between the whole law of the noise and N data, solved for once.

Noise x0 goes to the data point k that wins max_k <x0, y_k> + h_k. The heights h make every point win its share of the
noise, so that the pair (x0, y_k) is a draw of the optimal plan: for every fresh x0, at the price of a maximum.

With classes there is a problem a class, each from the whole law of the noise: given its class, the noise of a pair then
has the law of all noise, and tells nothing of the class.

Reference: Mousavi-Hosseini et al. (2025), arXiv 2509.25519; Cheng and Schwing (2025), arXiv 2503.10636, for labels.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen.ot import semidiscrete as solver
from otgen.ot.check import as_array, as_key, require_function, require_kind
from otgen.ot.coupling.batch import Batch, Classes, asked, looked_up, noise, parts_of, settled, some
from otgen.ot.coupling.lookup import winners
from otgen.ot.coupling.within import Independent
from otgen.ot.latent import Normal
from otgen.ot.semidiscrete.descent import shifted
from otgen.ot.semidiscrete.scores import top_scores
from otgen.types import Array, Callback, Key, Sampler, Status, as_pytree


@as_pytree
@dataclasses.dataclass(frozen=True)
class SemiDiscrete:
    """The optimal plan of the noise and all data, by heights that `semidiscrete` solves for.

    Attributes:
      data: [N, ...].
      h: heights [N], of each class apart from the others.
      labels: of the data [N], any integers; None for none. Held as `Classes`.
      sampler: the law of the noise, of the data flattened to rows. Static.

    Example:
      >>> data = jnp.array([[-1.0], [1.0], [-3.0], [3.0]])
      >>> coupling = og.coupling.SemiDiscrete(data, jnp.zeros(4), labels=[0, 0, 1, 1])
      >>> batch = coupling.pair(jax.random.key(0), 100, labels=1)
      >>> print(jnp.array_equal(batch.x1, 3 * jnp.sign(batch.x0)))
      True
    """

    data: ArrayLike
    h: ArrayLike
    labels: Any = None
    sampler: Sampler = dataclasses.field(default=Normal(), metadata={"static": True})
    rowwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        settled(self)
        if self.labels is not None:
            require_kind("labels, as they are taken,", self.labels, Classes)
        object.__setattr__(self, "h", as_array("h, one height a data point,", self.h, self.data.shape[:1]))

    def pair(self, key: Key, num: int, labels: ArrayLike | None = None) -> Batch:
        """Draw pairs; arguments and errors as in `Independent.pair`. Classes not asked for have their data's shares."""
        return _won(self, *asked(self, key, num, labels))


@functools.partial(jax.jit, static_argnames="num")
def _won(coupling: SemiDiscrete, key: Key, num: int, wanted: Array | None) -> Batch:
    noise_key, rest = parts_of(key)
    x0 = noise(noise_key, jnp.arange(num), coupling.sampler, coupling.data)
    x, y = x0.reshape(num, -1), coupling.data.reshape(len(coupling.data), -1)
    if coupling.labels is None:
        return looked_up(coupling, x0, top_scores(x, *shifted(y, coupling.h))[1][:, 0], None)
    number = coupling.labels.number[some(rest, coupling, num, None)] if wanted is None else wanted
    return looked_up(coupling, x0, winners(x, y, coupling.h, coupling.labels, number), wanted)


def from_map(transport: solver.Map, data: ArrayLike | None = None) -> SemiDiscrete:
    """Return the coupling of a map that has been solved for, without labels.

    Args:
      transport: what `og.semidiscrete.run` returns, from the law that the flow starts from.
      data: the points in another shape [N, ...], such as images; None for those of the map [N, d].

    Raises:
      ValueError: for data of another number or size than the points.

    Example:
      >>> y = jax.random.normal(jax.random.key(0), (50, 4))
      >>> transport, _ = og.semidiscrete.run(jax.random.key(1), y, sampler=og.source.gaussian)
      >>> print(og.coupling.from_map(transport, y.reshape(50, 2, 2)).pair(jax.random.key(2), 3).x1.shape)
      (3, 2, 2)
    """
    require_kind("transport", transport, solver.Map)
    data = transport.y if data is None else as_array("data", data)
    if data.shape[:1] != transport.h.shape or data[:1].size != transport.y[:1].size:
        raise ValueError(f"data have shape {data.shape}: give the points {transport.y.shape} of the map, reshaped.")
    return SemiDiscrete(data, transport.h, None, transport.sampler)


def semidiscrete(
    key: Key,
    data: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    sampler: Sampler = Normal(),  # noqa: B008
    tol: float = 0.05,
    max_samples: int | None = None,
    callback: Callback | None = None,
) -> tuple[SemiDiscrete, solver.Info]:
    """Solve for the semi-discrete coupling of noise and data, with labels one problem a class.

    Args:
      key: random key.
      data: [N, ...].
      labels: of the data [N], any integers; None for none.
      sampler: the law of the noise, of the data flattened to rows. Static.
      tol: error to reach, chi2 of the data's use, as in `og.semidiscrete.run`; little is gained below 0.05.
      max_samples: limit of the samples of each solve.
      callback: called with steps and metrics, in a solve of several classes `class` among them.

    Returns:
      The coupling, and the Info of the solve: with labels one that holds arrays [K], as `og.explain` takes it. A class
      of one point, or of points that coincide, needs no solve.

    Raises:
      ValueError: for data or labels that cannot be meant.

    Example:
      >>> data, labels = jax.random.normal(jax.random.key(0), (60, 2)), np.arange(60) % 2
      >>> coupling, info = og.coupling.semidiscrete(jax.random.key(1), data, labels)
      >>> print(bool(jnp.all(info.chi2 < 0.05)), coupling.pair(jax.random.key(2), 2, labels=np.array([0, 1])).label)
      True [0 1]
    """
    key, given = as_key(key), Independent(data, labels, sampler)
    start = SemiDiscrete(given.data, np.zeros(len(given.data), np.float32), given.labels, sampler)
    if callback is not None:
        require_function("callback", callback)
    y = np.asarray(start.data).reshape(len(start.data), -1)
    parts = [np.arange(len(y))]
    if start.labels is not None:
        parts = np.split(np.asarray(start.labels.order), np.asarray(start.labels.start)[1:-1])
    h, infos, steps = np.zeros(len(y), np.float32), [], 0
    for number, part in enumerate(parts):

        def told(step: int, metrics: dict[str, float], number: int = number, steps: int = steps) -> None:
            callback(steps + step, metrics if start.labels is None else {"class": number, **metrics})

        options = {"sampler": sampler, "tol": tol, "max_samples": max_samples, "callback": told if callback else None}
        if (y[part] == y[part[:1]]).all():
            infos.append(_trivial())
            continue
        found, info = solver.run(jax.random.fold_in(key, number), y[part], **options)
        h[part] = np.asarray(found.h)
        infos.append(info)
        steps += int(info.num_steps)
    info = (
        infos[0]
        if start.labels is None
        else jax.tree.map(lambda *of: jnp.stack([jnp.asarray(it) for it in of]), *infos)
    )
    return dataclasses.replace(start, h=h), info


def _trivial() -> solver.Info:
    """Return the Info of a class of one point, to which all noise goes."""
    zero, whole = np.float32(0), ("num_unseen", "num_heldout", "num_steps", "num_empty")
    told = dict.fromkeys(solver.Info._fields, zero) | dict.fromkeys(whole, np.int32(0))
    return solver.Info(**{**told, "max_ratio": np.float32(1), "status": np.int32(Status.CONVERGED)})
