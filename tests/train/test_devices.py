"""The same to rounding on one device, on four, and on two hosts of two devices each; every model."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from experiments.local_hosts import free_address
from otgen.train import hosts
from tests.support.processes import environment

# A program that prints, for each model, the losses of its steps and Adam's first moments after the last.
PROGRAM = """
import json, os, sys
from otgen.train import hosts
if "OTGEN_COORDINATOR" in os.environ:
    hosts.join()
import jax, jax.numpy as jnp, numpy as np
import otgen as og
from otgen.maps import neural_map
from otgen.models import ae_ot, ae_ot_gan, bures_linear, flow, info_gan, informative_gan, vae
from otgen.models import sinkhorn_generator, wae_mmd, wgan_gp
from otgen.train import train
names, num_steps, steps_per_call = sys.argv[1].split(","), int(sys.argv[2]), int(sys.argv[3])
key, rng = jax.random.key(0), np.random.default_rng(0)
images = rng.random((240, 6, 6, 1), np.float32)
small = {"latent_dim": 3, "hidden": (16,), "batch_size": 24}

def plain(model, rows=24, **fields):
    module, state = model.init(key, model.Config(**small, **fields), images[:1], num_steps)
    return model.make_step(module, num_steps), state, (), images, rows

def of_covariances():
    config = bures_linear.Config(rank=4, depth=2, batch_size=24)
    rows = images.reshape(len(images), -1) - images.reshape(len(images), -1).mean(0)
    factor = jnp.asarray(rows.T / np.sqrt(len(rows)))
    module, params = bures_linear.init(key, config, (36,), factor)
    transform = bures_linear.optimiser(config, num_steps, 1.0)
    from otgen.train import TrainState
    state = TrainState(params, transform.init(params), jnp.int32(0))
    return bures_linear.make_step(module, num_steps, 1.0), state, (), rows, 24

def of_pairs():
    module = ae_ot.AEOT((6, 6, 1), ae_ot.Config(**small))
    codes = jnp.asarray(rng.normal(size=(len(images), 3)), jnp.float32)
    params = module.init(key, images[:1])["params"]
    facts = {"codes": codes, "h": jnp.zeros(len(images)), "centres": codes / 9, "angle": jnp.float32(1.5),
             "mean": jnp.zeros(3), "scale": jnp.ones(3)}
    model = ae_ot.Model(module, {"params": params, "transport": facts}, None, None)
    config = ae_ot_gan.Config(batch_size=24, warmup=3)
    module, state, fixed = ae_ot_gan.init(key, config, model, num_steps)
    state = state._replace(slopes=jnp.ones_like(state.slopes))
    return ae_ot_gan.make_step(module, num_steps), state, (fixed,), images, 24

def of_codes():
    config = informative_gan.Config(**small, categorical=(3,), uniform=1)
    rows = 24 * (config.dual_steps + 1)
    module, state = informative_gan.init(key, config, images[:1], num_steps, unit=5.0)
    return informative_gan.make_step(module, num_steps), state, (), images, rows

def of_pairs_with_labels():
    config = flow.Config(width=16, depth=1, num_steps=num_steps)
    module, state = flow.init(key, config, (3,), num_classes=2)
    step = flow.make_step(module, config)

    def of_rows(state, rows, key, *, axis_name=None):
        label, weight = (rows[:, 6] > 0).astype(jnp.int32), jnp.exp(rows[:, 7])
        return step(state, og.coupling.Batch(rows[:, :3], rows[:, 3:6], label, weight, label), key, axis_name=axis_name)

    return of_rows, state, (), rng.normal(size=(240, 8)).astype(np.float32), 24

MODELS = {
    "flow": of_pairs_with_labels,
    "ae_ot": lambda: plain(ae_ot), "vae": lambda: plain(vae), "wae_mmd": lambda: plain(wae_mmd),
    "bures_linear": of_covariances, "ae_ot_gan": of_pairs, "informative_gan": of_codes,
    "info_gan": lambda: plain(info_gan, 48), "wgan_gp": lambda: plain(wgan_gp, 144),
    "sinkhorn_generator": lambda: plain(sinkhorn_generator, 48, batches=2, tol=1e-3),
}

def keep(losses):
    return lambda step, metrics: losses.append({k: v for k, v in metrics.items() if k != "samples/s"})

def wide(tree):
    return jax.tree.map(lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)

