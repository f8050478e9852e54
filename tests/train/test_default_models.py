"""All models as they are by default train on eight devices, step by step as on one, to rounding.

Every step is taken twice, from the same state: over the devices, as the fit takes it, and on one. In later steps of
longer runs the two part, see docs/scaling.md.
"""

import pytest

from tests.support.processes import told_by

PROGRAM = """
import functools, json
import jax, jax.numpy as jnp, numpy as np
import otgen as og
from otgen import sizes
from otgen.maps import neural_map
from otgen.models import *
from otgen.ot.semidiscrete import devices
from otgen.train import loop, parallel
from tests.support.moments import moments

points = og.data.toy.eight_gaussians(jax.random.key(1), 1024)
digits = og.data.load("digits")
images, short = digits.images, {"epochs": 0.3}
devices.LEAST, sizes.CPU = 64, sizes.CPU._replace(work=1.0)  # points are shared from so few on; a step a call
mapped, advance, told, MOST = loop.mapped, devices.advance, {}, 2

def apart(found, wanted):  # the largest difference, relative to the largest number of an array, or a share of all
    whole = max(np.abs(leaf).max() for leaf in wanted.values())
    return float(max(np.abs(found[name] - it).max() / (np.abs(it).max() + 1e-3 * whole) for name, it in wanted.items()))

def both(step, *fixed, donate):
    over, one, last = mapped(step, *fixed), jax.jit(functools.partial(step, axis_name=None)), []
    def call(state, batch, key):
        if len(last) == MOST:  # has been compared: what is left of the fit goes by
            return last[-1]
        rows = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf).reshape(-1, *leaf.shape[2:])), batch.tree)
        wanted, metrics = one(parallel.freed(state), rows, key, *parallel.freed(fixed))
        last.append(over(state, batch, key))
        known = {name: np.asarray(value) for name, value in metrics.items()}
        gradients = apart(moments(last[-1][0]), moments(wanted))
        told[now]["steps"] += [[gradients, apart({n: np.asarray(v) for n, v in last[-1][1].items()}, known)]]
        return last[-1]
    return call

def shared(key, state, y, weights, *how):
    assert how[-1] is not None, "a solve on one device"
    after, num = advance(key, state, y, weights, *how), int((np.asarray(weights) > 0).sum())
    here = [devices.collect(tree, how[-1], num) for tree in (state, y, weights)]
    wanted = advance(key, *here, *how[:-1])
    told[now]["solve"] += [[how[-1].size, apart({"h": np.asarray(after.iterate)[:num]}, {"h": wanted.iterate})]]
    return after

loop.mapped, devices.advance = both, shared
FITS = {  # by default but for their length; the UNet of a flow of images takes minutes, and is in test_lowering
    "ae_ot": lambda key: ae_ot.fit(key, images, digits.labels, max_samples=2048, **short),
    "ae_ot_gan": lambda key: ae_ot_gan.fit(key, images, base={"max_samples": 2048, **short}, **short),
    "bures_linear": lambda key: bures_linear.fit(key, images, max_steps=20),
    "bures_linear of batches": lambda key: bures_linear.fit(key, images, batch_size=256, epochs=1),
    "flow": lambda key: flow.fit(key, points, max_samples=2048, num_steps=2),
    "info_gan": lambda key: info_gan.fit(key, images, **short),
    "informative_gan": lambda key: informative_gan.fit(key, images, **short),
    "latent_ot": lambda key: latent_ot.fit(key, images, solver_options={"num_steps": 16}, **short),
    "lp": lambda key: neural_map.fit(key, None, points, solver="lp", num_steps=16),
    "icnn": lambda key: neural_map.fit(key, None, points, solver="icnn", num_steps=16),
    "sinkhorn_generator": lambda key: sinkhorn_generator.fit(key, images, **short),
    "vae": lambda key: vae.fit(key, images, **short),
    "wae_mmd": lambda key: wae_mmd.fit(key, images, **short),
    "wgan_gp": lambda key: wgan_gp.fit(key, images, **short),
}
for now in FITS:
    told[now] = {"steps": [], "solve": []}
    model = FITS[now](jax.random.key(0))
    arrays = [leaf for leaf in jax.tree.leaves(model) if isinstance(leaf, jax.Array)]
    told[now]["devices"] = max(len(leaf.devices()) for leaf in arrays)
    jax.clear_caches()
print(json.dumps({"devices": jax.device_count(), "told": told}))
"""


@pytest.mark.slow
def test_steps_of_models_by_default_are_the_same_on_eight_devices_as_on_one():
    """Gradients and metrics of each step from the same state; codes and points are shared by all eight in a solve."""
    found = told_by(PROGRAM, 8)
    assert found["devices"] == 8
    for name, told in found["told"].items():
        assert len(told["steps"]) >= (name != "bures_linear"), name  # by L-BFGS on all data, on one device
        for gradients, metrics in told["steps"]:
            assert gradients < 1e-2, f"{name}: {told}"  # 1e-6 of most; some arrays have next to none
            assert metrics < 1e-3, f"{name}: {told}"
        assert bool(told["solve"]) == (name in ("ae_ot", "ae_ot_gan", "flow")), name
        for blocks, heights in told["solve"]:
            assert blocks == 8, name
            assert heights < 1e-5, f"{name}: {told}"
        assert told["devices"] == 1, f"{name}: what is trained is tied to devices"
