"""Node `arm_twin`: the ROS interface of a ros2_control arm and a camera driver, with MuJoCo instead of hardware.

Joints, images and camera_info have stamps of the system clock, and commands are accepted or refused as by the joint
trajectory controller. Hardware faults are parameters that can be set while it runs. There is no /clock.

Unlike an arm it has a referee. After the safety controller becomes ACTIVE, the referee sets up episodes and announces
them on `episode`, as a person would: it places the object, resets the arm and measures the distance at the end.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from rlfp_ros import paths
from rlfp_ros.contract import load_bundle
from rlfp_ros.control.arm import JointState
from rlfp_ros.control.safety.safety_state import SafetyState
from rlfp_ros.control.trained_arm import choose_arm
from rlfp_ros.control.trajectory import Trajectory
from rlfp_ros.episode import Episode, Phase
from rlfp_ros.nodes import messages as m
from rlfp_ros.nodes.attendance import Attendance
from rlfp_ros.nodes.command_refusal import command_from_message, refusal
from rlfp_ros.nodes.diagnostics import Diagnostics, Durations, Level, Report
from rlfp_ros.nodes.parameters import LIVE, declare
from rlfp_ros.nodes.spin import Finished, end_on_error, run
from rlfp_ros.nodes.twin_bus import TwinBus
from rlfp_ros.recording import decode
from rlfp_ros.schema import ConfigurationError, Schema
from rlfp_ros.simulation.mujoco_world import Faults, MujocoWorld
from rlfp_ros.simulation.referee import Referee
from rlfp_ros.simulation.room import load_room
from rlfp_ros.simulation.scene import load_scene
from rlfp_ros.simulation.tasks.task import load_task
from rlfp_ros.simulation.ticked_world import DT

READY_S = 30.0  # longest wait of the first episode for nodes that are still starting
PATIENCE_S = 60.0  # longest time without an ACTIVE controller, if a number of episodes was requested
CATCH_UP_TICKS = (
    12  # physics ticks in one burst after a slow image; the twin skips any further time, as a late driver does
)


class ArmTwinSettings(Schema):
    """Parameters of the twin."""

    bundle: str = Field(description="policy bundle, for its task and its camera's place: a folder or a name in models/")
    arm: str = Field("", description="arm: a name in config/arms/ or a YAML file; empty: the copy in the bundle")
    room: str = Field("twin_near", description="room, a file in sim/scenes/")
    seed: int = Field(0, ge=0, le=2**62, description="seed of the first episode; each next one adds 1")
    episodes: int = Field(
        0, ge=0, le=10**9, description="episodes to play before the node ends; 0: until it is stopped"
    )
    wait_for: tuple[str, ...] = Field((), description="nodes that must answer on episode/ready before an episode runs")
    referee: bool = Field(True, description="whether it plays episodes; false: only the graph moves the arm")
    images: bool = Field(True, description="whether it publishes images; false: a camera node does")
    optical_frame: str = Field("camera_optical_frame", description="frame_id of the images")
    dropped_frames: float = Field(
        0.0,
        ge=0,
        le=1,
        description="fault: share of the images that are lost, beyond the room's (1)",
        json_schema_extra=LIVE,
    )
    joint_states_late_s: float = Field(
        0.0,
        ge=0,
        le=1,
        description="fault: joint states come this late, with their true stamp (s)",
        json_schema_extra=LIVE,
    )
    stiffness: float = Field(
        1.0,
        gt=0,
        le=1,
        description="fault: share of the drives' stiffness; below 1 the arm follows with an error (1)",
        json_schema_extra=LIVE,
    )
    stalled_joint: str = Field("", description="fault: name of a joint that does not move", json_schema_extra=LIVE)
    controller_active: bool = Field(
        True,
        description="fault if false: the joint trajectory controller is inactive and drops every command",
        json_schema_extra=LIVE,
    )
    clock_offset_s: float = Field(
        0.0,
        ge=-100,
        le=100,
        description="fault: the drivers' clock differs from this machine's by so much (s)",
        json_schema_extra=LIVE,
    )
    servo_bus: str = Field(
        "",
        description="port to make, with a simulated Feetech bus that takes the place of the arm's topics (SO-101); "
        "empty: none",
    )
    servo_calibration: str = Field(
        "so101", description="calibration of that bus: a file of LeRobot, or the name of one in sim/servos/"
    )
    unplugged: bool = Field(
        False, description="fault: the cable of the simulated bus is pulled", json_schema_extra=LIVE
    )
    encoding: Literal["rgb8", "bgr8", "mono8", "16UC1"] = Field(
        "rgb8", description="encoding of the images; 16UC1, a depth camera's, is a fault", json_schema_extra=LIVE
    )


class ArmTwin(Node):
    """The world, its drivers, and the referee."""

    def __init__(self) -> None:
        super().__init__("arm_twin")
        self.settings = settings = declare(self, ArmTwinSettings, self._on_parameters)
        bundle = load_bundle(settings.bundle)
        contract = bundle.contract
        self._arm = arm = choose_arm(bundle, settings.arm, self.get_logger().info)
        self._joint_names = arm.driver_names(arm.joint_names)
        self._finger_names = arm.driver_names(arm.gripper.joint_names) if arm.gripper else ()
        self._world = MujocoWorld(
            arm, load_task(contract.task), load_room(settings.room), load_scene(arm=arm), contract.camera
        )
        self._bus: TwinBus | None = None
        if settings.servo_bus:
            calibration = paths.resolve(settings.servo_calibration, "sim/servos", ".json")
            self._bus = TwinBus(Path(settings.servo_bus), calibration, arm, DT)
            self._world.arm_controller = self._bus
            self._bus.start()
        self._on_parameters(settings)
        topics = arm.topics
        publish = lambda topic, name=None: self.create_publisher(topic.type, name or topic.name, topic.qos)  # noqa: E731
        self._image, self._camera_info = publish(m.IMAGE), publish(m.CAMERA_INFO)
        self._episodes, self._goal = publish(m.EPISODE), publish(m.GOAL)
        if self._bus is None:
            self._joint_states = publish(m.JOINT_STATES, topics.joint_states)
            self.create_subscription(JointTrajectory, topics.joint_trajectory, self._on_command, m.LATEST)
            self.create_subscription(JointTrajectory, topics.gripper_trajectory, self._on_gripper, m.LATEST)
        self.create_subscription(String, m.EPISODE_READY.name, self._on_ready, m.EVENTS)
        self.create_subscription(String, m.SAFETY_STATE.name, self._on_safety_state, m.LATCHED)

        self._referee = Referee(contract.task, settings.seed, settings.episodes, settings.wait_for, self.get_name())
        self._active, self._safety_state = False, "not heard yet"
        self._trajectory: Trajectory | None = None
        self._gripper_width: float | None = None
        self._late: deque[tuple[int, JointState]] = deque()  # delayed joint states: due tick, state
        self._renders, self._refused, self._refusal, self._skipped_s = Durations(), 0, "", 0.0
        self._world.judged = False
        self._world.reset(settings.seed)
        self._follow_clock()
        self._world.restamp_frames()
        self.diagnostics = Diagnostics(self, self._report, "MuJoCo")
        self._attendance = Attendance(self)
        self.create_timer(DT, self._on_timer, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_parameters(self, settings: ArmTwinSettings) -> None:
        if settings.stalled_joint and settings.stalled_joint not in self._arm.joint_names:
            names = ", ".join(self._arm.joint_names)
            raise ConfigurationError(
                f"arm_twin parameters: stalled_joint is {settings.stalled_joint!r}, expected one of: {names}"
            )
        self.settings = settings
        self._offset_ns = round(settings.clock_offset_s * 1e9)
        dropped_frames = settings.dropped_frames if settings.images else 1.0  # none is rendered either
        self._world.faults = Faults(dropped_frames, settings.stiffness, settings.stalled_joint)
        if self._bus is not None:
            self._bus.set_unplugged(settings.unplugged)

    # --- the drivers -------------------------------------------------------------------------------------------------

    def _follow_clock(self) -> None:
        """Align the world's stamps with the system clock."""
        self._world.origin_ns += self.get_clock().now().nanoseconds - self._world.stamp_ns

    def _on_timer(self) -> None:
        """Run the ticks that are due by the system clock."""
        if self._referee.phase is Phase.RESET:
            self._check_ready()
            return
        behind = (self.get_clock().now().nanoseconds - self._world.stamp_ns) * 1e-9 / DT
        if abs(behind) > CATCH_UP_TICKS:
            self._skipped_s += abs(behind) * DT
            self._follow_clock()
            behind = 1.0
        for _ in range(int(behind)):
            self._publish_frames()
            self._publish_joints()
            started = time.perf_counter()
            with end_on_error("arm_twin"):
                self._world.step(self._trajectory, self._gripper_width)
            self._trajectory = None
            if self._world.captured:
                self._renders.add(time.perf_counter() - started)
            if self._world.outcome is not None:
                self._end()
                return
        self._announce_if_active()

    def _publish_frames(self) -> None:
        camera, frame_id = self._world.camera.model, self.settings.optical_frame
        lens = () if camera.distortion is None else camera.distortion
        frames = self._world.delivered_frames()
        for frame in frames if self.settings.images else ():  # the first is rendered before the faults apply
            stamp = frame.stamp_ns + self._offset_ns
            self._camera_info.publish(
                m.camera_info_message(stamp, frame_id, camera.width, camera.height, camera.K, lens)
            )
            self._image.publish(m.image_message(stamp, frame.image, frame_id, self.settings.encoding))

    def _publish_joints(self) -> None:
        if self._bus is not None:
            self._bus.measured(self._world.joint_state())
            self._gripper_width = self._bus.gripper_width
            return
        tick = self._world.tick
        self._late.append((tick + round(self.settings.joint_states_late_s / DT), self._world.joint_state()))
        while self._late and self._late[0][0] <= tick:
            state = self._late.popleft()[1]
            state = replace(state, stamp_ns=state.stamp_ns + self._offset_ns)
            self._joint_states.publish(m.joint_state_message(state, self._arm))

    def _on_command(self, message: JointTrajectory) -> None:
        try:
            if not self.settings.controller_active:
                raise ConfigurationError("the joint trajectory controller is not active and drops the command")
            self._trajectory = command_from_message(message, self._joint_names, self._world.stamp_ns)
        except ConfigurationError as error:
            self._refused, self._refusal = self._refused + 1, str(error)
            self.get_logger().error(self._refusal, throttle_duration_sec=1.0)

    def _on_gripper(self, message: JointTrajectory) -> None:
        gripper = self._arm.gripper
        if gripper is None or refusal(message, self._finger_names, self._world.stamp_ns):
            return
        width = gripper.width(message.points[-1].positions)
        self._gripper_width = width if np.isfinite(width) else self._gripper_width

    # --- the referee -------------------------------------------------------------------------------------------------

    def _announce_if_active(self) -> None:
        """Start an episode as soon as the controller may move the arm."""
        referee = self._referee
        if referee.phase is Phase.RUNNING or not self.settings.referee:
            return
        if self._active:
            self._publish_episode(referee.announce(self._world.stamp_ns))
        elif self.settings.episodes and referee.waited_s > PATIENCE_S:
            raise Finished(
                1,
                f"arm_twin: the controller was not ACTIVE for {PATIENCE_S:g} s (safety/state: {self._safety_state}); "
                "enable it (residual_controller/enable), after a stop reset it first",
            )

    def _check_ready(self) -> None:
        referee = self._referee
        missing = referee.missing or self._attendance.missing(referee.nodes, referee.waited_s)
        if missing and self._referee.waited_s < READY_S:
            return
        if missing:
            raise Finished(1, f"arm_twin: no answer on episode/ready from {', '.join(missing)} after {READY_S:g} s")
        self._trajectory, self._gripper_width = None, None
        self._late.clear()
        self._world.judged = True
        with end_on_error("arm_twin"):
            sample = self._world.reset(self._referee.seed)
        self._follow_clock()
        self._world.restamp_frames()  # the first was taken before the stamps were on the clock again
        self._publish_episode(self._referee.begin(self._world.stamp_ns, sample.document()))
        goal = self._world.task.goal(self._world)
        if goal is not None:
            self._goal.publish(m.goal_message(self._world.stamp_ns, goal, self._arm.base_frame))

    def _end(self) -> None:
        outcome = self._world.outcome
        assert outcome is not None
        self._world.run_on()
        if not self._active:  # it was stopped on the way: it starts from home when it is enabled again
            self._trajectory = None
            self._late.clear()
            self._world.reset(self._referee.seed)
            self._follow_clock()
            self._world.restamp_frames()
        self._publish_episode(self._referee.end(self._world.stamp_ns, asdict(outcome)))
        if self._referee.is_last:
            self._episodes.wait_for_all_acked(Duration(seconds=1.0))
            raise Finished

    def _publish_episode(self, episode: Episode) -> None:
        self._episodes.publish(m.episode_message(episode))

    def _on_ready(self, message: String) -> None:
        self._referee.on_ready(decode.ready_from_message(message))

    def _on_safety_state(self, message: String) -> None:
        heard = SafetyState.from_json(message.data)
        self._active, self._safety_state = heard.enabled, str(heard)

    # --- diagnostics -------------------------------------------------------------------------------------------------

    def _report(self) -> Report:
        values: dict[str, object] = {
            "episode": self._referee.number,
            "phase": self._referee.phase.value if self._referee.phase else "waiting to be enabled",
            "commands_refused": self._refused,
            "skipped_s": self._skipped_s,
        } | self._renders.values("render")
        if self._refusal:
            return Report(Level.WARN, self._refusal, values)
        return Report(Level.OK, str(values["phase"]), values)

    def close(self) -> None:
        """Free the renderer's memory, and remove the simulated bus."""
        if self._bus is not None:
            self._bus.close()
        self._world.close()


def main() -> None:
    """Entry point of the executable `arm_twin`."""
    sys.exit(run(ArmTwin))


if __name__ == "__main__":
    main()
