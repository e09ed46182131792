"""Arm-dependent values of tasks and the scene: from the arm, from the file, or derived from the arm's tool box.

The files in `sim/` hold values for an arm with the Panda's reach. A file may list different values for other shipped
arms; an arm's file may give its own values under `tasks` and `camera`. For any other arm whose tool box does not
contain a task's regions, the regions are scaled from the Panda's tool box to the arm's.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from rlfp_ros import schema
from rlfp_ros.control.arm import Arm
from rlfp_ros.control.arm_parts import CameraPlace
from rlfp_ros.simulation.tasks.task_settings import Region, TaskSettings

REFERENCE_LOWER, REFERENCE_UPPER = (0.25, -0.35), (0.75, 0.35)  # m, x and y of the Panda's tool box
SMALL = 0.7  # an arm with less than this fraction of the Panda's reach gets another camera place and block
SMALLEST_BLOCK = 0.02  # m; a smaller block covers two pixels of an 84 px image
FITS = 0.9  # share of the gripper's opening that an object between its fingers may take
ROD_ON_BLOCK = 0.0125  # m, how far from the block's surface the end of a rod may stop

Settings = TypeVar("Settings", bound=TaskSettings)


def fit_settings(settings: Settings, arm: Arm, source: str) -> Settings:
    """Return a task's settings for one arm.

    Parameters
    ----------
    settings
        The task's settings; `arms` in them holds the values for arms by name.
    arm
        The arm; its `tasks` win over `settings.arms`.
    source
        Names the task's settings in messages.

    Raises
    ------
    ConfigurationError
        If a value that is given for the arm is unknown or invalid.
    """
    own = arm.tasks.get(settings.task, {})
    if arm.workspace is not None:
        own = {"block_size": arm.workspace.object.size} | own
    given = settings.arms.get(arm.name, {}) | own
    if given:
        name = f"{arm.cell_origin}: tasks.{settings.task}" if own else f"{source}: {arm.name}"
        settings = schema.validate(settings.model_dump() | given, type(settings), name)
    derived = {name: value for name, value in _derived(settings, arm).items() if name not in given}
    if not derived:
        return settings
    return schema.validate(settings.model_dump() | derived, type(settings), f"{source}: for {arm.origin}")


def camera_place(arm: Arm, places: dict[str, CameraPlace], position: Any, target: Any) -> CameraPlace | None:
    """Return where the scene's camera is mounted for one arm, or None for the scene's own place.

    Parameters
    ----------
    arm
        The arm; its own `camera` wins.
    places
        The scene's places, by the name of the arm.
    position, target
        [3] m, the scene's place for an arm of the Panda's reach.
    """
    if arm.camera is not None:
        return arm.camera
    if arm.name in places:
        return places[arm.name]
    scale = _scale(arm)
    if scale >= SMALL:
        return None
    scaled = [tuple(float(value) for value in scale * np.asarray(point)) for point in (position, target)]
    return CameraPlace(position=scaled[0], target=scaled[1])


def _scale(arm: Arm) -> float:
    return arm.tool_limits.upper[0] / REFERENCE_UPPER[0]


def _derived(settings: TaskSettings, arm: Arm) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    lower, upper = np.array(arm.tool_limits.lower[:2]), np.array(arm.tool_limits.upper[:2])
    outside = [
        name
        for name, region in settings.regions().items()
        if (np.array(region.lower) < lower).any() or (np.array(region.upper) > upper).any()
    ]
    if outside:
        fields = type(settings).model_fields
        changed |= {
            name: _placed(region, lower, upper) for name, region in settings.regions().items() if name in fields
        }
        scale = float(np.min((upper - lower) / np.subtract(REFERENCE_UPPER, REFERENCE_LOWER)))
        if _scale(arm) < SMALL:
            changed["block_size"] = tuple(min(edge, max(SMALLEST_BLOCK, scale * edge)) for edge in settings.block_size)
        changed |= settings.scaled(scale)
    if settings.task == "reach" and (arm.pointer is not None or _too_wide(arm)):
        height = changed.get("block_size", settings.block_size)[2]
        nearest = round(height / 2 + ROD_ON_BLOCK, 4)
        if settings.success_distance < nearest:
            changed["success_distance"] = nearest
    return changed


def _too_wide(arm: Arm) -> bool:
    """Return whether the cell's object does not fit between the gripper's fingers."""
    if arm.workspace is None or arm.gripper is None:
        return False
    return min(arm.workspace.object.size[:2]) > FITS * arm.gripper.open_width


def _placed(region: Region, lower: np.ndarray, upper: np.ndarray) -> dict[str, list[float]]:
    """Place a region in the box from `lower` to `upper` as it is placed in the Panda's."""
    size = np.subtract(REFERENCE_UPPER, REFERENCE_LOWER)
    corners = [(np.array(corner) - REFERENCE_LOWER) / size for corner in (region.lower, region.upper)]
    first, second = (np.round(lower + corner * (upper - lower), 3).tolist() for corner in corners)
    return {"lower": first, "upper": second}
