"""What networks for colour images cost, and how well they tell them: dense, convolutional, residual autoencoders.

    python -m experiments.bench.networks --data-dir DATA        # 9 min on one core; writes benchmarks/networks.json

Images of CIFAR-10, 32 x 32. Every network is trained on so many images, with the same codes; operations are those that
XLA counts in a step of training, a rate is of whole steps of training by the clock and per second of one core, and
decibels are of held-out images.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab import command
from experiments.lab.machine import record, store
from otgen import data
from otgen.models import ae_ot
from otgen.nn import to_unit

NETWORKS: dict[str, dict[str, Any]] = {
    "mlp, 1024 512": {"network": "mlp", "hidden": (1024, 512)},
    "conv, width 32": {"network": "conv", "width": 32},
    "residual, width 16": {"network": "residual", "width": 16},
    "residual, width 32": {"network": "residual", "width": 32},
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    dataset: str = "cifar10"
    """cifar10, mnist or fashion_mnist."""
    data_dir: str | None = None
    """Folder of the data; OTGEN_DATA if not given."""
    limit: int = 10_000
    """Training images."""
    epochs: float = 3.0
    """Of every network."""
    latent_dim: int = 128
    """Dimension of the codes."""
    seeds: int = 1
    """Of the networks: as many, from 0 on."""
    out: str = "benchmarks/networks.json"
    """JSON file that is written."""

    @classmethod
    def smoke(cls, **changes: Any) -> Config:
        """Return a run for tests."""
        return cls(**{"limit": 300, "epochs": 8.0, "latent_dim": 4, "out": "", **changes})


def main(config: Config) -> dict[str, Any]:
    """Measure, write the JSON, and return it."""
    train, test = (data.load(config.dataset, split, config.data_dir).images for split in ("train", "test"))
    train, test = train[: config.limit], test[:1000]
    results = {
        "command": "python -m experiments.bench.networks --data-dir DATA "
        f"--epochs {config.epochs:g} --seeds {config.seeds}",
        "images": f"{len(train)} of {config.dataset}, {train.shape[1]} x {train.shape[2]}, {config.epochs:g} epochs",
        "networks": {name: measured(config, fields, train, test) for name, fields in NETWORKS.items()},
        "load_average": round(os.getloadavg()[0], 1),
        **record("machine", "device", "jax", "date"),
    }
    store(config.out, results)
    return results


def measured(config: Config, fields: dict[str, Any], train: np.ndarray, test: np.ndarray) -> dict[str, Any]:
    """Parameters, operations an image, rates of training, and decibels of held-out images."""
    settings = ae_ot.Config(latent_dim=config.latent_dim, epochs=config.epochs, batch_size=128, **fields)
    found = []
    for seed in range(config.seeds):
        told: list[tuple[int, float, float]] = []

        def note(step: int, metrics: Any, told: list[tuple[int, float, float]] = told) -> None:
            told.append((step, time.perf_counter(), time.process_time()))

        every = min(10, max(1, ae_ot.num_steps_of(settings, len(train)) // 4))
        module, params = ae_ot.train_autoencoder(jax.random.key(seed), train, settings, callback=note, log_every=every)
        (first, clock, processors), (last, clock_end, processors_end) = told[0], told[-1]  # without the compilation
        images = (last - first) * settings.batch_size
        error = _error(module, params, test)
        found.append((images / (clock_end - clock), images / (processors_end - processors), -10 * np.log10(error)))
    rate, per_core, decibels = np.transpose(found)
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "mflop_an_image": round(_operations(module, params, train[:128]) / 128 / 1e6, 1),
        "images_per_second": round(float(np.median(rate)), 1),
        "per_core": round(float(np.median(per_core)), 1),
        "psnr": [round(float(value), 2) for value in decibels],
    }


def _error(module: ae_ot.AEOT, params: Any, images: np.ndarray) -> float:
    back = ae_ot.decode(module, {"params": params}, ae_ot.encode(module, {"params": params}, images))
    return float(jnp.mean((back - to_unit(images)) ** 2))


def _operations(module: ae_ot.AEOT, params: Any, images: np.ndarray) -> float:
    """Operations of the gradient of the loss on a batch, as XLA counts them."""
    work = jax.jit(jax.grad(lambda params, images: ae_ot.loss(params, module, images)[0]))
    return float(work.lower(params, to_unit(images)).compile().cost_analysis()["flops"])


if __name__ == "__main__":
    command.cli(Config, main, __doc__, lambda config, results: json.dumps(results, indent=1))
