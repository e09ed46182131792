"""Node `simulator`: a PyBullet world with the topics of an arm and a camera.

In real time a steady timer paces the physics. In lock step the world waits in every tick for the graph's answers: the
residual for a delivered image, and the arm command of the tick. The order of events is that of
`simulation.deployment.Deployment`, so that both play the same episode from the same seed.
"""

from __future__ import annotations

import enum
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import Literal

import numpy as np
from geometry_msgs.msg import TwistStamped
from pydantic import Field
from rclpy.clock import Clock as RclpyClock
from rclpy.clock import ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from rlfp_ros.contract import CameraContract, Intrinsics, load_bundle
from rlfp_ros.control.safety.safety_state import SafetyState
from rlfp_ros.control.trained_arm import choose_arm
from rlfp_ros.control.trajectory import Trajectory
from rlfp_ros.episode import Episode, Phase
from rlfp_ros.nodes import messages as m
from rlfp_ros.nodes.attendance import Attendance
from rlfp_ros.nodes.diagnostics import Diagnostics, Durations, Level, Report
from rlfp_ros.nodes.parameters import declare
from rlfp_ros.nodes.spin import Finished, end_on_error, run
from rlfp_ros.recording import decode
from rlfp_ros.schema import ConfigurationError, Schema
from rlfp_ros.simulation.camera import Frame
from rlfp_ros.simulation.pacing import FrameRate, Pace
from rlfp_ros.simulation.referee import Referee
from rlfp_ros.simulation.tasks.task import load_task
from rlfp_ros.simulation.ticked_world import DT, TICKS_PER_SECOND
from rlfp_ros.simulation.worlds import load_conditions, make_world

OPTICAL_FRAME = "camera_optical_frame"
CLOCK_TICKS = 4  # /clock at 60 Hz; messages have stamps, and a clock at 240 Hz would wake every node without need
START_NS = 1_000_000_000  # stamp of tick 0; a stamp of zero means "no time" in ROS
FIRST_ANSWER_S = 30.0  # longest wait for nodes that are still starting
ANSWER_S = 5.0  # wall time; longest wait of lock step for an answer
REPEAT_S = 1.0  # time after which lock step publishes an image again, because best-effort images may get lost


class SimulatorSettings(Schema):
    """Parameters of the simulator."""

    task: str = Field("reach", description="task to play, a file in sim/tasks/")
    arm: str = Field("", description="arm: a name in config/arms/ or a YAML file; empty: the copy in the bundle")
    bundle: str = Field(description="policy bundle, for its camera: a folder or a name in models/")
    profile: str = Field(
        "train", description="randomisation profile, a file in sim/randomization/; with mujoco a room in sim/scenes/"
    )
    world: Literal["pybullet", "mujoco"] = Field("pybullet", description="which simulator")
    seed: int = Field(0, ge=0, le=2**62, description="seed of the first episode; each next one adds 1")
    episodes: int = Field(
        0, ge=0, le=10**9, description="episodes to play before the node ends; 0: until it is stopped"
    )
    real_time_factor: float = Field(1.0, ge=0.01, le=10.0, description="simulated seconds in a second of wall time (1)")
    lock_step: bool = Field(False, description="wait for the graph at every tick: deterministic, as fast as possible")
    wait_for: tuple[str, ...] = Field((), description="nodes that must answer on episode/ready before an episode runs")
    judged: bool = Field(True, description="whether an episode ends; false: it runs until the node is stopped")
    image_width: int = Field(0, ge=0, le=4096, description="camera image width (px); 0: the bundle's")
    image_height: int = Field(0, ge=0, le=4096, description="camera image height (px); 0: the bundle's")
    image_rate_hz: float = Field(0.0, ge=0.0, le=240.0, description="camera rate (Hz); 0: the bundle's")


class _Waiting(enum.Enum):
    """The answers that lock step waits for."""

    READY = "episode/ready"
    RESIDUAL = "policy/residual_applied"
    COMMAND = "joint_trajectory_controller/joint_trajectory"
    NOTHING = "nothing"


