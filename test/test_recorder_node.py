"""Tests of the recorder in a process of its own, with real DDS and real files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
from conftest import Process, TestNode, wait_until
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String
from visualization_msgs.msg import Marker

from rlfp_ros.contract import CameraContract, load_bundle
from rlfp_ros.control import arm as arms
from rlfp_ros.control.trajectory import Residual
from rlfp_ros.episode import Episode
from rlfp_ros.nodes import messages
from rlfp_ros.nodes.attendance import Attendance
from rlfp_ros.nodes.executor import NodeExecutor
from rlfp_ros.nodes.recorder import RecorderNode
from rlfp_ros.recording.metadata import dropped_messages
from rlfp_ros.recording.reader import BagReader

pytestmark = pytest.mark.graph
PANDA = arms.load_arm("panda")


def state(number: int) -> arms.JointState:
    return arms.JointState(number, np.full(7, float(number)), np.zeros(7), np.zeros(7), 0.04)


class Publisher:
    """Publishes as a robot and a simulator."""

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

    def status(self) -> tuple[str, dict[str, str]]:
        """The recorder's last diagnostics: message and values."""
        for array in reversed(self.diagnostics):
            for status in array.status:
                if status.name == "recorder":
                    return status.message, {value.key: value.value for value in status.values}
        return "", {}

    def messages_recorded(self) -> int:
        return int(self.status()[1].get("messages", 0))


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


# ---- images ----

COMPRESSED = CompressedImage(
    format="rgb8; jpeg compressed bgr8", data=cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
)


def recorded(folder: Path, topic: str) -> int:
    with BagReader(folder) as bag:
        return sum(1 for _ in bag.messages({topic}))


@pytest.mark.parametrize("reliability", [ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT])
def test_a_camera_that_publishes_only_compressed_images_is_recorded(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path, reliability: ReliabilityPolicy
) -> None:
    camera = test_node.publisher(messages.IMAGE_COMPRESSED, QoSProfile(depth=5, reliability=reliability))
    process = start_node("recorder", {"directory": tmp_path / "bags", "per_episode": False})
    test_node.connected(camera)
    for _ in range(5):
        camera.publish(COMPRESSED)
        test_node.spin_for(0.05)
    assert process.stop() == 0
    assert recorded(tmp_path / "bags" / "run", "/camera/image_raw/compressed") == 5
    assert "no images" not in process.output


def test_of_a_camera_that_publishes_both_only_the_raw_images_are_recorded(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path
) -> None:
    robot = Publisher(test_node)
    compressed = test_node.publisher(messages.IMAGE_COMPRESSED)
    process = start_node("recorder", {"directory": tmp_path / "bags", "per_episode": False})
    robot.connected()
    for number in range(5):
        robot.image.publish(messages.image_message(number, np.zeros((8, 8, 3), np.uint8), "camera"))
        compressed.publish(COMPRESSED)
        test_node.spin_for(0.05)
    assert compressed.get_subscription_count() == 0  # nothing makes image_transport compress
    assert process.stop() == 0
    with BagReader(tmp_path / "bags" / "run") as bag:
        assert set(bag.topics) - {"/diagnostics"} == {"/camera/image_raw"}


def test_the_images_that_perception_takes_are_recorded(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path
) -> None:
    """Both are published, and perception is set to take the compressed ones."""
    robot = Publisher(test_node)
    compressed = test_node.publisher(messages.IMAGE_COMPRESSED)
    perception = Node("perception", context=test_node.node.context)
    perception.create_subscription(CompressedImage, messages.IMAGE_COMPRESSED.name, print, messages.CAMERA_SUBSCRIPTION)
    try:
        process = start_node("recorder", {"directory": tmp_path / "bags", "per_episode": False})
        test_node.spin_until(lambda: compressed.get_subscription_count() == 2)
        test_node.spin_until(lambda: robot.image.get_subscription_count() == 0)
        for number in range(5):
            robot.image.publish(messages.image_message(number, np.zeros((8, 8, 3), np.uint8), "camera"))
            compressed.publish(COMPRESSED)
            test_node.spin_for(0.05)
        assert process.stop() == 0
    finally:
        perception.destroy_node()
    assert recorded(tmp_path / "bags" / "run", "/camera/image_raw/compressed") == 5
    assert recorded(tmp_path / "bags" / "run", "/camera/image_raw") == 0


def test_a_recording_without_images_is_reported_in_the_log_in_diagnostics_and_at_the_end(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path
) -> None:
    robot = Publisher(test_node)
    test_node.node.destroy_publisher(robot.image)
    process = start_node("recorder", {"directory": tmp_path / "bags", "per_episode": False})
    test_node.connected(robot.joint_states)

    def reported() -> bool:
        robot.joint_states.publish(messages.joint_state_message(state(1), PANDA))
        test_node.spin_for(0.05)
        return "no images are recorded" in robot.status()[0]

    test_node.spin_until(reported)
    reason = "nothing publishes /camera/image_raw or /camera/image_raw/compressed; start the camera"
    assert reason in robot.status()[0]
    assert process.output.count(reason) == 1
    assert process.stop() == 0
    assert f"recorder: {tmp_path}/bags/run: no images are recorded: {reason}" in process.output


def test_a_recording_that_should_hold_no_images_is_not_reported(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path
) -> None:
    robot = Publisher(test_node)
    process = start_node("recorder", {"directory": tmp_path / "bags", "per_episode": False, "images": False})
    test_node.connected(robot.joint_states)
    ends = time.monotonic() + 4.0
    while time.monotonic() < ends:
        robot.joint_states.publish(messages.joint_state_message(state(1), PANDA))
        test_node.spin_for(0.05)
    assert process.stop() == 0
    assert "no images" not in process.output


# ---- publishers of another quality of service ----


