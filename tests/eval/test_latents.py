import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otgen.eval import diagnose
from otgen.ot import latent


@pytest.mark.parametrize(
    "prior", [latent.Normal(), latent.Uniform(), latent.Ball(), latent.Sphere(), latent.Normal(jnp.arange(6.0), 2.0)]
)
def test_draws_of_the_prior_pass(prior):
    report = diagnose(prior.sample(jax.random.key(0), (1000, 6)), prior)
    assert report.ok()
    assert "follow the prior" in str(report)
    assert report.outside == 0


@pytest.mark.parametrize("prior", [latent.Normal(), latent.Uniform()])
def test_raw_midpoints_fail_and_matched_ones_pass(prior):
    z = [prior.sample(key, (1000, 6)) for key in jax.random.split(jax.random.key(1))]
    assert not diagnose(latent.raw([0.5, 0.5], z), prior).ok()
    assert diagnose(latent.lerp(0.5, *z, prior), prior).ok()


def test_slerp_of_uniform_latents_is_caught_outside():
    z = [latent.Uniform().sample(key, (1000, 100)) for key in jax.random.split(jax.random.key(2))]
    report = diagnose(latent.slerp(0.5, *z), latent.Uniform())
    assert report.outside == pytest.approx(0.085, abs=0.007)
    assert "DO NOT" in str(report)


def test_walks_report_their_memory():
    path = latent.walk(jax.random.key(3), latent.Normal().sample(jax.random.key(4), (1000, 6)), 50, 0.5)
    report = diagnose(path, latent.Normal(), path=True)
    assert report.ok()
    assert report.autocorrelation == pytest.approx(1 / np.sqrt(1.25), abs=0.01)
    assert "half-life 6" in str(report)


@pytest.mark.slow
def test_p_values_are_uniform_under_the_prior():
    report = diagnose(latent.Normal().sample(jax.random.key(5), (500, 200)), latent.Normal())
    for p in (report.ks_p, report.cvm_p):
        assert np.abs(np.sort(p) - (np.arange(200) + 0.5) / 200).max() < 1.95 / np.sqrt(200)


def test_bad_latents_raise():
    with pytest.raises(ValueError, match="at least 8"):
        diagnose(jnp.zeros((3, 2)), latent.Normal())
    with pytest.raises(ValueError, match="NaN"):
        diagnose(jnp.full((30, 2), jnp.nan), latent.Normal())
