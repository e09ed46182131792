"""The camera of a cell: the model of its lens, and the square part of its image that policies see.

A policy sees a square part of the camera's image, as through a pinhole with the same centre of projection whose
principal point may lie beside the image's middle. A far or wide camera then shows the workspace and not the room, and
the extrinsics are those of the camera.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import numpy as np
from pydantic import Field

from rlfp_ros.contract import CameraContract, Intrinsics, Tolerance
from rlfp_ros.control.arm import Arm
from rlfp_ros.control.workspace import CellCamera, ShownBox, Workspace, default_view
from rlfp_ros.perception.camera import CameraModel, Lens
from rlfp_ros.perception.camera_info_file import calibrated_camera
from rlfp_ros.perception.preprocess import scaled_intrinsics
from rlfp_ros.schema import ConfigurationError, Point, Schema
from rlfp_ros.simulation.tasks.task import Task

TOLERANCE = Tolerance(xyz_m=0.03, angle_rad=0.05)  # of a trained camera's place; the profile `train` draws from it
IMAGE_SIZE = 84  # px
MARGIN = 0.03  # of the view's size, added on each side
BEHIND = 0.05  # m; a point nearer to the camera's plane than this is not in view
TWIN_HEIGHT = 480  # px, most of the twin's images
BORDER_POINTS = 40  # per side of the image
OnPlane = Annotated[float, Field(ge=-100.0, le=100.0)]


class MountedCamera(Schema):
    """The camera of a cell as a policy sees through it."""

    width: int = Field(default=IMAGE_SIZE, ge=8, le=4096)  # px
    height: int = Field(default=IMAGE_SIZE, ge=8, le=4096)  # px
    source: CellCamera
    target: Point  # m, base frame, the middle of what is shown
    # Left, top, right and bottom of the shown square on the plane z = 1 of the optical frame.
    window: tuple[OnPlane, OnPlane, OnPlane, OnPlane]
    covered: float = Field(default=1.0, ge=0, le=1)  # part of the view's corners that the camera sees

    @property
    def position(self) -> Point:
        """The camera's position, m, base frame."""
        return self.source.T_base_camera.xyz

    @property
    def rate_hz(self) -> float:
        """Images per second."""
        return self.source.rate_hz

    def contract(self) -> CameraContract:
        """Return the camera as a bundle describes it."""
        left, top, right, bottom = self.window
        fx, fy = self.width / (right - left), self.height / (bottom - top)
        return CameraContract(
            width=self.width,
            height=self.height,
            intrinsics=Intrinsics(fx=fx, fy=fy, cx=-0.5 - fx * left, cy=-0.5 - fy * top),
            T_base_camera=self.source.T_base_camera,
            tolerance=TOLERANCE,
            rate_hz=self.source.rate_hz,
        )


def live_camera(workspace: Workspace, source: str) -> CameraModel:
    """Return the cell's camera with its lens. Raises ConfigurationError, naming `source`, if its numbers do not fit."""
    return calibrated_camera(workspace.camera.intrinsics, f"{source}: camera.intrinsics")


def cell_camera(arm: Arm) -> CameraModel | None:
    """Return the camera of an arm's cell for the twin, at a size that it draws fast; None for an arm without a cell."""
    if arm.workspace is None:
        return None
    live = live_camera(arm.workspace, arm.cell_origin)
    if live.lens is Lens.FISHEYE:
        live = live.pinhole()  # the twin's camera_info knows Brown-Conrady lenses only
    scale = min(1.0, TWIN_HEIGHT / live.height)
    width, height = round(scale * live.width), round(scale * live.height)
    K = scaled_intrinsics(live.K, width / live.width, height / live.height)
    return replace(live, width=width, height=height, K=K)


