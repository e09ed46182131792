"""Node `arm_driver`: an arm that needs no ROS driver package, with the topics of ros2_control.

It publishes joint states and takes joint trajectories for arm and gripper, as a joint trajectory controller does. The
driver is one of `rlfp_ros.drivers.arms`. In a fault it publishes no joint states, and its diagnostics say why: the
safety controller then stops.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from pydantic import Field
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from trajectory_msgs.msg import JointTrajectory

from rlfp_ros.contract import load_bundle
from rlfp_ros.control.trained_arm import choose_arm
from rlfp_ros.drivers.arm_driver import make_arm_driver
from rlfp_ros.drivers.driven_arm import DrivenArm, DrivenArmSettings
from rlfp_ros.nodes import messages as m
from rlfp_ros.nodes.command_refusal import command_from_message
from rlfp_ros.nodes.diagnostics import Diagnostics, Durations, Level, Report
from rlfp_ros.nodes.parameters import LIVE, declare
from rlfp_ros.nodes.spin import MISCONFIGURED, Finished, run
from rlfp_ros.schema import ConfigurationError

REFUSAL_S = 5.0  # how long a refused command stays in the diagnostics


class ArmDriverSettings(DrivenArmSettings):
    """Parameters of the driver's node."""

    driver: str = Field(description="driver of the arm; `./rlfp plugins` lists them")
    bundle: str = Field(description="policy bundle, for the arm that it carries: a folder or a name in models/")
    arm: str = Field("", description="arm: a name in config/arms/ or a YAML file; empty: the copy in the bundle")
    address: str = Field("", description="the arm's serial port or network address")
    calibration: str = Field("", description="the arm's calibration file, for drivers that need one")
    parameters: str = Field("", description="the driver's own parameters as YAML, such as {torque_limit: 0.5}")
    torque: bool = Field(
        True, description="whether the motors hold the arm; false: it can be moved by hand", json_schema_extra=LIVE
    )


class ArmDriverNode(Node):
    """Messages to arrays and back around `drivers.driven_arm.DrivenArm`."""

    def __init__(self) -> None:
        super().__init__("arm_driver")
        settings = declare(self, ArmDriverSettings, self._on_parameters)
        arm = choose_arm(load_bundle(settings.bundle), settings.arm, self.get_logger().info)
        driver = make_arm_driver(settings.driver, settings.parameters, arm, settings.address, settings.calibration)
        for remark in driver.remarks():
            self.get_logger().warning(remark)
        self._arm_file, self._driver = arm, driver
        self._arm = DrivenArm(driver, arm, settings, self._on_change, settings.torque)
        self._warm_c = settings.warm_c
        self._joint_names = arm.driver_names(arm.joint_names)
        self._finger_names = arm.driver_names(arm.gripper.joint_names) if arm.gripper else ()
        self._cycles = Durations()
        self._refused, self._refusal, self._refused_at = 0, "", -np.inf
        topics = arm.topics
        self._joint_states = self.create_publisher(m.JOINT_STATES.type, topics.joint_states, m.JOINT_STATES.qos)
        self.create_subscription(JointTrajectory, topics.joint_trajectory, self._on_command, m.LATEST)
        if arm.gripper:
            self.create_subscription(JointTrajectory, topics.gripper_trajectory, self._on_gripper, m.LATEST)
        self.diagnostics = Diagnostics(self, self._report, hardware_id=settings.address)
        self.create_timer(1.0 / settings.rate_hz, self._on_timer, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _on_parameters(self, settings: ArmDriverSettings) -> None:
        self._arm.set_torque(settings.torque)

    def _on_change(self, sentence: str) -> None:
        log = self.get_logger()
        if self._arm.fault:
            log.error(sentence)
        else:
            log.info(sentence)

    def _on_timer(self) -> None:
        started = time.perf_counter()
        try:
            state = self._arm.cycle(self._now_ns())
        except ConfigurationError as error:
            raise Finished(MISCONFIGURED, f"arm_driver: {error}") from None
        if state is not None:
            self._joint_states.publish(m.joint_state_message(state, self._arm_file))
        self._cycles.add(time.perf_counter() - started)

    def _on_command(self, message: JointTrajectory) -> None:
        now_ns = self._now_ns()
        try:
            self._refuse(self._arm.accept(command_from_message(message, self._joint_names, now_ns), now_ns))
        except ConfigurationError as error:
            self._refuse(str(error))

    def _on_gripper(self, message: JointTrajectory) -> None:
        gripper = self._arm_file.gripper
        assert gripper is not None
        try:
            # A width that comes late is still the wanted one: its time is not looked at.
            trajectory = command_from_message(message, self._finger_names, 0)
            self._refuse(self._arm.accept_width(gripper.width(trajectory.positions[-1])))
        except ConfigurationError as error:
            self._refuse(str(error))

    def _refuse(self, why: str) -> None:
        if why:
            self._refused, self._refusal, self._refused_at = self._refused + 1, why, time.monotonic()
            self.get_logger().error(why, throttle_duration_sec=1.0)

    # --- diagnostics -------------------------------------------------------------------------------------------------

    def _report(self) -> Report:
        arm = self._arm
        values: dict[str, object] = {
            "commands_refused": self._refused,
            "missed_readings": arm.missed_readings,
            "connections": arm.connections,
            **self._driver.counts(),
            **self._cycles.values("cycle"),
        }
        hottest = -np.inf
        if arm.reading is not None:
            names = (*self._joint_names, *self._finger_names)
            for name, temperature, load in zip(names, arm.reading.temperatures, arm.reading.loads, strict=True):
                values |= {f"{name}_temperature_c": float(temperature), f"{name}_load": float(load)}
            hottest = float(np.nanmax([-np.inf, *arm.reading.temperatures]))
        if arm.fault or arm.refusal():
            return Report(Level.ERROR, arm.fault or arm.refusal(), values)
        if time.monotonic() - self._refused_at < REFUSAL_S:
            return Report(Level.WARN, self._refusal, values)
        if hottest >= self._warm_c:
            return Report(Level.WARN, f"a motor is at {hottest:.0f} degrees Celsius", values)
        return Report(Level.OK, "running", values)

    def close(self) -> None:
        """Disconnect; the motors hold their last positions."""
        self._arm.close()


def main() -> None:
    """Entry point of the executable `arm_driver`."""
    sys.exit(run(ArmDriverNode, priority=30))


if __name__ == "__main__":
    main()
