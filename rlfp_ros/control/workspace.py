"""A cell as data: the camera, the table and the objects around one arm, from `cells/<name>.yaml`.

`load_arm` reads such a file too and returns the arm in its cell: with the cell's obstacles, the values of
its tasks, and a `Workspace`. A bundle carries that arm, so that it also says which cell it was trained for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, TypeGuard

import numpy as np
from pydantic import Field, model_validator

from rlfp_ros.contract import CameraContract
from rlfp_ros.control.arm_parts import Obstacle
from rlfp_ros.schema import Edge, Point, Pose, Schema

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$"  # part of names of folders and files
TABLE_AT = 0.001  # m, how far the table's top may lie from the base frame's z = 0
SMALLEST_VIEW = 0.02  # m, along each axis
VIEW_HEIGHT = 0.3  # of the tool box's depth; height of the box that is shown by default
VIEW_INSET = 0.15  # of the tool box's depth and width; part at its sides that is not shown by default
SIZE_TOLERANCE = 0.25  # share by which the object may be larger or smaller than in training
HUE_TOLERANCE = 30.0  # deg, between the object's hue and the one in training
COLOURED = 0.25  # saturation below which a hue means nothing
REGION_TOLERANCE = 0.02  # m, by which a region may extend beyond the one in training
DEFAULT_BLOCK = (0.035, 0.035, 0.035)  # m

Entry = Annotated[float, Field(ge=-1e9, le=1e9)]  # of a matrix
Hue = Annotated[float, Field(ge=-360, le=360)]
Whole = Annotated[int, Field(ge=-(10**6), le=10**6)]
Number = Annotated[float, Field(ge=-1e6, le=1e6)]
Share = Annotated[float, Field(ge=0, le=1)]


class CalibrationMatrix(Schema):
    """A matrix as ROS calibration files have it, row by row."""

    rows: int = Field(ge=1, le=100)
    cols: int = Field(ge=1, le=100)
    data: tuple[Entry, ...]

    @model_validator(mode="after")
    def _is_complete(self) -> CalibrationMatrix:
        if len(self.data) != self.rows * self.cols:
            raise ValueError(f"data has {len(self.data)} values, expected rows x cols = {self.rows * self.cols}")
        return self


NO_DISTORTION = CalibrationMatrix(rows=1, cols=5, data=(0.0,) * 5)
NO_TURN = CalibrationMatrix(rows=3, cols=3, data=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


def _unrectified(fields: dict[str, Any]) -> CalibrationMatrix:
    """Return the projection of a single camera whose images are not rectified: K and a column of zeros."""
    K = np.zeros((3, 4))
    given = fields.get("camera_matrix")
    if given is not None and len(given.data) == 9:
        K[:, :3] = np.reshape(given.data, (3, 3))
    return CalibrationMatrix(rows=3, cols=4, data=tuple(K.ravel().tolist()))


class CameraInfoFile(Schema):
    """A calibration as `./rlfp calibrate intrinsics` and ROS's camera_calibration write it."""

    image_width: int = Field(ge=1, le=100_000)  # px
    image_height: int = Field(ge=1, le=100_000)  # px
    camera_name: str = ""
    camera_matrix: CalibrationMatrix  # K, 3 x 3, px
    distortion_model: str = "plumb_bob"  # plumb_bob, rational_polynomial or equidistant
    distortion_coefficients: CalibrationMatrix = NO_DISTORTION
    rectification_matrix: CalibrationMatrix = NO_TURN  # 3 x 3
    projection_matrix: CalibrationMatrix = Field(default_factory=_unrectified)  # P, 3 x 4, px; default: K


