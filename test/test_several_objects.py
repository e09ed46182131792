"""Tests of scenes with several coloured objects and an articulated one: geometry, colours, images and saved states."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from scripted_tasks import KINEMATICS, TASKS, drawer_of, make_world, play, stack_of
from small_worlds import assert_continues

from rlfp_ros.simulation.postures import arrange
from rlfp_ros.simulation.pybullet_world import PybulletWorld
from rlfp_ros.simulation.tasks.drawer import Drawer
from rlfp_ros.simulation.tasks.recorded_scene import RecordedScene


@pytest.mark.parametrize("task", TASKS)
def test_both_simulators_agree_on_the_geometry(task: str) -> None:
    one, other = make_world(task, "pybullet", size=16), make_world(task, "mujoco", size=16)
    places = []
    for seed in range(4):
        one.reset(seed)
        other.reset(seed)
        names = one.task.objects
        assert one.task.keypoints[: len(names)] == names == other.task.objects
        for opening in (0.0, 0.1):
            if task == "drawer":
                for world in (one, other):
                    world.slide(drawer_of(world).slider, opening)
                np.testing.assert_allclose(drawer_of(one).gap(one), drawer_of(other).gap(other), atol=1e-4)
            np.testing.assert_allclose(one.task.object_points(one), other.task.object_points(other), atol=1e-3)
        np.testing.assert_allclose(one.body_pose(one.task.block)[1], other.body_pose(other.task.block)[1], atol=1e-3)
        places.append(one.task.object_points(one))
    assert np.ptp(places, axis=0)[:, :2].min() > 0.01  # drawn anew in each episode
    one.close()
    other.close()


def test_bricks_to_stack_leave_room_for_the_hand_and_are_turned_as_little_as_it_takes() -> None:
    world = make_world("stack", size=16)
    assert isinstance(world, PybulletWorld)
    world.blind = True
    task = stack_of(world)
    distances, yaws = [], []
    for seed in range(60):
        world.reset(seed)
        block, target = task.object_points(world)
        distances.append(float(np.linalg.norm(block - target)))
        yaws += [2 * float(np.arctan2(*world.body_pose(body)[1][2:])) for body in (task.block, task.target)]
    least, most = task.settings.apart
    assert least <= min(distances) < least + 0.03
    assert most - 0.03 < max(distances) <= most
    assert 0.3 < max(np.abs(yaws)) < task.settings.largest_yaw + 0.01
    world.close()


def hue_distance(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Return the angle between two colours on the colour circle, degrees."""
    difference = abs(colorsys.rgb_to_hsv(*one)[0] - colorsys.rgb_to_hsv(*other)[0])
    return 360 * min(difference, 1 - difference)


@pytest.mark.parametrize("profile", ["none", "train", "validation", "harsh"])
def test_the_two_bricks_have_clearly_different_hues(profile: str) -> None:
    world = make_world("stack", "pybullet", profile, size=16)
    assert isinstance(world, PybulletWorld)
    world.blind = True
    seen = set()
    for seed in range(20):
        world.reset(seed)
        block, target = (world.renderer.colours[body, -1] for body in (stack_of(world).block, stack_of(world).target))
        assert block is not None
        assert target is not None
        assert hue_distance(block, (1.0, 0.0, 0.0)) < 20
        assert hue_distance(block, target) > 60
        assert colorsys.rgb_to_hsv(*target)[1] > 0.4
        seen.add(target)
    assert len(seen) == (1 if profile == "none" else 20)
    world.close()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("simulator", ["pybullet", "mujoco"])
def test_images_show_the_objects_in_their_colours(task: str, simulator: str) -> None:
    """The object is red at its projected place, and the other part is not."""
    world = make_world(task, simulator)
    red_object = red_other = 0
    for seed in range(3):
        world.reset(seed)
        pixels = world.camera.project(world.task.object_points(world)).round().astype(int)
        patches = [world.image[v - 1 : v + 2, u - 1 : u + 2].astype(float).mean(axis=(0, 1)) + 1 for u, v in pixels]
        red = [float(patch[0] / patch[1:].max()) > 1.3 for patch in patches]
        red_object, red_other = red_object + red[0], red_other + red[1]
    assert red_object >= 2
    assert red_other == 0
    world.close()


@pytest.mark.parametrize("task", TASKS)
def test_images_for_training_show_the_middle_of_an_episode(task: str) -> None:
    world = make_world(task, size=16)
    assert isinstance(world, PybulletWorld)
    world.blind = True
    rng = np.random.default_rng(0)
    progress = []
    for seed in range(30):
        world.reset(seed)
        lying = world.task.object_pose(world)[0]
        arrange(world, KINEMATICS, lying, rng)
        if isinstance(world.task, Drawer):
            progress.append(world.task.opened(world) / world.task.settings.opening)
        else:
            block, target = world.task.object_points(world)
            above = abs(block[2] - target[2] - world.task.settings.block_size[2]) < 1e-6
            progress.append(float(above and np.linalg.norm((block - target)[:2]) < 0.022))
    assert 0.1 < np.mean(progress) < 0.9
    assert np.max(progress) >= 1
    world.close()


@pytest.mark.parametrize("task", TASKS)
def test_a_recorded_scene_answers_as_the_world_did(task: str) -> None:
    world = make_world(task, size=16)
    assert isinstance(world, PybulletWorld)
    world.blind = True
    play(world, 1, until=lambda: world.task.reward(world, False) > -0.3)
    recorded = RecordedScene(world, world.task_bodies)
    for ask in (lambda scene: world.task.reward(scene, False), world.task.privileged_state, world.task.success):
        np.testing.assert_array_equal(ask(recorded), ask(world))
    np.testing.assert_array_equal(world.task.keypoint_positions(recorded), world.task.keypoint_positions(world))
    before = world.task.privileged_state(world)
    world.reset(2)
    np.testing.assert_array_equal(world.task.privileged_state(recorded), before)
    world.close()


@pytest.mark.parametrize("task", TASKS)
def test_a_restored_world_continues_bit_for_bit(task: str) -> None:
    """From the middle of the task, with the object in contact; here, and in another world."""
    world = make_world(task, "pybullet", "train", size=16)
    assert isinstance(world, PybulletWorld)
    play(world, 1, until=lambda: world.task.reward(world, False) > -0.35)
    assert world.outcome is None
    assert_continues(world, task)
    world.close()
