"""Figures of the generator by the Sinkhorn divergence: samples of all rows, and particles while they flow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab import figures
from experiments.lab.trials import load_shown
from otgen import optional, plot
from otgen.data import toy
from otgen.ot.sinkhorn.drift import drift
from otgen.types import Array

_PARTICLES, _STEPS, _PACE, _SHARE = 800, 60, 0.1, 0.001
_SHOWN = (0, 5, 10, 20, 60)  # steps of the panels


def draw(config: Any, folder: Path, places: list[Path]) -> None:
    """Draw samples of every row; of toys also how particles reach them."""
    shown = load_shown(places)
    if shown:
        figures.save(figures.sheet(shown, _samples, 3, (3, 3.2)), folder / "samples.png")
    if config.kind() == "points":
        draw_particles(config.dataset, folder)


def _samples(ax: Any, name: str, samples: np.ndarray) -> None:
    if samples.ndim == 2:
        plot.points(samples, ax, name, size=2)
        ax.set_aspect("equal")
    else:
        plot.image_grid(samples[:64], 8, ax, name)


def flow(dataset: str) -> tuple[np.ndarray, np.ndarray]:
    """Return where particles are after every step [steps + 1, n, 2], and the points of the target [n, 2].

    They descend the divergence between the two clouds as they are: nothing is drawn anew, so that no second batch is
    needed.
    """
    key, make = jax.random.key(0), toy.DISTRIBUTIONS[dataset]
    target = make(jax.random.fold_in(key, 1), _PARTICLES)
    unit = 2 * target.var(axis=0).sum()
    start = 0.3 * jnp.sqrt(unit / 4) * jax.random.normal(key, (_PARTICLES, 2))

    def step(x: Array, _: None) -> tuple[Array, Array]:
        x = x + _PACE * drift(x, target, epsilon=_SHARE * unit, tol=0.01)
        return x, x

    _, path = jax.lax.scan(step, start, None, length=_STEPS)
    return np.concatenate([start[None], path]), np.asarray(target)


def draw_particles(dataset: str, folder: Path) -> None:
    """Draw particles that flow by the drift: panels (particles.png) and an animation (particles.gif)."""
    with optional.imports():
        from PIL import Image

    path, target = flow(dataset)
    colours = plot.colours(path[0])
    reach = 1.25 * np.abs(target).max()

    def panel(ax: Any, step: int, size: float) -> None:
        plot.points(target, ax, color="#DDDDDD", size=size)
        plot.points(path[step], ax, "start" if step == 0 else f"step {step}", colours, size=size)
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])

    sheet, axes = figures.canvas(1, len(_SHOWN), 2.6, 3.0)
    for ax, step in zip(axes[0], _SHOWN, strict=True):
        panel(ax, step, 4)
    figures.save(sheet, folder / "particles.png")
    frames = []
    for step in range(0, _STEPS + 1, 2):
        sheet, axes = figures.canvas(1, 1, 3.2, 3.4)
        panel(axes[0, 0], step, 5)
        sheet.canvas.draw()
        frames.append(Image.fromarray(np.asarray(sheet.canvas.buffer_rgba())[..., :3]).quantize(64))
        figures.pyplot().close(sheet)
    durations = [600, *[90] * (len(frames) - 2), 1500]
    frames[0].save(folder / "particles.gif", save_all=True, append_images=frames[1:], duration=durations, loop=0)
