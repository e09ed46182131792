"""An arm as data: joints, limits with their source, frames, gripper and topics, from `config/arms/<arm>.yaml`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from rlfp_ros import paths, requirements, schema
from rlfp_ros.schema import ConfigurationError, Schema

Positive = Field(gt=0)
LIMITS = ("lower", "upper", "velocity", "acceleration", "jerk", "effort")


class VelocityNearEnds(Schema):
    """Joint speed that falls towards the ends of a joint's range, as the Franka Research 3 publishes it.

    At distance d from `upper` (or `lower`, going down) at most sqrt(2 deceleration d) - offset, and never below 0.
    """

    lower: tuple[float, ...]  # rad; the formula's own, a little outside the position limits
    upper: tuple[float, ...]  # rad
    deceleration: tuple[float, ...]  # rad/s^2
    offset: tuple[float, ...]  # rad/s


class JointLimits(Schema):
    """Limits per arm joint, in the order of `joint_names`. SI units."""

    source: str  # where the numbers were published
    lower: tuple[float, ...]  # rad
    upper: tuple[float, ...]  # rad
    velocity: tuple[float, ...]  # rad/s
    acceleration: tuple[float, ...]  # rad/s^2
    jerk: tuple[float, ...]  # rad/s^3
    effort: tuple[float, ...]  # N m
    velocity_near_ends: VelocityNearEnds | None = None  # besides `velocity`

    def velocity_bounds(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Least and most velocity rad/s at `positions` rad, both [..., J]."""
        most = np.broadcast_to(np.array(self.velocity), positions.shape)
        near = self.velocity_near_ends
        if near is None:
            return -most, most
        twice, offset = 2.0 * np.array(near.deceleration), np.array(near.offset)
        downwards = np.sqrt(np.maximum(twice * (positions - np.array(near.lower)), 0.0)) - offset
        upwards = np.sqrt(np.maximum(twice * (np.array(near.upper) - positions), 0.0)) - offset
        return -np.minimum(most, np.maximum(downwards, 0.0)), np.minimum(most, np.maximum(upwards, 0.0))


class Gripper(Schema):
    """Fingers that open in proportion to their joints' positions: parallel ones that slide, or a jaw that turns."""

    joint_names: tuple[str, ...]
    open_width: float = Positive  # m, between the pads
    closed_width: float = 0.0  # m
    velocity: float = Positive  # m/s of width
    effort: float = Positive  # N
    # m of width for each m that all fingers slide together; of a jaw, m/rad: its length, the arc taken for a line.
    width_per_position: float = Field(default=1.0, gt=0)
    shut_position: float = 0.0  # m or rad, of each finger at width 0

    def width(self, positions: Iterable[float]) -> float:
        """Opening in m of finger joints at `positions`, [F] m or rad."""
        shut = len(self.joint_names) * self.shut_position
        return self.width_per_position * (float(sum(positions)) - shut)

    def positions(self, width: float) -> np.ndarray:
        """[F] m or rad of the finger joints at an opening of `width` m."""
        each = self.shut_position + width / (self.width_per_position * len(self.joint_names))
        return np.full(len(self.joint_names), each)


class Pointer(Schema):
    """A straight rod on the flange of an arm without a gripper. Its end is `tool_frame`, which the URDF then lacks."""

    link: str  # that it stands on, along its z axis
    base: float = 0.0  # m along that axis from the link's origin to the flange's face, where the rod begins
    length: float = Positive  # m
    radius: float = Positive  # m
    mass: float = Positive  # kg


class ToolLimits(Schema):
    """Where the tool centre point may go, and how fast, in `base_frame`."""

    lower: tuple[float, float, float]  # m
    upper: tuple[float, float, float]  # m
    speed: float = Positive  # m/s
    angular_speed: float = Positive  # rad/s


class Capsule(Schema):
    """A part of the arm for distances: all points within `radius` of the line from `start` to `end`, in `link`."""

    link: str
    start: tuple[float, float, float]  # m
    end: tuple[float, float, float]  # m
    radius: float = Positive  # m
    table: bool = True  # its distance to the table counts; the fingers' does not, the tool box bounds them


class Obstacle(Schema):
    """A box that stands near the arm: a wall, a shelf, a camera's post. The arm's capsules keep away from it."""

    name: str
    size: tuple[float, float, float]  # m, edge lengths along its own axes
    pose: schema.Pose  # of its centre, in the base frame

    @model_validator(mode="after")
    def _solid(self) -> Obstacle:
        if min(self.size) <= 0:
            raise ValueError(f"size is {list(self.size)}, expected edges above 0")
        return self


class Topics(Schema):
    """Relative topic names of the arm's drivers; a launch file may remap them."""

    joint_states: str = "joint_states"
    joint_trajectory: str = "joint_trajectory_controller/joint_trajectory"
    forward_position: str = "forward_position_controller/commands"
    forward_velocity: str = "forward_velocity_controller/commands"
    gripper_trajectory: str = "gripper_controller/joint_trajectory"


