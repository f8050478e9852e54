"""Several hosts: joining them, which one writes, what one tells the others."""

from __future__ import annotations

import os
import sys
from typing import Any

import jax
import jax.numpy as jnp

SILENCE = 20  # seconds without a sign of life after which a host counts as dead
PATIENCE = 7 * 24 * 3600  # seconds that a host at its end waits for the others, which may still score and draw
_ADDRESS, _NUM, _INDEX = "OTGEN_COORDINATOR", "OTGEN_NUM_PROCESSES", "OTGEN_PROCESS_ID"


def join() -> None:
    """Connect this process with those of the other hosts; call it before anything asks for a device.

    SLURM, Open MPI, Kubernetes and TPU pods are recognised by JAX. Anywhere else every process gets OTGEN_COORDINATOR
    (address:port of the first), OTGEN_NUM_PROCESSES and OTGEN_PROCESS_ID (from 0) in its environment.

    Raises:
      ValueError: if the environment does not say how many processes there are, or only in part.
    """
    given = {name: os.environ[name] for name in (_ADDRESS, _NUM, _INDEX) if name in os.environ}
    missing = [name for name in (_ADDRESS, _NUM, _INDEX) if name not in given]
    limits = {"heartbeat_timeout_seconds": SILENCE, "shutdown_timeout_seconds": PATIENCE}
    try:
        if not given:
            jax.distributed.initialize(**limits)
            return
        if missing:
            raise ValueError(f"{', '.join(missing)} not set")
        jax.distributed.initialize(given[_ADDRESS], int(given[_NUM]), int(given[_INDEX]), **limits)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"cannot join the other hosts: {str(error).rstrip('.')}. Start every process under SLURM, Open MPI or on a "
            f"TPU pod, or set {_ADDRESS}=host:port, {_NUM} and {_INDEX} for each."
        ) from error


def environment(address: str, num: int, index: int) -> dict[str, str]:
    """Return the variables by which `join` finds the other processes: process `index` of `num`."""
    return {_ADDRESS: address, _NUM: str(num), _INDEX: str(index)}


def is_first() -> bool:
    """Return whether this is the process that writes, logs and draws."""
    return jax.process_index() == 0


def from_first(tree: Any) -> Any:
    """Return the arrays of the first process, on all of them; the tree itself where there is one process.

    Args:
      tree: arrays, of the same shapes and types on every process.
    """
    if jax.process_count() == 1:
        return tree
    from jax.experimental import multihost_utils

    return jax.tree.map(jnp.asarray, multihost_utils.broadcast_one_to_all(tree))


def agreed(answer: bool) -> bool:
    """Return what the first process answers, on all of them."""
    return bool(from_first(jnp.int32(answer)))


def leave(error: BaseException) -> None:
    """End this process at once, with a message, where others wait for it: a normal exit would wait for them.

    Does nothing where there is one process.
    """
    if jax.process_count() == 1:
        return
    print(f"process {jax.process_index()} of {jax.process_count()} stops: {_told(error)}", file=sys.stderr, flush=True)
    os._exit(1)


def _told(error: BaseException) -> str:
    first = str(error).strip().splitlines()[0][:300] if str(error).strip() else "no message"
    if any(word in str(error) for word in _LOST):
        return f"another process is gone ({first}). Start all of them again with --resume."
    return f"{type(error).__name__}: {first}"


_LOST = ("Gloo", "Connection closed by peer", "Connection reset by peer", "heartbeat", "NCCL", "UNAVAILABLE")
