"""Descent on the heights of a semi-discrete problem: the state of a solve, its stages, and one step.

A step draws fresh samples, counts where they fall, and moves the heights against (masses - weights), scaled by Adam's
second moments. Step sizes are in units of the problem and decay over a stage; the heights are averaged over its tail.
The points may be shared out among devices (`points_axis`): each then holds its block of points and heights, sees all
samples, and learns by a maximum over the devices which of them it wins.

A point of weight zero takes no part, whatever stands in its row: its height is EXCLUDED and its cell empty, and it
counts in no mean, scale or centre.
"""

from __future__ import annotations

import functools
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from otgen.ot.check import (
    all_finite,
    as_array,
    as_count,
    as_key,
    as_points,
    as_weights,
    is_traced,
    require_finite,
    require_positive,
)
from otgen.ot.products import product
from otgen.ot.semidiscrete.scores import TILE, top_scores
from otgen.ot.semidiscrete.source import as_sampler, draw, uniform_cube
from otgen.types import Array, Key, Sampler, averaged

_B1, _B2 = 0.9, 0.999  # Adam's moments (Kingma and Ba, 2015)
FIRST_RATE = 0.03  # first step size, in units of the spread of the scores
LATER_RATE = 0.003  # the same in later stages, which start near the solution
_LAST_RATE = 0.3  # last step size, in units of the statistical error of a height
_SETTLED = 300.0  # heights are averaged from where the step size is so many last ones on,
_EARLIEST = 0.1  # but not before this share of the stage
EXCLUDED = -1e30  # the height of a point of weight zero: it never wins, and stays finite under averages


class Schedule(NamedTuple):
    """The stage a run is in: steps first..first+length-1, step size decaying geometrically.

    Attributes:
      first, length: where the stage begins and how many steps it has (int32).
      rate, final: step size at its two ends, in units of the heights.

    Example:
      >>> state = og.semidiscrete.from_heights(jnp.zeros(3))
      >>> print(state.schedule.length)  # no stage yet
      0
    """

    first: Array
    length: Array
    rate: Array
    final: Array


class State(NamedTuple):
    """What the next step needs.

    Attributes:
      h: averaged heights [N], mean 0: the solution so far; EXCLUDED (-1e30) of points of weight zero.
      iterate: the current, unaveraged heights [N].
      mu, nu: Adam's first and second moments of the gradient [N].
      step: steps taken (int32).
      schedule: the present stage.

    Example:
      >>> state = og.semidiscrete.from_heights(jnp.array([1.0, 2.0, 3.0]))
      >>> print(state.h, state.step)
      [-1. 0. 1.] 0
    """

    h: Array
    iterate: Array
    mu: Array
    nu: Array
    step: Array
    schedule: Schedule


@runtime_checkable
class Heights(Protocol):
    """What has heights `h` [N]: the State of a solve, or the Map that it returns, which knows its source law too.

    Example:
      >>> print(isinstance(og.semidiscrete.from_heights(jnp.zeros(3)), og.semidiscrete.descent.Heights))
      True
    """

    h: Array


def _scales(key: Key, y: Array, weights: Array, h: Array, sampler: Sampler) -> tuple[Array, Array, Array]:
    """Spread of the scores over the points, the median gap between the two best at heights h, and the share there."""
    y, _ = centred(y, weights)
    x = draw(key, sampler, 0, TILE, y.shape[1], y.dtype)
    spread = jnp.sqrt(jnp.sum(weights[:, None] * y**2) * jnp.mean((x - x.mean(0)) ** 2))
    values, _ = top_scores(x, y, h, k=2)
    gap = jnp.maximum(jnp.median(values[:, 0] - values[:, 1]), 1e-7 * spread)
    return spread, gap, jnp.mean(weights > 0, dtype=h.dtype)


def lying_out(h: Array) -> Array:
    """Return whether each of heights [N] is that of a point that takes no part."""
    return h <= EXCLUDED / 2


