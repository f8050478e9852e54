"""The checks of `gpu_check` by name, in the order they run; see `base` for what a check is."""

from __future__ import annotations

from collections.abc import Callable

from experiments.gpu_check.base import Context, Result, ceilings, presets
from experiments.gpu_check.scores import scores_gradients, scores_speed, scores_values
from experiments.gpu_check.softmin import (
    softmin_speed,
    softmin_values,
    trap_barycentre,
    trap_distances,
    trap_scores,
    trap_sinkhorn,
)
from experiments.gpu_check.training import TRAININGS, checkpoint, parallel_step, resume
from experiments.gpu_check.transport import (
    gaussian_distances,
    latent_laws,
    semidiscrete_devices,
    semidiscrete_million,
    semidiscrete_rate,
    semidiscrete_truth,
    sinkhorn_rates,
    sinkhorn_solution,
)

CHECKS: dict[str, Callable[[Context], Result]] = {
    "semidiscrete.million": semidiscrete_million,  # first, see there
    "ceilings": ceilings,
    "presets": presets,
    "softmin.values": softmin_values,
    "softmin.speed": softmin_speed,
    "scores.values": scores_values,
    "scores.gradients": scores_gradients,
    "scores.speed": scores_speed,
    "trap.distances": trap_distances,
    "trap.scores": trap_scores,
    "trap.sinkhorn": trap_sinkhorn,
    "trap.barycentre": trap_barycentre,
    "semidiscrete.rate": semidiscrete_rate,
    "semidiscrete.truth": semidiscrete_truth,
    "semidiscrete.devices": semidiscrete_devices,
    "sinkhorn.solution": sinkhorn_solution,
    "gaussian": gaussian_distances,
    "latent": latent_laws,
    "parallel": parallel_step,
    "checkpoint": checkpoint,
    "resume": resume,
    **TRAININGS,
    "sinkhorn.rates": sinkhorn_rates,  # last: it takes the most memory
}
