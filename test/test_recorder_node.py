"""The recorder as a user meets it: a process of its own, real DDS, real files."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Process, TestNode, wait_until
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import String

from rlfp_ros.control import arm as arms
from rlfp_ros.nodes import messages
from rlfp_ros.nodes.messages import Episode
from rlfp_ros.recording.reader import BagReader

pytestmark = pytest.mark.graph
PANDA = arms.load_arm("panda")


def state(number: int) -> arms.JointState:
    return arms.JointState(number, np.full(7, float(number)), np.zeros(7), np.zeros(7), 0.04)


class Publisher:
    """A robot and a simulator."""

    def __init__(self, node: TestNode, camera_qos: QoSProfile | None = None) -> None:
        self.node = node
        self.joint_states = node.publisher(messages.JOINT_STATES)
        self.image = node.publisher(messages.IMAGE, camera_qos)
        self.episode = node.publisher(messages.EPISODE)
        self.ready = node.listen(messages.EPISODE_READY)
        self.diagnostics = node.listen(messages.DIAGNOSTICS)

    def connected(self) -> None:
        self.node.connected(self.joint_states, self.image, self.episode)
        self.node.spin_until(lambda: self.node.node.count_publishers(messages.EPISODE_READY.name))
        self.node.spin_for(0.5)  # until the recorder has seen what the publishers offer

    def reset(self, number: int) -> None:
        self.episode.publish(messages.episode_message(Episode(id=number, phase="reset")))
        answer = {"node": "recorder", "id": number}
        self.node.spin_until(lambda: answer in [json.loads(message.data) for message in self.ready])

    def messages_recorded(self) -> int:
        for array in reversed(self.diagnostics):
            for status in array.status:
                if status.name == "recorder":
                    return int({value.key: value.value for value in status.values}["messages"])
        return 0


def names(bag: BagReader, topic: str = "/joint_states") -> list[float]:
    return [float(bag.decode(message).position[0]) for message in bag.messages({topic})]


def test_each_episode_has_a_bag_of_its_own(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path
) -> None:
    robot = Publisher(test_node)
    process = start_node("recorder", {"directory": tmp_path / "bags"})
    robot.connected()
    for episode in range(3):
        robot.reset(episode)
        robot.episode.publish(String(data="no JSON"))
        for number in range(50):
            robot.joint_states.publish(messages.joint_state_message(state(100 * episode + number), PANDA))
            if number % 10 == 0:
                robot.image.publish(messages.image_message(number, np.full((84, 84, 3), number, np.uint8), "camera"))
        test_node.spin_for(0.2)
    assert process.stop() == 0
    assert "dropped: none" in process.output
    for episode in range(3):
        with BagReader(tmp_path / "bags" / f"episode_{episode:04d}") as bag:
            assert bag.complete
            assert names(bag) == [100.0 * episode + number for number in range(50)]
            pictures = list(bag.messages({"/camera/image_raw"}))
            assert [int(bag.decode(picture).data[0]) for picture in pictures] == [0, 10, 20, 30, 40]
            reset, unreadable = [bag.decode(message).data for message in bag.messages({"/episode"})]
            assert json.loads(reset)["id"] == episode
            assert unreadable == "no JSON"
            for message in bag.messages():
                assert 0 <= message.log_time_ns - message.publish_time_ns < 1_000_000_000
                assert message.publish_time_ns > 1_700_000_000_000_000_000


def test_one_bag_for_the_run_and_only_the_topics_asked_for(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path
) -> None:
    robot = Publisher(test_node)
    process = start_node("recorder", {"directory": tmp_path / "bags", "per_episode": False, "topics": "[joint_states]"})
    test_node.connected(robot.joint_states, robot.episode)
    test_node.spin_for(0.5)
    robot.reset(0)
    robot.joint_states.publish(messages.joint_state_message(state(1), PANDA))
    robot.reset(1)
    robot.joint_states.publish(messages.joint_state_message(state(2), PANDA))
    test_node.spin_for(0.2)
    assert process.stop(signal.SIGINT) == 0
    assert [path.name for path in (tmp_path / "bags").iterdir()] == ["run"]
    with BagReader(tmp_path / "bags" / "run") as bag:
        assert list(bag.topics) == ["/joint_states"]
        assert names(bag) == [1.0, 2.0]


def test_a_best_effort_camera_is_recorded_too(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path
) -> None:
    robot = Publisher(test_node, QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT))
    process = start_node("recorder", {"directory": tmp_path / "bags", "per_episode": False})
    robot.connected()
    for number in range(5):
        robot.image.publish(messages.image_message(number, np.full((8, 8, 3), number, np.uint8), "camera"))
        test_node.spin_for(0.05)
    assert process.stop() == 0
    with BagReader(tmp_path / "bags" / "run") as bag:
        assert len(list(bag.messages({"/camera/image_raw"}))) == 5
    text = (tmp_path / "bags" / "run" / "metadata.yaml").read_text()
    assert "reliability: best_effort" in text


def test_after_kill_9_the_next_recorder_repairs_the_bag_and_goes_on(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path
) -> None:
    robot = Publisher(test_node)
    bags = tmp_path / "bags"
    process = start_node("recorder", {"directory": bags, "per_episode": False})
    robot.connected()
    for number in range(20):
        robot.joint_states.publish(messages.joint_state_message(state(number), PANDA))
    file = bags / "run" / "run_0.mcap"
    # flushed within a quarter of a second of the first message
    test_node.spin_until(lambda: file.exists() and file.stat().st_size > 20 * 300)
    process.stop(signal.SIGKILL)
    assert not (bags / "run" / "metadata.yaml").exists()

    second = start_node("recorder", {"directory": bags, "per_episode": False})
    wait_until(lambda: "was not closed; recovered" in second.output)

    def recorded_again() -> bool:  # DDS counts the killed recorder as a subscriber for a while: ask for the file
        robot.joint_states.publish(messages.joint_state_message(state(99), PANDA))
        test_node.spin_for(0.05)
        if not (bags / "run_2").exists():
            return False
        with BagReader(bags / "run_2") as growing:
            return 99.0 in names(growing)

    test_node.spin_until(recorded_again)
    assert second.stop() == 0
    with BagReader(bags / "run") as bag:
        assert bag.complete
        kept = names(bag)
        assert kept == [float(number) for number in range(len(kept))]
        assert kept
    with BagReader(bags / "run_2") as bag:
        assert names(bag)[-1] == 99.0


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"directory": "/proc/nowhere"}, "recorder parameters: directory is '/proc/nowhere', which cannot be made"),
        ({"topic": "a"}, "topic is not a parameter of this node, which has: directory, images"),
    ],
)
def test_what_the_user_can_put_right_ends_in_one_line_and_code_2(
    start_node: Callable[..., Process], parameters: dict[str, Any], words: str
) -> None:
    process = start_node("recorder", parameters)
    assert process.wait() == 2
    assert words in process.output
    assert len(process.output.strip().splitlines()) == 1


def test_diagnostics_say_what_is_recorded(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path
) -> None:
    robot = Publisher(test_node)
    start_node("recorder", {"directory": tmp_path / "bags"})
    robot.connected()
    robot.joint_states.publish(messages.joint_state_message(state(1), PANDA))
    test_node.spin_until(lambda: robot.messages_recorded() >= 1)
    status = next(s for a in reversed(robot.diagnostics) for s in a.status if s.name == "recorder")
    assert re.search("recording|dropped", status.message)
