"""Tests of every arm in config/arms/: kinematics, limits, capsules, the safety filter and both simulators."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import coal
import numpy as np
import pinocchio as pin
import pytest
from conftest import load_or_skip
from small_worlds import make_world

from benchmarks.safety import contract_of, run_hostile
from rlfp_ros import paths
from rlfp_ros.control.arm import Arm, load_arm
from rlfp_ros.control.arm_parts import Capsule
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.distances import Distances
from rlfp_ros.control.kinematics import Kinematics
from rlfp_ros.control.policy import residual_of
from rlfp_ros.control.residual_controller import ResidualController
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.deployment import SIMULATION_SETTINGS, Deployment
from rlfp_ros.simulation.mujoco_world import MujocoWorld
from rlfp_ros.simulation.pybullet_world import PybulletWorld
from rlfp_ros.simulation.randomization import load_profile
from rlfp_ros.simulation.room import load_room
from rlfp_ros.simulation.scene import load_scene
from rlfp_ros.simulation.tasks.task import TASKS, load_task
from rlfp_ros.simulation.urdf import read_urdf, simulation_urdf

NAMES = sorted(path.stem for path in (paths.share_directory() / "config" / "arms").glob("*.yaml"))


@pytest.fixture(params=NAMES)
def arm(request: pytest.FixtureRequest) -> Arm:
    return load_or_skip(request.param)


def test_the_six_arms_ship() -> None:
    assert {"panda", "fr3", "ur5e", "iiwa", "xarm6", "so101"} <= set(NAMES)


@pytest.mark.parametrize("name", ["ur5e", "so101"])
def test_a_model_that_is_not_installed_is_one_sentence_with_the_command(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm = load_arm(name)
    monkeypatch.setattr("rlfp_ros.control.arm.data_folder", lambda package: None)
    with pytest.raises(ConfigurationError) as refused:
        Kinematics(arm)
    text = str(refused.value)
    assert f"config/arms/{name}.yaml: urdf needs the Python package" in text
    assert "requirement set 'arms'; run: " in text
    assert f"-m pip install '{arm.urdf.partition(':')[0].replace('_', '-')}" in text
    assert "\n" not in text


def test_at_home_the_tool_points_down_inside_its_box_and_nothing_is_near(arm: Arm) -> None:
    kinematics, settings = Kinematics(arm), ControllerSettings()
    pose, tool = kinematics.forward(np.array(arm.home)), arm.tool_limits
    assert pose[:3, 2] == pytest.approx([0.0, 0.0, -1.0], abs=0.01)
    room = np.minimum(0.1, 0.25 * np.subtract(tool.upper, tool.lower))  # m; a small arm has a small box
    assert (np.array(tool.lower) + room < pose[:3, 3]).all()
    assert (pose[:3, 3] < np.array(tool.upper) - room).all()
    distances = Distances.with_margins_of(settings, kinematics)
    assert distances.spare(np.array(arm.home)).min() > 0.05


def test_limits_are_not_wider_than_the_urdfs_and_name_their_source(arm: Arm) -> None:
    model = Kinematics(arm).model
    assert len(arm.limits.source) > 20
    assert (np.array(arm.limits.lower) >= model.lowerPositionLimit - 1e-3).all()
    assert (np.array(arm.limits.upper) <= model.upperPositionLimit + 1e-3).all()


def corners(shape: coal.CollisionGeometry) -> np.ndarray:
    """[N, 3] m, points of the surface of a mesh, a sphere or a cylinder."""
    if isinstance(shape, coal.Sphere):
        directions = np.random.default_rng(0).normal(size=(200, 3))
        return shape.radius * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    if isinstance(shape, coal.Cylinder):
        turn = np.linspace(0, 2 * np.pi, 100)
        rim = shape.radius * np.stack((np.cos(turn), np.sin(turn)), axis=1)
        return np.vstack([np.column_stack((rim, np.full(len(rim), end * shape.halfLength))) for end in (-1, 1)])
    return shape.vertices()


def test_capsules_enclose_the_collision_meshes_and_keep_near_to_them(arm: Arm) -> None:
    kinematics = Kinematics(arm)
    urdf = ElementTree.tostring(read_urdf(arm), encoding="unicode")
    meshes = pin.buildGeomFromUrdfString(kinematics.model, urdf, pin.GeometryType.COLLISION)
    fingers = ("finger",) if arm.gripper else ()
    links: dict[str, list[np.ndarray]] = {}  # points of all of a link's meshes, in the link
    for mesh in meshes.geometryObjects:
        frame = kinematics.model.frames[mesh.parentFrame]
        in_link = frame.placement.inverse() * mesh.placement
        points = corners(mesh.geometry) @ in_link.rotation.T + in_link.translation
        links.setdefault(frame.name, []).append(points)
    for link, parts in links.items():
        vertices = np.vstack(parts)
        capsules = [capsule for capsule in arm.capsules if capsule.link == link]
        if not capsules:
            assert any(word in link for word in fingers), link
            continue
        outside = np.full(len(vertices), np.inf)
        for capsule in capsules:
            start, along = np.array(capsule.start), np.array(capsule.end) - np.array(capsule.start)
            place = np.clip((vertices - start) @ along / max(along @ along, 1e-12), 0, 1)
            distance = np.linalg.norm(vertices - start - place[:, None] * along, axis=1)
            outside = np.minimum(outside, distance - capsule.radius)
            ends = np.array((capsule.start, capsule.end))
            bulge = np.maximum(ends.max(0) + capsule.radius - vertices.max(0), vertices.min(0) - ends.min(0))
            assert bulge.max() < 0.11, f"{link}: a capsule reaches far beyond the mesh"
        assert outside.max() < 0.006, link


@pytest.mark.parametrize("faults", [False, True])
def test_hostile_inputs_never_leave_the_published_limits(arm: Arm, faults: bool) -> None:
    judge, _ = run_hostile(arm, seed=11 + faults, ticks=600, faults=faults)
    assert judge.samples >= 2400


@pytest.mark.parametrize("seed", [10, 21])
def test_an_arm_with_little_jerk_keeps_its_tools_speed_while_a_stop_sets_in(seed: int) -> None:
    """Runs that turned the xArm's tool at 1.501 and 1.505 rad/s when only a stop's beginning and end were checked."""
    judge, _ = run_hostile(load_arm("xarm6"), seed, ticks=1800, faults=seed % 2 == 1)
    assert judge.moving > 2000


def test_the_fr3_stands_in_the_pandas_shells() -> None:
    """Its URDF draws the Panda's meshes: the two arms are the same but for 1.6 mm at the tool's point."""
    fr3, panda = load_arm("fr3"), load_arm("panda")

    def shells(arm: Arm, prefix: str) -> list[Capsule]:
        return [shell.model_copy(update={"link": shell.link.removeprefix(prefix)}) for shell in arm.capsules]

    assert shells(fr3, "fr3_") == shells(panda, "panda_")
    random = np.random.default_rng(0)
    for _ in range(10):
        joints = random.uniform(fr3.limits.lower, fr3.limits.upper)
        ours, theirs = Kinematics(fr3).forward(joints), Kinematics(panda).forward(joints)
        assert ours[:3, :3] == pytest.approx(theirs[:3, :3], abs=1e-6)
        assert theirs[:3, 3] - ours[:3, 3] == pytest.approx(0.0016 * ours[:3, 2], abs=1e-4)


def test_speeds_near_the_ends_are_the_published_formulas() -> None:
    """Values of libfranka's computeUpperLimitsJointVelocity and its lower twin, before their tolerance."""
    fr3 = load_arm("fr3")
    least, most = fr3.limits.velocity_bounds(np.array([2.5, 1.0, 0.0, -0.5, 2.75, 3.0, -3.0]))
    expected = [(12.0 * 0.2501) ** 0.5 - 0.3, (5.17 * 0.7918) ** 0.5 - 0.2, 2.62, (8.0 * 0.3542) ** 0.5 - 0.3]
    assert most[:4] == pytest.approx(expected)
    assert most[4:] == pytest.approx([(34.0 * 0.0601) ** 0.5 - 0.35, (11.0 * 1.5205) ** 0.5 - 0.35, 5.26])
    assert least[6] == pytest.approx(-((34.0 * 0.0196) ** 0.5 - 0.35))
    assert least[:3] == pytest.approx([-2.62] * 3)
    ends = np.array(fr3.limits.upper)
    assert fr3.limits.velocity_bounds(ends)[1] == pytest.approx(np.zeros(7), abs=0.14)
    panda = load_arm("panda").limits
    assert panda.velocity_bounds(np.zeros(7))[1] == pytest.approx(panda.velocity)