class Driver(Schema):
    """The launch file of the arm's ros2_control driver, as its vendor documents it."""

    package: str
    launch_file: str
    arguments: dict[str, str]  # values may name {robot_ip}
    source: str  # where the launch line is documented


class Arm(Schema):
    """One arm. Joint vectors everywhere in this package follow the order of `joint_names`."""

    name: str
    # A path, or "<Python package>:<path among its files>", e.g. "pybullet_data:franka_panda/panda.urdf".
    urdf: str
    base_frame: str
    tool_frame: str  # the tool centre point; its z axis points out of the gripper
    joint_names: tuple[str, ...]
    home: tuple[float, ...]  # rad
    limits: JointLimits
    tool_limits: ToolLimits
    capsules: tuple[Capsule, ...] = ()  # none: no distances are kept
    table_height: float | None = 0.0  # m, in the base frame; None: no table
    obstacles: tuple[Obstacle, ...] = ()  # what else stands around
    gripper: Gripper | None = None
    pointer: Pointer | None = None
    topics: Topics = Topics()
    driver_joint_names: dict[str, str] = Field(default_factory=dict)  # ours -> theirs, where the drivers' names differ
    driver: Driver | None = None  # started where a launch argument names the robot's address
    # Which meshes the simulator draws: the URDF's own, its collision meshes, or coarse ones made of those.
    visuals: Literal["low_polygon", "collision", "visual"] = "collision"

    @model_validator(mode="after")
    def _consistent(self) -> Arm:
        count = len(self.joint_names)
        given = {name: getattr(self.limits, name) for name in LIMITS}
        if self.limits.velocity_near_ends is not None:
            near = self.limits.velocity_near_ends.model_dump()
            given |= {f"velocity_near_ends.{name}": values for name, values in near.items()}
        for name, values in given.items():
            if len(values) != count:
                raise ValueError(f"limits.{name} has {len(values)} values, expected {count}, one for each joint")
            if name in LIMITS[2:] and min(values) <= 0:
                raise ValueError(f"limits.{name} has {min(values)}, expected values above 0")
        if len(self.home) != count:
            raise ValueError(f"home has {len(self.home)} values, expected {count}, one for each joint")
        for joint, low, high, home in zip(
            self.joint_names, self.limits.lower, self.limits.upper, self.home, strict=True
        ):
            if not low < home < high:
                raise ValueError(f"home of {joint} is {home}, expected it inside its limits [{low}, {high}]")
        if self.gripper is not None and self.pointer is not None:
            raise ValueError("gripper and pointer are given; a hand or a rod, take the other out")
        ours = (*self.joint_names, *(self.gripper.joint_names if self.gripper else ()))
        unknown = [name for name in self.driver_joint_names if name not in ours]
        if unknown:
            raise ValueError(f"driver_joint_names has {unknown[0]!r}, expected names out of: {', '.join(ours)}")
        theirs = self.driver_names(ours)
        if len(set(theirs)) != len(theirs):
            raise ValueError(f"driver_joint_names makes {', '.join(theirs)}, expected each name once")
        return self

    def driver_names(self, joint_names: Sequence[str]) -> tuple[str, ...]:
        """What the drivers call these joints: the names in joint_states and in commands."""
        return tuple(self.driver_joint_names.get(name, name) for name in joint_names)

    @property
    def urdf_path(self) -> Path:
        """Absolute path of the URDF. Raises ConfigurationError where the package or the file is missing."""
        package, colon, inside = self.urdf.partition(":")
        if not colon:
            return paths.resolve(self.urdf, "sim/assets")
        folder = data_folder(package)
        if folder is None:
            raise ConfigurationError(
                f"config/arms/{self.name}.yaml: urdf needs the Python package {package!r}, which is not installed; "
                f"{requirements.fix_for(package)}"
            )
        path = folder / inside
        if not path.exists():
            raise ConfigurationError(f"config/arms/{self.name}.yaml: urdf is {self.urdf!r}, but {path} does not exist")
        return path


def data_folder(package: str) -> Path | None:
    """Where a Python package's files lie; None where it is not installed."""
    try:
        spec = importlib.util.find_spec(package)
    except (ModuleNotFoundError, ValueError):  # "no_such.part", or nothing at all
        spec = None
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    # cmeel's wheels (example-robot-data) have no module to import: their files lie in a prefix, as CMake installs them.
    try:
        distribution = importlib.metadata.distribution(package)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None
    folder = Path(str(distribution.locate_file(f"cmeel.prefix/share/{distribution.metadata['Name']}")))
    return folder if folder.is_dir() else None


def load_arm(name_or_path: str | Path) -> Arm:
    """The arm `config/arms/<name>.yaml`, or the one in a file of the user's."""
    return schema.load(paths.resolve(name_or_path, "config/arms", ".yaml"), Arm)


@dataclass(frozen=True)
class JointState:
    """Measured joints of one arm at one time, already matched by name into the arm's order."""

    stamp_ns: int
    positions: np.ndarray  # [J] rad
    velocities: np.ndarray  # [J] rad/s
    efforts: np.ndarray  # [J] N m
    gripper_width: float = 0.0  # m
