"""Forward kinematics, Jacobian and capsule distances, against PyBullet and finite differences."""

from __future__ import annotations

import numpy as np
import pinocchio as pin
import pytest

from rlfp_ros.control.arm import Arm, load_arm
from rlfp_ros.control.kinematics import Distances, Kinematics
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


def test_the_bound_that_saves_computing_never_exceeds_the_distance(arm: Arm, kinematics: Kinematics) -> None:
    distances = Distances(kinematics, margin=0.02, table_margin=0.005, influence=0.05)
    random = np.random.default_rng(4)
    for q in configurations(arm, 50, seed=5):
        distances.closing(q, 4)
        near = q + random.normal(0, 0.05, len(q))
        assert distances.at_least(near) <= distances.spare(near).min() + 1e-6


def test_pairs_that_were_far_off_are_looked_at_again_in_time(arm: Arm, kinematics: Kinematics) -> None:
    margins = {"margin": 0.02, "table_margin": 0.005, "influence": 0.05}
    distances, pairs_met = Distances(kinematics, **margins), set()
    random, q = np.random.default_rng(7), np.array(arm.home)
    lower, upper = np.array(arm.limits.lower), np.array(arm.limits.upper)
    goal = q
    for _ in range(2000):
        if np.abs(goal - q).max() < 0.05:
            goal = random.uniform(lower, upper)
        q = q + 0.02 * (goal - q) / np.abs(goal - q).max()
        rows, left = distances.closing(q, 4)
        expected_rows, expected_left = Distances(kinematics, **margins).closing(q, 4)
        np.testing.assert_array_equal(left, expected_left)
        np.testing.assert_array_equal(rows, expected_rows)
        assert distances.at_least(q) <= distances.spare(q).min()
        pairs_met.add(len(left))
    assert pairs_met == {0, 1, 2, 3, 4}


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
