"""The theory of deep linear generators, seen: flows, rates, spectra of Hessians, starts of low rank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.figures import canvas, save
from otgen import plot
from otgen.data.toy import zipf_covariance
from otgen.nn import linear
from otgen.theory import bounds, critical, dynamics

LATE = (-5.0, -4.0)  # log10 of the loss where rates are measured: the slowest mode alone is left


def figure(columns: int, width: float = 4.6) -> tuple[Any, Any]:
    """Return a figure of one row, and its axes."""
    sheet, (axes,) = canvas(1, columns, width, 3.6)
    return sheet, axes


def start_of(config: Any, least: float, depth: int, seed: int, tau: float = 0.0) -> tuple[Any, Any]:
    """Return a random target, and balanced weights near it with a positive margin deficiency."""
    target_key, weights_key = jax.random.split(jax.random.key(seed))
    target = zipf_covariance(target_key, config.dim, least)
    return target, linear.close_weights(weights_key, target, (config.dim,) * (depth + 1), tau=tau)


def flow_of(config: Any, least: float, depth: int, seed: int, tau: float = 0.0) -> bounds.Assessment:
    """Return the gradient flow from such a start, judged."""
    target, weights = start_of(config, least, depth, seed, tau)
    rate = bounds.local_rate(float(jnp.linalg.eigvalsh(target)[0]), tau, depth)
    path = dynamics.flow(weights, target, times=np.linspace(0, 14 / rate, 300), tau=tau)
    return path, bounds.assess(path, target, tau, window=LATE)


def flows(config: Any, path: Path) -> dict[str, Any]:
    """Return the loss against time, with the envelope of the theory and the one of the eigenvalues met on the way."""
    results = {}
    taus = (0.0, 0.1)
    drawing, axes = figure(len(taus))
    shades = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9")
    for ax, tau in zip(axes, taus, strict=True):
        for depth, colour in zip(config.depths[:4], shades, strict=False):
            run, found = flow_of(config, 1.0, depth, config.seed, tau)
            times, losses = np.asarray(run.times), np.asarray(run.losses) - found.bounds.optimum
            ax.semilogy(times, np.maximum(losses, 1e-12), color=colour, label=f"N = {depth}")
            ax.semilogy(times, losses[0] * np.exp(-found.path_rate * times), "--", color=colour, linewidth=0.8)
            proved = bounds.envelope(times, found.bounds) - found.bounds.optimum
            ax.semilogy(times, proved, ":", color=colour, linewidth=1.0)
            results[f"N = {depth}, tau = {tau}"] = {
                "below the envelope": bool(found.below_envelope),
                "measured rate": float(found.measured_rate),
                "local rate": float(found.local_rate),
                "rate of the eigenvalues on the way": float(found.path_rate),
                "rate proved at the start": float(found.bound_rate),
                "looseness": float(found.looseness),
                "words": bounds.describe(found),
            }
        ax.set(xlabel="time", ylabel="loss above its minimum", title=f"tau = {tau}", ylim=(1e-7, 3e4), xlim=(0, 2.2))
    axes[0].legend(frameon=False, loc="upper right", ncols=2)
    kinds = {"-": "loss", "--": "bound, eigenvalues on the way", ":": "bound, known at the start"}
    lines = [axes[1].plot([], [], style, color="0.4", label=name)[0] for style, name in kinds.items()]
    axes[1].legend(handles=lines, frameon=False, loc="upper right")
    save(drawing, path)
    return results


def rates(config: Any, path: Path) -> dict[str, Any]:
    """Measured over predicted rate near the optimum, for every depth and smallest eigenvalue."""
    table: dict[str, Any] = {}
    drawing, axes = figure(2)
    means = np.zeros((len(config.least), len(config.depths)))
    predicted = np.zeros_like(means)
    for i, least in enumerate(config.least):
        for j, depth in enumerate(config.depths):
            found = [flow_of(config, least, depth, seed)[1] for seed in range(config.targets)]
            measured = np.array([one.measured_rate for one in found])
            predicted[i, j] = bounds.local_rate(least + 1 / config.dim, 0.0, depth)
            means[i, j] = measured.mean()
            table[f"least = {least}, N = {depth}"] = {
                "measured": float(measured.mean()),
                "sd over targets": float(measured.std(ddof=1)) if len(measured) > 1 else 0.0,
                "local rate": float(predicted[i, j]),
                "below the envelope": all(bool(one.below_envelope) for one in found),
            }
    for i, least in enumerate(config.least):
        (line,) = axes[0].plot(config.depths, means[i], "o", label=f"{least + 1 / config.dim:.2f}")
        axes[0].plot(config.depths, predicted[i], color=line.get_color(), linewidth=0.8)
    axes[0].set(xlabel="depth N", ylabel="rate of the loss", title="measured (dots), local rate (lines)")
    axes[0].set_xticks(config.depths)
    axes[0].legend(frameon=False, title="least eigenvalue")
    ticks = np.array(config.least) + 1 / config.dim
    for j, depth in enumerate(config.depths):
        (line,) = axes[1].loglog(ticks, means[:, j], "o", label=f"N = {depth}")
        axes[1].loglog(ticks, predicted[:, j], color=line.get_color(), linewidth=0.8)
    axes[1].set(xlabel="least eigenvalue of the target", ylabel="rate of the loss")
    axes[1].set_xticks(ticks, [f"{tick:.2f}" for tick in ticks])
    axes[1].minorticks_off()
    axes[1].set_ylim(top=3 * means.max())
    axes[1].legend(frameon=False, ncols=2)
    save(drawing, path)
    return table


def spectra(path: Path) -> dict[str, Any]:
    """Extremal eigenvalues of the Hessian at every critical point of a 4 x 4 problem of two layers."""
    values, tau = (4.0, 2.0, 1.0, 0.5), 0.01
    subsets = [(0, 1, 2, 3), (0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3), (0, 1), (2, 3), (0,), (3,), ()]
    table: dict[str, Any] = {}
    for subset in subsets:
        row = {}
        for loss in ("bures", "frobenius"):
            spectrum = critical.hessian_spectrum(values, subset, (4, 4, 4), tau=tau, kind=loss)
            row[loss] = [float(spectrum[0]), float(spectrum[-1])]
        table["".join(str(i + 1) for i in subset) or "none"] = row
    drawing, axes = figure(2)
    for ax, loss in zip(axes, ("bures", "frobenius"), strict=True):
        names = list(table)
        low, high = np.array([table[name][loss] for name in names]).T
        ax.vlines(range(len(names)), low, high, color=plot.GREY)
        ax.plot(high, "o", color=plot.BLUE, label="largest")
        ax.plot(low, "o", color=plot.ORANGE, label="smallest")
        ax.axhline(0, color="0.7", linewidth=0.6, zorder=0)
        ax.set_xticks(range(len(names)), names, rotation=45)
        ax.set(xlabel="eigenvalues kept, of (4, 2, 1, .5)", ylabel="eigenvalue of the Hessian")
        ax.set_title("Bures, tau = .01" if loss == "bures" else "Frobenius")
    axes[0].legend(frameon=False)
    save(drawing, path)
    return table


def deficient(config: Any, path: Path) -> dict[str, Any]:
    """Return runs of gradient descent from weights of rank 1 and from small ones, with and without the perturbation."""
    depth, steps, size = 2, 3000, 1e-3
    target = zipf_covariance(jax.random.key(config.seed), config.dim, 1.0)
    widths = (config.dim,) * (depth + 1)
    starts = {
        "rank 1, balanced": linear.draw_weights(jax.random.key(1), widths, "low_rank", rank=1),
        "small random": linear.draw_weights(jax.random.key(2), widths, "normal", scale=0.1),
    }
    table: dict[str, Any] = {}
    drawing, axes = figure(2)
    for ax, (name, weights) in zip(axes, starts.items(), strict=True):
        weights = tuple(matrix.astype(target.dtype) for matrix in weights)
        for tau in (0.0, 0.01, 0.1, 0.5):
            run = dynamics.descend(
                weights, target, step_size=size, num_steps=steps, record_every=20, tau=jnp.asarray(tau)
            )
            ranks = np.linalg.matrix_rank(np.asarray(dynamics.end_to_end([part[-1] for part in run.weights])), 1e-6)
            excess = np.asarray(run.losses) - float(critical.minimum(target, config.dim, tau))
            table[f"{name}, tau = {tau}"] = {
                "excess at the end": float(excess[-1]),
                "rank at the end": int(ranks),
                "finite": bool(np.isfinite(excess).all()),
            }
            ax.semilogy(run.times, np.maximum(excess, 1e-9), label=f"tau = {tau}")
        ax.set(xlabel="time", ylabel="loss above its minimum", title=name)
    axes[0].legend(frameon=False)
    save(drawing, path)
    return table
