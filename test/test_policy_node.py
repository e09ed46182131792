"""Tests of the policy node in a process of its own, over real DDS."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Process, TestNode, longer_than
from fixture_bundle import POINTS, make_bundle
from joint_messages import in_order

from rlfp_ros.contract import load_bundle
from rlfp_ros.control import arm as arms
from rlfp_ros.control.policy import Policy
from rlfp_ros.episode import Episode
from rlfp_ros.nodes import messages
from rlfp_ros.recording import decode

pytestmark = pytest.mark.graph
PANDA = arms.load_arm("panda")
SECOND = 1_000_000_000
TICK = 4_166_667
START = 1_790 * SECOND


def features(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=0.3, size=(POINTS, 3)).astype(np.float32)


def joints(stamp: int, seed: int) -> arms.JointState:
    generator = np.random.default_rng(seed)
    return arms.JointState(
        stamp, np.array(PANDA.home) + generator.normal(scale=0.1, size=7), generator.normal(size=7), np.zeros(7), 0.04
    )


class Robot:
    """Publishes joints, features and episodes, and receives everything that the policy publishes."""

    def __init__(self, node: TestNode) -> None:
        self.node = node
        self.joint_states = node.publisher(messages.JOINT_STATES)
        self.features = node.publisher(messages.FEATURES)
        self.goal = node.publisher(messages.GOAL)
        self.episode = node.publisher(messages.EPISODE)
        self.residuals = node.listen(messages.RESIDUAL, messages.EVENTS)
        self.grippers = node.listen(messages.GRIPPER, messages.EVENTS)
        self.ready = node.listen(messages.EPISODE_READY)
        self.diagnostics = node.listen(messages.DIAGNOSTICS)

    def connected(self) -> None:
        self.node.connected(self.joint_states, self.features, self.goal, self.episode)
        for topic in (messages.RESIDUAL, messages.GRIPPER, messages.EPISODE_READY):
            self.node.spin_until(partial(self.node.node.count_publishers, topic.name))
        self.node.spin_for(0.2)  # the other direction of the match

    def move(self, state: arms.JointState) -> None:
        self.joint_states.publish(messages.joint_state_message(state, PANDA))

    def see(self, stamp: int, seed: int, frame: str = "camera_optical_frame") -> None:
        self.features.publish(messages.features_message(stamp, features(seed), frame))

    def acted(self, count: int) -> list[tuple[int, np.ndarray]]:
        """Stamp and twist of the first `count` residuals."""
        self.node.spin_until(lambda: len(self.residuals) >= count, what=f"{count} residuals")
        return [
            (decode.stamp_ns(message.header.stamp), decode.twist_from_message(message, "panda_link0"))
            for message in self.residuals
        ]

    def diagnosis(self, pattern: str) -> Any:
        def found() -> Any:
            for array in reversed(self.diagnostics):
                for status in array.status:
                    if status.name == "policy" and re.search(pattern, status.message):
                        return status
            return None

        return self.node.spin_until(found, what=f"diagnostics with {pattern!r}")


@pytest.fixture
def robot(test_node: TestNode) -> Robot:
    return Robot(test_node)


def test_the_residual_is_the_in_process_one_from_the_joints_at_the_image_s_stamp(
    robot: Robot, start_node: Callable[..., Process], tiny_bundle: Path
) -> None:
    start_node("policy", {"bundle": tiny_bundle})
    robot.connected()
    states = [joints(START + tick * TICK, tick) for tick in range(40)]
    for state in states:
        robot.move(state)
    robot.node.spin_for(0.3)  # all joint states are there: the newest is not the right one
    policy = Policy(load_bundle(tiny_bundle), PANDA)
    for number, tick in enumerate((8, 16, 24)):
        stamp = START + tick * TICK
        robot.see(stamp, tick)
        found_stamp, twist = robot.acted(number + 1)[number]
        expected = policy.act(features(tick), states[tick], stamp)
        assert found_stamp == stamp
        np.testing.assert_array_equal(twist, expected.twist)
        robot.node.spin_until(longer_than(robot.grippers, number))
        assert decode.gripper_from_message(robot.grippers[number]) == (stamp, expected.gripper_width)


def test_a_joint_space_bundle_s_residual_goes_out_as_joint_velocities(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path, name="joints", in_joint_space=True)
    joint_states, seen = test_node.publisher(messages.JOINT_STATES), test_node.publisher(messages.FEATURES)
    residuals = test_node.listen(messages.JOINT_RESIDUAL)
    start_node("policy", {"bundle": bundle.directory})
    test_node.connected(joint_states, seen)
    test_node.spin_until(lambda: test_node.node.count_publishers(messages.JOINT_RESIDUAL.name))
    test_node.spin_for(0.2)
    state = joints(START, 3)
    joint_states.publish(messages.joint_state_message(state, PANDA))
    seen.publish(messages.features_message(START, features(4), "camera_optical_frame"))
    test_node.spin_until(lambda: residuals)
    expected = Policy(bundle, PANDA).act(features(4), state, START)
    found = decode.joint_velocities_from_message(residuals[0], PANDA.joint_names)
    np.testing.assert_array_equal(found, expected.twist)
    assert expected.twist[[1, 2, 4, 6]].tolist() == [0.0] * 4
    assert np.abs(expected.twist[[0, 3, 5]]).max() > 0


def test_missed_deadlines_and_living_publishers_of_its_features_are_in_its_diagnostics(
    robot: Robot, start_node: Callable[..., Process], tiny_bundle: Path
) -> None:
    start_node("policy", {"bundle": tiny_bundle})
    robot.connected()
    robot.move(joints(START, 1))
    robot.see(START, 2)
    robot.acted(1)

    def reported() -> bool:
        newest = [status for array in robot.diagnostics for status in array.status if status.name == "policy"][-1:]
        values = {
            value.key: int(value.value) for status in newest for value in status.values if "features_" in value.key
        }
        missed, alive = (
            values.get(f"perception/features_{name}", 0) for name in ("deadlines_missed", "publishers_alive")
        )
        return missed > 0 and alive == 1

    robot.node.spin_until(reported, what="a missed deadline in the diagnostics")


def test_between_two_joint_states_the_older_is_taken(
    robot: Robot, start_node: Callable[..., Process], tiny_bundle: Path
) -> None:
    start_node("policy", {"bundle": tiny_bundle})
    robot.connected()
    states = [joints(START, 1), joints(START + TICK, 2)]
    for state in states:
        robot.move(state)
    robot.node.spin_for(0.1)
    robot.see(START + TICK - 1, 5)
    expected = Policy(load_bundle(tiny_bundle), PANDA).act(features(5), states[0], 0)
    np.testing.assert_array_equal(robot.acted(1)[0][1], expected.twist)


def test_features_wait_for_the_joints_of_their_time(
    robot: Robot, start_node: Callable[..., Process], tiny_bundle: Path
) -> None:
    start_node("policy", {"bundle": tiny_bundle})
    robot.connected()
    robot.move(joints(START, 1))
    robot.see(START + TICK, 5)
    robot.node.spin_for(0.3)
    assert not robot.residuals
    later = joints(START + TICK, 2)
    robot.move(later)
    expected = Policy(load_bundle(tiny_bundle), PANDA).act(features(5), later, 0)
    np.testing.assert_array_equal(robot.acted(1)[0][1], expected.twist)


def test_joints_are_matched_by_name_and_a_missing_one_is_named(
    robot: Robot, start_node: Callable[..., Process], tiny_bundle: Path
) -> None:
    process = start_node("policy", {"bundle": tiny_bundle})
    robot.connected()
    state = joints(START, 1)
    message = messages.joint_state_message(state, PANDA)
    order = np.random.default_rng(0).permutation(9)
    shuffled = in_order(message, order)
    robot.joint_states.publish(shuffled)
    robot.node.spin_for(0.1)
    robot.see(START, 5)
    expected = Policy(load_bundle(tiny_bundle), PANDA).act(features(5), state, 0)
    np.testing.assert_array_equal(robot.acted(1)[0][1], expected.twist)

    shuffled.header.stamp = messages.stamp_message(START + TICK)
    shuffled.name = [name if name != "panda_joint3" else "other" for name in shuffled.name]
    robot.joint_states.publish(shuffled)
    robot.node.spin_for(0.1)
    robot.see(START + TICK, 6)
    status = robot.diagnosis("joint panda_joint3 is missing")
    assert status.level == b"\x02"
    assert len(robot.residuals) == 1
    assert "Traceback" not in process.output


def test_a_new_episode_forgets_the_last_one_and_is_answered(
    robot: Robot, start_node: Callable[..., Process], tiny_bundle: Path
) -> None:
    start_node("policy", {"bundle": tiny_bundle})
    robot.connected()
    bundle = load_bundle(tiny_bundle)
    for tick in range(3):
        robot.move(joints(START + tick * TICK, tick))
    for tick in range(3):
        robot.see(START + tick * TICK, tick)
        robot.acted(tick + 1)
    end = START + 2 * TICK
    robot.episode.publish(messages.episode_message(Episode(id=4, phase="reset", stamp=end)))
    robot.node.spin_until(lambda: robot.ready)
    assert json.loads(robot.ready[0].data) == {"node": "policy", "id": 4}
    robot.see(end, 9)  # late, from the episode before
    robot.move(joints(end, 9))
    after = joints(end + TICK, 7)
    robot.move(after)
    robot.see(end + TICK, 8)
    stamp, twist = robot.acted(4)[3]
    fresh = Policy(bundle, PANDA).act(features(8), after, 0)  # neither stacked features nor state of the last episode
    assert stamp == end + TICK
    np.testing.assert_array_equal(twist, fresh.twist)
    robot.episode.publish(messages.episode_message(Episode(id=4, phase="running", stamp=end)))
    robot.node.spin_for(0.2)
    assert len(robot.ready) == 1


def test_an_image_shown_again_gets_the_same_answer_and_counts_once(
    robot: Robot, start_node: Callable[..., Process], tiny_bundle: Path
) -> None:
    start_node("policy", {"bundle": tiny_bundle})
    robot.connected()
    policy = Policy(load_bundle(tiny_bundle), PANDA)
    states = [joints(START + tick * TICK, tick) for tick in range(3)]
    for state in states:
        robot.move(state)
    for number, tick in enumerate((0, 1, 1, 2)):
        robot.see(START + tick * TICK, tick)
        robot.acted(number + 1)
    expected = [policy.act(features(tick), states[tick], START + tick * TICK).twist for tick in range(3)]
    said = [twist for _, twist in robot.acted(4)]
    for found, wanted in zip(said, (expected[0], expected[1], expected[1], expected[2]), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_goals_in_base_and_optical_frame_are_taken_and_others_refused(
    robot: Robot, start_node: Callable[..., Process], tiny_goal_bundle: Path
) -> None:
    start_node("policy", {"bundle": tiny_goal_bundle})
    robot.connected()
    bundle = load_bundle(tiny_goal_bundle)
    T_base_camera = bundle.contract.camera.T_base_camera.matrix()
    policy = Policy(bundle, PANDA)
    point = np.array([0.1, -0.05, 0.6])
    goals = [None, ("panda_link0", point), ("camera_optical_frame", point), ("map", point)]
    expected_goals = [None, point, T_base_camera[:3, :3] @ point + T_base_camera[:3, 3], None]
    for number, (goal, expected_goal) in enumerate(zip(goals, expected_goals, strict=True)):
        if goal is not None:
            robot.goal.publish(messages.goal_message(0, goal[1], goal[0]))
            robot.node.spin_for(0.1)
        stamp = START + number * TICK
        robot.move(joints(stamp, number))
        robot.see(stamp, number)
        expected = policy.act(features(number), joints(stamp, number), stamp, expected_goal)
        _, twist = robot.acted(number + 1)[number]
        np.testing.assert_array_equal(twist, expected.twist)
        assert robot.residuals[number].header.frame_id == "panda_link0"
    robot.diagnosis("frame_id is 'map', expected the base frame 'panda_link0'")


def test_features_of_another_bundle_are_refused(
    robot: Robot, start_node: Callable[..., Process], tiny_bundle: Path
) -> None:
    start_node("policy", {"bundle": tiny_bundle})
    robot.connected()
    robot.move(joints(START, 1))
    robot.features.publish(messages.features_message(START, np.zeros((POINTS + 1, 3), np.float32), "c"))
    robot.diagnosis(r"features are \[5, 3\], expected \[4, 3\]; give perception and policy the same bundle")


def test_a_bundle_of_another_arm_is_refused_in_one_line(
    start_node: Callable[..., Process], tiny_bundle: Path, tmp_path: Path
) -> None:
    panda = Path(__file__).parent.parent / "config" / "arms" / "panda.yaml"
    text = panda.read_text().replace("name: panda\n", "name: other\n", 1).replace("panda_joint", "arm_joint")
    (tmp_path / "other.yaml").write_text(text)
    process = start_node("policy", {"bundle": tiny_bundle, "arm": tmp_path / "other.yaml"})
    assert process.wait() == 2
    assert "arm is 'other'" in process.output
    assert "panda_joint7; leave the arm out, or choose another bundle" in process.output
    assert len(process.output.strip().splitlines()) == 1


def test_an_altered_bundle_is_refused_in_one_line(
    start_node: Callable[..., Process], tiny_bundle: Path, tmp_path: Path
) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(tiny_bundle, copy)
    content = bytearray((copy / "policy.onnx").read_bytes())
    content[-1] ^= 1
    (copy / "policy.onnx").write_bytes(content)
    process = start_node("policy", {"bundle": copy})
    assert process.wait() == 2
    assert "policy.onnx: sha256 is" in process.output
    assert len(process.output.strip().splitlines()) == 1
