"""What the check `resume` runs in processes of their own: a model that is fitted, stopped, and goes on in another.

python -m experiments.gpu_check.resumed FOLDER begin    # prints what a whole fit gives, and stops another half-way
python -m experiments.gpu_check.resumed FOLDER end      # goes on with that, and prints what it gives
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

STEPS = 20  # of the autoencoder
SIZES = {"latent_dim": 8, "hidden": (64, 32), "batch_size": 80, "max_samples": 8192}


def fit(folder: Path, stop: int | None = None) -> dict[str, int]:
    """Fit AE-OT with checkpoints in a folder; return the checksums of what it learned, none if it was stopped."""
    from experiments.gpu_check.training import images_of
    from otgen.models import ae_ot
    from otgen.train.stages import checksum

    def halt(step: int, metrics: dict[str, Any]) -> None:
        if step == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    images = images_of(np.random.default_rng(0), 400, 12)
    config = ae_ot.Config(**SIZES, epochs=STEPS * SIZES["batch_size"] / len(images))
    first, second = jax.random.split(jax.random.key(0))
    try:
        how = {"checkpoints": folder, "callback": halt}
        module, params = ae_ot.train_autoencoder(first, images, config, log_every=1, **how)
        variables, _ = ae_ot.solve(second, module, params, images, checkpoints=folder)
    except KeyboardInterrupt:
        return {}
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {jax.tree_util.keystr(path): checksum(leaf) for path, leaf in leaves}


def main(folder: Path, part: str) -> None:
    """Print checksums as lines of name and number."""
    if part == "begin":
        found = fit(folder / "whole")
        fit(folder / "stopped", stop=STEPS // 2)
    else:
        found = fit(folder / "stopped")
    for name, value in found.items():
        print(name, value)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