def test_nothing_is_lost_if_publishers_of_another_quality_of_service_join(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path
) -> None:
    robot = Publisher(test_node)
    process = start_node("recorder", {"directory": tmp_path / "bags", "per_episode": False})
    robot.connected()
    second = third = None
    for number in range(300):
        if number == 100:
            qos = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
            second = test_node.publisher(messages.JOINT_STATES, qos)
        if number == 180:
            qos = QoSProfile(depth=50, durability=DurabilityPolicy.TRANSIENT_LOCAL)
            third = test_node.publisher(messages.JOINT_STATES, qos)
        robot.joint_states.publish(messages.joint_state_message(state(number), PANDA))
        if second is not None and number >= 200:
            second.publish(messages.joint_state_message(state(1000 + number), PANDA))
        if third is not None:
            third.publish(messages.joint_state_message(state(2000 + number), PANDA))
        test_node.spin_for(0.01)
    test_node.spin_for(0.5)
    assert process.stop() == 0
    assert "dropped: none" in process.output
    assert "RCLError" not in process.output
    assert "exception" not in process.output
    with BagReader(tmp_path / "bags" / "run") as bag:
        found = sorted(names(bag))
    assert found == [*map(float, range(300)), *map(float, range(1200, 1300)), *map(float, range(2180, 2300))]


def test_messages_that_never_arrive_are_counted_with_several_publishers(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path
) -> None:
    robot = Publisher(test_node)
    second = test_node.publisher(messages.JOINT_STATES, QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
    process = start_node("recorder", {"directory": tmp_path / "bags", "per_episode": False})
    robot.connected()
    test_node.spin_for(2.5)  # until a publisher that joined is no longer expected to begin with any number
    sent = 0
    for number in range(3):
        robot.joint_states.publish(messages.joint_state_message(state(number), PANDA))
        second.publish(messages.joint_state_message(state(1000 + number), PANDA))
        sent += 2
        test_node.spin_for(0.05)
    os.kill(process.popen.pid, signal.SIGSTOP)
    for number in range(500):  # more than the recorder's queue of 200 holds
        second.publish(messages.joint_state_message(state(2000 + number), PANDA))
        sent += 1
    os.kill(process.popen.pid, signal.SIGCONT)
    test_node.spin_for(0.5)
    second.publish(messages.joint_state_message(state(3000), PANDA))
    sent += 1
    test_node.spin_for(0.5)
    assert process.stop() == 0
    kept = recorded(tmp_path / "bags" / "run", "/joint_states")
    assert kept < sent
    assert f"dropped: /joint_states {sent - kept}" in process.output


def test_a_topic_of_another_type_than_expected_is_recorded_as_it_is_published(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path
) -> None:
    """Residuals are twists or joint trajectories, depending on the bundle."""
    residual = test_node.publisher(messages.JOINT_RESIDUAL)
    process = start_node("recorder", {"directory": tmp_path / "bags", "per_episode": False})
    test_node.connected(residual)
    for number in range(5):
        residual.publish(messages.joint_residual_message(Residual(number, np.zeros(7)), PANDA.joint_names))
    test_node.spin_for(0.3)
    assert process.stop() == 0
    assert "xception" not in process.output
    with BagReader(tmp_path / "bags" / "run") as bag:
        assert bag.topics["/policy/residual"] == "trajectory_msgs/msg/JointTrajectory"
        assert sum(1 for _ in bag.messages({"/policy/residual"})) == 5


def test_a_topic_of_a_type_that_is_not_installed_is_reported_and_the_others_are_recorded(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recorder runs without the workspace of one of the publishers."""
    robot = Publisher(test_node)
    marker = test_node.node.create_publisher(Marker, "marker", 10)
    (tmp_path / "hidden" / "visualization_msgs").mkdir(parents=True)
    (tmp_path / "hidden" / "visualization_msgs" / "__init__.py").write_text("raise ImportError('not sourced')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hidden"))
    process = start_node(
        "recorder",
        {"directory": tmp_path / "bags", "per_episode": False, "topics": "[marker, joint_states, camera/image_raw]"},
    )
    robot.connected()
    for number in range(10):
        marker.publish(Marker())
        robot.joint_states.publish(messages.joint_state_message(state(number), PANDA))
        test_node.spin_for(0.05)
    assert process.stop() == 0
    sentence = "topic /marker: type visualization_msgs/msg/Marker is not installed here, so it is not recorded"
    assert process.output.count(sentence) == 1
    assert "Traceback" not in process.output
    with BagReader(tmp_path / "bags" / "run") as bag:
        assert names(bag) == [float(number) for number in range(10)]


OTHER_TYPE = """
import time, rclpy
from std_msgs.msg import String
rclpy.init()
publisher = rclpy.create_node("other").create_publisher(String, "joint_states", 10)
while True:
    publisher.publish(String(data="other"))
    time.sleep(0.02)
"""


def test_a_topic_of_two_types_is_reported(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path
) -> None:
    robot = Publisher(test_node)
    process = start_node("recorder", {"directory": tmp_path / "bags", "per_episode": False})
    robot.connected()
    with subprocess.Popen([sys.executable, "-c", OTHER_TYPE]) as other:  # one process cannot publish both
        try:
            wait_until(lambda: "is published as" in process.output)
        finally:
            other.kill()
    robot.joint_states.publish(messages.joint_state_message(state(1), PANDA))
    test_node.spin_for(0.3)
    assert process.stop() == 0
    sentence = (
        "topic /joint_states: is published as sensor_msgs/msg/JointState and std_msgs/msg/String; only sensor_msgs"
    )
    assert process.output.count(sentence) == 1
    with BagReader(tmp_path / "bags" / "run") as bag:
        assert names(bag) == [1.0]


# ---- the start of an episode ----


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
