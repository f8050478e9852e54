"""What a public function is handed that it cannot take, and what is wrong with its answer.

Every argument of a valid call is replaced by wrong ones of its sort, which is told by its name, or by the caller. What
comes back must be a ValueError or TypeError raised by otgen (for files FileNotFoundError or FileExistsError) that says
what to do, or a result; what no result can be right for, such as a seed in place of a key, must raise.
"""

import inspect
import traceback
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import otgen as og

ROOT = str(Path(og.__file__).parent)
SORTS = {
    "key": "key",
    "count": (
        "num k k_density num_classes num_modes batch_size repeats trees rows columns n dim num_steps num_images "
        "num_pairs seed most components max_samples stop resolution levels num_train num_eval num_variance batch "
        "log_every save_every steps_per_call max_steps num_iterations num_sweeps max_crossings event_ndim bins "
        "block start size num_codes rank"
    ),
    "positive": "epsilon tol beta deviation radius scale df alpha tau_a tau_b budget epochs unit top temperature "
    "neighbours target_variance test_distance held_out_score first rho rho_a rho_b share mass save_seconds",
    "number": "t s low high loc confidence quantile angle tau lam level least",
    "name": "smoothing method name solver form phase split dense axis diagonal of",
    "thing": "model module variables config settings map_ other law flow reading prior cost benchmark extension",
    "weights": "weights a b h labels counts centres x",
    "given": "classes sampler state p q devices kernel pairing callback save watch cost_fn clouds "
    "x_other y_other a_other b_other codec",
    "option": "how dtype precision",
    "folder": "checkpoints folder",
    "function": "function statistic codes_of mnist",
}
ANY = {  # flags, words, what matplotlib takes, and what stands inside a caller's jit
    *("anneal", "continuous", "debiased", "donate", "equal_speed", "known", "log", "orthogonal", "overwrite", "path"),
    *("quasi", "return_info", "tril", "verify", "axis_name", "points_axis", "cache_dir", "progress", "learning_rate"),
    *("ax", "color", "label", "title", "xlabel", "ylabel"),
    *("codes", "critic", "features", "fixed", "generator", "params", "truth"),
}
_SORT = {name: sort for sort, names in SORTS.items() for name in names.split()}
_PLAIN = {  # whatever the valid argument is
    "key": (0, np.zeros(3), "key", jax.random.split(jax.random.key(0), 3)),
    "count": (-1, 2.5, "3", np.nan),
    "number": (np.nan, np.inf, "a", 1j),
    "positive": (np.nan, np.inf, "a", 1j, -1.0),
    "name": ("nonsense", 3),
    "thing": (None, 3, "model", {}),
    "path": (None, 3, 1j),
    "function": (None, 3, "function"),
    "step": (-1, 2.5, "3"),
    "label": (99, "nonsense", 2.5),
    "counts": (3, (0,), (2.5,), "ab", (1j,)),
    "arrays": ((), 3, (np.zeros(3), "a"), (np.zeros(3), np.zeros((0, 2)))),
    "callbacks": ((3,), ("a", None)),
    "folder": (3, 1j),
    "limits": (3, "a", (1.0, 0.0), (np.nan, 1.0), (1.0,), (1j, 2j)),
    "table": (3, "a", {}, {"a": 3j}, {"a": "word"}, {"a": {"b": "word"}}),
    "iterable": (None, 3),
    "status": (None, "CONVERGED", 99, 2.5, {}),
    "fields": (3, "nonsense", {"nonsense": 1}),
    "given": (3, "nonsense", 1j),
    "option": ("nonsense", 3.5, 1j),
    "weights": (np.full(3, "a"), np.ones(3) + 1j, np.ma.masked_array(np.ones(3), mask=np.zeros(3, bool))),
}


class Reached(Exception):
    """Raised in place of what an accepted call would go on to compute."""


def sort_of(name, value):
    """What an argument is, by its name."""
    return "array" if isinstance(value, np.ndarray) else _SORT.get(name)


def wrong(name, value, sort=None):
    """What is handed over instead, with whether it must be refused."""
    sort = sort or sort_of(name, value)
    if sort in _PLAIN:
        yield from ((other, True) for other in _PLAIN[sort])
    elif sort == "images":
        yield from ((other, True) for other in _no_numbers(value))
        yield np.where(np.arange(value.size).reshape(value.shape) == 1, np.nan, value), True
        yield from ((other, True) for other in (value + 1, (9 * value).astype(int)))
        yield from ((other, True) for other in (value[:0], value[0], value[..., None, None], value.ravel()[0]))
        yield value[:-1], False
        yield from ((other, "same") for other in _same(value))
    elif sort == "array":
        whole = value.dtype.kind != "f"  # labels, which may be words
        for place, other in enumerate(_no_numbers(value)):
            yield other, not (whole and place == 0)
        if not whole:
            yield np.where(np.arange(value.size).reshape(value.shape) == 1, np.nan, value), "nan"
        yield from ((other, False) for other in (value[:-1], value[:0], value[..., None, None], value.ravel()[0]))
        yield from ((other, "same") for other in _same(value))


