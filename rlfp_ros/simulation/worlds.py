"""The simulators by name, and the one way to make a world of any of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rlfp_ros.contract import CameraContract
from rlfp_ros.control.arm import Arm
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.pybullet_world import PybulletWorld
from rlfp_ros.simulation.randomization import Profile, load_profile
from rlfp_ros.simulation.room import Room, load_room
from rlfp_ros.simulation.scene import Scene, load_scene
from rlfp_ros.simulation.tasks.task import Task
from rlfp_ros.simulation.ticked_world import ArmWorld

Conditions = Profile | Room  # what an episode's appearance and dynamics are drawn from


@dataclass(frozen=True)
class SimulatorKind:
    """A simulator: which conditions its episodes are played under by default, and how named ones are loaded."""

    default: str
    load: Callable[[str | Path], Conditions]


SIMULATORS = {
    "pybullet": SimulatorKind("train", load_profile),
    "mujoco": SimulatorKind("twin_near", load_room),
}


def simulator(name: str) -> SimulatorKind:
    """Return a simulator by name. Raises ConfigurationError if there is none of this name."""
    if name not in SIMULATORS:
        raise ConfigurationError(f"--world is {name!r}, expected one of: {', '.join(SIMULATORS)}")
    return SIMULATORS[name]


def load_conditions(world: str, name: str | Path | None = None) -> Conditions:
    """Return a randomisation profile of PyBullet, or a room of MuJoCo.

    Parameters
    ----------
    world
        Name of the simulator.
    name
        Name or file of a profile or room; by default the simulator's.

    Raises
    ------
    ConfigurationError
        If there is no such simulator, profile or room.
    """
    chosen = simulator(world)
    return chosen.load(name or chosen.default)


def make_world(
    arm: Arm, task: Task, conditions: Conditions, camera: CameraContract | None = None, scene: Scene | None = None
) -> ArmWorld:
    """Return a world of the simulator that the conditions belong to.

    Parameters
    ----------
    arm, task
        What stands in it.
    conditions
        A profile of PyBullet or a room of MuJoCo.
    camera
        The camera of a bundle; by default the scene's.
    scene
        Table and camera; by default the usual one around the arm.
    """
    scene = scene or load_scene(arm=arm)
    if isinstance(conditions, Room):
        from rlfp_ros.simulation.mujoco_world import MujocoWorld  # loads MuJoCo and OpenGL

        return MujocoWorld(arm, task, conditions, scene, camera)
    return PybulletWorld(arm, task, conditions, scene, camera)
