"""The gradient of the Sinkhorn divergence of batches against that of their laws, and the work of its own terms.

    python -m experiments.bench.divergence            # 3 minutes of one core; writes benchmarks/divergence.json

Gradients: a generator x = s z of one parameter, z and the target standard normal in the plane, |x - y|^2. Between these
laws the divergence and its gradient in s have a closed form. Batches of x and y have the same size; the mean gradient
of many, less the closed form, is the bias, given with its standard error. With one batch on both sides of the term
W(x, x), it is large and shrinks s; masked it is a third of that; with a second batch it is zero at s = 1, where the
laws are equal. `rest` is the variance at which training ends, where a line through both mean gradients is zero.

Own terms: W(x, x) of normal points by one potential and by the general solver, at a marginal error of 1e-4; medians.
"""

from __future__ import annotations

import dataclasses
import statistics
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import otgen as og
from experiments.lab import command
from experiments.lab.machine import clock, record, store
from otgen.ot.sinkhorn.solver import own_value
from otgen.types import Array, Key

FORMS = ("same batch", "masked", "second batch")
SCALES = (1.0, 0.7)
DIM = 2


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    batches: tuple[int, ...] = (32, 64, 128, 256)
    """Sizes of a batch."""
    points: int = 128_000
    """Drawn at each size, in as many batches as they make, but at most 4000."""
    shares: tuple[float, ...] = (0.05, 0.5)
    """Temperatures over the mean cost of two data."""
    sizes: tuple[int, ...] = (256, 1024)
    """Points of the clouds of the own terms."""
    dims: tuple[int, ...] = (2, 32)
    """Dimensions of these clouds."""
    repeats: int = 31
    """Timed calls of which the median is written."""
    seed: int = 0
    """Of the problems."""
    out: str = "benchmarks/divergence.json"
    """JSON file that is written."""

    @classmethod
    def smoke(cls, **changes: Any) -> Config:
        """Return a run of seconds, for tests."""
        return cls(
            **{"batches": (16,), "points": 640, "shares": (0.5,), "sizes": (64,), "dims": (2,), "repeats": 3, **changes}
        )


def between_laws(scale: Array, epsilon: Array) -> Array:
    """Return the divergence of N(0, scale^2 I) from N(0, I) in the plane."""
    x, y = scale**2 * jnp.eye(DIM), jnp.eye(DIM)
    both, own, other = (og.gaussian.entropic_bures_sq(*pair, epsilon=epsilon) for pair in ((x, y), (x, x), (y, y)))
    return both - 0.5 * (own + other)


@partial(jax.jit, static_argnames=("form", "size", "num"))
def gradients(key: Key, scale: Array, epsilon: Array, *, form: str, size: int, num: int) -> Array:
    """Return the gradients in the scale [num] of the divergence of batches."""

    def one(key: Key) -> Array:
        z, other, y = jax.random.normal(key, (3, size, DIM))

        def value(scale: Array) -> Array:
            how = {"masked": {"diagonal": "mask"}, "second batch": {"x_other": scale * other}}.get(form, {})
            return og.sinkhorn_divergence(scale * z, y, epsilon=epsilon, **how)

        return jax.grad(value)(scale)

    return jax.lax.map(one, jax.random.split(key, num))


def biases(share: float, config: Config) -> list[dict[str, Any]]:
    """Return, of every form and size, the bias at both scales and the variance at which training comes to rest."""
    epsilon, rows = share * 2 * DIM, []
    exact = [float(jax.grad(between_laws)(scale, epsilon)) for scale in SCALES]
    for form in FORMS:
        for size in config.batches:
            num, key = min(4000, config.points // size), jax.random.fold_in(jax.random.key(config.seed), size)
            found = [np.asarray(gradients(key, it, epsilon, form=form, size=size, num=num)) for it in SCALES]
            (one, low), (top, bottom) = [it.mean() for it in found], SCALES
            rest = top - (top - bottom) * one / (one - low)
            row = {"share": share, "form": form, "batch": size, "draws": num, "rest": round(float(rest**2), 3)}
            for scale, values, truth in zip(SCALES, found, exact, strict=True):
                error = values.std() / num**0.5
                row[f"bias at {scale:g}"] = [round(float(values.mean() - truth), 4), round(float(error), 4)]
            print(row, flush=True)
            rows.append(row)
    return rows


def own_terms(num: int, dim: int, share: float, config: Config) -> dict[str, Any]:
    """Return products with the kernel and milliseconds of both solvers for W(x, x)."""
    x = jax.random.normal(jax.random.key(config.seed), (num, dim))
    cost = og.PairwiseCost(x, x)
    options = {"epsilon": share * float(cost.mean()), "tol": 1e-4, "max_steps": 2000, "dense": None}
    solvers = {"general": partial(og.sinkhorn.value, cost), "one potential": partial(own_value, cost, state=None)}
    works = {name: partial(solver, **options, return_info=True) for name, solver in solvers.items()}
    infos = {name: clock(work)[1][1] for name, work in works.items()}
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(config.repeats):  # in turn, so that a busy machine slows both
        for name, work in works.items():
            times[name].append(1e3 * clock(work)[0])
    row: dict[str, Any] = {"n": num, "d": dim, "share": share}
    for name, info in infos.items():
        told = {"steps": int(info.num_steps), "error": float(info.error)}
        row[name] = {**told, "milliseconds": round(statistics.median(times[name]), 2)}
    print(row, flush=True)
    return row


def main(config: Config) -> dict[str, Any]:
    """Measure, write the JSON, and return it."""
    results = {
        **record("device", "machine", "jax", "date"),
        "exact at 0.7": {
            f"{share:g}": round(float(jax.grad(between_laws)(SCALES[1], share * 2 * DIM)), 4) for share in config.shares
        },
        "gradients": [row for share in config.shares for row in biases(share, config)],
        "own_terms": [
            own_terms(num, dim, share, config) for num in config.sizes for dim in config.dims for share in (0.05, 0.01)
        ],
    }
    store(config.out, results)
    return results


if __name__ == "__main__":
    command.cli(Config, main, __doc__, lambda config, results: f"written to {config.out}" if config.out else "")