def test_a_controller_is_made_for_each(arm: Arm) -> None:
    controller = ResidualController(arm, contract_of(arm))
    assert controller.has_gripper == (arm.gripper is not None)


@pytest.mark.parametrize("world", ["pybullet", "mujoco"])
@pytest.mark.parametrize(
    ("name", "plays"),
    [
        *((name, "reach") for name in ("ur5e", "so101", "iiwa", "xarm6")),
        *((name, "push") for name in ("ur5e", "so101", "iiwa", "xarm6", "fr3")),
        ("fr3", "lift"),
    ],
)
def test_the_arm_plays_in_both_simulators(name: str, plays: str, world: str) -> None:
    """The task's teacher, with the block and the regions that sim/tasks/<task>.yaml has for the arm."""
    arm, task, action = load_or_skip(name), load_task(plays), TASKS[plays].action
    made = make_world(world, arm, task)
    deployment = Deployment(made, TASKS[plays], SIMULATION_SETTINGS)
    for seed in (1, 2, 3):
        deployment.reset(seed)
        deployment.answer(residual_of(np.zeros(len(action.components)), action, made.stamp_ns))
        while deployment.advance():
            deployment.answer(residual_of(task.teacher(made, action), action, made.stamp_ns))
        assert made.outcome is not None
        assert made.outcome.success, seed
    made.close()


