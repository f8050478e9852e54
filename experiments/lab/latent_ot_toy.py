"""The latent-OT experiment in the plane, where the optimal map is known; and what it shares with that on images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.figures import canvas, recorded
from experiments.lab.figures import save as save_figure
from experiments.lab.trials import is_done, load_shown, place_of, read, run_missing, save, stage
from otgen import plot
from otgen.data import toy
from otgen.eval import cosine, l2_uvp, mode_scores
from otgen.maps import neural_map
from otgen.maps.training import plan
from otgen.ot import semidiscrete
from otgen.ot.semidiscrete.source import gaussian
from otgen.types import Array, Key

TRUTH = "semi-discrete (the truth)"
FORMS = {  # of every solver, the smooth one last; the gradient of "c_transform" is its argmax
    "c_transform": ("argmax", "barycentre"),
    "lp": ("argmax", "barycentre", "gradient"),
    "icnn": ("argmax", "barycentre", "gradient"),
}
COLUMNS = {  # of the table
    "modes": "modes",
    "share_3sd": "within 3 sd",
    "sd_ratio": "within-mode sd / true",
    "l2_uvp": "L2-UVP, %",
    "cosine": "cosine",
    "half_cost": "mean &#124;x - T&#124;^2 / 2",
    "half_dual": "dual value / 2",
    "chi2": "chi2 of the cells",
    "seconds": "seconds",
}
_DATA_SEED = 2000  # of the target points, the same for all seeds
_TOL, _MOST = 0.01, 20_000_000
_SHOWN = 3000  # points in the figure


def run(config: Any, folder: Path, progress: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Solve the semi-discrete transport twice, learn the maps, score what is not yet scored, draw."""
    points = toy.DISTRIBUTIONS[config.dataset](jax.random.key(_DATA_SEED), config.num_points)
    exact, facts = truth(config, folder, points, progress)
    known = {
        name: {"half_dual": fact["dual_value"] / 2, "chi2": fact["chi2"], "seconds": fact["seconds"]}
        for name, fact in facts.items()
    }

    def work(trial: tuple[int, str]) -> None:
        seed, group = trial
        place = place_of(folder, seed, group)
        moves, notes = dict(zip(facts, exact, strict=True)), known
        if group != "truth":
            moves, notes = learn(config, place, seed, group, points, progress)
        score(config, place, seed, group, points, exact[0], moves, notes)

    trials = [(seed, group) for seed in config.seed_list() for group in ("truth", *config.names())]
    runs = run_missing(trials, lambda trial: place_of(folder, *trial), work)
    figure(config, folder, points, facts[TRUTH]["dual_value"], runs)
    return runs, {"truth": facts, "figures": ["maps.png"]}


def truth(
    config: Any, folder: Path, points: Array, progress: Any
) -> tuple[list[Callable[[Array], Array]], dict[str, Any]]:
    """Return the optimal map solved with two keys, and what is known of both."""
    place, facts = folder / "checkpoints" / "truth", {}
    if not is_done(place):
        heights = {}
        for i, name in enumerate((TRUTH, "the same, another key")):
            key = jax.random.fold_in(jax.random.key(_DATA_SEED), 1 + i)

            def solve(callback: Any, checkpoints: Any, key: Key = key) -> Any:
                state = checkpoints.restore(semidiscrete.from_heights(points[:, 0]))
                options = {"sampler": gaussian, "tol": _TOL, "max_samples": _MOST, "state": state}
                return semidiscrete.run(key, points, callback=callback, save=checkpoints.save, **options)

            (exact, info), seconds = stage(config, place / str(i), name, None, progress, solve)
            facts[name] = {**{field: float(value) for field, value in info._asdict().items()}, "seconds": seconds}
            heights[name] = exact.h
        save(place, facts, heights)
    facts = read(place)
    with np.load(place / "samples.npz") as file:
        states = [semidiscrete.from_heights(jnp.asarray(file[name])) for name in facts]
    return [lambda x, state=state: points[semidiscrete.assign(state, points, x)] for state in states], facts


def learn(
    config: Any, place: Path, seed: int, solver: str, points: Array, progress: Any
) -> tuple[dict[str, Callable[[Array], Array]], dict[str, dict[str, Any]]]:
    """Return the forms of a learned map, and what is known of each, by row of the table."""
    options = config.options(solver)
    total = plan(neural_map.config_of(solver, **options), len(points)).calls
    key = jax.random.fold_in(jax.random.key(seed), list(FORMS).index(solver))

    def fit(**watch: Any) -> neural_map.Map:
        rest = {"solver": solver, **options}
        if config.neighbours is not None:
            rest["neighbours"] = config.neighbours
        return neural_map.fit(key, None, points, **rest, **watch)

    found, seconds = stage(config, place, f"{solver}, seed {seed}", total, progress, fit)
    info = neural_map.evaluate(_test_key(seed), found, num=2**16)
    note = {"half_dual": float(info.dual_value) / 2, "half_dual_error": float(info.dual_error) / 2, "seconds": seconds}
    missed, _ = semidiscrete.chi2(_test_key(seed), neural_map.heights(found), points, 2**18, sampler=gaussian)
    note |= {"chi2": float(missed), "temperature": float(found.temperature), "residual": float(found.residual)}
    rows = {f"{solver}, {form}": form for form in FORMS[solver]}
    moves = {row: lambda x, form=form: neural_map.transport(found, x, form) for row, form in rows.items()}
    return moves, dict.fromkeys(rows, note)


def _test_key(seed: int) -> Key:
    return jax.random.fold_in(jax.random.key(seed), 3000)


