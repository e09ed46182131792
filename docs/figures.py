"""Makes the images of the documentation, in docs/images/, each below 300 kB.

PYTHONPATH=$PWD .venv/bin/python docs/figures.py graph safety_states training_curve twin_rooms
PYTHONPATH=$PWD .venv/bin/python docs/figures.py training_curve --run runs/curve  # reads the run folder first
PYTHONPATH=$PWD .venv/bin/python docs/figures.py recipe_curves --run runs/train_push_panda  # or without --run, again
PYTHONPATH=$PWD .venv/bin/python docs/figures.py episode --demo runs/<time>  # from `./rlfp demo`
PYTHONPATH=$PWD .venv/bin/python docs/figures.py operator_page  # needs chromium
"""

from __future__ import annotations

import argparse
import io
import json
import os
import queue
import shutil
import sys
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from rlfp_ros.files import write_whole
from rlfp_ros.learning.report.curves import Curve, Diagram, binned, draw_curves, running_mean

DOCS = Path(__file__).resolve().parent
IMAGES = DOCS / "images"
CURVE = DOCS / "measured" / "training_curve.json"
RECIPE_CURVES = DOCS / "measured" / "recipe_curves.json"
LARGEST = 300_000  # bytes of an image file
WINDOW = 20  # episodes in a mean of the training curve
ROOMS = ("twin_near", "twin_dim", "twin_glare", "twin_clutter", "twin_moved")
TILE, CAPTION = 280, 26  # px of a room's image, and of the text below it
PAGE_WIDTH, PAGE_HEIGHT, PAGE_COLOURS = 1360, 860, 128
GIF_SIDE, GIF_COLOURS, GIF_STEP = 224, 64, 3  # px; colours; every third frame of the demo's GIF

BLUE, GREEN, ORANGE, RED, GREY = "#dbe9f6", "#dcf0dc", "#fdebd0", "#f6d5d5", "#eeeeee"
pyplot.rcParams.update({"svg.hashsalt": "rlfp_ros", "svg.fonttype": "none", "font.family": "sans-serif"})


def box(axes: Axes, x: float, y: float, text: str, colour: str, width: float = 2.3, height: float = 0.8) -> None:
    """Draw a rounded box around (x, y)."""
    shape = FancyBboxPatch(
        (x - width / 2, y - height / 2),
        width,
        height,
        boxstyle="round,pad=0.02,rounding_size=0.12",
        facecolor=colour,
        edgecolor="#444444",
        linewidth=1.2,
    )
    axes.add_patch(shape)
    axes.text(x, y, text, ha="center", va="center", fontsize=10)


def arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    text: str,
    at: tuple[float, float] | None = None,
    bend: float = 0.0,
    dashed: bool = False,
) -> None:
    """Draw an arrow with a text beside its middle, or at `at`."""
    line = FancyArrowPatch(
        start,
        end,
        arrowstyle="-|>",
        mutation_scale=13,
        linewidth=1.1,
        color="#333333",
        connectionstyle=f"arc3,rad={bend}",
        linestyle="--" if dashed else "-",
        shrinkA=0,
        shrinkB=0,
    )
    axes.add_patch(line)
    x, y = at or ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.16)
    axes.text(x, y, text, ha="center", va="center", fontsize=8.5, color="#333333")


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Return an empty drawing on white, in units of an inch."""
    figure = pyplot.figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.axis("off")
    return figure, axes


def save(figure: Figure, name: str) -> None:
    """Write an SVG without a date, so that the same drawing is the same file."""
    figure.savefig(IMAGES / f"{name}.svg", metadata={"Date": None}, facecolor="white")
    pyplot.close(figure)


def graph(options: argparse.Namespace) -> None:
    """Nodes and topics, from the camera to the arm."""
    figure, axes = canvas(12.4, 5.0)
    box(axes, 1.4, 3.4, "camera", GREY, width=2)
    box(axes, 4.9, 3.4, "perception", BLUE, width=2)
    box(axes, 8.4, 3.4, "policy", BLUE)
    box(axes, 8.4, 1.4, "residual_controller\n(safety)", ORANGE, height=0.95)
    box(axes, 1.4, 1.4, "arm", GREY, width=2)
    box(axes, 11.4, 3.4, "operator", GREY, width=1.6)
    box(axes, 11.4, 1.4, "checklist", GREEN, width=1.6)
    box(axes, 4.9, 4.5, "recorder", GREEN, width=2, height=0.6)
    arrow(axes, (2.42, 3.55), (3.88, 3.55), "image", (3.1, 3.72))
    arrow(axes, (2.42, 3.25), (3.88, 3.25), "camera_info", (3.1, 3.08))
    arrow(axes, (5.92, 3.4), (7.23, 3.4), "features", (6.5, 3.57))
    arrow(axes, (8.4, 2.98), (8.4, 1.9), "policy/residual", (9.05, 2.45))
    arrow(axes, (5.3, 2.98), (7.3, 1.9), "object_pose,\ndomain_shift", (5.35, 2.45))
    arrow(axes, (7.23, 1.25), (2.42, 1.25), "joint_trajectory, 240 Hz", (4.8, 1.05))
    arrow(axes, (2.42, 1.55), (7.23, 1.55), "joint_states", (3.6, 1.72))
    arrow(axes, (6.4, 1.55), (7.6, 2.98), "", dashed=True)
    arrow(axes, (11.1, 2.98), (9.6, 1.75), "heartbeat, e-stop,\nenable, step, reset", (11.3, 2.4))
    arrow(axes, (10.57, 1.3), (9.57, 1.3), "ready?", (10.05, 1.12))
    axes.text(6.05, 4.5, "records every topic", ha="left", va="center", fontsize=8.5, color="#333333")
    axes.text(
        6.2,
        0.35,
        "In simulation, simulator replaces camera and arm; arm_twin replaces them in the graph of a real arm.",
        ha="center",
        fontsize=9,
        color="#333333",
    )
    save(figure, "graph")


def safety_states(options: argparse.Namespace) -> None:
    """The four states of the safety controller."""
    figure, axes = canvas(10, 4.9)
    box(axes, 1.5, 2.6, "DISABLED", GREY)
    box(axes, 5.0, 3.9, "HOLDING", BLUE)
    box(axes, 8.4, 3.9, "ACTIVE", GREEN)
    box(axes, 6.7, 1.2, "STOPPED", RED)
    arrow(axes, (0.35, 3.9), (1.0, 3.05), "start", (0.45, 3.25))
    arrow(axes, (2.3, 3.03), (3.83, 3.75), "enable", (2.75, 3.55))
    arrow(axes, (6.18, 4.05), (7.22, 4.05), "joint states and\npercepts valid", (6.7, 4.45))
    arrow(axes, (7.22, 3.75), (6.18, 3.75), "perception fault,\nafter slowing down", (6.7, 3.35))
    arrow(axes, (8.2, 3.48), (7.2, 1.62), "robot fault,\ne-stop,\nheartbeat lost", (8.55, 2.5))
    arrow(axes, (5.2, 3.48), (6.2, 1.62), "robot fault, e-stop,\nheartbeat lost", (4.85, 2.6))
    arrow(axes, (2.1, 2.18), (5.52, 1.3), "e-stop", (3.3, 1.72))
    arrow(axes, (5.52, 1.0), (1.5, 2.18), "reset, once at rest", (2.3, 1.0), bend=-0.2)
    arrow(axes, (4.4, 3.48), (2.68, 2.6), "disable, after\ncoming to rest", (3.6, 2.55))
    arrow(axes, (8.4, 4.32), (1.2, 3.02), "disable, after coming to rest", (2.45, 4.6), bend=0.28)
    axes.text(
        5.0,
        0.3,
        "A policy fault does not leave ACTIVE: the residual gain falls to 0, the base controller continues.",
        ha="center",
        fontsize=9,
        color="#333333",
    )
    save(figure, "safety_states")


def read_curve(run: Path) -> dict[str, Any]:
    """Return the episodes of a training by one algorithm from its run folder, with its result."""
    from rlfp_ros.learning.runs.history import read_history

    episodes = [row for row in read_history(run) if "episode_return" in row.figures]
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    plan = result["plan"]
    evaluated = result["evaluation"][0]
    return {
        "date": f"{date.fromtimestamp((run / 'result.json').stat().st_mtime)}",
        "command": f"./rlfp train {plan['task']} --algorithm {plan['algorithm']} --observation {plan['observation']} "
        f"--profile {plan['profile']} --steps {plan['steps']}",
        "machine": f"{os.cpu_count()} cores beside other work",
        "minutes": result["minutes"],
        "steps": plan["steps"],
        "window": WINDOW,
        "result": evaluated,
        "step": [row.done for row in episodes],
        "return": [round(row.figures["episode_return"], 2) for row in episodes],
        "success": [int(row.figures["success"]) for row in episodes],
    }


def training_curve(options: argparse.Namespace) -> None:
    """Episode return and success rate of a training, from docs/measured/training_curve.json."""
    if options.run:
        write_whole(CURVE, json.dumps(read_curve(options.run)) + "\n", "free some space")
    curve = json.loads(CURVE.read_text(encoding="utf-8"))
    steps, returns, window = np.array(curve["step"]), np.array(curve["return"]), curve["window"]
    after = steps[window - 1 :]
    above = Diagram(
        [Curve("mean", after, running_mean(curve["return"], window))],
        "environment steps",
        "episode return",
        dots=Curve("episode", steps, returns),
    )
    below = Diagram(
        [Curve("success", after, running_mean(curve["success"], window))],
        "environment steps",
        "success rate",
        share=True,
    )
    svg = draw_curves([above, below], width=7.5, height=2.3, background="white")
    (IMAGES / "training_curve.svg").write_text(svg, encoding="utf-8")


def recipe_curves(options: argparse.Namespace) -> None:
    """Success of all stages of recipes over the minutes, `recipe_curves_<run>.svg`, from recipe_curves.json."""
    from rlfp_ros.evaluation.results import read_json
    from rlfp_ros.learning.report.stage_curves import stages_of, success_diagram
    from rlfp_ros.learning.runs.history import read_history

    found = read_json(RECIPE_CURVES)
    if options.run:
        diagram = success_diagram(stages_of(read_history(options.run)))
        found[options.run.name] = {
            "date": f"{date.today()}",
            "machine": f"{os.cpu_count()} cores",
            "curves": {
                curve.name: [np.round(values, 3).tolist() for values in binned(curve.x, curve.y)]
                for curve in diagram.curves
            },
        }
        write_whole(RECIPE_CURVES, json.dumps(found) + "\n", "free some space")
    for name, document in found.items():
        curves = [Curve(stage, np.array(x), np.array(y)) for stage, (x, y) in document["curves"].items()]
        diagram = Diagram(curves, "minutes of training", "success of recent episodes", share=True)
        svg = draw_curves([diagram], width=7.5, height=2.8, background="white")
        (IMAGES / f"recipe_curves_{name}.svg").write_text(svg, encoding="utf-8")


def twin_rooms(options: argparse.Namespace) -> None:
    """The five rooms of the MuJoCo twin, as the camera sees them, on one sheet."""
    import cv2

    from rlfp_ros.control.arm import load_arm
    from rlfp_ros.simulation.scene import load_scene
    from rlfp_ros.simulation.tasks.task import load_task
    from rlfp_ros.simulation.worlds import load_conditions, make_world

    arm, tiles = load_arm("panda"), []
    for name in ROOMS:
        world = make_world(arm, load_task("push"), load_conditions("mujoco", name), scene=load_scene(image_size=TILE))
        world.reset(seed=3)
        image = np.ascontiguousarray(world.render()[..., ::-1])
        world.close()
        image = cv2.resize(image, (TILE, TILE), interpolation=cv2.INTER_AREA)
        image = cv2.copyMakeBorder(image, 0, CAPTION, 2, 2, cv2.BORDER_CONSTANT, value=(255, 255, 255))
        cv2.putText(image, name, (8, TILE + 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40), 1, cv2.LINE_AA)
        tiles.append(image)
    tiles.append(np.full_like(tiles[0], 255))
    sheet = np.vstack([np.hstack(tiles[:3]), np.hstack(tiles[3:])])
    cv2.imwrite(os.fspath(IMAGES / "twin_rooms.png"), sheet, [cv2.IMWRITE_PNG_COMPRESSION, 9])


def episode(options: argparse.Namespace) -> None:
    """An episode as an animation, made small from the GIF that `./rlfp demo` left."""
    from PIL import Image, ImageSequence

    if not options.demo:
        sys.exit("episode: give --demo, the folder of a `./rlfp demo`")
    with Image.open(options.demo / "episode.gif") as given:
        frames = [frame.convert("RGB").resize((GIF_SIDE, GIF_SIDE)) for frame in ImageSequence.Iterator(given)]
        pause = GIF_STEP * int(given.info["duration"])
    frames = [*frames[::GIF_STEP], frames[-1]]
    method = Image.Quantize.MAXCOVERAGE  # keeps the points' colours, which cover few pixels
    small = [frame.quantize(GIF_COLOURS, method=method, dither=Image.Dither.NONE) for frame in frames]
    times = [pause] * (len(small) - 1) + [1500]
    small[0].save(IMAGES / "episode.gif", save_all=True, append_images=small[1:], duration=times, loop=0, optimize=True)


def operator_page(options: argparse.Namespace) -> None:
    """The operator's page beside the simulation graph, while the arm pushes a brick and a bag is recorded."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    from rlfp_ros.graph.dds import dds_environment
    from rlfp_ros.graph.domains import reserved_domain
    from rlfp_ros.graph.resolution import resolve
    from rlfp_ros.graph.runner import Runner
    from rlfp_ros.graph.sim import SIM
    from rlfp_ros.operator.page_address import PAGE_LINE

    shown: queue.SimpleQueue[str] = queue.SimpleQueue()

    def on_line(node: str, line: str) -> None:
        if node == "operator" and line.startswith(PAGE_LINE):
            shown.put(line.removeprefix(PAGE_LINE))

    with reserved_domain() as domain, tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        arguments = {"task": "push", "operator": True, "operator_port": 0, "episodes": 0, "transport": "local"}
        os.environ |= dds_environment("local", str(domain))
        os.chdir(folder)  # its bags go there
        with Runner(resolve(SIM, arguments), console="quiet", on_line=on_line):
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": PAGE_WIDTH, "height": PAGE_HEIGHT})
            page.set_default_timeout(60_000)
            page.goto(shown.get(timeout=60))
            for button, then in (("#enable", "#disable"), ("#record", "body.recording")):
                page.click(f"{button}:not([disabled])")
                page.wait_for_selector(f"{then}:not([disabled])")
            page.fill("#note", "clean push")
            page.fill("#operator-name", "Ada")
            page.wait_for_timeout(8_000)
            page.click("#label-success")
            page.wait_for_timeout(1_000)
            page.evaluate("window.scrollTo(0, 0)")  # where the bar with STOP is at the top
            image = page.screenshot(full_page=True)
            browser.close()
    with Image.open(io.BytesIO(image)) as screenshot:
        small = screenshot.convert("RGB").quantize(PAGE_COLOURS)
    small.save(IMAGES / "operator_page.png", optimize=True)


FIGURES: dict[str, Callable[[argparse.Namespace], None]] = {
    function.__name__: function
    for function in (graph, safety_states, training_curve, recipe_curves, twin_rooms, episode, operator_page)
}


def main(arguments: list[str] | None = None) -> int:
    """Make the named images; exit code 1 if one is too large."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="+", choices=FIGURES)
    parser.add_argument("--run", type=Path, help="run folder of the training whose curve is shown")
    parser.add_argument("--demo", type=Path, help="folder that `./rlfp demo` wrote")
    options = parser.parse_args(arguments)
    for name in options.names:
        FIGURES[name](options)
    made = [file for name in options.names for file in IMAGES.glob(f"{name}*")]
    large = [file for file in made if file.stat().st_size > LARGEST]
    for file in large:
        print(f"{file}: {file.stat().st_size} bytes, at most {LARGEST}", file=sys.stderr)
    return int(bool(large))


if __name__ == "__main__":
    sys.exit(main())
