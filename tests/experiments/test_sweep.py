import csv
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.sweep import launch as sweep
from experiments.sweep import progress, table
from experiments.sweep.runs import Run

ROOT = Path(__file__).parents[2]
TOY = textwrap.dedent("""
    import dataclasses, json, sys, time
    from pathlib import Path

    @dataclasses.dataclass(frozen=True)
    class Config:
        size: int = 1
        rate: float = 0.5
        hidden: tuple[int, ...] = (3,)
        seed: int = 0
        out: str | None = None
        resume: bool = False
        wait: bool = False
        distributed: bool = False

    if __name__ == "__main__":
        import tyro
        config = tyro.cli(Config)
        folder = Path(config.out)
        (folder / "starts.txt").open("a").write(f"{config.resume}\\n")
        if config.wait:
            time.sleep(600)
        if config.size == 3 and config.seed == 1:
            raise SystemExit("the toy diverged")
        loss = config.size * 10.0 + config.seed
        rows = {"fit": {"loss": loss}, "sum": {"loss": float(sum(config.hidden))}}
        (folder / "results.json").write_text(json.dumps({"seed": config.seed, "rows": rows}))
""")


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """An experiment in a package of its own, and options of a sweep over it."""
    package = tmp_path / "toys"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "plain.py").write_text(TOY)
    (package / "alone.py").write_text(TOY.replace("distributed", "undivided"))
    (package / "seedless.py").write_text(TOY.replace("seed: int", "seat: int"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    yield {"experiment": "toys.plain", "out": str(tmp_path / "out"), "progress": False}
    for name in [name for name in sys.modules if name.split(".")[0] == "toys"]:
        del sys.modules[name]


def starts(folder: Path) -> dict[str, int]:
    return {path.parent.name: len(path.read_text().split()) for path in folder.glob("*/starts.txt")}


def test_a_failed_run_is_listed_and_the_others_go_on(toy, capsys):
    config = sweep.Config(**toy, seeds="0-1", set=(("size=1,3",),), fixed=(("hidden=4,5",),), jobs=4)
    results = sweep.main(config)
    folder = Path(toy["out"])
    assert [(run["run"], run["why"]) for run in results["failed"]] == [("size=3-seed=1", "exit code 1")]
    assert "the toy diverged" in (folder / "size=3-seed=1" / "log.txt").read_text()
    said = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("size=3-seed=1: failed, exit code 1 after") for line in said) == 1
    assert [line[-8:] for line in said if ": started, " not in line] == [f"({i} of 4)" for i in (1, 2, 3, 4)]
    one, three = results["rows"]
    assert (one["setting"], one["seeds"]) == ({"size": "1"}, [0, 1])
    assert one["metrics"]["rows / fit / loss"] == {
        "mean": 10.5,
        "sd": pytest.approx(np.std([10, 11], ddof=1)),
        "seeds": 2,
        "values": [10.0, 11.0],
    }
    assert three["metrics"]["rows / fit / loss"] == {"mean": 30.0, "sd": None, "seeds": 1, "values": [30.0]}
    assert one["metrics"]["rows / sum / loss"]["mean"] == 9
    assert (folder / "sweep.png").stat().st_size > 10_000
    shown = (folder / "table.md").read_text()
    assert "| size = 1 | 10.50 ± 0.71 |" in shown
    assert "seeds of a setting: 2, 1" in shown
    assert "size=3-seed=1 failed" in shown
    assert json.loads((folder / "table.json").read_text()) == results
    lines = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    assert [(line["size"], line["seed"], line["row"], line["loss"]) for line in lines] == [
        *(("1", "0", "fit", "10.0"), ("1", "0", "sum", "9.0")),
        *(("1", "1", "fit", "11.0"), ("1", "1", "sum", "9.0")),
        *(("3", "0", "fit", "30.0"), ("3", "0", "sum", "9.0")),
    ]

    # Again, with one more value: what has finished is not started again, what failed goes on.
    again = sweep.main(sweep.Config(**toy, seeds="0-1", set=(("size=1,3,2",),), fixed=(("hidden=4,5",),), jobs=4))
    assert [row["setting"]["size"] for row in again["rows"]] == ["1", "3", "2"]
    assert starts(folder) == {name: 2 if name == "size=3-seed=1" else 1 for name in starts(folder)}
    assert len(starts(folder)) == 6
    with pytest.raises(ValueError, match=r"hidden \(stored '4,5', now '6'\)"):
        sweep.main(sweep.Config(**toy, seeds="0-1", set=(("size=1",),), fixed=(("hidden=6",),)))


def test_the_command_line_stops_its_runs_and_tells_how_to_go_on(toy):
    command = [sys.executable, "-m", "experiments.sweep", toy["experiment"], "--seeds", "0-1", "--set", "wait=True"]
    sweeping = subprocess.Popen(
        [*command, "--jobs", "2", "--out", toy["out"]], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    folder = Path(toy["out"])
    try:
        wait_until(lambda: len(starts(folder)) == 2, sweeping)
        with pytest.raises(ValueError, match="--set"):
            sweep.main(sweep.Config(**toy, set=(("wait",),)))
        other = sweep.main(sweep.Config(**toy, seeds="0", set=(("wait=True",),)))
        assert other["failed"][0]["why"] == "it is running already"
    finally:
        sweeping.send_signal(signal.SIGTERM)
        output = sweeping.communicate(timeout=60)[0].decode()
    assert sweeping.returncode == 1
    assert "interrupted; the same command goes on" in output
    assert not running_below(folder)
    assert not list(folder.glob("*/done.json"))


def wait_until(reached, process: subprocess.Popen, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert process.poll() is None, process.stdout.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def running_below(folder: Path) -> list[str]:
    """Command lines of living processes that name a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in text and path.parent.name != str(os.getpid()):
            found.append(text)
    return found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"set": (("sise=1,2",),)}, r"no such field; there are size, rate, hidden"),
        ({"fixed": (("sise=1",),)}, "no such field"),
        ({"set": (("seed=1,2",),)}, "give --seeds"),
        ({"set": (("size=1,",),)}, "FIELD=VALUE"),
        ({"set": (("size=1",), ("size=2",))}, "size: give all values"),
        ({"set": (("size=1",),), "along": "rate"}, "'rate' is not swept: choose among size"),
        ({"set": (("size=1,one",),)}, "refuses the options of size=one-seed=0"),
        ({"experiment": "toys.seedless"}, "there must be out, and seed"),
        ({"set": (("size=1",),), "fixed": (("size=2",),)}, "size: give all values"),
        ({"fixed": (("size=1", "size=2"),)}, "size: give all values"),
        ({"experiment": "nothing"}, "is no experiment"),
        ({"jobs": 0}, "1 or more"),
        ({"nodes": 2}, "give --slurm"),
        ({"nodes": 2, "slurm": True, "experiment": "toys.alone"}, "runs on one node"),
    ],
)
def test_bad_options_raise_before_anything_starts(toy, options, message):
    with pytest.raises(ValueError, match=message):
        sweep.main(sweep.Config(**{**toy, **options}))
    assert not Path(toy["out"]).exists()


def test_the_grid_is_the_product_and_values_reach_the_command_line(toy):
    swept = (("size=1,2", "hidden=(4,5),(6,)"), ("rate=-1.5",))
    runs = sweep.plan(sweep.Config(**toy, seeds="0,3", set=swept, fixed=(("wait=False",),)))
    assert len({run.folder for run in runs}) == len(runs) == 8
    assert runs[1].folder.name == "size=1-hidden=(4,5)-rate=-1.5-seed=3"
    words = runs[1].command[3:]
    assert words[words.index("--hidden") :][:3] == ["--hidden", "4", "5"]
    assert {"--size=1", "--rate=-1.5", "--no-wait", "--seed=3", "--resume"} <= set(words)
    assert "--no-progress" not in words  # the toy has no such option
    assert "--distributed" not in words
    (run,) = sweep.plan(sweep.Config(**toy, slurm=True, nodes=2))
    assert "--distributed" in run.command
    runs = sweep.plan(sweep.Config("compare", seeds="2", out=toy["out"], set=(("models=(vae,ae_ot),ae_ot",),)))
    assert runs[0].command[3:5] == ["--models=vae,ae_ot", "--seeds=2"]
    assert "--no-progress" in runs[0].command


def test_folders_of_different_settings_differ():
    settings = [{"a": "1", "b": "2"}, {"a": "1-b=2"}, {"a": "x/y"}, {"a": "x_y"}, {"a": "x%2Fy"}, {"a": "..", "b": "/"}]
    names = [sweep.folder_name(setting, 0) for setting in settings]
    assert len(set(names)) == len(names)
    assert not any("/" in name for name in names)


def test_numbers_of_results_of_every_shape():
    summary = {"mean": 2.0, "sd": None, "seeds": 1, "low": None}
    tree = {
        "dataset": "digits",
        "seed": 7,
        "rows": {"a": {"loss": 1.5, "none": None}, "b": {"loss": summary}},
        "runs": [{"seed": 7, "rows": {"a": {"loss": 1.5}}}],
        "table": [{"variant": "x", "loss": 3}, {"variant": "y", "loss": 4}, {"n": 5}],
        "pair": [6, True],
        "curve": list(range(100)),
    }
    assert dict(table.leaves(tree)) == {
        "rows / a / loss": 1.5,
        "rows / b / loss": 2.0,
        "table / x / loss": 3.0,
        "table / y / loss": 4.0,
        "table / 2 / n": 5.0,
        "pair / 0": 6.0,
        "pair / 1": 1.0,
    }


def test_the_choice_of_numbers():
    found = [
        (
            {"size": str(size)},
            seed,
            {"a": {"frechet": size + seed, "frechet_sd": seed}, "c": {"lmem": 1}, "steps": size},
        )
        for size in (1, 2)
        for seed in (0, 1)
    ]
    rows = table.gather(found)
    assert table.choose(rows) == ["a / frechet"]  # lmem does not vary, steps are no score
    assert table.choose(rows, "A / F, step") == ["a / frechet", "a / frechet_sd", "steps"]
    assert table.choose(rows, "frechet") == ["a / frechet"]  # a whole last part
    assert table.choose(rows, "chet") == ["a / frechet", "a / frechet_sd"]
    with pytest.raises(ValueError, match="c / lmem"):
        table.choose(rows, "accuracy")
    many = [({}, 0, {str(i): {"frechet": i} for i in range(50)}), ({}, 1, {str(i): {"frechet": -i} for i in range(50)})]
    assert len(table.choose(table.gather(many))) == table.MOST


@pytest.mark.slow
def test_submitit_runs_the_jobs(toy):
    pytest.importorskip("submitit")
    config = sweep.Config(**toy, seeds="0-1", set=(("size=1,3",),), slurm=True, cluster="local", minutes=5)
    results = sweep.main(config)
    assert [(run["run"], run["why"]) for run in results["failed"]] == [("size=3-seed=1", "exit code 1")]
    assert results["rows"][0]["metrics"]["rows / fit / loss"]["mean"] == 10.5


def test_slurm_without_submitit_says_what_is_missing(toy, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ModuleNotFoundError, match="pip install submitit"):
        sweep.main(sweep.Config(**toy, slurm=True))


@pytest.mark.slow
def test_a_sweep_of_ae_ot_killed_and_resumed(tmp_path):
    small = ["epochs=30", "limit=400", "num_eval=60", "draws=2", "tol=0.05", "mixture_components=3"]
    command = [sys.executable, "-m", "experiments.sweep", "ae_ot", "--seeds", "0-1", "--set", "latent_dim=4"]
    command += ["--fixed", *small, "--jobs", "2", "--no-progress"]

    def trained(folder: Path) -> bool:
        return any(path.name.isdigit() for path in folder.glob("*/checkpoints/transport/*"))

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    options = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    sweeping = subprocess.Popen([*command, "--out", str(killed)], **options)
    try:
        wait_until(lambda: trained(killed), sweeping, 600)
    finally:
        sweeping.send_signal(signal.SIGINT)
        sweeping.communicate(timeout=120)
    assert sweeping.returncode == 1
    assert not running_below(killed)
    assert len(list(killed.glob("*/done.json"))) < 2
    for folder in (killed, whole):
        subprocess.run([*command, "--out", str(folder)], check=True, timeout=1800, **options)
    tables = [json.loads((folder / "table.json").read_text()) for folder in (killed, whole)]
    for resumed, row in zip(tables[0]["rows"], tables[1]["rows"], strict=True):
        assert row["seeds"] == [0, 1]
        for name, summary in row["metrics"].items():
            if "second" not in name:
                assert resumed["metrics"][name] == summary, name
    assert (killed / "sweep.png").stat().st_size > 20_000


def test_what_is_under_way_is_told_once_and_shown_where_it_is(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "_REST", 0.0)
    runs = [Run({}, seed, {}, tmp_path / f"seed={seed}", []) for seed in (0, 1, 2)]
    for run in runs[:2]:
        run.folder.mkdir()
        (run.folder / "settings.json").write_text("{}")
    os.utime(runs[1].folder / "settings.json", (1.0, 1.0))  # by an earlier sweep
    (runs[0].folder / "metrics.jsonl").write_text(
        "".join(
            json.dumps({"stage": "autoencoder", "step": step, "loss": 0.5}) + "\n" for step in range(900, 1501, 100)
        )
        + '{"stage": "half a'
    )
    assert progress.last_step(runs[0].folder / "metrics.jsonl") == "autoencoder 1,500"
    assert progress.last_step(runs[2].folder / "metrics.jsonl") == ""
    with progress.Progress(3, 0, False) as shown:
        for _ in range(3):
            shown.under_way(runs)
        shown.ended(runs[1], "it is running already")
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"seed=0: started, log in {runs[0].folder / 'log.txt'}",
        "seed=1: failed, it is running already (1 of 3)",
    ]
