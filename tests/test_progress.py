"""A fit shows one line of progress in a notebook, and elsewhere where it is asked to."""

import inspect
import sys
import types
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otgen as og
from otgen import progress
from otgen.train.stages import opened
from tests.support.doctests import public


class Bar:
    """Stands for tqdm, and remembers what was drawn."""

    made: ClassVar[list] = []

    def __init__(self, total, desc, **_):
        self.total, self.labels, self.n, self.closed, self.steps = total, [desc], 0, False, []
        Bar.made.append(self)

    def set_postfix(self, *_, **__):
        pass

    def set_description(self, label, **_):
        self.labels.append(label)

    def reset(self, total):
        self.n = 0

    def update(self, num):
        self.n += num
        self.steps.append(self.n)

    def close(self):
        self.closed = True


@pytest.fixture
def bars(monkeypatch):
    module = types.ModuleType("tqdm.auto")
    module.tqdm = Bar
    monkeypatch.setitem(sys.modules, "tqdm.auto", module)
    monkeypatch.setattr(Bar, "made", [])
    return Bar.made


@pytest.fixture
def notebook(monkeypatch):
    """What IPython looks like in a kernel, where nobody has to import it to see."""
    module = types.ModuleType("IPython")
    module.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", module)


def step(state, batch, key, *, axis_name=None):
    return state._replace(step=state.step + 1), {"loss": jnp.mean(batch)}


def trained(**options):
    state = og.train.TrainState(jnp.float32(0), (), jnp.int32(0))
    batches = [np.ones(4, np.float32)] * 4
    return og.train.train(step, state, batches, jax.random.key(0), log_every=2, **options)


def test_training_draws_a_line_in_notebooks_and_still_calls_back(bars, notebook):
    seen = []
    trained(num_steps=4, callback=lambda step, metrics: seen.append(step))
    assert seen == [2, 4]
    assert [(bar.total, bar.steps, bar.closed) for bar in bars] == [(4, [2, 4], True)]
    trained(progress=False)
    assert len(bars) == 1


def test_scripts_are_silent_unless_asked(bars):
    trained()
    assert not bars
    trained(progress=True)
    assert len(bars) == 1
    assert bars[0].total is None


def test_ipython_of_a_terminal_is_no_notebook(bars, monkeypatch):
    module = types.ModuleType("IPython")
    module.get_ipython = lambda: types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "IPython", module)
    assert not progress.in_notebook()
    monkeypatch.delitem(sys.modules, "IPython")
    assert not progress.in_notebook()
    assert "IPython" not in sys.modules


def test_stages_of_a_fit_share_one_line(bars):
    @progress.watched
    def fit(quiet=None):
        for name in ("first", "second"):
            with opened(None, name):
                trained(num_steps=4, progress=quiet)

    fit(progress=True)
    (bar,) = bars
    assert bar.labels == ["first", "second"]
    assert bar.steps == [2, 4, 2, 4]
    assert bar.closed
    fit(quiet=False, progress=True)  # what is asked for last counts
    fit(progress=False)
    assert len(bars) == 1


def test_a_line_is_closed_when_the_work_fails(bars):
    state = og.train.TrainState(jnp.float32(0), (), jnp.int32(0))
    with pytest.raises(og.train.NonFinite):
        og.train.train(step, state, [np.full(4, np.nan, np.float32)], jax.random.key(0), progress=True)
    assert bars[0].closed


def test_semidiscrete_solves_draw_a_line(bars):
    y = jax.random.normal(jax.random.key(0), (64, 2))
    seen = []
    og.semidiscrete.run(jax.random.key(1), y, progress=True, callback=lambda step, metrics: seen.append(step))
    (bar,) = bars
    assert bar.labels == ["transport"]
    assert bar.closed
    assert seen
    assert bar.n == max(seen)


def test_whoever_takes_a_callback_takes_progress():
    functions = {name: it for name, it in public() if not inspect.isclass(it)}
    told = {name for name, it in functions.items() if "callback" in inspect.signature(it).parameters}
    without = {name for name in told if "progress" not in inspect.signature(functions[name]).parameters}
    assert len(told) > 20
    assert not without, "decorate these with otgen.progress.watched"
    assert "progress: whether a line" in og.models.ae_ot.fit.__doc__


@pytest.mark.parametrize("wrong", [1, "yes"])
def test_progress_is_a_yes_or_a_no(wrong):
    with pytest.raises(ValueError, match="give True, False, or None"):
        trained(progress=wrong)
