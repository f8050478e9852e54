"""Several processes that train together: the same losses, one of them killed, all of them interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import local_hosts
from otgen.train import hosts

ROOT = Path(__file__).parents[2]
TWO = [sys.executable, "-m", "experiments.local_hosts", "--num", "2", "--devices", "2", "ae_ot"]
SMALL = ["--batch-size", "128", "--num-eval", "200", "--draws", "2", "--tol", "0.2", "--mixture-components", "4"]


def start(command: list[str], out: Path, epochs: int, *more: str) -> subprocess.Popen:
    words = [*command, "--out", str(out), "--epochs", str(epochs), *SMALL, *more]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def losses(out: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if line["stage"] == "autoencoder"]


def wait_for(out: Path, process: subprocess.Popen) -> None:
    """Wait until a run has logged something."""
    deadline = time.monotonic() + 200
    while not (out / "metrics.jsonl").exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def children(process: subprocess.Popen) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


@pytest.mark.slow
def test_two_hosts_learn_what_one_learns_also_when_interrupted(tmp_path):
    alone = start([sys.executable, "-m", "experiments.ae_ot"], tmp_path / "alone", 40)
    told, _ = alone.communicate(timeout=400)
    assert alone.returncode == 0, told
    two = start(TWO, tmp_path / "two", 40)
    wait_for(tmp_path / "two", two)
    two.send_signal(signal.SIGTERM)  # both stop at the same step, and it is saved
    told, _ = two.communicate(timeout=100)
    assert two.returncode != 0
    assert told.count("interrupted; continue with --resume") == 2, told
    again = start(TWO, tmp_path / "two", 40, "--resume")
    told, _ = again.communicate(timeout=500)
    assert again.returncode == 0, told
    assert told.count("figure:") == 1  # of the first process
    one, both = losses(tmp_path / "alone"), dict(losses(tmp_path / "two"))
    for place, (step, loss) in enumerate(one):
        assert both[step] == pytest.approx(loss, rel=1e-4 if place < 3 else 1e-2)  # rounding grows


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_ends_the_other_with_a_message(tmp_path, victim):
    two = start(TWO, tmp_path / "two", 5000)
    wait_for(tmp_path / "two", two)
    os.kill(children(two)[victim], signal.SIGKILL)
    since = time.monotonic()
    told, _ = two.communicate(timeout=100)
    assert time.monotonic() - since < 60
    assert two.returncode != 0
    assert f"process {victim} of 2 ended with status -9" in told
    assert f"process {1 - victim} of 2 ended with status" in told
    assert "another task died" in told or "another process is gone" in told
    assert "continue with the same command and --resume" in told


def test_what_the_environment_lacks_is_named(monkeypatch):
    monkeypatch.setenv("OTGEN_COORDINATOR", "127.0.0.1:1")
    with pytest.raises(ValueError, match="OTGEN_NUM_PROCESSES, OTGEN_PROCESS_ID not set"):
        hosts.join()


def test_one_process_is_its_own_first():
    tree = {"w": 1.0}
    assert hosts.is_first()
    assert hosts.from_first(tree) is tree
    assert hosts.agreed(True)
    assert not hosts.agreed(False)


@pytest.mark.parametrize("words", [[], ["--num", "0", "ae_ot"], ["--devices", "-1", "ae_ot"]])
def test_bad_command_lines(words, capsys):
    with pytest.raises(SystemExit):
        local_hosts.main(words)
    assert "such as ae_ot --dataset digits" in capsys.readouterr().err
