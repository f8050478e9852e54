"""Velocity fields of vectors: residual dense networks of a point, a time and a label.

Parameters and outputs are float32 (or wider); the layers compute in the type that `precision` names.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from otgen.nn.precision import compute_type, widened
from otgen.types import Array

_WAVES = 5  # octaves of a time


class Velocity(nn.Module):
    """v(t, x, label) for points x [n, dim], times t [n] in [0, 1] and labels [n], where it has any.

    Attributes:
      dim: dimension of the points.
      width: units of the hidden layers.
      depth: residual blocks.
      num_classes: classes that labels are numbers of; 0 for no classes.
      num_conditions: numbers in a label that is a vector; 0 for no such labels.
      precision: type that the layers compute in, "float32" (that of the points, if wider) or "bfloat16".

    Example:
      >>> net = og.nn.velocity.Velocity(dim=2, width=8, depth=1)
      >>> print(net.init_with_output(jax.random.key(0), jnp.zeros(1), jnp.ones((1, 2)))[0])
      [[0. 0.]]
    """

    dim: int
    width: int = 256
    depth: int = 3
    num_classes: int = 0
    num_conditions: int = 0
    precision: str = "float32"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one point."""
        return (self.dim,)

    @nn.compact
    def __call__(self, t: Array, x: Array, label: Array | None = None) -> Array:
        """Return velocities [n, dim]; zero before training. Labels as in `context`."""
        dtype = compute_type(self.precision)
        dense, norm = functools.partial(nn.Dense, self.width, dtype=dtype), functools.partial(nn.LayerNorm, dtype=dtype)
        time = context(self, t, label)
        h = dense()(x) + dense()(time)
        for _ in range(self.depth):
            inside = dense()(nn.gelu(norm()(h))) + dense()(time)
            h = h + dense()(nn.gelu(inside))
        last = nn.Dense(self.dim, kernel_init=nn.initializers.zeros, dtype=dtype)
        return widened(last(nn.gelu(norm()(h))))


def context(module: Any, t: Array, label: Array | None) -> Array:
    """Return features [n, width] of times [n] and labels, by layers of the module whose `__call__` asks for them.

    Args:
      module: with `width`, `num_classes`, `num_conditions` and `precision` as `Velocity` has them.
      t: times [n].
      label: numbers of classes [n], of which `num_classes` stands for none, or vectors [n, num_conditions], of which
        NaN stand for none; None for none in all rows.

    Raises:
      ValueError: for a label of a module without labels, or of another shape.

    Example:
      >>> net = og.nn.velocity.Velocity(dim=2, width=8, depth=1)
      >>> made = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros(1), jnp.ones((1, 2)))
      >>> print(made["params"]["Dense_0"]["kernel"].shape)  # of time, and of its sines and cosines, to the width
      (11, 8)
    """
    phase = t[:, None] * jnp.pi * 2.0 ** jnp.arange(_WAVES)
    waves = jnp.concatenate([t[:, None], jnp.sin(phase), jnp.cos(phase)], axis=1)
    dtype = compute_type(module.precision)
    features = nn.gelu(nn.Dense(module.width, dtype=dtype)(waves))
    label = as_label(module, label, len(t))
    if module.num_classes:
        table = nn.Embed(module.num_classes + 1, module.width, dtype=dtype, name="label")
        features = features + table(label)
    elif module.num_conditions:
        lost = jnp.isnan(label).any(1, keepdims=True)
        dense = nn.Dense(module.width, dtype=dtype, name="label")
        none = module.param("no_label", nn.initializers.normal(1.0), (module.width,))
        features = features + jnp.where(lost, none, dense(jnp.nan_to_num(label))).astype(features.dtype)
    return features


def as_label(module: Any, label: Array | None, num: int) -> Array | None:
    """Return labels as `context` takes them, those that stand for none where there are none.

    Raises:
      ValueError: for a label of a module without labels, or of another shape.

    Example:
      >>> net = og.nn.velocity.Velocity(dim=2, num_classes=3)
      >>> print(og.nn.velocity.as_label(net, None, 2), og.nn.velocity.as_label(net, jnp.array([2, 0]), 2))
      [3 3] [2 0]
    """
    if not (module.num_classes or module.num_conditions):
        if label is not None:
            raise ValueError("this velocity field was made without labels: give none.")
        return None
    shape = (num,) if module.num_classes else (num, module.num_conditions)
    if label is None:
        return jnp.full(shape, module.num_classes) if module.num_classes else jnp.full(shape, jnp.nan)
    if jnp.shape(label) != shape:
        raise ValueError(f"label has shape {jnp.shape(label)}: give one of shape {shape}, a label for every row.")
    return label
