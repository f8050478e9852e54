"""Midpoints of latents on the cube, and figures of latent operations: laws, paths, rows of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.figures import canvas, pyplot, save
from otgen import plot
from otgen.ot import latent
from otgen.types import Array

CUBE = latent.Uniform(-0.5, 0.5)


def midpoints(corners: list[Array]) -> dict[str, Array]:
    """Return the midpoints compared, from four sets of noise [n, d]."""
    return {
        "matched, two points": latent.lerp(0.5, *corners[:2], CUBE),
        "lerp, two points": latent.raw([0.5, 0.5], corners[:2]),
        "slerp, two points": latent.slerp(0.5, *corners[:2]),
        "matched, four points": latent.centroid(corners, CUBE),
        "lerp, four points": latent.raw([0.25] * 4, corners),
    }


def figure_of_laws(path: Path) -> None:
    """Paths between two uniform latents, and the law of midpoints, in the plane."""
    sheet, (axes,) = canvas(1, 4, 3.75, 4)
    prior = latent.Uniform()
    z = [prior.sample(key, (4000, 2)) for key in jax.random.split(jax.random.key(3))]
    t = np.linspace(0, 1, 33)
    ends = jnp.array([[-0.9, 0.3]]), jnp.array([[0.4, 0.85]])
    paths = {
        "lerp": np.stack([latent.raw([1 - s, s], ends)[0] for s in t]),
        "slerp": np.stack([latent.slerp(s, *ends)[0] for s in t]),
        "matched": np.asarray(latent.lerp(t, *ends, prior))[:, 0],
    }
    for (name, line), colour in zip(paths.items(), (plot.GREY, plot.ORANGE, plot.BLUE), strict=True):
        axes[0].plot(line[:, 0], line[:, 1], color=colour, label=name, linewidth=2)
    axes[0].plot(*np.concatenate(ends).T, "ko", markersize=5)
    axes[0].legend(frameon=False, loc="center")
    axes[0].set_title("paths between two uniform latents")
    laws = {
        "midpoints, lerp": latent.raw([0.5, 0.5], z),
        "midpoints, slerp": latent.slerp(0.5, *z),
        "midpoints, matched": latent.lerp(0.5, *z, prior),
    }
    for ax, (name, x) in zip(axes[1:], laws.items(), strict=True):
        plot.points(x, ax, name, size=2)
    for ax in axes:
        ax.add_patch(pyplot().Rectangle((-1, -1), 2, 2, fill=False, color="black", linewidth=0.8))
        ax.set(xlim=(-1.35, 1.35), ylim=(-1.35, 1.35), aspect="equal")
    save(sheet, path, 130)


def figure_of_rows(config: Any, path: Path, generate: Any) -> None:
    """Decoded four-point centres and two-point paths, raw above matched."""
    keys = jax.random.split(jax.random.key(config.seed + 2), 5)
    corners = [CUBE.sample(key, (12, generate.dim)) for key in keys[:4]]
    sheet, (axes,) = canvas(1, 2, 6, 2.1)
    between = midpoints(corners)
    shown = [corners[0], *(between[name] for name in ("lerp, four points", "matched, four points"))]
    decoded = generate(keys[4], jnp.concatenate(shown))
    plot.image_grid(decoded, 12, axes[0], "prior samples; centres of four: raw, matched")
    t = jnp.linspace(0, 1, 12)
    raw = jnp.stack([latent.raw(jnp.stack([1 - s, s]), (corners[0][0], corners[1][0])) for s in t])
    around = jnp.stack([latent.slerp(s, corners[0][0], corners[1][0]) for s in t])
    matched = latent.lerp(t, corners[0][0], corners[1][0], CUBE)
    plot.image_grid(
        generate(keys[4], jnp.concatenate([raw, around, matched])), 12, axes[1], "paths: lerp, slerp, matched"
    )
    save(sheet, path, 130, bbox_inches="tight")
