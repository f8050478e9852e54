"""Bures distances and Frechet distances against POT, OTT-JAX and SciPy: seconds, and errors against float64.

    python -m experiments.bench.gaussian          # minutes on two cores; writes benchmarks/gaussian.json

1. Pairs of covariances, `pairs` at d: one jitted call of otgen in float64 and in float32, its gradient, a loop over
   POT's `bures_distance` in float64 and float32, OTT-JAX's Gaussians under vmap. Errors are relative, against POT in
   float64 and, where it is the one judged, against singular values of Cholesky factors in float64 (NumPy).
2. Distances of covariances to themselves, which are zero, in float32 and float64 for growing condition numbers.
3. The Frechet distance of two feature sets: otgen on the features, SciPy's `sqrtm` of the covariances (what FID codes
   run), OTT-JAX's square root.

Medians over the repeats, after warm-up, in one process; the peers' calls are given the same arrays.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import ot
import scipy
from ott.math import matrix_square_root
from ott.tools.gaussian_mixture import gaussian as ott_gaussian

import otgen as og
from experiments.lab import command
from experiments.lab.machine import record, repeated, store


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    pairs: int = 4096
    """Pairs of Gaussians."""
    dim: int = 64
    """Their dimension."""
    condition: tuple[float, ...] = (1e2, 1e4, 1e6)
    """Condition numbers of their covariances."""
    features: int = 5000
    """Features behind the Frechet distance."""
    feature_dim: int = 768
    """Their dimension."""
    repeats: int = 3
    """Timed calls of which the median is written."""
    seed: int = 0
    """Of the problems."""
    out: str = "benchmarks/gaussian.json"
    """JSON file that is written."""

    @classmethod
    def smoke(cls, **changes: Any) -> Config:
        """Return a run of seconds, for tests."""
        small = {"pairs": 16, "dim": 8, "features": 60, "feature_dim": 12, "repeats": 1, "condition": (1e2,)}
        return cls(**{**small, **changes})


def timed(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Return the median seconds of a call and its result; a first call warms up."""
    times, result = repeated(work, repeats, pause=0.2)
    return statistics.median(times), result


