"""Figures of the AE-OT-GAN: samples, training, and paths of noise across faces where the transport map jumps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.informative_gan_figures import curves
from otgen import plot
from otgen.models import ae_ot_gan
from otgen.ot import semidiscrete
from otgen.ot.semidiscrete import extension
from otgen.types import Array, Key

_PATHS, _PLACES = 8, 12  # rows and columns of the figure of paths
_ZOOM = 1 / 256  # half of the part of the path that is drawn
PATHS = {"path, filter on": None, "path, filter off": math.pi}
_TRAINING = {
    "gap": "critic, mean D(x) - mean D(G)",
    "content": "content loss of the pairs, a pixel",
    "feature": "feature loss",
}


def paths(key: Key, model: Any) -> dict[str, Array]:
    """Images along straight paths of noise, across the farthest jump of T on each, by the simplex form of the map.

    Args:
      key: random key of the ends of the paths.
      model: an AE-OT-GAN.

    Returns:
      Images [paths, places, h, w, c] with the angle filter on and off, by the names of PATHS.
    """
    known, shown = model.variables["transport"], {}
    ends = extension.source_samples(key, 2 * _PATHS, model.module.config.latent_dim).reshape(2, _PATHS, -1)
    state = semidiscrete.from_heights(known["h"])
    at = jax.vmap(lambda path: _farthest(state, known["codes"], path), in_axes=1)(ends)
    share = jnp.clip(at, _ZOOM, 1 - _ZOOM)[:, None] + jnp.linspace(-_ZOOM, _ZOOM, _PLACES)
    noise = ends[0][:, None] + share[..., None] * (ends[1] - ends[0])[:, None]

    def moved(x: Array, angle: Any) -> Array:
        flat = x.reshape(-1, x.shape[-1])
        move = jax.jit(lambda v, z: model.module.apply(v, key, z, "simplex", angle, method="move"))
        return move(model.variables, flat).reshape(x.shape)

    for name, angle in PATHS.items():
        found = moved(noise, known["angle"] if angle is None else angle) * known["scale"] + known["mean"]
        images = ae_ot_gan.decode(model.module, model.variables, found.reshape(-1, found.shape[-1]))
        shown[name] = images.reshape(_PATHS, _PLACES, *images.shape[1:])
    return shown


def _farthest(state: semidiscrete.State, codes: Array, path: Array) -> Array:
    """When T jumps farthest on a straight path; at its end if it stays in one cell."""
    walk = extension.walk(state, codes, path)
    jump = jnp.sum((codes[walk.cells[1:]] - codes[walk.cells[:-1]]) ** 2, axis=-1)
    return walk.time[jnp.where(jnp.isfinite(walk.time), jump, 0.0).argmax()]


def draw(config: Any, folder: Path, places: list[Path]) -> list[str]:
    """Draw samples of every row, training and paths of the first seed; return the file names."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown: dict[str, np.ndarray] = {}
    for place in places:
        with np.load(place / "samples.npz") as file:
            shown |= dict(file)
    drawn = []
    for name, axes in {"samples.png": _samples, "training.png": _training, "paths.png": _paths}.items():
        figure = axes(plt, config, folder, shown)
        if figure is not None:
            figure.savefig(folder / name, dpi=150)
            plt.close(figure)
            drawn.append(name)
    return drawn


def _samples(plt: Any, config: Any, folder: Path, shown: dict[str, np.ndarray]) -> Any:
    rows = {name: images for name, images in shown.items() if name not in PATHS}
    columns = min(3, len(rows))
    lines = -(-len(rows) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(4 * columns, 4.2 * lines), squeeze=False, layout="constrained")
    for ax in axes.flat[len(rows) :]:
        ax.set_axis_off()
    for ax, (name, images) in zip(axes.flat, rows.items(), strict=False):
        if config.is_toy():
            plot.points(images[:, 0, 0], ax, name)
            ax.set(xlim=(0, 1), ylim=(0, 1), xticks=(), yticks=())
        else:
            plot.image_grid(images[:100], 10, ax, name)
    return figure


def _training(plt: Any, config: Any, folder: Path, shown: dict[str, np.ndarray]) -> Any:
    """What critic and generator of every variant reached, against the steps."""
    seed = config.seed_list()[0]
    found = curves(folder / "metrics.jsonl", {f"{name}, gan, seed {seed}": name for name in config.names()})
    if not found:
        return None
    figure, axes = plt.subplots(1, len(_TRAINING), figsize=(4 * len(_TRAINING), 3.2), layout="constrained")
    for ax, (metric, label) in zip(axes, _TRAINING.items(), strict=True):
        for i, (name, entries) in enumerate(found.items()):
            played = [(step, entry[metric]) for step, entry in sorted(entries.items()) if metric in entry]
            if played:
                ax.plot(*np.array(played).T, color=plot.CYCLE[i % len(plot.CYCLE)], lw=1.4, label=name)
        ax.set(xlabel="steps", ylabel=label)
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def _paths(plt: Any, config: Any, folder: Path, shown: dict[str, np.ndarray]) -> Any:
    if not set(PATHS) <= set(shown):
        return None
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.5), layout="constrained")
    for ax, name in zip(axes, PATHS, strict=True):
        images = shown[name]
        title = "across the map's farthest jump, angle " + name.split(", ")[1]
        plot.image_grid(images.reshape(-1, *images.shape[2:]), images.shape[1], ax, title)
    return figure
