"""Programs that tests run in processes of their own, where the number of devices can be chosen."""

import json
import os
import subprocess
import sys


def environment(devices: int = 1, *flags: str, **more: str) -> dict[str, str]:
    """The environment of a process with so many CPU devices; XLA's flags come after those that are set already."""
    asked = (os.environ.get("XLA_FLAGS", ""), f"--xla_force_host_platform_device_count={devices}", *flags)
    set_here = {"XLA_FLAGS": " ".join(asked).strip(), "JAX_PLATFORMS": "cpu", "PJRT_NPROC": "16"}
    return {**os.environ, **set_here, **more}  # PJRT_NPROC: threads enough for devices that wait for each other


def told_by(program: str, devices: int, *words: str, flags: tuple[str, ...] = ()) -> dict:
    """What a program prints on its last line, as JSON."""
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, env=environment(devices, *flags), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
