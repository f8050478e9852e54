"""A prior known only by its draws: sums are brought back to given codes by semi-discrete transport."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from otgen.ot.check import as_points, is_traced
from otgen.ot.latent.priors import Prior, law, set_fields
from otgen.ot.products import contract
from otgen.ot.semidiscrete import solution, solver
from otgen.ot.semidiscrete.descent import State
from otgen.types import Array, Key


@law()
class Learned(Prior):
    """The law of given codes, equally likely; vectors lie along the last axis.

    The law of a weighted sum of draws is transported to the codes by the semi-discrete map, so the result of an
    operation is itself one of the codes. The heights belong to one set of weights: solve them once with `table`,
    then `apply`.

    Attributes:
      codes: [N, d].

    Example:
      >>> prior = og.latent.Learned(jnp.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
      >>> print(np.unique(prior.sample(jax.random.key(0), (50, 2)), axis=0))
      [[-1. 0.]
       [0. 1.]
       [1. 0.]]
    """

    codes: Any
    on_host = True

    def __post_init__(self):
        set_fields(self, codes=as_points("codes", self.codes))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuse latents of another dimension than the codes."""
        if not shape or shape[-1] != self.codes.shape[1]:
            raise ValueError(f"latents of shape {shape} for codes of shape {self.codes.shape}: give [..., d].")

    def _draw(self, key: Key, shape: tuple[int, ...]) -> Array:
        codes = jnp.asarray(self.codes)
        return codes[jax.random.randint(key, shape[:-1], 0, codes.shape[0])]

    def table(self, weights: Array, key: Key | None = None, **options: Any) -> State:
        """Solve the transport from the law of the sum to the codes.

        Args:
          weights: [n].
          key: random key; None for a fixed one.
          **options: of `semidiscrete.run`, for example `tol`.

        Returns:
          State that holds the heights.

        Raises:
          ValueError: inside jit, where the solver cannot run.
        """
        if is_traced(weights, self.codes):
            raise ValueError("Learned solves its map on the host: call table(weights) outside jit, and apply inside.")
        codes = jnp.asarray(self.codes)

        def sums(key: Key, num: int, dim: int) -> Array:
            index = jax.random.randint(key, (len(weights), num), 0, codes.shape[0])
            return contract("n,nkd->kd", jnp.asarray(weights, codes.dtype), codes[index])

        return solver.run(jax.random.key(13) if key is None else key, codes, sampler=sums, **options)[0].state

    def apply(self, table: State, y: Array) -> Array:
        """Send sums y [..., d] to the codes by solved heights."""
        codes = jnp.asarray(self.codes)
        index = solution.assign(table, codes, y.reshape(-1, y.shape[-1]))
        return codes[index].reshape(y.shape)

    def match(self, weights: Array, y: Array) -> Array:
        return self.apply(self.table(weights), y)

    def prepare(self, weights: Array, shape: tuple[int, ...], draws: Any = None) -> Any:
        """Return the solved heights."""
        return self.table(weights)

    def finish(self, prepared: Any, y: Array) -> Array:
        """Send sums to the codes."""
        return self.apply(prepared, y)
