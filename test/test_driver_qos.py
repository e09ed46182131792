"""Tests that drivers' topics are received, whatever quality of service their publishers offer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Process, TestNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_srvs.srv import Trigger

from rlfp_ros.contract import load_bundle
from rlfp_ros.control.arm import JointState, load_arm
from rlfp_ros.nodes import messages
from rlfp_ros.nodes.executor import NodeExecutor
from rlfp_ros.nodes.subscriptions import DriverSubscription

pytestmark = pytest.mark.graph
ARM = load_arm("panda")


def qos(best_effort: bool, latched: bool = False) -> QoSProfile:
    return QoSProfile(
        depth=10,
        reliability=ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


class Drivers:
    """A camera and an arm at rest at home."""

    def __init__(self, node: TestNode, bundle: Path, best_effort: bool) -> None:
        self._node = node
        self._camera = load_bundle(bundle).contract.camera
        self._image = node.publisher(messages.IMAGE, qos(best_effort))
        self._camera_info = node.publisher(messages.CAMERA_INFO, qos(False, latched=True))
        self._joint_states = node.publisher(messages.JOINT_STATES, qos(best_effort))
        self._published, self._camera_at, self._number = 0.0, 0.0, 0
        K = self._camera.intrinsics.matrix()
        size = self._camera.width, self._camera.height
        self._camera_info.publish(messages.camera_info_message(1, "camera_optical_frame", *size, K))

    def publish(self) -> None:
        """Publish what is due: joint states at 100 Hz, images at 30 Hz."""
        now = time.monotonic()
        if now - self._published < 0.01:
            return
        self._published = now
        stamp = time.time_ns()
        state = JointState(stamp, np.array(ARM.home), np.zeros(7), np.zeros(7), 0.08)
        self._joint_states.publish(messages.joint_state_message(state, ARM))
        if now - self._camera_at > 1 / 30:
            self._camera_at, self._number = now, self._number + 1
            image = np.full((self._camera.height, self._camera.width, 3), 90 + self._number % 2, np.uint8)
            self._image.publish(messages.image_message(stamp, image, "camera_optical_frame"))

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Publish until `condition` is true."""

        def published() -> Any:
            self.publish()
            return condition()

        return self._node.spin_until(published, what=what)


@pytest.mark.parametrize("best_effort", [True, False], ids=["best_effort", "reliable"])
def test_every_node_hears_drivers_of_either_reliability_and_a_camera_info_that_came_once(
    best_effort: bool, test_node: TestNode, start_node: Callable[..., Process], tiny_bundle: Path
) -> None:
    drivers = Drivers(test_node, tiny_bundle, best_effort)
    residuals, checklists = test_node.listen(messages.RESIDUAL), test_node.listen(messages.CHECKLIST)
    for node in ("perception", "policy", "checklist"):
        start_node(node, {"bundle": tiny_bundle})
    start_node("residual_controller", {"bundle": tiny_bundle, "require_heartbeat": False, "start_enabled": False})
    drivers.until(lambda: len(residuals) > 3, "residuals from images and joint states")

    def heard_by_checklist() -> bool:
        lines = {line["name"]: line for line in json.loads(checklists[-1].data)["lines"]} if checklists else {}
        return bool(lines) and " Hz" in lines["joint_states"]["found"]

    drivers.until(heard_by_checklist, "a rate of joint states in the checklist")
    enable = test_node.node.create_client(Trigger, "residual_controller/enable")
    drivers.until(enable.service_is_ready, "the controller")
    answer: list[Any] = []

    def enabled() -> bool:
        if not answer or (answer[-1].done() and not answer[-1].result().success):
            answer.append(enable.call_async(Trigger.Request()))
        return bool(answer[-1].done() and answer[-1].result().success)

    drivers.until(enabled, "an enabled arm, which takes joint states that the controller heard")


def test_subscription_follows_a_driver_that_comes_back_with_another_quality_of_service(test_node: TestNode) -> None:
    node = test_node.node
    heard: list[Any] = []
    topic = messages.JOINT_STATES
    subscription = DriverSubscription(node, topic.type, topic.name, heard.append, messages.JOINT_STATES_LATEST)
    message = messages.joint_state_message(JointState(1, np.zeros(7), np.zeros(7), np.zeros(7)), ARM)
    executor = NodeExecutor(node)
    for best_effort in (False, True, False):
        publisher = test_node.publisher(topic, qos(best_effort))
        heard.clear()
        limit = time.monotonic() + 10
        while not heard or subscription.current.qos_profile.reliability is not qos(best_effort).reliability:
            assert time.monotonic() < limit, f"best effort {best_effort}: {len(heard)} heard"
            publisher.publish(message)
            executor.spin_once(0.02)
        node.destroy_publisher(publisher)
    executor.close()