def mounted_camera(arm: Arm) -> MountedCamera:
    """Return the camera of an arm's cell, which shows the cell's view.

    If the camera's image does not hold the whole view, the shown square is moved and made smaller until the image
    covers it, and `covered` is below 1.

    Raises
    ------
    ConfigurationError
        If the camera does not look at the view at all.
    """
    assert arm.workspace is not None
    camera, source = arm.workspace.camera, arm.cell_origin
    view = camera.view or default_view(arm.tool_limits.lower, arm.tool_limits.upper)
    live = live_camera(arm.workspace, source)
    seen = _on_plane(view, camera)
    bounds = _clear_rectangle(live)
    if seen is None or (seen[1] < bounds[0]).any() or (seen[0] > bounds[1]).any():
        raise ConfigurationError(
            f"{source}: the camera does not see camera.view, the box from {list(view.lower)} to {list(view.upper)} m; "
            "correct camera.T_base_camera (optical frame: x right, y down, z forward) or camera.view"
        )
    low, high = seen
    covered = float(np.prod((np.minimum(high, bounds[1]) - np.maximum(low, bounds[0])) / (high - low)))
    side = float(max(high - low)) * (1 + 2 * MARGIN)
    side = min(side, *(float(extent) for extent in bounds[1] - bounds[0]))
    corner = np.clip(0.5 * (low + high - side), bounds[0], bounds[1] - side)
    window = (*(float(value) for value in corner), *(float(value) for value in corner + side))
    return MountedCamera(source=camera, target=view.middle, window=window, covered=min(1.0, covered))


def check_seen(arm: Arm, task: Task, camera: CameraContract) -> None:
    """Check that a policy's image shows the regions of a task, which hold its objects and goals.

    Parameters
    ----------
    arm
        The arm in its cell.
    task
        The task, fit to the arm.
    camera
        The camera as the policy sees through it.

    Raises
    ------
    ConfigurationError
        If a corner of a region is outside the image.
    """
    T_camera_base, K = np.linalg.inv(camera.T_base_camera.matrix()), camera.intrinsics.matrix()
    last = np.array([camera.width, camera.height]) - 0.5
    for name, region in task.settings.regions().items():
        ends = (region.lower, region.upper)
        corners = np.array([[x, y, 0.0] for x in (ends[0][0], ends[1][0]) for y in (ends[0][1], ends[1][1])])
        points = corners @ T_camera_base[:3, :3].T + T_camera_base[:3, 3]
        pixels = (points @ K.T)[:, :2] / points[:, 2:]
        outside = (points[:, 2] < BEHIND) | (pixels < -0.5).any(axis=1) | (pixels > last).any(axis=1)
        if outside.any():
            x, y, _ = corners[outside][0]
            raise ConfigurationError(
                f"{arm.cell_origin}: the policy's image does not show ({x:g}, {y:g}) m, a corner of {name} of "
                f"{task.settings.task}; make camera.view larger, tasks.{task.settings.task}.{name} smaller, or move "
                "the camera"
            )


def _on_plane(view: ShownBox, camera: CellCamera) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the least and greatest [2] of the view's corners on the plane z = 1; None if one is behind the camera."""
    T_camera_base = np.linalg.inv(camera.T_base_camera.matrix())
    points = view.corners() @ T_camera_base[:3, :3].T + T_camera_base[:3, 3]
    if (points[:, 2] < BEHIND).any():
        return None
    plane = points[:, :2] / points[:, 2:]
    return plane.min(axis=0), plane.max(axis=0)


def _clear_rectangle(live: CameraModel) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and greatest [2] of a rectangle on the plane z = 1 that lies inside the lens's image."""
    x, y = np.linspace(0, live.width - 1, BORDER_POINTS), np.linspace(0, live.height - 1, BORDER_POINTS)
    zero, right, bottom = 0 * x, 0 * y + live.width - 1, 0 * x + live.height - 1
    sides = [live.rays(np.column_stack(side)) for side in ((zero, y), (x, zero), (right, y), (x, bottom))]
    least = np.array([sides[0][:, 0].max(), sides[1][:, 1].max()])
    greatest = np.array([sides[2][:, 0].min(), sides[3][:, 1].min()])
    return least, greatest
