"""Conditions for enabling an arm: compares what the drivers send with what the policy needs, line by line.

ROS-free: the node `checklist` fills in what it receives, `Checklist.report` judges it, and the residual controller uses
the report. Every line names what was found and, if it is not green, what to do.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from rlfp_ros.contract import CameraContract, Contract
from rlfp_ros.control.arm import Arm, JointState
from rlfp_ros.control.joint_faults import not_finite
from rlfp_ros.perception.extrinsics import is_estimated, load_extrinsics, pose_difference
from rlfp_ros.schema import Schema

WINDOW_S = 2.0  # window over which rates and ages are computed
SILENT_S = 1.0  # a topic without a message for this long is silent
RATE_TOLERANCE = 0.2  # share by which the policy's inputs may be slower or faster than in training
STANDING_RAD_S = 0.05  # measured speed below this is noise, as in the residual controller


class ChecklistSettings(Schema):
    """Limits for a green line."""

    home_tolerance_rad: float = Field(
        default=0.2,
        gt=0,
        le=3.2,
        description="how far a joint may be from home, where episodes start in training (rad)",
    )
    camera_max_age_s: float = Field(
        default=0.3, gt=0, le=5, description="highest age by stamp of an image's features (s)"
    )
    joint_max_age_s: float = Field(default=0.1, gt=0, le=5, description="highest age by stamp of joint_states (s)")
    future_tolerance_s: float = Field(default=0.02, ge=0, le=1, description="how far a stamp may lie in the future (s)")
    joint_rate_hz: float = Field(default=50.0, gt=0, le=10_000, description="lowest rate of joint_states (Hz)")
    shift_limit: float = Field(default=0.95, gt=0, le=1, description="domain shift at which the arm would hold (1)")
    require_heartbeat: bool = Field(default=True, description="operator/heartbeat must come")


class Line(Schema):
    """One line of the list."""

    name: str
    ok: bool
    found: str
    fix: str = ""  # what to do if it is not ok

    def __str__(self) -> str:
        return f"{self.name}: {self.found}" + (f"; {self.fix}" if self.fix and not self.ok else "")


class ChecklistReport(Schema):
    """The whole list at one time: `safety/checklist` as JSON."""

    lines: tuple[Line, ...]

    @property
    def ready(self) -> bool:
        """Whether every line is green."""
        return all(line.ok for line in self.lines)

    @property
    def refusal(self) -> str:
        """The reason why the arm is not enabled, in one sentence; empty if it may be."""
        return "; ".join(str(line) for line in self.lines if not line.ok)


class Flow:
    """The messages of one topic: their rate, and their age by stamp."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self._seen: deque[tuple[int, int, int]] = deque()  # received (steady), stamp, age by stamp; ns

    def saw(self, stamp_ns: int, now_ns: int, clock_ns: int) -> None:
        """Count a message that came at `now_ns` on the steady clock and at `clock_ns` on the clock of the stamps."""
        self._seen.append((now_ns, stamp_ns, clock_ns - stamp_ns))
        while now_ns - self._seen[0][0] > WINDOW_S * 1e9:
            self._seen.popleft()

    def silent(self, now_ns: int) -> bool:
        """Return whether no message has come for `SILENT_S`."""
        return not self._seen or now_ns - self._seen[-1][0] > SILENT_S * 1e9

    @property
    def rate_hz(self) -> float:
        """The rate by stamps, which does not depend on the load of the receiver; 0 if it is not known."""
        gaps = np.diff(np.array([stamp * 1e-9 for _, stamp, _ in self._seen]))
        gaps = gaps[gaps > 0]
        return 1.0 / float(np.median(gaps)) if len(gaps) else 0.0

    @property
    def age_s(self) -> float:
        """Median age by stamp; negative if stamps lie in the future."""
        return float(np.median([age for *_, age in self._seen])) * 1e-9 if self._seen else math.inf


@dataclass(frozen=True)
class CommandTaker:
    """The nodes that take the arm's commands, as the ROS graph lists them."""

    takers: tuple[str, ...]  # nodes that subscribe with the right type
    strangers: tuple[str, ...] = ()  # nodes that publish there besides the residual controller
    other_type: str = ""  # a node subscribes, but with this message type


