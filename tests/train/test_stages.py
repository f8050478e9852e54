"""Fits that save in a folder: a killed one goes on bit-identically, a finished one is not trained again."""

import contextlib

import jax
import numpy as np
import pytest

import otgen as og
from otgen.models.informative.informative_gan import Config
from otgen.train.stages import opened

TINY = {"latent_dim": 2, "hidden": (8,), "batch_size": 20, "epochs": 140}  # 700 steps; the 500th is saved
SOLVER = {"num_steps": 640, "updates_per_call": 1, "hidden": (8,), "batch_size": 20}  # saved every 250 calls
IMAGES = np.random.default_rng(0).integers(0, 256, (100, 4, 4, 1), np.uint8)
LABELS = np.arange(100) % 3
CODES = np.random.default_rng(1).normal(size=(100, 3)).astype(np.float32)
FITS = {
    "vae": lambda **more: og.models.vae.fit(jax.random.key(0), IMAGES, LABELS, **TINY, **more),
    "ae_ot": lambda **more: og.models.ae_ot.fit(jax.random.key(0), IMAGES, tol=0.02, **TINY, **more),
    "ae_ot_gan": lambda **more: og.models.ae_ot_gan.fit(
        jax.random.key(0), IMAGES, base={**TINY, "tol": 0.5}, epochs=100, batch_size=20, warmup=40, **more
    ),
    "latent_ot": lambda **more: og.models.latent_ot.fit(
        jax.random.key(0), IMAGES, LABELS, solver_options=SOLVER, **TINY, **more
    ),
    "neural_map": lambda **more: og.maps.neural_map.fit(jax.random.key(0), None, CODES, solver="lp", **SOLVER, **more),
    "flow": lambda **more: og.models.flow.fit(
        jax.random.key(0), CODES, LABELS, tol=0.02, width=8, depth=1, num_steps=700, batch_size=20, **more
    ),
    "bures_linear": lambda **more: og.models.bures_linear.fit(
        jax.random.key(0), CODES, rank=2, depth=4, start="normal", tol=1e-12, **more
    ),
}


class Killed(Exception):
    pass


def law(key, num, dim):
    return jax.random.normal(key, (num, dim))


def other_law(key, num, dim):
    return jax.random.uniform(key, (num, dim))


def killed_at(when):
    """A callback that raises when the step has come, of the stage that reports a metric."""
    step, metric = when

    def callback(now, metrics):
        if now >= step and metric in metrics:
            raise Killed

    return callback


def newest(folder):
    """The newest step of every stage."""
    return {it.name: max(int(path.name) for path in it.iterdir() if path.name.isdigit()) for it in folder.iterdir()}


def equal(found, wanted):
    for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(one, two)


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "kills", "stages"),
    [
        ("vae", [(600, "loss")], {"generator": 500}),
        ("ae_ot", [(600, "mse"), (100, "rate")], {"autoencoder": 700, "transport": 194}),
        pytest.param(
            "ae_ot_gan",
            [(100, "rate"), (520, "content")],
            {"autoencoder": 700, "transport": 500, "gan": 500},
            marks=slow,
        ),
        pytest.param("latent_ot", [(550, "mse"), (300, "objective")], {"autoencoder": 700, "map": 250}, marks=slow),
        pytest.param("neural_map", [(300, "loss")], {"map": 250}, marks=slow),
        pytest.param("flow", [(700, "rate"), (600, "loss")], {"transport": 9, "flow": 500}, marks=slow),
    ],
)
def test_a_killed_fit_goes_on_bit_identically(name, kills, stages, tmp_path, monkeypatch):
    monkeypatch.setattr(og.sizes, "CPU", og.sizes.CPU._replace(work=1e8))  # a hundred steps between saves
    fit, folder = FITS[name], tmp_path / "run"
    whole = fit()
    for when in kills:
        with pytest.raises(Killed):
            fit(checkpoints=folder, callback=killed_at(when))
    assert newest(folder) == stages
    equal(fit(checkpoints=str(folder)), whole)


def test_what_is_done_is_not_trained_again(tmp_path):
    seen = []
    whole = FITS["ae_ot"](checkpoints=tmp_path)
    known = newest(tmp_path)
    again = FITS["ae_ot"](checkpoints=tmp_path, callback=lambda step, metrics: seen.append(metrics))
    equal(again, whole)
    assert not any("mse" in metrics or "rate" in metrics for metrics in seen)  # the error alone is measured again
    assert newest(tmp_path) == known


@slow
def test_a_descent_on_the_full_batch_is_saved_too(tmp_path, monkeypatch):
    monkeypatch.setattr(og.models.bures_linear, "_SAVE", 10)
    whole, seen = FITS["bures_linear"](), []
    with pytest.raises(Killed):
        FITS["bures_linear"](checkpoints=tmp_path, callback=killed_at((20, "excess")))
    equal(FITS["bures_linear"](checkpoints=tmp_path, callback=lambda step, _: seen.append(step)), whole)
    assert seen[0] == 30
    equal(FITS["bures_linear"](checkpoints=tmp_path, callback=killed_at((0, "excess"))), whole)  # not called again


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"labels": LABELS, "epochs": 2}, r"epochs \(stored 1, now 2\)"),
        ({"labels": LABELS, "key": jax.random.key(1)}, r"key \(stored \[0, 0\], now \[0, 1\]\)"),
        ({"labels": LABELS, "images": IMAGES[::-1]}, "images"),
        ({"labels": LABELS[::-1]}, "labels"),
        ({}, "labels"),
    ],
)
def test_a_folder_of_another_fit_is_refused(more, told, tmp_path):
    given = {"key": jax.random.key(0), "images": IMAGES, "checkpoints": tmp_path}
    sizes = {**TINY, "epochs": 1}
    og.models.vae.fit(**given, labels=LABELS, **sizes)
    with pytest.raises(ValueError, match=f"belongs to another configuration: .*{told}"):
        og.models.vae.fit(**{**given, **sizes, **more})


@pytest.mark.parametrize("name", ["ae_ot", "ae_ot_gan", "latent_ot"])
def test_checkpoints_of_one_stage_are_refused_where_there_are_several(name, tmp_path):
    with og.train.Checkpoints(tmp_path, {}) as checkpoints, pytest.raises(ValueError, match="give a folder"):
        FITS[name](checkpoints=checkpoints)


@pytest.mark.parametrize("changed", ["augment", "x", "sizes", "law", "sampler", "params", None])
def test_arrays_are_known_by_what_can_be_known_of_them(changed, tmp_path):
    """Data by a checksum; arrays of JAX, which another machine computes to rounding, by shape and type."""
    about = {"x": np.arange(3.0), "y": jax.numpy.arange(3.0), "sizes": (1, 2), "limit": None}
    about |= {"law": og.latent.Normal(scale=2.0), "sampler": law, "params": {"w": {"b": jax.numpy.ones(3)}}}
    with opened(tmp_path, "one", Config(), **about) as checkpoints:
        assert checkpoints.folder == tmp_path / "one"
    config = Config(augment=None) if changed == "augment" else Config()
    others = {"x": np.ones(3), "sizes": (1, 3), "law": og.latent.Normal(scale=3.0), "sampler": other_law}
    others["params"] = {"w": {"b": jax.numpy.zeros(3)}}
    about |= {"y": jax.numpy.ones(3)} | {name: other for name, other in others.items() if name == changed}
    refused = pytest.raises(ValueError, match=f": {changed} ") if changed else contextlib.nullcontext()
    with refused, opened(tmp_path, "one", config, **about):
        pass
