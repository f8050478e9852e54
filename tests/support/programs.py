"""Programs of public calls, lowered for accelerators that are not there.

`trace` makes the program of a call; `lower` turns it into StableHLO for NVIDIA GPUs and for TPUs, which fails where a
primitive has no rule for one of them. `recorded` does both with every program that a loop on the host calls.
"""

import functools
import importlib

import jax
import numpy as np

from tests.support.doctests import modules

PLATFORMS = ("cuda", "tpu")
_GIVEN = {"label", "labels"}  # are looked up by the host, and may be words


def trace(function, arguments):
    """Trace a call: of its arguments arrays and keys are traced, all else is as it is given.

    Raises:
      TypeError: if no array is returned.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(arguments)
    traced = {place: leaf for place, (path, leaf) in enumerate(leaves) if _is_traced(path, leaf)}

    def call(arrays):
        given = [arrays.get(place, leaf) for place, (_, leaf) in enumerate(leaves)]
        found = [leaf for leaf in jax.tree.leaves(function(**jax.tree.unflatten(tree, given))) if _is_array(leaf)]
        if not found:
            raise TypeError("no array is returned")
        return found

    return jax.jit(call).trace(traced)


def lower(traced):
    """Return the program in StableHLO, of one platform after the other."""
    return [traced.lower(lowering_platforms=(platform,)).as_text() for platform in PLATFORMS]


def recorded(monkeypatch):
    """Lower every program of otgen that is called from now on, once for each shape; return their names in a list."""
    names, seen, jit = [], set(), jax.jit

    def watched(function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            leaves, tree = jax.tree.flatten((args, kwargs))
            shapes = tuple((leaf.shape, leaf.dtype) if hasattr(leaf, "dtype") else leaf for leaf in leaves)
            if not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves) and (function, tree, shapes) not in seen:
                seen.add((function, tree, shapes))
                lower(function.trace(*args, **kwargs))
                names.append(getattr(function, "__name__", "?"))
            return function(*args, **kwargs)

        return call

    def jitted(*args, **kwargs):
        made = jit(*args, **kwargs)
        return watched(made) if isinstance(made, type(jit(len))) else made

    for module in map(importlib.import_module, modules()):  # all, or some that are imported later would stay watched
        for part, it in list(vars(module).items()):
            if isinstance(it, type(jit(len))):
                monkeypatch.setattr(module, part, watched(it))
    monkeypatch.setattr(jax, "jit", jitted)
    return names


def _is_traced(path, leaf):
    names = {getattr(part, "key", getattr(part, "name", None)) for part in path}
    return _is_array(leaf) and not names & _GIVEN


def _is_array(leaf):
    return isinstance(leaf, np.ndarray | np.generic | jax.Array)
