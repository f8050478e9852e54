"""Transport maps from a law one can draw from to codes or to another such law, learned as one potential.

Three solvers, one interface:

    "c_transform"  a discriminator that minimises the semi-dual over the codes (`c_transform`)
    "lp"           a discriminator regressed on exact potentials of minibatches (`lp`)
    "icnn"         a convex potential with refined conjugates, or with cycle regularisation (`icnn`)

All of them minimise, none plays a game. Solvers work in standard units; costs, potentials and W2^2 that come out are
those of |x - y|^2 (twice the halved ones).

Reference: Latent space optimal transport for generative models (2018), arXiv 1809.05964.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen.eval.maps import cosine, l2_uvp
from otgen.maps import c_transform, icnn, lp, training
from otgen.maps.training import MapSettings, Units
from otgen.ot import conjugate, semidiscrete
from otgen.ot.check import (
    as_count,
    as_key,
    as_points,
    require_between,
    require_choice,
    require_kind,
    require_positive,
)
from otgen.ot.products import contract, product
from otgen.ot.semidiscrete.scores import top_scores
from otgen.ot.semidiscrete.source import as_sampler, gaussian
from otgen.progress import watched
from otgen.train.loop import check_readers
from otgen.train.settings import made
from otgen.train.stages import opened
from otgen.types import Array, Callback, Float, Key, Sampler, as_pytree

SOLVERS = {"c_transform": c_transform, "lp": lp, "icnn": icnn}
FORMS = ("argmax", "barycentre", "gradient")
_NEAREST = 64  # codes that a barycenter weighs
NEIGHBOURS = (1.0, 0.5 * _NEAREST)  # of these, how many may count


@functools.partial(as_pytree, static=("solver", "module", "sampler"))
@dataclasses.dataclass(frozen=True)
class Map:
    """A learned map, a pytree.

    Attributes:
      solver: which of SOLVERS found it. Static.
      module: the network of its potential. Static.
      sampler: the source. Static.
      params: parameters of the network.
      table: what the solver keeps beside them.
      units: places and sizes of source and codes.
      codes: targets [N, d], as given.
      h: heights [N] in standard units; `heights` gives them in those of the codes.
      temperature: of the barycenter form, in units of |x - y|^2.
      residual: of "icnn", the root mean square of |grad psi(x*(y)) - y| over the codes, in units of y; else 0.

    Example:
      >>> codes = og.data.toy.eight_gaussians(jax.random.key(0), 64)
      >>> found = og.maps.neural_map.fit(jax.random.key(1), None, codes, num_steps=20, hidden=(16,), batch_size=64)
      >>> print(found.solver, found.codes.shape, found.h.shape)
      c_transform (64, 2) (64,)
    """

    solver: str
    module: Any
    sampler: Sampler
    params: Any
    table: Any
    units: Units
    codes: Array
    h: Array
    temperature: Array
    residual: Array


class Info(NamedTuple):
    """What fresh draws say about a map.

    Attributes:
      primal_cost: mean |x - T(x)|^2. No bound where the law of T(x) is not that of the codes.
      dual_value: a lower bound of W2^2(source, codes), up to sampling and, for "icnn", to `Map.residual`.
      dual_error: standard error of the dual value.
      l2_uvp: unexplained variance percentage against the true map; NaN if none was given.
      cosine: of the displacements, against the true map; NaN if none was given.

    Example:
      >>> codes = og.data.toy.eight_gaussians(jax.random.key(0), 64)
      >>> found = og.maps.neural_map.fit(jax.random.key(1), None, codes, num_steps=20, hidden=(16,), batch_size=64)
      >>> info = og.maps.neural_map.evaluate(jax.random.key(2), found, num=1024)
      >>> print(bool(info.dual_value < info.primal_cost), jnp.isnan(info.l2_uvp))  # no true map was given
      False True
    """

    primal_cost: Array
    dual_value: Array
    dual_error: Array
    l2_uvp: Array
    cosine: Array


def default_form(solver: str) -> str:
    """Return the form of the map that suits a solver: the gradient of a convex potential, else the winning code.

    Example:
      >>> print(og.maps.neural_map.default_form("icnn"), og.maps.neural_map.default_form("c_transform"))
      gradient argmax
    """
    require_choice("solver", solver, tuple(SOLVERS))
    return "gradient" if solver == "icnn" else "argmax"


def config_of(solver: str, **fields: Any) -> MapSettings:
    """Return the configuration of a solver.

    Raises:
      ValueError: for an unknown solver, or fields out of range.
      TypeError: for a field that the solver does not have.

    Example:
      >>> print(type(og.maps.neural_map.config_of("lp", num_steps=10)).__name__)
      Config
    """
    require_choice("solver", solver, tuple(SOLVERS))
    return made(SOLVERS[solver].Config, fields)


@watched
def fit(
    key: Key,
    sampler: Sampler | None,
    codes: ArrayLike | Sampler,
    *,
    solver: str = "c_transform",
    dim: int | None = None,
    num_codes: int = 2**15,
    neighbours: float = 3.0,
    callback: Callback | None = None,
    checkpoints: Any = None,
    **config: Any,
) -> Map:
    """Learn the optimal map for |x - y|^2 from a source to codes, or to another law. It takes no labels.

    Args:
      key: random key.
      sampler: the source law: a prior of `og.latent`, a law of `og.source`, or a hashable function f(key, num, dim);
        N(0, I) for None.
      codes: targets [N, d], equally likely; or the law of the target, of which every update draws anew.
      solver: "c_transform", "lp" or "icnn".
      dim: dimension of the target, where that is a law; else that of the codes.
      num_codes: draws of the target, where that is a law, that the map keeps as its codes: those which "argmax" and
        "barycentre" send to, and which the dual value is an average over. Codes that are given are all kept.
      neighbours: codes that a barycenter weighs effectively, on average: sets the temperature.
      callback: called every 10 calls of the training step, of `updates_per_call` updates each, with metrics.
      checkpoints: a folder, or `train.Checkpoints`, to save in and to go on from, bit-identically.
      **config: fields of the solver's Config.

    Returns:
      Map.

    Raises:
      ValueError: for codes of another shape or not finite or all alike, a source of another dimension, a law of the
        target without its dimension, a dimension that is not that of the codes, unknown solvers, fields out of range,
        batches that do not divide among the devices.
      TypeError: for a field that the solver's Config does not have.

    Example:
      >>> codes = og.data.toy.eight_gaussians(jax.random.key(0), 64)
      >>> found = og.maps.neural_map.fit(jax.random.key(1), None, codes, num_steps=200, hidden=(32,), batch_size=256)
      >>> masses = og.semidiscrete.masses(jax.random.key(2), og.maps.neural_map.heights(found), codes, 4096)
      >>> print(masses.shape, bool(masses.sum() > 0.999))
      (64,) True
    """
    settings = config_of(solver, **config)
    check_readers(callback, checkpoints)
    require_between("neighbours", neighbours, *NEIGHBOURS)
    as_key(key)
    sampler = gaussian if sampler is None else as_sampler(sampler)
    target, codes = _target(key, codes, dim, num_codes)
    _check_law("source", key, sampler, codes.shape[1])
    if not float(jnp.ptp(codes, axis=0).max()) > 0:
        raise ValueError("all codes coincide: there is no map to learn.")
    method = SOLVERS[solver]
    init_key, unit_key, train_key, heat_key = jax.random.split(key, 4)
    units = training.units_of(unit_key, sampler, codes)
    source, targets = training.standard(sampler, units), _to_standard(units, codes)
    drawn = None if target is None else training.standard(target, units, of="codes")
    known = {"solver": solver, "sampler": sampler, "codes": codes} | ({} if target is None else {"target": target})
    module, params, table = method.init(init_key, settings, source, targets, drawn)
    with opened(checkpoints, "map", settings, key=key, **known) as saved:
        state = training.run(
            train_key,
            method.make_update(module, settings, source),
            training.start(params, settings, table),
            targets,
            settings,
            drawn,
            callback=callback,
            checkpoints=saved,
        )
    params, table, residual = state.average, state.table, jnp.zeros((), codes.dtype)
    if solver == "icnn":
        found, table = jax.jit(icnn.finished, static_argnums=1)(params, module, table, targets)
        h = -found.values
        residual = units.code_scale * jnp.sqrt(jnp.mean(found.residual**2))
    else:
        h = jax.jit(method.heights, static_argnums=1)(params, module, table, targets)
    x = jax.jit(source, static_argnums=(1, 2))(heat_key, 1024, codes.shape[1])
    temperature = _temperature(x, targets, h, min(neighbours, len(codes)))
    temperature *= units.source_scale * units.code_scale
    return Map(solver, module, sampler, params, table, units, codes, h, temperature, residual)


def _target(key: Key, codes: ArrayLike | Sampler, dim: int | None, num: int) -> tuple[Sampler | None, Array]:
    """Return the law of the target, if it is one, and the codes that are kept."""
    dim, num = None if dim is None else as_count("dim", dim), as_count("num_codes", num, 2)
    if not callable(codes):
        codes = as_points("codes", codes)
        if dim not in (None, codes.shape[1]):
            raise ValueError(f"dim = {dim} for codes {codes.shape}: leave dim out, it is that of the codes.")
        return None, codes
    target = as_sampler(codes)
    if dim is None:
        raise ValueError("the target is a law that is drawn from: say its dimension, dim=.")
    _check_law("target", key, target, dim)
    return target, as_points("codes", jax.jit(target, static_argnums=(1, 2))(jax.random.fold_in(key, 1), num, dim))


def _check_law(name: str, key: Key, sampler: Sampler, dim: int) -> None:
    shape = jax.eval_shape(lambda key: sampler(key, 3, dim), key).shape
    if shape != (3, dim):
        raise ValueError(f"the {name} draws 3 points of {dim} coordinates as {shape}: it must give [num, dim].")


def _to_standard(units: Units, codes: Array) -> Array:
    return (codes - units.code_mean) / units.code_scale


def _weights(values: Array, temperature: ArrayLike) -> Array:
    """Return the softmax of scores [n, k], of which two make a difference of costs."""
    return jax.nn.softmax(2 * values / temperature, axis=1)


@jax.jit
def _temperature(x: Array, codes: Array, h: Array, neighbours: ArrayLike) -> Array:
    """The temperature at which draws x weigh `neighbours` codes, exp of the mean entropy; by bisection of its log."""
    values, _ = top_scores(x, codes, h, min(_NEAREST, len(codes)))
    values = values - values[:, :1]
    wanted = jnp.log(jnp.minimum(neighbours, 0.9 * values.shape[1]))

    def halve(_: Array, ends: tuple) -> tuple:
        low, high = ends
        middle = 0.5 * (low + high)
        p = _weights(values, jnp.exp(middle))
        entropy = -jnp.mean(jnp.sum(p * jnp.log(jnp.maximum(p, 1e-30)), axis=1))
        return jnp.where(entropy < wanted, middle, low), jnp.where(entropy < wanted, high, middle)

    size = jnp.log(jnp.maximum(jnp.mean(-values[:, -1]), 1e-30))
    low, high = jax.lax.fori_loop(0, 40, halve, (size - 12.0, size + 6.0))
    return jnp.exp(0.5 * (low + high))


def transport(map_: Map, x: ArrayLike, form: str | None = None, temperature: ArrayLike | None = None) -> Array:
    """Move points of the source.

    Args:
      map_: from `fit`.
      x: points [n, d].
      form: "argmax", the code that wins the score; "barycentre", the mean of the 64 best codes weighed by the softmax
        of their scores, which is the gradient of the softened c-transform; "gradient", grad psi for "icnn",
        x + grad D / 2 for "lp", and for "c_transform", whose c-transform is piecewise affine, the same as argmax.
        None for the solver's own: gradient for "icnn", else argmax. Static.
      temperature: of the barycenter, in units of |x - y|^2; `Map.temperature` for None. Traced.

    Returns:
      Points [n, d]; NaN where, inside jit, x is not finite.

    Raises:
      ValueError: for points of another dimension or (outside jit) not finite, an unknown form, a temperature that is
        not positive or given for another form.

    Example:
      >>> codes = og.data.toy.eight_gaussians(jax.random.key(0), 64)
      >>> found = og.maps.neural_map.fit(jax.random.key(1), None, codes, num_steps=20, hidden=(16,), batch_size=64)
      >>> image = og.maps.neural_map.transport(found, jnp.array([[2.0, 0.0]]))
      >>> print(bool(jnp.any(jnp.all(image == codes, 1))))  # the winning code
      True
    """
    form, temperature = form_of(map_, form, temperature)
    return _transport(map_, _checked(map_, "x", x), form, temperature)


def form_of(map_: Map, form: str | None = None, temperature: ArrayLike | None = None) -> tuple[str, ArrayLike]:
    """Return form and temperature with which points are moved: those given, or the map's own.

    Raises:
      ValueError: for an unknown form, a temperature that is not positive or given for another form.

    Example:
      >>> codes = og.data.toy.eight_gaussians(jax.random.key(0), 64)
      >>> found = og.maps.neural_map.fit(jax.random.key(1), None, codes, num_steps=20, hidden=(16,), batch_size=64)
      >>> print(og.maps.neural_map.form_of(found, "barycentre", 0.5))
      ('barycentre', 0.5)
    """
    require_kind("map_", map_, Map)
    form = default_form(map_.solver) if form is None else form
    require_choice("form", form, FORMS)
    if temperature is not None and form != "barycentre":
        raise ValueError(f"form = {form!r} has no temperature: ask for form='barycentre', or leave it out.")
    temperature = map_.temperature if temperature is None else temperature
    require_positive("temperature", temperature)
    return form, temperature


@functools.partial(jax.jit, static_argnames="form")
def _transport(map_: Map, x: Array, form: str, temperature: ArrayLike) -> Array:
    units, standard = map_.units, _from_source(map_, x)
    if form == "gradient" and map_.solver != "c_transform":
        method = SOLVERS[map_.solver]
        return units.code_mean + units.code_scale * method.gradient(map_.params, map_.module, map_.table, standard)
    targets = _to_standard(units, map_.codes)
    if form == "barycentre":
        values, index = top_scores(standard, targets, map_.h, min(_NEAREST, len(targets)))
        weights = _weights(values, temperature / (units.source_scale * units.code_scale))
        moved = contract("nk,nkd->nd", weights, map_.codes[index])
    else:
        moved = map_.codes[top_scores(standard, targets, map_.h)[1][:, 0]]
    return jnp.where(jnp.isfinite(x).all(1, keepdims=True), moved, jnp.nan)


def _from_source(map_: Map, x: Array) -> Array:
    return (x - map_.units.source_mean) / map_.units.source_scale


def _checked(map_: Map, name: str, x: ArrayLike) -> Array:
    require_kind("map_", map_, Map)
    x = as_points(name, x, 1)
    if x.shape[1] != map_.codes.shape[1]:
        raise ValueError(f"{name} has {x.shape[1]} coordinates and the map {map_.codes.shape[1]}: they must agree.")
    return x


def heights(map_: Map) -> semidiscrete.State:
    """Return the potential at the codes as a semi-discrete state, for `semidiscrete.chi2`, `extension` and the like.

    Example:
      >>> codes = og.data.toy.eight_gaussians(jax.random.key(0), 64)
      >>> found = og.maps.neural_map.fit(jax.random.key(1), None, codes, num_steps=20, hidden=(16,), batch_size=64)
      >>> x = og.maps.neural_map.draw(jax.random.key(2), found, 100)
      >>> index = og.semidiscrete.assign(og.maps.neural_map.heights(found), codes, x)
      >>> print(jnp.mean(jnp.all(og.maps.neural_map.transport(found, x, "argmax") == codes[index], 1)) > 0.95)
      True
    """
    require_kind("map_", map_, Map)
    units = map_.units
    h = units.source_scale * units.code_scale * map_.h
    return semidiscrete.from_heights(h - product(map_.codes - units.code_mean, units.source_mean))


def potential(map_: Map, y: ArrayLike) -> Array:
    """Return the potential D [n] at points y [n, d] of the codes' side, in units of |x - y|^2 and up to a constant.

    The map sends x to where D(y) - |x - y|^2 is largest. For "icnn" D(y) = |y|^2 - 2 psi*(y), known where psi* is.

    Raises:
      ValueError: for points of another dimension or not finite.

    Example:
      >>> codes = og.data.toy.eight_gaussians(jax.random.key(0), 64)
      >>> found = og.maps.neural_map.fit(jax.random.key(1), None, codes, num_steps=20, hidden=(16,), batch_size=64)
      >>> print(og.maps.neural_map.potential(found, codes).shape)
      (64,)
    """
    y = _checked(map_, "y", y)
    standard = _to_standard(map_.units, y)
    if map_.solver == "icnn":
        h = -_conjugates(map_, standard).values
    else:
        h = SOLVERS[map_.solver].heights(map_.params, map_.module, map_.table, standard)
    units = map_.units
    linear = product(y - units.code_mean, units.source_mean)
    return jnp.sum(y**2, axis=1) + 2 * (units.source_scale * units.code_scale * h - linear)


def inverse(map_: Map, y: ArrayLike) -> conjugate.Conjugate:
    """Return the points x with grad psi(x) = y, for the convex potential of "icnn".

    Args:
      map_: from `fit` with solver "icnn".
      y: points [n, d].

    Returns:
      `conjugate.Conjugate`: points in the source's units, residual in those of y, values and step in standard ones.

    Raises:
      ValueError: for another solver, or points of another dimension or not finite.

    Example:
      >>> codes = og.data.toy.eight_gaussians(jax.random.key(0), 64)
      >>> options = {"solver": "icnn", "num_steps": 20, "hidden": (16,), "batch_size": 64}
      >>> found = og.maps.neural_map.fit(jax.random.key(1), None, codes, **options)
      >>> x = og.maps.neural_map.inverse(found, codes[:4]).points
      >>> print(jnp.allclose(og.maps.neural_map.transport(found, x, "gradient"), codes[:4], atol=1e-2))
      True
    """
    require_kind("map_", map_, Map)
    if map_.solver != "icnn":
        raise ValueError(
            f"the map of solver {map_.solver!r} has no inverse, it sends whole cells to one code: use solver='icnn', "
            "or draw noise from the cell of a code."
        )
    standard, units = _to_standard(map_.units, _checked(map_, "y", y)), map_.units
    found = _conjugates(map_, standard)
    points = units.source_mean + units.source_scale * found.points
    return found._replace(points=points, residual=units.code_scale * found.residual)


@jax.jit
def _conjugates(map_: Map, y: Array) -> conjugate.Conjugate:
    """Return conjugates of points y [n, d] in standard units, from where the network predicts, or the nearest code."""
    table = map_.table
    if table.guess is not None or "backward" in map_.params:
        start = icnn.predicted(map_.params, map_.module, table.guess, y)
        return icnn.conjugates(map_.params, map_.module, start, jnp.full(len(y), jnp.median(table.lengths)), y)
    codes = _to_standard(map_.units, map_.codes)
    nearest = top_scores(y, codes, -0.5 * jnp.sum(codes**2, axis=1))[1][:, 0]
    return icnn.conjugates(map_.params, map_.module, table.points[nearest], table.lengths[nearest], y)


def sample(key: Key, map_: Map, num: int, form: str | None = None, temperature: ArrayLike | None = None) -> Array:
    """Draw moved noise [num, d]; `form` and `temperature` as in `transport`.

    Raises:
      ValueError: for what is no key, if num is no whole number of at least 1, and as `transport`.

    Example:
      >>> codes = og.data.toy.eight_gaussians(jax.random.key(0), 64)
      >>> found = og.maps.neural_map.fit(jax.random.key(1), None, codes, num_steps=20, hidden=(16,), batch_size=64)
      >>> print(og.maps.neural_map.sample(jax.random.key(2), found, 5, "barycentre").shape)
      (5, 2)
    """
    return transport(map_, draw(key, map_, num), form, temperature)


def draw(key: Key, map_: Map, num: int) -> Array:
    """Draw points [num, d] of the source.

    Example:
      >>> codes = og.data.toy.eight_gaussians(jax.random.key(0), 64)
      >>> found = og.maps.neural_map.fit(jax.random.key(1), None, codes, num_steps=20, hidden=(16,), batch_size=64)
      >>> x = og.maps.neural_map.draw(jax.random.key(2), found, 4000)
      >>> print(jnp.abs(x.std() - 1) < 0.05)  # None: N(0, I)
      True
    """
    as_key(key), as_count("num", num), require_kind("map_", map_, Map)
    return jax.jit(map_.sampler, static_argnums=(1, 2))(key, num, map_.codes.shape[1])


def evaluate(key: Key, map_: Map, truth: Any = None, *, num: int = 2**14, form: str | None = None) -> Info:
    """Measure a map on fresh draws of the source.

    Args:
      key: random key.
      map_: from `fit`.
      truth: the true map, `(x [n, d]) -> [n, d]`; optional.
      num: draws.
      form: as in `transport`.

    Returns:
      Info.

    Raises:
      ValueError: as `transport`.

    Example:
      >>> codes = og.data.toy.eight_gaussians(jax.random.key(0), 64)
      >>> found = og.maps.neural_map.fit(jax.random.key(1), None, codes, num_steps=20, hidden=(16,), batch_size=64)
      >>> info = og.maps.neural_map.evaluate(jax.random.key(2), found, lambda x: x, num=1024)  # against the identity
      >>> print(bool(info.dual_value <= info.primal_cost), bool(info.l2_uvp > 0))
      False True
    """
    x = draw(key, map_, num)
    moved = transport(map_, x, form)
    right = None if truth is None else truth(x)
    missed = (jnp.nan, jnp.nan) if truth is None else (l2_uvp(moved, right), cosine(moved, right, x))
    f, g = _potentials(map_, x)
    return Info(
        jnp.mean(jnp.sum((x - moved) ** 2, axis=1)),
        jnp.mean(f) + jnp.mean(g),
        jnp.std(f) / np.sqrt(num),
        *(jnp.asarray(number) for number in missed),
    )


def disagreement(key: Key, map_: Map, other: Map, *, num: int = 2**14, form: str | None = None) -> Float[Array, ""]:
    """Return how far two maps of the same laws are apart, as a percentage like L2-UVP; it needs no true map.

    100 E|T_1(x) - T_2(x)|^2 / Var(codes) on fresh draws x of the source. For fits that differ by their random keys
    alone, with errors of variance s^2 that correlate by r, it is 2 (1 - r) s^2: within a factor of 2 of the L2-UVP of
    either for r up to 3/4. It does not see what all fits of a solver share, such as the bias of minibatches of "lp".
    The duality gap of `evaluate` does not tell as much: it is signed, of first order in what T(x) misses of the codes,
    and weighs an error on a crease of the potential, where the map pulls its source apart, least.

    Args:
      key: random key.
      map_, other: from `fit`, with two keys.
      num: draws.
      form: as in `transport`.

    Returns:
      A percentage.

    Raises:
      ValueError: as `transport`, and for maps of other dimensions.

    Example:
      >>> codes = og.data.toy.eight_gaussians(jax.random.key(0), 64)
      >>> options = {"num_steps": 20, "hidden": (16,), "batch_size": 64}
      >>> one, other = (og.maps.neural_map.fit(jax.random.key(k), None, codes, **options) for k in (1, 2))
      >>> print(bool(og.maps.neural_map.disagreement(jax.random.key(3), one, other) > 0))
      True
    """
    require_kind("other", other, Map)
    x = draw(key, map_, num)
    return l2_uvp(transport(map_, x, form), transport(other, x, form), jnp.var(map_.codes, axis=0, ddof=1).sum())


@jax.jit
def _potentials(map_: Map, x: Array) -> tuple[Array, Array]:
    """Return potentials f [n] at points of the source and g [N] at the codes, f_i + g_j <= |x_i - y_j|^2.

    f(x) = |x - m|^2 - 2 s u(x') and g(y) = |y - m|^2 + 2 s h with m the mean of the codes, s the product of the scales
    and u(x') >= <x', y'> + h: products of large means never arise.
    """
    units, standard = map_.units, _from_source(map_, x)
    if map_.solver == "icnn":
        value = icnn.potential(map_.params, map_.module)(standard)
    else:
        value = top_scores(standard, _to_standard(units, map_.codes), map_.h)[0][:, 0]
    size = 2 * units.source_scale * units.code_scale
    offset = product(map_.codes - units.code_mean, units.source_mean - units.code_mean)
    f = jnp.sum((x - units.code_mean) ** 2, axis=1) - size * value
    return f, jnp.sum((map_.codes - units.code_mean) ** 2, axis=1) + size * map_.h - 2 * offset
