"""The graph as the operator's desk sees it: what it calls, and what it knows of the controller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from rlfp_ros.control.arm import Arm
from rlfp_ros.control.safety.takeover import Shares
from rlfp_ros.operator.action import Action
from rlfp_ros.recording.bag_list import LabelRequest

Answered = Callable[[bool, str], None]


class Robot(Protocol):
    """The graph as the desk sees it. Every method returns at once; `answered` may be called in any thread."""

    def beat(self, lease: str) -> None:
        """Publish the operator's heartbeat; `lease` names the operator's place."""

    def jog(self, lease: str, linear: Shares, angular: Shares) -> None:
        """Publish a person's velocity for the tool, as shares of the highest jog speeds."""

    def stop(self) -> None:
        """Publish the e-stop."""

    def call(self, action: Action, answered: Answered) -> None:
        """Call a service of the controller."""

    def set_gain(self, value: float, answered: Answered) -> None:
        """Set the controller's `residual_gain`."""

    def send_goal(self, point: np.ndarray, stamp_ns: int) -> None:
        """Publish a goal [3] m in the base frame."""

    def record(self, line: dict[str, Any]) -> None:
        """Publish one line of the record of commands, which goes into the bag."""


class Recorder(Protocol):
    """The recorder as the desk sees it. Every method returns at once; `answered` may be called in any thread."""

    def start(self, answered: Answered) -> None:
        """Begin a bag."""

    def stop(self, answered: Answered) -> None:
        """End the bag."""

    def label(self, request: LabelRequest, answered: Answered) -> None:
        """Label a bag."""


@dataclass(frozen=True)
class Controller:
    """What the page needs to know of the controller's parameters and of the bundle."""

    bundle: str
    task: str
    takes_goal: bool
    arm: Arm | None  # None if the bundle cannot be loaded on this computer
    gain: float
    gain_range: tuple[float, float]
    gain_description: str
    dry_run: bool
    step_by_step: bool
    require_heartbeat: bool
    heartbeat_timeout_s: float
    shift_slow: float
    shift_hold: float
    jog_scale: float = 0.0  # share of the tool's speed limits
    note: str = ""  # what is not possible here, and why

    def shown(self) -> dict[str, Any]:
        """Return what the page shows of it."""
        return {
            "bundle": self.bundle,
            "task": self.task,
            "takes_goal": self.takes_goal,
            "arm": self.arm.name if self.arm else "",
            "gain": self.gain,
            "gain_range": list(self.gain_range),
            "gain_description": self.gain_description,
            "dry_run": self.dry_run,
            "step_by_step": self.step_by_step,
            "require_heartbeat": self.require_heartbeat,
            "heartbeat_timeout_s": self.heartbeat_timeout_s,
            "shift_slow": self.shift_slow,
            "shift_hold": self.shift_hold,
            "jog_m_s": round(self.jog_scale * self.arm.tool_limits.speed, 3) if self.arm else None,
            "note": self.note,
        }
