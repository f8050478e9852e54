"""The map that a solve returns: points, heights and the law of the noise in one pytree, ready to be used."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from jax.typing import ArrayLike

from otgen.ot.semidiscrete import extension, inverse, pairing, solution
from otgen.ot.semidiscrete.angle_filter import QUANTILE
from otgen.ot.semidiscrete.descent import State, from_heights
from otgen.types import Array, Float, Int, Key, Sampler, as_pytree


@as_pytree
@dataclasses.dataclass(frozen=True)
class Map:
    """The optimal map T from a source law to weighted points, a pytree: x goes to the point that wins its maximum.

    `og.save` keeps it and `og.load` gives it back, with its source law if that is a prior of `og.latent`; a function
    of one's own is code, which is not saved. Its functions are those of `semidiscrete`, `coupling` and
    `extension`, which take heights, points and law one by one.

    Attributes:
      y: points [N, d].
      h: heights [N], mean 0.
      weights: of the points [N], summing to 1.
      sampler: the source law that the heights were solved for. Static.
      extension: mass centres of the cells and threshold of the angle, from `extended`; None before.

    Example:
      >>> y = jnp.array([[-1.1, 0.0], [-1.0, 0.0], [1.0, 0.0], [1.1, 0.0]])
      >>> transport, info = og.semidiscrete.run(jax.random.key(0), y)
      >>> print(transport(jnp.array([[-0.3, 0.2], [0.4, 0.1]])))  # T(x)
      [[-1.1 0. ]
       [ 1.1 0. ]]
      >>> noise, found = transport.invert(jax.random.key(1), jnp.array([0, 3]))  # encode
      >>> print(transport.assign(noise))  # decode
      [0 3]
      >>> new = transport.extended(jax.random.key(2)).sample(jax.random.key(3), 200)  # not across a jump
      >>> print(new.shape, bool(jnp.all(jnp.abs(new[:, 0]) > 0.8)))
      (200, 2) True
    """

    y: Array
    h: Array
    weights: Array
    sampler: Sampler = dataclasses.field(metadata={"static": True})
    extension: extension.Extension | None = None

    @property
    def state(self) -> State:
        """The heights as the state of a solve at step 0."""
        return from_heights(self.h)

    def __call__(self, x: ArrayLike) -> Float[Array, "n d"]:
        """Return T(x) [n, d] of samples x [n, d]: the points they are sent to."""
        return self.y[self.assign(x)]

    def assign(self, x: ArrayLike) -> Int[Array, " n"]:
        """Return which points samples [n, d] are sent to, as `semidiscrete.assign`."""
        return solution.assign(self, self.y, x)

    def masses(self, key: Key, num: int) -> Float[Array, " N"]:
        """Estimate the masses of the cells, as `semidiscrete.masses`."""
        return solution.masses(key, self, self.y, num, weights=self.weights)

    def chi2(self, key: Key, num: int) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Estimate how far the masses are from the weights, as `semidiscrete.chi2`: value and standard error."""
        return solution.chi2(key, self, self.y, num, weights=self.weights)

    def pair(self, key: Key, step: ArrayLike, batch_size: int, *, quasi: bool = True) -> pairing.Pairs:
        """Draw batch number `step` of noise and data, as `coupling.pair`."""
        return pairing.pair(key, step, self, self.y, batch_size, quasi=quasi)

    def pairs(self, key: Key, batch_size: int, **options: Any) -> Iterator[pairing.Pairs]:
        """Iterate over batches of noise and data; options and errors as in `coupling.pairs`."""
        return pairing.pairs(key, self, self.y, batch_size, **options)

    def invert(self, key: Key, index: ArrayLike, *, how: str = "draw", num_sweeps: int = 32) -> inverse.Inverse:
        """Return noise that is sent to the points of an index [n], as `coupling.invert`."""
        centres = None if self.extension is None else self.extension.centres
        options = {"how": how, "num_sweeps": num_sweeps, "centres": centres}
        return inverse.invert(key, self, self.y, index, **options)

    def invert_all(self, key: Key, *, num: int | None = None, num_sweeps: int = 32) -> inverse.Inverse:
        """Return noise that is sent to each of the points, as `coupling.invert_all`."""
        return inverse.invert_all(key, self, self.y, num=num, num_sweeps=num_sweeps)

    def extended(self, key: Key, *, num: int | None = None, quantile: ArrayLike = QUANTILE) -> Map:
        """Return the map with its extension, which makes new points; arguments and errors as in `extension.init`."""
        found = extension.init(key, self, self.y, num=num, quantile=quantile)
        return dataclasses.replace(self, extension=found)

    def move(self, key: Key, x: ArrayLike, **how: Any) -> extension.Combination:
        """Move samples [n, d] by the extended map; `how`, form, angle and labels, as in `extension.transport`.

        Raises:
          ValueError: for a map that is not `extended`, and as there.
        """
        return extension.transport(key, self._extension(), self, self.y, x, **how)

    def sample(self, key: Key, num: int, **how: Any) -> Float[Array, "num d"]:
        """Draw points [num, d] by the extended map; `how`, form, angle and labels, as in `extension.sample`.

        Raises:
          ValueError: for a map that is not `extended`, and as there.
        """
        return extension.sample(key, self._extension(), self, self.y, num, **how)

    def _extension(self) -> extension.Extension:
        if self.extension is None:
            raise ValueError("this map only knows its points: call map.extended(key) for one that makes new ones.")
        return self.extension
