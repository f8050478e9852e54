"""Flows that version 0.1 saved as `latent_flow`, as flows of this one; their parameters have the same names."""

from __future__ import annotations

from typing import Any

from otgen.models.flow.training import INDEPENDENT, Config, Flow
from otgen.ot import latent


def flow(module: Any, params: Any, config: tuple[Config, str]) -> Flow:
    """Return a flow of what `latent_flow.Flow` had, its configuration as `config` gives it.

    Example:
      >>> module = og.nn.velocity.Velocity(2, 8, 1)
      >>> old = og.models.flow.earlier.config("transport", 0.02, 8, 1, 100, 64, 1e-3, 0.99, 30)
      >>> print(og.models.flow.earlier.flow(module, {}, old).coupling)
      Sinkhorn
    """
    return Flow(module, {"params": params}, config[0], latent.Normal(), config[1])


def config(
    pairing: str,
    epsilon: float,
    width: int,
    depth: int,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    average: float,
    solver_steps: int,
) -> tuple[Config, str]:
    """Return the configuration of what `latent_flow.Config` had, and the coupling that it named.

    Example:
      >>> old, coupling = og.models.flow.earlier.config("independent", 0.02, 8, 1, 100, 64, 1e-3, 0.99, 30)
      >>> print(old.method, old.sample_steps, coupling)
      midpoint 30 Independent
    """
    known = {"width": width, "depth": depth, "num_steps": num_steps, "batch_size": batch_size, "epsilon": epsilon}
    known |= {"learning_rate": learning_rate, "average": average, "repeats": 1}
    return Config(**known, method="midpoint", sample_steps=solver_steps), _PAIRINGS[pairing]


_PAIRINGS = {"independent": INDEPENDENT, "transport": "Sinkhorn"}
