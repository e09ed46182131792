"""The residual controller's node and a client of its topics, spun together in one process."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from rlfp_ros.control.arm import JointState, load_arm
from rlfp_ros.control.trajectory import Residual
from rlfp_ros.nodes import messages as m
from rlfp_ros.nodes.residual_controller import ResidualControllerNode
from rlfp_ros.recording import decode

ARM = load_arm("panda")
LIMIT_S = 20.0  # for anything to happen, on a busy machine
QUICK = ("tick_on:=joint_states", "start_enabled:=true", "settle_s:=0.0", "gain_ramp_s:=0.01")  # moves from the start


def stamp(tick: int) -> int:
    """Return the stamp of a tick, ns."""
    return 3_000_000_000 + tick * 1_000_000_000 // 240


class Driver:
    """The node under test and a client of its topics, spun together."""

    def __init__(self, bundle: Path, *parameters: str) -> None:
        arguments = ["--ros-args"]
        for parameter in (f"bundle:={bundle}", *parameters):
            arguments += ["-p", parameter]
        self.context = rclpy.Context()
        rclpy.init(args=arguments, context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        try:
            self.node = ResidualControllerNode(context=self.context)
        except BaseException:
            rclpy.shutdown(context=self.context)
            raise
        self.client = Node("driver", context=self.context, use_global_arguments=False)
        self.executor.add_node(self.node)
        self.executor.add_node(self.client)
        self.seen: dict[str, list] = {}
        commands = (m.ARM_COMMAND, m.GRIPPER_COMMAND)
        for topic in (*commands, m.RESIDUAL_APPLIED, m.SAFETY_STATE, m.EPISODE_READY, m.DIAGNOSTICS):
            self.seen[topic.name] = []
            self.client.create_subscription(topic.type, topic.name, self.seen[topic.name].append, topic.qos)
        residual = m.JOINT_RESIDUAL if self.node.controller.in_joint_space else m.RESIDUAL
        self.publishers = {
            topic.name: self.client.create_publisher(topic.type, topic.name, topic.qos)
            for topic in (m.JOINT_STATES, residual, m.GRIPPER, m.DOMAIN_SHIFT, m.EPISODE, m.ESTOP)
        }
        self.until(lambda: all(self.publishers[name].get_subscription_count() for name in self.publishers))
        self.until(lambda: self.client.count_publishers(m.SAFETY_STATE.name) > 0)

    def until(self, happened: Callable[[], object]) -> None:
        """Spin until `happened` returns a true value."""
        limit = time.monotonic() + LIMIT_S
        while not happened():
            assert time.monotonic() < limit, "nothing happened"
            self.executor.spin_once(timeout_sec=0.05)

    def joint_state(self, tick: int, positions: np.ndarray | None = None, efforts: np.ndarray | None = None) -> None:
        """Publish a joint state; by default the arm is at home and without effort."""
        measured = np.array(ARM.home) if positions is None else positions
        state = JointState(stamp(tick), measured, np.zeros(7), np.zeros(7) if efforts is None else efforts, 0.04)
        self.publishers[m.JOINT_STATES.name].publish(m.joint_state_message(state, ARM))

    def tick(
        self, tick: int, positions: np.ndarray | None = None, efforts: np.ndarray | None = None
    ) -> JointTrajectory:
        """Publish a joint state and return the command that answers it."""
        commands = self.seen[m.ARM_COMMAND.name]
        before = len(commands)
        self.joint_state(tick, positions, efforts)
        self.until(lambda: len(commands) > before)
        return commands[-1]

    def speed(self, tick: int) -> float:
        """Publish a joint state and return the largest joint speed of the command that answers it, rad/s."""
        command = self.tick(tick)
        return float(np.abs(command.points[0].velocities).max()) if command.points else 0.0

    def residual(self, at_ns: int, twist: np.ndarray) -> np.ndarray:
        """Publish a residual and a gripper width, and return the admitted residual."""
        applied = self.seen[m.RESIDUAL_APPLIED.name]
        before = len(applied)
        self.publishers[m.GRIPPER.name].publish(m.gripper_message(at_ns, 0.02, ARM))
        self.publishers[m.RESIDUAL.name].publish(m.residual_message(Residual(at_ns, twist), ARM.base_frame))
        self.until(lambda: len(applied) > before)
        assert decode.stamp_ns(applied[-1].header.stamp) == at_ns
        return decode.twist_from_message(applied[-1], ARM.base_frame)

    @property
    def state(self) -> dict:
        """The newest message of safety/state."""
        self.until(lambda: self.seen[m.SAFETY_STATE.name])
        return json.loads(self.seen[m.SAFETY_STATE.name][-1].data)

    def call(self, service: str) -> Trigger.Response:
        """Call a service of the node."""
        client = self.client.create_client(Trigger, f"residual_controller/{service}")
        self.until(client.service_is_ready)
        future = client.call_async(Trigger.Request())
        self.until(future.done)
        return future.result()

    def close(self) -> None:
        """End both nodes."""
        self.executor.shutdown()
        self.node.destroy_node()
        self.client.destroy_node()
        rclpy.shutdown(context=self.context)
