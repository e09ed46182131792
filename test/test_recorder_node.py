"""Tests of the recorder in a process of its own, with real DDS and real files: bags, parameters and diagnostics."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Process, TestNode, wait_until
from recorded_robot import PANDA, Publisher, names, state
from std_msgs.msg import String

from rlfp_ros.nodes import messages
from rlfp_ros.recording.reader import BagReader

pytestmark = pytest.mark.graph


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
            images = list(bag.messages({"/camera/image_raw"}))
            assert [int(bag.decode(image).data[0]) for image in images] == [0, 10, 20, 30, 40]
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


def test_after_kill_9_the_next_recorder_repairs_the_bag_and_records(
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
        (
            {"topics": "[joint states]"},
            "topics has 'joint states', which is not the name of a topic (topic name",
        ),
        ({"topics": "['']"}, "topics has '', which is not the name of a topic"),
        ({"topic": "a"}, "topic is not a parameter of this node, which has: directory, images"),
    ],
)
def test_wrong_parameters_end_in_one_line_and_exit_code_2(
    start_node: Callable[..., Process], parameters: dict[str, Any], words: str
) -> None:
    process = start_node("recorder", parameters)
    assert process.wait() == 2
    assert words in process.output
    assert len(process.output.strip().splitlines()) == 1


def test_diagnostics_list_the_recorded_topics(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path
) -> None:
    robot = Publisher(test_node)
    start_node("recorder", {"directory": tmp_path / "bags"})
    robot.connected()
    robot.joint_states.publish(messages.joint_state_message(state(1), PANDA))
    test_node.spin_until(lambda: robot.messages_recorded() >= 1)
    assert robot.status()[0] in ("recording", "1 messages dropped so far")
