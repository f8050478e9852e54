"""Points of a semi-discrete problem shared out among four devices: the heights of one device."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otgen.ot import semidiscrete

PROGRAM = """
import json
import jax, jax.numpy as jnp, numpy as np
from otgen.ot import semidiscrete
from otgen.ot.source import gaussian

devices, key = jax.devices(), jax.random.key(0)
rng = np.random.default_rng(0)
y = rng.normal(size=(1003, 8)).astype(np.float32)
y[:300] += 3
weights = rng.uniform(0.5, 1.5, 1003)
weights = jnp.asarray(weights / weights.sum(), jnp.float32)
doubled = np.concatenate([y[:50], y[:50]])
cases = {
    "many": (y, {"weights": weights, "tol": 0.02, "max_samples": 60_000}),
    "fewer than devices": (y[:3], {"tol": 0.001, "max_samples": 40_000}),
    "points that coincide": (doubled, {"tol": 0.02, "sampler": gaussian}),
}
results = {"devices": len(devices)}
for name, (points, options) in cases.items():
    held = []
    runs = [
        semidiscrete.run(key, points, **options, devices=chosen, save=lambda step, state: held.append((step, state)))
        for chosen in (None, devices)
    ]
    step, state = held[len(held) // 2]  # the first of the shared run: goes on on one device
    third = semidiscrete.run(key, points, **options, state=state)
    results[name] = [
        {"h": np.asarray(state.h).tolist(), **{k: float(v) for k, v in info._asdict().items()}}
        for state, info in (*runs, third)
    ]
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def results():
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "PJRT_NPROC": "16",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["many", "fewer than devices", "points that coincide"])
def test_the_shared_run_equals_that_of_one_device(results, name):
    assert results["devices"] == 4
    one, shared, resumed = results[name]
    scale = np.std(one["h"])
    for other in (shared, resumed):
        np.testing.assert_allclose(other["h"], one["h"], rtol=0, atol=1e-5 * scale)
        assert other["num_samples"] == one["num_samples"] > 0
        for number in ("chi2", "primal_cost", "dual_value", "total_variation"):
            assert other[number] == pytest.approx(one[number], rel=1e-4, abs=1e-5), number


def test_one_device_as_a_mesh_is_the_same(key):
    y = jax.random.normal(key, (40, 3)).at[:10].add(3)
    plain, _ = semidiscrete.run(key, y, tol=0.02)
    meshed, _ = semidiscrete.run(key, y, tol=0.02, devices=jax.local_devices()[:1])
    np.testing.assert_allclose(meshed.h, plain.h, atol=1e-5)


@pytest.mark.parametrize("devices", [[], [jax.local_devices()[0]] * 2])
def test_devices_that_cannot_be_meant(devices, key):
    with pytest.raises(ValueError, match="give at least one, and each once"):
        semidiscrete.run(key, jnp.eye(3), devices=devices)
