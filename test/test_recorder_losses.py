"""Tests that the recorder loses nothing of an episode that all nodes joined, and counts what never arrived."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from conftest import Process, TestNode, wait_until
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from recorded_robot import PANDA, Publisher, names, recorded, state
from std_msgs.msg import String

from rlfp_ros.contract import CameraContract, load_bundle
from rlfp_ros.episode import Episode
from rlfp_ros.nodes import messages
from rlfp_ros.nodes.attendance import Attendance
from rlfp_ros.nodes.executor import NodeExecutor
from rlfp_ros.nodes.recorder import RecorderNode
from rlfp_ros.recording.metadata import dropped_messages
from rlfp_ros.recording.reader import BagReader

pytestmark = pytest.mark.graph


def test_messages_that_never_arrive_are_counted_with_several_publishers(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path
) -> None:
    robot = Publisher(test_node)
    second = test_node.publisher(messages.JOINT_STATES, QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
    process = start_node("recorder", {"directory": tmp_path / "bags", "per_episode": False})
    robot.connected()
    test_node.spin_for(2.5)  # until a publisher that joined is no longer expected to begin with any number
    sent: list[float] = []

    def publish(publisher: Any, number: int) -> None:
        publisher.publish(messages.joint_state_message(state(number), PANDA))
        sent.append(number)
        test_node.spin_for(0.05)

    while not robot.messages_recorded():  # the two are connected later on a busy machine
        publish(second, 1000 + len(sent))
    for number in range(3):
        publish(robot.joint_states, number)
    test_node.spin_for(2.5)  # until all have been taken; the next that are lost are the second publisher's alone
    os.kill(process.popen.pid, signal.SIGSTOP)
    for number in range(500):  # more than the recorder's queue of 200 holds
        second.publish(messages.joint_state_message(state(2000 + number), PANDA))
        sent.append(2000 + number)
    os.kill(process.popen.pid, signal.SIGCONT)
    test_node.spin_for(0.5)
    publish(robot.joint_states, 3)
    publish(second, 3000)
    test_node.spin_for(0.5)
    assert process.stop() == 0
    with BagReader(tmp_path / "bags" / "run") as bag:
        kept = names(bag)
    # A publisher's messages count from the first that arrives; on a busy machine the two are connected later.
    first = [min(number for number in kept if (number < 1000) == own) for own in (True, False)]
    lost = [number for number in sent if number not in kept and number > first[number >= 1000]]
    assert lost
    assert f"dropped: /joint_states {len(lost)}" in process.output


def test_nothing_of_an_episode_is_lost_if_this_process_hears_of_the_others_late(
    test_node: TestNode, start_node: Callable[..., Process], tiny_bundle: Path, tmp_path: Path
) -> None:
    """The recorder does not run while perception starts, as on a busy machine; then 47 images come at 30 Hz."""
    robot = Publisher(test_node)
    camera_info = test_node.publisher(messages.CAMERA_INFO)
    present = test_node.publisher(messages.EPISODE_PRESENT)
    present.publish(String(data="test"))
    camera = load_bundle(tiny_bundle).contract.camera
    recorder = start_node("recorder", {"directory": tmp_path / "bags", "per_episode": False})
    robot.connected()
    announced = Episode(id=0, phase="reset", nodes=("perception", "recorder", "test"))
    robot.episode.publish(messages.episode_message(announced))

    def answered(name: str) -> bool:
        return any(json.loads(message.data) == {"node": name, "id": 0} for message in robot.ready)

    test_node.spin_for(1.0)
    os.kill(recorder.popen.pid, signal.SIGSTOP)
    start_node("perception", {"bundle": tiny_bundle})
    test_node.spin_until(lambda: robot.image.get_subscription_count() == 2, what="perception's subscription")
    if not answered("recorder"):  # with an answer, the episode begins while it does not run
        os.kill(recorder.popen.pid, signal.SIGCONT)
        test_node.spin_until(lambda: answered("recorder") and answered("perception"), what="answers")
    publish_images(test_node, robot, camera_info, camera)
    os.kill(recorder.popen.pid, signal.SIGCONT)
    test_node.spin_for(0.5)
    assert recorder.stop() == 0
    assert recorded(tmp_path / "bags" / "run", "/camera/image_raw") == 47
    assert recorded(tmp_path / "bags" / "run", "/perception/features") == 47
    assert "dropped: none" in recorder.output


def publish_images(node: TestNode, robot: Publisher, camera_info: Any, camera: CameraContract) -> None:
    K = camera.intrinsics.matrix()
    for number in range(1, 48):
        stamp = number * 33_333_333
        camera_info.publish(messages.camera_info_message(stamp, "camera", camera.width, camera.height, K))
        robot.image.publish(
            messages.image_message(stamp, np.zeros((camera.height, camera.width, 3), np.uint8), "camera")
        )
        node.spin_for(1 / 30)


def test_messages_that_were_lost_are_in_diagnostics_in_the_log_and_in_the_metadata(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path
) -> None:
    """A publisher joins an episode that has begun, and its first messages do not arrive."""
    robot = Publisher(test_node)
    recorder = start_node("recorder", {"directory": tmp_path / "bags", "per_episode": False})
    robot.connected()
    robot.reset(0)
    os.kill(recorder.popen.pid, signal.SIGSTOP)
    context = Context()
    context.init()
    controller = Node("controller", context=context)  # a participant that DDS has not connected with the recorder
    applied = controller.create_publisher(
        messages.RESIDUAL_APPLIED.type, messages.RESIDUAL_APPLIED.name, messages.RESIDUAL_APPLIED.qos
    )
    sent = 5
    for number in range(sent):
        applied.publish(messages.twist_message(number, np.zeros(6), "base"))
    os.kill(recorder.popen.pid, signal.SIGCONT)
    test_node.connected(applied)
    test_node.spin_for(0.5)

    def lost() -> int:
        nonlocal sent
        sent += 1
        applied.publish(messages.twist_message(sent, np.zeros(6), "base"))
        test_node.spin_for(0.05)
        return int(robot.status()[1].get("dropped /policy/residual_applied", 0))

    count = test_node.spin_until(lost)
    test_node.spin_for(0.2)
    assert robot.status()[0] == f"{count} messages dropped so far"
    assert recorder.stop() == 0
    assert recorded(tmp_path / "bags" / "run", "/policy/residual_applied") == sent - count
    assert f"dropped: /policy/residual_applied {count}" in recorder.output
    assert dropped_messages(tmp_path / "bags" / "run") == f"/policy/residual_applied: {count}"
    controller.destroy_node()
    context.shutdown()


def test_episodes_are_answered_in_the_thread_of_the_node(
    test_node: TestNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer from the thread that writes would end the writing if ROS was shut down before."""
    threads: list[threading.Thread] = []
    monkeypatch.setattr(os, "nice", lambda increment: increment)  # the other tests keep their priority
    monkeypatch.setattr(Attendance, "on_episode", lambda self, episode: threads.append(threading.current_thread()))
    rclpy.init(args=["--ros-args", "-p", f"directory:={tmp_path / 'bags'}"])
    try:
        recorder = RecorderNode()
        executor = NodeExecutor(recorder, recorder.batch_s)
        episode = test_node.publisher(messages.EPISODE)
        episode.publish(messages.episode_message(Episode(id=0, phase="reset")))

        def answered() -> bool:
            executor.spin_once()
            return bool(threads)

        wait_until(answered)
        recorder.close()
        executor.close()
        recorder.destroy_node()
    finally:
        rclpy.shutdown()
    assert threads == [threading.current_thread()]
