"""Run an experiment in several processes of this machine that train together, as they would on several hosts.

    python -m experiments.local_hosts --num 2 --devices 2 ae_ot --dataset digits --out runs/two-hosts

The last part is a command line of an experiment that knows `--distributed`. Every process writes what it has to say to
the terminal; only the first writes files. If one of them dies, the others end by themselves within half a minute, and
the same command with `--resume` goes on from the last checkpoint. Ctrl-C and SIGTERM are passed on: while they train,
all stop at the same step, and it is saved; what is not training goes on to its end unless they are told again.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys

from otgen.train import hosts


def free_address() -> str:
    """Return an address of this machine that nobody listens to yet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def start(num: int, devices: int | None, words: list[str]) -> list[subprocess.Popen]:
    """Start `num` processes of an experiment that find one another.

    Args:
      num: processes.
      devices: virtual CPU devices of each; None for those that there are, and then each process sees all of them.
      words: name of the experiment and its options.
    """
    address, common = free_address(), dict(os.environ)
    if devices is not None:
        flag = f"--xla_force_host_platform_device_count={devices}"
        common |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()}
    command = [sys.executable, "-m", f"experiments.{words[0]}", *words[1:], "--distributed"]
    return [subprocess.Popen(command, env={**common, **hosts.environment(address, num, i)}) for i in range(num)]


def main(arguments: list[str] | None = None) -> int:
    """Start the processes, wait for all, and return the first exit status that is not 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=2, help="processes")
    parser.add_argument("--devices", type=int, help="virtual CPU devices of each process; the real ones if not given")
    parser.add_argument("experiment", nargs=argparse.REMAINDER, help="such as: ae_ot --dataset digits")
    options = parser.parse_args(arguments)
    if options.num < 1 or (options.devices or 1) < 1 or not options.experiment:
        parser.error("give --num and --devices of 1 or more, and an experiment, such as ae_ot --dataset digits")
    running = start(options.num, options.devices, options.experiment)

    harder = iter((signal.SIGTERM, signal.SIGINT))

    def pass_on(number, frame):
        passed = next(harder, signal.SIGKILL)
        for process in running:
            process.send_signal(passed)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    statuses = [process.wait() for process in running]
    for i, status in enumerate(statuses):
        if status:
            print(f"process {i} of {options.num} ended with status {status}", file=sys.stderr)
    if any(statuses):
        print("continue with the same command and --resume", file=sys.stderr)
    return next((status for status in statuses if status), 0)


if __name__ == "__main__":
    sys.exit(main())
