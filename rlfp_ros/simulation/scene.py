"""The table and the nominal camera around an arm, from `sim/scenes/<name>.yaml`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field, model_validator

from rlfp_ros import paths, schema
from rlfp_ros.contract import CameraContract, Intrinsics, Tolerance
from rlfp_ros.control.arm import Arm
from rlfp_ros.control.arm_parts import CameraPlace, check_view
from rlfp_ros.schema import ConfigurationError, Edge, Point, Pose, Schema
from rlfp_ros.simulation.arm_settings import camera_place

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
        forward = np.subtract(self.target, self.position)
        forward = forward / np.linalg.norm(forward)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        rotation = np.column_stack([right, np.cross(forward, right), forward])
        focal = 0.5 * self.height / np.tan(np.radians(self.field_of_view_deg) / 2)
        return CameraContract(
            width=self.width,
            height=self.height,
            intrinsics=Intrinsics(fx=focal, fy=focal, cx=(self.width - 1) / 2, cy=(self.height - 1) / 2),
            T_base_camera=Pose(xyz=self.position, quaternion_xyzw=quaternion(rotation)),
            tolerance=Tolerance(xyz_m=0.03, angle_rad=0.05),
            rate_hz=self.rate_hz,
        )


class Box(Schema):
    """An axis-aligned box, metres, base frame."""

    centre: Point
    size: tuple[Edge, Edge, Edge]


class Scene(Schema):
    """`sim/scenes/<name>.yaml`."""

    camera: SceneCamera
    cameras: dict[str, CameraPlace] = Field(default_factory=dict)  # by arm, if its camera has another place
    table: Box


def load_scene(name_or_path: str | Path = "table", image_size: int | None = None, arm: Arm | None = None) -> Scene:
    """Return the scene `sim/scenes/<name>.yaml`, or one of the user's, adapted to an arm.

    Parameters
    ----------
    name_or_path
        Name of a scene that ships, or the path of a file.
    image_size
        Replaces the camera's width and height, pixels.
    arm
        Places the camera for this arm; None for an arm of the Panda's reach.

    Raises
    ------
    ConfigurationError
        If the file is missing or wrong, or the image size is not a number of pixels.
    """
    scene = schema.load(paths.resolve(name_or_path, "sim/scenes", ".yaml"), Scene)
    changes: dict[str, object] = {}
    place = camera_place(arm, scene.cameras, scene.camera.position, scene.camera.target) if arm is not None else None
    if place is not None:
        changes |= dict(place)
    if image_size is not None:
        whole = isinstance(image_size, (int, np.integer)) and not isinstance(image_size, bool)
        if not whole or not MIN_IMAGE <= image_size <= MAX_IMAGE:
            raise ConfigurationError(
                f"image_size is {image_size!r}, expected a whole number of pixels from {MIN_IMAGE} to {MAX_IMAGE}"
            )
        changes |= {"width": int(image_size), "height": int(image_size)}
    return scene.model_copy(update={"camera": scene.camera.model_copy(update=changes)})


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
