"""What is left of imbalance after a solve: how much each data point should count, from how often it is used.

The share of the noise that goes to data j is p_j and not nu_j, its weight: r_j = p_j / nu_j is 1 on average and has
the variance chi2. Pairs that count 1 / r_j would use all data alike. But r_j is known from n samples only, c_j of which
went to j, and where n / N is small the noise of 1 / r_j is worse than the imbalance. Take r_j for a draw of a gamma law
of mean 1 and variance chi2, and c_j for one of a Poisson law of mean n nu_j r_j. Given c_j, r_j has a gamma law of
shape a = 1 / chi2 + c_j and rate b = 1 / chi2 + n nu_j, and the weight w that minimises E (r_j w - 1)^2 is
E r_j / E r_j^2 = b / (a + 1). What it leaves is E (r_j w - 1)^2 = 1 / (a + 1), about 1 / (1 / chi2 + n / N): less than
the imbalance chi2 and less than the noise N / n alone, whichever is the smaller. Where chi2 is not above its standard
error, all count 1.

What this is good for. Weights make the data uniform and the noise a little other than its law, as whole cells of it
count more or less. A flow that knows the coupling exactly does not see them, because no two of its paths meet; they
move the effort of one that does not. Samples start from the unweighted law, so that "none" is the default.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from otgen.types import Array

IMBALANCE = ("none", "weight", "resample")


@jax.jit
def balancing(counts: Array, weights: Array, chi2: Array, error: Array) -> Array:
    """Return what a pair should count by the data point that it has [N], 1 on average over pairs.

    Args:
      counts: samples of each point [N].
      weights: of the points [N], summing to 1, all positive.
      chi2: of the shares of the samples from the weights, and `error`, its standard error.
    """
    rate = 1 / jnp.maximum(chi2, 1e-12)
    shape, rate = rate + counts, rate + counts.sum() * weights
    found = rate / (shape + 1) / jnp.sum(weights * shape / (shape + 1))
    return jnp.where(chi2 > error, found, 1.0)


def resampled(key: Array, weight: Array, number: Array) -> Array:
    """Return rows [B], each class as often as before, rows of a class in proportion to their weights [B].

    The draw is systematic: a row of weight w, in units of its class's mean, is taken floor(w) or ceil(w) times.
    """
    order = jnp.argsort(number)
    sorted_number, classes = number[order], jnp.arange(number.shape[0])
    first = jnp.searchsorted(sorted_number, sorted_number, side="left")
    end = jnp.searchsorted(sorted_number, sorted_number, side="right")
    total = jnp.concatenate([jnp.zeros(1), jnp.cumsum(weight[order])])
    start, share = total[first], (end - first) / (total[end] - total[first])
    passed = first + (total[1:] - start) * share  # whole numbers where a class ends
    picked = jnp.searchsorted(passed, classes + jax.random.uniform(key), side="left")
    return jnp.zeros_like(order).at[order].set(order[jnp.clip(picked, first, end - 1)])
