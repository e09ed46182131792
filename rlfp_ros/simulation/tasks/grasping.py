"""How the teachers of `lift` and `place` take hold of a brick."""

from __future__ import annotations

import numpy as np

from rlfp_ros.contract import TWIST_COMPONENTS, ActionContract
from rlfp_ros.simulation.tasks.task_scene import TeacherScene

RATE = 4.0  # 1/s
OVER = 0.09  # m, height of the tool on its way to the brick
LOWEST = 0.019  # m, of the tool: just above the lower end of its limits, where motion becomes slow
ALIGNED = 0.007  # m between tool and brick's middle, seen from above
FUNNEL = 0.012  # m beside the brick's middle: within it the tool goes down, from twice as far it is at `OVER`
LOWERED = 0.006  # m above the height of the grasp
SHUT = 0.012  # m wider than the brick counts as closed on it: one turned by `largest_yaw` is wider than its side


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
    """Return the action that goes over the brick with open fingers, down, and closes them.

    The tool goes down in a funnel: the closer it is above the brick's middle, the lower. A plain threshold would make
    the arm go up and down forever if its drives lag, and is hard to imitate.
    """
    tool = scene.tool_position()
    lowest = max(float(block[2]), LOWEST)
    beside = float(np.linalg.norm((tool - block)[:2]))
    closing = beside < 2 * ALIGNED and tool[2] < lowest + LOWERED
    height = lowest if closing else lowest + (OVER - lowest) * float(np.clip(beside / FUNNEL - 1, 0, 1))
    velocity = RATE * (np.array([*block[:2], height]) - tool)
    if tool[2] < height - 0.03:
        velocity[:2] = 0.0  # first up, or the fingers take the brick along
    return gripping_action(velocity, closing, action)
