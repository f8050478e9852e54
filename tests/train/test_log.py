"""Callbacks, with packages that are not installed replaced by small ones that note what they are told."""

import sys
import types

import pytest

import otgen as og


@pytest.fixture
def wandb(monkeypatch):
    told = []
    module = types.SimpleNamespace(
        told=told,
        init=lambda **options: told.append(("init", options)),
        log=lambda metrics: told.append(("log", metrics)),
        finish=lambda: told.append(("finish",)),
        define_metric=lambda name, step_metric=None: told.append(("axis", name, step_metric)),
    )
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_stages_share_a_run_and_each_has_its_own_steps(wandb):
    with og.train.Tracker("fit", project="digits", config={"seed": 0}) as first:
        first(10, {"loss": 0.5})
        with og.train.Tracker("transport") as second:  # steps begin again, and the run stays open
            og.train.together(second, None)(0, {"chi2": 0.1, "loss": 2.0})
        first(20, {"loss": 0.25})
    assert wandb.told == [
        ("init", {"project": "digits", "config": {"seed": 0}}),
        ("axis", "fit/step", None),
        ("axis", "fit/*", "fit/step"),
        ("log", {"fit/step": 10, "fit/loss": 0.5}),
        ("axis", "transport/step", None),
        ("axis", "transport/*", "transport/step"),
        ("log", {"transport/step": 0, "transport/chi2": 0.1, "transport/loss": 2.0}),
        ("log", {"fit/step": 20, "fit/loss": 0.25}),
        ("finish",),
    ]


def test_a_package_without_axes_will_do_and_a_run_is_ended_after_an_error(wandb, monkeypatch):
    del wandb.define_metric
    monkeypatch.setitem(sys.modules, "trackio", wandb)
    with pytest.raises(KeyError), og.train.Tracker("fit", "trackio", project="digits"):
        raise KeyError
    assert wandb.told == [("init", {"project": "digits"}), ("finish",)]
