"""Figures of the AE-OT-GAN: samples, training, and paths of noise across faces where the transport map jumps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.figures import rows_of_images, save, sheet, trainings
from experiments.lab.trials import load_shown
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
    shown, seed = load_shown(places), config.seed_list()[0]
    samples = {name: images for name, images in shown.items() if name not in PATHS}
    stages = {f"{name}, gan, seed {seed}": name for name in config.names()}
    drawn = {
        "samples.png": sheet(samples, _points if config.is_toy() else _images, 3, (4, 4.2)),
        "training.png": trainings(folder / "metrics.jsonl", stages, _TRAINING),
    }
    if set(PATHS) <= set(shown):
        titles = {f"across the map's farthest jump, angle {name.split(', ')[1]}": shown[name] for name in PATHS}
        drawn["paths.png"] = sheet(titles, rows_of_images, 2, (4.8, 3.5))
    for name, figure in drawn.items():
        if figure is not None:
            save(figure, folder / name)
    return [name for name, figure in drawn.items() if figure is not None]


def _points(ax: Any, name: str, images: np.ndarray) -> None:
    plot.points(images[:, 0, 0], ax, name)
    ax.set(xlim=(0, 1), ylim=(0, 1), xticks=(), yticks=())


def _images(ax: Any, name: str, images: np.ndarray) -> None:
    plot.image_grid(images[:100], 10, ax, name)
