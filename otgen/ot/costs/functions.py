"""When two functions count as the same, so that a function jitted for one of them serves the other."""

from __future__ import annotations

import functools
import types
import warnings
from collections.abc import Callable
from typing import Any

KINDS = 5  # after so many functions of one code with different closures a warning says that each is compiled


class _Same:
    """A wrapper that equals itself alone, and keeps its object alive so that no other gets the same address."""

    def __init__(self, it: Any):
        self.it = it

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.it is other.it

    def __hash__(self) -> int:
        return id(self.it)


def key_of(it: Any) -> Any:
    """Return a key of a function, which is equal for functions of the same code, globals, defaults and closure.

    Numbers and strings they hold are compared by value and type, functions and tuples of such likewise, other objects
    by identity.

    Example:
      >>> def adding(number):
      ...     return lambda x: x + number
      >>> key = og.distances.key_of
      >>> print(key(adding(1)) == key(adding(1)), key(adding(1)) == key(adding(1.0)))
      True False
    """
    if isinstance(it, functools.partial):
        return (functools.partial, key_of(it.func), key_of(it.args), key_of(it.keywords))
    if isinstance(it, tuple) and type(it) is tuple:
        return (tuple, *map(key_of, it))
    if type(it) is dict:
        return (dict, *((name, key_of(value)) for name, value in it.items()))
    if it is None or isinstance(it, bool | int | float | str | bytes):
        return (type(it), repr(it))  # 0.0 and -0.0 differ, and NaN is itself
    if isinstance(it, types.MethodType):
        return (types.MethodType, key_of(it.__func__), _Same(it.__self__))
    if type(it) is not types.FunctionType:
        return _Same(it)
    try:
        cells = tuple(cell.cell_contents for cell in it.__closure__ or ())
    except ValueError:  # a cell that is still empty
        return _Same(it)
    if any(cell is it for cell in cells):  # a function that calls itself
        return _Same(it)
    return (it.__code__, _Same(it.__globals__), key_of(it.__defaults__), key_of(it.__kwdefaults__), key_of(cells))


_seen: dict[Any, set] = {}


def warn_of_kinds(function: Callable[..., Any], key: Any) -> None:
    """Warn once if functions of one code keep coming with other keys, so that each is compiled anew.

    Example:
      >>> og.distances.warn_of_kinds(jnp.sum, 0)  # nothing is said of the first
    """
    while isinstance(function, functools.partial):
        function = function.func
    code = getattr(function, "__code__", None)
    kinds = _seen.setdefault(code, set())
    if code is None or len(kinds) >= KINDS:
        return
    kinds.add(hash(key))
    if len(kinds) == KINDS:
        warnings.warn(
            f"cost_fn {getattr(function, '__name__', function)} came {KINDS} times with other values in its closure, "
            "defaults or partial arguments: each compiles anew. Make what changes the fields of a CostFn that is a "
            "pytree (see otgen.ot.costs.distances.Scaled), or hold on to one function.",
            stacklevel=4,
        )
