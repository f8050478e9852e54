"""Labels of images: what a generator is told of classes, and of which class it draws.

A generator of `num_classes` classes reads their one-hot vectors beside its noise. A trained one has a collection
`classes` beside its `params`: the labels [K], and the shares [K] that they have in the data. Classes are numbered from
0 in the order of their labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen.ot.check import as_count, native
from otgen.types import Array, Key


def check_labels(labels: Any, num: int) -> Array | None:
    """Return labels as int32 [num], or None; raise ValueError if they do not match the images.

    Example:
      >>> print(og.models.ae_ot.check_labels([3, 1], 2), og.models.ae_ot.check_labels(None, 2))
      [3 1] None
    """
    num = as_count("num", num)
    if labels is None:
        return None
    labels = np.asarray(native("labels", labels))
    if labels.shape != (num,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels have shape {labels.shape} and type {labels.dtype}: give {num} integers, one per image."
        )
    return jnp.asarray(labels, jnp.int32)


def require_label(label: Any, known: list[int]) -> None:
    """Refuse a label that a model does not know.

    Raises:
      ValueError: with the labels that it knows.
    """
    if label not in known:
        told = f"its labels are {known}" if known else "it was fitted without labels"
        raise ValueError(f"label = {label!r} is unknown to this model: {told}.")


def collection_of(labels: Any) -> dict[str, dict[str, Array]]:
    """Return the collection `classes` of a model that was fitted with labels [N]; nothing for None."""
    if labels is None:
        return {}
    known, counts = np.unique(np.asarray(labels), return_counts=True)
    shares = jnp.asarray(counts / counts.sum(), jnp.float32)
    return {"classes": {"labels": jnp.asarray(known, jnp.int32), "shares": shares}}


def class_of(variables: Any, label: int | None) -> Array | None:
    """Return the number of the class that has a label; None for None.

    Raises:
      ValueError: for a label that the model does not know.
    """
    if label is None:
        return None
    known = np.asarray(variables["classes"]["labels"]).tolist() if "classes" in variables else []
    require_label(label, known)
    return jnp.int32(known.index(label))


def example_of(module: nn.Module) -> Array | None:
    """Return the classes [1] that a module is started with; None if it has none."""
    return jnp.zeros(1, jnp.int32) if module.num_classes else None


def parted(batch: Any) -> tuple[Array, Array | None]:
    """Return images and classes of a batch; None for the classes of a batch of images alone."""
    return batch if isinstance(batch, tuple) else (batch, None)


def check_classes(module: nn.Module, classes: Any, num: int) -> None:
    """Refuse what is not the class of every row of a module that has classes, and any for one that has none.

    Raises:
      ValueError: with what is wrong.
    """
    if not module.num_classes:
        if classes is not None:
            raise ValueError("this model was made without labels: give no classes.")
        return
    if classes is None:
        raise ValueError(f"this model has {module.num_classes} classes: give that of every row, from 0.")
    classes = native("classes", classes)
    if classes.shape != (num,) or not jnp.issubdtype(classes.dtype, jnp.integer):
        raise ValueError(f"classes have shape {classes.shape}, type {classes.dtype}: give {num} integers from 0.")


def one_hot(module: nn.Module, classes: ArrayLike | None, num: int) -> Array:
    """Return the one-hot vectors [num, K] of classes [num]; [num, 0] where the module has none."""
    check_classes(module, classes, num)
    return jax.nn.one_hot(classes, module.num_classes) if module.num_classes else jnp.zeros((num, 0))


def beside(module: nn.Module, x: Array, classes: ArrayLike | None, strength: float = 1.0) -> Array:
    """Return x [n, d] with the one-hot vectors of classes [n] beside it; x itself where the module has none."""
    hot = one_hot(module, classes, len(x))
    return jnp.concatenate([x, strength * hot], axis=1) if module.num_classes else x


def drawn(module: nn.Module, key: Key, num: int, given: ArrayLike | None) -> Array | None:
    """Return `num` classes: the given one, or random ones in the shares of the data; None where the module has none."""
    if not module.num_classes:
        return None
    if given is not None:
        return jnp.full(num, given, jnp.int32)
    shares = module.get_variable("classes", "shares")
    return jax.random.categorical(jax.random.fold_in(key, 1), jnp.log(shares), shape=(num,))


def rows_of_label(key: Key, draw: Callable[[Key], tuple[Array, Array]], label: int, share: float, num: int) -> Array:
    """Return `num` of the rows that draws give for a label, drawn until there are enough.

    Args:
      key: random key; that of a draw is folded with its number.
      draw: a key to rows [n, ...] and the labels [n] that they are for.
      label: the one that is wanted.
      share: of the rows that should be for it.
      num: how many are wanted.

    Raises:
      ValueError: if several times the draws that it should take do not give enough.
    """
    kept, found, drawn, count = [], 0, 0, 0
    while found < num:
        rows, labels = (np.asarray(part) for part in draw(jax.random.fold_in(key, count)))
        kept.append(rows[labels == label])  # on the host: their number differs
        found, drawn, count = found + len(kept[-1]), drawn + len(rows), count + 1
        if found < num and count >= 20 + 4 * num / (len(rows) * share):
            raise ValueError(
                f"label = {label!r} wins almost no noise: {found} of {num} found in {drawn} samples. Do images of "
                "other labels have the same codes, or is the transport far from solved?"
            )
    return jnp.asarray(np.concatenate(kept)[:num])
