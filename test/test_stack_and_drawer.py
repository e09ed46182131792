"""Tests of the tasks without a teacher: `stack`, with two bricks, and `drawer`, with an articulated object."""

from __future__ import annotations

import colorsys
import pickle
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from rlfp_ros.contract import ActionContract
from rlfp_ros.control.actions import residual_of
from rlfp_ros.control.arm import load_arm
from rlfp_ros.control.kinematics import Kinematics
from rlfp_ros.control.trajectory import Trajectory
from rlfp_ros.schema import ConfigurationError, validate
from rlfp_ros.simulation.deployment import SIMULATION_SETTINGS, Deployment
from rlfp_ros.simulation.mujoco_world import MujocoWorld
from rlfp_ros.simulation.postures import arrange, tool_at
from rlfp_ros.simulation.pybullet_world import PybulletWorld
from rlfp_ros.simulation.randomization import load_profile
from rlfp_ros.simulation.room import load_room
from rlfp_ros.simulation.scene import load_scene
from rlfp_ros.simulation.tasks.drawer import SPARE_TRAVEL, Drawer, DrawerSettings
from rlfp_ros.simulation.tasks.grasping import grasped, gripping_action, reach_for
from rlfp_ros.simulation.tasks.recorded_scene import RecordedScene
from rlfp_ros.simulation.tasks.stack import Stack, StackSettings
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


def stack_of(world: World) -> Stack:
    assert isinstance(world.task, Stack)
    return world.task


def drawer_of(world: World) -> Drawer:
    assert isinstance(world.task, Drawer)
    return world.task


def put_tool(world: World, position: np.ndarray, width: float) -> None:
    world.move_arm(tool_at(KINEMATICS, np.asarray(position, float), DOWN), width)
    np.testing.assert_allclose(world.tool_position(), position, atol=2e-3)


# --- scripted motions, which prove that the tasks can be solved ------------------------------------------------------

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


# --- the scene -------------------------------------------------------------------------------------------------------


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


def drive(world: PybulletWorld, ticks: int) -> list[np.ndarray]:
    """Wave the arm about; everything that an observer may see."""
    seen = []
    for tick in range(ticks):
        joints = world.joint_state()
        goal = np.array(world.arm.home) + 0.15 * np.sin(world.tick * 0.05 + np.arange(7))
        world.step(Trajectory.to_rest(world.stamp_ns, 0.1, goal), 0.03 if tick > 30 else None)
        seen += [joints.positions, joints.efforts, world.task.privileged_state(world)]
        if world.captured:
            seen.append(world.image)
    return seen


@pytest.mark.parametrize("task", TASKS)
def test_a_restored_world_continues_bit_for_bit(task: str) -> None:
    """From the middle of the task, with the object in contact; here, and in another world."""
    world = make_world(task, "pybullet", "train", size=16)
    assert isinstance(world, PybulletWorld)
    play(world, 1, until=lambda: world.task.reward(world, False) > -0.35)
    assert world.outcome is None
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
    world.close()
    other.close()


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
