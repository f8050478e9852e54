import json
import os
import shutil
import signal
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otgen.train import Checkpoints, JsonLines, Progress, averaged, together, train
from otgen.train.loop import NonFinite


class Walk(NamedTuple):
    """A state that records all it has been through."""

    x: jax.Array
    step: jax.Array


def step(state, batch, key, *, axis_name=None):
    noise = jax.random.normal(jax.random.fold_in(key, state.step))
    mean = averaged(batch.mean(), axis_name)
    x = 0.9 * state.x + noise + mean
    return Walk(x, state.step + 1), {"x": x}


def batches(start, stop):
    return [jnp.full(8, float(i % 7)) for i in range(start, stop)]


START = Walk(jnp.float32(0), jnp.int32(0))


def test_a_resumed_run_is_bit_identical(key, tmp_path):
    whole = train(step, START, batches(0, 40), key)
    with Checkpoints(tmp_path, {"seed": 0}) as checkpoints:
        train(step, START, batches(0, 23), key, checkpoints=checkpoints, save_every=10)
    with Checkpoints(tmp_path, {"seed": 0}) as checkpoints:
        restored = checkpoints.restore(START)
        assert int(restored.step) == 23
        resumed = train(step, restored, batches(23, 40), key, checkpoints=checkpoints)
    assert float(whole.x) == float(resumed.x)


def test_another_configuration_is_refused(tmp_path):
    with Checkpoints(tmp_path, {"latent_dim": 8, "seed": 0}) as checkpoints:
        checkpoints.save(1, START)
    with pytest.raises(ValueError, match=r"latent_dim \(stored 8, now 16\)"):
        Checkpoints(tmp_path, {"latent_dim": 16, "seed": 0})


def test_no_checkpoint_restores_nothing(tmp_path):
    with Checkpoints(tmp_path, {}) as checkpoints:
        assert checkpoints.restore(START) is None


def test_only_the_newest_are_kept(tmp_path):
    with Checkpoints(tmp_path, {}, keep=2) as checkpoints:
        for i in range(1, 6):
            checkpoints.save(i, Walk(jnp.float32(i), jnp.int32(i)))
        assert float(checkpoints.restore(START).x) == 5
    kept = sorted(path.name for path in tmp_path.iterdir() if path.is_dir() and path.name.isdigit())
    assert kept == ["4", "5"]


def test_nan_stops_with_the_step_and_the_last_checkpoint(key, tmp_path):
    def broken(state, batch, key, *, axis_name=None):
        state, metrics = step(state, batch, key, axis_name=axis_name)
        return state, {"x": jnp.where(state.step == 25, jnp.nan, metrics["x"])}

    with Checkpoints(tmp_path, {}) as checkpoints:
        with pytest.raises(NonFinite, match=r"x = nan at step 25.*last checkpoint is step 20"):
            train(broken, START, batches(0, 40), key, checkpoints=checkpoints, save_every=10, log_every=5)
        assert checkpoints.newest() == 20


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_saved_first(key, tmp_path, number):
    def feed():
        for i, batch in enumerate(batches(0, 40)):
            if i == 17:
                os.kill(os.getpid(), number)
            yield batch

    with Checkpoints(tmp_path, {}) as checkpoints:
        with pytest.raises(KeyboardInterrupt):
            train(step, START, feed(), key, checkpoints=checkpoints)
        assert [path.name for path in tmp_path.glob("[0-9]*")] == ["16"]  # written when the interruption is told
        assert checkpoints.newest() == 16  # two batches are on their way to the device
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_callbacks_see_steps_and_metrics(key, tmp_path):
    seen = []
    with Progress(20, "walk", enabled=False) as bar:
        lines = JsonLines(tmp_path / "metrics.jsonl", "walk")
        train(
            step,
            START,
            batches(0, 23),
            key,
            callback=together(bar, lines, None, lambda s, m: seen.append((s, m["x"]))),
            log_every=10,
        )
    assert [s for s, _ in seen] == [10, 20, 23]
    written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["x"]) for line in written] == seen
    assert {line["stage"] for line in written} == {"walk"}


def test_a_nested_state_keeps_its_structure(tmp_path):
    tree = {"params": {"w": jnp.arange(6.0).reshape(2, 3)}, "walk": START, "pair": (jnp.int32(1), jnp.ones(2))}
    with Checkpoints(tmp_path, {}) as checkpoints:
        checkpoints.save(3, tree)
        back = checkpoints.restore(tree)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    jax.tree.map(np.testing.assert_array_equal, back, tree)


BIG = {"w": jnp.arange(20_000.0), "walk": START}
DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "flipped": lambda path: path.write_bytes(
        bytes(b ^ 255 if i % 7 == 3 else b for i, b in enumerate(path.read_bytes()))
    ),
    "deleted": lambda path: path.unlink(),
}


def two_checkpoints(folder):
    with Checkpoints(folder, {}) as checkpoints:
        for step in (10, 20):
            checkpoints.save(step, {**BIG, "w": BIG["w"] + step})
    return sorted(path for path in (folder / "20").rglob("*") if path.is_file())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", DAMAGES)
