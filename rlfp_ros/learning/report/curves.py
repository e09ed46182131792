"""Draws the curves of a training as SVG, for its report and for the documentation."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK = "#0b1c2d"  # of axes and text; a page replaces it by its own text colour
COLOURS = ("#2f86d6", "#e0762f", "#2fa06b", "#b268c9", "#c9a227")  # readable on light and dark
MOST_POINTS = 240  # of a line; more are averaged in bins
LOGARITHMIC_FROM = 50.0  # ratio of the largest value to the smallest
FONT = re.compile(r"(?<=font: )(?P<size>[\d.]+px) [^;\"]*")  # of a text, with the names of many families
TICKS = 5  # largest number of intervals on the lower axis; the labels of more would overlap


@dataclass(frozen=True)
class Curve:
    """One line of a diagram."""

    name: str
    x: np.ndarray  # [N], rising
    y: np.ndarray  # [N]


@dataclass(frozen=True)
class Diagram:
    """Curves over one axis."""

    curves: Sequence[Curve]
    x_label: str
    y_label: str
    share: bool = False  # values are shares, from 0 to 1
    dots: Curve | None = None  # single values behind the curves


def binned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return at most MOST_POINTS points, means over bins of equal numbers of finite points."""
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    if len(x) <= MOST_POINTS:
        return x, y
    parts = [np.array_split(values, MOST_POINTS) for values in (x, y)]
    return np.array([part.mean() for part in parts[0]]), np.array([part.mean() for part in parts[1]])


def running_mean(values: Sequence[float], window: int) -> np.ndarray:
    """Return the means over `window` values each, [N - window + 1]; over all of them if there are fewer."""
    window = min(window, len(values))
    return np.convolve(values, np.ones(window) / window, "valid")


def draw_curves(
    diagrams: Sequence[Diagram], width: float = 4.6, height: float = 2.3, background: str | None = None
) -> str:
    """Return diagrams above each other as an SVG document.

    Parameters
    ----------
    diagrams
        The diagrams.
    width, height
        Size of one diagram, inches.
    background
        A colour; by default transparent.
    """
    style: dict[Any, Any] = {  # matplotlib's type of its settings is not public
        "svg.hashsalt": "rlfp_ros",  # the same curves are the same file
        "svg.fonttype": "none",
        **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    }
    with matplotlib.rc_context(style):
        figure = Figure((width, height * len(diagrams)), layout="constrained")
        figure.patch.set_alpha(0.0)
        if background is not None:
            figure.patch.set(facecolor=background, alpha=1.0)
        above: dict[str, Axes] = {}  # by the label of the axis that the next diagram shares
        for number, diagram in enumerate(diagrams):
            axes = figure.add_subplot(len(diagrams), 1, number + 1, sharex=above.get(diagram.x_label))
            above[diagram.x_label] = axes
            axes.patch.set_alpha(0.0)
            _draw(axes, diagram)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return buffer.getvalue()


def inline(svg: str) -> str:
    """Return an SVG document as an element of a page, in the page's text colour and of any width."""
    element = svg[svg.index("<svg") :].replace(INK, "currentColor")
    end = element.index(">")
    view = element[element.index("viewBox") : end].split('"')[1]
    content = FONT.sub(r"\g<size> sans-serif", element[end:])
    return f'<svg viewBox="{view}" xmlns:xlink="http://www.w3.org/1999/xlink" role="img"{content}'


def _draw(axes: Axes, diagram: Diagram) -> None:
    if diagram.dots is not None:
        axes.plot(diagram.dots.x, diagram.dots.y, ".", color=COLOURS[0], alpha=0.5, markersize=3, mew=0)
    smallest, largest = np.inf, 0.0
    for colour, curve in zip(COLOURS * len(diagram.curves), diagram.curves, strict=False):
        x, y = binned(curve.x, curve.y)
        # A single point has no line.
        axes.plot(x, y, marker="o" if len(x) == 1 else "", markersize=4, color=colour, lw=1.6, label=curve.name)
        if len(y):
            smallest, largest = min(smallest, float(y.min())), max(largest, float(y.max()))
    if diagram.share:
        axes.set_ylim(-0.03, 1.03)
    elif 0 < LOGARITHMIC_FROM * smallest < largest:
        axes.set_yscale("log")
    axes.set_xlabel(diagram.x_label)
    axes.set_ylabel(diagram.y_label)
    axes.xaxis.set_major_locator(MaxNLocator(TICKS, steps=[1, 2, 2.5, 5, 10]))
    axes.grid(alpha=0.2, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    if len(diagram.curves) > 1:
        axes.legend(frameon=False, fontsize=8)
