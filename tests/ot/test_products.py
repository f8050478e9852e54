"""Products at the highest precision, and what those of default precision would cost on an accelerator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otgen as og
from otgen.ot.gaussian import maps
from otgen.ot.products import contract, product
from tests.support.rounding import round_products

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(2, 40, 8)).astype(np.float32)


@pytest.fixture
def rounded(monkeypatch):
    """Rounds products from then on to so many bits."""
    yield lambda bits: round_products(bits, monkeypatch.setattr)
    monkeypatch.undo()
    jax.clear_caches()


def commuting(num=8, dim=12):
    """Covariances with the same axes, and their barycenter, whose root is the mean of theirs."""
    basis, roots = np.linalg.qr(RNG.normal(size=(dim, dim)))[0], np.exp(0.5 * RNG.normal(size=(num, dim)))
    covs = np.stack([(basis * root**2) @ basis.T for root in roots])
    return covs.astype(np.float32), (basis * roots.mean(0) ** 2) @ basis.T


@pytest.mark.parametrize(("bits", "error"), [(10, 5e-5), (7, 5e-4)])
def test_a_barycentre_of_default_products_would_be_wrong_and_say_converged(rounded, monkeypatch, bits, error):
    covs, exact = commuting()

    def miss():
        found, info = og.gaussian.barycenter(covs)
        assert info.status == og.Status.CONVERGED
        return np.linalg.norm(found - exact) / np.linalg.norm(exact)

    rounded(bits)
    assert miss() < 3e-6
    monkeypatch.setattr(maps, "contract", jnp.einsum)  # at the default precision
    jax.clear_caches()
    assert miss() > error


def test_derivatives_of_products_are_not_rounded(rounded):
    rounded(7)
    assert 0 < np.abs(jnp.matmul(X, Y.T) - X @ Y.T).max() < 0.1  # what it does to others
    for times in (product, lambda x, y: contract("id,dj->ij", x, y)):
        slope = jax.grad(lambda x, times=times: times(x, Y.T).sum())(X)
        np.testing.assert_allclose(slope, np.broadcast_to(Y.sum(0), X.shape), rtol=0, atol=1e-5)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"left has shape \(40, 8\) and right \(40, 8\)"):
        product(X, Y)
