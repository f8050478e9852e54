"""The checks of `gpu_check`: what is measured on an accelerator, against what, and within which limits.

A check is a function of a `Context` that returns what `judged` makes of its numbers, or raises `Skipped`. It imports
what it needs when it is called, so that a package that is missing costs only the checks that need it. On a CPU the same
checks run at sizes of seconds, and the kernel in Pallas's interpreter.

Sizes and rates count useful work: 2 n m d operations for the scores of n samples among m points of dimension d, and for
an iteration of Sinkhorn's two products with a kernel n x m: 8 n m bytes where it is in memory (float32), 4 n m d
operations where it is made anew from the points. A share is that work per second over the product of float32 matrices
or the copy measured here, so that absorbed potentials, exponentials and gaps between kernels all lower it.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

GIB = 2**30
EXACT = 3e-6  # relative error of float32 arithmetic in sums of 64 terms, with a margin; TF32 is a hundred times above
KS = 2.6  # sqrt(n) times the Kolmogorov-Smirnov distance: exceeded by a right law with probability 3e-6
MODELS = (
    "ae_ot",
    "ae_ot_gan",
    "latent_ot",
    "informative_gan",
    "info_gan",
    "vae",
    "wae_mmd",
    "wgan_gp",
    "latent_flow",
    "bures_linear",
    "neural_map.lp",
    "neural_map.icnn",
)
Result = dict[str, Any]


class Skipped(Exception):
    """A check that cannot be made here, and why."""


@dataclasses.dataclass(frozen=True)
class Context:
    """What a check is given.

    Attributes:
      seed: of everything random; a check draws the same numbers whatever others run.
      tiny: sizes for a CPU.
    """

    seed: int
    tiny: bool

    def rng(self, name: str) -> np.random.Generator:
        """A generator of a check's own."""
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    def key(self, name: str) -> jax.Array:
        """A key of a check's own."""
        return jax.random.key(int(self.rng(name).integers(2**31)))

    def size(self, full: Any, tiny: Any) -> Any:
        """The first on an accelerator, the second on a CPU."""
        return tiny if self.tiny else full

    @functools.cached_property
    def ceilings(self) -> dict[str, float]:
        """Measured operations a second of matrix products by precision, and bytes a second of a copy."""
        num, length = self.size((8192, 2**28), (256, 2**20))
        a, b = jnp.asarray(self.rng("ceilings").normal(size=(2, num, num)), jnp.float32)
        half, x = (a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)), jnp.resize(a.ravel(), length)
        work = 2 * num**3
        return {
            "float32": work / seconds_of(lambda: exact_product(a, b)),
            "default": work / seconds_of(lambda: default_product(a, b)),
            "bfloat16": work / seconds_of(lambda: default_product(*half)),
            "copy": 8 * length / seconds_of(lambda: _copy(x)),
        }


exact_product = jax.jit(functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST))
default_product = jax.jit(functools.partial(jnp.matmul, precision=lax.Precision.DEFAULT))
_copy = jax.jit(lambda x: x + 1)  # reads and writes every number once


def seconds_of(call: Callable[[], Any], least: float = 0.3, rounds: int = 5) -> float:
    """Median seconds of a call after one that compiles, over rounds of as many calls as fill the time."""
    jax.block_until_ready(call())
    begin = time.perf_counter()
    jax.block_until_ready(call())
    once = max(time.perf_counter() - begin, 1e-6)
    rounds = rounds if once < 1 else 1
    repeats = int(np.clip(least / rounds / once, 1, 500))

    def one() -> float:
        begin = time.perf_counter()
        for _ in range(repeats):
            out = call()
        jax.block_until_ready(out)
        return (time.perf_counter() - begin) / repeats

    return statistics.median(one() for _ in range(rounds))


def judged(numbers: Result, *, at_most: Result | None = None, at_least: Result | None = None) -> Result:
    """Return numbers with their limits, whether all were met, and which were not; NaN meets none."""
    at_most, at_least = at_most or {}, at_least or {}
    missed = [name for name, limit in at_most.items() if not numbers[name] <= limit]
    missed += [name for name, limit in at_least.items() if not numbers[name] >= limit]
    limits = {name: f"<= {limit:g}" for name, limit in at_most.items()}
    for name, limit in at_least.items():
        limits[name] = " and ".join([*filter(None, [limits.get(name)]), f">= {limit:g}"])
    return {"numbers": numbers, "limits": limits, "passed": not missed, "missed": missed}


def relative(found: Any, exact: np.ndarray, scale: Any = None) -> float:
    """Largest error over a scale (the largest entry for None), in float64."""
    scale = np.abs(exact).max() if scale is None else scale
    return float(np.max(np.abs(np.asarray(found, np.float64) - exact)) / scale)


def norm_error(found: Any, exact: np.ndarray) -> float:
    """Norm of the error over the norm, in float64."""
    return float(np.linalg.norm(np.asarray(found, np.float64) - exact) / np.linalg.norm(exact))


def memory(name: str) -> int | None:
    """A number of the first device's allocator in bytes, None where it keeps none."""
    return (jax.local_devices()[0].memory_stats() or {}).get(name)