results = {"devices": jax.device_count()}
for name in names:
    if name in neural_map.SOLVERS:
        codes, losses = rng.normal(size=(64, 2)), []
        fields = {"hidden": (16,), "batch_size": 24, "num_steps": num_steps}
        found = neural_map.fit(key, None, codes, solver=name, callback=keep(losses), **fields)
        results[name] = {"losses": [list(m.values()) for m in losses], "moments": []}
        continue
    step, state, fixed, arrays, rows = MODELS[name]()
    if jax.config.jax_enable_x64:
        state, fixed, arrays = wide(jax.tree.map(jnp.asarray, state)), wide(fixed), arrays.astype(np.float64)
    share, losses = rows // jax.process_count(), []
    mine = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
    batches = [arrays[np.arange(i * rows, (i + 1) * rows) % len(arrays)][mine] for i in range(num_steps)]
    every = {"log_every": steps_per_call, "save_every": 100 * steps_per_call, "steps_per_call": steps_per_call}
    state = train(step, state, batches, key, fixed=fixed, callback=keep(losses), **every)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    moments = [np.ravel(leaf).tolist() for path, leaf in leaves if ".mu" in jax.tree_util.keystr(path)]
    results[name] = {"losses": [list(m.values()) for m in losses], "moments": moments}
if hosts.is_first():
    print(json.dumps(results))
"""
MINIMISED = ("ae_ot", "vae", "wae_mmd", "bures_linear", "flow", "sinkhorn_generator")
ADVERSARIAL = ("ae_ot_gan", "informative_gan", "info_gan", "wgan_gp")
SOLVERS = ("c_transform", "lp", "icnn")


def run(devices: int, names, num_steps: int, *, processes: int = 1, x64: bool = False, steps_per_call: int = 1) -> dict:
    """The results of the program, of the first process."""
    common = environment(devices, JAX_ENABLE_X64=str(int(x64)))
    address = free_address()
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), ",".join(names), str(num_steps), str(steps_per_call)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [
        subprocess.Popen(
            command, env={**common, **(hosts.environment(address, processes, i) if processes > 1 else {})}, **pipes
        )
        for i in range(processes)
    ]
    ended = [process.communicate(timeout=500) for process in started]
    assert all(process.returncode == 0 for process in started), "\n".join(error[-3000:] for _, error in ended)
    return json.loads(ended[0][0].splitlines()[-1])


def same(one: dict, other: dict, tolerance: float, *, moments: bool = False) -> None:
    """Assert that the losses of two runs agree, relative to the largest of each kind, and their moments to the largest.

    Some gradients are zero but for rounding: a potential's last bias changes nothing.
    """
    for name in one.keys() - {"devices"}:
        first, second = (np.array(run[name]["losses"]) for run in (one, other))
        for kind, (x, y) in enumerate(zip(first.T, second.T, strict=True)):
            limit = tolerance * np.abs(x).max() + 1e-6  # a residual is nothing but rounding
            np.testing.assert_allclose(y[:10], x[:10], rtol=0, atol=limit, err_msg=f"{name}, {kind}")
            np.testing.assert_allclose(y, x, rtol=0, atol=100 * limit, err_msg=f"{name}, {kind}")  # rounding grows
        if moments:
            x, y = (np.concatenate([np.asarray(leaf) for leaf in run[name]["moments"]]) for run in (one, other))
            np.testing.assert_allclose(y, x, rtol=0, atol=tolerance * np.abs(x).max(), err_msg=name)


@pytest.mark.slow
def test_one_device_four_devices_and_two_hosts_agree():
    """What is minimised, 50 steps in float32; what plays, the gradients of one step in float32, 50 steps in float64."""
    for names, num_steps, x64 in ((MINIMISED, 50, False), (ADVERSARIAL, 1, False), (ADVERSARIAL, 50, True)):
        one = run(1, names, num_steps, x64=x64)
        assert one.pop("devices") == 1
        for devices, processes in ((4, 1), (2, 2)):
            other = run(devices, names, num_steps, processes=processes, x64=x64)
            assert other.pop("devices") == 4
            same(one, other, 1e-5, moments=num_steps == 1)


@pytest.mark.slow
def test_solvers_of_maps_on_one_device_and_four():
    one, four = run(1, SOLVERS, 10), run(4, SOLVERS, 10)
    same(one, four, 1e-4)


@pytest.mark.slow
def test_several_steps_in_one_call():
    names = ("ae_ot", "informative_gan")
    one, five = run(1, names, 20), run(1, names, 20, steps_per_call=5)
    for name in names:
        np.testing.assert_allclose(five[name]["losses"], one[name]["losses"][4::5], rtol=1e-5)
