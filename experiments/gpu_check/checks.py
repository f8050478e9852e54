"""Every check that needs an accelerator, by one command of under ten minutes.

    make gpu-check                             # in the project's environment
    python -m experiments.gpu_check            # by any Python whose jax already drives the accelerator
    python -m experiments.gpu_check --only scores trap.sinkhorn --seed 7
    python -m experiments.gpu_check --cpu      # the same checks at tiny sizes: a few minutes on two cores

`make` installs jax for the CPU: on a machine whose jax has CUDA already, run the second line with that Python, from the
project's folder. It needs jax, flax, optax, orbax-checkpoint and numpy (and scipy, which comes with jax), jax 0.10 to
0.12; a check that wants more says so and is skipped.

Random inputs are fresh: the seed comes from the clock, is printed, and repeats a run. Checked are scores and smoothed
minima against float64 and their rates by several sizes of blocks, that no result carries TF32 (with the result of
default precision beside it, to show that the check could fail), rates of Sinkhorn and of the semi-discrete solver with
their share of the products and copies measured on the same device, laws of latents, Gaussians, the mapped training
step, checkpoints, and a short training of every model; see `cases` for each. Written after every check to
benchmarks/gpu_check.json, with --cpu only where --out says. The exit code is 0 if nothing that ran failed, also where
there is no accelerator.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

OUT = "benchmarks/gpu_check.json"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
COMPILATION = "/jax/core/compile/backend_compile_duration"  # what jax.monitoring calls it
FIELDS = ("device", "platform", "devices", "memory_bytes", "machine", "python", "date")
OURS = ("otgen", "experiments")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.gpu_check", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cpu", action="store_true", help="run the checks at tiny sizes on the CPU")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names of checks, or what comes before their dots")
    parser.add_argument("--minutes", type=float, default=9.0, help="begin no check after so many (default 9)")
    parser.add_argument("--seed", type=int, help="of all random inputs; from the clock if not given")
    parser.add_argument("--out", help=f"JSON file; {OUT} on an accelerator, none with --cpu")
    parser.add_argument("--list", action="store_true", help="list the names of the checks")
    return parser.parse_args(arguments)


def chosen(names: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    """Return the names asked for, all for None.

    Raises:
      ValueError: for one that no check has.
    """
    if wanted is None:
        return list(names)
    for want in wanted:
        if not any(_matches(name, want) for name in names):
            raise ValueError(f"--only {want}: no such check. Choose among {', '.join(names)}.")
    return [name for name in names if any(_matches(name, want) for want in wanted)]


def _matches(name: str, want: str) -> bool:
    return name == want or name.startswith(f"{want}.")


class Runner:
    """Runs checks one after the other: times them, keeps what they found, and goes on where one breaks.

    Attributes:
      context: what a check is given.
      deadline: of `time.perf_counter`; no check begins after it.
    """

    def __init__(self, context: Any, deadline: float):
        import jax

        self.context, self.deadline, self._compiling = context, deadline, 0.0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, seconds: float, **_: Any) -> None:
        if event == COMPILATION:
            self._compiling += seconds

    def run(self, check: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Run one check and return its record: status, seconds, peak memory, and its numbers or why there are none."""
        from experiments.gpu_check.base import Skipped, memory

        if time.perf_counter() > self.deadline:
            return {"status": "not run", "reason": "the time was used up: raise --minutes"}
        begin, compiling = time.perf_counter(), self._compiling
        try:
            found = check(self.context)
            record = {"status": "passed" if found["passed"] else "failed", **_plain(found)}
        except Skipped as reason:
            record = {"status": "skipped", "reason": str(reason)}
        except ModuleNotFoundError as error:
            record = _missing(error)
        except Exception as error:  # whatever breaks a check must not stop the others
            record = _broken(error)
        record["seconds"] = round(time.perf_counter() - begin, 2)
        record["seconds_compiling"] = round(self._compiling - compiling, 2)
        if (peak := memory("peak_bytes_in_use")) is not None:
            record["peak_bytes_in_use"] = peak  # of the process so far
        return record


