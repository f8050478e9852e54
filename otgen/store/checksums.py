"""What Orbax stores of a checkpoint: the numbers of all arrays in one file, and beside it as JSON what they are.

An entry of its own for each array costs Orbax several times the work, which the training steps then wait for.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

_NUMBERS, _FACTS = "numbers.bin", "facts.json"


class Handler(ocp.AsyncCheckpointHandler):
    """Writes and reads the two files of an item, in the background where the manager saves so."""

    async def async_save(self, directory: Any, args: Save) -> list[ocp.future.Future]:
        work = _write(Path(directory), args.numbers, args.facts)
        return [ocp.future.CommitFutureAwaitingContractedSignals(work, name="otgen")]

    def save(self, directory: Any, args: Save) -> None:
        asyncio.run(_write(Path(directory), args.numbers, args.facts))

    def restore(self, directory: Any, args: Restore) -> tuple[dict[str, Any], np.ndarray | None]:
        facts = json.loads((Path(directory) / _FACTS).read_text())
        return facts, np.fromfile(Path(directory) / _NUMBERS, np.uint8) if args.numbers else None


@ocp.args.register_with_handler(Handler, for_save=True)
@dataclasses.dataclass
class Save(ocp.args.CheckpointArgs):
    """What is saved.

    Attributes:
      numbers: the arrays as bytes, by their paths; they must stay as they are.
      facts: JSON-like; "leaves" has shape and type of every array, and gets their checksums.
    """

    numbers: dict[str, np.ndarray]
    facts: dict[str, Any]


@ocp.args.register_with_handler(Handler, for_restore=True)
@dataclasses.dataclass
class Restore(ocp.args.CheckpointArgs):
    """What is read: (facts, bytes of all arrays), without `numbers` the facts alone."""

    numbers: bool = True


async def _write(folder: Path, numbers: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
    leaves = {name: [*facts["leaves"][name], zlib.crc32(found)] for name, found in numbers.items()}
    (folder / _FACTS).write_text(json.dumps({**facts, "leaves": leaves, "checksum": checksum_of(leaves)}))
    with (folder / _NUMBERS).open("wb") as file:
        for found in numbers.values():
            file.write(found.data)
        file.flush()
        os.fsync(file.fileno())


def checksum_of(leaves: Any) -> int:
    """Return a checksum of what is known of the arrays, their checksums included."""
    return zlib.crc32(json.dumps(leaves, sort_keys=True).encode())
