"""What all figures share: colours, the light and the dark style, the axis they draw on."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from otgen import optional
from otgen.ot.check import native

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"  # safe for colour-blind readers (Okabe and Ito)
CYCLE = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#555555")
_ON_LIGHT = tuple(colour for colour in CYCLE if colour != "#F0E442")  # yellow lines are hard to see on white,
_ON_DARK = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#BBBBBB")  # dark blue ones on black
LINES = ("-", "--", "-.", ":")  # seven colours and four line styles: 28 lines before a pair comes again
RASTER = 5000  # more marks than this are pixels in a vector graphic


def style(dark: bool = False) -> AbstractContextManager:
    """Return a context in which figures have few lines, and the colours of a light or a dark page.

    `with og.plot.style(dark=True): ax = og.plot.points(x)`. Outside it the active style of matplotlib holds.

    Args:
      dark: light text on a dark page.

    Returns:
      A context manager; it puts the former style back.

    Example:
      >>> with style(dark=True):
      ...     ax = og.plot.points(np.zeros((1, 2)), title="on a dark page")
      >>> ax.title.get_color() != og.plot.points(np.zeros((1, 2)), title="on a light one").title.get_color()
      True
    """
    with optional.imports():
        import matplotlib as mpl
        import matplotlib.pyplot as plt

    page, text, rule = ("#121212", "#E8E8E8", "#8A8A8A") if dark else ("white", "#1A1A1A", "#6A6A6A")
    return plt.rc_context(
        {
            "figure.facecolor": page,
            "axes.facecolor": page,
            "savefig.facecolor": "auto",
            "text.color": text,
            "axes.labelcolor": text,
            "axes.titlecolor": text,
            "axes.edgecolor": rule,
            "xtick.color": rule,
            "ytick.color": rule,
            "xtick.labelcolor": text,
            "ytick.labelcolor": text,
            "axes.prop_cycle": mpl.cycler(color=_ON_DARK if dark else _ON_LIGHT),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": "medium",
            "legend.frameon": False,
        }
    )


def axis(ax: Axes | None, **options: Any) -> Axes:
    """Return the axis given, or that of a new figure."""
    if ax is not None:
        return ax
    with optional.imports():
        import matplotlib.pyplot as plt

    return plt.subplots(**{"layout": "constrained", **options})[1]


def ink() -> tuple[float, float, float]:
    """Return the colour of text in the active style."""
    with optional.imports():
        import matplotlib as mpl

    return mpl.colors.to_rgb(mpl.rcParams["text.color"])


def cycle() -> tuple[str, ...]:
    """Return colours of lines that can be seen on the page that the active style's text is written on."""
    return _ON_DARK if np.dot(ink(), (0.2126, 0.7152, 0.0722)) > 0.5 else _ON_LIGHT


def in_plane(name: str, x: Any) -> np.ndarray:
    """Return points as an array [n, 2], or raise ValueError."""
    x = np.asarray(native(name, x))
    if x.ndim != 2 or x.shape[1] != 2:
        raise ValueError(f"{name} has shape {x.shape}: give points of the plane, shape [n, 2].")
    return x
