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
from jax.typing import ArrayLike

from otgen.ot import semidiscrete as solver
from otgen.ot.check import as_array, require_choice, require_kind
from otgen.ot.coupling.batch import Batch, Classes, asked, looked_up, noise, parts_of, settled, some
from otgen.ot.coupling.imbalance import IMBALANCE, resampled
from otgen.ot.coupling.lookup import winners
from otgen.ot.latent import Normal
from otgen.ot.semidiscrete.descent import of_one_type, shifted
from otgen.ot.semidiscrete.scores import top_scores
from otgen.types import Array, Key, Sampler, as_pytree


@as_pytree
@dataclasses.dataclass(frozen=True)
class SemiDiscrete:
    """The optimal plan of the noise and all data, by heights that `semidiscrete` solves for.

    Attributes:
      data: [N, ...].
      h: heights [N], of each class apart from the others.
      labels: of the data [N], any integers; None for none. Held as `Classes`.
      sampler: the law of the noise, of the data flattened to rows. Static.
      balance: what a pair counts by the data point that it has [N], against the imbalance that the solve has left; None
        for 1.
      imbalance: "weight": `balance` is the weight of the pairs. "resample": pairs of a batch are drawn again in
        proportion to it, some left out and some taken twice. "none": it is not used. Static.

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
    balance: ArrayLike | None = None
    imbalance: str = dataclasses.field(default="weight", metadata={"static": True})
    rowwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        settled(self), require_choice("imbalance", self.imbalance, IMBALANCE)
        if self.balance is not None:
            object.__setattr__(self, "balance", as_array("balance", self.balance, self.data.shape[:1]))
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
    x, y, h = of_one_type(x0.reshape(num, -1), coupling.data.reshape(len(coupling.data), -1), coupling.h)
    if coupling.labels is None:
        number = jnp.zeros(num, jnp.int32)
        index = top_scores(x, *shifted(y, h))[1][:, 0]
    else:
        number = coupling.labels.number[some(rest, coupling, num, None)] if wanted is None else wanted
        index = winners(x, y, h, coupling.labels, number)
    if coupling.balance is None or coupling.imbalance == "none":
        return looked_up(coupling, x0, index, wanted)
    weight = coupling.balance[index]
    if coupling.imbalance == "weight":
        return looked_up(coupling, x0, index, wanted, weight)
    rows = resampled(jax.random.fold_in(rest, 1), weight, number)
    return looked_up(coupling, x0[rows], index[rows], wanted)


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
