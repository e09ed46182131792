"""A robot that publishes for a recorder, and the reading of what was recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from conftest import TestNode
from rclpy.qos import QoSProfile

from rlfp_ros.control import arm as arms
from rlfp_ros.episode import Episode
from rlfp_ros.nodes import messages
from rlfp_ros.recording.reader import BagReader

PANDA = arms.load_arm("panda")


def state(number: int) -> arms.JointState:
    """Return a joint state with the number as its stamp and as the position of each joint."""
    return arms.JointState(number, np.full(7, float(number)), np.zeros(7), np.zeros(7), 0.04)


class Publisher:
    """Publishes like a robot with a camera and a simulator, and reads the recorder's answers and diagnostics."""

    def __init__(self, node: TestNode, camera_qos: QoSProfile | None = None) -> None:
        self.node = node
        self.joint_states = node.publisher(messages.JOINT_STATES)
        self.image = node.publisher(messages.IMAGE, camera_qos)
        self.episode = node.publisher(messages.EPISODE)
        self.ready = node.listen(messages.EPISODE_READY)
        self.diagnostics = node.listen(messages.DIAGNOSTICS)

    def connected(self) -> None:
        """Wait until the recorder and this node are connected."""
        self.node.connected(self.joint_states, self.image, self.episode)
        self.node.spin_until(lambda: self.node.node.count_publishers(messages.EPISODE_READY.name))
        self.node.spin_for(0.5)  # until the recorder has seen what the publishers offer

    def reset(self, number: int) -> None:
        """Begin an episode and wait for the recorder's answer."""
        self.episode.publish(messages.episode_message(Episode(id=number, phase="reset")))
        answer = {"node": "recorder", "id": number}
        self.node.spin_until(lambda: answer in [json.loads(message.data) for message in self.ready])

    def status(self) -> tuple[str, dict[str, str]]:
        """Return the recorder's last diagnostics: message and values."""
        for array in reversed(self.diagnostics):
            for status in array.status:
                if status.name == "recorder":
                    return status.message, {value.key: value.value for value in status.values}
        return "", {}

    def messages_recorded(self) -> int:
        """Return how many messages the recorder has reported."""
        return int(self.status()[1].get("messages", 0))


def until_recorded(node: TestNode, states: list[Any], count: int) -> None:
    """Wait until the recorder reports `count` messages; `states` are those of recorder/state."""
    node.spin_until(
        lambda: states and json.loads(states[-1].data)["messages"] >= count, 40.0, f"{count} messages in the bag"
    )
    node.spin_for(0.3)


def names(bag: BagReader, topic: str = "/joint_states") -> list[float]:
    """Return the first joint's position in each recorded joint state."""
    return [float(bag.decode(message).position[0]) for message in bag.messages({topic})]


def recorded(folder: Path, topic: str) -> int:
    """Return how many messages of a topic a bag holds."""
    with BagReader(folder) as bag:
        return sum(1 for _ in bag.messages({topic}))
