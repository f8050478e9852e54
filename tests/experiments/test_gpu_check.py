"""The command for accelerators on a machine that has none: what it says and survives, and its checks when tiny."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.gpu_check import base
from experiments.gpu_check import checks as gpu_check
from experiments.gpu_check.base import Context, Skipped, judged, relative, seconds_of
from experiments.gpu_check.cases import CHECKS

ROOT = Path(__file__).parents[2]
EXTRAS = (
    "jaxtyping",
    "ott",
    "jaxopt",
    "diffrax",
    "sklearn",
    "PIL",
    "tqdm",
    "tyro",
    "matplotlib",
    "tensorflow_datasets",
)
BLOCKED = """
import sys

sys.modules.update(dict.fromkeys({names!r}))  # None there makes an import fail, and find_spec find nothing
from experiments.gpu_check.checks import main

sys.exit(main({arguments!r}))
"""


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # main sets it with --cpu: put back what was there


def records(path: Path) -> dict:
    return json.loads(path.read_text())["checks"]


def without(names: tuple[str, ...], *arguments: str) -> subprocess.CompletedProcess:
    """Run the command in a Python in which some packages cannot be imported."""
    code = BLOCKED.format(names=names, arguments=list(arguments))
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=900)


def test_without_an_accelerator_it_says_so_and_ends_well(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert gpu_check.main([]) == 0
    assert "No accelerator" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_cheap_checks_pass_when_tiny_and_are_written(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(base, "seconds_of", functools.partial(seconds_of, least=0.01, rounds=1))
    out, names = tmp_path / "deep" / "check.json", ["ceilings", "scores.gradients", "trap.scores"]
    assert gpu_check.main(["--cpu", "--only", *names, "--seed", "7", "--out", str(out)]) == 0
    results = json.loads(out.read_text())
    assert list(results["checks"]) == names
    assert results["seed"] == 7
    assert results["tiny"] is True
    assert results["platform"] == "cpu"
    for record in results["checks"].values():
        assert record["status"] == "passed"
        assert set(record["limits"]) <= set(record["numbers"])
    assert results["checks"]["ceilings"]["numbers"]["copy_gb_per_s"] > 0
    printed = capsys.readouterr().out
    assert "trap.scores" in printed
    assert "3 passed" in printed


def test_a_check_that_breaks_or_misses_is_listed_and_the_others_go_on(capsys, tmp_path):
    def broken(context):
        raise FloatingPointError("this one breaks")

    def absent(context):
        import a_package_that_nobody_has  # noqa: F401

    def ours(context):
        import otgen.a_part_that_is_gone  # noqa: F401

    def elsewhere(context):
        raise Skipped("wrong kind of device")

    checks = {
        "broken": broken,
        "absent": absent,
        "ours": ours,
        "elsewhere": elsewhere,
        "missed": lambda context: judged({"error": float("nan"), "rate": 3.0}, at_most={"error": 1}),
        "fine": lambda context: judged({"error": 0.5}, at_most={"error": 1}, at_least={"error": 0.1}),
    }
    out = tmp_path / "check.json"
    assert gpu_check.main(["--cpu", "--out", str(out)], checks) == 1
    found = records(out)
    statuses = {name: record["status"] for name, record in found.items()}
    assert statuses == {
        "broken": "error",
        "absent": "skipped",
        "ours": "error",
        "elsewhere": "skipped",
        "missed": "failed",
        "fine": "passed",
    }
    assert "FloatingPointError: this one breaks (test_gpu_check.py:" in found["broken"]["reason"]
    assert found["absent"]["reason"] == "needs the package a_package_that_nobody_has, which is not installed"
    assert found["missed"]["missed"] == ["error"]
    assert found["fine"]["limits"] == {"error": "<= 1 and >= 0.1"}
    printed = capsys.readouterr().out
    assert "1 passed; error: broken, ours; skipped: absent, elsewhere; failed: missed." in printed
    assert gpu_check.main(["--cpu", "--only", "absent", "elsewhere", "fine"], checks) == 0


def test_no_check_begins_after_the_time_is_used_up(tmp_path):
    out = tmp_path / "check.json"
    assert gpu_check.main(["--cpu", "--minutes", "0", "--only", "ceilings", "--out", str(out)]) == 0
    assert records(out)["ceilings"] == {"status": "not run", "reason": "the time was used up: raise --minutes"}


def test_names_choose_checks_and_their_groups():
    assert gpu_check.chosen(list(CHECKS), None) == list(CHECKS)
    assert gpu_check.chosen(list(CHECKS), ["trap", "latent"]) == [
        "trap.distances",
        "trap.scores",
        "trap.sinkhorn",
        "trap.barycentre",
        "latent",
    ]
    with pytest.raises(ValueError, match="--only nothing: no such check"):
        gpu_check.chosen(list(CHECKS), ["nothing"])


def test_inputs_follow_the_seed_and_the_name():
    one, same, other = Context(1, True), Context(1, True), Context(2, True)
    assert one.rng("a").normal() == same.rng("a").normal()
    assert len({one.rng("a").normal(), one.rng("b").normal(), other.rng("a").normal()}) == 3


def test_errors_are_relative_and_see_what_is_not_a_number():
    import numpy as np

    assert relative([1.0, 2.5], np.array([1.0, 2.0])) == 0.25
    assert not judged({"error": relative([np.nan], np.ones(1))}, at_most={"error": 1.0})["passed"]


@pytest.mark.slow
def test_packages_that_are_missing_skip_what_needs_them(tmp_path):
    out = tmp_path / "check.json"
    chosen = ["--only", "ceilings", "trap.scores", "checkpoint", "train.vae"]
    done = without((*EXTRAS, "orbax", "optax"), "--cpu", *chosen, "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(out.read_text())
    assert results["checks"]["ceilings"]["status"] == "passed"
    reasons = {name: record.get("reason") for name, record in results["checks"].items()}
    assert reasons["checkpoint"] == "needs the package orbax, which is not installed"
    assert reasons["train.vae"] == "needs the package optax, which is not installed"


@pytest.mark.slow
def test_every_check_passes_when_tiny_with_the_five_packages_alone(tmp_path):
    out = tmp_path / "check.json"
    done = without(EXTRAS, "--cpu", "--minutes", "14", "--out", str(out))
    found = records(out)
    assert {name: record["status"] for name, record in found.items()} == dict.fromkeys(CHECKS, "passed"), done.stdout
    assert done.returncode == 0
