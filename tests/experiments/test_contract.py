import ast
import dataclasses
import importlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments import (
    ae_ot,
    ae_ot_gan,
    bures_linear,
    compare,
    flow,
    informative_gan,
    latent_ops,
    latent_ot,
    sinkhorn_generator,
    w2_benchmark,
)
from experiments.bench import divergence, exact, extension_forms, first_call, gaussian, latent, low_rank, sinkhorn
from experiments.lab import command as command_line
from experiments.lab.command import progress_of
from experiments.lab.trials import run_parts, stage

ROOT = Path(__file__).parents[2]


def without_seconds(results: dict) -> dict:
    return {name: value for name, value in results.items() if name not in ("seconds", "images_per_second")}


def all_finite(tree) -> bool:
    if isinstance(tree, dict):
        return all(all_finite(value) for value in tree.values())
    return not isinstance(tree, float) or math.isfinite(tree)


def test_ae_ot_on_digits_smoke(tmp_path):
    config = ae_ot.Config.smoke(out=str(tmp_path / "run"))
    results = ae_ot.main(config)
    assert all_finite(results)
    assert results["rows"]["real training images"]["lmem"] < 1e-3
    for name in ("samples", "filter", "reconstructions", "nearest", "classes"):
        assert (tmp_path / "run" / f"{name}.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == json.loads(json.dumps(results))
    lines = (tmp_path / "run" / "results.csv").read_text().splitlines()  # a row each, and transport and seconds
    assert len(lines) == 1 + len(results["rows"]) + 2
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in lines} == {"autoencoder", "transport"}
    with pytest.raises(FileExistsError, match="--resume"):
        ae_ot.main(config)
    with pytest.raises(ValueError, match=r"seed \(stored 0, now 1\)"):
        ae_ot.main(ae_ot.Config.smoke(out=str(tmp_path / "run"), resume=True, seed=1))


@pytest.mark.slow
def test_a_run_is_scored_later_and_in_part(tmp_path):
    config = ae_ot.Config.smoke(out=str(tmp_path / "run"), table=False, forms="local")
    first = ae_ot.main(config)
    assert "rows" not in first
    assert ae_ot.show(config, first).startswith("digits, not scored, chi2")
    assert not (tmp_path / "run" / "filter.png").exists()
    changed = dataclasses.replace(config, table=True, resume=True, rows="real,flow", flow_steps=5)
    later = ae_ot.main(changed)
    assert set(later["rows"]) == {"real training images", "flow in the codes"}
    assert later["transport"] == first["transport"]
    with pytest.raises(ValueError, match=r"has 'sharp' in its name"):
        ae_ot.main(dataclasses.replace(changed, rows="sharp"))


UNSCORED = {
    compare: {"models": "vae"},
    flow: {"couplings": "independent"},
    sinkhorn_generator: {"rows": "default"},
    informative_gan: {"dataset": "digits"},
}


@pytest.mark.slow
@pytest.mark.parametrize("module", UNSCORED, ids=lambda module: module.__name__)
def test_without_a_table_a_run_is_trained_and_drawn_and_scored_later(tmp_path, module):
    config = module.Config.smoke(out=str(tmp_path / "run"), table=False, **UNSCORED[module])
    first = module.main(config)
    numbers = {name for row in first["rows"].values() for name in row}
    assert numbers <= {"seconds"}
    assert list((tmp_path / "run").glob("*.png"))
    trained = {path: path.read_text() for path in (tmp_path / "run").rglob("metrics.jsonl")}
    assert trained
    later = module.main(dataclasses.replace(config, table=True, resume=True))
    for name, row in first["rows"].items():
        assert later["rows"][name].get("seconds") == row.get("seconds"), name  # of the training, not of the scoring
    assert {name for row in later["rows"].values() for name in row} & {"frechet", "w2_sq"}
    assert {path: path.read_text() for path in trained} == trained  # nothing is trained again
    again = module.main(module.Config.smoke(out=str(tmp_path / "straight"), **UNSCORED[module]))
    assert again["rows"].keys() == later["rows"].keys()
    for name, row in again["rows"].items():
        for score in ("frechet", "w2_sq", "lmem", "accuracy_test"):
            assert row.get(score) == later["rows"][name].get(score), (name, score)


