"""Tests of kinematics and capsule distances, against Pinocchio, coal, PyBullet and finite differences."""

from __future__ import annotations

import coal
import numpy as np
import pinocchio as pin
import pytest
from conftest import load_or_skip

from rlfp_ros.control.arm import Arm, load_arm
from rlfp_ros.control.distances import Distances
from rlfp_ros.control.kinematics import Kinematics
from rlfp_ros.schema import ConfigurationError


@pytest.fixture(scope="module")
def arm() -> Arm:
    return load_arm("panda")


@pytest.fixture(scope="module")
def kinematics(arm: Arm) -> Kinematics:
    return Kinematics(arm)


def configurations(arm: Arm, count: int, seed: int) -> np.ndarray:
    """Draw [count, J] rad over the whole ranges of the joints."""
    return np.random.default_rng(seed).uniform(arm.limits.lower, arm.limits.upper, (count, len(arm.joint_names)))


def test_tool_agrees_with_pybullet(arm: Arm, kinematics: Kinematics) -> None:
    pybullet = pytest.importorskip("pybullet")
    client = pybullet.connect(pybullet.DIRECT)
    try:
        body = pybullet.loadURDF(str(arm.urdf_path), useFixedBase=True, physicsClientId=client)
        info = [pybullet.getJointInfo(body, joint, client) for joint in range(pybullet.getNumJoints(body, client))]
        joints = [next(entry[0] for entry in info if entry[1].decode() == name) for name in arm.joint_names]
        tool = next(entry[0] for entry in info if entry[12].decode() == arm.tool_frame)
        for q in configurations(arm, 20, seed=1):
            for joint, value in zip(joints, q, strict=True):
                pybullet.resetJointState(body, joint, value, physicsClientId=client)
            state = pybullet.getLinkState(body, tool, computeForwardKinematics=True, physicsClientId=client)
            transform = kinematics.forward(q)
            assert transform[:3, 3] == pytest.approx(state[4], abs=1e-5)
            rotation = np.array(pybullet.getMatrixFromQuaternion(state[5])).reshape(3, 3)
            assert transform[:3, :3] == pytest.approx(rotation, abs=1e-5)
    finally:
        pybullet.disconnect(client)


def test_jacobian_is_the_derivative_of_the_tool(arm: Arm, kinematics: Kinematics) -> None:
    step = 1e-6
    for q in configurations(arm, 10, seed=2):
        jacobian = kinematics.jacobian(q)
        for joint in range(len(q)):
            moved = q.copy()
            moved[joint] += step
            before, after = kinematics.forward(q), kinematics.forward(moved)
            assert jacobian[:3, joint] == pytest.approx((after[:3, 3] - before[:3, 3]) / step, abs=1e-4)
            turn = pin.log3(after[:3, :3] @ before[:3, :3].T) / step
            assert jacobian[3:, joint] == pytest.approx(turn, abs=1e-4)


def test_joint_order_of_the_arm_is_followed(arm: Arm, kinematics: Kinematics) -> None:
    order = np.array([3, 0, 6, 1, 5, 2, 4])
    limits = {
        name: tuple(np.array(getattr(arm.limits, name))[order])
        for name in type(arm.limits).model_fields
        if name not in ("source", "velocity_near_ends")
    }
    shuffled = arm.model_copy(
        update={
            "joint_names": tuple(np.array(arm.joint_names)[order].tolist()),
            "home": tuple(np.array(arm.home)[order]),
            "limits": arm.limits.model_copy(update=limits),
        }
    )
    other = Kinematics(shuffled)
    q = configurations(arm, 1, seed=3)[0]
    assert other.forward(q[order]) == pytest.approx(kinematics.forward(q))
    assert other.jacobian(q[order]) == pytest.approx(kinematics.jacobian(q)[:, order])


def test_a_joint_that_the_urdf_lacks_is_named(arm: Arm) -> None:
    wrong = arm.model_copy(update={"joint_names": ("elbow", *arm.joint_names[1:])})
    with pytest.raises(ConfigurationError, match="elbow"):
        Kinematics(wrong)


def test_distances_know_a_folded_arm_from_a_free_one(arm: Arm, kinematics: Kinematics) -> None:
    distances = Distances(kinematics, margin=0.02, table_margin=0.005, influence=0.05)
    home = np.array(arm.home)
    assert distances.clear(home)
    assert distances.spare(home).min() > 0.05
    folded = np.array([0.0, -0.3, 0.0, -3.0, 0.0, 0.3, 0.0])
    assert not distances.clear(folded)
    into_table = np.array([0.0, 1.6, 0.0, -0.3, 0.0, 1.6, 0.0])
    assert not distances.clear(into_table)


ARMS = ("panda", "iiwa", "xarm6", "so101", "ur5e", "fr3")


def loaded(name: str) -> Kinematics:
    """An arm with its kinematics, and a leaning post beside it."""
    leaning = {"xyz": (0.5, 0.2, 0.4), "quaternion_xyzw": (0.1, 0.3, 0.3, 0.9)}
    post = {"name": "post", "size": (0.2, 0.3, 0.8), "pose": leaning}
    return Kinematics(Arm.model_validate(load_or_skip(name).model_dump() | {"obstacles": [post]}))


