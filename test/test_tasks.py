"""Tests of the tasks: success, teachers and settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from small_worlds import assert_continues

from rlfp_ros.control.arm import load_arm
from rlfp_ros.schema import ConfigurationError, validate
from rlfp_ros.simulation.environment import ManipulationEnv
from rlfp_ros.simulation.mujoco_world import MujocoWorld
from rlfp_ros.simulation.pybullet_world import PybulletWorld
from rlfp_ros.simulation.randomization import load_profile
from rlfp_ros.simulation.room import load_room
from rlfp_ros.simulation.scene import load_scene
from rlfp_ros.simulation.tasks.place import Place
from rlfp_ros.simulation.tasks.push import Push, PushSettings
from rlfp_ros.simulation.tasks.task import load_task
from rlfp_ros.simulation.ticked_world import DT

ROOT = Path(__file__).resolve().parents[1]
NEW = ("push", "lift", "place")


@pytest.fixture(scope="module")
def environments() -> Iterator[dict[str, ManipulationEnv]]:
    made = {task: ManipulationEnv(task, profile="train", observation="both", image_size=16) for task in NEW}
    yield made
    for env in made.values():
        env.close()


def settings_of(task: str) -> dict:
    return yaml.safe_load((ROOT / "sim/tasks" / f"{task}.yaml").read_text())


@pytest.mark.parametrize("task", NEW)
def test_the_teacher_wins_under_full_randomisation(task: str, environments: dict[str, ManipulationEnv]) -> None:
    env = environments[task]
    for seed in (1, 2):
        env.reset(seed=seed)
        rewards, ended = [], False
        while not ended:
            action = env.world.task.teacher(env.world, env.behaviour.action)
            _, reward, terminated, truncated, info = env.step(action)
            rewards.append(reward)
            ended = terminated or truncated
        assert info["success"], seed
        assert rewards[-1] > max(rewards[:-1])  # the sparse reward of success
        assert np.mean(rewards[-10:-1]) > np.mean(rewards[:10])  # and the dense one shows the way


@pytest.mark.parametrize("task", NEW)
def test_standing_still_wins_nothing(task: str, environments: dict[str, ManipulationEnv]) -> None:
    env = environments[task]
    env.reset(seed=4)
    still = np.zeros(env.action_size)
    for _ in range(60):
        *_, terminated, _, info = env.step(still)
        assert not terminated
    assert info["distance_m"] > env.world.task.settings.success_distance


def test_every_settings_file_belongs_to_a_task_and_loads() -> None:
    files = {path.stem for path in (ROOT / "sim/tasks").glob("*.yaml")}
    assert files >= {"reach", "push", "lift", "place", "stack", "drawer"}
    for name in files:
        task = load_task(name)
        assert task.settings.task == name
        assert task.has_teacher == (name not in {"stack", "drawer"})


def test_push_is_won_within_three_centimetres_of_the_goal_and_not_outside(
    environments: dict[str, ManipulationEnv],
) -> None:
    world = environments["push"].world
    for offset, wins in ((0.028, True), (0.034, False)):
        world.reset(0)
        task = world.task
        assert isinstance(task, Push)
        goal = task.goal_position
        world.place(task.block, (goal[0] - offset, goal[1], goal[2]))
        for _ in range(80):
            world.step(None)
        assert (world.outcome is not None) is wins


def test_lift_needs_the_height_for_half_a_second(environments: dict[str, ManipulationEnv]) -> None:
    world = environments["lift"].world
    world.reset(0)
    x, y, z = world.task.object_pose(world)[0]
    ticks = 0
    while world.outcome is None:
        world.place(world.task.block, (x, y, z + 0.1005))
        world.step(None)
        ticks += 1
    assert world.outcome.success
    assert ticks * DT == pytest.approx(0.5, abs=0.04)


def test_place_counts_only_once_the_brick_is_let_go(environments: dict[str, ManipulationEnv]) -> None:
    world = environments["place"].world
    world.reset(0)
    home = np.array(world.arm.home)
    task = world.task
    assert isinstance(task, Place)
    world.place(task.block, tuple(task.goal_position))
    assert task.distance(world) < task.settings.success_distance
    world.move_arm(home, gripper_width=task.settings.block_size[0])
    assert task.distance(world) > task.settings.success_distance


def test_the_goal_is_given_as_a_point_or_shown_as_a_disc() -> None:
    """Red is the brick alone and green the marker alone under `none`."""
    task = load_task("push")
    shown = type(task)(task.settings.model_copy(update={"goal": "marker"}))
    for given, green_pixels in ((task, False), (shown, True)):
        world = PybulletWorld(load_arm("panda"), given, load_profile("none"), load_scene())
        world.reset(3)
        image = world.image.astype(int)
        green = (image[..., 1] - image[..., [0, 2]].max(axis=-1)) > 40
        assert green.any() == green_pixels
        assert (given.goal(world) is None) == green_pixels
        if green_pixels:
            intrinsics = world.camera.contract.intrinsics
            rows, columns = np.nonzero(green)
            index = given.keypoints.index("goal")
            keypoint = world.keypoints()[index] * (intrinsics.fx, intrinsics.fy) + (intrinsics.cx, intrinsics.cy)
            assert np.linalg.norm(keypoint - (columns.mean(), rows.mean())) < 2.5
        world.close()


def test_an_unreachable_goal_is_refused_with_file_and_field() -> None:
    task = load_task("push")
    assert isinstance(task.settings, PushSettings)
    far = task.settings.goal_region.model_copy(update={"upper": (1.2, 0.2)})
    task.settings = task.settings.model_copy(update={"goal_region": far})
    with pytest.raises(
        ConfigurationError, match=r"sim/tasks/push\.yaml: goal_region reaches from 0\.36 to 1\.2 m in x"
    ):
        PybulletWorld(load_arm("panda"), task, load_profile("none"), load_scene())


def test_a_goal_that_is_won_at_the_start_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"goal_distance is \[0.01, 0.2\], expected it to rise"):
        validate(settings_of("push") | {"goal_distance": [0.01, 0.2]}, PushSettings, "push.yaml")


def test_a_task_that_grips_is_refused_for_an_arm_without_a_gripper() -> None:
    bare = load_arm("panda").model_copy(update={"gripper": None})
    with pytest.raises(ConfigurationError, match="has none"):
        ManipulationEnv("lift", bare, "none", observation="state")


def test_an_arm_that_cannot_come_down_to_the_block_is_refused() -> None:
    arm = load_arm("iiwa")
    lower = (*arm.tool_limits.lower[:2], 0.06)
    high = arm.model_copy(update={"tool_limits": arm.tool_limits.model_copy(update={"lower": lower})})
    with pytest.raises(ConfigurationError, match=r"iiwa.yaml: tool_limits.lower keeps the tool 0.06 m above the table"):
        ManipulationEnv("reach", high, "none")


@pytest.mark.parametrize("simulator", ["pybullet", "mujoco"])
def test_both_worlds_report_where_the_arm_touches_the_object(simulator: str) -> None:
    arm, task = load_arm("panda"), load_task("lift")
    if simulator == "pybullet":
        world: PybulletWorld | MujocoWorld = PybulletWorld(arm, task, load_profile("none"), load_scene(image_size=16))
    else:
        world = MujocoWorld(arm, task, load_room("twin_near"), load_scene())
    world.reset(1)
    world.step(None)
    assert world.contacts(task.block).shape == (0, 3)  # it lies on the table, which does not count
    world.place(task.block, tuple(world.tool_position()))
    for _ in range(480):
        world.step(None, gripper_width=0.0)  # the fingers close on it
        if len(touched := world.contacts(task.block)):
            break
        world.place(task.block, tuple(world.tool_position()))
    assert len(touched) > 0
    size = max(task.settings.block_size)
    assert (np.linalg.norm(touched - task.object_pose(world)[0], axis=1) < size).all()
    world.close()


@pytest.mark.parametrize("task", ["push", "lift"])
def test_a_restored_world_continues_bit_for_bit(task: str, environments: dict[str, ManipulationEnv]) -> None:
    """From the middle of the teacher's work, with the brick in contact; here, and in another world."""
    env = environments[task]
    env.reset(seed=1)
    while env.world.task.distance(env.world) > (0.06 if task == "push" else 0.09):
        env.step(env.world.task.teacher(env.world, env.behaviour.action))
    assert_continues(env.world, task)


def test_memory_stays_flat_over_many_episodes(environments: dict[str, ManipulationEnv]) -> None:
    psutil = pytest.importorskip("psutil")
    world = environments["push"].world
    process = psutil.Process()

    def episodes(first: int, count: int) -> int:
        for seed in range(first, first + count):
            world.reset(seed)
            world.step(None)
        return process.memory_info().rss

    settled = episodes(0, 150)
    assert (episodes(150, 300) - settled) / 2**20 < 2.0