class ShownBox(Schema):
    """The box in the base frame that the policy's image shows."""

    lower: Point  # m
    upper: Point  # m

    @model_validator(mode="after")
    def _ordered(self) -> ShownBox:
        for axis, low, high in zip("xyz", self.lower, self.upper, strict=True):
            if high - low < SMALLEST_VIEW:
                raise ValueError(f"lower is {low} and upper is {high} in {axis}, expected {SMALLEST_VIEW} m between")
        return self

    @property
    def middle(self) -> Point:
        """The box's middle, m, base frame."""
        x, y, z = (0.5 * (low + high) for low, high in zip(self.lower, self.upper, strict=True))
        return x, y, z

    def corners(self) -> np.ndarray:
        """Return the box's corners, [8, 3] m, base frame."""
        axes = np.meshgrid(*zip(self.lower, self.upper, strict=True), indexing="ij")
        return np.stack(axes, axis=-1).reshape(-1, 3)


class CellCamera(Schema):
    """The camera of a cell: its lens, its place, and the part of its image that policies see."""

    intrinsics: CameraInfoFile
    T_base_camera: Pose  # m; camera = optical frame: x right, y down, z forward
    # How T_base_camera was measured; `calibrate extrinsics --cell` writes it. Empty: estimated by hand, which is enough
    # to train, but an arm is not enabled.
    calibrated: str = ""
    rate_hz: float = Field(default=30.0, gt=0, le=240)  # Hz
    # The box that a policy's image shows. None: the arm's foot and the middle of its tool box.
    view: ShownBox | None = None


class Box(Schema):
    """An axis-aligned box, metres, base frame."""

    centre: Point
    size: tuple[Edge, Edge, Edge]


class CellObject(Schema):
    """An object on the table and the range of its colour, which differs in each episode of a training."""

    size: tuple[Edge, Edge, Edge] = DEFAULT_BLOCK  # m, edges of the box around it
    # An .obj or .stl file, scaled to `size`: a path relative to the cell's file, or "<Python package>:<path>". Empty: a
    # box.
    mesh: str = ""
    mass: float = Field(default=0.03, ge=0.001, le=5)  # kg
    hue_deg: tuple[Hue, Hue] = (-16.0, 16.0)  # low and high on the colour circle: 0 red, 60 yellow, 120 green, 240 blue
    saturation: tuple[Share, Share] = (0.6, 1.0)  # 0 grey, 1 pure
    value: tuple[Share, Share] = (0.45, 1.0)  # brightness: 0 black, 1 bright

    @model_validator(mode="after")
    def _ordered(self) -> CellObject:
        for name in ("hue_deg", "saturation", "value"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} has low {low} above high {high}; exchange them")
        if self.mesh and not self.mesh.lower().endswith((".obj", ".stl")):
            raise ValueError(f"mesh is {self.mesh!r}, expected an .obj or .stl file; convert it")
        return self

    @property
    def hue(self) -> float:
        """The middle of the hues, degrees."""
        return sum(self.hue_deg) / 2


class Workspace(Schema):
    """What surrounds an arm in its cell."""

    name: str = Field(pattern=NAME, max_length=64)  # part of the names of bundles and run folders
    camera: CellCamera
    table: Box = Box(centre=(0.40, 0.0, -0.02), size=(1.10, 1.40, 0.04))
    # One object, which all tasks move.
    objects: tuple[CellObject, ...] = Field(default=(CellObject(),), min_length=1, max_length=1)

    @model_validator(mode="after")
    def _flat(self) -> Workspace:
        top = self.table.centre[2] + self.table.size[2] / 2
        if abs(top) > TABLE_AT:
            raise ValueError(
                f"table has its top at z = {top:.4f} m, expected 0, the height of the base frame, because tasks place "
                "their objects there; correct table.centre, or mount the arm on the table's surface"
            )
        return self

    @property
    def object(self) -> CellObject:
        """The object that the tasks move."""
        return self.objects[0]


class CellFile(Workspace):
    """`cells/<name>.yaml`."""

    arm: str  # the name of an arm, or the path of its file relative to this one
    obstacles: tuple[Obstacle, ...] = ()  # in addition to those of the arm's file; the arm keeps a distance from them
    tasks: dict[str, dict[str, Any]] = Field(default_factory=dict)  # task -> field of its settings, such as region
    # Arguments of real_arm.launch.py for this cell: driver, topics, controller. Those on the command line win.
    launch: dict[str, str | bool | Whole | Number] = Field(default_factory=dict)

    def workspace(self, mesh: str) -> Workspace:
        """Return the part that an arm carries; `mesh` is the path of the object's mesh."""
        kept = {name: getattr(self, name) for name in Workspace.model_fields}
        return Workspace(**kept | {"objects": (self.object.model_copy(update={"mesh": mesh}),)})