def shifted(y: Array, h: Array) -> tuple[Array, Array]:
    """Return the points less the mean of those that take part, and heights; of the others 0 and -inf.

    What stands in the rows of the others does not matter. The points are held, not computed again for every use: XLA
    may round the same point to two numbers in two places, and cells are told apart by whether points are equal.
    """
    out = lying_out(h)
    mean = jnp.mean(y, 0, where=~out[:, None])
    points = jax.lax.optimization_barrier(jnp.where(out[:, None], 0, y - mean))
    return points, jnp.where(out, -jnp.inf, h)


def of_one_type(*arrays: Array) -> list[Array]:
    """Arrays as those of the type that holds the numbers of all: in x64 mode points may be float32 and heights not."""
    dtype = jnp.result_type(*arrays)
    return [jnp.asarray(it, dtype) for it in arrays]


def from_heights(h: ArrayLike) -> State:
    """Return a state that holds given heights [N], shifted to mean 0, and has no stage yet.

    Args:
      h: heights [N]; one of -inf, or EXCLUDED (-1e30), leaves its point out.

    Raises:
      ValueError: if they are no vector, or (outside jit) if one is NaN or +inf.

    Example:
      >>> y = jnp.array([[-1.0], [1.0]])
      >>> print(og.semidiscrete.assign(og.semidiscrete.from_heights(jnp.zeros(2)), y, jnp.array([[-0.3], [0.1]])))
      [0 1]
    """
    h = as_array("h", h, (None,), finite=False)
    if not h.size:
        raise ValueError("h holds no heights: give one for each point.")
    if not is_traced(h) and not all_finite(h):
        require_finite("h", jnp.where(lying_out(h), 0, h))
    return _from_heights(h)


@jax.jit
def _from_heights(h: Array) -> State:
    out = lying_out(h)
    h = jnp.where(out, EXCLUDED, h - jnp.mean(h, where=~out))
    zero, none, rate = jnp.zeros_like(h), jnp.int32(0), jnp.zeros((), h.dtype)
    return State(h, h, zero, zero, none, Schedule(none, none, rate, rate))


def _matched(state: State, y: ArrayLike, weights: ArrayLike) -> tuple[Array, Array]:
    """Return points and weights, if they and the heights are of one number; outside jit weights that sum to 1."""
    if not isinstance(state, State):
        raise ValueError(f"state is a {type(state).__name__}: give the State of from_heights, init or run.")
    y = as_points("y", y, 1)
    if not is_traced(weights):
        as_weights(weights, y.shape[0])  # inside jit they may be those of a block, whose sum is not 1
    weights = as_array("weights", weights, y.shape[:1], finite=False)
    if jnp.shape(state.h) != y.shape[:1]:
        raise ValueError(f"the state has heights of shape {jnp.shape(state.h)}: y has {y.shape[0]} points.")
    return y, weights


def stage(
    key: Key,
    state: State,
    y: ArrayLike,
    weights: ArrayLike,
    num_steps: int,
    batch_size: int,
    *,
    sampler: Sampler = uniform_cube,
    first: float = FIRST_RATE,
) -> State:
    """Begin a stage of `num_steps` steps at the present heights, with step sizes in units of the problem.

    The first step size is `first` times the spread of the scores; the last is a fraction of the error that
    sampling leaves in a height: the gap between the two best scores times sqrt(N / samples).

    Args:
      key: random key, for the scales of the problem.
      state: the heights to begin at.
      y: points [N, d]. weights: [N], positive, or zero for points that take no part.
      num_steps: steps of the stage.
      batch_size: samples in each of them.
      sampler: the source law. Static.
      first: first step size in units of the spread.

    Returns:
      The state at the first step of the stage.

    Raises:
      ValueError: for points, weights and heights of different numbers, or sizes that are no positive whole numbers.

    Example:
      >>> y, weights = jax.random.normal(jax.random.key(0), (8, 2)), jnp.full(8, 1 / 8)
      >>> state = og.semidiscrete.from_heights(jnp.zeros(8))
      >>> state = og.semidiscrete.stage(jax.random.key(1), state, y, weights, num_steps=200, batch_size=256)
      >>> print(state.schedule.length, bool(state.schedule.final < state.schedule.rate))
      200 True
    """
    y, weights = _matched(state, y, weights)
    num_steps, batch_size = as_count("num_steps", num_steps), as_count("batch_size", batch_size)
    require_positive("first", first)
    floor = (y.shape[0] / (num_steps * batch_size)) ** 0.5
    return _stage(as_key(key), state, y, weights, num_steps, floor, first, as_sampler(sampler))