def covariances(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Return two batches of Wishart matrices of 2 d samples, float64."""
    random = np.random.default_rng(config.seed)
    x = random.normal(size=(2, config.pairs, config.dim, 2 * config.dim))
    return tuple(np.einsum("kij,klj->kil", part, part) / (2 * config.dim) for part in x)


def ott_value(a: jax.Array, b: jax.Array) -> jax.Array:
    """OTT-JAX's squared distance of centred Gaussians."""
    zero = jnp.zeros(a.shape[-1], a.dtype)
    one, other = (ott_gaussian.Gaussian.from_mean_and_cov(zero, cov) for cov in (a, b))
    return one.w2_dist(other)


def pairs(config: Config) -> dict[str, dict[str, float]]:
    """Return seconds for all pairs, and the largest relative error."""
    a, b = covariances(config)
    factors = np.linalg.cholesky(np.stack([a, b]))
    overlap = np.linalg.svd(np.swapaxes(factors[0], -1, -2) @ factors[1], compute_uv=False).sum(-1)
    truth = np.trace(a, axis1=1, axis2=2) + np.trace(b, axis1=1, axis2=2) - 2 * overlap
    rows: dict[str, dict[str, float]] = {}

    def add(name: str, work: Callable[[], Any], values: bool = True) -> None:
        seconds, result = timed(work, config.repeats)
        rows[name] = {"seconds": seconds}
        if values:
            rows[name]["error"] = float(np.max(np.abs(np.asarray(result, np.float64) - truth) / truth))
        print(name, rows[name], flush=True)

    value = jax.jit(og.gaussian.bures_sq)
    slope = jax.jit(jax.grad(lambda a, b: og.gaussian.bures_sq(a, b).sum(), (0, 1)))
    peer = jax.jit(jax.vmap(ott_value))
    for dtype in (np.float64, np.float32):
        with jax.enable_x64(dtype is np.float64):
            x, y = a.astype(dtype), b.astype(dtype)
            jx, jy = jnp.asarray(x), jnp.asarray(y)
            name = np.dtype(dtype).name
            add(f"otgen {name}", lambda jx=jx, jy=jy: value(jx, jy))
            add(f"otgen {name}, both gradients", lambda jx=jx, jy=jy: slope(jx, jy), values=False)
            loop = lambda x=x, y=y: np.array([ot.gaussian.bures_distance(*of) ** 2 for of in zip(x, y, strict=True)])  # noqa: E731
            add(f"POT loop {name}", loop)
            add(f"ott-jax {name}", lambda jx=jx, jy=jy: peer(jx, jy))
    return rows


def selves(config: Config) -> dict[str, dict[str, float]]:
    """Return distances of a covariance to itself over its trace, by condition number."""
    table: dict[str, dict[str, float]] = {}
    basis = np.linalg.qr(np.random.default_rng(config.seed).normal(size=(config.dim, config.dim)))[0]
    for condition in config.condition:
        a = (basis * np.logspace(0, -np.log10(condition), config.dim)) @ basis.T
        a = 0.5 * (a + a.T)
        row = {}
        for dtype in (np.float64, np.float32):
            with jax.enable_x64(dtype is np.float64):
                x, name = a.astype(dtype), np.dtype(dtype).name
                row[f"otgen {name}"] = float(og.gaussian.bures_sq(x, x))
                row[f"POT {name}"] = float(ot.gaussian.bures_distance(x, x) ** 2)
                row[f"ott-jax {name}"] = float(ott_value(jnp.asarray(x), jnp.asarray(x)))
        table[f"{condition:g}"] = {name: abs(value) / float(np.trace(a)) for name, value in row.items()}
    return table


def frechet(config: Config) -> dict[str, dict[str, float]]:
    """Return seconds and relative errors of the Frechet distance between two sets of features, float64."""
    random = np.random.default_rng(config.seed + 1)
    mixing = random.normal(size=(config.feature_dim,) * 2) * np.logspace(0, -2, config.feature_dim)
    a, b = (
        random.normal(size=(config.features, config.feature_dim)) @ mixing.T * (1 + 0.1 * k) + 0.1 * k for k in (0, 1)
    )

    def by_scipy() -> float:
        cov_a, cov_b = np.cov(a.T), np.cov(b.T)
        root = scipy.linalg.sqrtm(cov_a @ cov_b).real
        return float(np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(cov_a + cov_b - 2 * root))

    def by_ott(a: jax.Array, b: jax.Array) -> jax.Array:
        cov_a, cov_b = jnp.cov(a.T), jnp.cov(b.T)
        root = matrix_square_root.sqrtm_only(cov_a)
        cross = matrix_square_root.sqrtm_only(root @ cov_b @ root)
        return jnp.sum((a.mean(0) - b.mean(0)) ** 2) + jnp.trace(cov_a + cov_b - 2 * cross)

    rows, peer = {}, jax.jit(by_ott)
    with jax.enable_x64(True):
        ja, jb = jnp.asarray(a), jnp.asarray(b)
        works = {
            "SciPy sqrtm": by_scipy,
            "otgen float64": lambda: og.gaussian.frechet_distance(ja, jb),
            "ott-jax float64": lambda: peer(ja, jb),
        }
        values = {name: timed(work, config.repeats) for name, work in works.items()}
    fa, fb = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
    values["otgen float32"] = timed(lambda: og.gaussian.frechet_distance(fa, fb), config.repeats)
    truth = values["SciPy sqrtm"][1]
    for name, (seconds, value) in values.items():
        rows[name] = {"seconds": seconds, "error": abs(float(value) - truth) / truth}
        print(name, rows[name], flush=True)
    return rows


def main(config: Config) -> dict[str, Any]:
    """Measure, write the JSON, and return it."""
    results = {
        "config": dataclasses.asdict(config),
        "pairs": pairs(config),
        "to itself, over the trace": selves(config),
        "frechet": frechet(config),
        **record("machine", "device", packages=("jax", "POT", "ott-jax", "scipy")),
    }
    found = results["pairs"]
    results["times faster than a POT loop"] = {
        name: round(found[f"POT loop {name}"]["seconds"] / found[f"otgen {name}"]["seconds"], 2)
        for name in ("float64", "float32")
    }
    store(config.out, results)
    return results


if __name__ == "__main__":
    command.cli(Config, main, __doc__, lambda config, results: json.dumps(results, indent=1))
