"""What can happen to a run: it is killed, the disk is full, the folder cannot be written to, the numbers break."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otgen.train import Checkpoints, JsonLines, averaged, train
from otgen.train.checkpoint import versions
from tests.train.test_loop import START, Walk, batches, step

# A run of 6,000 short steps that saves every 5 of them, and whose state remembers all that it has been through.
RUN = """
import sys, time, jax, jax.numpy as jnp, numpy as np
from typing import Any, NamedTuple
from otgen.train import Checkpoints, JsonLines, TrainState, averaged
from otgen.train.loop import train_on
def step(state, batch, key, *, axis_name=None):
    noise = jax.random.normal(jax.random.fold_in(key, state.step), state.params.shape)
    params = 0.99 * state.params + noise * averaged(batch.mean(), axis_name)
    return TrainState(params, (), state.step + 1), {"norm": jnp.linalg.norm(params)}
def slowly(step, metrics):
    time.sleep(0.02)
state = TrainState(jnp.zeros((50, 40)), (), jnp.int32(0))
rows = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
with Checkpoints(sys.argv[1] + "/checkpoints", {"seed": 0}) as checkpoints:
    print("ready", flush=True)
    lines = JsonLines(sys.argv[1] + "/metrics.jsonl", "walk")
    both = lambda step, metrics: (slowly(step, metrics), lines(step, metrics))
    train_on((rows,), step, state, tuple(jax.random.split(jax.random.key(1))), num_steps=6000, batch_size=16,
             checkpoints=checkpoints, callback=both, log_every=5, save_every=5)
"""


def last_state(folder: Path) -> np.ndarray:
    from otgen.train import TrainState

    like = TrainState(jnp.zeros((50, 40)), (), jnp.int32(0))
    with Checkpoints(folder / "checkpoints", {"seed": 0}) as checkpoints:
        found = checkpoints.restore(like)
    assert int(found.step) == 6000
    return np.asarray(found.params)


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_twenty_kills_at_random_times_change_no_bit(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    subprocess.run([sys.executable, "-c", RUN, str(whole)], check=True, capture_output=True)
    chance, kills = random.Random(0), 0
    while True:
        command = [sys.executable, "-c", RUN, str(killed)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "ready\n"
            if kills == 20:
                assert process.wait(timeout=300) == 0
                break
            time.sleep(chance.uniform(0.0, 1.5))
            assert process.poll() is None, "the run ended before it was killed twenty times"
            os.kill(process.pid, signal.SIGKILL)
        kills += 1
    assert not list(killed.rglob("damaged-*"))
    np.testing.assert_array_equal(last_state(killed), last_state(whole))
    told = [
        [line.split('"seconds"')[0] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (whole, killed)
    ]
    assert told[0] == told[1]  # every step once, in order


FULL = """
import resource, sys, jax, jax.numpy as jnp
from otgen.train import Checkpoints
tree = {"w": jax.random.normal(jax.random.key(0), (200_000,))}
with Checkpoints(sys.argv[1], {}) as checkpoints:
    checkpoints.save(1, tree)
    checkpoints.newest()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    checkpoints.save(2, jax.tree.map(lambda x: x + 1, tree))