@functools.partial(jax.jit, static_argnames="sampler")
def _stage(
    key: Key,
    state: State,
    y: Array,
    weights: Array,
    num_steps: ArrayLike,
    floor: ArrayLike,
    first: ArrayLike,
    sampler: Sampler,
) -> State:
    h = among(weights, state.h)
    spread, gap, there = _scales(key, y, weights, h, sampler)
    dtype = h.dtype
    rate = (first * spread).astype(dtype)
    final = jnp.minimum(_LAST_RATE * gap * floor * jnp.sqrt(there), rate).astype(dtype)
    schedule = Schedule(state.step, jnp.int32(num_steps), rate, final)
    return state._replace(h=h, iterate=h, schedule=schedule)


def among(weights: Array, h: Array) -> Array:
    """Return the heights, EXCLUDED where the weight is zero."""
    return jnp.where(weights > 0, h, EXCLUDED)


def step(
    key: Key,
    state: State,
    y: ArrayLike,
    weights: ArrayLike,
    *,
    sampler: Sampler = uniform_cube,
    batch_size: int = 1024,
    axis_name: str | None = None,
    points_axis: str | None = None,
) -> State:
    """Take one step of Adam-scaled descent on the energy, and average the tail of the stage.

    Samples are number step * batch_size and following of the stream of `key`, so a resumed solve draws what
    an uninterrupted one would have drawn.

    Args:
      key: the key of the whole solve; the step number is folded in.
      state: the present state, inside a stage.
      y: points [N, d]. weights: [N], positive, or zero for points that take no part.
      sampler, batch_size: the source law and the samples per step. Static.
      axis_name: mapped axis over which samples are shared, if any; each device then draws `batch_size`
        samples of its own stream. Static.
      points_axis: mapped axis over which the points are shared, if any: y, weights and the state then hold this
        device's block of them, all of one size; a block is padded by points of weight 0 and height `EXCLUDED`. Static.

    Returns:
      The next state.

    Raises:
      ValueError: for arrays that do not match, or a batch size that is no positive whole number.

    Example:
      >>> y, weights = jnp.array([[-1.0, 0.0], [1.0, 0.0]]), jnp.array([0.9, 0.1])
      >>> state = og.semidiscrete.from_heights(jnp.zeros(2))
      >>> state = og.semidiscrete.stage(jax.random.key(1), state, y, weights, num_steps=200, batch_size=256)
      >>> state = og.semidiscrete.step(jax.random.key(2), state, y, weights, batch_size=256)
      >>> print(bool(state.h[0] > state.h[1]))  # the cell of the heavy point grows
      True
    """
    y, weights = _matched(state, y, weights)
    size, sampler = as_count("batch_size", batch_size), as_sampler(sampler)
    return _step(as_key(key), state, y, weights, sampler, size, axis_name, points_axis)