def ceilings(context: Context) -> Result:
    """Products of float32 matrices (HIGHEST, default) and of bfloat16, a copy, and the error of the first two."""
    num = context.size(4096, 256)
    a, b = jnp.asarray(context.rng("products").normal(size=(2, num, num)), jnp.float32)
    exact = np.asarray(a[:64], np.float64) @ np.asarray(b[:, :64], np.float64)
    found = context.ceilings
    numbers = {
        "float32_tflops": found["float32"] / 1e12,
        "default_tflops": found["default"] / 1e12,
        "bfloat16_tflops": found["bfloat16"] / 1e12,
        "copy_gb_per_s": found["copy"] / 1e9,
        "float32_error": norm_error(exact_product(a, b)[:64, :64], exact),
        "default_error": norm_error(default_product(a, b)[:64, :64], exact),
    }
    return judged(numbers, at_most={"float32_error": EXACT})


def _softmin_problem(rng: np.random.Generator, num: int, other: int, dim: int) -> list[np.ndarray]:
    shapes = (num, dim), (other, dim), (other,), (other,)
    x, y, potential, log_weights = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    return [x, y + 1, potential, log_weights]


def _exact_softmin(x, y, epsilon, potential, log_weights) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values [n], plan [n, m] and scores [n, m] in float64."""
    x, y, potential, log_weights = (np.asarray(array, np.float64) for array in (x, y, potential, log_weights))
    cost = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    scores = (potential - cost) / epsilon
    logits = scores + log_weights
    top = logits.max(1, keepdims=True)
    total = np.exp(logits - top).sum(1, keepdims=True)
    return -epsilon * (top + np.log(total))[:, 0], np.exp(logits - top) / total, scores


def _pallas_or_skip(context: Context) -> bool:
    """Whether to interpret the kernel; it is compiled by Triton, for NVIDIA GPUs."""
    if not context.tiny and "nvidia" not in jax.local_devices()[0].device_kind.lower():
        raise Skipped(f"the kernel is for NVIDIA GPUs, and this is {jax.local_devices()[0].device_kind}")
    return context.tiny


def kernel_values(context: Context) -> Result:
    """The Pallas softmin and XLA's against float64, over shapes and temperatures, relative to the costs."""
    from otgen.ot.costs import PairwiseCost
    from otgen.ot.pallas import softmin_pallas

    interpret, rng = _pallas_or_skip(context), context.rng("kernel_values")
    ragged = [(1, 1, 1), (65, 63, 1), (5, 129, 64), (200, 300, 130), (1000, 777, 33), (4096, 4097, 64), (33, 20000, 16)]
    shapes, worst = context.size(ragged, [(65, 63, 1), (5, 129, 40)]), {"pallas_error": 0.0, "xla_error": 0.0}
    for num, other, dim in shapes:
        x, y, potential, log_weights = _softmin_problem(rng, num, other, dim)
        for epsilon in (1e-3, 0.3, 10.0, 1e3):
            exact = _exact_softmin(x, y, epsilon, potential, log_weights)[0]
            scale = 1 + (x**2).sum(1).max() + (y**2).sum(1).max() + epsilon * math.log(other + 1)
            mine = softmin_pallas(x, y, epsilon, potential, log_weights, interpret=interpret)
            theirs = PairwiseCost(x, y).softmin(epsilon, potential, log_weights)
            for name, found in (("pallas_error", mine), ("xla_error", theirs)):
                worst[name] = float(np.maximum(worst[name], relative(found, exact, scale)))  # NaN stays
    return judged({**worst, "shapes": len(shapes), "temperatures": 4}, at_most=dict.fromkeys(worst, EXACT))


def kernel_gradients(context: Context) -> Result:
    """Derivatives of the Pallas softmin by its custom rules, in all five arguments, against closed forms in float64."""
    from otgen.ot.pallas import softmin_pallas

    interpret, rng = _pallas_or_skip(context), context.rng("kernel_gradients")
    num, other, dim = context.size((500, 777, 33), (33, 70, 5))
    x, y, potential, log_weights = _softmin_problem(rng, num, other, dim)
    weight = rng.normal(size=num).astype(np.float32)

    def total(*args):
        return weight @ softmin_pallas(*args, interpret=interpret)

    gradient, errors = jax.jit(jax.grad(total, argnums=(0, 1, 2, 3, 4))), {}
    for share in (0.02, 0.3):
        epsilon = share * 2 * dim
        value, plan, scores = _exact_softmin(x, y, epsilon, potential, log_weights)
        mass = weight @ plan
        exact = (
            2 * weight[:, None] * (x - plan @ y),
            2 * (mass[:, None] * y - (weight[:, None] * plan).T @ x),
            weight @ (value / epsilon + (plan * scores).sum(1)),
            -mass,
            -epsilon * mass,
        )
        found = gradient(x, y, np.float32(epsilon), potential, log_weights)
        for name, ours, theirs in zip(("x", "y", "epsilon", "potential", "log_weights"), found, exact, strict=True):
            errors[name] = float(np.maximum(errors.get(name, 0.0), norm_error(ours, theirs)))
    numbers = {f"error_in_{name}": value for name, value in errors.items()}
    return judged(numbers, at_most=dict.fromkeys(numbers, 5e-4))


