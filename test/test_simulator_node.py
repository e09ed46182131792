"""Tests of the simulator node in real time, in a process of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Process, TestNode
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from rlfp_ros import plugins
from rlfp_ros.control.arm import load_arm
from rlfp_ros.nodes import messages
from rlfp_ros.nodes.simulator import CLOCK_TICKS
from rlfp_ros.recording import decode

pytestmark = pytest.mark.graph
TICK_S = 1 / 240


def test_a_slow_renderer_lowers_the_frame_rate_and_reports_it(
    test_node: TestNode, start_node: Callable[..., Process], tiny_bundle: Path
) -> None:
    """An image that takes longer to draw than the camera's period: fewer of them, and time continues in full ticks."""
    diagnostics, clock = test_node.listen(messages.DIAGNOSTICS), test_node.listen(messages.CLOCK)
    big = {"bundle": tiny_bundle, "image_width": 900, "image_height": 900, "profile": "none"}
    start_node("simulator", big)

    def slowed() -> Any:
        statuses = [status for array in diagnostics for status in array.status if status.name == "simulator"]
        return next((status for status in statuses if "the camera runs at" in status.message), None)

    status = test_node.spin_until(slowed, what="a word on the camera's rate")
    values = {value.key: value.value for value in status.values}
    assert float(values["camera_rate_hz"]) < 30
    assert "drawing takes" in status.message
    stamps = [decode.stamp_ns(message.clock) * 1e-9 for message in clock]
    steps = {round((after - before) / TICK_S) for before, after in itertools.pairwise(stamps)}
    assert CLOCK_TICKS in steps  # ticks as ever; a few messages may be lost on the way


def test_lock_step_shows_an_unanswered_image_again(
    test_node: TestNode, start_node: Callable[..., Process], tiny_bundle: Path
) -> None:
    """Perception takes images best effort: one that got lost must not end a run of a thousand episodes."""
    arm = load_arm("panda")
    command, applied = test_node.publisher(messages.ARM_COMMAND), test_node.publisher(messages.RESIDUAL_APPLIED)

    def stand_still(message: JointState) -> None:
        empty = JointTrajectory(header=message.header, joint_names=arm.driver_names(arm.joint_names))
        command.publish(empty)

    seen: list[int] = []

    def see(message: Image) -> None:
        stamp = decode.stamp_ns(message.header.stamp)
        seen.append(stamp)
        if len(seen) > 1:  # the first time, as if it had not come
            applied.publish(messages.twist_message(stamp, np.zeros(6), arm.base_frame))

    joint_states, image = messages.JOINT_STATES, messages.IMAGE
    test_node.node.create_subscription(joint_states.type, joint_states.name, stand_still, joint_states.qos)
    test_node.node.create_subscription(image.type, image.name, see, image.qos)
    ready = test_node.publisher(messages.EPISODE_READY)
    start_node("simulator", {"bundle": tiny_bundle, "lock_step": True, "profile": "none", "wait_for": ["test"]})
    test_node.connected(command, applied, ready)
    test_node.spin_for(0.2)  # the other direction of the match
    test_node.publisher(messages.EPISODE_PRESENT).publish(String(data="test"))
    ready.publish(messages.ready_message("test", 0))
    test_node.spin_until(lambda: len(seen) >= 4, what="images")
    assert seen[0] == seen[1] < seen[2] < seen[3]


def test_a_simulator_whose_physics_fails_ends_with_one_sentence(
    tiny_bundle: Path, start_node: Callable[..., Process], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A demo waited for ever for a simulator that logged the same exception once a second."""
    plugin = tmp_path / "broken.py"
    plugin.write_text(
        "from rlfp_ros.simulation.ticked_world import TickedWorld\n"
        "def fail(self, seed): raise ValueError('the table is gone')\n"
        "TickedWorld.reset = fail\n"
    )
    monkeypatch.setenv(plugins.VARIABLE, str(plugin))
    node = start_node("simulator", {"bundle": tiny_bundle})
    assert node.wait(60) == 1
    assert "simulator: the simulation failed with ValueError: the table is gone (broken.py:2)" in node.output