def test_a_stage_says_where_it_continues(tmp_path, capsys):
    config = ae_ot.Config.smoke(out=str(tmp_path))
    progress = progress_of(config, tmp_path)

    def run(last: int):
        def work(callback, checkpoints):
            state = checkpoints.restore({"w": np.zeros(2)})
            checkpoints.save(last, {"w": np.full(2, float(last))})
            return state

        return stage(config, tmp_path, "training", 9, progress, work)

    assert run(4)[0] is None
    assert capsys.readouterr().out == ""
    state, seconds = run(9)
    assert seconds is None  # of a stage that went on nobody knows
    assert state["w"].tolist() == [4, 4]
    assert capsys.readouterr().out == "training: continues at step 4\n"
    assert run(9)[0]["w"].tolist() == [9, 9]
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_a_finished_run_resumed_gives_the_same_numbers(tmp_path):
    results = ae_ot.main(ae_ot.Config.smoke(out=str(tmp_path / "run")))
    again = ae_ot.main(ae_ot.Config.smoke(out=str(tmp_path / "run"), resume=True))
    assert without_seconds(again) == without_seconds(results)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["twenty_five_gaussians", "two_moons"])
def test_ae_ot_on_toys(tmp_path, name):
    results = ae_ot.main(ae_ot.Config(dataset=name, out=str(tmp_path / "run"), progress=False, tol=0.01))
    assert all_finite(results)
    assert results["transport"]["chi2"] < 0.01
    assert (tmp_path / "run" / "transport.png").stat().st_size > 10_000


RESUMED = (
    *(ae_ot, ae_ot_gan, bures_linear, compare, flow, informative_gan, latent_ops, latent_ot, w2_benchmark),
    *(sinkhorn_generator, extension_forms),
)


def test_every_experiment_that_writes_a_folder_has_the_same_options():
    paths = [path for path in (ROOT / "experiments").glob("**/*.py") if path.parent.name in ("experiments", "bench")]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    configs = {name: getattr(importlib.import_module(name), "Config", None) for name in names}
    here = {name for name, config in configs.items() if hasattr(config, "folder")}
    assert here == {module.__name__ for module in RESUMED}
    for name in here:
        options = {field.name: field.default for field in dataclasses.fields(configs[name])}
        assert (options["resume"], options["overwrite"], options["progress"]) == (False, False, True), name
        assert configs[name]().folder().parts[0] == "runs"


def test_every_option_says_what_it_is():
    silent = []
    for path in (ROOT / "experiments").glob("**/*.py"):
        for kind in (it for it in ast.parse(path.read_text()).body if isinstance(it, ast.ClassDef)):
            marks = [ast.unparse(mark) for mark in kind.decorator_list]
            if kind.name != "Config" and not (path.name == "command.py" and any("dataclass" in mark for mark in marks)):
                continue
            for field, after in zip(kind.body, [*kind.body[1:], None], strict=True):
                told = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                if isinstance(field, ast.AnnAssign) and not told:
                    silent.append(f"{path.name}: {field.target.id}")
    assert not silent


@pytest.mark.parametrize("module", RESUMED, ids=lambda module: module.__name__)
def test_an_error_is_one_line(tmp_path, monkeypatch, module):
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["experiment", "--no-progress", "--out", str(tmp_path / "file")])
    with pytest.raises(SystemExit, match=r"^error: out = .* is a file: give a folder\.$"):
        module.cli()


def test_a_deterministic_run_tells_xla_so_and_is_the_same_run(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    monkeypatch.setattr(sys, "argv", ["experiment", "--deterministic", "--out", str(tmp_path / "file")])
    with pytest.raises(SystemExit, match="is a file"):
        flow.cli()
    assert os.environ["XLA_FLAGS"] == "--xla_cpu_multi_thread_eigen=false --xla_gpu_deterministic_ops=true"
    assert flow.Config(deterministic=True).identity() == flow.Config().identity()


@pytest.mark.slow
def test_no_experiment_asks_for_a_device_before_its_options_are_read():
    names = ", ".join(module.__name__ for module in RESUMED)
    program = f"import {names}; from jax._src import xla_bridge; print(xla_bridge.backends_are_initialized())"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("module", RESUMED, ids=lambda module: module.__name__)
@pytest.mark.parametrize("held", ["config.json", "results.json"])
def test_a_folder_that_holds_a_run_is_left_alone(tmp_path, module, held):
    for name in {"metrics.jsonl", held}:
        (tmp_path / name).write_text("{}")
    with pytest.raises(FileExistsError, match="pass --resume to continue it or --overwrite to start again"):
        module.main(module.Config.smoke(out=str(tmp_path)))
    assert (tmp_path / held).read_text() == "{}"


class Opened(Exception):
    """Raised in place of what a run would do in its folder."""


@pytest.fixture
def opened(monkeypatch):
    """No run goes further than to its folder."""
    open_folder = command_line.open_folder

    def stop(config):
        open_folder(config)
        raise Opened

    monkeypatch.setattr(command_line, "open_folder", stop)


@pytest.mark.usefixtures("opened")
@pytest.mark.parametrize("module", RESUMED, ids=lambda module: module.__name__)
def test_a_run_is_continued_or_begun_again_as_asked(tmp_path, module):
    config = module.Config.smoke(out=str(tmp_path))
    held = tmp_path / "checkpoints" / "seed-0" / "held"
    held.mkdir(parents=True)
    other = dict.fromkeys(list(config.identity())[:1], "another")
    for name in ("config.json", "results.json", "table.md"):
        (tmp_path / name).write_text(json.dumps({**config.identity(), **other}))
    with pytest.raises(ValueError, match=rf"{next(iter(other))} \(stored 'another'"):
        module.main(dataclasses.replace(config, resume=True))
    (tmp_path / "config.json").write_text(json.dumps(config.identity()))
    with pytest.raises(Opened):
        module.main(dataclasses.replace(config, resume=True))
    assert held.exists()
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"thesis\.txt"):
        module.main(dataclasses.replace(config, overwrite=True))
    assert held.exists()
    (tmp_path / "thesis.txt").unlink()
    with pytest.raises(Opened):
        module.main(dataclasses.replace(config, overwrite=True))
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads(json.dumps(config.identity()))


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (latent_ops, {"dataset": "letters"}, "'letters' is unknown: choose one of digits, mnist"),
        (latent_ops, {"pairs": 1}, "pairs = 1 is too small: give 2 or more"),
        (latent_ops, {"tol": 0.0}, "tol = 0.0"),
        (bures_linear, {"dataset": "two_moons"}, "'two_moons' is unknown"),
        (bures_linear, {"rank": 0}, "rank = 0 is too small"),
        (bures_linear, {"depths": ()}, r"depths = \(\): give at least one number above 0"),
        (bures_linear, {"image_depths": (2, 0)}, r"image_depths = \(2, 0\)"),
    ],
)
def test_options_that_cannot_be_meant_raise_before_anything_is_written(tmp_path, module, options, message):
    with pytest.raises(ValueError, match=message):
        module.main(module.Config.smoke(out=str(tmp_path / "run"), **options))
    assert not (tmp_path / "run").exists()


