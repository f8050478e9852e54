"""Steps on one device and on four are the same to rounding: in processes of their own, as devices are fixed at start.

Losses of a whole training agree closely too, since minimising forgives rounding; no more is claimed of them.
"""

import dataclasses
import importlib
import pkgutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import experiments
import otgen.models
from otgen.train import Checkpoints, mapped, parallel
from tests.support.processes import environment, told_by

PROGRAM = """
import json, jax, jax.numpy as jnp, numpy as np
from functools import partial
from otgen import data
from otgen.models import ae_ot
from otgen.ot import semidiscrete
images = data.load("digits").images
config = ae_ot.Config(latent_dim=4, hidden=(32,), epochs=1, batch_size=64)
losses = []
log = lambda step, metrics: losses.append(metrics["loss"])
module, params = ae_ot.train_autoencoder(jax.random.key(0), images, config, log_every=1, callback=log)
devices = jax.local_device_count()
results = {"devices": devices, "losses": losses}
if devices > 1:
    y = jax.random.normal(jax.random.key(1), (50, 3))
    weights = jnp.full(50, 0.02)
    state = semidiscrete.init(jax.random.key(2), y)
    state = semidiscrete.stage(jax.random.key(2), state, y, weights, 600, 256)
    key = jax.random.key(3)
    one = jax.pmap(lambda i, s: semidiscrete.step(key, s, y, weights, batch_size=64, axis_name="d"),
                   axis_name="d", in_axes=(0, None), out_axes=None)
    for _ in range(600):
        state = one(jnp.arange(devices), state)
    results["chi2"] = [float(part) for part in semidiscrete.chi2(jax.random.key(4), state, y, 2**17)]

import otgen as og
x, y = jax.random.normal(jax.random.key(5), (64, 3)), jax.random.normal(jax.random.key(6), (40, 3)) + 1
solve = lambda part, axis_name=None: og.sinkhorn.run(
    og.PairwiseCost(part, y), epsilon=0.05, tol=1e-5, axis_name=axis_name)
step = lambda part, state, axis_name=None: og.sinkhorn.step(
    state, og.PairwiseCost(part, y), epsilon=0.5, axis_name=axis_name)
if devices > 1:
    state, info = jax.pmap(partial(solve, axis_name="d"), axis_name="d")(x.reshape(devices, -1, 3))
    info = jax.tree.map(lambda leaf: leaf[0], info)
    zero = og.sinkhorn.State(jnp.zeros((devices, 64 // devices)), jnp.zeros((devices, 40)))
    one = jax.pmap(partial(step, axis_name="d"), axis_name="d")(x.reshape(devices, -1, 3), zero)
    state, one = ((s.f.ravel(), s.g[0]) for s in (state, one))
else:
    state, info = solve(x)
    one = step(x, og.sinkhorn.State(jnp.zeros(64), jnp.zeros(40)))
numbers = {"error": float(info.error), "value": float(info.dual_value), "status": int(info.status)}
results["sinkhorn"] = {"f": state[0].tolist(), "g": state[1].tolist(), "step": one[1].tolist(), **numbers}

from otgen import sizes
from otgen.ot.semidiscrete import devices as points
points.LEAST, sizes.CPU, saved = 8, sizes.CPU._replace(work=1.0), []  # shared from so few points on; a step a call
codes = np.random.default_rng(0).normal(size=(101, 4)).astype(np.float32)
codes[:30] += 3
keep = {"save": lambda step, progress: saved.append(progress), "save_seconds": 0.0}
stage = lambda **more: og.coupling.semidiscrete(jax.random.key(7), codes, tol=1e-3, max_samples=3 * 1024, **more)[0].h
h, again, chosen = stage(**keep), stage(state=saved[0]), [codes, jax.device_put(codes, jax.devices()[-1])]
results["stage"] = {"h": h.tolist(), "again": again.tolist(), "step": int(saved[0].state.step)}
results["stage"]["blocks"] = [mesh and mesh.size for mesh in (points.mesh_of(None, y) for y in chosen)]
print(json.dumps(results))
"""