class Simulator(Node):
    """The world, its publishers, and the wait for the graph."""

    def __init__(self) -> None:
        super().__init__("simulator")
        self.settings = settings = declare(self, SimulatorSettings)
        bundle = load_bundle(settings.bundle)
        arm = choose_arm(bundle, settings.arm, self.get_logger().info)
        camera = _camera(bundle.contract.camera, settings)
        self._arm = arm
        self._joint_names = arm.driver_names(arm.joint_names)
        self._finger_names = set(arm.driver_names(arm.gripper.joint_names)) if arm.gripper else set()
        conditions = load_conditions(settings.world, settings.profile)
        self._world = make_world(arm, load_task(settings.task), conditions, camera)
        self._world.origin_ns = START_NS
        self._world.judged = settings.judged
        self._camera = camera

        publish = lambda topic: self.create_publisher(topic.type, topic.name, topic.qos)  # noqa: E731
        self._image, self._camera_info = publish(m.IMAGE), publish(m.CAMERA_INFO)
        self._joint_states, self._time = publish(m.JOINT_STATES), publish(m.CLOCK)
        self._episodes, self._goal = publish(m.EPISODE), publish(m.GOAL)
        for topic, callback, qos in (
            (m.ARM_COMMAND, self._on_command, m.LATEST),
            (m.GRIPPER_COMMAND, self._on_gripper, m.LATEST),
            (m.RESIDUAL_APPLIED, self._on_residual_applied, m.EVENTS),
            (m.EPISODE_READY, self._on_ready, m.EVENTS),
            (m.SAFETY_STATE, self._on_safety_state, m.LATCHED),
        ):
            self.create_subscription(topic.type, topic.name, callback, qos)
        self.create_service(Trigger, "~/reset", self._on_reset)

        self._referee = Referee(settings.task, settings.seed, settings.episodes, settings.wait_for, self.get_name())
        self._waiting, self._waiting_since = _Waiting.NOTHING, time.monotonic()
        self._owed: dict[int, Frame] = {}  # by stamp: delivered images whose residual is awaited
        self._shown_at = 0.0  # time at which lock step last published them
        self._trajectory: Trajectory | None = None
        self._gripper_width: float | None = None
        self._safety_state = "not heard yet"
        self._renders, self._refused, self._refusal = Durations(), 0, ""
        self._pace = Pace(settings.real_time_factor, DT)
        self._frame_rate = FrameRate(self._world.ticks_per_frame * DT / settings.real_time_factor)
        self._rate_mark = (time.monotonic(), 0)
        self.diagnostics = Diagnostics(self, self._report, settings.world)
        steady = RclpyClock(clock_type=ClockType.STEADY_TIME)
        period = 0.02 if settings.lock_step else DT / settings.real_time_factor
        self.create_timer(period, self._on_lock_step_timer if settings.lock_step else self._on_timer, clock=steady)
        self._attendance = Attendance(self)
        self._announce()

    # --- episodes ----------------------------------------------------------------------------------------------------

    def _announce(self) -> None:
        """Ask the graph to forget the last episode."""
        self._publish_episode(self._referee.announce(self._world.stamp_ns))
        self._wait(_Waiting.READY)

    def _begin(self) -> None:
        """Set up the world and run, when all nodes are ready."""
        self._trajectory, self._gripper_width = None, None
        self._owed.clear()
        with end_on_error("simulator"):
            sample = self._world.reset(self._referee.seed)
        self._publish_episode(self._referee.begin(self._world.stamp_ns, sample.document()))
        goal = self._world.task.goal(self._world)
        if goal is not None:
            self._goal.publish(m.goal_message(self._world.stamp_ns, goal, self._arm.base_frame))
        self._wait(_Waiting.NOTHING)
        self._pace.restart(self._world.tick)
        if self.settings.lock_step:
            self._proceed()

    def _end(self, outcome: dict[str, object]) -> None:
        """End the episode, and begin the next one or end the node."""
        self._publish_episode(self._referee.end(self._world.stamp_ns, outcome))
        if self._referee.is_last:
            self._episodes.wait_for_all_acked(Duration(seconds=1.0))
            raise Finished
        self._announce()

    def _publish_episode(self, episode: Episode) -> None:
        self._episodes.publish(m.episode_message(episode))

    # --- a tick ------------------------------------------------------------------------------------------------------

    def _deliver(self) -> list[Frame]:
        frames = self._world.delivered_frames()
        self._show(frames)
        return frames

    def _show(self, frames: Iterable[Frame]) -> None:
        """Publish images, each with its camera_info."""
        self._shown_at = time.monotonic()
        for frame in frames:
            live = self._world.calibration
            K = self._camera.intrinsics.matrix() if live is None else live.K
            height, width = frame.image.shape[:2]
            lens = () if live is None or live.distortion is None else live.distortion
            self._camera_info.publish(m.camera_info_message(frame.stamp_ns, OPTICAL_FRAME, width, height, K, lens))
            self._image.publish(m.image_message(frame.stamp_ns, frame.image, OPTICAL_FRAME))

    def _measure(self) -> None:
        """Publish time and joints of this tick."""
        if self._world.tick % CLOCK_TICKS == 0:
            self._time.publish(Clock(clock=m.stamp_message(self._world.stamp_ns)))
        self._joint_states.publish(m.joint_state_message(self._world.joint_state(), self._arm))

    def _step(self) -> bool:
        """Take one step of physics with the newest command; return False if the episode ended."""
        started = time.perf_counter()
        with end_on_error("simulator"):
            self._world.step(self._trajectory, self._gripper_width)
        self._trajectory = None
        if self._world.captured:
            took = time.perf_counter() - started
            self._renders.add(took)
            self._frame_rate.add(took)
        outcome = self._world.outcome
        if outcome is not None:
            self._end(asdict(outcome))
        return outcome is None

    def _on_timer(self) -> None:
        """Run the ticks that are due in real time."""
        if self._referee.phase is not Phase.RUNNING:
            self._check_ready()
            return
        ticks, falls_behind = self._pace.due(self._world.tick)
        self._world.frame_stride = self._frame_rate.adapt(falls_behind)
        for _ in range(ticks):
            self._deliver()
            self._measure()
            if not self._step():
                return

    # --- lock step ---------------------------------------------------------------------------------------------------

    def _proceed(self) -> None:
        """Run until an answer of the graph is missing."""
        while self._referee.phase is Phase.RUNNING:
            if self._waiting is _Waiting.NOTHING:
                self._owed.update((frame.stamp_ns, frame) for frame in self._deliver())
                if self._owed:
                    self._wait(_Waiting.RESIDUAL)
                    return
            if self._waiting is not _Waiting.COMMAND:
                self._measure()
                self._wait(_Waiting.COMMAND)
                return
            self._wait(_Waiting.NOTHING)
            if not self._step():
                return

    def _wait(self, what: _Waiting) -> None:
        self._waiting, self._waiting_since = what, time.monotonic()

    def _on_lock_step_timer(self) -> None:
        if self._waiting is _Waiting.READY:
            self._check_ready()
            return
        waited = time.monotonic() - self._waiting_since
        if self._waiting is not _Waiting.NOTHING and waited > ANSWER_S:
            detail = f" for the image of {min(self._owed)} ns" if self._waiting is _Waiting.RESIDUAL else ""
            raise Finished(
                1,
                f"simulator: nothing on {self._waiting.value}{detail} after {ANSWER_S:g} s in lock step; "
                f"is the node that publishes it running? (safety/state: {self._safety_state})",
            )
        if self._waiting is _Waiting.RESIDUAL and time.monotonic() - self._shown_at > REPEAT_S:
            self.get_logger().warning(f"no answer to the image of {min(self._owed)} ns; publishing it again")
            self._show(self._owed.values())

    def _missing(self) -> list[str]:
        """Return the nodes that have not answered or are not connected."""
        referee = self._referee
        return list(dict.fromkeys([*referee.missing, *self._attendance.missing(referee.nodes, referee.waited_s)]))

    def _check_ready(self) -> None:
        missing = self._missing()
        if not missing:
            self._begin()
            return
        waited = self._referee.waited_s
        limit = FIRST_ANSWER_S if self._referee.number == 0 else ANSWER_S
        if waited > limit:
            sentence = f"no answer on episode/ready from {', '.join(missing)} after {limit:g} s"
            if self.settings.lock_step:
                raise Finished(1, f"simulator: {sentence}; is it running?")
            self.get_logger().warning(f"{sentence}; going on without")
            self._begin()

    # --- what the graph sends ----------------------------------------------------------------------------------------

    def _on_command(self, message: JointTrajectory) -> None:
        stamp = decode.stamp_ns(message.header.stamp)
        try:
            # In lock step a trajectory without points means that the controller sends nothing in this tick.
            trajectory = decode.trajectory_from_message(message, self._joint_names) if message.points else None
        except ConfigurationError as error:
            self._refused, self._refusal = self._refused + 1, str(error)
            return
        self._trajectory = trajectory
        if self._waiting is _Waiting.COMMAND and stamp == self._world.stamp_ns:
            self._proceed()

    def _on_gripper(self, message: JointTrajectory) -> None:
        if message.points and self._arm.gripper and set(message.joint_names) == self._finger_names:
            width = self._arm.gripper.width(message.points[-1].positions)
            self._gripper_width = width if np.isfinite(width) else self._gripper_width

    def _on_residual_applied(self, message: TwistStamped) -> None:
        self._owed.pop(decode.stamp_ns(message.header.stamp), None)
        if self._waiting is _Waiting.RESIDUAL and not self._owed:
            self._proceed()

    def _on_ready(self, message: String) -> None:
        answer = decode.ready_from_message(message)
        self._referee.on_ready(answer)
        if self._referee.phase is Phase.RESET and not self._missing():
            self._begin()

    def _on_safety_state(self, message: String) -> None:
        self._safety_state = str(SafetyState.from_json(message.data))

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._referee.phase is Phase.RUNNING:
            self._end({"success": False, "steps": 0, "distance_m": 0.0, "aborted": True})
        response.success, response.message = True, f"episode {self._referee.number} is being set up"
        return response

    # --- diagnostics -------------------------------------------------------------------------------------------------

    def _phase_name(self) -> str:
        return self._referee.phase.value if self._referee.phase else "starting"

    def _report(self) -> Report:
        now, tick = time.monotonic(), self._world.tick
        (before, tick_before), self._rate_mark = self._rate_mark, (now, tick)
        achieved = (tick - tick_before) * DT / max(now - before, 1e-6)
        values: dict[str, object] = {
            "episode": self._referee.number,
            "phase": self._phase_name(),
            "real_time_factor": achieved,
            "behind_s": self._pace.behind_s,
            "commands_refused": self._refused,
            "camera_rate_hz": self._camera.rate_hz / self._world.frame_stride,
        } | self._renders.values("render")
        if self._refusal:
            return Report(Level.WARN, self._refusal, values)
        if self._world.frame_stride > 1:
            rate = self._camera.rate_hz
            sentence = f"drawing takes {1000 * self._frame_rate.render_s:.0f} ms: the camera runs at"
            return Report(Level.WARN, f"{sentence} {rate / self._world.frame_stride:.0f} of {rate:.0f} Hz", values)
        slow = not self.settings.lock_step and self._referee.phase is Phase.RUNNING
        if slow and achieved < 0.9 * self.settings.real_time_factor:
            return Report(
                Level.WARN, f"real-time factor is {achieved:.2f}: this machine is too slow or too busy", values
            )
        return Report(Level.OK, self._phase_name(), values)

    def close(self) -> None:
        """Free the physics server's memory."""
        self._world.close()


