"""Worlds of both simulators that draw small images or none, and a comparison of worlds that were restored."""

from __future__ import annotations

import pickle

import numpy as np

from rlfp_ros.control.arm import Arm
from rlfp_ros.control.trajectory import Trajectory
from rlfp_ros.simulation.mujoco_world import MujocoWorld
from rlfp_ros.simulation.pybullet_world import PybulletWorld
from rlfp_ros.simulation.randomization import load_profile
from rlfp_ros.simulation.room import load_room
from rlfp_ros.simulation.scene import load_scene
from rlfp_ros.simulation.tasks.task import Task, load_task


def make_world(simulator: str, arm: Arm, task: Task) -> PybulletWorld | MujocoWorld:
    """Return a world of `pybullet`, blind, or of `mujoco`, neither with randomisation."""
    if simulator == "pybullet":
        made = PybulletWorld(arm, task, load_profile("none"), load_scene(image_size=16))
        made.blind = True
        return made
    return MujocoWorld(arm, task, load_room("twin_near"), load_scene(image_size=16))


def drive(world: PybulletWorld, ticks: int) -> list[np.ndarray]:
    """Wave the arm about; return everything that an observer may see."""
    seen = []
    for tick in range(ticks):
        joints = world.joint_state()
        goal = np.array(world.arm.home) + 0.15 * np.sin(world.tick * 0.05 + np.arange(7))
        world.step(Trajectory.to_rest(world.stamp_ns, 0.1, goal), 0.03 if tick > 30 else None)
        seen += [joints.positions, joints.velocities, joints.efforts, world.task.privileged_state(world)]
        if world.captured:
            seen.append(world.image)
    return seen


def assert_continues(world: PybulletWorld, task: str) -> None:
    """Save a world of `task`, and compare what follows with what follows a restore, here and in another world."""
    state = pickle.loads(pickle.dumps(world.save()))
    expected = drive(world, 60)
    world.restore(state)
    for one, two in zip(expected, drive(world, 60), strict=True):
        np.testing.assert_array_equal(one, two)
    other = PybulletWorld(world.arm, load_task(task), world.profile, world.scene)
    other.reset(7)
    other.restore(state)
    for one, two in zip(expected, drive(other, 60), strict=True):
        np.testing.assert_array_equal(one, two)
    other.close()
