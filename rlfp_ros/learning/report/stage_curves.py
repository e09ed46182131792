"""The learning curves of a training: success and losses of each stage, over its units and over the minutes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rlfp_ros.learning.report.curves import Curve, Diagram, draw_curves, inline
from rlfp_ros.learning.report.html import Markup, element
from rlfp_ros.learning.runs.history import ProgressRow

SUCCESS = "success_rate"
SINGLE = {"success"}  # of one episode; the success rate shows the same


def curve_section(rows: list[ProgressRow]) -> Iterator[Markup]:
    """Return the section of a report."""
    yield element("h2", "Learning curves")
    stages = stages_of(rows)
    if not any(figures_of(stage) for stage in stages):
        yield element("p", "No figures were recorded: the training has not begun, or an older version trained.")
        return
    yield element(
        "p", "Success is that of the last episodes of the training, which explore; losses are those of a stage."
    )
    # The first choice is checked; the style sheet hides the diagrams of the other one.
    yield element("input", type="radio", name="axis", id="by-units", checked="")
    yield element("label", "over decisions or gradient steps", for_="by-units")
    yield element("input", type="radio", name="axis", id="by-time")
    yield element("label", "over minutes", for_="by-time")
    overview = success_diagram(stages)
    if len(overview.curves) > 1:
        figure = element("figure", Markup(inline(draw_curves([overview]))))
        yield element("section", element("h3", "All stages"), element("div", figure, class_="grid"), class_="minutes")
    for kind in ("units", "minutes"):
        yield element("div", [_stage(stage, kind) for stage in stages if figures_of(stage)], class_=kind)


def stages_of(rows: list[ProgressRow]) -> list[list[ProgressRow]]:
    """Return the rows of each stage, in the order in which the stages began."""
    return [[row for row in rows if row.stage == name] for name in dict.fromkeys(row.stage for row in rows)]


def figures_of(stage: list[ProgressRow]) -> list[str]:
    """Return the names of a stage's figures, success first."""
    names = dict.fromkeys(name for row in stage for name in row.figures if name not in SINGLE)
    return sorted(names, key=lambda name: name != SUCCESS)


def stage_diagram(stage: list[ProgressRow], name: str, kind: str) -> Diagram:
    """Return the curve of one figure of a stage.

    Parameters
    ----------
    stage
        The rows of the stage.
    name
        The figure.
    kind
        The axis: "units" of the stage, or "minutes" of the whole training.
    """
    rows = [row for row in stage if name in row.figures]
    x = np.array([row.done if kind == "units" else row.seconds / 60 for row in rows], dtype=float)
    y = np.array([row.figures[name] for row in rows], dtype=float)
    label = stage[-1].unit if kind == "units" else "minutes of training"
    return Diagram([Curve(name, x, y)], label, _words(name), share=name == SUCCESS)


def success_diagram(stages: list[list[ProgressRow]]) -> Diagram:
    """Return the success of all stages that play, over the minutes of the whole training."""
    diagrams = [stage_diagram(stage, SUCCESS, "minutes") for stage in stages if SUCCESS in figures_of(stage)]
    names = [stage[0].stage for stage in stages if SUCCESS in figures_of(stage)]
    curves = [Curve(name, each.curves[0].x, each.curves[0].y) for name, each in zip(names, diagrams, strict=True)]
    return Diagram(curves, "minutes of training", "success of recent episodes", share=True)


def _stage(stage: list[ProgressRow], kind: str) -> Markup:
    last = stage[-1]
    won = [row.figures[SUCCESS] for row in stage if SUCCESS in row.figures]
    text = f"{last.stage}: {last.done:,} of {last.total:,} {last.unit}"
    if won:
        text += f", success {won[-1]:.0%} at the end"
    diagrams = [Markup(inline(draw_curves([stage_diagram(stage, name, kind)]))) for name in figures_of(stage)]
    figures = [element("figure", diagram) for diagram in diagrams]
    return element("section", element("h3", text), element("div", figures, class_="grid"))


def _words(name: str) -> str:
    return name.replace("_", " ")
