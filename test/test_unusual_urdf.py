"""Tests of an arm whose URDF has another origin, another joint order, and joints with the names of links."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import yaml
from small_worlds import make_world

from benchmarks.safety import run_hostile, segment_distance
from rlfp_ros import paths
from rlfp_ros.commissioning.arm_check import Severity, check
from rlfp_ros.control.arm import Arm, data_folder, load_arm
from rlfp_ros.control.distances import Distances
from rlfp_ros.control.kinematics import Kinematics
from rlfp_ros.control.policy import residual_of
from rlfp_ros.simulation.deployment import SIMULATION_SETTINGS, Deployment
from rlfp_ros.simulation.tasks.task import TASKS, load_task

PANDA = load_arm("panda")
ORDER = np.array([3, 0, 6, 1, 5, 2, 4])  # of the Panda's joints in the unusual arm's file


@pytest.fixture(scope="module")
def unusual(tmp_path_factory: pytest.TempPathFactory) -> Arm:
    """The Panda on a pedestal of its URDF; two joints are named like links, and the file lists joints in ORDER."""
    folder = tmp_path_factory.mktemp("unusual")
    robot = ElementTree.fromstring(PANDA.urdf_path.read_bytes())
    for mesh in robot.iter("mesh"):
        mesh.set("filename", "package://franka_panda/" + mesh.get("filename", "").removeprefix("package://"))
    ElementTree.SubElement(robot, "link", name="room")
    pedestal = ElementTree.SubElement(robot, "joint", name="panda_link0", type="fixed")
    ElementTree.SubElement(pedestal, "origin", xyz="0.2 -0.4 0.7", rpy="0.1 -0.2 1.2")
    ElementTree.SubElement(pedestal, "parent", link="room")
    ElementTree.SubElement(pedestal, "child", link="panda_link0")
    hand = robot.find("joint[@name='panda_hand_joint']")
    assert hand is not None
    hand.set("name", "panda_hand")
    (folder / "unusual.urdf").write_bytes(ElementTree.tostring(robot))
    meshes = data_folder("pybullet_data")
    assert meshes is not None
    (folder / "franka_panda").symlink_to(meshes / "franka_panda")

    document = yaml.safe_load((paths.share_directory() / "config" / "arms" / "panda.yaml").read_text())
    document |= {"name": "unusual", "urdf": "unusual.urdf"}
    for section in (document, document["limits"]):
        for field, value in section.items():
            if isinstance(value, list) and len(value) == len(ORDER):
                section[field] = [value[index] for index in ORDER]
    (folder / "unusual.yaml").write_text(yaml.safe_dump(document))
    return load_arm(folder / "unusual.yaml")


def postures(count: int) -> np.ndarray:
    """Draw [count, 7] rad around home, in the order of the Panda's file."""
    return np.array(PANDA.home) + np.random.default_rng(5).uniform(-0.5, 0.5, (count, len(PANDA.home)))


def test_the_check_finds_no_error(unusual: Arm) -> None:
    assert [finding.text for finding in check(unusual) if finding.level is not Severity.OK] == []


def test_kinematics_and_distances_are_those_of_the_usual_arm(unusual: Arm) -> None:
    kinematics, expected = Kinematics(unusual), Kinematics(PANDA)
    distances, expected_distances = (Distances(each, 0.02, 0.005, 0.05) for each in (kinematics, expected))
    for q in postures(10):
        assert kinematics.forward(q[ORDER]) == pytest.approx(expected.forward(q), abs=1e-9)
        assert kinematics.tool_position(q[ORDER]) == pytest.approx(expected.tool_position(q), abs=1e-9)
        assert kinematics.jacobian(q[ORDER]) == pytest.approx(expected.jacobian(q)[:, ORDER], abs=1e-9)
        assert distances.spare(q[ORDER]) == pytest.approx(expected_distances.spare(q), abs=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_hostile_inputs_never_leave_the_published_limits(unusual: Arm, seed: int) -> None:
    sphere = unusual.capsules[-1].model_copy(update={"end": unusual.capsules[-1].start})
    arm = unusual.model_copy(update={"capsules": (*unusual.capsules, sphere)})
    judge, _ = run_hostile(arm, seed, 1500)
    assert judge.moving > 1000


@pytest.mark.parametrize("world", ["pybullet", "mujoco"])
def test_the_arm_plays_in_both_simulators(unusual: Arm, world: str) -> None:
    task, action = load_task("lift"), TASKS["lift"].action
    made = make_world(world, unusual, task)
    try:
        made.reset(0)
        for q in postures(3):
            made.move_arm(q[ORDER], 0.02)
            assert made.tool_position() == pytest.approx(Kinematics(PANDA).tool_position(q), abs=1e-4)
        deployment = Deployment(made, TASKS["lift"], SIMULATION_SETTINGS)
        deployment.reset(1)
        deployment.answer(residual_of(np.zeros(len(action.components)), action, made.stamp_ns))
        while deployment.advance():
            deployment.answer(residual_of(task.teacher(made, action), action, made.stamp_ns))
        assert made.outcome is not None
        assert made.outcome.success
    finally:
        made.close()


def test_the_judges_distance_between_segments_and_points() -> None:
    origin, x, y = np.zeros(3), np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
    assert segment_distance(origin, origin, x, x) == pytest.approx(1.0)
    assert segment_distance(origin, origin, x + y, x - y) == pytest.approx(1.0)
    assert segment_distance(x + y, x - y, origin, origin) == pytest.approx(1.0)
    assert segment_distance(origin, x, 3 * x + y, 2 * x + y) == pytest.approx(np.sqrt(2.0))


def test_a_home_with_a_wrong_tool_direction_gets_a_suggestion_that_the_check_accepts() -> None:
    wrong = PANDA.model_copy(update={"home": (*PANDA.home[:5], PANDA.home[5] - 1.2, PANDA.home[6])})
    text = "\n".join(finding.text for finding in check(wrong) if finding.level is Severity.ERROR)
    suggestion = text.partition("for example home: [")[2].partition("]")[0]
    corrected = PANDA.model_copy(update={"home": tuple(float(angle) for angle in suggestion.split(","))})
    assert [
        finding.text for finding in check(corrected) if finding.part == "home" and finding.level is Severity.ERROR
    ] == []
    unreachable = wrong.tool_limits.model_copy(update={"lower": (2.0, -0.3, 0.0), "upper": (3.0, 0.3, 0.5)})
    text = "\n".join(finding.text for finding in check(wrong.model_copy(update={"tool_limits": unreachable})))
    assert "no posture was found with the tool straight down in the middle of tool_limits" in text
