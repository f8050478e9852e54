"""On a machine that has jax, flax, optax, orbax-checkpoint, numpy and scipy alone, the core and training work.

A finder refuses what else is installed. What needs more says the package by the name that pip knows.
"""

import contextlib
import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from otgen import optional

ROOT = Path(__file__).parents[1]
GIVEN = ("jax", "flax", "optax", "orbax-checkpoint", "numpy", "scipy")
SAID = (
    "diffrax",
    "matplotlib",
    "ott-jax",
    "pillow",
    "scikit-learn",
    "tensorboardX",
    "tensorflow-datasets",
    "tqdm",
    "tyro",
    "wandb",
)
READERS = ("builders", "decoding", "own", "planning")
FINDER = """
import sys

class Finder:
    refused = {refused!r}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.refused:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Finder())
"""
SOLVES = """
import jax, numpy as np, otgen as og

x = jax.random.normal(jax.random.key(0), (16, 2))
_, info = og.sinkhorn.run(og.PairwiseCost(x, x + 1.0), epsilon=0.5)
assert info.status == og.Status.CONVERGED, info
_, info = og.semidiscrete.run(jax.random.key(1), x, tol=0.1)
assert info.status == og.Status.CONVERGED, info
images = np.random.default_rng(0).uniform(size=(16, 4, 4, 1)).astype(np.float32)
fitted = og.models.baselines.vae.fit(
    jax.random.key(2), images, latent_dim=1, hidden=(8,), epochs=2, batch_size=8, checkpoints=sys.argv[1] + "/steps"
)
og.save(sys.argv[1] + "/model", fitted)
assert og.load(sys.argv[1] + "/model").module == fitted.module
"""
IMPORTS = """
import importlib, json, pkgutil

import numpy as np
import otgen as og
import experiments.gpu_check.cases
from experiments.gpu_check.checks import main

try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0

failing = []
for found in pkgutil.walk_packages(og.__path__, "otgen."):
    try:
        importlib.import_module(found.name)
    except ModuleNotFoundError:
        failing.append(found.name)

x = np.zeros((4, 2))
calls = {
    "diffrax": lambda: og.models.flow.paths.integrate(None, x, 0.0, 1.0, "adaptive", 1),
    "matplotlib": lambda: og.plot.points(x),
    "ott-jax": lambda: og.to_ott(og.DenseCost(x)),
    "pillow": lambda: og.data.load(np.zeros((4, 8, 8, 1), np.uint8)),
    "scikit-learn": lambda: og.data.load("digits"),
    "tensorboardX": lambda: og.train.TensorBoard(".", "fit"),
    "tensorflow-datasets": lambda: og.data.load("mnist", data_dir="."),
    "tqdm": lambda: og.train.Progress(10, "fit"),
    "tyro": lambda: importlib.import_module("experiments.lab.command").cli(None, None, None, None),
    "wandb": lambda: og.train.Tracker("fit"),
}
said = {}
for name, call in calls.items():
    try:
        call()
    except ModuleNotFoundError as error:
        said[name] = str(error)
print(json.dumps({"failing": failing, "said": said}))
"""


def others(packages):
    """Modules at the top of all installed packages but these, what they need themselves, and the project."""
    wanted, kept = list(packages), {"otgen"}
    while wanted:
        name = _canonical(wanted.pop())
        if name in kept:
            continue
        kept.add(name)
        with contextlib.suppress(metadata.PackageNotFoundError):  # for another platform
            lines = metadata.requires(name) or []
            wanted += [re.match(r"[\w.-]+", line)[0] for line in lines if "extra ==" not in line]
    return {
        top
        for top, owners in metadata.packages_distributions().items()
        if not kept & {_canonical(owner) for owner in owners}
    }


def _canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def run_with_the_given(program, *arguments):
    """Run a program in a Python in which only the packages of GIVEN can be imported, and return what it prints."""
    command = [sys.executable, "-c", FINDER.format(refused=others(GIVEN)) + program, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_modules_import_and_what_is_missing_is_said_by_the_name_that_pip_knows():
    """The readers of image files are imported by what reads them, all other modules anywhere."""
    printed = run_with_the_given(IMPORTS)
    assert "python -m experiments.gpu_check" in printed  # what --help says
    found = json.loads(printed.splitlines()[-1])
    assert sorted(found["failing"]) == [f"otgen.data.{name}" for name in READERS]
    assert found["said"] == {
        name: f"{name} is needed for this and is not installed: pip install {name}" for name in SAID
    }


@pytest.mark.slow
def test_solves_training_and_saving_need_six_packages(tmp_path):
    run_with_the_given(SOLVES, str(tmp_path))


def test_an_import_that_breaks_otherwise_is_not_taken_for_a_missing_package():
    with pytest.raises(ImportError, match="cannot import name"), optional.imports():
        from otgen.types import no_such_name  # noqa: F401


def test_extras_bound_jax_as_the_project_does_and_make_tests_both_ends():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    low, high = re.fullmatch(r">=([\d.]+),<0\.(\d+)", _bounds("jax", project["dependencies"])).groups()
    for extra in ("cuda12", "cuda13", "tpu"):
        assert _bounds(f"jax[{extra}]", project["optional-dependencies"][extra]) == f">={low},<0.{high}"
    makefile = (ROOT / "Makefile").read_text()
    assert f"JAX_oldest := {low}\n" in makefile
    assert f"JAX_newest := 0.{int(high) - 1}.*\n" in makefile


def _bounds(package, lines):
    return next(line.removeprefix(package) for line in lines if re.match(rf"{re.escape(package)}[<>=]", line))


def test_make_says_which_python_the_newest_jax_needs():
    command = ["make", "--always-make", "test-newest", "PYTHON312="]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "jax 0.12.* needs Python 3.12 or newer; pass PYTHON312=/path/to/python" in done.stdout
