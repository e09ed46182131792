"""A click into an image as a goal on the table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlfp_ros.control.arm import Arm
from rlfp_ros.operator.seen_image import SeenImage
from rlfp_ros.schema import ConfigurationError

LOWEST_ANGLE = 0.02  # sine of the angle between ray and table; flatter rays meet it too inexactly


@dataclass(frozen=True, eq=False)
class ClickedGoal:
    """A goal that a page shows and that has not been sent.

    Attributes
    ----------
    number
        Tells it from other goals.
    point
        [3] m, base frame.
    stamp_ns
        Of the image that was clicked.
    """

    number: int
    point: np.ndarray
    stamp_ns: int


def goal_of_click(u: float, v: float, image: SeenImage, arm: Arm, height_m: float | None = None) -> np.ndarray:
    """Find the point of the table that a pixel shows.

    Parameters
    ----------
    u, v
        Pixel; centres are at integer coordinates.
    image
        The image that was clicked: its own camera and the camera's place are used.
    arm
        Its table, and the box that its tool stays in.
    height_m
        Height of the goal in the base frame; by default on the table.

    Returns
    -------
    numpy.ndarray
        The goal, [3] m in the base frame.

    Raises
    ------
    ConfigurationError
        If the pixel is outside the image or does not show the table, or the goal is outside the workspace.
    """
    camera = image.camera
    if not (-0.5 <= u <= camera.width - 0.5 and -0.5 <= v <= camera.height - 0.5):
        raise ConfigurationError("the click is outside the image")
    if arm.table_height is None:
        raise ConfigurationError(f"arm {arm.name} has no table, so a click has no goal; publish it on the topic goal")
    x, y = camera.rays(np.array([[u, v]]))[0]
    ray = image.T_base_camera[:3, :3] @ np.array([x, y, 1.0])
    ray /= np.linalg.norm(ray)
    place = image.T_base_camera[:3, 3]
    if not np.isfinite(ray).all() or ray[2] > -LOWEST_ANGLE or place[2] <= arm.table_height:
        raise ConfigurationError("the click does not show the table; click on the table")
    goal = place + (arm.table_height - place[2]) / ray[2] * ray
    goal[2] = arm.table_height if height_m is None else height_m
    box = arm.tool_limits
    for axis, value, low, high in zip("xy", goal[:2], box.lower[:2], box.upper[:2], strict=True):
        if not low <= value <= high:
            raise ConfigurationError(
                f"the goal is outside the workspace: {axis} is {value:.3f} m, expected {low:g} to {high:g} m"
            )
    return goal
