"""Whether latents follow their prior: coordinates, norms, support, and the memory of walks."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from otgen.ot.check import as_array
from otgen.ot.latent.priors import Prior, as_prior
from otgen.types import Array

_REFERENCE = 100_000  # prior draws that stand in for a law without a distribution function


class Diagnosis(NamedTuple):
    """How latents compare with a prior. Tests are over the n latents, for each of the d coordinates.

    Attributes:
      ks, ks_p: Kolmogorov-Smirnov distance of every coordinate from the prior, and its p-value [d].
      cvm, cvm_p: Cramer-von Mises statistic of every coordinate, and its p-value [d].
      norm_ks, norm_p: two-sample distance of the norms from those of prior draws, and its p-value.
      norm: mean and standard deviation of the norms, of the latents and of prior draws (4 numbers).
      outside: share of coordinates outside a bounded support.
      autocorrelation: correlation of coordinates from one step to the next, for walks; None otherwise.
      num: latents tested.

    Example:
      >>> z = jax.random.normal(jax.random.key(0), (100, 3))
      >>> found = og.eval.diagnose(z, og.latent.Normal())
      >>> print(found.num, found.ks_p.shape, found.outside)
      100 (3,) 0.0
    """

    ks: np.ndarray
    ks_p: np.ndarray
    cvm: np.ndarray
    cvm_p: np.ndarray
    norm_ks: float
    norm_p: float
    norm: tuple[float, float, float, float]
    outside: float
    autocorrelation: float | None
    num: int

    def ok(self, level: float = 0.001) -> bool:
        """Return whether no test rejects at a level, coordinates taken together by Bonferroni."""
        least = min(self.ks_p.min(), self.cvm_p.min()) * len(self.ks)
        return bool(least > level and self.norm_p > level and self.outside == 0)

    def __str__(self) -> str:
        worst = int(np.argmax(self.ks))
        mean, sd, prior_mean, prior_sd = self.norm
        lines = [
            f"{self.num} latents of {len(self.ks)} coordinates: {'follow' if self.ok() else 'DO NOT follow'} the prior",
            f"  coordinates: KS mean {self.ks.mean():.4f}, largest {self.ks[worst]:.4f} (coordinate {worst}, "
            f"p = {self.ks_p[worst]:.2g}); Cramer-von Mises smallest p = {self.cvm_p.min():.2g}",
            f"  norms: {mean:.4g} +- {sd:.3g}, prior {prior_mean:.4g} +- {prior_sd:.3g}; "
            f"KS {self.norm_ks:.4f}, p = {self.norm_p:.2g}",
            f"  outside the support: {100 * self.outside:.3g} % of the coordinates",
        ]
        if self.autocorrelation is not None:
            half_life = math.log(0.5) / math.log(self.autocorrelation) if 0 < self.autocorrelation < 1 else math.nan
            lines.append(f"  walk: autocorrelation {self.autocorrelation:.4f} a step, half-life {half_life:.3g} steps")
        return "\n".join(lines)


def diagnose(z: Array, prior: Prior, *, path: bool = False) -> Diagnosis:
    """Test whether latents follow a prior: draws, results of operations, or latents inverted from images.

    Args:
      z: latents [n, ...]; for walks [steps, n, ...], of which the last step is tested.
      prior: the law they should follow.
      path: whether the first axis of z is time.

    Returns:
      Diagnosis; print it for a report, and `plot.diagnosis` draws it.

    Raises:
      ValueError: for fewer than 8 latents, NaN or infinite ones, or another shape than that of the prior's parameters.

    Example:
      >>> z0, z1 = jax.random.normal(jax.random.key(0), (2, 200, 16))
      >>> print(og.eval.diagnose(og.latent.lerp(0.5, z0, z1), og.latent.Normal()).norm_p > 0.01)
      True
      >>> print(og.eval.diagnose(0.5 * (z0 + z1), og.latent.Normal()).norm_p < 1e-6)  # means are too short
      True
    """
    z = as_array("z", z).astype(jnp.result_type(float))
    if z.ndim < 1 + path or z.shape[int(path)] < 8 or not z.size:
        raise ValueError(f"z has shape {z.shape}: at least 8 latents are needed to test a law.")
    as_prior(prior)
    last = z[-1] if path else z
    shape = last.shape if last.ndim > 1 else (*last.shape, 1)
    last = last.reshape(shape)
    fresh = prior.sample(jax.random.key(11), (_reference_size(shape), *shape[1:]))
    columns = np.asarray(last.reshape(shape[0], -1), np.float64)
    tests = [_of_column(column, i, fresh, prior) for i, column in enumerate(columns.T)]
    ks, ks_p, cvm, cvm_p = (np.array(values) for values in zip(*tests, strict=True))
    norms = [np.linalg.norm(np.asarray(rows, np.float64).reshape(len(rows), -1), axis=1) for rows in (last, fresh)]
    norm_test = stats.ks_2samp(*norms)
    # Laws on a sphere have one norm, which rounding alone tells apart.
    constant = np.ptp(norms[1]) < 1e-4 * norms[1].mean()
    if constant:
        gap = float(np.abs(norms[0] / norms[1].mean() - 1).max())
        norm_ks, norm_p = gap, float(gap < 1e-3)
    else:
        norm_ks, norm_p = float(norm_test.statistic), float(norm_test.pvalue)
    support = prior.support
    outside = 0.0 if support is None else float(((columns < support[0]) | (columns > support[1])).mean())
    spread = (norms[0].mean(), norms[0].std(), norms[1].mean(), norms[1].std())
    memory = _autocorrelation(np.asarray(z, np.float64)) if path else None
    return Diagnosis(ks, ks_p, cvm, cvm_p, norm_ks, norm_p, tuple(map(float, spread)), outside, memory, shape[0])


def _reference_size(shape: tuple[int, ...]) -> int:
    """Prior draws to compare with: many, but no more than some hundred megabytes."""
    return int(min(_REFERENCE, max(1000, 3e7 // max(1, math.prod(shape[1:])))))


def _of_column(column: np.ndarray, i: int, fresh: Array, prior: Any) -> tuple[float, float, float, float]:
    """KS and Cramer-von Mises tests of one coordinate."""
    if hasattr(prior, "cdf") and all(jnp.ndim(leaf) == 0 for leaf in jax.tree.leaves(prior)):
        level = np.clip(np.asarray(prior.cdf(jnp.asarray(column)), np.float64), 0, 1)
        ks, cvm = stats.kstest(level, "uniform"), stats.cramervonmises(level, "uniform")
    else:  # laws of vectors, or with parameters of their own for every coordinate
        other = np.asarray(fresh).reshape(len(fresh), -1)[:, i]
        ks, cvm = stats.ks_2samp(column, other), stats.cramervonmises_2samp(column, other, method="asymptotic")
    return float(ks.statistic), float(ks.pvalue), float(cvm.statistic), float(cvm.pvalue)


def _autocorrelation(path: np.ndarray) -> float:
    """Return the correlation of all coordinates at one step with the next."""
    centred = path - path.mean()
    return float((centred[1:] * centred[:-1]).mean() / (centred**2).mean())
