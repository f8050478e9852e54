"""Types that layers compute in, and those of what a network gives."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from otgen.ot.check import require_choice
from otgen.types import Array

PRECISIONS = ("float32", "bfloat16")


def compute_type(precision: str) -> Any:
    """Return the `dtype` of layers by the name of a precision: "float32" (that of the input, if wider) or "bfloat16".

    Raises:
      ValueError: for another name.
    """
    require_choice("precision", precision, PRECISIONS)
    return None if precision == "float32" else jnp.bfloat16


def widened(x: Array) -> Array:
    """Return outputs of a network in float32, or as they are if wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