@pytest.mark.parametrize("name", ["iiwa", "xarm6", "ur5e"])
def test_the_rods_end_is_at_the_same_place_for_kinematics_and_both_simulators(name: str) -> None:
    arm = load_or_skip(name)
    pointer, random = arm.pointer, np.random.default_rng(3)
    assert pointer is not None
    kinematics, flange = (
        Kinematics(arm),
        Kinematics(arm.model_copy(update={"pointer": None, "tool_frame": pointer.link})),
    )
    scene = load_scene(image_size=16)
    bullet = PybulletWorld(arm, load_task("reach"), load_profile("none"), scene)
    mujoco = MujocoWorld(arm, load_task("reach"), load_room("twin_near"), scene)
    bullet.reset(0)
    mujoco.reset(0)
    for _ in range(5):
        joints = np.array(arm.home) + random.uniform(-0.4, 0.4, len(arm.home))
        bullet.move_arm(joints, 0.0)
        mujoco.move_arm(joints, 0.0)
        tool, mount = kinematics.forward(joints), flange.forward(joints)
        assert tool[:3, :3] == pytest.approx(mount[:3, :3])
        assert tool[:3, 3] - mount[:3, 3] == pytest.approx((pointer.base + pointer.length) * mount[:3, 2])
        assert bullet.tool_position() == pytest.approx(tool[:3, 3], abs=1e-5)
        assert mujoco.tool_position() == pytest.approx(tool[:3, 3], abs=1e-5)
    bullet.close()
    mujoco.close()


def test_a_pointer_that_does_not_fit_the_arm_is_refused_by_field() -> None:
    arm = load_arm("xarm6")
    assert arm.pointer is not None
    elsewhere = arm.model_copy(update={"pointer": arm.pointer.model_copy(update={"link": "link9"})})
    with pytest.raises(
        ConfigurationError, match=r"config/arms/xarm6.yaml: pointer.link is 'link9', which is not a link"
    ):
        Kinematics(elsewhere)
    with pytest.raises(
        ConfigurationError, match=r"config/arms/xarm6.yaml: tool_frame is 'link6', which is a link .* a new one"
    ):
        Kinematics(arm.model_copy(update={"tool_frame": "link6"}))
    panda = load_arm("panda").model_dump()
    with pytest.raises(ValueError, match="gripper and pointer are given"):
        Arm.model_validate(panda | {"pointer": arm.pointer.model_dump()})


