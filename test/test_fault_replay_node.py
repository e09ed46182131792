"""Replays a recorded run through the controller's node: the camera dies and returns, then an e-stop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from conftest import longer_than
from controller_driver import ARM, Driver
from rclpy.serialization import deserialize_message
from std_msgs.msg import Bool

from rlfp_ros.episode import Episode, Phase
from rlfp_ros.nodes import messages as m
from rlfp_ros.recording import decode
from rlfp_ros.recording.reader import BagReader

BAG = Path(__file__).parent / "data" / "camera_dead_then_estop.mcap"


def test_a_recorded_run_replayed_through_the_node_holds_resumes_and_stops_in_time(
    start_controller: Callable[..., Driver],
) -> None:
    """`test/data/camera_dead_then_estop.mcap`: the camera dies, comes back, then an e-stop. Times are the joints'."""
    driver = start_controller("tick_on:=joint_states", "start_enabled:=true")
    controller = driver.node.controller
    object_pose = driver.client.create_publisher(m.OBJECT_POSE.type, m.OBJECT_POSE.name, m.OBJECT_POSE.qos)
    driver.until(object_pose.get_subscription_count)
    commands = driver.seen[m.ARM_COMMAND.name]

    def has_pose(stamp_ns: int) -> bool:
        return controller.object_stamp_ns >= stamp_ns

    ticks: list[tuple[float, str, float, float]] = []  # s, state, gain, largest speed told
    poses: list[float] = []
    residuals: list[float] = []
    estop, reset = 0.0, 0
    with BagReader(BAG) as bag:
        for recorded in bag.messages():
            topic = recorded.topic.lstrip("/")
            now = ticks[-1][0] if ticks else 0.0
            if topic == "episode":
                episode = Episode.from_json(bag.decode(recorded).data)
                if episode.phase is not Phase.RESET:
                    continue
                before = len(driver.seen[m.EPISODE_READY.name])
                driver.publishers[topic].publish(m.episode_message(episode))
                driver.until(longer_than(driver.seen[m.EPISODE_READY.name], before))
                ticks, poses, residuals, reset = [], [], [], episode.stamp
            elif topic == "joint_states":
                message = deserialize_message(recorded.data, m.JOINT_STATES.type)
                before = len(commands)
                driver.publishers[topic].publish(message)
                driver.until(longer_than(commands, before))
                points = commands[-1].points
                speed = float(np.abs(points[0].velocities).max()) if points else 0.0
                at = decode.stamp_ns(message.header.stamp) * 1e-9
                ticks.append((at, controller.state.value, controller.gain, speed))
            elif topic == "perception/object_pose":
                message = deserialize_message(recorded.data, m.OBJECT_POSE.type)
                object_pose.publish(message)
                stamp_ns = decode.stamp_ns(message.header.stamp)
                if stamp_ns > reset:
                    driver.until(partial(has_pose, stamp_ns))
                poses.append(now)
            elif topic == "policy/residual":
                message = deserialize_message(recorded.data, m.RESIDUAL.type)
                twist = np.clip(decode.twist_from_message(message, ARM.base_frame), -0.1, 0.1)  # this bundle's scale
                driver.residual(decode.stamp_ns(message.header.stamp), twist)
                residuals.append(now)
            elif topic == "safety/estop":
                driver.publishers[topic].publish(Bool(data=True))
                driver.until(lambda: controller.supervisor.latched)
                estop = now

    def after(since: float, condition: Callable[[str, float, float], bool]) -> float:
        return next(at - since for at, state, gain, speed in ticks if at > since and condition(state, gain, speed))

    gap = int(np.argmax(np.diff(poses)))
    dark, light = poses[gap], poses[gap + 1]
    assert "STOPPED" not in {state for at, state, *_ in ticks if at <= estop}  # no false stop
    assert "HOLDING" not in {state for at, state, *_ in ticks if ticks[10][0] < at <= dark}  # and no false hold
    assert after(dark, lambda state, gain, speed: gain == 0.0) <= 0.15
    assert after(dark, lambda state, gain, speed: state == "HOLDING") <= 0.15 + 2.1 / 240  # it had slowed down before
    assert after(dark, lambda state, gain, speed: state == "HOLDING" and speed < 1e-3) <= 0.35
    resumed = next(at for at in residuals if at >= light)
    assert after(resumed, lambda state, gain, speed: gain > 0.0) <= 0.3
    assert after(estop, lambda state, gain, speed: state == "STOPPED") <= 2.1 / 240
    assert after(estop, lambda state, gain, speed: speed == 0.0) <= 0.25
    assert ticks[-1][1] == "STOPPED"
