"""Transport maps from a source one can sample to given codes, learned as one potential: three solvers, one interface.

    "c_transform"  a discriminator that minimises the semi-dual over the codes (`map_c_transform`)
    "lp"           a discriminator regressed on exact potentials of minibatches (`map_lp`)
    "icnn"         a convex potential with exact conjugates, or with cycle regularisation (`map_icnn`)

All of them minimise, none plays a game. Costs, potentials and W2^2 are those of |x - y|^2 (twice the halved ones).

Reference: Latent space optimal transport for generative models (2018), arXiv 1809.05964.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen.eval.maps import cosine, l2_uvp
from otgen.models import map_c_transform, map_icnn, map_lp, map_training
from otgen.models.map_training import MapSettings
from otgen.ot import conjugate, semidiscrete
from otgen.ot.check import as_points, require_positive
from otgen.ot.scores import top_scores
from otgen.ot.source import gaussian
from otgen.types import Array, Callback, Key, Sampler

SOLVERS = {"c_transform": map_c_transform, "lp": map_lp, "icnn": map_icnn}
FORMS = ("argmax", "barycentre", "gradient")
_NEAREST = 64  # codes that a barycentre weighs
_CONJUGATE_STEPS = 200


class Map(NamedTuple):
    """A learned map.

    Attributes:
      solver: which of SOLVERS found it.
      module: the network of its potential. params: its parameters. table: what its solver keeps beside them.
      sampler: the source.
      codes: targets [N, d].
      h: heights [N] of the scores <y, x> + h, whose largest the argmax form goes to.
      temperature: of the barycentre form, in units of |x - y|^2.
      residual: root mean square of |grad psi(x*(y)) - y| over the codes for "icnn", else 0.
    """

    solver: str
    module: Any
    params: Any
    table: Any
    sampler: Sampler
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
    """

    primal_cost: Array
    dual_value: Array
    dual_error: Array
    l2_uvp: Array
    cosine: Array


def default_form(solver: str) -> str:
    """The form of the map that suits a solver: the gradient of a convex potential, else the winning code."""
    return "gradient" if solver == "icnn" else "argmax"


def config_of(solver: str, **fields: Any) -> MapSettings:
    """Return the configuration of a solver.

    Raises:
      ValueError: for an unknown solver, or fields out of range.
      TypeError: for a field that the solver does not have.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver = {solver!r} is unknown: choose one of {', '.join(SOLVERS)}.")
    return SOLVERS[solver].Config(**fields)


def fit(
    key: Key,
    sampler: Sampler | None,
    codes: ArrayLike,
    *,
    solver: str = "c_transform",
    neighbours: float = 3.0,
    callback: Callback | None = None,
    checkpoints: Any = None,
    **config: Any,
) -> Map:
    """Learn the optimal map for |x - y|^2 from a source to codes.

    Args:
      key: random key.
      sampler: the source law, hashable; N(0, I) for None.
      codes: targets [N, d], equally likely; best standardised.
      solver: "c_transform", "lp" or "icnn".
      neighbours: codes that a barycentre weighs effectively, on average: sets the temperature.
      callback: called every 10 calls of the training step with metrics.
      checkpoints: as in `train.train`; training goes on from the newest.
      **config: fields of the solver's Config.

    Returns:
      Map.

    Raises:
      ValueError: for codes of another shape or not finite or all alike, unknown solvers, fields out of range.
      TypeError: for a field that the solver's Config does not have.
    """
    settings = config_of(solver, **config)
    codes = as_points("codes", codes)
    if not float(codes.std(0).max()) > 0:
        raise ValueError("all codes coincide: there is no map to learn.")
    if not 1 <= neighbours <= 0.5 * _NEAREST:
        raise ValueError(f"neighbours = {neighbours}: give 1 to {_NEAREST // 2}.")
    sampler = gaussian if sampler is None else sampler
    method = SOLVERS[solver]
    init_key, train_key, heat_key = jax.random.split(key, 3)
    module, params, table = method.init(init_key, settings, sampler, codes)
    state = map_training.run(
        train_key,
        method.make_update(module, settings, sampler),
        map_training.start(params, settings, table),
        codes,
        settings,
        callback=callback,
        checkpoints=checkpoints,
    )
    return _finished(heat_key, solver, module, state, sampler, codes, min(neighbours, len(codes)))


def _finished(key: Key, solver: str, module: Any, state: Any, sampler: Sampler, codes: Array, neighbours: float) -> Map:
    params, table, residual = state.average, state.table, jnp.zeros(())
    if solver == "icnn":
        found = _conjugates(module, params, codes, table)
        h, residual = -found.values, jnp.sqrt(jnp.mean(found.residual**2))
        table = map_icnn.Table(found.points, found.step)
    elif solver == "lp":
        h = jax.jit(lambda y: 0.5 * (map_lp.potential(params, module, table, y) - jnp.sum(y**2, 1)))(codes)
    else:
        h = jax.jit(map_c_transform.heights, static_argnums=1)(params, module, table, table.codes)
        h = h + jnp.sum(table.codes * table.mean, 1)  # scores of points that are not centred
    x = jax.jit(sampler, static_argnums=(1, 2))(key, 1024, codes.shape[1])
    temperature = _temperature(x, codes, h, neighbours)
    return Map(solver, module, params, table, sampler, codes, h, temperature, residual)


@functools.partial(jax.jit, static_argnums=0)
def _conjugates(module: Any, params: Any, y: Array, table: Any) -> conjugate.Conjugate:
    psi = map_icnn.potential(module, params)

    def block(one: tuple) -> conjugate.Conjugate:
        return conjugate.solve(psi, one[0], one[1], step=one[2], num_steps=_CONJUGATE_STEPS)

    size = 4096
    num, padding = len(y), -len(y) % size if len(y) > size else 0
    padded = jax.tree.map(
        lambda leaf: jnp.pad(leaf, ((0, padding), *((0, 0),) * (leaf.ndim - 1)), mode="edge").reshape(
            -1, min(size, num), *leaf.shape[1:]
        ),
        (y, *table),
    )
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:num], jax.lax.map(block, padded))


def _weights(values: Array, temperature: Array) -> Array:
    """Softmax of scores [n, k], of which two make a difference of costs."""
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
        None for the solver's own: gradient for "icnn", else argmax.
      temperature: of the barycentre, in units of |x - y|^2; `Map.temperature` for None.

    Returns:
      Points [n, d].

    Raises:
      ValueError: for points of another dimension or not finite, an unknown form, a temperature that is not positive.
    """
    x = _checked(map_, "x", x)
    form = default_form(map_.solver) if form is None else form
    if form not in FORMS:
        raise ValueError(f"form = {form!r} is unknown: choose one of {', '.join(FORMS)}.")
    temperature = map_.temperature if temperature is None else temperature
    require_positive("temperature", temperature)
    if form == "gradient" and map_.solver == "icnn":
        return _gradient(map_.module, map_.params, x)
    if form == "gradient" and map_.solver == "lp":
        return _displaced(map_.module, map_.params, map_.table, x)
    if form == "barycentre":
        return _barycentre(x, map_.codes, map_.h, temperature)
    return map_.codes[_winner(x, map_.codes, map_.h)]


