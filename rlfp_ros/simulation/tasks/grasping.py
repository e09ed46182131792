"""Grasping a brick, for rewards and teachers of `lift` and `place`."""

from __future__ import annotations

import numpy as np

from rlfp_ros.contract import TWIST_COMPONENTS, ActionContract
from rlfp_ros.simulation.tasks.task_scene import Body, TaskScene, TeacherScene

APART = 0.02  # m, distance between contacts on opposite sides of a brick
RATE = 4.0  # 1/s, speed per distance
OVER = 0.09  # m, height of the tool on its way to the brick
LOWEST = 0.019  # m, lowest height of the tool, just above its lower limit, where motion becomes slow
ALIGNED = 0.007  # m, horizontal distance between tool and brick's middle at which the fingers may close
FUNNEL = 0.012  # m, horizontal distance within which the tool is down; at twice this distance it is at `OVER`
LOWERED = 0.006  # m above the height of the grasp at which the fingers may close
SHUT = 0.012  # m; an opening up to this much wider than the brick counts as closed, because the brick may be turned


def held_between_fingers(scene: TaskScene, body: Body) -> bool:
    """Return whether the arm touches a body on opposite sides."""
    points = scene.contacts(body)
    return len(points) > 1 and bool(np.ptp(points[:, :2], axis=0).max() > APART)


def gripping_action(velocity: np.ndarray, closed: bool, action: ActionContract) -> np.ndarray:
    """Return the action in [-1, 1] for a tool velocity [3] m/s and a gripper that closes or opens."""
    wanted = dict(zip(TWIST_COMPONENTS, velocity, strict=False)) | {"gripper": 0.0}
    values = [
        (-1.0 if closed else 1.0) if component == "gripper" else wanted.get(component, 0.0) / scale
        for component, scale in zip(action.components, action.scale, strict=True)
    ]
    return np.clip(values, -1, 1).astype(np.float32)


def grasped(scene: TeacherScene, block: np.ndarray, size: tuple[float, float, float]) -> bool:
    """Return whether the fingers are closed on the brick."""
    tool = scene.tool_position()
    around = bool(np.linalg.norm((tool - block)[:2]) < size[0] / 2 and abs(tool[2] - block[2]) < size[2] / 2)
    return around and scene.gripper_width() < size[0] + SHUT


def reach_for(scene: TeacherScene, block: np.ndarray, action: ActionContract) -> np.ndarray:
    """Return the action that moves the open fingers over the brick, down, and closes them.

    The tool moves down in a funnel: the closer it is to the brick's middle, the lower it may be. With a threshold the
    arm would move up and down forever if its drives lag, and the motion would be hard to imitate.
    """
    tool = scene.tool_position()
    lowest = max(float(block[2]), LOWEST)
    beside = float(np.linalg.norm((tool - block)[:2]))
    closing = beside < 2 * ALIGNED and tool[2] < lowest + LOWERED
    height = lowest if closing else lowest + (OVER - lowest) * float(np.clip(beside / FUNNEL - 1, 0, 1))
    velocity = RATE * (np.array([*block[:2], height]) - tool)
    if tool[2] < height - 0.03:
        velocity[:2] = 0.0  # first up, or the fingers would drag the brick along
    return gripping_action(velocity, closing, action)