def _no_numbers(value):
    """Words, complex numbers, and an array with a mask."""
    return (
        np.full(value.shape, "a"),
        value.astype(complex) + 1j,
        np.ma.masked_array(value, mask=np.zeros(value.shape, bool)),
    )


def _same(value):
    """The same numbers with their bytes in another order, and as lists."""
    return value.astype(value.dtype.newbyteorder(">")), value.tolist()


def call(function, arguments):
    """What comes back: a result, or the refusal."""
    rest, first = dict(arguments), []
    if "*" in rest:  # what stands before them has no name then
        named = [
            it.name for it in inspect.signature(function).parameters.values() if it.kind is it.POSITIONAL_OR_KEYWORD
        ]
        first = [rest.pop(name) for name in named]
        more = rest.pop("*")
        first += more if isinstance(more, tuple) else (more,)
    try:
        result = function(*first, **rest)
        return (list(result) if isinstance(result, Iterator) else result), None
    except Reached:
        return None, None
    except Exception as error:
        return None, error


def complaint(error):
    """What is wrong with an error, if anything."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    if type(error) not in (ValueError, TypeError, FileNotFoundError, FileExistsError):
        return f"raises {type(error).__name__}"
    if not last.filename.startswith(ROOT):
        return f"leaves the error to {last.filename.rpartition('site-packages/')[2]}"
    if ":" not in str(error):
        return f"gives no remedy in {error}"
    return None


def and_optional(function, arguments):
    """The arguments of a call, and those that it leaves to their defaults."""
    known = {} if "*" in arguments else inspect.signature(function).parameters
    rest = (name for name, it in known.items() if it.kind not in (it.VAR_POSITIONAL, it.VAR_KEYWORD))
    return {**dict.fromkeys(rest), **arguments}


def unsorted(function, arguments, sorts=None):
    """The arguments of which the walk does not know what would be wrong."""
    given = and_optional(function, arguments).items()
    return {it for it, value in given if sort_of(it, value) is None} - ANY - set(sorts or ()) - {"*"}


def refusals(name, function, arguments, sorts=None):
    """What is wrong with the answers to wrong arguments: compiles little, since most are refused at the door."""
    for argument, value in and_optional(function, arguments).items():
        for other, must in wrong(argument, value, (sorts or {}).get(argument)):
            if must in (True, False):
                _, error = call(function, {**arguments, argument: other})
                bad = must and "is accepted" if error is None else complaint(error)
                if bad:
                    yield f"{_told(name, argument, other)} {bad}: {str(error)[:150]!r}"


def results(name, function, arguments, unread=(), sorts=None):
    """What is wrong with the results of right arguments in other clothes, and of NaN."""
    expected, error = call(function, arguments)
    if error is not None:
        yield f"{name}: the valid call fails with {error!r}"
        return
    for argument, value in arguments.items():
        for other, must in wrong(argument, value, (sorts or {}).get(argument)):
            if must in (True, False) or (must == "nan" and (name, argument) in unread):
                continue
            result, error = call(function, {**arguments, argument: other})
            if error is not None:
                bad = "refuses what is right" if must == "same" else complaint(error)
            elif must == "nan":
                bad = None if _has_nan(result) else "is accepted"
            else:
                bad = None if _equal(result, expected) else "changes the result"
            if bad:
                yield f"{_told(name, argument, other)} {bad}: {str(error)[:150]!r}"


def _told(name, argument, other):
    return f"{name}({argument}={str(other).replace(chr(10), ' ')[:60]})"


def _has_nan(result):
    leaves = [leaf for leaf in jax.tree.leaves(result) if hasattr(leaf, "dtype") or isinstance(leaf, float)]
    floats = [np.asarray(leaf) for leaf in leaves if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]
    return any(np.isnan(leaf).any() for leaf in floats)


def _equal(one, two):
    one, two = jax.tree.leaves(one), jax.tree.leaves(two)
    return len(one) == len(two) and all(
        np.allclose(np.asarray(left, float), np.asarray(right, float), rtol=1e-4, atol=1e-5, equal_nan=True)
        for left, right in zip(one, two, strict=True)
        if isinstance(left, int | float) or getattr(left, "dtype", np.dtype(object)).kind in "biuf"
    )