def _missing(error: ModuleNotFoundError) -> dict[str, Any]:
    package = (error.name or "").split(".")[0]
    if package in OURS or not package:
        return _broken(error)
    return {"status": "skipped", "reason": f"needs the package {package}, which is not installed"}


def _broken(error: Exception) -> dict[str, Any]:
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(where.filename).name}:{where.lineno}"
    return {"status": "error", "reason": f"{type(error).__name__}: {str(error)[:500]} ({place})"}


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    """Numbers as JSON has them, four digits each."""

    def plain(value: Any) -> Any:
        if isinstance(value, float) and not value.is_integer():
            return float(f"{value:.4g}") if math.isfinite(value) else str(value)
        return value if isinstance(value, bool | int | float | str) else str(value)

    numbers = {name: plain(value) for name, value in found["numbers"].items()}
    return {"numbers": numbers, "limits": found["limits"], **({"missed": found["missed"]} if found["missed"] else {})}


def line(name: str, record: dict[str, Any]) -> str:
    """One line on a check: what came of it, and its numbers or the reason."""
    text = record.get("reason") or ", ".join(f"{key} {value}" for key, value in _brief(record).items())
    return f"{record['status']:8}{record.get('seconds', 0):7.1f} s  {name:22} {text}"


def _brief(record: dict[str, Any]) -> dict[str, Any]:
    """The limited numbers, those that missed first, and rates and shares."""
    numbers, missed = record["numbers"], record.get("missed", [])
    shown = [*missed, *(name for name in numbers if name in record["limits"] or "per_s" in name or "share" in name)]
    return {
        name: f"{numbers[name]} (wanted {record['limits'][name]})" if name in missed else numbers[name]
        for name in dict.fromkeys(shown)
    }


def main(arguments: Sequence[str] | None = None, checks: dict[str, Callable[[Any], Any]] | None = None) -> int:
    """Run the checks, print a line on each, write the JSON, and return the exit code.

    Args:
      arguments: of the command line; those of the process for None.
      checks: by name; those of `cases` for None.
    """
    begin, options = time.perf_counter(), parsed(arguments)
    if options.cpu:
        os.environ["JAX_PLATFORMS"] = "cpu"  # before jax is imported
    try:
        jax = importlib.import_module("jax")
    except ModuleNotFoundError as error:
        print(f"jax cannot be imported ({error}): nothing can be checked.")
        return 1
    from experiments.gpu_check.base import Context
    from experiments.gpu_check.cases import CHECKS
    from experiments.lab import machine

    checks = CHECKS if checks is None else checks
    if options.list:
        print("\n".join(checks))
        return 0
    names = chosen(list(checks), options.only)
    if jax.default_backend() == "cpu" and not options.cpu:
        print("No accelerator: jax sees only a CPU, so nothing is checked (--cpu runs the checks at tiny sizes).")
        return 0
    seed = int(time.time_ns() // 1_000_000 % 2**31) if options.seed is None else options.seed
    out = options.out or (None if options.cpu else OUT)
    results = {
        **machine.record(*FIELDS, packages=PACKAGES),
        "seed": seed,
        "tiny": options.cpu,
        "checks": {},
    }
    print(f"{results['devices']} x {results['device']}, jax {jax.__version__}, seed {seed}", flush=True)
    runner = Runner(Context(seed, options.cpu), begin + 60 * options.minutes)
    for name in names:
        record = results["checks"][name] = runner.run(checks[name])
        print(line(name, record), flush=True)
        results["seconds"] = round(time.perf_counter() - begin, 1)
        machine.store(out, results)
    return _summary(results, out)


def _summary(results: dict[str, Any], out: str | None) -> int:
    by_status: dict[str, list[str]] = {}
    for name, record in results["checks"].items():
        by_status.setdefault(record["status"], []).append(name)
    parts = [f"{len(by_status.get('passed', []))} passed"]
    parts += [f"{status}: {', '.join(found)}" for status, found in by_status.items() if status != "passed"]
    print(f"{results['seconds']:.0f} s. {'; '.join(parts)}." + (f" Written to {out}." if out else ""))
    return 1 if "failed" in by_status or "error" in by_status else 0