def _camera(contract: CameraContract, settings: SimulatorSettings) -> CameraContract:
    """Return the bundle's camera, or one at the same place with another image size and rate."""
    width, height = settings.image_width or contract.width, settings.image_height or contract.height
    rate = settings.image_rate_hz or contract.rate_hz
    if TICKS_PER_SECOND % rate:
        raise ConfigurationError(
            f"simulator parameters: image_rate_hz is {rate:g}, expected a whole fraction of {TICKS_PER_SECOND} Hz, "
            "such as 15, 30 or 60"
        )
    scale, own = height / contract.height, contract.intrinsics
    intrinsics = Intrinsics(
        fx=own.fx * scale,
        fy=own.fy * scale,
        # A cell's principal point may lie beside the middle.
        cx=(width - 1) / 2 + scale * (own.cx - (contract.width - 1) / 2),
        cy=(height - 1) / 2 + scale * (own.cy - (contract.height - 1) / 2),
    )
    if (width, height) == (contract.width, contract.height):
        intrinsics = contract.intrinsics
    return contract.model_copy(update={"width": width, "height": height, "intrinsics": intrinsics, "rate_hz": rate})


def main() -> None:
    """Entry point of the executable `simulator`."""
    sys.exit(run(Simulator))


if __name__ == "__main__":
    main()
