"""The Gymnasium ids of the tasks: `rlfp_ros/Push-v0` for the task `push`.

Nothing is imported here, so that a program without Gymnasium can import the tasks.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

ENTRY_POINT = "rlfp_ros.simulation.environment:ManipulationEnv"


def environment_id(task: str) -> str:
    """Return the Gymnasium id of a task: `pick_and_place` becomes `rlfp_ros/PickAndPlace-v0`."""
    name = "".join(part[:1].upper() + part[1:] for part in task.split("_"))
    return f"rlfp_ros/{name}-v0"


def register(tasks: Iterable[str]) -> None:
    """Register these tasks with Gymnasium, if it is imported; tasks that are registered already do not change."""
    gymnasium = sys.modules.get("gymnasium")
    if gymnasium is None or not hasattr(gymnasium, "register"):
        return  # the import of Gymnasium will call this again, see rlfp_ros/__init__.py
    for task in tasks:
        if environment_id(task) not in gymnasium.registry:
            gymnasium.register(environment_id(task), entry_point=ENTRY_POINT, kwargs={"task": task})
