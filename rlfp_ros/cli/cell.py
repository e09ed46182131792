"""Commands for a cell's file: `cell new` and `cell check`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlfp_ros.cli.commission import add_topics, topic_choice
from rlfp_ros.cli.parsing import ARMS, CELLS, TASKS, Commands, add_command, add_result

if TYPE_CHECKING:
    from rlfp_ros.commissioning.arm_check import ArmFinding

MIDDLE, BLOCK = "the middle of the arm's tool box", "the block of reach"  # defaults that depend on the arm
# What `cell new` asks on a terminal: option, question, default. Numbers are separated by spaces.
QUESTIONS = (
    ("arm", "the arm (a name that `rlfp plugins` lists, or a YAML file)", "panda"),
    ("camera_position", "the camera's position x y z in m, in the base frame (x forward, y left, z up)", ""),
    ("look_at", "the point x y z in m that it looks at", MIDDLE),
    ("image_size", "the size of its images, WIDTHxHEIGHT in px", "640x480"),
    ("field_of_view", "its horizontal field of view in degrees", "60"),
    ("object_size", "the object's size x y z in m", BLOCK),
    ("colour", "the object's colour", "red"),
)
NUMBERS = {"camera_position": 3, "look_at": 3, "object_size": 3, "field_of_view": 1}


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add this file's commands."""
    command = commands.add_parser("cell", help="write the file of your cell (arm, camera, table, object), or check it")
    parts = command.add_subparsers(title="what", metavar="WHAT", required=True)

    part = add_command(
        parts, "new", _new, "write the file of a new cell from a few measurements; on a terminal it asks for them"
    )
    part.add_argument("cell", metavar="NAME", help="its name, for cells/NAME.yaml, or the path of the file to write")
    part.add_argument("--arm", metavar="NAME", help=f"{ARMS} (default: panda)")
    part.add_argument(
        "--camera-position", nargs=3, type=float, metavar=("X", "Y", "Z"), help="of the camera in m, base frame"
    )
    part.add_argument(
        "--look-at",
        nargs=3,
        type=float,
        metavar=("X", "Y", "Z"),
        help=f"the point that it looks at in m, base frame (default: {MIDDLE})",
    )
    part.add_argument("--image-size", metavar="WxH", help="of the camera's images in px (default: 640x480)")
    part.add_argument("--field-of-view", type=float, metavar="DEG", help="of the camera, horizontal (default: 60)")
    part.add_argument("--rate", type=float, default=30.0, metavar="HZ", help="of the camera (default: %(default)s)")
    part.add_argument(
        "--intrinsics", type=Path, metavar="FILE", help="written by `calibrate intrinsics`, instead of the two above"
    )
    part.add_argument(
        "--extrinsics", type=Path, metavar="FILE", help="written by `calibrate extrinsics`, instead of the position"
    )
    part.add_argument(
        "--object-size",
        nargs=3,
        type=float,
        metavar=("X", "Y", "Z"),
        help=f"of the box around the object in m (default: {BLOCK})",
    )
    part.add_argument("--colour", metavar="NAME", help="of the object: red, green, blue ... (default: red)")
    part.add_argument("--mesh", default="", metavar="FILE", help="the object's shape, .obj or .stl (default: a box)")
    part.add_argument("--yes", action="store_true", help="ask nothing: the defaults, or an error")

    part = add_command(
        parts, "check", _check, "say what a cell's file lacks, and draw the cell as the policy sees it beside an image"
    )
    part.add_argument("cell", metavar="NAME", help=CELLS)
    part.add_argument("--task", default="reach", help=f"whose objects are drawn: {TASKS} (default: %(default)s)")
    part.add_argument("--bag", type=Path, metavar="DIR", help="a recorded bag in which the arm is at rest")
    part.add_argument("--live", action="store_true", help="record the live topics, as the cell's section launch says")
    part.add_argument("--image", type=Path, metavar="FILE", help="an image of the cell's camera, instead of a bag")
    part.add_argument(
        "--joints",
        nargs="+",
        type=float,
        metavar="RAD",
        help="where the arm stands in --image, to draw its outline",
    )
    part.add_argument(
        "--meshes",
        default="visual",
        choices=("visual", "collision"),
        help="collision for mock hardware, which shows those (default: %(default)s)",
    )
    add_result(part, "--out", metavar="FILE", help="the drawn image (default: runs/cell_NAME.png)")
    add_topics(part)