def test_whatever_is_damaged_no_wrong_number_is_restored(tmp_path, how):
    """Every file of the newest checkpoint in turn: it is restored as it was, or else the one before it."""
    names = [path.relative_to(tmp_path / "whole") for path in two_checkpoints(tmp_path / "whole")]
    before = 0
    for i, name in enumerate(names):
        folder = tmp_path / str(i)
        shutil.copytree(tmp_path / "whole", folder)
        DAMAGES[how](folder / name)
        with Checkpoints(folder, {}) as checkpoints:
            found = checkpoints.restore(BIG)
            assert float(found["w"][0]) in (10.0, 20.0), name
            np.testing.assert_array_equal(found["w"], BIG["w"] + found["w"][0])
            before += float(found["w"][0]) == 10.0
    assert before >= 2  # the numbers and their checksums, at the least


def test_a_damaged_checkpoint_is_put_aside_and_the_run_goes_on(tmp_path):
    for path in two_checkpoints(tmp_path):
        path.write_bytes(b"")
    with Checkpoints(tmp_path, {}) as checkpoints:
        with pytest.warns(UserWarning, match=r"damaged checkpoints .*step 20.* Going on from step 10"):
            found = checkpoints.restore(BIG)
        assert float(found["w"][0]) == 10.0
        assert checkpoints.newest() == 10
        checkpoints.save(20, found)
        assert checkpoints.newest() == 20
        np.testing.assert_array_equal(checkpoints.restore(BIG)["w"], found["w"])
    assert (tmp_path / "damaged-20").is_dir()


def test_no_readable_checkpoint_is_said(tmp_path):
    two_checkpoints(tmp_path)
    for path in tmp_path.glob("*/*/**/*"):
        if path.is_file():
            path.write_bytes(b"")
    with Checkpoints(tmp_path, {}) as checkpoints, pytest.raises(ValueError, match=r"no checkpoint .* can be read"):
        checkpoints.restore(BIG)


def test_a_changed_checksum_is_damage_and_not_another_model(tmp_path):
    two_checkpoints(tmp_path)
    path = next(path for path in (tmp_path / "20" / "state").rglob("*") if b"20000" in path.read_bytes())
    path.write_bytes(path.read_bytes().replace(b"20000", b"20001"))
    with Checkpoints(tmp_path, {}) as checkpoints, pytest.warns(UserWarning, match="checksums changed"):
        assert float(checkpoints.restore(BIG)["w"][0]) == 10.0


def test_a_hiccup_of_the_machine_is_not_damage(tmp_path, monkeypatch):
    two_checkpoints(tmp_path)
    with Checkpoints(tmp_path, {}) as checkpoints:
        read, calls = checkpoints._manager.restore, []

        def restore(*args, **options):
            calls.append(args)
            if len(calls) == 1:
                raise OSError("too many open files")
            return read(*args, **options)

        monkeypatch.setattr(checkpoints._manager, "restore", restore)
        assert float(checkpoints.restore(BIG)["w"][0]) == 20.0

        def full(*args, **options):
            raise MemoryError

        monkeypatch.setattr(checkpoints._manager, "restore", full)
        with pytest.raises(MemoryError):
            checkpoints.restore(BIG)
    assert (tmp_path / "20").is_dir()


@pytest.mark.parametrize("folder", ["default", "sums"])
def test_a_checkpoint_of_an_older_layout_is_refused(tmp_path, folder):
    two_checkpoints(tmp_path)
    (tmp_path / "20" / folder).mkdir()
    with Checkpoints(tmp_path, {}) as checkpoints, pytest.raises(ValueError, match="an older otgen wrote it"):
        checkpoints.restore(BIG)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "bool", "float32", "uint32"])
def test_arrays_of_all_kinds_come_back(tmp_path, dtype):
    tree = {
        "odd": jnp.ones(3, jnp.int8),
        "x": (jnp.arange(10).reshape(2, 5) / 3).astype(dtype),
        "none": jnp.zeros((0, 2)),
    }
    with Checkpoints(tmp_path, {}) as checkpoints:
        checkpoints.save(1, tree)
        found = checkpoints.restore(tree)
    for name, leaf in tree.items():
        assert (found[name].dtype, found[name].shape) == (leaf.dtype, leaf.shape)
        assert np.array_equal(np.asarray(found[name]), np.asarray(leaf))
        assert found[name].sharding == leaf.sharding


def test_a_typed_key_in_a_state_is_refused(tmp_path):
    with Checkpoints(tmp_path, {}) as checkpoints, pytest.raises(ValueError, match=r"\['key'\] is a typed random key"):
        checkpoints.save(1, {"key": jax.random.key(0), "x": jnp.zeros(2)})


def test_other_arrays_are_refused_and_left_alone(tmp_path):
    two_checkpoints(tmp_path)
    with Checkpoints(tmp_path, {}) as checkpoints:
        with pytest.raises(ValueError, match=r"holds other arrays: \['w'\] \(stored \[\[20000\]"):
            checkpoints.restore({**BIG, "w": jnp.zeros(3)})
        with pytest.raises(ValueError, match="'more'"):
            checkpoints.restore({**BIG, "more": jnp.zeros(3)})
        assert checkpoints.newest() == 20