def test_moments_that_no_body_can_have_become_their_mean(capfd: pytest.CaptureFixture[str]) -> None:
    """Two links of the stock xArm6; PyBullet would say so on every load and turn them without inertia."""
    world = PybulletWorld(load_arm("xarm6"), load_task("reach"), load_profile("none"), load_scene(image_size=16))
    inertias = [world.client.getDynamicsInfo(world.arm_body, link)[2] for link in world.arm_links[1:]]
    world.close()
    assert np.array(inertias).min() > 0
    assert "inertia" not in capfd.readouterr().err


def test_a_wrong_urdf_is_refused_with_the_reason(tmp_path: Path) -> None:
    arm = load_arm("fr3")
    text = arm.urdf_path.read_text()
    wrong = tmp_path / "fr3.urdf"
    wrong.write_text(text.replace('ixx="0.1"', 'ixx="heavy"', 1))
    with pytest.raises(ConfigurationError, match=r"fr3.urdf: inertia of link 'fr3_link0': .*heavy"):
        simulation_urdf(arm.model_copy(update={"urdf": str(wrong)}))


def test_a_task_uses_its_files_values_for_the_arm() -> None:
    panda, so101 = load_task("reach"), load_task("reach")
    panda.fit_to(load_arm("panda"))
    so101.fit_to(load_arm("so101"))
    assert panda.settings == load_task("reach").settings
    assert so101.settings.region.upper[0] < panda.settings.region.lower[0]
    assert "arms" not in so101.settings.model_dump()
    wrong = panda.settings.model_copy(update={"arms": {"panda": {"colour": "red"}}})
    with pytest.raises(ConfigurationError, match=r"sim/tasks/reach.yaml: panda.*colour"):
        wrong.for_arm("panda")


def test_a_small_arm_has_its_camera_near() -> None:
    panda, so101 = load_scene(arm=load_arm("panda")).camera, load_scene(arm=load_arm("so101"), image_size=32).camera
    assert panda == load_scene().camera
    distance = [np.linalg.norm(np.subtract(camera.position, camera.target)) for camera in (panda, so101)]
    assert distance[1] < 0.6 * distance[0]
    assert (so101.width, so101.height) == (32, 32)
    load_or_skip("so101")
    task = load_task("push")
    world = PybulletWorld(
        load_arm("so101"), task, load_profile("train"), load_scene(image_size=32, arm=load_arm("so101"))
    )
    for seed in range(5):
        world.reset(seed)
        pixels = world.camera.project(task.keypoint_positions(world)[:2])  # brick and tool
        assert ((pixels > 0) & (pixels < 31)).all()
    world.close()


def test_a_jaw_opens_by_the_width_that_is_asked_for() -> None:
    """From the meshes of the SO-101: how far apart the jaws are at the tool's point, and in the simulators by name."""
    arm = load_or_skip("so101")
    gripper = arm.gripper
    assert gripper is not None
    urdf = ElementTree.tostring(read_urdf(arm), encoding="unicode")
    model = pin.buildModelFromUrdf(str(arm.urdf_path))
    geometry = pin.buildGeomFromUrdfString(model, urdf, pin.GeometryType.COLLISION)
    jaw = next(shape for shape in geometry.geometryObjects if "moving_jaw" in shape.name)
    for width in (gripper.closed_width, 0.02, 0.04, gripper.open_width):
        data, q = model.createData(), pin.neutral(model)
        q[model.joints[model.getJointId("gripper")].idx_q] = gripper.positions(width)[0]
        assert gripper.width(gripper.positions(width)) == pytest.approx(width)
        pin.framesForwardKinematics(model, data, q)
        placed = data.oMi[jaw.parentJoint] * jaw.placement
        in_tool = data.oMf[model.getFrameId(arm.tool_frame)].actInv(placed)
        points = jaw.geometry.vertices() @ in_tool.rotation.T + in_tool.translation
        pad = points[np.abs(points[:, 2]) < 0.006]  # at the height of the tool's point; the other jaw is at x = 0
        assert -pad[:, 0].max() == pytest.approx(width, abs=0.0015)