BASELINES = """
import json, jax, jax.numpy as jnp, numpy as np
from otgen.models import vae, wae_mmd, wgan_gp
from otgen.train import Checkpoints, mapped
from tests.support.moments import moments
rng = np.random.default_rng(0)
images, codes = rng.random((32, 6, 6, 1), np.float32), rng.normal(size=(32, 3)).astype(np.float32)
found = {}
for model in (vae, wae_mmd, wgan_gp):
    module, state = model.init(jax.random.key(0), model.Config(latent_dim=3, hidden=(16,), batch_size=16), images, 20)
    found[model.__name__] = (model.make_step(module, 20), state, images)
results = {"devices": jax.local_device_count()}
for name, (step, state, batch) in found.items():
    step = mapped(step)
    for _ in range(2):
        state, metrics = step(state, batch, jax.random.key(1))
    results[name] = {place: leaf.ravel().tolist() for place, leaf in moments(state).items()}
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def results():
    return told_by(PROGRAM, 1), told_by(PROGRAM, 4)


def test_training_does_not_depend_on_the_number_of_devices(results):
    one, four = results
    assert (one["devices"], four["devices"]) == (1, 4)
    assert four["losses"][:8] == pytest.approx(one["losses"][:8], rel=1e-5)
    assert four["losses"] == pytest.approx(one["losses"], rel=1e-2)
    assert one["losses"][-1] < 0.95 * one["losses"][0]


@pytest.mark.slow
def test_steps_of_the_baselines_do_not_depend_on_the_number_of_devices():
    one, four = told_by(BASELINES, 1), told_by(BASELINES, 4)
    assert (one.pop("devices"), four.pop("devices")) == (1, 4)
    for name, seen in one.items():
        for place, found in seen.items():
            atol = 1e-3 * np.abs(found).max() + 1e-9
            np.testing.assert_allclose(four[name][place], found, rtol=0, atol=atol, err_msg=f"{name} {place}")


def test_semidiscrete_steps_share_samples_over_devices(results):
    chi2, error = results[1]["chi2"]
    assert chi2 + 3 * error < 0.01


def test_a_semidiscrete_stage_shares_its_points_by_itself(results):
    """Equal to one device over its first steps, and to itself, bit by bit, when it goes on from what was saved."""
    one, four = (result["stage"] for result in results)
    assert (one["blocks"], four["blocks"]) == ([None, None], [4, None])
    assert one["step"] == four["step"] == 1
    assert one["again"] == one["h"]
    assert four["again"] == four["h"]
    assert np.ptp(one["h"]) > 0.1
    np.testing.assert_allclose(four["h"], one["h"], atol=1e-5)


def test_sinkhorn_with_source_points_spread_over_devices(results):
    one, four = (result["sinkhorn"] for result in results)
    assert one["status"] == four["status"] == 0
    assert four["value"] == pytest.approx(one["value"], rel=1e-5)
    assert four["step"] == pytest.approx(one["step"], rel=1e-4, abs=1e-4)
    for side in ("f", "g"):
        assert four[side] == pytest.approx(one[side], abs=2e-3)


def _with_devices(monkeypatch, num):
    for name in ("device_count", "local_device_count"):
        monkeypatch.setattr(jax, name, lambda: num)


def test_rows_that_do_not_divide_raise(monkeypatch):
    _with_devices(monkeypatch, 4)
    assert parallel.split(np.zeros((8, 3))).shape == (4, 2, 3)
    with pytest.raises(ValueError, match=r"rows = 6 does not divide.*multiples of 4: give 4 or 8"):
        parallel.split(np.zeros((6, 2)))
    with pytest.raises(ValueError, match=r"batch_size = 6 .* multiples of 8: give 8\."):
        parallel.shared_rows(6, 100, each=2)
    with pytest.raises(ValueError, match="3 rows for steps of 4"):
        parallel.shared_rows(250, 3)
    assert [parallel.shared_rows(256, num) for num in (1000, 256, 255, 250, 5)] == [256, 256, 252, 248, 4]


def _batch_sizes():
    """Every batch size that a configuration has by default, by where it is written."""

    def inside(tree, where):
        for name, value in tree.items():
            if name == "batch_size" and isinstance(value, int):
                yield where, value
            elif isinstance(value, dict):
                yield from inside(value, f"{where}.{name}")

    for package in (otgen.models, otgen.maps, experiments):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.endswith("__main__"):
                continue
            for name, value in vars(importlib.import_module(module.name)).items():
                if dataclasses.is_dataclass(value) and isinstance(value, type):
                    yield from inside(
                        {field.name: field.default for field in dataclasses.fields(value)}, f"{module.name}.{name}"
                    )
                elif isinstance(value, dict) and not name.startswith("__"):
                    yield from inside(value, f"{module.name}.{name}")


def test_every_default_batch_divides_among_one_to_eight_devices():
    found = dict(_batch_sizes())
    assert len(found) > 10
    for where, size in found.items():
        assert size % (16 if "ae_ot_gan" in where else 8) == 0, f"{where}: batch_size = {size}"


def test_a_mapped_step_is_traced_once():
    """What a step returns lies on the devices as the state that was given to it."""
    traces = []

    def step(state, batch, key, *, axis_name):
        traces.append(axis_name)
        return {"w": state["w"] + batch.sum(), "step": state["step"] + 1}, {}

    run, state = mapped(step), {"w": jnp.zeros(2), "step": jnp.int32(0)}
    for _ in range(3):
        state, _ = run(state, jnp.ones((4, 1)), jax.random.key(0))
    assert len(traces) == 1
    assert int(state["step"]) == 3


SAVED = """
import sys, jax, jax.numpy as jnp
from otgen.train import Checkpoints, averaged, mapped
step = lambda state, batch, key, axis_name: ({"w": state["w"] + averaged(8 * batch.mean(), axis_name)}, {})
run = mapped(step)
state, _ = run({"w": jnp.arange(5.0)}, jnp.ones((8, 1)), jax.random.key(0))
for folder in sys.argv[2:]:
    with Checkpoints(folder, {}) as checkpoints:
        found = checkpoints.restore({"w": jnp.zeros(5)})
    assert found["w"].tolist() == [8.0, 9.0, 10.0, 11.0, 12.0], folder
    assert run(found, jnp.ones((8, 1)), jax.random.key(0))[0]["w"].tolist() == [16.0, 17.0, 18.0, 19.0, 20.0]
with Checkpoints(sys.argv[1], {}) as checkpoints:
    checkpoints.save(1, state)
"""


@pytest.mark.slow
def test_checkpoints_of_one_two_and_four_devices_are_read_on_any_of_them(tmp_path):
    made: list[str] = []
    for devices in (1, 2, 4, 2, 1):
        folder = str(tmp_path / str(len(made)))
        subprocess.run([sys.executable, "-c", SAVED, folder, *made], env=environment(devices), check=True)
        made.append(folder)
    with Checkpoints(made[2], {}) as checkpoints:  # of four devices
        assert checkpoints.restore({"w": jnp.zeros(5)})["w"].tolist() == [8.0, 9.0, 10.0, 11.0, 12.0]
