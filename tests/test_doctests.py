"""Every public name shows by an example what it means, and every example says what it prints."""

import doctest
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest

import otgen as og
from tests.support.doctests import Checker, examples, modules, public

matplotlib.use("Agg")
import matplotlib.pyplot as plt

NAMES = {"og": og, "jax": jax, "jnp": jnp, "np": np}
QUICK = ("otgen.types", "otgen.ot.", "otgen.eval.information", "otgen.train.log")
SLOW = (
    "otgen.ot.coupling.recorded",
    "otgen.ot.coupling.solved",
    "otgen.ot.coupling.solving",
    "otgen.ot.coupling.within",
    "otgen.ot.semidiscrete",
    "otgen.ot.semidiscrete.extension",
    "otgen.ot.semidiscrete.inverse",
    "otgen.ot.semidiscrete.pairing",
    "otgen.ot.semidiscrete.singular",
    "otgen.ot.semidiscrete.solution",
    "otgen.ot.semidiscrete.transport_map",
    "otgen.ot.sinkhorn.divergence",
    "otgen.ot.sinkhorn.drift",
    "otgen.ot.sinkhorn.sampling",
    "otgen.ot.structured.plans",
    "otgen.ot.latent.operations",
    "otgen.ot.gaussian.mixture.maps",
    "otgen.ot.gaussian.mixture.plans",
    "otgen.ot.costs.padding",
    "otgen.ot.structured.perturbed",
    "otgen.ot.structured",
)

STEP = "part of the last stage's step, which takes long to compile: `models.ae_ot_gan.fit` shows what comes of it"
WITHOUT = {
    "models.ae_ot_gan.init": STEP,
    "models.ae_ot_gan.make_step": STEP,
    "models.ae_ot_gan.new_codes": STEP,
}


def cases():
    for module in modules():
        quick = module.startswith(QUICK) and module not in SLOW
        yield pytest.param(module, marks=[] if quick else pytest.mark.slow)


@pytest.mark.parametrize("module", cases())
def test_examples(module):
    folder = os.environ.get("OTGEN_DATA")
    data_dir = folder if folder and Path(folder).is_dir() else None
    runner, told, left = doctest.DocTestRunner(Checker(), verbose=False), [], 0
    with np.printoptions(precision=4, suppress=True):
        for test in examples(module):
            if data_dir is None and "data_dir" in test.docstring:
                left += 1
                continue
            test.globs.update(NAMES, data_dir=data_dir)
            runner.run(test, out=told.append)
    plt.close("all")
    assert not runner.failures, "".join(told)
    if left and not runner.tries:
        pytest.skip("set OTGEN_DATA to the folder of the data to run these examples")


def test_every_public_name_has_an_example():
    names = [(name, it.__doc__ or "") for name, it in public()]
    without = {name for name, text in names if ">>>" not in text}
    assert len(names) > 300
    assert not without - set(WITHOUT), "give these an Example: section in their docstrings"
    assert not set(WITHOUT) - without, "these have examples now: take them off the list"


def test_a_wrong_number_is_told():
    check = Checker().check_output
    assert check("[1. 0.333]\n", "[1.        0.3333333]\n", 0)
    assert check("[[1. 0.]\n [0. 1.]]\n", "[[1. 0.]\n [0. 1.]]\n", 0)
    assert not check("[1. 0.333]\n", "[1. 0.334]\n", 0)
    assert not check("2.0\n", "2.01\n", 0)
    assert not check("(3, 2)\n", "(2, 3)\n", 0)
    assert not check("True\n", "False\n", 0)