def score(
    config: Any, place: Path, seed: int, group: str, points: Array, exact: Any, moves: dict[str, Any], notes: Any
) -> None:
    """Write how fresh draws moved by each map lie on the modes, and how far they are from the truth."""
    x = gaussian(_test_key(seed), config.num_eval, 2)
    known, right = toy.centres_of(config.dataset), exact(x)
    rows, shown = {}, {}
    for row, move in moves.items():
        moved = move(x)
        scores = {"l2_uvp": l2_uvp(moved, right), "cosine": cosine(moved, right, x)}
        scores["half_cost"] = 0.5 * jnp.mean(jnp.sum((moved - x) ** 2, axis=1))
        if known is not None:
            found = mode_scores(moved, *known)
            scores |= {name: getattr(found, name) for name in ("modes", "share_3sd", "share_4sd", "reverse_kl")}
            scores["sd_ratio"] = found.within_sd / mode_scores(points, *known).within_sd
        rows[row] = {**{name: float(value) for name, value in scores.items()}, **notes[row]}
        shown[row] = moved[:_SHOWN]
    save(place, {"group": group, "seed": seed, "rows": rows}, {"noise": x[:_SHOWN], **shown})


def curve(folder: Path, name: str, num_steps: int) -> tuple[str, np.ndarray, np.ndarray] | None:
    """What a stage minimised: its name, updates, and values, from metrics.jsonl; None if nothing was recorded."""
    entries = recorded(folder / "metrics.jsonl").get(name)
    if not entries:
        return None
    steps = np.array(list(entries))
    metric = "objective" if "objective" in entries[steps[-1]] else "loss"
    return metric, steps * num_steps / steps[-1], np.array([entry[metric] for entry in entries.values()])


def objective(ax: Any, config: Any, folder: Path, seed: int, solver: str, infimum: float | None = None) -> None:
    """Draw what a solver minimised against its updates, with a running mean, and the infimum where it is known."""
    num_steps = neural_map.config_of(solver, **config.options(solver)).num_steps
    found = curve(folder, f"{solver}, seed {seed}", num_steps)
    if found is None:
        ax.set(title=f"{solver}: not recorded, metrics.jsonl lacks it", xticks=[], yticks=[])
        return
    metric, steps, values = found
    width = max(1, min(len(values) // 3, max(3, len(values) // 12)))
    smooth = np.convolve(values, np.ones(width) / width, "valid")
    ax.plot(steps, values, color=plot.BLUE, alpha=0.3, lw=0.8, label="batches")
    ax.plot(np.convolve(steps, np.ones(width) / width, "valid"), smooth, color=plot.BLUE, lw=1.8, label="running mean")
    if infimum is not None:
        ax.axhline(infimum, color=plot.ORANGE, linestyle="--", lw=1.2, label="infimum")
    if metric == "loss":
        ax.set_yscale("log")
    ax.spines[["top", "right"]].set_visible(False)
    what = "objective J" if metric == "objective" else "loss of the regression"
    ax.set(title=f"{solver}: {what}", xlabel="updates", ylabel="in standard units")
    ax.legend(frameon=False, fontsize=8)


def figure(config: Any, folder: Path, points: Array, w2_sq: float, runs: list[dict[str, Any]]) -> None:
    """Draw, for the first seed, noise moved by the winning code and by the smooth form, and every objective."""
    seed, solvers = config.seed_list()[0], config.names()
    sheet, axes = canvas(1 + len(solvers), 3, 3.8, 3.7)
    behind, reach = np.asarray(points), 1.15 * float(jnp.abs(points - points.mean(0)).max())

    def moved(ax: Any, group: str, row: str, title: str, targets: bool = True) -> None:
        shown = load_shown([place_of(folder, seed, group)])
        if targets:
            plot.points(behind, ax, color="#DDDDDD", size=9)
        plot.points(shown[row], ax, title, plot.colours(shown["noise"]), size=3)
        half = reach if targets else max(3.2, reach)
        middle = behind.mean(0)
        ax.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half))

    moved(axes[0, 0], "truth", "noise", "noise, coloured by its place", targets=False)
    moved(axes[0, 1], "truth", TRUTH, "semi-discrete transport: the truth")
    _distances(axes[0, 2], [run for run in runs if run["seed"] == seed])
    infimum = _infima(behind, w2_sq)
    for line, solver in zip(axes[1:], solvers, strict=True):
        for ax, form in zip(line, (FORMS[solver][0], FORMS[solver][-1]), strict=False):
            moved(ax, solver, f"{solver}, {form}", f"{solver}, {form}")
        objective(line[2], config, folder, seed, solver, infimum.get(solver))
    save_figure(sheet, folder / "maps.png", 140)


def _infima(points: np.ndarray, w2_sq: float) -> dict[str, float]:
    """Return what the objectives fall to, in the solvers' standard units, for noise N(0, I) in the plane."""
    scale = float(np.sqrt(points.var(0).mean()))
    inner = (2 + float(np.sum(points**2, axis=1).mean()) - w2_sq) / (2 * scale)  # of the optimal pairs
    return {"c_transform": 2 * inner - 4, "icnn": inner}


def _distances(ax: Any, runs: list[dict[str, Any]]) -> None:
    """How far every map is from the truth."""
    uvp = {row: scores["l2_uvp"] for run in runs for row, scores in run["rows"].items() if scores["l2_uvp"] > 0}
    place = np.arange(len(uvp))[::-1]
    ax.hlines(place, min(uvp.values()) / 2, list(uvp.values()), color="#DDDDDD", lw=1)
    ax.scatter(list(uvp.values()), place, color=plot.BLUE, s=28)
    ax.set_yticks(place, list(uvp), fontsize=8)
    ax.set(title="L2-UVP against the truth, %", xscale="log", xlim=(min(uvp.values()) / 2, None))
    ax.spines[["top", "right"]].set_visible(False)