def kernel_speed(context: Context) -> Result:
    """Seconds of a softmin and of its gradient in the points, by the Pallas kernel and by XLA."""
    from otgen.ot.costs import PairwiseCost

    interpret = _pallas_or_skip(context)
    num, dim = context.size((16384, 64), (64, 8))
    x, y, potential, log_weights = map(jnp.asarray, _softmin_problem(context.rng("kernel_speed"), num, num, dim))
    numbers: Result = {"n": num, "d": dim}
    for kernel in ("xla", "pallas"):

        def softmin(x, kernel=kernel):
            return PairwiseCost(x, y, kernel=kernel).softmin(6.0, potential, log_weights)

        value, gradient = jax.jit(softmin), jax.jit(jax.grad(lambda x, f=softmin: f(x).sum()))
        numbers[f"{kernel}_seconds"] = seconds_of(functools.partial(value, x))
        numbers[f"{kernel}_gradient_seconds"] = seconds_of(functools.partial(gradient, x))
        rate = 2 * num * num * dim / numbers[f"{kernel}_seconds"]
        numbers[f"{kernel}_share_of_float32"] = rate / context.ceilings["float32"]
    numbers["speed_up"] = numbers["xla_seconds"] / numbers["pallas_seconds"]
    most = {} if interpret else {"pallas_share_of_float32": 1.2, "xla_share_of_float32": 1.2}  # above: timed wrongly
    return judged(numbers, at_most=most)


def trap_distances(context: Context) -> Result:
    """Squared distances far from the origin, and of points to themselves, carry no TF32; beside them the default."""
    from otgen.ot.costs import PairwiseCost

    num, dim = context.size((2048, 64), (128, 64))
    x, y = np.round(1024 * context.rng("trap_distances").normal(size=(2, num, dim))).astype(np.float32) / 1024
    far = x + 1000, y + 1000  # exact in float32
    exact = _sq_distances(x, y)
    mean = exact.mean()
    naive = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * default_product(x, y.T)
    numbers = {
        "shifted_error": relative(PairwiseCost(*far).matrix(), exact, mean),
        "self_distance": relative(jnp.diag(PairwiseCost(far[0], far[0]).matrix()), np.zeros(num), mean),
        "softmin_error": relative(
            PairwiseCost(*far).softmin(1.0, np.zeros(num, np.float32)),
            _exact_softmin(x, y, 1.0, np.zeros(num), np.zeros(num))[0],
            mean,
        ),
        "default_precision_error": relative(naive, exact, mean),
    }
    names = ("shifted_error", "self_distance", "softmin_error")
    return judged(_armed(numbers, EXACT), at_most=dict.fromkeys(names, EXACT))


