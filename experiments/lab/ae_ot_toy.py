"""The AE-OT experiment in the plane: latent = data, so that cells, jumps and mixtures can be seen."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.lab.figures import canvas, save
from otgen import plot
from otgen.data import toy
from otgen.eval import mode_scores
from otgen.ot import semidiscrete
from otgen.ot.semidiscrete import extension
from otgen.ot.semidiscrete.scores import top_scores
from otgen.train import Checkpoints
from otgen.types import Array

TOL = 3e-4
SHOWN = ("local", "pairs")  # forms in the figure


def run(config: Any, folder: Path, progress: Any) -> dict[str, Any]:
    """Solve the transport to standardised toy points, extend it, score the modes, draw."""
    draw_key, solve_key, extend_key, sample_key = jax.random.split(jax.random.key(config.seed), 4)
    raw = toy.DISTRIBUTIONS[config.dataset](draw_key, config.num_points)
    y, mean, scale = toy.standardise(raw)
    start = time.perf_counter()
    with Checkpoints(folder / "checkpoints" / "transport", config.identity()) as checkpoints:
        state = checkpoints.restore(semidiscrete.from_heights(y[:, 0]))
        with progress("transport", None) as callback:
            transport, info = semidiscrete.run(
                solve_key,
                y,
                tol=TOL if config.tol is None else config.tol,
                max_samples=config.max_samples,
                state=state,
                callback=callback,
                save=checkpoints.save,
            )
    seconds = time.perf_counter() - start
    transport = transport.extended(extend_key)
    angle = transport.extension.angle if config.angle is None else config.angle
    samples = {}
    for form in extension.FORMS:
        for word, limit in (("on", angle), ("off", math.pi)):
            new = transport.sample(sample_key, config.num_eval, form=form, angle=limit)
            samples[f"{form}, filter {word}"] = new * scale + mean
    masses = transport.masses(extend_key, 2**20)
    results = {
        "dataset": config.dataset,
        "seed": config.seed,
        "transport": {name: float(value) for name, value in info._asdict().items()},
        "angle": float(angle),
        "smallest_mass_ratio": float(masses.min() * len(y)),
        "modes": {
            name: scores
            for name, x in {"targets": raw, **samples}.items()
            if (scores := _modes(config.dataset, x, raw))
        },
        "seconds": {"transport": round(seconds, 2)},
        "figure": "transport.png",
    }
    figure(folder / "transport.png", transport, y, raw, samples, float(angle))
    return results


def _modes(name: str, samples: Array, points: Array) -> dict[str, float] | None:
    """Mode scores of samples, their spread within modes in units of that of the target points."""
    known = toy.centres_of(name)
    if known is None:
        return None
    scores = mode_scores(samples, *known)
    own = mode_scores(points, *known).within_sd
    return {
        **{field: float(value) for field, value in scores._asdict().items()},
        "sd_ratio": float(scores.within_sd / own),
    }


def figure(
    path: Path, state: semidiscrete.State, y: Array, raw: Array, samples: dict[str, Array], angle: float
) -> None:
    """Draw the source coloured by target, its cells, the targets, and new samples with the filter on and off."""
    sheet, axes = canvas(2, 4, 4, 4.1)
    x = extension.source_samples(jax.random.key(0), 4000, 2)
    hue = plot.colours(y)
    plot.points(x, axes[0, 0], "source samples, coloured by target", hue[semidiscrete.assign(state, y, x)])
    plot.cells(state, y, axes[0, 1], "cells")
    plot.points(raw, axes[0, 2], f"{len(y)} targets", hue, size=12)
    _angles(axes[0, 3], state, y, angle)
    shown = [f"{form}, filter {word}" for form in SHOWN for word in ("on", "off")]
    for ax, name in zip(axes[1], shown, strict=True):
        plot.points(samples[name][:4000], ax, name, size=2)
        ax.set(xlim=axes[0, 2].get_xlim(), ylim=axes[0, 2].get_ylim())
    save(sheet, path, 130)


def _angles(ax: Any, state: semidiscrete.State, y: Array, angle: float) -> None:
    """Histogram of the dihedral angles between each sample's winner and its runner-up, with the threshold."""
    x = extension.source_samples(jax.random.key(1), 20_000, 2)
    centred = y - y.mean(0)
    _, index = top_scores(x, centred, state.h, k=2)
    angles = extension.dihedral_angle(centred[index[:, 0]], centred[index[:, 1]])
    ax.hist(angles.tolist(), bins=np.geomspace(3e-4, math.pi, 60).tolist(), color=plot.BLUE)
    ax.axvline(angle, color=plot.ORANGE, linestyle="--", label=f"threshold {angle:.2g}")
    ax.legend(frameon=False)
    ax.set(xscale="log", yscale="log", title="dihedral angle, winner and runner-up", xlabel="radians")
