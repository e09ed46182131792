"""A robot that takes notes, a small scene, and a desk with a clock, for tests of the operator's page."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from rlfp_ros.control.arm import load_arm
from rlfp_ros.control.safety.takeover import Shares
from rlfp_ros.operator.action import Action
from rlfp_ros.operator.desk import Desk
from rlfp_ros.operator.open_page import Page
from rlfp_ros.operator.robot import Controller
from rlfp_ros.operator.seen_image import SeenImage
from rlfp_ros.perception.camera import CameraModel
from rlfp_ros.recording.bag_list import LabelRequest, RecorderState

CAMERA = CameraModel(64, 48, np.array([[60.0, 0.0, 31.5], [0.0, 60.0, 23.5], [0.0, 0.0, 1.0]]))
# Looks straight down from 1 m above (0.5, 0): image right is -y, image down is -x.
T_BASE_CAMERA = np.array([[0.0, -1.0, 0.0, 0.5], [-1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, 1.0], [0.0, 0.0, 0.0, 1.0]])


class NotedRobot:
    """Implements `operator.desk.Robot` and keeps what it was told."""

    def __init__(self) -> None:
        self.beats = self.stops = 0
        self.leases: list[str] = []
        self.jogs: list[tuple[str, Shares, Shares]] = []
        self.calls: list[Action] = []
        self.gains: list[float] = []
        self.goals: list[tuple[np.ndarray, int]] = []
        self.lines: list[dict[str, Any]] = []
        self.answer = (True, "done")

    def beat(self, lease: str) -> None:
        self.beats += 1
        self.leases.append(lease)

    def jog(self, lease: str, linear: Shares, angular: Shares) -> None:
        self.jogs.append((lease, linear, angular))

    def stop(self) -> None:
        self.stops += 1

    def call(self, action: Action, answered: Callable[[bool, str], None]) -> None:
        self.calls.append(action)
        answered(*self.answer)

    def set_gain(self, value: float, answered: Callable[[bool, str], None]) -> None:
        self.gains.append(value)
        answered(True, "set")

    def send_goal(self, point: np.ndarray, stamp_ns: int) -> None:
        self.goals.append((point, stamp_ns))

    def record(self, line: dict[str, Any]) -> None:
        self.lines.append(line)


class NotedRecorder:
    """Implements `operator.robot.Recorder` and keeps what it was told."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.labels: list[LabelRequest] = []
        self.answer = (True, "recording_0001")

    def start(self, answered: Callable[[bool, str], None]) -> None:
        self.calls.append("start")
        answered(*self.answer)

    def stop(self, answered: Callable[[bool, str], None]) -> None:
        self.calls.append("stop")
        answered(*self.answer)

    def label(self, request: LabelRequest, answered: Callable[[bool, str], None]) -> None:
        self.labels.append(request)
        answered(*self.answer)


def seen_image(number: int = 1, received_s: float = 0.0, **parts: Any) -> SeenImage:
    image = np.full((48, 64, 3), (200, 40, 30), np.uint8)
    return SeenImage(number, 5_000_000_000, received_s, 0.02, image, CAMERA, T_BASE_CAMERA, **parts)


def controller(**changes: Any) -> Controller:
    values: dict[str, Any] = {
        "bundle": "push_panda",
        "task": "push",
        "takes_goal": True,
        "arm": load_arm("panda"),
        "gain": 1.0,
        "gain_range": (0.0, 1.0),
        "gain_description": "share of the residual (1)",
        "dry_run": False,
        "step_by_step": False,
        "require_heartbeat": True,
        "heartbeat_timeout_s": 0.5,
        "shift_slow": 0.8,
        "shift_hold": 0.95,
        "jog_scale": 0.25,
    }
    return Controller(**(values | changes))


class Clock:
    """A clock that the test sets, s."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Setting:
    """A desk with its robot and clock."""

    def __init__(self) -> None:
        self.robot, self.clock = NotedRobot(), Clock()
        self.desk = Desk(self.robot, self.clock)
        self.desk.on_controller(controller())
        self.recorder = NotedRecorder()
        self.desk.recording.recorder = self.recorder

    def recorder_reports(self, **fields: Any) -> None:
        self.desk.recording.on_state(
            RecorderState(**{"recording": True, "bag": "recording_0001"} | fields), self.clock()
        )

    def send(self, page: Page, type: str, **fields: Any) -> None:
        self.desk.receive(page, json.dumps({"type": type, **fields}))

    def beat(self, page: Page, age_s: float = 0.0) -> None:
        self.send(page, "beat", shown=round(1e3 * (self.clock.now - age_s)))
