"""The vocabulary of otgen: array aliases, protocols, and the status every solver reports."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

try:
    from jaxtyping import Bool, Float, Int
except ModuleNotFoundError:  # shapes in annotations are for readers, and for a checker where there is one

    class Bool:
        """Stands for what jaxtyping has, where it is not installed: Bool[Array, "n"] is Array."""

        def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
            return item[0]

    Float = Int = Bool

Array = jax.Array
Held = jax.Array | np.ndarray  # numbers not on a device yet: the jitted call that takes them puts them there
Key = jax.Array  # a typed PRNG key made by jax.random.key


def as_pytree(cls: type, leaves: tuple[str, ...] | None = None, static: tuple[str, ...] = ()) -> type:
    """Make a class a pytree; a decorator of frozen dataclasses. Copies skip the checks of the constructor.

    Not `jax.tree_util.register_dataclass`: up to jax 0.12 the structures of two such classes with fields alike compare
    equal, so that a jitted function may run for the one what it has compiled for the other.

    Args:
      cls: the class.
      leaves: names of the fields that are leaves; None for all fields but the static ones.
      static: names of the others; of a dataclass those too whose metadata say {"static": True}.

    Example:
      >>> import dataclasses
      >>> @og.types.as_pytree
      ... @dataclasses.dataclass(frozen=True)
      ... class Line:
      ...     slope: float
      >>> print(jax.tree.map(lambda leaf: 2 * leaf, Line(3.0)).slope)
      6.0
    """
    if leaves is None:
        fields = dataclasses.fields(cls)
        static = (*static, *(it.name for it in fields if it.metadata.get("static") and it.name not in static))
        leaves = tuple(it.name for it in fields if it.name not in static)

    def unflatten(aux: tuple, children: tuple) -> Any:
        made = object.__new__(cls)
        for name, value in zip(leaves + static, (*children, *aux), strict=True):
            object.__setattr__(made, name, value)
        return made

    jax.tree_util.register_pytree_with_keys(
        cls,
        lambda it: (
            [(jax.tree_util.GetAttrKey(name), getattr(it, name)) for name in leaves],
            tuple(getattr(it, name) for name in static),
        ),
        unflatten,
        lambda it: (tuple(getattr(it, name) for name in leaves), tuple(getattr(it, name) for name in static)),
    )
    return cls


@runtime_checkable
class Sampler(Protocol):
    """A source law: draws `num` independent points in `dim` dimensions.

    Every prior of `og.latent` is one, and `og.source` has names for three of them; any function f(key, num, dim) is one
    too. Samplers are static arguments of jitted functions, so they must be hashable. Priors with equal parameters are
    equal and share what was compiled; a function should be defined once at module level (a new lambda per call
    retraces). A sampler that is the image of the unit cube under a map may offer that map as the attribute `from_cube`;
    solvers then feed it quasi-random points.

    Example:
      >>> def corners(key, num, dim):
      ...     return jax.random.bernoulli(key, shape=(num, dim)).astype(jnp.float32)
      >>> print(isinstance(corners, og.types.Sampler), corners(jax.random.key(0), 5, 2).shape)
      True (5, 2)
    """

    def __call__(self, key: Key, num: int, dim: int) -> Array: ...


@runtime_checkable
class Callback(Protocol):
    """What every solver and trainer calls as it goes: the step reached and numbers worth showing.

    Example:
      >>> def show(step, metrics):
      ...     print(step, metrics)
      >>> isinstance(show, og.types.Callback)
      True
      >>> show(10, {"loss": 0.5})
      10 {'loss': 0.5}
    """

    def __call__(self, step: int, metrics: dict[str, float]) -> None: ...


class Status(enum.IntEnum):
    """How a solver ended. Inside jit it travels as an int32; `explain` turns it into advice.

    Example:
      >>> info = og.sinkhorn.run(og.DenseCost(jnp.array([[0.0, 1.0], [1.0, 0.0]])), epsilon=1.0)[1]
      >>> print(info.status == og.Status.CONVERGED, og.Status(int(info.status)).name)
      True CONVERGED
    """

    CONVERGED = 0
    MAX_STEPS = 1
    NONFINITE = 2
    STALLED = 3
    INFEASIBLE = 4


ADVICE = {
    Status.CONVERGED: "converged: the error recomputed at the end is below tol.",
    Status.MAX_STEPS: (
        "stopped at the limit of steps or samples before the error fell below tol: raise the limit, "
        "continue from what was returned, or accept a larger tol."
    ),
    Status.NONFINITE: (
        "a number became NaN or infinite: check the inputs for non-finite values and extreme scales, "
        "or run in float64 (jax.config.update('jax_enable_x64', True))."
    ),
    Status.STALLED: (
        "the error came to rest above tol before the limit of steps: rounding is in the way and more steps will not "
        "help. Accept a larger tol, take a larger epsilon, or run in float64 (jax.config.update('jax_enable_x64', "
        "True))."
    ),
    Status.INFEASIBLE: (
        "no plan has these marginals and avoids the forbidden pairs, those of cost +inf: allow some of them at a high "
        "finite cost, or change the weights."
    ),
}


def status_of(error: Array, tol: Array, stalled: Array | bool = False) -> Array:
    """Return the int32 status of a recomputed error: CONVERGED if and only if it is below `tol`.

    Args:
      error: recomputed at the end.
      tol: what it was to be below.
      stalled: whether the solver gave up because its error had come to rest, rather than at the limit of steps.

    Example:
      >>> print(og.types.status_of(0.01, 0.1), og.types.status_of(0.5, 0.1), og.types.status_of(jnp.nan, 0.1))
      0 1 2
      >>> print(og.Status(int(og.types.status_of(0.5, 0.1, stalled=True))).name)
      STALLED
    """
    error, tol = jnp.asarray(error), jnp.asarray(tol)
    unfinished = jnp.where(stalled, Status.STALLED, Status.MAX_STEPS)
    ended = jnp.where(error < tol, Status.CONVERGED, unfinished)
    return jnp.where(jnp.isfinite(error), ended, Status.NONFINITE).astype(jnp.int32)


def explain(info: Any) -> str:
    """Say in words how a solver ended and what to try.

    Args:
      info: the Info of any otgen solver, or a status; of many solves at once (vmap) one that holds arrays.

    Returns:
      The status by name, and the advice that goes with it, in one line, with the remark that an Info may add; of many
      solves a line for each way to end, with how many ended so.

    Raises:
      ValueError: inside jit, where there is no status to read yet.

    Example:
      >>> print(og.explain(og.Status.CONVERGED))
      CONVERGED: converged: the error recomputed at the end is below tol.
      >>> print(og.explain(jnp.array([0, 0, 0])))
      3 of 3 CONVERGED: converged: the error recomputed at the end is below tol.
    """
    status = getattr(info, "status", info)
    if isinstance(status, jax.core.Tracer):
        raise ValueError(
            "the status has no value inside jit: return the Info from the jitted function, then explain it."
        )
    codes = np.asarray(status)
    if codes.dtype.kind not in "iu" or not np.isin(codes, list(Status)).all():
        raise ValueError(f"info = {info!r} has no status that a solver reports: give its Info, or Info.status.")
    if codes.ndim == 0:
        remark = info.remark() if hasattr(info, "remark") else ""
        return f"{Status(int(codes)).name}: {ADVICE[Status(int(codes))]} {remark}".rstrip()
    ways = [(Status(int(code)), int(count)) for code, count in zip(*np.unique(codes, return_counts=True), strict=True)]
    return "\n".join(f"{count} of {codes.size} {way.name}: {ADVICE[way]}" for way, count in ways)


def averaged(tree: Any, axis_name: str | None) -> Any:
    """Return the mean of every leaf of a pytree over the devices of the mapped axis; the tree itself where it is None.

    Example:
      >>> og.types.averaged({"slope": 2.0}, None)
      {'slope': 2.0}
    """
    return tree if axis_name is None else jax.lax.pmean(tree, axis_name)
