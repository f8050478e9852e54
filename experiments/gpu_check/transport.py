"""Checks of Sinkhorn and of the semi-discrete solver, of Gaussians, and of the laws of latents."""

from __future__ import annotations

import functools
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.gpu_check.base import GIB, Context, Result, Skipped, judged, memory, seconds_of

KS = 2.6  # sqrt(n) times the Kolmogorov-Smirnov distance: exceeded by a right law with probability 3e-6


def sinkhorn_solution(context: Context) -> Result:
    """A run reaches tol = 1e-3 at epsilon = .05 of the mean cost, and its error in float64 agrees."""
    import otgen as og
    from experiments.bench.sinkhorn import marginal_error, points, sq_distances

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
    from experiments.bench.sinkhorn import points

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