@pytest.mark.parametrize("name", ARMS)
def test_tool_and_jacobian_agree_with_pinocchio(name: str) -> None:
    kinematics = loaded(name)
    arm, model, data = kinematics.arm, kinematics.model, kinematics.data
    to_base, tool = kinematics.base_placement.inverse(), model.getFrameId(arm.tool_frame, pin.FrameType.BODY)
    for q in configurations(arm, 50, seed=3):
        position, rotation, jacobian = kinematics.evaluate(q)
        expected = pin.computeFrameJacobian(model, data, kinematics.joints(q), tool, pin.LOCAL_WORLD_ALIGNED)
        placement = to_base * data.oMf[tool]
        assert position == pytest.approx(placement.translation, abs=1e-13)
        assert rotation == pytest.approx(placement.rotation, abs=1e-13)
        expected = np.kron(np.eye(2), to_base.rotation) @ expected
        order = slice(None) if kinematics.order is None else kinematics.order
        assert jacobian == pytest.approx(expected[:, order], abs=1e-13)


def coal_distances(kinematics: Kinematics, distances: Distances, joints: np.ndarray) -> np.ndarray:
    """The distances of all pairs less `margin`, from coal's shapes and Pinocchio's frames."""
    arm, model, data = kinematics.arm, kinematics.model, kinematics.data
    pin.framesForwardKinematics(model, data, kinematics.joints(joints))
    shapes: dict[str, tuple[coal.CollisionGeometry, pin.SE3]] = {}
    for number, capsule in enumerate(arm.capsules):
        start, end = np.array(capsule.start), np.array(capsule.end)
        length = float(np.linalg.norm(end - start))
        along = (end - start) / length if length > 0 else np.array([0.0, 0.0, 1.0])
        turn = pin.Quaternion.FromTwoVectors(np.array([0.0, 0.0, 1.0]), along).matrix()
        pose = data.oMf[model.getFrameId(capsule.link, pin.FrameType.BODY)] * pin.SE3(turn, 0.5 * (start + end))
        shapes[f"{capsule.link}_{number}"] = coal.Capsule(capsule.radius, length), pose
    base = kinematics.base_placement
    height = np.array([0.0, 0.0, arm.table_height or 0.0])
    shapes["table"] = coal.Halfspace(np.array([0.0, 0.0, 1.0]), 0.0), base * pin.SE3(np.eye(3), height)
    for obstacle in arm.obstacles:
        box = coal.Box(np.array(obstacle.size))
        shapes[f"obstacle {obstacle.name}"] = box, base * pin.SE3(obstacle.pose.matrix())
    found = []
    for names in distances.names:
        (one, one_pose), (other, other_pose) = (shapes[name] for name in names)
        placed = [coal.Transform3s(pose.rotation, pose.translation) for pose in (one_pose, other_pose)]
        found.append(coal.distance(one, placed[0], other, placed[1], coal.DistanceRequest(), coal.DistanceResult()))
    return np.array(found)


@pytest.mark.parametrize("name", ARMS)
def test_distances_agree_with_coal(name: str) -> None:
    kinematics = loaded(name)
    distances = Distances(kinematics, margin=0.0, table_margin=0.0, influence=0.05)
    met = np.zeros(len(distances.names), bool)
    for q in configurations(kinematics.arm, 60, seed=4):
        ours, theirs = distances.spare(q), coal_distances(kinematics, distances, q)
        apart = theirs > 0.0
        assert ours[apart] == pytest.approx(theirs[apart], abs=1e-5)  # coal's own tolerance is 1e-6
        assert (ours[theirs < -1e-6] < 0.0).all()
        met |= apart & (theirs < 0.05)
    assert met.sum() > 10


@pytest.mark.parametrize("name", ARMS)
def test_the_bound_that_saves_computing_never_exceeds_the_distance(name: str) -> None:
    kinematics = loaded(name)
    distances = Distances(kinematics, margin=0.02, table_margin=0.005, influence=0.05, obstacle_margin=0.02)
    for q in configurations(kinematics.arm, 50, seed=5):
        smallest = distances.spare(q).min()
        for exact_below in (-np.inf, 0.0, 0.1):
            bound = distances.closest(q, exact_below)
            assert bound <= smallest + 1e-12
            if smallest <= exact_below:
                assert bound == smallest


@pytest.mark.parametrize("name", ARMS)
def test_the_nearest_pairs_are_found_nearest_first(name: str) -> None:
    kinematics, met = loaded(name), set()
    distances = Distances(kinematics, margin=0.02, table_margin=0.005, influence=0.05)
    for q in configurations(kinematics.arm, 200, seed=7):
        _, left = distances.closing(q, 4)
        spare = np.sort(distances.spare(q))
        assert left.tolist() == spare[spare < 0.05][:4].tolist()
        met.add(len(left))
    assert met >= {2, 3, 4}


def test_parting_rows_are_the_derivative_of_the_distance(arm: Arm, kinematics: Kinematics) -> None:
    distances = Distances(kinematics, margin=0.0, table_margin=0.0, influence=0.5)
    step, checked = 1e-5, 0
    for q in configurations(arm, 30, seed=6):
        rows, left = distances.closing(q, 1)
        if not len(left) or left[0] < 0.01:
            continue
        pair = int(np.argmin(distances.spare(q)))
        for joint in range(len(q)):
            moved = q.copy()
            moved[joint] += step
            rate = (distances.spare(moved)[pair] - distances.spare(q)[pair]) / step
            assert rows[0, joint] == pytest.approx(rate, abs=2e-2)
        checked += 1
    assert checked > 5
