"""Points of a semi-discrete problem shared out among four devices: steps of one device, and the law of its whole run.

Of a few steps the heights are the same to rounding. Of a whole run they are not: a sample that rounding moves into
another cell moves two heights by a step, and all that follows starts from there.
"""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.local_hosts import free_address
from otgen.ot import semidiscrete
from otgen.train import hosts
from tests.support.processes import environment, told_by

PROGRAM = """
import json
import jax, jax.numpy as jnp, numpy as np
from otgen.ot import semidiscrete
from otgen.ot.semidiscrete.source import gaussian

devices, key = jax.devices(), jax.random.key(0)
rng = np.random.default_rng(0)
y = rng.normal(size=(203, 8)).astype(np.float32)
y[:60] += 3
y = np.concatenate([y, y[:50]])  # points that coincide are merged before they are shared
weights = rng.uniform(0.5, 1.5, len(y))
weights = jnp.asarray(weights / weights.sum(), jnp.float32)
cases = {
    "many": (y, {"weights": weights, "tol": 0.02, "sampler": gaussian}, 60_000),
    "fewer than devices": (y[:3], {"tol": 0.0001}, 40_000),
}
results = {"devices": len(devices)}
for name, (points, options, num) in cases.items():
    held = []
    keep = lambda step, state: held.append(state)
    solve = lambda num, state=None, **more: [
        semidiscrete.run(key, points, **options, max_samples=num, state=state, devices=chosen, **more)
        for chosen in (None, devices)
    ]
    results[name] = {"steps": solve(3 * 1024, save=keep)}
    results[name] |= {"resumed": solve(6 * 1024, held[-1]), "whole": solve(num)}  # from what the shared run saved
    for what in ("steps", "resumed", "whole"):
        results[name][what] = [
            {"h": np.asarray(state.h).tolist(), **{k: float(v) for k, v in info._asdict().items()}}
            for state, info in results[name][what]
        ]
print(json.dumps(results))
"""
HOSTS = """
import json, sys
from otgen.train import hosts

hosts.join()
import jax, numpy as np
from otgen import sizes
from otgen.ot import semidiscrete

sizes.CPU = sizes.CPU._replace(work=1.0)  # a step a call
y, saved = np.random.default_rng(0).normal(size=(43, 3)).astype(np.float32), []
keep = lambda step, state: saved.append(state)
seconds = 1e6 * jax.process_index()  # clocks differ, and the first host's is that of all
options = {"tol": 1e-5, "batch_size": 256, "max_samples": 4 * 256}
solve = lambda **more: semidiscrete.run(jax.random.key(0), y, **options, **more)
one, same = solve()
shared, info = solve(devices=jax.devices(), save=keep, save_seconds=seconds)
resumed, _ = solve(devices=jax.devices(), state=saved[1])
print(json.dumps({
    "devices": [jax.device_count(), jax.local_device_count()],
    "saved": [int(state.step) for state in saved],
    "h": [np.asarray(found.h).tolist() for found in (shared, resumed, one)],
    "chi2": [float(found.chi2) for found in (info, same)],
}))
"""
NAMES = ("many", "fewer than devices")


@pytest.fixture(scope="module")
def results():
    return told_by(PROGRAM, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("what", "num"), [("steps", 3), ("resumed", 6)])
def test_shared_steps_are_those_of_one_device(results, name, what, num):
    """To rounding; two samples of thousands may have fallen on the other side of a border."""
    assert results["devices"] == 4
    one, shared = results[name][what]
    assert one["num_steps"] == shared["num_steps"] == num
    apart = np.subtract(shared["h"], one["h"])
    moved = np.abs(apart - np.median(apart)) > 1e-5 * np.std(one["h"])
    assert moved.sum() <= (4 if name == "many" else 0), apart[moved]
    for number in ("chi2", "primal_cost", "dual_value", "total_variation"):
        assert shared[number] == pytest.approx(one[number], rel=1e-3, abs=1e-4), number


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_shared_run_has_the_law_of_one_devices_run(results, name):
    one, shared = results[name]["whole"]
    assert shared["num_samples"] == one["num_samples"] > 30_000
    assert one["chi2"] < (0.1 if name == "many" else 0.001)  # .64 and .0005 after three steps
    for number, error in (("chi2", "chi2_error"), ("primal_cost", None), ("dual_value", None)):
        limit = 3 * (one[error] + shared[error]) if error else 2e-3 * one["primal_cost"]
        assert abs(shared[number] - one[number]) < limit, number


@pytest.mark.slow
def test_one_device_as_a_mesh_is_the_same(key):
    y = jax.random.normal(key, (40, 3)).at[:10].add(3)
    plain, _ = semidiscrete.run(key, y, tol=0.02, max_samples=8 * 1024)
    meshed, _ = semidiscrete.run(key, y, tol=0.02, max_samples=8 * 1024, devices=jax.local_devices()[:1])
    np.testing.assert_allclose(meshed.h, plain.h, atol=1e-5)


@pytest.mark.parametrize("devices", [[], [jax.local_devices()[0]] * 2])
def test_devices_that_cannot_be_meant(devices, key):
    with pytest.raises(ValueError, match="give at least one, and each once"):
        semidiscrete.run(key, jnp.eye(3), devices=devices)


@pytest.mark.slow
def test_points_are_shared_out_among_the_devices_of_two_hosts():
    address = free_address()
    command = [sys.executable, "-c", HOSTS]
    both = [
        subprocess.Popen(
            command, env=environment(2, **hosts.environment(address, 2, i)), stdout=-1, stderr=-1, text=True
        )
        for i in range(2)
    ]
    told = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    first, second = (json.loads(printed.splitlines()[-1]) for printed, _ in told)
    assert first == second
    assert first["devices"] == [4, 2]
    assert first["saved"] == [1, 2, 3, 4]
    shared, resumed, one = first["h"]
    assert shared == resumed
    np.testing.assert_allclose(shared, one, atol=1e-5)
    assert first["chi2"][0] == pytest.approx(first["chi2"][1], rel=1e-3)