class Checklist:
    """Collects what the node receives and makes reports of it. Times are ns of the steady clock."""

    def __init__(
        self, contract: Contract, arm: Arm, settings: ChecklistSettings, extrinsics: str, command_topic: str
    ) -> None:
        """`extrinsics`: a calibration file, "bundle", or empty if the camera's pose was not given."""
        self._contract, self._arm, self._settings = contract, arm, settings
        self._command_topic = command_topic
        self._extrinsics = extrinsics_line(extrinsics, contract.camera)  # raises what perception would raise
        self.features = Flow("perception/features")
        self.joint_states = Flow("joint_states")
        self.residual = Flow("policy/residual")
        self.heartbeat = Flow("operator/heartbeat")
        self.perception = ""  # fault that its diagnostics report
        self.camera = ""  # how its images are preprocessed; empty while this is not known
        self.policy = ""  # fault that its diagnostics report
        self.driver = ""  # fault that the node arm_driver reports, if it drives the arm
        self.shift: float | None = None
        self.joints: JointState | None = None
        self.joints_fault = ""  # why the last joint_states message could not be read
        self.command = CommandTaker(())

    def report(self, now_ns: int) -> ChecklistReport:
        """Return all lines as of now."""
        return ChecklistReport(
            lines=(
                self._camera_line(),
                self._features_line(now_ns),
                self._shift_line(),
                self._extrinsics,
                self._joints_line(now_ns),
                self._home_line(now_ns),
                self._policy_line(now_ns),
                self._command_line(),
                *self._heartbeat_lines(now_ns),
            )
        )

    # --- camera -----------------------------------------------------------------------------------------------------

    def _camera_line(self) -> Line:
        fix = (
            "correct it at the camera's driver (docs/how-to/hardware/) or with camera:=, image_topic:=, "
            "camera_info_topic:="
        )
        if self.perception:
            return Line(name="camera", ok=False, found=self.perception, fix=fix)
        if not self.camera:
            return Line(name="camera", ok=False, found="the perception node reports nothing", fix="look at its log")
        return Line(name="camera", ok=True, found=self.camera)

    def _features_line(self, now_ns: int) -> Line:
        rate = self._contract.camera.rate_hz
        return self._flow_line(
            "images",
            self.features,
            now_ns,
            (rate * (1 - RATE_TOLERANCE), rate * (1 + RATE_TOLERANCE)),
            self._settings.camera_max_age_s,
            "start the camera's driver, or say which camera it is with camera:=",
        )

    def _shift_line(self) -> Line:
        if self.shift is None:
            return Line(name="scene", ok=False, found="no domain shift yet", fix="it comes with the images")
        limit = self._settings.shift_limit
        return Line(
            name="scene",
            ok=self.shift <= limit,
            found=f"domain shift {self.shift:.2f}, expected at most {limit:g}",
            fix="look at perception/overlay: light, exposure, the camera's place, what else is in view",
        )

    # --- arm --------------------------------------------------------------------------------------------------------

    def _joints_line(self, now_ns: int) -> Line:
        if self.driver:
            return Line(name="joint_states", ok=False, found=self.driver)
        if self.joints_fault and self.joint_states.silent(now_ns):
            return Line(name="joint_states", ok=False, found=self.joints_fault)
        return self._flow_line(
            "joint_states",
            self.joint_states,
            now_ns,
            (self._settings.joint_rate_hz, math.inf),
            self._settings.joint_max_age_s,
            "start the arm's driver and its joint_state_broadcaster, or set joint_states_topic:=",
        )

    def _home_line(self, now_ns: int) -> Line:
        arm, state = self._arm, self.joints
        if state is None or self.joint_states.silent(now_ns):
            return Line(name="home", ok=False, found="the joints are not known", fix="see joint_states")
        fault = not_finite(state, arm.joint_names)
        if fault:
            return Line(name="home", ok=False, found=fault, fix="let the arm's driver publish measured values")
        outside = [
            f"{name} is at {position:.3f} rad, expected {low:g} to {high:g}"
            for name, position, low, high in zip(
                arm.joint_names, state.positions, arm.limits.lower, arm.limits.upper, strict=True
            )
            if not low <= position <= high
        ]
        if outside:
            return Line(
                name="home",
                ok=False,
                found=outside[0],
                fix=f"move it inside its limits; if it already is, correct {arm.origin}",
            )
        speed = float(np.abs(state.velocities).max())
        if speed > STANDING_RAD_S:
            found = f"the arm moves at {speed:.2f} rad/s"
            return Line(name="home", ok=False, found=found, fix="let it stand; end other programs that move it")
        distance = np.abs(state.positions - np.array(arm.home))
        farthest, limit = int(np.argmax(distance)), self._settings.home_tolerance_rad
        return Line(
            name="home",
            ok=bool(distance[farthest] <= limit),
            found=f"{arm.joint_names[farthest]} is {distance[farthest]:.3f} rad from home, expected at most {limit:g}",
            fix=f"move the arm to {[round(angle, 3) for angle in arm.home]} (home in {arm.origin})",
        )

    def _policy_line(self, now_ns: int) -> Line:
        if self.policy:
            return Line(name="policy", ok=False, found=self.policy)
        rate = self._contract.action.rate_hz
        return self._flow_line(
            "policy",
            self.residual,
            now_ns,
            (rate * (1 - RATE_TOLERANCE), rate * (1 + RATE_TOLERANCE)),
            self._settings.camera_max_age_s,
            "it acts once images and joint_states come; look at its log",
        )

    def _command_line(self) -> Line:
        topic, found = self._command_topic, self.command
        if found.other_type:
            return Line(
                name="controller",
                ok=False,
                found=f"{topic} is taken as {found.other_type}",
                fix="set command_interface:= to what the controller is",
            )
        if not found.takers:
            return Line(
                name="controller",
                ok=False,
                found=f"no node takes commands on {topic}",
                fix="activate the controller (ros2 control list_controllers), or set controller_name:=",
            )
        if found.strangers:
            return Line(
                name="controller",
                ok=False,
                found=f"{', '.join(found.strangers)} sends commands on {topic} too",
                fix="end it: one program moves an arm",
            )
        return Line(name="controller", ok=True, found=f"{', '.join(found.takers)} takes commands on {topic}")

    def _heartbeat_lines(self, now_ns: int) -> tuple[Line, ...]:
        if not self._settings.require_heartbeat:
            return ()
        silent = self.heartbeat.silent(now_ns)
        return (
            Line(
                name="heartbeat",
                ok=not silent,
                found="silent" if silent else "comes",
                fix=f"publish {self.heartbeat.topic} ten times a second from the place of the e-stop",
            ),
        )

    # --- any topic --------------------------------------------------------------------------------------------------

    def _flow_line(
        self, name: str, flow: Flow, now_ns: int, rates_hz: tuple[float, float], max_age_s: float, silent_fix: str
    ) -> Line:
        if flow.silent(now_ns):
            return Line(name=name, ok=False, found=f"nothing comes on {flow.topic}", fix=silent_fix)
        age, rate = flow.age_s, flow.rate_hz
        found = f"{rate:.1f} Hz, {1e3 * age:.0f} ms old"
        if age < -self._settings.future_tolerance_s or age > max_age_s:
            side = "ahead of" if age < 0 else "behind"
            return Line(
                name=name,
                ok=False,
                found=f"stamps on {flow.topic} are {abs(age):.3f} s {side} this machine's clock, "
                f"expected 0 to {max_age_s:g} s",
                fix="let the driver stamp with the system clock, synchronise the machines (chrony), or find the delay",
            )
        if not rates_hz[0] <= rate <= rates_hz[1]:
            expected = f"at least {rates_hz[0]:g}" if math.isinf(rates_hz[1]) else f"{rates_hz[0]:g} to {rates_hz[1]:g}"
            return Line(
                name=name,
                ok=False,
                found=f"{flow.topic} comes at {rate:.1f} Hz, expected {expected} Hz",
                fix="set the driver's rate; if that is right, this machine is too busy",
            )
        return Line(name=name, ok=True, found=found)


def extrinsics_line(extrinsics: str, camera: CameraContract) -> Line:
    """Compare the camera's pose with that of training. Raises ConfigurationError as `load_extrinsics` does."""
    tolerance = f"expected at most {camera.tolerance.xyz_m:g} m and {math.degrees(camera.tolerance.angle_rad):.1f} deg"
    if not extrinsics:
        return Line(
            name="extrinsics",
            ok=False,
            found="the camera's pose was not given",
            fix="run ./rlfp calibrate extrinsics and give extrinsics:=FILE, or extrinsics:=bundle if it is there",
        )
    if extrinsics == "bundle":
        return Line(name="extrinsics", ok=True, found="taken from the bundle, not calibrated")
    distance, angle = pose_difference(load_extrinsics(extrinsics, camera), camera.T_base_camera.matrix())
    if is_estimated(extrinsics):
        return Line(
            name="extrinsics",
            ok=False,
            found=f"the camera's pose in {extrinsics} is an estimate",
            fix=f"run ./rlfp calibrate extrinsics --cell {extrinsics}",
        )
    found = f"{distance:.4f} m and {math.degrees(angle):.2f} deg from the bundle's, {tolerance}"
    return Line(name="extrinsics", ok=True, found=found)