"""


def test_a_full_disk_stops_the_run_with_the_last_checkpoint_intact(tmp_path):
    """No file may grow beyond 100 kB when the second checkpoint is written."""
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "OSError: a checkpoint could not be written to" in done.stderr
    assert "step 1 is the last one. Make room there" in done.stderr
    with Checkpoints(tmp_path, {}) as checkpoints:
        found = checkpoints.restore({"w": jnp.zeros(200_000)})
    np.testing.assert_array_equal(found["w"], jax.random.normal(jax.random.key(0), (200_000,)))


def test_a_folder_that_cannot_be_written_to_is_named():
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o555)
        program = (
            "import os, sys, orbax.checkpoint; from otgen.train import Checkpoints; "
            "os.geteuid() or os.setuid(65534); Checkpoints(sys.argv[1], {})"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, f"{name}/run"], capture_output=True, text=True, check=False
        )
        os.chmod(name, 0o755)
    assert done.returncode != 0
    assert f"Permission denied: '{name}/run'" in done.stderr


def test_the_best_checkpoint_is_kept_across_resumes(key, tmp_path):
    values = [5.0, 3.0, 4.0, 2.5, 6.0]

    def scripted(state, batch, key, *, axis_name=None):
        return Walk(state.x + 1, state.step + 1), {"error": jnp.array(values)[state.step]}

    for stop in (3, 5):
        with Checkpoints(tmp_path, {}, best="error") as checkpoints:
            state = checkpoints.restore(START) or START
            feed = batches(int(state.step), stop)
            train(scripted, state, feed, key, checkpoints=checkpoints, save_every=1, log_every=1)
            best = checkpoints.restore(START, best=True)
        assert int(best.step) == {3: 2, 5: 4}[stop]
    with Checkpoints(tmp_path, {}) as checkpoints, pytest.raises(ValueError, match="name its metric"):
        checkpoints.restore(START, best=True)
    unknown = pytest.raises(ValueError, match="'loss' is no metric of this training; its metrics: error")
    with Checkpoints(tmp_path / "other", {}, best="loss") as checkpoints, unknown:
        train(scripted, START, batches(0, 2), key, checkpoints=checkpoints, save_every=1)


def test_a_finished_run_with_a_best_checkpoint_is_resumed(key, tmp_path):
    for _ in range(2):
        with Checkpoints(tmp_path, {}, best="x") as checkpoints:
            state = checkpoints.restore(START) or START
            train(step, state, batches(int(state.step), 4), key, checkpoints=checkpoints, save_every=2)


def test_a_damaged_best_checkpoint_is_put_aside(key, tmp_path):
    with Checkpoints(tmp_path, {}, best="x") as checkpoints:
        train(step, START, batches(0, 4), key, checkpoints=checkpoints, save_every=4)
    for path in (tmp_path / "best" / "4" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with Checkpoints(tmp_path, {}, best="x") as checkpoints:
        state = checkpoints.restore(START)
        with pytest.warns(UserWarning, match=r"damaged checkpoints in .*best: step 4 .* becomes the best"):
            train(step, state, batches(4, 8), key, checkpoints=checkpoints, save_every=4)
        assert int(checkpoints.restore(START, best=True).step) == 8
    assert (tmp_path / "best" / "damaged-4").is_dir()


@pytest.mark.parametrize("steps_per_call", [1, 5])
def test_a_feed_may_fill_the_same_memory_again(key, steps_per_call):
    def add(state, batch, key, *, axis_name=None):
        return Walk(state.x + averaged(batch.mean(), axis_name), state.step + 1), {"x": state.x}

    def feed():
        rows = np.empty((8, 8192), np.float32)
        for i in range(20):
            rows[:] = i
            yield rows

    end = train(add, START, feed(), key, steps_per_call=steps_per_call)
    assert float(end.x) == sum(range(20))


@pytest.mark.usefixtures("heard")
def test_a_signal_at_the_last_step_is_not_lost(key, tmp_path):
    def stop(now, metrics):
        if now == 12:
            os.kill(os.getpid(), signal.SIGTERM)

    with Checkpoints(tmp_path, {}) as checkpoints:
        with pytest.raises(KeyboardInterrupt):
            train(step, START, batches(0, 12), key, checkpoints=checkpoints, callback=stop)
        assert checkpoints.newest() == 12


def test_other_versions_are_told(tmp_path, monkeypatch):
    with Checkpoints(tmp_path, {}) as checkpoints:
        checkpoints.save(1, START)
    monkeypatch.setattr("otgen.train.checkpoint.versions", lambda: {**versions(), "jax": "9.9"})
    told = pytest.warns(UserWarning, match=rf"made with jax {jax.__version__}: .* last digits")
    with Checkpoints(tmp_path, {}) as checkpoints, told:
        checkpoints.restore(START)


def test_lines_after_the_last_checkpoint_are_written_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for first, last in ((1, 7), (5, 9)):  # the second run resumes from a checkpoint of step 4
        lines, other = JsonLines(path, "walk"), JsonLines(path, "other")
        other(first, {})
        for i in range(first, last):
            lines(i, {"x": float(i)})
        with open(path, "a") as file:
            file.write('{"stage": "walk", "st')  # killed while it wrote
    told = path.read_text()
    assert [told.count(f'"walk", "step": {i},') for i in range(1, 9)] == [1] * 8
    assert told.count('"other"') == 2


def test_states_are_watched_and_the_given_one_lives_on(key):
    seen = []
    start = Walk(jnp.float32(0), jnp.int32(0))
    end = train(
        step,
        start,
        batches(0, 23),
        key,
        watch=lambda now, state: seen.append((now, int(state.step))),
        save_every=10,
        log_every=10,
    )
    assert seen == [(10, 10), (20, 20)]
    assert (float(start.x), int(start.step), int(end.step)) == (0.0, 0, 23)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"log_every": 0}, "log_every = 0"),
        ({"steps_per_call": 3}, "steps_per_call = 3 does not divide"),
    ],
)
def test_bad_numbers_of_steps_raise(key, options, message):
    with pytest.raises(ValueError, match=message):
        train(step, START, batches(0, 2), key, **options)


def test_several_steps_in_a_call_are_those_one_by_one(key, tmp_path):
    """Also where the last are fewer, and where a run resumes between two calls."""
    whole = train(step, START, batches(0, 23), key)
    seen = []
    together = train(
        step,
        START,
        batches(0, 23),
        key,
        steps_per_call=5,
        save_every=12,  # nothing is saved
        log_every=5,
        callback=lambda now, metrics: seen.append(now),
    )
    with Checkpoints(tmp_path, {}) as checkpoints:
        options = {"steps_per_call": 5, "save_every": 10, "log_every": 5, "checkpoints": checkpoints}
        half = train(step, START, batches(0, 12), key, **options)
        resumed = train(step, half, batches(12, 23), key, **options)
    assert seen == [5, 10, 15, 20, 23]
    for state in (together, resumed):
        assert float(state.x) == pytest.approx(float(whole.x), rel=1e-6)
        assert int(state.step) == 23
