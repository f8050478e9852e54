"""A pair of the Wasserstein-2 benchmark with random convex networks, written as the authors' files are."""

from pathlib import Path

import numpy as np


def write(data_dir: Path, dim: int, hidden: tuple[int, int, int] = (6, 5, 4)) -> None:
    """Write the two networks of a dimension."""
    folder, random = data_dir / "wasserstein2_benchmark" / "Mix3toMix10", np.random.default_rng(dim)
    folder.mkdir(parents=True, exist_ok=True)
    for network in (1, 2):
        arrays = {}
        for k, width in enumerate(hidden):
            arrays[f"quadratic_layers.{k}.quadratic_decomposed"] = random.normal(size=(dim, 1, width)) * dim**-0.5
            arrays[f"quadratic_layers.{k}.weight"] = random.normal(size=(width, dim)) * dim**-0.5
            arrays[f"quadratic_layers.{k}.bias"] = random.normal(size=width)
        for k in range(2):
            arrays[f"convex_layers.{k}.weight"] = random.uniform(size=(hidden[k + 1], hidden[k])) / hidden[k]
        arrays["final_layer.weight"] = random.uniform(size=(1, hidden[2]))
        arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
        np.savez(folder / f"{dim}_v{network}.npz", **arrays)
