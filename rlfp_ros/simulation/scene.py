"""What is around an arm in simulation: camera, table, object and obstacles.

They come from the arm's cell (`cells/<name>.yaml`), or for an arm without one from `sim/scenes/<name>.yaml`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import Field, JsonValue, model_validator

from rlfp_ros import paths, schema
from rlfp_ros.contract import CameraContract, Intrinsics
from rlfp_ros.control.arm import Arm
from rlfp_ros.control.arm_parts import CameraPlace, Obstacle, check_view
from rlfp_ros.control.workspace import Box, CellObject
from rlfp_ros.schema import ConfigurationError, Point, Pose, Schema
from rlfp_ros.simulation.arm_settings import camera_place
from rlfp_ros.simulation.cell_camera import TOLERANCE, MountedCamera, mounted_camera

MIN_IMAGE, MAX_IMAGE = 8, 4096  # px
MAX_RATE_HZ = 240.0  # of physics


class SceneCamera(Schema):
    """The nominal camera: its position and the point that it looks at."""

    width: int = Field(ge=MIN_IMAGE, le=MAX_IMAGE)  # px
    height: int = Field(ge=MIN_IMAGE, le=MAX_IMAGE)  # px
    field_of_view_deg: float = Field(gt=1, lt=170)  # vertical
    position: Point  # m, base frame
    target: Point  # m, base frame
    rate_hz: float = Field(gt=0, le=MAX_RATE_HZ)

    @model_validator(mode="after")
    def _has_a_direction(self) -> SceneCamera:
        check_view(self.position, self.target)
        return self

    def contract(self) -> CameraContract:
        """Return the camera as a bundle describes it."""
        focal = 0.5 * self.height / np.tan(np.radians(self.field_of_view_deg) / 2)
        return CameraContract(
            width=self.width,
            height=self.height,
            intrinsics=Intrinsics(fx=focal, fy=focal, cx=(self.width - 1) / 2, cy=(self.height - 1) / 2),
            T_base_camera=looking_at(self.position, self.target),
            tolerance=TOLERANCE,
            rate_hz=self.rate_hz,
        )


class SceneFile(Schema):
    """`sim/scenes/<name>.yaml`."""

    camera: SceneCamera
    cameras: dict[str, CameraPlace] = Field(default_factory=dict)  # by arm, if its camera has another place
    table: Box


@dataclass(frozen=True)
class Scene:
    """What is around one arm. All coordinates are in the base frame."""

    camera: SceneCamera | MountedCamera
    table: Box
    cameras: dict[str, CameraPlace] = field(default_factory=dict)  # of the scene's file
    object: CellObject | None = None  # the object of the arm's cell; None: the task's block, in the profile's colours
    object_mesh: Path | None = None
    obstacles: tuple[Obstacle, ...] = ()  # those of the arm, if it stands in a cell

    def document(self) -> dict[str, JsonValue]:
        """Return what determines a training, as JSON: the camera and the table. The rest of a cell is in its arm."""
        return {
            "camera": self.camera.model_dump(mode="json"),
            "cameras": {name: place.model_dump(mode="json") for name, place in self.cameras.items()},
            "table": self.table.model_dump(mode="json"),
        }


def load_scene(name_or_path: str | Path = "table", image_size: int | None = None, arm: Arm | None = None) -> Scene:
    """Return the scene around an arm: its cell, or the scene `sim/scenes/<name>.yaml`, or one of the user's.

    Parameters
    ----------
    name_or_path
        Name of a scene that ships, or the path of a file; not used if the arm stands in a cell.
    image_size
        Replaces the camera's width and height, pixels.
    arm
        Places the camera for this arm; None for an arm of the Panda's reach.

    Raises
    ------
    ConfigurationError
        If the file is missing or wrong, if the image size is not a number of pixels, or if the cell's camera does not
        see what the policy has to see.
    """
    size: dict[str, int] = {}
    if image_size is not None:
        whole = isinstance(image_size, (int, np.integer)) and not isinstance(image_size, bool)
        if not whole or not MIN_IMAGE <= image_size <= MAX_IMAGE:
            raise ConfigurationError(
                f"image_size is {image_size!r}, expected a whole number of pixels from {MIN_IMAGE} to {MAX_IMAGE}"
            )
        size = {"width": int(image_size), "height": int(image_size)}
    if arm is not None and arm.workspace is not None:
        workspace, camera = arm.workspace, mounted_camera(arm)
        return Scene(
            camera.model_copy(update=size),
            workspace.table,
            object=workspace.object,
            object_mesh=arm.object_mesh,
            obstacles=arm.obstacles,
        )
    file = schema.load(paths.resolve(name_or_path, "sim/scenes", ".yaml"), SceneFile)
    place = camera_place(arm, file.cameras, file.camera.position, file.camera.target) if arm is not None else None
    changes = size if place is None else dict(place) | size
    return Scene(file.camera.model_copy(update=changes), file.table, file.cameras)


def looking_at(position: Point, target: Point) -> Pose:
    """Return the pose of a camera at `position` that looks at `target` and is not rolled, both m, base frame."""
    forward = np.subtract(target, position)
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.column_stack([right, np.cross(forward, right), forward])
    return Pose(xyz=position, quaternion_xyzw=quaternion(rotation))


def quaternion(rotation: np.ndarray) -> tuple[float, float, float, float]:
    """Return x, y, z, w of a 3 x 3 rotation matrix (largest-component method)."""
    m = rotation
    candidates = np.array(
        [
            1 + m[0, 0] - m[1, 1] - m[2, 2],
            1 - m[0, 0] + m[1, 1] - m[2, 2],
            1 - m[0, 0] - m[1, 1] + m[2, 2],
            1 + m[0, 0] + m[1, 1] + m[2, 2],
        ]
    )
    largest = int(np.argmax(candidates))
    rows = (
        (candidates[0], m[1, 0] + m[0, 1], m[0, 2] + m[2, 0], m[2, 1] - m[1, 2]),
        (m[1, 0] + m[0, 1], candidates[1], m[2, 1] + m[1, 2], m[0, 2] - m[2, 0]),
        (m[0, 2] + m[2, 0], m[2, 1] + m[1, 2], candidates[2], m[1, 0] - m[0, 1]),
        (m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], candidates[3]),
    )
    x, y, z, w = np.asarray(rows[largest]) / (2 * np.sqrt(candidates[largest]))
    return float(x), float(y), float(z), float(w)