def test_parts_that_are_there_are_not_measured_again(tmp_path):
    asked = []
    parts = {name: lambda name=name: asked.append(name) or {"is": name} for name in ("one", "two words")}
    parts["broken"] = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        run_parts(tmp_path, parts)
    parts["broken"] = lambda: {"is": 0.1}
    assert run_parts(tmp_path, parts) == {"one": {"is": "one"}, "two words": {"is": "two words"}, "broken": {"is": 0.1}}
    assert asked == ["one", "two words"]


def refused_resumed_and_overwritten(module, results: dict, out: Path, monkeypatch, part: str) -> None:
    """What --resume and --overwrite do to a finished run of parts, one of which is measured again by the latter."""
    options = {"out": str(out), "seed": 0}
    with pytest.raises(FileExistsError, match="--resume"):
        module.main(module.Config.smoke(**options))
    with pytest.raises(ValueError, match=r"seed \(stored 0, now 1\)"):
        module.main(module.Config.smoke(**{**options, "seed": 1}, resume=True))
    monkeypatch.setattr(module, part, lambda *_: pytest.fail("what is there is measured again"))
    assert module.main(module.Config.smoke(**options, resume=True)) == results
    monkeypatch.setattr(module, part, lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        module.main(module.Config.smoke(**options, overwrite=True))
    assert not (out / "results.json").exists()


@pytest.mark.slow
def test_latent_ops_smoke(tmp_path, monkeypatch):
    results = latent_ops.main(latent_ops.Config.smoke(out=str(tmp_path)))
    assert all_finite(results)
    for operations in results["laws"].values():
        assert max(methods["matched"] for methods in operations.values()) < 2.6 / math.sqrt(20_000)  # 54 of them
    for name in ("laws.png", "rows.png", "results.json"):
        assert (tmp_path / name).stat().st_size > 1000
    refused_resumed_and_overwritten(latent_ops, results, tmp_path, monkeypatch, "laws")


def test_bench_latent_smoke(tmp_path):
    results = latent.main(latent.Config.smoke(out=str(tmp_path / "latent.json")))
    assert results["traces"] == 3  # one for each prior, whatever t


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the peer's imports
def test_bench_low_rank_smoke(tmp_path):
    (row,) = low_rank.main(low_rank.Config.smoke(out=str(tmp_path / "low_rank.json")))["cells"]
    plans = [told for told in row.values() if isinstance(told, dict)]
    assert len(plans) == 8
    assert all(0.9 * row["exact"] < told["cost"] < 1.1 * row["independent"] for told in plans)
    assert all(told["error"] < 1e-2 for told in plans)


@pytest.mark.slow
def test_bench_divergence_smoke(tmp_path):
    results = divergence.main(divergence.Config.smoke(out=str(tmp_path / "divergence.json")))
    rest = {row["form"]: row["rest"] for row in results["gradients"]}
    assert rest["same batch"] < rest["masked"] < rest["second batch"] + 0.1
    for row in results["own_terms"]:
        assert 2 * row["one potential"]["steps"] <= row["general"]["steps"]
        assert max(row[name]["error"] for name in ("general", "one potential")) < 1e-4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the peers' imports
def test_bench_sinkhorn_smoke(tmp_path):
    out = tmp_path / "sinkhorn.json"
    results = sinkhorn.main(sinkhorn.Config.smoke(out=str(out), many=False))
    assert json.loads(out.read_text())["cells"] == results["cells"]
    for cell in results["cells"]:
        assert cell["solvers"]["otgen"]["error"] <= cell["error"]
        assert cell["solvers"]["ott"]["error"] <= cell["error"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "digitz"}, "choose one of digits"),
        ({"angle": 4.0}, "outside"),
        ({"epochs": 0}, "epochs = 0"),
        ({"dataset": "mnist", "data_dir": "nowhere"}, "missing train-images"),
    ],
)
def test_bad_options_raise(tmp_path, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        ae_ot.main(ae_ot.Config(out=str(tmp_path / "run"), progress=False, **options))


def command(out: Path, *more: str) -> list[str]:
    options = ["--out", str(out), "--epochs", "60", "--num-eval", "200", "--draws", "2", "--tol", "0.001"]
    return [sys.executable, "-m", "experiments.ae_ot", "--no-progress", *options, *more]


def kill_when(arguments: list[str], reached) -> None:
    """Start a run and kill it with SIGKILL once `reached()` is true."""
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not reached():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["autoencoder", "transport"])
def test_a_killed_run_resumes_to_the_same_results(tmp_path, stage):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(whole), cwd=ROOT, check=True, capture_output=True)

    def checkpointed() -> bool:
        folder = killed / "checkpoints" / stage
        return folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir())

    kill_when(command(killed), checkpointed)
    assert not (killed / "results.json").exists()
    subprocess.run(command(killed, "--resume"), cwd=ROOT, check=True, capture_output=True)
    results = [json.loads((folder / "results.json").read_text()) for folder in (whole, killed)]
    assert without_seconds(results[0]) == without_seconds(results[1])