def is_cell(document: Any) -> bool:
    """Return whether a YAML document is a cell, not an arm or another configuration file."""
    return isinstance(document, dict) and "arm" in document and "camera" in document and "urdf" not in document


def default_view(lower: Point, upper: Point) -> ShownBox:
    """Return the box that a policy sees by default: from the arm's foot to the middle of its tool box.

    Parameters
    ----------
    lower, upper
        [3] m, the arm's `tool_limits`.
    """
    low, high = np.array(lower), np.array(upper)
    inset = VIEW_INSET * (high - low)
    x, y = float(high[0] - inset[0]), (float(low[1] + inset[1]), float(high[1] - inset[1]))
    return ShownBox(lower=(0.0, y[0], 0.0), upper=(x, y[1], VIEW_HEIGHT * float(high[0] - low[0])))


def departures(given: Workspace, camera: CameraContract, trained: CellObject, same_mesh: bool = True) -> Iterator[str]:
    """Describe how a cell differs from the one that a policy was trained for, beyond what it tolerates.

    Parameters
    ----------
    given
        The cell.
    camera
        The policy's camera.
    trained
        The object in training.
    same_mesh
        Whether the objects have the same shape.

    Yields
    ------
    str
        Such as "object.size is (0.05, 0.05, 0.05) m, in training (0.035, 0.035, 0.035) m".
    """
    place, trained_place = given.camera.T_base_camera, camera.T_base_camera
    distance = math.dist(place.xyz, trained_place.xyz)
    turned = abs(float(np.dot(place.quaternion_xyzw, trained_place.quaternion_xyzw)))
    angle, most = 2 * math.acos(min(1.0, turned)), camera.tolerance
    if distance > most.xyz_m or angle > most.angle_rad:
        yield (
            f"the camera is {distance:.3f} m and {math.degrees(angle):.1f} degrees from its place in training, "
            f"expected at most {most.xyz_m:g} m and {math.degrees(most.angle_rad):.1f} degrees"
        )
    found = given.object
    ratios = [edge / other for edge, other in zip(found.size, trained.size, strict=True)]
    if max(ratios) > 1 + SIZE_TOLERANCE or min(ratios) < 1 - SIZE_TOLERANCE:
        yield f"the object's size is {_metres(found.size)} m, in training {_metres(trained.size)} m"
    if not same_mesh:
        yield f"the object's mesh is {found.mesh or 'a box'}, in training {trained.mesh or 'a box'}"
    apart = abs((found.hue - trained.hue + 180) % 360 - 180)
    if min(found.saturation[1], trained.saturation[1]) > COLOURED and apart > HUE_TOLERANCE:
        yield f"the object's hue is {found.hue:.0f} degrees, in training {trained.hue:.0f} degrees"


def region_departures(given: dict[str, Any], trained: dict[str, Any]) -> Iterator[str]:
    """Describe which regions of a task's settings in a cell extend beyond those in training.

    Parameters
    ----------
    given
        The cell's settings of the task.
    trained
        All settings in training.
    """
    for name, region in given.items():
        other = trained.get(name)
        if not (_is_region(region) and _is_region(other)):
            continue
        low, high = (np.subtract(region[end], other[end]) for end in ("lower", "upper"))
        if (low < -REGION_TOLERANCE).any() or (high > REGION_TOLERANCE).any():
            yield (
                f"{name} is {_metres(region['lower'])} to {_metres(region['upper'])} m, in training "
                f"{_metres(other['lower'])} to {_metres(other['upper'])} m"
            )


def _is_region(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict) and {"lower", "upper"} <= value.keys()


def _metres(values: Any) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
