"""Writes the files of cells: a new one from a few measurements, and calibrated values into one that is there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rlfp_ros import schema
from rlfp_ros.control.arm import load_arm, read_cell
from rlfp_ros.control.arm_parts import check_view
from rlfp_ros.control.workspace import CameraInfoFile, CellFile, default_view
from rlfp_ros.files import write_whole
from rlfp_ros.perception.extrinsics import load_pose
from rlfp_ros.schema import ConfigurationError, Point, Pose
from rlfp_ros.simulation.scene import looking_at
from rlfp_ros.simulation.tasks.task import load_task

# Ranges of hue (degrees), saturation and value.
COLOURS: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "red": ((-16, 16), (0.6, 1.0), (0.45, 1.0)),
    "orange": ((18, 36), (0.65, 1.0), (0.55, 1.0)),
    "yellow": ((44, 64), (0.6, 1.0), (0.6, 1.0)),
    "green": ((95, 150), (0.5, 1.0), (0.35, 0.9)),
    "cyan": ((170, 195), (0.5, 1.0), (0.4, 1.0)),
    "blue": ((205, 245), (0.55, 1.0), (0.35, 1.0)),
    "purple": ((265, 300), (0.45, 1.0), (0.35, 0.9)),
    "white": ((0, 360), (0.0, 0.12), (0.75, 1.0)),
    "black": ((0, 360), (0.0, 0.3), (0.03, 0.2)),
}


@dataclass(frozen=True)
class NewCell:
    """What `cell new` needs to know. `intrinsics` and `extrinsics` are calibration files, if there are some already."""

    name: str
    arm: str
    position: Point  # m, base frame, of the camera
    target: Point | None  # m, base frame, that the camera looks at; None: the middle of the arm's tool box
    width: int  # px
    height: int  # px
    field_of_view_deg: float  # horizontal
    rate_hz: float
    size: tuple[float, float, float] | None  # m, of the object; None: that of the block of `reach`
    colour: str  # a name of COLOURS
    mesh: str = ""
    intrinsics: Path | None = None
    extrinsics: Path | None = None


def text_of(cell: NewCell) -> str:
    """Return the text of a new cell's file.

    Raises
    ------
    ConfigurationError
        If a value is invalid; the message names the option.
    """
    if cell.colour not in COLOURS:
        raise ConfigurationError(f"--colour is {cell.colour!r}, expected one of: {', '.join(COLOURS)}")
    if not 1 < cell.field_of_view_deg < 170:
        raise ConfigurationError(f"--field-of-view is {cell.field_of_view_deg:g}, expected degrees from 1 to 170")
    arm = load_arm(cell.arm)
    view, reach = default_view(arm.tool_limits.lower, arm.tool_limits.upper), load_task("reach")
    reach.fit_to(arm)
    target, size, region = cell.target or view.middle, cell.size or reach.settings.block_size, reach.settings.region
    calibrated = ""
    if cell.extrinsics is not None:
        pose, calibrated = load_pose(cell.extrinsics), f"from {cell.extrinsics.name}"
    else:
        try:
            check_view(cell.position, target)
        except ValueError as error:
            raise ConfigurationError(f"--camera-position, --look-at: {error}") from None
        pose = looking_at(cell.position, target)
    if cell.intrinsics is None:
        focal = 0.5 * cell.width / np.tan(np.radians(cell.field_of_view_deg) / 2)
        K = [focal, 0.0, (cell.width - 1) / 2, 0.0, focal, (cell.height - 1) / 2, 0.0, 0.0, 1.0]
        lens = _lens_text(cell.width, cell.height, K, "plumb_bob", [0.0] * 5)
    else:
        lens = intrinsics_text(schema.load(cell.intrinsics, CameraInfoFile))
    hue, saturation, value = COLOURS[cell.colour]
    text = f"""\
# A cell: one arm with its camera, table and object. Lengths are in metres in the arm's base frame (x forward, y left,
# z up); the table's top is at z = 0. docs/how-to/own-cell.md explains each field; ./rlfp cell check shows this cell.
name: {json.dumps(cell.name)}
arm: {json.dumps(cell.arm)}  # a name that `./rlfp plugins` lists, or the path of a YAML file beside this one
camera:
  # As ./rlfp calibrate intrinsics writes it. Without distortion it is an estimate from the field of view.
  intrinsics: {lens}
  # The optical frame in the base frame: x right, y down, z forward. ./rlfp calibrate extrinsics --cell writes it here.
  T_base_camera: {pose_text(pose)}
  calibrated: {json.dumps(calibrated)}  # empty: the pose is an estimate, enough to train; an arm is not enabled
  rate_hz: {cell.rate_hz:g}
  # The box that the policy's image shows: the arm's foot and the middle of its tool box.
  view: {{lower: {_numbers(view.lower)}, upper: {_numbers(view.upper)}}}