def _new(options: argparse.Namespace) -> int:
    from rlfp_ros.commissioning.cell_file import NewCell, write_new
    from rlfp_ros.schema import ConfigurationError

    given = Path(options.cell).expanduser()
    path = given if given.suffix in (".yaml", ".yml") else Path("cells") / f"{options.cell}.yaml"
    if path.exists():
        raise ConfigurationError(f"{path}: exists already; give another name, or edit the file")
    unneeded = {"image_size", "field_of_view"} if options.intrinsics else set()
    unneeded |= {"camera_position", "look_at"} if options.extrinsics else set()
    asks = sys.stdin.isatty() and not options.yes
    values: dict[str, Any] = {}
    for name, question, default in QUESTIONS:
        value = getattr(options, name)
        if value is None and name not in unneeded:
            value = _answer(name, question, default, input if asks else None)
        values[name] = value
    width, height = _size(values["image_size"] or "640x480")
    cell = NewCell(
        name=path.stem,
        arm=values["arm"],
        position=tuple(values["camera_position"] or (0.0, 0.0, 0.0)),
        target=None if values["look_at"] in (None, MIDDLE) else tuple(values["look_at"]),
        width=width,
        height=height,
        field_of_view_deg=values["field_of_view"] or 60.0,
        rate_hz=options.rate,
        size=None if values["object_size"] == BLOCK else tuple(values["object_size"]),
        colour=values["colour"],
        mesh=options.mesh,
        intrinsics=options.intrinsics,
        extrinsics=options.extrinsics,
    )
    write_new(cell, path)
    print(f"{path}: look at it with ./rlfp cell check {path}")
    return 0


def _answer(name: str, question: str, default: str, ask: Callable[[str], str] | None) -> Any:
    """Return the value of an option that was not given: the answer, or without `ask` the default."""
    from rlfp_ros.schema import ConfigurationError

    option = "--" + name.replace("_", "-")
    text = default
    if ask is not None:
        try:
            text = ask(f"{question}{f' [{default}]' if default else ''}: ").strip() or default
        except EOFError:
            text = default
    if not text:
        raise ConfigurationError(f"{option} is missing: {question}")
    if name not in NUMBERS or text in (MIDDLE, BLOCK):
        return text
    try:
        values = [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        values = []
    if len(values) != NUMBERS[name]:
        count = f"{NUMBERS[name]} numbers" if NUMBERS[name] > 1 else "a number"
        raise ConfigurationError(f"{option} is {text!r}, expected {count}")
    return values if len(values) > 1 else values[0]


def _size(text: str) -> tuple[int, int]:
    from rlfp_ros.schema import ConfigurationError

    width, by, height = text.lower().partition("x")
    if not (by and width.isdecimal() and height.isdecimal()):
        raise ConfigurationError(f"--image-size is {text!r}, expected WIDTHxHEIGHT such as 640x480")
    return int(width), int(height)


def _check(options: argparse.Namespace) -> int:
    from rlfp_ros.commissioning import cell_check
    from rlfp_ros.control.arm import find_cell
    from rlfp_ros.graph.live_bag import record_live
    from rlfp_ros.schema import ConfigurationError

    sources = [name for name in ("bag", "live", "image") if getattr(options, name)]
    if len(sources) > 1:
        raise ConfigurationError(f"--{sources[0]} and --{sources[1]} are given, expected one of them; leave one out")
    if options.joints and not options.image:
        raise ConfigurationError("--joints says where the arm stands in --image, which is missing; add it")
    path, bag = find_cell(options.cell), options.bag
    if options.live:
        bag = record_live("", [f"cell:={path}"], Path("runs/cell_check"))
    return cell_check.run(
        options.cell,
        options.task,
        bag,
        options.image,
        options.joints,
        options.out,
        topic_choice(options),
        options.meshes,
        _launch_finding(path),
    )


def _launch_finding(path: Path) -> Sequence[ArmFinding]:
    """Check the launch arguments that the cell gives."""
    from rlfp_ros.commissioning.arm_check import ArmFinding, Severity
    from rlfp_ros.graph.arguments import parse_arguments
    from rlfp_ros.graph.real_arm import REAL_ARM
    from rlfp_ros.graph.resolution import in_cell
    from rlfp_ros.schema import ConfigurationError

    try:
        given = parse_arguments(REAL_ARM, in_cell(REAL_ARM, {"cell": str(path)}))
    except ConfigurationError as error:
        return [ArmFinding("launch", Severity.ERROR, str(error))]
    text = f"camera:={given['camera']} joint_states_topic:={given['joint_states_topic']}"
    return [ArmFinding("topics", Severity.OK, f"{text} controller_name:={given['controller_name']}")]
