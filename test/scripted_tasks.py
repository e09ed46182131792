"""Worlds of the tasks `stack` and `drawer`, and scripted motions that solve them, for tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rlfp_ros.contract import ActionContract
from rlfp_ros.control.actions import residual_of
from rlfp_ros.control.arm import load_arm
from rlfp_ros.control.kinematics import Kinematics
from rlfp_ros.simulation.deployment import SIMULATION_SETTINGS, Deployment
from rlfp_ros.simulation.mujoco_world import MujocoWorld
from rlfp_ros.simulation.postures import tool_at
from rlfp_ros.simulation.pybullet_world import PybulletWorld
from rlfp_ros.simulation.randomization import load_profile
from rlfp_ros.simulation.room import load_room
from rlfp_ros.simulation.scene import load_scene
from rlfp_ros.simulation.tasks.drawer import Drawer
from rlfp_ros.simulation.tasks.grasping import grasped, gripping_action, reach_for
from rlfp_ros.simulation.tasks.stack import Stack
from rlfp_ros.simulation.tasks.task import load_task
from rlfp_ros.simulation.tasks.task_scene import TaskScene, turned_by
from rlfp_ros.simulation.ticked_world import DT

TASKS = ("stack", "drawer")
PANDA = load_arm("panda")
KINEMATICS = Kinematics(PANDA)
DOWN = KINEMATICS.evaluate(np.array(PANDA.home))[1]
World = PybulletWorld | MujocoWorld
RATE = 4.0  # 1/s, of the scripted motions


def make_world(task: str, simulator: str = "pybullet", conditions: str = "", size: int = 84) -> World:
    scene = load_scene(image_size=size)
    if simulator == "pybullet":
        return PybulletWorld(PANDA, load_task(task), load_profile(conditions or "none"), scene)
    return MujocoWorld(PANDA, load_task(task), load_room(conditions or "twin_near"), scene)


def stack_of(world: World) -> Stack:
    assert isinstance(world.task, Stack)
    return world.task


def drawer_of(world: World) -> Drawer:
    assert isinstance(world.task, Drawer)
    return world.task


def put_tool(world: World, position: np.ndarray, width: float) -> None:
    world.move_arm(tool_at(KINEMATICS, np.asarray(position, float), DOWN), width)
    np.testing.assert_allclose(world.tool_position(), position, atol=2e-3)


Script = Callable[[TaskScene, ActionContract], np.ndarray]


def pull(task: Drawer) -> Script:
    """Move over the gap behind the handle, down into it, and along the drawer."""

    def act(scene: TaskScene, action: ActionContract) -> np.ndarray:
        gap, tool = task.gap(scene), scene.tool_position()
        axis = turned_by(scene.body_pose(task.slider.housing)[1])[:, 0]
        inside = tool[2] < gap[2] + 0.02
        velocity = RATE * (gap - tool)
        if inside:
            missing = task.settings.opening + 0.01 - task.opened(scene)
            velocity += (float(np.clip(RATE * missing, -0.15, 0.15)) - float(velocity @ axis)) * axis
        elif np.linalg.norm((gap - tool)[:2]) > 0.01:
            velocity[2] = RATE * (0.15 - tool[2])
        return np.clip(velocity / np.array(action.scale), -1, 1)

    return act


def pile(task: Stack) -> Script:
    """Take hold of the brick, carry it over the other one, put it down, let go and leave."""

    def act(scene: TaskScene, action: ActionContract) -> np.ndarray:
        block, top = scene.body_pose(task.block)[0], scene.body_pose(task.target)[0]
        top[2] += task.settings.block_size[2]
        beside = float(np.linalg.norm((top - block)[:2]))
        if beside < 0.01 and block[2] < top[2] + 0.003:
            wide = scene.gripper_width() > task.settings.block_size[0] + 0.02
            return gripping_action(np.array([0.0, 0.0, 0.15 * wide]), closed=False, action=action)
        if not grasped(scene, block, task.settings.block_size):
            return reach_for(scene, block, action)
        top[2] += 0.03 * float(np.clip(beside / 0.005 - 1, 0, 1))  # lower, the closer it is
        velocity = RATE * (top - block)
        if block[2] < top[2] - 0.012:
            velocity[:2] = 0.0  # first up, or the bricks would touch
        return gripping_action(velocity, closed=True, action=action)

    return act


def scripted(world: World) -> Script:
    return pull(world.task) if isinstance(world.task, Drawer) else pile(stack_of(world))


def play(world: World, seed: int, until: Callable[[], bool] = lambda: False) -> list[float]:
    """Play an episode by script, and return the rewards without that of success."""
    deployment, task = Deployment(world, world.task, SIMULATION_SETTINGS), world.task
    act, rewards = scripted(world), []
    deployment.reset(seed)
    going = True
    while going and not until():
        rewards.append(task.reward(world, False))
        action = act(world, task.action)
        deployment.answer(residual_of(action, task.action, world.image_stamp_ns))
        going = deployment.advance()
    return rewards


def drag(world: World, force: float, ticks: int) -> float:
    """Pull the drawer along its axis with a constant force, N; return how fast it moved last, m/s."""
    task = drawer_of(world)
    for _ in range(ticks):
        before = task.opened(world)
        if isinstance(world, PybulletWorld):
            body, link = world.bodies.part(task.slider.drawer)
            pull_along = (force * turned_by(world.body_pose(task.slider.housing)[1])[:, 0]).tolist()
            place = world.body_pose(task.slider.drawer)[0]
            world.client.applyExternalForce(body, link, pull_along, place, world.client.WORLD_FRAME)
        else:
            joint = next(j for j in range(world.model.njnt) if world.model.joint(j).name.startswith("drawer"))
            world.data.qfrc_applied[world.model.jnt_dofadr[joint]] = force
        world.step(None)
    return (task.opened(world) - before) / DT
