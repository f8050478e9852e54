"""Laws fitted to the codes of an autoencoder: a Gaussian, a mixture of Gaussians, the extended transport map.

Decoding their draws makes a generative model. A flow as such a law is `models.flow`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from otgen import optional
from otgen.ot import semidiscrete
from otgen.ot.check import as_array, as_count, as_key, as_points, require_kind
from otgen.ot.gaussian import moments
from otgen.ot.gaussian.mixture import Mixture
from otgen.ot.semidiscrete.extension import Extension
from otgen.ot.semidiscrete.source import uniform_cube
from otgen.progress import watched
from otgen.train.loop import check_readers
from otgen.train.stages import opened
from otgen.types import Array, Callback, Key


def gaussian(codes: Any) -> Mixture:
    """Return the Gaussian with the mean and covariance of codes [N, d], a mixture of one component.

    Example:
      >>> codes = jax.random.normal(jax.random.key(0), (5000, 2)) + 4
      >>> law = og.models.latent_law.gaussian(codes)
      >>> print(law.weights, jnp.abs(law.means - 4).max() < 0.1)
      [1.] True
    """
    codes = as_points("codes", codes)
    known = moments(codes)
    return Mixture(jnp.ones(1, codes.dtype), known.mean[None], known.covariance()[None])


def mixture(
    seed: int, codes: Any, components: int | Sequence[int] = (50, 200), *, most: int = 60_000
) -> tuple[Mixture, dict[int, float]]:
    """Return a mixture of Gaussians of full covariance fitted to codes by expectation maximisation.

    Args:
      seed: of the start of the fit and the choice of rows.
      codes: [N, d].
      components: how many; of several numbers (those above 80 % of the codes left out) the one whose mixture, fitted
        to 80 % of the codes, gives the others the highest likelihood.
      most: rows used.

    Returns:
      The mixture, and the held-out log-likelihood per code of every number tried (empty for one number).

    Raises:
      ValueError: for codes that are not [N, d] and finite, or if every number of components is above 80 % of them.

    Example:
      >>> codes = jax.random.normal(jax.random.key(0), (400, 2)) + 8.0 * (jnp.arange(400) % 2)[:, None]
      >>> law, scores = og.models.latent_law.mixture(0, codes, (1, 2))
      >>> print(len(law.weights), scores[2] > scores[1])  # two clusters
      2 True
    """
    with optional.imports():
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

    seed, most = as_count("seed", seed, 0), as_count("most", most, 2)
    tried = [as_count("components", k) for k in np.atleast_1d(components).tolist()]
    codes = np.asarray(as_points("codes", codes))
    rows = np.random.default_rng(seed).permutation(len(codes))[:most]
    codes = np.asarray(codes, np.float64)[rows]
    tried = [k for k in tried if k <= 0.8 * len(codes)]
    if not tried:
        raise ValueError(f"components = {components} for {len(codes)} codes: give fewer.")

    def fitted(k: int, part: np.ndarray) -> Any:
        known = {"max_iter": 40, "tol": 1e-3, "reg_covar": 1e-4, "random_state": seed, "init_params": "k-means++"}
        with warnings.catch_warnings():  # the limit of iterations is meant
            warnings.simplefilter("ignore", ConvergenceWarning)
            return GaussianMixture(k, **known).fit(part)

    scores = {}
    if len(tried) > 1:
        border = len(codes) * 4 // 5
        scores = {k: float(fitted(k, codes[:border]).score(codes[border:])) for k in tried}
        tried = [max(scores, key=scores.get)]
    best = fitted(tried[0], codes)
    return Mixture(
        *(jnp.asarray(part, jnp.float32) for part in (best.weights_, best.means_, best.covariances_))
    ), scores


@watched
def transport(
    key: Key,
    codes: Array,
    *,
    tol: float = 0.05,
    max_samples: int | None = None,
    callback: Callback | None = None,
    checkpoints: Any = None,
) -> tuple[semidiscrete.Map, semidiscrete.Info]:
    """Solve the transport from uniform noise to codes, going on from the newest checkpoint if any, and extend it.

    Args:
      key: random key.
      codes: [N, d], best standardised.
      tol: chi2 divergence of the cell masses to reach.
      max_samples: limit of the training samples; None for the solver's.
      callback: called with the solver's steps and metrics.
      checkpoints: a folder, or `train.Checkpoints`, where the solver's state is saved once a minute.

    Returns:
      The extended Map from the uniform law on a cube to the codes, and the solver's Info.

    Raises:
      ValueError: if the codes are not finite or all coincide.

    Example:
      >>> codes = jax.random.normal(jax.random.key(0), (32, 2))
      >>> law, info = og.models.latent_law.transport(jax.random.key(1), codes, tol=0.5)
      >>> print(info.status == og.Status.CONVERGED, law.sample(jax.random.key(2), 5).shape)
      True (5, 2)
    """
    check_readers(callback, checkpoints)
    codes = as_points("codes", codes)
    solve_key, extend_key = jax.random.split(as_key(key))
    told = {"tol": tol, "max_samples": max_samples, "key": key, "codes": codes}
    with opened(checkpoints, "transport", **told) as saved:
        found, info = semidiscrete.run(
            solve_key,
            codes,
            tol=tol,
            max_samples=max_samples,
            state=None if saved is None else saved.restore(semidiscrete.from_heights(codes[:, 0])),
            callback=callback,
            save=None if saved is None else saved.save,
        )
    return found.extended(extend_key), info


def map_to(codes: Array, h: Array, extension: Extension) -> semidiscrete.Map:
    """Return the extended map from the uniform law on a cube to codes [N, d], equally likely, from its heights [N].

    Version 0.1 saved such maps by these three.

    Raises:
      ValueError: for codes or heights of another shape or not finite, or what is no Extension.

    Example:
      >>> codes, ext = jnp.array([[-1.0], [1.0]]), og.extension.Extension(jnp.array([[-0.25], [0.25]]), jnp.float32(0))
      >>> print(og.models.latent_law.map_to(codes, jnp.zeros(2), ext)(jnp.array([[0.3], [-0.1]])))
      [[ 1.]
       [-1.]]
    """
    codes = as_points("codes", codes)
    h = as_array("h, one height per code,", h, codes.shape[:1])
    require_kind("extension", extension, Extension)
    weights = jnp.full(len(codes), 1 / len(codes), codes.dtype)
    return semidiscrete.Map(codes, semidiscrete.from_heights(h).h, weights, uniform_cube, extension)
