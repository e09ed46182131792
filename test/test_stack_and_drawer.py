"""Tests of the tasks without a teacher: `stack`, with two bricks, and `drawer`, with an articulated object."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from scripted_tasks import PANDA, TASKS, World, drag, drawer_of, make_world, play, put_tool, stack_of

from rlfp_ros.control.arm import load_arm
from rlfp_ros.schema import ConfigurationError, validate
from rlfp_ros.simulation.pybullet_world import PybulletWorld
from rlfp_ros.simulation.randomization import load_profile
from rlfp_ros.simulation.scene import load_scene
from rlfp_ros.simulation.tasks.drawer import SPARE_TRAVEL, DrawerSettings
from rlfp_ros.simulation.tasks.stack import Stack, StackSettings
from rlfp_ros.simulation.tasks.task import load_task
from rlfp_ros.simulation.tasks.task_scene import turned_by
from rlfp_ros.simulation.ticked_world import DT


@pytest.fixture(scope="module", params=["pybullet", "mujoco"])
def worlds(request: pytest.FixtureRequest) -> Iterator[dict[str, World]]:
    """Both tasks in each simulator, without images."""
    made = {task: make_world(task, request.param) for task in TASKS}
    for world in made.values():
        world.render = lambda: np.zeros((8, 8, 3), np.uint8)  # type: ignore[method-assign]
        if isinstance(world, PybulletWorld):
            world.blind = True
    yield made
    for world in made.values():
        world.close()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("seed", [1, 2, 5])
def test_a_scripted_motion_wins_and_the_reward_grows_on_its_way(task: str, seed: int, worlds: dict[str, World]) -> None:
    world = worlds[task]
    rewards = play(world, seed)
    assert world.outcome is not None
    assert world.outcome.success, world.outcome
    quarters = [float(np.mean(part)) for part in np.array_split(rewards, 4)]
    assert quarters == sorted(quarters)
    assert quarters[3] > quarters[0] + 0.4
    assert min(rewards) >= -1
    assert max(rewards) <= 0
    won = world.task.reward(world, True)
    assert won == pytest.approx(world.task.reward(world, False) + 5)
    assert won > 4.9


@pytest.mark.parametrize("task", TASKS)
def test_standing_still_wins_nothing(task: str, worlds: dict[str, World]) -> None:
    world = worlds[task]
    world.reset(4)
    for _ in range(480):
        world.step(None)
    assert world.outcome is None
    assert world.task.distance(world) > world.task.settings.success_distance


# --- success ---------------------------------------------------------------------------------------------------------


def on_top(world: World, beside: float = 0.0, above: float = 0.0) -> None:
    """Put the brick on the other one, that far from its place."""
    task = stack_of(world)
    x, y, z = world.body_pose(task.target)[0]
    world.place(task.block, (x + beside, y, z + task.settings.block_size[2] + above))


def seconds_to_success(world: World) -> float:
    """Return how long it takes until the episode is won, s."""
    ticks = 0
    while world.outcome is None and ticks < 240:
        world.step(None)
        ticks += 1
    assert world.outcome is not None
    assert world.outcome.success
    return ticks * DT


def test_a_brick_counts_as_stacked_within_15_mm_and_only_if_it_rests_there(worlds: dict[str, World]) -> None:
    world = worlds["stack"]
    world.reset(0)
    for beside, above, wins in ((0.0, 0.0, True), (0.014, 0.0, True), (0.016, 0.0, False), (0.0, 0.006, False)):
        on_top(world, beside, above)
        assert world.task.success(world) is wins, (beside, above)
    on_top(world, 0.036, -0.034)  # beside the other one on the table
    assert not world.task.success(world)


def test_a_brick_counts_as_stacked_only_with_open_fingers_and_the_tool_away(worlds: dict[str, World]) -> None:
    world = worlds["stack"]
    world.reset(0)
    task, width = stack_of(world), PANDA.gripper.open_width if PANDA.gripper else 0.0
    on_top(world)
    place = world.body_pose(task.block)[0]
    for height, opening, wins in (
        (0.0, task.settings.block_size[0], False),
        (0.0, width, False),
        (0.025, width, False),
        (0.04, 0.0, False),
        (0.04, width, True),
    ):
        put_tool(world, place + np.array([0, 0, height]), opening)
        assert task.success(world) is wins, (height, opening)
        assert (task.distance(world) < task.settings.success_distance) is wins


def test_a_stack_has_to_stand_for_three_tenths_of_a_second(worlds: dict[str, World]) -> None:
    world = worlds["stack"]
    world.reset(0)
    on_top(world)
    for _ in range(56):  # 7 images, 0.23 s
        world.step(None)
    assert world.outcome is None
    on_top(world, beside=0.1)
    for _ in range(8):
        world.step(None)
    on_top(world)
    assert seconds_to_success(world) == pytest.approx(0.3, abs=0.04)


def test_a_drawer_counts_as_open_only_with_the_tool_behind_its_handle(worlds: dict[str, World]) -> None:
    world = worlds["drawer"]
    world.reset(0)
    task = drawer_of(world)
    for opening, wins in ((0.0, False), (0.145, False), (0.151, True)):
        world.slide(task.slider, opening)
        assert task.opened(world) == pytest.approx(opening, abs=1e-6)
        assert not task.success(world)  # the arm is at home
        put_tool(world, task.gap(world), 0.0)
        assert task.success(world) is wins, opening
        world.move_arm(np.array(PANDA.home), 0.0)
    axis = turned_by(world.body_pose(task.slider.housing)[1])[:, 0]
    for along in (-0.05, 0.05):  # behind the front, in the tray, and in front of the handle
        put_tool(world, task.gap(world) + along * axis, 0.0)
        assert not task.success(world)


def test_a_drawer_has_to_stay_open_for_three_tenths_of_a_second(worlds: dict[str, World]) -> None:
    world = worlds["drawer"]
    world.reset(0)
    task = drawer_of(world)
    world.slide(task.slider, 0.16)
    put_tool(world, task.gap(world), 0.0)
    for _ in range(56):
        world.step(None)
    assert world.outcome is None
    world.slide(task.slider, 0.10)
    for _ in range(8):
        world.step(None)
    assert world.outcome is None
    world.slide(task.slider, 0.16)
    assert seconds_to_success(world) == pytest.approx(0.3, abs=0.04)


def test_a_drawer_moves_along_its_axis_within_its_limits_and_stops_by_itself(worlds: dict[str, World]) -> None:
    world = worlds["drawer"]
    world.reset(3)
    task, travel = drawer_of(world), drawer_of(world).settings.opening + SPARE_TRAVEL
    world.slide(task.slider, 1.0)
    assert task.opened(world) == pytest.approx(travel, abs=1e-6)
    world.slide(task.slider, 0.08)
    assert abs(drag(world, 0.0, 60)) < 1e-3
    assert task.opened(world) == pytest.approx(0.08, abs=1e-3)
    assert drag(world, 8.0, 12) > 0.1
    assert abs(drag(world, 0.0, 60)) < 1e-3
    for force, end in ((8.0, travel), (-8.0, 0.0)):
        drag(world, force, 480)
        assert task.opened(world) == pytest.approx(end, abs=2e-3)
        closed, turned = world.body_pose(task.slider.housing)
        offset = turned_by(turned).T @ (world.body_pose(task.slider.handle)[0] - closed)
        np.testing.assert_allclose(offset[1:], 0, atol=1e-4)
        np.testing.assert_allclose(world.body_pose(task.slider.handle)[1], turned, atol=1e-4)


@pytest.mark.parametrize("friction", [0.5, 2.5])
def test_a_drawer_resists_by_friction_and_damping(friction: float) -> None:
    """Pulled by a constant force, it moves at the speed at which friction and damping balance that force."""
    profile = load_profile("none")
    ranges = {
        "slider_friction": {"low": friction, "high": friction, "unit": "N"},
        "slider_damping": {"low": 20.0, "high": 20.0, "unit": "N s/m"},
    }
    profile = type(profile).model_validate(profile.model_dump() | {"ranges": ranges})
    world = PybulletWorld(PANDA, load_task("drawer"), profile, load_scene(image_size=16))
    world.blind = True
    world.reset(0)
    task = drawer_of(world)
    for force, speed in ((0.8 * friction, 0.0), (friction + 4.0, 0.2)):
        assert drag(world, force, 60) == pytest.approx(speed, abs=0.02)
    assert task.opened(world) > 0.02
    world.close()


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_the_tasks_have_no_teacher(task: str) -> None:
    assert not load_task(task).has_teacher


def test_bricks_that_would_overlap_are_refused() -> None:
    settings = load_task("stack").settings.model_dump()
    with pytest.raises(
        ConfigurationError, match=r"apart is \[0.02, 0.2\], expected it to rise from above the diagonal"
    ):
        validate(settings | {"apart": [0.02, 0.2]}, StackSettings, "stack.yaml")


def test_bricks_without_room_are_refused() -> None:
    task = load_task("stack")
    task.settings = task.settings.model_copy(update={"apart": (0.8, 0.9)})
    world = PybulletWorld(PANDA, task, load_profile("none"), load_scene(image_size=16))
    with pytest.raises(ConfigurationError, match=r"sim/tasks/stack\.yaml: apart is \[0\.8, 0\.9\], but no two points"):
        world.reset(0)
    world.close()


def test_a_drawer_that_opens_out_of_reach_is_refused() -> None:
    task = load_task("drawer")
    assert isinstance(task.settings, DrawerSettings)
    task.settings = task.settings.model_copy(update={"opening": 0.3})
    with pytest.raises(ConfigurationError, match=r"region with the drawer open reaches from 0\.44 to 0\.85 m in x"):
        task.fit_to(PANDA)


@pytest.mark.parametrize("arm", ["panda", "fr3", "iiwa", "ur5e", "xarm6"])
def test_the_drawer_opens_by_15_cm_on_every_arm_of_about_the_pandas_reach(arm: str) -> None:
    task = load_task("drawer")
    task.fit_to(load_arm(arm))
    assert isinstance(task.settings, DrawerSettings)
    assert task.settings.opening == 0.15


def test_a_cabinet_that_would_stand_on_the_arms_foot_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match=r"drawer\.yaml: the cabinet's rear reaches x = -0\.\d\d m, expected at"
    ):
        load_task("drawer").fit_to(load_arm("so101"))


def test_an_object_without_a_keypoint_is_refused() -> None:
    class Nameless(Stack):
        objects = ("object", "lower brick")

    with pytest.raises(
        ConfigurationError, match="class Nameless has 'lower brick' in `objects`, but not in `keypoints`"
    ):
        Nameless(load_task("stack").settings)
