"""States are saved by the clock, at ends, and before an error goes on; a solve that was stopped goes on from there."""

import types

import jax
import numpy as np
import pytest

import otgen as og
from otgen import sizes
from otgen.ot.semidiscrete import saving
from otgen.ot.semidiscrete.saving import Saver


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""
    now = [0.0]
    monkeypatch.setattr(saving, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_saves_are_so_many_seconds_apart_however_many_steps_lie_between(clock):
    seen = []
    with Saver(lambda step, state: seen.append((step, clock[0])), 60.0) as saver:
        for step in range(1, 10_001):
            clock[0] += 1 / 32
            saver(step, dict)
        saver(step, dict, now=True)
    assert [step for step, _ in seen] == [1920, 3840, 5760, 7680, 9600, 10_000]
    assert np.diff([time for _, time in seen[:-1]]) == pytest.approx(60.0)


def run(save, *, error=None, now=None, **options):
    """Two steps, of which the second ends in an error."""
    with Saver(save, 60.0, **options) as saver:
        saver(1, lambda: "first", now=now)
        saver(2, lambda: "second")
        if error is not None:
            raise error


def test_an_error_is_told_after_the_state_is_saved_once(clock):
    seen = []
    run(lambda *it: seen.append(it))
    with pytest.raises(KeyboardInterrupt):
        run(lambda *it: seen.append(it), error=KeyboardInterrupt(), flushes=False)
    assert seen == []
    with pytest.raises(KeyboardInterrupt):
        run(lambda *it: seen.append(it), error=KeyboardInterrupt())
    assert seen == [(2, "second")]


def test_a_save_that_fails_is_not_tried_again(clock):
    calls = []

    def save(step, state):
        calls.append(step)
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        run(save, now=True)
    with pytest.raises(KeyboardInterrupt) as caught:
        run(save, error=KeyboardInterrupt())
    assert calls == [1, 2]
    assert caught.value.__notes__ == ["The state could not be saved: no room"]


def test_a_solve_that_was_interrupted_goes_on_bit_identically(key, monkeypatch):
    monkeypatch.setattr(sizes, "CPU", sizes.CPU._replace(work=1.0))  # a step a call
    y, seen = jax.random.normal(key, (40, 3)), []
    options = {"tol": 1e-5, "max_samples": 8 * 1024}

    def stop(step, metrics):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        og.semidiscrete.run(key, y, callback=stop, save=lambda step, state: seen.append((step, state)), **options)
    assert [step for step, _ in seen] == [5]
    whole, _ = og.semidiscrete.run(key, y, **options)
    again, _ = og.semidiscrete.run(key, y, state=seen[0][1], **options)
    np.testing.assert_array_equal(again.h, whole.h)
