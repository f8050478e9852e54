"""Programs of public calls, lowered for accelerators that are not there.

`trace` makes the program of a call, or that of its derivative; `lower` turns it into StableHLO for NVIDIA GPUs and for
TPUs in one go, which fails where a primitive has no rule for one of them, and returns where products are rounded.
`recorded` does both with every program that a loop on the host calls.
"""

import functools
import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np

from tests.support.doctests import modules

PLATFORMS = ("cuda", "tpu")
LAYERS = re.compile(r"/((Dense|Conv|ConvTranspose|MultiHeadDotProductAttention|layers)_\d+|verdict)/")  # of networks
_GIVEN = {"label", "labels"}  # are looked up by the host, and may be words


def trace(function, arguments, derivative=None):
    """Trace a call: of its arguments arrays and keys are traced, all else is as it is given.

    Args:
      function: called with the arguments.
      arguments: by name.
      derivative: jax.vjp or jax.jvp, to trace that of all floats in all others.

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

    def change(arrays):
        floats = {place: leaf for place, leaf in arrays.items() if jnp.issubdtype(leaf.dtype, jnp.floating)}
        of_floats = lambda some: [leaf for leaf in call(arrays | some) if jnp.issubdtype(leaf.dtype, jnp.floating)]  # noqa: E731
        if derivative is jax.jvp:
            return jax.jvp(of_floats, (floats,), (floats,))
        value, pull = jax.vjp(of_floats, floats)
        return pull(value)

    return jax.jit(change if derivative else call).trace(traced)


def lower(traced):
    """Lower a program; return where it multiplies floats at less than the highest precision, layers left out."""
    program = traced.lower(lowering_platforms=PLATFORMS).as_text(debug_info=True)
    return [place for place in _rounded(program) if not LAYERS.search(place)]


def _rounded(program):
    places = dict(re.findall(r'^(#loc\d+) = loc\("([^"]*)"', program, re.M))
    for line in re.findall(r"stablehlo\.(?:dot_general|convolution)\b.*", program):
        if "HIGHEST, HIGHEST" not in line and re.search(r"xb?f\d+>", line):
            yield places[re.search(r"loc\((#loc\d+)\)$", line)[1]]


def recorded(monkeypatch):
    """Lower every program of otgen that is called from now on, once for each shape.

    Returns:
      A dictionary of the names of the programs, with what `lower` returns of each.
    """
    found, seen, jit = {}, set(), jax.jit

    def watched(function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            leaves, tree = jax.tree.flatten((args, kwargs))
            shapes = tuple((leaf.shape, leaf.dtype) if hasattr(leaf, "dtype") else leaf for leaf in leaves)
            if not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves) and (function, tree, shapes) not in seen:
                seen.add((function, tree, shapes))
                name = getattr(function, "__name__", "?")
                found[name] = found.get(name, []) + lower(function.trace(*args, **kwargs))
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
    return found


def _is_traced(path, leaf):
    names = {getattr(part, "key", getattr(part, "name", None)) for part in path}
    return _is_array(leaf) and not names & _GIVEN


def _is_array(leaf):
    return isinstance(leaf, np.ndarray | np.generic | jax.Array)
