"""Publishes the commands of the residual controller to the arm's and the gripper's controllers."""

from __future__ import annotations

from rclpy.duration import Duration
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from rlfp_ros.control.arm import Arm
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.trajectory import Command, Trajectory
from rlfp_ros.nodes import messages


class ArmOutput:
    """The publishers of commands.

    Parameters
    ----------
    node
        Their owner.
    arm, settings
        The arm, and what its controller takes (`output`).
    has_gripper
        Whether the policy moves the gripper.
    """

    def __init__(self, node: Node, arm: Arm, settings: ControllerSettings, has_gripper: bool) -> None:
        self._arm, self._settings = arm, settings
        self._lock_step = settings.tick_on == "joint_states"
        self._joint_names = arm.driver_names(arm.joint_names)
        self._finger_names = arm.driver_names(arm.gripper.joint_names) if arm.gripper else ()
        self._gripper_sent: float | None = None
        topics = arm.topics
        if settings.output == "joint_trajectory":
            command = messages.ARM_COMMAND
            self._command = node.create_publisher(command.type, topics.joint_trajectory, command.qos)
        else:
            topic = getattr(topics, settings.output)
            self._command = node.create_publisher(Float64MultiArray, topic, messages.LATEST)
        self._gripper = None
        if has_gripper:
            command = messages.GRIPPER_COMMAND
            self._gripper = node.create_publisher(command.type, topics.gripper_trajectory, command.qos)

    @property
    def topic(self) -> str:
        """Full name of the topic that moves the arm."""
        return str(self._command.topic_name)

    def begin_episode(self) -> None:
        """Send the next width of the gripper even if it is the last one."""
        self._gripper_sent = None

    def finish(self) -> None:
        """Wait until the last command has arrived."""
        self._command.wait_for_all_acked(Duration(seconds=0.2))

    def send(self, command: Command, stamp: int) -> None:
        """Publish the command of the tick at `stamp`."""
        trajectory = command.trajectory
        if self._settings.output == "joint_trajectory":
            if trajectory is not None:
                self._command.publish(messages.trajectory_message(trajectory, self._joint_names))
            elif self._lock_step:
                # The simulator waits for this stamp. A trajectory without points does not move the arm.
                header = messages.header_message(stamp)
                self._command.publish(JointTrajectory(header=header, joint_names=list(self._joint_names)))
        elif trajectory is not None:
            forward = trajectory.positions if self._settings.output == "forward_position" else trajectory.velocities
            self._command.publish(Float64MultiArray(data=forward[0].tolist()))
        width, gripper = command.gripper_width, self._arm.gripper
        if width is None or gripper is None or self._gripper is None or width == self._gripper_sent:
            return
        self._gripper_sent = width
        point = Trajectory.to_rest(stamp, 1.0 / self._settings.control_rate_hz, gripper.positions(width))
        self._gripper.publish(messages.trajectory_message(point, self._finger_names))