def test_a_start_that_failed_is_no_run(tmp_path, capsys):
    options = {"dataset": "mnist", "data_dir": str(tmp_path / "none"), "out": str(tmp_path / "run")}
    for _ in range(2):  # the second is not told that there is a run already
        with pytest.raises((ValueError, FileNotFoundError), match="mnist"):
            ae_ot.main(ae_ot.Config.smoke(**options))
    with pytest.raises((ValueError, FileNotFoundError), match="mnist"):
        ae_ot.main(ae_ot.Config.smoke(resume=True, **{**options, "out": str(tmp_path / "other")}))
    assert "no run in" in capsys.readouterr().out


def test_a_damaged_configuration_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        ae_ot.main(ae_ot.Config.smoke(out=str(tmp_path), resume=True))


@pytest.mark.slow
def test_bures_linear_smoke(tmp_path, monkeypatch):
    results = bures_linear.main(bures_linear.Config.smoke(out=str(tmp_path)))
    assert all_finite(results)
    assert all(row["below the envelope"] for row in results["flows"].values())
    assert abs(results["images"]["N = 2"]["relative excess over the discarded eigenvalues"]) < 1e-3
    for name in ("loss", "rates", "spectra", "deficient", "samples"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    refused_resumed_and_overwritten(bures_linear, results, tmp_path, monkeypatch, "flows")


@pytest.mark.slow
def test_bench_exact_smoke(tmp_path):
    results = exact.main(exact.Config.smoke(out=str(tmp_path / "exact.json")))
    assert {cell["problem"] for cell in results["cells"]} == {"random costs", "points in the plane"} | {
        f"{kind}, equal weights" for kind in ("random costs", "points in the plane")
    }
    for cell in results["cells"]:
        assert cell["relative difference of the values"] < 1e-6
        assert cell["duality gap over the value"] < 1e-6
    assert (tmp_path / "exact.json").exists()


@pytest.mark.slow
def test_bench_first_call_smoke(tmp_path):
    rows = first_call.main(first_call.Config.smoke(out=str(tmp_path / "first_call.json")))["rows"]
    assert [row["call"] for row in rows] == ["run", "value"]
    assert all(row[who]["first_s"] > 0 for row in rows for who in ("otgen", "ott-jax"))


@pytest.mark.slow
def test_bench_gaussian_smoke(tmp_path):
    results = gaussian.main(gaussian.Config.smoke(out=str(tmp_path / "gaussian.json")))
    assert results["pairs"]["otgen float64"]["error"] < 1e-9
    assert results["frechet"]["otgen float64"]["error"] < 1e-6
    assert (tmp_path / "gaussian.json").exists()
