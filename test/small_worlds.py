"""Worlds of both simulators that draw small images or none."""

from __future__ import annotations

from rlfp_ros.control.arm import Arm
from rlfp_ros.simulation.mujoco_world import MujocoWorld
from rlfp_ros.simulation.pybullet_world import PybulletWorld
from rlfp_ros.simulation.randomization import load_profile
from rlfp_ros.simulation.room import load_room
from rlfp_ros.simulation.scene import load_scene
from rlfp_ros.simulation.tasks.task import Task


def make_world(simulator: str, arm: Arm, task: Task) -> PybulletWorld | MujocoWorld:
    """Return a world of `pybullet`, blind, or of `mujoco`, neither with randomisation."""
    if simulator == "pybullet":
        made = PybulletWorld(arm, task, load_profile("none"), load_scene(image_size=16))
        made.blind = True
        return made
    return MujocoWorld(arm, task, load_room("twin_near"), load_scene(image_size=16))