def _sq_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = x.astype(np.float64), y.astype(np.float64)
    return (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T


def _armed(numbers: Result, limit: float) -> Result:
    """Say whether arithmetic at default precision would fail here: no on a CPU, yes where products are TF32."""
    return {**numbers, "default_would_fail": numbers["default_precision_error"] > limit}


def trap_scores(context: Context) -> Result:
    """Winners of the semi-discrete scores lose nothing against float64; beside them those of default precision."""
    from otgen.ot.scores import top_scores

    num, points, dim = context.size((2048, 20_000, 64), (128, 500, 64))
    rng = context.rng("trap_scores")
    x, y = rng.normal(size=(num, dim)).astype(np.float32), rng.normal(size=(points, dim)).astype(np.float32)
    h = -0.5 * (y**2).sum(1)
    exact = x.astype(np.float64) @ y.astype(np.float64).T + h.astype(np.float64)
    best, scale = exact.max(1), np.abs(exact).max()

    def lost(winner: Any) -> float:
        return float((best - np.take_along_axis(exact, np.asarray(winner)[:, None], 1)[:, 0]).max() / scale)

    value, winner = top_scores(*map(jnp.asarray, (x, y, h)))
    numbers = {
        "value_error": relative(value[:, 0], best, scale),
        "lost_by_winners": lost(winner[:, 0]),
        "default_precision_error": lost((default_product(x, y.T) + h).argmax(1)),
    }
    names = ("value_error", "lost_by_winners")
    return judged(_armed(numbers, EXACT), at_most=dict.fromkeys(names, EXACT))


def trap_sinkhorn(context: Context) -> Result:
    """The marginal error that a run reports is that of its potentials in float64, dense and streamed."""
    import otgen as og
    from experiments.bench_sinkhorn import marginal_error, points, sq_distances

    num, tol = context.size(2048, 200), 1e-4
    x, y = points(num, 64, context.seed)
    exact = sq_distances(x, y)
    epsilon = float(0.03 * exact.mean())

    def error(cost, **options) -> float:
        state, _ = og.sinkhorn.run(cost, epsilon=epsilon, tol=tol, max_steps=5000, **options)
        return marginal_error(exact, *state, epsilon)

    naive = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * default_product(x, y.T)
    numbers = {
        "dense_error": error(og.PairwiseCost(x, y), dense=True),
        "streamed_error": error(og.PairwiseCost(x, y), dense=False),
        "default_precision_error": error(og.DenseCost(naive)),
    }
    return judged(_armed(numbers, 1.5 * tol), at_most=dict.fromkeys(("dense_error", "streamed_error"), 1.5 * tol))


def sinkhorn_solution(context: Context) -> Result:
    """A run reaches tol = 1e-3 at epsilon = .05 of the mean cost, and its error in float64 agrees."""
    import otgen as og
    from experiments.bench_sinkhorn import marginal_error, points, sq_distances

    num, dim, tol = *context.size((4096, 64), (256, 16)), 1e-3
    x, y = points(num, dim, context.seed)
    exact = sq_distances(x, y)
    epsilon, cost = float(0.05 * exact.mean()), og.PairwiseCost(x, y)
    state, info = og.sinkhorn.run(cost, epsilon=epsilon, tol=tol)
    numbers = {
        "n": num,
        "d": dim,
        "status": int(info.status),
        "steps": int(info.num_steps),
        "error": float(info.error),
        "float64_error": marginal_error(exact, *state, epsilon),
        "seconds_to_tol": seconds_of(lambda: og.sinkhorn.run(cost, epsilon=epsilon, tol=tol)),
    }
    return judged(numbers, at_most={"status": 0, "error": tol, "float64_error": 1.1 * tol})


def sinkhorn_rates(context: Context) -> Result:
    """Iterations a second with the kernel in memory and streamed, and their shares of the copy and of the product."""
    import otgen as og
    from experiments.bench_sinkhorn import points

    numbers, most = {"d": (dim := context.size(64, 8))}, {}
    limit = memory("bytes_limit") or math.inf
    for num in context.size((4096, 16384, 65536), (128,)):
        x, y = map(jnp.asarray, points(num, dim, context.seed))
        cost, epsilon = og.PairwiseCost(x, y), 0.05 * float(jnp.sum(x.var(0) + y.var(0)))
        for kind in ("dense", "streamed"):
            name = f"{kind}_{num}"
            if kind == "dense" and 16 * num * num > limit:  # cost, kernel and as much again
                numbers[name] = f"not run: {16 * num * num / GIB:.0f} GiB wanted"
                continue
            count = 64 if kind == "dense" else context.size(16 if num < 2**16 else 8, 8)
            solve = functools.partial(og.sinkhorn.run, cost, epsilon=epsilon, dense=kind == "dense")
            rate = count / seconds_of(lambda solve=solve, count=count: solve(num_iterations=count), rounds=3)
            numbers[f"{name}_iterations_per_s"] = rate
            if kind == "dense":
                numbers[f"{name}_share_of_copy"] = rate * 8 * num * num / context.ceilings["copy"]
            else:
                numbers[f"{name}_share_of_float32"] = rate * 4 * num * num * dim / context.ceilings["float32"]
                most |= {} if context.tiny else {f"{name}_share_of_float32": 1.2}  # above: timed wrongly
    return judged(numbers, at_most=most)


def _advance(y: np.ndarray, key: jax.Array, batch: int, steps: int):
    """Compile `steps` steps of the semi-discrete solver: returns them, the state they start from, and the points."""
    from otgen.ot import semidiscrete

    points, weights = jnp.asarray(y), jnp.full(len(y), 1 / len(y), jnp.float32)
    state = semidiscrete.init(key, points)
    state = semidiscrete.stage(key, state, points, weights, 1000, batch)

    def several(state, points, weights):
        one = functools.partial(semidiscrete.step, y=points, weights=weights, batch_size=batch)
        return lax.fori_loop(0, steps, lambda _, state: one(key, state), state)

    compiled = jax.jit(several).lower(state, points, weights).compile()
    return compiled, (state, points, weights)


def _semidiscrete_rate(context: Context, num: int, dim: int, batch: int, steps: int) -> Result:
    y = context.rng("semidiscrete").normal(size=(num, dim)).astype(np.float32)
    before, analysis = memory("bytes_in_use"), None
    several, arguments = _advance(y, context.key("semidiscrete"), batch, steps)
    analysis = several.memory_analysis()
    state = jax.block_until_ready(several(*arguments))
    peak = memory("peak_bytes_in_use")
    numbers = {"n": num, "d": dim, "finite": float(jnp.isfinite(state.h).all())}
    if analysis is not None:
        numbers["temporary_gib"] = analysis.temp_size_in_bytes / GIB
    if before is not None and peak is not None:
        numbers["gib_beyond_points"] = (peak - before - y.nbytes) / GIB
    rate = batch * steps / seconds_of(lambda: several(*arguments))
    numbers["samples_per_s"] = rate
    numbers["share_of_float32"] = rate * 2 * num * dim / context.ceilings["float32"]
    return numbers


def semidiscrete_million(context: Context) -> Result:
    """Memory of init and steps for 1,000,000 points beyond the points themselves, and samples a second.

    Comes first: the allocator's peak is that of the process, and afterwards could not be told from others'.
    """
    numbers = _semidiscrete_rate(context, *context.size((1_000_000, 64, 2048, 8), (2000, 64, 256, 4)))
    most = {name: 2.0 for name in ("temporary_gib", "gib_beyond_points") if name in numbers}
    most |= {} if context.tiny else {"share_of_float32": 1.2}  # above: timed wrongly
    return judged(numbers, at_most=most, at_least={"finite": 1})


def semidiscrete_rate(context: Context) -> Result:
    """Samples a second for 10,000 points."""
    numbers = _semidiscrete_rate(context, *context.size((10_000, 64, 1024, 64), (300, 64, 256, 4)))
    most = {} if context.tiny else {"share_of_float32": 1.2}
    return judged(numbers, at_most=most, at_least={"finite": 1})


def semidiscrete_truth(context: Context) -> Result:
    """The chi2 of heights whose masses are known on the line, and a run to tol = .05 in 64 dimensions."""
    from otgen.ot import semidiscrete

    rng, num = context.rng("semidiscrete_truth"), 64
    y = np.sort(rng.normal(size=num))
    masses = rng.dirichlet(np.full(num, 8.0))
    heights = np.concatenate([[0.0], -np.cumsum((np.cumsum(masses)[:-1] - 0.5) * np.diff(y))])
    state = semidiscrete.from_heights(jnp.asarray(heights, jnp.float32))
    key = context.key("semidiscrete_truth")
    points = jnp.asarray(y[:, None], jnp.float32)
    chi2, deviation = semidiscrete.chi2(key, state, points, context.size(2**22, 2**18))
    cloud = rng.normal(size=context.size((10_000, 64), (300, 8))) * np.sign(rng.normal(size=context.size(64, 8)))
    cloud[: len(cloud) // 3] += 4  # two clusters, so that the affine start is not the solution
    begin = time.perf_counter()
    _, info = semidiscrete.run(key, jnp.asarray(cloud, jnp.float32), tol=0.05)
    numbers = {
        "known_chi2": float(num * np.sum(masses**2) - 1),
        "chi2": float(chi2),
        "chi2_deviations": abs(float(chi2) - (num * np.sum(masses**2) - 1)) / float(deviation),
        "run_points": len(cloud),
        "run_status": int(info.status),
        "run_chi2": float(info.chi2),
        "run_steps": int(info.num_steps),
        "run_efficiency": float(info.efficiency),
        "run_seconds_with_compilation": time.perf_counter() - begin,
    }
    return judged(numbers, at_most={"chi2_deviations": 6, "run_status": 0, "run_chi2": 0.05})


def semidiscrete_devices(context: Context) -> Result:
    """Heights solved here and on the CPU with the same key are as near as, or nearer than, those of another key."""
    from otgen.ot import semidiscrete

    try:
        cpu = jax.devices("cpu")[0]
    except RuntimeError as error:
        raise Skipped(f"jax offers no CPU beside the accelerator: {error}") from error
    rng = context.rng("semidiscrete_devices")
    y = rng.normal(size=context.size((500, 8), (100, 4))).astype(np.float32)
    y[: len(y) // 3] += 3

    def heights(device, seed: int) -> np.ndarray:
        with jax.default_device(device):
            state, _ = semidiscrete.run(jax.random.key(seed), jnp.asarray(y), tol=0.02)
        return np.asarray(state.h, np.float64)

    first, second = (int(seed) for seed in rng.integers(2**31, size=2))
    here, there, other = (
        heights(jax.local_devices()[0], first),
        heights(cpu, first),
        heights(jax.local_devices()[0], second),
    )
    sampling = np.sqrt(np.mean((here - other) ** 2))
    numbers = {
        "spread_of_heights": float(here.std()),
        "sampling_error": float(sampling),
        "difference_in_sampling_errors": float(np.sqrt(np.mean((here - there) ** 2)) / sampling),
    }
    return judged(numbers, at_most={"difference_in_sampling_errors": 1.5})


def _exact_bures(a: np.ndarray, b: np.ndarray) -> float:
    values, vectors = np.linalg.eigh(a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ b @ root)
    return float(np.trace(a) + np.trace(b) - 2 * np.sqrt(np.maximum(inner, 0)).sum())


def gaussian_distances(context: Context) -> Result:
    """Bures distances of many pairs against float64 on some, of a covariance to itself, and a Frechet distance."""
    import otgen as og

    pairs, dim = context.size((4096, 64), (32, 8))
    rng = context.rng("gaussian")
    factors = rng.normal(size=(2, pairs, dim, 2 * dim)).astype(np.float32) / math.sqrt(2 * dim)
    a, b = (jnp.asarray(np.matmul(f, f.swapaxes(1, 2))) for f in factors)
    distance = jax.jit(og.gaussian.bures_sq)
    found, itself = np.asarray(distance(a, b), np.float64), np.asarray(distance(a, a))
    chosen = range(0, pairs, pairs // 8)
    exact = np.array([_exact_bures(np.asarray(a[i], np.float64), np.asarray(b[i], np.float64)) for i in chosen])
    features = rng.normal(size=(2, 4000, dim)) * rng.uniform(0.5, 2, size=(2, 1, dim)) + 10.0
    features[1] += 0.1
    features = features.astype(np.float32)
    means, covs = features.astype(np.float64).mean(1), [np.cov(part.astype(np.float64).T) for part in features]
    frechet = float(((means[0] - means[1]) ** 2).sum() + _exact_bures(*covs))
    numbers = {
        "pairs": pairs,
        "d": dim,
        "error": float(np.max(np.abs(found[chosen] - exact) / exact)),
        "self_distance": float(np.max(itself / np.trace(np.asarray(a), axis1=1, axis2=2))),
        "frechet_error": abs(float(og.gaussian.frechet_distance(*features)) - frechet) / frechet,
        "pairs_per_s": pairs / seconds_of(lambda: distance(a, b)),
    }
    return judged(numbers, at_most={"error": 2e-5, "self_distance": 1e-6, "frechet_error": 1e-4})


def latent_laws(context: Context) -> Result:
    """sqrt(n) times the Kolmogorov-Smirnov distance of matched operations from the prior; unmatched ones beside."""
    from otgen.ot import latent

    num, key = 2**16, context.key("latent")
    priors = {
        "normal": latent.Normal(),
        "uniform": latent.Uniform(),
        "cauchy": latent.Cauchy(),
        "student_t": latent.StudentT(5.0),
        "truncated": latent.TruncatedNormal(),
    }
    priors = {name: priors[name] for name in context.size(tuple(priors), ("normal", "uniform"))}
    numbers, names = {}, []
    for place, (name, prior) in enumerate(priors.items()):
        keys = jax.random.split(jax.random.fold_in(key, place), 4)
        a, b, c = (prior.sample(k, (num,)) for k in keys[:3])
        found = {
            "lerp": latent.lerp(0.3, a, b, prior),
            "analogy": latent.analogy(a, b, c, prior),
            "vicinity": latent.vicinity(keys[3], a, 0.5, prior),
        }
        for operation, z in found.items():
            names.append(f"{name}_{operation}")
            numbers[names[-1]] = _ks(prior, z)
        if name != "cauchy":  # a mean of two is Cauchy again
            numbers[f"{name}_raw_lerp"] = _ks(prior, latent.raw((0.7, 0.3), (a, b)))
    return judged(numbers, at_most=dict.fromkeys(names, KS), at_least={"normal_raw_lerp": KS})


def _ks(prior: Any, z: jax.Array) -> float:
    levels = np.sort(np.asarray(prior.cdf(z), np.float64))
    steps = np.arange(len(levels) + 1) / len(levels)
    return float(math.sqrt(len(levels)) * max(np.max(steps[1:] - levels), np.max(levels - steps[:-1])))


def images_of(rng: np.random.Generator, num: int, side: int) -> np.ndarray:
    """Draw images [num, side, side, 1], uint8: a bright spot of random place and width on black."""
    place = rng.uniform(0.3, 0.7, size=(num, 2, 1, 1)) * side
    width = rng.uniform(0.08, 0.16, size=(num, 1, 1)) * side
    row, column = np.mgrid[:side, :side]
    squares = (row - place[:, 0]) ** 2 + (column - place[:, 1]) ** 2
    return np.round(255 * np.exp(-0.5 * squares / width**2))[..., None].astype(np.uint8)


def parallel_step(context: Context) -> Result:
    """Five training steps mapped over all local devices equal those of jit on the whole batch."""
    from otgen.models import vae
    from otgen.train import mapped

    rows, count = context.size(32, 8) * jax.local_device_count(), 5
    images = images_of(context.rng("parallel"), rows, context.size(28, 8))
    key = context.key("parallel")
    module, start = vae.init(key, vae.Config(latent_dim=8, hidden=(64, 32)), images, 40)
    step = vae.make_step(module, 40)
    with jax.default_matmul_precision("highest"):
        ends, losses = [], []
        for run in (jax.jit(step), mapped(step)):
            state, history = start, []
            for _ in range(count):
                state, metrics = run(state, images, key)
                history.append(float(metrics["loss"]))
            ends.append([np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(state.params)])
            losses.append(np.array(history))
    begin = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(start.params)]

    def distance(left, right) -> float:
        return math.sqrt(sum(float(((a - b) ** 2).sum()) for a, b in zip(left, right, strict=True)))

    numbers = {
        "devices": jax.local_device_count(),
        "loss_difference": float(np.max(np.abs(losses[0] - losses[1]) / np.abs(losses[0]))),
        "parameter_difference": distance(*ends) / distance(ends[0], begin),
    }
    return judged(numbers, at_most={"loss_difference": 1e-4, "parameter_difference": 0.02})


def checkpoint(context: Context) -> Result:
    """A state on the accelerator, saved by Orbax and restored, is the same to the bit and on the same devices."""
    importlib.import_module("orbax.checkpoint")
    from otgen.models import vae
    from otgen.train import Checkpoints, mapped

    rows = 8 * jax.local_device_count()
    images, key = images_of(context.rng("checkpoint"), rows, 8), context.key("checkpoint")
    module, state = vae.init(key, vae.Config(latent_dim=4, hidden=(16,)), images, 40)
    state, _ = mapped(vae.make_step(module, 40))(state, images, key)
    with tempfile.TemporaryDirectory() as folder, Checkpoints(folder, {}) as checkpoints:
        checkpoints.save(1, state)
        restored = checkpoints.restore(state)
    pairs = list(zip(jax.tree.leaves(state), jax.tree.leaves(restored), strict=True))
    numbers = {
        "arrays": len(pairs),
        "changed": sum(not np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs),
        "elsewhere": sum(a.devices() != b.devices() for a, b in pairs),
    }
    return judged(numbers, at_most={"changed": 0, "elsewhere": 0}, at_least={"arrays": 4})


class Watch:
    """A callback that keeps metrics and times."""

    def __init__(self):
        self.seen: list[tuple[int, float, dict[str, float]]] = []

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        self.seen.append((step, time.perf_counter(), dict(metrics)))

    def of(self, name: str) -> list[float]:
        """The values of a metric."""
        return [metrics[name] for _, _, metrics in self.seen if name in metrics]

    def per_second(self, name: str = "") -> float:
        """Steps a second between the first report (of a metric, if one is named) and the last: after compilation."""
        seen = [one for one in self.seen if not name or name in one[2]]
        (first, begin, _), (last, end, _) = seen[0], seen[-1]
        return (last - first) / (end - begin)

    def change(self, name: str) -> Result:
        """The first value of a metric, its last, and their ratio."""
        values = self.of(name)
        last = statistics.mean(values[-2:])
        return {f"{name}_at_start": values[0], f"{name}_at_end": last, "ratio": last / values[0]}


def _networks(context: Context) -> Result:
    """Networks, images and steps of a smoke training."""
    return context.size(
        {"network": "conv", "width": 32, "latent_dim": 16, "batch_size": 240},
        {"network": "mlp", "hidden": (64, 32), "latent_dim": 4, "batch_size": 40},
    )


def _steps(context: Context) -> int:
    """Steps of a model of images: games of convolutions need more than 50 before their draws tell anything."""
    return context.size(150, 50)


def _images(context: Context) -> np.ndarray:
    return images_of(context.rng("images"), *context.size((2400, 28), (480, 8)))


def _mean_gap(samples: Any, images: np.ndarray) -> float:
    """Distance of the mean images, over the norm of that of the data."""
    mean = images.mean(0, dtype=np.float64) / 255
    return float(np.linalg.norm(np.asarray(samples, np.float64).mean(0) - mean) / np.linalg.norm(mean))


def train_generator(context: Context, name: str) -> Result:
    """Some steps of a model of images; the loss falls, or, of a game, the mean image comes nearer to that of the data.

    Steps are taken by the library's loop on all local devices, and images drawn from what it leaves.
    """
    from otgen.models.apply import Model, sample
    from otgen.models.settings import rows_of
    from otgen.train.loop import train_on

    model, images, num_steps = importlib.import_module(f"otgen.models.{name}"), _images(context), _steps(context)
    faster = {"critic_rate": 2e-3, "learning_rate": 3e-3} if name == "info_gan" else {}  # its own are for long runs
    config = model.Config(**_networks(context), **faster)
    keys = jax.random.split(context.key(name), 4)
    extra = {"unit": model.unit_of(images)} if name == "informative_gan" else {}
    batches = getattr(config, "dual_steps", None)
    batches = getattr(config, "critic_steps", 1) if batches is None else batches + 1
    rows = rows_of(config, len(images), batches)
    module, state = model.init(keys[0], config, images[:1], num_steps, **extra)
    game = hasattr(state, "average")

    def draws(state: Any) -> jax.Array:
        params = {"generator": state.average} if game else state.params
        return sample(keys[3], Model(module, {"params": params}), 256)

    before, watch = _mean_gap(draws(state), images), Watch()
    options = {"num_steps": num_steps, "batch_size": rows, "callback": watch, "log_every": 5}
    state = train_on((images,), model.make_step(module, num_steps), state, tuple(keys[1:3]), **options)
    after = draws(state)
    numbers = {
        "steps": num_steps,
        "images_per_s": rows * watch.per_second(),
        "mean_image_at_start": before,
        "mean_image_at_end": _mean_gap(after, images),
        "finite": float(jnp.isfinite(after).all()),
    }
    numbers |= {"ratio": numbers["mean_image_at_end"] / before} if game else watch.change("loss")
    return judged(numbers, at_most={"ratio": 0.9}, at_least={"finite": 1})


@functools.lru_cache(maxsize=1)
def _trained_ae_ot(context: Context) -> tuple[Any, Watch, float]:
    """AE-OT on the images: the model, what its training reported, and seconds of the transport."""
    from otgen.models import ae_ot

    images, watch = _images(context), Watch()
    fields = _networks(context)
    config = ae_ot.Config(**fields, epochs=50 * fields["batch_size"] / len(images))
    first, second = jax.random.split(context.key("ae_ot"))
    module, params = ae_ot.train_autoencoder(first, images, config, callback=watch, log_every=5)
    begin = time.perf_counter()
    variables, info = ae_ot.solve(second, module, params, images)
    return ae_ot.Model(module, variables, None, info), watch, time.perf_counter() - begin


def train_ae_ot(context: Context) -> Result:
    """The autoencoder's loss falls, the transport of its codes converges, and images can be drawn."""
    from otgen.models import ae_ot

    model, watch, seconds = _trained_ae_ot(context)
    draws = ae_ot.sample(context.key("draws"), model, 256)
    numbers = {
        "images_per_s": _networks(context)["batch_size"] * watch.per_second(),
        **watch.change("loss"),
        "transport_seconds_with_compilation": seconds,
        "transport_status": int(model.info.status),
        "transport_chi2": float(model.info.chi2),
        "mean_image": _mean_gap(draws, _images(context)),
        "finite": float(jnp.isfinite(draws).all()),
    }
    return judged(numbers, at_most={"ratio": 0.9, "transport_status": 0}, at_least={"finite": 1})


def train_ae_ot_gan(context: Context) -> Result:
    """The last stage of an AE-OT-GAN: its pixel error on known codes falls, and images can be drawn."""
    from otgen.models import ae_ot_gan

    base, images, watch = _trained_ae_ot(context)[0], _images(context), Watch()
    rows = _networks(context)["batch_size"]
    options = {"batch_size": rows, "epochs": 100 * rows / len(images), "warmup": 10, "average": 0.9}
    options |= {"learning_rate": 1e-3, "content_weight": 2.0}  # quick to show on the pixels, in so few steps
    model = ae_ot_gan.refine(context.key("gan"), base, images, callback=watch, log_every=5, **options)
    draws = ae_ot_gan.sample(context.key("draws"), model, 256)
    numbers = {
        "images_per_s": rows * watch.per_second("mse"),
        **watch.change("mse"),
        "mean_image": _mean_gap(draws, images),
        "finite": float(jnp.isfinite(draws).all()),
    }
    return judged(numbers, at_most={"ratio": 1.0, "mean_image": 1.0}, at_least={"finite": 1})


def train_latent_ot(context: Context) -> Result:
    """Latent-space OT by c-transforms: the autoencoder's loss falls, the map trains, and images can be drawn."""
    from otgen.models import latent_ot

    images, watch, of_map = _images(context), Watch(), Watch()
    fields = _networks(context)
    options = {"num_steps": 50, "batch_size": fields["batch_size"], "updates_per_call": 1, "hidden": (64, 64)}
    config = latent_ot.Config(**fields, epochs=50 * fields["batch_size"] / len(images), solver_options=options)
    first, second = jax.random.split(context.key("latent_ot"))
    params = latent_ot.train_autoencoder(first, images, config, callback=watch, log_every=5)
    model = latent_ot.solve(second, params, images, config, callback=of_map)
    draws = latent_ot.sample(context.key("draws"), model, 256)
    numbers = {
        "images_per_s": fields["batch_size"] * watch.per_second(),
        **watch.change("loss"),
        "map_updates_per_s": of_map.per_second(),
        "map_objective": of_map.of("objective")[-1],
        "mean_image": _mean_gap(draws, images),
        "finite": float(jnp.isfinite(draws).all()),
    }
    return judged(numbers, at_most={"ratio": 0.9}, at_least={"finite": 1})


def _codes(context: Context) -> np.ndarray:
    """Codes [N, 8] in four clusters, standardised."""
    rng, num = context.rng("codes"), context.size(4096, 512)
    codes = 2 * rng.normal(size=(4, 8))[rng.integers(0, 4, num)] + rng.normal(size=(num, 8))
    return ((codes - codes.mean(0)) / codes.std(0)).astype(np.float32)


def train_map(context: Context, solver: str) -> Result:
    """Some updates of a learned map to codes; what it sends has their second moments about right."""
    from otgen.models import neural_map

    codes, watch, count = _codes(context), Watch(), 50
    rows = context.size(512, 64)
    fields = {"num_steps": count, "batch_size": rows, "updates_per_call": 1, "hidden": (64, 64)}
    found = neural_map.fit(context.key(solver), None, codes, solver=solver, callback=watch, **fields)
    draws = neural_map.sample(context.key("draws"), found, 2048)
    exact, cov = np.cov(codes.T), np.cov(np.asarray(draws, np.float64).T)
    numbers = {
        "updates": count,
        "codes_per_s": rows * watch.per_second(),
        **{f"{name}_at_end": value for name, value in watch.seen[-1][2].items()},
        "covariance_error": norm_error(cov, exact),
        "finite": float(jnp.isfinite(draws).all()),
    }
    return judged(numbers, at_most={"covariance_error": 1.0}, at_least={"finite": 1})


def train_flow(context: Context) -> Result:
    """Some steps of the flow to codes, paired at random and by a plan; the loss falls, and codes can be drawn."""
    from otgen.models import latent_flow
    from otgen.train.loop import train_on

    codes, count, rows = _codes(context), 100, context.size(512, 256)
    numbers: Result = {"steps": count}
    for pairing in latent_flow.PAIRINGS:
        network = {"width": context.size(256, 64), "learning_rate": 3e-3}
        config = latent_flow.Config(pairing=pairing, num_steps=count, batch_size=rows, **network)
        keys, watch = jax.random.split(context.key(pairing), 4), Watch()
        module, state = latent_flow.init(keys[0], config, codes.shape[1])
        options = {"num_steps": count, "batch_size": rows, "callback": watch, "log_every": 5}
        state = train_on((codes,), latent_flow.make_step(module, config), state, tuple(keys[1:3]), **options)
        draws = latent_flow.sample(keys[3], latent_flow.Flow(module, state.average, config), 512)
        found = {**watch.change("loss"), "codes_per_s": rows * watch.per_second()}
        numbers |= {f"{pairing}_{name}": value for name, value in found.items()}
        numbers[f"{pairing}_finite"] = float(jnp.isfinite(draws).all())
    return judged(
        numbers,
        at_most={f"{pairing}_ratio": 0.95 for pairing in latent_flow.PAIRINGS},
        at_least={f"{pairing}_finite": 1 for pairing in latent_flow.PAIRINGS},
    )


def train_bures_linear(context: Context) -> Result:
    """The linear generator reaches the minimum known in closed form."""
    from otgen.models import bures_linear

    images, watch = _images(context), Watch()
    begin = time.perf_counter()
    model = bures_linear.fit(context.key("bures_linear"), images, rank=context.size(20, 5), callback=watch)
    numbers = {
        "seconds_with_compilation": time.perf_counter() - begin,
        "steps": int(model.info.num_steps),
        "loss": float(model.info.loss),
        "minimum": float(model.info.minimum),
        "error": float(model.info.error),
        "status": int(model.info.status),
        "mean_image": _mean_gap(bures_linear.sample(context.key("draws"), model, 4096), images),
    }
    return judged(numbers, at_most={"status": 0, "error": 1e-4, "mean_image": 0.2})


SPECIAL = {
    "ae_ot": train_ae_ot,
    "ae_ot_gan": train_ae_ot_gan,
    "latent_ot": train_latent_ot,
    "latent_flow": train_flow,
    "bures_linear": train_bures_linear,
    "neural_map.lp": functools.partial(train_map, solver="lp"),
    "neural_map.icnn": functools.partial(train_map, solver="icnn"),
}

CHECKS: dict[str, Callable[[Context], Result]] = {
    "semidiscrete.million": semidiscrete_million,  # first, see there
    "ceilings": ceilings,
    "kernel.values": kernel_values,
    "kernel.gradients": kernel_gradients,
    "kernel.speed": kernel_speed,
    "trap.distances": trap_distances,
    "trap.scores": trap_scores,
    "trap.sinkhorn": trap_sinkhorn,
    "semidiscrete.rate": semidiscrete_rate,
    "semidiscrete.truth": semidiscrete_truth,
    "semidiscrete.devices": semidiscrete_devices,
    "sinkhorn.solution": sinkhorn_solution,
    "gaussian": gaussian_distances,
    "latent": latent_laws,
    "parallel": parallel_step,
    "checkpoint": checkpoint,
    **{f"train.{name}": SPECIAL.get(name, functools.partial(train_generator, name=name)) for name in MODELS},
    "sinkhorn.rates": sinkhorn_rates,  # last: it takes the most memory
}
