"""Paths of a trained flow: dX/dt = v(t, X), from noise at t = 0 to data at t = 1 and back, by k steps or adaptively."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from otgen import optional
from otgen.models.apply import parts_of
from otgen.models.classes import require_label
from otgen.models.flow.training import METHODS, Flow, require_field
from otgen.nn.velocity import as_label
from otgen.ot.check import (
    as_array,
    as_count,
    as_key,
    is_traced,
    native,
    require_between,
    require_choice,
    require_kind,
    require_nonnegative,
)
from otgen.types import Array, Key, Sampler

_PIECE = 2**18  # numbers moved at a time
_TOL = 1e-5  # of the adaptive solver, relative and absolute
_MOST = 10_000  # steps of it

Field = Callable[[Array, Any], Any]


def integrate(field: Field, x: Any, t0: Any, t1: Any, method: str, num_steps: int) -> Any:
    """Follow dx/dt = field(t, x) of a pytree x from t0 to t1; `method` and `num_steps` are static.

    The adaptive solver treats all rows as one system, and gives NaN where it does not come to an end.
    """
    if method == "adaptive":
        return _adaptive(field, x, t0, t1)
    step = (t1 - t0) / num_steps

    def moved(x: Any, slope: Any, share: Any) -> Any:
        return jax.tree.map(lambda one, rate: one + share * step * rate, x, slope)

    def one(x: Any, i: Array) -> tuple[Any, None]:
        t = t0 + i * step
        slope = field(t, x)
        if method == "midpoint":
            slope = field(t + step / 2, moved(x, slope, 0.5))
        elif method == "heun":
            ahead = field(t + step, moved(x, slope, 1.0))
            slope = jax.tree.map(lambda one, two: (one + two) / 2, slope, ahead)
        return moved(x, slope, 1.0), None

    return jax.lax.scan(one, x, jnp.arange(num_steps))[0]


def _adaptive(field: Field, x: Any, t0: Any, t1: Any) -> Any:
    with optional.imports():
        import diffrax  # imported here, as it takes a second that the other parts of the library need not wait for

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, x, _: field(t, x)),
        diffrax.Tsit5(),
        t0=jnp.float32(t0),
        t1=jnp.float32(t1),
        dt0=None,
        y0=x,
        stepsize_controller=diffrax.PIDController(rtol=_TOL, atol=_TOL, norm=_largest),
        max_steps=_MOST,
        throw=False,
    )
    done = solution.result == diffrax.RESULTS.successful
    return jax.tree.map(lambda leaf: jnp.where(done, leaf[-1], jnp.nan), solution.ys)


def _largest(tree: Any) -> Array:
    """Return the largest entry of a pytree, so that every row is as accurate as the tolerance says."""
    return jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(tree)]))


def guided(module: Any, variables: Any, t: Array, x: Array, label: Array | None, guidance: Array | None) -> Array:
    """Return velocities at one time t; a guidance other than None moves them on, away from those without a label."""
    t = jnp.full(x.shape[0], t, x.dtype)
    told = module.apply(variables, t, x, label)
    if guidance is None:
        return told
    none = as_label(module, None, len(x))
    return told + guidance * (told - module.apply(variables, t, x, none))


@functools.partial(jax.jit, static_argnames=("module", "method", "num_steps"))
def _move(module, variables, x, label, guidance, t0, t1, method: str, num_steps: int) -> Array:
    def field(t: Array, x: Array) -> Array:
        return guided(module, variables, t, x, label, guidance)

    return integrate(field, x, t0, t1, method, num_steps)


@functools.partial(jax.jit, static_argnames=("source", "num", "shape"))
def noise(source: Sampler, key: Key, num: int, shape: tuple[int, ...]) -> Array:
    """Draw noise [num, *shape] from the source; all but the key is static."""
    return source(key, num, int(np.prod(shape))).reshape(num, *shape)


@functools.partial(jax.jit, static_argnames=("module",))
def _velocity(module, variables, t, x, label, guidance) -> Array:
    return guided(module, variables, t, x, label, guidance)


def in_pieces(function: Callable[..., Array], *rows: Any, size: int | None = None) -> Array:
    """Return function(*rows) for rows [n, ...] or None, in pieces of one shape and bounded memory, or of a size."""
    num = len(rows[0])
    size = min(num, piece(rows[0].shape[1:]) if size is None else size)
    found = []
    for first in range(0, num, size):
        within = np.minimum(np.arange(first, first + size), num - 1)  # the last row again where there are no more
        found.append(function(*(None if it is None else it[within] for it in rows))[: num - first])
    return found[0] if len(found) == 1 else jnp.concatenate(found)


def piece(shape: tuple[int, ...]) -> int:
    """Return how many points of a shape are moved at a time."""
    return int(np.clip(_PIECE // int(np.prod(shape)), 64, 8192))


def sample(
    key: Key,
    model: Flow,
    num: int,
    *,
    label: Any = None,
    num_steps: int | None = None,
    method: str | None = None,
    guidance: float = 0.0,
) -> Array:
    """Draw data [num, ...] from a trained flow: noise, moved along the velocity field.

    Args:
      key: random key.
      model: from `fit`.
      num: how many.
      label: draw only data of this label, or of labels [num]; of conditions a vector [c], or vectors [num, c]. None for
        classes in the shares of the data.
      num_steps: steps from noise to data; None for those of the model. Static.
      method: "euler" (an evaluation of the velocity a step), "midpoint", "heun" (two), or "adaptive", which takes the
        steps that it needs for a relative error of 1e-5; None for that of the model. Static.
      guidance: how far samples are moved on in the direction of their label, v + guidance (v - v without label); it
        costs a second evaluation.

    Raises:
      ValueError: for what is no key or no flow, counts that are no whole numbers of at least 1, an unknown method, a
        label that the model does not know, and guidance without labels.

    Example:
      >>> data = jax.random.normal(jax.random.key(0), (200, 2))
      >>> model = og.models.flow.fit(jax.random.key(1), data, coupling="independent", width=16, num_steps=10)
      >>> print(og.models.flow.sample(jax.random.key(2), model, 5, num_steps=2, method="heun").shape)
      (5, 2)
    """
    module, _ = parts(model)
    as_key(key), as_count("num", num)
    follow = _follow(model, 0.0, 1.0, num_steps, method, guidance)
    label = labels_of(model, label, num, jax.random.fold_in(key, 1))
    size, found = min(num, piece(module.shape)), []
    for first in range(0, num, size):
        x = noise(model.source, jax.random.fold_in(key, 2 + first // size), size, module.shape)
        part = None if label is None else label[first : first + size]
        found.append(follow(x if part is None else x[: len(part)], part))
    return jnp.concatenate(found)[:num]


def _follow(model: Flow, t0: Any, t1: Any, num_steps: Any, method: Any, guidance: Any) -> Callable[..., Array]:
    """Return what moves points [n, ...] with labels [n] from t0 to t1, all of it checked."""
    module, variables = parts(model)
    method, num_steps = steps_of(model, method, num_steps)
    guidance = strength(model, guidance)
    return lambda x, label: _move(module, variables, x, label, guidance, t0, t1, method, num_steps)


def move(
    model: Flow,
    x: Any,
    label: Any = None,
    *,
    t0: float = 0.0,
    t1: float = 1.0,
    num_steps: int | None = None,
    method: str | None = None,
    guidance: float = 0.0,
) -> Array:
    """Move points [n, ...] at time t0 along the velocity field to time t1, forwards or backwards.

    Args:
      model: from `fit`.
      x: points at time t0: noise at 0, data at 1.
      label: of all points, or of each [n]; None for none.
      t0, t1: from when to when, in [0, 1].
      num_steps, method, guidance: as in `sample`.

    Raises:
      ValueError: as `sample`, and for points of another shape or times outside [0, 1].

    Example:
      >>> data = jax.random.normal(jax.random.key(0), (200, 2))
      >>> model = og.models.flow.fit(jax.random.key(1), data, coupling="independent", width=16, num_steps=10)
      >>> half = og.models.flow.move(model, data, t0=1.0, t1=0.5, num_steps=8)
      >>> print(half.shape)
      (200, 2)
    """
    module, _ = parts(model)
    require_between("t0", t0, 0.0, 1.0), require_between("t1", t1, 0.0, 1.0)
    x = as_array("x", x, (None, *module.shape))
    if not len(x):
        raise ValueError(f"no points to move: x has shape {x.shape}; give at least one.")
    return in_pieces(_follow(model, t0, t1, num_steps, method, guidance), x, labels_of(model, label, len(x)))


def decode(model: Flow, noise: Any, label: Any = None, **options: Any) -> Array:
    """Return the data [n, ...] that noise [n, ...] becomes; options as in `move`.

    Example:
      >>> data = jax.random.normal(jax.random.key(0), (200, 2))
      >>> model = og.models.flow.fit(jax.random.key(1), data, coupling="independent", width=16, num_steps=10)
      >>> noise = og.models.flow.encode(model, data, method="adaptive")
      >>> print(bool(jnp.abs(og.models.flow.decode(model, noise, method="adaptive") - data).max() < 1e-3))
      True
    """
    return move(model, noise, label, **options)


def encode(model: Flow, data: Any, label: Any = None, **options: Any) -> Array:
    """Return the noise [n, ...] that becomes data [n, ...]: the field followed backwards; options as in `move`.

    Example:
      >>> data = jax.random.normal(jax.random.key(0), (200, 2))
      >>> model = og.models.flow.fit(jax.random.key(1), data, coupling="independent", width=16, num_steps=10)
      >>> print(og.models.flow.encode(model, data, num_steps=4).shape)
      (200, 2)
    """
    return move(model, data, label, t0=1.0, t1=0.0, **options)


def velocity(model: Flow, x: Any, t: Any, label: Any = None, *, guidance: float = 0.0) -> Array:
    """Return the velocities [n, ...] of points x [n, ...] at one time t.

    Raises:
      ValueError: for points of another shape, a time outside [0, 1], and labels and guidance as in `sample`.

    Example:
      >>> data = jax.random.normal(jax.random.key(0), (200, 2))
      >>> model = og.models.flow.fit(jax.random.key(1), data, coupling="independent", width=16, num_steps=10)
      >>> print(og.models.flow.velocity(model, data, 0.5).shape)
      (200, 2)
    """
    module, variables = parts(model)
    x = as_array("x", x, (None, *module.shape))
    require_between("t", t, 0.0, 1.0)
    return _velocity(module, variables, t, x, labels_of(model, label, len(x)), strength(model, guidance))


def parts(model: Any) -> tuple[Any, Any]:
    """Return module and variables of a flow, the latter without its classes; raise ValueError for another model."""
    require_kind("model", model, Flow)
    module, variables = parts_of(model)
    require_field(module)
    return module, {"params": variables["params"]}


def steps_of(model: Flow, method: str | None, num_steps: int | None) -> tuple[str, int]:
    """Return a method and its steps, those of the model for None; the adaptive one has none."""
    method = model.config.method if method is None else method
    require_choice("method", method, tuple(METHODS))
    num_steps = (model.config.sample_steps or 2) if num_steps is None else as_count("num_steps", num_steps)
    return method, 0 if method == "adaptive" else num_steps


def strength(model: Flow, guidance: Any) -> Any:
    """Return the guidance, None for zero; raise ValueError where the model cannot be guided."""
    require_nonnegative("guidance", guidance)
    if not is_traced(guidance) and np.asarray(guidance) == 0:
        return None
    module = model.module
    if not (module.num_classes or module.num_conditions):
        raise ValueError(f"guidance = {guidance}, but the model was fitted without labels: give labels to its fit.")
    if not model.config.label_dropout:
        raise ValueError(f"guidance = {guidance}, but the model was fitted with label_dropout = 0: take 0.1 there.")
    return guidance


def labels_of(model: Flow, label: Any, num: int, key: Key | None = None) -> Array | None:
    """Return what the network reads for labels of `num` points.

    Args:
      model: the flow.
      label: one for all, or one for each; None for none, or with a key for classes drawn in the shares of the data.
    """
    module, classes = model.module, model.variables.get("classes")
    if module.num_conditions and label is not None:
        rows = as_array("label", label)
        if rows.shape not in ((module.num_conditions,), (num, module.num_conditions)):
            raise ValueError(
                f"label has shape {rows.shape}: give conditions [{module.num_conditions}], or one of {num} rows each."
            )
        return jnp.broadcast_to(rows, (num, module.num_conditions))
    if label is None:
        if key is None or not module.num_classes:
            if not model.config.label_dropout and (module.num_classes or module.num_conditions):
                raise ValueError(
                    "the model was fitted with label_dropout = 0, so that it knows labels alone: give them."
                )
            return as_label(module, None, num)
        return jax.random.categorical(key, jnp.log(classes["shares"]), shape=(num,))
    known = [] if classes is None else np.asarray(classes["labels"])
    given = label if isinstance(label, str) else native("label", label)
    if isinstance(given, str) or not given.ndim or not len(known):
        require_label(given if isinstance(given, str) or given.ndim else given.item(), list(map(int, known)))
    elif given.shape != (num,):
        raise ValueError(f"label has shape {given.shape}: give one for all, or {num}, one for each.")
    else:
        wrong = np.setdiff1d(np.asarray(given), known)
        for one in wrong[:1]:
            require_label(one.item(), known.tolist())
    return jnp.broadcast_to(jnp.asarray(np.searchsorted(known, np.asarray(given)), jnp.int32), (num,))
