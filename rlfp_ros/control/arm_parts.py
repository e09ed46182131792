"""The parts of an arm's file: limits, gripper or pointer, tool box, capsules, obstacles, topics and driver."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from rlfp_ros import schema
from rlfp_ros.schema import Angle, Coordinate, Direction, Edge, Point, Schema

Positive = Field(gt=0, le=1e4)
Quantity = Annotated[float, Field(ge=0, le=1e6)]
SMALLEST_TILT = 1e-4  # rad; closer to the vertical, rounding decides which side of the image is up


class VelocityNearEnds(Schema):
    """Joint speed limits that fall towards the ends of a joint's range, as published for the Franka Research 3.

    At distance d from `upper` (moving up) or `lower` (moving down) the speed is at most
    sqrt(2 deceleration d) - offset, and at least 0.
    """

    lower: tuple[Angle, ...]  # rad; used in this formula only, slightly outside the position limits
    upper: tuple[Angle, ...]  # rad
    deceleration: tuple[Quantity, ...]  # rad/s^2
    offset: tuple[Quantity, ...]  # rad/s


class JointLimits(Schema):
    """Limits per arm joint, in the order of `joint_names`, in SI units."""

    source: str  # the publication of the numbers
    lower: tuple[Angle, ...]  # rad
    upper: tuple[Angle, ...]  # rad
    velocity: tuple[Quantity, ...]  # rad/s
    acceleration: tuple[Quantity, ...]  # rad/s^2
    jerk: tuple[Quantity, ...]  # rad/s^3
    effort: tuple[Quantity, ...]  # N m
    velocity_near_ends: VelocityNearEnds | None = None  # applies in addition to `velocity`

    def velocity_bounds(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute the velocity limits at given joint positions.

        Parameters
        ----------
        positions
            [..., J] rad.

        Returns
        -------
        lowest, highest
            Velocities, each [..., J] rad/s.
        """
        most = np.broadcast_to(np.array(self.velocity), positions.shape)
        near = self.velocity_near_ends
        if near is None:
            return -most, most
        twice, offset = 2.0 * np.array(near.deceleration), np.array(near.offset)
        downwards = np.sqrt(np.maximum(twice * (positions - np.array(near.lower)), 0.0)) - offset
        upwards = np.sqrt(np.maximum(twice * (np.array(near.upper) - positions), 0.0)) - offset
        return -np.minimum(most, np.maximum(downwards, 0.0)), np.minimum(most, np.maximum(upwards, 0.0))


class Gripper(Schema):
    """A gripper whose opening is proportional to its joint positions: sliding fingers, or a jaw that turns."""

    joint_names: tuple[str, ...]
    open_width: float = Positive  # m, between the pads
    closed_width: float = Field(default=0.0, ge=0, le=10)  # m
    velocity: float = Positive  # m/s, rate of change of the width
    effort: float = Positive  # N
    # Width per sum of the finger positions: 1 for sliding fingers (m/m); the length of a jaw that turns (m/rad).
    width_per_position: float = Field(default=1.0, gt=0, le=100)
    shut_position: Angle = 0.0  # m or rad, position of each finger at width 0

    def width(self, positions: Iterable[float]) -> float:
        """Convert finger positions [F] (m or rad) to the opening width in m."""
        shut = len(self.joint_names) * self.shut_position
        return self.width_per_position * (float(sum(positions)) - shut)

    def positions(self, width: float) -> np.ndarray:
        """Convert an opening width in m to finger positions [F] (m or rad)."""
        each = self.shut_position + width / (self.width_per_position * len(self.joint_names))
        return np.full(len(self.joint_names), each)


class Pointer(Schema):
    """A straight rod on the flange of an arm without a gripper.

    The end of the rod is the arm's `tool_frame`, a new frame that the URDF does not have. Its z axis points along the
    rod, away from the flange.
    """

    link: str  # the link that the rod is mounted on
    direction: Direction = (0.0, 0.0, 1.0)  # of the rod, in that link; the length of this vector does not matter
    base: Coordinate = 0.0  # m along `direction`, from the link's origin to the face of the flange where the rod begins
    length: float = Positive  # m
    radius: float = Positive  # m
    mass: float = Positive  # kg

    @model_validator(mode="after")
    def _has_a_direction(self) -> Pointer:
        if not np.linalg.norm(self.direction) > 1e-6:
            raise ValueError(f"direction is {list(self.direction)}, expected a vector longer than 0")
        return self

    def rotation(self) -> np.ndarray:
        """Compute the rotation [3, 3] from the tool frame to the link: the shortest that turns z into `direction`."""
        x, y, z = np.array(self.direction) / np.linalg.norm(self.direction)
        if x == y == 0.0:
            return np.diag([1.0, z, z])  # unchanged, or turned over about x
        axis = np.array([[0.0, 0.0, x], [0.0, 0.0, y], [-x, -y, 0.0]])  # cross product with the turning axis
        return np.eye(3) + axis + axis @ axis / (1.0 + z)


class ToolLimits(Schema):
    """The box that the tool centre point stays in, and its highest speeds, in `base_frame`."""

    lower: Point  # m
    upper: Point  # m
    speed: float = Positive  # m/s
    angular_speed: float = Positive  # rad/s

    @model_validator(mode="after")
    def _ordered(self) -> ToolLimits:
        for axis, low, high in zip("xyz", self.lower, self.upper, strict=True):
            if not low < high:
                raise ValueError(f"lower is {low} and upper is {high} in {axis}, expected lower below upper")
        return self


class Capsule(Schema):
    """A part of the arm for distance checks: all points within `radius` of the segment from `start` to `end`."""

    link: str
    start: Point  # m, in the link's frame
    end: Point  # m, in the link's frame
    radius: float = Positive  # m
    table: bool = True  # false for fingers: the tool box keeps them off the table, not the capsule


class Obstacle(Schema):
    """A box near the arm, such as a wall, a shelf or a camera post. The arm's capsules keep a margin from it."""

    name: str
    size: tuple[Edge, Edge, Edge]  # m, edge lengths along the box's own axes
    pose: schema.Pose  # of the centre, in the base frame


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


class CameraPlace(Schema):
    """Position of the scene's camera for one arm, and the point that it looks at, in `base_frame`."""

    position: Point  # m
    target: Point  # m

    @model_validator(mode="after")
    def _has_a_direction(self) -> CameraPlace:
        check_view(self.position, self.target)
        return self


def check_view(position: Point, target: Point) -> None:
    """Raise ValueError if a camera at `position` that looks at `target` has no defined orientation."""
    across = np.hypot(target[0] - position[0], target[1] - position[1])
    if across < SMALLEST_TILT * max(1e-9, abs(target[2] - position[2])) or across == 0.0:
        raise ValueError(
            f"the camera at {list(position)} looks straight up or down at {list(target)}, and the upper side of its "
            "image is undefined; move position or target a millimetre sideways, away from the image's lower side"
        )
