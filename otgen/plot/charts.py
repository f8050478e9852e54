"""Numbers: plans and costs as matrices, curves, tables, diagnoses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from otgen.ot.check import as_count, native, require_kind
from otgen.plot.look import BLUE, GREY, LINES, ORANGE, axis, cycle, ink
from otgen.types import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plan_matrix(plan: Array, ax: Axes | None = None, title: str = "") -> Axes:
    """Draw a plan or a cost matrix [n, m] as a heat map with a colour bar; infinite entries are left blank.

    Args:
      plan: masses or costs [n, m].
      ax: where to draw; None makes a figure.
      title: above the picture.

    Returns:
      The axis, source points from top to bottom.

    Raises:
      ValueError: for another shape, or NaN.

    Example:
      >>> ax = plan_matrix(np.eye(3) / 3)
      >>> ax.images[0].get_array().shape, ax.get_xlabel(), ax.get_ylabel()
      ((3, 3), 'target', 'source')
    """
    plan = np.asarray(native("the plan", plan))
    if plan.ndim != 2 or 0 in plan.shape:
        raise ValueError(f"the plan has shape {plan.shape}: give a matrix [n, m].")
    if np.isnan(plan).any():
        raise ValueError("the plan has NaN entries: did the solver converge?")
    ax = axis(ax)
    image = ax.imshow(np.ma.masked_invalid(plan), cmap="viridis", aspect="auto", interpolation="nearest")
    ax.figure.colorbar(image, ax=ax)
    ax.set(xlabel="target", ylabel="source", title=title)
    return ax


def curves(
    curves: Mapping[str, Any],
    ax: Axes | None = None,
    title: str = "",
    *,
    xlabel: str = "step",
    ylabel: str = "",
    log: bool = False,
) -> Axes:
    """Draw curves by name, told apart by colour and, in grey, by line style; the legend has the order of their ends.

    Args:
      curves: name -> values [n], or a tuple (x, values), or (x, values, deviations) for a band of one deviation.
      ax: where to draw; None makes a figure.
      title: above the picture.
      xlabel: of the horizontal axis; curves without x are drawn against 0, 1, ...
      ylabel: of the vertical axis.
      log: vertical axis in decades.

    Returns:
      The axis.

    Raises:
      ValueError: for no curve, arrays of other or different shapes, or a curve without a positive value in decades.

    Example:
      >>> steps, loss, sd = np.arange(3), np.array([4.0, 2.0, 1.0]), np.full(3, 0.1)
      >>> ax = curves({"train": (steps, loss, sd), "best": [1.0, 1.0, 1.0]}, ylabel="loss")
      >>> [text.get_text() for text in ax.get_legend().get_texts()], len(ax.collections)
      (['train', 'best'], 1)
    """
    require_kind("curves", curves, Mapping)
    if not curves:
        raise ValueError("no curves: give a dict of name -> values.")
    read = {name: _curve(name, given, log) for name, given in curves.items()}
    ax = axis(ax)
    colours, lines = cycle(), {}
    for i, (name, (x, y, sd)) in enumerate(read.items()):
        colour = colours[i % len(colours)]
        (lines[name],) = ax.plot(x, y, color=colour, linestyle=LINES[i % len(LINES)], lw=1.8, label=name)
        if sd is not None:
            ax.fill_between(x, y - sd, y + sd, color=colour, alpha=0.2, linewidth=0)
    if log:
        ax.set_yscale("log")
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    order = sorted(read, key=lambda name: np.nan_to_num(read[name][1][-1], nan=-np.inf), reverse=True)
    if len(read) > 1 or order[0]:
        ax.legend([lines[name] for name in order], order, frameon=False, handlelength=2.8)
    return ax


def _curve(name: str, given: Any, log: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return the x, y and deviation of one curve."""
    given = given if isinstance(given, tuple) else (given,)
    parts = [np.asarray(native(f"curve {name!r}", part), float) for part in given]
    if len(parts) == 1:
        parts = [np.arange(parts[0].size, dtype=float), *parts]
    shapes = [part.shape for part in parts]
    if not 2 <= len(parts) <= 3 or parts[0].ndim != 1 or not parts[0].size or len(set(shapes)) > 1:
        raise ValueError(
            f"curve {name!r} has arrays of shapes {shapes}: give values [n], (x, values) or (x, values, deviations)."
        )
    if log and not (parts[1] > 0).any():
        raise ValueError(f"curve {name!r} has no positive value: draw it with log = False.")
    return parts[0], parts[1], parts[2] if len(parts) == 3 else None