def _checked(map_: Map, name: str, x: ArrayLike) -> Array:
    x = as_points(name, x, 1)
    if x.shape[1] != map_.codes.shape[1]:
        raise ValueError(f"{name} has {x.shape[1]} coordinates and the map {map_.codes.shape[1]}: they must agree.")
    return x


@functools.partial(jax.jit, static_argnums=0)
def _gradient(module: Any, params: Any, x: Array) -> Array:
    return map_icnn.gradient(module, params, x)


@functools.partial(jax.jit, static_argnums=0)
def _displaced(module: Any, params: Any, table: Any, x: Array) -> Array:
    return x + map_lp.displacement(params, module, table, x)


@jax.jit
def _barycentre(x: Array, codes: Array, h: Array, temperature: ArrayLike) -> Array:
    values, index = top_scores(x, codes, h, min(_NEAREST, len(codes)))
    return jnp.einsum("nk,nkd->nd", _weights(values, temperature), codes[index])


@jax.jit
def _winner(x: Array, codes: Array, h: Array) -> Array:
    return top_scores(x, codes, h)[1][:, 0]


def potential(map_: Map, y: ArrayLike) -> Array:
    """Return the learned potential at points [n, d]: psi(x) of "icnn", in units of <x, y>; else D(y), of |x - y|^2.

    Raises:
      ValueError: for points of another dimension or not finite.
    """
    y = _checked(map_, "y", y)
    if map_.solver == "icnn":
        return map_icnn.potential(map_.module, map_.params)(y)
    centred = y - map_.table.mean if map_.solver == "c_transform" else y
    return SOLVERS[map_.solver].potential(map_.params, map_.module, map_.table, centred)


def inverse(map_: Map, y: ArrayLike) -> conjugate.Conjugate:
    """Return the points x with grad psi(x) = y, for the convex potential of "icnn".

    Args:
      map_: from `fit` with solver "icnn".
      y: points [n, d].

    Returns:
      `conjugate.Conjugate`: the points, and how well they are met.

    Raises:
      ValueError: for another solver, or points of another dimension or not finite.
    """
    if map_.solver != "icnn":
        raise ValueError(
            f"the map of solver {map_.solver!r} has no inverse, it sends whole cells to one code: use solver='icnn', "
            "or draw noise from the cell of a code."
        )
    y = _checked(map_, "y", y)
    nearest = _winner(y, map_.codes, -0.5 * jnp.sum(map_.codes**2, axis=1))
    return _conjugates(map_.module, map_.params, y, jax.tree.map(lambda leaf: leaf[nearest], map_.table))


def heights(map_: Map) -> semidiscrete.State:
    """Return the potential at the codes as a semi-discrete state, for `semidiscrete.chi2`, `extension` and the like."""
    return semidiscrete.from_heights(map_.h)


def sample(key: Key, map_: Map, num: int, form: str | None = None, temperature: ArrayLike | None = None) -> Array:
    """Draw moved noise [num, d]; `form` and `temperature` as in `transport`.

    Raises:
      ValueError: if num < 1, and as `transport`.
    """
    if num < 1:
        raise ValueError(f"num = {num}: ask for at least one point.")
    x = jax.jit(map_.sampler, static_argnums=(1, 2))(key, num, map_.codes.shape[1])
    return transport(map_, x, form, temperature)


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
    """
    x = jax.jit(map_.sampler, static_argnums=(1, 2))(key, num, map_.codes.shape[1])
    moved = transport(map_, x, form)
    if map_.solver == "icnn":
        value = map_icnn.potential(map_.module, map_.params)(x)
    else:
        value = top_scores(x, map_.codes, map_.h)[0][:, 0]
    value = jnp.sum(x**2, axis=1) - 2 * value  # f = |x|^2 - 2 psi(x)
    other = jnp.mean(jnp.sum(map_.codes**2, axis=1) + 2 * map_.h)
    missed = (jnp.nan, jnp.nan) if truth is None else (l2_uvp(moved, truth(x)), cosine(moved, truth(x), x))
    return Info(
        jnp.mean(jnp.sum((x - moved) ** 2, axis=1)),
        jnp.mean(value) + other,
        jnp.std(value) / np.sqrt(num),
        *(jnp.asarray(number) for number in missed),
    )
