"""The latent of an informative generator: codes that should mean something, beside noise that need not.

A code has categorical parts, each uniform over so many values, and continuous parts, uniform on [-1, 1] or standard
normal. A generator reads the one-hot vectors and the continuous values, multiplied by `strength`, and the noise. An
encoder Q answers with the law of the code of a datum: a categorical law for every categorical part, a normal one for
every continuous part.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from otgen.ot.check import as_array, require_kind
from otgen.train.settings import Checked
from otgen.types import Array, Key

_LEAST = 0.05  # standard deviation below which an encoder cannot be sure of a continuous part
_LOG_ROOT = 0.5 * math.log(2 * math.pi)


class Codes(NamedTuple):
    """Codes of n latents.

    Attributes:
      categories: values of the categorical parts [n, parts], int32.
      values: continuous parts [n, uniform + normal], the uniform ones first.
    """

    categories: Array
    values: Array


@dataclasses.dataclass(frozen=True)
class Latent(Checked):
    """What a latent consists of.

    Attributes:
      categorical: how many values each categorical part has.
      uniform: continuous parts, uniform on [-1, 1].
      normal: continuous parts, standard normal.
      noise: dimensions of standard normal noise.
      strength: what one-hot vectors and continuous parts are multiplied by, against noise of deviation 1.

    Raises:
      ValueError: for sizes out of range, or no code at all.
    """

    categorical: tuple[int, ...] = (10,)
    uniform: int = 0
    normal: int = 0
    noise: int = 16
    strength: float = 3.0

    def __post_init__(self) -> None:
        self.whole_each("categorical", least=2)
        self.whole("uniform", "normal", "noise", least=0)
        self.positive("strength")
        if not self.categorical and not self.continuous:
            raise ValueError("a latent without any code: give at least one categorical, uniform or normal part.")

    @property
    def continuous(self) -> int:
        """Continuous parts of the code."""
        return self.uniform + self.normal

    @property
    def combinations(self) -> int:
        """Values that the categorical parts take together."""
        return math.prod(self.categorical)

    @property
    def dim(self) -> int:
        """Numbers that a generator reads."""
        return sum(self.categorical) + self.continuous + self.noise

    @property
    def outputs(self) -> int:
        """Numbers that an encoder answers with: logits, then means and raw deviations of the continuous parts."""
        return sum(self.categorical) + 2 * self.continuous

    def batch(self, key: Key, index: Array, num_codes: int) -> tuple[Codes, Array]:
        """Return the latents of a structured batch: `num_codes` codes, each with several noises.

        Latent l has code l mod num_codes, so consecutive latents go through all codes; the categorical values go
        through all their combinations. What is drawn depends on key and l alone.

        Args:
          key: key of the batch.
          index: numbers l of the latents wanted [n].
          num_codes: a multiple of `combinations`.

        Returns:
          Codes, and noise [n, noise].
        """
        code_key, noise_key = jax.random.split(key)
        number = index % num_codes
        codes = Codes(self._digits(number), self._values(code_key, number))
        keys = jax.vmap(jax.random.fold_in, (None, 0))(noise_key, index)
        return codes, jax.vmap(lambda one: jax.random.normal(one, (self.noise,)))(keys)

    def sample(self, key: Key, num: int) -> tuple[Codes, Array]:
        """Draw independent latents: codes [num], and noise [num, noise]."""
        category_key, rest_key = jax.random.split(key)
        number = jax.random.randint(category_key, (num,), 0, self.combinations)
        codes, noise = self.batch(rest_key, jnp.arange(num), num)
        return codes._replace(categories=self._digits(number)), noise

    def checked(self, codes: Codes, num: int) -> Codes:
        """Return codes as arrays; raise ValueError unless they are `num` of this latent's."""
        require_kind("codes", codes, Codes)
        categories = as_array("the categories of codes", codes.categories, (num, len(self.categorical)), keep=True)
        values = as_array("the values of codes", codes.values, (num, self.continuous), finite=False)
        return Codes(categories.astype(jnp.int32), values)

    def embed(self, codes: Codes) -> Array:
        """Return what networks read of codes: [n, dim - noise]."""
        parts = [jax.nn.one_hot(codes.categories[:, i], size) for i, size in enumerate(self.categorical)]
        return self.strength * jnp.concatenate([*parts, codes.values], axis=1)

    def join(self, codes: Codes, noise: Array) -> Array:
        """Return what a generator reads [n, dim], of codes and noise [n, noise]."""
        return jnp.concatenate([self.embed(codes), noise], axis=1)

    def log_ratio(self, outputs: Array, codes: Codes) -> tuple[Array, Array]:
        """Return log Q(c | x) / P(c) for all pairs, of the categorical and of the continuous parts.

        Args:
          outputs: of the encoder, for data x [m, outputs].
          codes: of n latents.

        Returns:
          Two matrices [n, m] in nats, zero where the code has no such part.
        """
        discrete = jnp.zeros((codes.categories.shape[0], outputs.shape[0]), outputs.dtype)
        for i, log_law in enumerate(self.log_laws(outputs)):
            discrete += log_law.T[codes.categories[:, i]] + math.log(self.categorical[i])
        mean, deviation = self.moments(outputs)
        apart = (codes.values[:, None] - mean) / deviation
        uniform = jnp.full((codes.values.shape[0], self.uniform), -math.log(2.0))
        prior = jnp.concatenate([uniform, _log_normal(codes.values[:, self.uniform :])], axis=1)
        return discrete, jnp.sum(_log_normal(apart) - jnp.log(deviation) - prior[:, None], axis=2)

    def log_laws(self, outputs: Array) -> list[Array]:
        """Return the log-probabilities [m, size] of every categorical part, of an encoder's outputs [m, outputs]."""
        ends = [sum(self.categorical[:i]) for i in range(len(self.categorical) + 1)]
        return [jax.nn.log_softmax(outputs[:, a:b]) for a, b in itertools.pairwise(ends)]

    def moments(self, outputs: Array) -> tuple[Array, Array]:
        """Return mean and deviation [m, continuous] of the continuous parts, of an encoder's outputs [m, outputs]."""
        first = sum(self.categorical)
        mean, raw = jnp.split(outputs[:, first:], 2, axis=1)
        return mean, _LEAST + jax.nn.softplus(raw)

    def _digits(self, number: Array) -> Array:
        """Return values of the categorical parts [n, parts] of the combination with this number."""
        parts = []
        for size in self.categorical:
            parts.append(number % size)
            number = number // size
        return jnp.stack(parts, axis=1).astype(jnp.int32) if parts else jnp.zeros((*number.shape, 0), jnp.int32)

    def _values(self, key: Key, number: Array) -> Array:
        def one(key: Key) -> Array:
            uniform_key, normal_key = jax.random.split(key)
            uniform = jax.random.uniform(uniform_key, (self.uniform,), minval=-1.0, maxval=1.0)
            return jnp.concatenate([uniform, jax.random.normal(normal_key, (self.normal,))])

        return jax.vmap(lambda n: one(jax.random.fold_in(key, n)))(number)


def _log_normal(x: Array) -> Array:
    return -0.5 * x**2 - _LOG_ROOT