table: {{centre: [0.40, 0.0, -0.02], size: [1.10, 1.40, 0.04]}}
objects:
- size: {_numbers(size)}  # edges of the box around it
  mesh: {json.dumps(cell.mesh)}  # an .obj or .stl file with these proportions; empty: a box
  mass: 0.03  # kg
  hue_deg: {_numbers(hue)}  # range: 0 red, 60 yellow, 120 green, 240 blue
  saturation: {_numbers(saturation)}  # 0 grey, 1 pure
  value: {_numbers(value)}  # 0 black, 1 bright
# Boxes that the arm keeps its distance from, and that the simulator draws:
# - {{name: post, size: [0.05, 0.05, 0.6], pose: {{xyz: [0.2, 0.55, 0.3], quaternion_xyzw: [0, 0, 0, 1]}}}}
obstacles: []
# Settings of tasks that differ here, such as the region in which the object lies at the start:
# reach: {{region: {{lower: {_numbers(region.lower)}, upper: {_numbers(region.upper)}}}}}
tasks: {{}}
# Arguments of real_arm.launch.py for this cell: driver, topics, controller. Those on the command line win.
# camera: realsense
launch: {{}}
"""
    schema.validate(yaml.safe_load(text), CellFile, f"cell {cell.name}")
    return text


def write_new(cell: NewCell, path: Path) -> None:
    """Write the file of a new cell. Raises ConfigurationError if a value is invalid or the file exists."""
    if path.exists():
        raise ConfigurationError(f"{path}: exists already; give another name, or edit the file")
    text = text_of(cell)
    write_whole(path, text)


def intrinsics_text(lens: CameraInfoFile) -> str:
    """Return a camera's calibration as a cell's file has it."""
    size = lens.image_width, lens.image_height
    return _lens_text(*size, lens.camera_matrix.data, lens.distortion_model, lens.distortion_coefficients.data)


def pose_text(pose: Pose) -> str:
    """Return a pose as a cell's file has it."""
    return f"{{xyz: {_numbers(pose.xyz)}, quaternion_xyzw: {_numbers(pose.quaternion_xyzw)}}}"


def set_camera(path: Path, **values: str) -> None:
    """Replace values of a cell's camera in its file; everything else, comments included, stays as it is.

    Parameters
    ----------
    path
        The cell's file.
    values
        YAML texts by the name of the field, in the flow style.

    Raises
    ------
    ConfigurationError
        If the file is not that of a cell, or would not be one with the new values.
    """
    read_cell(path)
    text = path.read_text(encoding="utf-8")
    for name, value in values.items():
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        camera = _entry(root, "camera")[1]
        found = next(((key, node) for key, node in camera.value if key.value == name), None)
        if found is None:
            first = camera.value[0][0]  # the new field stands before the first one
            gap = ", " if camera.flow_style else "\n" + " " * first.start_mark.column
            text = f"{text[: first.start_mark.index]}{name}: {value}{gap}{text[first.start_mark.index :]}"
        else:
            text = f"{text[: _start(found[1])]}{value}{text[_end(found[1]) :]}"
    schema.validate(yaml.safe_load(text), CellFile, str(path))
    write_whole(path, text)


def _entry(mapping: Any, name: str) -> tuple[Any, Any]:
    return next((key, node) for key, node in mapping.value if key.value == name)


def _start(node: Any) -> int:
    start: int = node.start_mark.index
    return start


def _end(node: Any) -> int:
    """Return where the text of a value ends; a block ends with its last part, before comments that follow."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style:
        return _end(node.value[-1][1])
    if isinstance(node, yaml.SequenceNode) and not node.flow_style:
        return _end(node.value[-1])
    end: int = node.end_mark.index
    return end


def _lens_text(width: int, height: int, K: Sequence[float], model: str, coefficients: Sequence[float]) -> str:
    matrix = f"{{rows: 3, cols: 3, data: {_numbers(K)}}}"
    lens = f"{{rows: 1, cols: {len(coefficients)}, data: {_numbers(coefficients)}}}"
    return (
        f"{{image_width: {width}, image_height: {height}, camera_matrix: {matrix},\n"
        f"    distortion_model: {model}, distortion_coefficients: {lens}}}"
    )


def _numbers(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{float(value):.6g}" for value in values) + "]"
