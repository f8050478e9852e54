"""The semi-discrete solve: stages of descent with fresh samples, until chi2 measured on independent ones is small."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen import sizes
from otgen.ot.check import (
    as_count,
    as_key,
    as_points,
    as_weights,
    is_traced,
    require_function,
    require_nonnegative,
    require_positive,
)
from otgen.ot.products import product
from otgen.ot.semidiscrete import devices as shared
from otgen.ot.semidiscrete import measure, newton, start
from otgen.ot.semidiscrete.descent import EXCLUDED, FIRST_RATE, LATER_RATE, State, centred, stage
from otgen.ot.semidiscrete.descent import rate as _rate
from otgen.ot.semidiscrete.saving import SECONDS, Saver
from otgen.ot.semidiscrete.solution import carried, init, matching, source_of
from otgen.ot.semidiscrete.transport_map import Map
from otgen.progress import shown, watched
from otgen.types import Array, Callback, Key, Sampler, Status, status_of

_SAMPLES = 1.6  # first stage: this many samples per unit of the floor (N - 1) / tol
_MIN_STEPS = 500
_COARSE = 4000  # from so many points on, a start is also sought from clusters of them
_PER_CLUSTER = 25  # points
_MOST_CLUSTERS = 2000
_CLUSTER_SAMPLES = 2**18  # that a start may cost
_SURE = 12.0  # a cell is called empty where no held-out sample is and so many were to be expected
_NOISE = 3.0  # standard errors that primal cost and dual value may be apart


class Info(NamedTuple):
    """What a reader wants, measured on fresh independent samples.

    Attributes:
      chi2, chi2_error: unbiased chi-square divergence of the cell masses from the weights, and its
        standard error.
      total_variation: half the L1 distance of masses and weights; biased upwards by sampling.
      max_ratio: largest ratio of a mass to its weight; biased upwards by sampling.
      num_unseen: cells in which no held-out sample fell.
      primal_cost: E |x - T(x)|^2, the cost of the map (of its own, slightly wrong, masses).
      dual_value: lower bound of the squared Wasserstein distance, tight at the optimum.
      efficiency: chi2 n / (N - 1) for n training samples: 1 is the floor of independent samples.
      num_samples, num_heldout: samples the heights were trained on, and measured on.
      num_steps: steps taken; Newton's count as many as would have drawn their samples.
      status: CONVERGED if and only if error < tol.
      error: the largest of three. (1) chi2. (2) The share of the cells that are empty, N of them counted alike: light
        ones may all be missed where chi2, which counts each by its weight, is small. (3) ((primal - dual) / scale)^2,
        for costs and points about their means, less three standard errors and in units of
        scale = Var y + sqrt(Var x Var y): the second moment that is not where it should be, as when one far point is
        missed. Where weights are equal and no point is far from all others chi2 is the largest of them.
      num_empty: cells in which no held-out sample fell though 12 or more were to be expected.

    Example:
      >>> y = jnp.array([[-1.0], [0.0], [2.0]])
      >>> state, info = og.semidiscrete.run(jax.random.key(0), y)
      >>> print(info.status == og.Status.CONVERGED, info.num_unseen, bool(info.dual_value <= info.primal_cost))
      True 0 True
    """

    chi2: Array
    chi2_error: Array
    total_variation: Array
    max_ratio: Array
    num_unseen: Array
    primal_cost: Array
    dual_value: Array
    efficiency: Array
    num_samples: Array
    num_heldout: Array
    num_steps: Array
    status: Array
    error: ArrayLike = float("nan")  # of what version 0.1 saved
    num_empty: ArrayLike = 0

    def remark(self) -> str:
        """Say what chi2 does not, for `og.explain`."""
        if int(self.status) != Status.MAX_STEPS or not float(self.error) > float(self.chi2):
            return ""
        empty, primal, dual = int(self.num_empty), float(self.primal_cost), float(self.dual_value)
        return (
            f"The masses are right by weight (chi2 = {float(self.chi2):.2g}), but not cell by cell: {empty} cells are "
            f"empty, and primal_cost and dual_value are {primal:.3g} and {dual:.3g}. Points of very unequal weight, or "
            "far from all others, take more samples."
        )


def _gap(y: Array, weights: Array, h: Array, share: Array, num: Array, counted: measure.Counts) -> Array:
    """Primal cost less dual value about the means, beyond the noise of `num` samples, in units of second moments.

    The difference is sum_j (m_j - nu_j) g_j with the masses m of the samples and g = 2 h + |y|^2; the noise of the
    masses is that which samples of cells of mass nu would have, so that a cell that no sample saw has its noise too.
    """
    points, _ = centred(y, weights)
    squares = jnp.sum(points**2, 1)
    g = squares + 2 * (h + product(points, counted.centre))
    g = g - jnp.sum(weights * g)
    noise = jnp.sqrt(jnp.sum(weights * g**2) / num)
    variance = jnp.sum(weights * squares)
    gap = jnp.maximum(jnp.abs(jnp.sum((share - weights) * g)) - _NOISE * noise, 0)
    return gap / (variance + jnp.sqrt(variance) * jnp.sqrt(counted.spread))


@functools.partial(jax.jit, static_argnames="batch_size")
def _info(
    counted: measure.Counts,
    h: Array,
    y: Array,
    weights: Array,
    steps: Array,
    tol: Array | float,
    batch_size: int,
) -> Info:
    """Return the reader's numbers from a count of fresh samples."""
    counts, cost, dual, _, _ = counted
    value, spread = measure.chi2_of(counts, weights)
    total = counts.sum(0)
    share = total / total.sum()
    empty = jnp.sum((total == 0) & (weights * total.sum() > _SURE))
    gap = _gap(y, weights, h, share, total.sum(), counted)
    error = jnp.maximum(jnp.maximum(value, empty / weights.shape[0]), gap**2)
    trained = steps.astype(jnp.float32) * batch_size
    return Info(
        chi2=value,
        chi2_error=spread,
        total_variation=0.5 * jnp.sum(jnp.abs(share - weights)),
        max_ratio=jnp.max(share / weights),
        num_unseen=jnp.sum(total == 0),
        primal_cost=cost,
        dual_value=dual,
        efficiency=value * trained / (weights.shape[0] - 1),
        num_samples=trained,
        num_heldout=total.sum(),
        num_steps=steps,
        status=status_of(jnp.where(jnp.all(jnp.isfinite(h)), error, jnp.nan), tol),
        error=error,
        num_empty=empty,
    )


