import jax
import jax.numpy as jnp
import pytest

import otgen as og
from otgen.types import ADVICE, Status, status_of


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (0.1, Status.CONVERGED),
        (0.2, Status.MAX_STEPS),
        (0.3, Status.MAX_STEPS),
        (jnp.nan, Status.NONFINITE),
        (jnp.inf, Status.NONFINITE),
    ],
)
def test_converged_means_strictly_below_tol(error, expected):
    assert int(status_of(jnp.float32(error), jnp.float32(0.2))) == expected


def test_every_status_has_advice():
    assert set(ADVICE) == set(Status)
    assert og.explain(0).startswith("CONVERGED")
    assert "NaN" in og.explain(2)


def test_parts_load_when_named():
    assert og.models.ae_ot.Config().latent_dim == 16
    with pytest.raises(AttributeError, match="no attribute 'sinkhorm'"):
        _ = og.sinkhorm


def test_structures_of_different_classes_differ():
    """A jitted function must never take one cost, kernel or prior for another, whatever their hashes are."""
    from otgen.eval import kernel
    from otgen.ot import latent
    from otgen.ot.costs import distances

    alike = [
        [distances.SqEuclidean(), distances.Euclidean(), distances.Cosine(), kernel.Cubic(), kernel.Energy()],
        [kernel.Gaussian(1.0), distances.Scaled(jnp.ones(2))],
        [latent.Normal(), latent.Uniform(), latent.Cauchy()],
    ]
    for group in alike:
        structures = [jax.tree.structure(it) for it in group]
        for i, one in enumerate(structures):
            assert [one == other for other in structures] == [i == j for j in range(len(structures))]
            assert type(jax.tree.unflatten(one, jax.tree.leaves(group[i]))) is type(group[i])