def table(rows: Mapping[str, Mapping[str, Any]], ax: Axes | None = None, title: str = "", *, digits: int = 3) -> Axes:
    """Draw a table: numbers right-aligned, all of a column with as many decimals, rules above and below only.

    Args:
      rows: row -> column -> a number or (mean, standard deviation); what a row lacks, or None, is drawn as a dash.
      ax: where to draw; None makes a figure of the table's size.
      title: above the table.
      digits: significant digits of the largest number of a column. Smaller ones may have one less and deviations only
        one, for which up to two decimals are added; whole numbers are written in full.

    Returns:
      The axis.

    Raises:
      ValueError: for no rows or columns, entries that are no numbers, less than one digit.

    Example:
      >>> ax = table({"AE-OT": {"Frechet": (0.113, 0.001), "modes": 10}, "VAE": {"Frechet": (2.27, 0.24)}})
      >>> [cell.get_text().get_text() for cell in ax.tables[0].get_celld().values()][-3:]
      ['VAE', '2.270 ± 0.240', '-']
    """
    as_count("digits", digits), require_kind("rows", rows, Mapping)
    for name, row in rows.items():
        require_kind(f"row {name!r}", row, Mapping)
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    if not columns:
        raise ValueError("no rows or no columns: give row -> column -> number.")
    texts = [_column([row.get(name) for row in rows.values()], name, digits) for name in columns]
    head, body = ["", *columns], [[str(row), *cells] for row, *cells in zip(rows, *texts, strict=True)]
    widths = [max(len(row[k]) for row in (head, *body)) + 3 for k in range(len(head))]
    height = 1.0 if ax is None else min(1.0, 0.12 * (len(body) + 1))
    ax = axis(ax, figsize=(0.085 * sum(widths) + 0.2, 0.27 * (len(body) + 1) + (0.45 if title else 0.1)))
    ax.set_axis_off()
    shares = [width / sum(widths) for width in widths]
    drawn = ax.table([head, *body], colWidths=shares, cellLoc="right", bbox=(0, 1 - height, 1, height))
    drawn.auto_set_font_size(False)
    for (i, k), cell in drawn.get_celld().items():
        cell.set(facecolor="none", edgecolor=ink(), linewidth=0.8, capstyle="projecting")
        cell.visible_edges = {0: "BT", len(body): "B"}.get(i, "open")
        cell.get_text().set_fontsize(9)
        if k == 0:
            cell.set_text_props(ha="left")
    ax.set_title(title)
    return ax


def _column(entries: list[Any], name: str, digits: int) -> list[str]:
    """Return the entries of a column in words, all with as many decimals."""
    try:
        read = [() if it is None else tuple(np.asarray(it).reshape(-1).tolist()) for it in entries]
        numbers = [number for it in read for number in it]
        if any(len(it) > 2 for it in read) or not all(isinstance(number, (int, float)) for number in numbers):
            raise TypeError
    except (TypeError, ValueError):
        raise ValueError(f"column {name!r} holds {entries}: give numbers, (mean, deviation) or None.") from None
    sizes, deviations = ([abs(it[k]) for it in read if len(it) > k and math.isfinite(it[k]) and it[k]] for k in (0, 1))
    form = _form(sizes, deviations, digits)
    if all(isinstance(number, int) for number in numbers):
        form = ",d"
    return [" ± ".join(f"{number:{form}}" for number in it) or "-" for it in read]


def _form(sizes: list[float], deviations: list[float], digits: int) -> str:
    """Return the format of a column of numbers of these sizes, with deviations of those."""

    def decimals(size: float, digits: int) -> int:
        return digits - 1 - math.floor(math.log10(size))

    largest = max(sizes, default=1.0)
    if largest < 1e-4 or largest >= 1e9:
        return f".{digits - 1}e"
    least = max(0, decimals(largest, digits))
    wanted = max([decimals(size, digits - 1) for size in sizes] + [decimals(size, 1) for size in deviations] + [least])
    return f",.{min(wanted, least + 2)}f"


def diagnosis(report: Any, ax: Axes | None = None, title: str = "") -> Axes:
    """Draw a latent diagnosis: the sorted p-values of the coordinates against those of latents that follow the prior.

    Args:
      report: from `eval.diagnose`.
      ax: where to draw; None makes a figure.
      title: above the picture.

    Returns:
      The axis. Points far below the diagonal are coordinates that have left the prior.

    Example:
      >>> report = og.eval.diagnose(jax.random.normal(jax.random.key(0), (500, 4)), og.latent.Normal())
      >>> len(diagnosis(report).lines)  # two tests, and the diagonal
      3
    """
    if not hasattr(report, "ks_p"):
        raise ValueError(f"report is of type {type(report).__name__}: give what eval.diagnose returns.")
    ax = axis(ax)
    for p, colour, name in ((report.ks_p, BLUE, "Kolmogorov-Smirnov"), (report.cvm_p, ORANGE, "Cramer-von Mises")):
        expected = (np.arange(len(p)) + 0.5) / len(p)
        ax.loglog(expected, np.maximum(np.sort(p), 1e-12), ".", color=colour, label=name)
    ax.plot([1e-3, 1], [1e-3, 1], color=GREY, linestyle="--", label="latents of the prior")
    ax.set(xlabel="share of coordinates", ylabel="p-value", title=title, ylim=(5e-13, 2))
    ax.legend(frameon=False)
    return ax
