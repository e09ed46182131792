"""Tests of the MuJoCo twin: the same arm as in PyBullet and Pinocchio, another room, and the topics of a real arm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pinocchio
import pytest
from builtin_interfaces.msg import Duration
from conftest import load_or_skip
from fixture_bundle import make_bundle
from python_process import run_python
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from rlfp_ros.contract import load_bundle
from rlfp_ros.control.arm import load_arm
from rlfp_ros.control.kinematics import Kinematics
from rlfp_ros.control.policy import residual_of
from rlfp_ros.control.trajectory import Trajectory
from rlfp_ros.evaluation import rollout
from rlfp_ros.evaluation.evaluate import evaluate
from rlfp_ros.graph.real_arm import REAL_ARM
from rlfp_ros.graph.resolution import resolve
from rlfp_ros.nodes import messages as m
from rlfp_ros.nodes.command_refusal import refusal
from rlfp_ros.perception.preprocess import Preprocessor
from rlfp_ros.recording import decode
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.bullet import connect
from rlfp_ros.simulation.deployment import SIMULATION_SETTINGS, Deployment
from rlfp_ros.simulation.mujoco_headless import mujoco
from rlfp_ros.simulation.mujoco_world import MujocoWorld
from rlfp_ros.simulation.room import Room, load_room
from rlfp_ros.simulation.scene import load_scene
from rlfp_ros.simulation.tasks.task import TASKS, load_task
from rlfp_ros.simulation.urdf import simulation_urdf

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("twin_near", "twin_dim", "twin_glare", "twin_clutter", "twin_moved")
PANDA = load_arm("panda")


def make_world(task: str = "reach", room: str | Room = "twin_near") -> MujocoWorld:
    return MujocoWorld(PANDA, load_task(task), load_room(room) if isinstance(room, str) else room, load_scene())


@pytest.fixture(scope="module")
def world() -> Any:
    made = make_world()
    yield made
    made.close()


@pytest.fixture(scope="module")
def postures() -> np.ndarray:
    limits = PANDA.limits
    return np.random.default_rng(7).uniform(limits.lower, limits.upper, (20, len(PANDA.home)))


# --- the same arm ----------------------------------------------------------------------------------------------------


def test_the_tool_is_at_the_position_of_pinocchio_and_pybullet(world: MujocoWorld, postures: np.ndarray) -> None:
    world.reset(0)
    kinematics, client = Kinematics(PANDA), connect()
    body = client.loadURDF(str(simulation_urdf(PANDA)), useFixedBase=True)
    joints = {client.getJointInfo(body, i)[1].decode(): i for i in range(client.getNumJoints(body))}
    links = {client.getJointInfo(body, i)[12].decode(): i for i in range(client.getNumJoints(body))}
    for posture in postures:
        world.move_arm(posture, 0.04)
        for name, position in zip(PANDA.joint_names, posture, strict=True):
            client.resetJointState(body, joints[name], position)
        bullet = client.getLinkState(body, links[PANDA.tool_frame], computeForwardKinematics=1)[4]
        np.testing.assert_allclose(world.tool_position(), kinematics.tool_position(posture), atol=1e-6)
        np.testing.assert_allclose(world.tool_position(), bullet, atol=1e-5)
    client.disconnect()


def test_gravity_torques_are_pinocchios_and_pybullets(world: MujocoWorld, postures: np.ndarray) -> None:
    world.reset(0)
    model = pinocchio.buildModelFromUrdf(str(PANDA.urdf_path))
    data, client = model.createData(), connect()
    client.setGravity(0, 0, -9.81)
    flags = client.URDF_USE_INERTIA_FROM_FILE
    body = client.loadURDF(str(simulation_urdf(PANDA)), useFixedBase=True, flags=flags)
    count = len(PANDA.home)
    for posture in postures:
        fingers = [0.02, 0.02]
        world.move_arm(posture, 0.04)
        mine = world.data.qfrc_bias[world.arm_index.dofs]
        theirs = pinocchio.computeGeneralizedGravity(model, data, np.concatenate([posture, fingers]))[:count]
        still = [0.0] * (count + 2)
        bullet = client.calculateInverseDynamics(body, [*posture, *fingers], still, still)[:count]
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
        np.testing.assert_allclose(mine, bullet, atol=1e-3)
    client.disconnect()


def test_joint_states_follow_the_order_of_the_arms_file(world: MujocoWorld) -> None:
    world.reset(0)
    posture = np.array(PANDA.home) + 0.01 * np.arange(len(PANDA.home))
    world.move_arm(posture, 0.05)
    state = world.joint_state()
    np.testing.assert_allclose(state.positions, posture, atol=0.002)  # sensor noise
    assert state.gripper_width == pytest.approx(0.05)


# --- another world ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROOMS)
def test_every_room_shows_the_block_at_its_projected_position(name: str) -> None:
    world = make_world(room=name)
    found = 0
    for seed in range(3):
        world.reset(seed)
        u, v = world.camera.project(world.task.keypoint_positions(world))[0].round().astype(int)
        red, green, blue = (world.image[v - 1 : v + 2, u - 1 : u + 2].mean(axis=(0, 1)) + 1).tolist()
        found += red > 1.3 * green and red > 1.3 * blue
    world.close()
    assert world.image.shape == (world.room.camera.height, world.room.camera.width, 3)
    assert found >= 2, f"{name}: the block is not red in {3 - found} of 3 images"


@pytest.mark.parametrize("name", ROOMS)
def test_every_rooms_camera_covers_the_view_of_training(name: str, tiny_bundle: Path) -> None:
    contract = load_bundle(tiny_bundle).contract
    preprocess = Preprocessor(contract.model_copy(update={"camera": load_scene().camera.contract()}))
    world = make_world(room=name)
    world.reset(0)
    try:
        assert preprocess(world.image, world.calibration).shape[2] == 3
    finally:
        world.close()


def test_an_episode_repeats_from_its_seed() -> None:
    images = []
    for _ in range(2):
        world = make_world(room="twin_clutter")
        world.reset(3)
        for _ in range(24):
            world.step(None)
        images.append((world.image.copy(), world.joint_state().positions))
        world.close()
    np.testing.assert_array_equal(images[0][0], images[1][0])
    np.testing.assert_array_equal(images[0][1], images[1][1])


@pytest.mark.parametrize("task", ["push", "lift"])
def test_the_tasks_teacher_succeeds_in_other_physics(task: str) -> None:
    world, behaviour = make_world(task), TASKS[task]
    world.render = lambda: np.zeros((8, 8, 3), np.uint8)  # type: ignore[method-assign]  # a teacher needs none
    deployment = Deployment(world, behaviour, SIMULATION_SETTINGS)
    deployment.reset(1)
    going = True
    while going:
        action = world.task.teacher(world, behaviour.action)
        deployment.answer(residual_of(action, behaviour.action, world.image_stamp_ns))
        going = deployment.advance()
    world.close()
    assert world.outcome is not None
    assert world.outcome.success


def test_a_stalled_joint_stands_still_and_a_soft_arm_lags(world: MujocoWorld) -> None:
    def error(seed: int = 0) -> np.ndarray:
        world.reset(seed)
        start = world.joint_state().positions
        world.step(Trajectory.to_rest(world.stamp_ns, 0.4, start + 0.2))
        for _ in range(60):
            world.step(None)
        return np.abs(world.joint_state().positions - start)

    healthy = error()
    world.faults.stiffness = 0.05
    assert error()[0] < healthy[0] - 0.005
    world.faults.stiffness, world.faults.stalled_joint = 1.0, PANDA.joint_names[3]
    moved = error()
    world.faults.stalled_joint = ""
    assert moved[3] < 0.005 < moved[0]


def test_all_images_are_lost_if_the_fault_drops_them(world: MujocoWorld) -> None:
    world.faults.dropped_frames = 1.0
    world.reset(0)
    world.step(None)
    taken = 0
    for _ in range(31):
        world.step(None)
        taken += world.captured
    world.faults.dropped_frames = 0.0
    assert taken == 0


def test_nothing_in_training_reads_a_room() -> None:
    """A report shows rooms that were played after the training."""
    learning = ROOT / "rlfp_ros" / "learning"
    paths = sorted(path for path in learning.rglob("*.py") if path.parent.name != "report")
    assert len(paths) > 20
    for path in paths:
        assert "room" not in path.read_text(encoding="utf-8").lower().replace("headroom", ""), path


def test_a_mistake_in_a_room_is_one_sentence(tmp_path: Path) -> None:
    text = (ROOT / "sim/scenes/twin_near.yaml").read_text(encoding="utf-8")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(text.replace("vignetting: 0.10", "vignetting: 7"), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"wrong.yaml.*vignetting"):
        load_room(wrong)


def test_evaluate_gives_the_same_keys_in_both_worlds(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short_task(name: str) -> Any:
        task = load_task(name)
        task.settings = task.settings.model_copy(update={"time_limit": 0.3})
        return task

    monkeypatch.setattr(rollout, "load_task", short_task)
    # The fixture's camera is a wide one: a room as wide as that.
    wide = (ROOT / "sim/scenes/twin_near.yaml").read_text(encoding="utf-8").replace("deg: 44.0", "deg: 64.0")
    (tmp_path / "wide.yaml").write_text(wide.replace("twin_near", "wide"), encoding="utf-8")
    profiles = {"pybullet": "train", "mujoco": str(tmp_path / "wide.yaml")}
    results = [evaluate(tiny_bundle, world=name, profile=profile, episodes=1) for name, profile in profiles.items()]
    assert results[0].keys() == results[1].keys()
    assert [result["world"] for result in results] == ["pybullet", "mujoco"]


# --- a real arm's topics ---------------------------------------------------------------------------------------------


def command(**changes: Any) -> JointTrajectory:
    """One point 10 ms after 1 s, at rest."""
    joints = list(changes.get("joints", PANDA.joint_names))
    point = JointTrajectoryPoint(
        positions=[0.0] * len(joints),
        velocities=[changes.get("velocity", 0.0)] * len(joints),
        accelerations=[0.0] * len(joints),
        time_from_start=Duration(nanosec=10_000_000),
    )
    stamp = changes.get("stamp_ns", 1_000_000_000)
    return JointTrajectory(
        header=m.header_message(stamp), joint_names=joints, points=[point] * changes.get("points", 1)
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, None),
        ({"stamp_ns": 0}, None),
        ({"joints": PANDA.joint_names[::-1]}, None),
        ({"joints": PANDA.joint_names[:6]}, "expected all of"),
        ({"points": 0}, "empty trajectory"),
        ({"velocity": 0.1}, "expected zero"),
        ({"velocity": 1e-7}, None),  # below the float's epsilon, which is what JTC asks
        ({"velocity": -2e-7}, "expected zero"),
        ({"joints": [*PANDA.joint_names, "extra"]}, "expected all of"),
        ({"joints": ["fr3_joint1", *PANDA.joint_names[1:]]}, "expected all of"),
        ({"stamp_ns": 900_000_000}, "ends in the past"),
    ],
)
def test_commands_are_refused_as_the_joint_trajectory_controller_does(changes: dict[str, Any], why: str | None) -> None:
    answer = refusal(command(**changes), PANDA.joint_names, 1_000_000_000)
    assert answer is None if why is None else why in (answer or "")


@pytest.mark.graph
def test_the_twin_refuses_wrong_commands_over_dds_and_reports_them(
    start_node: Callable[..., Any], test_node: Any, tiny_bundle: Path
) -> None:
    """A moving end, a past stamp and times that do not increase: none of them moves the arm."""
    joints, diagnostics = test_node.listen(m.JOINT_STATES), test_node.listen(m.DIAGNOSTICS)
    commands = test_node.publisher(m.ARM_COMMAND)
    start_node("arm_twin", {"bundle": tiny_bundle})
    test_node.spin_until(lambda: len(joints) > 20, 30.0, "joints")
    test_node.connected(commands)
    before = decode.JointMatcher(PANDA)(joints[-1]).positions
    now = test_node.node.get_clock().now().nanoseconds
    soon = now + 600_000_000_000
    wrong = [command(velocity=0.5, stamp_ns=soon), command(stamp_ns=now - 5_000_000_000)]
    wrong.append(command(points=2, stamp_ns=soon))  # both points at the same time

    def refused() -> int:
        values = {v.key: v.value for a in diagnostics for s in a.status if s.name == "arm_twin" for v in s.values}
        return int(values.get("commands_refused", 0))

    for count, message in enumerate(wrong, start=1):
        commands.publish(message)
        test_node.spin_until(lambda count=count: refused() >= count, 30.0, f"refusal {count}")
    assert "increasing times" in next(
        s.message for a in reversed(diagnostics) for s in a.status if s.name == "arm_twin"
    )
    assert np.abs(decode.JointMatcher(PANDA)(joints[-1]).positions - before).max() < 0.01


def test_mock_hardware_adds_the_twin_to_the_real_arms_graph() -> None:
    plain = resolve(REAL_ARM, {}, check=False)
    mock = resolve(REAL_ARM, {"use_mock_hardware": True, "mock_room": "twin_dim"}, check=False)
    assert [node.name for node in mock.processes] == ["arm_twin", *(node.name for node in plain.processes)]
    assert mock.processes[0].parameters["room"] == "twin_dim"


@pytest.mark.graph
def test_the_twin_publishes_the_drivers_topics_with_stamps_of_the_system_clock(
    start_node: Callable[..., Any], test_node: Any, tiny_bundle: Path
) -> None:
    joints, images, infos = (test_node.listen(topic) for topic in (m.JOINT_STATES, m.IMAGE, m.CAMERA_INFO))
    twin = start_node("arm_twin", {"bundle": tiny_bundle})
    test_node.spin_until(lambda: len(joints) > 20 and images and infos, 30.0, "joints and images")
    now = test_node.node.get_clock().now().nanoseconds
    assert abs(now - decode.stamp_ns(joints[-1].header.stamp)) < 2_000_000_000
    state = decode.JointMatcher(PANDA)(joints[-1])
    assert np.abs(state.positions - PANDA.home).max() < 0.06
    assert images[-1].header.frame_id == infos[-1].header.frame_id == "camera_optical_frame"
    assert (infos[-1].width, infos[-1].height) == (images[-1].width, images[-1].height)
    assert infos[-1].distortion_model == "plumb_bob"
    assert "/clock" not in [name for name, _ in test_node.node.get_topic_names_and_types()]
    stamps = [decode.stamp_ns(message.header.stamp) for message in joints]
    assert stamps == sorted(set(stamps))
    assert twin.stop() == 0


@pytest.mark.graph
def test_twin_stands_in_for_an_arm_of_five_joints_and_a_jaw(
    start_node: Callable[..., Any], test_node: Any, tmp_path: Path
) -> None:
    arm = load_or_skip("so101")
    bundle = make_bundle(tmp_path, arm_name="so101").directory
    joints = test_node.listen(m.JOINT_STATES)
    twin = start_node("arm_twin", {"bundle": bundle, "arm": "so101"})
    test_node.spin_until(lambda: len(joints) > 20, 30.0, "joints")
    assert list(joints[-1].name) == [*arm.joint_names, "gripper"]
    state = decode.JointMatcher(arm)(joints[-1])
    assert np.abs(state.positions - arm.home).max() < 0.06
    assert arm.gripper is not None
    assert arm.gripper.closed_width - 0.005 < state.gripper_width < arm.gripper.open_width + 0.005
    assert twin.stop() == 0


@pytest.mark.graph
def test_twin_refuses_a_stalled_joint_that_the_arm_does_not_have(
    start_node: Callable[..., Any], tiny_bundle: Path
) -> None:
    twin = start_node("arm_twin", {"bundle": tiny_bundle, "stalled_joint": "elbow"})
    assert twin.wait(30.0) == 2
    assert "stalled_joint is 'elbow', expected one of: panda_joint1" in twin.output


def test_missing_opengl_is_one_sentence_that_names_the_packages() -> None:
    program = (
        "from rlfp_ros.simulation.mujoco_world import MujocoWorld\n"
        "from rlfp_ros.simulation.room_camera import MujocoCamera\n"
        "from rlfp_ros.simulation.mujoco_headless import mujoco\n"
        "def broken(*_): raise mujoco.FatalError('no OpenGL')\n"
        "mujoco.Renderer = broken\n"
        "import sys; sys.argv = ['rlfp']\n"
        "from rlfp_ros.simulation.room import load_room; from rlfp_ros.simulation.scene import load_scene\n"
        "from rlfp_ros.simulation.tasks.task import load_task; from rlfp_ros.control.arm import load_arm\n"
        "MujocoWorld(load_arm('panda'), load_task('reach'), load_room('twin_near'), load_scene())\n"
    )
    done = run_python("-c", program)
    assert "apt-get install libegl1" in done.stderr


def test_mujoco_is_one_of_the_versions_that_setup_cfg_allows() -> None:
    assert (4, 0) <= tuple(int(part) for part in mujoco.__version__.split(".")[:2]) < (5, 0)