@functools.partial(jax.jit, static_argnames=("sampler", "batch_size", "axis_name", "points_axis"))
def _step(
    key: Key,
    state: State,
    y: Array,
    weights: Array,
    sampler: Sampler,
    batch_size: int,
    axis_name: str | None,
    points_axis: str | None,
) -> State:
    num, dim = y.shape
    stream = key if axis_name is None else jax.random.fold_in(key, lax.axis_index(axis_name))
    x = draw(stream, sampler, state.step, batch_size, dim, y.dtype)
    points, _ = centred(y, weights, points_axis)
    h = among(weights, state.iterate)

    _, index, here = winners(x, points, h, points_axis)
    masses = jnp.zeros(num, state.h.dtype).at[index].add((here / batch_size).astype(state.h.dtype))
    return _update(state, averaged(masses, axis_name) - weights.astype(masses.dtype), weights, points_axis)


def _done(state: State) -> Array:
    """Return the share of the present stage that is behind."""
    first, length, _, _ = state.schedule
    return ((state.step - first) / jnp.maximum(length, 1)).astype(state.h.dtype)


def _settled(state: State) -> Array:
    """The share of a stage after which heights are averaged: before it, steps are too long for the mean to be near."""
    _, _, begin, end = state.schedule
    decades = jnp.log(jnp.maximum(begin / jnp.maximum(end, 1e-30), 1 + 1e-6))
    return jnp.maximum(1 - jnp.log(_SETTLED) / decades, _EARLIEST)


def rate(state: State) -> Array:
    """Return the present step size, in units of the heights."""
    _, _, begin, end = state.schedule
    return begin * (end / jnp.maximum(begin, 1e-30)) ** _done(state)


def _update(state: State, gradient: Array, weights: Array, points_axis: str | None) -> State:
    """Adam's update of the heights for a gradient of the energy, and the running mean of the tail."""
    count = (state.step + 1).astype(state.h.dtype)
    mu = _B1 * state.mu + (1 - _B1) * gradient
    nu = _B2 * state.nu + (1 - _B2) * gradient**2
    direction = (mu / (1 - _B1**count)) / (jnp.sqrt(nu / (1 - _B2**count)) + 1e-12)
    first, length, _, _ = state.schedule
    iterate = state.iterate - rate(state) * direction
    there = weights > 0
    mean = summed(jnp.where(there, iterate, 0.0), points_axis) / summed(there, points_axis)
    iterate = jnp.where(there, iterate - mean, EXCLUDED)
    tail = jnp.maximum(state.step - first - jnp.floor(_settled(state) * length), 0.0).astype(count.dtype)
    h = state.h + (iterate - state.h) / (tail + 1.0)
    return State(h, iterate, mu, nu, state.step + 1, state.schedule)


def summed(values: Array, points_axis: str | None) -> Array:
    """Return the sum over the points of all devices: the first axis, and the mapped one if there is one."""
    total = jnp.sum(values, axis=0)
    return total if points_axis is None else lax.psum(total, points_axis)


def centred(y: Array, weights: Array, points_axis: str | None = None) -> tuple[Array, Array]:
    """Return the points less their weighted mean, and that mean; 0 for points of weight zero, whatever their row."""
    there = (weights > 0)[:, None]
    # A sum of products takes XLA 100 times as long as a matrix product.
    mean = product(weights, jnp.where(there, y, 0))
    mean = mean if points_axis is None else lax.psum(mean, points_axis)
    return jnp.where(there, y - mean, 0), mean


def winners(x: Array, y: Array, h: Array, points_axis: str | None = None) -> tuple[Array, Array, Array]:
    """Return the best scores of samples x [n, d].

    Returns:
      Largest score over the points of all devices [n], the index of the winner among the points here [n], and whether
      it is here that the sample is won [n] (on one device: by ties the lowest).
    """
    value, index = top_scores(x, y, h)
    value, index = value[:, 0], index[:, 0]
    if points_axis is None:
        return value, index, jnp.ones(value.shape, bool)
    best = lax.pmax(value, points_axis)
    here, num = lax.axis_index(points_axis), lax.axis_size(points_axis)
    owner = lax.pmin(jnp.where(value >= best, here, num), points_axis)
    return best, index, owner == here
