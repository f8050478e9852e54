"""The runs of a sweep: as processes here, or as jobs of SLURM."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from otgen import optional

_GRACE = 120  # seconds a stopped run has to save
_REST = 0.2  # seconds between two looks at the runs


class Run(NamedTuple):
    """One run: a setting of the swept fields, a seed, and how it is started where."""

    setting: dict[str, str]
    seed: int
    identity: dict[str, Any]
    folder: Path
    command: list[str]


Report = Callable[[Run, str | None], None]  # of a run that has ended, and what went wrong
UnderWay = Callable[[Iterable[Run]], None]  # of the runs that have not, again and again


def results_of(run: Run) -> Path:
    """Return where the results of a run are."""
    return run.folder / "results.json"


def finished(run: Run) -> bool:
    """Return whether a run has ended well before."""
    return (run.folder / "done.json").exists() and results_of(run).exists()


def start(run: Run, rank: int = 0) -> subprocess.Popen:
    """Start a run in a session of its own, so that Ctrl-C reaches the sweep alone, which stops it.

    Raises:
      BlockingIOError: if another sweep is running it.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    log = f"log-{rank}.txt" if rank else "log.txt"
    with open(run.folder / log, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held as long as the run has the file open
        if not rank:
            (run.folder / "settings.json").write_text(json.dumps(run.identity, indent=1))
        paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        print("$", *run.command[1:], file=file, flush=True)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])  # SLURM's, which submitit answers for the run
        try:
            return subprocess.Popen(
                run.command,
                **{"stdout": file, "stderr": file, "stdin": subprocess.DEVNULL},
                **{"env": environment, "start_new_session": True},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])


def settle(run: Run, code: int, rank: int = 0) -> str | None:
    """Note that a run has ended well, or return what went wrong."""
    if code == 0 and (rank or results_of(run).exists()):
        if not rank:
            (run.folder / "done.json").write_text(json.dumps(run.identity, indent=1))
        return None
    return f"exit code {code}" if code else "no results.json was written"


def stop(processes: list[subprocess.Popen]) -> None:
    """End processes with SIGTERM, which saves; with SIGKILL what is left of them after _GRACE seconds."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _GRACE
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def locally(config: Any, runs: list[Run], report: Report, stopped: threading.Event, under_way: UnderWay) -> None:
    """Run processes on this machine, some at a time, until all have ended or the sweep is stopped."""
    waiting, running = list(reversed(runs)), {}
    try:
        while (waiting or running) and not stopped.is_set():
            while waiting and len(running) < config.jobs:
                run = waiting.pop()
                try:
                    running[start(run)] = run
                except OSError as error:
                    report(run, _told(error))
            stopped.wait(_REST)
            under_way(running.values())
            for process in [process for process in running if process.poll() is not None]:
                run = running.pop(process)
                report(run, settle(run, process.returncode))
    finally:
        if running:
            print(f"stopping {len(running)} runs; they save first", file=sys.stderr)
        stop(list(running))


def _told(error: OSError) -> str:
    return "it is running already" if isinstance(error, BlockingIOError) else str(error)


class Job:
    """A run as submitit calls it, on every node of a job."""

    def __call__(self, run: Run) -> str | None:
        """Run it; return what went wrong."""
        rank = int(os.environ.get("SLURM_PROCID", 0))
        with interruptions() as stopped:
            try:
                self.process = start(run, rank)
            except OSError as error:
                return _told(error)
            while self.process.poll() is None and not stopped.wait(_REST):
                pass
            stop([self.process])
        return settle(run, self.process.returncode, rank)

    def checkpoint(self, run: Run) -> Any:
        """Let the run save at the time limit, and queue it again; submitit calls this inside a signal handler."""
        import submitit

        self.process.terminate()
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)  # Popen.wait may hold its lock here
        return submitit.helpers.DelayedSubmission(Job(), run)


def by_submitit(config: Any, runs: list[Run], report: Report, stopped: threading.Event, under_way: UnderWay) -> None:
    """Submit the runs as one array of jobs, and wait until all have ended; cancel them if the sweep is stopped."""
    with optional.imports():
        import submitit
    folder = config.folder() / "jobs"
    executor = submitit.AutoExecutor(folder, config.cluster, slurm_max_num_timeout=100)
    shared = {name: getattr(config, name) for name in ("nodes", "gpus_per_node", "cpus_per_task")}
    own = {"partition": config.partition, "array_parallelism": config.jobs, "signal_delay_s": _GRACE}
    own = {f"slurm_{name}": value for name, value in own.items() if value is not None}
    executor.update_parameters(name=config.experiment, timeout_min=config.minutes, tasks_per_node=1, **shared, **own)
    jobs = executor.map_array(Job(), runs) if runs else []
    waiting = dict(zip(jobs, runs, strict=True))
    while waiting and not stopped.wait(_REST):
        under_way(waiting.values())
        for job in [job for job in waiting if job.done()]:
            report(waiting.pop(job), _outcome(job))
    deadline = time.monotonic() + _GRACE
    for job in waiting:
        job.cancel()
    while any(not job.done() for job in waiting) and time.monotonic() < deadline:
        time.sleep(_REST)


def _outcome(job: Any) -> str | None:
    error = job.exception()
    return str(error).strip().splitlines()[-1] if error else next(filter(None, job.results()), None)


@contextlib.contextmanager
def interruptions() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, where signal handlers may be set (the main thread)."""
    stopped, numbers = threading.Event(), (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = [signal.signal(number, lambda *_: stopped.set()) for number in numbers]
    try:
        yield stopped
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