def _held_out_size(num_points: int, tol: float, limit: int) -> int:
    """Enough samples for the standard error of chi2, about sqrt(2 N) / samples, to be a tenth of tol; within reason."""
    return int(max(2**16, min(10 * (2 * num_points) ** 0.5 / tol, limit)))


class _Problem(NamedTuple):
    """What a solve knows beside its state: distinct points [N, d], weights [N], both on their devices, and settings."""

    points: Array
    weights: Array
    placed: list[Array]
    sampler: Sampler
    tol: float
    batch_size: int
    num_test: int
    mesh: jax.sharding.Mesh | None

    def evaluate(self, key: Key, state: State) -> Info:
        """Measure a state on fresh samples."""
        h = shared.place(state.h, self.mesh, EXCLUDED)
        counted = shared.count(key, *self.placed, h, self.num_test, self.sampler, self.mesh)
        if self.mesh is not None:
            num = len(self.weights)
            counted = shared.fetched(counted, self.mesh)
            counted = counted._replace(counts=counted.counts[..., :num])
        return _info(counted, state.h, self.points, self.weights, state.step, self.tol, self.batch_size)

    def start(self, key: Key, test_key: Key) -> tuple[State, Info]:
        """The warm start, or that from clusters of many points if its dual value is higher; Info of the first."""
        state = init(key, self.points, self.weights, sampler=self.sampler)
        info = self.evaluate(test_key, state)
        num, dim = self.points.shape
        if num >= _COARSE and dim > 1 and not float(info.error + 2 * info.chi2_error) < self.tol:
            other = _from_clusters(key, self.points, self.weights, self.sampler)
            state = other if self.evaluate(test_key, other).dual_value > info.dual_value else state
        return state, info

    def solve(
        self,
        keys: tuple[Key, Key, Key],
        state: State,
        limit: int,
        callback: Callback | None,
        saver: Saver,
    ) -> tuple[State, Info]:
        """Do the stage of a state and those that follow, until the error is below `tol` or `limit` steps are done."""
        start_key, train_key, test_key = keys
        size, sampler, (num, dim) = self.batch_size, self.sampler, self.points.shape
        several = int(np.clip(sizes.here().work / (num * (dim + 8) * size), 1, 10_000))  # steps between callbacks
        while True:
            end = int(state.schedule.first + state.schedule.length)
            running = shared.place_state(state, self.mesh)
            while (now := int(running.step)) < end:
                count = min(several - now % several, end - now)
                running = shared.advance(train_key, running, *self.placed, count, sampler, size, self.mesh)
                saves = now + count == end or (saver.saves and shared.agreed(saver.due(), self.mesh))
                saver(now + count, functools.partial(shared.collect, running, self.mesh, num), now=saves)
                if callback:
                    callback(now + count, {"samples": (now + count) * size, "rate": float(_rate(running))})
            state = shared.collect(running, self.mesh, num)
            end = int(state.step)  # beyond the stage, if it is a state that was returned after Newton's steps
            fresh = jax.random.fold_in(test_key, end)
            info = self.evaluate(fresh, state)
            if callback:
                chi2 = {"chi2": float(info.chi2), "chi2_error": float(info.chi2_error)}
                callback(end, {"samples": end * size, **chi2})
            unfinished = int(info.status) == Status.MAX_STEPS
            if unfinished and float(info.chi2) < self.tol:
                state = self.raised(fresh, state)
            last = int(state.schedule.length)
            if unfinished and int(state.schedule.first) > 0 and dim <= newton.MOST_DIM:
                state, info = self.newton(train_key, fresh, state, info, min(2 * last, limit - end), callback)
            length = min(2 * last, limit - int(state.step))
            if int(info.status) != Status.MAX_STEPS or 2 * length < last:  # a stage's first steps lead away
                return state, info
            again = jax.random.fold_in(start_key, end)
            state = stage(again, state, *self[:2], length, size, sampler=sampler, first=LATER_RATE)

    def raised(self, key: Key, state: State) -> State:
        """Return the state with the heights of empty cells at which each would win something."""
        h = newton.unearth(key, state.h, self.points, self.weights, self.sampler)
        return state._replace(h=h, iterate=h)

    def newton(
        self, key: Key, test_key: Key, state: State, info: Info, most: int, callback: Callback | None
    ) -> tuple[State, Info]:
        """The better of a state that was measured with `test_key` and what `most` blocks of Newton steps make of it."""
        end, size = int(state.step), self.batch_size

        def report(drawn: int, metrics: dict[str, float]) -> None:
            if callback:
                callback(end + drawn, {"samples": (end + drawn) * size, **metrics})

        known = (self.points, self.weights, self.tol)
        h, drawn = newton.run(key, state.h, *known, end, most, self.sampler, size, report)
        if not drawn:
            return state, info
        new = state._replace(h=h, iterate=h, step=state.step + drawn)
        measured = self.evaluate(test_key, new)
        if measured.error < info.error:
            return new, measured
        counts = {name: getattr(measured, name) for name in ("num_samples", "num_steps")}
        efficiency = info.chi2 * measured.num_samples / (len(self.weights) - 1)
        return state._replace(step=new.step), info._replace(efficiency=efficiency, **counts)


@watched
def run(
    key: Key,
    y: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    sampler: Sampler | None = None,
    tol: float = 0.05,
    max_samples: int | None = None,
    batch_size: int | None = None,
    state: State | Map | None = None,
    devices: Sequence[jax.Device] | None = None,
    callback: Callback | None = None,
    save: Callable[[int, State], None] | None = None,
    save_seconds: float = SECONDS,
) -> tuple[Map, Info]:
    """Solve for the heights until the held-out error is below `tol`. Nothing needs tuning.

    The error is chi2, unless weights are very unequal or points lie far from all others, see `Info`.

    If the warm start is good enough, no step is taken. Else, for many points, a start from the solution for clusters of
    them is taken if its dual value is the higher one. A first stage then draws about 1.6 (N - 1) / tol samples, 1.6
    times what the best estimator needs; while the error measured on fresh samples is above `tol`, a further stage of
    twice the samples starts from the heights reached. After such a stage, in up to three dimensions, damped Newton
    steps follow (`otgen.ot.semidiscrete.newton`), which are kept if they lower the error. Where chi2 is below `tol` and
    the error is not, empty cells are raised before the next stage. Samples of Newton's steps count like any, but for
    65,536 that say how far empty cells are below the others. Runs on the host, calling jitted loops of steps; inside
    your own jit use `init`, `stage`, `step` and `chi2`.

    Args:
      key: random key; with the same key and a `state` that `save` received, the solve continues bit-identically, on the
        same machine and number of devices.
      y: points [N, d], N >= 2. Points that coincide are legal: they get one height and share their joint mass in
        proportion to their weights.
      weights: [N], summing to 1, zero for points that take no part; None for uniform.
      sampler: the source law on R^d, hashable; None for that of a Map in `state`, or uniform_cube. Static.
      tol: error to reach, see `Info`. A chi2 of 0.05 is a relative error of the masses of 22 % in root mean square.
      max_samples: limit of the training samples; None for 16 first stages. A start from clusters draws up to 262,144
        more, each scored against a 25th of the points or fewer; neither the limit nor `Info` counts them.
      batch_size: samples per step, a power of two up to 65,536 for quasi-random sampling; None: 1024, or 2048
        for more than 20,000 points. Static.
      state: where to go on from: what `save` received, or a Map, whose heights are where a further stage starts.
      devices: the points are shared out among these devices, each holding a block of them; they may be
        those of all hosts, which then call this together and save at the same steps. Given the same
        heights, a step is that of one device to rounding; over a run rounding grows, as one sample that changes cells
        moves a height by a step, and what is the same are the law of the result and its errors. None: as many of this
        host's devices as have 4,096 points each, unless `y` is tied to one or JAX's default device is set.
      callback: called with the step and its metrics every second or so, and after each of Newton's steps with
        `newton_chi2`, of that step's own samples, whether or not the step is kept.
      save: called with the step and the state at the end of a stage, when `save_seconds` have passed, and before an
        error or Ctrl-C ends the run; but not in Newton's steps, which a solve that goes on from there takes again.
      save_seconds: how often a state is saved within a stage. It changes no result.

    Returns:
      The Map, ready to be used, and Info, measured on fresh samples.

    Raises:
      ValueError: for points, weights or limits that cannot be meant, or another law than that of a Map in `state`.

    Example:
      >>> y = jnp.array([[-1.0, 0.0], [1.0, 0.0]])
      >>> transport, info = og.semidiscrete.run(jax.random.key(0), y, jnp.array([0.75, 0.25]))
      >>> print(bool(info.chi2 < 0.05))
      True
      >>> print(transport.assign(jnp.array([[0.1, 0.0], [0.4, 0.0]])))  # cut near x = 1 / 4
      [0 1]
    """
    key, y, sampler = as_key(key), as_points("y", y), source_of(state, sampler)
    weights = as_weights(weights, y.shape[0])
    require_positive("tol", tol)
    if max_samples is not None:
        require_positive("max_samples", max_samples)
    require_nonnegative("save_seconds", save_seconds)
    for name, function in {"callback": callback, "save": save}.items():
        if function is not None:
            require_function(name, function)
    if is_traced(key, y, weights, tol):
        raise ValueError("run is a loop on the host: inside jit, vmap or grad use init, stage, step and chi2.")
    points, total, groups = measure.merge(y, weights)
    num = len(points)
    if num < 2:
        raise ValueError("All points of y with weight coincide: the map is constant, so there is nothing to solve.")
    batch_size = as_count("batch_size", (1024 if num <= 20_000 else 2048) if batch_size is None else batch_size)
    first_stage = max(_SAMPLES * (num - 1) / tol, _MIN_STEPS * batch_size)
    limit = int((16 * first_stage if max_samples is None else max_samples) // batch_size)
    if limit < 1:
        raise ValueError(f"max_samples = {max_samples} is less than one batch of {batch_size}: raise it.")
    mesh = shared.mesh_of(devices, points)
    start_key, train_key, test_key = jax.random.split(key, 3)
    num_test = _held_out_size(num, tol, min(int(first_stage), limit * batch_size) // 4)
    placed = [shared.place(array, mesh) for array in (points, total)]
    problem = _Problem(points, total, placed, sampler, tol, batch_size, num_test, mesh)

    def made(state: State) -> Map:
        return Map(y, _repeated(state, groups).h, weights, sampler)

    def saved(now: int, state: State) -> None:
        save(now, _repeated(state, groups))

    several = mesh is not None and mesh.is_multi_process  # a state is then collected by all hosts, or by none
    saver = Saver(saved if save else None, save_seconds, flushes=not several)
    rate = LATER_RATE if isinstance(state, Map) else FIRST_RATE
    if state is None:
        state, info = problem.start(start_key, test_key)
        if float(info.error + 2 * info.chi2_error) < tol:  # the affine warm start is all it takes
            return made(state), info
    else:
        matching(state, y)
        state = state.state if isinstance(state, Map) else state
        state = state if groups is None else _one_of_each(state, groups)
    if int(state.schedule.length) == 0:
        length = min(int(first_stage // batch_size), limit)
        state = stage(start_key, state, points, total, length, batch_size, sampler=sampler, first=rate)
    end = int(state.schedule.first + state.schedule.length)  # of this stage; there may be more
    with shown(end, "transport", callback) as told, saver:
        state, info = problem.solve((start_key, train_key, test_key), state, limit, told, saver)
    return made(state), info


def _from_clusters(key: Key, y: Array, weights: Array, sampler: Sampler) -> State:
    """Return a start from the solution for the centres of clusters of the points."""
    cluster_key, run_key, touch_key = jax.random.split(key, 3)
    centres, total = start.clusters(cluster_key, y, weights, min(y.shape[0] // _PER_CLUSTER, _MOST_CLUSTERS))
    kept = np.asarray(total) > 0
    centres, total = jnp.asarray(np.asarray(centres)[kept]), jnp.asarray(np.asarray(total)[kept])
    options = {"tol": 0.02, "max_samples": _CLUSTER_SAMPLES, "progress": False}
    state, _ = run(run_key, centres, total / total.sum(), sampler=sampler, **options)
    return carried(touch_key, state, centres, y, sampler=sampler)


def _repeated(state: State, groups: np.ndarray | None) -> State:
    """Return the state with one entry per point, from that of the merged problem."""
    if groups is None:
        return state
    spread = jax.tree.map(lambda leaf: measure.repeated(leaf, groups) if leaf.ndim else leaf, state)
    h, iterate = (measure.repeated(array, groups, EXCLUDED) for array in (state.h, state.iterate))
    return spread._replace(h=h, iterate=iterate)


def _one_of_each(state: State, groups: np.ndarray) -> State:
    """Return the state of the merged problem, from the one with an entry per point."""
    found, rows = np.unique(groups, return_index=True)
    rows = rows[found >= 0]
    return jax.tree.map(lambda leaf: leaf[rows] if leaf.ndim else leaf, state)
